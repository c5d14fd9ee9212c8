//! The ideal peer: a RAM disk behind NVMe/TCP that checks nothing, to say what the load generator itself can drive and to
//! test this crate by itself.
//!
//! One polling thread, one namespace, no queue rules, no access control, no error paths: whatever is not understood ends
//! the connection. It is no target and must never become one.

use crate::net::unless_blocked;
use crate::sys;
use crate::transport::{Framing, Tx};
use caisson_wire::opcode::{self, admin, fctype, io as nvm};
use caisson_wire::pdu::{CH_LEN, CapsuleCmd, CommonHeader, DataPdu, IC_LEN, IcReq, IcResp, flag, kind};
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::zerocopy::{FromBytes, IntoBytes};
use caisson_wire::{Cqe, Sqe, Status};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// What it advertises as MAXH2CDATA.
const MAX_H2C: u32 = 128 << 10;
/// In-capsule data that it takes, in bytes.
const IN_CAPSULE: u32 = 8 << 10;
/// Received bytes held: more than the largest PDU.
const BUFFER: usize = 512 << 10;
/// Its block size.
const LBA: usize = 4096;

/// An ideal peer on a thread of this process; stopped when dropped.
#[derive(Debug)]
pub struct Ideal {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ideal {
    /// Starts one with `bytes` of memory (made a multiple of its block size), pinned to `core`.
    ///
    /// # Errors
    /// When it cannot listen on the loopback address.
    pub fn start(bytes: usize, core: Option<usize>) -> io::Result<Ideal> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("ideal".into()).spawn(move || {
            if let Some(core) = core {
                // An impossible core shows where the caller pins itself.
                let _ = sys::pin(core);
            }
            // The first pages hold answers of admin commands, the disk follows.
            let mut memory = vec![0; LBA + bytes.next_multiple_of(LBA)];
            let mut open: Vec<Conn> = Vec::new();
            let mut turn = 0u32;
            while !seen.load(Ordering::Relaxed) {
                turn = turn.wrapping_add(1);
                if (turn.is_multiple_of(1024) || open.is_empty())
                    && let Ok((stream, _)) = listener.accept()
                {
                    open.extend(Conn::new(stream).ok());
                }
                open.retain_mut(|c| c.turn(&mut memory).is_ok());
                if open.is_empty() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        })?;
        Ok(Ideal { port, stop, thread: Some(thread) })
    }

    /// Where it listens, on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Ideal {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Conn {
    stream: TcpStream,
    buffer: Box<[u8]>,
    end: usize,
    tx: Tx,
    enabled: bool,
    /// Where in memory the command that an R2T asked for goes, by CID.
    writes: Vec<u64>,
}

fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl Conn {
    fn new(stream: TcpStream) -> io::Result<Conn> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let framing = Framing { header_digest: false, data_digest: false, align: 4, max_h2c: MAX_H2C };
        let (buffer, tx) = (vec![0; BUFFER].into(), Tx::new(framing, 1024));
        Ok(Conn { stream, buffer, end: 0, tx, enabled: false, writes: vec![0; 65536] })
    }

    fn turn(&mut self, memory: &mut [u8]) -> io::Result<()> {
        let room = self.buffer.len().min(self.end + (256 << 10));
        if let Some(n) = unless_blocked(self.stream.read(&mut self.buffer[self.end..room]))? {
            if n == 0 {
                return Err(broken());
            }
            self.end += n;
            let mut at = 0;
            while let Some(plen) = whole(&self.buffer[at..self.end]) {
                self.pdu(at, plen, memory)?;
                at += plen;
            }
            self.buffer.copy_within(at..self.end, 0);
            self.end -= at;
        }
        self.tx.flush(&self.stream, memory).map_err(|_| broken()).map(drop)
    }

    fn pdu(&mut self, at: usize, plen: usize, memory: &mut [u8]) -> io::Result<()> {
        match self.buffer[at] {
            kind::IC_REQ => self.greet(at),
            kind::CAPSULE_CMD => {
                let (c, _) = CapsuleCmd::read_from_prefix(&self.buffer[at..]).map_err(|_| broken())?;
                let data = at + usize::from(c.ch.pdo)..at + plen;
                self.command(&c.sqe, data, memory)
            }
            kind::H2C_DATA => {
                let (h, _) = DataPdu::read_from_prefix(&self.buffer[at..]).map_err(|_| broken())?;
                let to = (self.writes[usize::from(h.cccid.get())] + u64::from(h.datao.get())) as usize;
                let len = h.datal.get() as usize;
                let from = at + usize::from(h.ch.pdo);
                let data = self.buffer.get(from..from + len).ok_or_else(broken)?;
                memory.get_mut(to..to + len).ok_or_else(broken)?.copy_from_slice(data);
                if h.ch.flags & flag::LAST != 0 {
                    self.reply(Cqe::new(h.cccid.get(), Status::SUCCESS));
                }
                Ok(())
            }
            _ => Err(broken()),
        }
    }

    fn greet(&mut self, at: usize) -> io::Result<()> {
        let (req, _) = IcReq::read_from_prefix(&self.buffer[at..]).map_err(|_| broken())?;
        let ch =
            CommonHeader { kind: kind::IC_RESP, flags: 0, hlen: 128, pdo: 0, plen: U32::new(IC_LEN as u32) };
        let dgst = req.dgst & 3;
        let resp =
            IcResp { ch, pfv: U16::new(0), cpda: 0, dgst, maxh2cdata: U32::new(MAX_H2C), rsvd: [0; 112] };
        self.stream.write_all(resp.as_bytes())?;
        let (header_digest, data_digest) = (dgst & 1 != 0, dgst & 2 != 0);
        self.tx = Tx::new(Framing { header_digest, data_digest, align: 4, max_h2c: MAX_H2C }, 1024);
        Ok(())
    }

    fn reply(&mut self, cqe: Cqe) {
        let mut rest = [0; 16];
        rest.copy_from_slice(cqe.as_bytes());
        self.tx.short(kind::CAPSULE_RESP, &rest);
    }

    #[inline]
    fn command(&mut self, sqe: &Sqe, data: std::ops::Range<usize>, memory: &mut [u8]) -> io::Result<()> {
        if sqe.opcode != nvm::READ && sqe.opcode != nvm::WRITE || sqe.nsid.get() != 1 {
            return self.admin(sqe, memory);
        }
        let len = sqe.sgl.length.get() as usize;
        let at = LBA as u64 + sqe.slba() * LBA as u64;
        if at.checked_add(len as u64).is_none_or(|end| end > memory.len() as u64) {
            self.reply(Cqe::new(sqe.cid.get(), Status::LBA_OUT_OF_RANGE.dnr()));
        } else if sqe.opcode == nvm::READ {
            self.tx.answer(sqe.cid, at, len as u32, memory);
        } else if sqe.sgl.id == 1 {
            let from = self.buffer.get(data.start..data.start + len).ok_or_else(broken)?;
            memory[at as usize..at as usize + len].copy_from_slice(from);
            self.reply(Cqe::new(sqe.cid.get(), Status::SUCCESS));
        } else {
            self.writes[usize::from(sqe.cid.get())] = at;
            let mut rest = [0; 16];
            rest[..2].copy_from_slice(sqe.cid.as_bytes());
            rest[8..12].copy_from_slice(&(len as u32).to_le_bytes());
            self.tx.short(kind::R2T, &rest);
        }
        Ok(())
    }

    /// As much of the admin queue as a host needs to come to I/O.
    fn admin(&mut self, sqe: &Sqe, memory: &mut [u8]) -> io::Result<()> {
        let ok = Cqe::new(sqe.cid.get(), Status::SUCCESS);
        let answer = match (sqe.opcode, sqe.fctype()) {
            (opcode::FABRICS, fctype::CONNECT) => ok.with_result(1),
            (opcode::FABRICS, fctype::PROPERTY_SET) => {
                self.enabled = sqe.cdw12.get() & 1 != 0;
                ok
            }
            (opcode::FABRICS, fctype::PROPERTY_GET) => ok.with_result(match sqe.cdw11.get() {
                // CAP: 1,024 entries, contiguous, 5 s, NVM command set.
                0x00 => 1023 | 1 << 16 | 10 << 24 | 1 << 37,
                0x08 => 0x0002_0100,
                0x1c => u64::from(self.enabled),
                _ => 0,
            }),
            (admin::IDENTIFY, _) => return self.identify(sqe, memory),
            (admin::SET_FEATURES, _) => ok.with_result(0x007f_007f),
            (admin::ASYNC_EVENT, _) => return Ok(()),
            (admin::KEEP_ALIVE | nvm::FLUSH, _) => ok,
            _ => Cqe::new(sqe.cid.get(), Status::INVALID_OPCODE.dnr()),
        };
        self.reply(answer);
        Ok(())
    }

    fn identify(&mut self, sqe: &Sqe, memory: &mut [u8]) -> io::Result<()> {
        // Whatever waits still points at the page that is about to be written.
        while !self.tx.is_empty() {
            self.tx.flush(&self.stream, memory).map_err(|_| broken())?;
        }
        let blocks = (memory.len() - LBA) as u64 / LBA as u64;
        let page = &mut memory[..LBA];
        page.fill(0);
        match sqe.cdw10.get() & 0xff {
            // Namespace: NSZE, NCAP, NUSE, one format of 4,096 bytes.
            0 => {
                for at in [0, 8, 16] {
                    page[at..at + 8].copy_from_slice(&blocks.to_le_bytes());
                }
                page[130] = 12;
            }
            // Controller: MN, MDTS 1 MiB, CNTLID, VER, SQES, CQES, MAXCMD, NN, SGLS, IOCCSZ, IORCSZ.
            1 => {
                page[4..24].fill(b' ');
                page[24..64].fill(b' ');
                page[24..29].copy_from_slice(b"ideal");
                page[77] = 8;
                page[78] = 1;
                page[80..84].copy_from_slice(&0x0002_0100u32.to_le_bytes());
                page[512] = 0x66;
                page[513] = 0x44;
                page[514..516].copy_from_slice(&1024u16.to_le_bytes());
                page[516] = 1;
                page[536..540].copy_from_slice(&0x0010_0001u32.to_le_bytes());
                page[1792..1796].copy_from_slice(&((64 + IN_CAPSULE) / 16).to_le_bytes());
                page[1796..1800].copy_from_slice(&1u32.to_le_bytes());
            }
            // Active namespaces: number 1, when it is above the one asked for.
            2 => page[0] = u8::from(sqe.nsid.get() < 1),
            _ => {
                self.reply(Cqe::new(sqe.cid.get(), Status::INVALID_FIELD.dnr()));
                return Ok(());
            }
        }
        self.tx.answer(sqe.cid, 0, LBA as u32, memory);
        Ok(())
    }
}

/// The length of the PDU that `bytes` starts with, when it is all there.
#[inline]
fn whole(bytes: &[u8]) -> Option<usize> {
    let (ch, _) = CommonHeader::ref_from_prefix(bytes).ok()?;
    let plen = ch.plen.get() as usize;
    (plen >= CH_LEN && plen <= bytes.len()).then_some(plen)
}
