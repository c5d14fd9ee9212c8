//! Small writes that are hashed together: of several pools, of blocks of their own and the same ones, on one thread.

use crate::common::pools::noise;
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{Extent, Op};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, PoolVolume, Secrets, Settings};
use caisson_fingerprint::FingerprintKey;

const BLOCKS: u64 = 64;

/// Of three neighbours one is zero, and one is the same as another.
fn content(n: u64) -> Vec<u8> {
    if n % 3 == 1 { vec![0; 4096] } else { noise(n / 3) }
}

fn contents(from: u64, blocks: u64) -> Vec<u8> {
    (from..from + blocks).flat_map(content).collect()
}

/// Hands all of these in at once, and waits for them.
fn at_once(thread: &mut Thread, ops: Vec<(&PoolVolume, Op)>) {
    let mut left = ops.len();
    for (slot, (volume, op)) in ops.into_iter().enumerate() {
        thread.submit(volume, slot as u32, op);
    }
    loop {
        for (_, outcome) in thread.completions() {
            outcome.unwrap();
            left -= 1;
        }
        if left == 0 {
            return;
        }
        assert!(thread.turn(), "nothing happens any more");
    }
}

#[test]
fn each_pool_finds_again_what_came_in_company() {
    let folder = Folder::new("company");
    let mut thread = Thread::default();
    let pools: Vec<Pool> = [3, 4]
        .map(|key| {
            let stores = vec![store(&folder.file(&format!("pool{key}")), 64 << 20)];
            let secrets = Secrets { prints: vec![(1, FingerprintKey::new([key; 32]))], ..secrets() };
            let (id, cipher) = (PoolId([key; 16]), Cipher::auto());
            let create = Create { id, cipher, segment_size: None, slots: Vec::new() };
            let pool = thread.wait(|port| async move {
                let pool = Pool::create(&port, stores, secrets, create, Options::default()).await.unwrap();
                pool.create_volume(&port, "v", 16 << 20, Settings::default()).await.unwrap();
                pool
            });
            pool.tend(|make| thread.spawn(make));
            pool
        })
        .into();
    let volumes: Vec<PoolVolume> = pools.iter().map(|pool| pool.volume("v").unwrap()).collect();
    // Of one to four blocks, in turn for the one and the other pool.
    let mut ops = Vec::new();
    let mut lba = 0;
    while lba < BLOCKS {
        let blocks = (1 + lba % 4).min(BLOCKS - lba);
        for volume in &volumes {
            let data = contents(lba, blocks).into();
            ops.push((volume, Op::Write { at: Extent { lba, blocks }, data, fua: false }));
        }
        lba += blocks;
    }
    at_once(&mut thread, ops);
    let unique = BLOCKS.div_ceil(3);
    for (pool, volume) in pools.iter().zip(&volumes) {
        let read = thread.run(volume, Op::Read { at: Extent { lba: 0, blocks: BLOCKS } }).unwrap();
        assert!(read.to_vec() == contents(0, BLOCKS));
        assert_eq!(pool.status().unique >> 12, unique, "what was the same is stored once");
        // In one large write, whose blocks are hashed in another way.
        let at = Extent { lba: 1000, blocks: BLOCKS };
        let again = Op::Write { at, data: contents(0, BLOCKS).into(), fua: false };
        thread.run(volume, again).unwrap();
        assert_eq!(pool.status().unique >> 12, unique, "and found again");
    }
    drop(volumes);
    pools.iter().for_each(Pool::abandon);
}
