//! A simulated ring: starts operations, decides how each ends, and lets them go on in any order.
//!
//! Owns the operations under way. They are over when the [thread](super::thread) steps them to their end.

use super::disk::{Event, SimDisk, State};
use super::lies::{For, Lie};
use caisson_block::{BufList, IoKind, IoOp, Ring};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a block of the simulated file system.
const FILE_BLOCK: u64 = 4096;

/// An operation under way.
struct Flight {
    disk: Arc<SimDisk>,
    op: IoOp,
    /// Bytes moved so far, and to be moved in all.
    done: usize,
    until: usize,
    /// How it ends then.
    end: Result<u32, i32>,
    /// When it was submitted.
    since: u64,
    lie: Option<Lie>,
    /// What of a write is kept, on a disk that forgets.
    kept: Option<Vec<Range<usize>>>,
}

/// A simulated ring of one simulated thread, over one or more disks.
pub(super) struct SimRing {
    disks: Vec<Arc<SimDisk>>,
    flights: Vec<Flight>,
}

impl Ring for SimRing {
    fn submit(&mut self, op: IoOp) -> Result<(), IoOp> {
        let found = self.disks.iter().find(|d| Arc::ptr_eq(&d.file, &op.file));
        let disk = Arc::clone(found.expect("the operation is for a disk of this ring"));
        let mut state = disk.lock();
        let faults = state.faults;
        if state.rng.per_mille(faults.full) {
            return Err(op);
        }
        state.operations += 1;
        let (until, end) = fate(&disk, &mut state, &op);
        let what = match op.kind {
            IoKind::Read => Some(For::Read),
            IoKind::Write { .. } => Some(For::Write),
            IoKind::Sync => Some(For::Sync),
            IoKind::PunchHole { .. } | IoKind::ZeroRange { .. } => None,
        };
        let lies = state.lies;
        let pick = |what| lies.pick(&mut state.rng, what, until, disk.size(), disk.sector as u64);
        let lie = what.and_then(pick).filter(|_| end.is_ok());
        state.lied += u64::from(lie.is_some());
        let kept = announce(&mut state, &op, until);
        let since = state.time;
        drop(state);
        self.flights.push(Flight { disk, op, done: 0, until, end, since, lie, kept });
        Ok(())
    }
}

/// How many bytes the operation moves, and how it ends.
fn fate(disk: &SimDisk, state: &mut State, op: &IoOp) -> (usize, Result<u32, i32>) {
    let faults = state.faults;
    let len = match op.kind {
        IoKind::PunchHole { len } | IoKind::ZeroRange { len } => len as usize,
        _ => op.bufs.len(),
    };
    let sectors = |bytes: usize| bytes / disk.sector * disk.sector;
    // Where a write may break off: at a bound of the file system's blocks.
    let breaks = |bytes: usize| {
        let end = (op.offset + bytes as u64) / FILE_BLOCK * FILE_BLOCK;
        end.saturating_sub(op.offset) as usize
    };
    let writes = matches!(op.kind, IoKind::Write { .. });
    let moves = matches!(op.kind, IoKind::Read | IoKind::Write { .. });
    if faults.dies_at.is_some_and(|n| state.operations >= n) {
        let part = if disk.aligned(op) { sectors(state.rng.below(len as u64 + 1) as usize) } else { 0 };
        (part, Err(libc::EIO))
    } else if !disk.aligned(op) {
        (0, Err(libc::EINVAL))
    } else if state.rng.per_mille(faults.again) {
        (0, Err(libc::EINTR))
    } else if writes && state.rng.per_mille(faults.no_space) {
        (breaks(state.rng.below(len as u64 + 1) as usize), Err(libc::ENOSPC))
    } else if matches!(op.kind, IoKind::PunchHole { .. }) && !disk.punches {
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
    }
}

/// Tells who watches, remembers what is about to be replaced, and asks what is to be kept.
fn announce(state: &mut State, op: &IoOp, until: usize) -> Option<Vec<Range<usize>>> {
    match op.kind {
        IoKind::Write { .. } => {
            state.recall(op.offset, until as u64);
            // One buffer is the usual case, and then nothing is copied.
            let all;
            let bytes: &[u8] = match op.bufs.parts() {
                [one] => one,
                _ => {
                    all = op.bufs.to_vec();
                    &all
                }
            };
            state.tell(Event::Write(op.offset, bytes));
            state.kept(op.offset, bytes)
        }
        IoKind::PunchHole { len } | IoKind::ZeroRange { len } => {
            state.recall(op.offset, until as u64);
            state.tell(Event::Zero(op.offset, len));
            None
        }
        IoKind::Read | IoKind::Sync => None,
    }
}

impl SimRing {
    pub(super) fn new(disks: &[Arc<SimDisk>]) -> SimRing {
        SimRing { disks: disks.to_vec(), flights: Vec::new() }
    }

    pub(super) fn attach(&mut self, disk: &Arc<SimDisk>) {
        self.disks.push(Arc::clone(disk));
    }

    pub(super) fn idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Lets some operation under way go on a little. Gives it back when it is over.
    pub(super) fn step(&mut self) -> Option<(IoOp, Result<u32, i32>)> {
        let disk = Arc::clone(&self.disks[0]);
        let at = disk.lock().rng.below(self.flights.len() as u64) as usize;
        let flight = self.flights.get_mut(at)?;
        let disk = Arc::clone(&flight.disk);
        let mut state = disk.lock();
        // Long operations take no more than some tens of steps.
        let most = 8.max((flight.until / disk.sector / 8) as u64);
        let turns = 1 + state.rng.below(most);
        for _ in 0..turns {
            if flight.done >= flight.until {
                let flight = self.flights.swap_remove(at);
                flight.finish(&mut state);
                return Some((flight.op, flight.end));
            }
            flight.advance(&mut state);
        }
        None
    }
}

impl Flight {
    /// Moves one sector.
    fn advance(&mut self, state: &mut State) {
        let size = self.disk.sector;
        let from = match self.lie {
            Some(Lie::Elsewhere(at)) => at,
            _ => self.op.offset,
        };
        let byte = from + self.done as u64;
        match self.op.kind {
            IoKind::Read => {
                let mut bytes = vec![0; size];
                state.read(byte, &mut bytes);
                self.flip(&mut bytes);
                put(&self.op.bufs, self.done, &bytes);
            }
            IoKind::Write { .. } => self.write(state, byte),
            IoKind::PunchHole { .. } | IoKind::ZeroRange { .. } => {
                state.write(byte / size as u64, size, None);
            }
            IoKind::Sync => {}
        }
        self.done += size;
    }

    /// Writes the sector at `byte`, or what a lie or the disk's memory leaves of it.
    fn write(&self, state: &mut State, byte: u64) {
        let size = self.disk.sector;
        let mut bytes = vec![0; size];
        self.op.bufs.copy_out(self.done, &mut bytes);
        self.flip(&mut bytes);
        match self.lie {
            Some(Lie::Drop) => return,
            Some(Lie::Shear(at)) if self.done >= at => return,
            Some(Lie::Shear(at)) if self.done + size > at => {
                let kept = at - self.done;
                let mut old = vec![0; size];
                state.read(byte, &mut old);
                bytes[kept..].copy_from_slice(&old[kept..]);
            }
            _ => {}
        }
        let mut any = true;
        if let Some(kept) = &self.kept {
            any = false;
            let mut left = vec![0; size];
            for r in kept {
                let (lo, hi) = (r.start.max(self.done), r.end.min(self.done + size));
                if lo < hi {
                    any = true;
                    let part = lo - self.done..hi - self.done;
                    left[part.clone()].copy_from_slice(&bytes[part]);
                }
            }
            bytes = left;
        }
        state.write(byte / size as u64, size, any.then_some(&bytes));
    }

    fn flip(&self, bytes: &mut [u8]) {
        if let Some(Lie::Flip(bit)) = self.lie
            && let Some(at) = ((bit / 8) as usize).checked_sub(self.done)
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// What its end makes durable.
    fn finish(&self, state: &mut State) {
        let size = self.disk.sector as u64;
        match self.op.kind {
            IoKind::Sync if self.end.is_ok() => {
                if self.lie != Some(Lie::Sync) {
                    state.sync(0..u64::MAX, self.since);
                }
                state.tell(Event::Synced);
            }
            IoKind::Write { dsync: true } if self.end.is_ok() => {
                let first = self.op.offset / size;
                let now = state.time;
                state.sync(first..first + self.done as u64 / size, now);
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
