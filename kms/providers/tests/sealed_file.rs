//! The sealed key file: the providers' contract, its life, and what happens to one that was changed.

use caisson_keys::{
    Context, KeyError, KeyProvider, Purpose, Reason, Secret, contract, create_pool_keys, unlock,
    wrap_pool_keys,
};
use caisson_providers::{Argon2Cost, FormatError, KeyFileError, SealedFile, format, os_random};
use sha2::{Digest, Sha256};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// As little as Argon2id takes: the tests are not about its strength.
const CHEAP: Argon2Cost = Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 };

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("caisson-sealed-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pass(text: &str) -> Secret {
    Secret::take(&mut text.as_bytes().to_vec())
}

fn create(path: &Path) -> SealedFile {
    SealedFile::create(path, &pass("correct horse"), "first", CHEAP).unwrap()
}

fn contents(error: KeyFileError) -> FormatError {
    match error {
        KeyFileError::Contents { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn keeps_the_contract_of_providers() {
    let dir = Dir::new("contract");
    let path = dir.file("key");
    contract::check(&create(&path)).unwrap();
    contract::check(&SealedFile::open(&path, &pass("correct horse")).unwrap()).unwrap();
}

#[test]
fn a_pool_opens_again_with_its_file_and_only_with_it() {
    let dir = Dir::new("pool");
    let (path, pool) = (dir.file("key"), [3; 16]);
    let (made, slots) = create_pool_keys(&create(&path), pool, &mut os_random).unwrap();
    let file = SealedFile::open(&path, &pass("correct horse")).unwrap();
    let opened = unlock(&[&file], pool, &slots).unwrap();
    assert!(made.epochs().eq(opened.epochs()));
    let other = create(&dir.file("other"));
    let error = unlock(&[&other], pool, &slots).unwrap_err();
    assert!(
        matches!(&error, KeyError::NoSuchKey { provider, .. } if provider.ends_with("other")),
        "{error:?}"
    );
    assert!(error.remedy().contains("key file"));
}

#[test]
fn is_private_complete_and_never_overwritten() {
    let dir = Dir::new("create");
    let path = dir.file("key");
    create(&path);
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    let before = std::fs::read(&path).unwrap();
    let again = SealedFile::create(&path, &pass("x"), "first", CHEAP).unwrap_err();
    assert_eq!(again, KeyFileError::Exists { path: path.clone() });
    symlink("nowhere", dir.file("link")).unwrap();
    let error = SealedFile::create(&dir.file("link"), &pass("x"), "first", CHEAP).unwrap_err();
    assert!(matches!(error, KeyFileError::Exists { .. }));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let names: Vec<_> = std::fs::read_dir(&dir.0).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
    let error = SealedFile::create(&dir.file("no/such/folder"), &pass("x"), "first", CHEAP).unwrap_err();
    assert!(matches!(error, KeyFileError::Io { .. }), "{error}");
}

#[test]
fn what_cannot_be_a_key_file_says_so() {
    let dir = Dir::new("wrong");
    let path = dir.file("key");
    let open = |path: &Path| SealedFile::open(path, &pass("correct horse")).unwrap_err();
    assert_eq!(open(&path), KeyFileError::Missing { path: path.clone() });
    assert_eq!(open(&dir.0), KeyFileError::NotAFile { path: dir.0.clone() });
    std::fs::write(&path, "something else").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(contents(open(&path)), FormatError::NotAKeyFile);
    std::fs::remove_file(&path).unwrap();
    create(&path);
    for mode in [0o604, 0o602, 0o620, 0o644] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let error = open(&path);
        assert_eq!(error, KeyFileError::Open { path: path.clone(), mode });
        assert!(error.remedy().contains("chmod 600"), "{error}");
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o440)).unwrap();
    SealedFile::open(&path, &pass("correct horse")).unwrap();
}

#[test]
fn a_wrong_passphrase_is_told_from_a_damaged_file() {
    let dir = Dir::new("passphrase");
    let path = dir.file("key");
    create(&path);
    for wrong in ["", "correct hors", "correct horse ", "Correct horse"] {
        let error = SealedFile::open(&path, &pass(wrong)).unwrap_err();
        assert!(error.is_wrong_passphrase(), "{wrong:?}: {error}");
        assert!(
            error.to_string().contains("passphrase is wrong") && error.remedy().contains("case"),
            "{error}"
        );
    }
    let empty = SealedFile::create(&dir.file("e"), &pass(""), "first", CHEAP).unwrap_err();
    assert_eq!(empty, KeyFileError::EmptyPassphrase);
}

/// Each byte changed: by accident, when the checksum tells; and by somebody who sets the checksum right again.
#[test]
fn every_changed_byte_is_refused() {
    let dir = Dir::new("tamper");
    let path = dir.file("key");
    create(&path);
    let good = std::fs::read(&path).unwrap();
    let phrase = pass("correct horse");
    let decode = |bytes: &[u8]| format::decode(bytes, &phrase).map(|_| ()).unwrap_err();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        let error = decode(&bytes);
        let expected = match at {
            0..8 => FormatError::NotAKeyFile,
            8..10 => FormatError::Version(u16::from_le_bytes([bytes[8], bytes[9]])),
            _ => FormatError::Damaged { what: "its checksum does not fit" },
        };
        assert_eq!(error, expected, "byte {at}");
        if (10..good.len() - 32).contains(&at) {
            let body = good.len() - 32;
            let digest = Sha256::digest(&bytes[..body]);
            bytes[body..].copy_from_slice(&digest);
            let error = decode(&bytes);
            match at {
                // Number of keys and length; the costs, some beyond their bounds; reserved.
                10..16 | 28..32 => {
                    assert!(matches!(error, FormatError::Damaged { .. }), "byte {at}: {error}")
                }
                16..28 => assert!(
                    matches!(error, FormatError::Cost { .. } | FormatError::WrongPassphrase),
                    "byte {at}: {error}"
                ),
                32..112 => assert_eq!(error, FormatError::WrongPassphrase, "byte {at}"),
                _ => assert_eq!(error, FormatError::Tampered, "byte {at}"),
            }
        }
    }
    for len in 0..good.len() {
        assert_ne!(decode(&good[..len]), FormatError::WrongPassphrase, "{len} bytes");
    }
    assert!(matches!(decode(&[&good[..], &[0]].concat()), FormatError::Damaged { .. }));
}

#[test]
fn a_hostile_file_gets_no_memory_and_no_time() {
    let dir = Dir::new("hostile");
    let path = dir.file("key");
    create(&path);
    let good = std::fs::read(&path).unwrap();
    for (memory, passes, lanes) in [
        (100 << 20, 1, 1),
        (u32::MAX, 1, 1),
        (64, 17, 1),
        (64, u32::MAX, 1),
        (64, 0, 1),
        (1024, 1, 17),
        (1024, 1, 0),
        (15, 1, 2),
    ] {
        let mut bytes = good.clone();
        for (at, value) in [(16, memory), (20, passes), (24, lanes)] {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        let body = bytes.len() - 32;
        let digest = Sha256::digest(&bytes[..body]);
        bytes[body..].copy_from_slice(&digest);
        let error = format::decode(&bytes, &pass("correct horse")).map(|_| ()).unwrap_err();
        assert_eq!(error, FormatError::Cost { memory_kib: memory, passes, lanes });
    }
    std::fs::write(&path, vec![0; 100 << 20]).unwrap();
    assert_eq!(contents(SealedFile::examine(&path).unwrap_err()), FormatError::NotAKeyFile);
}

#[test]
fn roots_are_added_and_passphrases_changed() {
    let dir = Dir::new("rotate");
    let (path, pool) = (dir.file("key"), [9; 16]);
    let mut file = create(&path);
    let (secrets, old_slots) = create_pool_keys(&file, pool, &mut os_random).unwrap();
    file.add_root("second").unwrap();
    let new_slots = wrap_pool_keys(&file, &secrets).unwrap();
    assert!(
        old_slots[0].wrapped.root.starts_with("first:") && new_slots[0].wrapped.root.starts_with("second:")
    );
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    file.change_passphrase(&pass("battery staple"), CHEAP).unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640, "its mode is kept");
    assert!(SealedFile::open(&path, &pass("correct horse")).unwrap_err().is_wrong_passphrase());
    let mut again = SealedFile::open(&path, &pass("battery staple")).unwrap();
    assert_eq!(again.root_names(), file.root_names());
    for slots in [&old_slots, &new_slots] {
        assert!(unlock(&[&again], pool, slots).unwrap().epochs().eq(secrets.epochs()));
    }
    for n in 2..format::MAX_ROOTS {
        again.add_root(&format!("root-{n}")).unwrap();
    }
    assert_eq!(again.add_root("more").unwrap_err(), KeyFileError::Full { path: path.clone() });
    assert_eq!(path.metadata().unwrap().len() as usize, format::MAX_FILE);
    assert_eq!(
        SealedFile::open(&path, &pass("battery staple")).unwrap().root_names().len(),
        format::MAX_ROOTS
    );
    assert!(matches!(
        again.add_root("bad label"),
        Err(KeyFileError::Full { .. } | KeyFileError::Label { .. })
    ));
}

#[test]
fn a_root_key_is_destroyed_with_what_the_file_was_before() {
    let dir = Dir::new("destroy");
    let path = dir.file("key");
    let mut file = create(&path);
    let (secrets, old) = create_pool_keys(&file, [9; 16], &mut os_random).unwrap();
    let error = file.destroy(&old[0].wrapped.root).unwrap_err();
    assert!(matches!(&error, KeyError::Unsupported { .. }) && error.remedy().contains("shred"), "{error}");
    assert!(matches!(
        file.revoke(&old[0].wrapped.root, Reason::Cessation),
        Err(KeyError::Unsupported { .. })
    ));
    file.add_root("second").unwrap();
    let new = wrap_pool_keys(&file, &secrets).unwrap();
    // What is open still shows what became of the file that it was.
    let was = std::fs::File::open(&path).unwrap();
    let held = std::fs::read(&path).unwrap();
    file.destroy(&old[0].wrapped.root).unwrap();
    let mut after = Vec::new();
    std::io::Read::read_to_end(&mut &was, &mut after).unwrap();
    assert!(after.len() == held.len() && after.iter().all(|b| *b == 0), "it is overwritten");
    for file in [&file, &SealedFile::open(&path, &pass("correct horse")).unwrap()] {
        assert_eq!(file.root_names(), [new[0].wrapped.root.clone()]);
        assert!(unlock(&[file], [9; 16], &new).unwrap().epochs().eq(secrets.epochs()));
        assert!(matches!(unlock(&[file], [9; 16], &old), Err(KeyError::NoSuchKey { .. })));
    }
    // A second name is a copy that somebody meant to have.
    file.add_root("third").unwrap();
    std::fs::hard_link(&path, dir.file("copy")).unwrap();
    let copy = std::fs::read(dir.file("copy")).unwrap();
    file.destroy(&new[0].wrapped.root).unwrap();
    assert_eq!(std::fs::read(dir.file("copy")).unwrap(), copy);
    assert!(matches!(file.destroy("none:00"), Err(KeyError::NoSuchKey { .. })));
}

#[test]
fn a_file_that_changed_underneath_is_not_overwritten() {
    let dir = Dir::new("changed");
    let path = dir.file("key");
    let (mut one, mut two) = (create(&path), SealedFile::open(&path, &pass("correct horse")).unwrap());
    one.add_root("ones").unwrap();
    let held = std::fs::read(&path).unwrap();
    assert_eq!(two.add_root("twos").unwrap_err(), KeyFileError::Changed { path: path.clone() });
    assert_eq!(std::fs::read(&path).unwrap(), held);
    assert_eq!(two.root_names().len(), 1, "what could not be stored is not used");
}

#[test]
fn the_root_key_that_wrapped_counts() {
    let dir = Dir::new("roots");
    let mut file = create(&dir.file("key"));
    let context = Context { purpose: Purpose::Domain, pool: [1; 16], domain: 1, epoch: 0 };
    let mut wrapped = file.wrap(&Secret::take(&mut [5; 32]), &context).unwrap();
    file.add_root("second").unwrap();
    wrapped.root = file.root_names()[1].clone();
    assert_eq!(file.unwrap(&wrapped, &context).unwrap_err(), KeyError::NotAuthentic);
    for len in [0, 257] {
        let error = file.wrap(&Secret::take(&mut vec![1; len]), &context).unwrap_err();
        assert!(matches!(error, KeyError::BadLength { .. }));
    }
    assert!(!format!("{file:?}").contains("horse"));
}

#[test]
fn nothing_secret_stands_in_the_file() {
    let dir = Dir::new("clear");
    let path = dir.file("key");
    let file = create(&path);
    let bytes = std::fs::read(&path).unwrap();
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
    assert!(!has(b"correct horse") && !has(b"first"));
    assert!(file.root_names()[0].starts_with("first:"));
}

/// The default costs as much as documented, and works.
#[test]
fn the_default_cost() {
    let dir = Dir::new("default");
    let path = dir.file("key");
    SealedFile::create(&path, &pass("correct horse"), "first", Argon2Cost::DEFAULT).unwrap();
    let header = SealedFile::examine(&path).unwrap();
    assert_eq!(header.cost, Argon2Cost { memory_kib: 65536, passes: 3, lanes: 4 });
    SealedFile::open(&path, &pass("correct horse")).unwrap();
}

/// A file that version 1 wrote once; it must open for ever.
#[test]
fn a_file_of_version_1_opens() {
    let bytes = include_bytes!("v1.caissonkey");
    let (_, roots, _) = format::decode(bytes, &pass("fixture passphrase")).unwrap();
    assert_eq!(roots[0].label, "fixture");
    assert_eq!(roots[0].key.expose(), [0x42; 32]);
    assert_eq!(roots[0].created, 1_790_000_000);
}

/// Writes the fixture that the test before reads, with fixed "random" bytes: they must be the same for ever.
#[test]
fn the_fixture_is_what_is_written_today() {
    let mut next = 0u8;
    let mut counting = |out: &mut [u8]| {
        out.iter_mut().for_each(|b| {
            next = next.wrapping_add(7);
            *b = next;
        });
        Ok(())
    };
    let opener = format::Opener::new(&pass("fixture passphrase"), CHEAP, &mut counting).unwrap();
    let root = format::Root {
        id: [0x11; 16],
        created: 1_790_000_000,
        label: "fixture".into(),
        key: Secret::take(&mut [0x42; 32]),
    };
    let bytes = format::encode([0x22; 16], &[root], &opener, &mut counting).unwrap();
    if let Some(path) = std::env::var_os("CAISSON_WRITE_FIXTURE") {
        std::fs::write(path, &bytes).unwrap();
    }
    assert_eq!(bytes, include_bytes!("v1.caissonkey"));
}
