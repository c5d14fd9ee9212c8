//! Blocks of which some sectors are marked: which ones, and the bytes of the others.
//!
//! Owns the stored form of such a block and the arithmetic on its marks. It must never keep a byte of a marked sector, nor
//! stand for a block of which no sector, or each, is marked: the first is stored as others are, the second is not stored at all.

use crate::{BLOCK, CodecError};
use std::ops::{BitOr, Range};

/// The unit of marks, in bytes: the smallest logical block that there is.
pub const SECTOR: usize = 512;

/// Sectors of a block.
const SECTORS: usize = BLOCK / SECTOR;

/// The longest stored form in bytes: one sector is marked.
pub const MAX_MARKED: usize = 1 + BLOCK - SECTOR;

/// Which sectors of a block are marked: nobody may read them until they are written again. Bit `i` stands for the 512 bytes
/// from `512 i` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks(u8);

impl Marks {
    /// No sector is marked.
    pub const NONE: Marks = Marks(0);
    /// Every sector is marked.
    pub const ALL: Marks = Marks(u8::MAX);

    /// The sectors that those bytes of a block touch; an empty range touches none.
    pub const fn of(bytes: Range<usize>) -> Marks {
        if bytes.start >= bytes.end || bytes.start >= BLOCK {
            return Marks::NONE;
        }
        let (first, last) = (bytes.start / SECTOR, (bytes.end - 1) / SECTOR);
        let upto = if last + 1 >= SECTORS { u8::MAX } else { (1 << (last + 1)) - 1 };
        Marks(upto & u8::MAX << first)
    }

    /// Whether none is marked.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether each is marked.
    pub const fn is_all(self) -> bool {
        self.0 == u8::MAX
    }

    /// Those that are in `others`, too.
    pub const fn within(self, others: Marks) -> Marks {
        Marks(self.0 & others.0)
    }

    /// Those that are not in `others`.
    pub const fn without(self, others: Marks) -> Marks {
        Marks(self.0 & !others.0)
    }

    /// The first marked byte of the block.
    pub const fn first(self) -> Option<usize> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() as usize * SECTOR) }
    }

    fn has(self, sector: usize) -> bool {
        self.0 & 1 << sector != 0
    }

    /// Appends the stored form of `block` to `out`: a byte of marks, and the sectors that have none, in their order.
    pub fn pack(self, block: &[u8; BLOCK], out: &mut Vec<u8>) {
        debug_assert!(!self.is_none() && !self.is_all(), "{self:?} is not stored like this");
        out.push(self.0);
        let (sectors, _) = block.as_chunks::<SECTOR>();
        let whole = sectors.iter().enumerate().filter(|(i, _)| !self.has(*i));
        whole.for_each(|(_, sector)| out.extend_from_slice(sector));
    }

    /// Makes a block of `stored`, what [`Marks::pack`] gave, with zeroes where it is marked.
    ///
    /// # Errors
    /// [`CodecError::Marks`], with `out` as it was.
    pub fn unpack(stored: &[u8], out: &mut [u8; BLOCK]) -> Result<Marks, CodecError> {
        let length = stored.len();
        let (marks, mut rest) = match stored.split_first() {
            Some((marks, rest)) => (Marks(*marks), rest),
            None => return Err(CodecError::Marks { marks: 0, length }),
        };
        let whole = marks.0.count_zeros() as usize * SECTOR;
        if marks.is_none() || marks.is_all() || rest.len() != whole {
            return Err(CodecError::Marks { marks: marks.0, length });
        }
        let (sectors, _) = out.as_chunks_mut::<SECTOR>();
        for (i, sector) in sectors.iter_mut().enumerate() {
            match rest.split_first_chunk() {
                Some((bytes, more)) if !marks.has(i) => (*sector, rest) = (*bytes, more),
                _ => sector.fill(0),
            }
        }
        Ok(marks)
    }
}

impl BitOr for Marks {
    type Output = Marks;

    fn bitor(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mark_what_they_touch() {
        assert_eq!(Marks::of(0..BLOCK), Marks::ALL);
        assert_eq!(Marks::of(0..1), Marks(1));
        assert_eq!(Marks::of(511..513), Marks(3));
        assert_eq!(Marks::of(3584..4096), Marks(0x80));
        assert_eq!(Marks::of(512..1536), Marks(6));
        for at in [0, 512, 4096] {
            assert_eq!(Marks::of(at..at), Marks::NONE);
        }
        assert_eq!(Marks(0b1100).first(), Some(1024));
        assert_eq!(Marks::NONE.first(), None);
        assert_eq!(Marks(6).without(Marks(2)) | Marks(1), Marks(5));
        assert_eq!(Marks(6).within(Marks(3)), Marks(2));
    }

    #[test]
    fn all_marks_come_back_and_nothing_of_what_is_marked() {
        let block: [u8; BLOCK] = std::array::from_fn(|i| (i / SECTOR + 1) as u8);
        for bits in 1..u8::MAX {
            let mut stored = Vec::new();
            Marks(bits).pack(&block, &mut stored);
            assert_eq!(stored.len(), 1 + bits.count_zeros() as usize * SECTOR);
            assert!((0..SECTORS).all(|i| stored[1..].contains(&(i as u8 + 1)) != Marks(bits).has(i)));
            let mut out = [0xa5; BLOCK];
            assert_eq!(Marks::unpack(&stored, &mut out), Ok(Marks(bits)));
            for (i, sector) in out.chunks(SECTOR).enumerate() {
                let want = if Marks(bits).has(i) { 0 } else { i as u8 + 1 };
                assert!(sector.iter().all(|b| *b == want), "{bits:08b}, sector {i}");
            }
        }
    }

    #[test]
    fn other_bytes_are_no_such_block() {
        let mut out = [7; BLOCK];
        let mut refused = |stored: &[u8]| {
            assert!(matches!(Marks::unpack(stored, &mut out), Err(CodecError::Marks { .. })), "{stored:?}");
            assert!(out == [7; BLOCK]);
        };
        refused(&[]);
        // No sector, and each.
        refused(&[[0].as_slice(), &[1; BLOCK]].concat());
        refused(&[u8::MAX]);
        // One byte too few, and one too many.
        refused(&[[0xfe].as_slice(), &[1; SECTOR - 1]].concat());
        refused(&[[0xfe].as_slice(), &[1; SECTOR + 1]].concat());
    }
}
