//! XChaCha20-Poly1305, as providers wrap with it that have a key in memory.
//!
//! Owns the two calls into the crate that implements it, erasing what does not authenticate, and the form of what is wrapped. Its
//! nonces are random, of 24 bytes.

use crate::{KeyError, Random, Secret};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroize;

/// Bytes of an XChaCha20-Poly1305 nonce.
pub const NONCE_LEN: usize = 24;

/// Bytes of its tag.
pub const TAG_LEN: usize = 16;

/// Encrypts `text` in place and gives the tag. `None` where the key is not of 32 bytes.
pub fn seal(key: &Secret, nonce: &[u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Option<[u8; TAG_LEN]> {
    let cipher = XChaCha20Poly1305::new(key.expose_array::<32>()?.into());
    // Refused only beyond 2^38 bytes.
    let tag = cipher.encrypt_inout_detached(&XNonce::from(*nonce), aad, text.into()).ok()?;
    Some(tag.into())
}

/// Decrypts `text` in place; `None`, with `text` erased, where it does not authenticate.
pub fn open(
    key: &Secret,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Option<()> {
    let cipher = XChaCha20Poly1305::new(key.expose_array::<32>()?.into());
    let opened =
        cipher.decrypt_inout_detached(&XNonce::from(*nonce), aad, (&mut *text).into(), &Tag::from(*tag));
    if opened.is_err() {
        text.zeroize();
    }
    opened.ok()
}

/// Longest secret that is wrapped so.
const MAX_SECRET: usize = 256;

/// Wraps `secret` under `key` as `version` (1 byte), nonce (24, random), ciphertext, tag (16).
///
/// # Errors
/// [`KeyError::BadLength`] for `provider`; [`KeyError::NoRandom`].
pub fn wrap(
    version: u8,
    key: &Secret,
    aad: &[u8],
    secret: &Secret,
    provider: &str,
    random: Random<'_>,
) -> Result<Vec<u8>, KeyError> {
    let bad_length = || KeyError::BadLength { provider: provider.into(), len: secret.len() };
    if !(1..=MAX_SECRET).contains(&secret.len()) {
        return Err(bad_length());
    }
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    let mut blob = Vec::with_capacity(1 + NONCE_LEN + secret.len() + TAG_LEN);
    blob.push(version);
    blob.extend(nonce);
    blob.extend(secret.expose());
    let tag = seal(key, &nonce, aad, &mut blob[1 + NONCE_LEN..]).ok_or_else(bad_length)?;
    blob.extend(tag);
    Ok(blob)
}

/// Unwraps what [`wrap`] made of the same version.
///
/// # Errors
/// [`KeyError::NotAuthentic`].
pub fn unwrap(version: u8, key: &Secret, aad: &[u8], blob: &[u8]) -> Result<Secret, KeyError> {
    let parts = || {
        let (first, rest) = blob.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (text, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let fits = *first == version && (1..=MAX_SECRET).contains(&text.len());
        fits.then_some((nonce, text, tag))
    };
    let (nonce, text, tag) = parts().ok_or(KeyError::NotAuthentic)?;
    Secret::filled(text.len(), |out| {
        out.copy_from_slice(text);
        open(key, nonce, aad, out, tag).ok_or(KeyError::NotAuthentic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    /// draft-irtf-cfrg-xchacha-03, A.3.1.
    #[test]
    fn xchacha20_poly1305_gives_what_its_draft_says() {
        let mut text =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it."
                .to_vec();
        let plain = text.clone();
        let key = Secret::take(&mut hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"));
        let nonce: [u8; 24] = std::array::from_fn(|i| 0x40 + i as u8);
        let aad = hex("50515253c0c1c2c3c4c5c6c7");
        let tag = seal(&key, &nonce, &aad, &mut text).unwrap();
        assert_eq!(
            text,
            hex("bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb
                 731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452
                 2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
                 21f9664c97637da9768812f615c68b13b52e")
        );
        assert_eq!(tag[..], hex("c0875924c1c7987947deafd8780acf49")[..]);
        open(&key, &nonce, &aad, &mut text, &tag).unwrap();
        assert_eq!(text, plain);
        let mut changed = tag;
        changed[15] ^= 1;
        assert!(open(&key, &nonce, &aad, &mut text, &changed).is_none());
        assert!(text.iter().all(|b| *b == 0), "what does not authenticate is not left lying about");
        assert!(seal(&Secret::take(&mut [0; 31]), &nonce, &aad, &mut text).is_none());
    }
}
