//! The block table: a radix of pages with direct pointers, 256 entries of 16 bytes a page.
//!
//! Level 0 holds entries. A directory's record holds where the page below is stored, and in place of references how much
//! below it is in use: entries of a page of level 0, pages not empty below a directory. A page that is stored nowhere is
//! all zeroes until it changes. Owns reference counts, the accounting that goes with them, and the growth of the radix.
//!
//! What changes a page marks the directories above it changed, so that all of them stay in memory until a checkpoint.

use crate::alloc::ENTRIES;
use crate::cache::blank;
use crate::planted::{Bug, on};
use crate::segment::{Segment, View};
use crate::tables::Tables;
use crate::types::{BlockId, Entry, PAGE, PageKey, Place, RawEntry, Stored, TAG, Where};
use crate::want::Want;
use zerocopy::{FromBytes, IntoBytes};

const RAW: usize = size_of::<RawEntry>();

/// The `i`th record of a page.
pub(crate) fn raw_in(page: &[u8; PAGE], i: usize) -> RawEntry {
    let at = i * RAW;
    RawEntry::read_from_bytes(&page[at..at + RAW]).expect("16 bytes are an entry")
}

/// Sets the `i`th record of a page.
pub(crate) fn set_raw_in(page: &mut [u8; PAGE], i: usize, raw: &RawEntry) {
    page[i * RAW..(i + 1) * RAW].copy_from_slice(raw.as_bytes());
}

fn key(level: u8, index: u64) -> PageKey {
    PageKey::Blocks { level, index }
}

impl Tables {
    #[inline]
    pub(crate) fn raw_at(&self, slot: u32, i: usize) -> RawEntry {
        raw_in(self.cache.page(slot), i)
    }

    /// Whether the radix is high enough for a page.
    pub(crate) fn in_capacity(&self, level: u8, index: u64) -> bool {
        level < self.levels && (index >> (8 * u32::from(self.levels - 1 - level))) == 0
    }

    /// What must be read for the record of a stored page.
    pub(crate) fn where_of(&self, raw: &RawEntry) -> Where {
        let (place, stored) = (raw.place(), raw.stored());
        // The number of a pending place is that of no segment.
        let there = place.segment < self.segments.len();
        let segment = if there { *self.segments.get(place.segment) } else { Segment::default() };
        Where { place, sequence: segment.sequence, opening: segment.opening, stored }
    }

    /// The pointer to a page of the block table from its parent, which is in memory.
    pub(crate) fn pointer(&mut self, level: u8, index: u64) -> Option<RawEntry> {
        if level + 1 == self.levels {
            return Some(self.top);
        }
        let parent = self.cache.slot(key(level + 1, index / ENTRIES))?;
        Some(self.raw_at(parent, (index % ENTRIES) as usize))
    }

    /// A page of the block table for reading: `Some(None)` where it is all zeroes, `None` where it is wanted.
    pub(crate) fn read_blocks(&mut self, level: u8, index: u64, want: &mut Want) -> Option<Option<u32>> {
        if let Some(slot) = self.cache.slot(key(level, index)) {
            return Some(Some(slot));
        }
        if !self.in_capacity(level, index) {
            return Some(None);
        }
        let pointer = if level + 1 == self.levels {
            self.top
        } else {
            match self.read_blocks(level + 1, index / ENTRIES, want)? {
                None => return Some(None),
                Some(parent) => self.raw_at(parent, (index % ENTRIES) as usize),
            }
        };
        if !pointer.live() {
            return Some(None);
        }
        want.add(key(level, index), self.where_of(&pointer));
        None
    }

    /// The record of an id, for reading.
    #[inline]
    pub(crate) fn read_entry(&mut self, id: u64, want: &mut Want) -> Option<RawEntry> {
        let slot = self.read_blocks(0, id / ENTRIES, want)?;
        Some(slot.map_or(RawEntry::FREE, |s| self.raw_at(s, (id % ENTRIES) as usize)))
    }

    /// Gets a page of the block table and all above it into memory, so that it can change.
    pub(crate) fn need_chain(&mut self, level: u8, index: u64, want: &mut Want) -> bool {
        let slot = self.cache.slot(key(level, index));
        if slot.is_some_and(|s| self.cache.is_changed(s)) {
            return true;
        }
        if !self.in_capacity(level, index) {
            // Growth will put a new top over the present one.
            return self.need_chain(self.levels - 1, 0, want);
        }
        for l in (level..self.levels).rev() {
            let at = index >> (8 * u32::from(l - level));
            if self.cache.slot(key(l, at)).is_some() {
                continue;
            }
            let pointer = self.pointer(l, at).expect("the level above was ensured");
            if pointer.live() {
                want.add(key(l, at), self.where_of(&pointer));
                return false;
            }
            self.cache.insert(key(l, at), blank());
        }
        true
    }

    /// Gets the entry of an id into memory, so that it can change.
    #[inline]
    pub(crate) fn need_entry(&mut self, id: BlockId, want: &mut Want) -> bool {
        self.need_chain(0, id.get() / ENTRIES, want)
    }

    /// Marks a page of the block table, and all above it, changed.
    pub(crate) fn change_blocks(&mut self, level: u8, index: u64, slot: u32) {
        if !self.cache.change(slot) {
            return;
        }
        for l in level + 1..self.levels {
            let above = key(l, index >> (8 * u32::from(l - level)));
            let slot = self.cache.slot(above).expect("directories of what changes are in memory");
            if !self.cache.change(slot) {
                return;
            }
        }
    }

    /// The slot of the page with an id's entry, marked changed, and the entry's number in it.
    #[inline]
    fn entry_mut(&mut self, id: u64) -> (u32, usize) {
        let page = id / ENTRIES;
        let slot = self.cache.slot(key(0, page)).expect("entries that change are in memory");
        self.change_blocks(0, page, slot);
        (slot, (id % ENTRIES) as usize)
    }

    /// Marks the page with an id's entry changed.
    pub(crate) fn change_entry(&mut self, id: u64) {
        self.entry_mut(id);
    }

    /// The live record of an id whose page is in memory.
    #[inline]
    pub(crate) fn live_raw(&mut self, id: u64) -> RawEntry {
        match self.cache.slot(key(0, id / ENTRIES)) {
            Some(slot) => self.raw_at(slot, (id % ENTRIES) as usize),
            None => RawEntry::FREE,
        }
    }

    fn set_raw(&mut self, id: u64, raw: &RawEntry) {
        let (slot, i) = self.entry_mut(id);
        set_raw_in(self.cache.page_mut(slot), i, raw);
    }

    /// As [`Tables::live_raw`], with where it stands, of an entry that is about to change.
    #[inline]
    fn live_mut(&mut self, id: u64) -> Option<(u32, RawEntry)> {
        let slot = self.cache.slot(key(0, id / ENTRIES))?;
        let raw = self.raw_at(slot, (id % ENTRIES) as usize);
        raw.live().then_some((slot, raw))
    }

    /// Sets the record of an id that [`Tables::live_mut`] found in `slot`.
    #[inline]
    fn set_in(&mut self, slot: u32, id: u64, raw: &RawEntry) {
        self.change_blocks(0, id / ENTRIES, slot);
        set_raw_in(self.cache.page_mut(slot), (id % ENTRIES) as usize, raw);
    }

    /// A new top over the present one.
    fn grow_radix(&mut self) {
        let old = self.cache.slot(key(self.levels - 1, 0));
        let used = match old {
            Some(slot) => (0..ENTRIES as usize).filter(|&i| self.raw_at(slot, i).refs.get() > 0).count(),
            None => 0,
        };
        let mut first = std::mem::replace(&mut self.top, RawEntry::FREE);
        first.refs = (used as u32).into();
        let slot = self.cache.insert(key(self.levels, 0), blank());
        self.levels += 1;
        self.cache.change(slot);
        set_raw_in(self.cache.page_mut(slot), 0, &first);
    }

    /// Makes the radix high enough for an id, and the pages on the way to it, which nothing is stored of.
    fn make_way(&mut self, id: u64) {
        let index = id / ENTRIES;
        while !self.in_capacity(0, index) {
            self.grow_radix();
        }
        for l in (0..self.levels).rev() {
            let at = index >> (8 * u32::from(l));
            if self.cache.slot(key(l, at)).is_none() {
                self.cache.insert(key(l, at), blank());
            }
        }
    }

    /// Counts what is in use in the page of an entry up or down, in the directories as far as it matters.
    fn count_used(&mut self, id: u64, by: i32) {
        let mut by = by;
        for level in 1..self.levels {
            let below = id >> (8 * u32::from(level));
            let index = below / ENTRIES;
            let slot = self.cache.slot(key(level, index)).expect("directories of what changes are in memory");
            let i = (below % ENTRIES) as usize;
            let mut raw = self.raw_at(slot, i);
            let before = raw.refs.get();
            let now = before.saturating_add_signed(by);
            raw.refs = now.into();
            set_raw_in(self.cache.page_mut(slot), i, &raw);
            if before.min(now) > 0 {
                return;
            }
            // Above, pages count that are not empty.
            by = by.signum();
        }
    }

    /// The slot of the page that an entry is to be made in, marked changed, and the entry's number in it.
    fn entry_new(&mut self, n: u64) -> (u32, usize) {
        // Above a page that changed, all are in memory.
        let known = self.cache.slot(key(0, n / ENTRIES)).filter(|&slot| self.cache.is_changed(slot));
        match known {
            Some(slot) => (slot, (n % ENTRIES) as usize),
            None => {
                self.make_way(n);
                self.entry_mut(n)
            }
        }
    }

    /// Makes the entries of new blocks, all in one page, which is in memory if it is stored.
    pub(crate) fn create_blocks(&mut self, ids: &[BlockId], stored: impl Fn(usize) -> Stored) {
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return };
        let (slot, _) = self.entry_new(first.get());
        let page = self.cache.page_mut(slot);
        let (mut bytes, mut bits, mut end) = (0, [0; 4], 0);
        for (n, id) in ids.iter().enumerate() {
            let at = (id.get() % ENTRIES) as usize;
            assert!(!raw_in(page, at).live(), "{id:?} is free");
            let stored = stored(n);
            let entry = Entry { place: Place::PENDING, stored, refs: 0, map: false };
            set_raw_in(page, at, &RawEntry::from_entry(&entry));
            bytes += u64::from(stored.length);
            bits[at / 64] |= 1u64 << (at % 64);
            end = end.max(id.get() + 1);
        }
        debug_assert!(first.get() / ENTRIES == last.get() / ENTRIES, "they are in one page");
        self.count_used(first.get(), ids.len() as i32);
        self.alloc.used_in(first.get() / ENTRIES, bits);
        self.limit = self.limit.max(end);
        self.stats.blocks += ids.len() as u64;
        self.stats.stored_bytes += bytes;
        self.pending += ids.len() as u64;
    }

    /// Makes an entry. Its page, if it is stored, is in memory.
    pub(crate) fn create_entry(&mut self, id: BlockId, entry: &Entry) {
        let n = id.get();
        let (slot, i) = self.entry_new(n);
        assert!(!self.raw_at(slot, i).live(), "{id:?} is free");
        set_raw_in(self.cache.page_mut(slot), i, &RawEntry::from_entry(entry));
        self.count_used(n, 1);
        self.alloc.used(n);
        self.limit = self.limit.max(n + 1);
        if entry.map {
            self.stats.map_pages += 1;
        } else {
            self.stats.blocks += 1;
            self.stats.stored_bytes += u64::from(entry.stored.length);
        }
        if entry.place.is_pending() {
            self.pending += u64::from(!entry.map);
        } else {
            self.account(entry.place, entry.stored, true);
        }
    }

    /// An entry for a new map page.
    pub(crate) fn create_map_entry(&mut self, id: BlockId) {
        let stored = Stored { length: PAGE as u16, codec: 0, epoch: 0 };
        self.create_entry(id, &Entry { place: Place::PENDING, stored, refs: 1, map: true });
    }

    pub(crate) fn account(&mut self, place: Place, stored: Stored, add: bool) {
        self.segments.account(place.segment, u32::from(stored.length) + TAG, add, View::Live);
    }

    /// Frees an entry.
    pub(crate) fn free_entry(&mut self, id: u64, raw: &RawEntry) {
        if raw.map() {
            self.stats.map_pages -= 1;
        } else {
            self.stats.blocks -= 1;
            self.stats.stored_bytes -= u64::from(raw.length.get());
        }
        if raw.place().is_pending() {
            self.pending -= u64::from(!raw.map());
        } else {
            self.account(raw.place(), raw.stored(), false);
        }
        self.set_raw(id, &RawEntry::FREE);
        self.count_used(id, -1);
        self.alloc.freed(id);
    }

    /// One more reference. At the maximum it stays there for good: what is never freed cannot be freed too early.
    pub(crate) fn add_ref(&mut self, id: u64) {
        let Some((slot, mut raw)) = self.live_mut(id) else {
            return self.fault("a reference is added to a free id");
        };
        let refs = raw.refs.get();
        if refs < self.most_refs(&raw) && !(refs > 0 && on(Bug::LostIncrement)) {
            raw.refs = (refs + 1).into();
            self.set_in(slot, id, &raw);
            self.stats.references += u64::from(!raw.map());
        }
    }

    /// At how many references a count stays. That of a map page never comes there: a volume has one way to it, and volumes are fewer. So
    /// no map page outlives its family's volumes, with whose end its key goes.
    pub(crate) fn most_refs(&self, raw: &RawEntry) -> u32 {
        if raw.map() { u32::MAX } else { self.geometry.max_refs }
    }

    /// One reference less; whether it was the last, and the id is free now.
    pub(crate) fn drop_ref(&mut self, id: u64) -> bool {
        let Some((slot, mut raw)) = self.live_mut(id).filter(|(_, raw)| raw.refs.get() > 0) else {
            self.fault("a reference is dropped that there is not");
            return false;
        };
        let refs = raw.refs.get();
        if refs >= self.most_refs(&raw) || refs > 1 && on(Bug::LostDecrement) {
            return false;
        }
        self.stats.references -= u64::from(!raw.map());
        if refs == 1 {
            self.free_entry(id, &raw);
            return true;
        }
        raw.refs = (refs - 1).into();
        self.set_in(slot, id, &raw);
        false
    }

    /// Sets the place, and how it is stored, of an entry.
    pub(crate) fn relocate(&mut self, id: u64, place: Place, stored: Stored) {
        let Some((slot, raw)) = self.live_mut(id) else { return };
        let Some(old) = raw.entry() else { return };
        if old.place.is_pending() {
            self.pending -= u64::from(!old.map);
        } else {
            self.account(old.place, old.stored, false);
        }
        if !old.map {
            let bytes = self.stats.stored_bytes - u64::from(old.stored.length);
            self.stats.stored_bytes = bytes + u64::from(stored.length);
        }
        self.account(place, stored, true);
        self.set_in(slot, id, &RawEntry::from_entry(&Entry { place, stored, ..old }));
    }
}
