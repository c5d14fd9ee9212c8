//! The answering side of the bare-socket exchange.

use super::{CHUNK, HELLO, KIND_CAPSULE, Shape};
use crate::net::{unless_blocked, wait};
use crate::sys;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Turns of a spinning peer between two looks at the listening socket.
const ACCEPT_EVERY: u32 = 4096;
/// Connections served at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 256;

/// A peer on a thread of this process; stopped when dropped.
#[derive(Debug)]
pub struct Peer {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts one that listens at `at` (port 0: any), pinned to `core`, polling when `spin`, and sending from `memory`
    /// bytes (see [`serve`]).
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(at: &str, core: Option<usize>, spin: bool, memory: usize) -> io::Result<Peer> {
        let listener = TcpListener::bind(at)?;
        let port = listener.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        // Filled before anybody connects, so that it costs the measurement nothing.
        let reply = filled(memory);
        let thread = std::thread::Builder::new().name("yardstick".into()).spawn(move || {
            if let Some(core) = core {
                // A core that does not exist shows in the driver's own pinning, which reports it.
                let _ = sys::pin(core);
            }
            // A failure shows at the driver as a closed connection.
            let _ = serve_from(&listener, spin, &reply, &seen);
        })?;
        Ok(Peer { port, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers every connection to `listener` until `stop`. With `spin` it never sleeps while a connection is open.
///
/// What it sends comes, front to back and over again, from `memory` bytes (one send's worth at least): as many as the
/// target that it is compared with reads from, so that both or neither find their data in the processor's caches.
///
/// # Errors
/// When the listening socket fails.
pub fn serve(listener: &TcpListener, spin: bool, memory: usize, stop: &AtomicBool) -> io::Result<()> {
    serve_from(listener, spin, &filled(memory), stop)
}

/// Memory to send from.
fn filled(memory: usize) -> Vec<u8> {
    vec![0x5a; memory.max(CHUNK)]
}

fn serve_from(listener: &TcpListener, spin: bool, reply: &[u8], stop: &AtomicBool) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut open: Vec<Connection> = Vec::new();
    let mut buffer = vec![0; CHUNK];
    let mut turn = 0u32;
    while !stop.load(Ordering::Relaxed) {
        turn = turn.wrapping_add(1);
        if (turn.is_multiple_of(ACCEPT_EVERY) || open.is_empty() || !spin) && open.len() < MAX_CONNECTIONS {
            match listener.accept() {
                Ok((stream, _)) => open.extend(Connection::new(stream).ok()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(e),
            }
        }
        let mut busy = false;
        open.retain_mut(|c| match c.turn(&mut buffer, reply) {
            Ok(did) => {
                busy |= did;
                true
            }
            Err(_) => false,
        });
        if !busy && (!spin || open.is_empty()) {
            idle(listener, &open)?;
        }
    }
    Ok(())
}

/// Sleeps until a socket is ready, at most long enough to notice `stop`.
fn idle(listener: &TcpListener, open: &[Connection]) -> io::Result<()> {
    if open.is_empty() {
        let mut fds =
            [rustix::event::PollFd::from_borrowed_fd(listener.as_fd(), rustix::event::PollFlags::IN)];
        let ts = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let _ = rustix::event::poll(&mut fds, Some(&ts));
        return Ok(());
    }
    wait(open.iter().map(|c| (c.stream.as_fd(), c.owed > 0)), Duration::from_millis(20), &mut Vec::new())
        .map(drop)
}

/// One connection of the peer.
struct Connection {
    stream: TcpStream,
    hello: [u8; HELLO],
    greeted: usize,
    shape: Option<Shape>,
    /// Bytes of the current message that are still to come; 0 before its first byte.
    left: usize,
    /// Bytes to send.
    owed: usize,
    /// Where in the peer's memory the next byte to send is.
    at: usize,
}

impl Connection {
    fn new(stream: TcpStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, hello: [0; HELLO], greeted: 0, shape: None, left: 0, owed: 0, at: 0 })
    }

    /// Reads once, and sends what is owed; says whether anything moved.
    fn turn(&mut self, buffer: &mut [u8], reply: &[u8]) -> io::Result<bool> {
        let mut busy = false;
        if let Some(n) = unless_blocked(self.stream.read(buffer))? {
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            busy = true;
            self.count(&buffer[..n])?;
        }
        while self.owed > 0 {
            let end = reply.len().min(self.at + self.owed.min(CHUNK));
            let Some(n) = unless_blocked(self.stream.write(&reply[self.at..end]))? else { break };
            busy = true;
            self.owed -= n;
            self.at = (self.at + n) % reply.len();
        }
        Ok(busy)
    }

    /// Counts received bytes, and adds what each message that they complete is answered with.
    fn count(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let shape = match self.shape {
            Some(shape) => shape,
            None => {
                let n = bytes.len().min(HELLO - self.greeted);
                self.hello[self.greeted..self.greeted + n].copy_from_slice(&bytes[..n]);
                self.greeted += n;
                if self.greeted < HELLO {
                    return Ok(());
                }
                let shape = Shape::from_hello(&self.hello).ok_or(io::ErrorKind::InvalidData)?;
                self.shape = Some(shape);
                bytes = &bytes[n..];
                self.left = shape.request as usize;
                shape
            }
        };
        if shape.asked == 0 {
            // Every message is as long as the next: arithmetic does.
            let request = shape.request as usize;
            let have = bytes.len() + request - self.left;
            self.owed += have / request * shape.response as usize;
            self.left = request - have % request;
            return Ok(());
        }
        self.count_asked(shape, bytes);
        Ok(())
    }

    /// As [`Connection::count`], where messages are of two kinds: capsules, answered with an R2T, and data.
    fn count_asked(&mut self, shape: Shape, mut bytes: &[u8]) {
        // `left` is that of a capsule after the greeting; afterwards 0 stands for "the kind is not known yet". The
        // answer depends on the kind, but an R2T and a response are equally long.
        while let Some(&kind) = bytes.first() {
            if self.left == 0 {
                self.left = if kind == KIND_CAPSULE { shape.request } else { shape.asked } as usize;
            }
            let n = self.left.min(bytes.len());
            self.left -= n;
            bytes = &bytes[n..];
            if self.left == 0 {
                self.owed += shape.response as usize;
            }
        }
    }
}
