//! Looking at a pool that no target serves: for `caisson inspect` and `caisson check`. Nothing is ever written.

use super::real::{self, read_only};
use super::{Damage, Found, PoolHandle, PoolStatus, Record, Setup, engine, keys, verify};
use crate::model::Pool;
use crate::refusal::Refusal;
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

/// Unlocks the pool on its devices for a look.
fn setup(pool: &Pool) -> Result<Setup, Refusal> {
    let engine = engine();
    let first = pool.devices.first().map(|d| engine.look(&d.path)).transpose()?;
    let Some(Found::Pool(plain)) = first else {
        let path = pool.devices.first().map(|d| d.path.display().to_string()).unwrap_or_default();
        return Err(Refusal::not_found(
            format!("there is no pool on {path}"),
            "name the files or devices of a pool; `caisson inspect PATH` says what is there",
        ));
    };
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

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Bytes of volumes that were read, opened and unpacked.
    pub bytes: u64,
    /// Volumes, snapshots and clones included.
    pub volumes: usize,
    /// Blocks and pages that cannot be read.
    pub damaged: u64,
    /// What they are, as far as it is remembered.
    pub damage: Vec<Damage>,
}

/// Reads and authenticates every block that a volume of the pool maps, and the tables that lead there.
///
/// # Errors
/// As [`look`].
pub fn check(pool: &Pool) -> Result<Report, Refusal> {
    read_only(setup(pool)?, |handle| {
        let mut report = Report::default();
        for record in handle.volumes() {
            let opened = handle.volume(&record.name)?;
            let hurt = verify::all(opened.volume.as_ref())
                .map_err(|e| Refusal::system("the pool cannot be read", &e))?;
            report.volumes += 1;
            report.bytes += record.size;
            report.damaged += hurt.len() as u64;
            report.damage.extend(hurt.into_iter().take(64).map(|lba| Damage {
                volume: Some(record.name.clone()),
                lba: Some(lba),
                what: format!("block {lba} cannot be read"),
            }));
        }
        Ok(report)
    })?
}
