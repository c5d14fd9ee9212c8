//! The early exit: a look at a sample of a block that tells what zstd would not shrink.
//!
//! Owns two cheap signs of redundancy, unevenly used bytes and repeated strings, and the thresholds for them. It must
//! never be wrong towards compressing what is random (that would only cost time) at the price of missing what is not:
//! where in doubt it says "try".

use crate::BLOCK;

/// How many bytes the histogram looks at.
const SAMPLE: usize = 1024;

/// Bytes of one piece of the sample; the pieces are spread evenly over the block.
const PIECE: usize = 64;

/// Collisions (pairs of equal bytes in the sample, counted both ways) from which the bytes count as unevenly used. Evenly used
/// bytes give `SAMPLE * (SAMPLE - 1) / 256` = 4092, give or take 90 (one standard deviation). 4600 is a collision entropy of
/// 7.83 bits: were the block compressed by a byte-wise code alone, it would save less than a thirtieth.
const UNEVEN: u32 = 4600;

/// Repeated strings, of the probes, from which a block counts as repetitive.
const REPEATS: u32 = 2;

/// Slots of the table of four-byte strings.
const SLOTS: usize = 1024;

/// Whether zstd would most likely save less than [`crate::LEAST_SAVING`] on `block`.
#[inline]
pub fn looks_incompressible(block: &[u8; BLOCK]) -> bool {
    collisions(block) < UNEVEN && repeats(block) < REPEATS
}

/// Sum over all byte values of n * (n - 1), n being how often the sample has it.
fn collisions(block: &[u8; BLOCK]) -> u32 {
    // Two histograms, so that runs of one byte do not wait for their own counter.
    let mut even = [0u16; 256];
    let mut odd = [0u16; 256];
    for piece in block.chunks_exact(BLOCK / (SAMPLE / PIECE)) {
        for pair in piece[..PIECE].as_chunks::<2>().0 {
            even[usize::from(pair[0])] += 1;
            odd[usize::from(pair[1])] += 1;
        }
    }
    let squares: u32 = even.iter().zip(&odd).map(|(a, b)| u32::from(a + b) * u32::from(a + b)).sum();
    squares - SAMPLE as u32
}

/// How many of the probes find their eight bytes again earlier in the block at a multiple of four bytes. Probes stand in runs of
/// four neighbours, so that a repeated string of eleven bytes is found at any distance.
fn repeats(block: &[u8; BLOCK]) -> u32 {
    let mut slots = [0u16; SLOTS];
    let mut found = 0;
    for (at, word) in block.as_chunks::<4>().0.iter().enumerate() {
        let slot = slot_of(*word);
        found += u32::from(slots[slot] != 0 && same(block, usize::from(slots[slot]) * 4, at * 4));
        slots[slot] = at as u16;
    }
    found
}

fn slot_of(word: [u8; 4]) -> usize {
    (u32::from_le_bytes(word).wrapping_mul(0x9e37_79b1) >> (32 - SLOTS.ilog2())) as usize
}

fn same(block: &[u8; BLOCK], a: usize, b: usize) -> bool {
    block[a..a + 4] == block[b..b + 4]
}
