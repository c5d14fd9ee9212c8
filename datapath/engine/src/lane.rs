//! One piece of heavy work a turn and thread: what keeps a flood of large commands from holding up small ones.
//!
//! A command of many blocks does its hashing, compressing and unpacking in slices. Each slice takes the thread's lane, of
//! which there is one; whoever finds it taken waits in line and is woken for a later turn. So however many large
//! commands are under way on a thread, one slice is done between two looks at its sockets, and a small command, which
//! needs no lane, waits for one slice at most.

use caisson_block::{Cx, Parked, Remote};
use caisson_task::{Port, Waiter};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Default)]
struct Lane {
    /// From the beginning of a slice until the turn after it.
    taken: bool,
    line: VecDeque<Waiter>,
}

thread_local! {
    static LANE: RefCell<Lane> = RefCell::default();
}

/// The lane, until dropped. Never held across a wait.
pub(crate) struct Slice(Arc<dyn Remote>);

/// Waits for the lane of this thread.
pub(crate) async fn slice(port: &Port) -> Slice {
    let ticket = port.ticket();
    let mine = LANE.with_borrow_mut(|lane| {
        let free = !std::mem::replace(&mut lane.taken, true);
        if !free {
            lane.line.push_back(port.waiter(ticket));
        }
        free
    });
    if !mine {
        // Whoever is woken has been given the lane.
        port.parked(ticket).await;
    }
    Slice(Arc::clone(port.remote()))
}

impl Drop for Slice {
    /// The lane goes on at the thread's next turn, not before.
    fn drop(&mut self) {
        self.0.wake(Arc::new(Opener), 0);
    }
}

/// Gives the lane to the next in line.
struct Opener;

impl Parked for Opener {
    fn woken(self: Arc<Self>, cx: &mut Cx<'_>, _: u64) {
        let next = LANE.with_borrow_mut(|lane| {
            let next = lane.line.pop_front();
            lane.taken = next.is_some();
            next
        });
        match next {
            Some(Waiter { remote, who, token }) if Arc::ptr_eq(&remote, cx.remote) => who.woken(cx, token),
            // Simulated threads share a real one, and so its lane.
            Some(other) => other.wake(),
            None => {}
        }
    }
}

/// Forgets who waits on this thread: for tasks that were dropped while they waited, as in a simulated crash.
pub(crate) fn forget() {
    let lane = LANE.with_borrow_mut(std::mem::take);
    drop(lane);
}
