//! What a pool does beside its work: scrubs at a pace, the rebuilding of its index, giving room back, and what it says a
//! deletion would free.

use crate::common::pools::{self, tend};
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{Extent, Op, Volume};
use caisson_device::FileStore;
use caisson_device::sim::Rng;
use caisson_engine::{Host, Options, Pool, Settings};
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 33 << 20;

fn create(thread: &mut Thread, store: Arc<FileStore>) -> Pool {
    let pool = pools::create(thread, vec![store], 256 << 10, Vec::new());
    tend(thread, &pool);
    pool
}

fn open(thread: &mut Thread, store: Arc<FileStore>) -> Pool {
    let pool = pools::open(thread, vec![store], secrets()).unwrap();
    tend(thread, &pool);
    pool
}

fn volume(thread: &mut Thread, pool: &Pool, name: &'static str) -> impl Volume + use<> {
    let own = pool.clone();
    let settings = Settings::default();
    thread.wait(|port| async move { own.create_volume(&port, name, 64 << 20, settings).await }).unwrap();
    pool.volume(name).unwrap()
}

/// A run of blocks that do not compress, of a number that tells them from others.
fn content(n: u64) -> Vec<u8> {
    let mut rng = Rng::new(n);
    (0..512 * 16).flat_map(|_| (rng.below(u64::MAX) ^ (n << 48)).to_le_bytes()).collect()
}

fn write(thread: &mut Thread, volume: &dyn Volume, run: u64, n: u64) {
    let at = Extent { lba: run * 16, blocks: 16 };
    thread.run(volume, Op::Write { at, data: content(n).into(), fua: false }).unwrap();
}

fn holds(thread: &mut Thread, volume: &dyn Volume, run: u64, n: u64) {
    let read = thread.run(volume, Op::Read { at: Extent { lba: run * 16, blocks: 16 } }).unwrap();
    assert!(read.to_vec() == content(n), "run {run}");
}

fn quiet(thread: &mut Thread) {
    while thread.turn() {}
}

#[test]
fn duplicates_of_what_was_there_before_are_found_again() {
    let folder = Folder::new("rebuild");
    let path = folder.file("pool");
    let mut thread = Thread::default();
    let pool = create(&mut thread, store(&path, SIZE));
    let v = volume(&mut thread, &pool, "v");
    (0..60).for_each(|n| write(&mut thread, &v, n, n));
    thread.run(&v, Op::Flush).unwrap();
    quiet(&mut thread);
    drop(v);
    pool.abandon();
    drop(pool);
    let pool = open(&mut thread, store(&path, SIZE));
    quiet(&mut thread);
    let rebuilt = pool.status().rebuild.unwrap();
    assert!(!rebuilt.running && rebuilt.blocks == 60 * 16, "{rebuilt:?}");
    let v = pool.volume("v").unwrap();
    let unique = pool.status().unique;
    (0..60).for_each(|n| write(&mut thread, &v, 100 + n, n));
    let status = pool.status();
    assert_eq!((status.duplicate_blocks, status.unique), (60 * 16, unique));
    // Again, from an index that is dropped.
    pool.index_drop();
    quiet(&mut thread);
    (0..60).for_each(|n| write(&mut thread, &v, 200 + n, n));
    let status = pool.status();
    assert_eq!((status.duplicate_blocks, status.unique), (2 * 60 * 16, unique));
    (0..60).for_each(|n| holds(&mut thread, &v, 200 + n, n));
}

#[test]
fn a_deletion_frees_what_was_said() {
    let folder = Folder::new("exclusive");
    let mut thread = Thread::default();
    let pool = create(&mut thread, store(&folder.file("pool"), SIZE));
    let (a, b) = (volume(&mut thread, &pool, "a"), volume(&mut thread, &pool, "b"));
    (0..40).for_each(|n| write(&mut thread, &a, n, n));
    (20..60).for_each(|n| write(&mut thread, &b, n, n));
    // Twice in the same volume.
    (0..5).for_each(|n| write(&mut thread, &a, 100 + n, n));
    let own = pool.clone();
    thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
    let own = pool.clone();
    let said = thread.wait(|port| async move { own.exclusive_bytes(&port, "a").await }).unwrap();
    let before = pool.status();
    drop(a);
    let own = pool.clone();
    thread.wait(|port| async move { own.delete_volume(&port, "a").await }).unwrap();
    quiet(&mut thread);
    let after = pool.status();
    assert_eq!(after.dying, 0);
    let (blocks, pages) = (before.stored - after.stored, before.map_pages - after.map_pages);
    assert_eq!(before.unique - after.unique, 20 * 16 * 4096);
    assert!(
        (blocks + pages..=blocks + pages * 4112).contains(&said),
        "{said}: {blocks} bytes and {pages} pages"
    );
    let own = pool.clone();
    assert!(thread.wait(|port| async move { own.exclusive_bytes(&port, "a").await }).is_err());
    (20..60).for_each(|n| holds(&mut thread, &b, n, n));
}

#[test]
fn freed_room_goes_back_to_the_file_system() {
    let folder = Folder::new("punch");
    let path = folder.file("pool");
    let device = store(&path, SIZE);
    if !device.punches() {
        println!("the file system of {} gives nothing back", path.display());
        return;
    }
    let mut thread = Thread::default();
    let pool = create(&mut thread, device.clone());
    let (v, kept) = (volume(&mut thread, &pool, "v"), volume(&mut thread, &pool, "kept"));
    (0..20).for_each(|n| write(&mut thread, &kept, n, 1000 + n));
    let checkpoint = |thread: &mut Thread| {
        let own = pool.clone();
        thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
        quiet(thread);
    };
    for round in 0..3 {
        for n in 0..200 {
            write(&mut thread, &v, n, n + round);
            if n % 40 == 0 {
                checkpoint(&mut thread);
            }
        }
        (0..200).for_each(|n| holds(&mut thread, &v, n, n + round));
        checkpoint(&mut thread);
        let (full, punched) = (device.allocated().unwrap(), pool.status().punched);
        let at = Extent { lba: 0, blocks: 200 * 16 };
        thread.run(&v, Op::Deallocate { ranges: vec![at] }).unwrap();
        checkpoint(&mut thread);
        checkpoint(&mut thread);
        assert!(pool.status().punched >= punched + (8 << 20), "{:?}", pool.status());
        assert!(device.allocated().unwrap() + (8 << 20) <= full, "round {round}");
    }
    drop(v);
    pool.abandon();
    drop((kept, pool, device));
    let pool = open(&mut thread, store(&path, SIZE));
    let kept = pool.volume("kept").unwrap();
    (0..20).for_each(|n| holds(&mut thread, &kept, n, 1000 + n));
}

/// By a clock that the test sets: never faster than the rate and what may be read ahead of it, never slower, and its progress
/// rises to the end.
#[test]
fn a_scrub_reads_so_many_bytes_a_second() {
    const RATE: u64 = 4 << 20;
    /// A piece that is begun is read to its end: a batch of the background's, or a stride of a segment.
    const PIECE: u64 = 512 << 10;
    let folder = Folder::new("rate");
    let mut thread = Thread::default();
    let pool = create(&mut thread, store(&folder.file("pool"), SIZE));
    let v = volume(&mut thread, &pool, "v");
    (0..200).for_each(|n| write(&mut thread, &v, n, n));
    thread.run(&v, Op::Flush).unwrap();
    let own = pool.clone();
    thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
    quiet(&mut thread);
    // The witness of the log's end, if one is to come, is no part of this.
    (0..20).for_each(|_| {
        thread.pass(&pool, Duration::from_millis(20));
        quiet(&mut thread);
    });
    pool.scrub_start(RATE);
    quiet(&mut thread);
    let begun = pool.status().scrub.unwrap();
    assert!(begun.running && begun.rate == RATE && begun.bytes <= RATE / 4 + PIECE, "{begun:?}");
    let (mut passed, mut percents) = (0, vec![begun.percent]);
    let end = loop {
        thread.pass(&pool, Duration::from_millis(10));
        quiet(&mut thread);
        passed += 10;
        let now = pool.status().scrub.unwrap();
        let due = RATE * passed / 1000;
        assert!(now.bytes <= due + RATE / 4 + PIECE, "too fast after {passed} ms: {now:?}");
        if !now.running {
            break now;
        }
        assert!(now.bytes >= due, "too slow after {passed} ms: {now:?}");
        assert!(now.percent < 100 && now.percent >= *percents.last().unwrap(), "{percents:?}, {now:?}");
        percents.push(now.percent);
        assert!(passed < 60_000);
    };
    percents.dedup();
    assert!(percents.len() > 20, "progress is seen: {percents:?}");
    assert!(end.completed && end.percent == 100 && end.bad.is_empty(), "{end:?}");
    assert!(end.bytes > 200 * 16 * 4096 && end.bytes < SIZE, "{end:?}");
    // Without a rate, as fast as it can, however little time passes.
    pool.scrub_start(0);
    quiet(&mut thread);
    let all = pool.status().scrub.unwrap();
    assert!(all.completed && all.bytes == end.bytes, "{all:?}");
}

#[test]
fn a_scrub_keeps_its_pace_and_can_be_stopped() {
    let folder = Folder::new("pace");
    let stores = vec![store(&folder.file("pool"), SIZE)];
    let host = Host::start("pool").unwrap();
    let pool = host
        .run(|port| async move {
            Pool::create(&port, stores, secrets(), pools::made(256 << 10, Vec::new()), Options::default())
                .await
        })
        .unwrap();
    host.tend(&pool);
    let own = pool.clone();
    let settings = Settings::default();
    host.run(move |port| async move { own.create_volume(&port, "v", 64 << 20, settings).await }).unwrap();
    let v = pool.volume("v").unwrap();
    let mut thread = Thread::default();
    // The pool's background is on another thread: it may have to be waited for.
    let mut run = |op: Op| {
        thread.submit(&v, 0, op);
        loop {
            if let Some((_, outcome)) = thread.completions().next() {
                break drop(outcome.unwrap());
            }
            if !thread.turn() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    for n in 0..64 {
        run(Op::Write { at: Extent { lba: n * 16, blocks: 16 }, data: content(n).into(), fua: false });
    }
    run(Op::Flush);
    let until = |f: &dyn Fn(&caisson_engine::ScrubStatus) -> bool| loop {
        match pool.status().scrub.filter(|status| f(status)) {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    pool.scrub_start(8 << 20);
    let status = until(&|s| !s.running);
    assert!(status.completed && status.bytes > 3 << 20, "{status:?}");
    let nanos = status.now.since(status.started);
    let least = (status.bytes - (3 << 20)) * 1_000_000_000 / (8 << 20);
    assert!(nanos >= least, "{} bytes in {nanos} ns", status.bytes);
    pool.scrub_start(1);
    until(&|s| s.running && s.bytes > 0);
    pool.scrub_stop();
    let status = until(&|s| !s.running);
    assert!(!status.completed && status.bytes < 1 << 20, "{status:?}");
    drop(v);
    let own = pool.clone();
    host.run(|port| async move { own.close(&port).await }).unwrap();
}
