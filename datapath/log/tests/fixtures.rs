//! Version 1 of the format, kept as bytes: what this crate writes today is what it wrote then, and it reads it still.
//!
//! The files were written once, by running this test with `CAISSON_FIXTURES=write`. They change only with the format's version.

mod common;

use caisson_keys::Secret;
use caisson_log::*;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, XChaCha20Poly1305};
use common::*;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/format-v1")
}

/// The records of the fixture: a new block, a moved one, a map page and a page of the block table.
fn records() -> [Record; 4] {
    let moved = Record { from: Some(Spot { segment: 6, offset: 0x0123_4567 }), epoch: 2, ..block(0x102, 70) };
    let page = Record { kind: RecordKind::MapPage, domain: 0, codec: 0, print: [0; 16], ..block(0x103, 33) };
    let id = Record::blocks_page(1, 0x55).unwrap();
    [block(0x101, 300), moved, page, Record { kind: RecordKind::BlocksPage, id, ..page }]
}

fn contents() -> Vec<Vec<u8>> {
    let records = records();
    records.iter().map(|record| (0..record.length).map(|i| (i as u8) ^ (record.id as u8)).collect()).collect()
}

const SPOT: Spot = Spot { segment: 5, offset: 0x3000 };
const CHANGES: &[u8] = b"changes are opaque to the log";

fn batch(cipher: Cipher) -> Vec<u8> {
    let at = At { opening: OPENING, sequence: 0x0102_0304_0506_0708, offset: SPOT.offset };
    let stamp =
        Stamp { kind: BatchKind::Log, batch: 0x1112_1314_1516_1718, epoch: 1, segment: SPOT.segment, at };
    sealed(&keyring(cipher), &stamp, &records(), &contents(), CHANGES)
}

fn root() -> Vec<u8> {
    let tables = b"the tables' fixed part".to_vec();
    let openings = encode_openings(&[Opening { number: OPENING, salt: salt(OPENING) }]);
    let reserved = encode_reserved(&[5, 9, 8]);
    let blobs =
        [(BlobKind::Tables, &tables[..]), (BlobKind::Openings, &openings), (BlobKind::Reserved, &reserved)];
    let pieces = pieces(&blobs, 64 << 10).remove(0);
    let records: Vec<Record> = pieces.iter().map(|piece| piece.record(1)).collect();
    let sizes = blobs.iter().map(|(kind, bytes)| Blob { kind: *kind, length: bytes.len() as u64 }).collect();
    let elsewhere = BatchRef { batch: 2, ..root_place() };
    let head = RootHead { checkpoint: 3, log_batch: 41, blobs: sizes, batches: vec![elsewhere] };
    let BatchRef { segment, at, batch, .. } = root_place();
    let stamp = Stamp { kind: BatchKind::Checkpoint, batch, epoch: 1, segment, at };
    sealed(
        &keyring(Cipher::Aes256Gcm),
        &stamp,
        &records,
        &blobs.map(|(_, bytes)| bytes.to_vec()),
        &head.encode(),
    )
}

fn root_place() -> BatchRef {
    let at = At { opening: OPENING, sequence: 0x2122_2324_2526_2728, offset: 0 };
    BatchRef { segment: 4, at, length: 4096, batch: 77 }
}

fn plain() -> Superblock {
    let slot = |purpose, domain, epoch| {
        let blob = vec![0x50 + purpose; 72];
        KeySlot { purpose, domain, epoch, provider: "sealed-file".into(), root: "main".into(), blob }
    };
    let list = vec![
        Extent { device: 0, first: 0, count: 1000, start: SEGMENTS_START },
        Extent { device: 1, first: 1000, count: 24, start: SEGMENTS_START },
    ];
    Superblock {
        pool: POOL,
        counter: 0x3132_3334,
        device: 1,
        devices: 2,
        cipher: Cipher::Aes256Gcm,
        epoch: 1,
        extents: Extents::new(1 << 20, list).unwrap(),
        slots: vec![slot(1, 0, 1), slot(1, 1, 1), slot(2, 1, 0)],
    }
}

fn anchor() -> Anchor {
    let next_sequence = root_place().at.sequence + 1;
    Anchor {
        root: root_place(),
        salt: salt(OPENING),
        next_sequence,
        next_opening: OPENING + 1,
        clean: true,
        vault: None,
    }
}

fn superblock() -> Vec<u8> {
    let mut out = vec![0; SUPERBLOCK];
    let nonce = std::array::from_fn(|i| 0x40 + i as u8);
    plain().seal(&keyring(Cipher::Aes256Gcm), &anchor(), nonce, &mut out).unwrap();
    out
}

/// With a vault key, as it is written since there are map keys.
fn vaulted() -> Anchor {
    Anchor { vault: Some(std::sync::Arc::new(vault())), ..anchor() }
}

fn vault() -> Secret {
    Secret::take(&mut std::array::from_fn::<u8, 32, _>(|i| 0x60 + i as u8))
}

fn superblock_vault() -> Vec<u8> {
    let mut out = vec![0; SUPERBLOCK];
    let nonce = std::array::from_fn(|i| 0x40 + i as u8);
    plain().seal(&keyring(Cipher::Aes256Gcm), &vaulted(), nonce, &mut out).unwrap();
    out
}

fn map_key(family: u32) -> Secret {
    Secret::take(&mut std::array::from_fn::<u8, 32, _>(|i| (family as u8).wrapping_mul(16) + i as u8))
}

fn map_keys() -> Vec<u8> {
    let keyring = keyring(Cipher::Aes256Gcm);
    [3, 0x0102_0304].into_iter().for_each(|f| keyring.add_map_key(f, map_key(f)).unwrap());
    keyring.seal_map_keys(&vault(), std::array::from_fn(|i| 0x20 + i as u8), |_| true)
}

fn kept(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

#[test]
fn what_is_written_is_what_was() {
    let all = [
        ("batch-aes-256-gcm", batch(Cipher::Aes256Gcm)),
        ("batch-chacha20-poly1305", batch(Cipher::ChaCha20Poly1305)),
        ("root", root()),
        ("superblock", superblock()),
        ("superblock-vault", superblock_vault()),
        ("map-keys", map_keys()),
    ];
    if std::env::var("CAISSON_FIXTURES").as_deref() == Ok("write") {
        std::fs::create_dir_all(folder()).unwrap();
        all.iter().for_each(|(name, bytes)| std::fs::write(folder().join(name), bytes).unwrap());
    }
    for (name, bytes) in all {
        let kept = kept(name);
        let differs = bytes.iter().zip(&kept).position(|(new, old)| new != old);
        assert_eq!((differs, bytes.len()), (None, kept.len()), "{name} has changed");
    }
}

#[test]
fn what_was_written_is_read() {
    for (name, cipher) in [("batch-aes-256-gcm", CIPHERS[1]), ("batch-chacha20-poly1305", CIPHERS[0])] {
        let (bytes, keyring) = (kept(name), keyring(cipher));
        let header = decode_header(&keyring, SPOT, &bytes).unwrap();
        assert!(header.records.iter().map(|placed| placed.record).eq(records()));
        assert_eq!((verify(&keyring, &header, &bytes), &header.changes[..]), (Ok(()), CHANGES));
        for (index, content) in contents().iter().enumerate() {
            let mut out = vec![0; content.len()];
            header.open_record(&keyring, index, &bytes, &mut out).unwrap();
            assert_eq!(out, *content);
        }
    }
    let keyring = keyring(Cipher::Aes256Gcm);
    assert_eq!(Superblock::open(&keyring, &kept("superblock")), Ok((plain(), anchor())));
    assert_eq!(Superblock::open(&keyring, &kept("superblock-vault")), Ok((plain(), vaulted())));
    let keys = open_map_keys(POOL, &vault(), &kept("map-keys"));
    assert_eq!(keys, Ok(vec![(3, map_key(3)), (0x0102_0304, map_key(0x0102_0304))]));
    let bytes = kept("root");
    let header = decode_header(&keyring, Spot { segment: 4, offset: 0 }, &bytes).unwrap();
    let head = RootHead::decode(&header.changes).unwrap();
    let mut blobs = Blobs::new(&head);
    blobs.add(&keyring, &header, &bytes).unwrap();
    let blobs = blobs.finish().unwrap();
    assert_eq!((head.checkpoint, head.log_batch, head.batches.len()), (3, 41, 1));
    assert_eq!(decode_openings(&blobs[1].1).unwrap(), [Opening { number: OPENING, salt: salt(OPENING) }]);
    assert_eq!(decode_reserved(&blobs[2].1), Ok(vec![5, 9, 8]));
}

/// A second reading of `FORMAT.md`, with offsets spelt out and another implementation of the ciphers: what is on the device is
/// what the document says, not only what this crate can read back.
#[test]
fn the_document_is_true() {
    let bytes = kept("batch-chacha20-poly1305");
    let number = |range: std::ops::Range<usize>| {
        bytes[range].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    assert_eq!((&bytes[..8], number(8..10), number(10..12)), (&b"CAISBATC"[..], 1, 1));
    let (header, total) = (number(16..20) as usize, number(20..24) as usize);
    assert_eq!((number(24..32), total), (0x1112_1314_1516_1718, bytes.len()));
    let [sequence, opening, segment, offset] =
        [number(32..40), number(40..44), number(44..48), number(48..52)];
    assert_eq!((sequence, opening, segment, offset), (0x0102_0304_0506_0708, 7, 5, 0x3000));

    let open = |domain: u32, epoch: u16, start: usize, end: usize, aad: &[u8]| {
        let info =
            [&b"caisson block v1"[..], &POOL.0, &domain.to_le_bytes(), &epoch.to_le_bytes(), &[1]].concat();
        let key = hkdf_sha256::<32>(secret(domain, epoch).expose(), &salt(7), &[&info]);
        let nonce = [&sequence.to_le_bytes()[..], &(offset as u32 + start as u32).to_le_bytes()].concat();
        let nonce: [u8; 12] = nonce.try_into().unwrap();
        let cipher = ChaCha20Poly1305::new((&*key).into());
        cipher.decrypt((&nonce).into(), Payload { msg: &bytes[start..end], aad }).unwrap()
    };
    let body = open(0, 1, 64, header, &[&POOL.0, &bytes[..64]].concat());
    assert_eq!(body[..16], [4, 0, 0, 0, CHANGES.len() as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // The second record: id, length, domain, epoch, form, flags.
    assert_eq!(body[32..48], [2, 1, 0, 0, 0, 0, 70, 0, 1, 0, 0, 0, 2, 0, 0x11, 3]);
    let (prints, spots) = (16 + 4 * 16, 16 + 4 * 16 + 2 * 16);
    assert_eq!(body[prints..prints + 16], block(0x101, 1).print);
    assert_eq!(body[spots..spots + 8], [6, 0, 0, 0, 0x67, 0x45, 0x23, 0x01]);
    assert_eq!(&body[spots + 8..], CHANGES);

    let start = header + 300 + 16;
    let mut aad = POOL.0.to_vec();
    aad.extend([1, 0, 1, 1, 1, 0, 0, 0, 2, 0, 70, 0, 2, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(open(1, 2, start, start + 70 + 16, &aad), contents()[1]);
    assert!(bytes[start + 70 + 16 + 2 * (33 + 16)..].iter().all(|byte| *byte == 0));
}

/// As above, of the superblock.
#[test]
fn the_document_is_true_of_superblocks() {
    let bytes = kept("superblock");
    let key = hkdf_sha256::<32>(secret(0, 1).expose(), &POOL.0, &[b"caisson superblock v1", &[1, 0]]);
    let nonce: [u8; 24] = bytes[15872..15896].try_into().unwrap();
    let mut aad = bytes[..15872].to_vec();
    aad[224..256].fill(0);
    let cipher = XChaCha20Poly1305::new((&*key).into());
    let anchor = cipher.decrypt((&nonce).into(), Payload { msg: &bytes[15896..], aad: &aad }).unwrap();
    assert_eq!((anchor.len(), &anchor[32..64]), (472, &salt(OPENING)[..]));
    assert_eq!(anchor[..8], [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(anchor[64..77], [0x29, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, 8, 0, 0, 0, 1]);
    assert_eq!((&bytes[24..40], &bytes[40..44]), (&POOL.0[..], &[0x34, 0x33, 0x32, 0x31][..]));
    // The second extent, and the first key slot with its three strings.
    let extent = [1, 0, 0, 0, 0xe8, 3, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0];
    assert_eq!(bytes[280..304], extent);
    assert_eq!(bytes[1792..1804], [0, 0, 0, 0, 1, 0, 72, 0, 4, 0, 1, 11]);
    assert_eq!(bytes[1804..1820], *b"sealed-filemainQ");
}

/// As above, of map keys and the vault key.
#[test]
fn the_document_is_true_of_map_keys() {
    let bytes = kept("superblock-vault");
    let key = hkdf_sha256::<32>(secret(0, 1).expose(), &POOL.0, &[b"caisson superblock v1", &[1, 0]]);
    let nonce: [u8; 24] = bytes[15872..15896].try_into().unwrap();
    let mut aad = bytes[..15872].to_vec();
    aad[224..256].fill(0);
    let cipher = XChaCha20Poly1305::new((&*key).into());
    let anchor = cipher.decrypt((&nonce).into(), Payload { msg: &bytes[15896..], aad: &aad }).unwrap();
    assert_eq!(
        (&anchor[77..80], &anchor[80..112], &anchor[112..]),
        (&[0; 3][..], vault().expose(), &[0; 360][..])
    );

    let bytes = kept("map-keys");
    assert_eq!(bytes[..8], [1, 0, 0, 0, 2, 0, 0, 0]);
    let key = hkdf_sha256::<32>(&anchor[80..112], &POOL.0, &[b"caisson map vault v1"]);
    let nonce: [u8; 24] = bytes[8..32].try_into().unwrap();
    let aad = [&POOL.0, &bytes[..8]].concat();
    let cipher = XChaCha20Poly1305::new((&*key).into());
    let list = cipher.decrypt((&nonce).into(), Payload { msg: &bytes[32..], aad: &aad }).unwrap();
    assert_eq!((list.len(), &list[..4], &list[4..36]), (72, &[3, 0, 0, 0][..], map_key(3).expose()));
    assert_eq!((&list[36..40], &list[40..]), (&[4, 3, 2, 1][..], map_key(0x0102_0304).expose()));
}
