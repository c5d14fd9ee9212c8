//! Whole pools of format version 1, kept as they were written: every later version must open them and find what is in them.
//!
//! `tests/fixtures/pool-v1/closed.zst` was closed; `killed.zst` was not, so that its log is replayed. Both hold two volumes and a
//! snapshot, with zero, compressible, incompressible and duplicate blocks, a deallocated range and overwrites behind the snapshot.
//! `marked.zst` has a volume whose blocks have sectors that Write Uncorrectable marked, before a checkpoint and a snapshot and behind
//! them, and was not closed either; what was written before there were such blocks has none.
//! `CAISSON_WRITE_FIXTURES=FOLDER cargo test -p caisson-engine --test engine fixture` writes such pools anew into FOLDER; the kept ones
//! are only ever added to, one folder a version of the format.

use crate::common::{Folder, Thread, pools, secrets, store};
use caisson_block::{BlockError, Extent, Op, Volume};
use caisson_engine::{Cipher, Create, Level, Options, Pool, PoolId, Settings};
use std::path::{Path, PathBuf};

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 48 * SEGMENT as u64;
const BLOCKS: u64 = 96;

/// Content `n` of round `round`.
fn content(n: u64, round: u64) -> Vec<u8> {
    let mut x = (n / 2 + 1000 * round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    match n % 6 {
        0 | 1 => (0..4096).map(|_| noise()).collect(),
        2 => vec![0; 4096],
        3 => vec![(n % 3) as u8 + 1; 4096],
        _ => (0..4096).map(|i| if i % 32 == 0 { noise() } else { b'.' }).collect(),
    }
}

/// What volume and snapshot hold, block by block.
fn expected(snapshot: bool) -> Vec<Vec<u8>> {
    let mut blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|n| content(n, 0)).collect();
    if !snapshot {
        (20..60).for_each(|n| blocks[n as usize] = content(n, 1));
        (40..44).for_each(|n| blocks[n] = vec![0; 4096]);
    }
    blocks
}

fn seeded() -> Options {
    let mut x = 0x1234_5678_9abc_def1u64;
    let random = move |bytes: &mut [u8]| {
        bytes.iter_mut().for_each(|byte| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            *byte = x as u8;
        });
    };
    Options { random: Some(Box::new(random)), ..Options::default() }
}

/// Settings of a volume whose logical blocks have 512 bytes.
const PLAIN: Settings = Settings {
    block_size: 512,
    compression: None,
    dedup: false,
    write_cache: false,
    verify: false,
    domain: 1,
};

fn create(thread: &mut Thread, path: &Path) -> Pool {
    let stores = vec![store(path, SIZE)];
    let create = Create {
        id: PoolId(*b"pool fixture v1!"),
        cipher: Cipher::ChaCha20Poly1305,
        segment_size: Some(SEGMENT),
        slots: Vec::new(),
    };
    thread.wait(|port| async move { Pool::create(&port, stores, secrets(), create, seeded()).await }).unwrap()
}

fn open(thread: &mut Thread, path: &Path) -> Pool {
    pools::open(thread, vec![store(path, SIZE)], secrets()).unwrap()
}

fn make(path: &Path, close: bool) {
    let mut thread = Thread::default();
    let pool = create(&mut thread, path);
    for (name, settings) in
        [("v", Settings { compression: Level::new(3), ..Settings::default() }), ("w", PLAIN)]
    {
        let own = pool.clone();
        thread.wait(|port| async move { own.create_volume(&port, name, 1 << 20, settings).await }).unwrap();
    }
    let (v, w) = (pool.volume("v").unwrap(), pool.volume("w").unwrap());
    let write = |thread: &mut Thread, n: u64, round: u64| {
        let at = Extent { lba: n, blocks: 1 };
        thread.run(&v, Op::Write { at, data: content(n, round).into(), fua: false }).unwrap();
    };
    (0..BLOCKS).for_each(|n| write(&mut thread, n, 0));
    let own = pool.clone();
    thread.wait(|port| async move { own.snapshot(&port, "v", "s", true).await }).unwrap();
    (20..60).for_each(|n| write(&mut thread, n, 1));
    thread.run(&v, Op::Deallocate { ranges: vec![Extent { lba: 40, blocks: 4 }] }).unwrap();
    // A part of a block.
    thread
        .run(&w, Op::Write { at: Extent { lba: 9, blocks: 2 }, data: vec![7; 1024].into(), fua: true })
        .unwrap();
    thread.run(&v, Op::Flush).unwrap();
    drop((v, w));
    if close {
        let own = pool.clone();
        thread.wait(|port| async move { own.close(&port).await }).unwrap();
    }
    pool.abandon();
}

fn check(path: &Path) {
    let mut thread = Thread::default();
    let pool = open(&mut thread, path);
    for (name, snapshot) in [("v", false), ("s", true)] {
        let volume = pool.volume(name).unwrap();
        for (lba, want) in (0..).zip(expected(snapshot)) {
            let read = thread.run(&volume, Op::Read { at: Extent { lba, blocks: 1 } }).unwrap();
            assert!(read.to_vec() == want, "block {lba} of {name}");
        }
    }
    let w = pool.volume("w").unwrap();
    assert_eq!(w.geometry().block_size, 512);
    let read = thread.run(&w, Op::Read { at: Extent { lba: 8, blocks: 4 } }).unwrap().to_vec();
    assert!(read == [vec![0; 512], vec![7; 1024], vec![0; 512]].concat());
    drop(w);
    pool.abandon();
}

/// Marks of volume and snapshot in `marked.zst`, as first LBA and how many; everything else is what is written to it, byte by byte.
fn marks(snapshot: bool) -> &'static [(u64, u64)] {
    if snapshot { &[(1, 2), (13, 14), (70, 1)] } else { &[(1, 1), (13, 14), (49, 6), (70, 1)] }
}

fn sectors() -> Vec<Vec<u8>> {
    (0..8).flat_map(|n| content(n, 3)).collect::<Vec<u8>>().chunks(512).map(<[u8]>::to_vec).collect()
}

fn make_marked(path: &Path) {
    let mut thread = Thread::default();
    let pool = create(&mut thread, path);
    let own = pool.clone();
    let settings = Settings { block_size: 512, ..Settings::default() };
    thread.wait(|port| async move { own.create_volume(&port, "v", 1 << 20, settings).await }).unwrap();
    let v = pool.volume("v").unwrap();
    let all = sectors().concat();
    thread.run(&v, Op::Write { at: Extent { lba: 0, blocks: 64 }, data: all.into(), fua: false }).unwrap();
    let mark = |thread: &mut Thread, (lba, blocks): (u64, u64)| {
        thread.run(&v, Op::WriteUncorrectable { at: Extent { lba, blocks } }).unwrap();
    };
    marks(true).iter().for_each(|at| mark(&mut thread, *at));
    let own = pool.clone();
    thread.wait(|port| async move { own.snapshot(&port, "v", "s", true).await }).unwrap();
    pools::checkpoint(&mut thread, &pool);
    mark(&mut thread, (49, 6));
    let healed = sectors()[2].clone();
    thread.run(&v, Op::Write { at: Extent { lba: 2, blocks: 1 }, data: healed.into(), fua: true }).unwrap();
    pool.abandon();
}

fn check_marked(path: &Path) {
    let mut thread = Thread::default();
    let pool = open(&mut thread, path);
    let sectors = sectors();
    for (name, snapshot) in [("v", false), ("s", true)] {
        let volume = pool.volume(name).unwrap();
        for lba in 0..80 {
            let is_marked = marks(snapshot).iter().any(|(from, n)| (*from..from + n).contains(&lba));
            let written = sectors.get(lba as usize).cloned().unwrap_or(vec![0; 512]);
            let want = if is_marked { Err(BlockError::Unreadable { lba }) } else { Ok(written) };
            let read = thread.run(&volume, Op::Read { at: Extent { lba, blocks: 1 } });
            assert!(read.map(|list| list.to_vec()) == want, "block {lba} of {name}");
        }
    }
    pools::sound(&mut thread, &pool);
    pool.abandon();
}

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pool-v1").join(name)
}

/// Writes a pool anew, as it would be kept.
fn keep(path: &Path, out: &Path, name: &str) {
    let image = std::fs::read(path).unwrap();
    let mut packed = vec![0; zstd_safe::compress_bound(image.len())];
    let len = zstd_safe::compress(&mut packed[..], &image, 19).unwrap();
    packed.truncate(len);
    std::fs::write(out.join(format!("{name}.zst")), packed).unwrap();
}

#[test]
fn pools_of_version_1_are_opened() {
    let folder = Folder::new("fixture");
    if let Some(out) = std::env::var_os("CAISSON_WRITE_FIXTURES") {
        for (name, close) in [("closed", true), ("killed", false)] {
            let path = folder.file(name);
            make(&path, close);
            keep(&path, Path::new(&out), name);
            check(&path);
        }
        let path = folder.file("marked");
        make_marked(&path);
        keep(&path, Path::new(&out), "marked");
        check_marked(&path);
    }
    for (name, check) in [("closed", check as fn(&Path)), ("killed", check), ("marked", check_marked)] {
        let packed = std::fs::read(kept(&format!("{name}.zst"))).unwrap();
        let mut image = vec![0; SIZE as usize];
        assert_eq!(zstd_safe::decompress(&mut image[..], &packed), Ok(SIZE as usize));
        let path = folder.file(&format!("kept-{name}"));
        std::fs::write(&path, image).unwrap();
        check(&path);
    }
}
