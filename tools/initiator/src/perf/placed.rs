//! What a lane has of an RDMA connection: the queue pair, and the registered memory that its commands name.

use crate::error::Result;
use crate::transport::Rdma;
use caisson_verbs::host::Memory;
use caisson_wire::{Sgl, Sqe};
use std::sync::Arc;

/// A queue pair and the lane's memory as the target sees it: first what the lane writes from, then, where writes share that,
/// a block for the read of each slot.
pub(super) struct Placed {
    pub(super) rdma: Rdma,
    memory: Arc<Memory>,
    reads_at: usize,
}

impl Placed {
    /// Registers memory that begins with a copy of `payload`; with `shared`, there are `depth` blocks of `block` bytes behind.
    pub(super) fn new(rdma: Rdma, payload: &[u8], shared: bool, depth: u32, block: u32) -> Result<Placed> {
        let reads_at = if shared { payload.len().next_multiple_of(4096) } else { 0 };
        let reads = if shared { depth as usize * block as usize } else { payload.len() };
        let memory = rdma.memory(reads_at + reads)?;
        memory.write(0, payload);
        Ok(Placed { rdma, memory, reads_at })
    }

    /// Has the target see `bytes` at `at`.
    #[inline]
    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write(at as usize, bytes);
    }

    /// What the target has put at `at`.
    pub(super) fn get(&self, at: u64, into: &mut [u8]) {
        self.memory.read(at as usize, into);
    }

    /// Makes the capsule of a command that moves `block` bytes: of a write from `at` on, in the capsule where `inside` says
    /// so; of a read to the place of slot `cid`.
    #[inline]
    pub(super) fn command(&mut self, mut sqe: Sqe, write: bool, at: u64, block: u32, inside: bool) {
        let at =
            if write { at as usize } else { self.reads_at + usize::from(sqe.cid.get()) * block as usize };
        let mut part = None;
        if inside {
            sqe.sgl = Sgl::in_capsule(0, block);
            part = Some((&self.memory, at, block as usize));
        } else {
            sqe.sgl = Sgl::keyed(self.memory.address() + at as u64, block, self.memory.key(), false);
        }
        let made = self.rdma.command(&sqe, part);
        debug_assert!(made, "room was asked for");
    }
}
