//! An admin queue: the controller's own commands, its properties, its timers, its asynchronous events.
//!
//! Owns the controller's state that only this queue's thread touches. When this queue goes the controller goes with it.

mod abort;
mod aer;
mod discovery;
mod effects;
mod erase;
mod features;
mod identify;
mod logs;

use crate::controller::{Controller, Life};
use crate::events::ErrorNote;
use crate::io::check_flags;
use crate::link::{Link, Mail};
use crate::payload::{Incoming, Len, incoming, outgoing};
use crate::property::{Effect, Phase, Properties, Step};
use crate::queue::{Core, NO_SLOT};
use crate::registry::subsystem::Kind;
use crate::seam::{Action, CloseReason, Payload};
use crate::slots::{State, Token};
use caisson_block::{Buf, BufList, Cx, Mono, Op, Outcome, Request, Tag};
use caisson_wire::feature::round_kato;
use caisson_wire::opcode::{FABRICS, admin as opc, fctype};
use caisson_wire::sqe::Fuse;
use caisson_wire::{Sqe, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// KAS: granularity of the keep-alive timer, in units of 100 ms.
pub(crate) const KAS: u16 = 10;
/// How long a controller may stay disabled, and how long a discovery controller without keep-alive may stay idle
/// (Base 2.1, 3.5 and 3.1.3.3: two minutes).
pub(crate) const IDLE_MS: u64 = 120_000;
/// Asynchronous Event Requests at once (AERL + 1).
pub(crate) const MAX_EVENTS: usize = 8;
/// Aborts at once (ACL + 1).
pub(crate) const MAX_ABORTS: usize = 8;

/// The admin queue of a controller.
pub(crate) struct Admin {
    pub(crate) controller: Arc<Controller>,
    pub(crate) link: Arc<Link>,
    properties: Properties,
    features: features::Features,
    /// Slots of Asynchronous Event Requests, the oldest first.
    events: Vec<u32>,
    /// Aborts that wait for an I/O queue: ticket and slot.
    aborts: Vec<(u32, u32)>,
    next_ticket: u32,
    in_capsule: u32,
    alive: KeepAlive,
    /// When a controller that is not enabled by then is given up.
    enable_by: Option<Mono>,
    /// Flushes of a shutdown that are not done.
    flushing: u32,
    /// The discovery log as it was when its start was last read, and what had happened until then.
    log: Option<(Buf, u64)>,
    /// Commands that wait for something to be erased.
    erasing: erase::Erasing,
}

/// The keep-alive timer: traffic-based (Base 2.1, 3.9.4), so it asks at each interval's end whether any command came.
struct KeepAlive {
    interval_ms: u64,
    due: Option<Mono>,
    seen: u64,
    reason: CloseReason,
}

impl KeepAlive {
    fn start(&mut self, interval_ms: u64, reason: CloseReason, now: Mono, seen: u64) {
        let due = (interval_ms != 0).then(|| now.plus_ms(interval_ms));
        *self = KeepAlive { interval_ms, due, seen, reason };
    }
}

impl Admin {
    pub(crate) fn new(
        controller: Arc<Controller>,
        link: Arc<Link>,
        in_capsule: u32,
        kato: u32,
        now: Mono,
    ) -> Admin {
        let kind = controller.subsystem.kind;
        let alive = KeepAlive { interval_ms: 0, due: None, seen: 0, reason: CloseReason::KeepAliveExpired };
        let mut admin = Admin {
            controller,
            link,
            properties: Properties::new(kind),
            features: features::Features::new(now),
            events: Vec::new(),
            aborts: Vec::new(),
            next_ticket: 0,
            in_capsule,
            alive,
            enable_by: Some(now.plus_ms(IDLE_MS)),
            flushing: 0,
            log: None,
            erasing: erase::Erasing::default(),
        };
        admin.set_kato(kato, now);
        admin
    }

    fn kind(&self) -> Kind {
        self.controller.subsystem.kind
    }

    /// Sets the keep-alive time-out, rounded up to KAS. Without one a discovery controller lives while it is used.
    fn set_kato(&mut self, ms: u32, now: Mono) {
        let ms = round_kato(ms, KAS);
        self.controller.kato_ms.store(ms, Relaxed);
        let seen = self.controller.traffic();
        let (interval, reason) = match (ms, self.kind()) {
            (0, Kind::Discovery) => (IDLE_MS, CloseReason::Idle),
            (ms, _) => (u64::from(ms), CloseReason::KeepAliveExpired),
        };
        self.alive.start(interval, reason, now, seen);
    }

    pub(crate) fn command(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) {
        self.link.count_command();
        if let Err((token, status)) = self.start(core, cx, token, sqe, payload, out) {
            core.answer(token, status, out);
        }
    }

    fn start(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) -> Result<(), (Token, Status)> {
        if let Err(status) = check_flags(sqe, &payload) {
            return Err((token, status));
        }
        if sqe.fuse() != Fuse::None {
            return Err((token, Status::INVALID_FIELD.dnr()));
        }
        if sqe.opcode == FABRICS {
            return self.fabrics(core, cx, token, sqe, out);
        }
        // Before it is enabled a controller takes fabrics commands only (Base 2.1, 3.5).
        if self.controller.life() != Life::Ready {
            return Err((token, Status::COMMAND_SEQUENCE_ERROR.dnr()));
        }
        if let Err(status) = self.sanitize_refuses(sqe) {
            return Err((token, status));
        }
        let io = self.kind() == Kind::Nvm;
        let erase = io && self.controller.subsystem.may_erase();
        let answer = match sqe.opcode {
            opc::IDENTIFY => self.identify(core, sqe).and_then(|data| fit(&payload, data)),
            opc::GET_LOG_PAGE => outgoing(&payload).and_then(|room| self.get_log(core, cx, sqe, room)),
            opc::GET_FEATURES => match self.get_feature(cx, sqe) {
                Ok((result, data)) if data.is_empty() => {
                    core.reply(token, Status::SUCCESS, u64::from(result), BufList::new(), out);
                    return Ok(());
                }
                Ok((_, data)) => fit(&payload, data),
                Err(status) => Err(status),
            },
            opc::SET_FEATURES => return self.start_set(core, cx, token, sqe, payload, out),
            opc::KEEP_ALIVE => {
                self.alive.start(
                    self.alive.interval_ms,
                    self.alive.reason,
                    cx.now,
                    self.controller.traffic(),
                );
                Ok(BufList::new())
            }
            opc::ASYNC_EVENT => return self.event_request(core, token, out),
            opc::FORMAT_NVM if erase => return self.format(core, cx, token, sqe, &payload),
            opc::SANITIZE if erase => return self.start_sanitize(core, cx, token, sqe, &payload, out),
            opc::ABORT if io => return self.start_abort(core, token, sqe, out),
            _ => Err(Status::INVALID_OPCODE.dnr()),
        };
        match answer {
            Ok(data) => {
                core.reply(token, Status::SUCCESS, 0, data, out);
                // Reading a log page lets more be told.
                self.tell(core, out);
                Ok(())
            }
            Err(status) => Err((token, status)),
        }
    }

    /// The data of a command that had to be pulled: there is only Set Features.
    pub(crate) fn data(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        state: State,
        data: BufList,
        out: &mut Vec<Action>,
    ) {
        match state {
            State::PullFor(sqe) => self.set(core, cx, token, &sqe, &data, out),
            other => {
                debug_assert!(false, "data for a command that asked for none");
                core.slots.park(token, other);
            }
        }
        cx.recycle(data);
    }

    /// Set Features: with data when the feature has some.
    fn start_set(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) -> Result<(), (Token, Status)> {
        let len = features::data_len(sqe.cdw10.get() as u8);
        if len == 0 {
            self.set(core, cx, token, sqe, &BufList::new(), out);
            return Ok(());
        }
        match incoming(payload, Len::AtLeast(len, 4096)) {
            Ok(Incoming::Here(data)) => self.set(core, cx, token, sqe, &data, out),
            Ok(Incoming::Pull(len)) => core.pull(token, len, State::PullFor(Box::new(*sqe)), out),
            Err(status) => return Err((token, status)),
        }
        Ok(())
    }

    fn set(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        data: &BufList,
        out: &mut Vec<Action>,
    ) {
        match self.set_feature(core, cx, sqe, data) {
            Ok(result) => core.reply(token, Status::SUCCESS, u64::from(result), BufList::new(), out),
            Err(status) => core.answer(token, status, out),
        }
        self.tell(core, out);
    }

    fn fabrics(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        out: &mut Vec<Action>,
    ) -> Result<(), (Token, Status)> {
        let invalid = Status::INVALID_FIELD.dnr();
        match sqe.fctype() {
            fctype::PROPERTY_GET => {
                let wide = match sqe.cdw10.get() & 0b111 {
                    0 => false,
                    1 => true,
                    _ => return Err((token, invalid)),
                };
                match self.properties.get(sqe.cdw11.get(), wide) {
                    Some(value) => core.reply(token, Status::SUCCESS, value, BufList::new(), out),
                    None => return Err((token, invalid)),
                }
            }
            fctype::PROPERTY_SET => {
                // CC is the only property that can be written here, and has four bytes.
                let cc =
                    sqe.cdw10.get() & 0b111 == 0 && sqe.cdw11.get() == caisson_wire::fabrics::property::CC;
                if !cc {
                    return Err((token, invalid));
                }
                for effect in self.properties.set_cc(sqe.cdw12.get()) {
                    self.apply(core, cx, effect, out);
                }
                self.publish();
                core.answer(token, Status::SUCCESS, out);
            }
            fctype::CONNECT => return Err((token, Status::COMMAND_SEQUENCE_ERROR.dnr())),
            // An admin queue is not deleted with Disconnect (Base 2.1, 6.4): Invalid Queue Type.
            fctype::DISCONNECT => return Err((token, Status::from_parts(1, 0x85).dnr())),
            _ => return Err((token, Status::INVALID_OPCODE.dnr())),
        }
        Ok(())
    }

    /// What status shows of CC and CSTS.
    fn publish(&self) {
        self.controller.cc.store(self.properties.cc(), Relaxed);
        self.controller.csts.store(self.properties.csts(), Relaxed);
    }

    fn apply(&mut self, core: &mut Core, cx: &mut Cx<'_>, effect: Effect, out: &mut Vec<Action>) {
        match effect {
            Effect::None => {}
            Effect::Start => {
                self.enable_by = None;
                self.controller.set_ready(true);
            }
            Effect::Drop => self.reset(core, cx, out),
            Effect::Flush => {
                self.controller.set_ready(false);
                self.write_out(core, cx);
            }
        }
    }

    /// A controller reset (Base 2.1, 3.7.2): the I/O queues go, what the admin queue holds ends, features are as at the
    /// start. The association and its keep-alive timer stay.
    fn reset(&mut self, core: &mut Core, cx: &mut Cx<'_>, out: &mut Vec<Action>) {
        self.controller.set_ready(false);
        self.controller.close_io_queues(CloseReason::ControllerReset);
        let erasing = self.erasing.forget();
        let held = self.events.drain(..).chain(self.aborts.drain(..).map(|(_, slot)| slot));
        for slot in held.chain(erasing) {
            if let Some((token, _)) = core.slots.take(slot) {
                core.answer(token, Status::ABORT_SQ_DELETION, out);
            }
        }
        self.features = features::Features::new(cx.now);
        self.controller.set_write_through(false);
        let most = if self.kind() == Kind::Nvm { crate::spec::MAX_IO_QUEUES } else { 0 };
        self.controller.io_queues.store(most, Relaxed);
        let mut shared = crate::sync::lock(&self.controller.shared);
        shared.events = crate::events::Events::default();
        self.enable_by = Some(cx.now.plus_ms(IDLE_MS));
        self.log = None;
    }

    /// A shutdown writes out what volatile caches hold (Base 2.1, 3.6).
    fn write_out(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        let tag = Tag { queue: core.at.key, slot: NO_SLOT };
        let table = self.controller.subsystem.table();
        let volatile = |n: &&Arc<crate::registry::namespace::Namespace>| n.volume.geometry().volatile_cache;
        for namespace in table.iter().filter(volatile) {
            self.flushing += 1;
            core.in_flight += 1;
            namespace.volume.submit(cx, Request { tag, op: Op::Flush });
        }
        if self.flushing == 0 {
            self.properties.step(Step::Flushed);
        }
    }

    /// A volume is done with a request: a flush of a shutdown, or a Format.
    pub(crate) fn completed(&mut self, core: &mut Core, slot: u32, outcome: Outcome, out: &mut Vec<Action>) {
        match slot {
            NO_SLOT => self.flushed(core, outcome),
            slot => self.formatted(core, slot, outcome, out),
        }
    }

    /// One flush of a shutdown is done. A failure is the volume's to report: the shutdown goes on.
    fn flushed(&mut self, _core: &mut Core, outcome: Outcome) {
        if let Err(error) = outcome {
            tracing::warn!(subsystem = %self.controller.subsystem.nqn, %error, "a flush at shutdown failed");
        }
        self.flushing = self.flushing.saturating_sub(1);
        if self.flushing == 0 && self.properties.phase == Phase::ShuttingDown {
            self.properties.step(Step::Flushed);
            self.publish();
        }
    }

    pub(crate) fn poll(&mut self, core: &mut Core, cx: &mut Cx<'_>, out: &mut Vec<Action>) {
        for mail in self.link.take() {
            match mail {
                Mail::Close(reason) => core.close(reason, out),
                Mail::Aborted { ticket, done } => self.finish_abort(core, ticket, done, out),
                Mail::Abort { ticket, answer, .. } => {
                    debug_assert!(false, "Abort of an admin command is not mailed");
                    answer.post(Mail::Aborted { ticket, done: false });
                }
            }
        }
        self.look_at_erasing(core, cx.now, out);
        self.tell(core, out);
        if self.alive.due.is_some_and(|due| cx.now >= due) {
            self.interval_over(core, cx, out);
        }
        if self.enable_by.is_some_and(|by| cx.now >= by) {
            self.enable_by = None;
            self.controller.shut(CloseReason::Idle);
            core.close(CloseReason::Idle, out);
        }
    }

    /// A keep-alive interval ended: another begins if a command came in it, on any queue; else the association ends.
    fn interval_over(&mut self, core: &mut Core, cx: &mut Cx<'_>, out: &mut Vec<Action>) {
        // Whoever was reading the discovery log has had all that time for it.
        self.log = None;
        let seen = self.controller.traffic();
        if seen != self.alive.seen {
            return self.alive.start(self.alive.interval_ms, self.alive.reason, cx.now, seen);
        }
        let reason = self.alive.reason;
        self.alive.due = None;
        if reason == CloseReason::KeepAliveExpired {
            core.target.counters.keep_alive_expired.fetch_add(1, Relaxed);
            let status = Status::KEEP_ALIVE_EXPIRED;
            let note = ErrorNote { sqid: 0xffff, cid: 0xffff, status, lba: 0, nsid: 0, opcode: 0 };
            self.controller.log_error(note, None);
        }
        self.controller.shut(reason);
        core.close(reason, out);
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        [self.alive.due, self.enable_by, self.erasing.due()].into_iter().flatten().min()
    }
}

/// Data for a host that described room for at least as much.
fn fit(payload: &Payload, data: BufList) -> Result<BufList, Status> {
    let room = outgoing(payload)?;
    if (room as usize) < data.len() { Err(Status::INVALID_SGL_LENGTH.dnr()) } else { Ok(data) }
}
