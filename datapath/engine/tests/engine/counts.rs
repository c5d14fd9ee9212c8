//! Duplicates whose count is full, and blocks that many share: a count never overflows, and nothing is freed too early; and a
//! block that was found is taken only if it is still that block.

use crate::common::pools::{noise, tend};
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{Extent, Op};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, PoolVolume, Settings};
use std::path::Path;

const SIZE: u64 = 17 << 20;
const BLOCKS: u64 = 4096;

fn options(max_refs: u32) -> Options {
    Options { max_refs, ..Options::default() }
}

fn create(thread: &mut Thread, path: &Path, max_refs: u32, settings: Settings) -> (Pool, PoolVolume) {
    let stores = vec![store(path, SIZE)];
    let pool = thread.wait(|port| async move {
        let (id, cipher) = (PoolId([7; 16]), Cipher::auto());
        let create = Create { id, cipher, segment_size: Some(256 << 10), slots: Vec::new() };
        let pool = Pool::create(&port, stores, secrets(), create, options(max_refs)).await.unwrap();
        pool.create_volume(&port, "v", BLOCKS << 12, settings).await.unwrap();
        pool
    });
    tend(thread, &pool);
    let volume = pool.volume("v").unwrap();
    (pool, volume)
}

fn write(thread: &mut Thread, volume: &PoolVolume, lba: u64, data: Vec<u8>) {
    let at = Extent { lba, blocks: data.len() as u64 / 4096 };
    thread.run(volume, Op::Write { at, data: data.into(), fua: false }).unwrap();
}

fn read(thread: &mut Thread, volume: &PoolVolume, lba: u64) -> Vec<u8> {
    thread.run(volume, Op::Read { at: Extent { lba, blocks: 1 } }).unwrap().to_vec()
}

fn deallocate(thread: &mut Thread, volume: &PoolVolume, blocks: u64) {
    thread.run(volume, Op::Deallocate { ranges: vec![Extent { lba: 0, blocks }] }).unwrap();
}

/// All that was published is durable and covered by a checkpoint.
fn checkpoint(thread: &mut Thread, pool: &Pool) {
    while thread.turn() {}
    let own = pool.clone();
    thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
    while thread.turn() {}
}

fn is_sound(thread: &mut Thread, pool: &Pool) {
    while thread.turn() {}
    let own = pool.clone();
    let report = thread.wait(|port| async move { own.check(&port, |_| {}).await });
    assert!(report.is_sound(), "{report}");
}

/// A block that is one word over and over.
fn pattern(word: u64) -> Vec<u8> {
    word.to_le_bytes().repeat(512)
}

/// How many copies of a block there are after it was written so often, by commands of one block and of many.
fn copies(max_refs: u32, times: u64, at_once: u64) -> u64 {
    let folder = Folder::new(&format!("counts-{max_refs}-{at_once}"));
    let path = folder.file("pool");
    let mut thread = Thread::default();
    let (pool, v) = create(&mut thread, &path, max_refs, Settings::default());
    let block = noise(5);
    for n in (0..times).step_by(at_once as usize) {
        write(&mut thread, &v, n, block.repeat(at_once as usize));
        // Found in an open batch as well as at its place.
        if n % 3 == 0 {
            while thread.turn() {}
        }
    }
    let copies = pool.status().unique / 4096;
    (0..times).for_each(|n| assert!(read(&mut thread, &v, n) == block, "block {n}"));
    is_sound(&mut thread, &pool);
    // Restarted, what is written again is found by the rebuilt index, or stored once more.
    checkpoint(&mut thread, &pool);
    drop(v);
    pool.abandon();
    drop(pool);
    let stores = vec![store(&path, SIZE)];
    let opened = thread
        .wait(|port| async move { Pool::open(&port, stores, secrets(), options(max_refs)).await.unwrap() });
    tend(&mut thread, &opened);
    let v = opened.volume("v").unwrap();
    while thread.turn() {}
    assert_eq!(opened.status().unique / 4096, copies);
    write(&mut thread, &v, times, block.clone());
    assert!(opened.status().unique / 4096 <= copies + 1);
    (0..=times).for_each(|n| assert!(read(&mut thread, &v, n) == block, "block {n} after a restart"));
    is_sound(&mut thread, &opened);
    // No count is so full that the block stays: all room comes back.
    deallocate(&mut thread, &v, BLOCKS);
    while thread.turn() {}
    assert_eq!((opened.status().unique, opened.status().mapped), (0, 0));
    is_sound(&mut thread, &opened);
    drop(v);
    thread.wait(|port| async move { opened.close(&port).await }).unwrap();
    copies
}

#[test]
fn one_more_duplicate_than_a_count_takes_gets_a_copy_of_its_own() {
    // Half of the maximum is for duplicates, the rest for copies of map pages.
    assert_eq!(copies(16, 40, 1), 5);
    assert_eq!(copies(u32::MAX, 40, 1), 1);
}

/// A command's blocks are looked at together: it may take a count beyond the half, and never to where it overflows.
#[test]
fn duplicates_of_one_command_do_not_overflow_a_count() {
    assert_eq!(copies(256, 1024, 64), 8);
    assert_eq!(copies(u32::MAX, 1024, 64), 1);
}

/// Clones bring a count to its maximum, where it stays: the block is never freed, and never taken from anybody.
#[test]
fn a_count_that_is_full_stays_full_and_the_block_is_there() {
    let folder = Folder::new("full-count");
    let path = folder.file("pool");
    let mut thread = Thread::default();
    let (pool, v) = create(&mut thread, &path, 8, Settings::default());
    let block = noise(7);
    // All in one leaf, which each clone that is written to copies.
    (0..8).for_each(|n| write(&mut thread, &v, n, block.clone()));
    let names = ["c0", "c1", "c2", "c3", "c4", "c5"];
    for (n, name) in names.into_iter().enumerate() {
        let own = pool.clone();
        thread.wait(|port| async move { own.snapshot(&port, "v", name, false).await }).unwrap();
        let clone = pool.volume(name).unwrap();
        write(&mut thread, &clone, 100, noise(100 + n as u64));
        // Whatever is full, one more gets a copy.
        write(&mut thread, &clone, 101, block.clone());
    }
    is_sound(&mut thread, &pool);
    // The first and all clones but the last go; what is left reads as before.
    deallocate(&mut thread, &v, BLOCKS);
    drop(v);
    for name in ["v", "c0", "c1", "c2", "c3", "c4"] {
        let own = pool.clone();
        thread.wait(|port| async move { own.delete_volume(&port, name).await }).unwrap();
        checkpoint(&mut thread, &pool);
    }
    let last = pool.volume("c5").unwrap();
    // New content takes every id and segment that is free.
    (0..300).for_each(|n| write(&mut thread, &last, 1000 + n, noise(1000 + n)));
    checkpoint(&mut thread, &pool);
    (0..8).chain([101]).for_each(|n| assert!(read(&mut thread, &last, n) == block, "block {n}"));
    is_sound(&mut thread, &pool);
    deallocate(&mut thread, &last, BLOCKS);
    while thread.turn() {}
    // Two blocks were shared by more than a count can say; both stay for good, at the cost of their room.
    let stuck = pool.status().unique / 4096;
    assert!((1..=3).contains(&stuck), "{stuck} blocks stay");
    is_sound(&mut thread, &pool);
    drop(last);
    thread.wait(|port| async move { pool.close(&port).await }).unwrap();
}

/// A pattern is a block like others: stored once, in a few bytes, and shared. Zero is stored nowhere.
#[test]
fn patterns_are_duplicates_and_zero_is_nothing() {
    let folder = Folder::new("patterns");
    let mut thread = Thread::default();
    let (pool, v) = create(&mut thread, &folder.file("pool"), 16, Settings::default());
    for n in 0..100 {
        write(&mut thread, &v, n, pattern(0x0123_4567_89ab_cdef));
        write(&mut thread, &v, 1000 + n, pattern(0));
    }
    write(&mut thread, &v, 2000, pattern(u64::MAX).repeat(64));
    while thread.turn() {}
    let status = pool.status();
    // 13 of the one, with 8 references each at most; of the other one for each chunk of 8 blocks.
    let unique = status.unique / 4096;
    assert_eq!(unique, 13 + 8);
    assert!(status.stored < unique * 64, "{} bytes for {unique} patterns", status.stored);
    assert_eq!((status.mapped / 4096, status.zero_blocks), (164, 100));
    (0..100).for_each(|n| assert!(read(&mut thread, &v, n) == pattern(0x0123_4567_89ab_cdef)));
    is_sound(&mut thread, &pool);
    deallocate(&mut thread, &v, BLOCKS);
    while thread.turn() {}
    assert_eq!(pool.status().unique, 0);
    is_sound(&mut thread, &pool);
}

/// Writers find a duplicate in the open batch and are then held up, until that block is gone and its id is another's, in
/// another open batch. One of them goes on just then.
#[test]
fn an_id_that_is_anothers_meanwhile_is_no_duplicate() {
    const WRITERS: u64 = 36;
    let folder = Folder::new("reused");
    let tiny = |n: u64| {
        let mut block = vec![0; 4096];
        block[..8].copy_from_slice(&(n + 1).to_le_bytes());
        block
    };
    let some = |from: u64, count: u64| (from..from + count).flat_map(tiny).collect::<Vec<u8>>();
    // Which of the blocks that are written later has the id depends on how many there were before.
    for shift in 0..5 {
        let mut thread = Thread::default();
        let settings = Settings { verify: true, ..Settings::default() };
        let (pool, v) = create(&mut thread, &folder.file(&format!("pool{shift}")), u32::MAX, settings);
        write(&mut thread, &v, 0, noise(1));
        (0..15).for_each(|n| write(&mut thread, &v, 64 + n * 64, some(n * 64, 64)));
        write(&mut thread, &v, 1024, some(960, 36 + shift));
        while thread.turn() {}
        // Found in the open batch; and behind it, something for which the device is read.
        write(&mut thread, &v, 1, noise(2));
        thread.hold_reads(true);
        for n in 0..WRITERS {
            let at = Extent { lba: 3000 + 2 * n, blocks: 2 };
            let data = [noise(2), noise(1)].concat();
            thread.submit(&v, n as u32, Op::Write { at, data: data.into(), fua: false });
        }
        while thread.turn() {}
        assert_eq!(thread.hold_reads(false), WRITERS as usize, "each writer waits for its read");
        assert_eq!(thread.completions().count(), 0);
        deallocate(&mut thread, &v, 2048);
        checkpoint(&mut thread, &pool);
        checkpoint(&mut thread, &pool);
        (0..16).for_each(|n| write(&mut thread, &v, n * 64, some(9000 + n * 64, 64)));
        for n in 0..WRITERS {
            while thread.turn() {}
            write(&mut thread, &v, 1100 + n * 8, some(20_000 + n * 8, 8));
            // What was just written is in the open batch.
            thread.tell_one();
            let (tag, outcome) = loop {
                assert!(thread.turn(), "the writer goes on");
                if let Some(over) = thread.completions().next() {
                    break over;
                }
            };
            assert_eq!(u64::from(tag.slot), n);
            outcome.unwrap();
            for i in 0..2 {
                let right = read(&mut thread, &v, 3000 + 2 * n + i) == noise(2 - i);
                assert!(right, "block {i} of writer {n}, {shift} more blocks before");
            }
        }
        is_sound(&mut thread, &pool);
        pool.abandon();
    }
}
