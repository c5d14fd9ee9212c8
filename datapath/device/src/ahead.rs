//! A thread that has the system clear memory before a RAM store needs it, so that the threads which serve hosts do not wait for
//! that: a huge page takes them from 0.1 ms to several.
//!
//! Owns the thread and nothing of the memory. It must never be waited for: a store that it is late for has memory in small pages.

use caisson_block::Pool;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

/// What the store and the thread share.
#[derive(Default)]
struct Shared {
    pools: Mutex<Vec<Pool>>,
    /// Whether there is something to do that the thread has not seen yet.
    asked: AtomicBool,
    over: AtomicBool,
}

/// The thread, which ends by itself after this is dropped.
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    /// None where the system refuses another thread.
    thread: Option<Thread>,
}

impl Ahead {
    /// Starts it, on the cores that the caller may run on.
    pub(crate) fn start() -> Ahead {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("caisson-memory".into()).stack_size(128 << 10);
        let started = builder.spawn(move || {
            while !its.over.load(Ordering::Acquire) {
                if !its.asked.swap(false, Ordering::AcqRel) {
                    std::thread::park();
                    continue;
                }
                its.work();
            }
        });
        Ahead { shared, thread: started.ok().map(|t| t.thread().clone()) }
    }

    /// Sees to another pool from now on.
    pub(crate) fn add(&self, pool: Pool) {
        self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
    }

    /// Wakes the thread if `pool` lags.
    #[inline]
    pub(crate) fn look(&self, pool: &Pool) {
        if pool.lags() {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if !self.shared.asked.load(Ordering::Relaxed)
            && !self.shared.asked.swap(true, Ordering::AcqRel)
            && let Some(thread) = &self.thread
        {
            thread.unpark();
        }
    }
}

impl Shared {
    fn work(&self) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pool in pools {
            let mut lags = pool.lags();
            while lags && !self.over.load(Ordering::Acquire) {
                lags = pool.make_ready();
            }
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}
