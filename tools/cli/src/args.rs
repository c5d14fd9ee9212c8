//! The command line, and the help that teaches it. What each command does is elsewhere.

use caisson_daemon::model::Serves;
use caisson_daemon::model::text::{Address, parse_cores, parse_size};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

mod key;
mod pool;
mod subsystem;
mod volume;

pub use key::{KeyCommand, KmsCommand, NamedKey, OneKey, Reason};
use pool::key_uri;
pub use pool::{BackingArg, CheckArgs, ExportPool, InspectArgs, KeyArgs, PoolCommand, ServicesArgs};
pub use subsystem::{HostCommand, OnOff, SubsystemCommand};
pub use volume::VolumeCommand;

/// Exports disks over NVMe/TCP and NVMe/RDMA to hosts with stock NVMe initiators.
#[derive(Parser, Debug)]
#[command(
    name = "caisson",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
First steps:
  caisson quickstart                                    a pool, a volume, an export, and what to type on a host
  caisson export pool:disk.pool --size 100G --key-file disk.key    one disk: deduplicated, compressed, encrypted
  caisson export ram:1G                                 one disk in memory, until Ctrl-C
  caisson export /dev/nvme1n1 --allow HOSTNQN           one device, for one host
  caisson serve --config /etc/caisson.toml              many, from a file (see docs/configuration.md)
  caisson status                                        what a running target does

Exit status:
  0  done
  1  failed
  2  wrong command line
  3  no target answers
  4  the target refused
  5  wrong configuration file")]
pub struct Cli {
    /// The management socket: of the target to talk to, or for `export`, `serve` and `quickstart` to open
    ///
    /// Without it, commands look at $CAISSON_SOCKET, ./caisson-data/caisson.sock, /run/caisson/caisson.sock,
    /// /var/lib/caisson/caisson.sock and $XDG_RUNTIME_DIR/caisson.sock, in this order. `export` opens the first of them, or
    /// the one in /run (as root) or in $XDG_RUNTIME_DIR, where no other target has it.
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Let the system write core dumps, and this user's debuggers in, to find a fault
    ///
    /// A dump of a target holds the keys of its pools. Without this, none is written, whatever `ulimit -c` says.
    #[arg(long, global = true)]
    pub allow_core_dumps: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "made once, at start")]
pub enum Command {
    /// Export one disk, in the foreground, until Ctrl-C
    Export(ExportArgs),
    /// Run a target from a configuration file
    Serve(ServeArgs),
    /// Make a pool and a first volume where there are none, export it, and say what to type on a host
    Quickstart(QuickstartArgs),
    /// Create, show, grow and scrub pools of a running target: their volumes are deduplicated, compressed and encrypted
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Show where pools' keys are; rotate, add and remove them; recovery shares; the record of what was done
    #[command(subcommand)]
    Key(KeyCommand),
    /// Run key providers in a process of their own
    #[command(subcommand)]
    Kms(KmsCommand),
    /// Create, delete, resize, copy and show volumes of a running target
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Create, delete and show subsystems of a running target, and add and remove their namespaces
    #[command(subcommand)]
    Subsystem(SubsystemCommand),
    /// Let hosts connect to a subsystem of a running target, or stop them
    #[command(subcommand)]
    Host(HostCommand),
    /// Add and remove addresses that a running target listens on
    #[command(subcommand)]
    Listener(ListenerCommand),
    /// Tell hosts of other discovery services
    #[command(subcommand)]
    Referral(ReferralCommand),
    /// Show what a running target exports, to whom, and how it does
    Status(StatusArgs),
    /// Show who is connected to a running target
    Connections(Output),
    /// Print a running target's metrics, in Prometheus's text form
    Metrics,
    /// Show what a target's controller and namespaces say of themselves
    #[command(
        after_help = "Example:\n  caisson identify tcp://192.0.2.1:4420 --nqn nqn.2024-01.com.example:data"
    )]
    Identify(caisson_initiator::cli::IdentifyArgs),
    /// Show what a target's discovery service offers
    #[command(after_help = "Example:\n  caisson discover 192.0.2.1")]
    Discover(caisson_initiator::cli::DiscoverArgs),
    /// Drive a target with reads and writes, and say how fast it answered
    #[command(after_help = "\
Examples:
  caisson perf tcp://192.0.2.1:4420 --pattern randread --depth 128
  caisson perf tcp://192.0.2.1:4420 --pattern write --block-size 128k --bytes 1G --verify")]
    Perf(caisson_initiator::cli::PerfArgs),
    /// Run the benchmarks of docs/performance.md
    Bench(caisson_initiator::cli::BenchArgs),
    /// Check a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Read all of a pool that no target uses, and say what is damaged; nothing is written
    Check(CheckArgs),
    /// Show what a pool says of itself, without a target; nothing is written
    Inspect(InspectArgs),
    /// Print a shell's completions
    #[command(after_help = "Example:\n  caisson completions bash > /etc/bash_completion.d/caisson")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[command(after_help = "Example:\n  caisson man /usr/local/share/man/man1")]
    Man {
        /// Into this folder; without it, the first page goes to standard output
        dir: Option<PathBuf>,
    },
}

/// How to print.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `export` and `quickstart` share with the configuration file.
#[derive(Args, Clone, Debug)]
pub struct Running {
    /// Cores that serve connections, a thread each, such as 0,2-3; without it, one thread for each core
    #[arg(long, value_name = "LIST", value_parser = cores)]
    pub cores: Option<Cores>,
    /// How threads wait for work
    #[arg(long, value_enum, default_value_t = PollMode::Adaptive)]
    pub polling: PollMode,
    /// Serve metrics here, such as 127.0.0.1:9899
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub log: LogArgs,
}

/// How the log is written.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or by module, as in info,caisson_core=debug
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log JSON objects, one a line
    #[arg(long)]
    pub log_json: bool,
}

/// A list of cores (a type of its own, so that clap takes it for one value).
#[derive(Clone, Debug)]
pub struct Cores(pub Vec<usize>);

fn cores(text: &str) -> Result<Cores, String> {
    parse_cores(text).map(Cores)
}

fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|e: String| {
        format!("{e}; write tcp://ADDRESS:PORT or rdma://ADDRESS:PORT, such as tcp://0.0.0.0:4420")
    })
}

fn discovery_address(text: &str) -> Result<Address, String> {
    Address::parse(text, 8009)
        .map_err(|e| format!("{e}; write tcp://ADDRESS:PORT, such as tcp://0.0.0.0:8009"))
}

/// How threads wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PollMode {
    /// Spin for a bounded time after work, then sleep
    Adaptive,
    /// Sleep at once
    Never,
    /// Never sleep: a whole core each
    Always,
}

/// `export`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  caisson export ram:1G
  caisson export disk.img --size 100G --nqn nqn.2024-01.com.example:disk
  caisson export pool:disk.pool --size 100G --key-file disk.key
  caisson export /dev/nvme1n1 --listen tcp://192.0.2.1:4420 --allow nqn.2014-08.org.nvmexpress:uuid:...
  caisson export null:1T --cores 0-3 --listen tcp://0.0.0.0:4420 --discovery tcp://0.0.0.0:8009

Nothing is kept but what is in the file or on the device. On a host, as root:
  nvme connect -t tcp -a ADDRESS -s 4420 -n NQN

With pool:PATH, blocks are deduplicated, compressed and encrypted. The pool and its volume are made where there are none, and so is
the key file, sealed with a passphrase: without both, the data cannot be read again. The passphrase comes from --passphrase-file,
else from the systemd credential caisson-passphrase, else from $CAISSON_PASSPHRASE, else from the terminal.")]
pub struct ExportArgs {
    /// A file or block device, pool:PATH, ram:SIZE, or null:SIZE (forgets what is written; for measuring transports)
    #[arg(value_name = "PATH|pool:PATH|ram:SIZE|null:SIZE")]
    pub store: String,
    /// Where hosts connect to, by TCP or, with rdma://ADDR:PORT, by RDMA; may be repeated
    #[arg(long, value_name = "tcp://ADDR:PORT", default_value = "tcp://0.0.0.0:4420", value_parser = address)]
    pub listen: Vec<Address>,
    /// The subsystem's name; without it, it follows from this machine and the store
    #[arg(long)]
    pub nqn: Option<String>,
    /// Size of a file, or of a pool's volume, that does not exist yet; a volume that is smaller grows to it
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Bytes of a logical block: 4096 or 512
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub block_size: u32,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub pool: ExportPool,
    /// A host that may connect, by its NQN; may be repeated; without it, any host may
    #[arg(long, value_name = "HOSTNQN")]
    pub allow: Vec<String>,
    /// Serve discovery here, too (each --listen serves it anyway)
    #[arg(long, value_name = "tcp://ADDR:PORT", value_parser = discovery_address)]
    pub discovery: Vec<Address>,
    /// Serial number
    #[arg(long)]
    pub serial: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub running: Running,
}

/// `serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  caisson config check /etc/caisson.toml
  caisson serve --config /etc/caisson.toml

docs/configuration.md describes the file, docs/caisson.example.toml is one. What is changed at run time lies over what the
file declares, and survives a restart. A service manager is told when it is ready (sd_notify).")]
pub struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub log: LogArgs,
}

/// Where `quickstart` listens where nothing is said.
pub const QUICKSTART_LISTEN: [&str; 2] = ["tcp://0.0.0.0:4420", "tcp://0.0.0.0:8009"];

/// `quickstart`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  caisson quickstart --data ./caisson-data

The first run makes a pool (a sparse file: it takes space as it is written), a volume vol0 with deduplication, compression and
encryption on, and a subsystem that any host may connect to. The pool's key file is sealed with a generated passphrase that lies
beside it, so that you need not type one: fine for a first look, and no protection from whoever reads that folder. Later runs find them as they were, changes by `caisson volume` and so on included. Where this kernel has no
NVMe/TCP initiator, Caisson proves itself with its own, on a small volume that is made for that and deleted after.")]
pub struct QuickstartArgs {
    /// The folder of pool and state
    #[arg(long, value_name = "DIR", default_value = "caisson-data")]
    pub data: PathBuf,
    /// Size of the first volume
    #[arg(long, default_value = "10G", value_parser = parse_size)]
    pub size: u64,
    /// Where hosts connect to, by TCP or, with rdma://ADDR:PORT, by RDMA, on the first run; may be repeated
    #[arg(long, value_name = "tcp://ADDR:PORT", default_values = QUICKSTART_LISTEN,
          value_parser = address)]
    pub listen: Vec<Address>,
    /// Whether to prove that it works, with Caisson's own initiator
    #[arg(long, value_enum, default_value_t = Proof::Auto)]
    pub proof: Proof,
    /// End after the proof instead of serving on
    #[arg(long)]
    pub exit_after_proof: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub running: Running,
}

/// When to run the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proof {
    /// When this kernel has no NVMe/TCP initiator
    Auto,
    /// In any case
    Always,
    /// Not at all
    Never,
}

/// `listener ...`.
#[derive(Subcommand, Debug)]
pub enum ListenerCommand {
    /// Listen on an address
    #[command(after_help = "Example:\n  caisson listener add tcp://192.0.2.1:4420")]
    Add {
        /// tcp://ADDRESS:PORT
        address: String,
        /// What hosts find there; without it, discovery on port 8009 and both elsewhere
        #[arg(long, value_enum)]
        serves: Option<ServesArg>,
        #[command(flatten)]
        output: Output,
    },
    /// Stop listening on an address; hosts that came by it are disconnected
    Remove {
        /// tcp://ADDRESS:PORT
        address: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the addresses
    List(Output),
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServesArg {
    /// Subsystems
    Io,
    /// The discovery service
    Discovery,
    /// Both
    Both,
}

impl From<ServesArg> for Serves {
    fn from(s: ServesArg) -> Serves {
        match s {
            ServesArg::Io => Serves::Io,
            ServesArg::Discovery => Serves::Discovery,
            ServesArg::Both => Serves::Both,
        }
    }
}

/// `referral ...`.
#[derive(Subcommand, Debug)]
pub enum ReferralCommand {
    /// Tell hosts of another discovery service
    Add {
        /// tcp://ADDRESS:PORT
        address: String,
        #[command(flatten)]
        output: Output,
    },
    /// Tell them no more
    Remove {
        /// tcp://ADDRESS:PORT
        address: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the referrals
    List(Output),
}

/// `status`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  caisson status\n  caisson status --watch\n  caisson status --json | jq .subsystems"
)]
pub struct StatusArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub output: Output,
    /// Show it again and again, with rates, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// How long to wait between two looks, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub interval: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.1..=3600.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err(format!("`{text}` is not a number of seconds between 0.1 and 3600")),
    }
}

/// `config ...`.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Check a configuration file without starting anything
    Check {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}
