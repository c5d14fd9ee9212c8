//! Roots: blobs cut into batches and put together again, and the lists that recovery needs.

mod common;

use caisson_log::*;
use common::*;

/// A root of several batches: the whole chain as a checkpoint writes it.
fn write(
    keyring: &Keyring,
    blobs: &[(BlobKind, &[u8])],
    room: usize,
) -> (BatchRef, Vec<(BatchRef, Vec<u8>)>) {
    let (mut written, mut offset) = (Vec::new(), 0);
    let mut batch = |records: &[Record], payloads: &[&[u8]], changes: &[u8]| {
        let plan = BatchPlan::new(records, changes).unwrap();
        assert!(plan.total_len() <= room);
        let at = At { opening: OPENING, sequence: 60, offset };
        let number = written.len() as u64;
        let stamp = Stamp { kind: BatchKind::Checkpoint, batch: number, epoch: 1, segment: 4, at };
        let mut bytes = vec![0; plan.total_len()];
        plan.seal(keyring, &stamp, payloads, &mut bytes).unwrap();
        offset += bytes.len() as u32;
        let place = BatchRef { segment: 4, at, length: bytes.len() as u32, batch: number };
        written.push((place, bytes));
        place
    };
    let mut batches = Vec::new();
    for group in pieces(blobs, room) {
        let records: Vec<Record> = group.iter().map(|piece| piece.record(1)).collect();
        let of = |piece: &Piece| {
            &blobs.iter().find(|(kind, _)| *kind == piece.kind).unwrap().1[piece.range.clone()]
        };
        let payloads: Vec<&[u8]> = group.iter().map(of).collect();
        batches.push(batch(&records, &payloads, &[]));
    }
    let blobs = blobs.iter().map(|(kind, bytes)| Blob { kind: *kind, length: bytes.len() as u64 }).collect();
    let head = RootHead { checkpoint: 12, log_batch: 345, blobs, batches };
    let root = batch(&[], &[], &head.encode());
    (root, written)
}

fn read_head(keyring: &Keyring, root: &BatchRef, bytes: &[u8]) -> RootHead {
    let spot = Spot { segment: root.segment, offset: root.at.offset };
    RootHead::decode(&decode_header(keyring, spot, bytes).unwrap().changes).unwrap()
}

#[test]
fn blobs_come_back_from_many_batches() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let mut numbers = Numbers(3);
    let segments = numbers.bytes(5 * BLOB_PIECE + 123);
    let volumes = numbers.bytes(2 * BLOB_PIECE);
    let blobs = [
        (BlobKind::Tables, &b"fixed"[..]),
        (BlobKind::Segments, &segments),
        (BlobKind::Volumes, &volumes),
        (BlobKind::Reserved, &[]),
    ];
    for room in [24 << 10, 64 << 10, 1 << 20] {
        let (root, written) = write(&keyring, &blobs, room);
        let (_, last) = written.last().unwrap();
        let head = read_head(&keyring, &root, last);
        assert_eq!((head.checkpoint, head.log_batch, head.batches.len()), (12, 345, written.len() - 1));
        let mut together = Blobs::new(&head);
        // In any order; here from the last.
        for place in head.batches.iter().rev() {
            let bytes = &written.iter().find(|(other, _)| other == place).unwrap().1;
            let header =
                decode_header(&keyring, Spot { segment: 4, offset: place.at.offset }, bytes).unwrap();
            together.add(&keyring, &header, bytes).unwrap();
        }
        let back = together.finish().unwrap();
        assert!(back.iter().map(|(kind, bytes)| (*kind, &bytes[..])).eq(blobs), "{room}");
    }
}

#[test]
fn small_roots_are_one_batch() {
    let keyring = keyring(Cipher::ChaCha20Poly1305);
    let blobs = vec![Blob { kind: BlobKind::Tables, length: 3 }, Blob { kind: BlobKind::Volumes, length: 5 }];
    let head = RootHead { checkpoint: 1, log_batch: 0, blobs, batches: vec![] };
    let contents = [(BlobKind::Tables, &b"abc"[..]), (BlobKind::Volumes, b"defgh")];
    let groups = pieces(&contents, 64 << 10);
    assert_eq!(groups.len(), 1);
    let records: Vec<Record> = groups[0].iter().map(|piece| piece.record(1)).collect();
    let payloads = [b"abc".to_vec(), b"defgh".to_vec()];
    let stamp = Stamp { kind: BatchKind::Checkpoint, ..stamp(4, 60, 0) };
    let bytes = sealed(&keyring, &stamp, &records, &payloads, &head.encode());
    let header = decode_header(&keyring, Spot { segment: 4, offset: 0 }, &bytes).unwrap();
    let mut together = Blobs::new(&RootHead::decode(&header.changes).unwrap());
    together.add(&keyring, &header, &bytes).unwrap();
    let again = together.add(&keyring, &header, &bytes);
    assert_eq!(again, Err(BlobError::Stray { index: 0 }), "a piece twice");
    assert_eq!(together.finish().unwrap()[1], (BlobKind::Volumes, b"defgh".to_vec()));
}

#[test]
fn blobs_that_lack_a_piece_or_have_another_length_are_refused() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let segments = vec![7; 3 * BLOB_PIECE];
    let blobs = [(BlobKind::Segments, &segments[..])];
    let (root, written) = write(&keyring, &blobs, 24 << 10);
    let head = read_head(&keyring, &root, &written.last().unwrap().1);
    let (place, bytes) = &written[1];
    let header = decode_header(&keyring, Spot { segment: 4, offset: place.at.offset }, bytes).unwrap();
    let mut together = Blobs::new(&head);
    together.add(&keyring, &header, bytes).unwrap();
    assert_eq!(together.finish(), Err(BlobError::Missing { kind: BlobKind::Segments, missing: 2 }));

    let other = |blobs| RootHead { blobs, ..head.clone() };
    for (blobs, why) in [
        (vec![Blob { kind: BlobKind::Volumes, length: 3 * BLOB_PIECE as u64 }], "another kind"),
        (vec![Blob { kind: BlobKind::Segments, length: BLOB_PIECE as u64 }], "beyond the end"),
        (vec![Blob { kind: BlobKind::Segments, length: BLOB_PIECE as u64 + 5 }], "too long"),
    ] {
        let got = Blobs::new(&other(blobs)).add(&keyring, &header, bytes);
        assert_eq!(got, Err(BlobError::Stray { index: 0 }), "{why}");
    }
    let mut changed = bytes.clone();
    changed[header.records[0].offset as usize + 100] ^= 1;
    let got = Blobs::new(&head).add(&keyring, &header, &changed);
    assert!(
        matches!(got, Err(BlobError::Open { index: 0, error: OpenError::NotAuthentic { .. } })),
        "{got:?}"
    );
}

#[test]
fn heads_come_back_and_impossible_ones_do_not() {
    let at = At { opening: 2, sequence: 9, offset: 4096 };
    let batches = vec![BatchRef { segment: 1, at, length: 8192, batch: 4 }; 3];
    let blob = |kind, length| Blob { kind, length };
    let blobs = vec![blob(BlobKind::Tables, 0), blob(BlobKind::Settings, 70_000)];
    let head = RootHead { checkpoint: 8, log_batch: 1 << 40, blobs, batches };
    let bytes = head.encode();
    assert_eq!(bytes.len(), RootHead::encoded_len(2, 3));
    assert_eq!(RootHead::decode(&bytes), Ok(head.clone()));
    for len in 0..bytes.len() {
        assert_eq!(RootHead::decode(&bytes[..len]), Err(RootError::Length { len }));
    }
    assert!(RootHead::decode(&[&bytes[..], &[0]].concat()).is_err());
    let bad = |head: RootHead| RootHead::decode(&head.encode()).unwrap_err();
    let with = |blobs: Vec<Blob>| bad(RootHead { blobs, ..head.clone() });
    assert_eq!(with(vec![blob(BlobKind::Tables, MAX_BLOBS_BYTES + 1)]), RootError::Blob { index: 0 });
    assert_eq!(
        with(vec![blob(BlobKind::Tables, MAX_BLOBS_BYTES), blob(BlobKind::Volumes, 1)]),
        RootError::Blob { index: 1 }
    );
    assert_eq!(with(vec![blob(BlobKind::Tables, 1); 2]), RootError::Blob { index: 1 });
    let place = |place: BatchRef| bad(RootHead { batches: vec![place], ..head.clone() });
    let fine = head.batches[0];
    for wrong in [
        BatchRef { length: 0, ..fine },
        BatchRef { length: 1, ..fine },
        BatchRef { at: At { offset: 1, ..at }, ..fine },
        BatchRef { at: At { offset: u32::MAX - 4095, ..at }, ..fine },
        BatchRef { length: MAX_SEGMENT, ..fine },
    ] {
        assert_eq!(place(wrong), RootError::Batch { index: 0 });
    }
}

#[test]
fn lists_come_back_and_repeated_entries_do_not() {
    let openings: Vec<Opening> = [1, 5, 900].map(|number| Opening { number, salt: salt(number) }).into();
    let bytes = encode_openings(&openings);
    assert_eq!((bytes.len(), decode_openings(&bytes)), (108, Ok(openings.clone())));
    assert_eq!(format!("{:?}", openings[2]), "Opening(900)");
    assert_eq!(decode_openings(&bytes[1..]), Err(ListError::Length { len: 107 }));
    let twice = encode_openings(&[openings[0], openings[0]]);
    assert_eq!(decode_openings(&twice), Err(ListError::Repeated { index: 1 }));

    let reserved = encode_reserved(&[9, 2, 700]);
    assert_eq!(reserved, [9, 0, 0, 0, 2, 0, 0, 0, 0xbc, 2, 0, 0]);
    assert_eq!(decode_reserved(&reserved), Ok(vec![9, 2, 700]));
    assert_eq!(decode_reserved(&reserved[..5]), Err(ListError::Length { len: 5 }));
    assert_eq!(decode_reserved(&encode_reserved(&[3, 4, 3])), Err(ListError::Repeated { index: 2 }));
}

#[test]
fn page_keys_fit_an_id() {
    assert_eq!(Record::blocks_page(3, 5), Some((3 << 40) + 5));
    assert_eq!(Record::blocks_page(255, (1 << 40) - 1), Some(MAX_ID));
    assert_eq!(Record::blocks_page(0, 1 << 40), None);
}
