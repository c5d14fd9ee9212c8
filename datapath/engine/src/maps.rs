//! Map keys: under whose key a page of a map is stored, and when that key ends.
//!
//! Owns which keys there are. A *family* is a volume and all that was ever copied from it: they share map pages, and so one map key, which
//! is drawn with the first page that a checkpoint writes of them. Each root keeps the keys of the families that have a page in its picture,
//! sealed under a vault key of its own, which stands in the superblocks alone (`datapath/log/FORMAT.md`, "Map keys"). So a key ends with
//! the first root in whose picture its family has no page left: a volume that is being deleted has its key until it is unmapped, which
//! takes reading its pages. When that root's superblocks are durable, in both copies of every device, the key is nowhere: it is erased
//! from memory, and what older roots hold of it opens with no vault key that there is. The steward writes that checkpoint as soon as
//! nothing is left to unmap.

use crate::pool::Pool;
use crate::state::{Inner, State};
use caisson_keys::Secret;
use caisson_log::{At, FAMILY, Keyring, UNDER_MAP_KEY, XNONCE, split_family};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{PageKey, Tables, VolumeRecord};
use std::collections::BTreeSet;
use std::sync::Arc;

const _: () = assert!(FAMILY == caisson_tables::FAMILY);

/// The keys of the volumes' maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapKeys {
    /// How many there are, one for each volume that maps anything together with its copies; those that are being erased included.
    pub keys: usize,
    /// Families, by the number of the volume that they began with, whose last volume was deleted and whose key is still there: they are
    /// being unmapped, or the checkpoint that ends the key is not durable yet.
    pub erasing: Vec<u32>,
    /// Keys that were erased since the pool was opened.
    pub erased: u64,
}

impl MapKeys {
    pub(crate) fn of(inner: &Inner, state: &State) -> MapKeys {
        let held = inner.keyring.map_families();
        let volumes = || state.tables.volumes();
        let living: BTreeSet<u32> = volumes().filter(|v| !v.dying).map(|v| v.family).collect();
        // One that no checkpoint has written a page of may come to a key while it is unmapped.
        let going = volumes().filter(|v| v.dying).map(|v| v.family).chain(held.iter().copied());
        let erasing: BTreeSet<u32> = going.filter(|family| !living.contains(family)).collect();
        MapKeys { keys: held.len(), erasing: erasing.into_iter().collect(), erased: state.map_keys_erased }
    }
}

impl Pool {
    /// The families whose map keys were erased since this was last asked, for whoever records that.
    pub fn take_erased_map_keys(&self) -> Vec<u32> {
        std::mem::take(&mut self.0.lock().map_keys_told)
    }
}

/// Families of which there is a map page: a volume has a root, be it one that is being deleted.
pub(crate) struct Families(BTreeSet<u32>);

impl Families {
    pub(crate) fn of(tables: &Tables) -> Families {
        let held = |v: &&VolumeRecord| v.root.is_some() && !(v.dying && on(Bug::MapKeyEarly));
        Families(tables.volumes().filter(held).map(|v| v.family).collect())
    }
}

/// Whether a key is there whose family has no page any more, since volumes were unmapped, and nothing is left to unmap: a checkpoint
/// ends it. Where hosts unmapped what they had themselves, the next one that is due does.
pub(crate) fn due(inner: &Inner) -> bool {
    let mut state = inner.lock();
    if !state.steward.unmapped || state.tables.volumes().any(|v| v.dying) {
        return false;
    }
    let families = Families::of(&state.tables);
    let due = inner.keyring.map_families().iter().any(|family| !families.0.contains(family));
    state.steward.unmapped = due;
    due
}

/// The vault key of a new root.
pub(crate) fn vault(inner: &Inner) -> Arc<Secret> {
    if on(Bug::VaultKept) {
        return Arc::new(Secret::take(&mut [0x5a; 32]));
    }
    Arc::new(inner.random_secret())
}

/// Makes sure that a family has a key; 0 is none.
pub(crate) fn draw(inner: &Inner, family: u32) -> Result<(), String> {
    if family == 0 || inner.keyring.has_map_key(family) {
        return Ok(());
    }
    inner.keyring.add_map_key(family, inner.random_secret()).map_err(|e| e.to_string())
}

/// A packed page with room for what goes under a map key: its family in front, and the codec that says so.
pub(crate) fn fronted(family: u32, codec: u8, packed: &[u8]) -> (u8, Vec<u8>) {
    if family == 0 {
        return (codec, packed.to_vec());
    }
    let mut bytes = Vec::with_capacity(FAMILY + packed.len());
    bytes.extend_from_slice(&family.to_le_bytes());
    bytes.extend_from_slice(packed);
    (codec | UNDER_MAP_KEY, bytes)
}

/// Enciphers a page that [`fronted`] made, for the place where it will be sealed.
pub(crate) fn encipher(keyring: &Keyring, at: At, family: u32, page: &mut [u8]) -> Result<(), String> {
    let (_, packed) = split_family(page).ok_or("a page of a map has nothing to encipher")?;
    keyring.map_stream(at, family, packed).map_err(|e| e.to_string())
}

/// What [`fronted`] was given, out of an opened record: codec, family, and the packed page. `None` where its key is not there.
pub(crate) fn deciphered<'a>(
    keyring: &Keyring,
    at: At,
    key: PageKey,
    codec: u8,
    plain: &'a mut [u8],
) -> Option<(u8, u32, &'a [u8])> {
    if codec & UNDER_MAP_KEY == 0 {
        return Some((codec, 0, plain));
    }
    let PageKey::Map(_) = key else { return None };
    let (family, packed) = split_family(plain)?;
    keyring.map_stream(at, family, packed).ok()?;
    Some((codec & !UNDER_MAP_KEY, family, packed))
}

/// The keys of these families, as a root has them.
pub(crate) fn sealed(inner: &Inner, vault: &Secret, families: &Families) -> Vec<u8> {
    let nonce: [u8; XNONCE] = inner.random();
    inner.keyring.seal_map_keys(vault, nonce, |family| families.0.contains(&family) || on(Bug::MapKeyKept))
}

/// Takes in the keys that a root has; a root of before has neither keys nor a vault.
pub(crate) fn unsealed(keyring: &Keyring, vault: Option<&Secret>, blob: Option<&[u8]>) -> Result<(), String> {
    match (vault, blob) {
        (None, None) => Ok(()),
        (Some(vault), Some(blob)) => keyring.open_map_keys(vault, blob).map_err(|e| e.to_string()),
        _ => Err("it has map keys and no key of theirs, or that and none of them".into()),
    }
}

/// Erases from memory what is durably gone. Gives the families.
pub(crate) fn erase(inner: &Inner, families: &Families) -> Vec<u32> {
    let gone = inner.keyring.keep_map_keys(|family| families.0.contains(&family));
    if !gone.is_empty() {
        tracing::info!("{} map keys are erased, for no page is left under them: {gone:?}", gone.len());
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_log::{Cipher, PoolId};
    use caisson_tables::BlockId;

    #[test]
    fn pages_come_back_and_others_do_not() {
        let keyring = Keyring::new(PoolId([1; 16]), Cipher::Aes256Gcm, []).unwrap();
        keyring.add_opening(1, [2; 32]).unwrap();
        keyring.add_map_key(7, Secret::take(&mut [3; 32])).unwrap();
        let at = At { opening: 1, sequence: 9, offset: 128 };
        let key = PageKey::Map(BlockId::new(5).unwrap());
        // The longest: one that did not compress.
        let packed: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
        let (codec, mut page) = fronted(7, 1, &packed);
        assert_eq!((codec, page.len()), (5, 4100));
        encipher(&keyring, at, 7, &mut page).unwrap();
        assert!(page[4..] != packed[..] && page[..4] == [7, 0, 0, 0]);
        let mut copy = page.clone();
        assert_eq!(deciphered(&keyring, at, key, codec, &mut copy), Some((1, 7, &packed[..])));
        // Of before there were map keys.
        assert_eq!(fronted(0, 1, &packed), (1, packed.clone()));
        assert_eq!(deciphered(&keyring, at, key, 1, &mut packed.clone()), Some((1, 0, &packed[..])));
        // No page of the block table is; a family without a key; too short.
        let blocks = PageKey::Blocks { level: 0, index: 0 };
        assert!(deciphered(&keyring, at, blocks, codec, &mut page.clone()).is_none());
        page[0] = 8;
        assert!(deciphered(&keyring, at, key, codec, &mut page).is_none());
        assert!(deciphered(&keyring, at, key, codec, &mut [7, 0, 0, 0]).is_none());
    }

    #[test]
    fn roots_have_both_or_neither() {
        let keyring = Keyring::new(PoolId([1; 16]), Cipher::Aes256Gcm, []).unwrap();
        keyring.add_map_key(7, Secret::take(&mut [3; 32])).unwrap();
        let vault = Secret::take(&mut [4; 32]);
        let blob = keyring.seal_map_keys(&vault, [5; XNONCE], |_| true);
        assert_eq!(unsealed(&keyring, None, None), Ok(()));
        assert_eq!(unsealed(&keyring, Some(&vault), Some(&blob)), Ok(()));
        assert!(
            unsealed(&keyring, None, Some(&blob)).is_err() && unsealed(&keyring, Some(&vault), None).is_err()
        );
        let other = Secret::take(&mut [6; 32]);
        assert!(unsealed(&keyring, Some(&other), Some(&blob)).is_err());
    }
}
