//! The volumes of a pool: made, copied, changed, deleted.
//!
//! Every change is published in the log like any other and is durable when its function returns.

use crate::append::{durable, kick};
use crate::error::ChangeError;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::space::{Admit, Who};
use crate::state::{Inner, State};
use crate::volume::{PoolVolume, Shared};
use caisson_keys::POOL_DOMAIN;
use caisson_tables::{VolumeChange, VolumeError, VolumeId, VolumeRecord};
use caisson_task::Port;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

impl Pool {
    /// Makes a volume, and makes that durable.
    ///
    /// # Errors
    /// Each [`ChangeError`].
    pub async fn create_volume(
        &self,
        port: &Port,
        name: &str,
        bytes: u64,
        settings: Settings,
    ) -> Result<VolumeId, ChangeError> {
        check_size(bytes)?;
        let usable = |d: &crate::domains::Domain| d.in_use() && !d.coming && !d.tenant.is_gone();
        if settings.domain == POOL_DOMAIN || !self.0.lock().domains.get(settings.domain).is_some_and(usable) {
            return Err(ChangeError::NoDomain(settings.domain.to_string()));
        }
        self.change(port, |next| {
            let name = name.to_owned();
            VolumeChange::Create { id: next, name, bytes, settings: settings.encode() }
        })
        .await
    }

    /// Makes a snapshot (read-only) or clone of a volume, at once, and makes that durable.
    ///
    /// # Errors
    /// Each [`ChangeError`].
    pub async fn snapshot(
        &self,
        port: &Port,
        of: &str,
        name: &str,
        read_only: bool,
    ) -> Result<VolumeId, ChangeError> {
        let (id, settings, tail) = {
            let state = self.0.lock();
            let record = named(&state, of)?;
            let domain = Settings::decode(&record.settings).map(|s| s.domain);
            if domain.is_some_and(|d| !state.domains.in_use(d)) {
                return Err(ChangeError::Domain("the keys of the volume's domain are destroyed"));
            }
            (record.id, record.settings.clone(), record.tail > record.blocks)
        };
        if tail {
            // A resize was cut short by a crash. What it left is unmapped first.
            let volume = self.volume(of)?;
            let range = caisson_task::Range {
                from: volume.0.bytes.load(Ordering::Acquire),
                to: u64::MAX,
                alone: true,
            };
            let _claim = port.claim(&volume.0.claims, [range, caisson_task::Range::default()]).await;
            self.trim_tail(port, id).await?;
        }
        self.change(port, |next| {
            let (name, settings) = (name.to_owned(), settings.clone());
            VolumeChange::Snapshot { of: id, id: next, name, settings, read_only }
        })
        .await
    }

    /// Deletes a volume that is not in use: its name is free at once, its space comes back in the background.
    ///
    /// # Errors
    /// Each [`ChangeError`].
    pub async fn delete_volume(&self, port: &Port, name: &str) -> Result<(), ChangeError> {
        let id = named(&self.0.lock(), name)?.id;
        let held = self.0.volumes().get(&id).is_some_and(|v| v.strong_count() > 0);
        if held {
            return Err(ChangeError::InUse(name.to_owned()));
        }
        self.0.volumes().remove(&id);
        self.change(port, |_| VolumeChange::Delete { id }).await?;
        self.0.call_steward();
        Ok(())
    }

    /// Gives a volume another name.
    ///
    /// # Errors
    /// Each [`ChangeError`].
    pub async fn rename_volume(&self, port: &Port, name: &str, new: &str) -> Result<(), ChangeError> {
        let id = named(&self.0.lock(), name)?.id;
        self.change(port, |_| VolumeChange::Rename { id, name: new.to_owned() }).await.map(drop)
    }

    /// Gives a volume another size. What is cut off is gone.
    ///
    /// # Errors
    /// Each [`ChangeError`].
    pub async fn resize_volume(&self, port: &Port, name: &str, bytes: u64) -> Result<(), ChangeError> {
        check_size(bytes)?;
        let volume = self.volume(name)?;
        let shared = &volume.0;
        // Nothing is under way in what is cut off, and nothing comes.
        let from = bytes.min(shared.bytes.load(Ordering::Acquire));
        let range = caisson_task::Range { from, to: u64::MAX, alone: true };
        let _claim = port.claim(&shared.claims, [range, caisson_task::Range::default()]).await;
        self.trim_tail(port, shared.id).await?;
        self.change(port, |_| VolumeChange::Resize { id: shared.id, bytes }).await?;
        shared.bytes.store(bytes, Ordering::Release);
        self.trim_tail(port, shared.id).await
    }

    /// Unmaps what a smaller size left.
    async fn trim_tail(&self, port: &Port, id: VolumeId) -> Result<(), ChangeError> {
        crate::reap::trim(&self.0, port, id).await
    }

    /// Changes how a volume keeps its blocks from now on.
    ///
    /// # Errors
    /// Each [`ChangeError`].
    pub async fn set_volume(&self, port: &Port, name: &str, settings: Settings) -> Result<(), ChangeError> {
        let volume = self.volume(name)?;
        if volume.0.settings.load().block_size != settings.block_size {
            return Err(ChangeError::Settings("a volume's block size never changes"));
        }
        if volume.0.settings.load().domain != settings.domain {
            return Err(ChangeError::Settings("a volume's domain never changes"));
        }
        let id = volume.0.id;
        self.change(port, |_| VolumeChange::SetSettings { id, settings: settings.encode() }).await?;
        volume.0.settings.store(Arc::new(settings));
        Ok(())
    }

    /// A volume to submit requests to.
    ///
    /// # Errors
    /// [`ChangeError::NoVolume`]; [`ChangeError::Settings`] for settings that this version does not know.
    pub fn volume(&self, name: &str) -> Result<PoolVolume, ChangeError> {
        let record = named(&self.0.lock(), name)?.clone();
        self.by_record(&record)
    }

    fn by_record(&self, record: &VolumeRecord) -> Result<PoolVolume, ChangeError> {
        let settings = Settings::decode(&record.settings)
            .ok_or(ChangeError::Settings("the volume has settings that this version does not know"))?;
        let tenant = self.0.lock().domains.get(settings.domain).map(|d| Arc::clone(&d.tenant));
        let tenant = tenant.ok_or_else(|| ChangeError::NoDomain(settings.domain.to_string()))?;
        let mut volumes = self.0.volumes();
        let usable = |shared: &Arc<Shared>| !shared.gone.load(Ordering::Acquire);
        if let Some(shared) = volumes.get(&record.id).and_then(Weak::upgrade).filter(usable) {
            return Ok(PoolVolume(shared));
        }
        let (pool, bytes) = (Arc::clone(&self.0), record.blocks * caisson_block::BLOCK as u64);
        let shared = Arc::new(Shared::new(pool, record.id, (settings, tenant), bytes, record.read_only));
        shared.erasing.store(self.0.lock().domains.erases.empties(record.id), Ordering::Release);
        volumes.insert(record.id, Arc::downgrade(&shared));
        Ok(PoolVolume(shared))
    }

    /// Publishes a change of a volume's record and makes it durable.
    async fn change(
        &self,
        port: &Port,
        make: impl Fn(VolumeId) -> VolumeChange,
    ) -> Result<VolumeId, ChangeError> {
        let (id, batch) = publish(&self.0, port, Who::Anybody, make).await?;
        durable(&self.0, port, batch).await.map_err(|_| self.failed())?;
        Ok(id)
    }

    fn failed(&self) -> ChangeError {
        ChangeError::Failed(self.fault().unwrap_or_default())
    }
}

/// Publishes a change of a volume's record, when there is room; the steward itself, which makes room, does not wait for
/// it. Gives the next free number as it was before, and the batch.
pub(crate) async fn publish(
    inner: &Arc<Inner>,
    port: &Port,
    who: Who,
    make: impl Fn(VolumeId) -> VolumeChange,
) -> Result<(VolumeId, u64), ChangeError> {
    loop {
        if let Some(fault) = inner.fault() {
            return Err(ChangeError::Failed(fault.to_owned()));
        }
        let ticket = port.ticket();
        let done = inner.with(port, |state| {
            if !state.log.has_room(inner.batch_target, 0) {
                state.room.push(port.waiter(ticket));
                return Ok(None);
            }
            match state.space.admit_deletion(&state.log, who) {
                Admit::Go => {}
                Admit::Wait if who == Who::Anybody => {
                    state.room.push(port.waiter(ticket));
                    return Ok(None);
                }
                Admit::Wait | Admit::Full => return Ok(Some(Err(ChangeError::Full))),
            }
            let next = state.tables.next_volume();
            let mut journal = Vec::new();
            let change = make(next);
            if let VolumeChange::Snapshot { of: id, .. } | VolumeChange::Resize { id, .. } = &change
                && state.domains.erases.empties(*id)
            {
                return Ok(Some(Err(ChangeError::Erasing)));
            }
            match state.tables.change_volume(change, &mut journal) {
                Ok(()) => {
                    state.log.journal(&journal);
                    Ok(Some(Ok((next, state.log.last()))))
                }
                Err(VolumeError::Needs(needs)) => Err(needs),
                Err(error) => Ok(Some(Err(ChangeError::Volume(error)))),
            }
        });
        match done.await.map_err(|_| ChangeError::Lost)? {
            Some(outcome) => {
                kick(inner, port.remote());
                return outcome;
            }
            None => {
                kick(inner, port.remote());
                inner.call_steward();
                port.parked(ticket).await;
            }
        }
    }
}

fn check_size(bytes: u64) -> Result<(), ChangeError> {
    let sound = bytes > 0 && bytes.is_multiple_of(caisson_block::BLOCK as u64) && bytes <= 1 << 52;
    if sound { Ok(()) } else { Err(ChangeError::Size { bytes }) }
}

pub(crate) fn named<'a>(state: &'a State, name: &str) -> Result<&'a VolumeRecord, ChangeError> {
    state.tables.volume_named(name).ok_or_else(|| ChangeError::NoVolume(name.to_owned()))
}
