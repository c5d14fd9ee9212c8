//! Secret bytes.
//!
//! Owns bytes in [locked memory](crate::locked), which are erased when dropped. It must never be cloned, printed or compared in a time that
//! depends on its content.

use crate::locked::Bytes;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes that must not be seen: erased when dropped, without `Clone`, with a `Debug` that shows only the length, and a
/// comparison that takes the same time wherever the bytes differ (their length is no secret). They lie in memory that is not swapped
/// out, as far as the system allows, and in no core dump.
pub struct Secret(Bytes);

impl Secret {
    /// Takes the secret out of `bytes`, which is left zeroed.
    pub fn take(bytes: &mut [u8]) -> Secret {
        let mut secret = Secret(Bytes::zeroes(bytes.len()));
        secret.0.copy_from_slice(bytes);
        bytes.zeroize();
        secret
    }

    /// A secret of `len` bytes that `fill` writes in place: from a random generator, a derivation, or a provider's answer.
    /// Where `fill` fails, what it wrote is erased.
    pub fn filled<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Secret, E> {
        let mut secret = Secret(Bytes::zeroes(len));
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes. Whoever asks must not copy them to where they outlive this.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as an array; `None` where the secret is not `N` bytes long.
    pub fn expose_array<const N: usize>(&self) -> Option<&[u8; N]> {
        self.0[..].try_into().ok()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_and_leaves_zeroes() {
        let mut bytes = *b"correct horse battery staple 32b";
        let secret = Secret::take(&mut bytes);
        assert_eq!(bytes, [0; 32]);
        assert_eq!(secret.expose(), b"correct horse battery staple 32b");
        assert_eq!((secret.len(), secret.is_empty()), (32, false));
        assert!(secret.expose_array::<32>().is_some() && secret.expose_array::<31>().is_none());
    }

    #[test]
    fn shows_its_length_only() {
        let secret = Secret::take(&mut [0x55; 64]);
        assert_eq!(format!("{secret:?}"), "Secret(64 bytes)");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(64 bytes))");
    }

    #[test]
    fn compares_by_every_byte_and_by_length() {
        let of = |mut b: Vec<u8>| Secret::take(&mut b);
        assert_eq!(of(vec![7; 32]), of(vec![7; 32]));
        for at in 0..32 {
            let mut other = vec![7; 32];
            other[at] ^= 1;
            assert_ne!(of(vec![7; 32]), of(other));
        }
        assert_ne!(of(vec![7; 32]), of(vec![7; 31]));
        assert_eq!(of(vec![]), of(vec![]));
    }

    #[test]
    fn a_failed_fill_gives_its_error() {
        assert_eq!(
            Secret::filled(8, |b| {
                b[0] = 1;
                Err::<(), _>("no entropy")
            }),
            Err("no entropy")
        );
        let secret = Secret::filled(4, |b| {
            b.copy_from_slice(&[1, 2, 3, 4]);
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(secret.expose(), [1, 2, 3, 4]);
    }

    /// What zeroize promises, seen on the one thing that can be looked at without undefined behaviour: the value before
    /// its allocation is given back.
    #[test]
    fn is_erased_when_told() {
        let mut secret = Secret::take(&mut [0xaa; 48]);
        secret.0.zeroize();
        assert_eq!(secret.expose(), [0; 48]);
        assert!(std::mem::needs_drop::<Secret>());
    }
}
