//! One connection: the protocol session and the fabrics queue, joined.
//!
//! Owns neither socket nor buffers in flight (the driver does). Life: open, then lingering (what is queued goes out, what
//! comes is dropped, so that the peer reads our last words instead of a reset), then closing, then gone.

use super::mailbox::Nudge;
use caisson_block::Mono;
use caisson_core::Queue;
use caisson_tcp::controller::Session;
use std::sync::Arc;

/// Replies queued on one connection past which its further commands wait: a host that does not read gets no more work
/// done, and the memory that its replies hold is bounded.
pub(crate) const TX_STALL: usize = 4 << 20;
/// Bytes that commands in hand move or will move, past which further commands wait: what one host can pin of the shared
/// device buffers.
pub(crate) const OWED: usize = 16 << 20;
/// Received bytes kept unparsed while replies are stalled, past which the socket is left to fill up.
pub(crate) const RX_HOLD: usize = 1 << 20;
/// How often a busy thread looks for connections that have become idle, in milliseconds.
pub(crate) const SWEEP_MS: u64 = 5_000;
/// How long a lingering connection may take to see the peer's end, in milliseconds.
pub(crate) const LINGER_MS: u64 = 1_000;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Commands are taken.
    Open,
    /// No more commands; what is queued is being sent.
    Draining,
    /// All is sent and our end is closed; waiting for the peer's end.
    Lingering,
    /// The driver was told to close.
    Closing,
    /// The driver has nothing of it any more; requests at volumes may still be out.
    Gone,
}

pub(crate) struct Conn {
    pub(crate) session: Session,
    pub(crate) queue: Queue,
    pub(crate) nudge: Arc<Nudge>,
    pub(crate) phase: Phase,
    /// On the list of connections with something to send.
    pub(crate) dirty: bool,
    /// The queue asked for the end: nothing more is taken once its replies are on their way.
    pub(crate) close: bool,
    /// The host's end was seen.
    pub(crate) ended: bool,
    /// Commands wait for replies to go out, or for a free slot.
    pub(crate) stalled: bool,
    /// Bytes received while stalled.
    pub(crate) held: usize,
    /// The driver was told to pause.
    pub(crate) paused: bool,
    /// The earliest timer that is set for it.
    pub(crate) timer: Option<Mono>,
    /// When draining or lingering is given up.
    pub(crate) give_up: Option<Mono>,
    /// Bytes that the data of the command in each slot has, where it moves in PDUs of its own. Data from the host counts
    /// once it is here; the window of R2Ts bounds it before.
    pub(crate) owed: Vec<u32>,
    /// Their sum.
    pub(crate) owed_bytes: usize,
    /// Since when the socket has taken nothing of what is queued.
    pub(crate) unsent_since: Option<Mono>,
    /// It brought something that has not all been looked at, and is in line for that.
    pub(crate) waits: bool,
    /// The sweep in which it was last heard of.
    pub(crate) heard: u32,
    /// Who is at the other end, for logs.
    pub(crate) peer: String,
}

impl Conn {
    /// Notes that the command in `slot` moves `len` bytes in PDUs of their own.
    pub(crate) fn owe(&mut self, slot: u32, len: u32) {
        let at = slot as usize;
        if self.owed.len() <= at {
            self.owed.resize(at + 1, 0);
        }
        self.owed[at] = len;
        self.owed_bytes += len as usize;
    }

    /// The command in `slot` was answered.
    pub(crate) fn settle(&mut self, slot: u32) {
        if let Some(len) = self.owed.get_mut(slot as usize) {
            self.owed_bytes -= std::mem::take(len) as usize;
        }
    }

    /// Whether what has come has to wait. Never for what only more of it can change (the data of a write, the second of a
    /// fused pair): something must be on its way out or at a volume, whose end looks here again.
    pub(crate) fn full(&mut self) -> bool {
        let pending = self.session.tx().pending_bytes();
        let moving = pending > 0 || self.queue.in_flight() > 0;
        pending > TX_STALL || (pending + self.owed_bytes > OWED && moving)
    }

    /// Gives back memory that an idle connection does not need.
    pub(crate) fn trim(&mut self) {
        self.session.trim();
        if self.owed_bytes == 0 {
            self.owed = Vec::new();
        }
    }

    /// When something must happen although nothing comes.
    pub(crate) fn deadline(&self, send_ms: u64) -> Option<Mono> {
        match self.phase {
            Phase::Open => {
                let unsent = self.unsent_since.map(|t| t.plus_ms(send_ms));
                // What is not looked at cannot be overdue.
                let session = self.session.deadline().filter(|_| !self.stalled);
                [session, self.queue.deadline(), unsent].into_iter().flatten().min()
            }
            Phase::Draining | Phase::Lingering => self.give_up,
            Phase::Closing | Phase::Gone => None,
        }
    }
}
