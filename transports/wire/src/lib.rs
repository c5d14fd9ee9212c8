//! NVMe, fabrics, NVMe/TCP and NVMe/RDMA layouts: bytes to types and back, no I/O.
//!
//! Owns every structure that crosses a wire. Each has fixed endianness, no padding, and a compile-time
//! assertion on its size and on the offset of each field (`layout!`). Decoding never panics: a slice that is too
//! short gives `None`, and every bit pattern is a value, so that what it *means* is judged by the crates above.
//!
//! It must never open a socket, read a clock, or know what a controller does with a command.
//!
//! Revisions: "Base" is the NVM Express Base Specification 2.1, "NVM" the NVM Command Set Specification 1.1,
//! "TCP" the NVMe TCP Transport Specification 1.1, "RDMA" the NVMe RDMA Transport Specification 1.1.

pub mod cqe;
pub mod discovery;
pub mod erase;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log;
pub mod opcode;
pub mod pdu;
pub mod property;
pub mod rdma;
pub mod sgl;
pub mod sqe;
pub mod status;

pub use cqe::Cqe;
pub use sgl::{Sgl, SglKind};
pub use sqe::Sqe;
pub use status::Status;
pub use zerocopy;

/// Asserts at compile time the size of a wire structure and the byte offset of each named field.
#[macro_export]
macro_rules! layout {
    ($t:ty, $size:expr $(, $field:ident @ $off:expr)* $(,)?) => {
        const _: () = {
            assert!(::core::mem::size_of::<$t>() == $size);
            assert!(::core::mem::align_of::<$t>() == 1);
            $(assert!(::core::mem::offset_of!($t, $field) == $off);)*
        };
    };
}

/// Gives a wire structure the all-zero `Default` (arrays longer than 32 have none) and a decoder that cannot panic.
macro_rules! zeroed {
    ($t:ty) => {
        impl Default for $t {
            fn default() -> $t {
                <$t>::new_zeroed()
            }
        }

        impl $t {
            /// Decodes the first bytes of `bytes`; `None` when there are too few.
            pub fn decode(bytes: &[u8]) -> Option<$t> {
                <$t>::read_from_prefix(bytes).ok().map(|(value, _)| value)
            }
        }
    };
}
pub(crate) use zeroed;
