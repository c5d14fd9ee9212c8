//! A pool of 1 TiB in bounded memory: filled with unique blocks, overwritten, read, found again, crashed and reopened.
//!
//! `cargo run --release -p caisson-engine --example terabyte -- [--gib N] [--minutes N] [--folder /dev/shm] [--tables MIB] [--index MIB]
//! [--summaries MIB] [--stream GIB] [--random BLOCKS]`, and `-- --huge TIB` for a pool that is only large. Every block is
//! hashed, published and sealed as in the program (without compression); the device keeps metadata and forgets payload.
//! FOLDER takes about 20 GiB a TiB, for metadata by whole pages.

mod device;
mod kept;

use caisson_block::{BlockError, BufList, Extent, Op, Pool as Buffers};
use caisson_device::{FileStore, Size};
use caisson_engine::{Cipher, Create, Memory, Options, Pool, PoolId, PoolVolume, Secrets, Settings};
use caisson_fingerprint::FingerprintKey;
use caisson_keys::Secret;
use device::{Counts, Thread, processor};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Bytes of a sequential request, and requests at once.
const REQUEST: u64 = 256 << 10;
const DEPTH: u32 = 8;
/// One request in so many has its payload kept, to be read again.
const KEPT: u64 = GIB / 4 / REQUEST;

#[derive(Clone)]
struct Plan {
    gib: u64,
    /// Bytes of the device.
    size: u64,
    /// How long the fill may take: what it has come to by then is what the rest is shown with.
    minutes: u64,
    path: PathBuf,
    memory: Memory,
    stream: u64,
    random: u64,
    huge: u64,
}

fn plan() -> Plan {
    let mut plan = Plan {
        gib: 1024,
        size: 0,
        minutes: 600,
        path: PathBuf::from("/dev/shm"),
        memory: Memory { tables: 160 << 20, index: 192 << 20, summaries: 48 << 20 },
        stream: 8,
        random: 100_000,
        huge: 0,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().expect("each option has a value");
        let number = || value.parse::<u64>().expect("a number");
        match name.as_str() {
            "--gib" => plan.gib = number(),
            "--minutes" => plan.minutes = number(),
            "--folder" => plan.path = PathBuf::from(&value),
            "--tables" => plan.memory.tables = (number() * MIB) as usize,
            "--index" => plan.memory.index = (number() * MIB) as usize,
            "--summaries" => plan.memory.summaries = (number() * MIB) as usize,
            "--stream" => plan.stream = number(),
            "--random" => plan.random = number(),
            "--huge" => plan.huge = number(),
            _ => panic!("unknown option {name}"),
        }
    }
    plan.size = plan.gib * GIB / 2 * 3;
    plan.path.push(format!("terabyte-{}", std::process::id()));
    plan
}

fn secrets() -> Secrets {
    let secret = |byte: u8| Secret::take(&mut [byte; 32]);
    Secrets {
        epochs: vec![((0, 1), secret(1)), ((1, 1), secret(2))],
        prints: vec![(1, FingerprintKey::new([3; 32]))],
    }
}

/// A line of `/proc/self/status`, in MiB.
fn own(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(what));
    line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) >> 10
}

struct Bench {
    plan: Plan,
    thread: Thread,
    /// `None` only between two openings.
    open: Option<Pool>,
    volume: Option<Arc<PoolVolume>>,
    buffers: Buffers,
    seed: u64,
}

/// Which contents a block has: a number that no other has.
type Number = u64;

fn stamp(block: &mut [u8], number: Number) {
    block[..8].copy_from_slice(&number.to_le_bytes());
}

fn open_store(path: &Path, size: u64) -> Arc<FileStore> {
    FileStore::open(path, Size::new(size)).expect("a sparse file")
}

fn main() {
    let plan = plan();
    let path = plan.path.clone();
    if plan.huge > 0 {
        huge(&plan);
    } else {
        let mut bench = Bench::create(plan);
        bench.all();
    }
    kept::remove(&path);
    println!("peak memory of the process: {} MiB", own("VmHWM"));
}

impl Bench {
    fn create(plan: Plan) -> Bench {
        let store = open_store(&plan.path, plan.size);
        let mut thread = Thread::new(&plan.path);
        let create =
            Create { id: PoolId([9; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
        let options = Options { memory: plan.memory, ..Options::default() };
        let made = thread
            .wait(|port| async move { Pool::create(&port, vec![store], secrets(), create, options).await });
        let pool = made.expect("a pool");
        pool.tend(|make| thread.spawn(make));
        let settings = Settings { compression: None, ..Settings::default() };
        for (name, bytes) in [("v", plan.gib * GIB), ("w", plan.gib.max(256) * GIB)] {
            let own = pool.clone();
            let made =
                thread.wait(|port| async move { own.create_volume(&port, name, bytes, settings).await });
            made.expect("a volume");
        }
        let volume = Arc::new(pool.volume("v").expect("it was made"));
        let buffers = Buffers::new(2 * DEPTH, REQUEST as usize).expect("buffers");
        Bench { plan, thread, open: Some(pool), volume: Some(volume), buffers, seed: 0x9E37_79B9_7F4A_7C15 }
    }

    fn pool(&self) -> &Pool {
        self.open.as_ref().expect("open")
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) % below
    }

    fn all(&mut self) {
        let m = self.plan.memory;
        println!(
            "{} GiB of unique blocks; memory: tables {} MiB, index {} MiB, summaries {} MiB",
            self.plan.gib,
            m.tables as u64 / MIB,
            m.index as u64 / MIB,
            m.summaries as u64 / MIB
        );
        println!("before: {} MiB resident", own("VmRSS"));
        self.fill();
        self.cold_reads();
        self.overwrites();
        self.duplicates();
        self.recovery();
    }

    /// Counts and time of `f`.
    fn measured<T>(&mut self, f: impl FnOnce(&mut Bench) -> T) -> (T, Counts, Duration) {
        let before = self.thread.device.counts;
        let begun = Instant::now();
        let value = f(self);
        let spent = begun.elapsed();
        let now = self.thread.device.counts;
        let counts = Counts {
            reads: now.reads - before.reads,
            read_bytes: now.read_bytes - before.read_bytes,
            written: now.written - before.written,
            headers: now.headers - before.headers,
            batches: now.batches - before.batches,
            checkpoints: now.checkpoints - before.checkpoints,
            superblocks: now.superblocks - before.superblocks,
        };
        (value, counts, spent)
    }

    /// Runs `count` requests of `blocks` blocks, [`DEPTH`] at a time: `of` says where, and the number of the first block.
    fn write(&mut self, count: u64, blocks: u64, mut of: impl FnMut(&mut Bench, u64) -> (u64, Number)) {
        let volume = self.volume.clone().expect("open");
        let mut free: Vec<u32> = (0..DEPTH).collect();
        let mut next = 0;
        while next < count || free.len() < DEPTH as usize {
            while next < count
                && let Some(slot) = free.pop()
            {
                let (lba, number) = of(self, next);
                let mut buf = self.buffers.alloc().expect("there are more than requests");
                buf.truncate((blocks * BLOCK) as usize);
                for (i, block) in buf.chunks_exact_mut(BLOCK as usize).enumerate() {
                    stamp(block, number + i as u64);
                }
                let data = BufList::from(buf.freeze());
                let op = Op::Write { at: Extent { lba, blocks }, data, fua: false };
                self.thread.submit(&*volume, slot, op);
                next += 1;
            }
            let mut any = false;
            for (tag, outcome) in self.thread.completions() {
                outcome.expect("a write");
                free.push(tag.slot);
                any = true;
            }
            assert!(any || self.thread.turn(), "nothing happens any more");
        }
    }

    fn flush(&mut self) {
        let volume = self.volume.clone().expect("open");
        self.thread.run(&*volume, Op::Flush).expect("a flush");
    }

    fn memory(&self, what: &str) {
        let s = self.pool().status();
        println!(
            "{what}: {} MiB resident, {} at most; tables {} MiB, index and summaries {} MiB; one print in {} sampled",
            own("VmRSS"),
            own("VmHWM"),
            s.tables_memory / MIB,
            s.index_memory / MIB,
            s.sample
        );
    }

    fn fill(&mut self) {
        let each = REQUEST / BLOCK;
        let step = 16.min(self.plan.gib);
        let ((), counts, spent) = self.measured(|bench| {
            let all = Instant::now();
            for from in (0..bench.plan.gib).step_by(step as usize) {
                let (begun, worked) = (Instant::now(), processor());
                let upto = (from + step).min(bench.plan.gib) * GIB / REQUEST;
                let mut at = from * GIB / REQUEST;
                while at < upto {
                    // One request whose payload is kept, by itself.
                    bench.flush();
                    bench.thread.device.whole = true;
                    bench.write(1, each, |_, _| (at * each, at * each));
                    bench.flush();
                    bench.thread.device.whole = false;
                    let some = (KEPT - 1).min(upto - at - 1);
                    bench.write(some, each, |_, i| ((at + 1 + i) * each, (at + 1 + i) * each));
                    at += 1 + some;
                }
                let ns = begun.elapsed().as_nanos() as u64 / (step * GIB / BLOCK);
                let cpu = (processor() - worked).as_nanos() as u64 / (step * GIB / BLOCK);
                if (from / step).is_multiple_of(4) || from + step >= bench.plan.gib {
                    println!(
                        "  {} GiB, {ns} ns a block, {cpu} ns of the processor, longest step {:?}",
                        from + step,
                        bench.thread.longest()
                    );
                    bench.memory("  ");
                }
                if all.elapsed() > Duration::from_secs(bench.plan.minutes * 60) {
                    println!("  stopped at {} GiB for want of time", from + step);
                    bench.plan.gib = from + step;
                    break;
                }
            }
            bench.flush();
        });
        let s = self.pool().status();
        let blocks = self.plan.gib * GIB / BLOCK;
        let tib = |bytes: u64| bytes as f64 / self.plan.gib as f64 * 1024.0 / GIB as f64;
        println!(
            "fill: {:.1} s, {} ns a block, checkpoints {}",
            spent.as_secs_f64(),
            spent.as_nanos() as u64 / blocks,
            s.checkpoints
        );
        println!(
            "  written a TiB: log {:.2} GiB, of it headers {:.2} GiB in {} batches; checkpoints {:.2} GiB; superblocks {:.3} GiB",
            tib(s.log_bytes),
            tib(counts.headers),
            counts.batches,
            tib(counts.checkpoints),
            tib(counts.superblocks)
        );
        println!(
            "  on the device a TiB: live {:.2} GiB, of it blocks {:.2} GiB, tables {:.3} GiB; map pages {}; the rest of the log's headers {:.2} GiB",
            tib(s.live),
            tib(s.stored),
            tib(s.live - s.stored),
            s.map_pages,
            tib(counts.headers)
        );
        self.memory("after the fill");
    }

    /// Reads one block of each request that was kept: far apart, so that no page of the tables is in memory.
    fn cold_reads(&mut self) {
        let each = REQUEST / BLOCK;
        let total = self.plan.gib * GIB / REQUEST / KEPT;
        for (name, what) in [("cold reads", 0), ("reads close by", 1)] {
            let mut worst = Duration::ZERO;
            let ((), counts, spent) = self.measured(|bench| {
                for n in 0..total {
                    let n = n.wrapping_mul(0x9E37_79B1) % total;
                    let lba = n * KEPT * each + 17 + what;
                    let begun = Instant::now();
                    bench.read(lba, lba).expect("a kept block");
                    worst = worst.max(begun.elapsed());
                }
            });
            println!(
                "{name}: {total}, {:.2} us each, {:.2} pages of tables read each; worst {worst:?}",
                spent.as_nanos() as f64 / total as f64 / 1000.0,
                (counts.reads - total) as f64 / total as f64
            );
        }
        self.memory("after reads");
    }

    fn read(&mut self, lba: u64, number: Number) -> Result<(), BlockError> {
        let volume = self.volume.clone().expect("open");
        let list = self.thread.run(&*volume, Op::Read { at: Extent { lba, blocks: 1 } })?;
        let mut front = [0; 8];
        list.copy_out(0, &mut front);
        assert_eq!(u64::from_le_bytes(front), number, "block {lba} is another's");
        Ok(())
    }

    fn overwrites(&mut self) {
        let blocks = self.plan.gib * GIB / BLOCK;
        let count = self.plan.random;
        self.thread.longest();
        let before = self.pool().status();
        let ((), counts, spent) = self.measured(|bench| {
            bench.write(count, 1, |bench, i| {
                // Kept blocks stay as they are.
                let each = REQUEST / BLOCK;
                let lba = bench.random(blocks);
                let lba = if (lba / each).is_multiple_of(KEPT) { lba + each } else { lba };
                (lba % blocks, 1 << 40 | i)
            });
            bench.flush();
        });
        let s = self.pool().status();
        let per = |n: u64| n as f64 / count as f64;
        println!(
            "random overwrites: {count}, {:.2} us each, {:.2} pages read each; {:.0} bytes of log and {:.0} of checkpoints each, {} checkpoints; longest step {:?}",
            spent.as_nanos() as f64 / count as f64 / 1000.0,
            per(counts.reads),
            per(s.log_bytes - before.log_bytes),
            per(counts.checkpoints),
            s.checkpoints - before.checkpoints,
            self.thread.longest()
        );
        self.memory("after overwrites");
    }

    fn duplicates(&mut self) {
        let each = REQUEST / BLOCK;
        let w = Arc::new(self.pool().volume("w").expect("it was made"));
        let v = self.volume.replace(w);
        let blocks = self.plan.gib * GIB / BLOCK;
        let stream = (self.plan.stream * GIB).min(self.plan.gib * GIB / 4) / REQUEST;
        let first = blocks / 3 / each * each;
        let before = self.pool().status();
        let ((), counts, spent) = self.measured(|bench| {
            bench.write(stream, each, |_, i| (i * each, first + i * each));
        });
        let after = self.pool().status();
        let found = after.duplicate_blocks - before.duplicate_blocks;
        let written = stream * each;
        println!(
            "a stream of {:.1} GiB written again: {:.2} % found, {} ns a block, {:.3} reads a block",
            written as f64 * BLOCK as f64 / GIB as f64,
            found as f64 * 100.0 / written as f64,
            spent.as_nanos() as u64 / written,
            counts.reads as f64 / written as f64
        );
        // Short pieces of what was written long ago, each of 4 MiB.
        let before = after;
        let pieces = (self.plan.random / 1024).max(1);
        let place = 1 << 24;
        for n in 0..pieces {
            let from = self.random(blocks - 1024) / each * each;
            self.write(1024 / each, each, |_, i| (place + n * 1024 + i * each, from + i * each));
        }
        let after = self.pool().status();
        let found = after.duplicate_blocks - before.duplicate_blocks;
        println!(
            "{pieces} pieces of 4 MiB written again: {:.2} % found",
            found as f64 * 100.0 / (pieces * 1024) as f64
        );
        let before = after;
        let count = self.plan.random;
        let ((), counts, spent) = self.measured(|bench| {
            bench.write(count, 1, |bench, i| ((1 << 25) + i, bench.random(blocks)));
        });
        let after = self.pool().status();
        let found = after.duplicate_blocks - before.duplicate_blocks;
        println!(
            "random old blocks written again: {:.2} % found, {:.2} us each, {:.2} reads each",
            found as f64 * 100.0 / count as f64,
            spent.as_nanos() as f64 / count as f64 / 1000.0,
            counts.reads as f64 / count as f64
        );
        self.volume = v;
        self.memory("after duplicates");
    }

    fn recovery(&mut self) {
        self.thread.device.whole = true;
        for mib in [64, 256, 768] {
            let own = self.pool().clone();
            self.thread.wait(|port| async move { own.checkpoint(&port).await }).expect("a checkpoint");
            let before = self.pool().status();
            let each = REQUEST / BLOCK;
            let first = (mib << 32) | 1 << 50;
            self.write(mib * MIB / REQUEST, each, |bench, i| {
                let at = bench.random(bench.plan.gib * GIB / REQUEST / KEPT) * KEPT;
                ((at + 1 + i % (KEPT - 1)) * each, first + i * each)
            });
            self.flush();
            let was = self.pool().status();
            let spent = self.reopen();
            let (counts, spent) = (self.thread.device.counts, spent);
            let now = self.pool().status();
            assert_eq!((was.mapped, was.unique, was.stored), (now.mapped, now.unique, now.stored));
            println!(
                "stopped {} MiB of log behind a checkpoint ({} checkpoints since): reopened in {spent:.2?}, {:.0} MiB read in {} reads, {:.0} MiB of checkpoint written; longest step {:?}",
                (was.log_bytes - before.log_bytes) / MIB,
                was.checkpoints - before.checkpoints,
                counts.read_bytes as f64 / MIB as f64,
                counts.reads,
                counts.checkpoints as f64 / MIB as f64,
                self.thread.longest()
            );
            self.memory("reopened");
        }
        let own = self.pool().clone();
        self.thread.wait(|port| async move { own.close(&port).await }).expect("closed");
        let spent = self.reopen();
        let counts = self.thread.device.counts;
        println!(
            "closed and opened: {spent:.2?}, {:.1} MiB read in {} reads",
            counts.read_bytes as f64 / MIB as f64,
            counts.reads
        );
        self.memory("opened");
        self.cold_reads();
    }

    /// Lets go of the pool as a killed process would, and opens it again.
    fn reopen(&mut self) -> Duration {
        let thread = Thread::new(&self.plan.path);
        let old = self.open.take().expect("open");
        old.abandon();
        let whole = self.thread.device.whole;
        drop(std::mem::replace(&mut self.thread, thread));
        self.thread.device.whole = whole;
        // Both hold the old pool's memory.
        self.volume = None;
        drop(old);
        let store = open_store(&self.plan.path, self.plan.size);
        let options = Options { memory: self.plan.memory, ..Options::default() };
        let begun = Instant::now();
        let opened = self
            .thread
            .wait(|port| async move { Pool::open(&port, vec![store], secrets(), options).await })
            .expect("the pool opens");
        let spent = begun.elapsed();
        opened.tend(|make| self.thread.spawn(make));
        self.volume = Some(Arc::new(opened.volume("v").expect("the volume")));
        self.open = Some(opened);
        spent
    }
}

/// A pool that is only large: made, written a little, stopped, opened, read, closed and opened.
fn huge(plan: &Plan) {
    let size = plan.huge << 40;
    let store = open_store(&plan.path, size);
    let mut thread = Thread::new(&plan.path);
    thread.device.whole = true;
    let create =
        Create { id: PoolId([9; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
    let options = |plan: &Plan| Options { memory: plan.memory, ..Options::default() };
    let (chosen, begun) = (options(plan), Instant::now());
    let made =
        thread.wait(|port| async move { Pool::create(&port, vec![store], secrets(), create, chosen).await });
    let mut pool = made.expect("a pool");
    println!(
        "{} TiB made in {:.2?}; {} MiB resident, {} at most",
        plan.huge,
        begun.elapsed(),
        own("VmRSS"),
        own("VmHWM")
    );
    let used = pool.clone();
    let made = thread.wait(|port| async move {
        used.create_volume(&port, "v", size, Settings { compression: None, ..Settings::default() }).await
    });
    made.expect("a volume");
    for round in 0..4u64 {
        pool.tend(|make| thread.spawn(make));
        let volume = pool.volume("v").expect("it was made");
        let places = 4096;
        let place = |i: u64| (i * (size / BLOCK / places), i);
        thread.longest();
        let begun = Instant::now();
        for i in (0..places).filter(|i| i % 4 == round) {
            let (lba, number) = place(i);
            let mut data = vec![0; BLOCK as usize];
            stamp(&mut data, number + 1);
            let op = Op::Write { at: Extent { lba, blocks: 1 }, data: BufList::from(data), fua: false };
            thread.run(&volume, op).expect("a write");
        }
        thread.run(&volume, Op::Flush).expect("a flush");
        let wrote = begun.elapsed();
        let begun = Instant::now();
        let used = pool.clone();
        thread.wait(|port| async move { used.checkpoint(&port).await }).expect("a checkpoint");
        println!(
            "  {} blocks written in {wrote:.2?}; a checkpoint takes {:.2?}, its longest step {:?}",
            places / 4,
            begun.elapsed(),
            thread.longest()
        );
        for i in (0..places).filter(|i| i % 4 <= round) {
            let (lba, number) = place(i);
            let list = thread.run(&volume, Op::Read { at: Extent { lba, blocks: 1 } }).expect("a read");
            let mut front = [0; 8];
            list.copy_out(0, &mut front);
            assert_eq!(u64::from_le_bytes(front), number + 1, "block {lba} is another's");
        }
        let clean = round % 2 == 1;
        if clean {
            let used = pool.clone();
            thread.wait(|port| async move { used.close(&port).await }).expect("closed");
        }
        pool.abandon();
        drop((volume, pool));
        thread = Thread::new(&plan.path);
        thread.device.whole = true;
        let (store, chosen, begun) = (open_store(&plan.path, size), options(plan), Instant::now());
        let opened =
            thread.wait(|port| async move { Pool::open(&port, vec![store], secrets(), chosen).await });
        pool = opened.expect("the pool opens");
        let counts = thread.device.counts;
        println!(
            "  {} and opened in {:.2?}: {} MiB read, {} MiB written; longest step {:?}; {} MiB resident, {} at most; tables {} MiB",
            if clean { "closed" } else { "stopped" },
            begun.elapsed(),
            counts.read_bytes / MIB,
            counts.written / MIB,
            thread.longest(),
            own("VmRSS"),
            own("VmHWM"),
            pool.status().tables_memory / MIB
        );
    }
}
