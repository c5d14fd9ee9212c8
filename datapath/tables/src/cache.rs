//! The page cache: frames in a slab, found by key, with what a sharp checkpoint needs to copy on write.
//!
//! Owns the memory of pages. A frame that changed is kept until a checkpoint that has it is durable; a clean one may go
//! when it was not used for some calls. It does not know what pages mean.

use crate::types::{Page, PageKey};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A hasher for keys that are one integer, which nobody outside chooses.
#[derive(Default)]
pub struct IntHasher(u64);

impl Hasher for IntHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        let x = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = x ^ (x >> 32);
    }
}

/// A map from integers.
pub type IntMap<K, V> = HashMap<K, V, BuildHasherDefault<IntHasher>>;

/// How many calls that succeeded must pass before an unused clean page may go. So whoever loads pages for a call and
/// calls again finds them, while up to so many others succeed.
const GUARD: u64 = 256;

/// How many frames are looked at for eviction when one comes in.
const SWEEP: usize = 64;

/// How many lists of changed pages there are: map pages, and each level of the block table.
pub(crate) const CLASSES: usize = 8;

/// Keys of which the last one's slot is remembered, by their hash: neighbours are asked for over and over.
const RECENT: usize = 16;

/// A slot that no frame has.
const NONE: (u64, u32) = (u64::MAX, 0);

/// An empty page.
pub(crate) fn blank() -> Box<Page> {
    Box::new([0; crate::types::PAGE])
}

impl PageKey {
    /// The key as one integer; ids and indices have at most 48 bits.
    pub(crate) fn packed(self) -> u64 {
        match self {
            PageKey::Map(id) => id.get(),
            PageKey::Blocks { level, index } => 1 << 63 | u64::from(level) << 52 | index,
        }
    }

    /// Which list of changed pages it belongs to; the order in which a checkpoint writes them.
    pub(crate) fn class(self) -> usize {
        match self {
            PageKey::Map(_) => 0,
            PageKey::Blocks { level, .. } => 1 + usize::from(level),
        }
    }
}

/// Where a key is remembered.
fn recent_of(packed: u64) -> usize {
    (packed ^ packed >> 52) as usize % RECENT
}

struct Frame {
    key: PageKey,
    page: Box<Page>,
    /// The family whose map key the page is stored under; 0 where that is none, or not known yet.
    family: u32,
    /// The page as of the freeze, if it changed since and is not placed; and its family then.
    image: Option<Box<Page>>,
    image_family: u32,
    /// The call in which it was used last.
    stamp: u64,
    /// The epoch in which it changed last; 0 for never.
    dirty: u32,
    /// The epoch whose checkpoint placed it last.
    placed: u32,
    /// Used since the hand passed.
    warm: bool,
    /// Freed; kept for the checkpoint alone.
    dead: bool,
}

/// The frames.
pub(crate) struct Cache {
    map: IntMap<u64, u32>,
    /// Keys that are in the map, and their slots.
    recent: [(u64, u32); RECENT],
    frames: Vec<Option<Frame>>,
    free: Vec<u32>,
    hand: usize,
    bound: usize,
    images: usize,
    /// Calls that succeeded.
    call: u64,
    /// The present epoch: it grows by one at each freeze.
    epoch: u32,
    /// The epoch that the checkpoint under way ends; 0 without one.
    frozen: u32,
    /// The last epoch that is durable.
    durable: u32,
    /// What changed in the present epoch, by class.
    changed: [Vec<PageKey>; CLASSES],
    /// What the checkpoint under way holds, by class.
    held: [Vec<PageKey>; CLASSES],
    /// How many of the held ones are placed.
    settled: usize,
}

impl Cache {
    pub fn new(bound: usize) -> Cache {
        Cache {
            map: IntMap::default(),
            recent: [NONE; RECENT],
            frames: Vec::new(),
            free: Vec::new(),
            hand: 0,
            bound,
            images: 0,
            call: GUARD + 1,
            epoch: 1,
            frozen: 0,
            durable: 0,
            changed: Default::default(),
            held: Default::default(),
            settled: 0,
        }
    }

    fn frame(&self, slot: u32) -> &Frame {
        self.frames[slot as usize].as_ref().expect("slots are of frames")
    }

    fn frame_mut(&mut self, slot: u32) -> &mut Frame {
        self.frames[slot as usize].as_mut().expect("slots are of frames")
    }

    /// The slot of a live page, which is used now.
    #[inline]
    pub fn slot(&mut self, key: PageKey) -> Option<u32> {
        let packed = key.packed();
        let recent = recent_of(packed);
        let slot = match self.recent[recent] {
            (known, slot) if known == packed => slot,
            _ => {
                let slot = *self.map.get(&packed)?;
                self.recent[recent] = (packed, slot);
                slot
            }
        };
        let call = self.call;
        let f = self.frame_mut(slot);
        if f.dead {
            return None;
        }
        f.stamp = call;
        f.warm = true;
        Some(slot)
    }

    /// A live page, which does not count as used by this.
    pub fn peek(&self, key: PageKey) -> Option<&Page> {
        self.map.get(&key.packed()).map(|&slot| self.page(slot))
    }

    /// How many calls succeeded.
    pub fn call(&self) -> u64 {
        self.call
    }

    /// A call succeeded.
    pub fn tick(&mut self) {
        self.call += 1;
    }

    #[inline]
    pub fn page(&self, slot: u32) -> &Page {
        &self.frame(slot).page
    }

    /// Takes in a page that is not there yet.
    pub fn insert(&mut self, key: PageKey, page: Box<Page>) -> u32 {
        self.evict();
        let frame = Frame {
            key,
            page,
            family: 0,
            image: None,
            image_family: 0,
            stamp: self.call,
            dirty: 0,
            placed: 0,
            warm: true,
            dead: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.frames[slot as usize] = Some(frame);
                slot
            }
            None => {
                self.frames.push(Some(frame));
                (self.frames.len() - 1) as u32
            }
        };
        let before = self.map.insert(key.packed(), slot);
        assert!(before.is_none(), "a page has one frame");
        slot
    }

    /// Makes room by the clock, within bounds.
    fn evict(&mut self) {
        let mut looked = 0;
        while self.map.len() + self.images >= self.bound && looked < SWEEP && !self.frames.is_empty() {
            looked += 1;
            self.hand = (self.hand + 1) % self.frames.len();
            let (durable, call) = (self.durable, self.call);
            let Some(f) = &mut self.frames[self.hand] else { continue };
            let kept = f.dirty > durable || f.image.is_some() || f.stamp + GUARD > call;
            if kept {
                continue;
            }
            if f.warm {
                f.warm = false;
                continue;
            }
            let slot = self.hand as u32;
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: u32) {
        let f = self.frames[slot as usize].take().expect("slots are of frames");
        self.images -= usize::from(f.image.is_some());
        let packed = f.key.packed();
        self.map.remove(&packed);
        if self.recent[recent_of(packed)].0 == packed {
            self.recent[recent_of(packed)] = NONE;
        }
        self.free.push(slot);
    }

    /// Whether the checkpoint under way still has to write the frame.
    fn pending(&self, f: &Frame) -> bool {
        self.frozen != 0 && (f.image.is_some() || f.dirty == self.frozen && f.placed != self.frozen)
    }

    /// The page is gone from the live tables.
    pub fn discard(&mut self, slot: u32) {
        if self.pending(self.frame(slot)) {
            self.frame_mut(slot).dead = true;
        } else {
            self.remove(slot);
        }
    }

    /// Whether the page changed in the present epoch.
    #[inline]
    pub fn is_changed(&self, slot: u32) -> bool {
        self.frame(slot).dirty == self.epoch
    }

    /// Marks a page changed, keeping its frozen image; whether it was not marked before.
    #[inline]
    pub fn change(&mut self, slot: u32) -> bool {
        if self.is_changed(slot) {
            return false;
        }
        let copy = self.pending(self.frame(slot));
        let epoch = self.epoch;
        let f = self.frame_mut(slot);
        if copy {
            f.image = Some(f.page.clone());
            f.image_family = f.family;
        }
        f.dirty = epoch;
        let key = f.key;
        self.images += usize::from(copy);
        self.changed[key.class()].push(key);
        true
    }

    /// Says whose page it is. The frozen image keeps what it was.
    #[inline]
    pub fn set_family(&mut self, slot: u32, family: u32) {
        self.frame_mut(slot).family = family;
    }

    /// The bytes of a page that was marked changed.
    #[inline]
    pub fn page_mut(&mut self, slot: u32) -> &mut Page {
        debug_assert!(self.is_changed(slot));
        &mut self.frame_mut(slot).page
    }

    // the checkpoint

    /// What changed so far is held from now on.
    pub fn freeze(&mut self) {
        assert!(self.frozen == 0, "one checkpoint at a time");
        self.held = std::mem::take(&mut self.changed);
        self.settled = 0;
        self.frozen = self.epoch;
        self.epoch += 1;
    }

    /// The `n`th page that the checkpoint holds of a class; `Some(None)` where it was freed before the freeze.
    pub fn held(&self, class: usize, n: usize) -> Option<Option<PageKey>> {
        let key = *self.held[class].get(n)?;
        let slot = self.map.get(&key.packed());
        Some(slot.is_some_and(|&s| self.pending(self.frame(s))).then_some(key))
    }

    /// A page that the checkpoint has to write, as of the freeze, and its family.
    pub fn image(&self, key: PageKey) -> Option<(&Page, u32)> {
        let f = self.frame(*self.map.get(&key.packed())?);
        let live = (&*f.page, f.family);
        self.pending(f).then(|| f.image.as_ref().map_or(live, |image| (&**image, f.image_family)))
    }

    /// For the places of children: the page as of the freeze, and the live page where that is another.
    pub fn both(&mut self, key: PageKey) -> (Option<&mut Page>, Option<&mut Page>) {
        let Some(&slot) = self.map.get(&key.packed()) else { return (None, None) };
        let pending = self.pending(self.frame(slot));
        let f = self.frame_mut(slot);
        match (&mut f.image, pending) {
            (Some(image), _) => (Some(&mut **image), (!f.dead).then_some(&mut *f.page)),
            (None, true) => (Some(&mut *f.page), None),
            (None, false) => (None, Some(&mut *f.page)),
        }
    }

    /// A held page was placed.
    pub fn placed(&mut self, key: PageKey) {
        let slot = *self.map.get(&key.packed()).expect("held pages stay");
        assert!(self.pending(self.frame(slot)), "a page is placed once");
        let frozen = self.frozen;
        let f = self.frame_mut(slot);
        f.placed = frozen;
        let (had, dead) = (f.image.take().is_some(), f.dead);
        self.images -= usize::from(had);
        self.settled += 1;
        if dead {
            self.remove(slot);
        }
    }

    /// The checkpoint is durable.
    pub fn durable(&mut self) {
        self.durable = self.frozen;
        self.frozen = 0;
        self.held = Default::default();
    }

    /// The checkpoint failed: what it held is changed still.
    pub fn abandon(&mut self) {
        let frozen = std::mem::replace(&mut self.frozen, 0);
        for key in std::mem::take(&mut self.held).into_iter().flatten() {
            let Some(&slot) = self.map.get(&key.packed()) else { continue };
            let epoch = self.epoch;
            let f = self.frame_mut(slot);
            let had = f.image.take().is_some();
            if f.dead {
                self.remove(slot);
            } else if f.dirty == frozen {
                f.dirty = epoch;
                self.changed[key.class()].push(key);
            }
            self.images -= usize::from(had);
        }
    }

    // figures

    /// Pages changed in this epoch, and pages that the checkpoint has not placed.
    pub fn dirty(&self) -> (usize, usize) {
        let changed = self.changed.iter().map(Vec::len).sum();
        let held: usize = self.held.iter().map(Vec::len).sum();
        (changed, if self.frozen == 0 { 0 } else { held.saturating_sub(self.settled) })
    }

    /// Up to `n` pages that changed in this epoch.
    pub fn changed_sample(&self, n: usize) -> Vec<Box<Page>> {
        let total = self.dirty().0;
        let step = total.div_ceil(n.max(1)).max(1);
        let keys = self.changed.iter().flatten().skip(step / 2).step_by(step);
        keys.filter_map(|key| self.peek(*key).map(|page| Box::new(*page))).collect()
    }

    pub fn resident(&self) -> usize {
        self.map.len() + self.images
    }

    pub fn memory(&self) -> usize {
        let lists =
            self.changed.iter().chain(&self.held).map(|l| l.capacity() * size_of::<PageKey>()).sum::<usize>();
        self.resident() * crate::types::PAGE
            + self.frames.capacity() * size_of::<Option<Frame>>()
            + self.map.capacity() * 13
            + lists
    }
}
