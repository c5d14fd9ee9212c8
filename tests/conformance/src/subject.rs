//! The target under test, in this process: RAM volumes, the real reactors, loopback; or, where the environment says so, RDMA.

use caisson_core::{Exports, NamespaceSpec, PortId, PortSpec, Settings, SubsystemSpec, Target, Transport};
use caisson_daemon::reactor::{DriverChoice, Limits, ReactorConfig, Reactors, clock};
use caisson_device::StoreSpec;
use caisson_initiator::Transport as Way;
use caisson_initiator::{Address, Client, Command, Options, Queue};
use caisson_volume::{Manage, open};
use caisson_wire::fabrics::DISCOVERY_NQN;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The subsystem under test.
pub const NQN: &str = "nqn.2026-01.io.example:conformance";
/// A subsystem that only [`FRIEND`] may connect to.
pub const PRIVATE: &str = "nqn.2026-01.io.example:private";
/// The host on the private subsystem's list.
pub const FRIEND: &str = "nqn.2026-01.io.example:friend";
/// A host on no list.
pub const STRANGER: &str = "nqn.2026-01.io.example:stranger";

/// What a test knows of a namespace of [`NQN`].
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// NSID.
    pub nsid: u32,
    /// Block size in bytes.
    pub block: u32,
    /// Size in blocks.
    pub blocks: u64,
}

/// 4 KiB blocks, 64 MiB.
pub const BIG: Disk = Disk { nsid: 1, block: 4096, blocks: 16384 };
/// 512-byte blocks, 16 MiB.
pub const SMALL: Disk = Disk { nsid: 2, block: 512, blocks: 32768 };
/// 4 KiB blocks, and so few that an NLB can be too large for it before it is too large for MDTS.
pub const TINY: Disk = Disk { nsid: 5, block: 4096, blocks: 16 };
/// 512-byte blocks, 8 MiB: for a volume of a pool, which a test exports by itself ([`crate::pool::Pooled`]).
pub const POOLED: Disk = Disk { nsid: 6, block: 512, blocks: 16384 };

/// A running target.
pub struct Subject {
    /// Its registry, to be managed by tests.
    pub target: Arc<Target>,
    /// Its data plane.
    pub reactors: Reactors,
    /// Where it listens.
    pub address: Address,
    /// The handles of the volumes, by NSID of [`NQN`].
    pub volumes: Vec<(u32, Arc<dyn Manage>)>,
    /// Where its files are, when it has some.
    folder: Option<PathBuf>,
}

impl Subject {
    /// With the limits that the product has, but for shorter time-outs.
    pub fn start() -> Subject {
        let mut limits = Limits::default();
        limits.session.handshake_ms = 1500;
        limits.session.pdu_ms = 1500;
        limits.session.r2t_ms = 1500;
        Subject::with(limits)
    }

    /// With these limits.
    ///
    /// # Panics
    /// When it cannot be started: the test has failed.
    pub fn with(limits: Limits) -> Subject {
        let target = Target::new(Settings::default(), clock());
        let mut spec = SubsystemSpec::new(NQN, "CONF0001");
        spec.allow_any = true;
        target.add_subsystem(spec).expect("the subsystem is new");
        let mut spec = SubsystemSpec::new(PRIVATE, "CONF0002");
        spec.hosts = vec![FRIEND.into()];
        target.add_subsystem(spec).expect("the subsystem is new");
        let mut volumes = Vec::new();
        let folder = folder();
        for disk in [BIG, SMALL, TINY] {
            let (spec, manage) = match &folder {
                Some(folder) => file(folder, disk),
                None => ram(disk.block, disk.blocks),
            };
            let spec = NamespaceSpec { nsid: Some(disk.nsid), ..spec };
            target.add_namespace(NQN, spec).expect("the namespace is new");
            volumes.push((disk.nsid, manage));
        }
        target.add_namespace(PRIVATE, ram(4096, 64).0).expect("the namespace is new");
        let reactors = Reactors::start(
            ReactorConfig { limits, driver: driver(), ..ReactorConfig::default() },
            Arc::clone(&target),
        )
        .expect("the data plane starts");
        let (way, ip) = place();
        let any = SocketAddr::from((ip, 0));
        let at = match way {
            Way::Tcp => reactors.listen(any, 1).expect("loopback can be listened on"),
            Way::Rdma => reactors.listen_rdma(any, 1).unwrap_or_else(|e| panic!("{e}")),
        };
        let port = PortSpec {
            id: PortId(1),
            transport: match way {
                Way::Tcp => Transport::Tcp,
                Way::Rdma => Transport::Rdma,
            },
            address: ip,
            service: at.port(),
            exports: Exports::All,
            discovery: true,
        };
        target.add_port(port).expect("the port is new");
        let address = Address::new(ip.to_string(), at.port()).over(way);
        Subject { target, reactors, address, volumes, folder }
    }

    /// Waits until the target has `most` connections or fewer. Those that a test has dropped go a moment later, and their
    /// open files with them, of which a process may have no more than a thousand.
    ///
    /// # Panics
    /// When they do not go.
    pub fn settle(&self, most: u64) {
        let end = Instant::now() + Duration::from_secs(20);
        let now = || self.reactors.stats().iter().map(|t| t.connections.load(Ordering::Relaxed)).sum::<u64>();
        while now() > most {
            assert!(Instant::now() < end, "{} connections, and not {most}", now());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Options of a host with a keep-alive time-out of zero and short waits.
    pub fn options(&self, nqn: &str) -> Options {
        let mut o = Options::new(self.address.clone(), nqn).host("nqn.2026-01.io.example:host");
        o.kato_ms = 0;
        o.timeout = Duration::from_secs(20);
        o
    }

    /// A connected, enabled controller of [`NQN`].
    ///
    /// # Panics
    /// When that fails.
    pub fn client(&self) -> Client {
        Client::connect(self.options(NQN)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A controller and its first I/O queue.
    ///
    /// # Panics
    /// When that fails.
    pub fn queue(&self) -> (Client, Queue) {
        let mut client = self.client();
        let queue = client.io_queue(1, 128).unwrap_or_else(|e| panic!("{e}"));
        (client, queue)
    }

    /// A connected, enabled discovery controller, as the host `hostnqn`.
    ///
    /// # Panics
    /// When that fails.
    pub fn discovery(&self, hostnqn: &str) -> Client {
        Client::connect(self.options(DISCOVERY_NQN).host(hostnqn)).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// Over what, and where: RDMA at an address of a device with `CAISSON_TRANSPORT=rdma` and `CAISSON_ADDRESS`, otherwise TCP on
/// loopback.
fn place() -> (Way, IpAddr) {
    match std::env::var("CAISSON_TRANSPORT").as_deref() {
        Ok("rdma") => {
            let ip = std::env::var("CAISSON_ADDRESS").ok().and_then(|a| a.parse().ok());
            (Way::Rdma, ip.expect("CAISSON_ADDRESS names an address of an RDMA device"))
        }
        Ok("tcp") | Err(_) => (Way::Tcp, IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Ok(other) => panic!("CAISSON_TRANSPORT is `{other}`; use tcp or rdma"),
    }
}

/// The driver that the environment asks for with `CAISSON_DRIVER=epoll` or `uring`; otherwise the product's own choice.
fn driver() -> DriverChoice {
    match std::env::var("CAISSON_DRIVER").as_deref() {
        Ok("epoll") => DriverChoice::Epoll,
        Ok("uring") => DriverChoice::Uring,
        Ok(other) => panic!("CAISSON_DRIVER is `{other}`; use epoll or uring"),
        Err(_) => DriverChoice::Auto,
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.reactors.shutdown();
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// A new folder for the volumes where the environment asks for files with `CAISSON_STORE=file`; otherwise they are RAM.
fn folder() -> Option<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    match std::env::var("CAISSON_STORE").as_deref() {
        Ok("file") => {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("caisson-conformance-{}-{n}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
            Some(folder)
        }
        Ok("ram") | Err(_) => None,
        Ok(other) => panic!("CAISSON_STORE is `{other}`; use file or ram"),
    }
}

/// A namespace over a new sparse file.
fn file(folder: &Path, disk: Disk) -> (NamespaceSpec, Arc<dyn Manage>) {
    let size = format!("{}", u64::from(disk.block) * disk.blocks).parse().unwrap_or_else(|e| panic!("{e}"));
    let store = StoreSpec::Path(folder.join(format!("{}.img", disk.nsid)));
    let options = caisson_volume::Options {
        block_size: disk.block,
        size: Some(size),
        ..caisson_volume::Options::default()
    };
    let opened = open(&store, &options).unwrap_or_else(|e| panic!("{e}"));
    (NamespaceSpec::new(opened.volume, Uuid::new_v4()), opened.manage)
}

/// A namespace over a new RAM volume.
///
/// # Panics
/// When there is no memory for it.
pub fn ram(block: u32, blocks: u64) -> (NamespaceSpec, Arc<dyn Manage>) {
    let size = format!("ram:{}", u64::from(block) * blocks);
    let store: StoreSpec = size.parse().unwrap_or_else(|e| panic!("{e}"));
    let options = caisson_volume::Options { block_size: block, ..caisson_volume::Options::default() };
    let opened = open(&store, &options).unwrap_or_else(|e| panic!("{e}"));
    (NamespaceSpec::new(opened.volume, Uuid::new_v4()), opened.manage)
}

/// An I/O command on `blocks` (1..=65,536) blocks of `nsid` from `lba` on.
pub fn io(opcode: u8, nsid: u32, lba: u64, blocks: u32) -> Command {
    Command::new(opcode, nsid)
        .dword(10, lba as u32)
        .dword(11, (lba >> 32) as u32)
        .dword(12, blocks.wrapping_sub(1) & 0xffff)
}

/// `len` bytes that differ from those of another `seed`.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = caisson_initiator::perf::workload::Random::new(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&rng.draw().to_le_bytes());
    }
    out.truncate(len);
    out
}
