//! A pool on a real file, with real threads: what is written is read back, before and after it is opened again.

use caisson_block::{
    BufList, Completions, Cx, Extent, Mono, Op, Outcome, Parked, Remote, Request, Ring, Tag, Volume,
};
use caisson_device::threaded::{self, ThreadRing};
use caisson_device::{FileStore, Size};
use caisson_engine::{Cipher, Create, Host, Options, Pool, PoolId, Secrets, Settings};
use caisson_fingerprint::FingerprintKey;
use caisson_keys::Secret;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

/// A thread of the data plane, as small as it can be.
struct Thread {
    ring: ThreadRing,
    done: Completions,
    woken: Arc<Woken>,
    remote: Arc<dyn Remote>,
    news: Arc<(Mutex<bool>, Condvar)>,
}

struct Woken(Mutex<VecDeque<(Arc<dyn Parked>, u64)>>, Arc<(Mutex<bool>, Condvar)>);

fn ring_bell(bell: &(Mutex<bool>, Condvar)) {
    *bell.0.lock().unwrap() = true;
    bell.1.notify_one();
}

impl Remote for Woken {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        self.0.lock().unwrap().push_back((who, token));
        ring_bell(&self.1);
    }
}

impl Thread {
    fn new() -> Thread {
        let news = Arc::new((Mutex::new(false), Condvar::new()));
        let bell = Arc::clone(&news);
        let ring = ThreadRing::new(2, 64, move || ring_bell(&bell)).unwrap();
        let woken = Arc::new(Woken(Mutex::default(), Arc::clone(&news)));
        Thread { ring, done: Completions::default(), remote: woken.clone(), woken, news }
    }

    fn cx<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        let ring: &mut dyn Ring = &mut self.ring;
        f(&mut Cx { now: Mono(0), done: &mut self.done, ring, remote: &self.remote })
    }

    /// Runs one operation to its end.
    fn run(&mut self, volume: &dyn Volume, op: Op) -> Outcome {
        self.cx(|cx| volume.submit(cx, Request { tag: Tag { queue: 0, slot: 0 }, op }));
        let mut over = Vec::new();
        let mut ended = Vec::new();
        loop {
            self.done.take(&mut over);
            if let Some((_, outcome)) = over.pop() {
                return outcome;
            }
            self.ring.reap_into(&mut ended);
            for (op, result) in std::mem::take(&mut ended) {
                self.cx(|cx| threaded::deliver(cx, op, result));
            }
            let wakes = std::mem::take(&mut *self.woken.0.lock().unwrap());
            for (who, token) in wakes {
                self.cx(|cx| who.woken(cx, token));
            }
            if self.done.is_empty() {
                let waited = self.news.1.wait_timeout_while(
                    self.news.0.lock().unwrap(),
                    std::time::Duration::from_secs(20),
                    |news| !*news,
                );
                let (mut news, timeout) = waited.unwrap();
                assert!(!timeout.timed_out(), "nothing happens any more");
                *news = false;
            }
        }
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("caisson-engine-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn secrets() -> Secrets {
    let secret = |byte: u8| Secret::take(&mut [byte; 32]);
    Secrets { epochs: vec![((0, 1), secret(1)), ((1, 1), secret(2))], prints: FingerprintKey::new([3; 32]) }
}

fn store(path: &Path, size: u64) -> Arc<FileStore> {
    FileStore::open(path, Size::new(size)).unwrap()
}

fn create(host: &Host, path: &Path, size: u64) -> Pool {
    let stores = vec![store(path, size)];
    let create =
        Create { id: PoolId([7; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
    host.run(|port| async move { Pool::create(&port, stores, secrets(), create, Options::default()).await })
        .unwrap()
}

fn open(host: &Host, path: &Path, size: u64) -> Pool {
    let stores = vec![store(path, size)];
    host.run(|port| async move { Pool::open(&port, stores, secrets(), Options::default()).await }).unwrap()
}

/// Contents of a block: some repeat, some are zero, some do not compress.
fn content(n: u64) -> Vec<u8> {
    let mut x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    match n % 4 {
        0 => vec![0; 4096],
        1 => (0..4096).map(|_| noise()).collect(),
        2 => (0..4096).map(|i| if i % 16 == 0 { noise() } else { b'a' }).collect(),
        _ => vec![(n / 64) as u8 | 1; 4096],
    }
}

fn at(lba: u64, blocks: u64) -> Extent {
    Extent { lba, blocks }
}

#[test]
fn written_read_and_found_again() {
    let folder = Folder::new("roundtrip");
    let path = folder.file("pool");
    let size = 256 << 20;
    let blocks = 2000;
    {
        let host = Host::start("pool").unwrap();
        let pool = create(&host, &path, size);
        host.tend(&pool);
        let own = pool.clone();
        host.run(|port| async move {
            own.create_volume(&port, "v", 64 << 20, Settings::default()).await.unwrap();
        });
        let volume = pool.volume("v").unwrap();
        let mut thread = Thread::new();
        for n in (0..blocks).step_by(50) {
            let data: Vec<u8> = (n..n + 50).flat_map(content).collect();
            thread.run(&volume, Op::Write { at: at(n, 50), data: data.into(), fua: n % 400 == 0 }).unwrap();
        }
        check(&mut thread, &volume, blocks);
        thread.run(&volume, Op::Flush).unwrap();
        let status = pool.status();
        assert!(status.unique < status.mapped && status.stored < status.unique, "{status:?}");
        // What the process is killed in: nothing is closed.
        pool.abandon();
        drop((volume, pool, host));
    }
    for clean in [false, true, true] {
        let host = Host::start("pool").unwrap();
        let pool = open(&host, &path, size);
        host.tend(&pool);
        let volume = pool.volume("v").unwrap();
        let mut thread = Thread::new();
        check(&mut thread, &volume, blocks);
        let data = content(5);
        thread.run(&volume, Op::Write { at: at(5000, 1), data: data.clone().into(), fua: true }).unwrap();
        let read = thread.run(&volume, Op::Read { at: at(5000, 1) }).unwrap();
        assert_eq!(read.to_vec(), data);
        drop(volume);
        if clean {
            let own = pool.clone();
            host.run(|port| async move { own.close(&port).await }).unwrap();
        }
        drop((pool, host));
    }
}

fn check(thread: &mut Thread, volume: &dyn Volume, blocks: u64) {
    for n in (0..blocks).step_by(25) {
        let read: BufList = thread.run(volume, Op::Read { at: at(n, 25) }).unwrap();
        let want: Vec<u8> = (n..n + 25).flat_map(content).collect();
        assert!(read.to_vec() == want, "blocks from {n} on");
    }
}
