//! The open half of a recovery key: whoever has it can seal a secret to the shares, and only a threshold of them opens that.
//!
//! Owns the sealing (an encryption to an X25519 key), and taking the open half from the slots that a pool has, so that a key epoch or a
//! domain that is made later is sealed to the same shares. It must never seal to a key that the pool's own secrets do not vouch for: the
//! slots are no secret, and one who puts a key of his own there must not be given what comes next.
//!
//! What is sealed follows from the secret, the place and the key alone: the ephemeral key is derived from the secret (Bellare, Boldyreva,
//! O'Neill, "Deterministic and Efficiently Searchable Encryption", CRYPTO 2007, section 5.1: Encrypt-with-Hash, which hides what cannot be
//! guessed, as 32 random bytes cannot). So whoever has the secret sees by sealing it again whether a slot is what was written.

use crate::recovery::{RECOVERY, associated, hex, unhex};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use caisson_keys::{
    Context, KeyError, KeyProvider, KeySlot, PoolSecrets, ProviderStatus, Secret, Wrapped, seal, wrap_epoch,
};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The first byte of what is sealed to an open half.
pub(crate) const SEALED_TO: u8 = 2;

/// Bytes of an X25519 key, either half.
const KEY_LEN: usize = 32;
/// Bytes in front of what [`seal`] makes, without its own first byte.
const HEAD: usize = 1 + 2 * KEY_LEN;

const EPHEMERAL_INFO: &[u8] = b"caisson recovery v2 ephemeral";
const SEAL_INFO: &[u8] = b"caisson recovery v2 seal";

/// The open half of a recovery key. It seals, and cannot open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPublic {
    id: [u8; 8],
    key: [u8; KEY_LEN],
}

fn broken() -> KeyError {
    KeyError::Local {
        provider: RECOVERY.into(),
        cause: "the recovery key in the pool's key slots is none".into(),
        remedy: "make new shares (caisson key export-recovery POOL)".into(),
    }
}

/// The open half of a private key.
fn public_of(private: &PrivateKey) -> Result<[u8; KEY_LEN], KeyError> {
    let public = private.compute_public_key().map_err(|_| broken())?;
    public.as_ref().try_into().map_err(|_| broken())
}

/// What of `from` is `info`'s: `out` is written whole.
fn expand(from: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let hkdf = Hkdf::<Sha256>::new(None, from);
    hkdf.expand_multi_info(info, out).unwrap_or_else(|_| unreachable!("64 bytes are within HKDF's bound"));
}

/// The key and nonce that one sealing has: of an agreement between `private` and `peer`, and of both open halves.
fn sealing(
    private: &PrivateKey,
    peer: &[u8; KEY_LEN],
    [ephemeral, recipient]: [&[u8; KEY_LEN]; 2],
    aad: &[u8],
) -> Result<(Secret, [u8; seal::NONCE_LEN]), KeyError> {
    // AWS-LC refuses a point of small order, which would agree on zero whatever the key (RFC 7748, 6.1).
    agree(private, UnparsedPublicKey::new(&X25519, peer), KeyError::NotAuthentic, |shared| {
        let mut bytes = Zeroizing::new([0; KEY_LEN + seal::NONCE_LEN]);
        expand(shared, &[SEAL_INFO, ephemeral, recipient, aad], &mut *bytes);
        let (key, nonce) = bytes.split_at_mut(KEY_LEN);
        let nonce = (&*nonce).try_into().map_err(|_| KeyError::NotAuthentic)?;
        Ok((Secret::take(key), nonce))
    })
}

impl RecoveryPublic {
    /// The open half of the recovery key `private` called `id`.
    pub(crate) fn of_private(id: [u8; 8], private: &Secret) -> Result<RecoveryPublic, KeyError> {
        let private = PrivateKey::from_private_key(&X25519, private.expose()).map_err(|_| broken())?;
        Ok(RecoveryPublic { id, key: public_of(&private)? })
    }

    /// The open half that a pool's recovery slots were sealed to, where they were sealed to one: shares of an earlier version of
    /// Caisson have none, and no more can be sealed to them.
    ///
    /// # Errors
    /// A slot is not what comes of sealing the pool's own `secrets`: somebody else may have written it.
    pub fn of(slots: &[KeySlot], secrets: &PoolSecrets) -> Result<Option<RecoveryPublic>, KeyError> {
        let sealed =
            |s: &&KeySlot| s.provider == RECOVERY && s.wrapped.blob.first().is_some_and(|b| *b == SEALED_TO);
        let own: Vec<&KeySlot> = slots.iter().filter(sealed).collect();
        let Some(first) = own.first() else { return Ok(None) };
        let key = first.wrapped.blob.get(1..1 + KEY_LEN).and_then(|k| k.try_into().ok());
        let (Some(key), Some(id)) = (key, unhex(&first.wrapped.root)) else { return Err(broken()) };
        let public = RecoveryPublic { id, key };
        for slot in own {
            if wrap_epoch(&public, secrets, slot.domain, slot.epoch)?.wrapped != slot.wrapped {
                return Err(KeyError::Local {
                    provider: RECOVERY.into(),
                    cause: "a key slot of the recovery shares is not what this pool wrote: its key may be somebody else's".into(),
                    remedy: "find out who could write to the pool's devices; then make new shares (caisson key export-recovery POOL)".into(),
                });
            }
        }
        Ok(Some(public))
    }

    fn root(&self) -> String {
        hex(&self.id)
    }
}

impl KeyProvider for RecoveryPublic {
    fn name(&self) -> &str {
        RECOVERY
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        let aad = associated(context, &self.id);
        let mut drawn = Zeroizing::new([0; KEY_LEN]);
        expand(secret.expose(), &[EPHEMERAL_INFO, &self.key, &aad], &mut *drawn);
        let private = PrivateKey::from_private_key(&X25519, &*drawn).map_err(|_| broken())?;
        let ephemeral = public_of(&private)?;
        let (key, nonce) =
            sealing(&private, &self.key, [&ephemeral, &self.key], &aad).map_err(|_| broken())?;
        let sealed = seal::wrap(SEALED_TO, &key, &aad, secret, RECOVERY, &mut |out| {
            out.copy_from_slice(&nonce);
            Ok(())
        })?;
        let blob = [&sealed[..1], &self.key, &ephemeral, &sealed[1..]].concat();
        Ok(Wrapped { root: self.root(), blob })
    }

    fn unwrap(&self, _: &Wrapped, _: &Context) -> Result<Secret, KeyError> {
        Err(KeyError::Unsupported {
            provider: RECOVERY.into(),
            what: "open anything without its shares".into(),
            remedy: "put the shares together (caisson key import-recovery)".into(),
        })
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        Ok(vec![self.root()])
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        Err(crate::recovery::no_other())
    }

    fn status(&self) -> ProviderStatus {
        ProviderStatus::Locked { remedy: "put the shares together".into() }
    }
}

/// Opens what was sealed to the open half of `private`.
pub(crate) fn open(private: &Secret, blob: &[u8], aad: &[u8]) -> Result<Secret, KeyError> {
    let (head, rest) = blob.split_at_checked(HEAD).ok_or(KeyError::NotAuthentic)?;
    let (recipient, ephemeral) = head[1..].split_at(KEY_LEN);
    let half = |bytes: &[u8]| <[u8; KEY_LEN]>::try_from(bytes).map_err(|_| KeyError::NotAuthentic);
    let (recipient, ephemeral) = (half(recipient)?, half(ephemeral)?);
    let private = PrivateKey::from_private_key(&X25519, private.expose()).map_err(|_| broken())?;
    if !bool::from(public_of(&private)?.ct_eq(&recipient)) {
        return Err(KeyError::NotAuthentic);
    }
    let (key, _) = sealing(&private, &ephemeral, [&ephemeral, &recipient], aad)?;
    seal::unwrap(SEALED_TO, &key, aad, &[&head[..1], rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Recovery, os_random};
    use caisson_keys::{Purpose, create_pool_keys, unlock, wrap_pool_keys};

    const POOL: [u8; 16] = [3; 16];

    const KAT_PUBLIC: &str = "132c442be010fbd57e72603328aa76e71fccc1503aae219327d14d9c9993f472";
    const KAT_BLOB: &str = concat!(
        "02132c442be010fbd57e72603328aa76e71fccc1503aae219327d14d9c9993f4728e6d8980ce3ce0110574f3a9c82614d4354bd224e005e9a5b1d11044960729",
        "77bd3ee35d5bf99aeb2971577fe41f74dc5437fa84c7ed623d83c1fc061f02361e35199e9e618b0bc7ae7981b5c9a5cdd9675c4a52e49e3f12d0cfbf5958fa32",
        "6fbf0e2adeca2ee3f5027dcab6553da9795c7b51d14351fcacdaa8cd3af674f80f04bc82aab9356015"
    );

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        unhex(text).unwrap()
    }

    /// RFC 7748, 5.2, the first vector.
    #[test]
    fn x25519_gives_what_its_rfc_says() {
        let scalar: [u8; 32] = bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let point: [u8; 32] = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let private = PrivateKey::from_private_key(&X25519, &scalar).unwrap();
        let shared = agree(&private, UnparsedPublicKey::new(&X25519, point), (), |s| Ok(hex(s)));
        assert_eq!(shared.unwrap(), "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        // A point of small order agrees on nothing.
        assert!(agree(&private, UnparsedPublicKey::new(&X25519, [0; 32]), (), |_| Ok(())).is_err());
    }

    /// Computed once with another implementation (Python's cryptography, and HChaCha20 by hand). A change would make shares that people
    /// hold worthless.
    #[test]
    fn the_stored_form_is_what_it_was() {
        let private = Secret::take(&mut [0x42; 32]);
        let public = RecoveryPublic::of_private([9; 8], &private).unwrap();
        assert_eq!(public.key, bytes(KAT_PUBLIC));
        let context = Context { purpose: Purpose::Epoch, pool: POOL, domain: 7, epoch: 5 };
        let wrapped = public.wrap(&Secret::take(&mut [0x5a; 64]), &context).unwrap();
        assert_eq!(hex(&wrapped.blob), KAT_BLOB);
        let opened = open(&private, &wrapped.blob, &associated(&context, &[9; 8])).unwrap();
        assert_eq!(opened, Secret::take(&mut [0x5a; 64]));
    }

    #[test]
    fn later_epochs_and_domains_are_sealed_to_shares_that_are_with_people() {
        let recovery = Recovery::new(&mut os_random).unwrap();
        let (mut secrets, mut slots) = create_pool_keys(&recovery, POOL, &mut os_random).unwrap();
        let shares = recovery.split(POOL, 3, 2, &mut os_random).unwrap();
        drop(recovery);
        for (domain, epoch) in [(1, 2), (0, 3), (5, 4)] {
            secrets.new_epoch(domain, epoch, &mut os_random).unwrap();
            let public = RecoveryPublic::of(&slots, &secrets).unwrap().unwrap();
            slots.push(wrap_epoch(&public, &secrets, domain, epoch).unwrap());
            assert!(public.unwrap(&slots[0].wrapped, &slots[0].context(POOL)).is_err(), "it opens nothing");
        }
        let joined = Recovery::join(&shares[1..]).unwrap();
        assert!(unlock(&[&joined], POOL, &slots).unwrap().epochs().eq(secrets.epochs()));
        // When the earlier epochs have ended, too.
        slots.retain(|s| s.epoch > 1);
        let left = unlock(&[&joined], POOL, &slots).unwrap();
        assert_eq!(left.epochs().map(|(d, e, _)| (d, e)).collect::<Vec<_>>(), [(0, 3), (1, 2), (5, 4)]);
    }

    /// One who writes to the devices puts a key of his own in the place of the shares': nothing is sealed to it.
    #[test]
    fn a_key_that_the_pool_does_not_vouch_for_is_given_nothing() {
        let (own, other) = (Recovery::new(&mut os_random).unwrap(), Recovery::new(&mut os_random).unwrap());
        let (secrets, slots) = create_pool_keys(&own, POOL, &mut os_random).unwrap();
        let (_, others) = create_pool_keys(&other, POOL, &mut os_random).unwrap();
        assert!(RecoveryPublic::of(&slots, &secrets).unwrap().is_some());
        let refused = |slots: &[KeySlot]| {
            let error = RecoveryPublic::of(slots, &secrets).unwrap_err();
            assert!(error.remedy().contains("export-recovery"), "{error}");
        };
        refused(&others);
        refused(&[slots[0].clone(), others[1].clone()]);
        for at in 1..slots[0].wrapped.blob.len() {
            let mut changed = slots.clone();
            changed[0].wrapped.blob[at] ^= 1;
            refused(&changed);
        }
        let mut named = slots.clone();
        named[1].wrapped.root = hex(&[1; 8]);
        refused(&named);
        let mut short = slots.clone();
        short[0].wrapped.blob.truncate(9);
        refused(&short);
        // Where there are none, or none of this kind, there is nothing to seal to.
        assert_eq!(RecoveryPublic::of(&[], &secrets).unwrap(), None);
        let mut before = slots.clone();
        before.iter_mut().for_each(|s| s.wrapped.blob[0] = 1);
        assert_eq!(RecoveryPublic::of(&before, &secrets).unwrap(), None);
        let file = wrap_pool_keys(&own, &secrets).unwrap();
        assert_eq!(file, slots, "what is sealed follows from the secret");
    }
}
