//! The hierarchy of a pool's keys.
//!
//! Owns how a pool's secrets are made, wrapped, unlocked and derived. A root key in a provider wraps, for the pool itself (domain
//! 0) and the first domain, one random secret, from which the first epoch's secret and the fingerprint key are derived; for each
//! later epoch, and each other domain, a random secret of its own with the domain's fingerprint key beside it. So whoever has an
//! epoch's secret, or what the first came from, has no other epoch's.
//! It must never show a secret, and never hold one longer than the [`PoolSecrets`] that it gives out.

use crate::{Context, KeyError, KeyProvider, KeySlot, Purpose, Secret, derive};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
    /// What the first epoch and the fingerprint key come from; none where that epoch has ended, and in domains made later.
    base: Option<Secret>,
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

    /// Draws the secret of a new epoch, which nothing that was there before says anything of; and of a domain that there is
    /// not yet, its fingerprint key. [`FIRST_EPOCH`] belongs to those that every pool is made with.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`]; [`KeyError::BadSlots`] for an epoch that there is, or the first.
    pub fn new_epoch(&mut self, domain: u32, epoch: u16, random: Random<'_>) -> Result<(), KeyError> {
        if epoch <= FIRST_EPOCH || self.epoch(domain, epoch).is_some() {
            let cause = format!("epoch {epoch} of domain {domain} is not new");
            return Err(KeyError::BadSlots { cause });
        }
        let secret = Secret::filled(SECRET_LEN, &mut *random)?;
        let domain = match self.domains.entry(domain) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => {
                let prints = (*free.key() != POOL_DOMAIN).then(|| Secret::filled(SECRET_LEN, &mut *random));
                let fingerprint = prints.transpose()?;
                free.insert(Domain { base: None, fingerprint, epochs: BTreeMap::new() })
            }
        };
        domain.epochs.insert(epoch, secret);
        Ok(())
    }

    /// Takes the unlocked epochs' secrets out, for the keyring that seals with them. What is left wraps no more.
    pub fn take_epochs(&mut self) -> Vec<((u32, u16), Secret)> {
        let mut taken = Vec::new();
        for (domain, d) in &mut self.domains {
            let epochs = std::mem::take(&mut d.epochs);
            taken.extend(epochs.into_iter().map(|(epoch, secret)| ((*domain, epoch), secret)));
        }
        taken
    }

    /// A set with a domain's first secret and what follows from it.
    fn add(&mut self, domain: u32, base: Secret) {
        let pool = self.pool;
        let first = derive(&base, &context(Purpose::Epoch, pool, domain, FIRST_EPOCH));
        let fingerprint =
            (domain != POOL_DOMAIN).then(|| derive(&base, &context(Purpose::Fingerprint, pool, domain, 0)));
        let epochs = BTreeMap::from([(FIRST_EPOCH, first)]);
        self.domains.insert(domain, Domain { base: Some(base), fingerprint, epochs });
    }

    /// A set with an epoch's secret as it was wrapped: behind it stands the domain's fingerprint key.
    fn add_epoch(&mut self, domain: u32, epoch: u16, bundle: &Secret) -> Result<(), KeyError> {
        let (secret, prints) = bundle.expose().split_at(SECRET_LEN);
        let own = |bytes: &[u8]| {
            Secret::filled(SECRET_LEN, |out| {
                out.copy_from_slice(bytes);
                Ok::<(), KeyError>(())
            })
        };
        let prints = if domain == POOL_DOMAIN { None } else { Some(own(prints)?) };
        let d = self.domains.entry(domain).or_insert_with(|| Domain {
            base: None,
            fingerprint: None,
            epochs: BTreeMap::new(),
        });
        match (&d.fingerprint, prints) {
            (Some(held), Some(prints)) if *held != prints => return Err(KeyError::NotAuthentic),
            (None, prints) => d.fingerprint = prints,
            _ => {}
        }
        d.epochs.insert(epoch, own(secret)?);
        Ok(())
    }

    /// What is wrapped: each with the epoch that its slot names.
    fn wrapped(&self) -> impl Iterator<Item = (u32, u16)> + '_ {
        self.domains.iter().flat_map(|(domain, d)| {
            let later = d.epochs.keys().copied().filter(|epoch| *epoch > FIRST_EPOCH);
            d.base.iter().map(|_| 0).chain(later).map(|epoch| (*domain, epoch))
        })
    }

    /// The bytes that are wrapped for one of [`PoolSecrets::wrapped`].
    fn bundle(&self, domain: u32, epoch: u16) -> Option<Secret> {
        let d = self.domains.get(&domain)?;
        let secret = if epoch == 0 { d.base.as_ref()? } else { d.epochs.get(&epoch)? };
        let prints = if epoch == 0 { None } else { d.fingerprint.as_ref() };
        let len = SECRET_LEN + prints.map_or(0, Secret::len);
        let filled = Secret::filled(len, |out| {
            out[..SECRET_LEN].copy_from_slice(secret.expose());
            if let Some(prints) = prints {
                out[SECRET_LEN..].copy_from_slice(prints.expose());
            }
            Ok::<(), KeyError>(())
        });
        filled.ok()
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

/// What the secret of `domain` is wrapped as: 0 is the epoch of what the first one is derived from.
fn purpose_of(domain: u32, epoch: u16) -> Purpose {
    match (domain, epoch) {
        (POOL_DOMAIN, 0) => Purpose::Pool,
        (_, 0) => Purpose::Domain,
        _ => Purpose::Epoch,
    }
}

fn called(domain: u32, epoch: u16) -> String {
    let whole = if domain == POOL_DOMAIN { "the pool itself".into() } else { format!("domain {domain}") };
    if epoch == 0 { whole } else { format!("{whole}, epoch {epoch}") }
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
    secrets.wrapped().map(|(domain, epoch)| wrap_epoch(provider, secrets, domain, epoch)).collect()
}

/// Wraps the secret of one epoch, with its domain's fingerprint key; for epoch 0, what the first epoch comes from.
///
/// # Errors
/// The provider's; [`KeyError::NoSlot`] where there is no such epoch.
pub fn wrap_epoch(
    provider: &dyn KeyProvider,
    secrets: &PoolSecrets,
    domain: u32,
    epoch: u16,
) -> Result<KeySlot, KeyError> {
    let bundle = secrets.bundle(domain, epoch);
    let bundle = bundle.ok_or_else(|| KeyError::NoSlot { what: called(domain, epoch) })?;
    let purpose = purpose_of(domain, epoch);
    let wrapped = provider.wrap(&bundle, &context(purpose, secrets.pool, domain, epoch))?;
    Ok(KeySlot { purpose, domain, epoch, provider: provider.name().into(), wrapped })
}

/// Unlocks a pool: unwraps the secrets of the pool and of each domain that has a slot, and derives what follows from them.
///
/// Several slots may hold the same secret; those whose provider is among `providers` are tried in their order. Where none of
/// them gives a secret, the error is the one that [says most](KeyError::rank). Slots of purposes that are not the hierarchy's are left alone.
pub fn unlock(
    providers: &[&dyn KeyProvider],
    pool: [u8; 16],
    slots: &[KeySlot],
) -> Result<PoolSecrets, KeyError> {
    let mut secrets = PoolSecrets { pool, domains: BTreeMap::new() };
    let mut each: BTreeMap<(u32, u16), Vec<&KeySlot>> = BTreeMap::new();
    for slot in slots.iter().filter(|slot| slot.purpose == purpose_of(slot.domain, slot.epoch)) {
        each.entry((slot.domain, slot.epoch)).or_default().push(slot);
    }
    if !each.keys().any(|(domain, _)| *domain == POOL_DOMAIN) {
        return Err(KeyError::NoSlot { what: called(POOL_DOMAIN, 0) });
    }
    // By rising epoch: a domain's first secret comes before its later ones.
    for ((domain, epoch), slots) in each {
        let secret = unlock_one(providers, pool, (domain, epoch), &slots)?;
        if epoch == 0 {
            secrets.add(domain, secret);
        } else {
            secrets.add_epoch(domain, epoch, &secret)?;
        }
    }
    Ok(secrets)
}

fn unlock_one(
    providers: &[&dyn KeyProvider],
    pool: [u8; 16],
    (domain, epoch): (u32, u16),
    slots: &[&KeySlot],
) -> Result<Secret, KeyError> {
    let what = called(domain, epoch);
    let first = slots.first().ok_or_else(|| KeyError::NoSlot { what: what.clone() })?;
    let (provider, root) = (first.provider.clone(), first.wrapped.root.clone());
    let mut error = KeyError::NoProvider { what, provider, root };
    let prints = if epoch == 0 || domain == POOL_DOMAIN { 0 } else { SECRET_LEN };
    for slot in slots {
        for provider in providers.iter().filter(|p| p.name() == slot.provider) {
            match provider.unwrap(&slot.wrapped, &slot.context(pool)) {
                Ok(secret) if secret.len() == SECRET_LEN + prints => return Ok(secret),
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
        counting_from(0)
    }

    fn counting_from(mut next: u8) -> impl FnMut(&mut [u8]) -> Result<(), KeyError> {
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
        made.new_epoch(1, 2, &mut counting_from(100)).unwrap();
        let mut all: Vec<Vec<u8>> = made.epochs().map(|(_, _, s)| s.expose().to_vec()).collect();
        all.push(made.fingerprint(1).unwrap().expose().to_vec());
        all.extend(made.domains.values().filter_map(|d| Some(d.base.as_ref()?.expose().to_vec())));
        assert_eq!(all.len(), 6);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn later_epochs_and_domains_are_random_and_wrapped_each() {
        let provider = keeper("file");
        let (mut made, mut slots) = create_pool_keys(&provider, POOL, &mut counting()).unwrap();
        made.new_epoch(1, 2, &mut counting_from(100)).unwrap();
        made.new_epoch(0, 3, &mut counting_from(140)).unwrap();
        made.new_epoch(7, 4, &mut counting_from(170)).unwrap();
        for (domain, epoch) in [(1, 2), (0, 3), (7, 4)] {
            slots.push(wrap_epoch(&provider, &made, domain, epoch).unwrap());
            assert_eq!(slots.last().unwrap().purpose, Purpose::Epoch);
        }
        let opened = unlock(&[&provider], POOL, &slots).unwrap();
        assert!(same(&made, &opened));
        assert_eq!(
            opened.epochs().map(|(d, e, _)| (d, e)).collect::<Vec<_>>(),
            [(0, 1), (0, 3), (1, 1), (1, 2), (7, 4)]
        );
        assert_eq!(opened.epoch(1, 2).unwrap().expose()[0], 101, "random, and not derived");
        assert!(opened.fingerprint(7).is_some() && opened.fingerprint(0).is_none());
        // All of it is wrapped for another provider, and the same comes back.
        let second = keeper("hsm");
        assert!(same(&made, &unlock(&[&second], POOL, &wrap_pool_keys(&second, &opened).unwrap()).unwrap()));
        // An epoch is new once, and the first is derived.
        assert!(
            made.new_epoch(1, 2, &mut counting()).is_err() && made.new_epoch(9, 1, &mut counting()).is_err()
        );
        assert!(wrap_epoch(&provider, &made, 9, 5).is_err());
    }

    #[test]
    fn what_is_left_of_an_ended_epoch_opens_nothing_of_it() {
        let provider = keeper("file");
        let (mut made, mut slots) = create_pool_keys(&provider, POOL, &mut counting()).unwrap();
        for (domain, epoch) in [(0, 2), (1, 3)] {
            made.new_epoch(domain, epoch, &mut counting_from(90)).unwrap();
            slots.push(wrap_epoch(&provider, &made, domain, epoch).unwrap());
        }
        slots.retain(|s| s.epoch != 0);
        let opened = unlock(&[&provider], POOL, &slots).unwrap();
        assert_eq!(opened.epochs().map(|(d, e, _)| (d, e)).collect::<Vec<_>>(), [(0, 2), (1, 3)]);
        assert_eq!(opened.fingerprint(1), made.fingerprint(1), "duplicates are found across epochs");
        assert!(opened.domains.values().all(|d| d.base.is_none()));
        assert_eq!(wrap_pool_keys(&provider, &opened).unwrap().len(), 2);
    }

    #[test]
    fn one_that_wraps_only_a_part_does_not_open() {
        let (file, recovery) = (keeper("file"), keeper("recovery"));
        let (mut made, mut slots) = create_pool_keys(&file, POOL, &mut counting()).unwrap();
        slots.extend(wrap_pool_keys(&recovery, &made).unwrap());
        made.new_epoch(1, 2, &mut counting_from(60)).unwrap();
        slots.push(wrap_epoch(&file, &made, 1, 2).unwrap());
        assert!(unlock(&[&file], POOL, &slots).is_ok());
        let error = unlock(&[&recovery], POOL, &slots).unwrap_err();
        assert!(error.to_string().contains("domain 1, epoch 2"), "{error}");
    }

    #[test]
    fn epochs_are_taken_once() {
        let (mut made, _) = create_pool_keys(&keeper("file"), POOL, &mut counting()).unwrap();
        let taken: Vec<_> = made.take_epochs().into_iter().map(|(at, _)| at).collect();
        assert_eq!(taken, [(0, 1), (1, 1)]);
        assert_eq!(made.epochs().count(), 0);
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
