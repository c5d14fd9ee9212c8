//! A data-plane thread as small as can be, over the ring of blocking threads, and a check against an array.

use caisson_block::{
    BlockError, BufList, Completions, Cx, Extent, Mono, Op, Outcome, Parked, Remote, Request, Tag, Volume,
};
use caisson_device::sim::Rng;
use caisson_device::threaded::{ThreadRing, deliver};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A data-plane thread as small as can be.
pub struct Thread {
    ring: ThreadRing,
    done: Completions,
    remote: Arc<dyn Remote>,
    events: Receiver<Event>,
}

enum Event {
    Reap,
    Woken(Arc<dyn Parked>, u64),
}

struct Sent(Mutex<Sender<Event>>);
impl Remote for Sent {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        // A thread that is gone needs no waking.
        let _ = self.0.lock().unwrap().send(Event::Woken(who, token));
    }
}

impl Thread {
    pub fn new() -> Thread {
        let (tx, events) = channel();
        let remote = Arc::new(Sent(Mutex::new(tx.clone())));
        let tx = Mutex::new(tx);
        let wake = move || drop(tx.lock().unwrap().send(Event::Reap));
        Thread { ring: ThreadRing::new(2, 4, wake).unwrap(), done: Completions::default(), remote, events }
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        f(&mut Cx { now: Mono(0), done: &mut self.done, ring: &mut self.ring, remote: &self.remote })
    }

    fn submit(&mut self, volume: &dyn Volume, slot: u32, op: Op) {
        self.with(|cx| volume.submit(cx, Request { tag: Tag { queue: 0, slot }, op }));
    }

    /// Waits for the next completions.
    fn wait(&mut self) -> Vec<(Tag, Outcome)> {
        loop {
            let mut taken = Vec::new();
            self.done.take(&mut taken);
            if !taken.is_empty() {
                return taken;
            }
            match self.events.recv_timeout(Duration::from_secs(60)).expect("stuck") {
                Event::Reap => {
                    let mut over = Vec::new();
                    self.ring.reap_into(&mut over);
                    for (op, result) in over {
                        self.with(|cx| deliver(cx, op, result));
                    }
                }
                Event::Woken(who, token) => self.with(|cx| who.woken(cx, token)),
            }
        }
    }

    pub fn alone(&mut self, volume: &dyn Volume, op: Op) -> Outcome {
        self.submit(volume, 0, op);
        let mut done = self.wait();
        assert_eq!(done.len(), 1);
        done.remove(0).1
    }
}

pub fn extent(lba: u64, blocks: u64) -> Extent {
    Extent { lba, blocks }
}

/// Runs `rounds` random operations on `volume` and on `model`, which must stay equal.
pub fn follow(t: &mut Thread, volume: &dyn Volume, model: &mut [u8], rng: &mut Rng, rounds: u64) {
    let b = volume.geometry().block_size as usize;
    let blocks = (model.len() / b) as u64;
    assert_eq!(volume.geometry().blocks, blocks);
    for round in 0..rounds {
        let lba = rng.below(blocks);
        let most = if rng.below(10) == 0 { (2 << 20) / b as u64 } else { 40 };
        let n = (1 + rng.below(most)).min(blocks - lba);
        let at = extent(lba, n);
        let range = lba as usize * b..(lba + n) as usize * b;
        let byte = rng.below(256) as u8;
        let kind = rng.below(8);
        match kind {
            0..3 => {
                let bytes: Vec<u8> = (0..range.len()).map(|i| byte ^ (i / 512) as u8).collect();
                let mut data = BufList::new();
                let chunk = 1 + rng.below(9000) as usize;
                bytes.chunks(chunk).for_each(|c| data.push(c.to_vec().into()));
                t.alone(volume, Op::Write { at, data, fua: rng.below(4) == 0 }).unwrap();
                model[range.clone()].copy_from_slice(&bytes);
            }
            3 => {
                let deallocate = rng.below(2) == 0;
                t.alone(volume, Op::WriteZeroes { at, deallocate, fua: false }).unwrap();
                model[range.clone()].fill(0);
            }
            4 => {
                t.alone(volume, Op::Deallocate { ranges: vec![at] }).unwrap();
                if volume.geometry().deallocates {
                    model[range.clone()].fill(0);
                }
            }
            5 => {
                let mut bytes = model[range.clone()].to_vec();
                t.alone(volume, Op::Compare { at, data: bytes.clone().into() }).unwrap();
                let wrong = rng.below(bytes.len() as u64) as usize;
                bytes[wrong] ^= 1;
                let differs = t.alone(volume, Op::Compare { at, data: bytes.into() });
                let lba = lba + (wrong / b) as u64;
                assert_eq!(differs.err(), Some(BlockError::Miscompare { lba }));
            }
            6 => {
                let to = rng.below(blocks - n + 1);
                t.alone(volume, Op::Copy { to, from: vec![at], fua: false }).unwrap();
                model.copy_within(range.clone(), to as usize * b);
            }
            _ => {
                t.alone(volume, Op::Flush).unwrap();
                t.alone(volume, Op::Verify { at }).unwrap();
            }
        }
        let read = t.alone(volume, Op::Read { at }).unwrap().to_vec();
        let differs = read.iter().zip(&model[range]).position(|(a, b)| a != b);
        assert_eq!(differs, None, "block size {b}, round {round}, kind {kind}, {at:?}");
    }
}
