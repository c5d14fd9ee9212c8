//! Recounting references and live bytes from the pages themselves.
//!
//! Owns nothing of the tables; only reads. Memory is bounded: references are counted for a window of ids at a time, and for
//! each window all map pages are read once. Every map page is found through its own entry, so that shared ones count once.

use crate::alloc::ENTRIES;
use crate::map::{IDS, MARK, get, is_id};
use crate::tables::Tables;
use crate::types::{BlockId, Needs, PageKey, RawEntry, Stats, TAG};
use crate::want::Want;

/// A disagreement that an audit found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// The recorded references differ from those counted.
    Refs {
        /// Of what.
        id: BlockId,
        /// What the entry says; `None` where the id is free.
        recorded: Option<u32>,
        /// How many there are.
        counted: u32,
    },
    /// The recorded live bytes of a segment differ from those counted.
    Live {
        /// Which.
        segment: u32,
        /// What the segment table says.
        recorded: u32,
        /// How many there are.
        counted: u64,
    },
    /// What a directory says is in use below it differs from what was counted.
    Used {
        /// The page below.
        page: PageKey,
        /// What the directory says.
        recorded: u32,
        /// How many there are.
        counted: u32,
    },
    /// A total of the pool differs from what was counted.
    Total {
        /// Which.
        what: &'static str,
        /// What is recorded.
        recorded: u64,
        /// How many there are.
        counted: u64,
    },
}

/// Where an audit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// At a directory, by level and index.
    Directories(u8, u64),
    /// Counting what the map page of an id, or of one after it, points at.
    Count(u64),
    /// Comparing the entries from an id on, within the window.
    Compare(u64),
    Done,
}

/// An audit under way; the tables must not change meanwhile.
pub struct Audit {
    phase: Phase,
    /// The first id of the window; from `gap` to there nothing is in use, nor should be referred to.
    first: u64,
    gap: u64,
    dangling: Vec<u64>,
    counts: Vec<u32>,
    limit: u64,
    live: Vec<u64>,
    totals: Stats,
}

impl Audit {
    /// Begins. `window` ids are counted in each pass, at 4 bytes each; with a window of 1, there are as many passes as ids.
    pub fn new(tables: &Tables, window: usize) -> Audit {
        let limit = tables.limit;
        let window = (window.max(1) as u64).next_multiple_of(ENTRIES).min(limit.next_multiple_of(ENTRIES));
        Audit {
            phase: Phase::Directories(1, 0),
            first: 0,
            gap: 0,
            dangling: Vec::new(),
            counts: vec![0; window as usize],
            limit,
            live: vec![0; tables.segments.len() as usize],
            totals: Stats::default(),
        }
    }

    /// How far it is, in percent.
    pub fn percent(&self) -> u8 {
        let at = match self.phase {
            Phase::Directories(..) => 0,
            Phase::Count(at) => {
                (u128::from(self.first) * u128::from(self.limit) + u128::from(at) * self.counts.len() as u128)
                    / u128::from(self.limit)
            }
            Phase::Compare(at) => u128::from(at),
            Phase::Done => return 100,
        };
        (at * 100 / u128::from(self.limit)).min(99) as u8
    }

    /// Does a bounded piece of work; whether there is more. What it found is appended.
    pub fn step(&mut self, tables: &mut Tables, findings: &mut Vec<Finding>) -> Result<bool, Needs> {
        let mut want = Want::default();
        let next = match self.phase {
            Phase::Directories(level, index) => self.directory(tables, level, index, &mut want, findings),
            Phase::Count(id) => self.count(tables, id, &mut want),
            Phase::Compare(id) => self.compare(tables, id, &mut want, findings),
            Phase::Done => return Ok(false),
        };
        match next {
            Some(next) => {
                tables.cache.tick();
                let ids = self.dangling.drain(..).filter_map(BlockId::new);
                findings.extend(ids.map(|id| Finding::Refs { id, recorded: None, counted: 1 }));
                self.phase = next;
                Ok(next != Phase::Done)
            }
            None => {
                let needs: Result<bool, Needs> = want.into();
                needs
            }
        }
    }

    fn account(&mut self, raw: &RawEntry) {
        let place = raw.place();
        if raw.live() && !place.is_pending() {
            // Pages that come in were checked for segments that there are.
            self.live[place.segment as usize] += u64::from(raw.length.get()) + u64::from(TAG);
        }
    }

    /// Checks the counts of a directory against the pages below it, and accounts for those.
    fn directory(
        &mut self,
        t: &mut Tables,
        level: u8,
        index: u64,
        want: &mut Want,
        findings: &mut Vec<Finding>,
    ) -> Option<Phase> {
        let slot = t.read_blocks(level, index, want)?;
        let reach = 8 * (u32::from(level) + 1);
        let next = present(t, (index + 1) << reach, true, want)? >> reach;
        if let Some(slot) = slot {
            let base = index * ENTRIES;
            let mut below = Vec::new();
            for i in 0..ENTRIES as usize {
                let raw = t.raw_at(slot, i);
                if raw.live() || raw.refs.get() > 0 {
                    below.push((raw, base + i as u64, t.read_blocks(level - 1, base + i as u64, want)));
                }
            }
            if !want.is_empty() {
                return None;
            }
            for (raw, at, page) in below {
                self.account(&raw);
                let counted = page.flatten().map_or(0, |slot| self.in_use(t, level - 1, slot));
                let recorded = raw.refs.get();
                if counted != recorded {
                    let page = PageKey::Blocks { level: level - 1, index: at };
                    findings.push(Finding::Used { page, recorded, counted });
                }
            }
        }
        if (next << reach) < self.limit {
            return Some(Phase::Directories(level, next));
        }
        if level + 1 < t.levels {
            return Some(Phase::Directories(level + 1, 0));
        }
        let top = t.top;
        self.account(&top);
        Some(self.window(t))
    }

    /// How much a directory should say is in use in a page; of entries, they are accounted for, too.
    fn in_use(&mut self, t: &Tables, level: u8, slot: u32) -> u32 {
        let mut used = 0;
        for i in 0..ENTRIES as usize {
            let raw = t.raw_at(slot, i);
            if level > 0 {
                used += u32::from(raw.refs.get() > 0);
                continue;
            }
            used += u32::from(raw.live());
            self.account(&raw);
            if raw.live() && raw.map() {
                self.totals.map_pages += 1;
            } else if raw.live() {
                self.totals.blocks += 1;
                self.totals.stored_bytes += u64::from(raw.length.get());
                self.totals.references += u64::from(raw.refs.get());
            }
        }
        used
    }

    /// Begins the window at `first`: with the roots of volumes.
    fn window(&mut self, t: &Tables) -> Phase {
        self.counts.fill(0);
        for v in t.volumes.values() {
            if let Some(root) = v.root {
                self.refer(root.get());
            }
        }
        Phase::Count(0)
    }

    fn refer(&mut self, id: u64) {
        if let Some(count) = id.checked_sub(self.first).and_then(|at| self.counts.get_mut(at as usize)) {
            *count = count.saturating_add(1);
        } else if (self.gap..self.first).contains(&id) {
            self.dangling.push(id);
        }
    }

    /// Counts what the next map page points at.
    fn count(&mut self, t: &mut Tables, id: u64, want: &mut Want) -> Option<Phase> {
        let page = id / ENTRIES;
        let slot = t.read_blocks(0, page, want)?;
        let end = present(t, (page + 1) * ENTRIES, false, want)?;
        let next =
            |i: &u64| slot.is_some_and(|s| t.raw_at(s, *i as usize).live() && t.raw_at(s, *i as usize).map());
        let found = (id % ENTRIES..ENTRIES).find(next);
        let after = match found {
            None => end,
            Some(i) => {
                let map = t.map_page(page * ENTRIES + i, want)?;
                for i in 0..IDS as usize {
                    let n = get(t.cache.page(map), i) & MARK;
                    if is_id(n) {
                        self.refer(n);
                    }
                }
                page * ENTRIES + i + 1
            }
        };
        Some(if after < self.limit { Phase::Count(after) } else { Phase::Compare(self.first) })
    }

    /// Compares a page of entries with what was counted.
    fn compare(
        &mut self,
        t: &mut Tables,
        id: u64,
        want: &mut Want,
        findings: &mut Vec<Finding>,
    ) -> Option<Phase> {
        let slot = t.read_blocks(0, id / ENTRIES, want)?;
        let (after, end) = (id + ENTRIES, self.first + self.counts.len() as u64);
        let next = present(t, end, false, want)?.min((self.limit - 1) / ENTRIES * ENTRIES).max(end);
        for i in 0..ENTRIES {
            let counted = self.counts[(id + i - self.first) as usize];
            let raw = slot.map_or(RawEntry::FREE, |s| t.raw_at(s, i as usize));
            let recorded = raw.live().then(|| raw.refs.get());
            let stuck = recorded == Some(t.most_refs(&raw));
            if let Some(id) = BlockId::new(id + i).filter(|_| !stuck && recorded.unwrap_or(0) != counted) {
                findings.push(Finding::Refs { id, recorded, counted });
            }
        }
        if after >= self.limit {
            self.end(t, findings);
            return Some(Phase::Done);
        }
        if after < end {
            return Some(Phase::Compare(after));
        }
        (self.gap, self.first) = (end, next);
        Some(self.window(t))
    }

    fn end(&self, t: &Tables, findings: &mut Vec<Finding>) {
        for (segment, &counted) in (0..).zip(&self.live) {
            let recorded = t.segments.get(segment).live;
            if u64::from(recorded) != counted {
                findings.push(Finding::Live { segment, recorded, counted });
            }
        }
        let totals = [
            ("blocks", t.stats.blocks, self.totals.blocks),
            ("stored bytes", t.stats.stored_bytes, self.totals.stored_bytes),
            ("references", t.stats.references, self.totals.references),
            ("map pages", t.stats.map_pages, self.totals.map_pages),
        ];
        for (what, recorded, counted) in totals.into_iter().filter(|(_, a, b)| a != b) {
            findings.push(Finding::Total { what, recorded, counted });
        }
    }
}

/// The first id from `id` on, both at the start of a page, whose page of entries is not empty as its directory says; or, with
/// `stored`, is stored nevertheless, as one is that became empty since the last checkpoint.
pub(crate) fn present(t: &mut Tables, mut id: u64, stored: bool, want: &mut Want) -> Option<u64> {
    'down: loop {
        for level in (1..t.levels).rev() {
            let reach = 8 * u32::from(level);
            let below = id >> reach;
            let index = below / ENTRIES;
            if !t.in_capacity(level, index) {
                return Some(id);
            }
            let slot = t.read_blocks(level, index, want)?;
            let mut used = |i: &u64| {
                let raw = slot.map_or(RawEntry::FREE, |s| t.raw_at(s, *i as usize));
                // A page in memory that is stored nowhere yet may point at some that are.
                let page = PageKey::Blocks { level: level - 1, index: index * ENTRIES + i };
                raw.refs.get() > 0 || stored && (raw.live() || t.cache.slot(page).is_some())
            };
            match (below % ENTRIES..ENTRIES).find(&mut used) {
                Some(i) if i == below % ENTRIES => {}
                Some(i) => id = (index * ENTRIES + i) << reach,
                None => {
                    id = ((index + 1) * ENTRIES) << reach;
                    continue 'down;
                }
            }
        }
        return Some(id);
    }
}
