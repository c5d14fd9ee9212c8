//! The keyring: keys of their own for each domain, epoch and opening, a bounded cache, many threads.

mod common;

use caisson_keys::Secret;
use caisson_log::*;
use common::*;
use std::sync::atomic::{AtomicBool, Ordering};

const AT: At = At { opening: OPENING, sequence: 1, offset: 4096 };

fn seal(keyring: &Keyring, at: At, bind: &Bind) -> Result<Vec<u8>, SealError> {
    let plain = vec![0x11; bind.length.into()];
    let mut out = vec![0; plain.len() + TAG];
    keyring.seal(at, bind, &plain, &mut out).map(|()| out)
}

fn opens(keyring: &Keyring, at: At, bind: &Bind, sealed: &[u8]) -> bool {
    let mut place = sealed.to_vec();
    let mut out = vec![0; sealed.len() - TAG];
    let (a, b) =
        (keyring.open(at, bind, &mut place).is_ok(), keyring.open_into(at, bind, sealed, &mut out).is_ok());
    assert_eq!(a, b, "both ways agree");
    assert!(!a || (out.iter().all(|byte| *byte == 0x11) && place[..out.len()] == out));
    a
}

#[test]
fn everything_that_a_seal_binds_matters() {
    for cipher in CIPHERS {
        let keyring = keyring(cipher);
        let bind = block(77, 50).bind();
        let sealed = seal(&keyring, AT, &bind).unwrap();
        assert!(opens(&keyring, AT, &bind, &sealed));
        for other in [
            Bind { domain: 2, ..bind },
            Bind { domain: 0, ..bind },
            Bind { epoch: 2, ..bind },
            Bind { id: 78, ..bind },
            Bind { id: bind.id | 1 << 47, ..bind },
            Bind { kind: RecordKind::MapPage, ..bind },
            Bind { codec: 0, ..bind },
        ] {
            assert!(!opens(&keyring, AT, &other, &sealed), "{other:?}");
        }
        for other in [
            At { opening: OPENING + 1, ..AT },
            At { sequence: 2, ..AT },
            At { sequence: 1 << 63 | 1, ..AT },
            At { offset: 4097, ..AT },
        ] {
            assert!(!opens(&keyring, other, &bind, &sealed), "{other:?}");
        }
        let length = Bind { length: 49, ..bind };
        let error = keyring.open(AT, &length, &mut sealed.clone()).unwrap_err();
        assert_eq!(error, OpenError::Length { sealed: 66, length: 49 });
        assert!(!opens(&keyring, AT, &length, &sealed[..65]));
    }
}

/// Same place, same bytes, another key: each (pool, domain, epoch, opening, cipher) has its own.
#[test]
fn no_two_keys_are_alike() {
    let mut seen = std::collections::HashSet::new();
    for pool in [POOL, PoolId(*b"another pool 123")] {
        for cipher in CIPHERS {
            let keyring = Keyring::new(pool, cipher, []).unwrap();
            // One secret for all, so that only what is derived from it differs.
            for (domain, epoch) in [(0, 1), (1, 1), (1, 2), (1, 256), (256, 1)] {
                keyring.add_secret(domain, epoch, secret(1, 1)).unwrap();
            }
            for opening in [1, 2] {
                keyring.add_opening(opening, salt(opening)).unwrap();
                for (domain, epoch) in [(0, 1), (1, 1), (1, 2), (1, 256), (256, 1)] {
                    let bind = Bind { domain, epoch, ..block(1, 64).bind() };
                    let sealed = seal(&keyring, At { opening, ..AT }, &bind).unwrap();
                    assert!(seen.insert(sealed[..64].to_vec()), "{pool} {cipher:?} {bind:?}");
                }
            }
        }
    }
    assert_eq!(seen.len(), 2 * 2 * 2 * 5);
}

#[test]
fn keys_that_were_forgotten_are_gone() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let bind = block(1, 10).bind();
    let sealed = seal(&keyring, AT, &bind).unwrap();
    keyring.forget_secret(1, 1);
    let no_key = SealError::NoKey { domain: 1, epoch: 1 };
    assert_eq!(seal(&keyring, AT, &bind), Err(no_key));
    let error = keyring.open(AT, &bind, &mut sealed.clone()).unwrap_err();
    assert_eq!(error, OpenError::NoKey { domain: 1, epoch: 1 });
    keyring.add_secret(1, 1, secret(1, 1)).unwrap();
    assert!(opens(&keyring, AT, &bind, &sealed));
    keyring.forget_opening(OPENING);
    assert_eq!(seal(&keyring, AT, &bind), Err(SealError::NoOpening { opening: OPENING }));
    let error = keyring.open(AT, &bind, &mut sealed.clone()).unwrap_err();
    assert_eq!(error, OpenError::NoOpening { opening: OPENING });
}

#[test]
fn what_contradicts_is_not_added() {
    let keyring = keyring(Cipher::Aes256Gcm);
    assert_eq!(keyring.add_opening(OPENING, salt(OPENING)), Ok(()));
    assert_eq!(keyring.add_opening(OPENING, salt(1)), Err(KeyringError::Taken("salt for this opening")));
    assert_eq!(keyring.add_secret(1, 1, secret(1, 1)), Ok(()));
    assert!(matches!(keyring.add_secret(1, 1, secret(1, 2)), Err(KeyringError::Taken(_))));
    let short = Secret::take(&mut [1; 31]);
    assert_eq!(keyring.add_secret(9, 1, short), Err(KeyringError::Length { domain: 9, epoch: 1, len: 31 }));
    let full = (0..=MAX_OPENINGS as u32).find_map(|n| keyring.add_opening(1000 + n, [0; 32]).err());
    assert_eq!(full, Some(KeyringError::Full("openings")));
}

/// Many more keys than the cache has room for: each still opens what it sealed.
#[test]
fn the_cache_is_bounded_and_forgets_nothing_that_matters() {
    let keyring = keyring(Cipher::ChaCha20Poly1305);
    let openings = 100..100 + 3 * CACHED_CONTEXTS as u32;
    let bind = block(5, 20).bind();
    let sealed: Vec<(At, Vec<u8>)> = openings
        .map(|opening| {
            keyring.add_opening(opening, salt(opening).map(|byte| byte ^ (opening >> 8) as u8)).unwrap();
            let at = At { opening, ..AT };
            (at, seal(&keyring, at, &bind).unwrap())
        })
        .collect();
    for (at, sealed) in sealed.iter().chain(sealed.iter().rev()) {
        assert!(opens(&keyring, *at, &bind, sealed), "{at:?}");
    }
}

/// Threads that seal and open under more keys than the cache holds, while openings come and go.
#[test]
fn threads_share_a_keyring() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let bind = block(5, 100).bind();
    for opening in 1000..1400 {
        keyring.add_opening(opening, [opening as u8; 32]).unwrap();
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=3)
            .map(|seed| {
                let (keyring, bind) = (&keyring, &bind);
                scope.spawn(move || {
                    let mut numbers = Numbers(seed);
                    for _ in 0..20_000 {
                        let opening = 1000 + numbers.below(400) as u32;
                        let at = At { opening, sequence: numbers.next(), offset: 0 };
                        let sealed = seal(keyring, at, bind).unwrap();
                        assert!(opens(keyring, at, bind, &sealed));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                keyring.add_opening(5000, [1; 32]).unwrap();
                let at = At { opening: 5000, ..AT };
                assert!(seal(&keyring, at, &bind).is_ok());
                keyring.forget_opening(5000);
                assert!(seal(&keyring, at, &bind).is_err());
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
}

/// A record is sealed and opened without an allocation of ours, once its key is in the cache.
#[test]
fn records_cost_no_allocation() {
    for cipher in CIPHERS {
        let keyring = keyring(cipher);
        let bind = block(5, 4096).bind();
        let (plain, mut sealed, mut out) = (vec![1; 4096], vec![0; 4096 + TAG], vec![0; 4096]);
        keyring.seal(AT, &bind, &plain, &mut sealed).unwrap();
        let counted = allocation_counter::measure(|| {
            for offset in 1..100 {
                let at = At { offset, ..AT };
                keyring.seal(at, &bind, &plain, &mut sealed).unwrap();
                keyring.open_into(at, &bind, &sealed, &mut out).unwrap();
                keyring.open(at, &bind, &mut sealed).unwrap();
            }
        });
        assert_eq!(counted.count_total, 0, "{cipher:?}");
    }
}
