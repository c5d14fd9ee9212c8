//! A thread that a pool's background runs on, and that runs a pool's functions for callers who may block.

use crate::pool::Pool;
use crate::state::Inner;
use caisson_block::{Completions, Cx, Mono, Parked, Remote};
use caisson_device::execute;
use caisson_device::threaded::{self, Does, ThreadRing};
use caisson_task::{Port, Task};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Device operations that the background has under way at most.
const DEPTH: usize = 64;
/// How long the thread rests at most; a bound, for no condition variable waits for ever with a time.
const LONGEST: Duration = Duration::from_secs(3600);
/// Threads that do them.
const THREADS: usize = 4;

type Job = Box<dyn FnOnce(&mut Cx<'_>) + Send>;

/// What the thread is to do.
#[derive(Default)]
struct Queue {
    wakes: VecDeque<(Arc<dyn Parked>, u64)>,
    jobs: VecDeque<Job>,
    /// A device operation is over.
    reap: bool,
    closed: bool,
}

struct Mailbox {
    queue: Mutex<Queue>,
    news: Condvar,
    /// The pools whose background is on this thread.
    tended: Mutex<Vec<Weak<Inner>>>,
}

impl Mailbox {
    fn tended(&self) -> MutexGuard<'_, Vec<Weak<Inner>>> {
        self.tended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls those whose time has come. Gives the time until the next one's.
    fn ring(&self, now: Mono) -> Option<Duration> {
        let pools: Vec<Arc<Inner>> = self.tended().iter().filter_map(Weak::upgrade).collect();
        pools.iter().filter_map(|inner| inner.ring(now)).min()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote for Mailbox {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        let mut queue = self.queue();
        if !queue.closed {
            queue.wakes.push_back((who, token));
            self.news.notify_one();
        }
    }
}

/// A thread of a pool's own.
pub struct Host {
    mailbox: Arc<Mailbox>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Host {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, when it refuses one.
    pub fn start(name: &str) -> io::Result<Host> {
        Host::start_over(name, Arc::new(execute))
    }

    /// Starts the thread over devices whose operations `does` does: a test lets some fail.
    ///
    /// # Errors
    /// As [`Host::start`].
    pub fn start_over(name: &str, does: Does) -> io::Result<Host> {
        let mailbox =
            Arc::new(Mailbox { queue: Mutex::default(), news: Condvar::new(), tended: Mutex::default() });
        let waker = Arc::downgrade(&mailbox);
        let ring = ThreadRing::done_by(does, THREADS, DEPTH, move || {
            if let Some(mailbox) = waker.upgrade() {
                mailbox.queue().reap = true;
                mailbox.news.notify_one();
            }
        })?;
        let own = Arc::clone(&mailbox);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || serve(own, ring))?;
        Ok(Host { mailbox, thread: Mutex::new(Some(thread)) })
    }

    /// Runs the function that `make` makes on the thread, and waits for what it gives. Not to be called from the thread
    /// itself.
    ///
    /// # Panics
    /// When the thread has ended.
    pub fn run<T, F>(&self, make: impl FnOnce(Port) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let slot = Arc::new((Mutex::new(None), Condvar::new()));
        let filled = Arc::clone(&slot);
        self.post(Box::new(move |cx| {
            Task::spawn(cx, move |port| {
                let work = make(port);
                async move {
                    let value = work.await;
                    *filled.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
                    filled.1.notify_one();
                }
            });
        }));
        let guard = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guard = slot.1.wait_while(guard, |v| v.is_none()).unwrap_or_else(PoisonError::into_inner);
        guard.take().expect("it was waited for")
    }

    /// Starts the pool's background on the thread.
    pub fn tend(&self, pool: &Pool) {
        let tended = Arc::downgrade(&pool.0);
        self.mailbox.tended().push(tended);
        pool.tend(|make| self.post(Box::new(move |cx| Task::spawn(cx, make))));
    }

    fn post(&self, job: Job) {
        let mut queue = self.mailbox.queue();
        assert!(!queue.closed, "the pool's thread has ended");
        queue.jobs.push_back(job);
        self.mailbox.news.notify_one();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.mailbox.queue().closed = true;
        self.mailbox.news.notify_one();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
        let tended = std::mem::take(&mut *self.mailbox.tended());
        tended.iter().filter_map(Weak::upgrade).for_each(|inner| inner.abandon());
    }
}

fn serve(mailbox: Arc<Mailbox>, mut ring: ThreadRing) {
    let remote: Arc<dyn Remote> = mailbox.clone();
    let mut done = Completions::default();
    let origin = Instant::now();
    let mut finished = Vec::new();
    loop {
        let sleep = mailbox.ring(Mono(origin.elapsed().as_nanos() as u64)).unwrap_or(Duration::MAX);
        // What was computed with keys stays on no stack while nobody works there.
        caisson_keys::cleanse_stack();
        let (wakes, jobs) = {
            let idle = |q: &mut Queue| q.wakes.is_empty() && q.jobs.is_empty() && !q.reap && !q.closed;
            let queue = mailbox.queue();
            let waited = mailbox.news.wait_timeout_while(queue, sleep.min(LONGEST), idle);
            let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if queue.closed {
                break;
            }
            queue.reap = false;
            (std::mem::take(&mut queue.wakes), std::mem::take(&mut queue.jobs))
        };
        ring.reap_into(&mut finished);
        let now = Mono(origin.elapsed().as_nanos() as u64);
        let mut cx = Cx { now, done: &mut done, ring: &mut ring, remote: &remote };
        for (op, result) in finished.drain(..) {
            threaded::deliver(&mut cx, op, result);
        }
        wakes.into_iter().for_each(|(who, token)| who.woken(&mut cx, token));
        jobs.into_iter().for_each(|job| job(&mut cx));
    }
    // What is parked here holds the mailbox; it goes with the queue.
    let left = std::mem::take(&mut *mailbox.queue());
    mailbox.queue().closed = true;
    drop(left);
}
