//! The running target as configuration sees it: makes one item real, changes it, or takes it away.
//!
//! [`World::turn`] is its own inverse: what turned an item from `a` to `b` is undone by turning it from `b` to `a`. That is
//! what makes a change of several items atomic. What cannot be undone (closing a volume in memory, deleting a file) is put
//! off until [`World::settle`], after the change is kept.

use super::audit::Audit;
use super::plane::DataPlane;
use super::store::{Store, fit, open_alone};
use super::waiting::{Waiting, have_domain};
use crate::model::text::DISCOVERY_NQN;
use crate::model::text::{Address, Scheme};
use crate::model::{self, Device, Item, Listener, Namespace, Pool, Serves, Subsystem, Volume};
use crate::pools::open::{Keys, Want, lengthen, remove};
use crate::pools::{Engine, LogPool, Made};
use crate::refusal::{Cause, Refusal};
use crate::state::History;
use caisson_core::{Exports, ManageError, NamespaceSpec, PortId, PortSpec, SubsystemSpec, Target, Transport};
use caisson_volume::Opened;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// A listener in force.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) port: PortId,
    /// Where it listens.
    pub(super) actual: Address,
}

/// A volume in force.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) opened: Opened,
    /// The pool in which its file was made by a change that is not kept yet (see [`Store::make`]).
    fresh: Option<String>,
}

/// A pool that is open and in nobody's reach, while keys are made for it.
pub(super) struct Apart {
    /// As it is configured.
    pub(super) pool: Pool,
    pub(super) log: LogPool,
    /// Domains that it may lack, each with a volume that is to be in it.
    pub(super) domains: Vec<(String, String)>,
    /// Where it was made just now: the files that were made for it.
    fresh: Option<Vec<PathBuf>>,
}

impl Apart {
    /// Gives it up, and takes away what was made for it.
    pub(super) fn close(self) {
        close_pool(&self.pool.name, &self.log);
        remove(&self.fresh.unwrap_or_default());
    }
}

/// The running target.
pub(super) struct World {
    pub(super) target: Arc<Target>,
    pub(super) plane: Arc<dyn DataPlane>,
    pub(super) pools: BTreeMap<String, Store>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) volumes: BTreeMap<String, Open>,
    /// Volumes that were taken away by a change that is not kept yet.
    leaving: BTreeMap<String, (Volume, Open)>,
    /// Pools that were taken away by a change that is not kept yet.
    leaving_pools: BTreeMap<String, LogPool>,
    /// Pools that were made by a change that is not kept yet, with the files that were made for them.
    fresh_pools: BTreeMap<String, Vec<PathBuf>>,
    /// What was made for pools since the start, by pool.
    pub(super) made: BTreeMap<String, Made>,
    /// Pools that were opened for the configuration that is being made real, as it has them.
    opened: BTreeMap<String, Pool>,
    /// Which volume each namespace exports.
    exported: BTreeMap<(String, u32), String>,
    pub(super) ports: BTreeMap<String, Bound>,
    pub(super) history: History,
    /// While the configuration is made real for the first time: files of pools are found, not made anew.
    pub(super) starting: bool,
    /// The key of a volume that its pool holds, or a pool that its devices hold, which the change at hand may take over.
    pub(super) adopt: Option<String>,
    /// The keys of volumes and pools that were made by an earlier run: one that is missing is a loss, not a reason to make an
    /// empty one.
    pub(super) made_before: BTreeSet<String>,
    /// A person at the terminal may be asked for what opens a pool.
    pub(super) ask: bool,
    /// The keys of the pool that is opened or made next, where they were had before.
    pub(super) had: Option<Keys>,
    /// Pools that wait for their keys, with all that rests on them.
    pub(super) waiting: BTreeMap<String, Waiting>,
    /// The record of operations on keys.
    pub(super) audit: Arc<Audit>,
    /// Nothing is opened any more.
    pub(super) ended: bool,
    /// While starting: all volumes that are configured, by pool and name.
    pub(super) wanted: BTreeSet<(String, String)>,
}

/// What the registry refuses, for an operator. The rules of the model come first, so these are rare.
fn refused(e: &ManageError) -> Refusal {
    let (cause, remedy) = match e {
        ManageError::NoSubsystem(_)
        | ManageError::NoNamespace { .. }
        | ManageError::NoHost { .. }
        | ManageError::NoPort(_)
        | ManageError::NoReferral
        | ManageError::NoController { .. } => (Cause::NotFound, "see `caisson status` for what there is"),
        ManageError::SubsystemExists(_)
        | ManageError::NamespaceExists { .. }
        | ManageError::PortExists(_)
        | ManageError::ReferralExists => {
            (Cause::Conflict, "remove the other first, or choose another name or number")
        }
        ManageError::IdentifierInUse { .. } => {
            (Cause::Conflict, "give it another UUID or NGUID, or leave them out")
        }
        ManageError::TooMany { .. } => (Cause::Conflict, "remove some that are not used"),
        _ => (Cause::Invalid, "see docs/configuration.md for what is allowed"),
    };
    Refusal::new(cause, e.to_string(), remedy)
}

impl World {
    pub(super) fn new(
        target: Arc<Target>,
        plane: Arc<dyn DataPlane>,
        pools: BTreeMap<String, Store>,
        engine: Arc<dyn Engine>,
        history: History,
    ) -> World {
        World {
            target,
            plane,
            pools,
            engine,
            volumes: BTreeMap::new(),
            leaving: BTreeMap::new(),
            leaving_pools: BTreeMap::new(),
            fresh_pools: BTreeMap::new(),
            made: BTreeMap::new(),
            opened: BTreeMap::new(),
            exported: BTreeMap::new(),
            ports: BTreeMap::new(),
            history,
            starting: true,
            adopt: None,
            made_before: BTreeSet::new(),
            ask: true,
            had: None,
            waiting: BTreeMap::new(),
            audit: Arc::new(Audit::new(None)),
            ended: false,
            wanted: BTreeSet::new(),
        }
    }

    /// Makes the item that was `from` be `to`. Both are of one key.
    pub(super) fn turn(&mut self, from: Option<&Item>, to: Option<&Item>) -> Result<(), Refusal> {
        match (from, to) {
            (None, Some(Item::Pool(p))) => self.open_pool(p),
            (Some(Item::Pool(p)), None) => self.leave_pool(p),
            (Some(Item::Pool(a)), Some(Item::Pool(b))) => self.grow_pool(a, b),
            (None, Some(Item::Volume(v))) => self.open(v),
            (Some(Item::Volume(v)), None) => self.leave(v),
            (Some(Item::Volume(a)), Some(Item::Volume(b))) => self.change_volume(a, b),
            (None, Some(Item::Subsystem(s))) => self.add_subsystem(s),
            (Some(Item::Subsystem(s)), None) => self.target.remove_subsystem(&s.nqn).map_err(|e| refused(&e)),
            (Some(Item::Subsystem(a)), Some(Item::Subsystem(b))) => self.change_subsystem(a, b),
            (None, Some(Item::Host(h))) => self.target.allow_host(&h.nqn, &h.host).map_err(|e| refused(&e)),
            (Some(Item::Host(h)), None) => self.target.remove_host(&h.nqn, &h.host).map_err(|e| refused(&e)),
            (None, Some(Item::Namespace(n))) => self.add_namespace(n),
            (Some(Item::Namespace(n)), None) => {
                self.exported.remove(&(n.nqn.clone(), n.nsid));
                self.target.remove_namespace(&n.nqn, n.nsid).map_err(|e| refused(&e))
            }
            (Some(Item::Namespace(a)), Some(Item::Namespace(b))) => self.change_namespace(a, b),
            (None, Some(Item::Listener(l))) => self.listen(l),
            (Some(Item::Listener(l)), None) => self.unlisten(l),
            (Some(Item::Listener(_)), Some(Item::Listener(b))) => self.change_listener(b),
            (None, Some(Item::Referral(r))) => self.target.add_referral(referral(r)).map_err(|e| refused(&e)),
            (Some(Item::Referral(r)), None) => {
                self.target.remove_referral(&referral(r)).map_err(|e| refused(&e))
            }
            _ => Ok(()),
        }
    }

    /// Does what was put off: the change is kept.
    pub(super) fn settle(&mut self) {
        for (name, (volume, open)) in std::mem::take(&mut self.leaving) {
            if let Err(error) = open.opened.manage.close() {
                tracing::warn!(%error, volume = name, "a volume was taken away before all its requests had ended");
            }
            // A pool deletes only what nobody holds.
            drop(open);
            if let Some(pool) = volume.pool().and_then(|p| self.pools.get(p)) {
                pool.end_delete(&name);
            }
        }
        for (name, open) in &mut self.volumes {
            if let Some(pool) = open.fresh.take().and_then(|p| self.pools.get(&p)) {
                pool.keep(name);
            }
        }
        self.fresh_pools.clear();
        self.opened.clear();
        for (name, pool) in std::mem::take(&mut self.leaving_pools) {
            close_pool(&name, &pool);
        }
    }

    /// Gives up what was turned back after a start that failed: pools are closed, their volumes as they were.
    pub(super) fn abandon(&mut self) {
        for (name, (volume, open)) in std::mem::take(&mut self.leaving) {
            let _ = open.opened.manage.close();
            let Some(pool) = volume.pool() else { continue };
            match self.leaving_pools.get(pool) {
                Some(log) => log.keep(&name),
                None => self.pools.get(pool).into_iter().for_each(|p| p.keep(&name)),
            }
        }
        for (name, pool) in std::mem::take(&mut self.leaving_pools) {
            close_pool(&name, &pool);
        }
    }

    fn open(&mut self, v: &Volume) -> Result<(), Refusal> {
        if let Some((was, open)) = self.leaving.remove(&v.name) {
            if let Some(pool) = was.pool().and_then(|p| self.pools.get(p)) {
                pool.keep(&v.name);
            }
            self.volumes.insert(v.name.clone(), open);
            return Ok(());
        }
        let mut fresh = None;
        let opened = match v.pool() {
            None => open_alone(v)?,
            Some(name) => {
                let pool = self.pools.get(name).ok_or_else(|| no_pool(name, &self.pools))?;
                let key = model::key::volume(&v.name);
                let adopted = self.starting || self.adopt.as_ref() == Some(&key);
                if adopted && pool.has(&v.name) {
                    pool.open(v)?
                } else if self.starting && self.made_before.contains(&key) {
                    return Err(pool.lost(v));
                } else {
                    self.have_domain(v, name)?;
                    let opened = pool.make(v)?;
                    fresh = Some(name.to_string());
                    opened
                }
            }
        };
        match fit(v, &opened) {
            Ok(()) => {
                self.volumes.insert(v.name.clone(), Open { opened, fresh });
                Ok(())
            }
            Err(e) => {
                let _ = opened.manage.close();
                drop(opened);
                if let Some(pool) = fresh.and_then(|p| self.pools.get(&p)) {
                    pool.unmake(&v.name);
                }
                Err(e)
            }
        }
    }

    /// While the configuration is made real, makes the domain of a volume that is new, where its pool has none of that name: a pool that the
    /// same configuration declares has had no other chance.
    fn have_domain(&self, v: &Volume, pool: &str) -> Result<(), Refusal> {
        let log = self.pools.get(pool).and_then(Store::log);
        let (true, Some(domain), Some(log), Some(model)) =
            (self.starting, &v.domain, log, self.opened.get(pool))
        else {
            return Ok(());
        };
        have_domain(&self.audit, model, log, domain, &v.name)
    }

    /// Takes a volume away: for good with [`World::settle`].
    fn leave(&mut self, v: &Volume) -> Result<(), Refusal> {
        let Some(open) = self.volumes.remove(&v.name) else { return Ok(()) };
        if let Some(pool) = v.pool().and_then(|p| self.pools.get(p)) {
            if open.fresh.is_some() {
                let _ = open.opened.manage.close();
                drop(open);
                pool.unmake(&v.name);
                return Ok(());
            }
            if let Err(e) = pool.begin_delete(&v.name) {
                self.volumes.insert(v.name.clone(), open);
                return Err(e);
            }
        }
        self.leaving.insert(v.name.clone(), (v.clone(), open));
        Ok(())
    }

    fn change_volume(&mut self, from: &Volume, to: &Volume) -> Result<(), Refusal> {
        let fixed = |v: &Volume| (v.backing.clone(), v.block_size, v.origin.clone(), v.domain.clone());
        if fixed(from) != fixed(to) {
            return Err(Refusal::invalid(
                format!("volume {} cannot change its backing, block size or domain", to.name),
                "create another volume and copy the data",
            ));
        }
        let Some(open) = self.volumes.get(&to.name) else { return Ok(()) };
        if from.services != to.services
            && let Some(log) = to.pool().and_then(|p| self.pools.get(p)).and_then(Store::log)
        {
            // One that is being made goes by another name until it is kept, and is not changed in the same step.
            log.handle.set(&to.name, &to.services.unwrap_or_default())?;
        }
        if from.size == to.size {
            return Ok(());
        }
        let block = u64::from(to.block_size);
        let bytes = if to.size == 0 { from.size } else { to.size };
        open.opened.manage.resize(bytes / block).map_err(|e| {
            Refusal::new(
                Cause::System,
                format!("volume {} cannot be resized: {e}", to.name),
                "a block device is resized by its own means; a file needs room on its file system",
            )
        })?;
        self.tell_size(&to.name)
    }

    fn open_pool(&mut self, p: &Pool) -> Result<(), Refusal> {
        if let Some(log) = self.leaving_pools.remove(&p.name) {
            self.pools.insert(p.name.clone(), Store::Log(log));
            return Ok(());
        }
        if self.pools.contains_key(&p.name) {
            return Err(Refusal::conflict(
                format!("there is a pool {} already: a folder of sparse files", p.name),
                "choose another name",
            ));
        }
        self.audit.beside(p);
        let key = model::key::pool(&p.name);
        let want = match self.starting {
            true if self.made_before.contains(&key) => Want::There,
            true => Want::Either,
            false if self.adopt.as_ref() == Some(&key) => Want::There,
            false => Want::New,
        };
        let keys = match self.had.take() {
            Some(keys) => keys,
            None if self.ask => Keys::Ask,
            None => Keys::Quiet,
        };
        let opening = crate::pools::open::open(self.engine.as_ref(), p, want, keys);
        let providers = p.providers().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match &opening {
            Ok(o) if o.made.pool => self.audit.ended("create", &p.name, &providers, &Ok(())),
            _ => self.audit.ended(
                "unlock",
                &p.name,
                &providers,
                &opening.as_ref().map(drop).map_err(Clone::clone),
            ),
        }
        let opening = opening?;
        let log = LogPool::new(&p.name, opening.handle);
        if self.starting {
            let wanted = |volume: &str| self.wanted.contains(&(p.name.clone(), volume.to_string()));
            match log.settle(wanted) {
                Ok(strangers) => strangers.iter().for_each(|s| stranger(&p.name, s)),
                Err(e) => {
                    close_pool(&p.name, &log);
                    return Err(e);
                }
            }
        }
        if opening.made.pool {
            tracing::info!("pool {} was made", p.name);
            self.fresh_pools.insert(p.name.clone(), opening.files);
        }
        if opening.made.key_file {
            let first = p.providers().first().map(ToString::to_string).unwrap_or_default();
            tracing::info!("{first} was made for pool {}", p.name);
        }
        self.made.insert(p.name.clone(), opening.made);
        if self.starting {
            self.opened.insert(p.name.clone(), p.clone());
        }
        self.pools.insert(p.name.clone(), Store::Log(log));
        Ok(())
    }

    /// Takes a pool that was opened just now out of reach, until [`World::take_in`].
    pub(super) fn hold_apart(&mut self, pool: &Pool, volumes: &[Volume]) -> Option<Apart> {
        let Some(Store::Log(log)) = self.pools.remove(&pool.name) else { return None };
        self.opened.remove(&pool.name);
        let fresh = self.fresh_pools.remove(&pool.name);
        // One that is there has its domain, and one that was made by an earlier run is lost.
        let new = |v: &&Volume| !log.has(&v.name) && !self.made_before.contains(&model::key::volume(&v.name));
        let domains =
            volumes.iter().filter(new).filter_map(|v| Some((v.domain.clone()?, v.name.clone()))).collect();
        Some(Apart { pool: pool.clone(), log, domains, fresh })
    }

    /// Puts it where the change that opens it would have.
    pub(super) fn take_in(&mut self, apart: Apart) {
        let name = apart.pool.name.clone();
        if let Some(files) = apart.fresh {
            self.fresh_pools.insert(name.clone(), files);
        }
        self.opened.insert(name.clone(), apart.pool);
        self.pools.insert(name, Store::Log(apart.log));
    }

    /// Takes a pool away, which holds no configured volume any more: for good with [`World::settle`]. Its data stays.
    fn leave_pool(&mut self, p: &Pool) -> Result<(), Refusal> {
        match self.pools.remove(&p.name) {
            Some(Store::Log(log)) => {
                if let Some(files) = self.fresh_pools.remove(&p.name) {
                    close_pool(&p.name, &log);
                    remove(&files);
                } else {
                    self.leaving_pools.insert(p.name.clone(), log);
                }
            }
            Some(folder) => {
                self.pools.insert(p.name.clone(), folder);
            }
            None => {}
        }
        Ok(())
    }

    /// Makes a pool larger: devices that came, and files that were given a larger size, or devices that grew by themselves.
    fn grow_pool(&mut self, from: &Pool, to: &Pool) -> Result<(), Refusal> {
        let Some(log) = self.pools.get(&to.name).and_then(Store::log) else { return Ok(()) };
        let stays = |(a, b): (&Device, &Device)| a.path == b.path && a.size <= b.size;
        if to.devices.len() < from.devices.len() || !from.devices.iter().zip(&to.devices).all(stays) {
            return Err(Refusal::invalid(
                format!("pool {} cannot become smaller", to.name),
                "make a smaller pool, and copy the volumes",
            ));
        }
        let mut longer = false;
        for (old, new) in from.devices.iter().zip(&to.devices) {
            if new.size > old.size {
                lengthen(&new.path, new.size)?;
                longer = true;
            }
        }
        if longer {
            log.handle.grow()?;
        }
        // Last, for a device that has joined cannot be taken back.
        to.devices[from.devices.len()..].iter().try_for_each(|device| log.handle.add_device(device))
    }

    /// Tells hosts of a volume's new size, through each namespace that exports it.
    fn tell_size(&self, volume: &str) -> Result<(), Refusal> {
        for ((nqn, nsid), of) in &self.exported {
            if of == volume {
                self.target.namespace_resized(nqn, *nsid).map_err(|e| refused(&e))?;
            }
        }
        Ok(())
    }

    fn add_subsystem(&self, s: &Subsystem) -> Result<(), Refusal> {
        let mut spec = SubsystemSpec::new(s.nqn.clone(), s.serial.clone());
        spec.model = Some(s.model.clone());
        spec.allow_any = s.allow_any_host;
        spec.allow_erase = s.allow_erase;
        if let Some(last) = &s.sanitize {
            spec.sanitize = caisson_core::SanitizeRecord {
                sos: last.status,
                scdw10: last.command,
                nsids: last.namespaces.clone(),
                left: last.left,
            };
        }
        spec.history = caisson_core::History {
            power_cycles: self.history.starts,
            power_on_hours: self.history.seconds / 3600,
            unsafe_shutdowns: self.history.unclean,
        };
        self.target.add_subsystem(spec).map_err(|e| refused(&e))
    }

    fn change_subsystem(&self, from: &Subsystem, to: &Subsystem) -> Result<(), Refusal> {
        if (&from.serial, &from.model) != (&to.serial, &to.model) {
            return Err(Refusal::invalid(
                format!("the serial and model number of {} do not change while it is there", to.nqn),
                "delete the subsystem and create it again; its hosts are disconnected",
            ));
        }
        self.target.set_allow_erase(&to.nqn, to.allow_erase).map_err(|e| refused(&e))?;
        self.target.set_allow_any(&to.nqn, to.allow_any_host).map_err(|e| refused(&e))
    }

    fn add_namespace(&mut self, n: &Namespace) -> Result<(), Refusal> {
        let open = self.volumes.get(&n.volume).ok_or_else(|| {
            Refusal::not_found(
                format!("there is no volume {}", n.volume),
                "create it first: caisson volume create",
            )
        })?;
        let mut spec = NamespaceSpec::new(Arc::clone(&open.opened.volume), n.uuid);
        spec.nsid = Some(n.nsid);
        spec.write_protected = n.write_protected;
        if let Some(nguid) = n.nguid.as_deref().and_then(|g| u128::from_str_radix(g, 16).ok()) {
            spec.nguid = nguid.to_be_bytes();
        }
        self.target.add_namespace(&n.nqn, spec).map_err(|e| refused(&e))?;
        self.exported.insert((n.nqn.clone(), n.nsid), n.volume.clone());
        Ok(())
    }

    fn change_namespace(&self, from: &Namespace, to: &Namespace) -> Result<(), Refusal> {
        if (&from.volume, from.uuid, &from.nguid) != (&to.volume, to.uuid, &to.nguid) {
            return Err(Refusal::invalid(
                format!("namespace {} of {} does not change its volume or its names", to.nsid, to.nqn),
                "remove it and add it again",
            ));
        }
        self.target.set_write_protected(&to.nqn, to.nsid, to.write_protected).map_err(|e| refused(&e))
    }

    fn listen(&mut self, l: &Listener) -> Result<(), Refusal> {
        let taken: Vec<u16> = self.ports.values().map(|b| b.port.0).collect();
        let id = (1..=u16::MAX).find(|p| !taken.contains(p)).map(PortId).ok_or_else(|| {
            Refusal::conflict("there are too many listeners", "remove some that are not used")
        })?;
        let (exports, discovery) = exports(l.serves);
        let mut spec = PortSpec {
            id,
            transport: transport(l.address),
            address: l.address.socket.ip(),
            service: l.address.socket.port(),
            exports,
            discovery,
        };
        let starting = self.starting;
        let fail = |e: &std::io::Error| {
            let mut r = Refusal::system(format!("cannot listen on {}", l.address), e);
            if starting && r.cause == Cause::Busy {
                r.remedy = "another program uses this address, perhaps another target: stop it, or choose another address or port with \
                            --listen or [[listener]] address"
                    .into();
            }
            r
        };
        // The registry knows the port before the first connection can come, unless the system chooses its number.
        let chosen = spec.service == 0;
        if !chosen {
            self.target.add_port(spec.clone()).map_err(|e| refused(&e))?;
        }
        let actual = match self.plane.listen(l.address, id.0) {
            Ok(actual) => actual,
            Err(error) if self.starting && !chosen && l.address.scheme == Scheme::Rdma => {
                // The rest serves on: a machine whose RDMA is late or broken is no reason to serve nothing.
                tracing::warn!("cannot listen on {} yet: {error}", l.address);
                self.plane.expect(l.address, id.0, error.to_string());
                l.address.socket
            }
            Err(e) => {
                if !chosen {
                    let _ = self.target.remove_port(id);
                }
                return Err(fail(&e));
            }
        };
        if chosen {
            spec.service = actual.port();
            self.target.add_port(spec).map_err(|e| refused(&e))?;
        }
        self.ports.insert(
            model::key::listener(l.address),
            Bound { port: id, actual: Address { socket: actual, ..l.address } },
        );
        Ok(())
    }

    fn unlisten(&mut self, l: &Listener) -> Result<(), Refusal> {
        let Some(bound) = self.ports.remove(&model::key::listener(l.address)) else { return Ok(()) };
        self.plane.unlisten(bound.actual);
        self.target.remove_port(bound.port).map_err(|e| refused(&e))
    }

    fn change_listener(&self, l: &Listener) -> Result<(), Refusal> {
        let Some(bound) = self.ports.get(&model::key::listener(l.address)) else { return Ok(()) };
        let (exports, discovery) = exports(l.serves);
        self.target.set_exports(bound.port, exports, discovery).map_err(|e| refused(&e))
    }

    /// Ends all volumes, when nothing is served any more.
    pub(super) fn close(&mut self) {
        self.ended = true;
        for (name, open) in std::mem::take(&mut self.volumes) {
            if let Err(error) = open.opened.manage.close() {
                tracing::error!(%error, volume = name, "a volume did not close cleanly");
            }
        }
        for (name, pool) in std::mem::take(&mut self.pools) {
            if let Store::Log(log) = pool {
                close_pool(&name, &log);
            }
        }
    }
}

fn exports(serves: Serves) -> (Exports, bool) {
    match serves {
        Serves::Io => (Exports::All, false),
        Serves::Discovery => (Exports::Only(Vec::new()), true),
        Serves::Both => (Exports::All, true),
    }
}

fn transport(address: Address) -> Transport {
    match address.scheme {
        Scheme::Tcp => Transport::Tcp,
        Scheme::Rdma => Transport::Rdma,
    }
}

fn referral(r: &model::Referral) -> caisson_core::Referral {
    caisson_core::Referral {
        nqn: DISCOVERY_NQN.into(),
        transport: transport(r.address),
        address: r.address.socket.ip(),
        service: r.address.socket.port(),
        port: PortId(0),
    }
}

fn no_pool(name: &str, pools: &BTreeMap<String, Store>) -> Refusal {
    let remedy = if pools.is_empty() {
        "this target has no pool: use --backing ram, or start it with a data directory".to_string()
    } else {
        format!("use one of: {}", pools.keys().cloned().collect::<Vec<_>>().join(", "))
    };
    Refusal::not_found(format!("there is no pool {name}"), remedy)
}

fn close_pool(name: &str, pool: &LogPool) {
    if let Err(error) = pool.handle.close() {
        tracing::error!(%error, pool = name, "a pool did not close cleanly: its next opening recovers it");
    }
}

fn stranger(pool: &str, volume: &str) {
    tracing::info!(
        "pool {pool} holds a volume {volume} that is not configured: take it over with `caisson volume create {volume} --adopt \
         --pool {pool}`"
    );
}
