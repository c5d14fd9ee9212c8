//! The locks and atomics that threads of the data plane meet at: the standard library's, or those of a model checker.
//!
//! With the feature `shuttle`, each use of one is a point where the checker may go on with another thread, so a test can
//! run the production code under schedules that it chooses and replays (tests/sim/tests/schedules). Code that runs on
//! several threads takes these; what only one thread ever touches, or what no other waits for, takes the standard ones.
//! A standard lock must never be held where one of these is used.

#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Mutex, MutexGuard, atomic};

pub use std::sync::PoisonError;
