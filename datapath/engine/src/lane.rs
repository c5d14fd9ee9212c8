//! One piece of heavy work a turn and thread: what keeps a flood of large commands from holding up small ones.
//!
//! A command of many blocks does its hashing, compressing and unpacking in slices. Each slice takes the thread's lane, of
//! which there is one; whoever finds it taken waits in line and is woken for a later turn. So however many large
//! commands are under way on a thread, one slice is done between two looks at its sockets, and a small command, which
//! needs no lane, waits for one slice at most.
//!
//! What has begun goes before what has not: a chunk that is half done holds memory that is warm now, and finishing it
//! frees its command's buffers sooner than beginning another would. A chunk is bounded, so nobody starves.

use crate::bounds::SLICE_WORK;
use crate::state::Inner;
use caisson_block::{Cx, Parked, Remote};
use caisson_tables::IntMap;
use caisson_task::{Port, Waiter};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The lanes of a pool, one for each thread that uses it, by the thread's [`Remote`].
#[derive(Default)]
pub(crate) struct Lanes(Mutex<IntMap<usize, Lane>>);

#[derive(Default)]
struct Lane {
    /// From the beginning of a slice until the turn after it.
    taken: bool,
    line: VecDeque<Waiter>,
}

fn name(remote: &Arc<dyn Remote>) -> usize {
    Arc::as_ptr(remote).addr()
}

impl Lanes {
    fn all(&self) -> MutexGuard<'_, IntMap<usize, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets who waits: for tasks whose threads have ended.
    pub(crate) fn forget(&self) {
        let lanes = std::mem::take(&mut *self.all());
        drop(lanes);
    }
}

/// The slices of one piece of work.
pub(crate) struct Pace<'a> {
    inner: &'a Arc<Inner>,
    port: &'a Port,
    /// What is short enough to be done at once needs no lane.
    divided: bool,
    begun: bool,
    slice: Option<Slice>,
    /// What the slice may still do.
    left: u32,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(inner: &'a Arc<Inner>, port: &'a Port, divided: bool) -> Pace<'a> {
        Pace { inner, port, divided, begun: false, slice: None, left: 0 }
    }

    /// Goes on when there is time for so much work (see [`SLICE_WORK`]): at once, or at a later turn.
    pub(crate) async fn spend(&mut self, work: u32) {
        if !self.divided {
            return;
        }
        if self.slice.is_none() || self.left < work {
            self.rest();
            self.slice = Some(slice(self.inner, self.port, self.begun).await);
            (self.begun, self.left) = (true, SLICE_WORK);
        }
        self.left = self.left.saturating_sub(work);
    }

    /// Lets go of the lane: before anything is waited for.
    pub(crate) fn rest(&mut self) {
        self.slice = None;
    }
}

/// The lane, until dropped. Never held across a wait.
struct Slice {
    inner: Arc<Inner>,
    remote: Arc<dyn Remote>,
}

/// Waits for the lane of this thread, at the front of the line for what has `begun`.
async fn slice(inner: &Arc<Inner>, port: &Port, begun: bool) -> Slice {
    let ticket = port.ticket();
    let mine = {
        let mut lanes = inner.lanes.all();
        let lane = lanes.entry(name(port.remote())).or_default();
        let free = !std::mem::replace(&mut lane.taken, true);
        match (free, begun) {
            (true, _) => {}
            (false, true) => lane.line.push_front(port.waiter(ticket)),
            (false, false) => lane.line.push_back(port.waiter(ticket)),
        }
        free
    };
    if !mine {
        // Whoever is woken has been given the lane.
        port.parked(ticket).await;
    }
    Slice { inner: Arc::clone(inner), remote: Arc::clone(port.remote()) }
}

impl Drop for Slice {
    /// The lane goes on at the thread's next turn, not before.
    fn drop(&mut self) {
        self.remote.wake(Arc::new(Opener(Arc::clone(&self.inner))), 0);
    }
}

/// Gives the lane to the next in line.
struct Opener(Arc<Inner>);

impl Parked for Opener {
    fn woken(self: Arc<Self>, cx: &mut Cx<'_>, _: u64) {
        let next = {
            let mut lanes = self.0.lanes.all();
            let lane = lanes.entry(name(cx.remote)).or_default();
            let next = lane.line.pop_front();
            lane.taken = next.is_some();
            next
        };
        if let Some(Waiter { who, token, .. }) = next {
            who.woken(cx, token);
        }
    }
}
