//! What SGL1 of a command says of its data, by the rules of RDMA (RDMA, "SGL Support"; Base 2.1, 4.3.2).

use caisson_block::{Buf, BufList, Completions};
use caisson_wire::opcode::{self, Direction};
use caisson_wire::rdma::Keyed;
use caisson_wire::{SglKind, Sqe, Status};

/// Where the data of a command is.
#[derive(Debug)]
pub enum Payload {
    /// The command moves no data.
    None,
    /// Data for the controller, in the capsule.
    InCapsule(BufList),
    /// Data in the host's memory, in the direction that the opcode says: [`crate::Session::pull`] it, or give it to
    /// [`crate::Session::reply`].
    Transport {
        /// Bytes.
        len: u32,
    },
    /// A descriptor that may not be used here: the status to reply with.
    Bad(Status),
}

/// What a response and its data need to know of the host's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// The host's address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// The host's key.
    pub key: u32,
    /// The host wants the key invalidated with the response.
    pub invalidate: bool,
}

/// Reads SGL1 of `sqe`, whose capsule carries the data `inside`.
///
/// A command whose opcode moves no data has its descriptor ignored, and one of no bytes means no data. PSDT must be 01b
/// where data moves. Even where a descriptor is not used, or wrong, a key that the host wants invalidated is. The list for data in
/// the capsule comes from `spare`.
#[inline]
pub fn place(sqe: &Sqe, inside: Option<Buf>, spare: &mut Completions) -> (Payload, Remote) {
    let way = opcode::direction(if sqe.opcode == opcode::FABRICS { sqe.fctype() } else { sqe.opcode });
    let kind = sqe.sgl.kind();
    let keyed = matches!(kind, SglKind::KeyedAddress | SglKind::KeyedInvalidate);
    let remote = if keyed {
        let Keyed { address, length, key } = sqe.sgl.as_keyed();
        // A null descriptor has no key: there is nothing to invalidate.
        let invalidate = kind == SglKind::KeyedInvalidate && (length, key) != (0, 0);
        Remote { address, length, key, invalidate }
    } else {
        Remote::default()
    };
    let len = if keyed { remote.length } else { sqe.sgl.length.get() };
    let payload = match kind {
        _ if way == Direction::None || len == 0 => Payload::None,
        _ if sqe.psdt() != 0b01 => Payload::Bad(Status::INVALID_FIELD.dnr()),
        _ if keyed && remote.address.checked_add(u64::from(len)).is_none() => {
            Payload::Bad(Status::INVALID_SGL_LENGTH.dnr())
        }
        _ if keyed => Payload::Transport { len },
        SglKind::DataBlockOffset if way == Direction::HostToController => in_capsule(sqe, len, inside, spare),
        _ => Payload::Bad(Status::INVALID_SGL_TYPE.dnr()),
    };
    (payload, remote)
}

/// The part of the capsule's data that an offset descriptor names. ICDOFF is 0: the address counts from the first byte behind
/// the command.
fn in_capsule(sqe: &Sqe, len: u32, inside: Option<Buf>, spare: &mut Completions) -> Payload {
    let data = inside.unwrap_or_default();
    let from = sqe.sgl.address.get();
    if from >= data.len() as u64 {
        return Payload::Bad(Status::INVALID_SGL_OFFSET.dnr());
    }
    let part = if (from, len as usize) == (0, data.len()) {
        data
    } else {
        match data.slice(from as usize, (from as usize).saturating_add(len as usize)) {
            Some(part) => part,
            None => return Payload::Bad(Status::INVALID_SGL_LENGTH.dnr()),
        }
    };
    let mut list = spare.list();
    list.push(part);
    Payload::InCapsule(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_wire::{Sgl, opcode::io};

    fn sqe(opcode: u8, sgl: Sgl) -> Sqe {
        Sqe { opcode, flags: 0x40, sgl, ..Sqe::default() }
    }

    fn place(sqe: &Sqe, inside: Option<Buf>) -> (Payload, Remote) {
        super::place(sqe, inside, &mut Completions::default())
    }

    fn bad(p: &Payload) -> Option<Status> {
        if let Payload::Bad(s) = p { Some(*s) } else { None }
    }

    #[test]
    fn keyed_descriptors() {
        let (p, r) = place(&sqe(io::READ, Sgl::keyed(0x1000, 4096, 0xabcd_1234, true)), None);
        assert!(matches!(p, Payload::Transport { len: 4096 }));
        assert_eq!(r, Remote { address: 0x1000, length: 4096, key: 0xabcd_1234, invalidate: true });
        let (p, r) = place(&sqe(io::WRITE, Sgl::keyed(0x1000, 4096, 7, false)), None);
        assert!(matches!(p, Payload::Transport { len: 4096 }) && !r.invalidate);
        // The null descriptor that Linux gives to commands without data.
        let (p, r) = place(&sqe(io::FLUSH, Sgl::keyed(0, 0, 0, false)), None);
        assert!(matches!(p, Payload::None) && r == Remote::default());
        let (p, _) = place(&sqe(io::READ, Sgl::keyed(u64::MAX - 10, 4096, 7, false)), None);
        assert_eq!(bad(&p), Some(Status::INVALID_SGL_LENGTH.dnr()));
        let mut wrong = sqe(io::READ, Sgl::keyed(0x1000, 4096, 7, true));
        wrong.flags = 0;
        let (p, r) = place(&wrong, None);
        assert!(bad(&p) == Some(Status::INVALID_FIELD.dnr()) && r.invalidate);
    }

    #[test]
    fn data_in_the_capsule() {
        let inside = || Some(Buf::from((0..100u8).collect::<Vec<_>>()));
        let (p, _) = place(&sqe(io::WRITE, Sgl::in_capsule(10, 90)), inside());
        let Payload::InCapsule(data) = p else { panic!("{p:?}") };
        assert_eq!(data.to_vec(), (10..100).collect::<Vec<u8>>());
        let rows = [
            (io::WRITE, 10, 91, Status::INVALID_SGL_LENGTH),
            (io::WRITE, 100, 1, Status::INVALID_SGL_OFFSET),
            (io::WRITE, u64::MAX, 1, Status::INVALID_SGL_OFFSET),
            (io::WRITE, 0, u32::MAX, Status::INVALID_SGL_LENGTH),
            (io::READ, 0, 100, Status::INVALID_SGL_TYPE),
        ];
        for (op, at, len, want) in rows {
            let (p, _) = place(&sqe(op, Sgl::in_capsule(at, len)), inside());
            assert_eq!(bad(&p), Some(want.dnr()), "{op} {at} {len}");
        }
        let (p, _) = place(&sqe(io::WRITE, Sgl::in_capsule(0, 1)), None);
        assert_eq!(bad(&p), Some(Status::INVALID_SGL_OFFSET.dnr()));
    }

    #[test]
    fn other_descriptors_are_refused() {
        for id in 0..=255u8 {
            if matches!(id, 0x01 | 0x40 | 0x4f) {
                continue;
            }
            let sgl = Sgl { id, ..Sgl::in_capsule(0, 512) };
            assert_eq!(
                bad(&place(&sqe(io::WRITE, sgl), None).0),
                Some(Status::INVALID_SGL_TYPE.dnr()),
                "{id:#x}"
            );
        }
    }
}
