//! Which summaries are worth reading before they are asked for, and which could not be read.
//!
//! Owns short lists of addresses: wanted, asked for, failed, fetched. Each has a fixed length, and loses its oldest when it is
//! full: a lost hint costs one more miss.

use crate::{Print, SummaryAt};
use std::collections::VecDeque;

/// Length of each list.
const LENGTH: usize = 32;

/// A summary to be read ahead, with how many entries beyond its beginning are still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hint {
    at: SummaryAt,
    credit: u32,
}

pub(crate) struct Hints {
    wanted: VecDeque<Hint>,
    asked: VecDeque<Hint>,
    failed: VecDeque<SummaryAt>,
    /// Prints that were told to fetch, and whether that has been done since.
    fetched: VecDeque<(Print, SummaryAt, bool)>,
}

fn push<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == LENGTH {
        list.pop_front();
    }
    list.push_back(item);
}

impl Hints {
    pub fn new() -> Hints {
        Hints {
            wanted: VecDeque::with_capacity(LENGTH),
            asked: VecDeque::with_capacity(LENGTH),
            failed: VecDeque::with_capacity(LENGTH),
            fetched: VecDeque::with_capacity(LENGTH),
        }
    }

    /// Notes that `at` is likely to be needed, unless it is on a list.
    pub fn want(&mut self, at: SummaryAt, credit: u32) {
        let known = self.wanted.iter().chain(&self.asked).any(|h| h.at == at);
        if !known && !self.has_failed(&at) {
            push(&mut self.wanted, Hint { at, credit });
        }
    }

    /// Whether there is a next one.
    pub fn wants(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The next to be read, oldest first.
    pub fn take(&mut self) -> Option<SummaryAt> {
        let hint = self.wanted.pop_front()?;
        push(&mut self.asked, hint);
        Some(hint.at)
    }

    /// `at` was read. What credit it had, if it was a hint.
    pub fn loaded(&mut self, at: &SummaryAt) -> Option<u32> {
        self.fetched.iter_mut().filter(|f| f.1 == *at).for_each(|f| f.2 = true);
        self.drop(at)
    }

    /// Notes that `print` is told to fetch `at`. False where it was told before and `at` was read since: it left the cache at
    /// once, which is too small for it.
    pub fn fetch(&mut self, print: &Print, at: SummaryAt) -> bool {
        match self.fetched.iter().position(|f| f.0 == *print && f.1 == at) {
            Some(n) if self.fetched[n].2 => {
                self.fetched.remove(n);
                false
            }
            Some(_) => true,
            None => {
                push(&mut self.fetched, (*print, at, false));
                true
            }
        }
    }

    /// `print` was found: what it was told to fetch did help.
    pub fn found(&mut self, print: &Print) {
        if !self.fetched.is_empty() {
            self.fetched.retain(|f| f.0 != *print);
        }
    }

    /// Takes `at` off the lists of what is to be read and what failed. What credit it had, if it was a hint.
    pub fn drop(&mut self, at: &SummaryAt) -> Option<u32> {
        self.failed.retain(|f| f != at);
        let credit = self.wanted.iter().chain(&self.asked).find(|h| h.at == *at).map(|h| h.credit);
        if credit.is_some() {
            self.wanted.retain(|h| h.at != *at);
            self.asked.retain(|h| h.at != *at);
        }
        credit
    }

    /// `at` could not be read: it is not asked for again while it is on the list.
    pub fn failed(&mut self, at: SummaryAt) {
        self.drop(&at);
        push(&mut self.failed, at);
    }

    pub fn has_failed(&self, at: &SummaryAt) -> bool {
        self.failed.contains(at)
    }

    pub fn clear(&mut self) {
        self.wanted.clear();
        self.asked.clear();
        self.failed.clear();
        self.fetched.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u32) -> SummaryAt {
        SummaryAt { segment: n, sequence: 1, offset: 0 }
    }

    #[test]
    fn each_is_asked_for_once() {
        let mut h = Hints::new();
        h.want(at(1), 5);
        h.want(at(1), 6);
        assert_eq!((h.take(), h.take()), (Some(at(1)), None));
        h.want(at(1), 5);
        assert_eq!(h.take(), None, "it is on its way");
        assert_eq!(h.loaded(&at(1)), Some(5));
        assert_eq!(h.loaded(&at(1)), None);
        h.want(at(2), 0);
        h.failed(at(2));
        h.want(at(2), 0);
        assert_eq!((h.take(), h.has_failed(&at(2))), (None, true));
        h.loaded(&at(2));
        assert!(!h.has_failed(&at(2)));
    }

    #[test]
    fn a_print_fetches_once_until_it_looked_again() {
        let mut h = Hints::new();
        assert!(h.fetch(&[1; 16], at(1)) && h.fetch(&[1; 16], at(1)) && h.fetch(&[2; 16], at(1)));
        h.loaded(&at(1));
        assert!(!h.fetch(&[1; 16], at(1)), "it was read and did not help");
        assert!(h.fetch(&[1; 16], at(1)), "another time");
        h.loaded(&at(1));
        h.found(&[1; 16]);
        assert!(h.fetch(&[1; 16], at(1)), "it helped");
        assert!(!h.fetch(&[2; 16], at(1)) && h.fetch(&[1; 16], at(3)));
    }

    #[test]
    fn lists_stay_short() {
        let mut h = Hints::new();
        for n in 0..1000 {
            h.want(at(n), 0);
            h.failed(at(n + 5000));
        }
        assert_eq!(h.take(), Some(at(1000 - LENGTH as u32)));
        assert_eq!((h.wanted.len(), h.failed.len()), (LENGTH - 1, LENGTH));
    }
}
