//! Key epochs and domains on real files: what is sealed anew, what an ended epoch's key still opens, and what is left of a domain.

use crate::common::keys::{epoch, first_slots, unlocked};
use crate::common::pools::{self, close, fill, holds, noise, rest, sound, tend};
use crate::common::{Folder, Power, Thread, store};
use caisson_block::{BlockError, Extent, Op};
use caisson_device::FileStore;
use caisson_engine::{ChangeError, KeySlot, OpenError, Pool, Secrets, Settings, Superblock};
use std::sync::Arc;
use std::time::Duration;

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 96 * SEGMENT as u64;
const VOLUME: u64 = 1 << 20;

fn stores(folder: &Folder) -> Vec<Arc<FileStore>> {
    ["a", "b"].map(|name| store(&folder.file(name), SIZE)).to_vec()
}

/// A pool in two files, with its background at work.
fn make(thread: &mut Thread, folder: &Folder) -> Pool {
    let pool = pools::create(thread, stores(folder), SEGMENT, first_slots());
    tend(thread, &pool);
    pool
}

/// The slots of the newest superblock, read without a lock.
fn slots_of(folder: &Folder) -> Vec<KeySlot> {
    let mut newest: Option<Superblock> = None;
    for name in ["a", "b"] {
        let bytes = std::fs::read(folder.file(name)).unwrap();
        for at in [0, 512 << 10] {
            let Ok(copy) = Superblock::decode_plain(&bytes[at..at + (16 << 10)]) else { continue };
            if newest.as_ref().is_none_or(|n| n.counter < copy.counter) {
                newest = Some(copy);
            }
        }
    }
    newest.unwrap().slots
}

fn try_open(thread: &mut Thread, folder: &Folder, secrets: Secrets) -> Result<Pool, OpenError> {
    pools::open(thread, stores(folder), secrets)
}

/// Opens it with what its superblocks hold.
fn open(thread: &mut Thread, folder: &Folder) -> Pool {
    let slots = slots_of(folder);
    let pool = try_open(thread, folder, unlocked(&slots)).unwrap();
    tend(thread, &pool);
    pool
}

fn volume(thread: &mut Thread, pool: &Pool, name: &str, domain: u32) -> Result<(), ChangeError> {
    let (own, name) = (pool.clone(), name.to_owned());
    let settings = Settings { domain, ..Settings::default() };
    thread.wait(|port| async move { own.create_volume(&port, &name, VOLUME, settings).await }).map(drop)
}

fn rotate(thread: &mut Thread, pool: &Pool, domain: u32) -> Result<u16, ChangeError> {
    let number = pool.next_epoch()?;
    let (slot, keys) = epoch(domain, number, false);
    let mut slots = pool.slots();
    slots.push(slot);
    let own = pool.clone();
    thread.wait(|port| async move { own.open_epoch(&port, keys, slots).await })?;
    Ok(number)
}

fn domain(thread: &mut Thread, pool: &Pool, name: &str) -> u32 {
    let (number, first) = (pool.next_domain(), pool.next_epoch().unwrap());
    let (slot, keys) = epoch(number, first, true);
    let mut slots = pool.slots();
    slots.push(slot);
    let (own, name) = (pool.clone(), name.to_owned());
    thread.wait(|port| async move { own.create_domain(&port, &name, keys, slots).await.unwrap() });
    number
}

fn destroy(thread: &mut Thread, pool: &Pool, domain: u32) {
    let own = pool.clone();
    thread.wait(|port| async move { own.destroy_domain(&port, domain).await.unwrap() });
}

fn old(pool: &Pool, domain: u32) -> Vec<u16> {
    pool.domains().into_iter().find(|d| d.domain == domain).unwrap().old
}

#[test]
fn a_rotated_domain_is_sealed_anew_and_its_old_key_is_erased() {
    let folder = Folder::new("epochs-rotate");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &folder);
    volume(&mut thread, &pool, "v", 1).unwrap();
    fill(&mut thread, &pool, "v", 0..120, 1000);
    for (turn, domain) in [(0, 1), (1, 0), (2, 1)] {
        let number = rotate(&mut thread, &pool, domain).unwrap();
        assert_eq!(number, 2 + turn);
        assert_eq!(old(&pool, domain).len(), 1, "before anything is sealed anew");
        holds(&mut thread, &pool, "v", 0..120, 1000);
        fill(&mut thread, &pool, "v", 130 + u64::from(turn)..131 + u64::from(turn), 5000);
        rest(&mut thread, &pool, 20);
        let status = pool.status();
        assert_eq!(old(&pool, domain), [], "{:?}", status.reseal);
        assert_eq!(status.reseal.unwrap().left, Some(0));
        assert!(pool.slots().iter().all(|s| s.domain != domain || s.epoch == number), "{:?}", pool.slots());
        holds(&mut thread, &pool, "v", 0..120, 1000);
        sound(&mut thread, &pool);
    }
    assert_eq!(slots_of(&folder), pool.slots());
    close(&mut thread, pool);
    // What the pool was made with opens nothing of it any more.
    let error = try_open(&mut thread, &folder, unlocked(&first_slots())).err().unwrap();
    assert!(!matches!(error, OpenError::Replay { .. }), "{error}");
    let pool = open(&mut thread, &folder);
    holds(&mut thread, &pool, "v", 0..120, 1000);
    holds(&mut thread, &pool, "v", 130..133, 5000);
    // Duplicates are found across epochs.
    volume(&mut thread, &pool, "w", 1).unwrap();
    rest(&mut thread, &pool, 5);
    let before = pool.status().duplicate_blocks;
    fill(&mut thread, &pool, "w", 0..100, 1000);
    assert!(pool.status().duplicate_blocks >= before + 100);
    sound(&mut thread, &pool);
    close(&mut thread, pool);
}

#[test]
fn sealing_anew_goes_on_after_a_restart() {
    let folder = Folder::new("epochs-restart");
    let mut thread = Thread::powered(Power::new(1));
    let pool = make(&mut thread, &folder);
    volume(&mut thread, &pool, "v", 1).unwrap();
    fill(&mut thread, &pool, "v", 0..100, 1);
    rotate(&mut thread, &pool, 1).unwrap();
    rotate(&mut thread, &pool, 0).unwrap();
    // It ends here and now.
    thread.power().cut_after(0);
    while thread.turn() {}
    pool.abandon();
    drop((pool, thread));
    let mut thread = Thread::default();
    let pool = open(&mut thread, &folder);
    assert_eq!((old(&pool, 1), old(&pool, 0)), (vec![1], vec![1]));
    rest(&mut thread, &pool, 30);
    assert_eq!((old(&pool, 1), old(&pool, 0)), (vec![], vec![]), "{:?}", pool.status().reseal);
    holds(&mut thread, &pool, "v", 0..100, 1);
    sound(&mut thread, &pool);
    close(&mut thread, pool);
}

#[test]
fn domains_share_nothing_and_a_destroyed_one_is_gone() {
    let folder = Folder::new("epochs-domains");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &folder);
    let acme = domain(&mut thread, &pool, "acme");
    assert_eq!((acme, pool.domain_named("acme"), pool.domain_named("other")), (2, Some(2), None));
    assert!(matches!(volume(&mut thread, &pool, "x", 9), Err(ChangeError::NoDomain(_))));
    volume(&mut thread, &pool, "v", 1).unwrap();
    volume(&mut thread, &pool, "t", acme).unwrap();
    fill(&mut thread, &pool, "v", 0..60, 1000);
    fill(&mut thread, &pool, "t", 0..60, 1000);
    let status = pool.status();
    assert_eq!((status.duplicate_blocks, status.unique), (0, 120 * 4096), "the same content, and not shared");
    let own = pool.clone();
    thread.wait(|port| async move {
        own.snapshot(&port, "t", "t-snap", true).await.unwrap();
        own.snapshot(&port, "t", "t-clone", false).await.unwrap();
    });
    fill(&mut thread, &pool, "t-clone", 10..20, 9000);
    let kept = pool.volume("t").unwrap();
    destroy(&mut thread, &pool, acme);
    for name in ["t", "t-snap", "t-clone"] {
        let v = pool.volume(name).unwrap();
        let at = Extent { lba: 3, blocks: 1 };
        assert_eq!(thread.run(&v, Op::Read { at }).unwrap_err(), BlockError::KeyDestroyed, "{name}");
    }
    let at = Extent { lba: 3, blocks: 1 };
    let write = Op::Write { at, data: noise(7).into(), fua: false };
    assert_eq!(thread.run(&kept, write).unwrap_err(), BlockError::KeyDestroyed);
    assert!(slots_of(&folder).iter().all(|s| s.domain != acme));
    holds(&mut thread, &pool, "v", 0..60, 1000);
    rest(&mut thread, &pool, 5);
    assert_eq!(pool.status().unique, 60 * 4096, "what it held is given back");
    assert_eq!(pool.domain_named("acme"), None);
    sound(&mut thread, &pool);
    drop(kept);
    let own = pool.clone();
    thread.wait(|port| async move { own.delete_volume(&port, "t-snap").await.unwrap() });
    // The name may be used again, the number never is.
    assert_eq!(domain(&mut thread, &pool, "acme"), 3);
    while thread.turn() {}
    pool.abandon();
    drop((pool, thread));
    let mut thread = Thread::default();
    let pool = open(&mut thread, &folder);
    let v = pool.volume("t").unwrap();
    assert_eq!(thread.run(&v, Op::Read { at }).unwrap_err(), BlockError::KeyDestroyed);
    drop(v);
    holds(&mut thread, &pool, "v", 0..60, 1000);
    rest(&mut thread, &pool, 5);
    sound(&mut thread, &pool);
    // Nothing of a destroyed domain is in the way of the pool's own next epoch.
    rotate(&mut thread, &pool, 0).unwrap();
    rest(&mut thread, &pool, 20);
    assert_eq!(old(&pool, 0), [], "{:?}", pool.status().reseal);
    close(&mut thread, pool);
}

#[test]
fn what_is_sealed_is_counted_over_openings_and_begins_anew_with_an_epoch() {
    let folder = Folder::new("epochs-usage");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &folder);
    volume(&mut thread, &pool, "v", 1).unwrap();
    fill(&mut thread, &pool, "v", 0..50, 1);
    let sealed = |pool: &Pool| pool.domains().into_iter().find(|d| d.domain == 1).unwrap().sealed;
    let before = sealed(&pool);
    assert_eq!((before.records, before.bytes), (50, 50 * 4096));
    close(&mut thread, pool);
    let pool = open(&mut thread, &folder);
    fill(&mut thread, &pool, "v", 50..60, 1);
    assert!(sealed(&pool).records >= 60);
    rotate(&mut thread, &pool, 1).unwrap();
    assert_eq!(sealed(&pool).records, 0);
    fill(&mut thread, &pool, "v", 60..70, 1);
    assert_eq!(sealed(&pool).records, 10);
    close(&mut thread, pool);
}

/// What the power interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Rotate(u32),
    Create,
    Destroy,
}

/// The power goes after each operation of a deed in turn: the pool opens with the slots of before or those of after, and holds
/// what those say.
#[test]
fn deeds_that_the_power_interrupts() {
    for deed in [Deed::Rotate(1), Deed::Rotate(0), Deed::Create, Deed::Destroy] {
        let folder = Folder::new("epochs-power");
        let mut thread = Thread::default();
        let pool = make(&mut thread, &folder);
        let acme = domain(&mut thread, &pool, "acme");
        for (name, domain) in [("v", 1), ("t", acme)] {
            volume(&mut thread, &pool, name, domain).unwrap();
            fill(&mut thread, &pool, name, 0..30, 1);
        }
        close(&mut thread, pool);
        for name in ["a", "b"] {
            std::fs::copy(folder.file(name), folder.file(&format!("{name}.base"))).unwrap();
        }
        let (mut before, mut after) = (0, 0);
        for (seed, cut) in (0..2u64).flat_map(|seed| (0..120).map(move |cut| (seed, cut))) {
            for name in ["a", "b"] {
                std::fs::copy(folder.file(&format!("{name}.base")), folder.file(name)).unwrap();
            }
            let mut thread = Thread::powered(Power::new((seed << 32) | cut));
            let pool = open(&mut thread, &folder);
            fill(&mut thread, &pool, "v", 30..34, 1);
            fill(&mut thread, &pool, "t", 30..34, 1);
            let had = pool.slots();
            thread.power().cut_after(cut);
            let done = attempt(&mut thread, &pool, deed, acme);
            // Sealing anew, or giving back, is interrupted as well.
            for _ in 0..200 {
                thread.turn();
                thread.pass(&pool, Duration::from_millis(50));
            }
            let off = thread.power().is_off();
            pool.abandon();
            thread.power().crash();
            drop((thread, pool));
            let mut thread = Thread::default();
            let what = format!("{deed:?}, seed {seed}, after {cut} operations");
            let now = slots_of(&folder);
            let pool =
                try_open(&mut thread, &folder, unlocked(&now)).unwrap_or_else(|e| panic!("{what}: {e}"));
            tend(&mut thread, &pool);
            let changed = now != had;
            assert!(!done || changed, "{what}: what was confirmed is there");
            holds(&mut thread, &pool, "v", 0..34, 1);
            if deed == Deed::Destroy && changed {
                let v = pool.volume("t").unwrap();
                let read = thread.run(&v, Op::Read { at: Extent { lba: 3, blocks: 1 } });
                assert_eq!(read.unwrap_err(), BlockError::KeyDestroyed, "{what}");
            } else {
                holds(&mut thread, &pool, "t", 0..34, 1);
            }
            *(if changed { &mut after } else { &mut before }) += 1;
            rest(&mut thread, &pool, 1);
            sound(&mut thread, &pool);
            pool.abandon();
            if !off {
                break;
            }
        }
        assert!(before > 3 && after > 3, "{deed:?}: both sides were seen: {before} before, {after} after");
    }
}

/// Tries it, as far as the power goes. Whether it was confirmed.
fn attempt(thread: &mut Thread, pool: &Pool, deed: Deed, acme: u32) -> bool {
    let own = pool.clone();
    let (number, new) = (pool.next_epoch().unwrap(), pool.next_domain());
    let mut slots = pool.slots();
    let done = match deed {
        Deed::Rotate(domain) => {
            let (slot, keys) = epoch(domain, number, false);
            slots.push(slot);
            thread.attempt(|port| async move { own.open_epoch(&port, keys, slots).await.is_ok() })
        }
        Deed::Create => {
            let (slot, keys) = epoch(new, number, true);
            slots.push(slot);
            thread.attempt(|port| async move { own.create_domain(&port, "new", keys, slots).await.is_ok() })
        }
        Deed::Destroy => thread.attempt(|port| async move { own.destroy_domain(&port, acme).await.is_ok() }),
    };
    done == Some(true)
}
