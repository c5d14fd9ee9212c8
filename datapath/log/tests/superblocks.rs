//! Superblocks: every bit of a copy counts, the newer good copy is taken, and tables and slots are held to their bounds.

mod common;

use caisson_log::*;
use common::*;

fn slot(domain: u32, blob: usize) -> KeySlot {
    let provider = "sealed-file".into();
    KeySlot { purpose: 1, domain, epoch: 1, provider, root: "main".into(), blob: vec![domain as u8; blob] }
}

fn extents() -> Extents {
    let list = vec![
        Extent { device: 0, first: 0, count: 10, start: SEGMENTS_START },
        Extent { device: 1, first: 10, count: 5, start: SEGMENTS_START },
        Extent { device: 0, first: 15, count: 3, start: SEGMENTS_START + 10 * (1 << 20) },
    ];
    Extents::new(1 << 20, list).unwrap()
}

fn superblock(counter: u64) -> Superblock {
    let (pool, cipher, slots) = (POOL, Cipher::Aes256Gcm, vec![slot(0, 72), slot(1, 100)]);
    Superblock { pool, counter, device: 1, devices: 2, cipher, epoch: 1, extents: extents(), slots }
}

fn anchor() -> Anchor {
    let at = At { opening: OPENING, sequence: 400, offset: 8192 };
    let root = BatchRef { segment: 3, at, length: 12288, batch: 99 };
    Anchor { root, salt: salt(OPENING), next_sequence: 401, next_opening: 8, clean: false, vault: None }
}

fn sealed_with(keyring: &Keyring, superblock: &Superblock) -> Vec<u8> {
    let mut out = vec![0xee; SUPERBLOCK];
    superblock.seal(keyring, &anchor(), [superblock.counter as u8; XNONCE], &mut out).unwrap();
    out
}

fn sealed(superblock: &Superblock) -> Vec<u8> {
    sealed_with(&keyring(superblock.cipher), superblock)
}

/// Puts the right checksum into a changed copy, as whoever changes it on purpose would.
fn repair(copy: &mut [u8]) {
    let sum = superblock_sum(copy);
    copy[224..256].copy_from_slice(&sum);
}

#[test]
fn what_is_sealed_comes_back() {
    let copy = sealed(&superblock(5));
    assert_eq!(Superblock::decode_plain(&copy), Ok(superblock(5)));
    let keyring = keyring(Cipher::Aes256Gcm);
    assert_eq!(Superblock::open(&keyring, &copy), Ok((superblock(5), anchor())));
    // More bytes may follow.
    assert!(Superblock::open(&keyring, &[&copy[..], &[1; 100]].concat()).is_ok());
    assert_eq!(superblock(5).slots[1].wrapped().blob, vec![1; 100]);
}

#[test]
fn every_flipped_bit_is_found() {
    let mut copy = sealed(&superblock(5));
    let keyring = keyring(Cipher::Aes256Gcm);
    for bit in 0..copy.len() * 8 {
        copy[bit / 8] ^= 1 << (bit % 8);
        let error = Superblock::decode_plain(&copy).unwrap_err();
        let found = match bit / 8 {
            0..8 => error == PlainError::NotASuperblock,
            8..10 => matches!(error, PlainError::Version { .. }),
            _ => error == PlainError::Damaged,
        };
        assert!(found, "bit {bit}: {error}");
        copy[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Superblock::open(&keyring, &copy).is_ok());
}

/// The checksum is no protection: with it repaired, the seal refuses.
#[test]
fn every_changed_byte_is_found_though_the_checksum_was_repaired() {
    let good = sealed(&superblock(5));
    let keyring = keyring(Cipher::Aes256Gcm);
    let mut refused = 0;
    for byte in (0..good.len()).filter(|byte| !(224..256).contains(byte)) {
        let mut copy = good.clone();
        copy[byte] ^= 1 << (byte % 8);
        repair(&mut copy);
        let error = Superblock::open(&keyring, &copy).unwrap_err();
        assert_ne!(error, SuperblockError::Plain(PlainError::Damaged), "byte {byte}");
        refused += usize::from(error == SuperblockError::NotAuthentic);
    }
    // Nonce, anchor and tag at the least; where a field makes no sense, that is said before.
    assert!(refused > 512, "{refused}");
}

#[test]
fn a_superblock_opens_with_its_own_key_only() {
    let copy = sealed(&superblock(5));
    let other = PoolId(*b"another pool 123");
    assert_eq!(
        Superblock::open(&keyring_of(other, Cipher::Aes256Gcm), &copy),
        Err(SuperblockError::OtherPool { pool: POOL })
    );
    let locked = Keyring::new(POOL, Cipher::Aes256Gcm, []).unwrap();
    assert_eq!(Superblock::open(&locked, &copy), Err(SuperblockError::NoKey { epoch: 1 }));
    let wrong = Keyring::new(POOL, Cipher::Aes256Gcm, [((0, 1), secret(5, 5))]).unwrap();
    assert_eq!(Superblock::open(&wrong, &copy), Err(SuperblockError::NotAuthentic));
    let cipher = Superblock::open(&keyring(Cipher::ChaCha20Poly1305), &copy);
    assert_eq!(cipher, Err(SuperblockError::Plain(PlainError::Field("cipher"))));
    // Two copies of one content share no byte of what is sealed.
    let mut again = vec![0; SUPERBLOCK];
    superblock(5).seal(&keyring(Cipher::Aes256Gcm), &anchor(), [9; XNONCE], &mut again).unwrap();
    let same = (15896..SUPERBLOCK).filter(|at| copy[*at] == again[*at]).count();
    assert!(same < 20, "{same}");
}

#[test]
fn the_newer_good_copy_is_taken() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let (old, new) = (sealed(&superblock(6)), sealed(&superblock(7)));
    assert_eq!([copy_for(6), copy_for(7)], [0, 1]);
    let choice = choose(&keyring, &old, &new).unwrap();
    assert_eq!((choice.copy, choice.superblock.counter, choice.other), (1, 7, Ok(6)));
    let choice = choose(&keyring, &sealed(&superblock(8)), &new).unwrap();
    assert_eq!((choice.copy, choice.superblock.counter, choice.other), (0, 8, Ok(7)));

    // Either may be lost in any way.
    let mut torn = new.clone();
    torn[8192..].copy_from_slice(&sealed(&superblock(5))[8192..]);
    let mut forged = new.clone();
    forged[40] = 0xff;
    repair(&mut forged);
    let damaged = SuperblockError::Plain(PlainError::Damaged);
    let nothing = SuperblockError::Plain(PlainError::NotASuperblock);
    let blank = vec![0; SUPERBLOCK];
    for (bad, why) in [(&torn, damaged), (&forged, SuperblockError::NotAuthentic), (&blank, nothing)] {
        let choice = choose(&keyring, &old, bad).unwrap();
        assert_eq!((choice.copy, choice.superblock.counter, choice.other), (0, 6, Err(why)));
        let choice = choose(&keyring, bad, &new).unwrap();
        assert_eq!((choice.copy, choice.superblock.counter, choice.other), (1, 7, Err(why)));
        assert_eq!(choose(&keyring, bad, &blank), Err(ChooseError { first: why, second: nothing }));
    }
    let short = SuperblockError::Plain(PlainError::Short { len: 3 });
    assert_eq!(choose(&keyring, &old[..3], &new).unwrap().other, Err(short));
}

#[test]
fn superblocks_that_contradict_themselves_are_not_sealed() {
    let keyring = keyring(Cipher::Aes256Gcm);
    let refuse = |superblock: Superblock, want: SealSuperblockError| {
        let got = superblock.seal(&keyring, &anchor(), [0; XNONCE], &mut vec![0; SUPERBLOCK]);
        assert_eq!(got, Err(want));
    };
    let fine = || superblock(1);
    refuse(Superblock { device: 2, ..fine() }, SealSuperblockError::Disagrees("device"));
    refuse(Superblock { device: 0, devices: 1, ..fine() }, SealSuperblockError::Disagrees("extent"));
    refuse(Superblock { devices: 33, ..fine() }, SealSuperblockError::Disagrees("number of devices"));
    refuse(Superblock { pool: PoolId([0; 16]), ..fine() }, SealSuperblockError::Disagrees("keyring"));
    refuse(Superblock { epoch: 9, ..fine() }, SealSuperblockError::NoKey { epoch: 9 });
    refuse(Superblock { slots: vec![slot(1, 8); 65], ..fine() }, SlotError::Count { count: 65 }.into());
    refuse(
        Superblock { slots: vec![slot(1, 8000); 2], ..fine() },
        SlotError::TooLong { len: 2 * 8027 }.into(),
    );
    for bad in [
        KeySlot { blob: vec![0; 8193], ..slot(0, 0) },
        KeySlot { provider: String::new(), ..slot(0, 0) },
        KeySlot { provider: "p".repeat(65), ..slot(0, 0) },
        KeySlot { root: "r".repeat(513), ..slot(0, 0) },
    ] {
        let slots = vec![slot(0, 1), bad];
        refuse(Superblock { slots, ..fine() }, SlotError::Value { index: 1 }.into());
    }
    let short = fine().seal(&keyring, &anchor(), [0; XNONCE], &mut [0; 512]);
    assert_eq!(short, Err(SealSuperblockError::Buffer { len: 512 }));
    // As many as there may be.
    let most = Superblock { slots: vec![slot(1, 190); MAX_SLOTS], ..fine() };
    assert_eq!(Superblock::decode_plain(&sealed(&most)), Ok(most));
}

/// Values that no superblock has, in copies whose checksum is right: each is refused, none panics.
#[test]
fn impossible_plain_parts_are_refused() {
    let good = sealed(&superblock(5));
    for (at, value) in [
        (10, 3),     // cipher
        (14, 65),    // extents
        (14, 2),     // one extent too few
        (16, 3),     // slots
        (16, 255),   // slots
        (20, 1),     // bytes of slots
        (23, 1),     // bytes of slots
        (48, 2),     // device
        (52, 0),     // devices
        (57, 1),     // segment size
        (60, 17),    // segments
        (100, 1),    // reserved
        (256, 33),   // an extent's device
        (260, 1),    // its first segment
        (264, 11),   // its segments
        (268, 1),    // its reserved part
        (273, 1),    // its start
        (400, 1),    // an unused extent
        (1798, 255), // a slot's blob
        (1803, 0),   // its provider's length
        (1804, 255), // its provider's name
        (15871, 1),  // behind the slots
    ] {
        let mut copy = good.clone();
        assert_ne!(copy[at], value, "{at}");
        copy[at] = value;
        repair(&mut copy);
        let error = Superblock::decode_plain(&copy).unwrap_err();
        assert_ne!(error, PlainError::Damaged, "{at}");
    }
}

#[test]
fn anchors_are_judged_though_they_are_authentic() {
    let keyring = keyring(Cipher::Aes256Gcm);
    for bad in [
        Anchor { next_sequence: 400, ..anchor() },
        Anchor { next_opening: OPENING, ..anchor() },
        Anchor { root: BatchRef { length: 0, ..anchor().root }, ..anchor() },
        Anchor { root: BatchRef { length: 4097, ..anchor().root }, ..anchor() },
    ] {
        let mut copy = vec![0; SUPERBLOCK];
        superblock(5).seal(&keyring, &bad, [0; XNONCE], &mut copy).unwrap();
        assert_eq!(Superblock::open(&keyring, &copy), Err(SuperblockError::Anchor(AnchorError)));
    }
    assert_eq!(Anchor::decode(&[0; 471]), Err(AnchorError));
}

#[test]
fn segments_are_found() {
    let extents = extents();
    assert_eq!((extents.segments(), extents.segment_size()), (18, 1 << 20));
    let mib = |n: u64| n << 20;
    for (segment, place) in
        [(0, (0, mib(1))), (9, (0, mib(10))), (10, (1, mib(1))), (15, (0, mib(11))), (17, (0, mib(13)))]
    {
        assert_eq!(extents.locate(segment), Some(place));
    }
    assert_eq!([18, u32::MAX].map(|segment| extents.locate(segment)), [None, None]);
    let grown = extents.grown(1, mib(6), 100).unwrap();
    assert_eq!((grown.segments(), grown.locate(18)), (118, Some((1, mib(6)))));
    assert_eq!(extents.grown(1, mib(5), 1), Err(ExtentError::Overlap { first: 1, second: 3 }));
    assert_eq!(extents.grown(0, mib(10), 3), Err(ExtentError::Overlap { first: 0, second: 3 }));
}

#[test]
fn tables_that_are_none_are_refused() {
    let one = Extent { device: 0, first: 0, count: 1, start: SEGMENTS_START };
    let new = |list: &[Extent]| Extents::new(1 << 20, list.to_vec());
    assert_eq!(new(&[]), Err(ExtentError::Count { count: 0 }));
    for bad in [
        Extent { device: MAX_DEVICES, ..one },
        Extent { first: 1, ..one },
        Extent { count: 0, ..one },
        Extent { start: SEGMENTS_START - 4096, ..one },
        Extent { start: SEGMENTS_START + 1, ..one },
        Extent { start: u64::MAX - 4095, ..one },
        Extent { start: i64::MAX as u64 & !4095, count: 2, ..one },
    ] {
        assert_eq!(new(&[bad]), Err(ExtentError::Value { index: 0 }), "{bad:?}");
    }
    let all = Extent { count: u32::MAX, ..one };
    assert_eq!(
        new(&[all, Extent { first: u32::MAX, device: 1, ..one }]),
        Err(ExtentError::Value { index: 1 })
    );
    assert_eq!(Extents::new(3 << 20, vec![one]), Err(ExtentError::SegmentSize { size: 3 << 20 }));
    let many: Vec<Extent> =
        (0..65u64).map(|n| Extent { first: n as u32, start: SEGMENTS_START + (n << 20), ..one }).collect();
    assert_eq!(new(&many), Err(ExtentError::Count { count: 65 }));
    assert!(new(&many[..64]).is_ok());
}

#[test]
fn what_is_shown_holds_no_salt_and_no_blob() {
    let shown = format!("{:?} {:?}", superblock(5), anchor());
    assert!(shown.contains("sealed-file") && shown.contains("72 bytes"), "{shown}");
    assert!(!shown.contains("salt") && !shown.contains(&format!("{:?}", salt(OPENING))), "{shown}");
    let json = serde_json::to_string(&(superblock(5), anchor())).unwrap();
    assert!(json.contains("\"72 bytes\"") && !json.contains("salt"), "{json}");
    let keyring = keyring(Cipher::Aes256Gcm);
    assert_eq!(format!("{keyring:?}"), format!("Keyring({POOL}, Aes256Gcm)"));
}
