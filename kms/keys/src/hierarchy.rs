//! The hierarchy of a pool's keys.
//!
//! Owns how a pool's secrets are made, wrapped, unlocked and derived: a root key in a provider wraps one random secret for the
//! pool itself (domain 0) and one for each domain; an epoch's secret and the fingerprint key are derived from the domain's.
//! It must never show a secret, and never hold one longer than the [`PoolSecrets`] that it gives out.

use crate::{Context, KeyError, KeyProvider, KeySlot, Purpose, Secret, derive};
use std::collections::BTreeMap;
use std::fmt;

/// The domain of the pool's own metadata.
pub const POOL_DOMAIN: u32 = 0;

/// The domain (tenant) that every pool has from its creation.
pub const DEFAULT_DOMAIN: u32 = 1;

/// The epoch that a domain begins with.
pub const FIRST_EPOCH: u16 = 1;

/// Bytes of every secret of the hierarchy.
const SECRET_LEN: usize = 32;

/// Writes random bytes into all of what it is given.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<(), KeyError>;

/// The unlocked secrets of one pool. Erased when dropped; `Debug` shows which there are.
pub struct PoolSecrets {
    pool: [u8; 16],
    domains: BTreeMap<u32, Domain>,
}

struct Domain {
    secret: Secret,
    /// None for the pool's own domain, which is never deduplicated.
    fingerprint: Option<Secret>,
    epochs: BTreeMap<u16, Secret>,
}

impl PoolSecrets {
    /// The pool that these belong to.
    pub fn pool(&self) -> [u8; 16] {
        self.pool
    }

    /// The domains, [`POOL_DOMAIN`] first.
    pub fn domains(&self) -> impl Iterator<Item = u32> + '_ {
        self.domains.keys().copied()
    }

    /// The secret of an epoch of a domain, from which its sealing keys are derived; `None` where it is not unlocked.
    pub fn epoch(&self, domain: u32, epoch: u16) -> Option<&Secret> {
        self.domains.get(&domain)?.epochs.get(&epoch)
    }

    /// Every unlocked (domain, epoch) with its secret, in order.
    pub fn epochs(&self) -> impl Iterator<Item = (u32, u16, &Secret)> {
        self.domains
            .iter()
            .flat_map(|(domain, d)| d.epochs.iter().map(|(epoch, secret)| (*domain, *epoch, secret)))
    }

    /// A domain's fingerprint key; `None` for [`POOL_DOMAIN`] and for a domain that is not unlocked.
    pub fn fingerprint(&self, domain: u32) -> Option<&Secret> {
        self.domains.get(&domain)?.fingerprint.as_ref()
    }

    /// Makes an epoch of a domain usable: [`FIRST_EPOCH`] of each is from the start. Gives `None` for a domain that is not
    /// unlocked and for epoch 0, which means "none".
    pub fn open_epoch(&mut self, domain: u32, epoch: u16) -> Option<&Secret> {
        let pool = self.pool;
        let d = self.domains.get_mut(&domain).filter(|_| epoch != 0)?;
        let Domain { secret, epochs, .. } = d;
        Some(
            epochs
                .entry(epoch)
                .or_insert_with(|| derive(secret, &context(Purpose::Epoch, pool, domain, epoch))),
        )
    }

    /// Takes the unlocked epochs' secrets out, for the keyring that seals with them; [`PoolSecrets::open_epoch`] derives one
    /// again.
    pub fn take_epochs(&mut self) -> Vec<((u32, u16), Secret)> {
        let mut taken = Vec::new();
        for (domain, d) in &mut self.domains {
            let epochs = std::mem::take(&mut d.epochs);
            taken.extend(epochs.into_iter().map(|(epoch, secret)| ((*domain, epoch), secret)));
        }
        taken
    }

    /// Forgets an epoch's secret, once nothing is sealed under it any more.
    pub fn close_epoch(&mut self, domain: u32, epoch: u16) {
        if let Some(d) = self.domains.get_mut(&domain) {
            d.epochs.remove(&epoch);
        }
    }

    /// A set with a domain's secret and what follows from it.
    fn add(&mut self, domain: u32, secret: Secret) {
        let fingerprint = (domain != POOL_DOMAIN)
            .then(|| derive(&secret, &context(Purpose::Fingerprint, self.pool, domain, 0)));
        self.domains.insert(domain, Domain { secret, fingerprint, epochs: BTreeMap::new() });
        self.open_epoch(domain, FIRST_EPOCH);
    }
}

impl fmt::Debug for PoolSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epochs: Vec<_> = self.epochs().map(|(domain, epoch, _)| (domain, epoch)).collect();
        write!(f, "PoolSecrets((domain, epoch): {epochs:?})")
    }
}

fn context(purpose: Purpose, pool: [u8; 16], domain: u32, epoch: u16) -> Context {
    Context { purpose, pool, domain: domain.into(), epoch: epoch.into() }
}

/// What the secret of `domain` is wrapped as.
fn purpose_of(domain: u32) -> Purpose {
    if domain == POOL_DOMAIN { Purpose::Pool } else { Purpose::Domain }
}

fn called(domain: u32) -> String {
    if domain == POOL_DOMAIN { "the pool itself".into() } else { format!("domain {domain}") }
}

/// Makes the keys of a new pool: a secret for the pool and one for [`DEFAULT_DOMAIN`], wrapped by `provider`.
///
/// The slots are to be stored in the superblock; until they are durable there, nothing may be sealed with the secrets.
pub fn create_pool_keys(
    provider: &dyn KeyProvider,
    pool: [u8; 16],
    random: Random<'_>,
) -> Result<(PoolSecrets, Vec<KeySlot>), KeyError> {
    let mut secrets = PoolSecrets { pool, domains: BTreeMap::new() };
    for domain in [POOL_DOMAIN, DEFAULT_DOMAIN] {
        secrets.add(domain, Secret::filled(SECRET_LEN, &mut *random)?);
    }
    let slots = wrap_pool_keys(provider, &secrets)?;
    Ok((secrets, slots))
}

/// Wraps every secret of an unlocked pool with `provider`: for a second provider beside the first, or under a new root key.
pub fn wrap_pool_keys(provider: &dyn KeyProvider, secrets: &PoolSecrets) -> Result<Vec<KeySlot>, KeyError> {
    let wrap = |(domain, d): (&u32, &Domain)| {
        let purpose = purpose_of(*domain);
        let wrapped = provider.wrap(&d.secret, &context(purpose, secrets.pool, *domain, 0))?;
        Ok(KeySlot { purpose, domain: *domain, epoch: 0, provider: provider.name().into(), wrapped })
    };
    secrets.domains.iter().map(wrap).collect()
}

/// Unlocks a pool: unwraps the secret of the pool and of each domain that has a slot, and derives [`FIRST_EPOCH`] of each.
///
/// Several slots may hold the same secret; those whose provider is among `providers` are tried in their order. Where none of
/// them gives the secret, the error is the one that [says most](KeyError::rank). Slots of purposes that are not the hierarchy's are left alone.
pub fn unlock(
    providers: &[&dyn KeyProvider],
    pool: [u8; 16],
    slots: &[KeySlot],
) -> Result<PoolSecrets, KeyError> {
    let mut secrets = PoolSecrets { pool, domains: BTreeMap::new() };
    let mut by_domain: BTreeMap<u32, Vec<&KeySlot>> = BTreeMap::from([(POOL_DOMAIN, Vec::new())]);
    for slot in slots.iter().filter(|slot| slot.purpose == purpose_of(slot.domain)) {
        by_domain.entry(slot.domain).or_default().push(slot);
    }
    for (domain, slots) in by_domain {
        secrets.add(domain, unlock_one(providers, pool, domain, &slots)?);
    }
    Ok(secrets)
}

fn unlock_one(
    providers: &[&dyn KeyProvider],
    pool: [u8; 16],
    domain: u32,
    slots: &[&KeySlot],
) -> Result<Secret, KeyError> {
    let first = slots.first().ok_or_else(|| KeyError::NoSlot { what: called(domain) })?;
    let mut error = KeyError::NoProvider {
        what: called(domain),
        provider: first.provider.clone(),
        root: first.wrapped.root.clone(),
    };
    for slot in slots {
        for provider in providers.iter().filter(|p| p.name() == slot.provider) {
            match provider.unwrap(&slot.wrapped, &slot.context(pool)) {
                Ok(secret) if secret.len() == SECRET_LEN => return Ok(secret),
                Ok(_) => error = KeyError::NotAuthentic,
                Err(e) if e.rank() >= error.rank() => error = e,
                Err(_) => {}
            }
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ProviderStatus, Wrapped};
    use std::sync::Mutex;

    /// Keeps what it wraps, by number; `away` makes it fail.
    struct Keeper {
        name: &'static str,
        away: Option<KeyError>,
        kept: Mutex<Vec<(Context, Vec<u8>)>>,
    }

    fn keeper(name: &'static str) -> Keeper {
        Keeper { name, away: None, kept: Mutex::default() }
    }

    impl KeyProvider for Keeper {
        fn name(&self) -> &str {
            self.name
        }

        fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
            let mut kept = self.kept.lock().unwrap();
            kept.push((*context, secret.expose().to_vec()));
            Ok(Wrapped { root: "root".into(), blob: vec![kept.len() as u8 - 1] })
        }

        fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
            if let Some(error) = &self.away {
                return Err(error.clone());
            }
            let kept = self.kept.lock().unwrap();
            let found = kept.get(usize::from(wrapped.blob[0])).filter(|(bound, _)| bound == context);
            found.map(|(_, bytes)| Secret::take(&mut bytes.clone())).ok_or(KeyError::NotAuthentic)
        }

        fn roots(&self) -> Result<Vec<String>, KeyError> {
            Ok(vec!["root".into()])
        }

        fn add_root(&mut self) -> Result<String, KeyError> {
            Ok("root".into())
        }

        fn status(&self) -> ProviderStatus {
            ProviderStatus::Ready
        }
    }

    const POOL: [u8; 16] = [7; 16];

    fn counting() -> impl FnMut(&mut [u8]) -> Result<(), KeyError> {
        let mut next = 0u8;
        move |out| {
            out.iter_mut().for_each(|b| {
                next = next.wrapping_add(1);
                *b = next;
            });
            Ok(())
        }
    }

    fn same(a: &PoolSecrets, b: &PoolSecrets) -> bool {
        a.epochs().eq(b.epochs()) && a.domains().all(|d| a.fingerprint(d) == b.fingerprint(d))
    }

    #[test]
    fn what_was_created_unlocks_to_the_same() {
        let provider = keeper("file");
        let (made, slots) = create_pool_keys(&provider, POOL, &mut counting()).unwrap();
        assert_eq!(
            slots.iter().map(|s| (s.purpose, s.domain, s.epoch)).collect::<Vec<_>>(),
            [(Purpose::Pool, 0, 0), (Purpose::Domain, 1, 0)]
        );
        let opened = unlock(&[&provider], POOL, &slots).unwrap();
        assert!(same(&made, &opened));
        assert_eq!(made.domains().collect::<Vec<_>>(), [0, 1]);
        assert!(made.fingerprint(0).is_none() && made.fingerprint(1).is_some());
        assert_eq!(format!("{made:?}"), "PoolSecrets((domain, epoch): [(0, 1), (1, 1)])");
    }

    #[test]
    fn every_secret_is_another() {
        let (mut made, _) = create_pool_keys(&keeper("file"), POOL, &mut counting()).unwrap();
        made.open_epoch(1, 2).unwrap();
        let mut all: Vec<Vec<u8>> = made.epochs().map(|(_, _, s)| s.expose().to_vec()).collect();
        all.push(made.fingerprint(1).unwrap().expose().to_vec());
        all.extend(made.domains.values().map(|d| d.secret.expose().to_vec()));
        assert_eq!(all.len(), 6);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn epochs_open_close_and_come_back_the_same() {
        let (mut made, _) = create_pool_keys(&keeper("file"), POOL, &mut counting()).unwrap();
        let second = made.open_epoch(1, 2).unwrap().expose().to_vec();
        assert!(made.epoch(1, 2).is_some() && made.epoch(0, 2).is_none());
        made.close_epoch(1, 2);
        assert!(made.epoch(1, 2).is_none());
        assert_eq!(made.open_epoch(1, 2).unwrap().expose(), second);
        assert!(made.open_epoch(1, 0).is_none() && made.open_epoch(9, 1).is_none());
        let taken: Vec<_> = made.take_epochs().into_iter().map(|(at, _)| at).collect();
        assert_eq!(taken, [(0, 1), (1, 1), (1, 2)]);
        assert_eq!(made.epochs().count(), 0);
        assert_eq!(made.open_epoch(1, 2).unwrap().expose(), second);
    }

    #[test]
    fn any_of_several_providers_unlocks_and_errors_say_which_is_wanted() {
        let (hsm, recovery) = (keeper("hsm"), keeper("recovery"));
        let (made, mut slots) = create_pool_keys(&hsm, POOL, &mut counting()).unwrap();
        slots.extend(wrap_pool_keys(&recovery, &made).unwrap());
        assert!(same(&made, &unlock(&[&recovery], POOL, &slots).unwrap()));
        let gone = KeyError::Unavailable { provider: "hsm".into(), cause: "refused".into() };
        let away = Keeper { away: Some(gone.clone()), ..keeper("hsm") };
        assert!(same(&made, &unlock(&[&away, &recovery], POOL, &slots).unwrap()));
        // What may pass by itself is said before what does not.
        let wrong = Keeper { away: Some(KeyError::NotAuthentic), ..keeper("recovery") };
        assert_eq!(unlock(&[&away, &wrong], POOL, &slots).unwrap_err(), gone);
        let error = unlock(&[&keeper("file")], POOL, &slots).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the keys of the pool itself are wrapped by key provider \"hsm\" (root key \"root\"), which is not configured"
        );
        assert!(error.remedy().contains("\"hsm\""));
    }

    #[test]
    fn another_pool_or_a_swapped_slot_does_not_unlock() {
        let provider = keeper("file");
        let (_, slots) = create_pool_keys(&provider, POOL, &mut counting()).unwrap();
        assert_eq!(unlock(&[&provider], [8; 16], &slots).unwrap_err(), KeyError::NotAuthentic);
        let mut swapped = slots.clone();
        let taken = swapped[0].wrapped.clone();
        swapped[0].wrapped = std::mem::replace(&mut swapped[1].wrapped, taken);
        assert_eq!(unlock(&[&provider], POOL, &swapped).unwrap_err(), KeyError::NotAuthentic);
        let error = unlock(&[&provider], POOL, &slots[1..]).unwrap_err();
        assert_eq!(error, KeyError::NoSlot { what: "the pool itself".into() });
    }

    #[test]
    fn without_random_bytes_there_are_no_keys() {
        let none = KeyError::NoRandom { cause: "none".into() };
        let error = create_pool_keys(&keeper("file"), POOL, &mut |_| Err(none.clone())).unwrap_err();
        assert_eq!(error, none);
    }

    #[test]
    fn a_secret_of_another_length_is_refused() {
        let provider = keeper("file");
        let (_, slots) = create_pool_keys(&provider, POOL, &mut counting()).unwrap();
        provider.kept.lock().unwrap()[0].1.pop();
        assert_eq!(unlock(&[&provider], POOL, &slots).unwrap_err(), KeyError::NotAuthentic);
    }
}
