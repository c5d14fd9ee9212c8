//! Blocks of many kinds through every level and back, and frames that are broken.

use caisson_codec::{BLOCK, Codec, CodecError, Compressor, Decompressor, EarlyExit, Level, MAX_COMPRESSED};
use proptest::prelude::*;

type Block = Box<[u8; BLOCK]>;

fn xorshift(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    }
}

/// A block of one of several kinds, between constant and random.
fn block_of(kind: u8, seed: u64) -> Block {
    let mut next = xorshift(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x55);
    let mut block = Box::new([0u8; BLOCK]);
    match kind % 6 {
        0 => block.fill(seed as u8),
        1 => block.iter_mut().for_each(|b| *b = next() as u8),
        // Few values.
        2 => block.iter_mut().for_each(|b| *b = b'a' + (next() % 7) as u8),
        // Random words of four bytes, most of them small numbers.
        3 => {
            block.chunks_exact_mut(4).for_each(|c| c.copy_from_slice(&((next() % 300) as u32).to_le_bytes()))
        }
        // A random string over and over.
        4 => {
            let period = 9 + (seed % 2700 * 7 % 2700) as usize;
            (0..BLOCK).for_each(|i| block[i] = if i < period { next() as u8 } else { block[i - period] });
        }
        // Random to a point, zero from there on.
        _ => {
            let end = (seed % BLOCK as u64) as usize;
            block[..end].iter_mut().for_each(|b| *b = next() as u8);
        }
    }
    block
}

fn levels() -> impl Iterator<Item = Level> {
    (-7..=22).map(|n| Level::new(n).expect("in range"))
}

#[test]
fn every_level_gives_back_what_it_took() {
    let mut back = Decompressor::new();
    let mut out = [0u8; MAX_COMPRESSED];
    let mut shrunk = 0;
    for level in levels() {
        let mut compressor = Compressor::new(level);
        compressor.set_early_exit(EarlyExit::Off);
        for kind in 0..6 {
            for seed in 0..20 {
                let block = block_of(kind, seed);
                let Some(length) = compressor.compress(&block, &mut out) else { continue };
                assert!(Codec::Zstd.allows(length));
                let mut again = [0xa5; BLOCK];
                back.decompress(&out[..length], &mut again).unwrap();
                assert!(again == *block, "level {level:?} kind {kind} seed {seed}");
                shrunk += 1;
            }
        }
    }
    assert!(shrunk > 30 * 80, "{shrunk} blocks shrank");
}

#[test]
fn a_reused_context_gives_the_bytes_of_a_fresh_one() {
    let mut used = Compressor::new(Level::MIN);
    let (mut a, mut b) = ([0u8; MAX_COMPRESSED], [0u8; MAX_COMPRESSED]);
    for level in levels().step_by(3) {
        used.set_level(level);
        assert_eq!(used.level(), level);
        for seed in 0..12 {
            let block = block_of(seed as u8, seed);
            let fresh = Compressor::new(level).compress(&block, &mut b);
            assert_eq!(used.compress(&block, &mut a), fresh);
            let n = fresh.unwrap_or(0);
            assert!(a[..n] == b[..n], "level {level:?} seed {seed}");
        }
    }
}

#[test]
fn frames_carry_no_more_than_they_must() {
    let block = [7u8; BLOCK];
    let mut out = [0u8; MAX_COMPRESSED];
    let length = Compressor::new(Level::DEFAULT).compress(&block, &mut out).expect("it shrinks");
    // Frame descriptor and window (2), block header (3), and next to nothing for one repeated byte.
    assert!(length <= 20, "{length} bytes");
    assert_ne!(out[..4], 0xfd2f_b528u32.to_le_bytes(), "no magic number");
}

#[test]
fn random_blocks_are_kept_as_they_are() {
    let mut out = [0u8; MAX_COMPRESSED];
    for early_exit in [EarlyExit::On, EarlyExit::Off] {
        let mut compressor = Compressor::new(Level::DEFAULT);
        compressor.set_early_exit(early_exit);
        for seed in 0..200 {
            assert_eq!(compressor.compress(&block_of(1, seed), &mut out), None);
        }
    }
}

/// The early exit may keep a block that zstd would have shrunk by a little, and none that shrinks by a third.
#[test]
fn the_early_exit_lets_nothing_good_go() {
    let mut tried = Compressor::new(Level::DEFAULT);
    tried.set_early_exit(EarlyExit::Off);
    let mut out = [0u8; MAX_COMPRESSED];
    let mut exits = 0;
    for kind in 0..6 {
        for seed in 0..400 {
            let block = block_of(kind, seed);
            let length = tried.compress(&block, &mut out).unwrap_or(BLOCK);
            if caisson_codec::looks_incompressible(&block) {
                exits += 1;
                assert!(length > BLOCK * 2 / 3, "kind {kind} seed {seed} shrinks to {length}");
            }
        }
    }
    assert!(exits >= 400, "{exits} early exits: at least the random blocks");
}

#[test]
fn what_is_no_block_is_refused() {
    let mut back = Decompressor::new();
    let mut out = [0u8; BLOCK];
    assert!(matches!(
        back.decompress(&[], &mut out),
        Err(CodecError::WrongSize { size: 0, .. } | CodecError::Invalid { .. })
    ));
    let block = block_of(2, 3);
    let mut frame = [0u8; MAX_COMPRESSED];
    let length = Compressor::new(Level::DEFAULT).compress(&block, &mut frame).expect("it shrinks");
    for cut in 0..length {
        assert!(back.decompress(&frame[..cut], &mut out).is_err(), "cut at {cut}");
    }
    // A sound frame of 100 bytes, without its magic number.
    let mut small = zstd_safe::CCtx::create();
    small.set_parameter(zstd_safe::CParameter::Format(zstd_safe::FrameFormat::Magicless)).unwrap();
    let mut bytes = vec![0u8; 300];
    let n = small.compress2(&mut bytes[..], &[1u8; 100]).unwrap();
    assert_eq!(back.decompress(&bytes[..n], &mut out), Err(CodecError::WrongSize { length: n, size: 100 }));
    // And one of 5000.
    let n = small.compress2(&mut bytes[..], &[1u8; 5000]).unwrap();
    assert!(matches!(back.decompress(&bytes[..n], &mut out), Err(CodecError::Invalid { .. })));
    // The context is none the worse for it.
    back.decompress(&frame[..length], &mut out).unwrap();
    assert!(out == *block);
}

#[test]
fn contexts_stay_small() {
    for level in levels() {
        let mut compressor = Compressor::new(level);
        compressor.compressed(&block_of(2, 1));
        assert!(compressor.memory_bytes() < 1 << 20, "level {level:?}: {}", compressor.memory_bytes());
    }
    let mut back = Decompressor::new();
    let before = back.memory_bytes();
    assert!(before < 256 << 10, "{before}");
    let mut next = xorshift(99);
    let mut out = [0u8; BLOCK];
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..next() % 200).map(|_| next() as u8).collect();
        let _ = back.decompress(&bytes, &mut out);
    }
    assert_eq!(back.memory_bytes(), before, "no input makes it take more");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_block_at_any_level(kind: u8, seed: u64, level in -7i32..=22, edits in proptest::collection::vec((0..BLOCK, any::<u8>()), 0..60)) {
        let mut block = block_of(kind, seed);
        for (at, byte) in edits {
            block[at] = byte;
        }
        let mut out = [0u8; MAX_COMPRESSED];
        if let Some(n) = Compressor::new(Level::new(level).unwrap()).compress(&block, &mut out) {
            let mut again = [0u8; BLOCK];
            Decompressor::new().decompress(&out[..n], &mut again).unwrap();
            prop_assert!(again == *block);
        }
    }

    #[test]
    fn any_damage_is_survived(seed: u64, edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
        let block = block_of((seed >> 8) as u8, seed);
        let mut out = [0u8; MAX_COMPRESSED];
        let mut back = Decompressor::new();
        if let Some(n) = Compressor::new(Level::DEFAULT).compress(&block, &mut out) {
            for (at, byte) in edits {
                out[at % n] = byte;
            }
            let mut again = [0u8; BLOCK];
            let _ = back.decompress(&out[..n], &mut again);
        }
    }
}
