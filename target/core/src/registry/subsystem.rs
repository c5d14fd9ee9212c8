//! A subsystem: its namespaces, its access list, its controllers.
//!
//! The namespace table is an immutable snapshot behind a generation number: queues keep the `Arc` and look at the number
//! on each command. Access and controllers are under one lock, so that a host is either refused or disconnected.

use super::namespace::{Namespace, SPARE_THRESHOLD};
use crate::controller::{Change, Controller};
use crate::seam::CloseReason;
use crate::snapshot::SubsystemSnapshot;
use crate::spec::{ControllerModel, History, MAX_CONTROLLERS, MAX_HOSTS, ManageError, PortId};
use crate::stats::Totals;
use crate::sync::lock;
use arc_swap::ArcSwap;
use caisson_wire::log::critical;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What a subsystem is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Storage.
    Nvm,
    /// The well-known discovery service.
    Discovery,
}

/// Namespaces by NSID (index NSID - 1).
#[derive(Default, Clone)]
pub(crate) struct Table {
    slots: Vec<Option<Arc<Namespace>>>,
}

impl Table {
    /// The namespace `nsid`, when there is one.
    #[inline]
    pub(crate) fn get(&self, nsid: u32) -> Option<&Arc<Namespace>> {
        self.slots.get(nsid.wrapping_sub(1) as usize)?.as_ref()
    }

    /// All of them by NSID.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.slots.iter().flatten()
    }

    fn lowest_free(&self) -> u32 {
        self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len()) as u32 + 1
    }

    fn put(&mut self, nsid: u32, namespace: Option<Arc<Namespace>>) {
        let at = nsid as usize - 1;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.slots[at] = namespace;
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
    }
}

/// A subsystem.
pub(crate) struct Subsystem {
    pub(crate) nqn: String,
    pub(crate) serial: String,
    pub(crate) model: String,
    pub(crate) kind: Kind,
    pub(crate) history: History,
    pub(crate) media_errors: AtomicU64,
    pub(crate) sanitize: super::erase::Sanitize,
    controllers: ControllerModel,
    table: ArcSwap<Table>,
    generation: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    allow_any: bool,
    hosts: BTreeSet<String>,
    controllers: BTreeMap<u16, Arc<Controller>>,
    next_id: u16,
    removed: bool,
    /// I/O on namespaces that were removed.
    retired: Totals,
}

/// Why a controller could not be made for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdmitError {
    /// Not on the access list.
    Access,
    /// The controller id asked for does not fit the controller model or does not exist.
    ControllerId,
    /// Every controller (that was asked for) is in use.
    Busy,
    /// The subsystem is going.
    Gone,
}

/// The largest dynamic CNTLID (FFF0h and up are reserved: Base 2.1, figure for Identify CNTLID).
pub(crate) const MAX_CNTLID: u16 = 0xffef;

impl Subsystem {
    pub(crate) fn new(
        kind: Kind,
        nqn: String,
        serial: String,
        model: String,
        controllers: ControllerModel,
        history: History,
        sanitize: super::erase::Sanitize,
    ) -> Subsystem {
        Subsystem {
            nqn,
            serial,
            model,
            kind,
            history,
            media_errors: AtomicU64::new(0),
            sanitize,
            controllers,
            table: ArcSwap::default(),
            generation: AtomicU64::new(1),
            inner: Mutex::new(Inner {
                allow_any: kind == Kind::Discovery,
                hosts: BTreeSet::new(),
                controllers: BTreeMap::new(),
                next_id: 1,
                removed: false,
                retired: Totals::default(),
            }),
        }
    }

    /// Moves whenever the table does; loaded by each I/O command.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The namespaces as they are now. Read the generation first.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn controller_model(&self) -> &ControllerModel {
        &self.controllers
    }

    /// Changes the table and tells every controller about `nsid`.
    fn change<R>(
        &self,
        nsid: u32,
        how: impl FnOnce(&mut Table) -> Result<R, ManageError>,
    ) -> Result<R, ManageError> {
        let inner = lock(&self.inner);
        let mut table = (**self.table.load()).clone();
        let made = how(&mut table)?;
        self.table.store(Arc::new(table));
        self.generation.fetch_add(1, Ordering::Release);
        for controller in inner.controllers.values() {
            controller.changed(Change::Namespace(nsid));
        }
        Ok(made)
    }

    /// Adds a namespace made by `make` for the NSID that it is to have.
    pub(crate) fn add_namespace(
        &self,
        wanted: Option<u32>,
        max: u32,
        make: impl FnOnce(u32) -> Result<Namespace, ManageError>,
    ) -> Result<u32, ManageError> {
        let nsid = match wanted {
            Some(nsid) if nsid == 0 || nsid > max => return Err(ManageError::BadNsid(nsid)),
            Some(nsid) => nsid,
            None => self.table.load().lowest_free(),
        };
        if nsid > max {
            return Err(ManageError::TooMany { what: "namespaces in a subsystem", max: max as usize });
        }
        self.change(nsid, |table| {
            if table.get(nsid).is_some() {
                return Err(ManageError::NamespaceExists { nqn: self.nqn.clone(), nsid });
            }
            let namespace = Arc::new(make(nsid)?);
            namespace.resume_format();
            self.resume_sanitize(&namespace);
            table.put(nsid, Some(namespace));
            Ok(())
        })?;
        Ok(nsid)
    }

    /// Takes a namespace away; what hosts did on it stays in SMART.
    pub(crate) fn remove_namespace(&self, nsid: u32) -> Result<Arc<Namespace>, ManageError> {
        let namespace = self.change(nsid, |table| {
            let gone = table.get(nsid).cloned();
            let gone = gone.ok_or_else(|| ManageError::NoNamespace { nqn: self.nqn.clone(), nsid })?;
            table.put(nsid, None);
            Ok(gone)
        })?;
        lock(&self.inner).retired.add(&namespace.totals());
        self.unsanitize(nsid);
        Ok(namespace)
    }

    /// Tells every controller that something that Identify says of `nsid` is different, when `changed` says so.
    pub(crate) fn touch_namespace(
        &self,
        nsid: u32,
        changed: impl FnOnce(&Namespace) -> bool,
    ) -> Result<bool, ManageError> {
        let table = self.table.load();
        let Some(namespace) = table.get(nsid) else {
            return Err(ManageError::NoNamespace { nqn: self.nqn.clone(), nsid });
        };
        let changed = changed(namespace);
        if changed {
            for controller in lock(&self.inner).controllers.values() {
                controller.changed(Change::Namespace(nsid));
            }
        }
        Ok(changed)
    }

    /// Whether `host` may connect.
    pub(crate) fn allows(&self, host: &str) -> bool {
        let inner = lock(&self.inner);
        inner.allow_any || inner.hosts.contains(host)
    }

    /// Sets the access list as a whole, at the start.
    pub(crate) fn set_access(&self, any: bool, hosts: BTreeSet<String>) {
        let mut inner = lock(&self.inner);
        inner.allow_any = any;
        inner.hosts = hosts;
    }

    /// Lets any host in or not; whether that changed something. Hosts that lose access are disconnected.
    pub(crate) fn set_allow_any(&self, any: bool) -> bool {
        let mut inner = lock(&self.inner);
        let was = std::mem::replace(&mut inner.allow_any, any);
        inner.expel();
        was != any
    }

    /// Puts `host` on the list; whether it was not there.
    pub(crate) fn allow_host(&self, host: &str) -> Result<bool, ManageError> {
        let mut inner = lock(&self.inner);
        if inner.hosts.len() >= MAX_HOSTS && !inner.hosts.contains(host) {
            return Err(ManageError::TooMany { what: "hosts on an access list", max: MAX_HOSTS });
        }
        Ok(inner.hosts.insert(host.to_string()))
    }

    /// Takes `host` off the list and disconnects it, unless any host may connect.
    pub(crate) fn remove_host(&self, host: &str) -> Result<(), ManageError> {
        let mut inner = lock(&self.inner);
        if !inner.hosts.remove(host) {
            return Err(ManageError::NoHost { nqn: self.nqn.clone(), host: host.to_string() });
        }
        inner.expel();
        Ok(())
    }

    /// Makes a controller for `host` with the id that `cntlid` (of Connect) leads to, if it may connect.
    pub(crate) fn admit(
        &self,
        host: &str,
        cntlid: u16,
        make: impl FnOnce(u16) -> Arc<Controller>,
    ) -> Result<Arc<Controller>, AdmitError> {
        let mut inner = lock(&self.inner);
        if inner.removed {
            return Err(AdmitError::Gone);
        }
        if !inner.allow_any && !inner.hosts.contains(host) {
            return Err(AdmitError::Access);
        }
        let id = match (&self.controllers, cntlid) {
            (ControllerModel::Dynamic, caisson_wire::fabrics::CNTLID_DYNAMIC) => inner.free_id()?,
            (ControllerModel::Static(ids), caisson_wire::fabrics::CNTLID_STATIC_ANY) => {
                let free = ids.iter().find(|id| !inner.controllers.contains_key(id));
                *free.ok_or(AdmitError::Busy)?
            }
            (ControllerModel::Static(ids), id) if ids.contains(&id) => {
                if inner.controllers.contains_key(&id) {
                    return Err(AdmitError::Busy);
                }
                id
            }
            _ => return Err(AdmitError::ControllerId),
        };
        let controller = make(id);
        inner.controllers.insert(id, Arc::clone(&controller));
        Ok(controller)
    }

    /// The controller `id`.
    pub(crate) fn controller(&self, id: u16) -> Option<Arc<Controller>> {
        lock(&self.inner).controllers.get(&id).cloned()
    }

    /// Every controller by id.
    pub(crate) fn controllers(&self) -> Vec<Arc<Controller>> {
        lock(&self.inner).controllers.values().cloned().collect()
    }

    /// Forgets a controller whose admin queue is gone.
    pub(crate) fn forget(&self, controller: &Arc<Controller>) {
        let mut inner = lock(&self.inner);
        if inner.controllers.get(&controller.id).is_some_and(|c| Arc::ptr_eq(c, controller)) {
            inner.controllers.remove(&controller.id);
        }
    }

    /// Ends every association for which `which` holds.
    pub(crate) fn close(&self, reason: CloseReason, which: impl Fn(&Controller) -> bool) {
        for controller in lock(&self.inner).controllers.values().filter(|c| which(c)) {
            controller.shut(reason);
        }
    }

    /// Ends every association and admits no more.
    pub(crate) fn remove(&self) {
        lock(&self.inner).removed = true;
        self.close(CloseReason::SubsystemRemoved, |_| true);
    }

    /// Ends the associations that came in through `port`.
    pub(crate) fn close_port(&self, port: PortId) {
        self.close(CloseReason::PortRemoved, |c| c.port == port);
    }

    /// Tells the controllers of hosts for which `whose` holds.
    pub(crate) fn tell(&self, change: Change, whose: impl Fn(&str) -> bool) {
        for controller in lock(&self.inner).controllers.values().filter(|c| whose(&c.host)) {
            controller.changed(change);
        }
    }

    /// A sanitize operation begins: what was still to be told of the one before is not told any more (Base 2.1, 8.1.24.4).
    pub(crate) fn forget_sanitized(&self) {
        for controller in lock(&self.inner).controllers.values() {
            lock(&controller.shared).events.forget(caisson_wire::log::lid::SANITIZE);
        }
    }

    /// What all hosts did on all its namespaces, those that are gone included.
    pub(crate) fn totals(&self) -> Totals {
        let mut sum = lock(&self.inner).retired.clone();
        for namespace in self.table.load().iter() {
            sum.add(&namespace.totals());
        }
        sum
    }

    /// SMART's critical warning byte: reliability is degraded once a device has failed for good; spare is low when a
    /// store has little room for new data.
    pub(crate) fn critical_warning(&self) -> u8 {
        let failed = self.table.load().iter().any(|n| n.failed());
        let low = self.spare() < SPARE_THRESHOLD;
        (if failed { critical::RELIABILITY } else { 0 }) | if low { critical::SPARE } else { 0 }
    }

    /// SMART's available spare: the least that any namespace's store has left for new data, in percent.
    pub(crate) fn spare(&self) -> u8 {
        self.table.load().iter().map(|n| n.volume.spare()).min().unwrap_or(100).min(100)
    }

    /// Tells hosts of stores whose room has become little since it was last looked.
    pub(crate) fn look_at_spare(&self) {
        let namespaces = self.table.load();
        // All are asked: each remembers what was told.
        if namespaces.iter().filter(|n| n.newly_low()).count() > 0 {
            tracing::warn!(subsystem = %self.nqn, spare = self.spare(), "little room is left for new data");
            self.tell(Change::Spare, |_| true);
        }
    }

    pub(crate) fn snapshot(&self) -> SubsystemSnapshot {
        let inner = lock(&self.inner);
        SubsystemSnapshot {
            nqn: self.nqn.clone(),
            serial: self.serial.clone(),
            model: self.model.clone(),
            controller_model: self.controllers.clone(),
            allow_any: inner.allow_any,
            allow_erase: self.may_erase(),
            hosts: inner.hosts.iter().cloned().collect(),
            namespaces: self.table.load().iter().map(|n| n.snapshot()).collect(),
            controllers: inner.controllers.values().map(|c| c.snapshot()).collect(),
            media_errors: self.media_errors.load(Ordering::Relaxed),
            critical_warning: self.critical_warning(),
        }
    }
}

impl Inner {
    /// The next id that no controller has; ids are not reused until all have had their turn.
    fn free_id(&mut self) -> Result<u16, AdmitError> {
        if self.controllers.len() >= MAX_CONTROLLERS {
            return Err(AdmitError::Busy);
        }
        loop {
            let id = self.next_id;
            self.next_id = if id == MAX_CNTLID { 1 } else { id + 1 };
            if !self.controllers.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    /// Disconnects the hosts that may not be here.
    fn expel(&self) {
        if self.allow_any {
            return;
        }
        for controller in self.controllers.values() {
            if !self.hosts.contains(&*controller.host) {
                controller.shut(CloseReason::AccessRemoved);
            }
        }
    }
}
