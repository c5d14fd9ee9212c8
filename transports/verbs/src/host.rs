//! A connection as a host makes it: asked for step by step, with queues of its own and memory that the other side may reach.
//!
//! Safe to use: it owns what its requests name until they are over, and memory that the other side reaches is only ever copied
//! from and to, never referred to. It knows nothing of NVMe: messages are bytes.

use crate::cm::{Channel, CmKind, Connection, Outgoing, QueuePair};
use crate::device::{Device, Reach, Region};
use crate::load::Unavailable;
use crate::queue::{Completion, CompletionQueue, ReceiveQueue, Scratch};
use caisson_rdma::receive::RecvWr;
use caisson_rdma::{Batch, Op, Sge, WcStatus, Wr};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a message that is sent, but for what it takes from [`Memory`], and of one that is received.
pub const MESSAGE: usize = 64;

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no RDMA here.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A step failed.
    #[error("{step}: {source}")]
    Step {
        /// Which.
        step: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Nothing came of a step in time.
    #[error("{step}: no answer")]
    Silence {
        /// Which.
        step: &'static str,
    },
    /// The other side refused.
    #[error("refused (reason {reason})")]
    Refused {
        /// The connection manager's reason: 28 where the other side itself refused, 8 where nobody listens.
        reason: i32,
        /// What the other side says to that.
        private: Vec<u8>,
    },
}

/// Why a connection is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// The other side ended it, or its device has gone.
    #[error("the other side ended the connection")]
    Disconnected,
    /// A request of ours failed.
    #[error("{what}: {status}")]
    Failed {
        /// A SEND or a receive.
        what: &'static str,
        /// How.
        status: WcStatus,
    },
    /// The device refused a request, or its completion queue failed.
    #[error("the device failed (errno {errno})")]
    Device {
        /// The errno, 0 where it gave none.
        errno: i32,
    },
}

/// What a connection is to have.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// SENDs on their way at once.
    pub sends: u32,
    /// Messages received at once.
    pub receives: u32,
    /// How often the other side repeats what finds no receive; 7 is for ever.
    pub repeats: u8,
}

/// An anonymous mapping.
struct Mapping {
    at: *mut u8,
    len: usize,
}

// SAFETY: plain memory, which is only copied from and to.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> io::Result<Mapping> {
        // SAFETY: a new anonymous mapping wherever the system likes.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { at: at.cast(), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, once.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Registered memory that the other side of a connection may read and write.
pub struct Memory {
    // Given up before the mapping goes.
    region: Region,
    map: Mapping,
}

impl Memory {
    fn new(device: &Arc<Device>, len: usize, reach: Reach) -> io::Result<Memory> {
        let map = Mapping::new(len.max(1))?;
        // SAFETY: the mapping stays until after the region, by the order of the fields, and its pages where the device pins
        // them.
        let region = unsafe { device.register(map.at, map.len, reach)? };
        Ok(Memory { region, map })
    }

    /// Its first byte in the terms of the other side.
    pub fn address(&self) -> u64 {
        self.map.at.addr() as u64
    }

    /// Its key in the terms of the other side.
    pub fn key(&self) -> u32 {
        self.region.remote_key()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.map.len
    }

    /// Whether it has no bytes; it always has some.
    pub fn is_empty(&self) -> bool {
        self.map.len == 0
    }

    /// Copies `bytes` to it, from `at` on.
    ///
    /// # Panics
    /// When they do not fit, which is a mistake of the caller.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.map.len), "outside of the memory");
        // SAFETY: inside the mapping, as was just seen; nobody has references into it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.at.add(at), bytes.len()) };
    }

    /// Copies from it, from `at` on, into `into`.
    ///
    /// # Panics
    /// When there are not so many bytes, which is a mistake of the caller.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        assert!(at.checked_add(into.len()).is_some_and(|end| end <= self.map.len), "outside of the memory");
        // SAFETY: inside the mapping, as was just seen; nobody has references into it.
        unsafe { std::ptr::copy_nonoverlapping(self.map.at.add(at), into.as_mut_ptr(), into.len()) };
    }

    fn sge(&self, at: usize, len: usize) -> Sge {
        let (first, _, key) = self.region.place();
        Sge { at: (first + at) as u64, len: len as u32, key }
    }
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Its bytes; what is behind them is of no meaning.
    pub bytes: [u8; MESSAGE],
    /// How many it has.
    pub len: usize,
}

/// A connection with its queues. Dropped, it is ended.
pub struct HostQueue {
    // First: once it is gone, the device reaches nothing of the rest.
    connection: Connection,
    channel: Arc<Channel>,
    cq: Arc<CompletionQueue>,
    srq: Arc<ReceiveQueue>,
    device: Arc<Device>,
    shape: Shape,
    /// A slot for each receive, and one for each SEND.
    received: Memory,
    sent: Memory,
    /// What the SENDs on their way take from elsewhere, oldest first; the id of the oldest; how many are posted.
    held: VecDeque<Option<Arc<Memory>>>,
    head: u64,
    batch: Batch,
    scratch: Scratch,
    taken: Box<[Completion]>,
    taken_len: usize,
    reposts: Vec<RecvWr>,
    over: Option<Over>,
    /// Looks at the completion queue that found nothing, since the channel was looked at.
    looks: u32,
    /// What the other side said as it accepted.
    pub accepted: Vec<u8>,
}

/// Looks that find nothing between two looks at the event channel, which cost a system call each.
const LOOKS: u32 = 256;

/// Waits for what is wanted of the next event; others than that and failures are passed over.
fn await_event<T>(
    channel: &Arc<Channel>,
    step: &'static str,
    until: Instant,
    mut wanted: impl FnMut(CmKind) -> Option<T>,
) -> Result<T, Failure> {
    loop {
        while let Some(event) = channel.event() {
            match event.kind {
                CmKind::Failed => {
                    let source = io::Error::from_raw_os_error(event.status.abs());
                    return Err(Failure::Step { step, source });
                }
                CmKind::Refused { private } => {
                    let reason = reason(event.status, &private);
                    return Err(Failure::Refused { reason, private });
                }
                kind => {
                    if let Some(found) = wanted(kind) {
                        return Ok(found);
                    }
                }
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Silence { step });
        }
        let mut fd = libc::pollfd { fd: channel.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor that is open, and the time to wait.
        unsafe { libc::poll(&mut fd, 1, left.as_millis().clamp(1, 1000) as libc::c_int) };
    }
}

/// Why a connection was refused, as InfiniBand's connection manager tells it; iWARP's has an error of the system instead.
fn reason(status: i32, private: &[u8]) -> i32 {
    match status {
        0.. => status,
        _ if private.is_empty() => 8,
        _ => 28,
    }
}

impl HostQueue {
    /// Asks for a connection to `to`, saying `private` (at most 56 bytes), and waits until it stands.
    ///
    /// # Errors
    /// There is no RDMA here or no device leads there; the other side refuses, or does not answer within `timeout`.
    pub fn connect(
        to: SocketAddr,
        private: &[u8],
        shape: Shape,
        timeout: Duration,
    ) -> Result<HostQueue, Failure> {
        let until = Instant::now() + timeout;
        let failed = |step| move |source| Failure::Step { step, source };
        let channel = Channel::new()?;
        let step = "finding a device that leads there";
        let id = Outgoing::resolve(&channel, to, timeout).map_err(failed(step))?;
        await_event(&channel, step, until, |k| matches!(k, CmKind::Resolved).then_some(()))?;
        let step = "finding the way";
        id.route(timeout).map_err(failed(step))?;
        await_event(&channel, step, until, |k| matches!(k, CmKind::Routed).then_some(()))?;
        let device = id.device().map_err(failed("opening the device"))?;
        let mut queue = HostQueue::prepare(id, channel, device, shape).map_err(failed("making queues"))?;
        let step = "connecting";
        let reads = queue.device.attributes().answers.min(128);
        queue.connection.connect(private, reads, shape.repeats).map_err(|source| {
            // iWARP connects TCP first, and may do so at once.
            if source.kind() == io::ErrorKind::ConnectionRefused {
                return Failure::Refused { reason: reason(-libc::ECONNREFUSED, &[]), private: Vec::new() };
            }
            failed(step)(source)
        })?;
        let stands = |k| if let CmKind::Established { private } = k { Some(private) } else { None };
        queue.accepted = await_event(&queue.channel, step, until, stands)?;
        Ok(queue)
    }

    fn prepare(
        id: Outgoing,
        channel: Arc<Channel>,
        device: Arc<Device>,
        shape: Shape,
    ) -> io::Result<HostQueue> {
        let a = device.attributes();
        let sends = shape.sends.min(a.queue_wrs).max(1);
        let receives = shape.receives.min(a.receives).max(1);
        let shape = Shape { sends, receives, ..shape };
        let cq = CompletionQueue::new(&device, (shape.sends + shape.receives).min(a.completions))?;
        let srq = ReceiveQueue::new(&device, shape.receives)?;
        let received = Memory::new(&device, shape.receives as usize * MESSAGE, Reach::Write)?;
        let sent = Memory::new(&device, shape.sends as usize * MESSAGE, Reach::Read)?;
        let mut want = QueuePair { send_wrs: shape.sends, send_sges: 2, inline: 0 };
        let connection = id.prepare(&cq, &srq, &mut want)?;
        let mut queue = HostQueue {
            connection,
            channel,
            cq,
            srq,
            device,
            shape,
            received,
            sent,
            held: VecDeque::new(),
            head: 0,
            batch: Batch::default(),
            scratch: Scratch::default(),
            taken: vec![Completion::default(); 64].into_boxed_slice(),
            taken_len: 0,
            reposts: Vec::new(),
            over: None,
            looks: 0,
            accepted: Vec::new(),
        };
        for id in 0..shape.receives {
            queue.repost(id);
        }
        queue.post_receives();
        match queue.over {
            None => Ok(queue),
            Some(over) => Err(io::Error::other(over)),
        }
    }

    /// Makes memory that the other side may reach.
    ///
    /// # Errors
    /// The system's.
    pub fn memory(&self, len: usize) -> io::Result<Memory> {
        Memory::new(&self.device, len, Reach::Peer)
    }

    /// Whether another SEND has room.
    #[inline]
    pub fn room(&self) -> bool {
        self.held.len() < self.shape.sends as usize
    }

    /// Whether SENDs wait for [`HostQueue::post`].
    #[inline]
    pub fn waiting(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Makes a SEND of `message` (at most [`MESSAGE`] bytes) and of a part of `more` behind it; `false` without room.
    #[inline]
    pub fn send(&mut self, message: &[u8], more: Option<(&Arc<Memory>, usize, usize)>) -> bool {
        if !self.room() {
            return false;
        }
        let id = self.head + self.held.len() as u64;
        let slot = (id % u64::from(self.shape.sends)) as usize * MESSAGE;
        let len = message.len().min(MESSAGE);
        self.sent.write(slot, &message[..len]);
        let first = self.batch.sges.len() as u32;
        self.batch.sges.push(self.sent.sge(slot, len));
        if let Some((memory, at, len)) = more {
            assert!(at.checked_add(len).is_some_and(|end| end <= memory.len()), "outside of the memory");
            self.batch.sges.push(memory.sge(at, len));
        }
        let sges = self.batch.sges.len() as u32 - first;
        let op = Op::Send { inline: [0; 16], invalidate: None };
        self.batch.wrs.push(Wr { id, op, first, sges, signaled: false });
        self.held.push_back(more.map(|(memory, ..)| Arc::clone(memory)));
        true
    }

    /// Posts what [`HostQueue::send`] has made, in one call.
    ///
    /// # Errors
    /// The connection is at its end.
    #[inline]
    pub fn post(&mut self) -> Result<(), Over> {
        if let Some(over) = self.over {
            return Err(over);
        }
        let Some(last) = self.batch.wrs.last_mut() else { return Ok(()) };
        // The requests of a send queue complete in order: this one covers all before it.
        last.signaled = true;
        // SAFETY: the lists name slots of `sent` that no request on its way uses, and memory that `held` keeps; both stay until
        // the completion or until the connection is dropped, which is before them.
        let posted = unsafe { self.connection.post(&self.batch, &mut self.scratch) };
        self.batch.clear();
        posted.map_err(|refused| *self.over.insert(Over::Device { errno: refused.errno }))
    }

    fn repost(&mut self, id: u32) {
        let slot = id as usize * MESSAGE;
        // Lists of receives have two entries.
        let sges = [self.received.sge(slot, 16), self.received.sge(slot + 16, MESSAGE - 16)];
        self.reposts.push(RecvWr { id, sges });
    }

    fn post_receives(&mut self) {
        // SAFETY: each names its own slot of `received`, which nobody looks at before its completion, and which stays until
        // after the connection and the queue.
        let posted = unsafe { self.srq.post(&self.reposts, &mut self.scratch) };
        self.reposts.clear();
        if let Err(refused) = posted {
            self.over.get_or_insert(Over::Device { errno: refused.errno });
        }
    }

    /// Takes the messages that have come, appended to `into`, and says how many; costs no system call but now and then one.
    ///
    /// # Errors
    /// The connection is at its end, and nothing has come.
    #[inline]
    pub fn receive(&mut self, into: &mut Vec<Message>) -> Result<usize, Over> {
        let before = into.len();
        loop {
            if self.taken_len == 0 {
                match self.cq.poll(&mut self.taken) {
                    Ok(n) => self.taken_len = n,
                    Err(_) => _ = self.over.get_or_insert(Over::Device { errno: 0 }),
                }
            }
            if self.taken_len == 0 {
                break;
            }
            for at in 0..std::mem::take(&mut self.taken_len) {
                let c = self.taken[at];
                self.completed(&c, into);
            }
        }
        if !self.reposts.is_empty() {
            self.post_receives();
        }
        let came = into.len() - before;
        if came == 0 {
            self.looks += 1;
            if self.looks >= LOOKS {
                self.look();
            }
            if let Some(over) = self.over {
                return Err(over);
            }
        }
        Ok(came)
    }

    fn completed(&mut self, c: &Completion, into: &mut Vec<Message>) {
        let ok = c.status() == WcStatus::Success;
        if let Some(id) = c.receive() {
            if ok {
                let mut message = Message { bytes: [0; MESSAGE], len: (c.len() as usize).min(MESSAGE) };
                self.received.read(id as usize * MESSAGE, &mut message.bytes);
                into.push(message);
                self.repost(id);
            }
        } else {
            while self.head <= c.send() && self.held.pop_front().is_some() {
                self.head += 1;
            }
        }
        if !ok {
            let what = if c.receive().is_some() { "receive" } else { "SEND" };
            self.over.get_or_insert(match c.status() {
                WcStatus::Flushed => Over::Disconnected,
                status => Over::Failed { what, status },
            });
        }
    }

    /// Looks at the event channel: whether the other side has ended the connection.
    fn look(&mut self) {
        self.looks = 0;
        while let Some(event) = self.channel.event() {
            if matches!(event.kind, CmKind::Disconnected | CmKind::DeviceRemoved | CmKind::Failed) {
                self.over.get_or_insert(Over::Disconnected);
            }
        }
    }

    /// Has [`HostQueue::fds`] become readable when something comes; `false` when something is there already.
    ///
    /// # Errors
    /// The device's.
    pub fn arm(&mut self) -> io::Result<bool> {
        // Whatever woke the caller last may have been the event channel.
        self.looks = LOOKS;
        self.cq.silence();
        self.cq.arm()?;
        if self.taken_len == 0 {
            self.taken_len = self.cq.poll(&mut self.taken)?;
        }
        Ok(self.taken_len == 0 && self.over.is_none())
    }

    /// What to wait for once [`HostQueue::arm`] said so.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        // SAFETY: open for as long as the channels are there, which is longer than this borrow.
        let events = unsafe { BorrowedFd::borrow_raw(self.channel.fd()) };
        debug_assert!(events.as_raw_fd() >= 0);
        [self.cq.as_fd(), events]
    }

    /// Ends the connection; what is posted is flushed.
    pub fn disconnect(&mut self) {
        self.connection.disconnect();
    }
}

impl Drop for HostQueue {
    fn drop(&mut self) {
        // The other side is told; then the fields go in their order.
        self.connection.disconnect();
    }
}

impl std::fmt::Debug for HostQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostQueue({:?}, {} on their way)", self.shape, self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_iwarp_read_as_infinibands() {
        assert_eq!(reason(28, &[]), 28);
        assert_eq!(reason(0, &[1]), 0);
        assert_eq!(reason(-libc::ECONNREFUSED, &[]), 8);
        assert_eq!(reason(-libc::ECONNREFUSED, &[0, 0, 4, 0]), 28);
    }
}
