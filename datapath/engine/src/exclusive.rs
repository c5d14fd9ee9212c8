//! What the deletion of a volume would give back.

use crate::error::ChangeError;
use crate::pool::Pool;
use crate::volumes::named;
use caisson_tables::Exclusive;
use caisson_task::Port;

/// Blocks with several references that are counted in one pass, at some 40 bytes each.
const COUNTED: usize = 256 << 10;

impl Pool {
    /// Bytes that deleting a volume would free: of the blocks that nobody else has, and of the pages that lead to them.
    /// Reads the whole map of what is not shared. Exact when nothing changes meanwhile.
    ///
    /// # Errors
    /// [`ChangeError::NoVolume`]; [`ChangeError::Lost`] when a page of the map cannot be had.
    pub async fn exclusive_bytes(&self, port: &Port, name: &str) -> Result<u64, ChangeError> {
        let id = named(&self.0.lock(), name)?.id;
        let mut count = Exclusive::new(id, COUNTED);
        loop {
            let step = self.0.with(port, |state| count.step(&mut state.tables)).await;
            if let Some(bytes) = step.map_err(|_| ChangeError::Lost)? {
                return Ok(bytes);
            }
            port.pause().await;
        }
    }
}
