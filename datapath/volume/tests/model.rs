//! Plain volumes against a model: random, overlapping operations from several simulated threads on a disk that tears,
//! reorders, cuts short, refuses, dies and loses what was not synced.
//!
//! Every block of every read is judged: its contents must be whole, and be those of a write that was not certainly
//! replaced before the read began. After a crash, those of a write that was not certainly replaced by a durable one.
//! `CAISSON_SEED=n` replays one seed; `CAISSON_SEEDS=n` tries so many.

mod history;

use caisson_block::{BlockError, Buf, BufList, Extent, Op, Outcome, Request, Tag, Volume};
use caisson_device::sim::{Faults, Rng, SimDisk, SimThread};
use caisson_device::{Alignment, Buffers};
use caisson_volume::{FileVolume, Keeper, Options, open};
use history::{History, Kind, UNREADABLE};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

/// Blocks of the volumes.
const BLOCKS: u64 = 64;

/// Keeps marks in memory, over crashes.
#[derive(Default)]
struct MemoryKeeper(Mutex<Vec<Extent>>);

impl Keeper for MemoryKeeper {
    fn keep(&self, runs: &[Extent]) -> io::Result<()> {
        *self.0.lock().unwrap() = runs.to_vec();
        Ok(())
    }
    fn load(&self) -> io::Result<Vec<Extent>> {
        Ok(self.0.lock().unwrap().clone())
    }
    fn blocks(&self) -> bool {
        false
    }
}

/// Says which seed failed.
struct Seed(u64);
impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with CAISSON_SEED={} ({:?})", self.0, Setting::of(self.0));
        }
    }
}

struct Pending {
    id: u64,
    kind: Kind,
    /// What it compares with, block by block from `at` on.
    expect: Vec<u64>,
    at: Extent,
    start: u64,
    fua: bool,
    after_death: bool,
}

struct World {
    rng: Rng,
    block: usize,
    volume: Arc<dyn Volume>,
    threads: Vec<SimThread>,
    history: History,
    pending: HashMap<(u32, u32), Pending>,
    next_slot: u32,
    /// Replies that a slow host has not taken yet: they hold buffers.
    held: Vec<BufList>,
    faults: Faults,
    dead: bool,
    punches: bool,
}

/// `value` over and over.
fn fill(block: usize, value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(block / 8)
}

impl World {
    fn extent(&mut self) -> Extent {
        let lba = self.rng.below(BLOCKS);
        let most = if self.rng.below(4) == 0 { BLOCKS } else { 6 };
        Extent { lba, blocks: (1 + self.rng.below(most)).min(BLOCKS - lba) }
    }

    /// Data for `values`, cut into buffers at odd places or even ones.
    fn data(&mut self, values: &[u64]) -> BufList {
        let bytes: Vec<u8> = values.iter().flat_map(|v| fill(self.block, *v)).collect();
        let mut list = BufList::new();
        match self.rng.below(3) {
            // Aligned in memory, so that it is handed on as it is.
            0 => {
                let [mut taken] = Buffers::shared().unwrap().take([bytes.len()]).unwrap();
                for part in taken.drain() {
                    let mut part = part.try_into_mut().unwrap();
                    let from = list.len();
                    let n = part.len();
                    part.copy_from_slice(&bytes[from..from + n]);
                    list.push(part.freeze());
                }
            }
            1 => list.push(Buf::from(bytes)),
            _ => {
                let n = 1 + self.rng.below(3000) as usize;
                bytes.chunks(n).for_each(|c| list.push(Buf::from(c.to_vec())));
            }
        }
        list
    }

    /// What the blocks may be now, or something that they are not.
    fn guess(&mut self, at: Extent) -> Vec<u64> {
        let now = self.history.now();
        (at.lba..at.lba + at.blocks)
            .map(|b| {
                let allowed = self.history.allowed(b, now, now);
                let pick = self.rng.below(allowed.len() as u64) as usize;
                let garbage = self.rng.below(30) == 0;
                allowed.iter().copied().nth(pick).filter(|&v| v != UNREADABLE && !garbage).unwrap_or(12345)
            })
            .collect()
    }

    fn submit(&mut self) {
        if self.next_slot.is_multiple_of(16) {
            let oldest = self.pending.values().map(|p| p.start).min();
            self.history.prune(oldest.unwrap_or(self.history.now()));
        }
        let thread = self.rng.below(self.threads.len() as u64) as u32;
        let tag = Tag { queue: thread, slot: self.next_slot };
        self.next_slot += 1;
        let start = self.history.tick();
        let id = self.history.next_id();
        let at = self.extent();
        let fua = self.rng.below(4) == 0;
        let blocks = |e: Extent| e.lba..e.lba + e.blocks;
        let mut expect = Vec::new();
        let values: Vec<u64> = blocks(at).map(|b| History::value(id, b)).collect();
        let (op, kind) = match self.rng.below(100) {
            0..30 => (Op::Read { at }, Kind::Read),
            30..60 => {
                blocks(at).for_each(|b| self.history.begin(b, id, History::value(id, b)));
                (Op::Write { at, data: self.data(&values), fua }, Kind::Write)
            }
            60..65 => (Op::Flush, Kind::Flush),
            65..70 => {
                blocks(at).for_each(|b| self.history.begin(b, id, 0));
                (Op::WriteZeroes { at, deallocate: self.rng.below(2) == 0, fua }, Kind::Write)
            }
            70..75 => {
                let ranges = vec![at, self.extent()];
                if self.punches {
                    ranges.iter().for_each(|r| blocks(*r).for_each(|b| self.history.begin(b, id, 0)));
                }
                (Op::Deallocate { ranges }, Kind::Deallocate)
            }
            75..79 => {
                expect = self.guess(at);
                (Op::Compare { at, data: self.data(&expect.clone()) }, Kind::Compare)
            }
            79..90 => {
                expect = self.guess(at);
                blocks(at).for_each(|b| self.history.begin(b, id, History::value(id, b)));
                let (expect, data) = (self.data(&expect.clone()), self.data(&values));
                (Op::CompareAndWrite { at, expect, data, fua }, Kind::CompareAndWrite)
            }
            90..92 => (Op::Verify { at }, Kind::Verify),
            92..94 => {
                blocks(at).for_each(|b| self.history.begin(b, id, UNREADABLE));
                (Op::WriteUncorrectable { at }, Kind::Mark)
            }
            _ => {
                let from = vec![at, self.extent()];
                let total = from.iter().map(|e| e.blocks).sum::<u64>();
                if total > BLOCKS {
                    return;
                }
                let to = self.rng.below(BLOCKS - total + 1);
                let sources: Vec<u64> = from.iter().flat_map(|e| blocks(*e)).collect();
                for (i, source) in sources.into_iter().enumerate() {
                    self.history.begin_copy(to + i as u64, id, source);
                }
                (Op::Copy { to, from, fua }, Kind::Write)
            }
        };
        let after_death = self.dead;
        self.pending.insert((thread, tag.slot), Pending { id, kind, expect, at, start, fua, after_death });
        let volume = Arc::clone(&self.volume);
        self.threads[thread as usize].run(|cx| volume.submit(cx, Request { tag, op }));
        self.collect(thread as usize);
    }

    fn collect(&mut self, thread: usize) {
        let done: Vec<(Tag, Outcome)> = self.threads[thread].completions().collect();
        for (tag, outcome) in done {
            assert_eq!(tag.queue as usize, thread, "completed on its own thread");
            let pending = self.pending.remove(&(tag.queue, tag.slot)).expect("completed once");
            self.judge(pending, outcome);
        }
    }

    fn judge(&mut self, p: Pending, outcome: Outcome) {
        let end = self.history.tick();
        let error = match outcome {
            Ok(data) => return self.judge_success(p, data, end),
            Err(e) => e,
        };
        let allowed = |b| self.history.allowed_to(b, p.start, end, p.id);
        match error {
            BlockError::Failed | BlockError::WriteFault { .. } if self.faults.dies_at.is_some() => {
                self.dead = true;
                self.history.end(p.id, false, false);
            }
            BlockError::Unreadable { .. } if self.faults.dies_at.is_some() => {
                self.dead |= self.volume.fault().is_some();
                self.history.end(p.id, false, false);
            }
            BlockError::Unreadable { lba } => {
                assert!(allowed(lba).contains(&UNREADABLE), "block {lba} was never made unreadable");
                self.history.end(p.id, false, false);
            }
            BlockError::CapacityExceeded if self.faults.no_space > 0 => {
                self.history.end(p.id, false, false);
            }
            BlockError::Miscompare { lba } => {
                let index = (lba - p.at.lba) as usize;
                let equal = |i: usize| allowed(p.at.lba + i as u64).contains(&p.expect[i]);
                assert!((0..index).all(equal), "block before {lba} differs too");
                let differs = allowed(lba).iter().any(|v| *v != p.expect[index]);
                assert!(differs, "block {lba} does not differ: {:?}", p.expect[index]);
                self.history.never(p.id);
            }
            e => panic!("{:?} at {:?}: {e}", p.kind, p.at),
        }
    }

    fn judge_success(&mut self, p: Pending, data: BufList, end: u64) {
        assert!(!p.after_death, "{:?} succeeded on a dead disk", p.kind);
        match p.kind {
            Kind::Read => {
                assert_eq!(data.len() as u64, p.at.blocks * self.block as u64);
                for (i, bytes) in data.to_vec().chunks(self.block).enumerate() {
                    let lba = p.at.lba + i as u64;
                    let value = whole(bytes).unwrap_or_else(|| panic!("block {lba} is torn"));
                    let allowed = self.history.allowed(lba, p.start, end);
                    assert!(
                        allowed.contains(&value),
                        "block {lba} is {value:#x}, not of {} values",
                        allowed.len()
                    );
                }
                if self.rng.below(2) == 0 {
                    self.held.push(data);
                }
            }
            Kind::Compare | Kind::CompareAndWrite => {
                for (i, value) in p.expect.iter().enumerate() {
                    let lba = p.at.lba + i as u64;
                    let allowed = self.history.allowed_to(lba, p.start, end, p.id);
                    assert!(allowed.contains(value), "block {lba} cannot have been {value:#x}");
                }
            }
            Kind::Flush => self.history.flushed(p.start),
            Kind::Verify => {
                for b in p.at.lba..p.at.lba + p.at.blocks {
                    assert!(self.history.allowed(b, p.start, end).iter().any(|v| *v != UNREADABLE));
                }
            }
            Kind::Write | Kind::Deallocate | Kind::Mark => {}
        }
        let fua = p.fua && p.kind != Kind::Deallocate || p.kind == Kind::Mark;
        self.history.end(p.id, true, fua);
    }

    /// One turn of one thread; a slow host takes a reply now and then. False when nothing is left to do.
    fn turn(&mut self) -> bool {
        if self.rng.below(300) == 0 && !self.held.is_empty() {
            let at = self.rng.below(self.held.len() as u64) as usize;
            self.held.swap_remove(at);
        }
        let first = self.rng.below(self.threads.len() as u64) as usize;
        for i in 0..self.threads.len() {
            let thread = (first + i) % self.threads.len();
            if self.threads[thread].turn(&mut self.rng) {
                self.collect(thread);
                return true;
            }
        }
        // Whoever waits for buffers goes on when the slow hosts have taken theirs.
        let stuck = !self.pending.is_empty() && !self.held.is_empty();
        if stuck {
            self.held.clear();
        }
        stuck
    }

    /// Runs one operation to its end, alone.
    fn alone(&mut self, op: Op) -> Outcome {
        let request = Request { tag: Tag { queue: 0, slot: 0 }, op };
        let volume = Arc::clone(&self.volume);
        self.threads[0].run(|cx| volume.submit(cx, request));
        loop {
            if let Some((_, outcome)) = self.threads[0].completions().next() {
                return outcome;
            }
            assert!(self.threads[0].turn(&mut self.rng));
        }
    }

    /// All blocks, one read each; `None` where unreadable.
    fn read_all(&mut self) -> Vec<Option<Vec<u8>>> {
        (0..BLOCKS)
            .map(|lba| match self.alone(Op::Read { at: Extent { lba, blocks: 1 } }) {
                Ok(data) => Some(data.to_vec()),
                Err(BlockError::Unreadable { .. }) => None,
                Err(e) => panic!("after the crash: {e}"),
            })
            .collect()
    }

    fn zero(&mut self, lba: u64) {
        let at = Extent { lba, blocks: 1 };
        while let Err(e) = self.alone(Op::WriteZeroes { at, deallocate: false, fua: true }) {
            assert_eq!(e, BlockError::CapacityExceeded);
        }
    }
}

/// The one value that fills `bytes`.
fn whole(bytes: &[u8]) -> Option<u64> {
    let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    bytes.chunks(8).all(|c| c == value.to_le_bytes()).then_some(value)
}

#[derive(Debug)]
struct Setting {
    seed: u64,
    block: usize,
    unit: u32,
    sector: usize,
    faults: Faults,
    write_cache: bool,
    punches: bool,
    threads: usize,
}

impl Setting {
    fn of(seed: u64) -> Setting {
        let mut rng = Rng::new(seed ^ 0xC0FFEE);
        let block = if rng.below(2) == 0 { 512 } else { 4096 };
        let unit = [1, 512, 4096][rng.below(3) as usize];
        let some = |rng: &mut Rng, n| if rng.below(2) == 0 { n } else { 0 };
        Setting {
            seed,
            block,
            unit,
            sector: if unit == 4096 { 4096 } else { 512 },
            faults: Faults {
                short: some(&mut rng, 100),
                again: some(&mut rng, 50),
                full: some(&mut rng, 200),
                no_space: some(&mut rng, 20),
                dies_at: (rng.below(8) == 0).then(|| 1 + rng.below(200)),
            },
            write_cache: rng.below(4) > 0,
            punches: rng.below(4) > 0,
            threads: 1 + rng.below(4) as usize,
        }
    }
}

fn run(seed: u64) {
    let _seed = Seed(seed);
    let s = Setting::of(seed);
    let align = Alignment { memory: s.unit, offset: s.unit };
    let size = BLOCKS * s.block as u64;
    let disk = SimDisk::new(s.seed, size, s.sector, align, s.punches, s.faults);
    let keeper = Arc::new(MemoryKeeper::default());
    // So few that requests wait for each other's.
    let buffers = Buffers::new([8, 4, 16]).unwrap();
    let open = || -> Arc<dyn Volume> {
        let shift = s.block.ilog2();
        let keeper: Arc<dyn Keeper> = keeper.clone();
        Arc::new(FileVolume::new(disk.store(), buffers.clone(), shift, s.write_cache, Some(keeper)).unwrap())
    };
    let threads = || (0..s.threads).map(|_| SimThread::new(&disk)).collect::<Vec<_>>();
    let mut w = World {
        rng: Rng::new(seed),
        block: s.block,
        volume: open(),
        threads: threads(),
        history: History::new(BLOCKS, !s.write_cache),
        pending: HashMap::new(),
        next_slot: 0,
        held: Vec::new(),
        faults: s.faults,
        dead: false,
        punches: s.punches,
    };
    let lives = if s.faults.dies_at.is_some() { 1 } else { 3 };
    for _ in 0..lives {
        let depth = 1 + w.rng.below(24) as usize;
        for _ in 0..2000 {
            if w.pending.len() < depth && w.rng.below(6) == 0 {
                w.submit();
            }
            w.turn();
        }
        let crash = s.faults.dies_at.is_none() && w.rng.below(2) == 0;
        if !crash {
            while w.turn() {}
            assert!(w.pending.is_empty(), "requests are lost");
            assert_eq!(w.volume.fault().is_some(), w.dead);
        }
        if s.faults.dies_at.is_some() {
            return;
        }
        // The power fails; what is under way is gone with its thread, and nothing keeps the volume alive.
        w.pending.clear();
        w.held.clear();
        let gone = Arc::downgrade(&std::mem::replace(&mut w.volume, open()));
        w.threads = threads();
        assert!(gone.upgrade().is_none());
        let all = (buffers.take([4096; 8]), buffers.take([32768; 4]), buffers.take([131_072; 16]));
        assert!(all.0.is_some() && all.1.is_some() && all.2.is_some(), "buffers are lost");
        drop(all);
        disk.crash();
        w.volume = open();
        let found = w.read_all();
        for lba in w.history.crashed(&found, s.block, s.sector) {
            w.zero(lba);
        }
    }
    w.threads.clear();
    w.held.clear();
}

#[test]
fn file_volumes_follow_the_model() {
    if let Some(seed) = std::env::var("CAISSON_SEED").ok().and_then(|s| s.parse().ok()) {
        return run(seed);
    }
    let seeds = std::env::var("CAISSON_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(150);
    (0..seeds).for_each(run);
}

#[test]
fn ram_volumes_follow_the_model() {
    for seed in 0..20 {
        let _seed = Seed(seed);
        let block = if seed % 2 == 0 { 512 } else { 4096 };
        let options = Options { block_size: block, ..Options::default() };
        let volume =
            open(&format!("ram:{}", BLOCKS * u64::from(block)).parse().unwrap(), &options).unwrap().volume;
        let align = Alignment { memory: 1, offset: 1 };
        let disk = SimDisk::new(seed, 4096, 4096, align, true, Faults::default());
        let mut w = World {
            rng: Rng::new(seed),
            block: block as usize,
            volume,
            threads: (0..3).map(|_| SimThread::new(&disk)).collect(),
            history: History::new(BLOCKS, true),
            pending: HashMap::new(),
            next_slot: 0,
            held: Vec::new(),
            faults: Faults::default(),
            dead: false,
            punches: true,
        };
        // Some are large enough to be divided, and others go between their slices.
        for _ in 0..1500 {
            while w.pending.len() >= 6 {
                w.turn();
            }
            w.submit();
            assert!(w.pending.values().all(|p| p.kind != Kind::Read), "memory is read at once");
            w.turn();
        }
        while w.turn() {}
        assert!(w.pending.is_empty(), "requests are lost");
    }
}
