//! A thin store in memory: pages from a pool, shared with the readers that have them, copied when written meanwhile.
//!
//! Every read, write and compare is atomic over its whole range: it locks all its pages in rising order before it
//! looks at or changes the first, and lets each go after that (two-phase locking, so calls that overlap are in one
//! order, and cannot lock each other out). What takes long, copying a host's bytes of many pages, is done before the
//! locks are taken: the new pages are only swapped in under them. A few pages that nobody shares are written in place.

use crate::ahead::Ahead;
use crate::memory::Memory;
use crate::pages::{CHUNK, Locked, MAX_PAGES, PAGE, Page, Table};
use caisson_block::{BlockError, Buf, BufList, BufMut, Pool, Reader};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// So many free pages are kept, so that a busy store does not fault its pages in over and over.
const TRIM_KEEP: u32 = 1024;

/// The memory of so many of the others is given back to the system at a time, which takes about a microsecond for each.
const TRIM: u32 = 16;

/// So many pages (128 KiB) are written in place under their locks, when nobody shares them: a few microseconds.
const IN_PLACE: u64 = 32;

/// So many pages are copied in one step of a large write.
const STEP: u64 = 4;

/// So many pages are looked at in one step of zeroing, a chunk that was never written as one; and so many are emptied that held
/// data, whose memory goes back to the system.
const ZERO_STEP: u64 = 64;
const FREE_STEP: u32 = 16;

/// How often a store may grow beyond the size that it was made for.
const POOLS: usize = 32;

/// A thin store in memory.
pub struct RamStore {
    size: AtomicU64,
    table: Table,
    /// The first is made with the store, one more at each growth that needs it.
    pools: [OnceLock<Pool>; POOLS],
    growing: Mutex<()>,
    /// Has memory cleared before it is written to.
    ahead: Ahead,
    /// Pages that hold data.
    allocated: AtomicU64,
    /// Pages freed so far, modulo 2^32.
    freed: AtomicU32,
}

/// The pages of one call: all of it within pages `first..first + count`, beginning `skip` bytes into the first.
#[derive(Clone, Copy)]
struct Span {
    first: u64,
    count: u64,
    skip: usize,
    len: usize,
}

impl Span {
    #[inline]
    fn new(at: u64, len: usize) -> Span {
        let skip = (at % PAGE as u64) as usize;
        Span { first: at / PAGE as u64, count: (skip + len).div_ceil(PAGE) as u64, skip, len }
    }

    /// Which bytes of the page number `index` of it are meant.
    #[inline]
    fn part(&self, index: u64) -> (usize, usize) {
        let from = if index == 0 { self.skip } else { 0 };
        (from, (self.skip + self.len - index as usize * PAGE).min(PAGE))
    }
}

impl RamStore {
    /// A store of `size` bytes, all zero. Takes address space now and memory as it is written.
    ///
    /// # Errors
    /// `InvalidInput` when `size` is zero or more than 8 TiB; the system's when it refuses the address space.
    pub fn new(size: u64) -> io::Result<RamStore> {
        let store = RamStore {
            size: AtomicU64::new(0),
            table: Table::default(),
            pools: Default::default(),
            growing: Mutex::new(()),
            ahead: Ahead::start(),
            allocated: AtomicU64::new(0),
            freed: AtomicU32::new(0),
        };
        store.resize(size)?;
        Ok(store)
    }

    /// A page with undefined contents.
    #[inline]
    fn page(&self) -> Result<BufMut, BlockError> {
        for pool in self.pools.iter().map_while(OnceLock::get) {
            if let Some(page) = pool.alloc() {
                self.ahead.look(pool);
                return Ok(page);
            }
        }
        Err(BlockError::Interrupted)
    }

    /// Whether any page of `span` may hold data. The table has entries for all of them then.
    #[inline]
    fn any(&self, span: Span) -> bool {
        let mut runs = Table::runs(span.first, span.count);
        if !runs.clone().any(|(page, _)| self.table.chunk(page).is_some()) {
            // Each part was seen empty, the last one last: a write that we miss here was not over before we began,
            // and none that spans parts is half seen.
            return false;
        }
        if span.count > 1 {
            runs.by_ref().for_each(|(page, _)| _ = self.table.chunk_or_make(page));
        }
        true
    }

    /// Entries `n` from that of `page` on, which lie in one chunk.
    #[inline]
    fn run(&self, (page, n): (u64, usize)) -> &[Page] {
        let from = page as usize % CHUNK;
        &self.table.chunk_or_make(page)[from..from + n]
    }

    /// Locks all pages of `span`, in rising order.
    #[inline]
    fn lock(&self, span: Span) {
        for run in Table::runs(span.first, span.count) {
            self.run(run).iter().for_each(|page| page.lock().suspend());
        }
    }

    /// Calls `f` with each page of `span` in order, and its number in the span. Who drops the page lets it go.
    ///
    /// # Safety
    /// This thread holds all of them by [`RamStore::lock`].
    #[inline]
    unsafe fn each<'a>(&'a self, span: Span, mut f: impl FnMut(u64, Locked<'a>)) {
        let mut index = 0;
        for run in Table::runs(span.first, span.count) {
            for page in self.run(run) {
                // SAFETY: the caller's promise; each page is met once.
                f(index, unsafe { Locked::resume(page) });
                index += 1;
            }
        }
    }

    /// The next few new pages with the bytes of `data` in place; what they leave out of the first and the last is undefined.
    /// Whether those were the last.
    fn fill_some(&self, span: Span, data: &mut Reader<'_>, into: &mut BufList) -> Result<bool, BlockError> {
        let begun = into.parts().len() as u64;
        let end = span.count.min(begun + STEP);
        for index in begun..end {
            let mut page = self.page()?;
            let (from, to) = span.part(index);
            data.fill(&mut page[from..to]);
            into.push(page.freeze());
        }
        Ok(end == span.count)
    }

    /// All new pages.
    fn fill(&self, span: Span, data: &BufList, into: &mut BufList) -> Result<(), BlockError> {
        let mut reader = data.reader();
        while !self.fill_some(span, &mut reader, into)? {}
        Ok(())
    }

    /// Swaps the prepared pages in and lets them go. The old ones are in `pages` then.
    ///
    /// # Safety
    /// This thread holds all pages of `span` by [`RamStore::lock`].
    unsafe fn swap_in(&self, span: Span, pages: &mut BufList) {
        let mut added = 0;
        // SAFETY: the caller's promise.
        unsafe {
            self.each(span, |index, mut held| {
                let index_in = index as usize;
                let old = held.take().unwrap_or_else(|| {
                    added += 1;
                    Buf::zeroes(PAGE)
                });
                let mut new = pages.swap(index_in, old);
                let (from, to) = span.part(index);
                if to - from < PAGE
                    && let Some(bytes) = new.try_mut()
                {
                    let old = &pages.parts()[index_in];
                    bytes[..from].copy_from_slice(&old[..from]);
                    bytes[to..].copy_from_slice(&old[to..]);
                }
                *held = Some(new);
            });
        }
        if added > 0 {
            self.allocated.fetch_add(added, Ordering::Relaxed);
        }
    }

    /// Writes inside one page: in place when nobody shares it, so that its memory stays the same.
    #[inline]
    fn write_one(&self, span: Span, reader: &mut Reader<'_>) -> Result<(), BlockError> {
        let (from, to) = span.part(0);
        let mut held = self.run((span.first, 1))[0].lock();
        if let Some(bytes) = held.as_mut().and_then(Buf::try_mut) {
            reader.fill(&mut bytes[from..to]);
            return Ok(());
        }
        let mut page = self.page()?;
        reader.fill(&mut page[from..to]);
        match &*held {
            Some(old) => {
                page[..from].copy_from_slice(&old[..from]);
                page[to..].copy_from_slice(&old[to..]);
            }
            None => {
                page[..from].fill(0);
                page[to..].fill(0);
            }
        }
        let old = held.replace(page.freeze());
        drop(held);
        if old.is_none() {
            self.allocated.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes the few pages of `span` in place, if all are there and nobody shares any; says whether it did.
    fn write_in_place(&self, span: Span, data: &BufList) -> bool {
        if self.lacks_chunk(span) {
            return false;
        }
        self.lock(span);
        let mut ours = true;
        // SAFETY: just locked.
        unsafe {
            self.each(span, |_, mut held| {
                ours &= held.as_mut().and_then(Buf::try_mut).is_some();
                held.suspend();
            });
        }
        let mut reader = data.reader();
        // SAFETY: still locked; each page is let go here. Nobody can come to share one before that.
        unsafe {
            self.each(span, |index, mut held| {
                if ours && let Some(bytes) = held.as_mut().and_then(Buf::try_mut) {
                    let (from, to) = span.part(index);
                    reader.fill(&mut bytes[from..to]);
                }
            });
        }
        ours
    }

    fn lacks_chunk(&self, span: Span) -> bool {
        Table::runs(span.first, span.count).any(|(page, _)| self.table.chunk(page).is_none())
    }

    /// Counts `pages` as freed, no more than a step's, and gives some memory back to the system where there is more than enough.
    fn note_freed(&self, pages: u32) {
        self.allocated.fetch_sub(u64::from(pages), Ordering::Relaxed);
        let before = self.freed.fetch_add(pages, Ordering::Relaxed);
        if before / TRIM != before.wrapping_add(pages) / TRIM {
            for pool in self.pools.iter().map_while(OnceLock::get) {
                pool.trim_some(TRIM_KEEP, TRIM);
            }
        }
    }

    /// Makes a part of one page zero.
    fn zero_part(&self, at: u64, len: usize) -> Result<(), BlockError> {
        let span = Span::new(at, len);
        match self.table.chunk(span.first) {
            Some(chunk) if chunk[span.first as usize % CHUNK].lock().is_some() => {
                self.write_one(span, &mut BufList::zeroes(len).reader())
            }
            _ => Ok(()),
        }
    }
}

/// Bytes in a table chunk's worth of pages.
const _: () = assert!(CHUNK * PAGE == 2 << 20);

impl Memory for RamStore {
    const AT_ONCE: u64 = IN_PLACE * PAGE as u64;

    #[inline]
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        let _one = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.size();
        let pages = size.div_ceil(PAGE as u64);
        if size == 0 || pages > MAX_PAGES || pages > u64::from(u32::MAX / 2) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a RAM store has 1 byte to 8 TiB"));
        }
        // Twice the pages: those of the store, and those that readers still have after they were overwritten.
        let want = pages * 2 + 4096;
        let have: u64 = self.pools.iter().map_while(OnceLock::get).map(|p| u64::from(p.count())).sum();
        if have < want {
            let more = Pool::ahead((want - have).min(u64::from(u32::MAX - 1)) as u32, PAGE)?;
            more.offer();
            self.ahead.add(more.clone());
            if self.pools.iter().try_fold(more, |pool, slot| slot.set(pool).err().ok_or(())).is_ok() {
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, "a RAM store can grow 31 times"));
            }
        }
        if size < old {
            self.size.store(size, Ordering::Release);
        }
        // When it grows too: a write that was under way while it shrank may have left something there.
        let (from, to) = (size.min(old), size.max(old).next_multiple_of(PAGE as u64));
        self.zero(from, to - from).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    #[inline]
    fn read(&self, at: u64, len: usize, into: &mut BufList) {
        let span = Span::new(at, len);
        if span.count == 1 {
            let chunk = self.table.chunk(span.first);
            match chunk.and_then(|c| c[span.first as usize % CHUNK].lock().clone()) {
                Some(page) if len == PAGE => into.push(page),
                Some(page) => into.push(page.slice(span.skip, span.skip + len).unwrap_or_default()),
                None => into.push(Buf::zeroes(len)),
            }
            return;
        }
        if !self.any(span) {
            return push_zeroes(into, len);
        }
        self.lock(span);
        let mut zeroes = 0;
        // SAFETY: just locked.
        unsafe {
            self.each(span, |index, held| {
                let page = held.clone();
                drop(held);
                let (from, to) = span.part(index);
                let Some(page) = page else {
                    zeroes += to - from;
                    return;
                };
                push_zeroes(into, std::mem::take(&mut zeroes));
                into.push(if to - from == PAGE { page } else { page.slice(from, to).unwrap_or_default() });
            });
        }
        push_zeroes(into, zeroes);
    }

    #[inline]
    fn write(&self, at: u64, data: &BufList, scratch: &mut BufList) -> Result<(), BlockError> {
        if data.is_empty() {
            return Ok(());
        }
        let span = Span::new(at, data.len());
        if span.count == 1 {
            return self.write_one(span, &mut data.reader());
        }
        if span.count <= IN_PLACE && self.write_in_place(span, data) {
            return Ok(());
        }
        scratch.clear();
        self.fill(span, data, scratch)?;
        self.publish(at, data.len(), scratch);
        scratch.clear();
        Ok(())
    }

    fn prepare(
        &self,
        at: u64,
        len: usize,
        data: &mut Reader<'_>,
        pages: &mut BufList,
    ) -> Result<bool, BlockError> {
        self.fill_some(Span::new(at, len), data, pages)
    }

    fn publish(&self, at: u64, len: usize, pages: &mut BufList) {
        let span = Span::new(at, len);
        debug_assert_eq!(pages.parts().len() as u64, span.count);
        self.lock(span);
        // SAFETY: just locked.
        unsafe { self.swap_in(span, pages) };
    }

    fn publish_if(&self, at: u64, expect: &BufList, pages: &mut BufList) -> Option<u64> {
        let span = Span::new(at, expect.len());
        self.lock(span);
        let (mut reader, mut done, mut differs) = (expect.reader(), 0, None);
        // SAFETY: just locked.
        unsafe {
            self.each(span, |index, held| {
                let (from, to) = span.part(index);
                if differs.is_none() {
                    let zeroes = &[0; PAGE][..];
                    let now = &held.as_deref().unwrap_or(zeroes)[from..to];
                    differs = reader.first_difference(now).map(|at| done + at as u64);
                    done += (to - from) as u64;
                }
                held.suspend();
            });
            match differs {
                // SAFETY: still locked; dropping each lets it go.
                Some(_) => self.each(span, |_, held| drop(held)),
                // SAFETY: still locked.
                None => self.swap_in(span, pages),
            }
        }
        differs
    }

    fn zero_some(&self, at: u64, len: u64) -> Result<u64, BlockError> {
        let (page, end) = (PAGE as u64, at + len);
        let skip = at % page;
        if skip > 0 || len < page {
            let part = (page - skip).min(len);
            return self.zero_part(at, part as usize).map(|()| part);
        }
        let (first, last) = (at / page, end / page);
        let (mut left, mut done, mut freed) = (ZERO_STEP, 0, 0);
        for (page, n) in Table::runs(first, last - first) {
            let Some(chunk) = self.table.chunk(page) else {
                (left, done) = (left - 1, done + n as u64);
                if left == 0 {
                    break;
                }
                continue;
            };
            let from = page as usize % CHUNK;
            for page in &chunk[from..from + n.min(left as usize)] {
                (left, done) = (left - 1, done + 1);
                freed += u32::from(page.lock().take().is_some());
                if freed == FREE_STEP {
                    break;
                }
            }
            if left == 0 || freed == FREE_STEP {
                break;
            }
        }
        if freed > 0 {
            self.note_freed(freed);
        }
        Ok(done * page)
    }

    fn compare(&self, at: u64, with: &BufList) -> Option<u64> {
        let mut now = BufList::new();
        self.read(at, with.len(), &mut now);
        let (mut reader, mut done) = (with.reader(), 0);
        for part in now.parts() {
            if let Some(differs) = reader.first_difference(part) {
                return Some(done + differs as u64);
            }
            done += part.len() as u64;
        }
        None
    }

    fn compare_and_write(
        &self,
        at: u64,
        expect: &BufList,
        data: &BufList,
        scratch: &mut BufList,
    ) -> Result<Option<u64>, BlockError> {
        debug_assert_eq!(expect.len(), data.len());
        if data.is_empty() {
            return Ok(None);
        }
        scratch.clear();
        self.fill(Span::new(at, data.len()), data, scratch)?;
        let differs = self.publish_if(at, expect, scratch);
        scratch.clear();
        Ok(differs)
    }

    fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed) * PAGE as u64
    }

    fn deallocates(&self) -> bool {
        true
    }
}

/// Adds `len` zero bytes that cost no memory.
fn push_zeroes(into: &mut BufList, len: usize) {
    let end = into.len() + len;
    while into.len() < end {
        into.push(Buf::zeroes(end - into.len()));
    }
}

#[cfg(test)]
#[path = "ram_tests.rs"]
mod tests;
