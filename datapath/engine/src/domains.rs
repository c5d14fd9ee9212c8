//! The domains of a pool: whose data is sealed under which key epoch, and how much of it.
//!
//! Owns the list of domains, the epoch that each seals under, the epochs before it that something may still be sealed under, and
//! the stored form of all that (the settings blob of a root; `datapath/log/FORMAT.md`). It must never hold an epoch's secret: those
//! are the keyring's. Stands under the pool's one lock; what the way of a block needs without it is in [`Tenant`].

use crate::erase::Erases;
use crate::error::OpenError;
use arc_swap::ArcSwapOption;
use caisson_fingerprint::FingerprintKey;
use caisson_keys::{DEFAULT_DOMAIN, POOL_DOMAIN};
use caisson_log::Record;
use caisson_tables::planted::{Bug, on};
use caisson_task::sync::atomic::{AtomicBool, Ordering};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most domains of a pool, the pool's own included: as many as there can be key slots.
pub const MAX_DOMAINS: usize = 64;

/// The longest name of a domain in bytes.
pub const MAX_DOMAIN_NAME: usize = 64;

/// What a volume's requests need of its domain, without the lock.
pub(crate) struct Tenant {
    /// The domain's number.
    pub(crate) domain: u32,
    /// None once the domain is destroyed.
    prints: ArcSwapOption<FingerprintKey>,
    gone: AtomicBool,
}

impl Tenant {
    fn new(domain: u32, prints: Option<FingerprintKey>) -> Arc<Tenant> {
        let gone = AtomicBool::new(prints.is_none());
        Arc::new(Tenant { domain, prints: ArcSwapOption::new(prints.map(Arc::new)), gone })
    }

    /// The key of its fingerprints, for as long as a request needs it.
    pub(crate) fn prints(&self) -> Option<Arc<FingerprintKey>> {
        self.prints.load_full()
    }

    /// Whether the domain is destroyed, or about to be: nothing of it is read or written any more. Set under the pool's lock.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::Release);
    }

    /// Erases the key, when the last request that uses it has ended.
    pub(crate) fn forget(&self) {
        self.prints.store(None);
    }
}

/// What was sealed under an epoch: records (each is one call of the cipher, headers included), and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Records.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Where a domain stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It seals under this epoch.
    InUse {
        /// Not 0.
        epoch: u16,
    },
    /// The superblocks without its keys are being written: nothing of it is published any more, but a crash may have it as it was, and so
    /// everything of it must be there still.
    Destroying,
    /// Its keys are gone, and that is durable.
    Destroyed,
}

/// One domain.
pub(crate) struct Domain {
    pub(crate) name: String,
    pub(crate) life: Life,
    /// Segments whose use began with this sequence or later hold nothing that is sealed under an earlier epoch.
    pub(crate) since: u64,
    /// Earlier epochs that something live may still be sealed under, by rising number.
    pub(crate) old: Vec<u16>,
    /// It is not durable yet: no volume may be made in it.
    pub(crate) coming: bool,
    /// What the present epoch sealed.
    pub(crate) sealed: Sealed,
    pub(crate) tenant: Arc<Tenant>,
}

impl Domain {
    /// The epoch that seals, where one does.
    pub(crate) fn epoch(&self) -> Option<u16> {
        match self.life {
            Life::InUse { epoch } => Some(epoch),
            Life::Destroying | Life::Destroyed => None,
        }
    }

    /// Whether it has keys that are not about to be destroyed.
    pub(crate) fn in_use(&self) -> bool {
        self.epoch().is_some()
    }

    /// Whether its keys are gone for good, so that what its volumes hold may be cleared.
    pub(crate) fn erased(&self) -> bool {
        self.life == Life::Destroyed || (self.life == Life::Destroying && on(Bug::ClearedEarly))
    }

    /// Its keys are about to be destroyed. Gives its epochs, the one that sealed last.
    pub(crate) fn begin_destruction(&mut self) -> Vec<u16> {
        let mut epochs = std::mem::take(&mut self.old);
        epochs.extend(self.epoch());
        if !on(Bug::DestroyedUncovered) {
            self.life = Life::Destroying;
        }
        epochs
    }

    /// They are not destroyed after all: it is as it was with the `epochs` that it had.
    pub(crate) fn call_off_destruction(&mut self, mut epochs: Vec<u16>) {
        self.life = epochs.pop().map_or(Life::Destroyed, |epoch| Life::InUse { epoch });
        self.old = epochs;
    }
}

/// All domains of a pool.
pub(crate) struct Domains {
    list: BTreeMap<u32, Domain>,
    /// Above every epoch of any domain that there ever was: so an epoch names its domain.
    pub(crate) next_epoch: u32,
    /// Above every domain that there ever was.
    pub(crate) next_domain: u32,
    /// How often any domain began another epoch.
    pub(crate) switches: u64,
    /// What is being erased of single volumes.
    pub(crate) erases: Erases,
}

/// The fingerprint keys of domains.
pub(crate) type Prints = Vec<(u32, FingerprintKey)>;

const VERSION: u16 = 1;
const HEAD: usize = 16;
const EACH: usize = 32;

fn default_name(domain: u32) -> String {
    match domain {
        POOL_DOMAIN => "pool".into(),
        DEFAULT_DOMAIN => "default".into(),
        other => format!("domain-{other}"),
    }
}

/// What a root says of a domain.
struct Stored {
    epoch: u16,
    destroyed: bool,
    since: u64,
    sealed: Sealed,
    name: String,
}

/// What a root says of all.
#[derive(Default)]
struct Registry {
    next_epoch: u32,
    next_domain: u32,
    list: BTreeMap<u32, Stored>,
    erases: Erases,
}

impl Domains {
    /// The domains of a pool whose keys are unlocked for `epochs`. `blob` is what its root says of them: nothing, in one that was
    /// written before there were several. What is written from `sequence` on is sealed under each domain's highest epoch.
    pub(crate) fn new(
        epochs: &[(u32, u16)],
        prints: Prints,
        blob: Option<&[u8]>,
        sequence: u64,
    ) -> Result<Domains, OpenError> {
        let bad = || OpenError::Keys("the pool's list of domains is none that this version knows".into());
        let registry = blob.map_or(Some(Registry::default()), Registry::decode).ok_or_else(bad)?;
        let mut prints: BTreeMap<u32, FingerprintKey> = prints.into_iter().collect();
        let mut unlocked: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        for &(domain, epoch) in epochs {
            unlocked.entry(domain).or_default().push(epoch);
        }
        let mut numbers: Vec<u32> = unlocked.keys().chain(registry.list.keys()).copied().collect();
        numbers.extend([POOL_DOMAIN, DEFAULT_DOMAIN]);
        numbers.sort_unstable();
        numbers.dedup();
        let mut domains = Domains {
            list: BTreeMap::new(),
            next_epoch: registry.next_epoch.max(2),
            next_domain: registry.next_domain.max(DEFAULT_DOMAIN + 1),
            switches: 0,
            erases: registry.erases,
        };
        for number in numbers {
            let mut old = unlocked.remove(&number).unwrap_or_default();
            old.sort_unstable();
            // Without a key it is destroyed, whatever the root says: that is what its slots are erased for.
            let epoch = old.pop().filter(|epoch| *epoch != 0);
            let life = epoch.map_or(Life::Destroyed, |epoch| Life::InUse { epoch });
            let known = registry.list.get(&number);
            let same = known.filter(|k| Some(k.epoch) == epoch && !k.destroyed);
            domains.next_epoch = domains.next_epoch.max(u32::from(epoch.unwrap_or(0)) + 1);
            domains.next_domain = domains.next_domain.max(number.saturating_add(1));
            let prints = prints.remove(&number).filter(|_| epoch.is_some());
            if number != POOL_DOMAIN && epoch.is_some() && prints.is_none() {
                return Err(OpenError::Keys(format!("domain {number} has no fingerprint key")));
            }
            let domain = Domain {
                name: known.map_or_else(|| default_name(number), |k| k.name.clone()),
                life,
                // Where the root was written before the epoch began, anything that stands now may be older.
                since: same.map_or(sequence, |k| k.since),
                old,
                coming: false,
                sealed: same.map_or(Sealed::default(), |k| k.sealed),
                tenant: Tenant::new(number, prints),
            };
            domains.list.insert(number, domain);
        }
        Ok(domains)
    }

    /// The stored form; its length depends on the list, its names and the number of erases alone.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.list.len() * (EACH + 16));
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.list.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.next_epoch.to_le_bytes());
        out.extend_from_slice(&self.next_domain.to_le_bytes());
        out.extend_from_slice(&self.erases.count().to_le_bytes());
        for (number, d) in &self.list {
            out.extend_from_slice(&number.to_le_bytes());
            // A root that is written while it is being destroyed goes with superblocks that lack its keys.
            out.extend_from_slice(&d.epoch().unwrap_or(0).to_le_bytes());
            out.extend_from_slice(&[u8::from(!d.in_use()), d.name.len() as u8]);
            out.extend_from_slice(&d.since.to_le_bytes());
            out.extend_from_slice(&d.sealed.records.to_le_bytes());
            out.extend_from_slice(&d.sealed.bytes.to_le_bytes());
            out.extend_from_slice(d.name.as_bytes());
        }
        self.erases.encode(&mut out);
        out
    }

    /// All of them, by number.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Domain)> {
        self.list.iter().map(|(number, domain)| (*number, domain))
    }

    /// One of them.
    pub(crate) fn get(&self, number: u32) -> Option<&Domain> {
        self.list.get(&number)
    }

    /// One of them, to change it.
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Domain> {
        self.list.get_mut(&number)
    }

    /// The number of one that is in use, by its name.
    pub(crate) fn named(&self, name: &str) -> Option<u32> {
        self.list.iter().find(|(_, d)| d.name == name && d.in_use() && !d.coming).map(|(n, _)| *n)
    }

    /// The epoch that a domain seals under, where there is such a domain and it is in use.
    pub(crate) fn epoch(&self, number: u32) -> Option<u16> {
        self.list.get(&number)?.epoch()
    }

    /// The epoch that seals what belongs to no tenant. A pool does not open without it.
    pub(crate) fn pool_epoch(&self) -> u16 {
        self.epoch(POOL_DOMAIN).unwrap_or(0)
    }

    /// Whether there is such a domain, with keys that are not about to be destroyed.
    pub(crate) fn in_use(&self, number: u32) -> bool {
        self.list.get(&number).is_some_and(Domain::in_use)
    }

    /// Adds one that nobody may use yet.
    pub(crate) fn add(&mut self, number: u32, name: &str, epoch: u16, prints: FingerprintKey, since: u64) {
        let domain = Domain {
            name: name.to_owned(),
            life: Life::InUse { epoch },
            since,
            old: Vec::new(),
            coming: true,
            sealed: Sealed::default(),
            tenant: Tenant::new(number, Some(prints)),
        };
        self.list.insert(number, domain);
        self.next_domain = self.next_domain.max(number.saturating_add(1));
        self.next_epoch = self.next_epoch.max(u32::from(epoch) + 1);
    }

    /// Takes one away that was only coming.
    pub(crate) fn take_back(&mut self, number: u32) {
        self.list.remove(&number);
    }

    /// A domain seals under another epoch from now on. No batch is open, and segments that are opened from here on have the
    /// sequence `since` or a later one.
    pub(crate) fn switch(&mut self, number: u32, epoch: u16, since: u64) {
        let Some(d) = self.list.get_mut(&number) else { return };
        d.old.extend(d.epoch());
        (d.life, d.since, d.sealed) = (Life::InUse { epoch }, since, Sealed::default());
        self.switches += 1;
        self.next_epoch = self.next_epoch.max(u32::from(epoch) + 1);
    }

    /// Segments whose use began earlier may hold something that is to be sealed anew. 0 where nothing is.
    pub(crate) fn boundary(&self) -> u64 {
        self.list.values().filter(|d| !d.old.is_empty()).map(|d| d.since).max().unwrap_or(0)
    }

    /// Counts what is being sealed: a batch's header, and its records, each under its domain's present epoch.
    pub(crate) fn count(&mut self, header: usize, records: &[Record]) {
        let mut add = |domain: u32, records: u64, bytes: u64| {
            if let Some(d) = self.list.get_mut(&domain) {
                d.sealed.records += records;
                d.sealed.bytes += bytes;
            }
        };
        add(POOL_DOMAIN, 1, header as u64);
        for run in records.chunk_by(|a, b| a.domain == b.domain) {
            let bytes = run.iter().map(|r| u64::from(r.length)).sum();
            add(run[0].domain, run.len() as u64, bytes);
        }
    }
}

impl Registry {
    /// `None` for bytes that are no list of this version.
    fn decode(bytes: &[u8]) -> Option<Registry> {
        let (head, mut rest) = bytes.split_at_checked(HEAD)?;
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let half =
            |bytes: &[u8], at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long =
            |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if half(head, 0)? != VERSION {
            return None;
        }
        let mut registry = Registry { next_epoch: word(4)?, next_domain: word(8)?, ..Registry::default() };
        for _ in 0..half(head, 2)? {
            let (each, behind) = rest.split_at_checked(EACH)?;
            let number = u32::from_le_bytes(each.get(..4)?.try_into().ok()?);
            let (destroyed, len) = (*each.get(6)?, usize::from(*each.get(7)?));
            let (name, behind) = behind.split_at_checked(len)?;
            rest = behind;
            let stored = Stored {
                epoch: half(each, 4)?,
                destroyed: destroyed == 1,
                since: long(each, 8)?,
                sealed: Sealed { records: long(each, 16)?, bytes: long(each, 24)? },
                name: std::str::from_utf8(name).ok()?.to_owned(),
            };
            let sound = destroyed < 2 && registry.list.last_key_value().is_none_or(|(n, _)| *n < number);
            if !sound {
                return None;
            }
            registry.list.insert(number, stored);
        }
        registry.erases = Erases::decode(word(12)?, rest)?;
        Some(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prints() -> Prints {
        vec![(1, FingerprintKey::new([1; 32])), (5, FingerprintKey::new([5; 32]))]
    }

    fn of(epochs: &[(u32, u16)], blob: Option<&[u8]>) -> Domains {
        Domains::new(epochs, prints(), blob, 70).unwrap()
    }

    #[test]
    fn a_pool_of_before_has_two() {
        let d = of(&[(0, 1), (1, 1)], None);
        let all: Vec<_> = d.all().map(|(n, d)| (n, d.name.clone(), d.epoch(), d.old.len())).collect();
        assert_eq!(all, [(0, "pool".into(), Some(1), 0), (1, "default".into(), Some(1), 0)]);
        assert_eq!((d.next_epoch, d.next_domain, d.boundary()), (2, 2, 0));
    }

    /// Bytes written down once: what pools hold.
    #[test]
    fn the_stored_form_is_what_it_was() {
        let mut d = of(&[(0, 1), (1, 1)], None);
        d.add(5, "acme", 2, FingerprintKey::new([5; 32]), 9);
        d.switch(1, 3, 0x1122);
        d.count(100, &[]);
        let bytes = d.encode();
        let mut want = b"\x01\0\x03\0\x04\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
        want.extend(b"\0\0\0\0\x01\0\0\x04\x46\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x64\0\0\0\0\0\0\0pool");
        want.extend(b"\x01\0\0\0\x03\0\0\x07\x22\x11\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0default");
        want.extend(b"\x05\0\0\0\x02\0\0\x04\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0acme");
        assert_eq!(bytes, want);
        for len in 0..bytes.len() {
            assert!(Registry::decode(&bytes[..len]).is_none(), "{len}");
        }
        let again = of(&[(0, 1), (1, 1), (1, 3), (5, 2)], Some(&bytes));
        assert_eq!(again.encode(), bytes);
        assert_eq!(again.get(1).unwrap().old, [1]);
        assert_eq!((again.boundary(), again.named("acme")), (0x1122, Some(5)));
        assert_eq!(again.get(0).unwrap().sealed, Sealed { records: 1, bytes: 100 });
    }

    #[test]
    fn an_epoch_that_the_root_does_not_know_began_after_it() {
        let bytes = of(&[(0, 1), (1, 1)], None).encode();
        let d = Domains::new(&[(0, 1), (1, 1), (1, 2)], prints(), Some(&bytes), 500).unwrap();
        let one = d.get(1).unwrap();
        assert_eq!((one.epoch(), &one.old[..], one.since, d.next_epoch), (Some(2), &[1][..], 500, 3));
    }

    #[test]
    fn a_domain_without_a_key_is_destroyed() {
        let mut d = of(&[(0, 1), (1, 1)], None);
        d.add(5, "acme", 2, FingerprintKey::new([5; 32]), 9);
        let bytes = d.encode();
        let d = of(&[(0, 1), (1, 1)], Some(&bytes));
        let acme = d.get(5).unwrap();
        assert!(acme.life == Life::Destroyed && acme.tenant.is_gone() && acme.tenant.prints().is_none());
        assert_eq!((d.named("acme"), d.in_use(5), d.next_domain), (None, false, 6));
        assert!(Domains::new(&[(0, 1), (9, 3)], prints(), None, 0).is_err(), "no fingerprint key");
    }

    /// While it is being destroyed, a domain is neither in use nor gone, and what is stored of it is what is stored afterwards.
    #[test]
    fn a_destruction_that_is_under_way_is_neither_before_nor_after() {
        let mut d = of(&[(0, 1), (1, 1), (1, 3)], None);
        let before = d.encode();
        let one = d.get_mut(1).unwrap();
        let epochs = one.begin_destruction();
        assert_eq!(
            (&epochs[..], one.life, one.in_use(), one.erased()),
            (&[1, 3][..], Life::Destroying, false, false)
        );
        let under_way = d.encode();
        assert_ne!(under_way, before);
        d.get_mut(1).unwrap().call_off_destruction(epochs);
        assert_eq!((d.encode(), &d.get(1).unwrap().old[..]), (before, &[1][..]));
        let one = d.get_mut(1).unwrap();
        one.begin_destruction();
        one.life = Life::Destroyed;
        assert!(one.erased() && !one.in_use());
        assert_eq!(d.encode(), under_way);
    }
}
