//! What stores that answer at once have in common: no device, no waiting, no claim.
//!
//! A [`Memory`] store keeps each call atomic against every other call on it, so the volume over it needs no ordering of
//! its own. Addresses are bytes; the caller has checked that they lie inside the store. What takes long, copying a large
//! write above all, can be had in steps of a few microseconds; what becomes visible still does so as a whole.

use caisson_block::{BlockError, BufList, Reader};

/// A store that answers at once, from any thread.
pub trait Memory: Send + Sync + 'static {
    /// Requests of no more bytes take no longer than others on the thread may wait; larger ones are to be divided.
    const AT_ONCE: u64;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Makes it `size` bytes long. What is cut off is gone; what is added reads as zeroes.
    ///
    /// # Errors
    /// The system's, when memory cannot be had.
    fn resize(&self, size: u64) -> std::io::Result<()>;

    /// Puts the `len` bytes from `at` on at the end of `into`, shared where that is possible.
    fn read(&self, at: u64, len: usize, into: &mut BufList);

    /// Writes `data` at `at`. `scratch` is an empty list whose capacity may be used.
    ///
    /// # Errors
    /// [`BlockError::Interrupted`] when no memory is free now; nothing is written then.
    fn write(&self, at: u64, data: &BufList, scratch: &mut BufList) -> Result<(), BlockError>;

    /// A step of a write in two parts, of `len` bytes at `at`: puts more of them from `data` into memory of their own, at the end
    /// of `pages`, which is empty at first. Says whether that was the last. Nothing is written before [`Memory::publish`].
    ///
    /// # Errors
    /// As [`Memory::write`].
    fn prepare(
        &self,
        at: u64,
        len: usize,
        data: &mut Reader<'_>,
        pages: &mut BufList,
    ) -> Result<bool, BlockError>;

    /// The second part: what was prepared for `len` bytes at `at` is written, whole; `pages` then holds what stood there.
    fn publish(&self, at: u64, len: usize, pages: &mut BufList);

    /// The same, if what is there equals `expect`; otherwise says where it first differs, and writes nothing.
    fn publish_if(&self, at: u64, expect: &BufList, pages: &mut BufList) -> Option<u64>;

    /// Makes the first of the `len` bytes from `at` on read as zeroes and gives their memory back, as many as are done in a
    /// few microseconds, and says how many: one at least. Atomic page by page.
    ///
    /// # Errors
    /// [`BlockError::Interrupted`] when a part of a page must be kept and no memory is free for it now.
    fn zero_some(&self, at: u64, len: u64) -> Result<u64, BlockError>;

    /// All of them.
    ///
    /// # Errors
    /// As [`Memory::zero_some`].
    fn zero(&self, at: u64, len: u64) -> Result<(), BlockError> {
        let mut done = 0;
        while done < len {
            done += self.zero_some(at + done, len - done)?;
        }
        Ok(())
    }

    /// Where the bytes from `at` on first differ from `with`.
    fn compare(&self, at: u64, with: &BufList) -> Option<u64>;

    /// Writes `data` at `at` if what is there equals `expect`; otherwise says where it first differs.
    ///
    /// # Errors
    /// As [`Memory::write`].
    fn compare_and_write(
        &self,
        at: u64,
        expect: &BufList,
        data: &BufList,
        scratch: &mut BufList,
    ) -> Result<Option<u64>, BlockError>;

    /// Bytes of memory that hold data.
    fn allocated(&self) -> u64;

    /// Whether what is deallocated gives its memory back and then reads as zeroes.
    fn deallocates(&self) -> bool;
}
