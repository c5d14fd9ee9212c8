//! The pool's wrapped keys: which there are, and others in their place.
//!
//! Owns that a change of key slots is one write of the superblocks: whatever stops in between, the pool has the old slots or the
//! new ones, each whole. It must never look into a slot: what unwraps is the key layer's business.

use crate::checkpoint::{alone, checkpoint_held};
use crate::error::ChangeError;
use crate::pool::{Pool, change_failure};
use caisson_log::{KeySlot, check_slots};
use caisson_task::Port;

impl Pool {
    /// The key slots as the next superblock has them; durable unless [`Pool::set_slots`] is under way.
    pub fn slots(&self) -> Vec<KeySlot> {
        self.0.lock().checkpoints.superblock.slots.clone()
    }

    /// Puts `slots` in the place of the pool's key slots. They are durable, in both copies on every device, when this returns;
    /// where it fails, a device may have them.
    ///
    /// # Errors
    /// [`ChangeError::Slots`] where they do not fit, with nothing changed; [`ChangeError::Full`], [`ChangeError::Failed`].
    pub async fn set_slots(&self, port: &Port, slots: Vec<KeySlot>) -> Result<(), ChangeError> {
        check_slots(&slots).map_err(ChangeError::Slots)?;
        let inner = &self.0;
        let _alone = alone(inner, port).await;
        let slots = inner.lock().held(slots, None)?;
        if let Some(fault) = inner.fault() {
            return Err(ChangeError::Failed(fault.to_owned()));
        }
        let old = std::mem::replace(&mut inner.lock().checkpoints.superblock.slots, slots);
        checkpoint_held(inner, port, false).await.map_err(|failure| {
            // Not written, or the pool has failed and writes no more.
            inner.lock().checkpoints.superblock.slots = old;
            change_failure(failure)
        })
    }
}
