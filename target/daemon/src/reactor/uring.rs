//! The io_uring driver: one ring a thread, multishot accept and receive into provided buffers, one coalesced send in
//! flight a connection, device I/O on the same ring.
//!
//! A few connections that are busy without a pause are *hot*: their receive is taken out of the ring, and the spinning
//! thread asks their sockets itself, as a polling bare socket would, which spares each small request the ring's wake-up
//! path (docs/performance.md has what that is worth). Before it sleeps, the thread gives them back to the ring.
//!
//! Completions are made only when this thread asks for them (IORING_SETUP_DEFER_TASKRUN), so nothing interrupts it, and
//! a flag in shared memory says when asking is worth a system call. In the steady state one `io_uring_enter` both
//! submits the sends of a turn and brings the receives of the next.

mod hot;
mod reap;

use super::bufring::{BufRing, GROUP};
use super::copies::Copies;
use super::device::DeviceOps;
use super::driver::{Driver, DriverStats, Event, Iov, RX_BUF, Wait, empty_list};
use super::mailbox::Mailbox;
use super::shared::clock;
use caisson_block::{BufMut, IoOp, Mono, Ring};
use hot::HOT;
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Submission entries; the completion queue has four times as many.
const ENTRIES: u32 = 1024;

/// What a completion is about: the top byte of its user data; the low 32 bits are a key.
mod tagged {
    pub(super) const ACCEPT: u64 = 1 << 56;
    pub(super) const RECV: u64 = 2 << 56;
    pub(super) const SEND: u64 = 3 << 56;
    pub(super) const DEVICE: u64 = 4 << 56;
    pub(super) const BELL: u64 = 5 << 56;
    pub(super) const IGNORE: u64 = 6 << 56;
    pub(super) const KIND: u64 = 0xff << 56;
}

/// What a send in flight points at. Boxed, so that it does not move; kept for the next send of any connection.
struct SendBlock {
    iov: Box<[Iov]>,
    msg: libc::msghdr,
}

/// One connection's state in the kernel.
struct Conn {
    socket: OwnedFd,
    receiving: bool,
    paused: bool,
    /// The peer's end was seen and told.
    ended: bool,
    closing: bool,
    /// Polled by [`Uring::poll_hot`] instead of by the ring.
    hot: bool,
    /// The last look brought much of it.
    laden: bool,
    /// Receives since the thread slept for the `naps`th time.
    streak: u32,
    naps: u64,
    send: Option<Box<SendBlock>>,
}

struct Listener {
    socket: OwnedFd,
    accepting: bool,
    closing: bool,
}

/// Bytes that a single receive brings at most: half of a buffer, whose rest is lost until it is given back.
const ONE: u32 = RX_BUF as u32 / 2;

/// How long the kernel's flag for deferred work is gone without while it is not believed, in nanoseconds.
const DOUBT_NS: u64 = 5_000;

pub(crate) struct Uring {
    // First, so that it is closed before the memory that it was lent goes.
    ring: IoUring,
    rx: BufRing,
    mailbox: Arc<Mailbox>,
    conns: Vec<Option<Conn>>,
    listeners: Vec<Option<Listener>>,
    device: DeviceOps,
    copies: Copies,
    #[allow(clippy::vec_box, reason = "a send in flight must not move, and goes back and forth in its box")]
    spare_sends: Vec<Box<SendBlock>>,
    /// Connections whose receive ended for want of buffers.
    starved: VecDeque<u32>,
    /// Keys of hot connections; none where the thread does not spin.
    hot: Vec<u32>,
    may_heat: bool,
    hot_buf: Option<BufMut>,
    bell_armed: bool,
    /// The kernel's flag for deferred work is not to be believed, see [`Uring::entered`].
    stale: bool,
    /// When the kernel was last entered, and left the flag `stale`.
    entered: Mono,
    /// Which hot connection is asked first.
    first_hot: usize,
    /// More than one connection is busy.
    company: bool,
    /// The ring has brought bytes in this turn.
    brought: bool,
    /// Listeners that wait for descriptors to come free, and until when.
    resting: Vec<u32>,
    rest_until: Instant,
    /// It was said that there are none.
    rest_told: bool,
    /// Things to tell that did not come from a completion.
    told: Vec<Event>,
    stats: DriverStats,
}

impl Uring {
    /// A ring for the calling thread, which is the only one that may use it from then on. `spins` says whether the
    /// thread ever polls instead of sleeping.
    ///
    /// # Errors
    /// The system's error: EPERM or ENOSYS where io_uring is refused, EINVAL where the kernel is too old (before 6.1).
    pub(crate) fn new(mailbox: Arc<Mailbox>, spins: bool) -> io::Result<Uring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(ENTRIES * 4)
            .build(ENTRIES)?;
        let rx = BufRing::new(&ring)?;
        Ok(Uring {
            ring,
            rx,
            mailbox,
            conns: Vec::new(),
            listeners: Vec::new(),
            device: DeviceOps::default(),
            copies: Copies::default(),
            spare_sends: Vec::new(),
            starved: VecDeque::new(),
            hot: Vec::with_capacity(HOT),
            may_heat: spins,
            hot_buf: None,
            bell_armed: false,
            stale: false,
            entered: clock(),
            first_hot: 0,
            company: false,
            brought: false,
            resting: Vec::new(),
            rest_until: Instant::now(),
            rest_told: false,
            told: Vec::new(),
            stats: DriverStats::default(),
        })
    }

    /// Queues an entry, submitting what is queued when the queue is full.
    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: every entry built here and in `device` points at memory that stays put until its completion:
            // SendBlocks and the device operations' lists are heap blocks kept in `conns`/`device`, buffers are owned
            // beside them.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.stats.syscalls += 1;
            if let Err(e) = self.ring.submit() {
                // EBUSY: the completion queue is full; what was pushed stays queued and is submitted by the next turn,
                // which cannot come before room is made: reap into the overflow list instead of spinning.
                tracing::debug!(error = %e, "io_uring submission queue full and not drained");
                std::thread::yield_now();
            }
        }
    }

    fn arm_recv(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if conn.receiving || conn.paused || conn.ended || conn.closing || conn.hot {
            return;
        }
        conn.receiving = true;
        let fd = types::Fd(conn.socket.as_raw_fd());
        conn.laden &= self.company;
        let entry = if conn.laden {
            // A multishot receive goes on until the socket is empty or all buffers are full: megabytes. In company, one that
            // brings so much has a piece a turn.
            let one = opcode::Recv::new(fd, std::ptr::null_mut(), ONE).buf_group(GROUP).build();
            one.flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, GROUP).build()
        };
        self.push(entry.user_data(tagged::RECV | u64::from(key)));
    }

    fn arm_accept(&mut self, listener: u32) {
        let Some(Some(l)) = self.listeners.get_mut(listener as usize) else { return };
        if l.accepting || l.closing {
            return;
        }
        l.accepting = true;
        let fd = types::Fd(l.socket.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).build();
        self.push(entry.user_data(tagged::ACCEPT | u64::from(listener)));
    }

    fn arm_bell(&mut self) {
        if !self.bell_armed {
            self.bell_armed = true;
            let fd = types::Fd(self.mailbox.bell().as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
            self.push(entry.user_data(tagged::BELL));
        }
    }

    /// Sends at once on a hot connection: what that came to, or nothing when the socket has no room.
    fn send_hot(&mut self, key: u32, block: &SendBlock) -> Option<Event> {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return None };
        self.stats.syscalls += 1;
        // SAFETY: the list and what it points at are the session's and stay put until it is told `Sent`.
        let n = unsafe {
            libc::sendmsg(conn.socket.as_raw_fd(), &block.msg, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        };
        if n >= 0 {
            return Some(Event::Sent { key, sent: n as usize });
        }
        // Whatever is wrong, the ring's send meets it too and says so.
        None
    }

    /// Whether entering the kernel would do something.
    fn due(&mut self) -> bool {
        let stale = self.stale;
        let sq = self.ring.submission();
        !sq.is_empty() || (sq.taskrun() && !stale) || sq.cq_overflow() || self.device.holds()
    }

    /// While the flag says nothing, the kernel is asked now and then, as the hot sockets are: what has come waits so long at
    /// most.
    fn doubtful(&self) -> bool {
        self.stale && clock().since(self.entered) >= DOUBT_NS
    }

    /// Enters the kernel: submits, and has it do the deferred work that its flag tells of.
    fn enter(&mut self, wait: Option<Wait>) -> io::Result<()> {
        self.stats.syscalls += 1;
        let result = match wait {
            Some(Wait::Sleep(Some(ns))) => {
                let ts = types::Timespec::from(Duration::from_nanos(ns));
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&ts))
            }
            Some(Wait::Sleep(None)) => self.ring.submit_and_wait(1),
            _ => self.ring.submit(),
        };
        // The kernel raises its flag when it gets deferred work and none was there, and lowers it when it begins to do
        // that. Work that comes while it does is done with the rest and leaves the flag up, until more comes: for as long
        // as that takes, the flag says nothing. Believed, it would keep the thread awake and entering; not looked behind,
        // a busy thread would miss what comes until it sleeps, which looks at the work itself.
        self.stale = self.ring.completion().is_empty() && self.ring.submission().taskrun();
        if self.stale {
            self.entered = clock();
        }
        match result {
            Err(e)
                if !matches!(
                    e.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Err(e)
            }
            _ => Ok(()),
        }
    }

    /// Pushes the device operations that were held back and may go.
    fn push_held(&mut self) {
        self.device.looked();
        while let Some(index) = self.device.next() {
            self.push_device(index);
        }
    }

    fn push_device(&mut self, index: u32) {
        if let Some(entry) = self.device.entry(index) {
            self.push(entry.user_data(tagged::DEVICE | u64::from(index)));
        }
    }
}

impl Driver for Uring {
    fn listen(&mut self, listener: u32, socket: OwnedFd) -> io::Result<()> {
        let at = listener as usize;
        if self.listeners.len() <= at {
            self.listeners.resize_with(at + 1, || None);
        }
        self.listeners[at] = Some(Listener { socket, accepting: false, closing: false });
        self.arm_accept(listener);
        Ok(())
    }

    fn unlisten(&mut self, listener: u32) {
        let Some(slot) = self.listeners.get_mut(listener as usize) else { return };
        match slot {
            Some(l) if l.accepting => {
                l.closing = true;
                let data = tagged::ACCEPT | u64::from(listener);
                self.push(opcode::AsyncCancel::new(data).build().user_data(tagged::IGNORE));
            }
            _ => *slot = None,
        }
    }

    fn add(&mut self, key: u32, socket: OwnedFd) -> io::Result<()> {
        let at = key as usize;
        if self.conns.len() <= at {
            self.conns.resize_with(at + 1, || None);
        }
        debug_assert!(self.conns[at].is_none(), "a key is used again before its connection is gone");
        self.conns[at] = Some(Conn {
            socket,
            receiving: false,
            paused: false,
            ended: false,
            closing: false,
            hot: false,
            laden: false,
            streak: 0,
            naps: 0,
            send: None,
        });
        self.arm_recv(key);
        Ok(())
    }

    fn sending(&self, key: u32) -> bool {
        matches!(self.conns.get(key as usize), Some(Some(c)) if c.send.is_some())
    }

    fn send(&mut self, key: u32, gather: &mut dyn FnMut(&mut [Iov]) -> usize) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if conn.send.is_some() || conn.closing {
            return;
        }
        let mut block = self.spare_sends.pop().unwrap_or_else(|| {
            // SAFETY: msghdr is plain data for which all zeroes is "nothing".
            let msg = unsafe { std::mem::zeroed() };
            Box::new(SendBlock { iov: empty_list(), msg })
        });
        let pieces = gather(&mut block.iov);
        if pieces == 0 {
            self.spare_sends.push(block);
            return;
        }
        block.msg.msg_iov = block.iov.as_mut_ptr();
        block.msg.msg_iovlen = pieces as _;
        if conn.hot
            && let Some(sent) = self.send_hot(key, &block)
        {
            self.told.push(sent);
            self.spare_sends.push(block);
            return;
        }
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        let fd = types::Fd(conn.socket.as_raw_fd());
        let msg: *const libc::msghdr = &block.msg;
        conn.send = Some(block);
        // MSG_WAITALL: the kernel goes on until all is sent, so a full socket costs no second submission.
        let entry =
            opcode::SendMsg::new(fd, msg).flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32).build();
        self.push(entry.user_data(tagged::SEND | u64::from(key)));
    }

    fn pause(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if !std::mem::replace(&mut conn.paused, true) && conn.receiving {
            let data = tagged::RECV | u64::from(key);
            self.push(opcode::AsyncCancel::new(data).build().user_data(tagged::IGNORE));
        }
    }

    fn resume(&mut self, key: u32) {
        if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
            conn.paused = false;
        }
        self.arm_recv(key);
    }

    fn finish_sending(&mut self, key: u32) {
        if let Some(Some(conn)) = self.conns.get(key as usize) {
            // ENOTCONN when the peer was faster.
            let _ = rustix::net::shutdown(&conn.socket, rustix::net::Shutdown::Write);
        }
    }

    fn close(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if std::mem::replace(&mut conn.closing, true) {
            return;
        }
        self.hot.retain(|&k| k != key);
        conn.hot = false;
        // Ends the receive and a send that waits for room, whose completions then bring `Gone`.
        let _ = rustix::net::shutdown(&conn.socket, rustix::net::Shutdown::Both);
        let mut told = std::mem::take(&mut self.told);
        self.maybe_gone(key, &mut told);
        self.told = told;
    }

    fn watch(&mut self, fd: BorrowedFd<'_>) {
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
        self.push(entry.user_data(tagged::IGNORE));
    }

    fn unwatch(&mut self, fd: BorrowedFd<'_>) {
        let polls = types::CancelBuilder::fd(types::Fd(fd.as_raw_fd())).all();
        self.push(opcode::AsyncCancel2::new(polls).build().user_data(tagged::IGNORE));
    }

    fn ready(&mut self) -> bool {
        if !self.told.is_empty() || !self.ring.completion().is_empty() || self.due() {
            return true;
        }
        // To find nothing is no reason to stay awake. What is wrong is met again, and told, by the next turn.
        if self.doubtful() && (self.enter(None).is_err() || !self.ring.completion().is_empty()) {
            return true;
        }
        self.poll_hot();
        !self.told.is_empty()
    }

    fn launch(&mut self) -> bool {
        if !self.ring.submission().is_empty() {
            // What is wrong is met again, and told, by the next turn.
            let _ = self.enter(None);
        }
        !self.ring.completion().is_empty()
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.arm_bell();
        self.rx.refill();
        self.push_held();
        if !self.rx.dry() {
            while let Some(key) = self.starved.pop_front() {
                self.arm_recv(key);
            }
        }
        let mut wait = wait;
        if !self.resting.is_empty() {
            let left = self.rest_until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                for listener in std::mem::take(&mut self.resting) {
                    self.arm_accept(listener);
                }
            } else if let Wait::Sleep(ns) = wait {
                wait = Wait::Sleep(Some(ns.unwrap_or(u64::MAX).min(left.as_nanos() as u64)));
            }
        }
        events.append(&mut self.told);
        let sleep = matches!(wait, Wait::Sleep(_))
            && events.is_empty()
            && self.ring.completion().is_empty()
            && !self.device.holds();
        if sleep {
            self.cool();
        }
        if sleep {
            self.stats.sleeps += 1;
            self.enter(Some(wait))?;
        } else if self.due() || self.doubtful() {
            self.enter(None)?;
        }
        self.brought = false;
        self.reap(events);
        // While the ring keeps bringing the others' bytes, too: the hot would starve.
        if events.is_empty() || self.brought || self.company {
            self.poll_hot();
            events.append(&mut self.told);
        }
        Ok(())
    }

    fn company(&mut self, company: bool) {
        self.company = company;
    }

    fn told(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.told);
    }

    fn copies(&self) -> bool {
        self.copies.len() > 0
    }

    fn copy(&mut self, most: usize) -> Option<Event> {
        self.copies.next(most)
    }

    fn device_ops(&self) -> usize {
        self.device.in_flight() + self.copies.len()
    }

    fn spins(&self) -> bool {
        self.may_heat
    }

    fn stats(&self) -> DriverStats {
        self.stats
    }

    fn ring(&mut self) -> &mut dyn Ring {
        self
    }
}

impl Ring for Uring {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        match self.copies.take(op) {
            Ok(ended) => self.told.extend(ended),
            Err(op) => {
                if let Some(index) = self.device.take(op)? {
                    self.push_device(index);
                }
            }
        }
        Ok(())
    }
}
