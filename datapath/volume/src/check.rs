//! Checks of addresses that every volume makes before it does anything.

use caisson_block::{BlockError, BufList, Extent};

/// A run of blocks that lies inside the volume, in bytes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The run in blocks.
    pub at: Extent,
    /// First byte.
    pub from: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The most bytes that one read, write or compare moves: what fits the buffers' lengths, and far more than any
/// controller lets through.
pub const MAX_TRANSFER: u64 = 256 << 20;

/// The shape that addresses are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// log2 of the logical block size.
    pub shift: u32,
    /// Size in logical blocks.
    pub blocks: u64,
}

impl Shape {
    /// `at`, if it lies inside. A size in bytes fits 64 bits, so nothing overflows after that.
    #[inline]
    pub fn run(self, at: Extent) -> Result<Run, BlockError> {
        if !at.within(self.blocks) {
            return Err(BlockError::OutOfRange { lba: at.lba });
        }
        Ok(Run { at, from: at.lba << self.shift, len: at.blocks << self.shift })
    }

    /// `at`, if it lies inside and is not more than one command may move.
    #[inline]
    pub fn transfer(self, at: Extent) -> Result<Run, BlockError> {
        let run = self.run(at)?;
        if run.len > MAX_TRANSFER { Err(BlockError::Unsupported) } else { Ok(run) }
    }

    /// `at`, if it lies inside and `data` is as long. The caller of the volume has checked the latter; that no byte
    /// beside the run is touched does not depend on it.
    #[inline]
    pub fn with_data(self, at: Extent, data: &BufList) -> Result<Run, BlockError> {
        let run = self.transfer(at)?;
        if data.len() as u64 == run.len { Ok(run) } else { Err(BlockError::Unsupported) }
    }

    /// All sources of a copy, and its destination.
    pub fn copy(self, to: u64, from: &[Extent]) -> Result<Run, BlockError> {
        let mut total = 0u64;
        for source in from {
            self.run(*source)?;
            total = total.checked_add(source.blocks).ok_or(BlockError::OutOfRange { lba: to })?;
        }
        self.run(Extent { lba: to, blocks: total })
    }

    /// The block that the byte `at` of a run belongs to.
    pub fn lba_of(self, run: Run, at: u64) -> u64 {
        run.at.lba + (at >> self.shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes() {
        let s = Shape { shift: 9, blocks: 100 };
        let at = |lba, blocks| s.run(Extent { lba, blocks });
        assert_eq!(at(99, 1), Ok(Run { at: Extent { lba: 99, blocks: 1 }, from: 99 * 512, len: 512 }));
        assert!(at(100, 0).is_ok() && at(0, 0).is_ok());
        for (lba, blocks) in [(100, 1), (99, 2), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert_eq!(at(lba, blocks), Err(BlockError::OutOfRange { lba }), "{lba} {blocks}");
        }
        assert_eq!(
            s.with_data(Extent { lba: 0, blocks: 2 }, &BufList::zeroes(512)),
            Err(BlockError::Unsupported)
        );
        let e = |lba, blocks| Extent { lba, blocks };
        assert!(s.copy(90, &[e(0, 5), e(3, 5)]).is_ok());
        assert_eq!(s.copy(91, &[e(0, 5), e(3, 5)]), Err(BlockError::OutOfRange { lba: 91 }));
        assert_eq!(s.copy(0, &[e(0, 5), e(98, 5)]), Err(BlockError::OutOfRange { lba: 98 }));
    }
}
