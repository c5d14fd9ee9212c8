//! Threads that race on the volumes of a pool, and the judgement of what they saw.
//!
//! Each thread submits requests that overlap those of the others: writes of new content and of content that others write at the
//! same time, parts of blocks, reads, compares, compare-and-writes, deallocations. What every cell (a block, or a sector
//! where parts of blocks are written) was seen to hold must be explained by one order ([`crate::linear`]). Owns what is asked
//! and the histories; whose turn it is belongs to the threads: the system's in `tests/threads`, a model checker's in
//! `tests/schedules`.

use crate::linear::{self, Act, Fault};
use caisson_block::{BlockError, BufList, Extent, Op, Outcome, Tag, Volume};
use caisson_device::sim::Rng;
use caisson_engine::{ChangeError, Pool, PoolVolume, Settings};
use caisson_task::Port;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// How large a race is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Requests that each thread keeps under way.
    pub depth: usize,
    /// Requests that each thread hands in.
    pub requests: usize,
    /// Blocks of each volume.
    pub blocks: u64,
    /// The first few, which most requests go to.
    pub hot: u64,
}

/// The thread that a racer runs on.
pub trait Plane {
    /// Hands a request in.
    fn submit(&mut self, volume: &dyn Volume, slot: u32, op: Op);
    /// Takes turns until requests are over, and gives those.
    fn completions(&mut self) -> Vec<(Tag, Outcome)>;
    /// One turn.
    fn turn(&mut self);
}

/// Name, block size, write cache and verify of each volume.
pub const VOLUMES: [(&str, u32, bool, bool); 3] =
    [("a", 4096, true, false), ("b", 512, true, false), ("c", 4096, false, true)];

/// What is judged as one register: a whole block, or a sector of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    /// Which of [`VOLUMES`].
    pub volume: usize,
    /// The block of 4 KiB.
    pub block: u64,
    /// The sector; 0 where blocks are only written whole.
    pub sector: u64,
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

/// A whole block of content `value`.
pub fn block(value: u64) -> BufList {
    (0..8).flat_map(|at| sector(value, at)).collect::<Vec<u8>>().into()
}

/// The content that writers take at about the same moment: `epoch` grows with the clock, `i` is below 32.
pub fn shared(epoch: u64, i: u64) -> u64 {
    (1 << 40) + epoch * 32 + i
}

/// The value of a sector; `None` for what nobody wrote.
fn value_of(bytes: &[u8], at: u64) -> Option<u64> {
    let value = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    (bytes == sector(value, at)).then_some(value)
}

/// A run of cells of one volume, in sectors; whole blocks where `parted` says so.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Which of [`VOLUMES`].
    pub volume: usize,
    /// In sectors of 512 bytes.
    pub from: u64,
    /// How many.
    pub sectors: u64,
}

impl Span {
    /// The same as logical blocks.
    pub fn extent(self) -> Extent {
        let per = u64::from(VOLUMES[self.volume].1) / SECTOR as u64;
        Extent { lba: self.from / per, blocks: self.sectors / per }
    }

    /// The cells, with their first sector.
    pub fn cells(self) -> impl Iterator<Item = (Cell, u64)> {
        let volume = self.volume;
        (self.from..self.from + self.sectors).filter_map(move |s| {
            let (block, at) = (s / 8, s % 8);
            let part = parted(volume, block);
            let cell = Cell { volume, block, sector: if part { at } else { 0 } };
            (part || at == 0).then_some((cell, s))
        })
    }

    /// These values as bytes.
    pub fn bytes(self, values: &[u64]) -> BufList {
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
pub enum Kind {
    /// What is there.
    Read,
    /// To put these values there.
    Write(Vec<u64>),
    /// Whether these are there.
    Compare(Vec<u64>),
    /// To put the second there if the first are.
    Swap(Vec<u64>, Vec<u64>),
    /// Durability.
    Flush,
}

/// A request.
pub struct Asked {
    /// When it was submitted.
    pub start: u64,
    /// On what.
    pub span: Span,
    /// What for.
    pub kind: Kind,
}

/// The operations on each cell.
#[derive(Default)]
pub struct History(HashMap<Cell, Vec<linear::Op>>);

impl History {
    fn add(&mut self, cell: Cell, start: u64, end: u64, act: Act) {
        self.0.entry(cell).or_default().push(linear::Op { start, end, act, sure: true });
    }

    /// Adds what another thread saw.
    pub fn append(&mut self, other: History) {
        for (cell, mut ops) in other.0 {
            self.0.entry(cell).or_default().append(&mut ops);
        }
    }

    /// What a request's answer says about the cells.
    ///
    /// # Panics
    /// When it is an answer that no order explains: an error, or content that nobody wrote.
    pub fn answered(&mut self, asked: Asked, end: u64, outcome: Outcome) {
        let Asked { start, span, kind } = asked;
        match (kind, outcome) {
            (Kind::Flush, outcome) => drop(outcome.unwrap_or_else(|e| panic!("flushing: {e}"))),
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
pub struct Race {
    scale: Scale,
    clock: AtomicU64,
    values: AtomicU64,
    volumes: Vec<PoolVolume>,
    /// Threads whose requests are over.
    pub over: AtomicU64,
    /// The pool is closed: the threads may end. Before that, batches of others may be on their way on them.
    pub stop: AtomicBool,
}

impl Race {
    /// A race on these volumes, which are as [`VOLUMES`] says.
    pub fn new(scale: Scale, volumes: Vec<PoolVolume>) -> Race {
        let (clock, values, over) = (AtomicU64::new(1), AtomicU64::new(0), AtomicU64::new(0));
        Race { scale, clock, values, volumes, over, stop: AtomicBool::new(false) }
    }

    /// The time; it goes on with each look.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn span(&self, rng: &mut Rng) -> Span {
        let volume = rng.below(3) as usize;
        let Scale { blocks: all, hot, .. } = self.scale;
        let first = if rng.below(4) > 0 { rng.below(hot) } else { rng.below(all) };
        let most = if rng.below(16) == 0 { 24 } else { 3 };
        let blocks = (1 + rng.below(most)).min(all - first);
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
                _ if same => shared(self.clock.load(Ordering::SeqCst) >> 4, i as u64),
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
    pub fn run(&self, seed: u64, plane: &mut impl Plane) -> History {
        let mut rng = Rng::new(seed);
        let mut under_way: Vec<Option<Asked>> = (0..self.scale.depth).map(|_| None).collect();
        let (mut history, mut left) = (History::default(), self.scale.requests);
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

/// Makes the volumes of a race.
///
/// # Errors
/// Each [`ChangeError`].
pub async fn volumes(pool: &Pool, port: &Port, scale: Scale) -> Result<(), ChangeError> {
    for (name, block_size, write_cache, verify) in VOLUMES {
        let settings = Settings { block_size, write_cache, verify, ..Settings::default() };
        pool.create_volume(port, name, scale.blocks * BLOCK as u64, settings).await?;
    }
    Ok(())
}

/// Reads every block once more, and adds what is seen.
pub fn read_again(pool: &Pool, plane: &mut impl Plane, scale: Scale, history: &mut History, end: u64) {
    for (volume, (name, ..)) in VOLUMES.iter().enumerate() {
        let handle = pool.volume(name).unwrap_or_else(|e| panic!("volume {name}: {e}"));
        for block in 0..scale.blocks {
            let span = Span { volume, from: block * 8, sectors: 8 };
            plane.submit(&handle as &dyn Volume, 0, Op::Read { at: span.extent() });
            let (_, outcome) = plane.completions().remove(0);
            history.answered(Asked { start: end, span, kind: Kind::Read }, end + 1, outcome);
        }
    }
}

/// Judges what all threads saw.
///
/// # Panics
/// When no order explains it. Gives how many operations there were, on how many cells, and how many cells were too much to judge.
pub fn judge(history: &History) -> (usize, usize, usize) {
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
    (ops, history.0.len(), large)
}
