//! The engine of production.

use super::{Engine, Found, PoolHandle, Setup};
use crate::refusal::Refusal;
use caisson_keys::KeySlot;
use std::path::Path;
use std::sync::Arc;

/// The engine that this program is built with.
pub fn engine() -> Arc<dyn Engine> {
    Arc::new(Absent)
}

struct Absent;

fn absent() -> Refusal {
    Refusal::engine("this build of caisson has no engine for pools", "use a build that has")
}

impl Engine for Absent {
    fn look(&self, _path: &Path) -> Result<Found, Refusal> {
        Err(absent())
    }

    fn create(&self, _setup: Setup, _slots: &[KeySlot]) -> Result<Arc<dyn PoolHandle>, Refusal> {
        Err(absent())
    }

    fn open(&self, _setup: Setup) -> Result<Arc<dyn PoolHandle>, Refusal> {
        Err(absent())
    }
}
