//! What goes wrong with keys.
//!
//! Owns the one error of all providers and of the hierarchy: what happened, what a person can do about it, and whether trying
//! again by itself makes sense. It must never hold a secret: no passphrase, PIN, key or plaintext is in any field.

/// Why a key could not be had, wrapped or unwrapped.
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
    /// The provider's library or device is not on this machine.
    #[error("key provider {provider} cannot be used: {cause}")]
    NotInstalled {
        /// The provider's name.
        provider: String,
        /// What was seen.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
    /// The passphrase or PIN is wrong. Each try may count towards a lock-out.
    #[error("key provider {provider}: the {what} is wrong")]
    WrongSecret {
        /// The provider's name.
        provider: String,
        /// "passphrase" or "PIN".
        what: &'static str,
        /// What to do about it.
        remedy: String,
    },
    /// The provider waits for a person, or is locked out: trying again by itself only makes it worse.
    #[error("key provider {provider} is locked: {cause}")]
    Locked {
        /// The provider's name.
        provider: String,
        /// What was seen.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
    /// Too many wrong secrets were tried, by whomever, and the provider takes none for a while, or would lock with one more. None
    /// was tried.
    #[error("key provider {provider} is locked out: {cause}")]
    LockedOut {
        /// The provider's name.
        provider: String,
        /// What was seen.
        cause: String,
        /// Seconds before which it must not be asked again.
        seconds: u32,
    },
    /// The provider does not let this client in, or do this: a certificate or right that it does not accept.
    #[error("key provider {provider} refuses: {cause}")]
    Refused {
        /// The provider's name.
        provider: String,
        /// What was seen.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
    /// A certificate is not valid any more, or not yet.
    #[error("key provider {provider}: {what} has expired, or is not valid yet")]
    Expired {
        /// The provider's name.
        provider: String,
        /// Whose certificate.
        what: String,
    },
    /// No slot holds the token that was named.
    #[error("key provider {provider} has no token {token:?}; there is {found}")]
    NoSuchToken {
        /// The provider's name.
        provider: String,
        /// The token that was asked for.
        token: String,
        /// The tokens that there are, in words.
        found: String,
    },
    /// There is no such root key.
    #[error("key provider {provider} has no key {root:?}")]
    NoSuchKey {
        /// The provider's name.
        provider: String,
        /// The root key that was asked for.
        root: String,
    },
    /// The root key is there, and must not be used: revoked, deactivated, or destroyed.
    #[error("key provider {provider}: key {root:?} is {state}")]
    Revoked {
        /// The provider's name.
        provider: String,
        /// The root key.
        root: String,
        /// What became of it: "deactivated", "compromised", "destroyed".
        state: String,
    },
    /// The machine is not in the state that the key was bound to.
    #[error("key provider {provider}: {cause}")]
    StateChanged {
        /// The provider's name.
        provider: String,
        /// What was seen.
        cause: String,
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
    /// The provider cannot do what was asked for.
    #[error("key provider {provider} cannot {what}")]
    Unsupported {
        /// The provider's name.
        provider: String,
        /// What was asked for.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// What names a provider cannot be understood, or lacks something.
    #[error("{uri}: {cause}")]
    BadUri {
        /// What was given.
        uri: String,
        /// What is wrong with it.
        cause: String,
        /// What to do about it.
        remedy: String,
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
    /// A local file that a provider needs cannot be used.
    #[error("key provider {provider}: {cause}")]
    Local {
        /// The provider's name.
        provider: String,
        /// What was seen.
        cause: String,
        /// What to do about it.
        remedy: String,
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
            KeyError::LockedOut { seconds, .. } => format!(
                "wait: it is asked again by itself, in {seconds} s at the earliest; or take the lockout away as its owner \
                 (tpm2_dictionarylockout --clear-lockout), and find out who tried wrong values"
            ),
            KeyError::NotInstalled { remedy, .. }
            | KeyError::WrongSecret { remedy, .. }
            | KeyError::Locked { remedy, .. }
            | KeyError::Refused { remedy, .. }
            | KeyError::Unsupported { remedy, .. }
            | KeyError::BadUri { remedy, .. }
            | KeyError::Local { remedy, .. } => remedy.clone(),
            KeyError::Expired { what, .. } => format!(
                "renew {what}, put it in the place of the old one, and check the clocks of both machines; \
                 the target need not be restarted"
            ),
            KeyError::NoSuchToken { .. } => {
                "name the token by its label (token=LABEL), and see that it is plugged in and initialised".into()
            }
            KeyError::NoSuchKey { provider, root } => format!(
                "name the provider or key file that holds root key {root:?}: {provider} is another, or lost that key"
            ),
            KeyError::Revoked { state, .. } if state == "destroyed" => {
                "open the pool with another of its key slots, or with recovery shares: a destroyed key does not come back"
                    .into()
            }
            KeyError::Revoked { .. } => {
                "ask who manages the key manager why; open the pool with another of its key slots or with recovery shares, and \
                 wrap its keys anew (caisson key rotate)"
                    .into()
            }
            KeyError::StateChanged { .. } => {
                "if firmware, boot loader or their settings were changed on purpose, seal it anew with the recovery passphrase (caisson key \
                 reseal --key URI), then start the target or `caisson key retry POOL`; if not, find out what was changed"
                    .into()
            }
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
                format!("configure key provider {provider:?} for this pool (--key, or keys in the configuration)")
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
        matches!(self, KeyError::Unavailable { .. } | KeyError::LockedOut { .. })
    }

    /// Before how many seconds it must not be tried again, where the provider says so: a lockout would only last longer.
    pub fn wait_s(&self) -> Option<u32> {
        match self {
            KeyError::LockedOut { seconds, .. } => Some(*seconds),
            _ => None,
        }
    }

    /// How much it says, where several providers failed: the highest is told first. What passes by itself comes before what
    /// takes a person, and that before what only says that a provider was the wrong one to ask.
    pub fn rank(&self) -> u8 {
        match self {
            KeyError::NoProvider { .. } | KeyError::NoSlot { .. } => 0,
            KeyError::NoSuchKey { .. } => 1,
            KeyError::Unavailable { .. } | KeyError::LockedOut { .. } => 3,
            _ => 2,
        }
    }
}
