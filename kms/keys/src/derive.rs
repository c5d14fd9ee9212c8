//! Derivation of one secret from another.
//!
//! Owns the one form of it: HKDF-SHA256 (RFC 5869) with the pool as salt and a [`Context`] in the info. It must never change
//! under version 1: every sealed block depends on it.

use crate::{Context, Secret};
use hkdf::Hkdf;
use sha2::Sha256;

/// Set before the encoded context, so that nothing else that uses HKDF with the same secret gives the same bytes.
const LABEL: &[u8; 17] = b"caisson derive v1";

/// 32 bytes for `context`, from `from`: HKDF-SHA256 with salt = `context.pool`, input = `from`, and
/// info = `"caisson derive v1"` followed by [`Context::encode`].
///
/// Whoever holds the result learns nothing of `from` nor of what is derived for another context.
pub fn derive(from: &Secret, context: &Context) -> Secret {
    let hkdf = Hkdf::<Sha256>::new(Some(&context.pool), from.expose());
    let encoded = context.encode();
    let secret = Secret::filled(32, |out| hkdf.expand_multi_info(&[LABEL, &encoded], out));
    // HKDF refuses only outputs of more than 255 hashes.
    secret.unwrap_or_else(|_| unreachable!("32 bytes are within HKDF's bound"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Purpose;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 5869, A.1.
    #[test]
    fn hkdf_gives_what_its_rfc_says() {
        let salt = hex("000102030405060708090a0b0c");
        let info = hex("f0f1f2f3f4f5f6f7f8f9");
        let mut out = [0; 42];
        Hkdf::<Sha256>::new(Some(&salt), &[0x0b; 22]).expand(&info, &mut out).unwrap();
        assert_eq!(
            out[..],
            hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")[..]
        );
    }

    /// Computed once with Python's hmac module. A change here would make every pool unreadable.
    #[test]
    fn the_derivation_is_what_it_was() {
        let from = Secret::take(&mut std::array::from_fn::<u8, 32, _>(|i| i as u8));
        let pool = std::array::from_fn(|i| 0xa0 + i as u8);
        let context = Context { purpose: Purpose::Epoch, pool, domain: 1, epoch: 1 };
        assert_eq!(
            derive(&from, &context).expose(),
            hex("c8a1da00eeee24ce5212e105f4e61de9ea6f864126ce23fc25aea7af8e990058")
        );
        let context = Context { purpose: Purpose::Fingerprint, epoch: 0, ..context };
        assert_eq!(
            derive(&from, &context).expose(),
            hex("c3384273c0661874ae03930e3bcddc07b0e4cf5d13818058520f22ec735a0e37")
        );
    }

    #[test]
    fn every_input_counts() {
        let from = |b: u8| Secret::take(&mut [b; 32]);
        let base = Context { purpose: Purpose::Epoch, pool: [1; 16], domain: 1, epoch: 1 };
        let first = derive(&from(1), &base);
        assert_eq!(first, derive(&from(1), &base));
        assert_ne!(first, derive(&from(2), &base));
        for other in [
            Context { purpose: Purpose::Fingerprint, ..base },
            Context { pool: [2; 16], ..base },
            Context { domain: 2, ..base },
            Context { epoch: 2, ..base },
        ] {
            assert_ne!(first, derive(&from(1), &other), "{other:?}");
        }
    }
}
