//! The blocks that Write Uncorrectable made unreadable, until they are written again.
//!
//! Owns the set and nothing else: whoever keeps it across a restart takes its [`Marks::snapshot`]. A volume without any
//! pays one relaxed load an I/O.

use caisson_block::{BlockError, Extent};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most separate runs of unreadable blocks that a volume keeps: 1 MiB of them.
pub(crate) const MAX_MARKS: usize = 65536;

/// A set of blocks, as runs that neither touch nor overlap.
#[derive(Default)]
pub(crate) struct Marks {
    any: AtomicBool,
    /// First block to one past the last.
    runs: Mutex<BTreeMap<u64, u64>>,
    /// Counts the changes.
    version: AtomicU64,
}

impl Marks {
    /// A set of these runs, as kept by [`Marks::snapshot`].
    pub(crate) fn from_runs(runs: &[Extent]) -> Marks {
        let marks = Marks::default();
        for run in runs {
            // More than are kept cannot have been written by us, and each is checked again by `set`.
            let _ = marks.set(*run);
        }
        marks
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when a block of `at` is in the set, with the first of them.
    #[inline]
    pub(crate) fn check(&self, at: Extent) -> Result<(), BlockError> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        self.check_slow(at)
    }

    #[cold]
    fn check_slow(&self, at: Extent) -> Result<(), BlockError> {
        let end = at.lba.saturating_add(at.blocks);
        let runs = self.lock();
        let before = runs.range(..=at.lba).next_back().filter(|&(_, &e)| e > at.lba && at.blocks > 0);
        match before.map(|_| at.lba).or_else(|| runs.range(at.lba..end).next().map(|(&s, _)| s)) {
            Some(lba) => Err(BlockError::Unreadable { lba }),
            None => Ok(()),
        }
    }

    /// Adds the blocks.
    ///
    /// # Errors
    /// [`BlockError::CapacityExceeded`] when there are too many runs.
    pub(crate) fn set(&self, at: Extent) -> Result<(), BlockError> {
        let (mut start, mut end) = (at.lba, at.lba.saturating_add(at.blocks));
        if start == end {
            return Ok(());
        }
        let mut runs = self.lock();
        // Everything that overlaps or touches becomes one run.
        while let Some((&s, &e)) = runs.range(..=end).next_back().filter(|&(_, &e)| e >= start) {
            runs.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        if runs.len() >= MAX_MARKS {
            return Err(BlockError::CapacityExceeded);
        }
        runs.insert(start, end);
        self.changed(&runs);
        Ok(())
    }

    /// Takes the blocks out, and says whether any was in.
    #[inline]
    pub(crate) fn clear(&self, at: Extent) -> bool {
        self.any.load(Ordering::Acquire) && self.clear_slow(at)
    }

    #[cold]
    fn clear_slow(&self, at: Extent) -> bool {
        let (start, end) = (at.lba, at.lba.saturating_add(at.blocks));
        if start == end {
            return false;
        }
        let mut runs = self.lock();
        let mut cleared = false;
        while let Some((&s, &e)) = runs.range(..end).next_back().filter(|&(_, &e)| e > start) {
            runs.remove(&s);
            cleared = true;
            if e > end {
                runs.insert(end, e);
            }
            if s < start {
                runs.insert(s, start);
                break;
            }
        }
        if cleared {
            self.changed(&runs);
        }
        cleared
    }

    fn changed(&self, runs: &BTreeMap<u64, u64>) {
        self.any.store(!runs.is_empty(), Ordering::Release);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Changes with each change of the set.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The set now and its version.
    pub(crate) fn snapshot(&self) -> (Vec<Extent>, u64) {
        let runs = self.lock();
        (runs.iter().map(|(&lba, &end)| Extent { lba, blocks: end - lba }).collect(), self.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_a_set() {
        let m = Marks::default();
        let mut model = [false; 64];
        let mut x = 12345u64;
        let mut rng = |n: u64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % n
        };
        for _ in 0..20_000 {
            let lba = rng(64);
            let at = Extent { lba, blocks: rng(65 - lba) };
            let range = lba as usize..(lba + at.blocks) as usize;
            let first = range.clone().find(|&i| model[i]).map(|i| i as u64);
            match rng(3) {
                0 => {
                    m.set(at).unwrap();
                    model[range].fill(true);
                }
                1 => {
                    assert_eq!(m.clear(at), first.is_some());
                    model[range].fill(false);
                }
                _ => {
                    let want = first.map_or(Ok(()), |lba| Err(BlockError::Unreadable { lba }));
                    assert_eq!(m.check(at), want);
                }
            }
            assert_eq!(m.any.load(Ordering::Relaxed), model.contains(&true));
        }
        let (runs, _) = m.snapshot();
        let again = Marks::from_runs(&runs);
        assert_eq!(again.snapshot().0, runs);
        assert_eq!(m.check(Extent { lba: u64::MAX, blocks: u64::MAX }), Ok(()));
    }

    #[test]
    fn bounded() {
        let m = Marks::default();
        for i in 0..MAX_MARKS as u64 {
            m.set(Extent { lba: i * 2, blocks: 1 }).unwrap();
        }
        assert_eq!(m.set(Extent { lba: 1 << 40, blocks: 1 }), Err(BlockError::CapacityExceeded));
        m.set(Extent { lba: 1, blocks: 1 }).unwrap();
        m.set(Extent { lba: 1 << 40, blocks: 1 }).unwrap();
    }
}
