//! What the management side asks for: subsystems, namespaces, ports, referrals, and why it can be refused.
//!
//! Owns the plain structures and the checks that need nothing but them.

pub use crate::registry::erase::SanitizeRecord;
use caisson_block::Volume;
use std::net::IpAddr;
use std::sync::Arc;

/// The most namespaces in one subsystem, and the largest NSID (NN).
pub const MAX_NAMESPACES: u32 = 1024;
/// The most subsystems in one target.
pub const MAX_SUBSYSTEMS: usize = 4096;
/// The most controllers in one subsystem, and in the discovery subsystem.
pub const MAX_CONTROLLERS: usize = 16_384;
/// I/O queues a controller.
pub const MAX_IO_QUEUES: u16 = 128;
/// Entries of a submission queue; CAP.MQES is one less.
pub const MAX_QUEUE_ENTRIES: u16 = 1024;
/// Host NQNs on one access list.
pub const MAX_HOSTS: usize = 4096;
/// Referrals told in the discovery log.
pub const MAX_REFERRALS: usize = 1024;
/// Ports.
pub const MAX_PORTS: usize = 1024;

/// What is the same for the whole target.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Model number (MN) of every controller, at most 40 ASCII characters.
    pub model: String,
    /// Firmware revision (FR), at most 8 ASCII characters.
    pub firmware: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { model: "Caisson".into(), firmware: env!("CARGO_PKG_VERSION").into() }
    }
}

/// How a subsystem gives out controller ids (Base 2.1, 3.1.2.1).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ControllerModel {
    /// A new controller for each association; Connect asks with FFFFh.
    #[default]
    Dynamic,
    /// These ids (1..=FFEFh, no two the same), each of one association at a time; Connect names one, or any with FFFEh.
    Static(Vec<u16>),
}

/// What an earlier life of the target left for the SMART log page of a subsystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Starts of the target, this one included.
    pub power_cycles: u64,
    /// Hours it ran before this start.
    pub power_on_hours: u64,
    /// Starts that found that the target had not been stopped cleanly.
    pub unsafe_shutdowns: u64,
}

/// A subsystem to add.
#[derive(Clone, Debug)]
pub struct SubsystemSpec {
    /// Its NQN.
    pub nqn: String,
    /// Serial number (SN), at most 20 ASCII characters.
    pub serial: String,
    /// Model number, where it is not the target's.
    pub model: Option<String>,
    /// Whether any host may connect; otherwise those in `hosts`.
    pub allow_any: bool,
    /// Host NQNs that may connect.
    pub hosts: Vec<String>,
    /// How controller ids are given out.
    pub controllers: ControllerModel,
    /// What SMART counts from.
    pub history: History,
    /// Whether hosts may erase what its namespaces hold: Format NVM, and Sanitize where all volumes are sealed.
    pub allow_erase: bool,
    /// The last sanitize operation that an earlier life of the target knew.
    pub sanitize: SanitizeRecord,
}

impl SubsystemSpec {
    /// A subsystem that nobody may connect to yet.
    pub fn new(nqn: impl Into<String>, serial: impl Into<String>) -> SubsystemSpec {
        SubsystemSpec {
            nqn: nqn.into(),
            serial: serial.into(),
            model: None,
            allow_any: false,
            hosts: Vec::new(),
            controllers: ControllerModel::Dynamic,
            history: History::default(),
            allow_erase: false,
            sanitize: SanitizeRecord::default(),
        }
    }
}

/// A namespace to add.
#[derive(Clone)]
pub struct NamespaceSpec {
    /// NSID, 1..=1,024; `None` takes the lowest that is free.
    pub nsid: Option<u32>,
    /// The volume behind it.
    pub volume: Arc<dyn Volume>,
    /// Namespace UUID; must be the same at every start.
    pub uuid: uuid::Uuid,
    /// NGUID; all zero when there is none.
    pub nguid: [u8; 16],
    /// EUI64; all zero when there is none.
    pub eui64: [u8; 8],
    /// Starts write-protected (Namespace Write Protection Config 1h).
    pub write_protected: bool,
}

impl NamespaceSpec {
    /// A namespace over `volume` with the lowest free NSID, an NGUID equal to the UUID, and no EUI64.
    pub fn new(volume: Arc<dyn Volume>, uuid: uuid::Uuid) -> NamespaceSpec {
        NamespaceSpec {
            nsid: None,
            volume,
            uuid,
            nguid: *uuid.as_bytes(),
            eui64: [0; 8],
            write_protected: false,
        }
    }
}

/// Names a port (PORTID of its discovery entries).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// The transport of a port (TRTYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// NVMe/TCP.
    Tcp,
    /// NVMe/RDMA.
    Rdma,
}

/// Which subsystems a port exports.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Exports {
    /// Each.
    #[default]
    All,
    /// Those with these NQNs, whether they exist yet or not.
    Only(Vec<String>),
}

impl Exports {
    /// Whether `nqn` is among them.
    pub fn contains(&self, nqn: &str) -> bool {
        match self {
            Exports::All => true,
            Exports::Only(list) => list.iter().any(|n| n == nqn),
        }
    }
}

/// A port: where hosts connect, as told in the discovery log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Its id.
    pub id: PortId,
    /// Its transport.
    pub transport: Transport,
    /// The address it listens on; the wildcard is told as the address that the asking host reached.
    pub address: IpAddr,
    /// The port number (TRSVCID).
    pub service: u16,
    /// What can be connected to here.
    pub exports: Exports,
    /// Whether the discovery subsystem can be connected to here.
    pub discovery: bool,
}

/// A referral: another discovery service, told in the discovery log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referral {
    /// Its NQN; the well-known one unless it has one of its own.
    pub nqn: String,
    /// Its transport.
    pub transport: Transport,
    /// Its address.
    pub address: IpAddr,
    /// Its port number.
    pub service: u16,
    /// PORTID to tell.
    pub port: PortId,
}

/// Why a management call was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManageError {
    /// Not an NQN (Base 2.1, 4.7), or the discovery service's.
    #[error("\"{nqn}\" is not a usable NQN: {why}")]
    BadNqn {
        /// What was given.
        nqn: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A serial or model number that does not fit its field.
    #[error("the {field} must be 1 to {max} printable ASCII characters")]
    BadText {
        /// Which field.
        field: &'static str,
        /// Its length.
        max: usize,
    },
    /// Controller ids out of range or twice the same.
    #[error("static controller ids must be between 1 and 65519 and differ")]
    BadControllerIds,
    /// The subsystem exists.
    #[error("subsystem {0} exists already")]
    SubsystemExists(String),
    /// The subsystem does not exist.
    #[error("there is no subsystem {0}")]
    NoSubsystem(String),
    /// The NSID is in use.
    #[error("subsystem {nqn} has a namespace {nsid} already")]
    NamespaceExists {
        /// The subsystem.
        nqn: String,
        /// The NSID.
        nsid: u32,
    },
    /// The namespace does not exist.
    #[error("subsystem {nqn} has no namespace {nsid}")]
    NoNamespace {
        /// The subsystem.
        nqn: String,
        /// The NSID.
        nsid: u32,
    },
    /// The NSID is 0 or over the limit.
    #[error("a namespace id is between 1 and {MAX_NAMESPACES}, not {0}")]
    BadNsid(u32),
    /// Another namespace has this UUID, NGUID or EUI64.
    #[error("another namespace ({nqn}, {nsid}) has the same UUID, NGUID or EUI64")]
    IdentifierInUse {
        /// The other's subsystem.
        nqn: String,
        /// The other's NSID.
        nsid: u32,
    },
    /// Not a block size that is served.
    #[error("a block size of {0} bytes is not served: 512 or 4096 are")]
    BadBlockSize(u32),
    /// The host is not on the list.
    #[error("host {host} is not on the access list of {nqn}")]
    NoHost {
        /// The subsystem.
        nqn: String,
        /// The host.
        host: String,
    },
    /// The port id is in use.
    #[error("port {} exists already", .0.0)]
    PortExists(PortId),
    /// The port does not exist.
    #[error("there is no port {}", .0.0)]
    NoPort(PortId),
    /// The referral exists.
    #[error("the referral exists already")]
    ReferralExists,
    /// The referral does not exist.
    #[error("there is no such referral")]
    NoReferral,
    /// The controller does not exist.
    #[error("subsystem {nqn} has no controller {cntlid}")]
    NoController {
        /// The subsystem.
        nqn: String,
        /// The controller id.
        cntlid: u16,
    },
    /// A limit was met.
    #[error("there can be no more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there can be.
        max: usize,
    },
}

/// Checks an NQN: 1..=223 bytes of UTF-8 in one of the two forms of Base 2.1, 4.7 (`nqn.yyyy-mm.reverse.domain:...`).
///
/// # Errors
/// [`ManageError::BadNqn`] with what is wrong.
pub fn check_nqn(nqn: &str) -> Result<(), ManageError> {
    let bad = |why| Err(ManageError::BadNqn { nqn: nqn.to_string(), why });
    if nqn.is_empty() || nqn.len() > 223 {
        return bad("it must be 1 to 223 bytes long");
    }
    if nqn.bytes().any(|b| b == 0 || b.is_ascii_control()) {
        return bad("it has a control character in it");
    }
    let Some(rest) = nqn.strip_prefix("nqn.") else { return bad("it does not start with \"nqn.\"") };
    let b = rest.as_bytes();
    let dated = b.len() > 8
        && b[..4].iter().all(u8::is_ascii_digit)
        && b[4] == b'-'
        && b[5..7].iter().all(u8::is_ascii_digit)
        && b[7] == b'.';
    if dated { Ok(()) } else { bad("after \"nqn.\" there must be a date as yyyy-mm, a dot and a domain") }
}

/// Checks a serial or model number: 1..=`max` printable ASCII characters (Base 2.1, 1.4.2 "ASCII strings").
pub(crate) fn check_text(text: &str, field: &'static str, max: usize) -> Result<(), ManageError> {
    let fits = !text.is_empty() && text.len() <= max && text.bytes().all(|b| (0x20..=0x7e).contains(&b));
    if fits { Ok(()) } else { Err(ManageError::BadText { field, max }) }
}
