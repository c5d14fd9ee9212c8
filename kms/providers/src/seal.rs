//! XChaCha20-Poly1305 and Argon2id as the sealed key file uses them.
//!
//! Owns the two calls into the crates that implement them, and erasing what they leave. It must never choose a nonce.

use crate::format::Argon2Cost;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use caisson_keys::{KeyError, Secret};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
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

/// 32 bytes from a passphrase by Argon2id, version 0x13, without secret and associated data. Takes about as many bytes of memory
/// as `cost` says, and erases them.
pub fn stretch(passphrase: &Secret, salt: &[u8; 32], cost: Argon2Cost) -> Result<Secret, KeyError> {
    let refused = |cause: String| KeyError::Unavailable { provider: crate::NAME.into(), cause };
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|e| refused(format!("Argon2id: {e}")))?;
    let mut memory: Vec<Block> = Vec::new();
    let blocks = params.block_count();
    memory
        .try_reserve_exact(blocks)
        .map_err(|_| refused(format!("no {} MiB of memory for Argon2id", cost.memory_kib >> 10)))?;
    memory.resize(blocks, Block::new());
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let out = Secret::filled(32, |out| {
        argon.hash_password_into_with_memory(passphrase.expose(), salt, out, &mut memory[..])
    });
    memory.iter_mut().for_each(Zeroize::zeroize);
    out.map_err(|e| refused(format!("Argon2id: {e}")))
}

/// 32 bytes for `info` from a stretched passphrase: HKDF-SHA256 without salt.
pub fn expand(stretched: &Secret, info: &[&[u8]]) -> Secret {
    let hkdf = Hkdf::<Sha256>::new(None, stretched.expose());
    let out = Secret::filled(32, |out| hkdf.expand_multi_info(info, out));
    out.unwrap_or_else(|_| unreachable!("32 bytes are within HKDF's bound"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 9106, 5.3.
    #[test]
    fn argon2id_gives_what_its_rfc_says() {
        let mut params = argon2::ParamsBuilder::new();
        params.m_cost(32).t_cost(3).p_cost(4).output_len(32);
        params.data(argon2::AssociatedData::new(&[4; 12]).unwrap());
        let params = params.build().unwrap();
        let argon = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
        let mut tag = [0; 32];
        argon.hash_password_into(&[1; 32], &[2; 16], &mut tag).unwrap();
        let want = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659";
        assert_eq!(tag[..], hex(want)[..]);
    }

    /// Our own call, against the reference implementation's value for m=64 MiB, t=2, p=1 is not possible (its salt is shorter),
    /// so against the crate's other entry point, which the RFC's vector covers.
    #[test]
    fn stretching_is_plain_argon2id() {
        let cost = Argon2Cost { memory_kib: 64, passes: 2, lanes: 2 };
        let got = stretch(&Secret::take(&mut *b"passphrase".to_owned().as_mut()), &[9; 32], cost).unwrap();
        let params = Params::new(64, 2, 2, Some(32)).unwrap();
        let mut want = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(b"passphrase", &[9; 32], &mut want)
            .unwrap();
        assert_eq!(got.expose(), want);
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
