//! The key that fingerprints are made under.
//!
//! Owns 32 secret bytes in locked memory, erased when dropped. It must never be printed, compared or copied out: one domain has one
//! fingerprint key, and whoever holds it can test the pool for known contents.

use crate::KEY_LEN;
use caisson_keys::LockedBytes;
use std::fmt;
use zeroize::Zeroize;

/// A 32-byte fingerprint key. It lies where it is made: moving it leaves no copy behind.
pub struct FingerprintKey(LockedBytes);

impl FingerprintKey {
    /// Takes over `bytes`. The caller erases its own copy; [`FingerprintKey::take`] does so by itself.
    pub fn new(bytes: [u8; KEY_LEN]) -> FingerprintKey {
        let mut key = LockedBytes::zeroes(KEY_LEN);
        key.copy_from_slice(&bytes);
        FingerprintKey(key)
    }

    /// Takes the key out of `bytes`, which is left zeroed.
    pub fn take(bytes: &mut [u8; KEY_LEN]) -> FingerprintKey {
        let mut key = LockedBytes::zeroes(KEY_LEN);
        key.copy_from_slice(bytes);
        bytes.zeroize();
        FingerprintKey(key)
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        self.0.first_chunk().unwrap_or_else(|| unreachable!("it was made of {KEY_LEN} bytes"))
    }
}

/// Says what it is and nothing of what it holds.
impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_and_leaves_nothing() {
        let mut bytes = [0x41; KEY_LEN];
        let key = FingerprintKey::take(&mut bytes);
        assert_eq!(bytes, [0; KEY_LEN]);
        assert_eq!(key.bytes(), &[0x41; KEY_LEN]);
        assert_eq!(format!("{key:?}"), "FingerprintKey(..)");
        assert!(std::mem::needs_drop::<FingerprintKey>());
    }
}
