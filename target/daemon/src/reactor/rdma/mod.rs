//! NVMe/RDMA on the data plane.
//!
//! A control thread ([`control`]) speaks to the connection manager: it listens, judges requests, makes queue pairs and
//! registers memory. Each data-plane thread ([`thread`]) then has, of each device that connections came by, one completion
//! queue, one shared receive queue and buffers of its own ([`port`]), and takes capsules and completions from them without a
//! system call. Before it sleeps it arms the completion queue and watches its channel, so an idle target uses no processor.
//!
//! Memory: the pools that carry hosts' data ([`caisson_block::offered`]) and the threads' own are registered by the control
//! thread, once, up to a bound; what lies elsewhere is copied on its way. Nothing is registered on the way of a command.
//!
//! End of a connection: the queue pair is flushed; once everything has come home (or its time is up) the connection goes to
//! the control thread, which destroys the queue pair and only then lets go of what it could still reach. The host is told by the
//! control thread, at once or when the link can carry it ([`partings`]).

mod conn;
pub(crate) mod control;
mod devices;
mod listeners;
mod nodes;
mod partings;
pub(crate) mod port;
mod thread;

pub(crate) use thread::{Thread, Turn};

use caisson_rdma::cm::Accepted;
use caisson_rdma::session::Config;
use caisson_rdma::{Cause, Session};
use caisson_verbs::Connection;
use std::net::SocketAddr;
use std::sync::Arc;

/// Marks the key of a queue that is served over RDMA.
pub(crate) const KEY: u32 = 1 << 31;

/// What the control thread tells a data-plane thread.
pub(crate) enum Message {
    /// A device whose connections this thread is to serve.
    Port(Box<port::Port>),
    /// Serve this connection, which is about to be accepted.
    Adopt(Box<Adopted>),
    /// The connection of this key has ended or did not come about.
    Lost {
        /// [`Connection::key`].
        connection: usize,
        /// Why, for the log.
        why: &'static str,
        /// What it is counted as, where it is a fault whatever was on its way.
        cause: Option<Cause>,
    },
    /// The queue pair of this number takes no receives any more.
    LastReceive {
        /// The device.
        device: usize,
        /// The number.
        queue_pair: u32,
    },
    /// The device has gone: drop what hangs on it.
    Retire {
        /// The device.
        device: usize,
    },
}

/// A connection on its way to its thread.
pub(crate) struct Adopted {
    pub(crate) connection: Arc<Connection>,
    pub(crate) device: usize,
    pub(crate) config: Config,
    pub(crate) accepted: Accepted,
    pub(crate) port: u16,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
}

/// A connection on its way to its end. The fields are dropped in order: the queue pair before what it could reach.
pub(crate) struct Buried {
    /// It ended for a reason that may be the link's ([`Cause::may_be_the_link`]).
    pub(crate) abrupt: bool,
    pub(crate) connection: Arc<Connection>,
    pub(crate) _session: Session,
}
