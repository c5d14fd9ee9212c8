//! The witness: a small batch without content, written when the log has come to rest, which says how far it was durable.
//!
//! Every batch says how far the log was durable when it was closed, so recovery can tell damage from an end wherever a later
//! batch stands. The last durable batches of a log that came to rest had no later one. So when everything written is durable, and
//! nothing more came for a moment, one empty batch is appended and made durable: one for each rest, by the chores, never on
//! the way of a request, and none where a checkpoint covers everything anyway. What is then lost without a word is at most
//! the witness itself, which holds nothing.

use crate::append::{durable, write};
use crate::bounds::REST;
use crate::log::Log;
use crate::state::{Inner, State};
use caisson_block::Mono;
use caisson_task::{Port, Waiter};
use std::sync::Arc;

/// What the chores remember of the log.
#[derive(Default)]
pub(crate) struct Witness {
    /// How far it was durable when it was last looked at, and when that was first seen.
    seen: Option<(u64, Mono)>,
}

/// What is to be done about it.
pub(crate) enum Due {
    /// One was written.
    Did,
    /// Not before then.
    At(Mono),
    /// Nothing until the log comes to rest again.
    Nothing,
}

impl Witness {
    /// Writes a witness if the log has rested for long enough.
    pub(crate) async fn step(&mut self, inner: &Arc<Inner>, port: &Port) -> Due {
        let now = port.now();
        let closed = {
            let mut guard = inner.lock();
            let State { tables, index, log, checkpoints, space, .. } = &mut *guard;
            if !log.rests(checkpoints.covers) {
                self.seen = None;
                log.watched = false;
                return Due::Nothing;
            }
            let since = match self.seen {
                Some((durable, since)) if durable == log.durable => since,
                _ => now,
            };
            self.seen = Some((log.durable, since));
            let due = Mono(since.0.saturating_add(REST.as_nanos() as u64));
            if now < due {
                return Due::At(due);
            }
            self.seen = None;
            // A log that is nearly at its end has better uses for it.
            let room = log.space() > space.log_reserve;
            let closed = if room { log.close_witness(tables, index) } else { None };
            if closed.is_none() {
                log.watched = false;
                return Due::Nothing;
            }
            closed
        };
        if let Some(closed) = closed {
            let batch = closed.stamp.batch;
            write(inner, port, closed).await;
            // A failure has been latched, and told.
            let _ = durable(inner, port, batch).await;
        }
        Due::Did
    }
}

impl Log {
    /// Whether everything is durable, and the last of it neither covered by the checkpoint of batch `covers` nor witnessed.
    pub(crate) fn rests(&self, covers: u64) -> bool {
        self.is_quiet() && self.durable > covers.max(self.witnessed)
    }
}

/// The log may have come to rest: who is to look at that, when nobody does yet.
pub(crate) fn watch(state: &mut State) -> Option<Waiter> {
    if state.log.watched || !state.log.rests(state.checkpoints.covers) {
        return None;
    }
    state.log.watched = true;
    state.chores.call()
}
