//! Where things are: the pool, a spot in it, and the use of a segment that a nonce is made of.
//!
//! Owns the nonce of every record and header. It must never repeat one: a nonce is (segment sequence, offset), the
//! sequence is used by one use of one segment of one opening, and the offset by one sealed item of that use.

use crate::aead::NONCE;
use serde::{Serialize, Serializer};
use std::fmt;

/// Smallest segment in bytes (the simulator's).
pub const MIN_SEGMENT: u32 = 64 << 10;

/// Largest segment in bytes; offsets in a segment are below 2^28.
pub const MAX_SEGMENT: u32 = 128 << 20;

/// Whether a segment may be `size` bytes: a power of two from [`MIN_SEGMENT`] to [`MAX_SEGMENT`].
pub const fn segment_size_is_sound(size: u32) -> bool {
    size.is_power_of_two() && size >= MIN_SEGMENT && size <= MAX_SEGMENT
}

/// A pool's 128 random bits. Bound into every key and every sealed item, so that nothing of one pool authenticates in another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub [u8; 16]);

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            let dash = if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolId({self})")
    }
}

impl Serialize for PoolId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A byte of the pool, without saying in which use of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Spot {
    /// Segment number.
    pub segment: u32,
    /// Byte offset in the segment, below 2^28.
    pub offset: u32,
}

/// The place of one sealed item in one use of a segment: what its key and its nonce are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct At {
    /// The opening of the pool whose salt derives the key.
    pub opening: u32,
    /// The sequence of the segment's use, pool-wide and strictly growing.
    pub sequence: u64,
    /// Byte offset in the segment of the first sealed byte.
    pub offset: u32,
}

impl At {
    /// The nonce: sequence, then offset, both little-endian.
    #[inline]
    pub fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        nonce[..8].copy_from_slice(&self.sequence.to_le_bytes());
        nonce[8..].copy_from_slice(&self.offset.to_le_bytes());
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_sequence_then_offset() {
        let at = At { opening: 9, sequence: 0x0102_0304_0506_0708, offset: 0x0a0b_0c0d };
        assert_eq!(at.nonce(), [8, 7, 6, 5, 4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a]);
    }

    #[test]
    fn pools_are_shown_as_uuids() {
        let pool = PoolId(std::array::from_fn(|i| i as u8));
        assert_eq!(pool.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(format!("{pool:?}"), "PoolId(00010203-0405-0607-0809-0a0b0c0d0e0f)");
    }

    #[test]
    fn segments_are_powers_of_two_in_bounds() {
        for good in [1 << 16, 1 << 20, 1 << 27] {
            assert!(segment_size_is_sound(good));
        }
        for bad in [0, 1 << 15, (1 << 16) + 1, 3 << 20, 1 << 28, u32::MAX] {
            assert!(!segment_size_is_sound(bad));
        }
    }
}
