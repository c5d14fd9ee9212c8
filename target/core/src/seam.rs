//! What a connection's driver and a queue say to each other: arrivals, payloads, actions, notices.
//!
//! Owns the types of that conversation and nothing else. It must never know which transport is behind it.

use crate::spec::PortId;
use caisson_block::BufList;
use caisson_wire::{Cqe, Status};
use std::net::IpAddr;

/// A connection as it arrives, before its Connect command.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The port that accepted it.
    pub port: PortId,
    /// The host's address, for status and logs.
    pub peer: String,
    /// The address of ours that the host reached; told in discovery entries of ports that listen on the wildcard.
    pub local: Option<IpAddr>,
    /// The thread's key of this queue, which comes back in every [`caisson_block::Tag`].
    pub key: u32,
    /// Bytes of in-capsule data that the transport takes on I/O queues (IOCCSZ is derived from it).
    pub in_capsule: u32,
}

/// What a capsule says of its command's data.
#[derive(Debug)]
pub enum Payload {
    /// The descriptor's length is zero.
    None,
    /// The data came with the capsule.
    InCapsule(BufList),
    /// The transport moves this many bytes: from the host after [`Action::Pull`], or to it with [`Action::Reply`].
    Transport {
        /// Bytes that the descriptor names.
        len: u32,
    },
    /// A descriptor that the transport forbids; the status to answer with.
    Bad(Status),
}

/// What a queue wants done by the driver of its connection, in order.
#[derive(Debug)]
pub enum Action {
    /// Ask the host for the data of the command in `slot`; it comes back through [`crate::Queue::data`].
    Pull {
        /// The command's slot.
        slot: u32,
        /// Bytes: all that the descriptor names.
        len: u32,
    },
    /// Complete the command in `slot`, with `data` for the host where there is some. The slot is free after it.
    Reply {
        /// The command's slot.
        slot: u32,
        /// The completion, SQHD filled in.
        cqe: Cqe,
        /// Data for the host, at most as long as the descriptor.
        data: BufList,
    },
    /// Send what is waiting, then close the connection.
    Close {
        /// Why, for the log and the metrics.
        reason: CloseReason,
    },
}

/// Why the target closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CloseReason {
    /// The keep-alive timer expired.
    #[error("the keep-alive timer expired")]
    KeepAliveExpired,
    /// Nothing was asked of a discovery controller without keep-alive for two minutes, or a controller was not enabled for as long.
    #[error("the host was idle for too long")]
    Idle,
    /// No successful Connect within the time allowed.
    #[error("no Connect command came in time")]
    NoConnect,
    /// The Connect command was refused.
    #[error("the Connect command was refused")]
    Refused,
    /// The host is not on the subsystem's access list any more.
    #[error("the host lost its access")]
    AccessRemoved,
    /// The subsystem was removed.
    #[error("the subsystem was removed")]
    SubsystemRemoved,
    /// The port was removed.
    #[error("the port was removed")]
    PortRemoved,
    /// The controller was reset or shut down, which deletes its I/O queues.
    #[error("the host reset the controller")]
    ControllerReset,
    /// The admin queue of this I/O queue's controller is gone.
    #[error("the controller's admin queue is gone")]
    AdminQueueGone,
    /// The host asked for it with a Disconnect command.
    #[error("the host disconnected")]
    Disconnected,
    /// Somebody asked for it over the management interface.
    #[error("closed by the operator")]
    Operator,
}

/// "Call [`crate::Queue::poll`] on this queue soon", from any thread.
pub trait Notify: Send + Sync {
    /// Called any number of times; calls may be merged. Must not call back into the target.
    fn notify(&self);
}
