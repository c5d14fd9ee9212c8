//! The commands that a queue has accepted and not completed: one slot each, and the token that says whose turn it is.
//!
//! A command is at every moment either in somebody's hands, as a [`Token`], or parked in its slot, as a [`State`]. Both
//! ways on end in exactly one completion: dropping a token is a bug, which debug builds catch. A slot number is the
//! transport's; nothing here decides what a command means.

use crate::stats::OpClass;
use caisson_block::Mono;
use caisson_wire::{Sqe, Status};

/// The duty to complete the command in a slot.
#[must_use = "every accepted command is completed exactly once"]
#[derive(Debug)]
pub(crate) struct Token {
    slot: u32,
    cid: u16,
}

impl Token {
    /// The command's slot.
    #[inline]
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    /// Its CID.
    #[inline]
    pub(crate) fn cid(&self) -> u16 {
        self.cid
    }

    /// The duty is done (or the connection is gone, so that nobody is owed a completion).
    #[inline]
    pub(crate) fn settle(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }
}

#[cfg(debug_assertions)]
impl Drop for Token {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "the command in slot {} was dropped, not completed", self.slot);
    }
}

/// What an I/O command is about, kept while it waits for data or for the volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) class: OpClass,
    /// Durable before it completes.
    pub(crate) fua: bool,
    /// The queue's entry of the namespace.
    pub(crate) entry: u16,
    /// Requests at volumes: more than one for a Flush of all namespaces.
    pub(crate) parts: u16,
    /// The first failure of those that are done.
    pub(crate) failed: Status,
    pub(crate) blocks: u32,
    pub(crate) lba: u64,
    /// When it was received.
    pub(crate) start: Mono,
}

/// What a command waits for.
#[derive(Debug)]
pub(crate) enum State {
    /// No command is here.
    Free,
    /// Its data from the host; a Write or a Compare.
    Pull(Work),
    /// Its data from the host; any other command.
    PullFor(Box<Sqe>),
    /// Requests at volumes.
    Volume(Work),
    /// The Flush that goes before a Read with FUA.
    FlushFirst(Work),
    /// The first of a fused pair, which waits for its data or its partner, or the second, which waits for data; see
    /// [`crate::io::fused`].
    Fused,
    /// The second of a fused pair whose request is at the volume; the first is in slot `first`.
    FusedVolume {
        /// The pair's work.
        work: Work,
        /// The Compare's slot.
        first: u32,
    },
    /// An asynchronous event.
    Event,
    /// Another queue's answer to an Abort.
    Abort,
    /// Something to be erased.
    Erase,
}

struct Slot {
    cid: u16,
    state: State,
}

/// The slots of a queue; as many as the highest number used so far.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
}

impl Slots {
    /// Accepts the command `cid` in `slot`; `None` when the slot is in use, which is the transport's mistake.
    #[inline]
    pub(crate) fn accept(&mut self, slot: u32, cid: u16) -> Option<Token> {
        let at = slot as usize;
        if at >= self.slots.len() {
            self.grow(at);
        }
        let here = &mut self.slots[at];
        if !matches!(here.state, State::Free) {
            debug_assert!(false, "slot {slot} is in use");
            return None;
        }
        here.cid = cid;
        Some(Token { slot, cid })
    }

    #[cold]
    fn grow(&mut self, at: usize) {
        self.slots.resize_with(at + 1, || Slot { cid: 0, state: State::Free });
    }

    /// Parks a command.
    #[inline]
    pub(crate) fn park(&mut self, token: Token, state: State) {
        self.slots[token.slot as usize].state = state;
        token.settle();
    }

    /// Takes the command in `slot` up again, if there is one.
    #[inline]
    pub(crate) fn take(&mut self, slot: u32) -> Option<(Token, State)> {
        let here = self.slots.get_mut(slot as usize)?;
        match std::mem::replace(&mut here.state, State::Free) {
            State::Free => None,
            state => Some((Token { slot, cid: here.cid }, state)),
        }
    }

    /// The state of the command in `slot`.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut State> {
        self.slots.get_mut(slot as usize).map(|s| &mut s.state)
    }

    /// The slot of the command `cid`; when there are several (the host's mistake), one that is not at a volume.
    pub(crate) fn find(&self, cid: u16) -> Option<u32> {
        let here = |s: &&Slot| s.cid == cid && !matches!(s.state, State::Free);
        let movable = |s: &Slot| {
            !matches!(s.state, State::Volume(_) | State::FlushFirst(_) | State::FusedVolume { .. })
        };
        let best = self.slots.iter().position(|s| here(&s) && movable(s));
        best.or_else(|| self.slots.iter().position(|s| here(&s))).map(|at| at as u32)
    }

    /// Every slot with a command.
    pub(crate) fn busy(&self) -> impl Iterator<Item = u32> + '_ {
        let taken = |(_, s): &(usize, &Slot)| !matches!(s.state, State::Free);
        self.slots.iter().enumerate().filter(taken).map(|(at, _)| at as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_in_one_place() {
        let mut s = Slots::default();
        let t = s.accept(3, 77).unwrap();
        assert!(s.take(3).is_none(), "its token is out");
        s.park(t, State::Event);
        assert_eq!(s.find(77), Some(3));
        let (t, state) = s.take(3).unwrap();
        assert!(matches!(state, State::Event) && t.cid() == 77);
        assert_eq!(s.busy().count(), 0);
        t.settle();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "dropped, not completed")]
    fn a_dropped_command_is_caught() {
        drop(Slots::default().accept(0, 1));
    }
}
