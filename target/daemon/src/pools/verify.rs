//! Reads and checks all of a volume from a thread that may block, with no data plane.

use caisson_block::{BlockError, Completions, Cx, Extent, Mono, Op, Parked, Remote, Request, Tag, Volume};
use caisson_device::threaded::{self, ThreadRing};
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Blocks that are verified with one request.
const PIECE: u64 = 256;
/// Device operations under way at most, and the threads that do them.
const DEPTH: usize = 64;
const THREADS: usize = 4;

#[derive(Default)]
struct Mailbox {
    wakes: Mutex<(Vec<(Arc<dyn Parked>, u64)>, bool)>,
    news: Condvar,
}

impl Mailbox {
    fn tell(&self, who: Option<(Arc<dyn Parked>, u64)>) {
        let mut queue = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        match who {
            Some(who) => queue.0.push(who),
            None => queue.1 = true,
        }
        self.news.notify_one();
    }

    /// Waits until somebody is to be woken or an operation is over; gives the former.
    fn wait(&self) -> Vec<(Arc<dyn Parked>, u64)> {
        let queue = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |q: &mut (Vec<_>, bool)| q.0.is_empty() && !q.1;
        let mut queue = self.news.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        queue.1 = false;
        std::mem::take(&mut queue.0)
    }
}

impl Remote for Mailbox {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        self.tell(Some((who, token)));
    }
}

/// The thread's side of the data plane.
struct Bench {
    mailbox: Arc<Mailbox>,
    remote: Arc<dyn Remote>,
    ring: ThreadRing,
    done: Completions,
}

impl Bench {
    fn new() -> io::Result<Bench> {
        let mailbox = Arc::new(Mailbox::default());
        let bell = Arc::downgrade(&mailbox);
        let ring = ThreadRing::new(THREADS, DEPTH, move || {
            if let Some(mailbox) = bell.upgrade() {
                mailbox.tell(None);
            }
        })?;
        let remote: Arc<dyn Remote> = mailbox.clone();
        Ok(Bench { mailbox, remote, ring, done: Completions::default() })
    }

    fn verify(&mut self, volume: &dyn Volume, at: Extent) -> Result<(), BlockError> {
        let (now, mut finished, mut over) = (Mono(1), Vec::new(), Vec::new());
        let mut cx = Cx { now, done: &mut self.done, ring: &mut self.ring, remote: &self.remote };
        volume.submit(&mut cx, Request { tag: Tag { queue: 0, slot: 0 }, op: Op::Verify { at } });
        loop {
            self.done.take(&mut over);
            if let Some((_, outcome)) = over.pop() {
                return outcome.map(drop);
            }
            let wakes = self.mailbox.wait();
            self.ring.reap_into(&mut finished);
            let mut cx = Cx { now, done: &mut self.done, ring: &mut self.ring, remote: &self.remote };
            for (op, result) in finished.drain(..) {
                threaded::deliver(&mut cx, op, result);
            }
            wakes.into_iter().for_each(|(who, token)| who.woken(&mut cx, token));
        }
    }
}

/// The blocks of a volume that cannot be read.
pub(super) fn all(volume: &dyn Volume) -> io::Result<Vec<u64>> {
    let blocks = volume.geometry().blocks;
    let mut bench = Bench::new()?;
    let mut hurt = Vec::new();
    let mut lba = 0;
    while lba < blocks {
        let at = Extent { lba, blocks: PIECE.min(blocks - lba) };
        lba = match bench.verify(volume, at) {
            Ok(()) => lba + at.blocks,
            Err(BlockError::Unreadable { lba: bad }) => {
                let bad = bad.clamp(lba, lba + at.blocks - 1);
                hurt.push(bad);
                bad + 1
            }
            Err(e) => return Err(io::Error::other(e)),
        };
    }
    Ok(hurt)
}
