//! What finding and writing one block costs with all pages in memory, and how much memory a resident page takes. Times are
//! of the processor, so that a busy machine does not count.
//!
//! `cargo run --release -p caisson-tables --example tablespeed [GIB]`

use caisson_tables::*;
use rustix::time::{ClockId, clock_gettime};

/// The processor's time that the program used, in nanoseconds.
struct Clock(f64);

impl Clock {
    fn now() -> Clock {
        let t = clock_gettime(ClockId::ProcessCPUTime);
        Clock(t.tv_sec as f64 * 1e9 + t.tv_nsec as f64)
    }

    fn elapsed(&self) -> f64 {
        Clock::now().0 - self.0
    }
}

/// A batch: its blocks are put, written, located and settled.
const BATCH: u64 = 64;

struct Bench {
    tables: Tables,
    volume: VolumeId,
    place: Place,
    sequence: u64,
    journal: Vec<Change>,
    bytes: Vec<u8>,
    random: u64,
}

impl Bench {
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn place(&mut self, length: u32) -> Place {
        let size = self.tables.geometry().segment_size;
        if self.sequence == 0 || self.place.offset + length + TAG > size {
            if self.sequence > 0 {
                self.tables.close_segment(self.place.segment, Use::Log);
            }
            self.sequence += 1;
            let n = self.tables.reserve(1)[0];
            self.tables.open_segment(n, self.sequence, 1, Use::Log);
            self.place = Place { segment: n, offset: 4096 };
        }
        let at = self.place;
        self.place.offset += length + TAG;
        at
    }

    /// Writes `n` new blocks at where `at` says, one call each.
    fn write(&mut self, n: u64, mut at: impl FnMut(&mut Bench, u64) -> u64) {
        let stored = Stored { length: 2000, codec: 1, epoch: 1 };
        let mut ids = Vec::new();
        for batch in 0..n / BATCH {
            ids.clear();
            self.tables.allocate(BATCH as usize, &mut ids).expect("all is in memory");
            for (i, &id) in ids.iter().enumerate() {
                let block = at(self, batch * BATCH + i as u64);
                self.tables.put(id, stored).expect("all is in memory");
                let slots = [Slot::New(id)];
                self.tables.write(self.volume, block, &slots, &mut self.journal).expect("all is in memory");
            }
            for &id in &ids {
                let place = self.place(2000);
                self.tables.locate(id, place);
            }
            self.tables.settle(&ids).expect("all is in memory");
            self.bytes.clear();
            self.journal.drain(..).for_each(|c| c.encode(&mut self.bytes));
        }
    }

    fn checkpoint(&mut self) -> usize {
        let start = Clock::now();
        self.tables.freeze();
        println!("freeze: {:.0} us", start.elapsed() / 1e3);
        let mut pages = 0;
        loop {
            match self.tables.frozen_next() {
                Frozen::Page(key, ..) => {
                    pages += 1;
                    let place = self.place(3000);
                    self.tables.frozen_placed(key, place, Stored { length: 3000, codec: 1, epoch: 1 });
                }
                Frozen::Wait | Frozen::Again => {}
                Frozen::Done => break,
            }
        }
        self.tables.checkpointed();
        let each = start.elapsed() / pages as f64;
        println!("checkpoint: {pages} pages, {each:.0} ns each");
        pages
    }
}

fn report(what: &str, n: u64, start: Clock) {
    println!("{what}: {:.0} ns a block", start.elapsed() / n as f64);
}

fn main() {
    let gib: u64 = std::env::args().nth(1).map_or(4, |n| n.parse().expect("a number of GiB"));
    let blocks = gib << 18;
    let segment_size = 32 << 20;
    let segments = (gib * 32 * 8 + 64) as u32;
    let geometry =
        Geometry { segment_size, segments, cache_pages: 1 << 20, dirty_limit: 1 << 20, max_refs: u32::MAX };
    let mut tables = Tables::create(geometry);
    let (volume, mut journal) = (VolumeId(1), Vec::new());
    let create = VolumeChange::Create { id: volume, name: "v".into(), bytes: 1 << 40, settings: vec![] };
    tables.change_volume(create, &mut journal).expect("the pool is empty");
    let place = Place { segment: 0, offset: 0 };
    let bytes = Vec::new();
    let mut b = Bench { tables, volume, place, sequence: 0, journal, bytes, random: 88_172_645_463_325_252 };

    let start = Clock::now();
    b.write(blocks, |_, i| i);
    report("allocate, put, write, locate, settle, encode; sequential fill", blocks, start);
    b.checkpoint();
    let pages = b.tables.resident_pages();
    println!("memory: {} bytes a page, {pages} pages", b.tables.memory_bytes() / pages);

    let n = 1 << 20;
    let mut found = Vec::new();
    let start = Clock::now();
    for _ in 0..n {
        let block = b.next() % blocks;
        found.clear();
        b.tables.find(volume, block, 1, &mut found).expect("all is in memory");
    }
    report("find, random", n, start);
    let start = Clock::now();
    for i in 0..n {
        found.clear();
        b.tables.find(volume, i * 32 % blocks, 32, &mut found).expect("all is in memory");
    }
    report("find, 32 at once", n * 32, start);
    let start = Clock::now();
    b.write(n, |b, _| b.next() % blocks);
    report("all of a write, random overwrite, first touch of most pages", n, start);
    let start = Clock::now();
    b.write(n, |b, _| b.next() % blocks);
    report("all of a write, random overwrite", n, start);
    b.checkpoint();
}
