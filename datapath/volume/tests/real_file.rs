//! Plain volumes on real files, through the ring of blocking threads: contents against an array, restarts, resizing
//! under I/O, and compare-and-write between real threads.

mod harness;

use caisson_block::{BlockError, BufList, Op};
use caisson_device::sim::Rng;
use caisson_volume::{ManageError, OpenError, Opened, Options, open};
use harness::{Thread, extent, follow};
use std::path::PathBuf;
use std::sync::Arc;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("caisson-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }

    fn open(&self, size: Option<&str>, block_size: u32) -> Result<Opened, OpenError> {
        let size = size.map(|s| s.parse().unwrap());
        let spec = self.0.join("disk").to_str().unwrap().parse().unwrap();
        open(&spec, &Options { block_size, size, ..Options::default() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn behaves_as_an_array_over_restarts() {
    for block in [512u32, 4096] {
        let dir = Scratch::new(&format!("array-{block}"));
        let size = 4 << 20;
        let mut model = vec![0u8; size];
        let mut rng = Rng::new(u64::from(block));
        for _ in 0..3 {
            let Opened { volume, manage } = dir.open(Some("4MiB"), block).unwrap();
            assert!(volume.geometry().volatile_cache);
            let mut t = Thread::new();
            follow(&mut t, &*volume, &mut model, &mut rng, 150);
            manage.close().unwrap();
            assert_eq!(t.alone(&*volume, Op::Read { at: extent(0, 1) }).err(), Some(BlockError::Gone));
        }
        assert!(std::fs::read(dir.0.join("disk")).unwrap() == model);
    }
}

#[test]
fn unreadable_blocks_stay_so_over_a_restart() {
    let dir = Scratch::new("marks");
    {
        let v = dir.open(Some("1MiB"), 512).unwrap();
        let mut t = Thread::new();
        t.alone(&*v.volume, Op::WriteUncorrectable { at: extent(9, 4) }).unwrap();
        let read = t.alone(&*v.volume, Op::Read { at: extent(0, 16) });
        assert_eq!(read.err(), Some(BlockError::Unreadable { lba: 9 }));
        // Dropped without being closed, as in a crash.
    }
    let path = dir.0.join("disk.unreadable");
    assert!(path.exists());
    {
        let v = dir.open(None, 512).unwrap();
        let mut t = Thread::new();
        let verify = t.alone(&*v.volume, Op::Verify { at: extent(12, 1) });
        assert_eq!(verify.err(), Some(BlockError::Unreadable { lba: 12 }));
        let data = BufList::zeroes(4 * 512);
        t.alone(&*v.volume, Op::Write { at: extent(9, 4), data, fua: false }).unwrap();
        t.alone(&*v.volume, Op::Read { at: extent(0, 16) }).unwrap();
        assert!(path.exists(), "not before the data is durable");
        t.alone(&*v.volume, Op::Flush).unwrap();
        assert!(!path.exists());
    }
    std::fs::write(&path, "rubbish").unwrap();
    let said = dir.open(None, 512).err().unwrap().to_string();
    assert!(said.contains("disk.unreadable is damaged") && said.contains("remove it"), "{said}");
}

#[test]
fn resizes_under_load() {
    let dir = Scratch::new("resize");
    let v = dir.open(Some("8MiB"), 4096).unwrap();
    let mut t = Thread::new();
    let blocks = 2048;
    std::thread::scope(|s| {
        let manage = &v.manage;
        s.spawn(move || {
            for i in 0..30 {
                manage.resize(if i % 2 == 0 { blocks / 2 } else { blocks }).unwrap();
            }
        });
        for i in 0..600u64 {
            let at = extent((i * 97) % (blocks - 32), 32);
            let op = match i % 3 {
                0 => Op::Read { at },
                1 => Op::Write { at, data: BufList::from(vec![i as u8; 32 * 4096]), fua: false },
                _ => Op::WriteZeroes { at, deallocate: true, fua: false },
            };
            match t.alone(&*v.volume, op) {
                Ok(_) => {}
                Err(e) => assert_eq!(e, BlockError::OutOfRange { lba: at.lba }),
            }
        }
    });
    assert_eq!(v.volume.fault(), None);
    assert_eq!(std::fs::metadata(dir.0.join("disk")).unwrap().len(), 8 << 20);
    assert!(matches!(v.manage.resize(0), Err(ManageError::Size { .. })));
    assert!(matches!(v.manage.resize(u64::MAX), Err(ManageError::Size { .. })));
}

#[test]
fn compare_and_write_counts_between_threads() {
    const THREADS: u64 = 3;
    const EACH: u64 = 60;
    for (spec, block) in [("file", 512), ("file", 4096), ("ram:1MiB", 512), ("ram:1MiB", 4096)] {
        let dir = Scratch::new(&format!("count-{}-{block}", &spec[..3]));
        let v = match spec {
            "file" => dir.open(Some("1MiB"), block).unwrap(),
            ram => open(&ram.parse().unwrap(), &Options { block_size: block, ..Options::default() }).unwrap(),
        };
        // Two blocks, over the bound of an aligned unit where the blocks are small.
        let at = extent(7, 2);
        let bytes = 2 * block as usize;
        std::thread::scope(|s| {
            for _ in 0..THREADS {
                let volume = Arc::clone(&v.volume);
                s.spawn(move || {
                    let mut t = Thread::new();
                    let mut counted = 0;
                    while counted < EACH {
                        let now = t.alone(&*volume, Op::Read { at }).unwrap().to_vec();
                        let value = u64::from_le_bytes(now[..8].try_into().unwrap());
                        assert!(now.chunks(8).all(|c| c == &now[..8]), "torn: {value}");
                        let data = BufList::from((value + 1).to_le_bytes().repeat(bytes / 8));
                        let swap = Op::CompareAndWrite { at, expect: now.into(), data, fua: false };
                        match t.alone(&*volume, swap) {
                            Ok(_) => counted += 1,
                            Err(e) => assert_eq!(e, BlockError::Miscompare { lba: 7 }),
                        }
                    }
                });
            }
        });
        let read = Thread::new().alone(&*v.volume, Op::Read { at }).unwrap().to_vec();
        assert_eq!(u64::from_le_bytes(read[..8].try_into().unwrap()), THREADS * EACH);
    }
}

#[test]
fn says_what_is_wrong_with_sizes_and_blocks() {
    let dir = Scratch::new("sizes");
    assert!(matches!(dir.open(Some("1MiB"), 1024), Err(OpenError::BlockSize(1024))));
    let said = dir.open(Some("1000000"), 4096).err().unwrap().to_string();
    assert!(said.contains("use 999424 or 1003520"), "{said}");
    assert!(!dir.0.join("disk").exists(), "nothing is made for a size that cannot be");
    let first = dir.open(Some("1MiB"), 4096).unwrap();
    let said = dir.open(None, 4096).err().unwrap().to_string();
    assert!(said.contains("in use by this process"), "{said}");
    drop(first);
    let op = Op::Read { at: extent(256, 1) };
    let read = Thread::new().alone(&*dir.open(None, 4096).unwrap().volume, op);
    assert_eq!(read.err(), Some(BlockError::OutOfRange { lba: 256 }));
}
