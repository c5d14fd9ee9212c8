//! Volumes that are erased, on one real file: what no key opens any more, what stays, and what the power interrupts.

use crate::common::keys::{epoch, first_slots, unlocked};
use crate::common::pools::{self, close, fill, holds, noise, read, rest, sound, tend};
use crate::common::{Folder, Power, Thread, store};
use caisson_block::{BlockError, EraseBy, Erasure, Extent, Op, Volume};
use caisson_engine::{ChangeError, EraseStage, KeySlot, Pool, Settings, Superblock};
use caisson_log::{Keyring, PREFIX, SUPERBLOCK, SUPERBLOCK_AT, Spot, choose, decode_header, decode_prefix};
use std::path::Path;
use std::time::Duration;

const SEGMENT: usize = 64 << 10;
const FRONT: usize = 1 << 20;
const SIZE: u64 = (FRONT + 160 * SEGMENT) as u64;
const VOLUME: u64 = 1 << 20;

fn make(thread: &mut Thread, folder: &Folder) -> Pool {
    let stores = vec![store(&folder.file("a"), SIZE)];
    let pool = pools::create(thread, stores, SEGMENT as u32, first_slots());
    tend(thread, &pool);
    pool
}

fn copies(file: &Path) -> [Vec<u8>; 2] {
    let bytes = std::fs::read(file).unwrap();
    SUPERBLOCK_AT.map(|at| bytes[at as usize..at as usize + SUPERBLOCK].to_vec())
}

/// The slots of the newest superblock, read without a lock.
fn slots_of(folder: &Folder) -> Vec<KeySlot> {
    let plain = copies(&folder.file("a")).map(|copy| Superblock::decode_plain(&copy));
    plain.into_iter().flatten().max_by_key(|s| s.counter).unwrap().slots
}

fn open(thread: &mut Thread, folder: &Folder) -> Pool {
    let stores = vec![store(&folder.file("a"), SIZE)];
    let pool = pools::open(thread, stores, unlocked(&slots_of(folder))).unwrap();
    tend(thread, &pool);
    pool
}

/// The same, with whoever has the key provider beginning the epochs that erases need.
fn served(thread: &mut Thread, pool: &Pool, seconds: u64) {
    for _ in 0..seconds * 4 {
        rest(thread, pool, 1);
        for domain in pool.erases_due() {
            rotate(thread, pool, domain);
        }
        if pool.erases().is_empty() {
            return;
        }
    }
}

fn rotate(thread: &mut Thread, pool: &Pool, domain: u32) {
    let (slot, keys) = epoch(domain, pool.next_epoch().unwrap(), false);
    let mut slots = pool.slots();
    slots.push(slot);
    let own = pool.clone();
    thread.attempt(|port| async move { own.open_epoch(&port, keys, slots).await });
}

fn volume(thread: &mut Thread, pool: &Pool, name: &str) {
    let (own, name, settings) = (pool.clone(), name.to_owned(), Settings::default());
    thread.wait(|port| async move { own.create_volume(&port, &name, VOLUME, settings).await }).unwrap();
}

fn erase(thread: &mut Thread, pool: &Pool, name: &str, delete: bool) -> Result<u32, ChangeError> {
    let (own, name) = (pool.clone(), name.to_owned());
    thread.wait(|port| async move {
        let number = own.erase_volume(&port, &name, EraseBy::Operator, delete).await?;
        if delete {
            own.delete_volume(&port, &name).await?;
        }
        Ok(number)
    })
}

fn image(folder: &Folder) -> Vec<u8> {
    std::fs::read(folder.file("a")).unwrap()
}

/// Opens every record that stands anywhere in the device's bytes, live or not, with these slots' keys: the seeds of the contents that open.
/// All was written in one opening, whose salt the superblock has.
fn opens(folder: &Folder, file: &[u8], slots: &[KeySlot]) -> Vec<u64> {
    let [first, second] = copies(&folder.file("a"));
    let plain = Superblock::decode_plain(&first).unwrap();
    let now = unlocked(&slots_of(folder));
    let keyring = Keyring::new(plain.pool, plain.cipher, now.epochs).unwrap();
    let anchor = choose(&keyring, &first, &second).unwrap().anchor;
    let keyring = Keyring::new(plain.pool, plain.cipher, unlocked(slots).epochs).unwrap();
    keyring.add_opening(anchor.root.at.opening, anchor.salt).unwrap();
    let mut found = Vec::new();
    for at in (FRONT..file.len()).step_by(4096) {
        if decode_prefix(&file[at..at + PREFIX]).is_err() {
            continue;
        }
        let (segment, offset) = ((at - FRONT) / SEGMENT, (at - FRONT) % SEGMENT);
        let spot = Spot { segment: segment as u32, offset: offset as u32 };
        let Ok(header) = decode_header(&keyring, spot, &file[at..]) else { continue };
        for (i, placed) in header.records.iter().enumerate() {
            let mut out = vec![0; placed.record.length.into()];
            if header.open_record(&keyring, i, &file[at..], &mut out).is_ok()
                && let Some(seed) = out.first_chunk().map(|b| u64::from_le_bytes(*b))
                && out == noise(seed)
            {
                found.push(seed);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

const MINE: u64 = 10_000;
const SHARED: u64 = 20_000;
const OTHER: u64 = 30_000;

#[test]
fn no_key_of_the_pool_opens_what_an_erased_volume_alone_held() {
    for delete in [false, true] {
        let folder = Folder::new(&format!("erase-{delete}"));
        let mut thread = Thread::default();
        let pool = make(&mut thread, &folder);
        volume(&mut thread, &pool, "v");
        volume(&mut thread, &pool, "other");
        // What is written over and given back before is as dead as the rest, and goes, too.
        fill(&mut thread, &pool, "v", 0..20, MINE + 100);
        fill(&mut thread, &pool, "v", 0..80, MINE);
        fill(&mut thread, &pool, "v", 100..120, SHARED);
        fill(&mut thread, &pool, "other", 100..120, SHARED);
        fill(&mut thread, &pool, "other", 0..60, OTHER);
        let all = first_slots();
        let before = opens(&folder, &image(&folder), &all);
        assert_eq!(before.len(), 20 + 80 + 20 + 60);
        // As a device may keep what was freed, punched or written over.
        let then = image(&folder);
        let number = erase(&mut thread, &pool, "v", delete).unwrap();
        rest(&mut thread, &pool, 2);
        let status = &pool.erases()[0];
        assert_eq!((status.number, status.stage), (number, EraseStage::NeedsEpoch), "{status:?}");
        assert_eq!(status.name.as_deref(), (!delete).then_some("v"));
        assert_eq!(pool.erased(), []);
        let mine = |seed: &u64| (MINE..SHARED).contains(seed);
        assert!(opens(&folder, &then, &slots_of(&folder)).iter().any(mine), "its key is there still");
        served(&mut thread, &pool, 30);
        assert_eq!(pool.erases(), [], "{:?}", pool.status().reseal);
        assert_eq!(pool.erased()[0].number, number);
        // The old key would open it; no superblock has it.
        assert!(opens(&folder, &then, &all).iter().any(mine), "there is something");
        for copy in copies(&folder.file("a")) {
            let slots = Superblock::decode_plain(&copy).unwrap().slots;
            assert_eq!(opens(&folder, &then, &slots), [], "of what the device had before");
            let opened = opens(&folder, &image(&folder), &slots);
            assert!(opened.iter().all(|seed| *seed >= SHARED), "{opened:?}");
            assert_eq!(opened.len(), 80, "what others hold, each sealed anew");
        }
        holds(&mut thread, &pool, "other", 0..60, OTHER);
        holds(&mut thread, &pool, "other", 100..120, SHARED);
        if delete {
            assert!(matches!(pool.volume("v"), Err(ChangeError::NoVolume(_))));
        } else {
            assert!(read(&mut thread, &pool, "v", 3).unwrap().iter().all(|b| *b == 0));
            fill(&mut thread, &pool, "v", 0..5, MINE);
            holds(&mut thread, &pool, "v", 0..5, MINE);
        }
        sound(&mut thread, &pool);
        close(&mut thread, pool);
    }
}

#[test]
fn several_erases_share_an_epoch_and_snapshots_stay() {
    let folder = Folder::new("erase-several");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &folder);
    for (name, seed) in [("a", 1000), ("b", 2000), ("c", 3000)] {
        volume(&mut thread, &pool, name);
        fill(&mut thread, &pool, name, 0..30, seed);
    }
    let own = pool.clone();
    thread.wait(|port| async move { own.snapshot(&port, "a", "a-snap", true).await }).unwrap();
    let snap = erase(&mut thread, &pool, "a-snap", false);
    assert!(matches!(snap, Err(ChangeError::Domain(_))), "{snap:?}");
    for name in ["a", "b"] {
        erase(&mut thread, &pool, name, name == "b").unwrap();
    }
    let before = pool.next_epoch().unwrap();
    served(&mut thread, &pool, 30);
    assert_eq!(pool.next_epoch().unwrap(), before + 1, "one epoch for both");
    assert_eq!(pool.erased().len(), 2);
    holds(&mut thread, &pool, "a-snap", 0..30, 1000);
    holds(&mut thread, &pool, "c", 0..30, 3000);
    let opened = opens(&folder, &image(&folder), &pool.slots());
    assert!(opened.iter().all(|seed| !(2000..3000).contains(seed)), "{opened:?}");
    // A provider that is away is what it waits for; nothing is lost of it.
    let number = erase(&mut thread, &pool, "c", true).unwrap();
    rest(&mut thread, &pool, 2);
    pool.erase_refused(1, Some("the provider is away".into()));
    assert_eq!(pool.erases()[0].waits.as_deref(), Some("the provider is away"));
    pool.erase_refused(1, None);
    assert_eq!((pool.erases()[0].number, pool.erases()[0].waits.clone()), (number, None));
    // The end of the domain would be the end of it, too; here, of the next epoch.
    served(&mut thread, &pool, 30);
    assert_eq!(pool.erased().last().unwrap().number, number);
    sound(&mut thread, &pool);
    close(&mut thread, pool);
}

#[test]
fn a_host_s_erase_refuses_requests_until_the_volume_is_empty() {
    let folder = Folder::new("erase-host");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &folder);
    volume(&mut thread, &pool, "v");
    fill(&mut thread, &pool, "v", 0..40, MINE);
    let v = pool.volume("v").unwrap();
    assert!(v.erasable() && v.erasure() == Erasure::None);
    v.erase(EraseBy::Format).unwrap();
    assert_eq!(
        v.erasure(),
        Erasure::Running { by: EraseBy::Format, recorded: false, progress: 0, stalled: false }
    );
    let at = Extent { lba: 0, blocks: 1 };
    assert_eq!(thread.run(&v, Op::Read { at }).unwrap_err(), BlockError::Erasing);
    let own = pool.clone();
    let copy = thread.attempt(|port| async move { own.snapshot(&port, "v", "s", false).await });
    assert!(matches!(copy, Some(Err(ChangeError::Erasing) | Ok(_))), "{copy:?}");
    rest(&mut thread, &pool, 2);
    // Unmapped, and that is durable: it takes requests again, though the keys are there still.
    let data = noise(5).into();
    thread.run(&v, Op::Write { at, data, fua: true }).unwrap();
    assert!(matches!(v.erasure(), Erasure::Running { by: EraseBy::Format, recorded: true, .. }));
    // What was written since is not erased by a crash and another opening.
    while thread.turn() {}
    drop(v);
    pool.abandon();
    drop((pool, thread));
    let mut thread = Thread::default();
    let pool = open(&mut thread, &folder);
    rest(&mut thread, &pool, 2);
    assert_eq!(read(&mut thread, &pool, "v", 0).unwrap(), noise(5));
    served(&mut thread, &pool, 30);
    let v = pool.volume("v").unwrap();
    assert_eq!(v.erasure(), Erasure::None);
    assert_eq!(thread.run(&v, Op::Read { at }).unwrap().to_vec(), noise(5));
    drop(v);
    sound(&mut thread, &pool);
    close(&mut thread, pool);
}

/// The power goes after each operation of an erase in turn: what was confirmed goes on at the next opening, and ends; what was not
/// is as it was, or goes on as well.
#[test]
fn an_erase_that_the_power_interrupts() {
    let folder = Folder::new("erase-power");
    let mut thread = Thread::default();
    let pool = make(&mut thread, &folder);
    for (name, seed) in [("v", MINE), ("other", OTHER)] {
        volume(&mut thread, &pool, name);
        fill(&mut thread, &pool, name, 0..40, seed);
    }
    close(&mut thread, pool);
    let base = folder;
    let (mut never, mut pending, mut ended) = (0, 0, 0);
    for (seed, cut) in (0..2u64).flat_map(|seed| (0..120).step_by(3).map(move |cut| (seed, cut))) {
        let folder = Folder::new(&format!("erase-power-{seed}-{cut}"));
        std::fs::copy(base.file("a"), folder.file("a")).unwrap();
        let mut thread = Thread::powered(Power::new((seed << 32) | cut));
        let pool = open(&mut thread, &folder);
        rest(&mut thread, &pool, 1);
        thread.power().cut_after(cut + seed);
        let own = pool.clone();
        let done = thread.attempt(|port| async move {
            own.erase_volume(&port, "v", EraseBy::Operator, false).await.is_ok()
        });
        for _ in 0..150 {
            thread.turn();
            thread.pass(&pool, Duration::from_millis(20));
            for domain in pool.erases_due() {
                rotate(&mut thread, &pool, domain);
            }
        }
        let (off, told) = (thread.power().is_off(), !pool.erased().is_empty());
        pool.abandon();
        thread.power().crash();
        drop((thread, pool));
        let what = format!("seed {seed}, after {cut} operations");
        // What waited when the power went keeps its file open.
        let after = Folder::new(&format!("erase-after-{seed}-{cut}"));
        std::fs::copy(folder.file("a"), after.file("a")).unwrap();
        let folder = after;
        let mut thread = Thread::default();
        let pool = open(&mut thread, &folder);
        let (goes_on, first) = (!pool.erases().is_empty(), slots_of(&folder));
        let over = !first.iter().any(|s| (s.domain, s.epoch) == (1, 0));
        assert!(done != Some(true) || goes_on || over, "{what}: what was confirmed is there");
        assert!(!told || over, "{what}: what was said to be done is done");
        served(&mut thread, &pool, 30);
        assert_eq!(pool.erases(), [], "{what}");
        if goes_on || over {
            assert!(read(&mut thread, &pool, "v", 7).unwrap().iter().all(|b| *b == 0), "{what}");
            assert!(!slots_of(&folder).iter().any(|s| (s.domain, s.epoch) == (1, 0)), "{what}");
        } else {
            holds(&mut thread, &pool, "v", 0..40, MINE);
        }
        *(if over {
            &mut ended
        } else if goes_on {
            &mut pending
        } else {
            &mut never
        }) += 1;
        holds(&mut thread, &pool, "other", 0..40, OTHER);
        sound(&mut thread, &pool);
        pool.abandon();
        if !off {
            break;
        }
    }
    assert!(never > 0 && pending > 2 && ended > 0, "{never} never, {pending} pending, {ended} ended");
}
