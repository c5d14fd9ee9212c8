//! Domains and key epochs of a pool that is open: made, begun anew, destroyed.
//!
//! Owns the order of steps towards the key providers: every provider that wraps keys of the pool has wrapped what is new, and was seen to
//! give it back, before the pool hears of it. Recovery shares, which people hold, have what is new sealed to them; where they are of an
//! earlier version, and cannot, that is told. It must never keep a secret.

use super::PoolHandle;
use super::keys::{of_key, open, unlock};
use crate::model;
use crate::refusal::Refusal;
use caisson_keys::limits::{self, Limits};
use caisson_keys::{KeyError, KeySlot, PoolSecrets, wrap_epoch};
use caisson_providers::{How, RecoveryPublic, os_random};

/// The name of a domain that every pool has.
pub const DEFAULT_DOMAIN: &str = "default";

/// The name of what belongs to no domain: headers, tables, checkpoints.
pub const POOL_DOMAIN: &str = "pool";

/// The number of a domain that is in use.
///
/// # Errors
/// There is none of that name.
pub fn named(pool: &str, handle: &dyn PoolHandle, name: &str) -> Result<u32, Refusal> {
    let found = handle.domains().into_iter().find(|d| d.name == name && d.epoch != 0);
    found.map(|d| d.domain).ok_or_else(|| {
        Refusal::not_found(
            format!("pool {pool} has no domain {name}"),
            format!("see `caisson key status {pool}` for those that it has, or make it: caisson key create {pool} --domain {name}"),
        )
    })
}

/// Draws the keys of an epoch, and has every provider wrap them. Gives the secrets that are new, and all slots.
fn drawn(
    pool: &model::Pool,
    handle: &dyn PoolHandle,
    domain: u32,
    epoch: u16,
) -> Result<(PoolSecrets, Vec<KeySlot>), Refusal> {
    let fail = |e: KeyError| of_key(pool, &e);
    let id = handle.id();
    let mut slots = handle.slots()?;
    let mut secrets = unlock(pool, id, &slots, false)?;
    secrets.new_epoch(domain, epoch, &mut os_random).map_err(fail)?;
    let mut new = Vec::new();
    for uri in pool.providers() {
        // One that wraps nothing of this pool opens nothing of it afterwards either.
        if !slots.iter().any(|s| s.provider == uri.scheme().name()) {
            continue;
        }
        let provider = open(&uri, How::default()).map_err(fail)?.provider;
        let slot = wrap_epoch(provider.as_ref(), &secrets, domain, epoch).map_err(fail)?;
        let mut own: Vec<KeySlot> = slots.iter().filter(|s| s.provider == provider.name()).cloned().collect();
        own.push(slot.clone());
        let back = caisson_keys::unlock(&[provider.as_ref()], id, &own).map_err(fail)?;
        if back.epoch(domain, epoch) != secrets.epoch(domain, epoch) {
            return Err(fail(KeyError::NotAuthentic));
        }
        new.push(slot);
    }
    if new.is_empty() {
        return Err(fail(KeyError::NoSlot { what: format!("domain {domain}, epoch {epoch}") }));
    }
    // Nobody can be asked to open it again: that is what the shares are for.
    if let Some(recovery) = RecoveryPublic::of(&slots, &secrets).map_err(fail)? {
        new.push(wrap_epoch(&recovery, &secrets, domain, epoch).map_err(fail)?);
    }
    slots.extend(new);
    Ok((secrets, slots))
}

/// Begins another epoch of a domain: what is written from then on is sealed under new random keys, and what there is, in the background.
/// Gives the epoch.
///
/// # Errors
/// A provider's, with nothing changed; the pool's.
pub fn rotate(pool: &model::Pool, handle: &dyn PoolHandle, domain: u32) -> Result<u16, Refusal> {
    let (_, epoch) = handle.next()?;
    let (secrets, slots) = drawn(pool, handle, domain, epoch)?;
    handle.open_epoch(secrets, domain, epoch, &slots)?;
    Ok(epoch)
}

/// Makes a domain. Gives its number.
///
/// # Errors
/// A provider's, with nothing changed; the name is taken; the pool's.
pub fn create(pool: &model::Pool, handle: &dyn PoolHandle, name: &str) -> Result<u32, Refusal> {
    model::check_volume_name(name).map_err(|e| {
        Refusal::invalid(e.replace("volume", "domain"), "use letters, digits, `-`, `_` and `.`")
    })?;
    let (domain, epoch) = handle.next()?;
    let (secrets, slots) = drawn(pool, handle, domain, epoch)?;
    handle.create_domain(name, secrets, domain, epoch, &slots)?;
    Ok(domain)
}

/// Domains whose present epoch has sealed as much as one may: their numbers and names.
pub fn used_up(handle: &dyn PoolHandle, limits: Limits) -> Vec<(u32, String)> {
    let over = |d: &super::Domain| d.epoch != 0 && limits::reached(limits, d.sealed_records, d.sealed_bytes);
    handle.domains().into_iter().filter(over).map(|d| (d.domain, d.name)).collect()
}

/// The providers of which some slot is there and that do not wrap everything: alone, they open the pool no more.
pub fn incomplete(slots: &[KeySlot]) -> Vec<String> {
    let mut names: Vec<&str> = slots.iter().map(|s| s.provider.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let has = |name: &str, of: &KeySlot| {
        slots.iter().any(|s| s.provider == name && (s.domain, s.epoch) == (of.domain, of.epoch))
    };
    names.into_iter().filter(|n| !slots.iter().all(|of| has(n, of))).map(str::to_owned).collect()
}
