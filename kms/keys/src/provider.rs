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
    /// No provider that was handed in goes by the name that the pool's keys were wrapped under.
    #[error(
        "the keys of {what} are wrapped by key provider {provider:?} (root key {root:?}), which is not configured"
    )]
    NoProvider {
        /// Which keys: the pool's own, or a domain's.
        what: String,
        /// The provider's name as stored.
        provider: String,
        /// The root key that wrapped them.
        root: String,
    },
    /// The pool holds no wrapped key for something that it needs.
    #[error("the pool holds no wrapped key for {what}")]
    NoSlot {
        /// What for: the pool itself, or a domain.
        what: String,
    },
    /// Stored key slots are not in a form that this version can read.
    #[error("the pool's key slots cannot be read: {cause}")]
    BadSlots {
        /// What was found.
        cause: String,
    },
    /// The system gave no random bytes, so no key was made.
    #[error("no random bytes for new keys: {cause}")]
    NoRandom {
        /// What was seen.
        cause: String,
    },
}

impl KeyError {
    /// What a person can do about it, as one sentence.
    pub fn remedy(&self) -> String {
        match self {
            KeyError::Unavailable { provider, .. } => {
                format!(
                    "see that {provider} runs and can be reached from here; Caisson tries again by itself"
                )
            }
            KeyError::Locked { remedy, .. } | KeyError::Refused { remedy, .. } => remedy.clone(),
            KeyError::NoSuchKey { provider, root } => format!(
                "name the provider or key file that holds root key {root:?}: {provider} is another, or lost that key"
            ),
            KeyError::NotAuthentic => {
                "put back the pool's superblock or key slots from where they were changed; \
                 a key of another pool cannot open this one"
                    .into()
            }
            KeyError::BadLength { .. } => {
                "report this: Caisson wraps 32 and 64 bytes, which every provider takes".into()
            }
            KeyError::NoProvider { provider, .. } if provider == "file" => {
                "name the sealed key file that the pool was created with (--key-file)".into()
            }
            KeyError::NoProvider { provider, .. } => {
                format!("configure key provider {provider:?} for this pool")
            }
            KeyError::NoSlot { .. } => "open the pool with the version that wrote it, and check it".into(),
            KeyError::BadSlots { .. } => {
                "check the pool: its superblock is damaged, or a newer version of Caisson wrote it".into()
            }
            KeyError::NoRandom { .. } => "see why the kernel gives no random bytes (getrandom)".into(),
        }
    }

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
