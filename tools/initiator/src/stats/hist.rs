//! Latencies of a whole run, to p99.99, and the summary of one direction.

use crate::units;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt;

/// The longest latency that is told apart: 100 s. Longer ones count as this.
const LONGEST_NS: u64 = 100_000_000_000;

/// A histogram of latencies in nanoseconds, exact to three digits; recording allocates nothing.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Latency(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are constants that fit"))
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latency({} values, median {})", self.0.len(), units::nanos(self.at(50.0)))
    }
}

impl Latency {
    /// Counts one.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// Counts all of `other` too.
    pub fn add(&mut self, other: &Latency) {
        // Both have the same bounds, so that every value of one fits the other.
        let _ = self.0.add(&other.0);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that `percent` of all are at or below, in nanoseconds; 0 when there are none.
    pub fn at(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// The figures a report shows.
    pub fn summary(&self) -> LatencySummary {
        let us = |ns: u64| ns as f64 / 1e3;
        LatencySummary {
            min: us(if self.0.is_empty() { 0 } else { self.0.min() }),
            mean: self.0.mean() / 1e3,
            stdev: self.0.stdev() / 1e3,
            p50: us(self.at(50.0)),
            p90: us(self.at(90.0)),
            p95: us(self.at(95.0)),
            p99: us(self.at(99.0)),
            p99_9: us(self.at(99.9)),
            p99_99: us(self.at(99.99)),
            max: us(self.0.max()),
        }
    }
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "each field is the percentile it is named after")]
pub struct LatencySummary {
    pub min: f64,
    pub mean: f64,
    pub stdev: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    #[serde(rename = "p99.99")]
    pub p99_99: f64,
    pub max: f64,
}

/// What one direction (reads, writes, or both) did.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Commands completed.
    pub ops: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Commands a second.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Latencies in microseconds.
    pub latency_us: LatencySummary,
}

impl Side {
    /// From the latencies of commands of `block` bytes over `seconds`.
    pub fn new(latency: &Latency, block: u64, seconds: f64) -> Side {
        let ops = latency.count();
        let per = if seconds > 0.0 { 1.0 / seconds } else { 0.0 };
        Side {
            ops,
            bytes: ops * block,
            iops: ops as f64 * per,
            bytes_per_second: (ops * block) as f64 * per,
            latency_us: latency.summary(),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let l = &self.latency_us;
        let t = |us: f64| units::nanos((us * 1e3) as u64);
        writeln!(
            f,
            "{} IOPS, {}/s ({} commands, {})",
            units::count(self.iops),
            units::bytes(self.bytes_per_second as u64),
            self.ops,
            units::bytes(self.bytes)
        )?;
        writeln!(
            f,
            "    latency  min {}  mean {}  stdev {}  max {}",
            t(l.min),
            t(l.mean),
            t(l.stdev),
            t(l.max)
        )?;
        write!(
            f,
            "    p50 {}  p90 {}  p95 {}  p99 {}  p99.9 {}  p99.99 {}",
            t(l.p50),
            t(l.p90),
            t(l.p95),
            t(l.p99),
            t(l.p99_9),
            t(l.p99_99)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut l = Latency::default();
        for i in 1..=10_000u64 {
            l.record(i * 1000);
        }
        let s = l.summary();
        assert!((s.p50 - 5000.0).abs() < 10.0 && (s.p99_99 - 9999.0).abs() < 10.0, "{s:?}");
        assert!((s.max - 10_000.0).abs() < 10.0);
        l.record(u64::MAX);
        assert!(l.summary().max > 9.0e7);
        let side = Side::new(&l, 4096, 2.0);
        assert_eq!(side.ops, 10_001);
        assert!((side.iops - 5000.5).abs() < 0.01);
        assert!(side.to_string().contains("p99.99"));
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        let s = Side::new(&Latency::default(), 4096, 0.0);
        assert_eq!((s.ops, s.latency_us.max as u64, s.iops as u64), (0, 0, 0));
    }
}
