//! A thread without devices, and with nobody to wake: for volumes that answer at once.

use caisson_block::{IoOp, Parked, Remote, Ring};
use std::sync::Arc;

pub struct NoRing;

impl Ring for NoRing {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        Err(op)
    }
}

pub struct NoRemote;

impl Remote for NoRemote {
    fn wake(&self, _: Arc<dyn Parked>, _: u64) {}
}
