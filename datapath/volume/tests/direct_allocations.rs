//! Reads and writes of a RAM volume allocate nothing once warm. Alone in its process: it counts all allocations.

use caisson_block::{
    Buf, BufList, Completions, Cx, Extent, IoOp, Mono, Op, Parked, Remote, Request, Ring, Tag,
};
use caisson_volume::{Options, open};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Nowhere;
impl Ring for Nowhere {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        Err(op)
    }
}
impl Remote for Nowhere {
    fn wake(&self, _: Arc<dyn Parked>, _: u64) {}
}

#[test]
fn reads_and_writes_do_not_allocate() {
    let volume = open(&"ram:64MiB".parse().unwrap(), &Options::default()).unwrap().volume;
    let remote: Arc<dyn Remote> = Arc::new(Nowhere);
    let (mut done, mut ring) = (Completions::default(), Nowhere);
    let mut taken = Vec::new();
    let bytes = Buf::from(vec![7; 256 << 10]);
    let mut round = |i: u64, blocks: u64| {
        let mut cx = Cx { now: Mono(0), done: &mut done, ring: &mut ring, remote: &remote };
        let at = Extent { lba: (i * 37) % 16_000, blocks };
        let tag = Tag { queue: 1, slot: i as u32 };
        let mut data: BufList = cx.list();
        data.push(bytes.slice(0, blocks as usize * 4096).unwrap());
        volume.submit(&mut cx, Request { tag, op: Op::Write { at, data, fua: i.is_multiple_of(2) } });
        volume.submit(&mut cx, Request { tag, op: Op::Read { at } });
        done.take(&mut taken);
        for (_, outcome) in taken.drain(..) {
            done.recycle(outcome.unwrap());
        }
    };
    for i in 0..200_000 {
        round(i, 1 + i % 32);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for i in 0..200_000 {
        round(i, 1 + i % 32);
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}
