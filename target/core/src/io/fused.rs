//! Fused Compare and Write (Base 2.1, 3.4.2; NVM 1.1, 2.1.4 "Fused Operation").
//!
//! The two commands come next to each other in the submission queue; their data may come later. When all of it is here
//! the pair goes to the volume as one request, tagged with the second command's slot. Rules kept here: the first without
//! its second (or the reverse) is aborted as missing its partner; when either fails the other is aborted for that; ranges
//! that differ fail both.

use super::rw::{check_cdw12, check_size};
use super::{Io, MAX_ATOMIC_COMPARE, Range, check_flags, exactly};
use crate::payload::Incoming;
use crate::queue::Core;
use crate::seam::{Action, Payload};
use crate::slots::{State, Token, Work};
use crate::stats::OpClass;
use caisson_block::{BlockError, BufList, Cx, Op, Outcome, Request, Tag};
use caisson_wire::feature::cdw12;
use caisson_wire::opcode::io as opc;
use caisson_wire::sqe::Fuse;
use caisson_wire::{Sqe, Status};

/// Atomic Write Unit Exceeded (SCT 0h, SC 14h).
const ATOMIC_WRITE_UNIT_EXCEEDED: Status = Status::from_parts(0, 0x14);

/// Pairs that are not at a volume yet.
#[derive(Default)]
pub(crate) struct Pairs {
    next: Next,
    pairs: Vec<Pair>,
}

/// What the next command must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// Anything but a second.
    #[default]
    Any,
    /// The second of the pair whose first is in this slot.
    Second(u32),
    /// The second of a pair whose first has failed: it fails too.
    Orphan,
}

struct Pair {
    first: u32,
    second: Option<u32>,
    work: Work,
    expect: Option<BufList>,
    data: Option<BufList>,
}

impl Pairs {
    /// Whether the next command decides about one that was a first.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.next != Next::Any
    }

    fn position(&self, slot: u32) -> Option<usize> {
        self.pairs.iter().position(|p| p.first == slot || p.second == Some(slot))
    }
}

impl Io {
    /// A command that is fused, or that comes after a first.
    #[cold]
    pub(super) fn fuse(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) {
        let next = std::mem::take(&mut self.fused.next);
        let fuse = sqe.fuse();
        if let (Next::Second(first), true) = (next, fuse != Fuse::Second) {
            self.drop_first(core, first, Status::ABORT_MISSING_FUSED, out);
        }
        match (fuse, next) {
            (Fuse::Second, Next::Second(first)) => self.second(core, cx, token, first, sqe, payload, out),
            (Fuse::Second, Next::Orphan) => core.answer(token, Status::ABORT_FAILED_FUSED, out),
            (Fuse::Second, Next::Any) => core.answer(token, Status::ABORT_MISSING_FUSED, out),
            (Fuse::First, _) => self.first(core, cx, token, sqe, payload, out),
            (Fuse::None, _) => {
                if let Err((token, status)) = self.start(core, cx, token, sqe, payload, out) {
                    core.answer(token, status, out);
                }
            }
            (Fuse::Reserved, _) => core.answer(token, Status::INVALID_FIELD.dnr(), out),
        }
    }

    /// Range and data of either half.
    fn half(&mut self, sqe: &Sqe, payload: Payload) -> Result<(Range, Incoming), Status> {
        check_flags(sqe, &payload)?;
        let range = self.range(sqe)?;
        check_cdw12(sqe, 0)?;
        check_size(&range)?;
        if range.blocks > MAX_ATOMIC_COMPARE {
            return Err(ATOMIC_WRITE_UNIT_EXCEEDED.dnr());
        }
        Ok((range, exactly(payload, range.bytes)?))
    }

    fn first(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) {
        let half = match sqe.opcode {
            opc::COMPARE => self.half(sqe, payload),
            _ => Err(Status::INVALID_FIELD.dnr()),
        };
        let (range, incoming) = match half {
            Ok(half) => half,
            Err(status) => {
                self.fused.next = Next::Orphan;
                return core.answer(token, status, out);
            }
        };
        let work = self.work(cx, OpClass::Compare, &range, false);
        self.hold(&work);
        let first = token.slot();
        let expect = self.fetch(core, token, incoming, out);
        self.fused.pairs.push(Pair { first, second: None, work, expect, data: None });
        self.fused.next = Next::Second(first);
    }

    /// Parks one half, asking for its data when that is not here.
    fn fetch(
        &mut self,
        core: &mut Core,
        token: Token,
        incoming: Incoming,
        out: &mut Vec<Action>,
    ) -> Option<BufList> {
        match incoming {
            Incoming::Here(data) => {
                core.slots.park(token, State::Fused);
                Some(data)
            }
            Incoming::Pull(len) => {
                core.pull(token, len, State::Fused, out);
                None
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn second(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        first: u32,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) {
        let Some(at) = self.fused.position(first) else {
            return core.answer(token, Status::ABORT_FAILED_FUSED, out);
        };
        let half = match sqe.opcode {
            opc::WRITE => self.half(sqe, payload),
            _ => Err(Status::INVALID_FIELD.dnr()),
        };
        let work = self.fused.pairs[at].work;
        let checked = half.and_then(|(range, incoming)| {
            self.writable(range.entry)?;
            Ok((range, incoming))
        });
        let (range, incoming) = match checked {
            Ok(ok) => ok,
            Err(status) => {
                self.drop_first(core, first, Status::ABORT_FAILED_FUSED, out);
                return core.answer(token, status, out);
            }
        };
        if (range.entry, range.lba, range.blocks) != (usize::from(work.entry), work.lba, work.blocks) {
            self.drop_first(core, first, Status::INVALID_FIELD.dnr(), out);
            return core.answer(token, Status::INVALID_FIELD.dnr(), out);
        }
        let fua = sqe.cdw12.get() & cdw12::FUA != 0;
        let second = token.slot();
        let data = self.fetch(core, token, incoming, out);
        let pair = &mut self.fused.pairs[at];
        pair.second = Some(second);
        pair.data = data;
        pair.work.fua = fua | self.controller.write_through();
        self.pair_ready(core, cx, at);
    }

    /// Data of one half came.
    pub(super) fn fused_data(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        data: BufList,
        _out: &mut Vec<Action>,
    ) {
        let slot = token.slot();
        core.slots.park(token, State::Fused);
        let Some(at) = self.fused.position(slot) else {
            debug_assert!(false, "data for a pair that is not there");
            return;
        };
        let pair = &mut self.fused.pairs[at];
        if pair.first == slot {
            pair.expect = Some(data);
        } else {
            pair.data = Some(data);
        }
        self.pair_ready(core, cx, at);
    }

    /// Gives a pair to its volume when all of it is here.
    fn pair_ready(&mut self, core: &mut Core, cx: &mut Cx<'_>, at: usize) {
        let pair = &self.fused.pairs[at];
        let (Some(second), true, true) = (pair.second, pair.expect.is_some(), pair.data.is_some()) else {
            return;
        };
        let Pair { first, work, expect, data, .. } = self.fused.pairs.swap_remove(at);
        let (Some(expect), Some(data)) = (expect, data) else { return };
        let Some((token, _)) = core.slots.take(second) else { return };
        let Some(Some(entry)) = self.entries.get(usize::from(work.entry)) else {
            debug_assert!(false, "a pair without its namespace");
            return core.slots.park(token, State::Fused);
        };
        core.slots.park(token, State::FusedVolume { work, first });
        core.in_flight += 1;
        let tag = Tag { queue: core.at.key, slot: second };
        let op = Op::CompareAndWrite { at: work.extent(), expect, data, fua: work.fua };
        entry.namespace.volume.submit(cx, Request { tag, op });
    }

    /// The volume is done with a pair: the Compare's completion comes first, then the Write's.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn finish_pair(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        work: &Work,
        first: u32,
        outcome: Outcome,
        out: &mut Vec<Action>,
    ) {
        let Some((compare, _)) = core.slots.take(first) else {
            debug_assert!(false, "a pair without its first");
            return core.answer(token, Status::INTERNAL_ERROR, out);
        };
        let (of_compare, of_write) = match outcome {
            Ok(list) => {
                cx.recycle(list);
                if let Some(Some(entry)) = self.entries.get(usize::from(work.entry)) {
                    let bytes = u64::from(work.blocks) << entry.namespace.shift;
                    entry.stats.done(OpClass::Write, bytes, cx.now.since(work.start));
                }
                self.count(cx, work);
                (Status::SUCCESS, Status::SUCCESS)
            }
            // The compare had held, and the write failed.
            Err(e @ (BlockError::WriteFault { .. } | BlockError::CapacityExceeded)) => {
                let write = Work { class: OpClass::Write, ..*work };
                (Status::SUCCESS, self.failure(token.cid(), &write, e))
            }
            Err(e) => (self.failure(compare.cid(), work, e), Status::ABORT_FAILED_FUSED),
        };
        core.answer(compare, of_compare, out);
        core.answer(token, of_write, out);
    }

    /// Ends the first of a pair that is not at a volume.
    fn drop_first(&mut self, core: &mut Core, first: u32, status: Status, out: &mut Vec<Action>) {
        let Some(at) = self.fused.position(first) else { return };
        let pair = self.fused.pairs.swap_remove(at);
        self.release(&pair.work);
        if let Some((token, _)) = core.slots.take(first) {
            core.answer(token, status, out);
        }
    }

    /// Ends one half with `status`, and its partner as having lost it; whether that could be done.
    pub(super) fn give_up_fused(
        &mut self,
        core: &mut Core,
        token: Token,
        status: Status,
        out: &mut Vec<Action>,
    ) -> bool {
        let slot = token.slot();
        let Some(at) = self.fused.position(slot) else {
            // Its pair is at the volume.
            core.slots.park(token, State::Fused);
            return false;
        };
        let pair = self.fused.pairs.swap_remove(at);
        self.release(&pair.work);
        core.answer(token, status, out);
        let partner = if pair.first == slot { pair.second } else { Some(pair.first) };
        match partner.and_then(|slot| core.slots.take(slot)) {
            Some((token, _)) => core.answer(token, Status::ABORT_FAILED_FUSED, out),
            // The second has not come yet.
            None => self.fused.next = Next::Orphan,
        }
        true
    }
}
