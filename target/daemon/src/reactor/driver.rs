//! The seam between a data-plane thread and the kernel: sockets in, sockets out, device I/O, sleep.
//!
//! io_uring and epoll stand behind it ([`super::uring`], [`super::epoll`]). A driver owns sockets and the buffers in
//! flight; it knows nothing of PDUs. What it tells, it tells as [`Event`]s in the order things happened.

use caisson_block::{Buf, IoOp, Ring};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// Bytes of one receive buffer. Large, so that one system call brings many capsules; they are few, shared by all the
/// connections of a thread, and back in the kernel's hands as soon as they are parsed.
pub(crate) const RX_BUF: usize = 128 * 1024;
/// Receive buffers lent to the kernel at once, a thread (a power of two: the ring's own rule).
pub(crate) const RX_LENT: u16 = 32;
/// Receive buffers a thread owns; past half of them in the hands of sessions, what comes is copied out at once.
pub(crate) const RX_TOTAL: u32 = 128;
/// Bytes that are received of one connection, or copied to or from a file in memory, between two looks at the others.
pub(crate) const STEP: usize = 32 << 10;
/// The most bytes handed to the kernel in one send, and the most pieces (IOV_MAX is 1,024).
pub(crate) const SEND_BYTES: usize = 1 << 20;
/// See [`SEND_BYTES`].
pub(crate) const SEND_PIECES: usize = 1024;
/// Device operations in flight, a thread. Past it the ring hands operations back.
pub(crate) const DEVICE_OPS: usize = 4096;

/// How long a listener rests that could not accept for want of descriptors or memory.
pub(crate) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long a turn may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    Poll,
    /// Until something happens or this many nanoseconds are over; `None` is for ever.
    Sleep(Option<u64>),
}

/// What happened.
pub(crate) enum Event {
    /// A listener accepted a connection.
    Accepted {
        /// The listener's key.
        listener: u32,
        /// The connection, non-blocking.
        socket: OwnedFd,
    },
    /// A listener failed for good.
    ListenerFailed {
        /// The listener's key.
        listener: u32,
        /// The errno.
        error: i32,
    },
    /// Bytes came.
    Received {
        /// The connection's key.
        key: u32,
        /// The bytes.
        bytes: Buf,
    },
    /// The peer closed, or the connection failed (`error` is then not 0). No more bytes come.
    Ended {
        /// The connection's key.
        key: u32,
        /// The errno, 0 for an orderly end.
        error: i32,
    },
    /// The send in flight is over; `sent` bytes of what was gathered are gone.
    Sent {
        /// The connection's key.
        key: u32,
        /// Bytes sent.
        sent: usize,
    },
    /// After [`Driver::close`]: nothing of the connection is in the kernel any more, the key may be used again.
    Gone {
        /// The connection's key.
        key: u32,
    },
    /// A device operation is over.
    Device {
        /// The operation, its buffers given back.
        op: IoOp,
        /// Bytes moved, or the errno.
        result: Result<u32, i32>,
    },
}

/// Bytes of one piece of what is copied out because receive buffers are short: whoever keeps one byte keeps no more.
const PIECE: usize = 4096;

/// Tells of received bytes by copies in small pieces, so that the buffer they came in is free again, and so that a session
/// that keeps a little of them (a host may send its data in crumbs among other PDUs) pins little memory.
pub(crate) fn copy_out(key: u32, bytes: &[u8], events: &mut Vec<Event>) {
    events.extend(bytes.chunks(PIECE).map(|piece| Event::Received { key, bytes: Buf::from(piece.to_vec()) }));
}

/// Counters of one driver since it started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DriverStats {
    /// System calls made.
    pub syscalls: u64,
    /// Those among them that asked a socket, instead of sleeping, and found nothing.
    pub vain_polls: u64,
    /// Times the thread slept in the kernel.
    pub sleeps: u64,
    /// Received chunks that had to be copied because buffers were short.
    pub copied_rx: u64,
}

/// A pointer and a length, as the kernel's `iovec` wants them.
pub(crate) type Iov = libc::iovec;

/// A list of [`SEND_PIECES`] pieces to fill.
pub(crate) fn empty_list() -> Box<[Iov]> {
    vec![Iov { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_PIECES].into_boxed_slice()
}

/// One thread's way to the kernel.
pub(crate) trait Driver: Ring {
    /// Starts accepting on a listening, non-blocking socket.
    fn listen(&mut self, listener: u32, socket: OwnedFd) -> io::Result<()>;
    /// Stops accepting and closes the socket.
    fn unlisten(&mut self, listener: u32);
    /// Takes a connected, non-blocking socket over and starts receiving.
    fn add(&mut self, key: u32, socket: OwnedFd) -> io::Result<()>;
    /// Whether a send of this connection is in flight: only one may be.
    fn sending(&self, key: u32) -> bool;
    /// Sends what `gather` puts into the list of [`SEND_PIECES`] entries; it says how many it filled. The memory stays
    /// where it is until [`Event::Sent`]. Nothing happens when a send is in flight or nothing is gathered.
    fn send(&mut self, key: u32, gather: &mut dyn FnMut(&mut [Iov]) -> usize);
    /// Stops receiving for now (bytes already received still come).
    fn pause(&mut self, key: u32);
    /// Goes on receiving.
    fn resume(&mut self, key: u32);
    /// Says that nothing more will be sent, so that the peer sees the end after the last byte.
    fn finish_sending(&mut self, key: u32);
    /// Ends the connection; [`Event::Gone`] follows.
    fn close(&mut self, key: u32);
    /// Has the next sleep end when `fd` is readable; once, and for one that was asked for before, not again until then.
    fn watch(&mut self, fd: BorrowedFd<'_>);
    /// Forgets that. From the next turn's start on, the kernel holds the descriptor's file for it no more.
    fn unwatch(&mut self, fd: BorrowedFd<'_>);
    /// Whether a turn without waiting would find something, as far as can be told without a system call.
    fn ready(&mut self) -> bool;
    /// Submits what is pending, without a look at what has come. Whether something of it is over already.
    fn launch(&mut self) -> bool;
    /// Tells of what ended where it was asked for (device operations that are served from memory, above all).
    fn told(&mut self, events: &mut Vec<Event>);
    /// Whether large copies in memory wait for [`Driver::copy`].
    fn copies(&self) -> bool;
    /// Does at most `most` bytes of the oldest of them, and tells of its end.
    fn copy(&mut self, most: usize) -> Option<Event>;
    /// Whether more than one connection is busy: what one brings is then taken in pieces, with a look at the others after each.
    fn company(&mut self, company: bool);
    /// Submits what is pending, waits as told, and appends what happened to `events`.
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()>;
    /// Whether [`Driver::ready`] sees what comes on sockets, so that asking it over and over is of use.
    fn spins(&self) -> bool;
    /// Device operations in flight.
    fn device_ops(&self) -> usize;
    /// The counters.
    fn stats(&self) -> DriverStats;
    /// The device side, for [`caisson_block::Cx`].
    fn ring(&mut self) -> &mut dyn Ring;
}
