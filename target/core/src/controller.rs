//! What the queues of one controller share, and what management does to it.
//!
//! The admin queue's own state (features, parked commands) is not here: this is only what other threads read or change.
//! One lock, never taken on the way of an I/O command that succeeds.

use crate::events::{ErrorLog, ErrorNote, Event, Events};
use crate::link::{Link, Mail};
use crate::registry::subsystem::Subsystem;
use crate::seam::CloseReason;
use crate::snapshot::ControllerSnapshot;
use crate::spec::PortId;
use crate::sync::lock;
use caisson_block::Mono;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Whether commands are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Life {
    /// CSTS.RDY is 0.
    Disabled = 0,
    /// CSTS.RDY is 1.
    Ready = 1,
    /// The association is over; every queue closes.
    Over = 2,
}

/// What has changed behind a controller's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A namespace came, went, or is different.
    Namespace(u32),
    /// The discovery log.
    Discovery,
    /// A device failed for good.
    Fault,
    /// A store has little room left.
    Spare,
    /// The sanitize operation that was asked for here has ended.
    Sanitized {
        /// With a deallocation that it was asked not to do.
        unasked: bool,
    },
}

/// One controller.
pub(crate) struct Controller {
    pub(crate) id: u16,
    pub(crate) subsystem: Arc<Subsystem>,
    pub(crate) host: Arc<str>,
    pub(crate) hostid: [u8; 16],
    pub(crate) port: PortId,
    pub(crate) peer: String,
    pub(crate) since: Mono,
    life: AtomicU8,
    /// The host switched the volatile write cache off (Feature 06h): every write is durable before it completes.
    write_through: AtomicBool,
    /// CC and CSTS as they read; written by the admin queue.
    pub(crate) cc: AtomicU32,
    pub(crate) csts: AtomicU32,
    pub(crate) kato_ms: AtomicU32,
    /// I/O queues that the host may make.
    pub(crate) io_queues: AtomicU16,
    pub(crate) shared: Mutex<Shared>,
}

/// What is under the lock.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) queues: BTreeMap<u16, Arc<Link>>,
    pub(crate) events: Events,
    pub(crate) errors: ErrorLog,
}

/// Why an I/O queue could not be joined to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinError {
    /// The controller is not ready, or the queue exists.
    Sequence,
    /// The queue id is over what was granted.
    QueueId,
    /// The association is over.
    Over,
}

impl Controller {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        id: u16,
        subsystem: Arc<Subsystem>,
        host: Arc<str>,
        hostid: [u8; 16],
        port: PortId,
        peer: String,
        since: Mono,
        io_queues: u16,
    ) -> Controller {
        Controller {
            id,
            subsystem,
            host,
            hostid,
            port,
            peer,
            since,
            life: AtomicU8::new(Life::Disabled as u8),
            write_through: AtomicBool::new(false),
            cc: AtomicU32::new(0),
            csts: AtomicU32::new(0),
            kato_ms: AtomicU32::new(0),
            io_queues: AtomicU16::new(io_queues),
            shared: Mutex::new(Shared::default()),
        }
    }

    /// Whether commands are taken.
    #[inline]
    pub(crate) fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Disabled,
            1 => Life::Ready,
            _ => Life::Over,
        }
    }

    /// Whether every write is to be durable before it completes.
    #[inline]
    pub(crate) fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Relaxed)
    }

    pub(crate) fn set_write_through(&self, on: bool) {
        self.write_through.store(on, Ordering::Relaxed);
    }

    /// Follows CSTS.RDY; an association that is over stays over.
    pub(crate) fn set_ready(&self, ready: bool) {
        let (from, to) = if ready { (Life::Disabled, Life::Ready) } else { (Life::Ready, Life::Disabled) };
        let _ = self.life.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Ends the association: every queue is told to close.
    pub(crate) fn shut(&self, reason: CloseReason) {
        let shared = lock(&self.shared);
        if self.life.swap(Life::Over as u8, Ordering::AcqRel) == Life::Over as u8 {
            return;
        }
        for link in shared.queues.values() {
            link.post(Mail::Close(reason));
        }
    }

    /// Joins a queue; the admin queue is 0.
    pub(crate) fn join(&self, link: &Arc<Link>) -> Result<(), JoinError> {
        let mut shared = lock(&self.shared);
        match self.life() {
            Life::Over => return Err(JoinError::Over),
            Life::Disabled if link.qid != 0 => return Err(JoinError::Sequence),
            _ => {}
        }
        if link.qid > self.io_queues.load(Ordering::Relaxed) {
            return Err(JoinError::QueueId);
        }
        if shared.queues.contains_key(&link.qid) {
            return Err(JoinError::Sequence);
        }
        shared.queues.insert(link.qid, Arc::clone(link));
        Ok(())
    }

    /// Takes a queue out.
    pub(crate) fn leave(&self, link: &Arc<Link>) {
        let mut shared = lock(&self.shared);
        if shared.queues.get(&link.qid).is_some_and(|l| Arc::ptr_eq(l, link)) {
            shared.queues.remove(&link.qid);
        }
    }

    /// The queue `qid`, when it is connected.
    pub(crate) fn queue(&self, qid: u16) -> Option<Arc<Link>> {
        lock(&self.shared).queues.get(&qid).cloned()
    }

    /// Closes the I/O queues: the controller was reset or shut down.
    pub(crate) fn close_io_queues(&self, reason: CloseReason) {
        for (_, link) in lock(&self.shared).queues.range(1..) {
            link.post(Mail::Close(reason));
        }
    }

    /// Commands received on all queues.
    pub(crate) fn traffic(&self) -> u64 {
        lock(&self.shared).queues.values().map(|l| l.commands()).fold(0, u64::wrapping_add)
    }

    /// Puts an error in the log, with its event where it has one, and has the admin queue look.
    pub(crate) fn log_error(&self, note: ErrorNote, event: Option<Event>) {
        let mut shared = lock(&self.shared);
        shared.errors.push(note);
        if let Some(event) = event {
            shared.events.raise(event);
        }
        if let Some(admin) = shared.queues.get(&0) {
            admin.ring();
        }
    }

    /// Something changed: records the event, and has every queue look (they hold the namespace table).
    pub(crate) fn changed(&self, change: Change) {
        let mut shared = lock(&self.shared);
        match change {
            Change::Namespace(nsid) => shared.events.namespace_changed(nsid),
            Change::Discovery => shared.events.raise(Event::DiscoveryChanged),
            Change::Fault => shared.events.raise(Event::Reliability),
            Change::Spare => shared.events.raise(Event::Spare),
            Change::Sanitized { unasked: false } => shared.events.raise(Event::Sanitized),
            Change::Sanitized { unasked: true } => shared.events.raise(Event::SanitizedDeallocated),
        }
        for link in shared.queues.values() {
            link.ring();
        }
    }

    pub(crate) fn snapshot(&self) -> ControllerSnapshot {
        ControllerSnapshot {
            cntlid: self.id,
            host: self.host.to_string(),
            hostid: uuid::Uuid::from_bytes(self.hostid),
            peer: self.peer.clone(),
            port: self.port.0,
            kato_ms: self.kato_ms.load(Ordering::Relaxed),
            since: self.since,
            ready: self.life() == Life::Ready,
            cc: self.cc.load(Ordering::Relaxed),
            csts: self.csts.load(Ordering::Relaxed),
            queues: lock(&self.shared).queues.values().map(|l| l.snapshot()).collect(),
        }
    }
}
