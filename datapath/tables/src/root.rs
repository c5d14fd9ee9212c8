//! The root of a checkpoint: all that is not in pages, as bytes.

use crate::segment::Segment;
use crate::types::{Stats, Where};
use crate::volume::VolumeRecord;

/// All of a checkpoint that is not in pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// Bytes of a segment.
    pub segment_size: u32,
    /// The segment table.
    pub segments: Vec<Segment>,
    /// The volumes, by rising number.
    pub volumes: Vec<VolumeRecord>,
    /// The lowest volume number that was never used.
    pub next_volume: u32,
    /// The lowest id above all that were ever used.
    pub limit: u64,
    /// Levels of the block table.
    pub levels: u8,
    /// Its top page; `None` where the table is empty.
    pub top: Option<Where>,
    /// Totals.
    pub stats: Stats,
}

/// Why bytes are no root, or a root does not fit the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RootError {
    /// They end early.
    #[error("the root ends early at byte {at}")]
    Short {
        /// Where.
        at: usize,
    },
    /// A value that none may have.
    #[error("the root has an impossible {what}")]
    Invalid {
        /// Which.
        what: &'static str,
    },
    /// A version that this program does not know.
    #[error("the root has version {found}")]
    Version {
        /// The one that stands there.
        found: u16,
    },
}

impl Root {
    /// The root as pieces of at most `piece` bytes.
    pub fn encode(&self, piece: usize) -> Vec<Vec<u8>> {
        let _ = piece;
        unreachable!()
    }

    /// The root that the pieces are.
    pub fn decode<B: AsRef<[u8]>>(pieces: &[B]) -> Result<Root, RootError> {
        let _ = pieces;
        unreachable!()
    }
}
