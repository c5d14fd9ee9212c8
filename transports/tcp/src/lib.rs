//! NVMe/TCP protocol core, both roles, sans-IO (NVMe TCP Transport Specification 1.1, "TCP" below).
//!
//! [`controller::Session`] is the target's side of one connection, [`host::Session`] the initiator's. Each is fed the
//! bytes that were received and the time, gives events, and queues what is to be sent in a [`Tx`]. There is no socket,
//! clock or randomness in here, and nothing a peer sends can make it panic or hold memory without a bound.

pub mod controller;
pub mod crc;
pub mod fatal;
pub mod frame;
pub mod host;
pub mod tx;

pub use fatal::Fatal;
pub use frame::Digests;
pub use tx::Tx;
