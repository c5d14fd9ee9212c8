//! The commands on one range of blocks: Read, Write, Compare, Write Zeroes, Verify, Write Uncorrectable; and Flush
//! (NVM 1.1, chapter 3.3; Flush: Base 2.1, 7.2).
//!
//! Order of the checks, as the first that fails is told: namespace, range, fields, size, write protection, length.

use super::{Io, MAX_TRANSFER, Range, exactly, is_all};
use crate::payload::{Incoming, outgoing};
use crate::queue::Core;
use crate::seam::{Action, Payload};
use crate::slots::{State, Token, Work};
use crate::stats::OpClass;
use caisson_block::{BufList, Cx, Extent, Op, Outcome, Request, Tag};
use caisson_wire::feature::cdw12;
use caisson_wire::{Sqe, Status};
use std::sync::Arc;

type Started = Result<(), (Token, Status)>;

/// DTYPE of a write: 0 is no directive, and there are none.
const DTYPE: u32 = 0xf << 20;

/// Refuses fields of CDW12 that ask for what is not there: protection information (no format has any), storage tag checks,
/// directives and what `reserved` adds. LR is allowed: an error is never retried anyway.
#[inline]
pub(super) fn check_cdw12(sqe: &Sqe, reserved: u32) -> Result<(), Status> {
    let bad = cdw12::PRINFO_MASK | cdw12::STC | reserved;
    if sqe.cdw12.get() & bad != 0 { Err(Status::INVALID_FIELD.dnr()) } else { Ok(()) }
}

/// Refuses more data than MDTS allows.
#[inline]
pub(super) fn check_size(range: &Range) -> Result<(), Status> {
    if range.bytes > MAX_TRANSFER { Err(Status::INVALID_FIELD.dnr()) } else { Ok(()) }
}

#[inline]
fn fua(sqe: &Sqe) -> bool {
    sqe.cdw12.get() & cdw12::FUA != 0
}

impl Work {
    #[inline]
    pub(super) fn extent(&self) -> Extent {
        Extent { lba: self.lba, blocks: u64::from(self.blocks) }
    }
}

impl Io {
    #[inline]
    pub(super) fn read(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
    ) -> Started {
        let checked = self.range(sqe).and_then(|range| {
            check_cdw12(sqe, 0)?;
            check_size(&range)?;
            if outgoing(&payload)? != range.bytes {
                return Err(Status::INVALID_SGL_LENGTH.dnr());
            }
            Ok(range)
        });
        let range = match checked {
            Ok(range) => range,
            Err(status) => return Err((token, status)),
        };
        let work = self.work(cx, OpClass::Read, &range, false);
        if fua(sqe) && self.namespace(range.entry).is_some_and(|n| n.volume.geometry().volatile_cache) {
            self.flush_first(core, cx, token, work);
            return Ok(());
        }
        self.submit(core, cx, token, work, Op::Read { at: work.extent() });
        Ok(())
    }

    /// A Read with FUA returns what is on the medium (NVM 1.1, 3.3.4: cached data is written there first).
    #[cold]
    fn flush_first(&mut self, core: &mut Core, cx: &mut Cx<'_>, token: Token, work: Work) {
        let slot = token.slot();
        self.submit(core, cx, token, work, Op::Flush);
        if let Some(state) = core.slots.get_mut(slot) {
            *state = State::FlushFirst(work);
        }
    }

    /// The Flush before a Read is done.
    #[cold]
    pub(super) fn flushed_first(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        work: Work,
        outcome: Outcome,
        out: &mut Vec<Action>,
    ) {
        match outcome {
            Ok(list) => {
                cx.recycle(list);
                self.pulled(core, cx, token, work, BufList::new());
            }
            Err(e) => {
                let status = self.failure(token.cid(), &work, e);
                core.answer(token, status, out);
            }
        }
    }

    #[inline]
    pub(super) fn write(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) -> Started {
        let checked = self.range(sqe).and_then(|range| {
            check_cdw12(sqe, DTYPE)?;
            check_size(&range)?;
            self.writable(range.entry)?;
            Ok((range, exactly(payload, range.bytes)?))
        });
        let (range, data) = match checked {
            Ok(ok) => ok,
            Err(status) => return Err((token, status)),
        };
        let work = self.work(cx, OpClass::Write, &range, fua(sqe) | self.controller.write_through());
        self.start_with_data(core, cx, token, work, data, out);
        Ok(())
    }

    pub(super) fn compare(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) -> Started {
        let checked = self.range(sqe).and_then(|range| {
            check_cdw12(sqe, 0)?;
            check_size(&range)?;
            Ok((range, exactly(payload, range.bytes)?))
        });
        let (range, data) = match checked {
            Ok(ok) => ok,
            Err(status) => return Err((token, status)),
        };
        let work = self.work(cx, OpClass::Compare, &range, false);
        self.start_with_data(core, cx, token, work, data, out);
        Ok(())
    }

    /// A Write or Compare goes to its volume when its data is here, and asks for it otherwise.
    #[inline]
    fn start_with_data(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        work: Work,
        data: Incoming,
        out: &mut Vec<Action>,
    ) {
        match data {
            Incoming::Here(data) => self.submit(core, cx, token, work, op_of(&work, data)),
            Incoming::Pull(len) => {
                // The entry must outlive the wait, though the namespace be removed meanwhile.
                self.hold(&work);
                core.pull(token, len, State::Pull(work), out);
            }
        }
    }

    /// Keeps the entry of `work` while it waits; [`Io::release`] undoes it.
    #[inline]
    pub(super) fn hold(&mut self, work: &Work) {
        if let Some(Some(entry)) = self.entries.get_mut(usize::from(work.entry)) {
            entry.in_flight += 1;
        }
    }

    /// What a command waited for is here: the data of a Write or Compare, or (without data) the Flush before a Read.
    pub(super) fn pulled(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        work: Work,
        data: BufList,
    ) {
        if let Some(Some(entry)) = self.entries.get_mut(usize::from(work.entry)) {
            entry.in_flight -= 1; // held while it waited; `submit` counts it again
        }
        self.submit(core, cx, token, work, op_of(&work, data));
    }

    pub(super) fn write_zeroes(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
    ) -> Started {
        let checked = self.range(sqe).and_then(|range| {
            // NSZ (the whole namespace in one command) is not advertised.
            check_cdw12(sqe, cdw12::NSZ)?;
            self.writable(range.entry)?;
            Ok(range)
        });
        let range = match checked {
            Ok(range) => range,
            Err(status) => return Err((token, status)),
        };
        let deallocate = sqe.cdw12.get() & cdw12::DEAC != 0;
        let work = self.work(cx, OpClass::WriteZeroes, &range, fua(sqe) | self.controller.write_through());
        let op = Op::WriteZeroes { at: work.extent(), deallocate, fua: work.fua };
        self.submit(core, cx, token, work, op);
        Ok(())
    }

    pub(super) fn verify(&mut self, core: &mut Core, cx: &mut Cx<'_>, token: Token, sqe: &Sqe) -> Started {
        let range = match self.range(sqe).and_then(|range| check_cdw12(sqe, 0).map(|()| range)) {
            Ok(range) => range,
            Err(status) => return Err((token, status)),
        };
        let work = self.work(cx, OpClass::Verify, &range, false);
        self.submit(core, cx, token, work, Op::Verify { at: work.extent() });
        Ok(())
    }

    pub(super) fn write_uncorrectable(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
    ) -> Started {
        let checked = self.range(sqe).and_then(|range| self.writable(range.entry).map(|()| range));
        let range = match checked {
            Ok(range) => range,
            Err(status) => return Err((token, status)),
        };
        let work = self.work(cx, OpClass::WriteUncorrectable, &range, false);
        self.submit(core, cx, token, work, Op::WriteUncorrectable { at: work.extent() });
        Ok(())
    }

    /// Flush of one namespace, or of all with NSID FFFFFFFFh (VWC bits 2:1 say that this works).
    pub(super) fn flush(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        out: &mut Vec<Action>,
    ) -> Started {
        if is_all(sqe.nsid.get()) {
            self.flush_all(core, cx, token, out);
            return Ok(());
        }
        let entry = match self.entry(sqe.nsid.get()) {
            Ok(entry) => entry,
            Err(status) => return Err((token, status)),
        };
        let range = Range { entry, lba: 0, blocks: 0, bytes: 0 };
        let work = self.work(cx, OpClass::Flush, &range, false);
        self.submit(core, cx, token, work, Op::Flush);
        Ok(())
    }

    fn flush_all(&mut self, core: &mut Core, cx: &mut Cx<'_>, token: Token, out: &mut Vec<Action>) {
        let table = Arc::clone(&self.table);
        let nsids: Vec<u32> = table.iter().map(|n| n.nsid).collect();
        let Some((&first, _)) = nsids.split_first() else {
            return core.answer(token, Status::SUCCESS, out);
        };
        // Counted on the lowest namespace, whose entry stands for all of them.
        let entry = match self.entry(first) {
            Ok(entry) => entry,
            Err(status) => return core.answer(token, status, out),
        };
        let range = Range { entry, lba: 0, blocks: 0, bytes: 0 };
        let work = Work { parts: nsids.len() as u16, ..self.work(cx, OpClass::Flush, &range, false) };
        let tag = Tag { queue: core.at.key, slot: token.slot() };
        self.hold(&work);
        core.in_flight += nsids.len() as u32;
        core.slots.park(token, State::Volume(work));
        for namespace in table.iter() {
            namespace.volume.submit(cx, Request { tag, op: Op::Flush });
        }
    }
}

/// The request of a Read, Write or Compare.
#[inline]
fn op_of(work: &Work, data: BufList) -> Op {
    let at = work.extent();
    match work.class {
        OpClass::Read => Op::Read { at },
        OpClass::Compare => Op::Compare { at, data },
        _ => Op::Write { at, data, fua: work.fua },
    }
}
