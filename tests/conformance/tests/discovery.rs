//! The discovery service (Base 2.1, 3.1.3.3 and 5.1.12.3.1).

use caisson_conformance::subject::{FRIEND, NQN, PRIVATE, STRANGER, Subject};
use caisson_conformance::{Row, judge};
use caisson_core::{PortId, Referral, SubsystemSpec, Transport};
use caisson_initiator::client::{get_log_page, identify};
use caisson_initiator::discover::{self, Page};
use caisson_initiator::{Client, Command};
use caisson_wire::Status;
use caisson_wire::discovery::{DiscoveryHeader, lsp};
use caisson_wire::fabrics::DISCOVERY_NQN;
use caisson_wire::feature::{AsyncEvent, fid};
use caisson_wire::identify::{IdentifyController, cntrltype};
use caisson_wire::log::{GetLogPage, lid};
use caisson_wire::opcode::admin;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

fn names(page: &Page, subtype: &str) -> Vec<String> {
    let of = |e: &&discover::Entry| e.subtype == subtype;
    let mut all: Vec<_> = page.entries.iter().filter(of).map(|e| e.subnqn.clone()).collect();
    all.sort();
    all
}

fn log(offset: u64) -> GetLogPage {
    GetLogPage { lid: lid::DISCOVERY, offset, ..GetLogPage::default() }
}

#[test]
fn each_host_sees_what_it_may_connect_to() {
    let s = Subject::start();
    let seen = |host: &str| discover::read(&mut s.discovery(host)).unwrap();
    let page = seen(STRANGER);
    println!("{page}");
    assert_eq!(names(&page, "nvme subsystem"), [NQN]);
    assert_eq!(names(&page, "current discovery subsystem"), [DISCOVERY_NQN]);
    assert_eq!(names(&seen(FRIEND), "nvme subsystem"), [NQN, PRIVATE]);
    let entry = page.entries.iter().find(|e| e.subnqn == NQN).unwrap();
    let way = s.address.transport.name();
    assert_eq!((entry.trtype.as_str(), entry.adrfam.as_str()), (way, "ipv4"));
    assert_eq!(
        (entry.traddr.as_str(), entry.trsvcid.clone()),
        (s.address.host.as_str(), s.address.port.to_string())
    );
    assert_eq!((entry.cntlid, entry.portid), (0xffff, 1));
    assert!(entry.asqsz >= 32);
    assert_eq!(entry.sectype.as_deref(), (!s.address.is_rdma()).then_some("none"));
}

#[test]
fn what_changes_is_seen_and_counted() {
    let s = Subject::start();
    let mut c = s.discovery(STRANGER);
    let first = discover::read(&mut c).unwrap();
    assert_eq!(discover::read(&mut c).unwrap().generation, first.generation, "nothing changed");
    s.target.allow_host(PRIVATE, STRANGER).unwrap();
    let second = discover::read(&mut c).unwrap();
    assert_ne!(second.generation, first.generation);
    assert_eq!(names(&second, "nvme subsystem"), [NQN, PRIVATE]);
    s.target.remove_host(PRIVATE, STRANGER).unwrap();
    let referral = Referral {
        nqn: DISCOVERY_NQN.into(),
        transport: Transport::Tcp,
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        service: 8009,
        port: PortId(9),
    };
    s.target.add_referral(referral.clone()).unwrap();
    let third = discover::read(&mut c).unwrap();
    assert_eq!(names(&third, "nvme subsystem"), [NQN]);
    let entry = third.entries.iter().find(|e| e.subtype == "discovery subsystem referral").unwrap();
    assert_eq!((entry.traddr.as_str(), entry.trsvcid.as_str()), ("192.0.2.1", "8009"));
    s.target.remove_referral(&referral).unwrap();
    assert_eq!(discover::read(&mut c).unwrap().entries, first.entries);
}

#[test]
fn hundreds_of_subsystems_are_read_in_pieces_while_they_change() {
    let s = Subject::start();
    for i in 0..400 {
        let mut spec = SubsystemSpec::new(format!("nqn.2026-01.io.example:many{i:03}"), "MANY");
        spec.allow_any = true;
        s.target.add_subsystem(spec).unwrap();
    }
    let mut c = s.discovery(STRANGER);
    let page = discover::read(&mut c).unwrap();
    assert_eq!(names(&page, "nvme subsystem").len(), 401);
    // Entries read after the header are those that the header counted, whatever happens in between.
    let header = DiscoveryHeader::decode(&c.log_page(0, log(0), 1024).unwrap()).unwrap();
    for i in 0..400 {
        s.target.remove_subsystem(&format!("nqn.2026-01.io.example:many{i:03}")).unwrap();
    }
    let tail = c.log_page(0, log(1024 * header.numrec.get()), 1024).unwrap();
    assert!(tail.iter().any(|&b| b != 0), "the last entry is there though it is gone by now");
    let now = DiscoveryHeader::decode(&c.log_page(0, log(0), 1024).unwrap()).unwrap();
    assert_ne!(now.genctr, header.genctr, "and reading the header again tells of the change");
    assert_eq!(now.numrec.get(), 2);
}

#[test]
fn persistent_controllers_are_told_of_changes() {
    let s = Subject::start();
    let mut o = s.options(DISCOVERY_NQN).host(STRANGER);
    o.kato_ms = 30_000;
    let mut c = Client::connect(o).unwrap();
    c.set_feature(fid::ASYNC_EVENT, 0, 1 << 31, Vec::new()).unwrap();
    let cid = c.admin.submit(Command::new(admin::ASYNC_EVENT, 0)).unwrap();
    c.admin.poll(Duration::from_millis(50)).unwrap();
    assert!(c.admin.take(cid).is_none());
    s.target.allow_host(PRIVATE, STRANGER).unwrap();
    let done = c.admin.wait(cid).unwrap();
    assert_eq!(AsyncEvent::from_dw0(done.cqe.dw0.get()), AsyncEvent::DISCOVERY_CHANGE);
    assert_eq!(names(&discover::read(&mut c).unwrap(), "nvme subsystem"), [NQN, PRIVATE]);
    let cid = c.admin.submit(Command::new(admin::ASYNC_EVENT, 0)).unwrap();
    s.target.remove_subsystem(PRIVATE).unwrap();
    assert!(c.admin.wait(cid).unwrap().status().is_success(), "told again after the page was read");
}

#[test]
fn discovery_controllers_have_their_own_rules() {
    let s = Subject::start();
    let mut c = s.discovery(STRANGER);
    let id = c.identity.clone().unwrap();
    assert_eq!(id.cntrltype, cntrltype::DISCOVERY);
    assert!(IdentifyController::decode(&c.identify(1, 0, 0).unwrap()).is_some());
    let invalid = Status::INVALID_FIELD.dnr();
    let no_page = Status::INVALID_LOG_PAGE.dnr();
    let with = |lsp| GetLogPage { lsp, ..log(0) };
    judge(
        "A discovery controller",
        &mut c.admin,
        vec![
            Row::is("Identify Namespace", identify(0, 1, 0, 0), invalid),
            Row::is("active namespaces", identify(2, 0, 0, 0), invalid),
            Row::is("the SMART log", get_log_page(0, GetLogPage { lid: lid::SMART, ..log(0) }, 512), no_page),
            Row::ok("the log, its header", get_log_page(0, log(0), 1024)),
            Row::ok("the log, 16 bytes of it", get_log_page(0, log(0), 16)),
            Row::ok("entries of this port", get_log_page(0, with(lsp::PORT_LOCAL), 4096)),
            Row::is("an offset that is no dword", get_log_page(0, log(2), 1024), invalid),
            Row::is("an offset past the end", get_log_page(0, log(1 << 30), 1024), invalid),
            Row::is("Abort", Command::new(admin::ABORT, 0), Status::INVALID_OPCODE.dnr()),
            Row::ok("Keep Alive", Command::new(admin::KEEP_ALIVE, 0)),
        ],
    );
    let (_q, done) = c.try_io_queue(1, 32).unwrap();
    assert!(!done.status().is_success(), "it has no I/O queues");
}
