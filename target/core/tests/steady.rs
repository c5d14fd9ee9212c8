//! The steady path: no allocation, and what an idle connection costs. Run with `--nocapture` for the figures; with
//! `--release` they say something about speed too.

mod support;

use caisson_block::*;
use caisson_core::*;
use caisson_wire::opcode::io as opc;
use caisson_wire::zerocopy::little_endian::U16;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;
use support::*;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: forwards to the system's allocator; the counters are thread-local cells without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        BYTES.with(|b| b.set(b.get() + layout.size() as i64));
        // SAFETY: the caller's duties are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        BYTES.with(|b| b.set(b.get() - layout.size() as i64));
        // SAFETY: the caller's duties are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A volume that answers at once with static zeroes.
struct Null;

impl Volume for Null {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: 4096,
            blocks: 1 << 30,
            volatile_cache: false,
            deallocates: false,
            preferred_blocks: 1,
        }
    }

    fn submit(&self, cx: &mut Cx<'_>, request: Request) {
        let mut list = cx.list();
        match request.op {
            Op::Read { .. } => list.push(Buf::zeroes(4096)),
            Op::Write { data, .. } => cx.recycle(data),
            _ => {}
        }
        cx.complete(request.tag, Ok(list));
    }
}

#[test]
fn steady_io_allocates_nothing() {
    let mut w = World::new(4096);
    let uuid = uuid::Uuid::from_u128(42);
    w.target
        .add_namespace(NQN, NamespaceSpec { nsid: Some(2), ..NamespaceSpec::new(Arc::new(Null), uuid) })
        .unwrap();
    let (_, q) = w.pair();
    let queue = &mut w.conns[q].queue;
    let (mut done, mut ring) = (Completions::default(), NoRing);
    let remote: Arc<dyn Remote> = Arc::new(NoRemote);
    let mut cx = Cx { now: w.now, done: &mut done, ring: &mut ring, remote: &remote };
    let (mut out, mut completed) = (Vec::with_capacity(64), Vec::with_capacity(64));
    let mut round = |cx: &mut Cx<'_>, depth: u32, write: bool| {
        for slot in 0..depth {
            let opcode = if write { opc::WRITE } else { opc::READ };
            let mut sqe = io(opcode, 2, u64::from(slot), 1);
            (sqe.cid, sqe.flags) = (U16::new(slot as u16), 0x40);
            let payload = if write {
                let mut list = cx.list();
                list.push(Buf::zeroes(4096));
                Payload::InCapsule(list)
            } else {
                Payload::Transport { len: 4096 }
            };
            queue.command(cx, slot, &sqe, payload, &mut out);
        }
        cx.done.take(&mut completed);
        for (tag, outcome) in completed.drain(..) {
            queue.completed(cx, tag.slot, outcome, &mut out);
        }
        assert_eq!(out.len(), depth as usize);
        for action in out.drain(..) {
            let Action::Reply { cqe, data, .. } = action else { panic!("{action:?}") };
            assert!(cqe.status().is_success());
            cx.recycle(data);
        }
    };
    for write in [false, true] {
        for _ in 0..100 {
            round(&mut cx, 32, write);
        }
        let before = COUNT.with(Cell::get);
        // The best of many, because the machine may have other things to do.
        let mut ns = u128::MAX;
        for _ in 0..200 {
            let start = Instant::now();
            (0..100).for_each(|_| round(&mut cx, 32, write));
            ns = ns.min(start.elapsed().as_nanos() / (100 * 32));
        }
        assert_eq!(COUNT.with(Cell::get) - before, 0, "allocations on the steady path");
        println!(
            "{} of 4 KiB: {ns} ns from capsule to reply, 0 allocations",
            if write { "write" } else { "read" }
        );
    }
}

#[test]
fn an_idle_connection_is_small() {
    const N: usize = 1000;
    let mut w = World::new(4096);
    w.conns.reserve(3 * N + 10);
    let measure = |w: &mut World, f: &mut dyn FnMut(&mut World)| {
        let before = BYTES.with(Cell::get);
        for _ in 0..N {
            f(w);
        }
        (BYTES.with(Cell::get) - before) as usize / N + size_of::<Queue>()
    };
    let admin = measure(&mut w, &mut |w| {
        w.admin_disabled(NQN, HOST, 0);
    });
    let (_, id) = w.admin(NQN, HOST, 0);
    let mut next = 0;
    let mut cntlid = id;
    let idle = measure(&mut w, &mut |w| {
        next += 1;
        if next > 128 {
            cntlid = w.admin(NQN, HOST, 0).1;
            next = 1;
        }
        w.io(cntlid, next);
    });
    println!("an idle admin queue with its controller: {admin} bytes; an idle I/O queue: {idle} bytes");
    assert!(admin < 3072 && idle < 2048, "{admin} {idle}");
}
