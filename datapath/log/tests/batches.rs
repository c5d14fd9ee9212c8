//! Batches: what is sealed comes back, and anything else is refused.

mod common;

use caisson_log::*;
use common::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn spot_of(stamp: &Stamp) -> Spot {
    Spot { segment: stamp.segment, offset: stamp.at.offset }
}

/// Opens and verifies, and gives what the records hold.
fn read(keyring: &Keyring, spot: Spot, bytes: &[u8]) -> Result<(Header, Vec<Vec<u8>>), String> {
    let header = decode_header(keyring, spot, bytes).map_err(|e| e.to_string())?;
    verify(keyring, &header, bytes).map_err(|e| e.to_string())?;
    let open = |index: usize| {
        let mut out = vec![0; header.records[index].record.length.into()];
        header.open_record(keyring, index, bytes, &mut out).map(|()| out).map_err(|e| e.to_string())
    };
    let contents = (0..header.records.len()).map(open).collect::<Result<_, _>>()?;
    Ok((header, contents))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sealed_comes_back(seed in 1..u64::MAX, count in 0usize..60, changes in 0usize..3000) {
        let mut numbers = Numbers(seed);
        let keyring = keyring(CIPHERS[numbers.below(2) as usize]);
        let records: Vec<Record> = (0..count).map(|_| numbers.record(6000)).collect();
        let (payloads, changes) = (payloads(&mut numbers, &records), numbers.bytes(changes));
        let stamp = stamp(numbers.next() as u32, numbers.next(), 4096 * numbers.below(1 << 10) as u32);
        let bytes = sealed(&keyring, &stamp, &records, &payloads, &changes);

        let prefix = decode_prefix(&bytes[..PREFIX]).unwrap();
        prop_assert_eq!(prefix.total as usize, bytes.len());
        prop_assert_eq!((prefix.kind, prefix.batch, prefix.epoch), (stamp.kind, stamp.batch, stamp.epoch));
        let (header, contents) = read(&keyring, spot_of(&stamp), &bytes).unwrap();
        prop_assert_eq!(header.prefix, prefix);
        prop_assert_eq!(header.records.iter().map(|p| p.record).collect::<Vec<_>>(), records);
        prop_assert_eq!((contents, &header.changes), (payloads, &changes));

        let mut size = BatchSize::default();
        header.records.iter().for_each(|placed| size.add(&placed.record));
        prop_assert_eq!((size.header(changes.len()), size.total(changes.len())), (prefix.header as usize, bytes.len()));
        // The front is all that is read for a summary.
        prop_assert_eq!(decode_header(&keyring, spot_of(&stamp), &bytes[..prefix.header as usize]).unwrap(), header);
    }

    /// Whatever batches a segment's use holds, no two seals of one key share a nonce.
    #[test]
    fn no_nonce_repeats_within_a_segment(seed in 1..u64::MAX) {
        let mut numbers = Numbers(seed);
        let (mut offset, mut used) = (0, HashSet::new());
        for _ in 0..20 {
            let records: Vec<Record> = (0..numbers.below(40)).map(|_| numbers.record(300)).collect();
            let changes = numbers.bytes(200);
            let plan = BatchPlan::new(&records, &changes).unwrap();
            // The header's nonce is of the byte behind the prefix; all keys are taken for one, which only asks for more.
            prop_assert!(used.insert(offset + PREFIX as u32));
            let mut end = offset as usize + plan.header_len();
            for (index, record) in records.iter().enumerate() {
                let start = plan.offset(index, offset);
                prop_assert!(used.insert(start), "{start} twice");
                prop_assert_eq!(start as usize, end);
                end = start as usize + record.sealed_len();
            }
            offset += plan.total_len() as u32;
            prop_assert!(end <= offset as usize);
        }
    }
}

/// A small batch of each shape: a block, a moved block, a page, changes.
fn small() -> (Vec<Record>, Vec<u8>) {
    let moved = Record { from: Some(Spot { segment: 3, offset: 77 }), epoch: 2, ..block(12, 5) };
    let page =
        Record { kind: RecordKind::BlocksPage, domain: 0, codec: 0, print: [0; 16], ..block(1 << 40, 9) };
    (vec![block(11, 40), moved, page], b"changes".to_vec())
}

#[test]
fn every_flipped_bit_is_found_but_in_the_padding() {
    for cipher in CIPHERS {
        let keyring = keyring(cipher);
        let (records, changes) = small();
        let payloads = payloads(&mut Numbers(5), &records);
        let stamp = stamp(9, 1 << 33, 8192);
        let good = sealed(&keyring, &stamp, &records, &payloads, &changes);
        let plan = BatchPlan::new(&records, &changes).unwrap();
        let end = plan.range(2).end;
        assert!(good[end..].iter().all(|byte| *byte == 0) && end < good.len());
        let mut bytes = good.clone();
        for bit in 0..good.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = read(&keyring, spot_of(&stamp), &bytes);
            assert_eq!(read.is_ok(), bit / 8 >= end, "{cipher:?}, bit {bit}: {read:?}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(bytes, good);
    }
}

#[test]
fn a_batch_is_good_in_its_own_place_only() {
    for cipher in CIPHERS {
        let keyring = keyring(cipher);
        let (records, changes) = small();
        let payloads = payloads(&mut Numbers(6), &records);
        let stamp = stamp(9, 40, 8192);
        let bytes = sealed(&keyring, &stamp, &records, &payloads, &changes);
        let spot = spot_of(&stamp);
        assert!(read(&keyring, spot, &bytes).is_ok());
        for elsewhere in [Spot { segment: 8, ..spot }, Spot { offset: 4096, ..spot }] {
            let error = decode_header(&keyring, elsewhere, &bytes).unwrap_err();
            assert_eq!(error, HeaderError::Elsewhere { says: spot, is: elsewhere });
        }
        // The same batch in a later use, under another salt, another batch number or kind, in another pool: none is good
        // with the other's header or records.
        let at = stamp.at;
        let others = [
            Stamp { at: At { sequence: 41, ..at }, ..stamp },
            Stamp { at: At { opening: OPENING + 1, ..at }, ..stamp },
            Stamp { batch: 101, ..stamp },
            Stamp { kind: BatchKind::Checkpoint, ..stamp },
            Stamp { epoch: 2, ..stamp },
        ];
        for other in others {
            let theirs = sealed(&keyring, &other, &records, &payloads, &changes);
            assert!(read(&keyring, spot, &theirs).is_ok());
            let mut mixed = theirs.clone();
            mixed[..PREFIX].copy_from_slice(&bytes[..PREFIX]);
            assert!(matches!(
                decode_header(&keyring, spot, &mixed),
                Err(HeaderError::Open(OpenError::NotAuthentic { kind: "the header", .. }))
            ));
        }
        let other_pool = keyring_of(PoolId(*b"another pool 123"), cipher);
        assert!(read(&other_pool, spot, &bytes).is_err());
        let other_cipher = common::keyring(CIPHERS[usize::from(cipher == CIPHERS[0])]);
        assert!(read(&other_cipher, spot, &bytes).is_err());
    }
}

/// A stale record of an earlier use, or one of the same batch elsewhere, is refused.
#[test]
fn a_record_is_good_in_its_own_place_only() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let records = vec![block(1, 64), block(1, 64)];
    let payloads = vec![vec![1; 64], vec![1; 64]];
    let now = stamp(2, 50, 0);
    let plan = BatchPlan::new(&records, &[]).unwrap();
    let new = sealed(&keyring, &now, &records, &payloads, &[]);
    let old = sealed(&keyring, &stamp(2, 49, 0), &records, &payloads, &[]);
    let spot = spot_of(&now);
    for (from, (source, target)) in [(&old, (0, 0)), (&new, (1, 0)), (&new, (0, 1))] {
        let mut mixed = new.clone();
        mixed[plan.range(target)].copy_from_slice(&from[plan.range(source)]);
        let header = decode_header(&keyring, spot, &mixed).unwrap();
        let error = verify(&keyring, &header, &mixed).unwrap_err();
        let VerifyError::Record { index, error: OpenError::NotAuthentic { at, .. } } = error else {
            panic!("{error:?}");
        };
        assert_eq!((index, at), (target, header.at(target)));
    }
}

#[test]
fn a_torn_batch_is_found_at_every_sector() {
    let keyring = keyring(Cipher::ChaCha20Poly1305);
    let records: Vec<Record> = (1..20).map(|id| block(id, 1000)).collect();
    let payloads = payloads(&mut Numbers(8), &records);
    let stamp = stamp(1, 1, 0);
    let good = sealed(&keyring, &stamp, &records, &payloads, &[]);
    let end = BatchPlan::new(&records, &[]).unwrap().range(records.len() - 1).end;
    let before = Numbers(9).bytes(good.len());
    for sector in 0..end.div_ceil(512) {
        let mut torn = good.clone();
        let lost = sector * 512..(sector * 512 + 512).min(good.len());
        torn[lost.clone()].copy_from_slice(&before[lost]);
        assert!(read(&keyring, spot_of(&stamp), &torn).is_err(), "sector {sector}");
    }
}

#[test]
fn work_can_be_spread() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let (records, changes) = small();
    let payloads = payloads(&mut Numbers(10), &records);
    let stamp = stamp(9, 40, 4096);
    let whole = sealed(&keyring, &stamp, &records, &payloads, &changes);
    let plan = BatchPlan::new(&records, &changes).unwrap();
    let mut spread = vec![0; plan.total_len()];
    for index in [2, 0, 1] {
        plan.seal_record(&keyring, &stamp, index, &payloads[index], &mut spread[plan.range(index)]).unwrap();
    }
    plan.seal_header(&keyring, &stamp, &mut spread[..plan.header_len()]).unwrap();
    assert_eq!(whole, spread);
}

#[test]
fn what_fits_no_batch_is_refused() {
    let fine = block(1, 10);
    let origin = Some(Spot { segment: 0, offset: 1 << 28 });
    for bad in [
        Record { id: MAX_ID + 1, ..fine },
        Record { codec: 16, ..fine },
        Record { length: 0, ..fine },
        Record { from: origin, ..fine },
    ] {
        assert_eq!(BatchPlan::new(&[fine, bad], &[]).unwrap_err(), PlanError::Record { index: 1 });
    }
    let many = vec![Record { length: u16::MAX, ..fine }; 2100];
    assert!(matches!(BatchPlan::new(&many, &[]), Err(PlanError::TooLong { .. })));

    let keyring = keyring(Cipher::Aes256Gcm);
    let plan = BatchPlan::new(&[fine], &[]).unwrap();
    let mut out = vec![0; plan.total_len()];
    let good = stamp(0, 1, 0);
    let seal = |stamp: &Stamp, payloads: &[&[u8]], out: &mut [u8]| {
        plan.seal(&keyring, stamp, payloads, out).unwrap_err()
    };
    assert_eq!(seal(&good, &[], &mut out), SealBatchError::Payloads { payloads: 0, records: 1 });
    assert_eq!(seal(&good, &[&[0; 10]], &mut out[1..]), SealBatchError::Buffer { len: 4095, want: 4096 });
    let length = SealError::Length { plain: 9, out: 26, length: 10 };
    assert_eq!(seal(&good, &[&[0; 9]], &mut out), SealBatchError::Seal(length));
    for offset in [1, 4095, MAX_SEGMENT, u32::MAX - 4095] {
        assert_eq!(seal(&stamp(0, 1, offset), &[&[0; 10]], &mut out), SealBatchError::Offset { offset });
    }
    let missing = Stamp { at: At { opening: 1, ..good.at }, ..good };
    assert_eq!(
        seal(&missing, &[&[0; 10]], &mut out),
        SealBatchError::Seal(SealError::NoOpening { opening: 1 })
    );
    let missing = Stamp { epoch: 9, ..good };
    assert_eq!(
        seal(&missing, &[&[0; 10]], &mut out),
        SealBatchError::Seal(SealError::NoKey { domain: 0, epoch: 9 })
    );
}

/// A missing key is not a torn batch.
#[test]
fn a_locked_domain_is_told_from_damage() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let records = [block(1, 10), Record { domain: 2, ..block(2, 10) }];
    let stamp = stamp(0, 1, 0);
    let bytes = sealed(&keyring, &stamp, &records, &[vec![0; 10], vec![0; 10]], &[]);
    keyring.forget_secret(2, 1);
    let header = decode_header(&keyring, spot_of(&stamp), &bytes).unwrap();
    let error = verify(&keyring, &header, &bytes).unwrap_err();
    assert_eq!(error, VerifyError::Record { index: 1, error: OpenError::NoKey { domain: 2, epoch: 1 } });
}

/// What a header of `n` records costs is what `FORMAT.md` says.
#[test]
fn headers_are_compact() {
    let size = |record: Record| {
        let mut size = BatchSize::default();
        size.add(&record);
        size.header(0) - BatchSize::default().header(0)
    };
    let block = block(1, 4096);
    let page = Record { print: [0; 16], ..block };
    let moved = Record { from: Some(Spot { segment: 0, offset: 0 }), ..block };
    assert_eq!([size(page), size(block), size(moved)], [16, 32, 40]);
    assert_eq!(BatchSize::default().header(0), 96);
}

/// Authentic headers that this version does not write: each is refused for its own reason.
#[test]
fn impossible_headers_are_refused() {
    let record =
        |flags: u8, form: u8, length: u8| [5, 0, 0, 0, 0, 0, length, 0, 1, 0, 0, 0, 1, 0, form, flags];
    let body = |count: u8, changes: u8, parts: &[&[u8]]| {
        let mut body = vec![count, 0, 0, 0, changes, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        parts.iter().for_each(|part| body.extend(*part));
        body
    };
    let decode = |body: &[u8]| decode_body(body, 200, 4096).map(|(records, _)| records.len());
    let (print, spot, far) = ([7; 16], [1, 0, 0, 0, 9, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0x10]);
    let plain = record(0, 1, 40);
    assert_eq!(decode(&body(2, 3, &[&plain, &record(3, 1, 40), &print, &spot, b"abc"])), Ok(2));
    for (index, bad) in [
        (0, body(1, 0, &[&record(4, 1, 40)])),
        (0, body(1, 0, &[&record(0, 0, 40)])),
        (0, body(1, 0, &[&record(0, 5, 40)])),
        (0, body(1, 0, &[&record(0, 1, 0)])),
        (1, body(2, 0, &[&plain, &record(1, 1, 40), &[0; 16]])),
        (1, body(2, 0, &[&plain, &record(2, 1, 40), &far])),
    ] {
        assert_eq!(decode(&bad), Err(BodyError::Record { index }), "{bad:?}");
    }
    let length = |body: Vec<u8>| assert_eq!(decode(&body), Err(BodyError::Length { len: body.len() }));
    length(vec![0; 15]);
    length(body(0, 1, &[]));
    length(body(2, 0, &[&plain]));
    length(body(0, 0, &[b"abc"]));
    length(body(1, 0, &[&record(1, 1, 40), &print[1..]]));
    length(body(1, 0, &[&record(2, 1, 40), &spot[1..]]));
    let mut reserved = body(0, 0, &[]);
    reserved[15] = 1;
    length(reserved);
    let two = body(2, 0, &[&plain, &plain]);
    assert_eq!(decode_body(&two, 200, 312).map(|(records, _)| records[1].offset), Ok(256));
    assert_eq!(decode_body(&two, 200, 311), Err(BodyError::Beyond { end: 312, total: 311 }));
}
