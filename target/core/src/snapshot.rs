//! The target as it is now, in plain structures, for status and metrics. Made by [`crate::Target::snapshot`].

use crate::spec::{ControllerModel, PortSpec, Referral};
use crate::stats::Totals;
use caisson_block::{Geometry, Mono};

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct TargetSnapshot {
    /// Subsystems by NQN.
    pub subsystems: Vec<SubsystemSnapshot>,
    /// Controllers of the discovery subsystem.
    pub discovery_controllers: Vec<ControllerSnapshot>,
    /// Ports by id.
    pub ports: Vec<PortSpec>,
    /// Referrals in the order they were added.
    pub referrals: Vec<Referral>,
    /// GENCTR of the discovery log.
    pub generation: u64,
    /// Counters of the whole target.
    pub counters: Counters,
}

/// Counters since the start of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Queues with a successful Connect now, admin and I/O.
    pub queues: u64,
    /// Connect commands that succeeded.
    pub connects: u64,
    /// Connect commands that were refused.
    pub refused: u64,
    /// Associations that ended because the keep-alive timer expired.
    pub keep_alive_expired: u64,
    /// Commands aborted by Abort.
    pub aborted: u64,
    /// Commands answered with a status other than success.
    pub failed_commands: u64,
}

/// One subsystem.
#[derive(Clone, Debug)]
pub struct SubsystemSnapshot {
    /// Its NQN.
    pub nqn: String,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// How controller ids are given out.
    pub controller_model: ControllerModel,
    /// Whether any host may connect.
    pub allow_any: bool,
    /// Whether hosts may erase what its namespaces hold.
    pub allow_erase: bool,
    /// Hosts on the access list, sorted.
    pub hosts: Vec<String>,
    /// Its namespaces by NSID.
    pub namespaces: Vec<NamespaceSnapshot>,
    /// Its controllers by id.
    pub controllers: Vec<ControllerSnapshot>,
    /// Media errors since the start.
    pub media_errors: u64,
    /// SMART critical warning byte.
    pub critical_warning: u8,
}

/// One namespace.
#[derive(Clone, Debug)]
pub struct NamespaceSnapshot {
    /// NSID.
    pub nsid: u32,
    /// UUID.
    pub uuid: uuid::Uuid,
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64.
    pub eui64: [u8; 8],
    /// Shape of the volume.
    pub geometry: Geometry,
    /// Bytes in use behind it; `None` when the volume cannot tell.
    pub allocated_bytes: Option<u64>,
    /// Whether writes are refused.
    pub write_protected: bool,
    /// The first failure of the device behind it.
    pub fault: Option<String>,
    /// What each host did on it, sorted by host NQN.
    pub hosts: Vec<HostTotals>,
}

/// What one host did on one namespace.
#[derive(Clone, Debug)]
pub struct HostTotals {
    /// The host's NQN.
    pub host: String,
    /// Its I/O.
    pub io: Totals,
}

/// One controller: an association with a host.
#[derive(Clone, Debug)]
pub struct ControllerSnapshot {
    /// CNTLID.
    pub cntlid: u16,
    /// The host's NQN.
    pub host: String,
    /// The host's identifier.
    pub hostid: uuid::Uuid,
    /// The host's address, of its admin connection.
    pub peer: String,
    /// The port of its admin connection.
    pub port: u16,
    /// Keep-alive time-out in milliseconds; 0 is none.
    pub kato_ms: u32,
    /// When it connected.
    pub since: Mono,
    /// Whether it is enabled and ready.
    pub ready: bool,
    /// CC.
    pub cc: u32,
    /// CSTS.
    pub csts: u32,
    /// Its queues by id, the admin queue (0) first.
    pub queues: Vec<QueueSnapshot>,
}

/// One queue.
#[derive(Clone, Debug)]
pub struct QueueSnapshot {
    /// Queue id.
    pub qid: u16,
    /// Entries.
    pub entries: u32,
    /// The host's address.
    pub peer: String,
    /// Commands received.
    pub commands: u64,
}
