//! One pass over a set: each block through deduplication, and each new one through every codec.
//!
//! Owns what is counted and timed. Times are of single blocks on one thread, as they come, with the caches as they are then.

use crate::dictionary::{self, Trained};
use crate::ours::Ours;
use crate::sets::Set;
use crate::spent::{Spent, timed};
use crate::stream::{self, Block};
use crate::vdo::{self, Vdo};
use caisson_codec::{Compressor, EarlyExit, Level, is_zero, looks_incompressible};
use caisson_fingerprint::{Fingerprint, FingerprintKey};
use caisson_index::{Print, print_of};
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Stored blocks of a batch: what is measured is between these.
const BATCHES: [u64; 2] = [64, 256];

/// zstd levels of single blocks.
const LEVELS: [i32; 2] = [1, 3];

/// Unique blocks that are kept for the dictionaries.
const KEPT: usize = 16384;

/// What the early exit does at level 1.
#[derive(Debug, Default, Serialize)]
pub struct EarlyExitReport {
    /// Blocks that were not tried, of the unique ones.
    pub exits: u64,
    /// Bytes that trying them would have saved, and that as a share of everything stored.
    pub bytes_lost: u64,
    pub share_lost: f64,
    /// Of the estimate, for each block.
    pub estimate_ns: f64,
    /// Of compressing every block; of the estimate and compressing what it lets through.
    pub off_ns: f64,
    pub on_ns: f64,
}

/// What one set came to. Sizes are in bytes, counts in blocks.
#[derive(Debug, Serialize)]
pub struct Report {
    pub set: String,
    pub about: String,
    pub compressed: bool,
    pub files: u64,
    pub file_bytes: u64,
    /// The files as blocks, padded.
    pub logical: u64,
    pub zero_blocks: u64,
    pub duplicate_blocks: u64,
    pub unique_blocks: u64,
    /// Caisson's, with the early exit on: by level, at the smallest and the largest batch.
    pub ours: Vec<OursReport>,
    pub vdo_bytes: u64,
    pub vdo_data_blocks: u64,
    pub vdo_compressed_blocks: u64,
    pub vdo_fragments: u64,
    /// Each file by itself, at level 1, without deduplication.
    pub zstd_files_bytes: u64,
    pub early_exit: EarlyExitReport,
    /// Time for a unique block.
    pub fingerprint_ns: f64,
    pub lz4_ns: f64,
    pub zstd_ns: Vec<f64>,
    pub dictionaries: Vec<Trained>,
}

/// Caisson at one level and batch size.
#[derive(Debug, Serialize)]
pub struct OursReport {
    pub level: i32,
    pub batch: u64,
    pub bytes: u64,
    /// How many times more dm-vdo takes.
    pub over_vdo: f64,
}

/// Everything that a pass carries along.
struct Pass {
    key: FingerprintKey,
    ids: HashMap<Print, u64>,
    compressors: Vec<Compressor>,
    ours: Vec<(i32, u64, Ours)>,
    vdo: Vdo,
    zero: u64,
    duplicates: u64,
    kept: Vec<Box<Block>>,
    exit: EarlyExitReport,
    stored: u64,
    times: Times,
}

#[derive(Default)]
struct Times {
    fingerprint: Spent,
    lz4: Spent,
    estimate: Spent,
    zstd: [Spent; LEVELS.len()],
    /// Of level 1, on what the estimate lets through, and nothing for the rest.
    let_through: Spent,
}

impl Pass {
    fn new() -> Pass {
        let compressor = |level: &i32| {
            let mut c = Compressor::new(Level::new(*level).expect("the levels are zstd's"));
            c.set_early_exit(EarlyExit::Off);
            c
        };
        Pass {
            key: FingerprintKey::new([7; 32]),
            ids: HashMap::new(),
            compressors: LEVELS.iter().map(compressor).collect(),
            ours: LEVELS.iter().flat_map(|l| BATCHES.map(|b| (*l, b, Ours::new(b)))).collect(),
            vdo: Vdo::new(),
            zero: 0,
            duplicates: 0,
            kept: Vec::new(),
            exit: EarlyExitReport::default(),
            stored: 0,
            times: Times::default(),
        }
    }

    fn block(&mut self, block: &Block) {
        if is_zero(block) {
            self.zero += 1;
            return;
        }
        let print = timed(&mut self.times.fingerprint, || print_of(&Fingerprint::of(&self.key, block)));
        let next = self.ids.len() as u64;
        let id = *self.ids.entry(print).or_insert(next);
        let lz4 = &mut self.times.lz4;
        let mut out = [0; vdo::LONGEST];
        self.vdo.write(id, || timed(lz4, || vdo::lz4_length(block, &mut out)));
        if id < next {
            self.duplicates += 1;
            self.ours.iter_mut().for_each(|(_, _, ours)| ours.write(id, None));
            return;
        }
        self.unique(id, block);
    }

    fn unique(&mut self, id: u64, block: &Block) {
        let exits = timed(&mut self.times.estimate, || looks_incompressible(block));
        for (at, level) in LEVELS.into_iter().enumerate() {
            let start = Instant::now();
            let length = self.compressors[at].compressed(block).map(<[u8]>::len);
            let taken = start.elapsed();
            self.times.zstd[at].add(taken);
            let tried = length.unwrap_or(block.len());
            let stored = if exits { block.len() } else { tried };
            for (_, _, ours) in self.ours.iter_mut().filter(|o| o.0 == level) {
                ours.write(id, Some(stored));
            }
            if at == 0 {
                self.exit.exits += u64::from(exits);
                self.exit.bytes_lost += (stored - tried) as u64;
                self.stored += tried as u64;
                self.times.let_through.add(if exits { Duration::ZERO } else { taken });
            }
        }
        // Every so many, so that they come from all over the set: thinned by half whenever there are too many.
        if id.is_multiple_of((id / KEPT as u64 + 1).next_power_of_two()) {
            self.kept.push(Box::new(*block));
        }
    }
}

/// Measures `set`, of which no more than `limit` bytes are taken.
pub fn measure(set: &Set, limit: u64, dictionaries: bool) -> Report {
    let mut pass = Pass::new();
    let (mut files, mut file_bytes, mut blocks, mut zstd_files) = (0, 0, 0, 0);
    let mut context = zstd_safe::CCtx::create();
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    for folder in &set.folders {
        for file in stream::files(folder, limit.saturating_sub(file_bytes)) {
            stream::read(&file, &mut bytes);
            files += 1;
            file_bytes += bytes.len() as u64;
            out.resize(zstd_safe::compress_bound(bytes.len()), 0);
            zstd_files += context.compress(&mut out[..], &bytes, 1).unwrap_or(bytes.len()) as u64;
            stream::blocks(&bytes, |block| {
                blocks += 1;
                pass.block(block);
            });
        }
    }
    pass.vdo.flush();
    let trained = if dictionaries { dictionary::measure(&pass.kept, &LEVELS) } else { Vec::new() };
    let unique = pass.ids.len() as u64;
    let vdo_bytes = pass.vdo.bytes();
    let ours = pass.ours.into_iter().map(|(level, batch, ours)| {
        let bytes = ours.finish();
        OursReport { level, batch, bytes, over_vdo: vdo_bytes as f64 / bytes as f64 }
    });
    Report {
        set: set.name.to_string(),
        about: set.about.to_string(),
        compressed: set.compressed,
        files,
        file_bytes,
        logical: blocks * 4096,
        zero_blocks: pass.zero,
        duplicate_blocks: pass.duplicates,
        unique_blocks: unique,
        ours: ours.collect(),
        vdo_bytes,
        vdo_data_blocks: pass.vdo.data_blocks(),
        vdo_compressed_blocks: pass.vdo.compressed_blocks(),
        vdo_fragments: pass.vdo.fragments(),
        zstd_files_bytes: zstd_files,
        early_exit: EarlyExitReport {
            share_lost: pass.exit.bytes_lost as f64 / pass.stored.max(1) as f64,
            estimate_ns: pass.times.estimate.each(),
            off_ns: pass.times.zstd[0].each(),
            on_ns: pass.times.estimate.each() + pass.times.let_through.each(),
            ..pass.exit
        },
        fingerprint_ns: pass.times.fingerprint.each(),
        lz4_ns: pass.times.lz4.each(),
        zstd_ns: pass.times.zstd.map(|t| t.each()).to_vec(),
        dictionaries: trained,
    }
}
