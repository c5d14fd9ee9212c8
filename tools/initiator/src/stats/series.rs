//! Latency over time: one row of coarse counts an interval, from which pictures are drawn.

use std::time::Duration;

/// Buckets of a row: eight an octave, from 1 us to 16.8 s.
pub const BUCKETS: usize = 192;
/// Where the first bucket starts, as a power of two of nanoseconds.
const FIRST_OCTAVE: u32 = 10;
/// Rows kept; when they are full, neighbours are joined and the interval doubles.
const MAX_ROWS: usize = 600;

/// The bucket that a latency falls into.
#[inline]
pub fn bucket(ns: u64) -> usize {
    if ns < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = ns.ilog2();
    let eighth = (ns >> (octave - 3)) & 7;
    (((octave - FIRST_OCTAVE) as usize) * 8 + eighth as usize).min(BUCKETS - 1)
}

/// The shortest latency in a bucket, in nanoseconds.
pub fn bucket_floor(bucket: usize) -> u64 {
    let octave = FIRST_OCTAVE + (bucket / 8) as u32;
    (8 + (bucket % 8) as u64) << (octave - 3)
}

/// What was done in one interval.
#[derive(Clone, Debug)]
pub struct Row {
    /// Commands completed.
    pub ops: u64,
    /// The longest latency, in nanoseconds.
    pub max: u64,
    /// Commands by [`bucket`].
    pub buckets: [u32; BUCKETS],
}

impl Default for Row {
    fn default() -> Self {
        Row { ops: 0, max: 0, buckets: [0; BUCKETS] }
    }
}

impl Row {
    /// Counts one command.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.ops += 1;
        self.max = self.max.max(ns);
        self.buckets[bucket(ns)] += 1;
    }

    /// Counts all of `other` too.
    pub fn add(&mut self, other: &Row) {
        self.ops += other.ops;
        self.max = self.max.max(other.max);
        for (a, b) in self.buckets.iter_mut().zip(&other.buckets) {
            *a = a.saturating_add(*b);
        }
    }

    /// About the latency that a `share` (0..=1) of the commands are at or below, in nanoseconds: the middle of its
    /// bucket. 0 for an empty row.
    pub fn quantile(&self, share: f64) -> u64 {
        let goal = (share * self.ops as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (i, &n) in self.buckets.iter().enumerate() {
            seen += u64::from(n);
            if seen >= goal {
                return (bucket_floor(i) + bucket_floor(i + 1)) / 2;
            }
        }
        0
    }
}

/// Rows, one an interval, from the start of a run.
#[derive(Clone, Debug)]
pub struct Series {
    /// How long each row lasted.
    pub interval: Duration,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Series {
    /// An empty series, with room for all the rows there can be.
    pub fn new(interval: Duration) -> Series {
        Series { interval, rows: Vec::with_capacity(MAX_ROWS) }
    }

    /// The row for the moment `at` after the start, made when it is not there yet.
    pub fn row_at(&mut self, at: Duration) -> &mut Row {
        let mut index = (at.as_nanos() / self.interval.as_nanos().max(1)) as usize;
        while index >= MAX_ROWS {
            self.halve();
            index /= 2;
        }
        if self.rows.len() <= index {
            self.rows.resize(index + 1, Row::default());
        }
        &mut self.rows[index]
    }

    /// Joins neighbouring rows; the interval doubles.
    fn halve(&mut self) {
        self.interval *= 2;
        let half = self.rows.len().div_ceil(2);
        for i in 0..half {
            let mut row = self.rows[2 * i].clone();
            if let Some(next) = self.rows.get(2 * i + 1) {
                row.add(next);
            }
            self.rows[i] = row;
        }
        self.rows.truncate(half);
    }

    /// Counts all of `other` too, row by row; the coarser interval of both is taken.
    pub fn add(&mut self, other: &Series) {
        while self.interval < other.interval {
            self.halve();
        }
        for (i, row) in other.rows.iter().enumerate() {
            self.row_at(other.interval * i as u32).add(row);
        }
    }

    /// The same over at most `columns` rows, for a picture that is that wide.
    #[must_use]
    pub fn fitted(&self, columns: usize) -> Series {
        let mut s = self.clone();
        while s.rows.len() > columns.max(1) {
            s.halve();
        }
        s
    }

    /// The lowest and highest bucket in use, or `None` when nothing was counted.
    pub fn span(&self) -> Option<(usize, usize)> {
        let used = |i: &usize| self.rows.iter().any(|r| r.buckets[*i] > 0);
        Some(((0..BUCKETS).find(used)?, (0..BUCKETS).rev().find(used)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_and_order() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1023), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for b in 0..BUCKETS {
            assert_eq!(bucket(bucket_floor(b)), b);
            assert!(bucket_floor(b + 1) > bucket_floor(b));
        }
    }

    #[test]
    fn joining_loses_nothing() {
        let mut s = Series::new(Duration::from_millis(1));
        for i in 0..5 * MAX_ROWS as u64 {
            s.row_at(Duration::from_millis(i)).record(20_000 + i);
        }
        assert!(s.rows.len() <= MAX_ROWS);
        assert_eq!(s.rows.iter().map(|r| r.ops).sum::<u64>(), 5 * MAX_ROWS as u64);
        assert_eq!(s.interval, Duration::from_millis(8));
        let f = s.fitted(50);
        assert!(f.rows.len() <= 50 && f.rows.iter().map(|r| r.ops).sum::<u64>() == 5 * MAX_ROWS as u64);
        let mut t = Series::new(Duration::from_millis(1));
        t.row_at(Duration::ZERO).record(1);
        t.add(&s);
        assert_eq!(t.rows.iter().map(|r| r.ops).sum::<u64>(), 5 * MAX_ROWS as u64 + 1);
    }

    #[test]
    fn quantiles_are_near() {
        let mut r = Row::default();
        for i in 1..=1000u64 {
            r.record(i * 1000);
        }
        let p50 = r.quantile(0.5) as f64;
        assert!((p50 / 500_000.0 - 1.0).abs() < 0.13, "{p50}");
        assert_eq!(Row::default().quantile(0.5), 0);
    }
}
