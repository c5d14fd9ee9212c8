//! Several threads on one pool: what they see of every block is explained by one order of what they did.
//!
//! Each thread runs a loop of its own with the requests of [`caisson_sim::race`]. The pool is so small that checkpoints and the
//! cleaner run all the time, on another thread. The history is judged block by block; where parts of blocks are written, sector by
//! sector. Then the pool is opened again, read, and its tables are counted again: after the races, every reference
//! count is exact.
//!
//! `CAISSON_THREAD_ROUNDS` is how often (default 2), `CAISSON_SEED` where seeds begin. Threads are real: a seed fixes what
//! they do, not when. `tests/schedules` fixes that as well.

mod plane;

use caisson_device::{FileStore, Size};
use caisson_engine::{Cipher, Create, Host, Options, Pool, PoolId};
use caisson_sim::pool::secrets;
use caisson_sim::race::{self, History, Race, Scale, VOLUMES};
use plane::Plane;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const THREADS: usize = 4;
const SCALE: Scale = Scale { depth: 3, requests: 2000, blocks: 160, hot: 12 };
const SEGMENT: u32 = 64 << 10;
const SEGMENTS: u64 = 52;
const SIZE: u64 = (1 << 20) + SEGMENTS * SEGMENT as u64;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn store(path: &Path) -> Vec<Arc<FileStore>> {
    vec![FileStore::open(path, Size::new(SIZE)).unwrap()]
}

fn create(host: &Host, path: &Path) -> Pool {
    let stores = store(path);
    host.run(|port| async move {
        let create = Create {
            id: PoolId([9; 16]),
            cipher: Cipher::auto(),
            segment_size: Some(SEGMENT),
            slots: Vec::new(),
        };
        let pool = Pool::create(&port, stores, secrets(), create, Options::default()).await.unwrap();
        race::volumes(&pool, &port, SCALE).await.unwrap();
        pool
    })
}

#[test]
fn threads_see_one_order() {
    // Without one of them the others might wait for ever for what it holds.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    let number = |name: &str, or: u64| {
        std::env::var(name).ok().map_or(or, |n| n.parse().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let first = number("CAISSON_SEED", 1);
    for seed in first..first + number("CAISSON_THREAD_ROUNDS", 2) {
        println!("seed {seed}");
        round(seed);
    }
}

fn round(seed: u64) {
    let folder = std::env::temp_dir().join(format!("caisson-threads-{}-{seed}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let folder = Folder(folder);
    let path = folder.0.join("pool");
    let host = Host::start("pool").unwrap();
    let pool = create(&host, &path);
    host.tend(&pool);
    let volumes = VOLUMES.iter().map(|v| pool.volume(v.0).unwrap()).collect();
    let race = Race::new(SCALE, volumes);
    let mut history = std::thread::scope(|scope| {
        let race = &race;
        let start = |i: usize| {
            scope.spawn(move || race.run(seed * 1000 + i as u64, &mut Plane::new(i.is_multiple_of(2))))
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        while race.over.load(Ordering::SeqCst) < THREADS as u64 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        figures(&pool);
        leave(host, pool, seed.is_multiple_of(2));
        race.stop.store(true, Ordering::SeqCst);
        let mut all = History::default();
        threads.into_iter().for_each(|t| all.append(t.join().expect("a thread")));
        all
    });
    let end = race.tick();
    drop(race);
    read_again(&path, &mut history, end);
    let (ops, cells, large) = race::judge(&history);
    println!("{ops} operations on {cells} cells judged; {large} cells were too much");
    assert!(large * 20 < cells, "too much was not judged");
}

/// Whether everything ran that was to run meanwhile.
fn figures(pool: &Pool) {
    let status = pool.status();
    println!(
        "{} blocks written, {} found again; {} bytes of log, {} moved; {} checkpoints",
        status.written_blocks,
        status.duplicate_blocks,
        status.log_bytes,
        status.moved_bytes,
        status.checkpoints
    );
    assert!(status.damaged == 0 && status.fault.is_none(), "{status:?}");
    assert!(status.duplicate_blocks > 50 && status.checkpoints > 20, "{status:?}");
    assert!(status.moved_bytes > 0, "the cleaner did not run: {status:?}");
}

/// Closes the pool, or leaves it as a kill does.
fn leave(host: Host, pool: Pool, clean: bool) {
    let own = pool.clone();
    if clean {
        host.run(|port| async move { own.close(&port).await }).unwrap();
    } else {
        host.run(|port| async move { own.flush(&port).await }).unwrap();
        pool.abandon();
    }
    drop((pool, host));
}

/// Opens the pool as it was left, counts its tables again, and reads every block.
fn read_again(path: &Path, history: &mut History, end: u64) {
    let host = Host::start("pool").unwrap();
    let stores = store(path);
    let (pool, findings) = host.run(|port| async move {
        let pool = Pool::open_to_read(&port, stores, secrets(), Options::default()).await.unwrap();
        let findings = pool.recount(&port).await.unwrap();
        (pool, findings)
    });
    assert!(findings.is_empty(), "{findings:?}");
    race::read_again(&pool, &mut Plane::new(true), SCALE, history, end);
}
