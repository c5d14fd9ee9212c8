//! The Connect command: a connection becomes a queue of a controller, or is told why not (Base 2.1, 6.3).
//!
//! Owns the checks and their order. What is refused names the field: IPO and IATTR in the completion's DW0.

use crate::admin::Admin;
use crate::controller::{Controller, JoinError};
use crate::io::Io;
use crate::link::Link;
use crate::payload::{Incoming, Len, incoming};
use crate::queue::{Core, Role};
use crate::registry::subsystem::{AdmitError, Kind, Subsystem};
use crate::seam::{Action, Payload};
use crate::slots::{State, Token};
use crate::spec::{ControllerModel, MAX_IO_QUEUES, MAX_QUEUE_ENTRIES};
use caisson_block::{BufList, Mono};
use caisson_wire::fabrics::{CNTLID_DYNAMIC, ConnectData, nqn_of};
use caisson_wire::opcode::{FABRICS, fctype};
use caisson_wire::zerocopy::FromBytes;
use caisson_wire::{Sqe, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Smallest admin submission queue, in entries (Base 2.1, 3.3.2.2).
const MIN_ADMIN_ENTRIES: u32 = 32;
/// CATTR bit 2: disable SQ flow control.
const CATTR_NO_SQ_FLOW: u8 = 1 << 2;

/// Where the offending field is, as DW0 of the completion says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// Byte of the command.
    Sqe(u16),
    /// Byte of the data (IATTR = 1).
    Data(u16),
}

const QID: Field = Field::Sqe(42);
const SQSIZE: Field = Field::Sqe(44);
const HOSTID: Field = Field::Data(0);
const CNTLID: Field = Field::Data(16);
const SUBNQN: Field = Field::Data(256);
const HOSTNQN: Field = Field::Data(512);

impl Field {
    fn dw0(self) -> u64 {
        match self {
            Field::Sqe(at) => u64::from(at),
            Field::Data(at) => u64::from(at) | 1 << 16,
        }
    }
}

/// Why a Connect is refused: the status and DW0.
type Refusal = (Status, u64);

fn invalid(field: Field) -> Refusal {
    (Status::CONNECT_INVALID_PARAMETERS.dnr(), field.dw0())
}

/// The fields of a Connect command (Base 2.1, figure "Connect Command – Submission Queue Entry").
#[derive(Clone, Copy, Debug)]
struct Fields {
    recfmt: u16,
    qid: u16,
    sqsize: u16,
    cattr: u8,
    kato: u32,
}

impl Fields {
    fn of(sqe: &Sqe) -> Fields {
        let (d10, d11) = (sqe.cdw10.get(), sqe.cdw11.get());
        Fields {
            recfmt: d10 as u16,
            qid: (d10 >> 16) as u16,
            sqsize: d11 as u16,
            cattr: (d11 >> 16) as u8,
            kato: sqe.cdw12.get(),
        }
    }
}

/// A command on a queue that is not connected: anything but Connect is out of sequence.
pub(crate) fn command(
    core: &mut Core,
    now: Mono,
    token: Token,
    sqe: &Sqe,
    payload: Payload,
    out: &mut Vec<Action>,
) -> Option<Role> {
    if sqe.opcode != FABRICS || sqe.fctype() != fctype::CONNECT {
        core.answer(token, Status::COMMAND_SEQUENCE_ERROR.dnr(), out);
        return None;
    }
    match incoming(payload, Len::Exactly(1024)) {
        Ok(Incoming::Here(bytes)) => data(core, now, token, sqe, &bytes, out),
        Ok(Incoming::Pull(len)) => {
            core.pull(token, len, State::PullFor(Box::new(*sqe)), out);
            None
        }
        Err(status) => {
            core.answer(token, status, out);
            None
        }
    }
}

/// Connect and its data are here.
pub(crate) fn data(
    core: &mut Core,
    now: Mono,
    token: Token,
    sqe: &Sqe,
    bytes: &BufList,
    out: &mut Vec<Action>,
) -> Option<Role> {
    let mut raw = [0u8; 1024];
    let whole = bytes.copy_out(0, &mut raw) == raw.len();
    let Some(data) = ConnectData::read_from_bytes(&raw).ok().filter(|_| whole) else {
        core.answer(token, Status::INVALID_SGL_LENGTH.dnr(), out);
        return None;
    };
    let target = Arc::clone(&core.target);
    match connect(core, now, Fields::of(sqe), &data) {
        Ok((role, cntlid)) => {
            target.counters.connects.fetch_add(1, Relaxed);
            target.counters.queues.fetch_add(1, Relaxed);
            core.reply(token, Status::SUCCESS, u64::from(cntlid), BufList::new(), out);
            Some(role)
        }
        Err((status, dw0)) => {
            target.counters.refused.fetch_add(1, Relaxed);
            tracing::info!(peer = %core.at.peer, %status, dw0, host = ?nqn_of(&data.hostnqn),
                subsystem = ?nqn_of(&data.subnqn), "a Connect was refused");
            core.reply(token, status, dw0, BufList::new(), out);
            None
        }
    }
}

fn connect(core: &mut Core, now: Mono, f: Fields, data: &ConnectData) -> Result<(Role, u16), Refusal> {
    if f.recfmt != 0 {
        return Err((Status::CONNECT_INCOMPATIBLE_FORMAT.dnr(), 0));
    }
    let entries = u32::from(f.sqsize) + 1;
    let least = if f.qid == 0 { MIN_ADMIN_ENTRIES } else { 2 };
    if entries < least || entries > u32::from(MAX_QUEUE_ENTRIES) {
        return Err(invalid(SQSIZE));
    }
    if f.qid > MAX_IO_QUEUES {
        return Err(invalid(QID));
    }
    // A host identifier of zero names no host (Base 2.1, 5.1.25.1.28).
    if data.hostid == [0; 16] {
        return Err(invalid(HOSTID));
    }
    let host = nqn_of(&data.hostnqn).ok_or(invalid(HOSTNQN))?;
    let name = nqn_of(&data.subnqn).ok_or(invalid(SUBNQN))?;
    let subsystem = core.target.subsystem_at(core.at.port, name).ok_or(invalid(SUBNQN))?;
    let entries = entries as u16;
    let no_sqhd = f.cattr & CATTR_NO_SQ_FLOW != 0;
    let link = Arc::new(Link::new(f.qid, u32::from(entries), core.at.peer.clone(), Arc::clone(&core.notify)));
    let cntlid = data.cntlid.get();
    let role = if f.qid == 0 {
        let io_queues = if subsystem.kind == Kind::Nvm { MAX_IO_QUEUES } else { 0 };
        let made = subsystem.admit(host, cntlid, |id| {
            let sub = Arc::clone(&subsystem);
            let (port, peer) = (core.at.port, core.at.peer.clone());
            let new = Controller::new(id, sub, Arc::from(host), data.hostid, port, peer, now, io_queues);
            Arc::new(new)
        });
        let controller = made.map_err(|e| match e {
            AdmitError::Access => (Status::CONNECT_INVALID_HOST.dnr(), HOSTNQN.dw0()),
            AdmitError::ControllerId => invalid(CNTLID),
            AdmitError::Busy => (Status::CONNECT_CONTROLLER_BUSY, 0),
            AdmitError::Gone => invalid(SUBNQN),
        })?;
        if controller.join(&link).is_err() {
            // Management ended the association between the two steps.
            subsystem.forget(&controller);
            return Err((Status::CONNECT_INVALID_HOST.dnr(), HOSTNQN.dw0()));
        }
        Role::Admin(Box::new(Admin::new(controller, link, core.at.in_capsule, f.kato, now)))
    } else {
        Role::Io(Box::new(join(&subsystem, cntlid, host, data, link)?))
    };
    core.sized(entries, no_sqhd);
    let id = match &role {
        Role::Admin(admin) => admin.controller.id,
        Role::Io(io) => io.controller.id,
        Role::Fresh | Role::Over => 0,
    };
    Ok((role, id))
}

/// An I/O queue joins the controller that its host's admin queue made.
fn join(
    subsystem: &Subsystem,
    cntlid: u16,
    host: &str,
    data: &ConnectData,
    link: Arc<Link>,
) -> Result<Io, Refusal> {
    if subsystem.kind == Kind::Discovery {
        return Err(invalid(QID));
    }
    if !subsystem.allows(host) {
        return Err((Status::CONNECT_INVALID_HOST.dnr(), HOSTNQN.dw0()));
    }
    let controller = subsystem.controller(cntlid).ok_or(invalid(CNTLID))?;
    if *controller.host != *host {
        return Err(invalid(HOSTNQN));
    }
    if controller.hostid != data.hostid {
        return Err(invalid(HOSTID));
    }
    controller.join(&link).map_err(|e| match e {
        JoinError::Sequence => (Status::COMMAND_SEQUENCE_ERROR.dnr(), 0),
        JoinError::QueueId => invalid(QID),
        JoinError::Over => invalid(CNTLID),
    })?;
    Ok(Io::new(controller, link))
}

/// The CNTLID that discovery entries of a subsystem tell.
pub(crate) fn told_cntlid(model: &ControllerModel) -> u16 {
    match model {
        ControllerModel::Dynamic => CNTLID_DYNAMIC,
        ControllerModel::Static(_) => caisson_wire::fabrics::CNTLID_STATIC_ANY,
    }
}
