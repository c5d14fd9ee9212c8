//! A stock Linux host in a VM, driven against caisson.
//!
//! Boots an image of `tools/testbed`, runs one suite of `guest/` in it against a target on this machine, or over RDMA in the
//! guest, acts for the guest on the target's side in the middle of the suite, and turns the guest's result lines into a verdict.
//!
//! It builds nothing of the guest itself (that is `tools/testbed/prepare`), holds no protocol knowledge, and must
//! never call a suite passed that did not run to its end.

mod commands;
mod in_guest;
pub mod paths;
mod programs;
pub mod results;
pub mod scenario;
pub mod suite;
mod target;
pub mod vm;
