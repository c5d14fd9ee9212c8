//! KMIP servers as a key provider.
//!
//! Owns which keys are root keys (NAME, then NAME.2, NAME.3 and so on, of which the last wraps), what is wrapped how, and what a
//! server's refusal means for the caller. It must never choose to fetch a key that the server could have used itself.

use crate::client::{Client, Session};
use crate::error::{Fault, reason};
use crate::ops::{TAG_LEN, revocation, state};
use crate::tls::Identity;
use caisson_keys::seal;
use caisson_keys::{
    CONTEXT_LEN, Context, KeyError, KeyProvider, KeyUri, ProviderStatus, Reason, Scheme, Secret, Wrapped,
};
use hkdf::Hkdf;
use sha2::Sha256;
use std::fmt;
use std::time::Duration;

/// The provider's name, as pools remember it.
pub const NAME: &str = Scheme::Kmip.name();

/// The first byte of what the server sealed, with AES-256-GCM.
const BY_SERVER: u8 = 1;
/// The first byte of what was sealed here, with a key that was fetched for it, by XChaCha20-Poly1305.
const BY_FETCHED: u8 = 2;

const NONCE_LEN: usize = 12;
const MAX_SECRET: usize = 256;
/// Root keys of one name.
const MAX_ROOTS: usize = 64;
/// Numbers behind the last key that are looked at, too: those between may have been destroyed.
const GAP: usize = 16;
/// Longest identifier that a pool's key slot has room for.
const MAX_ID: usize = 256;
/// Seconds that all of one call may take, by itself and at most.
const TIME: (u64, u64) = (10, 120);

/// Root keys in KMIP servers.
pub struct Kmip {
    client: Client,
    name: String,
}

impl fmt::Debug for Kmip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kmip({}, {:?})", self.client.called(), self.name)
    }
}

impl Kmip {
    /// The servers and the key that `uri` names. Nothing is asked of them yet.
    ///
    /// # Errors
    /// [`KeyError::BadUri`].
    pub fn open(uri: &KeyUri) -> Result<Kmip, KeyError> {
        let servers: Vec<String> = uri.queries("server").map(str::to_string).collect();
        uri.required("server")?;
        let path = |name: &str| uri.required(name).map(Into::into);
        let identity = Identity { ca: path("ca")?, cert: path("cert")?, key: path("key")? };
        let time = match uri.query("timeout") {
            None => TIME.0,
            Some(text) => {
                text.parse().ok().filter(|t| (1..=TIME.1).contains(t)).ok_or_else(|| KeyError::BadUri {
                    uri: uri.to_string(),
                    cause: "`timeout` is no number of seconds".into(),
                    remedy: format!("write timeout=1 to {}", TIME.1),
                })?
            }
        };
        let name = uri.required("object")?.to_string();
        Ok(Kmip { client: Client::new(servers, identity, Duration::from_secs(time)), name })
    }

    fn ask<T>(&self, root: &str, f: impl FnMut(&mut Session) -> Result<T, Fault>) -> Result<T, KeyError> {
        self.client.with(f).map_err(|fault| self.plain(root, fault))
    }

    /// A fault where it says all there is to say.
    fn plain(&self, root: &str, fault: Fault) -> KeyError {
        let provider = self.client.called();
        match fault {
            Fault::Way(e) => e,
            Fault::No { reason: reason::ITEM_NOT_FOUND, .. } => {
                KeyError::NoSuchKey { provider, root: root.into() }
            }
            Fault::No { reason: reason::OPERATION_NOT_SUPPORTED, message } => KeyError::Unsupported {
                provider,
                what: format!("do that: {message}"),
                remedy: "use a server of KMIP 1.2 or later that creates and activates symmetric keys".into(),
            },
            Fault::No {
                reason: reason::AUTHENTICATION_NOT_SUCCESSFUL | reason::PERMISSION_DENIED,
                message,
            } => KeyError::Refused {
                provider,
                cause: format!("permission denied: {message}"),
                remedy: "have the server's administrator let this client's certificate use the key".into(),
            },
            Fault::No { reason: reason::OBJECT_ARCHIVED, .. } => {
                KeyError::Revoked { provider, root: root.into(), state: "archived".into() }
            }
            Fault::No { reason, message } => KeyError::Refused {
                provider,
                cause: format!("{message} (result reason {reason:#x})"),
                remedy: "see the server's log".into(),
            },
        }
    }

    /// What it means that a key could not be used: its state says more than servers do.
    fn why(&self, session: &mut Session, root: &str, fault: Fault, otherwise: Option<KeyError>) -> Fault {
        if matches!(fault, Fault::Way(_)) {
            return fault;
        }
        let revoked = |state: &str| {
            Fault::Way(KeyError::Revoked {
                provider: self.client.called(),
                root: root.into(),
                state: state.into(),
            })
        };
        match session.state(root) {
            Ok(state::PRE_ACTIVE) => revoked("not active yet"),
            Ok(state::DEACTIVATED) => revoked("deactivated"),
            Ok(state::COMPROMISED) => revoked("compromised"),
            Ok(state::DESTROYED | state::DESTROYED_COMPROMISED) => revoked("destroyed"),
            Ok(_) => otherwise.map_or(fault, Fault::Way),
            Err(Fault::No { reason: reason::ITEM_NOT_FOUND, message }) => {
                Fault::No { reason: reason::ITEM_NOT_FOUND, message }
            }
            Err(way @ Fault::Way(_)) => way,
            Err(Fault::No { .. }) => fault,
        }
    }

    /// The numbers and identifiers of the root keys, oldest first. Some may have been destroyed, the first ones, too.
    fn find(&self, session: &mut Session) -> Result<Vec<(usize, String)>, Fault> {
        let mut roots: Vec<(usize, String)> = Vec::new();
        for number in 1..=MAX_ROOTS {
            if roots.last().is_some_and(|(last, _)| number > last + GAP) {
                break;
            }
            let found = session.locate(&numbered(&self.name, number))?;
            let fits = found.into_iter().filter(|id| id.len() <= MAX_ID);
            // Two clients may have made one at the same time: the same one counts for both.
            roots.extend(fits.min().map(|id| (number, id)));
        }
        Ok(roots)
    }

    /// The last of them, made active where a creation was interrupted before it was.
    fn newest(&self, session: &mut Session) -> Result<String, Fault> {
        let (_, root) = self.find(session)?.pop().ok_or_else(|| {
            Fault::Way(KeyError::NoSuchKey { provider: self.client.called(), root: self.name.clone() })
        })?;
        if session.state(&root)? == state::PRE_ACTIVE {
            session.activate(&root)?;
        }
        Ok(root)
    }

    fn wrap_by(&self, s: &mut Session, secret: &Secret, context: &Context) -> Result<Wrapped, Fault> {
        let root = self.newest(s)?;
        let aad = associated(context, &root);
        let blob = if s.encrypts()? {
            let mut nonce = [0; NONCE_LEN];
            random(&mut nonce).map_err(Fault::Way)?;
            let sealed = s.encrypt(&root, &nonce, &aad, secret.expose());
            let sealed = sealed.map_err(|fault| self.why(s, &root, fault, None))?;
            [&[BY_SERVER][..], &nonce, &sealed.text, &sealed.tag].concat()
        } else {
            // A server gives a key out whatever its state: that it may be used is for us to see.
            self.usable(s, &root)?;
            let key = s.get(&root).map_err(|fault| self.why(s, &root, fault, None))?;
            let called = self.client.called();
            seal::wrap(BY_FETCHED, &own(&key), &aad, secret, &called, &mut random).map_err(Fault::Way)?
        };
        Ok(Wrapped { root, blob })
    }

    fn usable(&self, s: &mut Session, root: &str) -> Result<(), Fault> {
        match s.state(root)? {
            state::ACTIVE => Ok(()),
            _ => Err(self.why(s, root, Fault::No { reason: 0, message: "its state".into() }, None)),
        }
    }

    fn unwrap_by(&self, s: &mut Session, wrapped: &Wrapped, context: &Context) -> Result<Secret, Fault> {
        let tampered = || Fault::Way(KeyError::NotAuthentic);
        let (root, aad) = (&wrapped.root, associated(context, &wrapped.root));
        let (version, rest) = wrapped.blob.split_first().ok_or_else(tampered)?;
        match *version {
            BY_SERVER => {
                let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(tampered)?;
                let (text, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or_else(tampered)?;
                if !(1..=MAX_SECRET).contains(&text.len()) {
                    return Err(tampered());
                }
                let opened = s.decrypt(root, nonce, &aad, text, tag);
                // Servers say of a tag that does not fit whatever comes to their mind; that of an active key is that.
                opened.map_err(|fault| self.why(s, root, fault, Some(KeyError::NotAuthentic)))
            }
            BY_FETCHED => {
                self.usable(s, root)?;
                let key = s.get(root).map_err(|fault| self.why(s, root, fault, None))?;
                seal::unwrap(BY_FETCHED, &own(&key), &aad, &wrapped.blob).map_err(Fault::Way)
            }
            _ => Err(tampered()),
        }
    }
}

fn numbered(name: &str, number: usize) -> String {
    if number == 1 { name.into() } else { format!("{name}.{number}") }
}

/// What is authenticated with a wrapped secret: its place, and which root key wrapped it.
fn associated(context: &Context, root: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(CONTEXT_LEN + root.len());
    out.extend(context.encode());
    out.extend(root.as_bytes());
    out
}

/// The key that is used of one that was fetched: never the fetched one itself, which others may use otherwise.
fn own(fetched: &Secret) -> Secret {
    let hkdf = Hkdf::<Sha256>::new(None, fetched.expose());
    let out = Secret::filled(32, |out| hkdf.expand(b"caisson kmip wrap v2", out));
    out.unwrap_or_else(|_| unreachable!("32 bytes are within HKDF's bound"))
}

fn random(out: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(out).map_err(|e| KeyError::NoRandom { cause: e.to_string() })
}

impl KeyProvider for Kmip {
    fn name(&self) -> &str {
        NAME
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        if !(1..=MAX_SECRET).contains(&secret.len()) {
            return Err(KeyError::BadLength { provider: self.client.called(), len: secret.len() });
        }
        self.ask(&self.name, |s| self.wrap_by(s, secret, context))
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        self.ask(&wrapped.root, |s| self.unwrap_by(s, wrapped, context))
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        self.ask(&self.name, |s| Ok(self.find(s)?.into_iter().map(|(_, root)| root).collect()))
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        self.ask(&self.name, |s| {
            let number = self.find(s)?.last().map_or(1, |(last, _)| last + 1);
            if number > MAX_ROOTS {
                return Err(Fault::Way(KeyError::Unsupported {
                    provider: self.client.called(),
                    what: format!("hold more than {MAX_ROOTS} keys of one name for us"),
                    remedy: "name another key (object=), and wrap the pools' keys with that".into(),
                }));
            }
            let root = s.create(&numbered(&self.name, number))?;
            s.activate(&root)?;
            Ok(root)
        })
    }

    /// As the server knows it: deactivated, or compromised. One that is so already, or beyond, stays as it is.
    fn revoke(&mut self, root: &str, why: Reason) -> Result<(), KeyError> {
        let (code, done) = match why {
            Reason::Compromise => (revocation::KEY_COMPROMISE, state::COMPROMISED),
            Reason::Superseded => (revocation::SUPERSEDED, state::DEACTIVATED),
            Reason::Cessation => (revocation::CESSATION_OF_OPERATION, state::DEACTIVATED),
        };
        self.ask(root, |s| match s.state(root)? {
            now if now >= done => Ok(()),
            _ => s.revoke(root, code),
        })
    }

    /// Servers destroy no key that is in use (4.21): one that is, is revoked before.
    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        self.ask(root, |s| {
            match s.state(root)? {
                state::ACTIVE => s.revoke(root, revocation::CESSATION_OF_OPERATION)?,
                state::DESTROYED | state::DESTROYED_COMPROMISED => return Ok(()),
                _ => {}
            }
            s.destroy(root)
        })
    }

    fn status(&self) -> ProviderStatus {
        match self.ask(&self.name, |s| s.encrypts()) {
            Ok(_) => ProviderStatus::Ready,
            Err(e) if e.may_pass() => ProviderStatus::Unavailable { cause: e.to_string() },
            Err(e) => ProviderStatus::Locked { remedy: format!("{e}: {}", e.remedy()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, A.3, for the HKDF without salt that is used here.
    #[test]
    fn hkdf_without_salt_gives_what_its_rfc_says() {
        let mut out = [0; 42];
        Hkdf::<Sha256>::new(None, &[0x0b; 22]).expand(&[], &mut out).unwrap();
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
        );
    }

    /// Computed once with Python's hmac module. A change would make what was wrapped so unreadable.
    #[test]
    fn the_derivation_is_what_it_was() {
        let hex: String =
            own(&Secret::take(&mut [7; 32])).expose().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "a010fce9741fbfe89dc7958074c8234df7ce253b4dd19e61b43862cce185106a");
    }

    #[test]
    fn what_is_missing_in_the_uri_is_said() {
        let full = "kmip:object=n?server=a&ca=/a&cert=/c&key=/k";
        Kmip::open(&full.parse().unwrap()).unwrap();
        for part in ["object=n", "server=a", "ca=/a", "cert=/c", "key=/k"] {
            let error = Kmip::open(&full.replace(part, "").parse().unwrap()).unwrap_err();
            assert!(matches!(&error, KeyError::BadUri { .. }), "{part}: {error}");
        }
        let slow = format!("{full}&timeout=never");
        assert!(Kmip::open(&slow.parse().unwrap()).unwrap_err().remedy().contains("120"));
    }
}
