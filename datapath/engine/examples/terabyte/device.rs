//! A device that is larger than the machine, in which payload is not kept.
//!
//! Of a batch of the log it keeps the header (summary and changes); checkpoints and superblocks it keeps whole. So all
//! metadata is real and is read back as it was written, while a block of payload is only there where it was asked for.

use crate::kept::{Kept, PAGE};
use caisson_block::{
    Completions, Cx, IoKind, IoOp, Mono, Op, Outcome, Parked, Remote, Request, Ring, Tag, Volume,
};
use caisson_device::threaded;
use caisson_log::{BatchKind, PREFIX, decode_prefix};
use caisson_task::{Port, Task};
use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What went through the device.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub reads: u64,
    pub read_bytes: u64,
    pub written: u64,
    /// Headers of the log's batches: bytes to their very end, and batches.
    pub headers: u64,
    pub batches: u64,
    pub checkpoints: u64,
    pub superblocks: u64,
}

/// Does each operation at once, on the thread that submits it.
pub struct Device {
    kept: Kept,
    /// Payload is kept, too.
    pub whole: bool,
    pub counts: Counts,
    /// Processor time of the device itself, which is none of the engine's.
    spent: Duration,
    ended: VecDeque<(IoOp, Result<u32, i32>)>,
}

impl Ring for Device {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        let begun = processor();
        let result = match op.kind {
            IoKind::Write { .. } => self.write(&op),
            IoKind::Read => {
                self.counts.reads += 1;
                self.counts.read_bytes += op.bufs.len() as u64;
                self.kept.read(&op)
            }
            IoKind::Sync => Ok(0),
            IoKind::PunchHole { len } | IoKind::ZeroRange { len } => self.kept.forget(op.offset, len),
        };
        self.spent += processor() - begun;
        self.ended.push_back((op, result));
        Ok(())
    }
}

impl Device {
    fn write(&mut self, op: &IoOp) -> Result<u32, i32> {
        let len = op.bufs.len();
        self.counts.written += len as u64;
        let mut front = [0; PREFIX];
        let prefix =
            if op.bufs.copy_out(0, &mut front) == PREFIX { decode_prefix(&front).ok() } else { None };
        let mut keep = len;
        match prefix {
            // The cleaner's batches hold payload as well, and have no number.
            Some(prefix) if prefix.kind == BatchKind::Log || prefix.batch == 0 => {
                self.counts.batches += 1;
                self.counts.headers += u64::from(prefix.header);
                if !self.whole {
                    keep = (prefix.header as usize).next_multiple_of(PAGE).min(len);
                }
            }
            Some(_) => self.counts.checkpoints += len as u64,
            None => self.counts.superblocks += len as u64,
        }
        self.kept.write(op, keep).map(|()| len as u32)
    }
}

struct Woken(Mutex<VecDeque<(Arc<dyn Parked>, u64)>>);

impl Remote for Woken {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        self.0.lock().unwrap().push_back((who, token));
    }
}

/// A thread of the data plane over such a device. Everything on it happens on the caller's thread, so no piece of work
/// under the pool's lock is longer than the longest step.
pub struct Thread {
    pub device: Device,
    done: Completions,
    woken: Arc<Woken>,
    remote: Arc<dyn Remote>,
    over: Vec<(Tag, Outcome)>,
    /// The longest step, in processor time without the device's, since it was last asked.
    longest: Duration,
}

/// Processor time of this thread.
pub fn processor() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

impl Thread {
    /// One on the device at `path`.
    pub fn new(path: &Path) -> Thread {
        let woken = Arc::new(Woken(Mutex::default()));
        let device = Device {
            kept: Kept::open(path),
            whole: false,
            counts: Counts::default(),
            spent: Duration::ZERO,
            ended: VecDeque::new(),
        };
        Thread {
            device,
            done: Completions::default(),
            remote: woken.clone(),
            woken,
            over: Vec::new(),
            longest: Duration::ZERO,
        }
    }

    fn cx<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        f(&mut Cx { now: Mono(0), done: &mut self.done, ring: &mut self.device, remote: &self.remote })
    }

    pub fn submit(&mut self, volume: &dyn Volume, slot: u32, op: Op) {
        self.cx(|cx| volume.submit(cx, Request { tag: Tag { queue: 0, slot }, op }));
    }

    pub fn spawn<F>(&mut self, make: impl FnOnce(Port) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.cx(|cx| Task::spawn(cx, make));
    }

    /// The longest step since this was last called.
    pub fn longest(&mut self) -> Duration {
        std::mem::take(&mut self.longest)
    }

    /// One turn: everything that is ready. False when nothing was.
    pub fn turn(&mut self) -> bool {
        let ended = std::mem::take(&mut self.device.ended);
        let wakes = std::mem::take(&mut *self.woken.0.lock().unwrap());
        let any = !ended.is_empty() || !wakes.is_empty();
        let mut before = processor();
        for (op, result) in ended {
            self.cx(|cx| threaded::deliver(cx, op, result));
            self.step(&mut before);
        }
        for (who, token) in wakes {
            self.cx(|cx| who.woken(cx, token));
            self.step(&mut before);
        }
        any
    }

    fn step(&mut self, before: &mut Duration) {
        let now = processor();
        let device = std::mem::take(&mut self.device.spent);
        self.longest = self.longest.max((now - *before).saturating_sub(device));
        *before = now;
    }

    pub fn completions(&mut self) -> std::vec::Drain<'_, (Tag, Outcome)> {
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
