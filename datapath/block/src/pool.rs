//! A fixed number of equal buffers in one anonymous mapping, handed out and taken back without a lock.
//!
//! Owns the memory. Buffers are page-aligned when their length is a multiple of the page size, so that they serve
//! O_DIRECT. Pages are touched only when used: a pool that is reserved large costs address space, not memory. The free
//! list is a stack, so the buffer that is warm in the cache goes out first. [`Pool::trim`] gives the memory of free
//! buffers back to the system; [`Pool::wait`] parks whoever found the pool empty.

use crate::buf::BufMut;
use crate::cx::{Parked, Remote};
use crate::mapping::{How, Mapping, Pages};
use crate::offered;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

/// Marks the end of the free list.
const NIL: u32 = u32::MAX;

/// What every buffer of a pool has beside its memory. Lives as long as the pool's inner part.
///
/// All zero is a buffer never handed out yet, so that the headers of a large pool need not be touched before use.
#[repr(C)]
pub(crate) struct Header {
    /// How many [`crate::Buf`]s or [`BufMut`]s point here; 0 while on the free list.
    pub(crate) refs: AtomicU32,
    /// The next free buffer while on the free list.
    pub(crate) next: AtomicU32,
    /// The pool that this belongs to; null for a buffer from the heap. A buffer that is out holds one strong count.
    pub(crate) pool: AtomicPtr<Inner>,
}

impl Default for Header {
    fn default() -> Header {
        Header { refs: AtomicU32::new(0), next: AtomicU32::new(NIL), pool: AtomicPtr::default() }
    }
}

pub(crate) struct Inner {
    memory: Mapping,
    len: usize,
    /// `count` headers behind the buffers, in the same mapping.
    headers: NonNull<Header>,
    count: u32,
    /// Free buffers whose memory is there.
    warm: Stack,
    /// Free buffers whose memory was given back to the system.
    cold: Stack,
    /// How many those are; while one is taken or trimmed, one more or less.
    colds: AtomicU32,
    /// Buffers never handed out yet start here.
    fresh: AtomicU32,
    out: AtomicU32,
    /// How many wait in `waiters`.
    waiting: AtomicU32,
    waiters: Mutex<VecDeque<Waiter>>,
    /// How many pins there are.
    pinned: Mutex<u32>,
}

/// See [`Pool::pin`].
pub struct Pin(Pool);

impl Pin {
    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.0
    }

    /// Whether nobody but this pin (and buffers that are out, whose data can still be asked for) has a use for the pool.
    pub fn forgotten(&self) -> bool {
        self.0.lonely()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        *self.0.0.pinned.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

/// Who is to be woken when `enough` buffers are free.
struct Waiter {
    remote: Arc<dyn Remote>,
    who: Arc<dyn Parked>,
    token: u64,
    enough: u32,
}

/// The head of a free list: a tag against ABA in the high half, an index in the low half.
struct Stack(AtomicU64);

// SAFETY: `memory` is a mapping owned by this value; all access to its contents goes through Buf and BufMut, which give
// shared access to any number of holders or exclusive access to one. The rest is atomics, a mutex and immutable fields;
// the raw pool pointers in the headers are only used through an Arc count that the holder of the buffer owns.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// A pool of `count` buffers of `len` bytes each. Cloning shares it.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

impl Pool {
    /// Reserves a pool of `count` buffers of `len` bytes (rounded up to 64, so that each starts a cache line).
    ///
    /// # Errors
    /// The system's error when the address space cannot be mapped; `InvalidInput` when `count` or `len` is zero or
    /// their product overflows.
    pub fn new(count: u32, len: usize) -> std::io::Result<Pool> {
        Pool::made(count, len, How::Transparent)
    }

    /// The same where buffers are first used on threads that serve others, which are not to wait for the system to clear huge
    /// pages: another thread is to call [`Pool::make_ready`] whenever the pool [lags](Pool::lags). What is used before that came to
    /// it is had in pages of the usual size.
    ///
    /// # Errors
    /// Those of [`Pool::new`].
    pub fn ahead(count: u32, len: usize) -> std::io::Result<Pool> {
        Pool::made(count, len, How::Ahead)
    }

    /// The same of huge pages that the system has set aside, where it has enough of them: for memory that is used in full and
    /// stays, such as what devices reach. Where it has not, as [`Pool::new`] makes it.
    ///
    /// # Errors
    /// Those of [`Pool::new`].
    pub fn huge(count: u32, len: usize) -> std::io::Result<Pool> {
        Pool::made(count, len, How::Reserved)
    }

    fn made(count: u32, len: usize, how: How) -> std::io::Result<Pool> {
        let bad = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
        if count == 0 || count == NIL || len == 0 || len > u32::MAX as usize {
            return Err(bad());
        }
        let len = len.next_multiple_of(64);
        let bytes = len.checked_mul(count as usize).ok_or_else(bad)?;
        let used = bytes.checked_add(count as usize * size_of::<Header>()).ok_or_else(bad)?;
        let memory = Mapping::new(used, how)?;
        // SAFETY: inside the mapping, and aligned: `bytes` is a multiple of 64. Its zeroes are valid headers.
        let headers = unsafe { memory.base().add(bytes) }.cast::<Header>();
        Ok(Pool(Arc::new(Inner {
            memory,
            len,
            headers,
            count,
            warm: Stack::empty(),
            cold: Stack::empty(),
            colds: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            out: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            waiters: Mutex::default(),
            pinned: Mutex::new(0),
        })))
    }

    /// Length of each buffer in bytes.
    pub fn buf_len(&self) -> usize {
        self.0.len
    }

    /// What its memory is made of.
    pub fn pages(&self) -> Pages {
        self.0.memory.pages()
    }

    /// Whether [`Pool::make_ready`] should be called: little of what buffers will use next is ready. Never for other pools than those
    /// that [`Pool::ahead`] made.
    #[inline]
    pub fn lags(&self) -> bool {
        self.0.memory.lags(self.0.used(), self.0.len * self.0.count as usize)
    }

    /// Makes some memory ready for the buffers that will be used next, which may take milliseconds. Says whether the pool lags still.
    pub fn make_ready(&self) -> bool {
        self.0.memory.make_ready(self.0.used(), self.0.len * self.0.count as usize)
    }

    /// Where all its buffers lie, and how many bytes that is: to be registered with a device. The memory stays mapped for as
    /// long as the pool, a clone of it or one of its buffers is there.
    pub fn memory(&self) -> (*const u8, usize) {
        (self.0.memory.base().as_ptr().cast_const(), self.0.len * self.0.count as usize)
    }

    /// Has no memory given back to the system ([`Pool::trim`]) until the pin is dropped: a device that the pool is registered
    /// with reaches the pages that were there when it was, and would miss others in their place. Registering touches all of it: what
    /// was to be made ready ([`Pool::ahead`]) comes in huge pages then.
    pub fn pin(&self) -> Pin {
        self.0.memory.settle();
        *self.0.pinned.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Pin(self.clone())
    }

    /// Whether only `self` and its buffers, and nobody else, hold the pool.
    pub(crate) fn lonely(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// The pool of that inside.
    pub(crate) fn of(inner: Arc<Inner>) -> Pool {
        Pool(inner)
    }

    /// Lists the pool among those that devices may be given ([`crate::offered`]).
    pub fn offer(&self) {
        offered::add(Arc::downgrade(&self.0));
    }

    /// How many buffers there are.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// How many are handed out now (exact only while nobody allocates or frees).
    pub fn in_use(&self) -> u32 {
        self.0.out.load(Ordering::Relaxed)
    }

    /// A buffer of the pool, contents undefined but initialised memory (zero or what was last in it); `None` when all
    /// are out, which is back-pressure, not an error.
    #[inline]
    pub fn alloc(&self) -> Option<BufMut> {
        let index =
            self.0.warm.pop(&self.0).or_else(|| self.0.take_cold()).or_else(|| self.0.take_fresh())?;
        let header = self.0.header(index);
        debug_assert_eq!(header.refs.load(Ordering::Relaxed), 0);
        header.refs.store(1, Ordering::Relaxed);
        self.0.out.fetch_add(1, Ordering::Relaxed);
        // The buffer's own strong count, given back in `Inner::release`.
        let _ = Arc::into_raw(Arc::clone(&self.0));
        // SAFETY: index < count, so the address is inside the mapping.
        let ptr = unsafe { self.0.memory.base().add(index as usize * self.0.len) };
        // SAFETY: the header was free (refs 0) and is now ours alone; ptr..ptr+len is its memory and nobody else's.
        Some(unsafe { BufMut::from_raw(NonNull::from(header), ptr, self.0.len as u32) })
    }

    /// Has `who.woken(token)` called through `remote`, once, when at least `enough` buffers are free.
    ///
    /// To be called after [`Pool::alloc`] gave too few. They may be free already, so that the caller is woken at once;
    /// and somebody else may take them before the caller gets to it: it then waits again. Who waited longest and can go
    /// on is woken first. `remote` is called by whoever lets go of a buffer, anywhere.
    pub fn wait(&self, enough: u32, remote: Arc<dyn Remote>, who: Arc<dyn Parked>, token: u64) {
        {
            let mut waiters = self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            waiters.push_back(Waiter { remote, who, token, enough });
            self.0.waiting.store(waiters.len() as u32, Ordering::SeqCst);
        }
        // Pairs with the SeqCst push and load in `release`: either it sees us waiting, or we see its buffer.
        fence(Ordering::SeqCst);
        self.0.wake_one();
    }

    /// Wakes somebody who can go on, for one who was woken and then had no use for the buffers.
    pub fn pass_on(&self) {
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.wake_one();
        }
    }

    /// How many buffers are free; at least as many as there are, and more only while another thread takes or frees one.
    #[inline]
    pub fn free(&self) -> u32 {
        self.0.free()
    }

    /// Gives the memory of free buffers back to the system, but for `keep` of them, and says of how many it did.
    ///
    /// Nothing of huge pages that were set aside: they go as a whole.
    /// Costs a system call for each run of neighbouring buffers. Meanwhile the buffers in question are in no list:
    /// [`Pool::alloc`] may find the pool empty for that time.
    pub fn trim(&self, keep: u32) -> u32 {
        self.give_back(|| {
            let mut free = self.0.warm.take_all(&self.0);
            let kept = free.len().min(keep as usize);
            for &index in free[..kept].iter().rev() {
                self.0.warm.push(&self.0, index);
            }
            free.split_off(kept)
        })
    }

    /// As [`Pool::trim`], of no more than `most` at a time, so that it takes no longer than that. Which `keep` are kept, and
    /// whether it is exactly so many, is left open.
    pub fn trim_some(&self, keep: u32, most: u32) -> u32 {
        let all = self.0.fresh.load(Ordering::Relaxed).min(self.0.count);
        let without = self.0.out.load(Ordering::Relaxed) + self.0.colds.load(Ordering::Relaxed);
        let n = all.saturating_sub(without).saturating_sub(keep).min(most);
        if n == 0 {
            return 0;
        }
        self.give_back(|| (0..n).map_while(|_| self.0.warm.pop(&self.0)).collect())
    }

    /// Does so with those that `take` takes out of the lists.
    fn give_back(&self, take: impl FnOnce() -> Vec<u32>) -> u32 {
        const PAGE: usize = 4096;
        // Held for the length of the call, so that what is pinned meanwhile finds the pages that stay.
        let pinned = self.0.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.len.is_multiple_of(PAGE) || *pinned > 0 || self.0.memory.pages() == Pages::Reserved {
            return 0;
        }
        let mut cold = take();
        cold.sort_unstable();
        for run in cold.chunk_by(|a, b| a + 1 == *b) {
            let (at, len) = (run[0] as usize * self.0.len, run.len() * self.0.len);
            // SAFETY: the run lies inside the mapping, on page bounds, and its buffers are free and in no list: only we
            // can reach them.
            unsafe { self.0.memory.give_back(at, len) };
        }
        let trimmed = cold.len() as u32;
        // Before they can be taken.
        self.0.colds.fetch_add(trimmed, Ordering::Relaxed);
        for &index in cold.iter().rev() {
            self.0.cold.push(&self.0, index);
        }
        self.pass_on();
        trimmed
    }
}

impl Stack {
    fn empty() -> Stack {
        Stack(AtomicU64::new(u64::from(NIL)))
    }

    /// A head with the next tag.
    fn retag(head: u64, index: u32) -> u64 {
        (head & !u64::from(u32::MAX)).wrapping_add(1 << 32) | u64::from(index)
    }

    #[inline]
    fn pop(&self, of: &Inner) -> Option<u32> {
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            let index = head as u32;
            if index == NIL {
                return None;
            }
            let new = Stack::retag(head, of.header(index).next.load(Ordering::Relaxed));
            match self.0.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(now) => head = now,
            }
        }
    }

    /// Adds a buffer that is in no list and that only the caller can reach.
    #[inline]
    fn push(&self, of: &Inner, index: u32) {
        let next = &of.header(index).next;
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            next.store(head as u32, Ordering::Relaxed);
            let new = Stack::retag(head, index);
            match self.0.compare_exchange_weak(head, new, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes the whole list, top first.
    fn take_all(&self, of: &Inner) -> Vec<u32> {
        let mut head = self.0.load(Ordering::Acquire);
        while let Err(now) =
            self.0.compare_exchange_weak(head, Stack::retag(head, NIL), Ordering::AcqRel, Ordering::Acquire)
        {
            head = now;
        }
        let first = Some(head as u32).filter(|&index| index != NIL);
        std::iter::successors(first, |&index| {
            Some(of.header(index).next.load(Ordering::Relaxed)).filter(|&next| next != NIL)
        })
        .collect()
    }
}

impl Inner {
    #[inline]
    fn header(&self, index: u32) -> &Header {
        assert!(index < self.count);
        // SAFETY: index < count, so it lies inside the mapping, where all zero and whatever we stored are both valid;
        // headers are only ever reached through shared references to their atomics.
        unsafe { self.headers.add(index as usize).as_ref() }
    }

    /// Bytes of the buffers that were handed out at some time.
    #[inline]
    fn used(&self) -> usize {
        self.fresh.load(Ordering::Relaxed).min(self.count) as usize * self.len
    }

    #[inline]
    fn free(&self) -> u32 {
        // `out` goes down before a buffer is on the list and up after it is off: never more are out than this says.
        self.count.saturating_sub(self.out.load(Ordering::Relaxed))
    }

    /// Wakes the first waiter for whom there is enough.
    #[cold]
    fn wake_one(&self) {
        let waiter = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            let free = self.free();
            let first = waiters.iter().position(|w| w.enough <= free);
            let waiter = first.and_then(|at| waiters.remove(at));
            self.waiting.store(waiters.len() as u32, Ordering::SeqCst);
            waiter
        };
        if let Some(w) = waiter {
            w.remote.wake(w.who, w.token);
        }
    }

    #[cold]
    fn take_cold(&self) -> Option<u32> {
        let taken = self.cold.pop(self)?;
        self.colds.fetch_sub(1, Ordering::Relaxed);
        Some(taken)
    }

    fn take_fresh(&self) -> Option<u32> {
        let mut at = self.fresh.load(Ordering::Relaxed);
        while at < self.count {
            match self.fresh.compare_exchange_weak(at, at + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.header(at).pool.store(std::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
                    return Some(at);
                }
                Err(now) => at = now,
            }
        }
        None
    }

    /// Puts a buffer whose last holder is gone back on the free list, and gives up the buffer's count on the pool.
    ///
    /// # Safety
    /// `header` belongs to a pool (its `pool` is not null), its `refs` has just gone to 0 by the caller's doing, and
    /// the caller never touches the buffer again.
    pub(crate) unsafe fn release(header: NonNull<Header>) {
        // SAFETY: the header is alive: the buffer's strong count on the pool has not been given up yet.
        let at = unsafe { header.as_ref() };
        // SAFETY: made by `Arc::into_raw` in `alloc`, and this is the one place that takes it back.
        let inner = unsafe { Arc::from_raw(at.pool.load(Ordering::Relaxed).cast_const()) };
        // SAFETY: both point into the same run of headers.
        let index = unsafe { header.offset_from(inner.headers) } as u32;
        inner.out.fetch_sub(1, Ordering::Relaxed);
        inner.warm.push(&inner, index);
        if inner.waiting.load(Ordering::SeqCst) > 0 {
            inner.wake_one();
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
