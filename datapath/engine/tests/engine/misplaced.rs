//! Blocks that are whole and in the wrong place, or were right once: swapped, misdirected and stale records, batches and
//! segments of a pool's file. What is read is right or refused, and whoever looks is told which.

use crate::common::pools::{self, close, noise, tend};
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{BlockError, Extent, Op};
use caisson_engine::{Cipher, Create, OpenError, Options, Pool, PoolId, Problem, Settings};
use caisson_log::{BatchKind, Prefix, TAG, decode_prefix};
use std::collections::BTreeSet;
use std::path::Path;

const SEGMENT: usize = 64 << 10;
const FRONT: usize = 1 << 20;
const SIZE: u64 = (FRONT + 96 * SEGMENT) as u64;
/// Blocks of 4 KiB of the volume, whose logical blocks have 512 bytes.
const BLOCKS: u64 = 64;
const PER: u64 = 8;
/// A record of a block that does not compress.
const RECORD: usize = 4096 + TAG;

/// What stands at a block in its `version`th life. It does not compress.
fn content(n: u64, version: u64) -> Vec<u8> {
    noise(1 + n * 256 + version)
}

/// Nothing of a pool that nobody tends is moved, unless it is asked for.
fn open(thread: &mut Thread, path: &Path) -> Result<Pool, OpenError> {
    let stores = vec![store(path, SIZE)];
    pools::open(thread, stores, secrets())
}

/// Writes all blocks anew: half of them by commands of one block, half by commands of two, each a batch.
fn write(thread: &mut Thread, pool: &Pool, version: u64) {
    let volume = pool.volume("v").unwrap();
    let mut put = |n: u64, blocks: u64| {
        let data: Vec<u8> = (n..n + blocks).flat_map(|n| content(n, version)).collect();
        let at = Extent { lba: n * PER, blocks: blocks * PER };
        thread.run(&volume, Op::Write { at, data: data.into(), fua: true }).unwrap();
        while thread.turn() {}
    };
    (0..BLOCKS / 2).for_each(|n| put(n, 1));
    (BLOCKS / 2..BLOCKS).step_by(2).for_each(|n| put(n, 2));
}

/// A pool that was written so often, closed; in `older` as it was before the last time.
fn make(path: &Path, older: &Path, versions: u64) {
    let mut thread = Thread::default();
    let stores = vec![store(path, SIZE)];
    let pool = thread.wait(|port| async move {
        let (id, cipher) = (PoolId([7; 16]), Cipher::auto());
        let create = Create { id, cipher, segment_size: Some(SEGMENT as u32), slots: Vec::new() };
        let pool = Pool::create(&port, stores, secrets(), create, Options::default()).await.unwrap();
        let settings = Settings { block_size: 512, ..Settings::default() };
        pool.create_volume(&port, "v", BLOCKS << 12, settings).await.unwrap();
        pool
    });
    for version in 0..versions {
        if version + 1 == versions {
            std::fs::copy(path, older).unwrap();
        }
        write(&mut thread, &pool, version);
        let own = pool.clone();
        thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
    }
    close(&mut thread, pool);
}

/// The batches in a file that stand where they say, by place.
fn batches(bytes: &[u8]) -> Vec<(usize, Prefix)> {
    let there = |at: usize| {
        let p = decode_prefix(&bytes[at..]).ok()?;
        (FRONT + p.segment as usize * SEGMENT + p.at.offset as usize == at).then_some((at, p))
    };
    (FRONT..bytes.len()).step_by(4096).filter_map(there).collect()
}

/// Of the log's batches, those of the last time that everything was written that carry so many blocks. Some of what they carry may
/// have been moved since.
fn last(bytes: &[u8], blocks: usize) -> Vec<(usize, Prefix)> {
    let carries = |p: &Prefix| p.total as usize - p.header as usize;
    let fits = |p: &Prefix| (blocks * RECORD..blocks * RECORD + 4096).contains(&carries(p));
    let mut all = batches(bytes);
    all.retain(|(_, p)| p.kind == BatchKind::Log && fits(p));
    all.sort_by_key(|(_, p)| std::cmp::Reverse(p.batch));
    let want = BLOCKS as usize / 2 / blocks;
    all.truncate(want);
    all
}

fn swap(bytes: &mut [u8], a: usize, b: usize, len: usize) {
    let one = bytes[a..a + len].to_vec();
    bytes.copy_within(b..b + len, a);
    bytes[b..b + len].copy_from_slice(&one);
}

/// Reads everything, one logical block at a time. Gives the blocks of 4 KiB that are lost; all others are of the last version.
fn read(thread: &mut Thread, pool: &Pool, version: u64, what: &str) -> BTreeSet<u64> {
    let volume = pool.volume("v").unwrap();
    let mut lost = BTreeSet::new();
    for lba in 0..BLOCKS * PER {
        let from = (lba % PER * 512) as usize;
        match thread.run(&volume, Op::Read { at: Extent { lba, blocks: 1 } }) {
            Ok(data) => {
                let right = &content(lba / PER, version)[from..from + 512];
                assert!(data.to_vec() == right, "{what}: wrong data at LBA {lba}");
                assert!(!lost.contains(&(lba / PER)), "{what}: LBA {lba}");
            }
            Err(BlockError::Unreadable { lba: told }) => {
                assert!(told == lba, "{what}: LBA {lba} is told as {told}");
                lost.insert(lba / PER);
            }
            Err(e) => panic!("{what}: LBA {lba}: {e}"),
        }
    }
    lost
}

/// Opens a damaged pool, and compares what is lost with what status, scrub and check say. Gives the blocks.
fn judge(path: &Path, version: u64, what: &str) -> BTreeSet<u64> {
    let mut thread = Thread::default();
    let pool = open(&mut thread, path).unwrap_or_else(|e| panic!("{what}: {e}"));
    tend(&mut thread, &pool);
    while thread.turn() {}
    let lost = read(&mut thread, &pool, version, what);
    let status = pool.status();
    assert!(status.fault.is_none() && status.damaged >= lost.len() as u64, "{what}: {status:?}");
    let told: BTreeSet<u64> = status.damage.iter().filter_map(|d| d.block.map(|(_, block)| block)).collect();
    assert_eq!(told, lost, "{what}: the status");
    pool.scrub_start(0);
    while thread.turn() {}
    let scrub = pool.status().scrub.unwrap();
    let hurt = |lba: u64, blocks: u64| lba / PER..(lba + blocks) / PER;
    let scrubbed: BTreeSet<u64> = scrub.hurt.iter().flat_map(|h| hurt(h.lba, h.blocks)).collect();
    assert!(scrub.hurt.iter().all(|h| h.name == "v" && h.lba % PER == 0), "{what}: {scrub:?}");
    assert_eq!((scrubbed, scrub.hurt_blocks), (lost.clone(), lost.len() as u64), "{what}: {scrub:?}");
    close(&mut thread, pool);
    let stores = vec![store(path, SIZE)];
    let pool = thread.wait(|port| async move {
        Pool::open_to_read(&port, stores, secrets(), Options::default()).await.unwrap()
    });
    let report = thread.wait(|port| async move { pool.check(&port, |_| {}).await });
    let checked = report.problems.iter().filter_map(|p| match p {
        Problem::Hurt(h) => Some(hurt(h.lba, h.blocks)),
        _ => None,
    });
    assert_eq!(checked.flatten().collect::<BTreeSet<u64>>(), lost, "{what}: {report}");
    lost
}

#[test]
fn what_stands_in_anothers_place_is_lost_and_never_read() {
    let folder = Folder::new("misplaced");
    let (base, older, path) = (folder.file("base"), folder.file("older"), folder.file("pool"));
    make(&base, &older, 1);
    let whole = std::fs::read(&base).unwrap();
    let (one, two) = (last(&whole, 1), last(&whole, 2));
    assert!(one.len() == 32 && two.len() == 16, "{} {}", one.len(), two.len());
    let total = |of: &(usize, Prefix)| of.1.total as usize;
    let record = |of: &(usize, Prefix), n: usize| of.0 + of.1.header as usize + n * RECORD;
    assert!(judge_with(&path, &whole, "nothing").is_empty());
    for (a, b) in [(0, 1), (3, 17), (31, 8)] {
        let mut bytes = whole.clone();
        swap(&mut bytes, record(&one[a], 0), record(&one[b], 0), RECORD);
        assert_eq!(judge_with(&path, &bytes, &format!("records of batches {a} and {b} swapped")).len(), 2);
        let mut bytes = whole.clone();
        swap(&mut bytes, one[a].0, one[b].0, total(&one[a]));
        assert_eq!(judge_with(&path, &bytes, &format!("batches {a} and {b} swapped")).len(), 2);
        let mut bytes = whole.clone();
        bytes.copy_within(one[a].0..one[a].0 + total(&one[a]), one[b].0);
        assert_eq!(judge_with(&path, &bytes, &format!("batch {a} written over batch {b}")).len(), 1);
        let mut bytes = whole.clone();
        bytes.copy_within(record(&one[a], 0)..record(&one[a], 1), record(&one[b], 0));
        assert_eq!(judge_with(&path, &bytes, &format!("record of {a} written over that of {b}")).len(), 1);
    }
    // Inside one batch, where everything has the same header and the same length.
    let mut bytes = whole.clone();
    swap(&mut bytes, record(&two[1], 0), record(&two[1], 1), RECORD);
    assert_eq!(judge_with(&path, &bytes, "the records of a batch swapped").len(), 2);
    let mut bytes = whole.clone();
    swap(&mut bytes, two[0].0, two[9].0, total(&two[0]));
    assert_eq!(judge_with(&path, &bytes, "batches of two swapped").len(), 4);
}

fn judge_with(path: &Path, bytes: &[u8], what: &str) -> BTreeSet<u64> {
    std::fs::write(path, bytes).unwrap();
    judge(path, 0, what)
}

/// A write that the device acknowledged and lost leaves what stood there before: nothing, or a segment's earlier use.
#[test]
fn what_was_right_once_is_lost_and_never_read() {
    const VERSIONS: u64 = 24;
    let folder = Folder::new("stale");
    let (base, older, path) = (folder.file("base"), folder.file("older"), folder.file("pool"));
    make(&base, &older, VERSIONS);
    let (new, old) = (std::fs::read(&base).unwrap(), std::fs::read(&older).unwrap());
    let judge_with = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        judge(&path, VERSIONS - 1, what)
    };
    assert!(judge_with(&new, "nothing").is_empty());
    let first = |bytes: &[u8], n: usize| decode_prefix(&bytes[FRONT + n * SEGMENT..]).ok();
    let (mut reused, mut fresh) = (0, 0);
    for n in 0..(new.len() - FRONT) / SEGMENT {
        let Some(now) = first(&new, n).filter(|p| p.kind == BatchKind::Log) else { continue };
        let range = FRONT + n * SEGMENT..FRONT + (n + 1) * SEGMENT;
        let before = first(&old, n);
        if before.is_some_and(|p| p.at.sequence == now.at.sequence) {
            continue;
        }
        let mut bytes = new.clone();
        bytes[range.clone()].copy_from_slice(&old[range]);
        let lost = judge_with(&bytes, &format!("segment {n} as it was"));
        if !lost.is_empty() {
            *(if before.is_some() { &mut reused } else { &mut fresh }) += 1;
        }
    }
    println!("{reused} segments in an earlier use, {fresh} that were empty");
    assert!(reused > 1, "segments were used again");
    // And single batches of the last time, undone.
    for (at, p) in last(&new, 1).into_iter().step_by(7) {
        let range = at..at + p.total as usize;
        let mut bytes = new.clone();
        bytes[range.clone()].copy_from_slice(&old[range]);
        if bytes != new {
            assert_eq!(judge_with(&bytes, &format!("the batch at {at} undone")).len(), 1);
        }
    }
}

/// The same in the log that has to be replayed: damage, and not its end.
#[test]
fn a_log_whose_batches_are_misplaced_is_damaged() {
    let folder = Folder::new("misplaced-log");
    let (base, older, path) = (folder.file("base"), folder.file("older"), folder.file("pool"));
    make(&base, &older, 1);
    let mut thread = Thread::default();
    let pool = open(&mut thread, &base).unwrap();
    write(&mut thread, &pool, 1);
    pool.abandon();
    drop(pool);
    drop(thread);
    let whole = std::fs::read(&base).unwrap();
    let log = last(&whole, 1);
    assert!(judge_killed(&path, &whole).unwrap().is_empty());
    for (a, b) in [(2, 3), (5, 25), (31, 9)] {
        let len = log[a].1.total as usize;
        let mut bytes = whole.clone();
        swap(&mut bytes, log[a].0, log[b].0, len);
        assert!(matches!(judge_killed(&path, &bytes), Err(OpenError::Damaged { .. })), "{a} and {b}");
        let mut bytes = whole.clone();
        bytes.copy_within(log[a].0..log[a].0 + len, log[b].0);
        assert!(matches!(judge_killed(&path, &bytes), Err(OpenError::Damaged { .. })), "{a} over {b}");
        let mut bytes = whole.clone();
        bytes[log[a].0..log[a].0 + len].fill(0);
        assert!(matches!(judge_killed(&path, &bytes), Err(OpenError::Damaged { .. })), "{a} dropped");
    }
}

fn judge_killed(path: &Path, bytes: &[u8]) -> Result<BTreeSet<u64>, OpenError> {
    std::fs::write(path, bytes).unwrap();
    let mut thread = Thread::default();
    let stores = vec![store(path, SIZE)];
    let pool = thread
        .wait(|port| async move { Pool::open_to_read(&port, stores, secrets(), Options::default()).await })?;
    Ok(read(&mut thread, &pool, 1, "replayed"))
}
