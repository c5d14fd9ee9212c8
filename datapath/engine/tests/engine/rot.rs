//! The last durable batches of a log that came to rest, rotten after a crash: that is damage, and not the log's end.

use crate::common::pools::tend;
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{Extent, Op};
use caisson_engine::{Cipher, Create, OpenError, Options, Pool, PoolId, Settings};
use caisson_log::BatchKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 64 * SEGMENT as u64;
const WRITES: u64 = 4;

fn create(thread: &mut Thread, path: &Path) -> Pool {
    let stores = vec![store(path, SIZE)];
    let pool = thread.wait(|port| async move {
        let (id, cipher) = (PoolId([7; 16]), Cipher::auto());
        let create = Create { id, cipher, segment_size: Some(SEGMENT), slots: Vec::new() };
        let pool = Pool::create(&port, stores, secrets(), create, Options::default()).await.unwrap();
        pool.create_volume(&port, "v", 64 << 12, Settings::default()).await.unwrap();
        pool
    });
    tend(thread, &pool);
    pool
}

fn write(thread: &mut Thread, pool: &Pool, lba: u64, byte: u8) {
    let volume = pool.volume("v").unwrap();
    let at = Extent { lba, blocks: 1 };
    thread.run(&volume, Op::Write { at, data: vec![byte; 4096].into(), fua: true }).unwrap();
    while thread.turn() {}
}

/// Lets the log rest for as long as a witness takes, twice.
fn rest(thread: &mut Thread, pool: &Pool) {
    for _ in 0..4 {
        thread.pass(pool, Duration::from_millis(60));
        while thread.turn() {}
    }
}

/// The batches of the log behind the last checkpoint: where each stands in the file, its bytes, and its number.
fn log(path: &Path) -> Vec<(u64, u64, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let prefix = |at: usize| caisson_log::decode_prefix(&bytes[at..]).ok().map(|p| (at, p));
    let all = (1 << 20..bytes.len()).step_by(4096).filter_map(prefix);
    let mut log: Vec<_> = all
        .filter(|(_, p)| p.kind == BatchKind::Log)
        .map(|(at, p)| (at as u64, p.header.into(), p.batch))
        .collect();
    log.sort_by_key(|l| l.2);
    log
}

/// The pool as a kill leaves it, with the log at rest or not. Gives how many log batches there were before the writes.
fn killed(path: &Path, rests: bool) -> usize {
    let mut thread = Thread::default();
    let pool = create(&mut thread, path);
    while thread.turn() {}
    let before = log(path).len();
    (0..WRITES).for_each(|n| write(&mut thread, &pool, n, n as u8 + 1));
    if rests {
        rest(&mut thread, &pool);
    }
    pool.abandon();
    before
}

fn open(path: &Path) -> Result<Vec<u8>, OpenError> {
    let mut thread = Thread::default();
    let stores = vec![store(path, SIZE)];
    let pool = thread
        .wait(|port| async move { Pool::open_to_read(&port, stores, secrets(), Options::default()).await })?;
    let volume = pool.volume("v").unwrap();
    let first = |n| thread.run(&volume, Op::Read { at: Extent { lba: n, blocks: 1 } }).unwrap().to_vec()[0];
    Ok((0..WRITES).map(first).collect())
}

/// The pool with a bit of its file flipped.
fn flipped(from: &Path, to: &PathBuf, at: u64) {
    std::fs::copy(from, to).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(to).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn rot_in_what_was_durable_is_damage_once_the_log_came_to_rest() {
    let folder = Folder::new("rot");
    let (path, copy) = (folder.file("pool"), folder.file("copy"));
    let before = killed(&path, true);
    let all = log(&path);
    let written = &all[before..];
    // One witness behind the writes, however long it rested.
    assert_eq!(written.len() as u64, WRITES + 1, "{written:?}");
    let whole: Vec<u8> = (1..=WRITES as u8).collect();
    assert_eq!(open(&path).unwrap(), whole);
    for (i, &(at, header, number)) in written.iter().enumerate() {
        // In the prefix, in the header, and (where there is one) in a record.
        for bit in [at + 20, at + 70, at + header + 8] {
            flipped(&path, &copy, bit);
            match open(&copy) {
                Err(OpenError::Damaged { missing, .. }) => {
                    assert_eq!((missing, i < WRITES as usize), (number, true))
                }
                Err(e) => panic!("batch {i}, byte {bit}: {e}"),
                // The witness holds nothing that could be lost.
                Ok(read) => assert_eq!((read, i), (whole.clone(), WRITES as usize), "byte {bit}"),
            }
        }
    }
}

/// What the witness is for: without one, the same damage to the last batch is taken for the log's end.
#[test]
fn without_a_rest_the_last_batch_may_be_taken_for_the_end() {
    let folder = Folder::new("unrested");
    let (path, copy) = (folder.file("pool"), folder.file("copy"));
    let before = killed(&path, false);
    let all = log(&path);
    assert_eq!(all.len() - before, WRITES as usize);
    flipped(&path, &copy, all[all.len() - 1].0 + 70);
    assert_eq!(open(&copy).unwrap(), [1, 2, 3, 0]);
}

/// No rest, however long, writes a second witness, and a checkpoint makes one needless.
#[test]
fn a_pool_that_rests_writes_nothing() {
    let folder = Folder::new("rests");
    let path = folder.file("pool");
    let mut thread = Thread::default();
    let pool = create(&mut thread, &path);
    write(&mut thread, &pool, 1, 1);
    rest(&mut thread, &pool);
    let bytes = pool.status().log_bytes;
    (0..50).for_each(|_| rest(&mut thread, &pool));
    assert_eq!(pool.status().log_bytes, bytes);
    write(&mut thread, &pool, 2, 2);
    let own = pool.clone();
    thread.wait(|port| async move { own.checkpoint(&port).await }).unwrap();
    let bytes = pool.status().log_bytes;
    rest(&mut thread, &pool);
    assert_eq!(pool.status().log_bytes, bytes);
}
