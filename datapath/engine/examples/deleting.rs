//! Whether deletions are felt: reads and writes of 4 KiB, one at a time, alone and while 2,000 snapshots or a large volume are deleted.
//!
//! `cargo run --release -p caisson-engine --example deleting -- [FOLDER] [GIB]`, FOLDER on a file system in memory (/dev/shm), GIB the size of the
//! large volume. Everything runs on one thread, so that no piece of work under the pool's lock is longer than the longest turn.

#[path = "../tests/common/mod.rs"]
mod common;

use caisson_block::{BufList, Extent, Op};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, PoolVolume, Settings};
use common::{Thread, secrets, store};
use std::time::{Duration, Instant};

const BLOCK: u64 = 4096;
const SNAPSHOTS: u64 = 2000;
/// Blocks of the volume that is read and written, and that the snapshots are of.
const USED: u64 = 64 << 10;

/// Content that no other block has, and that is small when it is compressed.
fn content(n: u64, blocks: u64) -> BufList {
    let mut data = vec![0; (blocks * BLOCK) as usize];
    for (i, block) in data.chunks_mut(BLOCK as usize).enumerate() {
        block[..8].copy_from_slice(&(n + i as u64 + 1).to_le_bytes());
    }
    BufList::from(data)
}

/// What was felt.
#[derive(Default)]
struct Felt {
    reads: Vec<Duration>,
    writes: Vec<Duration>,
    turn: Duration,
    x: u64,
}

impl Felt {
    fn random(&mut self) -> u64 {
        self.x = self.x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.x >> 33
    }

    fn turn(&mut self, thread: &mut Thread) {
        let begun = Instant::now();
        assert!(thread.turn(), "nothing happens any more");
        self.turn = self.turn.max(begun.elapsed());
    }

    /// One operation to its end.
    fn run(&mut self, thread: &mut Thread, volume: &PoolVolume, op: Op) -> Duration {
        let begun = Instant::now();
        thread.submit(volume, 0, op);
        loop {
            if let Some((_, outcome)) = thread.completions().next() {
                outcome.expect("it is done");
                return begun.elapsed();
            }
            self.turn(thread);
        }
    }

    /// A read and a write somewhere.
    fn both(&mut self, thread: &mut Thread, volume: &PoolVolume) {
        let (from, to) = (self.random() % USED, self.random() % USED);
        let read = self.run(thread, volume, Op::Read { at: Extent { lba: from, blocks: 1 } });
        self.reads.push(read);
        let data = content(1 << 40 | self.random(), 1);
        let write = Op::Write { at: Extent { lba: to, blocks: 1 }, data, fua: false };
        let write = self.run(thread, volume, write);
        self.writes.push(write);
    }

    fn say(mut self, when: &str) {
        let mut line = String::new();
        for (what, list) in [("read", &mut self.reads), ("write", &mut self.writes)] {
            list.sort_unstable();
            let us = |at: usize| list[at].as_nanos() as f64 / 1e3;
            let (n, last) = (list.len(), list.len() - 1);
            line += &format!(
                "; {what} p50 {:.0}, p99 {:.0}, p99.9 {:.0}, longest {:.0} us",
                us(n / 2),
                us(last * 99 / 100),
                us(last * 999 / 1000),
                us(last)
            );
        }
        println!("{when}: {} of each{line}; longest turn {:.0} us", self.reads.len(), self.turn.as_micros());
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap_or_else(|| "/dev/shm".into());
    let gib: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(8);
    let path = std::path::Path::new(&folder).join(format!("deleting-{}", std::process::id()));
    let mut thread = Thread::default();
    let stores = vec![store(&path, 4 << 30)];
    let create =
        Create { id: PoolId([9; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
    let pool = thread
        .wait(|port| async move { Pool::create(&port, stores, secrets(), create, Options::default()).await })
        .expect("a pool");
    pool.tend(|make| thread.spawn(make));
    let used = fill(&mut thread, &pool, "used", USED);
    drop(fill(&mut thread, &pool, "large", (gib << 30) / BLOCK));

    let mut felt = Felt::default();
    (0..50_000).for_each(|_| felt.both(&mut thread, &used));
    felt.say("alone");

    let begun = Instant::now();
    let felt = delete(&mut thread, &pool, &used, &["large".into()]);
    felt.say(&format!("while {gib} GiB are deleted, {:.2} s", begun.elapsed().as_secs_f64()));

    let mut names = Vec::new();
    let mut felt = Felt::default();
    for n in 0..SNAPSHOTS {
        // Some blocks all over it: a snapshot has pages of its own.
        (0..4).for_each(|_| felt.both(&mut thread, &used));
        let (own, name) = (pool.clone(), format!("s{n}"));
        names.push(name.clone());
        thread
            .wait(|port| async move { own.snapshot(&port, "used", &name, true).await })
            .expect("a snapshot");
    }
    felt.say("while 2,000 snapshots are made");
    let begun = Instant::now();
    let felt = delete(&mut thread, &pool, &used, &names);
    felt.say(&format!("while 2,000 snapshots are deleted, {:.2} s", begun.elapsed().as_secs_f64()));
    drop(used);
    pool.abandon();
    let _ = std::fs::remove_file(&path);
}

fn fill(thread: &mut Thread, pool: &Pool, name: &'static str, blocks: u64) -> PoolVolume {
    let own = pool.clone();
    let settings = Settings { dedup: false, ..Settings::default() };
    thread
        .wait(|port| async move { own.create_volume(&port, name, blocks * BLOCK, settings).await })
        .expect("a volume");
    let volume = pool.volume(name).expect("it was made");
    for lba in (0..blocks).step_by(64) {
        let op = Op::Write { at: Extent { lba, blocks: 64 }, data: content(lba, 64), fua: false };
        thread.run(&volume, op).expect("room");
    }
    volume
}

/// Deletes volumes one behind the other, and reads and writes meanwhile, until nothing of them is left.
fn delete(thread: &mut Thread, pool: &Pool, used: &PoolVolume, names: &[String]) -> Felt {
    let mut felt = Felt { x: 7, ..Felt::default() };
    let (own, names) = (pool.clone(), names.to_vec());
    let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(names.len()));
    let count = std::sync::Arc::clone(&left);
    thread.spawn(|port| async move {
        for name in names {
            own.delete_volume(&port, &name).await.expect("it is there");
            count.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    while left.load(std::sync::atomic::Ordering::Relaxed) > 0 || pool.status().dying > 0 {
        felt.both(thread, used);
    }
    felt
}
