//! What a hostile or broken controller may send to the host's side, and what it gets.

mod common;

use caisson_block::{Buf, BufList};
use caisson_tcp::Fatal;
use caisson_tcp::host::{CommandError, Config, Event, Session, Transfer};
use caisson_wire::opcode::io;
use caisson_wire::pdu::{CapsuleResp, DataPdu, Fes, IcResp, R2t, flag, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Cqe, Sgl, Status};
use common::{NOW, ch, pdus, seal, sqe, term};

fn ic_resp(pfv: u16, cpda: u8, dgst: u8, maxh2cdata: u32) -> Vec<u8> {
    IcResp {
        ch: ch(kind::IC_RESP, 0, 128, 0, 128),
        pfv: U16::new(pfv),
        cpda,
        dgst,
        maxh2cdata: U32::new(maxh2cdata),
        rsvd: [0; 112],
    }
    .as_bytes()
    .to_vec()
}

fn c2h(cid: u16, offset: u32, data: &[u8], flags: u8, dgst: u8) -> Vec<u8> {
    let header = DataPdu {
        ch: ch(kind::C2H_DATA, 0, 0, 0, 0),
        cccid: U16::new(cid),
        ttag: U16::new(0),
        datao: U32::new(offset),
        datal: U32::new(data.len() as u32),
        rsvd: [0; 4],
    };
    seal(header.as_bytes(), data, dgst, 4, flags)
}

fn r2t(cid: u16, ttag: u16, offset: u32, len: u32, dgst: u8) -> Vec<u8> {
    let header = R2t {
        ch: ch(kind::R2T, 0, 0, 0, 0),
        cccid: U16::new(cid),
        ttag: U16::new(ttag),
        r2to: U32::new(offset),
        r2tl: U32::new(len),
        rsvd: [0; 4],
    };
    seal(header.as_bytes(), &[], dgst, 4, 0)
}

fn response(cqe: Cqe, dgst: u8) -> Vec<u8> {
    seal(CapsuleResp { ch: ch(kind::CAPSULE_RESP, 0, 0, 0, 0), cqe }.as_bytes(), &[], dgst, 4, 0)
}

/// Ready, with a read of 4,096 bytes (CID 1) and a write of 20,000 (CID 2) out.
fn ready(dgst: u8) -> Session {
    let config = Config { header_digest: dgst & 1 != 0, data_digest: dgst & 2 != 0, ..Config::default() };
    let mut s = Session::new(config, NOW);
    let none = Sgl::default();
    assert_eq!(s.command(sqe(io::FLUSH, 0, none), Transfer::None), Err(CommandError::NotReady));
    assert_eq!(s.tx().drain().len(), 128);
    s.receive(Buf::from(ic_resp(0, 0, dgst, 8192)));
    assert!(matches!(s.next(NOW), Some(Event::Ready { max_h2c: 8192, .. })));
    s.command(sqe(io::READ, 1, none), Transfer::In(4096)).unwrap();
    assert_eq!(s.command(sqe(io::FLUSH, 1, none), Transfer::None), Err(CommandError::CidInUse(1)));
    let data: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
    s.command(sqe(io::WRITE, 2, none), Transfer::Out(data.into())).unwrap();
    s.tx().drain();
    s
}

fn events(s: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| s.next(NOW)).collect()
}

#[test]
fn fatal_rows() {
    use Fes::*;
    let k = vec![0u8; 4096];
    let with = |mut b: Vec<u8>, at: usize, v: u8| {
        b[at] = v;
        b
    };
    let rows: Vec<(&str, u8, Vec<u8>, Fes, u32)> = vec![
        ("second ICResp", 0, ic_resp(0, 0, 0, 8192), SequenceError, 0),
        ("ICReq", 0, with(ic_resp(0, 0, 0, 8192), 0, kind::IC_REQ), InvalidHeaderField, 0),
        (
            "a capsule",
            0,
            with(response(Cqe::new(1, Status::SUCCESS), 0), 0, kind::CAPSULE_CMD),
            InvalidHeaderField,
            0,
        ),
        ("type FFh", 0, vec![0xff; 8], InvalidHeaderField, 0),
        ("response to nothing", 0, response(Cqe::new(3, Status::SUCCESS), 0), InvalidHeaderField, 20),
        ("response to FFFFh", 0, response(Cqe::new(0xffff, Status::SUCCESS), 0), InvalidHeaderField, 20),
        ("response HLEN", 0, with(response(Cqe::new(1, Status::SUCCESS), 0), 2, 25), InvalidHeaderField, 2),
        ("response PLEN", 0, with(response(Cqe::new(1, Status::SUCCESS), 0), 4, 25), InvalidHeaderField, 4),
        ("response without HDGSTF", 1, response(Cqe::new(1, Status::SUCCESS), 0), InvalidHeaderField, 1),
        ("data for nothing", 0, c2h(3, 0, &k, 0, 0), InvalidHeaderField, 8),
        ("data for a write", 0, c2h(2, 0, &k, 0, 0), DataTransferOutOfRange, 0),
        ("too much data", 0, c2h(1, 0, &[0; 4100], 0, 0), DataTransferOutOfRange, 0),
        ("data past the end", 0, c2h(1, 4, &k, 0, 0), DataTransferOutOfRange, 0),
        ("data at FFFFFFFCh", 0, c2h(1, 0xffff_fffc, &k, 0, 0), DataTransferOutOfRange, 0),
        ("data out of order", 0, c2h(1, 4, &k[..4], 0, 0), InvalidHeaderField, 12),
        ("no data", 0, c2h(1, 0, &[], 0, 0), InvalidHeaderField, 16),
        ("DATAL", 0, with(c2h(1, 0, &k, 0, 0), 16, 4), InvalidHeaderField, 16),
        ("SUCCESS without LAST_PDU", 0, c2h(1, 0, &k, flag::SUCCESS, 0), InvalidHeaderField, 1),
        ("R2T for nothing", 0, r2t(3, 0, 0, 4096, 0), InvalidHeaderField, 8),
        ("R2T for a read", 0, r2t(1, 0, 0, 4096, 0), DataTransferOutOfRange, 0),
        ("R2T of nothing", 0, r2t(2, 0, 0, 0, 0), InvalidHeaderField, 16),
        ("R2T of too much", 0, r2t(2, 0, 0, 20_001, 0), DataTransferOutOfRange, 0),
        ("R2T past the end", 0, r2t(2, 0, u32::MAX, u32::MAX, 0), DataTransferOutOfRange, 0),
        ("R2T out of order", 0, r2t(2, 0, 4096, 4096, 0), InvalidHeaderField, 12),
    ];
    for (name, dgst, bytes, fes, fei) in rows {
        let mut s = ready(dgst);
        s.receive(Buf::from(bytes.clone()));
        assert!(events(&mut s).is_empty(), "{name}");
        match s.closing() {
            Some(Fatal::Protocol { fes: f, fei: i, .. }) => assert_eq!((*f, *i), (fes, fei), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        let (f, i, shown) = term(&s.tx().drain()).expect(name);
        assert_eq!((f, i), (fes as u16, fei), "{name}");
        assert!(bytes.starts_with(&shown));
    }
    for (bytes, fes, fei) in [
        (ic_resp(1, 0, 0, 8192), UnsupportedParameter, 8),
        (ic_resp(0, 32, 0, 8192), InvalidHeaderField, 10),
        (ic_resp(0, 0, 1, 8192), InvalidHeaderField, 11),
        (ic_resp(0, 0, 0, 4092), InvalidHeaderField, 12),
        (ic_resp(0, 0, 0, 8193), InvalidHeaderField, 12),
        (response(Cqe::new(0, Status::SUCCESS), 0), SequenceError, 0),
    ] {
        let mut s = Session::new(Config::default(), NOW);
        s.receive(Buf::from(bytes));
        assert!(events(&mut s).is_empty());
        assert!(
            matches!(s.closing(), Some(Fatal::Protocol { fes: f, fei: i, .. }) if (*f, *i) == (fes, fei))
        );
    }
}

/// One R2T twice would make the host send its data twice without end.
#[test]
fn an_r2t_is_answered_once_and_split_by_maxh2cdata() {
    let mut s = ready(2);
    s.receive(Buf::from(r2t(2, 7, 0, 20_000, 0)));
    assert!(events(&mut s).is_empty() && s.closing().is_none());
    let sent = s.tx().drain();
    let pdus = pdus(&sent);
    let fields: Vec<_> = pdus.iter().map(|p| (p[0], p[1], p[8], p[10], p.len())).collect();
    let h = kind::H2C_DATA;
    assert_eq!(fields, [(h, 2, 2, 7, 8220), (h, 2, 2, 7, 8220), (h, 2 | flag::LAST, 2, 7, 3644)]);
    let data: Vec<u8> = pdus.iter().flat_map(|p| p[24..p.len() - 4].to_vec()).collect();
    assert_eq!(data, (0..20_000u32).map(|i| i as u8).collect::<Vec<_>>());
    s.receive(Buf::from(r2t(2, 7, 0, 20_000, 0)));
    assert!(events(&mut s).is_empty() && s.closing().is_some());
}

/// SUCCESS completes the command; so does a response after data; a wrong data digest is the command's error.
#[test]
fn completions() {
    for dgst in [0, 3] {
        for (success, damaged) in [(true, false), (false, false), (true, true), (false, true)] {
            if damaged && dgst == 0 {
                continue;
            }
            let mut s = ready(dgst);
            let mut bytes = c2h(1, 0, &[3; 1024], 0, dgst);
            let last = flag::LAST | if success { flag::SUCCESS } else { 0 };
            bytes.extend(c2h(1, 1024, &[3; 3072], last, dgst));
            if damaged {
                bytes[500] ^= 1;
            }
            if !success {
                bytes.extend(response(Cqe::new(1, Status::SUCCESS).with_result(9), dgst));
            }
            s.receive(Buf::from(bytes));
            let got = events(&mut s);
            let [
                Event::Data { cid: 1, offset: 0, .. },
                Event::Data { offset: 1024, .. },
                Event::Completed { cid: 1, cqe, received: 4096 },
            ] = &got[..]
            else {
                panic!("{got:?}")
            };
            let want = if damaged { Status::TRANSIENT_TRANSPORT_ERROR } else { Status::SUCCESS };
            assert_eq!(cqe.status(), want);
            assert_eq!(cqe.result(), if success { 0 } else { 9 });
            assert_eq!(s.in_flight(), 1);
            s.command(sqe(io::FLUSH, 1, Sgl::default()), Transfer::None).unwrap();
        }
    }
}

#[test]
fn as_is_sends_what_it_is_given() {
    let mut s = ready(0);
    let odd = sqe(io::WRITE, 40, Sgl { id: 0xff, ..Sgl::in_capsule(3, 5) });
    s.command_as_is(odd, vec![1, 2, 3].into(), 0, BufList::new()).unwrap();
    let sent = s.tx().drain();
    assert_eq!(&sent[8..72], odd.as_bytes());
    assert_eq!((&sent[72..], sent[3], sent[4]), (&[1u8, 2, 3][..], 72, 75));
}
