//! The compile-time check on every structure that stands on a device.
//!
//! Owns `layout!`, the twin of the wire crate's: the format depends on no transport. It must never hold a layout itself.

/// Asserts at compile time the size of an on-disk structure and the byte offset of each named field.
macro_rules! layout {
    ($t:ty, $size:expr $(, $field:ident @ $off:expr)* $(,)?) => {
        const _: () = {
            assert!(::core::mem::size_of::<$t>() == $size);
            assert!(::core::mem::align_of::<$t>() == 1);
            $(assert!(::core::mem::offset_of!($t, $field) == $off);)*
        };
    };
}
