//! NVMe/RDMA of the host: one queue pair on which capsules leave and responses come.
//!
//! Beside the target's session, for the reasons that the TCP framing has: a second reading of the specification (NVMe RDMA
//! Transport 1.1). The device moves the data by itself, so all there is to do is to say where it lies. Owns no commands.

use crate::error::{Error, Result};
use crate::net::{Address, wait};
use caisson_verbs::host::{Failure, HostQueue, MESSAGE, Memory, Message, Over, Shape};
use caisson_wire::rdma::{CmReject, CmRequest, CmStatus, RECFMT};
use caisson_wire::zerocopy::little_endian::U16;
use caisson_wire::zerocopy::{FromBytes, IntoBytes};
use caisson_wire::{Cqe, Sqe};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a response capsule.
const RESPONSE: usize = 16;
/// Receives beyond the queue's entries: for a target that is a response ahead of its completions.
const SPARE: u32 = 8;

/// One queue pair.
#[derive(Debug)]
pub struct Rdma {
    host: HostQueue,
    /// What came and nobody has taken.
    pub came: Vec<Message>,
    /// Looks for responses so far; those that found some; posts.
    pub calls: (u64, u64, u64),
}

/// The private data of a connection request for queue `qid` of `entries` entries (RDMA, figure "RDMA_CM_REQUEST Private Data
/// Format").
pub fn request(qid: u16, entries: u16) -> CmRequest {
    CmRequest {
        recfmt: U16::new(RECFMT),
        qid: U16::new(qid),
        hrqsize: U16::new(entries),
        hsqsize: U16::new(entries.saturating_sub(1)),
        ..CmRequest::default()
    }
}

fn failed(address: &Address) -> impl Fn(Failure) -> Error + '_ {
    move |failure| match failure {
        Failure::Refused { reason, private } => {
            let status = CmReject::read_from_prefix(&private).ok().map(|(r, _)| r.sts.get());
            // Without words of its own nobody listens there (Linux tells that with reason 8, or refuses without any).
            let status = status.filter(|_| reason == 28).unwrap_or(0);
            Error::Refused { addr: address.to_string(), status, text: refusal(status) }
        }
        other => Error::Rdma { addr: address.to_string(), source: other },
    }
}

/// What a status of RDMA_CM_REJECT says; for 0, that there was none.
fn refusal(status: u16) -> &'static str {
    match CmStatus::from_code(status) {
        Some(status) => status.text(),
        None if status == 0 => "nobody listens there",
        None => "for a reason that is not known",
    }
}

impl Rdma {
    /// Connects for queue `qid` of `entries` entries (2 or more).
    ///
    /// # Errors
    /// There is no RDMA here; no target there; it refuses.
    pub fn open(address: &Address, qid: u16, entries: u16, timeout: Duration) -> Result<Rdma> {
        let private = request(qid, entries);
        let room = u32::from(entries);
        let shape = Shape { sends: 2 * room + SPARE, receives: room + SPARE, repeats: 7 };
        Rdma::open_with(address, private.as_bytes(), shape, timeout)
    }

    /// Connects saying `private`, whatever it is.
    ///
    /// # Errors
    /// As [`Rdma::open`].
    pub fn open_with(address: &Address, private: &[u8], shape: Shape, timeout: Duration) -> Result<Rdma> {
        let to = address.resolve()?;
        let host = HostQueue::connect(to, private, shape, timeout).map_err(failed(address))?;
        Ok(Rdma { host, came: Vec::new(), calls: (0, 0, 0) })
    }

    /// Memory that the target may reach.
    ///
    /// # Errors
    /// The system's.
    pub fn memory(&self, len: usize) -> Result<Arc<Memory>> {
        let made = self.host.memory(len);
        made.map(Arc::new).map_err(|source| Error::Io { doing: "registering memory", source })
    }

    /// Whether another capsule has room.
    #[inline]
    pub fn room(&self) -> bool {
        self.host.room()
    }

    /// Whether capsules wait for [`Rdma::flush`].
    #[inline]
    pub fn waiting(&self) -> bool {
        self.host.waiting()
    }

    /// A command capsule, with `inside` (where in which memory, how many bytes) behind the command; `false` without room.
    #[inline]
    pub fn command(&mut self, sqe: &Sqe, inside: Option<(&Arc<Memory>, usize, usize)>) -> bool {
        self.host.send(sqe.as_bytes(), inside)
    }

    /// A message of any bytes up to [`MESSAGE`], whether it is a capsule or not; `false` without room.
    pub fn message(&mut self, bytes: &[u8]) -> bool {
        debug_assert!(bytes.len() <= MESSAGE);
        self.host.send(bytes, None)
    }

    /// Sends what there is; says whether anything went.
    #[inline]
    pub fn flush(&mut self) -> Result<bool> {
        if !self.host.waiting() {
            return Ok(false);
        }
        self.calls.2 += 1;
        self.host.post().map_err(over)?;
        Ok(true)
    }

    /// Looks for responses; says whether any came. They are taken with [`Rdma::response`].
    #[inline]
    pub fn receive(&mut self) -> Result<bool> {
        self.calls.0 += 1;
        let came = self.host.receive(&mut self.came).map_err(over)?;
        self.calls.1 += u64::from(came > 0);
        Ok(came > 0)
    }

    /// The response capsule in `message`.
    ///
    /// # Errors
    /// It is none.
    #[inline]
    pub fn response(message: &Message) -> Result<Cqe> {
        match Cqe::decode(&message.bytes[..message.len]) {
            Some(cqe) if message.len == RESPONSE => Ok(cqe),
            _ => Err(Error::protocol(format!("a response of {} bytes, and not {RESPONSE}", message.len))),
        }
    }

    /// Has [`Rdma::fds`] become readable when something comes; `false` when something is there already.
    ///
    /// # Errors
    /// The device's.
    pub fn arm(&mut self) -> Result<bool> {
        self.host.arm().map_err(|source| Error::Io { doing: "arming a completion queue", source })
    }

    /// What to wait for, see [`Rdma::arm`].
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        self.host.fds()
    }

    /// Waits until `deadline` for something to come; `false` when the time is over.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&mut self, deadline: Instant) -> Result<bool> {
        loop {
            if !self.came.is_empty() || !self.arm()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let fds = self.fds();
            let waited = wait(fds.iter().map(|&fd| (fd, false)), left, &mut Vec::with_capacity(2));
            if waited.map_err(|e| Error::io("waiting", e))? > 0 {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Ends the connection without another word.
    pub fn disconnect(&mut self) {
        self.host.disconnect();
    }
}

/// What the end of a connection is to whoever has commands outstanding.
fn over(over: Over) -> Error {
    match over {
        Over::Disconnected => Error::Closed { doing: "commands were outstanding".into() },
        other => Error::Transfer { source: other },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_the_figure_has_it() {
        assert_eq!(request(3, 128).as_bytes()[..10], [0, 0, 3, 0, 128, 0, 127, 0, 0, 0]);
    }

    #[test]
    fn refusals_are_said_in_words() {
        let address: Address = "rdma://192.0.2.1:4420".parse().unwrap();
        let said = |reason, private: &[u8]| {
            failed(&address)(Failure::Refused { reason, private: private.to_vec() }).to_string()
        };
        assert!(said(28, &[0, 0, 4, 0, 0, 0]).contains("send queue"), "{}", said(28, &[0, 0, 4, 0, 0, 0]));
        assert!(
            said(28, &[0]).contains("nobody listens") && said(8, &[0, 0, 4, 0]).contains("nobody listens")
        );
        assert!(said(28, &[0, 0, 99, 0]).contains("not known"));
    }

    #[test]
    fn a_response_has_its_length() {
        let mut message = Message { bytes: [7; MESSAGE], len: 16 };
        assert!(Rdma::response(&message).is_ok());
        for len in [0, 15, 17, 64] {
            message.len = len;
            assert!(Rdma::response(&message).is_err(), "{len}");
        }
    }
}
