//! Streams that end, stall, trickle or are damaged at random, and hosts that never read; while another connection runs
//! verified I/O and must not notice.

use caisson_conformance::bystander::beside_verified_io;
use caisson_conformance::pdu::{capsule, connect, h2c_data, icreq, question};
use caisson_conformance::stage::{Stage, Way, status_of, term_req, write_asked, write_inside};
use caisson_conformance::subject::{BIG, NQN, Subject, io};
use caisson_initiator::perf::workload::Random;
use caisson_initiator::transport::RawConn;
use caisson_wire::opcode::io as op;
use caisson_wire::pdu::{flag, kind};
use caisson_wire::{Sgl, Status};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);
/// How many connections may be on their way out while more are made.
const CROWD: u64 = 200;

/// A whole short session as one stream: ICReq, Connect, a question, a write in the capsule that the admin queue refuses.
fn session(s: &Subject) -> Vec<u8> {
    let data = s.options(NQN).connect_data(0xffff);
    [icreq(0).0, connect(0, &data).0, question(1).0, write_inside().0].concat()
}

#[test]
fn a_stream_cut_at_each_byte_harms_nobody() {
    let s = Subject::start();
    let stream = session(&s);
    // Past Connect every byte is like the next in the payload of the write: there each 64th is cut.
    let detailed = 128 + 72 + 1024 + 72 + 80;
    let cuts = (0..detailed).chain((detailed..stream.len()).step_by(64));
    beside_verified_io(&s, || {
        let mut count = 0;
        for cut in cuts {
            s.settle(CROWD);
            let mut c = RawConn::connect(&s.address, WAIT).unwrap();
            c.send(&stream[..cut]).unwrap();
            if cut % 2 == 0 {
                // Every other one ends by a reset, while the target may be answering.
                let linger = rustix::net::sockopt::set_socket_linger(c.stream(), Some(Duration::ZERO));
                linger.unwrap();
            }
            count += 1;
        }
        println!("  {count} connections cut");
    });
    s.client().identify_controller().unwrap();
}

#[test]
fn a_stream_in_single_bytes_is_understood() {
    let s = Subject::start();
    let data = s.options(NQN).connect_data(0xffff);
    let mut c = RawConn::connect(&s.address, WAIT).unwrap();
    for stream in [icreq(0).0, connect(0, &data).0, question(1).0] {
        for byte in stream {
            c.send(&[byte]).unwrap();
        }
    }
    assert_eq!(c.receive().unwrap().kind(), kind::IC_RESP);
    for _ in 0..2 {
        assert_eq!(status_of(&c.receive().unwrap()), Some(Status::SUCCESS));
    }
}

#[test]
fn slow_and_silent_peers_are_timed_out() {
    // The test's target gives 1.5 s for the handshake, for a PDU once begun, and for data that was asked for.
    let s = Subject::start();
    let data = s.options(NQN).connect_data(0xffff);
    let greet = icreq(0).0;
    let hello = connect(0, &data).0;
    type Slow = (&'static str, Vec<u8>, usize);
    let peers: Vec<Slow> = vec![
        ("nothing", vec![], 0),
        ("one byte", vec![0], 0),
        ("half an ICReq", greet[..64].to_vec(), 0),
        ("an ICReq less one byte", greet[..127].to_vec(), 0),
        ("half a Connect header", [&greet[..], &hello[..40]].concat(), 1),
        ("half the data of Connect", [&greet[..], &hello[..500]].concat(), 1),
        ("connected, then 7 bytes of a command", [&greet[..], &hello[..], &question(1).0[..7]].concat(), 2),
    ];
    beside_verified_io(&s, || {
        std::thread::scope(|scope| {
            for (name, bytes, answers) in peers {
                let s = &s;
                scope.spawn(move || {
                    let mut c = RawConn::connect(&s.address, Duration::from_secs(10)).unwrap();
                    c.send(&bytes).unwrap();
                    let start = Instant::now();
                    let got = c.until_closed().unwrap_or_else(|e| panic!("{name}: it is not closed: {e}"));
                    println!("  {name}: closed after {:?}", start.elapsed());
                    assert!(start.elapsed() > Duration::from_millis(700), "{name}: not at once");
                    assert!(start.elapsed() < Duration::from_secs(6), "{name}: {:?}", start.elapsed());
                    let before = got.iter().filter(|p| p.kind() != kind::C2H_TERM_REQ).count();
                    assert_eq!(before, answers, "{name}");
                });
            }
            // One that sends a byte now and then is no better than a silent one.
            scope.spawn(|| {
                let mut c = RawConn::connect(&s.address, Duration::from_secs(10)).unwrap();
                let start = Instant::now();
                let ended = icreq(0).0.into_iter().any(|byte| {
                    std::thread::sleep(Duration::from_millis(100));
                    c.send(&[byte]).is_err()
                });
                println!("  a byte each 100 ms: ended {ended} after {:?}", start.elapsed());
                assert!(ended && start.elapsed() < Duration::from_secs(6));
            });
        });
    });
}

#[test]
fn a_host_that_never_reads_costs_only_itself() {
    let s = Subject::start();
    beside_verified_io(&s, || {
        let way = Way::new(&s);
        let mut deaf: Vec<RawConn> = (0..4).map(|_| way.reach(Stage::Io(0)).0).collect();
        for c in &mut deaf {
            let mut sqe = io(op::READ, BIG.nsid, 0, 256).sqe;
            sqe.sgl = Sgl::transport(1 << 20);
            let all: Vec<u8> = (0..31u16)
                .flat_map(|cid| {
                    sqe.cid.set(cid);
                    capsule(&sqe, &[]).0
                })
                .collect();
            c.send(&all).unwrap();
        }
        std::thread::sleep(Duration::from_millis(500));
        // Then one of them reads after all, and has everything it asked for.
        let mut left = 31;
        while left > 0 {
            let pdu = deaf[0].receive().unwrap();
            assert!(matches!(pdu.kind(), kind::C2H_DATA | kind::CAPSULE_RESP), "{:#x}", pdu.kind());
            let success = pdu.kind() == kind::C2H_DATA && pdu.0[1] & flag::SUCCESS != 0;
            left -= usize::from(success || pdu.kind() == kind::CAPSULE_RESP);
        }
    });
}

#[test]
fn random_damage_ends_at_most_its_own_connection() {
    const SEED: u64 = 0x5eed_0001;
    let s = Subject::start();
    let way = Way::new(&s);
    let mut pieces = vec![
        icreq(0).0,
        question(1).0,
        write_inside().0,
        write_asked().0,
        h2c_data(7, 0, 0, flag::LAST, &[1; 16384]).0,
        connect(0, &s.options(NQN).connect_data(0xffff)).0,
    ];
    pieces.push(term_req());
    beside_verified_io(&s, || {
        let end = Instant::now() + Duration::from_secs(4);
        let mut rng = Random::new(SEED);
        let mut rounds = 0;
        while rounds < 4000 && Instant::now() < end {
            rounds += 1;
            s.settle(CROWD);
            let stage =
                [Stage::Fresh, Stage::Greeted(0), Stage::Admin(0), Stage::Io(0)][rng.below(4) as usize];
            let mut stream: Vec<u8> = Vec::new();
            for _ in 0..1 + rng.below(4) {
                stream.extend_from_slice(&pieces[rng.below(pieces.len() as u64) as usize]);
            }
            for _ in 0..rng.below(6) {
                // Damage falls mostly on headers: the first bytes of the stream.
                let span = if rng.below(2) == 0 { stream.len().min(128) } else { stream.len() };
                let at = rng.below(span as u64) as usize;
                stream[at] = match rng.below(3) {
                    0 => rng.draw() as u8,
                    1 => 0xff,
                    _ => stream[at] ^ (1 << rng.below(8)),
                };
            }
            stream.truncate(rng.below(stream.len() as u64 + 1) as usize);
            let (mut c, _) = way.reach(stage);
            let _ = c.send(&stream);
        }
        println!("  {rounds} damaged streams, seed {SEED:#x}");
        assert!(rounds > 50);
    });
    s.client().identify_controller().unwrap();
}

#[test]
fn a_host_that_stops_sending_still_reads_our_last_words() {
    let s = Subject::start();
    for _ in 0..30 {
        let mut c = RawConn::connect(&s.address, Duration::from_secs(20)).unwrap();
        let mut icreq = vec![0u8; 128];
        (icreq[2], icreq[4], icreq[8]) = (128, 128, 9);
        c.send(&icreq).unwrap();
        c.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let last = c.until_closed().unwrap();
        let said = last.last().and_then(|p| p.termination());
        assert!(said.is_some(), "PFV 9 is answered with C2HTermReq: {said:?}");
    }
}
