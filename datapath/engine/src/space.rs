//! Space: what may still be written, and what is kept back.
//!
//! A pool counts the bytes of what is live. User data may fill it up to a limit; what lies above is kept for the log
//! itself, for checkpoints and for the cleaner, which needs room to make room. At the limit new data is refused, while
//! overwrites, deletes and reads go on.
//!
//! What is kept back is what writes are multiplied by: the less of a pool lies free, the more garbage a segment has gathered
//! before it is cleaned. So it is what one round of cleaning and two checkpoints need, and no share of the pool.

use crate::log::Log;
use caisson_block::BLOCK;
use caisson_tables::Tables;

/// What is kept back. Recomputed when the pool grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Live bytes that user data may come to.
    pub(crate) limit: u64,
    /// Live bytes that overwrites may come to.
    pub(crate) hard: u64,
    /// Bytes of log that user data leaves to deletions.
    pub(crate) log_reserve: u64,
    /// Bytes of log that hosts' deletions leave to the steward's.
    pub(crate) deletion_reserve: u64,
    /// Bytes of log that the steward leaves for what is open.
    pub(crate) last_reserve: u64,
    /// Bytes of log above which hosts need not wait for the cleaner, and below which a checkpoint gives the log what is free.
    pub(crate) easy: u64,
    /// Bytes that it has to give, as long as nobody has to wait.
    pub(crate) worth: u64,
    /// Segments that are never reserved for the log: for checkpoints.
    pub(crate) checkpoint_segments: u32,
    /// The same for what the cleaner moves.
    pub(crate) cleaner_segments: u32,
    /// Free segments, with those reserved for the log, below which the cleaner works.
    pub(crate) low: u32,
    /// Nothing more can be made free: those who wait are refused.
    pub(crate) exhausted: bool,
    /// While the cleaner works and the log is short: bytes that hosts may still write before they wait for it. It gives them
    /// what it gains, so that they wait for a batch at a time and not for a round.
    pub(crate) credit: Option<i64>,
    /// Of that, lent for the time of a checkpoint.
    pub(crate) lent: i64,
}

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Who may wait until the steward has made some.
    Anybody,
    /// The steward: nobody would make room while it waits.
    Steward,
}

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

/// What a pool is shared out by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) segments: u32,
    pub(crate) segment_size: u32,
    /// Pages of the tables that may change between checkpoints.
    pub(crate) changed: usize,
    /// Bytes of log between two checkpoints.
    pub(crate) distance: u64,
}

/// Segments of log that user data leaves.
const LOG_RESERVE: u32 = 3;

/// Segments that are open: the log's, the checkpoints', the cleaner's.
const OPEN: u32 = 3;

/// Fewer segments than this make a small pool: each checkpoint and each open segment is a larger share of it.
const SMALL: u32 = 128;

/// Segments for checkpoints that a pool can afford.
fn checkpoint_segments(segments: u32) -> u32 {
    (segments / 128).max(4)
}

/// Pages of the tables that may change before somebody has to wait for a checkpoint, so that these fit what is kept for them:
/// a checkpoint begins at half of it.
pub(crate) fn dirty_limit(segments: u32, segment_size: u32) -> usize {
    let pages = u64::from(checkpoint_segments(segments) - 1) * u64::from(segment_size) / BLOCK as u64;
    usize::try_from(pages).unwrap_or(usize::MAX)
}

impl Space {
    /// The shares of a pool.
    pub(crate) fn of(shape: Shape) -> Space {
        let Shape { segments, segment_size, changed, distance } = shape;
        let size = u64::from(segment_size);
        let pages = ((changed * BLOCK) as u64).div_ceil(size) as u32;
        let checkpoint_segments = (pages + 2).min(checkpoint_segments(segments));
        let cleaner_segments = (segments / 256).clamp(3, 16);
        // What the log and what the next checkpoint will give it come to, in a pool that is cleaned. The more it is, the fewer
        // checkpoints there are, and the less garbage a segment has gathered. A fiftieth of the pool is about where the sum
        // is least while a checkpoint writes most of the tables; where they are larger than that, more does not help.
        let ahead = distance.min(4 * (changed * BLOCK) as u64).div_ceil(size) as u32;
        let ahead = ahead.min(segments / 48).max(LOG_RESERVE + 3);
        let kept = checkpoint_segments + cleaner_segments + LOG_RESERVE + OPEN;
        let usable = u64::from(segments.saturating_sub(kept)) * size;
        let small = u64::from(segments < SMALL);
        let log_reserve = u64::from(LOG_RESERVE) * size;
        Space {
            limit: usable / 16 * (15 - small),
            hard: usable / 32 * (31 - small),
            log_reserve,
            deletion_reserve: log_reserve - size,
            last_reserve: log_reserve - 2 * size,
            easy: log_reserve + u64::from(ahead / 2) * size,
            worth: u64::from(ahead / 3) * size,
            checkpoint_segments,
            cleaner_segments,
            low: checkpoint_segments + cleaner_segments + ahead,
            exhausted: false,
            credit: None,
            lent: 0,
        }
    }

    /// Free segments that the log leaves to checkpoints and the cleaner: to checkpoints fewer when it is at its end, for then
    /// little but deletions goes on. What the cleaner needs it never gets: without that no more room could be made.
    pub(crate) fn kept_from_log(&self, log: &Log) -> u32 {
        let end = log.space() <= self.log_reserve;
        self.cleaner_segments + if end { self.kept_from_cleaner() } else { self.checkpoint_segments }
    }

    /// Free segments that the cleaner leaves to checkpoints.
    pub(crate) fn kept_from_cleaner(&self) -> u32 {
        self.checkpoint_segments / 2
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

    /// A host has written so many bytes.
    pub(crate) fn spend(&mut self, log: &Log, bytes: usize) {
        if log.space() <= self.easy
            && let Some(credit) = &mut self.credit
        {
            *credit -= bytes as i64;
        }
    }

    /// A checkpoint begins, while which the cleaner gains nothing: hosts may go on, but not use up the log. It is lent to them:
    /// what is given away at each checkpoint would leave the log at its end, where every segment that is gained asks for another
    /// one.
    pub(crate) fn lend(&mut self, log: &Log) {
        if let Some(credit) = &mut self.credit {
            let enough = (log.space().saturating_sub(self.log_reserve) / 2) as i64;
            self.lent += (enough - *credit).max(0);
            *credit = enough.max(*credit);
        }
    }

    /// It is over, and took so many bytes.
    pub(crate) fn settle(&mut self, cost: u64) {
        let lent = std::mem::take(&mut self.lent);
        if let Some(credit) = &mut self.credit {
            *credit -= lent + cost as i64;
        }
    }

    /// The cleaner has gained so many bytes.
    pub(crate) fn earn(&mut self, bytes: u64) {
        *self.credit.get_or_insert(0) += bytes as i64;
    }

    /// Whether what only gives space back is taken.
    pub(crate) fn admit_deletion(&self, log: &Log, who: Who) -> Admit {
        let reserve = match who {
            Who::Anybody => self.deletion_reserve,
            // What it deletes makes room for everybody.
            Who::Steward => self.last_reserve,
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
        let space = log.space();
        let owes = space <= self.easy && self.credit.is_some_and(|credit| credit <= 0);
        if tables.dirty().wait() || owes {
            Admit::Wait
        } else if space > self.log_reserve {
            Admit::Go
        } else if self.exhausted {
            Admit::Full
        } else {
            Admit::Wait
        }
    }
}
