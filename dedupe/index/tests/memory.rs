//! The memory that an index takes, counted where it is taken: in the allocator.
//!
//! Alone in its file, because the allocator counts for the whole process.

use caisson_index::{Answer, Budget, Entry, Index, MAX_PENDING, SummaryAt};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn took(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator as it came; the counters touch no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there while it moves.
        took(size);
        // SAFETY: the caller's promises are passed on.
        let moved = unsafe { System.realloc(at, layout, size) };
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        moved
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn entry(n: u64) -> Entry {
    let mut print = [0; 16];
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for half in print.chunks_mut(8) {
        x = (x ^ x >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(n);
        x = (x ^ x >> 29).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(x ^ x >> 32).to_le_bytes());
    }
    Entry { print, id: n, offset: 0 }
}

/// Inserts `blocks` blocks in batches of `len`, with lookups, fetches and freed segments in between.
fn drive(index: &mut Index, from: u64, blocks: u64, len: u64) {
    for batch in 0..blocks / len {
        let entries: [Entry; 128] =
            std::array::from_fn(|i| entry(from + batch * len + (i as u64).min(len - 1)));
        let at = |batch: u64| SummaryAt {
            segment: (batch / 32) as u32,
            sequence: from + batch / 32 + 1,
            offset: (batch % 32) as u32 * 65536,
        };
        index.insert(at(batch), &entries[..len as usize]);
        let old = entry(from + batch * len / 2);
        if let Answer::Fetch(there) = index.lookup(&old.print) {
            index.loaded(there, &entries[..8], Some(at(batch)));
        }
        index.prefetch();
        if batch % 97 == 0 {
            index.forget_segment((batch / 64) as u32, u64::MAX);
        }
    }
}

/// One test for all, as what another one takes meanwhile would be counted too.
#[test]
fn the_budget_holds() {
    tables_and_cache();
    pending_blocks();
}

fn tables_and_cache() {
    for (index_bytes, cache_bytes) in [(1 << 20, 2 << 20), (5_000_000, 700_000), (100_000, 100_000)] {
        let before = NOW.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let mut index = Index::new(Budget { index_bytes, cache_bytes });
        // A million blocks in long batches, then in short ones, then all anew after a clearing.
        drive(&mut index, 0, 1 << 20, 128);
        drive(&mut index, 1 << 30, 1 << 18, 5);
        index.clear();
        drive(&mut index, 1 << 40, 1 << 20, 128);
        let most = MOST.load(Ordering::Relaxed) - before;
        // 8 bytes a segment, twice while the list moves; and the lists of hints.
        let segments = (1 << 18) / 5 / 32 + 2048;
        let allowed = index_bytes + cache_bytes + 16 * segments + 8192;
        let stats = index.stats();
        println!("index {index_bytes} cache {cache_bytes}: at most {most} of {allowed}, {stats:?}");
        assert!(most <= allowed, "{most} bytes taken, {allowed} allowed");
        assert!(most >= (index_bytes + cache_bytes) * 9 / 10, "{most} bytes: the budget is there to be used");
        assert!(stats.memory_bytes <= most);
        // What an entry costs: the table is at least two fifths full after thinning, and has room for one each 9.2 bytes.
        assert!(index_bytes as f64 / (stats.sample_capacity as f64) < 9.5);
        assert!(stats.sampled * 5 >= stats.sample_capacity * 2 || stats.sample_shift == 0, "{stats:?}");
    }
}

fn pending_blocks() {
    let mut index = Index::new(Budget { index_bytes: 0, cache_bytes: 0 });
    for n in 0..2 * MAX_PENDING as u64 {
        index.pending_insert(entry(n).print, n);
    }
    assert_eq!(index.stats().pending, MAX_PENDING);
    assert!(index.memory_bytes() < 50 * MAX_PENDING + 20_000, "{}", index.memory_bytes());
}
