//! From a block to a zstd frame, where that saves enough.
//!
//! Owns the compression context, the level and the decision to leave a block as it is.

use crate::{BLOCK, MAX_COMPRESSED, ROOM, looks_incompressible};
use zstd_safe::{CCtx, CParameter, FrameFormat};

/// A zstd level, -7 (fast) to 22 (dense).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(i8);

impl Level {
    /// The fastest.
    pub const MIN: Level = Level(-7);
    /// The densest.
    pub const MAX: Level = Level(22);
    /// What a volume has unless it asks for another: level 1.
    pub const DEFAULT: Level = Level(1);

    /// The level of this number, or `None` where it is not in -7..=22. zstd takes 0 for its own default, 3.
    pub const fn new(number: i32) -> Option<Level> {
        if number >= -7 && number <= 22 { Some(Level(number as i8)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }
}

impl Default for Level {
    fn default() -> Level {
        Level::DEFAULT
    }
}

/// Whether a block is looked at before it is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyExit {
    /// What [`looks_incompressible`] is kept as it is without trying.
    #[default]
    On,
    /// Every block is tried.
    Off,
}

/// A compression context, to be kept by a thread and used for one block after the other. Nothing of one block
/// influences another: the same block, level and zstd version give the same bytes.
pub struct Compressor {
    context: CCtx<'static>,
    level: Level,
    early_exit: EarlyExit,
    scratch: Box<[u8]>,
}

impl Compressor {
    /// A context for `level`, with the early exit on.
    ///
    /// # Panics
    /// Where memory for it cannot be had, as every allocation does.
    pub fn new(level: Level) -> Compressor {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::Format(FrameFormat::Magicless),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ] {
            context.set_parameter(parameter).expect("this zstd has the parameter");
        }
        let scratch = vec![0; ROOM].into_boxed_slice();
        let mut new = Compressor { context, level, early_exit: EarlyExit::On, scratch };
        new.apply(level);
        new
    }

    /// Compresses from here on with `level`. Costs some microseconds at the next block where the level differs.
    pub fn set_level(&mut self, level: Level) {
        if level != self.level {
            self.apply(level);
        }
    }

    fn apply(&mut self, level: Level) {
        let set = CParameter::CompressionLevel(level.number());
        self.context.set_parameter(set).expect("the level is one of zstd's, and no frame is under way");
        self.level = level;
    }

    /// Turns the early exit on or off.
    pub fn set_early_exit(&mut self, early_exit: EarlyExit) {
        self.early_exit = early_exit;
    }

    /// The level in use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Compresses `block` into the front of `out` and gives the length, at most [`MAX_COMPRESSED`]; or `None` where
    /// the block is better kept as it is (see [`crate::LEAST_SAVING`] and [`EarlyExit`]), with `out` untouched.
    pub fn compress(&mut self, block: &[u8; BLOCK], out: &mut [u8; MAX_COMPRESSED]) -> Option<usize> {
        let frame = self.compressed(block)?;
        let length = frame.len();
        out[..length].copy_from_slice(frame);
        Some(length)
    }

    /// As [`Compressor::compress`], for who copies the frame elsewhere at once.
    pub fn compressed(&mut self, block: &[u8; BLOCK]) -> Option<&[u8]> {
        if self.early_exit == EarlyExit::On && looks_incompressible(block) {
            return None;
        }
        // The output fits whatever the input is, so zstd has no other reason to fail than memory: then the block is kept raw.
        let length = self.context.compress2(&mut self.scratch[..], block).ok()?;
        (length <= MAX_COMPRESSED).then(|| &self.scratch[..length])
    }

    /// As [`Compressor::compress`], into the front of `out`, which has at least [`ROOM`] bytes. Where the block is better kept as it
    /// is, what `out` holds is undefined.
    ///
    /// # Panics
    /// When `out` is shorter.
    pub fn compress_into(&mut self, block: &[u8; BLOCK], out: &mut [u8]) -> Option<usize> {
        assert!(out.len() >= ROOM, "zstd is slower where it has to watch for the end of its output");
        if self.early_exit == EarlyExit::On && looks_incompressible(block) {
            return None;
        }
        let length = self.context.compress2(&mut out[..ROOM], block).ok()?;
        (length <= MAX_COMPRESSED).then_some(length)
    }

    /// How much memory the context and its output buffer take now, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.context.sizeof() + self.scratch.len()
    }
}
