//! Large requests of plain volumes are done in slices, with what is small served between them. No clock: the thread here
//! gives a slice when the test says so, and counts them.

use caisson_block::{
    Buf, BufList, Completions, Cx, Extent, Geometry, Heavy, IoOp, Mono, Op, Outcome, Parked, Remote, Request,
    Ring, Tag, Volume,
};
use caisson_device::threaded::deliver;
use caisson_device::{Alignment, Buffers, FileStore, execute};
use caisson_volume::{FileVolume, Options, open};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const MIB: usize = 1 << 20;
/// The most that a slice may copy or compare, and the most between two looks at the clock.
const SLICE: usize = 64 << 10;
const STEP: usize = 16 << 10;

type Queue = Mutex<VecDeque<(Arc<dyn Parked>, u64)>>;

/// What a thread keeps of those that wait for it.
#[derive(Default)]
struct Waiting {
    prompt: Queue,
    started: Queue,
    new: Queue,
    /// Whether the clock says at each look that the slice has had its time.
    over: AtomicBool,
}

impl Remote for Waiting {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        self.prompt.lock().unwrap().push_back((who, token));
    }
    fn wake_later(&self, who: Arc<dyn Parked>, token: u64, heavy: Heavy) {
        let line = if heavy == Heavy::Started { &self.started } else { &self.new };
        line.lock().unwrap().push_back((who, token));
    }
    fn slice_is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A ring that does what it is given when it is asked to.
#[derive(Default)]
struct Given(VecDeque<IoOp>);

impl Ring for Given {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        self.0.push_back(op);
        Ok(())
    }
}

/// A thread of the data plane whose heavy work waits until it is told.
struct Thread {
    waiting: Arc<Waiting>,
    remote: Arc<dyn Remote>,
    ring: Given,
    done: Completions,
    outcomes: Vec<(Tag, Outcome)>,
    slices: usize,
}

impl Thread {
    fn new(over: bool) -> Thread {
        let waiting = Arc::new(Waiting { over: over.into(), ..Waiting::default() });
        let remote: Arc<dyn Remote> = waiting.clone();
        let (ring, done, outcomes) = Default::default();
        Thread { waiting, remote, ring, done, outcomes, slices: 0 }
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        f(&mut Cx { now: Mono(0), done: &mut self.done, ring: &mut self.ring, remote: &self.remote })
    }

    fn submit(&mut self, volume: &dyn Volume, slot: u32, op: Op) {
        self.with(|cx| volume.submit(cx, Request { tag: Tag { queue: 0, slot }, op }));
    }

    /// All that is prompt, device operations included.
    fn prompt(&mut self) {
        loop {
            let woken = self.waiting.prompt.lock().unwrap().pop_front();
            if let Some((who, token)) = woken {
                self.with(|cx| who.woken(cx, token));
            } else if let Some(mut op) = self.ring.0.pop_front() {
                let result = execute(&mut op);
                self.with(|cx| deliver(cx, op, result));
            } else {
                return;
            }
        }
    }

    /// A slice of heavy work. False when none waits.
    fn slice(&mut self) -> bool {
        let started = self.waiting.started.lock().unwrap().pop_front();
        let next = started.or_else(|| self.waiting.new.lock().unwrap().pop_front());
        let Some((who, token)) = next else { return false };
        self.slices += 1;
        self.with(|cx| who.woken(cx, token));
        true
    }

    /// The outcome of a request, if it is there.
    fn outcome(&mut self, slot: u32) -> Option<Outcome> {
        let mut taken = Vec::new();
        self.done.take(&mut taken);
        self.outcomes.append(&mut taken);
        let at = self.outcomes.iter().position(|(tag, _)| tag.slot == slot)?;
        Some(self.outcomes.swap_remove(at).1)
    }

    /// Runs a request to its end, and says in how many slices that was.
    fn finish(&mut self, volume: &dyn Volume, op: Op) -> (Outcome, usize) {
        let before = self.slices;
        self.submit(volume, 0, op);
        loop {
            self.prompt();
            if let Some(outcome) = self.outcome(0) {
                return (outcome, self.slices - before);
            }
            assert!(self.slice(), "nothing is left to be done");
        }
    }

    /// A read that is to be answered without a slice.
    fn read_now(&mut self, volume: &dyn Volume, at: Extent) -> Vec<u8> {
        self.submit(volume, 99, Op::Read { at });
        self.prompt();
        self.outcome(99).expect("a read waits for no slice").unwrap().to_vec()
    }
}

/// In pieces as they come off a socket: not aligned, in memory or in length.
fn pieces(bytes: &[u8]) -> BufList {
    let mut list = BufList::new();
    bytes.chunks(7001).for_each(|c| list.push(Buf::from(c.to_vec())));
    list
}

fn blocks(bytes: usize) -> u64 {
    bytes as u64 / 4096
}

/// Plain volumes of 16 MiB: in memory, and on a device that wants everything aligned.
fn volumes() -> Vec<(&'static str, Arc<dyn Volume>)> {
    let ram = open(&"ram:16MiB".parse().unwrap(), &Options::default()).unwrap().volume;
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("caisson-slices-{:?}", std::thread::current().id()));
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len(16 * MIB as u64).unwrap();
    let aligned = Alignment { memory: 4096, offset: 4096 };
    let store = FileStore::over(Arc::new(file.into()), 16 * MIB as u64, aligned, false);
    let buffers = Buffers::new([64, 64, 64]).unwrap();
    let file = FileVolume::new(store, buffers, 12, true, None).unwrap();
    vec![("memory", ram), ("device", Arc::new(file))]
}

#[test]
fn a_small_read_beside_a_large_write_waits_for_no_more_than_a_slice() {
    for (name, volume) in volumes() {
        for (over, most) in [(false, SLICE), (true, STEP)] {
            let mut t = Thread::new(over);
            let elsewhere = Extent { lba: 3000, blocks: 1 };
            t.finish(&*volume, Op::Write { at: elsewhere, data: pieces(&[7; 4096]), fua: false }).0.unwrap();
            let at = Extent { lba: 5, blocks: blocks(MIB) };
            let old = u8::from(over);
            t.finish(&*volume, Op::Write { at, data: pieces(&[old; MIB]), fua: false }).0.unwrap();
            let before = t.slices;
            t.submit(&*volume, 1, Op::Write { at, data: pieces(&[9; MIB]), fua: false });
            let mut done = None;
            while done.is_none() {
                assert_eq!(t.read_now(&*volume, elsewhere), [7; 4096]);
                if name == "memory" {
                    let now = t.read_now(&*volume, at);
                    assert!(now.iter().all(|b| *b == old), "what is half written is seen");
                }
                assert!(t.slice(), "nothing is left to be done");
                done = t.outcome(1);
                if done.is_none() {
                    t.prompt();
                    done = t.outcome(1);
                }
            }
            done.unwrap().unwrap();
            let slices = t.slices - before;
            assert!(slices >= MIB / most, "{name}: 1 MiB was copied in {slices} slices");
            assert_eq!(t.read_now(&*volume, at), vec![9; MIB]);
        }
    }
}

#[test]
fn comparing_and_clearing_much_is_divided_too() {
    for (name, volume) in volumes() {
        let Geometry { blocks: all, .. } = volume.geometry();
        let mut t = Thread::new(false);
        let at = Extent { lba: 0, blocks: blocks(MIB) };
        let bytes: Vec<u8> = (0..MIB).map(|i| (i / 4096) as u8 | 1).collect();
        t.finish(&*volume, Op::Write { at, data: pieces(&bytes), fua: false }).0.unwrap();
        let (end, slices) = t.finish(&*volume, Op::Compare { at, data: pieces(&bytes) });
        end.unwrap();
        assert!(slices >= MIB / SLICE, "{name}: compared in {slices}");
        let swap = Op::CompareAndWrite { at, expect: pieces(&bytes), data: pieces(&[3; MIB]), fua: false };
        let (end, slices) = t.finish(&*volume, swap);
        end.unwrap();
        assert!(slices >= MIB / SLICE, "{name}: compared and written in {slices}");
        let to = Op::Copy { to: 2000, from: vec![at], fua: false };
        t.finish(&*volume, to).0.unwrap();
        assert_eq!(t.read_now(&*volume, Extent { lba: 2000, blocks: at.blocks }), vec![3; MIB]);
        if volume.geometry().deallocates {
            for lba in (0..all).step_by(at.blocks as usize) {
                let at = Extent { lba, ..at };
                t.finish(&*volume, Op::Write { at, data: pieces(&bytes), fua: false }).0.unwrap();
            }
            assert_eq!(volume.allocated_bytes(), Some(all * 4096));
            let each = all / 256;
            let ranges = (0..256).map(|i| Extent { lba: i * each, blocks: each }).collect();
            let (end, slices) = t.finish(&*volume, Op::Deallocate { ranges });
            end.unwrap();
            assert!(slices as u64 >= all / 512, "{name}: all of it deallocated in {slices}");
            assert_eq!(volume.allocated_bytes(), Some(0));
        }
    }
}

/// Giving memory back to the system costs more than anything else that a slice does a page.
#[test]
fn little_memory_is_given_back_between_two_looks_at_the_clock() {
    let (_, volume) = volumes().swap_remove(0);
    let all = volume.geometry().blocks;
    let mut t = Thread::new(true);
    for lba in (0..all).step_by(blocks(MIB) as usize) {
        let at = Extent { lba, blocks: blocks(MIB) };
        t.finish(&*volume, Op::Write { at, data: pieces(&[5; MIB]), fua: false }).0.unwrap();
    }
    let mut held = volume.allocated_bytes().unwrap();
    assert_eq!(held, all * 4096);
    t.submit(&*volume, 0, Op::Deallocate { ranges: vec![Extent { lba: 0, blocks: all }] });
    while t.slice() {
        let left = volume.allocated_bytes().unwrap();
        assert!(held - left <= 64 << 10, "{} bytes went in one slice", held - left);
        held = left;
    }
    t.outcome(0).expect("it ended").unwrap();
    assert_eq!(held, 0);
}

/// More large writes than there is memory for, all begun: whoever finds none lets the others come to their ends.
#[test]
fn large_writes_that_are_begun_together_all_end() {
    let volume = open(&"ram:1MiB".parse().unwrap(), &Options::default()).unwrap().volume;
    let mut t = Thread::new(true);
    let at = Extent { lba: 0, blocks: blocks(MIB) };
    for slot in 0..64 {
        let data = BufList::from(vec![slot as u8; MIB]);
        t.submit(&*volume, slot, Op::Write { at, data, fua: false });
    }
    // Each begins before any goes on.
    while let Some((who, token)) = { t.waiting.new.lock().unwrap().pop_front() } {
        t.with(|cx| who.woken(cx, token));
    }
    while t.slice() {}
    (0..64).for_each(|slot| drop(t.outcome(slot).expect("it ended").unwrap()));
    let now = t.read_now(&*volume, at);
    assert!(now.iter().all(|b| *b == now[0]));
}
