//! The submission queue entry (Base 2.1, figure 91 "Common Command Format"; fabrics form: figure 92).

use crate::layout;
use crate::sgl::Sgl;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 64-byte command. Every bit pattern is a value; nothing is validated here.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Sqe {
    /// OPC, byte 0.
    pub opcode: u8,
    /// FUSE (bits 1:0) and PSDT (bits 7:6), byte 1.
    pub flags: u8,
    /// CID.
    pub cid: U16,
    /// NSID; for fabrics commands its lowest byte is FCTYPE.
    pub nsid: U32,
    /// CDW2.
    pub cdw2: U32,
    /// CDW3.
    pub cdw3: U32,
    /// MPTR.
    pub mptr: U64,
    /// DPTR, SGL Descriptor 1. Over fabrics PRPs are never used (Base 2.1, 4.3.2).
    pub sgl: Sgl,
    /// CDW10.
    pub cdw10: U32,
    /// CDW11.
    pub cdw11: U32,
    /// CDW12.
    pub cdw12: U32,
    /// CDW13.
    pub cdw13: U32,
    /// CDW14.
    pub cdw14: U32,
    /// CDW15.
    pub cdw15: U32,
}

layout!(Sqe, 64, opcode @ 0, flags @ 1, cid @ 2, nsid @ 4, cdw2 @ 8, cdw3 @ 12, mptr @ 16, sgl @ 24,
    cdw10 @ 40, cdw11 @ 44, cdw12 @ 48, cdw13 @ 52, cdw14 @ 56, cdw15 @ 60);

/// Size of a submission queue entry in bytes.
pub const SQE_LEN: usize = 64;

/// The FUSE field of a command (Base 2.1, figure 91, bits 9:8 of CDW0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// 00b: a command of its own.
    None,
    /// 01b: the first of a fused pair.
    First,
    /// 10b: the second of a fused pair.
    Second,
    /// 11b.
    Reserved,
}

impl Sqe {
    /// Decodes the first 64 bytes of `bytes`; `None` when there are fewer.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Option<Sqe> {
        Sqe::read_from_prefix(bytes).ok().map(|(sqe, _)| sqe)
    }

    /// The FUSE field.
    #[inline]
    pub fn fuse(&self) -> Fuse {
        match self.flags & 0b11 {
            0 => Fuse::None,
            1 => Fuse::First,
            2 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// The PSDT field, bits 7:6 of the flags: 01b or 10b for SGLs.
    #[inline]
    pub fn psdt(&self) -> u8 {
        self.flags >> 6
    }

    /// The fabrics command type (byte 4), meaningful when the opcode is 7Fh.
    #[inline]
    pub fn fctype(&self) -> u8 {
        self.nsid.as_bytes()[0]
    }

    /// CDW10 and CDW11 as one number: SLBA of the I/O commands, or a 64-bit offset.
    #[inline]
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw10.get()) | u64::from(self.cdw11.get()) << 32
    }

    /// NLB of the I/O commands, made one-based: 1..=65,536 (NVM 1.1, figure for Read CDW12 bits 15:0).
    #[inline]
    pub fn nlb(&self) -> u32 {
        (self.cdw12.get() & 0xffff) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_land_where_the_figure_says() {
        let mut raw = [0u8; 64];
        for (i, b) in raw.iter_mut().enumerate() {
            *b = i as u8;
        }
        let s = Sqe::decode(&raw).unwrap();
        assert_eq!(s.cid.get(), 0x0302);
        assert_eq!(s.nsid.get(), 0x0706_0504);
        assert_eq!(s.fctype(), 4);
        assert_eq!(s.slba(), 0x2f2e_2d2c_2b2a_2928);
        assert_eq!(s.fuse(), Fuse::First);
        assert_eq!(s.nlb(), 0x3130 + 1);
        assert!(Sqe::decode(&raw[..63]).is_none());
    }

    #[test]
    fn nlb_does_not_overflow_at_its_largest() {
        let s = Sqe { cdw12: U32::new(u32::MAX), ..Sqe::default() };
        assert_eq!(s.nlb(), 65_536);
    }
}
