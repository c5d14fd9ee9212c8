//! Counted slices of memory: [`Buf`] is shared and read-only, [`BufMut`] is the one holder and may write.
//!
//! A `Buf` is what moves through the target instead of copies: received bytes, a store's page, a table's reply. Its
//! memory belongs to a [`crate::Pool`], to the heap, or to the program (static). Sharing costs one atomic count.

use crate::pool::{Header, Inner};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Has the processor fetch the cache line at `place`, because it is about to be read: what is fetched together, one does not wait for
/// piece by piece. Changes nothing but the time that takes.
#[inline(always)]
pub fn fetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and faults on nothing; the address is that of a reference besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// A buffer from the heap: the header first, so that a pointer to it is a pointer to this.
#[repr(C)]
struct Heap {
    header: Header,
    bytes: Box<[u8]>,
}

/// A shared, immutable slice of a counted buffer. 24 bytes; cloning and slicing do not allocate.
pub struct Buf {
    /// `None` for static memory.
    header: Option<NonNull<Header>>,
    ptr: NonNull<u8>,
    len: u32,
}

// SAFETY: the memory is only read through a Buf, the count is atomic, and the header's other fields are immutable while
// the buffer is out (`next` is touched only on the free list).
unsafe impl Send for Buf {}
// SAFETY: as above.
unsafe impl Sync for Buf {}

/// The only holder of a counted buffer: may write. [`BufMut::freeze`] makes it shareable.
pub struct BufMut(Buf);

impl BufMut {
    /// # Safety
    /// `header` has refs 1 and the caller gives up that count; `ptr..ptr+len` is memory of that buffer, initialised,
    /// that nobody else can reach.
    pub(crate) unsafe fn from_raw(header: NonNull<Header>, ptr: NonNull<u8>, len: u32) -> BufMut {
        BufMut(Buf { header: Some(header), ptr, len })
    }

    /// A zeroed buffer of `len` bytes from the heap, for the paths that are not hot.
    ///
    /// # Panics
    /// When `len` is over 4 GiB.
    pub fn zeroed(len: usize) -> BufMut {
        let mut b = Buf::from(vec![0u8; len]);
        b.len = len as u32;
        BufMut(b)
    }

    /// Gives up the right to write, for the right to share.
    #[inline]
    pub fn freeze(self) -> Buf {
        self.0
    }

    /// Where the memory starts, for the kernel or a device to write to.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.ptr.as_ptr()
    }

    /// Shortens it to the first `len` bytes; longer than it is leaves it as it is.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.0.len = self.0.len.min(len.min(u32::MAX as usize) as u32);
    }
}

impl Deref for BufMut {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for BufMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: a BufMut is the only holder (refs 1), so nobody else reads or writes the memory while we borrow it.
        unsafe { std::slice::from_raw_parts_mut(self.0.ptr.as_ptr(), self.0.len as usize) }
    }
}

/// Zeroes to point at, so that unwritten blocks cost no memory: 64 KiB, page-aligned so that O_DIRECT takes them too.
static ZEROES: Aligned = Aligned([0; 65536]);

#[repr(C, align(4096))]
struct Aligned([u8; 65536]);

impl Buf {
    /// `len` bytes of zero, at most 64 KiB, from page-aligned memory that is never freed.
    #[inline]
    pub fn zeroes(len: usize) -> Buf {
        Buf::from_static(&ZEROES.0[..len.min(ZEROES.0.len())])
    }

    /// Memory of the program.
    pub const fn from_static(bytes: &'static [u8]) -> Buf {
        assert!(bytes.len() <= u32::MAX as usize);
        // SAFETY: a reference is never null.
        let ptr = unsafe { NonNull::new_unchecked(bytes.as_ptr().cast_mut()) };
        Buf { header: None, ptr, len: bytes.len() as u32 }
    }

    /// No bytes.
    pub const fn empty() -> Buf {
        Buf::from_static(&[])
    }

    /// The part `from..to` of it, sharing the memory; `None` when that is not inside it.
    #[inline]
    pub fn slice(&self, from: usize, to: usize) -> Option<Buf> {
        if from > to || to > self.len as usize {
            return None;
        }
        let mut part = self.clone();
        // SAFETY: from <= len, so the address stays inside the buffer (or one past its end).
        part.ptr = unsafe { self.ptr.add(from) };
        part.len = (to - from) as u32;
        Some(part)
    }

    /// Takes the first `n` bytes off (all there is when `n` is more), leaving the rest in `self`.
    #[inline]
    pub fn split_to(&mut self, n: usize) -> Buf {
        let n = n.min(self.len as usize);
        let mut head = self.clone();
        head.len = n as u32;
        self.advance(n);
        head
    }

    /// Has the processor fetch the bytes towards its caches, at most a page of them, because they are about to be read.
    /// Changes nothing but the time that takes.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        for at in (0..self.len().min(crate::BLOCK)).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a prefetch reads nothing and faults on nothing; the address is inside the buffer besides.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.ptr.as_ptr().add(at).cast()) };
        }
    }

    /// Drops the first `n` bytes from view (all there is when `n` is more).
    #[inline]
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len as usize);
        // SAFETY: n <= len.
        self.ptr = unsafe { self.ptr.add(n) };
        self.len -= n as u32;
    }

    /// Shortens it to the first `n` bytes.
    #[inline]
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n.min(u32::MAX as usize) as u32);
    }

    /// The bytes to write to, when this is the only holder of a buffer that is not static; `None` otherwise.
    #[inline]
    pub fn try_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: we hold a count, so the header is alive.
        let refs = unsafe { self.header?.as_ref() }.refs.load(Ordering::Acquire);
        if refs != 1 {
            return None;
        }
        // SAFETY: refs is 1 and that one is ours, borrowed mutably: nobody can clone it while the slice lives.
        Some(unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len as usize) })
    }

    /// Makes it writable when this is the only holder; gives it back otherwise.
    ///
    /// # Errors
    /// The buffer itself, when somebody else holds it too or it is static.
    pub fn try_into_mut(mut self) -> Result<BufMut, Buf> {
        if self.try_mut().is_some() { Ok(BufMut(self)) } else { Err(self) }
    }
}

impl Default for Buf {
    fn default() -> Buf {
        Buf::empty()
    }
}

impl From<Vec<u8>> for Buf {
    /// # Panics
    /// When the vector holds 4 GiB or more.
    fn from(bytes: Vec<u8>) -> Buf {
        assert!(bytes.len() < u32::MAX as usize, "a buffer is under 4 GiB");
        let len = bytes.len() as u32;
        let heap = Box::new(Heap { header: Header::heap(), bytes: bytes.into_boxed_slice() });
        let heap = NonNull::from(Box::leak(heap));
        // SAFETY: just made; the slice's address stays the same for as long as the Heap lives.
        let ptr = unsafe { NonNull::new_unchecked((&raw mut *(*heap.as_ptr()).bytes).cast::<u8>()) };
        Buf { header: Some(heap.cast()), ptr, len }
    }
}

impl Header {
    fn heap() -> Header {
        Header { refs: AtomicU32::new(1), ..Header::default() }
    }
}

impl Clone for Buf {
    #[inline]
    fn clone(&self) -> Buf {
        if let Some(h) = self.header {
            // SAFETY: we hold a count, so the header is alive.
            let was = unsafe { h.as_ref() }.refs.fetch_add(1, Ordering::Relaxed);
            assert!(was < u32::MAX / 2, "a buffer's count is about to overflow");
        }
        Buf { header: self.header, ptr: self.ptr, len: self.len }
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        let Some(h) = self.header else { return };
        // SAFETY: we hold a count, so the header is alive.
        let header = unsafe { h.as_ref() };
        if header.refs.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        if header.pool.load(Ordering::Relaxed).is_null() {
            // SAFETY: made by Box::leak in `From<Vec<u8>>`, with the header as the first field of a repr(C) Heap, and
            // the last holder is gone.
            drop(unsafe { Box::from_raw(h.cast::<Heap>().as_ptr()) });
        } else {
            // SAFETY: of a pool, the count has just gone to 0 here, and `self` is not touched again.
            unsafe { Inner::release(h) };
        }
    }
}

impl Deref for Buf {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: ptr..ptr+len is inside the buffer, which our count keeps alive and nobody writes while it is shared.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl std::fmt::Debug for Buf {
    /// Says how long it is; contents are a host's data and never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

impl std::fmt::Debug for BufMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufMut({} bytes)", self.0.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_and_last_one_frees() {
        let b = Buf::from((0..=255u8).collect::<Vec<_>>());
        let mut s = b.slice(10, 20).unwrap();
        drop(b);
        assert_eq!(&s[..], &(10..20).collect::<Vec<u8>>()[..]);
        let head = s.split_to(4);
        assert_eq!((&head[..], s.len()), (&[10, 11, 12, 13][..], 6));
        assert!(s.slice(3, 7).is_none() && s.slice(4, 3).is_none() && s.slice(0, 6).is_some());
        assert!(s.clone().try_into_mut().is_err());
        drop(head);
        assert!(s.try_mut().is_some());
    }

    #[test]
    fn static_is_never_written() {
        let mut z = Buf::zeroes(4096);
        assert!(z.try_mut().is_none());
        assert_eq!(z.len(), 4096);
        assert!(Buf::empty().is_empty());
    }
}
