//! SGL descriptors (Base 2.1, 4.3.2; the use TCP makes of them: TCP 1.1, 3.3.2.1).

use crate::layout;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 16-byte SGL descriptor.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Sgl {
    /// Address, or offset into the capsule.
    pub address: U64,
    /// Length in bytes.
    pub length: U32,
    /// Reserved, or the key of a keyed descriptor.
    pub rsvd: [u8; 3],
    /// SGL Identifier: type in bits 7:4, sub type in bits 3:0.
    pub id: u8,
}

layout!(Sgl, 16, address @ 0, length @ 8, rsvd @ 12, id @ 15);

/// What a descriptor's identifier byte says (Base 2.1, figures "SGL Descriptor Type" and "Sub Type").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SglKind {
    /// 00h: Data Block, address. Not usable over TCP, but for a length of zero.
    DataBlockAddress,
    /// 01h: Data Block, offset: the data is in the capsule.
    DataBlockOffset,
    /// 40h: Keyed Data Block, address (RDMA).
    KeyedAddress,
    /// 4Fh: Keyed Data Block, invalidate key (RDMA).
    KeyedInvalidate,
    /// 5Ah: Transport Data Block, transport specific A: the data moves in PDUs of its own.
    TransportDataBlock,
    /// A known type with a sub type that goes with it nowhere here.
    OtherSubType,
    /// Bit Bucket, Segment, Last Segment, vendor specific or reserved.
    OtherType,
}

impl Sgl {
    /// A descriptor of `length` bytes in the capsule, at `offset` from where in-capsule data starts.
    pub fn in_capsule(offset: u64, length: u32) -> Sgl {
        Sgl { address: U64::new(offset), length: U32::new(length), rsvd: [0; 3], id: 0x01 }
    }

    /// A descriptor of `length` bytes that the transport moves in PDUs of its own.
    pub fn transport(length: u32) -> Sgl {
        Sgl { address: U64::new(0), length: U32::new(length), rsvd: [0; 3], id: 0x5a }
    }

    /// The kind that the identifier byte names.
    #[inline]
    pub fn kind(&self) -> SglKind {
        match self.id {
            0x00 => SglKind::DataBlockAddress,
            0x01 => SglKind::DataBlockOffset,
            0x40 => SglKind::KeyedAddress,
            0x4f => SglKind::KeyedInvalidate,
            0x5a => SglKind::TransportDataBlock,
            id if matches!(id >> 4, 0x0 | 0x4 | 0x5) => SglKind::OtherSubType,
            _ => SglKind::OtherType,
        }
    }
}
