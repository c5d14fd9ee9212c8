//! NVMe/TCP PDU layouts (TCP 1.1, 3.6).
//!
//! Every PDU starts with the 8-byte [`CommonHeader`]; what follows it up to HLEN is the PDU-specific header.

use crate::cqe::Cqe;
use crate::layout;
use crate::sqe::Sqe;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// PDU types (TCP 1.1, figure "PDU Type").
pub mod kind {
    /// Initialize Connection Request, host to controller.
    pub const IC_REQ: u8 = 0x00;
    /// Initialize Connection Response, controller to host.
    pub const IC_RESP: u8 = 0x01;
    /// Host to Controller Terminate Connection Request.
    pub const H2C_TERM_REQ: u8 = 0x02;
    /// Controller to Host Terminate Connection Request.
    pub const C2H_TERM_REQ: u8 = 0x03;
    /// Command Capsule, host to controller.
    pub const CAPSULE_CMD: u8 = 0x04;
    /// Response Capsule, controller to host.
    pub const CAPSULE_RESP: u8 = 0x05;
    /// Host to Controller Data.
    pub const H2C_DATA: u8 = 0x06;
    /// Controller to Host Data.
    pub const C2H_DATA: u8 = 0x07;
    /// Ready to Transfer, controller to host.
    pub const R2T: u8 = 0x09;
}

/// Flags of the common header; which apply depends on the PDU type.
pub mod flag {
    /// HDGSTF: a header digest follows the header.
    pub const HDGST: u8 = 1 << 0;
    /// DDGSTF: a data digest follows the data.
    pub const DDGST: u8 = 1 << 1;
    /// LAST_PDU: the last data PDU of a transfer (H2CData, C2HData).
    pub const LAST: u8 = 1 << 2;
    /// SUCCESS: the command is done with status 0, no response capsule follows (C2HData with LAST_PDU).
    pub const SUCCESS: u8 = 1 << 3;
}

/// Fatal Error Status values (TCP 1.1, figure for the termination PDUs' FES).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Fes {
    /// 01h: a field of a PDU header is not as it must be; FEI gives its byte offset.
    InvalidHeaderField = 0x01,
    /// 02h: a PDU that does not belong here in the sequence.
    SequenceError = 0x02,
    /// 03h: the header digest does not agree; FEI holds the digest received.
    HeaderDigest = 0x03,
    /// 04h: data beyond what was asked for.
    DataTransferOutOfRange = 0x04,
    /// 05h: data beyond a limit (R2T Limit Exceeded to a host, Data Transfer Limit Exceeded to a controller).
    LimitExceeded = 0x05,
    /// 06h: a parameter that this end does not support; FEI gives its byte offset.
    UnsupportedParameter = 0x06,
}

/// The 8 bytes that start every PDU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CommonHeader {
    /// PDU-Type.
    pub kind: u8,
    /// FLAGS.
    pub flags: u8,
    /// HLEN: length of the header in bytes, this one included, digests excluded.
    pub hlen: u8,
    /// PDO: where the data starts, from the start of the PDU; 0 when there is none.
    pub pdo: u8,
    /// PLEN: length of the whole PDU, digests and padding included.
    pub plen: U32,
}
layout!(CommonHeader, 8, kind @ 0, flags @ 1, hlen @ 2, pdo @ 3, plen @ 4);

/// Length of the common header.
pub const CH_LEN: usize = 8;
/// Length of a digest.
pub const DIGEST_LEN: usize = 4;
/// Length of ICReq and of ICResp.
pub const IC_LEN: usize = 128;
/// HLEN of a command capsule.
pub const CMD_HLEN: usize = 72;
/// HLEN of a response capsule.
pub const RESP_HLEN: usize = 24;
/// HLEN of H2CData, C2HData, R2T and the termination requests.
pub const DATA_HLEN: usize = 24;
/// The most bytes a termination request may carry: its header and 128 of the header in error.
pub const TERM_MAX_LEN: usize = 152;
/// The largest header of any PDU.
pub const MAX_HLEN: usize = 128;

/// ICReq (TCP 1.1, 3.6.2.2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcReq {
    /// Common header.
    pub ch: CommonHeader,
    /// PFV: PDU format version, 0.
    pub pfv: U16,
    /// HPDA: alignment that the host asks of data in controller PDUs, in dwords, zero-based, 0..=31.
    pub hpda: u8,
    /// DGST: bit 0 header digest, bit 1 data digest.
    pub dgst: u8,
    /// MAXR2T: R2Ts the host takes at once for one command, zero-based.
    pub maxr2t: U32,
    /// Reserved.
    pub rsvd: [u8; 112],
}
layout!(IcReq, 128, pfv @ 8, hpda @ 10, dgst @ 11, maxr2t @ 12, rsvd @ 16);

/// ICResp (TCP 1.1, 3.6.2.3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcResp {
    /// Common header.
    pub ch: CommonHeader,
    /// PFV: PDU format version, 0.
    pub pfv: U16,
    /// CPDA: alignment that the controller asks of data in host PDUs, in dwords, zero-based, 0..=31.
    pub cpda: u8,
    /// DGST: bit 0 header digest, bit 1 data digest.
    pub dgst: u8,
    /// MAXH2CDATA: the most data one H2CData PDU may carry, at least 4,096, a multiple of four.
    pub maxh2cdata: U32,
    /// Reserved.
    pub rsvd: [u8; 112],
}
layout!(IcResp, 128, pfv @ 8, cpda @ 10, dgst @ 11, maxh2cdata @ 12, rsvd @ 16);

/// H2CTermReq and C2HTermReq, header only (TCP 1.1, 3.6.2.4 and 3.6.2.5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TermReq {
    /// Common header.
    pub ch: CommonHeader,
    /// FES: fatal error status, see [`Fes`].
    pub fes: U16,
    /// FEI, low half (it stands at an odd word, so it is split).
    pub fei_lo: U16,
    /// FEI, high half.
    pub fei_hi: U16,
    /// Reserved.
    pub rsvd: [u8; 10],
}
layout!(TermReq, 24, fes @ 8, fei_lo @ 10, fei_hi @ 12, rsvd @ 14);

impl TermReq {
    /// Fatal error information: a byte offset, or a digest.
    pub fn fei(&self) -> u32 {
        u32::from(self.fei_lo.get()) | u32::from(self.fei_hi.get()) << 16
    }
}

/// Command capsule header (TCP 1.1, 3.6.2.6).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CapsuleCmd {
    /// Common header.
    pub ch: CommonHeader,
    /// CCSQE.
    pub sqe: Sqe,
}
layout!(CapsuleCmd, 72, sqe @ 8);

/// Response capsule (TCP 1.1, 3.6.2.7).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CapsuleResp {
    /// Common header.
    pub ch: CommonHeader,
    /// RCCQE.
    pub cqe: Cqe,
}
layout!(CapsuleResp, 24, cqe @ 8);

/// H2CData and C2HData headers (TCP 1.1, 3.6.2.8 and 3.6.2.9).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DataPdu {
    /// Common header.
    pub ch: CommonHeader,
    /// CCCID: the command that the data belongs to.
    pub cccid: U16,
    /// TTAG: from the R2T that asked for it (H2CData); reserved in C2HData.
    pub ttag: U16,
    /// DATAO: byte offset within the command's data.
    pub datao: U32,
    /// DATAL: bytes of data in this PDU.
    pub datal: U32,
    /// Reserved.
    pub rsvd: [u8; 4],
}
layout!(DataPdu, 24, cccid @ 8, ttag @ 10, datao @ 12, datal @ 16, rsvd @ 20);

/// R2T (TCP 1.1, 3.6.2.10).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct R2t {
    /// Common header.
    pub ch: CommonHeader,
    /// CCCID: the command whose data is asked for.
    pub cccid: U16,
    /// TTAG: the tag that H2CData must carry.
    pub ttag: U16,
    /// R2TO: byte offset within the command's data.
    pub r2to: U32,
    /// R2TL: bytes asked for.
    pub r2tl: U32,
    /// Reserved.
    pub rsvd: [u8; 4],
}
layout!(R2t, 24, cccid @ 8, ttag @ 10, r2to @ 12, r2tl @ 16, rsvd @ 20);
