//! Several threads on one pool: what they see of every block is explained by one order of what they did.
//!
//! Each thread runs a loop of its own, with operations that overlap those of the others: writes of new content and of
//! content that others write at the same time, parts of blocks, reads, compares, compare-and-writes, deallocations. The
//! pool is so small that checkpoints and the cleaner run all the time, on another thread. The history is judged block by
//! block ([`caisson_sim::linear`]); where parts of blocks are written, sector by sector. Then the pool is opened again, read,
//! and its tables are counted again: after the races, every reference count is exact.
//!
//! `CAISSON_THREAD_ROUNDS` is how often (default 2), `CAISSON_SEED` where seeds begin. Threads are real: a seed fixes what
//! they do, not when.

mod plane;

use caisson_block::{BlockError, BufList, Extent, Op, Outcome, Volume};
use caisson_device::sim::Rng;
use caisson_device::{FileStore, Size};
use caisson_engine::{Cipher, Create, Host, Options, Pool, PoolId, PoolVolume, Secrets, Settings};
use caisson_fingerprint::FingerprintKey;
use caisson_keys::Secret;
use caisson_sim::linear::{self, Act, Fault};
use plane::Plane;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// Threads, requests that each keeps under way, and how many it hands in.
const THREADS: usize = 4;
const DEPTH: usize = 3;
const REQUESTS: usize = 2000;
/// Blocks of each volume; most requests go to the first few.
const BLOCKS: u64 = 160;
const HOT: u64 = 12;
const SEGMENT: u32 = 64 << 10;
const SEGMENTS: u64 = 52;
const SIZE: u64 = (1 << 20) + SEGMENTS * SEGMENT as u64;

/// Name, block size, write cache, verify.
const VOLUMES: [(&str, u32, bool, bool); 3] =
    [("a", 4096, true, false), ("b", 512, true, false), ("c", 4096, false, true)];

/// What is judged as one register: a whole block, or a sector of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Cell {
    volume: usize,
    block: u64,
    /// The sector; 0 where blocks are only written whole.
    sector: u64,
}

/// Whether parts of this block are written.
fn parted(volume: usize, block: u64) -> bool {
    VOLUMES[volume].1 == 512 && block % 2 == 1
}

/// Content `value` of sector `at` of a block; no value is zeroes.
fn sector(value: u64, at: u64) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    if value == 0 {
        return out;
    }
    let mut x = (value * 8 + at).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for (i, word) in out.chunks_exact_mut(8).enumerate() {
        // A third compresses, the rest does not.
        if i < 8 || !value.is_multiple_of(3) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        word.copy_from_slice(&x.to_le_bytes());
    }
    out[..8].copy_from_slice(&value.to_le_bytes());
    out
}

/// The value of a sector; `None` for what nobody wrote.
fn value_of(bytes: &[u8], at: u64) -> Option<u64> {
    let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    (bytes == sector(value, at)).then_some(value)
}

/// A run of cells of one volume, in sectors; whole blocks where `parted` says so.
#[derive(Clone, Copy, Debug)]
struct Span {
    volume: usize,
    /// In sectors of 512 bytes.
    from: u64,
    sectors: u64,
}

impl Span {
    fn extent(self) -> Extent {
        let per = u64::from(VOLUMES[self.volume].1) / SECTOR as u64;
        Extent { lba: self.from / per, blocks: self.sectors / per }
    }

    /// The cells, with their first sector.
    fn cells(self) -> impl Iterator<Item = (Cell, u64)> {
        let volume = self.volume;
        (self.from..self.from + self.sectors).filter_map(move |s| {
            let (block, at) = (s / 8, s % 8);
            let part = parted(volume, block);
            let cell = Cell { volume, block, sector: if part { at } else { 0 } };
            (part || at == 0).then_some((cell, s))
        })
    }

    fn bytes(self, values: &[u64]) -> BufList {
        let mut out = Vec::with_capacity(self.sectors as usize * SECTOR);
        for ((cell, _), value) in self.cells().zip(values) {
            if parted(cell.volume, cell.block) {
                out.extend_from_slice(&sector(*value, cell.sector));
            } else {
                (0..8).for_each(|at| out.extend_from_slice(&sector(*value, at)));
            }
        }
        BufList::from(out)
    }
}

/// What a request asked for, to be judged by its answer.
#[derive(Clone, Debug)]
enum Kind {
    Read,
    Write(Vec<u64>),
    Compare(Vec<u64>),
    Swap(Vec<u64>, Vec<u64>),
    Flush,
}

struct Asked {
    start: u64,
    span: Span,
    kind: Kind,
}

/// The operations on each cell.
#[derive(Default)]
struct History(HashMap<Cell, Vec<linear::Op>>);

impl History {
    fn add(&mut self, cell: Cell, start: u64, end: u64, act: Act) {
        self.0.entry(cell).or_default().push(linear::Op { start, end, act, sure: true });
    }

    /// What a request's answer says about the cells.
    fn answered(&mut self, asked: Asked, end: u64, outcome: Outcome) {
        let Asked { start, span, kind } = asked;
        match (kind, outcome) {
            (Kind::Flush, outcome) => drop(outcome.unwrap()),
            (Kind::Read, outcome) => {
                let bytes = outcome.unwrap_or_else(|e| panic!("reading {span:?}: {e}")).to_vec();
                for (cell, value) in seen(span, &bytes) {
                    self.add(cell, start, end, Act::Read(value));
                }
            }
            (Kind::Write(values), outcome) => {
                outcome.unwrap_or_else(|e| panic!("writing {span:?}: {e}"));
                for ((cell, _), value) in span.cells().zip(values) {
                    self.add(cell, start, end, Act::Write(vec![value]));
                }
            }
            (Kind::Compare(values), Ok(_)) => {
                for ((cell, _), value) in span.cells().zip(values) {
                    self.add(cell, start, end, Act::Read(value));
                }
            }
            (Kind::Swap(old, new), Ok(_)) => {
                for (((cell, _), old), new) in span.cells().zip(old).zip(new) {
                    self.add(cell, start, end, Act::Swap(old, new));
                }
            }
            (Kind::Compare(values) | Kind::Swap(values, _), Err(BlockError::Miscompare { lba })) => {
                let per = u64::from(VOLUMES[span.volume].1) / SECTOR as u64;
                for ((cell, first), value) in span.cells().zip(values) {
                    let len = if parted(cell.volume, cell.block) { 1 } else { 8 };
                    if first + len <= lba * per {
                        self.add(cell, start, end, Act::Read(value));
                    } else if first <= lba * per {
                        self.add(cell, start, end, Act::Differs(value));
                    }
                }
            }
            (kind, Err(e)) => panic!("{kind:?} {span:?}: {e}"),
        }
    }
}

/// The values of the cells in what was read.
fn seen(span: Span, bytes: &[u8]) -> Vec<(Cell, u64)> {
    assert_eq!(bytes.len() as u64, span.sectors * SECTOR as u64);
    let at = |s: u64| &bytes[(s - span.from) as usize * SECTOR..][..SECTOR];
    let each = span.cells().map(|(cell, first)| {
        let value = value_of(at(first), first % 8);
        let value = value.unwrap_or_else(|| panic!("{cell:?} holds what nobody wrote"));
        if !parted(cell.volume, cell.block) {
            let whole = (1..8).all(|i| value_of(at(first + i), i) == Some(value));
            assert!(whole, "{cell:?} is half of one write and half of another");
        }
        (cell, value)
    });
    each.collect()
}

/// What all threads share.
struct Race {
    clock: AtomicU64,
    values: AtomicU64,
    volumes: Vec<PoolVolume>,
    /// Threads whose requests are over.
    over: AtomicU64,
    /// The pool is closed: the threads may end. Before that, batches of others may be on their way on them.
    stop: AtomicBool,
}

impl Race {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn span(&self, rng: &mut Rng) -> Span {
        let volume = rng.below(3) as usize;
        let first = if rng.below(4) > 0 { rng.below(HOT) } else { rng.below(BLOCKS) };
        let most = if rng.below(16) == 0 { 24 } else { 3 };
        let blocks = (1 + rng.below(most)).min(BLOCKS - first);
        let (mut from, mut to) = (first * 8, (first + blocks) * 8);
        // Parts only of blocks where that is allowed.
        if parted(volume, first) {
            from += rng.below(8);
        }
        if parted(volume, first + blocks - 1) {
            to -= rng.below((to - from).min(8));
        }
        Span { volume, from, sectors: to - from }
    }

    /// Values of a write: all its own, or those that other threads write just now.
    fn fresh(&self, rng: &mut Rng, n: usize) -> Vec<u64> {
        let same = rng.below(3) == 0;
        (0..n)
            .map(|i| match rng.below(8) {
                0 => 0,
                _ if same => (1 << 40) + (self.clock.load(Ordering::SeqCst) >> 4) * 32 + i as u64,
                _ => 1 + self.values.fetch_add(1, Ordering::SeqCst),
            })
            .collect()
    }

    /// What the cells probably hold.
    fn guess(last: &HashMap<Cell, u64>, span: Span) -> Vec<u64> {
        span.cells().map(|(cell, _)| last.get(&cell).copied().unwrap_or(0)).collect()
    }

    fn choose(&self, rng: &mut Rng, last: &HashMap<Cell, u64>) -> (Asked, Op) {
        let span = self.span(rng);
        let n = span.cells().count();
        let at = span.extent();
        let fua = rng.below(16) == 0;
        let (kind, op) = match rng.below(20) {
            0..=6 => (Kind::Read, Op::Read { at }),
            7 => (Kind::Flush, Op::Flush),
            8 => {
                let deallocate = rng.below(2) == 0;
                (Kind::Write(vec![0; n]), Op::WriteZeroes { at, deallocate, fua })
            }
            9 => (Kind::Write(vec![0; n]), Op::Deallocate { ranges: vec![at] }),
            10 => {
                let values = Self::guess(last, span);
                let data = span.bytes(&values);
                (Kind::Compare(values), Op::Compare { at, data })
            }
            11 | 12 => {
                let (old, new) = (Self::guess(last, span), self.fresh(rng, n));
                let (expect, data) = (span.bytes(&old), span.bytes(&new));
                (Kind::Swap(old, new), Op::CompareAndWrite { at, expect, data, fua })
            }
            _ => {
                let values = self.fresh(rng, n);
                let data = span.bytes(&values);
                (Kind::Write(values), Op::Write { at, data, fua })
            }
        };
        (Asked { start: 0, span, kind }, op)
    }

    /// What one thread does.
    fn run(&self, seed: u64, inline: bool) -> History {
        let mut rng = Rng::new(seed);
        let mut plane = Plane::new(inline);
        let mut under_way: [Option<Asked>; DEPTH] = [const { None }; DEPTH];
        let (mut history, mut left) = (History::default(), REQUESTS);
        let mut last = HashMap::new();
        loop {
            for (slot, free) in under_way.iter_mut().enumerate().filter(|(_, s)| s.is_none()) {
                if left == 0 {
                    break;
                }
                left -= 1;
                let (mut asked, op) = self.choose(&mut rng, &last);
                let volume = &self.volumes[asked.span.volume];
                asked.start = self.tick();
                *free = Some(asked);
                plane.submit(volume, slot as u32, op);
            }
            if under_way.iter().all(Option::is_none) {
                self.over.fetch_add(1, Ordering::SeqCst);
                while !self.stop.load(Ordering::SeqCst) {
                    plane.turn();
                }
                return history;
            }
            for (tag, outcome) in plane.completions() {
                let end = self.tick();
                let asked = under_way[tag.slot as usize].take().expect("it was under way");
                if let (Kind::Read, Ok(list)) = (&asked.kind, &outcome) {
                    last.extend(seen(asked.span, &list.to_vec()));
                }
                history.answered(asked, end, outcome);
            }
        }
    }
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn secrets() -> Secrets {
    let secret = |byte: u8| Secret::take(&mut [byte; 32]);
    Secrets { epochs: vec![((0, 1), secret(1)), ((1, 1), secret(2))], prints: FingerprintKey::new([3; 32]) }
}

fn store(path: &Path) -> Vec<Arc<FileStore>> {
    vec![FileStore::open(path, Size::new(SIZE)).unwrap()]
}

fn create(host: &Host, path: &Path) -> Pool {
    let stores = store(path);
    host.run(|port| async move {
        let create = Create {
            id: PoolId([9; 16]),
            cipher: Cipher::auto(),
            segment_size: Some(SEGMENT),
            slots: Vec::new(),
        };
        let pool = Pool::create(&port, stores, secrets(), create, Options::default()).await.unwrap();
        for (name, block_size, write_cache, verify) in VOLUMES {
            let settings = Settings { block_size, write_cache, verify, ..Settings::default() };
            pool.create_volume(&port, name, BLOCKS * BLOCK as u64, settings).await.unwrap();
        }
        pool
    })
}

#[test]
fn threads_see_one_order() {
    // Without one of them the others might wait for ever for what it holds.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    let number = |name: &str, or: u64| {
        std::env::var(name).ok().map_or(or, |n| n.parse().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let first = number("CAISSON_SEED", 1);
    for seed in first..first + number("CAISSON_THREAD_ROUNDS", 2) {
        println!("seed {seed}");
        round(seed);
    }
}

fn round(seed: u64) {
    let folder = std::env::temp_dir().join(format!("caisson-threads-{}-{seed}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let folder = Folder(folder);
    let path = folder.0.join("pool");
    let host = Host::start("pool").unwrap();
    let pool = create(&host, &path);
    host.tend(&pool);
    let volumes = VOLUMES.iter().map(|v| pool.volume(v.0).unwrap()).collect();
    let (clock, values, over) = (AtomicU64::new(1), AtomicU64::new(0), AtomicU64::new(0));
    let race = Race { clock, values, volumes, over, stop: AtomicBool::new(false) };
    let mut history = std::thread::scope(|scope| {
        let race = &race;
        let start = |i: usize| scope.spawn(move || race.run(seed * 1000 + i as u64, i.is_multiple_of(2)));
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        while race.over.load(Ordering::SeqCst) < THREADS as u64 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        figures(&pool);
        leave(host, pool, seed.is_multiple_of(2));
        race.stop.store(true, Ordering::SeqCst);
        let mut all = History::default();
        for thread in threads {
            for (cell, mut ops) in thread.join().expect("a thread").0 {
                all.0.entry(cell).or_default().append(&mut ops);
            }
        }
        all
    });
    let end = race.tick();
    drop(race);
    read_again(&path, &mut history, end);
    judge(&history);
}

/// Whether everything ran that was to run meanwhile.
fn figures(pool: &Pool) {
    let status = pool.status();
    println!(
        "{} blocks written, {} found again; {} bytes of log, {} moved; {} checkpoints",
        status.written_blocks,
        status.duplicate_blocks,
        status.log_bytes,
        status.moved_bytes,
        status.checkpoints
    );
    assert!(status.damaged == 0 && status.fault.is_none(), "{status:?}");
    assert!(status.duplicate_blocks > 50 && status.checkpoints > 20, "{status:?}");
    assert!(status.moved_bytes > 0, "the cleaner did not run: {status:?}");
}

/// Closes the pool, or leaves it as a kill does.
fn leave(host: Host, pool: Pool, clean: bool) {
    let own = pool.clone();
    if clean {
        host.run(|port| async move { own.close(&port).await }).unwrap();
    } else {
        host.run(|port| async move { own.flush(&port).await }).unwrap();
        pool.abandon();
    }
    drop((pool, host));
}

/// Opens the pool as it was left, counts its tables again, and reads every block.
fn read_again(path: &Path, history: &mut History, end: u64) {
    let host = Host::start("pool").unwrap();
    let stores = store(path);
    let (pool, findings) = host.run(|port| async move {
        let pool = Pool::open_to_read(&port, stores, secrets(), Options::default()).await.unwrap();
        let findings = pool.recount(&port).await.unwrap();
        (pool, findings)
    });
    assert!(findings.is_empty(), "{findings:?}");
    let mut plane = Plane::new(true);
    for (volume, (name, ..)) in VOLUMES.iter().enumerate() {
        let handle = pool.volume(name).unwrap();
        for block in 0..BLOCKS {
            let span = Span { volume, from: block * 8, sectors: 8 };
            plane.submit(&handle as &dyn Volume, 0, Op::Read { at: span.extent() });
            let (_, outcome) = plane.completions().remove(0);
            history.answered(Asked { start: end, span, kind: Kind::Read }, end + 1, outcome);
        }
    }
}

fn judge(history: &History) {
    let (mut ops, mut large) = (0, 0);
    for (cell, list) in &history.0 {
        ops += list.len();
        match linear::check(&[0], list) {
            Ok(_) => {}
            Err(Fault::Large) => large += 1,
            Err(Fault::Wrong { op, held }) => {
                let mut near: Vec<&linear::Op> =
                    list.iter().filter(|o| o.end + 200 > op.start && o.start < op.end + 50).collect();
                near.sort_by_key(|o| o.start);
                panic!("{cell:?}: no order explains {op:?}; it may have held {held:?}: {near:#?}");
            }
        }
    }
    println!("{ops} operations on {} cells judged; {large} cells were too much", history.0.len());
    assert!(large * 20 < history.0.len(), "too much was not judged");
}
