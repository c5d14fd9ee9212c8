//! The target's side of one connection.
//!
//! Owns the handshake, the parsing of what the host sends, the transfer of data in both directions and the slots that
//! number the commands in hand. It must never know what a command does: it reads of a command only what says where
//! its data is, and of Connect what the limits of this queue are.
//!
//! Life of a command: [`Event::Command`] hands out a slot; for [`Payload::Transport`] the caller may [`Session::pull`]
//! the data and gets [`Event::Data`] (or [`Event::Damaged`]); [`Session::reply`] answers and frees the slot.

mod receive;
mod reply;
mod sgl;
mod slots;
mod table;

use crate::fatal::{Fatal, term_req};
use crate::frame::{Assembly, Digests, Layout, Reader};
use crate::tx::Tx;
use caisson_block::{Buf, BufList, Mono};
use caisson_wire::pdu::kind;
use caisson_wire::{Sqe, Status};
use slots::{NONE, Slots};
use table::State;

/// What one side of a connection is allowed to do. Every number is a bound.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether a header digest is given to a host that asks for it.
    pub header_digest: bool,
    /// Whether a data digest is given to a host that asks for it.
    pub data_digest: bool,
    /// Bytes of in-capsule data that a command of an I/O queue may carry (IOCCSZ says so to the host). The admin queue
    /// always takes 8,192 (TCP 1.1, 3.3.2.1).
    pub in_capsule: u32,
    /// MAXH2CDATA: the most data in one H2CData PDU; at least 4,096, a multiple of 4. Older Linux hosts do not look at it and
    /// sends what an R2T asks for in one PDU, so it is `max_r2t` unless such hosts are to be refused.
    pub max_h2c: u32,
    /// The most data in one C2HData PDU; a multiple of 4.
    pub max_c2h: u32,
    /// CPDA, 0..=31: data in host PDUs starts at a multiple of (CPDA + 1) x 4. The Linux host takes only 0.
    pub cpda: u8,
    /// Commands in hand at once: at least the largest queue that Connect may make, and its asynchronous event requests,
    /// so that no host that keeps to its queue's size meets it. More stay unread (see [`Session::stalled`]), or are a
    /// sequence error while an R2T is out, for the data asked for could be behind them.
    pub max_slots: u32,
    /// The most bytes one R2T asks for. A host that allows one R2T at a time waits a round trip for each.
    pub max_r2t: u32,
    /// Bytes of the pulls under way, over all commands, from their first R2T until [`Event::Data`]; one pull may always be
    /// under way, whatever its length.
    pub r2t_window: u32,
    /// From the connection's start to the host's ICReq, in ms.
    pub handshake_ms: u64,
    /// From a PDU's first byte to its last, in ms.
    pub pdu_ms: u64,
    /// Without any H2CData while R2Ts are out, in ms.
    pub r2t_ms: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            header_digest: true,
            data_digest: true,
            in_capsule: 16384,
            max_h2c: 1 << 20,
            max_c2h: 1 << 20,
            cpda: 0,
            max_slots: 1024 + 32,
            max_r2t: 1 << 20,
            r2t_window: 16 << 20,
            handshake_ms: 10_000,
            pdu_ms: 30_000,
            r2t_ms: 60_000,
        }
    }
}

/// Bytes of in-capsule data that fabrics and admin commands may always carry (TCP 1.1, 3.3.2.1).
pub const ADMIN_IN_CAPSULE: u32 = 8192;

/// What came from the host.
#[derive(Debug)]
pub enum Event {
    /// A whole command capsule. The slot is the caller's until [`Session::reply`].
    Command {
        /// Its number here, dense from 0.
        slot: u32,
        /// The command as sent.
        sqe: Sqe,
        /// Where its data is.
        payload: Payload,
    },
    /// All that [`Session::pull`] asked for.
    Data {
        /// The command.
        slot: u32,
        /// The data, in order.
        data: BufList,
    },
    /// What [`Session::pull`] asked for came with a wrong data digest: the command is to be answered with `status`
    /// (TCP 1.1, 3.3.1.1: not fatal).
    Damaged {
        /// The command.
        slot: u32,
        /// Transient Transport Error.
        status: Status,
    },
    /// The host sent H2CTermReq. [`Session::closing`] says the same from now on.
    Terminated {
        /// Fatal error status.
        fes: u16,
        /// Fatal error information.
        fei: u32,
    },
}

/// Where the data of a command is, from SGL1 by the rules of TCP.
#[derive(Debug)]
pub enum Payload {
    /// The command moves no data.
    None,
    /// Data for the controller, in the capsule.
    InCapsule(BufList),
    /// Data that moves in PDUs of its own, in the direction that the opcode says: [`Session::pull`] it, or give it to
    /// [`Session::reply`].
    Transport {
        /// Bytes.
        len: u32,
    },
    /// A descriptor that may not be used here, or in-capsule data that came damaged: the status to reply with.
    Bad(Status),
}

/// What the body of the PDU that is being received is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    /// In-capsule data of the command in `Session::incoming`.
    Capsule,
    /// In-capsule data that no rule lets the command use.
    Unused,
    /// H2CData of the transfer with this tag.
    Transfer(u16),
}

/// The PDU whose data is being received.
struct Receiving {
    body: Body,
    /// Data bytes still to come.
    left: u32,
    crc: u32,
    ddgst: bool,
    /// LAST_PDU of an H2CData.
    last: bool,
}

/// One connection of a host, seen from the controller.
pub struct Session {
    config: Config,
    state: State,
    fatal: Option<Fatal>,
    reader: Reader,
    tx: Tx,
    digests: Digests,
    /// Alignment of data in our PDUs, in bytes: (HPDA + 1) x 4.
    align: u32,
    /// R2Ts that the host takes at once for one command, one-based.
    maxr2t: u32,
    in_capsule: u32,
    /// SQ flow control was disabled by Connect: no SQHD is owed, so data can carry the completion (SUCCESS).
    sqhd_owed: bool,
    receiving: Option<Receiving>,
    /// The command whose in-capsule data is coming.
    incoming: Option<(Sqe, u32)>,
    assembly: Assembly,
    slots: Slots,
    /// When the PDU that is half here began.
    half_since: Option<Mono>,
    /// When an R2T last went out or data for one last came.
    progress: Mono,
    started: Mono,
    /// The next command waits for a slot.
    stalled: bool,
}

impl Session {
    /// A connection that has just been accepted.
    pub fn new(config: Config, now: Mono) -> Session {
        Session {
            state: State::AwaitIcReq,
            fatal: None,
            reader: Reader::default(),
            tx: Tx::default(),
            digests: Digests::default(),
            align: 4,
            maxr2t: 1,
            in_capsule: config.in_capsule.max(ADMIN_IN_CAPSULE),
            sqhd_owed: true,
            receiving: None,
            incoming: None,
            assembly: Assembly::default(),
            slots: Slots::new(config.max_slots),
            half_since: None,
            progress: now,
            started: now,
            stalled: false,
            config,
        }
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

    /// The fatal error met: no more events come. Once [`Session::tx`] is empty, shut the sending side down, read (and drop)
    /// until the host closes or half a minute has passed (TCP 1.1, 3.5.1), and close: closing at once with bytes unread would
    /// reset the connection and lose the termination request.
    #[inline]
    pub fn closing(&self) -> Option<&Fatal> {
        self.fatal.as_ref()
    }

    /// Whether the next command waits for a slot: stop receiving until a reply has freed one, then call
    /// [`Session::next`].
    #[inline]
    pub fn stalled(&self) -> bool {
        self.stalled
    }

    /// The digests agreed on.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// Commands in hand.
    pub fn in_hand(&self) -> u32 {
        self.slots.used()
    }

    /// The CID of the command in `slot`; `None` when no command is.
    pub fn cid(&mut self, slot: u32) -> Option<u16> {
        self.slots.get(slot).filter(|s| s.state != table::Use::Free).map(|s| s.cid)
    }

    /// When to call [`Session::next`] although nothing came: a handshake, a PDU or data asked for is overdue then.
    pub fn deadline(&self) -> Option<Mono> {
        if self.fatal.is_some() {
            return None;
        }
        let handshake =
            (self.state == State::AwaitIcReq).then(|| self.started.plus_ms(self.config.handshake_ms));
        let half = self.half_since.map(|t| t.plus_ms(self.config.pdu_ms));
        let data = self.slots.any_out().then(|| self.progress.plus_ms(self.config.r2t_ms));
        [handshake, half, data].into_iter().flatten().min()
    }

    /// The caller has not called [`Session::next`] for reasons of its own: what the host sent meanwhile is not late.
    pub fn excuse(&mut self, now: Mono) {
        self.half_since = None;
        self.progress = now;
    }

    /// Gives back memory that an idle connection does not need; call when it has been idle for a while.
    pub fn trim(&mut self) {
        self.tx.trim();
        self.reader.trim();
        self.slots.trim();
    }

    /// Ends the connection for `fatal`, met in a PDU that starts with `header`; tells the host where that is due.
    #[cold]
    fn fail(&mut self, fatal: Fatal, header: &[u8]) {
        if self.fatal.is_some() {
            return;
        }
        if let Fatal::Protocol { fes, fei, .. } = fatal {
            let (bytes, len) = term_req(kind::C2H_TERM_REQ, fes, fei, header);
            self.tx.head(len).copy_from_slice(&bytes[..len]);
        }
        self.fatal = Some(fatal);
        self.state = State::Closing;
        self.reader.clear();
        self.receiving = None;
        self.incoming = None;
        self.half_since = None;
        self.stalled = false;
    }

    /// Notes whether a PDU is half here, for its time-out.
    #[inline]
    fn note_half(&mut self, now: Mono) {
        let half = !self.stalled && (self.receiving.is_some() || !self.reader.is_empty());
        if !half {
            self.half_since = None;
        } else if self.half_since.is_none() {
            self.half_since = Some(now);
        }
    }

    #[cold]
    fn check_time(&mut self, now: Mono) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        let what = match (self.state, self.half_since) {
            (State::AwaitIcReq, _) => "the handshake",
            (_, Some(t)) if now >= t.plus_ms(self.config.pdu_ms) => "the rest of a PDU",
            _ => "data asked for by R2T",
        };
        self.fail(Fatal::TimedOut { what }, &[]);
    }
}

/// What [`Session`] needs of a PDU's layout once its header was consumed.
impl Receiving {
    fn new(body: Body, layout: &Layout, last: bool) -> Receiving {
        Receiving { body, left: layout.data, crc: 0, ddgst: layout.ddgst, last }
    }
}

const _: () = assert!(NONE == u16::MAX);
