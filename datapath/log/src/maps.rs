//! Map keys: what the pages of a family of volumes are enciphered under before they are sealed, and the vault that keeps these keys.
//!
//! Owns the derivation and the stream of a map page, and the sealed form of all map keys of a pool (a blob of its root). A page's outer
//! seal, which authenticates it, is every record's; what is added here is that nobody reads a page without its family's key. The
//! blob is sealed under a vault key that stands in the superblock's anchor alone, another one with each root: so a key that the
//! present root lacks is gone, whatever older roots still stand in segments. It must never draw a key or a nonce, nor show a key.

use crate::aead::{TAG, XNONCE, hkdf_sha256, xopen, xseal};
use crate::at::{At, PoolId};
use crate::keyring::{Keyring, KeyringError};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use caisson_keys::Secret;
use std::sync::Arc;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, Zeroizing};

/// Set in the codec of a map page that is enciphered under a map key. What stands behind its family is coded as the rest of the
/// number says. Codecs themselves are below it.
pub const UNDER_MAP_KEY: u8 = 4;

/// Bytes in front of such a page that say whose key it is: the family, in plain under the outer seal.
pub const FAMILY: usize = 4;

/// Length of map keys and vault keys in bytes.
pub const MAP_KEY: usize = 32;

/// Most families whose keys one pool holds: what its blob has room for in a root, by far.
pub const MAX_MAP_KEYS: usize = 1 << 20;

const STREAM_INFO: &[u8] = b"caisson map page v1";
const VAULT_INFO: &[u8] = b"caisson map vault v1";
const VERSION: u16 = 1;

/// Why a page was not enciphered or deciphered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapKeyError {
    /// The family has no key: it was erased, or there never was one.
    #[error("no map key for the family of volume {family}")]
    NoKey {
        /// Which.
        family: u32,
    },
    /// The salt of this opening is not known.
    #[error("no salt for opening {opening}")]
    NoOpening {
        /// Its number.
        opening: u32,
    },
}

/// Why bytes give no map keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Not of this version, or of another length than they say.
    #[error("the map keys have a form that this version does not know")]
    Form,
    /// Changed, of another pool, or sealed under another vault key: such as those of an older root.
    #[error("the map keys do not authenticate")]
    NotAuthentic,
    /// They authenticate, and are no list: a family twice, out of order, or 0.
    #[error("the map keys are out of order at {index}")]
    Order {
        /// Which.
        index: usize,
    },
}

/// A family's key, and what it came to for the opening that was asked for last.
pub(crate) struct MapKey {
    secret: Secret,
    last: Option<(u32, Arc<Stream>)>,
}

/// A key of AES-256 in counter mode. The crate erases it when it is dropped.
struct Stream(EncryptingKey);

impl Stream {
    fn new(pool: PoolId, family: u32, secret: &Secret, salt: &[u8; 32]) -> Stream {
        let key = stream_key(pool, family, secret, salt);
        let key = UnboundCipherKey::new(&AES_256, &key[..]).expect("AES-256 takes keys of 32 bytes");
        Stream(EncryptingKey::ctr(key).expect("AES has a counter mode"))
    }

    /// Enciphers or deciphers what stands at `at`: the counter's first 12 bytes are its nonce, the last four count blocks.
    fn apply(&self, at: At, bytes: &mut [u8]) {
        let mut counter = [0; 16];
        counter[..12].copy_from_slice(&at.nonce());
        let context = EncryptionContext::Iv128(FixedLength::from(counter));
        self.0.less_safe_encrypt(bytes, context).expect("the counter mode takes any number of bytes");
    }
}

/// The key of a family's pages for one opening.
fn stream_key(pool: PoolId, family: u32, secret: &Secret, salt: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    hkdf_sha256(secret.expose(), salt, &[STREAM_INFO, &pool.0, &family.to_le_bytes()])
}

fn vault_key(pool: PoolId, vault: &Secret) -> Zeroizing<[u8; 32]> {
    hkdf_sha256(vault.expose(), &pool.0, &[VAULT_INFO])
}

/// The layout of the blob, up to what is sealed.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawVault {
    version: U16,
    zero: U16,
    keys: U32,
    nonce: [u8; XNONCE],
}

layout!(RawVault, 32, version @ 0, zero @ 2, keys @ 4, nonce @ 8);

const HEAD: usize = size_of::<RawVault>();
const EACH: usize = 4 + MAP_KEY;

/// What the seal of the blob binds: the pool, and the front up to the nonce.
fn vault_aad(pool: PoolId, head: &[u8]) -> [u8; 24] {
    let mut aad = [0; 24];
    aad[..16].copy_from_slice(&pool.0);
    aad[16..].copy_from_slice(&head[..8]);
    aad
}

/// Bytes of the blob of so many keys.
pub const fn map_keys_len(keys: usize) -> usize {
    HEAD + keys * EACH + TAG
}

/// Opens a pool's map keys: each family with its key, by rising number.
///
/// # Errors
/// Each [`VaultError`].
pub fn open_map_keys(pool: PoolId, vault: &Secret, blob: &[u8]) -> Result<Vec<(u32, Secret)>, VaultError> {
    let (raw, rest) = RawVault::ref_from_prefix(blob).map_err(|_| VaultError::Form)?;
    let keys = raw.keys.get() as usize;
    let sound = raw.version == VERSION && raw.zero == 0 && keys <= MAX_MAP_KEYS;
    if !sound || blob.len() != map_keys_len(keys) {
        return Err(VaultError::Form);
    }
    let (sealed, tag) = rest.split_last_chunk::<TAG>().ok_or(VaultError::Form)?;
    let mut body = Zeroizing::new(sealed.to_vec());
    let aad = vault_aad(pool, blob);
    xopen(&vault_key(pool, vault), &raw.nonce, &aad, &mut body, tag).map_err(|_| VaultError::NotAuthentic)?;
    let mut list: Vec<(u32, Secret)> = Vec::with_capacity(keys);
    for (index, each) in body.chunks_exact_mut(EACH).enumerate() {
        let (family, key) = each.split_at_mut(4);
        let family = family.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if family == 0 || list.last().is_some_and(|(last, _)| *last >= family) {
            return Err(VaultError::Order { index });
        }
        list.push((family, Secret::take(key)));
    }
    Ok(list)
}

/// The family of a page that is [`UNDER_MAP_KEY`], and what is enciphered. `None` for bytes that are no such page.
pub fn split_family(page: &mut [u8]) -> Option<(u32, &mut [u8])> {
    let (family, rest) = page.split_first_chunk_mut::<FAMILY>()?;
    let family = u32::from_le_bytes(*family);
    (family != 0 && !rest.is_empty()).then_some((family, rest))
}

impl Keyring {
    /// Adds the map key of a family, 32 bytes; the same one again changes nothing. 0 is no family.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn add_map_key(&self, family: u32, secret: Secret) -> Result<(), KeyringError> {
        if secret.len() != MAP_KEY || family == 0 {
            return Err(KeyringError::MapKey { family, len: secret.len() });
        }
        let mut roster = self.roster();
        match roster.maps.get(&family) {
            Some(held) if held.secret == secret => return Ok(()),
            Some(_) => return Err(KeyringError::Taken("map key for this family")),
            None if roster.maps.len() >= MAX_MAP_KEYS => return Err(KeyringError::Full("map keys")),
            None => {}
        }
        roster.maps.insert(family, MapKey { secret, last: None });
        Ok(())
    }

    /// Whether a family has a map key.
    pub fn has_map_key(&self, family: u32) -> bool {
        self.roster().maps.contains_key(&family)
    }

    /// The families that have map keys, by rising number.
    pub fn map_families(&self) -> Vec<u32> {
        self.roster().maps.keys().copied().collect()
    }

    /// Erases the map keys of all families but those that `keep` says, and what was derived from them. Gives the families.
    pub fn keep_map_keys(&self, keep: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut roster = self.roster();
        let gone: Vec<u32> = roster.maps.keys().copied().filter(|family| !keep(*family)).collect();
        gone.iter().for_each(|family| drop(roster.maps.remove(family)));
        gone
    }

    /// Enciphers a map page for `at`, or deciphers it: the same is done for both. Where `at` was enciphered at before, it must have been
    /// the same bytes.
    ///
    /// # Errors
    /// [`MapKeyError`], with `bytes` as they were.
    pub fn map_stream(&self, at: At, family: u32, bytes: &mut [u8]) -> Result<(), MapKeyError> {
        let stream = {
            let mut roster = self.roster();
            let salt = roster.openings.get(&at.opening).copied();
            let salt = salt.ok_or(MapKeyError::NoOpening { opening: at.opening })?;
            let key = roster.maps.get_mut(&family).ok_or(MapKeyError::NoKey { family })?;
            match &key.last {
                Some((opening, stream)) if *opening == at.opening => Arc::clone(stream),
                _ => {
                    let stream = Arc::new(Stream::new(self.pool(), family, &key.secret, &salt));
                    key.last = Some((at.opening, Arc::clone(&stream)));
                    stream
                }
            }
        };
        stream.apply(at, bytes);
        Ok(())
    }

    /// The blob of the map keys of those families that `keep` says, sealed under `vault`, which no other blob was sealed under and
    /// survived; `nonce` is random, drawn for this one.
    pub fn seal_map_keys(&self, vault: &Secret, nonce: [u8; XNONCE], keep: impl Fn(u32) -> bool) -> Vec<u8> {
        let roster = self.roster();
        let kept = || roster.maps.iter().filter(|(family, _)| keep(**family));
        let keys = kept().count();
        // As long as it becomes, so that nothing is left behind where it grew.
        let mut out = Vec::with_capacity(map_keys_len(keys));
        let head = RawVault {
            version: VERSION.into(),
            zero: 0.into(),
            // At most MAX_MAP_KEYS.
            keys: (keys as u32).into(),
            nonce,
        };
        out.extend_from_slice(head.as_bytes());
        for (family, key) in kept() {
            out.extend_from_slice(&family.to_le_bytes());
            out.extend_from_slice(key.secret.expose());
        }
        let aad = vault_aad(self.pool(), &out);
        let tag = xseal(&vault_key(self.pool(), vault), &nonce, &aad, &mut out[HEAD..]);
        out.extend_from_slice(&tag);
        out
    }

    /// Takes in the map keys of a blob.
    ///
    /// # Errors
    /// [`VaultError`], with nothing taken in; [`VaultError::Order`] too where the keyring holds other keys.
    pub fn open_map_keys(&self, vault: &Secret, blob: &[u8]) -> Result<(), VaultError> {
        let keys = open_map_keys(self.pool(), vault, blob)?;
        for (index, (family, secret)) in keys.into_iter().enumerate() {
            self.add_map_key(family, secret).map_err(|_| VaultError::Order { index })?;
        }
        Ok(())
    }
}

/// A vault key out of bytes, which are erased; `None` for zeroes, where there is none.
pub(crate) fn vault_of(bytes: &mut [u8; MAP_KEY]) -> Option<Arc<Secret>> {
    let none = *bytes == [0; MAP_KEY];
    let vault = (!none).then(|| Arc::new(Secret::take(bytes)));
    bytes.zeroize();
    vault
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cipher;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn secret(byte: u8) -> Secret {
        Secret::take(&mut [byte; 32])
    }

    const POOL: PoolId = PoolId([7; 16]);

    fn keyring() -> Keyring {
        let keyring = Keyring::new(POOL, Cipher::Aes256Gcm, []).unwrap();
        keyring.add_opening(3, [9; 32]).unwrap();
        keyring.add_opening(4, [8; 32]).unwrap();
        keyring
    }

    /// NIST SP 800-38A, F.5.5.
    #[test]
    fn the_counter_mode_gives_what_nist_says() {
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let key = EncryptingKey::ctr(UnboundCipherKey::new(&AES_256, &key).unwrap()).unwrap();
        let counter: [u8; 16] = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let mut text = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
                            30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710");
        key.less_safe_encrypt(&mut text, EncryptionContext::Iv128(FixedLength::from(counter))).unwrap();
        let want = hex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5\
                        2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6");
        assert_eq!(text, want);
    }

    /// Computed once with Python's hmac module and `openssl enc -aes-256-ctr`. A change here would make every map unreadable.
    #[test]
    fn the_derivations_are_what_they_were() {
        let from = || Secret::take(&mut std::array::from_fn::<u8, 32, _>(|i| i as u8));
        let pool = PoolId(std::array::from_fn(|i| 0xa0 + i as u8));
        let salt = std::array::from_fn(|i| 0x40 + i as u8);
        assert_eq!(stream_key(pool, 0x0102_0304, &from(), &salt)[..], hex(STREAM)[..]);
        assert_eq!(vault_key(pool, &from())[..], hex(VAULT)[..]);
        let keyring = Keyring::new(pool, Cipher::Aes256Gcm, []).unwrap();
        keyring.add_opening(5, salt).unwrap();
        keyring.add_map_key(0x0102_0304, from()).unwrap();
        let mut page = b"a page of a map".to_vec();
        let at = At { opening: 5, sequence: 0x1122_3344_5566_7788, offset: 0x0a0b_0c0d };
        keyring.map_stream(at, 0x0102_0304, &mut page).unwrap();
        assert_eq!(page, hex(PAGE));
    }

    const STREAM: &str = "79ade35b66471113fe754d3b88082fce744ac5bb13dafb74037517d4aa214e43";
    const VAULT: &str = "33955ab2ce7406fae766ca4e78a67dc6a5d9bf9306a210e2d2682726a799a482";
    const PAGE: &str = "336731396ee1539d77f7e0612ff54b";

    #[test]
    fn every_input_of_a_stream_counts() {
        let keyring = keyring();
        keyring.add_map_key(1, secret(1)).unwrap();
        keyring.add_map_key(2, secret(1)).unwrap();
        keyring.add_map_key(6, secret(6)).unwrap();
        let stream = |opening, sequence, offset, family| {
            let mut zeroes = [0; 100];
            keyring.map_stream(At { opening, sequence, offset }, family, &mut zeroes).unwrap();
            zeroes
        };
        let first = stream(3, 10, 64, 1);
        assert_eq!(first, stream(3, 10, 64, 1));
        let others = [(4, 10, 64, 1), (3, 11, 64, 1), (3, 10, 80, 1), (3, 10, 64, 2), (3, 10, 64, 6)];
        for (opening, sequence, offset, family) in others {
            assert_ne!(
                first,
                stream(opening, sequence, offset, family),
                "{opening} {sequence} {offset} {family}"
            );
        }
        let at = At { opening: 3, sequence: 1, offset: 64 };
        assert_eq!(keyring.map_stream(at, 9, &mut []), Err(MapKeyError::NoKey { family: 9 }));
        let at = At { opening: 5, ..at };
        assert_eq!(keyring.map_stream(at, 1, &mut []), Err(MapKeyError::NoOpening { opening: 5 }));
    }

    #[test]
    fn what_is_erased_is_gone() {
        let keyring = keyring();
        let at = At { opening: 3, sequence: 1, offset: 64 };
        for family in [2, 5, 7] {
            keyring.add_map_key(family, secret(family as u8)).unwrap();
        }
        let mut page = [1; 16];
        keyring.map_stream(at, 5, &mut page).unwrap();
        assert_eq!(keyring.keep_map_keys(|family| family != 5), [5]);
        assert_eq!(keyring.map_stream(at, 5, &mut page), Err(MapKeyError::NoKey { family: 5 }));
        assert_eq!((keyring.map_families(), keyring.has_map_key(5)), (vec![2, 7], false));
        assert!(keyring.add_map_key(0, secret(1)).is_err() && keyring.add_map_key(2, secret(9)).is_err());
        assert!(keyring.add_map_key(3, Secret::take(&mut [0; 31])).is_err());
    }

    #[test]
    fn a_vault_opens_with_its_key_alone_and_every_byte_is_authentic() {
        let from = keyring();
        for family in [2, 5, 700] {
            from.add_map_key(family, secret(family as u8)).unwrap();
        }
        let blob = from.seal_map_keys(&secret(1), [4; XNONCE], |family| family != 5);
        assert_eq!(blob.len(), map_keys_len(2));
        let opened = open_map_keys(POOL, &secret(1), &blob).unwrap();
        assert_eq!(opened.iter().map(|k| k.0).collect::<Vec<_>>(), [2, 700]);
        assert_eq!(opened[1].1, secret(700_u32 as u8));
        let to = keyring();
        to.open_map_keys(&secret(1), &blob).unwrap();
        assert_eq!(to.map_families(), [2, 700]);
        assert_eq!(open_map_keys(POOL, &secret(2), &blob), Err(VaultError::NotAuthentic));
        assert_eq!(open_map_keys(PoolId([8; 16]), &secret(1), &blob), Err(VaultError::NotAuthentic));
        for at in 0..blob.len() {
            for bit in 0..8 {
                let mut changed = blob.clone();
                changed[at] ^= 1 << bit;
                assert!(open_map_keys(POOL, &secret(1), &changed).is_err(), "byte {at}, bit {bit}");
            }
            assert_eq!(open_map_keys(POOL, &secret(1), &blob[..at]), Err(VaultError::Form));
        }
        let empty = from.seal_map_keys(&secret(1), [4; XNONCE], |_| false);
        assert_eq!(open_map_keys(POOL, &secret(1), &empty).unwrap().len(), 0);
    }

    /// Lists that a writer with the vault key could make, and this one does not.
    #[test]
    fn families_rise() {
        let make = |families: &[u32]| {
            let raw = RawVault {
                version: 1.into(),
                zero: 0.into(),
                keys: (families.len() as u32).into(),
                nonce: [0; 24],
            };
            let mut out = raw.as_bytes().to_vec();
            families.iter().for_each(|f| out.extend([&f.to_le_bytes()[..], &[1; 32]].concat()));
            let aad = vault_aad(POOL, &out);
            let tag = xseal(&vault_key(POOL, &secret(1)), &[0; 24], &aad, &mut out[HEAD..]);
            out.extend(tag);
            open_map_keys(POOL, &secret(1), &out).map(|k| k.len())
        };
        assert_eq!(make(&[1, 2]), Ok(2));
        assert_eq!(make(&[2, 2]), Err(VaultError::Order { index: 1 }));
        assert_eq!(make(&[3, 2]), Err(VaultError::Order { index: 1 }));
        assert_eq!(make(&[0]), Err(VaultError::Order { index: 0 }));
    }

    #[test]
    fn a_page_says_whose_it_is() {
        let mut page = [4, 3, 2, 1, 9];
        let (family, rest) = split_family(&mut page).unwrap();
        assert_eq!((family, &rest[..]), (0x0102_0304, &[9][..]));
        assert!(split_family(&mut [1, 0, 0, 0]).is_none() && split_family(&mut [0, 0, 0, 0, 1]).is_none());
        assert!(split_family(&mut [1, 0]).is_none());
    }
}
