//! Bytes to send: small headers in an arena of their own, payload as counted buffers; gathered for one large send.
//!
//! Owns what was queued until the peer's socket took it. A send may be in flight while more is queued: the arena is made
//! of fixed blocks that never move and whose written bytes are not written again before they were sent, and payload is
//! held by count. It must never look into what it sends.
//!
//! A block is used again once everything in it was passed by [`Tx::advance`]; call that when the kernel no longer reads
//! the memory (for a plain `sendmsg`, its completion; for a zero-copy one, its notification).

use caisson_block::Buf;
use std::collections::VecDeque;
use std::ptr::NonNull;

/// Bytes of one arena block: about forty replies of a read, or fifty command capsules.
pub const BLOCK: usize = 4096;

/// How many empty blocks are kept for use again; what a burst took beyond that is freed after it.
const SPARE_BLOCKS: usize = 8;

/// Heap memory that is reached only through its pointer, so that moving the block's owner moves nothing, and a reader of
/// its older bytes (the kernel) is not disturbed by the writing of newer ones.
struct Block {
    memory: NonNull<[u8; BLOCK]>,
    used: usize,
}

// SAFETY: a block is the sole owner of its memory.
unsafe impl Send for Block {}

impl Block {
    fn new() -> Block {
        Block { memory: NonNull::from(Box::leak(Box::new([0; BLOCK]))), used: 0 }
    }

    /// Where `used` is.
    fn end(&self) -> NonNull<u8> {
        // SAFETY: used <= BLOCK, so the address is inside the allocation or one past its end.
        unsafe { self.memory.cast::<u8>().add(self.used) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: made by Box::leak in `new`, and the pointers given out are dead with the connection (see `gather`).
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

/// A run of bytes to send.
enum Segment {
    /// Of the arena: bytes of the oldest block that has segments.
    Head { at: NonNull<u8>, len: usize, last_of_block: bool },
    /// Payload.
    Data(Buf),
}

// SAFETY: the pointer is into a block that the same Tx owns.
unsafe impl Send for Segment {}

/// The queue of what one connection has to send.
#[derive(Default)]
pub struct Tx {
    segments: VecDeque<Segment>,
    /// Blocks that hold queued bytes, oldest first; the last is written to.
    blocks: VecDeque<Block>,
    spare: Vec<Block>,
    /// How much of the first segment was sent.
    sent: usize,
    pending: usize,
}

impl Tx {
    /// Whether there is nothing to send.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    /// Bytes to send.
    #[inline]
    pub fn pending_bytes(&self) -> usize {
        self.pending
    }

    /// Room for `len` bytes (at most a block) at the end of the queue, for the caller to fill at once; they count as queued.
    ///
    /// # Panics
    /// When `len` is 0 or over [`BLOCK`].
    #[inline]
    pub fn head(&mut self, len: usize) -> &mut [u8] {
        assert!(len > 0 && len <= BLOCK, "a header is 1..={BLOCK} bytes");
        if self.blocks.back().is_none_or(|b| BLOCK - b.used < len) {
            self.next_block();
        }
        let block = self.blocks.back_mut().expect("next_block adds one");
        let at = block.end();
        block.used += len;
        self.pending += len;
        match self.segments.back_mut() {
            Some(Segment::Head { at: start, len: had, last_of_block: false })
                if start.addr().get() + *had == at.addr().get() =>
            {
                *had += len;
            }
            _ => self.segments.push_back(Segment::Head { at, len, last_of_block: false }),
        }
        // SAFETY: at..at+len is inside the block, was handed out to nobody since the block was last empty, and is
        // initialised (zeroes or an older header).
        unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len) }
    }

    /// Starts a new block, after which the one before ends with the last segment queued of it.
    #[cold]
    fn next_block(&mut self) {
        if self.blocks.back().is_some() {
            // The full block is freed when its last segment has been sent.
            let last = self.segments.iter_mut().rev().find_map(|s| match s {
                Segment::Head { last_of_block, .. } => Some(last_of_block),
                Segment::Data(_) => None,
            });
            match last {
                Some(flag) => *flag = true,
                // All of its bytes are sent already: it is free now.
                None => self.retire(),
            }
        }
        let block = self.spare.pop().unwrap_or_else(Block::new);
        debug_assert!(block.used == 0);
        self.blocks.push_back(block);
    }

    /// Takes the oldest block out of use.
    fn retire(&mut self) {
        if let Some(mut block) = self.blocks.pop_front()
            && self.spare.len() < SPARE_BLOCKS
        {
            block.used = 0;
            self.spare.push(block);
        }
    }

    /// Queues payload.
    #[inline]
    pub fn data(&mut self, bytes: Buf) {
        if !bytes.is_empty() {
            self.pending += bytes.len();
            self.segments.push_back(Segment::Data(bytes));
        }
    }

    /// Describes the oldest queued bytes, at most `max_bytes`, in `iov`; says how many entries and bytes that is.
    ///
    /// The memory stays where it is, unchanged, until [`Tx::advance`] passes it or the `Tx` is dropped: whoever has a send
    /// in flight keeps the `Tx` until it is over.
    pub fn gather(&self, iov: &mut [libc::iovec], max_bytes: usize) -> (usize, usize) {
        let (mut count, mut bytes, mut skip) = (0, 0, self.sent);
        for segment in &self.segments {
            let (base, len) = match segment {
                Segment::Head { at, len, .. } => (at.as_ptr().cast_const(), *len),
                Segment::Data(b) => (b.as_ptr(), b.len()),
            };
            if count == iov.len() || bytes == max_bytes {
                break;
            }
            let take = (len - skip).min(max_bytes - bytes);
            // wrapping_add: skip <= len, so this stays inside the segment.
            let base = base.wrapping_add(skip).cast_mut().cast();
            iov[count] = libc::iovec { iov_base: base, iov_len: take };
            (count, bytes, skip) = (count + 1, bytes + take, 0);
        }
        (count, bytes)
    }

    /// Forgets the oldest `n` bytes: they were sent.
    ///
    /// # Panics
    /// When `n` is more than is queued.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.pending, "no more can be sent than was queued");
        self.pending -= n;
        let mut left = n + self.sent;
        while let Some(first) = self.segments.front() {
            let (len, last) = match first {
                Segment::Head { len, last_of_block, .. } => (*len, *last_of_block),
                Segment::Data(b) => (b.len(), false),
            };
            if left < len {
                break;
            }
            left -= len;
            self.segments.pop_front();
            if last {
                self.retire();
            }
        }
        self.sent = left;
        if self.pending == 0 {
            debug_assert!(self.blocks.len() <= 1 && self.sent == 0);
            if let Some(block) = self.blocks.back_mut() {
                block.used = 0;
            }
        }
    }

    /// Gives back memory that an idle connection does not need.
    pub fn trim(&mut self) {
        if self.is_empty() {
            *self = Tx::default();
        }
    }

    /// Copies what is queued into one vector and forgets it; for tests and paths that are not hot.
    pub fn drain(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.pending);
        let mut skip = self.sent;
        for segment in &self.segments {
            let bytes = match segment {
                // SAFETY: the segment's bytes are inside a block that we own, written before they were queued.
                Segment::Head { at, len, .. } => unsafe { std::slice::from_raw_parts(at.as_ptr(), *len) },
                Segment::Data(b) => &b[..],
            };
            out.extend_from_slice(&bytes[skip..]);
            skip = 0;
        }
        self.advance(self.pending);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iov(n: usize) -> Vec<libc::iovec> {
        vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; n]
    }

    fn read(iov: &[libc::iovec]) -> Vec<u8> {
        // SAFETY: gather describes memory of the Tx, which is alive and was not advanced.
        iov.iter()
            .flat_map(|v| unsafe { std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len) }.to_vec())
            .collect()
    }

    /// Against a plain queue of bytes, with a send always in flight: what was gathered stays as it was while more is
    /// queued, and any part of it may be passed.
    #[test]
    fn like_a_queue_of_bytes_and_stable_in_flight() {
        let mut seed = 1u64;
        let mut rand = |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % n
        };
        let mut tx = Tx::default();
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut vec = iov(40);
        let mut next = 0u8;
        for _ in 0..20_000 {
            let (count, bytes) = tx.gather(&mut vec[..1 + rand(39)], 1 + rand(9000));
            let before: Vec<u8> = model.iter().copied().take(bytes).collect();
            for _ in 0..rand(12) {
                let len = 1 + if rand(20) == 0 { rand(BLOCK) } else { rand(80) };
                let fresh: Vec<u8> = std::iter::repeat_with(|| {
                    next = next.wrapping_add(1);
                    next
                })
                .take(len)
                .collect();
                model.extend(&fresh);
                if rand(3) == 0 {
                    tx.data(Buf::from(fresh));
                } else {
                    tx.head(len).copy_from_slice(&fresh);
                }
            }
            assert_eq!(read(&vec[..count]), before);
            let n = rand(bytes + 1);
            tx.advance(n);
            model.drain(..n);
            assert_eq!(tx.pending_bytes(), model.len());
            if model.len() > 60_000 {
                assert_eq!(tx.drain(), model.drain(..).collect::<Vec<_>>());
                assert!(tx.is_empty() && tx.blocks.len() == 1);
            }
        }
        assert!(tx.spare.len() <= SPARE_BLOCKS);
        assert_eq!(tx.drain(), Vec::from(model));
        tx.trim();
        assert!(tx.blocks.is_empty() && tx.spare.is_empty());
    }

    #[test]
    fn neighbouring_headers_are_one_entry() {
        let mut tx = Tx::default();
        for _ in 0..10 {
            tx.head(24).fill(1);
        }
        tx.data(Buf::zeroes(512));
        tx.head(24).fill(2);
        tx.head(24).fill(3);
        let mut vec = iov(8);
        assert_eq!(tx.gather(&mut vec, usize::MAX), (3, 240 + 512 + 48));
        assert_eq!(tx.gather(&mut vec, 100), (1, 100));
        assert_eq!(tx.gather(&mut vec[..2], 300), (2, 300));
        assert_eq!(tx.gather(&mut [], 300), (0, 0));
    }
}
