//! An ordered run of buffers that together are the data of one command.

use crate::buf::{Buf, BufMut};

/// Buffers in order, and their total length. Keeps its capacity when cleared, so that it can be used again.
#[derive(Debug, Default, Clone)]
pub struct BufList {
    parts: Vec<Buf>,
    len: usize,
}

impl BufList {
    /// An empty list that has not allocated.
    pub const fn new() -> BufList {
        BufList { parts: Vec::new(), len: 0 }
    }

    /// Total length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many buffers it can hold without allocating.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.parts.capacity()
    }

    /// Adds `part` at the end; an empty one is dropped.
    #[inline]
    pub fn push(&mut self, part: Buf) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push(part);
        }
    }

    /// The buffers in order; none is empty.
    #[inline]
    pub fn parts(&self) -> &[Buf] {
        &self.parts
    }

    /// Takes the first `n` bytes off (all there is when `n` is more), leaving the rest in `self`. A buffer that lies
    /// across the cut is shared by both.
    pub fn split_to(&mut self, n: usize) -> BufList {
        let mut head = BufList::new();
        let mut whole = 0;
        while whole < self.parts.len() && head.len + self.parts[whole].len() <= n {
            head.len += self.parts[whole].len();
            whole += 1;
        }
        head.parts.extend(self.parts.drain(..whole));
        self.len -= head.len;
        let rest = n - head.len.min(n);
        if rest > 0
            && let Some(part) = self.parts.first_mut()
        {
            self.len -= rest;
            head.push(part.split_to(rest));
        }
        head
    }

    /// Moves the buffers of `other` to the end of this list.
    pub fn append(&mut self, other: &mut BufList) {
        self.len += other.len;
        other.len = 0;
        self.parts.append(&mut other.parts);
    }

    /// Takes the buffers out in order, leaving the list empty with its capacity.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Buf> + '_ {
        self.len = 0;
        self.parts.drain(..)
    }

    /// Drops the buffers and keeps the capacity.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
        self.parts.clear();
    }

    /// Copies the bytes from `offset` on into `to`, and says how many there were to copy.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for part in &self.parts {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let n = (part.len() - skip).min(to.len() - done);
            to[done..done + n].copy_from_slice(&part[skip..skip + n]);
            (skip, done) = (0, done + n);
            if done == to.len() {
                break;
            }
        }
        done
    }

    /// Puts `part` in the place of the buffer number `index`, which is given back. Both are of the same length.
    ///
    /// # Panics
    /// When there is no such buffer, or the lengths differ.
    #[inline]
    pub fn swap(&mut self, index: usize, part: Buf) -> Buf {
        assert_eq!(self.parts[index].len(), part.len(), "a list's length is kept");
        std::mem::replace(&mut self.parts[index], part)
    }

    /// Reads it from front to back, across the bounds of its buffers.
    #[inline]
    pub fn reader(&self) -> Reader<'_> {
        Reader { rest: &[], parts: &self.parts }
    }

    /// The part `from..to` of it, sharing memory; `None` when that is not inside it.
    pub fn slice(&self, from: usize, to: usize) -> Option<BufList> {
        if from > to || to > self.len {
            return None;
        }
        let mut out = BufList::new();
        let mut at = 0;
        for part in &self.parts {
            let (lo, hi) = (from.max(at), to.min(at + part.len()));
            if lo < hi {
                out.push(part.slice(lo - at, hi - at)?);
            }
            at += part.len();
        }
        Some(out)
    }

    /// All of it in one vector; for paths that are not hot.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts.iter().flat_map(|p| p.iter().copied()).collect()
    }

    /// `len` zero bytes, sharing static memory.
    pub fn zeroes(len: usize) -> BufList {
        let mut out = BufList::new();
        while out.len < len {
            out.push(Buf::zeroes(len - out.len));
        }
        out
    }
}

/// Reads a [`BufList`] from front to back, across the bounds of its buffers.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// What is left of the buffer in hand.
    rest: &'a [u8],
    /// The buffers after it.
    parts: &'a [Buf],
}

impl<'a> Reader<'a> {
    /// The next bytes, at most `max`, as they lie in memory; none at the end.
    #[inline]
    pub fn take(&mut self, max: usize) -> &'a [u8] {
        if self.rest.is_empty() {
            let Some((next, parts)) = self.parts.split_first() else { return &[] };
            (self.rest, self.parts) = (next, parts);
        }
        let (now, rest) = self.rest.split_at(max.min(self.rest.len()));
        self.rest = rest;
        now
    }

    /// Fills `to`, and says how much of it (less than all of it at the end of the list).
    #[inline]
    pub fn fill(&mut self, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() {
            let bytes = self.take(to.len() - done);
            if bytes.is_empty() {
                break;
            }
            to[done..done + bytes.len()].copy_from_slice(bytes);
            done += bytes.len();
        }
        done
    }

    /// Where the next `with.len()` bytes first differ from `with`; the end of the list differs from anything.
    pub fn first_difference(&mut self, with: &[u8]) -> Option<usize> {
        let mut done = 0;
        while done < with.len() {
            let bytes = self.take(with.len() - done);
            if bytes.is_empty() {
                return Some(done);
            }
            let other = &with[done..done + bytes.len()];
            if bytes != other {
                return bytes.iter().zip(other).position(|(a, b)| a != b).map(|at| done + at);
            }
            done += bytes.len();
        }
        None
    }
}

impl From<Buf> for BufList {
    fn from(b: Buf) -> BufList {
        let mut l = BufList::new();
        l.push(b);
        l
    }
}

impl From<BufMut> for BufList {
    fn from(b: BufMut) -> BufList {
        b.freeze().into()
    }
}

impl From<Vec<u8>> for BufList {
    fn from(v: Vec<u8>) -> BufList {
        Buf::from(v).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_slices_across_parts() {
        let mut l = BufList::new();
        for chunk in (0..100u8).collect::<Vec<_>>().chunks(7) {
            l.push(Buf::from(chunk.to_vec()));
        }
        assert_eq!(l.len(), 100);
        for (from, to) in [(0, 100), (5, 9), (7, 14), (99, 100), (50, 50)] {
            let want = (from as u8..to as u8).collect::<Vec<_>>();
            assert_eq!(l.slice(from, to).unwrap().to_vec(), want);
            let mut got = vec![0; to - from];
            assert_eq!(l.copy_out(from, &mut got), to - from);
            assert_eq!(got, want);
        }
        let mut r = l.reader();
        let mut got = [0; 30];
        assert_eq!(r.fill(&mut got), 30);
        assert_eq!(got[..], (0..30).collect::<Vec<u8>>()[..]);
        assert_eq!(r.clone().first_difference(&(30..100).collect::<Vec<u8>>()), None);
        assert_eq!(r.first_difference(&[30, 31, 32, 0, 34]), Some(3));
        assert_eq!(l.reader().first_difference(&[0; 0]), None);
        assert_eq!(l.reader().fill(&mut [0; 101]), 100);
        for cut in 0..=101 {
            let mut rest = l.clone();
            let mut head = rest.split_to(cut);
            assert_eq!((head.len(), rest.len()), (cut.min(100), 100 - cut.min(100)));
            head.append(&mut rest);
            assert_eq!((head.to_vec(), rest.len()), (l.to_vec(), 0));
        }
        assert!(l.slice(0, 101).is_none() && l.slice(3, 2).is_none());
        assert_eq!(l.copy_out(95, &mut [0; 10]), 5);
        assert_eq!(BufList::zeroes(200_000).len(), 200_000);
    }
}
