//! Opening a pool as it is configured: making it where there is none, on devices that are blank, and never over anything else.

use super::{Engine, Found, Plain, PoolHandle, Setup, keys};
use crate::model::{self, Device};
use crate::refusal::Refusal;
use caisson_keys::{KeySlot, PoolSecrets};
use std::sync::Arc;

/// How a pool may be come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// It must be there.
    There,
    /// It must not be there, and is made.
    New,
    /// It is opened where it is, and made where it is not.
    Either,
}

/// What was made for a pool, for an operator to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// The pool itself.
    pub pool: bool,
    /// Its key file.
    pub key_file: bool,
}

/// An opened pool.
pub struct Opening {
    /// The pool.
    pub handle: Arc<dyn PoolHandle>,
    /// What was made.
    pub made: Made,
    /// Files that were made for it, to be removed should it not be kept.
    pub files: Vec<std::path::PathBuf>,
}

/// Where the secrets of a pool that there is come from.
pub enum Keys {
    /// From its key providers; a person at the terminal may be asked.
    Ask,
    /// From its key providers, and nobody is asked.
    Quiet,
    /// They were had before.
    Had(PoolSecrets),
    /// They were made before, for a pool that there is not.
    New(Box<Fresh>),
}

/// The keys of a pool that is to be made.
pub struct Fresh {
    id: [u8; 16],
    secrets: PoolSecrets,
    slots: Vec<KeySlot>,
    key_file: bool,
}

impl Fresh {
    fn make(pool: &model::Pool, ask: bool) -> Result<Fresh, Refusal> {
        let id = *uuid::Uuid::new_v4().as_bytes();
        let (secrets, slots, key_file) = keys::create(pool, id, ask)?;
        Ok(Fresh { id, secrets, slots, key_file })
    }
}

/// Has the keys of a pool that is to be made or, with `adopt`, taken over, and nothing else done: it may take as long as its
/// providers do. None where [`open`] will refuse it for what stands on its devices.
///
/// # Errors
/// The providers'; the system's.
pub fn keys(engine: &dyn Engine, pool: &model::Pool, adopt: bool) -> Result<Option<Keys>, Refusal> {
    let found = look(engine, pool)?;
    let blank = |f: &Found| matches!(f, Found::Missing | Found::Blank);
    match newest(&found) {
        Some(plain) if adopt => keys::unlock(pool, plain.pool, &plain.slots, false).map(Keys::Had).map(Some),
        None if !adopt && found.iter().all(|(_, f)| blank(f)) && !lacks_size(&found) => {
            Ok(Some(Keys::New(Box::new(Fresh::make(pool, false)?))))
        }
        _ => Ok(None),
    }
}

/// Whether one is missing that has no size to make it with.
fn lacks_size(found: &[(&Device, Found)]) -> bool {
    found.iter().any(|(device, f)| *f == Found::Missing && device.size == 0)
}

/// Opens `pool`.
///
/// # Errors
/// What stands on its devices is not what `want` says, or something else; its keys cannot be had; the engine's.
pub fn open(engine: &dyn Engine, pool: &model::Pool, want: Want, keys: Keys) -> Result<Opening, Refusal> {
    let found = look(engine, pool)?;
    if let Some((device, Found::Other(what))) = found.iter().find(|(_, f)| matches!(f, Found::Other(_))) {
        return Err(Refusal::conflict(
            format!("{} holds {what}, and no pool", device.path.display()),
            "name the right file or device; to use this one and lose what it holds, erase its first MiB: \
             dd if=/dev/zero of=PATH bs=1M count=1",
        ));
    }
    match (newest(&found).cloned(), want) {
        (None, Want::There) => Err(missing(pool, &found)),
        (None, Want::New | Want::Either) => create(engine, pool, &found, keys),
        (Some(_), Want::New) => Err(Refusal::conflict(
            format!("{} holds a pool already", pool.devices[0].path.display()),
            "add --adopt to take it over as it is, with its own key file; or name other devices",
        )),
        (Some(plain), _) => existing(engine, pool, &plain, &found, keys),
    }
}

fn look<'a>(engine: &dyn Engine, pool: &'a model::Pool) -> Result<Vec<(&'a Device, Found)>, Refusal> {
    pool.devices.iter().map(|device| Ok((device, engine.look(&device.path)?))).collect()
}

/// What the devices say. One that was about to join has the counter of those that were there, and says less: between equals, the device of
/// the lower number counts.
fn newest<'a>(found: &'a [(&Device, Found)]) -> Option<&'a Plain> {
    let plain = found.iter().filter_map(|(_, f)| if let Found::Pool(p) = f { Some(p) } else { None });
    plain.max_by_key(|p| (p.counter, std::cmp::Reverse(p.device)))
}

/// Has the keys of a pool that waits for them, and nothing else done: it may take as long as its providers do. One that is not there yet has
/// its keys made, unless it must be `there`; then, and where its devices hold something else, there are none, and [`open`] says why.
///
/// # Errors
/// The providers'; the system's.
pub fn awaited(engine: &dyn Engine, pool: &model::Pool, there: bool) -> Result<Option<Keys>, Refusal> {
    match newest(&look(engine, pool)?) {
        Some(plain) => keys::unlock(pool, plain.pool, &plain.slots, false).map(Keys::Had).map(Some),
        None if there => Ok(None),
        None => keys(engine, pool, false),
    }
}

fn missing(pool: &model::Pool, found: &[(&Device, Found)]) -> Refusal {
    let gone = found.iter().find(|(_, f)| *f == Found::Missing);
    let (device, how) = match gone {
        Some((device, _)) => (device, "is missing"),
        None => (&found[0].0, "is blank"),
    };
    Refusal::not_found(
        format!("pool {:?} was on {}, which {how}", pool.name, device.path.display()),
        "attach the device, mount the file system that it is on, or restore it; to do without the pool, remove it from the \
         configuration or the state file",
    )
}

fn create(
    engine: &dyn Engine,
    pool: &model::Pool,
    found: &[(&Device, Found)],
    keys: Keys,
) -> Result<Opening, Refusal> {
    for (device, found) in found {
        if *found == Found::Missing && device.size == 0 {
            return Err(Refusal::not_found(
                format!("there is no {}", device.path.display()),
                "give a size to make a file of (--size 100G); or the path of a block device",
            ));
        }
    }
    let files: Vec<_> =
        found.iter().filter(|(_, f)| *f == Found::Missing).map(|(d, _)| d.path.clone()).collect();
    let fresh = match keys {
        Keys::New(fresh) => *fresh,
        keys => Fresh::make(pool, matches!(keys, Keys::Ask))?,
    };
    debug_assert_eq!(fresh.id, fresh.secrets.pool());
    let setup = Setup { devices: pool.devices.clone(), secrets: fresh.secrets, memory: pool.memory };
    match engine.create(setup, &fresh.slots) {
        Ok(handle) => {
            let made = Made { pool: true, key_file: fresh.key_file };
            Ok(Opening { handle, made, files })
        }
        Err(e) => {
            remove(&files);
            Err(e)
        }
    }
}

fn existing(
    engine: &dyn Engine,
    pool: &model::Pool,
    plain: &Plain,
    found: &[(&Device, Found)],
    keys: Keys,
) -> Result<Opening, Refusal> {
    let (mut devices, mut new) = (Vec::new(), Vec::new());
    for (device, found) in found {
        match found {
            Found::Pool(p) if p.pool == plain.pool && p.device >= plain.devices => {
                new.push((*device).clone())
            }
            Found::Pool(p) if p.pool == plain.pool => devices.push(((*device).clone(), p.device)),
            Found::Pool(_) => {
                return Err(Refusal::conflict(
                    format!("{} belongs to another pool", device.path.display()),
                    "name the devices of one pool; `caisson inspect PATH` says which pool a device is of",
                ));
            }
            _ => new.push((*device).clone()),
        }
    }
    if devices.len() != plain.devices as usize {
        let blank = new.first().map(|d| format!(", and {} is not one of them", d.path.display()));
        return Err(Refusal::not_found(
            format!(
                "pool {:?} has {}, of which {} here{}",
                pool.name,
                if plain.devices == 1 { "1 device".into() } else { format!("{} devices", plain.devices) },
                if devices.len() == 1 { "1 is".into() } else { format!("{} are", devices.len()) },
                blank.unwrap_or_default()
            ),
            "name all devices of the pool",
        ));
    }
    devices.sort_by_key(|(_, number)| *number);
    let mut longer = false;
    for (device, _) in &devices {
        longer |= lengthen(&device.path, device.size)?;
    }
    let secrets = match keys {
        Keys::Had(secrets) if secrets.pool() == plain.pool => secrets,
        keys => keys::unlock(pool, plain.pool, &plain.slots, matches!(keys, Keys::Ask))?,
    };
    let devices = devices.into_iter().map(|(device, _)| device).collect();
    let handle = engine.open(Setup { devices, secrets, memory: pool.memory })?;
    // A stop came between keeping that it grew and doing it.
    let finish = || -> Result<(), Refusal> {
        for device in &new {
            handle.add_device(device)?;
        }
        if longer { handle.grow().map(drop) } else { Ok(()) }
    };
    if let Err(e) = finish() {
        let _ = handle.close();
        return Err(e);
    }
    Ok(Opening { handle, made: Made::default(), files: Vec::new() })
}

/// Gives a pool's file a larger size, and says whether it did; a block device has the size that it has.
pub fn lengthen(path: &std::path::Path, size: u64) -> Result<bool, Refusal> {
    let fail = |e: &std::io::Error| Refusal::system(format!("{} cannot be made larger", path.display()), e);
    let file = std::fs::OpenOptions::new().write(true).open(path).map_err(|e| fail(&e))?;
    let meta = file.metadata().map_err(|e| fail(&e))?;
    let longer = meta.is_file() && meta.len() < size;
    if longer {
        file.set_len(size).and_then(|()| file.sync_all()).map_err(|e| fail(&e))?;
    }
    Ok(longer)
}

/// Removes files that were made for a pool that is not kept.
pub fn remove(files: &[std::path::PathBuf]) {
    for path in files {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{} was made for a pool and cannot be removed: {e}", path.display());
            }
            _ => {}
        }
    }
}
