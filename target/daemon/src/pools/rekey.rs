//! Other wrapped keys for a pool that is open: a new root key, a provider more or less, shares for a recovery.
//!
//! Owns the order of steps. What is new is wrapped, unwrapped again and compared before anything is given up; then the pool's key
//! slots are replaced in one write. So whatever stops in between, the pool opens with what it opened with before. No block is
//! sealed anew here, and no secret is kept.

use super::PoolHandle;
use super::keys::{of_key, open, unlock};
use crate::model;
use crate::refusal::Refusal;
use caisson_keys::{KeyError, KeyProvider, KeySlot, KeyUri, PoolSecrets, wrap_pool_keys};
use caisson_providers::{How, RECOVERY, Recovery, Share, os_random};

/// The pool's number, its secrets, and the slots that it has.
fn had(
    pool: &model::Pool,
    handle: &dyn PoolHandle,
) -> Result<([u8; 16], PoolSecrets, Vec<KeySlot>), Refusal> {
    let id = handle.id();
    let slots = handle.slots()?;
    let secrets = unlock(pool, id, &slots, false)?;
    Ok((id, secrets, slots))
}

/// Wraps with `provider`, and sees that it gives back what it got.
fn wrapped(provider: &dyn KeyProvider, secrets: &PoolSecrets) -> Result<Vec<KeySlot>, KeyError> {
    let slots = wrap_pool_keys(provider, secrets)?;
    let back = caisson_keys::unlock(&[provider], secrets.pool(), &slots)?;
    if !back.epochs().eq(secrets.epochs()) {
        return Err(KeyError::NotAuthentic);
    }
    Ok(slots)
}

/// Whether a slot was wrapped by one of a provider's root keys.
fn is_of(slot: &KeySlot, provider: &str, roots: &[String]) -> bool {
    slot.provider == provider && roots.contains(&slot.wrapped.root)
}

/// Gives each of the providers, or the one that is named, a new root key, and has it wrap. Gives the new root keys.
///
/// # Errors
/// A provider's, with nothing changed in the pool; a root key that was made stays, unused.
pub fn rotate(
    pool: &model::Pool,
    handle: &dyn PoolHandle,
    only: Option<&KeyUri>,
) -> Result<Vec<String>, Refusal> {
    let fail = |e: KeyError| of_key(pool, &e);
    let (_, secrets, slots) = had(pool, handle)?;
    let uris: Vec<KeyUri> = pool.providers().into_iter().filter(|u| only.is_none_or(|o| o == u)).collect();
    if uris.is_empty() {
        return Err(not_configured(pool));
    }
    // All of them are there before the first is changed.
    let mut providers = Vec::new();
    for uri in &uris {
        providers.push(open(uri, How::default()).map_err(fail)?.provider);
    }
    let (mut kept, mut new, mut names) = (slots, Vec::new(), Vec::new());
    for provider in &mut providers {
        let before = provider.roots().map_err(fail)?;
        let root = provider.add_root().map_err(fail)?;
        new.extend(wrapped(provider.as_ref(), &secrets).map_err(fail)?);
        kept.retain(|slot| !is_of(slot, provider.name(), &before));
        names.push(format!("{} {root}", provider.name()));
    }
    kept.splice(0..0, new);
    handle.set_slots(&kept)?;
    Ok(names)
}

fn not_configured(pool: &model::Pool) -> Refusal {
    let all: Vec<String> = pool.providers().iter().map(ToString::to_string).collect();
    Refusal::not_found(
        format!("pool {} has no such key provider", pool.name),
        format!("name one of: {}", all.join(", ")),
    )
}

/// Has another provider wrap the pool's keys, too; a key file or root key is made where there is none. Gives whether one was made.
///
/// # Errors
/// The providers'; the slots do not fit.
pub fn add(pool: &model::Pool, handle: &dyn PoolHandle, uri: &KeyUri) -> Result<bool, Refusal> {
    let fail = |e: KeyError| of_key(pool, &e);
    let (_, secrets, mut slots) = had(pool, handle)?;
    let opened = open(uri, How { ask: false, make: true }).map_err(fail)?;
    let roots = opened.provider.roots().map_err(fail)?;
    let new = wrapped(opened.provider.as_ref(), &secrets).map_err(fail)?;
    slots.retain(|slot| !is_of(slot, opened.provider.name(), &roots));
    slots.extend(new);
    handle.set_slots(&slots)?;
    Ok(opened.made)
}

/// Takes away what a provider wrapped, once the others were seen to open the pool. A provider that does not answer is known by its
/// kind, where no other of that kind is configured.
///
/// # Errors
/// No other opens the pool; which slots are meant cannot be known.
pub fn remove(pool: &model::Pool, handle: &dyn PoolHandle, uri: &KeyUri) -> Result<(), Refusal> {
    let others: Vec<KeyUri> = pool.providers().into_iter().filter(|u| u != uri).collect();
    let name = uri.scheme().name();
    let slots = handle.slots()?;
    let kind = |slot: &KeySlot| slot.provider == name;
    let roots = open(uri, How::default()).and_then(|o| o.provider.roots());
    let gone = |slot: &KeySlot| match &roots {
        Ok(roots) => is_of(slot, name, roots),
        Err(_) => kind(slot),
    };
    if let Err(e) = &roots
        && others.iter().any(|u| u.scheme() == uri.scheme())
    {
        let mut refusal = of_key(pool, e);
        refusal.error = format!("which keys {uri} wrapped cannot be known: {e}");
        return Err(refusal);
    }
    let kept: Vec<KeySlot> = slots.iter().filter(|s| !gone(s)).cloned().collect();
    let rest = others_of(pool, &others);
    // Else the pool could never be opened again.
    unlock(&rest, handle.id(), &kept, false).map_err(|e| {
        Refusal::conflict(
            format!("without {uri}, the pool would not open: {}", e.error),
            "add another key provider first (caisson key add), and see that it answers",
        )
    })?;
    if kept.len() == slots.len() { Ok(()) } else { handle.set_slots(&kept) }
}

/// The pool with these providers only.
pub fn others_of(pool: &model::Pool, uris: &[KeyUri]) -> model::Pool {
    let mut pool = pool.clone();
    let file = pool.providers().into_iter().find(|u| pool.key_file.is_some() && !pool.keys.contains(u));
    if file.is_some_and(|f| !uris.contains(&f)) {
        (pool.key_file, pool.passphrase_file) = (None, None);
    }
    pool.keys.retain(|u| uris.contains(u));
    pool
}

/// Has a recovery key wrap the pool's keys, and gives its shares; those of an earlier one open nothing any more.
///
/// # Errors
/// The providers'; numbers of shares that make no sense.
pub fn export(
    pool: &model::Pool,
    handle: &dyn PoolHandle,
    shares: u8,
    needed: u8,
) -> Result<Vec<Share>, Refusal> {
    let fail = |e: KeyError| of_key(pool, &e);
    let (id, secrets, mut slots) = had(pool, handle)?;
    let recovery = Recovery::new(&mut os_random).map_err(fail)?;
    let made = recovery
        .split(id, shares, needed, &mut os_random)
        .map_err(|e| Refusal::invalid(e.to_string(), e.remedy()))?;
    // The shares themselves are put together, before people rely on them.
    let joined = Recovery::join(&made).map_err(fail)?;
    let new = wrapped(&joined, &secrets).map_err(fail)?;
    slots.retain(|slot| slot.provider != RECOVERY);
    slots.extend(new);
    handle.set_slots(&slots)?;
    Ok(made)
}
