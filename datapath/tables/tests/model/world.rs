//! The naive model, and the random work. What is compared after it is in check.rs.

use crate::rig::{Rig, Rng, load};
use crate::sure;
use caisson_tables::*;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

#[path = "check.rs"]
mod check;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Content(u64),
    Unreadable,
}

#[derive(Clone, Default, Debug)]
struct Disk {
    name: String,
    blocks: u64,
    tail: u64,
    settings: Vec<u8>,
    parent: Option<VolumeId>,
    read_only: bool,
    dying: bool,
    cells: BTreeMap<u64, Cell>,
}

type Disks = BTreeMap<VolumeId, Rc<Disk>>;

/// How often what happened.
#[derive(Default, Debug)]
pub struct Totals {
    pub writes: u64,
    pub shares: u64,
    pub unmaps: u64,
    pub snapshots: u64,
    pub forgotten: u64,
    pub moves: u64,
    pub checkpoints: u64,
    pub abandoned: u64,
    pub crashes: u64,
    pub compared: u64,
    pub asked: u64,
    pub reused: u64,
}

impl Totals {
    pub fn add(&mut self, t: &Totals) {
        for (a, b) in self.fields().into_iter().zip([
            t.writes,
            t.shares,
            t.unmaps,
            t.snapshots,
            t.forgotten,
            t.moves,
            t.checkpoints,
            t.abandoned,
            t.crashes,
            t.compared,
            t.asked,
            t.reused,
        ]) {
            *a += b;
        }
    }

    fn fields(&mut self) -> [&mut u64; 12] {
        [
            &mut self.writes,
            &mut self.shares,
            &mut self.unmaps,
            &mut self.snapshots,
            &mut self.forgotten,
            &mut self.moves,
            &mut self.checkpoints,
            &mut self.abandoned,
            &mut self.crashes,
            &mut self.compared,
            &mut self.asked,
            &mut self.reused,
        ]
    }

    pub fn assert_all_happened(&mut self) {
        for (n, field) in self.fields().into_iter().enumerate() {
            assert!(*field > 0, "the {n}th kind of work happened");
        }
    }
}

pub struct World {
    rig: Rig,
    rng: Rng,
    disks: Disks,
    /// What they were after each batch of the log; the first is the durable checkpoint's.
    past: Vec<Disks>,
    contents: u64,
    /// What the index would know, of closed batches and of the open one.
    known: Vec<(BlockId, Place, u64, u64)>,
    dying: HashMap<VolumeId, u64>,
    names: u64,
    saturates: bool,
    totals: Totals,
    seen: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng(seed);
        let saturates = rng.one_in(4);
        let geometry = Geometry {
            segment_size: 1 << 18,
            segments: 1200,
            cache_pages: [4, 40, 400][rng.below(3) as usize],
            dirty_limit: 1000,
            max_refs: if saturates { 4 + rng.below(6) as u32 } else { u32::MAX },
        };
        let mut rig = Rig::new(geometry, Rng(rng.next()));
        rig.far = [0, 0, 1, 5][rng.below(4) as usize];
        World {
            rig,
            rng,
            disks: Disks::new(),
            past: vec![Disks::new()],
            contents: 0,
            known: Vec::new(),
            dying: HashMap::new(),
            names: 0,
            saturates,
            totals: Totals::default(),
            seen: 0,
        }
    }

    pub fn run(mut self) -> Totals {
        let steps = 200 + self.rng.below(400);
        for _ in 0..steps {
            self.step();
        }
        self.close();
        self.check_all();
        self.compare();
        self.check_all();
        self.totals.asked = self.rig.asked;
        assert_eq!(self.rig.tables.faults(), 0);
        self.totals
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..=3 => self.create(),
            4..=39 => self.write(),
            40..=49 => self.unmap(),
            50..=55 => self.snapshot(),
            56..=58 => self.delete(),
            59..=64 => self.reap(),
            65..=67 => self.alter(),
            68..=73 => self.move_blocks(),
            74..=85 => self.close(),
            86..=91 => self.checkpoint(),
            92 => self.crash(),
            93 => self.compare(),
            94 => self.check_all(),
            95 => self.audit(),
            96 => self.clean_pages(),
            _ => self.check_some(),
        }
        if self.rig.open.new.len() + self.rig.open.moved.len() > 40 {
            self.close();
        }
        if !self.rig.has_room() {
            self.close();
            if self.rig.frozen_at.is_none() {
                self.rig.freeze();
            }
            self.finish();
        }
    }

    fn pick(&mut self, with: impl Fn(&Disk) -> bool) -> Option<VolumeId> {
        let ids: Vec<VolumeId> = self.disks.iter().filter(|(_, d)| with(d)).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[self.rng.below(ids.len() as u64) as usize])
    }

    fn disk(&mut self, v: VolumeId) -> &mut Disk {
        Rc::make_mut(self.disks.get_mut(&v).unwrap())
    }

    fn change(&mut self, change: VolumeChange) -> Result<(), VolumeError> {
        let mut tries = 0;
        loop {
            match self.rig.tables.change_volume(change.clone(), &mut self.rig.open.journal) {
                Err(VolumeError::Needs(needs)) if tries < 64 => {
                    tries += 1;
                    load(&mut self.rig.tables, &self.rig.store, &needs);
                }
                other => return other,
            }
        }
    }

    fn size(&mut self) -> u64 {
        match self.rng.below(6) {
            0 => 1 + self.rng.below(511),
            1 | 2 => 513 + self.rng.below(3000),
            3 => 512 * 512 + self.rng.below(5000),
            4 => 512 * 512 - self.rng.below(3),
            _ => 1 << self.rng.below(52),
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("disk {}", self.names)
    }

    fn create(&mut self) {
        if self.disks.len() > 12 {
            return self.delete();
        }
        let (name, blocks, settings) = (self.name(), self.size(), vec![self.rng.next() as u8; 3]);
        let id = VolumeId(self.rig.tables.next_volume().0 + self.rng.below(3) as u32);
        let bytes = blocks * 4096;
        self.change(VolumeChange::Create { id, name: name.clone(), bytes, settings: settings.clone() })
            .unwrap();
        let again =
            VolumeChange::Create { id: VolumeId(id.0 + 1), name: name.clone(), bytes, settings: vec![] };
        assert_eq!(self.change(again), Err(VolumeError::NameTaken(name.clone())));
        self.disks.insert(id, Rc::new(Disk { name, blocks, settings, ..Disk::default() }));
    }

    /// A block of a volume: near the start, at a page's edge, near what is there, or anywhere.
    fn place(&mut self, v: VolumeId) -> u64 {
        let blocks = self.disks[&v].blocks;
        let at = match self.rng.below(6) {
            0 => self.rng.below(40),
            1 => 500 + self.rng.below(20),
            2 => blocks - 1 - self.rng.below(30).min(blocks - 1),
            3 => self.rng.below(blocks),
            4 => 512 * 512 - self.rng.below(20),
            _ => {
                let near = self.rng.below(blocks);
                let next = self.disks[&v].cells.range(near..).next();
                next.map_or(0, |(b, _)| b.saturating_sub(5))
            }
        };
        at.min(blocks - 1)
    }

    fn write(&mut self) {
        let Some(v) = self.pick(|d| !d.dying && !d.read_only && d.blocks > 0) else { return self.create() };
        let block = self.place(v);
        let most = if self.rng.one_in(10) { 700 } else { 12 };
        let count = (1 + self.rng.below(most)).min(self.disks[&v].blocks - block);
        let kind = self.rng.below(8);
        let mut cells = Vec::new();
        let mut slots = Vec::new();
        let mut last = None;
        for n in 0..count {
            let r = if count > 30 && n % 16 != 0 { 0 } else { self.rng.below(8) };
            let (cell, slot) = match (kind, r) {
                (0, _) => (None, Slot::Zero),
                (_, 0) => last.unwrap_or((None, Slot::Zero)),
                (_, 1) => (Some(Cell::Unreadable), Slot::Unreadable),
                (_, 2) => (None, Slot::Zero),
                (_, 3 | 4) => match self.duplicate() {
                    Some((id, content)) => (Some(Cell::Content(content)), Slot::Share(id)),
                    None => (None, Slot::Zero),
                },
                _ if self.rig.open.new.len() < 40 => {
                    self.contents += 1;
                    let id = self.rig.new_block(self.contents);
                    self.totals.reused += u64::from(id.get() < self.seen);
                    self.seen = self.seen.max(id.get());
                    (Some(Cell::Content(self.contents)), Slot::New(id))
                }
                _ => (None, Slot::Zero),
            };
            last = match slot {
                Slot::New(id) | Slot::Share(id) => Some((cell, Slot::Share(id))),
                _ => None,
            };
            if self.saturates {
                last = None;
            }
            cells.push(cell);
            slots.push(slot);
        }
        let before = (self.rig.tables.stats(), self.rig.tables.dirty().changed);
        if let Err(needs) = self.rig.tables.ready(v, block, &slots) {
            let mut journal = Vec::new();
            let again = self.rig.tables.write(v, block, &slots, &mut journal);
            assert_eq!(again, Err(needs));
            assert!(journal.is_empty());
            assert_eq!(before, (self.rig.tables.stats(), self.rig.tables.dirty().changed), "nothing changed");
        }
        sure!(self.rig, self.rig.tables.write(v, block, &slots, &mut self.rig.open.journal));
        let disk = self.disk(v);
        for (n, cell) in cells.into_iter().enumerate() {
            match cell {
                Some(cell) => disk.cells.insert(block + n as u64, cell),
                None => disk.cells.remove(&(block + n as u64)),
            };
        }
        self.totals.writes += 1;
    }

    /// A block that the index knows, checked as the engine does; or one of the open batch.
    fn duplicate(&mut self) -> Option<(BlockId, u64)> {
        if self.rng.one_in(3) && !self.rig.open.new.is_empty() {
            let n = self.rng.below(self.rig.open.new.len() as u64) as usize;
            let (id, _, content) = self.rig.open.new[n];
            // Pending ones are refused near the maximum by the engine, which looks at the entry.
            let entry = sure!(self.rig, self.rig.tables.entry(id));
            let fits = entry.is_some_and(|e| e.place.is_pending() && e.refs < self.rig.geometry.max_refs / 2);
            return fits.then_some((id, content));
        }
        if self.known.is_empty() {
            return None;
        }
        let n = self.rng.below(self.known.len() as u64) as usize;
        let (id, place, sequence, content) = self.known[n];
        match sure!(self.rig, self.rig.tables.candidate(id, place, sequence)) {
            Some(entry) => {
                assert_eq!(entry.place, place);
                assert_eq!(self.rig.store.block(place, sequence), content, "a candidate is what it was");
                self.totals.shares += 1;
                Some((id, content))
            }
            None => {
                self.known.swap_remove(n);
                None
            }
        }
    }

    fn unmap(&mut self) {
        let Some(v) = self.pick(|d| !d.dying && !d.read_only && d.blocks > 0) else { return };
        let block = self.place(v);
        let most = [20, 600, 3000, u64::MAX / 2][self.rng.below(4) as usize];
        let block = if self.rng.one_in(4) { 0 } else { block };
        let count = (1 + self.rng.below(most)).min(self.disks[&v].blocks - block);
        let mut done = 0;
        let mut rounds = 0;
        while done < count && rounds < 100 {
            let (at, left) = (block + done, count - done);
            let handled = sure!(self.rig, self.rig.tables.unmap(v, at, left, &mut self.rig.open.journal));
            assert!(handled > 0 && handled <= left);
            done += handled;
            rounds += 1;
        }
        let disk = self.disk(v);
        disk.cells.retain(|b, _| *b < block || *b >= block + done);
        self.totals.unmaps += 1;
    }

    fn snapshot(&mut self) {
        if self.disks.len() > 14 {
            return self.delete();
        }
        let Some(of) = self.pick(|d| !d.dying && d.tail == 0) else { return };
        let (id, name, read_only) = (self.rig.tables.next_volume(), self.name(), self.rng.one_in(2));
        let settings = vec![1];
        let change =
            VolumeChange::Snapshot { of, id, name: name.clone(), settings: settings.clone(), read_only };
        self.change(change).unwrap();
        let mut disk = (*self.disks[&of]).clone();
        (disk.name, disk.settings, disk.parent, disk.read_only) = (name, settings, Some(of), read_only);
        self.disks.insert(id, Rc::new(disk));
        self.totals.snapshots += 1;
    }

    fn delete(&mut self) {
        let Some(id) = self.pick(|d| !d.dying) else { return };
        if !self.saturates && self.rig.frozen_at.is_none() && self.rng.one_in(2) {
            return self.exclusive(id);
        }
        self.change(VolumeChange::Delete { id }).unwrap();
        self.disk(id).dying = true;
    }

    /// What deleting a volume frees is what was said before.
    fn exclusive(&mut self, id: VolumeId) {
        self.close();
        let said = self.rig.exclusive(id);
        let before = self.rig.tables.live_bytes();
        // Pages that were never written have no bytes to free yet.
        self.rig.freeze();
        self.finish();
        let now = self.rig.exclusive(id);
        let data_before = self.rig.tables.stats();
        self.change(VolumeChange::Delete { id }).unwrap();
        self.disk(id).dying = true;
        while !self.reap_step(id) {}
        let freed = data_before.stored_bytes - self.rig.tables.stats().stored_bytes
            + u64::from(TAG) * (data_before.blocks - self.rig.tables.stats().blocks);
        assert!(said <= before && freed <= now, "{said} {before} {freed} {now}");
        let pages = data_before.map_pages - self.rig.tables.stats().map_pages;
        assert!(now - freed <= pages * (4100 + u64::from(TAG)) && now - freed >= pages * u64::from(TAG));
        self.change(VolumeChange::Forget { id }).unwrap();
        self.disks.remove(&id);
    }

    fn reap_step(&mut self, v: VolumeId) -> bool {
        let blocks = self.disks[&v].blocks.max(self.disks[&v].tail);
        let at = self.dying.get(&v).copied().unwrap_or(0);
        if at >= blocks {
            self.dying.remove(&v);
            return true;
        }
        let journal = &mut self.rig.open.journal;
        let handled = sure!(self.rig, self.rig.tables.unmap(v, at, blocks - at, journal));
        self.dying.insert(v, at + handled);
        false
    }

    fn reap(&mut self) {
        let Some(id) = self.pick(|d| d.dying) else { return };
        for _ in 0..30 {
            if self.reap_step(id) {
                assert!(self.rig.tables.volume(id).unwrap().root.is_none());
                self.change(VolumeChange::Forget { id }).unwrap();
                self.disks.remove(&id);
                self.totals.forgotten += 1;
                return;
            }
        }
    }

    fn alter(&mut self) {
        let Some(id) = self.pick(|d| !d.dying) else { return };
        match self.rng.below(3) {
            0 => {
                let name = self.name();
                self.change(VolumeChange::Rename { id, name: name.clone() }).unwrap();
                self.disk(id).name = name;
            }
            1 => {
                let settings = vec![7; self.rng.below(9) as usize];
                self.change(VolumeChange::SetSettings { id, settings: settings.clone() }).unwrap();
                self.disk(id).settings = settings;
            }
            _ => self.resize(id),
        }
    }

    fn resize(&mut self, id: VolumeId) {
        let blocks = self.size();
        let now = self.disks[&id].blocks;
        self.change(VolumeChange::Resize { id, bytes: blocks * 4096 }).unwrap();
        self.disk(id).blocks = blocks;
        if blocks >= now {
            return;
        }
        let grow = VolumeChange::Resize { id, bytes: now * 4096 };
        assert_eq!(self.change(grow), Err(VolumeError::Tail(id)));
        self.disk(id).tail = now;
        // The rest goes as for a deletion.
        let mut at = blocks;
        while at < now {
            let journal = &mut self.rig.open.journal;
            at += sure!(self.rig, self.rig.tables.unmap(id, at, now - at, journal));
        }
        self.change(VolumeChange::Trimmed { id }).unwrap();
        let disk = self.disk(id);
        disk.tail = 0;
        disk.cells.retain(|b, _| *b < blocks);
    }

    fn move_blocks(&mut self) {
        for _ in 0..self.rng.below(6) {
            if self.known.is_empty() {
                return;
            }
            let n = self.rng.below(self.known.len() as u64) as usize;
            let (id, place, _, content) = self.known[n];
            let twice = self.rig.open.moved.iter().any(|m| m.0 == id);
            if !twice || self.rng.one_in(2) {
                self.rig.hold(id, place, content);
                self.totals.moves += 1;
            }
        }
    }

    fn close(&mut self) {
        if self.rng.one_in(3) {
            // A block that was put and that no write took.
            self.contents += 1;
            self.rig.new_block(self.contents);
        }
        let ids: Vec<(BlockId, u64)> = self.rig.open.new.iter().map(|n| (n.0, n.2)).collect();
        let moved: Vec<(BlockId, u64)> = self.rig.open.moved.iter().map(|n| (n.0, n.3)).collect();
        self.rig.close_batch();
        self.past.push(self.disks.clone());
        for (id, content) in ids.into_iter().chain(moved) {
            if let Some(entry) = sure!(self.rig, self.rig.tables.entry(id)) {
                let sequence = self.rig.tables.segment(entry.place.segment).sequence;
                self.known.push((id, entry.place, sequence, content));
            }
        }
        let extra = self.known.len().saturating_sub(400);
        self.known.drain(..extra);
    }

    fn checkpoint(&mut self) {
        match (self.rig.frozen_at, self.rng.below(8)) {
            (None, _) => {
                self.close();
                self.rig.freeze();
            }
            (Some(_), 0) => {
                self.rig.abandon();
                self.totals.abandoned += 1;
            }
            (Some(_), 1 | 2) => self.finish(),
            _ => {
                let pages = self.rng.below(60) as usize;
                if self.rig.progress(pages) {
                    self.finish();
                }
            }
        }
    }

    fn finish(&mut self) {
        let at = self.rig.frozen_at.unwrap();
        self.rig.finish();
        self.past.drain(..at);
        self.totals.checkpoints += 1;
        self.check_image();
    }

    /// The durable checkpoint is the state at its freeze, read from bytes.
    fn crash(&mut self) {
        let keep = self.rig.log.len() - (self.rng.below(4) as usize).min(self.rig.log.len());
        self.disks = self.past[keep].clone();
        self.past.truncate(keep + 1);
        self.rig.crash(keep);
        self.past = vec![self.disks.clone()];
        self.known.clear();
        self.dying.clear();
        self.totals.crashes += 1;
        self.check_image();
        self.check_all();
        self.learn();
    }

    /// Has the cleaner ask for pages to be moved.
    fn clean_pages(&mut self) {
        let (_, image) = self.rig.image();
        for (key, _) in image.pages.iter().step_by(3) {
            let PageKey::Map(id) = key else { continue };
            if let Some(raw) = image.entries.get(&id.get()) {
                sure!(self.rig, self.rig.tables.clean_page(*key, raw.place));
            }
        }
    }
}
