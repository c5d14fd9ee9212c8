//! The session under which secrets cross the bus (part 1, 17 to 21).
//!
//! Owns the key that both sides know and a listener does not (an ECDH exchange with a key of the TPM), the HMACs over commands and
//! responses, and the encryption of a first parameter (AES-128 in CFB mode). It must never go on with a response whose HMAC is
//! not right.

use crate::wire::Params;
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use caisson_keys::Secret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of nonces, of the session's key and of its HMACs.
pub const LEN: usize = 32;

/// A point on P-256, uncompressed.
pub type Point = [u8; 65];

/// The derivation of keys from a key (KDFa: part 1, 11.4.10.2), 32 bytes.
pub fn kdfa(key: &[u8], label: &[u8], u: &[u8], v: &[u8]) -> Secret {
    let mac = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&mac);
    for part in [&1u32.to_be_bytes()[..], label, &[0], u, v, &(LEN as u32 * 8).to_be_bytes()] {
        context.update(part);
    }
    Secret::take(&mut context.sign().as_ref().to_vec())
}

/// The derivation of a secret from an exchange (KDFe: part 1, 11.4.10.3), 32 bytes: the SHA-256 of counter, shared x coordinate,
/// label and both parties' x coordinates.
pub fn kdfe(shared: &[u8], label: &[u8], u: &[u8], v: &[u8]) -> Secret {
    let mut hash = Sha256::new();
    for part in [&1u32.to_be_bytes()[..], shared, label, &[0], u, v] {
        hash.update(part);
    }
    let mut out: [u8; LEN] = hash.finalize().into();
    Secret::take(&mut out)
}

/// A salt that only the TPM with this public key can know as well, and how it learns it: our own point, as TPMS_ECC_POINT.
/// `None` where the point is not on the curve.
pub fn salt(theirs: &Point) -> Option<(Secret, Vec<u8>)> {
    let private = PrivateKey::generate(&ECDH_P256).ok()?;
    let public = private.compute_public_key().ok()?;
    let ours: &Point = public.as_ref().try_into().ok()?;
    let key = UnparsedPublicKey::new(&ECDH_P256, theirs);
    let salt = agree(&private, key, (), |z| Ok(kdfe(z, b"SECRET", &ours[1..33], &theirs[1..33]))).ok()?;
    Some((salt, Params::default().sized(&ours[1..33]).sized(&ours[33..]).0))
}

/// The two nonces of a session, the newer of which is ours when we send and the TPM's when it answers.
#[derive(Clone)]
pub struct Nonces {
    /// Ours.
    pub caller: [u8; LEN],
    /// The TPM's.
    pub tpm: Vec<u8>,
}

/// A session that has its key.
pub struct Session {
    /// Its handle.
    pub handle: u32,
    key: Secret,
    nonces: Nonces,
}

/// TPMA_SESSION: goes on after the command; the first parameter of the command, or of the response, is encrypted (part 2, 8.4).
pub const CONTINUE: u8 = 0x01;
/// See [`CONTINUE`].
pub const DECRYPT: u8 = 0x20;
/// See [`CONTINUE`].
pub const ENCRYPT: u8 = 0x40;

impl Session {
    /// The session that was started with this salt and these nonces.
    pub fn new(handle: u32, salt: &Secret, nonces: Nonces) -> Session {
        let key = kdfa(salt.expose(), b"ATH", &nonces.tpm, &nonces.caller);
        Session { handle, key, nonces }
    }

    /// The nonce for the next command.
    pub fn renew(&mut self, nonce: [u8; LEN]) {
        self.nonces.caller = nonce;
    }

    /// Ours, as it is sent.
    pub fn nonce(&self) -> &[u8; LEN] {
        &self.nonces.caller
    }

    fn keyed(&self, auth: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(Vec::with_capacity(LEN + auth.len()));
        key.extend(self.key.expose());
        key.extend(auth);
        key
    }

    fn hmac(&self, auth: &[u8], parts: &[&[u8]]) -> [u8; LEN] {
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &self.keyed(auth));
        let mut context = hmac::Context::with_key(&mac);
        parts.iter().for_each(|p| context.update(p));
        let mut out = [0; LEN];
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    /// The HMAC of a command: its code, the names of what its handles stand for, and its parameters as they are sent. `auth` is
    /// the value of authorisation that goes into it.
    pub fn sign(&self, auth: &[u8], code: u32, names: &[u8], params: &[u8], attributes: u8) -> [u8; LEN] {
        let mut hash = Sha256::new();
        [&code.to_be_bytes()[..], names, params].iter().for_each(|p| hash.update(p));
        self.hmac(auth, &[&hash.finalize(), &self.nonces.caller, &self.nonces.tpm, &[attributes]])
    }

    /// Whether a successful response is the TPM's: `nonce`, `attributes` and `mac` are what came with it. Takes over the nonce
    /// where it is.
    pub fn verify(&mut self, auth: &[u8], code: u32, params: &[u8], answer: (&[u8], u8, &[u8])) -> bool {
        let (nonce, attributes, mac) = answer;
        let mut hash = Sha256::new();
        [&0u32.to_be_bytes()[..], &code.to_be_bytes(), params].iter().for_each(|p| hash.update(p));
        let want = self.hmac(auth, &[&hash.finalize(), nonce, &self.nonces.caller, &[attributes]]);
        let right = nonce.len() >= 16 && bool::from(want[..].ct_eq(mac));
        if right {
            self.nonces.tpm = nonce.to_vec();
        }
        right
    }

    fn cipher(&self, auth: &[u8], newer: &[u8], older: &[u8]) -> Option<(UnboundCipherKey, [u8; 16])> {
        let both = kdfa(&self.keyed(auth), b"CFB", newer, older);
        let (key, iv) = both.expose().split_at(16);
        Some((UnboundCipherKey::new(&AES_128, key).ok()?, iv.try_into().ok()?))
    }

    /// Encrypts a command's first parameter, without its length.
    pub fn hide(&self, auth: &[u8], text: &mut [u8]) -> Option<()> {
        let (key, iv) = self.cipher(auth, &self.nonces.caller, &self.nonces.tpm)?;
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        EncryptingKey::cfb128(key).ok()?.less_safe_encrypt(text, context).ok().map(drop)
    }

    /// Decrypts a response's first parameter, once [`Session::verify`] took over the nonce.
    pub fn show(&self, auth: &[u8], text: &mut [u8]) -> Option<()> {
        let (key, iv) = self.cipher(auth, &self.nonces.tpm, &self.nonces.caller)?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        DecryptingKey::cfb128(key).ok()?.decrypt(text, context).ok().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// NIST SP 800-38A, F.3.13: CFB128-AES128, first two blocks.
    #[test]
    fn cfb_gives_what_its_document_says() {
        let key = UnboundCipherKey::new(&AES_128, &hex("2b7e151628aed2a6abf7158809cf4f3c")).unwrap();
        let iv: [u8; 16] = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let mut text = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        EncryptingKey::cfb128(key).unwrap().less_safe_encrypt(&mut text, context).unwrap();
        assert_eq!(text, hex("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b"));
    }

    /// FIPS 180-2, B.1, and RFC 4231, 4.3.
    #[test]
    fn sha256_and_its_hmac_give_what_their_documents_say() {
        let hash = Sha256::digest(b"abc");
        assert_eq!(hash[..], hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"Jefe"), b"what do ya want for nothing?");
        assert_eq!(mac.as_ref(), hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
    }

    /// RFC 5903, 8.1.
    #[test]
    fn ecdh_on_p256_gives_what_its_rfc_says() {
        let ours = hex("c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433");
        let theirs = hex("04d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63\
             56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab");
        let private = PrivateKey::from_private_key(&ECDH_P256, &ours).unwrap();
        let x = agree(&private, UnparsedPublicKey::new(&ECDH_P256, theirs), (), |z| Ok(z.to_vec())).unwrap();
        assert_eq!(x, hex("d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"));
    }

    fn session() -> Session {
        let nonces = Nonces { caller: [1; LEN], tpm: vec![2; LEN] };
        Session::new(3, &Secret::take(&mut [9; 32]), nonces)
    }

    #[test]
    fn what_was_changed_on_the_way_is_refused() {
        let mut params = *b"\0\x04data";
        let hash = |p: &[u8]| Sha256::digest([&[0; 4][..], &7u32.to_be_bytes(), p].concat());
        let nonce = [5; LEN];
        let mac = session().hmac(b"", &[&hash(&params), &nonce, &[1; LEN], &[CONTINUE]]);
        assert!(session().verify(b"", 7, &params, (&nonce, CONTINUE, &mac)));
        assert!(!session().verify(b"pin", 7, &params, (&nonce, CONTINUE, &mac)));
        assert!(!session().verify(b"", 8, &params, (&nonce, CONTINUE, &mac)));
        assert!(!session().verify(b"", 7, &params, (&[6; LEN], CONTINUE, &mac)));
        assert!(!session().verify(b"", 7, &params, (&nonce, 0, &mac)));
        assert!(!session().verify(b"", 7, &params, (&nonce, CONTINUE, &mac[..31])));
        params[3] ^= 1;
        assert!(!session().verify(b"", 7, &params, (&nonce, CONTINUE, &mac)));
    }

    #[test]
    fn what_is_hidden_is_shown_with_the_nonces_turned_round() {
        let here = session();
        let there = Session { nonces: Nonces { caller: [2; LEN], tpm: vec![1; LEN] }, ..session() };
        let mut text = *b"a secret of some bytes";
        here.hide(b"pin", &mut text).unwrap();
        assert_ne!(&text, b"a secret of some bytes");
        there.show(b"pin", &mut text).unwrap();
        assert_eq!(&text, b"a secret of some bytes");
    }

    #[test]
    fn a_point_off_the_curve_gives_no_salt() {
        assert!(salt(&[4; 65]).is_none());
        let other = PrivateKey::generate(&ECDH_P256).unwrap().compute_public_key().unwrap();
        let point: Point = other.as_ref().try_into().unwrap();
        let (one, two) = (salt(&point).unwrap(), salt(&point).unwrap());
        assert!(one.0 != two.0 && one.1 != two.1 && one.1.len() == 68);
    }
}
