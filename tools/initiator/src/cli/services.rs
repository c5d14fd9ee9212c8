//! `caisson bench --services`: what the data services cost, end to end, beside a plain file that is driven in turn.
//!
//! Starts the targets itself, with the program that it is part of: for each row one with a fresh plain file and one with a fresh
//! pool, so that what is written for the first time is compared with what is, and what is overwritten with what is: a file in
//! memory takes its pages with the first, which costs as much as the copy. Owns the folder that they lie in, and removes it.

use super::bench::BenchArgs;
use super::perf::measure;
use super::target::{Exported, Folder, NQN, Target, export};
use super::{connect_io, print_json};
use crate::error::Result;
use crate::net::Address;
use crate::perf::{Content, Pattern, Until, Workload};
use crate::units;
use serde::Serialize;
use std::time::Duration;

/// Driven before each measurement, and not measured.
const RAMP: Duration = Duration::from_millis(150);

/// What is measured first: everything is written once.
const NEW: &str = "128k new";

/// What is measured of each volume after that, in this order: name, order of blocks, bytes and depth. Writes overwrite.
const WORKLOADS: [(&str, Pattern, u32, u32); 4] = [
    ("128k write", Pattern::Write, 128 << 10, 8),
    ("128k read", Pattern::Read, 128 << 10, 8),
    ("4k randwrite", Pattern::RandWrite, 4096, 32),
    ("4k randread", Pattern::RandRead, 4096, 32),
];

/// Percent of the blocks that are copies, in the rows with deduplication.
const SHARES: [u32; 4] = [0, 50, 90, 100];

/// A row: a volume's services, and what is written to it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    dedup: bool,
    compression: bool,
    content: Content,
}

impl Row {
    fn name(&self) -> String {
        let services = match (self.dedup, self.compression) {
            (false, false) => "sealed",
            (true, false) => "dedup",
            (false, true) => "zstd",
            (true, true) => "all",
        };
        format!("{services} {}x {}%", self.content.ratio, self.content.duplicates)
    }
}

/// Each service by itself with the contents that concern it, and all together with all contents.
fn rows() -> Vec<Row> {
    let row = |dedup, compression, ratio, duplicates| Row {
        dedup,
        compression,
        content: Content { duplicates, ratio },
    };
    let mut all = vec![row(false, false, 1, 0)];
    all.extend(SHARES.map(|duplicates| row(true, false, 1, duplicates)));
    all.extend([1, 2, 4].map(|ratio| row(false, true, ratio, 0)));
    for ratio in [1, 2, 4] {
        all.extend(SHARES.map(|duplicates| row(true, true, ratio, duplicates)));
    }
    all
}

/// One measurement of one target.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    iops: f64,
    p50_us: f64,
    p99_us: f64,
    /// Processor time of the threads that serve connections, a command.
    serving_us: f64,
    /// Of the target's other threads, a command.
    beside_us: f64,
}

/// A row and one workload.
#[derive(Debug, Serialize)]
struct Cell {
    workload: &'static str,
    /// Medians.
    pool: Sample,
    plain: Sample,
    /// The pool's commands a second by the plain file's.
    ratio: f64,
    /// The target's whole processor time a command by the same with the plain file.
    cpu_ratio: f64,
    pool_runs: Vec<Sample>,
    plain_runs: Vec<Sample>,
}

impl Cell {
    fn new(workload: &'static str, pool_runs: Vec<Sample>, plain_runs: Vec<Sample>) -> Cell {
        let (pool, plain) = (median(&pool_runs), median(&plain_runs));
        let cpu = |s: Sample| s.serving_us + s.beside_us;
        Cell {
            workload,
            ratio: pool.iops / plain.iops.max(1e-9),
            cpu_ratio: cpu(pool) / cpu(plain).max(1e-9),
            pool,
            plain,
            pool_runs,
            plain_runs,
        }
    }
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    #[serde(flatten)]
    row: Row,
    cells: Vec<Cell>,
}

/// A target, where it is, and how often it was driven.
struct Subject {
    target: Target,
    address: Address,
    content: Content,
    runs: u64,
}

impl Subject {
    /// A target with a new store, written once; and how that went.
    fn start(
        args: &BenchArgs,
        folder: &Folder,
        store: &str,
        more: &[String],
        content: Content,
    ) -> Result<(Subject, Sample)> {
        let Exported { target, address, .. } = export(args, folder, store, args.size, true, more)?;
        let mut subject = Subject { target, address, content, runs: 0 };
        let (_, pattern, block, depth) = WORKLOADS[0];
        let sample = subject.count(args, pattern, block, depth, Until::Bytes(args.size))?;
        Ok((subject, sample))
    }

    fn drive(
        &mut self,
        args: &BenchArgs,
        pattern: Pattern,
        block: u32,
        depth: u32,
        until: Until,
    ) -> Result<crate::perf::Report> {
        self.runs += 1;
        let w = Workload {
            pattern,
            block,
            depth,
            cores: vec![args.driver_core],
            until,
            size: args.size,
            content: Some(self.content),
            seed: self.runs,
            ..Workload::default()
        };
        let mut client = connect_io(&args.host, &self.address, Some(NQN))?;
        measure(&mut client, None, &w, true)
    }

    fn sample(&mut self, args: &BenchArgs, pattern: Pattern, block: u32, depth: u32) -> Result<Sample> {
        self.drive(args, pattern, block, depth, Until::Time(RAMP))?;
        self.count(args, pattern, block, depth, Until::Time(args.time))
    }

    fn count(
        &mut self,
        args: &BenchArgs,
        pattern: Pattern,
        block: u32,
        depth: u32,
        until: Until,
    ) -> Result<Sample> {
        let before = self.target.spent();
        let report = self.drive(args, pattern, block, depth, until)?;
        let spent = self.target.spent().since(before);
        let each = |ns: u64| ns as f64 / 1e3 / report.total.ops.max(1) as f64;
        let l = report.total.latency_us;
        Ok(Sample {
            iops: report.total.iops,
            p50_us: l.p50,
            p99_us: l.p99,
            serving_us: each(spent.serving),
            beside_us: each(spent.beside),
        })
    }
}

fn median(samples: &[Sample]) -> Sample {
    let of = |f: fn(&Sample) -> f64| {
        let mut v: Vec<f64> = samples.iter().map(f).collect();
        v.sort_by(f64::total_cmp);
        v.get(v.len() / 2).copied().unwrap_or(0.0)
    };
    Sample {
        iops: of(|s| s.iops),
        p50_us: of(|s| s.p50_us),
        p99_us: of(|s| s.p99_us),
        serving_us: of(|s| s.serving_us),
        beside_us: of(|s| s.beside_us),
    }
}

/// Runs the rows whose names contain `--only`.
///
/// # Errors
/// When a target cannot be started or fails a command.
pub(super) fn bench(args: &BenchArgs) -> Result<()> {
    let folder = Folder::new(&args.folder)?;
    let wanted = |row: &Row| args.only.as_ref().is_none_or(|t| row.name().contains(t.as_str()));
    if !args.json {
        let names = || std::iter::once(NEW).chain(WORKLOADS.iter().map(|w| w.0));
        let heads: String = names().map(|name| format!("   {name:>26}")).collect();
        println!("{:<12}{heads}", "");
        let heads: String =
            names().map(|_| format!("   {:>9} {:>6} {:>9}", "IOPS", "ratio", "CPU")).collect();
        println!("{:<12}{heads}", "");
    }
    let mut lines = Vec::new();
    for row in rows().into_iter().filter(wanted) {
        let line = compare(args, &folder, row)?;
        if !args.json {
            print(&line, lines.is_empty());
        }
        lines.push(line);
    }
    if args.json {
        return print_json(&lines);
    }
    Ok(())
}

fn compare(args: &BenchArgs, folder: &Folder, row: Row) -> Result<Line> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut pair = None;
    for _ in 0..args.repeats {
        // What was there goes, with its files, before what takes its place comes.
        drop(pair.take());
        let (plain, sample) = fresh(args, folder, None, row.content)?;
        theirs.push(sample);
        plain.target.pause();
        let (pool, sample) = fresh(args, folder, Some(row), row.content)?;
        ours.push(sample);
        pair = Some((pool, plain));
    }
    let mut cells = vec![Cell::new(NEW, ours, theirs)];
    for (workload, pattern, block, depth) in WORKLOADS {
        let Some((pool, plain)) = &mut pair else { break };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..args.repeats {
            ours.push(pool.sample(args, pattern, block, depth)?);
            pool.target.pause();
            plain.target.resume();
            let sample = plain.sample(args, pattern, block, depth);
            plain.target.pause();
            pool.target.resume();
            theirs.push(sample?);
        }
        cells.push(Cell::new(workload, ours, theirs));
    }
    Ok(Line { name: row.name(), row, cells })
}

/// A target with a new plain file, or with a pool of `row`, that was written once; and how that went.
fn fresh(args: &BenchArgs, folder: &Folder, row: Option<Row>, content: Content) -> Result<(Subject, Sample)> {
    // Of the row before. Not there the first time.
    let names: &[&str] = if row.is_some() { &["pool", "key"] } else { &["plain"] };
    names.iter().for_each(|name| drop(std::fs::remove_file(folder.file(name))));
    let path = |name: &str| folder.file(name).display().to_string();
    let Some(row) = row else { return Subject::start(args, folder, &path("plain"), &[], content) };
    let on = |on: bool, yes: &str| if on { yes.to_owned() } else { "off".to_owned() };
    let more = [
        "--pool-size".into(),
        (args.size * 4 + (1 << 30)).to_string(),
        "--key-file".into(),
        path("key"),
        "--passphrase-file".into(),
        path("passphrase"),
        "--dedup".into(),
        on(row.dedup, "on"),
        "--compression".into(),
        on(row.compression, "zstd:1"),
    ];
    Subject::start(args, folder, &format!("pool:{}", path("pool")), &more, content)
}

/// Prints a row, and before the first one the plain file's.
fn print(line: &Line, first: bool) {
    let cell = |s: &Sample, ratio: f64| {
        let cpu = units::nanos(((s.serving_us + s.beside_us) * 1e3) as u64);
        format!("   {:>9} {ratio:>6.2} {cpu:>9}", units::count(s.iops))
    };
    if first {
        let cells: String = line.cells.iter().map(|c| cell(&c.plain, 1.0)).collect();
        println!("{:<12}{cells}", "plain file");
    }
    let cells: String = line.cells.iter().map(|c| cell(&c.pool, c.ratio)).collect();
    println!("{:<12}{cells}", line.name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_off_and_on_and_all_meet_all_contents() {
        let names: Vec<String> = rows().iter().map(Row::name).collect();
        assert_eq!(names.len(), 20);
        for name in ["sealed 1x 0%", "dedup 1x 90%", "zstd 4x 0%", "all 1x 0%", "all 2x 50%", "all 4x 100%"] {
            assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name}");
        }
    }
}
