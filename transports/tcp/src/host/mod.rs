//! The initiator's side of one connection.
//!
//! Owns the handshake, the making of capsules and H2CData, the answering of R2Ts and the parsing of what the controller
//! sends. Data that comes in is handed out piece by piece as slices of the receive buffers: nothing is copied, and
//! nothing is allocated per command once its tables have grown. It must never choose command identifiers or know
//! what a command does.
//!
//! Life of a command: [`Session::command`] with a free CID; for data that comes in, [`Event::Data`] in order of offset;
//! then [`Event::Completed`], after which the CID is free again.

mod receive;
mod send;
#[cfg(test)]
mod tests;

use crate::fatal::{Fatal, term_req};
use crate::frame::{Digests, Reader};
use crate::tx::Tx;
use caisson_block::{Buf, BufList, Mono};
use caisson_wire::Cqe;
use caisson_wire::pdu::{self, CommonHeader, IcReq, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};

/// What the initiator asks for, and its bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// R2Ts taken at once for one command, one-based. The Linux host says 1.
    pub maxr2t: u32,
    /// HPDA, 0..=31: data in controller PDUs is to start at a multiple of (HPDA + 1) x 4.
    pub hpda: u8,
    /// Data of up to this many bytes goes in the capsule. 8,192 is always allowed on the admin queue; on an I/O queue
    /// IOCCSZ says how much is (see [`Session::set_in_capsule`]).
    pub in_capsule: u32,
    /// From the start to ICResp, in ms.
    pub handshake_ms: u64,
    /// From a PDU's first byte to its last, in ms.
    pub pdu_ms: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            header_digest: false,
            data_digest: false,
            maxr2t: 1,
            hpda: 0,
            in_capsule: 4096,
            handshake_ms: 10_000,
            pdu_ms: 30_000,
        }
    }
}

/// The data of a command.
#[derive(Debug)]
pub enum Transfer {
    /// None.
    None,
    /// Up to this many bytes from the controller.
    In(u32),
    /// These bytes to the controller, in the capsule or when it asks for them.
    Out(BufList),
}

/// What came from the controller.
#[derive(Debug)]
pub enum Event {
    /// The handshake is done: commands may be sent.
    Ready {
        /// What was agreed on.
        digests: Digests,
        /// MAXH2CDATA.
        max_h2c: u32,
    },
    /// A piece of a command's data.
    Data {
        /// The command.
        cid: u16,
        /// Where in its data the piece starts.
        offset: u32,
        /// The bytes, in the receive buffer.
        bytes: Buf,
    },
    /// A command is done; its CID is free.
    Completed {
        /// The command.
        cid: u16,
        /// The completion. Its status is Transient Transport Error when a data digest was wrong (TCP 1.1, 3.3.1.1);
        /// SQHD and the result are 0 when the controller used the SUCCESS flag.
        cqe: Cqe,
        /// Bytes of data that came.
        received: u32,
    },
    /// The controller sent C2HTermReq. [`Session::closing`] says the same from now on.
    Terminated {
        /// Fatal error status.
        fes: u16,
        /// Fatal error information.
        fei: u32,
    },
}

/// A command may not be sent: its CID is in use, the handshake is not done, or the connection is closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// ICResp has not come, or the connection is closing.
    #[error("the connection does not take commands now")]
    NotReady,
    /// Another command of this CID is out.
    #[error("command identifier {0} is in use")]
    CidInUse(u16),
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitIcResp,
    Ready,
    Closing,
}

/// What a PDU type means (TCP 1.1, 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Handshake,
    Response,
    Data,
    R2t,
    Terminated,
    OutOfSequence,
    WrongType,
    Drop,
}

#[inline]
fn step(state: State, pdu_kind: u8) -> Step {
    match (state, pdu_kind) {
        (State::Ready, kind::C2H_DATA) => Step::Data,
        (State::Ready, kind::CAPSULE_RESP) => Step::Response,
        (State::Ready, kind::R2T) => Step::R2t,
        (State::AwaitIcResp, kind::IC_RESP) => Step::Handshake,
        (State::Closing, _) => Step::Drop,
        (_, kind::C2H_TERM_REQ) => Step::Terminated,
        (_, kind::IC_RESP | kind::C2H_DATA | kind::CAPSULE_RESP | kind::R2T) => Step::OutOfSequence,
        _ => Step::WrongType,
    }
}

/// A command that is out.
#[derive(Default)]
struct Out {
    active: bool,
    damaged: bool,
    /// Bytes that may come, and that have.
    room: u32,
    got: u32,
    /// What is to go to the controller, and how much of it R2Ts have asked for.
    data: BufList,
    asked: u32,
}

/// The C2HData that is being received.
struct Receiving {
    cid: u16,
    left: u32,
    crc: u32,
    ddgst: bool,
    success: bool,
}

/// Lists kept for use again.
const SPARE_LISTS: usize = 1024;

/// One connection to a controller, seen from the host.
pub struct Session {
    config: Config,
    state: State,
    fatal: Option<Fatal>,
    reader: Reader,
    tx: Tx,
    digests: Digests,
    /// Alignment of data in our PDUs, in bytes: (CPDA + 1) x 4.
    align: u32,
    max_h2c: u32,
    in_capsule: u32,
    receiving: Option<Receiving>,
    /// By CID.
    out: Vec<Out>,
    in_flight: u32,
    spare: Vec<BufList>,
    half_since: Option<Mono>,
    started: Mono,
}

impl Session {
    /// A connection that has just been made: ICReq is queued.
    pub fn new(config: Config, now: Mono) -> Session {
        let mut session = Session {
            state: State::AwaitIcResp,
            fatal: None,
            reader: Reader::default(),
            tx: Tx::default(),
            digests: Digests::default(),
            align: 4,
            max_h2c: 4096,
            in_capsule: config.in_capsule,
            receiving: None,
            out: Vec::new(),
            in_flight: 0,
            spare: Vec::new(),
            half_since: None,
            started: now,
            config,
        };
        let digests = Digests { header: session.config.header_digest, data: session.config.data_digest };
        let req = IcReq {
            ch: CommonHeader {
                kind: kind::IC_REQ,
                flags: 0,
                hlen: pdu::IC_LEN as u8,
                pdo: 0,
                plen: U32::new(pdu::IC_LEN as u32),
            },
            pfv: U16::new(0),
            hpda: session.config.hpda,
            dgst: digests.field(),
            maxr2t: U32::new(session.config.maxr2t.saturating_sub(1)),
            rsvd: [0; 112],
        };
        session.tx.head(pdu::IC_LEN).copy_from_slice(req.as_bytes());
        session
    }

    /// The next received bytes. They are kept, not copied, until [`Session::next`] has parsed them.
    #[inline]
    pub fn receive(&mut self, bytes: Buf) {
        if self.fatal.is_none() {
            self.reader.push(bytes);
        }
    }

    /// What is to be sent.
    #[inline]
    pub fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// The fatal error met: no more events come; send what is queued, then close.
    #[inline]
    pub fn closing(&self) -> Option<&Fatal> {
        self.fatal.as_ref()
    }

    /// Commands that are out.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The digests agreed on.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// How much data goes in a capsule from now on: (IOCCSZ x 16 - 64) on an I/O queue.
    pub fn set_in_capsule(&mut self, bytes: u32) {
        self.in_capsule = bytes;
    }

    /// An empty list for [`Transfer::Out`], with capacity from an earlier command where there is one.
    #[inline]
    pub fn list(&mut self) -> BufList {
        self.spare.pop().unwrap_or_default()
    }

    /// When to call [`Session::next`] although nothing came.
    pub fn deadline(&self) -> Option<Mono> {
        if self.fatal.is_some() {
            return None;
        }
        let handshake =
            (self.state == State::AwaitIcResp).then(|| self.started.plus_ms(self.config.handshake_ms));
        let half = self.half_since.map(|t| t.plus_ms(self.config.pdu_ms));
        [handshake, half].into_iter().flatten().min()
    }

    #[inline]
    fn recycle(&mut self, mut list: BufList) {
        if list.capacity() > 0 && self.spare.len() < SPARE_LISTS {
            list.clear();
            self.spare.push(list);
        }
    }

    #[cold]
    fn fail(&mut self, fatal: Fatal, header: &[u8]) {
        if self.fatal.is_some() {
            return;
        }
        if let Fatal::Protocol { fes, fei, .. } = fatal {
            let (bytes, len) = term_req(kind::H2C_TERM_REQ, fes, fei, header);
            self.tx.head(len).copy_from_slice(&bytes[..len]);
        }
        self.fatal = Some(fatal);
        self.state = State::Closing;
        self.reader.clear();
        self.receiving = None;
        self.half_since = None;
    }
}
