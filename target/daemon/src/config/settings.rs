//! The settings of a target that are not exported objects: where it keeps things, how it runs, what it bounds.
//!
//! Every bound of the control plane has its name and its default here. They are read at start; a change needs a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The least that one key epoch may be given to seal: less would have a pool seal its data anew all the time.
pub const KEY_EPOCH_MIN: caisson_keys::limits::Limits =
    caisson_keys::limits::Limits { records: 1024, bytes: 16 << 20 };

/// How a reactor waits for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// Spin for up to this long after the last work, then sleep in the kernel.
    Adaptive(Duration),
    /// Always sleep at once: least CPU.
    Never,
    /// Never sleep: least latency, a whole core each.
    Always,
}

/// How long an adaptive reactor spins where nobody chose.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(50);

/// Bounds on what a host may make the target hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of in-capsule data on I/O queues (IOCCSZ).
    pub in_capsule_data: u32,
    /// Largest H2CData PDU taken (MAXH2CDATA), in bytes.
    pub max_h2c_data: u32,
    /// Connections at once, over all listeners.
    pub connections: u32,
    /// A connection that has not sent ICReq by then is closed.
    pub handshake_timeout: Duration,
    /// A connection that stays in the middle of a PDU, or owes data it was asked for, for this long is closed.
    pub stall_timeout: Duration,
    /// How long a stopping target waits for commands in flight.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            in_capsule_data: 16 << 10,
            max_h2c_data: 1 << 20,
            connections: 16_384,
            handshake_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

/// How the log is written, to standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives such as `info,caisson_core=debug`.
    pub filter: String,
    /// JSON objects, one a line, instead of text for people.
    pub json: bool,
}

impl Default for Log {
    fn default() -> Log {
        Log { filter: "info".into(), json: false }
    }
}

/// All settings of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the state file, the lock and the default pool are; `None` keeps nothing (an `export`).
    pub data_dir: Option<PathBuf>,
    /// How much one key epoch may seal.
    pub epochs: caisson_keys::limits::Limits,
    /// Where operations on keys are recorded without a data directory; beside the first pool where nobody says.
    pub audit: Option<PathBuf>,
    /// Pools by name: folders that hold volumes as sparse files.
    pub pools: BTreeMap<String, PathBuf>,
    /// The management socket; `None` for none.
    pub socket: Option<PathBuf>,
    /// Whether the target also runs where the management socket cannot be had.
    pub socket_optional: bool,
    /// Where metrics are served over TCP; `None` for nowhere (they are on the management socket too).
    pub metrics: Option<SocketAddr>,
    /// The cores that serve connections; empty is one reactor for each core there is.
    pub cores: Vec<usize>,
    /// How reactors wait.
    pub polling: Polling,
    /// Bounds.
    pub limits: Limits,
    /// The log.
    pub log: Log,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            data_dir: None,
            audit: None,
            epochs: caisson_keys::limits::LIMITS,
            pools: BTreeMap::new(),
            socket: None,
            socket_optional: false,
            metrics: None,
            cores: Vec::new(),
            polling: Polling::Adaptive(DEFAULT_SPIN),
            limits: Limits::default(),
            log: Log::default(),
        }
    }
}

/// The state file's name in the data directory.
pub const STATE_FILE: &str = "state.json";
/// The management socket's name in the data directory.
pub const SOCKET_FILE: &str = "caisson.sock";
/// The default pool's name in the data directory.
pub const POOL_DIR: &str = "pool";
/// Where metrics are served where nobody chose.
pub const METRICS_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9899);

impl Settings {
    /// The settings of a target that keeps all its things in `dir`, as far as nobody chose.
    pub fn in_dir(dir: PathBuf) -> Settings {
        let mut pools = BTreeMap::new();
        pools.insert(crate::model::DEFAULT_POOL.to_string(), dir.join(POOL_DIR));
        Settings {
            pools,
            socket: Some(dir.join(SOCKET_FILE)),
            metrics: Some(METRICS_ADDRESS),
            data_dir: Some(dir),
            ..Settings::default()
        }
    }
}
