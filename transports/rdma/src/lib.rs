//! NVMe/RDMA protocol core of the target's side, sans-IO (NVMe RDMA Transport Specification 1.1, "RDMA" below).
//!
//! [`cm`] judges the private data of a connection request. [`receive::Receives`] owns the buffers of a shared receive queue.
//! [`session::Session`] is one queue pair: it is fed capsules and completions, gives events, and makes batches of work
//! requests that whoever runs it posts. There is no device, socket, clock or randomness in here, and nothing a peer sends
//! can make it panic or hold memory without a bound.
//!
//! Whatever a device may read or write is held here, out of everybody's reach, until its completion says that the device
//! has let go of it (or the caller says that the queue pair is destroyed).

pub mod cm;
pub mod fault;
pub mod memory;
mod place;
pub mod receive;
pub mod session;
pub mod work;

pub use fault::Cause;
pub use memory::{Keys, Memory, Regions};
pub use place::Payload;
pub use receive::Receives;
pub use session::{Event, Fatal, Session};
pub use work::{Batch, Op, Sge, WcStatus, Wr};
