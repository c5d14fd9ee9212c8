//! The registry's parts: subsystems, namespaces, and what the discovery log is made from.
//!
//! Owns the shared, live state that management changes and queues read. [`crate::Target`] is the only way in for others.

pub(crate) mod erase;
pub(crate) mod namespace;
pub(crate) mod subsystem;
