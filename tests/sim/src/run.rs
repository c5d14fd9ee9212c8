//! Running seeds: one, or many on all processors; and what is said of one that failed.

use crate::plan::Plan;
use crate::subject::Subject;
use crate::world::{Counts, World};
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A run that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
    /// Things that had happened.
    pub steps: u64,
    /// The last of them.
    pub trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} failed after {} events:", self.seed, self.steps)?;
        write!(f, "{}", self.trace)?;
        writeln!(f, "         {}", self.what)?;
        writeln!(f, "replay: CAISSON_SEED={} (CAISSON_TRACE=1 prints every event)", self.seed)
    }
}

/// Counts of many runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Runs.
    pub runs: u64,
    /// What happened in them.
    pub counts: Counts,
}

impl Stats {
    fn add(&mut self, c: Counts) {
        self.runs += 1;
        self.counts.requests += c.requests;
        self.counts.actions += c.actions;
        self.counts.crashes += c.crashes;
        self.counts.errors += c.errors;
        self.counts.lies += c.lies;
        self.counts.judged += c.judged;
        self.counts.tangled += c.tangled;
        self.counts.digest ^= c.digest;
    }
}

thread_local! {
    /// What the last panic on this thread said, while panics are caught.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// Has panics of caught runs kept as text and not printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CATCHING.with_borrow(|c| *c) {
                PANIC.set(Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs what `plan` chose on the subject that `make` makes for it.
///
/// # Errors
/// [`Failure`]; a panic of the subject is one.
pub fn run_seed<S: Subject>(plan: Plan, make: impl FnOnce(&Plan) -> S) -> Result<Counts, Box<Failure>> {
    keep_panics();
    let seed = plan.seed;
    let aloud = std::env::var_os("CAISSON_TRACE").is_some();
    let mut world = None;
    CATCHING.set(true);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let subject = make(&plan);
        world.insert(World::new(plan, subject, aloud)).run()
    }));
    CATCHING.set(false);
    let what = match ended {
        Ok(Ok(())) => {
            let world = world.expect("it ran");
            let (judged, tangled, digest) = (world.model.judged, world.model.tangled, world.trace.digest());
            return Ok(Counts { judged, tangled, digest, ..world.counts });
        }
        Ok(Err(what)) => {
            let explained = world.as_ref().map(|w| w.subject.explain()).unwrap_or_default();
            let plan = world.as_ref().map(|w| format!("{:?}", w.plan)).unwrap_or_default();
            format!("{what}\n         {explained}\n         {plan}")
        }
        Err(_) => format!("it panicked: {}", PANIC.take().unwrap_or_default()),
    };
    let (steps, trace) = match &world {
        Some(world) => (world.trace.steps(), world.trace.last(40, "")),
        None => (0, String::new()),
    };
    // A world in which something panicked may not be dropped safely: destructors of the subject may panic again.
    if let Some(mut world) = world {
        CATCHING.set(true);
        let _ = catch_unwind(AssertUnwindSafe(move || world.end()));
        CATCHING.set(false);
    }
    Err(Box::new(Failure { seed, what, steps, trace }))
}

/// Which seeds to run: `CAISSON_SEED` is one, `CAISSON_SEEDS` so many, from `CAISSON_FIRST` (0) on; `usual` otherwise.
pub fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    if let Some(seed) = number("CAISSON_SEED") {
        return seed..seed + 1;
    }
    let first = number("CAISSON_FIRST").unwrap_or(0);
    first..first + number("CAISSON_SEEDS").unwrap_or(usual)
}

/// Runs `seeds` on all processors, up to the first failure: of those that were found, the one with the fewest events.
///
/// # Errors
/// The failure.
pub fn run_seeds<S: Subject>(
    seeds: std::ops::Range<u64>,
    plan: impl Fn(u64) -> Plan + Sync,
    make: impl Fn(&Plan) -> S + Sync,
) -> Result<Stats, Box<Failure>> {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let stats = Mutex::new(Stats::default());
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match run_seed(plan(seed), &make) {
                        Ok(counts) => stats.lock().expect("no panic while held").add(counts),
                        Err(failure) => {
                            stop.store(true, Ordering::Relaxed);
                            failures.lock().expect("no panic while held").push(failure);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic while held");
    match failures.into_iter().min_by_key(|f| f.steps) {
        Some(failure) => Err(failure),
        None => Ok(stats.into_inner().expect("no panic while held")),
    }
}
