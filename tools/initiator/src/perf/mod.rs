//! The load generator, in the manner of fio and spdk_nvme_perf.
//!
//! [`run`] takes established I/O queues ([`Link`]) and a namespace, drives them from one or more threads by a
//! [`Workload`], and reports what came of it. It does not connect: [the client] does.

pub mod content;
mod engine;
mod lane;
mod placed;
mod report;
pub mod verify;
pub mod workload;

pub use content::Content;
pub use engine::Shared;
pub use lane::{Link, Way};
pub use report::{Report, Verified};
pub use workload::{Pattern, Until, Workload};

use crate::error::{Error, Result};
use crate::stats::{Latency, Row, Series};
use crate::sys::{self, CpuTime};
use engine::{Measured, Plan, drive};
use lane::{Data, Lane, Region};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use verify::Ledger;
use workload::Generator;

/// Blocks that verification keeps track of at most, over all connections: 256 MiB of memory.
const MAX_LEDGER: u64 = 64 << 20;

/// The namespace that is driven.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Namespace {
    /// NSID.
    pub nsid: u32,
    /// Bytes of a logical block.
    pub lba_bytes: u32,
    /// Size in logical blocks.
    pub blocks: u64,
}

/// What is known while a run goes on.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Commands done since the last time.
    pub ops: u64,
    /// Over this long.
    pub over: Duration,
    /// Their latencies.
    pub row: Row,
}

/// Which part of the namespace each lane works on: its first block, in blocks of the workload, and how many.
fn regions(w: &Workload, ns: &Namespace) -> Result<(u64, u64)> {
    let lba = u64::from(ns.lba_bytes);
    let block = u64::from(w.block);
    if block == 0 || !block.is_multiple_of(lba) {
        return Err(Error::unsuitable(
            format!("blocks of {block} bytes are no multiple of the namespace's {lba}"),
            format!("use --block-size {}", block.max(1).next_multiple_of(lba)),
        ));
    }
    let whole = ns.blocks.saturating_mul(lba);
    let size = if w.size == 0 { whole.saturating_sub(w.offset) } else { w.size };
    if !w.offset.is_multiple_of(lba)
        || w.offset.checked_add(size).is_none_or(|end| end > whole)
        || size < block
    {
        return Err(Error::unsuitable(
            format!("{size} bytes at {} are not inside the namespace of {whole} bytes", w.offset),
            "choose --offset and --size inside it, --offset a multiple of its block size",
        ));
    }
    let blocks = size / block;
    let lanes = u64::from(w.connections.max(1));
    if (w.verify || !w.pattern.is_random()) && blocks < lanes {
        return Err(Error::unsuitable(
            format!("{blocks} blocks are too few for {lanes} connections"),
            "use fewer connections or a larger --size",
        ));
    }
    if w.verify && blocks > MAX_LEDGER {
        return Err(Error::unsuitable(
            format!("verification would have to remember {blocks} blocks"),
            format!("use --size {} or less", MAX_LEDGER * block),
        ));
    }
    Ok((blocks, lanes))
}

fn lanes(links: Vec<Link>, w: &Workload, ns: &Namespace) -> Result<Vec<Lane>> {
    let (blocks, lanes) = regions(w, ns)?;
    let per_block = u64::from(w.block / ns.lba_bytes);
    // Where commands of different connections must not meet, or each goes through its part in order, each has its own.
    let own = w.verify || !w.pattern.is_random();
    let share = if own { blocks / lanes } else { blocks };
    let quota = |lane: u64| match w.until {
        Until::Time(_) => u64::MAX,
        Until::Bytes(bytes) => {
            let ops = bytes.div_ceil(u64::from(w.block));
            ops / lanes + u64::from(lane < ops % lanes)
        }
    };
    let make = |(i, link): (usize, Link)| {
        let i = i as u64;
        let first = (w.offset / u64::from(ns.lba_bytes)) + if own { i * share * per_block } else { 0 };
        let region = Region { nsid: ns.nsid, lba_bytes: ns.lba_bytes, first, block: w.block };
        let data = if w.verify {
            let mut ledger = Ledger::new(w.seed, share as usize);
            ledger.judge_unwritten = w.pattern.read_percent(w.read_percent) == 100;
            Data::Checked(ledger)
        } else {
            w.content.map_or(Data::Noise, Data::Made)
        };
        if w.depth > link.depth {
            return Err(Error::unsuitable(
                format!("the queue takes {} commands at once, not {}", link.depth, w.depth),
                format!("use --depth {}", link.depth),
            ));
        }
        let mut lane =
            Lane::new(link, region, w.depth, Generator::new(w, share, quota(i), i), data, w.seed + i)?;
        lane.send_at_most(w.send);
        Ok(lane)
    };
    links.into_iter().enumerate().map(make).collect()
}

/// Drives `links` by `w`. `progress` is called every tenth of a second, on the calling thread, while it goes on.
///
/// # Errors
/// The first command that fails, a connection that ends, a workload that does not fit the namespace, or wrong data.
pub fn run(
    links: Vec<Link>,
    ns: &Namespace,
    w: &Workload,
    shared: &Arc<Shared>,
    progress: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Report> {
    let lanes = lanes(links, w, ns)?;
    let plan = Plan {
        time: match w.until {
            Until::Time(t) => Some(t),
            Until::Bytes(_) => None,
        },
        ramp: w.ramp,
        rate: if w.rate == 0 { 0 } else { (w.rate / u64::from(w.threads.max(1))).max(1) },
        poll: w.poll,
        timeout: w.timeout,
    };
    let process = CpuTime::of_process();
    let (lanes, measured) = on_threads(lanes, w, plan, shared, progress)?;
    let process = CpuTime::of_process().since(process);
    let mut report = report::build(w, ns, &measured, process);
    if w.verify {
        let lanes = if w.pattern.read_percent(w.read_percent) == 100 {
            lanes
        } else {
            let mut lanes = lanes;
            lanes.iter_mut().for_each(Lane::read_back);
            let plan = Plan { time: None, ramp: Duration::ZERO, rate: 0, ..plan };
            shared.stop.store(false, Ordering::Relaxed);
            on_threads(lanes, w, plan, shared, progress)?.0
        };
        report.verified = Some(report::verdict(lanes.iter().filter_map(Lane::ledger))?);
    }
    Ok(report)
}

/// Runs the lanes on as many threads as are asked for, and gives them back with what was measured.
fn on_threads(
    lanes: Vec<Lane>,
    w: &Workload,
    plan: Plan,
    shared: &Arc<Shared>,
    progress: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<(Vec<Lane>, Vec<Measured>)> {
    let threads = (w.threads.max(1) as usize).min(lanes.len().max(1));
    let mut groups: Vec<Vec<Lane>> = (0..threads).map(|_| Vec::new()).collect();
    for (i, lane) in lanes.into_iter().enumerate() {
        groups[i % threads].push(lane);
    }
    let mut handles = Vec::new();
    let waiting = std::thread::current();
    for (i, mut group) in groups.into_iter().enumerate() {
        let (shared, waiting) = (Arc::clone(shared), waiting.clone());
        let core = w.cores.get(i % w.cores.len().max(1)).copied();
        let spawned = std::thread::Builder::new().name(format!("perf-{i}")).spawn(move || {
            if let Some(core) = core {
                sys::pin(core).map_err(|source| Error::Io { doing: "pinning a thread to a core", source })?;
            }
            let measured = drive(&mut group, plan, &shared);
            waiting.unpark();
            Ok::<_, Error>((group, measured?))
        });
        handles.push(spawned.map_err(|source| Error::Io { doing: "starting a thread", source })?);
    }
    let watched = watch(&handles, shared, progress);
    if watched.is_err() {
        shared.stop.store(true, Ordering::Relaxed);
    }
    let mut back = Vec::new();
    let mut measured = Vec::new();
    let mut failed = watched.err();
    for handle in handles {
        match handle.join() {
            Ok(Ok((group, m))) => {
                back.extend(group);
                measured.push(m);
            }
            Ok(Err(e)) => failed = failed.or(Some(e)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    failed.map_or(Ok((back, measured)), Err)
}

/// Calls `progress` until all threads are done.
fn watch<T>(
    handles: &[std::thread::JoinHandle<T>],
    shared: &Shared,
    progress: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    let mut last = start;
    while !handles.iter().all(std::thread::JoinHandle::is_finished) {
        // A thread that ends wakes this one, perhaps a moment before it counts as finished.
        std::thread::park_timeout(Duration::from_millis(100));
        let now = Instant::now();
        if now - last < Duration::from_millis(90) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let row = shared.recent.lock().map(|mut r| std::mem::take(&mut *r)).unwrap_or_default();
        let ops = shared.ops.swap(0, Ordering::Relaxed);
        progress(&Progress { elapsed: now - start, ops, over: now - last, row })?;
        last = now;
    }
    Ok(())
}

/// Joins what the threads measured.
fn joined(measured: &[Measured]) -> (Latency, Latency, Series) {
    let mut all = (Latency::default(), Latency::default(), Series::new(Duration::from_millis(20)));
    for m in measured {
        all.0.add(&m.read);
        all.1.add(&m.write);
        all.2.add(&m.series);
    }
    all
}

#[cfg(test)]
mod tests;
