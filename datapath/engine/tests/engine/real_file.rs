//! A pool on a real file: what is written is read back, before and after it is opened again.

use crate::common::{Folder, Thread, secrets, store};
use caisson_block::{BufList, Extent, Op, Volume};
use caisson_engine::{Cipher, Create, Host, Options, Pool, PoolId, Settings};
use std::path::Path;

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
        let mut thread = Thread::default();
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
        let mut thread = Thread::default();
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
