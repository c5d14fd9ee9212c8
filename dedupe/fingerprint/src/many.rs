//! Fingerprints of several blocks at once.
//!
//! BLAKE3 hashes a block of 4 KiB as a tree of four chunks, so by itself it fills half of the eight lanes of AVX2, and a quarter of
//! the sixteen of AVX-512. Here the same chunk of many blocks goes through the lanes together (BLAKE3 specification, 5.3, on SIMD
//! over several inputs), then their parents, then their roots. What comes out is [`Fingerprint::of`] of each, which a test compares.
//!
//! It must never be the only way to a fingerprint: what it calls is public in `blake3` without being promised, so the
//! version is pinned, and [`Fingerprint::of`] needs none of it.

use crate::{FINGERPRINT_LEN, Fingerprint, FingerprintKey};
use blake3::IncrementCounter::No;
use blake3::platform::Platform;
use zeroize::Zeroize;

/// Bytes of a block that goes through [`FingerprintKey::of_many`].
pub const BLOCK: usize = 4096;

/// How many blocks go through together: as many as AVX-512 has lanes. What has eight takes them as twice eight.
pub const LANES: usize = 16;

/// Of those that are left, more than so many go through together, beside empty lanes; fewer are as fast one by one
/// (`examples/lanes.rs`).
const FEW: usize = 4;

/// Lanes that are filled up, where not all [`LANES`] are needed.
const HALF: usize = LANES / 2;

// BLAKE3 specification, 2.1 and table 3.
const CHUNK: usize = 1024;
const CHUNKS: usize = BLOCK / CHUNK;
const PAIR: usize = 2 * FINGERPRINT_LEN;
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
const KEYED_HASH: u8 = 1 << 4;

impl FingerprintKey {
    /// Gives `each` the fingerprint of every one of `blocks`, in their order, with its position.
    pub fn of_many(&self, blocks: &[&[u8; BLOCK]], mut each: impl FnMut(usize, Fingerprint)) {
        let mut words: [u32; 8] = std::array::from_fn(|i| {
            u32::from_le_bytes(std::array::from_fn(|byte| self.bytes()[4 * i + byte]))
        });
        let platform = Platform::detect();
        let mut done = 0;
        while blocks.len() - done > FEW {
            let left = blocks.len() - done;
            // Half of the lanes and a few one by one are faster than many empty lanes.
            let width = if left > HALF + FEW { LANES } else { HALF };
            let group: [&[u8; BLOCK]; LANES] =
                std::array::from_fn(|i| *blocks.get(done + i).unwrap_or(&blocks[done]));
            let roots = together(platform, &words, &group[..width]);
            let given = left.min(width);
            for (i, root) in roots.as_chunks().0[..given].iter().enumerate() {
                each(done + i, Fingerprint::from_bytes(*root));
            }
            done += given;
        }
        for (i, block) in blocks.iter().enumerate().skip(done) {
            each(i, Fingerprint::of(self, &block[..]));
        }
        words.zeroize();
    }
}

/// The fingerprints of up to [`LANES`] blocks, one behind the other.
fn together(platform: Platform, key: &[u32; 8], blocks: &[&[u8; BLOCK]]) -> [u8; LANES * FINGERPRINT_LEN] {
    let n = blocks.len();
    let mut pairs = [[0; PAIR]; LANES * CHUNKS / 2];
    for chunk in 0..CHUNKS {
        let mut inputs = [&[0; CHUNK]; LANES];
        for (input, block) in inputs.iter_mut().zip(blocks) {
            *input = &block.as_chunks::<CHUNK>().0[chunk];
        }
        let mut out = [0; LANES * FINGERPRINT_LEN];
        let flags = KEYED_HASH;
        platform.hash_many(&inputs[..n], key, chunk as u64, No, flags, CHUNK_START, CHUNK_END, &mut out);
        let half = chunk % 2 * FINGERPRINT_LEN;
        for (block, cv) in out.as_chunks::<FINGERPRINT_LEN>().0[..n].iter().enumerate() {
            pairs[block * CHUNKS / 2 + chunk / 2][half..half + FINGERPRINT_LEN].copy_from_slice(cv);
        }
    }
    // The two parents of a block stand side by side, so what comes out is its root's input.
    let mut tops = [0; LANES * PAIR];
    let pairs = &pairs[..n * CHUNKS / 2];
    for (pairs, out) in pairs.chunks(LANES).zip(tops.chunks_mut(LANES * FINGERPRINT_LEN)) {
        parents(platform, key, pairs, KEYED_HASH | PARENT, out);
    }
    let mut roots = [0; LANES * FINGERPRINT_LEN];
    parents(platform, key, &tops.as_chunks().0[..n], KEYED_HASH | PARENT | ROOT, &mut roots);
    roots
}

/// The chaining value (or root) of each pair of chaining values, of [`LANES`] at most.
fn parents(platform: Platform, key: &[u32; 8], pairs: &[[u8; PAIR]], flags: u8, out: &mut [u8]) {
    let mut inputs = [&[0; PAIR]; LANES];
    inputs.iter_mut().zip(pairs).for_each(|(input, pair)| *input = pair);
    platform.hash_many(&inputs[..pairs.len()], key, 0, No, flags, 0, 0, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_one_by_one_for_every_number_of_blocks() {
        let key = FingerprintKey::new(*b"whats the Elvish word for friend");
        let mut stream = blake3::Hasher::new().update(b"blocks").finalize_xof();
        let mut blocks = vec![[0u8; BLOCK]; 2 * LANES + 3];
        blocks.iter_mut().for_each(|block| stream.fill(block));
        blocks[2] = blocks[1];
        for n in 0..=blocks.len() {
            let given: Vec<_> = blocks[..n].iter().collect();
            let mut got = Vec::new();
            key.of_many(&given, |i, f| {
                assert_eq!(i, got.len());
                got.push(f);
            });
            let want: Vec<_> = given.iter().map(|block| Fingerprint::of(&key, &block[..])).collect();
            assert_eq!(got, want, "{n} blocks");
        }
    }
}
