//! Superblock copies that do not name the newest root, written anew before an opened pool writes anything else.
//!
//! A checkpoint writes one copy of every device, and then the other. That leaves each device a whole copy at any moment, as long as
//! the copy that is not being written was whole. On several devices it need not be: one may have lost its first copy and another
//! its second, by rot or because the power failed while they were written, and then whichever comes first is somebody's only
//! one. So both copies of all devices are made to name the newest root first, never the only usable one of a device. A pool of
//! one device needs none of this: it writes over the copy that does not count.

use crate::append::sync_devices;
use crate::checkpoint::write_copy;
use crate::error::OpenError;
use crate::state::Inner;
use caisson_log::{Anchor, Keyring, SUPERBLOCK, SUPERBLOCK_AT, Superblock, XNONCE};
use caisson_tables::planted::{Bug, on};
use caisson_task::Port;
use std::sync::Arc;

/// A copy: the device's number, and 0 or 1.
type Copy = (usize, usize);

/// The copies that are to be written, in two passes: of each device at most one that it can spare, then the rest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Repair([Vec<Copy>; 2]);

impl Repair {
    /// What is to be done for devices with these copies, where `newest` is the highest counter.
    pub(crate) fn plan(keyring: &Keyring, copies: &[[Vec<u8>; 2]], newest: u64) -> Repair {
        let counter = |copy: &Vec<u8>| Superblock::open(keyring, copy).ok().map(|(s, _)| s.counter);
        let counters: Vec<_> = copies.iter().map(|both| [counter(&both[0]), counter(&both[1])]).collect();
        Repair::of(&counters, newest)
    }

    fn of(counters: &[[Option<u64>; 2]], newest: u64) -> Repair {
        let mut repair = Repair::default();
        if counters.len() < 2 || on(Bug::RepairSkipped) {
            return repair;
        }
        for (device, both) in counters.iter().enumerate() {
            // An unusable copy has no counter, which is less than any.
            let first = usize::from(both[1] < both[0]);
            for (pass, copy) in [first, 1 - first].into_iter().enumerate() {
                if both[copy] != Some(newest) {
                    repair.0[pass].push((device, copy));
                }
            }
        }
        repair
    }

    /// Writes them.
    ///
    /// # Errors
    /// [`OpenError::Checkpoint`], when a device cannot be written.
    pub(crate) async fn run(
        self,
        inner: &Arc<Inner>,
        port: &Port,
        mut superblock: Superblock,
        anchor: Anchor,
    ) -> Result<(), OpenError> {
        if self.0.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let failed = |what: String| OpenError::Checkpoint(what);
        // What a process left that was killed may be there without being durable.
        sync_devices(inner, port).await.map_err(failed)?;
        let stores = inner.devices().stores().to_vec();
        for pass in self.0 {
            for (device, copy) in pass {
                superblock.device = device as u32;
                let nonce: [u8; XNONCE] = inner.random();
                let mut bytes = vec![0; SUPERBLOCK];
                let sealed = superblock.seal(&inner.keyring, &anchor, nonce, &mut bytes);
                sealed.map_err(|e| failed(format!("a superblock could not be sealed: {e}")))?;
                let written = write_copy(inner, port, &stores[device], SUPERBLOCK_AT[copy], &bytes).await;
                written.map_err(|error| OpenError::device(&stores[device], error))?;
            }
            sync_devices(inner, port).await.map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_the_only_usable_copy_of_a_device_first() {
        let plan = |counters: &[[Option<u64>; 2]]| Repair::of(counters, 9).0;
        let (now, old) = (Some(9), Some(8));
        assert_eq!(
            plan(&[[now, None]]),
            [vec![], vec![]],
            "one device writes the other copy first by itself"
        );
        assert_eq!(plan(&[[now, now], [now, now]]), [vec![], vec![]]);
        assert_eq!(plan(&[[now, None], [None, now]]), [vec![(0, 1), (1, 0)], vec![]]);
        assert_eq!(plan(&[[now, old], [None, old]]), [vec![(0, 1), (1, 0)], vec![(1, 1)]]);
        assert_eq!(plan(&[[old, Some(7)], [old, now]]), [vec![(0, 1), (1, 0)], vec![(0, 0)]]);
        assert_eq!(plan(&[[None, None], [now, now]]), [vec![(0, 0)], vec![(0, 1)]]);
    }
}
