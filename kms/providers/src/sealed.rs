//! The sealed key file as a key provider.
//!
//! Owns the unlocked root keys of one file and wrapping with them. The newest root key wraps; all of them unwrap. It must never
//! give a root key out.

use crate::format::{self, Argon2Cost, FormatError, Opener, Root};
use crate::store::{self, KeyFileError};
use caisson_keys::seal;
use caisson_keys::{CONTEXT_LEN, Context, KeyError, KeyProvider, ProviderStatus, Random, Secret, Wrapped};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The provider's name, as pools remember it.
pub const NAME: &str = "file";

/// What new root keys are called.
pub const ROOT_LABEL: &str = "root";

/// The first byte of what [`SealedFile`] wraps.
const WRAP_VERSION: u8 = 1;

/// A sealed key file, unlocked.
pub struct SealedFile {
    path: PathBuf,
    /// What the file holds, to see that nobody else changed it.
    bytes: Vec<u8>,
    id: [u8; 16],
    roots: Vec<Root>,
    opener: Opener,
}

impl fmt::Debug for SealedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedFile({:?}, {:?})", self.path, self.root_names())
    }
}

impl SealedFile {
    /// Makes a key file with one new root key called `label`, sealed with `passphrase`, and leaves it unlocked. Refuses where
    /// there is anything of that name. Takes as long as `cost` says.
    pub fn create(
        path: &Path,
        passphrase: &Secret,
        label: &str,
        cost: Argon2Cost,
    ) -> Result<SealedFile, KeyFileError> {
        let random: Random<'_> = &mut crate::os_random;
        if path.symlink_metadata().is_ok() {
            // Said before the wait.
            return Err(KeyFileError::Exists { path: path.into() });
        }
        let opener = new_opener(passphrase, cost, random)?;
        let mut id = [0; 16];
        random(&mut id)?;
        let roots = vec![new_root(label, random)?];
        let bytes = format::encode(id, &roots, &opener, random)?;
        store::create(path, &bytes, &unique(random)?)?;
        Ok(SealedFile { path: path.into(), bytes, id, roots, opener })
    }

    /// Unlocks a key file. A wrong passphrase is an error of its own ([`KeyFileError::is_wrong_passphrase`]).
    pub fn open(path: &Path, passphrase: &Secret) -> Result<SealedFile, KeyFileError> {
        let bytes = store::read(path)?;
        let contents = |cause: FormatError| KeyFileError::Contents { path: path.into(), cause };
        let (header, roots, opener) = format::decode(&bytes, passphrase).map_err(contents)?;
        Ok(SealedFile { path: path.into(), bytes, id: header.id, roots, opener })
    }

    /// Unlocks a key file with what its passphrase was stretched to.
    pub(crate) fn open_stretched(path: &Path, stretched: Secret) -> Result<SealedFile, KeyFileError> {
        let bytes = store::read(path)?;
        let contents = |cause: FormatError| KeyFileError::Contents { path: path.into(), cause };
        let header = format::decode_header(&bytes).map_err(contents)?;
        let (header, roots, opener) =
            format::decode_stretched(&bytes, header, stretched).map_err(contents)?;
        Ok(SealedFile { path: path.into(), bytes, id: header.id, roots, opener })
    }

    /// Its number, kept for its life.
    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// What its passphrase was stretched to.
    pub(crate) fn stretched(&self) -> &Secret {
        self.opener.stretched()
    }

    /// Looks at a key file without a passphrase: whether it is there, private, whole and of a known version.
    pub fn examine(path: &Path) -> Result<format::Header, KeyFileError> {
        let bytes = store::read(path)?;
        format::decode_header(&bytes).map_err(|cause| KeyFileError::Contents { path: path.into(), cause })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its root keys, oldest first. The last one wraps.
    pub fn root_names(&self) -> Vec<String> {
        self.roots.iter().map(Root::name).collect()
    }

    /// Adds a root key, which wraps from here on; what the older ones wrapped still unwraps. The file is replaced whole.
    pub fn add_root(&mut self, label: &str) -> Result<(), KeyFileError> {
        if self.roots.len() == format::MAX_ROOTS {
            return Err(KeyFileError::Full { path: self.path.clone() });
        }
        self.roots.push(new_root(label, &mut crate::os_random)?);
        let stored = self.store(false);
        if stored.is_err() {
            self.roots.pop();
        }
        stored
    }

    /// Seals the file with another passphrase and a new salt. Copies of the old file still open with the old one: destroy them.
    pub fn change_passphrase(&mut self, passphrase: &Secret, cost: Argon2Cost) -> Result<(), KeyFileError> {
        let opener = new_opener(passphrase, cost, &mut crate::os_random)?;
        let old = std::mem::replace(&mut self.opener, opener);
        let stored = self.store(false);
        if stored.is_err() {
            self.opener = old;
        }
        stored
    }

    /// Writes the file anew; `erase` overwrites what it was before.
    fn store(&mut self, erase: bool) -> Result<(), KeyFileError> {
        let random: Random<'_> = &mut crate::os_random;
        let bytes = format::encode(self.id, &self.roots, &self.opener, random)?;
        let old = if erase { Some(store::hold(&self.path)?) } else { None };
        store::replace(&self.path, &self.bytes, &bytes, &unique(random)?)?;
        self.bytes = bytes;
        old.map_or(Ok(()), |old| store::overwrite(&self.path, &old))
    }

    /// What errors call it.
    fn called(&self) -> String {
        format!("{NAME} {}", self.path.display())
    }
}

fn new_opener(passphrase: &Secret, cost: Argon2Cost, random: Random<'_>) -> Result<Opener, KeyFileError> {
    if passphrase.is_empty() {
        return Err(KeyFileError::EmptyPassphrase);
    }
    if !cost.is_allowed() {
        return Err(KeyFileError::Cost);
    }
    Ok(Opener::new(passphrase, cost, random)?)
}

fn new_root(label: &str, random: Random<'_>) -> Result<Root, KeyFileError> {
    if !format::is_label(label) {
        return Err(KeyFileError::Label { label: label.into() });
    }
    let mut id = [0; 16];
    random(&mut id)?;
    // A clock before 1970 is no reason not to make a key.
    let created = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    Ok(Root { id, created, label: label.into(), key: Secret::filled(32, random)? })
}

pub(crate) fn unique(random: Random<'_>) -> Result<String, KeyFileError> {
    let mut bytes = [0; 8];
    random(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// What is authenticated with a wrapped secret: its place, and which root key wrapped it.
fn associated(context: &Context, root: &Root) -> [u8; CONTEXT_LEN + 16] {
    let mut out = [0; CONTEXT_LEN + 16];
    out[..CONTEXT_LEN].copy_from_slice(&context.encode());
    out[CONTEXT_LEN..].copy_from_slice(&root.id);
    out
}

impl KeyProvider for SealedFile {
    fn name(&self) -> &str {
        NAME
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        let root = self
            .roots
            .last()
            .ok_or_else(|| KeyError::NoSuchKey { provider: self.called(), root: ROOT_LABEL.into() })?;
        let aad = associated(context, root);
        let random: Random<'_> = &mut crate::os_random;
        let blob = seal::wrap(WRAP_VERSION, &root.key, &aad, secret, &self.called(), random)?;
        Ok(Wrapped { root: root.name(), blob })
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        let root = self
            .roots
            .iter()
            .find(|r| r.name() == wrapped.root)
            .ok_or_else(|| KeyError::NoSuchKey { provider: self.called(), root: wrapped.root.clone() })?;
        seal::unwrap(WRAP_VERSION, &root.key, &associated(context, root), &wrapped.blob)
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        Ok(self.root_names())
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        SealedFile::add_root(self, ROOT_LABEL).map_err(KeyFileError::into_key)?;
        Ok(self.root_names().pop().unwrap_or_default())
    }

    /// The file is written anew without it, and what held it before is overwritten.
    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        let at = self.roots.iter().position(|r| r.name() == root);
        let at = at.ok_or_else(|| KeyError::NoSuchKey { provider: self.called(), root: root.into() })?;
        if self.roots.len() == 1 {
            return Err(KeyError::Unsupported {
                provider: self.called(),
                what: "be without a root key, and this is its last".into(),
                remedy: "take the file away from every pool (caisson key remove), and destroy the file and its copies (shred -u)".into(),
            });
        }
        // What cannot be overwritten is an error, though the key is gone from the file: the next opening shows which.
        self.roots.remove(at);
        self.store(true).map_err(KeyFileError::into_key)
    }

    fn status(&self) -> ProviderStatus {
        ProviderStatus::Ready
    }
}
