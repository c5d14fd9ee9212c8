//! Parsing of what the controller sends.

use super::{Event, Receiving, Session, State, Step, step};
use crate::crc;
use crate::fatal::Fatal;
use crate::frame::{AT_FLAGS, Digests, Layout, Shape};
use caisson_block::{BufList, Mono};
use caisson_wire::pdu::{self, CapsuleResp, CommonHeader, DIGEST_LEN, DataPdu, Fes, IcResp, R2t, flag};
use caisson_wire::zerocopy::FromBytes;
use caisson_wire::zerocopy::little_endian::U16;
use caisson_wire::{Cqe, Status};

/// What a step of the parser came to.
enum Flow {
    Wait,
    More,
    Event(Event),
}

/// Byte offsets of fields in the PDU-specific headers, for FEI.
const AT_PFV: u32 = 8;
const AT_CPDA: u32 = 10;
const AT_DGST: u32 = 11;
const AT_MAXH2CDATA: u32 = 12;
const AT_CCCID: u32 = 8;
const AT_DATAO: u32 = 12;
const AT_DATAL: u32 = 16;
const AT_R2TO: u32 = 12;
const AT_R2TL: u32 = 16;
/// CID in the completion of a response capsule.
const AT_CID: u32 = 20;

impl Session {
    /// The next event of what was received; `None` when more bytes are needed, or when [`Session::closing`].
    #[inline]
    pub fn next(&mut self, now: Mono) -> Option<Event> {
        while self.fatal.is_none() {
            let flow = if self.receiving.is_some() { self.body() } else { self.header_of_next() };
            match flow {
                Ok(Flow::Event(event)) => {
                    self.half_since = None;
                    return Some(event);
                }
                Ok(Flow::More) => {}
                Ok(Flow::Wait) => {
                    self.check_time(now);
                    return None;
                }
                Err(fatal) => self.fail_here(fatal),
            }
        }
        None
    }

    #[inline]
    fn check_time(&mut self, now: Mono) {
        if self.receiving.is_none() && self.reader.is_empty() {
            self.half_since = None;
        } else if self.half_since.is_none() {
            self.half_since = Some(now);
        }
        if self.deadline().is_some_and(|at| now >= at) {
            let what = if self.state == State::AwaitIcResp { "the handshake" } else { "the rest of a PDU" };
            self.fail(Fatal::TimedOut { what }, &[]);
        }
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
    fn header_of_next(&mut self) -> Result<Flow, Fatal> {
        let Some(head) = self.reader.head(pdu::CH_LEN) else { return Ok(Flow::Wait) };
        let Ok((ch, _)) = CommonHeader::read_from_prefix(head) else { return Ok(Flow::Wait) };
        match step(self.state, ch.kind) {
            Step::Response => self.response(&ch),
            Step::Data => self.c2h_header(&ch),
            Step::R2t => self.r2t(&ch),
            Step::Handshake => self.handshake(&ch),
            Step::Terminated => self.terminated(),
            Step::OutOfSequence => Err(Fatal::sequence("a PDU type that does not belong here")),
            Step::WrongType => Err(Fatal::field(0, "a PDU type that no controller sends")),
            Step::Drop => Ok(Flow::Wait),
        }
    }

    /// The `N`-byte header of a PDU without data, checked and consumed.
    #[inline]
    fn plain<T: FromBytes>(&mut self, ch: &CommonHeader, digests: Digests) -> Result<Option<T>, Fatal> {
        let shape =
            Shape { hlen: size_of::<T>() as u8, data: false, max_data: 0, excess: Fes::InvalidHeaderField };
        let layout = Layout::of(ch, shape, digests, 4)?;
        self.reader.header(&layout, digests)
    }

    /// Bytes of a PDU without data whose header is a `T`.
    #[inline]
    fn plain_len<T>(&self) -> usize {
        size_of::<T>() + self.digests.header_len()
    }

    /// A response capsule (TCP 1.1, 3.6.2.7).
    #[inline]
    fn response(&mut self, ch: &CommonHeader) -> Result<Flow, Fatal> {
        let Some(capsule) = self.plain::<CapsuleResp>(ch, self.digests)? else { return Ok(Flow::Wait) };
        let cid = capsule.cqe.cid.get();
        if !self.out.get(usize::from(cid)).is_some_and(|o| o.active) {
            return Err(Fatal::field(AT_CID, "a response to no command that is out"));
        }
        self.reader.consume(self.plain_len::<CapsuleResp>());
        Ok(Flow::Event(self.complete(cid, capsule.cqe)))
    }

    #[inline]
    fn complete(&mut self, cid: u16, mut cqe: Cqe) -> Event {
        let out = &mut self.out[usize::from(cid)];
        if out.damaged && cqe.status().is_success() {
            cqe.status = U16::new(Status::TRANSIENT_TRANSPORT_ERROR.field());
        }
        let received = out.got;
        out.active = false;
        let data = std::mem::replace(&mut out.data, BufList::new());
        if !data.parts().is_empty() {
            self.recycle(data);
        }
        self.in_flight -= 1;
        Event::Completed { cid, cqe, received }
    }

    /// The header of C2HData (TCP 1.1, 3.6.2.9). Data comes in order of offset, as Linux and SPDK hosts demand too.
    #[inline]
    fn c2h_header(&mut self, ch: &CommonHeader) -> Result<Flow, Fatal> {
        let shape = Shape {
            hlen: pdu::DATA_HLEN as u8,
            data: true,
            max_data: u32::MAX,
            excess: Fes::DataTransferOutOfRange,
        };
        let layout = Layout::of(ch, shape, self.digests, (u32::from(self.config.hpda) + 1) * 4)?;
        let Some(h) = self.reader.header::<DataPdu>(&layout, self.digests)? else { return Ok(Flow::Wait) };
        let (cid, datao, len) = (h.cccid.get(), h.datao.get(), h.datal.get());
        let success = ch.flags & flag::SUCCESS != 0;
        let Some(out) = self.out.get_mut(usize::from(cid)).filter(|o| o.active) else {
            return Err(Fatal::field(AT_CCCID, "data for no command that is out"));
        };
        if len != layout.data || len == 0 {
            return Err(Fatal::field(AT_DATAL, "DATAL is zero or not what PLEN leaves for data"));
        }
        if datao.checked_add(len).is_none_or(|end| end > out.room) {
            return Err(Fatal::other(Fes::DataTransferOutOfRange, 0, "C2HData outside the command's buffer"));
        }
        if datao != out.got {
            return Err(Fatal::field(AT_DATAO, "C2HData out of order"));
        }
        if success && ch.flags & flag::LAST == 0 {
            return Err(Fatal::field(AT_FLAGS, "SUCCESS without LAST_PDU"));
        }
        self.reader.consume(layout.head);
        self.receiving = Some(Receiving { cid, left: len, crc: 0, ddgst: layout.ddgst, success });
        Ok(Flow::More)
    }

    /// The data of C2HData, and its digest.
    #[inline]
    fn body(&mut self) -> Result<Flow, Fatal> {
        let Some(r) = &mut self.receiving else { return Ok(Flow::More) };
        if r.left > 0 {
            let Some(bytes) = self.reader.take(r.left as usize) else { return Ok(Flow::Wait) };
            r.left -= bytes.len() as u32;
            if r.ddgst {
                r.crc = crc::append(r.crc, &bytes);
            }
            let cid = r.cid;
            if r.left == 0 && !r.ddgst && !r.success {
                self.receiving = None;
            }
            let out = &mut self.out[usize::from(cid)];
            let offset = out.got;
            out.got += bytes.len() as u32;
            return Ok(Flow::Event(Event::Data { cid, offset, bytes }));
        }
        if r.ddgst {
            let Some(digest) = self.reader.head(DIGEST_LEN) else { return Ok(Flow::Wait) };
            if digest != r.crc.to_le_bytes() {
                self.out[usize::from(r.cid)].damaged = true;
            }
            self.reader.consume(DIGEST_LEN);
        }
        let (cid, success) = (r.cid, r.success);
        self.receiving = None;
        self.half_since = None;
        Ok(if success { Flow::Event(self.complete(cid, Cqe::new(cid, Status::SUCCESS))) } else { Flow::More })
    }

    /// R2T (TCP 1.1, 3.6.2.10), answered at once. R2Ts of a command come in order of offset, each byte asked for once:
    /// that bounds what a controller can make us queue.
    fn r2t(&mut self, ch: &CommonHeader) -> Result<Flow, Fatal> {
        let Some(r2t) = self.plain::<R2t>(ch, self.digests)? else { return Ok(Flow::Wait) };
        let (cid, from, len) = (r2t.cccid.get(), r2t.r2to.get(), r2t.r2tl.get());
        let Some(out) = self.out.get_mut(usize::from(cid)).filter(|o| o.active) else {
            return Err(Fatal::field(AT_CCCID, "R2T for no command that is out"));
        };
        if len == 0 {
            return Err(Fatal::field(AT_R2TL, "R2TL is zero"));
        }
        if u64::from(from) + u64::from(len) > out.data.len() as u64 {
            return Err(Fatal::other(Fes::DataTransferOutOfRange, 0, "R2T outside the command's data"));
        }
        if from != out.asked {
            return Err(Fatal::field(AT_R2TO, "R2Ts out of order"));
        }
        out.asked += len;
        self.reader.consume(self.plain_len::<R2t>());
        self.half_since = None;
        self.send_data(cid, r2t.ttag.get(), from, len);
        Ok(Flow::More)
    }

    /// ICResp (TCP 1.1, 3.6.2.3).
    fn handshake(&mut self, ch: &CommonHeader) -> Result<Flow, Fatal> {
        // FLAGS and PDO are reserved here, and there are no digests yet.
        let bare = CommonHeader { flags: 0, pdo: 0, ..*ch };
        let Some(resp) = self.plain::<IcResp>(&bare, Digests::default())? else { return Ok(Flow::Wait) };
        if resp.pfv.get() != 0 {
            return Err(Fatal::other(Fes::UnsupportedParameter, AT_PFV, "PFV is not 0"));
        }
        if resp.cpda > 31 {
            return Err(Fatal::field(AT_CPDA, "CPDA is over 31"));
        }
        let digests = Digests::from_field(resp.dgst);
        let asked = Digests { header: self.config.header_digest, data: self.config.data_digest };
        if digests.header && !asked.header || digests.data && !asked.data {
            return Err(Fatal::field(AT_DGST, "a digest that was not asked for"));
        }
        let max_h2c = resp.maxh2cdata.get();
        if max_h2c < 4096 || !max_h2c.is_multiple_of(4) {
            return Err(Fatal::field(AT_MAXH2CDATA, "MAXH2CDATA is under 4,096 or not in dwords"));
        }
        self.reader.consume(pdu::IC_LEN);
        self.align = (u32::from(resp.cpda) + 1) * 4;
        (self.digests, self.max_h2c, self.state) = (digests, max_h2c, State::Ready);
        Ok(Flow::Event(Event::Ready { digests, max_h2c }))
    }

    /// C2HTermReq (TCP 1.1, 3.6.2.5).
    #[cold]
    fn terminated(&mut self) -> Result<Flow, Fatal> {
        let Some((fes, fei)) = self.reader.termination() else { return Ok(Flow::Wait) };
        self.fail(Fatal::Terminated { fes, fei }, &[]);
        Ok(Flow::Event(Event::Terminated { fes, fei }))
    }
}
