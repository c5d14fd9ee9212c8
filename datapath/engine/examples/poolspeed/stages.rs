//! The stages alone: what each costs on the same contents, with nothing around it.

use crate::common::secrets;
use crate::contents::{BLOCK, Contents, Kind};
use crate::drive::on_processor;
use caisson_block::fetch;
use caisson_codec::{Compressor, Decompressor, EarlyExit, Level};
use caisson_engine::{Cipher, Memory, PoolId};
use caisson_fingerprint::{Fingerprint, LANES};
use caisson_index::{Answer, Budget, Entry, Index, SummaryAt};
use caisson_log::{At, Bind, Keyring, RecordKind};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Blocks that each stage is measured on, and how many of them go by between two looks at the clock.
const BLOCKS: usize = 2048;

/// Bytes of a batch of the log under load.
const BATCH: usize = 256 << 10;

/// Nanoseconds a block of 4 KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// One by one, and as many together as there are lanes.
    pub print: f64,
    pub prints: f64,
    /// With the look at whether it is worth while, and without.
    pub zstd: f64,
    pub zstd_only: f64,
    pub unpack: f64,
    /// As stored with compression, and without.
    pub seal: f64,
    pub seal_raw: f64,
    pub open: f64,
    /// Bytes that are stored.
    pub size: f64,
}

impl Stages {
    /// In the order of the fields.
    pub fn figures(&self) -> [f64; 9] {
        let s = self;
        [s.print, s.prints, s.zstd, s.zstd_only, s.unpack, s.seal, s.seal_raw, s.open, s.size]
    }

    pub fn of(figures: [f64; 9]) -> Stages {
        let [print, prints, zstd, zstd_only, unpack, seal, seal_raw, open, size] = figures;
        Stages { print, prints, zstd, zstd_only, unpack, seal, seal_raw, open, size }
    }
}

/// The stages on the first blocks of `kind` that are not all zero; of files, on some from all over.
pub fn stages(kind: Kind) -> Stages {
    let mut contents = Contents::new(kind);
    let skip = (contents.most().min(1 << 20) / BLOCKS as u64).clamp(1, 16);
    let skip = if contents.most() == u64::MAX { 1 } else { skip };
    let mut blocks: Vec<[u8; BLOCK]> = Vec::new();
    let mut n = 0;
    while blocks.len() < BLOCKS {
        let mut block = [0; BLOCK];
        contents.fill(&mut block);
        n += 1;
        if n % skip == 0 && block != [0; BLOCK] {
            blocks.push(block);
        }
    }
    let secrets = secrets();
    let print = time(&blocks, |b| {
        black_box(Fingerprint::of(&secrets.prints[0].1, b));
    });
    let refs: Vec<&[u8; BLOCK]> = blocks.iter().collect();
    let begun = on_processor();
    for group in refs.chunks(LANES) {
        secrets.prints[0].1.of_many(group, |_, f| {
            black_box(f);
        });
    }
    let prints = (on_processor() - begun) as f64 / blocks.len() as f64;
    let mut compressor = Compressor::new(Level::default());
    // Its memory is touched before it is measured.
    blocks.iter().take(64).for_each(|b| {
        black_box(compressor.compressed(b));
    });
    let zstd = time(&blocks, |b| {
        black_box(compressor.compressed(b));
    });
    compressor.set_early_exit(EarlyExit::Off);
    let zstd_only = time(&blocks, |b| {
        black_box(compressor.compressed(b));
    });
    compressor.set_early_exit(EarlyExit::On);
    let packed: Vec<Vec<u8>> =
        blocks.iter().map(|b| compressor.compressed(b).map_or(b.to_vec(), <[u8]>::to_vec)).collect();
    let total: usize = packed.iter().map(Vec::len).sum();
    let mut decompressor = Decompressor::new();
    let mut into = [0; BLOCK];
    let unpack = time(&packed, |b| match b.len() {
        BLOCK => into.copy_from_slice(b),
        _ => decompressor.decompress(b, &mut into).expect("what was packed"),
    });
    let keyring = Keyring::new(PoolId([1; 16]), Cipher::auto(), secrets.epochs).expect("keys");
    keyring.add_opening(1, [5; 32]).expect("an opening");
    let (seal, _) = sealing(&keyring, &packed);
    let raw: Vec<Vec<u8>> = blocks.iter().map(|b| b.to_vec()).collect();
    let (seal_raw, _) = sealing(&keyring, &raw);
    let (_, open) = sealing(&keyring, &packed);
    let size = total as f64 / blocks.len() as f64;
    Stages { print, prints, zstd, zstd_only, unpack, seal, seal_raw, open, size }
}

/// Nanoseconds to seal and to open each of these.
fn sealing(keyring: &Keyring, payloads: &[Vec<u8>]) -> (f64, f64) {
    let bind = |length: usize| Bind {
        domain: 1,
        epoch: 1,
        id: 7,
        kind: RecordKind::Block,
        length: length as u16,
        codec: 1,
    };
    let mut out: Vec<Vec<u8>> = payloads.iter().map(|p| vec![0; p.len() + 16]).collect();
    let at = |n: usize| At { opening: 1, sequence: 1 + n as u64, offset: 0 };
    let begun = on_processor();
    for (n, (payload, out)) in payloads.iter().zip(&mut out).enumerate() {
        keyring.seal(at(n), &bind(payload.len()), payload, out).expect("sealed");
    }
    let seal = on_processor() - begun;
    let mut plain = [0; BLOCK];
    let begun = on_processor();
    for (n, out) in out.iter().enumerate() {
        let length = out.len() - 16;
        keyring.open_into(at(n), &bind(length), out, &mut plain[..length]).expect("opened");
    }
    let open = on_processor() - begun;
    (seal as f64 / payloads.len() as f64, open as f64 / payloads.len() as f64)
}

fn time<T>(blocks: &[T], mut f: impl FnMut(&T)) -> f64 {
    let begun = on_processor();
    blocks.iter().for_each(&mut f);
    (on_processor() - begun) as f64 / blocks.len().max(1) as f64
}

/// Blocks whose prints an index knows before its looks are measured, and blocks of a batch of the log.
const KNOWN: u64 = 1 << 16;
const SUMMARY: u64 = 128;

/// What the index of duplicates alone takes: nanoseconds to look for a print that is known, for one that is not, and to insert one. It
/// has the memory of a pool's, and is asked as a pool asks it: sixteen at a time, fetched beforehand.
pub fn lookup() -> [f64; 3] {
    let memory = Memory::default();
    let mut index = Index::new(Budget { index_bytes: memory.index, cache_bytes: memory.summaries });
    // SplitMix64's output, which has no pattern that the index could be helped by.
    let mix = |n: u64| {
        let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    };
    let print = |n: u64| (u128::from(mix(2 * n + 1)) << 64 | u128::from(mix(2 * n + 2))).to_le_bytes();
    let all: Vec<Entry> = (0..2 * KNOWN)
        .map(|n| Entry { print: print(n), id: n, offset: (n % SUMMARY) as u32 * 4096 })
        .collect();
    let (known, more) = all.split_at(KNOWN as usize);
    let insert = |index: &mut Index, entries: &[Entry], from: u64| {
        let begun = on_processor();
        for (n, batch) in (from..).zip(entries.chunks(SUMMARY as usize)) {
            let at = SummaryAt {
                segment: (n / 64) as u32,
                sequence: n / 64 + 1,
                offset: (n % 64) as u32 * (1 << 20),
            };
            let of = || batch.iter().map(|e| &e.print);
            index.warm(of(), fetch);
            index.warm_next(of(), fetch);
            index.warm_last(of(), fetch);
            index.insert(at, batch);
        }
        (on_processor() - begun) as f64 / entries.len() as f64
    };
    insert(&mut index, known, 0);
    let looks = |index: &mut Index, entries: &[Entry], hit: bool| {
        // In an order in which none is near the one before.
        let len = entries.len();
        let prints: Vec<_> = (0..len).map(|n| entries[n.wrapping_mul(0x9E37_79B1) % len].print).collect();
        let begun = on_processor();
        for group in prints.chunks(LANES) {
            index.warm(group, fetch);
            index.warm_next(group, fetch);
            index.warm_last(group, fetch);
            for print in group {
                assert_eq!(matches!(index.lookup(print), Answer::Hit(_)), hit);
            }
        }
        (on_processor() - begun) as f64 / len as f64
    };
    let [found, new] = [looks(&mut index, known, true), looks(&mut index, more, false)];
    [found, new, insert(&mut index, more, KNOWN / SUMMARY)]
}

/// What the file system alone takes: nanoseconds for each 4 KiB appended in batches to a new file, for the same over what was
/// written, and for a read of 4 KiB at random.
pub fn device(folder: &Path, mib: u64) -> [f64; 3] {
    let path = folder.join(format!("poolspeed-append-{}", std::process::id()));
    let file = std::fs::File::options().create_new(true).read(true).write(true).open(&path).expect("a file");
    let bytes = mib << 20;
    file.set_len(bytes).expect("a size");
    let bufs: Vec<Vec<u8>> = (0..4).map(|n| vec![n + 1; BATCH]).collect();
    let append = || {
        let begun = on_processor();
        for (n, at) in (0..bytes).step_by(BATCH).enumerate() {
            file.write_all_at(&bufs[n % bufs.len()], at).expect("written");
        }
        (on_processor() - begun) as f64 / (bytes / BLOCK as u64) as f64
    };
    let (new, again) = (append(), append());
    let mut into = [0; BLOCK];
    let blocks = bytes / BLOCK as u64;
    let begun = on_processor();
    for n in 0..blocks {
        let at = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % blocks;
        file.read_exact_at(&mut into, at * BLOCK as u64).expect("read");
    }
    let read = (on_processor() - begun) as f64 / blocks as f64;
    black_box(&into);
    drop(file);
    let _ = std::fs::remove_file(&path);
    [new, again, read]
}
