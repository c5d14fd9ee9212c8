//! The index as its users see it: questions, what was read for them, and what became of the log.
//!
//! Owns the order in which pending blocks, cached summaries and the sampled table are asked, and when to read ahead.

use crate::cache::{Cache, Found};
use crate::hints::Hints;
use crate::sample::{Sample, is_stale, pointer_to};
use crate::sequences::Sequences;
use crate::table::{Key, Pointer, Spot};
use crate::{ALIGNMENT, Advise, Answer, Budget, Candidate, Entry, MAX_PENDING, Print, SummaryAt};
use std::collections::HashMap;
use std::collections::hash_map::Entry as Entries;
use std::hash::{BuildHasherDefault, Hasher};

/// A stream's next entries that are kept read.
const AHEAD: u32 = 128;

/// Summaries looked through to find where those end.
const STEPS: usize = 32;

/// Two hits in one summary that are no more than this many lookups apart are taken for a stream.
const STREAM: u64 = 128;

/// In a stream, one in how many hits looks ahead, beside the first two in each summary.
const LOOK_EVERY: u32 = 16;

/// Entries that can look like one print's, and be tried, in one lookup.
const TRIES: usize = 4;

/// What an index holds and what it did, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Prints in the sampled table now.
    pub sampled: usize,
    /// Prints it has room for.
    pub sample_capacity: usize,
    /// One print in 2^this is sampled now.
    pub sample_shift: u32,
    /// Live prints that the table had no room for though its rate would have kept them.
    pub crowded_out: u64,
    /// Summaries in the cache now.
    pub cached_summaries: usize,
    /// Prints in the cache now.
    pub cached: usize,
    /// Blocks pending now.
    pub pending: usize,
    /// Memory taken, in bytes.
    pub memory_bytes: usize,
    /// Answers [`Answer::Pending`].
    pub pending_hits: u64,
    /// Answers [`Answer::Hit`].
    pub hits: u64,
    /// Answers [`Answer::Fetch`].
    pub fetches: u64,
    /// Answers [`Answer::Miss`].
    pub misses: u64,
    /// Summaries proposed by [`Index::prefetch`].
    pub prefetches: u64,
    /// Candidates that proved stale.
    pub forgotten: u64,
}

/// The dedup index of a pool. It is used under one lock; each call takes well under a microsecond for each print given.
pub struct Index {
    pending: HashMap<Print, u64, BuildHasherDefault<PrintHasher>>,
    cache: Cache,
    sample: Sample,
    sequences: Sequences,
    hints: Hints,
    /// The summary that was inserted last: the next one follows it.
    last: Option<SummaryAt>,
    /// How often prints became known that were not.
    changes: u64,
    /// Lookups so far: the clock by which hits are near each other.
    lookups: u64,
    stats: Stats,
}

impl Index {
    /// An empty index. Memory is taken from the system as it fills.
    pub fn new(budget: Budget) -> Index {
        Index::advised(budget, |_, _| {})
    }

    /// As [`Index::new`], with somebody who is told of its memory: looks go all over it, and each costs a miss of the processor's
    /// table of pages as well unless they are huge.
    pub fn advised(budget: Budget, advise: Advise) -> Index {
        Index {
            pending: HashMap::default(),
            cache: Cache::new(budget.cache_bytes, advise),
            sample: Sample::new(budget.index_bytes, advise),
            changes: 0,
            sequences: Sequences::default(),
            hints: Hints::new(),
            last: None,
            lookups: 0,
            stats: Stats::default(),
        }
    }

    /// Where the block with this print may be. [`Answer::Fetch`] is answered by [`Index::loaded`] or [`Index::failed`] and another
    /// lookup; that ends, as each address that was loaded or failed is not asked for again by the same print.
    pub fn lookup(&mut self, print: &Print) -> Answer {
        self.lookups += 1;
        if let Some(answer) = self.in_memory(print) {
            return answer;
        }
        match self.sampled(print) {
            Some(at) => {
                self.stats.fetches += 1;
                Answer::Fetch(at)
            }
            None => {
                self.stats.misses += 1;
                Answer::Miss
            }
        }
    }

    /// Has `fetch` called with what [`Index::lookup`] and [`Index::insert`] of these will look at first, to have the processor fetch it.
    /// Each look misses the caches two or three times, one miss behind the other: fetched beforehand, those of many prints together and
    /// best while there is something else to do, they wait for none of it.
    #[inline]
    pub fn warm<'a>(&self, prints: impl IntoIterator<Item = &'a Print>, fetch: impl Fn(&u64)) {
        prints.into_iter().for_each(|print| fetch(self.cache.place(print)));
    }

    /// As [`Index::warm`], behind it: what they will look at next. That is the cached line of what is most likely known, and a place in the
    /// sampled table of what is not.
    #[inline]
    pub fn warm_next<'a>(&self, prints: impl IntoIterator<Item = &'a Print>, fetch: impl Fn(&u64)) {
        for print in prints {
            if let Some(line) = self.cache.likely(print) {
                fetch(line);
                continue;
            }
            let key = Key::of(print);
            if self.sample.covers(&key) {
                fetch(self.sample.table().place(&key));
            }
        }
    }

    /// As [`Index::warm_next`], behind it and right before the looks: what some of them will look at last.
    #[inline]
    pub fn warm_last<'a>(&self, prints: impl IntoIterator<Item = &'a Print>, fetch: impl Fn(&u64)) {
        for print in prints.into_iter().filter(|print| self.cache.likely(print).is_none()) {
            let key = Key::of(print);
            if self.sample.covers(&key)
                && let Some(place) = self.sample.table().second_place(&key)
            {
                fetch(place);
            }
        }
    }

    /// A number that has changed when something may be found now that was not before.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// As [`Index::lookup`], for one who will not read a summary: to ask again, for what became known since, costs no look into
    /// the sampled table.
    pub fn look_again(&mut self, print: &Print) -> Answer {
        self.in_memory(print).unwrap_or(Answer::Miss)
    }

    fn in_memory(&mut self, print: &Print) -> Option<Answer> {
        if let Some(id) = self.pending.get(print) {
            self.stats.pending_hits += 1;
            return Some(Answer::Pending(*id));
        }
        let found = self.cache.find(print)?;
        if let Some(candidate) = self.hit(&found) {
            self.stats.hits += 1;
            self.hints.found(print);
            return Some(Answer::Hit(candidate));
        }
        self.cache.forget(print, found.id);
        None
    }

    /// The candidate of a cached line, unless its segment is gone; and what its summary then makes likely.
    fn hit(&mut self, found: &Found) -> Option<Candidate> {
        let summary = self.cache.summary(found.number);
        let SummaryAt { segment, sequence, .. } = summary.at;
        if self.sequences.of(segment) != sequence {
            return None;
        }
        summary.hits = summary.hits.saturating_add(1);
        let near = self.lookups - summary.last_hit <= STREAM;
        summary.last_hit = self.lookups;
        let look = match summary.hits {
            1 => summary.ahead,
            2 => near,
            hits => near && hits.is_multiple_of(LOOK_EVERY),
        };
        if look {
            self.look_ahead(found.number);
        }
        Some(Candidate { id: found.id, segment, sequence, offset: found.offset })
    }

    /// Wants the first summary after `number` in the log that is not here, where it is less than [`AHEAD`] entries away.
    fn look_ahead(&mut self, mut number: u64) {
        let mut credit = AHEAD;
        for _ in 0..STEPS {
            let Some(next) = self.cache.summary(number).next else { return };
            let Some(there) = self.cache.number_of(&next) else {
                self.want(next, credit);
                return;
            };
            let summary = self.cache.summary(there);
            summary.ahead = true;
            if summary.len() >= credit {
                return;
            }
            credit -= summary.len();
            number = there;
        }
    }

    fn want(&mut self, at: SummaryAt, credit: u32) {
        if self.sequences.of(at.segment) == at.sequence {
            self.hints.want(at, credit);
        }
    }

    /// The address of a summary that is not here and may have the print. Entries that proved wrong are removed.
    fn sampled(&mut self, print: &Print) -> Option<SummaryAt> {
        let key = Key::of(print);
        if !self.sample.covers(&key) {
            return None;
        }
        let mut tries = [None; TRIES];
        self.sample.matches(&key).zip(&mut tries).for_each(|(found, to)| *to = Some(found));
        for (spot, pointer) in tries.into_iter().flatten() {
            match self.judge(&key, pointer) {
                Judged::Fetch(at) if self.hints.fetch(print, at) => return Some(at),
                Judged::Fetch(_) | Judged::Keep => {}
                Judged::Remove => self.sample.remove(spot),
            }
        }
        None
    }

    fn judge(&self, key: &Key, pointer: Pointer) -> Judged {
        if is_stale(pointer, &self.sequences) {
            return Judged::Remove;
        }
        let at = self.address(pointer);
        match self.cache.number_of(&at) {
            // It is here and lacks the print. The entry stays if it is another's that only looks alike.
            Some(number) => {
                match self.cache.prints_of(number).any(|p| self.sample.table().confuses(key, &Key::of(p))) {
                    true => Judged::Keep,
                    false => Judged::Remove,
                }
            }
            None if self.hints.has_failed(&at) => Judged::Remove,
            None => Judged::Fetch(at),
        }
    }

    fn address(&self, pointer: Pointer) -> SummaryAt {
        let Pointer { segment, page, .. } = pointer;
        SummaryAt { segment, sequence: self.sequences.of(segment), offset: u32::from(page) * ALIGNMENT }
    }

    /// Whether [`Index::prefetch`] may have one.
    pub fn wants(&self) -> bool {
        self.hints.wants()
    }

    /// A summary that is likely to be needed soon, to be read when the device has time, and answered as a fetch is.
    pub fn prefetch(&mut self) -> Option<SummaryAt> {
        while let Some(at) = self.hints.take() {
            if self.sequences.of(at.segment) == at.sequence && self.cache.number_of(&at).is_none() {
                self.stats.prefetches += 1;
                return Some(at);
            }
            self.hints.drop(&at);
        }
        None
    }

    /// The summary at `at` was read. `next` is the batch that follows it in the log, where the reader knows: the one that begins
    /// where this one ends. Without it, the stream is not read ahead beyond this summary.
    pub fn loaded(&mut self, at: SummaryAt, entries: &[Entry], next: Option<SummaryAt>) {
        self.changes += 1;
        let credit = self.hints.loaded(&at);
        if pointer_to(&at).is_none() || self.sequences.of(at.segment) != at.sequence {
            return;
        }
        let number = self.cache.add(at, entries, next);
        if let Some(credit) = credit {
            let summary = self.cache.summary(number);
            summary.ahead = true;
            let left = credit.saturating_sub(summary.len());
            if let Some(next) = summary.next.filter(|next| left > 0 && self.cache.number_of(next).is_none()) {
                self.want(next, left);
            }
        }
    }

    /// The summary at `at` could not be read, or none is there.
    pub fn failed(&mut self, at: SummaryAt) {
        self.hints.failed(at);
    }

    /// A batch was closed and stands at `at`: its blocks, moved ones included, are pending no more. Faster behind [`Index::warm`].
    pub fn insert(&mut self, at: SummaryAt, entries: &[Entry]) {
        for entry in entries {
            self.pending_remove(&entry.print, entry.id);
        }
        self.changes += 1;
        if self.learn(at, entries) {
            self.cache.add(at, entries, None);
            if let Some(last) = self.last.and_then(|last| self.cache.number_of(&last)) {
                self.cache.summary(last).next.get_or_insert(at);
            }
            self.last = Some(at);
        }
    }

    /// Takes up the summary of an old batch, for an index that is rebuilt: into the sample, not the cache. False, with nothing
    /// taken up, where the address is none or the segment is known to be in a later use.
    pub fn learn(&mut self, at: SummaryAt, entries: &[Entry]) -> bool {
        let Some(pointer) = pointer_to(&at) else { return false };
        if !self.sequences.begin(at.segment, at.sequence) {
            return false;
        }
        // It may have been asked for before it was written, as what follows the last batch.
        self.hints.drop(&at);
        self.sample.add(entries.iter().map(|e| Key::of(&e.print)), pointer, &self.sequences);
        true
    }

    /// A block was published whose batch is not closed yet.
    pub fn pending_insert(&mut self, print: Print, id: u64) {
        self.changes += 1;
        if self.pending.len() < MAX_PENDING {
            self.pending.insert(print, id);
        }
    }

    /// A pending block is gone: freed, or its batch failed.
    pub fn pending_remove(&mut self, print: &Print, id: u64) {
        if let Entries::Occupied(entry) = self.pending.entry(*print)
            && *entry.get() == id
        {
            entry.remove();
        }
    }

    /// The answer `id` for `print` proved stale: it is not given again, unless a summary brings it anew.
    pub fn forget(&mut self, print: &Print, id: u64) {
        self.stats.forgotten += 1;
        self.pending_remove(print, id);
        let Some(at) = self.cache.forget(print, id) else { return };
        let found = |(spot, p): (Spot, Pointer)| (self.address(p) == at).then_some(spot);
        let spot = self.sample.matches(&Key::of(print)).find_map(found);
        if let Some(spot) = spot {
            self.sample.remove(spot);
        }
    }

    /// The use `sequence` of `segment` has ended: nothing in it is answered from here on. What points there is dropped as it is met.
    pub fn forget_segment(&mut self, segment: u32, sequence: u64) {
        self.sequences.end(segment, sequence);
    }

    /// Forgets all but the pending blocks.
    pub fn clear(&mut self) {
        self.cache.clear();
        self.sample.clear();
        self.sequences.clear();
        self.hints.clear();
        self.last = None;
    }

    /// What it holds and did.
    pub fn stats(&self) -> Stats {
        Stats {
            sampled: self.sample.table().len(),
            sample_capacity: self.sample.table().capacity(),
            sample_shift: self.sample.level(),
            crowded_out: self.sample.crowded_out,
            cached_summaries: self.cache.summaries(),
            cached: self.cache.entries(),
            pending: self.pending.len(),
            memory_bytes: self.memory_bytes(),
            ..self.stats
        }
    }

    /// Memory taken from the allocator, in bytes; of the system's memory it takes as much as it has filled.
    pub fn memory_bytes(&self) -> usize {
        let pending = self.pending.capacity() * (size_of::<(Print, u64)>() + 1) * 8 / 7;
        self.cache.memory_bytes()
            + self.sample.table().memory_bytes()
            + self.sequences.memory_bytes()
            + pending
    }
}

/// What is to be done about an entry of the sampled table.
enum Judged {
    Fetch(SummaryAt),
    Keep,
    Remove,
}

/// Prints are hashes already, and keyed: eight of their bytes will do.
#[derive(Default)]
struct PrintHasher(u64);

impl Hasher for PrintHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*last);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}
