//! Every decoder of the pool's on-disk format on any bytes.

use caisson_keys::Secret;
use caisson_log::*;

const POOL: PoolId = PoolId(*b"fuzzed pool 0000");
const OPENING: u32 = 1;
const SPOT: Spot = Spot { segment: 2, offset: 4096 };

fn keyring(pool: PoolId, cipher: Cipher, epoch: u16) -> Keyring {
    let secret = Secret::take(&mut [7; 32]);
    let keyring = Keyring::new(pool, cipher, [((0, epoch), secret)]).expect("one secret of 32 bytes");
    keyring.add_opening(OPENING, [9; 32]).expect("one opening");
    keyring
}

/// All of them: none may panic, nothing authenticates that was not sealed, and what decodes is written as it was read.
pub fn log(data: &[u8]) {
    let _ = decode_prefix(data);
    superblock(data);
    body(data);
    changed_batch(data);
    let _ = Anchor::decode(&data[..data.len().min(472)]);
    if let Ok(head) = RootHead::decode(data) {
        assert_eq!(head.encode(), data);
    }
    if let Ok(openings) = decode_openings(data) {
        assert_eq!(encode_openings(&openings), data);
    }
    if let Ok(reserved) = decode_reserved(data) {
        assert_eq!(encode_reserved(&reserved), data);
    }
}

/// The front of a superblock, with its checksum put right, so that what is behind that check is reached.
fn superblock(data: &[u8]) {
    let _ = Superblock::decode_plain(data);
    let mut copy = data.to_vec();
    copy.resize(SUPERBLOCK, 0);
    let sum = superblock_sum(&copy);
    copy[224..256].copy_from_slice(&sum);
    let Ok(plain) = Superblock::decode_plain(&copy) else { return };
    let keyring = keyring(plain.pool, plain.cipher, plain.epoch);
    assert!(Superblock::open(&keyring, &copy).is_err(), "nobody sealed this");
    let at = At { opening: OPENING, sequence: 1, offset: 0 };
    let root = BatchRef { segment: 0, at, length: 4096, batch: 1 };
    let anchor = Anchor { root, salt: [9; 32], next_sequence: 2, next_opening: 2, clean: false, vault: None };
    let mut again = vec![0; SUPERBLOCK];
    plain.seal(&keyring, &anchor, [3; XNONCE], &mut again).expect("what was decoded can be written");
    assert!(again[..224] == copy[..224] && again[256..15872] == copy[256..15872]);
    assert_eq!(Superblock::open(&keyring, &again), Ok((plain, anchor)));
}

/// A header's plaintext: only one plaintext says what it says.
fn body(data: &[u8]) {
    let header = PREFIX + data.len() + TAG;
    let total = (header + 3 * 4096).next_multiple_of(BATCH_ALIGN);
    let Ok((placed, changes)) = decode_body(data, header as u32, total as u32) else { return };
    let records: Vec<Record> = placed.iter().map(|placed| placed.record).collect();
    let plan = BatchPlan::new(&records, &changes).expect("what was decoded can be planned");
    assert_eq!(plan.header_len(), header);
    for (index, placed) in placed.iter().enumerate() {
        assert_eq!(plan.range(index).start, placed.offset as usize);
    }
    assert!(plan.total_len() <= total);
}

/// A sealed batch in which `data` says what to change: (place, bits) by (place, bits), three bytes each.
fn changed_batch(data: &[u8]) {
    let keyring = keyring(POOL, Cipher::Aes256Gcm, 1);
    let kind = RecordKind::MapPage;
    let record =
        Record { kind, id: 5, length: 100, codec: 1, domain: 0, epoch: 1, print: [1; 16], from: None };
    let plan = BatchPlan::new(&[record; 2], b"changes").expect("two small records");
    let at = At { opening: OPENING, sequence: 3, offset: SPOT.offset };
    let stamp = Stamp { kind: BatchKind::Log, batch: 8, epoch: 1, segment: SPOT.segment, at };
    let mut good = vec![0; plan.total_len()];
    plan.seal(&keyring, &stamp, &[&[2; 100], &[3; 100]], &mut good).expect("it fits");
    let mut bytes = good.clone();
    for change in data.chunks_exact(3).take(64) {
        bytes[usize::from(u16::from_le_bytes([change[0], change[1]])) % good.len()] ^= change[2];
    }
    let whole =
        decode_header(&keyring, SPOT, &bytes).is_ok_and(|header| verify(&keyring, &header, &bytes).is_ok());
    let end = plan.range(1).end;
    assert_eq!(whole, bytes[..end] == good[..end]);
}
