//! What deleting a volume would free.

use crate::tables::Tables;
use crate::types::{Needs, VolumeId};

/// A count under way of what deleting a volume would free. Exact if nothing changes meanwhile.
pub struct Exclusive;

impl Exclusive {
    /// Begins. `memory` ids of blocks with several references are held at most; more of them take more passes.
    pub fn new(volume: VolumeId, memory: usize) -> Exclusive {
        let _ = (volume, memory);
        unreachable!()
    }

    /// Does a bounded piece of work; `Some` when done, with the bytes (tags included) that deleting it would free.
    pub fn step(&mut self, tables: &mut Tables) -> Result<Option<u64>, Needs> {
        let _ = tables;
        unreachable!()
    }
}
