//! What a lookup and an insertion cost: `cargo run --release -p caisson-index --example speed [INDEX_MIB [CACHE_MIB]]`.
//!
//! One index is filled until its sample is thin. Then the four kinds of lookups are timed, in an order that no cache of
//! the processor helps.

use caisson_index::{Answer, Budget, Entry, Index, SummaryAt};
use std::hint::black_box;
use std::time::Instant;

fn entry(n: u64) -> Entry {
    let mut print = [0; 16];
    let mut x = n;
    for half in print.chunks_mut(8) {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = x;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(z ^ z >> 31).to_le_bytes());
        x = z;
    }
    Entry { print, id: n, offset: (n % 2048) as u32 * 4096 }
}

const BATCH: u64 = 128;

fn at(batch: u64) -> SummaryAt {
    let segment = batch / 64;
    SummaryAt { segment: segment as u32, sequence: segment + 1, offset: (batch % 64) as u32 * (256 << 10) }
}

fn timed(what: &str, n: u64, mut each: impl FnMut(u64)) {
    let start = Instant::now();
    (0..n).for_each(&mut each);
    let ns = start.elapsed().as_nanos() as f64 / n as f64;
    println!("{what:<52}{ns:>8.0} ns");
}

fn main() {
    let mut mib = std::env::args().skip(1).filter_map(|a| a.parse::<usize>().ok());
    let (index_mib, cache_mib) = (mib.next().unwrap_or(64), mib.next().unwrap_or(64));
    let mut index = Index::new(Budget { index_bytes: index_mib << 20, cache_bytes: cache_mib << 20 });
    let room = index.stats().sample_capacity as u64;
    println!("{index_mib} MiB of index, {cache_mib} MiB of cache, batches of {BATCH}");
    let mut batches = 0;
    let mut fill = |index: &mut Index, blocks: u64, what: &str| {
        timed(what, blocks / BATCH, |_| {
            let entries: [Entry; BATCH as usize] = std::array::from_fn(|i| entry(batches * BATCH + i as u64));
            index.insert(at(batches), &entries);
            batches += 1;
        });
    };
    fill(&mut index, room / 2, "insert a batch, all sampled (with making the prints)");
    fill(&mut index, room * 6, "insert a batch, while the sample is thinned");
    fill(&mut index, room * 2, "insert a batch, sample thinned");
    timed("make the prints of a batch", 10_000, |n| {
        black_box::<[Entry; BATCH as usize]>(std::array::from_fn(|i| entry(n * BATCH + i as u64)));
    });
    let stats = index.stats();
    println!("sampled 1 in {}, {stats:?}", 1 << stats.sample_shift);
    let (written, cached) = (batches * BATCH, stats.cached as u64);
    let scatter =
        |n: u64, of: u64| ((u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * u128::from(of)) >> 64) as u64;
    let prints: Vec<_> = (0..1u64 << 20).map(|n| entry(u64::MAX / 2 + n).print).collect();
    timed("lookup of a new print", prints.len() as u64, |n| {
        black_box(index.lookup(&prints[n as usize]));
    });
    let prints: Vec<_> = (0..1 << 20).map(|n| entry(written - 1 - scatter(n, cached)).print).collect();
    let mut hits = 0;
    timed("lookup of a cached print", prints.len() as u64, |n| {
        hits += u64::from(matches!(index.lookup(&prints[n as usize]), Answer::Hit(_)));
    });
    println!("  of which {:.1} % hit", hits as f64 * 100.0 / prints.len() as f64);
    let prints: Vec<_> = (0..1 << 20).map(|n| entry(scatter(n, written - cached)).print).collect();
    let mut fetches = 0;
    timed("lookup of a print that left the cache", prints.len() as u64, |n| {
        fetches += u64::from(matches!(index.lookup(&prints[n as usize]), Answer::Fetch(_)));
    });
    println!("  of which {:.1} % fetch", fetches as f64 * 100.0 / prints.len() as f64);
    let entries: [Entry; BATCH as usize] = std::array::from_fn(|i| entry(i as u64));
    let mut n = 0;
    timed("taking in a summary that was read", 100_000, |_| {
        index.loaded(at(n), &entries, None);
        n = (n + 7919) % (batches - 1000);
    });
}
