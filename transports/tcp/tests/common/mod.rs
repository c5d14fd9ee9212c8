//! PDUs made by hand, right and wrong, for the tests of both roles.
#![allow(dead_code)]

use caisson_block::{Buf, Completions, Mono};
use caisson_tcp::controller::{Config, Event, Session};
use caisson_tcp::crc::crc32c;
use caisson_wire::pdu::{self, CapsuleCmd, CommonHeader, DataPdu, IcReq, flag, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Sgl, Sqe};

pub const NOW: Mono = Mono(1_000_000);

/// A common header.
pub fn ch(kind: u8, flags: u8, hlen: usize, pdo: usize, plen: usize) -> CommonHeader {
    CommonHeader { kind, flags, hlen: hlen as u8, pdo: pdo as u8, plen: U32::new(plen as u32) }
}

/// ICReq with these fields.
pub fn ic_req(pfv: u16, hpda: u8, dgst: u8, maxr2t: u32) -> Vec<u8> {
    IcReq {
        ch: ch(kind::IC_REQ, 0, 128, 0, 128),
        pfv: U16::new(pfv),
        hpda,
        dgst,
        maxr2t: U32::new(maxr2t),
        rsvd: [0; 112],
    }
    .as_bytes()
    .to_vec()
}

/// A command with PSDT 01b and this descriptor.
pub fn sqe(opcode: u8, cid: u16, sgl: Sgl) -> Sqe {
    Sqe { opcode, flags: 0x40, cid: U16::new(cid), sgl, ..Sqe::default() }
}

/// Header, digest, padding, data and digest, with the lengths that go with them.
pub fn seal(header: &[u8], data: &[u8], dgst: u8, align: usize, flags: u8) -> Vec<u8> {
    let (hd, dd) = (dgst & 1 != 0, dgst & 2 != 0 && !data.is_empty());
    let mut out = header.to_vec();
    let bare = header.len() + if hd { 4 } else { 0 };
    let head = if data.is_empty() { bare } else { bare.next_multiple_of(align) };
    let plen = head + data.len() + if dd { 4 } else { 0 };
    out[1] = flags | if hd { flag::HDGST } else { 0 } | if dd { flag::DDGST } else { 0 };
    out[2] = header.len() as u8;
    out[3] = if data.is_empty() { 0 } else { head as u8 };
    out[4..8].copy_from_slice(&(plen as u32).to_le_bytes());
    if hd {
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
    }
    out.resize(head, 0);
    out.extend_from_slice(data);
    if dd {
        out.extend_from_slice(&crc32c(data).to_le_bytes());
    }
    out
}

/// A command capsule.
pub fn capsule(sqe: Sqe, data: &[u8], dgst: u8) -> Vec<u8> {
    seal(CapsuleCmd { ch: ch(kind::CAPSULE_CMD, 0, 0, 0, 0), sqe }.as_bytes(), data, dgst, 4, 0)
}

/// H2CData.
pub fn h2c(cid: u16, ttag: u16, offset: u32, data: &[u8], last: bool, dgst: u8) -> Vec<u8> {
    let header = DataPdu {
        ch: ch(kind::H2C_DATA, 0, 0, 0, 0),
        cccid: U16::new(cid),
        ttag: U16::new(ttag),
        datao: U32::new(offset),
        datal: U32::new(data.len() as u32),
        rsvd: [0; 4],
    };
    seal(header.as_bytes(), data, dgst, 4, if last { flag::LAST } else { 0 })
}

/// A controller session that has shaken hands, with its ICResp taken out.
pub fn ready(config: Config, dgst: u8, maxr2t: u32, spare: &mut Completions) -> Session {
    let mut s = Session::new(config, NOW);
    s.receive(Buf::from(ic_req(0, 0, dgst, maxr2t)));
    assert!(s.next(NOW, spare).is_none());
    let resp = s.tx().drain();
    assert_eq!((resp.len(), resp[0]), (128, kind::IC_RESP));
    s
}

/// All events.
pub fn events(s: &mut Session, spare: &mut Completions) -> Vec<Event> {
    std::iter::from_fn(|| s.next(NOW, spare)).collect()
}

/// The PDUs in `bytes`, cut by their PLEN.
pub fn pdus(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut out = vec![];
    while !bytes.is_empty() {
        let plen = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        out.push(&bytes[..plen]);
        bytes = &bytes[plen..];
    }
    out
}

/// The fields of R2Ts: CCCID, TTAG, R2TO, R2TL.
pub fn r2ts(bytes: &[u8]) -> Vec<(u16, u16, u32, u32)> {
    pdus(bytes)
        .into_iter()
        .filter(|p| p[0] == kind::R2T)
        .map(|p| {
            let h16 = |at: usize| u16::from_le_bytes(p[at..at + 2].try_into().unwrap());
            let h32 = |at: usize| u32::from_le_bytes(p[at..at + 4].try_into().unwrap());
            (h16(8), h16(10), h32(12), h32(16))
        })
        .collect()
}

/// The status and information of the termination request that `bytes` ends with, and the header it shows.
pub fn term(bytes: &[u8]) -> Option<(u16, u32, Vec<u8>)> {
    let last = pdus(bytes).pop()?;
    if last[0] != kind::C2H_TERM_REQ && last[0] != kind::H2C_TERM_REQ {
        return None;
    }
    assert_eq!(usize::from(last[2]), pdu::DATA_HLEN);
    assert!(last.len() <= pdu::TERM_MAX_LEN);
    let fes = u16::from_le_bytes([last[8], last[9]]);
    let fei = u32::from_le_bytes(last[10..14].try_into().unwrap());
    Some((fes, fei, last[24..].to_vec()))
}
