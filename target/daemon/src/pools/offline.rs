//! Looking at a pool that no target serves: for `caisson inspect` and `caisson check`, which write nothing; and opening one with
//! recovery shares, which writes its key slots.

use super::keys::open;
use super::real::{self, read_only};
use super::{Engine, Found, Plain, PoolHandle, PoolStatus, Record, Setup, engine, keys};
use crate::model::{Device, Pool};
use crate::refusal::Refusal;
use caisson_keys::KeyError;
use caisson_providers::{How, Recovery, Share};
use serde::Serialize;
use std::fs::File;
use std::path::Path;

/// What a device of a pool says in the clear.
#[derive(Clone, Debug, Serialize)]
pub struct Label {
    /// The device.
    pub path: String,
    /// The pool's UUID.
    pub pool: String,
    /// Which of the pool's devices it is, from 0 on.
    pub device: u32,
    /// How many it has.
    pub devices: u32,
    /// What seals its data.
    pub cipher: String,
    /// Segments of all devices.
    pub segments: u32,
    /// Bytes of each.
    pub segment_size: u64,
    /// How often the superblock was written.
    pub counter: u64,
    /// Its wrapped keys: what for, and by which provider and root key.
    pub keys: Vec<String>,
}

/// Reads what stands in the clear on a pool's device, which a target may be using.
///
/// # Errors
/// There is no pool; the system's.
pub fn label(path: &Path) -> Result<Label, Refusal> {
    let fail = |e: &std::io::Error| Refusal::system(format!("{} cannot be read", path.display()), e);
    let found = real::superblock(&File::open(path).map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
    let s = found.map_err(|what| {
        Refusal::not_found(
            format!("there is no pool on {}: {what}", path.display()),
            "name a file or device of a pool; where its superblocks are damaged, restore the first MiB",
        )
    })?;
    let key = |k: &caisson_engine::KeySlot| {
        let what = match k.domain {
            0 => "the pool itself".to_string(),
            n => format!("domain {n}"),
        };
        format!("{what}: wrapped by {} with root key {}", k.provider, k.root)
    };
    Ok(Label {
        path: path.display().to_string(),
        pool: s.pool.to_string(),
        device: s.device,
        devices: s.devices,
        cipher: format!("{:?}", s.cipher),
        segments: s.extents.segments(),
        segment_size: s.extents.segment_size().into(),
        counter: s.counter,
        keys: s.slots.iter().map(key).collect(),
    })
}

/// What an unlocked pool says.
#[derive(Clone, Debug)]
pub struct Look {
    /// Its figures.
    pub status: PoolStatus,
    /// Its volumes.
    pub volumes: Vec<Record>,
}

/// What the pool's first device says.
fn plain(pool: &Pool) -> Result<Plain, Refusal> {
    let engine = engine();
    let first = pool.devices.first().map(|d| engine.look(&d.path)).transpose()?;
    let Some(Found::Pool(plain)) = first else {
        let path = pool.devices.first().map(|d| d.path.display().to_string()).unwrap_or_default();
        return Err(Refusal::not_found(
            format!("there is no pool on {path}"),
            "name the files or devices of a pool; `caisson inspect PATH` says what is there",
        ));
    };
    Ok(plain)
}

/// Unlocks the pool on its devices for a look.
fn setup(pool: &Pool) -> Result<Setup, Refusal> {
    let plain = plain(pool)?;
    let secrets = keys::unlock(pool, plain.pool, &plain.slots, true)?;
    Ok(Setup { devices: pool.devices.clone(), secrets, memory: pool.memory })
}

/// Looks into a pool that no target uses.
///
/// # Errors
/// Its keys cannot be had; it is in use, or damaged such that it cannot be opened.
pub fn look(pool: &Pool) -> Result<Look, Refusal> {
    read_only(setup(pool)?, |handle| Look { status: handle.status(), volumes: handle.volumes() })
}

/// Has other providers wrap the keys of a pool that no target uses, having opened it with recovery shares. Gives the new root
/// keys.
///
/// # Errors
/// The shares are too few or of another pool; the providers'; the pool is in use.
pub fn recover(pool: &Pool, shares: &[Share]) -> Result<Vec<String>, Refusal> {
    recover_with(engine().as_ref(), pool, shares)
}

/// [`recover`] by this engine.
pub(crate) fn recover_with(
    engine: &dyn Engine,
    pool: &Pool,
    shares: &[Share],
) -> Result<Vec<String>, Refusal> {
    let of = |e: KeyError| keys::of_key(pool, &e);
    let plain = plain(pool)?;
    if let Some(other) = shares.iter().find(|s| s.pool != plain.pool) {
        return Err(Refusal::conflict(
            format!("these shares are of pool {}, not of this one", uuid::Uuid::from_bytes(other.pool)),
            "name the devices of that pool; `caisson inspect PATH` says which pool a device is of",
        ));
    }
    let recovery = Recovery::join(shares).map_err(of)?;
    let unlocked = || caisson_keys::unlock(&[&recovery], plain.pool, &plain.slots).map_err(of);
    let secrets = unlocked()?;
    let (mut new, mut names) = (Vec::new(), Vec::new());
    let mut slots = plain.slots.clone();
    for uri in pool.providers() {
        let opened = open(&uri, How { ask: true, make: true }).map_err(of)?;
        let provider = opened.provider.as_ref();
        let roots = provider.roots().map_err(of)?;
        new.extend(caisson_keys::wrap_pool_keys(provider, &secrets).map_err(of)?);
        slots.retain(|s| s.provider != provider.name() || !roots.contains(&s.wrapped.root));
        names.push(format!("{} {}", provider.name(), roots.last().cloned().unwrap_or_default()));
    }
    slots.splice(0..0, new);
    let devices = in_order(engine, pool, &plain)?;
    let handle = engine.open(Setup { devices, secrets: unlocked()?, memory: pool.memory })?;
    let set = handle.set_slots(&slots);
    let closed = handle.close();
    set.and(closed)?;
    Ok(names)
}

/// The devices in their order in the pool.
fn in_order(engine: &dyn Engine, pool: &Pool, plain: &Plain) -> Result<Vec<Device>, Refusal> {
    let mut numbered = Vec::new();
    for device in &pool.devices {
        match engine.look(&device.path)? {
            Found::Pool(p) if p.pool == plain.pool => numbered.push((p.device, device.clone())),
            _ => {
                return Err(Refusal::conflict(
                    format!("{} is no device of this pool", device.path.display()),
                    "name all devices of one pool, and no other",
                ));
            }
        }
    }
    numbered.sort_by_key(|(number, _)| *number);
    Ok(numbered.into_iter().map(|(_, device)| device).collect())
}

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub sound: bool,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// Problems that are not in the list.
    pub more: u64,
    /// Blocks of 4 KiB that are lost to volumes.
    pub lost_blocks: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Segments that were gone through.
    pub segments: u32,
}

/// Reads and authenticates everything that the pool holds, and counts its tables again. `progress` is told what is being done
/// and how far it is, in percent.
///
/// # Errors
/// As [`look`].
pub fn check(pool: &Pool, progress: impl Fn(&str, u8) + Send + 'static) -> Result<Report, Refusal> {
    read_only(setup(pool)?, |handle| {
        let own = handle.pool.clone();
        let told = move |c: caisson_engine::Checking| progress(c.stage, c.percent);
        let found = handle.host()?.run(move |port| async move { own.check(&port, told).await });
        Ok(Report {
            sound: found.is_sound(),
            problems: found.problems.iter().map(ToString::to_string).collect(),
            more: found.more,
            lost_blocks: found.hurt_blocks,
            bytes: found.bytes,
            segments: found.segments,
        })
    })?
}
