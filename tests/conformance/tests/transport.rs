//! What the target itself sends: ICResp, alignment, digests, R2Ts within the host's limit, data in order, terminations
//! (TCP 1.1, 3.3 to 3.6).

use caisson_conformance::pdu::{Raw, capsule, connect, h2c_data, icreq, with_digests};
use caisson_conformance::subject::{BIG, Subject, bytes, io};
use caisson_daemon::reactor::Limits;
use caisson_initiator::transport::{Greeting, Pdu, RawConn, crc32c};
use caisson_initiator::{Client, Data};
use caisson_wire::opcode::io as op;
use caisson_wire::pdu::{CapsuleResp, CommonHeader, DataPdu, IcResp, R2t, TermReq, flag, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::{Sgl, Sqe, Status};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// An I/O queue without anything between the test and its PDUs.
struct Bare {
    conn: RawConn,
    icresp: IcResp,
    dgst: u8,
    _client: Client,
}

impl Bare {
    fn open(s: &Subject, greeting: Greeting) -> Bare {
        let client = s.client();
        let mut conn = RawConn::connect(&s.address, WAIT).unwrap();
        let icresp = conn.greet(greeting).unwrap();
        let mut bare = Bare { conn, icresp, dgst: icresp.dgst, _client: client };
        let data = bare._client.options.connect_data(bare._client.cntlid);
        bare.send(&connect(1, &data));
        let done: CapsuleResp = bare.receive().as_a().unwrap();
        assert!(done.cqe.status().is_success());
        bare
    }

    fn send(&mut self, raw: &Raw) {
        self.conn.send(&with_digests(raw, self.dgst).0).unwrap();
    }

    /// The next PDU, its digests checked, and its lengths.
    fn receive(&mut self) -> Pdu {
        let pdu = self.conn.receive().unwrap();
        let ch: CommonHeader = pdu.as_a().unwrap();
        let hlen = usize::from(ch.hlen);
        assert_eq!(ch.flags & flag::HDGST != 0, self.dgst & 1 != 0, "HDGSTF as agreed: {ch:?}");
        let mut end = hlen;
        if self.dgst & 1 != 0 {
            end += 4;
            assert_eq!(pdu.0[hlen..end], crc32c(&pdu.0[..hlen]).to_le_bytes(), "the header digest");
        }
        if ch.kind == kind::C2H_DATA {
            let h: DataPdu = pdu.as_a().unwrap();
            let (at, len) = (usize::from(ch.pdo), h.datal.get() as usize);
            assert!(at >= end, "PDO {at} is behind the header");
            assert!(pdu.0[end..at].iter().all(|&b| b == 0), "padding is zero");
            assert_eq!(ch.flags & flag::DDGST != 0, self.dgst & 2 != 0, "DDGSTF as agreed");
            end = at + len;
            if self.dgst & 2 != 0 {
                assert_eq!(pdu.0[end..], crc32c(&pdu.0[at..end]).to_le_bytes(), "the data digest");
                end += 4;
            }
        } else {
            assert_eq!(ch.pdo, 0, "PDO without data");
            assert_eq!(ch.flags & flag::DDGST, 0, "DDGSTF without data");
        }
        assert_eq!(pdu.0.len(), end, "PLEN is what the PDU holds");
        pdu
    }

    fn command(&mut self, opcode: u8, cid: u16, blocks: u32, sgl: Sgl) -> Sqe {
        let mut sqe = io(opcode, BIG.nsid, 0, blocks).sqe;
        sqe.cid.set(cid);
        sqe.sgl = sgl;
        self.send(&capsule(&sqe, &[]));
        sqe
    }

    /// Reads `blocks` blocks; the data, and the PDO of each piece.
    fn read(&mut self, cid: u16, blocks: u32) -> (Vec<u8>, Vec<u8>) {
        let len = blocks * 4096;
        self.command(op::READ, cid, blocks, Sgl::transport(len));
        let (mut data, mut pdos) = (Vec::new(), Vec::new());
        loop {
            let pdu = self.receive();
            if pdu.kind() == kind::CAPSULE_RESP {
                let done: CapsuleResp = pdu.as_a().unwrap();
                assert_eq!(done.cqe.status(), Status::SUCCESS);
                assert_eq!(done.cqe.cid.get(), cid);
                break;
            }
            let h: DataPdu = pdu.as_a().unwrap();
            assert_eq!((h.cccid.get(), h.datao.get() as usize), (cid, data.len()), "data comes in order");
            let at = usize::from(h.ch.pdo);
            data.extend_from_slice(&pdu.0[at..at + h.datal.get() as usize]);
            pdos.push(h.ch.pdo);
            let last = h.ch.flags & flag::LAST != 0;
            assert_eq!(last, data.len() == len as usize, "LAST_PDU is on the last one");
            if h.ch.flags & flag::SUCCESS != 0 {
                assert!(last, "SUCCESS comes with LAST_PDU");
                break;
            }
        }
        (data, pdos)
    }
}

/// Puts data where the reads of these tests find it.
fn filled(s: &Subject, len: usize) -> Vec<u8> {
    let (_client, mut q) = s.queue();
    let data = bytes(11, len);
    let done = q.run(io(op::WRITE, BIG.nsid, 0, len as u32 / 4096).with(Data::Out(data.clone()))).unwrap();
    assert!(done.status().is_success());
    data
}

#[test]
fn icresp_is_as_it_must_be() {
    let s = Subject::start();
    for dgst in 0..4u8 {
        let mut c = RawConn::connect(&s.address, WAIT).unwrap();
        c.send(&icreq(dgst).0).unwrap();
        let r: IcResp = c.receive().unwrap().as_a().unwrap();
        assert_eq!((r.ch.kind, r.ch.flags, r.ch.hlen, r.ch.pdo, r.ch.plen.get()), (1, 0, 128, 0, 128));
        assert_eq!((r.pfv.get(), r.dgst), (0, dgst), "digests are given to who asks for them");
        assert!(r.cpda <= 31 && r.maxh2cdata.get() >= 4096 && r.maxh2cdata.get().is_multiple_of(4));
        assert!(r.rsvd.iter().all(|&b| b == 0), "reserved bytes are zero");
    }
}

#[test]
fn data_is_aligned_as_the_host_asks() {
    let s = Subject::start();
    let data = filled(&s, 1 << 20);
    for digests in 0..4u8 {
        for hpda in [0u8, 1, 2, 7, 15, 31] {
            let greeting = Greeting {
                header_digest: digests & 1 != 0,
                data_digest: digests & 2 != 0,
                hpda,
                ..Greeting::default()
            };
            let mut q = Bare::open(&s, greeting);
            for (cid, blocks) in [(1, 1), (2, 3), (3, 32), (4, 256)] {
                let (got, pdos) = q.read(cid, blocks);
                assert!(got == data[..got.len()] && got.len() == blocks as usize * 4096);
                let align = (hpda + 1) * 4;
                assert!(pdos.iter().all(|pdo| pdo.is_multiple_of(align)), "HPDA {hpda}: PDO {pdos:?}");
            }
        }
    }
}

#[test]
fn r2ts_stay_within_the_hosts_limit_and_cover_the_data() {
    // By default one R2T asks for all that a command may carry: here eight are needed.
    let mut limits = Limits::default();
    (limits.session.max_h2c, limits.session.max_r2t) = (128 << 10, 128 << 10);
    let s = Subject::with(limits);
    for max_r2t in [0u32, 1, 3, 255, u32::MAX] {
        let mut q = Bare::open(&s, Greeting { max_r2t, ..Greeting::default() });
        let piece = q.icresp.maxh2cdata.get();
        let (total, data) = (1u32 << 20, bytes(u64::from(max_r2t), 1 << 20));
        q.command(op::WRITE, 9, 256, Sgl::transport(total));
        // Unanswered, as many as the limit come, and then no more.
        let most = (u64::from(max_r2t) + 1).min(8) as usize;
        let mut out: Vec<R2t> = Vec::new();
        let r2t = |pdu: Pdu| {
            assert_eq!(pdu.kind(), kind::R2T, "MAXR2T {max_r2t}");
            pdu.as_a().unwrap()
        };
        while out.len() < most {
            out.push(r2t(q.conn.receive().unwrap()));
        }
        q.conn.set_timeout(Duration::from_millis(150));
        if let Ok(pdu) = q.conn.receive() {
            panic!("MAXR2T {max_r2t}: PDU type {:#x} after {most} R2Ts", pdu.kind());
        }
        q.conn.set_timeout(WAIT);
        let mut next = 0;
        let mut at = 0;
        while at < out.len() {
            let r = out[at];
            at += 1;
            assert_eq!((r.cccid.get(), r.r2to.get()), (9, next), "R2Ts follow each other");
            next += r.r2tl.get();
            assert!(next <= total && r.r2tl.get() > 0);
            assert!(r.r2tl.get() <= piece, "Linux before 5.18 sends all that an R2T asks for in one PDU");
            let mut sent = 0;
            while sent < r.r2tl.get() {
                let n = piece.min(r.r2tl.get() - sent);
                let from = r.r2to.get() + sent;
                let last = if sent + n == r.r2tl.get() { flag::LAST } else { 0 };
                q.send(&h2c_data(9, r.ttag.get(), from, last, &data[from as usize..(from + n) as usize]));
                sent += n;
            }
            if at == out.len() {
                let pdu = q.receive();
                match pdu.kind() {
                    kind::R2T => out.push(pdu.as_a().unwrap()),
                    kind::CAPSULE_RESP => {
                        let done: CapsuleResp = pdu.as_a().unwrap();
                        assert!(done.cqe.status().is_success());
                        break;
                    }
                    other => panic!("PDU type {other:#x}"),
                }
            }
        }
        assert_eq!(next, total, "all of it was asked for");
        assert!(q.read(10, 256).0 == data, "MAXR2T {max_r2t}: the data is what was sent");
    }
}

#[test]
fn transfers_of_many_commands_are_interleaved_at_will() {
    let s = Subject::start();
    let mut q = Bare::open(&s, Greeting { max_r2t: 3, ..Greeting::default() });
    let mut waiting = Vec::new();
    for cid in 0..16u16 {
        let mut sqe = io(op::WRITE, BIG.nsid, u64::from(cid) * 4, 4).sqe;
        sqe.cid.set(cid);
        sqe.sgl = Sgl::transport(16384);
        q.send(&capsule(&sqe, &[]));
    }
    while waiting.len() < 16 {
        waiting.push(q.receive().as_a::<R2t>().unwrap());
    }
    // Answered from the last to the first, in halves that alternate between commands.
    let data = |cid: u16| bytes(u64::from(cid) + 50, 16384);
    for half in 0..2u32 {
        for r in waiting.iter().rev() {
            assert_eq!((r.r2to.get(), r.r2tl.get()), (0, 16384));
            let (from, to) = (half as usize * 8192, half as usize * 8192 + 8192);
            let last = if half == 1 { flag::LAST } else { 0 };
            q.send(&h2c_data(r.cccid.get(), r.ttag.get(), half * 8192, last, &data(r.cccid.get())[from..to]));
        }
    }
    let mut done: Vec<u16> =
        (0..16).map(|_| q.receive().as_a::<CapsuleResp>().unwrap().cqe.cid.get()).collect();
    done.sort_unstable();
    assert_eq!(done, (0..16).collect::<Vec<_>>());
    let all: Vec<u8> = (0..16).flat_map(data).collect();
    assert!(q.read(99, 64).0 == all);
}

#[test]
fn terminations_show_the_header_in_error() {
    let s = Subject::start();
    let mut q = Bare::open(&s, Greeting::default());
    let mut sqe = io(op::READ, BIG.nsid, 0, 1).sqe;
    sqe.cid.set(0x1234);
    let bad = capsule(&sqe, &[]).byte(2, 70);
    q.conn.send(&bad.0).unwrap();
    let all = q.conn.until_closed().unwrap();
    let term = all.last().expect("a termination request comes");
    let t: TermReq = term.as_a().unwrap();
    assert_eq!((t.ch.kind, t.ch.hlen, t.fes.get(), t.fei()), (kind::C2H_TERM_REQ, 24, 1, 2));
    assert_eq!(term.0.len(), t.ch.plen.get() as usize);
    assert!((25..=152).contains(&term.0.len()), "with part of the header, and no more than 152 bytes");
    assert_eq!(term.0[24..32], bad.0[..8], "it is the header that was sent");
    assert!(t.as_bytes()[14..24].iter().all(|&b| b == 0), "reserved bytes are zero");
}
