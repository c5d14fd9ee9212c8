//! What the simulated disk promises of its faults.

use super::*;
use crate::{Alignment, Client, FileStore, StoreError};
use caisson_block::{Buf, BufList, BufMut, Cx, IoKind};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const ALIGN: Alignment = Alignment { memory: 1, offset: 512 };

type End = (u64, BufList, Result<(), StoreError>);

#[derive(Default)]
struct Ends(Mutex<Vec<End>>);

impl Client for Ends {
    fn finished(self: Arc<Self>, _: &mut Cx<'_>, token: u64, bufs: BufList, result: Result<(), StoreError>) {
        self.0.lock().unwrap().push((token, bufs, result));
    }
}

/// Runs one operation to its end.
fn io(store: &Arc<FileStore>, t: &mut SimThread, kind: IoKind, offset: u64, bufs: BufList) -> BufList {
    let ends = Arc::new(Ends::default());
    let mut rng = Rng::new(1);
    t.run(|cx| store.start(cx, kind, offset, bufs, ends.clone(), 0)).unwrap();
    while t.turn(&mut rng) {}
    let (_, bufs, result) = ends.0.lock().unwrap().pop().unwrap();
    result.unwrap();
    bufs
}

fn write(store: &Arc<FileStore>, t: &mut SimThread, offset: u64, byte: u8, len: usize) {
    io(store, t, IoKind::Write { dsync: false }, offset, Buf::from(vec![byte; len]).into());
}

fn disk(seed: u64) -> (Arc<SimDisk>, Arc<FileStore>, SimThread) {
    let disk = SimDisk::new(seed, 1 << 20, 512, ALIGN, true, Faults::default());
    let (store, thread) = (disk.store(), SimThread::new(&disk));
    (disk, store, thread)
}

#[test]
fn a_power_failure_leaves_any_mixture_of_what_was_not_synced() {
    let mut left = BTreeSet::new();
    for seed in 0..200 {
        let (disk, store, mut t) = disk(seed);
        write(&store, &mut t, 0, 1, 1024);
        io(&store, &mut t, IoKind::Sync, 0, BufList::new());
        write(&store, &mut t, 0, 2, 512);
        write(&store, &mut t, 512, 3, 512);
        write(&store, &mut t, 0, 4, 512);
        disk.crash();
        let bytes = disk.peek(0, 1024);
        for half in bytes.chunks(512) {
            assert!(half.iter().all(|b| *b == half[0]), "a sector is torn");
        }
        left.insert((bytes[0], bytes[512]));
    }
    let all = [1, 2, 4].into_iter().flat_map(|a| [(a, 1), (a, 3)]).collect();
    assert_eq!(left, all);
}

#[test]
fn what_is_synced_or_killed_stays() {
    for seed in 0..50 {
        let (disk, store, mut t) = disk(seed);
        write(&store, &mut t, 0, 1, 4096);
        io(&store, &mut t, IoKind::Sync, 0, BufList::new());
        io(&store, &mut t, IoKind::Write { dsync: true }, 8192, Buf::from(vec![2; 512]).into());
        disk.crash();
        assert!(disk.peek(0, 4096).iter().all(|b| *b == 1));
        assert!(disk.peek(8192, 512).iter().all(|b| *b == 2));
        write(&store, &mut t, 0, 3, 4096);
        io(&store, &mut t, IoKind::PunchHole { len: 512 }, 8192, BufList::new());
        disk.kill();
        assert!(disk.peek(0, 4096).iter().all(|b| *b == 3));
        assert!(disk.peek(8192, 512).iter().all(|b| *b == 0));
    }
}

#[test]
fn old_contents_come_back_and_images_too() {
    let (disk, store, mut t) = disk(1);
    disk.remember(8);
    write(&store, &mut t, 4096, 1, 4096);
    let image = disk.image();
    write(&store, &mut t, 4096, 2, 4096);
    assert_eq!((disk.remembered(), disk.written_pages()), (1, vec![1]));
    disk.damage(Damage::Stale { index: 0 });
    assert_eq!(disk.peek(4096, 1), [1]);
    write(&store, &mut t, 0, 3, 4096);
    disk.restore(&image);
    disk.crash();
    assert_eq!((disk.peek(0, 1), disk.peek(4096, 1)), (vec![0], vec![1]));
    disk.damage(Damage::Flip { at: 4097, bit: 3 });
    disk.damage(Damage::Swap { a: 0, b: 4096, len: 4096 });
    assert_eq!(disk.peek(0, 3), [1, 9, 1]);
}

#[test]
fn a_synthetic_disk_keeps_what_it_is_told_to() {
    let heads: Keep =
        Box::new(
            |at, bytes| {
                if at == 0 { std::iter::once(0..bytes.len()).collect() } else { vec![0..100, 5000..5001] }
            },
        );
    let disk = SimDisk::synthetic(1 << 50, ALIGN, heads);
    let (store, mut t) = (disk.store(), SimThread::new(&disk));
    write(&store, &mut t, 0, 1, 8192);
    let far = (1 << 50) - (1 << 20);
    write(&store, &mut t, far, 2, 1 << 20);
    assert_eq!(disk.written_pages().len(), 4);
    assert!(disk.memory() <= 4 * 4096);
    disk.crash();
    let mut read = BufMut::zeroed(8192);
    read.fill(7);
    let read = io(&store, &mut t, IoKind::Read, far, read.freeze().into()).to_vec();
    assert!(read[..100].iter().all(|b| *b == 2) && read[100..5000].iter().all(|b| *b == 0));
    assert_eq!(read[5000..5002], [2, 0]);
}

#[test]
fn a_disk_that_grew_tells_the_store_when_asked() {
    let (disk, store, mut t) = disk(1);
    disk.grow(2 << 20);
    assert_eq!(store.reread_size_blocking().unwrap(), 2 << 20);
    write(&store, &mut t, (2 << 20) - 512, 9, 512);
    assert_eq!(disk.contents().len(), 2 << 20);
}

#[test]
fn who_watches_sees_writes_and_syncs_in_order() {
    let (disk, store, mut t) = disk(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    disk.set_watch(Box::new(move |event| kept.lock().unwrap().push(format!("{event:?}").len())));
    write(&store, &mut t, 0, 1, 512);
    io(&store, &mut t, IoKind::Sync, 0, BufList::new());
    disk.kill();
    assert_eq!(seen.lock().unwrap().len(), 3);
}
