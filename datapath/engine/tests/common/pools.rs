//! What many tests do with a whole pool: make it, have it tended, let time pass, fill it, look whether it is sound, close it.

use super::{Thread, secrets};
use caisson_block::{BlockError, Extent, Op};
use caisson_device::FileStore;
use caisson_engine::{Cipher, Create, KeySlot, OpenError, Options, Pool, PoolId, Secrets};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What a pool is made with.
pub fn made(segment: u32, slots: Vec<KeySlot>) -> Create {
    Create { id: PoolId([7; 16]), cipher: Cipher::auto(), segment_size: Some(segment), slots }
}

/// A pool whose keys are [`secrets`], which nobody tends yet.
pub fn create(thread: &mut Thread, stores: Vec<Arc<FileStore>>, segment: u32, slots: Vec<KeySlot>) -> Pool {
    let (create, options) = (made(segment, slots), Options::default());
    thread.wait(|port| async move { Pool::create(&port, stores, secrets(), create, options).await }).unwrap()
}

/// The pool that stands there, which nobody tends yet.
pub fn open(thread: &mut Thread, stores: Vec<Arc<FileStore>>, secrets: Secrets) -> Result<Pool, OpenError> {
    thread.wait(|port| async move { Pool::open(&port, stores, secrets, Options::default()).await })
}

/// Starts its background on this thread.
pub fn tend(thread: &mut Thread, pool: &Pool) {
    pool.tend(|make| thread.spawn(make));
}

/// Closes it, and lets everything end.
pub fn close(thread: &mut Thread, pool: Pool) {
    let own = pool.clone();
    thread.wait(|port| async move { own.close(&port).await }).unwrap();
    while thread.turn() {}
    pool.abandon();
}

/// Lets so many seconds pass, in which the background does what it wants.
pub fn rest(thread: &mut Thread, pool: &Pool, seconds: u64) {
    for _ in 0..seconds * 20 {
        while thread.turn() {}
        thread.pass(pool, Duration::from_millis(50));
    }
    while thread.turn() {}
}

/// All that was published is durable and covered by a checkpoint.
pub fn checkpoint(thread: &mut Thread, pool: &Pool) {
    let own = pool.clone();
    thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
}

/// Everything is counted and opened again, nothing is wrong, and nothing was.
pub fn sound(thread: &mut Thread, pool: &Pool) {
    let own = pool.clone();
    let report = thread.wait(|port| async move { own.check(&port, |_| {}).await });
    assert!(report.is_sound(), "{report}");
    assert!(pool.status().damage.is_empty(), "{:?}", pool.status().damage);
}

/// A block that does not compress, the same for the same seed, which stands at its front.
pub fn noise(seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..512).flat_map(|_| next()).collect();
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// Writes noise to blocks of a volume, each by a command of its own, and flushes.
pub fn fill(thread: &mut Thread, pool: &Pool, name: &str, blocks: Range<u64>, seed: u64) {
    let volume = pool.volume(name).unwrap();
    for lba in blocks {
        let at = Extent { lba, blocks: 1 };
        thread.run(&volume, Op::Write { at, data: noise(seed + lba).into(), fua: false }).unwrap();
    }
    thread.run(&volume, Op::Flush).unwrap();
}

/// One logical block of a volume.
pub fn read(thread: &mut Thread, pool: &Pool, name: &str, lba: u64) -> Result<Vec<u8>, BlockError> {
    let volume = pool.volume(name).unwrap();
    thread.run(&volume, Op::Read { at: Extent { lba, blocks: 1 } }).map(|list| list.to_vec())
}

/// The volume has what [`fill`] wrote there.
pub fn holds(thread: &mut Thread, pool: &Pool, name: &str, blocks: Range<u64>, seed: u64) {
    for lba in blocks {
        assert!(read(thread, pool, name, lba).unwrap() == noise(seed + lba), "{name}, block {lba}");
    }
}
