//! Compression of single 4 KiB blocks: zstd, an early exit for what does not compress, and the zero test; and blocks of which
//! some sectors are marked.
//!
//! Owns the meaning of a stored block's codec number and the zstd parameters behind it. A compressed block is one zstd
//! frame without what the block table already knows: no magic number, content size, checksum or dictionary id.
//!
//! It must never do I/O, keep anything of one block for the next, or trust what it decompresses: any bytes end in an
//! error or in 4096 bytes.

mod compress;
mod decompress;
mod estimate;
mod marked;
mod zero;

pub use compress::{Compressor, EarlyExit, Level};
pub use decompress::{CodecError, Decompressor};
pub use estimate::looks_incompressible;
pub use marked::{MAX_MARKED, Marks, SECTOR};
pub use zero::is_zero;

/// Size of a block in bytes.
pub const BLOCK: usize = 4096;

/// What compression must save at least, in bytes, or the block is kept as it is. Decompressing costs every later read some
/// microseconds; a sixteenth of a block does not pay for that.
pub const LEAST_SAVING: usize = BLOCK / 16;

/// The longest output of [`Compressor::compress`] in bytes.
pub const MAX_COMPRESSED: usize = BLOCK - LEAST_SAVING;

/// Bytes of output that zstd need not watch the end of, whatever a block holds, and so is faster with: ZSTD_COMPRESSBOUND (zstd.h).
pub const ROOM: usize = BLOCK + (BLOCK >> 8) + (((128 << 10) - BLOCK) >> 11);

/// How a stored block is encoded; the number is what the block table and the records hold, in four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The block as it is, 4096 bytes.
    Raw = 0,
    /// A zstd frame as [`Compressor`] makes it, 1 to [`MAX_COMPRESSED`] bytes.
    Zstd = 1,
    /// A block of which some sectors of 512 bytes are marked, and not all: [`Marks::pack`]. Of users' blocks only.
    Marked = 2,
}

impl Codec {
    /// The codec of a stored number, or `None` for one that this version does not know.
    pub const fn from_number(number: u8) -> Option<Codec> {
        match number {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            2 => Some(Codec::Marked),
            _ => None,
        }
    }

    /// The number that is stored.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether a stored block of this codec may be `length` bytes long.
    pub const fn allows(self, length: usize) -> bool {
        match self {
            Codec::Raw => length == BLOCK,
            Codec::Zstd => length >= 1 && length <= MAX_COMPRESSED,
            Codec::Marked => length > SECTOR && length <= MAX_MARKED && length % SECTOR == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_zstd_says() {
        assert_eq!(ROOM, zstd_safe::compress_bound(BLOCK));
    }

    #[test]
    fn numbers_are_as_stored() {
        assert_eq!((Codec::Raw.number(), Codec::Zstd.number(), Codec::Marked.number()), (0, 1, 2));
        for number in 0..=255 {
            assert!(Codec::from_number(number).is_none_or(|c| c.number() == number && number < 16));
        }
        assert_eq!(Codec::from_number(3), None);
        assert!(Codec::Raw.allows(4096) && !Codec::Raw.allows(4095));
        assert!(Codec::Zstd.allows(1) && Codec::Zstd.allows(3840) && !Codec::Zstd.allows(3841));
        assert!(!Codec::Zstd.allows(0));
        let marked = (0..=BLOCK).filter(|length| Codec::Marked.allows(*length));
        assert!(marked.eq((1..8).map(|sectors| 1 + 512 * sectors)));
    }
}
