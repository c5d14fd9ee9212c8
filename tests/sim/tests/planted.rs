//! The simulator finds bugs: each of those that are planted into the engine, within some seeds.
//!
//! `cargo test -p caisson-sim --features planted --test planted`. `CAISSON_BUG` is the name of one, alone.

use caisson_sim::plan::Weather;
use caisson_sim::pool::Simulated;
use caisson_sim::{Plan, run_seed};
use caisson_tables::planted::{ALL, Bug, plant};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Seeds that are tried for each.
const MOST: u64 = 1500;

/// Weather in which a bug shows soonest.
fn plan(bug: Bug, seed: u64) -> Plan {
    let mut plan = Plan::of(seed);
    let honest = |plan: &mut Plan| {
        plan.weather = Weather::Honest;
        plan.faults.dies_at = None;
    };
    match bug {
        // It takes a copy that is lost soon after an opening.
        Bug::OneSuperblock => {
            honest(&mut plan);
            (plan.copies, plan.lives, plan.steps) = (true, 8, 40);
        }
        // It takes an old copy of the pool that is put back.
        Bug::ReusedSalt => {
            honest(&mut plan);
            (plan.rollback, plan.lives, plan.steps) = (true, 6, plan.steps.min(60));
        }
        // It takes a crash at the end of a checkpoint.
        Bug::SuperblockFirst
        | Bug::OneMoreBatch
        | Bug::StaleBatch
        | Bug::ReserveUnlisted
        | Bug::EarlySegment => {
            honest(&mut plan);
            (plan.lives, plan.steps, plan.distance) = (8, plan.steps.min(80), Some(96 << 10));
        }
        // It takes a crash in the middle of a destruction or a deletion, or deletions that end.
        Bug::ClearedEarly | Bug::MapKeyEarly | Bug::MapKeyKept | Bug::VaultKept => {
            honest(&mut plan);
            (plan.manage, plan.lives) = (120, 8);
        }
        // It takes a crash behind an erase, or a look at one that is said to be done.
        Bug::EraseUnrecorded | Bug::EraseToldEarly => {
            honest(&mut plan);
            (plan.manage, plan.lives) = (200, 6);
        }
        // It takes snapshots, and what a check counts.
        Bug::LostOnShadow | Bug::LostDecrement => {
            honest(&mut plan);
            plan.manage = 120;
        }
        // It takes volumes that trust fingerprints.
        Bug::AlikePrints => {
            honest(&mut plan);
            plan.verify = Some(false);
        }
        // It takes marks inside of stored blocks, and for the second contents that are looked for.
        Bug::MarkForgotten | Bug::MarkedIsShared => {
            honest(&mut plan);
            plan.verify = Some(false);
            for v in plan.volumes.values_mut() {
                (v.size, v.block_size) = (v.size * u64::from(v.block_size) / 512, 512);
            }
        }
        // It takes rot, where the model is strict.
        Bug::DamageIsEnd => {
            honest(&mut plan);
            (plan.rot, plan.lives, plan.steps) = (true, 8, plan.steps.min(60));
        }
        // It takes another copy of each device that is lost, and a crash in the opening after that.
        Bug::RepairSkipped => {
            honest(&mut plan);
            (plan.disks, plan.copies, plan.lives, plan.steps) = (2, true, 8, 30);
        }
        // It takes damage.
        Bug::LostPage | Bug::UnreadableIsZero | Bug::PastGap | Bug::TornBatch
            if plan.weather == Weather::Dying =>
        {
            plan.weather = Weather::Lying;
            plan.faults.dies_at = None;
        }
        _ => {}
    }
    plan
}

/// The first seed that finds it, and what it says; or that none does.
fn hunt(bug: Bug) -> Result<String, String> {
    plant(Some(bug));
    let found = (0..MOST).find_map(|seed| run_seed(plan(bug, seed), Simulated::new).err());
    plant(None);
    match found {
        Some(f) => {
            let what = f.what.lines().next().unwrap_or_default();
            Ok(format!("{bug:?}: seed {}, {} events: {what}", f.seed, f.steps))
        }
        None => Err(format!("{bug:?} is not found within {MOST} seeds")),
    }
}

#[test]
fn each_planted_bug_is_caught() {
    let one = std::env::var("CAISSON_BUG").ok();
    let bugs: Vec<Bug> =
        ALL.into_iter().filter(|b| one.as_ref().is_none_or(|n| *n == format!("{b:?}"))).collect();
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match hunt(bug) {
                        Ok(found) => println!("{found}"),
                        Err(none) => {
                            println!("{none}");
                            missed.lock().unwrap().push(none);
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Seeds of pools whose fingerprints are all but useless, and that compare bytes.
const VERIFIED: u64 = 120;

/// Fingerprints of which 16 are left, so that nearly every hit is one of other content: volumes that compare the bytes of what
/// they find are right nevertheless, in every weather. Those that do not are caught at once (see above).
#[test]
fn volumes_that_compare_bytes_are_right_whatever_fingerprints_are() {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                plant(Some(Bug::AlikePrints));
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= VERIFIED {
                        break;
                    }
                    let plan = Plan { verify: Some(true), ..Plan::of(seed) };
                    run_seed(plan, Simulated::new).unwrap_or_else(|f| panic!("{f}"));
                }
            });
        }
    });
}
