//! Parsing of what the host sends.

use super::sgl::{self, Place};
use super::table::{self, Act, Happens, State, Step, Use};
use super::{ADMIN_IN_CAPSULE, Body, Event, Receiving, Session};
use crate::crc;
use crate::fatal::Fatal;
use crate::frame::{AT_FLAGS, Assembly, Digests, Layout, Shape, check_header};
use caisson_block::{BufList, Completions, Mono};
use caisson_wire::opcode::{self, fctype};
use caisson_wire::pdu::{self, CommonHeader, DIGEST_LEN, DataPdu, Fes, IcReq, IcResp, flag, kind};
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::zerocopy::{FromBytes, IntoBytes};
use caisson_wire::{Sqe, Status};

/// What a step of the parser came to.
enum Flow {
    /// More bytes (or a slot) are needed.
    Wait,
    /// Go on parsing.
    More,
    /// Something for the caller.
    Event(Event),
}

/// Byte offsets of fields in the PDU-specific headers, for FEI.
const AT_PFV: u32 = 8;
const AT_HPDA: u32 = 10;
const AT_CCCID: u32 = 8;
const AT_TTAG: u32 = 10;
const AT_DATAO: u32 = 12;
const AT_DATAL: u32 = 16;

impl Session {
    /// The next event of what was received; `None` when more bytes are needed (or [`Session::stalled`], or
    /// [`Session::closing`]). Lists of data come from `spare`.
    #[inline]
    pub fn next(&mut self, now: Mono, spare: &mut Completions) -> Option<Event> {
        while self.fatal.is_none() {
            let flow = if self.receiving.is_some() { self.body(now, spare) } else { self.header(now, spare) };
            match flow {
                Ok(Flow::Event(event)) => {
                    self.half_since = None;
                    return Some(event);
                }
                Ok(Flow::More) => {}
                Ok(Flow::Wait) => {
                    self.note_half(now);
                    self.check_time(now);
                    return None;
                }
                Err(fatal) => self.fail_here(fatal),
            }
        }
        None
    }

    /// Fails with the header that the reader stands at, as far as it has come.
    #[cold]
    fn fail_here(&mut self, fatal: Fatal) {
        match self.receiving.is_none().then(|| self.reader.offending()) {
            Some((header, len)) => self.fail(fatal, &header[..len]),
            None => self.fail(fatal, &[]),
        }
    }

    #[inline]
    fn header(&mut self, now: Mono, spare: &mut Completions) -> Result<Flow, Fatal> {
        let Some(head) = self.reader.head(pdu::CH_LEN) else { return Ok(Flow::Wait) };
        let Ok((ch, _)) = CommonHeader::read_from_prefix(head) else { return Ok(Flow::Wait) };
        match table::step(self.state, ch.kind) {
            Step::Command => self.command(&ch, spare),
            Step::Data => self.h2c_header(&ch, now, spare),
            Step::Handshake => self.handshake(&ch),
            Step::Terminated => self.terminated(),
            Step::OutOfSequence => Err(Fatal::sequence("a PDU type that does not belong here")),
            Step::WrongType => Err(Fatal::field(0, "a PDU type that no host sends")),
            Step::Drop => Ok(Flow::Wait),
        }
    }

    /// A command capsule (TCP 1.1, 3.6.2.6).
    #[inline]
    fn command(&mut self, ch: &CommonHeader, spare: &mut Completions) -> Result<Flow, Fatal> {
        let shape = Shape {
            hlen: pdu::CMD_HLEN as u8,
            data: true,
            max_data: self.in_capsule,
            excess: Fes::InvalidHeaderField,
        };
        let layout = Layout::of(ch, shape, self.digests, self.host_align())?;
        if !self.slots.has_free() {
            if self.slots.any_out() {
                // The data that would free a slot may lie behind this command: waiting could be for ever.
                return Err(Fatal::sequence("more commands than slots while data is awaited"));
            }
            self.stalled = true;
            return Ok(Flow::Wait);
        }
        self.stalled = false;
        let Some(head) = self.reader.head(layout.head) else { return Ok(Flow::Wait) };
        if self.digests.header {
            check_header(head, layout.hlen)?;
        }
        let Some(sqe) = Sqe::decode(&head[pdu::CH_LEN..]) else { return Ok(Flow::Wait) };
        self.reader.consume(layout.head);
        let place = sgl::place(&sqe, layout.data);
        if layout.data == 0 {
            return Ok(Flow::Event(self.admit(sqe, place, BufList::new())));
        }
        let body = if matches!(place, Place::InCapsule { .. }) { Body::Capsule } else { Body::Unused };
        if body == Body::Capsule {
            self.assembly = Assembly::new(spare.list());
        }
        self.incoming = Some((sqe, layout.data));
        self.receiving = Some(Receiving::new(body, &layout, false));
        Ok(Flow::More)
    }

    /// Gives a command a slot.
    #[inline]
    fn admit(&mut self, sqe: Sqe, place: Place, data: BufList) -> Event {
        let connect = sqe.opcode == opcode::FABRICS && sqe.fctype() == fctype::CONNECT;
        if connect {
            // Connect's QID is in CDW10 bits 31:16 (Base 2.1, 6.3).
            let io = sqe.cdw10.get() >> 16 != 0;
            let limit = if io { self.config.in_capsule } else { ADMIN_IN_CAPSULE };
            self.in_capsule = limit.max(ADMIN_IN_CAPSULE);
        }
        let room = if let Place::Transport { len } = place { len } else { 0 };
        let slot = self.slots.admit(sqe.cid.get(), room, connect);
        Event::Command { slot, sqe, payload: sgl::payload(place, data) }
    }

    /// The header of an H2CData PDU (TCP 1.1, 3.6.2.8).
    fn h2c_header(&mut self, ch: &CommonHeader, now: Mono, spare: &mut Completions) -> Result<Flow, Fatal> {
        let shape = Shape {
            hlen: pdu::DATA_HLEN as u8,
            data: true,
            max_data: self.config.max_h2c,
            excess: Fes::LimitExceeded,
        };
        let layout = Layout::of(ch, shape, self.digests, self.host_align())?;
        let Some(h) = self.reader.header::<DataPdu>(&layout, self.digests)? else { return Ok(Flow::Wait) };
        let (tag, len, last) = (h.ttag.get(), h.datal.get(), ch.flags & flag::LAST != 0);
        let Some(t) = self.slots.transfer(tag) else {
            return Err(Fatal::field(AT_TTAG, "TTAG is of no R2T that is out"));
        };
        let (slot, due, end) = (t.slot, t.offset + t.got, t.offset + t.len);
        let fresh = t.got == 0;
        if self.slots.get(slot).is_none_or(|s| s.cid != h.cccid.get()) {
            return Err(Fatal::field(AT_CCCID, "CCCID is not the command that the R2T was for"));
        }
        if len != layout.data || len == 0 {
            return Err(Fatal::field(AT_DATAL, "DATAL is zero or not what PLEN leaves for data"));
        }
        let datao = h.datao.get();
        if datao.checked_add(len).is_none_or(|to| to > end) || datao < due {
            return Err(Fatal::other(
                Fes::DataTransferOutOfRange,
                0,
                "H2CData outside what its R2T asked for",
            ));
        }
        if datao != due {
            return Err(Fatal::field(AT_DATAO, "H2CData out of order"));
        }
        if last != (due + len == end) {
            return Err(Fatal::field(AT_FLAGS, "LAST_PDU is not on the last PDU of the R2T"));
        }
        if !last && !len.is_multiple_of(4) {
            return Err(Fatal::field(AT_DATAL, "DATAL is not in dwords before the last PDU"));
        }
        self.reader.consume(layout.head);
        self.progress = now;
        if fresh && let Some(t) = self.slots.transfer(tag) {
            t.data = Assembly::new(spare.list());
        }
        self.receiving = Some(Receiving::new(Body::Transfer(tag), &layout, last));
        Ok(Flow::More)
    }

    /// The data of a PDU, and its digest.
    #[inline]
    fn body(&mut self, now: Mono, spare: &mut Completions) -> Result<Flow, Fatal> {
        let Some(r) = &mut self.receiving else { return Ok(Flow::More) };
        while r.left > 0 {
            let Some(part) = self.reader.take(r.left as usize) else { return Ok(Flow::Wait) };
            r.left -= part.len() as u32;
            if r.ddgst {
                r.crc = crc::append(r.crc, &part);
            }
            match r.body {
                Body::Capsule => {
                    let whole = self.incoming.as_ref().map_or(0, |(_, len)| *len as usize);
                    self.assembly.push(part, whole);
                }
                Body::Unused => {}
                Body::Transfer(tag) => {
                    let Some(t) = self.slots.transfer(tag) else { continue };
                    t.got += part.len() as u32;
                    t.data.push(part, t.len as usize);
                }
            }
        }
        let mut intact = true;
        if r.ddgst {
            let Some(digest) = self.reader.head(DIGEST_LEN) else { return Ok(Flow::Wait) };
            intact = digest == r.crc.to_le_bytes();
            self.reader.consume(DIGEST_LEN);
        }
        let (body, last) = (r.body, r.last);
        self.receiving = None;
        self.half_since = None;
        Ok(match body {
            Body::Transfer(tag) => self.data_end(tag, last, intact, now, spare),
            Body::Capsule | Body::Unused => self.capsule_end(intact, spare),
        })
    }

    #[inline]
    fn capsule_end(&mut self, intact: bool, spare: &mut Completions) -> Flow {
        let Some((sqe, inside)) = self.incoming.take() else { return Flow::More };
        let data = self.assembly.finish();
        if !intact {
            // Not fatal: the command is completed with Transient Transport Error (TCP 1.1, 3.3.1.1).
            spare.recycle(data);
            return Flow::Event(self.admit(
                sqe,
                Place::Bad(Status::TRANSIENT_TRANSPORT_ERROR),
                BufList::new(),
            ));
        }
        Flow::Event(self.admit(sqe, sgl::place(&sqe, inside), data))
    }

    /// An H2CData PDU is whole.
    fn data_end(&mut self, tag: u16, last: bool, intact: bool, now: Mono, spare: &mut Completions) -> Flow {
        if !intact && let Some(t) = self.slots.transfer(tag) {
            let slot = t.slot;
            if let Some(s) = self.slots.get(slot) {
                s.damaged = true;
            }
        }
        if !last {
            return Flow::More;
        }
        let slot = self.slots.close_transfer(tag, spare);
        let Some(s) = self.slots.get(slot) else { return Flow::More };
        let flow = if s.out == 0 { self.r2ts_answered(slot, spare) } else { Flow::More };
        if self.slots.get(slot).is_some_and(|s| s.state == Use::Pulling) {
            self.slots.enqueue(slot);
        }
        self.send_r2ts(now);
        flow
    }

    /// No R2T of the slot is out any more.
    fn r2ts_answered(&mut self, slot: u32, spare: &mut Completions) -> Flow {
        let Some(s) = self.slots.get(slot) else { return Flow::More };
        let happens = match (s.damaged, s.asked == s.want) {
            (true, _) => Happens::Damaged,
            (false, true) => Happens::AllIn,
            (false, false) => Happens::SomeIn,
        };
        let (state, act) = table::slot_step(s.state, happens);
        let cqe = s.deferred;
        if act != Act::AnswerDeferred {
            s.state = state;
        }
        match act {
            Act::AnswerDeferred => {
                spare.recycle(self.slots.collect(slot));
                self.respond(slot, cqe);
                Flow::More
            }
            Act::GiveDamage => {
                spare.recycle(self.slots.collect(slot));
                Flow::Event(Event::Damaged { slot, status: Status::TRANSIENT_TRANSPORT_ERROR })
            }
            Act::GiveData => Flow::Event(Event::Data { slot, data: self.slots.collect(slot) }),
            _ => Flow::More,
        }
    }

    /// ICReq (TCP 1.1, 3.6.2.2), answered with ICResp.
    fn handshake(&mut self, ch: &CommonHeader) -> Result<Flow, Fatal> {
        // FLAGS and PDO are reserved here, and there are no digests yet.
        let bare = CommonHeader { flags: 0, pdo: 0, ..*ch };
        let shape =
            Shape { hlen: pdu::IC_LEN as u8, data: false, max_data: 0, excess: Fes::InvalidHeaderField };
        let layout = Layout::of(&bare, shape, Digests::default(), 4)?;
        let Some(req) = self.reader.header::<IcReq>(&layout, Digests::default())? else {
            return Ok(Flow::Wait);
        };
        if req.pfv.get() != 0 {
            return Err(Fatal::other(Fes::UnsupportedParameter, AT_PFV, "PFV is not 0"));
        }
        if req.hpda > 31 {
            return Err(Fatal::field(AT_HPDA, "HPDA is over 31"));
        }
        self.reader.consume(layout.head);
        self.half_since = None;
        self.align = (u32::from(req.hpda) + 1) * 4;
        self.maxr2t = req.maxr2t.get().saturating_add(1);
        let asked = Digests::from_field(req.dgst);
        self.digests = Digests {
            header: asked.header && self.config.header_digest,
            data: asked.data && self.config.data_digest,
        };
        let resp = IcResp {
            ch: CommonHeader {
                kind: kind::IC_RESP,
                flags: 0,
                hlen: pdu::IC_LEN as u8,
                pdo: 0,
                plen: U32::new(pdu::IC_LEN as u32),
            },
            pfv: U16::new(0),
            cpda: self.config.cpda,
            dgst: self.digests.field(),
            maxh2cdata: U32::new(self.config.max_h2c),
            rsvd: [0; 112],
        };
        self.tx.head(pdu::IC_LEN).copy_from_slice(resp.as_bytes());
        self.state = State::Ready;
        Ok(Flow::More)
    }

    /// H2CTermReq (TCP 1.1, 3.6.2.4): whatever else is wrong with it, the host wants to end.
    #[cold]
    fn terminated(&mut self) -> Result<Flow, Fatal> {
        let Some((fes, fei)) = self.reader.termination() else { return Ok(Flow::Wait) };
        self.fail(Fatal::Terminated { fes, fei }, &[]);
        Ok(Flow::Event(Event::Terminated { fes, fei }))
    }

    /// Alignment of data in host PDUs, in bytes.
    #[inline]
    fn host_align(&self) -> u32 {
        (u32::from(self.config.cpda) + 1) * 4
    }
}
