//! Drives a volume on this thread, 32 requests at a time, and counts the thread's time on the processor.

use crate::common::{Thread, secrets, store};
use crate::contents::{ALL, BLOCK, Contents, Kind, RECENT};
use caisson_block::{BufList, Extent, Op, Pool as Memory, Volume};
use caisson_device::Buffers;
use caisson_engine::{Cipher, Create, Options, Pool, PoolId, Settings};
use caisson_volume::FileVolume;
use std::io::Write;
use std::path::Path;

/// Blocks that a pool has seen before it is measured.
const WARM: u64 = 1 << 16;

/// Requests under way at once.
const DEPTH: u64 = 32;

/// How often a volume is written over.
const OVERS: u64 = 3;

/// Nanoseconds that this thread has been on a processor.
pub fn on_processor() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Over what the volume is.
#[derive(Clone, Copy)]
pub enum Over {
    /// A pool, with these services.
    Pool(Settings),
    /// A plain volume over a file.
    File,
    /// A plain volume in memory.
    Ram,
}

/// What a case cost, in nanoseconds for each 4 KiB, and what became of the blocks of its first, sequential write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The first writes, to a new file: one in memory takes its pages from the system with them, as no device does.
    pub new_write: f64,
    /// The first writes, on a file that has its pages. So are all that follow.
    pub seq_write: f64,
    /// The same again, over what is there. Not of files.
    pub over_write: f64,
    pub rand_write: f64,
    pub rand_read: f64,
    pub seq_read: f64,
    /// Share of the blocks that were not zero; that were stored; bytes of log for each block.
    pub filled: f64,
    pub stored: f64,
    pub log: f64,
}

impl Cost {
    /// In the order of the fields.
    pub fn figures(&self) -> [f64; 9] {
        let c = self;
        let writes = [c.new_write, c.seq_write, c.over_write, c.rand_write];
        let rest = [c.rand_read, c.seq_read, c.filled, c.stored, c.log];
        std::array::from_fn(|i| if i < writes.len() { writes[i] } else { rest[i - writes.len()] })
    }

    pub fn of(figures: [f64; 9]) -> Cost {
        let [new_write, seq_write, over_write, rand_write, rand_read, seq_read, filled, stored, log] =
            figures;
        Cost { new_write, seq_write, over_write, rand_write, rand_read, seq_read, filled, stored, log }
    }
}

/// What the file of a volume is before it is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Device {
    /// Without pages. Only first writes are measured: all others meet pages.
    New,
    /// Written once before, to its end.
    Used,
}

/// Measures one case with `mib` of data, on files in `folder`: a new one, then one that has its pages.
pub fn run(folder: &Path, mib: u64, over: Over, kind: &Kind) -> Cost {
    let new_write = match over {
        // Its memory comes with the first writes in any case.
        Over::Ram => f64::NAN,
        _ => run_on(Device::New, folder, mib, over, kind).seq_write,
    };
    Cost { new_write, ..run_on(Device::Used, folder, mib, over, kind) }
}

/// A file of `size` bytes that is what `device` says. Of zeroes: a pool is made where nothing is.
fn prepare(device: Device, path: &Path, size: u64) {
    let _ = std::fs::remove_file(path);
    if device == Device::Used {
        let mut file = std::fs::File::create_new(path).expect("a file");
        let piece = vec![0; 1 << 20];
        (0..size.div_ceil(1 << 20)).for_each(|_| file.write_all(&piece).expect("written"));
    }
}

fn run_on(device: Device, folder: &Path, mib: u64, over: Over, kind: &Kind) -> Cost {
    let path = folder.join(format!("poolspeed-{}", std::process::id()));
    let mut thread = Thread::default();
    let bytes = mib << 20;
    let cost = match over {
        Over::Pool(settings) => {
            let size = bytes * 4 + WARM * 2 * BLOCK as u64;
            prepare(device, &path, size);
            let stores = vec![store(&path, size)];
            let id = PoolId([9; 16]);
            let create = Create { id, cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
            let made = thread.wait(|port| async move {
                Pool::create(&port, stores, secrets(), create, Options::default()).await
            });
            let pool = made.expect("a pool");
            pool.tend(|make| thread.spawn(make));
            let mut volume = |name, bytes| {
                let own = pool.clone();
                let made =
                    thread.wait(|port| async move { own.create_volume(&port, name, bytes, settings).await });
                made.expect("a volume");
                pool.volume(name).expect("it was made")
            };
            let (volume, before) = (volume("v", bytes), volume("w", WARM * BLOCK as u64));
            if settings.dedup {
                // As in a pool that has been in use: memory of the index is taken when it is touched first.
                let mut contents = Contents::new(Kind::Made { ratio: 16, dup: 0 });
                load(&mut thread, &before, WARM, 32, |n| n * 32, Some(&mut contents));
            }
            if let &Kind::Made { ratio, dup: ALL } = kind {
                let mut contents = Contents::new(Kind::Made { ratio, dup: 0 });
                load(&mut thread, &before, RECENT, 32, |n| n * 32, Some(&mut contents));
            }
            let was = pool.status();
            let cost = all(&mut thread, &volume, bytes, (kind, device), || {
                let is = pool.status();
                let written = (is.written_blocks - was.written_blocks) as f64;
                let filled = written - (is.zero_blocks - was.zero_blocks) as f64;
                let stored = filled - (is.duplicate_blocks - was.duplicate_blocks) as f64;
                let log = (is.log_bytes - was.log_bytes) as f64;
                (filled / written, stored / written, log / written)
            });
            drop(before);
            drop(volume);
            pool.abandon();
            cost
        }
        Over::File => {
            prepare(device, &path, bytes);
            let buffers = Buffers::shared().expect("buffers");
            let volume = FileVolume::new(store(&path, bytes), buffers, 12, true, None).expect("a volume");
            all(&mut thread, &volume, bytes, (kind, device), || (1.0, 1.0, BLOCK as f64))
        }
        Over::Ram => {
            let options = caisson_volume::Options::default();
            let spec = format!("ram:{mib}MiB").parse().expect("a store");
            let opened = caisson_volume::open(&spec, &options).expect("memory");
            let per = BLOCK as u64 / u64::from(opened.volume.geometry().block_size);
            assert_eq!(per, 1, "volumes here have blocks of 4 KiB");
            all(&mut thread, &*opened.volume, bytes, (kind, device), || (1.0, 1.0, BLOCK as f64))
        }
    };
    let _ = std::fs::remove_file(&path);
    cost
}

/// All loads on a volume that is new; on a new device only the first.
fn all(
    thread: &mut Thread,
    volume: &dyn Volume,
    bytes: u64,
    (kind, device): (&Kind, Device),
    became: impl FnOnce() -> (f64, f64, f64),
) -> Cost {
    let mut contents = Contents::new(kind.clone());
    // Of files four fifths are written in order, and the rest at random: none of them twice.
    let blocks = (bytes / BLOCK as u64).min(contents.most() / 5 * 4) / 32 * 32;
    let seq_write = load(thread, volume, blocks, 32, |n| n * 32 % blocks, Some(&mut contents));
    let (filled, stored, log) = became();
    if device == Device::New {
        return Cost { seq_write, ..Cost::default() };
    }
    let rand = |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % blocks;
    let rand_write = load(thread, volume, blocks / 4, 1, rand, Some(&mut contents));
    let rand_read = load(thread, volume, blocks / 4, 1, |n| rand(n + 7), None);
    let seq_read = load(thread, volume, blocks, 32, |n| n * 32 % blocks, None);
    let over_write = match kind {
        Kind::Made { .. } => {
            load(thread, volume, OVERS * blocks, 32, |n| n * 32 % blocks, Some(&mut contents))
        }
        // They have all been written.
        Kind::Files(_) => f64::NAN,
    };
    let new_write = f64::NAN;
    Cost { new_write, seq_write, over_write, rand_write, rand_read, seq_read, filled, stored, log }
}

/// Runs operations on `total` blocks, and gives the nanoseconds for each block, without making contents. A function of its own
/// wherever it is called, so that a profile tells the loads apart.
#[inline(never)]
fn load(
    thread: &mut Thread,
    volume: &dyn Volume,
    total: u64,
    each: u64,
    place: impl Fn(u64) -> u64,
    mut contents: Option<&mut Contents>,
) -> f64 {
    let requests = total / each;
    // As a connection's: getting memory from the system, and giving it back, is not what is measured.
    let memory = Memory::new(2 * DEPTH as u32, each as usize * BLOCK).expect("memory");
    let (mut spent, mut n) = (0, 0);
    while n < requests {
        let some = DEPTH.min(requests - n);
        let ops: Vec<Op> = (n..n + some)
            .map(|i| {
                let at = Extent { lba: place(i), blocks: each };
                match contents.as_deref_mut() {
                    Some(contents) => {
                        let mut bytes = memory.alloc().expect("a volume lets go of what is written");
                        bytes.chunks_exact_mut(BLOCK).for_each(|block| contents.fill(block));
                        let mut data = BufList::new();
                        data.push(bytes.freeze());
                        Op::Write { at, data, fua: false }
                    }
                    None => Op::Read { at },
                }
            })
            .collect();
        let begun = on_processor();
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
        spent += on_processor() - begun;
        n += some;
    }
    let begun = on_processor();
    thread.run(volume, Op::Flush).expect("a flush");
    spent += on_processor() - begun;
    spent as f64 / total as f64
}
