//! One fabrics queue: what the driver of a connection feeds, and whose actions it carries out.
//!
//! Lives on one thread and owns its commands. What its controller's other queues or management want comes through its
//! link and is looked at in [`Queue::poll`]. The way of an I/O command (`command`, `completed`) takes no lock and
//! allocates nothing once the queue has been used as deep before.

use crate::admin::Admin;
use crate::connect;
use crate::io::Io;
use crate::link::{Link, Mail};
use crate::seam::{Action, Arrival, CloseReason, Notify, Payload};
use crate::slots::{Slots, State, Token};
use crate::target::Target;
use caisson_block::{BufList, Cx, Mono, Outcome};
use caisson_wire::zerocopy::little_endian::U16;
use caisson_wire::{Cqe, Sqe, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How long a connection may take to its first successful Connect.
pub const CONNECT_WITHIN_MS: u64 = 20_000;

/// The slot in the tag of requests that belong to no command (the flushes of a shutdown).
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// One queue.
pub struct Queue {
    core: Core,
    role: Role,
}

/// What the queue has become.
pub(crate) enum Role {
    /// Not connected yet.
    Fresh,
    /// The admin queue of a controller.
    Admin(Box<Admin>),
    /// An I/O queue.
    Io(Box<Io>),
    /// Closed.
    Over,
}

/// What every role needs of a queue.
pub(crate) struct Core {
    pub(crate) target: Arc<Target>,
    pub(crate) at: Arrival,
    pub(crate) notify: Arc<dyn Notify>,
    pub(crate) slots: Slots,
    /// Requests at volumes.
    pub(crate) in_flight: u32,
    /// Entries of the submission queue, 0 until Connect.
    pub(crate) entries: u16,
    sqhd: u16,
    /// The host agreed to do without SQHD.
    pub(crate) no_sqhd: bool,
    /// A Close action was given out: no more commands.
    closing: bool,
    opened: Mono,
}

impl Core {
    /// Completes a command.
    #[inline]
    pub(crate) fn reply(
        &mut self,
        token: Token,
        status: Status,
        result: u64,
        data: BufList,
        out: &mut Vec<Action>,
    ) {
        let mut cqe = Cqe::new(token.cid(), status);
        if result != 0 {
            cqe = cqe.with_result(result);
        }
        cqe.sqhd = U16::new(self.sqhd);
        if !status.is_success() {
            self.target.counters.failed_commands.fetch_add(1, Relaxed);
        }
        out.push(Action::Reply { slot: token.slot(), cqe, data });
        token.settle();
    }

    /// Completes a command without data or result.
    #[inline]
    pub(crate) fn answer(&mut self, token: Token, status: Status, out: &mut Vec<Action>) {
        self.reply(token, status, 0, BufList::new(), out);
    }

    /// Asks for a command's data.
    #[inline]
    pub(crate) fn pull(&mut self, token: Token, len: u32, state: State, out: &mut Vec<Action>) {
        out.push(Action::Pull { slot: token.slot(), len });
        self.slots.park(token, state);
    }

    /// Has the connection closed.
    pub(crate) fn close(&mut self, reason: CloseReason, out: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.closing, true) {
            out.push(Action::Close { reason });
        }
    }

    /// The command in `token`'s capsule has been taken from the submission queue.
    #[inline]
    fn advance(&mut self) {
        if self.no_sqhd {
            self.sqhd = 0xffff;
            return;
        }
        self.sqhd += 1;
        if self.sqhd >= self.entries {
            self.sqhd = 0;
        }
    }

    /// Connect made the queue one of `entries`; its own capsule was the first.
    pub(crate) fn sized(&mut self, entries: u16, no_sqhd: bool) {
        (self.entries, self.no_sqhd) = (entries, no_sqhd);
        self.sqhd = if no_sqhd { 0xffff } else { 1 % entries };
    }
}

impl Queue {
    /// A queue for a connection that has just been set up.
    pub fn new(target: Arc<Target>, at: Arrival, notify: Arc<dyn Notify>, now: Mono) -> Queue {
        let core = Core {
            target,
            at,
            notify,
            slots: Slots::default(),
            in_flight: 0,
            entries: 0,
            sqhd: 0,
            no_sqhd: false,
            closing: false,
            opened: now,
        };
        Queue { core, role: Role::Fresh }
    }

    /// A command capsule came, and was given `slot`, which stays its own until [`Action::Reply`].
    #[inline]
    pub fn command(
        &mut self,
        cx: &mut Cx<'_>,
        slot: u32,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) {
        let core = &mut self.core;
        if core.closing {
            return;
        }
        let Some(token) = core.slots.accept(slot, sqe.cid.get()) else { return };
        core.advance();
        match &mut self.role {
            Role::Io(io) => io.command(core, cx, token, sqe, payload, out),
            Role::Admin(admin) => admin.command(core, cx, token, sqe, payload, out),
            Role::Fresh => {
                if let Some(role) = connect::command(core, cx.now, token, sqe, payload, out) {
                    self.role = role;
                }
            }
            Role::Over => token.settle(),
        }
    }

    /// The data that [`Action::Pull`] asked for, all of it.
    pub fn data(&mut self, cx: &mut Cx<'_>, slot: u32, data: BufList, out: &mut Vec<Action>) {
        let core = &mut self.core;
        if core.closing {
            return;
        }
        let Some((token, state)) = core.slots.take(slot) else { return };
        match &mut self.role {
            Role::Io(io) => io.data(core, cx, token, state, data, out),
            Role::Admin(admin) => admin.data(core, cx, token, state, data, out),
            Role::Fresh => {
                if let State::PullFor(sqe) = state {
                    if let Some(role) = connect::data(core, cx.now, token, &sqe, &data, out) {
                        self.role = role;
                    }
                } else {
                    core.slots.park(token, state);
                }
            }
            Role::Over => token.settle(),
        }
    }

    /// The data that [`Action::Pull`] asked for cannot be had whole (it came damaged): the command ends with `status`.
    pub fn data_failed(&mut self, slot: u32, status: Status, out: &mut Vec<Action>) {
        let core = &mut self.core;
        if core.closing {
            return;
        }
        let Some((token, state)) = core.slots.take(slot) else { return };
        match &mut self.role {
            Role::Io(io) => {
                let ended = io.give_up(core, token, state, status, out);
                debug_assert!(ended, "slot {slot} asked for no data");
            }
            Role::Fresh | Role::Admin(_) => core.answer(token, status, out),
            Role::Over => token.settle(),
        }
    }

    /// A volume is done with the request tagged with this queue's key and `slot`.
    #[inline]
    pub fn completed(&mut self, cx: &mut Cx<'_>, slot: u32, outcome: Outcome, out: &mut Vec<Action>) {
        let core = &mut self.core;
        debug_assert!(core.in_flight > 0, "a completion without a request");
        core.in_flight = core.in_flight.saturating_sub(1);
        match &mut self.role {
            Role::Io(io) => io.completed(core, cx, slot, outcome, out),
            Role::Admin(admin) => admin.completed(core, slot, outcome, out),
            Role::Fresh | Role::Over => {}
        }
    }

    /// Looks at what others have left for this queue and at the time. To be called after [`Notify::notify`] and at
    /// [`Queue::deadline`]; harmless at any time.
    pub fn poll(&mut self, cx: &mut Cx<'_>, out: &mut Vec<Action>) {
        let core = &mut self.core;
        match &mut self.role {
            Role::Fresh if cx.now >= core.opened.plus_ms(CONNECT_WITHIN_MS) => {
                core.close(CloseReason::NoConnect, out);
            }
            Role::Io(io) => io.poll(core, cx, out),
            Role::Admin(admin) => admin.poll(core, cx, out),
            Role::Fresh | Role::Over => {}
        }
    }

    /// When [`Queue::poll`] must be called though nobody notified.
    pub fn deadline(&self) -> Option<Mono> {
        match &self.role {
            _ if self.core.closing => None,
            Role::Fresh => Some(self.core.opened.plus_ms(CONNECT_WITHIN_MS)),
            Role::Admin(admin) => admin.deadline(),
            Role::Io(_) | Role::Over => None,
        }
    }

    /// Requests at volumes. The key must not be given to another queue until this is zero.
    pub fn in_flight(&self) -> u32 {
        self.core.in_flight
    }

    /// The connection is gone. What is at volumes still completes through [`Queue::completed`]; nothing is answered.
    pub fn close(&mut self, _cx: &mut Cx<'_>) {
        self.leave();
    }

    fn leave(&mut self) {
        let core = &mut self.core;
        core.closing = true;
        match std::mem::replace(&mut self.role, Role::Over) {
            Role::Admin(admin) => {
                let controller = &admin.controller;
                controller.shut(CloseReason::AdminQueueGone);
                controller.subsystem.forget(controller);
                leave_link(core, &admin.link, |link| controller.leave(link));
            }
            Role::Io(mut io) => {
                io.retire();
                leave_link(core, &io.link, |link| io.controller.leave(link));
            }
            Role::Fresh | Role::Over => {}
        }
        let busy: Vec<u32> = core.slots.busy().collect();
        for slot in busy {
            if let Some((token, _)) = core.slots.take(slot) {
                token.settle();
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Takes a link out of its controller, and answers what still waits in it.
fn leave_link(core: &mut Core, link: &Arc<Link>, out_of: impl FnOnce(&Arc<Link>)) {
    out_of(link);
    for mail in link.shut() {
        if let Mail::Abort { ticket, answer, .. } = mail {
            answer.post(Mail::Aborted { ticket, done: false });
        }
    }
    core.target.counters.queues.fetch_sub(1, Relaxed);
}
