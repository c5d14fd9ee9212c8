//! What the ring's completions say: bytes that came, sends that ended, connections that were accepted.
//!
//! Owns nothing: the driver has the ring, the sockets and the buffers. It must never wait.

use super::super::driver::{ACCEPT_REST, Event, RX_BUF, copy_out};
use super::hot::{HEAT, HOT, LADEN};
use super::{Uring, tagged};
use io_uring::{cqueue, opcode};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Instant;

impl Uring {
    /// A connection that is closing and has nothing left in the kernel goes.
    pub(super) fn maybe_gone(&mut self, key: u32, events: &mut Vec<Event>) {
        let Some(slot) = self.conns.get_mut(key as usize) else { return };
        if slot.as_ref().is_some_and(|c| c.closing && !c.receiving && c.send.is_none()) {
            *slot = None;
            events.push(Event::Gone { key });
        }
    }

    fn on_recv(&mut self, key: u32, result: i32, flags: u32, events: &mut Vec<Event>) {
        let bytes = match (cqueue::buffer_select(flags), result) {
            (Some(id), n) if n > 0 => self.rx.take(id, n as usize),
            // A buffer picked and not filled goes straight back.
            (Some(id), _) => self.rx.take(id, 0).and(None),
            (None, _) => None,
        };
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if !cqueue::more(flags) {
            conn.receiving = false;
        }
        let (mut heat, mut one) = (false, false);
        if let Some(bytes) = bytes {
            if !conn.hot {
                one = self.company && conn.receiving && !conn.laden && bytes.len() == RX_BUF;
                conn.laden = one || conn.laden && bytes.len() >= LADEN;
            }
            if !conn.closing {
                if self.rx.short() {
                    self.stats.copied_rx += 1;
                    copy_out(key, &bytes, events);
                } else {
                    events.push(Event::Received { key, bytes });
                }
                self.brought = true;
                if conn.naps == self.stats.sleeps {
                    conn.streak += 1;
                } else {
                    (conn.naps, conn.streak) = (self.stats.sleeps, 0);
                }
                heat = conn.streak >= HEAT && self.may_heat && self.hot.len() < HOT && !conn.hot;
            }
        } else if result == -libc::ENOBUFS {
            self.starved.push_back(key);
        } else if result <= 0 && result != -libc::ECANCELED && !conn.ended {
            conn.ended = true;
            if !conn.closing {
                events.push(Event::Ended { key, error: -result });
            }
        }
        let rearm = !conn.receiving && result != -libc::ENOBUFS;
        if heat {
            self.heat(key);
        } else if one {
            // Begun again, see `arm_recv`, when it has ended.
            let data = tagged::RECV | u64::from(key);
            self.push(opcode::AsyncCancel::new(data).build().user_data(tagged::IGNORE));
        }
        if rearm {
            self.arm_recv(key);
        }
        self.maybe_gone(key, events);
    }

    fn on_send(&mut self, key: u32, result: i32, events: &mut Vec<Event>) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if let Some(block) = conn.send.take() {
            self.spare_sends.push(block);
        }
        if result >= 0 {
            events.push(Event::Sent { key, sent: result as usize });
        } else if !conn.ended && result != -libc::EAGAIN && result != -libc::EINTR {
            conn.ended = true;
            if !conn.closing {
                events.push(Event::Ended { key, error: -result });
            }
        } else {
            events.push(Event::Sent { key, sent: 0 });
        }
        self.maybe_gone(key, events);
    }

    fn on_accept(&mut self, listener: u32, result: i32, flags: u32, events: &mut Vec<Event>) {
        if result >= 0 {
            self.rest_told = false;
            // SAFETY: a descriptor that the kernel has just made for us and that nobody else knows.
            let socket = unsafe { OwnedFd::from_raw_fd(result) };
            events.push(Event::Accepted { listener, socket });
        }
        if cqueue::more(flags) {
            return;
        }
        let Some(slot) = self.listeners.get_mut(listener as usize) else { return };
        let Some(l) = slot else { return };
        l.accepting = false;
        if l.closing {
            *slot = None;
            return;
        }
        match -result {
            // Out of descriptors or memory: try again when some may have come free. A peer that left early is its own
            // affair.
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => {
                if !std::mem::replace(&mut self.rest_told, true) {
                    tracing::warn!(
                        error = -result,
                        "cannot accept a connection: raise the limit of open files (ulimit -n)"
                    );
                }
                // It would fail again at once.
                self.rest_until = Instant::now() + ACCEPT_REST;
                self.resting.push(listener);
            }
            e if e > 0 && e != libc::ECONNABORTED && e != libc::EINTR && e != libc::EAGAIN => {
                events.push(Event::ListenerFailed { listener, error: e });
            }
            _ => self.arm_accept(listener),
        }
    }

    pub(super) fn reap(&mut self, events: &mut Vec<Event>) {
        loop {
            let Some(cqe) = self.ring.completion().next() else { break };
            let (data, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
            let key = data as u32;
            match data & tagged::KIND {
                tagged::RECV => self.on_recv(key, result, flags, events),
                tagged::SEND => self.on_send(key, result, events),
                tagged::DEVICE => events.extend(self.device.finish(key, result)),
                tagged::ACCEPT => self.on_accept(key, result, flags, events),
                tagged::BELL => {
                    self.mailbox.silence();
                    if !cqueue::more(flags) {
                        self.bell_armed = false;
                    }
                }
                _ => {}
            }
        }
    }
}
