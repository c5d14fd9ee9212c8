//! What was written to each sector since it was last durable: what a power failure chooses from.
//!
//! Owns the versions and their order in time. Knows no operations: whoever writes or syncs says what and up to when.

use super::Rng;
use super::pages::Pages;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Contents of a sector; none for zeroes.
type Bytes = Option<Box<[u8]>>;

/// A sector with writes that are not durable.
struct Sector {
    /// What a power failure cannot take away.
    base: Bytes,
    /// What was written since, with the time of each, oldest first.
    newer: VecDeque<(u64, Bytes)>,
}

/// Sectors that were written and not synced. All others are durable as they are.
#[derive(Default)]
pub(super) struct Versions(BTreeMap<u64, Sector>);

/// How a power failure chooses.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Each sector for itself.
    Mixed,
    /// Everything that was written up to a time.
    Prefix(u64),
    /// Everything but what was written in a span of time.
    Gap(u64, u64),
    All,
    None,
}

impl Loss {
    fn pick(rng: &mut Rng, now: u64) -> Loss {
        match rng.below(8) {
            0..4 => Loss::Mixed,
            4 => Loss::Prefix(rng.below(now + 1)),
            5 => {
                let from = rng.below(now + 1);
                Loss::Gap(from, from + rng.below(now + 1 - from))
            }
            6 => Loss::All,
            _ => Loss::None,
        }
    }
}

impl Versions {
    /// `sector` gets `bytes` at `time`; `before` is what a read saw until now.
    pub(super) fn push(&mut self, sector: u64, time: u64, before: impl FnOnce() -> Bytes, bytes: Bytes) {
        let entry = self.0.entry(sector).or_insert_with(|| Sector { base: before(), newer: VecDeque::new() });
        entry.newer.push_back((time, bytes));
    }

    /// Makes what was written to `sectors` up to `time` durable.
    pub(super) fn sync(&mut self, sectors: Range<u64>, time: u64) {
        let settle = |s: &mut Sector| {
            while s.newer.front().is_some_and(|v| v.0 <= time) {
                if let Some((_, bytes)) = s.newer.pop_front() {
                    s.base = bytes;
                }
            }
            s.newer.is_empty()
        };
        if sectors == (0..u64::MAX) {
            self.0.retain(|_, s| !settle(s));
        } else {
            let done: Vec<u64> =
                self.0.range_mut(sectors).filter_map(|(&n, s)| settle(s).then_some(n)).collect();
            for n in done {
                self.0.remove(&n);
            }
        }
    }

    /// The power fails: `pages` becomes what is left.
    pub(super) fn crash(&mut self, pages: &mut Pages, size: usize, rng: &mut Rng, now: u64) {
        let all = std::mem::take(&mut self.0);
        let oldest = all.values().filter_map(|s| s.newer.front().map(|v| v.0)).min().unwrap_or(now);
        let loss = match Loss::pick(rng, now - oldest.min(now)) {
            Loss::Prefix(at) => Loss::Prefix(oldest + at),
            Loss::Gap(from, to) => Loss::Gap(oldest + from, oldest + to),
            other => other,
        };
        for (sector, Sector { base, newer }) in all {
            let left = match loss {
                Loss::Mixed => {
                    let n = rng.below(newer.len() as u64 + 1) as usize;
                    newer.into_iter().take(n).next_back()
                }
                Loss::Prefix(to) => newer.into_iter().take_while(|v| v.0 <= to).last(),
                Loss::Gap(from, to) => newer.into_iter().rfind(|v| v.0 < from || v.0 > to),
                Loss::All => None,
                Loss::None => newer.into_iter().next_back(),
            };
            match left.map_or(base, |(_, bytes)| bytes) {
                Some(bytes) => pages.write(sector * size as u64, &bytes),
                None => pages.zero(sector * size as u64, size),
            }
        }
    }

    /// What stands there is durable from now on, whatever was written before.
    pub(super) fn forget(&mut self, sectors: Range<u64>) {
        let gone: Vec<u64> = self.0.range(sectors).map(|(&n, _)| n).collect();
        for n in gone {
            self.0.remove(&n);
        }
    }

    /// Sectors that a power failure can change.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}
