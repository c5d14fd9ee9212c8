//! PDUs as no sane host would send them: every field can be set to anything.

use caisson_initiator::transport::{Greeting, crc32c};
use caisson_wire::Sqe;
use caisson_wire::fabrics::ConnectData;
use caisson_wire::opcode::{FABRICS, fctype};
use caisson_wire::pdu::{CommonHeader, DataPdu, kind};
use caisson_wire::sgl::Sgl;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};

/// A PDU in bytes, with the places of its header to spoil.
#[derive(Clone, Debug)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// The same with byte `at` replaced.
    #[must_use]
    pub fn byte(mut self, at: usize, value: u8) -> Raw {
        self.0[at] = value;
        self
    }

    /// The same with the 32 bits at `at` replaced.
    #[must_use]
    pub fn dword(mut self, at: usize, value: u32) -> Raw {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// The same with the 16 bits at `at` replaced.
    #[must_use]
    pub fn word(mut self, at: usize, value: u16) -> Raw {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// The same with PLEN replaced.
    #[must_use]
    pub fn plen(self, value: u32) -> Raw {
        self.dword(4, value)
    }
}

/// An ICReq that asks for digests by the bits of `dgst`.
pub fn icreq(dgst: u8) -> Raw {
    let g = Greeting { header_digest: dgst & 1 != 0, data_digest: dgst & 2 != 0, ..Greeting::default() };
    Raw(g.icreq().as_bytes().to_vec())
}

/// A command capsule, without digests.
pub fn capsule(sqe: &Sqe, data: &[u8]) -> Raw {
    let pdo = if data.is_empty() { 0 } else { 72 };
    let ch = CommonHeader {
        kind: kind::CAPSULE_CMD,
        flags: 0,
        hlen: 72,
        pdo,
        plen: U32::new(72 + data.len() as u32),
    };
    let mut out = ch.as_bytes().to_vec();
    out.extend_from_slice(sqe.as_bytes());
    out.extend_from_slice(data);
    Raw(out)
}

/// An H2CData PDU, without digests.
pub fn h2c_data(cccid: u16, ttag: u16, datao: u32, flags: u8, data: &[u8]) -> Raw {
    let plen = U32::new(24 + data.len() as u32);
    let ch = CommonHeader { kind: kind::H2C_DATA, flags, hlen: 24, pdo: 24, plen };
    let header = DataPdu {
        ch,
        cccid: U16::new(cccid),
        ttag: U16::new(ttag),
        datao: U32::new(datao),
        datal: U32::new(data.len() as u32),
        rsvd: [0; 4],
    };
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(data);
    Raw(out)
}

/// Puts a header digest behind the header of `pdu`, and a data digest behind its data, where `bits` say so.
pub fn with_digests(pdu: &Raw, bits: u8) -> Raw {
    let hlen = usize::from(pdu.0[2]);
    let (header, data) = pdu.0.split_at(hlen);
    let mut header = header.to_vec();
    let hdg = if bits & 1 != 0 { 4 } else { 0 };
    let ddg = if bits & 2 != 0 && !data.is_empty() { 4 } else { 0 };
    header[1] |= u8::from(hdg > 0) | u8::from(ddg > 0) << 1;
    if !data.is_empty() {
        header[3] = (hlen + hdg) as u8;
    }
    let plen = (hlen + hdg + data.len() + ddg) as u32;
    header[4..8].copy_from_slice(&plen.to_le_bytes());
    let mut out = header.clone();
    if hdg > 0 {
        out.extend_from_slice(&crc32c(&header).to_le_bytes());
    }
    out.extend_from_slice(data);
    if ddg > 0 {
        out.extend_from_slice(&crc32c(data).to_le_bytes());
    }
    Raw(out)
}

/// A Connect of queue `qid` with its data in the capsule.
pub fn connect(qid: u16, data: &ConnectData) -> Raw {
    let mut sqe = Sqe { opcode: FABRICS, flags: 0x40, ..Sqe::default() };
    sqe.nsid.set(u32::from(fctype::CONNECT));
    sqe.sgl = Sgl::in_capsule(0, 1024);
    sqe.cdw10.set(u32::from(qid) << 16);
    sqe.cdw11.set(31);
    capsule(&sqe, data.as_bytes())
}

/// A Property Get of CSTS under the CID `cid`: the shortest question that any controller answers.
pub fn question(cid: u16) -> Raw {
    let mut sqe = Sqe { opcode: FABRICS, flags: 0x40, cid: U16::new(cid), ..Sqe::default() };
    sqe.nsid.set(u32::from(fctype::PROPERTY_GET));
    sqe.cdw11.set(0x1c);
    capsule(&sqe, &[])
}
