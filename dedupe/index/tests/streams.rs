//! How much of what an unbounded exact index finds is found in bounded memory, on streams of several kinds.
//!
//! The table is so small that one print in 32 is sampled at the end, and the cache holds some percent of the prints.

mod support;

use caisson_index::Budget;
use support::{Rng, SHAPE, Shape, Tally, World, seed};

/// Room for `blocks` unique blocks at one in 32, and a cache of an eighteenth of their prints.
fn budget(blocks: u64) -> Budget {
    let entries = blocks / 32 * 3 / 2;
    Budget { index_bytes: entries as usize * 64 / 7, cache_bytes: blocks as usize / 18 * 50 }
}

fn world(blocks: u64, shape: Shape, seed: u64) -> World {
    World::new(budget(blocks), shape, seed)
}

/// Fills the pool with contents of no interest, so that the sample is as thin as it is to be.
fn fill(world: &mut World, blocks: u64) {
    for n in 0..blocks {
        world.write(1 << 40 | n);
    }
}

fn report(name: &str, world: &World, tally: &Tally) -> f64 {
    let stats = world.index.stats();
    println!(
        "{name}: {:.2} % of {} duplicates in {} writes found; sampled 1 in {}, {} fetches, {} prefetches, {stats:?}",
        tally.rate() * 100.0,
        tally.duplicates,
        tally.writes,
        1u32 << stats.sample_shift,
        tally.fetches,
        tally.prefetches,
    );
    tally.rate()
}

/// An image of `len` blocks of own contents.
fn image(of: u64, len: u64) -> Vec<u64> {
    (0..len).map(|n| of << 32 | n).collect()
}

/// Changes one block in `one_in`, in clusters of 1 to 8.
fn edit(image: &mut [u64], one_in: u64, fresh: &mut u64, rng: &mut Rng) {
    let mut at = rng.below(one_in * 9);
    while at < image.len() as u64 {
        let end = (at + rng.between(1, 8)).min(image.len() as u64);
        for block in &mut image[at as usize..end as usize] {
            *fresh += 1;
            *block = 1 << 50 | *fresh;
        }
        at = end + rng.below(one_in * 9);
    }
}

#[test]
fn backup_generations_with_scattered_edits() {
    let seed = seed(11);
    let mut rng = Rng(seed);
    let mut world = world(450_000, SHAPE, seed);
    let (mut base, mut fresh) = (image(1, 150_000), 0);
    base.iter().for_each(|n| {
        world.write(*n);
    });
    fill(&mut world, 250_000);
    let before = world.tally;
    for _ in 0..4 {
        edit(&mut base, 50, &mut fresh, &mut rng);
        base.iter().for_each(|n| {
            world.write(*n);
        });
    }
    let tally = world.tally.since(&before);
    assert!(report("backup generations", &world, &tally) >= 0.97);
    assert_eq!(world.index.stats().sample_shift, 5, "the test means 1 in 32");
}

#[test]
fn the_same_data_in_another_order_of_extents() {
    let seed = seed(12);
    let mut rng = Rng(seed);
    let mut world = world(450_000, SHAPE, seed);
    let base = image(1, 150_000);
    base.iter().for_each(|n| {
        world.write(*n);
    });
    fill(&mut world, 250_000);
    let before = world.tally;
    // Extents of 4 to 64 MiB, shuffled.
    for _ in 0..3 {
        let mut extents = Vec::new();
        let mut rest = &base[..];
        while !rest.is_empty() {
            let n = (rng.between(1024, 16384) as usize).min(rest.len());
            extents.push(&rest[..n]);
            rest = &rest[n..];
        }
        for i in (1..extents.len()).rev() {
            extents.swap(i, rng.below(i as u64 + 1) as usize);
        }
        for n in extents.concat() {
            world.write(n);
        }
    }
    let tally = world.tally.since(&before);
    assert!(report("shuffled extents", &world, &tally) >= 0.97);
    assert_eq!(world.index.stats().sample_shift, 5, "the test means 1 in 32");
}

#[test]
fn images_of_virtual_machines() {
    let seed = seed(13);
    let mut rng = Rng(seed);
    let mut world = world(500_000, SHAPE, seed);
    let base = image(1, 100_000);
    base.iter().for_each(|n| {
        world.write(*n);
    });
    fill(&mut world, 250_000);
    let before = world.tally;
    // Each machine has a fifth of its own data, in runs of 64 to 1024 blocks.
    for machine in 2..8 {
        let mut own = 0;
        let mut at = 0;
        while at < base.len() {
            let n = (rng.between(64, 1024) as usize * 5).min(base.len() - at);
            let replaced = n / 5;
            for (i, block) in base[at..at + n].iter().enumerate() {
                own += u64::from(i < replaced);
                world.write(if i < replaced { machine << 32 | own } else { *block });
            }
            at += n;
        }
    }
    let tally = world.tally.since(&before);
    assert!(report("virtual machines", &world, &tally) >= 0.97);
    assert_eq!(world.index.stats().sample_shift, 5, "the test means 1 in 32");
}

#[test]
fn cloned_trees() {
    let seed = seed(14);
    let mut rng = Rng(seed);
    let mut world = world(480_000, SHAPE, seed);
    // 4000 files of 1 to 100 blocks, in folders of 200 files; each clone writes the folders in another order and has 3 % new files.
    let files: Vec<(u64, u64)> =
        (0..4000u64).map(|f| (f << 16, rng.between(1, 10) * rng.between(1, 10))).collect();
    for (first, len) in &files {
        (0..*len).for_each(|n| {
            world.write(first + n);
        });
    }
    fill(&mut world, 300_000);
    let before = world.tally;
    let mut fresh = 1 << 45;
    for _ in 0..3 {
        let mut folders: Vec<_> = files.chunks(200).collect();
        for i in (1..folders.len()).rev() {
            folders.swap(i, rng.below(i as u64 + 1) as usize);
        }
        for (first, len) in folders.concat() {
            let new = rng.below(100) < 3;
            for n in 0..len {
                fresh += 1;
                world.write(if new { fresh } else { first + n });
            }
        }
    }
    let tally = world.tally.since(&before);
    assert!(report("cloned trees", &world, &tally) >= 0.97);
    assert_eq!(world.index.stats().sample_shift, 5, "the test means 1 in 32");
}

/// Three streams that were written at the same time, in turns of 32 blocks, come back one after the other.
#[test]
fn streams_that_were_interleaved() {
    let seed = seed(15);
    let mut world = world(450_000, SHAPE, seed);
    let streams: Vec<_> = (1..4).map(|n| image(n, 64_000)).collect();
    for turn in 0..2000 {
        for stream in &streams {
            stream[turn * 32..turn * 32 + 32].iter().for_each(|n| {
                world.write(*n);
            });
        }
    }
    fill(&mut world, 250_000);
    let before = world.tally;
    streams.iter().flatten().for_each(|n| {
        world.write(*n);
    });
    let tally = world.tally.since(&before);
    assert!(report("interleaved streams", &world, &tally) >= 0.97);
    assert_eq!(world.index.stats().sample_shift, 5, "the test means 1 in 32");
}

/// Batches of one to eight blocks, as at depth 1: summaries are short, and reading ahead has to go further.
#[test]
fn short_batches() {
    let seed = seed(16);
    let mut world = world(450_000, Shape { batch: (1, 8), ..SHAPE }, seed);
    let base = image(1, 150_000);
    base.iter().for_each(|n| {
        world.write(*n);
    });
    fill(&mut world, 250_000);
    let before = world.tally;
    base.iter().for_each(|n| {
        world.write(*n);
    });
    let tally = world.tally.since(&before);
    assert!(report("short batches", &world, &tally) >= 0.97);
}

/// Without locality only the sample itself finds anything, beyond what the cache happens to hold.
#[test]
fn random_duplicates_are_found_as_often_as_sampled() {
    let seed = seed(17);
    let mut rng = Rng(seed);
    let mut world = world(450_000, SHAPE, seed);
    fill(&mut world, 400_000);
    let before = world.tally;
    for _ in 0..30_000 {
        world.write(1 << 40 | rng.below(400_000));
    }
    let tally = world.tally.since(&before);
    let rate = report("random duplicates", &world, &tally);
    assert!((0.05..0.15).contains(&rate), "1 in 32, and what the cache holds: 1 in 18");
    assert!(tally.prefetches < tally.fetches, "there is no stream to read ahead of");
}

/// With memory for all, all is found, in whatever order.
#[test]
fn with_memory_for_all_all_is_found() {
    let seed = seed(18);
    let mut rng = Rng(seed);
    let budget = Budget { index_bytes: 8 << 20, cache_bytes: 1 << 20 };
    let mut world = World::new(budget, SHAPE, seed);
    fill(&mut world, 200_000);
    let before = world.tally;
    for _ in 0..5000 {
        world.write(1 << 40 | rng.below(200_000));
    }
    let tally = world.tally.since(&before);
    assert!(report("memory for all", &world, &tally) > 0.999);
    assert_eq!(world.index.stats().sample_shift, 0);
}
