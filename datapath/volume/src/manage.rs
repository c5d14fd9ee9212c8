//! How volumes are opened, and the handle by which the management plane holds them.

use crate::direct::Direct;
use crate::file::FileVolume;
use crate::sidecar::{Keeper, Sidecar};
use caisson_block::Volume;
use caisson_device::{Buffers, FileError, FileKind, FileStore, Memory, NullStore, RamStore, Size, StoreSpec};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long management waits for requests under way.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What is chosen when a volume is opened.
#[derive(Clone)]
pub struct Options {
    /// Logical block size in bytes: 512 or 4096.
    pub block_size: u32,
    /// The size of a file that does not exist yet, which is then made. An existing one keeps its size.
    pub size: Option<Size>,
    /// For files and block devices: a plain write completes when the device has taken it (volatile write cache). When
    /// false, every write is durable before it completes.
    pub write_cache: bool,
    /// Buffers for device I/O; those that the process shares when not given.
    pub buffers: Option<Buffers>,
}

impl Default for Options {
    fn default() -> Options {
        Options { block_size: 4096, size: None, write_cache: true, buffers: None }
    }
}

/// An open volume: what controllers submit to, and what the management plane keeps.
#[derive(Clone)]
pub struct Opened {
    /// For namespaces.
    pub volume: Arc<dyn Volume>,
    /// For management.
    pub manage: Arc<dyn Manage>,
}

/// The management plane's handle of a volume. All calls may block and are made from threads that may.
pub trait Manage: Send + Sync {
    /// Makes it `blocks` logical blocks long. What is cut off is gone; what is added reads as zeroes. The caller tells
    /// the namespaces.
    ///
    /// # Errors
    /// [`ManageError::Size`] for zero or more than can be addressed; [`ManageError::Fixed`] when the store cannot
    /// change its size; [`ManageError::Store`] when it failed to.
    fn resize(&self, blocks: u64) -> Result<(), ManageError>;

    /// Makes everything that was completed before durable.
    ///
    /// # Errors
    /// [`ManageError::Store`].
    fn sync(&self) -> Result<(), ManageError>;

    /// Ends the volume: requests that come from now on are answered with [`caisson_block::BlockError::Gone`], those
    /// under way are waited for (a bounded time), and everything is made durable. Locks are given up when the last
    /// holder of the volume lets go of it.
    ///
    /// # Errors
    /// [`ManageError::Busy`] when requests were still under way after that time; [`ManageError::Store`].
    fn close(&self) -> Result<(), ManageError>;

    /// Requests that were submitted and are not completed.
    fn in_flight(&self) -> u64;
}

/// Why a management call failed.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// No such size.
    #[error("a volume cannot have {blocks} blocks")]
    Size {
        /// What was asked for.
        blocks: u64,
    },
    /// The store's size is given by something else.
    #[error("the size of this volume is that of its device and cannot be set: {reason}")]
    Fixed {
        /// What decides, and what to do.
        reason: String,
    },
    /// Requests did not end in time.
    #[error("{in_flight} requests were still under way after {seconds} s")]
    Busy {
        /// How many.
        in_flight: u64,
        /// How long was waited.
        seconds: u64,
    },
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(#[source] io::Error),
}

/// The requests of a volume that are under way.
#[derive(Clone, Default)]
pub(crate) struct UnderWay(Arc<AtomicU64>);

/// Counts a request as under way until dropped.
pub(crate) struct InFlight(UnderWay);

impl UnderWay {
    /// One more.
    pub(crate) fn begin(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Waits until there are none. Blocks.
    ///
    /// # Errors
    /// [`ManageError::Busy`].
    pub(crate) fn wait(&self) -> Result<(), ManageError> {
        let end = Instant::now() + PATIENCE;
        while self.count() > 0 {
            if Instant::now() > end {
                return Err(self.busy());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// That they took too long.
    pub(crate) fn busy(&self) -> ManageError {
        ManageError::Busy { in_flight: self.count(), seconds: PATIENCE.as_secs() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why a volume cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not 512 or 4096.
    #[error("a logical block of {0} bytes is not supported: choose 512 or 4096")]
    BlockSize(u32),
    /// The store's size is not a whole number of blocks.
    #[error("a size of {bytes} bytes is not a multiple of the block of {block_size} bytes: {remedy}")]
    Partial {
        /// The store's size.
        bytes: u64,
        /// The logical block's, or that of the device where it is larger.
        block_size: u32,
        /// What to do.
        remedy: String,
    },
    /// The store in memory cannot be made.
    #[error("cannot reserve {size} of memory: {source}")]
    Memory {
        /// What was asked for.
        size: Size,
        /// Why not.
        source: io::Error,
    },
    /// The file or block device cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The buffers for device I/O, or the set of unreadable blocks, cannot be had.
    #[error("{0}")]
    Setup(#[source] io::Error),
}

/// log2 of the logical block size.
fn shift(options: &Options) -> Result<u32, OpenError> {
    match options.block_size {
        512 => Ok(9),
        4096 => Ok(12),
        other => Err(OpenError::BlockSize(other)),
    }
}

/// Checks that a store of `bytes` is a whole number of blocks, and of the units that its device moves.
fn whole(bytes: u64, shift: u32, unit: u32) -> Result<(), OpenError> {
    let block = u64::from(unit.max(1 << shift));
    if bytes > 0 && bytes.is_multiple_of(block) {
        return Ok(());
    }
    let (down, up) = (bytes / block * block, bytes.next_multiple_of(block));
    let remedy = if down == 0 { format!("use {up}") } else { format!("use {down} or {up}") };
    Err(OpenError::Partial { bytes, block_size: block as u32, remedy })
}

/// A plain volume over a store in memory.
///
/// # Errors
/// [`OpenError::BlockSize`], [`OpenError::Partial`].
pub fn open_memory<S: Memory>(store: S, options: &Options) -> Result<Opened, OpenError> {
    let shift = shift(options)?;
    whole(store.size(), shift, 1)?;
    let volume = Arc::new(Direct::new(store, shift));
    Ok(Opened { volume: volume.clone(), manage: volume })
}

/// A plain volume over the store that `spec` names.
///
/// # Errors
/// Each [`OpenError`].
pub fn open(spec: &StoreSpec, options: &Options) -> Result<Opened, OpenError> {
    match spec {
        StoreSpec::Ram(size) => {
            whole(size.bytes(), shift(options)?, 1)?;
            let store =
                RamStore::new(size.bytes()).map_err(|source| OpenError::Memory { size: *size, source })?;
            open_memory(store, options)
        }
        StoreSpec::Null(size) => open_memory(NullStore::new(size.bytes()), options),
        StoreSpec::Path(path) => open_file(path, options),
    }
}

/// A plain volume over the file or block device `path`. Its unreadable blocks are kept beside a file, in
/// `PATH.unreadable`; a block device has no place for them, and they are forgotten when the volume is closed.
fn open_file(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    let shift = shift(options)?;
    if let Some(size) = options.size {
        whole(size.bytes(), shift, 1)?;
    }
    let store = FileStore::open(path, options.size)?;
    whole(store.size(), shift, store.alignment().offset)?;
    let buffers = match &options.buffers {
        Some(buffers) => buffers.clone(),
        None => Buffers::shared().map_err(OpenError::Setup)?,
    };
    let keeper: Option<Arc<dyn Keeper>> = match store.kind() {
        FileKind::Regular => Some(Arc::new(Sidecar::beside(path))),
        FileKind::Block => None,
    };
    let volume = FileVolume::new(store, buffers, shift, options.write_cache, keeper);
    let volume = Arc::new(volume.map_err(OpenError::Setup)?);
    Ok(Opened { volume: volume.clone(), manage: volume })
}
