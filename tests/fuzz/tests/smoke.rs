//! Every fuzz body on the corpus, on random bytes and on what proptest makes, so that `cargo test` exercises them.

use caisson_fuzz::BODIES;
use proptest::prelude::*;
use std::path::Path;

#[test]
fn corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, body) in BODIES {
        let mut seeds = 0;
        for entry in std::fs::read_dir(root.join(name)).expect("each body has a corpus") {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0, "{name} has no seeds");
    }
}

/// The same random bytes each time: xorshift from a fixed seed.
#[test]
fn random_bytes() {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    for round in 0..1500 {
        let len = (next() % if round % 10 == 0 { 8000 } else { 600 }) as usize;
        let bytes: Vec<u8> = (0..len).map(|_| next() as u8).collect();
        for (_, body) in BODIES {
            body(&bytes);
        }
    }
}

/// What the loopback shows is worth something only when commands go through it.
#[test]
fn the_loopback_carries_commands() {
    let mut x = 1u64;
    let mut total = 0;
    for _ in 0..100 {
        let bytes: Vec<u8> = (0..3000)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 56) as u8
            })
            .collect();
        total += caisson_fuzz::loopback_completed(&bytes);
    }
    assert!(total > 1000, "{total} commands");
}

/// The same of the pool's format: its seeds are what the decoders accept, so that changes to them go deep.
#[test]
fn the_log_seeds_decode() {
    let seed = |name: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/log").join(name)).unwrap()
    };
    assert_eq!(caisson_log::decode_body(&seed("body"), 300, 4096).unwrap().0.len(), 3);
    assert_eq!(caisson_log::RootHead::decode(&seed("head")).unwrap().blobs.len(), 2);
    assert_eq!(caisson_log::decode_openings(&seed("lists")).unwrap().len(), 2);
    assert!(
        caisson_log::Anchor::decode(&seed("anchor")).is_ok()
            && caisson_log::decode_prefix(&seed("batch")).is_ok()
    );
    let mut copy = seed("superblock-front");
    copy.resize(caisson_log::SUPERBLOCK, 0);
    let sum = caisson_log::superblock_sum(&copy);
    copy[224..256].copy_from_slice(&sum);
    assert_eq!(caisson_log::Superblock::decode_plain(&copy).unwrap().slots.len(), 3);
}

/// Seeds of the pool's format with some bytes changed, the same ones each time: what random bytes alone never reach.
#[test]
fn changed_log_seeds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/log");
    let mut x = 7u64;
    let mut next = |below: usize| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as usize % below
    };
    for entry in std::fs::read_dir(folder).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        for _ in 0..400 {
            let mut bytes = seed.clone();
            for _ in 0..=next(3) {
                let at = next(bytes.len().min(700));
                bytes[at] = [0, 1, 0xff, next(256) as u8][next(4)];
            }
            bytes.truncate(bytes.len() - next(2) * next(bytes.len()));
            caisson_fuzz::log(&bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Host and controller joined, under any fragmentation, digests, alignments and sizes.
    #[test]
    fn loopback_agrees_with_its_model(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        caisson_fuzz::loopback(&bytes);
    }

    #[test]
    fn sequences(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        caisson_fuzz::controller_sequence(&bytes);
    }
}
