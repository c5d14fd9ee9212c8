//! Why a pool is not made, not opened or not changed. Every error says what to do, where something can be done.

use caisson_block::BlockError;
use caisson_device::{FileStore, StoreError};
use caisson_log::{ChooseError, ExtentError, PlainError, PoolId, SlotError};
use caisson_tables::{PageKey, Place, RootError, VolumeError};
use std::sync::Arc;

/// Why a pool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither superblock of a device can be read.
    #[error("no pool is there: the first superblock: {first}; the second: {second}")]
    NoSuperblock {
        /// What is wrong with the first.
        first: PlainError,
        /// What is wrong with the second.
        second: PlainError,
    },
    /// Neither superblock of a device can be used with these keys.
    #[error("{0}. Is it the right key?")]
    Superblocks(#[from] ChooseError),
    /// None of the devices has a superblock that counts.
    #[error("no device has a superblock that can be used")]
    Nothing,
    /// A device failed.
    #[error("{path}: {error}: {reason}")]
    Device {
        /// Which.
        path: String,
        /// What it answered.
        error: StoreError,
        /// In words.
        reason: String,
    },
    /// A device failed on reading a segment.
    #[error("segment {segment} cannot be read from {path}: {error}")]
    Read {
        /// Which device.
        path: String,
        /// Which.
        segment: u32,
        /// What the device answered.
        error: StoreError,
    },
    /// The devices given are not those of the pool.
    #[error("the pool has {want} devices, {have} were given; name all of them, in any order")]
    Devices {
        /// How many it has.
        want: usize,
        /// How many were given.
        have: usize,
    },
    /// A device was to join the pool and never did.
    #[error(
        "{path} was to join the pool, and that was interrupted: it is none of the pool's devices and holds nothing. \
         Open the pool without it; it can be added again"
    )]
    NotListed {
        /// Which.
        path: String,
    },
    /// A device was left behind: an old copy of it, or one that another was taken into the pool instead of.
    #[error(
        "{path} is not what the pool left there: {behind} checkpoints are missing on it. Is it an old copy?"
    )]
    Stale {
        /// Which.
        path: String,
        /// How many checkpoints the others are ahead.
        behind: u64,
    },
    /// A device belongs to another pool.
    #[error("{path} belongs to another pool, {pool}")]
    OtherPool {
        /// Which device.
        path: String,
        /// Whose it is.
        pool: PoolId,
    },
    /// A device is shorter than the pool says.
    #[error("{path} is {size} bytes long and should be {want}: it was cut off, or is another one")]
    Short {
        /// Which.
        path: String,
        /// How long it is.
        size: u64,
        /// How long it should be.
        want: u64,
    },
    /// Something points outside of the pool.
    #[error("segment {segment} is not in the pool")]
    Outside {
        /// Which.
        segment: u32,
    },
    /// The root is damaged.
    #[error("the pool's root at segment {segment}, byte {offset} is damaged: {what}")]
    Root {
        /// Where.
        segment: u32,
        /// Where in it.
        offset: u32,
        /// What is wrong.
        what: String,
    },
    /// The root's tables are none.
    #[error("the pool's tables are damaged: {0}")]
    Tables(#[from] RootError),
    /// A page of the tables is damaged.
    #[error("page {key:?} of the tables, at segment {}, byte {}, is damaged", place.segment, place.offset)]
    Page {
        /// Which.
        key: PageKey,
        /// Where.
        place: Place,
    },
    /// The log cannot be replayed.
    #[error("batch {batch} of the log cannot be replayed: {what}")]
    Replay {
        /// Which.
        batch: u64,
        /// Why not.
        what: String,
    },
    /// A part of the log that was durable is missing.
    #[error(
        "batch {missing} of the log is damaged or missing, though batch {witness} says that it was durable"
    )]
    Damaged {
        /// The first that is missing.
        missing: u64,
        /// The one that says so.
        witness: u64,
    },
    /// The keys do not fit.
    #[error("the keys do not fit: {0}")]
    Keys(String),
    /// Buffers could not be had.
    #[error("memory for buffers cannot be had: {0}")]
    Memory(#[from] std::io::Error),
    /// The first checkpoint failed.
    #[error("the pool's state cannot be written: {0}")]
    Checkpoint(String),
}

impl OpenError {
    pub(crate) fn device(store: &Arc<FileStore>, error: StoreError) -> OpenError {
        let reason = store.fault().unwrap_or_default();
        OpenError::Device { path: store.path().display().to_string(), error, reason }
    }
}

/// Why a pool is not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Too small.
    #[error("a pool needs {least} bytes at least; these devices have {have}")]
    Small {
        /// What it needs.
        least: u64,
        /// What is there.
        have: u64,
    },
    /// Something stands on a device.
    #[error(
        "{path} is not empty: its first MiB holds data{what}. Erase it first if that is not needed (wipefs, or truncate for a file)"
    )]
    InUse {
        /// Which.
        path: String,
        /// What was recognised.
        what: &'static str,
    },
    /// Options that do not fit together.
    #[error("{0}")]
    Options(String),
    /// What also opening meets.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Why a pool or a volume was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The tables refuse it.
    #[error(transparent)]
    Volume(VolumeError),
    /// There is no volume of that name.
    #[error("there is no volume {0:?} in the pool")]
    NoVolume(String),
    /// The size is none.
    #[error("a volume of {bytes} bytes cannot be: use a multiple of 4096, at most 2^52")]
    Size {
        /// What was asked for.
        bytes: u64,
    },
    /// A setting that cannot change.
    #[error("{0}")]
    Settings(&'static str),
    /// It is in use.
    #[error("volume {0:?} is in use: remove its namespaces first")]
    InUse(String),
    /// A device cannot join.
    #[error("{path} cannot join the pool: {what}")]
    Device {
        /// Which.
        path: String,
        /// Why not.
        what: String,
    },
    /// The pool cannot be laid out so.
    #[error("the pool cannot grow so: {0}")]
    Layout(ExtentError),
    /// There is no such domain that can be used.
    #[error("the pool has no domain {0} that can be used")]
    NoDomain(String),
    /// The domain or epoch cannot be so.
    #[error("{0}")]
    Domain(&'static str),
    /// The key slots cannot be stored.
    #[error(transparent)]
    Slots(SlotError),
    /// It is being erased.
    #[error("the volume's content is being erased: wait until that is done")]
    Erasing,
    /// The pool has no room for it.
    #[error("the pool is full")]
    Full,
    /// The pool has failed.
    #[error("the pool has failed: {0}")]
    Failed(String),
    /// A page of the tables is lost.
    #[error("a page of the tables that this needs cannot be read")]
    Lost,
}

impl From<BlockError> for ChangeError {
    fn from(error: BlockError) -> ChangeError {
        match error {
            BlockError::CapacityExceeded => ChangeError::Full,
            BlockError::Unreadable { .. } => ChangeError::Lost,
            other => ChangeError::Failed(other.to_string()),
        }
    }
}
