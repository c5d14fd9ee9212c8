//! Snapshots by the thousand: each reads as its volume was, deleting them gives everything back, and I/O goes on meanwhile.

use crate::common::pools::noise;
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{Extent, Op};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, PoolVolume, Settings};
use std::time::Instant;

const SNAPSHOTS: u64 = 2000;
const BLOCKS: u64 = 256;
const SIZE: u64 = 128 << 20;

fn at(lba: u64) -> Extent {
    Extent { lba, blocks: 1 }
}

fn write(thread: &mut Thread, volume: &PoolVolume, block: u64, n: u64) {
    thread.run(volume, Op::Write { at: at(block), data: noise(n).into(), fua: false }).unwrap();
}

/// Which block the write before snapshot `n` goes to.
fn target(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33 & (BLOCKS - 1)
}

/// What block `block` holds in snapshot `n`.
fn held(n: u64, block: u64) -> u64 {
    (0..=n).rev().find(|&m| target(m) == block).map_or(block, |m| BLOCKS + m)
}

/// Reads every block of every snapshot.
fn read_all(thread: &mut Thread, pool: &Pool) {
    let contents: Vec<Vec<u8>> = (0..BLOCKS + SNAPSHOTS).map(noise).collect();
    let mut holds: Vec<u64> = (0..BLOCKS).collect();
    for n in 0..SNAPSHOTS {
        holds[target(n) as usize] = BLOCKS + n;
        let snapshot = pool.volume(&format!("s{n}")).unwrap();
        let whole = Op::Read { at: Extent { lba: 0, blocks: BLOCKS } };
        let bytes = thread.run(&snapshot, whole).unwrap().to_vec();
        for (block, held) in holds.iter().enumerate() {
            let same = bytes[block * 4096..(block + 1) * 4096] == contents[*held as usize];
            assert!(same, "block {block} of snapshot {n}");
        }
    }
}

fn read(thread: &mut Thread, volume: &PoolVolume, block: u64) -> Vec<u8> {
    thread.run(volume, Op::Read { at: at(block) }).unwrap().to_vec()
}

/// Live bytes when everything that can be given back was.
fn settled(thread: &mut Thread, pool: &Pool) -> u64 {
    while pool.status().dying > 0 {
        assert!(thread.turn(), "deletions stand still");
    }
    for _ in 0..2 {
        let own = pool.clone();
        thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
    }
    pool.status().live
}

#[test]
fn thousands_of_snapshots_and_clones() {
    let folder = Folder::new("snapshots");
    let stores = vec![store(&folder.file("pool"), SIZE)];
    let mut thread = Thread::default();
    let create =
        Create { id: PoolId([5; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
    let pool = thread
        .wait(|port| async move { Pool::create(&port, stores, secrets(), create, Options::default()).await })
        .unwrap();
    pool.tend(|make| thread.spawn(make));
    let own = pool.clone();
    let create =
        |port| async move { own.create_volume(&port, "v", BLOCKS * 4096, Settings::default()).await };
    thread.wait(create).unwrap();
    let volume = pool.volume("v").unwrap();
    for block in 0..BLOCKS {
        write(&mut thread, &volume, block, block);
    }
    let before = settled(&mut thread, &pool);
    for n in 0..SNAPSHOTS {
        write(&mut thread, &volume, target(n), BLOCKS + n);
        let own = pool.clone();
        let name = format!("s{n}");
        thread.wait(|port| async move { own.snapshot(&port, "v", &name, true).await }).unwrap();
    }
    read_all(&mut thread, &pool);
    clones(&mut thread, &pool);
    let stall = delete_all(&mut thread, &pool, &volume);
    println!("the longest read during {SNAPSHOTS} deletions: {stall:?}");
    for block in 0..BLOCKS {
        write(&mut thread, &volume, block, block);
    }
    let after = settled(&mut thread, &pool);
    let findings = thread.wait(|port| {
        let own = pool.clone();
        async move { own.recount(&port).await }
    });
    assert!(findings.as_ref().is_ok_and(Vec::is_empty), "{findings:?}");
    let status = pool.status();
    assert_eq!((status.volumes.len(), status.mapped, status.unique), (1, BLOCKS * 4096, BLOCKS * 4096));
    // What the data takes is exactly as before; pages of the tables hold other numbers, and compress to other lengths.
    println!("live bytes before {before}, after {after}");
    assert_eq!(status.stored, BLOCKS * (4096 + 16));
    drop(volume);
    pool.abandon();
}

/// Clones are written, and neither they nor what they are of see the other's writes.
fn clones(thread: &mut Thread, pool: &Pool) {
    for n in (0..SNAPSHOTS).step_by(100) {
        let (own, of, name) = (pool.clone(), format!("s{n}"), format!("c{n}"));
        thread.wait(|port| async move { own.snapshot(&port, &of, &name, false).await }).unwrap();
        let clone = pool.volume(&format!("c{n}")).unwrap();
        let snapshot = pool.volume(&format!("s{n}")).unwrap();
        write(thread, &clone, 7, 1_000_000 + n);
        assert!(read(thread, &clone, 7) == noise(1_000_000 + n), "clone {n}");
        assert!(read(thread, &snapshot, 7) == noise(held(n, 7)), "what clone {n} is of");
        assert!(read(thread, &clone, 8) == noise(held(n, 8)), "the rest of clone {n}");
    }
}

/// Deletes clones and snapshots in a mixed order while the volume is read. Gives the longest read.
fn delete_all(thread: &mut Thread, pool: &Pool, volume: &PoolVolume) -> std::time::Duration {
    let mut names: Vec<String> = (0..SNAPSHOTS).map(|n| format!("s{n}")).collect();
    names.extend((0..SNAPSHOTS).step_by(100).map(|n| format!("c{n}")));
    let mut x = 7u64;
    let mut longest = std::time::Duration::ZERO;
    while !names.is_empty() {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = names.swap_remove((x >> 33) as usize % names.len());
        let own = pool.clone();
        thread.wait(|port| async move { own.delete_volume(&port, &name).await }).unwrap();
        let block = x >> 20 & (BLOCKS - 1);
        let begun = Instant::now();
        assert!(read(thread, volume, block) == noise(held(SNAPSHOTS - 1, block)));
        longest = longest.max(begun.elapsed());
    }
    longest
}
