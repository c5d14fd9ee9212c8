//! Pools in the simulator: the production engine under crashes, lies and damage, against the model.

use caisson_sim::pool::Simulated;
use caisson_sim::{Plan, run, run_seeds};

#[test]
fn pools_follow_the_model() {
    match run_seeds(run::seeds(200), Plan::of, Simulated::new) {
        Ok(stats) => println!("{stats:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let run = || caisson_sim::run_seed(Plan::of(seed), Simulated::new).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(run(), run(), "seed {seed}");
    }
}

/// Pools whose disks are too small for their volumes. For nights: `CAISSON_TIGHT` is how many seeds.
#[test]
fn small_pools_follow_the_model() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let first = number("CAISSON_FIRST");
    if let Err(failure) = run_seeds(first..first + number("CAISSON_TIGHT"), Plan::tight, Simulated::new) {
        panic!("{failure}");
    }
}
