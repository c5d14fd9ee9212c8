//! The keys of an unlocked pool, and the only place where records are sealed and opened.
//!
//! Owns the secrets of each (domain, epoch), the salts of the openings, and a bounded cache of expanded keys that any thread
//! reads without a lock. It must never show a key, and never seal twice at one [`At`]: that nobody asks it to is the
//! engine's duty (a byte of a segment's use is sealed once; see `FORMAT.md`, "Why no nonce repeats").

use crate::aead::{Cipher, Refused, TAG, XNONCE, hkdf_sha256, xopen, xseal};
use crate::at::{At, PoolId};
use crate::expanded::Context;
use crate::maps::MapKey;
use crate::record::Bind;
use arc_swap::ArcSwapOption;
use caisson_keys::Secret;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// Most (domain, epoch) secrets that one keyring holds.
pub const MAX_SECRETS: usize = 1 << 16;

/// Most openings that one keyring knows: those under which something that is still in the pool was written.
pub const MAX_OPENINGS: usize = 1 << 16;

/// How many expanded keys are cached; the next one pushes an old one out, and is derived again when it is needed (about 3 us).
pub const CACHED_CONTEXTS: usize = SETS * WAYS;

const SETS: usize = 64;
const WAYS: usize = 4;

/// Length of a domain's epoch secret in bytes.
const SECRET: usize = 32;

/// Why a keyring does not take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Epoch secrets are 32 bytes.
    #[error("the secret of domain {domain}, epoch {epoch} has {len} bytes, not 32")]
    Length {
        /// Its domain.
        domain: u32,
        /// Its epoch.
        epoch: u16,
        /// Its length in bytes.
        len: usize,
    },
    /// Map keys are 32 bytes, and of a family, which is never 0.
    #[error("a map key of {len} bytes for family {family}")]
    MapKey {
        /// Its family.
        family: u32,
        /// Its length in bytes.
        len: usize,
    },
    /// There is another secret for this epoch, or another salt for this opening.
    #[error("the keyring already holds another {0}")]
    Taken(&'static str),
    /// [`MAX_SECRETS`] or [`MAX_OPENINGS`] are there.
    #[error("the keyring is full: {0}")]
    Full(&'static str),
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no secret for this epoch: it was never unlocked, or it was destroyed.
    #[error("no key for domain {domain}, epoch {epoch}")]
    NoKey {
        /// The domain.
        domain: u32,
        /// The epoch.
        epoch: u16,
    },
    /// The salt of this opening is not known.
    #[error("no salt for opening {opening}")]
    NoOpening {
        /// Its number.
        opening: u32,
    },
    /// The bytes are not as long as the binding says, or the space for them is not [`TAG`] bytes longer.
    #[error("{plain} bytes to seal into {out}, where the record says {length}")]
    Length {
        /// Bytes to seal.
        plain: usize,
        /// Bytes of space.
        out: usize,
        /// Bytes that the binding says.
        length: usize,
    },
}

/// Why nothing was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no secret for this epoch: it was never unlocked, or it was destroyed.
    #[error("no key for domain {domain}, epoch {epoch}")]
    NoKey {
        /// The domain.
        domain: u32,
        /// The epoch.
        epoch: u16,
    },
    /// The salt of this opening is not known.
    #[error("no salt for opening {opening}")]
    NoOpening {
        /// Its number.
        opening: u32,
    },
    /// The sealed bytes are not as long as the binding says, or the space for what is in them is not.
    #[error("{sealed} sealed bytes where the record says {length}")]
    Length {
        /// Sealed bytes.
        sealed: usize,
        /// Stored bytes that the binding says, without the tag.
        length: usize,
    },
    /// The bytes are not what was sealed here under this binding: changed, moved, stale, or of another pool or key.
    #[error("{kind} does not authenticate at segment use {}, offset {}", at.sequence, at.offset)]
    NotAuthentic {
        /// Where it was sought.
        at: At,
        /// What was sought: "the record" or "the header".
        kind: &'static str,
    },
}

/// Which part of a context's key is missing.
enum Missing {
    Key,
    Opening,
}

/// What names an expanded key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    domain: u32,
    epoch: u16,
    opening: u32,
}

impl Name {
    fn set(self) -> usize {
        let mixed = (u64::from(self.domain) << 16 | u64::from(self.epoch)) ^ u64::from(self.opening) << 40;
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % SETS
    }
}

struct Cached {
    name: Name,
    context: Context,
}

/// What keys are derived from. Behind a lock that only a derivation and a change take.
pub(crate) struct Roster {
    secrets: BTreeMap<(u32, u16), Secret>,
    pub(crate) openings: BTreeMap<u32, [u8; 32]>,
    /// The map keys of families of volumes.
    pub(crate) maps: BTreeMap<u32, MapKey>,
    /// Which way of a full set goes next.
    next_way: usize,
}

/// The keys of one pool. `Sync`: any number of threads seal and open at once; a cached key is found without a lock
/// and nothing is allocated for a record.
pub struct Keyring {
    pool: PoolId,
    cipher: Cipher,
    roster: Mutex<Roster>,
    cache: Box<[ArcSwapOption<Cached>]>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({}, {:?})", self.pool, self.cipher)
    }
}

impl Keyring {
    /// A keyring for `pool`, whose segments are sealed with `cipher`, with the secrets of each (domain, epoch).
    pub fn new(
        pool: PoolId,
        cipher: Cipher,
        secrets: impl IntoIterator<Item = ((u32, u16), Secret)>,
    ) -> Result<Keyring, KeyringError> {
        let roster = Roster {
            secrets: BTreeMap::new(),
            openings: BTreeMap::new(),
            maps: BTreeMap::new(),
            next_way: 0,
        };
        let cache = (0..CACHED_CONTEXTS).map(|_| ArcSwapOption::const_empty()).collect();
        let keyring = Keyring { pool, cipher, roster: Mutex::new(roster), cache };
        for ((domain, epoch), secret) in secrets {
            keyring.add_secret(domain, epoch, secret)?;
        }
        Ok(keyring)
    }

    /// The pool.
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// The cipher of its segments.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Adds the secret of a key epoch, 32 bytes; the same one again changes nothing.
    pub fn add_secret(&self, domain: u32, epoch: u16, secret: Secret) -> Result<(), KeyringError> {
        if secret.len() != SECRET {
            return Err(KeyringError::Length { domain, epoch, len: secret.len() });
        }
        let mut roster = self.roster();
        match roster.secrets.get(&(domain, epoch)) {
            Some(held) if *held == secret => return Ok(()),
            Some(_) => return Err(KeyringError::Taken("secret for this domain and epoch")),
            None if roster.secrets.len() >= MAX_SECRETS => return Err(KeyringError::Full("secrets")),
            None => {}
        }
        roster.secrets.insert((domain, epoch), secret);
        Ok(())
    }

    /// Erases a secret and every key derived from it. What is being sealed or opened at this moment is finished.
    pub fn forget_secret(&self, domain: u32, epoch: u16) {
        let mut roster = self.roster();
        roster.secrets.remove(&(domain, epoch));
        self.drop_cached(|name| (name.domain, name.epoch) == (domain, epoch));
    }

    /// Adds the salt of an opening; the same one again changes nothing.
    pub fn add_opening(&self, number: u32, salt: [u8; 32]) -> Result<(), KeyringError> {
        let mut roster = self.roster();
        match roster.openings.get(&number) {
            Some(held) if *held == salt => return Ok(()),
            Some(_) => return Err(KeyringError::Taken("salt for this opening")),
            None if roster.openings.len() >= MAX_OPENINGS => return Err(KeyringError::Full("openings")),
            None => {}
        }
        roster.openings.insert(number, salt);
        Ok(())
    }

    /// Forgets an opening under which nothing in the pool is sealed any more.
    pub fn forget_opening(&self, number: u32) {
        let mut roster = self.roster();
        roster.openings.remove(&number);
        self.drop_cached(|name| name.opening == number);
    }

    /// Seals `plain` for `at` into `out`, which is [`TAG`] bytes longer. `at` must never have been sealed at before.
    #[inline]
    pub fn seal(&self, at: At, bind: &Bind, plain: &[u8], out: &mut [u8]) -> Result<(), SealError> {
        let length = usize::from(bind.length);
        if plain.len() != length || out.len() != length + TAG {
            return Err(SealError::Length { plain: plain.len(), out: out.len(), length });
        }
        let name = Name { domain: bind.domain, epoch: bind.epoch, opening: at.opening };
        let aad = bind.aad(self.pool, at.opening);
        self.with(name, |context| context.seal(at.nonce(), &aad, plain, out)).map_err(|m| m.on_seal(name))
    }

    /// Opens a sealed record in place and gives its stored bytes. On an error, the bytes have no meaning any more.
    #[inline]
    pub fn open<'a>(&self, at: At, bind: &Bind, sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let name = self.check_open(at, bind, sealed.len(), bind.length.into())?;
        let aad = bind.aad(self.pool, at.opening);
        let opened = self.with(name, |context| context.open(at.nonce(), &aad, sealed));
        opened
            .map_err(|m| m.on_open(name))?
            .map_err(|Refused| OpenError::NotAuthentic { at, kind: "the record" })
    }

    /// Opens a sealed record into `out`, which takes its stored bytes exactly; `sealed` stays as it is.
    #[inline]
    pub fn open_into(&self, at: At, bind: &Bind, sealed: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
        let name = self.check_open(at, bind, sealed.len(), out.len())?;
        let aad = bind.aad(self.pool, at.opening);
        let opened = self.with(name, |context| context.open_into(at.nonce(), &aad, sealed, out));
        opened
            .map_err(|m| m.on_open(name))?
            .map_err(|Refused| OpenError::NotAuthentic { at, kind: "the record" })
    }

    fn check_open(&self, at: At, bind: &Bind, sealed: usize, out: usize) -> Result<Name, OpenError> {
        let length = usize::from(bind.length);
        if sealed != length + TAG || out != length {
            return Err(OpenError::Length { sealed, length });
        }
        Ok(Name { domain: bind.domain, epoch: bind.epoch, opening: at.opening })
    }

    /// Seals a batch's header under the pool's own domain. The associated data is the pool and `prefix`.
    pub(crate) fn seal_header(
        &self,
        at: At,
        epoch: u16,
        prefix: &[u8; HEADER_AAD - 16],
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<(), SealError> {
        let name = Name { domain: 0, epoch, opening: at.opening };
        let aad = self.header_aad(prefix);
        self.with(name, |context| context.seal(at.nonce(), &aad, plain, out)).map_err(|m| m.on_seal(name))
    }

    /// Opens a batch's header in place.
    pub(crate) fn open_header<'a>(
        &self,
        at: At,
        epoch: u16,
        prefix: &[u8; HEADER_AAD - 16],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let name = Name { domain: 0, epoch, opening: at.opening };
        let aad = self.header_aad(prefix);
        let opened = self.with(name, |context| context.open(at.nonce(), &aad, sealed));
        opened
            .map_err(|m| m.on_open(name))?
            .map_err(|Refused| OpenError::NotAuthentic { at, kind: "the header" })
    }

    fn header_aad(&self, prefix: &[u8; HEADER_AAD - 16]) -> [u8; HEADER_AAD] {
        let mut aad = [0; HEADER_AAD];
        aad[..16].copy_from_slice(&self.pool.0);
        aad[16..].copy_from_slice(prefix);
        aad
    }

    /// Seals `body`, a superblock's anchor, in place; `None` without the key of the pool's own domain.
    pub(crate) fn seal_anchor(
        &self,
        epoch: u16,
        nonce: &[u8; XNONCE],
        aad: &[u8],
        body: &mut [u8],
    ) -> Option<[u8; TAG]> {
        Some(xseal(&*self.superblock_key(epoch)?, nonce, aad, body))
    }

    /// Opens `body` in place; `None` without the key, `Some(Err)` when it does not authenticate.
    pub(crate) fn open_anchor(
        &self,
        epoch: u16,
        nonce: &[u8; XNONCE],
        aad: &[u8],
        body: &mut [u8],
        tag: &[u8; TAG],
    ) -> Option<Result<(), Refused>> {
        Some(xopen(&*self.superblock_key(epoch)?, nonce, aad, body, tag))
    }

    fn superblock_key(&self, epoch: u16) -> Option<Zeroizing<[u8; 32]>> {
        let roster = self.roster();
        let secret = roster.secrets.get(&(0, epoch))?;
        Some(hkdf_sha256(secret.expose(), &self.pool.0, &[SUPERBLOCK_INFO, &epoch.to_le_bytes()]))
    }

    pub(crate) fn roster(&self) -> MutexGuard<'_, Roster> {
        // Every change is one insertion or removal: a panic elsewhere leaves nothing half done.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `use_it` with the expanded key: without a lock when it is cached.
    #[inline]
    fn with<R>(&self, name: Name, use_it: impl FnOnce(&Context) -> R) -> Result<R, Missing> {
        let set = name.set() * WAYS;
        for slot in &self.cache[set..set + WAYS] {
            let cached = slot.load();
            if let Some(cached) = cached.as_ref().filter(|cached| cached.name == name) {
                return Ok(use_it(&cached.context));
            }
        }
        self.derive(name).map(|cached| use_it(&cached.context))
    }

    /// Derives, expands and caches a key. The lock is held until it is cached, so that what is forgotten stays forgotten.
    #[cold]
    fn derive(&self, name: Name) -> Result<Arc<Cached>, Missing> {
        let mut roster = self.roster();
        let secret = roster.secrets.get(&(name.domain, name.epoch)).ok_or(Missing::Key)?;
        let salt = roster.openings.get(&name.opening).ok_or(Missing::Opening)?;
        let key = block_key(self.pool, self.cipher, name, secret, salt);
        let cached = Arc::new(Cached { name, context: Context::new(self.cipher, &key) });
        let set = &self.cache[name.set() * WAYS..][..WAYS];
        let free = set.iter().position(|slot| slot.load().as_ref().is_none_or(|held| held.name == name));
        let way = free.unwrap_or(roster.next_way % WAYS);
        roster.next_way = roster.next_way.wrapping_add(1);
        set[way].store(Some(cached.clone()));
        Ok(cached)
    }

    fn drop_cached(&self, which: impl Fn(Name) -> bool) {
        for slot in &self.cache {
            if slot.load().as_ref().is_some_and(|cached| which(cached.name)) {
                slot.store(None);
            }
        }
    }
}

/// Length of a header's associated data: the pool and the prefix.
const HEADER_AAD: usize = 16 + crate::prefix::PREFIX;

const BLOCK_INFO: &[u8] = b"caisson block v1";
const SUPERBLOCK_INFO: &[u8] = b"caisson superblock v1";

/// The key of a (domain, epoch) for one opening. The cipher is part of what it is derived from: one key, one algorithm.
fn block_key(
    pool: PoolId,
    cipher: Cipher,
    name: Name,
    secret: &Secret,
    salt: &[u8; 32],
) -> Zeroizing<[u8; 32]> {
    let (domain, epoch) = (name.domain.to_le_bytes(), name.epoch.to_le_bytes());
    hkdf_sha256(secret.expose(), salt, &[BLOCK_INFO, &pool.0, &domain, &epoch, &[cipher.code()]])
}

impl Missing {
    #[cold]
    fn on_seal(self, name: Name) -> SealError {
        match self {
            Missing::Key => SealError::NoKey { domain: name.domain, epoch: name.epoch },
            Missing::Opening => SealError::NoOpening { opening: name.opening },
        }
    }

    #[cold]
    fn on_open(self, name: Name) -> OpenError {
        match self {
            Missing::Key => OpenError::NoKey { domain: name.domain, epoch: name.epoch },
            Missing::Opening => OpenError::NoOpening { opening: name.opening },
        }
    }
}
