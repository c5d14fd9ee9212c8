//! What the data services cost: a pool driven on one thread, with each service off and on, beside the stages alone.
//!
//! `cargo run --release -p caisson-engine --example poolspeed -- [FOLDER] [MIB]`, FOLDER on a file system in memory
//! (/dev/shm) so that the processor is measured and not a disk. Prints ns of the one thread for each 4 KiB block.

#[path = "../tests/common/mod.rs"]
mod common;

use caisson_block::{BufList, Extent, Op};
use caisson_codec::{Compressor, Decompressor, Level};
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, PoolVolume, Settings};
use caisson_fingerprint::Fingerprint;
use caisson_log::{At, Bind, Keyring, RecordKind};
use common::{Thread, secrets, store};
use std::hint::black_box;
use std::time::Instant;

const BLOCK: usize = 4096;

/// Generated contents: compressible by about `ratio`, and `dup` of 100 blocks the same as an earlier one.
struct Contents {
    x: u64,
    ratio: usize,
    dup: u64,
    made: u64,
}

impl Contents {
    fn next(&mut self) -> u64 {
        self.x ^= self.x << 13;
        self.x ^= self.x >> 7;
        self.x ^= self.x << 17;
        self.x
    }

    fn fill(&mut self, out: &mut [u8]) {
        let again = self.made > 64 && self.next() % 100 < self.dup;
        let seed = if again { self.next() % self.made } else { self.made };
        self.made += u64::from(!again);
        let mut y = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let noise = BLOCK / self.ratio;
        // Short random words between repeats of them, as text has.
        for (i, word) in out.chunks_exact_mut(8).enumerate() {
            if i * 8 % 512 < noise / (BLOCK / 512) {
                y ^= y << 13;
                y ^= y >> 7;
                y ^= y << 17;
            }
            word.copy_from_slice(&y.to_le_bytes());
        }
    }
}

struct Case {
    name: &'static str,
    settings: Settings,
    ratio: usize,
    dup: u64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap_or_else(|| "/dev/shm".into());
    let mib: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(256);
    stages();
    let all = Settings::default();
    let none = Settings { compression: None, dedup: false, ..all };
    let zstd = Settings { dedup: false, ..all };
    let dedup = Settings { compression: None, ..all };
    let cases = [
        Case { name: "sealed only, 1x", settings: none, ratio: 1, dup: 0 },
        Case { name: "dedup, 1x, 0 %", settings: dedup, ratio: 1, dup: 0 },
        Case { name: "zstd:1, 2x", settings: zstd, ratio: 2, dup: 0 },
        Case { name: "all, 1x, 0 %", settings: all, ratio: 1, dup: 0 },
        Case { name: "all, 2x, 0 %", settings: all, ratio: 2, dup: 0 },
        Case { name: "all, 2x, 50 %", settings: all, ratio: 2, dup: 50 },
        Case { name: "all, 2x, 90 %", settings: all, ratio: 2, dup: 90 },
        Case { name: "all, 4x, 0 %", settings: all, ratio: 4, dup: 0 },
        Case { name: "all, 4x, 90 %", settings: all, ratio: 4, dup: 90 },
    ];
    println!(
        "{:<18} {:>12} {:>12} {:>12} {:>12} {:>8}",
        "case", "seq write", "rand write", "rand read", "seq read", "ratio"
    );
    for case in &cases {
        run(&folder, mib, case);
    }
}

fn run(folder: &str, mib: u64, case: &Case) {
    let path = std::path::Path::new(folder).join(format!("poolspeed-{}", std::process::id()));
    let mut thread = Thread::default();
    let stores = vec![store(&path, (mib * 4) << 20)];
    let create =
        Create { id: PoolId([9; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
    let pool = thread
        .wait(|port| async move { Pool::create(&port, stores, secrets(), create, Options::default()).await })
        .expect("a pool");
    pool.tend(|make| thread.spawn(make));
    let (own, settings, bytes) = (pool.clone(), case.settings, mib << 20);
    thread
        .wait(|port| async move { own.create_volume(&port, "v", bytes, settings).await })
        .expect("a volume");
    let volume = pool.volume("v").expect("it was made");
    let blocks = bytes / BLOCK as u64;
    let mut contents = Contents { x: 88_172_645_463_325_252, ratio: case.ratio, dup: case.dup, made: 0 };
    let seq_write = load(&mut thread, &volume, blocks, 32, |n| (n * 32 % blocks, 32), Some(&mut contents));
    let rand = |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % blocks;
    let rand_write = load(&mut thread, &volume, blocks / 4, 1, |n| (rand(n), 1), Some(&mut contents));
    let status = pool.status();
    let rand_read = load(&mut thread, &volume, blocks / 4, 1, |n| (rand(n + 7), 1), None);
    let seq_read = load(&mut thread, &volume, blocks, 32, |n| (n * 32 % blocks, 32), None);
    println!(
        "{:<18} {:>9} ns {:>9} ns {:>9} ns {:>9} ns {:>8.2}",
        case.name,
        seq_write,
        rand_write,
        rand_read,
        seq_read,
        status.mapped as f64 / status.live as f64
    );
    drop(volume);
    pool.abandon();
    drop((thread, pool));
    let _ = std::fs::remove_file(&path);
}

/// Runs operations on `total` blocks, 32 requests at a time, and gives the ns for each block, without making contents.
fn load(
    thread: &mut Thread,
    volume: &PoolVolume,
    total: u64,
    each: u64,
    place: impl Fn(u64) -> (u64, u64),
    mut contents: Option<&mut Contents>,
) -> u64 {
    let requests = total / each;
    let mut spent = std::time::Duration::ZERO;
    let mut n = 0;
    while n < requests {
        let some = 32.min(requests - n);
        let ops: Vec<Op> = (n..n + some)
            .map(|i| {
                let (lba, blocks) = place(i);
                let at = Extent { lba, blocks };
                match contents.as_deref_mut() {
                    Some(contents) => {
                        let mut data = vec![0; blocks as usize * BLOCK];
                        data.chunks_exact_mut(BLOCK).for_each(|block| contents.fill(block));
                        Op::Write { at, data: BufList::from(data), fua: false }
                    }
                    None => Op::Read { at },
                }
            })
            .collect();
        let begun = Instant::now();
        for (slot, op) in ops.into_iter().enumerate() {
            thread.submit(volume, slot as u32, op);
        }
        let mut left = some;
        while left > 0 {
            thread.completions().for_each(|(_, outcome)| {
                outcome.expect("an operation");
                left -= 1;
            });
            if left > 0 {
                assert!(thread.turn(), "nothing happens any more");
            }
        }
        spent += begun.elapsed();
        n += some;
    }
    let begun = Instant::now();
    thread.run(volume, Op::Flush).expect("a flush");
    spent += begun.elapsed();
    spent.as_nanos() as u64 / total
}

/// The stages alone, on the same contents.
fn stages() {
    let mut out = vec![0u8; BLOCK];
    println!(
        "{:<18} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "stage alone", "print", "zstd:1", "unzstd", "seal", "open", "size"
    );
    for ratio in [1, 2, 4] {
        let mut contents = Contents { x: 1, ratio, dup: 0, made: 0 };
        let blocks: Vec<Vec<u8>> = (0..2000)
            .map(|_| {
                contents.fill(&mut out);
                out.clone()
            })
            .collect();
        let secrets = secrets();
        let print = time(&blocks, |b| {
            black_box(Fingerprint::of(&secrets.prints, b));
        });
        let mut compressor = Compressor::new(Level::default());
        let mut total = 0;
        let mut packed: Vec<Option<Vec<u8>>> = Vec::new();
        let zstd = time(&blocks, |b| {
            let bytes = compressor.compressed(b[..].try_into().expect("a block"));
            total += bytes.map_or(BLOCK, <[u8]>::len);
            packed.push(bytes.map(<[u8]>::to_vec));
        });
        let mut decompressor = Decompressor::new();
        let mut into = [0; BLOCK];
        let some: Vec<Vec<u8>> = packed.iter().flatten().cloned().collect();
        let unzstd = time(&some, |b| decompressor.decompress(b, &mut into).expect("what was packed"));
        let keyring = Keyring::new(PoolId([1; 16]), Cipher::auto(), secrets.epochs).expect("keys");
        keyring.add_opening(1, [5; 32]).expect("an opening");
        let length = total / blocks.len();
        let bind =
            Bind { domain: 1, epoch: 1, id: 7, kind: RecordKind::Block, length: length as u16, codec: 1 };
        let mut sealed = vec![0; length + 16];
        let mut at = At { opening: 1, sequence: 1, offset: 0 };
        let seal = time(&blocks, |b| {
            at.sequence += 1;
            keyring.seal(at, &bind, &b[..length], &mut sealed).expect("sealed");
        });
        let first = sealed.clone();
        let open = time(&blocks, |_| {
            sealed.copy_from_slice(&first);
            keyring.open(at, &bind, &mut sealed).expect("opened");
        });
        println!(
            "{:<18} {print:>6} ns {zstd:>6} ns {unzstd:>6} ns {seal:>6} ns {open:>6} ns {length:>9}",
            format!("{ratio}x")
        );
    }
}

fn time(blocks: &[Vec<u8>], mut f: impl FnMut(&Vec<u8>)) -> u64 {
    let begun = Instant::now();
    blocks.iter().for_each(&mut f);
    begun.elapsed().as_nanos() as u64 / blocks.len().max(1) as u64
}
