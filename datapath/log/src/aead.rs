//! The primitives: two AEADs for blocks, XChaCha20-Poly1305 for what has a random nonce, HKDF-SHA256.
//!
//! Owns the choice of cipher; the contexts with expanded keys are in [`crate::expanded`]. Everything it refuses, it refuses in constant
//! time with one answer. It must never keep, print or return a key beyond what a caller derives for itself.

use aws_lc_rs::hkdf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use serde::Serialize;
use zeroize::Zeroizing;

/// Length of a tag in bytes; a sealed item is that much longer than what was sealed.
pub const TAG: usize = 16;

/// Length in bytes of the nonces of records and headers.
pub const NONCE: usize = 12;

/// Length in bytes of a superblock's random nonce.
pub const XNONCE: usize = 24;

/// The AEAD of a pool's segments, chosen when the pool is created. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[repr(u8)]
pub enum Cipher {
    /// RFC 8439.
    ChaCha20Poly1305 = 1,
    /// NIST SP 800-38D with a 256-bit key and a 96-bit nonce.
    Aes256Gcm = 2,
}

impl Cipher {
    /// AES-256-GCM where this CPU has AES and carry-less multiplication in hardware, ChaCha20-Poly1305 elsewhere. A pool is
    /// readable with either on any CPU.
    pub fn auto() -> Cipher {
        if has_aes() { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 }
    }

    /// The stored number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The cipher of a stored number.
    pub const fn from_code(code: u8) -> Option<Cipher> {
        match code {
            1 => Some(Cipher::ChaCha20Poly1305),
            2 => Some(Cipher::Aes256Gcm),
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// What did not authenticate. There is no more to say without telling an attacker something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// Seals `body` in place with XChaCha20-Poly1305 and gives its tag.
pub(crate) fn xseal(key: &[u8; 32], nonce: &[u8; XNONCE], aad: &[u8], body: &mut [u8]) -> [u8; TAG] {
    let cipher = XChaCha20Poly1305::new(key.into());
    let tag = cipher.encrypt_inout_detached(nonce.into(), aad, body.into());
    tag.expect("a superblock is far below the cipher's limit").into()
}

/// Opens `body` in place.
pub(crate) fn xopen(
    key: &[u8; 32],
    nonce: &[u8; XNONCE],
    aad: &[u8],
    body: &mut [u8],
    tag: &[u8; TAG],
) -> Result<(), Refused> {
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher.decrypt_inout_detached(nonce.into(), aad, body.into(), tag.into()).map_err(|_| Refused)
}

/// What HKDF is asked for: `N` bytes.
struct Length<const N: usize>;

impl<const N: usize> hkdf::KeyType for Length<N> {
    fn len(&self) -> usize {
        N
    }
}

/// HKDF-SHA256 (RFC 5869), extract and expand, the `info` given in pieces that are joined. The result erases itself.
pub fn hkdf_sha256<const N: usize>(ikm: &[u8], salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32) };
    let mut out = Zeroizing::new([0; N]);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(ikm);
    let okm = prk.expand(info, Length::<N>).expect("N is within HKDF's limit");
    okm.fill(&mut out[..]).expect("the buffer is N bytes long");
    out
}
