//! What a thief of the disks can have of the keys of volumes' maps, who has every secret of the pool's own domain besides.
//!
//! Owns the search: all batches that stand anywhere on the disks, of whatever root and age; in them the blobs of map keys; and each vault
//! key that any superblock copy holds, tried on each of them. It knows nothing of which segments are in use, and asks no pool. The search for
//! leaks on real devices uses it, too (`tools/cli/tests/leaks`).

use caisson_keys::Secret;
use caisson_log::{
    BATCH_ALIGN, BlobKind, Header, Keyring, PREFIX, RecordKind, SEGMENTS_START, SUPERBLOCK, SUPERBLOCK_AT,
    Spot, Superblock, decode_header, decode_openings, decode_prefix, open_map_keys,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is searched.
pub trait Disk {
    /// Its size in bytes.
    fn size(&self) -> u64;
    /// Bytes of it.
    fn bytes(&self, at: u64, len: usize) -> Vec<u8>;
}

/// What is found.
#[derive(Debug, Default)]
pub struct Found {
    /// The vault keys of superblock copies.
    pub vaults: Vec<Arc<Secret>>,
    /// Map keys, with their families; one may be there several times.
    pub keys: Vec<(u32, Secret)>,
}

/// What the disks give. `keyring` has the secrets of domain 0.
pub fn search<D: Disk>(disks: &[D], keyring: &Keyring) -> Found {
    let mut vaults: Vec<Arc<Secret>> = Vec::new();
    for disk in disks {
        for at in SUPERBLOCK_AT {
            let Ok((_, anchor)) = Superblock::open(keyring, &disk.bytes(at, SUPERBLOCK)) else { continue };
            // Of two openings with one number one is lost; that which counts comes first or its salt is in a root.
            let _ = keyring.add_opening(anchor.root.at.opening, anchor.salt);
            vaults.extend(anchor.vault);
        }
    }
    let batches: Vec<Vec<u8>> = disks.iter().flat_map(batches).collect();
    // A root's list of openings may be what opens an older root.
    let mut known = BTreeSet::new();
    loop {
        let before = known.len();
        for bytes in &batches {
            for blob in blobs(keyring, bytes, BlobKind::Openings) {
                for opening in decode_openings(&blob).unwrap_or_default() {
                    if known.insert(opening.number) {
                        let _ = keyring.add_opening(opening.number, opening.salt);
                    }
                }
            }
        }
        if known.len() == before {
            break;
        }
    }
    let mut keys = Vec::new();
    for bytes in &batches {
        for blob in blobs(keyring, bytes, BlobKind::MapKeys) {
            for vault in &vaults {
                keys.extend(open_map_keys(keyring.pool(), vault, &blob).unwrap_or_default());
            }
        }
    }
    Found { vaults, keys }
}

/// All that looks like a batch, whole.
fn batches(disk: &impl Disk) -> Vec<Vec<u8>> {
    let (size, align) = (disk.size(), BATCH_ALIGN as u64);
    let mut found = Vec::new();
    let mut at = SEGMENTS_START;
    while at + align <= size {
        let front = disk.bytes(at, PREFIX);
        if let Ok(prefix) = decode_prefix(&front)
            && prefix.at.offset.is_multiple_of(BATCH_ALIGN as u32)
            && at + u64::from(prefix.total) <= size
        {
            found.push(disk.bytes(at, prefix.total as usize));
        }
        at += align;
    }
    found
}

/// The first pieces of blobs of a kind that a batch holds: in pools as small as these there is no second.
fn blobs(keyring: &Keyring, bytes: &[u8], kind: BlobKind) -> Vec<Vec<u8>> {
    let Ok(prefix) = decode_prefix(bytes) else { return Vec::new() };
    let spot = Spot { segment: prefix.segment, offset: prefix.at.offset };
    let Ok(header) = decode_header(keyring, spot, bytes) else { return Vec::new() };
    let wanted = |header: &Header, index: usize| {
        let record = &header.records[index].record;
        record.kind == RecordKind::Blob && record.id == (kind as u64) << 40
    };
    let indices = (0..header.records.len()).filter(|index| wanted(&header, *index));
    let open = |index: usize| {
        let mut out = vec![0; usize::from(header.records[index].record.length)];
        header.open_record(keyring, index, bytes, &mut out).ok().map(|()| out)
    };
    indices.filter_map(open).collect()
}
