//! Connect, properties and the life of a controller (Base 2.1, 3.1.4, 3.5 to 3.7, 6.3 and 6.4).

use caisson_conformance::subject::{BIG, FRIEND, NQN, PRIVATE, STRANGER, Subject, io};
use caisson_conformance::{Row, judge};
use caisson_initiator::client::{property_get, property_set};
use caisson_initiator::transport::Greeting;
use caisson_initiator::{Client, Command, Completion, Data, Error, Queue};
use caisson_wire::Status;
use caisson_wire::fabrics::{ConnectData, DISCOVERY_NQN, property};
use caisson_wire::opcode::{FABRICS, admin, fctype, io as op};
use caisson_wire::property::{Cap, Cc, Csts, shn, shst};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);
const BAD: Status = Status::CONNECT_INVALID_PARAMETERS.dnr();

fn open(s: &Subject) -> Queue {
    Queue::open(&s.address, Greeting::default(), WAIT).unwrap_or_else(|e| panic!("{e}"))
}

/// What is changed in a Connect that would succeed, and what must come of it: status and DW0.
struct Scene {
    name: &'static str,
    qid: u16,
    change: fn(&mut Command, &mut ConnectData),
    status: Status,
    dw0: Option<u32>,
}

const IN_DATA: u32 = 1 << 16;

#[test]
fn every_field_of_connect_is_judged() {
    let s = Subject::start();
    let scene = |name, change, status, dw0| Scene { name, qid: 0, change, status, dw0 };
    let scenes = [
        scene("as it should be", |_, _| {}, Status::SUCCESS, None),
        scene("record format 1", |c, _| put10(c, 1), Status::CONNECT_INCOMPATIBLE_FORMAT.dnr(), None),
        scene(
            "record format FFFFh",
            |c, _| put10(c, 0xffff),
            Status::CONNECT_INCOMPATIBLE_FORMAT.dnr(),
            None,
        ),
        scene("an admin queue of 1 entry", |c, _| c.sqe.cdw11.set(0), BAD, Some(44)),
        scene("an admin queue of 31 entries", |c, _| c.sqe.cdw11.set(30), BAD, Some(44)),
        scene("an admin queue of 32 entries", |c, _| c.sqe.cdw11.set(31), Status::SUCCESS, None),
        scene("a queue of 65,536 entries", |c, _| c.sqe.cdw11.set(0xffff), BAD, Some(44)),
        scene(
            "no SQ flow control (CATTR bit 2)",
            |c, _| c.sqe.cdw11.set(31 | 1 << 18),
            Status::SUCCESS,
            None,
        ),
        scene("the largest keep-alive time-out", |c, _| c.sqe.cdw12.set(u32::MAX), Status::SUCCESS, None),
        scene("no host NQN", |_, d| d.hostnqn = [0; 256], BAD, Some(512 | IN_DATA)),
        scene("a host NQN without an end", |_, d| d.hostnqn = [b'n'; 256], BAD, Some(512 | IN_DATA)),
        scene("a host NQN of 224 bytes", |_, d| d.hostnqn[..224].fill(b'n'), BAD, Some(512 | IN_DATA)),
        scene("a host NQN that is not UTF-8", |_, d| d.hostnqn[3] = 0xff, BAD, Some(512 | IN_DATA)),
        scene("no subsystem NQN", |_, d| d.subnqn = [0; 256], BAD, Some(256 | IN_DATA)),
        scene("a subsystem NQN without an end", |_, d| d.subnqn = [b'n'; 256], BAD, Some(256 | IN_DATA)),
        scene("an unknown subsystem", |_, d| d.subnqn[20] ^= 1, BAD, Some(256 | IN_DATA)),
        scene("a static controller of a dynamic subsystem", |_, d| d.cntlid.set(1), BAD, Some(16 | IN_DATA)),
        scene("any static controller of a dynamic one", |_, d| d.cntlid.set(0xfffe), BAD, Some(16 | IN_DATA)),
        scene(
            "a subsystem that this host is not allowed",
            |_, d| *d = ConnectData::new(d.hostid, 0xffff, PRIVATE, STRANGER),
            Status::CONNECT_INVALID_HOST.dnr(),
            None,
        ),
        scene(
            "the same by the host that is",
            |_, d| *d = ConnectData::new(d.hostid, 0xffff, PRIVATE, FRIEND),
            Status::SUCCESS,
            None,
        ),
        scene(
            "the discovery subsystem",
            |_, d| *d = ConnectData::new(d.hostid, 0xffff, DISCOVERY_NQN, STRANGER),
            Status::SUCCESS,
            None,
        ),
        Scene {
            name: "an I/O queue of a controller that is not there",
            qid: 1,
            change: |_, d| d.cntlid.set(0x7777),
            status: BAD,
            dw0: Some(16 | IN_DATA),
        },
        Scene {
            name: "an I/O queue of any controller",
            qid: 1,
            change: |_, _| {},
            status: BAD,
            dw0: Some(16 | IN_DATA),
        },
        Scene { name: "I/O queue FFFFh", qid: 0xffff, change: |_, _| {}, status: BAD, dw0: None },
    ];
    for scene in scenes {
        let o = s.options(NQN);
        let mut data = o.connect_data(0xffff);
        let mut command = Queue::connect_command(scene.qid, 32, 0, &data);
        (scene.change)(&mut command, &mut data);
        let sqe = command.sqe;
        let mut command = Queue::connect_command(scene.qid, 32, 0, &data);
        command.sqe = sqe;
        let done = open(&s).run(command).unwrap_or_else(|e| panic!("{}: {e}", scene.name));
        let got = done.status();
        println!("  {}: {got}, DW0 {:#x}", scene.name, done.cqe.dw0.get());
        assert!(got.is(scene.status) && got.is_dnr() == scene.status.is_dnr(), "{}: {got}", scene.name);
        if let Some(dw0) = scene.dw0 {
            assert_eq!(done.cqe.dw0.get(), dw0, "{}: the parameter in error", scene.name);
        }
    }
    // A zero host identifier names no host.
    let o = s.options(NQN);
    let data = ConnectData::new([0; 16], 0xffff, NQN, &o.hostnqn);
    let done = open(&s).connect(0, 32, 0, &data).unwrap();
    assert!(!done.status().is_success(), "a host identifier of zero");
}

fn put10(c: &mut Command, recfmt: u32) {
    let old = c.sqe.cdw10.get();
    c.sqe.cdw10.set(old | recfmt);
}

#[test]
fn data_of_connect_has_its_length_and_may_come_on_request() {
    let s = Subject::start();
    let data = s.options(NQN).connect_data(0xffff);
    let mut c = Queue::connect_command(0, 32, 0, &data);
    if let Data::Out(bytes) = c.data {
        c.data = Data::OutAsked(bytes);
    }
    assert!(open(&s).run(c).unwrap().status().is_success(), "data on request");
    for len in [0usize, 4, 1023, 1020, 1028, 4096] {
        let c = Queue::connect_command(0, 32, 0, &data).with(Data::Out(vec![0; len]));
        let done = open(&s).run(c).unwrap();
        assert!(done.status().is(Status::INVALID_SGL_LENGTH), "{len} bytes: {}", done.status());
    }
}

#[test]
fn nothing_comes_before_connect_nor_twice() {
    let s = Subject::start();
    let sequence = Status::COMMAND_SEQUENCE_ERROR.dnr();
    let mut q = open(&s);
    judge(
        "Before Connect",
        &mut q,
        vec![
            Row::is("Property Get", property_get(property::CSTS, 4), sequence),
            Row::is("Property Set", property_set(property::CC, 1), sequence),
            Row::is("Identify", caisson_initiator::client::identify(1, 0, 0, 0), sequence),
            Row::is("Read", io(op::READ, 1, 0, 1).with(Data::In(4096)), sequence),
            Row::is("Keep Alive", Command::new(admin::KEEP_ALIVE, 0), sequence),
            Row::is("Disconnect", Command::fabrics(fctype::DISCONNECT), sequence),
            Row::is("an unknown opcode", Command::new(0xc0, 0), sequence),
            Row::ok("Connect", Queue::connect_command(0, 32, 0, &s.options(NQN).connect_data(0xffff))),
            Row::is(
                "Connect again",
                Queue::connect_command(0, 32, 0, &s.options(NQN).connect_data(0xffff)),
                sequence,
            ),
            Row::is(
                "Identify before it is enabled",
                caisson_initiator::client::identify(1, 0, 0, 0),
                sequence,
            ),
            Row::is(
                "Set Features before it is enabled",
                Command::new(admin::SET_FEATURES, 0).dword(10, 7),
                sequence,
            ),
            Row::ok("Property Get", property_get(property::CSTS, 4)),
        ],
    );
}

#[test]
fn io_queues_join_their_controller_and_only_theirs() {
    let s = Subject::start();
    let mut c = Client::attach(s.options(NQN)).unwrap();
    let refused = |done: Completion, what: &str, want: Status| {
        println!("  {what}: {}", done.status());
        assert!(done.status().is(want), "{what}: {}", done.status());
    };
    let (_q, done) = c.try_io_queue(1, 32).unwrap();
    refused(done, "before the controller is enabled", Status::COMMAND_SEQUENCE_ERROR);
    c.enable().unwrap();
    let (mut one, done) = c.try_io_queue(1, 32).unwrap();
    assert!(done.status().is_success());
    assert_eq!(done.cqe.dw0.get() as u16, c.cntlid, "Connect of an I/O queue returns the controller");
    let (_q, done) = c.try_io_queue(1, 32).unwrap();
    refused(done, "a queue that is there", Status::COMMAND_SEQUENCE_ERROR);
    for (entries, what) in [(1, "1 entry"), (c.max_entries() + 1, "more than MQES")] {
        let (_q, done) = c.try_io_queue(2, entries).unwrap();
        refused(done, &format!("a queue of {what}"), BAD);
    }
    let (_q, done) = c.try_io_queue(2, 2).unwrap();
    assert!(done.status().is_success(), "a queue of 2 entries");
    let (_q, done) = c.try_io_queue(3, c.max_entries()).unwrap();
    assert!(done.status().is_success(), "a queue of MQES + 1 entries");
    let (_q, done) = c.try_io_queue(4000, 32).unwrap();
    refused(done, "queue 4000", BAD);
    let mut other = Client::connect(s.options(NQN).host(STRANGER)).unwrap();
    other.cntlid = c.cntlid;
    let (_q, done) = other.try_io_queue(9, 32).unwrap();
    assert!(!done.status().is_success(), "another host's queue");
    let mut o = s.options(NQN);
    o.hostid[0] ^= 1;
    let mut stranger = open(&s);
    let done = stranger.connect(9, 32, 0, &o.connect_data(c.cntlid)).unwrap();
    assert!(!done.status().is_success(), "the same NQN with another host identifier");
    // What belongs to the admin queue is refused on an I/O queue, and the other way round.
    let no = Status::INVALID_OPCODE.dnr();
    judge(
        "On an I/O queue",
        &mut one,
        vec![
            Row::is("Property Get", property_get(property::CSTS, 4), no),
            Row::is("Property Set", property_set(property::CC, 0), no),
            Row::is("Identify", Command::new(0x06, 1), no),
            Row::is(
                "Connect",
                Queue::connect_command(1, 32, 0, &c.options.connect_data(c.cntlid)),
                Status::COMMAND_SEQUENCE_ERROR.dnr(),
            ),
            Row::is(
                "Disconnect of record format 1",
                Command::fabrics(fctype::DISCONNECT).dword(10, 1),
                Status::CONNECT_INCOMPATIBLE_FORMAT.dnr(),
            ),
            Row::ok("a Read", io(op::READ, BIG.nsid, 0, 1).with(Data::In(4096))),
            Row::ok("Disconnect", Command::fabrics(fctype::DISCONNECT)),
        ],
    );
    assert!(matches!(one.run(Command::new(op::FLUSH, 1)), Err(Error::Closed { .. })), "the queue is gone");
    let again = c.try_io_queue(1, 32).unwrap().1;
    assert!(again.status().is_success(), "and can be made again: {}", again.status());
}

#[test]
fn number_of_queues_is_granted_and_kept() {
    let s = Subject::start();
    let mut c = s.client();
    assert_eq!(c.ask_queues(4).unwrap(), 4);
    assert!(c.try_io_queue(4, 32).unwrap().1.status().is_success());
    let (_q, done) = c.try_io_queue(5, 32).unwrap();
    assert!(done.status().is(BAD), "a fifth queue: {}", done.status());
    let mut c = s.client();
    assert!(c.ask_queues(1000).unwrap() >= 128, "128 I/O queues at least");
    let queues: Vec<_> = (1..=128).map(|qid| c.io_queue(qid, 1024).unwrap()).collect();
    assert_eq!(queues.len(), 128);
    for n in [0xffff_u32, 0xffff_0000, 0xffff_ffff] {
        let bad = c.run(caisson_initiator::client::set_features(7, 0, n, Vec::new())).unwrap();
        assert!(!bad.status().is_success(), "{n:#x} queues: {}", bad.status());
    }
}

#[test]
fn properties_are_read_and_written_by_their_rules() {
    let s = Subject::start();
    let mut c = Client::attach(s.options(NQN)).unwrap();
    let cap = Cap(c.property(property::CAP, 8).unwrap());
    assert_eq!(cap.mqes(), 1023, "{cap:?}");
    assert_eq!((cap.cqr(), cap.dstrd(), cap.css() & 1), (1, 0, 1), "{cap:?}");
    assert!(c.property(property::VS, 4).unwrap() >= 0x0002_0000);
    assert_eq!(c.property(property::CC, 4).unwrap(), 0);
    assert_eq!(c.property(property::CSTS, 4).unwrap(), 0);
    let no = Status::INVALID_FIELD.dnr();
    judge(
        "Properties",
        &mut c.admin,
        vec![
            Row::is("CAP in 4 bytes", property_get(property::CAP, 4), no),
            Row::is("VS in 8 bytes", property_get(property::VS, 8), no),
            Row::is("a size that is reserved", property_get(property::CSTS, 4).dword(10, 2), no),
            Row::is("an offset inside CAP", property_get(4, 4), no),
            Row::is("an offset that is reserved", property_get(0x0c, 4), no),
            Row::is("the highest offset", property_get(u32::MAX, 4), no),
            Row::is("writing CAP", property_set(property::CAP, 1), no),
            Row::is("writing VS", property_set(property::VS, 1), no),
            Row::is("writing CSTS", property_set(property::CSTS, 1), no),
            Row::is("writing CC in 8 bytes", property_set(property::CC, 1).dword(10, 1), no),
            Row::is("writing an offset that is reserved", property_set(0x1000, 1), no),
            Row::is("an unknown fabrics command", Command::fabrics(0x33), Status::INVALID_OPCODE.dnr()),
            Row::is(
                "Disconnect of the admin queue",
                Command::fabrics(fctype::DISCONNECT),
                Status::from_parts(1, 0x85).dnr(),
            ),
        ],
    );
}

#[test]
fn controllers_are_enabled_reset_and_shut_down() {
    let s = Subject::start();
    let mut c = Client::attach(s.options(NQN)).unwrap();
    let csts = |c: &mut Client| Csts(c.property(property::CSTS, 4).unwrap() as u32);
    let good = Cc(0).with_en(1).with_iosqes(6).with_iocqes(4);
    // Configurations that cannot be: fatal status, and a reset leads out of it.
    for (name, cc) in [
        ("a command set that is not there", good.with_css(1)),
        ("a memory page over MPSMAX", good.with_mps(15)),
        ("an arbitration that is not there", good.with_ams(1)),
        ("submission entries of 128 bytes", good.with_iosqes(7)),
        ("completion entries of 32 bytes", good.with_iocqes(5)),
    ] {
        let _ = c.set_property(property::CC, cc.0);
        let state = csts(&mut c);
        println!("  {name}: CSTS {:#x}", state.0);
        assert!(state.rdy() == 0, "{name}: {state:?}");
        c.disable().unwrap();
    }
    c.enable().unwrap();
    assert_eq!(csts(&mut c).rdy(), 1);
    assert_eq!(Cc(c.property(property::CC, 4).unwrap() as u32).en(), 1);
    let mut q = c.io_queue(1, 32).unwrap();
    c.set_feature(0x0b, 0, 0x100, Vec::new()).unwrap();
    let aer = c.admin.submit(Command::new(admin::ASYNC_EVENT, 0)).unwrap();
    // A reset: I/O queues go, requests end, features are at their defaults, the admin queue stays.
    c.disable().unwrap();
    assert_eq!(csts(&mut c).rdy(), 0);
    let ended = c.admin.wait(aer).unwrap();
    assert!(!ended.status().is_success(), "the event request ended: {}", ended.status());
    let gone = q.run(Command::new(op::FLUSH, 1));
    assert!(matches!(gone, Err(Error::Closed { .. })), "the I/O queue is gone: {gone:?}");
    c.enable().unwrap();
    assert_eq!(c.feature(0x0b, 0, 0, 0).unwrap().value, 0, "features are as at the start");
    let mut q = c.io_queue(1, 32).unwrap();
    assert!(q.run(Command::new(op::FLUSH, 1)).unwrap().status().is_success());
    // Shutdown, normal and abrupt.
    for how in [shn::NORMAL, shn::ABRUPT] {
        let cc = Cc(c.property(property::CC, 4).unwrap() as u32);
        c.set_property(property::CC, cc.with_shn(how).0).unwrap();
        let end = std::time::Instant::now() + WAIT;
        while csts(&mut c).shst() != shst::COMPLETE {
            assert!(std::time::Instant::now() < end, "the shutdown ends");
        }
        let after = c.run(caisson_initiator::client::identify(1, 0, 0, 0)).unwrap();
        assert!(!after.status().is_success(), "after a shutdown only properties: {}", after.status());
        c.disable().unwrap();
        assert_eq!(csts(&mut c).shst(), shst::NORMAL);
        c.enable().unwrap();
    }
}

#[test]
fn keep_alive_ends_silent_associations_and_only_those() {
    let s = Subject::start();
    let mut o = s.options(NQN);
    // Long enough that a host may be held up for a while by a busy machine.
    const KATO: Duration = Duration::from_secs(2);
    o.kato_ms = KATO.as_millis() as u32;
    let mut silent = Client::connect(o.clone()).unwrap();
    let mut kept = Client::connect(o.clone()).unwrap();
    let mut busy = Client::connect(o).unwrap();
    let mut q = busy.io_queue(1, 32).unwrap();
    let mut silent_queue = silent.io_queue(1, 32).unwrap();
    let start = std::time::Instant::now();
    // Reading tells that a queue was closed; sending would be a sign of life.
    let mut ended = None;
    while ended.is_none() || start.elapsed() < 2 * KATO {
        assert!(start.elapsed() < 2 * KATO + WAIT, "a silent host's admin queue is closed");
        if ended.is_none() && silent.admin.poll(Duration::ZERO).is_err() {
            ended = Some(start.elapsed());
        }
        kept.tick().unwrap();
        // Traffic on any queue keeps an association alive (CTRATT.TBKAS).
        assert!(q.run(Command::new(op::FLUSH, 1)).unwrap().status().is_success());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("  a silent host was ended after {ended:?}");
    assert!(kept.run(Command::new(admin::KEEP_ALIVE, 0)).unwrap().status().is_success());
    assert!(busy.run(Command::new(admin::KEEP_ALIVE, 0)).unwrap().status().is_success());
    assert!(silent.run(Command::new(admin::KEEP_ALIVE, 0)).is_err(), "a silent host's admin queue is closed");
    assert!(silent_queue.run(Command::new(op::FLUSH, 1)).is_err(), "and its I/O queue");
    // Set Features changes the time-out; it is told rounded up to KAS.
    kept.set_feature(0x0f, 0, 1501, Vec::new()).unwrap();
    let kas = u32::from(kept.identity.as_ref().unwrap().kas.get()) * 100;
    assert!(kas > 0);
    assert_eq!(kept.feature(0x0f, 0, 0, 0).unwrap().value, 1501u32.next_multiple_of(kas));
}

#[test]
fn admin_queue_loss_ends_the_controller() {
    let s = Subject::start();
    let mut c = s.client();
    let mut q = c.io_queue(1, 32).unwrap();
    assert!(q.run(Command::new(op::FLUSH, 1)).unwrap().status().is_success());
    drop(c);
    let end = std::time::Instant::now() + WAIT;
    while q.run(Command::new(op::FLUSH, 1)).is_ok() {
        assert!(std::time::Instant::now() < end, "the I/O queue goes with its controller");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The other way round the controller lives on.
    let mut c = s.client();
    drop(c.io_queue(1, 32).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    c.identify_controller().unwrap();
    let mut again = c.io_queue(1, 32).unwrap();
    assert!(again.run(Command::new(op::FLUSH, 1)).unwrap().status().is_success());
}

#[test]
fn a_removed_host_is_disconnected() {
    let s = Subject::start();
    let mut c = Client::connect(s.options(PRIVATE).host(FRIEND)).unwrap();
    let mut q = c.io_queue(1, 32).unwrap();
    s.target.remove_host(PRIVATE, FRIEND).unwrap();
    let end = std::time::Instant::now() + WAIT;
    while q.run(Command::new(op::FLUSH, 1)).is_ok() || c.identify_controller().is_ok() {
        assert!(std::time::Instant::now() < end, "both queues are closed");
    }
    let refused = Client::attach(s.options(PRIVATE).host(FRIEND)).unwrap_err();
    assert!(
        matches!(refused, Error::NotAdmitted { status, .. } if status.is(Status::CONNECT_INVALID_HOST)),
        "{refused}"
    );
    s.target.allow_host(PRIVATE, FRIEND).unwrap();
    Client::connect(s.options(PRIVATE).host(FRIEND)).unwrap();
    let mut c = s.client();
    s.target.remove_subsystem(NQN).unwrap();
    let end = std::time::Instant::now() + WAIT;
    while c.identify_controller().is_ok() {
        assert!(std::time::Instant::now() < end, "a removed subsystem's controllers go");
    }
}

#[test]
fn sqhd_follows_the_queue() {
    let s = Subject::start();
    let mut c = s.client();
    // Write Zeroes is answered with a response capsule, which carries SQHD; 8 entries, so it wraps.
    let mut q = c.io_queue(1, 8).unwrap();
    let mut last = None;
    for i in 0..40 {
        let done = q.run(Command::new(op::FLUSH, BIG.nsid)).unwrap();
        assert!(!done.implied);
        let sqhd = done.cqe.sqhd.get();
        assert!(sqhd < 8, "SQHD {sqhd} of 8 entries");
        if let Some(last) = last {
            assert_eq!(sqhd, (last + 1) % 8, "command {i}");
        }
        last = Some(sqhd);
    }
    assert_eq!(FABRICS, 0x7f);
}
