//! When writes become durable: one alone at once, many together. No clock: time stands still, and what is counted is turns of the
//! thread and operations of the device.

use crate::common::pools::noise;
use crate::common::{Did, Folder, Thread, secrets, store};
use caisson_block::{Extent, Op};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, PoolVolume, Settings};

/// Turns that pass from the first command of a lone durable write to its end, when the device takes none: to the turn that closes
/// its batch, to the one that is told that this is written, to the one that is told that it is durable, and to the one that goes on.
const ALONE: u64 = 4;

/// A pool on a thread whose background has come to rest, with a volume that has a write cache, or none.
fn pool(folder: &Folder, write_cache: bool) -> (Thread, Pool, PoolVolume) {
    let mut thread = Thread::default();
    let stores = vec![store(&folder.file(&format!("pool{write_cache}")), 64 << 20)];
    let create =
        Create { id: PoolId([7; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
    let settings = Settings { write_cache, ..Settings::default() };
    let pool = thread.wait(|port| async move {
        let pool = Pool::create(&port, stores, secrets(), create, Options::default()).await.unwrap();
        pool.create_volume(&port, "v", 16 << 20, settings).await.unwrap();
        pool
    });
    pool.tend(|make| thread.spawn(make));
    while thread.turn() {}
    let volume = pool.volume("v").unwrap();
    (thread, pool, volume)
}

fn write(n: u64, fua: bool) -> Op {
    Op::Write { at: Extent { lba: n % 4096, blocks: 1 }, data: noise(n).into(), fua }
}

/// Runs one operation; how many turns that took. Nothing but what the operation itself has begun goes on meanwhile, so a turn in
/// which nothing happens would be one that waits for a clock.
fn turns(thread: &mut Thread, volume: &PoolVolume, op: Op) -> u64 {
    thread.submit(volume, 0, op);
    let mut turns = 0;
    loop {
        if let Some((_, outcome)) = thread.completions().next() {
            outcome.unwrap();
            return turns;
        }
        assert!(thread.turn(), "it waits for something that does not come by itself");
        turns += 1;
    }
}

#[test]
fn a_lone_durable_write_waits_for_nobody() {
    let folder = Folder::new("commit-alone");
    for (write_cache, fua) in [(true, true), (false, false)] {
        let (mut thread, pool, volume) = pool(&folder, write_cache);
        for n in 0..20 {
            let before = thread.did();
            let took = turns(&mut thread, &volume, write(n, fua));
            // The first one looks whether others are about, for one turn, and spares the next ones that.
            assert!(took <= ALONE + u64::from(n == 0), "write {n} took {took} turns");
            let did = thread.did();
            assert_eq!(
                did,
                Did { writes: before.writes + 1, syncs: before.syncs + 1 },
                "one batch, made durable once"
            );
            while thread.turn() {}
            assert_eq!(thread.did(), did, "and nothing is left to be done behind it");
        }
        // And as long as the device takes, no longer.
        thread.slow_syncs(100);
        let took = turns(&mut thread, &volume, write(20, fua));
        assert!((100..=100 + ALONE).contains(&took), "{took} turns");
        drop(volume);
        pool.abandon();
    }
}

#[test]
fn with_a_write_cache_a_lone_write_waits_for_no_device() {
    let folder = Folder::new("commit-cached");
    let (mut thread, pool, volume) = pool(&folder, true);
    turns(&mut thread, &volume, write(0, false));
    while thread.turn() {}
    let before = thread.did().syncs;
    for n in 1..20 {
        assert_eq!(
            turns(&mut thread, &volume, write(n, false)),
            0,
            "write {n} is answered where it is submitted"
        );
        while thread.turn() {}
    }
    assert_eq!(thread.did().syncs, before, "nobody asked for it to be durable");
    drop(volume);
    pool.abandon();
}

/// So many writers, each of whom waits for its write before the next one: none waits for more than the commit that is under way and its
/// own, and so they share.
#[test]
fn durable_writes_under_load_share_commits() {
    const WRITERS: u64 = 32;
    const ROUNDS: u64 = 32;
    const SYNC: u64 = 10;
    let folder = Folder::new("commit-load");
    for (write_cache, fua) in [(true, true), (false, false)] {
        let (mut thread, pool, volume) = pool(&folder, write_cache);
        thread.slow_syncs(SYNC);
        let before = thread.did();
        // One comes a turn at first, so that they are not in step by the test's doing.
        let (mut begun, mut ended, mut now, mut longest) = (0, 0, 0, 0);
        let mut since = vec![0; WRITERS as usize];
        while ended < WRITERS * ROUNDS {
            let over: Vec<u32> =
                thread.completions().map(|(tag, outcome)| outcome.map(|_| tag.slot).unwrap()).collect();
            for slot in over {
                ended += 1;
                longest = longest.max(now - since[slot as usize]);
                if begun < WRITERS * ROUNDS {
                    since[slot as usize] = now;
                    thread.submit(&volume, slot, write(begun, fua));
                    begun += 1;
                }
            }
            if now < WRITERS {
                since[now as usize] = now;
                thread.submit(&volume, now as u32, write(begun, fua));
                begun += 1;
            }
            assert!(thread.turn() || ended == WRITERS * ROUNDS, "nothing happens any more");
            now += 1;
        }
        let did = thread.did();
        let (writes, syncs) = (did.writes - before.writes, did.syncs - before.syncs);
        // Two sets of writers at most: one's commit is under way while the other's writes come.
        assert!(syncs <= 2 * ROUNDS + WRITERS / SYNC + 2, "{syncs} syncs for {} writes", WRITERS * ROUNDS);
        assert!(longest <= 2 * SYNC + 2 * ALONE, "one waited for {longest} turns");
        println!("{syncs} syncs, {writes} batches, longest {longest}");
        drop(volume);
        pool.abandon();
    }
}

#[test]
fn large_writes_that_wait_for_nothing_share_batches() {
    const WRITES: u64 = 16;
    let folder = Folder::new("commit-large");
    let (mut thread, pool, volume) = pool(&folder, true);
    let write = |n: u64, to: u64| {
        let data: Vec<u8> = (0..32).flat_map(|i| noise(n * 32 + i)).collect();
        Op::Write { at: Extent { lba: to + n * 32, blocks: 32 }, data: data.into(), fua: false }
    };
    let run = |thread: &mut Thread, to: u64| {
        let before = thread.did();
        (0..WRITES).for_each(|n| thread.submit(&volume, n as u32, write(n, to)));
        let mut left = WRITES;
        while left > 0 {
            thread.completions().for_each(|(_, outcome)| {
                outcome.unwrap();
                left -= 1;
            });
            assert!(left == 0 || thread.turn(), "they wait for something that does not come by itself");
        }
        while thread.turn() {}
        thread.did().writes - before.writes
    };
    run(&mut thread, 0);
    // Nobody waits for these to be durable, and duplicates leave a few bytes in the log each: all that are in line go into few batches,
    // which are written without being asked for.
    let together = run(&mut thread, 2048);
    assert!((1..=4).contains(&together), "{together} writes to the device");
    let status = pool.status();
    assert!(status.duplicate_blocks >= WRITES * 32, "{status:?}");
    drop(volume);
    pool.abandon();
}

#[test]
fn what_is_written_over_with_what_it_is_is_not_logged() {
    let folder = Folder::new("commit-same");
    let (mut thread, pool, volume) = pool(&folder, true);
    let data = |from: u64| -> Vec<u8> { (from..from + 8).flat_map(noise).collect() };
    let write = |data: Vec<u8>, fua| Op::Write { at: Extent { lba: 60, blocks: 8 }, data: data.into(), fua };
    let settle = |thread: &mut Thread| {
        thread.run(&volume, Op::Flush).unwrap();
        while thread.turn() {}
        (pool.status().log_bytes, thread.did().writes)
    };
    thread.run(&volume, write(data(0), false)).unwrap();
    let before = settle(&mut thread);
    for fua in [false, true] {
        thread.run(&volume, write(data(0), fua)).unwrap();
        assert_eq!(settle(&mut thread), before, "nothing changed");
    }
    // Zeroes where nothing is.
    let zeroes = Op::Write { at: Extent { lba: 2000, blocks: 8 }, data: vec![0; 8 * 4096].into(), fua: true };
    thread.run(&volume, zeroes).unwrap();
    assert_eq!(settle(&mut thread), before, "nothing changed");
    // One block that differs, be it known in another place.
    let mut other = data(0);
    other[7 * 4096..].copy_from_slice(&noise(3));
    thread.run(&volume, write(other.clone(), false)).unwrap();
    assert_ne!(settle(&mut thread), before);
    assert_eq!(thread.run(&volume, Op::Read { at: Extent { lba: 60, blocks: 8 } }).unwrap().to_vec(), other);
    drop(volume);
    pool.abandon();
}
