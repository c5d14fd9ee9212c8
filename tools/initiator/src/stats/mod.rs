//! Counting what was done and how long it took: histograms, time series, pictures, reports.
//!
//! Fed by the load generator and the yardstick alike, so that their figures compare. Never touches a socket.

pub mod hist;
pub mod series;
pub mod svg;
pub mod term;

pub use hist::{Latency, Side};
pub use series::{Row, Series};
