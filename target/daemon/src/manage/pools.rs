//! What each management request on a pool changes; as in [`super::verbs`], what is as asked changes nothing.

use super::ask::*;
use super::verbs::{Result, bad, bytes, put};
use crate::daemon::{Daemon, Did, still};
use crate::model::text::nearest;
use crate::model::{Device, Item, Lookup, Objects, Pool, key};
use crate::refusal::Refusal;
use caisson_keys::{KeyError, KeyUri};
use std::path::Path;

pub(super) fn no_pool(d: &Daemon, o: &Objects, name: &str) -> Refusal {
    if d.waiting().contains_key(name) {
        return still(name);
    }
    if let Some(dir) = d.folders().get(name) {
        return Refusal::conflict(
            format!("pool {name:?} is the folder {}", dir.display()),
            "this is for pools of `caisson pool create`; a folder grows with its file system",
        );
    }
    let remedy = match nearest(name, o.pools().map(|p| p.name.as_str())) {
        Some(near) => format!("did you mean {near}?"),
        None => "see `caisson pool list` for what there is".into(),
    };
    Refusal::not_found(format!("there is no pool {name}"), remedy)
}

fn absolute(path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(bad(
        format!("{} is relative, and the target does not run in your folder", path.display()),
        "give the whole path, from / on",
    ))
}

/// A key provider by its URI, whose paths must be whole.
pub(super) fn key_uri(text: &str) -> Result<KeyUri> {
    let mut uri: KeyUri = text.parse().map_err(|e: KeyError| bad(e.to_string(), &e.remedy()))?;
    let relative = std::cell::Cell::new(false);
    uri.map_paths(|p| {
        relative.set(relative.get() || !Path::new(p).is_absolute());
        p.to_string()
    });
    if relative.get() {
        return Err(bad(
            format!("{uri} has a relative path, and the target does not run in your folder"),
            "give whole paths, from / on",
        ));
    }
    Ok(uri)
}

fn device(ask: &DeviceAsk) -> Result<Device> {
    absolute(&ask.path)?;
    Ok(Device { path: ask.path.clone(), size: ask.size.as_ref().map_or(Ok(0), bytes)? })
}

/// Makes a pool, or takes one over.
pub fn create_pool(d: &Daemon, ask: &CreatePool) -> Result<Did> {
    for path in [ask.key_file.as_ref(), ask.passphrase_file.as_ref()].into_iter().flatten() {
        absolute(path)?;
    }
    let pool = Pool {
        name: ask.name.clone(),
        devices: ask.devices.iter().map(device).collect::<Result<_>>()?,
        key_file: ask.key_file.clone(),
        passphrase_file: ask.passphrase_file.clone(),
        keys: ask.keys.iter().map(|text| key_uri(text)).collect::<Result<_>>()?,
        memory: ask.memory.as_ref().map_or(Ok(0), bytes)?,
    };
    let item = Item::Pool(pool.clone());
    d.make_pool(&pool, ask.adopt, |o| put(o, item.clone(), &format!("pool {}", ask.name)))
}

/// Lets a pool go. Its data stays on its devices.
pub fn remove_pool(d: &Daemon, name: &str) -> Result<Did> {
    let objects = d.objects();
    if objects.pool(name).is_none() {
        return Err(no_pool(d, &objects, name));
    }
    d.change(|o| match o.volumes().find(|v| v.pool() == Some(name)) {
        None => Ok(vec![(key::pool(name), None)]),
        Some(v) => Err(Refusal::conflict(
            format!("pool {name:?} holds volume {}", v.name),
            format!("delete its volumes first, with their data: caisson volume delete {}", v.name),
        )),
    })
}

/// Changes a pool that there is, by `change`.
fn change(d: &Daemon, name: &str, change: impl FnOnce(&mut Pool) -> Result<()>) -> Result<Did> {
    let objects = d.objects();
    if objects.pool(name).is_none() {
        return Err(no_pool(d, &objects, name));
    }
    d.change(|o| {
        let Some(pool) = o.pool(name) else { return Ok(Vec::new()) };
        let mut pool = pool.clone();
        change(&mut pool)?;
        Ok(vec![(key::pool(name), Some(Item::Pool(pool)))])
    })
}

/// Makes a file of a pool larger, or takes into use what its devices have grown by.
pub fn grow_pool(d: &Daemon, name: &str, ask: &Grow) -> Result<Did> {
    let Some(size) = &ask.size else {
        let objects = d.objects();
        let handle = d.pools().remove(name).ok_or_else(|| no_pool(d, &objects, name))?;
        let won = handle.grow()?;
        return Ok(if won > 0 { Did::Changed } else { Did::Nothing });
    };
    let size = bytes(size)?;
    change(d, name, |pool| {
        let of = format!("name one of: {}", paths(pool));
        let found = match &ask.path {
            Some(path) => pool.devices.iter_mut().find(|d| d.path == *path),
            None if pool.devices.len() == 1 => pool.devices.first_mut(),
            None => None,
        };
        let device =
            found.ok_or_else(|| bad(format!("pool {name:?} has several devices, or no such one"), &of))?;
        let now =
            device.path.metadata().map_or(device.size, |m| if m.is_file() { m.len() } else { u64::MAX });
        if now == u64::MAX {
            return Err(bad(
                format!("{} is a device, whose size is not set here", device.path.display()),
                "grow it by its own means, then run `caisson pool grow` without --size",
            ));
        }
        if size < now {
            return Err(Refusal::conflict(
                format!("{} has {now} bytes, and a pool cannot become smaller", device.path.display()),
                "make a smaller pool, and copy the volumes",
            ));
        }
        device.size = size;
        Ok(())
    })
}

fn paths(pool: &Pool) -> String {
    pool.devices.iter().map(|d| d.path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Gives a pool a device more.
pub fn add_device(d: &Daemon, name: &str, ask: &DeviceAsk) -> Result<Did> {
    let device = device(ask)?;
    change(d, name, |pool| {
        if !pool.devices.iter().any(|d| d.path == device.path) {
            pool.devices.push(device);
        }
        Ok(())
    })
}

/// Starts a walk over all that a pool stores, or stops it.
pub fn scrub_pool(d: &Daemon, name: &str, ask: &ScrubAsk) -> Result<Did> {
    let rate = bytes(&ask.rate)?;
    let objects = d.objects();
    let handle = d.pools().remove(name).ok_or_else(|| no_pool(d, &objects, name))?;
    handle.scrub(rate)?;
    Ok(Did::Changed)
}
