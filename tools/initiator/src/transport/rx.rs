//! The receiving half of a driven connection: PDUs are parsed where they landed, payload is never copied here.
//!
//! Owns one receive buffer. Payload is handed on piece by piece as it arrives, so that what stays in the buffer between
//! two reads is at most part of a header. Separate from the transport's own session because a load generator mostly
//! counts payload and throws it away: keeping buffers alive for it would be the cost that is to be measured elsewhere.

use super::crc32c;
use crate::error::{Error, Result};
use crate::net::unless_blocked;
use caisson_wire::pdu::{
    CH_LEN, CapsuleResp, CommonHeader, DATA_HLEN, DataPdu, R2t, RESP_HLEN, TermReq, flag, kind,
};
use caisson_wire::zerocopy::FromBytes;
use caisson_wire::{Cqe, Status};
use crc_fast::{CrcAlgorithm::Crc32Iscsi, Digest};
use std::io::Read;
use std::net::TcpStream;

/// Bytes read from the socket at once.
const BUFFER: usize = 256 << 10;

/// Who is told what came.
pub trait Sink {
    /// A piece of the data of command `cid`, at `offset` within it.
    fn data(&mut self, cid: u16, offset: u32, bytes: &[u8]) -> Result<()>;
    /// The controller asks for data.
    fn asked(&mut self, r2t: &R2t) -> Result<()>;
    /// A command is done; `implied` when the SUCCESS flag of its data said so and `cqe` was made up here.
    fn done(&mut self, cqe: &Cqe, implied: bool) -> Result<()>;
}

/// The data PDU that is being received.
struct Data {
    cid: u16,
    offset: u32,
    left: usize,
    success: bool,
    crc: Option<Digest>,
}

/// The receiving half.
pub struct Rx {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    header_digest: bool,
    data_digest: bool,
    data: Option<Data>,
    /// Reads from the socket so far, also those that found nothing.
    pub reads: u64,
    /// Of these, those that found something.
    pub full_reads: u64,
}

impl Rx {
    /// For a connection on which these digests were agreed.
    pub fn new(header_digest: bool, data_digest: bool) -> Rx {
        Rx {
            buffer: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
            header_digest,
            data_digest,
            data: None,
            reads: 0,
            full_reads: 0,
        }
    }

    /// Reads once; says whether anything came.
    #[inline]
    pub fn read(&mut self, mut stream: &TcpStream) -> Result<bool> {
        self.reads += 1;
        let got = unless_blocked(stream.read(&mut self.buffer[self.end..]));
        match got.map_err(|e| Error::io("receiving", e))? {
            None => Ok(false),
            Some(0) => Err(Error::Closed { doing: "commands were outstanding".into() }),
            Some(n) => {
                self.full_reads += 1;
                self.end += n;
                Ok(true)
            }
        }
    }

    /// Takes apart what was read.
    #[inline]
    pub fn parse(&mut self, sink: &mut impl Sink) -> Result<()> {
        loop {
            let more = if self.data.is_some() { self.payload(sink)? } else { self.header(sink)? };
            if !more {
                break;
            }
        }
        // At most part of a header or a digest is left; it moves to the front.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        Ok(())
    }

    /// Hands payload on; says whether the PDU ended.
    #[inline]
    fn payload(&mut self, sink: &mut impl Sink) -> Result<bool> {
        let Some(d) = &mut self.data else { return Ok(true) };
        let n = d.left.min(self.end - self.start);
        if n > 0 {
            let bytes = &self.buffer[self.start..self.start + n];
            if let Some(crc) = &mut d.crc {
                crc.update(bytes);
            }
            sink.data(d.cid, d.offset, bytes)?;
            self.start += n;
            d.left -= n;
            d.offset += n as u32;
        }
        if d.left > 0 {
            return Ok(false);
        }
        if let Some(crc) = &d.crc {
            let Some(digest) = self.buffer[self.start..self.end].first_chunk::<4>() else { return Ok(false) };
            if u32::from_le_bytes(*digest) != crc.finalize() as u32 {
                return Err(Error::protocol(format!("the data digest of command {} does not agree", d.cid)));
            }
            self.start += 4;
        }
        let (cid, success) = (d.cid, d.success);
        self.data = None;
        if success {
            sink.done(&Cqe::new(cid, Status::SUCCESS), true)?;
        }
        Ok(true)
    }

    /// Takes one header; says whether it was all there.
    #[inline]
    fn header(&mut self, sink: &mut impl Sink) -> Result<bool> {
        let bytes = &self.buffer[self.start..self.end];
        let Ok((ch, _)) = CommonHeader::ref_from_prefix(bytes) else { return Ok(false) };
        let plen = ch.plen.get() as usize;
        let digest = if self.header_digest { 4 } else { 0 };
        let whole = match ch.kind {
            kind::CAPSULE_RESP => RESP_HLEN + digest,
            kind::R2T => DATA_HLEN + digest,
            kind::C2H_DATA => usize::from(ch.pdo).max(DATA_HLEN + digest),
            kind::C2H_TERM_REQ => DATA_HLEN,
            other => return Err(Error::protocol(format!("a PDU of type {other:#04x} came where none may"))),
        };
        debug_assert!(whole >= CH_LEN);
        if bytes.len() < whole {
            return Ok(false);
        }
        if ch.kind == kind::C2H_TERM_REQ {
            let (fes, fei) =
                TermReq::ref_from_prefix(bytes).map(|(t, _)| (t.fes.get(), t.fei())).unwrap_or_default();
            return Err(Error::Terminated { fes, fei });
        }
        if usize::from(ch.hlen) != DATA_HLEN || (ch.kind != kind::C2H_DATA && plen != whole) {
            return Err(Error::protocol(format!(
                "PDU type {:#04x} has HLEN {} and PLEN {plen}",
                ch.kind, ch.hlen
            )));
        }
        if self.header_digest && !digest_agrees(bytes) {
            return Err(Error::protocol("a header digest does not agree"));
        }
        match ch.kind {
            kind::CAPSULE_RESP => {
                if let Ok((r, _)) = CapsuleResp::ref_from_prefix(bytes) {
                    sink.done(&r.cqe, false)?;
                }
            }
            kind::R2T => {
                if let Ok((r, _)) = R2t::ref_from_prefix(bytes) {
                    sink.asked(r)?;
                }
            }
            _ => {
                let data = begin(bytes, plen, whole, self.data_digest)?;
                self.data = Some(data);
            }
        }
        self.start += whole;
        Ok(true)
    }
}

/// Judges the header of a C2HData PDU (TCP 1.1, 3.6.2.9).
fn begin(bytes: &[u8], plen: usize, pdo: usize, data_digest: bool) -> Result<Data> {
    let Ok((h, _)) = DataPdu::ref_from_prefix(bytes) else { return Err(Error::protocol("a short header")) };
    let left = h.datal.get() as usize;
    let trailer = if data_digest && left > 0 { 4 } else { 0 };
    if plen != pdo + left + trailer {
        return Err(Error::protocol(format!("C2HData of {left} bytes at {pdo} has PLEN {plen}")));
    }
    let success = h.ch.flags & flag::SUCCESS != 0;
    if success && h.ch.flags & flag::LAST == 0 {
        return Err(Error::protocol("C2HData has SUCCESS without LAST_PDU"));
    }
    let crc = (trailer > 0).then(|| Digest::new(Crc32Iscsi));
    Ok(Data { cid: h.cccid.get(), offset: h.datao.get(), left, success, crc })
}

fn digest_agrees(bytes: &[u8]) -> bool {
    let crc = crc32c(&bytes[..DATA_HLEN]);
    bytes[DATA_HLEN..].first_chunk::<4>().is_some_and(|d| u32::from_le_bytes(*d) == crc)
}
