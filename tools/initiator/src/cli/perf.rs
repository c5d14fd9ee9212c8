//! `caisson perf`: the load generator's front end.

use super::live::Live;
use super::{HostArgs, connect_io, print_json};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::ideal::Ideal;
use crate::net::Address;
use crate::perf::{self, Content, Link, Namespace, Pattern, Report, Until, Workload};
use crate::stats::{Side, svg, term};
use crate::sys;
use crate::units;
use crate::yardstick::{self, Peer, Shape, drive};
use clap::Args;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Set by Ctrl-C, once [`stop_at_interrupt`] has asked for that.
static INTERRUPTED: OnceLock<&'static AtomicBool> = OnceLock::new();

/// Has Ctrl-C end a [`perf()`] early, with its report, instead of the program. For a program that does nothing else: it takes
/// SIGINT for the whole process, and a target that serves beside it would never see it.
pub fn stop_at_interrupt() {
    INTERRUPTED.get_or_init(sys::on_interrupt);
}

/// Drives a target with reads and writes, and says how fast it answered.
#[derive(Args, Clone, Debug)]
pub struct PerfArgs {
    /// Where the target listens: tcp://HOST:PORT, rdma://HOST:PORT or HOST:PORT
    #[arg(value_name = "ADDRESS", required_unless_present_any = ["yardstick", "serve", "ideal"])]
    pub address: Option<Address>,
    /// The subsystem; by default the only one that the target's discovery service shows
    #[arg(long, value_name = "NQN")]
    pub nqn: Option<String>,
    /// The namespace; by default the first one
    #[arg(long, value_name = "N")]
    pub nsid: Option<u32>,
    /// read, write, randread, randwrite, rw or randrw
    #[arg(short, long, default_value = "randread")]
    pub pattern: Pattern,
    /// Percent of reads in rw and randrw
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub read_percent: u32,
    /// Bytes of each command
    #[arg(short, long, value_name = "SIZE", default_value = "4k", value_parser = units::parse_size)]
    pub block_size: u64,
    /// Commands outstanding on each connection
    #[arg(short, long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65534))]
    pub depth: u32,
    /// Connections, each one I/O queue
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Threads that drive them; by default one a core named, or one
    #[arg(long)]
    pub threads: Option<u32>,
    /// Cores that the threads are kept on, as in 1 or 0,2-3
    #[arg(long, value_name = "LIST", value_parser = units::parse_cores)]
    pub cores: Option<std::vec::Vec<usize>>,
    /// How long to measure
    #[arg(short, long, default_value = "10s", value_parser = units::parse_time)]
    pub time: Duration,
    /// Stop after this many bytes instead
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    pub bytes: Option<u64>,
    /// Run this long before measuring
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::parse_time)]
    pub ramp: Duration,
    /// Commands a second at most
    #[arg(long, value_name = "IOPS", default_value_t = 0)]
    pub rate: u64,
    /// First byte of the namespace that is used
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = units::parse_size)]
    pub offset: u64,
    /// Bytes of the namespace that are used; by default all
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = units::parse_size)]
    pub size: u64,
    /// Write blocks that say what they are, read them back, and check every block that is read
    #[arg(long)]
    pub verify: bool,
    /// Write blocks that deduplicate: this many percent of each 4 KiB written are copies of an earlier one
    ///
    /// Of one of the last 64 in its place of the commands' memory: on one connection, of the last 16 MiB at most. All others
    /// were never written before, in this run or an earlier one. With 100, each is one of the same 4,096 in every run.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100), conflicts_with = "verify")]
    pub dedup: Option<u32>,
    /// Write blocks that compress about so far: 1 to 64
    ///
    /// Of each 512 bytes the first 512/RATIO are noise, and the rest repeats the last 8 bytes of that. With --dedup or
    /// --compress, a write stamps 8 bytes into each 4 KiB of memory that was filled before, so that the contents cost
    /// this program nothing to speak of. Without both, writes share noise that comes again after 64 KiB.
    #[arg(long, value_name = "RATIO", value_parser = clap::value_parser!(u32).range(1..=64), conflicts_with = "verify")]
    pub compress: Option<u32>,
    /// Of the random order and of the data
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Sleep while nothing comes, instead of polling
    #[arg(long)]
    pub no_poll: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub host: HostArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Draw latency over time into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// No live line and no picture in the terminal
    #[arg(short, long)]
    pub quiet: bool,
    /// Exchange the same bytes over bare sockets instead: with a peer at ADDRESS, or with one in this process
    #[arg(long)]
    pub yardstick: bool,
    /// Be the peer of a yardstick elsewhere, listening here
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["yardstick", "ideal"])]
    pub serve: Option<Address>,
    /// Drive a RAM disk in this process that checks nothing, to see what this program can drive
    #[arg(long, conflicts_with = "yardstick")]
    pub ideal: bool,
    /// The core of the peer in this process
    #[arg(long, value_name = "CORE")]
    pub peer_core: Option<usize>,
    /// In-capsule data that the yardstick takes the target to accept
    #[arg(long, value_name = "SIZE", default_value = "16k", value_parser = units::parse_size)]
    pub in_capsule: u64,
}

impl PerfArgs {
    /// The workload that the arguments describe.
    ///
    /// # Errors
    /// When the block is too large for any command.
    pub fn workload(&self) -> Result<Workload> {
        let block = u32::try_from(self.block_size).map_err(|_| {
            Error::unsuitable(format!("blocks of {} are too large", self.block_size), "use at most 16 MiB")
        })?;
        let cores = self.cores.clone().unwrap_or_default();
        let made = self.dedup.is_some() || self.compress.is_some();
        let content =
            made.then(|| Content { duplicates: self.dedup.unwrap_or(0), ratio: self.compress.unwrap_or(1) });
        Ok(Workload {
            content,
            pattern: self.pattern,
            read_percent: self.read_percent,
            block,
            depth: self.depth,
            connections: self.connections,
            threads: self.threads.unwrap_or(cores.len().max(1) as u32).clamp(1, self.connections),
            cores,
            until: self.bytes.map_or(Until::Time(self.time), Until::Bytes),
            ramp: self.ramp,
            rate: self.rate,
            offset: self.offset,
            size: self.size,
            verify: self.verify,
            seed: self.seed,
            poll: !self.no_poll,
            timeout: self.host.timeout.max(Duration::from_secs(1)),
            send: 0,
        })
    }
}

/// Runs `perf`.
///
/// # Errors
/// When the target cannot be reached, refuses, fails a command, or returns wrong data.
pub fn perf(args: &PerfArgs) -> Result<()> {
    if let Some(at) = &args.serve {
        let listener = TcpListener::bind(at.resolve()?)
            .map_err(|source| Error::Connect { addr: at.to_string(), source })?;
        eprintln!("answering yardsticks at {at}; end with Ctrl-C");
        return yardstick::serve(&listener, !args.no_poll, args.size as usize, &AtomicBool::new(false))
            .map_err(|source| Error::Io { doing: "serving", source });
    }
    if args.yardstick {
        return bare(args);
    }
    let w = args.workload()?;
    let report;
    let name;
    if args.ideal {
        let failed = |source| Error::Io { doing: "starting the ideal peer", source };
        let peer = Ideal::start(args.size.max(256 << 20) as usize, args.peer_core).map_err(failed)?;
        let mut client =
            Client::connect(args.host.options(&Address::new("127.0.0.1", peer.port()), "ideal"))?;
        name = "the ideal peer".to_string();
        report = measure(&mut client, Some(1), &w, args.quiet || args.json)?;
    } else {
        let Some(address) = &args.address else {
            return Err(Error::unsuitable(
                "no target is named",
                "give its address: tcp://HOST:PORT or rdma://HOST:PORT",
            ));
        };
        let mut client = connect_io(&args.host, address, args.nqn.as_deref())?;
        name = format!("{} at {address}", client.options.subnqn);
        report = measure(&mut client, args.nsid, &w, args.quiet || args.json)?;
    }
    publish(args, &name, &report)
}

/// Connects the queues, drives them, and keeps the admin queue alive meanwhile.
///
/// # Errors
/// As [`perf`].
pub(super) fn measure(client: &mut Client, nsid: Option<u32>, w: &Workload, quiet: bool) -> Result<Report> {
    let ns = pick(client, nsid)?;
    let links = links(client, w)?;
    let mut live = Live::new(w.block, quiet);
    let shared: Arc<perf::Shared> = Arc::default();
    let stop = Arc::clone(&shared);
    perf::run(links, &ns, w, &shared, &mut |p| {
        live.show(p);
        // What was measured until Ctrl-C is still reported.
        if INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            stop.stop.store(true, Ordering::Relaxed);
        }
        client.tick()
    })
}

fn pick(client: &mut Client, nsid: Option<u32>) -> Result<Namespace> {
    let all = client.namespaces()?;
    match nsid.or(all.first().copied()) {
        None => Err(Error::unsuitable("the subsystem has no namespace", "add one on the target")),
        Some(nsid) => client.namespace(nsid),
    }
}

/// The I/O queues for a workload, checked against what the controller allows.
fn links(client: &mut Client, w: &Workload) -> Result<Vec<Link>> {
    let most = client.max_transfer();
    if w.block > most {
        return Err(Error::unsuitable(
            format!("the target takes at most {} a command", units::bytes(u64::from(most))),
            format!("use --block-size {most}"),
        ));
    }
    let queues = client.ask_queues(w.connections)?;
    if queues < w.connections {
        return Err(Error::unsuitable(
            format!("the target gives {queues} I/O queues"),
            format!("use --connections {queues}"),
        ));
    }
    // A queue of n entries holds n - 1 commands (Base 2.1, 3.3.1.2.1).
    let entries = (w.depth + 1).max(2).min(client.max_entries());
    (1..=w.connections).map(|qid| client.io_queue(qid as u16, entries)?.into_link()).collect()
}

fn publish(args: &PerfArgs, name: &str, report: &Report) -> Result<()> {
    let w = &report.workload;
    let what = format!(
        "{:?} of {}, depth {} on {} connection{}",
        w.pattern,
        units::bytes(u64::from(w.block)),
        w.depth,
        w.connections,
        if w.connections == 1 { "" } else { "s" }
    );
    if let Some(path) = &args.svg {
        let note = format!(
            "{} IOPS, {}/s, p50 {}, p99 {}, p99.9 {}",
            units::count(report.total.iops),
            units::bytes(report.total.bytes_per_second as u64),
            units::nanos((report.total.latency_us.p50 * 1e3) as u64),
            units::nanos((report.total.latency_us.p99 * 1e3) as u64),
            units::nanos((report.total.latency_us.p99_9 * 1e3) as u64)
        );
        std::fs::write(path, svg::draw(&report.series, &format!("{what}: {name}"), &note))
            .map_err(|source| Error::File { path: path.display().to_string(), source })?;
    }
    if args.json {
        return print_json(report);
    }
    println!("{name}\n{what}, {:.2} s", report.seconds);
    print!("{report}");
    if !args.quiet {
        println!("\n  latency over time");
        print!("{}", term::heat_strip(&report.series, 72));
    }
    Ok(())
}

/// The bare-socket exchange of the same bytes.
fn bare(args: &PerfArgs) -> Result<()> {
    let w = args.workload()?;
    let shape = match w.pattern {
        Pattern::Read | Pattern::RandRead => Shape::read(w.block, true),
        Pattern::Write | Pattern::RandWrite => Shape::write(w.block, args.in_capsule as u32, 128 << 10),
        Pattern::Rw | Pattern::RandRw => {
            return Err(Error::unsuitable(
                "the yardstick does not mix",
                "use a pattern that only reads or writes",
            ));
        }
    };
    let peer;
    let to = match &args.address {
        Some(address) => address.clone(),
        None => {
            peer = Peer::start("127.0.0.1:0", args.peer_core, w.poll, args.size as usize)
                .map_err(|source| Error::Io { doing: "starting the peer", source })?;
            Address::new("127.0.0.1", peer.port())
        }
    };
    let out = drive(&to, shape, w.depth, w.connections, args.time, w.cores.first().copied(), w.poll)?;
    let side = Side::new(&out.latency, u64::from(w.block), out.seconds);
    if args.json {
        return print_json(&side);
    }
    println!(
        "bare sockets, {} ends\n{:?} of {}, depth {} on {} connections, {:.2} s\n  {side}",
        if w.poll { "polling" } else { "sleeping" },
        w.pattern,
        units::bytes(u64::from(w.block)),
        w.depth,
        w.connections,
        out.seconds
    );
    Ok(())
}
