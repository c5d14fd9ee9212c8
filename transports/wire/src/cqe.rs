//! The completion queue entry (Base 2.1, figure 96; fabrics form 3.3.1.2: the phase tag is reserved).

use crate::layout;
use crate::status::Status;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 16-byte completion.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Cqe {
    /// DW0, command specific.
    pub dw0: U32,
    /// DW1, command specific (the high half of a Property Get of 8 bytes).
    pub dw1: U32,
    /// SQHD: where the controller has read the submission queue to.
    pub sqhd: U16,
    /// SQID; reserved over fabrics.
    pub sqid: U16,
    /// CID of the command that is done.
    pub cid: U16,
    /// Status field in bits 15:1; bit 0 (phase) is zero over fabrics.
    pub status: U16,
}

layout!(Cqe, 16, dw0 @ 0, dw1 @ 4, sqhd @ 8, sqid @ 10, cid @ 12, status @ 14);

/// Size of a completion queue entry in bytes.
pub const CQE_LEN: usize = 16;

impl Cqe {
    /// A completion of command `cid` with `status`, result zero, SQHD yet to be filled in.
    #[inline]
    pub fn new(cid: u16, status: Status) -> Cqe {
        Cqe { cid: U16::new(cid), status: U16::new(status.field()), ..Cqe::default() }
    }

    /// Decodes the first 16 bytes of `bytes`; `None` when there are fewer.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Option<Cqe> {
        Cqe::read_from_prefix(bytes).ok().map(|(cqe, _)| cqe)
    }

    /// The status of the completion.
    #[inline]
    pub fn status(&self) -> Status {
        Status::from_field(self.status.get())
    }

    /// DW0 and DW1 as one number.
    #[inline]
    pub fn result(&self) -> u64 {
        u64::from(self.dw0.get()) | u64::from(self.dw1.get()) << 32
    }

    /// The same completion with DW0 and DW1 set from `value`.
    #[inline]
    pub fn with_result(mut self, value: u64) -> Cqe {
        self.dw0 = U32::new(value as u32);
        self.dw1 = U32::new((value >> 32) as u32);
        self
    }
}
