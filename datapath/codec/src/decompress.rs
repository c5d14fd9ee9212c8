//! From a stored zstd frame back to a block.
//!
//! Owns the decompression context. What comes in was authenticated before, and is still not trusted: every input ends
//! in an error or in exactly one block, with no memory taken beyond the context's own.

use crate::BLOCK;
use zstd_safe::{DCtx, DParameter, FrameFormat, ResetDirective, get_error_name};

/// Why stored bytes are not a block. The contents of the output buffer are then unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// zstd refuses the bytes.
    #[error("zstd refuses the {length} bytes: {reason}")]
    Invalid {
        /// How many bytes were given.
        length: usize,
        /// What zstd says.
        reason: &'static str,
    },
    /// It is a sound frame, of something that is no block.
    #[error("{length} bytes decompress to {size}, not to a block of {BLOCK}")]
    WrongSize {
        /// How many bytes were given.
        length: usize,
        /// How many came out.
        size: usize,
    },
    /// No block with marked sectors is stored like this.
    #[error("{length} bytes are no block with the sectors {marks:08b} marked")]
    Marks {
        /// The sectors that are said to be marked, the first in the lowest bit.
        marks: u8,
        /// How many bytes were given.
        length: usize,
    },
}

/// A decompression context, to be kept by a thread and used for one block after the other (about 160 KiB).
pub struct Decompressor {
    context: DCtx<'static>,
}

impl Decompressor {
    /// A context of its own.
    ///
    /// # Panics
    /// Where memory for it cannot be had, as every allocation does.
    pub fn new() -> Decompressor {
        let mut context = DCtx::create();
        context.set_parameter(DParameter::Format(FrameFormat::Magicless)).expect("this zstd has the format");
        Decompressor { context }
    }

    /// Makes a block of `stored`, what [`crate::Compressor::compress`] gave.
    pub fn decompress(&mut self, stored: &[u8], out: &mut [u8; BLOCK]) -> Result<(), CodecError> {
        let length = stored.len();
        match self.context.decompress(&mut out[..], stored) {
            Ok(BLOCK) => Ok(()),
            Ok(size) => Err(CodecError::WrongSize { length, size }),
            Err(code) => {
                // What a broken frame left in the context must not reach the next block.
                let _ = self.context.reset(ResetDirective::SessionOnly);
                Err(CodecError::Invalid { length, reason: get_error_name(code) })
            }
        }
    }

    /// How much memory the context takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.context.sizeof()
    }
}

impl Default for Decompressor {
    fn default() -> Decompressor {
        Decompressor::new()
    }
}
