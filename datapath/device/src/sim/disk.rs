//! A simulated disk: its contents, what of them is durable, and what goes wrong with it.
//!
//! Owns the contents and the choices of its faults. Operations are started and advanced by the [ring](super::ring).

use super::Rng;
use super::lies::Lies;
use super::pages::{PAGE, Page, Pages};
use super::versions::Versions;
use crate::open::Alignment;
use caisson_block::{IoKind, IoOp};
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What goes wrong and is reported, in cases of 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// An operation moves less than asked for.
    pub short: u64,
    /// An operation is told EINTR.
    pub again: u64,
    /// The ring hands an operation back.
    pub full: u64,
    /// A write ends with ENOSPC, partly done.
    pub no_space: u64,
    /// From the operation of this number on, all fail with EIO.
    pub dies_at: Option<u64>,
}

/// Which parts of a write are kept: byte ranges relative to its beginning, in order. The rest is forgotten and reads as
/// zeroes. For pools that are larger than memory, whose payload nobody reads.
pub type Keep = Box<dyn FnMut(u64, &[u8]) -> Vec<Range<usize>> + Send>;

/// What a [`Watch`] is told.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A write was submitted: byte offset and bytes, before any fault.
    Write(u64, &'a [u8]),
    /// A sync has ended well, or was said to.
    Synced,
    /// So many bytes from an offset on are to become zero.
    Zero(u64, u64),
    /// The power failed, or the process was killed.
    Crashed,
}

/// Sees everything that is submitted to a disk.
pub type Watch = Box<dyn FnMut(Event<'_>) + Send>;

/// The contents of a disk at one time, to be put back later.
#[derive(Clone)]
pub struct Image(Pages);

/// A simulated disk, shared by the rings of all simulated threads.
pub struct SimDisk {
    pub(super) file: Arc<OwnedFd>,
    size: AtomicU64,
    /// Bytes that are written whole or not at all.
    pub(super) sector: usize,
    align: Alignment,
    pub(super) punches: bool,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) lies: Lies,
    /// Lies told so far.
    pub(super) lied: u64,
    /// What a read sees.
    pages: Pages,
    versions: Versions,
    pub(super) time: u64,
    pub(super) operations: u64,
    keep: Option<Keep>,
    pub(super) watch: Option<Watch>,
    /// Contents that pages had once, and how many are kept at most.
    old: VecDeque<(u64, Page)>,
    remember: usize,
}

impl SimDisk {
    /// A disk of `size` bytes, all zero.
    ///
    /// # Panics
    /// When `size` is not a multiple of `sector`, or the system gives no descriptor to stand for the disk.
    pub fn new(
        seed: u64,
        size: u64,
        sector: usize,
        align: Alignment,
        punches: bool,
        faults: Faults,
    ) -> Arc<SimDisk> {
        assert!(size.is_multiple_of(sector as u64));
        // A file in memory that is as long as the disk and takes no writes: whoever asks the system for the size gets it.
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let file =
            rustix::fs::memfd_create("simulated disk", flags).expect("a simulation needs a descriptor");
        rustix::fs::ftruncate(&file, size).expect("a sparse file can be long");
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE).expect("a new file can be sealed");
        Arc::new(SimDisk {
            file: Arc::new(file),
            size: AtomicU64::new(size),
            sector,
            align,
            punches,
            state: Mutex::new(State {
                rng: Rng::new(seed),
                faults,
                lies: Lies::default(),
                lied: 0,
                pages: Pages::default(),
                versions: Versions::default(),
                time: 0,
                operations: 0,
                keep: None,
                watch: None,
                old: VecDeque::new(),
                remember: 0,
            }),
        })
    }

    /// A disk that keeps only what `keep` says of each write, and fails in no way.
    ///
    /// # Panics
    /// As [`SimDisk::new`].
    pub fn synthetic(size: u64, align: Alignment, keep: Keep) -> Arc<SimDisk> {
        let disk = SimDisk::new(0, size, PAGE, align, true, Faults::default());
        disk.lock().keep = Some(keep);
        disk
    }

    /// A store over this disk.
    pub fn store(&self) -> Arc<crate::FileStore> {
        crate::FileStore::over(Arc::clone(&self.file), self.size(), self.align, self.punches)
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Makes it `size` bytes long, which is not less than it is. A store over it learns of that when it asks.
    ///
    /// # Panics
    /// When it would become smaller.
    pub fn grow(&self, size: u64) {
        assert!(size >= self.size() && size.is_multiple_of(self.sector as u64));
        rustix::fs::ftruncate(&*self.file, size).expect("a sparse file can be long");
        self.size.store(size, Ordering::Relaxed);
    }

    /// The power fails: of each sector some version since its last durable one is left. Operations under way are to
    /// be dropped with their rings.
    pub fn crash(&self) {
        let state = &mut *self.lock();
        state.versions.crash(&mut state.pages, self.sector, &mut state.rng, state.time);
        state.tell(Event::Crashed);
    }

    /// The process is killed: what the device has taken stays, durable or not. Operations under way are to be dropped
    /// with their rings; those that are between the kernel and the device are done as far as they came.
    pub fn kill(&self) {
        self.lock().tell(Event::Crashed);
    }

    /// All of it, as it is seen now.
    pub fn contents(&self) -> Vec<u8> {
        self.peek(0, self.size() as usize)
    }

    /// `len` bytes from `at` on, as they are seen now.
    ///
    /// # Panics
    /// When they lie outside the disk.
    pub fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        assert!(at + len as u64 <= self.size());
        let mut bytes = vec![0; len];
        self.lock().pages.read(at, &mut bytes);
        bytes
    }

    /// Puts `bytes` at `at`, durably and past all faults. Whatever else was written to these sectors is durable too.
    ///
    /// # Panics
    /// When they lie outside the disk.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        assert!(at + bytes.len() as u64 <= self.size());
        let mut state = self.lock();
        state.pages.write(at, bytes);
        let size = self.sector as u64;
        state.versions.forget(at / size..(at + bytes.len() as u64).div_ceil(size));
    }

    /// The 4 KiB pages that hold anything, in order.
    pub fn written_pages(&self) -> Vec<u64> {
        self.lock().pages.numbers()
    }

    /// Bytes of memory that the contents take.
    pub fn memory(&self) -> usize {
        let state = self.lock();
        (state.pages.count() + state.old.len()) * PAGE + state.versions.count() * self.sector
    }

    /// The contents, to be put back later.
    pub fn image(&self) -> Image {
        Image(self.lock().pages.clone())
    }

    /// Puts contents back: everything written since is gone.
    pub fn restore(&self, image: &Image) {
        let mut state = self.lock();
        state.pages = image.0.clone();
        state.versions = Versions::default();
    }

    /// What goes wrong from now on and is reported. The operation that `dies_at` names is counted from the first ever.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// What goes wrong from now on and is not reported.
    pub fn set_lies(&self, lies: Lies) {
        self.lock().lies = lies;
    }

    /// How many lies were told.
    pub fn lied(&self) -> u64 {
        self.lock().lied
    }

    /// Operations submitted so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Has `watch` see everything that is submitted.
    pub fn set_watch(&self, watch: Watch) {
        self.lock().watch = Some(watch);
    }

    /// Remembers up to `most` former contents of pages, for [`super::Damage::Stale`].
    pub fn remember(&self, most: usize) {
        self.lock().remember = most;
    }

    /// How many former contents are remembered.
    pub fn remembered(&self) -> usize {
        self.lock().old.len()
    }

    pub(super) fn old(&self, index: usize) -> Option<(u64, Page)> {
        self.lock().old.get(index).cloned()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether O_DIRECT would take it.
    pub(super) fn aligned(&self, op: &IoOp) -> bool {
        let unit = u64::from(self.align.offset);
        let len = match op.kind {
            IoKind::PunchHole { len } | IoKind::ZeroRange { len } => len,
            IoKind::Read | IoKind::Write { .. } => op.bufs.len() as u64,
            IoKind::Sync => 0,
        };
        op.offset.is_multiple_of(unit)
            && len.is_multiple_of(unit)
            && op.offset.saturating_add(len) <= self.size()
            && op.bufs.parts().iter().all(|p| {
                p.as_ptr().addr().is_multiple_of(self.align.memory as usize)
                    && p.len().is_multiple_of(self.align.offset as usize)
            })
    }
}

impl State {
    pub(super) fn tell(&mut self, event: Event<'_>) {
        if let Some(watch) = &mut self.watch {
            watch(event);
        }
    }

    pub(super) fn read(&self, at: u64, to: &mut [u8]) {
        self.pages.read(at, to);
    }

    /// Writes one sector; `None` is zeroes. On a disk that forgets, what it keeps is durable at once.
    pub(super) fn write(&mut self, sector: u64, size: usize, bytes: Option<&[u8]>) {
        let at = sector * size as u64;
        let State { pages, versions, .. } = self;
        if self.keep.is_none() {
            self.time += 1;
            let before = || {
                let mut bytes = vec![0; size].into_boxed_slice();
                pages.read(at, &mut bytes);
                Some(bytes)
            };
            versions.push(sector, self.time, before, bytes.map(Box::from));
        }
        match bytes {
            Some(bytes) => pages.write(at, bytes),
            None => pages.zero(at, size),
        }
    }

    /// Which bytes of a write are kept; `None` for all.
    pub(super) fn kept(&mut self, at: u64, bytes: &[u8]) -> Option<Vec<Range<usize>>> {
        self.keep.as_mut().map(|keep| keep(at, bytes))
    }

    /// Remembers what stands in these bytes before they are replaced.
    pub(super) fn recall(&mut self, at: u64, len: u64) {
        if self.remember == 0 {
            return;
        }
        for page in at / PAGE as u64..(at + len).div_ceil(PAGE as u64) {
            let Some(bytes) = self.pages.page(page) else { continue };
            if self.old.len() >= self.remember {
                self.old.pop_front();
            }
            self.old.push_back((page, Box::new(*bytes)));
        }
    }

    /// Makes what was written to `sectors` up to `time` durable.
    pub(super) fn sync(&mut self, sectors: Range<u64>, time: u64) {
        self.versions.sync(sectors, time);
    }
}
