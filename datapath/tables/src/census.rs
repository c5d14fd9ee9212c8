//! Counting what is sealed under which key epoch: the proof that nothing is, before an epoch's key is erased.
//!
//! Reads the whole block table once, a directory at a step, and changes nothing; the tables may change meanwhile. Whoever counts has
//! seen to it that nothing new is sealed under the epochs in question: then an epoch that was met nowhere is nowhere. Map pages and pages
//! of the block table are the pool's own; users' blocks are their domains'.

use crate::alloc::ENTRIES;
use crate::audit::present;
use crate::tables::Tables;
use crate::types::{Needs, PageKey, RawEntry};
use crate::want::Want;
use std::collections::BTreeMap;

/// A count under way.
#[derive(Debug)]
pub struct Census {
    level: u8,
    index: u64,
    over: bool,
    /// Stored pages of the tables, by epoch.
    pub pages: BTreeMap<u16, u64>,
    /// Users' blocks, by epoch.
    pub blocks: BTreeMap<u16, u64>,
}

impl Default for Census {
    fn default() -> Census {
        Census { level: 1, index: 0, over: false, pages: BTreeMap::new(), blocks: BTreeMap::new() }
    }
}

impl Census {
    /// Does a bounded piece of work; whether there is more.
    pub fn step(&mut self, tables: &mut Tables) -> Result<bool, Needs> {
        if self.over {
            return Ok(false);
        }
        let mut want = Want::default();
        let Some((found, next)) = look(tables, self.level, self.index, &mut want) else {
            return want.into();
        };
        tables.cache.tick();
        for raw in found {
            self.add(&raw);
        }
        let reach = 8 * (u32::from(self.level) + 1);
        if (next << reach) < tables.limit {
            self.index = next;
        } else if self.level + 1 < tables.levels {
            (self.level, self.index) = (self.level + 1, 0);
        } else {
            let top = tables.top;
            self.add_page(&top);
            self.over = true;
        }
        Ok(!self.over)
    }

    fn add(&mut self, found: &(RawEntry, bool)) {
        let (raw, page) = found;
        if *page || raw.map() {
            self.add_page(raw);
        } else if raw.live() && !raw.place().is_pending() {
            *self.blocks.entry(raw.stored().epoch).or_default() += 1;
        }
    }

    fn add_page(&mut self, raw: &RawEntry) {
        if raw.live() && !raw.place().is_pending() {
            *self.pages.entry(raw.stored().epoch).or_default() += 1;
        }
    }
}

/// The records in a directory, which are of pages, and of the lowest ones those in the pages below; and the directory to go on with.
fn look(t: &mut Tables, level: u8, index: u64, want: &mut Want) -> Option<(Vec<(RawEntry, bool)>, u64)> {
    let slot = t.read_blocks(level, index, want)?;
    let reach = 8 * (u32::from(level) + 1);
    let next = present(t, (index + 1) << reach, true, want)? >> reach;
    let mut found = Vec::new();
    let Some(slot) = slot else { return Some((found, next)) };
    let mut below = Vec::new();
    for i in 0..ENTRIES {
        let raw = t.raw_at(slot, i as usize);
        if raw.live() {
            found.push((raw, true));
        }
        let page = index * ENTRIES + i;
        let held = t.cache.slot(PageKey::Blocks { level: level - 1, index: page }).is_some();
        if level == 1 && (raw.live() || raw.refs.get() > 0 || held) {
            below.push(t.read_blocks(0, page, want));
        }
    }
    if !want.is_empty() {
        return None;
    }
    for slot in below.into_iter().flatten().flatten() {
        let entries = (0..ENTRIES as usize).map(|i| t.raw_at(slot, i)).filter(RawEntry::live);
        found.extend(entries.map(|raw| (raw, false)));
    }
    Some((found, next))
}
