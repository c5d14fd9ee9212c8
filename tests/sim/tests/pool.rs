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
