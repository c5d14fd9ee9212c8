//! The sampled table: from a few bits of a print to the page of the pool where its summary begins.
//!
//! Owns the layout: buckets of 64 bytes, one cache line, of seven entries of 9 bytes. Each print has two buckets, and goes to the
//! second only where the first is no longer nearly empty and the second is emptier: that fills the table to 85 % before anything to
//! speak of must go. A first bucket is marked when a print of it went to another, so that while the table is not full most looks
//! are at one cache line. It must never decide that a print is the one it
//! looks like, grow, or scan itself in one piece.

use crate::{Advise, Print};

/// Entries in a bucket.
const SLOTS: usize = 7;

/// Words in a bucket: one an entry (segment, page, tag), and one of marks (a byte each) with the mask of used entries on top, and
/// above it [`SPILT`].
const WORDS: usize = SLOTS + 1;

/// That a print whose first bucket this is went to its second. It stays.
const SPILT: u64 = 1 << 63;

/// Entries that a first bucket takes without a look at the second.
const OPEN: u32 = 3;

/// The highest level there is, and so the thinnest sample: one print in 2^15.
pub(crate) const MAX_LEVEL: u32 = 15;

type Bucket = [u64; WORDS];

/// What the table takes from a print. Prints are keyed hashes: their bits are even, and nobody outside can choose them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    first: u64,
    second: u32,
    tag: u16,
    /// How rare the print is: of 2^n prints one has a level of at least n.
    pub level: u32,
}

impl Key {
    pub fn of(print: &Print) -> Key {
        let (words, _) = print.as_chunks::<8>();
        let (a, b) = (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]));
        let level = ((b >> 16) as u16).trailing_zeros().min(MAX_LEVEL);
        Key { first: a, second: (b >> 32) as u32, tag: b as u16, level }
    }
}

/// What an entry points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub segment: u32,
    /// In the segment, in units of 4096 bytes.
    pub page: u16,
    /// The low four bits of the segment's sequence: most of what is stale shows by them.
    pub age: u8,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    bucket: usize,
    slot: usize,
}

pub(crate) struct Table {
    /// Zeroes from the system, so memory that was never needed is never taken.
    words: Vec<u64>,
    /// The first word on a cache line.
    skip: usize,
    buckets: usize,
    len: usize,
    advise: Advise,
}

impl Table {
    /// A table that takes at most `bytes`, and at least one bucket.
    pub fn new(bytes: usize, advise: Advise) -> Table {
        let buckets = (bytes / 64).saturating_sub(1).clamp(1, u32::MAX as usize);
        let words = vec![0u64; (buckets + 1) * WORDS];
        advise(words.as_ptr().cast(), words.len() * size_of::<u64>());
        let skip = words.as_ptr().align_offset(64).min(WORDS);
        Table { words, skip, buckets, len: 0, advise }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn capacity(&self) -> usize {
        self.buckets * SLOTS
    }

    pub fn buckets(&self) -> usize {
        self.buckets
    }

    pub fn memory_bytes(&self) -> usize {
        self.words.capacity() * 8
    }

    pub fn clear(&mut self) {
        // Given back first, so that there are never two.
        self.words = Vec::new();
        *self = Table::new((self.buckets + 1) * 64, self.advise);
    }

    fn bucket(&self, n: usize) -> &Bucket {
        &self.words[self.skip..].as_chunks::<WORDS>().0[n]
    }

    fn bucket_mut(&mut self, n: usize) -> &mut Bucket {
        &mut self.words[self.skip..].as_chunks_mut::<WORDS>().0[n]
    }

    fn homes(&self, key: &Key) -> [usize; 2] {
        let first = ((u128::from(key.first) * self.buckets as u128) >> 64) as usize;
        let second = ((u64::from(key.second) * self.buckets as u64) >> 32) as usize;
        [first, second]
    }

    /// The entries that look like `key`'s. Hardly ever more than one; two when a print was stored twice.
    pub fn matches(&self, key: &Key) -> impl Iterator<Item = (Spot, Pointer)> {
        let [first, second] = self.homes(key);
        let key = *key;
        let both = if first == second || !is_spilt(self.bucket(first)) { 1 } else { 2 };
        [first, second].into_iter().take(both).flat_map(move |n| {
            let bucket = self.bucket(n);
            (0..SLOTS)
                .filter(move |slot| is_used(bucket, *slot) && looks_like(bucket, *slot, &key))
                .map(move |slot| (Spot { bucket: n, slot }, pointer(bucket, slot)))
        })
    }

    /// A word of the first bucket of `key`: to have it fetched, nothing else.
    pub fn place(&self, key: &Key) -> &u64 {
        &self.bucket(self.homes(key)[0])[SLOTS]
    }

    /// As [`Table::place`] of the second bucket, where that is looked at as well.
    pub fn second_place(&self, key: &Key) -> Option<&u64> {
        let [first, second] = self.homes(key);
        is_spilt(self.bucket(first)).then(|| &self.bucket(second)[SLOTS])
    }

    /// Whether `a` and `b` cannot be told apart here, so that an entry for one answers for the other.
    pub fn confuses(&self, a: &Key, b: &Key) -> bool {
        let (x, y) = (self.homes(a), self.homes(b));
        a.tag == b.tag && a.level == b.level && x.iter().any(|n| y.contains(n))
    }

    /// Enters `key`, over an entry that looks like it, or into a free slot, or else over one that `worth` gives least for
    /// (0: useless). True when something of worth had to go.
    pub fn insert(&mut self, key: &Key, to: Pointer, worth: impl Fn(u32, Pointer) -> u32) -> bool {
        let alike = self.matches(key).next();
        if let Some((spot, _)) = alike {
            set(self.bucket_mut(spot.bucket), spot.slot, key, to);
            return false;
        }
        let homes = self.homes(key);
        let [first, second] = homes;
        let taken = |n: usize| used(self.bucket(n)).count_ones();
        let emptier = if taken(first) < OPEN || taken(first) <= taken(second) { first } else { second };
        if emptier != first {
            self.bucket_mut(first)[SLOTS] |= SPILT;
        }
        if let Some(slot) = (0..SLOTS).find(|slot| !is_used(self.bucket(emptier), *slot)) {
            set(self.bucket_mut(emptier), slot, key, to);
            self.len += 1;
            return false;
        }
        // Both are full: from a slot that the print chooses, so that no place in the bucket is favoured.
        let start = usize::from(key.tag) % SLOTS;
        let all = homes.into_iter().flat_map(|n| (0..SLOTS).map(move |i| (n, (start + i) % SLOTS)));
        let cost = |(n, slot): &(usize, usize)| {
            worth(level(self.bucket(*n), *slot), pointer(self.bucket(*n), *slot))
        };
        let (n, slot) = all.min_by_key(cost).expect("there are fourteen");
        let lost = cost(&(n, slot)) > 0;
        if n != first {
            self.bucket_mut(first)[SLOTS] |= SPILT;
        }
        set(self.bucket_mut(n), slot, key, to);
        lost
    }

    /// Removes the entry at `spot`, which `matches` gave.
    pub fn remove(&mut self, spot: Spot) {
        let bucket = self.bucket_mut(spot.bucket);
        if is_used(bucket, spot.slot) {
            bucket[SLOTS] &= !(1u64 << (56 + spot.slot));
            self.len -= 1;
        }
    }

    /// Drops the entries of bucket `n` that are not to be kept.
    pub fn sweep(&mut self, n: usize, keep: impl Fn(u32, Pointer) -> bool) {
        let bucket = self.bucket_mut(n);
        let mut dropped = 0;
        for slot in 0..SLOTS {
            if is_used(bucket, slot) && !keep(level(bucket, slot), pointer(bucket, slot)) {
                bucket[SLOTS] &= !(1u64 << (56 + slot));
                dropped += 1;
            }
        }
        self.len -= dropped;
    }
}

/// The mask of used entries.
fn used(bucket: &Bucket) -> u64 {
    (bucket[SLOTS] & !SPILT) >> 56
}

fn is_spilt(bucket: &Bucket) -> bool {
    bucket[SLOTS] & SPILT != 0
}

fn is_used(bucket: &Bucket, slot: usize) -> bool {
    used(bucket) >> slot & 1 == 1
}

/// Level and age of an entry, four bits each.
fn mark(bucket: &Bucket, slot: usize) -> u8 {
    (bucket[SLOTS] >> (8 * slot)) as u8
}

fn level(bucket: &Bucket, slot: usize) -> u32 {
    u32::from(mark(bucket, slot) >> 4)
}

fn looks_like(bucket: &Bucket, slot: usize, key: &Key) -> bool {
    bucket[slot] as u16 == key.tag && level(bucket, slot) == key.level
}

fn pointer(bucket: &Bucket, slot: usize) -> Pointer {
    let word = bucket[slot];
    Pointer { segment: (word >> 32) as u32, page: (word >> 16) as u16, age: mark(bucket, slot) & 15 }
}

fn set(bucket: &mut Bucket, slot: usize, key: &Key, to: Pointer) {
    bucket[slot] = u64::from(to.segment) << 32 | u64::from(to.page) << 16 | u64::from(key.tag);
    let mark = u64::from((key.level as u8) << 4 | to.age & 15);
    bucket[SLOTS] = bucket[SLOTS] & !(0xff << (8 * slot)) | mark << (8 * slot) | 1u64 << (56 + slot);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(n: u64) -> Print {
        let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut out = [0; 16];
        for half in out.chunks_mut(8) {
            x = (x ^ x >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ x >> 29).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^= x >> 32;
            half.copy_from_slice(&x.to_le_bytes());
        }
        out
    }

    fn to(n: u64) -> Pointer {
        Pointer { segment: (n * 7) as u32, page: n as u16, age: (n % 16) as u8 }
    }

    #[test]
    fn fills_to_where_thinning_begins_without_a_loss() {
        let mut table = Table::new(64 * 1001, |_, _| {});
        assert_eq!((table.buckets(), table.capacity()), (1000, 7000));
        let mut lost = 0;
        for n in 0..5950 {
            lost += u32::from(table.insert(&Key::of(&print(n)), to(n), |_, _| 1));
        }
        assert!(lost <= 20, "{lost} lost of 5950");
        let found =
            (0..5950).filter(|n| table.matches(&Key::of(&print(*n))).any(|(_, p)| p == to(*n))).count();
        assert!(found >= 5930, "{found} of 5950 found");
        let wrong = (7000..17000).filter(|n| table.matches(&Key::of(&print(*n))).next().is_some()).count();
        assert!(wrong < 15, "{wrong} of 10000 take it for another");
        assert!(table.memory_bytes() <= 64 * 1001);
    }

    #[test]
    fn one_bucket_answers_while_there_is_room() {
        let mut table = Table::new(64 * 1001, |_, _| {});
        let mut looked_twice = Vec::new();
        for n in 0..5950 {
            table.insert(&Key::of(&print(n)), to(n), |_, _| 1);
            if n % 1000 == 0 {
                let other = (10_000..11_000).map(print);
                looked_twice.push(other.filter(|p| table.second_place(&Key::of(p)).is_some()).count());
            }
        }
        // Of 1000 others, at a seventh, two sevenths, ... of what fits: 16, 130 and 300 or so.
        assert!(looked_twice[1] < 40 && looked_twice[2] < 180 && looked_twice[3] < 400, "{looked_twice:?}");
        assert!(looked_twice[5] > 300, "{looked_twice:?}");
        // What went to its second bucket is found there.
        let found = (0..5950).filter(|n| table.matches(&Key::of(&print(*n))).any(|(_, p)| p == to(*n)));
        assert!(found.count() >= 5930);
    }

    #[test]
    fn removes_and_sweeps() {
        let mut table = Table::new(6400, |_, _| {});
        for n in 0..400 {
            table.insert(&Key::of(&print(n)), to(n), |_, _| 1);
        }
        let before = table.len();
        let (spot, _) = table.matches(&Key::of(&print(5))).next().expect("it is there");
        table.remove(spot);
        table.remove(spot);
        assert_eq!(table.len(), before - 1);
        assert_eq!(table.matches(&Key::of(&print(5))).next(), None);
        for n in 0..table.buckets() {
            table.sweep(n, |level, _| level >= 1);
        }
        let left = (0..400).filter(|n| table.matches(&Key::of(&print(*n))).next().is_some()).count();
        assert_eq!(table.len(), left);
        assert!((150..250).contains(&left), "{left} of 400 have level 1 or more");
        table.clear();
        assert_eq!((table.len(), table.matches(&Key::of(&print(6))).next()), (0, None));
    }

    #[test]
    fn the_least_worth_goes_first() {
        let mut table = Table::new(128, |_, _| {});
        assert_eq!(table.buckets(), 1);
        let keys: Vec<Key> = (0..7).map(|n| Key::of(&print(n))).collect();
        for (n, key) in keys.iter().enumerate() {
            assert!(!table.insert(key, to(n as u64), |_, _| 1));
        }
        let worth = |_, p: Pointer| u32::from(p != to(3));
        assert!(!table.insert(&Key::of(&print(50)), to(50), worth), "what went was worth nothing");
        assert_eq!(table.matches(&keys[3]).next(), None);
        assert!(table.insert(&Key::of(&print(51)), to(51), worth));
        assert_eq!(table.len(), 7);
    }

    #[test]
    fn levels_are_halves_of_halves() {
        let levels: Vec<u32> = (0..64_000).map(|n| Key::of(&print(n)).level).collect();
        for (level, share) in [(1, 32_000), (3, 8_000), (5, 2_000)] {
            let n = levels.iter().filter(|l| **l >= level).count();
            assert!(n.abs_diff(share) < share / 10, "{n} of level {level}");
        }
    }
}
