//! One request of a file volume under way: its steps are an `async` function, and this drives it on a thread's ring.
//!
//! The steps ([`crate::steps`]) never see the thread: they [ask](Port) for a claim, for buffers, for a device operation,
//! and go on with the answer. The job does what is asked with the thread's [`Cx`] and polls the steps again when the
//! answer is there, always on the thread that submitted the request. There is no runtime and no waker.

use crate::claims::{Claim, Range, Standing, Waiter};
use crate::file::Inner;
use caisson_block::{BlockError, BufList, Cx, Extent, IoKind, Outcome, Parked, Tag};
use caisson_device::{Client, StoreError};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What the steps can ask for.
enum Ask {
    Claim([Range; 2]),
    /// So many bytes of aligned buffers each, all or none.
    Buffers([usize; 3]),
    Io(IoKind, u64, BufList),
    /// Make this set of unreadable blocks (of that version) durable.
    Keep(Vec<Extent>, u64),
}

enum Answer {
    Claim(Claim),
    Buffers([BufList; 3]),
    Io(Result<BufList, StoreError>),
    Kept(std::io::Result<()>),
}

/// The steps' side of a job.
pub(crate) struct Port(Arc<Mutex<Mail>>);

#[derive(Default)]
struct Mail {
    ask: Option<Ask>,
    answer: Option<Answer>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    async fn ask(&self, ask: Ask) -> Answer {
        lock(&self.0).ask = Some(ask);
        std::future::poll_fn(|_| match lock(&self.0).answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }

    /// The claim, when it is granted.
    pub(crate) async fn claim(&self, ranges: [Range; 2]) -> Claim {
        match self.ask(Ask::Claim(ranges)).await {
            Answer::Claim(claim) => claim,
            _ => unreachable!("a claim is answered with a claim"),
        }
    }

    /// Unshared, aligned buffers, when there are enough. Never asked for while the job holds others: all that a request
    /// needs at a time is asked for at once, so that two cannot wait for each other.
    pub(crate) async fn buffers(&self, lens: [usize; 3]) -> [BufList; 3] {
        match self.ask(Ask::Buffers(lens)).await {
            Answer::Buffers(lists) => lists,
            _ => unreachable!("buffers are answered with buffers"),
        }
    }

    /// The buffers back, when the operation is over.
    pub(crate) async fn io(&self, kind: IoKind, offset: u64, bufs: BufList) -> Result<BufList, StoreError> {
        match self.ask(Ask::Io(kind, offset, bufs)).await {
            Answer::Io(result) => result,
            _ => unreachable!("an operation is answered with its end"),
        }
    }

    /// Makes a set of unreadable blocks durable, if none newer is.
    pub(crate) async fn keep(&self, runs: Vec<Extent>, version: u64) -> Result<(), BlockError> {
        let lba = runs.first().map_or(0, |r| r.lba);
        match self.ask(Ask::Keep(runs, version)).await {
            Answer::Kept(Ok(())) => Ok(()),
            Answer::Kept(Err(_)) => Err(BlockError::WriteFault { lba }),
            _ => unreachable!("keeping is answered with its end"),
        }
    }
}

type Steps = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A request under way.
pub(crate) struct Job {
    inner: Arc<Inner>,
    tag: Tag,
    mail: Arc<Mutex<Mail>>,
    steps: Mutex<Option<Steps>>,
    waits: Mutex<Waits>,
}

/// What the job waits for, by the token it is woken with.
#[derive(Default)]
struct Waits {
    claim: Option<Claim>,
    buffers: [usize; 3],
    kept: Option<std::io::Result<()>>,
}

/// Tokens of [`Job::woken`].
const CLAIM: u64 = 0;
const BUFFERS: u64 = 1;
const KEPT: u64 = 2;

impl Job {
    /// Starts the steps that `make` makes, and completes `tag` with what they give.
    pub(crate) fn start<F>(inner: Arc<Inner>, cx: &mut Cx<'_>, tag: Tag, make: impl FnOnce(Port) -> F)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mail = Arc::<Mutex<Mail>>::default();
        let steps = Box::pin(make(Port(Arc::clone(&mail))));
        let job = Job { inner, tag, mail, steps: Mutex::new(Some(steps)), waits: Mutex::default() };
        Arc::new(job).drive(cx);
    }

    fn drive(self: Arc<Self>, cx: &mut Cx<'_>) {
        loop {
            let polled = match &mut *lock(&self.steps) {
                Some(steps) => steps.as_mut().poll(&mut Context::from_waker(Waker::noop())),
                None => return,
            };
            if let Poll::Ready(outcome) = polled {
                // What the steps held, claims above all, goes before the completion is seen.
                drop(lock(&self.steps).take());
                return cx.complete(self.tag, outcome);
            }
            let ask = lock(&self.mail).ask.take();
            match ask.and_then(|ask| self.execute(cx, ask)) {
                Some(answer) => lock(&self.mail).answer = Some(answer),
                None => return,
            }
        }
    }

    /// Does what is asked. The answer, if it is there at once.
    fn execute(self: &Arc<Self>, cx: &mut Cx<'_>, ask: Ask) -> Option<Answer> {
        match ask {
            Ask::Claim(ranges) => {
                let remote = cx.remote;
                let waiter =
                    || Waiter { remote: Arc::clone(remote), who: Arc::clone(self) as _, token: CLAIM };
                match self.inner.claims.claim(ranges, waiter) {
                    Standing::Granted(claim) => Some(Answer::Claim(claim)),
                    // The wake comes on this thread, so not before this is stored.
                    Standing::Waiting(claim) => {
                        lock(&self.waits).claim = Some(claim);
                        None
                    }
                }
            }
            Ask::Buffers(lens) => {
                lock(&self.waits).buffers = lens;
                self.take_buffers(cx)
            }
            Ask::Io(kind, offset, bufs) => {
                let client = Arc::clone(self) as _;
                let started = self.inner.store.start(cx, kind, offset, bufs, client, 0);
                started.err().map(|e| Answer::Io(Err(e)))
            }
            Ask::Keep(runs, version) => self.keep(cx, runs, version),
        }
    }

    fn take_buffers(self: &Arc<Self>, cx: &mut Cx<'_>) -> Option<Answer> {
        let lens = lock(&self.waits).buffers;
        let taken = self.inner.buffers.take(lens);
        if taken.is_none() {
            self.inner.buffers.wait(lens, Arc::clone(cx.remote), Arc::clone(self) as _, BUFFERS);
        }
        taken.map(Answer::Buffers)
    }

    /// Keeping waits for a disk, and is rare: it has a thread of its own each time.
    fn keep(self: &Arc<Self>, cx: &mut Cx<'_>, runs: Vec<Extent>, version: u64) -> Option<Answer> {
        if !self.inner.keeper.as_ref().is_some_and(|k| k.blocks()) {
            return Some(Answer::Kept(self.inner.keep_blocking(&runs, version)));
        }
        let (job, remote) = (Arc::clone(self), Arc::clone(cx.remote));
        let spawned = std::thread::Builder::new().name("keep-marks".into()).spawn(move || {
            let result = job.inner.keep_blocking(&runs, version);
            if let Err(e) = &result {
                let store = job.inner.store.path().display();
                tracing::error!("cannot keep the unreadable blocks of {store}: {e}");
            }
            lock(&job.waits).kept = Some(result);
            remote.wake(job, KEPT);
        });
        spawned.err().map(|e| Answer::Kept(Err(e)))
    }
}

impl Client for Job {
    fn finished(self: Arc<Self>, cx: &mut Cx<'_>, _: u64, bufs: BufList, result: Result<(), StoreError>) {
        lock(&self.mail).answer = Some(Answer::Io(result.map(|()| bufs)));
        self.drive(cx);
    }
}

impl Parked for Job {
    fn woken(self: Arc<Self>, cx: &mut Cx<'_>, token: u64) {
        let answer = match token {
            CLAIM => lock(&self.waits).claim.take().map(Answer::Claim),
            BUFFERS => self.take_buffers(cx),
            _ => lock(&self.waits).kept.take().map(Answer::Kept),
        };
        if answer.is_some() {
            lock(&self.mail).answer = answer;
            self.drive(cx);
        }
    }
}
