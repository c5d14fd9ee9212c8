//! What is written to blocks: contents that say what they are, so that whatever is read back is recognised or is wrong.
//!
//! A content is a number. Its class, in the highest bits, decides how its bytes look to compression and deduplication; the
//! bytes of a block follow from the number and from where in its 4 KiB the block lies, and from nothing else, so that equal
//! numbers give duplicates.

use caisson_device::sim::Rng;

/// The content of a block that was never written.
pub const ZERO: u64 = 0;

/// Stands for a block that cannot be read.
pub const UNREADABLE: u64 = u64::MAX;

/// How a content looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// All zero.
    Zero,
    /// One word over and over.
    Pattern,
    /// Compresses to about a tenth.
    Text,
    /// Compresses to about a half.
    Mixed,
    /// Does not compress.
    Noise,
}

const CLASS: u32 = 60;

/// The class of a content.
pub fn class(content: u64) -> Class {
    match content >> CLASS {
        0 => Class::Zero,
        1 => Class::Pattern,
        2 => Class::Text,
        3 => Class::Mixed,
        _ => Class::Noise,
    }
}

fn of(class: u64, serial: u64) -> u64 {
    class << CLASS | (serial + 1) & ((1 << CLASS) - 1)
}

/// Chooses contents.
#[derive(Clone, Debug)]
pub struct Chooser {
    /// Contents that are not meant to be duplicates count from here.
    serial: u64,
    /// How many contents duplicates are taken from.
    pub pool: u64,
    /// Cases of 1000 that are taken from them.
    pub duplicates: u64,
    /// Cases of 1000 that are zero.
    pub zeroes: u64,
    /// Cases of 1000 that do not compress, of the rest.
    pub noise: u64,
}

impl Chooser {
    /// With proportions of its own.
    pub fn new(rng: &mut Rng) -> Chooser {
        Chooser {
            serial: 1 << 20,
            pool: 1 + rng.below(40),
            duplicates: rng.below(700),
            zeroes: rng.below(150),
            noise: rng.below(1000),
        }
    }

    /// The next content.
    pub fn next(&mut self, rng: &mut Rng) -> u64 {
        if rng.per_mille(self.zeroes) {
            return ZERO;
        }
        let serial = if rng.per_mille(self.duplicates) {
            // Few of them come often.
            let n = rng.below(self.pool);
            rng.below(n + 1)
        } else {
            self.serial += 1;
            self.serial
        };
        let class = if serial < self.pool {
            1 + serial % 4
        } else if rng.per_mille(self.noise) {
            4
        } else {
            1 + rng.below(3)
        };
        of(class, serial)
    }
}

/// Fills `block` with `content`. `slot` is its place in its 4 KiB, in blocks.
pub fn fill(content: u64, slot: u64, block: &mut [u8]) {
    let (words, _) = block.as_chunks_mut::<8>();
    match class(content) {
        Class::Zero => words.fill([0; 8]),
        Class::Pattern => words.fill(content.to_le_bytes()),
        class => {
            let mut x =
                content.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ (slot + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = x.max(1);
            for (i, word) in words.iter_mut().enumerate() {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let w = match class {
                    Class::Text if i % 16 != 2 => 0x2065_6874_2074_6f6e,
                    Class::Mixed if i % 2 != 0 => x & 0x000f_0000_00ff_0000,
                    _ => x.wrapping_mul(0x2545_F491_4F6C_DD1D),
                };
                *word = w.to_le_bytes();
            }
            words[0] = content.to_le_bytes();
            words[1] = slot.to_le_bytes();
        }
    }
}

/// The content that fills `block`, whole; `None` when it is none, or not of this slot.
pub fn recognise(block: &[u8], slot: u64) -> Option<u64> {
    let content = u64::from_le_bytes(*block.first_chunk()?);
    if class(content) == Class::Zero && content != 0 || content == UNREADABLE {
        return None;
    }
    let mut expected = [0; 4096];
    let expected = &mut expected[..block.len()];
    fill(content, slot, expected);
    (expected == block).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_recognised_whole_and_in_place() {
        let mut rng = Rng::new(7);
        let mut chooser = Chooser::new(&mut rng);
        for i in 0..2000u64 {
            let content = chooser.next(&mut rng);
            let len = if i % 2 == 0 { 4096 } else { 512 };
            let mut block = vec![0; len];
            fill(content, i % 8, &mut block);
            assert_eq!(recognise(&block, i % 8), Some(content));
            let placeless = matches!(class(content), Class::Zero | Class::Pattern);
            assert_eq!(recognise(&block, (i + 1) % 8) == Some(content), placeless);
            let at = rng.below(len as u64) as usize;
            block[at] ^= 1;
            assert_eq!(recognise(&block, i % 8), None);
        }
    }
}
