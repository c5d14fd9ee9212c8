//! What a trained dictionary would give.
//!
//! Owns the split: half of the blocks train it, and only the other half is measured.

use crate::spent::{Spent, timed};
use crate::stream::Block;
use caisson_codec::MAX_COMPRESSED;
use serde::Serialize;
use zstd_safe::{CCtx, CDict, CParameter, FrameFormat};

/// Size of a dictionary.
const DICTIONARY: usize = 64 << 10;

/// Blocks that it is trained from at most: a hundred times its size, as zstd advises.
const SAMPLES: usize = 100 * DICTIONARY / 4096;

/// A level with and without dictionary, on the same blocks.
#[derive(Debug, Serialize)]
pub struct Trained {
    pub level: i32,
    /// Blocks measured.
    pub blocks: u64,
    pub plain_bytes: u64,
    pub trained_bytes: u64,
    /// Time for a block.
    pub plain_ns: f64,
    pub trained_ns: f64,
}

/// Trains from every other block and measures the rest. Empty where there are too few to train from.
pub fn measure(blocks: &[Box<Block>], levels: &[i32]) -> Vec<Trained> {
    let half = blocks.len().div_ceil(2);
    let step = half.div_ceil(SAMPLES).max(1);
    let samples: Vec<&Block> = blocks.iter().step_by(2 * step).map(|b| &**b).collect();
    let test: Vec<&Block> = blocks.iter().skip(1).step_by(2).map(|b| &**b).collect();
    let mut dictionary = vec![0; DICTIONARY];
    let sizes = vec![4096; samples.len()];
    let samples: Vec<u8> = samples.into_iter().flatten().copied().collect();
    match zstd_safe::train_from_buffer(&mut dictionary[..], &samples, &sizes) {
        Ok(length) => dictionary.truncate(length),
        Err(_) => return Vec::new(),
    }
    let each = |level: &i32| {
        let (plain_bytes, plain_ns) = compress(&test, *level, None);
        let (trained_bytes, trained_ns) = compress(&test, *level, Some(&dictionary));
        let blocks = test.len() as u64;
        Trained { level: *level, blocks, plain_bytes, trained_bytes, plain_ns, trained_ns }
    };
    levels.iter().map(each).collect()
}

/// Stored bytes of `blocks`, and the time for each in nanoseconds.
fn compress(blocks: &[&Block], level: i32, dictionary: Option<&[u8]>) -> (u64, f64) {
    let mut context = CCtx::create();
    let dictionary = dictionary.map(|d| CDict::create(d, level));
    for parameter in [
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
        CParameter::DictIdFlag(false),
        CParameter::CompressionLevel(level),
    ] {
        context.set_parameter(parameter).expect("this zstd has the parameter");
    }
    if let Some(dictionary) = &dictionary {
        context.ref_cdict(dictionary).expect("no frame is under way");
    }
    let mut out = vec![0; zstd_safe::compress_bound(4096)];
    let mut spent = Spent::default();
    let stored = |block: &&Block| match timed(&mut spent, || context.compress2(&mut out[..], &block[..])) {
        Ok(length) if length <= MAX_COMPRESSED => length as u64,
        _ => 4096,
    };
    let bytes = blocks.iter().map(stored).sum();
    (bytes, spent.each())
}
