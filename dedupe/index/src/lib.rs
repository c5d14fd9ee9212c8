//! Finding out, in bounded memory, where a block with a given print may be stored already.
//!
//! Owns a sampled table from prints to summaries, a cache of whole summaries, and the exact list of what is not in any
//! summary yet. A *summary* is the prints of one batch of the log, in its order. Data that was written together is mostly
//! written together again, so one sampled print that is found brings in the summary that finds its neighbours, and
//! that one the summaries which follow it in the log.
//!
//! Every answer is a hint: whoever asked checks it against the block table, which alone knows what is stored. Losing any
//! part of the index, or all of it, costs ratio and never data. The index must never do I/O, take more memory than its
//! budget says, or do work that grows with what it holds.

mod cache;
mod hints;
mod index;
mod sample;
mod sequences;
mod slots;
mod table;

pub use index::{Index, Stats};

use caisson_fingerprint::Fingerprint;

/// What is stored and compared of a fingerprint: its first 16 bytes, as strong as the tag of the AEAD.
pub type Print = [u8; 16];

/// The print of a fingerprint.
pub fn print_of(fingerprint: &Fingerprint) -> Print {
    let mut print = [0; 16];
    print.copy_from_slice(&fingerprint.as_bytes()[..16]);
    print
}

/// Where a summary stands: the batch at `offset` in the use `sequence` of `segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SummaryAt {
    /// The segment's number, under [`MAX_SEGMENTS`].
    pub segment: u32,
    /// Which use of the segment; never 0.
    pub sequence: u64,
    /// Where the batch begins in the segment, in bytes: a multiple of 4096 under 2^28.
    pub offset: u32,
}

/// One block of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The print of its contents.
    pub print: Print,
    /// Its block id.
    pub id: u64,
    /// Where its record begins in the segment, in bytes.
    pub offset: u32,
}

/// A stored block that may be the one looked for; valid only if the block table has this id live at this very place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The block's id.
    pub id: u64,
    /// The segment of its record.
    pub segment: u32,
    /// Which use of the segment.
    pub sequence: u64,
    /// Where its record begins in the segment, in bytes.
    pub offset: u32,
}

/// What [`Index::lookup`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Published, in a batch that is not closed yet: the block with this id.
    Pending(u64),
    /// Most likely stored here. If it is not (any more): [`Index::forget`], and ask again.
    Hit(Candidate),
    /// This summary may have it: read it, tell [`Index::loaded`] or [`Index::failed`], and ask again.
    Fetch(SummaryAt),
    /// Nothing known.
    Miss,
}

/// How much memory an index may take, in bytes. Beside it there are 8 bytes for each segment of the pool, and the
/// pending blocks (at most [`MAX_PENDING`], of some 50 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The sampled table: 11 to 23 bytes for each print in the sample, as it is 85 or 40 % full.
    pub index_bytes: usize,
    /// The cache of summaries: about 50 bytes for each print in it.
    pub cache_bytes: usize,
}

/// Is told of each large piece of memory when it has been taken and not been touched: address and bytes. It may advise the system
/// how to place that, and nothing else.
pub type Advise = fn(*const u8, usize);

/// Blocks that may be pending at a time; those beyond are not found before their batch is closed.
pub const MAX_PENDING: usize = 1 << 16;

/// Segments that can be told apart; summaries in segments beyond are not remembered.
pub const MAX_SEGMENTS: u32 = 1 << 24;

/// Sizes of summary offsets: batches begin at multiples of this.
const ALIGNMENT: u32 = 4096;

impl SummaryAt {
    /// The offset in units of 4096 bytes, where the table can hold it.
    fn page(&self) -> Option<u16> {
        if !self.offset.is_multiple_of(ALIGNMENT) || self.segment >= MAX_SEGMENTS || self.sequence == 0 {
            return None;
        }
        u16::try_from(self.offset / ALIGNMENT).ok()
    }
}
