//! What one data-plane thread has of one device.

use caisson_block::Mono;
use caisson_rdma::{Keys, Memory, Receives, Regions};
use caisson_tables::IntMap;
use caisson_verbs::{Completion, CompletionQueue, ReceiveQueue, Scratch};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Completions taken at once.
const TAKEN: usize = 64;
/// How long completions of what nobody waits for may lie, in milliseconds.
const LAZY_MS: u64 = 5;
/// Receives posted at once.
const POSTED: usize = 256;

/// The regions of a device, as the control thread has last registered them.
#[derive(Default)]
pub(crate) struct Table {
    changes: AtomicU64,
    current: Mutex<Arc<Regions>>,
}

impl Table {
    /// Puts new regions in force.
    pub(crate) fn publish(&self, regions: Regions) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(regions);
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// Has the driver tell when a descriptor is readable, or forget to.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(BorrowedFd<'_>);

/// A completion queue, what was taken of it and not looked at yet, and what was asked of its channel.
struct Watched {
    cq: Arc<CompletionQueue>,
    taken: Box<[Completion]>,
    taken_len: usize,
    armed: bool,
    watched: bool,
}

impl Watched {
    fn new(cq: Arc<CompletionQueue>) -> Watched {
        let taken = vec![Completion::default(); TAKEN].into_boxed_slice();
        Watched { cq, taken, taken_len: 0, armed: false, watched: false }
    }

    /// Asks it where nothing is taken; whether something is now.
    #[inline]
    fn poll(&mut self) -> io::Result<bool> {
        if self.taken_len == 0 {
            self.taken_len = self.cq.poll(&mut self.taken)?;
        }
        Ok(self.taken_len > 0)
    }

    /// All that is there, about `most`, into `into`. What was taken before may not be all: when a queue pair's last receive was told, or
    /// its end, whatever it completed before that is to be seen.
    fn take(&mut self, most: usize, into: &mut Vec<Completion>) -> io::Result<()> {
        while into.len() < most {
            let asked = self.taken_len == 0;
            if !self.poll()? {
                break;
            }
            let taken = std::mem::take(&mut self.taken_len);
            into.extend_from_slice(&self.taken[..taken]);
            if asked && taken < self.taken.len() {
                // It had no more.
                break;
            }
        }
        Ok(())
    }

    /// Takes what its channel has told, which some drivers tell over and over until then.
    fn settle(&mut self) {
        if self.armed && self.cq.silence() {
            (self.armed, self.watched) = (false, false);
        }
    }

    /// Arms it where it is not; whether it was armed now.
    fn arm(&mut self) -> bool {
        if self.armed || self.cq.arm().is_err() {
            return false;
        }
        self.armed = true;
        true
    }

    fn watch(&mut self, watch: Watch<'_>) {
        if self.armed && !std::mem::replace(&mut self.watched, true) {
            watch(self.cq.as_fd());
        }
    }
}

/// One device, seen from one thread.
pub(crate) struct Port {
    /// Which device.
    pub(crate) device: usize,
    /// What SENDs and RDMA READs complete to, and what receives do. A response that went out wakes nobody: where nothing waits
    /// for it, only receives are armed.
    sends: Watched,
    receives_done: Watched,
    srq: Arc<ReceiveQueue>,
    pub(crate) receives: Receives,
    pub(crate) memory: Memory,
    table: Arc<Table>,
    seen: u64,
    pub(crate) keys: Arc<Regions>,
    /// Connections by the number of their queue pair, which the device gives out.
    pub(crate) by_number: IntMap<u32, u32>,
    /// Of queue pairs that were not known yet when they came.
    pub(crate) strange: Vec<Completion>,
    /// Connections that wait for the device to complete what it has, and those whose buffers it has.
    pub(crate) awaiting: u32,
    pub(crate) unretired: u32,
    /// When what it has is looked at for the buffers' sake; beyond that, its completions are armed, too.
    lazy: Option<Mono>,
    /// The device has gone.
    pub(crate) retired: bool,
    /// The queue does not work any more, and this was said.
    failed: bool,
    wrs: Vec<caisson_rdma::receive::RecvWr>,
}

impl Port {
    pub(crate) fn new(
        device: usize,
        [sends, received]: [Arc<CompletionQueue>; 2],
        srq: Arc<ReceiveQueue>,
        receives: Receives,
        memory: Memory,
        table: Arc<Table>,
    ) -> Port {
        Port {
            device,
            sends: Watched::new(sends),
            receives_done: Watched::new(received),
            srq,
            receives,
            memory,
            table,
            seen: u64::MAX,
            keys: Arc::default(),
            by_number: IntMap::default(),
            strange: Vec::new(),
            awaiting: 0,
            unretired: 0,
            lazy: None,
            retired: false,
            failed: false,
            wrs: Vec::new(),
        }
    }

    /// Sees what was registered meanwhile.
    #[inline]
    pub(crate) fn renew(&mut self) {
        let changes = self.table.changes.load(Ordering::Acquire);
        if changes != self.seen {
            self.seen = changes;
            self.keys = Arc::clone(&self.table.current.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Whether completions are there that are worth a turn; asks the device, without a system call. That a response went out
    /// is not, where nothing waits for it: it is looked at with what comes next.
    #[inline]
    pub(crate) fn ready(&mut self) -> bool {
        if self.failed {
            return !self.strange.is_empty();
        }
        let came = self.receives_done.poll();
        let found = match came {
            Ok(false) if self.awaiting > 0 || self.sends.armed => self.sends.poll(),
            other => other,
        };
        self.judge(found) || !self.strange.is_empty()
    }

    /// Notes where a queue failed.
    #[inline]
    fn judge<T: Default>(&mut self, found: io::Result<T>) -> T {
        found.unwrap_or_else(|error| {
            self.failed = true;
            tracing::error!(%error, "an RDMA completion queue failed: its connections end by their time-outs");
            T::default()
        })
    }

    /// All that is there, about `most` of each queue, into `into`: what has gone out first, so that there is room for answers
    /// to what came.
    pub(crate) fn take(&mut self, most: usize, into: &mut Vec<Completion>) {
        if self.failed {
            return;
        }
        let before = into.len();
        let sends = self.sends.take(before + most, into);
        if into.len() > before {
            self.lazy = None;
        }
        let taken = sends.and_then(|()| self.receives_done.take(into.len() + most, into));
        self.judge(taken);
    }

    /// Posts what receives there are buffers for.
    pub(crate) fn refill(&mut self, scratch: &mut Scratch) {
        if self.receives.posted() == self.receives.len() || self.retired {
            return;
        }
        self.wrs.clear();
        let keys: &dyn Keys = &*self.keys;
        self.receives.fill(keys, POSTED, &mut self.wrs);
        // SAFETY: the lists name buffers that `receives` keeps to itself until their completion, in pools that stay
        // registered for as long as the device is used (`devices`).
        let posted = unsafe { self.srq.post(&self.wrs, scratch) };
        if let Err(refused) = posted {
            let first = self.wrs.len() - refused.requests;
            self.wrs[first..].iter().for_each(|w| self.receives.give_back(w.id));
            tracing::debug!(errno = refused.errno, "the device takes no more receives");
        }
    }

    /// The same until no more can be posted.
    pub(crate) fn fill(&mut self, scratch: &mut Scratch) {
        let mut before = u32::MAX;
        while before != self.receives.posted() {
            before = self.receives.posted();
            self.refill(scratch);
        }
    }

    /// Arms the completion queues that matter and has their channels watched. `false` when something is there to be looked at instead.
    pub(crate) fn sleep(&mut self, now: Mono, watch: Watch<'_>) -> bool {
        if self.failed || self.retired {
            return true;
        }
        let patience_over = self.lazy.is_some_and(|at| at <= now);
        self.receives_done.settle();
        self.sends.settle();
        let mut armed = self.receives_done.arm();
        if self.awaiting > 0 || patience_over {
            let gone = self.sends.poll();
            if self.judge(gone) {
                return false;
            }
            armed |= self.sends.arm();
        }
        // What came between the last look and the arming is not told.
        if armed && self.ready() {
            return false;
        }
        self.receives_done.watch(watch);
        self.sends.watch(watch);
        self.receives_done.taken_len == 0 && self.sends.taken_len == 0
    }

    /// Has the driver forget its channels: a file that is polled is held, and a device that goes waits for all of its files.
    pub(crate) fn part(&self, unwatch: Watch<'_>) {
        unwatch(self.receives_done.cq.as_fd());
        unwatch(self.sends.cq.as_fd());
    }

    /// Notes at the end of a turn that the device has buffers for which nobody waits.
    pub(crate) fn rest(&mut self, now: Mono) {
        if self.unretired == 0 {
            self.lazy = None;
        } else if self.lazy.is_none() {
            self.lazy = Some(now.plus_ms(LAZY_MS));
        }
    }

    /// When it must be looked at although nothing is told.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.lazy.filter(|_| !self.sends.armed && !self.retired)
    }
}
