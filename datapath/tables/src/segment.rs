//! The segment table: what each segment is used for, and how many live bytes it holds.
//!
//! Owns the states of segments and their accounting, live and as of a freeze. It does not know what the bytes are.

use crate::cache::IntMap;
use crate::planted::{Bug, on};
use std::collections::BTreeSet;
use std::ops::Range;

/// What a segment is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SegmentState {
    /// Nothing: it can be reserved.
    #[default]
    Free,
    /// Set aside for the log or a checkpoint.
    Reserved,
    /// Being written.
    Open,
    /// Written; free again when it is empty and a checkpoint has completed.
    Closed,
}

/// One segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The number of its present or last use: strictly growing over the pool. 0 for one that was never used.
    pub sequence: u64,
    /// The opening of the pool in which that use began.
    pub opening: u32,
    /// Bytes of live records, each with its tag.
    pub live: u32,
    /// What it is used for.
    pub state: SegmentState,
}

/// Who writes to a segment that is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// The log: a checkpoint under way does not see the opening.
    Log,
    /// The checkpoint under way, whose root must list it.
    Checkpoint,
}

/// A segment that could be cleaned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Victim {
    /// Which.
    pub segment: u32,
    /// Its live bytes.
    pub live: u32,
    /// Its sequence; the lower, the older.
    pub sequence: u64,
}

/// Which picture of the table a change of live bytes is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    Live,
    Frozen,
    Both,
}

/// The table.
pub(crate) struct Segments {
    table: Vec<Segment>,
    /// Under a checkpoint: segments that differ, or may, from what they are live.
    frozen: Option<IntMap<u32, Segment>>,
    /// How many there were at the freeze.
    frozen_len: usize,
    free: BTreeSet<u32>,
    /// Closed ones without live bytes.
    empty: BTreeSet<u32>,
    pins: IntMap<u32, u32>,
    live: u64,
    newest: u64,
}

impl Segments {
    pub fn new(table: Vec<Segment>) -> Segments {
        let pick = |state, live: Option<u32>| {
            let with = table
                .iter()
                .enumerate()
                .filter(move |(_, s)| s.state == state && live.is_none_or(|l| s.live == l));
            with.map(|(n, _)| n as u32).collect::<BTreeSet<u32>>()
        };
        Segments {
            frozen: None,
            frozen_len: 0,
            free: pick(SegmentState::Free, None),
            empty: pick(SegmentState::Closed, Some(0)),
            pins: IntMap::default(),
            live: table.iter().map(|s| u64::from(s.live)).sum(),
            newest: table.iter().map(|s| s.sequence).max().unwrap_or(0),
            table,
        }
    }

    pub fn get(&self, n: u32) -> &Segment {
        &self.table[n as usize]
    }

    pub fn len(&self) -> u32 {
        self.table.len() as u32
    }

    /// Changes the live segment, keeping what it was at the freeze.
    fn change(&mut self, n: u32, f: impl FnOnce(&mut Segment)) {
        let s = &mut self.table[n as usize];
        if let Some(frozen) = &mut self.frozen {
            frozen.entry(n).or_insert(*s);
        }
        let before = *s;
        f(s);
        if on(Bug::EarlySegment) && s.state == SegmentState::Closed && s.live == 0 {
            s.state = SegmentState::Free;
        }
        let now = *s;
        self.live = self.live - u64::from(before.live) + u64::from(now.live);
        let empty = |s: &Segment| s.state == SegmentState::Closed && s.live == 0;
        if before.state != now.state || (before.live == 0) != (now.live == 0) {
            set(&mut self.free, n, now.state == SegmentState::Free);
            set(&mut self.empty, n, empty(&now));
        }
    }

    /// Changes the segment as of the freeze.
    fn change_frozen(&mut self, n: u32, f: impl FnOnce(&mut Segment)) {
        if let Some(frozen) = &mut self.frozen {
            f(frozen.entry(n).or_insert(self.table[n as usize]));
        }
    }

    /// Changes live bytes. A count that would pass its bounds stays at them: an audit tells.
    pub fn account(&mut self, n: u32, bytes: u32, add: bool, view: View) {
        let change = |s: &mut Segment| {
            let live = if add { s.live.checked_add(bytes) } else { s.live.checked_sub(bytes) };
            debug_assert!(live.is_some(), "live bytes of segment {n} have bounds");
            s.live = live.unwrap_or(if add { u32::MAX } else { 0 });
        };
        if view != View::Live {
            self.change_frozen(n, change);
        }
        if view != View::Frozen {
            self.change(n, change);
        }
    }

    pub fn open(&mut self, n: u32, sequence: u64, opening: u32, by: Use) {
        let was = self.get(n).state;
        assert!(matches!(was, SegmentState::Free | SegmentState::Reserved), "segment {n} is {was:?}");
        let open = |s: &mut Segment| {
            s.state = SegmentState::Open;
            s.sequence = sequence;
            s.opening = opening;
        };
        self.newest = self.newest.max(sequence);
        self.change(n, open);
        if by == Use::Checkpoint {
            self.change_frozen(n, open);
        }
    }

    pub fn close(&mut self, n: u32, by: Use) {
        assert!(self.get(n).state == SegmentState::Open, "segment {n} is open");
        self.change(n, |s| s.state = SegmentState::Closed);
        if by == Use::Checkpoint {
            self.change_frozen(n, |s| s.state = SegmentState::Closed);
        }
    }

    pub fn reserve(&mut self, k: usize) -> Vec<u32> {
        let taken: Vec<u32> = self.free.iter().copied().take(k).collect();
        for &n in &taken {
            self.change(n, |s| s.state = SegmentState::Reserved);
            self.change_frozen(n, |s| s.state = SegmentState::Reserved);
        }
        taken
    }

    /// Sets this segment aside if it is free. Whether it was.
    pub fn reserve_one(&mut self, n: u32) -> bool {
        let free = n < self.len() && self.get(n).state == SegmentState::Free;
        if free {
            self.change(n, |s| s.state = SegmentState::Reserved);
            self.change_frozen(n, |s| s.state = SegmentState::Reserved);
        }
        free
    }

    pub fn unreserve(&mut self, n: u32) {
        assert!(self.get(n).state == SegmentState::Reserved, "segment {n} is reserved");
        self.change(n, |s| s.state = SegmentState::Free);
        self.change_frozen(n, |s| s.state = SegmentState::Free);
    }

    pub fn pin(&mut self, n: u32) {
        *self.pins.entry(n).or_insert(0) += 1;
    }

    pub fn unpin(&mut self, n: u32) {
        let pins = self.pins.get_mut(&n).expect("pins and unpins pair");
        *pins -= 1;
        if *pins == 0 {
            self.pins.remove(&n);
        }
    }

    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Those that a checkpoint which began now would free, at most `k`.
    pub fn emptied(&self, k: usize) -> Vec<u32> {
        self.empty.iter().copied().filter(|n| !self.pins.contains_key(n)).take(k).collect()
    }

    pub fn emptied_len(&self) -> u32 {
        let pinned = self.pins.keys().filter(|n| self.empty.contains(n)).count();
        (self.empty.len() - pinned) as u32
    }

    pub fn live_bytes(&self) -> u64 {
        self.live
    }

    pub fn add(&mut self, n: u32) {
        let first = self.len();
        self.table.resize(self.table.len() + n as usize, Segment::default());
        self.free.extend(first..first + n);
    }

    /// Benefit over cost: the free share by age over what must be read and written.
    pub fn profit(&self, v: &Victim, size: u32) -> f64 {
        let used = f64::from(v.live) / f64::from(size);
        (1.0 - used) * (self.newest.saturating_sub(v.sequence) + 1) as f64 / (1.0 + used)
    }

    /// See `Tables::victims`.
    pub fn victims(&self, range: Range<u32>, k: usize, size: u32) -> Vec<Victim> {
        let score = |v: &Victim| self.profit(v, size);
        let mut found: Vec<Victim> = (range.start..range.end.min(self.len()))
            .map(|n| (n, self.get(n)))
            .filter(|(_, s)| s.state == SegmentState::Closed && s.live > 0 && s.live < size)
            .map(|(segment, s)| Victim { segment, live: s.live, sequence: s.sequence })
            .collect();
        found.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.segment.cmp(&b.segment)));
        found.truncate(k);
        found
    }

    // the checkpoint

    pub fn freeze(&mut self) {
        self.frozen = Some(IntMap::default());
        self.frozen_len = self.table.len();
    }

    /// How many segments that has.
    pub fn frozen_table_len(&self) -> usize {
        self.frozen_len.max(self.highest_frozen())
    }

    /// The table of the checkpoint under way.
    pub fn frozen_table(&self) -> Vec<Segment> {
        let mut table = self.table[..self.frozen_table_len()].to_vec();
        for (&n, s) in self.frozen.iter().flatten() {
            table[n as usize] = *s;
        }
        table
    }

    /// A segment that was added after the freeze may hold the checkpoint's own pages.
    fn highest_frozen(&self) -> usize {
        self.frozen.iter().flatten().map(|(&n, _)| n as usize + 1).max().unwrap_or(0)
    }

    /// Frees what was closed and empty at the freeze, and is not pinned.
    pub fn checkpointed(&mut self) -> Vec<u32> {
        let frozen = self.frozen.take().unwrap_or_default();
        let was_empty = |n: &u32| {
            let s = frozen.get(n).unwrap_or(&self.table[*n as usize]);
            s.state == SegmentState::Closed && s.live == 0 && !self.pins.contains_key(n)
        };
        let freed: Vec<u32> = self.empty.iter().copied().filter(was_empty).collect();
        for &n in &freed {
            self.change(n, |s| s.state = SegmentState::Free);
        }
        freed
    }

    pub fn abandon(&mut self) {
        self.frozen = None;
    }

    pub fn memory(&self) -> usize {
        self.table.capacity() * size_of::<Segment>() + (self.free.len() + self.empty.len()) * 8
    }
}

fn set(to: &mut BTreeSet<u32>, n: u32, member: bool) {
    if member {
        to.insert(n);
    } else {
        to.remove(&n);
    }
}
