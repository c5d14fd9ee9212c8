//! Allocation of ids: in runs, from pages of the block table that have room, else at the end.
//!
//! Owns which free ids may not be handed out: those in use by nobody yet, and those freed since the last durable
//! checkpoint began. None of it is stored: after a crash, what was allocated and never put is free.

use crate::cache::IntMap;
use crate::planted::{Bug, on};
use crate::tables::Tables;
use crate::types::{BlockId, Needs, PageKey};
use crate::want::Want;

/// Entries of a page of the block table.
pub(crate) const ENTRIES: u64 = 256;

/// A page is worth filling up when it has at least this many free entries.
const ROOM: u32 = 64;

/// Fewer free ids than this below the end are not looked for.
const WORTH: u64 = 512;

/// Ids given back that are kept in hand; more are found again later.
const SPARE: usize = 4096;

/// A set of ids.
#[derive(Default)]
pub(crate) struct IdSet {
    pages: IntMap<u64, [u64; 4]>,
    len: u64,
}

impl IdSet {
    pub fn insert(&mut self, id: u64) {
        let word = &mut self.pages.entry(id / ENTRIES).or_default()[(id % ENTRIES / 64) as usize];
        self.len += u64::from(*word >> (id % 64) & 1 == 0);
        *word |= 1 << (id % 64);
    }

    pub fn remove(&mut self, id: u64) {
        let Some(page) = self.pages.get_mut(&(id / ENTRIES)) else { return };
        let word = &mut page[(id % ENTRIES / 64) as usize];
        self.len -= *word >> (id % 64) & 1;
        *word &= !(1 << (id % 64));
        if *page == [0; 4] {
            self.pages.remove(&(id / ENTRIES));
        }
    }

    /// Takes out those of a page that `bits` says.
    fn take_out(&mut self, page: u64, bits: [u64; 4]) {
        let Some(mine) = self.pages.get_mut(&page) else { return };
        for (m, b) in mine.iter_mut().zip(bits) {
            self.len -= u64::from((b & *m).count_ones());
            *m &= !b;
        }
        if *mine == [0; 4] {
            self.pages.remove(&page);
        }
    }

    /// The members of a page, a bit each.
    fn page(&self, page: u64) -> [u64; 4] {
        self.pages.get(&page).copied().unwrap_or_default()
    }

    /// Adds those of a page that `bits` says.
    fn add(&mut self, page: u64, bits: [u64; 4]) {
        if bits == [0; 4] {
            return;
        }
        let mine = self.pages.entry(page).or_default();
        for (m, b) in mine.iter_mut().zip(bits) {
            self.len += u64::from((b & !*m).count_ones());
            *m |= b;
        }
    }

    fn absorb(&mut self, other: IdSet) {
        other.pages.into_iter().for_each(|(page, bits)| self.add(page, bits));
    }
}

/// What ids are for: blocks and map pages come from pages of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum For {
    Blocks = 0,
    Maps = 1,
}

#[derive(Default)]
struct Cursor {
    /// The page that ids are taken from, and the next entry to look at.
    at: Option<(u64, u64)>,
    /// Ids that are set aside already.
    spare: Vec<BlockId>,
}

/// The state of allocation.
pub(crate) struct Alloc {
    /// The first id of the pages that were never allocated from.
    fresh: u64,
    /// Allocated, not put.
    reserved: IdSet,
    /// Freed since the freeze, or since the last durable checkpoint began.
    limbo: IdSet,
    /// Freed before the freeze of the checkpoint under way.
    limbo_frozen: IdSet,
    cursors: [Cursor; 2],
    /// Pages with room, found by looking at directories.
    room: Vec<u64>,
    /// The directory to look at next, and how many picks go by before it is.
    scan: u64,
    patience: u32,
}

impl Alloc {
    pub fn new(limit: u64) -> Alloc {
        let part = limit / ENTRIES;
        let room = if limit.is_multiple_of(ENTRIES) { Vec::new() } else { vec![part] };
        Alloc {
            fresh: limit.next_multiple_of(ENTRIES).max(ENTRIES),
            reserved: IdSet::default(),
            limbo: IdSet::default(),
            limbo_frozen: IdSet::default(),
            cursors: Default::default(),
            room,
            scan: 0,
            patience: 0,
        }
    }

    pub fn freed(&mut self, id: u64) {
        if !on(Bug::LimboIgnored) {
            self.limbo.insert(id);
        }
    }

    /// The id has an entry now. Replay uses ids that were never allocated here.
    pub fn used(&mut self, id: u64) {
        self.reserved.remove(id);
        if id >= self.fresh {
            self.fresh = (id / ENTRIES + 1) * ENTRIES;
        }
    }

    /// As [`Alloc::used`], of those of a page that `bits` says.
    pub fn used_in(&mut self, page: u64, bits: [u64; 4]) {
        self.reserved.take_out(page, bits);
        if page * ENTRIES >= self.fresh {
            self.fresh = (page + 1) * ENTRIES;
        }
    }

    pub fn freeze(&mut self) {
        self.limbo_frozen = std::mem::take(&mut self.limbo);
    }

    pub fn checkpointed(&mut self) {
        self.limbo_frozen = IdSet::default();
        self.patience = 0;
    }

    pub fn abandon(&mut self) {
        let frozen = std::mem::take(&mut self.limbo_frozen);
        self.limbo.absorb(frozen);
    }

    /// Whether the ids of a page that are not in use may be handed out, a bit each.
    fn barred(&self, page: u64) -> [u64; 4] {
        let sets = [&self.reserved, &self.limbo, &self.limbo_frozen].map(|s| s.page(page));
        std::array::from_fn(|w| sets[0][w] | sets[1][w] | sets[2][w])
    }

    pub fn memory(&self) -> usize {
        [&self.reserved, &self.limbo, &self.limbo_frozen].map(|s| s.pages.capacity() * 41).iter().sum()
    }
}

impl Tables {
    /// See `allocate`. What was found before a page was missing is kept for the next call.
    pub(crate) fn allocate_for(&mut self, what: For, n: usize, out: &mut Vec<BlockId>) -> Result<(), Needs> {
        let mut want = Want::default();
        let c = what as usize;
        while self.alloc.cursors[c].spare.len() < n && self.gather(c, n, &mut want) {}
        if want.is_empty() {
            let from = self.alloc.cursors[c].spare.len() - n;
            // Neighbours have their entries in one page.
            let mut last = u64::MAX;
            for i in from..from + n {
                let id = self.alloc.cursors[c].spare[i];
                if std::mem::replace(&mut last, id.get() / ENTRIES) != last {
                    self.need_entry(id, &mut want);
                }
            }
            if want.is_empty() {
                // The last ones gathered are at the end; rising order is what makes runs.
                out.extend(self.alloc.cursors[c].spare.drain(from..));
            }
        }
        want.into()
    }

    /// Sets ids of one page aside; whether it could look.
    fn gather(&mut self, c: usize, n: usize, want: &mut Want) -> bool {
        let Some((page, next)) = self.alloc.cursors[c].at else {
            let picked = self.pick(want);
            self.alloc.cursors[c].at = picked.map(|page| (page, u64::from(page == 0)));
            return picked.is_some();
        };
        if !self.need_chain(0, page, want) {
            return false;
        }
        let barred = self.alloc.barred(page);
        let slot = self.cache.slot(PageKey::Blocks { level: 0, index: page });
        let mut taken = [0; 4];
        let mut at = next;
        while at < ENTRIES && self.alloc.cursors[c].spare.len() < n {
            let free = slot.is_none_or(|s| !self.raw_at(s, at as usize).live());
            let id = page * ENTRIES + at;
            let free = free && barred[(at / 64) as usize] >> (at % 64) & 1 == 0;
            if let Some(id) = BlockId::new(id).filter(|_| free) {
                taken[(at / 64) as usize] |= 1 << (at % 64);
                self.alloc.cursors[c].spare.push(id);
            }
            at += 1;
        }
        self.alloc.reserved.add(page, taken);
        self.alloc.cursors[c].at = (at < ENTRIES).then_some((page, at));
        true
    }

    /// A page to take ids from.
    fn pick(&mut self, want: &mut Want) -> Option<u64> {
        if let Some(page) = self.alloc.room.pop() {
            return Some(page);
        }
        let a = &self.alloc;
        let taken =
            self.stats.blocks + self.stats.map_pages + a.limbo.len + a.limbo_frozen.len + a.reserved.len;
        let free = a.fresh.saturating_sub(taken);
        if free >= WORTH.max(a.fresh / 8) {
            if a.patience == 0 {
                self.look_for_room(want)?;
            } else {
                self.alloc.patience -= 1;
            }
            if let Some(page) = self.alloc.room.pop() {
                return Some(page);
            }
        }
        let page = self.alloc.fresh / ENTRIES;
        self.alloc.fresh += ENTRIES;
        Some(page)
    }

    /// Looks at one directory of 256 pages for those with room.
    fn look_for_room(&mut self, want: &mut Want) -> Option<()> {
        let directories = self.alloc.fresh.div_ceil(ENTRIES * ENTRIES);
        let index = self.alloc.scan % directories;
        if self.in_capacity(1, index) {
            if !self.need_chain(1, index, want) {
                return None;
            }
            let slot = self.cache.slot(PageKey::Blocks { level: 1, index })?;
            for i in (0..ENTRIES).rev() {
                let page = index * ENTRIES + i;
                let used = self.raw_at(slot, i as usize).refs.get();
                let barred: u32 = self.alloc.barred(page).iter().map(|w| w.count_ones()).sum();
                if page * ENTRIES < self.alloc.fresh && used + barred + ROOM <= ENTRIES as u32 {
                    self.alloc.room.push(page);
                }
            }
        }
        self.alloc.scan = (index + 1) % directories;
        if self.alloc.room.is_empty() && self.alloc.scan == 0 {
            // A whole round without room: what is free is spread too thin to be worth another one soon.
            self.alloc.patience = 1024;
        }
        Some(())
    }

    /// See `release`.
    pub(crate) fn release_ids(&mut self, ids: &[BlockId]) {
        for &id in ids {
            if self.alloc.cursors[0].spare.len() < SPARE {
                self.alloc.cursors[0].spare.push(id);
            } else {
                self.alloc.reserved.remove(id.get());
            }
        }
    }
}
