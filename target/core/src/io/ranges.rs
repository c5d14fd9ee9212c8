//! The commands whose data is a list of ranges: Dataset Management and Copy (NVM 1.1, 3.3.3 and 3.3.2).

use super::rw::check_cdw12;
use super::{Io, MAX_COPY_RANGES, MAX_TRANSFER, MCL, MSSRL, Range};
use crate::payload::{Incoming, Len, incoming};
use crate::queue::Core;
use crate::seam::{Action, Payload};
use crate::slots::{State, Token};
use crate::stats::OpClass;
use caisson_block::{BufList, Cx, Extent, Op};
use caisson_wire::feature::{CopyRange, DsmRange, cdw12, dsm};
use caisson_wire::opcode::io as opc;
use caisson_wire::zerocopy::{FromBytes, IntoBytes};
use caisson_wire::{Sqe, Status};

type Started = Result<(), (Token, Status)>;

impl Io {
    /// A command with ranges: what can be checked without them is, and they are fetched.
    pub(super) fn with_ranges(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: Payload,
        out: &mut Vec<Action>,
    ) -> Started {
        let checked = self.entry(sqe.nsid.get()).and_then(|entry| {
            let ranges = ranges_of(sqe);
            let len = if sqe.opcode == opc::COPY {
                check_copy(sqe)?;
                self.writable(entry)?;
                ranges * 32
            } else {
                if sqe.cdw11.get() & dsm::AD != 0 {
                    self.writable(entry)?;
                }
                ranges * 16
            };
            // Linux always describes the whole 4 KiB of a Dataset Management, however few ranges there are.
            incoming(payload, Len::AtLeast(len, MAX_TRANSFER))
        });
        match checked {
            Ok(Incoming::Here(data)) => {
                let started = self.ranges_here(core, cx, token, sqe, &data, out);
                cx.recycle(data);
                started
            }
            Ok(Incoming::Pull(len)) => {
                core.pull(token, len, State::PullFor(Box::new(*sqe)), out);
                Ok(())
            }
            Err(status) => Err((token, status)),
        }
    }

    /// The ranges are here.
    pub(super) fn ranges_here(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        data: &BufList,
        out: &mut Vec<Action>,
    ) -> Started {
        // The namespace may have gone while the ranges were pulled.
        let entry = match self.entry(sqe.nsid.get()) {
            Ok(entry) => entry,
            Err(status) => return Err((token, status)),
        };
        let size = self.namespace(entry).map_or(0, |n| n.blocks());
        let plan =
            if sqe.opcode == opc::COPY { plan_copy(sqe, data, size) } else { plan_dsm(sqe, data, size) };
        match plan {
            Ok(Some((class, lba, blocks, op))) => {
                let range = Range { entry, lba, blocks, bytes: 0 };
                let op = match op {
                    Op::Copy { to, from, fua } => {
                        Op::Copy { to, from, fua: fua | self.controller.write_through() }
                    }
                    op => op,
                };
                let work = self.work(cx, class, &range, false);
                self.submit(core, cx, token, work, op);
                Ok(())
            }
            Ok(None) => {
                core.answer(token, Status::SUCCESS, out);
                Ok(())
            }
            Err(status) => Err((token, status)),
        }
    }
}

/// NR, made one-based.
fn ranges_of(sqe: &Sqe) -> u32 {
    let nr = if sqe.opcode == opc::COPY { sqe.cdw12.get() } else { sqe.cdw10.get() };
    (nr & 0xff) + 1
}

/// The fields of CDW12 that a Copy here must leave zero: DESFMT (format 0h only), PRINFOR, DTYPE, STCR, PRINFOW, STCW.
fn check_copy(sqe: &Sqe) -> Result<(), Status> {
    const DESFMT: u32 = 0xf << 8;
    const PRINFOR: u32 = 0xf << 12;
    const DTYPE: u32 = 0xf << 20;
    const STCW: u32 = 1 << 25;
    check_cdw12(sqe, DESFMT | PRINFOR | DTYPE | STCW)?;
    if ranges_of(sqe) > MAX_COPY_RANGES {
        return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr());
    }
    Ok(())
}

/// What is to be done: class, the first block, how many, the operation. `None` is nothing.
type Plan = Option<(OpClass, u64, u32, Op)>;

fn plan_dsm(sqe: &Sqe, data: &BufList, size: u64) -> Result<Plan, Status> {
    let count = ranges_of(sqe) as usize;
    let mut ranges = Vec::with_capacity(count);
    let mut blocks = 0u64;
    for i in 0..count {
        let mut range = DsmRange::default();
        data.copy_out(i * 16, range.as_mut_bytes());
        let extent = Extent { lba: range.slba.get(), blocks: u64::from(range.llb.get()) };
        if !extent.within(size) {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
        if extent.blocks != 0 {
            blocks += extent.blocks;
            ranges.push(extent);
        }
    }
    // IDR, IDW and the context attributes are hints, which need no answer but success.
    if sqe.cdw11.get() & dsm::AD == 0 || ranges.is_empty() {
        return Ok(None);
    }
    let first = ranges[0].lba;
    Ok(Some((
        OpClass::Deallocate,
        first,
        u32::try_from(blocks).unwrap_or(u32::MAX),
        Op::Deallocate { ranges },
    )))
}

fn plan_copy(sqe: &Sqe, data: &BufList, size: u64) -> Result<Plan, Status> {
    let count = ranges_of(sqe) as usize;
    let mut from = Vec::with_capacity(count);
    let mut blocks = 0u32;
    let mut raw = [0u8; 32];
    for i in 0..count {
        data.copy_out(i * 32, &mut raw);
        let Ok(range) = CopyRange::read_from_bytes(&raw) else { return Err(Status::INTERNAL_ERROR) };
        let extent = Extent { lba: range.slba.get(), blocks: u64::from(range.nlb.get()) + 1 };
        if extent.blocks > u64::from(MSSRL) {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr());
        }
        if !extent.within(size) {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
        blocks += extent.blocks as u32;
        from.push(extent);
    }
    if blocks > MCL {
        return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr());
    }
    let to = sqe.slba();
    if !(Extent { lba: to, blocks: u64::from(blocks) }).within(size) {
        return Err(Status::LBA_OUT_OF_RANGE.dnr());
    }
    let fua = sqe.cdw12.get() & cdw12::FUA != 0;
    Ok(Some((OpClass::Copy, to, blocks, Op::Copy { to, from, fua })))
}
