//! One RDMA connection: the protocol session and the fabrics queue, joined.

use super::super::mailbox::Nudge;
use caisson_block::{BufList, Mono};
use caisson_core::Queue;
use caisson_rdma::{Event, Session};
use caisson_verbs::Connection;
use caisson_wire::Sqe;
use caisson_wire::sqe::Fuse;
use std::collections::VecDeque;
use std::sync::Arc;

/// How long replies may take to go out before a connection is ended, and how long flushing may take after that, in
/// milliseconds.
pub(crate) const LINGER_MS: u64 = 1_000;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Commands are taken.
    Open,
    /// No more commands; what was answered goes out.
    Draining,
    /// The queue pair is being flushed.
    Closing,
    /// The control thread has it; requests at volumes may still be out.
    Gone,
}

pub(crate) struct Conn {
    /// `None` once the control thread has it, with `connection`.
    pub(crate) session: Option<Session>,
    pub(crate) connection: Option<Arc<Connection>>,
    pub(crate) queue: Queue,
    pub(crate) nudge: Arc<Nudge>,
    pub(crate) phase: Phase,
    /// The index of its port in the thread.
    pub(crate) port: usize,
    /// The number of its queue pair.
    pub(crate) number: u32,
    /// [`Connection::key`].
    pub(crate) id: usize,
    /// The queue asked for the end.
    pub(crate) close: bool,
    /// The queue pair takes no receives any more.
    pub(crate) last_receive: bool,
    /// On the list of connections to be looked at by [`super::thread::Thread::flush`].
    pub(crate) dirty: bool,
    /// What its port was last told of it.
    pub(crate) accounted: (bool, bool),
    /// What came and has to wait, see [`Conn::full`].
    pub(crate) held: VecDeque<Event>,
    /// Bytes that the data of the command in each slot has, where it lies in the host's memory.
    owed: Vec<u32>,
    /// Their sum.
    owed_bytes: usize,
    /// When the device last did some of the work that it has; none where it has none.
    moved: Option<Mono>,
    /// How long it may do nothing, in milliseconds.
    send_ms: u64,
    /// Slots of fused commands whose data is to come, see [`Conn::own`].
    fused: Vec<u32>,
    /// The earliest timer that is set for it.
    pub(crate) timer: Option<Mono>,
    /// When draining or closing is given up.
    pub(crate) give_up: Option<Mono>,
    /// Who is at the other end, for logs.
    pub(crate) peer: String,
}

impl Conn {
    pub(crate) fn new(
        session: Session,
        connection: Arc<Connection>,
        queue: Queue,
        nudge: Arc<Nudge>,
        port: usize,
        peer: String,
        send_ms: u64,
    ) -> Conn {
        Conn {
            number: connection.number(),
            id: connection.key(),
            session: Some(session),
            connection: Some(connection),
            queue,
            nudge,
            phase: Phase::Open,
            port,
            close: false,
            last_receive: false,
            dirty: false,
            accounted: (false, false),
            held: VecDeque::new(),
            owed: Vec::new(),
            owed_bytes: 0,
            moved: None,
            send_ms,
            fused: Vec::new(),
            timer: None,
            give_up: None,
            peer,
        }
    }

    /// Notes that the command in `slot` moves `len` bytes.
    pub(crate) fn owe(&mut self, slot: u32, len: u32) {
        let at = slot as usize;
        if self.owed.len() <= at {
            self.owed.resize(at + 1, 0);
        }
        self.owed_bytes += len as usize;
        self.owed_bytes -= std::mem::replace(&mut self.owed[at], len) as usize;
    }

    /// Data in the capsule of a command. Half of a fused pair may wait for the other for as long as its host likes, and so may
    /// not hold buffers that all connections share: many such halves would hold all of them. It has memory of its own, at
    /// most what one connection may owe.
    pub(crate) fn own(&mut self, slot: u32, sqe: &Sqe, data: BufList) -> BufList {
        if sqe.fuse() == Fuse::None {
            return data;
        }
        self.fused.push(slot);
        self.unshared(slot, data)
    }

    /// The same of data that was fetched for `slot`.
    pub(crate) fn unshared(&mut self, slot: u32, data: BufList) -> BufList {
        if self.fused.is_empty() || data.is_empty() {
            return data;
        }
        match self.fused.iter().position(|&s| s == slot) {
            Some(at) => {
                self.fused.swap_remove(at);
                data.to_vec().into()
            }
            None => data,
        }
    }

    /// The command in `slot` was answered, or its data is not counted here any more.
    pub(crate) fn settle(&mut self, slot: u32) {
        if let Some(len) = self.owed.get_mut(slot as usize) {
            self.owed_bytes -= std::mem::take(len) as usize;
        }
    }

    /// The command in `slot` was answered.
    pub(crate) fn answered(&mut self, slot: u32) {
        self.settle(slot);
        self.fused.retain(|&s| s != slot);
    }

    /// Notes what the device has now that it has been given work or has done some.
    pub(crate) fn watch_sends(&mut self, now: Mono) {
        let out = self.session.as_ref().is_some_and(|s| s.on_their_way() > 0);
        self.moved = out.then_some(now);
    }

    /// Whether what has come has to wait: what one host can pin of the shared buffers is bounded. Never for what only more
    /// of it can change: something must be on its way out or at a volume, whose end looks here again.
    pub(crate) fn full(&self) -> bool {
        let unsent = self.session.as_ref().map_or(0, Session::unsent);
        let moving = unsent > 0 || self.queue.in_flight() > 0;
        unsent + self.owed_bytes > super::super::conn::OWED && moving
    }

    /// Whether what comes is executed now.
    #[inline]
    pub(crate) fn takes(&self) -> bool {
        self.phase == Phase::Open && !self.close && !self.full()
    }

    /// When a host is given up that takes nothing of what is sent to it. Its device tells ours how often to repeat what finds
    /// no receive buffer, and may say: for ever.
    pub(crate) fn stalls(&self) -> Option<Mono> {
        self.moved.map(|at| at.plus_ms(self.send_ms))
    }

    /// When something must happen although nothing comes.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        match self.phase {
            Phase::Open => [self.queue.deadline(), self.stalls()].into_iter().flatten().min(),
            Phase::Draining | Phase::Closing => self.give_up,
            Phase::Gone => None,
        }
    }
}
