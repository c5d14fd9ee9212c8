//! Nanoseconds of a RAM volume's reads and writes, submit to completion, on one thread and on two. The thread's
//! time on the processor is counted, so that a busy machine disturbs less.
//!
//! `cargo run --release -p caisson-volume --example ramspeed`

use caisson_block::{
    Buf, Completions, Cx, Extent, IoOp, Mono, Op, Parked, Remote, Request, Ring, Tag, Volume,
};
use caisson_volume::{Options, open};
use std::sync::Arc;

struct Nowhere;
impl Ring for Nowhere {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        Err(op)
    }
}
impl Remote for Nowhere {
    fn wake(&self, _: Arc<dyn Parked>, _: u64) {}
}

#[derive(Clone, Copy)]
enum What {
    Read,
    Write,
    Copy,
}

/// Requests taken from the completions at once, as a busy thread's turn does.
const TURN: u32 = 32;

/// Nanoseconds that this thread has been on a processor.
fn on_processor() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Nanoseconds a request, over `count` of `bytes` each within `span` bytes.
fn measure(volume: &dyn Volume, what: What, bytes: u64, span: u64, count: u32) -> f64 {
    let geometry = volume.geometry();
    let blocks = bytes / u64::from(geometry.block_size);
    let places = span / bytes;
    let remote: Arc<dyn Remote> = Arc::new(Nowhere);
    let (mut done, mut ring, mut taken) = (Completions::default(), Nowhere, Vec::new());
    let data = Buf::from(vec![0x5A; bytes as usize]);
    let mut target = vec![1u8; span as usize];
    let mut x = 88_172_645_463_325_252u64;
    let start = on_processor();
    for i in 0..count {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let at = Extent { lba: x % places * blocks, blocks };
        let mut cx = Cx { now: Mono(0), done: &mut done, ring: &mut ring, remote: &remote };
        let op = match what {
            What::Read => Op::Read { at },
            What::Write => {
                let mut list = cx.list();
                list.push(data.clone());
                Op::Write { at, data: list, fua: false }
            }
            What::Copy => {
                let from = (at.lba * u64::from(geometry.block_size)) as usize;
                target[from..from + bytes as usize].copy_from_slice(std::hint::black_box(&data));
                std::hint::black_box(&mut target);
                continue;
            }
        };
        volume.submit(&mut cx, Request { tag: Tag { queue: 0, slot: i }, op });
        if i % TURN == TURN - 1 {
            done.take(&mut taken);
            for (_, outcome) in taken.drain(..) {
                done.recycle(outcome.expect("a RAM volume does not fail"));
            }
        }
    }
    (on_processor() - start) as f64 / f64::from(count)
}

fn main() {
    let volume = open(&"ram:256MiB".parse().expect("a size"), &Options::default()).expect("memory").volume;
    println!("{:>9} {:>9} {:>10} {:>10} {:>10}", "bytes", "span", "read ns", "write ns", "memcpy ns");
    for (bytes, span) in
        [(4096, 1 << 20), (4096, 256 << 20), (16384, 1 << 20), (131_072, 4 << 20), (1 << 20, 64 << 20)]
    {
        let count = (1 << 31) / bytes as u32;
        measure(&*volume, What::Write, bytes, span, count);
        let [write, read, copy] =
            [What::Write, What::Read, What::Copy].map(|w| measure(&*volume, w, bytes, span, count));
        println!("{bytes:>9} {span:>9} {read:>10.1} {write:>10.1} {copy:>10.1}");
    }
    let both = |what| {
        std::thread::scope(|s| {
            let run = || measure(&*volume, what, 4096, 256 << 20, 2_000_000);
            let other = s.spawn(run);
            (run() + other.join().expect("no panic")) / 2.0
        })
    };
    println!("two threads, 4096 bytes: read {:.1} ns, write {:.1} ns", both(What::Read), both(What::Write));
}
