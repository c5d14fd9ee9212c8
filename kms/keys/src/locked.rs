//! Memory for secrets: locked, so that it is never swapped out, left out of core dumps and of forked processes, and erased before it
//! is used again.
//!
//! Owns a few mapped regions of its own, which are given out in cells and never given back to the system, and whether the system
//! locked them. It must never hand out a cell twice, nor one that was not erased.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};
use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroize;

/// Bytes of a region: what all pools of a target need, and well within the 8 MiB that a service may lock by default.
const REGION: usize = 64 << 10;

/// Bytes of a cell. A secret has as many as it takes, side by side.
const CELL: usize = 64;

/// Whether the memory of secrets is locked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockedMemory {
    /// Bytes that are.
    pub locked: usize,
    /// Bytes that the system did not lock.
    pub open: usize,
    /// What the system said then.
    pub cause: Option<String>,
}

struct Region {
    start: NonNull<u8>,
    /// Whether each cell is in use.
    used: Vec<bool>,
}

/// The regions of the process, and what became of locking them.
struct Arena {
    regions: Vec<Region>,
    state: LockedMemory,
}

// SAFETY: a region is memory of the process that lives as long as it; who may touch which cell is known under the lock.
unsafe impl Send for Arena {}

static ARENA: Mutex<Arena> =
    Mutex::new(Arena { regions: Vec::new(), state: LockedMemory { locked: 0, open: 0, cause: None } });

/// How the memory of secrets is. The first call makes some, so that it is known before there is a secret.
pub fn locked_memory() -> LockedMemory {
    let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
    if arena.regions.is_empty() {
        arena.map(REGION);
    }
    arena.state.clone()
}

impl Arena {
    /// Maps another region of at least `len` bytes.
    fn map(&mut self, len: usize) {
        let len = len.next_multiple_of(REGION);
        // SAFETY: an anonymous mapping at an address that the kernel chooses overlaps nothing.
        let mapped = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let start = mapped.ok().and_then(|p| NonNull::new(p.cast::<u8>()));
        let start = start.unwrap_or_else(|| handle_alloc_error(Layout::new::<[u8; REGION]>()));
        // SAFETY: the range is the mapping that was just made, and none of these calls changes its contents, which nobody has yet.
        let locked = unsafe {
            // Where the system does not know one of these, the others hold.
            let _ = madvise(start.as_ptr().cast(), len, Advice::LinuxDontDump);
            let _ = madvise(start.as_ptr().cast(), len, Advice::LinuxDontFork);
            mlock(start.as_ptr().cast(), len)
        };
        match locked {
            Ok(()) => self.state.locked += len,
            Err(e) => {
                self.state.open += len;
                self.state.cause = Some(e.to_string());
            }
        }
        self.regions.push(Region { start, used: vec![false; len / CELL] });
    }

    /// The start of `cells` free cells side by side, which are in use from here on.
    fn take(&mut self, cells: usize) -> NonNull<u8> {
        loop {
            for region in &mut self.regions {
                let mut free = 0;
                for at in 0..region.used.len() {
                    free = if region.used[at] { 0 } else { free + 1 };
                    if free == cells {
                        let first = at + 1 - cells;
                        region.used[first..=at].fill(true);
                        // SAFETY: `first` is a cell of this region, so the address is within its mapping.
                        return unsafe { region.start.add(first * CELL) };
                    }
                }
            }
            self.map(cells * CELL);
        }
    }

    fn give_back(&mut self, start: NonNull<u8>, cells: usize) {
        let address = start.as_ptr().addr();
        let own = |r: &&mut Region| {
            let first = r.start.as_ptr().addr();
            (first..first + r.used.len() * CELL).contains(&address)
        };
        if let Some(region) = self.regions.iter_mut().find(own) {
            let first = (address - region.start.as_ptr().addr()) / CELL;
            region.used[first..first + cells].fill(false);
        }
    }
}

/// Bytes in such memory: zeroes at first, and erased when dropped.
pub struct Bytes {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the cells belong to this value alone, as those of a boxed slice do.
unsafe impl Send for Bytes {}
// SAFETY: a shared reference to it gives shared references to bytes, and nothing else.
unsafe impl Sync for Bytes {}

fn cells(len: usize) -> usize {
    len.div_ceil(CELL).max(1)
}

impl Bytes {
    /// `len` zeroes.
    pub fn zeroes(len: usize) -> Bytes {
        let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
        Bytes { start: arena.take(cells(len)), len }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from here on are cells of a mapping that is never given back, initialised (the kernel gives zeroes),
        // and used by this value alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; and the exclusive reference to this value is the only one to its cells.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        (**self).zeroize();
        let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
        arena.give_back(self.start, cells(self.len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_given_out_twice_and_each_comes_erased() {
        let mut held: Vec<(u8, Bytes)> = Vec::new();
        // Lengths around a cell, and more in all than one region has.
        for round in 0..6u32 {
            for n in 0..200u32 {
                let len = [0, 1, 32, 63, 64, 65, 128, 1400][(n % 8) as usize];
                let mut bytes = Bytes::zeroes(len);
                assert!(bytes.iter().all(|b| *b == 0), "erased");
                let mark = (round * 200 + n) as u8 | 1;
                bytes.fill(mark);
                held.push((mark, bytes));
            }
            let mut n = 0;
            held.retain(|_| {
                n += 1;
                n % 3 != 0
            });
            assert!(held.iter().all(|(mark, b)| b.iter().all(|x| x == mark)), "nobody else wrote there");
        }
        let mut large = Bytes::zeroes(3 * REGION + 1);
        large.fill(7);
        assert!(large.iter().all(|b| *b == 7));
        let state = locked_memory();
        assert!(state.locked + state.open >= 4 * REGION, "{state:?}");
        assert_eq!(state.cause.is_some(), state.open > 0);
    }

    /// What the kernel says of the mapping: locked (as far as it was), left out of dumps, and of children.
    #[test]
    fn the_kernel_knows_it_is_locked_and_not_dumped() {
        let bytes = Bytes::zeroes(32);
        let address = bytes.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let mut flags = None;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|r| r.split_once('-'));
            let ends = range.and_then(|(a, b)| {
                Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?))
            });
            if let Some((first, end)) = ends {
                inside = (first..end).contains(&address);
            } else if inside && line.starts_with("VmFlags:") {
                flags = Some(line.to_string());
            }
        }
        let flags = flags.expect("the mapping is listed");
        let has = |f: &str| flags.split_whitespace().any(|x| x == f);
        assert!(has("dd") && has("dc"), "{flags}");
        assert!(has("lo") || locked_memory().open > 0, "{flags}");
    }
}
