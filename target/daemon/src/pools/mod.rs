//! Log-structured pools as the control plane holds them.
//!
//! Owns the seam to the engine ([`Engine`], [`PoolHandle`]), opening a pool with its keys ([`open`]), and the making and
//! deleting of its volumes in two steps, so that a crash leaves neither half ([`LogPool`]). Calls may block for as long as
//! a device or Argon2id takes: they are made from the control plane's threads. No block of a volume is read or written
//! here.

pub mod domains;
#[cfg(test)]
pub(crate) mod fake_for_tests;
#[cfg(test)]
pub(crate) mod faulty_for_tests;
mod keys;
mod log_pool;
pub mod offline;
pub mod open;
mod real;
pub mod rekey;
pub mod retire;
mod status;

pub use log_pool::LogPool;
pub use open::Made;
pub use real::engine;
#[cfg(test)]
pub(crate) use real::engine_over;
pub use status::{
    Activity, Damage, DeviceStatus, Domain, Erase, MapKeys, PoolStatus, Reseal, Scrub, VolumeSpace,
};

use crate::model::{Device, Services};
use crate::refusal::Refusal;
use caisson_keys::{KeySlot, PoolSecrets};
use caisson_volume::Opened;
use std::path::Path;
use std::sync::Arc;

/// A volume as its pool records it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// What the pool does with its blocks.
    pub services: Services,
    /// Whether it is never written to: a snapshot.
    pub read_only: bool,
    /// Whose keys seal it; none for the domain that every pool has.
    pub domain: Option<String>,
}

/// What stands on a device where a pool may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no such file.
    Missing,
    /// Nothing: a file without bytes, or zeroes where a superblock would be.
    Blank,
    /// A pool's device.
    Pool(Plain),
    /// Something else, in words.
    Other(String),
}

/// What a device of a pool says without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The pool.
    pub pool: [u8; 16],
    /// How often its superblock was written: what says more counts.
    pub counter: u64,
    /// Which of the pool's devices it is.
    pub device: u32,
    /// How many devices the pool has.
    pub devices: u32,
    /// Its wrapped keys.
    pub slots: Vec<KeySlot>,
}

/// What a pool is opened or made with.
pub struct Setup {
    /// Its devices, in order. A file that is missing or too small has its size made before.
    pub devices: Vec<Device>,
    /// Its unlocked keys.
    pub secrets: PoolSecrets,
    /// Bytes of memory; 0 is the default.
    pub memory: u64,
}

/// What makes and opens pools.
pub trait Engine: Send + Sync {
    /// Looks at what stands at `path`, without a key and without a lock.
    ///
    /// # Errors
    /// The system's.
    fn look(&self, path: &Path) -> Result<Found, Refusal>;

    /// Makes a pool on devices that are blank, with these wrapped keys in its superblock, and opens it.
    ///
    /// # Errors
    /// A device that is too small or in use; the system's.
    fn create(&self, setup: Setup, slots: &[KeySlot]) -> Result<Arc<dyn PoolHandle>, Refusal>;

    /// Opens a pool, recovering it as far as that is needed.
    ///
    /// # Errors
    /// A device that is missing, in use or of another pool; damage that it cannot be opened with; the system's.
    fn open(&self, setup: Setup) -> Result<Arc<dyn PoolHandle>, Refusal>;
}

/// An open pool.
pub trait PoolHandle: Send + Sync {
    /// Its volumes, by name; those being deleted are not among them.
    fn volumes(&self) -> Vec<Record>;

    /// One of them, by name.
    fn record(&self, name: &str) -> Option<Record> {
        self.volumes().into_iter().find(|r| r.name == name)
    }

    /// Opens a volume. The same one may be opened again.
    ///
    /// # Errors
    /// There is none of that name.
    fn volume(&self, name: &str) -> Result<Opened, Refusal>;

    /// Makes an empty volume; durable when this returns, as are all changes below.
    ///
    /// # Errors
    /// The name is taken; there is no room; the pool has failed.
    fn create(&self, record: &Record) -> Result<(), Refusal>;

    /// Makes a volume with what `of` holds at this moment.
    ///
    /// # Errors
    /// As [`PoolHandle::create`]; there is no volume `of`.
    fn copy(&self, of: &str, name: &str, read_only: bool) -> Result<(), Refusal>;

    /// Gives a volume another name.
    ///
    /// # Errors
    /// There is none of that name, or one of the new name.
    fn rename(&self, from: &str, to: &str) -> Result<(), Refusal>;

    /// Deletes a volume: it is gone at once, its space comes back in the background. It was closed before.
    ///
    /// # Errors
    /// There is none of that name.
    fn delete(&self, name: &str) -> Result<(), Refusal>;

    /// Changes what is done with a volume's blocks, from the next write on.
    ///
    /// # Errors
    /// There is none of that name.
    fn set(&self, name: &str, services: &Services) -> Result<(), Refusal>;

    /// How it is.
    fn status(&self) -> PoolStatus;

    /// Bytes that deleting a volume would give back. Reads the map of what it shares with no other.
    ///
    /// # Errors
    /// There is none of that name; a page of its map is lost.
    fn freed_by_delete(&self, name: &str) -> Result<u64, Refusal>;

    /// Starts a walk over all that is stored, at about `bytes_per_second` (0 stops one that is under way).
    ///
    /// # Errors
    /// The pool has failed.
    fn scrub(&self, bytes_per_second: u64) -> Result<(), Refusal>;

    /// Takes into use what its devices have grown by; gives the bytes won.
    ///
    /// # Errors
    /// The system's.
    fn grow(&self) -> Result<u64, Refusal>;

    /// Takes a blank device into use.
    ///
    /// # Errors
    /// It is too small or in use; the system's.
    fn add_device(&self, device: &Device) -> Result<(), Refusal>;

    /// Its UUID.
    fn id(&self) -> [u8; 16];

    /// Its wrapped keys, as they are stored.
    ///
    /// # Errors
    /// A newer version wrote one of them.
    fn slots(&self) -> Result<Vec<KeySlot>, Refusal>;

    /// Stores these wrapped keys in the place of all that it has: a crash leaves the old ones or these.
    ///
    /// # Errors
    /// They do not fit; the pool has failed.
    fn set_slots(&self, slots: &[KeySlot]) -> Result<(), Refusal>;

    /// The map keys that were erased since this was last asked, by number; for the record.
    fn take_erased_map_keys(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Its domains, by number; those that were destroyed are among them, with epoch 0.
    fn domains(&self) -> Vec<Domain>;

    /// The numbers of the next domain, and of the next key epoch of any domain.
    ///
    /// # Errors
    /// All epochs are used up.
    fn next(&self) -> Result<(u32, u16), Refusal>;

    /// Has a domain seal under another epoch, whose keys `secrets` holds and `slots` wrap with all others.
    ///
    /// # Errors
    /// They do not fit; the pool has failed.
    fn open_epoch(
        &self,
        secrets: PoolSecrets,
        domain: u32,
        epoch: u16,
        slots: &[KeySlot],
    ) -> Result<(), Refusal>;

    /// Makes a domain with its first epoch.
    ///
    /// # Errors
    /// The name is taken; as [`PoolHandle::open_epoch`].
    fn create_domain(
        &self,
        name: &str,
        secrets: PoolSecrets,
        domain: u32,
        epoch: u16,
        slots: &[KeySlot],
    ) -> Result<(), Refusal>;

    /// Erases the keys of a domain, and so all that its volumes hold.
    ///
    /// # Errors
    /// There is none; the pool has failed.
    fn destroy_domain(&self, domain: u32) -> Result<(), Refusal>;

    /// Erases for good what only this volume holds, which is done when [`PoolStatus::erases`] does not name it any more; `last` where
    /// it is deleted then.
    ///
    /// # Errors
    /// There is none of that name; a snapshot that is not deleted; the pool has failed.
    fn erase(&self, name: &str, _last: bool) -> Result<u32, Refusal> {
        Err(Refusal::conflict(format!("volume {name} has no keys to be erased"), "delete it"))
    }

    /// What is being erased.
    fn erases(&self) -> Vec<Erase> {
        Vec::new()
    }

    /// Domains that have to begin another epoch for that.
    fn erases_due(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Says why a domain's next epoch, which erases wait for, does not begin; nothing when it did.
    fn erase_refused(&self, _domain: u32, _why: Option<String>) {}

    /// Ends it: what was written is durable, and the next opening has nothing to recover. Volumes were closed before.
    ///
    /// # Errors
    /// The system's.
    fn close(&self) -> Result<(), Refusal>;
}
