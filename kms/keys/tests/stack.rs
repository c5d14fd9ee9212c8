//! What a call left on the stack is gone after [`cleanse_stack`], as this process's own memory says.

use caisson_keys::{STACK_DEPTH, cleanse_stack, stack_computes, stack_rests};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

const LEN: usize = 32;

/// The pattern is nowhere but where it is left: each byte is computed.
fn byte(i: usize) -> u8 {
    black_box(0xa5u8) ^ (i as u8).wrapping_mul(black_box(29))
}

/// Leaves the pattern about so deep in the stack.
#[inline(never)]
fn leave(depth: usize) {
    let mut frame = [0u8; 1024];
    if depth > 1024 {
        leave(depth - 1024);
    } else {
        frame[..LEN].iter_mut().enumerate().for_each(|(i, b)| *b = byte(i));
    }
    black_box(&mut frame);
}

/// How often the pattern is in this thread's stack. `from` is an address in it.
#[inline(never)]
fn found(from: usize) -> usize {
    let mut below = vec![0; 8 * STACK_DEPTH];
    let at = from - below.len();
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut below, at as u64).unwrap();
    below.windows(LEN).filter(|w| w.iter().enumerate().all(|(i, b)| *b == byte(i))).count()
}

#[test]
fn what_was_left_on_the_stack_is_gone() {
    let here = 0u8;
    let from = std::ptr::from_ref(black_box(&here)).addr();
    assert_eq!(found(from), 0);
    for depth in [8 << 10, STACK_DEPTH / 2] {
        leave(depth);
        assert!(found(from) > 0, "the search finds what is left {depth} deep");
        cleanse_stack();
        assert_eq!(found(from), 0, "{depth} deep");
    }
    // Deeper than that it stays: the search does not find nothing for another reason.
    leave(2 * STACK_DEPTH);
    cleanse_stack();
    assert!(found(from) > 0);
}

#[test]
fn a_thread_that_computes_with_no_keys_has_nothing_overwritten() {
    let here = 0u8;
    let from = std::ptr::from_ref(black_box(&here)).addr();
    leave(8 << 10);
    stack_rests();
    assert!(found(from) > 0);
    stack_computes();
    stack_rests();
    assert_eq!(found(from), 0);
    // From then on, each time.
    leave(8 << 10);
    stack_rests();
    assert_eq!(found(from), 0);
}
