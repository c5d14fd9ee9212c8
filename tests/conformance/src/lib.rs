//! Conformance and hostility tests of the target, over the user-space initiator.
//!
//! This library starts a target in this process, on loopback, and judges tables of commands against it; the tests beside
//! it hold the tables. What a row expects comes from the specification, not from the target's source.

pub mod bystander;
pub mod erasable;
pub mod pdu;
pub mod pool;
pub mod stage;
pub mod subject;
pub mod table;

pub use subject::Subject;
pub use table::{Expect, Row, judge};
