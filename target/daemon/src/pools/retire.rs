//! The end of a root key: taken out of use, or destroyed, in the provider that holds it.
//!
//! Owns the judgement that nobody needs it, and the order of steps: every pool whose keys it wraps was seen to open with its other key slots,
//! and has given up those that the key wrapped, before the provider hears of it. So whatever stops in between, each pool opens; a key that is
//! there still and wraps nothing is ended by asking again. It must never be told that a key may go by anything but the pools' slots.

use super::PoolHandle;
use super::keys::{of_key, open, unlock};
use crate::model;
use crate::refusal::Refusal;
use caisson_keys::{KeyProvider, KeySlot, KeyUri, Reason};
use caisson_providers::How;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What becomes of a root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is kept and not used any more.
    Revoked(Reason),
    /// It is gone.
    Destroyed,
}

/// A pool that may need the key.
pub struct User {
    /// The pool.
    pub pool: model::Pool,
    /// None where it waits for its keys.
    pub handle: Option<Arc<dyn PoolHandle>>,
    /// Its wrapped keys.
    pub slots: Vec<KeySlot>,
}

/// The provider among those of `pool`, or that `only` names, that holds `root`.
fn holder(
    pool: &model::Pool,
    root: &str,
    only: Option<&KeyUri>,
) -> Result<(KeyUri, Box<dyn KeyProvider>), Refusal> {
    let uris = only.map_or_else(|| pool.providers(), |uri| vec![uri.clone()]);
    let mut error = None;
    for uri in &uris {
        match open(uri, How::default()).and_then(|o| Ok((o.provider.roots()?, o.provider))) {
            Ok((roots, provider)) if roots.iter().any(|r| r == root) => return Ok((uri.clone(), provider)),
            Ok(_) => {}
            Err(e) => error = Some(e),
        }
    }
    match error {
        Some(e) => {
            let mut refusal = of_key(pool, &e);
            refusal.error = format!("the provider of root key {root} cannot be asked: {e}");
            Err(refusal)
        }
        None => {
            let all: Vec<String> = uris.iter().map(ToString::to_string).collect();
            Err(Refusal::not_found(
                format!("none of these has a root key {root}: {}", all.join(", ")),
                format!(
                    "see `caisson key list {}` for those that wrap its keys; name another provider with --key URI",
                    pool.name
                ),
            ))
        }
    }
}

/// Whether the key wrapped what stands in a slot.
fn is_of(slot: &KeySlot, provider: &str, root: &str) -> bool {
    slot.provider == provider && slot.wrapped.root == root
}

/// The slots that a pool has without those that the key wrapped; none where the key wraps nothing of it.
///
/// # Errors
/// It would not open with what is left.
fn without(user: &User, provider: &str, root: &str) -> Result<Option<Vec<KeySlot>>, Refusal> {
    let wrapped = |s: &KeySlot| is_of(s, provider, root);
    if !user.slots.iter().any(wrapped) {
        return Ok(None);
    }
    let name = &user.pool.name;
    let needed = |why: String| {
        Refusal::conflict(
            format!("pool {name:?} needs root key {root} of {provider}: {why}"),
            format!(
                "have its keys wrapped by a new root key first (caisson key rotate {name}), or by another provider (caisson key add {name})"
            ),
        )
    };
    let Some(handle) = &user.handle else {
        return Err(needed("it waits for its keys, and what else opens it cannot be seen".into()));
    };
    let kept: Vec<KeySlot> = user.slots.iter().filter(|s| !wrapped(s)).cloned().collect();
    let secrets = |slots: &[KeySlot]| slots.iter().map(|s| (s.domain, s.epoch)).collect::<BTreeSet<_>>();
    if secrets(&kept) != secrets(&user.slots) {
        return Err(needed("nothing else wraps all of its keys".into()));
    }
    let opened = unlock(&user.pool, handle.id(), &kept, false);
    opened.map_err(|e| needed(format!("its other key slots do not open it: {}", e.error)))?;
    Ok(Some(kept))
}

/// Ends the root key `root` that a provider of `pool` holds, or the provider that `only` names. `users` are all pools that there are. Gives
/// the names of those that had it as one of several and open without it from now on.
///
/// # Errors
/// A pool needs it; there is no such key; the provider's. Nothing is lost then.
pub fn retire(
    pool: &model::Pool,
    users: &[User],
    root: &str,
    only: Option<&KeyUri>,
    end: End,
) -> Result<Vec<String>, Refusal> {
    let (_, mut provider) = holder(pool, root, only)?;
    // All are judged before the first gives anything up.
    let mut changes = Vec::new();
    for user in users {
        if let Some(kept) = without(user, provider.name(), root)? {
            changes.push((user, kept));
        }
    }
    for (user, kept) in &changes {
        user.handle.as_ref().map_or(Ok(()), |handle| handle.set_slots(kept))?;
    }
    let ended = match end {
        End::Revoked(why) => provider.revoke(root, why),
        End::Destroyed => provider.destroy(root),
    };
    if let Err(e) = ended {
        // What was given up is had back where the key still opens it. Where it does not, or does not answer, the key may have ended: then it
        // stays given up, the other slots open the pool, as was seen, and the same is asked for again.
        let opens = |user: &User| {
            let id = user.handle.as_ref().map(|handle| handle.id());
            let mut own = user.slots.iter().filter(|s| is_of(s, provider.name(), root));
            id.is_some_and(|id| own.all(|s| provider.unwrap(&s.wrapped, &s.context(id)).is_ok()))
        };
        for (user, _) in changes.iter().filter(|(user, _)| opens(user)) {
            if let Some(Err(error)) = user.handle.as_ref().map(|handle| handle.set_slots(&user.slots)) {
                tracing::warn!(%error, pool = user.pool.name, root, "the pool opens with its other key slots alone");
            }
        }
        let mut refusal = of_key(pool, &e);
        refusal.error = format!("root key {root} is not ended: {e}");
        return Err(refusal);
    }
    Ok(changes.iter().map(|(user, _)| user.pool.name.clone()).collect())
}
