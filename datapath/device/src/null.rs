//! A store that forgets: for measuring everything but the store.

use crate::memory::Memory;
use caisson_block::{BlockError, Buf, BufList, Reader};
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes writes and forgets them; reads as one byte over and over.
pub struct NullStore {
    size: AtomicU64,
    /// What reads share: the byte, 64 KiB times.
    fill: Buf,
}

/// Length of [`NullStore::fill`].
const FILL: usize = 65536;

impl NullStore {
    /// `size` bytes that read as zeroes.
    pub fn new(size: u64) -> NullStore {
        NullStore { size: AtomicU64::new(size), fill: Buf::zeroes(FILL) }
    }

    /// `size` bytes that all read as `byte`.
    pub fn filled_with(size: u64, byte: u8) -> NullStore {
        NullStore { size: AtomicU64::new(size), fill: Buf::from(vec![byte; FILL]) }
    }
}

impl Memory for NullStore {
    const AT_ONCE: u64 = u64::MAX;

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn resize(&self, size: u64) -> std::io::Result<()> {
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn read(&self, _at: u64, len: usize, into: &mut BufList) {
        let mut left = len;
        while left > 0 {
            let mut part = self.fill.clone();
            part.truncate(left);
            left -= part.len();
            into.push(part);
        }
    }

    fn write(&self, _at: u64, _data: &BufList, _scratch: &mut BufList) -> Result<(), BlockError> {
        Ok(())
    }

    fn prepare(
        &self,
        _at: u64,
        _len: usize,
        _data: &mut Reader<'_>,
        _pages: &mut BufList,
    ) -> Result<bool, BlockError> {
        Ok(true)
    }

    fn publish(&self, _at: u64, _len: usize, _pages: &mut BufList) {}

    fn publish_if(&self, at: u64, expect: &BufList, _pages: &mut BufList) -> Option<u64> {
        self.compare(at, expect)
    }

    fn zero_some(&self, _at: u64, len: u64) -> Result<u64, BlockError> {
        Ok(len)
    }

    fn compare(&self, _at: u64, with: &BufList) -> Option<u64> {
        let mut reader = with.reader();
        let mut done = 0;
        loop {
            let bytes = reader.take(FILL);
            if bytes.is_empty() {
                return None;
            }
            if let Some(at) = bytes.iter().zip(&self.fill[..]).position(|(a, b)| a != b) {
                return Some(done + at as u64);
            }
            done += bytes.len() as u64;
        }
    }

    fn compare_and_write(
        &self,
        at: u64,
        expect: &BufList,
        _data: &BufList,
        _scratch: &mut BufList,
    ) -> Result<Option<u64>, BlockError> {
        Ok(self.compare(at, expect))
    }

    fn allocated(&self) -> u64 {
        0
    }

    fn deallocates(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_was_filled_with() {
        let n = NullStore::filled_with(1 << 40, 7);
        let mut l = BufList::new();
        n.read(5, 200_000, &mut l);
        assert_eq!((l.len(), l.parts().len()), (200_000, 4));
        assert!(l.to_vec().iter().all(|&b| b == 7));
        assert_eq!(n.compare(0, &l), None);
        let mut other = vec![7; 100_000];
        other[70_000] = 8;
        assert_eq!(n.compare(0, &other.into()), Some(70_000));
    }
}
