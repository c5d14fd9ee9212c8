//! The RAM store's page table: where each 4 KiB page of the store is, under a lock of its own.
//!
//! Owns the table's memory, made as it is needed: 16 KiB for each 2 MiB of store that was ever written. Never holds a
//! lock across a call that can wait.

use caisson_block::Buf;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a page.
pub(crate) const PAGE: usize = caisson_block::BLOCK;

/// Pages in a chunk of the table: 2 MiB of store.
pub(crate) const CHUNK: usize = 512;

/// Chunks in the first segment of the directory; each further one is twice as long.
const FIRST: usize = 1 << 10;

/// Segments of the directory: 2 GiB of store in the first, 128 TiB in all.
const SEGMENTS: usize = 16;

/// One entry of the table: nothing (the page reads as zeroes) or a page of the store's pool.
pub(crate) struct Page {
    /// 1 while somebody holds `held`.
    locked: AtomicU32,
    held: UnsafeCell<Option<Buf>>,
}

// SAFETY: `held` is reached only through a `Locked`, of which there is one at a time.
unsafe impl Sync for Page {}

impl Page {
    fn new() -> Page {
        Page { locked: AtomicU32::new(0), held: UnsafeCell::new(None) }
    }

    /// Takes the page for a short time: whoever holds it does nothing but copy.
    #[inline]
    pub(crate) fn lock(&self) -> Locked<'_> {
        if self.locked.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_contended();
        }
        Locked(self)
    }

    #[cold]
    fn lock_contended(&self) {
        /// Turns before the processor is given away: about the time in which a page is copied.
        const SPINS: u32 = 200;
        let mut turns = 0;
        while self.locked.load(Ordering::Relaxed) != 0
            || self.locked.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            turns += 1;
            if turns < SPINS {
                std::hint::spin_loop();
            } else {
                // The holder may have lost its processor.
                std::thread::yield_now();
            }
        }
    }
}

/// A page that is held; let go when dropped.
pub(crate) struct Locked<'a>(&'a Page);

impl<'a> Locked<'a> {
    /// Lets the page stay locked: [`Locked::resume`] takes it up again.
    #[inline]
    pub(crate) fn suspend(self) {
        // The lock is all there is to keep; not running `drop` leaves it taken.
        let _ = std::mem::ManuallyDrop::new(self);
    }

    /// Takes up a page that this thread locked and [suspended](Locked::suspend).
    ///
    /// # Safety
    /// This thread suspended it, and has not resumed it since.
    #[inline]
    pub(crate) unsafe fn resume(page: &'a Page) -> Locked<'a> {
        debug_assert_eq!(page.locked.load(Ordering::Relaxed), 1);
        Locked(page)
    }
}

impl Deref for Locked<'_> {
    type Target = Option<Buf>;
    #[inline]
    fn deref(&self) -> &Option<Buf> {
        // SAFETY: we hold the lock.
        unsafe { &*self.0.held.get() }
    }
}

impl DerefMut for Locked<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Option<Buf> {
        // SAFETY: we hold the lock, and are borrowed mutably.
        unsafe { &mut *self.0.held.get() }
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.locked.store(0, Ordering::Release);
    }
}

type Chunk = OnceLock<Box<[Page; CHUNK]>>;

/// All pages of a store. Grows without moving, so that a page is found without a lock.
#[derive(Default)]
pub(crate) struct Table {
    segments: [OnceLock<Box<[Chunk]>>; SEGMENTS],
}

/// The most pages that a table has room for.
pub(crate) const MAX_PAGES: u64 = ((FIRST * ((1 << SEGMENTS) - 1)) * CHUNK) as u64;

impl Table {
    /// Segment, and chunk in it, of the page number `page`.
    #[inline]
    fn place(page: u64) -> (usize, usize) {
        let chunk = (page / CHUNK as u64) as usize + FIRST;
        let segment = (chunk.ilog2() - FIRST.ilog2()) as usize;
        (segment, chunk - (FIRST << segment))
    }

    /// The chunk that holds `page`, if it was ever needed.
    #[inline]
    pub(crate) fn chunk(&self, page: u64) -> Option<&[Page; CHUNK]> {
        let (segment, chunk) = Table::place(page);
        self.segments[segment].get()?[chunk].get().map(|c| &**c)
    }

    /// The chunk that holds `page`, made if need be.
    ///
    /// # Panics
    /// When `page` is [`MAX_PAGES`] or more.
    #[inline]
    pub(crate) fn chunk_or_make(&self, page: u64) -> &[Page; CHUNK] {
        match self.chunk(page) {
            Some(chunk) => chunk,
            None => self.make(page),
        }
    }

    #[cold]
    fn make(&self, page: u64) -> &[Page; CHUNK] {
        let (segment, chunk) = Table::place(page);
        let segment =
            self.segments[segment].get_or_init(|| (0..FIRST << segment).map(|_| OnceLock::new()).collect());
        segment[chunk].get_or_init(|| {
            let pages: Box<[Page]> = (0..CHUNK).map(|_| Page::new()).collect();
            match pages.try_into() {
                Ok(chunk) => chunk,
                Err(_) => unreachable!("collected {CHUNK} of them"),
            }
        })
    }

    /// The runs of pages that lie in one chunk each, of the `count` pages from `first` on: the first page and how many.
    #[inline]
    pub(crate) fn runs(first: u64, count: u64) -> impl Iterator<Item = (u64, usize)> + Clone {
        let end = first + count;
        let mut at = first;
        std::iter::from_fn(move || {
            let n = (CHUNK as u64 - at % CHUNK as u64).min(end - at) as usize;
            let run = (n > 0).then_some((at, n));
            at += n as u64;
            run
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_dense_and_in_range() {
        let mut expect = (0, 0);
        for chunk in 0..10_000u64 {
            assert_eq!(Table::place(chunk * CHUNK as u64), expect);
            expect.1 += 1;
            if expect.1 == FIRST << expect.0 {
                expect = (expect.0 + 1, 0);
            }
        }
        assert_eq!(Table::place(MAX_PAGES - 1), (SEGMENTS - 1, (FIRST << (SEGMENTS - 1)) - 1));
        assert_eq!(Table::runs(510, 600).collect::<Vec<_>>(), [(510, 2), (512, 512), (1024, 86)]);
        assert_eq!(Table::runs(512, 0).count(), 0);
    }
}
