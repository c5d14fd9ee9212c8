//! The early exit: a look at a sample of a block that tells what zstd would not shrink.
//!
//! Owns two cheap signs of redundancy, unevenly used bytes and repeated strings, and the thresholds for them. Where in doubt it
//! says "try": trying a random block costs some microseconds, missing a compressible one costs space for as long as it lives.

use crate::BLOCK;

/// Bytes of one piece of a sample.
const PIECE: usize = 64;

/// Pieces of the first, small sample; they are spread evenly over the block.
const FIRST: usize = 4;

/// Different bytes in the first sample, below which they are unevenly used beyond doubt. Of 256 even ones 162 are different,
/// give or take 6 (one standard deviation).
const FEW: u32 = 130;

/// Pieces of the whole sample.
const PIECES: usize = 8;
const SAMPLE: usize = PIECES * PIECE;

/// Collisions (ordered pairs of equal bytes in the sample) from which the bytes count as unevenly used. Even ones give
/// `SAMPLE * (SAMPLE - 1) / 256` = 1022, give or take 45. 1160 stands for a collision entropy of 7.82 bits a byte: a code for
/// single bytes could then save a fortieth or so.
const UNEVEN: u32 = 1160;

/// Repeated strings from which a block counts as repetitive. Of random blocks, one in ten thousand has so many.
const REPEATS: u32 = 2;

/// Slots of the table of four-byte strings: four for each string, so that few push out another.
const SLOTS: usize = 2048;

/// Distance of the strings that are kept in it.
const STRIDE: usize = 8;

/// Whether zstd would most likely save less than [`crate::LEAST_SAVING`] on `block`.
#[inline]
pub fn looks_incompressible(block: &[u8; BLOCK]) -> bool {
    // All are needed, in the order of what settles most blocks for the least work: most that compress repeat something near the
    // front. A run counts as two repeats or more, so that it changes no answer.
    !runs(block) && repeats(block) < REPEATS && different_bytes(block) >= FEW && collisions(block) < UNEVEN
}

/// How many byte values the first sample has.
fn different_bytes(block: &[u8; BLOCK]) -> u32 {
    // A byte for each value: stores that wait for nothing, and a sum that the compiler makes vectors of.
    let mut seen = [0u8; 256];
    for part in block.chunks_exact(BLOCK / FIRST) {
        for byte in &part[..PIECE] {
            seen[usize::from(*byte)] = 1;
        }
    }
    seen.iter().map(|s| u32::from(*s)).sum()
}

/// Sum over all byte values of n * (n - 1), n being how often the sample has it.
fn collisions(block: &[u8; BLOCK]) -> u32 {
    // Two histograms, so that runs of one byte do not wait for their own counter.
    let mut even = [0u16; 256];
    let mut odd = [0u16; 256];
    for part in block.chunks_exact(BLOCK / PIECES) {
        for pair in part[..PIECE].as_chunks::<2>().0 {
            even[usize::from(pair[0])] += 1;
            odd[usize::from(pair[1])] += 1;
        }
    }
    let squares: u32 = even.iter().zip(&odd).map(|(a, b)| u32::from(a + b) * u32::from(a + b)).sum();
    squares - SAMPLE as u32
}

/// Bytes at the front that are looked at for runs, and how many of them at a time.
const RUN_FRONT: usize = 1024;
const RUN_PIECE: usize = 256;

/// Whether the front has the same eight bytes three times in a row, at multiples of eight. Of such a block, [`repeats`] are at least
/// [`REPEATS`]: nothing comes between a string's place in its table and the look for the next.
fn runs(block: &[u8; BLOCK]) -> bool {
    block[..RUN_FRONT].as_chunks::<RUN_PIECE>().0.iter().any(|piece| {
        let words = piece.as_chunks::<STRIDE>().0;
        let word = |i: usize| u64::from_ne_bytes(words[i]);
        // Without a branch for each, so that the compiler makes vectors of it.
        let same = |i: usize| (word(i) ^ word(i + 1)) | (word(i + 1) ^ word(i + 2)) == 0;
        (0..RUN_PIECE / STRIDE - 2).fold(false, |any, i| any | same(i))
    })
}

/// How many of the four-byte strings looked at, up to some over [`REPEATS`], stand earlier in the block, at a multiple of eight bytes. Looked at are those
/// at multiples of eight, and the seven neighbours of one in each 128 bytes: so a repeated string of some hundred bytes is found,
/// but for slots that were taken since, at whatever distance it is repeated. Ends where there are enough: most blocks that
/// compress have them near the front.
fn repeats(block: &[u8; BLOCK]) -> u32 {
    let mut tags = [0u16; SLOTS];
    let mut found = 0;
    for part in block.as_chunks::<128>().0 {
        for at in 1..STRIDE {
            let (slot, tag) = hash([part[at], part[at + 1], part[at + 2], part[at + 3]]);
            found += u32::from(tags[slot] == tag);
        }
        for word in part.as_chunks::<STRIDE>().0 {
            let (slot, tag) = hash([word[0], word[1], word[2], word[3]]);
            found += u32::from(tags[slot] == tag);
            tags[slot] = tag;
        }
        if found >= REPEATS {
            break;
        }
    }
    found
}

/// A slot, and a tag that is never that of an empty one.
fn hash(word: [u8; 4]) -> (usize, u16) {
    let mixed = u32::from_le_bytes(word).wrapping_mul(0x9e37_79b1);
    ((mixed >> (u32::BITS - SLOTS.ilog2())) as usize, (mixed >> 4) as u16 | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64) -> Box<[u8; BLOCK]> {
        let mut x = seed.wrapping_mul(2).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Box::new(std::array::from_fn(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 56) as u8
        }))
    }

    #[test]
    fn random_blocks_are_seen_for_what_they_are() {
        let exits = (0..2000).filter(|seed| looks_incompressible(&random(*seed))).count();
        assert!(exits >= 1995, "{exits} of 2000");
    }

    #[test]
    fn a_run_is_two_repeats() {
        for seed in 0..3000 {
            let mut block = random(seed);
            let (at, len) = (seed as usize * 8 % 1100, 24 + seed as usize % 5 * 8);
            let word: [u8; 8] = *block[at..].first_chunk().unwrap();
            block[at..at + len].as_chunks_mut().0.iter_mut().for_each(|w| *w = word);
            if runs(&block) {
                assert!(repeats(&block) >= REPEATS, "{at}, {len}");
            }
        }
        let mut block = random(1);
        block[512..536].fill(7);
        assert!(runs(&block) && !runs(&random(1)));
    }

    #[test]
    fn each_sign_is_enough() {
        let mut few = random(1);
        few.iter_mut().for_each(|b| *b &= 0x7f);
        assert!(different_bytes(&few) < FEW && collisions(&few) > UNEVEN && repeats(&few) < REPEATS);
        // One byte in eight is the same.
        let mut uneven = random(2);
        uneven.iter_mut().step_by(8).for_each(|b| *b = 9);
        assert!(collisions(&uneven) > UNEVEN && !looks_incompressible(&uneven));
        // A random string that comes again once, at any distance; few are missed because their slots were taken.
        let missed = (1000..2100).filter(|distance| {
            let mut repeated = random(*distance as u64);
            repeated.copy_within(100..700, 100 + distance);
            looks_incompressible(&repeated)
        });
        assert!(missed.count() <= 5);
    }
}
