//! The tables of a pool: their state, and the calls about blocks and segments.
//!
//! Owns the struct that the other files add calls to, and the checks of pages that come in. Volume maps are in `map`,
//! `write` and `unmap`, the block table in `blocks`, replay in `replay`, checkpoints in `checkpoint`.

use crate::alloc::{Alloc, ENTRIES, For};
use crate::blocks::raw_in;
use crate::cache::{Cache, IntMap};
use crate::checkpoint::Image;
use crate::map::{IDS, MARK, get, index, is_id};
use crate::root::{Root, RootError};
use crate::segment::{Segment, Segments, Use, Victim};
use crate::types::*;
use crate::volume::VolumeRecord;
use crate::want::Want;
use std::collections::BTreeMap;
use std::ops::Range;

/// Why a page was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("page {key:?} holds what no page of the pool can hold")]
pub struct BadPage {
    /// Which.
    pub key: PageKey,
}

/// The levels that a block table has at least, and at most: 256^6 is 2^48.
pub(crate) const LEVELS: Range<u8> = 2..7;

/// The tables of a pool.
pub struct Tables {
    pub(crate) geometry: Geometry,
    pub(crate) cache: Cache,
    pub(crate) segments: Segments,
    pub(crate) alloc: Alloc,
    pub(crate) volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub(crate) names: BTreeMap<String, VolumeId>,
    pub(crate) next_volume: u32,
    /// Levels of the block table, and where its top page is.
    pub(crate) levels: u8,
    pub(crate) top: RawEntry,
    pub(crate) limit: u64,
    pub(crate) stats: Stats,
    /// Blocks that were put and have no place yet.
    pub(crate) pending: u64,
    /// How many changed pages ask for a checkpoint.
    dirty_due: usize,
    /// The checkpoint under way.
    pub(crate) image: Option<Image>,
    /// What was inconsistent, and let be.
    pub(crate) faults: u64,
    /// Ids set aside for map pages, taken from the end.
    pub(crate) stash: Vec<BlockId>,
    /// Reused by writes.
    pub(crate) values: Vec<u64>,
    pub(crate) dropped: Vec<u64>,
}

impl Tables {
    /// The tables of an empty pool.
    pub fn create(geometry: Geometry) -> Tables {
        Tables {
            cache: Cache::new(geometry.cache_pages),
            segments: Segments::new(vec![Segment::default(); geometry.segments as usize]),
            alloc: Alloc::new(1),
            volumes: BTreeMap::new(),
            names: BTreeMap::new(),
            next_volume: 1,
            levels: LEVELS.start,
            top: RawEntry::FREE,
            limit: 1,
            stats: Stats::default(),
            pending: 0,
            dirty_due: geometry.dirty_limit.div_ceil(2),
            image: None,
            faults: 0,
            stash: Vec::new(),
            values: Vec::new(),
            dropped: Vec::new(),
            geometry,
        }
    }

    /// The tables as a checkpoint left them. The geometry may have more segments than the root.
    pub fn open(geometry: Geometry, root: &Root) -> Result<Tables, RootError> {
        root.check(&geometry)?;
        let mut table = root.segments.clone();
        table.resize(geometry.segments as usize, Segment::default());
        let volumes: BTreeMap<_, _> = root.volumes.iter().map(|v| (v.id, v.clone())).collect();
        let named = volumes.values().filter(|v| !v.dying);
        Ok(Tables {
            segments: Segments::new(table),
            alloc: Alloc::new(root.limit),
            names: named.map(|v| (v.name.clone(), v.id)).collect(),
            volumes,
            next_volume: root.next_volume,
            levels: root.levels,
            top: root.top_record(),
            limit: root.limit,
            stats: root.stats,
            ..Tables::create(Geometry { segments: 0, ..geometry })
        }
        .with(geometry))
    }

    fn with(mut self, geometry: Geometry) -> Tables {
        self.geometry = geometry;
        self.dirty_due = geometry.dirty_limit.div_ceil(2);
        self
    }

    /// Right after `open`, before any replay, and after what the root needs was pinned: frees the segments that are
    /// closed, empty and not pinned, as `checkpointed` did when the root became durable.
    pub fn reclaim(&mut self) -> Vec<u32> {
        self.segments.checkpointed()
    }

    /// A page that was needed, and the family whose map key it was stored under, or 0. Ignored when it is not (or no longer) wanted;
    /// `Err` when its contents are impossible.
    pub fn load(&mut self, key: PageKey, at: &Where, page: Box<Page>, family: u32) -> Result<(), BadPage> {
        if self.cache.slot(key).is_some() {
            return Ok(());
        }
        let mut none = Want::default();
        let record = match key {
            PageKey::Map(id) => self.read_entry(id.get(), &mut none),
            PageKey::Blocks { level, index } if self.in_capacity(level, index) => self.pointer(level, index),
            PageKey::Blocks { .. } => None,
        };
        let wanted = record.is_some_and(|r| r.live() && self.where_of(&r) == *at && !at.place.is_pending());
        if !wanted {
            return Ok(());
        }
        if !self.plausible(key, &page) {
            return Err(BadPage { key });
        }
        let slot = self.cache.insert(key, page);
        self.cache.set_family(slot, family);
        Ok(())
    }

    /// Whether a page holds what such a page can hold, so that nothing that uses it runs out of a bound.
    fn plausible(&self, key: PageKey, page: &Page) -> bool {
        match key {
            PageKey::Map(_) => (0..IDS as usize).all(|i| {
                let id = get(page, i) & MARK;
                id < self.limit || id == MARK
            }),
            PageKey::Blocks { level, .. } => (0..ENTRIES as usize).all(|i| {
                let r = raw_in(page, i);
                let (place, length) = (r.place(), r.length.get());
                let end = u64::from(place.offset) + u64::from(length) + u64::from(TAG);
                let in_use = level == 0 || r.refs.get() > 0;
                length == 0 && (level > 0 || r.refs.get() == 0)
                    || usize::from(length) <= longest(level == 0 && r.map())
                        && place.segment < self.segments.len()
                        && end <= u64::from(self.geometry.segment_size)
                        && in_use
            }),
        }
    }

    /// The shape and bounds.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// How often something inconsistent was met and let be, such as a reference dropped twice. 0 in a sound pool.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    pub(crate) fn fault(&mut self, what: &str) {
        debug_assert!(false, "{what}");
        self.faults += 1;
    }

    /// What the block table says of an id; `None` where it is free.
    pub fn entry(&mut self, id: BlockId) -> Result<Option<Entry>, Needs> {
        let mut want = Want::default();
        match self.read_entry(id.get(), &mut want) {
            Some(raw) => {
                self.cache.tick();
                Ok(raw.entry())
            }
            None => want.into(),
        }
    }

    /// Has the processor fetch the entries of these ids, as far as their pages are in memory. A look at one misses the caches at
    /// several places, one behind the other; here the misses of many wait for each other no more. Changes nothing but the time
    /// that takes.
    pub fn warm(&self, ids: impl IntoIterator<Item = u64>) {
        let (mut all, mut last) = (0, u64::MAX);
        for id in ids {
            let index = id / ENTRIES;
            if std::mem::replace(&mut last, index) != index {
                let page = self.cache.peek(PageKey::Blocks { level: 0, index });
                all ^= page.map_or(0, |page| page[(id % ENTRIES) as usize * size_of::<RawEntry>()]);
            }
        }
        std::hint::black_box(all);
    }

    /// As [`Tables::warm`], of what a volume has in a range of blocks, below its first leaf: what goes loses a reference there.
    pub fn warm_old(&mut self, v: VolumeId, block: u64, count: usize) {
        let Some(Some(leaf)) = self.leaf_for(v, block, &mut Want::default()) else { return };
        let first = index(block, 0);
        let page = self.cache.page(leaf);
        let numbers = (first..(IDS as usize).min(first + count)).map(|i| get(page, i));
        self.warm(numbers.filter(|n| is_id(*n)));
    }

    /// The entry of a duplicate's candidate, if it is what the index says it is and may get another reference.
    pub fn candidate(&mut self, id: BlockId, place: Place, sequence: u64) -> Result<Option<Entry>, Needs> {
        let current =
            place.segment < self.segments.len() && self.segments.get(place.segment).sequence == sequence;
        if !current {
            return Ok(None);
        }
        // Half of the maximum is left for the copies of map pages, which cannot be refused.
        let fits = |e: &Entry, max: u32| e.place == place && !e.map && e.refs < max / 2;
        let max = self.geometry.max_refs;
        Ok(self.entry(id)?.filter(|e| fits(e, max)))
    }

    /// Appends `n` free ids, which are set aside until they are `put` or `release`d.
    pub fn allocate(&mut self, n: usize, out: &mut Vec<BlockId>) -> Result<(), Needs> {
        self.allocate_for(For::Blocks, n, out)?;
        self.cache.tick();
        Ok(())
    }

    /// Gives back ids that were allocated and not put.
    pub fn release(&mut self, ids: &[BlockId]) {
        self.release_ids(ids);
    }

    /// The entry of an allocated id: no references, [`Place::PENDING`]. Panics if it is in use, or `stored` is out of bounds.
    pub fn put(&mut self, id: BlockId, stored: Stored) -> Result<(), Needs> {
        assert!((1..=PAGE).contains(&usize::from(stored.length)) && stored.codec <= MAX_CODEC);
        let mut want = Want::default();
        if self.need_entry(id, &mut want) {
            self.create_entry(id, &Entry { place: Place::PENDING, stored, refs: 0, map: false });
        }
        want.into()
    }

    /// As [`Tables::put`] for each of `ids`, all or none: `stored` tells how the nth is.
    pub fn put_all(&mut self, ids: &[BlockId], stored: impl Fn(usize) -> Stored) -> Result<(), Needs> {
        let page = |id: &BlockId| id.get() / ENTRIES;
        let mut want = Want::default();
        for run in ids.chunk_by(|a, b| page(a) == page(b)) {
            self.need_entry(run[0], &mut want);
        }
        if !want.is_empty() {
            return want.into();
        }
        let mut n = 0;
        for run in ids.chunk_by(|a, b| page(a) == page(b)) {
            self.create_blocks(run, |i| {
                let stored = stored(n + i);
                assert!((1..=PAGE).contains(&usize::from(stored.length)) && stored.codec <= MAX_CODEC);
                stored
            });
            n += run.len();
        }
        Ok(())
    }

    /// Where a block that was put is. Nothing if it is free again. Panics if it has a place already.
    pub fn locate(&mut self, id: BlockId, place: Place) {
        let raw = self.live_raw(id.get());
        if raw.live() {
            assert!(raw.place().is_pending() && !raw.map(), "{id:?} is located once");
            self.relocate(id.get(), place, raw.stored());
        }
    }

    /// A block was copied by the cleaner: if it is still at `from`, it is at `to` now, stored so. Whether it was.
    pub fn moved(&mut self, id: BlockId, from: Place, to: Place, stored: Stored) -> Result<bool, Needs> {
        let mut want = Want::default();
        if !self.need_entry(id, &mut want) {
            return want.into();
        }
        let raw = self.live_raw(id.get());
        let there = raw.live() && raw.place() == from && !raw.map();
        if there {
            self.relocate(id.get(), to, stored);
        }
        Ok(there)
    }

    /// Frees those of a batch's new blocks that nothing refers to.
    pub fn settle(&mut self, new: &[BlockId]) -> Result<(), Needs> {
        let mut want = Want::default();
        for &id in new {
            self.need_entry(id, &mut want);
        }
        if want.is_empty() {
            for id in new {
                let raw = self.live_raw(id.get());
                if raw.live() && raw.refs.get() == 0 {
                    self.free_entry(id.get(), &raw);
                }
            }
            self.cache.tick();
        }
        want.into()
    }

    /// A segment. Panics if there is none with that number.
    pub fn segment(&self, n: u32) -> &Segment {
        self.segments.get(n)
    }

    /// A free or reserved segment is written from now on. Panics if it is neither.
    pub fn open_segment(&mut self, n: u32, sequence: u64, opening: u32, by: Use) {
        self.segments.open(n, sequence, opening, by);
    }

    /// An open segment is written no more. `by` as it was opened. Panics if it is not open.
    pub fn close_segment(&mut self, n: u32, by: Use) {
        self.segments.close(n, by);
    }

    /// Sets up to `k` free segments aside; a checkpoint under way sees that too.
    pub fn reserve(&mut self, k: usize) -> Vec<u32> {
        self.segments.reserve(k)
    }

    /// Sets this segment aside if it is free, as `reserve` does. Whether it was.
    pub fn reserve_one(&mut self, n: u32) -> bool {
        self.segments.reserve_one(n)
    }

    /// A reserved segment is free again. Panics if it is not reserved.
    pub fn unreserve(&mut self, n: u32) {
        self.segments.unreserve(n);
    }

    /// Keeps a segment from becoming free until `unpin` was called as often.
    pub fn pin(&mut self, n: u32) {
        self.segments.pin(n);
    }

    /// Undoes one `pin`. Panics if there was none.
    pub fn unpin(&mut self, n: u32) {
        self.segments.unpin(n);
    }

    /// How many segments are free.
    pub fn free_segments(&self) -> u32 {
        self.segments.free()
    }

    /// At most `k` segments that a checkpoint which begins now will have freed when it is durable: closed, empty, not pinned.
    pub fn emptied(&self, k: usize) -> Vec<u32> {
        self.segments.emptied(k)
    }

    /// How many there are of those.
    pub fn emptied_segments(&self) -> u32 {
        self.segments.emptied_len()
    }

    /// Bytes of live records in all segments, tags included.
    pub fn live_bytes(&self) -> u64 {
        self.segments.live_bytes()
    }

    /// The closed segments among `range` that hold live bytes and garbage, at most `k`, the most profitable to clean first
    /// (the benefit-to-cost ratio of the log-structured file system: free share by age over what must be read and written).
    /// Looks at the whole range: under a lock, ask for some ten thousand at a time.
    pub fn victims(&self, range: Range<u32>, k: usize) -> Vec<Victim> {
        self.segments.victims(range, k, self.geometry.segment_size)
    }

    /// By what [`Tables::victims`] orders them: the more, the more profitable.
    pub fn profit(&self, victim: &Victim) -> f64 {
        self.segments.profit(victim, self.geometry.segment_size)
    }

    /// `n` more segments at the end.
    pub fn add_segments(&mut self, n: u32) {
        self.segments.add(n);
        self.geometry.segments += n;
    }

    /// How many pages have changed.
    pub fn dirty(&self) -> Dirty {
        let (changed, frozen) = self.cache.dirty();
        Dirty { changed, frozen, due: self.dirty_due, limit: self.geometry.dirty_limit }
    }

    /// How many pages may change from now on until a checkpoint should start, and until writers wait; see [`Dirty`].
    pub fn set_dirty(&mut self, due: usize, limit: usize) {
        (self.dirty_due, self.geometry.dirty_limit) = (due, limit);
    }

    /// Up to `n` of the pages that changed since the last freeze, from all over them, as they are.
    pub fn changed_sample(&self, n: usize) -> Vec<Box<Page>> {
        self.cache.changed_sample(n)
    }

    /// Pages in memory.
    pub fn resident_pages(&self) -> usize {
        self.cache.resident()
    }

    /// Bytes of memory that the tables hold, about.
    pub fn memory_bytes(&self) -> usize {
        let names = |v: &VolumeRecord| size_of::<VolumeRecord>() + v.name.len() * 2 + v.settings.len();
        self.cache.memory()
            + self.segments.memory()
            + self.alloc.memory()
            + self.volumes.values().map(names).sum::<usize>()
    }

    /// Totals.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The lowest id above all that were ever used.
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

/// What volumes were at a freeze, of those that changed since.
pub(crate) type VolumeImages = IntMap<u32, Option<VolumeRecord>>;
