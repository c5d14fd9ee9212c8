//! The data path on simulated disks, clock and threads: one seed decides everything, and a model judges what comes back.
//!
//! A [`Plan`] is what a seed chooses. A [`World`](world::World) runs a [`Subject`] by it: it submits requests and
//! management, lets threads take turns, crashes, damages and reopens, and gives every answer to the [`Model`](model::Model).
//! README.md states the fault model. Nothing here knows how the subject works.

pub mod content;
pub mod format;
pub mod linear;
pub mod model;
pub mod plain;
pub mod plan;
pub mod pool;
pub mod race;
pub mod run;
pub mod subject;
pub mod trace;
pub mod vault;
pub mod workload;
pub mod world;

pub use plan::Plan;
pub use run::{Failure, Stats, run_seed, run_seeds};
pub use subject::{Action, Nature, Reply, Slot, Subject};
