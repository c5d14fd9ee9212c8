//! What the data-plane threads of one target share: limits, counters, each other's mailboxes.

use super::mailbox::Mailbox;
use super::rdma::control::Control;
use caisson_block::{Mono, Pages};
use caisson_core::{BUCKETS, bucket_of};
use caisson_rdma::Cause;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The monotonic time of the machine.
#[inline]
pub fn clock() -> Mono {
    // `Instant` asks the same, but makes three times the instructions of it, several times a turn.
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Starts a second in, so that no time is zero.
    Mono((t.tv_sec as u64 + 1) * 1_000_000_000 + t.tv_nsec as u64)
}

/// What bounds the data plane.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once, over all threads; more are shed (closed at once).
    pub connections: usize,
    /// The longest a busy thread spins before it sleeps, in nanoseconds; 0 never spins.
    pub spin_ns: u64,
    /// How long a host may take nothing of what is sent to it, in milliseconds; its connection is then ended.
    pub send_ms: u64,
    /// How long shutting down waits for connections to end, in milliseconds.
    pub shutdown_ms: u64,
    /// Limits and time-outs of each connection.
    pub session: caisson_tcp::controller::Config,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 16_384,
            spin_ns: 50_000,
            send_ms: 60_000,
            shutdown_ms: 2_000,
            session: caisson_tcp::controller::Config::default(),
        }
    }
}

/// Counters of one thread, written by it alone.
#[derive(Debug)]
pub struct ThreadStats {
    /// Turns of the loop.
    pub turns: AtomicU64,
    /// System calls.
    pub syscalls: AtomicU64,
    /// Those among them that polled a socket and found nothing. They are what spinning is made of: how many there are
    /// depends on how long hosts let a thread wait, not on how many commands they send.
    pub vain_polls: AtomicU64,
    /// Times it slept in the kernel.
    pub sleeps: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once because the limit was reached.
    pub shed: AtomicU64,
    /// Connections ended for a protocol error.
    pub protocol_errors: AtomicU64,
    /// Connections now.
    pub connections: AtomicU64,
    /// Bytes received.
    pub rx_bytes: AtomicU64,
    /// Bytes sent.
    pub tx_bytes: AtomicU64,
    /// Received chunks that were copied because receive buffers were short.
    pub copied_rx: AtomicU64,
    /// RDMA buffers that commands and transfers hold now: of transfers, of data in capsules, of responses.
    pub rdma_buffers: [AtomicU64; 3],
    /// How long turns took, in nanoseconds together, and by [`bucket_of`].
    pub turn_ns: AtomicU64,
    /// See there.
    pub turn_lengths: [AtomicU64; BUCKETS],
}

impl Default for ThreadStats {
    fn default() -> ThreadStats {
        let zero = || AtomicU64::new(0);
        ThreadStats {
            turns: zero(),
            syscalls: zero(),
            vain_polls: zero(),
            sleeps: zero(),
            accepted: zero(),
            shed: zero(),
            protocol_errors: zero(),
            connections: zero(),
            rx_bytes: zero(),
            tx_bytes: zero(),
            copied_rx: zero(),
            rdma_buffers: [const { AtomicU64::new(0) }; 3],
            turn_ns: zero(),
            turn_lengths: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl ThreadStats {
    /// Counts a turn of `ns` nanoseconds. Called by the thread itself, which is the only one that does.
    pub(crate) fn turned(&self, ns: u64) {
        let bump = |c: &AtomicU64, by| c.store(c.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        bump(&self.turn_ns, ns);
        bump(&self.turn_lengths[bucket_of(ns)], 1);
        bump(&self.turns, 1);
    }
}

/// What RDMA has met, over all threads.
#[derive(Debug, Default)]
pub struct RdmaStats {
    /// Connections refused or ended before their time, in the order of [`Cause::ALL`].
    pub faults: [AtomicU64; Cause::ALL.len()],
    /// Bytes of the threads' buffers, in the order of [`Pages::ALL`].
    pub pages: [AtomicU64; Pages::ALL.len()],
}

impl RdmaStats {
    pub(crate) fn count(&self, cause: Cause) {
        self.faults[cause.index()].fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) struct Shared {
    pub(crate) rdma_stats: RdmaStats,
    pub(crate) limits: Limits,
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    pub(crate) threads: Vec<Arc<ThreadStats>>,
    /// Connections a thread has or is about to have.
    load: Vec<AtomicUsize>,
    /// RDMA connections of which no thread has anything any more, whose hosts are still to be told.
    pub(crate) parting: AtomicUsize,
    /// The thread that speaks to RDMA devices, once there was an RDMA listener.
    pub(crate) rdma: OnceLock<Control>,
}

impl Shared {
    pub(crate) fn new(limits: Limits, mailboxes: Vec<Arc<Mailbox>>) -> Shared {
        let n = mailboxes.len();
        Shared {
            limits,
            mailboxes,
            threads: (0..n).map(|_| Arc::default()).collect(),
            load: (0..n).map(|_| AtomicUsize::new(0)).collect(),
            parting: AtomicUsize::new(0),
            rdma: OnceLock::new(),
            rdma_stats: RdmaStats::default(),
        }
    }

    /// Counts a new connection to the thread that has the fewest (`home` where it is no worse), or refuses it.
    pub(crate) fn place(&self, home: usize) -> Option<usize> {
        let loads: Vec<usize> = self.load.iter().map(|l| l.load(Ordering::Relaxed)).collect();
        let parting = self.parting.load(Ordering::Relaxed);
        if loads.iter().sum::<usize>() + parting >= self.limits.connections {
            return None;
        }
        let least = loads.iter().copied().min()?;
        let at = if loads[home] == least { home } else { loads.iter().position(|&l| l == least)? };
        self.load[at].fetch_add(1, Ordering::Relaxed);
        Some(at)
    }

    /// A connection of `thread` is gone.
    pub(crate) fn forget(&self, thread: usize) {
        self.load[thread].fetch_sub(1, Ordering::Relaxed);
    }
}
