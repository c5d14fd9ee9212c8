//! What management may ask of keys: how they are, new root keys, providers that come and go, shares for a recovery.
//!
//! Each operation is recorded, before it is done and when it is. No answer but that of [`export_recovery`] has a secret in it.

use super::ask::{Destroy, DomainAsk, Export, KeyAsk, RootAsk, Rotate, Why};
use super::pools::{key_uri, no_pool};
use super::verbs::{Result, bad};
use crate::daemon::{Daemon, Did, Waits};
use crate::model::{Item, Lookup, Pool, key};
use crate::pools::domains::{self, POOL_DOMAIN};
use crate::pools::retire::{self, End, User};
use crate::pools::{Domain, Erase, Found, MapKeys, PoolHandle, Reseal, rekey};
use caisson_keys::{KeyUri, ProviderStatus, Reason};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A pool's keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Keys {
    /// The pool.
    pub pool: String,
    /// Why it waits for them; none where it has them.
    pub waiting: Option<Waits>,
    /// Its providers, in the order in which they are tried.
    pub providers: Vec<Provider>,
    /// Its wrapped keys, as they are stored.
    pub slots: Vec<Slot>,
    /// Its domains, those that were destroyed included.
    #[serde(default)]
    pub domains: Vec<Domain>,
    /// The sealing anew of what earlier key epochs sealed.
    #[serde(default)]
    pub reseal: Option<Reseal>,
    /// The keys of its volumes' maps; none of one that is not open.
    #[serde(default)]
    pub map_keys: Option<MapKeys>,
    /// Volumes whose content is being erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erases: Vec<Erase>,
    /// Providers that wrap some of its keys and not all: alone, they open it no more.
    #[serde(default)]
    pub incomplete: Vec<String>,
}

/// A key provider, as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Provider {
    /// What names it.
    pub uri: String,
    /// `ready`, `locked` or `away`.
    pub state: String,
    /// What was seen, or what to do.
    pub detail: String,
    /// Whether a wrapped key of its kind is in the pool.
    pub used: bool,
}

/// A wrapped key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slot {
    /// What it is: `pool`, or `domain N`; with the epoch, where it is not what the first comes from.
    pub of: String,
    /// Which provider wrapped it.
    pub provider: String,
    /// With which of its root keys.
    pub root: String,
}

/// The shares of a recovery key.
#[derive(Serialize, Deserialize)]
pub struct Shares {
    /// One line for each person.
    pub shares: Vec<String>,
}

fn pool(d: &Daemon, name: &str) -> Result<Pool> {
    let objects = d.objects();
    objects.pool(name).cloned().ok_or_else(|| no_pool(d, &objects, name))
}

fn open(d: &Daemon, name: &str) -> Result<(Pool, Arc<dyn PoolHandle>)> {
    let pool = pool(d, name)?;
    let handle = d.pools().remove(name).ok_or_else(|| no_pool(d, &d.objects(), name))?;
    Ok((pool, handle))
}

/// The keys of one pool, or of all. Asks each provider how it is, which may take as long as the slowest.
pub fn status(d: &Daemon, name: Option<&str>) -> Result<Vec<Keys>> {
    let pools: Vec<Pool> = match name {
        Some(name) => vec![pool(d, name)?],
        None => d.objects().pools().cloned().collect(),
    };
    let (handles, waiting) = (d.pools(), d.waiting());
    pools.iter().map(|p| keys(p, handles.get(&p.name).map(AsRef::as_ref), waiting.get(&p.name))).collect()
}

fn keys(pool: &Pool, handle: Option<&dyn PoolHandle>, waiting: Option<&Waits>) -> Result<Keys> {
    let slots = handle.map(PoolHandle::slots).transpose()?.unwrap_or_default();
    let status = handle.map(PoolHandle::status);
    let provider = |uri: KeyUri| {
        let (state, detail) = match caisson_providers::examine(&uri) {
            ProviderStatus::Ready => ("ready", String::new()),
            ProviderStatus::Locked { remedy } => ("locked", remedy),
            ProviderStatus::Unavailable { cause } => ("away", cause),
        };
        let used = slots.iter().any(|s| s.provider == uri.scheme().name());
        Provider { uri: uri.to_string(), state: state.into(), detail, used }
    };
    let slot = |s: &caisson_keys::KeySlot| Slot {
        of: of_slot(s),
        provider: s.provider.clone(),
        root: s.wrapped.root.clone(),
    };
    Ok(Keys {
        pool: pool.name.clone(),
        waiting: waiting.cloned(),
        providers: pool.providers().into_iter().map(provider).collect(),
        incomplete: domains::incomplete(&slots),
        slots: slots.iter().map(slot).collect(),
        domains: status.as_ref().map(|s| s.domains.clone()).unwrap_or_default(),
        map_keys: status.as_ref().map(|s| s.map_keys.clone()),
        erases: status.as_ref().map(|s| s.erases.clone()).unwrap_or_default(),
        reseal: status.and_then(|s| s.reseal),
    })
}

fn of_slot(s: &caisson_keys::KeySlot) -> String {
    let whole = if s.domain == 0 { "pool".into() } else { format!("domain {}", s.domain) };
    if s.epoch == 0 { whole } else { format!("{whole}, epoch {}", s.epoch) }
}

/// Makes a domain: volumes with keys of their own.
pub fn create_domain(d: &Daemon, name: &str, ask: &DomainAsk) -> Result<Did> {
    let _alone = d.keys_alone();
    let (pool, handle) = open(d, name)?;
    if handle.domains().iter().any(|d| d.name == ask.domain && d.epoch != 0) {
        return Ok(Did::Nothing);
    }
    let what = format!("domain {}", ask.domain);
    recorded(d, "create-domain", name, &what, || domains::create(&pool, handle.as_ref(), &ask.domain))?;
    Ok(Did::Changed)
}

/// Begins another key epoch of a domain.
pub fn rotate_epoch(d: &Daemon, name: &str, ask: &DomainAsk) -> Result<Did> {
    let _alone = d.keys_alone();
    let (pool, handle) = open(d, name)?;
    let domain = domains::named(name, handle.as_ref(), &ask.domain)?;
    let what = format!("domain {}", ask.domain);
    recorded(d, "rotate-epoch", name, &what, || domains::rotate(&pool, handle.as_ref(), domain))?;
    Ok(Did::Changed)
}

/// Destroys a domain's keys, and so everything that its volumes hold.
pub fn destroy_domain(d: &Daemon, name: &str, ask: &Destroy) -> Result<Did> {
    let _alone = d.keys_alone();
    let (_, handle) = open(d, name)?;
    if ask.domain == POOL_DOMAIN {
        return Err(bad(
            format!("what belongs to no domain of pool {name} cannot be destroyed by itself"),
            "destroy its domains; or, to destroy the whole pool, its root keys in every provider, and erase its devices' first MiB",
        ));
    }
    let domain = domains::named(name, handle.as_ref(), &ask.domain)?;
    if ask.confirm != ask.domain {
        return Err(bad(
            format!("the domain {} is destroyed only where its name is said again", ask.domain),
            &format!("add --confirm {}; everything that its volumes hold is lost then, for good", ask.domain),
        ));
    }
    let what = format!("domain {}", ask.domain);
    recorded(d, "destroy-domain", name, &what, || handle.destroy_domain(domain))?;
    tracing::warn!(pool = name, domain = ask.domain, "the keys of a domain are destroyed");
    Ok(Did::Changed)
}

/// Does `f`, recorded before and after.
pub(super) fn recorded<T>(
    d: &Daemon,
    op: &str,
    pool: &str,
    what: &str,
    f: impl FnOnce() -> Result<T>,
) -> Result<T> {
    d.audit().begins(op, pool, what)?;
    let done = f();
    caisson_keys::cleanse_stack();
    d.audit().ended(op, pool, what, &done);
    done
}

/// New root keys, which wrap the pool's keys from here on.
pub fn rotate(d: &Daemon, name: &str, ask: &Rotate) -> Result<Did> {
    let _alone = d.keys_alone();
    let (pool, handle) = open(d, name)?;
    let only = ask.key.as_deref().map(key_uri).transpose()?;
    let what = only.as_ref().map_or("all providers".into(), ToString::to_string);
    let roots = recorded(d, "rotate", name, &what, || rekey::rotate(&pool, handle.as_ref(), only.as_ref()))?;
    tracing::info!("the keys of pool {name} are wrapped by {}", roots.join(", "));
    Ok(Did::Changed)
}

/// Takes a root key out of use, which stays where it is.
pub fn revoke_root(d: &Daemon, name: &str, ask: &RootAsk) -> Result<Did> {
    let (why, said) = match ask.reason.unwrap_or_default() {
        Why::Cessation => (Reason::Cessation, "it is not needed any more"),
        Why::Superseded => (Reason::Superseded, "another took its place"),
        Why::Compromise => (Reason::Compromise, "compromised"),
    };
    end_root(d, name, ask, "revoke-root", &format!("root key {}: {said}", ask.root), End::Revoked(why))
}

/// Destroys a root key.
pub fn destroy_root(d: &Daemon, name: &str, ask: &RootAsk) -> Result<Did> {
    if ask.reason.is_some() {
        return Err(bad("a reason is for a key that is revoked", "leave it out"));
    }
    end_root(d, name, ask, "destroy-root", &format!("root key {}", ask.root), End::Destroyed)
}

fn end_root(d: &Daemon, name: &str, ask: &RootAsk, op: &str, what: &str, end: End) -> Result<Did> {
    let _alone = d.keys_alone();
    let pool = pool(d, name)?;
    if ask.confirm != ask.root {
        return Err(bad(
            format!("root key {} is ended only where its name is said again", ask.root),
            &format!("add --confirm {}; that cannot be taken back", ask.root),
        ));
    }
    let only = ask.key.as_deref().map(key_uri).transpose()?;
    let users = users(d)?;
    let without =
        recorded(d, op, name, what, || retire::retire(&pool, &users, &ask.root, only.as_ref(), end))?;
    for other in without {
        tracing::warn!(pool = other, root = ask.root, "the pool opens with its other key slots alone");
    }
    Ok(Did::Changed)
}

/// All pools with their wrapped keys; of those that wait, what their devices say.
fn users(d: &Daemon) -> Result<Vec<User>> {
    let (handles, engine) = (d.pools(), d.engine());
    let mut users = Vec::new();
    for pool in d.objects().pools().cloned() {
        let handle = handles.get(&pool.name).cloned();
        let slots = match &handle {
            Some(handle) => handle.slots()?,
            None => {
                let mut slots = Vec::new();
                for device in &pool.devices {
                    if let Found::Pool(plain) = engine.look(&device.path)? {
                        slots.extend(plain.slots);
                    }
                }
                slots
            }
        };
        users.push(User { pool, handle, slots });
    }
    Ok(users)
}

/// Gives a pool another key provider.
pub fn add(d: &Daemon, name: &str, ask: &KeyAsk) -> Result<Did> {
    let _alone = d.keys_alone();
    let (pool, handle) = open(d, name)?;
    let uri = key_uri(&ask.key)?;
    if pool.providers().contains(&uri) {
        return Ok(Did::Nothing);
    }
    recorded(d, "add", name, &uri.to_string(), || {
        // What was wrapped and is not configured is in nobody's way; the other way round, it would be missed.
        rekey::add(&pool, handle.as_ref(), &uri)?;
        change(d, name, |p| p.keys.push(uri.clone()))
    })
}

/// Takes a key provider away from a pool that opens without it.
pub fn remove(d: &Daemon, name: &str, ask: &KeyAsk) -> Result<Did> {
    let _alone = d.keys_alone();
    let (pool, handle) = open(d, name)?;
    let uri = key_uri(&ask.key)?;
    let found =
        pool.providers().into_iter().find(|u| *u == uri || u.path().is_some() && u.path() == uri.path());
    let Some(uri) = found else {
        return Err(bad(
            format!("pool {name} has no key provider {uri}"),
            &format!("see `caisson key status {name}` for those that it has"),
        ));
    };
    recorded(d, "remove", name, &uri.to_string(), || {
        rekey::remove(&pool, handle.as_ref(), &uri)?;
        let others: Vec<KeyUri> = pool.providers().into_iter().filter(|u| *u != uri).collect();
        change(d, name, |p| *p = rekey::others_of(p, &others))
    })
}

fn change(d: &Daemon, name: &str, change: impl FnOnce(&mut Pool)) -> Result<Did> {
    d.change(|o| {
        let Some(pool) = o.pool(name) else { return Ok(Vec::new()) };
        let mut pool = pool.clone();
        change(&mut pool);
        Ok(vec![(key::pool(name), Some(Item::Pool(pool)))])
    })
}

/// Asks for a waiting pool's keys now.
pub fn retry(d: &Daemon, name: &str) -> Result<Did> {
    pool(d, name)?;
    d.retry(name)
}

/// Makes a recovery key, and gives its shares: the only time that they are anywhere.
pub fn export_recovery(d: &Daemon, name: &str, ask: &Export) -> Result<Shares> {
    let _alone = d.keys_alone();
    let (pool, handle) = open(d, name)?;
    let what = format!("{} shares, {} needed", ask.shares, ask.needed);
    let shares = recorded(d, "export-recovery", name, &what, || {
        rekey::export(&pool, handle.as_ref(), ask.shares, ask.needed)
    })?;
    Ok(Shares { shares: shares.iter().map(|s| s.text().to_string()).collect() })
}
