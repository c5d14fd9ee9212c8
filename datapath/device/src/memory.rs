//! What stores that answer at once have in common: no device, no waiting, no claim.
//!
//! A [`Memory`] store keeps each call atomic against every other call on it, so the volume over it needs no ordering of
//! its own. Addresses are bytes; the caller has checked that they lie inside the store.

use caisson_block::{BlockError, BufList};

/// A store that answers at once, from any thread.
pub trait Memory: Send + Sync + 'static {
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

    /// Makes the `len` bytes from `at` on read as zeroes and gives their memory back. Atomic page by page.
    ///
    /// # Errors
    /// [`BlockError::Interrupted`] when a part of a page must be kept and no memory is free for it now.
    fn zero(&self, at: u64, len: u64) -> Result<(), BlockError>;

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
