//! Threads that race on a pool, under schedules that a model checker chooses, explores and replays.
//!
//! The production engine runs on a simulated disk, with its locks and atomics replaced by those of
//! [shuttle](https://docs.rs/shuttle): between any two uses of one, another thread may go on. Racing writers of the same new
//! content, overlapping writes, reads, compare-and-writes and deallocations run beside the steward, which cleans the segments that
//! hold the very blocks that are found again, beside checkpoints, and beside whoever frees those blocks. Each history must be
//! linearisable ([`caisson_sim::race`]); then the pool is opened again as it was left, read, and every reference is counted.
//!
//!     cargo test -p caisson-sim --features shuttle --test schedules
//!     CAISSON_SEED=17 cargo test -p caisson-sim --features shuttle --test schedules one_order   # one seed again, exactly
//!
//! Even seeds take random schedules, odd ones those of PCT (Burckhardt and others, "A randomized scheduler with probabilistic
//! guarantees of finding bugs", 2010), which find what takes few, badly placed changes of threads. `CAISSON_SCHEDULES` is how
//! many seeds there are (default 800, which are 2,000 schedules).

mod turns;

use caisson_block::{Extent, Op};
use caisson_device::sim::{Faults, Image, Rng, SimDisk};
use caisson_device::{Alignment, Buffers};
use caisson_engine::{Cipher, Create, Memory, Options, Pool, PoolId, Settings};
use caisson_sim::pool::secrets;
use caisson_sim::race::{self, History, Plane, Race, Scale, VOLUMES};
use caisson_tables::planted::{Bug, plant};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::cell::Cell;
use std::io::Write as _;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use turns::Turns;

const SCALE: Scale = Scale { depth: 2, requests: 10, blocks: 10, hot: 4 };
const RACERS: u64 = 3;
const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 40 * SEGMENT as u64;
const ALIGN: Alignment = Alignment { memory: 4096, offset: 4096 };
/// Schedules of one odd seed, and the changes of threads that each forces.
const PCT_SCHEDULES: usize = 4;
const PCT_DEPTH: usize = 4;

thread_local! {
    /// The seed that runs on this thread of the system.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// What the races found to do, over all seeds.
#[derive(Default)]
struct Figures {
    schedules: AtomicU64,
    operations: AtomicU64,
    duplicates: AtomicU64,
    moved: AtomicU64,
    checkpoints: AtomicU64,
}

/// What all schedules begin from.
struct Stage {
    image: Image,
    buffers: Buffers,
    figures: Figures,
}

fn options(stage: &Buffers, seed: u64) -> Options {
    let mut rng = Rng::new(seed);
    Options {
        memory: Memory { tables: 1 << 20, index: 64 << 10, summaries: 64 << 10 },
        random: Some(Box::new(move |bytes| bytes.iter_mut().for_each(|b| *b = rng.below(256) as u8))),
        buffers: Some(stage.clone()),
        checkpoint_distance: Some(256 << 10),
        max_refs: u32::MAX,
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(3_000_000);
    config.silence_warnings = true;
    // A seed replays the whole run, so nobody needs the schedule itself, which is megabytes of text.
    config.failure_persistence = FailurePersistence::None;
    config
}

/// Segments that are free when the stage is set, beside those that the log has been given: what is kept for checkpoints and the
/// cleaner, and one.
const FREE: u64 = 8;
/// Blocks that are written after that, each in a batch of its own, so that the cleaner goes to work soon in the races.
const MORE: u64 = 16;
/// Blocks of the volume that others' content stands in beforehand.
const STOCK: u64 = 64;

/// Makes the pool: what the racers will write stands in segments that are mostly garbage, so the cleaner takes these first.
fn prepare(buffers: &Buffers) -> Image {
    let out = Arc::new(Mutex::new(None));
    let (filled, buffers) = (Arc::clone(&out), buffers.clone());
    let runner = Runner::new(RandomScheduler::new_from_seed(0, 1), config());
    runner.run(move || {
        let disk = SimDisk::new(1, SIZE, 4096, ALIGN, true, Faults::default());
        let mut main = Turns::new(&disk, 1);
        let (stores, options) = (vec![disk.store()], options(&buffers, 1));
        let pool = main.run(|port| async move {
            let (id, cipher) = (PoolId([9; 16]), Cipher::Aes256Gcm);
            let create = Create { id, cipher, segment_size: Some(SEGMENT), slots: Vec::new() };
            let pool = Pool::create(&port, stores, secrets(), create, options).await.unwrap();
            race::volumes(&pool, &port, SCALE).await.unwrap();
            pool.create_volume(&port, "stock", STOCK << 12, Settings::default()).await.unwrap();
            pool.create_volume(&port, "waste", STOCK << 12, Settings::default()).await.unwrap();
            pool
        });
        stock(&pool, &mut main);
        let closed = pool.clone();
        main.run(|port| async move { closed.close(&port).await }).unwrap();
        pool.abandon();
        *filled.lock().unwrap() = Some(disk.image());
    });
    let image = out.lock().unwrap().take();
    image.expect("the pool was made")
}

/// Writes the racers' shared contents one by one among blocks that are then overwritten, until little is free.
fn stock(pool: &Pool, main: &mut Turns) {
    let (stock, waste) = (pool.volume("stock").unwrap(), pool.volume("waste").unwrap());
    let write = |main: &mut Turns, volume, lba: u64, value| {
        let at = Extent { lba: lba % STOCK, blocks: 1 };
        main.submit(volume, 0, Op::Write { at, data: race::block(value), fua: false });
        main.completions().remove(0).1.unwrap();
    };
    let mut round = 0;
    while pool.status().free > FREE * u64::from(SEGMENT) {
        if round < STOCK {
            write(main, &stock, round, race::shared(round / 8, round % 8));
        }
        (0..3).for_each(|i| write(main, &waste, round * 3 + i, (1 << 50) + round * 3 + i));
        round += 1;
        if round % 2 == 0 {
            let own = pool.clone();
            main.run(|port| async move { own.checkpoint(&port).await }).unwrap();
        }
    }
    (0..MORE).for_each(|i| write(main, &waste, i, (2 << 50) + i));
}

/// One schedule, from the stage to the count.
fn act(stage: &Stage, seed: u64) {
    let disk = SimDisk::new(seed, SIZE, 4096, ALIGN, true, Faults::default());
    disk.restore(&stage.image);
    let mut main = Turns::new(&disk, seed);
    let (stores, own) = (vec![disk.store()], options(&stage.buffers, seed));
    let pool = main.run(|port| async move { Pool::open(&port, stores, secrets(), own).await }).unwrap();
    let volumes = VOLUMES.iter().map(|v| pool.volume(v.0).unwrap()).collect();
    let race = Arc::new(Race::new(SCALE, volumes));
    let steward = {
        let (race, pool, disk) = (Arc::clone(&race), pool.clone(), Arc::clone(&disk));
        shuttle::thread::spawn(move || {
            let mut own = Turns::new(&disk, seed + 1);
            own.tend(&pool);
            drop(pool);
            while !race.stop.load(Ordering::SeqCst) {
                own.turn();
            }
        })
    };
    let racers: Vec<_> = (0..RACERS)
        .map(|i| {
            let (race, disk) = (Arc::clone(&race), Arc::clone(&disk));
            shuttle::thread::spawn(move || race.run(seed * 1000 + i, &mut Turns::new(&disk, seed + 2 + i)))
        })
        .collect();
    meddle(&pool, &mut main, &race, seed);
    let status = pool.status();
    assert!(status.damaged == 0 && status.fault.is_none(), "{status:?}");
    let own = pool.clone();
    if seed.is_multiple_of(3) {
        main.run(|port| async move { own.close(&port).await }).unwrap();
    } else {
        main.run(|port| async move { own.flush(&port).await }).unwrap();
        pool.abandon();
    }
    race.stop.store(true, Ordering::SeqCst);
    let mut history = History::default();
    racers.into_iter().for_each(|r| history.append(r.join().expect("a racer")));
    steward.join().expect("the steward");
    let end = race.tick();
    drop((pool, race, main));
    look_again(stage, &disk, seed, &mut history, end);
    let (operations, cells, large) = race::judge(&history);
    assert!(large * 10 <= cells, "too much was not judged");
    let f = &stage.figures;
    let add = |n: &AtomicU64, by| n.fetch_add(by, Ordering::Relaxed);
    add(&f.schedules, 1);
    add(&f.operations, operations as u64);
    add(&f.duplicates, status.duplicate_blocks);
    add(&f.moved, status.moved_bytes);
    add(&f.checkpoints, status.checkpoints);
}

/// Frees what others find again, and freezes the tables, until the racers are done.
fn meddle(pool: &Pool, main: &mut Turns, race: &Race, seed: u64) {
    let stock = pool.volume("stock").unwrap();
    let mut rng = Rng::new(seed ^ 0xBAD);
    let mut left = 12;
    while race.over.load(Ordering::SeqCst) < RACERS {
        main.turn();
        if left > 0 && rng.below(12) == 0 {
            left -= 1;
            if rng.below(4) == 0 {
                let own = pool.clone();
                main.run(|port| async move { own.checkpoint(&port).await }).unwrap();
            } else {
                let at = Extent { lba: rng.below(12), blocks: 1 + rng.below(4) };
                main.submit(&stock, 0, Op::Deallocate { ranges: vec![at] });
                main.completions().remove(0).1.unwrap();
            }
        }
    }
}

/// Opens the pool as it was left, counts its tables again, and reads every block.
fn look_again(stage: &Stage, disk: &Arc<SimDisk>, seed: u64, history: &mut History, end: u64) {
    let mut main = Turns::new(disk, seed);
    let (stores, own) = (vec![disk.store()], options(&stage.buffers, seed));
    let (pool, findings) = main.run(|port| async move {
        let pool = Pool::open_to_read(&port, stores, secrets(), own).await.unwrap();
        let findings = pool.recount(&port).await.unwrap();
        (pool, findings)
    });
    assert!(findings.is_empty(), "{findings:?}");
    race::read_again(&pool, &mut main, SCALE, history, end);
    pool.abandon();
}

/// Runs the schedules of one seed.
fn run(stage: &Arc<Stage>, seed: u64, bug: Option<Bug>) {
    fn with(scheduler: impl Scheduler + 'static, stage: &Arc<Stage>, seed: u64, bug: Option<Bug>) {
        let (stage, round) = (Arc::clone(stage), AtomicU64::new(0));
        first_panic_ends();
        SEED.set(seed);
        let runner = Runner::new(scheduler, config());
        let ran = catch_unwind(AssertUnwindSafe(|| {
            runner.run(move || {
                plant(bug);
                act(&stage, seed * 16 + round.fetch_add(1, Ordering::Relaxed));
            });
        }));
        if let Err(panic) = ran {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            fails(&text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words"));
        }
    }
    if seed.is_multiple_of(2) {
        with(RandomScheduler::new_from_seed(seed, 1), stage, seed, bug);
    } else {
        with(PctScheduler::new_from_seed(seed, PCT_DEPTH, PCT_SCHEDULES), stage, seed, bug);
    }
}

fn stage() -> Arc<Stage> {
    let buffers = Buffers::new([256, 64, 64]).unwrap();
    Arc::new(Stage { image: prepare(&buffers), buffers, figures: Figures::default() })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

/// Runs seeds on all processors. One that fails ends the process.
fn hunt(seeds: Range<u64>, bug: Option<Bug>) -> Arc<Stage> {
    let next = AtomicU64::new(seeds.start);
    let first = stage();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                // Waiting for buffers that another thread's pool holds would be a choice that no seed makes.
                let buffers = Buffers::new([256, 64, 64]).unwrap();
                let image = first.image.clone();
                let own = Arc::new(Stage { image, buffers, figures: Figures::default() });
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    run(&own, seed, bug);
                }
                first.figures.add(&own.figures);
            });
        }
    });
    first
}

/// Has the first panic end the process with its words and its seed: what it leaves behind could not be unwound, for the
/// other threads of its schedule stand still. What shuttle stands on puts this hook aside for the whole process while it ends a thread of a
/// schedule, so a panic beside that comes to `run` instead.
fn first_panic_ends() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| fails(info))));
}

/// Ends the process, naming the seed.
fn fails(what: &dyn std::fmt::Display) -> ! {
    // Past what the test harness captures.
    let _ = writeln!(std::io::stderr(), "CAISSON_SEED={} fails: {what}", SEED.get());
    std::process::exit(101);
}

impl Figures {
    fn each(&self) -> [&AtomicU64; 5] {
        [&self.schedules, &self.operations, &self.duplicates, &self.moved, &self.checkpoints]
    }

    fn add(&self, other: &Figures) {
        for (to, from) in self.each().into_iter().zip(other.each()) {
            to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

#[test]
fn every_schedule_has_one_order() {
    let seeds = match number("CAISSON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CAISSON_SCHEDULES").unwrap_or(800),
    };
    let few = seeds.end - seeds.start < 100;
    let bug = std::env::var_os("CAISSON_BUG").map(|_| Bug::CheckedEarly);
    let stage = hunt(seeds, bug);
    let [schedules, operations, duplicates, moved, checkpoints] =
        stage.figures.each().map(|n| n.load(Ordering::Relaxed));
    println!(
        "{schedules} schedules: {operations} operations judged, {duplicates} blocks found again, {moved} bytes moved by the \
         cleaner, {checkpoints} checkpoints"
    );
    // Whether there was anything to race with.
    assert!(few || duplicates > schedules && moved > schedules * 256 && checkpoints > schedules);
}

#[test]
fn a_seed_replays_exactly() {
    let stage = stage();
    let figures = || stage.figures.each().map(|n| n.load(Ordering::Relaxed));
    for seed in 0..6 {
        let before = figures();
        run(&stage, seed, None);
        let once = figures();
        run(&stage, seed, None);
        let twice = figures();
        let gained = |a: [u64; 5], b: [u64; 5]| std::array::from_fn::<u64, 5, _>(|i| b[i] - a[i]);
        assert_eq!(gained(before, once), gained(once, twice), "seed {seed}");
    }
}

/// What only a change of threads at the wrong moment shows is found: the simulator, whose threads change between whole pieces of
/// work, cannot find this one. In a process of its own, which it ends.
#[test]
fn a_planted_race_is_found() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "every_schedule_has_one_order"])
        .env("CAISSON_BUG", "CheckedEarly")
        .env_remove("CAISSON_SEED")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    let found = said.lines().find(|line| line.starts_with("CAISSON_SEED="));
    assert!(!child.status.success() && found.is_some(), "the race is not found: {said}");
    println!("{}", found.unwrap_or_default());
}
