//! The commands in hand and the transfers that fetch their data, as dense tables that start empty and grow.
//!
//! A slot is a command; a transfer is one R2T, and its index is the TTAG. Both are freed for use again in LIFO order, so
//! that a lightly loaded connection stays in few cache lines.

use super::table::Use;
use crate::frame::Assembly;
use caisson_block::{BufList, Completions};
use caisson_wire::Cqe;
use std::collections::VecDeque;

/// No transfer.
pub const NONE: u16 = u16::MAX;
/// No slot.
const NIL: u32 = u32::MAX;
/// R2Ts out at once over all commands: a bound beside the window in bytes.
pub const MAX_TRANSFERS: usize = 4096;

/// A command in hand.
pub struct Slot {
    pub state: Use,
    pub cid: u16,
    /// Bytes that the command's Transport SGL covers.
    pub room: u32,
    /// It is a Connect, whose answer says whether SQ flow control is on.
    pub connect: bool,
    /// In the queue of pulls.
    queued: bool,
    pub damaged: bool,
    next_free: u32,
    /// Bytes to fetch, and how many of them an R2T has asked for.
    pub want: u32,
    pub asked: u32,
    /// `want` is counted in the window.
    admitted: bool,
    /// Its transfers in order of offset, and how many they are. The first is always open: what is whole from the start
    /// on is folded into `data`.
    pub out: u32,
    first: u16,
    last: u16,
    data: BufList,
    /// What to answer when drained.
    pub deferred: Cqe,
}

/// One R2T.
pub struct Transfer {
    pub slot: u32,
    next: u16,
    /// Whether H2CData for it is still due.
    pub open: bool,
    pub offset: u32,
    pub len: u32,
    pub got: u32,
    pub data: Assembly,
}

/// Both tables, and the pulls that wait for the window.
pub struct Slots {
    max: u32,
    slots: Vec<Slot>,
    free: u32,
    used: u32,
    transfers: Vec<Transfer>,
    free_transfers: Vec<u16>,
    /// Bytes of the pulls that were begun and not yet given away.
    window_used: u64,
    /// Transfers whose data is due.
    open: u32,
    pending: VecDeque<u32>,
}

impl Slots {
    pub fn new(max: u32) -> Slots {
        Slots {
            max,
            slots: Vec::new(),
            free: NIL,
            used: 0,
            transfers: Vec::new(),
            free_transfers: Vec::new(),
            window_used: 0,
            open: 0,
            pending: VecDeque::new(),
        }
    }

    /// Slots in use.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Whether one more command fits.
    #[inline]
    pub fn has_free(&self) -> bool {
        self.used < self.max
    }

    /// Whether data asked for has not come.
    #[inline]
    pub fn any_out(&self) -> bool {
        self.open > 0
    }

    /// A slot for command `cid`. The caller has seen [`Slots::has_free`].
    #[inline]
    pub fn admit(&mut self, cid: u16, room: u32, connect: bool) -> u32 {
        debug_assert!(self.has_free());
        self.used += 1;
        if self.free == NIL {
            self.slots.push(Slot {
                state: Use::Held,
                cid,
                room,
                connect,
                queued: false,
                damaged: false,
                next_free: NIL,
                want: 0,
                asked: 0,
                admitted: false,
                out: 0,
                first: NONE,
                last: NONE,
                data: BufList::new(),
                deferred: Cqe::default(),
            });
            return (self.slots.len() - 1) as u32;
        }
        let slot = self.free;
        let s = &mut self.slots[slot as usize];
        self.free = s.next_free;
        debug_assert!(s.state == Use::Free && s.out == 0 && s.first == NONE);
        (s.state, s.cid, s.room, s.connect, s.damaged) = (Use::Held, cid, room, connect, false);
        (s.want, s.asked) = (0, 0);
        slot
    }

    /// The slot, when there is one of that number.
    #[inline]
    pub fn get(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize)
    }

    /// Frees `slot`, which has no R2T out.
    #[inline]
    pub fn release(&mut self, slot: u32) {
        self.leave_window(slot);
        let s = &mut self.slots[slot as usize];
        debug_assert!(s.state != Use::Free && s.out == 0);
        s.data.clear();
        s.state = Use::Free;
        s.next_free = self.free;
        self.free = slot;
        self.used -= 1;
    }

    /// Has `slot` wait for its R2T; one that is in the window already goes before those that are not, which would
    /// otherwise wait for it and it for them.
    pub fn enqueue(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if s.queued {
            return;
        }
        s.queued = true;
        if s.admitted {
            self.pending.push_front(slot);
        } else {
            self.pending.push_back(slot);
        }
    }

    /// The next R2T to send, with its tag, given the limits; `None` when none can go out now.
    pub fn next_r2t(&mut self, maxr2t: u32, max_len: u32, window: u32) -> Option<u16> {
        loop {
            let slot = *self.pending.front()?;
            let s = &mut self.slots[slot as usize];
            if s.state != Use::Pulling || s.damaged || s.asked == s.want || s.out >= maxr2t {
                // Done, or it comes back here when one of its R2Ts has been answered.
                s.queued = false;
                self.pending.pop_front();
                continue;
            }
            if !s.admitted {
                if self.window_used > 0 && self.window_used + u64::from(s.want) > u64::from(window) {
                    return None;
                }
                s.admitted = true;
                self.window_used += u64::from(s.want);
            }
            let len = (s.want - s.asked).min(max_len);
            return self.open_transfer(slot, len);
        }
    }

    fn leave_window(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if std::mem::take(&mut s.admitted) {
            self.window_used -= u64::from(s.want);
        }
    }

    fn open_transfer(&mut self, slot: u32, len: u32) -> Option<u16> {
        let s = &mut self.slots[slot as usize];
        let offset = s.asked;
        let tag = match self.free_transfers.pop() {
            Some(tag) => tag,
            None if self.transfers.len() < MAX_TRANSFERS => {
                let data = Assembly::default();
                self.transfers.push(Transfer { slot, next: NONE, open: true, offset, len, got: 0, data });
                (self.transfers.len() - 1) as u16
            }
            None => return None,
        };
        let t = &mut self.transfers[usize::from(tag)];
        (t.slot, t.next, t.open, t.offset, t.len, t.got) = (slot, NONE, true, offset, len, 0);
        match s.last {
            NONE => s.first = tag,
            last => self.transfers[usize::from(last)].next = tag,
        }
        s.last = tag;
        s.asked += len;
        s.out += 1;
        self.open += 1;
        Some(tag)
    }

    /// The open transfer of that tag.
    #[inline]
    pub fn transfer(&mut self, tag: u16) -> Option<&mut Transfer> {
        self.transfers.get_mut(usize::from(tag)).filter(|t| t.open)
    }

    /// All data of transfer `tag` has come; gives its slot. Emptied lists go to `spare`.
    pub fn close_transfer(&mut self, tag: u16, spare: &mut Completions) -> u32 {
        let t = &mut self.transfers[usize::from(tag)];
        debug_assert!(t.open && t.got == t.len);
        t.open = false;
        self.open -= 1;
        let slot = t.slot;
        let s = &mut self.slots[slot as usize];
        while s.first != NONE && !self.transfers[usize::from(s.first)].open {
            let tag = s.first;
            let t = &mut self.transfers[usize::from(tag)];
            let mut part = t.data.finish();
            if s.data.is_empty() {
                std::mem::swap(&mut s.data, &mut part);
            } else {
                part.drain().for_each(|b| s.data.push(b));
            }
            spare.recycle(part);
            s.first = t.next;
            if s.first == NONE {
                s.last = NONE;
            }
            s.out -= 1;
            self.free_transfers.push(tag);
        }
        slot
    }

    /// Takes what has come of the slot's data, no R2T of it being out.
    pub fn collect(&mut self, slot: u32) -> BufList {
        self.leave_window(slot);
        let s = &mut self.slots[slot as usize];
        debug_assert!(s.out == 0 && s.first == NONE);
        std::mem::take(&mut s.data)
    }

    /// Gives back memory when nothing is in hand.
    pub fn trim(&mut self) {
        if self.used == 0 {
            *self = Slots::new(self.max);
        }
    }
}
