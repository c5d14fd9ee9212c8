//! How often a byte is written to the devices for each that a host wrote, in a pool that is 80 % full and overwritten at random, beside the
//! literature's bounds.
//!
//! `cargo run --release -p caisson-engine --example cleaning -- [FOLDER] [GIB] [PERCENT] [ROUNDS]`, FOLDER on a file system in memory (/dev/shm). Blocks
//! are unique and not compressible; dedup is off, so a block is written once by its host. Each workload overwrites as many blocks as there
//! are ROUNDS (3) times to come to rest, and as often to be measured. The policies of the literature are run on pages without bytes with the
//! same distribution of addresses, in a log of 512 segments with the same share of it live.

#[path = "../../tests/common/mod.rs"]
mod common;
mod model;

use caisson_block::{BufList, Extent, Op};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, PoolVolume, Settings, Status};
use common::{Thread, secrets, store};
use model::{Choice, Model, apart, closed_form};
use std::time::{Duration, Instant};

const BLOCK: u64 = 4096;
const DEPTH: u32 = 32;

/// Where writes go.
#[derive(Clone, Copy)]
enum Load {
    Uniform,
    /// So much of them goes to so much of the blocks, in percent; all alike among each.
    HotCold(u64, u64),
    /// 80 % goes to 20 % of the blocks, of these 80 % to 20 % of those, and so on (J. Gray et al., "Quickly generating billion-record synthetic
    /// databases", SIGMOD 1994: self-similar).
    SelfSimilar,
}

/// Where the next write goes.
struct Places {
    x: u64,
    blocks: u64,
    load: Load,
}

impl Places {
    fn random(&mut self) -> u64 {
        self.x ^= self.x << 13;
        self.x ^= self.x >> 7;
        self.x ^= self.x << 17;
        self.x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    fn next(&mut self) -> u64 {
        let random = self.random();
        match self.load {
            Load::Uniform => random % self.blocks,
            Load::HotCold(share, part) => {
                let hot = self.blocks * part / 100;
                let at = self.random();
                if random % 100 < share { at % hot } else { hot + at % (self.blocks - hot) }
            }
            Load::SelfSimilar => {
                let u = random as f64 / (1u64 << 53) as f64;
                let at = self.blocks as f64 * u.powf(f64::ln(0.2) / f64::ln(0.8));
                (at as u64).min(self.blocks - 1)
            }
        }
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap_or_else(|| "/dev/shm".into());
    let mut number = |or: u64| args.next().and_then(|n| n.parse().ok()).unwrap_or(or);
    let (gib, percent, rounds) = (number(4), number(80), number(3));
    let only: Option<String> = args.next();
    for (name, load) in [
        ("uniform", Load::Uniform),
        ("hot: 80 % of writes to 20 % of blocks", Load::HotCold(80, 20)),
        ("self-similar: 80 % to 20 %, and so on", Load::SelfSimilar),
    ] {
        if only.as_ref().is_none_or(|only| name.starts_with(only)) {
            println!("## {name}; pool of {gib} GiB, {percent} % full");
            run(&folder, gib << 30, percent, rounds, load);
        }
    }
}

fn run(folder: &str, size: u64, percent: u64, rounds: u64, to: Load) {
    let path = std::path::Path::new(folder).join(format!("cleaning-{}", std::process::id()));
    let mut thread = Thread::default();
    let stores = vec![store(&path, size)];
    let create =
        Create { id: PoolId([9; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
    let pool = thread
        .wait(|port| async move { Pool::create(&port, stores, secrets(), create, Options::default()).await })
        .expect("a pool");
    pool.tend(|make| thread.spawn(make));
    let own = pool.clone();
    let settings = Settings { compression: None, dedup: false, ..Settings::default() };
    thread.wait(|port| async move { own.create_volume(&port, "v", size, settings).await }).expect("a volume");
    let volume = pool.volume("v").expect("it was made");

    let begun = Instant::now();
    let mut blocks = 0;
    while pool.status().live < size / 100 * percent {
        load(&mut thread, &volume, 256, &mut Vec::new(), || {
            blocks += 32;
            (blocks - 32, 32)
        });
    }
    let segment = pool.status().segment_size >> 10;
    println!(
        "filled with {blocks} blocks, {:.1} s; segments of {segment} KiB",
        begun.elapsed().as_secs_f64()
    );
    let mut places = Places { x: 0x9E37_79B9_7F4A_7C15, blocks, load: to };
    println!(
        "round   all  log + cleaner  of it cleaner  checkpoints  how many  live/size  least free  us a write  p99.9 ms  longest ms"
    );
    let mut total = Sums::default();
    for round in 0..2 * rounds {
        let (before, begun) = (pool.status(), Instant::now());
        let (mut least, mut waits) = (u64::MAX, Vec::with_capacity(blocks as usize));
        for _ in 0..64 {
            load(&mut thread, &volume, blocks / 64, &mut waits, || (places.next(), 1));
            least = least.min(pool.status().free);
        }
        let took = begun.elapsed();
        let sums = Sums::between(&before, &pool.status());
        waits.sort_unstable();
        let ms = |at: usize| waits[at].as_secs_f64() * 1e3;
        println!(
            "{}  {:4.1}%  {:10.2}  {:8.2}  {:10.1}{}",
            sums.line(&format!("{round:5}"), pool.status().live as f64 / size as f64),
            least as f64 * 100.0 / size as f64,
            took.as_micros() as f64 / waits.len() as f64,
            ms(waits.len() / 1000 * 999),
            ms(waits.len() - 1),
            if round < rounds { "  (coming to rest)" } else { "" }
        );
        if round >= rounds {
            total.add(&sums);
        }
    }
    println!("{}", total.line(" mean", pool.status().live as f64 / size as f64));
    let live = pool.status().live as f64 / size as f64;
    drop(volume);
    pool.abandon();
    drop((thread, pool));
    let _ = std::fs::remove_file(&path);
    bounds(live, rounds, to);
}

/// Bytes written, by who wrote them.
#[derive(Default)]
struct Sums {
    host: u64,
    log: u64,
    cleaner: u64,
    checkpoints: u64,
    number: u64,
}

impl Sums {
    fn between(before: &Status, now: &Status) -> Sums {
        Sums {
            host: now.stored_bytes - before.stored_bytes,
            log: now.log_bytes - before.log_bytes,
            cleaner: now.moved_bytes - before.moved_bytes,
            checkpoints: now.checkpoint_bytes - before.checkpoint_bytes,
            number: now.checkpoints - before.checkpoints,
        }
    }

    fn add(&mut self, other: &Sums) {
        self.host += other.host;
        self.log += other.log;
        self.cleaner += other.cleaner;
        self.checkpoints += other.checkpoints;
        self.number += other.number;
    }

    fn line(&self, name: &str, live: f64) -> String {
        let times = |bytes: u64| bytes as f64 / self.host as f64;
        let (data, checkpoints) = (times(self.log + self.cleaner), times(self.checkpoints));
        let cleaner = times(self.cleaner);
        format!(
            "{name}  {:4.2}  {data:13.2}  {cleaner:13.2}  {checkpoints:11.2}  {:8}  {live:9.3}",
            data + checkpoints,
            self.number
        )
    }
}

/// Writes `requests` times, [`DEPTH`] at a time.
fn load(
    thread: &mut Thread,
    volume: &PoolVolume,
    requests: u64,
    waits: &mut Vec<Duration>,
    mut place: impl FnMut() -> (u64, u64),
) {
    let (mut begun, mut left, mut free) = (0, requests, Vec::from_iter(0..DEPTH));
    let mut since = [Instant::now(); DEPTH as usize];
    while left > 0 {
        while begun < requests
            && let Some(slot) = free.pop()
        {
            begun += 1;
            let (lba, blocks) = place();
            let mut data = vec![0; (blocks * BLOCK) as usize];
            // Nothing is compressed or compared: that blocks differ is not needed.
            data.iter_mut().step_by(64).for_each(|byte| *byte = lba as u8 | 1);
            let op = Op::Write { at: Extent { lba, blocks }, data: BufList::from(data), fua: false };
            since[slot as usize] = Instant::now();
            thread.submit(volume, slot, op);
        }
        thread.completions().for_each(|(tag, outcome)| {
            outcome.expect("a write");
            waits.push(since[tag.slot as usize].elapsed());
            free.push(tag.slot);
            left -= 1;
        });
        if left > 0 {
            assert!(thread.turn(), "nothing happens any more");
        }
    }
}

/// What the literature's policies come to, with the share of the segments live.
fn bounds(live: f64, rounds: u64, load: Load) {
    const SEGMENTS: u32 = 512;
    const PAGES: usize = 512;
    let a = 1.0 / live;
    println!("bounds where {:.1} % of the log is live:", live * 100.0);
    println!("  closed form, in order of age, uniform  {:5.2}", closed_form(a));
    if let Load::HotCold(share, part) = load {
        println!(
            "  kept apart for ever                    {:5.2}",
            apart(a, share as f64 / 100.0, part as f64 / 100.0)
        );
    }
    let pages = (f64::from(SEGMENTS) * PAGES as f64 * live) as u32;
    for (name, choice, apart) in [
        ("greedy", Choice::Greedy, false),
        ("cost-benefit", Choice::CostBenefit, false),
        ("greedy, moved apart", Choice::Greedy, true),
        ("cost-benefit, moved apart", Choice::CostBenefit, true),
    ] {
        let mut model = Model::new(pages, SEGMENTS, PAGES, 4, choice, apart);
        let mut places = Places { x: 0x9E37_79B9_7F4A_7C15, blocks: pages.into(), load };
        (0..rounds * u64::from(pages)).for_each(|_| model.write(places.next() as u32));
        model.written();
        (0..rounds * u64::from(pages)).for_each(|_| model.write(places.next() as u32));
        let times = model.written() as f64 / (rounds * u64::from(pages)) as f64;
        println!("  {name:38} {times:5.2}");
    }
}
