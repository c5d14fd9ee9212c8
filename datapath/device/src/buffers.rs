//! Page-aligned buffers for devices, in three sizes, from pools that are shared by the stores of a process.
//!
//! Bounded: when none is free the caller waits ([`Buffers::wait`]); that is back-pressure, not an error. Takes address
//! space when made and memory as it is used.

use caisson_block::{BufList, Parked, Pool, Remote};
use std::io;
use std::sync::{Arc, OnceLock};

/// The sizes.
const CLASSES: [usize; 3] = [4 << 10, 32 << 10, 128 << 10];

/// How many there are of each for a process: 64, 64 and 128 MiB.
const SHARED: [u32; 3] = [16384, 2048, 1024];

/// The most bytes that one request may hold, so that a few can always be served: an eighth of the largest class.
pub const MAX_REQUEST: usize = 16 << 20;

/// Pools of aligned buffers. Cloning shares them.
#[derive(Clone)]
pub struct Buffers {
    /// In the order of [`CLASSES`].
    pools: [Pool; 3],
}

impl Buffers {
    /// Pools of their own, with so many buffers of 4, 32 and 128 KiB.
    ///
    /// # Errors
    /// `InvalidInput` when there are to be none of a size; the system's, when the address space cannot be mapped.
    pub fn new(counts: [u32; 3]) -> io::Result<Buffers> {
        let [small, middle, large] = counts;
        Ok(Buffers {
            pools: [
                Pool::new(small, CLASSES[0])?,
                Pool::new(middle, CLASSES[1])?,
                Pool::new(large, CLASSES[2])?,
            ],
        })
    }

    /// The pools that the process shares.
    ///
    /// # Errors
    /// As [`Buffers::new`].
    pub fn shared() -> io::Result<Buffers> {
        static ALL: OnceLock<Buffers> = OnceLock::new();
        match ALL.get() {
            Some(buffers) => Ok(buffers.clone()),
            None => {
                let made = Buffers::new(SHARED)?;
                Ok(ALL
                    .get_or_init(|| {
                        made.pools.iter().for_each(Pool::offer);
                        made
                    })
                    .clone())
            }
        }
    }

    /// The most bytes that [`Buffers::take`] can ever give at once.
    pub fn largest(&self) -> usize {
        MAX_REQUEST.min(CLASSES[2] * self.pools[2].count() as usize / 2)
    }

    /// Unshared buffers of each of these lengths, each page-aligned and, but for the last of a list, a multiple of a page
    /// long; contents undefined. All or `None`.
    pub fn take<const N: usize>(&self, lens: [usize; N]) -> Option<[BufList; N]> {
        let needs = needs(lens);
        if needs.iter().zip(&self.pools).any(|(&n, pool)| pool.free() < n) {
            return None;
        }
        let mut lists = [const { BufList::new() }; N];
        for (list, len) in lists.iter_mut().zip(lens) {
            while list.len() < len {
                let left = len - list.len();
                let mut buf = self.pools[class(left)].alloc()?;
                buf.truncate(left);
                list.push(buf.freeze());
            }
        }
        Some(lists)
    }

    /// Has `who.woken(token)` called when it is worth trying [`Buffers::take`] again for the same lengths.
    pub fn wait<const N: usize>(
        &self,
        lens: [usize; N],
        remote: Arc<dyn Remote>,
        who: Arc<dyn Parked>,
        token: u64,
    ) {
        let needs = needs(lens);
        // Whichever is short; if none is any more, any will do to come back at once.
        let short = (0..CLASSES.len()).find(|&c| self.pools[c].free() < needs[c]);
        let at = short.unwrap_or(0);
        self.pools[at].wait(needs[at], remote, who, token);
        // It may have been woken for a class that is not short now, before others who have a use for it.
        (0..CLASSES.len()).filter(|&c| c != at).for_each(|c| self.pools[c].pass_on());
    }
}

/// The class of the next buffer for `left` bytes: the smallest that holds them, or the largest.
fn class(left: usize) -> usize {
    CLASSES.iter().position(|&size| size >= left).unwrap_or(CLASSES.len() - 1)
}

/// How many buffers of each class these lengths take.
fn needs<const N: usize>(lens: [usize; N]) -> [u32; 3] {
    let mut needs = [0; 3];
    for len in lens {
        let (whole, rest) = (len / CLASSES[2], len % CLASSES[2]);
        needs[2] += whole as u32;
        if rest > 0 {
            needs[class(rest)] += 1;
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_bounded_and_whole() {
        let b = Buffers::new([256, 32, 16]).unwrap();
        for len in [512, 4096, 5000, 32 << 10, 100_000, 1 << 20] {
            let [list] = b.take([len]).unwrap();
            assert_eq!(list.len(), len);
            assert!(list.parts().iter().all(|p| p.as_ptr().addr().is_multiple_of(4096)));
            assert!(list.parts().split_last().unwrap().1.iter().all(|p| p.len().is_multiple_of(4096)));
        }
        let all: Vec<_> = std::iter::from_fn(|| b.take([4096])).collect();
        assert!(all.len() == 256 && b.take([1]).is_none() && b.take([100_000, 1]).is_none());
        drop(all);
        assert!(b.take([b.largest(), 1]).is_some());
        assert!(b.take([b.largest(), b.largest(), b.largest()]).is_none());
        assert!(b.pools.iter().all(|p| p.in_use() == 0));
    }
}
