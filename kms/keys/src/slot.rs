//! Key slots: the wrapped keys that a pool keeps in its superblock.
//!
//! Owns what a slot says. Its bytes are the log's (datapath/log); they are no secret, and they are read before anything is
//! authenticated: a slot proves itself only when a provider unwraps it.

use crate::{Context, KeyError, Purpose, Wrapped};
use std::fmt;

/// One wrapped key in a pool.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// What the key is for.
    pub purpose: Purpose,
    /// The domain; 0 for the pool's own.
    pub domain: u32,
    /// The epoch that the wrap is bound to; 0 where the key has none, as the secrets of pools and domains.
    pub epoch: u16,
    /// The name of the provider that wrapped it.
    pub provider: String,
    /// What that provider gave.
    pub wrapped: Wrapped,
}

impl fmt::Debug for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeySlot { purpose, domain, epoch, provider, wrapped } = self;
        write!(f, "KeySlot({purpose:?}, domain {domain}, epoch {epoch}, {provider}, {wrapped:?})")
    }
}

impl KeySlot {
    /// A slot from what was stored. [`KeyError::BadSlots`] for a purpose that this version does not know: a newer one
    /// wrote it, and to open the pool without its keys would be wrong.
    pub fn from_stored(
        purpose: u8,
        domain: u32,
        epoch: u16,
        provider: &str,
        wrapped: Wrapped,
    ) -> Result<KeySlot, KeyError> {
        let purpose = Purpose::from_stored(purpose)
            .ok_or_else(|| KeyError::BadSlots { cause: format!("a slot for purpose {purpose}") })?;
        Ok(KeySlot { purpose, domain, epoch, provider: provider.into(), wrapped })
    }

    /// The binding under which the key was wrapped, in `pool`.
    pub fn context(&self, pool: [u8; 16]) -> Context {
        Context { purpose: self.purpose, pool, domain: self.domain.into(), epoch: self.epoch.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_what_was_stored() {
        let wrapped = Wrapped { root: "r1".into(), blob: vec![9; 3] };
        let slot = KeySlot::from_stored(1, 7, 2, "file", wrapped.clone()).unwrap();
        let context = Context { purpose: Purpose::Domain, pool: [3; 16], domain: 7, epoch: 2 };
        assert_eq!(slot.context([3; 16]), context);
        assert_eq!(format!("{slot:?}"), "KeySlot(Domain, domain 7, epoch 2, file, Wrapped(\"r1\", 3 bytes))");
        let unknown = KeySlot::from_stored(99, 7, 2, "file", wrapped).unwrap_err();
        assert!(unknown.to_string().contains("purpose 99") && unknown.remedy().contains("newer"));
    }
}
