//! The history of one block.

use crate::linear;
use std::collections::BTreeSet;

/// What a write puts into a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// This content.
    Of(u64),
    /// Whatever this block of the same volume had while the copy was under way.
    Copied(u64),
    /// Whatever this block of that volume had since the snapshot was begun.
    Taken {
        /// The source.
        volume: u32,
        /// Its block.
        lba: u64,
        /// When it began.
        from: u64,
    },
    /// One of these.
    Among(BTreeSet<u64>),
}

/// One write of one block.
#[derive(Clone, Debug)]
pub struct Write {
    /// The operation.
    pub id: u64,
    /// What it puts there.
    pub value: Value,
    /// When it was submitted.
    pub start: u64,
    /// When it was over, well or not.
    pub end: Option<u64>,
    /// Whether it certainly did it.
    pub ok: bool,
    /// Whether no crash can undo it.
    pub durable: bool,
}

/// One block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Writes that may matter, in the order in which they began.
    pub(super) writes: Vec<Write>,
    /// What was done since `initial`, for the checker of linearisability.
    pub(super) acts: Vec<linear::Op>,
    /// What it may have held then.
    pub(super) initial: Vec<u64>,
}

impl Block {
    /// One that holds `value` durably since `time`.
    pub(super) fn new(value: Value, time: u64) -> Block {
        let initial = match &value {
            Value::Of(v) => vec![*v],
            Value::Among(values) => values.iter().copied().collect(),
            Value::Copied(_) | Value::Taken { .. } => Vec::new(),
        };
        let write = Write { id: 0, value, start: time, end: Some(time), ok: true, durable: true };
        Block { writes: vec![write], acts: Vec::new(), initial }
    }

    /// What ended before this moment is certainly replaced for who begins at `from`.
    pub(super) fn replaced_before(&self, from: u64) -> u64 {
        let over = self.writes.iter().filter(|w| w.ok && w.end.is_some_and(|e| e < from));
        over.map(|w| w.start).max().unwrap_or(0)
    }

    /// What ended before this moment is certainly replaced after a crash that keeps everything that ended before `kept`.
    pub(super) fn lost_before(&self, kept: u64) -> u64 {
        let stays = |w: &&Write| w.ok && (w.durable || w.end.is_some_and(|e| e < kept));
        self.writes.iter().filter(stays).map(|w| w.start).max().unwrap_or(0)
    }

    pub(super) fn flushed(&mut self, start: u64) {
        for w in &mut self.writes {
            w.durable |= w.ok && w.end.is_some_and(|end| end < start);
        }
    }

    pub(super) fn prune(&mut self, oldest: u64) {
        let durable = self.writes.iter().filter(|w| w.ok && w.durable && w.end.is_some_and(|e| e < oldest));
        let bound = durable.map(|w| w.start).max().unwrap_or(0);
        self.writes.retain(|w| w.end.is_none_or(|end| end >= bound));
    }

    /// What it may hold now, where nothing is under way.
    pub(super) fn possible(&self, now: u64) -> Vec<u64> {
        let replaced = self.replaced_before(now + 1);
        let mut out = BTreeSet::new();
        for w in self.writes.iter().filter(|w| w.end.is_none_or(|e| e >= replaced)) {
            match &w.value {
                Value::Of(v) => drop(out.insert(*v)),
                Value::Among(values) => out.extend(values),
                Value::Copied(_) | Value::Taken { .. } => {}
            }
        }
        out.into_iter().collect()
    }
}
