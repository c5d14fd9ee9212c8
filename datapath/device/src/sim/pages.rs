//! Sparse contents: 4 KiB pages in a map, absent ones are zero.
//!
//! Owns the bytes and nothing else: no time, no faults. Memory goes with what is not zero.

use std::collections::HashMap;

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// A page's bytes.
pub(super) type Page = Box<[u8; PAGE]>;

#[derive(Clone, Default)]
pub(super) struct Pages(HashMap<u64, Page>);

/// The parts of the bytes `at..at + len`, by page: page number, offset in it, length.
fn parts(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at + done as u64;
        let offset = (here % PAGE as u64) as usize;
        let n = (PAGE - offset).min(len - done);
        done += n;
        (n > 0).then_some((here / PAGE as u64, offset, n))
    })
}

impl Pages {
    /// Fills `to` with the bytes from `at` on.
    pub(super) fn read(&self, at: u64, to: &mut [u8]) {
        let mut done = 0;
        for (page, offset, n) in parts(at, to.len()) {
            match self.0.get(&page) {
                Some(bytes) => to[done..done + n].copy_from_slice(&bytes[offset..offset + n]),
                None => to[done..done + n].fill(0),
            }
            done += n;
        }
    }

    /// Puts `bytes` at `at`.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        for (page, offset, n) in parts(at, bytes.len()) {
            let into = self.0.entry(page).or_insert_with(|| Box::new([0; PAGE]));
            into[offset..offset + n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
    }

    /// Makes `len` bytes from `at` on zero, giving whole pages back.
    pub(super) fn zero(&mut self, at: u64, len: usize) {
        for (page, offset, n) in parts(at, len) {
            if n == PAGE {
                self.0.remove(&page);
            } else if let Some(bytes) = self.0.get_mut(&page) {
                bytes[offset..offset + n].fill(0);
            }
        }
    }

    /// A page that is there.
    pub(super) fn page(&self, page: u64) -> Option<&[u8; PAGE]> {
        self.0.get(&page).map(|p| &**p)
    }

    /// The numbers of the pages that are there, in order.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.0.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// How many are there.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_pages_are_an_array() {
        let mut pages = Pages::default();
        let mut model = vec![0u8; 5 * PAGE];
        let mut rng = super::super::Rng::new(1);
        for i in 0..500u64 {
            let at = rng.below(4 * PAGE as u64) as usize;
            let len = 1 + rng.below(PAGE as u64 - 1) as usize;
            if rng.below(3) == 0 {
                let (at, len) = if rng.below(2) == 0 { (at / PAGE * PAGE, PAGE) } else { (at, len) };
                model[at..at + len].fill(0);
                pages.zero(at as u64, len);
            } else {
                model[at..at + len].fill(i as u8);
                pages.write(at as u64, &vec![i as u8; len]);
            }
            let mut all = vec![1; model.len()];
            pages.read(0, &mut all);
            assert!(all == model);
        }
        pages.zero(0, 5 * PAGE);
        assert_eq!(pages.count(), 0);
    }
}
