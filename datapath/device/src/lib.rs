//! Stores: file or block device, RAM, null.
//!
//! A store keeps bytes at addresses and knows nothing of logical blocks, namespaces or hosts; volumes are built over
//! it. Stores in memory answer at once ([`Memory`]); a file or block device answers through the ring of the thread that
//! asks ([`FileStore`]). A [`StoreSpec`] is what a person types to name one.

mod ahead;
mod blocking;
mod buffers;
mod fault;
mod file;
mod holder;
mod memory;
mod null;
mod open;
mod pages;
mod ram;
#[cfg(feature = "sim")]
pub mod sim;
mod spec;
pub mod threaded;

pub use blocking::{execute, execute_part};
pub use buffers::{Buffers, MAX_REQUEST};
pub use fault::StoreError;
pub use file::{Client, FileStore};
pub use memory::Memory;
pub use null::NullStore;
pub use open::{Alignment, FileError, FileKind};
pub use ram::RamStore;
pub use spec::{Size, SpecError, StoreSpec};
