//! The memory of a pool: one anonymous mapping, of huge pages where there are some, and what the system is told about it.
//!
//! Owns the mapping. Memory that is touched for the first time is cleared by the system there and then, on the thread that touches
//! it; a huge page is 2 MiB, which takes from 0.1 ms to several. Where that thread serves others, the mapping is made of usual
//! pages at first ([`How::Ahead`]), and another thread makes huge ones of what comes next ([`Mapping::make_ready`]).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From this size on, a pool asks for transparent huge pages.
const HUGE: usize = 4 << 20;
/// The size of a huge page, of those that the system may have set aside as well.
const HUGE_PAGE: usize = 2 << 20;
/// Advice is given for multiples of this, which are multiples of a page on every machine.
const LARGEST_PAGE: usize = 64 << 10;
/// So many bytes are made ready ahead of those in use.
const AHEAD: usize = 4 * HUGE_PAGE;

/// What a pool's memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages of those that the system has set aside.
    Reserved,
    /// Huge pages where the system finds some.
    Transparent,
    /// Pages of the usual size.
    Usual,
}

impl Pages {
    /// All of them.
    pub const ALL: [Pages; 3] = [Pages::Reserved, Pages::Transparent, Pages::Usual];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Pages::Reserved => "huge",
            Pages::Transparent => "transparent",
            Pages::Usual => "usual",
        }
    }
}

/// Has the system put huge pages there, where it has some to give: fewer misses of the TLB, and nothing reserved. Best effort, and
/// nothing for pieces that are not large. The memory should not have been touched yet.
pub fn prefer_huge(memory: *const u8, bytes: usize) {
    let from = memory.addr().next_multiple_of(LARGEST_PAGE);
    let len = memory.addr().saturating_add(bytes).saturating_sub(from) / LARGEST_PAGE * LARGEST_PAGE;
    if len >= HUGE {
        // SAFETY: whatever is or is not mapped there: this advice changes no contents and no access, and the system refuses
        // addresses that are not this process's.
        unsafe { libc::madvise(memory.with_addr(from).cast_mut().cast(), len, libc::MADV_HUGEPAGE) };
    }
}

/// Which pages a mapping asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Transparent huge pages, as they are touched.
    Transparent,
    /// Those that the system has set aside, where it has enough of them.
    Reserved,
    /// Transparent huge pages where [`Mapping::make_ready`] came before the first touch, and usual ones elsewhere.
    Ahead,
}

pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    pages: Pages,
    /// Up to here nothing is left to be made ready.
    ready: AtomicUsize,
}

// SAFETY: the mapping is this value's own, and nothing here reads or writes what is in it; the rest is an atomic and immutable.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A mapping of at least `bytes` bytes of zeroes.
    ///
    /// # Errors
    /// The system's when the address space cannot be had.
    pub(crate) fn new(bytes: usize, how: How) -> io::Result<Mapping> {
        let (memory, bytes, pages) = match (how == How::Reserved).then(|| map_huge(bytes)).flatten() {
            Some((memory, whole)) => (memory, whole, Pages::Reserved),
            None => {
                let memory = map(bytes, libc::MAP_NORESERVE)?;
                let advice = if how == How::Ahead { libc::MADV_NOHUGEPAGE } else { libc::MADV_HUGEPAGE };
                // SAFETY: all of the mapping that was just made, and advice changes none of its contents.
                let told = bytes >= HUGE && unsafe { libc::madvise(memory, bytes, advice) } == 0;
                (memory, bytes, if told { Pages::Transparent } else { Pages::Usual })
            }
        };
        let base = NonNull::new(memory.cast::<u8>()).ok_or(io::ErrorKind::InvalidInput)?;
        let ahead = how == How::Ahead && pages == Pages::Transparent;
        let ready = AtomicUsize::new(if ahead { 0 } else { usize::MAX });
        Ok(Mapping { base, bytes, pages, ready })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    /// Whether something should be made ready, where `used` of the first `all` bytes were in use at some time.
    pub(crate) fn lags(&self, used: usize, all: usize) -> bool {
        let ready = self.ready.load(Ordering::Relaxed);
        ready < all && used + AHEAD > ready
    }

    /// Has the system put the next huge page there and clear it, which may take long; for a thread that serves nobody, one at a
    /// time. Contents stay as they are. Says whether more should be made ready.
    pub(crate) fn make_ready(&self, used: usize, all: usize) -> bool {
        if !self.lags(used, all) {
            return false;
        }
        let whole = |offset: usize| {
            (self.base.addr().get() + offset).next_multiple_of(HUGE_PAGE) - self.base.addr().get()
        };
        let ready = self.ready.load(Ordering::Relaxed);
        // What was overtaken is there in usual pages; the system may make huge ones of them later.
        let from = ready.max(whole(used));
        if from >= all {
            self.ready.store(usize::MAX, Ordering::Relaxed);
            return false;
        }
        let to = whole(from + 1).min(self.bytes);
        let told =
            self.advise(ready, to, libc::MADV_HUGEPAGE) && self.advise(from, to, libc::MADV_POPULATE_WRITE);
        // A system that does not do that (before Linux 5.14), or has no memory, is not asked again.
        self.ready.store(if told { to } else { usize::MAX }, Ordering::Relaxed);
        self.lags(used, all)
    }

    /// Has huge pages come as memory is touched, from what is not ready on: somebody touches all of it at once.
    pub(crate) fn settle(&self) {
        let ready = self.ready.swap(usize::MAX, Ordering::Relaxed);
        if ready < self.bytes {
            self.advise(ready, self.bytes, libc::MADV_HUGEPAGE);
        }
    }

    /// Whether the system took advice that changes no contents, about the whole pages of `from..to`.
    fn advise(&self, from: usize, to: usize, advice: libc::c_int) -> bool {
        debug_assert!(from <= to && to <= self.bytes);
        // SAFETY: inside the mapping; both kinds of advice that are given here leave its contents as they are.
        unsafe { libc::madvise(self.base.add(from).as_ptr().cast(), to - from, advice) == 0 }
    }

    /// Gives memory back to the system. It reads as zeroes afterwards.
    ///
    /// # Safety
    /// `at..at + len` lies inside the mapping, on page bounds, and nobody reads or writes there meanwhile.
    pub(crate) unsafe fn give_back(&self, at: usize, len: usize) {
        debug_assert!(at + len <= self.bytes);
        // SAFETY: the caller's promise. Private anonymous memory reads as zeroes afterwards, which is initialised memory.
        unsafe { libc::madvise(self.base.add(at).as_ptr().cast(), len, libc::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and so is who used it: it goes with the last of them.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A mapping of `bytes` bytes of zeroes.
fn map(bytes: usize, flags: libc::c_int) -> io::Result<*mut libc::c_void> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a fresh anonymous private mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base) }
}

/// The same of huge pages, and how many bytes that came to; none where they would be mostly empty, or the system has too few. They
/// are set aside for the mapping at once: without that (`MAP_NORESERVE`), touching one that is not there would end the process.
fn map_huge(bytes: usize) -> Option<(*mut libc::c_void, usize)> {
    let whole = bytes.checked_next_multiple_of(HUGE_PAGE).filter(|_| bytes >= HUGE)?;
    Some((map(whole, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).ok()?, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of 4 KiB of the first `bytes` that are in memory.
    fn resident(m: &Mapping, bytes: usize) -> usize {
        resident_from(m, 0, bytes)
    }

    fn resident_from(m: &Mapping, from: usize, bytes: usize) -> usize {
        assert!(from + bytes <= m.bytes);
        let mut there = vec![0_u8; bytes / 4096];
        // SAFETY: the range lies inside the mapping, and there is a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(m.base.add(from).as_ptr().cast(), bytes, there.as_mut_ptr()) }, 0);
        there.iter().filter(|b| **b & 1 != 0).count()
    }

    fn touch(m: &Mapping, at: usize) {
        assert!(at < m.bytes);
        // SAFETY: inside the mapping, which nobody else has.
        unsafe { m.base.add(at).write_volatile(1) };
    }

    #[test]
    fn what_is_not_ready_comes_a_page_at_a_time() {
        let all = 32 << 20;
        let m = Mapping::new(all, How::Ahead).unwrap();
        assert_eq!(m.pages(), Pages::Transparent);
        for page in 0..100 {
            touch(&m, page * 4096);
            assert_eq!(resident(&m, all), page + 1, "the thread that touched one had more to clear");
        }
        // From the next bound of a huge page on.
        let used = 100 * 4096;
        assert!(m.lags(used, all));
        while m.make_ready(used, all) {}
        let ready = m.ready.load(Ordering::Relaxed);
        assert!((used + AHEAD..used + AHEAD + 2 * HUGE_PAGE).contains(&ready), "{ready}");
        let there = resident(&m, all);
        assert!(there >= 100 + (AHEAD - HUGE_PAGE) / 4096 && there <= ready / 4096, "{there} pages");
        // SAFETY: inside the mapping; what was touched keeps its contents.
        assert_eq!(unsafe { (m.base.read_volatile(), m.base.add(ready - 1).read_volatile()) }, (1, 0));
        touch(&m, ready);
        assert_eq!(resident(&m, all), there + 1);
    }

    #[test]
    fn what_is_settled_comes_in_huge_pages() {
        let all = 16 << 20;
        let m = Mapping::new(all, How::Ahead).unwrap();
        touch(&m, 0);
        m.settle();
        assert!(!m.lags(0, all) && !m.make_ready(0, all), "nothing is left to be made ready");
        let huge = HUGE_PAGE - m.base.addr().get() % HUGE_PAGE;
        touch(&m, huge);
        let there = resident_from(&m, huge, HUGE_PAGE);
        // Where the system has no huge page to give, it gives a small one.
        let none = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
            .is_ok_and(|s| s.contains("[never]"));
        assert!(there == 512 || (none && there == 1), "{there} pages");
        m.settle();
    }

    #[test]
    fn it_ends_at_the_end_and_catches_up() {
        let all = 32 << 20;
        let m = Mapping::new(all + 12_345, How::Ahead).unwrap();
        // Nothing was made ready while all but 3 MiB came in use.
        let used = all - (3 << 20);
        let mut times = 1;
        while m.make_ready(used, all) {
            times += 1;
        }
        assert!(times <= 3, "{times} huge pages for 3 MiB");
        assert!(!m.lags(all, all) && !m.make_ready(all, all));
        assert_eq!(resident_from(&m, all - 4096, 4096), 1, "the last page is ready");
        assert!(resident(&m, all) * 4096 <= (3 << 20) + HUGE_PAGE, "what was overtaken is left alone");
        let small = Mapping::new(1 << 20, How::Ahead).unwrap();
        assert!(small.pages() == Pages::Usual && !small.lags(1 << 20, 1 << 20));
        let other = Mapping::new(all, How::Transparent).unwrap();
        assert!(!other.lags(0, all), "its pages come as they are touched");
    }
}
