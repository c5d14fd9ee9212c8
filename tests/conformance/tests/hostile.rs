//! Hostile hosts: a table of PDUs that break every rule of the transport (TCP 1.1, 3.3 to 3.6), and what must come of each;
//! while another connection runs verified I/O and must not notice.

use caisson_conformance::bystander::beside_verified_io;
use caisson_conformance::pdu::{Raw, capsule, h2c_data, icreq, question, with_digests};
use caisson_conformance::stage::{Stage, Way, status_of, term_req, write_asked, write_inside};
use caisson_conformance::subject::{BIG, Subject, io};
use caisson_initiator::transport::{Pdu, RawConn};
use caisson_wire::opcode::io as op;
use caisson_wire::pdu::{R2t, flag, kind};
use caisson_wire::{Sgl, Status};
use std::time::Duration;

/// What must come of it.
#[derive(Clone, Debug)]
enum Then {
    /// A termination request with one of these (FES, FEI), then the end.
    Ends(Vec<(u16, Option<u32>)>),
    /// The end.
    Closes,
    /// A response with this status, and the connection goes on.
    Answers(Status),
    /// Either of the two: the specification leaves it open.
    Anything,
}

/// FES values.
const FIELD: u16 = 1;
const SEQUENCE: u16 = 2;
const DIGEST: u16 = 3;
const RANGE: u16 = 4;
const LIMIT: u16 = 5;
const UNSUPPORTED: u16 = 6;

fn field(at: u32) -> Then {
    Then::Ends(vec![(FIELD, Some(at))])
}

fn fields(at: &[u32]) -> Then {
    Then::Ends(at.iter().map(|&a| (FIELD, Some(a))).collect())
}

fn ends(fes: u16) -> Then {
    Then::Ends(vec![(fes, None)])
}

/// What is sent; the R2T is that of [`Stage::Asked`].
type Send = Box<dyn Fn(&R2t) -> Vec<u8>>;

struct Scene {
    name: String,
    stage: Stage,
    send: Send,
    then: Then,
}

fn scene(name: impl Into<String>, stage: Stage, send: Raw, then: Then) -> Scene {
    Scene { name: name.into(), stage, send: Box::new(move |_| send.0.clone()), then }
}

fn asked(name: &str, dgst: u8, then: Then, send: impl Fn(&R2t) -> Raw + 'static) -> Scene {
    Scene { name: name.into(), stage: Stage::Asked(dgst), send: Box::new(move |r| send(r).0), then }
}

/// Whether the connection still answers.
fn lives(c: &mut RawConn, stage: Stage) -> bool {
    let (Stage::Greeted(dgst) | Stage::Admin(dgst) | Stage::Io(dgst) | Stage::Asked(dgst)) = stage else {
        return c.send(&icreq(0).0).is_ok() && c.receive().is_ok_and(|p| p.kind() == kind::IC_RESP);
    };
    c.send(&with_digests(&question(99), dgst).0).is_ok() && c.receive().is_ok_and(|p| status_of(&p).is_some())
}

fn play(way: &Way<'_>, scene: &Scene) -> Result<String, String> {
    let (mut c, r2t) = way.reach(scene.stage);
    let bytes = match r2t {
        Some(r2t) => (scene.send)(&r2t),
        None => (scene.send)(&blank()),
    };
    // The target may close before it has read everything.
    let _ = c.send(&bytes);
    let ended = |c: &mut RawConn| c.until_closed().map_err(|e| format!("it does not close: {e}"));
    match &scene.then {
        Then::Ends(list) => {
            let all = ended(&mut c)?;
            let got = all.iter().find_map(Pdu::termination).ok_or("no termination request came")?;
            let fits = list.iter().any(|(fes, fei)| *fes == got.0 && fei.is_none_or(|f| f == got.1));
            let text = format!("FES {:#x} FEI {:#x}", got.0, got.1);
            if fits { Ok(text) } else { Err(format!("{text}, none of {list:x?}")) }
        }
        Then::Closes => ended(&mut c).map(|_| "closed".into()),
        Then::Answers(want) => {
            let got = c.receive().map_err(|e| e.to_string())?;
            let status = status_of(&got).ok_or(format!("PDU type {:#x}", got.kind()))?;
            if !status.is(*want) {
                return Err(format!("{status}, not {want}"));
            }
            if lives(&mut c, scene.stage) {
                Ok(status.to_string())
            } else {
                Err("answered, and closed".into())
            }
        }
        Then::Anything => {
            c.set_timeout(Duration::from_millis(100));
            Ok(if lives(&mut c, scene.stage) { "goes on" } else { "ended" }.into())
        }
    }
}

fn blank() -> R2t {
    use caisson_wire::zerocopy::FromZeros;
    R2t::new_zeroed()
}

fn play_all(title: &str, scenes: Vec<Scene>) {
    let s = Subject::start();
    let mut failed = Vec::new();
    println!("{title}");
    beside_verified_io(&s, || {
        let way = Way::new(&s);
        for scene in &scenes {
            let name = format!("{:?}: {}", scene.stage, scene.name);
            match play(&way, scene) {
                Ok(what) => println!("  ok    {name}: {what}"),
                Err(what) => {
                    println!("  WRONG {name}: {what}");
                    failed.push(format!("{name}: {what}"));
                }
            }
        }
    });
    assert!(failed.is_empty(), "\n{title}\n  {}\n", failed.join("\n  "));
}

#[test]
fn greetings() {
    use Stage::{Fresh, Greeted};
    let text = |t: &[u8]| Raw(t.iter().copied().cycle().take(t.len().max(160)).collect());
    let mut scenes = vec![
        scene("ICReq of HLEN 0", Fresh, icreq(0).byte(2, 0), field(2)),
        scene("ICReq of HLEN 127", Fresh, icreq(0).byte(2, 127), field(2)),
        scene("ICReq of HLEN 255", Fresh, icreq(0).byte(2, 255), field(2)),
        scene("ICReq of PLEN 0", Fresh, icreq(0).plen(0), field(4)),
        scene("ICReq of PLEN 127", Fresh, icreq(0).plen(127), field(4)),
        scene("ICReq of PLEN 129", Fresh, icreq(0).plen(129), field(4)),
        scene("ICReq of PLEN FFFFFFFFh", Fresh, icreq(0).plen(u32::MAX), field(4)),
        scene("ICReq of PFV 1", Fresh, icreq(0).word(8, 1), Then::Ends(vec![(UNSUPPORTED, Some(8))])),
        scene(
            "ICReq of PFV FFFFh",
            Fresh,
            icreq(0).word(8, 0xffff),
            Then::Ends(vec![(UNSUPPORTED, Some(8))]),
        ),
        scene("ICReq of HPDA 32", Fresh, icreq(0).byte(10, 32), field(10)),
        scene("ICReq of HPDA 255", Fresh, icreq(0).byte(10, 255), field(10)),
        scene("ICReq with reserved DGST bits", Fresh, icreq(0).byte(11, 0xfc), Then::Anything),
        scene("ICReq with reserved bytes set", Fresh, icreq(0).byte(100, 0xff), Then::Anything),
        scene("HTTP", Fresh, text(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n"), Then::Closes),
        scene("TLS", Fresh, text(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]), Then::Closes),
        scene("zeroes", Fresh, Raw(vec![0; 4096]), Then::Closes),
        scene("ones", Fresh, Raw(vec![0xff; 4096]), Then::Closes),
        scene("a command first", Fresh, question(1), ends(SEQUENCE)),
        scene("data first", Fresh, h2c_data(0, 0, 0, flag::LAST, &[0; 64]), ends(SEQUENCE)),
        scene("a termination request first", Fresh, Raw(term_req()), Then::Closes),
        scene("a second ICReq", Greeted(0), icreq(0), ends(SEQUENCE)),
        scene("a termination request", Greeted(0), Raw(term_req()), Then::Closes),
    ];
    for k in [1, 3, 5, 7, 8, 9, 0x0a, 0x0b, 0x10, 0x7f, 0x80, 0xff] {
        let other = || Then::Ends(vec![(FIELD, Some(0)), (SEQUENCE, None)]);
        scenes.push(scene(format!("type {k:02x}h first"), Fresh, icreq(0).byte(0, k), other()));
        scenes.push(scene(format!("type {k:02x}h"), Greeted(0), question(1).byte(0, k), other()));
    }
    play_all("Greetings", scenes);
}

#[test]
fn capsules() {
    use Stage::{Admin, Greeted, Io};
    let mut scenes = Vec::new();
    for stage in [Greeted(0), Admin(0), Io(0)] {
        let q = || question(1);
        scenes.extend([
            scene("HLEN 0", stage, q().byte(2, 0), field(2)),
            scene("HLEN 71", stage, q().byte(2, 71), field(2)),
            scene("HLEN 73", stage, q().byte(2, 73), field(2)),
            scene("HLEN 255", stage, q().byte(2, 255), field(2)),
            scene("PLEN 0", stage, q().plen(0), field(4)),
            scene("PLEN 8", stage, q().plen(8), field(4)),
            scene("PLEN 71", stage, q().plen(71), field(4)),
            scene(
                "PLEN FFFFFFFFh",
                stage,
                q().byte(3, 72).plen(u32::MAX),
                Then::Ends(vec![(FIELD, Some(4)), (LIMIT, None)]),
            ),
            scene("PLEN of data, PDO 0", stage, q().plen(136), fields(&[3, 4])),
            scene("PDO inside the header", stage, q().byte(3, 68).plen(136), field(3)),
            scene("PDO that is not aligned", stage, q().byte(3, 74).plen(136), field(3)),
            scene("PDO beyond PLEN", stage, q().byte(3, 200).plen(136), fields(&[3, 4])),
            scene("HDGSTF without header digests", stage, q().byte(1, flag::HDGST), field(1)),
            scene("DDGSTF without data digests", stage, write_inside().byte(1, flag::DDGST), field(1)),
        ]);
    }
    let large = |len: usize| {
        let mut sqe = io(op::WRITE, BIG.nsid, 0, (len / 4096) as u32).sqe;
        sqe.cid.set(5);
        sqe.sgl = Sgl::in_capsule(0, len as u32);
        capsule(&sqe, &vec![1; len])
    };
    let over = || Then::Ends(vec![(FIELD, Some(4)), (LIMIT, None)]);
    scenes.extend([
        scene("16 KiB in the capsule", Io(0), large(16384), Then::Answers(Status::SUCCESS)),
        scene("20 KiB in the capsule, over IOCCSZ", Io(0), large(20480), over()),
        scene("1 MiB in the capsule", Io(0), large(1 << 20), over()),
        scene("12 KiB in an admin capsule", Admin(0), large(12288), over()),
        scene(
            "data that no rule lets the command use",
            Io(0),
            {
                let mut sqe = io(op::READ, BIG.nsid, 0, 1).sqe;
                sqe.sgl = Sgl::in_capsule(0, 4096);
                capsule(&sqe, &[1; 4096])
            },
            Then::Answers(Status::INVALID_SGL_TYPE),
        ),
        scene("DDGSTF and no data", Io(0), question(1).byte(1, flag::DDGST), Then::Anything),
        scene("PDO and no data", Io(0), question(1).byte(3, 72), Then::Anything),
        scene("reserved flags", Io(0), question(1).byte(1, 0xf0), Then::Anything),
        scene("LAST_PDU and SUCCESS on a command", Io(0), question(1).byte(1, 0x0c), Then::Anything),
        scene("a second ICReq", Io(0), icreq(0), ends(SEQUENCE)),
        scene(
            "data that nobody asked for",
            Io(0),
            h2c_data(7, 0, 0, flag::LAST, &[0; 64]),
            Then::Ends(vec![(FIELD, Some(10)), (SEQUENCE, None), (FIELD, Some(8))]),
        ),
    ]);
    play_all("Capsules", scenes);
}

#[test]
fn data() {
    let d = |r: &R2t, at: u32, flags: u8, len: usize| h2c_data(7, r.ttag.get(), at, flags, &vec![5; len]);
    let last = flag::LAST;
    let out = || Then::Ends(vec![(RANGE, None), (FIELD, Some(12)), (FIELD, Some(16))]);
    let scenes = vec![
        asked("as it should be", 0, Then::Answers(Status::SUCCESS), move |r| d(r, 0, last, 16384)),
        asked("in four pieces", 0, Then::Answers(Status::SUCCESS), move |r| {
            let parts = (0..4).flat_map(|i| d(r, 4096 * i, if i == 3 { last } else { 0 }, 4096).0);
            Raw(parts.collect())
        }),
        asked("another TTAG", 0, fields(&[10]), move |r| {
            h2c_data(7, r.ttag.get() ^ 0x55, 0, last, &[5; 16384])
        }),
        asked("TTAG FFFFh", 0, fields(&[10]), move |_| h2c_data(7, 0xffff, 0, last, &[5; 16384])),
        asked("another CCCID", 0, fields(&[8, 10]), move |r| h2c_data(8, r.ttag.get(), 0, last, &[5; 16384])),
        asked("beyond what was asked", 0, out(), move |r| d(r, 16384, last, 4096)),
        asked("over the end", 0, out(), move |r| d(r, 8192, last, 16384)),
        asked("at the highest offset", 0, out(), move |r| d(r, u32::MAX - 3, last, 4096)),
        asked("offset and length overflow", 0, out(), move |r| d(r, 0xffff_f000, last, 8192)),
        asked("not from the start", 0, Then::Ends(vec![(FIELD, Some(12)), (RANGE, None)]), move |r| {
            d(r, 4096, last, 12288)
        }),
        asked("twice the same piece", 0, Then::Ends(vec![(FIELD, Some(12)), (RANGE, None)]), move |r| {
            Raw([d(r, 0, 0, 4096).0, d(r, 0, 0, 4096).0].concat())
        }),
        asked("a gap", 0, Then::Ends(vec![(FIELD, Some(12)), (RANGE, None)]), move |r| {
            Raw([d(r, 0, 0, 4096).0, d(r, 8192, last, 8192).0].concat())
        }),
        asked("LAST_PDU too early", 0, fields(&[1]), move |r| d(r, 0, last, 4096)),
        asked("no LAST_PDU at the end", 0, fields(&[1]), move |r| d(r, 0, 0, 16384)),
        asked("DATAL 0", 0, fields(&[16, 4]), move |r| d(r, 0, last, 16384).dword(16, 0)),
        asked("no data at all", 0, fields(&[16, 4]), move |r| d(r, 0, 0, 0)),
        asked("DATAL less than PLEN has", 0, fields(&[16, 4]), move |r| d(r, 0, last, 16384).dword(16, 4096)),
        asked("DATAL more than PLEN has", 0, fields(&[16, 4]), move |r| d(r, 0, last, 4096).dword(16, 16384)),
        asked(
            "DATAL FFFFFFFFh",
            0,
            Then::Ends(vec![(FIELD, Some(16)), (FIELD, Some(4)), (RANGE, None), (LIMIT, None)]),
            move |r| d(r, 0, last, 4096).dword(16, u32::MAX),
        ),
        asked("a length that is no dword", 0, fields(&[16, 4]), move |r| d(r, 0, 0, 4095)),
        asked("HLEN 23", 0, field(2), move |r| d(r, 0, last, 16384).byte(2, 23)),
        asked("PDO 0", 0, field(3), move |r| d(r, 0, last, 16384).byte(3, 0)),
        asked("PDO 25", 0, field(3), move |r| d(r, 0, last, 16384).byte(3, 25)),
        asked("PDO beyond PLEN", 0, fields(&[3, 4]), move |r| d(r, 0, last, 64).byte(3, 252)),
        asked("PLEN FFFFFFFFh", 0, Then::Ends(vec![(FIELD, Some(4)), (LIMIT, None)]), move |r| {
            d(r, 0, last, 4096).plen(u32::MAX)
        }),
        asked(
            "more than MAXH2CDATA in one PDU",
            0,
            Then::Ends(vec![(LIMIT, None), (RANGE, None), (FIELD, Some(16)), (FIELD, Some(4))]),
            move |r| d(r, 0, last, 1 << 20),
        ),
        asked(
            "data after all has come",
            0,
            Then::Ends(vec![(FIELD, Some(10)), (FIELD, Some(8)), (SEQUENCE, None)]),
            move |r| Raw([d(r, 0, last, 16384).0, d(r, 0, last, 16384).0].concat()),
        ),
        asked("the host terminates instead", 0, Then::Closes, |_| Raw(term_req())),
        asked("the same CID again meanwhile", 0, Then::Anything, |_| write_asked()),
        asked("silence", 0, Then::Closes, |_| Raw(Vec::new())),
    ];
    play_all("Data", scenes);
}

#[test]
fn digests() {
    use Stage::{Admin, Io};
    let spoil = |raw: Raw, at_end: usize| {
        let at = raw.0.len() - 1 - at_end;
        let old = raw.0[at];
        raw.byte(at, old ^ 1)
    };
    let bad = Status::TRANSIENT_TRANSPORT_ERROR;
    let mut scenes = Vec::new();
    for bits in [1u8, 3] {
        let whole = with_digests(&question(1), bits);
        scenes.push(scene(
            "a right header digest",
            Admin(bits),
            whole.clone(),
            Then::Answers(Status::SUCCESS),
        ));
        scenes.push(scene("a wrong header digest", Admin(bits), spoil(whole.clone(), 0), ends(DIGEST)));
        scenes.push(scene("a changed header", Admin(bits), whole.clone().byte(10, 0x77), ends(DIGEST)));
        scenes.push(scene("no HDGSTF", Admin(bits), whole.byte(1, 0), field(1)));
        scenes.push(scene("no header digest", Admin(bits), question(1), field(1)));
        scenes.push(asked("a wrong header digest on data", bits, ends(DIGEST), move |r| {
            with_digests(&h2c_data(7, r.ttag.get(), 0, flag::LAST, &[5; 16384]), bits).byte(24, 0xee)
        }));
    }
    for bits in [2u8, 3] {
        let whole = with_digests(&write_inside(), bits);
        scenes.push(scene("a right data digest", Io(bits), whole.clone(), Then::Answers(Status::SUCCESS)));
        scenes.push(scene("a wrong data digest", Io(bits), spoil(whole.clone(), 0), Then::Answers(bad)));
        scenes.push(scene("changed data", Io(bits), spoil(whole.clone(), 100), Then::Answers(bad)));
        scenes.push(scene("no DDGSTF", Io(bits), whole.byte(1, bits & 1), field(1)));
        let data = move |r: &R2t| with_digests(&h2c_data(7, r.ttag.get(), 0, flag::LAST, &[5; 16384]), bits);
        scenes.push(asked("a right data digest", bits, Then::Answers(Status::SUCCESS), data));
        scenes.push(asked("a wrong data digest", bits, Then::Answers(bad), move |r| spoil(data(r), 0)));
    }
    play_all("Digests", scenes);
}
