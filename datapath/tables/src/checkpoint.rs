//! Sharp checkpoints: what is written out is the state of one moment, while changes go on.
//!
//! Owns the picture of what is not in pages (the cache keeps that of pages, the segment table its own), the order in which
//! pages are written, and where they go. Children come before parents: map pages, then the block table level by level.

use crate::alloc::ENTRIES;
use crate::blocks::{raw_in, set_raw_in};
use crate::cache::CLASSES;
use crate::root::Root;
use crate::segment::View;
use crate::tables::{Tables, VolumeImages};
use crate::types::*;
use crate::volume::VolumeRecord;
use crate::want::Want;

/// How many empty pages one call of `frozen_next` passes by.
const STRIDE: usize = 64;

/// What a checkpoint has to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frozen {
    /// Write this page and say with `frozen_placed` where it went. A page of a map is stored under the map key of this family; 0 is
    /// none.
    Page(PageKey, Box<Page>, u32),
    /// Nothing until the pages handed out are placed. Never told when there are none.
    Wait,
    /// Ask again: only a bounded number of pages that need no writing was passed by.
    Again,
    /// All pages are placed: `frozen_root` can be taken.
    Done,
}

/// The checkpoint under way.
pub(crate) struct Image {
    pub volumes: VolumeImages,
    next_volume: u32,
    limit: u64,
    levels: u8,
    top: RawEntry,
    stats: Stats,
    /// The next page to hand out.
    class: usize,
    next: usize,
    /// Handed out and not placed.
    out: usize,
}

impl Tables {
    /// Takes the state as it is as that of a checkpoint. Panics if one is under way, or if a block that was put has no
    /// place yet: a checkpoint begins where a batch ends.
    pub fn freeze(&mut self) {
        assert!(self.pending == 0, "blocks of an open batch have no place yet");
        self.cache.freeze();
        self.segments.freeze();
        self.alloc.freeze();
        self.image = Some(Image {
            volumes: VolumeImages::default(),
            next_volume: self.next_volume,
            limit: self.limit,
            levels: self.levels,
            top: self.top,
            stats: self.stats,
            class: 0,
            next: 0,
            out: 0,
        });
    }

    /// Whether a checkpoint is under way.
    pub fn frozen(&self) -> bool {
        self.image.is_some()
    }

    /// What the checkpoint under way has to do next. Several pages may be taken before they are placed. Panics if there is
    /// none.
    pub fn frozen_next(&mut self) -> Frozen {
        for _ in 0..STRIDE {
            let image = self.image.as_mut().expect("a checkpoint is under way");
            let Some(held) = self.cache.held(image.class, image.next) else {
                if image.out > 0 {
                    return Frozen::Wait;
                }
                if image.class + 1 == CLASSES {
                    return Frozen::Done;
                }
                (image.class, image.next) = (image.class + 1, 0);
                continue;
            };
            image.next += 1;
            let Some(key) = held else { continue };
            let (page, family) = self.cache.image(key).expect("what is held has an image");
            if matches!(key, PageKey::Blocks { .. }) && page.iter().all(|&b| b == 0) {
                self.settle_page(key, None);
                continue;
            }
            let page = Box::new(*page);
            self.image.as_mut().expect("a checkpoint is under way").out += 1;
            return Frozen::Page(key, page, family);
        }
        Frozen::Again
    }

    /// Where a page of the checkpoint went. Its segment must have been opened. Panics if it was not handed out.
    pub fn frozen_placed(&mut self, key: PageKey, place: Place, stored: Stored) {
        let most = longest(matches!(key, PageKey::Map(_)));
        assert!((1..=most).contains(&usize::from(stored.length)) && stored.codec <= MAX_CODEC);
        self.settle_page(key, Some((place, stored)));
        self.image.as_mut().expect("a checkpoint is under way").out -= 1;
    }

    /// Has the parents of a page, as frozen and live, point to where it went; `None` where it is empty and went nowhere.
    fn settle_page(&mut self, key: PageKey, to: Option<(Place, Stored)>) {
        self.cache.placed(key);
        let image = self.image.as_mut().expect("a checkpoint is under way");
        let (parent, i) = match key {
            PageKey::Map(id) => (Some((0, id.get() / ENTRIES)), id.get() % ENTRIES),
            PageKey::Blocks { level, index } if level + 1 == image.levels => (None, index),
            PageKey::Blocks { level, index } => (Some((level + 1, index / ENTRIES)), index % ENTRIES),
        };
        let i = i as usize;
        let map = matches!(key, PageKey::Map(_));
        let segments = &mut self.segments;
        let mut update = |raw: &mut RawEntry, view: View| {
            if map && !raw.live() {
                // The live page is gone already, and its old place was accounted for then.
                return;
            }
            if raw.live() && !raw.place().is_pending() {
                segments.account(raw.place().segment, u32::from(raw.length.get()) + TAG, false, view);
            }
            match to {
                Some((place, stored)) => {
                    let entry = Entry { place, stored, refs: raw.refs.get(), map };
                    *raw = RawEntry::from_entry(&entry);
                    segments.account(place.segment, u32::from(stored.length) + TAG, true, view);
                }
                None => *raw = RawEntry { refs: raw.refs, ..RawEntry::FREE },
            }
        };
        let Some((level, index)) = parent else {
            if self.levels == image.levels {
                update(&mut image.top, View::Both);
                self.top = image.top;
            } else {
                // The radix grew since: the live pointer stands in the page above.
                update(&mut image.top, View::Frozen);
                let above = PageKey::Blocks { level: image.levels, index: 0 };
                let (_, live) = self.cache.both(above);
                in_page(live.expect("a new top stays in memory"), 0, |raw| update(raw, View::Live));
            }
            return;
        };
        match self.cache.both(PageKey::Blocks { level, index }) {
            (Some(frozen), None) => in_page(frozen, i, |raw| update(raw, View::Both)),
            (Some(frozen), Some(live)) => {
                in_page(frozen, i, |raw| update(raw, View::Frozen));
                in_page(live, i, |raw| update(raw, View::Live));
            }
            (None, _) => unreachable!("parents are held as long as their children"),
        }
    }

    /// Bytes of the root of the checkpoint under way, as [`Root::encode_whole`] gives them. Panics if there is none.
    pub fn frozen_root_len(&self) -> usize {
        let image = self.image.as_ref().expect("a checkpoint is under way");
        crate::root::encoded_len(self.segments.frozen_table_len(), self.frozen_volumes(image))
    }

    /// The volumes as of the freeze, in no order.
    fn frozen_volumes<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = &'a VolumeRecord> {
        self.volumes
            .values()
            .filter(|v| !image.volumes.contains_key(&v.id.0))
            .chain(image.volumes.values().flatten())
    }

    /// The root of the checkpoint under way. Panics unless [`Frozen::Done`] was told.
    pub fn frozen_root(&self) -> Root {
        let image = self.image.as_ref().expect("a checkpoint is under way");
        assert!(image.class + 1 == CLASSES && image.out == 0, "all pages are placed");
        let mut volumes: Vec<_> = self.frozen_volumes(image).cloned().collect();
        volumes.sort_by_key(|v| v.id);
        Root {
            segment_size: self.geometry.segment_size,
            segments: self.segments.frozen_table(),
            volumes,
            next_volume: image.next_volume,
            limit: image.limit,
            levels: image.levels,
            top: image.top.live().then(|| (image.top.place(), image.top.stored())),
            stats: image.stats,
        }
    }

    /// The checkpoint is durable. The segments that became free, in rising order.
    pub fn checkpointed(&mut self) -> Vec<u32> {
        assert!(self.image.take().is_some(), "a checkpoint is under way");
        self.cache.durable();
        self.alloc.checkpointed();
        self.segments.checkpointed()
    }

    /// The checkpoint failed: its pages are to be written by the next one.
    pub fn abandon(&mut self) {
        assert!(self.image.take().is_some(), "a checkpoint is under way");
        self.cache.abandon();
        self.alloc.abandon();
        self.segments.abandon();
    }

    /// For the cleaner: if the page is at `place`, the next checkpoint writes it anew. Whether it is there.
    pub fn clean_page(&mut self, key: PageKey, place: Place) -> Result<bool, Needs> {
        let mut want = Want::default();
        let there = match key {
            PageKey::Map(id) => self.clean_map(id, place, &mut want),
            PageKey::Blocks { level, index } => self.clean_blocks(level, index, place, &mut want),
        };
        match there {
            Some(there) => {
                self.cache.tick();
                Ok(there)
            }
            None => want.into(),
        }
    }

    fn clean_map(&mut self, id: BlockId, place: Place, want: &mut Want) -> Option<bool> {
        let raw = self.read_entry(id.get(), want)?;
        if !raw.live() || !raw.map() || raw.place() != place {
            return Some(false);
        }
        if !self.need_entry(id, want) {
            return None;
        }
        let slot = self.map_page(id.get(), want)?;
        // It stays whose it is.
        self.mark_map(id.get(), slot);
        Some(true)
    }

    fn clean_blocks(&mut self, level: u8, index: u64, place: Place, want: &mut Want) -> Option<bool> {
        if !self.in_capacity(level, index) {
            return Some(false);
        }
        let pointer = match level + 1 == self.levels {
            true => self.top,
            false => match self.read_blocks(level + 1, index / ENTRIES, want)? {
                Some(parent) => self.raw_at(parent, (index % ENTRIES) as usize),
                None => return Some(false),
            },
        };
        if !pointer.live() || pointer.place() != place {
            return Some(false);
        }
        if !self.need_chain(level, index, want) {
            return None;
        }
        let slot = self.cache.slot(PageKey::Blocks { level, index })?;
        self.change_blocks(level, index, slot);
        Some(true)
    }
}

fn in_page(page: &mut Page, i: usize, f: impl FnOnce(&mut RawEntry)) {
    let mut raw = raw_in(page, i);
    f(&mut raw);
    set_raw_in(page, i, &raw);
}
