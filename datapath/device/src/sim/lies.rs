//! What a device does that it must not: silent faults of operations, and damage to what is at rest.
//!
//! Owns the kinds and how each changes bytes. Whether a run may expect right data after them is for whoever tells the
//! device to lie: none of these is ever reported by it.

use super::Rng;
use super::disk::SimDisk;
use super::pages::PAGE;

/// Silent faults of operations, in cases of 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies {
    /// A write is acknowledged and not done.
    pub drop: u64,
    /// A write goes to another place, whose contents are lost, and not where it belongs.
    pub misdirect: u64,
    /// One bit of a write is flipped on its way.
    pub flip: u64,
    /// A write ends early, perhaps inside a sector, and is acknowledged as a whole.
    pub shear: u64,
    /// A sync is acknowledged and makes nothing durable.
    pub sync: u64,
    /// A read brings the bytes of another place.
    pub misread: u64,
    /// One bit of a read is flipped on its way.
    pub flip_read: u64,
}

impl Lies {
    /// Whether there are none.
    pub fn none(&self) -> bool {
        *self == Lies::default()
    }
}

/// What was chosen for one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    Drop,
    /// The first byte of the place it goes to, or comes from.
    Elsewhere(u64),
    /// The bit, counted from the operation's first byte.
    Flip(u64),
    /// How many bytes are done.
    Shear(usize),
    Sync,
}

/// Which kind of operation a lie is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Read,
    Write,
    Sync,
}

impl Lies {
    /// A lie about an operation on `len` bytes of a disk of `size` bytes, if there is to be one.
    pub(super) fn pick(&self, rng: &mut Rng, what: For, len: usize, size: u64, unit: u64) -> Option<Lie> {
        if self.none() || (len == 0 && what != For::Sync) {
            return None;
        }
        let elsewhere = |rng: &mut Rng| Lie::Elsewhere(rng.below((size - len as u64) / unit + 1) * unit);
        match what {
            For::Read if rng.per_mille(self.misread) => Some(elsewhere(rng)),
            For::Read if rng.per_mille(self.flip_read) => Some(Lie::Flip(rng.below(len as u64 * 8))),
            For::Write if rng.per_mille(self.drop) => Some(Lie::Drop),
            For::Write if rng.per_mille(self.misdirect) => Some(elsewhere(rng)),
            For::Write if rng.per_mille(self.flip) => Some(Lie::Flip(rng.below(len as u64 * 8))),
            For::Write if rng.per_mille(self.shear) => Some(Lie::Shear(rng.below(len as u64) as usize)),
            For::Sync if rng.per_mille(self.sync) => Some(Lie::Sync),
            _ => None,
        }
    }
}

/// Damage to contents at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit is flipped.
    Flip {
        /// Which byte.
        at: u64,
        /// Which bit of it, 0 to 7.
        bit: u8,
    },
    /// Two runs of bytes change places. They do not overlap.
    Swap {
        /// The first byte of one.
        a: u64,
        /// The first byte of the other.
        b: u64,
        /// Their length.
        len: u64,
    },
    /// Bytes become zero.
    Zero {
        /// The first.
        at: u64,
        /// How many.
        len: u64,
    },
    /// Bytes become noise.
    Noise {
        /// The first.
        at: u64,
        /// How many.
        len: u64,
        /// What the noise is made from.
        seed: u64,
    },
    /// A 4 KiB page gets contents back that it had once ([`SimDisk::remember`]).
    Stale {
        /// Which of the remembered, oldest first.
        index: usize,
    },
}

impl SimDisk {
    /// Some damage to what is written; `None` on an empty disk. It is not done yet.
    pub fn some_damage(&self, rng: &mut Rng) -> Option<Damage> {
        let pages = self.written_pages();
        let pick = |rng: &mut Rng| pages.get(rng.below(pages.len() as u64) as usize).copied();
        let page = pick(rng)?;
        let at = page * PAGE as u64;
        Some(match rng.below(8) {
            0..3 => Damage::Flip { at: at + rng.below(PAGE as u64), bit: rng.below(8) as u8 },
            3 => {
                let other = pick(rng)? * PAGE as u64;
                if other == at {
                    return None;
                }
                Damage::Swap { a: at, b: other, len: PAGE as u64 }
            }
            4 => Damage::Zero { at, len: PAGE as u64 },
            5 => Damage::Noise { at, len: PAGE as u64, seed: rng.below(u64::MAX) },
            _ => {
                let n = self.remembered();
                if n == 0 {
                    return None;
                }
                Damage::Stale { index: rng.below(n as u64) as usize }
            }
        })
    }

    /// Does the damage, durably.
    ///
    /// # Panics
    /// When it lies outside the disk.
    pub fn damage(&self, damage: Damage) {
        match damage {
            Damage::Flip { at, bit } => {
                let mut byte = self.peek(at, 1);
                byte[0] ^= 1 << (bit & 7);
                self.poke(at, &byte);
            }
            Damage::Swap { a, b, len } => {
                let (one, other) = (self.peek(a, len as usize), self.peek(b, len as usize));
                self.poke(a, &other);
                self.poke(b, &one);
            }
            Damage::Zero { at, len } => self.poke(at, &vec![0; len as usize]),
            Damage::Noise { at, len, seed } => {
                let mut rng = Rng::new(seed);
                let noise: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
                self.poke(at, &noise);
            }
            Damage::Stale { index } => {
                if let Some((page, bytes)) = self.old(index) {
                    self.poke(page * PAGE as u64, &bytes[..]);
                }
            }
        }
    }
}
