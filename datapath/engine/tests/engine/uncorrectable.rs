//! Write Uncorrectable of parts of blocks, on a volume with logical blocks of 512 bytes: each sector is one that reads, with what was
//! written last, or one that does not, whatever becomes of the seven others of its 4 KiB.

use crate::common::pools::{self, checkpoint, close, noise, rest, sound, tend};
use crate::common::{Folder, Power, Thread, secrets, store};
use caisson_block::{BlockError, Extent, Op, Volume};
use caisson_device::sim::Rng;
use caisson_engine::{Level, Pool, PoolVolume, Settings};
use std::path::Path;

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 64 * SEGMENT as u64;
const SECTORS: u64 = 256;
const SECTOR: usize = 512;

/// What a sector holds; `None` where it is marked.
type Model = Vec<Option<Vec<u8>>>;

fn made(thread: &mut Thread, path: &Path, settings: Settings) -> (Pool, PoolVolume) {
    let pool = pools::create(thread, vec![store(path, SIZE)], SEGMENT, Vec::new());
    tend(thread, &pool);
    let own = pool.clone();
    let settings = Settings { block_size: 512, ..settings };
    let bytes = SECTORS * SECTOR as u64;
    thread.wait(|port| async move { own.create_volume(&port, "v", bytes, settings).await }).unwrap();
    let volume = pool.volume("v").unwrap();
    (pool, volume)
}

fn reopened(thread: &mut Thread, path: &Path) -> (Pool, PoolVolume) {
    let pool = pools::open(thread, vec![store(path, SIZE)], secrets()).unwrap();
    tend(thread, &pool);
    let volume = pool.volume("v").unwrap();
    (pool, volume)
}

fn at(lba: u64, blocks: u64) -> Extent {
    Extent { lba, blocks }
}

/// So many sectors of content.
fn data(seed: u64, sectors: u64) -> Vec<u8> {
    let blocks = (0..sectors.div_ceil(8)).flat_map(|n| noise(1000 * seed + n));
    blocks.take(sectors as usize * SECTOR).collect()
}

fn write(thread: &mut Thread, volume: &dyn Volume, lba: u64, data: &[u8]) {
    let at = at(lba, (data.len() / SECTOR) as u64);
    thread.run(volume, Op::Write { at, data: data.to_vec().into(), fua: false }).unwrap();
}

fn mark(thread: &mut Thread, volume: &dyn Volume, at: Extent) {
    thread.run(volume, Op::WriteUncorrectable { at }).unwrap();
}

fn read(thread: &mut Thread, volume: &dyn Volume, at: Extent) -> Result<Vec<u8>, BlockError> {
    thread.run(volume, Op::Read { at }).map(|list| list.to_vec())
}

/// Every sector alone, and every run of nine, is what the model says; and no device was at fault, nor anything damaged.
fn judge(thread: &mut Thread, pool: &Pool, volume: &dyn Volume, model: &Model, what: &str) {
    for (lba, want) in (0..).zip(model) {
        let want = want.clone().ok_or(BlockError::Unreadable { lba });
        assert!(read(thread, volume, at(lba, 1)) == want, "sector {lba} {what}");
    }
    for lba in 0..SECTORS - 9 {
        let run = &model[lba as usize..lba as usize + 9];
        let want = match (lba..).zip(run).find(|(_, sector)| sector.is_none()) {
            Some((first, _)) => Err(BlockError::Unreadable { lba: first }),
            None => Ok(run.iter().flatten().flatten().copied().collect()),
        };
        assert!(read(thread, volume, at(lba, 9)) == want, "nine sectors from {lba} on {what}");
    }
    assert!(pool.status().damage.is_empty(), "a mark is no damage {what}: {:?}", pool.status().damage);
}

#[test]
fn a_mark_is_as_long_as_what_was_asked_for() {
    let folder = Folder::new("uncorrectable-marks");
    let mut thread = Thread::default();
    let (pool, v) = made(&mut thread, &folder.file("p"), Settings::default());
    let content = data(1, 64);
    write(&mut thread, &v, 0, &content);
    // In one block, over two edges with whole blocks between, and of what nothing was written to.
    for (lba, blocks) in [(3, 2), (13, 22), (100, 1)] {
        mark(&mut thread, &v, at(lba, blocks));
    }
    let mut model: Model = (0..SECTORS as usize)
        .map(|n| Some(content.get(n * SECTOR..(n + 1) * SECTOR).unwrap_or(&[0; SECTOR]).to_vec()))
        .collect();
    [3, 4, 100].into_iter().chain(13..35).for_each(|lba: usize| model[lba] = None);
    judge(&mut thread, &pool, &v, &model, "at first");
    // What looks at marked sectors fails; what looks beside them does not.
    let unreadable = |lba| Err(BlockError::Unreadable { lba });
    let compare = |lba: u64, n: u64| Op::Compare {
        at: at(lba, n),
        data: content[lba as usize * SECTOR..][..n as usize * SECTOR].to_vec().into(),
    };
    let verify = |lba, n| Op::Verify { at: at(lba, n) };
    let mut run = |op| thread.run(&v, op).map(drop);
    assert_eq!(run(verify(0, 64)), unreadable(3));
    assert_eq!(run(verify(5, 8)), Ok(()));
    assert_eq!(run(compare(2, 2)), unreadable(3));
    assert_eq!(run(compare(5, 8)), Ok(()));
    let copy = |to, from| Op::Copy { to, from: vec![from], fua: false };
    assert_eq!(run(copy(200, at(4, 3))), unreadable(4));
    assert_eq!(run(copy(200, at(5, 8))), Ok(()));
    // A copy into a block that has marks leaves those beside it.
    assert_eq!(run(copy(16, at(5, 1))), Ok(()));
    let swap = |lba: u64, expect: &[u8], new: u8| Op::CompareAndWrite {
        at: at(lba, 1),
        expect: expect.to_vec().into(),
        data: vec![new; SECTOR].into(),
        fua: false,
    };
    assert_eq!(run(swap(3, &[0; SECTOR], 7)), unreadable(3));
    assert_eq!(run(swap(2, &content[2 * SECTOR..3 * SECTOR], 8)), Ok(()));
    (0..8).for_each(|n| model[200 + n] = model[5 + n].clone());
    (model[16], model[2]) = (model[5].clone(), Some(vec![8; SECTOR]));
    judge(&mut thread, &pool, &v, &model, "after those that looked");
    // What is written is healed, that alone, whichever command wrote it.
    write(&mut thread, &v, 3, &[9; SECTOR]);
    thread.run(&v, Op::WriteZeroes { at: at(14, 1), deallocate: false, fua: false }).unwrap();
    thread.run(&v, Op::Deallocate { ranges: vec![at(20, 10), at(34, 2)] }).unwrap();
    model[3] = Some(vec![9; SECTOR]);
    [14, 34, 35].into_iter().chain(20..30).for_each(|lba: usize| model[lba] = Some(vec![0; SECTOR]));
    judge(&mut thread, &pool, &v, &model, "after some were healed");
    rest(&mut thread, &pool, 1);
    sound(&mut thread, &pool);
    drop(v);
    close(&mut thread, pool);
}

#[test]
fn marks_are_kept_by_all_that_is_done_beside_them() {
    let plain = Settings { compression: None, dedup: false, ..Settings::default() };
    let compared = Settings { verify: true, compression: Level::new(3), ..Settings::default() };
    for (seed, settings) in [(1, Settings::default()), (2, plain), (3, compared)] {
        let folder = Folder::new(&format!("uncorrectable-random-{seed}"));
        let path = folder.file("p");
        let mut thread = Thread::default();
        let (mut pool, mut v) = made(&mut thread, &path, settings);
        let mut model: Model = vec![Some(vec![0; SECTOR]); SECTORS as usize];
        let mut rng = Rng::new(seed);
        for round in 0..6 {
            for step in 0..60 {
                let lba = rng.below(SECTORS - 24);
                let most = [3, 8, 24][rng.below(3) as usize];
                let blocks = 1 + rng.below(most);
                let range = lba as usize..(lba + blocks) as usize;
                match rng.below(8) {
                    0..3 => {
                        mark(&mut thread, &v, at(lba, blocks));
                        model[range].fill(None);
                    }
                    3 => {
                        let ranges = vec![at(lba, blocks)];
                        thread.run(&v, Op::Deallocate { ranges }).unwrap();
                        model[range].fill(Some(vec![0; SECTOR]));
                    }
                    // The same contents again and again, so that there are duplicates.
                    _ => {
                        let bytes = data(rng.below(3), blocks);
                        write(&mut thread, &v, lba, &bytes);
                        let sectors = bytes.chunks(SECTOR).map(|s| Some(s.to_vec()));
                        model[range].iter_mut().zip(sectors).for_each(|(m, s)| *m = s);
                    }
                }
                if step % 20 == 19 {
                    judge(&mut thread, &pool, &v, &model, &format!("seed {seed}, {round}.{step}"));
                }
            }
            // What stood in open batches stands on the device, then is read as an opening finds it.
            checkpoint(&mut thread, &pool);
            rest(&mut thread, &pool, 2);
            if round % 2 == 1 {
                drop(v);
                close(&mut thread, pool);
                (pool, v) = reopened(&mut thread, &path);
            }
            judge(&mut thread, &pool, &v, &model, &format!("seed {seed}, round {round}"));
            sound(&mut thread, &pool);
        }
    }
}

#[test]
fn what_is_left_of_a_marked_block_is_no_duplicate() {
    let folder = Folder::new("uncorrectable-duplicates");
    let mut thread = Thread::default();
    let (pool, v) = made(&mut thread, &folder.file("p"), Settings::default());
    // The bytes of a marked block, as it stands in memory, written as they are to others, before and behind it.
    let mut block = data(1, 8);
    block[SECTOR..2 * SECTOR].fill(0);
    write(&mut thread, &v, 0, &block);
    write(&mut thread, &v, 8, &block);
    mark(&mut thread, &v, at(9, 1));
    write(&mut thread, &v, 16, &block);
    // And in one command with it: its first block is partly marked, and its second has what is left of that.
    let rest = [&[0; 2 * SECTOR], &block[2 * SECTOR..]].concat();
    write(&mut thread, &v, 26, &rest[2 * SECTOR..]);
    mark(&mut thread, &v, at(25, 1));
    write(&mut thread, &v, 26, &[&rest[2 * SECTOR..], &rest[..]].concat());
    for (lba, want) in [(0, &block), (16, &block), (32, &rest)] {
        assert!(read(&mut thread, &v, at(lba, 8)) == Ok(want.clone()), "block at {lba}");
    }
    assert_eq!(read(&mut thread, &v, at(8, 8)), Err(BlockError::Unreadable { lba: 9 }));
    assert_eq!(read(&mut thread, &v, at(25, 8)), Err(BlockError::Unreadable { lba: 25 }));
    let stored = || pool.status().unique / 4096;
    assert_eq!(stored(), 4, "one for two addresses, and each marked one and its rest by itself");
    // When it is healed it is a duplicate again.
    write(&mut thread, &v, 9, &[0; SECTOR]);
    assert!(read(&mut thread, &v, at(8, 8)) == Ok(block.clone()));
    assert_eq!(stored(), 3);
    sound(&mut thread, &pool);
}

#[test]
fn snapshots_and_clones_have_the_marks_of_their_time() {
    let folder = Folder::new("uncorrectable-snapshots");
    let path = folder.file("p");
    let mut thread = Thread::default();
    let (pool, v) = made(&mut thread, &path, Settings::default());
    let content = data(4, 16);
    write(&mut thread, &v, 0, &content);
    mark(&mut thread, &v, at(2, 1));
    for (name, read_only) in [("s", true), ("c", false)] {
        let own = pool.clone();
        thread.wait(|port| async move { own.snapshot(&port, "v", name, read_only).await }).unwrap();
    }
    write(&mut thread, &v, 2, &content[2 * SECTOR..3 * SECTOR]);
    mark(&mut thread, &pool.volume("c").unwrap(), at(5, 1));
    drop(v);
    rest(&mut thread, &pool, 2);
    close(&mut thread, pool);
    let (pool, v) = reopened(&mut thread, &path);
    assert!(read(&mut thread, &v, at(0, 16)) == Ok(content.clone()));
    let marks = |thread: &mut Thread, name: &str| -> Vec<u64> {
        let volume = pool.volume(name).unwrap();
        (0..16).filter(|lba| read(thread, &volume, at(*lba, 1)).is_err()).collect()
    };
    assert_eq!((marks(&mut thread, "s"), marks(&mut thread, "c")), (vec![2], vec![2, 5]));
    sound(&mut thread, &pool);
}

/// The power fails at each write and sync of a mark inside of a block: whether it is there or not, the other sectors are; and when it was
/// confirmed it is.
#[test]
fn a_mark_that_the_power_interrupts() {
    let folder = Folder::new("uncorrectable-power");
    let base = folder.file("base");
    let mut thread = Thread::default();
    let (pool, v) = made(&mut thread, &base, Settings::default());
    let content = data(6, 32);
    write(&mut thread, &v, 0, &content);
    drop(v);
    close(&mut thread, pool);
    let (mut before, mut after) = (0, 0);
    for cut in 0.. {
        // What waits for power holds its file: what is left is looked at in another one.
        let (path, left) = (folder.file(&format!("{cut}")), folder.file(&format!("{cut}-left")));
        std::fs::copy(&base, &path).unwrap();
        let mut thread = Thread::powered(Power::new(cut));
        let (pool, v) = reopened(&mut thread, &path);
        while thread.turn() {}
        thread.power().cut_after(cut);
        // An edge, a whole block, and an edge.
        thread.submit(&v, 0, Op::WriteUncorrectable { at: at(5, 14) });
        while thread.turn() {}
        let confirmed = thread.completions().any(|(_, outcome)| outcome.is_ok());
        let whole = !thread.power().is_off();
        thread.power().crash();
        pool.abandon();
        std::fs::copy(&path, &left).unwrap();
        let mut thread = Thread::default();
        let (pool, v) = reopened(&mut thread, &left);
        let mut marked = Vec::new();
        for lba in 0..32 {
            match read(&mut thread, &v, at(lba, 1)) {
                Ok(bytes) => assert!(bytes == content[lba as usize * SECTOR..][..SECTOR], "{cut}: {lba}"),
                Err(e) => {
                    assert_eq!(e, BlockError::Unreadable { lba }, "{cut}");
                    marked.push(lba);
                }
            }
        }
        // Each block is marked or is not.
        for part in [5..8, 8..16, 16..19u64] {
            let n = marked.iter().filter(|lba| part.contains(*lba)).count() as u64;
            assert!(n == 0 || n == part.end - part.start, "{cut}: {marked:?}");
        }
        let all: Vec<u64> = (5..19).collect();
        assert!(marked.iter().all(|lba| all.contains(lba)) && (!confirmed || marked == all), "{cut}");
        sound(&mut thread, &pool);
        before += u64::from(marked.is_empty());
        after += u64::from(marked == all);
        if whole {
            assert!(confirmed);
            break;
        }
    }
    assert!(before > 0 && after > 0, "{before} without, {after} with");
}
