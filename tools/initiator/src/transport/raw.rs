//! A bare connection: any bytes out, whole PDUs in. What tests use to be a host that keeps no rule, and what every queue
//! opens with.

use super::Framing;
use crate::error::{Error, Result};
use crate::net::{self, Address, unless_blocked, wait_one};
use caisson_wire::pdu::{CH_LEN, CommonHeader, IC_LEN, IcReq, IcResp, TermReq, kind};
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::zerocopy::{FromBytes, IntoBytes};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The longest PDU that is taken: more than any target sends.
const LONGEST: usize = 64 << 20;

/// One PDU as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pdu(pub Vec<u8>);

impl Pdu {
    /// PDU-Type.
    pub fn kind(&self) -> u8 {
        self.0.first().copied().unwrap_or(0xff)
    }

    /// The structure `T` that it starts with; `None` when it is shorter.
    pub fn as_a<T: FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(&self.0).ok().map(|(t, _)| t)
    }

    /// FES and FEI, when it is a C2HTermReq.
    pub fn termination(&self) -> Option<(u16, u32)> {
        let t: TermReq = self.as_a()?;
        (self.kind() == kind::C2H_TERM_REQ).then(|| (t.fes.get(), t.fei()))
    }
}

/// What ICReq asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greeting {
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// R2Ts taken at once for one command, zero-based (MAXR2T).
    pub max_r2t: u32,
    /// Alignment asked of data in the target's PDUs, in dwords, zero-based (HPDA).
    pub hpda: u8,
}

impl Greeting {
    /// As the PDU.
    pub fn icreq(&self) -> IcReq {
        let ch = CommonHeader {
            kind: kind::IC_REQ,
            flags: 0,
            hlen: IC_LEN as u8,
            pdo: 0,
            plen: U32::new(IC_LEN as u32),
        };
        let dgst = u8::from(self.header_digest) | u8::from(self.data_digest) << 1;
        IcReq { ch, pfv: U16::new(0), hpda: self.hpda, dgst, maxr2t: U32::new(self.max_r2t), rsvd: [0; 112] }
    }
}

/// A bare connection to a target.
#[derive(Debug)]
pub struct RawConn {
    stream: TcpStream,
    received: Vec<u8>,
    timeout: Duration,
}

impl RawConn {
    /// Connects; nothing is sent. `timeout` bounds this and everything later.
    ///
    /// # Errors
    /// [`Error::Address`] or [`Error::Connect`].
    pub fn connect(address: &Address, timeout: Duration) -> Result<RawConn> {
        Ok(RawConn { stream: net::connect(address, timeout)?, received: Vec::new(), timeout })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Replaces the time-out of everything that follows.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends `bytes`, all of them.
    ///
    /// # Errors
    /// When the target closes, or takes them too slowly.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        while !bytes.is_empty() {
            match unless_blocked((&self.stream).write(bytes)).map_err(|e| Error::io("sending", e))? {
                Some(n) => bytes = &bytes[n..],
                None => {
                    let ready = wait_one(&self.stream, true, deadline);
                    if !ready.map_err(|e| Error::io("waiting to send", e))? {
                        return Err(Error::Timeout { what: "room to send".into(), after: self.timeout });
                    }
                }
            }
        }
        Ok(())
    }

    /// The next PDU.
    ///
    /// # Errors
    /// When none comes in time, the target closes, or what comes is no PDU.
    pub fn receive(&mut self) -> Result<Pdu> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(ch) = CommonHeader::ref_from_prefix(&self.received).ok().map(|(ch, _)| *ch) {
                let plen = ch.plen.get() as usize;
                if !(CH_LEN..=LONGEST).contains(&plen) {
                    return Err(Error::protocol(format!("a PDU of type {:#04x} has PLEN {plen}", ch.kind)));
                }
                if self.received.len() >= plen {
                    let rest = self.received.split_off(plen);
                    return Ok(Pdu(std::mem::replace(&mut self.received, rest)));
                }
            }
            if !self.more(deadline)? {
                return Err(Error::Closed { doing: "waiting for a PDU".into() });
            }
        }
    }

    /// Reads what there is, waiting until `deadline`; `false` when the target has closed.
    fn more(&mut self, deadline: Instant) -> Result<bool> {
        let mut chunk = [0; 16384];
        loop {
            match unless_blocked((&self.stream).read(&mut chunk)).map_err(|e| Error::io("receiving", e))? {
                Some(0) => return Ok(false),
                Some(n) => {
                    self.received.extend_from_slice(&chunk[..n]);
                    return Ok(true);
                }
                None => {
                    let ready = wait_one(&self.stream, false, deadline);
                    if !ready.map_err(|e| Error::io("waiting to receive", e))? {
                        return Err(Error::Timeout { what: "a PDU".into(), after: self.timeout });
                    }
                }
            }
        }
    }

    /// All PDUs until the target closes (orderly or by a reset).
    ///
    /// # Errors
    /// When it does not close in time, or sends what is no PDU.
    pub fn until_closed(&mut self) -> Result<Vec<Pdu>> {
        let mut all = Vec::new();
        loop {
            match self.receive() {
                Ok(pdu) => all.push(pdu),
                Err(Error::Closed { .. }) => return Ok(all),
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends ICReq, and waits for ICResp.
    ///
    /// # Errors
    /// When the target does not answer as it must (TCP 1.1, 3.6.2.3).
    pub fn greet(&mut self, greeting: Greeting) -> Result<IcResp> {
        self.send(greeting.icreq().as_bytes())?;
        let pdu = self.receive()?;
        if let Some((fes, fei)) = pdu.termination() {
            return Err(Error::Terminated { fes, fei });
        }
        let resp: IcResp = match pdu.as_a() {
            Some(resp) if pdu.kind() == kind::IC_RESP => resp,
            _ => {
                return Err(Error::protocol(format!("ICReq was answered with PDU type {:#04x}", pdu.kind())));
            }
        };
        let whole = usize::from(resp.ch.hlen) == IC_LEN && resp.ch.plen.get() as usize == IC_LEN;
        let max = resp.maxh2cdata.get();
        if !whole || resp.pfv.get() != 0 || resp.cpda > 31 || max < 4096 || !max.is_multiple_of(4) {
            return Err(Error::protocol(format!(
                "ICResp: HLEN {}, PLEN {}, PFV {}, CPDA {}, MAXH2CDATA {max}",
                resp.ch.hlen,
                resp.ch.plen.get(),
                resp.pfv.get(),
                resp.cpda
            )));
        }
        let asked = greeting.icreq().dgst;
        if resp.dgst & !asked & 3 != 0 {
            return Err(Error::protocol("ICResp turns on a digest that was not asked for"));
        }
        Ok(resp)
    }

    /// The socket, when nothing was received that nobody has taken.
    pub(crate) fn into_stream(self) -> Result<TcpStream> {
        match self.received.is_empty() {
            true => Ok(self.stream),
            false => Err(Error::protocol("the target sent something before it was asked")),
        }
    }
}

impl From<IcResp> for Framing {
    fn from(r: IcResp) -> Framing {
        Framing {
            header_digest: r.dgst & 1 != 0,
            data_digest: r.dgst & 2 != 0,
            align: (usize::from(r.cpda) + 1) * 4,
            max_h2c: r.maxh2cdata.get(),
        }
    }
}
