//! Whole summaries, for exact answers: a ring of entries that the oldest leave, unless they were of use.
//!
//! Owns the memory of `cache_bytes`, laid out once. It must never answer for a print whose 16 bytes do not agree.

use crate::slots::Slots;
use crate::{Advise, Entry, Print, SummaryAt};
use std::collections::VecDeque;

/// An entry in the ring; `summary` is the low half of its summary's number. None lies in two cache lines.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Line {
    print: Print,
    id: u64,
    offset: u32,
    summary: u32,
}

const _: () = assert!(size_of::<Line>() == 32);

/// What is known of a cached summary.
pub(crate) struct Summary {
    pub at: SummaryAt,
    /// The summary that follows it in the log, where that is known.
    pub next: Option<SummaryAt>,
    /// Hits in it, since it came or was kept.
    pub hits: u32,
    /// The lookup that hit last.
    pub last_hit: u64,
    /// Whether it was read ahead: a hit in it shows that the stream goes on.
    pub ahead: bool,
    /// Where its lines begin, counted over all that ever were in the ring.
    first: u64,
    len: u32,
}

impl Summary {
    pub fn len(&self) -> u32 {
        self.len
    }
}

/// A line that has the print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub number: u64,
    pub id: u64,
    pub offset: u32,
}

pub(crate) struct Cache {
    lines: Vec<Line>,
    capacity: usize,
    /// Lines that ever came and that ever left; the ring holds those between.
    head: u64,
    tail: u64,
    prints: Slots,
    summaries: VecDeque<Summary>,
    /// Number of the oldest summary.
    base: u64,
    addresses: Slots,
    most: usize,
}

/// Summaries are expected to have this many entries on average; where they have fewer, their number bounds the cache.
const EXPECTED_LEN: usize = 16;

/// Useful summaries that are kept for another round at each addition, and how long they may be.
const KEPT: usize = 4;
const KEPT_LEN: u32 = 1024;

impl Cache {
    /// A cache that takes at most `bytes`, or room for 64 entries where that is more.
    pub fn new(bytes: usize, advise: Advise) -> Cache {
        let a_summary = size_of::<Summary>() + Slots::ENTRY_BYTES;
        let a_line = size_of::<Line>() + Slots::ENTRY_BYTES + a_summary.div_ceil(EXPECTED_LEN);
        let capacity = (bytes.saturating_sub(512) / a_line).clamp(64, u32::MAX as usize / 2);
        let most = (capacity / EXPECTED_LEN).max(1);
        let lines: Vec<Line> = Vec::with_capacity(capacity);
        advise(lines.as_ptr().cast(), capacity * size_of::<Line>());
        Cache {
            lines,
            capacity,
            head: 0,
            tail: 0,
            prints: Slots::new(capacity, advise),
            summaries: VecDeque::with_capacity(most),
            base: 0,
            addresses: Slots::new(most, advise),
            most,
        }
    }

    pub fn summaries(&self) -> usize {
        self.summaries.len()
    }

    pub fn entries(&self) -> usize {
        (self.head - self.tail) as usize
    }

    pub fn memory_bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
            + self.summaries.capacity() * size_of::<Summary>()
            + self.prints.memory_bytes()
            + self.addresses.memory_bytes()
    }

    pub fn clear(&mut self) {
        self.lines.clear();
        self.summaries.clear();
        self.prints.clear();
        self.addresses.clear();
        (self.head, self.tail, self.base) = (0, 0, 0);
    }

    fn line(&self, position: u64) -> &Line {
        &self.lines[(position % self.capacity as u64) as usize]
    }

    /// What a look for `print` begins with: to have it fetched, nothing else.
    pub fn place(&self, print: &Print) -> &u64 {
        self.prints.place(hash_of(print))
    }

    /// What a look for `print` goes on with, where something like it is here: to have it fetched, nothing else.
    pub fn likely(&self, print: &Print) -> Option<&u64> {
        let at = self.prints.find(hash_of(print), |_| true)?;
        self.lines.get(at as usize).map(|line| &line.id)
    }

    pub fn find(&self, print: &Print) -> Option<Found> {
        let at = self.prints.find(hash_of(print), |at| self.lines[at as usize].print == *print)?;
        let line = &self.lines[at as usize];
        let number = self.base + u64::from(line.summary.wrapping_sub(self.base as u32));
        Some(Found { number, id: line.id, offset: line.offset })
    }

    /// The number of the summary at this address, if it is here.
    pub fn number_of(&self, at: &SummaryAt) -> Option<u64> {
        let is_it = |low: u32| self.summaries[low.wrapping_sub(self.base as u32) as usize].at == *at;
        let low = self.addresses.find(hash_of_address(at), is_it)?;
        Some(self.base + u64::from(low.wrapping_sub(self.base as u32)))
    }

    /// A summary by its number, which `find` or `number_of` gave since the last addition.
    pub fn summary(&mut self, number: u64) -> &mut Summary {
        &mut self.summaries[(number - self.base) as usize]
    }

    /// The prints of a summary, by its number.
    pub fn prints_of(&self, number: u64) -> impl Iterator<Item = &Print> {
        let summary = &self.summaries[(number - self.base) as usize];
        (summary.first..summary.first + u64::from(summary.len)).map(|p| &self.line(p).print)
    }

    /// Adds a summary, in place of the oldest ones; gives its number. Where it is here already, only `next` is taken over.
    pub fn add(&mut self, at: SummaryAt, entries: &[Entry], next: Option<SummaryAt>) -> u64 {
        if let Some(number) = self.number_of(&at) {
            let summary = self.summary(number);
            summary.next = summary.next.or(next);
            return number;
        }
        // One that would fill the cache alone is not worth all others.
        let entries = &entries[..entries.len().min(self.capacity / 2)];
        let mut kept = 0;
        while self.entries() + entries.len() > self.capacity || self.summaries.len() >= self.most {
            kept += usize::from(self.turn_out_oldest(kept < KEPT));
        }
        self.push(at, entries, next)
    }

    fn push(&mut self, at: SummaryAt, entries: &[Entry], next: Option<SummaryAt>) -> u64 {
        let number = self.base + self.summaries.len() as u64;
        let (first, len) = (self.head, entries.len() as u32);
        self.addresses.insert(hash_of_address(&at), number as u32);
        self.summaries.push_back(Summary { at, next, hits: 0, last_hit: 0, ahead: false, first, len });
        for entry in entries {
            let Entry { print, id, offset } = *entry;
            let line = Line { print, id, offset, summary: number as u32 };
            let position = (self.head % self.capacity as u64) as usize;
            self.head += 1;
            match self.lines.get_mut(position) {
                Some(old) => *old = line,
                None => self.lines.push(line),
            }
            // The newest place of a print is the one to know: the older may be where it was moved from.
            let hash = hash_of(&print);
            match self.prints.find(hash, |at| self.lines[at as usize].print == print) {
                Some(older) => {
                    self.prints.replace(hash, older, position as u32);
                }
                None => self.prints.insert(hash, position as u32),
            }
        }
        number
    }

    /// Removes the oldest summary; where it was of use and `may_keep`, it comes back as the newest, which is said.
    fn turn_out_oldest(&mut self, may_keep: bool) -> bool {
        let Some(oldest) = self.summaries.pop_front() else { return false };
        self.addresses.remove(hash_of_address(&oldest.at), self.base as u32);
        self.base += 1;
        let keep = may_keep && oldest.hits > 0 && oldest.len <= KEPT_LEN;
        let mut kept = Vec::new();
        for position in self.tail..self.tail + u64::from(oldest.len) {
            let Line { print, id, offset, .. } = *self.line(position);
            let known = self.prints.remove(hash_of(&print), (position % self.capacity as u64) as u32);
            if keep && known {
                kept.push(Entry { print, id, offset });
            }
        }
        self.tail += u64::from(oldest.len);
        if keep {
            self.push(oldest.at, &kept, oldest.next);
        }
        keep
    }

    /// No longer answers `print` with `id`; gives the address of the summary that did.
    pub fn forget(&mut self, print: &Print, id: u64) -> Option<SummaryAt> {
        let hash = hash_of(print);
        let is_it = |at: u32| self.lines[at as usize].print == *print && self.lines[at as usize].id == id;
        let at = self.prints.find(hash, is_it)?;
        let found = self.find(print)?;
        self.prints.remove(hash, at);
        Some(self.summary(found.number).at)
    }
}

/// Bits of the print that the sampled table uses for nothing but its first bucket.
fn hash_of(print: &Print) -> u32 {
    u32::from_le_bytes([print[0], print[1], print[2], print[3]])
}

fn hash_of_address(at: &SummaryAt) -> u32 {
    let mixed =
        (u64::from(at.segment) << 16 ^ u64::from(at.offset) >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ at.sequence.rotate_left(40)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u32) -> SummaryAt {
        SummaryAt { segment: n / 8, sequence: 1, offset: n % 8 * 4096 }
    }

    fn entry(n: u64) -> Entry {
        let mut print = [3; 16];
        print[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        Entry { print, id: n + 1, offset: n as u32 }
    }

    fn entries(from: u64, n: u64) -> Vec<Entry> {
        (from..from + n).map(entry).collect()
    }

    #[test]
    fn the_oldest_leave_and_the_useful_stay() {
        let mut cache = Cache::new(0, |_, _| {});
        for n in 0..4 {
            cache.add(at(n), &entries(u64::from(n) * 16, 16), None);
        }
        assert_eq!((cache.entries(), cache.summaries()), (64, 4));
        let found = cache.find(&entry(3).print).expect("in the first");
        assert_eq!((found.id, found.offset, cache.summary(found.number).at), (4, 3, at(0)));
        cache.summary(found.number).hits += 1;
        cache.add(at(9), &entries(900, 16), Some(at(10)));
        assert!(cache.find(&entry(3).print).is_some(), "it was of use");
        assert!(cache.find(&entry(20).print).is_none() && cache.number_of(&at(1)).is_none());
        let number = cache.number_of(&at(9)).expect("it is new");
        assert_eq!((cache.summary(number).next, cache.prints_of(number).count()), (Some(at(10)), 16));
        for n in 20..24 {
            cache.add(at(n), &entries(u64::from(n) * 100, 16), None);
        }
        assert!(cache.find(&entry(3).print).is_none(), "not of use since");
        assert!((0..4).all(|n| cache.number_of(&at(n)).is_none()));
        assert_eq!((cache.prints.len(), cache.addresses.len()), (64, 4));
    }

    #[test]
    fn the_newer_place_answers() {
        let mut cache = Cache::new(10_000, |_, _| {});
        cache.add(at(0), &[Entry { id: 5, ..entry(1) }, entry(2)], None);
        cache.add(at(1), &[Entry { id: 6, ..entry(1) }], None);
        assert_eq!(cache.find(&entry(1).print).map(|f| f.id), Some(6));
        assert_eq!(cache.forget(&entry(1).print, 5), None);
        assert_eq!(cache.forget(&entry(1).print, 6), Some(at(1)));
        assert!(cache.find(&entry(1).print).is_none() && cache.find(&entry(2).print).is_some());
    }

    #[test]
    fn a_giant_is_cut() {
        let mut cache = Cache::new(0, |_, _| {});
        cache.add(at(0), &entries(0, 16), None);
        cache.add(at(1), &entries(1000, 1000), None);
        assert!(cache.find(&entry(0).print).is_some());
        assert_eq!(cache.entries(), 48);
        cache.clear();
        assert_eq!((cache.entries(), cache.find(&entry(0).print).is_none()), (0, true));
    }
}
