//! Looking through what volumes map, in order, and at where pages stand: for scrubs and checks. Only reads.
//!
//! A survey goes from leaf to leaf by block and keeps nothing from one call to the next, so that the volume may change
//! meanwhile. Pages that the caller knows to be lost are passed by, and what they hid is told.

use crate::alloc::ENTRIES;
use crate::map::{IDS, MARK, capacity, get, index, is_id, span};
use crate::tables::Tables;
use crate::types::{BlockId, Entry, Needs, PageKey, Place, VolumeId};
use crate::want::Want;

/// What a survey met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Met {
    /// A stored block.
    At {
        /// The volume's block.
        block: u64,
        /// Its id.
        id: BlockId,
        /// What the block table says of it.
        entry: Entry,
    },
    /// Blocks of which nobody can tell what they are, for a page is lost.
    Lost {
        /// The first.
        block: u64,
        /// How many.
        count: u64,
    },
}

impl Tables {
    /// Appends what volume `v` maps in the first leaf at or behind `block`. Gives the block to go on from, or `None` at the
    /// end of the volume, or when there is no such volume. `lost` tells which pages are never to be had. Nothing is
    /// appended on `Err`, which names pages that are not lost.
    pub fn survey(
        &mut self,
        v: VolumeId,
        block: u64,
        lost: impl Fn(PageKey) -> bool,
        out: &mut Vec<Met>,
    ) -> Result<Option<u64>, Needs> {
        let Some(record) = self.volumes.get(&v) else { return Ok(None) };
        let (height, end) = (record.height, record.blocks.max(record.tail));
        let Some(root) = record.root.filter(|_| block < capacity(height)) else { return Ok(None) };
        let (mut id, mut at) = (root.get(), block);
        for level in (0..height).rev() {
            let mut want = Want::default();
            let behind = (at - at % span(level)).saturating_add(span(level));
            let Some(slot) = self.map_page(id, &mut want) else {
                want.retain(|key| !lost(key));
                if !want.is_empty() {
                    return want.into();
                }
                let count = behind.min(end).saturating_sub(at);
                if count > 0 {
                    out.push(Met::Lost { block: at, count });
                }
                return Ok((behind < end).then_some(behind));
            };
            if level == 0 {
                self.survey_leaf(slot, at, &lost, out)?;
                self.cache.tick();
                return Ok((behind < end).then_some(behind));
            }
            let page = self.cache.page(slot);
            let from = index(at, level);
            let next = (from..IDS as usize).find(|i| get(page, *i) & MARK != 0);
            let Some(i) = next else {
                return Ok((behind < end).then_some(behind));
            };
            id = get(page, i) & MARK;
            if i > from {
                at = at - at % span(level) + i as u64 * span(level - 1);
            }
        }
        Ok(None)
    }

    fn survey_leaf(
        &mut self,
        leaf: u32,
        block: u64,
        lost: &impl Fn(PageKey) -> bool,
        out: &mut Vec<Met>,
    ) -> Result<(), Needs> {
        let first = out.len();
        let mut needed = Want::default();
        for i in index(block, 0)..IDS as usize {
            let n = get(self.cache.page(leaf), i);
            if !is_id(n) {
                continue;
            }
            let at = block - block % IDS + i as u64;
            let mut want = Want::default();
            let raw = self.read_entry(n, &mut want);
            want.retain(|key| !lost(key));
            needed.append(want);
            let entry = raw.and_then(|raw| raw.entry()).filter(|entry| !entry.map);
            out.push(match (BlockId::new(n), entry) {
                (Some(id), Some(entry)) => Met::At { block: at, id, entry },
                _ => Met::Lost { block: at, count: 1 },
            });
        }
        if !needed.is_empty() {
            out.truncate(first);
        }
        needed.into()
    }

    /// Where a page of the tables stands; `None` where there is none, or it stands nowhere yet.
    pub fn page_at(&mut self, key: PageKey) -> Result<Option<Place>, Needs> {
        let mut want = Want::default();
        let raw = match key {
            PageKey::Map(id) => self.read_entry(id.get(), &mut want).map(|raw| Some(raw).filter(|r| r.map())),
            PageKey::Blocks { level, index } if !self.in_capacity(level, index) => Some(None),
            PageKey::Blocks { level, .. } if level + 1 == self.levels => Some(Some(self.top)),
            PageKey::Blocks { level, index } => self
                .read_blocks(level + 1, index / ENTRIES, &mut want)
                .map(|parent| parent.map(|slot| self.raw_at(slot, (index % ENTRIES) as usize))),
        };
        match raw {
            Some(raw) => {
                self.cache.tick();
                Ok(raw.filter(|r| r.live()).map(|r| r.place()).filter(|place| !place.is_pending()))
            }
            None => want.into(),
        }
    }
}
