//! The commands in hand: one slot each, from their capsule until their answer.

use super::table::{Act, Happens, Use, step};
use crate::place::Remote;
use caisson_block::BufList;
use caisson_wire::Cqe;

/// Marks the end of the free list.
const NIL: u32 = u32::MAX;

struct Slot {
    state: Use,
    remote: Remote,
    next_free: u32,
    /// Bytes wanted from the host.
    want: u32,
    /// RDMA READs out.
    reads: u32,
    /// What came, part after part.
    data: BufList,
    deferred: Cqe,
}

/// A fetch that waits to be made.
pub struct Transfer {
    pub remote: Remote,
    pub want: u32,
}

/// All slots of a session.
pub struct Slots {
    max: u32,
    slots: Vec<Slot>,
    free: u32,
    used: u32,
}

impl Slots {
    pub fn new(max: u32) -> Slots {
        Slots { max, slots: Vec::new(), free: NIL, used: 0 }
    }

    pub fn used(&self) -> u32 {
        self.used
    }

    /// A slot for a command; `None` when the host has as many in hand as it may.
    #[inline]
    pub fn admit(&mut self, remote: Remote) -> Option<u32> {
        if self.used >= self.max {
            return None;
        }
        self.used += 1;
        if self.free == NIL {
            self.slots.push(Slot {
                state: Use::Held,
                remote,
                next_free: NIL,
                want: 0,
                reads: 0,
                data: BufList::new(),
                deferred: Cqe::default(),
            });
            return Some(self.slots.len() as u32 - 1);
        }
        let slot = self.free;
        let s = &mut self.slots[slot as usize];
        debug_assert!(s.state == Use::Free && s.reads == 0 && s.data.is_empty());
        self.free = s.next_free;
        (s.state, s.remote) = (Use::Held, remote);
        Some(slot)
    }

    /// Takes a step of the table; [`Act::Refuse`] where there is no such slot.
    #[inline]
    pub fn step(&mut self, slot: u32, happens: Happens) -> Act {
        let Some(s) = self.slots.get_mut(slot as usize) else { return Act::Refuse };
        let (state, act) = step(s.state, happens);
        // `release` frees it, once its answer has what it needs.
        if state != Use::Free {
            s.state = state;
        }
        act
    }

    /// The host's memory that the command in `slot` names.
    pub fn remote(&self, slot: u32) -> Option<Remote> {
        self.slots.get(slot as usize).filter(|s| s.state != Use::Free).map(|s| s.remote)
    }

    /// Notes how much is wanted.
    pub fn want(&mut self, slot: u32, len: u32) {
        self.slots[slot as usize].want = len;
    }

    /// What is to be fetched for `slot`; `None` when nothing is any more.
    pub fn transfer(&self, slot: u32) -> Option<Transfer> {
        let s = self.slots.get(slot as usize).filter(|s| s.state == Use::Waiting)?;
        Some(Transfer { remote: s.remote, want: s.want })
    }

    /// So many RDMA READs were made for `slot`.
    pub fn fetching(&mut self, slot: u32, reads: u32) {
        let act = self.step(slot, Happens::Fetched);
        debug_assert_eq!(act, Act::Nothing);
        self.slots[slot as usize].reads = reads;
    }

    /// One of the RDMA READs of `slot` is over, with `part`; what to do then. Where it failed, the session is about to be
    /// closed, and there is nothing to do but to keep the books.
    #[inline]
    pub fn arrived(&mut self, slot: u32, mut part: BufList, ok: bool) -> Act {
        let Some(s) = self.slots.get_mut(slot as usize) else { return Act::Refuse };
        s.reads = s.reads.saturating_sub(1);
        if s.data.is_empty() {
            std::mem::swap(&mut s.data, &mut part);
        } else {
            s.data.append(&mut part);
        }
        match (s.reads, ok) {
            (0, true) => self.step(slot, Happens::AllIn),
            _ => Act::Nothing,
        }
    }

    /// What came for `slot`.
    pub fn collect(&mut self, slot: u32) -> BufList {
        std::mem::take(&mut self.slots[slot as usize].data)
    }

    /// Keeps the answer of `slot`.
    pub fn defer(&mut self, slot: u32, cqe: Cqe) {
        self.slots[slot as usize].deferred = cqe;
    }

    /// The answer that was kept, and what came that nobody wants any more.
    pub fn deferred(&mut self, slot: u32) -> (Cqe, BufList) {
        let data = self.collect(slot);
        (self.slots[slot as usize].deferred, data)
    }

    /// Frees `slot`; the host's memory that its answer goes to.
    #[inline]
    pub fn release(&mut self, slot: u32) -> Remote {
        let s = &mut self.slots[slot as usize];
        debug_assert!(s.state != Use::Free && s.reads == 0);
        s.state = Use::Free;
        s.data.clear();
        s.next_free = self.free;
        self.free = slot;
        self.used -= 1;
        s.remote
    }
}
