//! The steady path of the whole target, counted: no allocation on a data-plane thread, and less than one system call an
//! I/O at depth. Counts, not times: a slow machine does not fail it.

use caisson_conformance::subject::{BIG, NQN, Subject};
use caisson_initiator::Client;
use caisson_initiator::perf::{self, Pattern, Until, Workload};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts what threads named `caisson-io-*` allocate.
struct Counting;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is one of the data plane's; `None` until asked.
    static DATA_PLANE: Cell<Option<bool>> = const { Cell::new(None) };
}

fn count() {
    let ours = DATA_PLANE.with(|d| {
        d.get().unwrap_or_else(|| {
            let mut name = [0u8; 16];
            // SAFETY: PR_GET_NAME writes at most 16 bytes to where it is told.
            unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
            let ours = name.starts_with(b"caisson-io");
            // A thread is named a little after it began; only its own name is final.
            if ours {
                d.set(Some(true));
            }
            ours
        })
    });
    if ours {
        ALLOCATED.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations, system calls and commands so far.
fn sample(s: &Subject) -> (u64, u64, u64) {
    let calls = s.reactors.stats().iter().map(|t| t.syscalls.load(Ordering::Relaxed)).sum();
    let seen = s.target.snapshot();
    let hosts = seen.subsystems.iter().flat_map(|s| &s.namespaces).flat_map(|n| &n.hosts);
    let done = hosts.map(|h| h.io.ops.iter().sum::<u64>()).sum();
    (ALLOCATED.load(Ordering::Relaxed), calls, done)
}

#[test]
fn allocations_and_system_calls_an_io() {
    let s = Subject::start();
    println!("{:>26} {:>10} {:>14} {:>14}", "", "commands", "allocations", "system calls");
    for (pattern, block, depth, connections) in [
        (Pattern::RandRead, 4096, 32, 1),
        (Pattern::RandRead, 4096, 32, 4),
        (Pattern::RandWrite, 4096, 32, 1),
        (Pattern::RandWrite, 4096, 128, 4),
        (Pattern::Read, 131_072, 16, 1),
        (Pattern::Write, 131_072, 16, 1),
    ] {
        let until = Until::Time(Duration::from_millis(1500));
        let w = Workload { pattern, block, depth, connections, until, ..Workload::default() };
        let (warm, end) = std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let mut client = Client::connect(s.options(NQN)).unwrap();
                let ns = client.namespace(BIG.nsid).unwrap();
                let links = (1..=connections as u16)
                    .map(|qid| client.io_queue(qid, depth + 1)?.into_link())
                    .collect::<Result<_, _>>()
                    .unwrap();
                perf::run(links, &ns, &w, &Arc::default(), &mut |_| client.tick()).unwrap();
            });
            std::thread::sleep(Duration::from_millis(700));
            let warm = sample(&s);
            std::thread::sleep(Duration::from_millis(600));
            let end = sample(&s);
            run.join().unwrap();
            (warm, end)
        });
        let (allocated, calls, done) = (end.0 - warm.0, end.1 - warm.1, end.2 - warm.2);
        let name = format!("{} KiB {pattern:?} {depth} x{connections}", block / 1024);
        println!("{name:>26} {done:>10} {allocated:>14} {:>14.3}", calls as f64 / done as f64);
        assert!(done > 500, "{name}: too little came through to say anything");
        // A timer or a longer queue than ever before may cost one now and then; an I/O may not.
        assert!(allocated * 1000 <= done, "{name}: {allocated} allocations in {done} commands");
        if block == 4096 {
            assert!(calls < done, "{name}: {calls} system calls for {done} commands");
        }
    }
}
