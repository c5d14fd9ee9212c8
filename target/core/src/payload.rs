//! What a command's data must be, against what its capsule says of it.

use crate::seam::Payload;
use caisson_block::BufList;
use caisson_wire::Status;

/// Data from the host that is in order.
pub(crate) enum Incoming {
    /// It is here.
    Here(BufList),
    /// It is to be pulled: this many bytes.
    Pull(u32),
}

/// How long the data may be.
#[derive(Clone, Copy)]
pub(crate) enum Len {
    /// Exactly as long.
    Exactly(u32),
    /// At least as long, and no more than the second.
    AtLeast(u32, u32),
}

impl Len {
    #[inline]
    fn fits(self, len: usize) -> bool {
        match self {
            Len::Exactly(want) => len == want as usize,
            Len::AtLeast(min, max) => len >= min as usize && len <= max as usize,
        }
    }
}

/// Checks a payload that goes to the controller.
#[inline]
pub(crate) fn incoming(payload: Payload, len: Len) -> Result<Incoming, Status> {
    let wrong = Status::INVALID_SGL_LENGTH.dnr();
    match payload {
        Payload::InCapsule(data) if len.fits(data.len()) => Ok(Incoming::Here(data)),
        Payload::Transport { len: there } if len.fits(there as usize) => Ok(Incoming::Pull(there)),
        Payload::Bad(status) => Err(status),
        _ => Err(wrong),
    }
}

/// Checks a payload that goes to the host; how many bytes it has room for.
#[inline]
pub(crate) fn outgoing(payload: &Payload) -> Result<u32, Status> {
    match payload {
        Payload::Transport { len } => Ok(*len),
        Payload::None => Ok(0),
        // In-capsule data is the host's to send: there is no room in a command capsule for an answer.
        Payload::InCapsule(_) => Err(Status::INVALID_SGL_TYPE.dnr()),
        Payload::Bad(status) => Err(*status),
    }
}
