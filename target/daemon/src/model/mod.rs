//! What a target exports, as plain data: pools, volumes, subsystems, namespaces, hosts, listeners, referrals.
//!
//! Each is an [`Item`] under a key that says what it is and which one (`volume/data`, `namespace/NQN/1`). A whole
//! configuration is a set of items, [`Objects`]. Being flat makes the rest simple: a change is a key and its new item or
//! none, two configurations are compared key by key, and the rules that join items are checked in one place, `rules`.
//! No file, socket or device is touched here.

mod pool;
mod rules;
pub mod text;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use text::Address;
use uuid::Uuid;

pub use pool::{Compression, Device, Origin, Pool, Services};
pub use rules::{MAX_DEVICES, MAX_NSID, MAX_SIZE, Violation, check, check_volume_name};

/// The pool's name where none is written.
pub const DEFAULT_POOL: &str = "default";

/// Where a volume's blocks are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Backing {
    /// In a pool: of blocks in a log, or a sparse file in a folder, as the pool is.
    Pool {
        /// The pool's name.
        pool: String,
    },
    /// A file or block device of its own.
    Path {
        /// Where it is.
        path: PathBuf,
    },
    /// Memory: gone when the target ends.
    Ram,
    /// Nothing: writes vanish, reads are zeroes. For measuring transports.
    Null,
}

/// A logical disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name, one of a kind in the target.
    pub name: String,
    /// Where its blocks are.
    pub backing: Backing,
    /// Size in bytes; 0 is the size that the file or device at [`Backing::Path`] has.
    pub size: u64,
    /// Logical block size in bytes: 512 or 4096.
    pub block_size: u32,
    /// What its pool does with its blocks; none where that has no services to give, or is to go on as it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Services>,
    /// The volume that it is a snapshot or clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The domain of its pool whose keys seal it; none for the one that every pool has, or where a configuration says nothing of one that is
    /// there. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

impl Volume {
    /// A new volume as its pool or store makes it by itself.
    pub fn new(name: impl Into<String>, backing: Backing, size: u64, block_size: u32) -> Volume {
        Volume { name: name.into(), backing, size, block_size, services: None, origin: None, domain: None }
    }

    /// The pool that it is in, of whatever kind.
    pub fn pool(&self) -> Option<&str> {
        match &self.backing {
            Backing::Pool { pool } => Some(pool),
            _ => None,
        }
    }
}

/// A subsystem; its namespaces and hosts are items of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subsystem {
    /// Its name.
    pub nqn: String,
    /// Serial number, at most 20 printable ASCII characters.
    pub serial: String,
    /// Model number, at most 40 printable ASCII characters.
    pub model: String,
    /// Whether every host may connect, or only those named.
    pub allow_any_host: bool,
    /// Whether hosts may erase what its namespaces hold, with Format NVM and Sanitize.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_erase: bool,
    /// The last Sanitize that a host asked for; kept here as what hosts change is, and never configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<LastSanitize>,
}

/// A Sanitize, as the log page of its status tells it (Base 2.1, LID 81h).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastSanitize {
    /// SOS: 1 completed, 2 in progress, 3 failed, 4 completed with deallocation that was not asked for.
    pub status: u8,
    /// CDW10 of the command.
    pub command: u32,
    /// The namespaces that are still to be seen erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<u32>,
    /// It failed, and a host has left the failure mode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

/// A volume as a host sees it in a subsystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// The subsystem.
    pub nqn: String,
    /// Its number there.
    pub nsid: u32,
    /// Which volume it exports.
    pub volume: String,
    /// Its UUID, by which hosts know it again whatever its number.
    pub uuid: Uuid,
    /// Its NGUID, 16 bytes in hexadecimal; the UUID's bytes where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nguid: Option<String>,
    /// Whether hosts may not write to it: set by a host (Namespace Write Protection Config) or by management.
    #[serde(default)]
    pub write_protected: bool,
}

/// A host that may connect to a subsystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The subsystem.
    pub nqn: String,
    /// The host's NQN.
    pub host: String,
}

/// An address that hosts connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where.
    pub address: Address,
    /// What it serves.
    pub serves: Serves,
}

/// What may be reached through a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serves {
    /// The subsystems only.
    Io,
    /// The discovery subsystem only.
    Discovery,
    /// Both.
    Both,
}

/// Another discovery service that this one tells hosts of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Referral {
    /// Where it is.
    pub address: Address,
}

/// One thing that is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Item {
    /// A log-structured pool.
    Pool(Pool),
    /// A logical disk.
    Volume(Volume),
    /// A subsystem.
    Subsystem(Subsystem),
    /// A volume in a subsystem.
    Namespace(Namespace),
    /// A host that may connect to a subsystem.
    Host(Host),
    /// An address to listen on.
    Listener(Listener),
    /// Another discovery service.
    Referral(Referral),
}

/// The names of items: how each key is made, in one place.
pub mod key {
    use super::text::Address;

    /// Of a pool.
    pub fn pool(name: &str) -> String {
        format!("pool/{name}")
    }
    /// Of a volume.
    pub fn volume(name: &str) -> String {
        format!("volume/{name}")
    }
    /// Of a subsystem.
    pub fn subsystem(nqn: &str) -> String {
        format!("subsystem/{nqn}")
    }
    /// Of a namespace.
    pub fn namespace(nqn: &str, nsid: u32) -> String {
        format!("namespace/{nqn}/{nsid}")
    }
    /// Of a host's permission.
    pub fn host(nqn: &str, host: &str) -> String {
        format!("host/{nqn}/{host}")
    }
    /// Of a listener.
    pub fn listener(address: Address) -> String {
        format!("listener/{address}")
    }
    /// Whether it is a listener's.
    pub fn is_listener(key: &str) -> bool {
        key.starts_with("listener/")
    }
    /// Of a referral.
    pub fn referral(address: Address) -> String {
        format!("referral/{address}")
    }
}

impl Item {
    /// The key it stands under.
    pub fn key(&self) -> String {
        match self {
            Item::Pool(p) => key::pool(&p.name),
            Item::Volume(v) => key::volume(&v.name),
            Item::Subsystem(s) => key::subsystem(&s.nqn),
            Item::Namespace(n) => key::namespace(&n.nqn, n.nsid),
            Item::Host(h) => key::host(&h.nqn, &h.host),
            Item::Listener(l) => key::listener(l.address),
            Item::Referral(r) => key::referral(r.address),
        }
    }
}

/// A whole configuration: items by key.
pub type Objects = BTreeMap<String, Item>;

/// A change to a configuration: what stands under the key from now on.
pub type Change = (String, Option<Item>);

/// The kinds of items in a configuration, for those who look for one kind.
pub trait Lookup {
    /// All log-structured pools, by name.
    fn pools(&self) -> impl Iterator<Item = &Pool>;
    /// All volumes, by name.
    fn volumes(&self) -> impl Iterator<Item = &Volume>;
    /// All subsystems, by NQN.
    fn subsystems(&self) -> impl Iterator<Item = &Subsystem>;
    /// All namespaces.
    fn namespaces(&self) -> impl Iterator<Item = &Namespace>;
    /// All permissions of hosts.
    fn hosts(&self) -> impl Iterator<Item = &Host>;
    /// All listeners.
    fn listeners(&self) -> impl Iterator<Item = &Listener>;
    /// All referrals.
    fn referrals(&self) -> impl Iterator<Item = &Referral>;
    /// The log-structured pool of this name.
    fn pool(&self, name: &str) -> Option<&Pool>;
    /// The volume of this name.
    fn volume(&self, name: &str) -> Option<&Volume>;
    /// The subsystem of this name.
    fn subsystem(&self, nqn: &str) -> Option<&Subsystem>;
}

macro_rules! of_kind {
    ($name:ident, $kind:ident) => {
        fn $name(&self) -> impl Iterator<Item = &$kind> {
            self.values().filter_map(|i| if let Item::$kind(x) = i { Some(x) } else { None })
        }
    };
}

impl Lookup for Objects {
    of_kind!(pools, Pool);
    of_kind!(volumes, Volume);
    of_kind!(subsystems, Subsystem);
    of_kind!(namespaces, Namespace);
    of_kind!(hosts, Host);
    of_kind!(listeners, Listener);
    of_kind!(referrals, Referral);

    fn pool(&self, name: &str) -> Option<&Pool> {
        match self.get(&key::pool(name)) {
            Some(Item::Pool(p)) => Some(p),
            _ => None,
        }
    }

    fn volume(&self, name: &str) -> Option<&Volume> {
        match self.get(&key::volume(name)) {
            Some(Item::Volume(v)) => Some(v),
            _ => None,
        }
    }

    fn subsystem(&self, nqn: &str) -> Option<&Subsystem> {
        match self.get(&key::subsystem(nqn)) {
            Some(Item::Subsystem(s)) => Some(s),
            _ => None,
        }
    }
}

/// The serial number of a subsystem where nobody chose one: 20 hexadecimal digits that follow from its NQN.
pub fn derived_serial(nqn: &str) -> String {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, nqn.as_bytes());
    id.simple().to_string().to_uppercase()[..20].to_string()
}

/// The UUID of a namespace where nobody chose one: it follows from the subsystem and the volume, so that the same
/// configuration file gives the same disk on each start.
pub fn derived_uuid(nqn: &str, nsid: u32, volume: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("{nqn}/{nsid}/{volume}").as_bytes())
}

/// What the model number says where nobody chose one.
pub const DEFAULT_MODEL: &str = "Caisson";
