//! What connections bring, and what goes back to them: in which order, and how much of it in one turn.
//!
//! A connection that brought little is *light*, one that brought much, or more than it may have of one turn, is *laden*.
//! Light ones are seen to first, down to their replies' being sent; then come the laden, in line. What one may have of a
//! turn, and what ended device operations may, is bounded by the clock, as long as there is *company*: more than one, and
//! something large among what they bring or ask for. One alone holds nobody up, and many that are light are soon done.
//! Bytes of a connection keep their order, whichever line it is in. Owns the lines, and what ended and was not told.

use super::Reactor;
use crate::reactor::conn::{Conn, Phase, RX_HOLD, TX_STALL};
use crate::reactor::driver::{Driver, SEND_BYTES};
use crate::reactor::shared::clock;
use caisson_block::{Buf, Completions, Cx, IoOp, Mono};
use caisson_core::Action;
use caisson_tcp::controller::{Event as PduEvent, Payload};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes that make a connection laden, when they come at once.
const LADEN: usize = 16 << 10;
/// Time of a turn that the commands of one connection may take, in nanoseconds, and one command more.
const PUMP_NS: u64 = 30_000;
/// The same for all light ones together, and for ended device operations.
const LIGHT_NS: u64 = 60_000;
/// Commands between two looks at the clock, where none of them is large.
const COMMANDS: u32 = 4;
/// How often a turn looks for what ended in it: a task may ask for one block of memory after the other.
const ROUNDS: usize = 8;
/// For so long there is company after two connections brought something in turn, and after something large, in milliseconds.
const COMPANY_MS: u64 = 20;
/// Bytes handed to the kernel in one send, in company.
const SEND_STEP: usize = 128 << 10;

/// The lines.
#[derive(Default)]
pub(super) struct Traffic {
    light: VecDeque<u32>,
    laden: VecDeque<u32>,
    /// Device operations that are over.
    ended: VecDeque<(IoOp, Result<u32, i32>)>,
    /// The connection that was last heard of; until when there are several, and until when there is something large.
    last: u32,
    several: Mono,
    large: Mono,
    company: bool,
}

impl Traffic {
    /// A device operation is over; its owner is told in its turn.
    pub(super) fn ended(&mut self, op: IoOp, result: Result<u32, i32>) {
        self.ended.push_back((op, result));
    }

    /// Whether something is left for the next turn.
    pub(super) fn waits(&self) -> bool {
        !(self.light.is_empty() && self.laden.is_empty() && self.ended.is_empty())
    }

    /// Whether more than one connection is busy.
    pub(super) fn company(&self) -> bool {
        self.company
    }

    /// `len` bytes of connection `key` came.
    fn heard(&mut self, key: u32, len: usize, now: Mono) {
        let until = now.plus_ms(COMPANY_MS);
        if key != self.last {
            (self.last, self.several) = (key, until);
        }
        if len >= LADEN {
            self.large = until;
        }
    }

    /// Puts a connection in line that was in none: it brought `len` bytes.
    fn line_up(&mut self, key: u32, len: usize) {
        let line = if len >= LADEN { &mut self.laden } else { &mut self.light };
        line.push_back(key);
    }

    /// A new turn: whether there is company in it. `heavy`: heavy work waits. `others`: some are busy that are not heard of
    /// here.
    fn begin(&mut self, now: Mono, heavy: bool, others: bool) -> bool {
        if heavy {
            self.large = now.plus_ms(COMPANY_MS);
        }
        self.company = now < self.large && (now < self.several || others);
        self.company
    }
}

/// Whether the time that [`Reactor::bound`] gave is over.
fn is_over(until: Option<Mono>) -> bool {
    until.is_some_and(|at| clock() >= at)
}

impl<D: Driver> Reactor<D> {
    /// What came for connections that brought little, and what it needed of memory: up to the replies.
    pub(super) fn see_to_light(&mut self) {
        let heavy = !self.heavy.is_empty() || self.driver.copies();
        let company = self.traffic.begin(self.now, heavy, self.rdma.live() > 0);
        self.driver.company(company);
        let until = self.bound(LIGHT_NS);
        while let Some(key) = self.traffic.light.pop_front() {
            self.pump_in_line(key);
            if is_over(until) {
                break;
            }
        }
        self.see_to_ended();
        if company {
            self.answer();
        }
    }

    /// What came for the others. Whether there was something.
    pub(super) fn see_to_laden(&mut self) -> bool {
        let n = self.traffic.laden.len();
        let until = if n > 0 { self.bound(PUMP_NS) } else { None };
        for _ in 0..n {
            let Some(key) = self.traffic.laden.pop_front() else { break };
            self.pump_in_line(key);
            if is_over(until) {
                break;
            }
        }
        self.see_to_ended();
        // Read again, so that what was done in this turn has a latency. What is done already has it from `answer`.
        if self.done.is_empty() {
            self.now = clock();
        }
        n > 0
    }

    /// Tells owners of the ends of device operations, those included that end in this turn.
    fn see_to_ended(&mut self) {
        let mut until = None;
        for round in 0..ROUNDS {
            let mut events = std::mem::take(&mut self.told);
            self.driver.told(&mut events);
            events.drain(..).for_each(|event| self.on_event(event));
            self.told = events;
            if self.traffic.ended.is_empty() {
                return;
            }
            if round == 0 {
                until = self.bound(LIGHT_NS);
            }
            while let Some((op, result)) = self.traffic.ended.pop_front() {
                Arc::clone(&op.owner).done(&mut cx!(self), op, result);
                if is_over(until) {
                    return;
                }
            }
        }
    }

    /// When something that begins now has had `ns` nanoseconds; in company, for one alone has all the time it needs.
    fn bound(&self, ns: u64) -> Option<Mono> {
        self.traffic.company.then(|| Mono(clock().0 + ns))
    }

    /// Gives completed requests to their queues, and sends what there is to send.
    pub(super) fn answer(&mut self) {
        if !self.done.is_empty() {
            self.now = clock();
            self.on_completions();
        }
        self.flush();
    }

    pub(super) fn on_bytes(&mut self, key: u32, bytes: Buf) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        self.stats.rx_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if conn.phase != Phase::Open {
            return;
        }
        if conn.heard != self.sweep {
            conn.heard = self.sweep;
            self.heard.push(key);
        }
        if conn.stalled || conn.waits {
            conn.held += bytes.len();
            if conn.held > RX_HOLD && !conn.paused {
                conn.paused = true;
                self.driver.pause(key);
            }
        }
        self.traffic.heard(key, bytes.len(), self.now);
        if !std::mem::replace(&mut conn.waits, true) {
            self.traffic.line_up(key, bytes.len());
        }
        conn.session.receive(bytes);
    }

    /// The next of a line.
    fn pump_in_line(&mut self, key: u32) {
        if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
            conn.waits = false;
        }
        self.pump(key);
    }

    /// All that a connection in line brought, since nothing more comes.
    pub(super) fn pump_rest(&mut self, key: u32) {
        while matches!(self.conns.get(key as usize), Some(Some(c)) if c.waits) {
            self.traffic.light.retain(|&k| k != key);
            self.traffic.laden.retain(|&k| k != key);
            self.pump_in_line(key);
        }
    }

    /// Parses and executes what has come on a connection; what is more than it may have of a turn comes into line.
    pub(super) fn pump(&mut self, key: u32) {
        let until = self.bound(PUMP_NS);
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if conn.phase != Phase::Open {
            return;
        }
        let now = self.now;
        let mut seen = 0;
        let mut waited = std::mem::take(&mut conn.stalled);
        while !conn.close {
            if conn.full() {
                conn.stalled = true;
                break;
            }
            if std::mem::take(&mut waited) {
                conn.session.excuse(now);
            }
            let Some(event) = conn.session.next(now, &mut self.done) else { break };
            seen += 1;
            let mut large = false;
            let mut cx = cx!(self);
            match event {
                PduEvent::Command { slot, sqe, payload } => {
                    let payload = match payload {
                        Payload::None => caisson_core::Payload::None,
                        Payload::InCapsule(data) => caisson_core::Payload::InCapsule(data),
                        Payload::Transport { len } => {
                            conn.owe(slot, len);
                            caisson_core::Payload::Transport { len }
                        }
                        Payload::Bad(status) => caisson_core::Payload::Bad(status),
                    };
                    conn.queue.command(&mut cx, slot, &sqe, payload, &mut self.actions);
                }
                PduEvent::Data { slot, data } => {
                    conn.owe(slot, data.len() as u32);
                    large = data.len() >= LADEN;
                    conn.queue.data(&mut cx, slot, data, &mut self.actions);
                }
                PduEvent::Damaged { slot, status } => {
                    conn.queue.data_failed(slot, status, &mut self.actions);
                }
                PduEvent::Terminated { fes, fei, .. } => {
                    tracing::warn!(peer = %conn.peer, fes, fei, "the host terminated the connection");
                }
            }
            apply(conn, &mut self.actions, &mut self.done, self.now);
            if (large || seen % COMMANDS == 0) && is_over(until) {
                if !std::mem::replace(&mut conn.waits, true) {
                    self.traffic.laden.push_back(key);
                }
                break;
            }
        }
        if let Some(fatal) = conn.session.closing() {
            if conn.phase == Phase::Open {
                tracing::warn!(peer = %conn.peer, "connection terminated: {fatal}");
                self.stats.protocol_errors.fetch_add(1, Ordering::Relaxed);
            }
            self.drain(key);
        } else if conn.close {
            self.drain(key);
        } else {
            conn.stalled |= conn.session.stalled();
            if !conn.stalled && !conn.waits && conn.held > 0 {
                conn.held = 0;
                if std::mem::take(&mut conn.paused) {
                    self.driver.resume(key);
                }
            }
        }
        self.touch(key);
    }

    /// Marks a connection as having something to send, and sets its timer where that came nearer.
    pub(super) fn touch(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if !conn.dirty && !conn.session.tx().is_empty() {
            conn.dirty = true;
            self.dirty.push(key);
        }
        if conn.phase == Phase::Draining && conn.session.tx().is_empty() {
            self.linger(key);
        }
        self.set_timer(key);
    }

    pub(super) fn on_sent(&mut self, key: u32, sent: usize) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        self.stats.tx_bytes.fetch_add(sent as u64, Ordering::Relaxed);
        conn.session.tx().advance(sent);
        let left = conn.session.tx().pending_bytes();
        conn.unsent_since = (left > 0).then_some(self.now);
        if conn.stalled && left <= TX_STALL / 2 {
            self.pump(key);
        } else {
            self.touch(key);
        }
    }

    /// Sends what there is to send: the little first.
    pub(super) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let most = if self.traffic.company { SEND_STEP } else { SEND_BYTES };
        if self.traffic.company && dirty.len() > 1 {
            let conns = &mut self.conns;
            let much = |key: &u32| match conns.get_mut(*key as usize) {
                Some(Some(conn)) => conn.session.tx().pending_bytes() >= LADEN,
                _ => false,
            };
            dirty.sort_unstable_by_key(much);
        }
        for key in dirty.drain(..) {
            let Some(Some(conn)) = self.conns.get_mut(key as usize) else { continue };
            conn.dirty = false;
            if self.driver.sending(key) {
                // Sent's handler marks it again.
                continue;
            }
            conn.unsent_since.get_or_insert(self.now);
            let tx = conn.session.tx();
            self.driver.send(key, &mut |iov| tx.gather(iov, most).0);
            self.set_timer(key);
        }
        self.dirty = dirty;
    }
}

/// Carries out what the queue asked for.
pub(super) fn apply(conn: &mut Conn, actions: &mut Vec<Action>, done: &mut Completions, now: Mono) {
    for action in actions.drain(..) {
        match action {
            Action::Pull { slot, len } => {
                // Until it is here, the window of R2Ts bounds it; counting it would hold up what brings it.
                conn.settle(slot);
                let asked = conn.session.pull(slot, len, now);
                debug_assert!(asked, "core asks for what the descriptor offers");
            }
            Action::Reply { slot, cqe, data } => {
                conn.settle(slot);
                if let [one] = data.parts() {
                    // The kernel copies it when the turn's replies are sent, which is a batch from now.
                    one.prefetch();
                }
                conn.session.reply(slot, cqe, data, done);
            }
            Action::Close { reason } => {
                tracing::info!(peer = %conn.peer, "closing the connection: {reason}");
                conn.close = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_brings_much_is_in_another_line_and_company_ends() {
        let mut t = Traffic::default();
        let at = |ms| Mono(1_000_000_000).plus_ms(ms);
        t.heard(7, LADEN, at(0));
        t.heard(7, LADEN, at(COMPANY_MS + 1));
        assert!(!t.begin(at(COMPANY_MS + 1), true, false), "one alone, whatever it brings");
        assert!(t.begin(at(COMPANY_MS + 1), false, true));
        t.heard(8, LADEN - 1, at(COMPANY_MS + 2));
        assert!(t.begin(at(2 * COMPANY_MS), false, false) && t.company());
        assert!(!t.begin(at(2 * COMPANY_MS + 1), false, false), "nothing large any more");
        assert!(t.begin(at(2 * COMPANY_MS + 1), true, false));
        assert!(!t.begin(at(2 * COMPANY_MS + 2), true, false), "one alone again");
        assert!(!t.waits());
        t.line_up(7, LADEN);
        t.line_up(8, LADEN - 1);
        assert!(t.waits());
        assert_eq!((t.light.pop_front(), t.laden.pop_front()), (Some(8), Some(7)));
    }
}
