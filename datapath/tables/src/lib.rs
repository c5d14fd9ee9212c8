//! The pool's tables, sans-IO: which block of which volume is which stored block, and where that is.
//!
//! Owns the volume maps, the block table with its reference counts, the allocation of ids, the accounting of segments, and
//! the picture of all that which a checkpoint writes. All of it lives in pages of 4 KiB, of which a bounded number is in
//! memory.
//!
//! It must never do I/O, block, or know of keys: a call that misses a page says so ([`Needs`]) without having changed
//! anything, and whoever calls reads the page, [`Tables::load`]s it and calls again.

mod alloc;
mod audit;
mod blocks;
mod bytes;
mod cache;
mod census;
mod change;
mod checkpoint;
mod exclusive;
mod look;
mod map;
#[doc(hidden)]
pub mod planted;
mod replay;
mod root;
mod segment;
mod tables;
mod types;
mod unmap;
mod volume;
mod want;
mod write;

pub use audit::{Audit, Finding};
pub use cache::{IntHasher, IntMap};
pub use census::Census;
pub use change::{Change, ChangeError, Run, VolumeChange};
pub use checkpoint::Frozen;
pub use exclusive::Exclusive;
pub use look::Met;
pub use replay::ApplyError;
pub use root::{Root, RootError};
pub use segment::{Segment, SegmentState, Use, Victim};
pub use tables::{BadPage, Tables};
pub use types::{
    BlockId, Dirty, Entry, FAMILY, Found, Geometry, MAX_CODEC, Needs, PAGE, Page, PageKey, Place, Slot,
    Stats, Stored, TAG, VolumeId, Where,
};
pub use volume::{VolumeError, VolumeRecord};
pub use write::Ready;
