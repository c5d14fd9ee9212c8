//! Plain volumes in the simulator: the harness is exercised by what is simple.

use caisson_sim::plain::Plain;
use caisson_sim::{Plan, run, run_seeds};

#[test]
fn plain_volumes_follow_the_model() {
    match run_seeds(run::seeds(200), Plan::plain, Plain::new) {
        Ok(stats) => println!("{stats:?}"),
        Err(failure) => panic!("{failure}"),
    }
}
