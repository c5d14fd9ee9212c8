//! What stands for the engine: batches, segments, checkpoints, crashes and recovery around the tables.

use crate::store::{Held, Image, Store};
use caisson_tables::*;
use std::collections::{HashMap, HashSet};

/// splitmix64.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A batch as the log has it.
#[derive(Clone)]
pub struct Batch {
    segment: u32,
    sequence: u64,
    new: Vec<(BlockId, Stored, Place)>,
    moved: Vec<(BlockId, Place, Place, Stored)>,
    changes: Vec<u8>,
}

/// The batch that is being filled.
#[derive(Default)]
pub struct Open {
    pub new: Vec<(BlockId, Stored, u64)>,
    pub moved: Vec<(BlockId, Place, Stored, u64)>,
    pub journal: Vec<Change>,
}

/// What a durable checkpoint left.
#[derive(Clone)]
struct Base {
    pieces: Vec<Vec<u8>>,
}

pub struct Rig {
    pub tables: Tables,
    pub store: Store,
    pub open: Open,
    pub geometry: Geometry,
    pub rng: Rng,
    base: Base,
    /// Batches since the base.
    pub log: Vec<Batch>,
    /// How many of them the checkpoint under way has.
    pub frozen_at: Option<usize>,
    handed: Vec<(PageKey, Box<Page>, u32)>,
    sequence: u64,
    /// The segments that the log, and a checkpoint, write to, and how far.
    at: Option<(u32, u32)>,
    to: Option<(u32, u32)>,
    reserved: Vec<u32>,
    /// Whether a checkpoint was given up since the last durable one: pages have other places then than after a replay.
    abandoned: bool,
    /// Ids that the last durable checkpoint has in use.
    pub barred: HashSet<u64>,
    /// How many ids far away may still be used.
    pub far: u32,
    pub asked: u64,
}

/// Calls until nothing is needed; each time with what was needed before.
#[macro_export]
macro_rules! sure {
    ($rig:expr, $call:expr) => {{
        let mut tries = 0;
        loop {
            match $call {
                Ok(value) => break value,
                Err(needs) => {
                    let needs: Needs = needs;
                    assert!(!needs.0.is_empty() && tries < 64, "calls make progress");
                    tries += 1;
                    $rig.asked += 1;
                    load(&mut $rig.tables, &$rig.store, &needs);
                }
            }
        }
    }};
}

pub fn load(tables: &mut Tables, store: &Store, needs: &Needs) {
    for (key, at) in &needs.0 {
        assert!(!at.place.is_pending(), "{key:?} is nowhere");
        let (page, family) = store.page(*key, at);
        tables.load(*key, at, page, family).unwrap();
    }
}

fn stored(rng: &mut Rng) -> Stored {
    Stored { length: 1 + rng.below(4096) as u16, codec: rng.below(8) as u8, epoch: rng.next() as u16 }
}

impl Rig {
    pub fn new(geometry: Geometry, rng: Rng) -> Rig {
        let mut rig = Rig {
            tables: Tables::create(geometry),
            store: Store::default(),
            open: Open::default(),
            geometry,
            rng,
            base: Base { pieces: Vec::new() },
            log: Vec::new(),
            frozen_at: None,
            handed: Vec::new(),
            sequence: 0,
            at: None,
            to: None,
            reserved: Vec::new(),
            abandoned: false,
            barred: HashSet::new(),
            far: 0,
            asked: 0,
        };
        rig.freeze();
        rig.finish();
        rig
    }

    pub fn find(&mut self, v: VolumeId, block: u64, count: u64) -> Vec<Found> {
        let mut out = Vec::new();
        sure!(self, self.tables.find(v, block, count, &mut out));
        out
    }

    pub fn new_block(&mut self, content: u64) -> BlockId {
        let mut ids = Vec::new();
        sure!(self, self.tables.allocate(1, &mut ids));
        if self.far > 0 && self.rng.one_in(40) {
            // An id far away, as a much larger pool would have, so that the block table grows.
            self.far -= 1;
            self.tables.release(&ids);
            let reach = [17, 26, 34, 43][self.rng.below(4) as usize];
            let far = self.tables.limit() + 512 + self.rng.below(1 << reach);
            ids = vec![BlockId::new(far).unwrap()];
        }
        assert!(!self.barred.contains(&ids[0].get()), "an id is reused only after a checkpoint");
        let stored = stored(&mut self.rng);
        sure!(self, self.tables.put(ids[0], stored));
        self.open.new.push((ids[0], stored, content));
        ids[0]
    }

    pub fn hold(&mut self, id: BlockId, from: Place, content: u64) {
        if sure!(self, self.tables.entry(id)).is_some_and(|entry| entry.place == from) {
            let stored = stored(&mut self.rng);
            self.open.moved.push((id, from, stored, content));
        }
    }

    /// Room for a record in a segment that is being written, another one where it is full.
    fn room(&mut self, length: u32, by: Use) -> Place {
        let at = if by == Use::Log { self.at } else { self.to };
        if let Some((segment, offset)) = at {
            if offset + length + TAG <= self.geometry.segment_size {
                let next = Some((segment, offset + length + TAG));
                *(if by == Use::Log { &mut self.at } else { &mut self.to }) = next;
                return Place { segment, offset };
            }
            self.tables.close_segment(segment, by);
        }
        let segment = match by {
            Use::Log => self.reserved.remove(0),
            Use::Checkpoint => self.tables.reserve(1).pop().expect("the pool is large enough"),
        };
        self.sequence += 1;
        self.tables.open_segment(segment, self.sequence, 1, by);
        *(if by == Use::Log { &mut self.at } else { &mut self.to }) = Some((segment, 4096));
        self.room(length, by)
    }

    /// Whether the log can go on without a checkpoint.
    pub fn has_room(&self) -> bool {
        self.reserved.len() > 40
    }

    pub fn close_batch(&mut self) {
        let open = std::mem::take(&mut self.open);
        let bytes = open.new.iter().map(|n| u32::from(n.1.length) + TAG);
        let bytes: u32 = bytes.chain(open.moved.iter().map(|m| u32::from(m.2.length) + TAG)).sum();
        assert!(bytes < self.geometry.segment_size - 4096);
        let first = self.room(bytes, Use::Log);
        let sequence = self.tables.segment(first.segment).sequence;
        let mut offset = first.offset;
        let mut place = |length: u16| {
            let place = Place { segment: first.segment, offset };
            offset += u32::from(length) + TAG;
            place
        };
        let mut changes = Vec::new();
        open.journal.iter().for_each(|c| c.encode(&mut changes));
        assert_eq!(Change::decode(&changes).unwrap(), open.journal);
        let new: Vec<_> =
            open.new.iter().map(|&(id, stored, _)| (id, stored, place(stored.length))).collect();
        let moved: Vec<_> = open
            .moved
            .iter()
            .map(|&(id, from, stored, _)| (id, from, place(stored.length), stored))
            .collect();
        for (n, content) in new.iter().zip(open.new.iter().map(|n| n.2)) {
            self.store.put(n.2, sequence, Held::Block(content));
            self.tables.locate(n.0, n.2);
        }
        for (m, content) in moved.iter().zip(open.moved.iter().map(|m| m.3)) {
            self.store.put(m.2, sequence, Held::Block(content));
            sure!(self, self.tables.moved(m.0, m.1, m.2, m.3));
        }
        let ids: Vec<BlockId> = new.iter().map(|n| n.0).collect();
        self.tables.settle(&ids).expect("what was put is in memory");
        self.log.push(Batch { segment: first.segment, sequence, new, moved, changes });
    }

    // checkpoints

    pub fn freeze(&mut self) {
        assert!(self.open.new.is_empty() && self.open.journal.is_empty() && self.frozen_at.is_none());
        let more = self.tables.reserve(80 - self.reserved.len());
        self.reserved.extend(more);
        assert!(self.reserved.len() == 80, "the pool is large enough");
        self.tables.freeze();
        self.frozen_at = Some(self.log.len());
    }

    /// Some of a checkpoint's work; whether all pages are placed.
    pub fn progress(&mut self, pages: usize) -> bool {
        for _ in 0..pages {
            match self.tables.frozen_next() {
                Frozen::Page(key, page, family) => {
                    self.handed.push((key, page, family));
                    if self.rng.one_in(4) {
                        self.place();
                    }
                }
                Frozen::Wait => self.place(),
                Frozen::Again => {}
                Frozen::Done => return true,
            }
        }
        false
    }

    /// Places what was handed out, in any order.
    fn place(&mut self) {
        assert!(!self.handed.is_empty());
        while !self.handed.is_empty() {
            let n = self.rng.below(self.handed.len() as u64) as usize;
            let (key, page, family) = self.handed.swap_remove(n);
            let mut stored = stored(&mut self.rng);
            if matches!(key, PageKey::Map(_)) && self.rng.one_in(8) {
                // One that did not compress, with its family in front.
                stored.length = 4100;
            }
            let place = self.room(u32::from(stored.length), Use::Checkpoint);
            let held = Held::Page(key, page, family);
            self.store.put(place, self.tables.segment(place.segment).sequence, held);
            self.tables.frozen_placed(key, place, stored);
        }
    }

    /// Completes the checkpoint under way.
    pub fn finish(&mut self) {
        while !self.progress(100) {}
        if let Some((segment, _)) = self.to.take() {
            self.tables.close_segment(segment, Use::Checkpoint);
        }
        let root = self.tables.frozen_root();
        let pieces = root.encode(1 + self.rng.below(5000) as usize);
        assert_eq!(Root::decode(&pieces).unwrap(), root);
        self.base = Base { pieces };
        self.abandoned = false;
        self.log.drain(..self.frozen_at.take().expect("a checkpoint is under way"));
        let free = self.tables.free_segments();
        let freed = self.tables.checkpointed();
        let empty = |n: &u32| root.segments[*n as usize].live == 0;
        assert!(freed.iter().all(empty), "what the root refers to is not freed");
        assert_eq!(self.tables.free_segments(), free + freed.len() as u32);
    }

    pub fn abandon(&mut self) {
        self.handed.clear();
        if let Some((segment, _)) = self.to.take() {
            self.tables.close_segment(segment, Use::Checkpoint);
        }
        self.tables.abandon();
        self.frozen_at = None;
        self.abandoned = true;
    }

    /// Reads the last durable checkpoint and checks all it says of itself.
    pub fn image(&self) -> (Root, Image) {
        let root = Root::decode(&self.base.pieces).unwrap();
        let image = Image::read(&root, &self.store, self.geometry.max_refs);
        (root, image)
    }

    // crashes

    /// The tables as recovery finds them from the first `batches` of the log; how often pages were needed.
    fn recovered(&self, batches: usize) -> (Rig, Vec<u32>) {
        let root = Root::decode(&self.base.pieces).unwrap();
        let mut rig = Rig {
            tables: Tables::open(self.geometry, &root).unwrap(),
            store: self.store.clone(),
            open: Open::default(),
            geometry: self.geometry,
            rng: self.rng.clone(),
            base: self.base.clone(),
            log: self.log[..batches].to_vec(),
            frozen_at: None,
            handed: Vec::new(),
            sequence: self.sequence,
            at: None,
            to: None,
            reserved: Vec::new(),
            abandoned: false,
            barred: HashSet::new(),
            far: self.far,
            asked: 0,
        };
        rig.tables.reclaim();
        let mut open: Vec<u32> = (0..self.geometry.segments)
            .filter(|n| rig.tables.segment(*n).state == SegmentState::Open)
            .collect();
        for batch in rig.log.clone() {
            if !open.contains(&batch.segment) {
                open.drain(..).for_each(|n| rig.tables.close_segment(n, Use::Log));
                rig.tables.open_segment(batch.segment, batch.sequence, 1, Use::Log);
                open.push(batch.segment);
            }
            rig.replay(&batch);
        }
        (rig, open)
    }

    fn replay(&mut self, batch: &Batch) {
        fn needs<T>(r: Result<T, ApplyError>) -> Result<T, Needs> {
            r.map_err(|e| match e {
                ApplyError::Needs(needs) => needs,
                ApplyError::Corrupt(what) => panic!("{what}"),
            })
        }
        for (id, stored, place) in &batch.new {
            sure!(self, needs(self.tables.apply_new(*id, *stored, *place)));
        }
        for change in Change::decode(&batch.changes).unwrap() {
            sure!(self, needs(self.tables.apply(&change)));
        }
        for (id, from, to, stored) in &batch.moved {
            sure!(self, self.tables.moved(*id, *from, *to, *stored));
        }
        let ids: Vec<BlockId> = batch.new.iter().map(|n| n.0).collect();
        sure!(self, self.tables.settle(&ids));
    }

    /// A crash after the first `batches` of the log, and recovery.
    pub fn crash(&mut self, batches: usize) {
        let (mut next, open) = self.recovered(batches);
        for n in open {
            next.tables.close_segment(n, Use::Log);
        }
        for n in 0..next.geometry.segments {
            if next.tables.segment(n).state == SegmentState::Reserved {
                next.tables.unreserve(n);
            }
        }
        next.rng.next();
        next.asked += self.asked;
        next.freeze();
        next.finish();
        *self = next;
    }

    /// That replay leads to the very state that live changes led to.
    pub fn compare(&mut self) {
        assert!(self.open.new.is_empty() && self.open.journal.is_empty());
        if self.frozen_at.is_some() {
            self.abandon();
        }
        let clean = !self.abandoned;
        let (mut replayed, _) = self.recovered(self.log.len());
        assert_eq!(self.tables.stats(), replayed.tables.stats());
        assert_eq!(self.tables.limit(), replayed.tables.limit());
        let volumes = |t: &Tables| t.volumes().cloned().collect::<Vec<_>>();
        assert_eq!(volumes(&self.tables), volumes(&replayed.tables));
        if clean {
            for n in 0..self.geometry.segments {
                let (a, b) = (self.tables.segment(n), replayed.tables.segment(n));
                assert_eq!((a.live, a.sequence), (b.live, b.sequence), "segment {n}");
            }
        }
        for rig in [&mut *self, &mut replayed] {
            rig.reserved.clear();
            rig.freeze();
            rig.finish();
        }
        let (a, b) = (self.image(), replayed.image());
        assert_eq!(a.0.levels, b.0.levels);
        assert_eq!(a.0.volumes, b.0.volumes);
        let (a, b) = (a.1.logical(), b.1.logical());
        assert!(a.keys().eq(b.keys()), "the same pages");
        for (key, page) in &a {
            assert!(b[key] == *page, "{key:?} is the same");
        }
    }

    /// Blocks that the index would know: every stored one with its place.
    pub fn known(&mut self) -> HashMap<BlockId, Place> {
        let mut known = HashMap::new();
        for v in self.tables.volumes().map(|v| (v.id, v.blocks)).collect::<Vec<_>>() {
            for found in self.find(v.0, 0, v.1.min(600)) {
                if let Found::At { id, entry } = found {
                    known.insert(id, entry.place);
                }
            }
        }
        known
    }

    pub fn audit(&mut self) -> Vec<Finding> {
        let mut audit = Audit::new(&self.tables, 1 + self.rng.below(2000) as usize);
        let mut findings = Vec::new();
        while sure!(self, audit.step(&mut self.tables, &mut findings)) {}
        findings
    }

    pub fn exclusive(&mut self, v: VolumeId) -> u64 {
        let mut walk = Exclusive::new(v, 1 + self.rng.below(200) as usize);
        loop {
            if let Some(bytes) = sure!(self, walk.step(&mut self.tables)) {
                return bytes;
            }
        }
    }
}
