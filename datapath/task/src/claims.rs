//! Who may touch which blocks now: claims on ranges, shared for reading, alone for writing, first come, first served.
//!
//! A claim waits for every earlier one that it conflicts with, whether that is held or itself waiting, so claims are
//! granted in an order without cycles and nobody starves. All ranges of one claim are asked for at once. Who waits is
//! woken on its own thread; no thread is ever blocked. One short lock a claim and one a release.

use crate::sync::{Mutex, MutexGuard, PoisonError};
use caisson_block::{Parked, Remote};
use std::sync::Arc;

/// A range that is claimed, `from..to`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// The first byte.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// Claimed alone; otherwise together with other readers.
    pub alone: bool,
}

impl Range {
    fn conflicts(&self, other: &Range) -> bool {
        (self.alone || other.alone) && self.from.max(other.from) < self.to.min(other.to)
    }
}

/// Whom to wake when a claim is granted.
pub struct Waiter {
    /// The thread that it waits on.
    pub remote: Arc<dyn Remote>,
    /// Who waits.
    pub who: Arc<dyn Parked>,
    /// What it is woken with.
    pub token: u64,
}

/// log2 of the bytes of an address region that claims are looked up by.
const REGION_SHIFT: u32 = 20;
/// Lists that regions are spread over.
const BUCKETS: usize = 256;
/// A claim over more regions than this is kept in a list of its own that everybody looks through.
const MAX_REGIONS: u64 = 4;

/// All claims on one volume.
pub struct Claims(Mutex<Table>);

struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    buckets: Vec<Vec<u32>>,
    wide: Vec<u32>,
    /// Marks the slots that a search has seen.
    stamp: u64,
}

struct Slot {
    used: bool,
    /// Tells this use of the slot from earlier ones.
    generation: u32,
    ranges: [Range; 2],
    /// Earlier claims that this one still waits for.
    waits_for: u32,
    /// Later claims that wait for this one, with their generations.
    waited_by: Vec<(u32, u32)>,
    waiter: Option<Waiter>,
    seen: u64,
}

/// A claim; given up when dropped, granted or not.
pub struct Claim {
    claims: Arc<Claims>,
    slot: u32,
}

/// How a new claim stands.
pub enum Standing {
    /// It is ours.
    Granted(Claim),
    /// The waiter is woken when it is.
    Waiting(Claim),
}

impl Claims {
    /// None yet.
    pub fn new() -> Arc<Claims> {
        Arc::new(Claims(Mutex::new(Table {
            slots: Vec::new(),
            free: Vec::new(),
            buckets: vec![Vec::new(); BUCKETS],
            wide: Vec::new(),
            stamp: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims one or two ranges together (an empty one counts for nothing; they may overlap each other). `waiter` is
    /// asked for only when it has to wait.
    pub fn claim(self: &Arc<Self>, ranges: [Range; 2], waiter: impl FnOnce() -> Waiter) -> Standing {
        let mut table = self.lock();
        let slot = table.insert(ranges);
        let waits = table.slots[slot as usize].waits_for > 0;
        if waits {
            table.slots[slot as usize].waiter = Some(waiter());
        }
        drop(table);
        let claim = Claim { claims: Arc::clone(self), slot };
        if waits { Standing::Waiting(claim) } else { Standing::Granted(claim) }
    }

    /// Claims held and waiting.
    #[cfg(test)]
    fn len(&self) -> usize {
        let table = self.lock();
        assert!(table.slots.iter().any(|s| s.used) || table.buckets.iter().all(Vec::is_empty));
        table.slots.len() - table.free.len()
    }
}

/// The regions of a range, or `None` when they are too many.
fn regions(range: &Range) -> Option<std::ops::RangeInclusive<u64>> {
    let (first, last) = (range.from >> REGION_SHIFT, (range.to - 1) >> REGION_SHIFT);
    (last - first < MAX_REGIONS).then_some(first..=last)
}

impl Table {
    fn insert(&mut self, ranges: [Range; 2]) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                used: false,
                generation: 0,
                ranges: [Range::default(); 2],
                waits_for: 0,
                waited_by: Vec::new(),
                waiter: None,
                seen: 0,
            });
            (self.slots.len() - 1) as u32
        });
        self.stamp += 1;
        let generation = self.slots[slot as usize].generation;
        let mut waits_for = 0;
        let mut meet = |slots: &mut [Slot], other: u32, stamp: u64| {
            let other = &mut slots[other as usize];
            if other.seen != stamp
                && other.ranges.iter().any(|theirs| ranges.iter().any(|ours| ours.conflicts(theirs)))
            {
                other.seen = stamp;
                other.waited_by.push((slot, generation));
                waits_for += 1;
            }
        };
        for range in ranges.iter().filter(|r| r.from < r.to) {
            match regions(range) {
                Some(regions) => {
                    for region in regions {
                        for &other in &self.buckets[region as usize % BUCKETS] {
                            meet(&mut self.slots, other, self.stamp);
                        }
                    }
                    for &other in &self.wide {
                        meet(&mut self.slots, other, self.stamp);
                    }
                }
                None => {
                    for other in 0..self.slots.len() as u32 {
                        if self.slots[other as usize].used {
                            meet(&mut self.slots, other, self.stamp);
                        }
                    }
                }
            }
        }
        let entry = &mut self.slots[slot as usize];
        (entry.used, entry.ranges, entry.waits_for) = (true, ranges, waits_for);
        self.each_list(ranges, |list| list.push(slot));
        slot
    }

    /// Calls `f` with each list that a claim on `ranges` is in, once for each time it is in there.
    fn each_list(&mut self, ranges: [Range; 2], mut f: impl FnMut(&mut Vec<u32>)) {
        for range in ranges.iter().filter(|r| r.from < r.to) {
            match regions(range) {
                Some(regions) => regions.for_each(|r| f(&mut self.buckets[r as usize % BUCKETS])),
                None => f(&mut self.wide),
            }
        }
    }

    /// Takes the claim out, and adds to `wake` who need not wait any more.
    fn remove(&mut self, slot: u32, wake: &mut Vec<Waiter>) {
        let entry = &mut self.slots[slot as usize];
        entry.used = false;
        entry.generation = entry.generation.wrapping_add(1);
        entry.waiter = None;
        let ranges = std::mem::take(&mut entry.ranges);
        let mut waited_by = std::mem::take(&mut entry.waited_by);
        self.each_list(ranges, |list| {
            if let Some(at) = list.iter().position(|&s| s == slot) {
                list.swap_remove(at);
            }
        });
        for (other, generation) in waited_by.drain(..) {
            let other = &mut self.slots[other as usize];
            // One that was given up while it waited has another generation.
            if other.generation == generation {
                other.waits_for -= 1;
                if other.waits_for == 0 {
                    wake.extend(other.waiter.take());
                }
            }
        }
        // Keeps its capacity.
        self.slots[slot as usize].waited_by = waited_by;
        self.free.push(slot);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut wake = Vec::new();
        self.claims.lock().remove(self.slot, &mut wake);
        for waiter in wake {
            waiter.remote.wake(waiter.who, waiter.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_block::Cx;

    #[derive(Default)]
    struct Log(Mutex<Vec<u64>>);
    impl Remote for Log {
        fn wake(&self, _: Arc<dyn Parked>, token: u64) {
            self.0.lock().unwrap().push(token);
        }
    }
    impl Parked for Log {
        fn woken(self: Arc<Self>, _: &mut Cx<'_>, _: u64) {}
    }
    impl Log {
        fn waiter(self: &Arc<Self>, token: u64) -> Waiter {
            Waiter { remote: self.clone(), who: self.clone(), token }
        }
        fn take(&self) -> Vec<u64> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn r(from: u64, to: u64, alone: bool) -> [Range; 2] {
        [Range { from, to, alone }, Range::default()]
    }

    #[test]
    fn readers_share_and_writers_wait_in_order() {
        let (c, log) = (Claims::new(), Arc::new(Log::default()));
        let claim = |ranges, token| c.claim(ranges, || log.waiter(token));
        let Standing::Granted(a) = claim(r(0, 100, false), 1) else { panic!() };
        let Standing::Granted(b) = claim(r(50, 150, false), 2) else { panic!() };
        let Standing::Waiting(w) = claim(r(90, 110, true), 3) else { panic!() };
        // Behind the waiting writer, though only readers hold it now.
        let Standing::Waiting(d) = claim(r(100, 101, false), 4) else { panic!() };
        let Standing::Granted(e) = claim(r(110, 150, false), 5) else { panic!() };
        drop(a);
        assert!(log.take().is_empty());
        drop(b);
        assert_eq!(log.take(), [3]);
        drop(w);
        assert_eq!(log.take(), [4]);
        drop((d, e));
        assert_eq!(c.len(), 0);
    }

    #[test]
    fn given_up_while_waiting_and_wide() {
        let (c, log) = (Claims::new(), Arc::new(Log::default()));
        let claim = |ranges, token| c.claim(ranges, || log.waiter(token));
        let Standing::Granted(all) = claim(r(0, u64::MAX, true), 1) else { panic!() };
        let Standing::Waiting(x) = claim(r(7 << 30, (7 << 30) + 1, false), 2) else { panic!() };
        let Standing::Waiting(y) = claim(r(0, u64::MAX, true), 3) else { panic!() };
        drop(x);
        drop(all);
        assert_eq!(log.take(), [3]);
        let two = [Range { from: 0, to: 10, alone: false }, Range { from: 5, to: 15, alone: true }];
        let Standing::Waiting(z) = claim(two, 4) else { panic!() };
        drop(y);
        assert_eq!(log.take(), [4]);
        drop(z);
        assert_eq!(c.len(), 0);
    }

    /// Random claims against the rule itself: a claim is granted when no earlier one that it conflicts with is left.
    #[test]
    fn keeps_the_rule() {
        let (c, log) = (Claims::new(), Arc::new(Log::default()));
        let mut x = 1u64;
        let mut rng = move |n: u64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % n
        };
        let mut live: Vec<(u64, [Range; 2], Claim, bool)> = Vec::new();
        for token in 0..20_000u64 {
            if live.len() < 24 && rng(2) == 0 {
                let mut range = || {
                    let from = rng(40) << 18;
                    Range {
                        from,
                        to: from + (rng(if token % 7 == 0 { 40 } else { 4 }) << 18),
                        alone: rng(2) == 0,
                    }
                };
                let ranges = [range(), range()];
                match c.claim(ranges, || log.waiter(token)) {
                    Standing::Granted(claim) => live.push((token, ranges, claim, true)),
                    Standing::Waiting(claim) => live.push((token, ranges, claim, false)),
                }
            } else if !live.is_empty() {
                drop(live.remove(rng(live.len() as u64) as usize));
            }
            for token in log.take() {
                let woken = live.iter_mut().find(|l| l.0 == token).expect("only who is there is woken");
                assert!(!std::mem::replace(&mut woken.3, true), "woken twice");
            }
            for (i, (_, ranges, _, granted)) in live.iter().enumerate() {
                let blocked = live[..i]
                    .iter()
                    .any(|(_, earlier, ..)| earlier.iter().any(|e| ranges.iter().any(|r| r.conflicts(e))));
                assert_eq!(*granted, !blocked);
            }
        }
        drop(live);
        assert_eq!(c.len(), 0);
    }
}
