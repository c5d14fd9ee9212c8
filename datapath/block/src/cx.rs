//! What a thread hands to the code that runs on it: time, completions, device I/O, a way back from other threads.

use crate::list::BufList;
use crate::request::{Outcome, Tag};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Monotonic time in nanoseconds since an origin that is the same for all threads of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since `earlier`; 0 when that is later.
    #[inline]
    pub const fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Requests that are done and have not been given to their queues yet.
#[derive(Debug, Default)]
pub struct Completions {
    done: Vec<(Tag, Outcome)>,
    /// Lists without buffers but with capacity, to spare an allocation an I/O.
    spare: Vec<BufList>,
}

/// How many spare lists a thread keeps.
const SPARE_LISTS: usize = 1024;

impl Completions {
    /// Takes the oldest completions out, in order, into `into` (which should be empty; its capacity is reused).
    pub fn take(&mut self, into: &mut Vec<(Tag, Outcome)>) {
        std::mem::swap(&mut self.done, into);
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }
}

/// What the thread hands to code that runs on it, for the length of one call.
pub struct Cx<'a> {
    /// The time, read once a turn of the thread's loop.
    pub now: Mono,
    /// Where completions go.
    pub done: &'a mut Completions,
    /// The thread's way to devices.
    pub ring: &'a mut dyn Ring,
    /// How another thread can come back to this one.
    pub remote: &'a Arc<dyn Remote>,
}

impl Cx<'_> {
    /// Completes the request `tag`. Called exactly once for each.
    #[inline]
    pub fn complete(&mut self, tag: Tag, outcome: Outcome) {
        self.done.done.push((tag, outcome));
    }

    /// An empty list, with capacity from an earlier use where there is one.
    #[inline]
    pub fn list(&mut self) -> BufList {
        self.done.list()
    }

    /// Gives a list back for [`Cx::list`].
    #[inline]
    pub fn recycle(&mut self, list: BufList) {
        self.done.recycle(list);
    }
}

impl Completions {
    /// An empty list, with capacity from an earlier use where there is one; for code that has no [`Cx`].
    #[inline]
    pub fn list(&mut self) -> BufList {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives a list back for [`Cx::list`]. Its buffers are dropped. One that never held a buffer is of no use and not
    /// kept.
    #[inline]
    pub fn recycle(&mut self, mut list: BufList) {
        if list.capacity() > 0 && self.spare.len() < SPARE_LISTS {
            list.clear();
            self.spare.push(list);
        }
    }
}

/// An operation on a file or block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Read into [`IoOp::bufs`], all of it from `offset` on.
    Read,
    /// Write [`IoOp::bufs`]; `dsync` makes it durable before it completes (RWF_DSYNC).
    Write {
        /// Durable before it completes.
        dsync: bool,
    },
    /// Make everything written before durable: data and what is needed to read it (fdatasync).
    Sync,
    /// Deallocate `len` bytes; they read as zeroes (fallocate PUNCH_HOLE | KEEP_SIZE).
    PunchHole {
        /// Bytes.
        len: u64,
    },
    /// Make `len` bytes read as zeroes without giving their space back (fallocate ZERO_RANGE | KEEP_SIZE).
    ZeroRange {
        /// Bytes.
        len: u64,
    },
}

/// One device operation. It owns its buffers until the ring gives it back.
///
/// For [`IoKind::Read`] the buffers are from [`crate::BufMut`]s, and nobody else looks at their bytes until the
/// operation is over: the ring writes to them.
pub struct IoOp {
    /// What to do.
    pub kind: IoKind,
    /// The file; opened by the store, with O_DIRECT where it can.
    pub file: Arc<OwnedFd>,
    /// Byte offset in the file.
    pub offset: u64,
    /// The buffers, aligned as the file needs.
    pub bufs: BufList,
    /// The file's bytes are in memory, so that reads and writes wait for nothing and may be done where they come up.
    pub in_memory: bool,
    /// Whatever the owner wants to find its state by.
    pub token: u64,
    /// Who is told.
    pub owner: Arc<dyn IoOwner>,
}

/// Who started a device operation and is told of its end.
pub trait IoOwner: Send + Sync {
    /// The operation is over and its buffers are the owner's again. `result` is the number of bytes moved (which may
    /// be fewer than asked for) or the errno. Called on the thread that submitted it.
    fn done(self: Arc<Self>, cx: &mut Cx<'_>, op: IoOp, result: Result<u32, i32>);
}

/// A thread's way to devices: io_uring, a pool of blocking threads, or a simulator.
pub trait Ring {
    /// Starts `op`.
    ///
    /// # Errors
    /// Hands `op` back when the ring is full: the caller keeps it and tries again when something of its own is done,
    /// or fails the request with [`crate::BlockError::Interrupted`].
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp>;
}

/// A way back to a thread of the data plane from any other.
pub trait Remote: Send + Sync {
    /// Has `who.woken(token)` called on that thread soon. A thread that ends drops everybody it was to wake, and from
    /// then on this drops `who`: what waits holds claims and buffers.
    fn wake(&self, who: Arc<dyn Parked>, token: u64);

    /// As [`Remote::wake`], for a piece of heavy work (tens of microseconds): it is called when what is prompt has been
    /// seen to, within the thread's share of time for such work, in the order asked for; [`Heavy::Started`] before all
    /// [`Heavy::New`]. For calls from the thread itself. A thread without a share of its own takes it as a wake.
    fn wake_later(&self, who: Arc<dyn Parked>, token: u64, _: Heavy) {
        self.wake(who, token);
    }

    /// Whether a piece of heavy work may be done at once, since none has been done from the time that the thread last
    /// looked at what had come; from now on one has been. For calls from the thread itself.
    fn may_be_heavy(&self) -> bool {
        false
    }

    /// Whether the piece of heavy work that was last begun has had its time; it should then ask again. For calls from the
    /// thread itself. A thread without a share of its own leaves it to the piece.
    fn slice_is_over(&self) -> bool {
        false
    }
}

/// In which order pieces of heavy work are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heavy {
    /// Before all others: work under way that others wait for the end of.
    Started,
    /// In line.
    New,
}

/// Something that waits for another thread.
pub trait Parked: Send + Sync {
    /// Called on the thread that it parked on.
    fn woken(self: Arc<Self>, cx: &mut Cx<'_>, token: u64);
}
