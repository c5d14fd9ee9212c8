//! A thread of the data plane: a loop that other threads wake, over real files.

use caisson_block::{Completions, Cx, IoOp, Mono, Outcome, Parked, Remote, Request, Ring, Tag, Volume};
use caisson_device::execute;
use caisson_device::threaded::{self, ThreadRing};
use caisson_sim::race;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

/// How long a turn waits for something to do.
const MOMENT: std::time::Duration = std::time::Duration::from_millis(2);

/// What a thread is woken for.
#[derive(Default)]
struct Queue {
    wakes: VecDeque<(Arc<dyn Parked>, u64)>,
    reap: bool,
}

#[derive(Default)]
struct Mailbox {
    queue: Mutex<Queue>,
    news: Condvar,
}

impl Remote for Mailbox {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        self.queue.lock().unwrap().wakes.push_back((who, token));
        self.news.notify_one();
    }
}

type Finished = Vec<(IoOp, Result<u32, i32>)>;

/// Device operations done by other threads, or at once.
enum Device {
    Threads(ThreadRing),
    Inline(Finished),
}

impl Ring for Device {
    fn submit(&mut self, mut op: IoOp) -> Result<(), IoOp> {
        match self {
            Device::Threads(ring) => ring.submit(op),
            Device::Inline(over) => {
                let result = execute(&mut op);
                over.push((op, result));
                Ok(())
            }
        }
    }
}

/// The thread that it was made on.
pub struct Plane {
    device: Device,
    done: Completions,
    mailbox: Arc<Mailbox>,
    remote: Arc<dyn Remote>,
    over: Vec<(Tag, Outcome)>,
    finished: Finished,
}

impl Plane {
    /// `inline` does device operations at once, on this thread.
    pub fn new(inline: bool) -> Plane {
        let mailbox = Arc::new(Mailbox::default());
        let device = if inline {
            Device::Inline(Finished::new())
        } else {
            let waker = Arc::downgrade(&mailbox);
            let wake = move || {
                if let Some(mailbox) = waker.upgrade() {
                    mailbox.queue.lock().unwrap().reap = true;
                    mailbox.news.notify_one();
                }
            };
            Device::Threads(ThreadRing::new(2, 64, wake).unwrap())
        };
        Plane {
            device,
            done: Completions::default(),
            remote: mailbox.clone(),
            mailbox,
            over: Vec::new(),
            finished: Finished::new(),
        }
    }

    fn cx<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        let (done, ring) = (&mut self.done, &mut self.device);
        f(&mut Cx { now: Mono(0), done, ring, remote: &self.remote })
    }
}

impl race::Plane for Plane {
    fn submit(&mut self, volume: &dyn Volume, slot: u32, op: caisson_block::Op) {
        self.cx(|cx| volume.submit(cx, Request { tag: Tag { queue: 0, slot }, op }));
    }

    /// Waits where there is nothing to do.
    fn completions(&mut self) -> Vec<(Tag, Outcome)> {
        while self.done.is_empty() {
            self.turn();
        }
        self.done.take(&mut self.over);
        std::mem::take(&mut self.over)
    }

    /// After a moment where there is nothing to do.
    fn turn(&mut self) {
        let at_once = matches!(&self.device, Device::Inline(over) if !over.is_empty());
        let wakes = {
            let idle = |q: &mut Queue| !at_once && q.wakes.is_empty() && !q.reap;
            let queue = self.mailbox.queue.lock().unwrap();
            let (mut queue, _) = self.mailbox.news.wait_timeout_while(queue, MOMENT, idle).unwrap();
            queue.reap = false;
            std::mem::take(&mut queue.wakes)
        };
        match &mut self.device {
            Device::Threads(ring) => ring.reap_into(&mut self.finished),
            Device::Inline(over) => self.finished.append(over),
        }
        for (op, result) in std::mem::take(&mut self.finished) {
            self.cx(|cx| threaded::deliver(cx, op, result));
        }
        for (who, token) in wakes {
            self.cx(|cx| who.woken(cx, token));
        }
    }
}
