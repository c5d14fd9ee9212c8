//! The file store on real files: opening, locking, O_DIRECT and its absence, holes, resizing.

use caisson_block::{BufList, IoKind};
use caisson_device::{Alignment, Buffers, FileError, FileKind, FileStore, Size, StoreError};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A process that a test starts has all open files of this one from its fork until it executes the program, and with them their locks: what
/// another test has closed meanwhile would still be in use. So one test at a time has a folder.
static ALONE: Mutex<()> = Mutex::new(());

struct Scratch(PathBuf, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch::within(Path::new(env!("CARGO_TARGET_TMPDIR")), name)
    }
    fn within(folder: &Path, name: &str) -> Scratch {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = folder.join(format!("caisson-file-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Scratch(folder, alone)
    }
    fn file(&self) -> PathBuf {
        self.0.join("store")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn size(bytes: u64) -> Option<Size> {
    Size::new(bytes)
}

fn aligned(len: usize, byte: u8) -> BufList {
    let mut list = BufList::new();
    let [mut taken] = Buffers::shared().unwrap().take([len]).unwrap();
    for part in taken.drain() {
        let mut part = part.try_into_mut().unwrap();
        part.fill(byte);
        list.push(part.freeze());
    }
    list
}

#[test]
fn makes_reads_writes_punches_and_resizes() {
    let dir = Scratch::new("whole");
    let path = dir.file();
    assert!(matches!(FileStore::open(&path, None), Err(FileError::Missing { .. })));
    let s = FileStore::open(&path, size(64 << 20)).unwrap();
    assert_eq!((s.size(), s.kind()), (64 << 20, FileKind::Regular));
    assert!(s.allocated().unwrap() < 1 << 20, "sparse");
    assert!(s.alignment().offset.is_power_of_two());
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

    s.run_blocking(IoKind::Write { dsync: true }, 1 << 20, aligned(2 << 20, 7)).unwrap();
    let allocated = s.allocated().unwrap();
    assert!(allocated >= 2 << 20);
    let back = s.run_blocking(IoKind::Read, (1 << 20) - 4096, aligned(8192, 1)).unwrap();
    assert_eq!(back.to_vec(), [vec![0; 4096], vec![7; 4096]].concat());
    if s.punches() {
        s.run_blocking(IoKind::PunchHole { len: 1 << 20 }, 1 << 20, BufList::new()).unwrap();
        assert!(s.allocated().unwrap() <= allocated - (1 << 20) + 65536);
        let back = s.run_blocking(IoKind::Read, (2 << 20) - 4096, aligned(8192, 1)).unwrap();
        assert_eq!(back.to_vec(), [vec![0; 4096], vec![7; 4096]].concat());
    }
    match s.run_blocking(IoKind::ZeroRange { len: 4096 }, 2 << 20, BufList::new()) {
        Ok(_) => {
            let back = s.run_blocking(IoKind::Read, 2 << 20, aligned(4096, 1)).unwrap();
            assert_eq!(back.to_vec(), [0; 4096]);
        }
        Err(e) => assert!(e == StoreError::Unsupported && !s.zeroes()),
    }
    s.sync_blocking().unwrap();

    s.resize_blocking(Size::new(128 << 20).unwrap()).unwrap();
    assert_eq!(s.run_blocking(IoKind::Read, 127 << 20, aligned(4096, 1)).unwrap().to_vec(), [0; 4096]);
    s.resize_blocking(Size::new(1 << 20).unwrap()).unwrap();
    let beyond = s.run_blocking(IoKind::Read, 2 << 20, aligned(4096, 1));
    assert_eq!(beyond.err(), Some(StoreError::OutOfRange));
    assert_eq!(s.fault(), None);
    drop(s);
    // It keeps its size, whatever is asked for.
    assert_eq!(FileStore::open(&path, size(7 << 20)).unwrap().size(), 1 << 20);
}

#[test]
fn a_file_cut_off_from_outside_latches() {
    let dir = Scratch::new("cut");
    let s = FileStore::open(&dir.file(), size(1 << 20)).unwrap();
    std::fs::OpenOptions::new().write(true).open(dir.file()).unwrap().set_len(4096).unwrap();
    assert_eq!(s.run_blocking(IoKind::Read, 0, aligned(4096, 1)).unwrap().to_vec(), [0; 4096]);
    let short = s.run_blocking(IoKind::Read, 0, aligned(8192, 1));
    assert_eq!(short.err(), Some(StoreError::Device));
    assert!(s.fault().unwrap().contains("shorter than it was"), "{:?}", s.fault());
    assert_eq!(s.run_blocking(IoKind::Read, 0, aligned(4096, 1)).err(), Some(StoreError::Latched));
    assert!(s.sync_blocking().unwrap_err().to_string().contains("shorter"));
}

#[test]
fn without_o_direct_it_says_so_and_works() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        eprintln!("skipped: no /dev/shm here");
        return;
    }
    let dir = Scratch::within(shm, "tmpfs");
    let s = FileStore::open(&dir.file(), size(1 << 20)).unwrap();
    // Newer kernels take O_DIRECT on tmpfs; what is reported is then used.
    if s.alignment() == (Alignment { memory: 1, offset: 1 }) {
        s.run_blocking(IoKind::Write { dsync: false }, 3, vec![9; 5].into()).unwrap();
        let back = s.run_blocking(IoKind::Read, 2, vec![1; 7].into()).unwrap();
        assert_eq!(back.to_vec(), [0, 9, 9, 9, 9, 9, 0]);
    }
    s.run_blocking(IoKind::Write { dsync: true }, 4096, aligned(4096, 3)).unwrap();
    assert_eq!(s.run_blocking(IoKind::Read, 4096, aligned(4096, 0)).unwrap().to_vec(), [3; 4096]);
}

#[test]
fn refuses_what_is_no_store() {
    let dir = Scratch::new("odd");
    assert!(matches!(FileStore::open(&dir.0, None), Err(FileError::NotAStore { what: "a directory", .. })));
    let null = FileStore::open(Path::new("/dev/null"), size(4096));
    assert!(matches!(null, Err(FileError::NotAStore { what: "a character device", .. })));
    std::fs::write(dir.file(), b"").unwrap();
    assert!(matches!(FileStore::open(&dir.file(), None), Err(FileError::Empty { .. })));
    assert_eq!(FileStore::open(&dir.file(), size(8192)).unwrap().size(), 8192);
    let lost = FileStore::open(&dir.0.join("no/such/folder"), size(8192)).err().unwrap().to_string();
    assert!(lost.contains("make its folder first"), "{lost}");
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = Scratch::new("lock");
    let first = FileStore::open(&dir.file(), size(1 << 20)).unwrap();
    let error = FileStore::open(&dir.file(), None).err().unwrap();
    assert!(matches!(error, FileError::InUse { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains(&format!("this process (pid {})", std::process::id())), "{said}");
    drop(first);
    FileStore::open(&dir.file(), None).unwrap();

    // Another process: this test program again, as the holder.
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder_process", "--nocapture"])
        .env("CAISSON_TEST_HOLD", dir.file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|l| l.as_ref().is_ok_and(|l| l.contains("holding"))).unwrap().unwrap();
    let said = FileStore::open(&dir.file(), None).err().unwrap().to_string();
    assert!(said.contains(&format!("process {}", child.id())) && said.contains("Stop it"), "{said}");
    // However it ends, the lock goes with it.
    child.kill().unwrap();
    child.wait().unwrap();
    FileStore::open(&dir.file(), None).unwrap();
}

/// Not a test of its own: the other process of the test above.
#[test]
fn holder_process() {
    let Some(path) = std::env::var_os("CAISSON_TEST_HOLD") else { return };
    let _held = FileStore::open(Path::new(&path), None).unwrap();
    println!("\nholding");
    std::io::stdout().flush().unwrap();
    // Until it is killed, or whoever started it is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
}
