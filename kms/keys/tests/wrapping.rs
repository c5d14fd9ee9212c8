//! Wrapping as a property: whatever secret, key and binding, it comes back as it was, and nothing else comes back at all.

use caisson_keys::{Context, KeyError, Purpose, Secret, seal};
use proptest::prelude::*;

/// Of no provider's blobs, so that none is taken for another.
const VERSION: u8 = 0x7e;

fn secret(bytes: &[u8]) -> Secret {
    Secret::take(&mut bytes.to_vec())
}

fn context() -> impl Strategy<Value = Context> {
    let binding = (1u8..=5, any::<[u8; 16]>(), any::<u64>(), any::<u64>());
    binding.prop_map(|(purpose, pool, domain, epoch)| {
        let purpose = Purpose::from_stored(purpose).expect("all five are known");
        Context { purpose, pool, domain, epoch }
    })
}

/// What is wrapped of a secret, under a nonce that is given.
fn wrap(key: &Secret, context: &Context, wrapped: &Secret, nonce: [u8; 24]) -> Vec<u8> {
    let mut random = |out: &mut [u8]| {
        out.copy_from_slice(&nonce);
        Ok(())
    };
    seal::wrap(VERSION, key, &context.encode(), wrapped, "test", &mut random).unwrap()
}

fn refused(what: Result<Secret, KeyError>) -> bool {
    matches!(what, Err(KeyError::NotAuthentic))
}

proptest! {
    #[test]
    fn what_is_wrapped_comes_back_and_nothing_else(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; 24]>(),
        bytes in prop::collection::vec(any::<u8>(), 1..=256),
        context in context(),
        other in context(),
        bit in 0u8..8,
        more in any::<u8>(),
    ) {
        let (root, plain) = (secret(&key), secret(&bytes));
        let blob = wrap(&root, &context, &plain, nonce);
        let unwrap = |context: &Context, blob: &[u8]| seal::unwrap(VERSION, &root, &context.encode(), blob);
        prop_assert_eq!(blob.len(), 1 + 24 + bytes.len() + 16);
        prop_assert!(unwrap(&context, &blob).unwrap() == plain);
        // Every byte that is changed, every cut, and what is appended.
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] ^= 1 << bit;
            prop_assert!(refused(unwrap(&context, &changed)), "byte {}", at);
            prop_assert!(refused(unwrap(&context, &blob[..at])), "cut at {}", at);
        }
        prop_assert!(refused(unwrap(&context, &[&blob[..], &[more]].concat())));
        // Under another binding or key, or as of another version.
        prop_assert_eq!(refused(unwrap(&other, &blob)), other != context);
        let mut key = key;
        key[usize::from(more) % 32] ^= 1 << bit;
        prop_assert!(refused(seal::unwrap(VERSION, &secret(&key), &context.encode(), &blob)));
        prop_assert!(refused(seal::unwrap(VERSION ^ 1 << bit, &root, &context.encode(), &blob)));
    }

    #[test]
    fn each_field_of_the_binding_counts(
        nonce in any::<[u8; 24]>(),
        context in context(),
        field in 0usize..4,
        flip in any::<u64>().prop_filter("it changes", |flip| *flip != 0),
    ) {
        let (root, plain) = (secret(&[7; 32]), secret(&[9; 32]));
        let blob = wrap(&root, &context, &plain, nonce);
        let mut other = context;
        match field {
            0 => other.purpose = if context.purpose == Purpose::Pool { Purpose::Epoch } else { Purpose::Pool },
            1 => other.pool[(flip % 16) as usize] ^= 1,
            2 => other.domain ^= flip,
            _ => other.epoch ^= flip,
        }
        prop_assert!(refused(seal::unwrap(VERSION, &root, &other.encode(), &blob)));
    }
}
