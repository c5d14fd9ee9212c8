//! A log in memory with an index over it: batches are closed, summaries are read back, and every answer is judged.

#![allow(dead_code)]

use caisson_index::{Answer, Budget, Candidate, Entry, Index, Print, SummaryAt};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// A seed to run with: `CAISSON_SEED`, or the one given. It is printed, for the run to be replayed.
pub fn seed(or: u64) -> u64 {
    let seed = std::env::var("CAISSON_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(or);
    println!("CAISSON_SEED={seed}");
    seed
}

/// splitmix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The print of the content that is called `n`.
pub fn print(n: u64) -> Print {
    let mut rng = Rng(n ^ 0x5bd1_e995_0000_0000);
    let mut print = [0; 16];
    print[..8].copy_from_slice(&rng.next().to_le_bytes());
    print[8..].copy_from_slice(&rng.next().to_le_bytes());
    print
}

/// How far a read goes beyond the summary's own batch, in bytes.
const READ: u32 = 128 << 10;

/// A batch that stands in the log.
struct Batch {
    entries: Vec<Entry>,
    next: Option<SummaryAt>,
}

/// How the world is laid out.
#[derive(Clone, Copy)]
pub struct Shape {
    pub segment_size: u32,
    /// Blocks of a batch, least and most.
    pub batch: (u64, u64),
    /// Writes that pass between a prefetch being proposed and its arrival.
    pub delay: usize,
}

pub const SHAPE: Shape = Shape { segment_size: 16 << 20, batch: (64, 256), delay: 16 };

/// What became of the writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub writes: u64,
    /// Writes of contents that had been written before: what an unbounded exact index finds.
    pub duplicates: u64,
    /// Of those, the ones that were found.
    pub found: u64,
    pub fetches: u64,
    pub prefetches: u64,
}

impl Tally {
    pub fn rate(&self) -> f64 {
        self.found as f64 / self.duplicates.max(1) as f64
    }

    pub fn since(&self, before: &Tally) -> Tally {
        Tally {
            writes: self.writes - before.writes,
            duplicates: self.duplicates - before.duplicates,
            found: self.found - before.found,
            fetches: self.fetches - before.fetches,
            prefetches: self.prefetches - before.prefetches,
        }
    }
}

pub struct World {
    pub index: Index,
    pub tally: Tally,
    shape: Shape,
    rng: Rng,
    batches: HashMap<SummaryAt, Batch>,
    /// What stands at each place: for judging candidates.
    places: HashMap<Candidate, Print>,
    /// Every content that is stored, and how often: one may be stored twice when it was not found.
    pub exact: HashMap<Print, u32>,
    open: Vec<(Print, u64)>,
    size: u64,
    end: SummaryAt,
    next_id: u64,
    next_segment: u32,
    /// Segments by use, with what stands in them.
    pub uses: BTreeMap<(u32, u64), Vec<SummaryAt>>,
    coming: VecDeque<(u64, SummaryAt)>,
}

impl World {
    pub fn new(budget: Budget, shape: Shape, seed: u64) -> World {
        World {
            index: Index::new(budget),
            tally: Tally::default(),
            shape,
            rng: Rng(seed),
            batches: HashMap::new(),
            places: HashMap::new(),
            exact: HashMap::new(),
            open: Vec::new(),
            size: shape.batch.0,
            end: SummaryAt { segment: 0, sequence: 1, offset: 0 },
            next_id: 1,
            next_segment: 1,
            uses: BTreeMap::new(),
            coming: VecDeque::new(),
        }
    }

    /// What a reader of the device gives the index for `at`: that summary, and the short ones that the same read brings.
    fn read(&mut self, at: SummaryAt) {
        let mut here = Some(at);
        while let Some((reached, batch)) = here.and_then(|a| Some((a, self.batches.get(&a)?))) {
            self.index.loaded(reached, &batch.entries, batch.next);
            here = batch.next.filter(|next| next.offset - at.offset < READ);
        }
        if !self.batches.contains_key(&at) {
            self.index.failed(at);
        }
    }

    /// Asks the index as the engine does; the answer is checked against what stands there.
    pub fn ask(&mut self, print: &Print) -> Option<u64> {
        for _ in 0..20 {
            match self.index.lookup(print) {
                Answer::Miss => return None,
                Answer::Pending(id) => {
                    assert!(self.open.contains(&(*print, id)), "pending {id} is not in the open batch");
                    return Some(id);
                }
                Answer::Hit(candidate) => match self.places.get(&candidate) {
                    Some(there) => {
                        assert_eq!(there, print, "{candidate:?} is another block");
                        return Some(candidate.id);
                    }
                    None => self.index.forget(print, candidate.id),
                },
                Answer::Fetch(at) => {
                    self.tally.fetches += 1;
                    self.read(at);
                }
            }
        }
        panic!("lookups of {print:?} do not end");
    }

    /// Writes the content called `n`; whether it was found.
    pub fn write(&mut self, n: u64) -> bool {
        let print = print(n);
        self.tally.writes += 1;
        while self.coming.front().is_some_and(|(due, _)| *due <= self.tally.writes) {
            let (_, at) = self.coming.pop_front().expect("it is there");
            self.read(at);
        }
        let duplicate = self.exact.contains_key(&print);
        let found = self.ask(&print).is_some();
        while let Some(at) = self.index.prefetch() {
            self.tally.prefetches += 1;
            self.coming.push_back((self.tally.writes + self.shape.delay as u64, at));
        }
        assert!(duplicate || !found, "found what was never written");
        self.tally.duplicates += u64::from(duplicate);
        self.tally.found += u64::from(found);
        if !found {
            self.store(print);
        }
        found
    }

    fn store(&mut self, print: Print) {
        let id = self.next_id;
        self.next_id += 1;
        *self.exact.entry(print).or_default() += 1;
        self.index.pending_insert(print, id);
        self.open.push((print, id));
        if self.open.len() as u64 >= self.size {
            self.close_batch();
        }
    }

    pub fn close_batch(&mut self) {
        if self.open.is_empty() {
            return;
        }
        self.size = self.rng.between(self.shape.batch.0, self.shape.batch.1);
        let mut offset = self.open.len() as u32 * 36 + 100;
        let lengths: Vec<u32> = self.open.iter().map(|_| self.rng.between(600, 3800) as u32).collect();
        let total = (offset + lengths.iter().sum::<u32>()).next_multiple_of(4096);
        if self.end.offset + total > self.shape.segment_size {
            let segment = self.fresh_segment();
            self.end = SummaryAt { segment, sequence: self.end.sequence + 1, offset: 0 };
        }
        let at = self.end;
        let mut entries = Vec::new();
        for ((print, id), length) in std::mem::take(&mut self.open).into_iter().zip(lengths) {
            let SummaryAt { segment, sequence, .. } = at;
            let place = Candidate { id, segment, sequence, offset: at.offset + offset };
            self.places.insert(place, print);
            entries.push(Entry { print, id, offset: at.offset + offset });
            offset += length;
        }
        self.end.offset += total;
        let next = (self.end.offset < self.shape.segment_size).then_some(self.end);
        self.index.insert(at, &entries);
        self.uses.entry((at.segment, at.sequence)).or_default().push(at);
        self.batches.insert(at, Batch { entries, next });
    }

    /// Frees a segment: what stood there is gone, and, where `told`, the index hears of it.
    pub fn free(&mut self, segment: u32, sequence: u64, told: bool) {
        for at in self.uses.remove(&(segment, sequence)).unwrap_or_default() {
            for e in self.batches.remove(&at).map(|b| b.entries).unwrap_or_default() {
                let place = Candidate { id: e.id, segment, sequence, offset: e.offset };
                if self.places.remove(&place).is_some() {
                    let copies = self.exact.get_mut(&e.print).expect("what is stored is counted");
                    *copies -= 1;
                    if *copies == 0 {
                        self.exact.remove(&e.print);
                    }
                }
            }
        }
        if told {
            self.index.forget_segment(segment, sequence);
        }
    }

    /// Moves what is live in a segment to the open end, as the cleaner does: same ids, new places.
    pub fn clean(&mut self, segment: u32, sequence: u64) {
        self.close_batch();
        if self.end.segment == segment {
            let fresh = self.fresh_segment();
            self.continue_in(fresh);
        }
        let moved: Vec<(Print, u64)> = self.uses[&(segment, sequence)]
            .iter()
            .flat_map(|at| &self.batches[at].entries)
            .filter(|e| {
                self.places.contains_key(&Candidate { id: e.id, segment, sequence, offset: e.offset })
            })
            .map(|e| (e.print, e.id))
            .collect();
        for piece in moved.chunks(self.shape.batch.1 as usize) {
            self.open = piece.to_vec();
            self.close_batch();
        }
        moved.iter().for_each(|(p, _)| *self.exact.entry(*p).or_default() += 1);
        self.free(segment, sequence, true);
    }

    /// A segment that was never used.
    pub fn fresh_segment(&mut self) -> u32 {
        self.next_segment += 1;
        self.next_segment - 1
    }

    /// The log goes on in `segment`, in a use that never was.
    pub fn continue_in(&mut self, segment: u32) {
        self.close_batch();
        let newest = self.uses.keys().map(|(_, s)| *s).max().unwrap_or(0).max(self.end.sequence);
        self.end = SummaryAt { segment, sequence: newest + 1, offset: 0 };
    }
}
