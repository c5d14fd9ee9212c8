//! A simulated disk, rings and threads: one seed decides everything, so a failing run replays exactly.
//!
//! The fault model. A disk is an array of sectors of a chosen size, each written whole or not at all; nothing larger is
//! atomic: operations under way advance a few sectors at a time, in any interleaving, and end in any order. An operation
//! may move less than asked for, may be told EINTR before it began, and a ring may be full. A write may meet ENOSPC, after
//! a part of it was written; what is written of it then ends at a multiple of 4 KiB, as with file systems of such blocks. What was written since the last sync is lost, kept, or any mixture of both at a
//! crash, sector by sector; a sync covers what was written before it was submitted, and a synchronous write itself.
//! From a chosen operation on, everything fails with EIO. Misaligned offsets, lengths or buffers get EINVAL, as O_DIRECT
//! gives. Not modelled: corrupted, misdirected and phantom writes (the plain volume promises nothing against those).

use crate::open::Alignment;
use caisson_block::{BufList, Completions, Cx, IoKind, IoOp, Mono, Outcome, Parked, Remote, Ring, Tag};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A small generator of numbers that look random (xorshift64*).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// One for each seed; close seeds give unlike numbers.
    pub fn new(seed: u64) -> Rng {
        let mixed = (seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Rng((mixed ^ (mixed >> 29)) | 1)
    }

    /// 0 to `n` - 1; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % n.max(1)
    }

    /// True in `n` of 1000 cases.
    pub fn per_mille(&mut self, n: u64) -> bool {
        self.below(1000) < n
    }
}

/// What goes wrong, in cases of 1000.
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

/// A simulated disk, shared by the rings of all simulated threads.
pub struct SimDisk {
    file: Arc<OwnedFd>,
    size: u64,
    /// Bytes that are written whole or not at all.
    sector: usize,
    align: Alignment,
    punches: bool,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    faults: Faults,
    /// What a crash cannot take away.
    durable: Vec<u8>,
    /// What a read sees.
    current: Vec<u8>,
    /// Versions of sectors that were written since they were last durable, with the time of each, oldest first.
    unsynced: BTreeMap<u64, VecDeque<Version>>,
    time: u64,
    operations: u64,
}

/// Bytes of a block of the simulated file system.
const FILE_BLOCK: u64 = 4096;

/// When a sector was written, and what to it.
type Version = (u64, Box<[u8]>);

impl SimDisk {
    /// A disk of `size` bytes, all zero.
    ///
    /// # Panics
    /// When `size` is not a multiple of `sector`, or /dev/null cannot be opened to stand for the file.
    pub fn new(
        seed: u64,
        size: u64,
        sector: usize,
        align: Alignment,
        punches: bool,
        faults: Faults,
    ) -> Arc<SimDisk> {
        assert!(size.is_multiple_of(sector as u64));
        let file = File::open("/dev/null").expect("a simulation needs /dev/null");
        Arc::new(SimDisk {
            file: Arc::new(file.into()),
            size,
            sector,
            align,
            punches,
            state: Mutex::new(State {
                rng: Rng::new(seed),
                faults,
                durable: vec![0; size as usize],
                current: vec![0; size as usize],
                unsynced: BTreeMap::new(),
                time: 0,
                operations: 0,
            }),
        })
    }

    /// A store over this disk.
    pub fn store(&self) -> Arc<crate::FileStore> {
        crate::FileStore::over(Arc::clone(&self.file), self.size, self.align, self.punches)
    }

    /// The power fails: of each sector some version since its last durable one is left. Operations under way are to
    /// be dropped with their rings.
    pub fn crash(&self) {
        let mut state = self.lock();
        let unsynced = std::mem::take(&mut state.unsynced);
        for (sector, versions) in unsynced {
            let left = state.rng.below(versions.len() as u64 + 1) as usize;
            if left > 0 {
                let at = sector as usize * self.sector;
                state.durable[at..at + self.sector].copy_from_slice(&versions[left - 1].1);
            }
        }
        state.current = state.durable.clone();
    }

    /// All of it, as it is seen now.
    pub fn contents(&self) -> Vec<u8> {
        self.lock().current.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether O_DIRECT would take it.
    fn aligned(&self, op: &IoOp) -> bool {
        let unit = u64::from(self.align.offset);
        let len = match op.kind {
            IoKind::PunchHole { len } | IoKind::ZeroRange { len } => len,
            IoKind::Read | IoKind::Write { .. } => op.bufs.len() as u64,
            IoKind::Sync => 0,
        };
        op.offset.is_multiple_of(unit)
            && len.is_multiple_of(unit)
            && op.offset.saturating_add(len) <= self.size
            && op.bufs.parts().iter().all(|p| {
                p.as_ptr().addr().is_multiple_of(self.align.memory as usize)
                    && p.len().is_multiple_of(self.align.offset as usize)
            })
    }
}

impl State {
    fn write(&mut self, sector: u64, size: usize, bytes: &[u8]) {
        self.time += 1;
        let at = sector as usize * size;
        self.current[at..at + size].copy_from_slice(bytes);
        self.unsynced.entry(sector).or_default().push_back((self.time, bytes.into()));
    }

    /// Makes what was written to `sectors` up to `time` durable.
    fn sync(&mut self, sectors: std::ops::Range<u64>, time: u64, size: usize) {
        let State { unsynced, durable, .. } = self;
        for (&sector, versions) in unsynced.range_mut(sectors) {
            while versions.front().is_some_and(|v| v.0 <= time) {
                let Some((_, bytes)) = versions.pop_front() else { break };
                let at = sector as usize * size;
                durable[at..at + size].copy_from_slice(&bytes);
            }
        }
        unsynced.retain(|_, versions| !versions.is_empty());
    }
}

/// An operation under way.
struct Flight {
    op: IoOp,
    /// Bytes moved so far, and to be moved in all.
    done: usize,
    until: usize,
    /// How it ends then.
    end: Result<u32, i32>,
    /// When it was submitted.
    since: u64,
}

/// A simulated ring of one simulated thread.
pub struct SimRing {
    disk: Arc<SimDisk>,
    flights: Vec<Flight>,
}

impl Ring for SimRing {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        let mut state = self.disk.lock();
        let faults = state.faults;
        if state.rng.per_mille(faults.full) {
            return Err(op);
        }
        state.operations += 1;
        let len = match op.kind {
            IoKind::PunchHole { len } | IoKind::ZeroRange { len } => len as usize,
            _ => op.bufs.len(),
        };
        let sectors = |bytes: usize| bytes / self.disk.sector * self.disk.sector;
        // Where a write may break off: at a bound of the file system's blocks.
        let breaks = |bytes: usize| {
            let end = (op.offset + bytes as u64) / FILE_BLOCK * FILE_BLOCK;
            end.saturating_sub(op.offset) as usize
        };
        let writes = matches!(op.kind, IoKind::Write { .. });
        let moves = matches!(op.kind, IoKind::Read | IoKind::Write { .. });
        let (until, end) = if faults.dies_at.is_some_and(|n| state.operations >= n) {
            (sectors(state.rng.below(len as u64 + 1) as usize), Err(libc::EIO))
        } else if !self.disk.aligned(&op) {
            (0, Err(libc::EINVAL))
        } else if state.rng.per_mille(faults.again) {
            (0, Err(libc::EINTR))
        } else if writes && state.rng.per_mille(faults.no_space) {
            (breaks(state.rng.below(len as u64 + 1) as usize), Err(libc::ENOSPC))
        } else if matches!(op.kind, IoKind::PunchHole { .. }) && !self.disk.punches {
            (0, Err(libc::EOPNOTSUPP))
        } else if moves && state.rng.per_mille(faults.short) {
            let n = state.rng.below(len as u64) as usize;
            let n = match if writes { breaks(n) } else { sectors(n) } {
                0 => len,
                n => n,
            };
            (n, Ok(n as u32))
        } else {
            (len, Ok(if moves { len as u32 } else { 0 }))
        };
        let since = state.time;
        drop(state);
        self.flights.push(Flight { op, done: 0, until, end, since });
        Ok(())
    }
}

impl SimRing {
    /// Lets some operation under way go on a little. Gives it back when it is over.
    fn step(&mut self) -> Option<(IoOp, Result<u32, i32>)> {
        let disk = Arc::clone(&self.disk);
        let mut state = disk.lock();
        let at = state.rng.below(self.flights.len() as u64) as usize;
        let turns = 1 + state.rng.below(8);
        let flight = self.flights.get_mut(at)?;
        for _ in 0..turns {
            if flight.done >= flight.until {
                let flight = self.flights.swap_remove(at);
                flight.finish(&mut state, &disk);
                return Some((flight.op, flight.end));
            }
            flight.advance(&mut state, disk.sector);
        }
        None
    }
}

impl Flight {
    /// Moves one sector.
    fn advance(&mut self, state: &mut State, size: usize) {
        let byte = self.op.offset as usize + self.done;
        let sector = (byte / size) as u64;
        match self.op.kind {
            IoKind::Read => {
                let current = &state.current[byte..byte + size];
                put(&self.op.bufs, self.done, current);
            }
            IoKind::Write { .. } => {
                let mut bytes = vec![0; size];
                self.op.bufs.copy_out(self.done, &mut bytes);
                state.write(sector, size, &bytes);
            }
            IoKind::PunchHole { .. } | IoKind::ZeroRange { .. } => state.write(sector, size, &vec![0; size]),
            IoKind::Sync => {}
        }
        self.done += size;
    }

    /// What its end makes durable.
    fn finish(&self, state: &mut State, disk: &SimDisk) {
        let size = disk.sector;
        match self.op.kind {
            IoKind::Sync if self.end.is_ok() => state.sync(0..u64::MAX, self.since, size),
            IoKind::Write { dsync: true } if self.end.is_ok() => {
                let first = self.op.offset / size as u64;
                let now = state.time;
                state.sync(first..first + (self.done / size) as u64, now, size);
            }
            _ => {}
        }
    }
}

/// Writes `bytes` at `offset` of the buffers of a read.
fn put(bufs: &BufList, offset: usize, bytes: &[u8]) {
    let (mut at, mut done) = (0, 0);
    for part in bufs.parts() {
        let (lo, hi) = ((offset + done).max(at), (offset + bytes.len()).min(at + part.len()));
        if lo < hi {
            // SAFETY: inside the buffer, which the operation owns and nobody looks at until it is over (the contract of
            // IoOp); `bytes` is the disk's memory.
            unsafe {
                let to = part.as_ptr().cast_mut().add(lo - at);
                std::ptr::copy_nonoverlapping(bytes[done..].as_ptr(), to, hi - lo);
            }
            done += hi - lo;
        }
        at += part.len();
    }
}

/// A simulated thread: its ring, its completions, and what other threads woke it for.
pub struct SimThread {
    ring: SimRing,
    done: Completions,
    woken: Arc<Woken>,
    remote: Arc<dyn Remote>,
    taken: Vec<(Tag, Outcome)>,
}

/// Who is to be woken, and with which token.
type Wakes = VecDeque<(Arc<dyn Parked>, u64)>;

/// What other threads want of this one; `None` when it has ended.
struct Woken(Mutex<Option<Wakes>>);

impl Woken {
    fn queue(&self) -> MutexGuard<'_, Option<Wakes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote for Woken {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        if let Some(queue) = self.queue().as_mut() {
            queue.push_back((who, token));
        }
    }
}

impl Drop for SimThread {
    /// What was parked on it ends with it.
    fn drop(&mut self) {
        let parked = self.woken.queue().take();
        drop(parked);
    }
}

impl SimThread {
    /// A thread with nothing to do.
    pub fn new(disk: &Arc<SimDisk>) -> SimThread {
        let woken = Arc::new(Woken(Mutex::new(Some(Wakes::new()))));
        SimThread {
            ring: SimRing { disk: Arc::clone(disk), flights: Vec::new() },
            done: Completions::default(),
            remote: woken.clone(),
            woken,
            taken: Vec::new(),
        }
    }

    /// Runs `f` on this thread.
    pub fn run<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        let SimThread { ring, done, remote, .. } = self;
        f(&mut Cx { now: Mono(0), done, ring, remote })
    }

    /// Does one thing: goes on with a device operation, or wakes what was to be woken. False when there is neither.
    pub fn turn(&mut self, rng: &mut Rng) -> bool {
        let woken = {
            let mut queue = self.woken.queue();
            let turn = self.ring.flights.is_empty() || rng.below(2) == 0;
            queue.as_mut().filter(|_| turn).and_then(VecDeque::pop_front)
        };
        if let Some((who, token)) = woken {
            self.run(|cx| who.woken(cx, token));
            return true;
        }
        if self.ring.flights.is_empty() {
            return false;
        }
        if let Some((op, result)) = self.ring.step() {
            self.run(|cx| crate::threaded::deliver(cx, op, result));
        }
        true
    }

    /// The requests that were completed since it was last asked.
    pub fn completions(&mut self) -> std::vec::Drain<'_, (Tag, Outcome)> {
        self.done.take(&mut self.taken);
        self.taken.drain(..)
    }
}
