//! A pool's key slots are replaced: whole or not at all, whatever is interrupted.

use crate::common::{Folder, Power, Thread, secrets, store};
use caisson_block::{Extent, Op};
use caisson_device::FileStore;
use caisson_engine::{ChangeError, Cipher, Create, KeySlot, Options, Pool, PoolId, Settings};
use std::sync::Arc;

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 64 * SEGMENT as u64;

/// Slots as `n` wraps them; long ones, so that they do not fit into one sector.
fn slots(n: u8) -> Vec<KeySlot> {
    let slot = |domain: u32| KeySlot {
        purpose: if domain == 0 { 4 } else { 1 },
        domain,
        epoch: 0,
        provider: format!("provider-{n}"),
        root: format!("root-{n}"),
        blob: vec![n; 3000],
    };
    vec![slot(0), slot(1)]
}

fn open(thread: &mut Thread, stores: Vec<Arc<FileStore>>) -> Pool {
    thread.wait(|port| async move { Pool::open(&port, stores, secrets(), Options::default()).await }).unwrap()
}

/// What a device says before there is a key.
fn labelled(thread: &mut Thread, device: &Arc<FileStore>) -> (u64, Vec<KeySlot>) {
    let device = Arc::clone(device);
    let label = thread.wait(|port| async move { Pool::label(&port, &device).await }).unwrap();
    (label.counter, label.slots)
}

/// A pool in two files with something in it, that nobody has open.
fn made(folder: &Folder) {
    let mut thread = Thread::default();
    let stores = vec![store(&folder.file("a.base"), SIZE), store(&folder.file("b.base"), SIZE)];
    let create =
        Create { id: PoolId([7; 16]), cipher: Cipher::auto(), segment_size: Some(SEGMENT), slots: slots(1) };
    let pool = thread
        .wait(|port| async move { Pool::create(&port, stores, secrets(), create, Options::default()).await })
        .unwrap();
    let own = pool.clone();
    thread.wait(|port| async move {
        own.create_volume(&port, "v", 1 << 20, Settings::default()).await.unwrap();
    });
    let volume = pool.volume("v").unwrap();
    let at = Extent { lba: 3, blocks: 1 };
    thread.run(&volume, Op::Write { at, data: vec![0x5a; 4096].into(), fua: true }).unwrap();
    drop(volume);
    while thread.turn() {}
    pool.abandon();
}

fn reads(thread: &mut Thread, pool: &Pool) {
    let volume = pool.volume("v").unwrap();
    let read = thread.run(&volume, Op::Read { at: Extent { lba: 3, blocks: 1 } }).unwrap();
    assert!(read.to_vec() == [0x5a; 4096]);
}

#[test]
fn slots_are_replaced_in_a_running_pool_and_bad_ones_refused() {
    let folder = Folder::new("rewrap");
    made(&folder);
    let mut thread = Thread::default();
    let stores = || vec![store(&folder.file("a.base"), SIZE), store(&folder.file("b.base"), SIZE)];
    let devices = stores();
    let pool = open(&mut thread, devices.clone());
    assert_eq!(pool.slots(), slots(1));
    let set = |thread: &mut Thread, slots: Vec<KeySlot>| {
        let own = pool.clone();
        thread.wait(|port| async move { own.set_slots(&port, slots).await })
    };
    set(&mut thread, slots(2)).unwrap();
    reads(&mut thread, &pool);
    assert_eq!(pool.slots(), slots(2));
    for device in &devices {
        assert_eq!(labelled(&mut thread, device).1, slots(2));
    }
    let mut long = slots(3);
    long[0].blob = vec![0; 9000];
    let many: Vec<KeySlot> = (0..65).map(|_| slots(3).remove(0)).collect();
    let mut full = slots(3);
    full.extend(slots(3));
    full.extend(slots(3));
    for bad in [long, many, full] {
        let refused = set(&mut thread, bad);
        assert!(matches!(refused, Err(ChangeError::Slots(_))), "{refused:?}");
    }
    assert_eq!(pool.slots(), slots(2), "what is refused changes nothing");
    pool.abandon();
    drop((pool, devices));
    let pool = open(&mut thread, stores());
    assert_eq!(pool.slots(), slots(2));
    reads(&mut thread, &pool);
}

/// The power goes after each operation of a change in turn: the pool opens, with the old slots or the new.
#[test]
fn a_change_that_the_power_interrupts() {
    let folder = Folder::new("rewrap-crash");
    made(&folder);
    let names = ["a", "b"];
    let (mut old, mut new, mut finished) = (0, 0, None);
    for (seed, after) in (0..4u64).flat_map(|seed| (0..40).map(move |after| (seed, after))) {
        if finished == Some(seed) {
            continue;
        }
        for name in names {
            let to = folder.file(name);
            let _ = std::fs::remove_file(&to);
            std::fs::copy(folder.file(&format!("{name}.base")), to).unwrap();
        }
        let stores = || names.map(|n| store(&folder.file(n), SIZE)).to_vec();
        let mut thread = Thread::powered(Power::new((seed << 32) | after));
        let pool = open(&mut thread, stores());
        thread.power().cut_after(after);
        let own = pool.clone();
        let set = thread.attempt(|port| async move { own.set_slots(&port, slots(2)).await.unwrap() });
        pool.abandon();
        thread.power().crash();
        drop((thread, pool));
        if set.is_some() {
            finished = Some(seed);
        }
        let mut thread = Thread::default();
        let devices = stores();
        let newest = devices.iter().map(|d| labelled(&mut thread, d)).max_by_key(|l| l.0).unwrap().1;
        let what = format!("seed {seed}, after {after} operations");
        assert!(newest == slots(1) || newest == slots(2), "{what}: neither the old nor the new");
        let pool = open(&mut thread, devices);
        assert_eq!(pool.slots(), newest, "{what}: what is said before unlocking holds after it");
        assert!(set.is_none() || newest == slots(2), "{what}: what was confirmed is there");
        reads(&mut thread, &pool);
        if newest == slots(1) {
            old += 1
        } else {
            new += 1
        }
        pool.abandon();
    }
    assert!(old > 20 && new > 4, "both sides were seen: {old} old, {new} new");
    assert!(finished.is_some(), "a change was let finish");
}
