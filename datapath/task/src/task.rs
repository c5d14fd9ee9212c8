//! The driver of one `async` function, and the port through which that function asks.

use crate::claims::{Claim, Claims, Range, Standing, Waiter};
use caisson_block::{BufList, Cx, Heavy, IoKind, Mono, Outcome, Parked, Remote, Tag};
use caisson_device::{Buffers, Client, FileStore, StoreError};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

/// A device operation that a task asks for.
pub struct Io {
    /// Of which store.
    pub store: Arc<FileStore>,
    /// What to do.
    pub kind: IoKind,
    /// Byte offset in the store.
    pub offset: u64,
    /// The buffers, aligned as the store needs.
    pub bufs: BufList,
}

/// How an operation ended: with its buffers back, or not.
type Ended = Result<BufList, StoreError>;

/// What the function can ask for.
enum Ask {
    Claim(Arc<Claims>, [Range; 2]),
    /// So many bytes of aligned buffers each, all or none.
    Buffers(Buffers, [usize; 3]),
    Io(Io),
    Many(Vec<Io>),
    /// To be polled again at the thread's next turn.
    Pause,
    /// To be polled again when the thread has time for a piece of heavy work.
    Later(Heavy),
    /// Something to be done with the thread, at once.
    Run(Box<dyn FnOnce(&mut Cx<'_>) + Send>),
    /// A function that blocks, to be run on a thread of its own.
    Blocking(Box<dyn FnOnce() + Send>),
}

enum Answer {
    Claim(Claim),
    Buffers([BufList; 3]),
    Io(Ended),
    Many(Vec<Ended>),
    Go,
    Refused(std::io::Error),
}

#[derive(Default)]
struct Mail {
    ask: Option<Ask>,
    answer: Option<Answer>,
    /// The newest ticket given out, and the newest that was woken.
    ticket: u64,
    woken: u64,
    now: Mono,
}

/// The function's side of a task.
pub struct Port {
    mail: Arc<Mutex<Mail>>,
    remote: Arc<dyn Remote>,
    /// The task itself; weak, for the task holds the function that holds this.
    task: Weak<Task>,
}

/// A promise to be woken: give [`Port::waiter`] to whoever has the news, then [`Port::parked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    async fn ask(&self, ask: Ask) -> Answer {
        lock(&self.mail).ask = Some(ask);
        std::future::poll_fn(|_| match lock(&self.mail).answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }

    /// The claim, when it is granted.
    pub async fn claim(&self, claims: &Arc<Claims>, ranges: [Range; 2]) -> Claim {
        match self.ask(Ask::Claim(Arc::clone(claims), ranges)).await {
            Answer::Claim(claim) => claim,
            _ => unreachable!("a claim is answered with a claim"),
        }
    }

    /// Unshared, aligned buffers, when there are enough. Never asked for while the task holds others: all that a request
    /// needs at a time is asked for at once, so that two cannot wait for each other.
    pub async fn buffers(&self, from: &Buffers, lens: [usize; 3]) -> [BufList; 3] {
        match self.ask(Ask::Buffers(from.clone(), lens)).await {
            Answer::Buffers(lists) => lists,
            _ => unreachable!("buffers are answered with buffers"),
        }
    }

    /// The buffers back, when the operation is over.
    ///
    /// # Errors
    /// Each [`StoreError`].
    pub async fn io(&self, io: Io) -> Result<BufList, StoreError> {
        match self.ask(Ask::Io(io)).await {
            Answer::Io(ended) => ended,
            _ => unreachable!("an operation is answered with its end"),
        }
    }

    /// All of these at once, in any order; their ends in the order given, when all are over.
    pub async fn ios(&self, ios: Vec<Io>) -> Vec<Result<BufList, StoreError>> {
        if ios.is_empty() {
            return Vec::new();
        }
        match self.ask(Ask::Many(ios)).await {
            Answer::Many(ended) => ended,
            _ => unreachable!("operations are answered with their ends"),
        }
    }

    /// Lets whatever else waits for this thread have its turn.
    pub async fn pause(&self) {
        self.ask(Ask::Pause).await;
    }

    /// Goes on when the thread may do a piece of heavy work: at once, where none has been done since it last looked at what
    /// had come, or later and in line. To be asked before each piece of tens of microseconds, so that what is prompt
    /// waits for one of them at most; the piece ends with whatever is asked for next.
    pub async fn slice(&self) {
        if !self.remote.may_be_heavy() {
            self.ask(Ask::Later(Heavy::New)).await;
        }
    }

    /// As [`Port::slice`], before all that wait there: for work that others wait for the end of.
    pub async fn next_slice(&self) {
        if !self.remote.may_be_heavy() {
            self.ask(Ask::Later(Heavy::Started)).await;
        }
    }

    /// Whether the slice that was last begun has had its time.
    pub fn slice_is_over(&self) -> bool {
        self.remote.slice_is_over()
    }

    /// Has `f` called with the thread's [`Cx`], at once: to start other tasks, or to wake something on this thread.
    pub async fn run(&self, f: impl FnOnce(&mut Cx<'_>) + Send + 'static) {
        self.ask(Ask::Run(Box::new(f))).await;
    }

    /// What `f`, which may block, gives; it runs on a thread of its own. For what is rare.
    ///
    /// # Errors
    /// The system's, when it refuses a thread.
    pub async fn blocking<T, F>(&self, f: F) -> std::io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let result = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&result);
        let ticket = self.ticket();
        let waiter = self.waiter(ticket);
        let run = Box::new(move || {
            *lock(&kept) = Some(f());
            waiter.wake();
        });
        if let Answer::Refused(e) = self.ask(Ask::Blocking(run)).await {
            return Err(e);
        }
        self.parked(ticket).await;
        let taken = lock(&result).take();
        taken.ok_or_else(|| std::io::Error::other("the thread ended before its work was done"))
    }

    /// A new ticket. A wake for an older one is not taken for this.
    pub fn ticket(&self) -> Ticket {
        let mut mail = lock(&self.mail);
        mail.ticket += 1;
        Ticket(mail.ticket)
    }

    /// What to give to whoever is to wake this task. It may be kept for any time; a wake that comes late does no harm.
    pub fn waiter(&self, ticket: Ticket) -> Waiter {
        let who: Arc<dyn Parked> = match self.task.upgrade() {
            Some(task) => task,
            None => Arc::new(Nobody),
        };
        Waiter { remote: Arc::clone(&self.remote), who, token: ticket.0 }
    }

    /// Goes on when the waiter of `ticket` was woken.
    pub async fn parked(&self, ticket: Ticket) {
        std::future::poll_fn(|_| {
            if lock(&self.mail).woken >= ticket.0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The thread that the task is on.
    pub fn remote(&self) -> &Arc<dyn Remote> {
        &self.remote
    }

    /// The thread's time when it last polled this task.
    pub fn now(&self) -> Mono {
        lock(&self.mail).now
    }
}

/// Stands for a task that has ended.
struct Nobody;

impl Parked for Nobody {
    fn woken(self: Arc<Self>, _: &mut Cx<'_>, _: u64) {}
}

impl Waiter {
    /// Wakes it.
    pub fn wake(self) {
        self.remote.wake(self.who, self.token);
    }
}

type Steps = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A function under way, on one thread.
pub struct Task {
    /// The request that its outcome completes; none for background work, whose outcome nobody asks for.
    tag: Option<Tag>,
    mail: Arc<Mutex<Mail>>,
    steps: Mutex<Option<Steps>>,
    waits: Mutex<Waits>,
}

/// What the task waits for, by the token it is woken with.
#[derive(Default)]
struct Waits {
    claim: Option<Claim>,
    buffers: Option<(Buffers, [usize; 3])>,
    /// Ends of operations asked for together; those that are over, and how many are not.
    many: Vec<Option<Ended>>,
    left: usize,
    /// Only one operation was asked for.
    single: bool,
}

/// Tokens of [`Task::woken`] above all tickets.
const CLAIM: u64 = u64::MAX;
const BUFFERS: u64 = u64::MAX - 1;
const PAUSE: u64 = u64::MAX - 2;

impl Task {
    /// Starts the function that `make` makes, and completes `tag` with what it gives.
    pub fn request<F>(cx: &mut Cx<'_>, tag: Tag, make: impl FnOnce(Port) -> F)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        Task::start(cx, Some(tag), make);
    }

    /// Starts a function that answers nobody: background work.
    pub fn spawn<F>(cx: &mut Cx<'_>, make: impl FnOnce(Port) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Task::start(cx, None, |port| {
            let work = make(port);
            async move {
                work.await;
                Ok(BufList::new())
            }
        });
    }

    fn start<F>(cx: &mut Cx<'_>, tag: Option<Tag>, make: impl FnOnce(Port) -> F)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mail = Arc::<Mutex<Mail>>::default();
        let task = Arc::new_cyclic(|weak: &Weak<Task>| {
            let port = Port { mail: Arc::clone(&mail), remote: Arc::clone(cx.remote), task: weak.clone() };
            let steps: Steps = Box::pin(make(port));
            Task { tag, mail: Arc::clone(&mail), steps: Mutex::new(Some(steps)), waits: Mutex::default() }
        });
        task.drive(cx);
    }

    fn drive(self: Arc<Self>, cx: &mut Cx<'_>) {
        loop {
            lock(&self.mail).now = cx.now;
            let polled = match &mut *lock(&self.steps) {
                Some(steps) => steps.as_mut().poll(&mut Context::from_waker(Waker::noop())),
                None => return,
            };
            if let Poll::Ready(outcome) = polled {
                // What the function held, claims above all, goes before the completion is seen.
                drop(lock(&self.steps).take());
                if let Some(tag) = self.tag {
                    cx.complete(tag, outcome);
                }
                return;
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
            Ask::Claim(claims, ranges) => {
                let remote = cx.remote;
                let waiter =
                    || Waiter { remote: Arc::clone(remote), who: Arc::clone(self) as _, token: CLAIM };
                match claims.claim(ranges, waiter) {
                    Standing::Granted(claim) => Some(Answer::Claim(claim)),
                    // The wake comes on this thread, so not before this is stored.
                    Standing::Waiting(claim) => {
                        lock(&self.waits).claim = Some(claim);
                        None
                    }
                }
            }
            Ask::Buffers(from, lens) => {
                lock(&self.waits).buffers = Some((from, lens));
                self.take_buffers(cx)
            }
            Ask::Io(io) => {
                lock(&self.waits).single = true;
                self.start_io(cx, vec![io])
            }
            Ask::Many(ios) => {
                lock(&self.waits).single = false;
                self.start_io(cx, ios)
            }
            Ask::Pause => {
                cx.remote.wake(Arc::clone(self) as _, PAUSE);
                None
            }
            Ask::Later(heavy) => {
                cx.remote.wake_later(Arc::clone(self) as _, PAUSE, heavy);
                None
            }
            Ask::Run(f) => {
                f(cx);
                Some(Answer::Go)
            }
            Ask::Blocking(run) => {
                let spawned = std::thread::Builder::new().name("caisson-blocking".into()).spawn(run);
                Some(match spawned {
                    Ok(_) => Answer::Go,
                    Err(e) => Answer::Refused(e),
                })
            }
        }
    }

    fn start_io(self: &Arc<Self>, cx: &mut Cx<'_>, ios: Vec<Io>) -> Option<Answer> {
        {
            let mut waits = lock(&self.waits);
            waits.many.clear();
            waits.many.resize_with(ios.len(), || None);
            waits.left = ios.len();
        }
        for (i, io) in ios.into_iter().enumerate() {
            let client = Arc::clone(self) as _;
            if let Err(e) = io.store.start(cx, io.kind, io.offset, io.bufs, client, i as u64) {
                self.ended(i, Err(e));
            }
        }
        self.all_ended()
    }

    fn ended(&self, index: usize, end: Ended) {
        let mut waits = lock(&self.waits);
        if let Some(slot @ None) = waits.many.get_mut(index) {
            *slot = Some(end);
            waits.left -= 1;
        }
    }

    fn all_ended(&self) -> Option<Answer> {
        let mut waits = lock(&self.waits);
        if waits.left > 0 || waits.many.is_empty() {
            return None;
        }
        if waits.single {
            return waits.many.pop().flatten().map(Answer::Io);
        }
        Some(Answer::Many(waits.many.drain(..).flatten().collect()))
    }

    fn take_buffers(self: &Arc<Self>, cx: &mut Cx<'_>) -> Option<Answer> {
        let (from, lens) = lock(&self.waits).buffers.take()?;
        let taken = from.take(lens);
        if taken.is_none() {
            from.wait(lens, Arc::clone(cx.remote), Arc::clone(self) as _, BUFFERS);
            lock(&self.waits).buffers = Some((from, lens));
        }
        taken.map(Answer::Buffers)
    }
}

impl Client for Task {
    fn finished(self: Arc<Self>, cx: &mut Cx<'_>, token: u64, bufs: BufList, result: Result<(), StoreError>) {
        self.ended(token as usize, result.map(|()| bufs));
        if let Some(answer) = self.all_ended() {
            lock(&self.mail).answer = Some(answer);
            self.drive(cx);
        }
    }
}

impl Parked for Task {
    fn woken(self: Arc<Self>, cx: &mut Cx<'_>, token: u64) {
        let answer = match token {
            CLAIM => lock(&self.waits).claim.take().map(Answer::Claim),
            BUFFERS => self.take_buffers(cx),
            PAUSE => Some(Answer::Go),
            ticket => {
                {
                    let mut mail = lock(&self.mail);
                    mail.woken = mail.woken.max(ticket);
                }
                return self.drive(cx);
            }
        };
        if answer.is_some() {
            lock(&self.mail).answer = answer;
            self.drive(cx);
        }
    }
}
