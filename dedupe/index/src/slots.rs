//! An open-addressing table from 32-bit hashes to small numbers, of a fixed size.
//!
//! Owns linear probing with removal by shifting back, so that no marks of removed entries pile up. What the numbers mean, and
//! whether a found one is the right one, its users know. It must never grow.

use crate::Advise;

/// A table of `hash << 32 | value + 1` words; 0 is empty.
pub(crate) struct Slots {
    words: Vec<u64>,
    len: usize,
    advise: Advise,
}

impl Slots {
    /// Memory for each entry that fits, in bytes: eight, at two thirds full.
    pub const ENTRY_BYTES: usize = 12;

    /// A table for at most `capacity` entries.
    pub fn new(capacity: usize, advise: Advise) -> Slots {
        let words = vec![0u64; capacity + capacity / 2 + 1];
        advise(words.as_ptr().cast(), words.len() * size_of::<u64>());
        Slots { words, len: 0, advise }
    }

    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.words.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.words.len() { 0 } else { at + 1 }
    }

    /// The first value under `hash` for which `is_it` holds.
    pub fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.position(hash, &mut is_it).map(|at| value(self.words[at]))
    }

    /// The word that a look for `hash` begins with: to have it fetched, nothing else.
    pub fn place(&self, hash: u32) -> &u64 {
        &self.words[self.home(hash)]
    }

    fn position(&self, hash: u32, is_it: &mut impl FnMut(u32) -> bool) -> Option<usize> {
        let mut at = self.home(hash);
        while self.words[at] != 0 {
            if hash_of(self.words[at]) == hash && is_it(value(self.words[at])) {
                return Some(at);
            }
            at = self.after(at);
        }
        None
    }

    /// Adds `value` under `hash`.
    ///
    /// # Panics
    /// When the table is full: its users never hold more than they asked for.
    pub fn insert(&mut self, hash: u32, value: u32) {
        assert!(self.len + 1 < self.words.len(), "no more entries than the table was made for");
        let mut at = self.home(hash);
        while self.words[at] != 0 {
            at = self.after(at);
        }
        self.words[at] = u64::from(hash) << 32 | (u64::from(value) + 1);
        self.len += 1;
    }

    /// Puts `to` in the place of `from` under `hash`; false where it is not there.
    pub fn replace(&mut self, hash: u32, from: u32, to: u32) -> bool {
        let Some(at) = self.position(hash, &mut |v| v == from) else { return false };
        self.words[at] = u64::from(hash) << 32 | (u64::from(to) + 1);
        true
    }

    /// Removes `value` under `hash`; false where it is not there.
    pub fn remove(&mut self, hash: u32, value: u32) -> bool {
        let Some(mut hole) = self.position(hash, &mut |v| v == value) else { return false };
        let mut at = self.after(hole);
        while self.words[at] != 0 {
            // An entry may move into the hole when the hole is not before its home, going round.
            let home = self.home(hash_of(self.words[at]));
            let n = self.words.len();
            if (at + n - home) % n >= (at + n - hole) % n {
                self.words[hole] = self.words[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.words[hole] = 0;
        self.len -= 1;
        true
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn clear(&mut self) {
        // Given back first, so that there are never two.
        let words = self.words.len();
        self.words = Vec::new();
        self.words = vec![0; words];
        (self.advise)(self.words.as_ptr().cast(), words * size_of::<u64>());
        self.len = 0;
    }

    pub fn memory_bytes(&self) -> usize {
        self.words.capacity() * 8
    }
}

fn hash_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The low half is the value and one, so it is never 0 in a word that is in use.
fn value(word: u64) -> u32 {
    (word as u32).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a list, with hashes that collide and wrap round.
        #[test]
        fn does_what_a_list_does(ops in proptest::collection::vec((0u8..3, any::<u8>(), 0u32..6), 1..300)) {
            let mut slots = Slots::new(40, |_, _| {});
            let mut list: Vec<(u32, u32)> = Vec::new();
            for (op, h, v) in ops {
                let hash = u32::from(h & 0x8f) << 24 | 0xff_ffff;
                let there = list.iter().position(|e| *e == (hash, v));
                match op {
                    0 if there.is_none() && list.len() < 40 => {
                        slots.insert(hash, v);
                        list.push((hash, v));
                    }
                    1 => {
                        prop_assert_eq!(slots.remove(hash, v), there.is_some());
                        if let Some(at) = there {
                            list.swap_remove(at);
                        }
                    }
                    2 => {
                        let free = !list.contains(&(hash, v + 100));
                        if free {
                            prop_assert_eq!(slots.replace(hash, v, v + 100), there.is_some());
                            if let Some(at) = there {
                                list[at].1 = v + 100;
                            }
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(slots.len(), list.len());
                for (hash, v) in &list {
                    prop_assert_eq!(slots.find(*hash, |x| x == *v), Some(*v));
                }
                prop_assert_eq!(slots.find(hash, |x| x == 999), None);
            }
        }
    }
}
