//! Volumes over stores: the plain volume, its claims and its special blocks.
//!
//! [`open`] and [`open_memory`] give an [`Opened`]: the [`caisson_block::Volume`] that controllers submit to, and the
//! [`Manage`] handle that the management plane keeps. Volumes of other kinds come in by the same pair.

mod check;
mod direct;
mod file;
mod large;
mod manage;
mod marks;
mod sidecar;
mod slices;
mod steps;

pub use check::{Run, Shape};
pub use direct::Direct;
pub use file::FileVolume;
pub use manage::{Manage, ManageError, OpenError, Opened, Options, open, open_memory};
pub use sidecar::Keeper;
