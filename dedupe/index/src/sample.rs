//! Which prints the table holds: all of them while there is room, then half, a quarter, and so on.
//!
//! Owns the sampling rate and the sweep that makes the table follow it, some buckets at each insertion. A print is in the sample
//! when its level is at least the rate's; so what is in a thinner sample is in every thicker one. It must never go over
//! the whole table at once.

use crate::sequences::Sequences;
use crate::table::{Key, MAX_LEVEL, Pointer, Spot, Table};
use crate::{Advise, SummaryAt};

pub(crate) struct Sample {
    table: Table,
    /// Prints of at least this level are entered.
    level: u32,
    /// Prints of at least this level are looked for: less than `level` until the sweep has dropped what is below it.
    probe: u32,
    /// The bucket that is swept next, and how many are left of this pass.
    cursor: usize,
    left: usize,
    /// Live entries that had to go for want of room in their buckets.
    pub crowded_out: u64,
}

/// Buckets swept for each entry; two, so that a pass ends long before the next thinning is due.
const SWEPT_AN_ENTRY: usize = 2;

impl Sample {
    pub fn new(bytes: usize, advise: Advise) -> Sample {
        let table = Table::new(bytes, advise);
        let left = table.buckets();
        Sample { table, level: 0, probe: 0, cursor: 0, left, crowded_out: 0 }
    }

    /// One print in 2^n is in the sample.
    pub fn level(&self) -> u32 {
        self.level
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    pub fn clear(&mut self) {
        self.table.clear();
        (self.level, self.probe, self.cursor, self.left) = (0, 0, 0, self.table.buckets());
    }

    /// Whether `key` may be in the table.
    pub fn covers(&self, key: &Key) -> bool {
        key.level >= self.probe
    }

    /// Enters what of `keys` is in the sample, as found in the summary at `segment` and `page`, and sweeps a little.
    pub fn add(&mut self, keys: impl Iterator<Item = Key>, to: Pointer, sequences: &Sequences) {
        let mut entered = 0;
        for key in keys.filter(|key| key.level >= self.level) {
            let useless = |l, p| l < self.level || is_stale(p, sequences);
            let worth = |level, p: Pointer| if useless(level, p) { 0 } else { 1 + level };
            self.crowded_out += u64::from(self.table.insert(&key, to, worth));
            entered += 1;
        }
        if self.probe == self.level && self.is_crowded() {
            self.thin();
        }
        self.sweep(1 + SWEPT_AN_ENTRY * entered, sequences);
    }

    fn is_crowded(&self) -> bool {
        self.table.len() > self.table.capacity() / 20 * 17 && self.level < MAX_LEVEL
    }

    /// Halves the sample: at once for what comes, by a pass of the sweep for what is there.
    fn thin(&mut self) {
        self.level += 1;
        self.left = self.table.buckets();
    }

    fn sweep(&mut self, buckets: usize, sequences: &Sequences) {
        for _ in 0..buckets.min(self.left) {
            let level = self.level;
            self.table.sweep(self.cursor, |l, p| l >= level && !is_stale(p, sequences));
            self.cursor = (self.cursor + 1) % self.table.buckets();
            self.left -= 1;
        }
        if self.left == 0 {
            self.adjust();
        }
    }

    /// At the end of a pass: everything in the table is live and of `level`, so how full it is tells whether a thicker sample fits.
    fn adjust(&mut self) {
        if self.table.len() < self.table.capacity() / 5 && self.level > 0 {
            self.level -= 1;
        }
        self.probe = self.level;
        self.left = self.table.buckets();
    }

    pub fn matches(&self, key: &Key) -> impl Iterator<Item = (Spot, Pointer)> {
        self.table.matches(key)
    }

    pub fn remove(&mut self, spot: Spot) {
        self.table.remove(spot);
    }
}

/// Whether the segment is not, or not any more, in the use that the pointer means.
pub(crate) fn is_stale(p: Pointer, sequences: &Sequences) -> bool {
    let current = sequences.of(p.segment);
    current == 0 || (current & 15) as u8 != p.age
}

/// The table's form of an address, where it has one.
pub(crate) fn pointer_to(at: &SummaryAt) -> Option<Pointer> {
    at.page().map(|page| Pointer { segment: at.segment, page, age: (at.sequence & 15) as u8 })
}
