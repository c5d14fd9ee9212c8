//! A thread that has the system clear memory before RAM stores need it, so that the threads which serve hosts do not wait for
//! that: a huge page takes them from 0.1 ms to several.
//!
//! Owns the thread, one for all stores of the process, and nothing of the memory. It must never be waited for: a store that it is
//! late for has memory in small pages.

use caisson_block::Pool;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::Thread;

/// What a store and the thread share.
#[derive(Default)]
struct Store {
    pools: Mutex<Vec<Pool>>,
    /// Whether there is something to do that the thread has not seen yet.
    asked: AtomicBool,
    over: AtomicBool,
}

/// The stores that there are, some that there were, and whether the thread has been asked to look at them since it last did.
static STORES: Mutex<Vec<Weak<Store>>> = Mutex::new(Vec::new());
static ASKED: AtomicBool = AtomicBool::new(false);
/// None where the system refuses another thread.
static THREAD: OnceLock<Option<Thread>> = OnceLock::new();

/// A store's part in it.
pub(crate) struct Ahead(Arc<Store>);

impl Ahead {
    /// Begins it. The thread is started with the first, on the cores that the caller may run on.
    pub(crate) fn start() -> Ahead {
        let store = Arc::new(Store::default());
        let mut stores = lock(&STORES);
        stores.retain(|s| s.strong_count() > 0);
        stores.push(Arc::downgrade(&store));
        drop(stores);
        THREAD.get_or_init(|| {
            let builder = std::thread::Builder::new().name("caisson-memory".into()).stack_size(128 << 10);
            builder.spawn(run).ok().map(|t| t.thread().clone())
        });
        Ahead(store)
    }

    /// Sees to another pool from now on.
    pub(crate) fn add(&self, pool: Pool) {
        lock(&self.0.pools).push(pool);
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
        if !self.0.asked.load(Ordering::Relaxed) && !self.0.asked.swap(true, Ordering::AcqRel) {
            ASKED.store(true, Ordering::Release);
            if let Some(Some(thread)) = THREAD.get() {
                thread.unpark();
            }
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run() {
    loop {
        if !ASKED.swap(false, Ordering::AcqRel) {
            std::thread::park();
            continue;
        }
        let stores: Vec<_> = lock(&STORES).iter().filter_map(Weak::upgrade).collect();
        stores.iter().filter(|s| s.asked.swap(false, Ordering::AcqRel)).for_each(|s| s.work());
    }
}

impl Store {
    fn work(&self) {
        let pools = lock(&self.pools).clone();
        for pool in pools {
            let mut lags = pool.lags();
            while lags && !self.over.load(Ordering::Acquire) {
                lags = pool.make_ready();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn one_thread_sees_to_all_stores_that_are_there() {
        let pools = || Pool::ahead(4096, 4096).unwrap();
        let stores: Vec<_> = (0..3).map(|_| (Ahead::start(), pools())).collect();
        let (gone, kept) = (Ahead::start(), pools());
        gone.add(kept.clone());
        drop(gone);
        for (ahead, pool) in &stores {
            ahead.add(pool.clone());
            ahead.look(pool);
        }
        let began = Instant::now();
        while stores.iter().any(|(_, pool)| pool.lags()) {
            assert!(began.elapsed() < Duration::from_secs(60), "nobody makes their memory ready");
            std::thread::sleep(Duration::from_millis(1));
        }
        let names = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = names.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok());
        assert_eq!(names.filter(|name| name.trim() == "caisson-memory").count(), 1);
        assert!(kept.lags(), "of a store that is gone, nothing is made ready");
    }
}
