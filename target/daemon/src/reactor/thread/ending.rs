//! How connections end: what is queued still goes out, nothing more is taken, and the key is free once nothing of the
//! connection is left anywhere.

use super::Reactor;
use crate::reactor::conn::{LINGER_MS, Phase};
use crate::reactor::driver::Driver;
use caisson_block::Cx;

impl<D: Driver> Reactor<D> {
    /// No more commands of this connection; what is queued goes out first.
    pub(super) fn drain(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if conn.phase != Phase::Open {
            return;
        }
        conn.phase = Phase::Draining;
        // Nothing is taken any more, so nothing waits: what is left is sent without a look at what came.
        conn.stalled = false;
        conn.give_up = Some(self.now.plus_ms(LINGER_MS));
        conn.queue.close(&mut cx!(self));
        if std::mem::take(&mut conn.paused) {
            self.driver.resume(key);
        }
    }

    pub(super) fn linger(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        conn.phase = Phase::Lingering;
        if conn.ended {
            self.close(key);
        } else {
            self.driver.finish_sending(key);
        }
    }

    /// Nothing more comes. A host that closed only its sending side still reads: what is queued for it goes out first, its
    /// last replies or our termination request.
    pub(super) fn on_ended(&mut self, key: u32, orderly: bool) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        conn.ended = true;
        let unsent = matches!(conn.phase, Phase::Open | Phase::Draining) && !conn.session.tx().is_empty();
        if orderly && unsent {
            self.drain(key);
            self.touch(key);
        } else {
            self.close(key);
        }
    }

    /// Ends a connection now.
    pub(super) fn close(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if conn.phase == Phase::Open {
            conn.queue.close(&mut cx!(self));
        }
        if !matches!(conn.phase, Phase::Closing | Phase::Gone) {
            conn.phase = Phase::Closing;
            self.driver.close(key);
        }
    }

    /// Frees the key of a connection of which nothing is left anywhere.
    pub(super) fn maybe_free(&mut self, key: u32) {
        let Some(slot) = self.conns.get_mut(key as usize) else { return };
        if slot.as_ref().is_some_and(|c| c.phase == Phase::Gone && c.queue.in_flight() == 0) {
            *slot = None;
            self.free.push(key);
            self.live -= 1;
            self.shared.forget(self.index);
        }
    }
}
