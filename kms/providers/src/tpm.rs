//! A key file that a TPM opens.
//!
//! Owns joining the two: a sealed key file whose passphrase is the recovery passphrase, and beside it, in PATH.tpm, what that
//! passphrase was stretched to, sealed by the machine's TPM to its measured state. So the machine opens the file by itself while it
//! is as it was; a person with the passphrase opens it whatever became of the machine, and seals it anew. It must never make such
//! a file without a passphrase, and never ask for one where the TPM gives what is wanted.

use crate::open::{How, Opened, local, passphrase_source, pin, with_passphrase};
use crate::sealed::unique;
use crate::store::{self, KeyFileError};
use crate::{Argon2Cost, Ask, ROOT_LABEL, SealedFile};
use caisson_keys::{Context, KeyError, KeyProvider, KeyUri, ProviderStatus, Secret, Wrapped};
use caisson_tpm::{NAME, Pcrs, Seal, Tpm};
use std::path::{Path, PathBuf};

/// A key file, opened by a TPM or by its recovery passphrase.
pub struct TpmFile {
    uri: KeyUri,
    file: SealedFile,
}

/// Where things are, as the URI says.
struct Named<'a> {
    path: &'a Path,
    seal: PathBuf,
    pcrs: Pcrs,
    pin: bool,
    tcti: Option<&'a str>,
}

impl<'a> Named<'a> {
    fn of(uri: &'a KeyUri) -> Result<Named<'a>, KeyError> {
        let path = Path::new(uri.required("file")?);
        let bad = |cause: String, remedy: &str| KeyError::BadUri {
            uri: uri.to_string(),
            cause,
            remedy: remedy.into(),
        };
        let pcrs = uri.attribute("pcrs").map_or(Ok(Pcrs::DEFAULT), Pcrs::parse);
        let pcrs =
            pcrs.map_err(|e| bad(e, "write pcrs=sha256+7, or other numbers with commas between them"))?;
        let pin = match uri.attribute("auth") {
            None => false,
            Some("pin") => true,
            Some(_) => return Err(bad("`auth` is not understood".into(), "write auth=pin, or leave it out")),
        };
        let mut seal = path.as_os_str().to_owned();
        seal.push(".tpm");
        Ok(Named { path, seal: seal.into(), pcrs, pin, tcti: uri.query("tcti") })
    }

    /// Whether the TPM is to be done without.
    fn without(&self) -> bool {
        self.tcti == Some("none")
    }
}

/// What to do where there is no seal that counts.
fn unsealed(path: &Path, cause: impl std::fmt::Display) -> KeyError {
    KeyError::Local {
        provider: NAME.into(),
        cause: format!("{}: {cause}", path.display()),
        remedy: "seal it anew with the recovery passphrase: caisson key reseal --key URI".into(),
    }
}

fn read_seal(n: &Named<'_>) -> Result<Seal, KeyError> {
    let header = SealedFile::examine(n.path).map_err(KeyFileError::into_key)?;
    let bytes = match store::read(&n.seal) {
        Err(KeyFileError::Missing { path }) => {
            return Err(unsealed(&path, "the key file is not sealed by a TPM"));
        }
        read => read.map_err(KeyFileError::into_key)?,
    };
    let seal = Seal::decode(&bytes).map_err(|e| unsealed(&n.seal, e))?;
    if seal.of != header.id {
        return Err(unsealed(&n.seal, "this is the seal of another key file"));
    }
    Ok(seal)
}

/// Opens the key file that `uri` names with the TPM; makes it, and seals it, where there is none and one may be made.
pub(crate) fn open(uri: &KeyUri, how: How) -> Result<Opened, KeyError> {
    let n = Named::of(uri)?;
    let opened = |file, made| Ok(Opened { provider: Box::new(TpmFile { uri: uri.clone(), file }), made });
    if n.without() {
        return opened(with_passphrase(uri, n.path, how.ask)?, false);
    }
    if how.make && n.path.symlink_metadata().is_err() {
        return opened(make(uri, &n, how)?, true);
    }
    let seal = read_seal(&n)?;
    let mut tpm = Tpm::open(n.tcti)?;
    let stretched = tpm.unseal(&seal, |called| pin(uri, called, how.ask))?;
    match SealedFile::open_stretched(n.path, stretched) {
        Err(e) if e.is_wrong_passphrase() => {
            Err(unsealed(n.path, "the key file has another passphrase than when it was sealed"))
        }
        file => opened(file.map_err(KeyFileError::into_key)?, false),
    }
}

fn make(uri: &KeyUri, n: &Named<'_>, how: How) -> Result<SealedFile, KeyError> {
    // A TPM that cannot be used is said before anybody thinks of a passphrase.
    Tpm::open(n.tcti)?.read(n.pcrs)?;
    let source = passphrase_source(uri, how.ask).map_err(|e| match e {
        KeyError::Local { provider, cause, remedy } => KeyError::Local {
            provider,
            cause: format!("{cause}: a key file for a TPM takes a recovery passphrase, or a firmware update would lose all data"),
            remedy,
        },
        e => e,
    })?;
    let passphrase = source.get(Ask::Create(n.path)).map_err(|e| local(uri, &e))?;
    let made = SealedFile::create(n.path, &passphrase, ROOT_LABEL, Argon2Cost::DEFAULT);
    let file = made.map_err(KeyFileError::into_key)?;
    if let Err(e) = seal(uri, n, &file, how.ask) {
        // Nothing was wrapped with it.
        let _ = std::fs::remove_file(n.path);
        return Err(e);
    }
    Ok(file)
}

/// Seals what opens `file` to the machine as it is now, sees that it comes back, and puts it in the place of the seal that was there.
fn seal(uri: &KeyUri, n: &Named<'_>, file: &SealedFile, ask: bool) -> Result<(), KeyError> {
    let mut tpm = Tpm::open(n.tcti)?;
    let value = if n.pin { Some(pin(uri, tpm.called(), ask)?) } else { None };
    let seal = tpm.seal(file.id(), file.stretched(), n.pcrs, value.as_ref())?;
    // The value is the one that was just set: no second question, and no wrong try.
    let back = tpm.unseal(&seal, |_| value.ok_or(KeyError::NotAuthentic))?;
    if back != *file.stretched() {
        return Err(KeyError::NotAuthentic);
    }
    let unique = unique(&mut crate::os_random).map_err(KeyFileError::into_key)?;
    let stored = match store::read(&n.seal) {
        Err(KeyFileError::Missing { .. }) => store::create(&n.seal, &seal.encode(), &unique),
        Ok(old) => store::replace(&n.seal, &old, &seal.encode(), &unique),
        Err(e) => Err(e),
    };
    stored.map_err(KeyFileError::into_key)
}

/// Opens the key file that `uri` names with its recovery passphrase, and has the TPM seal it anew, to the machine as it is now.
///
/// # Errors
/// The passphrase is wrong, there is no key file; the TPM's.
pub fn reseal(uri: &KeyUri, ask: bool) -> Result<(), KeyError> {
    let n = Named::of(uri)?;
    if n.without() {
        return Err(KeyError::BadUri {
            uri: uri.to_string(),
            cause: "tcti=none does without a TPM, so there is nothing to seal with".into(),
            remedy: "leave tcti out, or name the TPM".into(),
        });
    }
    Tpm::open(n.tcti)?.read(n.pcrs)?;
    let file = with_passphrase(uri, n.path, ask)?;
    seal(uri, &n, &file, ask)
}

/// How the key file that `uri` names is: whether its TPM would open it now. Nothing that counts as a try.
pub(crate) fn examine(uri: &KeyUri) -> Result<ProviderStatus, KeyError> {
    let n = Named::of(uri)?;
    if n.without() {
        return SealedFile::examine(n.path).map(|_| ProviderStatus::Ready).map_err(KeyFileError::into_key);
    }
    let seal = read_seal(&n)?;
    let mut tpm = Tpm::open(n.tcti)?;
    tpm.examine(&seal).map(|()| ProviderStatus::Ready)
}

impl KeyProvider for TpmFile {
    fn name(&self) -> &str {
        NAME
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        self.file.wrap(secret, context)
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        self.file.unwrap(wrapped, context)
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        self.file.roots()
    }

    /// Neither the passphrase nor what it was stretched to changes with it, so the seal stays as it is.
    fn add_root(&mut self) -> Result<String, KeyError> {
        KeyProvider::add_root(&mut self.file)
    }

    /// As of any key file: the seal opens what is left of it.
    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        self.file.destroy(root)
    }

    fn status(&self) -> ProviderStatus {
        crate::examine(&self.uri)
    }
}
