//! What each block of each volume may hold: the judge of all answers.
//!
//! Owns the history of writes of each block, and the rules: what a read may see while others are under way, what a crash
//! may leave, what a snapshot may hold, what is still allowed once a device has lied. Knows the time as a counter of its own,
//! in which everything that begins or ends has a moment.

mod block;
mod crash;

pub use block::{Value, Write};
pub use crash::{Found, Leave};

use crate::content::ZERO;
use crate::linear::{self, Act};
use block::Block;
use caisson_block::Extent;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What a name stands for.
#[derive(Clone, Debug)]
pub struct VolumeModel {
    /// 512 or 4096.
    pub block_size: u32,
    /// Size in blocks, and whatever a resize under way may make of it.
    pub sizes: Vec<u64>,
    /// Whether every write is durable when it completes.
    pub write_through: bool,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// When it was made: began, and was over.
    pub made: (u64, Option<u64>),
    /// When its deletion began.
    pub deleting: Option<u64>,
    /// The number of the erase that is being asked for.
    pub erase: Option<u64>,
    pub(crate) blocks: Vec<Block>,
}

impl VolumeModel {
    /// Size in blocks, where no resize is under way.
    pub fn size(&self) -> u64 {
        self.sizes[0]
    }

    /// Where a block lies in its 4 KiB, in blocks.
    pub fn slot(&self, lba: u64) -> u64 {
        lba % (4096 / u64::from(self.block_size))
    }
}

/// All volumes, and the time.
#[derive(Clone, Debug, Default)]
pub struct Model {
    volumes: BTreeMap<u32, VolumeModel>,
    /// Those that are gone since it was opened, where a device may lie.
    former: BTreeMap<u32, VolumeModel>,
    time: u64,
    ids: u64,
    /// Everything is kept in the order in which it was completed: a crash leaves what was done up to some moment.
    pub ordered: bool,
    /// A device has lied: what was durable may be gone after a crash, and blocks may be unreadable; nothing may be wrong.
    pub lenient: bool,
    /// A device may come to lie, so that what was replaced durably may be back after a crash.
    pub remember: bool,
    /// Histories that were too tangled for the checker of linearisability.
    pub tangled: u64,
    /// Operations that it judged.
    pub judged: u64,
}

/// What is wrong.
pub type Verdict = Result<(), String>;

impl Model {
    /// Nothing yet. What the flags mean is said at the fields.
    pub fn new(ordered: bool, remember: bool) -> Model {
        Model { ordered, remember, time: 1, ..Model::default() }
    }

    /// What was true at an earlier time is true again. Times and numbers go on.
    pub fn back_to(&mut self, then: Model) {
        let (time, ids, tangled, judged) = (self.time, self.ids, self.tangled, self.judged);
        *self = Model { time, ids, tangled, judged, ..then };
    }

    /// Lets the time go on.
    pub fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// A number for an operation.
    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// The volumes that there may be.
    pub fn volumes(&self) -> &BTreeMap<u32, VolumeModel> {
        &self.volumes
    }

    /// One of them.
    pub fn volume(&self, name: u32) -> Option<&VolumeModel> {
        self.volumes.get(&name)
    }

    fn block(&self, volume: u32, lba: u64) -> Option<&Block> {
        self.volumes.get(&volume)?.blocks.get(lba as usize)
    }

    /// A volume is being made, all zero.
    pub fn make(&mut self, name: u32, block_size: u32, size: u64, write_through: bool) {
        let made = (self.time, None);
        let block = Block::new(Value::Of(ZERO), 0);
        self.volumes.insert(
            name,
            VolumeModel {
                block_size,
                sizes: vec![size],
                write_through,
                read_only: false,
                made,
                deleting: None,
                erase: None,
                blocks: vec![block; size as usize],
            },
        );
    }

    /// A snapshot or clone of `of` is being made.
    pub fn copy(&mut self, of: u32, name: u32, read_only: bool) {
        let now = self.time;
        let Some(from) = self.volumes.get(&of) else { return };
        let mut made = from.clone();
        made.read_only = read_only;
        made.made = (now, None);
        (made.deleting, made.erase) = (None, None);
        for (lba, block) in made.blocks.iter_mut().enumerate() {
            *block = Block::new(Value::Taken { volume: of, lba: lba as u64, from: now }, now);
        }
        self.volumes.insert(name, made);
    }

    /// It is made.
    pub fn made(&mut self, name: u32) {
        let now = self.time;
        self.settle_taken(name);
        if let Some(v) = self.volumes.get_mut(&name) {
            v.made.1 = Some(now);
        }
    }

    /// Works out what a snapshot may hold, now that its source may go on.
    fn settle_taken(&mut self, name: u32) {
        let Some(v) = self.volumes.get(&name) else { return };
        let settled: Vec<Option<BTreeSet<u64>>> = v
            .blocks
            .iter()
            .map(|b| match b.writes.first().map(|w| &w.value) {
                Some(&Value::Taken { volume, lba, from }) => {
                    Some(self.allowed(volume, lba, from, self.time, 0))
                }
                _ => None,
            })
            .collect();
        let Some(v) = self.volumes.get_mut(&name) else { return };
        for (block, values) in v.blocks.iter_mut().zip(settled) {
            if let Some(values) = values {
                block.initial = values.iter().copied().collect();
                block.writes[0].value = Value::Among(values);
            }
        }
    }

    /// Snapshots of `of` that are being made: they need to know what it holds before that is forgotten.
    pub fn snapshots_under_way(&self, of: u32) -> bool {
        self.volumes.values().any(|v| {
            v.blocks
                .first()
                .is_some_and(|b| matches!(b.writes[0].value, Value::Taken { volume, .. } if volume == of))
        })
    }

    /// It was not made, or is gone.
    pub fn gone(&mut self, name: u32) {
        if let Some(v) = self.volumes.remove(&name).filter(|_| self.remember) {
            self.former.insert(name, v);
        }
    }

    /// Its deletion has begun.
    pub fn deleting(&mut self, name: u32) {
        let now = self.time;
        if let Some(v) = self.volumes.get_mut(&name) {
            v.deleting = Some(now);
        }
    }

    /// It was not deleted after all.
    pub fn undelete(&mut self, name: u32) {
        if let Some(v) = self.volumes.get_mut(&name) {
            v.deleting = None;
        }
    }

    /// A resize to `size` has begun. Nothing else is under way on the volume.
    pub fn resizing(&mut self, name: u32, size: u64) {
        if let Some(v) = self.volumes.get_mut(&name) {
            v.sizes.push(size);
        }
    }

    /// The resize that began at `start` is over, well or not.
    pub fn resized(&mut self, name: u32, start: u64, ok: bool) {
        let now = self.time;
        let Some(v) = self.volumes.get_mut(&name) else { return };
        let Some(size) = v.sizes.pop() else { return };
        if !ok {
            return;
        }
        v.sizes = vec![size];
        // What is cut off is written with zeroes, for it may come back.
        for b in v.blocks.iter_mut().skip(size as usize) {
            let value = Value::Of(ZERO);
            b.writes.push(Write { id: 0, value, start, end: Some(now), ok: true, durable: true });
            b.acts.push(linear::Op { start, end: now, act: Act::Write(vec![ZERO]), sure: true });
        }
        while (v.blocks.len() as u64) < size {
            v.blocks.push(Block::new(Value::Of(ZERO), start));
        }
    }

    /// All that it holds begins to be erased. Nothing else is under way on it.
    pub fn erasing(&mut self, name: u32) {
        let (id, start) = (self.next_id(), self.time);
        let Some(v) = self.volumes.get_mut(&name) else { return };
        v.erase = Some(id);
        // What holds nothing for good is not made newer by it: it may join one that is under way, and then no write is its own.
        let empty =
            |b: &Block| b.writes.last().is_some_and(|w| w.durable && w.ok && w.value == Value::Of(ZERO));
        for b in v.blocks.iter_mut().filter(|b| !empty(b)) {
            b.writes.push(Write { id, value: Value::Of(ZERO), start, end: None, ok: false, durable: false });
        }
    }

    /// The erase that began at `start` is asked for, durably, or refused.
    pub fn erased(&mut self, name: u32, start: u64, ok: bool) {
        let now = self.time;
        let Some(v) = self.volumes.get_mut(&name) else { return };
        let Some(id) = v.erase.take() else { return };
        for b in &mut v.blocks {
            if !ok {
                b.writes.retain(|w| w.id != id);
                continue;
            }
            for w in b.writes.iter_mut().filter(|w| w.id == id) {
                (w.end, w.ok, w.durable) = (Some(now), true, true);
            }
            b.acts.push(linear::Op { start, end: now, act: Act::Write(vec![ZERO]), sure: true });
        }
    }

    /// Its write cache is turned on or off.
    pub fn write_through(&mut self, name: u32, on: bool) {
        if let Some(v) = self.volumes.get_mut(&name) {
            v.write_through = on;
        }
    }

    /// The operation `id` begins to put `value` into a block.
    pub fn begin(&mut self, volume: u32, lba: u64, id: u64, value: Value) {
        let start = self.time;
        if let Some(b) = self.volumes.get_mut(&volume).and_then(|v| v.blocks.get_mut(lba as usize)) {
            b.writes.push(Write { id, value, start, end: None, ok: false, durable: false });
        }
    }

    /// The operation `id`, which wrote these blocks, is over: it did what it was to do, or may have.
    pub fn end(&mut self, volume: u32, extents: &[Extent], id: u64, start: u64, ok: bool, fua: bool) {
        let now = self.time;
        for lba in extents.iter().flat_map(|e| e.lba..e.lba + e.blocks) {
            let Some(b) = self.block(volume, lba) else { continue };
            let mut values = Vec::new();
            for w in b.writes.iter().filter(|w| w.id == id) {
                values.push(self.values(w, volume, lba, 0, &mut HashSet::new()));
            }
            let Some(v) = self.volumes.get_mut(&volume) else { continue };
            let durable = ok && (fua || v.write_through);
            let block = &mut v.blocks[lba as usize];
            let own = block.writes.iter_mut().filter(|w| w.id == id && w.end.is_none());
            for (at, w) in own.enumerate() {
                (w.end, w.ok, w.durable) = (Some(now), ok, durable);
                let set = values.get(at).cloned().unwrap_or_default();
                block.acts.push(linear::Op {
                    start,
                    end: now,
                    act: Act::Write(set.iter().copied().collect()),
                    sure: ok,
                });
                if matches!(w.value, Value::Copied(_)) {
                    w.value = Value::Among(set);
                }
            }
        }
    }

    /// The operation `id` wrote none of these blocks.
    pub fn never(&mut self, volume: u32, extents: &[Extent], id: u64) {
        let Some(v) = self.volumes.get_mut(&volume) else { return };
        for lba in extents.iter().flat_map(|e| e.lba..e.lba + e.blocks) {
            if let Some(b) = v.blocks.get_mut(lba as usize) {
                b.writes.retain(|w| w.id != id);
            }
        }
    }

    /// A block was seen to be (or, in a comparison, not to be) something: kept for the checker of linearisability.
    pub fn saw(&mut self, volume: u32, lba: u64, start: u64, act: Act) {
        let end = self.time;
        if let Some(b) = self.volumes.get_mut(&volume).and_then(|v| v.blocks.get_mut(lba as usize)) {
            b.acts.push(linear::Op { start, end, act, sure: true });
        }
    }

    /// Replaces what `end` noted of a write that was a comparison too.
    pub fn swapped(&mut self, volume: u32, lba: u64, expect: u64, new: u64) {
        let block = self.volumes.get_mut(&volume).and_then(|v| v.blocks.get_mut(lba as usize));
        if let Some(last) = block.and_then(|b| b.acts.last_mut()) {
            last.act = Act::Swap(expect, new);
        }
    }

    /// A flush that began at `start` is over.
    pub fn flushed(&mut self, volume: u32, start: u64) {
        if let Some(v) = self.volumes.get_mut(&volume) {
            for b in &mut v.blocks {
                b.flushed(start);
            }
        }
    }

    /// Everything that was over before `start` is durable, on all volumes.
    pub fn all_flushed(&mut self, start: u64) {
        let names: Vec<u32> = self.volumes.keys().copied().collect();
        names.into_iter().for_each(|name| self.flushed(name, start));
    }

    /// Forgets of these blocks what can never be seen again by an operation that began at `oldest` or later, nor after a
    /// crash.
    pub fn prune(&mut self, volume: u32, extents: &[Extent], oldest: u64) {
        if self.remember {
            return;
        }
        let Some(v) = self.volumes.get_mut(&volume) else { return };
        for lba in extents.iter().flat_map(|e| e.lba..e.lba + e.blocks) {
            if let Some(b) = v.blocks.get_mut(lba as usize) {
                b.prune(oldest);
            }
        }
    }

    /// What a read of the block that began at `from` and ended at `to` may have seen, but for what `but` wrote.
    pub fn allowed(&self, volume: u32, lba: u64, from: u64, to: u64, but: u64) -> BTreeSet<u64> {
        self.collect(volume, lba, from, to, but, &mut HashSet::new())
    }

    fn collect(
        &self,
        volume: u32,
        lba: u64,
        from: u64,
        to: u64,
        but: u64,
        seen: &mut HashSet<(u32, u64, u64)>,
    ) -> BTreeSet<u64> {
        let Some(block) = self.block(volume, lba) else { return BTreeSet::new() };
        let replaced = block.replaced_before(from);
        let mut out = BTreeSet::new();
        for w in &block.writes {
            let gone = w.end.is_some_and(|end| end < replaced);
            if w.start <= to && !gone && (but == 0 || w.id != but) {
                out.extend(self.values(w, volume, lba, but, seen));
            }
        }
        out
    }

    fn values(
        &self,
        w: &Write,
        volume: u32,
        lba: u64,
        but: u64,
        seen: &mut HashSet<(u32, u64, u64)>,
    ) -> BTreeSet<u64> {
        match w.value {
            Value::Of(value) => BTreeSet::from([value]),
            Value::Among(ref values) => values.clone(),
            // In a circle of copies, the values come from outside of it.
            Value::Copied(source) if seen.insert((volume, lba, w.id)) => {
                let mut values = self.collect(volume, source, w.start, w.end.unwrap_or(self.time), but, seen);
                values.remove(&crate::content::UNREADABLE);
                values
            }
            Value::Copied(_) => BTreeSet::new(),
            Value::Taken { volume, lba, from } => self.collect(volume, lba, from, self.time, but, seen),
        }
    }

    /// Judges the histories of all blocks and begins new ones. Nothing is under way.
    ///
    /// # Errors
    /// The block, and what is wrong with it.
    pub fn linearise(&mut self) -> Verdict {
        for (name, v) in &mut self.volumes {
            for (lba, b) in v.blocks.iter_mut().enumerate() {
                if b.acts.is_empty() {
                    continue;
                }
                self.judged += b.acts.len() as u64;
                match linear::check(&b.initial, &b.acts) {
                    Ok(left) => b.initial = left,
                    Err(linear::Fault::Large) => {
                        self.tangled += 1;
                        b.initial = b.possible(self.time);
                    }
                    Err(linear::Fault::Wrong { op, held }) => {
                        return Err(format!(
                            "the history of block {lba} of volume {name} is not linearisable: {op:x?}, it held one of {held:x?}"
                        ));
                    }
                }
                b.acts.clear();
            }
        }
        Ok(())
    }
}
