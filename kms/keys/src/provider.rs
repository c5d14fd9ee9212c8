//! The key-provider seam.
//!
//! Owns the trait and its errors. A provider holds root keys and never gives one out; it wraps and unwraps what it is
//! handed, bound to a [`Context`]. Calls may block for seconds (a network, a token, a passphrase's stretching), so
//! they belong on the control plane's blocking threads and never on a reactor.

use crate::{Context, Secret};
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

/// Why a key could not be wrapped or unwrapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The provider does not answer; the same call may succeed later.
    #[error("key provider {provider} does not answer: {cause}")]
    Unavailable {
        /// The provider's name.
        provider: String,
        /// What was seen.
        cause: String,
    },
    /// The provider waits for a person; trying again by itself only counts against a lock-out.
    #[error("key provider {provider} is locked: {remedy}")]
    Locked {
        /// The provider's name.
        provider: String,
        /// What to do about it.
        remedy: String,
    },
    /// The credentials were refused: a wrong passphrase, PIN or certificate.
    #[error("key provider {provider} refuses the credentials: {remedy}")]
    Refused {
        /// The provider's name.
        provider: String,
        /// What to do about it.
        remedy: String,
    },
    /// There is no such root key, or it was revoked or destroyed.
    #[error("key provider {provider} has no usable key {root:?}")]
    NoSuchKey {
        /// The provider's name.
        provider: String,
        /// The root key that was asked for.
        root: String,
    },
    /// The blob does not authenticate: it was changed, or belongs to another context or root key. Never a reason to give
    /// a provider up.
    #[error(
        "the wrapped key does not authenticate for its place (changed, or from another pool, domain or epoch)"
    )]
    NotAuthentic,
    /// The secret has a length that the provider cannot wrap.
    #[error("key provider {provider} cannot wrap {len} bytes")]
    BadLength {
        /// The provider's name.
        provider: String,
        /// The length in bytes.
        len: usize,
    },
}

impl KeyError {
    /// Whether the same call may succeed later with nobody doing anything: then, and only then, try again with back-off.
    pub fn may_pass(&self) -> bool {
        matches!(self, KeyError::Unavailable { .. })
    }
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

    /// Whether it can be used, found out without a use that could count towards a lock-out.
    fn status(&self) -> ProviderStatus;
}
