//! The sending half of a driven connection: all commands of a turn leave in one system call.
//!
//! Headers stand one after another in an arena, payload stays where it is and is pointed at. Nothing is allocated once
//! the arena and the list of parts have grown to what the queue depth needs.

use super::crc32c;
use crate::error::{Error, Result};
use crate::net::unless_blocked;
use caisson_wire::pdu::{CMD_HLEN, CapsuleCmd, CommonHeader, DATA_HLEN, DataPdu, R2t, flag, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Sgl, Sqe};
use std::collections::VecDeque;
use std::io::{IoSlice, Write};
use std::net::TcpStream;

/// Parts handed to the kernel at once.
const BATCH: usize = 128;
/// Sent headers are dropped from the arena when there are this many bytes of them.
const COMPACT: usize = 64 << 10;

/// What ICResp settled, as far as sending needs it.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    /// Each header is followed by its digest.
    pub header_digest: bool,
    /// All data is followed by its digest.
    pub data_digest: bool,
    /// Alignment of data in a PDU, in bytes (CPDA).
    pub align: usize,
    /// The most data in one H2CData (MAXH2CDATA).
    pub max_h2c: u32,
}

/// Bytes of the arena (`Own`, counted from the first that was ever put there) or of the payload memory.
#[derive(Clone, Copy)]
enum Part {
    Own { at: u64, len: u32 },
    Payload { at: u64, len: u32 },
}

/// The sending half.
pub struct Tx {
    framing: Framing,
    arena: Vec<u8>,
    /// How many bytes were dropped from the arena's front.
    dropped: u64,
    parts: VecDeque<Part>,
    /// Bytes of the first part that are gone.
    sent: usize,
    /// Sends so far, also those that would have blocked.
    pub writes: u64,
    /// Bytes that one system call sends at most.
    pub most: usize,
}

impl Tx {
    /// With room for `depth` commands.
    pub fn new(framing: Framing, depth: usize) -> Tx {
        Tx {
            framing,
            arena: Vec::with_capacity(COMPACT + depth * 256),
            dropped: 0,
            parts: VecDeque::with_capacity(depth * 4),
            sent: 0,
            writes: 0,
            most: usize::MAX,
        }
    }

    /// Whether all is sent.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// A command capsule; `data` is where its in-capsule data starts in the payload memory, and how long it is.
    #[inline]
    pub fn command(&mut self, sqe: &Sqe, data: Option<(u64, u32)>, memory: &[u8]) {
        let len = data.map_or(0, |d| d.1);
        let (ch, pad) = self.header(kind::CAPSULE_CMD, 0, CMD_HLEN, len);
        let header = CapsuleCmd { ch, sqe: *sqe };
        self.emit(header.as_bytes(), pad, data, memory);
    }

    /// The data that `r2t` asks for, which starts at `at` in the payload memory: as many PDUs as MAXH2CDATA needs.
    pub fn data(&mut self, r2t: &R2t, at: u64, memory: &[u8]) {
        let (first, total) = (r2t.r2to.get(), r2t.r2tl.get());
        let mut done = 0;
        while done < total {
            let len = (total - done).min(self.framing.max_h2c);
            let last = if done + len == total { flag::LAST } else { 0 };
            let (ch, pad) = self.header(kind::H2C_DATA, last, DATA_HLEN, len);
            let header = DataPdu {
                ch,
                cccid: r2t.cccid,
                ttag: r2t.ttag,
                datao: U32::new(first + done),
                datal: U32::new(len),
                rsvd: [0; 4],
            };
            self.emit(header.as_bytes(), pad, Some((at + u64::from(done), len)), memory);
            done += len;
        }
    }

    /// C2HData with the whole of a command's data and the SUCCESS flag, for [`crate::ideal`].
    pub(crate) fn answer(&mut self, cid: U16, at: u64, len: u32, memory: &[u8]) {
        let (ch, pad) = self.header(kind::C2H_DATA, flag::LAST | flag::SUCCESS, DATA_HLEN, len);
        let (zero, datal) = (U32::new(0), U32::new(len));
        let header = DataPdu { ch, cccid: cid, ttag: U16::new(0), datao: zero, datal, rsvd: [0; 4] };
        self.emit(header.as_bytes(), pad, Some((at, len)), memory);
    }

    /// A PDU without data, whose header after the common one is `rest`, for [`crate::ideal`].
    pub(crate) fn short(&mut self, kind: u8, rest: &[u8; 16]) {
        let (ch, _) = self.header(kind, 0, DATA_HLEN, 0);
        let mut header = [0; DATA_HLEN];
        header[..8].copy_from_slice(ch.as_bytes());
        header[8..].copy_from_slice(rest);
        self.emit(&header, 0, None, &[]);
    }

    /// The common header of a PDU with `len` bytes of data, and the padding that goes before these.
    #[inline]
    fn header(&self, kind: u8, flags: u8, hlen: usize, len: u32) -> (CommonHeader, usize) {
        let f = &self.framing;
        let digest = if f.header_digest { 4 } else { 0 };
        let mut flags = flags | if f.header_digest { flag::HDGST } else { 0 };
        let (mut pdo, mut plen) = (0, hlen + digest);
        let mut pad = 0;
        if len > 0 {
            pdo = (hlen + digest).next_multiple_of(f.align);
            pad = pdo - hlen - digest;
            plen = pdo + len as usize;
            if f.data_digest {
                flags |= flag::DDGST;
                plen += 4;
            }
        }
        (CommonHeader { kind, flags, hlen: hlen as u8, pdo: pdo as u8, plen: U32::new(plen as u32) }, pad)
    }

    #[inline]
    fn emit(&mut self, header: &[u8], pad: usize, data: Option<(u64, u32)>, memory: &[u8]) {
        self.own(header);
        if self.framing.header_digest {
            self.own(&crc32c(header).to_le_bytes());
        }
        let Some((at, len)) = data else { return };
        if pad > 0 {
            self.own(&[0; 128][..pad.min(128)]);
        }
        self.parts.push_back(Part::Payload { at, len });
        if self.framing.data_digest {
            let bytes = &memory[at as usize..at as usize + len as usize];
            self.own(&crc32c(bytes).to_le_bytes());
        }
    }

    /// Adds bytes of the arena, joined to those before them.
    #[inline]
    fn own(&mut self, bytes: &[u8]) {
        let at = self.dropped + self.arena.len() as u64;
        self.arena.extend_from_slice(bytes);
        match self.parts.back_mut() {
            Some(Part::Own { len, .. }) => *len += bytes.len() as u32,
            _ => self.parts.push_back(Part::Own { at, len: bytes.len() as u32 }),
        }
    }

    /// Sends what there is until the socket takes no more; says whether anything went.
    pub fn flush(&mut self, mut stream: &TcpStream, memory: &[u8]) -> Result<bool> {
        let mut moved = false;
        while !self.parts.is_empty() {
            let mut slices = [IoSlice::new(&[]); BATCH];
            let (mut count, mut left) = (0, self.most);
            for (part, slice) in self.parts.iter().zip(&mut slices) {
                let whole = match *part {
                    Part::Own { at, len } => {
                        let at = (at - self.dropped) as usize;
                        &self.arena[at..at + len as usize]
                    }
                    Part::Payload { at, len } => &memory[at as usize..at as usize + len as usize],
                };
                let rest = if count == 0 { &whole[self.sent..] } else { whole };
                let rest = &rest[..rest.len().min(left)];
                *slice = IoSlice::new(rest);
                left -= rest.len();
                count += 1;
                if left == 0 {
                    break;
                }
            }
            self.writes += 1;
            let sent = unless_blocked(stream.write_vectored(&slices[..count]));
            let Some(n) = sent.map_err(|e| Error::io("sending", e))? else { break };
            moved = true;
            self.advance(n);
        }
        Ok(moved)
    }

    /// Drops `n` sent bytes.
    fn advance(&mut self, mut n: usize) {
        while let Some(part) = self.parts.front() {
            let (Part::Own { len, .. } | Part::Payload { len, .. }) = *part;
            let left = len as usize - self.sent;
            if n < left {
                self.sent += n;
                break;
            }
            n -= left;
            self.sent = 0;
            self.parts.pop_front();
        }
        self.compact();
    }

    /// Frees arena memory whose bytes are sent.
    fn compact(&mut self) {
        if self.parts.is_empty() {
            self.dropped += self.arena.len() as u64;
            self.arena.clear();
            return;
        }
        let first = self.parts.iter().find_map(|p| match p {
            Part::Own { at, .. } => Some(*at),
            Part::Payload { .. } => None,
        });
        let gone = (first.unwrap_or(self.dropped + self.arena.len() as u64) - self.dropped) as usize;
        if gone >= COMPACT {
            self.arena.drain(..gone);
            self.dropped += gone as u64;
        }
    }
}

/// A read or write of the NVM command set: `blocks` logical blocks (1..=65,536) from `lba` on.
#[inline]
pub fn io_command(opcode: u8, cid: u16, nsid: u32, lba: u64, blocks: u32, sgl: Sgl) -> Sqe {
    Sqe {
        opcode,
        flags: 0x40,
        cid: U16::new(cid),
        nsid: U32::new(nsid),
        sgl,
        cdw10: U32::new(lba as u32),
        cdw11: U32::new((lba >> 32) as u32),
        cdw12: U32::new(blocks - 1),
        ..Sqe::default()
    }
}
