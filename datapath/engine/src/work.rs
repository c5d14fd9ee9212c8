//! The heavy part of a block's way: fingerprint, compression, unpacking. Runs on the thread of the connection, with
//! contexts that the thread keeps.

use caisson_block::{BLOCK, BufList};
use caisson_codec::{Codec, Compressor, Decompressor, Level};
use std::cell::RefCell;

/// A block of user data, or a page.
pub(crate) type Block = [u8; BLOCK];

struct Work {
    compressor: Compressor,
    decompressor: Decompressor,
}

thread_local! {
    static WORK: RefCell<Work> = RefCell::new(Work {
        compressor: Compressor::new(Level::default()),
        decompressor: Decompressor::new(),
    });
}

/// How a block is stored: what `keep` is called with, compressed where that pays.
pub(crate) fn pack<R>(block: &Block, level: Option<Level>, keep: impl FnOnce(Codec, &[u8]) -> R) -> R {
    let Some(level) = level else { return keep(Codec::Raw, block) };
    WORK.with_borrow_mut(|work| {
        work.compressor.set_level(level);
        match work.compressor.compressed(block) {
            Some(bytes) => keep(Codec::Zstd, bytes),
            None => keep(Codec::Raw, block),
        }
    })
}

/// The block behind stored bytes. False when they are not what their codec makes: then the content of `out` is undefined.
pub(crate) fn unpack(codec: u8, stored: &[u8], out: &mut Block) -> bool {
    match Codec::from_number(codec) {
        Some(Codec::Raw) => {
            let whole = stored.len() == BLOCK;
            if whole {
                out.copy_from_slice(stored);
            }
            whole
        }
        Some(Codec::Zstd) => WORK.with_borrow_mut(|work| work.decompressor.decompress(stored, out).is_ok()),
        None => false,
    }
}

/// The blocks of a list one after the other, without a copy where one lies in a single buffer.
pub(crate) struct Blocks<'a> {
    list: &'a BufList,
    part: usize,
    /// Where the part begins in the list.
    base: usize,
    scratch: Box<Block>,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(list: &'a BufList) -> Blocks<'a> {
        Blocks { list, part: 0, base: 0, scratch: Box::new([0; BLOCK]) }
    }

    /// Block `i`, which is whole in the list. Cheap when asked for in rising order.
    pub(crate) fn get(&mut self, i: usize) -> &Block {
        let from = i * BLOCK;
        if from < self.base {
            (self.part, self.base) = (0, 0);
        }
        let parts = self.list.parts();
        while parts.get(self.part).is_some_and(|p| self.base + p.len() <= from) {
            self.base += parts[self.part].len();
            self.part += 1;
        }
        let whole = parts.get(self.part).and_then(|p| p.get(from - self.base..from - self.base + BLOCK));
        match whole.and_then(|bytes| <&Block>::try_from(bytes).ok()) {
            Some(block) => block,
            None => {
                self.list.copy_out(from, &mut self.scratch[..]);
                &self.scratch
            }
        }
    }
}
