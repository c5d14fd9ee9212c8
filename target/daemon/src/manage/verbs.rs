//! What each management request changes. Requests to make something that is there as asked change nothing and succeed, so
//! that they can be repeated; to make it differently is a conflict. Requests to remove what is not there are refused.

use super::ask::*;
use super::keys::recorded;
use crate::config::default_serves;
use crate::daemon::{Daemon, Did};
use crate::model::text::{Address, DISCOVERY_PORT, IO_PORT, nearest};
use crate::model::{
    Backing, Change, DEFAULT_MODEL, DEFAULT_POOL, Host, Item, Listener, Lookup, MAX_NSID, Namespace, Objects,
    Origin, Referral, Services, Subsystem, Volume, derived_serial, key,
};
use crate::pools::domains::DEFAULT_DOMAIN;
use crate::refusal::Refusal;

pub(super) type Result<T> = std::result::Result<T, Refusal>;

pub(super) fn bad(what: impl Into<String>, remedy: &str) -> Refusal {
    Refusal::invalid(what, remedy)
}

pub(super) fn bytes(size: &Size) -> Result<u64> {
    size.bytes().map_err(|e| bad(e, "write a number with a unit, such as 10G or 512MiB"))
}

/// `item` where nothing is; nothing to do where the same is; a conflict where another is.
pub(super) fn put(objects: &Objects, item: Item, what: &str) -> Result<Vec<Change>> {
    let key = item.key();
    match objects.get(&key) {
        Some(there) if *there == item => Ok(Vec::new()),
        Some(_) => Err(Refusal::conflict(
            format!("{what} exists already, and is not as asked"),
            "see `caisson status` for what it is; remove it first, or choose another name",
        )),
        None => Ok(vec![(key, Some(item))]),
    }
}

fn no_volume(objects: &Objects, name: &str) -> Refusal {
    let remedy = match nearest(name, objects.volumes().map(|v| v.name.as_str())) {
        Some(near) => format!("did you mean {near}?"),
        None => "see `caisson volume list` for what there is".into(),
    };
    Refusal::not_found(format!("there is no volume {name}"), remedy)
}

fn subsystem<'a>(objects: &'a Objects, nqn: &str) -> Result<&'a Subsystem> {
    objects.subsystem(nqn).ok_or_else(|| {
        let remedy = match nearest(nqn, objects.subsystems().map(|s| s.nqn.as_str())) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("create it first: caisson subsystem create {nqn}"),
        };
        Refusal::not_found(format!("there is no subsystem {nqn}"), remedy)
    })
}

/// Creates a volume.
pub fn create_volume(d: &Daemon, ask: &CreateVolume) -> Result<Did> {
    let size = ask.size.as_ref().map_or(Ok(0), bytes)?;
    let backing = match (ask.backing, &ask.path, &ask.pool) {
        (BackingKind::File, Some(_), Some(_)) => {
            return Err(bad("a volume has a path or a pool, not both", "leave out --path or --pool"));
        }
        (BackingKind::File, Some(path), None) if path.is_absolute() => Backing::Path { path: path.clone() },
        (BackingKind::File, Some(path), None) => {
            return Err(bad(
                format!("{} is relative, and the target does not run in your folder", path.display()),
                "give the whole path, from / on",
            ));
        }
        (BackingKind::File, None, pool) => {
            Backing::Pool { pool: pool.clone().unwrap_or_else(|| DEFAULT_POOL.into()) }
        }
        (_, None, None) => {
            if ask.backing == BackingKind::Ram {
                Backing::Ram
            } else {
                Backing::Null
            }
        }
        _ => return Err(bad("only volumes on files have a path or a pool", "leave out --path and --pool")),
    };
    let volume = Volume::new(ask.name.clone(), backing, size, ask.block_size.unwrap_or(4096));
    let domain = ask.domain.clone().filter(|name| name != DEFAULT_DOMAIN);
    if let Some(name) = &domain
        && let Some((pool, handle)) = volume.pool().and_then(|p| Some((p, d.pools().remove(p)?)))
    {
        crate::pools::domains::named(pool, handle.as_ref(), name)?;
    }
    let volume = Volume { services: services_of_new(d, &volume, ask)?, domain, ..volume };
    let adopt = ask.adopt.then(|| key::volume(&ask.name));
    d.change_adopting(adopt, |o| {
        // Asked without a size, for a file or device that has one: what was found then is meant.
        let mut volume = volume;
        if let Some(there) = o.volume(&volume.name)
            && volume.size == 0
        {
            volume.size = there.size;
        }
        let what = format!("volume {}", volume.name);
        put(o, Item::Volume(volume), &what)
    })
}

/// What a new volume's pool does with its blocks: all that it can, but for what was said.
fn services_of_new(d: &Daemon, v: &Volume, ask: &CreateVolume) -> Result<Option<Services>> {
    let Some(handle) = v.pool().and_then(|p| d.pools().remove(p)) else {
        if ask.services.is_empty() {
            return Ok(None);
        }
        return Err(bad(
            format!("volume {} is not in a pool that compresses or deduplicates", v.name),
            "leave those options out, or name a pool that `caisson pool list` shows as a log (--pool NAME)",
        ));
    };
    // What is taken over stays as it is, as far as nothing else is said.
    let held = ask.adopt.then(|| handle.record(&v.name)).flatten();
    Ok(Some(ask.services.over(held.map_or(Services::default(), |r| r.services))))
}

/// Changes what a volume's pool does with its blocks, from the next write on.
pub fn set_volume(d: &Daemon, name: &str, ask: &ServicesAsk) -> Result<Did> {
    d.change(|o| {
        let mut v = in_log(o, name)?.clone();
        v.services = Some(ask.over(v.services.unwrap_or_default()));
        Ok(vec![(key::volume(name), Some(Item::Volume(v)))])
    })
}

/// The volume of that name, which must be in a pool that has data services.
fn in_log<'a>(o: &'a Objects, name: &str) -> Result<&'a Volume> {
    let v = o.volume(name).ok_or_else(|| no_volume(o, name))?;
    if v.pool().is_some_and(|p| o.pool(p).is_some()) {
        return Ok(v);
    }
    Err(Refusal::conflict(
        format!("volume {name} is not in a pool that has snapshots and data services"),
        "create a volume in a pool of `caisson pool create`, and copy the data there",
    ))
}

/// Makes a volume that holds what another holds now: a snapshot, which stays so, or a clone.
pub fn copy_volume(d: &Daemon, of: &str, ask: &Copy, read_only: bool) -> Result<Did> {
    let size = d.volume_health().get(of).map(|h| h.size);
    d.change(|o| {
        let v = in_log(o, of)?;
        let origin = Some(Origin { volume: of.into(), read_only });
        let copy = Volume { name: ask.name.clone(), size: size.unwrap_or(v.size), origin, ..v.clone() };
        match o.volume(&ask.name) {
            // The same request again; the volumes may differ in size by now.
            Some(there) if there.origin == copy.origin => Ok(Vec::new()),
            _ => put(o, Item::Volume(copy), &format!("volume {}", ask.name)),
        }
    })
}

/// Deletes a volume and its data; refused while it is exported.
pub fn delete_volume(d: &Daemon, name: &str) -> Result<Did> {
    let objects = d.objects();
    let pool = objects.volume(name).and_then(Volume::pool).filter(|pool| d.pools().contains_key(*pool));
    let Some(pool) = pool else { return delete_unrecorded(d, name) };
    let status = d.pools().get(pool).map(|p| p.status()).unwrap_or_default();
    // Its map key goes with the last of its copies: that is recorded when it is so.
    let key = status.volumes.get(name).map_or(0, |v| v.map_key);
    recorded(d, "delete-volume", pool, &format!("volume {name}, which has map key {key}"), || {
        delete_unrecorded(d, name)
    })
}

fn delete_unrecorded(d: &Daemon, name: &str) -> Result<Did> {
    d.change(|o| {
        if o.volume(name).is_none() {
            return Err(no_volume(o, name));
        }
        if let Some(n) = o.namespaces().find(|n| n.volume == name) {
            return Err(Refusal::conflict(
                format!("volume {name} is exported as namespace {} of {}", n.nsid, n.nqn),
                format!("first: caisson subsystem remove-ns {} {}", n.nqn, n.nsid),
            ));
        }
        Ok(vec![(key::volume(name), None)])
    })
}

/// Erases for good what only this volume holds, and deletes it where that is asked for, too.
pub fn erase_volume(d: &Daemon, name: &str, ask: &EraseAsk) -> Result<u32> {
    if ask.confirm != name {
        return Err(bad(
            format!("the volume {name} is erased only where its name is said again"),
            &format!("add --confirm {name}; what it holds is lost then, for good"),
        ));
    }
    let objects = d.objects();
    let v = in_log(&objects, name)?;
    let exported = objects.namespaces().find(|n| n.volume == name);
    if let Some(n) = exported.filter(|_| ask.delete) {
        return Err(Refusal::conflict(
            format!("volume {name} is exported as namespace {} of {}", n.nsid, n.nqn),
            format!("first: caisson subsystem remove-ns {} {}", n.nqn, n.nsid),
        ));
    }
    let pool = v.pool().unwrap_or_default();
    let handle = d.pools().remove(pool).ok_or_else(|| {
        Refusal::conflict(
            format!("the pool {pool} waits for its keys"),
            format!("see `caisson key status {pool}` for which, and why"),
        )
    })?;
    // Erased first: a stop in between leaves it empty, and it can be deleted then.
    let number =
        recorded(d, "erase-volume", pool, &format!("volume {name}"), || handle.erase(name, ask.delete))?;
    if ask.delete {
        delete_volume(d, name)?;
    }
    Ok(number)
}

/// Changes a volume's size; hosts see it at once.
pub fn resize_volume(d: &Daemon, name: &str, ask: &Resize) -> Result<Did> {
    let size = bytes(&ask.size)?;
    let health = d.volume_health();
    d.change(|o| {
        let mut v = o.volume(name).ok_or_else(|| no_volume(o, name))?.clone();
        let now = health.get(name).map_or(v.size, |h| h.size);
        if size == 0 {
            return Err(bad("a volume cannot have size 0", "use `caisson volume delete` to delete it"));
        }
        if size < now && !ask.shrink {
            return Err(Refusal::conflict(
                format!("volume {name} has {now} bytes: to make it {size} would lose what lies beyond"),
                "add --shrink if that is what you want",
            ));
        }
        if size == now {
            return Ok(Vec::new());
        }
        if v.origin.as_ref().is_some_and(|o| o.read_only) {
            return Err(Refusal::conflict(
                format!("volume {name} is a snapshot, which does not change"),
                format!("make a clone of it, and resize that: caisson volume clone {name} NAME"),
            ));
        }
        v.size = size;
        Ok(vec![(key::volume(name), Some(Item::Volume(v)))])
    })
}

/// Creates a subsystem, with its access list.
pub fn create_subsystem(d: &Daemon, ask: &CreateSubsystem) -> Result<Did> {
    if ask.allow_any_host && !ask.hosts.is_empty() {
        return Err(bad(
            "it cannot both allow any host and name hosts",
            "leave out --allow-any or the hosts",
        ));
    }
    d.change(|o| {
        let item = Subsystem {
            nqn: ask.nqn.clone(),
            serial: ask.serial.clone().unwrap_or_else(|| derived_serial(&ask.nqn)),
            model: ask.model.clone().unwrap_or_else(|| DEFAULT_MODEL.into()),
            allow_any_host: ask.allow_any_host,
            allow_erase: ask.allow_erase,
            // What hosts did is no other subsystem.
            sanitize: o.subsystem(&ask.nqn).and_then(|s| s.sanitize.clone()),
        };
        let mut changes = put(o, Item::Subsystem(item), &format!("subsystem {}", ask.nqn))?;
        for host in &ask.hosts {
            let item = Item::Host(Host { nqn: ask.nqn.clone(), host: host.clone() });
            changes.extend(put(o, item, host)?);
        }
        Ok(changes)
    })
}

/// Deletes a subsystem with its namespaces and its access list. The volumes stay.
pub fn delete_subsystem(d: &Daemon, nqn: &str) -> Result<Did> {
    d.change(|o| {
        subsystem(o, nqn)?;
        let of_it = o.iter().filter(|(_, i)| match i {
            Item::Subsystem(s) => s.nqn == nqn,
            Item::Namespace(n) => n.nqn == nqn,
            Item::Host(h) => h.nqn == nqn,
            _ => false,
        });
        Ok(of_it.map(|(k, _)| (k.clone(), None)).collect())
    })
}

/// Lets any host connect, or only those on the list.
pub fn allow_any(d: &Daemon, nqn: &str, on: bool) -> Result<Did> {
    d.change(|o| {
        let mut s = subsystem(o, nqn)?.clone();
        s.allow_any_host = on;
        Ok(vec![(key::subsystem(nqn), Some(Item::Subsystem(s)))])
    })
}

/// Lets hosts erase what its namespaces hold, or not.
pub fn allow_erase(d: &Daemon, nqn: &str, on: bool) -> Result<Did> {
    d.change(|o| {
        let mut s = subsystem(o, nqn)?.clone();
        s.allow_erase = on;
        Ok(vec![(key::subsystem(nqn), Some(Item::Subsystem(s)))])
    })
}

/// Puts a host on the access list.
pub fn allow_host(d: &Daemon, nqn: &str, host: &str) -> Result<Did> {
    d.change(|o| {
        subsystem(o, nqn)?;
        put(o, Item::Host(Host { nqn: nqn.into(), host: host.into() }), host)
    })
}

/// Takes a host off the access list; it is disconnected unless any host may connect.
pub fn remove_host(d: &Daemon, nqn: &str, host: &str) -> Result<Did> {
    d.change(|o| {
        let s = subsystem(o, nqn)?;
        let key = key::host(nqn, host);
        if !o.contains_key(&key) {
            let remedy = if s.allow_any_host {
                format!("any host may connect to it: caisson subsystem allow-any {nqn} off")
            } else {
                "see `caisson subsystem show` for who is".into()
            };
            return Err(Refusal::not_found(
                format!("host {host} is not on the access list of {nqn}"),
                remedy,
            ));
        }
        Ok(vec![(key, None)])
    })
}

/// Exports a volume in a subsystem; its number.
pub fn add_namespace(d: &Daemon, nqn: &str, ask: &AddNamespace) -> Result<(Did, u32)> {
    let mut number = 0;
    let did = d.change(|o| {
        subsystem(o, nqn)?;
        if o.volume(&ask.volume).is_none() {
            return Err(no_volume(o, &ask.volume));
        }
        let of_it = || o.namespaces().filter(|n| n.nqn == nqn);
        // Asked again as before, with or without the number.
        let same = of_it().find(|n| {
            n.volume == ask.volume
                && ask.nsid.is_none_or(|i| i == n.nsid)
                && ask.uuid.is_none_or(|u| u == n.uuid)
                && ask.nguid.as_ref().is_none_or(|g| n.nguid.as_ref() == Some(g))
        });
        if let Some(same) = same {
            number = same.nsid;
            return Ok(Vec::new());
        }
        let free = || (1..=MAX_NSID).find(|i| of_it().all(|n| n.nsid != *i));
        let nsid = ask.nsid.or_else(free).ok_or_else(|| {
            Refusal::conflict(
                format!("{nqn} has {MAX_NSID} namespaces, the most there can be"),
                "use another subsystem",
            )
        })?;
        number = nsid;
        let item = Item::Namespace(Namespace {
            nqn: nqn.into(),
            nsid,
            volume: ask.volume.clone(),
            uuid: ask.uuid.unwrap_or_else(uuid::Uuid::new_v4),
            nguid: ask.nguid.clone(),
            write_protected: false,
        });
        put(o, item, &format!("namespace {nsid} of {nqn}"))
    })?;
    Ok((did, number))
}

fn namespace<'a>(o: &'a Objects, nqn: &str, nsid: u32) -> Result<&'a Namespace> {
    subsystem(o, nqn)?;
    match o.get(&key::namespace(nqn, nsid)) {
        Some(Item::Namespace(n)) => Ok(n),
        _ => Err(Refusal::not_found(
            format!("there is no namespace {nsid} in {nqn}"),
            format!("see `caisson subsystem show {nqn}` for what there is"),
        )),
    }
}

/// Takes a namespace away; its volume stays.
pub fn remove_namespace(d: &Daemon, nqn: &str, nsid: u32) -> Result<Did> {
    d.change(|o| {
        namespace(o, nqn, nsid)?;
        Ok(vec![(key::namespace(nqn, nsid), None)])
    })
}

/// Sets or clears a namespace's write protection.
pub fn write_protect(d: &Daemon, nqn: &str, nsid: u32, on: bool) -> Result<Did> {
    d.change(|o| {
        let mut n = namespace(o, nqn, nsid)?.clone();
        n.write_protected = on;
        Ok(vec![(key::namespace(nqn, nsid), Some(Item::Namespace(n)))])
    })
}

fn address(text: &str, port: u16) -> Result<Address> {
    Address::parse(text, port)
        .map_err(|e| bad(e, "write tcp://ADDRESS:PORT or rdma://ADDRESS:PORT, such as tcp://0.0.0.0:4420"))
}

/// Listens on an address.
pub fn add_listener(d: &Daemon, ask: &AddListener) -> Result<Did> {
    let port = if ask.serves == Some(crate::model::Serves::Discovery) { DISCOVERY_PORT } else { IO_PORT };
    let address = address(&ask.address, port)?;
    let serves = ask.serves.unwrap_or_else(|| default_serves(address));
    d.change(|o| put(o, Item::Listener(Listener { address, serves }), &format!("listener {address}")))
}

/// Stops listening on an address; hosts that came through it are disconnected.
pub fn remove_listener(d: &Daemon, text: &str) -> Result<Did> {
    let address = address(text, IO_PORT)?;
    remove(d, key::listener(address), &format!("listener {address}"), "caisson listener list")
}

/// Tells hosts of another discovery service.
pub fn add_referral(d: &Daemon, ask: &AddReferral) -> Result<Did> {
    let address = address(&ask.address, DISCOVERY_PORT)?;
    d.change(|o| put(o, Item::Referral(Referral { address }), &format!("referral {address}")))
}

/// Tells hosts no more of another discovery service.
pub fn remove_referral(d: &Daemon, text: &str) -> Result<Did> {
    let address = address(text, DISCOVERY_PORT)?;
    remove(d, key::referral(address), &format!("referral {address}"), "caisson referral list")
}

fn remove(d: &Daemon, key: String, what: &str, list: &str) -> Result<Did> {
    d.change(|o| {
        if !o.contains_key(&key) {
            return Err(Refusal::not_found(
                format!("there is no {what}"),
                format!("see `{list}` for what there is"),
            ));
        }
        Ok(vec![(key, None)])
    })
}
