//! How long the steps of deallocating in a RAM store take: what a small read on the same thread may have to wait for.
//!
//! `cargo run --release -p caisson-volume --example ramclear`. Writes 512 MiB of a new store once. Fills 32 MiB with eight large writes at a time, in turn as a thread of the
//! data plane does them, and deallocates it, over and over. Prints microseconds of this thread on a processor, so that a busy
//! machine disturbs less; another thread runs meanwhile, as a process that has several makes giving memory back dearer.

use caisson_block::{Buf, BufList, Reader};
use caisson_device::{Memory, RamStore};
use std::sync::atomic::{AtomicBool, Ordering};

const MIB: usize = 1 << 20;
const ROUNDS: usize = 60;
/// Bytes of a store that is written to once.
const FIRST: usize = 512 * MIB;

fn on_processor() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn print(name: &str, rounds: usize, steps: &mut [u64]) {
    steps.sort_unstable();
    let us = |at: f64| steps[((steps.len() - 1) as f64 * at) as usize] as f64 / 1e3;
    let all: u64 = steps.iter().sum();
    println!(
        "{name:<12} {:>7} steps, {:>6.2} ms a round; us: p50 {:.1}, p99 {:.1}, p99.9 {:.1}, longest {:.1}",
        steps.len(),
        all as f64 / 1e6 / rounds as f64,
        us(0.5),
        us(0.99),
        us(0.999),
        us(1.0)
    );
}

/// One large write.
fn fill(store: &RamStore, at: u64, mut data: Reader<'_>, times: &mut Vec<u64>) {
    let mut pages = BufList::new();
    loop {
        let begun = on_processor();
        let over = store.prepare(at, MIB, &mut data, &mut pages).expect("memory");
        if over {
            store.publish(at, MIB, &mut pages);
        }
        times.push(on_processor() - begun);
        if over {
            return;
        }
    }
}

fn main() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let other = std::thread::spawn(|| {
        while !OVER.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
    });
    let data = BufList::from(Buf::from(vec![0x5A; MIB]));
    let mut firsts = Vec::new();
    {
        let store = RamStore::new(FIRST as u64).expect("memory");
        for at in (0..FIRST as u64).step_by(MIB) {
            fill(&store, at, data.reader(), &mut firsts);
        }
    }
    let store = RamStore::new(64 * MIB as u64).expect("memory");
    let (mut fills, mut clears) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for set in 0..4u64 {
            let mut under_way: Vec<_> =
                (0..8).map(|i| (set * 8 + i, data.reader(), BufList::new(), false)).collect();
            while under_way.iter().any(|w| !w.3) {
                for (n, reader, pages, over) in under_way.iter_mut().filter(|w| !w.3) {
                    let begun = on_processor();
                    *over = store.prepare(*n * MIB as u64, MIB, reader, pages).expect("memory");
                    if *over {
                        store.publish(*n * MIB as u64, MIB, pages);
                        pages.clear();
                    }
                    fills.push(on_processor() - begun);
                }
            }
        }
        let mut done = 0;
        while done < 32 * MIB as u64 {
            let begun = on_processor();
            done += store.zero_some(done, 32 * MIB as u64 - done).expect("whole pages");
            clears.push(on_processor() - begun);
        }
    }
    OVER.store(true, Ordering::Relaxed);
    print("first use", 1, &mut firsts);
    print("writing", ROUNDS, &mut fills);
    print("deallocating", ROUNDS, &mut clears);
    let _ = other.join();
}
