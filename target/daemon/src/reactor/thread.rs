//! The loop of one data-plane thread.
//!
//! A turn: take what the driver and the mailbox bring, parse and execute it, give completions to their queues, send
//! what came of it, all connections' sends submitted together; then some of the heavy work that waits ([`super::heavy`]).
//! Connections that brought little go through all of that before those that brought much are looked at, and what is
//! served from memory ends in the turn that began it: a small read is one turn. Nothing here blocks but the driver's
//! sleep. What one connection may have of a turn is bounded by [`traffic`], what heavy work may by its line, so no
//! connection holds the others up.

use super::conn::{Conn, Phase, SWEEP_MS};
use super::driver::{Driver, Event, RX_BUF, STEP, Wait};
use super::heavy::{ALONE_NS, Line, PIECE_NS};
use super::mailbox::{Mailbox, Message, Nudge};
use super::rdma;
use super::shared::{Shared, ThreadStats, clock};
use super::spin::Spin;
use caisson_block::{Completions, Cx, Mono, Outcome, Remote, Tag};
use caisson_core::{Action, Arrival, PortId, Queue, Target};
use caisson_tcp::controller::Session;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Reactor<D> {
    index: usize,
    driver: D,
    mailbox: Arc<Mailbox>,
    remote: Arc<dyn Remote>,
    target: Arc<Target>,
    shared: Arc<Shared>,
    stats: Arc<ThreadStats>,
    conns: Vec<Option<Box<Conn>>>,
    free: Vec<u32>,
    live: u32,
    /// The port of each listener that this thread accepts for.
    listeners: Vec<Option<u16>>,
    now: Mono,
    done: Completions,
    dirty: Vec<u32>,
    timers: BinaryHeap<Reverse<(Mono, u32)>>,
    heavy: Line,
    traffic: Traffic,
    spin: Spin,
    /// Number of the current sweep, see [`Reactor::sweep`].
    sweep: u32,
    /// Connections heard of in this sweep, and in the one before.
    heard: Vec<u32>,
    heard_before: Vec<u32>,
    sweep_at: Mono,
    stopping: Option<Mono>,
    rdma: rdma::Thread,
    /// Taken out of the mailbox and not seen to yet; between turns for the most part only kept for its capacity.
    messages: Vec<Message>,
    // Kept between turns for their capacity.
    events: Vec<Event>,
    told: Vec<Event>,
    batch: Vec<(Tag, Outcome)>,
    actions: Vec<Action>,
}

/// A [`Cx`] over the reactor's own parts, leaving its connections free to be borrowed beside it.
macro_rules! cx {
    ($r:expr) => {
        Cx { now: $r.now, done: &mut $r.done, ring: $r.driver.ring(), remote: &$r.remote }
    };
}

/// The same for [`rdma::Thread`].
macro_rules! turn {
    ($r:expr) => {
        &mut rdma::Turn {
            now: $r.now,
            done: &mut $r.done,
            ring: $r.driver.ring(),
            remote: &$r.remote,
            actions: &mut $r.actions,
        }
    };
}

// Behind the macros, which they use.
mod ending;
mod traffic;

use traffic::{Traffic, apply};

impl<D: Driver> Reactor<D> {
    pub(crate) fn new(
        index: usize,
        driver: D,
        mailbox: Arc<Mailbox>,
        target: Arc<Target>,
        shared: Arc<Shared>,
    ) -> Reactor<D> {
        let stats = Arc::clone(&shared.threads[index]);
        let rdma = rdma::Thread::new(index, Arc::clone(&mailbox), Arc::clone(&target), Arc::clone(&shared));
        let spin = Spin::new(if driver.spins() { shared.limits.spin_ns } else { 0 });
        Reactor {
            index,
            driver,
            remote: Arc::clone(&mailbox) as Arc<dyn Remote>,
            mailbox,
            target,
            shared,
            stats,
            conns: Vec::new(),
            free: Vec::new(),
            live: 0,
            listeners: Vec::new(),
            now: clock(),
            done: Completions::default(),
            dirty: Vec::new(),
            timers: BinaryHeap::new(),
            heavy: Line::default(),
            traffic: Traffic::default(),
            spin,
            sweep: 0,
            heard: Vec::new(),
            heard_before: Vec::new(),
            sweep_at: clock().plus_ms(SWEEP_MS),
            stopping: None,
            rdma,
            events: Vec::new(),
            told: Vec::new(),
            messages: Vec::new(),
            batch: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Runs until told to shut down and all connections are gone.
    ///
    /// # Errors
    /// The driver's, when the kernel refuses to go on.
    pub(crate) fn run(&mut self) -> std::io::Result<()> {
        loop {
            let wait = self.wait();
            let mut begun = clock();
            let slept = matches!(wait, Wait::Sleep(_));
            let mut events = std::mem::take(&mut self.events);
            let turned = self.driver.turn(wait, &mut events);
            self.mailbox.awake();
            turned?;
            if slept {
                let woke = clock();
                self.spin.slept(woke.since(begun));
                begun = woke;
            }
            // What came may have been there since before the look.
            self.now = begun;
            self.mailbox.looked();
            let mut prompt = !events.is_empty();
            for event in events.drain(..) {
                self.on_event(event);
            }
            self.events = events;
            self.see_to_light();
            prompt |= self.on_messages();
            self.rdma.turn(turn!(self));
            prompt |= self.see_to_laden();
            self.on_timers();
            if self.now >= self.sweep_at {
                self.sweep();
            }
            self.answer();
            self.rdma.flush(turn!(self));
            self.do_heavy(prompt);
            self.publish(begun);
            if self.stopping.is_some_and(|by| !self.owes() || self.now >= by) {
                self.heavy.clear();
                return Ok(());
            }
        }
    }

    /// Its mailbox.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Whether the kernel or a volume still has something of ours.
    pub(crate) fn busy(&self) -> bool {
        self.live > 0 || self.rdma.live() > 0 || self.driver.device_ops() > 0 || self.traffic.waits()
    }

    /// Whether something is still to be done here. A pool's batch may be sealed in pieces of heavy work after its writes were
    /// answered: whoever closes the pool waits for it, and for ever if it were dropped.
    fn owes(&self) -> bool {
        self.busy() || !self.heavy.is_empty() || !self.messages.is_empty() || self.mailbox.waiting()
    }

    /// Decides how to wait, spinning first where that pays.
    fn wait(&mut self) -> Wait {
        if self.rdma.parts() {
            self.rdma.part(&mut |fd| self.driver.unwatch(fd));
            return Wait::Poll;
        }
        let more = !self.heavy.is_empty()
            || !self.messages.is_empty()
            || self.driver.copies()
            || self.traffic.waits();
        if more || self.driver.ready() || self.rdma.ready() || self.mailbox.waiting() || !self.done.is_empty()
        {
            return Wait::Poll;
        }
        let budget = self.spin.budget();
        let mut now = clock();
        if budget > 0 {
            // Not past what is due: `polling = "always"` would never see to it.
            let over = Mono(now.0.saturating_add(budget));
            let over = self.due().map_or(over, |at| at.min(over));
            loop {
                for _ in 0..16 {
                    std::hint::spin_loop();
                    if self.driver.ready() || self.rdma.ready() || self.mailbox.waiting() {
                        self.spin.hit();
                        return Wait::Poll;
                    }
                }
                now = clock();
                if now >= over {
                    break;
                }
            }
        }
        let until = self.due();
        if !self.rdma.sleep(now, &mut |fd| self.driver.watch(fd)) || until.is_some_and(|at| at <= now) {
            return Wait::Poll;
        }
        if !self.mailbox.about_to_sleep() {
            return Wait::Poll;
        }
        // What was computed with keys stays on no stack while nobody works there.
        caisson_keys::stack_rests();
        Wait::Sleep(until.map(|at| at.since(now).max(1_000)))
    }

    /// When something must be seen to although nothing comes.
    fn due(&self) -> Option<Mono> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let sweep = (!self.heard.is_empty() || !self.heard_before.is_empty()).then_some(self.sweep_at);
        [timer, sweep, self.stopping, self.rdma.deadline()].into_iter().flatten().min()
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { key, bytes } => self.on_bytes(key, bytes),
            Event::Sent { key, sent } => self.on_sent(key, sent),
            Event::Device { op, result } => self.traffic.ended(op, result),
            Event::Accepted { listener, socket } => self.on_accepted(listener, socket),
            Event::ListenerFailed { listener, error } => {
                let error = std::io::Error::from_raw_os_error(error);
                tracing::error!(listener, %error, "a listener failed and accepts no more: remove it and add it again");
            }
            Event::Ended { key, error } => {
                if error != 0
                    && let Some(Some(conn)) = self.conns.get(key as usize)
                {
                    let error = std::io::Error::from_raw_os_error(error);
                    tracing::debug!(peer = %conn.peer, %error, "connection lost");
                }
                self.pump_rest(key);
                self.on_ended(key, error == 0);
            }
            Event::Gone { key } => {
                if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
                    conn.phase = Phase::Gone;
                }
                self.maybe_free(key);
            }
        }
    }

    /// Whether there were others than those that put heavy work into its line.
    fn on_messages(&mut self) -> bool {
        let mut prompt = false;
        let mut messages = std::mem::take(&mut self.messages);
        self.mailbox.take(&mut messages);
        for message in messages.drain(..) {
            prompt |= !matches!(message, Message::WakeLater { .. });
            match message {
                Message::Adopt { socket, port } => self.adopt(socket, port),
                Message::Listen { listener, port, socket } => {
                    let at = listener as usize;
                    if self.listeners.len() <= at {
                        self.listeners.resize(at + 1, None);
                    }
                    self.listeners[at] = Some(port);
                    if let Err(error) = self.driver.listen(listener, socket) {
                        tracing::error!(listener, %error, "cannot listen");
                    }
                }
                Message::Unlisten { listener } => {
                    if let Some(slot) = self.listeners.get_mut(listener as usize) {
                        *slot = None;
                    }
                    self.driver.unlisten(listener);
                }
                Message::Poll { key } => self.poll_queue(key),
                Message::Wake { who, token } => who.woken(&mut cx!(self), token),
                Message::WakeLater { who, token, heavy } => self.heavy.push((who, token), heavy),
                Message::Rdma(message) => self.rdma.message(message, turn!(self)),
                Message::Shutdown => self.shut_down(),
            }
        }
        self.messages = messages;
        prompt
    }

    /// Does heavy work for a bounded time, where it is its turn. What the turn has to send and to ask of devices is on its
    /// way before. `prompt`: the turn brought something else to do.
    fn do_heavy(&mut self, prompt: bool) {
        let waits = !self.heavy.is_empty() || self.driver.copies();
        // What was done of it in line with what came is enough of it for one turn.
        if !waits || self.mailbox.left() || !self.heavy.due(self.now, prompt) {
            return;
        }
        let over = self.driver.launch();
        let begun = clock();
        if over && !self.heavy.due(begun, true) {
            return;
        }
        let (step, most) = if self.traffic.company() { (STEP, PIECE_NS) } else { (RX_BUF, ALONE_NS) };
        let mut ended = begun;
        // Copies first: batches that others wait for are among them.
        if let Some(Event::Device { op, result }) = self.driver.copy(step) {
            Arc::clone(&op.owner).done(&mut cx!(self), op, result);
            ended = clock();
        }
        while ended.since(begun) < most
            && let Some((who, token)) = self.heavy.pop()
        {
            self.mailbox.take_leave();
            who.woken(&mut cx!(self), token);
            self.line_up();
            ended = clock();
        }
        // What is completed by it is seen to after the next look, which comes at once.
        self.heavy.did(begun, ended);
    }

    /// Puts the heavy work that was asked for meanwhile into its line, so that what has begun goes on before something else
    /// begins. The other messages wait for the next turn.
    fn line_up(&mut self) {
        self.mailbox.take(&mut self.messages);
        for message in self.messages.extract_if(.., |m| matches!(m, Message::WakeLater { .. })) {
            if let Message::WakeLater { who, token, heavy } = message {
                self.heavy.push((who, token), heavy);
            }
        }
    }

    /// Picks the thread with the fewest connections for a new one, or sheds it.
    fn on_accepted(&mut self, listener: u32, socket: OwnedFd) {
        let Some(Some(port)) = self.listeners.get(listener as usize).copied() else { return };
        self.stats.accepted.fetch_add(1, Ordering::Relaxed);
        let Some(thread) = self.shared.place(self.index) else {
            self.stats.shed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(limit = self.shared.limits.connections, "connection shed: the limit is reached");
            return;
        };
        if thread == self.index {
            self.adopt(socket, port);
        } else {
            self.shared.mailboxes[thread].post(Message::Adopt { socket, port });
        }
    }

    /// Takes a connection over; it has been counted already.
    fn adopt(&mut self, socket: OwnedFd, port: u16) {
        if self.stopping.is_some() {
            self.shared.forget(self.index);
            return;
        }
        // Small PDUs must not wait for an acknowledgement; a socket that refuses is about to fail anyway.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
        let peer = rustix::net::getpeername(&socket)
            .ok()
            .flatten()
            .and_then(|a| std::net::SocketAddr::try_from(a).ok())
            .map_or_else(|| "unknown peer".into(), |a| a.to_string());
        let local = rustix::net::getsockname(&socket)
            .ok()
            .and_then(|a| std::net::SocketAddr::try_from(a).ok())
            .map(|a| a.ip().to_canonical());
        let key = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() as u32 - 1
        });
        let nudge =
            Arc::new(Nudge { mailbox: Arc::clone(&self.mailbox), key, pending: AtomicBool::new(false) });
        let session = Session::new(self.shared.limits.session.clone(), self.now);
        let arrival = Arrival {
            port: PortId(port),
            peer: peer.clone(),
            local,
            key,
            in_capsule: self.shared.limits.session.in_capsule,
        };
        let queue = Queue::new(
            Arc::clone(&self.target),
            arrival,
            Arc::clone(&nudge) as Arc<dyn caisson_core::Notify>,
            self.now,
        );
        self.conns[key as usize] = Some(Box::new(Conn {
            session,
            queue,
            nudge,
            phase: Phase::Open,
            dirty: false,
            close: false,
            ended: false,
            stalled: false,
            held: 0,
            paused: false,
            timer: None,
            give_up: None,
            owed: Vec::new(),
            owed_bytes: 0,
            unsent_since: None,
            waits: false,
            heard: self.sweep,
            peer,
        }));
        self.live += 1;
        self.heard.push(key);
        if let Err(error) = self.driver.add(key, socket) {
            tracing::warn!(%error, "cannot take a connection over");
            if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
                conn.phase = Phase::Gone;
            }
            self.maybe_free(key);
            return;
        }
        self.set_timer(key);
    }

    /// Gives completed requests to their queues.
    fn on_completions(&mut self) {
        while !self.done.is_empty() {
            let mut batch = std::mem::take(&mut self.batch);
            self.done.take(&mut batch);
            for (tag, outcome) in batch.drain(..) {
                if tag.queue & rdma::KEY != 0 {
                    self.rdma.completed(tag.queue, tag.slot, outcome, turn!(self));
                    continue;
                }
                let Some(Some(conn)) = self.conns.get_mut(tag.queue as usize) else { continue };
                conn.queue.completed(&mut cx!(self), tag.slot, outcome, &mut self.actions);
                if matches!(conn.phase, Phase::Open) {
                    apply(conn, &mut self.actions, &mut self.done, self.now);
                    if conn.stalled || conn.close {
                        self.pump(tag.queue);
                    } else if !conn.dirty {
                        self.touch(tag.queue);
                    }
                } else {
                    self.actions.clear();
                    self.maybe_free(tag.queue);
                }
            }
            self.batch = batch;
        }
    }

    /// Something of the queue's controller changed, or its time has come.
    fn poll_queue(&mut self, key: u32) {
        if key & rdma::KEY != 0 {
            return self.rdma.poll_queue(key, turn!(self));
        }
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        // A swap, as the notifier's: what was left before a notice that we merge with ours is seen by the poll below.
        conn.nudge.pending.swap(false, Ordering::AcqRel);
        if conn.phase != Phase::Open {
            return;
        }
        conn.queue.poll(&mut cx!(self), &mut self.actions);
        apply(conn, &mut self.actions, &mut self.done, self.now);
        // Also lets the session see the time.
        self.pump(key);
    }

    fn set_timer(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        let Some(at) = conn.deadline(self.shared.limits.send_ms) else { return };
        // In the future even if what is overdue could not be seen to, so that no turn goes on for ever over it.
        let at = at.max(self.now.plus_ms(1));
        if conn.timer.is_none_or(|set| at < set) {
            conn.timer = Some(at);
            self.timers.push(Reverse((at, key)));
        }
    }

    fn on_timers(&mut self) {
        while let Some(&Reverse((at, key))) = self.timers.peek() {
            if at > self.now {
                break;
            }
            self.timers.pop();
            let Some(Some(conn)) = self.conns.get_mut(key as usize) else { continue };
            if conn.timer != Some(at) {
                continue;
            }
            conn.timer = None;
            let overdue =
                conn.unsent_since.is_some_and(|t| t.plus_ms(self.shared.limits.send_ms) <= self.now);
            if overdue && conn.phase == Phase::Open {
                tracing::warn!(peer = %conn.peer, "connection ended: the host takes nothing of what is sent to it");
                self.close(key);
                continue;
            }
            if conn.deadline(self.shared.limits.send_ms).is_some_and(|due| due <= self.now) {
                match conn.phase {
                    Phase::Open => self.poll_queue(key),
                    Phase::Draining | Phase::Lingering => self.close(key),
                    Phase::Closing | Phase::Gone => {}
                }
            }
            self.set_timer(key);
        }
    }

    /// Has the connections that were not heard of for a whole sweep give back what idle ones do not need. A target
    /// where nothing happens does not sweep.
    fn sweep(&mut self) {
        self.sweep += 1;
        self.sweep_at = self.now.plus_ms(SWEEP_MS);
        std::mem::swap(&mut self.heard, &mut self.heard_before);
        let mut quiet = std::mem::take(&mut self.heard);
        for key in quiet.drain(..) {
            if let Some(Some(conn)) = self.conns.get_mut(key as usize)
                && conn.heard + 2 <= self.sweep
                && !self.driver.sending(key)
            {
                conn.trim();
            }
        }
        self.heard = quiet;
    }

    fn shut_down(&mut self) {
        self.stopping.get_or_insert(self.now.plus_ms(self.shared.limits.shutdown_ms));
        for listener in 0..self.listeners.len() as u32 {
            self.driver.unlisten(listener);
        }
        for key in 0..self.conns.len() as u32 {
            self.drain(key);
            self.touch(key);
        }
        self.rdma.shut_down();
    }

    /// Shows the counters of a turn that began with what came then, or with the look at that.
    fn publish(&mut self, begun: Mono) {
        let d = self.driver.stats();
        self.stats.turned(clock().since(begun));
        self.stats.syscalls.store(d.syscalls, Ordering::Relaxed);
        // After the calls that they are among, for who reads both.
        self.stats.vain_polls.store(d.vain_polls, Ordering::Release);
        self.stats.sleeps.store(d.sleeps, Ordering::Relaxed);
        self.stats.copied_rx.store(d.copied_rx, Ordering::Relaxed);
        self.stats.connections.store(u64::from(self.live + self.rdma.live()), Ordering::Relaxed);
    }
}
