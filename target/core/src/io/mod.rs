//! An I/O queue: commands of the NVM command set, from capsule to volume and back.
//!
//! Owns the queue's view of the namespaces (an immutable table behind a generation number, and an entry for each
//! namespace that was used) and the way of a request through a volume. No lock is taken here but when something changed,
//! when a command fails for the device's sake, or at the first use of a namespace.

pub(crate) mod fused;
mod ranges;
mod rw;
pub(crate) mod status;

use crate::controller::{Controller, Life};
use crate::link::{Link, Mail};
use crate::payload::{Len, incoming};
use crate::queue::Core;
use crate::registry::namespace::Namespace;
use crate::registry::subsystem::Table;
use crate::seam::{Action, CloseReason, Payload};
use crate::slots::{State, Token, Work};
use crate::stats::{IoStats, OpClass};
use caisson_block::{BufList, Cx, Extent, Op, Outcome, Request, Tag};
use caisson_wire::identify::NSID_ALL;
use caisson_wire::opcode::{FABRICS, fctype, io as opc};
use caisson_wire::sqe::Fuse;
use caisson_wire::{Sqe, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// MDTS as a power of two of 4 KiB: 1 MiB.
pub(crate) const MDTS: u8 = 8;
/// The most data of one command, in bytes.
pub(crate) const MAX_TRANSFER: u32 = 4096 << MDTS;
/// The most blocks of a fused Compare and Write (ACWU + 1).
pub(crate) const MAX_ATOMIC_COMPARE: u32 = 256;
/// The most blocks in one source range of a Copy (MSSRL).
pub(crate) const MSSRL: u16 = 2048;
/// The most blocks in a Copy (MCL).
pub(crate) const MCL: u32 = 16_384;
/// The most source ranges of a Copy (MSRC + 1).
pub(crate) const MAX_COPY_RANGES: u32 = 128;

/// An I/O queue.
pub(crate) struct Io {
    pub(crate) controller: Arc<Controller>,
    pub(crate) link: Arc<Link>,
    /// The subsystem's generation that `table` is at least as new as.
    generation: u64,
    table: Arc<Table>,
    /// Namespaces that were used; a command at a volume names its own by index.
    entries: Vec<Option<Entry>>,
    /// Index + 1 into `entries` by NSID; 0 for one that was not used.
    by_nsid: Vec<u16>,
    /// The entry of the last command.
    last: usize,
    fused: fused::Pairs,
}

struct Entry {
    nsid: u32,
    namespace: Arc<Namespace>,
    stats: Arc<IoStats>,
    in_flight: u32,
    /// The namespace was removed; the entry goes when nothing is in flight.
    stale: bool,
}

/// What of a command's fields all that name blocks have in common, checked.
#[derive(Clone, Copy)]
struct Range {
    entry: usize,
    lba: u64,
    blocks: u32,
    bytes: u32,
}

impl Io {
    pub(crate) fn new(controller: Arc<Controller>, link: Arc<Link>) -> Io {
        let generation = controller.subsystem.generation();
        let table = controller.subsystem.table();
        Io {
            controller,
            link,
            generation,
            table,
            entries: Vec::new(),
            by_nsid: Vec::new(),
            last: usize::MAX,
            fused: fused::Pairs::default(),
        }
    }

    #[inline]
    pub(crate) fn command(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) {
        self.link.count_command();
        if self.controller.subsystem.generation() != self.generation {
            self.refresh();
        }
        if self.controller.life() != Life::Ready {
            return core.answer(token, Status::COMMAND_SEQUENCE_ERROR.dnr(), out);
        }
        if let Some(status) = self.controller.subsystem.sanitize_refuses().filter(|_| sqe.opcode != FABRICS) {
            return core.answer(token, status, out);
        }
        if sqe.fuse() != Fuse::None || self.fused.waits() {
            return self.fuse(core, cx, token, sqe, payload, out);
        }
        if let Err((token, status)) = self.start(core, cx, token, sqe, payload, out) {
            core.answer(token, status, out);
        }
    }

    /// Starts a command that is not fused; hands the token back with the status of one that cannot start.
    #[inline]
    fn start(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) -> Result<(), (Token, Status)> {
        if let Err(status) = check_flags(sqe, &payload) {
            return Err((token, status));
        }
        match sqe.opcode {
            opc::READ => self.read(core, cx, token, sqe, payload),
            opc::WRITE => self.write(core, cx, token, sqe, payload, out),
            opc::COMPARE => self.compare(core, cx, token, sqe, payload, out),
            opc::FLUSH => self.flush(core, cx, token, sqe, out),
            opc::WRITE_ZEROES => self.write_zeroes(core, cx, token, sqe),
            opc::VERIFY => self.verify(core, cx, token, sqe),
            opc::WRITE_UNCORRECTABLE => self.write_uncorrectable(core, cx, token, sqe),
            opc::DATASET_MANAGEMENT | opc::COPY => self.with_ranges(core, cx, token, sqe, payload, out),
            FABRICS => self.fabrics(core, token, sqe, out),
            _ => Err((token, Status::INVALID_OPCODE.dnr())),
        }
    }

    /// The data of a command that had to be pulled.
    pub(crate) fn data(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        state: State,
        data: BufList,
        out: &mut Vec<Action>,
    ) {
        // The controller was shut down or reset meanwhile: nothing is written after that was told to be complete.
        if self.controller.life() != Life::Ready {
            self.give_up(core, token, state, Status::ABORT_SQ_DELETION, out);
            return cx.recycle(data);
        }
        if let Some(status) = self.erases(&state) {
            self.give_up(core, token, state, status, out);
            return cx.recycle(data);
        }
        match state {
            State::Pull(work) => self.pulled(core, cx, token, work, data),
            State::PullFor(sqe) => {
                if let Err((token, status)) = self.ranges_here(core, cx, token, &sqe, &data, out) {
                    core.answer(token, status, out);
                }
                cx.recycle(data);
            }
            State::Fused => self.fused_data(core, cx, token, data, out),
            other => {
                debug_assert!(false, "data for a command that asked for none");
                core.slots.park(token, other);
            }
        }
    }

    /// Disconnect on an I/O queue deletes it; everything else of fabrics belongs to the admin queue
    /// (Base 2.1, figure "Fabrics Command Types": Property Get and Set are prohibited here).
    fn fabrics(
        &mut self,
        core: &mut Core,
        token: Token,
        sqe: &Sqe,
        out: &mut Vec<Action>,
    ) -> Result<(), (Token, Status)> {
        match sqe.fctype() {
            fctype::DISCONNECT if sqe.cdw10.get() & 0xffff != 0 => {
                Err((token, Status::CONNECT_INCOMPATIBLE_FORMAT.dnr()))
            }
            fctype::DISCONNECT => {
                core.answer(token, Status::SUCCESS, out);
                core.close(CloseReason::Disconnected, out);
                Ok(())
            }
            fctype::CONNECT => Err((token, Status::COMMAND_SEQUENCE_ERROR.dnr())),
            _ => Err((token, Status::INVALID_OPCODE.dnr())),
        }
    }

    /// A request is done.
    #[inline]
    pub(crate) fn completed(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        slot: u32,
        outcome: Outcome,
        out: &mut Vec<Action>,
    ) {
        match core.slots.get_mut(slot) {
            Some(State::Volume(work)) if work.parts > 1 => {
                work.parts -= 1;
                if let Err(e) = outcome {
                    work.failed = status::of(e);
                }
                return;
            }
            Some(State::Volume(_) | State::FlushFirst(_) | State::FusedVolume { .. }) => {}
            _ => {
                debug_assert!(false, "a completion for slot {slot}, which waits for none");
                return;
            }
        }
        match core.slots.take(slot) {
            Some((token, State::Volume(work))) => self.finish(core, cx, token, &work, outcome, out),
            Some((token, State::FlushFirst(work))) => {
                self.flushed_first(core, cx, token, work, outcome, out);
            }
            Some((token, State::FusedVolume { work, first })) => {
                self.finish_pair(core, cx, token, &work, first, outcome, out);
            }
            _ => {}
        }
    }

    #[inline]
    fn finish(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        work: &Work,
        outcome: Outcome,
        out: &mut Vec<Action>,
    ) {
        match outcome {
            Ok(data) if work.failed.is_success() => {
                self.count(cx, work);
                core.reply(token, Status::SUCCESS, 0, data, out);
            }
            Ok(_) => {
                self.release(work);
                core.answer(token, work.failed, out);
            }
            Err(e) => {
                let status = self.failure(token.cid(), work, e);
                core.answer(token, status, out);
            }
        }
    }

    /// Counts a command that succeeded.
    #[inline]
    fn count(&mut self, cx: &Cx<'_>, work: &Work) {
        if let Some(Some(entry)) = self.entries.get_mut(usize::from(work.entry)) {
            let bytes = u64::from(work.blocks) << entry.namespace.shift;
            entry.stats.done(work.class, bytes, cx.now.since(work.start));
        }
        self.release(work);
    }

    /// The command does not use its namespace any more.
    #[inline]
    fn release(&mut self, work: &Work) {
        let at = usize::from(work.entry);
        let Some(Some(entry)) = self.entries.get_mut(at) else { return };
        entry.in_flight -= 1;
        if entry.stale && entry.in_flight == 0 {
            entry.namespace.retire(&entry.stats);
            self.entries[at] = None;
        }
    }

    /// What a command whose data has come is refused with, since what it is for is being erased meanwhile.
    #[inline]
    fn erases(&self, state: &State) -> Option<Status> {
        if let Some(status) = self.controller.subsystem.sanitize_refuses() {
            return Some(status);
        }
        let State::Pull(work) = state else { return None };
        let formatting = self.namespace(usize::from(work.entry)).is_some_and(Namespace::formatting);
        formatting.then_some(Status::FORMAT_IN_PROGRESS)
    }

    /// The entry of the active namespace `nsid`, which is not being formatted.
    #[inline]
    fn entry(&mut self, nsid: u32) -> Result<usize, Status> {
        let at = self.entry_of(nsid)?;
        match self.namespace(at) {
            Some(namespace) if namespace.formatting() => Err(Status::FORMAT_IN_PROGRESS),
            _ => Ok(at),
        }
    }

    /// The entry of the active namespace `nsid`.
    #[inline]
    fn entry_of(&mut self, nsid: u32) -> Result<usize, Status> {
        if let Some(Some(entry)) = self.entries.get(self.last)
            && entry.nsid == nsid
            && !entry.stale
        {
            return Ok(self.last);
        }
        let known = self.by_nsid.get(nsid as usize).copied().unwrap_or(0);
        self.last = if known == 0 { self.first_use(nsid)? } else { usize::from(known) - 1 };
        Ok(self.last)
    }

    #[cold]
    fn first_use(&mut self, nsid: u32) -> Result<usize, Status> {
        let bad = Status::INVALID_NAMESPACE.dnr();
        let namespace = Arc::clone(self.table.get(nsid).ok_or(bad)?);
        let stats = namespace.counters(&self.controller.host);
        let entry = Some(Entry { nsid, namespace, stats, in_flight: 0, stale: false });
        let at = match self.entries.iter().position(Option::is_none) {
            Some(at) => {
                self.entries[at] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        if self.by_nsid.len() <= nsid as usize {
            self.by_nsid.resize(nsid as usize + 1, 0);
        }
        self.by_nsid[nsid as usize] = at as u16 + 1;
        Ok(at)
    }

    /// The table changed: lets go of namespaces that are not there any more.
    #[cold]
    fn refresh(&mut self) {
        self.generation = self.controller.subsystem.generation();
        self.table = self.controller.subsystem.table();
        for slot in &mut self.entries {
            let Some(entry) = slot else { continue };
            let same = self.table.get(entry.nsid).is_some_and(|n| Arc::ptr_eq(n, &entry.namespace));
            if same || entry.stale {
                continue;
            }
            entry.stale = true;
            self.by_nsid[entry.nsid as usize] = 0;
            if entry.in_flight == 0 {
                entry.namespace.retire(&entry.stats);
                *slot = None;
            }
        }
    }

    /// The queue goes: its counts are kept by the namespaces.
    pub(crate) fn retire(&mut self) {
        for entry in self.entries.drain(..).flatten() {
            entry.namespace.retire(&entry.stats);
        }
    }

    #[inline]
    fn namespace(&self, entry: usize) -> Option<&Namespace> {
        self.entries.get(entry)?.as_ref().map(|e| &*e.namespace)
    }

    /// NSID, SLBA and NLB of a command, checked against the namespace (NVM 1.1, 3.3: LBA Out of Range).
    #[inline]
    fn range(&mut self, sqe: &Sqe) -> Result<Range, Status> {
        let entry = self.entry(sqe.nsid.get())?;
        let namespace = self.namespace(entry).ok_or(Status::INVALID_NAMESPACE.dnr())?;
        let (lba, blocks) = (sqe.slba(), sqe.nlb());
        if !(Extent { lba, blocks: u64::from(blocks) }).within(namespace.blocks()) {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
        // At most 65,536 blocks of 4 KiB: 256 MiB.
        Ok(Range { entry, lba, blocks, bytes: blocks << namespace.shift })
    }

    /// Refuses writes to a namespace that is write-protected.
    #[inline]
    fn writable(&self, entry: usize) -> Result<(), Status> {
        match self.namespace(entry) {
            Some(namespace) if namespace.protected() => Err(Status::NS_WRITE_PROTECTED.dnr()),
            _ => Ok(()),
        }
    }

    #[inline]
    fn work(&self, cx: &Cx<'_>, class: OpClass, range: &Range, fua: bool) -> Work {
        Work {
            class,
            fua,
            entry: range.entry as u16,
            parts: 1,
            failed: Status::SUCCESS,
            blocks: range.blocks,
            lba: range.lba,
            start: cx.now,
        }
    }

    /// Gives `op` to the volume; the command waits in its slot.
    #[inline]
    fn submit(&mut self, core: &mut Core, cx: &mut Cx<'_>, token: Token, work: Work, op: Op) {
        let tag = Tag { queue: core.at.key, slot: token.slot() };
        let Some(Some(entry)) = self.entries.get_mut(usize::from(work.entry)) else {
            debug_assert!(false, "work without an entry");
            return core.slots.park(token, State::Volume(work));
        };
        entry.in_flight += 1;
        core.in_flight += 1;
        core.slots.park(token, State::Volume(work));
        entry.namespace.volume.submit(cx, Request { tag, op });
    }

    /// Looks at the mail, and lets go of namespaces that were removed.
    pub(crate) fn poll(&mut self, core: &mut Core, _cx: &mut Cx<'_>, out: &mut Vec<Action>) {
        for mail in self.link.take() {
            match mail {
                Mail::Close(reason) => core.close(reason, out),
                Mail::Abort { cid, ticket, answer } => {
                    let done = self.abort(core, cid, out);
                    answer.post(Mail::Aborted { ticket, done });
                }
                Mail::Aborted { .. } => debug_assert!(false, "an I/O queue sends no Abort"),
            }
        }
        if self.controller.subsystem.generation() != self.generation {
            self.refresh();
        }
    }

    /// Aborts the command `cid` if it is still here and not at a volume; whether it was aborted.
    fn abort(&mut self, core: &mut Core, cid: u16, out: &mut Vec<Action>) -> bool {
        let Some((token, state)) = core.slots.find(cid).and_then(|slot| core.slots.take(slot)) else {
            return false;
        };
        let done = self.give_up(core, token, state, Status::ABORT_REQUESTED, out);
        if done {
            core.target.counters.aborted.fetch_add(1, Relaxed);
        }
        done
    }

    /// Ends a command that waits for data or for its partner with `status`; whether that could be done. A command that is
    /// at a volume stays as it is.
    pub(crate) fn give_up(
        &mut self,
        core: &mut Core,
        token: Token,
        state: State,
        status: Status,
        out: &mut Vec<Action>,
    ) -> bool {
        match state {
            State::Pull(work) => {
                self.release(&work);
                core.answer(token, status, out);
            }
            State::PullFor(_) => core.answer(token, status, out),
            State::Fused => return self.give_up_fused(core, token, status, out),
            state => {
                core.slots.park(token, state);
                return false;
            }
        }
        true
    }
}

/// Data must be described by an SGL (Base 2.1, 4.3: PSDT 00b is PRPs, 11b is reserved), and a metadata SGL must be empty:
/// no format here has metadata.
#[inline]
pub(crate) fn check_flags(sqe: &Sqe, payload: &Payload) -> Result<(), Status> {
    if matches!(payload, Payload::None) && sqe.psdt() == 0 {
        return Ok(());
    }
    match sqe.psdt() {
        0b01 => Ok(()),
        0b10 if sqe.mptr.get() == 0 => Ok(()),
        _ => Err(Status::INVALID_FIELD.dnr()),
    }
}

/// Whether a Flush names all namespaces.
fn is_all(nsid: u32) -> bool {
    nsid == NSID_ALL
}

/// Checks the payload of a command with exactly `len` bytes from the host.
#[inline]
fn exactly(payload: Payload, len: u32) -> Result<crate::payload::Incoming, Status> {
    incoming(payload, Len::Exactly(len))
}
