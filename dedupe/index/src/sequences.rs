//! The current use of each segment.
//!
//! Owns the one number per segment by which everything that points into an earlier use of it is known to be stale, so that
//! freeing a segment is one store and no search. It must never hold more than 8 bytes a segment.

use crate::MAX_SEGMENTS;

/// How many segments the list grows by.
const STEP: usize = 1024;

/// By segment number: the sequence of its current use, 0 for none.
#[derive(Default)]
pub(crate) struct Sequences(Vec<u64>);

impl Sequences {
    /// The current use of `segment`, 0 where nothing is known in it.
    pub fn of(&self, segment: u32) -> u64 {
        self.0.get(segment as usize).copied().unwrap_or(0)
    }

    /// Notes that `segment` is in use `sequence`. False where it is past that already, or no such segment can be.
    pub fn begin(&mut self, segment: u32, sequence: u64) -> bool {
        let at = segment as usize;
        if segment >= MAX_SEGMENTS || sequence < self.of(segment) {
            return false;
        }
        if at >= self.0.len() {
            let len = (at + 1).next_multiple_of(STEP);
            self.0.reserve_exact(len - self.0.len());
            self.0.resize(len, 0);
        }
        self.0[at] = sequence;
        true
    }

    /// Ends use `sequence` of `segment`, and earlier ones.
    pub fn end(&mut self, segment: u32, sequence: u64) {
        if let Some(current) = self.0.get_mut(segment as usize).filter(|current| **current <= sequence) {
            *current = 0;
        }
    }

    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }

    pub fn memory_bytes(&self) -> usize {
        self.0.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_use_counts() {
        let mut s = Sequences::default();
        assert_eq!(s.of(7), 0);
        assert!(s.begin(7, 5) && s.begin(7, 5) && !s.begin(7, 4));
        s.end(7, 4);
        assert_eq!(s.of(7), 5);
        s.end(7, 5);
        s.end(70_000, 5);
        assert_eq!((s.of(7), s.of(6), s.of(u32::MAX)), (0, 0, 0));
        assert!(!s.begin(MAX_SEGMENTS, 1));
        assert!(s.memory_bytes() <= 8 * STEP);
    }
}
