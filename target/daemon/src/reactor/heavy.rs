//! Heavy work in line: what keeps a flood of large commands from holding up small ones.
//!
//! Work of tens of microseconds (hashing, compressing, sealing, publishing and unpacking for large commands) is not done
//! where it comes up, but in pieces that wait here. The thread does some after it has looked at its sockets and devices
//! and seen to what came: at most [`PIECE_NS`] and one piece more between two looks, or [`ALONE_NS`] where one connection is alone,
//! whose bytes then come in larger pieces. Where there is more to do than time, what is prompt and what is heavy have about
//! half of it each. Owns the line; it does not know what the work is.

use caisson_block::{Heavy, Mono, Parked};
use std::collections::VecDeque;
use std::sync::Arc;

/// Time that the pieces between two looks take together, in nanoseconds; the last of them may take longer.
pub(crate) const PIECE_NS: u64 = 15_000;

/// The same where nobody else is about to be held up: whoever comes after a silence waits for that once.
pub(crate) const ALONE_NS: u64 = 60_000;

/// Time that one piece may take, where it can be divided further; what cannot is over it by one block.
pub(crate) const SLICE_NS: u64 = 20_000;

/// A piece: who is to be woken for it, and with which token.
pub(crate) type Piece = (Arc<dyn Parked>, u64);

/// The line.
#[derive(Default)]
pub(crate) struct Line {
    /// Before the others: what was [`Heavy::Started`].
    started: VecDeque<Piece>,
    new: VecDeque<Piece>,
    /// When the thread last did some, and how long that took.
    ended: Mono,
    took: u64,
}

impl Line {
    pub(crate) fn push(&mut self, piece: Piece, heavy: Heavy) {
        match heavy {
            Heavy::Started => self.started.push_back(piece),
            Heavy::New => self.new.push_back(piece),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.started.is_empty() && self.new.is_empty()
    }

    /// Whether it is time for some, if there is any. `prompt`: the last look brought something else to do, which goes on for
    /// as long as the last heavy work took.
    pub(crate) fn due(&self, now: Mono, prompt: bool) -> bool {
        !prompt || now.since(self.ended) >= self.took
    }

    pub(crate) fn pop(&mut self) -> Option<Piece> {
        self.started.pop_front().or_else(|| self.new.pop_front())
    }

    /// What was done from `begun` to `ended`.
    pub(crate) fn did(&mut self, begun: Mono, ended: Mono) {
        (self.ended, self.took) = (ended, ended.since(begun));
    }

    /// Drops all that wait.
    pub(crate) fn clear(&mut self) {
        // One by one: what is dropped may look at the line of another thread, never at this one.
        while self.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_block::Cx;

    struct Nobody;

    impl Parked for Nobody {
        fn woken(self: Arc<Self>, _: &mut Cx<'_>, _: u64) {}
    }

    #[test]
    fn started_work_goes_first_and_prompt_work_has_its_half() {
        let mut line = Line::default();
        for (token, heavy) in [(1, Heavy::New), (2, Heavy::New), (3, Heavy::Started)] {
            line.push((Arc::new(Nobody), token), heavy);
        }
        assert!(line.due(Mono(0), true), "none was done yet");
        assert_eq!(line.pop().map(|p| p.1), Some(3));
        line.did(Mono(100), Mono(130));
        assert!(line.due(Mono(131), false), "nothing else is there to do");
        assert!(!line.due(Mono(159), true) && line.due(Mono(160), true));
        assert_eq!([line.pop().map(|p| p.1), line.pop().map(|p| p.1)], [Some(1), Some(2)]);
        assert!(line.is_empty() && line.pop().is_none());
    }
}
