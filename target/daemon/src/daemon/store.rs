//! What volumes are in: a folder of sparse files, or a log-structured pool; and volumes that have a file, a device or memory
//! of their own.

use crate::model::text::format_size;
use crate::model::{Backing, Volume};
use crate::pool::Pool;
use crate::pools::LogPool;
use crate::refusal::{Cause, Refusal};
use caisson_device::{Size, StoreSpec};
use caisson_volume::{OpenError, Opened, Options};

/// A pool of either kind. What its methods promise is said at [`Pool`].
pub(super) enum Store {
    Folder(Pool),
    Log(LogPool),
}

impl Store {
    pub(super) fn has(&self, volume: &str) -> bool {
        match self {
            Store::Folder(p) => p.has(volume),
            Store::Log(p) => p.has(volume),
        }
    }

    /// Opens a volume that there is.
    pub(super) fn open(&self, v: &Volume) -> Result<Opened, Refusal> {
        match self {
            Store::Folder(p) => open_store(v, StoreSpec::Path(p.path(&v.name))),
            Store::Log(p) => p.open(v),
        }
    }

    /// Makes a volume, in doubt until [`Store::keep`], and opens it.
    pub(super) fn make(&self, v: &Volume) -> Result<Opened, Refusal> {
        match self {
            Store::Folder(p) => {
                let path = p.make(&v.name, v.size)?;
                open_store(v, StoreSpec::Path(path)).inspect_err(|_| p.unmake(&v.name))
            }
            Store::Log(p) => p.make(v),
        }
    }

    pub(super) fn keep(&self, volume: &str) {
        match self {
            Store::Folder(p) => p.keep(volume),
            Store::Log(p) => p.keep(volume),
        }
    }

    pub(super) fn unmake(&self, volume: &str) {
        match self {
            Store::Folder(p) => p.unmake(volume),
            Store::Log(p) => p.unmake(volume),
        }
    }

    pub(super) fn begin_delete(&self, volume: &str) -> Result<(), Refusal> {
        match self {
            Store::Folder(p) => p.begin_delete(volume),
            Store::Log(p) => p.begin_delete(volume),
        }
    }

    pub(super) fn end_delete(&self, volume: &str) {
        match self {
            Store::Folder(p) => p.end_delete(volume),
            Store::Log(p) => p.end_delete(volume),
        }
    }

    /// A volume that was made by an earlier run is not there.
    pub(super) fn lost(&self, v: &Volume) -> Refusal {
        match self {
            Store::Folder(p) => Refusal::not_found(
                format!("the file of volume {} is missing: {}", v.name, p.path(&v.name).display()),
                "mount the file system that it is on, or restore it; to do without it, move the state file away or remove the \
                 volume from it",
            ),
            Store::Log(p) => p.lost(&v.name),
        }
    }

    /// The log-structured pool that it is, if it is one.
    pub(super) fn log(&self) -> Option<&LogPool> {
        match self {
            Store::Log(p) => Some(p),
            Store::Folder(_) => None,
        }
    }
}

/// Opens a volume that is in no pool.
pub(super) fn open_alone(v: &Volume) -> Result<Opened, Refusal> {
    let spec = match &v.backing {
        Backing::Null => StoreSpec::Null(size(v)?),
        Backing::Path { path } => StoreSpec::Path(path.clone()),
        Backing::Ram | Backing::Pool { .. } => StoreSpec::Ram(size(v)?),
    };
    open_store(v, spec)
}

fn open_store(v: &Volume, spec: StoreSpec) -> Result<Opened, Refusal> {
    let options = Options { block_size: v.block_size, size: Size::new(v.size), ..Options::default() };
    #[cfg(test)]
    let _locks = crate::pools::faulty_for_tests::locks();
    caisson_volume::open(&spec, &options).map_err(|e| {
        let remedy = match &e {
            // These say themselves what is to be done.
            OpenError::BlockSize(_) | OpenError::Partial { .. } => "do what it says, or choose another store".into(),
            OpenError::Memory { .. } => "choose a smaller size".into(),
            OpenError::File(_) | OpenError::Setup(_) => {
                format!("check that {spec} is a file or a block device, not in use elsewhere, and that this user may read and write it")
            }
        };
        Refusal::new(Cause::System, format!("volume {} cannot be opened: {e}", v.name), remedy)
    })
}

fn size(v: &Volume) -> Result<Size, Refusal> {
    Size::new(v.size)
        .ok_or_else(|| Refusal::invalid(format!("volume {} has no size", v.name), "give it one: --size 10G"))
}

/// Makes an opened volume as large as it is configured, which ends a growth that a stop interrupted; never cuts it.
pub(super) fn fit(v: &Volume, opened: &Opened) -> Result<(), Refusal> {
    let block = u64::from(v.block_size);
    let has = opened.volume.geometry().blocks * block;
    if v.size == 0 || has == v.size {
        return Ok(());
    }
    if has > v.size {
        return Err(Refusal::conflict(
            format!(
                "volume {} has {has} bytes ({}), and is to have {} ({})",
                v.name,
                format_size(has),
                v.size,
                format_size(v.size)
            ),
            format!(
                "to keep all its data, give it that size (--size {has}; in a configuration file, size = {has}); to cut it, start with \
                 that size and run `caisson volume resize {} {} --shrink`",
                v.name, v.size
            ),
        ));
    }
    opened.manage.resize(v.size / block).map_err(|e| {
        Refusal::new(
            Cause::System,
            format!(
                "volume {} has {has} bytes and cannot be grown to the configured {}: {e}",
                v.name, v.size
            ),
            format!("configure size = {has}, or leave the size out for a device of its own"),
        )
    })
}
