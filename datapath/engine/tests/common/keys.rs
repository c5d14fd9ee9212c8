//! A key layer that wraps nothing: slots hold their secrets in the clear, and name no provider.

use caisson_engine::{KeySlot, NewEpoch, Secrets};
use caisson_fingerprint::FingerprintKey;
use caisson_keys::Secret;

fn slot(purpose: u8, domain: u32, epoch: u16, blob: Vec<u8>) -> KeySlot {
    KeySlot { purpose, domain, epoch, provider: "plain".into(), root: String::new(), blob }
}

/// The slots that a pool is made with.
pub fn first_slots() -> Vec<KeySlot> {
    vec![slot(4, 0, 0, vec![1; 32]), slot(1, 1, 0, [[2; 32], [3; 32]].concat())]
}

/// The slot of an epoch, and its keys.
pub fn epoch(domain: u32, epoch: u16, new: bool) -> (KeySlot, NewEpoch) {
    let secret = [epoch as u8 ^ 0x80; 32];
    let prints = [domain as u8 + 2; 32];
    let keys = NewEpoch {
        domain,
        epoch,
        secret: Secret::take(&mut secret.clone()),
        prints: new.then(|| FingerprintKey::new(prints)),
    };
    (slot(5, domain, epoch, [secret, prints].concat()), keys)
}

/// What slots open.
pub fn unlocked(slots: &[KeySlot]) -> Secrets {
    let mut secrets = Secrets { epochs: Vec::new(), prints: Vec::new() };
    for slot in slots {
        let epoch = slot.epoch.max(1);
        secrets.epochs.push(((slot.domain, epoch), Secret::take(&mut slot.blob[..32].to_vec())));
        if let Some(prints) = slot.blob.get(32..64).filter(|_| slot.domain != 0) {
            secrets.prints.push((slot.domain, FingerprintKey::new(prints.try_into().unwrap())));
        }
    }
    secrets
}
