//! What a fingerprint costs one by one and together: `cargo run --release -p caisson-fingerprint --example lanes`.
//!
//! Nanoseconds a block of 4 KiB, the median of 21 turns of each, taken in turn; 64 blocks in all, so they stay in the cache.

use caisson_fingerprint::{BLOCK, Fingerprint, FingerprintKey};
use std::hint::black_box;
use std::time::Instant;

const TURNS: usize = 21;
const ROUNDS: usize = 200;

fn main() {
    let key = FingerprintKey::new([7; 32]);
    let blocks: Vec<[u8; BLOCK]> = (0..64).map(|i| std::array::from_fn(|j| (i * 31 + j * 7) as u8)).collect();
    let refs: Vec<&[u8; BLOCK]> = blocks.iter().collect();
    println!("blocks  one by one  together  ratio");
    for n in [1, 2, 3, 4, 6, 8, 12, 14, 16, 32] {
        let (mut alone, mut many) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            alone.push(timed(&refs, n, |group| {
                for block in group {
                    black_box(Fingerprint::of(&key, &block[..]));
                }
            }));
            many.push(timed(&refs, n, |group| {
                key.of_many(group, |_, f| assert_ne!(black_box(f).prefix(), 0))
            }));
        }
        alone.sort_by(f64::total_cmp);
        many.sort_by(f64::total_cmp);
        let (a, m) = (alone[TURNS / 2], many[TURNS / 2]);
        println!("{n:6}  {a:10.0}  {m:8.0}  {:5.2}", a / m);
    }
}

/// Nanoseconds a block that `work` takes on groups of `n` of `blocks`.
fn timed(blocks: &[&[u8; BLOCK]], n: usize, work: impl Fn(&[&[u8; BLOCK]])) -> f64 {
    let start = Instant::now();
    let mut done = 0;
    for _ in 0..ROUNDS {
        for group in blocks.chunks_exact(n) {
            work(black_box(group));
            done += n;
        }
    }
    start.elapsed().as_nanos() as f64 / done as f64
}
