//! Stored bytes of new blocks, compressed or not, on their way from a command to the batch that they are written with.
//!
//! Owns memory that they are packed into once: what is large goes from hand to hand, from the command to the batch and, when that is
//! written, to the next command. It must never give out bytes that were not packed since it was cleared.

use crate::bounds::MOVED_BYTES;
use crate::work::{Block, pack_into};
use caisson_block::BLOCK;
use caisson_codec::{Codec, Level, Marks, ROOM};
use zeroize::Zeroize;

/// Stored bytes, one block's behind the other's.
#[derive(Default)]
pub(crate) struct Packed {
    /// Bytes that were once written, so that all of it may be packed into.
    memory: Vec<u8>,
    used: usize,
}

impl Packed {
    /// Makes room for `blocks`, so that packing them moves nothing.
    pub(crate) fn reserve(&mut self, blocks: usize) {
        let most = self.used + blocks * BLOCK + ROOM;
        if self.memory.len() < most {
            self.memory.resize(most, 0);
        }
    }

    /// Adds a block as it is stored: how, and where its bytes are.
    pub(crate) fn push(&mut self, block: &Block, level: Option<Level>) -> (Codec, usize, usize) {
        self.reserve(1);
        let from = self.used;
        let (codec, len) = pack_into(block, level, &mut self.memory[from..]);
        self.used += len;
        (codec, from, len)
    }

    /// The same for a block that has marked sectors.
    pub(crate) fn push_marked(&mut self, block: &Block, marks: Marks) -> (Codec, usize, usize) {
        let mut bytes = Vec::with_capacity(BLOCK);
        marks.pack(block, &mut bytes);
        self.reserve(1);
        let from = self.used;
        self.used += bytes.len();
        self.memory[from..self.used].copy_from_slice(&bytes);
        (Codec::Marked, from, bytes.len())
    }

    /// The `len` bytes from `from` on, as [`Packed::push`] gave them.
    pub(crate) fn get(&self, from: usize, len: usize) -> &[u8] {
        &self.memory[..self.used][from..from + len]
    }

    /// As [`Packed::get`], to change them.
    pub(crate) fn get_mut(&mut self, from: usize, len: usize) -> &mut [u8] {
        &mut self.memory[..self.used][from..from + len]
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Whether to hand its memory on rather than to copy what is in it.
    pub(crate) fn is_large(&self) -> bool {
        self.used >= MOVED_BYTES
    }

    /// Forgets what there is, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Overwrites all that ever was in it.
    pub(crate) fn erase(&mut self) {
        self.clear();
        self.memory.as_mut_slice().zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_packed_and_forgets_it() {
        let mut packed = Packed::default();
        let random: Block =
            std::array::from_fn(|i| (i as u32).wrapping_mul(0x9e37_79b9).to_be_bytes()[i % 3]);
        let even: Block = [7; BLOCK];
        let level = Some(Level::default());
        let all = [packed.push(&random, None), packed.push(&even, level), packed.push(&even, None)];
        assert_eq!(all.map(|(codec, ..)| codec), [Codec::Raw, Codec::Zstd, Codec::Raw]);
        assert_eq!(packed.get(all[0].1, all[0].2), random);
        assert_eq!(packed.get(all[2].1, all[2].2), even);
        let mut out = [0; BLOCK];
        let unpacked = crate::work::unpack(Codec::Zstd.number(), packed.get(all[1].1, all[1].2), &mut out);
        assert_eq!(unpacked, Some(Marks::NONE));
        assert_eq!(out, even);
        assert_eq!(packed.len(), 2 * BLOCK + all[1].2);
        packed.erase();
        assert!(packed.len() == 0 && packed.memory.iter().all(|b| *b == 0));
    }
}
