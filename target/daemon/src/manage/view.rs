//! What the target shows: plain structures, the JSON of the management API, made from what is configured and what is.

use crate::daemon::{Daemon, Waits};
use crate::model::text::Address;
use crate::model::{self, Backing, Item, Lookup, Origin, Serves, Services};
use crate::pools::{Erase, PoolStatus, VolumeSpace};
use caisson_core::{ControllerSnapshot, OpClass, SubsystemSnapshot, Totals, bucket_end};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The target's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// How the data plane talks to the kernel.
    pub driver: String,
    /// Where the state is kept; none where it is not.
    pub data_dir: Option<String>,
    /// Where operations on keys are recorded; none where there were no keys.
    #[serde(default)]
    pub audit: Option<String>,
    /// Where metrics are served over TCP.
    pub metrics: Option<String>,
    /// Pools, by name.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// Volumes, by name.
    pub volumes: Vec<Volume>,
    /// Subsystems, by NQN.
    pub subsystems: Vec<Subsystem>,
    /// Listeners.
    pub listeners: Vec<Listener>,
    /// Other discovery services that hosts are told of.
    pub referrals: Vec<String>,
    /// Counters of the whole target.
    pub counters: Counters,
    /// The data plane's threads.
    pub reactors: Vec<Reactor>,
}

/// A pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// `log` for one with data services, `folder` for sparse files in a folder.
    pub kind: String,
    /// Its devices, or its folder.
    pub devices: Vec<String>,
    /// Its sealed key file.
    pub key_file: Option<String>,
    /// All of its key providers, in the order in which they are tried.
    #[serde(default)]
    pub keys: Vec<String>,
    /// How many volumes it holds.
    pub volumes: usize,
    /// How it is; none for a folder, and for a pool that waits for its keys.
    pub status: Option<PoolStatus>,
    /// Why it waits for its keys.
    #[serde(default)]
    pub waiting: Option<Waits>,
}

/// A volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where its blocks are: `pool:NAME`, a path, `ram`, `null`.
    pub backing: String,
    /// In bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Bytes of the store behind it in use; none when it cannot tell.
    pub allocated: Option<u64>,
    /// The first failure of its device.
    pub fault: Option<String>,
    /// Requests under way.
    pub in_flight: u64,
    /// What its pool does with its blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Services>,
    /// The domain of its pool whose keys seal it; none for the one that every pool has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The volume that it is a snapshot or clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// How far the erasing of what it holds is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<Erase>,
    /// Its space in its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<VolumeSpace>,
    /// Where it is exported: `NQN/NSID`.
    pub exports: Vec<String>,
}

/// A subsystem.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subsystem {
    /// Its name.
    pub nqn: String,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Whether any host may connect.
    pub allow_any_host: bool,
    /// Whether hosts may erase what its namespaces hold.
    #[serde(default)]
    pub allow_erase: bool,
    /// Hosts that may.
    pub hosts: Vec<String>,
    /// Its namespaces, by number.
    pub namespaces: Vec<Namespace>,
    /// Hosts that are connected.
    pub controllers: Vec<Controller>,
    /// Media errors since the start.
    pub media_errors: u64,
    /// SMART's critical warning byte.
    pub critical_warning: u8,
}

/// A namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// Its number.
    pub nsid: u32,
    /// The volume.
    pub volume: String,
    /// Its UUID.
    pub uuid: String,
    /// Its NGUID.
    pub nguid: String,
    /// In bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Whether hosts may not write.
    pub write_protected: bool,
    /// What hosts did since the start.
    pub io: Io,
}

/// Counts of I/O.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Io {
    /// Commands that succeeded, by what they did; only those that are not zero.
    pub commands: BTreeMap<String, u64>,
    /// Bytes that hosts read.
    pub bytes_read: u64,
    /// Bytes that hosts wrote.
    pub bytes_written: u64,
    /// Commands that failed.
    pub errors: u64,
    /// Half of the reads took less than this, in nanoseconds; none without reads.
    pub read_p50_ns: Option<u64>,
    /// 99 % of the reads took less than this.
    pub read_p99_ns: Option<u64>,
    /// Half of the writes took less than this.
    pub write_p50_ns: Option<u64>,
    /// 99 % of the writes took less than this.
    pub write_p99_ns: Option<u64>,
}

/// A connected host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Controller {
    /// The subsystem it is connected to.
    pub subsystem: String,
    /// Controller id.
    pub cntlid: u16,
    /// The host's NQN.
    pub host: String,
    /// The host's id.
    pub hostid: String,
    /// The host's address.
    pub peer: String,
    /// The listener it came through.
    pub listener: Option<String>,
    /// Keep-alive time-out in milliseconds; 0 is none.
    pub kato_ms: u32,
    /// Whether it is enabled and ready.
    pub ready: bool,
    /// Its queues, the admin queue first.
    pub queues: Vec<Queue>,
}

/// One queue, which is one connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Queue {
    /// Queue id; 0 is the admin queue.
    pub qid: u16,
    /// Entries.
    pub entries: u32,
    /// The host's address.
    pub peer: String,
    /// Commands received.
    pub commands: u64,
}

/// A listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// As configured.
    pub address: String,
    /// As bound.
    pub bound: Option<String>,
    /// Why it cannot be listened on now; it is when it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// What it serves.
    pub serves: Serves,
}

/// Counters of the whole target.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Queues connected now.
    pub queues: u64,
    /// Connect commands that succeeded.
    pub connects: u64,
    /// Connect commands that were refused.
    pub refused: u64,
    /// Associations that ended for want of a keep-alive.
    pub keep_alive_expired: u64,
    /// Commands that Abort aborted.
    pub aborted: u64,
    /// Commands answered with an error.
    pub failed_commands: u64,
}

/// One thread of the data plane.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Reactor {
    /// Connections now.
    pub connections: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections shed because the limit was reached.
    pub shed: u64,
    /// Connections ended for a protocol error.
    pub protocol_errors: u64,
    /// Turns of its loop.
    pub turns: u64,
    /// System calls.
    pub syscalls: u64,
    /// Times it slept.
    pub sleeps: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Half of its turns were no longer: what comes waits so long at most, until it is looked at.
    #[serde(default)]
    pub turn_p50_ns: Option<u64>,
    /// All but one in a hundred.
    #[serde(default)]
    pub turn_p99_ns: Option<u64>,
}

/// `GET /v1/connections`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connections {
    /// Hosts connected to subsystems, discovery included.
    pub controllers: Vec<Controller>,
}

/// What a request did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Whether something changed; not, when it was as asked before.
    pub changed: bool,
    /// The erase's number, for requests to erase something: it is done when its pool does not list it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<u32>,
    /// The namespace's number, for requests to add one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<u32>,
}

/// How a backing is shown.
pub fn backing(b: &Backing) -> String {
    match b {
        Backing::Pool { pool } => format!("pool:{pool}"),
        Backing::Path { path } => path.display().to_string(),
        Backing::Ram => "ram".into(),
        Backing::Null => "null".into(),
    }
}

/// The upper bound of the bucket in which the `percent` of a histogram lies; none when it is empty.
fn percentile(buckets: &[u64], percent: u64) -> Option<u64> {
    let all: u64 = buckets.iter().sum();
    let mut left = (all * percent).div_ceil(100);
    for (i, n) in buckets.iter().enumerate() {
        if left <= *n && *n > 0 {
            return Some(bucket_end(i).unwrap_or(u64::MAX));
        }
        left = left.saturating_sub(*n);
    }
    None
}

fn io(t: &Totals) -> Io {
    let counts = OpClass::ALL.iter().map(|c| (c.name().to_string(), t.count(*c)));
    Io {
        commands: counts.filter(|(_, n)| *n > 0).collect(),
        bytes_read: t.bytes_read,
        bytes_written: t.bytes_written,
        errors: t.errors,
        read_p50_ns: percentile(&t.latency[0], 50),
        read_p99_ns: percentile(&t.latency[0], 99),
        write_p50_ns: percentile(&t.latency[1], 50),
        write_p99_ns: percentile(&t.latency[1], 99),
    }
}

fn controller(subsystem: &str, c: &ControllerSnapshot, ports: &BTreeMap<u16, Address>) -> Controller {
    Controller {
        subsystem: subsystem.to_string(),
        cntlid: c.cntlid,
        host: c.host.clone(),
        hostid: c.hostid.to_string(),
        peer: c.peer.clone(),
        listener: ports.get(&c.port).map(Address::to_string),
        kato_ms: c.kato_ms,
        ready: c.ready,
        queues: c
            .queues
            .iter()
            .map(|q| Queue { qid: q.qid, entries: q.entries, peer: q.peer.clone(), commands: q.commands })
            .collect(),
    }
}

fn subsystem(s: &SubsystemSnapshot, objects: &model::Objects, ports: &BTreeMap<u16, Address>) -> Subsystem {
    let namespaces = s.namespaces.iter().map(|n| {
        let mut totals = Totals::default();
        n.hosts.iter().for_each(|h| totals.add(&h.io));
        let volume = match objects.get(&model::key::namespace(&s.nqn, n.nsid)) {
            Some(Item::Namespace(n)) => n.volume.clone(),
            _ => String::new(),
        };
        Namespace {
            nsid: n.nsid,
            volume,
            uuid: n.uuid.to_string(),
            nguid: format!("{:032x}", u128::from_be_bytes(n.nguid)),
            size: n.geometry.blocks * u64::from(n.geometry.block_size),
            block_size: n.geometry.block_size,
            write_protected: n.write_protected,
            io: io(&totals),
        }
    });
    Subsystem {
        nqn: s.nqn.clone(),
        serial: s.serial.clone(),
        model: s.model.clone(),
        allow_any_host: s.allow_any,
        allow_erase: s.allow_erase,
        hosts: s.hosts.clone(),
        namespaces: namespaces.collect(),
        controllers: s.controllers.iter().map(|c| controller(&s.nqn, c, ports)).collect(),
        media_errors: s.media_errors,
        critical_warning: s.critical_warning,
    }
}

/// All pools.
pub fn pools(d: &Daemon) -> Vec<Pool> {
    pools_with(d, &d.pool_status())
}

fn pools_with(d: &Daemon, status: &BTreeMap<String, PoolStatus>) -> Vec<Pool> {
    let objects = d.objects();
    let volumes = |name: &str| objects.volumes().filter(|v| v.pool() == Some(name)).count();
    let waiting = d.waiting();
    let log = objects.pools().map(|p| Pool {
        name: p.name.clone(),
        kind: "log".into(),
        devices: p.devices.iter().map(|d| d.path.display().to_string()).collect(),
        key_file: p.key_file.as_ref().map(|k| k.display().to_string()),
        keys: p.providers().iter().map(ToString::to_string).collect(),
        volumes: volumes(&p.name),
        status: status.get(&p.name).cloned(),
        waiting: waiting.get(&p.name).cloned(),
    });
    let folders = d.folders();
    let folder = folders.iter().map(|(name, dir)| Pool {
        name: name.clone(),
        kind: "folder".into(),
        devices: vec![dir.display().to_string()],
        key_file: None,
        keys: Vec::new(),
        volumes: volumes(name),
        status: None,
        waiting: None,
    });
    let mut all: Vec<Pool> = log.chain(folder).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// All volumes.
pub fn volumes(d: &Daemon) -> Vec<Volume> {
    volumes_with(d, &d.pool_status())
}

/// One volume, with what deleting it would free, which takes a walk over its map.
pub fn volume(d: &Daemon, name: &str) -> Option<Volume> {
    let mut v = volumes(d).into_iter().find(|v| v.name == name)?;
    if let Some(space) = &mut v.space {
        let objects = d.objects();
        let pool = objects.volume(name).and_then(|v| d.pools().remove(v.pool()?));
        space.freed_by_delete = pool.and_then(|p| p.freed_by_delete(name).ok());
    }
    Some(v)
}

fn volumes_with(d: &Daemon, status: &BTreeMap<String, PoolStatus>) -> Vec<Volume> {
    let pools = d.pools();
    let held = |v: &model::Volume| Some(pools.get(v.pool()?)?.record(&v.name)?.services);
    let objects = d.objects();
    let health = d.volume_health();
    let view = |v: &model::Volume| {
        let h = health.get(&v.name);
        Volume {
            name: v.name.clone(),
            backing: backing(&v.backing),
            size: h.map_or(v.size, |h| h.size),
            block_size: v.block_size,
            allocated: h.and_then(|h| h.allocated),
            fault: h.and_then(|h| h.fault.clone()),
            in_flight: h.map_or(0, |h| h.in_flight),
            services: v.services.or_else(|| held(v)),
            domain: v.domain.clone(),
            origin: v.origin.clone(),
            erase: v.pool().and_then(|p| {
                let mut all = status.get(p)?.erases.iter();
                all.rfind(|e| e.volume.as_ref() == Some(&v.name)).cloned()
            }),
            space: v.pool().and_then(|p| status.get(p)?.volumes.get(&v.name).copied()),
            exports: objects
                .namespaces()
                .filter(|n| n.volume == v.name)
                .map(|n| format!("{}/{}", n.nqn, n.nsid))
                .collect(),
        }
    };
    objects.volumes().map(view).collect()
}

/// All subsystems.
pub fn subsystems(d: &Daemon) -> Vec<Subsystem> {
    let (objects, ports) = (d.objects(), d.port_names());
    d.snapshot().subsystems.iter().map(|s| subsystem(s, &objects, &ports)).collect()
}

/// All listeners.
pub fn listeners(d: &Daemon) -> Vec<Listener> {
    let (bound, awaited) = (d.bound(), d.awaited());
    let view = |l: &model::Listener| Listener {
        address: l.address.to_string(),
        bound: bound.get(&model::key::listener(l.address)).map(Address::to_string),
        waits: awaited.iter().find(|(at, _)| *at == l.address).map(|(_, why)| why.clone()),
        serves: l.serves,
    };
    d.objects().listeners().map(view).collect()
}

/// All referrals.
pub fn referrals(d: &Daemon) -> Vec<String> {
    d.objects().referrals().map(|r| r.address.to_string()).collect()
}

/// All hosts that are connected.
pub fn connections(d: &Daemon) -> Connections {
    let (snapshot, ports) = (d.snapshot(), d.port_names());
    let mut controllers: Vec<Controller> = Vec::new();
    for c in &snapshot.discovery_controllers {
        controllers.push(controller(model::text::DISCOVERY_NQN, c, &ports));
    }
    for s in &snapshot.subsystems {
        controllers.extend(s.controllers.iter().map(|c| controller(&s.nqn, c, &ports)));
    }
    Connections { controllers }
}

/// Everything.
pub fn status(d: &Daemon) -> Status {
    let c = d.snapshot().counters;
    let settings = d.settings();
    let pools = d.pool_status();
    let reactor = |t: crate::daemon::ThreadCounts| Reactor {
        connections: t.connections,
        accepted: t.accepted,
        shed: t.shed,
        protocol_errors: t.protocol_errors,
        turns: t.turns,
        syscalls: t.syscalls,
        sleeps: t.sleeps,
        rx_bytes: t.rx_bytes,
        tx_bytes: t.tx_bytes,
        turn_p50_ns: percentile(&t.turn_lengths, 50),
        turn_p99_ns: percentile(&t.turn_lengths, 99),
    };
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        uptime_s: d.uptime().as_secs(),
        driver: d.plane().driver().into(),
        data_dir: settings.data_dir.as_ref().map(|p| p.display().to_string()),
        audit: d.audit().file().map(|p| p.display().to_string()),
        metrics: d.metrics().map(|a| format!("http://{a}/metrics")),
        pools: pools_with(d, &pools),
        volumes: volumes_with(d, &pools),
        subsystems: subsystems(d),
        listeners: listeners(d),
        referrals: referrals(d),
        counters: Counters {
            queues: c.queues,
            connects: c.connects,
            refused: c.refused,
            keep_alive_expired: c.keep_alive_expired,
            aborted: c.aborted,
            failed_commands: c.failed_commands,
        },
        reactors: d.plane().threads().into_iter().map(reactor).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_buckets() {
        let mut b = vec![0u64; 97];
        assert_eq!(percentile(&b, 50), None);
        b[1] = 99;
        b[40] = 1;
        assert_eq!(percentile(&b, 50), bucket_end(1));
        assert_eq!(percentile(&b, 99), bucket_end(1));
        assert_eq!(percentile(&b, 100), bucket_end(40));
    }
}
