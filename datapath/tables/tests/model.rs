//! Random work on the tables against a naive model, with crashes, checkpoints under way and a tiny cache.
//!
//! `CAISSON_SEED=n` replays a seed, `CAISSON_SEEDS=n` runs so many.

#[path = "model/rig.rs"]
mod rig;
#[path = "model/store.rs"]
mod store;
#[path = "model/world.rs"]
mod world;

use world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().expect("a number"))
}

#[test]
fn random_work_against_a_model() {
    let seeds = match number("CAISSON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("CAISSON_SEEDS").unwrap_or(150),
    };
    let mut totals = world::Totals::default();
    for seed in seeds.clone() {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        match run {
            Ok(t) => totals.add(&t),
            Err(e) => {
                eprintln!("failed with CAISSON_SEED={seed}");
                std::panic::resume_unwind(e);
            }
        }
    }
    eprintln!("{totals:?}");
    if seeds.end - seeds.start >= 20 {
        totals.assert_all_happened();
    }
}
