//! A log-structured pool's volumes, made and deleted in two steps.
//!
//! A volume that is being made or deleted is called `~NAME` in the pool, which no configured volume can be: whether it is to be
//! there is what the state says, and [`LogPool::settle`] goes by that at start. It gets its own name once the state names it, and
//! loses it before the state forgets it. (A folder's volumes have a marker file for the same; see [`crate::pool`].)

use super::domains::DEFAULT_DOMAIN;
use super::{PoolHandle, Record};
use crate::model::{Services, Volume};
use crate::refusal::{Cause, Refusal};
use caisson_volume::Opened;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long deleting waits for those who still hold the volume.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// An open pool under its configured name.
#[derive(Clone)]
pub struct LogPool {
    name: String,
    /// The pool itself.
    pub handle: Arc<dyn PoolHandle>,
}

fn doubtful(volume: &str) -> String {
    format!("~{volume}")
}

impl LogPool {
    /// The pool called `name`.
    pub fn new(name: &str, handle: Arc<dyn PoolHandle>) -> LogPool {
        LogPool { name: name.into(), handle }
    }

    /// Whether there is a volume of that name.
    pub fn has(&self, volume: &str) -> bool {
        self.handle.record(volume).is_some()
    }

    /// Ends what a crash interrupted: volumes that `wanted` names stay, others that were being made or deleted go. A volume
    /// that nobody names and that is not in doubt is left alone, and its name returned.
    ///
    /// # Errors
    /// The pool's.
    pub fn settle(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, Refusal> {
        let all = self.handle.volumes();
        for record in &all {
            let Some(volume) = record.name.strip_prefix('~') else { continue };
            let stays = wanted(volume) && !all.iter().any(|r| r.name == volume);
            if stays {
                self.handle.rename(&record.name, volume)?;
            } else {
                self.handle.delete(&record.name)?;
            }
            let how = if stays { "is kept" } else { "is gone" };
            tracing::info!(pool = self.name, "ended what an earlier stop interrupted: volume {volume} {how}");
        }
        let names = all.into_iter().map(|r| r.name);
        Ok(names.filter(|n| !n.starts_with('~') && !wanted(n)).collect())
    }

    /// Opens a volume that there is, and makes it do with its blocks what is configured.
    ///
    /// # Errors
    /// It has another block size; the pool's.
    pub fn open(&self, v: &Volume) -> Result<Opened, Refusal> {
        let record = self.handle.record(&v.name).ok_or_else(|| self.lost(&v.name))?;
        if record.block_size != v.block_size {
            return Err(Refusal::conflict(
                format!("volume {} has blocks of {}, not of {}", v.name, record.block_size, v.block_size),
                format!("configure block_size = {}", record.block_size),
            ));
        }
        let is_in = record.domain.as_deref().unwrap_or(DEFAULT_DOMAIN);
        if v.domain.as_ref().is_some_and(|domain| domain != is_in) {
            return Err(Refusal::conflict(
                format!(
                    "volume {} is in the domain {} of the pool {}, not in {}",
                    v.name,
                    is_in,
                    self.name,
                    v.domain.as_deref().unwrap_or(DEFAULT_DOMAIN)
                ),
                "a volume's domain never changes: make another volume, and copy the data",
            ));
        }
        if let Some(services) = v.services
            && record.services != services
        {
            self.handle.set(&v.name, &services)?;
        }
        self.handle.volume(&v.name)
    }

    /// A volume that was made by an earlier run is not there.
    pub fn lost(&self, volume: &str) -> Refusal {
        Refusal::not_found(
            format!("the pool {} holds no volume {volume}, though one was made", self.name),
            "see that this is the right pool and no old copy of it; to do without the volume, remove it from the state file",
        )
    }

    /// Makes a new volume, in doubt until [`LogPool::keep`].
    ///
    /// # Errors
    /// The pool holds one of that name; it has no size; the pool's.
    pub fn make(&self, v: &Volume) -> Result<Opened, Refusal> {
        if self.has(&v.name) {
            return Err(Refusal::conflict(
                format!("the pool {} holds a volume {} that is not configured", self.name, v.name),
                format!(
                    "take it over with `caisson volume create {} --adopt --pool {}`, or choose another name",
                    v.name, self.name
                ),
            ));
        }
        let doubtful = doubtful(&v.name);
        if self.has(&doubtful) {
            self.handle.delete(&doubtful)?;
        }
        let services = v.services.unwrap_or_default();
        match &v.origin {
            Some(origin) => {
                self.handle.copy(&origin.volume, &doubtful, origin.read_only)?;
                self.set_unless(&doubtful, &services)?;
            }
            None if v.size == 0 => {
                return Err(Refusal::invalid(
                    format!("volume {} is new and has no size", v.name),
                    "give it one: --size 10G",
                ));
            }
            None => self.handle.create(&Record {
                name: doubtful.clone(),
                size: v.size,
                block_size: v.block_size,
                services,
                read_only: false,
                domain: v.domain.clone(),
            })?,
        }
        self.handle.volume(&doubtful).inspect_err(|_| self.unmake(&v.name))
    }

    fn set_unless(&self, name: &str, services: &Services) -> Result<(), Refusal> {
        match self.handle.record(name) {
            Some(record) if record.services != *services => self.handle.set(name, services),
            _ => Ok(()),
        }
    }

    /// What [`LogPool::make`] made, or what [`LogPool::begin_delete`] was to delete, stays: the state names it.
    pub fn keep(&self, volume: &str) {
        let doubtful = doubtful(volume);
        if self.has(&doubtful)
            && let Err(error) = self.handle.rename(&doubtful, volume)
        {
            tracing::warn!(%error, volume, "the volume keeps a name of its own in the pool until the next start");
        }
    }

    /// Takes back what [`LogPool::make`] made.
    pub fn unmake(&self, volume: &str) {
        self.end_delete(volume);
    }

    /// Begins the deletion of a volume, before the state forgets it. [`LogPool::keep`] takes that back.
    ///
    /// # Errors
    /// The pool's.
    pub fn begin_delete(&self, volume: &str) -> Result<(), Refusal> {
        // Left over from a deletion that failed at its end.
        self.end_delete(volume);
        self.handle.rename(volume, &doubtful(volume))
    }

    /// Ends a deletion, after the state has forgotten the volume.
    pub fn end_delete(&self, volume: &str) {
        let doubtful = doubtful(volume);
        if !self.has(&doubtful) {
            return;
        }
        // Queues let go of a removed namespace's volume at their next turn.
        let end = Instant::now() + PATIENCE;
        let error = loop {
            match self.handle.delete(&doubtful) {
                Ok(()) => return,
                Err(e) if e.cause == Cause::Busy && Instant::now() < end => std::thread::sleep(PAUSE),
                Err(e) => break e,
            }
        };
        tracing::warn!(%error, volume, "a deleted volume stays in its pool until the next start");
    }
}
