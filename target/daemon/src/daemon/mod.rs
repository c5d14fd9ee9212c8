//! The target as a whole: starts from configuration and state, changes as management asks, stops cleanly.
//!
//! Owns the one lock under which the configuration changes. Each change is judged by the model's rules, made real, kept in
//! the state, and taken back if any of that fails: a request changes all that it says or nothing, in the running target
//! and on disk alike. Nothing here is on the way of an I/O.

mod audit;
mod change;
mod keys;
mod plane;
#[cfg(test)]
mod pool_tests;
mod reactors;
pub mod serve;
mod store;
#[cfg(test)]
mod tests;
mod waiting;
mod watch;
mod world;

pub use audit::{AUDIT_FILE, AUDIT_KEY, Audit};
pub use plane::{DataPlane, RdmaCounts, ThreadCounts};
pub use reactors::start_reactors;
pub use waiting::{Waits, still};

use crate::config::settings::{STATE_FILE, Settings};
use crate::model::text::Address;
use crate::model::{Backing, Change, Item, Lookup, Objects, key};
use crate::pool::{Locked, Pool};
use crate::pools::{Engine, Made, PoolHandle, PoolStatus};
use crate::refusal::{Cause, Refusal};
use crate::state::files::{Disk, Files};
use crate::state::{State, StateError};
use caisson_block::Mono;
use caisson_core::{Target, TargetSnapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;
use store::Store;
use world::World;

/// Why a target does not start.
#[derive(Debug)]
pub enum StartError {
    /// Something that has nothing to do with one item.
    Refused(Refusal),
    /// These items: keys with what is wrong.
    Items(Vec<(String, Refusal)>),
}

impl From<Refusal> for StartError {
    fn from(r: Refusal) -> StartError {
        StartError::Refused(r)
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Refused(r) => r.fmt(f),
            StartError::Items(items) => {
                for (i, (_, r)) in items.iter().enumerate() {
                    write!(f, "{}{r}", if i > 0 { "\n" } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// What a target starts from.
pub struct Start {
    /// How it runs.
    pub settings: Settings,
    /// What the configuration file declares.
    pub base: Objects,
    /// What is made at run time when there is no state yet; for `quickstart`, which has no file.
    pub seed: Objects,
    /// The file operations of the state.
    pub files: Arc<dyn Files>,
    /// What makes and opens pools.
    pub engine: Arc<dyn Engine>,
    /// The time from which everything counts, on the data plane's clock.
    pub now: Mono,
}

impl Start {
    /// From these settings and items, on this machine's files.
    pub fn new(settings: Settings, base: Objects, now: Mono) -> Start {
        Start {
            settings,
            base,
            seed: Objects::new(),
            files: Arc::new(Disk),
            engine: crate::pools::engine(),
            now,
        }
    }
}

struct Inner {
    world: World,
    state: State,
}

/// A running target.
pub struct Daemon {
    inner: Mutex<Inner>,
    settings: Settings,
    target: Arc<Target>,
    plane: Arc<dyn DataPlane>,
    started: Instant,
    /// The management socket, once it is served.
    socket: OnceLock<PathBuf>,
    audit: Arc<Audit>,
    /// Held while keys are changed.
    keys: Mutex<()>,
    /// Where metrics are served over TCP, once they are.
    metrics: OnceLock<SocketAddr>,
    /// The lock of the data directory, held for as long as this lives.
    _data: Option<Locked>,
}

/// What a request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// It was as asked before.
    Nothing,
    /// It was changed.
    Changed,
}

impl Daemon {
    /// Starts a target: takes the locks, reads the state, opens the volumes, and listens.
    ///
    /// `plane` starts the data plane for the registry it is given.
    ///
    /// # Errors
    /// What cannot be had, with the remedy. Nothing is left behind then but folders and locks' files.
    pub fn start(
        start: Start,
        plane: impl FnOnce(&Settings, Arc<Target>) -> Result<Arc<dyn DataPlane>, Refusal>,
    ) -> Result<Arc<Daemon>, StartError> {
        let Start { settings, base, seed, files, engine, now } = start;
        let data = settings.data_dir.as_deref().map(Locked::take).transpose()?;
        let mut state = match &data {
            None => State::transient(base),
            Some(d) => State::open(&d.dir.join(STATE_FILE), files, base).map_err(|e| match e {
                StateError::Unusable(r) => StartError::Refused(r),
                StateError::Clash(all) => StartError::Items(
                    all.into_iter().map(|c| (c.key, Refusal::conflict(c.error, c.remedy))).collect(),
                ),
            })?,
        };
        let made_before = made_before(&state);
        // Kept only once it is real: a start that ends before begins anew, and finds what it had made.
        let seed = if state.is_new() { seed } else { Objects::new() };
        let mut objects = state.objects();
        objects.extend(seed.clone());
        let mut pools = BTreeMap::new();
        // A pool that is an item stands in the place of a folder of the same name, which is the default one then.
        for (name, dir) in settings.pools.iter().filter(|(name, _)| objects.pool(name).is_none()) {
            pools.insert(name.clone(), Pool::open(name, dir)?);
        }
        settle_pools(&pools, &objects)?;
        for (key, entry) in state.changes().iter().filter(|(_, e)| e.file.is_some()) {
            let how = if entry.now.is_some() { "changed" } else { "removed" };
            tracing::info!("{key}, which the configuration file declares, was {how} at run time: that holds");
        }
        let broken: Vec<(String, Refusal)> = crate::model::check(&objects)
            .into_iter()
            .map(|v| (v.key, Refusal::new(v.cause, v.error, v.remedy)))
            .collect();
        if !broken.is_empty() {
            return Err(StartError::Items(broken));
        }
        let history = state.begin();
        let audit = Arc::new(Audit::new(settings.data_dir.as_deref().or(settings.audit.as_deref())));
        let target = Target::new(caisson_core::Settings::default(), now);
        let plane = plane(&settings, Arc::clone(&target))?;
        let pools = pools.into_iter().map(|(name, pool)| (name, Store::Folder(pool))).collect();
        let mut world = World::new(Arc::clone(&target), Arc::clone(&plane), pools, engine, history);
        world.made_before = made_before;
        world.audit = Arc::clone(&audit);
        world.wanted =
            objects.volumes().filter_map(|v| Some((v.pool()?.to_string(), v.name.clone()))).collect();
        let changes: Vec<Change> = objects.into_iter().map(|(k, i)| (k, Some(i))).collect();
        let (_, turns) = change::plan(&Objects::new(), &changes);
        let turns = match waiting::turn_what_can_be(&mut world, turns) {
            Ok(done) => done,
            Err((key, e)) => {
                plane.shutdown();
                world.abandon();
                return Err(StartError::Items(vec![(key, e)]));
            }
        };
        let seed: Vec<Change> = seed.into_iter().map(|(k, i)| (k, Some(i))).collect();
        if let Err(e) = state.started(&seed) {
            plane.shutdown();
            change::turn_back(&mut world, &turns);
            world.abandon();
            return Err(e.into());
        }
        world.settle();
        world.starting = false;
        world.ask = false;
        world.wanted.clear();
        let daemon = Arc::new(Daemon {
            inner: Mutex::new(Inner { world, state }),
            settings,
            target,
            plane,
            started: Instant::now(),
            socket: OnceLock::new(),
            audit,
            keys: Mutex::new(()),
            metrics: OnceLock::new(),
            _data: data,
        });
        watch::hosts(&daemon);
        keys::watch(&daemon);
        Ok(daemon)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is configured now.
    pub fn objects(&self) -> Objects {
        self.lock().state.objects()
    }

    /// The registry as it is now.
    pub fn snapshot(&self) -> TargetSnapshot {
        self.target.snapshot()
    }

    /// The data plane.
    pub fn plane(&self) -> &dyn DataPlane {
        self.plane.as_ref()
    }

    /// The management socket that is served now.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.get().map(PathBuf::as_path)
    }

    /// Where metrics are served over TCP now.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics.get().copied()
    }

    /// How long it has run.
    pub fn uptime(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    /// The addresses in force, by the listener's key.
    pub fn bound(&self) -> BTreeMap<String, Address> {
        let listens = |(k, b): (&String, &world::Bound)| {
            self.plane.waits(b.actual).is_none().then(|| (k.clone(), b.actual))
        };
        self.lock().world.ports.iter().filter_map(listens).collect()
    }

    /// Addresses that cannot be listened on now, and why; they are waited for.
    pub fn awaited(&self) -> Vec<(Address, String)> {
        let waits = |b: &world::Bound| Some((b.actual, self.plane.waits(b.actual)?));
        self.lock().world.ports.values().filter_map(waits).collect()
    }

    /// The listener's configured address by the core's port number.
    pub fn port_names(&self) -> BTreeMap<u16, Address> {
        self.lock().world.ports.values().map(|b| (b.port.0, b.actual)).collect()
    }

    /// Each volume's bytes in use and first fault, by name.
    pub fn volume_health(&self) -> BTreeMap<String, VolumeHealth> {
        let inner = self.lock();
        let health = |o: &world::Open| {
            let g = o.opened.volume.geometry();
            VolumeHealth {
                size: g.blocks * u64::from(g.block_size),
                allocated: o.opened.volume.allocated_bytes(),
                fault: o.opened.volume.fault(),
                in_flight: o.opened.manage.in_flight(),
            }
        };
        inner.world.volumes.iter().map(|(n, o)| (n.clone(), health(o))).collect()
    }

    /// The open log-structured pools, by name.
    pub fn pools(&self) -> BTreeMap<String, Arc<dyn PoolHandle>> {
        let inner = self.lock();
        let log = |(name, store): (&String, &Store)| Some((name.clone(), Arc::clone(&store.log()?.handle)));
        inner.world.pools.iter().filter_map(log).collect()
    }

    /// How each log-structured pool is, by name.
    pub fn pool_status(&self) -> BTreeMap<String, PoolStatus> {
        // Asked without the lock: a pool may take its time.
        self.pools().into_iter().map(|(name, pool)| (name, pool.status())).collect()
    }

    /// The folders in use as pools, by name.
    pub fn folders(&self) -> BTreeMap<String, PathBuf> {
        let inner = self.lock();
        let folder = |(name, store): (&String, &Store)| match store {
            Store::Folder(p) => Some((name.clone(), p.dir().to_path_buf())),
            Store::Log(_) => None,
        };
        inner.world.pools.iter().filter_map(folder).collect()
    }

    /// The engine that pools are made and opened with.
    pub fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.lock().world.engine)
    }

    /// The record of operations on keys.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Keeps operations on keys one behind the other.
    pub fn keys_alone(&self) -> MutexGuard<'_, ()> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was made for each log-structured pool when it was opened.
    pub fn made(&self) -> BTreeMap<String, Made> {
        self.lock().world.made.clone()
    }

    /// Makes the changes that `decide` finds from what is configured: all of them or none, live and kept.
    ///
    /// # Errors
    /// What `decide`, the rules, the system or the state file refuses. Nothing has changed then.
    pub fn change(
        &self,
        decide: impl FnOnce(&Objects) -> Result<Vec<Change>, Refusal>,
    ) -> Result<Did, Refusal> {
        self.change_adopting(None, decide)
    }

    /// As [`Daemon::change`]; a new volume under the key `adopt` may take over what its pool holds, a new pool what its devices
    /// hold.
    ///
    /// # Errors
    /// As [`Daemon::change`].
    pub fn change_adopting(
        &self,
        adopt: Option<String>,
        decide: impl FnOnce(&Objects) -> Result<Vec<Change>, Refusal>,
    ) -> Result<Did, Refusal> {
        self.change_with(adopt, None, decide)
    }

    /// Makes `pool`, or takes it over, as `decide` puts it into what is configured. Its keys are had before that, without the lock:
    /// management goes on while a key manager is slow.
    ///
    /// # Errors
    /// As [`Daemon::change`]; the key providers'.
    pub fn make_pool(
        &self,
        pool: &crate::model::Pool,
        adopt: bool,
        decide: impl Fn(&Objects) -> Result<Vec<Change>, Refusal>,
    ) -> Result<Did, Refusal> {
        let engine = {
            let mut inner = self.lock();
            let objects = inner.state.objects();
            // No provider is asked, and no key file made, for what would be refused anyway.
            let (after, turns) = change::plan(&objects, &decide(&objects)?);
            if turns.is_empty() {
                return Ok(Did::Nothing);
            }
            change::judge(&after)?;
            inner.world.none_waits(&turns)?;
            Arc::clone(&inner.world.engine)
        };
        self.audit().beside(pool);
        let uris = pool.providers().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !adopt {
            self.audit().begins("create", &pool.name, &uris)?;
        }
        let keys = crate::pools::open::keys(engine.as_ref(), pool, adopt);
        if let Err(e) = &keys {
            self.audit().ended("create", &pool.name, &uris, &Err::<(), _>(e.clone()));
        }
        let adopt = adopt.then(|| key::pool(&pool.name));
        self.change_with(adopt, keys?, decide)
    }

    fn change_with(
        &self,
        adopt: Option<String>,
        had: Option<crate::pools::open::Keys>,
        decide: impl FnOnce(&Objects) -> Result<Vec<Change>, Refusal>,
    ) -> Result<Did, Refusal> {
        let mut inner = self.lock();
        let Inner { world, state } = &mut *inner;
        let objects = state.objects();
        let changes = decide(&objects)?;
        let (after, turns) = change::plan(&objects, &changes);
        if turns.is_empty() {
            return Ok(Did::Nothing);
        }
        change::judge(&after)?;
        world.none_waits(&turns)?;
        state.ran(self.started.elapsed().as_secs());
        if change::grows(&turns) {
            state.commit(&changes)?;
            if let Err((key, e)) = change::turn_all(world, &turns) {
                let back: Vec<Change> = turns.iter().map(|t| (t.key.clone(), t.from.clone())).collect();
                if let Err(error) = state.commit(&back) {
                    tracing::error!(%error, key, "the state file names a size that could not be reached");
                }
                return Err(e);
            }
            return Ok(Did::Changed);
        }
        (world.adopt, world.had) = (adopt, had);
        let turned = change::turn_all(world, &turns);
        (world.adopt, world.had) = (None, None);
        turned.map_err(|(_, e)| e)?;
        if let Err(e) = state.commit(&changes) {
            change::turn_back(world, &turns);
            return Err(e);
        }
        world.settle();
        for t in &turns {
            tracing::info!(
                "{} {}",
                t.key,
                match (&t.from, &t.to) {
                    (None, _) => "was added",
                    (_, None) => "was removed",
                    _ => "was changed",
                }
            );
        }
        Ok(Did::Changed)
    }

    /// Keeps that a host set or cleared the write protection of a namespace; it is in force already.
    fn keep_write_protection(&self, nqn: &str, nsid: u32, on: bool) {
        let mut inner = self.lock();
        let key = key::namespace(nqn, nsid);
        let Some(Item::Namespace(mut n)) = inner.state.objects().remove(&key) else { return };
        n.write_protected = on;
        if let Err(error) = inner.state.commit(&[(key, Some(Item::Namespace(n)))]) {
            tracing::error!(%error, nqn, nsid, "a namespace's write protection will be lost at the next start");
        }
    }

    /// Keeps how the last sanitize operation of a subsystem is.
    fn keep_sanitize(&self, nqn: &str, record: &caisson_core::SanitizeRecord) {
        let mut inner = self.lock();
        let key = key::subsystem(nqn);
        let Some(Item::Subsystem(mut s)) = inner.state.objects().remove(&key) else { return };
        s.sanitize = Some(crate::model::LastSanitize {
            status: record.sos,
            command: record.scdw10,
            namespaces: record.nsids.clone(),
            left: record.left,
        });
        if let Err(error) = inner.state.commit(&[(key, Some(Item::Subsystem(s)))]) {
            tracing::error!(%error, nqn, "the status of a sanitize operation will be lost at the next start");
        }
    }

    /// Ends it: connections first, then volumes, then the state.
    pub fn stop(&self) {
        self.plane.shutdown();
        let mut inner = self.lock();
        inner.world.close();
        inner.state.ran(self.started.elapsed().as_secs());
        if let Err(error) = inner.state.end() {
            tracing::error!(%error, "the clean stop could not be noted");
        }
    }
}

/// How a volume is.
#[derive(Clone, Debug)]
pub struct VolumeHealth {
    /// In bytes.
    pub size: u64,
    /// Bytes of the store behind it in use; none when it cannot tell.
    pub allocated: Option<u64>,
    /// The first failure of its device.
    pub fault: Option<String>,
    /// Requests under way.
    pub in_flight: u64,
}

/// The keys of volumes and pools that were created at run time by earlier runs, so that they must be there.
fn made_before(state: &State) -> BTreeSet<String> {
    let made = |e: &crate::state::Entry| match (&e.now, &e.file) {
        (Some(item @ (Item::Volume(_) | Item::Pool(_))), None) => Some(item.key()),
        _ => None,
    };
    state.changes().values().filter_map(made).collect()
}

/// Ends in each pool what a crash interrupted, and names what nobody declares.
fn settle_pools(pools: &BTreeMap<String, Pool>, objects: &Objects) -> Result<(), Refusal> {
    for (name, pool) in pools {
        let wanted = |volume: &str| {
            objects.volume(volume).is_some_and(|v| v.backing == Backing::Pool { pool: name.clone() })
        };
        for stranger in pool.settle(wanted)? {
            tracing::warn!(
                "pool {name} holds a volume {stranger} that is not configured: adopt it with `caisson volume create {stranger} \
                 --adopt --size SIZE`, or remove {}",
                pool.path(&stranger).display()
            );
        }
    }
    Ok(())
}

impl Refusal {
    /// A refusal of something that a busy system may grant later.
    pub fn busy(error: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal::new(Cause::Busy, error, remedy)
    }
}
