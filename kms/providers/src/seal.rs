//! Argon2id and HKDF as the sealed key file uses them.
//!
//! Owns the calls into the crates that implement them, and erasing what they leave.

use crate::format::Argon2Cost;
use argon2::{Algorithm, Argon2, Block, Params, Version};
pub use caisson_keys::seal::{NONCE_LEN, TAG_LEN, open, seal};
use caisson_keys::{KeyError, Secret};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroize;

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
}
