//! The composition root: reactors join transports, core and datapath; configuration, management, metrics.
//!
//! What a target exports is a set of [`model::Item`]s. [`config`] reads them from a file, [`state`] keeps what was
//! changed at run time, and [`Daemon`] makes the running target the same as that set, at start and at each change that
//! [`manage`] is asked for. [`metrics`] reads counters. [`reactor`] alone is on the way of an I/O.

pub mod config;
pub mod daemon;
pub mod manage;
pub mod metrics;
pub mod model;
pub mod pool;
pub mod pools;
pub mod reactor;
pub mod refusal;
pub mod state;

pub use daemon::Daemon;
pub use refusal::{Cause, Refusal};
