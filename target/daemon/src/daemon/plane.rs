//! What the control plane asks of the data plane: to listen, to stop listening, to count, to end.
//!
//! The reactors are one; tests have another that opens no socket.

use crate::model::text::Address;
use std::io;
use std::net::SocketAddr;

/// Counters of one data-plane thread since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadCounts {
    /// Turns of its loop.
    pub turns: u64,
    /// System calls.
    pub syscalls: u64,
    /// Times it slept in the kernel.
    pub sleeps: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once because the limit was reached.
    pub shed: u64,
    /// Connections ended for a protocol error.
    pub protocol_errors: u64,
    /// Connections now.
    pub connections: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Received chunks that were copied because receive buffers were short.
    pub copied_rx: u64,
    /// How long turns took, in nanoseconds together.
    pub turn_ns: u64,
    /// How many were how long, by [`caisson_core::bucket_of`].
    pub turn_lengths: Vec<u64>,
}

/// What RDMA has met and holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaCounts {
    /// Connections refused or ended before their time, by cause.
    pub faults: Vec<(&'static str, u64)>,
    /// Buffers that commands and transfers hold now, by kind.
    pub buffers: Vec<(&'static str, u64)>,
    /// Bytes of all buffers, by the kind of their pages.
    pub pages: Vec<(&'static str, u64)>,
}

/// The threads that serve connections.
pub trait DataPlane: Send + Sync {
    /// Listens on `at` for connections of the core's port `port`; returns the address with the port number in use.
    ///
    /// # Errors
    /// The system's: the address is in use, or not this machine's; for RDMA, that there is no RDMA, or no device with the
    /// address, and what to do about it.
    fn listen(&self, at: Address, port: u16) -> io::Result<SocketAddr>;
    /// Listens on `at`, which `listen` could not for the reason `why`, as soon as that can be.
    fn expect(&self, at: Address, port: u16, why: String);
    /// Why the listener on `at` waits to be able to listen, where it does: since the start, or since its device went.
    fn waits(&self, _at: Address) -> Option<String> {
        None
    }
    /// Stops listening on an address that `listen` returned or `expect` was given.
    fn unlisten(&self, at: Address);
    /// The driver in use, for status.
    fn driver(&self) -> &'static str;
    /// Each thread's counters.
    fn threads(&self) -> Vec<ThreadCounts>;
    /// What RDMA has met and holds; nothing where there is none.
    fn rdma(&self) -> RdmaCounts {
        RdmaCounts::default()
    }
    /// Ends every connection and every thread, within a bounded time.
    fn shutdown(&self);
}
