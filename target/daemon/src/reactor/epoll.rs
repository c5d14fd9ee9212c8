//! The epoll driver, for kernels and containers that refuse io_uring: the same seam, more system calls.
//!
//! Sockets are level-triggered, a turn reads each readable one once, sends are tried at once and finished when the
//! socket has room. Device operations run on a few blocking threads ([`ThreadRing`]).

use super::copies::Copies;
use super::driver::{
    ACCEPT_REST, DEVICE_OPS, Driver, DriverStats, Event, Iov, RX_BUF, RX_TOTAL, STEP, Wait, copy_out,
    empty_list,
};
use super::mailbox::Mailbox;
use caisson_block::{IoOp, Pool, Ring};
use caisson_device::threaded::ThreadRing;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Marks a listener among the keys of what epoll reports.
const LISTENER: u64 = 1 << 32;
/// Marks the bell.
const BELL: u64 = 1 << 33;
/// Marks what others watch.
const WATCHED: u64 = 1 << 34;
/// Threads that block on devices for one data-plane thread.
const DEVICE_THREADS: usize = 4;
/// Connections accepted from one listener a turn.
const ACCEPTS: usize = 64;

struct Conn {
    socket: OwnedFd,
    paused: bool,
    ended: bool,
    /// What could not be sent yet; epoll watches for room.
    unsent: Option<(Box<[Iov]>, usize)>,
}

pub(crate) struct Epoll {
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    pool: Pool,
    conns: Vec<Option<Conn>>,
    listeners: Vec<Option<OwnedFd>>,
    device: ThreadRing,
    copies: Copies,
    /// More than one connection is busy.
    company: bool,
    /// Device operations are over and not reaped.
    finished: Arc<AtomicBool>,
    /// Listeners that wait for descriptors to come free, and until when.
    resting: Vec<u32>,
    rest_until: Instant,
    /// It was said that there are none.
    rest_told: bool,
    told: Vec<Event>,
    spare: Vec<Box<[Iov]>>,
    ready: Vec<epoll::Event>,
    stats: DriverStats,
}

/// What to watch a connection for.
fn interest(conn: &Conn) -> EventFlags {
    let mut flags = EventFlags::empty();
    if !conn.paused && !conn.ended {
        flags |= EventFlags::IN;
    }
    if conn.unsent.is_some() {
        flags |= EventFlags::OUT;
    }
    flags
}

impl Epoll {
    /// # Errors
    /// The system's, when it has no descriptors or memory to give.
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> io::Result<Epoll> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, mailbox.bell(), EventData::new_u64(BELL), EventFlags::IN)?;
        let finished = Arc::new(AtomicBool::new(false));
        let (bell, flag) = (Arc::clone(&mailbox), Arc::clone(&finished));
        let wake = move || {
            // In this order: who sees the bell, or the mailbox's flag, sees this one too.
            flag.store(true, Ordering::SeqCst);
            bell.ring();
        };
        Ok(Epoll {
            epoll,
            pool: Pool::new(RX_TOTAL, RX_BUF)?,
            conns: Vec::new(),
            listeners: Vec::new(),
            device: ThreadRing::new(DEVICE_THREADS, DEVICE_OPS, wake)?,
            copies: Copies::default(),
            company: false,
            finished,
            mailbox,
            resting: Vec::new(),
            rest_until: Instant::now(),
            rest_told: false,
            told: Vec::new(),
            spare: Vec::new(),
            ready: Vec::with_capacity(256),
            stats: DriverStats::default(),
        })
    }

    fn watch(&mut self, key: u32) {
        if let Some(Some(conn)) = self.conns.get(key as usize) {
            self.stats.syscalls += 1;
            // Fails only for a descriptor that is not registered, which ours is.
            let _ =
                epoll::modify(&self.epoll, &conn.socket, EventData::new_u64(u64::from(key)), interest(conn));
        }
    }

    fn end(&mut self, key: u32, error: i32, events: &mut Vec<Event>) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        if !std::mem::replace(&mut conn.ended, true) {
            events.push(Event::Ended { key, error });
            self.watch(key);
        }
    }

    fn read(&mut self, key: u32, events: &mut Vec<Event>) {
        let Some(Some(conn)) = self.conns.get(key as usize) else { return };
        if conn.paused || conn.ended {
            return;
        }
        // Without a buffer the socket stays readable and the next turn tries again.
        let Some(mut buf) = self.pool.alloc() else { return };
        self.stats.syscalls += 1;
        let most = if self.company { STEP } else { RX_BUF };
        match rustix::net::recv(&conn.socket, &mut buf[..most], rustix::net::RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.end(key, 0, events),
            Ok((n, _)) => {
                buf.truncate(n);
                if self.pool.in_use() > RX_TOTAL / 2 {
                    self.stats.copied_rx += 1;
                    copy_out(key, &buf, events);
                } else {
                    events.push(Event::Received { key, bytes: buf.freeze() });
                }
            }
            Err(e) if e == rustix::io::Errno::AGAIN || e == rustix::io::Errno::INTR => {}
            Err(e) => self.end(key, e.raw_os_error(), events),
        }
    }

    /// Tries to send a list; what that came to, or nothing when the socket has no room.
    fn try_send(&mut self, key: u32, iov: &mut [Iov]) -> Option<Result<usize, i32>> {
        let Some(Some(conn)) = self.conns.get(key as usize) else { return Some(Err(libc::EBADF)) };
        // SAFETY: msghdr is plain data for which all zeroes is "nothing".
        let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
        msg.msg_iov = iov.as_mut_ptr();
        msg.msg_iovlen = iov.len() as _;
        self.stats.syscalls += 1;
        // SAFETY: the list's memory is the session's and stays put until it is told `Sent` (the seam's contract).
        let n =
            unsafe { libc::sendmsg(conn.socket.as_raw_fd(), &msg, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
        if n >= 0 {
            return Some(Ok(n as usize));
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => None,
            e => Some(Err(e.unwrap_or(libc::EIO))),
        }
    }

    fn write(&mut self, key: u32, events: &mut Vec<Event>) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        let Some((mut iov, pieces)) = conn.unsent.take() else { return };
        match self.try_send(key, &mut iov[..pieces]) {
            None => {
                if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
                    conn.unsent = Some((iov, pieces));
                }
                return;
            }
            Some(Ok(sent)) => events.push(Event::Sent { key, sent }),
            Some(Err(error)) => self.end(key, error, events),
        }
        self.spare.push(iov);
        self.watch(key);
    }

    /// Has listeners that have rested accept again; how much longer the others rest.
    fn rest(&mut self) -> Option<Duration> {
        if self.resting.is_empty() {
            return None;
        }
        let left = self.rest_until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Some(left);
        }
        for listener in std::mem::take(&mut self.resting) {
            if let Some(Some(socket)) = self.listeners.get(listener as usize) {
                let data = EventData::new_u64(LISTENER | u64::from(listener));
                let _ = epoll::modify(&self.epoll, socket, data, EventFlags::IN);
            }
        }
        None
    }

    fn accept(&mut self, listener: u32, events: &mut Vec<Event>) {
        for _ in 0..ACCEPTS {
            let Some(Some(socket)) = self.listeners.get(listener as usize) else { return };
            self.stats.syscalls += 1;
            let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
            match rustix::net::accept_with(socket, flags) {
                Ok(socket) => {
                    self.rest_told = false;
                    events.push(Event::Accepted { listener, socket });
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // The listener stays readable and would fail again at once.
                    let data = EventData::new_u64(LISTENER | u64::from(listener));
                    let _ = epoll::modify(&self.epoll, socket, data, EventFlags::empty());
                    self.rest_until = Instant::now() + ACCEPT_REST;
                    self.resting.push(listener);
                    if !std::mem::replace(&mut self.rest_told, true) {
                        tracing::warn!(%error, "cannot accept a connection: raise the limit of open files (ulimit -n)");
                    }
                    return;
                }
            }
        }
    }
}

impl Driver for Epoll {
    fn listen(&mut self, listener: u32, socket: OwnedFd) -> io::Result<()> {
        let data = EventData::new_u64(LISTENER | u64::from(listener));
        epoll::add(&self.epoll, &socket, data, EventFlags::IN)?;
        let at = listener as usize;
        if self.listeners.len() <= at {
            self.listeners.resize_with(at + 1, || None);
        }
        self.listeners[at] = Some(socket);
        Ok(())
    }

    fn unlisten(&mut self, listener: u32) {
        if let Some(slot) = self.listeners.get_mut(listener as usize) {
            // Closing takes it out of the epoll set.
            *slot = None;
        }
    }

    fn add(&mut self, key: u32, socket: OwnedFd) -> io::Result<()> {
        epoll::add(&self.epoll, &socket, EventData::new_u64(u64::from(key)), EventFlags::IN)?;
        let at = key as usize;
        if self.conns.len() <= at {
            self.conns.resize_with(at + 1, || None);
        }
        self.conns[at] = Some(Conn { socket, paused: false, ended: false, unsent: None });
        Ok(())
    }

    fn sending(&self, key: u32) -> bool {
        matches!(self.conns.get(key as usize), Some(Some(c)) if c.unsent.is_some())
    }

    fn send(&mut self, key: u32, gather: &mut dyn FnMut(&mut [Iov]) -> usize) {
        match self.conns.get(key as usize) {
            Some(Some(c)) if c.unsent.is_none() => {}
            _ => return,
        }
        let mut iov = self.spare.pop().unwrap_or_else(empty_list);
        let pieces = gather(&mut iov);
        if pieces == 0 {
            self.spare.push(iov);
            return;
        }
        match self.try_send(key, &mut iov[..pieces]) {
            Some(Ok(sent)) => {
                self.told.push(Event::Sent { key, sent });
                self.spare.push(iov);
            }
            Some(Err(error)) => {
                let mut told = std::mem::take(&mut self.told);
                self.end(key, error, &mut told);
                self.told = told;
                self.spare.push(iov);
            }
            None => {
                if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
                    conn.unsent = Some((iov, pieces));
                }
                self.watch(key);
            }
        }
    }

    fn pause(&mut self, key: u32) {
        if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
            conn.paused = true;
        }
        self.watch(key);
    }

    fn resume(&mut self, key: u32) {
        if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
            conn.paused = false;
        }
        self.watch(key);
    }

    fn finish_sending(&mut self, key: u32) {
        if let Some(Some(conn)) = self.conns.get(key as usize) {
            // ENOTCONN when the peer was faster.
            let _ = rustix::net::shutdown(&conn.socket, rustix::net::Shutdown::Write);
        }
    }

    fn close(&mut self, key: u32) {
        if let Some(slot) = self.conns.get_mut(key as usize)
            && slot.take().is_some()
        {
            self.told.push(Event::Gone { key });
        }
    }

    fn watch(&mut self, fd: BorrowedFd<'_>) {
        // EEXIST when it was watched before: it is level-triggered, and whoever asked reads it.
        let _ = epoll::add(&self.epoll, fd, EventData::new_u64(WATCHED), EventFlags::IN);
    }

    fn unwatch(&mut self, fd: BorrowedFd<'_>) {
        // ENOENT when it never was.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn ready(&mut self) -> bool {
        !self.told.is_empty() || self.finished.load(Ordering::SeqCst)
    }

    /// Nothing is ever pending: sends and device operations begin when they are asked for.
    fn launch(&mut self) -> bool {
        false
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

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        events.append(&mut self.told);
        let rest = self.rest();
        let timeout = match wait {
            _ if !events.is_empty() || self.finished.load(Ordering::SeqCst) => Duration::ZERO,
            Wait::Poll => Duration::ZERO,
            Wait::Sleep(Some(ns)) => Duration::from_nanos(ns),
            // For ever, but for a look once an hour.
            Wait::Sleep(None) => Duration::from_secs(3600),
        };
        let timeout = rest.map_or(timeout, |left| timeout.min(left));
        self.stats.syscalls += 1;
        self.stats.sleeps += u64::from(!timeout.is_zero());
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        let timeout = rustix::event::Timespec {
            tv_sec: timeout.as_secs() as _,
            tv_nsec: i64::from(timeout.subsec_nanos()) as _,
        };
        let space: &mut [MaybeUninit<epoll::Event>] = ready.spare_capacity_mut();
        let n = match epoll::wait(&self.epoll, &mut *space, Some(&timeout)) {
            Ok((got, _)) => got.len(),
            Err(rustix::io::Errno::INTR) => 0,
            Err(e) => {
                self.ready = ready;
                return Err(e.into());
            }
        };
        // SAFETY: epoll_wait has filled the first `n` entries.
        unsafe { ready.set_len(n) };
        for event in &ready {
            let (data, flags) = (event.data.u64(), event.flags);
            let key = data as u32;
            if data & BELL != 0 {
                self.mailbox.silence();
            } else if data & WATCHED != 0 {
                // It has ended the sleep.
            } else if data & LISTENER != 0 {
                self.accept(key, events);
            } else {
                if flags.contains(EventFlags::OUT) {
                    self.write(key, events);
                }
                let lost = flags.intersects(EventFlags::HUP | EventFlags::ERR);
                if lost && matches!(self.conns.get(key as usize), Some(Some(c)) if c.paused) {
                    // Reported whether watched for or not, and so for ever: what is paused is not read.
                    self.end(key, libc::ECONNRESET, events);
                } else if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.read(key, events);
                }
            }
        }
        self.ready = ready;
        if self.finished.swap(false, Ordering::SeqCst) {
            self.device.reap(|op, result| events.push(Event::Device { op, result }));
        }
        Ok(())
    }

    fn device_ops(&self) -> usize {
        self.device.in_flight() + self.copies.len()
    }

    fn spins(&self) -> bool {
        false
    }

    fn stats(&self) -> DriverStats {
        self.stats
    }

    fn ring(&mut self) -> &mut dyn Ring {
        self
    }
}

impl Ring for Epoll {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        match self.copies.take(op) {
            Ok(ended) => self.told.extend(ended),
            Err(op) => self.device.submit(op)?,
        }
        Ok(())
    }
}
