//! What the controller sends: R2T, C2HData and response capsules.

use super::Session;
use super::table::{Act, Happens, Use, slot_step};
use crate::crc;
use caisson_block::{BufList, Completions, Mono};
use caisson_wire::pdu::{self, CapsuleResp, CommonHeader, DIGEST_LEN, DataPdu, R2t, flag, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Cqe, Status};

/// SQHD in Connect's answer when SQ flow control is disabled (Base 2.1, 6.3).
const SQHD_DISABLED: u16 = 0xffff;

impl Session {
    /// Asks the host for the first `len` bytes of the command's data: R2Ts, as many as its MAXR2T and our window allow.
    /// [`super::Event::Data`] follows, or [`super::Event::Damaged`]. Once a command, for a [`super::Payload::Transport`]
    /// of at least `len`; `len` is at least 1.
    ///
    /// # Errors
    /// `false` when the slot is not one that can be pulled so: nothing was asked for.
    pub fn pull(&mut self, slot: u32, len: u32, now: Mono) -> bool {
        let Some(s) = self.slots.get(slot) else { return false };
        let (state, act) = slot_step(s.state, Happens::Pull);
        if act != Act::Ask || len == 0 || len > s.room || self.fatal.is_some() {
            return false;
        }
        (s.state, s.want, s.asked) = (state, len, 0);
        self.slots.enqueue(slot);
        self.send_r2ts(now);
        true
    }

    /// Sends the R2Ts that may go out now.
    pub(super) fn send_r2ts(&mut self, now: Mono) {
        let max_len = (self.config.max_r2t & !3).max(4);
        while let Some(tag) = self.slots.next_r2t(self.maxr2t, max_len, self.config.r2t_window) {
            let Some(t) = self.slots.transfer(tag) else { return };
            let (slot, offset, len) = (t.slot, t.offset, t.len);
            let Some(s) = self.slots.get(slot) else { return };
            let cid = s.cid;
            let r2t = R2t {
                ch: self.bare_header(kind::R2T, pdu::DATA_HLEN),
                cccid: U16::new(cid),
                ttag: U16::new(tag),
                r2to: U32::new(offset),
                r2tl: U32::new(len),
                rsvd: [0; 4],
            };
            self.put(r2t.as_bytes());
            self.progress = now;
        }
    }

    /// Answers the command in `slot` and frees it: C2HData when the status is success and there is `data`, then the
    /// response, or the SUCCESS flag in its place where the response would say nothing more and SQ flow control was
    /// disabled. The emptied list goes to `spare`. Data that is more than the command's SGL has room for becomes Data SGL
    /// Length Invalid.
    ///
    /// While data that R2Ts asked for is still on its way, the answer waits for it: a host may not be told that a
    /// command is done whose data it is sending.
    #[inline]
    pub fn reply(&mut self, slot: u32, cqe: Cqe, mut data: BufList, spare: &mut Completions) {
        let Some(s) = self.slots.get(slot) else { return spare.recycle(data) };
        let (room, cid) = (s.room, s.cid);
        let happens = if s.out > 0 { Happens::ReplyEarly } else { Happens::Reply };
        let (state, act) = slot_step(s.state, happens);
        if act != Act::Answer {
            debug_assert!(act == Act::Defer, "a command is answered once");
            if act == Act::Defer {
                (s.state, s.deferred) = (state, cqe);
            }
            return spare.recycle(data);
        }
        if data.is_empty() || !cqe.status().is_success() {
            self.respond(slot, cqe);
        } else if data.len() > room as usize {
            // More than the host has room for would overwrite its memory (Base 2.1, Data SGL Length Invalid: too short).
            let status = U16::new(Status::INVALID_SGL_LENGTH.dnr().field());
            self.respond(slot, Cqe { status, ..cqe });
        } else if self.fatal.is_none() {
            let implied = !self.sqhd_owed && cqe.result() == 0 && cqe.status.get() == 0;
            self.send_data(cid, &mut data, implied);
            if implied {
                self.slots.release(slot);
            } else {
                self.respond(slot, cqe);
            }
        } else {
            self.slots.release(slot);
        }
        spare.recycle(data);
    }

    /// Frees the slot without an answer, at teardown.
    pub fn forget(&mut self, slot: u32) {
        match self.slots.get(slot) {
            Some(s) if s.out == 0 && slot_step(s.state, Happens::Forget).1 == Act::Release => {
                debug_assert!(s.state != Use::Free);
                self.slots.release(slot);
            }
            _ => {}
        }
    }

    /// The response capsule (TCP 1.1, 3.6.2.7); frees the slot.
    #[inline]
    pub(super) fn respond(&mut self, slot: u32, cqe: Cqe) {
        let connect = self.slots.get(slot).is_some_and(|s| s.connect);
        self.slots.release(slot);
        if self.fatal.is_some() {
            return;
        }
        if connect && cqe.status().is_success() && cqe.sqhd.get() == SQHD_DISABLED {
            self.sqhd_owed = false;
        }
        let capsule = CapsuleResp { ch: self.bare_header(kind::CAPSULE_RESP, pdu::RESP_HLEN), cqe };
        self.put(capsule.as_bytes());
    }

    /// The common header of a PDU without data.
    #[inline]
    fn bare_header(&self, kind: u8, hlen: usize) -> CommonHeader {
        let flags = if self.digests.header { flag::HDGST } else { 0 };
        let plen = U32::new((hlen + self.digests.header_len()) as u32);
        CommonHeader { kind, flags, hlen: hlen as u8, pdo: 0, plen }
    }

    /// Queues a header and its digest.
    #[inline]
    fn put(&mut self, header: &[u8]) {
        if self.digests.header {
            let room = self.tx.head(header.len() + DIGEST_LEN);
            let (h, d) = room.split_at_mut(header.len());
            h.copy_from_slice(header);
            d.copy_from_slice(&crc::crc32c(header).to_le_bytes());
        } else {
            self.tx.head(header.len()).copy_from_slice(header);
        }
    }

    /// C2HData PDUs (TCP 1.1, 3.6.2.9) for all of `data`, of at most `max_c2h` bytes each.
    #[inline]
    fn send_data(&mut self, cid: u16, data: &mut BufList, implied: bool) {
        let total = data.len();
        let most = (self.config.max_c2h & !3).max(4) as usize;
        if total <= most {
            self.data_header(cid, 0, total, true, implied);
            let mut crc = 0;
            for part in data.drain() {
                if self.digests.data {
                    crc = crc::append(crc, &part);
                }
                self.tx.data(part);
            }
            if self.digests.data {
                self.tx.head(DIGEST_LEN).copy_from_slice(&crc.to_le_bytes());
            }
            return;
        }
        self.send_split(cid, data, most, implied);
    }

    fn send_split(&mut self, cid: u16, data: &mut BufList, most: usize, implied: bool) {
        let total = data.len();
        let (mut at, mut left, mut crc) = (0, 0, 0);
        for mut part in data.drain() {
            while !part.is_empty() {
                if left == 0 {
                    left = most.min(total - at);
                    let last = at + left == total;
                    self.data_header(cid, at, left, last, implied);
                    crc = 0;
                }
                let piece = part.split_to(left);
                (at, left) = (at + piece.len(), left - piece.len());
                if self.digests.data {
                    crc = crc::append(crc, &piece);
                }
                self.tx.data(piece);
                if left == 0 && self.digests.data {
                    self.tx.head(DIGEST_LEN).copy_from_slice(&crc.to_le_bytes());
                }
            }
        }
    }

    /// The header, digest and padding of one C2HData PDU.
    #[inline]
    fn data_header(&mut self, cid: u16, offset: usize, len: usize, last: bool, implied: bool) {
        let bare = pdu::DATA_HLEN + self.digests.header_len();
        // HPDA: data starts at a multiple of it, counted from the start of the PDU.
        let head = bare.next_multiple_of(self.align as usize);
        let mut flags = if last { flag::LAST } else { 0 };
        if last && implied {
            flags |= flag::SUCCESS;
        }
        if self.digests.header {
            flags |= flag::HDGST;
        }
        if self.digests.data {
            flags |= flag::DDGST;
        }
        let header = DataPdu {
            ch: CommonHeader {
                kind: kind::C2H_DATA,
                flags,
                hlen: pdu::DATA_HLEN as u8,
                pdo: head as u8,
                plen: U32::new((head + len + self.digests.data_len()) as u32),
            },
            cccid: U16::new(cid),
            ttag: U16::new(0),
            datao: U32::new(offset as u32),
            datal: U32::new(len as u32),
            rsvd: [0; 4],
        };
        self.put(header.as_bytes());
        if head > bare {
            self.tx.head(head - bare).fill(0);
        }
    }
}
