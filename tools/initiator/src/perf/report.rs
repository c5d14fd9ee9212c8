//! What a run came to, for people and for programs.

use super::engine::Measured;
use super::verify::Ledger;
use super::workload::Workload;
use super::{Namespace, joined};
use crate::error::{Error, Result};
use crate::stats::{Latency, Series, Side};
use crate::sys::CpuTime;
use serde::Serialize;
use std::fmt;

/// The outcome of verification.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Verified {
    /// Logical blocks checked.
    pub checked: u64,
    /// Of these, all zeroes and not written by this run.
    pub unwritten: u64,
}

/// What the generator itself cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// CPU time of the driving threads, in seconds.
    pub threads: CpuTime,
    /// CPU time of the whole process.
    pub process: CpuTime,
    /// CPU time of the driving threads a command, in nanoseconds; polling for nothing is in it.
    pub ns_per_command: f64,
    /// Reads from sockets that found something, a command.
    pub reads_per_command: f64,
    /// Writes to sockets, a command.
    pub writes_per_command: f64,
    /// All system calls on sockets, polling for nothing included.
    pub calls: u64,
}

/// The report of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for.
    pub workload: Workload,
    /// What was driven.
    pub namespace: Namespace,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// Both directions together.
    pub total: Side,
    /// Reads, where there were any.
    pub read: Option<Side>,
    /// Writes, where there were any.
    pub write: Option<Side>,
    /// What the generator itself cost.
    pub cost: Cost,
    /// What verification found.
    pub verified: Option<Verified>,
    /// Latency over time.
    #[serde(skip)]
    pub series: Series,
}

pub(super) fn build(w: &Workload, ns: &Namespace, measured: &[Measured], process: CpuTime) -> Report {
    let (read, write, series) = joined(measured);
    let seconds = measured.iter().map(|m| m.seconds).fold(0.0, f64::max);
    let side = |l: &Latency| (l.count() > 0).then(|| Side::new(l, u64::from(w.block), seconds));
    let mut both = read.clone();
    both.add(&write);
    let per = 1.0 / both.count().max(1) as f64;
    let calls: [u64; 4] = std::array::from_fn(|i| measured.iter().map(|m| m.calls[i]).sum());
    let threads = measured.iter().fold(CpuTime::default(), |a, m| CpuTime {
        user: a.user + m.cpu.user,
        system: a.system + m.cpu.system,
    });
    Report {
        workload: w.clone(),
        namespace: *ns,
        seconds,
        total: Side::new(&both, u64::from(w.block), seconds),
        read: side(&read),
        write: side(&write),
        cost: Cost {
            threads,
            process,
            ns_per_command: threads.total() * 1e9 * per,
            reads_per_command: calls[1] as f64 * per,
            writes_per_command: calls[2] as f64 * per,
            calls: calls[0] + calls[2] + calls[3],
        },
        verified: None,
        series,
    }
}

pub(super) fn verdict<'a>(ledgers: impl Iterator<Item = &'a Ledger>) -> Result<Verified> {
    let mut all = Verified { checked: 0, unwritten: 0 };
    let (mut bad, mut first) = (0, None);
    for l in ledgers {
        all.checked += l.checked;
        all.unwritten += l.unwritten;
        bad += l.wrong;
        first = first.or(l.first);
    }
    match first {
        None => Ok(all),
        Some((lba, why)) => Err(Error::Miscompare { bad, checked: all.checked, lba, why: why.into() }),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, side) in [("read", &self.read), ("write", &self.write)] {
            if let Some(side) = side {
                writeln!(f, "  {name:<6}{side}")?;
            }
        }
        if self.read.is_some() && self.write.is_some() {
            writeln!(f, "  {:<6}{}", "total", self.total)?;
        }
        let c = &self.cost;
        writeln!(
            f,
            "  this program: {:.0}% of a core (user {:.2} s, system {:.2} s), {:.0} ns a command; {:.2} reads and {:.2} writes \
             of sockets a command",
            100.0 * c.threads.total() / self.seconds.max(1e-9),
            c.threads.user,
            c.threads.system,
            c.ns_per_command,
            c.reads_per_command,
            c.writes_per_command
        )?;
        if let Some(v) = self.verified {
            writeln!(
                f,
                "  verified: {} blocks, all right ({} of them never written)",
                v.checked, v.unwritten
            )?;
        }
        Ok(())
    }
}
