//! A namespace: a volume under an NSID, its identifiers, and what each host did on it.

use crate::snapshot::{HostTotals, NamespaceSnapshot};
use crate::spec::{ManageError, NamespaceSpec};
use crate::stats::{IoStats, Totals};
use crate::sync::lock;
use caisson_block::Volume;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Percent of room for new data below which a host is warned (AVSPT).
pub(crate) const SPARE_THRESHOLD: u8 = 10;

/// Hosts with counters of their own on a namespace; what more of them do is counted under one name.
const MAX_COUNTED_HOSTS: usize = 1024;
/// That name.
const OTHER_HOSTS: &str = "other";

/// What no two namespaces of a target may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// A UUID.
    Uuid(uuid::Uuid),
    /// An NGUID.
    Nguid([u8; 16]),
    /// An EUI64.
    Eui64([u8; 8]),
}

/// The identities that are not zero.
pub(crate) fn identities(uuid: &uuid::Uuid, nguid: &[u8; 16], eui64: &[u8; 8]) -> Vec<Identity> {
    let mut list = Vec::new();
    list.extend((!uuid.is_nil()).then_some(Identity::Uuid(*uuid)));
    list.extend((*nguid != [0; 16]).then_some(Identity::Nguid(*nguid)));
    list.extend((*eui64 != [0; 8]).then_some(Identity::Eui64(*eui64)));
    list
}

/// A namespace. Immutable but for its size, its write protection and its counters.
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    pub(crate) volume: Arc<dyn Volume>,
    pub(crate) uuid: uuid::Uuid,
    pub(crate) nguid: [u8; 16],
    pub(crate) eui64: [u8; 8],
    /// Logical block size is `1 << shift`.
    pub(crate) shift: u32,
    blocks: AtomicU64,
    protected: AtomicBool,
    fault_told: AtomicBool,
    spare_told: AtomicBool,
    pub(crate) format: super::erase::Format,
    io: Mutex<BTreeMap<Arc<str>, HostIo>>,
}

/// One host's counters: of queues that are gone, and of those that live.
#[derive(Default)]
struct HostIo {
    retired: Box<Totals>,
    live: Vec<Arc<IoStats>>,
}

impl HostIo {
    fn totals(&self) -> Totals {
        let mut sum = (*self.retired).clone();
        for live in &self.live {
            live.add_to(&mut sum);
        }
        sum
    }
}

impl Namespace {
    pub(crate) fn new(nsid: u32, spec: &NamespaceSpec) -> Result<Namespace, ManageError> {
        let geometry = spec.volume.geometry();
        let shift = match geometry.block_size {
            512 => 9,
            4096 => 12,
            other => return Err(ManageError::BadBlockSize(other)),
        };
        Ok(Namespace {
            nsid,
            volume: Arc::clone(&spec.volume),
            uuid: spec.uuid,
            nguid: spec.nguid,
            eui64: spec.eui64,
            shift,
            blocks: AtomicU64::new(geometry.blocks),
            protected: AtomicBool::new(spec.write_protected),
            fault_told: AtomicBool::new(false),
            spare_told: AtomicBool::new(false),
            format: super::erase::Format::default(),
            io: Mutex::new(BTreeMap::new()),
        })
    }

    /// Its size in logical blocks.
    #[inline]
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Reads the size from the volume again; whether it changed.
    pub(crate) fn refresh_size(&self) -> bool {
        let now = self.volume.geometry().blocks;
        self.blocks.swap(now, Ordering::Relaxed) != now
    }

    /// Whether writes are refused.
    #[inline]
    pub(crate) fn protected(&self) -> bool {
        self.protected.load(Ordering::Relaxed)
    }

    /// Sets write protection; whether that changed it.
    pub(crate) fn set_protected(&self, on: bool) -> bool {
        self.protected.swap(on, Ordering::Relaxed) != on
    }

    /// What must be its alone.
    pub(crate) fn identities(&self) -> Vec<Identity> {
        identities(&self.uuid, &self.nguid, &self.eui64)
    }

    /// New counters for a queue of `host`, given back through [`Namespace::retire`].
    pub(crate) fn counters(&self, host: &Arc<str>) -> Arc<IoStats> {
        let stats = Arc::new(IoStats::default());
        let mut io = lock(&self.io);
        let host = if io.contains_key(host) || io.len() < MAX_COUNTED_HOSTS {
            Arc::clone(host)
        } else {
            Arc::from(OTHER_HOSTS)
        };
        io.entry(host).or_default().live.push(Arc::clone(&stats));
        stats
    }

    /// Adds the counters of a queue that is going to what its host did.
    pub(crate) fn retire(&self, stats: &Arc<IoStats>) {
        let mut io = lock(&self.io);
        for host in io.values_mut() {
            if let Some(at) = host.live.iter().position(|s| Arc::ptr_eq(s, stats)) {
                stats.add_to(&mut host.retired);
                host.live.swap_remove(at);
                return;
            }
        }
    }

    /// What all hosts did on it.
    pub(crate) fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for host in lock(&self.io).values() {
            sum.add(&host.totals());
        }
        sum
    }

    /// Whether the device behind it has failed for good.
    pub(crate) fn failed(&self) -> bool {
        self.volume.fault().is_some()
    }

    /// Whether the device behind it has failed for good and nobody was told of that: true once.
    pub(crate) fn newly_failed(&self) -> bool {
        self.failed() && !self.fault_told.swap(true, Ordering::Relaxed)
    }

    /// Whether the room behind it has become little and nobody was told: true once, until there is more again.
    pub(crate) fn newly_low(&self) -> bool {
        let low = self.volume.spare() < SPARE_THRESHOLD;
        !self.spare_told.swap(low, Ordering::Relaxed) && low
    }

    pub(crate) fn snapshot(&self) -> NamespaceSnapshot {
        let hosts = lock(&self.io)
            .iter()
            .map(|(host, io)| HostTotals { host: host.to_string(), io: io.totals() })
            .collect();
        NamespaceSnapshot {
            nsid: self.nsid,
            uuid: self.uuid,
            nguid: self.nguid,
            eui64: self.eui64,
            geometry: self.volume.geometry(),
            allocated_bytes: self.volume.allocated_bytes(),
            write_protected: self.protected(),
            fault: self.volume.fault(),
            hosts,
        }
    }
}
