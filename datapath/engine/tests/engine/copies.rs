//! Devices of one pool that each lost another copy of the superblock, and power that fails at any moment of the next opening.

use crate::common::pools;
use crate::common::{Folder, Power, Thread, secrets, store};
use caisson_block::{Extent, Op};
use caisson_engine::{OpenError, Options, Pool, Settings};
use caisson_log::{SUPERBLOCK, SUPERBLOCK_AT};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SEGMENT: u32 = 64 << 10;
const SIZE: u64 = (1 << 20) + 24 * SEGMENT as u64;
const BLOCKS: u64 = 8;

fn make(paths: &[PathBuf; 2]) {
    let mut thread = Thread::default();
    let stores = paths.iter().map(|p| store(p, SIZE)).collect();
    let pool = pools::create(&mut thread, stores, SEGMENT, Vec::new());
    let own = pool.clone();
    let made = |port| async move { own.create_volume(&port, "v", BLOCKS << 12, Settings::default()).await };
    thread.wait(made).unwrap();
    let volume = pool.volume("v").unwrap();
    for lba in 0..BLOCKS {
        let at = Extent { lba, blocks: 1 };
        thread.run(&volume, Op::Write { at, data: vec![lba as u8 + 1; 4096].into(), fua: true }).unwrap();
    }
    drop(volume);
    thread.wait(|port| async move { pool.close(&port).await }).unwrap();
}

fn lose(path: &Path, copy: usize) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xA5; SUPERBLOCK], SUPERBLOCK_AT[copy]).unwrap();
}

/// Opens the pool with power for so many writes and syncs. True when that was enough.
fn interrupted(paths: &[PathBuf; 2], power: Power) -> bool {
    let mut thread = Thread::powered(power);
    let stores = paths.iter().map(|p| store(p, SIZE)).collect();
    let opened =
        thread.attempt(|port| async move { Pool::open(&port, stores, secrets(), Options::default()).await });
    let whole = opened.is_some_and(|pool| pool.inspect_err(|e| panic!("{e}")).is_ok());
    thread.power().crash();
    whole
}

fn read(paths: &[PathBuf; 2]) -> Result<Vec<u8>, OpenError> {
    let mut thread = Thread::default();
    let stores = paths.iter().map(|p| store(p, SIZE)).collect();
    let opened =
        thread.wait(|port| async move { Pool::open(&port, stores, secrets(), Options::default()).await });
    let pool = opened?;
    let volume = pool.volume("v").unwrap();
    let first = |lba| thread.run(&volume, Op::Read { at: Extent { lba, blocks: 1 } }).unwrap().to_vec()[0];
    Ok((0..BLOCKS).map(first).collect())
}

#[test]
fn each_device_may_lose_another_copy_and_the_power_may_fail_at_the_next_checkpoint() {
    let folder = Folder::new("copies");
    let base = [folder.file("base0"), folder.file("base1")];
    make(&base);
    let paths = [folder.file("pool0"), folder.file("pool1")];
    let whole: Vec<u8> = (1..=BLOCKS as u8).collect();
    let mut cuts = 0;
    for lost in [[0, 1], [1, 0], [0, 0], [1, 1]] {
        for seed in 0..3 {
            for cut in 1.. {
                for (device, path) in paths.iter().enumerate() {
                    std::fs::copy(&base[device], path).unwrap();
                    lose(path, lost[device]);
                }
                let mut power = Power::new(seed * 1000 + cut);
                power.cut_after(cut);
                let enough = interrupted(&paths, power);
                let after = read(&paths);
                let after =
                    after.unwrap_or_else(|e| panic!("lost {lost:?}, seed {seed}, cut after {cut}: {e}"));
                assert_eq!(after, whole, "lost {lost:?}, seed {seed}, cut after {cut}");
                cuts += 1;
                if enough {
                    break;
                }
            }
        }
    }
    println!("{cuts} openings interrupted");
    assert!(cuts > 100);
}
