//! What the host sends: command capsules and H2CData.

use super::{CommandError, Out, Session, State, Transfer};
use crate::crc;
use caisson_block::BufList;
use caisson_wire::pdu::{self, CapsuleCmd, CommonHeader, DIGEST_LEN, DataPdu, flag, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Sgl, Sqe};

impl Session {
    /// Sends `sqe`, whose CID is free, with PSDT and SGL1 set for `data`. CIDs index a table: keep them dense.
    ///
    /// # Errors
    /// The command was not sent, and `data` is dropped.
    #[inline]
    pub fn command(&mut self, mut sqe: Sqe, data: Transfer) -> Result<(), CommandError> {
        sqe.flags = sqe.flags & 0x3f | 0x40;
        let cid = sqe.cid.get();
        match data {
            Transfer::None => {
                sqe.sgl = Sgl::transport(0);
                self.expect(cid, 0, BufList::new())?;
            }
            Transfer::In(len) => {
                sqe.sgl = Sgl::transport(len);
                self.expect(cid, len, BufList::new())?;
            }
            Transfer::Out(list) if list.len() <= self.in_capsule as usize => {
                sqe.sgl = Sgl::in_capsule(0, list.len() as u32);
                self.expect(cid, 0, BufList::new())?;
                self.capsule(&sqe, list);
                return Ok(());
            }
            Transfer::Out(list) => {
                sqe.sgl = Sgl::transport(list.len() as u32);
                self.expect(cid, 0, list)?;
            }
        }
        self.put_capsule(&sqe, 0, 0);
        Ok(())
    }

    /// Sends `sqe` exactly as it is, with `inside` as its in-capsule data, and is ready to receive `room` bytes or to
    /// send `outside` for it. For conformance tests: nothing is checked but that the CID is free.
    ///
    /// # Errors
    /// The command was not sent.
    pub fn command_as_is(
        &mut self,
        sqe: Sqe,
        inside: BufList,
        room: u32,
        outside: BufList,
    ) -> Result<(), CommandError> {
        self.expect(sqe.cid.get(), room, outside)?;
        self.capsule(&sqe, inside);
        Ok(())
    }

    #[inline]
    fn expect(&mut self, cid: u16, room: u32, data: BufList) -> Result<(), CommandError> {
        if self.state != State::Ready {
            return Err(CommandError::NotReady);
        }
        if usize::from(cid) >= self.out.len() {
            self.out.resize_with(usize::from(cid) + 1, Out::default);
        }
        let out = &mut self.out[usize::from(cid)];
        if out.active {
            return Err(CommandError::CidInUse(cid));
        }
        *out = Out { active: true, damaged: false, room, got: 0, data, asked: 0 };
        self.in_flight += 1;
        Ok(())
    }

    /// A capsule with all of `data` in it.
    #[inline]
    fn capsule(&mut self, sqe: &Sqe, mut data: BufList) {
        let len = data.len();
        if len == 0 {
            self.put_capsule(sqe, 0, 0);
            return self.recycle(data);
        }
        let bare = pdu::CMD_HLEN + self.digests.header_len();
        let head = bare.next_multiple_of(self.align as usize);
        self.put_capsule(sqe, head, len);
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
        self.recycle(data);
    }

    /// A capsule's header; its data, `len` bytes, starts at `head` where there is some.
    #[inline]
    fn put_capsule(&mut self, sqe: &Sqe, head: usize, len: usize) {
        let bare = pdu::CMD_HLEN + self.digests.header_len();
        let ch = self.header(kind::CAPSULE_CMD, pdu::CMD_HLEN, bare, head, len);
        self.put(CapsuleCmd { ch, sqe: *sqe }.as_bytes());
        if head > bare {
            self.tx.head(head - bare).fill(0);
        }
    }

    #[inline]
    fn header(&self, kind: u8, hlen: usize, bare: usize, head: usize, len: usize) -> CommonHeader {
        let mut flags = if self.digests.header { flag::HDGST } else { 0 };
        let mut plen = bare;
        if len > 0 {
            plen = head + len + self.digests.data_len();
            if self.digests.data {
                flags |= flag::DDGST;
            }
        }
        CommonHeader { kind, flags, hlen: hlen as u8, pdo: head as u8, plen: U32::new(plen as u32) }
    }

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

    /// H2CData for bytes `from..from + len` of the command's data, in PDUs of at most MAXH2CDATA (TCP 1.1, 3.6.2.8).
    pub(super) fn send_data(&mut self, cid: u16, ttag: u16, from: u32, len: u32) {
        let data = std::mem::take(&mut self.out[usize::from(cid)].data);
        let (mut at, end) = (from, from + len);
        let mut parts = data.parts().iter();
        // The part that `at` is in, from `at` on.
        let (mut part, mut skip) = (caisson_block::Buf::empty(), from as usize);
        while at < end {
            let whole = (end - at).min(self.max_h2c);
            self.data_header(cid, ttag, at, whole, at + whole == end);
            let (mut left, mut crc) = (whole as usize, 0);
            while left > 0 {
                while part.is_empty() {
                    let Some(next) = parts.next() else { break };
                    if skip >= next.len() {
                        skip -= next.len();
                        continue;
                    }
                    part = next.clone();
                    part.advance(skip);
                    skip = 0;
                }
                let piece = part.split_to(left);
                assert!(!piece.is_empty(), "an R2T was checked to be inside the data");
                left -= piece.len();
                if self.digests.data {
                    crc = crc::append(crc, &piece);
                }
                self.tx.data(piece);
            }
            if self.digests.data {
                self.tx.head(DIGEST_LEN).copy_from_slice(&crc.to_le_bytes());
            }
            at += whole;
        }
        self.out[usize::from(cid)].data = data;
    }

    fn data_header(&mut self, cid: u16, ttag: u16, offset: u32, len: u32, last: bool) {
        let bare = pdu::DATA_HLEN + self.digests.header_len();
        let head = bare.next_multiple_of(self.align as usize);
        let mut ch = self.header(kind::H2C_DATA, pdu::DATA_HLEN, bare, head, len as usize);
        if last {
            ch.flags |= flag::LAST;
        }
        let header = DataPdu {
            ch,
            cccid: U16::new(cid),
            ttag: U16::new(ttag),
            datao: U32::new(offset),
            datal: U32::new(len),
            rsvd: [0; 4],
        };
        self.put(header.as_bytes());
        if head > bare {
            self.tx.head(head - bare).fill(0);
        }
    }
}
