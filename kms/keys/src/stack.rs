//! What computing with keys leaves on a thread's stack.
//!
//! Owns overwriting it. Ciphers and hashes copy what they make of a key to the stack, below the frame of whoever calls them, and not each of
//! them erases that. While a thread works, the next call overwrites it; a thread that rests would keep it for as long as it rests, whatever became
//! of the key. So this is called where a thread is about to rest, or is done with keys, and not for each block.

use std::cell::Cell;

thread_local! {
    static COMPUTES: Cell<bool> = const { Cell::new(false) };
}

/// Bytes of the stack, below the caller's frame, that are overwritten: more than lies between a thread's own loop and what it calls to seal,
/// open or hash a block.
pub const DEPTH: usize = 64 << 10;

/// Overwrites the [`DEPTH`] bytes of the stack below the caller's frame. Takes 0.65 to 1.4 microseconds where they are in the processor's cache, and 4
/// to 25 where they are not (an optimized build, an AMD EPYC virtual machine).
#[inline(never)]
pub fn cleanse_stack() {
    let mut below = [0u64; DEPTH / 8];
    // As far as the compiler knows, somebody looks at them: so they are there, and zero.
    std::hint::black_box(&mut below);
}

/// Says that this thread computes with keys from now on, so that [`rest`] has something to overwrite.
#[inline]
pub fn computes() {
    COMPUTES.set(true);
}

/// [`cleanse_stack`] where this thread [computes](computes) with keys: for a thread that is about to rest, and may be one that never does.
#[inline]
pub fn rest() {
    if COMPUTES.get() {
        cleanse_stack();
    }
}
