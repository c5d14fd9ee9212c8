//! Damage that is planted in a pool's file: what reading, scrubbing and checking say of it. Never wrong data.

use crate::common::pools::{close, tend};
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{BlockError, Extent, Op};
use caisson_device::sim::Rng;
use caisson_engine::{
    Checking, Cipher, Create, OpenError, Options, Part, Pool, PoolId, Problem, Report, ScrubStatus, Settings,
};
use caisson_log::BatchKind;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 192 * SEGMENT as u64;
/// Of each volume: high enough for pages above the leaves.
const BLOCKS: u64 = 1500;
const TRIALS: u64 = 64;
/// The volumes: the last is a snapshot of the first.
const NAMES: [&str; 3] = ["v", "w", "s"];

fn options() -> Options {
    Options::default()
}

fn create(thread: &mut Thread, path: &Path) -> Pool {
    let (id, stores) = (PoolId([7; 16]), vec![store(path, SIZE)]);
    let create = Create { id, cipher: Cipher::auto(), segment_size: Some(SEGMENT), slots: Vec::new() };
    let pool = thread
        .wait(|port| async move { Pool::create(&port, stores, secrets(), create, options()).await })
        .unwrap();
    tend(thread, &pool);
    pool
}

fn open(thread: &mut Thread, path: &Path) -> Result<Pool, OpenError> {
    let stores = vec![store(path, SIZE)];
    let pool = thread.wait(|port| async move { Pool::open(&port, stores, secrets(), options()).await })?;
    tend(thread, &pool);
    Ok(pool)
}

/// Opens the pool only to check it.
fn check(thread: &mut Thread, path: &Path) -> Result<Report, OpenError> {
    let stores = vec![store(path, SIZE)];
    let opened =
        thread.wait(|port| async move { Pool::open_to_read(&port, stores, secrets(), options()).await });
    let pool = opened?;
    let mut stages = BTreeSet::new();
    let report = thread.wait(|port| async move {
        let report = pool
            .check(&port, |Checking { stage, .. }| {
                stages.insert(stage);
            })
            .await;
        assert!(stages.len() > 2, "{stages:?}");
        report
    });
    Ok(report)
}

fn scrub(thread: &mut Thread, pool: &Pool) -> ScrubStatus {
    pool.scrub_start(0);
    // The last one's status stands until this one begins.
    while thread.turn() && !pool.status().scrub.is_some_and(|s| s.running) {}
    while thread.turn() && pool.status().scrub.is_some_and(|s| s.running) {}
    let status = pool.status().scrub.unwrap();
    assert!(status.completed && !status.running && status.percent == 100);
    status
}

/// What stands at a block: some of it twice, some in both volumes, some nowhere.
fn content(volume: u64, n: u64) -> Option<Vec<u8>> {
    let salt = if n.is_multiple_of(3) { 0 } else { volume };
    let mut rng = Rng::new((salt << 32) | (n % 1000));
    match n % 7 {
        6 => None,
        5 => Some(
            (0..512).flat_map(|i| (if i % 4 == 0 { rng.below(1 << 40) } else { 9 }).to_le_bytes()).collect(),
        ),
        _ => Some((0..512).flat_map(|_| ((rng.below(u64::MAX) << 8) | n).to_le_bytes()).collect()),
    }
}

/// A pool with two volumes that share blocks, and a snapshot of the first.
fn fill(thread: &mut Thread, pool: &Pool) {
    for (i, name) in NAMES[..2].iter().enumerate() {
        let own = pool.clone();
        let bytes = BLOCKS * 4096;
        thread
            .wait(|port| async move { own.create_volume(&port, name, bytes, Settings::default()).await })
            .unwrap();
        let volume = pool.volume(name).unwrap();
        for n in 0..BLOCKS / 3 {
            // Two places, for both halves of the map.
            for n in [n, n + 1000] {
                if let Some(data) = content(i as u64, n) {
                    let at = Extent { lba: n, blocks: 1 };
                    thread
                        .run(&volume, Op::Write { at, data: data.into(), fua: n.is_multiple_of(50) })
                        .unwrap();
                }
            }
        }
    }
    let own = pool.clone();
    thread.wait(|port| async move { own.snapshot(&port, "v", "s", true).await }).unwrap();
}

fn base(path: &Path) {
    let mut thread = Thread::default();
    let pool = create(&mut thread, path);
    fill(&mut thread, &pool);
    close(&mut thread, pool);
}

/// Reads everything. Gives the blocks that are lost; those that are not are right.
fn read(thread: &mut Thread, pool: &Pool, what: &str) -> BTreeSet<(String, u64)> {
    let mut lost = BTreeSet::new();
    for (i, name) in NAMES.into_iter().enumerate() {
        let volume = pool.volume(name).unwrap();
        for n in 0..BLOCKS {
            let at = Extent { lba: n, blocks: 1 };
            match thread.run(&volume, Op::Read { at }) {
                Ok(data) => {
                    let written = n < BLOCKS / 3 || (1000..1000 + BLOCKS / 3).contains(&n);
                    let right = content(i as u64 % 2, n).filter(|_| written).unwrap_or_else(|| vec![0; 4096]);
                    assert!(data.to_vec() == right, "{what}: wrong data at block {n} of {name}");
                }
                Err(BlockError::Unreadable { lba }) => {
                    assert_eq!(lba, n, "{what}: {name}");
                    lost.insert((name.to_owned(), n));
                }
                Err(e) => panic!("{what}: block {n} of {name}: {e}"),
            }
        }
    }
    lost
}

fn expand(hurt: &[caisson_engine::Hurt]) -> BTreeSet<(String, u64)> {
    hurt.iter().flat_map(|h| (h.lba..h.lba + h.blocks).map(|n| (h.name.clone(), n))).collect()
}

/// Batches that stand in the file, the newest of checkpoints first: where they begin, bytes of header, and all bytes.
fn batches(path: &Path) -> Vec<(u64, u64, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let prefix = |at: &usize| caisson_log::decode_prefix(&bytes[*at..]).ok().map(|p| (*at, p));
    let mut found: Vec<_> = (1 << 20..bytes.len()).step_by(4096).filter_map(|at| prefix(&at)).collect();
    found.sort_by_key(|(_, p)| Reverse((p.kind == BatchKind::Checkpoint, p.at.sequence, p.at.offset)));
    found.iter().map(|(at, p)| (*at as u64, p.header.into(), p.total.into())).collect()
}

#[test]
fn whatever_is_damaged_is_told_and_nothing_is_wrong() {
    let folder = Folder::new("damage");
    let (first, path) = (folder.file("base"), folder.file("pool"));
    base(&first);
    let batches = batches(&first);
    let mut thread = Thread::default();
    let sound = check(&mut thread, &first).unwrap();
    assert!(sound.is_sound(), "{sound}");
    let mut met: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..TRIALS {
        let mut rng = Rng::new(seed);
        std::fs::copy(&first, &path).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        // Pages that are live were written by the last checkpoint or the one before, near its end.
        let among = if seed % 4 < 3 { 8 } else { batches.len() as u64 };
        let (at, header, total) = batches[rng.below(among) as usize];
        let mut what = format!("seed {seed}, batch at {at}");
        let (byte, len) = match rng.below(8) {
            0 => (at + rng.below(64), 1),
            1 => (at + rng.below(header), 1),
            2 => (at, total),
            _ => (at + header + rng.below(total - header), 1),
        };
        let mut old = vec![0; len as usize];
        file.read_exact_at(&mut old, byte).unwrap();
        if len == 1 {
            old[0] ^= 1 << rng.below(8);
            file.write_all_at(&old, byte).unwrap();
            what += &format!(": a bit of byte {byte}");
        } else {
            // A misdirected write: another batch stands there.
            let other = batches[rng.below(batches.len() as u64) as usize];
            let mut bytes = vec![0; other.2.min(total) as usize];
            file.read_exact_at(&mut bytes, other.0).unwrap();
            file.write_all_at(&bytes, byte).unwrap();
            what += &format!(": {} bytes of {}", bytes.len(), other.0);
        }
        drop(file);
        let report = match check(&mut thread, &path) {
            Ok(report) => report,
            Err(OpenError::Root { .. } | OpenError::Tables(_)) => {
                *met.entry("root").or_default() += 1;
                assert!(open(&mut thread, &path).is_err(), "{what}");
                continue;
            }
            Err(e) => panic!("{what}: {e}"),
        };
        let hurt = report.problems.iter().filter_map(|p| match p {
            Problem::Hurt(hurt) => Some(hurt.clone()),
            _ => None,
        });
        let hurt = expand(&hurt.collect::<Vec<_>>());
        let pool = open(&mut thread, &path).unwrap_or_else(|e| panic!("{what}: {e}"));
        let scrubbed = scrub(&mut thread, &pool);
        let lost = read(&mut thread, &pool, &what);
        assert_eq!(lost, hurt, "{what}: {report}");
        assert_eq!(lost, expand(&scrubbed.hurt), "{what}: {scrubbed:?}");
        assert_eq!(scrubbed.hurt_blocks, lost.len() as u64, "{what}");
        assert_eq!(report.hurt_blocks, lost.len() as u64, "{what}");
        assert!(lost.is_empty() || pool.status().damaged > 0, "{what}");
        assert!(pool.fault().is_none(), "{what}");
        for problem in &report.problems {
            *met.entry(match problem {
                Problem::Record(bad) => match bad.what {
                    Part::Block => "block",
                    Part::MapPage => "map page",
                    Part::BlocksPage => "page of the block table",
                },
                Problem::Gap(_) => "gap",
                Problem::Hurt(_) => "hurt",
                Problem::Page(_) => "lost page",
                Problem::Front(_) => "front",
                Problem::Count(_) | Problem::Device(_) => panic!("{what}: {problem}"),
                Problem::Uncounted => "uncounted",
            })
            .or_default() += 1;
        }
        *met.entry(if report.is_sound() { "sound" } else { "unsound" }).or_default() += 1;
        pool.abandon();
        drop(pool);
    }
    println!("{met:?}");
    for kind in ["root", "block", "map page", "page of the block table", "gap", "hurt", "lost page", "sound"]
    {
        assert!(met.contains_key(kind), "{kind} was never met: {met:?}");
    }
}

/// Flips a bit.
fn flip(path: &Path, byte: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut old = [0];
    file.read_exact_at(&mut old, byte).unwrap();
    file.write_all_at(&[old[0] ^ 4], byte).unwrap();
}

#[test]
fn a_superblock_may_be_lost_and_not_both() {
    let folder = Folder::new("superblocks");
    let (first, path) = (folder.file("base"), folder.file("pool"));
    base(&first);
    let mut thread = Thread::default();
    for (name, at) in [("first", 0), ("second", 512 << 10)] {
        // In the plain part, the checksum, the key slots and the anchor.
        for byte in [40, 230, 2000, 15_900] {
            let what = format!("byte {byte} of the {name}");
            std::fs::copy(&first, &path).unwrap();
            flip(&path, at + byte);
            let report = check(&mut thread, &path).unwrap();
            let [Problem::Front(words)] = &report.problems[..] else { panic!("{what}: {report}") };
            assert!(words.contains(name), "{words}");
            let pool = open(&mut thread, &path).unwrap();
            assert!(read(&mut thread, &pool, &what).is_empty());
            // Opening has written it anew.
            assert_eq!(scrub(&mut thread, &pool).warnings, Vec::<String>::new());
            flip(&path, at + byte);
            assert_eq!(scrub(&mut thread, &pool).warnings.len(), 1);
            let own = pool.clone();
            thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
            assert_eq!(scrub(&mut thread, &pool).warnings, Vec::<String>::new());
            close(&mut thread, pool);
        }
    }
    std::fs::copy(&first, &path).unwrap();
    flip(&path, 300);
    flip(&path, (512 << 10) + 300);
    assert!(matches!(check(&mut thread, &path), Err(OpenError::NoSuperblock { .. })));
    assert!(matches!(open(&mut thread, &path), Err(OpenError::NoSuperblock { .. })));
}

/// The loss of the newest superblock leaves one that names the same root: nothing older is ever gone back to, which would
/// not know of all segments that the log went on in.
#[test]
fn the_other_superblock_leads_to_all_that_was_written() {
    let folder = Folder::new("newest");
    let path = folder.file("pool");
    let mut thread = Thread::default();
    let pool = create(&mut thread, &path);
    let own = pool.clone();
    let settings = Settings { dedup: false, compression: None, ..Settings::default() };
    thread.wait(|port| async move { own.create_volume(&port, "x", 4 << 20, settings).await }).unwrap();
    let volume = pool.volume("x").unwrap();
    let block = |n: u64, version: u64| ((n << 8) | version).to_le_bytes().repeat(512);
    for version in 1..5 {
        let last = version == 4;
        for n in 0..if last { 250 } else { 330 } {
            let at = Extent { lba: n, blocks: 1 };
            let data = block(n, version).into();
            thread.run(&volume, Op::Write { at, data, fua: false }).unwrap();
        }
        if !last {
            let own = pool.clone();
            thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
        }
    }
    thread.run(&volume, Op::Flush).unwrap();
    while thread.turn() {}
    pool.abandon();
    drop((volume, pool));
    std::fs::copy(&path, folder.file("copy")).unwrap();
    for at in [0, 512 << 10] {
        std::fs::copy(folder.file("copy"), &path).unwrap();
        flip(&path, at + 300);
        let pool = open(&mut thread, &path).unwrap_or_else(|e| panic!("without the copy at {at}: {e}"));
        let volume = pool.volume("x").unwrap();
        for n in 0..330 {
            let read = thread.run(&volume, Op::Read { at: Extent { lba: n, blocks: 1 } }).unwrap();
            let version = if n < 250 { 4 } else { 3 };
            assert!(read.to_vec() == block(n, version), "without the copy at {at}: block {n}");
        }
        pool.abandon();
    }
}

#[test]
fn pages_that_are_whole_in_memory_are_written_anew() {
    let folder = Folder::new("mended");
    let path = folder.file("pool");
    base(&path);
    let mut thread = Thread::default();
    let pool = open(&mut thread, &path).unwrap();
    assert!(read(&mut thread, &pool, "before").is_empty());
    let bytes = std::fs::read(&path).unwrap();
    for (at, header, total) in batches(&path) {
        let prefix = caisson_log::decode_prefix(&bytes[at as usize..]).unwrap();
        if prefix.kind == BatchKind::Checkpoint && total > header {
            (at + header..at + total).step_by(64).for_each(|byte| flip(&path, byte));
        }
    }
    let status = scrub(&mut thread, &pool);
    assert!(status.mended > 4 && status.bad.is_empty() && status.hurt.is_empty(), "{status:?}");
    close(&mut thread, pool);
    let report = check(&mut thread, &path).unwrap();
    assert!(report.is_sound(), "{report}");
    let pool = open(&mut thread, &path).unwrap();
    assert!(read(&mut thread, &pool, "after").is_empty());
    close(&mut thread, pool);
}
