//! Receive buffers lent to the kernel through a provided-buffer ring (io_uring_register(2), IORING_REGISTER_PBUF_RING).
//!
//! Owns the ring's memory and the buffers in it. A buffer is the kernel's from [`BufRing::lend`] until a completion
//! names it; then it is ours, and a fresh one of the pool takes its place.

use super::driver::{RX_BUF, RX_LENT, RX_TOTAL};
use caisson_block::{Buf, BufMut, Pool};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The buffer group that every receive of the thread names.
pub(crate) const GROUP: u16 = 1;

pub(crate) struct BufRing {
    base: NonNull<BufRingEntry>,
    mapped: usize,
    tail: u16,
    /// What each buffer id stands for; `None` while it is not lent.
    lent: Vec<Option<BufMut>>,
    /// Buffer ids whose buffers could not be replaced yet.
    empty: Vec<u16>,
    pool: Pool,
}

impl BufRing {
    /// Registers a ring of buffers with `ring`.
    ///
    /// # Errors
    /// The system's error; EINVAL where the kernel is older than 5.19.
    pub(crate) fn new(ring: &IoUring) -> io::Result<BufRing> {
        let pool = Pool::new(RX_TOTAL, RX_BUF)?;
        let mapped = usize::from(RX_LENT) * size_of::<BufRingEntry>();
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(at.cast::<BufRingEntry>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut this = BufRing {
            base,
            mapped,
            tail: 0,
            lent: (0..RX_LENT).map(|_| None).collect(),
            empty: (0..RX_LENT).collect(),
            pool,
        };
        // SAFETY: the mapping is page-aligned, zeroed, has room for RX_LENT entries, and lives until this value is
        // dropped, which its owner does only after the io_uring itself is closed.
        unsafe { ring.submitter().register_buf_ring_with_flags(at as u64, RX_LENT, GROUP, 0)? };
        this.refill();
        Ok(this)
    }

    /// Lends fresh buffers in place of those that are gone, as far as the pool has any.
    pub(crate) fn refill(&mut self) {
        let mut changed = false;
        while let Some(&id) = self.empty.last() {
            let Some(mut buf) = self.pool.alloc() else { break };
            self.empty.pop();
            let slot = usize::from(self.tail & (RX_LENT - 1));
            // SAFETY: slot < RX_LENT, inside the mapping; the kernel does not read an entry before the tail is past it.
            let entry = unsafe { &mut *self.base.as_ptr().add(slot) };
            entry.set_addr(buf.as_mut_ptr() as u64);
            entry.set_len(RX_BUF as u32);
            entry.set_bid(id);
            self.lent[usize::from(id)] = Some(buf);
            self.tail = self.tail.wrapping_add(1);
            changed = true;
        }
        if changed {
            // SAFETY: the tail is inside the first entry of the mapping (its layout is the kernel's), and is only
            // written by us.
            let tail = unsafe { &*BufRingEntry::tail(self.base.as_ptr()).cast::<AtomicU16>() };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// The kernel has filled buffer `id` with `len` bytes and given it up.
    pub(crate) fn take(&mut self, id: u16, len: usize) -> Option<Buf> {
        let mut buf = self.lent.get_mut(usize::from(id))?.take()?;
        self.empty.push(id);
        buf.truncate(len);
        Some(buf.freeze())
    }

    /// A buffer for a receive outside the ring.
    pub(crate) fn spare(&self) -> Option<BufMut> {
        self.pool.alloc()
    }

    /// Whether sessions hold so many buffers that what comes now should be copied out.
    pub(crate) fn short(&self) -> bool {
        self.pool.in_use() > RX_TOTAL / 2 + u32::from(RX_LENT)
    }

    /// Whether the kernel has been lent nothing at all.
    pub(crate) fn dry(&self) -> bool {
        self.empty.len() == usize::from(RX_LENT)
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // SAFETY: ours, and the io_uring that knew of it is closed (see `new`).
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}
