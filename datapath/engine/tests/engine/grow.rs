//! Pools that grow and are given devices, and are interrupted at every step of that.

use crate::common::pools::{close, noise, tend};
use crate::common::{Folder, Power, Thread, secrets, store};
use caisson_block::{Extent, Op, Outcome, Volume};
use caisson_device::{FileStore, Size};
use caisson_engine::{ChangeError, Cipher, Create, OpenError, Options, Pool, PoolId, Settings};
use std::path::Path;
use std::sync::Arc;

const SEGMENT: u32 = 64 << 10;
const SMALL: u64 = (1 << 20) + 64 * SEGMENT as u64;
const LARGE: u64 = (1 << 20) + 160 * SEGMENT as u64;
const VOLUME: u64 = 64 << 20;

fn create(thread: &mut Thread, stores: Vec<Arc<FileStore>>) -> Pool {
    let id = PoolId([7; 16]);
    let create = Create { id, cipher: Cipher::auto(), segment_size: Some(SEGMENT), slots: Vec::new() };
    let pool = thread
        .wait(|port| async move { Pool::create(&port, stores, secrets(), create, Options::default()).await });
    let pool = pool.unwrap();
    let own = pool.clone();
    let settings = Settings { compression: None, dedup: false, ..Settings::default() };
    thread.wait(|port| async move { own.create_volume(&port, "v", VOLUME, settings).await.unwrap() });
    pool
}

fn open(thread: &mut Thread, stores: Vec<Arc<FileStore>>) -> Result<Pool, OpenError> {
    thread.wait(|port| async move { Pool::open(&port, stores, secrets(), Options::default()).await })
}

fn write(thread: &mut Thread, volume: &dyn Volume, n: u64) -> Outcome {
    let at = Extent { lba: n, blocks: 1 };
    thread.run(volume, Op::Write { at, data: noise(n).into(), fua: n.is_multiple_of(16) })
}

fn check(thread: &mut Thread, pool: &Pool, blocks: u64) {
    let volume = pool.volume("v").unwrap();
    for n in 0..blocks {
        let read = thread.run(&volume, Op::Read { at: Extent { lba: n, blocks: 1 } }).unwrap();
        assert!(read.to_vec() == noise(n), "block {n}");
    }
}

/// Writes until the pool is nearly full. Gives the number of blocks.
fn fill(thread: &mut Thread, pool: &Pool, from: u64) -> u64 {
    let volume = pool.volume("v").unwrap();
    let enough = |status: caisson_engine::Status| status.live > status.limit / 100 * 80;
    let full = (from..).find(|&n| enough(pool.status()) || write(thread, &volume, n).is_err()).unwrap();
    assert!(pool.fault().is_none());
    thread.run(&volume, Op::Flush).unwrap();
    full
}

fn grow(thread: &mut Thread, pool: &Pool) -> u64 {
    let pool = pool.clone();
    thread.wait(|port| async move { pool.grow(&port).await }).unwrap()
}

#[test]
fn a_nearly_full_pool_takes_more_when_its_file_has_grown() {
    let folder = Folder::new("grow");
    let path = folder.file("pool");
    let mut thread = Thread::default();
    let device = store(&path, SMALL);
    let pool = create(&mut thread, vec![device.clone()]);
    tend(&mut thread, &pool);
    let first = fill(&mut thread, &pool, 0);
    let before = pool.status().size;
    assert_eq!(grow(&mut thread, &pool), before, "nothing has grown");
    device.resize_blocking(Size::new(LARGE).unwrap()).unwrap();
    assert_eq!(grow(&mut thread, &pool), LARGE - (1 << 20));
    assert_eq!(pool.status().size, LARGE - (1 << 20));
    let second = fill(&mut thread, &pool, first);
    assert!(second > 2 * first, "{first} blocks, then {second}");
    check(&mut thread, &pool, second);
    close(&mut thread, pool);
    drop(device);
    let pool = open(&mut thread, vec![store(&path, LARGE)]).unwrap();
    assert_eq!(pool.status().size, LARGE - (1 << 20));
    check(&mut thread, &pool, second);
    close(&mut thread, pool);
}

#[test]
fn a_second_device_is_used_and_asked_for() {
    let folder = Folder::new("second");
    let (one, two) = (folder.file("one"), folder.file("two"));
    let mut thread = Thread::default();
    let pool = create(&mut thread, vec![store(&one, SMALL)]);
    tend(&mut thread, &pool);
    let first = fill(&mut thread, &pool, 0);
    let refused = |thread: &mut Thread, pool: &Pool, device: Arc<FileStore>| {
        let own = pool.clone();
        let refused = thread.wait(|port| async move { own.add_device(&port, device).await });
        assert!(matches!(refused, Err(ChangeError::Device { .. })), "{refused:?}");
    };
    std::fs::write(folder.file("used"), [vec![1; 8192], vec![0; 4 << 20]].concat()).unwrap();
    refused(&mut thread, &pool, store(&folder.file("used"), SMALL));
    refused(&mut thread, &pool, store(&folder.file("tiny"), (1 << 20) + 4096));
    let (own, device) = (pool.clone(), store(&two, SMALL));
    let size = thread.wait(|port| async move { own.add_device(&port, device).await }).unwrap();
    assert_eq!(size, 2 * 64 * u64::from(SEGMENT));
    let second = fill(&mut thread, &pool, first);
    assert!(second > first + first / 2, "{first} blocks, then {second}");
    close(&mut thread, pool);
    let alone = open(&mut thread, vec![store(&one, SMALL)]);
    assert!(matches!(alone, Err(OpenError::Devices { want: 2, have: 1 })));
    for turned in [false, true] {
        let mut stores = vec![store(&one, SMALL), store(&two, SMALL)];
        if turned {
            stores.reverse();
        }
        let pool = open(&mut thread, stores).unwrap();
        check(&mut thread, &pool, second);
        close(&mut thread, pool);
    }
}

const WRITTEN: u64 = 300;

/// Writes and syncs of a growth at most.
const OPERATIONS: u64 = 26;

/// A pool with something in it, in one or two files, that nobody has open.
fn made(folder: &Folder) {
    let mut thread = Thread::default();
    let pool = create(&mut thread, vec![store(&folder.file("base"), SMALL)]);
    tend(&mut thread, &pool);
    let volume = pool.volume("v").unwrap();
    (0..WRITTEN).for_each(|n| drop(write(&mut thread, &volume, n).unwrap()));
    thread.run(&volume, Op::Flush).unwrap();
    drop(volume);
    while thread.turn() {}
    // Not closed: there is a log to be replayed.
    pool.abandon();
}

fn copied(from: &Path, to: &Path) {
    let _ = std::fs::remove_file(to);
    std::fs::copy(from, to).unwrap();
}

/// More is written, and all of it is there when the pool is opened again.
fn goes_on(thread: &mut Thread, pool: Pool, stores: impl Fn() -> Vec<Arc<FileStore>>, what: &str) {
    check(thread, &pool, WRITTEN);
    tend(thread, &pool);
    let volume = pool.volume("v").unwrap();
    for n in WRITTEN..WRITTEN + 200 {
        write(thread, &volume, n).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    thread.run(&volume, Op::Flush).unwrap();
    drop(volume);
    while thread.turn() {}
    pool.abandon();
    drop(pool);
    let pool = open(thread, stores()).unwrap_or_else(|e| panic!("{what}: {e}"));
    check(thread, &pool, WRITTEN + 200);
    close(thread, pool);
}

#[test]
fn growth_that_the_power_interrupts() {
    let folder = Folder::new("grow-crash");
    made(&folder);
    let path = folder.file("pool");
    let (mut old, mut new, mut finished) = (0, 0, None);
    for (seed, after) in (0..3).flat_map(|seed| (0..OPERATIONS).map(move |after| (seed, after))) {
        if finished == Some(seed) {
            continue;
        }
        let what = format!("seed {seed}, after {after} operations");
        copied(&folder.file("base"), &path);
        let mut thread = Thread::powered(Power::new((seed << 32) | after));
        let device = store(&path, SMALL);
        let pool = open(&mut thread, vec![device.clone()]).unwrap();
        device.resize_blocking(Size::new(LARGE).unwrap()).unwrap();
        thread.power().cut_after(after);
        let own = pool.clone();
        let grown = thread.attempt(|port| async move { own.grow(&port).await.unwrap() });
        let size = pool.status().size;
        pool.abandon();
        thread.power().crash();
        drop((pool, device, thread));
        let mut thread = Thread::default();
        let stores = || vec![store(&path, LARGE)];
        let pool = open(&mut thread, stores()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let is = pool.status().size;
        if is == LARGE - (1 << 20) {
            new += 1;
        } else {
            assert_eq!(is, SMALL - (1 << 20));
            old += 1;
        }
        goes_on(&mut thread, pool, stores, &what);
        assert!(grown.is_none() || is == size, "{what}");
        finished = grown.map(|_| seed).or(finished);
        assert!(after + 1 < OPERATIONS || grown.is_some(), "there are more steps to be interrupted");
    }
    println!("{old} times old, {new} times new");
    assert!(old > 5 && new > 5, "{old} times old, {new} times new");
}

#[test]
fn an_addition_that_the_power_interrupts() {
    let folder = Folder::new("add-crash");
    made(&folder);
    let (one, two) = (folder.file("one"), folder.file("two"));
    let (mut met, mut finished) = ([0; 4], None);
    for (seed, after) in (0..3).flat_map(|seed| (0..OPERATIONS).map(move |after| (seed, after))) {
        if finished == Some(seed) {
            continue;
        }
        let what = format!("seed {seed}, after {after} operations");
        copied(&folder.file("base"), &one);
        let _ = std::fs::remove_file(&two);
        let mut thread = Thread::powered(Power::new((seed << 32) | after));
        let pool = open(&mut thread, vec![store(&one, SMALL)]).unwrap();
        let (own, device) = (pool.clone(), store(&two, SMALL));
        thread.power().cut_after(after);
        let added = thread.attempt(|port| async move { own.add_device(&port, device).await.unwrap() });
        pool.abandon();
        thread.power().crash();
        drop((pool, thread));
        let mut thread = Thread::default();
        let single = || vec![store(&one, SMALL)];
        let both = || vec![store(&one, SMALL), store(&two, SMALL)];
        let mut alone = false;
        if seed % 2 == 1 {
            // It may go on without the second; from then on the second is out of it.
            match open(&mut thread, single()) {
                Ok(pool) => {
                    alone = true;
                    check(&mut thread, &pool, WRITTEN);
                    close(&mut thread, pool);
                }
                Err(OpenError::Devices { want: 2, have: 1 }) => {}
                Err(e) => panic!("{what}: {e}"),
            }
        }
        match open(&mut thread, both()) {
            Ok(pool) => {
                assert!(!alone, "{what}");
                met[0] += 1;
                assert_eq!(pool.status().size, 2 * (SMALL - (1 << 20)), "{what}");
                goes_on(&mut thread, pool, both, &what);
                assert!(matches!(open(&mut thread, single()), Err(OpenError::Devices { .. })), "{what}");
            }
            Err(e @ (OpenError::NoSuperblock { .. } | OpenError::NotListed { .. })) => {
                met[if matches!(e, OpenError::NotListed { .. }) { 1 } else { 2 }] += 1;
                met[3] += u32::from(alone);
                let pool = open(&mut thread, single()).unwrap_or_else(|e| panic!("{what}: {e}"));
                check(&mut thread, &pool, WRITTEN);
                // It can be tried again, unless half a superblock stands there.
                let (own, device) = (pool.clone(), store(&two, SMALL));
                match thread.wait(|port| async move { own.add_device(&port, device).await }) {
                    Ok(_) => goes_on(&mut thread, pool, both, &what),
                    Err(ChangeError::Device { .. }) => goes_on(&mut thread, pool, single, &what),
                    Err(e) => panic!("{what}: {e}"),
                }
            }
            Err(e) => panic!("{what}: {e}"),
        }
        finished = added.map(|_| seed).or(finished);
        assert!(after + 1 < OPERATIONS || added.is_some(), "there are more steps to be interrupted");
    }
    println!("joined, announced, nothing, gone on alone: {met:?}");
    assert!(met.iter().all(|&n| n > 2));
}
