//! The running target as configuration sees it: makes one item real, changes it, or takes it away.
//!
//! [`World::turn`] is its own inverse: what turned an item from `a` to `b` is undone by turning it from `b` to `a`. That is
//! what makes a change of several items atomic. What cannot be undone (closing a volume in memory, deleting a file) is put
//! off until [`World::settle`], after the change is kept.

use super::plane::DataPlane;
use crate::model::text::DISCOVERY_NQN;
use crate::model::{self, Backing, Item, Listener, Namespace, Serves, Subsystem, Volume};
use crate::pool::Pool;
use crate::refusal::{Cause, Refusal};
use crate::state::History;
use caisson_core::{Exports, ManageError, NamespaceSpec, PortId, PortSpec, SubsystemSpec, Target, Transport};
use caisson_device::{Size, StoreSpec};
use caisson_volume::{Opened, Options};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// A listener in force.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) port: PortId,
    pub(super) actual: SocketAddr,
}

/// A volume in force.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) opened: Opened,
    /// The pool in which its file was made by a change that is not kept yet (see [`Pool::make`]).
    fresh: Option<String>,
}

/// The running target.
pub(super) struct World {
    pub(super) target: Arc<Target>,
    pub(super) plane: Arc<dyn DataPlane>,
    pub(super) pools: BTreeMap<String, Pool>,
    pub(super) volumes: BTreeMap<String, Open>,
    /// Volumes that were taken away by a change that is not kept yet.
    leaving: BTreeMap<String, (Volume, Open)>,
    /// Which volume each namespace exports.
    exported: BTreeMap<(String, u32), String>,
    pub(super) ports: BTreeMap<String, Bound>,
    pub(super) history: History,
    /// While the configuration is made real for the first time: files of pools are found, not made anew.
    pub(super) starting: bool,
    /// Volumes whose files in the pool may be taken over by the change at hand.
    pub(super) adopt: Option<String>,
    /// Volumes that were made by an earlier run: a file that is missing is a loss, not a reason to make an empty one.
    pub(super) made_before: BTreeSet<String>,
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
        pools: BTreeMap<String, Pool>,
        history: History,
    ) -> World {
        World {
            target,
            plane,
            pools,
            volumes: BTreeMap::new(),
            leaving: BTreeMap::new(),
            exported: BTreeMap::new(),
            ports: BTreeMap::new(),
            history,
            starting: true,
            adopt: None,
            made_before: BTreeSet::new(),
        }
    }

    /// Makes the item that was `from` be `to`. Both are of one key.
    pub(super) fn turn(&mut self, from: Option<&Item>, to: Option<&Item>) -> Result<(), Refusal> {
        match (from, to) {
            (None, Some(Item::Volume(v))) => self.open(v),
            (Some(Item::Volume(v)), None) => self.leave(v),
            (Some(Item::Volume(a)), Some(Item::Volume(b))) => self.resize(a, b),
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
            if let Backing::Pool { pool } = &volume.backing
                && let Some(pool) = self.pools.get(pool)
            {
                pool.end_delete(&name);
            }
        }
        for (name, open) in &mut self.volumes {
            if let Some(pool) = open.fresh.take().and_then(|p| self.pools.get(&p)) {
                pool.keep(name);
            }
        }
    }

    fn open(&mut self, v: &Volume) -> Result<(), Refusal> {
        if let Some((was, open)) = self.leaving.remove(&v.name) {
            if let Backing::Pool { pool } = &was.backing
                && let Some(pool) = self.pools.get(pool)
            {
                pool.keep(&v.name);
            }
            self.volumes.insert(v.name.clone(), open);
            return Ok(());
        }
        let mut fresh = None;
        let spec = match &v.backing {
            Backing::Ram => StoreSpec::Ram(size(v)?),
            Backing::Null => StoreSpec::Null(size(v)?),
            Backing::Path { path } => StoreSpec::Path(path.clone()),
            Backing::Pool { pool: name } => {
                let pool = self.pools.get(name).ok_or_else(|| no_pool(name, &self.pools))?;
                let adopted = self.starting || self.adopt.as_ref() == Some(&v.name);
                StoreSpec::Path(if adopted && pool.has(&v.name) {
                    pool.path(&v.name)
                } else if self.starting && self.made_before.contains(&v.name) {
                    return Err(Refusal::not_found(
                        format!("the file of volume {} is missing: {}", v.name, pool.path(&v.name).display()),
                        "mount the file system that it is on, or restore it; to do without it, move the state file away or \
                         remove the volume from it",
                    ));
                } else {
                    fresh = Some(name.clone());
                    pool.make(&v.name, v.size)?
                })
            }
        };
        let options = Options { block_size: v.block_size, size: Size::new(v.size), ..Options::default() };
        let result = caisson_volume::open(&spec, &options)
            .map_err(|e| {
                Refusal::new(
                    Cause::System,
                    format!("volume {} cannot be opened: {e}", v.name),
                    format!("check that {spec} is there, is not in use elsewhere, and that this user may read and write it"),
                )
            })
            .and_then(|opened| fit(v, &opened).map(|()| opened));
        match result {
            Ok(opened) => {
                self.volumes.insert(v.name.clone(), Open { opened, fresh });
                Ok(())
            }
            Err(e) => {
                if let Some(pool) = fresh.and_then(|p| self.pools.get(&p)) {
                    pool.unmake(&v.name);
                }
                Err(e)
            }
        }
    }

    /// Takes a volume away: for good with [`World::settle`].
    fn leave(&mut self, v: &Volume) -> Result<(), Refusal> {
        let Some(open) = self.volumes.remove(&v.name) else { return Ok(()) };
        if let Backing::Pool { pool } = &v.backing
            && let Some(pool) = self.pools.get(pool)
        {
            if open.fresh.is_some() {
                let _ = open.opened.manage.close();
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

    fn resize(&mut self, from: &Volume, to: &Volume) -> Result<(), Refusal> {
        if (&from.backing, from.block_size) != (&to.backing, to.block_size) {
            return Err(Refusal::invalid(
                format!("volume {} cannot change its backing or block size", to.name),
                "create another volume and copy the data",
            ));
        }
        let Some(open) = self.volumes.get(&to.name) else { return Ok(()) };
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
            transport: Transport::Tcp,
            address: l.address.0.ip(),
            service: l.address.0.port(),
            exports,
            discovery,
        };
        let fail = |e: &std::io::Error| Refusal::system(format!("cannot listen on {}", l.address), e);
        // The registry knows the port before the first connection can come, unless the system chooses its number.
        let chosen = spec.service == 0;
        if !chosen {
            self.target.add_port(spec.clone()).map_err(|e| refused(&e))?;
        }
        let actual = match self.plane.listen(l.address.0, id.0) {
            Ok(actual) => actual,
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
        self.ports.insert(model::key::listener(l.address), Bound { port: id, actual });
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
        for (name, open) in std::mem::take(&mut self.volumes) {
            if let Err(error) = open.opened.manage.close() {
                tracing::error!(%error, volume = name, "a volume did not close cleanly");
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

fn referral(r: &model::Referral) -> caisson_core::Referral {
    caisson_core::Referral {
        nqn: DISCOVERY_NQN.into(),
        transport: Transport::Tcp,
        address: r.address.0.ip(),
        service: r.address.0.port(),
        port: PortId(0),
    }
}

fn size(v: &Volume) -> Result<Size, Refusal> {
    Size::new(v.size)
        .ok_or_else(|| Refusal::invalid(format!("volume {} has no size", v.name), "give it one: --size 10G"))
}

fn no_pool(name: &str, pools: &BTreeMap<String, Pool>) -> Refusal {
    let remedy = if pools.is_empty() {
        "this target has no pool: use --backing ram, or start it with a data directory".to_string()
    } else {
        format!("use one of: {}", pools.keys().cloned().collect::<Vec<_>>().join(", "))
    };
    Refusal::not_found(format!("there is no pool {name}"), remedy)
}

/// Makes an opened volume as large as it is configured, which ends a growth that a stop interrupted; never cuts it.
fn fit(v: &Volume, opened: &Opened) -> Result<(), Refusal> {
    let block = u64::from(v.block_size);
    let has = opened.volume.geometry().blocks * block;
    if v.size == 0 || has == v.size {
        return Ok(());
    }
    if has > v.size {
        return Err(Refusal::conflict(
            format!("volume {} has {has} bytes, and is configured with {}", v.name, v.size),
            format!(
                "to keep all its data, configure size = {has}; to cut it, start with that size and run `caisson volume resize \
                 {} {} --shrink`",
                v.name, v.size
            ),
        ));
    }
    opened.manage.resize(v.size / block).map_err(|e| {
        Refusal::new(
            Cause::System,
            format!(
                "volume {} has {has} bytes and cannot be grown to the configured {}: {e}",
                v.name, v.size
            ),
            format!("configure size = {has}, or leave the size out for a device of its own"),
        )
    })
}
