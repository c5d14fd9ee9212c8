//! `caisson bench`: a target and the bare-socket exchange of the same bytes, in turn, and the ratio of the two; or the data
//! services and a plain file ([`super::services`]); or a reader without and with a writer beside it ([`super::isolation`]).

use super::perf::measure;
use super::target::Target;
use super::{HostArgs, connect_io, print_json};
use super::{isolation, services};
use crate::error::{Error, Result};
use crate::net::Address;
use crate::perf::{Pattern, Until, Workload};
use crate::transport::Framing;
use crate::units;
use crate::yardstick::{Peer, Shape, drive};
use caisson_wire::opcode::io;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::process::Command as Process;
use std::time::Duration;

/// Compares a target with bare sockets that exchange the same bytes, or data services with a plain file, or a reader alone with
/// one beside a writer.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Where the target listens
    #[arg(value_name = "ADDRESS", required_unless_present_any = ["services", "isolation"])]
    pub address: Option<Address>,
    /// Instead, start targets of this program with a plain file and with pools, and compare these: each data service off
    /// and on and all on, at 0, 50, 90 and 100 % duplicates and compressibility 1x, 2x and 4x
    ///
    /// Pool and file are driven in turn; shown are the ratio of their commands a second, and the processor time that the
    /// target takes for a command. Each target runs on --target-core alone, its background included.
    #[arg(long, conflicts_with_all = ["address", "nqn", "nsid", "target_cmd"])]
    pub services: bool,
    /// Instead, start targets of this program with a null store, a RAM store, a plain file and a pool, and measure what one
    /// connection that writes 1 MiB at depth 8 as fast as it can does to another that reads 4 KiB at depth 1, both served by
    /// one thread; then the same with one that writes 32 MiB and deallocates everything, 256 ranges a command, over and over
    ///
    /// Each target is started afresh for the reader alone, its neighbour alone, and both. They are threads on
    /// --driver-core, the reader's ahead of everything else there (real-time class FIFO, where that is allowed). Shown are
    /// the reader's latency as it sees it and as the target does.
    #[arg(long, conflicts_with_all = ["address", "nqn", "nsid", "target_cmd", "services"])]
    pub isolation: bool,
    /// With --services or --isolation: the folder of the pools and the file, for a moment; in memory, so that no disk is measured
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub folder: PathBuf,
    /// With --services or --isolation: start targets of this program instead of the one that runs, such as an earlier version
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The subsystem; by default the only one that the target's discovery service shows
    #[arg(long, value_name = "NQN")]
    pub nqn: Option<String>,
    /// The namespace; by default the first one. Its data is overwritten
    #[arg(long, value_name = "N")]
    pub nsid: Option<u32>,
    /// Start the target with this shell command first, and stop it at the end; it is paused while sockets are measured
    #[arg(long, value_name = "COMMAND")]
    pub target_cmd: Option<String>,
    /// The core that the target runs on, where the peer of the bare sockets runs too
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub target_core: usize,
    /// With --isolation: the cores of the target's serving threads, one each, such as `0,1`; instead of --target-core alone
    #[arg(long, value_name = "CORES", requires = "isolation")]
    pub target_cores: Option<String>,
    /// The core that drives
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    pub driver_core: usize,
    /// Turns of target and sockets; medians are compared
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,
    /// How long each turn measures
    #[arg(short, long, default_value = "2s", value_parser = units::parse_time)]
    pub time: Duration,
    /// Bytes of the namespace that are used, and written before the first turn; the bare sockets' peer sends from as
    /// much memory
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = units::parse_size)]
    pub size: u64,
    /// Only the cases whose name contains this, such as `4k randread`
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub host: HostArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One comparison.
#[derive(Clone, Copy, Debug, Serialize)]
struct Case {
    pattern: Pattern,
    block: u32,
    depth: u32,
    connections: u32,
}

impl Case {
    fn name(&self) -> String {
        let p = format!("{:?}", self.pattern).to_lowercase();
        format!("{}k {p} depth {} x{}", self.block >> 10, self.depth, self.connections)
    }
}

/// The cases of docs/performance.md: 4 KiB random at three depths on one and four connections, and 128 KiB sequential.
fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for pattern in [Pattern::RandRead, Pattern::RandWrite] {
        for connections in [1, 4] {
            for depth in [1, 32, 128] {
                all.push(Case { pattern, block: 4096, depth, connections });
            }
        }
    }
    for pattern in [Pattern::Read, Pattern::Write] {
        for depth in [1, 32] {
            all.push(Case { pattern, block: 128 << 10, depth, connections: 1 });
        }
    }
    all
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    iops: f64,
    p50_us: f64,
    p99_us: f64,
    p99_9_us: f64,
}

/// The medians of one case.
#[derive(Clone, Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    case: Case,
    name: String,
    target: Sample,
    sockets: Sample,
    /// Target's IOPS by the sockets'.
    iops_ratio: f64,
    /// Target's median latency by the sockets'.
    p50_ratio: f64,
    target_runs: Vec<Sample>,
    socket_runs: Vec<Sample>,
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
        p99_9_us: of(|s| s.p99_9_us),
    }
}

/// What decides which bytes the sockets exchange.
struct Habits {
    success: bool,
    in_capsule: u32,
    framing: Framing,
}

/// Runs `bench`.
///
/// # Errors
/// When the target cannot be started or reached, or fails a command.
pub fn bench(args: &BenchArgs) -> Result<()> {
    if args.isolation {
        return isolation::bench(args);
    }
    let Some(address) = &args.address else { return services::bench(args) };
    let target = args.target_cmd.as_ref().map(|command| {
        let mut shell = Process::new("sh");
        shell.args(["-c", &format!("exec {command}")]);
        Target::start(shell, address, None)
    });
    let target = target.transpose()?;
    let habits = prepare(args, address)?;
    let mut lines = Vec::new();
    let wanted = |c: &Case| args.only.as_ref().is_none_or(|t| c.name().contains(t.as_str()));
    if !args.json {
        println!(
            "{:<30} {:>10} {:>10} {:>7}   {:>9} {:>9} {:>7}   {:>9} {:>9}",
            "", "target", "sockets", "ratio", "p50", "sockets", "ratio", "p99", "sockets"
        );
    }
    for case in cases().into_iter().filter(wanted) {
        let line = compare(args, address, target.as_ref(), &habits, case)?;
        if !args.json {
            println!(
                "{:<30} {:>10} {:>10} {:>7.2}   {:>9} {:>9} {:>7.2}   {:>9} {:>9}",
                line.name,
                units::count(line.target.iops),
                units::count(line.sockets.iops),
                line.iops_ratio,
                us(line.target.p50_us),
                us(line.sockets.p50_us),
                line.p50_ratio,
                us(line.target.p99_us),
                us(line.sockets.p99_us)
            );
        }
        lines.push(line);
    }
    if args.json {
        return print_json(&lines);
    }
    Ok(())
}

fn us(value: f64) -> String {
    units::nanos((value * 1e3) as u64)
}

/// Writes the region once, and learns how the target answers.
fn prepare(args: &BenchArgs, address: &Address) -> Result<Habits> {
    let mut client = connect_io(&args.host, address, args.nqn.as_deref())?;
    let block = client.max_transfer().min(128 << 10);
    let fill = Workload {
        pattern: Pattern::Write,
        block,
        depth: 16,
        until: Until::Bytes(args.size),
        size: args.size,
        ..Workload::default()
    };
    measure(&mut client, args.nsid, &fill, true)?;
    let all = client.namespaces()?;
    let nsid = args.nsid.or(all.first().copied()).unwrap_or(1);
    let ns = client.namespace(nsid)?;
    let mut queue = client.io_queue(1, 32)?;
    let read = crate::queue::Command::new(io::READ, nsid).with(crate::queue::Data::In(ns.lba_bytes));
    let done = queue.run(read)?.ok("a read")?;
    let Some(&icresp) = queue.icresp() else {
        return Err(Error::unsuitable(
            format!("{address} is no TCP address, and bare sockets are what a target is compared with"),
            "measure it with `caisson perf`",
        ));
    };
    let framing = Framing::from(icresp);
    let link = queue.into_link()?;
    Ok(Habits { success: done.implied, in_capsule: link.in_capsule, framing })
}

fn compare(
    args: &BenchArgs,
    address: &Address,
    target: Option<&Target>,
    habits: &Habits,
    case: Case,
) -> Result<Line> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..args.repeats {
        ours.push(run_target(args, address, case)?);
        // Connections close and an adaptive target falls asleep before the core is somebody else's.
        std::thread::sleep(Duration::from_millis(50));
        target.iter().for_each(|t| t.pause());
        let sample = run_sockets(args, habits, case);
        target.iter().for_each(|t| t.resume());
        theirs.push(sample?);
    }
    let (t, s) = (median(&ours), median(&theirs));
    Ok(Line {
        name: case.name(),
        case,
        target: t,
        sockets: s,
        iops_ratio: t.iops / s.iops.max(1e-9),
        p50_ratio: t.p50_us / s.p50_us.max(1e-9),
        target_runs: ours,
        socket_runs: theirs,
    })
}

fn run_target(args: &BenchArgs, address: &Address, case: Case) -> Result<Sample> {
    let mut client = connect_io(&args.host, address, args.nqn.as_deref())?;
    let w = Workload {
        pattern: case.pattern,
        block: case.block,
        depth: case.depth,
        connections: case.connections,
        cores: vec![args.driver_core],
        until: Until::Time(args.time),
        ramp: Duration::from_millis(300),
        size: args.size,
        ..Workload::default()
    };
    let report = measure(&mut client, args.nsid, &w, true)?;
    let l = report.total.latency_us;
    Ok(Sample { iops: report.total.iops, p50_us: l.p50, p99_us: l.p99, p99_9_us: l.p99_9 })
}

fn run_sockets(args: &BenchArgs, habits: &Habits, case: Case) -> Result<Sample> {
    let shape = match case.pattern {
        Pattern::Read | Pattern::RandRead => Shape::read(case.block, habits.success),
        _ => Shape::write(case.block, habits.in_capsule, habits.framing.max_h2c),
    };
    let failed = |source| Error::Io { doing: "starting the peer of the bare sockets", source };
    let peer =
        Peer::start("127.0.0.1:0", Some(args.target_core), true, args.size as usize).map_err(failed)?;
    let to = Address::new("127.0.0.1", peer.port());
    let core = Some(args.driver_core);
    let drive = || drive(&to, shape, case.depth, case.connections, args.time, core, true);
    let joined = std::thread::scope(|s| s.spawn(drive).join());
    let out = match joined {
        Ok(out) => out?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let us = |p| out.latency.at(p) as f64 / 1e3;
    Ok(Sample { iops: out.rate(), p50_us: us(50.0), p99_us: us(99.0), p99_9_us: us(99.9) })
}
