//! A full pool: new data is refused; reads, overwrites, deallocations and deletions go on, and what they give back can be used.

use crate::common::pools::noise;
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{BlockError, Extent, Op};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, Settings};

/// Blocks of one write while a pool is filled.
const MANY: u64 = 64;

const SEGMENTS: u64 = 64;
const SEGMENT: u32 = 256 << 10;

fn write(lba: u64, n: u64) -> Op {
    Op::Write { at: Extent { lba, blocks: 1 }, data: noise(n).into(), fua: false }
}

#[test]
fn full_and_used_on() {
    let folder = Folder::new("full");
    let stores = vec![store(&folder.file("pool"), (1 << 20) + SEGMENTS * u64::from(SEGMENT))];
    let mut thread = Thread::default();
    let create = Create {
        id: PoolId([6; 16]),
        cipher: Cipher::auto(),
        segment_size: Some(SEGMENT),
        slots: Vec::new(),
    };
    let pool = thread
        .wait(|port| async move { Pool::create(&port, stores, secrets(), create, Options::default()).await })
        .unwrap();
    pool.tend(|make| thread.spawn(make));
    for name in ["v", "w"] {
        let own = pool.clone();
        thread
            .wait(|port| async move { own.create_volume(&port, name, 64 << 20, Settings::default()).await })
            .unwrap();
    }
    let (v, w) = (pool.volume("v").unwrap(), pool.volume("w").unwrap());
    for n in 0..500 {
        thread.run(&w, write(n, 1_000_000 + n)).unwrap();
    }
    let mut held: Vec<u64> = Vec::new();
    let refused = loop {
        let n = held.len() as u64;
        match thread.run(&v, write(n, n)) {
            Ok(_) => held.push(n),
            Err(e) => break e,
        }
    };
    assert_eq!(refused, BlockError::CapacityExceeded);
    let status = pool.status();
    println!("full with {} of {} bytes live, limit {}", status.live, status.size, status.limit);
    // Single writes leave half of what they take as padding until it is cleaned, and in so small a pool the last segments are
    // not worth cleaning: it ends some way before the limit.
    assert!(status.live > status.limit / 5 * 4, "{status:?}");

    // Overwrites, several times the pool's size.
    let blocks = held.len() as u64;
    for i in 0..3 * blocks {
        let lba = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % blocks;
        thread.run(&v, write(lba, 2_000_000 + i)).unwrap_or_else(|e| panic!("overwrite {i}: {e}"));
        held[lba as usize] = 2_000_000 + i;
    }
    for (lba, &n) in held.iter().enumerate() {
        let at = Extent { lba: lba as u64, blocks: 1 };
        assert!(thread.run(&v, Op::Read { at }).unwrap().to_vec() == noise(n), "block {lba}");
    }

    // Deallocated space can be written again, and so can a deleted volume's.
    let before = pool.status().live;
    thread.run(&v, Op::Deallocate { ranges: vec![Extent { lba: 0, blocks: 400 }] }).unwrap();
    assert!(pool.status().live + 390 * 4112 < before);
    for n in 0..300 {
        thread.run(&v, write(8000 + n, 3_000_000 + n)).unwrap();
    }
    drop(w);
    let own = pool.clone();
    thread.wait(|port| async move { own.delete_volume(&port, "w").await }).unwrap();
    while pool.status().dying > 0 {
        assert!(thread.turn(), "the deletion stands still");
    }
    for n in 0..400 {
        thread.run(&v, write(9000 + n, 4_000_000 + n)).unwrap();
    }
    // The background comes to rest: nothing may change while it is recounted.
    let mut turns = 0;
    while thread.turn() {
        turns += 1;
        assert!(turns < 1_000_000, "an idle pool does not come to rest");
    }
    let own = pool.clone();
    let findings = thread.wait(|port| async move { own.recount(&port).await });
    assert!(findings.as_ref().is_ok_and(Vec::is_empty), "{findings:?}");
    let s = pool.status();
    println!("log {}, moved {}, checkpoints {} bytes", s.log_bytes, s.moved_bytes, s.checkpoint_bytes);
    drop(v);
    pool.abandon();
}

/// Most of a pool holds data, also of a small one; and full as it is, it is overwritten on and on.
#[test]
fn most_of_a_pool_holds_data() {
    for (mib, percent) in [(64, 75), (256, 88), (1024, 90)] {
        let folder = Folder::new(&format!("share-{mib}"));
        let mut thread = Thread::default();
        let stores = vec![store(&folder.file("pool"), mib << 20)];
        let create =
            Create { id: PoolId([6; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
        let pool =
            thread
                .wait(|port| async move {
                    Pool::create(&port, stores, secrets(), create, Options::default()).await
                })
                .unwrap();
        pool.tend(|make| thread.spawn(make));
        let own = pool.clone();
        let settings = Settings { compression: None, dedup: false, ..Settings::default() };
        thread.wait(|port| async move { own.create_volume(&port, "v", mib << 20, settings).await }).unwrap();
        let v = pool.volume("v").unwrap();
        let mut blocks = 0;
        let many = |lba: u64| {
            let data: Vec<u8> = (lba..lba + MANY).flat_map(noise).collect();
            Op::Write { at: Extent { lba, blocks: MANY }, data: data.into(), fua: false }
        };
        let refused = loop {
            match thread.run(&v, many(blocks)) {
                Ok(_) => blocks += MANY,
                Err(e) => break e,
            }
        };
        assert_eq!(refused, BlockError::CapacityExceeded);
        println!("{mib} MiB: {:.1} % is data", (blocks * 409_600) as f64 / (mib << 20) as f64);
        assert!(blocks * 4096 * 100 > (mib << 20) * percent, "{mib} MiB: {:?}", pool.status());

        // Overwrites of single blocks, all over it.
        for i in 0..(blocks / 2).min(4_000) {
            let lba = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % blocks;
            thread.run(&v, write(lba, 2_000_000 + i)).unwrap_or_else(|e| panic!("{mib} MiB, {i}: {e}"));
        }
        let at = Extent { lba: 0, blocks };
        thread.run(&v, Op::Deallocate { ranges: vec![at] }).unwrap();
        let mut turns = 0;
        while thread.turn() {
            turns += 1;
            assert!(turns < 1_000_000, "an idle pool does not come to rest");
        }
        for lba in (0..blocks / 2).step_by(MANY as usize) {
            thread.run(&v, many(lba)).unwrap_or_else(|e| panic!("{mib} MiB, block {lba} again: {e}"));
        }
        drop(v);
        pool.abandon();
    }
}
