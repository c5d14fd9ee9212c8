//! What is written where it is not verified but is to be deduplicated and compressed: blocks of which a stated share are
//! copies of earlier ones, and which shrink about as far as stated.
//!
//! Made cheaply, so that the generator is no bottleneck: the memory of every command is filled once, and each write only
//! stamps a number into the front of each of its 4 KiB. A stamp never used before makes a new block, an earlier one a
//! copy. It must never touch memory that is still being sent.

use super::workload::Random;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of what is alike or not.
pub const UNIT: usize = 4096;
/// Different fillings: so many that neither caches nor branch predictors of who compresses them know each by heart.
const FILLINGS: usize = 64;
/// Units of one filling among which copies choose their original: the last ones that were new, so that most of them are
/// still there though writes go on. With [`FILLINGS`] that is up to 16 MiB a connection.
const RECENT: u64 = 64;
/// Percent: nothing is new.
const ALL: u32 = 100;
/// Bytes of a filling after which noise and repeats begin again.
const STRIDE: usize = 512;

/// The contents of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Percent of the units that are copies of earlier ones. With 100, every run writes the same few thousand units over and over,
    /// so that those are new once, and nothing is from then on.
    pub duplicates: u32,
    /// About how far each shrinks: 1 (not at all) to 64.
    pub ratio: u32,
}

/// Makes the units of one connection.
#[derive(Debug)]
pub struct Maker {
    content: Content,
    rng: Random,
    /// The first stamp of this run, and how many each filling has had.
    base: u64,
    made: [u64; FILLINGS],
}

impl Maker {
    /// Fills `memory`, which commands will write from, each beginning at a multiple of its length. The same seed makes
    /// the same choices, but other stamps: a run that wrote what the one before it wrote would only write copies.
    pub fn new(content: Content, memory: &mut [u8], seed: u64) -> Maker {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
        let (fillings, base) = match content.duplicates {
            ALL => (0, 0),
            _ => (seed.wrapping_mul(FILLINGS as u64), now << 8),
        };
        for (at, unit) in memory.chunks_mut(UNIT).enumerate() {
            fill(unit, content.ratio, fillings.wrapping_add((at % FILLINGS) as u64));
        }
        Maker { content, rng: Random::new(seed), base, made: [0; FILLINGS] }
    }

    /// Makes new units and copies of what is about to be written: `data`, which begins `at` bytes into the memory.
    #[inline]
    pub fn stamp(&mut self, data: &mut [u8], at: u64) {
        let first = at as usize / UNIT;
        for (i, unit) in data.chunks_mut(UNIT).enumerate() {
            let made = &mut self.made[(first + i) % FILLINGS];
            let copy = *made > 0 && self.rng.below(100) < u64::from(self.content.duplicates);
            let number = if self.content.duplicates == ALL {
                self.rng.below(RECENT)
            } else if copy {
                *made - 1 - self.rng.below((*made).min(RECENT))
            } else {
                *made += 1;
                *made - 1
            };
            // Odd, so that no two numbers give the same stamp; and so that it looks like noise.
            let stamp = self.base.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if let Some(front) = unit.first_chunk_mut() {
                *front = stamp.to_le_bytes();
            }
        }
    }
}

/// Noise and repeats of its last word in turn, as text has words and gaps: noise alone does not shrink.
fn fill(unit: &mut [u8], ratio: u32, seed: u64) {
    let noise = (STRIDE / ratio.max(1) as usize).max(8);
    let mut rng = Random::new(seed);
    let mut word = rng.draw();
    for (i, bytes) in unit.chunks_mut(8).enumerate() {
        if i * 8 % STRIDE < noise {
            word = rng.draw();
        }
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The units of 400 writes of 128 KiB from four slots.
    fn units(content: Content) -> Vec<Vec<u8>> {
        const COMMAND: usize = 128 << 10;
        let mut memory = vec![0; 4 * COMMAND];
        let mut maker = Maker::new(content, &mut memory, 7);
        let mut all = Vec::new();
        for n in 0..400 {
            let at = n % 4 * COMMAND;
            let data = &mut memory[at..at + COMMAND];
            maker.stamp(data, at as u64);
            all.extend(data.chunks(UNIT).map(<[u8]>::to_vec));
        }
        all
    }

    #[test]
    fn as_many_are_copies_as_was_asked_for() {
        for duplicates in [0, 50, 90] {
            let all = units(Content { duplicates, ratio: 2 });
            let distinct: HashSet<&Vec<u8>> = all.iter().collect();
            let copies = 100 - distinct.len() * 100 / all.len();
            assert!(copies.abs_diff(duplicates as usize) <= 2, "{copies} instead of {duplicates}");
        }
    }

    #[test]
    fn a_second_run_writes_other_blocks() {
        let content = Content { duplicates: 0, ratio: 1 };
        let first: HashSet<Vec<u8>> = units(content).into_iter().collect();
        assert!(units(content).iter().all(|unit| !first.contains(unit)));
    }

    #[test]
    fn where_all_are_copies_a_second_run_writes_nothing_new() {
        let content = Content { duplicates: 100, ratio: 2 };
        let first: HashSet<Vec<u8>> = units(content).into_iter().collect();
        assert!(first.len() <= FILLINGS * RECENT as usize && first.len() > FILLINGS * RECENT as usize / 2);
        let second = units(content);
        let new = second.iter().filter(|unit| !first.contains(*unit)).count();
        // Those that the first happened not to choose.
        assert!(new <= second.len() / 8, "{new} of {}", second.len());
    }

    #[test]
    fn noise_makes_up_its_share() {
        for ratio in [1, 2, 4] {
            let unit = &units(Content { duplicates: 0, ratio })[0];
            let words: Vec<&[u8]> = unit.chunks(8).collect();
            let repeats = words.windows(2).filter(|w| w[0] == w[1]).count();
            assert!(repeats.abs_diff(512 - 512 / ratio as usize) <= 16, "{repeats} at {ratio}");
        }
    }
}
