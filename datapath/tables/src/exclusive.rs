//! What deleting a volume would free.
//!
//! A block goes with a volume when all its references come from map pages that are the volume's alone. That takes counting
//! per block, so memory is bounded by doing it for a part of the blocks at a time, by a hash of their ids: when too many
//! are held, the part is halved and the other half left for another pass.

use crate::cache::IntMap;
use crate::map::{IDS, MARK, get, is_id};
use crate::tables::Tables;
use crate::types::{Needs, TAG, VolumeId};
use crate::want::Want;

/// A count under way of what deleting a volume would free. Exact if nothing changes meanwhile.
pub struct Exclusive {
    volume: VolumeId,
    memory: usize,
    /// Pages to look at, with their levels; `None` before a pass.
    stack: Option<Vec<(u8, u64)>>,
    /// The part of this pass, and those left: ids whose hash ends so, in so many bits.
    part: (u32, u64),
    left: Vec<(u32, u64)>,
    first: bool,
    /// Blocks with several references: references and stored bytes, and how many references were met.
    met: IntMap<u64, (u32, u16, u32)>,
    bytes: u64,
}

fn hash(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

impl Exclusive {
    /// Begins. Some 40 bytes times `memory` are held at most; more blocks with several references take more passes.
    pub fn new(volume: VolumeId, memory: usize) -> Exclusive {
        Exclusive {
            volume,
            memory: memory.max(1),
            stack: None,
            part: (0, 0),
            left: Vec::new(),
            first: true,
            met: IntMap::default(),
            bytes: 0,
        }
    }

    /// Looks at one map page; `Some` when done, with the bytes (tags included) that deleting the volume would free. 0 for a
    /// volume that there is not.
    pub fn step(&mut self, tables: &mut Tables) -> Result<Option<u64>, Needs> {
        let Some(stack) = &mut self.stack else {
            let record = tables.volumes.get(&self.volume);
            let root = record.and_then(|r| r.root.map(|id| (r.height - 1, id.get())));
            self.stack = Some(root.into_iter().collect());
            return Ok(None);
        };
        let Some(&(level, id)) = stack.last() else { return Ok(self.end_pass()) };
        let mut want = Want::default();
        if self.look(tables, level, id, &mut want).is_none() {
            return want.into();
        }
        tables.cache.tick();
        Ok(None)
    }

    fn look(&mut self, t: &mut Tables, level: u8, id: u64, want: &mut Want) -> Option<()> {
        let raw = t.read_entry(id, want)?;
        let stack = self.stack.as_mut()?;
        if raw.refs.get() != 1 || !raw.map() {
            stack.pop();
            return Some(());
        }
        let slot = t.map_page(id, want)?;
        if level > 0 {
            stack.pop();
            let children = (0..IDS as usize).map(|i| get(t.cache.page(slot), i) & MARK);
            stack.extend(children.filter(|n| is_id(*n)).map(|n| (level - 1, n)));
        } else {
            self.leaf(t, slot, want)?;
            self.stack.as_mut()?.pop();
        }
        if self.first && !raw.place().is_pending() {
            self.bytes += u64::from(raw.length.get()) + u64::from(TAG);
        }
        Some(())
    }

    fn leaf(&mut self, t: &mut Tables, slot: u32, want: &mut Want) -> Option<()> {
        let ids = |t: &Tables| {
            let page = *t.cache.page(slot);
            (0..IDS as usize).map(move |i| get(&page, i)).filter(|n| is_id(*n))
        };
        for n in ids(t) {
            t.read_entry(n, want);
        }
        if !want.is_empty() {
            return None;
        }
        for n in ids(t) {
            let raw = t.live_raw(n);
            let refs = raw.refs.get();
            if refs == 1 {
                let bytes = u64::from(raw.length.get()) + u64::from(TAG);
                self.bytes += if self.first { bytes } else { 0 };
            } else if refs < t.geometry.max_refs && self.in_part(n) {
                self.met.entry(n).or_insert((refs, raw.length.get(), 0)).2 += 1;
            }
        }
        while self.met.len() > self.memory && self.part.0 < 40 {
            let (bits, value) = self.part;
            self.left.push((bits + 1, value | 1 << bits));
            self.part = (bits + 1, value);
            let part = self.part;
            self.met.retain(|n, _| in_part(*n, part));
        }
        Some(())
    }

    fn in_part(&self, n: u64) -> bool {
        in_part(n, self.part)
    }

    /// Adds up a pass; `Some` after the last.
    fn end_pass(&mut self) -> Option<u64> {
        let gone = self.met.drain().filter(|(_, (refs, _, met))| refs == met);
        self.bytes += gone.map(|(_, (_, length, _))| u64::from(length) + u64::from(TAG)).sum::<u64>();
        self.first = false;
        let Some(part) = self.left.pop() else { return Some(self.bytes) };
        self.part = part;
        self.stack = None;
        None
    }
}

fn in_part(n: u64, (bits, value): (u32, u64)) -> bool {
    hash(n) & ((1 << bits) - 1) == value
}
