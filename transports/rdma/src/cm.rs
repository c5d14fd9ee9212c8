//! What a connection request says, and the answer (RDMA, "Connection Management", private data figures).

use caisson_wire::rdma::{CmAccept, CmReject, CmRequest, CmStatus, RECFMT};
use caisson_wire::zerocopy::little_endian::U16;
use caisson_wire::zerocopy::{FromBytes, IntoBytes};

/// The most entries of an admin queue's send queue that are served: more than any host has.
pub const ADMIN_DEPTH: u16 = 128;

/// What the target and its device can serve.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands in hand on an I/O queue (the largest queue that Connect may make).
    pub depth: u16,
    /// The largest queue id.
    pub queues: u16,
    /// RDMA READs that the device has on their way on one queue pair (its `max_qp_init_rd_atom`).
    pub reads: u8,
}

/// A request that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The queue id; Connect says it again and is believed.
    pub qid: u16,
    /// Commands that the host may have on their way.
    pub depth: u16,
    /// Responses that the host has room for.
    pub responses: u16,
    /// RDMA READs that we may have on their way: the `initiator_depth` to accept with.
    pub reads: u8,
}

/// Judges a request: its private data, and how many RDMA READs the host says it takes (`initiator_depth` of the event, as the
/// connection manager turns it round for us).
///
/// The data may be longer than the figure says: the connection manager pads it.
///
/// # Errors
/// The status to reject with.
pub fn judge(private: &[u8], host_takes_reads: u8, limits: &Limits) -> Result<Accepted, CmStatus> {
    let Ok((r, _)) = CmRequest::read_from_prefix(private) else { return Err(CmStatus::InvalidLength) };
    if r.recfmt.get() != RECFMT {
        return Err(CmStatus::InvalidRecfmt);
    }
    let qid = r.qid.get();
    if qid > limits.queues {
        return Err(CmStatus::InvalidQid);
    }
    let most = if qid == 0 { ADMIN_DEPTH } else { limits.depth };
    // 0's based. A queue has at least two entries (Base 2.1, 3.3.3.1).
    let depth = u32::from(r.hsqsize.get()) + 1;
    if depth < 2 || depth > u32::from(most) {
        return Err(CmStatus::InvalidHsqsize);
    }
    if r.hrqsize.get() == 0 {
        return Err(CmStatus::InvalidHrqsize);
    }
    // Without an RDMA READ no Connect data could be fetched. The event's number is what the host takes at once; it is never
    // what it sends, which is no business of ours: nobody reads from us.
    let reads = host_takes_reads.min(limits.reads);
    if reads == 0 {
        return Err(CmStatus::InvalidIrd);
    }
    Ok(Accepted { qid, depth: depth as u16, responses: r.hrqsize.get(), reads })
}

/// The private data to accept with.
pub fn accept(accepted: &Accepted) -> [u8; 32] {
    let data =
        CmAccept { recfmt: U16::new(RECFMT), crqsize: U16::new(accepted.depth), ..CmAccept::default() };
    let mut out = [0; 32];
    out.copy_from_slice(data.as_bytes());
    out
}

/// The private data to reject with.
pub fn reject(status: CmStatus) -> [u8; 4] {
    let data = CmReject { recfmt: U16::new(RECFMT), sts: U16::new(status as u16) };
    let mut out = [0; 4];
    out.copy_from_slice(data.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { depth: 1024, queues: 128, reads: 16 };

    fn request(qid: u16, hrqsize: u16, hsqsize: u16) -> CmRequest {
        CmRequest {
            qid: U16::new(qid),
            hrqsize: U16::new(hrqsize),
            hsqsize: U16::new(hsqsize),
            ..CmRequest::default()
        }
    }

    /// As Linux asks: 32 entries for the admin queue, 128 for the others, 128 RDMA READs taken.
    #[test]
    fn the_kernels_requests_are_served() {
        let admin = judge(request(0, 32, 31).as_bytes(), 128, &LIMITS).unwrap();
        assert_eq!(admin, Accepted { qid: 0, depth: 32, responses: 32, reads: 16 });
        let io = judge(&[request(3, 128, 127).as_bytes(), &[0; 24]].concat(), 8, &LIMITS).unwrap();
        assert_eq!(io, Accepted { qid: 3, depth: 128, responses: 128, reads: 8 });
        assert_eq!(accept(&io)[..6], [0, 0, 128, 0, 0, 0]);
    }

    #[test]
    fn each_fault_has_its_status() {
        let ok = request(1, 128, 127);
        let with = |change: &dyn Fn(&mut CmRequest)| {
            let mut r = ok;
            change(&mut r);
            judge(r.as_bytes(), 16, &LIMITS)
        };
        let short = judge(&ok.as_bytes()[..31], 16, &LIMITS);
        let rows = [
            (short, CmStatus::InvalidLength),
            (judge(&[], 16, &LIMITS), CmStatus::InvalidLength),
            (with(&|r| r.recfmt = U16::new(1)), CmStatus::InvalidRecfmt),
            (with(&|r| r.qid = U16::new(129)), CmStatus::InvalidQid),
            (with(&|r| r.hsqsize = U16::new(0)), CmStatus::InvalidHsqsize),
            (with(&|r| r.hsqsize = U16::new(1024)), CmStatus::InvalidHsqsize),
            (with(&|r| r.hsqsize = U16::new(u16::MAX)), CmStatus::InvalidHsqsize),
            (judge(request(0, 32, ADMIN_DEPTH).as_bytes(), 16, &LIMITS), CmStatus::InvalidHsqsize),
            (with(&|r| r.hrqsize = U16::new(0)), CmStatus::InvalidHrqsize),
            (judge(ok.as_bytes(), 0, &LIMITS), CmStatus::InvalidIrd),
        ];
        for (got, want) in rows {
            assert_eq!(got, Err(want));
            assert_eq!(reject(want), [0, 0, want as u8, 0]);
        }
        assert!(with(&|r| r.hsqsize = U16::new(1023)).is_ok() && with(&|r| r.qid = U16::new(128)).is_ok());
    }
}
