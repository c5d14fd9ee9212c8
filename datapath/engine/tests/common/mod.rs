//! What the tests and benchmarks of the pool share: a data-plane thread without sockets, secrets, contents.
#![allow(dead_code, reason = "each test uses a part")]

use caisson_block::{
    Completions, Cx, Heavy, IoKind, IoOp, Mono, Op, Outcome, Parked, Remote, Request, Ring, Tag, Volume,
};
use caisson_device::{FileStore, Size, execute, threaded};
use caisson_engine::Secrets;
use caisson_fingerprint::FingerprintKey;
use caisson_keys::Secret;
use caisson_task::{Port, Task};
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub mod keys;
pub mod pools;
mod power;
pub use power::Power;

/// A ring that does each operation at once, on the thread that submits it; none any more when the power is off. Reads of bytes
/// that are unreadable end with EIO. Reads that are held are done, and nobody is told. The end of syncs may be told later.
#[derive(Default)]
pub struct Inline(VecDeque<Over>, Option<Power>, Vec<Range<u64>>, Held, Syncs);

/// An operation that is over.
type Over = (IoOp, Result<u32, i32>);

#[derive(Default)]
struct Held {
    on: bool,
    reads: VecDeque<Over>,
    /// Every byte that was read, where somebody counts.
    counted: Option<Vec<Range<u64>>>,
}

/// Syncs, and what else there was.
#[derive(Default)]
struct Syncs {
    /// So many turns after it was begun the end of one is told.
    turns: u64,
    /// The number of this turn.
    now: u64,
    under_way: VecDeque<(u64, Over)>,
    did: Did,
}

/// Operations that were begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Did {
    pub writes: u64,
    pub syncs: u64,
}

/// Linux's number for an error of the device.
const EIO: i32 = 5;

impl Ring for Inline {
    fn submit(&mut self, mut op: IoOp) -> Result<(), IoOp> {
        if let Some(power) = &mut self.1
            && !power.begins(&op)
        {
            return Ok(());
        }
        let (from, to) = (op.offset, op.offset + op.bufs.len() as u64);
        let unreadable = self.2.iter().any(|bad| bad.start.max(from) < bad.end.min(to));
        let read = matches!(op.kind, IoKind::Read);
        let result = if unreadable && read { Err(EIO) } else { execute(&mut op) };
        if let Some(counted) = self.3.counted.as_mut().filter(|_| read) {
            counted.push(from..to);
        }
        let syncs = &mut self.4;
        match op.kind {
            IoKind::Sync => {
                syncs.did.syncs += 1;
                if syncs.turns > 0 {
                    syncs.under_way.push_back((syncs.now + syncs.turns, (op, result)));
                    return Ok(());
                }
            }
            IoKind::Write { .. } => syncs.did.writes += 1,
            _ => {}
        }
        let line = if read && self.3.on { &mut self.3.reads } else { &mut self.0 };
        line.push_back((op, result));
        Ok(())
    }
}

type Wakes = VecDeque<(Arc<dyn Parked>, u64)>;

/// Who is to be woken: at the next turn; and for pieces of heavy work, one a turn behind all else, what has begun first, as a
/// reactor does them.
#[derive(Default)]
struct Woken {
    prompt: Mutex<Wakes>,
    started: Mutex<Wakes>,
    new: Mutex<Wakes>,
}

impl Woken {
    fn piece(&self) -> Option<(Arc<dyn Parked>, u64)> {
        let started = self.started.lock().unwrap().pop_front();
        started.or_else(|| self.new.lock().unwrap().pop_front())
    }
}

impl Remote for Woken {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        self.prompt.lock().unwrap().push_back((who, token));
    }

    fn wake_later(&self, who: Arc<dyn Parked>, token: u64, heavy: Heavy) {
        let line = match heavy {
            Heavy::Started => &self.started,
            Heavy::New => &self.new,
        };
        line.lock().unwrap().push_back((who, token));
    }
}

/// A thread of the data plane, as small as it can be. Everything on it happens on the caller's thread.
pub struct Thread {
    ring: Inline,
    done: Completions,
    woken: Arc<Woken>,
    remote: Arc<dyn Remote>,
    over: Vec<(Tag, Outcome)>,
    now: Mono,
}

impl Default for Thread {
    fn default() -> Thread {
        let woken = Arc::new(Woken::default());
        let (ring, done) = (Inline::default(), Completions::default());
        Thread { ring, done, remote: woken.clone(), woken, over: Vec::new(), now: Mono(0) }
    }
}

impl Thread {
    fn cx<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        f(&mut Cx { now: self.now, done: &mut self.done, ring: &mut self.ring, remote: &self.remote })
    }

    /// Hands a request in.
    pub fn submit(&mut self, volume: &dyn Volume, slot: u32, op: Op) {
        self.cx(|cx| volume.submit(cx, Request { tag: Tag { queue: 0, slot }, op }));
    }

    /// Starts background work.
    pub fn spawn<F>(&mut self, make: impl FnOnce(Port) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.cx(|cx| Task::spawn(cx, make));
    }

    /// One turn: everything that is ready. False when nothing was.
    pub fn turn(&mut self) -> bool {
        let syncs = &mut self.ring.4;
        syncs.now += 1;
        let mut any = !syncs.under_way.is_empty();
        while syncs.under_way.front().is_some_and(|(at, _)| *at <= syncs.now) {
            self.ring.0.extend(syncs.under_way.pop_front().map(|(_, over)| over));
        }
        let ended = std::mem::take(&mut self.ring.0);
        let wakes = std::mem::take(&mut *self.woken.prompt.lock().unwrap());
        any |= !ended.is_empty() || !wakes.is_empty();
        for (op, result) in ended {
            self.cx(|cx| threaded::deliver(cx, op, result));
        }
        for (who, token) in wakes {
            self.cx(|cx| who.woken(cx, token));
        }
        let piece = self.woken.piece();
        any |= piece.is_some();
        if let Some((who, token)) = piece {
            self.cx(|cx| who.woken(cx, token));
        }
        any
    }

    /// Requests that are over.
    pub fn completions(&mut self) -> impl Iterator<Item = (Tag, Outcome)> + '_ {
        self.done.take(&mut self.over);
        self.over.drain(..)
    }

    /// Runs one operation to its end.
    pub fn run(&mut self, volume: &dyn Volume, op: Op) -> Outcome {
        self.submit(volume, 0, op);
        loop {
            if let Some((_, outcome)) = self.completions().next() {
                return outcome;
            }
            assert!(self.turn(), "nothing happens any more");
        }
    }

    /// A thread whose power is cut.
    pub fn powered(power: Power) -> Thread {
        Thread {
            ring: Inline(VecDeque::new(), Some(power), Vec::new(), Held::default(), Syncs::default()),
            ..Thread::default()
        }
    }

    /// Has these bytes of all files unreadable from now on.
    pub fn unreadable(&mut self, bytes: Vec<Range<u64>>) {
        self.ring.2 = bytes;
    }

    /// From now on, those who read are not told of its end; or they are again. Gives how many wait to be told.
    pub fn hold_reads(&mut self, on: bool) -> usize {
        self.ring.3.on = on;
        self.ring.3.reads.len()
    }

    /// From now on, what is read is kept in mind. Gives what was read since it was last asked, one range an operation.
    pub fn count_reads(&mut self) -> Vec<Range<u64>> {
        self.ring.3.counted.replace(Vec::new()).unwrap_or_default()
    }

    /// At the next turn, the one who has waited longest is told.
    pub fn tell_one(&mut self) {
        self.ring.0.extend(self.ring.3.reads.pop_front());
    }

    /// From now on, the end of a sync is told so many turns after it was begun.
    pub fn slow_syncs(&mut self, turns: u64) {
        self.ring.4.turns = turns;
    }

    /// What devices were asked for.
    pub fn did(&self) -> Did {
        self.ring.4.did
    }

    /// Lets time pass, and calls a pool's background if it is time for that.
    pub fn pass(&mut self, pool: &caisson_engine::Pool, time: std::time::Duration) {
        self.now = Mono(self.now.0 + time.as_nanos() as u64);
        pool.ring(self.now);
    }

    /// Its power.
    pub fn power(&mut self) -> &mut Power {
        self.ring.1.as_mut().unwrap()
    }

    /// Runs a function of the pool until its end, or until nothing happens any more.
    pub fn attempt<T, F>(&mut self, make: impl FnOnce(Port) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        self.spawn(|port| {
            let work = make(port);
            async move { *filled.lock().unwrap() = Some(work.await) }
        });
        loop {
            if let Some(value) = slot.lock().unwrap().take() {
                return Some(value);
            }
            if !self.turn() {
                return None;
            }
        }
    }

    /// Runs a function of the pool to its end.
    pub fn wait<T, F>(&mut self, make: impl FnOnce(Port) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        self.spawn(|port| {
            let work = make(port);
            async move { *filled.lock().unwrap() = Some(work.await) }
        });
        loop {
            if let Some(value) = slot.lock().unwrap().take() {
                return value;
            }
            assert!(self.turn(), "nothing happens any more");
        }
    }
}

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("caisson-engine-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn secrets() -> Secrets {
    let secret = |byte: u8| Secret::take(&mut [byte; 32]);
    Secrets {
        epochs: vec![((0, 1), secret(1)), ((1, 1), secret(2))],
        prints: vec![(1, FingerprintKey::new([3; 32]))],
    }
}

pub fn store(path: &Path, size: u64) -> Arc<FileStore> {
    FileStore::open(path, Size::new(size)).unwrap()
}
