//! What SGL1 of a command says of its data, by the rules of TCP (TCP 1.1, 3.3.2.1; Base 2.1, 4.3.2).

use super::Payload;
use caisson_block::BufList;
use caisson_wire::opcode::{self, Direction};
use caisson_wire::{SglKind, Sqe, Status};

/// Where a command's data is to be, before any in-capsule data was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It moves none.
    None,
    /// This part of the capsule's data.
    InCapsule {
        /// From.
        from: u32,
        /// To, exclusive.
        to: u32,
    },
    /// In PDUs of its own.
    Transport {
        /// Bytes.
        len: u32,
    },
    /// The descriptor may not be used so.
    Bad(Status),
}

/// The way the data of `sqe` goes, fabrics commands included.
#[inline]
pub fn direction(sqe: &Sqe) -> Direction {
    opcode::direction(if sqe.opcode == opcode::FABRICS { sqe.fctype() } else { sqe.opcode })
}

/// Reads SGL1 of `sqe`, whose capsule carries `inside` bytes of data.
///
/// A command whose opcode moves no data has its descriptor ignored, and any descriptor of no bytes means no data: hosts
/// differ in what they put there. PSDT must be 01b where data moves (Base 2.1, figure 91).
#[inline]
pub fn place(sqe: &Sqe, inside: u32) -> Place {
    let way = direction(sqe);
    let len = sqe.sgl.length.get();
    if way == Direction::None || len == 0 {
        return Place::None;
    }
    if sqe.psdt() != 0b01 {
        return Place::Bad(Status::INVALID_FIELD.dnr());
    }
    match sqe.sgl.kind() {
        SglKind::TransportDataBlock => Place::Transport { len },
        SglKind::DataBlockOffset if way == Direction::ControllerToHost => {
            Place::Bad(Status::INVALID_SGL_TYPE.dnr())
        }
        SglKind::DataBlockOffset => {
            // ICDOFF is 0, so the address counts from the first byte of the capsule's data.
            let from = sqe.sgl.address.get();
            if from > u64::from(inside) || (from != 0 && from == u64::from(inside)) {
                return Place::Bad(Status::INVALID_SGL_OFFSET.dnr());
            }
            match from.checked_add(u64::from(len)) {
                Some(to) if to <= u64::from(inside) => Place::InCapsule { from: from as u32, to: to as u32 },
                _ => Place::Bad(Status::INVALID_SGL_LENGTH.dnr()),
            }
        }
        _ => Place::Bad(Status::INVALID_SGL_TYPE.dnr()),
    }
}

/// The payload at `place`, given the capsule's data.
#[inline]
pub fn payload(place: Place, data: BufList) -> Payload {
    match place {
        Place::None => Payload::None,
        Place::Transport { len } => Payload::Transport { len },
        Place::Bad(status) => Payload::Bad(status),
        Place::InCapsule { from: 0, to } if to as usize == data.len() => Payload::InCapsule(data),
        Place::InCapsule { from, to } => match data.slice(from as usize, to as usize) {
            Some(part) => Payload::InCapsule(part),
            None => Payload::Bad(Status::INVALID_SGL_LENGTH.dnr()),
        },
    }
}
