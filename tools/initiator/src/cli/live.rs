//! The line that says each second how a run goes, on a terminal.

use crate::perf::Progress;
use crate::stats::Row;
use crate::units;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Collects progress and prints it once a second on standard error, where that is a terminal or `always`.
pub(super) struct Live {
    on: bool,
    block: u64,
    row: Row,
    ops: u64,
    over: Duration,
}

impl Live {
    pub(super) fn new(block: u32, quiet: bool) -> Live {
        let on = !quiet && std::io::stderr().is_terminal();
        Live { on, block: u64::from(block), row: Row::default(), ops: 0, over: Duration::ZERO }
    }

    pub(super) fn show(&mut self, p: &Progress) {
        self.row.add(&p.row);
        self.ops += p.ops;
        self.over += p.over;
        if !self.on || self.over < Duration::from_millis(950) {
            return;
        }
        let rate = self.row.ops as f64 / self.over.as_secs_f64();
        // A failure to print is no reason to stop measuring.
        let _ = writeln!(
            std::io::stderr(),
            "  {:>5.0} s  {:>8} IOPS  {:>10}/s  p50 {:>8}  p99 {:>8}  max {:>8}",
            p.elapsed.as_secs_f64(),
            units::count(rate),
            units::bytes((rate * self.block as f64) as u64),
            units::nanos(self.row.quantile(0.5)),
            units::nanos(self.row.quantile(0.99)),
            units::nanos(self.row.max)
        );
        *self = Live { on: self.on, block: self.block, row: Row::default(), ops: 0, over: Duration::ZERO };
    }
}
