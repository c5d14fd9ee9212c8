//! One RDMA connection: the protocol session and the fabrics queue, joined.

use super::super::mailbox::Nudge;
use caisson_block::Mono;
use caisson_core::Queue;
use caisson_rdma::{Event, Session};
use caisson_verbs::Connection;
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
    /// What came and has to wait, see [`Conn::full`].
    pub(crate) held: VecDeque<Event>,
    /// Bytes that the data of the command in each slot has, where it lies in the host's memory.
    owed: Vec<u32>,
    /// Their sum.
    owed_bytes: usize,
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
            held: VecDeque::new(),
            owed: Vec::new(),
            owed_bytes: 0,
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

    /// The command in `slot` was answered, or its data is not counted here any more.
    pub(crate) fn settle(&mut self, slot: u32) {
        if let Some(len) = self.owed.get_mut(slot as usize) {
            self.owed_bytes -= std::mem::take(len) as usize;
        }
    }

    /// Whether what has come has to wait: what one host can pin of the shared buffers is bounded. Never for what only more
    /// of it can change: something must be on its way out or at a volume, whose end looks here again.
    pub(crate) fn full(&self) -> bool {
        let unsent = self.session.as_ref().map_or(0, Session::unsent);
        let moving = unsent > 0 || self.queue.in_flight() > 0;
        unsent + self.owed_bytes > super::super::conn::OWED && moving
    }

    /// When something must happen although nothing comes.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        match self.phase {
            Phase::Open => self.queue.deadline(),
            Phase::Draining | Phase::Closing => self.give_up,
            Phase::Gone => None,
        }
    }
}
