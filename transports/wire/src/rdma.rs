//! NVMe/RDMA: the private data of the connection manager's messages, and what a keyed descriptor says.
//!
//! "RDMA" is the NVMe RDMA Transport Specification 1.1. All fields are little-endian. The capsules themselves are a submission
//! queue entry with its data behind it, and a bare completion queue entry.

use crate::layout;
use crate::sgl::Sgl;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// RECFMT of revision 1.0 of the private data, the only one there is.
pub const RECFMT: u16 = 0;

/// Private data of RDMA_CM_REQUEST (RDMA, figure "RDMA_CM_REQUEST Private Data Format"), from the host.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CmRequest {
    /// RECFMT: [`RECFMT`].
    pub recfmt: U16,
    /// QID: the queue that the connection is for; 0 is the admin queue.
    pub qid: U16,
    /// HRQSIZE: entries of the host's receive queue, from 1 on; bounds the responses on their way.
    pub hrqsize: U16,
    /// HSQSIZE: entries of the host's send queue, 0's based; bounds the commands on their way.
    pub hsqsize: U16,
    /// CNTLID (since 1.1): the controller that an I/O queue is for; 0 from hosts that do not say.
    pub cntlid: U16,
    /// Reserved.
    pub rsvd: [u8; 22],
}

layout!(CmRequest, 32, recfmt @ 0, qid @ 2, hrqsize @ 4, hsqsize @ 6, cntlid @ 8, rsvd @ 10);

/// Private data of RDMA_CM_ACCEPT (RDMA, figure "RDMA_CM_ACCEPT Private Data Format"), from the controller.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CmAccept {
    /// RECFMT: [`RECFMT`].
    pub recfmt: U16,
    /// CRQSIZE: entries of the controller's receive queue.
    pub crqsize: U16,
    /// Reserved.
    pub rsvd: [u8; 28],
}

layout!(CmAccept, 32, recfmt @ 0, crqsize @ 2, rsvd @ 4);

/// Private data of RDMA_CM_REJECT (RDMA, figure "RDMA_CM_REJECT Private Data Format").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CmReject {
    /// RECFMT: [`RECFMT`].
    pub recfmt: U16,
    /// STS: see [`CmStatus`].
    pub sts: U16,
}

layout!(CmReject, 4, recfmt @ 0, sts @ 2);

/// Why a connection is refused (RDMA, figure "RDMA_CM_REJECT Status", STS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CmStatus {
    /// The private data is too short.
    InvalidLength = 0x01,
    /// RECFMT is none that is known.
    InvalidRecfmt = 0x02,
    /// The queue id cannot be.
    InvalidQid = 0x03,
    /// HSQSIZE cannot be served.
    InvalidHsqsize = 0x04,
    /// HRQSIZE cannot be served.
    InvalidHrqsize = 0x05,
    /// Resources are short.
    NoResources = 0x06,
    /// The number of RDMA READs that the host takes (IRD) cannot be served.
    InvalidIrd = 0x07,
    /// The number of RDMA READs that the host sends (ORD) cannot be served.
    InvalidOrd = 0x08,
    /// CNTLID names no controller.
    InvalidCntlid = 0x09,
}

impl CmStatus {
    /// All of them, in order.
    pub const ALL: [CmStatus; 9] = [
        CmStatus::InvalidLength,
        CmStatus::InvalidRecfmt,
        CmStatus::InvalidQid,
        CmStatus::InvalidHsqsize,
        CmStatus::InvalidHrqsize,
        CmStatus::NoResources,
        CmStatus::InvalidIrd,
        CmStatus::InvalidOrd,
        CmStatus::InvalidCntlid,
    ];

    /// The status of that number.
    pub fn from_code(code: u16) -> Option<CmStatus> {
        CmStatus::ALL.into_iter().find(|&s| s as u16 == code)
    }

    /// What it says.
    pub fn text(self) -> &'static str {
        match self {
            CmStatus::InvalidLength => "the private data is too short",
            CmStatus::InvalidRecfmt => "the private data has a format that is not known",
            CmStatus::InvalidQid => "the queue id cannot be",
            CmStatus::InvalidHsqsize => "the host's send queue has a size that is not served",
            CmStatus::InvalidHrqsize => "the host's receive queue has a size that is not served",
            CmStatus::NoResources => "resources are short",
            CmStatus::InvalidIrd => "the host takes no RDMA READ",
            CmStatus::InvalidOrd => "the host's RDMA READs cannot be served",
            CmStatus::InvalidCntlid => "the controller id names none",
        }
    }
}

impl core::fmt::Display for CmStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}

/// The host's memory that a keyed descriptor names (Base 2.1, figure "Keyed SGL Data Block descriptor").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The address in the host's own terms.
    pub address: u64,
    /// Bytes: 24 bits.
    pub length: u32,
    /// The key.
    pub key: u32,
}

impl Sgl {
    /// A keyed descriptor: `length` (of which 24 bits are kept) bytes at `address` under `key`, to be invalidated with the
    /// response or not.
    pub fn keyed(address: u64, length: u32, key: u32, invalidate: bool) -> Sgl {
        let key = key.to_le_bytes();
        Sgl {
            address: U64::new(address),
            length: U32::new(length & 0xff_ffff | u32::from(key[0]) << 24),
            rsvd: [key[1], key[2], key[3]],
            id: if invalidate { 0x4f } else { 0x40 },
        }
    }

    /// What it says, read as a keyed descriptor: length in bytes 10:8, key in bytes 14:11.
    #[inline]
    pub fn as_keyed(&self) -> Keyed {
        let mixed = self.length.get();
        let [a, b, c] = self.rsvd;
        Keyed {
            address: self.address.get(),
            length: mixed & 0xff_ffff,
            key: u32::from_le_bytes([(mixed >> 24) as u8, a, b, c]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_descriptor_lies_where_the_figure_says() {
        let bytes: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 0x10, 0x20, 0x30, 0xa, 0xb, 0xc, 0xd, 0x4f];
        let sgl = Sgl::read_from_bytes(&bytes).unwrap();
        let keyed = sgl.as_keyed();
        assert_eq!((keyed.address, keyed.length, keyed.key), (0x0807_0605_0403_0201, 0x30_2010, 0x0d0c_0b0a));
        assert_eq!(Sgl::keyed(keyed.address, keyed.length, keyed.key, true).as_bytes(), bytes);
        assert_eq!(
            Sgl::keyed(1, u32::MAX, 2, false).as_keyed(),
            Keyed { address: 1, length: 0xff_ffff, key: 2 }
        );
    }

    #[test]
    fn statuses_have_their_numbers() {
        for (n, s) in CmStatus::ALL.into_iter().enumerate() {
            assert_eq!((s as u16, CmStatus::from_code(n as u16 + 1)), (n as u16 + 1, Some(s)));
        }
        assert_eq!((CmStatus::from_code(0), CmStatus::from_code(10)), (None, None));
    }

    #[test]
    fn private_data_is_read_field_by_field() {
        let mut raw = [0u8; 56];
        raw[..10].copy_from_slice(&[0, 0, 3, 0, 0x80, 0, 0x7f, 0, 5, 1]);
        let (r, _) = CmRequest::read_from_prefix(&raw).unwrap();
        let got = (r.recfmt.get(), r.qid.get(), r.hrqsize.get(), r.hsqsize.get(), r.cntlid.get());
        assert_eq!(got, (0, 3, 128, 127, 0x105));
    }
}
