//! A simulated disk, rings, threads and clock: one seed decides everything, so a failing run replays exactly.
//!
//! The honest fault model ([`Faults`], [`SimDisk::crash`], [`SimDisk::kill`]). A disk is an array of sectors of a chosen
//! size, each written whole or not at all; nothing larger is atomic: operations under way advance some sectors at a time,
//! in any interleaving, and end in any order. An operation may move less than asked for, may be told EINTR before it began,
//! and a ring may be full. A write may meet ENOSPC, after a part of it was written; what is written of it then ends at a
//! multiple of 4 KiB, as with file systems of such blocks. What was written since the last sync is lost, kept, or any
//! mixture of both at a power failure, sector by sector; a sync covers what was written before it was submitted, and a
//! synchronous write itself. A process that is killed loses nothing that the device has taken. From a chosen operation on,
//! everything fails with EIO. Misaligned offsets, lengths or buffers get EINVAL, as O_DIRECT gives.
//!
//! The lying device ([`Lies`], [`Damage`]): writes that are acknowledged and dropped, put elsewhere, changed or cut short;
//! reads that bring other bytes; syncs that do nothing; and what changes at rest, old contents put back among it.
//!
//! Contents are kept by 4 KiB page, so memory goes with what was written. A [`Keep`] lets a disk forget what need not be
//! there, so that pools larger than memory can be simulated. Owns no thread, file or time of the system but a descriptor that
//! stands for the disk.

mod disk;
mod lies;
mod pages;
mod ring;
mod thread;
mod versions;

pub use disk::{Event, Faults, Image, Keep, SimDisk, Watch};
pub use lies::{Damage, Lies};
pub use thread::{Clock, SimThread};

/// A small generator of numbers that look random (xorshift64*).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// One for each seed; close seeds give unlike numbers.
    pub fn new(seed: u64) -> Rng {
        let mixed = (seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Rng((mixed ^ (mixed >> 29)) | 1)
    }

    /// 0 to `n` - 1; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % n.max(1)
    }

    /// True in `n` of 1000 cases. Draws nothing where `n` is 0.
    pub fn per_mille(&mut self, n: u64) -> bool {
        n > 0 && self.below(1000) < n
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
