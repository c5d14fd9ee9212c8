//! Map keys on real files: which volumes have which, when they are erased, over restarts and kills, and in pools of before.
//! What can be had from the disks after an erasure is the simulator's to look for (`tests/sim/src/vault.rs`).

use crate::common::pools::{self, checkpoint, close, noise, rest, sound, tend};
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{EraseBy, Extent, Op};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, Settings};
use caisson_log::{Keyring, SUPERBLOCK, SUPERBLOCK_AT, Superblock};
use std::path::Path;

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 96 * SEGMENT as u64;
const ID: PoolId = PoolId([7; 16]);

fn make(thread: &mut Thread, path: &Path) -> Pool {
    let stores = vec![store(path, SIZE)];
    let create = Create { id: ID, cipher: Cipher::Aes256Gcm, segment_size: Some(SEGMENT), slots: Vec::new() };
    let options = Options::default();
    thread.wait(|port| async move { Pool::create(&port, stores, secrets(), create, options).await }).unwrap()
}

fn open(thread: &mut Thread, path: &Path, size: u64) -> Pool {
    let stores = vec![store(path, size)];
    pools::open(thread, stores, secrets()).unwrap()
}

fn volume(thread: &mut Thread, pool: &Pool, name: &'static str) {
    let own = pool.clone();
    let settings = Settings::default();
    thread.wait(|port| async move { own.create_volume(&port, name, 4 << 20, settings).await }).unwrap();
}

fn snapshot(thread: &mut Thread, pool: &Pool, of: &'static str, name: &'static str, read_only: bool) {
    let own = pool.clone();
    thread.wait(|port| async move { own.snapshot(&port, of, name, read_only).await }).unwrap();
}

fn delete(thread: &mut Thread, pool: &Pool, name: &'static str) {
    let own = pool.clone();
    thread.wait(|port| async move { own.delete_volume(&port, name).await }).unwrap();
}

fn fill(thread: &mut Thread, pool: &Pool, name: &str, seed: u64) {
    let v = pool.volume(name).unwrap();
    for lba in 0..40 {
        let at = Extent { lba: lba * 20, blocks: 1 };
        thread.run(&v, Op::Write { at, data: noise(seed + lba).into(), fua: false }).unwrap();
    }
    thread.run(&v, Op::Flush).unwrap();
}

fn holds(thread: &mut Thread, pool: &Pool, name: &str, seed: u64) {
    let v = pool.volume(name).unwrap();
    for lba in 0..40 {
        let read = thread.run(&v, Op::Read { at: Extent { lba: lba * 20, blocks: 1 } }).unwrap();
        assert!(read.to_vec() == noise(seed + lba), "{name}, block {lba}");
    }
}

/// Keys there are, families whose key is to go, keys gone since the pool was opened.
fn keys(pool: &Pool) -> (usize, Vec<u32>, u64) {
    let k = pool.status().map_keys;
    (k.keys, k.erasing, k.erased)
}

/// The vault keys of both superblock copies.
fn vaults(path: &Path) -> Vec<Vec<u8>> {
    let keyring = Keyring::new(ID, Cipher::Aes256Gcm, secrets().epochs).unwrap();
    let file = std::fs::read(path).unwrap();
    let copies =
        SUPERBLOCK_AT.map(|at| Superblock::open(&keyring, &file[at as usize..][..SUPERBLOCK]).unwrap().1);
    copies.map(|anchor| anchor.vault.unwrap().expose().to_vec()).to_vec()
}

#[test]
fn a_key_lasts_as_long_as_its_family() {
    let folder = Folder::new("mapkeys-family");
    let path = folder.file("p");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &path);
    tend(&mut thread, &pool);
    for name in ["v", "w"] {
        volume(&mut thread, &pool, name);
    }
    assert_eq!(keys(&pool), (0, vec![], 0), "nothing of them is written yet");
    fill(&mut thread, &pool, "v", 100);
    fill(&mut thread, &pool, "w", 200);
    checkpoint(&mut thread, &pool);
    snapshot(&mut thread, &pool, "v", "s", true);
    snapshot(&mut thread, &pool, "s", "c", false);
    fill(&mut thread, &pool, "c", 300);
    checkpoint(&mut thread, &pool);
    assert_eq!(keys(&pool), (2, vec![], 0), "copies have their origin's");
    let before = vaults(&path);
    assert!(before[0] == before[1], "both copies have the newest root's");
    let family = |name: &str| pool.status().volumes.iter().find(|v| v.name == name).map(|v| v.family);
    assert_eq!((family("s"), family("c")), (family("v"), family("v")));
    for name in ["v", "s"] {
        delete(&mut thread, &pool, name);
        rest(&mut thread, &pool, 2);
        assert_eq!(keys(&pool), (2, vec![], 0), "{name} is gone, and c has the key");
        holds(&mut thread, &pool, "c", 300);
    }
    // The clone's pages open after a restart, though what its family began with is gone.
    close(&mut thread, pool);
    let pool = open(&mut thread, &path, SIZE);
    tend(&mut thread, &pool);
    holds(&mut thread, &pool, "c", 300);
    holds(&mut thread, &pool, "w", 200);
    delete(&mut thread, &pool, "c");
    assert_eq!((keys(&pool).1, pool.take_erased_map_keys()), (vec![1], vec![]), "under way");
    rest(&mut thread, &pool, 2);
    assert_eq!((keys(&pool), pool.take_erased_map_keys()), ((1, vec![], 1), vec![1]));
    let after = vaults(&path);
    assert!(after[0] == after[1] && !before.contains(&after[0]), "another vault");
    holds(&mut thread, &pool, "w", 200);
    sound(&mut thread, &pool);
    close(&mut thread, pool);
}

#[test]
fn a_kill_in_the_middle_of_a_deletion_leaves_it_under_way() {
    let folder = Folder::new("mapkeys-kill");
    let path = folder.file("p");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &path);
    volume(&mut thread, &pool, "v");
    fill(&mut thread, &pool, "v", 100);
    checkpoint(&mut thread, &pool);
    delete(&mut thread, &pool, "v");
    // Nobody unmaps it: a checkpoint keeps the key, without which nobody could.
    checkpoint(&mut thread, &pool);
    assert_eq!(keys(&pool), (1, vec![1], 0));
    pool.abandon();
    drop((pool, thread));
    let mut thread = Thread::default();
    let pool = open(&mut thread, &path, SIZE);
    assert_eq!(keys(&pool), (1, vec![1], 0));
    tend(&mut thread, &pool);
    rest(&mut thread, &pool, 2);
    assert_eq!(keys(&pool), (0, vec![], 1));
    assert_eq!((pool.status().dying, pool.status().stored), (0, 0), "what it held is given back");
    sound(&mut thread, &pool);
    close(&mut thread, pool);
}

#[test]
fn an_erased_volume_begins_a_family_of_its_own() {
    let folder = Folder::new("mapkeys-erase");
    let path = folder.file("p");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &path);
    tend(&mut thread, &pool);
    for (name, seed) in [("v", 100), ("w", 200)] {
        volume(&mut thread, &pool, name);
        fill(&mut thread, &pool, name, seed);
    }
    snapshot(&mut thread, &pool, "v", "s", true);
    checkpoint(&mut thread, &pool);
    assert_eq!(keys(&pool), (2, vec![], 0));
    let family =
        |pool: &Pool, name: &str| pool.status().volumes.iter().find(|v| v.name == name).unwrap().family;
    let before = ["v", "w", "s"].map(|name| family(&pool, name));
    // Nobody begins the next epoch here: what the blocks are under stays. The maps' keys go without one.
    for name in ["v", "w"] {
        let own = pool.clone();
        thread
            .wait(|port| async move { own.erase_volume(&port, name, EraseBy::Operator, false).await })
            .unwrap();
    }
    rest(&mut thread, &pool, 2);
    let after = ["v", "w", "s"].map(|name| family(&pool, name));
    assert!(!before.contains(&after[0]) && !before.contains(&after[1]) && after[0] != after[1]);
    assert_eq!(after[2], before[2], "a copy stays what it is");
    assert_eq!((keys(&pool), pool.take_erased_map_keys()), ((1, vec![], 1), vec![before[1]]));
    // Their next pages are under keys of their own, and no later volume is taken for one of them.
    fill(&mut thread, &pool, "v", 300);
    volume(&mut thread, &pool, "x");
    assert!(!after.contains(&family(&pool, "x")));
    close(&mut thread, pool);
    let pool = open(&mut thread, &path, SIZE);
    assert_eq!(keys(&pool).0, 2);
    assert_eq!(["v", "w", "s"].map(|name| family(&pool, name)), after);
    holds(&mut thread, &pool, "v", 300);
    holds(&mut thread, &pool, "s", 100);
    sound(&mut thread, &pool);
    close(&mut thread, pool);
}

/// A pool of before there were map keys gets them as its pages are written.
#[test]
fn a_pool_of_before_gets_keys() {
    const OLD: u64 = (1 << 20) + 48 * SEGMENT as u64;
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pool-v1/closed.zst");
    let mut image = vec![0; OLD as usize];
    assert_eq!(zstd_safe::decompress(&mut image[..], &std::fs::read(kept).unwrap()), Ok(OLD as usize));
    let folder = Folder::new("mapkeys-old");
    let path = folder.file("p");
    std::fs::write(&path, image).unwrap();
    let mut thread = Thread::default();
    let pool = open(&mut thread, &path, OLD);
    tend(&mut thread, &pool);
    assert_eq!(keys(&pool), (0, vec![], 0));
    let write = |thread: &mut Thread, pool: &Pool, name: &str| {
        let v = pool.volume(name).unwrap();
        let at = Extent { lba: 90, blocks: 1 };
        thread.run(&v, Op::Write { at, data: noise(9).into(), fua: true }).unwrap();
    };
    write(&mut thread, &pool, "v");
    checkpoint(&mut thread, &pool);
    assert_eq!(keys(&pool).0, 1, "the page that v had alone");
    close(&mut thread, pool);
    let pool = open(&mut thread, &path, OLD);
    tend(&mut thread, &pool);
    let v = pool.volume("v").unwrap();
    let read = thread.run(&v, Op::Read { at: Extent { lba: 90, blocks: 1 } }).unwrap();
    assert!(read.to_vec() == noise(9));
    drop(v);
    sound(&mut thread, &pool);
    for name in ["v", "s", "w"] {
        delete(&mut thread, &pool, name);
    }
    rest(&mut thread, &pool, 2);
    assert_eq!(keys(&pool), (0, vec![], 1));
    sound(&mut thread, &pool);
    close(&mut thread, pool);
}
