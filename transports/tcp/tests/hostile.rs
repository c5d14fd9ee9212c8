//! What a hostile or broken host may send, and what it gets: a table of PDUs, each with the fatal error it must meet
//! (status and byte offset), or the command status where the error is not fatal.

mod common;

use caisson_block::{Buf, BufList, Completions};
use caisson_tcp::Fatal;
use caisson_tcp::controller::{Config, Event, Payload, Session};
use caisson_wire::opcode::{self, io};
use caisson_wire::pdu::{Fes, kind};
use caisson_wire::zerocopy::little_endian::{U16, U32, U64};
use caisson_wire::{Cqe, Sgl, Sqe, Status};
use common::*;

/// The same bytes with byte `at` set.
fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

/// The same bytes with PLEN set.
fn plen(mut bytes: Vec<u8>, value: u32) -> Vec<u8> {
    bytes[4..8].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn flush() -> Vec<u8> {
    capsule(sqe(io::FLUSH, 1, Sgl::transport(0)), &[], 0)
}

/// A write of 100 bytes in the capsule.
fn write() -> Vec<u8> {
    capsule(sqe(io::WRITE, 1, Sgl::in_capsule(0, 100)), &[7; 100], 0)
}

/// A connection with a write of 64 KiB pulled: CID 9, TTAG 0.
fn pulling(dgst: u8, spare: &mut Completions) -> Session {
    let mut s = ready(Config { max_h2c: 32768, ..Config::default() }, dgst, 0, spare);
    s.receive(Buf::from(capsule(sqe(io::WRITE, 9, Sgl::transport(65536)), &[], dgst)));
    let Some(Event::Command { slot, payload: Payload::Transport { len: 65536 }, .. }) = s.next(NOW, spare)
    else {
        panic!("the command comes with its length")
    };
    assert!(s.pull(slot, 65536, NOW));
    assert_eq!(r2ts(&s.tx().drain()), [(9, 0, 0, 65536)]);
    s
}

fn expect_fatal(name: &str, mut s: Session, bytes: Vec<u8>, fes: Fes, fei: u32, spare: &mut Completions) {
    s.receive(Buf::from(bytes.clone()));
    let got = events(&mut s, spare);
    assert!(got.is_empty(), "{name}: no event, got {got:?}");
    match s.closing() {
        Some(Fatal::Protocol { fes: f, fei: i, .. }) => assert_eq!((*f, *i), (fes, fei), "{name}"),
        other => panic!("{name}: {other:?}"),
    }
    let (f, i, shown) = term(&s.tx().drain()).unwrap_or_else(|| panic!("{name}: no C2HTermReq"));
    assert_eq!((f, i), (fes as u16, fei), "{name}: as sent");
    assert!(bytes.starts_with(&shown) && shown.len() >= 8, "{name}: shows the header in error");
    // Nothing more is taken, whatever comes.
    s.receive(Buf::from(flush()));
    assert!(events(&mut s, spare).is_empty() && s.tx().is_empty() && s.deadline().is_none(), "{name}");
}

#[test]
fn fatal_before_the_handshake() {
    use Fes::*;
    let good = ic_req(0, 0, 3, 0);
    let rows: Vec<(&str, Vec<u8>, Fes, u32)> = vec![
        ("PFV 1", ic_req(1, 0, 0, 0), UnsupportedParameter, 8),
        ("PFV FFFFh", ic_req(0xffff, 0, 0, 0), UnsupportedParameter, 8),
        ("HPDA 32", ic_req(0, 32, 0, 0), InvalidHeaderField, 10),
        ("HPDA 255", ic_req(0, 255, 0, 0), InvalidHeaderField, 10),
        ("HLEN 0", with(good.clone(), 2, 0), InvalidHeaderField, 2),
        ("HLEN 127", with(good.clone(), 2, 127), InvalidHeaderField, 2),
        ("HLEN 255", with(good.clone(), 2, 255), InvalidHeaderField, 2),
        ("PLEN 0", plen(good.clone(), 0), InvalidHeaderField, 4),
        ("PLEN 127", plen(good.clone(), 127), InvalidHeaderField, 4),
        ("PLEN 129", plen(good.clone(), 129), InvalidHeaderField, 4),
        ("PLEN FFFFFFFFh", plen(good.clone(), u32::MAX), InvalidHeaderField, 4),
        ("a capsule first", flush(), SequenceError, 0),
        ("data first", h2c(0, 0, 0, &[0; 4], true, 0), SequenceError, 0),
        ("ICResp", with(good.clone(), 0, kind::IC_RESP), InvalidHeaderField, 0),
        ("C2HTermReq", with(good.clone(), 0, kind::C2H_TERM_REQ), InvalidHeaderField, 0),
        ("type 08h", with(good.clone(), 0, 8), InvalidHeaderField, 0),
        ("type FFh", with(good, 0, 0xff), InvalidHeaderField, 0),
    ];
    let mut spare = Completions::default();
    for (name, bytes, fes, fei) in rows {
        expect_fatal(name, Session::new(Config::default(), NOW), bytes, fes, fei, &mut spare);
    }
}

#[test]
fn fatal_capsules() {
    use Fes::*;
    let mut spare = Completions::default();
    let big = capsule(sqe(io::WRITE, 1, Sgl::in_capsule(0, 16388)), &[0; 16388], 0);
    let rows: Vec<(&str, Vec<u8>, u8, Fes, u32)> = vec![
        ("second ICReq", ic_req(0, 0, 0, 0), 0, SequenceError, 0),
        ("CapsuleResp", with(flush(), 0, kind::CAPSULE_RESP), 0, InvalidHeaderField, 0),
        ("C2HData", with(flush(), 0, kind::C2H_DATA), 0, InvalidHeaderField, 0),
        ("R2T", with(flush(), 0, kind::R2T), 0, InvalidHeaderField, 0),
        ("KDReq", with(flush(), 0, 0x0a), 0, InvalidHeaderField, 0),
        ("HLEN 71", with(flush(), 2, 71), 0, InvalidHeaderField, 2),
        ("HLEN 8", with(flush(), 2, 8), 0, InvalidHeaderField, 2),
        ("PLEN 71", plen(flush(), 71), 0, InvalidHeaderField, 4),
        ("PLEN 8", plen(flush(), 8), 0, InvalidHeaderField, 4),
        ("PLEN 0", plen(flush(), 0), 0, InvalidHeaderField, 4),
        ("data without PDO", with(write(), 3, 0), 0, InvalidHeaderField, 3),
        ("PDO in the header", with(write(), 3, 68), 0, InvalidHeaderField, 3),
        ("PDO not in dwords", with(write(), 3, 74), 0, InvalidHeaderField, 3),
        ("PDO past the end", with(write(), 3, 176), 0, InvalidHeaderField, 4),
        ("HDGSTF unasked", with(flush(), 1, 1), 0, InvalidHeaderField, 1),
        ("DDGSTF unasked", with(write(), 1, 2), 0, InvalidHeaderField, 1),
        ("16,388 bytes in the capsule", big, 0, InvalidHeaderField, 4),
        ("4 GiB in the capsule", plen(write(), u32::MAX), 0, InvalidHeaderField, 4),
        ("no HDGSTF", flush(), 1, InvalidHeaderField, 1),
        (
            "no DDGSTF",
            with(capsule(sqe(io::WRITE, 1, Sgl::in_capsule(0, 4)), &[0; 4], 3), 1, 1),
            3,
            InvalidHeaderField,
            1,
        ),
        ("no room for the digest", plen(with(flush(), 1, 1), 72), 1, InvalidHeaderField, 4),
    ];
    for (name, bytes, dgst, fes, fei) in rows {
        let s = ready(Config::default(), dgst, 0, &mut spare);
        expect_fatal(name, s, bytes, fes, fei, &mut spare);
    }
    // A header digest that is wrong by any bit of the header or of itself; FEI is the digest as received.
    let good = capsule(sqe(io::FLUSH, 1, Sgl::transport(0)), &[], 1);
    for at in 8..76 {
        let bad = with(good.clone(), at, good[at] ^ 0x10);
        let digest = u32::from_le_bytes(bad[72..76].try_into().unwrap());
        let s = ready(Config::default(), 1, 0, &mut spare);
        expect_fatal("header digest", s, bad, HeaderDigest, digest, &mut spare);
    }
    // CPDA 31: data must start at a multiple of 128.
    let s = ready(Config { cpda: 31, ..Config::default() }, 0, 0, &mut spare);
    expect_fatal("PDO 72 with CPDA 31", s, write(), InvalidHeaderField, 3, &mut spare);
}

#[test]
fn fatal_data() {
    use Fes::*;
    let mut spare = Completions::default();
    let k32 = vec![1u8; 32768];
    let good = || h2c(9, 0, 0, &k32, false, 0);
    let set32 = |mut b: Vec<u8>, at: usize, v: u32| {
        b[at..at + 4].copy_from_slice(&v.to_le_bytes());
        b
    };
    let rows: Vec<(&str, Vec<u8>, Fes, u32)> = vec![
        ("unknown TTAG", with(good(), 10, 1), InvalidHeaderField, 10),
        ("TTAG FFFFh", with(with(good(), 10, 0xff), 11, 0xff), InvalidHeaderField, 10),
        ("another CCCID", with(good(), 8, 8), InvalidHeaderField, 8),
        ("DATAO ahead", set32(good(), 12, 4), InvalidHeaderField, 12),
        ("DATAO so that it ends outside", set32(good(), 12, 32772), DataTransferOutOfRange, 0),
        ("DATAO FFFFFFFCh", set32(good(), 12, 0xffff_fffc), DataTransferOutOfRange, 0),
        ("DATAL less than the data", set32(good(), 16, 32764), InvalidHeaderField, 16),
        ("DATAL more than the data", set32(good(), 16, 32772), InvalidHeaderField, 16),
        ("DATAL FFFFFFFFh", set32(good(), 16, u32::MAX), InvalidHeaderField, 16),
        ("no data", h2c(9, 0, 0, &[], false, 0), InvalidHeaderField, 16),
        ("over MAXH2CDATA", h2c(9, 0, 0, &[0; 32772], false, 0), LimitExceeded, 0),
        ("LAST_PDU early", h2c(9, 0, 0, &k32, true, 0), InvalidHeaderField, 1),
        ("odd length in the middle", h2c(9, 0, 0, &k32[..1001], false, 0), InvalidHeaderField, 16),
        ("HLEN 72", with(good(), 2, 72), InvalidHeaderField, 2),
        ("PLEN 23", plen(good(), 23), InvalidHeaderField, 4),
        ("PDO 20", with(good(), 3, 20), InvalidHeaderField, 3),
    ];
    for (name, bytes, fes, fei) in rows {
        let s = pulling(0, &mut spare);
        expect_fatal(name, s, bytes, fes, fei, &mut spare);
    }
    let second: Vec<(&str, Vec<u8>, Fes, u32)> = vec![
        ("again", h2c(9, 0, 0, &k32, false, 0), DataTransferOutOfRange, 0),
        ("last without LAST_PDU", h2c(9, 0, 32768, &k32, false, 0), InvalidHeaderField, 1),
        ("skipping", h2c(9, 0, 36864, &k32[..4096], true, 0), InvalidHeaderField, 12),
    ];
    for (name, bytes, fes, fei) in second {
        let mut s = pulling(0, &mut spare);
        s.receive(Buf::from(good()));
        assert!(events(&mut s, &mut spare).is_empty() && s.closing().is_none());
        expect_fatal(name, s, bytes, fes, fei, &mut spare);
    }
    // A tag is good for its R2T only.
    let mut s = pulling(0, &mut spare);
    s.receive(Buf::from([good(), h2c(9, 0, 32768, &k32, true, 0)].concat()));
    assert!(
        matches!(events(&mut s, &mut spare)[..], [Event::Data { slot: 0, ref data }] if data.len() == 65536)
    );
    expect_fatal("TTAG used up", s, h2c(9, 0, 0, &k32, false, 0), InvalidHeaderField, 10, &mut spare);
}

#[test]
fn descriptors() {
    let mut spare = Completions::default();
    let sgl = |id: u8, address: u64, length: u32| Sgl {
        address: U64::new(address),
        length: U32::new(length),
        rsvd: [0; 3],
        id,
    };
    let (w, r) = (io::WRITE, io::READ);
    // Opcode, descriptor, bytes in the capsule; what comes of it: a length in the capsule, outside, none, or a status.
    enum Want {
        Inside(usize),
        Outside(u32),
        Nothing,
        Bad(Status),
    }
    use Want::*;
    let rows: Vec<(u8, Sgl, usize, Want)> = vec![
        (w, sgl(0x01, 0, 100), 100, Inside(100)),
        (w, sgl(0x01, 0, 60), 100, Inside(60)),
        (w, sgl(0x01, 40, 60), 100, Inside(60)),
        (w, sgl(0x01, 40, 61), 100, Bad(Status::INVALID_SGL_LENGTH)),
        (w, sgl(0x01, 0, 101), 100, Bad(Status::INVALID_SGL_LENGTH)),
        (w, sgl(0x01, 0, u32::MAX), 100, Bad(Status::INVALID_SGL_LENGTH)),
        (w, sgl(0x01, 100, 1), 100, Bad(Status::INVALID_SGL_OFFSET)),
        (w, sgl(0x01, u64::MAX, 4), 100, Bad(Status::INVALID_SGL_OFFSET)),
        (w, sgl(0x01, 0, 100), 0, Bad(Status::INVALID_SGL_LENGTH)),
        (w, sgl(0x01, 0, 0), 0, Nothing),
        (w, sgl(0x5a, 0, 4096), 0, Outside(4096)),
        (w, sgl(0x5a, 0, u32::MAX), 0, Outside(u32::MAX)),
        (w, sgl(0x5a, 0, 4096), 100, Outside(4096)),
        (w, sgl(0x5a, 0, 0), 0, Nothing),
        (w, sgl(0x00, 0x1000, 4096), 0, Bad(Status::INVALID_SGL_TYPE)),
        (w, sgl(0x00, 0, 0), 0, Nothing),
        (w, sgl(0x40, 0, 4096), 0, Bad(Status::INVALID_SGL_TYPE)),
        (w, sgl(0x4f, 0, 4096), 0, Bad(Status::INVALID_SGL_TYPE)),
        (w, sgl(0x0a, 0, 4096), 0, Bad(Status::INVALID_SGL_TYPE)),
        (w, sgl(0x51, 0, 4096), 0, Bad(Status::INVALID_SGL_TYPE)),
        (w, sgl(0x20, 0, 4096), 0, Bad(Status::INVALID_SGL_TYPE)),
        (w, sgl(0x31, 0, 4096), 16, Bad(Status::INVALID_SGL_TYPE)),
        (w, sgl(0xff, 0, 4096), 0, Bad(Status::INVALID_SGL_TYPE)),
        (r, sgl(0x5a, 0, 4096), 0, Outside(4096)),
        (r, sgl(0x01, 0, 16), 16, Bad(Status::INVALID_SGL_TYPE)),
        (r, sgl(0x40, 0, 4096), 0, Bad(Status::INVALID_SGL_TYPE)),
        (io::FLUSH, sgl(0x40, 1, 4096), 0, Nothing),
        (io::WRITE_ZEROES, sgl(0x5a, 0, 4096), 8, Nothing),
    ];
    for (i, (op, sgl, inside, want)) in rows.into_iter().enumerate() {
        let mut s = ready(Config::default(), 0, 0, &mut spare);
        let data: Vec<u8> = (0..inside as u8).collect();
        s.receive(Buf::from([capsule(sqe(op, 5, sgl), &data, 0), flush()].concat()));
        let got = events(&mut s, &mut spare);
        assert!(
            matches!(got[..], [Event::Command { slot: 0, .. }, Event::Command { slot: 1, .. }]),
            "row {i}"
        );
        let Event::Command { payload, .. } = &got[0] else { panic!() };
        match (want, payload) {
            (Inside(n), Payload::InCapsule(d)) => {
                let from = sgl.address.get() as usize;
                assert_eq!(d.to_vec(), data[from..from + n], "row {i}");
            }
            (Outside(n), Payload::Transport { len }) => assert_eq!(n, *len, "row {i}"),
            (Nothing, Payload::None) => {}
            (Bad(want), Payload::Bad(status)) => assert_eq!(*status, want.dnr(), "row {i}"),
            (_, other) => panic!("row {i}: {other:?}"),
        }
    }
    for psdt in [0x00, 0x80, 0xc0] {
        let mut s = ready(Config::default(), 0, 0, &mut spare);
        let bad = Sqe { flags: psdt, ..sqe(w, 5, Sgl::transport(4096)) };
        s.receive(Buf::from(capsule(bad, &[], 0)));
        let got = events(&mut s, &mut spare);
        assert!(
            matches!(&got[..], [Event::Command { payload: Payload::Bad(s), .. }] if *s == Status::INVALID_FIELD.dnr())
        );
    }
}

/// A data digest that is wrong is the command's error and not the connection's.
#[test]
fn damaged_data_is_not_fatal() {
    let mut spare = Completions::default();
    let mut s = ready(Config::default(), 3, 0, &mut spare);
    let good = capsule(sqe(io::WRITE, 1, Sgl::in_capsule(0, 64)), &[7; 64], 3);
    for at in 76..good.len() {
        s.receive(Buf::from(with(good.clone(), at, good[at] ^ 1)));
        let got = events(&mut s, &mut spare);
        let [Event::Command { slot, payload: Payload::Bad(status), .. }] = &got[..] else {
            panic!("{got:?}")
        };
        assert_eq!(*status, Status::TRANSIENT_TRANSPORT_ERROR);
        s.reply(*slot, Cqe::new(1, *status), BufList::new(), &mut spare);
    }
    let mut s = pulling(3, &mut spare);
    let first = h2c(9, 0, 0, &[1; 32768], false, 3);
    s.receive(Buf::from(with(first, 100, 0)));
    assert!(events(&mut s, &mut spare).is_empty());
    s.receive(Buf::from(h2c(9, 0, 32768, &[1; 32768], true, 3)));
    let got = events(&mut s, &mut spare);
    assert!(
        matches!(got[..], [Event::Damaged { slot: 0, status: Status::TRANSIENT_TRANSPORT_ERROR }]),
        "{got:?}"
    );
    s.reply(0, Cqe::new(9, Status::TRANSIENT_TRANSPORT_ERROR), BufList::new(), &mut spare);
    assert!(s.closing().is_none() && s.in_hand() == 0);
}

/// However the bytes are cut, the same comes of them; and any prefix of them is waited for, not judged.
#[test]
fn cut_anywhere() {
    let mut spare = Completions::default();
    let stream = |dgst| {
        [
            capsule(sqe(io::FLUSH, 1, Sgl::transport(0)), &[], dgst),
            capsule(sqe(io::WRITE, 2, Sgl::in_capsule(0, 333)), &[9; 333], dgst),
            h2c(9, 0, 0, &[1; 32768], false, dgst),
            h2c(9, 0, 32768, &[2; 32768], true, dgst),
            capsule(sqe(io::READ, 3, Sgl::transport(512)), &[], dgst),
        ]
        .concat()
    };
    let show = |e: Event| match e {
        Event::Command { slot, sqe, payload: Payload::InCapsule(d) } => {
            format!("{slot} {sqe:?} {:?}", d.to_vec())
        }
        Event::Data { slot, data } => format!("{slot} {:?}", data.to_vec()),
        e => format!("{e:?}"),
    };
    for dgst in 0..4 {
        let bytes = stream(dgst);
        let mut s = pulling(dgst, &mut spare);
        s.receive(Buf::from(bytes.clone()));
        let whole: Vec<String> = events(&mut s, &mut spare).into_iter().map(show).collect();
        assert_eq!(whole.len(), 4);
        for step in [1, 2, 3, 7, 71, 73, 1000, 40000] {
            let mut s = pulling(dgst, &mut spare);
            let mut got = vec![];
            for piece in bytes.chunks(step) {
                s.receive(Buf::from(piece.to_vec()));
                got.extend(events(&mut s, &mut spare).into_iter().map(show));
            }
            assert_eq!(got, whole, "in pieces of {step}");
            assert!(s.closing().is_none() && s.deadline().is_none());
            // The same without asking in between.
            let mut s = pulling(dgst, &mut spare);
            bytes.chunks(step).for_each(|p| s.receive(Buf::from(p.to_vec())));
            assert_eq!(events(&mut s, &mut spare).into_iter().map(show).collect::<Vec<_>>(), whole);
        }
        for cut in (0..2000).chain(bytes.len() - 100..bytes.len()) {
            let mut s = pulling(dgst, &mut spare);
            s.receive(Buf::from(bytes[..cut].to_vec()));
            let got: Vec<String> = events(&mut s, &mut spare).into_iter().map(show).collect();
            assert_eq!(got[..], whole[..got.len()]);
            assert!(s.closing().is_none());
        }
    }
}

#[test]
fn termination_by_the_host() {
    let mut spare = Completions::default();
    for (bytes, fes, fei) in [
        (
            [vec![2, 0, 24, 0, 24, 0, 0, 0, 3, 0, 0x78, 0x56, 0x34, 0x12], vec![0; 10]].concat(),
            3,
            0x1234_5678,
        ),
        ([vec![2, 0xff, 0, 9, 152, 0, 0, 0, 0xff, 0xff, 1, 0, 0, 0], vec![0; 138]].concat(), 0xffff, 1),
    ] {
        for handshake in [true, false] {
            let mut s = if handshake {
                ready(Config::default(), 3, 0, &mut spare)
            } else {
                Session::new(Config::default(), NOW)
            };
            s.receive(Buf::from(bytes.clone()));
            let got = events(&mut s, &mut spare);
            assert!(
                matches!(got[..], [Event::Terminated { fes: f, fei: i }] if (f, i) == (fes, fei)),
                "{got:?}"
            );
            assert_eq!(s.closing(), Some(&Fatal::Terminated { fes, fei }));
            assert!(s.tx().is_empty(), "a termination is not answered by one");
        }
    }
}

#[test]
fn time_outs() {
    let mut spare = Completions::default();
    let config = Config::default();
    let mut s = Session::new(config.clone(), NOW);
    let at = NOW.plus_ms(config.handshake_ms);
    assert_eq!(s.deadline(), Some(at));
    s.receive(Buf::from(ic_req(0, 0, 0, 0)[..100].to_vec()));
    assert!(s.next(NOW, &mut spare).is_none() && s.closing().is_none());
    assert_eq!(s.deadline(), Some(at));
    assert!(s.next(at, &mut spare).is_none());
    assert!(matches!(s.closing(), Some(Fatal::TimedOut { .. })) && s.tx().is_empty());

    // Half a header, half in-capsule data: from the first byte, however slowly the rest dribbles.
    for half in [1, 40, 80] {
        let mut s = ready(config.clone(), 0, 0, &mut spare);
        assert_eq!(s.deadline(), None);
        let later = NOW.plus_ms(5);
        for i in 0..half {
            s.receive(Buf::from(vec![write()[i]]));
            assert!(s.next(later, &mut spare).is_none());
        }
        assert_eq!(s.deadline(), Some(later.plus_ms(config.pdu_ms)), "{half}");
        assert!(s.next(later.plus_ms(config.pdu_ms), &mut spare).is_none() && s.closing().is_some());
    }
    // Data asked for.
    let mut s = pulling(0, &mut spare);
    assert_eq!(s.deadline(), Some(NOW.plus_ms(config.r2t_ms)));
    assert!(s.next(NOW.plus_ms(config.r2t_ms), &mut spare).is_none() && s.closing().is_some());
}

/// No more slots: the rest is left unread, and no time-out runs, until a reply frees one.
#[test]
fn slots_used_up_is_back_pressure() {
    let mut spare = Completions::default();
    let mut s = ready(Config { max_slots: 3, ..Config::default() }, 0, 0, &mut spare);
    (0..10).for_each(|_| s.receive(Buf::from(flush())));
    assert_eq!(events(&mut s, &mut spare).len(), 3);
    for left in (0..7).rev() {
        assert!(s.stalled() && s.deadline().is_none());
        s.reply(1, Cqe::new(1, Status::SUCCESS), BufList::new(), &mut spare);
        assert!(matches!(events(&mut s, &mut spare)[..], [Event::Command { slot: 1, .. }]), "{left} left");
    }
    assert!(!s.stalled() && s.closing().is_none());
}

/// Data that is awaited could be behind the command that has no slot: that is the end, not a wait for ever.
#[test]
fn slots_used_up_while_data_is_awaited() {
    let mut spare = Completions::default();
    let mut s = ready(Config { max_slots: 1, ..Config::default() }, 0, 0, &mut spare);
    s.receive(Buf::from(capsule(sqe(io::WRITE, 9, Sgl::transport(8192)), &[], 0)));
    assert_eq!(events(&mut s, &mut spare).len(), 1);
    assert!(s.pull(0, 8192, NOW));
    s.tx().drain();
    expect_fatal("no slot", s, flush(), Fes::SequenceError, 0, &mut spare);
}

/// The admin queue takes 8,192 bytes in a capsule whatever I/O queues take; the queue is known from Connect.
#[test]
fn in_capsule_limit_follows_the_queue() {
    let mut spare = Completions::default();
    for (qid, limit) in [(0u32, 8192usize), (1, 16384)] {
        for over in [0, 4] {
            let mut s = ready(Config::default(), 0, 0, &mut spare);
            let mut connect = sqe(opcode::FABRICS, 0, Sgl::in_capsule(0, 1024));
            (connect.nsid, connect.cdw10) = (U32::new(1), U32::new(qid << 16));
            s.receive(Buf::from(capsule(connect, &[0; 1024], 0)));
            assert_eq!(events(&mut s, &mut spare).len(), 1);
            let len = limit + over;
            s.receive(Buf::from(capsule(
                sqe(io::WRITE, 1, Sgl::in_capsule(0, len as u32)),
                &vec![0; len],
                0,
            )));
            assert_eq!(events(&mut s, &mut spare).len(), usize::from(over == 0));
            assert_eq!(s.closing().is_some(), over != 0);
        }
    }
}

/// A host that sends its data in crumbs does not pin a receive buffer for each.
#[test]
fn crumbs_do_not_pin_buffers() {
    let mut spare = Completions::default();
    let mut s = ready(Config::default(), 0, 0, &mut spare);
    let data: Vec<u8> = (0..16384u32).map(|i| i as u8).collect();
    let bytes = capsule(sqe(io::WRITE, 1, Sgl::in_capsule(0, 16384)), &data, 0);
    let pool = caisson_block::Pool::new(64, 4096).unwrap();
    let mut most = 0;
    let mut got = vec![];
    for b in bytes {
        let mut piece = pool.alloc().expect("no more than 64 receive buffers are held");
        piece[0] = b;
        piece.truncate(1);
        s.receive(piece.freeze());
        got.extend(events(&mut s, &mut spare));
        most = most.max(pool.in_use());
    }
    let [Event::Command { payload: Payload::InCapsule(d), .. }] = &got[..] else { panic!() };
    assert_eq!(d.to_vec(), data);
    assert!(most <= 16384 / 1024 + 5, "{most}");
}

/// An answer given while the host is sending what an R2T asked for waits for it.
#[test]
fn early_reply_waits_for_the_data() {
    let mut spare = Completions::default();
    let mut s = pulling(0, &mut spare);
    s.reply(0, Cqe::new(9, Status::ABORT_REQUESTED), BufList::new(), &mut spare);
    assert!(s.tx().is_empty() && s.in_hand() == 1);
    s.receive(Buf::from(h2c(9, 0, 0, &[0; 32768], false, 0)));
    assert!(events(&mut s, &mut spare).is_empty() && s.tx().is_empty());
    s.receive(Buf::from(h2c(9, 0, 32768, &[0; 32768], true, 0)));
    assert!(events(&mut s, &mut spare).is_empty());
    let sent = s.tx().drain();
    assert_eq!((sent.len(), sent[0], s.in_hand()), (24, kind::CAPSULE_RESP, 0));
    let cqe = Cqe::decode(&sent[8..]).unwrap();
    assert_eq!((cqe.cid, cqe.status()), (U16::new(9), Status::ABORT_REQUESTED));
}
