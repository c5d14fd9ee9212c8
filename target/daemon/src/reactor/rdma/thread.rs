//! The RDMA side of one data-plane thread.
//!
//! A turn: take what the devices have completed, execute it, hand completions of volumes to their queues, post what came of
//! all that in one batch a connection. Nothing here blocks. What one turn takes is bounded by [`TURN`].

use super::super::mailbox::{Mailbox, Nudge};
use super::super::shared::{Shared, ThreadStats};
use super::conn::{Conn, LINGER_MS, Phase};
use super::control::Control;
use super::port::{Port, Watch};
use super::{Adopted, Buried, KEY, Message};
use caisson_block::{BufList, Completions, Cx, Mono, Outcome, Remote, Ring};
use caisson_core::{Action, Arrival, PortId, Queue, Target};
use caisson_rdma::fault::{Cause, RECEIVE};
use caisson_rdma::session::Env;
use caisson_rdma::{Event, Fatal, Payload, Session, WcStatus};
use caisson_verbs::{Completion, Scratch};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Completions that one turn looks at, a device.
const TURN: usize = 256;
/// How soon a connection is looked at again that waits for buffers, in milliseconds.
const RETRY_MS: u64 = 1;

/// What the loop lends for the length of one call.
pub(crate) struct Turn<'a> {
    pub(crate) now: Mono,
    pub(crate) done: &'a mut Completions,
    pub(crate) ring: &'a mut dyn Ring,
    pub(crate) remote: &'a Arc<dyn Remote>,
    pub(crate) actions: &'a mut Vec<Action>,
}

macro_rules! cx {
    ($t:expr) => {
        Cx { now: $t.now, done: &mut *$t.done, ring: &mut *$t.ring, remote: $t.remote }
    };
}

macro_rules! env {
    ($port:expr, $t:expr) => {
        Env { keys: &*$port.keys, memory: &$port.memory, spare: &mut *$t.done }
    };
}

/// All of RDMA that one thread has.
pub(crate) struct Thread {
    index: usize,
    mailbox: Arc<Mailbox>,
    target: Arc<Target>,
    shared: Arc<Shared>,
    stats: Arc<ThreadStats>,
    ports: Vec<Option<Box<Port>>>,
    /// Of devices that have gone: those whose channels the driver still knows, and those that it was told to forget.
    #[allow(clippy::vec_box, reason = "a port goes from list to list in its box")]
    parting: Vec<Box<Port>>,
    #[allow(clippy::vec_box, reason = "as above")]
    parted: Vec<Box<Port>>,
    conns: Vec<Option<Box<Conn>>>,
    free: Vec<u32>,
    live: u32,
    by_id: HashMap<usize, u32>,
    dirty: Vec<u32>,
    timers: BinaryHeap<Reverse<(Mono, u32)>>,
    scratch: Scratch,
    taken: Vec<Completion>,
    events: Vec<Event>,
    stopping: bool,
}

impl Thread {
    pub(crate) fn new(
        index: usize,
        mailbox: Arc<Mailbox>,
        target: Arc<Target>,
        shared: Arc<Shared>,
    ) -> Thread {
        Thread {
            index,
            mailbox,
            target,
            stats: Arc::clone(&shared.threads[index]),
            shared,
            ports: Vec::new(),
            parting: Vec::new(),
            parted: Vec::new(),
            conns: Vec::new(),
            free: Vec::new(),
            live: 0,
            by_id: HashMap::new(),
            dirty: Vec::new(),
            timers: BinaryHeap::new(),
            scratch: Scratch::default(),
            taken: Vec::new(),
            events: Vec::new(),
            stopping: false,
        }
    }

    fn control(&self) -> Option<&Control> {
        self.shared.rdma.get()
    }

    /// Connections that it has something of.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    /// Whether a device has completed something. Costs nothing where there is no device.
    #[inline]
    pub(crate) fn ready(&mut self) -> bool {
        self.ports.iter_mut().flatten().any(|p| p.ready())
    }

    /// Has the devices wake the thread. `false` when it must not sleep.
    pub(crate) fn sleep(&mut self, now: Mono, watch: Watch<'_>) -> bool {
        let mut may = true;
        for port in self.ports.iter_mut().flatten() {
            may &= port.sleep(now, watch);
        }
        may
    }

    /// Whether something of a device that has gone is to be let go of.
    #[inline]
    pub(crate) fn parts(&self) -> bool {
        !self.parting.is_empty() || !self.parted.is_empty()
    }

    /// Lets go of it, in two turns: what the driver was told to forget in the last, the kernel holds no more.
    pub(crate) fn part(&mut self, unwatch: Watch<'_>) {
        for port in self.parted.drain(..) {
            if let Some(control) = self.shared.rdma.get() {
                control.port_dropped(port);
            }
        }
        self.parting.iter().for_each(|port| port.part(unwatch));
        self.parted.append(&mut self.parting);
    }

    /// When the thread must look here again.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        let ports = self.ports.iter().flatten().filter_map(|p| p.deadline()).min();
        let timers = self.timers.peek().map(|Reverse((at, _))| *at);
        [ports, timers].into_iter().flatten().min()
    }

    /// Something from the control thread.
    pub(crate) fn message(&mut self, message: Message, t: &mut Turn<'_>) {
        match message {
            Message::Port(port) => match self.ports.iter().position(Option::is_none) {
                Some(at) => self.ports[at] = Some(port),
                None => self.ports.push(Some(port)),
            },
            Message::Adopt(adopted) => self.adopt(*adopted, t),
            Message::Lost { connection, why, cause } => {
                if let Some(&at) = self.by_id.get(&connection) {
                    // What was done before the end is told first.
                    if let Some(Some(conn)) = self.conns.get(at as usize) {
                        self.look(conn.port, t);
                    }
                    let conn = self.conns.get(at as usize).and_then(Option::as_ref);
                    if conn.and_then(|c| c.session.as_ref()).is_some_and(|s| s.fatal().is_some()) {
                        // That is the cause, and what the host did was the consequence.
                        self.settle(at, t);
                    }
                    self.lost(at, why, cause);
                    self.begin_close(at, t);
                }
            }
            Message::LastReceive { device, queue_pair } => {
                let port = self.ports.iter().flatten().find(|p| p.device == device);
                if let Some(&at) = port.and_then(|p| p.by_number.get(&queue_pair))
                    && let Some(Some(conn)) = self.conns.get_mut(at as usize)
                {
                    conn.last_receive = true;
                    // What it has completed of receives is to be looked at first: the next turn buries it.
                    self.touch(at);
                }
            }
            Message::Retire { device } => {
                for port in self.ports.iter_mut().flatten().filter(|p| p.device == device) {
                    port.retired = true;
                }
                self.drop_retired();
            }
        }
    }

    /// Says and counts that a connection was lost, where it was open: as `cause`, or for what was on its way.
    fn lost(&self, at: u32, why: &str, cause: Option<Cause>) {
        let Some(Some(conn)) = self.conns.get(at as usize) else { return };
        let Some(session) = conn.session.as_ref().filter(|_| conn.phase == Phase::Open) else { return };
        let (commands, transfers) = (session.in_hand(), session.on_their_way());
        // Event requests wait for ever, on the admin queue of a host that goes as it should.
        let busy = transfers > 0 || session.awaits() || conn.queue.in_flight() > 0;
        let Some(cause) = cause.or(busy.then_some(Cause::DisconnectInTransfer)) else {
            tracing::debug!(peer = %conn.peer, "RDMA connection lost: {why}");
            return;
        };
        self.shared.rdma_stats.count(cause);
        tracing::warn!(
            peer = %conn.peer, cause = cause.name(), commands, transfers, "RDMA connection lost: {why}"
        );
    }

    fn adopt(&mut self, a: Adopted, t: &mut Turn<'_>) {
        let found = self.ports.iter().position(|p| p.as_ref().is_some_and(|p| p.device == a.device));
        let session = Session::new(a.config);
        let Some(port) = found.filter(|_| !self.stopping) else {
            self.bury(Buried { abrupt: false, connection: a.connection, _session: session });
            self.shared.forget(self.index);
            return;
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() as u32 - 1
        });
        let key = at | KEY;
        let nudge =
            Arc::new(Nudge { mailbox: Arc::clone(&self.mailbox), key, pending: AtomicBool::new(false) });
        let peer = a.peer.map_or_else(|| "unknown peer".into(), |p| p.to_string());
        let arrival = Arrival {
            port: PortId(a.port),
            peer: peer.clone(),
            local: a.local.map(|l| l.ip().to_canonical()),
            key,
            in_capsule: self.shared.limits.session.in_capsule,
        };
        let queue = Queue::new(
            Arc::clone(&self.target),
            arrival,
            Arc::clone(&nudge) as Arc<dyn caisson_core::Notify>,
            t.now,
        );
        tracing::debug!(%peer, qid = a.accepted.qid, depth = a.accepted.depth, reads = a.accepted.reads, "RDMA connection");
        let send_ms = self.shared.limits.send_ms;
        let conn = Conn::new(session, a.connection, queue, nudge, port, peer, send_ms);
        if let Some(port) = &mut self.ports[port] {
            port.by_number.insert(conn.number, at);
        }
        self.by_id.insert(conn.id, at);
        self.conns[at as usize] = Some(Box::new(conn));
        self.live += 1;
        self.stats.accepted.fetch_add(1, Ordering::Relaxed);
        self.set_timer(at, t.now);
    }

    /// Takes and executes what the devices have completed, and does what time demands.
    pub(crate) fn turn(&mut self, t: &mut Turn<'_>) {
        if let Some(control) = self.shared.rdma.get() {
            control.look();
        }
        for at in 0..self.ports.len() {
            self.look(at, t);
        }
        self.on_timers(t);
    }

    /// Takes and executes what one device has completed.
    fn look(&mut self, at: usize, t: &mut Turn<'_>) {
        let Some(port) = &mut self.ports[at] else { return };
        port.renew();
        let mut taken = std::mem::take(&mut self.taken);
        taken.append(&mut port.strange);
        let known = taken.len();
        port.take(TURN, &mut taken);
        for (n, c) in taken.drain(..).enumerate() {
            self.completion(at, &c, n < known, t);
        }
        self.taken = taken;
        if let Some(port) = &mut self.ports[at] {
            port.refill(&mut self.scratch);
        }
    }

    /// A completion; one that was `strange` has been put off once, until the messages that came with it were read.
    fn completion(&mut self, at: usize, c: &Completion, strange: bool, t: &mut Turn<'_>) {
        let Some(port) = &mut self.ports[at] else { return };
        let conn = port.by_number.get(&c.queue_pair()).copied();
        if conn.is_none() && !strange && c.status() == WcStatus::Success {
            port.strange.push(*c);
            return;
        }
        let Some((index, conn)) =
            conn.and_then(|i| Some((i, self.conns.get_mut(i as usize)?.as_deref_mut()?)))
        else {
            // Of a queue pair that is destroyed: its buffer comes home all the same.
            if let Some(id) = c.receive() {
                port.receives.give_back(id);
            }
            return;
        };
        let Some(session) = &mut conn.session else { return };
        if let Some(id) = c.receive() {
            if c.status() == WcStatus::Success {
                self.stats.rx_bytes.fetch_add(u64::from(c.len()), Ordering::Relaxed);
                match port.receives.take(id, c.len()) {
                    Some(capsule) => match session.command(capsule, t.done).ok().flatten() {
                        Some(event) if conn.held.is_empty() && conn.takes() => execute(conn, port, event, t),
                        came => conn.held.extend(came),
                    },
                    None => {
                        session.fail(Fatal::Short { len: c.len() });
                    }
                }
            } else {
                port.receives.give_back(id);
                if conn.phase == Phase::Open && c.status() != WcStatus::Flushed {
                    session.fail(Fatal::Failed { what: RECEIVE, status: c.status() });
                }
            }
        } else {
            session.completed(c.send(), c.status(), &mut env!(port, t), &mut self.events);
            conn.watch_sends(t.now);
        }
        if self.events.is_empty() && conn.held.is_empty() {
            // Something has gone out, and nothing waited for it.
            self.touch(index);
            return;
        }
        conn.held.extend(self.events.drain(..));
        self.pump(index, t);
    }

    /// Executes what is held of a connection.
    fn pump(&mut self, at: u32, t: &mut Turn<'_>) {
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        let Some(port) = &self.ports[conn.port] else { return };
        while conn.takes() {
            let Some(event) = conn.held.pop_front() else { break };
            execute(conn, port, event, t);
        }
        self.touch(at);
    }

    /// A volume is done with a request of one of its queues.
    pub(crate) fn completed(&mut self, key: u32, slot: u32, outcome: Outcome, t: &mut Turn<'_>) {
        let at = key & !KEY;
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        conn.queue.completed(&mut cx!(t), slot, outcome, t.actions);
        match (conn.phase, &self.ports[conn.port]) {
            (Phase::Open, Some(port)) => {
                apply(conn, port, t);
                if conn.held.is_empty() {
                    self.touch(at);
                } else {
                    self.pump(at, t);
                }
            }
            _ => {
                t.actions.clear();
                self.maybe_free(at);
            }
        }
    }

    /// Something of the queue's controller changed, or its time has come.
    pub(crate) fn poll_queue(&mut self, key: u32, t: &mut Turn<'_>) {
        let at = key & !KEY;
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        conn.nudge.pending.swap(false, Ordering::AcqRel);
        let (Phase::Open, Some(port)) = (conn.phase, &self.ports[conn.port]) else { return };
        conn.queue.poll(&mut cx!(t), t.actions);
        apply(conn, port, t);
        self.pump(at, t);
        self.set_timer(at, t.now);
    }

    fn touch(&mut self, at: u32) {
        if let Some(Some(conn)) = self.conns.get_mut(at as usize)
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push(at);
        }
    }

    /// Posts what there is to be posted, and takes each connection that was touched further on its way.
    pub(crate) fn flush(&mut self, t: &mut Turn<'_>) {
        // Ends: only a connection that begins to close is touched meanwhile, which it does once.
        while let Some(at) = self.dirty.pop() {
            if let Some(Some(conn)) = self.conns.get_mut(at as usize) {
                conn.dirty = false;
                self.post(at, t);
                self.settle(at, t);
                self.account(at);
            }
        }
        if !self.ports.is_empty() {
            self.ports.iter_mut().flatten().for_each(|p| p.rest(t.now));
            self.publish();
        }
    }

    /// Tells its port what a connection waits for, and whether the device has something of it.
    fn account(&mut self, at: u32) {
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        // What is held waits for buffers that are on their way.
        let awaits = conn.phase != Phase::Open || !conn.held.is_empty();
        let now =
            conn.session.as_ref().map_or((false, false), |s| (awaits || s.awaits(), s.on_their_way() > 0));
        let before = std::mem::replace(&mut conn.accounted, now);
        if let Some(port) = &mut self.ports[conn.port] {
            port.awaiting = port.awaiting + u32::from(now.0) - u32::from(before.0);
            port.unretired = port.unretired + u32::from(now.1) - u32::from(before.1);
        }
    }

    /// How many buffers are out.
    fn publish(&self) {
        let mut out = [0u64; 3];
        for port in self.ports.iter().flatten() {
            out[0] += port.memory.transfer.iter().map(|p| u64::from(p.in_use())).sum::<u64>();
            out[1] += u64::from(port.receives.held());
            out[2] += u64::from(port.memory.small.in_use());
        }
        for (shown, out) in self.stats.rdma_buffers.iter().zip(out) {
            shown.store(out, Ordering::Relaxed);
        }
    }

    fn post(&mut self, at: u32, t: &mut Turn<'_>) {
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        let (Some(session), Some(connection), Some(port)) =
            (&mut conn.session, &conn.connection, &self.ports[conn.port])
        else {
            return;
        };
        if session.waiting() {
            session.advance(&mut env!(port, t));
        }
        if session.batch().is_empty() {
            return;
        }
        let bytes: u64 = session.batch().sges.iter().map(|s| u64::from(s.len)).sum();
        self.stats.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
        // SAFETY: the lists name buffers that the session keeps to itself until their completion, or until the connection is
        // dropped (`Buried`); they lie in pools that stay registered for as long as a buffer of theirs is out (`devices`).
        let posted = unsafe { connection.post(session.batch(), &mut self.scratch) };
        let (refused, errno) = posted.err().map_or((0, 0), |r| (r.requests, r.errno));
        session.posted(refused, errno, &mut env!(port, t));
        if conn.stalls().is_none() {
            conn.watch_sends(t.now);
        }
    }

    /// Takes a connection a step nearer to its end where it has one, and sets its timer.
    fn settle(&mut self, at: u32, t: &mut Turn<'_>) {
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        let Some(session) = &conn.session else { return };
        if let Some(fatal) = session.fatal().filter(|_| conn.phase != Phase::Closing) {
            if conn.phase == Phase::Open {
                let cause = fatal.cause();
                tracing::warn!(peer = %conn.peer, cause = cause.name(), "RDMA connection ended: {fatal}");
                self.shared.rdma_stats.count(cause);
                if cause != Cause::DisconnectInTransfer {
                    self.stats.protocol_errors.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.begin_close(at, t);
        } else if conn.phase == Phase::Open && conn.close {
            conn.phase = Phase::Draining;
            conn.held.clear();
            conn.give_up = Some(t.now.plus_ms(LINGER_MS));
            conn.queue.close(&mut cx!(t));
        }
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        let Some(session) = &conn.session else { return };
        match conn.phase {
            Phase::Draining if session.idle() => self.begin_close(at, t),
            Phase::Closing if session.drained() && conn.last_receive => self.finish(at),
            _ => {}
        }
        self.set_timer(at, t.now);
    }

    /// Ends a connection now: what the device has of it is flushed.
    fn begin_close(&mut self, at: u32, t: &mut Turn<'_>) {
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        if matches!(conn.phase, Phase::Closing | Phase::Gone) {
            return;
        }
        if conn.phase == Phase::Open {
            conn.queue.close(&mut cx!(t));
        }
        conn.phase = Phase::Closing;
        conn.held.clear();
        conn.give_up = Some(t.now.plus_ms(LINGER_MS));
        if let Some(session) = &mut conn.session {
            session.close(t.done);
        }
        if let Some(connection) = &conn.connection {
            connection.flush();
        }
        self.touch(at);
        self.set_timer(at, t.now);
    }

    /// Gives a connection to the control thread, to be destroyed.
    fn finish(&mut self, at: u32) {
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        conn.phase = Phase::Gone;
        let (number, id) = (conn.number, conn.id);
        if let Some(port) = &mut self.ports[conn.port] {
            port.by_number.remove(&number);
        }
        self.by_id.remove(&id);
        if let (Some(connection), Some(session)) = (conn.connection.take(), conn.session.take()) {
            let abrupt = session.fatal().is_some_and(|f| f.cause().may_be_the_link());
            self.bury(Buried { abrupt, connection, _session: session });
        }
        self.account(at);
        self.maybe_free(at);
        self.drop_retired();
    }

    fn bury(&self, buried: Buried) {
        match self.control() {
            Some(control) => control.bury(buried),
            None => drop(buried),
        }
    }

    fn drop_retired(&mut self) {
        for port in &mut self.ports {
            self.parting.extend(port.take_if(|p| p.retired && p.by_number.is_empty()));
        }
    }

    /// Frees the key of a connection of which nothing is left anywhere.
    fn maybe_free(&mut self, at: u32) {
        let Some(slot) = self.conns.get_mut(at as usize) else { return };
        if slot.as_ref().is_some_and(|c| c.phase == Phase::Gone && c.queue.in_flight() == 0) {
            *slot = None;
            self.free.push(at);
            self.live -= 1;
            self.shared.forget(self.index);
        }
    }

    fn set_timer(&mut self, at: u32, now: Mono) {
        let Some(Some(conn)) = self.conns.get_mut(at as usize) else { return };
        let waiting = conn.session.as_ref().is_some_and(Session::waiting);
        let retry = (waiting && conn.phase != Phase::Gone).then(|| now.plus_ms(RETRY_MS));
        let Some(due) = [conn.deadline(), retry].into_iter().flatten().min() else { return };
        let due = due.max(now.plus_ms(1));
        if conn.timer.is_none_or(|set| due < set) {
            conn.timer = Some(due);
            self.timers.push(Reverse((due, at)));
        }
    }

    fn on_timers(&mut self, t: &mut Turn<'_>) {
        while let Some(&Reverse((due, at))) = self.timers.peek() {
            if due > t.now {
                break;
            }
            self.timers.pop();
            let Some(Some(conn)) = self.conns.get_mut(at as usize) else { continue };
            if conn.timer != Some(due) {
                continue;
            }
            conn.timer = None;
            let overdue = conn.deadline().is_some_and(|d| d <= t.now);
            match conn.phase {
                Phase::Open if conn.stalls().is_some_and(|at| at <= t.now) => self.stalled(at, t),
                Phase::Open if overdue => self.poll_queue(at, t),
                Phase::Draining if overdue => self.begin_close(at, t),
                // Not all was flushed, or nobody said so: destroying the queue pair ends what is left.
                Phase::Closing if overdue => self.finish(at),
                _ => {}
            }
            self.touch(at);
            self.set_timer(at, t.now);
        }
    }

    /// A host has taken nothing of what was sent to it for too long.
    fn stalled(&mut self, at: u32, t: &mut Turn<'_>) {
        self.lost(at, "the host takes nothing of what is sent to it", Some(Cause::ReceiverNotReady));
        self.begin_close(at, t);
    }

    /// Ends all connections, once what was answered has gone out.
    pub(crate) fn shut_down(&mut self) {
        self.stopping = true;
        for at in 0..self.conns.len() as u32 {
            if let Some(Some(conn)) = self.conns.get_mut(at as usize) {
                conn.close = true;
                self.touch(at);
            }
        }
    }
}

/// Executes what has come on a connection that takes it.
fn execute(conn: &mut Conn, port: &Port, event: Event, t: &mut Turn<'_>) {
    match event {
        Event::Command { slot, sqe, payload } => {
            let payload = match payload {
                Payload::None => caisson_core::Payload::None,
                Payload::InCapsule(data) => caisson_core::Payload::InCapsule(conn.own(slot, &sqe, data)),
                Payload::Transport { len } => {
                    conn.own(slot, &sqe, BufList::new());
                    conn.owe(slot, len);
                    caisson_core::Payload::Transport { len }
                }
                Payload::Bad(status) => caisson_core::Payload::Bad(status),
            };
            conn.queue.command(&mut cx!(t), slot, &sqe, payload, t.actions);
        }
        Event::Data { slot, data } => {
            conn.owe(slot, data.len() as u32);
            let data = conn.unshared(slot, data);
            conn.queue.data(&mut cx!(t), slot, data, t.actions);
        }
    }
    apply(conn, port, t);
}

/// Carries out what the queue asked for.
fn apply(conn: &mut Conn, port: &Port, t: &mut Turn<'_>) {
    if t.actions.is_empty() {
        return;
    }
    let mut actions = std::mem::take(t.actions);
    for action in actions.drain(..) {
        let Some(session) = &mut conn.session else { continue };
        match action {
            Action::Pull { slot, len } => {
                let asked = session.pull(slot, len, &mut env!(port, t));
                debug_assert!(asked, "core asks for what the descriptor offers");
                // Until it is here, the buffers for transfers bound it.
                conn.settle(slot);
            }
            Action::Reply { slot, cqe, data } => {
                session.reply(slot, cqe, data, &mut env!(port, t));
                conn.answered(slot);
            }
            Action::Close { reason } => {
                tracing::info!(peer = %conn.peer, "closing the connection: {reason}");
                conn.close = true;
            }
        }
    }
    *t.actions = actions;
}
