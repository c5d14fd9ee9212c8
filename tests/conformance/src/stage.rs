//! Connections brought as far as a test wants them before they misbehave.

use crate::pdu::{Raw, capsule, connect, icreq, with_digests};
use crate::subject::{BIG, Subject, io};
use caisson_initiator::Client;
use caisson_initiator::transport::{Pdu, RawConn};
use caisson_wire::opcode::io as op;
use caisson_wire::pdu::{CapsuleResp, R2t, kind};
use caisson_wire::{Sgl, Status};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// How far a connection has come before it misbehaves. The number is the digests (bit 0 header, bit 1 data).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// Connected, nothing sent.
    Fresh,
    /// ICReq and ICResp exchanged.
    Greeted(u8),
    /// An admin queue.
    Admin(u8),
    /// An I/O queue.
    Io(u8),
    /// On an I/O queue, with an R2T for a write of 16 KiB under CID 7.
    Asked(u8),
}

/// Brings connections to a stage.
pub struct Way<'a> {
    s: &'a Subject,
    client: Client,
    next_qid: AtomicU16,
}

impl<'a> Way<'a> {
    /// Ways into `s`.
    pub fn new(s: &'a Subject) -> Way<'a> {
        Way { s, client: s.client(), next_qid: AtomicU16::new(1) }
    }

    /// A connection at `stage`, and the R2T that is out.
    ///
    /// # Panics
    /// When it cannot be reached: the test has failed.
    pub fn reach(&self, stage: Stage) -> (RawConn, Option<R2t>) {
        let mut c = RawConn::connect(&self.s.address, WAIT).unwrap();
        let (Stage::Greeted(dgst) | Stage::Admin(dgst) | Stage::Io(dgst) | Stage::Asked(dgst)) = stage else {
            return (c, None);
        };
        c.send(&icreq(dgst).0).unwrap();
        assert_eq!(c.receive().unwrap().kind(), kind::IC_RESP);
        let o = &self.client.options;
        let hello = match stage {
            Stage::Greeted(_) => return (c, None),
            Stage::Admin(_) => connect(0, &o.connect_data(0xffff)),
            _ => {
                // Numbers of queues that are gone come free a moment later: take each in turn.
                let qid = self.next_qid.fetch_add(1, Ordering::Relaxed) % 128 + 1;
                connect(qid, &o.connect_data(self.client.cntlid))
            }
        };
        c.send(&with_digests(&hello, dgst).0).unwrap();
        assert!(status_of(&c.receive().unwrap()).is_some_and(|s| s.is_success()), "{stage:?} is reached");
        if !matches!(stage, Stage::Asked(_)) {
            return (c, None);
        }
        c.send(&with_digests(&write_asked(), dgst).0).unwrap();
        let r2t = c.receive().unwrap();
        assert_eq!(r2t.kind(), kind::R2T);
        (c, r2t.as_a())
    }
}

/// A write of 16 KiB under CID 7 whose data is to be asked for.
pub fn write_asked() -> Raw {
    let mut sqe = io(op::WRITE, BIG.nsid, 0, 4).sqe;
    sqe.cid.set(7);
    sqe.sgl = Sgl::transport(16384);
    capsule(&sqe, &[])
}

/// A write of one block under CID 8 with its data in the capsule.
pub fn write_inside() -> Raw {
    let mut sqe = io(op::WRITE, BIG.nsid, 0, 1).sqe;
    sqe.cid.set(8);
    sqe.sgl = Sgl::in_capsule(0, 4096);
    capsule(&sqe, &[3; 4096])
}

/// The status, when it is a response capsule.
pub fn status_of(pdu: &Pdu) -> Option<Status> {
    (pdu.kind() == kind::CAPSULE_RESP).then(|| pdu.as_a::<CapsuleResp>().map(|r| r.cqe.status()))?
}

/// An H2CTermReq.
pub fn term_req() -> Vec<u8> {
    let mut t = vec![0; 24];
    t[0] = kind::H2C_TERM_REQ;
    t[2] = 24;
    t[4] = 24;
    t[8] = 1;
    t
}
