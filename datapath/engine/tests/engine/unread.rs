//! A device that answers reads with an error: told apart from content that does not authenticate, everywhere where it is told.

use crate::common::pools::{self, close, noise, tend};
use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{BlockError, Extent, Op};
use caisson_device::{FileStore, StoreError};
use caisson_engine::{Cause, Options, Pool, Problem, Settings};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 64 * SEGMENT as u64;
const BLOCKS: u64 = 40;

/// A pool with one volume, closed.
fn make(path: &Path) {
    let mut thread = Thread::default();
    let stores = vec![store(path, SIZE)];
    let pool = pools::create(&mut thread, stores, SEGMENT, Vec::new());
    let own = pool.clone();
    let made = |port| async move { own.create_volume(&port, "v", BLOCKS << 12, Settings::default()).await };
    thread.wait(made).unwrap();
    tend(&mut thread, &pool);
    let volume = pool.volume("v").unwrap();
    for lba in 0..BLOCKS {
        let at = Extent { lba, blocks: 1 };
        thread.run(&volume, Op::Write { at, data: noise(lba).into(), fua: true }).unwrap();
    }
    drop(volume);
    close(&mut thread, pool);
}

fn open(thread: &mut Thread, path: &Path) -> (Pool, Arc<FileStore>) {
    let own = store(path, SIZE);
    let stores = vec![Arc::clone(&own)];
    let pool = pools::open(thread, stores, secrets()).unwrap();
    tend(thread, &pool);
    while thread.turn() {}
    (pool, own)
}

/// Where the batch stands in the file that carries the content of a block, and its bytes.
fn batches(path: &Path) -> Vec<(u64, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let prefix = |at: usize| caisson_log::decode_prefix(&bytes[at..]).ok().map(|p| (at, p));
    let all = (1 << 20..bytes.len()).step_by(4096).filter_map(prefix);
    all.filter(|(_, p)| p.kind == caisson_log::BatchKind::Log && p.total >= 8192)
        .map(|(at, p)| (at as u64, p.total.into()))
        .collect()
}

#[test]
fn a_read_error_is_the_devices_and_damage_is_the_contents() {
    let folder = Folder::new("unread");
    let path = folder.file("pool");
    make(&path);
    let all = batches(&path);
    let (unreadable, flipped) = (all[3], all[9]);
    // One batch cannot be read; in the record of another, a bit is flipped.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, flipped.0 + 1000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], flipped.0 + 1000).unwrap();
    let bad = std::iter::once(unreadable.0..unreadable.0 + unreadable.1).collect::<Vec<_>>();

    let mut thread = Thread::default();
    let (pool, store) = open(&mut thread, &path);
    thread.unreadable(bad.clone());
    let volume = pool.volume("v").unwrap();
    let lost: Vec<u64> = (0..BLOCKS)
        .filter(|&lba| match thread.run(&volume, Op::Read { at: Extent { lba, blocks: 1 } }) {
            Ok(data) => {
                assert_eq!(data.to_vec(), noise(lba), "block {lba}");
                false
            }
            Err(e) => {
                assert_eq!(e, BlockError::Unreadable { lba });
                true
            }
        })
        .collect();
    assert_eq!(lost.len(), 2, "{lost:?}");

    // The status says of each which it was; the pool and its store go on.
    let status = pool.status();
    assert!(status.fault.is_none() && store.check().is_ok(), "{status:?}");
    assert!(status.device_errors > 0 && store.unread().0 > 0);
    let cause = |lba: u64| {
        let of = |d: &&caisson_engine::Damage| d.block.is_some_and(|(_, block)| block == lba);
        status.damage.iter().find(of).map(|d| (d.cause.clone(), d.to_string())).unwrap()
    };
    let causes: Vec<_> = lost.iter().map(|&lba| cause(lba)).collect();
    let by_device = causes.iter().filter(|(c, _)| matches!(c, Cause::Device { .. })).collect::<Vec<_>>();
    let [(Cause::Device { path: on, offset, error }, words)] = by_device[..] else { panic!("{causes:?}") };
    assert_eq!(Path::new(on), path);
    assert!((unreadable.0..unreadable.0 + unreadable.1).contains(offset));
    assert!(matches!(error, StoreError::Unread { errno: 5, .. }), "{error:?}");
    assert!(words.contains("cannot be read from") && words.contains("os error 5"), "{words}");
    assert_eq!(causes.iter().filter(|(_, w)| w == "a block does not authenticate").count(), 1, "{causes:?}");

    // The scrub says the same.
    pool.scrub_start(0);
    while thread.turn() {}
    let scrub = pool.status().scrub.unwrap();
    assert!(scrub.completed && scrub.hurt_blocks == 2, "{scrub:?}");
    assert!(scrub.warnings.iter().any(|w| w.contains("os error 5")), "{scrub:?}");
    assert_eq!(scrub.bad.len(), 1, "{scrub:?}");
    drop((volume, store));
    close(&mut thread, pool);
    drop(thread);

    // And the check, which finds both again.
    let mut thread = Thread::default();
    let stores = vec![crate::common::store(&path, SIZE)];
    let pool = thread.wait(|port| async move {
        Pool::open_to_read(&port, stores, secrets(), Options::default()).await.unwrap()
    });
    thread.unreadable(bad);
    let report = thread.wait(|port| async move { pool.check(&port, |_| {}).await });
    let device = |p: &&Problem| matches!(p, Problem::Device(words) if words.contains("os error 5"));
    assert!(report.problems.iter().any(|p| device(&p)), "{report}");
    assert_eq!(
        (report.hurt_blocks, report.problems.iter().filter(|p| matches!(p, Problem::Record(_))).count()),
        (2, 1),
        "{report}"
    );
}

/// A device that is not used any more fails the pool at the first read, not only at the next write.
#[test]
fn a_device_that_is_gone_is_the_pools_fault_at_once() {
    let folder = Folder::new("gone");
    let path = folder.file("pool");
    make(&path);
    let mut thread = Thread::default();
    let (pool, store) = open(&mut thread, &path);
    // The file is cut off under it.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let volume = pool.volume("v").unwrap();
    let read = thread.run(&volume, Op::Read { at: Extent { lba: 5, blocks: 1 } });
    assert_eq!(read.err(), Some(BlockError::Failed));
    let fault = pool.status().fault.unwrap();
    assert!(fault.contains("shorter than it was") && fault.contains("pool"), "{fault}");
    assert!(store.check().is_err());
}
