//! A simulated thread of the data plane: its ring, its completions, and what other threads woke it for.
//!
//! Owns the order in which these are taken, which the caller's generator decides. No thread of the system runs.

use super::Rng;
use super::disk::SimDisk;
use super::ring::SimRing;
use caisson_block::{Completions, Cx, Mono, Outcome, Parked, Remote, Tag};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The time of a simulation, shared by its threads. It stands still unless told to go on.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// The time.
    pub fn now(&self) -> Mono {
        Mono(self.0.load(Ordering::Relaxed))
    }

    /// Lets `ns` nanoseconds pass.
    pub fn advance(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}

/// A simulated thread: its ring, its completions, and what other threads woke it for.
pub struct SimThread {
    ring: SimRing,
    done: Completions,
    woken: Arc<Woken>,
    remote: Arc<dyn Remote>,
    taken: Vec<(Tag, Outcome)>,
    clock: Clock,
}

/// Who is to be woken, and with which token.
type Wakes = VecDeque<(Arc<dyn Parked>, u64)>;

/// What other threads want of this one; `None` when it has ended.
struct Woken(Mutex<Option<Wakes>>);

impl Woken {
    fn queue(&self) -> MutexGuard<'_, Option<Wakes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote for Woken {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        if let Some(queue) = self.queue().as_mut() {
            queue.push_back((who, token));
        }
    }
}

impl Drop for SimThread {
    /// What was parked on it ends with it.
    fn drop(&mut self) {
        let parked = self.woken.queue().take();
        drop(parked);
    }
}

impl SimThread {
    /// A thread with nothing to do, where time stands still.
    pub fn new(disk: &Arc<SimDisk>) -> SimThread {
        SimThread::over(std::slice::from_ref(disk), &Clock::default())
    }

    /// A thread with nothing to do, that reaches all of `disks`.
    ///
    /// # Panics
    /// When there is no disk.
    pub fn over(disks: &[Arc<SimDisk>], clock: &Clock) -> SimThread {
        assert!(!disks.is_empty(), "a thread has a disk");
        let woken = Arc::new(Woken(Mutex::new(Some(Wakes::new()))));
        SimThread {
            ring: SimRing::new(disks),
            done: Completions::default(),
            remote: woken.clone(),
            woken,
            taken: Vec::new(),
            clock: clock.clone(),
        }
    }

    /// Lets it reach another disk.
    pub fn attach(&mut self, disk: &Arc<SimDisk>) {
        self.ring.attach(disk);
    }

    /// Runs `f` on this thread.
    pub fn run<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        let SimThread { ring, done, remote, clock, .. } = self;
        f(&mut Cx { now: clock.now(), done, ring, remote })
    }

    /// Does one thing: goes on with a device operation, or wakes what was to be woken. False when there is neither.
    pub fn turn(&mut self, rng: &mut Rng) -> bool {
        let woken = {
            let mut queue = self.woken.queue();
            let turn = self.ring.idle() || rng.below(2) == 0;
            queue.as_mut().filter(|_| turn).and_then(VecDeque::pop_front)
        };
        if let Some((who, token)) = woken {
            self.run(|cx| who.woken(cx, token));
            return true;
        }
        if self.ring.idle() {
            return false;
        }
        if let Some((op, result)) = self.ring.step() {
            self.run(|cx| crate::threaded::deliver(cx, op, result));
        }
        true
    }

    /// Whether it has nothing to do: no operation is under way, and nobody is to be woken.
    pub fn idle(&self) -> bool {
        self.ring.idle() && self.woken.queue().as_ref().is_none_or(VecDeque::is_empty)
    }

    /// The requests that were completed since it was last asked.
    pub fn completions(&mut self) -> std::vec::Drain<'_, (Tag, Outcome)> {
        self.done.take(&mut self.taken);
        self.taken.drain(..)
    }
}
