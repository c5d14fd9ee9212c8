//! What a suite wants exported, and how the guest is told.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

/// The guest's host NQN and host id, the same in every suite so that access lists can name it.
pub const HOST_ID: &str = "5f0c1d7e-98a4-4b7e-9d53-0d6f3a2b1c44";
/// See [`HOST_ID`].
pub const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:5f0c1d7e-98a4-4b7e-9d53-0d6f3a2b1c44";

/// What a namespace is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Memory.
    Memory,
    /// A plain volume on a file.
    File,
    /// A volume of a pool with all data services on: of its own, or under [`Mode::Serve`] one for all.
    Pool {
        /// Whether writes may complete before they are durable.
        write_cache: bool,
    },
}

/// One subsystem with one namespace (NSID 1).
#[derive(Debug, Clone)]
pub struct Export {
    /// The subsystem's NQN.
    pub nqn: String,
    /// Bytes.
    pub size: u64,
    /// Logical block size in bytes: 512 or 4096.
    pub block: u32,
    /// What it is kept in.
    pub store: Store,
    /// Whether hosts may erase it.
    pub allow_erase: bool,
}

impl Export {
    /// The `index`th export of a suite, kept in a file.
    pub fn new(index: usize, size: u64, block: u32) -> Self {
        let nqn = format!("nqn.2026-01.test.caisson:interop-{index}");
        Self { nqn, size, block, store: Store::File, allow_erase: false }
    }
}

/// How the target is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One `caisson export` for each export.
    Export,
    /// One `caisson serve`, set up and changed over its management socket.
    Serve,
    /// Not at all: the guest runs test programs, which have targets of their own.
    Programs,
}

/// How the host reaches the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// NVMe/TCP, the target on this machine.
    Tcp,
    /// NVMe/RDMA over soft-RoCE, the target in the guest: this machine's kernel has no RDMA. What serves changes listens on TCP
    /// beside it.
    Rdma,
    /// The same over soft-iWARP.
    Iwarp,
}

impl Transport {
    /// As `nvme -t` and addresses have it.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Rdma | Transport::Iwarp => "rdma",
        }
    }

    /// What results are named by, and a test of the list.
    pub fn label(self) -> &'static str {
        if self == Transport::Iwarp { "iwarp" } else { self.name() }
    }

    /// The kernel's software device, as `rdma link add` calls its type.
    fn device(self) -> &'static str {
        if self == Transport::Iwarp { "siw" } else { "rxe" }
    }
}

/// A suite of `guest/` and what it runs against.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The script's name without `.sh`.
    pub suite: &'static str,
    /// What this run of it is called, its transport apart.
    pub name: &'static str,
    /// How the target is run.
    pub mode: Mode,
    /// How the host reaches it.
    pub transport: Transport,
    /// The subsystems that are there at the start.
    pub exports: Vec<Export>,
    /// Whether only the guest's host NQN may connect, or any.
    pub restricted: bool,
    /// How long the guest may take, its start included.
    pub limit: Duration,
}

impl Scenario {
    /// Names its files and its results.
    pub fn title(&self) -> String {
        format!("{}-{}", self.name, self.transport.label())
    }

    /// Whether the target runs in the guest.
    pub fn in_guest(&self) -> bool {
        self.transport != Transport::Tcp
    }
}

/// The guest's own address, as its `init` sets it.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Where a target in the guest listens for TCP.
const GUEST_TCP: u16 = 4430;

/// Where a scenario listens: one port for each export (the same one for all under [`Mode::Serve`]), and one more that
/// stands for the discovery port.
#[derive(Debug, Clone)]
pub struct Ports {
    /// The address that guest and target both call the target by.
    pub address: IpAddr,
    /// By export.
    pub io: Vec<u16>,
    /// The second port, for discovery.
    pub discovery: u16,
    /// Where a target in the guest listens for TCP beside RDMA.
    pub tcp: u16,
}

impl Ports {
    /// Free ports of an address that this machine and the guest reach by the same name, so that what discovery
    /// reports holds for both. QEMU's user network lets the guest reach every address of this machine but loopback.
    ///
    /// # Panics
    /// When the machine has no free port, or no address but loopback.
    pub fn pick(scenario: &Scenario) -> Self {
        if scenario.in_guest() {
            return Self::in_guest(scenario);
        }
        let address = own_address().expect("the guest can only reach an address other than loopback");
        let free: Vec<TcpListener> = (0..=scenario.exports.len())
            .map(|_| TcpListener::bind((address, 0)).expect("a free port"))
            .collect();
        let mut io: Vec<u16> =
            free.iter().map(|listener| listener.local_addr().expect("a bound socket").port()).collect();
        let discovery = io.pop().expect("one port more than exports");
        if scenario.mode == Mode::Serve {
            let first = io[0];
            io.fill(first);
        }
        Self { address, io, discovery, tcp: GUEST_TCP }
    }

    /// The ports of what runs inside the guest.
    pub fn in_guest(scenario: &Scenario) -> Self {
        let io = (0..scenario.exports.len())
            .map(|index| if scenario.mode == Mode::Export { 4420 + index as u16 } else { 4420 })
            .collect();
        // Neither soft-RoCE nor soft-iWARP has a loopback device.
        let address = if scenario.in_guest() { GUEST } else { Ipv4Addr::LOCALHOST };
        Self { address: address.into(), io, discovery: 8009, tcp: GUEST_TCP }
    }

    /// `ADDRESS:PORT`.
    pub fn listener(&self, port: u16) -> String {
        std::net::SocketAddr::new(self.address, port).to_string()
    }
}

/// The address this machine talks to others from. No packet is sent: connecting a UDP socket only picks a route
/// (203.0.113.0/24 is documentation space, RFC 5737).
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// The shell assignments that tell the guest where it is and what to expect (`/share/env`).
pub fn guest_environment(scenario: &Scenario, ports: &Ports, nvmet: bool) -> String {
    let mut text = String::new();
    let mut set = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{name}='{value}'").expect("writing to a string");
    };
    let target = match scenario.mode {
        Mode::Programs => "none",
        _ if nvmet => "nvmet",
        _ => "caisson",
    };
    set("TARGET", &target);
    set("TRANSPORT", &scenario.transport.name());
    set("FABRIC", &scenario.transport.device());
    set("WHERE", &if scenario.in_guest() { "guest" } else { "machine" });
    set("TCP_PORT", &ports.tcp);
    set("ADDR", &ports.address);
    set("DISCOVERY_PORT", &ports.discovery);
    set("HOSTNQN", &HOST_NQN);
    set("HOSTID", &HOST_ID);
    set("ALLOW", &if scenario.restricted { HOST_NQN } else { "any" });
    set("EXPORTS", &scenario.exports.len());
    for (index, export) in scenario.exports.iter().enumerate() {
        set(&format!("NQN_{index}"), &export.nqn);
        set(&format!("PORT_{index}"), &ports.io[index]);
        set(&format!("SIZE_{index}"), &export.size);
        set(&format!("BLOCK_{index}"), &export.block);
    }
    text
}
