//! Writing: what a write needs, and the changes it consists of.
//!
//! A write first makes sure of every page that it may touch, so that it happens as a whole or not at all.

use crate::alloc::{ENTRIES, For};
use crate::change::{Change, Run};
use crate::map::{IDS, MARK, Path, capacity, get, height_for, index};
use crate::tables::Tables;
use crate::types::*;
use crate::want::Want;

/// Ids for map pages that are fetched at once.
const STASH: usize = 16;

/// The parts of a range of blocks that are below one leaf each: first block, and the range of slots.
fn parts(block: u64, count: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = block + done as u64;
        let part = ((IDS - at % IDS) as usize).min(count - done);
        let range = done..done + part;
        done += part;
        (part > 0).then_some((at, range))
    })
}

/// The number that a leaf has for it.
fn value(slot: &Slot) -> u64 {
    match slot {
        Slot::Zero => 0,
        Slot::Unreadable => MARK,
        Slot::Share(id) | Slot::New(id) => id.get(),
    }
}

/// That a write can be done: see [`Tables::ready`].
#[must_use]
pub struct Ready {
    /// New map pages at most, and the way to the last leaf.
    pages: usize,
    way: Option<Path>,
    /// When it was said, and of what.
    call: u64,
    of: (VolumeId, u64, usize),
}

impl Tables {
    /// The height that a volume's map must have for `block`: as its size says, so that it does not grow step by step.
    fn target_height(&self, v: VolumeId, block: u64) -> u8 {
        let r = self.record(v);
        height_for(r.blocks.max(block + 1)).max(r.height)
    }

    /// Makes sure of `n` ids for map pages, and of their entries.
    pub(crate) fn need_stash(&mut self, n: usize, want: &mut Want) {
        while self.stash.len() < n {
            let mut more = Vec::new();
            match self.allocate_for(For::Maps, STASH.max(n - self.stash.len()), &mut more) {
                // Taken from the end.
                Ok(()) => self.stash.splice(0..0, more.into_iter().rev()),
                Err(needs) => return needs.0.into_iter().for_each(|(key, at)| want.add(key, at)),
            };
        }
        for i in self.stash.len() - n..self.stash.len() {
            let id = self.stash[i];
            self.need_entry(id, want);
        }
    }

    pub(crate) fn take_stash(&mut self) -> BlockId {
        self.stash.pop().expect("ids for map pages were made sure of")
    }

    /// Whether `write` with the same arguments, and `put` of its new ids, can be done now: if so, neither asks for pages
    /// until something else is called, and [`Tables::write_ready`] does the first without looking again. The new ids need not be
    /// put yet. Panics if there is no such volume.
    pub fn ready(&mut self, v: VolumeId, block: u64, slots: &[Slot]) -> Result<Ready, Needs> {
        let (pages, way) = self.prepare(v, block, slots)?;
        Ok(Ready { pages, way, call: self.cache.call(), of: (v, block, slots.len()) })
    }

    /// Makes sure of all that a write takes: how many new map pages at most, and the way to its last leaf.
    fn prepare(&mut self, v: VolumeId, block: u64, slots: &[Slot]) -> Result<(usize, Option<Path>), Needs> {
        let mut want = Want::default();
        let mut pages = 0;
        let mut way = None;
        // Neighbours tend to have their entries in one page.
        let mut last = u64::MAX;
        for id in slots.iter().filter_map(|slot| slot.id()) {
            if std::mem::replace(&mut last, id.get() / ENTRIES) != last {
                self.need_entry(id, &mut want);
            }
        }
        for (at, range) in parts(block, slots.len()) {
            let fills = slots[range.clone()].iter().any(|s| *s != Slot::Zero);
            if let Some((more, path)) = self.need_part(v, at, range.len(), fills, &mut want) {
                pages += more;
                way = Some(path);
            }
        }
        if pages > 0 && want.is_empty() {
            self.need_stash(pages, &mut want);
        }
        Result::<(), Needs>::from(want)?;
        Ok((pages, way))
    }

    /// Wants what writing below one leaf takes; how many new map pages it takes at most.
    fn need_part(
        &mut self,
        v: VolumeId,
        at: u64,
        count: usize,
        fills: bool,
        want: &mut Want,
    ) -> Option<(usize, Path)> {
        let path = self.path(v, at, 0, want)?;
        let mut pages = 0;
        if fills {
            let target = self.target_height(v, at);
            // Growth keeps what there is and adds a way of its own; else the way goes on from the lowest page.
            let grown = usize::from(target - path.height);
            let below = if grown > 0 { usize::from(target) } else { usize::from(path.lowest) };
            pages += grown + below;
        }
        for level in (path.lowest..path.height).rev() {
            let node = *path.node(level);
            if node.shared {
                pages += 1;
                self.need_children(node.slot, 0..IDS as usize, want);
            } else if level == 0 {
                let first = index(at, 0);
                self.need_children(node.slot, first..first + count, want);
            }
        }
        Some((pages, path))
    }

    /// Whether a volume has just this in a range of blocks already, as far as the pages that say so are in memory: then writing it changes
    /// nothing. Ends at the first that differs. Panics if there is no such volume.
    pub fn has(&mut self, v: VolumeId, block: u64, slots: &[Slot]) -> bool {
        parts(block, slots.len()).all(|(at, range)| {
            let Some(leaf) = self.leaf_for(v, at, &mut Want::default()) else { return false };
            let is = |i: usize| leaf.map_or(0, |slot| get(self.cache.page(slot), index(at, 0) + i));
            slots[range].iter().enumerate().all(|(i, slot)| match slot {
                Slot::New(_) => false,
                known => value(known) == is(i),
            })
        })
    }

    /// Writes blocks, all or nothing. New ids were `put`, shared ones checked, under the same lock. Panics if there is no
    /// such volume.
    pub fn write(
        &mut self,
        v: VolumeId,
        block: u64,
        slots: &[Slot],
        journal: &mut Vec<Change>,
    ) -> Result<(), Needs> {
        if slots.is_empty() {
            return Ok(());
        }
        let ready = self.ready(v, block, slots)?;
        self.write_ready(ready, v, block, slots, journal);
        Ok(())
    }

    /// As [`Tables::write`], with what [`Tables::ready`] said of the same arguments; since then, only new ids were `put`.
    ///
    /// # Panics
    /// When it said that of others, or before another call.
    pub fn write_ready(
        &mut self,
        ready: Ready,
        v: VolumeId,
        block: u64,
        slots: &[Slot],
        journal: &mut Vec<Change>,
    ) {
        let Ready { pages, way, call, of } = ready;
        assert!(call == self.cache.call() && of == (v, block, slots.len()), "what was made ready is written");
        if slots.is_empty() {
            return;
        }
        // Mostly there is nothing to copy or create, and one leaf, to which the way is known already.
        let plain = pages == 0;
        let way = way.filter(|_| plain && block % IDS + slots.len() as u64 <= IDS);
        for (at, range) in parts(block, slots.len()).filter(|_| !plain) {
            let fills = slots[range].iter().any(|s| *s != Slot::Zero);
            self.open_way(v, at, fills, journal);
        }
        let mut values = std::mem::take(&mut self.values);
        values.clear();
        values.extend(slots.iter().map(value));
        self.map_values(v, block, &values, way);
        journal.push(Change::Map { volume: v, block, runs: Run::of(&values) });
        self.values = values;
        self.cache.tick();
    }

    fn make(&mut self, change: Change, journal: &mut Vec<Change>) {
        self.step(&change);
        journal.push(change);
    }

    /// Makes the way to a block its own: copies what is shared, and creates what is missing if something is filled in.
    fn open_way(&mut self, volume: VolumeId, block: u64, fills: bool, journal: &mut Vec<Change>) {
        if fills {
            let target = self.target_height(volume, block);
            while (1..target).contains(&self.record(volume).height) {
                let id = self.take_stash();
                self.make(Change::Grow { volume, id }, journal);
            }
            if self.record(volume).height == 0 {
                let id = self.take_stash();
                self.make(Change::Page { volume, level: target - 1, block, id }, journal);
            }
        }
        let path = self.sure_path(volume, block, 0);
        self.own(volume, block, path.lowest, journal);
        if fills {
            for level in (0..path.lowest).rev() {
                let id = self.take_stash();
                self.make(Change::Page { volume, level, block, id }, journal);
            }
        }
    }

    /// Copies the shared pages on the way to a block, down to a level that there is.
    pub(crate) fn own(&mut self, volume: VolumeId, block: u64, down_to: u8, journal: &mut Vec<Change>) {
        let path = self.sure_path(volume, block, down_to);
        for level in (down_to..path.height).rev() {
            if path.node(level).shared {
                let id = self.take_stash();
                self.make(Change::Shadow { volume, level, block, id }, journal);
            }
        }
    }

    /// Whether a leaf has anything in a range of its numbers.
    pub(crate) fn has_any(&self, slot: u32, range: std::ops::Range<usize>) -> bool {
        range.into_iter().any(|i| get(self.cache.page(slot), i) != 0)
    }

    /// Whether a block is within what a volume's map can hold now.
    pub(crate) fn within(&self, v: VolumeId, block: u64) -> bool {
        block < capacity(self.record(v).height)
    }
}
