//! What may be in each block, from the history of the operations on it.

use std::collections::{BTreeSet, HashSet};

/// The value of a block that was made unreadable.
pub const UNREADABLE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Deallocate,
    Flush,
    Compare,
    CompareAndWrite,
    Verify,
    Mark,
}

#[derive(Clone, Debug)]
enum Value {
    Of(u64),
    /// Whatever this block had while the copy was under way.
    Copied(u64),
    /// The same, worked out when the copy was over.
    Among(BTreeSet<u64>),
}

/// One write of one block.
#[derive(Clone, Debug)]
struct Write {
    id: u64,
    value: Value,
    start: u64,
    /// When it was over, well or not.
    end: Option<u64>,
    ok: bool,
    durable: bool,
}

pub struct History {
    blocks: Vec<Vec<Write>>,
    time: u64,
    ids: u64,
    /// Every write is durable when it completes.
    write_through: bool,
}

impl History {
    pub fn new(blocks: u64, write_through: bool) -> History {
        let zero = Write { id: 0, value: Value::Of(0), start: 0, end: Some(0), ok: true, durable: true };
        History { blocks: vec![vec![zero]; blocks as usize], time: 1, ids: 0, write_through }
    }

    pub fn now(&self) -> u64 {
        self.time
    }

    pub fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// What the write `id` puts into `block`.
    pub fn value(id: u64, block: u64) -> u64 {
        (id << 16) | block
    }

    fn push(&mut self, block: u64, id: u64, value: Value) {
        let write = Write { id, value, start: self.time, end: None, ok: false, durable: false };
        self.blocks[block as usize].push(write);
    }

    pub fn begin(&mut self, block: u64, id: u64, value: u64) {
        self.push(block, id, Value::Of(value));
    }

    pub fn begin_copy(&mut self, block: u64, id: u64, source: u64) {
        self.push(block, id, Value::Copied(source));
    }

    pub fn end(&mut self, id: u64, ok: bool, fua: bool) {
        let durable = ok && (fua || self.write_through);
        for block in 0..self.blocks.len() {
            for at in 0..self.blocks[block].len() {
                let w = &self.blocks[block][at];
                if w.id == id && matches!(w.value, Value::Copied(_)) {
                    let values = self.values(w, block as u64, 0, &mut HashSet::new());
                    self.blocks[block][at].value = Value::Among(values);
                }
            }
        }
        for w in self.blocks.iter_mut().flatten().filter(|w| w.id == id) {
            (w.end, w.ok, w.durable) = (Some(self.time), ok, durable);
        }
    }

    /// It did certainly not write anything.
    pub fn never(&mut self, id: u64) {
        self.blocks.iter_mut().for_each(|b| b.retain(|w| w.id != id));
    }

    /// Forgets what can never be seen again by an operation that began at `oldest` or later, nor after a crash.
    pub fn prune(&mut self, oldest: u64) {
        for writes in &mut self.blocks {
            let later: Vec<(u64, u64)> = writes
                .iter()
                .filter(|w| w.ok && w.durable)
                .filter_map(|w| Some((w.start, w.end.filter(|e| *e < oldest)?)))
                .collect();
            writes.retain(|w| w.end.is_none_or(|end| !later.iter().any(|(start, _)| *start > end)));
        }
    }

    /// A flush that began at `start` is over.
    pub fn flushed(&mut self, start: u64) {
        for w in self.blocks.iter_mut().flatten() {
            w.durable |= w.ok && w.end.is_some_and(|end| end < start);
        }
    }

    /// What a read of `block` that began at `from` and ended at `to` may have seen.
    pub fn allowed(&self, block: u64, from: u64, to: u64) -> BTreeSet<u64> {
        self.collect(block, from, to, 0, &mut HashSet::new())
    }

    /// The same, for an operation that itself writes: without what it wrote.
    pub fn allowed_to(&self, block: u64, from: u64, to: u64, id: u64) -> BTreeSet<u64> {
        self.collect(block, from, to, id, &mut HashSet::new())
    }

    fn collect(
        &self,
        block: u64,
        from: u64,
        to: u64,
        but: u64,
        seen: &mut HashSet<(u64, u64)>,
    ) -> BTreeSet<u64> {
        let writes = &self.blocks[block as usize];
        let replaced = |w: &Write| {
            w.end.is_some_and(|end| {
                writes.iter().any(|l| l.ok && l.start > end && l.end.is_some_and(|e| e < from))
            })
        };
        let mut out = BTreeSet::new();
        for w in writes.iter().filter(|w| w.start <= to && !replaced(w) && (but == 0 || w.id != but)) {
            out.extend(self.values(w, block, but, seen));
        }
        out
    }

    fn values(&self, w: &Write, block: u64, but: u64, seen: &mut HashSet<(u64, u64)>) -> BTreeSet<u64> {
        match w.value {
            Value::Of(value) => BTreeSet::from([value]),
            Value::Among(ref values) => values.clone(),
            // In a circle of copies, the values come from outside of it.
            Value::Copied(source) if seen.insert((block, w.id)) => {
                let mut values = self.collect(source, w.start, w.end.unwrap_or(self.time), but, seen);
                values.remove(&UNREADABLE);
                values
            }
            Value::Copied(_) => BTreeSet::new(),
        }
    }

    /// Judges what was found after a crash, and begins anew from it. Runs of `sector` bytes are never torn. Says which
    /// blocks are of different writes: they are to be zeroed.
    pub fn crashed(&mut self, found: &[Option<Vec<u8>>], block: usize, sector: usize) -> Vec<u64> {
        for (lba, contents) in found.iter().enumerate() {
            let writes = &self.blocks[lba];
            let replaced = |w: &Write| {
                w.end.is_some_and(|end| writes.iter().any(|l| l.ok && l.durable && l.start > end))
            };
            let mut allowed = BTreeSet::new();
            for w in writes.iter().filter(|w| !replaced(w)) {
                allowed.extend(self.values(w, lba as u64, 0, &mut HashSet::new()));
            }
            let Some(bytes) = contents else {
                assert!(allowed.contains(&UNREADABLE), "block {lba} became unreadable in the crash");
                continue;
            };
            for part in bytes.chunks(sector.min(block)) {
                let value = u64::from_le_bytes(part[..8].try_into().unwrap());
                assert!(part.chunks(8).all(|c| c == value.to_le_bytes()), "block {lba} is torn by the crash");
                assert!(
                    allowed.contains(&value),
                    "block {lba} is {value:#x} after the crash, and cannot: {} values may be there",
                    allowed.len()
                );
            }
        }
        self.time += 1;
        let mut torn = Vec::new();
        for (lba, contents) in found.iter().enumerate() {
            let end = Some(self.time);
            let base =
                |value| Write { id: 0, value: Value::Of(value), start: 0, end, ok: true, durable: true };
            self.blocks[lba] = match contents {
                None => vec![base(UNREADABLE)],
                Some(bytes) if bytes.chunks(8).all(|c| c == &bytes[..8]) => {
                    vec![base(u64::from_le_bytes(bytes[..8].try_into().unwrap()))]
                }
                Some(_) => {
                    assert!(sector < block, "block {lba} is torn by the crash");
                    torn.push(lba as u64);
                    vec![base(0)]
                }
            };
        }
        self.time += 1;
        torn
    }
}
