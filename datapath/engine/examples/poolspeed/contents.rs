//! What is written: generated blocks that compress by about so much and repeat so often, or the files of a folder.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

pub const BLOCK: usize = 4096;

/// Copies are of one of so many blocks, the last ones that were new: they are still there when a volume is written over. Where
/// everything is a copy, of the first so many, which are there before.
pub const RECENT: u64 = 1024;

/// Percent: everything is a copy.
pub const ALL: u64 = 100;

/// Blocks of files, each file padded to whole blocks as on a disk.
pub type Files = Arc<Vec<[u8; BLOCK]>>;

/// What a case writes.
#[derive(Clone)]
pub enum Kind {
    /// Compressible by about `ratio`, and `dup` of 100 blocks the same as an earlier one.
    Made { ratio: usize, dup: u64 },
    /// These, one after the other.
    Files(Files),
}

/// A stream of blocks.
pub struct Contents {
    kind: Kind,
    x: u64,
    made: u64,
}

impl Contents {
    pub fn new(kind: Kind) -> Contents {
        Contents { kind, x: 88_172_645_463_325_252, made: 0 }
    }

    /// How many blocks there are at most.
    pub fn most(&self) -> u64 {
        match &self.kind {
            Kind::Made { .. } => u64::MAX,
            Kind::Files(blocks) => blocks.len() as u64,
        }
    }

    fn random(&mut self) -> u64 {
        self.x ^= self.x << 13;
        self.x ^= self.x >> 7;
        self.x ^= self.x << 17;
        self.x
    }

    /// The next block.
    pub fn fill(&mut self, out: &mut [u8]) {
        match &self.kind {
            Kind::Files(blocks) => {
                out.copy_from_slice(&blocks[self.made as usize % blocks.len()]);
                self.made += 1;
            }
            &Kind::Made { ratio, dup } => {
                let again = dup == ALL || self.made > 64 && self.random() % 100 < dup;
                let seed = match again {
                    true if dup == ALL => self.random() % RECENT,
                    true => self.made - 1 - self.random() % self.made.min(RECENT),
                    false => self.made,
                };
                self.made += u64::from(!again);
                // No block of one ratio is one of another.
                make(seed << 8 | ratio as u64, ratio, out);
            }
        }
    }
}

/// Short random words between repeats of them, as text has.
fn make(seed: u64, ratio: usize, out: &mut [u8]) {
    let mut y = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let noise = BLOCK / ratio;
    for (i, word) in out.chunks_exact_mut(8).enumerate() {
        if i * 8 % 512 < noise / (BLOCK / 512) {
            y ^= y << 13;
            y ^= y >> 7;
            y ^= y << 17;
        }
        word.copy_from_slice(&y.to_le_bytes());
    }
}

/// The blocks of the files below `folder`, in the order of their paths, at most `most` of them.
pub fn files(folder: &Path, most: usize) -> Files {
    let mut blocks = Vec::new();
    let mut left = VecDeque::from([folder.to_owned()]);
    while let Some(path) = left.pop_front().filter(|_| blocks.len() < most) {
        let Ok(about) = std::fs::symlink_metadata(&path) else { continue };
        if about.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            let mut entries: Vec<_> = entries.map(|e| e.path()).collect();
            entries.sort();
            entries.into_iter().rev().for_each(|path| left.push_front(path));
        } else if about.is_file()
            && let Ok(bytes) = std::fs::read(&path)
        {
            for part in bytes.chunks(BLOCK).take(most - blocks.len()) {
                let mut block = [0; BLOCK];
                block[..part.len()].copy_from_slice(part);
                blocks.push(block);
            }
        }
    }
    Arc::new(blocks)
}
