//! The index against a model with memory for all: it answers for everything that is stored, and for nothing else.
//!
//! `CAISSON_SEED=n` replays a run, `CAISSON_SEEDS=n` tries as many.

mod support;

use caisson_index::{Answer, Budget, Candidate, Entry, Index, SummaryAt};
use support::{Rng, Shape, World, print};

const AMPLE: Budget = Budget { index_bytes: 4 << 20, cache_bytes: 64 << 10 };
const SHAPE: Shape = Shape { segment_size: 256 << 10, batch: (1, 40), delay: 3 };

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    match number("CAISSON_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("CAISSON_SEEDS").unwrap_or(30)).collect(),
    }
}

/// Everything stored is found, but for prints that look alike in the table: one in some ten thousand.
fn all_is_found(world: &mut World) {
    let prints: Vec<_> = world.exact.keys().copied().collect();
    let missing = prints.iter().filter(|p| world.ask(p).is_none()).count();
    assert!(missing * 1000 <= prints.len(), "{missing} of {} missing", prints.len());
}

#[test]
fn answers_for_what_is_stored_and_nothing_else() {
    for seed in seeds() {
        println!("CAISSON_SEED={seed}");
        let mut rng = Rng(seed);
        let mut world = World::new(AMPLE, SHAPE, seed);
        let mut names = 0;
        for _ in 0..400 {
            match rng.below(20) {
                // A run of new contents, or of old ones.
                0..=8 => (0..rng.between(1, 60)).for_each(|_| {
                    names += 1;
                    world.write(names);
                }),
                9..=15 if names > 0 => {
                    let first = rng.below(names);
                    for n in first..(first + rng.between(1, 60)).min(names) {
                        world.write(n);
                    }
                }
                16 => world.close_batch(),
                17..=18 => {
                    let pick = rng.below(world.uses.len().max(1) as u64) as usize;
                    let Some((s, sequence)) = world.uses.keys().copied().nth(pick) else { continue };
                    if rng.one_in(3) {
                        world.clean(s, sequence);
                    } else {
                        // The open segment is freed too: the log goes on elsewhere, or in the same one anew.
                        let fresh = world.fresh_segment();
                        world.continue_in(if rng.one_in(2) { fresh } else { s });
                        world.free(s, sequence, rng.one_in(2));
                    }
                }
                _ => all_is_found(&mut world),
            }
        }
        world.close_batch();
        all_is_found(&mut world);
        let stats = world.index.stats();
        assert_eq!((stats.sample_shift, stats.pending), (0, 0));
        assert!(stats.hits > 1000 && stats.fetches > 100, "{stats:?}");
    }
}

/// With too little memory for anything: still never a wrong answer, and every lookup ends.
#[test]
fn a_starved_index_is_never_wrong() {
    for seed in seeds() {
        println!("CAISSON_SEED={seed}");
        let mut rng = Rng(seed);
        let mut world = World::new(Budget { index_bytes: 0, cache_bytes: 0 }, SHAPE, seed);
        for n in 0..3000 {
            world.write(if rng.one_in(3) { rng.below(n + 1) } else { n });
            if rng.one_in(100) {
                let Some((s, sequence)) = world.uses.keys().copied().next() else { continue };
                let fresh = world.fresh_segment();
                world.continue_in(fresh);
                world.free(s, sequence, rng.one_in(2));
            }
        }
    }
}

fn at(segment: u32, sequence: u64, page: u32) -> SummaryAt {
    SummaryAt { segment, sequence, offset: page * 4096 }
}

fn entries(names: std::ops::Range<u64>) -> Vec<Entry> {
    names.map(|n| Entry { print: print(n), id: n + 1, offset: n as u32 * 100 }).collect()
}

#[test]
fn a_cleared_index_is_rebuilt_from_summaries() {
    let mut index = Index::new(AMPLE);
    index.insert(at(3, 7, 2), &entries(0..50));
    assert!(matches!(index.lookup(&print(9)), Answer::Hit(_)));
    index.clear();
    assert_eq!(index.lookup(&print(9)), Answer::Miss);
    assert!(index.learn(at(3, 7, 2), &entries(0..50)));
    assert_eq!(index.lookup(&print(9)), Answer::Fetch(at(3, 7, 2)));
    index.loaded(at(3, 7, 2), &entries(0..50), None);
    let place = Candidate { id: 10, segment: 3, sequence: 7, offset: 900 };
    assert_eq!(index.lookup(&print(9)), Answer::Hit(place));
}

#[test]
fn a_freed_segment_answers_nothing_in_one_step() {
    let mut index = Index::new(AMPLE);
    index.insert(at(3, 7, 0), &entries(0..50));
    index.learn(at(4, 8, 0), &entries(50..100));
    index.forget_segment(3, 6);
    assert!(matches!(index.lookup(&print(1)), Answer::Hit(_)), "an earlier use has ended, not this one");
    index.forget_segment(3, 7);
    index.forget_segment(4, 8);
    assert!((0..100).all(|n| index.lookup(&print(n)) == Answer::Miss));
    // What is read late, of a use that has ended, is not taken up.
    index.loaded(at(3, 7, 0), &entries(0..50), None);
    assert_eq!(index.lookup(&print(1)), Answer::Miss);
    assert!(!{
        index.insert(at(3, 9, 0), &entries(200..201));
        index.learn(at(3, 7, 0), &entries(0..50))
    });
}

#[test]
fn stale_and_moved_blocks() {
    let mut index = Index::new(AMPLE);
    index.insert(at(1, 1, 0), &entries(0..10));
    let Answer::Hit(old) = index.lookup(&print(4)) else { panic!("it was inserted") };
    // The cleaner moved it, with its id: the new place answers.
    index.insert(at(2, 2, 0), &[Entry { print: print(4), id: old.id, offset: 8192 }]);
    let moved = Candidate { id: old.id, segment: 2, sequence: 2, offset: 8192 };
    assert_eq!(index.lookup(&print(4)), Answer::Hit(moved));
    // It proves stale: the answer is not given again, the other blocks are still found.
    index.forget(&print(4), old.id);
    assert_eq!(index.lookup(&print(4)), Answer::Miss);
    assert!(matches!(index.lookup(&print(5)), Answer::Hit(_)));
    assert_eq!(index.stats().forgotten, 1);
}

#[test]
fn pending_blocks_are_known_until_their_batch_is() {
    let mut index = Index::new(AMPLE);
    index.pending_insert(print(1), 2);
    index.pending_insert(print(2), 3);
    assert_eq!(index.lookup(&print(1)), Answer::Pending(2));
    index.pending_remove(&print(2), 99);
    assert_eq!(index.lookup(&print(2)), Answer::Pending(3));
    index.pending_remove(&print(2), 3);
    assert_eq!(index.lookup(&print(2)), Answer::Miss);
    index.insert(at(0, 1, 0), &entries(1..2));
    assert!(matches!(index.lookup(&print(1)), Answer::Hit(Candidate { id: 2, .. })));
    assert_eq!(index.stats().pending, 0);
}

#[test]
fn what_cannot_be_read_is_not_asked_for_again() {
    let mut index = Index::new(AMPLE);
    index.learn(at(5, 1, 3), &entries(0..5));
    assert_eq!(index.lookup(&print(0)), Answer::Fetch(at(5, 1, 3)));
    assert_eq!(index.lookup(&print(1)), Answer::Fetch(at(5, 1, 3)), "another asks for it as well");
    index.failed(at(5, 1, 3));
    assert!((0..5).all(|n| index.lookup(&print(n)) == Answer::Miss));
}

#[test]
fn places_that_cannot_be_are_left_out() {
    let mut index = Index::new(AMPLE);
    let odd = SummaryAt { segment: 1, sequence: 1, offset: 100 };
    for at in [odd, at(u32::MAX, 1, 0), at(1, 0, 0), at(1, 1, 1 << 16)] {
        index.insert(at, &entries(0..3));
        index.loaded(at, &entries(0..3), Some(odd));
        assert_eq!(index.lookup(&print(1)), Answer::Miss, "{at:?}");
    }
}
