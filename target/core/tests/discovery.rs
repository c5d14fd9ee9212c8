//! Discovery: who sees what, a log that does not move under its reader, and being told of changes.

mod support;

use caisson_core::*;
use caisson_wire::discovery::*;
use caisson_wire::fabrics::{DISCOVERY_NQN, nqn_of};
use caisson_wire::feature::AsyncEvent;
use caisson_wire::identify::{IdentifyController, ascii_of, cntrltype};
use caisson_wire::opcode::{admin as adm, io as opc};
use caisson_wire::{Sqe, Status};
use support::*;

const SECOND: &str = "nqn.2024-01.io.caisson:two";

/// What a host tells of an entry.
type Seen = (u8, String, String, String, u16);

fn read(w: &mut World, c: usize) -> (u64, Vec<DiscoveryEntry>) {
    let head = w.run(c, log(0x70, 0, 1024, true), room(1024)).ok().data;
    let header = DiscoveryHeader::decode(&head).unwrap();
    assert_eq!(header.recfmt.get(), 0);
    let mut entries = Vec::new();
    for i in 0..header.numrec.get() {
        let data = w.run(c, log(0x70, 1024 + i * 1024, 1024, true), room(1024)).ok().data;
        entries.push(DiscoveryEntry::decode(&data).unwrap());
    }
    (header.genctr.get(), entries)
}

fn seen(w: &mut World, c: usize) -> Vec<Seen> {
    let text = |e: &DiscoveryEntry| {
        let nqn = nqn_of(&e.subnqn).unwrap().to_string();
        (e.subtype, nqn, ascii_of(&e.traddr), ascii_of(&e.trsvcid), e.portid.get())
    };
    read(w, c).1.iter().map(text).collect()
}

fn s(subtype: u8, nqn: &str, address: &str, service: &str, port: u16) -> Seen {
    (subtype, nqn.into(), address.into(), service.into(), port)
}

fn port(id: u16, address: &str, service: u16, exports: Exports, discovery: bool) -> PortSpec {
    let address = address.parse().unwrap();
    PortSpec { id: PortId(id), transport: Transport::Tcp, address, service, exports, discovery }
}

#[test]
fn the_log_is_what_this_host_may_reach() {
    let mut w = World::new(4096);
    let mut spec = SubsystemSpec::new(SECOND, "S2");
    spec.controllers = ControllerModel::Static(vec![1]);
    w.target.add_subsystem(spec).unwrap();
    w.target.add_port(port(2, "2001:db8::1", 4421, Exports::Only(vec![SECOND.into()]), false)).unwrap();
    let c = w.discovery(HOST, 0);
    let own = s(3, DISCOVERY_NQN, "192.0.2.1", "4420", 1);
    assert_eq!(seen(&mut w, c), [own.clone(), s(2, NQN, "192.0.2.1", "4420", 1)]);
    w.target.allow_host(SECOND, HOST).unwrap();
    assert_eq!(
        seen(&mut w, c),
        [
            own.clone(),
            s(2, NQN, "192.0.2.1", "4420", 1),
            s(2, SECOND, "192.0.2.1", "4420", 1),
            s(2, SECOND, "2001:db8::1", "4421", 2),
        ]
    );
    let (_, entries) = read(&mut w, c);
    let last = entries.last().unwrap();
    assert_eq!((last.trtype, last.adrfam, last.cntlid.get()), (trtype::TCP, adrfam::IPV6, 0xfffe));
    assert!(last.asqsz.get() >= 32);
    assert_eq!(last.tsas(), Some(Tsas::Tcp { sectype: sectype::NONE }));
    assert_eq!((entries[1].cntlid.get(), entries[1].adrfam), (0xffff, adrfam::IPV4));
    assert_ne!(entries[0].eflags.get() & eflags::EPCSD, 0);
    let other = w.discovery(OTHER, 0);
    assert_eq!(seen(&mut w, other).len(), 2);
    w.target.set_allow_any(NQN, false).unwrap();
    assert_eq!(seen(&mut w, other), [own]);
}

#[test]
fn a_wildcard_port_is_told_as_it_was_reached() {
    let mut w = World::new(4096);
    w.target.add_port(port(2, "0.0.0.0", 8009, Exports::Only(vec![NQN.into()]), false)).unwrap();
    w.target.add_port(port(3, "::", 8010, Exports::Only(vec![NQN.into()]), false)).unwrap();
    let c = w.discovery(HOST, 0);
    assert_eq!(seen(&mut w, c).len(), 2, "nothing to tell when it is not known");
    w.local = Some("198.51.100.7".parse().unwrap());
    let c = w.discovery(HOST, 0);
    let all = seen(&mut w, c);
    assert_eq!(all[2..], [s(2, NQN, "198.51.100.7", "8009", 2), s(2, NQN, "198.51.100.7", "8010", 3)]);
    w.local = Some("2001:db8::7".parse().unwrap());
    let c = w.discovery(HOST, 0);
    assert_eq!(seen(&mut w, c)[2..], [s(2, NQN, "2001:db8::7", "8010", 3)]);
}

#[test]
fn referrals_are_told() {
    let mut w = World::new(4096);
    let referral = Referral {
        nqn: DISCOVERY_NQN.into(),
        transport: Transport::Rdma,
        address: "203.0.113.9".parse().unwrap(),
        service: 4420,
        port: PortId(9),
    };
    w.target.add_referral(referral.clone()).unwrap();
    assert_eq!(w.target.add_referral(referral.clone()), Err(ManageError::ReferralExists));
    let c = w.discovery(HOST, 0);
    assert_eq!(seen(&mut w, c)[2], s(1, DISCOVERY_NQN, "203.0.113.9", "4420", 9));
    assert_eq!(read(&mut w, c).1[2].trtype, trtype::RDMA);
    // Only this port's own entries.
    let mut sqe = log(0x70, 0, 1024, true);
    sqe.cdw10.set(sqe.cdw10.get() | u32::from(lsp::PORT_LOCAL) << 8);
    let head = w.run(c, sqe, room(1024)).ok().data;
    assert_eq!(DiscoveryHeader::decode(&head).unwrap().numrec.get(), 2);
    w.target.remove_referral(&referral).unwrap();
    assert_eq!(seen(&mut w, c).len(), 2);
}

#[test]
fn a_log_does_not_move_under_its_reader() {
    let mut w = World::new(4096);
    let c = w.discovery(HOST, 0);
    let head = w.run(c, log(0x70, 0, 1024, true), room(1024)).ok().data;
    let before = DiscoveryHeader::decode(&head).unwrap();
    w.target.remove_subsystem(NQN).unwrap();
    let data = w.run(c, log(0x70, 1024, 2048, true), room(2048)).ok().data;
    let second = DiscoveryEntry::decode(&data[1024..]).unwrap();
    assert_eq!(nqn_of(&second.subnqn), Some(NQN), "as the header said");
    let head = w.run(c, log(0x70, 0, 16, true), room(16)).ok().data;
    let genctr = u64::from_le_bytes(head[..8].try_into().unwrap());
    assert_ne!(genctr, before.genctr.get(), "so the host starts over");
    assert_eq!(seen(&mut w, c).len(), 1);
    w.run(c, log(0x70, 4096, 4, true), room(4)).is(Status::INVALID_FIELD);
}

#[test]
fn reading_an_older_log_does_not_swallow_its_change() {
    let mut w = World::new(4096);
    let c = w.discovery(HOST, 30_000);
    w.run(c, features(true, 0x0b, 1 << 31, 0), Payload::None).ok();
    w.run(c, log(0x70, 0, 1024, true), room(1024)).ok();
    w.target.remove_subsystem(NQN).unwrap();
    w.pump();
    // Still the log of before, read without RAE, and not to its end.
    w.run(c, log(0x70, 1024, 1024, false), room(1024)).ok();
    let slot = w.send(c, aer(), Payload::None);
    assert_eq!(w.reply(c, slot).unwrap().ok().dw0(), AsyncEvent::DISCOVERY_CHANGE.dw0());
    // Told, and read anew: not told again.
    w.run(c, log(0x70, 0, 1024, false), room(1024)).ok();
    let slot = w.send(c, aer(), Payload::None);
    assert!(w.reply(c, slot).is_none());
}

#[test]
fn port_local_entries_are_told_to_be_there_to_ask_for() {
    let mut w = World::new(4096);
    let c = w.discovery(HOST, 0);
    let pages = w.run(c, log(0, 0, 1024, true), room(1024)).ok().data;
    let discovery = u32::from_le_bytes(pages[0x70 * 4..0x71 * 4].try_into().unwrap());
    assert_eq!(discovery, 1 | 1 << 17, "LSUPP, and PLEOS of EXTDLPES, PLEOS and ALLSUBES");
}

#[test]
fn hundreds_of_subsystems() {
    let mut w = World::new(4096);
    for i in 0..500 {
        let mut spec = SubsystemSpec::new(format!("{SECOND}-{i:03}"), format!("S{i}"));
        spec.allow_any = i % 2 == 0;
        w.target.add_subsystem(spec).unwrap();
    }
    let c = w.discovery(HOST, 0);
    let len = page_len(252) as u32;
    let whole = w.run(c, log(0x70, 0, u64::from(len), true), room(len)).ok().data;
    assert_eq!(DiscoveryHeader::decode(&whole).unwrap().numrec.get(), 252);
    let last = DiscoveryEntry::decode(&whole[len as usize - 1024..]).unwrap();
    assert_eq!(nqn_of(&last.subnqn), Some(format!("{SECOND}-498").as_str()));
}

#[test]
fn persistent_controllers_are_told_of_changes() {
    let mut w = World::new(4096);
    let c = w.discovery(HOST, 30_000);
    w.run(c, features(true, 0x0b, 1 << 8, 0), Payload::None).is(Status::INVALID_FIELD);
    w.run(c, features(true, 0x0b, 1 << 31, 0), Payload::None).ok();
    w.run(c, log(0x70, 0, 1024, false), room(1024)).ok();
    let slot = w.send(c, aer(), Payload::None);
    assert!(w.reply(c, slot).is_none());
    // What this host cannot see does not concern it.
    w.target.add_subsystem(SubsystemSpec::new(SECOND, "S2")).unwrap();
    w.target.allow_host(SECOND, OTHER).unwrap();
    w.pump();
    assert!(w.reply(c, slot).is_none());
    w.target.allow_host(SECOND, HOST).unwrap();
    w.pump();
    assert_eq!(w.reply(c, slot).unwrap().ok().dw0(), AsyncEvent::DISCOVERY_CHANGE.dw0());
    let slot = w.send(c, aer(), Payload::None);
    w.target.remove_host(SECOND, HOST).unwrap();
    w.target.allow_host(SECOND, HOST).unwrap();
    w.pump();
    assert!(w.reply(c, slot).is_none(), "not before the log was read");
    w.run(c, log(0x70, 0, 1024, false), room(1024)).ok();
    w.target.allow_host(SECOND, HOST).unwrap();
    w.pump();
    assert!(w.reply(c, slot).is_none(), "nothing changed");
    w.target.remove_port(PortId(9)).unwrap_err();
    w.target.remove_host(SECOND, HOST).unwrap();
    w.pump();
    w.reply(c, slot).unwrap().ok();
    w.pass(30_000);
    w.pass(30_000);
    assert_eq!(w.conns[c].closed, Some(CloseReason::KeepAliveExpired));
}

#[test]
fn without_keep_alive_it_lives_while_it_is_used() {
    let mut w = World::new(4096);
    let c = w.discovery(HOST, 0);
    for _ in 0..5 {
        w.pass(100_000);
        w.run(c, log(0x70, 0, 1024, true), room(1024)).ok();
    }
    w.pass(120_000);
    w.pass(120_000);
    assert_eq!(w.conns[c].closed, Some(CloseReason::Idle));
}

#[test]
fn it_has_a_discovery_controllers_commands_only() {
    let mut w = World::new(4096);
    let c = w.discovery(HOST, 0);
    let d = IdentifyController::decode(&w.run(c, identify(1, 0), room(4096)).ok().data).unwrap();
    assert_eq!(d.cntrltype, cntrltype::DISCOVERY);
    assert_eq!(&d.subnqn[..DISCOVERY_NQN.len()], DISCOVERY_NQN.as_bytes());
    assert_eq!((d.nn.get(), d.oncs.get()), (0, 0));
    for cns in [0, 2, 3, 5, 6, 8, 0x13, 0x1c] {
        w.run(c, identify(cns, 1), room(4096)).is(Status::INVALID_FIELD);
    }
    for lid in [2, 3, 4, 0x0c] {
        w.run(c, log(lid, 0, 512, true), room(512)).is(Status::INVALID_LOG_PAGE);
    }
    for fid in [1, 2, 4, 5, 6, 7, 0x0e, 0x81, 0x84] {
        w.run(c, features(false, fid, 0, 0), room(512)).is(Status::INVALID_FIELD);
    }
    for opcode in [adm::ABORT, adm::FORMAT_NVM, adm::NS_MANAGEMENT, opc::WRITE] {
        w.run(c, Sqe { opcode, ..Sqe::default() }, Payload::None).is(Status::INVALID_OPCODE);
    }
    w.run(c, log(0, 0, 1024, true), room(1024)).ok();
    // And no I/O queue.
    let q = w.open();
    let data = caisson_wire::fabrics::ConnectData::new(HOSTID, d.cntlid.get(), DISCOVERY_NQN, HOST);
    assert_eq!(w.connect_with(q, connect(1, 31, 0), &data).is(Status::CONNECT_INVALID_PARAMETERS).dw0(), 42);
}

#[test]
fn an_io_controller_has_no_discovery_log() {
    let mut w = World::new(4096);
    let (a, _) = w.admin(NQN, HOST, 0);
    w.run(a, log(0x70, 0, 1024, true), room(1024)).is(Status::INVALID_LOG_PAGE);
}
