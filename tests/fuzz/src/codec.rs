//! The decompressor on any bytes, and the compressor on any block.

use crate::input::Input;
use caisson_codec::{
    BLOCK, Codec, Compressor, Decompressor, EarlyExit, Level, MAX_COMPRESSED, Marks, SECTOR,
};
use std::cell::RefCell;

thread_local! {
    static BACK: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static COMPRESSOR: RefCell<Compressor> = RefCell::new(Compressor::new(Level::DEFAULT));
}

/// What was stored is a block or an error; a block that was compressed comes back, and a damaged one is survived; none of it
/// reaches the next block through the context.
pub fn codec(data: &[u8]) {
    marked(data);
    BACK.with_borrow_mut(|back| COMPRESSOR.with_borrow_mut(|compressor| both(back, compressor, data)));
}

/// What is a block with marked sectors is written as it was read, and has nothing where it is marked; nothing else is one.
fn marked(data: &[u8]) {
    let mut out = [0xa5; BLOCK];
    let Ok(marks) = Marks::unpack(data, &mut out) else {
        assert!(out == [0xa5; BLOCK]);
        return;
    };
    assert!(Codec::Marked.allows(data.len()) && !marks.is_none() && !marks.is_all());
    let mut again = Vec::new();
    marks.pack(&out, &mut again);
    assert_eq!(again, data);
    for from in (0..BLOCK).step_by(SECTOR) {
        let hidden = !marks.within(Marks::of(from..from + 1)).is_none();
        assert!(!hidden || caisson_codec::is_zero(&out[from..from + SECTOR]));
    }
}

fn both(back: &mut Decompressor, compressor: &mut Compressor, data: &[u8]) {
    let memory = back.memory_bytes();
    let mut out = [0; BLOCK];
    let _ = back.decompress(data, &mut out);
    let mut input = Input(data);
    let level = Level::new(input.below(30) as i32 - 7).expect("in range");
    compressor.set_level(level);
    compressor.set_early_exit(if input.below(2) == 0 { EarlyExit::On } else { EarlyExit::Off });
    let (at, flip) = (usize::from(input.short()), input.byte());
    let pattern = input.take(BLOCK);
    let block: [u8; BLOCK] =
        std::array::from_fn(|i| pattern.get(i % pattern.len().max(1)).copied().unwrap_or(0));
    assert_eq!(caisson_codec::is_zero(&block), block.iter().all(|b| *b == 0));
    let mut stored = [0; MAX_COMPRESSED];
    if let Some(length) = compressor.compress(&block, &mut stored) {
        assert!(Codec::Zstd.allows(length));
        back.decompress(&stored[..length], &mut out).expect("what was compressed comes back");
        assert!(out == block);
        stored[at % length] ^= flip;
        let _ = back.decompress(&stored[..length], &mut out);
    }
    assert_eq!(back.memory_bytes(), memory, "no input makes the context grow");
}
