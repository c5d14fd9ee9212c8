//! Addresses, buffers and the request contract between controllers and volumes.
//!
//! This is the seam that the datapath is built behind: a controller submits [`Request`]s to a [`Volume`] and gets each
//! answered exactly once through [`Cx::complete`]; a store reaches the device through [`Ring`], which the thread it
//! runs on hands in. There is no socket, no file, no clock and no randomness in here: whoever runs the thread (the
//! reactor in production, the simulator in tests) supplies them.
//!
//! Life of a request: `Volume::submit(cx, request)` either completes at once (RAM, cache) by pushing to
//! [`Completions`], or hands an [`IoOp`] to the ring; the thread later calls [`IoOwner::done`] with that operation
//! given back, and the volume completes then. What waits for another thread parks itself and is woken through
//! [`Remote`]. A request is always completed on the thread that submitted it.

mod buf;
mod cx;
mod list;
mod mapping;
pub mod offered;
mod pool;
mod request;

pub use buf::{Buf, BufMut, fetch};
pub use cx::{Completions, Cx, Heavy, IoKind, IoOp, IoOwner, Mono, Parked, Remote, Ring};
pub use list::{BufList, Reader};
pub use mapping::{Pages, prefer_huge};
pub use pool::{Pin, Pool};
pub use request::{BlockError, EraseBy, Erasure, Extent, Geometry, Op, Outcome, Request, Tag, Volume};

/// The unit of deduplication and of the pool's addresses, in bytes. Volumes may show smaller logical blocks.
pub const BLOCK: usize = 4096;
