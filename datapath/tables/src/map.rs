//! Volume maps: trees of map pages from a volume's blocks to ids, and the steps that change them.
//!
//! A page holds 512 numbers of 64 bits. In a leaf: 0 for a hole, an id, or the mark "unreadable". Above: a page's id, and, in
//! the upper 16 bits above a leaf, how many of its blocks are mapped. A page with more than one reference is shared and
//! never changed: it is copied first, and what it points at gets one reference more.
//!
//! The steps here are what a [`Change`] means. Live calls and replay both make them; both have made sure of all pages
//! before, and that what they change is shared with nobody.

use crate::blocks::raw_in;
use crate::cache::blank;
use crate::change::Change;
use crate::planted::{Bug, on};
use crate::tables::Tables;
use crate::types::*;
use crate::volume::VolumeRecord;
use crate::want::Want;

/// Numbers in a map page, and its logarithm.
pub(crate) const IDS: u64 = 512;
pub(crate) const BITS: u32 = 9;

/// The mark "unreadable" in a leaf; and the mask of an id.
pub(crate) const MARK: u64 = (1 << 48) - 1;

/// Levels of a map at most: 512^6 blocks are more than 2^64 bytes.
pub(crate) const MAX_HEIGHT: u8 = 6;

pub(crate) fn get(page: &Page, i: usize) -> u64 {
    let bytes = page[i * 8..i * 8 + 8].try_into().expect("8 bytes are a number");
    u64::from_le_bytes(bytes)
}

pub(crate) fn set(page: &mut Page, i: usize, n: u64) {
    page[i * 8..i * 8 + 8].copy_from_slice(&n.to_le_bytes());
}

/// Whether a number in a leaf is a stored block's id.
pub(crate) fn is_id(n: u64) -> bool {
    n != 0 && n != MARK
}

/// Which number of a page at `level` leads to `block`.
pub(crate) fn index(block: u64, level: u8) -> usize {
    (block >> (BITS * u32::from(level)) & (IDS - 1)) as usize
}

/// Blocks below a page at `level`.
pub(crate) fn span(level: u8) -> u64 {
    1 << (BITS * (u32::from(level) + 1))
}

/// Levels that a map of `blocks` blocks needs.
pub(crate) fn height_for(blocks: u64) -> u8 {
    (1..MAX_HEIGHT).find(|h| blocks <= span(h - 1)).unwrap_or(MAX_HEIGHT)
}

/// Blocks that a map of a height can hold.
pub(crate) fn capacity(height: u8) -> u64 {
    if height == 0 { 0 } else { span(height - 1) }
}

/// A page on the way to a block.
#[derive(Clone, Copy, Default)]
pub(crate) struct Node {
    pub id: u64,
    pub slot: u32,
    /// It, or a page above it, has several references.
    pub shared: bool,
    /// It has several references itself.
    pub many: bool,
}

/// The way from a volume's root towards a block, by level.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub nodes: [Node; MAX_HEIGHT as usize],
    pub height: u8,
    /// The lowest level that was reached; `height` where there is no root.
    pub lowest: u8,
}

impl Path {
    pub fn node(&self, level: u8) -> &Node {
        &self.nodes[usize::from(level)]
    }
}

impl Tables {
    pub(crate) fn record(&self, v: VolumeId) -> &VolumeRecord {
        self.volumes.get(&v).expect("the volume exists")
    }

    pub(crate) fn record_mut(&mut self, v: VolumeId) -> &mut VolumeRecord {
        let record = self.volumes.get_mut(&v).expect("the volume exists");
        if let Some(image) = &mut self.image {
            image.volumes.entry(v.0).or_insert_with(|| Some(record.clone()));
        }
        record
    }

    /// A map page in memory. Where the tables are damaged and there is none, it is wanted from a pending place.
    #[inline]
    pub(crate) fn map_page(&mut self, id: u64, want: &mut Want) -> Option<u32> {
        let key = PageKey::Map(BlockId::new(id)?);
        if let Some(slot) = self.cache.slot(key) {
            return Some(slot);
        }
        let raw = self.read_entry(id, want)?;
        let at = self.where_of(&raw);
        let lost = !raw.live() || !raw.map();
        want.add(key, if lost { Where { place: Place::PENDING, ..at } } else { at });
        None
    }

    /// Marks a map page changed, and with it the entry that will tell where it goes.
    pub(crate) fn mark_map(&mut self, id: u64, slot: u32) {
        if self.cache.change(slot) {
            self.change_entry(id);
        }
    }

    /// As [`Tables::mark_map`], for a change of a volume's map. What it changes is shared with nobody, so from the next checkpoint on it
    /// is stored under the map key of its family. (A page of before there were such keys that the cleaner marked already gets it with
    /// its next change after that.)
    pub(crate) fn change_map(&mut self, v: VolumeId, id: u64, slot: u32) {
        if self.cache.change(slot) {
            self.change_entry(id);
            let family = self.record(v).family;
            self.cache.set_family(slot, family);
        }
    }

    /// What a volume has at a range of blocks, as numbers, a leaf at a time: `f` gets the numbers of each.
    pub(crate) fn leaf_for(&mut self, v: VolumeId, block: u64, want: &mut Want) -> Option<Option<u32>> {
        let r = self.record(v);
        let height = r.height;
        let Some(root) = r.root.filter(|_| block < capacity(height)) else { return Some(None) };
        let mut id = root.get();
        for level in (0..height).rev() {
            let slot = self.map_page(id, want)?;
            if level == 0 {
                return Some(Some(slot));
            }
            id = get(self.cache.page(slot), index(block, level)) & MARK;
            if id == 0 {
                break;
            }
        }
        Some(None)
    }

    /// Appends what volume `v` has at each of `count` blocks; beyond its end are holes. Nothing is appended on `Err`. Panics
    /// if there is no such volume.
    pub fn find(&mut self, v: VolumeId, block: u64, count: u64, out: &mut Vec<Found>) -> Result<(), Needs> {
        let mut want = Want::default();
        let first = out.len();
        let end = block.saturating_add(count);
        let mut at = block;
        while at < end {
            let stop = (at - at % IDS).saturating_add(IDS).min(end);
            match self.leaf_for(v, at, &mut want) {
                None => {}
                Some(None) => out.resize(out.len() + (stop - at) as usize, Found::Hole),
                Some(Some(slot)) => self.find_in(slot, index(at, 0), (stop - at) as usize, out, &mut want),
            }
            at = stop;
        }
        if want.is_empty() {
            self.cache.tick();
        } else {
            out.truncate(first);
        }
        want.into()
    }

    fn find_in(&mut self, leaf: u32, first: usize, count: usize, out: &mut Vec<Found>, want: &mut Want) {
        // Neighbours tend to have their entries in one page.
        let mut last: Option<(u64, u32)> = None;
        for i in first..first + count {
            let n = get(self.cache.page(leaf), i);
            if !is_id(n) {
                out.push(if n == 0 { Found::Hole } else { Found::Unreadable });
                continue;
            }
            let page = n / 256;
            let slot = match last {
                Some((p, slot)) if p == page => Some(slot),
                _ => match self.read_blocks(0, page, want) {
                    None => continue,
                    Some(slot) => slot,
                },
            };
            last = slot.map(|s| (page, s));
            let entry = slot.and_then(|s| raw_in(self.cache.page(s), (n % 256) as usize).entry());
            out.push(match (BlockId::new(n), entry) {
                (Some(id), Some(entry)) => Found::At { id, entry },
                // The tables are damaged: what was here cannot be found.
                _ => Found::Unreadable,
            });
        }
    }

    /// The way to a block, down to a level, with all on it ready to change. `None` where pages are wanted.
    pub(crate) fn path(&mut self, v: VolumeId, block: u64, down_to: u8, want: &mut Want) -> Option<Path> {
        let r = self.record(v);
        let height = r.height;
        let mut path = Path { nodes: Default::default(), height, lowest: height };
        let Some(root) = r.root.filter(|_| block < capacity(height)) else { return Some(path) };
        let mut id = root.get();
        let mut shared = false;
        for level in (down_to..height).rev() {
            if !self.need_chain(0, id / 256, want) {
                return None;
            }
            let many = self.live_raw(id).refs.get() > 1;
            shared |= many;
            let slot = self.map_page(id, want)?;
            path.nodes[usize::from(level)] = Node { id, slot, shared, many };
            path.lowest = level;
            if level > down_to {
                id = get(self.cache.page(slot), index(block, level)) & MARK;
                if id == 0 {
                    break;
                }
            }
        }
        Some(path)
    }

    /// [`Tables::path`] where all pages were made sure of.
    pub(crate) fn sure_path(&mut self, v: VolumeId, block: u64, down_to: u8) -> Path {
        let mut want = Want::default();
        self.path(v, block, down_to, &mut want).expect("the pages of a change were made sure of")
    }

    /// Wants the entries of all that a page points at, so that they can change.
    pub(crate) fn need_children(&mut self, slot: u32, range: std::ops::Range<usize>, want: &mut Want) {
        let mut last = u64::MAX;
        for i in range {
            let n = get(self.cache.page(slot), i) & MARK;
            if is_id(n) && n / 256 != last {
                last = n / 256;
                self.need_chain(0, last, want);
            }
        }
    }

    // the steps

    /// Puts `id` where the page at `level` on the way to `block` is pointed to from. `id` 0 takes the pointer away.
    fn point(&mut self, v: VolumeId, path: &Path, level: u8, block: u64, value: u64) {
        if level + 1 >= path.height {
            let record = self.record_mut(v);
            record.root = BlockId::new(value & MARK);
            return;
        }
        let parent = *path.node(level + 1);
        self.change_map(v, parent.id, parent.slot);
        set(self.cache.page_mut(parent.slot), index(block, level + 1), value);
    }

    /// [`Change::Page`].
    pub(crate) fn make_page(&mut self, v: VolumeId, level: u8, block: u64, id: BlockId) {
        let path = self.sure_path(v, block, level + 1);
        self.create_map_entry(id);
        let slot = self.cache.insert(PageKey::Map(id), blank());
        self.change_map(v, id.get(), slot);
        if path.height == 0 {
            let record = self.record_mut(v);
            (record.root, record.height) = (Some(id), level + 1);
        } else {
            self.point(v, &path, level, block, id.get());
        }
    }

    /// [`Change::Grow`].
    pub(crate) fn make_root(&mut self, v: VolumeId, id: BlockId) {
        self.create_map_entry(id);
        let slot = self.cache.insert(PageKey::Map(id), blank());
        self.change_map(v, id.get(), slot);
        let record = self.record_mut(v);
        let mapped = if record.height == 1 { record.mapped } else { 0 };
        let old = record.root.replace(id).expect("what grows has a root");
        record.height += 1;
        set(self.cache.page_mut(slot), 0, old.get() | mapped << 48);
    }

    /// [`Change::Shadow`].
    pub(crate) fn shadow(&mut self, v: VolumeId, level: u8, block: u64, id: BlockId) {
        let path = self.sure_path(v, block, level);
        let old = *path.node(level);
        self.create_map_entry(id);
        let copy = Box::new(*self.cache.page(old.slot));
        let slot = self.cache.insert(PageKey::Map(id), copy);
        self.change_map(v, id.get(), slot);
        for i in 0..IDS as usize {
            let n = get(self.cache.page(slot), i) & MARK;
            if is_id(n) && !on(Bug::LostOnShadow) {
                self.add_ref(n);
            }
        }
        let marks = match level + 1 < path.height {
            true => get(self.cache.page(path.node(level + 1).slot), index(block, level + 1)) & !MARK,
            false => 0,
        };
        self.point(v, &path, level, block, id.get() | marks);
        self.drop_ref(old.id);
    }

    /// Adds to the mapped blocks of a volume and of the leaf that has `block`.
    fn count_mapped(&mut self, v: VolumeId, path: &Path, block: u64, delta: i64) {
        if delta == 0 {
            return;
        }
        let record = self.record_mut(v);
        record.mapped = record.mapped.saturating_add_signed(delta);
        if path.height > 1 {
            let parent = *path.node(1);
            self.change_map(v, parent.id, parent.slot);
            let page = self.cache.page_mut(parent.slot);
            let n = get(page, index(block, 1));
            let count = (n >> 48).saturating_add_signed(delta);
            set(page, index(block, 1), n & MARK | count << 48);
        }
    }

    /// [`Change::Map`]. What comes in gets its references before what goes loses them, which may be the same. `way` is the
    /// way to the leaf, if it is known and the only one.
    pub(crate) fn map_values(&mut self, v: VolumeId, block: u64, values: &[u64], way: Option<Path>) {
        for &n in values.iter().filter(|n| is_id(**n)) {
            self.add_ref(n);
        }
        let mut dropped = std::mem::take(&mut self.dropped);
        let mut done = 0;
        while done < values.len() {
            let at = block + done as u64;
            let part = ((IDS - at % IDS) as usize).min(values.len() - done);
            let path = way.unwrap_or_else(|| self.sure_path(v, at, 0));
            if path.lowest == 0 && path.height > 0 {
                let leaf = *path.node(0);
                self.change_map(v, leaf.id, leaf.slot);
                let page = self.cache.page_mut(leaf.slot);
                let mut delta = 0;
                for (i, &n) in values[done..done + part].iter().enumerate() {
                    let old = get(page, index(at, 0) + i);
                    set(page, index(at, 0) + i, n);
                    delta += i64::from(is_id(n)) - i64::from(is_id(old));
                    if is_id(old) {
                        dropped.push(old);
                    }
                }
                self.count_mapped(v, &path, at, delta);
            }
            done += part;
        }
        for n in dropped.drain(..) {
            self.drop_ref(n);
        }
        self.dropped = dropped;
    }

    /// [`Change::Clear`].
    pub(crate) fn clear(&mut self, v: VolumeId, block: u64, count: usize) {
        let path = self.sure_path(v, block, 0);
        let leaf = *path.node(0);
        let first = index(block, 0);
        self.change_map(v, leaf.id, leaf.slot);
        let page = self.cache.page_mut(leaf.slot);
        let old = *page;
        page[first * 8..(first + count) * 8].fill(0);
        let mut delta = 0;
        for n in (first..first + count).map(|i| get(&old, i)).filter(|n| is_id(*n)) {
            delta -= 1;
            self.drop_ref(n);
        }
        self.count_mapped(v, &path, block, delta);
        self.prune(v, &path, 0, block);
    }

    /// [`Change::Drop`].
    pub(crate) fn drop_page(&mut self, v: VolumeId, level: u8, block: u64) {
        let path = self.sure_path(v, block, level);
        let node = *path.node(level);
        let mapped = if level + 1 == path.height {
            self.record(v).mapped
        } else if level == 0 {
            get(self.cache.page(path.node(1).slot), index(block, 1)) >> 48
        } else if level == 1 {
            let page = self.cache.page(node.slot);
            (0..IDS as usize).map(|i| get(page, i) >> 48).sum()
        } else {
            // Only of a dying volume, whose count is a bound.
            0
        };
        let record = self.record_mut(v);
        record.mapped = record.mapped.saturating_sub(mapped);
        self.unlink(v, &path, level, block);
        if level + 1 < path.height {
            self.prune(v, &path, level + 1, block);
        }
    }

    /// Takes away the pointer to the page at `level`, and its reference.
    fn unlink(&mut self, v: VolumeId, path: &Path, level: u8, block: u64) {
        let node = *path.node(level);
        if self.drop_ref(node.id) {
            self.cache.discard(node.slot);
        }
        self.point(v, path, level, block, 0);
        if level + 1 == path.height {
            let record = self.record_mut(v);
            (record.height, record.mapped) = (0, 0);
        }
    }

    /// Takes away the page at `level` if it is empty, and those above it that become so.
    fn prune(&mut self, v: VolumeId, path: &Path, level: u8, block: u64) {
        for l in level..path.height {
            if self.cache.page(path.node(l).slot).iter().any(|&b| b != 0) {
                return;
            }
            self.unlink(v, path, l, block);
        }
    }

    /// Makes the step that a change of a map means.
    pub(crate) fn step(&mut self, change: &Change) {
        match *change {
            Change::Page { volume, level, block, id } => self.make_page(volume, level, block, id),
            Change::Grow { volume, id } => self.make_root(volume, id),
            Change::Shadow { volume, level, block, id } => self.shadow(volume, level, block, id),
            Change::Clear { volume, block, count } => self.clear(volume, block, count as usize),
            Change::Drop { volume, level, block } => self.drop_page(volume, level, block),
            Change::Map { .. } | Change::Volume(_) => unreachable!("these have calls of their own"),
        }
    }
}
