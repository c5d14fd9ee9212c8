//! What is said of a pool's work in numbers, counted: what an opening reads, how small the pieces are that a deletion is done in, and
//! what cleaning writes. Nothing here looks at a clock.

#[path = "../../examples/cleaning/model.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod model;

use crate::common::pools::{self, checkpoint, noise, tend};
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{Extent, Op, Volume};
use caisson_device::sim::Rng;
use caisson_engine::{Options, Pool, PoolVolume, Settings};
use caisson_log::{BatchKind, PREFIX, decode_prefix};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const FRONT: u64 = 1 << 20;
const MIB: u64 = 1 << 20;

fn volume(thread: &mut Thread, pool: &Pool, name: &'static str, bytes: u64) -> PoolVolume {
    let (own, settings) = (pool.clone(), Settings { compression: None, dedup: false, ..Settings::default() });
    thread.wait(|port| async move { own.create_volume(&port, name, bytes, settings).await }).unwrap();
    pool.volume(name).unwrap()
}

fn write(lba: u64, blocks: u64, seed: u64) -> Op {
    let data: Vec<u8> = (0..blocks).flat_map(|n| noise(seed + n)).collect();
    Op::Write { at: Extent { lba, blocks }, data: data.into(), fua: false }
}

/// Whether a request ends before nothing happens any more, and after how many turns.
fn turns(thread: &mut Thread, volume: &dyn Volume, op: Op, mut each: impl FnMut()) -> Option<u64> {
    thread.submit(volume, 0, op);
    for turns in 0.. {
        if let Some((_, outcome)) = thread.completions().next() {
            outcome.unwrap();
            return Some(turns);
        }
        if !thread.turn() {
            break;
        }
        each();
    }
    None
}

const SEGMENT: u64 = 256 << 10;

/// What an opening read of the log, bytes that were read twice counted twice, and of everything else; and how long the log was.
#[derive(Debug)]
struct Opening {
    log: u64,
    rest: u64,
    written: u64,
}

/// Opens a pool whose process was killed when the log could not go on without a checkpoint.
fn opening(folder: &Folder, size: u64, distance: Option<u64>) -> Opening {
    let path = folder.file(&format!("{size}-{}", distance.unwrap_or(0)));
    let options = move || Options { checkpoint_distance: distance, ..Options::default() };
    let mut thread = Thread::default();
    let (stores, create) = (vec![store(&path, size)], pools::made(SEGMENT as u32, Vec::new()));
    let own = options();
    let pool =
        thread.wait(|port| async move { Pool::create(&port, stores, secrets(), create, own).await }).unwrap();
    let v = volume(&mut thread, &pool, "v", 32 * MIB);
    checkpoint(&mut thread, &pool);
    let before = pool.status().log_bytes;
    // Nobody tends it, so no checkpoint makes room; each is a batch, somewhere in the volume.
    let mut rng = Rng::new(1);
    while turns(&mut thread, &v, write(rng.below(8192), 1, rng.below(1 << 40)), || ()).is_some() {
        while thread.turn() {}
    }
    let written = pool.status().log_bytes - before;
    pool.abandon();
    // The write that waits holds the file.
    let killed = folder.file("killed");
    let of_log = copied(&path, &killed);
    std::fs::remove_file(&path).unwrap();
    let mut thread = Thread::default();
    thread.count_reads();
    let stores = vec![store(&killed, size)];
    let pool = thread.wait(|port| async move { Pool::open(&port, stores, secrets(), options()).await });
    pool.unwrap().abandon();
    let (mut log, mut rest) = (0, 0);
    for read in thread.count_reads() {
        let segment = read.start.checked_sub(FRONT).map(|at| at / SEGMENT);
        let bytes = if segment.is_some_and(|s| of_log.contains(&s)) { &mut log } else { &mut rest };
        *bytes += read.end - read.start;
    }
    std::fs::remove_file(&killed).unwrap();
    Opening { log, rest, written }
}

/// Copies a pool's file, holes as holes. Gives the segments that batches of the log stand in.
fn copied(from: &Path, to: &Path) -> BTreeSet<u64> {
    let (from, to) = (File::open(from).unwrap(), File::create_new(to).unwrap());
    let size = from.metadata().unwrap().len();
    to.set_len(size).unwrap();
    let mut log = BTreeSet::new();
    let mut bytes = vec![0; SEGMENT as usize];
    for at in (0..size).step_by(SEGMENT as usize) {
        from.read_exact_at(&mut bytes, at).unwrap();
        if bytes.iter().all(|b| *b == 0) {
            continue;
        }
        to.write_all_at(&bytes, at).unwrap();
        let is_log = |front: &[u8]| decode_prefix(front).is_ok_and(|p| p.kind == BatchKind::Log);
        if at >= FRONT && bytes.chunks(4096).any(|block| is_log(&block[..PREFIX])) {
            log.insert((at - FRONT) / SEGMENT);
        }
    }
    log
}

/// Of the log, the segments that the root reserved: the checkpoint distance and three more. Each batch is read once, and its first block
/// once more.
#[test]
fn an_opening_reads_what_the_checkpoint_distance_says_however_large_the_pool_is() {
    let folder = Folder::new("bounds-opening");
    let distance = 4 * MIB;
    let all: Vec<(u64, Opening)> =
        [64, 256, 1024].map(|mib| (mib, opening(&folder, mib * MIB, Some(distance)))).into();
    for (mib, o) in &all {
        println!("{mib} MiB: {o:?}");
        let most = distance + 3 * SEGMENT;
        assert!(
            o.written >= distance && o.written <= most,
            "{mib} MiB: the log is as long as it can be: {o:?}"
        );
        assert!(o.log <= most / 2 * 3, "{mib} MiB: {o:?}");
        // Superblocks and root, and pages of the tables, of which a write changes so many at most.
        assert!(o.rest <= distance / 2, "{mib} MiB: {o:?}");
    }
    let (small, large) = (&all[0].1, &all[2].1);
    assert_eq!(small.log, large.log, "sixteen times the pool, and the same log");
    let segments = (1024 - 64) * MIB / SEGMENT;
    assert!(
        large.rest <= small.rest + 32 * segments + 64 * 1024,
        "but for the segment table: {small:?} {large:?}"
    );
    // Where nobody set a distance, it is an eighth of a pool of this size.
    let own = opening(&folder, 64 * MIB, None);
    println!("an eighth of 64 MiB: {own:?}");
    let most = 8 * MIB + 3 * SEGMENT;
    assert!(own.written >= 8 * MIB - SEGMENT && own.written <= most && own.log <= most / 2 * 3, "{own:?}");
}

const SNAPSHOTS: u64 = 2000;
/// Blocks of the volume that is read, of which the snapshots are: four leaves of its map.
const USED: u64 = 2048;
/// Blocks of a leaf.
const LEAF: u64 = 512;

/// Reads one block after the other while volumes are deleted, and gives the most turns that one took, how many there were, and the most
/// blocks that were given back in one turn, where `look` has that counted.
fn delete(
    thread: &mut Thread,
    pool: &Pool,
    v: &PoolVolume,
    names: Vec<String>,
    look: bool,
) -> (u64, u64, u64) {
    let left = Arc::new(AtomicUsize::new(names.len()));
    let (own, count) = (pool.clone(), Arc::clone(&left));
    thread.spawn(|port| async move {
        for name in names {
            own.delete_volume(&port, &name).await.unwrap();
            count.fetch_sub(1, Ordering::Relaxed);
        }
    });
    let mut rng = Rng::new(3);
    let (mut most, mut reads, mut step) = (0, 0, 0);
    let stored = || pool.status().unique / 4096;
    let mut last = stored();
    while left.load(Ordering::Relaxed) > 0 || pool.status().dying > 0 {
        let at = Extent { lba: rng.below(USED), blocks: 1 };
        let each = || {
            if look {
                let now = stored();
                step = step.max(last - now);
                last = now;
            }
        };
        most = most.max(turns(thread, v, Op::Read { at }, each).unwrap());
        reads += 1;
    }
    (most, reads, step)
}

/// A thread does everything that is ready in a turn, and one piece of what is heavy. So a read that is handed in while volumes are deleted
/// takes its own turns, and a deletion gets no more done in between than a leaf of a map.
#[test]
fn deletions_go_on_in_pieces_and_reads_in_between() {
    let folder = Folder::new("bounds-deletion");
    let mut thread = Thread::default();
    let stores = vec![store(&folder.file("p"), 256 * MIB)];
    let pool = pools::create(&mut thread, stores, SEGMENT as u32, Vec::new());
    tend(&mut thread, &pool);
    let v = volume(&mut thread, &pool, "v", USED * 4096);
    let large = volume(&mut thread, &pool, "large", 64 * MIB);
    for (volume, blocks) in [(&v, USED), (&large, 16 * LEAF)] {
        for lba in (0..blocks).step_by(64) {
            thread.run(volume, write(lba, 64, lba)).unwrap();
        }
    }
    drop(large);
    checkpoint(&mut thread, &pool);
    while thread.turn() {}
    let mut rng = Rng::new(2);
    let read = |lba| Op::Read { at: Extent { lba, blocks: 1 } };
    let alone =
        (0..200).map(|_| turns(&mut thread, &v, read(rng.below(USED)), || ()).unwrap()).max().unwrap();

    let (most, reads, step) = delete(&mut thread, &pool, &v, vec!["large".into()], true);
    println!("alone {alone} turns; a volume: {reads} reads of at most {most} turns, {step} blocks a turn");
    assert!(step > 0 && step <= LEAF, "{step} blocks were given back in one turn");
    assert!(most <= alone + 1 && reads >= 16, "{reads} reads took up to {most} turns, alone {alone}");

    let mut names = Vec::new();
    for n in 0..SNAPSHOTS {
        // A leaf of its own for each, and the pages above it.
        thread.run(&v, write(rng.below(USED), 1, 1 << 40 | n)).unwrap();
        let (own, name) = (pool.clone(), format!("s{n}"));
        names.push(name.clone());
        thread.wait(|port| async move { own.snapshot(&port, "v", &name, true).await }).unwrap();
    }
    let (most, reads, _) = delete(&mut thread, &pool, &v, names, false);
    println!("{SNAPSHOTS} snapshots: {reads} reads of at most {most} turns");
    assert!(most <= alone + 1, "{reads} reads took up to {most} turns, alone {alone}");
    assert!(reads > SNAPSHOTS, "and there is a turn for reads in between: {reads}");
    pools::sound(&mut thread, &pool);
    pool.abandon();
}

const AT_ONCE: u32 = 32;

/// Overwrites so many blocks at random.
fn overwrite(thread: &mut Thread, volume: &PoolVolume, blocks: u64, times: u64, rng: &mut Rng) {
    let (mut begun, mut left, mut free) = (0, times, Vec::from_iter(0..AT_ONCE));
    while left > 0 {
        while begun < times
            && let Some(slot) = free.pop()
        {
            begun += 1;
            let lba = rng.below(blocks);
            let op = Op::Write {
                at: Extent { lba, blocks: 1 },
                data: vec![lba as u8 | 1; 4096].into(),
                fua: false,
            };
            thread.submit(volume, slot, op);
        }
        thread.completions().for_each(|(tag, outcome)| {
            outcome.unwrap();
            free.push(tag.slot);
            left -= 1;
        });
        assert!(left == 0 || thread.turn(), "nothing happens any more");
    }
}

/// A pool that is 80 % full and overwritten at random. The closed form of cleaning in the order of age, which greedy cleaning comes to
/// under such a load, is that of a log which uses all of its segments to the last byte. Here some lie idle: those that are kept for
/// checkpoints and the cleaner, which the pool's limit leaves out, and those that the log is ahead, a 48th of a small pool; and of each
/// segment, headers take the room of a block.
#[test]
fn cleaning_costs_what_the_closed_form_says() {
    const SEGMENTS: u64 = 1024;
    const SIZE: u64 = 128 << 10;
    let folder = Folder::new("bounds-cleaning");
    let mut thread = Thread::default();
    let stores = vec![store(&folder.file("p"), FRONT + SEGMENTS * SIZE)];
    let pool = pools::create(&mut thread, stores, SIZE as u32, Vec::new());
    tend(&mut thread, &pool);
    let v = volume(&mut thread, &pool, "v", SEGMENTS * SIZE);
    let mut blocks = 0;
    while pool.status().live < SEGMENTS * SIZE / 100 * 80 {
        thread.run(&v, write(blocks, 32, blocks)).unwrap();
        blocks += 32;
    }
    let mut rng = Rng::new(5);
    overwrite(&mut thread, &v, blocks, blocks * 3 / 2, &mut rng);
    let before = pool.status();
    overwrite(&mut thread, &v, blocks, blocks, &mut rng);
    let now = pool.status();
    let host = (now.stored_bytes - before.stored_bytes) as f64;
    let log = (now.log_bytes - before.log_bytes) as f64 / host;
    let moved = (now.moved_bytes - before.moved_bytes) as f64 / host;
    let usable = now.limit / 15 * 16 / SIZE - SEGMENTS / 48;
    let fits = usable * (SIZE / 4096 - 1);
    let form = model::closed_form(fits as f64 / blocks as f64);
    let cost = log + moved;
    println!("{blocks} of {fits} blocks: log {log:.2}, cleaner {moved:.2}; closed form {form:.2}");
    assert!(cost > form * 0.85 && cost < form * 1.2, "{cost:.2}, not {form:.2}");
    pool.abandon();
}
