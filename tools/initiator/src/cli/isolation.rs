//! `caisson bench --isolation`: what a connection that writes much, or deallocates, does to another that reads little.
//!
//! Starts a target of this program afresh for each measurement, on one core: the reader alone, its neighbour alone, both. The
//! reader's latency is measured at its end and asked of the target. A null store, whose commands cost a target next to
//! nothing, is the control: what happens to its reader is the sockets' and the machine's doing. Owns the folder of the targets.

use super::bench::BenchArgs;
use super::clearing;
use super::perf::measure;
use super::target::{Exported, Folder, NQN, export, program};
use super::{connect_io, print_json};
use crate::error::{Error, Result};
use crate::net::Address;
use crate::perf::{Content, Pattern, Report, Until, Workload};
use crate::sys;
use crate::units;
use serde::Serialize;
use std::time::Duration;

/// The writer's commands and how many at once.
const WRITES: (u32, u32) = (1 << 20, 8);
/// Bytes that it writes over and over; what the reader reads lies behind them.
const WRITTEN: u64 = 1 << 30;
/// Bytes that it hands to the kernel at once, so that its system calls do not keep the reader from the core for long.
const SEND: usize = 64 << 10;
/// Driven before anything is measured.
const RAMP: Duration = Duration::from_millis(300);
/// The reader's place in the real-time class.
const PRIORITY: i32 = 10;
/// What is written compresses so far.
const CONTENT: Content = Content { duplicates: 0, ratio: 2 };

/// Latencies of the reader, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Seen {
    p50_us: f64,
    p99_us: f64,
}

impl Seen {
    fn us(ns: Option<u64>) -> f64 {
        ns.unwrap_or(0) as f64 / 1e3
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Sample {
    /// As the reader sees it.
    client: Seen,
    /// From the target's look at its sockets that brought the command, to its completion.
    target: Seen,
    /// How long the target's turns took: what comes waits so long, at most, for the look.
    turn: Seen,
    reads: f64,
    /// Bytes a second.
    written: f64,
}

/// What a store came to: medians.
#[derive(Debug, Serialize)]
struct Line {
    store: &'static str,
    neighbour: Neighbour,
    /// The reader had its place in the real-time class.
    urgent: bool,
    alone: Sample,
    beside: Sample,
    writer_alone: Sample,
    client_p99_ratio: f64,
    target_p99_ratio: f64,
    alone_runs: Vec<Sample>,
    beside_runs: Vec<Sample>,
    writer_alone_runs: Vec<Sample>,
}

/// What the heavy neighbour does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Neighbour {
    /// Writes 1 MiB at depth 8.
    Write,
    /// Writes, and deallocates all of it, over and over.
    Clear,
}

impl Neighbour {
    fn name(self, store: &str) -> String {
        match self {
            Neighbour::Write => format!("{store} write"),
            Neighbour::Clear => format!("{store} clear"),
        }
    }
}

/// Who drives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Reader,
    Writer,
    Both,
}

fn median(samples: &[Sample]) -> Sample {
    let of = |f: &dyn Fn(&Sample) -> f64| {
        let mut v: Vec<f64> = samples.iter().map(f).collect();
        v.sort_by(f64::total_cmp);
        v.get(v.len() / 2).copied().unwrap_or(0.0)
    };
    let seen =
        |pick: fn(&Sample) -> Seen| Seen { p50_us: of(&|s| pick(s).p50_us), p99_us: of(&|s| pick(s).p99_us) };
    Sample {
        client: seen(|s| s.client),
        target: seen(|s| s.target),
        turn: seen(|s| s.turn),
        reads: of(&|s| s.reads),
        written: of(&|s| s.written),
    }
}

/// Runs the stores and neighbours whose names contain `--only`.
///
/// # Errors
/// When a target cannot be started or fails a command.
pub(super) fn bench(args: &BenchArgs) -> Result<()> {
    let folder = Folder::new(&args.folder)?;
    let mut lines = Vec::new();
    if !args.json {
        println!(
            "{:<10} {:>19} {:>19} {:>6}   {:>19} {:>19} {:>6}   {:>9}   {:>17}",
            "", "reader: alone", "beside", "p99", "target: alone", "beside", "p99", "turn", "writer: MiB/s"
        );
        let pair = format!("{:>9} {:>9}", "p50", "p99");
        println!(
            "{:<10} {pair} {pair} {:>6}   {pair} {pair} {:>6}   {:>9}   {:>8} {:>8}",
            "", "ratio", "ratio", "p99", "alone", "beside"
        );
    }
    let both = [Neighbour::Write, Neighbour::Clear];
    let all = both.into_iter().flat_map(|n| ["null", "ram", "file", "pool"].map(|store| (store, n)));
    for (store, neighbour) in all {
        if args.only.as_ref().is_some_and(|t| !neighbour.name(store).contains(t.as_str())) {
            continue;
        }
        let line = compare(args, &folder, store, neighbour)?;
        if !args.json {
            print(&line);
        }
        lines.push(line);
    }
    if args.json {
        return print_json(&lines);
    }
    Ok(())
}

fn compare(args: &BenchArgs, folder: &Folder, store: &'static str, neighbour: Neighbour) -> Result<Line> {
    let mut runs = [const { Vec::new() }; 3];
    for _ in 0..args.repeats {
        for (who, runs) in [Who::Reader, Who::Both, Who::Writer].into_iter().zip(&mut runs) {
            runs.push(sample(args, folder, (store, neighbour), who)?);
        }
    }
    let urgent = runs.iter().flatten().all(|(_, urgent)| *urgent);
    let [alone, beside, writer] = runs.map(|runs| runs.into_iter().map(|(s, _)| s).collect::<Vec<_>>());
    let (a, b) = (median(&alone), median(&beside));
    Ok(Line {
        store,
        neighbour,
        urgent,
        client_p99_ratio: b.client.p99_us / a.client.p99_us.max(1e-9),
        target_p99_ratio: b.target.p99_us / a.target.p99_us.max(1e-9),
        alone: a,
        beside: b,
        writer_alone: median(&writer),
        alone_runs: alone,
        beside_runs: beside,
        writer_alone_runs: writer,
    })
}

fn print(line: &Line) {
    let us = |v: f64| units::nanos((v * 1e3) as u64);
    let seen = |s: Seen| format!("{:>9} {:>9}", us(s.p50_us), us(s.p99_us));
    let mib = |s: &Sample| s.written / f64::from(1 << 20);
    println!(
        "{:<10} {} {} {:>6.2}   {} {} {:>6.2}   {:>9}   {:>8.0} {:>8.0}",
        line.neighbour.name(line.store),
        seen(line.alone.client),
        seen(line.beside.client),
        line.client_p99_ratio,
        seen(line.alone.target),
        seen(line.beside.target),
        line.target_p99_ratio,
        us(line.beside.turn.p99_us),
        mib(&line.writer_alone),
        mib(&line.beside)
    );
    if !line.urgent {
        println!(
            "           the reader had no place in the real-time class (not allowed): it shared its core with the writer"
        );
    }
}

/// Measures a fresh target. Also says whether the reader was in the real-time class, where there was one.
fn sample(
    args: &BenchArgs,
    folder: &Folder,
    (store, neighbour): (&str, Neighbour),
    who: Who,
) -> Result<(Sample, bool)> {
    let path = |name: &str| folder.file(name).display().to_string();
    let size = WRITTEN + args.size;
    let memory = store == "ram";
    // Not there the first time.
    ["plain", "pool", "key"].iter().for_each(|name| drop(std::fs::remove_file(folder.file(name))));
    let (store, more) = match store {
        "null" => (format!("null:{size}"), Vec::new()),
        "ram" => (format!("ram:{size}"), Vec::new()),
        "file" => (path("plain"), Vec::new()),
        _ => {
            let more = [
                "--pool-size",
                &(size * 2 + (1 << 30)).to_string(),
                "--key-file",
                &path("key"),
                "--passphrase-file",
                &path("passphrase"),
            ];
            (format!("pool:{}", path("pool")), more.map(str::to_owned).to_vec())
        }
    };
    let target = export(args, folder, &store, size, false, &more)?;
    let base = Workload { cores: vec![args.driver_core], content: Some(CONTENT), ..Workload::default() };
    let fill = Workload {
        pattern: Pattern::Write,
        block: 128 << 10,
        until: Until::Bytes(args.size),
        offset: WRITTEN,
        size: args.size,
        ..base.clone()
    };
    drive(args, &target.address, &fill)?;
    if memory {
        // Memory that is touched for the first time costs more than what is measured.
        let touch = Workload { until: Until::Bytes(WRITTEN), offset: 0, size: WRITTEN, ..fill };
        drive(args, &target.address, &touch)?;
    }
    let reads = Workload {
        pattern: Pattern::RandRead,
        depth: 1,
        until: Until::Time(args.time),
        ramp: RAMP * 2,
        offset: WRITTEN,
        size: args.size,
        poll: false,
        ..base.clone()
    };
    let writes = Workload {
        pattern: Pattern::Write,
        block: WRITES.0,
        depth: WRITES.1,
        // It begins before the reader is measured, and ends after it.
        until: Until::Time(args.time + RAMP * 2),
        ramp: RAMP,
        size: WRITTEN,
        poll: false,
        send: SEND,
        seed: 2,
        ..base
    };
    let to = &target.address;
    let heavy = || match neighbour {
        Neighbour::Write => drive(args, to, &writes).map(|report| report.total.bytes_per_second),
        Neighbour::Clear => {
            // As the load generator's threads do; elsewhere it would be on the target's core.
            let _ = sys::pin(args.driver_core);
            clearing::run(args, to, WRITTEN, args.time + RAMP * 3)
        }
    };
    let (mut read, mut write, mut urgent) = (None, None, true);
    std::thread::scope(|s| {
        let writer = (who != Who::Reader).then(|| s.spawn(heavy));
        let reader = (who != Who::Writer).then(|| {
            s.spawn(|| {
                let urgent = sys::urgent(PRIORITY).is_ok();
                drive(args, to, &reads).map(|report| (report, urgent))
            })
        });
        if let Some(thread) = reader {
            let (report, was) = joined(thread)?;
            (read, urgent) = (Some(report), was);
        }
        if let Some(thread) = writer {
            write = Some(joined(thread)?);
        }
        Ok::<_, Error>(())
    })?;
    let mut sample = target_side(args, &target)?;
    if let Some(report) = read {
        let l = report.total.latency_us;
        sample.client = Seen { p50_us: l.p50, p99_us: l.p99 };
        sample.reads = report.total.iops;
    }
    sample.written = write.unwrap_or(0.0);
    Ok((sample, urgent))
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn drive(args: &BenchArgs, address: &Address, w: &Workload) -> Result<Report> {
    let mut client = connect_io(&args.host, address, Some(NQN))?;
    measure(&mut client, None, w, true)
}

/// What the target says of all reads since it was started, and of its turns.
fn target_side(args: &BenchArgs, target: &Exported) -> Result<Sample> {
    let failed = |source| Error::Io { doing: "asking a target for its status", source };
    let mut command = program(args).map_err(failed)?;
    command.arg("--socket").arg(&target.socket).args(["status", "--json"]);
    let out = command.output().map_err(failed)?;
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(|e| failed(e.into()))?;
    let reads = &status["subsystems"][0]["namespaces"][0]["io"];
    let turns: Vec<_> = status["reactors"].as_array().into_iter().flatten().collect();
    // Of the threads the slowest: the reader may be on any.
    let turn = |of: &str| Seen::us(turns.iter().filter_map(|t| t[of].as_u64()).max());
    let seen = |of: &serde_json::Value, p50: &str, p99: &str| Seen {
        p50_us: Seen::us(of[p50].as_u64()),
        p99_us: Seen::us(of[p99].as_u64()),
    };
    Ok(Sample {
        target: seen(reads, "read_p50_ns", "read_p99_ns"),
        turn: Seen { p50_us: turn("turn_p50_ns"), p99_us: turn("turn_p99_ns") },
        ..Sample::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_figure_by_figure() {
        let sample =
            |p99_us, written| Sample { client: Seen { p50_us: 1.0, p99_us }, written, ..Sample::default() };
        let m = median(&[sample(9.0, 1.0), sample(2.0, 5.0), sample(4.0, 3.0)]);
        assert_eq!((m.client.p99_us, m.client.p50_us, m.written, m.target.p99_us), (4.0, 1.0, 3.0, 0.0));
    }
}
