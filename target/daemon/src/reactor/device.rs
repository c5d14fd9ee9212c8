//! Device operations of one io_uring: their slots, what the kernel reads of them, and when each may go.
//!
//! Owns each operation from its submission to its completion. A device operation may be a copy in the submitting call
//! (writes into the page cache), so large ones go a bounded number of bytes between two looks of the thread at what has
//! come, and small ones go past them. It never enters the kernel. Files in memory do not come here ([`super::copies`]).

use super::driver::{DEVICE_OPS, Event, Iov};
use caisson_block::{IoKind, IoOp};
use io_uring::{opcode, squeue, types};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};

/// Bytes of operations over [`SMALL`] that go between two looks, or one operation of any length.
const BYTES: usize = 128 << 10;
/// Operations of no more bytes wait for none.
pub(super) const SMALL: usize = 16 << 10;

/// One operation in flight and the list that the kernel reads it from.
#[derive(Default)]
struct Slot {
    op: Option<IoOp>,
    iov: Vec<Iov>,
}

#[derive(Default)]
pub(crate) struct DeviceOps {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Those that have not gone yet, in order.
    held: VecDeque<u32>,
    /// Bytes that have gone since the last look.
    gone: usize,
}

impl DeviceOps {
    /// Takes an operation: its number, when it may go now; nothing, when [`DeviceOps::next`] will give that.
    ///
    /// # Errors
    /// The operation, when there are too many.
    pub(crate) fn take(&mut self, op: IoOp) -> Result<Option<u32>, IoOp> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < DEVICE_OPS => {
                self.slots.push(Slot::default());
                self.slots.len() as u32 - 1
            }
            None => return Err(op),
        };
        let slot = &mut self.slots[index as usize];
        slot.iov.clear();
        slot.iov.extend(
            op.bufs.parts().iter().map(|b| Iov { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() }),
        );
        let len = op.bufs.len();
        slot.op = Some(op);
        if len <= SMALL || self.held.is_empty() && self.may_go(len) {
            return Ok(Some(index));
        }
        self.held.push_back(index);
        Ok(None)
    }

    fn may_go(&mut self, len: usize) -> bool {
        let may = self.gone == 0 || self.gone + len <= BYTES;
        self.gone += if may { len } else { 0 };
        may
    }

    /// The thread has looked: as many bytes may go again.
    pub(crate) fn looked(&mut self) {
        self.gone = 0;
    }

    /// The next of those that were held back that may go now.
    pub(crate) fn next(&mut self) -> Option<u32> {
        let index = *self.held.front()?;
        let len = self.slots[index as usize].op.as_ref().map_or(0, |op| op.bufs.len());
        if self.may_go(len) { self.held.pop_front() } else { None }
    }

    /// Whether some are held back.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// The entry of operation `index`. What it points at stays put until [`DeviceOps::finish`].
    pub(crate) fn entry(&self, index: u32) -> Option<squeue::Entry> {
        let slot = self.slots.get(index as usize)?;
        let op = slot.op.as_ref()?;
        let (list, n) = (slot.iov.as_ptr(), slot.iov.len() as u32);
        let fd = types::Fd(op.file.as_raw_fd() as RawFd);
        Some(match op.kind {
            IoKind::Read => opcode::Readv::new(fd, list, n).offset(op.offset).build(),
            IoKind::Write { dsync } => {
                let flags = if dsync { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(fd, list, n).offset(op.offset).rw_flags(flags).build()
            }
            IoKind::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            IoKind::PunchHole { len } => opcode::Fallocate::new(fd, len)
                .offset(op.offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            IoKind::ZeroRange { len } => opcode::Fallocate::new(fd, len)
                .offset(op.offset)
                .mode(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        })
    }

    /// Operation `index` is over.
    pub(crate) fn finish(&mut self, index: u32, result: i32) -> Option<Event> {
        let op = self.slots.get_mut(index as usize)?.op.take()?;
        self.free.push(index);
        let result = if result >= 0 { Ok(result as u32) } else { Err(-result) };
        Some(Event::Device { op, result })
    }

    /// Those that are not over, held back or not.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
