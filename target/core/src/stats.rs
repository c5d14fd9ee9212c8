//! I/O counts, bytes and latencies: written by one thread a block, read by any.
//!
//! A queue has one [`IoStats`] for each namespace that it has used, made at the first command. Only the queue's own
//! thread writes it, with plain relaxed stores, so that counting costs no locked instruction; readers may see a sum that
//! is a command old.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What an I/O command did, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpClass {
    /// Read.
    Read = 0,
    /// Write.
    Write = 1,
    /// Flush.
    Flush = 2,
    /// Write Zeroes.
    WriteZeroes = 3,
    /// Dataset Management.
    Deallocate = 4,
    /// Compare, alone or fused.
    Compare = 5,
    /// Verify.
    Verify = 6,
    /// Write Uncorrectable.
    WriteUncorrectable = 7,
    /// Copy.
    Copy = 8,
}

/// How many classes there are.
pub const OP_CLASSES: usize = 9;

impl OpClass {
    /// Every class, in the order of its index.
    pub const ALL: [OpClass; OP_CLASSES] = [
        OpClass::Read,
        OpClass::Write,
        OpClass::Flush,
        OpClass::WriteZeroes,
        OpClass::Deallocate,
        OpClass::Compare,
        OpClass::Verify,
        OpClass::WriteUncorrectable,
        OpClass::Copy,
    ];

    /// A word for metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            OpClass::Read => "read",
            OpClass::Write => "write",
            OpClass::Flush => "flush",
            OpClass::WriteZeroes => "write_zeroes",
            OpClass::Deallocate => "deallocate",
            OpClass::Compare => "compare",
            OpClass::Verify => "verify",
            OpClass::WriteUncorrectable => "write_uncorrectable",
            OpClass::Copy => "copy",
        }
    }

    /// Which latency histogram it goes to: 0 read, 1 write, 2 everything else.
    fn histogram(self) -> usize {
        (self as usize).min(2)
    }
}

/// Buckets of a latency histogram: four for each doubling from 1,024 ns to about 17 s, and one below.
pub const BUCKETS: usize = 97;
/// Histograms: read, write, other.
pub const HISTOGRAMS: usize = 3;

/// The bucket that `ns` falls in.
#[inline]
pub fn bucket_of(ns: u64) -> usize {
    if ns < 1024 {
        return 0;
    }
    let octave = 63 - ns.leading_zeros() as usize;
    let quarter = (ns >> (octave - 2)) as usize & 3;
    (1 + (octave - 10) * 4 + quarter).min(BUCKETS - 1)
}

/// The exclusive upper bound of `bucket` in nanoseconds; `None` for the last, which has none.
pub fn bucket_end(bucket: usize) -> Option<u64> {
    match bucket {
        0 => Some(1024),
        b if b < BUCKETS - 1 => {
            let (octave, quarter) = (10 + (b - 1) / 4, ((b - 1) % 4) as u64);
            Some((5 + quarter) << (octave - 2))
        }
        _ => None,
    }
}

/// Counters of one queue on one namespace. Written by the queue's thread only.
pub struct IoStats {
    ops: [AtomicU64; OP_CLASSES],
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    bytes_checked: AtomicU64,
    bytes_copied: AtomicU64,
    errors: AtomicU64,
    latency_sum: [AtomicU64; HISTOGRAMS],
    latency: [[AtomicU64; BUCKETS]; HISTOGRAMS],
}

/// A sum of [`IoStats`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Commands that succeeded, by [`OpClass`].
    pub ops: [u64; OP_CLASSES],
    /// Bytes that hosts read.
    pub bytes_read: u64,
    /// Bytes that hosts wrote.
    pub bytes_written: u64,
    /// Bytes that Compare and Verify read for hosts.
    pub bytes_checked: u64,
    /// Bytes that Copy wrote for hosts.
    pub bytes_copied: u64,
    /// Commands that the volume failed.
    pub errors: u64,
    /// Sums of the latencies in nanoseconds: read, write, other.
    pub latency_sum: [u64; HISTOGRAMS],
    /// Latency histograms: read, write, other; see [`bucket_end`].
    pub latency: [[u64; BUCKETS]; HISTOGRAMS],
}

impl Default for Totals {
    fn default() -> Totals {
        Totals {
            ops: [0; OP_CLASSES],
            bytes_read: 0,
            bytes_written: 0,
            bytes_checked: 0,
            bytes_copied: 0,
            errors: 0,
            latency_sum: [0; HISTOGRAMS],
            latency: [[0; BUCKETS]; HISTOGRAMS],
        }
    }
}

/// Adds without a locked instruction: there is one writer.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl Default for IoStats {
    fn default() -> IoStats {
        IoStats {
            ops: [const { AtomicU64::new(0) }; OP_CLASSES],
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            bytes_checked: AtomicU64::new(0),
            bytes_copied: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            latency_sum: [const { AtomicU64::new(0) }; HISTOGRAMS],
            latency: [const { [const { AtomicU64::new(0) }; BUCKETS] }; HISTOGRAMS],
        }
    }
}

impl IoStats {
    /// Counts a command that succeeded after `ns` nanoseconds and moved `bytes`.
    #[inline]
    pub(crate) fn done(&self, class: OpClass, bytes: u64, ns: u64) {
        bump(&self.ops[class as usize], 1);
        match class {
            OpClass::Read => bump(&self.bytes_read, bytes),
            OpClass::Write => bump(&self.bytes_written, bytes),
            OpClass::Compare | OpClass::Verify => bump(&self.bytes_checked, bytes),
            OpClass::Copy => bump(&self.bytes_copied, bytes),
            _ => {}
        }
        let h = class.histogram();
        bump(&self.latency_sum[h], ns);
        bump(&self.latency[h][bucket_of(ns)], 1);
    }

    /// Counts a command that failed.
    pub(crate) fn failed(&self) {
        bump(&self.errors, 1);
    }

    /// Adds what it holds to `sum`.
    pub(crate) fn add_to(&self, sum: &mut Totals) {
        for (to, from) in sum.ops.iter_mut().zip(&self.ops) {
            *to += from.load(Relaxed);
        }
        sum.bytes_read += self.bytes_read.load(Relaxed);
        sum.bytes_written += self.bytes_written.load(Relaxed);
        sum.bytes_checked += self.bytes_checked.load(Relaxed);
        sum.bytes_copied += self.bytes_copied.load(Relaxed);
        sum.errors += self.errors.load(Relaxed);
        for h in 0..HISTOGRAMS {
            sum.latency_sum[h] += self.latency_sum[h].load(Relaxed);
            for (to, from) in sum.latency[h].iter_mut().zip(&self.latency[h]) {
                *to += from.load(Relaxed);
            }
        }
    }
}

impl Totals {
    /// Adds `other` to it.
    pub fn add(&mut self, other: &Totals) {
        for (to, from) in self.ops.iter_mut().zip(&other.ops) {
            *to += from;
        }
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.bytes_checked += other.bytes_checked;
        self.bytes_copied += other.bytes_copied;
        self.errors += other.errors;
        for h in 0..HISTOGRAMS {
            self.latency_sum[h] += other.latency_sum[h];
            for (to, from) in self.latency[h].iter_mut().zip(&other.latency[h]) {
                *to += from;
            }
        }
    }

    /// Commands of `class` that succeeded.
    pub fn count(&self, class: OpClass) -> u64 {
        self.ops[class as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_line() {
        let mut start = 0u64;
        for b in 0..BUCKETS {
            assert_eq!(bucket_of(start), b);
            let Some(end) = bucket_end(b) else { break };
            assert_eq!(bucket_of(end - 1), b, "the last of bucket {b}");
            assert!(end > start);
            start = end;
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }
}
