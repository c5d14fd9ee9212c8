//! What sealing a 4 KiB block costs: `cargo run --release -p caisson-log --example sealspeed`.
//!
//! AWS-LC, as the keyring uses it, beside the pure Rust crates, and what the keyring adds. One thread; each figure is the best
//! of many short rounds, since whatever else the machine does only adds to it.

use aes_gcm::Aes256Gcm;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use caisson_keys::Secret;
use caisson_log::*;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use std::hint::black_box;
use std::time::Instant;

const BLOCK: usize = 4096;
const ROUNDS: usize = 500;
const CALLS: u32 = 500;
const AAD: [u8; 40] = [5; 40];

/// The best round's nanoseconds a call. `call` is given a number that it may make a nonce of.
fn measure(name: &str, mut call: impl FnMut(u64)) -> f64 {
    let mut best = f64::MAX;
    let mut number = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            number += 1;
            call(number);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    println!("{name:<58}{best:>8.0} ns{:>8.2} GB/s", BLOCK as f64 / best);
    best
}

fn nonce(number: u64) -> [u8; NONCE] {
    At { opening: 0, sequence: number, offset: 0 }.nonce()
}

fn aws(name: &str, algorithm: &'static Algorithm) -> f64 {
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &[3; 32]).expect("32 bytes"));
    let plain = [7; BLOCK];
    let mut out = [0; BLOCK + TAG];
    measure(name, |number| {
        let nonce = Nonce::assume_unique_for_key(nonce(number));
        let (body, tag) = out.split_at_mut(BLOCK);
        key.seal_out_of_place_scatter(nonce, Aad::from(AAD), &plain, body, &[], tag).expect("lengths agree");
        black_box(&out);
    })
}

fn rust<C: KeyInit + AeadInOut<NonceSize = aes_gcm::aead::consts::U12>>(name: &str) -> f64 {
    let cipher = C::new_from_slice(&[3; 32]).expect("32 bytes");
    let mut out = [7; BLOCK];
    measure(name, |number| {
        let nonce = nonce(number);
        let tag = cipher.encrypt_inout_detached((&nonce).into(), &AAD, out.as_mut_slice().into());
        black_box(tag.expect("short enough"));
    })
}

fn keyring(cipher: Cipher) -> (f64, f64) {
    let secret = Secret::take(&mut [1; 32]);
    let keyring = Keyring::new(PoolId([1; 16]), cipher, [((1, 1), secret)]).expect("one secret");
    keyring.add_opening(1, [2; 32]).expect("one opening");
    let kind = RecordKind::Block;
    let bind = Bind { domain: 1, epoch: 1, id: 9, kind, length: BLOCK as u16, codec: 0 };
    let at = At { opening: 1, sequence: 1, offset: 0 };
    let (plain, mut sealed, mut out) = ([7; BLOCK], [0; BLOCK + TAG], [0; BLOCK]);
    let seal = measure(&format!("{cipher:?}: Keyring::seal"), |number| {
        let at = At { sequence: number, ..at };
        keyring.seal(at, &bind, &plain, &mut sealed).expect("a key is there");
        black_box(&sealed);
    });
    keyring.seal(at, &bind, &plain, &mut sealed).expect("a key is there");
    let open = measure(&format!("{cipher:?}: Keyring::open_into"), |_| {
        keyring.open_into(at, &bind, &sealed, &mut out).expect("it was sealed");
        black_box(&out);
    });
    (seal, open)
}

fn main() {
    println!("this CPU would choose {:?}", Cipher::auto());
    let chacha = aws("ChaCha20Poly1305: aws-lc-rs", &CHACHA20_POLY1305);
    let chacha_rust = rust::<ChaCha20Poly1305>("ChaCha20Poly1305: chacha20poly1305");
    keyring(Cipher::ChaCha20Poly1305);
    let aes = aws("Aes256Gcm: aws-lc-rs", &AES_256_GCM);
    let aes_rust = rust::<Aes256Gcm>("Aes256Gcm: aes-gcm");
    keyring(Cipher::Aes256Gcm);
    println!(
        "pure Rust over AWS-LC: ChaCha20-Poly1305 {:.1}x, AES-256-GCM {:.1}x",
        chacha_rust / chacha,
        aes_rust / aes
    );
}
