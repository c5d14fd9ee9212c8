//! Plain volumes in the simulator: the harness is exercised by what is simple.

use caisson_device::sim::{Faults, Lies};
use caisson_sim::plain::Plain;
use caisson_sim::plan::Weather;
use caisson_sim::{Plan, Subject, run, run_seeds};

#[test]
fn plain_volumes_follow_the_model() {
    match run_seeds(run::seeds(200), Plan::plain, Plain::new) {
        Ok(stats) => println!("{stats:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..40 {
        let run = || caisson_sim::run_seed(Plan::plain(seed), Plain::new).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(run(), run(), "seed {seed}");
    }
}

/// Plain volumes detect no lies of their disks, so the model must: what it lets pass here, it would let pass everywhere.
#[test]
fn what_a_disk_does_wrong_is_found() {
    let lies: [(&str, Lies); 7] = [
        ("a dropped write", Lies { drop: 10, ..Lies::default() }),
        ("a misdirected write", Lies { misdirect: 10, ..Lies::default() }),
        ("a flipped bit of a write", Lies { flip: 10, ..Lies::default() }),
        ("a write cut short", Lies { shear: 10, ..Lies::default() }),
        ("a sync that does nothing", Lies { sync: 1000, ..Lies::default() }),
        ("a read from elsewhere", Lies { misread: 10, ..Lies::default() }),
        ("a flipped bit of a read", Lies { flip_read: 10, ..Lies::default() }),
    ];
    for (name, lies) in lies {
        let plan = |seed| Plan { weather: Weather::Honest, faults: Faults::default(), ..Plan::plain(seed) };
        let make = |plan: &Plan| {
            let subject = Plain::new(plan);
            subject.disks().iter().for_each(|d| d.set_lies(lies));
            subject
        };
        let found = run_seeds(0..100, plan, make).err().unwrap_or_else(|| panic!("{name} is not found"));
        println!("{name}: seed {}, {} events: {}", found.seed, found.steps, found.what);
    }
}
