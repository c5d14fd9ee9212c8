//! Giving back what deleted and shortened volumes held, a bounded piece at a time.

use crate::domains::Domain;
use crate::error::ChangeError;
use crate::map::{unmap, unmap_for_now};
use crate::settings::Settings;
use crate::space::Who;
use crate::state::Inner;
use crate::volumes::publish;
use caisson_tables::{VolumeChange, VolumeId, VolumeRecord};
use caisson_task::Port;
use std::sync::Arc;

/// Blocks of a deleted volume that one step handles at most.
const STEP: u64 = 1 << 20;

/// Unmaps what a smaller size left of a volume, if anything.
///
/// # Errors
/// [`ChangeError::Full`], [`ChangeError::Failed`], [`ChangeError::Lost`].
pub(crate) async fn trim(inner: &Arc<Inner>, port: &Port, id: VolumeId) -> Result<(), ChangeError> {
    let (from, to) = {
        let state = inner.lock();
        let Some(record) = state.tables.volume(id) else { return Ok(()) };
        (record.blocks, record.tail)
    };
    if to <= from {
        return Ok(());
    }
    unmap(inner, port, id, from, to - from, Who::Anybody).await?;
    publish(inner, port, Who::Anybody, |_| VolumeChange::Trimmed { id }).await.map(drop)
}

/// A volume that is being deleted, if there is one; else one that is being erased, or whose domain is destroyed and that still holds
/// something.
pub(crate) fn dying(inner: &Inner) -> Option<VolumeId> {
    let mut state = inner.lock();
    state.erase_deleted();
    let dying = state.tables.volumes().find(|v| v.dying).map(|v| v.id);
    let lost = || {
        // All but the pool's own domain and a first one is seldom.
        if !state.domains.all().any(|(_, d)| d.erased()) {
            return None;
        }
        let cleared = |v: &VolumeRecord| state.steward.cleared.contains(&v.id);
        let of = |v: &VolumeRecord| Settings::decode(&v.settings).map(|s| s.domain);
        let gone = |v: &VolumeRecord| of(v).is_some_and(|d| state.domains.get(d).is_some_and(Domain::erased));
        state.tables.volumes().find(|v| v.root.is_some() && gone(v) && !cleared(v)).map(|v| v.id)
    };
    dying.or_else(|| state.domains.erases.to_empty()).or_else(lost)
}

/// Where the deletion of a volume stands.
#[derive(Default)]
pub(crate) struct Reaper {
    volume: Option<VolumeId>,
    next: u64,
}

impl Reaper {
    /// A piece of the deletion of `id`. True when it is gone.
    ///
    /// # Errors
    /// As [`trim`].
    pub(crate) async fn step(
        &mut self,
        inner: &Arc<Inner>,
        port: &Port,
        id: VolumeId,
    ) -> Result<bool, ChangeError> {
        if self.volume != Some(id) {
            *self = Reaper { volume: Some(id), next: 0 };
        }
        let (end, dying) = {
            let state = inner.lock();
            let Some(record) = state.tables.volume(id) else { return Ok(true) };
            (record.blocks.max(record.tail), record.dying)
        };
        if self.next < end {
            let count = STEP.min(end - self.next);
            let unmapped = unmap_for_now(inner, port, id, self.next, count).await;
            inner.lock().domains.erases.emptied_to(id, (self.next, end), unmapped.err());
            self.next = unmapped?;
            return Ok(false);
        }
        inner.lock().steward.unmapped = true;
        *self = Reaper::default();
        if dying {
            publish(inner, port, Who::Steward, |_| VolumeChange::Forget { id }).await?;
        } else if !crate::erase::emptied(inner, port, id).await? {
            inner.lock().steward.cleared.insert(id);
        }
        Ok(true)
    }
}
