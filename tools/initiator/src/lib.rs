//! A user-space NVMe/TCP and NVMe/RDMA host: library, load generator, bare-socket yardstick.
//!
//! For people who have no kernel initiator at hand, for measuring targets, and for tests that need a host which sends
//! anything at all. Blocking or polling, over plain nonblocking sockets or verbs; works against any NVMe/TCP or NVMe/RDMA target.
//!
//! Trusts nothing that a target sends: a breach of the protocol is an [`Error`], never a panic.

pub mod cli;
pub mod client;
pub mod discover;
pub mod error;
pub mod ideal;
pub mod net;
pub mod perf;
pub mod queue;
pub mod stats;
pub mod sys;
pub mod transport;
pub mod units;
pub mod yardstick;

pub use client::{Client, Options};
pub use error::{Error, Result};
pub use net::{Address, Transport};
pub use queue::{Command, Completion, Data, Queue};
