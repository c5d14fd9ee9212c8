//! The key-provider seam.
//!
//! Owns the trait. A provider holds root keys and never gives one out; it wraps and unwraps what it is handed, bound to a
//! [`Context`]. Calls may block for seconds (a network, a token, a passphrase's stretching), so
//! they belong on the control plane's blocking threads and never on a reactor.

use crate::{Context, KeyError, Secret};
use std::fmt;

/// A key as its provider wrapped it. No secret: it may be stored beside the data it unlocks.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// Which root key of the provider wrapped it: a label, an object identifier, a handle, as the provider names keys.
    pub root: String,
    /// The provider's own bytes; only it knows their form.
    pub blob: Vec<u8>,
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wrapped({:?}, {} bytes)", self.root, self.blob.len())
    }
}

/// Whether a provider can be used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderStatus {
    /// It answers, and would wrap and unwrap.
    Ready,
    /// It waits for something a person must do: a passphrase, a PIN, the end of a lock-out.
    Locked {
        /// What to do about it.
        remedy: String,
    },
    /// It does not answer.
    Unavailable {
        /// What was seen.
        cause: String,
    },
}

/// Why a root key is taken out of use for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not needed any more.
    Cessation,
    /// Another took its place.
    Superseded,
    /// Somebody else may have it.
    Compromise,
}

/// A key manager. Implementations are checked by [`crate::contract::check`].
pub trait KeyProvider: Send + Sync {
    /// The name by which configuration, logs and errors know it.
    fn name(&self) -> &str;

    /// Wraps `secret`, bound to `context`, under the provider's current root key. Secrets of 32 and 64 bytes must work.
    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError>;

    /// Gives back what was wrapped. [`KeyError::NotAuthentic`] where the blob, the root's name or the context is not what
    /// [`KeyProvider::wrap`] made or was given.
    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError>;

    /// The names of its root keys, oldest first; the last one wraps. Empty where there is none yet.
    fn roots(&self) -> Result<Vec<String>, KeyError>;

    /// Makes another root key, which wraps from here on, and gives its name; what the older ones wrapped still unwraps. It is
    /// durable in the provider when this returns.
    fn add_root(&mut self) -> Result<String, KeyError>;

    /// Takes a root key out of use, which nothing takes back: what it wrapped is not unwrapped any more, and it wraps nothing. It is still
    /// there, and says so ([`KeyError::Revoked`]). The caller has seen that nobody needs it.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] where the provider knows no such state; [`KeyError::NoSuchKey`].
    fn revoke(&mut self, root: &str, _why: Reason) -> Result<(), KeyError> {
        Err(KeyError::Unsupported {
            provider: self.name().into(),
            what: format!("take root key {root:?} out of use and keep it"),
            remedy: "destroy it (caisson key destroy POOL --root NAME)".into(),
        })
    }

    /// Destroys a root key for good, with what it wrapped; durable in the provider when this returns. The caller has seen that nobody
    /// needs it.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`]; [`KeyError::NoSuchKey`].
    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        Err(KeyError::Unsupported {
            provider: self.name().into(),
            what: format!("destroy root key {root:?} from here"),
            remedy: "destroy it with the means of whoever holds it".into(),
        })
    }

    /// Whether it can be used, found out without a use that could count towards a lock-out.
    fn status(&self) -> ProviderStatus;
}
