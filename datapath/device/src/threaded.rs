//! Device I/O by threads that block: for where the kernel refuses io_uring.
//!
//! Owns its worker threads and the operations handed to it. The submitting thread never waits: it hands operations in,
//! is told by a wake call-back that some are over, and takes those out with [`ThreadRing::reap`].

use crate::blocking;
use caisson_block::{Cx, IoOp, Ring};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// An operation that is over, and how it ended.
type Finished = (IoOp, Result<u32, i32>);

/// Who does an operation, on a thread that may block: it gives the bytes that were moved, or the system's number of the error.
pub type Does = Arc<dyn Fn(&mut IoOp) -> Result<u32, i32> + Send + Sync>;

/// A [`Ring`] whose operations are done by a fixed number of threads, each with a blocking system call.
pub struct ThreadRing {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The most operations that may be under way or not reaped.
    depth: usize,
    /// How many are.
    in_flight: usize,
    /// Kept for its capacity.
    taken: Vec<Finished>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    finished: Mutex<Vec<Finished>>,
    wake: Box<dyn Fn() + Send + Sync>,
    does: Does,
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<IoOp>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ThreadRing {
    /// Starts `threads` workers (at least one) for at most `depth` operations at once. `wake` is called from a worker
    /// when there is something to reap and the last reaping found nothing more; it must not block.
    ///
    /// # Errors
    /// The system's, when it refuses a thread.
    pub fn new(
        threads: usize,
        depth: usize,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<ThreadRing> {
        ThreadRing::done_by(Arc::new(blocking::execute), threads, depth, wake)
    }

    /// The same, over what `does` makes of each operation: a test lets some fail.
    ///
    /// # Errors
    /// As [`ThreadRing::new`].
    pub fn done_by(
        does: Does,
        threads: usize,
        depth: usize,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<ThreadRing> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            finished: Mutex::default(),
            wake: Box::new(wake),
            does,
        });
        let mut ring =
            ThreadRing { shared, workers: Vec::new(), depth: depth.max(1), in_flight: 0, taken: Vec::new() };
        for i in 0..threads.max(1) {
            let shared = Arc::clone(&ring.shared);
            let worker =
                std::thread::Builder::new().name(format!("device-{i}")).spawn(move || shared.work())?;
            ring.workers.push(worker);
        }
        Ok(ring)
    }

    /// Calls `f` with each operation that is over, and says how many there were. To be called on the ring's thread.
    pub fn reap(&mut self, mut f: impl FnMut(IoOp, Result<u32, i32>)) -> usize {
        std::mem::swap(&mut *lock(&self.shared.finished), &mut self.taken);
        let n = self.taken.len();
        self.in_flight -= n;
        for (op, result) in self.taken.drain(..) {
            f(op, result);
        }
        n
    }

    /// Takes out all operations that are over, for callers whose call-back needs the ring itself.
    pub fn reap_into(&mut self, into: &mut Vec<(IoOp, Result<u32, i32>)>) {
        self.reap(|op, result| into.push((op, result)));
    }

    /// Operations that were submitted and not reaped.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }
}

/// Tells the owner of an operation that it is over.
pub fn deliver(cx: &mut Cx<'_>, op: IoOp, result: Result<u32, i32>) {
    let owner = Arc::clone(&op.owner);
    owner.done(cx, op, result);
}

impl Ring for ThreadRing {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        if self.in_flight >= self.depth {
            return Err(op);
        }
        self.in_flight += 1;
        lock(&self.shared.queue).ops.push_back(op);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self) {
        loop {
            let mut queue = lock(&self.queue);
            let mut op = loop {
                match queue.ops.pop_front() {
                    Some(op) => break op,
                    None if queue.closed => return,
                    None => queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(queue);
            let result = (self.does)(&mut op);
            let first = {
                let mut finished = lock(&self.finished);
                finished.push((op, result));
                finished.len() == 1
            };
            if first {
                (self.wake)();
            }
        }
    }
}

impl Drop for ThreadRing {
    /// Waits for the operations under way, whose buffers belong to the kernel until then; what has not begun is dropped
    /// without being done.
    fn drop(&mut self) {
        let waiting = {
            let mut queue = lock(&self.shared.queue);
            queue.closed = true;
            std::mem::take(&mut queue.ops)
        };
        self.shared.work.notify_all();
        drop(waiting);
        for worker in self.workers.drain(..) {
            // A worker has nothing that panics; if it did, its operation is gone with it.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
#[path = "threaded_tests.rs"]
mod tests;
