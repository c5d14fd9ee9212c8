//! The thread that speaks to the connection manager.
//!
//! Owns listeners, devices and registrations. Whatever may take long (making and destroying queue pairs, registering) is done
//! here, never on a data-plane thread. It sleeps until a descriptor of the connection manager, of a device, or its own bell is
//! readable.

use super::super::mailbox;
use super::super::shared::Shared;
use super::devices::InUse;
use super::listeners::Listeners;
use super::nodes::Nodes;
use super::partings::{End, Partings};
use super::port::Port;
use super::{Adopted, Buried, Message};
use caisson_block::offered;
use caisson_rdma::Cause;
use caisson_rdma::cm::{self, Accepted};
use caisson_rdma::session::Config;
use caisson_verbs::{
    Channel, CmEvent, CmKind, Connection, DeviceEvent, Farewell, Incoming, Listener, QueuePair,
};
use caisson_wire::rdma::CmStatus;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How soon listeners that wait for a device are tried again, at first and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(8)];
/// List entries of a send, where the device allows as many: a read of 128 KiB from pages of 4 KiB is one request.
const SEND_SGES: u32 = 32;

/// What the thread is asked to do.
enum Command {
    Listen { address: SocketAddr, port: u16, answer: SyncSender<io::Result<SocketAddr>> },
    Expect { address: SocketAddr, port: u16, why: String, answer: SyncSender<()> },
    Unlisten { address: SocketAddr },
    Bury(Box<Buried>),
    PortDropped(Box<Port>),
    Sync,
    Shutdown,
}

struct Desk {
    commands: Mutex<Vec<Command>>,
    bell: OwnedFd,
    /// The generation of offered pools that was asked to be looked at.
    asked: AtomicU64,
    over: AtomicBool,
    /// Listeners that wait for a device, and why.
    waiting: Mutex<Vec<(SocketAddr, String)>>,
}

impl Desk {
    fn post(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        // A full counter still wakes.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// A handle on the thread.
pub(crate) struct Control {
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Control {
    /// Starts the thread. Whether there is RDMA here is seen when something is to be listened on.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Control> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let desk = Arc::new(Desk {
            commands: Mutex::default(),
            bell,
            asked: AtomicU64::new(u64::MAX),
            over: AtomicBool::new(false),
            waiting: Mutex::default(),
        });
        let worker = Worker {
            desk: Arc::clone(&desk),
            shared: Arc::clone(shared),
            channel: None,
            retry: None,
            nodes: None,
            listeners: Listeners::default(),
            devices: Vec::new(),
            known: HashMap::new(),
            graves: Vec::new(),
            partings: Partings::default(),
        };
        let thread = std::thread::Builder::new().name("caisson-rdma".into()).spawn(move || worker.run())?;
        Ok(Control { desk, thread: Mutex::new(Some(thread)) })
    }

    /// Listens on `address` for connections of `port`.
    ///
    /// # Errors
    /// There is no RDMA here, and what to do about it; no device has the address, or it is in use.
    pub(crate) fn listen(&self, address: SocketAddr, port: u16) -> io::Result<SocketAddr> {
        let (answer, answered) = sync_channel(1);
        self.desk.post(Command::Listen { address, port, answer });
        answered.recv().unwrap_or_else(|_| Err(io::Error::other("the RDMA thread has ended")))
    }

    /// Listens on `address` for connections of `port` as soon as a device has it; why that cannot be now is `why`.
    pub(crate) fn expect(&self, address: SocketAddr, port: u16, why: String) {
        let (answer, answered) = sync_channel(1);
        self.desk.post(Command::Expect { address, port, why, answer });
        // Where the thread has ended, the target is ending.
        let _ = answered.recv();
    }

    /// Why the listener on `address` waits, where it does.
    pub(crate) fn waits(&self, address: SocketAddr) -> Option<String> {
        let waiting = self.desk.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().find(|(at, _)| *at == address).map(|(_, why)| why.clone())
    }

    /// Stops listening.
    pub(crate) fn unlisten(&self, address: SocketAddr) {
        self.desk.post(Command::Unlisten { address });
    }

    /// Destroys a connection.
    pub(super) fn bury(&self, buried: Buried) {
        self.desk.post(Command::Bury(Box::new(buried)));
    }

    /// A thread has let go of its part of a device that has gone.
    pub(super) fn port_dropped(&self, port: Box<Port>) {
        self.desk.post(Command::PortDropped(port));
    }

    /// Has the thread look at the process's pools where there are new ones. Costs two loads where there are none.
    #[inline]
    pub(crate) fn look(&self) {
        let now = offered::generation();
        if self.desk.asked.load(Ordering::Relaxed) != now
            && self.desk.asked.swap(now, Ordering::Relaxed) != now
        {
            self.desk.post(Command::Sync);
        }
    }

    /// Ends the thread; connections that were given to it are destroyed first.
    pub(crate) fn shutdown(&self) {
        self.desk.over.store(true, Ordering::Release);
        self.desk.post(Command::Shutdown);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// Memory that a device reaches is locked, which counts against a limit whose soft part is kept low: takes what the hard one
/// gives. What cannot be locked is said when it is registered.
fn raise_locked_memory() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let had = getrlimit(Resource::Memlock);
    if had.current != had.maximum {
        let all = Rlimit { current: had.maximum, maximum: had.maximum };
        if let Err(error) = setrlimit(Resource::Memlock, all) {
            tracing::debug!(%error, "the limit of locked memory stays as it is");
        }
    }
}

/// Where a connection is served.
struct Place {
    thread: usize,
    device: usize,
    number: u32,
    send_wrs: u32,
    depth: u32,
    /// The host has ended it.
    ended: bool,
}

struct Worker {
    desk: Arc<Desk>,
    shared: Arc<Shared>,
    /// None where there is no RDMA yet.
    channel: Option<Arc<Channel>>,
    /// When listeners that wait are tried next, and how long after that they are again.
    retry: Option<(Instant, Duration)>,
    /// The devices' nodes, once there is RDMA.
    nodes: Option<Nodes>,
    listeners: Listeners,
    devices: Vec<InUse>,
    /// By [`Connection::key`].
    known: HashMap<usize, Place>,
    /// To be destroyed once all events at hand are read.
    graves: Vec<Buried>,
    /// Those whose hosts are still to be told.
    partings: Partings<Farewell>,
}

impl Worker {
    fn run(mut self) {
        while self.wait() {
            // Events of connections first: their keys are addresses, which are used again once they are destroyed.
            while let Some(event) = self.channel.as_ref().and_then(Channel::event) {
                self.event(event);
            }
            self.device_events();
            self.look_at_nodes();
            if !self.commands() {
                break;
            }
            self.graves.clear();
            self.partings.end(Instant::now());
            self.shared.parting.store(self.partings.len(), Ordering::Relaxed);
            self.retry();
        }
        self.listeners.clear();
        self.graves.clear();
        self.commands();
        self.graves.clear();
        // The kernel would end them with the process, whatever the link does.
        self.partings.clear();
    }

    /// The channel of the connection manager, which is made when it is first needed.
    fn channel(&mut self) -> io::Result<Arc<Channel>> {
        if let Some(channel) = &self.channel {
            return Ok(Arc::clone(channel));
        }
        let channel = Channel::new().map_err(io::Error::other)?;
        raise_locked_memory();
        self.nodes = Some(Nodes::new());
        Ok(Arc::clone(self.channel.insert(channel)))
    }

    /// Tries listeners that wait when their time has come, and tells which still do.
    fn retry(&mut self) {
        let mut waiting = self.listeners.waiting();
        if waiting.is_empty() {
            self.retry = None;
        } else {
            let now = Instant::now();
            let (at, pause) = *self.retry.get_or_insert((now + RETRY[0], RETRY[0]));
            if at <= now {
                let channel = self.channel();
                self.listeners.retry(&channel);
                waiting = self.listeners.waiting();
                let next = (pause * 2).min(RETRY[1]);
                self.retry = Some((now + next, next));
            }
        }
        *self.desk.waiting.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
    }

    /// Sleeps until something is to be done; `false` when it cannot.
    fn wait(&self) -> bool {
        // SAFETY: both stay open for as long as the channel and the devices are there, which is longer than this call.
        let borrowed = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
        let mut fds = vec![PollFd::from_borrowed_fd(self.desk.bell.as_fd(), PollFlags::IN)];
        let channel = self.channel.as_ref().map(|c| c.fd());
        fds.extend(channel.map(|fd| PollFd::from_borrowed_fd(borrowed(fd), PollFlags::IN)));
        let nodes = self.nodes.as_ref().and_then(Nodes::fd);
        fds.extend(nodes.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let of_devices = self.devices.iter().filter(|d| d.leaving.is_none());
        fds.extend(
            of_devices.map(|d| PollFd::from_borrowed_fd(borrowed(d.device.event_fd()), PollFlags::IN)),
        );
        let due = [self.retry.map(|(at, _)| at), self.partings.next()].into_iter().flatten().min();
        let timeout = due.and_then(|at| {
            Timespec::try_from(at.saturating_duration_since(Instant::now()) + Duration::from_millis(1)).ok()
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => true,
            Err(error) => {
                tracing::error!(%error, "the RDMA thread cannot go on");
                false
            }
        }
    }

    fn tell(&self, thread: usize, message: Message) {
        self.shared.mailboxes[thread].post(mailbox::Message::Rdma(message));
    }

    /// Does what it was asked to; `false` when that was to end.
    fn commands(&mut self) -> bool {
        let mut count = [0u8; 8];
        // EAGAIN when nobody rang.
        let _ = rustix::io::read(&self.desk.bell, &mut count);
        let commands =
            std::mem::take(&mut *self.desk.commands.lock().unwrap_or_else(PoisonError::into_inner));
        let mut go_on = true;
        for command in commands {
            match command {
                Command::Listen { address, port, answer } => {
                    let listening =
                        self.channel().and_then(|channel| self.listeners.add(&channel, address, port));
                    // Nobody waits for the answer when the target is ending.
                    let _ = answer.send(listening);
                }
                Command::Expect { address, port, why, answer } => {
                    self.listeners.expect(address, port, why);
                    self.retry();
                    let _ = answer.send(());
                }
                Command::Unlisten { address } => self.listeners.remove(address),
                Command::Bury(buried) => self.bury(*buried),
                Command::PortDropped(port) => self.port_dropped(port),
                Command::Sync => self.devices.iter_mut().for_each(InUse::sync),
                Command::Shutdown => go_on = false,
            }
        }
        go_on
    }

    /// Has a connection destroyed, and its host told when that can be.
    fn bury(&mut self, buried: Buried) {
        let connection = &buried.connection;
        if let Some(place) = self.known.remove(&connection.key()) {
            self.give_room(&place);
            let device = self.devices.iter().find(|d| d.device.key() == place.device && d.leaving.is_none());
            // What is left of one on a device that goes would hold it.
            if device.is_some() {
                let at = (place.device, connection.port());
                let end = match (place.ended, buried.abrupt) {
                    (true, _) => End::Theirs,
                    (false, true) => End::Failure,
                    (false, false) => End::Ours,
                };
                self.partings.add(connection.key(), at, connection.farewell(), end, Instant::now());
            }
        }
        self.graves.push(buried);
    }

    fn give_room(&mut self, place: &Place) {
        let device = self.devices.iter_mut().find(|d| d.device.key() == place.device);
        if let Some(part) = device.and_then(|d| d.parts[place.thread].as_mut()) {
            part.room += place.send_wrs;
            part.receives_left += place.depth;
        }
    }

    fn port_dropped(&mut self, port: Box<Port>) {
        let key = port.device;
        drop(port);
        if let Some(device) = self.devices.iter_mut().find(|d| d.device.key() == key && d.leaving.is_some()) {
            device.leaving = device.leaving.map(|n| n.saturating_sub(1));
        }
        self.devices.retain(|d| d.leaving != Some(0));
        self.tell_pages();
    }

    /// Tells what the threads' buffers are made of.
    fn tell_pages(&self) {
        for (of, shown) in self.shared.rdma_stats.pages.iter().enumerate() {
            shown.store(self.devices.iter().map(|d| d.pages()[of]).sum(), Ordering::Relaxed);
        }
    }

    fn event(&mut self, event: CmEvent) {
        let CmEvent { id, kind, status } = event;
        let why = match kind {
            CmKind::Request(incoming) => return self.request(incoming),
            CmKind::Established { .. } | CmKind::Resolved | CmKind::Routed | CmKind::Other(_) => return,
            CmKind::AddressChanged => {
                drop(self.listeners.lost(id));
                return;
            }
            CmKind::Failed | CmKind::Refused { .. } => {
                tracing::debug!(status, "an RDMA connection did not come about");
                "it did not come about"
            }
            CmKind::Disconnected => {
                self.partings.heard(id, Instant::now());
                if let Some(place) = self.known.get_mut(&id) {
                    place.ended = true;
                }
                "the host disconnected"
            }
            CmKind::DeviceRemoved => return self.removed(id),
        };
        if let Some(place) = self.known.get(&id) {
            self.tell(place.thread, Message::Lost { connection: id, why, cause: None });
        }
    }

    /// The kernel removes the device of this identifier: a listener, a connection, or what keeps the device open.
    fn removed(&mut self, id: usize) {
        if let Some(listener) = self.listeners.lost(id) {
            self.stranded(listener);
            return;
        }
        let anchored = self.devices.iter().find(|d| d.device.anchor() == id).map(|d| d.device.key());
        let known = || self.known.get(&id).map(|p| p.device);
        if let Some(key) = anchored.or_else(known).or_else(|| self.partings.device(id)) {
            self.take_away(key);
        }
    }

    /// A listener has lost its device.
    fn stranded(&mut self, listener: Listener) {
        let key = listener.device();
        if self.devices.iter().any(|d| d.device.key() == key) {
            // Whoever has the last of it closes it.
            drop(listener);
            self.take_away(key);
        } else {
            listener.lost();
        }
    }

    /// Ends what hangs on a device that is removed.
    fn take_away(&mut self, key: usize) {
        self.devices.iter().filter(|d| d.device.key() == key).for_each(|d| d.device.removed());
        for (&connection, place) in self.known.iter().filter(|(_, p)| p.device == key) {
            let (why, cause) = ("its device was removed", Some(Cause::Device));
            self.tell(place.thread, Message::Lost { connection, why, cause });
        }
        self.retire(key);
    }

    /// Sees which devices have come and gone.
    fn look_at_nodes(&mut self) {
        let changes = self.nodes.as_ref().map(Nodes::changes).unwrap_or_default();
        if changes.went {
            let gone = self.devices.iter().filter(|d| d.leaving.is_none() && !d.device.is_there());
            let gone: Vec<usize> = gone.map(|d| d.device.key()).collect();
            gone.into_iter().for_each(|key| self.take_away(key));
            while let Some(listener) = self.listeners.stranded() {
                self.stranded(listener);
            }
        }
        if changes.came && self.retry.is_some() {
            self.retry = Some((Instant::now(), RETRY[0]));
        }
    }

    /// A device goes: the threads drop their parts, and then it is closed.
    fn retire(&mut self, key: usize) {
        self.partings.gone(key);
        let Some(device) = self.devices.iter_mut().find(|d| d.device.key() == key && d.leaving.is_none())
        else {
            return;
        };
        tracing::warn!(device = device.device.attributes().name, "an RDMA device was removed");
        let threads: Vec<usize> = (0..device.parts.len()).filter(|&t| device.parts[t].is_some()).collect();
        device.leaving = Some(threads.len());
        for thread in threads {
            self.tell(thread, Message::Retire { device: key });
        }
        self.devices.retain(|d| d.leaving != Some(0));
    }

    fn device_events(&mut self) {
        let here: Vec<_> =
            self.devices.iter().filter(|d| d.leaving.is_none()).map(|d| Arc::clone(&d.device)).collect();
        for device in here {
            let key = device.key();
            let name = &device.attributes().name;
            while let Some(event) = device.event() {
                match event {
                    DeviceEvent::LastReceive { queue_pair } => {
                        let place = self.known.values().find(|p| (p.device, p.number) == (key, queue_pair));
                        if let Some(place) = place {
                            self.tell(place.thread, Message::LastReceive { device: key, queue_pair });
                        }
                    }
                    DeviceEvent::QueuePairFailed { queue_pair } => {
                        let place =
                            self.known.iter().find(|(_, p)| (p.device, p.number) == (key, queue_pair));
                        if let Some((&connection, place)) = place {
                            let why = "its queue pair failed";
                            // The host reached for what is not its own, or sent what no rule allows.
                            let cause = Some(Cause::Protection);
                            self.tell(place.thread, Message::Lost { connection, why, cause });
                        }
                    }
                    DeviceEvent::PortDown { port } => {
                        self.partings.port((key, port), false, Instant::now());
                        tracing::warn!(device = name, port, "a port of an RDMA device is down");
                    }
                    DeviceEvent::PortUp { port } => {
                        self.partings.port((key, port), true, Instant::now());
                        tracing::info!(device = name, port, "a port of an RDMA device is up");
                    }
                    DeviceEvent::Fatal => {
                        tracing::warn!(device = name, "an RDMA device has failed, or goes");
                        self.retire(key);
                    }
                    DeviceEvent::Other(event) => tracing::debug!(device = name, event, "RDMA device event"),
                }
            }
        }
    }

    /// A host wants a connection.
    fn request(&mut self, incoming: Incoming) {
        let (local, peer) = incoming.addresses();
        let who = peer.map_or_else(|| "unknown peer".into(), |p| p.to_string());
        let status = match self.consider(&incoming) {
            Ok((accepted, port, device, thread)) => {
                match self.accept(incoming, &accepted, port, device, thread, (local, peer)) {
                    Ok(()) => return,
                    Err((error, incoming)) => {
                        tracing::warn!(peer = who, %error, "an RDMA connection cannot be accepted");
                        self.shared.forget(thread);
                        if let Some(incoming) = incoming {
                            incoming.reject(&cm::reject(CmStatus::NoResources));
                        }
                        return;
                    }
                }
            }
            Err(status) => status,
        };
        if status != CmStatus::NoResources {
            self.shared.rdma_stats.count(Cause::PrivateData);
        }
        tracing::warn!(
            peer = who,
            cause = Cause::PrivateData.name(),
            "an RDMA connection is refused: {status}"
        );
        incoming.reject(&cm::reject(status));
    }

    /// Judges a request: what it comes to, the port it came by, the device, and the thread to serve it, which counts it.
    fn consider(&mut self, incoming: &Incoming) -> Result<(Accepted, u16, usize, usize), CmStatus> {
        let short = |what: &str, error: &io::Error| {
            tracing::warn!(%error, "RDMA: {what}");
            CmStatus::NoResources
        };
        let port = self.listeners.port_of(incoming.listener).ok_or(CmStatus::NoResources)?;
        if self.desk.over.load(Ordering::Acquire) {
            return Err(CmStatus::NoResources);
        }
        let known = |key| {
            let found = self.devices.iter().find(|d| d.device.key() == key && d.leaving.is_none());
            found.map(|d| Arc::clone(&d.device))
        };
        let device = incoming.device(known).map_err(|e| short("the device cannot be used", &e))?;
        let limits = cm::Limits {
            depth: caisson_core::MAX_QUEUE_ENTRIES,
            queues: caisson_core::MAX_IO_QUEUES,
            reads: device.attributes().reads,
        };
        let accepted = cm::judge(&incoming.private, incoming.reads, &limits)?;
        let at = match self.devices.iter().position(|d| d.device.key() == device.key() && d.leaving.is_none())
        {
            Some(at) => at,
            None => {
                let mut fresh = InUse::new(device, self.shared.mailboxes.len());
                fresh.sync();
                self.devices.push(fresh);
                self.devices.len() - 1
            }
        };
        let thread = self.shared.place(0).ok_or(CmStatus::NoResources)?;
        if self.devices[at].parts[thread].is_none() {
            let in_capsule = self.shared.limits.session.in_capsule as usize;
            match self.devices[at].part(thread, in_capsule) {
                Ok(port) => {
                    self.tell(thread, Message::Port(port));
                    self.tell_pages();
                }
                Err(error) => {
                    self.shared.forget(thread);
                    return Err(short("a thread's queues and buffers cannot be made", &error));
                }
            }
        }
        Ok((accepted, port, at, thread))
    }

    /// Makes the queue pair, hands the connection to its thread, and accepts.
    fn accept(
        &mut self,
        mut incoming: Incoming,
        accepted: &Accepted,
        port: u16,
        at: usize,
        thread: usize,
        (local, peer): (Option<SocketAddr>, Option<SocketAddr>),
    ) -> Result<(), (io::Error, Option<Incoming>)> {
        let device = &mut self.devices[at];
        let (key, a) = (device.device.key(), device.device.attributes().clone());
        let Some(part) = &mut device.parts[thread] else {
            return Err((io::ErrorKind::NotFound.into(), Some(incoming)));
        };
        let Some(send_wrs) = part.sends_for((u32::from(accepted.depth) * 2 + 64).min(a.queue_wrs)) else {
            return Err((io::Error::other("the thread's completion queue is spoken for"), Some(incoming)));
        };
        let depth = u32::from(accepted.depth);
        if depth > part.receives_left {
            return Err((io::Error::other("the thread's receives are spoken for"), Some(incoming)));
        }
        let mut sges = SEND_SGES.min(a.sges).max(1);
        // Some devices promise each limit by itself and not all of them together.
        let (connection, inline) = loop {
            let mut want = QueuePair { send_wrs, send_sges: sges, inline: 16 };
            match incoming.prepare(&part.sends, &part.receives, &part.srq, &mut want) {
                Ok(connection) => break (Arc::new(connection), want.inline >= 16),
                Err((back, _)) if sges > 1 => (incoming, sges) = (back, sges / 2),
                Err((back, error)) => return Err((error, Some(back))),
            }
        };
        part.room -= send_wrs;
        part.receives_left -= depth;
        let config = Config {
            depth: accepted.depth,
            responses: accepted.responses,
            send_wrs,
            send_sges: sges,
            read_sges: sges.min(a.read_sges).max(1),
            inline,
            iwarp: a.iwarp,
            invalidate: a.invalidate,
        };
        let id = connection.key();
        self.known.insert(
            id,
            Place { thread, device: key, number: connection.number(), send_wrs, depth, ended: false },
        );
        let adopted = Adopted {
            connection: Arc::clone(&connection),
            device: key,
            config,
            accepted: *accepted,
            port,
            peer,
            local,
        };
        // Before it is accepted: the first capsule may come at once.
        self.tell(thread, Message::Adopt(Box::new(adopted)));
        if let Err(error) = connection.accept(&cm::accept(accepted), accepted.reads) {
            tracing::debug!(%error, "the host did not wait to be accepted");
            let why = "it could not be accepted";
            self.tell(thread, Message::Lost { connection: id, why, cause: None });
        }
        Ok(())
    }
}

/// A connection in the hands of two threads for a moment: that of the control thread goes first or last, and both may.
const _: fn() = || {
    fn both<T: Send + Sync>() {}
    both::<Connection>();
};
