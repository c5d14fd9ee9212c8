//! Space: what may still be written, and what is kept back.
//!
//! A pool counts the bytes of what is live. User data may fill it up to a limit; what lies above is kept for the log
//! itself, for checkpoints and for the cleaner, which needs room to make room. At the limit new data is refused, while
//! overwrites, deletes and reads go on.

use crate::log::Log;
use caisson_tables::Tables;

/// What is kept back. Recomputed when the pool grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Live bytes that user data may come to.
    pub(crate) limit: u64,
    /// Live bytes that overwrites may come to.
    pub(crate) hard: u64,
    /// Bytes of log that user data leaves to deletions and the cleaner.
    pub(crate) log_reserve: u64,
    /// Bytes of log that deletions leave to the cleaner.
    pub(crate) deletion_reserve: u64,
    /// Bytes of log that the cleaner leaves for what is open.
    pub(crate) cleaner_reserve: u64,
    /// Segments that are never reserved for the log: for checkpoints.
    pub(crate) checkpoint_segments: u32,
    /// Nothing more can be made free: those who wait are refused.
    pub(crate) exhausted: bool,
}

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Who may wait until the steward has made some.
    Anybody,
    /// The steward: nobody would make room while it waits.
    Steward,
}

/// Fewer segments than this make a small pool.
const SMALL: u32 = 512;

/// Whether a write is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// It is.
    Go,
    /// When the cleaner or a checkpoint has made room.
    Wait,
    /// The pool is full.
    Full,
}

impl Space {
    /// The shares of a pool of `segments` segments.
    pub(crate) fn of(segments: u32, segment_size: u32) -> Space {
        let size = u64::from(segment_size);
        let checkpoint_segments = (segments / 32).max(4);
        let cleaner = (segments / 32).max(6);
        let usable = u64::from(segments.saturating_sub((checkpoint_segments + cleaner).max(16))) * size;
        // In a small pool a checkpoint takes a larger share of what a round of cleaning gains.
        let small = segments < SMALL;
        Space {
            limit: usable / 16 * if small { 13 } else { 15 },
            hard: usable / 32 * if small { 28 } else { 31 },
            log_reserve: 4 * size,
            deletion_reserve: 3 * size,
            cleaner_reserve: size,
            checkpoint_segments,
            exhausted: false,
        }
    }

    /// Free segments that the log leaves to checkpoints: fewer when it is nearly at its end, for then only the cleaner and
    /// deletions go on.
    pub(crate) fn kept_for_checkpoints(&self, log: &Log) -> u32 {
        if log.space() > self.log_reserve { self.checkpoint_segments } else { self.checkpoint_segments / 2 }
    }

    /// Whether a write that stores `bytes` more is taken.
    pub(crate) fn admit(&self, tables: &Tables, log: &Log, bytes: u64) -> Admit {
        if bytes > 0 && tables.live_bytes() + log.unplaced() + bytes > self.limit {
            return Admit::Full;
        }
        self.room(tables, log)
    }

    /// The same for one that gives `back` bytes as it stores `bytes`.
    pub(crate) fn admit_overwrite(&self, tables: &Tables, log: &Log, bytes: u64, back: u64) -> Admit {
        let live = tables.live_bytes() + log.unplaced();
        if bytes > back && live + (bytes - back) > self.hard.min(self.limit + back) || live > self.hard {
            return Admit::Full;
        }
        self.room(tables, log)
    }

    /// Whether what only gives space back is taken.
    pub(crate) fn admit_deletion(&self, log: &Log, who: Who) -> Admit {
        let reserve = match who {
            Who::Anybody => self.deletion_reserve,
            // What it deletes makes room for everybody.
            Who::Steward => self.cleaner_reserve,
        };
        if log.space() > reserve {
            Admit::Go
        } else if self.exhausted {
            Admit::Full
        } else {
            Admit::Wait
        }
    }

    fn room(&self, tables: &Tables, log: &Log) -> Admit {
        if tables.dirty().wait() {
            Admit::Wait
        } else if log.space() > self.log_reserve {
            Admit::Go
        } else if self.exhausted {
            Admit::Full
        } else {
            Admit::Wait
        }
    }
}
