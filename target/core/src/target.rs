//! The target: the registry of subsystems, namespaces, hosts, ports and referrals, and everything management does to it.
//!
//! Each method is atomic: it changes everything it says or nothing. Hosts see changes at once (a namespace, an access
//! list) or are told (asynchronous events). Nothing here blocks on a host or on a device.

use crate::controller::Change;
use crate::registry::namespace::{Identity, Namespace, identities};
use crate::registry::subsystem::{Kind, MAX_CNTLID, Subsystem};
use crate::seam::CloseReason;
use crate::snapshot::{Counters, TargetSnapshot};
use crate::spec::*;
use crate::sync::lock;
use caisson_block::Mono;
use caisson_wire::fabrics::DISCOVERY_NQN;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

/// Told of what hosts change that should survive a restart.
pub trait Observer: Send + Sync {
    /// A host set or cleared the write protection of a namespace (Namespace Write Protection Config). Called on a thread
    /// of the data plane: it may only pass this on.
    fn write_protection(&self, nqn: &str, nsid: u32, on: bool);

    /// A sanitize operation that a host asked for goes on whatever happens, or has ended. Called as the other.
    fn sanitized(&self, _nqn: &str, _record: &SanitizeRecord) {}
}

/// The registry.
pub struct Target {
    pub(crate) settings: Settings,
    /// When the target started, for power-on hours.
    pub(crate) origin: Mono,
    pub(crate) discovery: Arc<Subsystem>,
    pub(crate) counters: LiveCounters,
    observer: OnceLock<Arc<dyn Observer>>,
    state: Mutex<State>,
}

/// [`Counters`] as they are kept.
#[derive(Default)]
pub(crate) struct LiveCounters {
    pub(crate) queues: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) keep_alive_expired: AtomicU64,
    pub(crate) aborted: AtomicU64,
    pub(crate) failed_commands: AtomicU64,
}

struct State {
    subsystems: BTreeMap<String, Arc<Subsystem>>,
    ports: BTreeMap<PortId, PortSpec>,
    referrals: Vec<Referral>,
    /// Who has which UUID, NGUID or EUI64.
    identities: HashMap<Identity, (String, u32)>,
    /// GENCTR (Base 2.1, 5.1.12.3.1): moves whenever the discovery log may be different for some host.
    generation: u64,
}

impl Target {
    /// An empty target; `now` is where power-on hours are counted from.
    pub fn new(settings: Settings, now: Mono) -> Arc<Target> {
        let discovery = Subsystem::new(
            Kind::Discovery,
            DISCOVERY_NQN.into(),
            "discovery".into(),
            settings.model.clone(),
            ControllerModel::Dynamic,
            History::default(),
            crate::registry::erase::Sanitize::default(),
        );
        Arc::new(Target {
            settings,
            origin: now,
            discovery: Arc::new(discovery),
            counters: LiveCounters::default(),
            observer: OnceLock::new(),
            state: Mutex::new(State {
                subsystems: BTreeMap::new(),
                ports: BTreeMap::new(),
                referrals: Vec::new(),
                identities: HashMap::new(),
                generation: 1,
            }),
        })
    }

    /// Sets who is told of what hosts change; once, before hosts connect. Later calls change nothing.
    pub fn set_observer(&self, observer: Arc<dyn Observer>) {
        let _ = self.observer.set(observer);
    }

    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.get()
    }

    /// Adds a subsystem.
    ///
    /// # Errors
    /// [`ManageError`]: a bad NQN, text or controller id; the subsystem exists; too many.
    pub fn add_subsystem(&self, spec: SubsystemSpec) -> Result<(), ManageError> {
        check_nqn(&spec.nqn)?;
        if spec.nqn == DISCOVERY_NQN {
            return Err(ManageError::BadNqn { nqn: spec.nqn, why: "it is the discovery service's" });
        }
        for host in &spec.hosts {
            check_nqn(host)?;
        }
        if spec.hosts.len() > MAX_HOSTS {
            return Err(ManageError::TooMany { what: "hosts on an access list", max: MAX_HOSTS });
        }
        let model = spec.model.unwrap_or_else(|| self.settings.model.clone());
        check_text(&spec.serial, "serial number", 20)?;
        check_text(&model, "model number", 40)?;
        if let ControllerModel::Static(ids) = &spec.controllers {
            let mut sorted = ids.clone();
            sorted.sort_unstable();
            sorted.dedup();
            let bad = sorted.len() != ids.len() || sorted.iter().any(|&id| id == 0 || id > MAX_CNTLID);
            if ids.is_empty() || bad {
                return Err(ManageError::BadControllerIds);
            }
        }
        let mut state = lock(&self.state);
        if state.subsystems.contains_key(&spec.nqn) {
            return Err(ManageError::SubsystemExists(spec.nqn));
        }
        if state.subsystems.len() >= MAX_SUBSYSTEMS {
            return Err(ManageError::TooMany { what: "subsystems", max: MAX_SUBSYSTEMS });
        }
        let sanitize = crate::registry::erase::Sanitize::new(spec.allow_erase, spec.sanitize);
        let subsystem = Subsystem::new(
            Kind::Nvm,
            spec.nqn.clone(),
            spec.serial,
            model,
            spec.controllers,
            spec.history,
            sanitize,
        );
        subsystem.set_access(spec.allow_any, spec.hosts.into_iter().collect());
        let subsystem = Arc::new(subsystem);
        state.subsystems.insert(spec.nqn, Arc::clone(&subsystem));
        self.discovery_changed(&mut state, |host| subsystem.allows(host));
        Ok(())
    }

    /// Removes a subsystem: its hosts are disconnected, and its namespaces' volumes let go as their queues close.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`].
    pub fn remove_subsystem(&self, nqn: &str) -> Result<(), ManageError> {
        let mut state = lock(&self.state);
        let subsystem =
            state.subsystems.remove(nqn).ok_or_else(|| ManageError::NoSubsystem(nqn.to_string()))?;
        subsystem.remove();
        for namespace in subsystem.table().iter() {
            state.forget(&namespace.identities());
        }
        self.discovery_changed(&mut state, |host| subsystem.allows(host));
        Ok(())
    }

    /// Lets any host connect, or (`false`) only those on the access list: others that are connected are disconnected.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`].
    pub fn set_allow_any(&self, nqn: &str, any: bool) -> Result<(), ManageError> {
        let mut state = lock(&self.state);
        if state.subsystem(nqn)?.set_allow_any(any) {
            self.discovery_changed(&mut state, |_| true);
        }
        Ok(())
    }

    /// Lets hosts erase what the subsystem's namespaces hold, or not.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`].
    pub fn set_allow_erase(&self, nqn: &str, on: bool) -> Result<(), ManageError> {
        lock(&self.state).subsystem(nqn)?.set_may_erase(on);
        Ok(())
    }

    /// Puts a host on the access list; one that is on it stays.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`], [`ManageError::BadNqn`], [`ManageError::TooMany`].
    pub fn allow_host(&self, nqn: &str, host: &str) -> Result<(), ManageError> {
        check_nqn(host)?;
        let mut state = lock(&self.state);
        if state.subsystem(nqn)?.allow_host(host)? {
            self.discovery_changed(&mut state, |h| h == host);
        }
        Ok(())
    }

    /// Takes a host off the access list and, unless any host may connect, disconnects it.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`], [`ManageError::NoHost`].
    pub fn remove_host(&self, nqn: &str, host: &str) -> Result<(), ManageError> {
        let mut state = lock(&self.state);
        state.subsystem(nqn)?.remove_host(host)?;
        self.discovery_changed(&mut state, |h| h == host);
        Ok(())
    }

    /// Adds a namespace, which connected hosts are told of; its NSID.
    ///
    /// # Errors
    /// [`ManageError`]: no such subsystem, a bad or used NSID, an identifier or block size that cannot be.
    pub fn add_namespace(&self, nqn: &str, spec: NamespaceSpec) -> Result<u32, ManageError> {
        let mut state = lock(&self.state);
        let subsystem = Arc::clone(state.subsystem(nqn)?);
        let identities = identities(&spec.uuid, &spec.nguid, &spec.eui64);
        if let Some((nqn, nsid)) = identities.iter().find_map(|id| state.identities.get(id)) {
            return Err(ManageError::IdentifierInUse { nqn: nqn.clone(), nsid: *nsid });
        }
        let nsid = subsystem.add_namespace(spec.nsid, MAX_NAMESPACES, |nsid| Namespace::new(nsid, &spec))?;
        state.identities.extend(identities.into_iter().map(|id| (id, (nqn.to_string(), nsid))));
        Ok(nsid)
    }

    /// Removes a namespace; commands at its volume finish, later ones get Invalid Namespace or Format.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`], [`ManageError::NoNamespace`].
    pub fn remove_namespace(&self, nqn: &str, nsid: u32) -> Result<(), ManageError> {
        let mut state = lock(&self.state);
        let subsystem = Arc::clone(state.subsystem(nqn)?);
        let namespace = subsystem.remove_namespace(nsid)?;
        state.forget(&namespace.identities());
        Ok(())
    }

    /// The volume of a namespace has another size now: hosts are told. Its block size must not change.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`], [`ManageError::NoNamespace`].
    pub fn namespace_resized(&self, nqn: &str, nsid: u32) -> Result<(), ManageError> {
        lock(&self.state).subsystem(nqn)?.touch_namespace(nsid, Namespace::refresh_size).map(drop)
    }

    /// Sets or clears write protection; hosts are told.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`], [`ManageError::NoNamespace`].
    pub fn set_write_protected(&self, nqn: &str, nsid: u32, on: bool) -> Result<(), ManageError> {
        lock(&self.state).subsystem(nqn)?.touch_namespace(nsid, |n| n.set_protected(on)).map(drop)
    }

    /// Adds a port: what is told of it in discovery logs, and what may be connected to there.
    ///
    /// # Errors
    /// [`ManageError::PortExists`], [`ManageError::TooMany`].
    pub fn add_port(&self, spec: PortSpec) -> Result<(), ManageError> {
        let mut state = lock(&self.state);
        if state.ports.contains_key(&spec.id) {
            return Err(ManageError::PortExists(spec.id));
        }
        if state.ports.len() >= MAX_PORTS {
            return Err(ManageError::TooMany { what: "ports", max: MAX_PORTS });
        }
        state.ports.insert(spec.id, spec);
        self.discovery_changed(&mut state, |_| true);
        Ok(())
    }

    /// Changes what may be connected to at a port. Hosts that are connected stay.
    ///
    /// # Errors
    /// [`ManageError::NoPort`].
    pub fn set_exports(&self, id: PortId, exports: Exports, discovery: bool) -> Result<(), ManageError> {
        let mut state = lock(&self.state);
        let port = state.ports.get_mut(&id).ok_or(ManageError::NoPort(id))?;
        (port.exports, port.discovery) = (exports, discovery);
        self.discovery_changed(&mut state, |_| true);
        Ok(())
    }

    /// Removes a port and ends the associations that came in through it.
    ///
    /// # Errors
    /// [`ManageError::NoPort`].
    pub fn remove_port(&self, id: PortId) -> Result<(), ManageError> {
        let mut state = lock(&self.state);
        state.ports.remove(&id).ok_or(ManageError::NoPort(id))?;
        for subsystem in state.subsystems.values() {
            subsystem.close_port(id);
        }
        self.discovery.close_port(id);
        self.discovery_changed(&mut state, |_| true);
        Ok(())
    }

    /// Adds a referral.
    ///
    /// # Errors
    /// [`ManageError::ReferralExists`], [`ManageError::BadNqn`], [`ManageError::TooMany`].
    pub fn add_referral(&self, referral: Referral) -> Result<(), ManageError> {
        check_nqn(&referral.nqn)?;
        let mut state = lock(&self.state);
        if state.referrals.contains(&referral) {
            return Err(ManageError::ReferralExists);
        }
        if state.referrals.len() >= MAX_REFERRALS {
            return Err(ManageError::TooMany { what: "referrals", max: MAX_REFERRALS });
        }
        state.referrals.push(referral);
        self.discovery_changed(&mut state, |_| true);
        Ok(())
    }

    /// Removes a referral.
    ///
    /// # Errors
    /// [`ManageError::NoReferral`].
    pub fn remove_referral(&self, referral: &Referral) -> Result<(), ManageError> {
        let mut state = lock(&self.state);
        let at = state.referrals.iter().position(|r| r == referral).ok_or(ManageError::NoReferral)?;
        state.referrals.remove(at);
        self.discovery_changed(&mut state, |_| true);
        Ok(())
    }

    /// Ends an association; the host may connect again.
    ///
    /// # Errors
    /// [`ManageError::NoSubsystem`], [`ManageError::NoController`].
    pub fn disconnect(&self, nqn: &str, cntlid: u16) -> Result<(), ManageError> {
        let subsystem = match nqn {
            DISCOVERY_NQN => Arc::clone(&self.discovery),
            nqn => Arc::clone(lock(&self.state).subsystem(nqn)?),
        };
        let no = || ManageError::NoController { nqn: nqn.to_string(), cntlid };
        subsystem.controller(cntlid).ok_or_else(no)?.shut(CloseReason::Operator);
        Ok(())
    }

    /// Everything as it is now.
    pub fn snapshot(&self) -> TargetSnapshot {
        let state = lock(&self.state);
        let c = &self.counters;
        TargetSnapshot {
            subsystems: state.subsystems.values().map(|s| s.snapshot()).collect(),
            discovery_controllers: self.discovery.controllers().iter().map(|c| c.snapshot()).collect(),
            ports: state.ports.values().cloned().collect(),
            referrals: state.referrals.clone(),
            generation: state.generation,
            counters: Counters {
                queues: c.queues.load(Relaxed),
                connects: c.connects.load(Relaxed),
                refused: c.refused.load(Relaxed),
                keep_alive_expired: c.keep_alive_expired.load(Relaxed),
                aborted: c.aborted.load(Relaxed),
                failed_commands: c.failed_commands.load(Relaxed),
            },
        }
    }

    /// Looks at what no command brings up: has hosts told of stores that have little room left, and sees what came of Formats and
    /// sanitize operations whose commands are gone. To be called every second or so.
    pub fn look_around(&self) {
        let subsystems: Vec<_> = lock(&self.state).subsystems.values().cloned().collect();
        for subsystem in &subsystems {
            subsystem.look_at_spare();
            subsystem.table().iter().for_each(|n| n.look_at_format());
            self.look_at_sanitize(subsystem);
        }
    }

    /// Looks how far a sanitize operation is, and has kept what is to be.
    pub(crate) fn look_at_sanitize(&self, subsystem: &Subsystem) {
        if let Some(record) = subsystem.look_at_sanitize() {
            tracing::warn!(subsystem = %subsystem.nqn, status = record.sos, "a sanitize operation");
            if let Some(observer) = self.observer() {
                observer.sanitized(&subsystem.nqn, &record);
            }
        }
    }

    /// Has kept that a host has left the failure mode.
    pub(crate) fn keep_sanitize(&self, subsystem: &Subsystem) {
        if let Some(observer) = self.observer() {
            observer.sanitized(&subsystem.nqn, &subsystem.sanitize_record());
        }
    }

    /// GENCTR now.
    pub fn discovery_generation(&self) -> u64 {
        lock(&self.state).generation
    }

    /// The subsystem that Connect names `nqn` at `port`, when it may be connected to there.
    pub(crate) fn subsystem_at(&self, port: PortId, nqn: &str) -> Option<Arc<Subsystem>> {
        let state = lock(&self.state);
        let port = state.ports.get(&port)?;
        if nqn == DISCOVERY_NQN {
            return port.discovery.then(|| Arc::clone(&self.discovery));
        }
        port.exports.contains(nqn).then(|| state.subsystems.get(nqn).cloned())?
    }

    /// The transport of a port.
    pub(crate) fn transport_of(&self, port: PortId) -> Option<Transport> {
        lock(&self.state).ports.get(&port).map(|p| p.transport)
    }

    /// What the discovery log is made from, all of one moment, through `look`.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Listing<'_>) -> R) -> R {
        let state = lock(&self.state);
        look(&Listing {
            subsystems: &state.subsystems,
            ports: &state.ports,
            referrals: &state.referrals,
            generation: state.generation,
        })
    }

    /// The discovery log is different now, for hosts for which `whose` holds: those that asked for it are told.
    fn discovery_changed(&self, state: &mut State, whose: impl Fn(&str) -> bool) {
        state.generation += 1;
        self.discovery.tell(Change::Discovery, whose);
    }
}

/// The registry while it stands still.
pub(crate) struct Listing<'a> {
    pub(crate) subsystems: &'a BTreeMap<String, Arc<Subsystem>>,
    pub(crate) ports: &'a BTreeMap<PortId, PortSpec>,
    pub(crate) referrals: &'a [Referral],
    pub(crate) generation: u64,
}

impl State {
    fn forget(&mut self, identities: &[Identity]) {
        for id in identities {
            self.identities.remove(id);
        }
    }

    fn subsystem(&self, nqn: &str) -> Result<&Arc<Subsystem>, ManageError> {
        self.subsystems.get(nqn).ok_or_else(|| ManageError::NoSubsystem(nqn.to_string()))
    }
}
