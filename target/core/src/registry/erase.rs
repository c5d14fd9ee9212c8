//! Erasing for hosts: the Format NVM of a namespace, and the Sanitize of a subsystem.
//!
//! Owns the state that outlives the command, its queue and its controller: whether a namespace is being formatted, and the sanitize
//! operation as the Sanitize Status log page tells it. What is erased, and that it goes on after a restart, is the volumes' business
//! ([`caisson_block::Volume::erase`]); here it is only looked at, by admin queues that wait for it and once a second by the target.

use super::namespace::Namespace;
use super::subsystem::Subsystem;
use crate::controller::{Change, Controller};
use crate::sync::lock;
use caisson_block::{EraseBy, Erasure};
use caisson_wire::Status;
use caisson_wire::erase::{
    GLOBAL_DATA_ERASED, NODRM, SPROG_NONE, Sanitize as Ask, SanitizeStatus, TIME_UNKNOWN, sanact, sos,
};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// A sanitize operation as it is kept over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SanitizeRecord {
    /// SOS: how the last one is, or ended.
    pub sos: u8,
    /// CDW10 of its command.
    pub scdw10: u32,
    /// The namespaces that it has to see erased; none when it is over.
    pub nsids: Vec<u32>,
    /// It failed, and a host has left that with Exit Failure Mode.
    pub left: bool,
}

/// A namespace's Format.
#[derive(Default)]
pub(crate) struct Format {
    /// Requests are refused: it is under way.
    on: AtomicBool,
    job: Mutex<Job>,
}

#[derive(Default)]
struct Job {
    /// Grows with each that begins.
    ticket: u64,
    /// By keys: the volume says how far it is. Otherwise by a request of an admin queue, which holds this for as long.
    held: Option<Weak<()>>,
    /// How the last one ended.
    outcome: Option<Status>,
}

impl Namespace {
    /// Whether it is being formatted.
    #[inline]
    pub(crate) fn formatting(&self) -> bool {
        self.format.on.load(Ordering::Relaxed)
    }

    /// A volume that an earlier life of the target was formatting still is.
    pub(crate) fn resume_format(&self) {
        let running = matches!(self.volume.erasure(), Erasure::Running { by: EraseBy::Format, .. });
        self.format.on.store(running, Ordering::Relaxed);
    }

    /// Begins a Format; its ticket, or nothing where one is under way. `held` lives as long as the request that does it, for one that
    /// is not done by keys.
    pub(crate) fn begin_format(&self, held: Option<&Arc<()>>) -> Option<u64> {
        let mut job = lock(&self.format.job);
        if self.format.on.swap(true, Ordering::Relaxed) {
            return None;
        }
        *job = Job { ticket: job.ticket + 1, held: held.map(Arc::downgrade), outcome: None };
        Some(job.ticket)
    }

    /// The Format with this ticket is over.
    pub(crate) fn end_format(&self, ticket: u64, outcome: Status) {
        let mut job = lock(&self.format.job);
        if job.ticket == ticket && self.format.on.load(Ordering::Relaxed) {
            job.outcome = Some(outcome);
            self.format.on.store(false, Ordering::Relaxed);
        }
    }

    /// Looks whether a Format has ended.
    pub(crate) fn look_at_format(&self) {
        if !self.formatting() {
            return;
        }
        let mut job = lock(&self.format.job);
        let outcome = match &job.held {
            // Its queue is gone; the volume does what it was asked for before anything that comes now.
            Some(held) if held.strong_count() == 0 => Status::INTERNAL_ERROR,
            Some(_) => return,
            None => match self.volume.erasure() {
                Erasure::Running { .. } if self.volume.fault().is_none() => return,
                Erasure::None => Status::SUCCESS,
                _ => Status::INTERNAL_ERROR.dnr(),
            },
        };
        job.outcome = Some(outcome);
        self.format.on.store(false, Ordering::Relaxed);
    }

    /// How the Format with this ticket ended, once it has.
    pub(crate) fn format_outcome(&self, ticket: u64) -> Option<Status> {
        let job = lock(&self.format.job);
        if job.ticket == ticket { job.outcome } else { Some(Status::INTERNAL_ERROR) }
    }
}

/// What a sanitize operation refuses of commands.
const NOTHING: u8 = 0;
const IN_PROGRESS: u8 = 1;
/// Restricted Failure: only another restricted one ends that (Base 2.1, 8.1.24.3).
const FAILED: u8 = 2;
/// Unrestricted Failure: Exit Failure Mode ends it, too.
const FAILED_FREE: u8 = 3;

/// What a host's Sanitize came to.
pub(crate) enum Sanitized {
    /// It has begun.
    Begun,
    /// A failure was left.
    Left,
    /// There was nothing to do.
    Nothing,
}

/// The sanitize operation of a subsystem.
#[derive(Default)]
pub(crate) struct Sanitize {
    refuses: AtomicU8,
    /// Hosts may erase.
    allowed: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    record: SanitizeRecord,
    /// NODRM.
    config: u32,
    /// What had been written when it completed, in this life of the target.
    written: Option<u64>,
    /// How far it is.
    progress: u16,
    /// Each of its volumes has it recorded: it goes on whatever happens.
    recorded: bool,
    /// It could not begin in one of its volumes.
    broken: bool,
    /// The controller whose command it was: the only one that tells its end (Base 2.1, 8.1.24.1).
    asked: Weak<Controller>,
}

impl Sanitize {
    pub(crate) fn new(allowed: bool, record: SanitizeRecord) -> Sanitize {
        let refuses = match record.sos {
            sos::IN_PROGRESS => IN_PROGRESS,
            sos::FAILED if !record.left => failure(record.scdw10),
            _ => NOTHING,
        };
        let inner = Inner { record, recorded: refuses == IN_PROGRESS, ..Inner::default() };
        Sanitize {
            refuses: AtomicU8::new(refuses),
            allowed: AtomicBool::new(allowed),
            inner: Mutex::new(inner),
        }
    }
}

/// What the failure of an operation refuses, by AUSE of its CDW10.
fn failure(cdw10: u32) -> u8 {
    if cdw10 & 1 << 3 != 0 { FAILED_FREE } else { FAILED }
}

/// NDAS of a CDW10.
fn ndas(cdw10: u32) -> bool {
    cdw10 & 1 << 9 != 0
}

impl Subsystem {
    /// Whether hosts may erase what its namespaces hold.
    pub(crate) fn may_erase(&self) -> bool {
        self.sanitize.allowed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_may_erase(&self, on: bool) {
        self.sanitize.allowed.store(on, Ordering::Relaxed);
    }

    /// What a sanitize operation answers to an I/O command (Base 2.1, 8.1.24.4).
    #[inline]
    pub(crate) fn sanitize_refuses(&self) -> Option<Status> {
        match self.sanitize.refuses.load(Ordering::Relaxed) {
            NOTHING => None,
            IN_PROGRESS => Some(Status::SANITIZE_IN_PROGRESS),
            _ => Some(Status::SANITIZE_FAILED.dnr()),
        }
    }

    /// Whether only some admin commands are allowed: it goes on, or has failed and nobody has left that.
    pub(crate) fn sanitize_restricts(&self) -> bool {
        self.sanitize.refuses.load(Ordering::Relaxed) != NOTHING
    }

    /// Whether Crypto Erase can be had: there is something, and keys can be erased of all of it.
    pub(crate) fn can_sanitize(&self) -> bool {
        let table = self.table();
        self.may_erase() && table.iter().next().is_some() && table.iter().all(|n| n.volume.erasable())
    }

    pub(crate) fn sanitize_config(&self) -> u32 {
        lock(&self.sanitize.inner).config
    }

    pub(crate) fn set_sanitize_config(&self, value: u32) {
        lock(&self.sanitize.inner).config = value & NODRM;
    }

    /// Begins the sanitize operation that a host asks for on `controller`, or leaves the failure mode.
    ///
    /// # Errors
    /// The status to answer with, with nothing changed and nothing begun.
    pub(crate) fn sanitize(
        &self,
        controller: &Arc<Controller>,
        cdw10: u32,
        ask: Ask,
    ) -> Result<Sanitized, Status> {
        let mut inner = lock(&self.sanitize.inner);
        let now = self.sanitize.refuses.load(Ordering::Relaxed);
        if now == IN_PROGRESS {
            return Err(Status::SANITIZE_IN_PROGRESS);
        }
        let exit = ask.action == sanact::EXIT_FAILURE;
        if !exit && (ask.action != sanact::CRYPTO_ERASE || !self.can_sanitize() || ask.emvs) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        // After a restricted failure only another restricted operation is taken.
        if now == FAILED && (exit || ask.ause) {
            return Err(Status::SANITIZE_FAILED.dnr());
        }
        if !exit && ask.ndas && inner.config & NODRM == 0 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let table = self.table();
        if table.iter().any(|n| n.protected()) {
            return Err(Status::NS_WRITE_PROTECTED.dnr());
        }
        if exit {
            let left = now == FAILED_FREE;
            inner.record.left |= left;
            self.sanitize.refuses.store(NOTHING, Ordering::Release);
            return Ok(if left { Sanitized::Left } else { Sanitized::Nothing });
        }
        if table.iter().any(|n| n.formatting()) {
            return Err(Status::FORMAT_IN_PROGRESS);
        }
        self.sanitize.refuses.store(IN_PROGRESS, Ordering::Release);
        let (begun, refused): (Vec<_>, Vec<_>) =
            table.iter().partition(|n| n.volume.erase(EraseBy::Sanitize).is_ok());
        // Whatever has begun somewhere is a sanitize operation, and its failure is told by its status.
        if begun.is_empty() {
            self.sanitize.refuses.store(now, Ordering::Release);
            return Err(Status::INTERNAL_ERROR.dnr());
        }
        let nsids = table.iter().map(|n| n.nsid).collect();
        inner.record = SanitizeRecord { sos: sos::IN_PROGRESS, scdw10: cdw10, nsids, left: false };
        (inner.progress, inner.recorded, inner.written) = (0, false, None);
        (inner.broken, inner.asked) = (!refused.is_empty(), Arc::downgrade(controller));
        drop(inner);
        self.forget_sanitized();
        Ok(Sanitized::Begun)
    }

    /// Whether the sanitize operation that began is durable in all of its volumes, or is over.
    pub(crate) fn sanitize_recorded(&self) -> bool {
        let inner = lock(&self.sanitize.inner);
        inner.recorded || inner.record.sos != sos::IN_PROGRESS
    }

    /// The operation as it is to be kept.
    pub(crate) fn sanitize_record(&self) -> SanitizeRecord {
        lock(&self.sanitize.inner).record.clone()
    }

    /// A namespace that is added: a sanitize operation that its volume remembers goes on. One that had failed stays so: what this volume
    /// comes to says nothing of the others.
    pub(crate) fn resume_sanitize(&self, namespace: &Namespace) {
        if !matches!(namespace.volume.erasure(), Erasure::Running { by: EraseBy::Sanitize, .. }) {
            return;
        }
        let mut inner = lock(&self.sanitize.inner);
        if inner.record.sos == sos::FAILED {
            return;
        }
        if inner.record.sos != sos::IN_PROGRESS {
            let scdw10 = u32::from(sanact::CRYPTO_ERASE);
            inner.record = SanitizeRecord { sos: sos::IN_PROGRESS, scdw10, ..SanitizeRecord::default() };
            inner.recorded = true;
            self.sanitize.refuses.store(IN_PROGRESS, Ordering::Release);
        }
        if !inner.record.nsids.contains(&namespace.nsid) {
            inner.record.nsids.push(namespace.nsid);
        }
    }

    /// A namespace that is taken away is not waited for.
    pub(crate) fn unsanitize(&self, nsid: u32) {
        lock(&self.sanitize.inner).record.nsids.retain(|n| *n != nsid);
    }

    /// Looks how far the sanitize operation is. The record where it has changed so that it should be kept.
    pub(crate) fn look_at_sanitize(&self) -> Option<SanitizeRecord> {
        if self.sanitize.refuses.load(Ordering::Acquire) != IN_PROGRESS {
            return None;
        }
        // The subsystem's own lock is never taken under this one.
        let written = self.data_written();
        let mut inner = lock(&self.sanitize.inner);
        if inner.record.sos != sos::IN_PROGRESS {
            return None;
        }
        let table = self.table();
        let mut failed = inner.broken;
        let (mut recorded, mut left, mut progress) = (true, false, u64::from(u16::MAX));
        for nsid in &inner.record.nsids {
            // One whose pool waits for its keys is there later.
            let Some(namespace) = table.get(*nsid) else {
                (left, progress) = (true, 0);
                continue;
            };
            match namespace.volume.erasure() {
                Erasure::None => {}
                Erasure::Running { recorded: is, progress: at, .. } if !namespace.failed() => {
                    (recorded, left, progress) = (recorded && is, true, progress.min(at.into()));
                }
                _ => failed = true,
            }
        }
        inner.progress = inner.progress.max(progress.min(u64::from(u16::MAX) - 1) as u16);
        let newly = recorded && !std::mem::replace(&mut inner.recorded, recorded);
        let over = failed || !left;
        if over {
            self.end_sanitize(&mut inner, !failed, written);
        }
        let record = (newly || over).then(|| inner.record.clone());
        let tells = if over { std::mem::take(&mut inner.asked).upgrade() } else { None };
        let unasked = inner.record.sos == sos::COMPLETED_DEALLOCATED;
        drop(inner);
        if let Some(controller) = tells {
            controller.changed(Change::Sanitized { unasked });
        }
        record
    }

    fn end_sanitize(&self, inner: &mut Inner, well: bool, written: u64) {
        let scdw10 = inner.record.scdw10;
        let sos = match (well, ndas(scdw10)) {
            (true, false) => sos::COMPLETED,
            (true, true) => sos::COMPLETED_DEALLOCATED,
            (false, _) => sos::FAILED,
        };
        inner.record = SanitizeRecord { sos, scdw10, ..SanitizeRecord::default() };
        (inner.written, inner.broken) = (well.then_some(written), false);
        let refuses = if well { NOTHING } else { failure(scdw10) };
        self.sanitize.refuses.store(refuses, Ordering::Release);
    }

    /// A figure that grows with whatever is written.
    fn data_written(&self) -> u64 {
        let sum = self.totals();
        sum.bytes_written + sum.bytes_copied
    }

    /// The Sanitize Status log page.
    pub(crate) fn sanitize_status(&self) -> SanitizeStatus {
        let written = self.data_written();
        let inner = lock(&self.sanitize.inner);
        let running = inner.record.sos == sos::IN_PROGRESS;
        let erased = inner.written == Some(written);
        let mut d = SanitizeStatus::default();
        d.sprog.set(if running { inner.progress } else { SPROG_NONE });
        d.sstat.set(u16::from(inner.record.sos) | if erased { GLOBAL_DATA_ERASED } else { 0 });
        d.scdw10.set(inner.record.scdw10);
        // How long it takes depends on what else is in the volumes' domains.
        for time in
            [&mut d.eto, &mut d.etbe, &mut d.etce, &mut d.etond, &mut d.etbend, &mut d.etcend, &mut d.etpvds]
        {
            time.set(TIME_UNKNOWN);
        }
        d
    }
}
