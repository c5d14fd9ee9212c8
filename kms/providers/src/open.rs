//! From what names a provider to the provider, unlocked.
//!
//! Owns which kind is opened how, and how often a person may try. It must never try a secret again that came from anywhere but
//! a person: a file says the same the next time, and tokens count.

use crate::{
    Argon2Cost, Ask, KeyFileError, PassphraseError, PassphraseSource, ROOT_LABEL, SealedFile, Wanted, tpm,
};
use caisson_keys::{KeyError, KeyProvider, KeyUri, ProviderStatus, Scheme, Secret};
use std::path::Path;

/// How often a person at a terminal may try a passphrase. A PIN is tried once.
const TRIES: usize = 3;

/// What may be done on the way.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// A person at the terminal may be asked.
    pub ask: bool,
    /// A key file, or a root key in a token or server, is made where there is none.
    pub make: bool,
}

/// An opened provider.
pub struct Opened {
    /// The provider.
    pub provider: Box<dyn KeyProvider>,
    /// Whether the key file, or its first root key, was made for it.
    pub made: bool,
}

/// Opens the provider that `uri` names. May block for seconds, and more where a person is asked.
///
/// # Errors
/// The provider's. Each is final but those that [may pass](KeyError::may_pass).
pub fn open(uri: &KeyUri, how: How) -> Result<Opened, KeyError> {
    match uri.scheme() {
        Scheme::File => file(uri, how),
        Scheme::Pkcs11 => {
            let token = caisson_pkcs11::Token::open(uri, |called| pin(uri, called, how.ask))?;
            with_root(Box::new(token), how)
        }
        Scheme::Kmip => with_root(Box::new(caisson_kmip::Kmip::open(uri)?), how),
        Scheme::Tpm2 => tpm::open(uri, how),
        Scheme::Kms => with_root(Box::new(caisson_service::Remote::open(uri)?), how),
    }
}

/// How the provider that `uri` names is, found out without a passphrase or PIN and without anything that counts as a try.
pub fn examine(uri: &KeyUri) -> ProviderStatus {
    let status = match uri.scheme() {
        Scheme::File => SealedFile::examine(Path::new(uri.path().unwrap_or_default()))
            .map(|_| ProviderStatus::Ready)
            .map_err(KeyFileError::into_key),
        Scheme::Pkcs11 => caisson_pkcs11::Token::examine(uri),
        Scheme::Kmip => caisson_kmip::Kmip::open(uri).map(|kmip| kmip.status()),
        Scheme::Tpm2 => tpm::examine(uri),
        Scheme::Kms => caisson_service::Remote::open(uri).map(|remote| remote.status()),
    };
    status.unwrap_or_else(|e| match e.may_pass() {
        true => ProviderStatus::Unavailable { cause: e.to_string() },
        false => ProviderStatus::Locked { remedy: format!("{e}; {}", e.remedy()) },
    })
}

/// Makes the first root key where there is none and one may be made.
fn with_root(mut provider: Box<dyn KeyProvider>, how: How) -> Result<Opened, KeyError> {
    let made = how.make && provider.roots()?.is_empty();
    if made {
        provider.add_root()?;
    }
    Ok(Opened { provider, made })
}

pub(crate) fn local(uri: &KeyUri, e: &PassphraseError) -> KeyError {
    KeyError::Local { provider: uri.scheme().name().into(), cause: e.to_string(), remedy: e.remedy() }
}

/// The PIN for what is called so, from where `uri` says, or from wherever else one may come.
pub(crate) fn pin(uri: &KeyUri, called: &str, ask: bool) -> Result<Secret, KeyError> {
    let file = uri.query("pin-source").map(|p| Path::new(p.strip_prefix("file:").unwrap_or(p)));
    let source = PassphraseSource::choose(Wanted::Pin, file, ask);
    source.and_then(|s| s.get(Ask::Pin(called))).map_err(|e| local(uri, &e))
}

pub(crate) fn passphrase_source(uri: &KeyUri, ask: bool) -> Result<PassphraseSource, KeyError> {
    let file = uri.query("passphrase-file").map(Path::new);
    PassphraseSource::choose(Wanted::Passphrase, file, ask).map_err(|e| local(uri, &e))
}

fn file(uri: &KeyUri, how: How) -> Result<Opened, KeyError> {
    let path = Path::new(uri.path().unwrap_or_default());
    if how.make && path.symlink_metadata().is_err() {
        let passphrase =
            passphrase_source(uri, how.ask)?.get(Ask::Create(path)).map_err(|e| local(uri, &e))?;
        let made = SealedFile::create(path, &passphrase, ROOT_LABEL, Argon2Cost::DEFAULT);
        return Ok(Opened { provider: Box::new(made.map_err(KeyFileError::into_key)?), made: true });
    }
    with_passphrase(uri, path, how.ask).map(|file| Opened { provider: Box::new(file), made: false })
}

/// Opens the key file at `path` with its passphrase, from where `uri` says or wherever else one may come.
pub(crate) fn with_passphrase(uri: &KeyUri, path: &Path, ask: bool) -> Result<SealedFile, KeyError> {
    // Before anybody is asked for a passphrase to a file that cannot be opened with any.
    SealedFile::examine(path).map_err(KeyFileError::into_key)?;
    let source = passphrase_source(uri, ask)?;
    let tries = if source == PassphraseSource::Prompt { TRIES } else { 1 };
    let mut last = None;
    for _ in 0..tries {
        let passphrase = source.get(Ask::Open(path)).map_err(|e| local(uri, &e))?;
        match SealedFile::open(path, &passphrase) {
            Ok(file) => return Ok(file),
            Err(e) if e.is_wrong_passphrase() => last = Some(e.into_key()),
            Err(e) => return Err(e.into_key()),
        }
    }
    Err(last.unwrap_or_else(|| local(uri, &PassphraseError::Cancelled)))
}
