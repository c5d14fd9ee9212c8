//! The heavy part of a block's way: fingerprint, compression, unpacking. Runs on the thread of the connection, with
//! contexts that the thread keeps.

use caisson_block::{BLOCK, Buf, BufList, fetch};
use caisson_codec::{Codec, Compressor, Decompressor, Level, Marks};
use caisson_log::{At, Bind, Keyring, TAG};
use std::cell::RefCell;
use std::ops::Range;

/// A block of user data, or a page.
pub(crate) type Block = [u8; BLOCK];

struct Work {
    compressor: Compressor,
    decompressor: Decompressor,
    /// For what has been opened and is not unpacked yet, and for what lies in several buffers.
    plain: Box<Block>,
    sealed: Box<[u8; BLOCK + TAG]>,
}

thread_local! {
    static WORK: RefCell<Work> = RefCell::new(Work {
        compressor: Compressor::new(Level::default()),
        decompressor: Decompressor::new(),
        plain: Box::new([0; BLOCK]),
        sealed: Box::new([0; BLOCK + TAG]),
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

/// As [`pack`], into the front of `out`, which has at least [`caisson_codec::ROOM`] bytes: how, and how many bytes.
pub(crate) fn pack_into(block: &Block, level: Option<Level>, out: &mut [u8]) -> (Codec, usize) {
    let packed = level.and_then(|level| {
        WORK.with_borrow_mut(|work| {
            work.compressor.set_level(level);
            work.compressor.compress_into(block, out)
        })
    });
    match packed {
        Some(len) => (Codec::Zstd, len),
        None => {
            out[..BLOCK].copy_from_slice(block);
            (Codec::Raw, BLOCK)
        }
    }
}

/// The block behind stored bytes, and which of its sectors are marked: they are zero in `out`. `None` when the bytes are not what
/// their codec makes: then the content of `out` is undefined.
pub(crate) fn unpack(codec: u8, stored: &[u8], out: &mut Block) -> Option<Marks> {
    match Codec::from_number(codec)? {
        Codec::Raw => {
            out.copy_from_slice(<&Block>::try_from(stored).ok()?);
            Some(Marks::NONE)
        }
        Codec::Zstd => WORK
            .with_borrow_mut(|work| work.decompressor.decompress(stored, out).is_ok().then_some(Marks::NONE)),
        Codec::Marked => Marks::unpack(stored, out).ok(),
    }
}

/// The block that is stored as the sealed bytes which stand in `list` from `from` on, as [`unpack`] gives it. `None` when they do
/// not authenticate, or are not what their codec makes: then the content of `out` is undefined, and nobody may see it.
pub(crate) fn open(
    keyring: &Keyring,
    at: At,
    bind: &Bind,
    (list, from): (&BufList, usize),
    out: &mut Block,
) -> Option<Marks> {
    let length = usize::from(bind.length);
    if length > BLOCK {
        return None;
    }
    WORK.with_borrow_mut(|work| {
        let sealed = match single(list, from, length + TAG) {
            Some(bytes) => bytes,
            None => {
                let scratch = &mut work.sealed[..length + TAG];
                if list.copy_out(from, scratch) < scratch.len() {
                    return None;
                }
                scratch
            }
        };
        match Codec::from_number(bind.codec)? {
            Codec::Raw => {
                let whole = length == BLOCK && keyring.open_into(at, bind, sealed, out).is_ok();
                whole.then_some(Marks::NONE)
            }
            Codec::Zstd => {
                let plain = &mut work.plain[..length];
                let whole = keyring.open_into(at, bind, sealed, plain).is_ok()
                    && work.decompressor.decompress(plain, out).is_ok();
                whole.then_some(Marks::NONE)
            }
            Codec::Marked => {
                let plain = &mut work.plain[..length];
                keyring.open_into(at, bind, sealed, plain).ok()?;
                Marks::unpack(plain, out).ok()
            }
        }
    })
}

/// `len` bytes of a list from `from` on, if they lie in a single buffer.
fn single(list: &BufList, from: usize, len: usize) -> Option<&[u8]> {
    let mut skip = from;
    for part in list.parts() {
        if skip < part.len() {
            return part.get(skip..skip + len);
        }
        skip -= part.len();
    }
    None
}

/// The blocks of a list one after the other, without a copy where one lies in a single buffer.
pub(crate) struct Blocks<'a> {
    list: &'a BufList,
    part: usize,
    /// Where the part begins in the list.
    base: usize,
    /// For blocks that lie in several buffers; made for the first of them.
    scratch: Option<Box<Block>>,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(list: &'a BufList) -> Blocks<'a> {
        Blocks { list, part: 0, base: 0, scratch: None }
    }

    /// Block `i`, which is whole in the list, if it lies in a single buffer. Cheap when asked for in rising order.
    pub(crate) fn single(&mut self, i: usize) -> Option<&'a Block> {
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
        whole.and_then(|bytes| <&Block>::try_from(bytes).ok())
    }

    /// Has the processor fetch where those of these blocks begin that lie in a single buffer each.
    pub(crate) fn fetch_fronts(&mut self, blocks: Range<usize>) {
        blocks.filter_map(|i| self.single(i)).for_each(|block| fetch(&block[0]));
    }

    /// As [`Blocks::single`], to be kept.
    pub(crate) fn single_buf(&mut self, i: usize) -> Option<Buf> {
        self.single(i)?;
        let from = i * BLOCK - self.base;
        self.list.parts()[self.part].slice(from, from + BLOCK)
    }

    /// Block `i`, which is whole in the list.
    pub(crate) fn get(&mut self, i: usize) -> &Block {
        match self.single(i) {
            Some(block) => block,
            None => {
                let scratch = self.scratch.get_or_insert_with(|| Box::new([0; BLOCK]));
                self.list.copy_out(i * BLOCK, &mut scratch[..]);
                scratch
            }
        }
    }
}
