//! A pool's keys: its key providers, opened or made, and its secrets.
//!
//! Owns the order in which providers are asked, and telling what was made and what is wrong. It must never keep a provider, a
//! passphrase or a PIN: what stays is the pool's unlocked secrets.

use crate::model;
use crate::refusal::{Cause, Refusal};
use caisson_keys::{KeyError, KeySlot, KeyUri, PoolSecrets, cleanse_stack, create_pool_keys, wrap_pool_keys};
use caisson_providers::{How, Opened, os_random};

/// Opens what `uri` names; where a test has put something between, that.
///
/// # Errors
/// The provider's.
pub fn open(uri: &KeyUri, how: How) -> Result<Opened, KeyError> {
    #[cfg(test)]
    if let Some(opened) = super::faulty_for_tests::open(uri, how) {
        return opened;
    }
    caisson_providers::open(uri, how)
}

/// The kind of refusal that an error of keys is.
fn cause(e: &KeyError) -> Cause {
    match e {
        KeyError::Unavailable { .. } | KeyError::LockedOut { .. } => Cause::Away,
        KeyError::Local { .. } | KeyError::NoRandom { .. } | KeyError::NotInstalled { .. } => Cause::System,
        KeyError::NoSuchKey { .. } | KeyError::NoSuchToken { .. } => Cause::NotFound,
        KeyError::Revoked { .. } => Cause::Conflict,
        _ => Cause::Invalid,
    }
}

/// A key's error, for an operator.
pub fn of_key(pool: &model::Pool, e: &KeyError) -> Refusal {
    let mut refusal =
        Refusal::new(cause(e), format!("pool {:?} cannot be unlocked: {e}", pool.name), e.remedy());
    refusal.after_s = e.wait_s();
    refusal
}

/// The errors of all providers that were asked: the one that says most, with its remedy, and the others behind it.
fn of_all(pool: &model::Pool, mut errors: Vec<KeyError>) -> Refusal {
    // Stable: of those that say as much, the first that was configured is told first.
    errors.sort_by_key(|e| std::cmp::Reverse(e.rank()));
    let mut all = errors.iter();
    let Some(first) = all.next() else {
        return Refusal::invalid(
            format!("pool {:?} has no key provider", pool.name),
            "name one (--key-file FILE)",
        );
    };
    let mut refusal = of_key(pool, first);
    all.for_each(|e| refusal.error += &format!("; and {e}"));
    refusal
}

/// The keys for a new pool, and whether a key file or root key was made for it. Every provider wraps them; all must be there
/// now. A person is asked only where `ask` says so.
pub fn create(
    pool: &model::Pool,
    id: [u8; 16],
    ask: bool,
) -> Result<(PoolSecrets, Vec<KeySlot>, bool), Refusal> {
    let fail = |e: KeyError| of_key(pool, &e);
    let how = How { ask, make: true };
    let mut made = false;
    let mut keys: Option<(PoolSecrets, Vec<KeySlot>)> = None;
    for uri in pool.providers() {
        let opened = open(&uri, how).map_err(fail)?;
        made |= opened.made;
        let provider = opened.provider.as_ref();
        match &mut keys {
            None => keys = Some(create_pool_keys(provider, id, &mut os_random).map_err(fail)?),
            Some((secrets, slots)) => slots.extend(wrap_pool_keys(provider, secrets).map_err(fail)?),
        }
    }
    cleanse_stack();
    let (secrets, slots) = keys.ok_or_else(|| of_all(pool, Vec::new()))?;
    Ok((secrets, slots, made))
}

/// Unlocks a pool that there is: the first provider that can opens it, and those behind it are not asked.
pub fn unlock(
    pool: &model::Pool,
    id: [u8; 16],
    slots: &[KeySlot],
    ask: bool,
) -> Result<PoolSecrets, Refusal> {
    let how = How { ask, make: false };
    let mut errors = Vec::new();
    for uri in pool.providers() {
        let unlocked = unlock_with(&uri, id, slots, how);
        cleanse_stack();
        match unlocked {
            Ok(secrets) => return Ok(secrets),
            Err(e) => errors.push(e),
        }
    }
    Err(of_all(pool, errors))
}

fn unlock_with(uri: &KeyUri, id: [u8; 16], slots: &[KeySlot], how: How) -> Result<PoolSecrets, KeyError> {
    // Nobody is asked for a PIN, and nothing counted against one, where no slot could be opened with it.
    if !slots.iter().any(|s| s.provider == uri.scheme().name()) {
        return caisson_keys::unlock(&[], id, slots);
    }
    let Opened { provider, .. } = open(uri, how)?;
    caisson_keys::unlock(&[provider.as_ref()], id, slots)
}
