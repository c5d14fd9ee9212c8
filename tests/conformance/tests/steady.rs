//! The steady path of the whole target, counted: no allocation on a data-plane thread, and less than one system call an
//! I/O at depth. Counts, not times: a slow machine does not fail it.

use caisson_conformance::subject::{BIG, NQN, Subject, io};
use caisson_initiator::perf::{self, Pattern, Until, Workload};
use caisson_initiator::{Client, Command, Data, Queue};
use caisson_wire::opcode::io as op;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take here, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// What the data plane has done so far.
#[derive(Clone, Copy)]
struct Sample {
    allocated: u64,
    /// System calls, but for polls that found nothing: those come from waiting for the host, for as long as a thread may
    /// spin, and so tell how busy the machine is with other things.
    calls: u64,
    commands: u64,
}

impl Sample {
    fn of(s: &Subject) -> Sample {
        let mut calls = 0;
        for t in s.reactors.stats() {
            // In this order: a poll that comes in between then counts as one call too many, never as one too few.
            let vain = t.vain_polls.load(Ordering::Acquire);
            calls += t.syscalls.load(Ordering::Relaxed) - vain;
        }
        let seen = s.target.snapshot();
        let hosts = seen.subsystems.iter().flat_map(|s| &s.namespaces).flat_map(|n| &n.hosts);
        let commands = hosts.map(|h| h.io.ops.iter().sum::<u64>()).sum();
        Sample { allocated: ALLOCATED.load(Ordering::Relaxed), calls, commands }
    }

    /// The first sample with `commands` commands or more; `None` when they do not come.
    fn after(s: &Subject, commands: u64) -> Option<Sample> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let sample = Sample::of(s);
            if sample.commands >= commands {
                return Some(sample);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

/// A row of the test: what hosts ask for, and how deep.
struct Shape {
    pattern: Pattern,
    block: u32,
    depth: u32,
    connections: u32,
}

impl Shape {
    fn name(&self) -> String {
        format!("{} KiB {:?} {} x{}", self.block / 1024, self.pattern, self.depth, self.connections)
    }

    /// Commands that can be outstanding.
    fn outstanding(&self) -> u64 {
        u64::from(self.depth * self.connections)
    }

    fn command(&self, n: u32) -> Command {
        let lba = u64::from(n) * 37 % 1000;
        match self.pattern {
            Pattern::Write | Pattern::RandWrite => {
                io(op::WRITE, BIG.nsid, lba, 1).with(Data::Out(vec![7; self.block as usize]))
            }
            _ => io(op::READ, BIG.nsid, lba, 1).with(Data::In(self.block)),
        }
    }

    /// Fills every queue at once, waits until all is answered, and again, `rounds` times.
    fn bursts(&self, queues: &mut [Queue], rounds: u32) {
        for _ in 0..rounds {
            let burst = |q: &mut Queue| q.submit_all((0..self.depth).map(|n| self.command(n))).unwrap();
            let sent: Vec<Vec<u16>> = queues.iter_mut().map(burst).collect();
            for (q, cids) in queues.iter_mut().zip(sent) {
                for cid in cids {
                    assert!(q.wait(cid).unwrap().status().is_success());
                }
            }
        }
    }
}

/// System calls of the data plane for a command of `shape`, where each queue's commands come together. (How many come
/// together when hosts run freely is decided by how fast they are, and by who else wants the processor.)
fn calls_an_io(s: &Subject, shape: &Shape, queues: &mut [Queue]) -> f64 {
    const ROUNDS: u32 = 100;
    shape.bursts(queues, ROUNDS / 4);
    let before = Sample::of(s);
    shape.bursts(queues, ROUNDS);
    (Sample::of(s).calls - before.calls) as f64 / (shape.outstanding() * u64::from(ROUNDS)) as f64
}

/// What `shape` comes to while the load generator drives it: two samples with a thousand commands in between for each
/// that can be outstanding, so that growing once to the longest queue ever is lost among them; `None` when they do not
/// come.
fn driven(s: &Subject, shape: &Shape, mut client: Client, queues: Vec<Queue>) -> Option<(Sample, Sample)> {
    let w = Workload {
        pattern: shape.pattern,
        block: shape.block,
        depth: shape.depth,
        connections: shape.connections,
        // Ended by us, once there was enough of it.
        until: Until::Time(10 * PATIENCE),
        timeout: PATIENCE,
        ..Workload::default()
    };
    let shared = Arc::new(perf::Shared::default());
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let ns = client.namespace(BIG.nsid).unwrap();
            let links = queues.into_iter().map(Queue::into_link).collect::<Result<_, _>>().unwrap();
            perf::run(links, &ns, &w, &shared, &mut |_| client.tick()).unwrap();
        });
        let enough = 1000 * shape.outstanding();
        let counted = Sample::after(s, Sample::of(s).commands + enough / 4)
            .and_then(|warm| Some((warm, Sample::after(s, warm.commands + enough)?)));
        shared.stop.store(true, Ordering::Relaxed);
        run.join().unwrap();
        counted
    })
}

#[test]
fn allocations_and_system_calls_an_io() {
    let s = Subject::start();
    println!(
        "{:>26} {:>10} {:>14} {:>14} {:>14}",
        "", "commands", "allocations", "system calls", "when together"
    );
    for (pattern, block, depth, connections) in [
        (Pattern::RandRead, 4096, 32, 1),
        (Pattern::RandRead, 4096, 32, 4),
        (Pattern::RandWrite, 4096, 32, 1),
        (Pattern::RandWrite, 4096, 128, 4),
        (Pattern::Read, 131_072, 16, 1),
        (Pattern::Write, 131_072, 16, 1),
    ] {
        let shape = Shape { pattern, block, depth, connections };
        let name = shape.name();
        let mut client = Client::connect(s.options(NQN)).unwrap();
        let mut queues: Vec<Queue> =
            (1..=connections as u16).map(|qid| client.io_queue(qid, depth + 1).unwrap()).collect();
        let together = (block == 4096).then(|| calls_an_io(&s, &shape, &mut queues));
        let (warm, end) = driven(&s, &shape, client, queues)
            .unwrap_or_else(|| panic!("{name}: too little comes through to say anything"));
        let (done, allocated) = (end.commands - warm.commands, end.allocated - warm.allocated);
        let calls = (end.calls - warm.calls) as f64 / done as f64;
        let shown = together.map_or_else(|| "-".into(), |c| format!("{c:.3}"));
        println!("{name:>26} {done:>10} {allocated:>14} {calls:>14.3} {shown:>14}");
        // A timer or a longer queue than ever before may cost one now and then; an I/O may not.
        assert!(allocated * 1000 <= done, "{name}: {allocated} allocations in {done} commands");
        assert!(together.is_none_or(|c| c < 1.0), "{name}: {shown} system calls for a command");
    }
}
