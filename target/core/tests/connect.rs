//! Connect: every field's extremes, who may, which controller; properties; what is out of sequence.

mod support;

use caisson_core::*;
use caisson_wire::fabrics::{ConnectData, DISCOVERY_NQN};
use caisson_wire::opcode::{admin as adm, io as opc};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::{Sqe, Status};
use support::*;

fn good() -> ConnectData {
    ConnectData::new(HOSTID, 0xffff, NQN, HOST)
}

/// DW0 of a refusal at a byte of the data.
fn at_data(byte: u32) -> u32 {
    byte | 1 << 16
}

#[test]
fn each_bad_field_is_named() {
    let mut no_end = good();
    no_end.subnqn = [b'n'; 256];
    let mut no_host = good();
    no_host.hostnqn = [0; 256];
    let recfmt = Sqe { cdw10: u32le(1), ..connect(0, 31, 0) };
    let refused = Status::CONNECT_INVALID_PARAMETERS;
    let table: Vec<(&str, Sqe, ConnectData, Status, u32)> = vec![
        ("recfmt", recfmt, good(), Status::CONNECT_INCOMPATIBLE_FORMAT, 0),
        ("sqsize 0", connect(0, 0, 0), good(), refused, 44),
        ("sqsize 30", connect(0, 30, 0), good(), refused, 44),
        ("sqsize 1024", connect(0, 1024, 0), good(), refused, 44),
        ("sqsize ffff", connect(0, 0xffff, 0), good(), refused, 44),
        ("qid 129", connect(129, 31, 0), good(), refused, 42),
        ("hostid 0", connect(0, 31, 0), ConnectData { hostid: [0; 16], ..good() }, refused, at_data(0)),
        ("cntlid 5", connect(0, 31, 0), ConnectData::new(HOSTID, 5, NQN, HOST), refused, at_data(16)),
        ("cntlid fffe", connect(0, 31, 0), ConnectData::new(HOSTID, 0xfffe, NQN, HOST), refused, at_data(16)),
        ("subnqn", connect(0, 31, 0), ConnectData::new(HOSTID, 0xffff, "nqn.x", HOST), refused, at_data(256)),
        ("subnqn without end", connect(0, 31, 0), no_end, refused, at_data(256)),
        ("hostnqn", connect(0, 31, 0), no_host, refused, at_data(512)),
        (
            "io without controller",
            connect(1, 31, 0),
            ConnectData::new(HOSTID, 9, NQN, HOST),
            refused,
            at_data(16),
        ),
    ];
    for (name, sqe, data, status, dw0) in table {
        let mut w = World::new(4096);
        let c = w.open();
        let reply = w.connect_with(c, sqe, &data);
        assert!(reply.status().is(status), "{name}: {}", reply.status());
        assert_eq!(reply.dw0(), dw0, "{name}");
        assert!(reply.status().is_dnr(), "{name}");
        // The queue may try again.
        w.connect_with(c, connect(0, 31, 0), &good()).ok();
    }
}

#[test]
fn data_may_be_pulled_and_must_be_whole() {
    let mut w = World::new(4096);
    let c = w.open();
    w.run(c, connect(0, 31, 0), Payload::None).is(Status::INVALID_SGL_LENGTH);
    w.run(c, connect(0, 31, 0), capsule(vec![0; 1023])).is(Status::INVALID_SGL_LENGTH);
    w.run(c, connect(0, 31, 0), room(1025)).is(Status::INVALID_SGL_LENGTH);
    w.run_pull(c, connect(0, 1023, 0), good().as_bytes().to_vec()).ok();
    assert_eq!(w.csts(c), 0);
    w.run(c, connect(0, 31, 0), capsule(good().as_bytes().to_vec())).is(Status::COMMAND_SEQUENCE_ERROR);
}

#[test]
fn before_connect_all_else_is_out_of_sequence() {
    let mut w = World::new(4096);
    for sqe in [identify(1, 0), get_property(0, true), set_cc(1), io(opc::READ, 1, 0, 1), aer()] {
        let c = w.open();
        w.run(c, sqe, Payload::None).is(Status::COMMAND_SEQUENCE_ERROR);
    }
}

#[test]
fn access_list_decides_and_a_removed_host_goes() {
    let mut w = World::new(4096);
    let (kept, _) = w.admin(NQN, OTHER, 0);
    w.target.allow_host(NQN, OTHER).unwrap();
    w.target.set_allow_any(NQN, false).unwrap();
    let c = w.open();
    let reply = w.connect_with(c, connect(0, 31, 0), &good());
    reply.is(Status::CONNECT_INVALID_HOST);
    w.target.allow_host(NQN, HOST).unwrap();
    w.connect_with(c, connect(0, 31, 0), &good()).ok();
    w.run(c, set_cc(CC_ENABLE), Payload::None).ok();
    let id = w.target.snapshot().subsystems[0].controllers.last().unwrap().cntlid;
    let q = w.io(id, 1);
    w.target.remove_host(NQN, HOST).unwrap();
    w.pump();
    assert_eq!(w.conns[c].closed, Some(CloseReason::AccessRemoved));
    assert_eq!(w.conns[q].closed, Some(CloseReason::AccessRemoved));
    assert_eq!(w.conns[kept].closed, None);
    w.hang_up(c);
    w.hang_up(q);
    assert_eq!(w.target.snapshot().subsystems[0].controllers.len(), 1);
    assert!(w.target.remove_host(NQN, HOST).is_err());
}

#[test]
fn dynamic_ids_differ_and_are_not_reused_at_once() {
    let mut w = World::new(4096);
    let (a, first) = w.admin(NQN, HOST, 0);
    let (_, second) = w.admin(NQN, HOST, 0);
    assert_ne!(first, second);
    w.hang_up(a);
    let (_, third) = w.admin(NQN, HOST, 0);
    assert!(third != first && third != second);
}

#[test]
fn static_ids_are_of_one_association_each() {
    let mut w = World::new(4096);
    let nqn = "nqn.2024-01.io.caisson:static";
    let mut spec = SubsystemSpec::new(nqn, "S2");
    (spec.allow_any, spec.controllers) = (true, ControllerModel::Static(vec![3, 8]));
    w.target.add_subsystem(spec).unwrap();
    let ask = |w: &mut World, id: u16| {
        let c = w.open();
        (c, w.connect_with(c, connect(0, 31, 0), &ConnectData::new(HOSTID, id, nqn, HOST)))
    };
    ask(&mut w, 0xffff).1.is(Status::CONNECT_INVALID_PARAMETERS);
    ask(&mut w, 4).1.is(Status::CONNECT_INVALID_PARAMETERS);
    let (c, reply) = ask(&mut w, 8);
    assert_eq!(reply.ok().dw0(), 8);
    ask(&mut w, 8).1.is(Status::CONNECT_CONTROLLER_BUSY);
    assert_eq!(ask(&mut w, 0xfffe).1.ok().dw0(), 3);
    let busy = ask(&mut w, 0xfffe).1;
    busy.is(Status::CONNECT_CONTROLLER_BUSY);
    assert!(!busy.status().is_dnr(), "it may be free later");
    w.hang_up(c);
    assert_eq!(ask(&mut w, 0xfffe).1.ok().dw0(), 8);
}

#[test]
fn an_io_queue_joins_its_own_hosts_ready_controller() {
    let mut w = World::new(4096);
    let (a, id) = w.admin_disabled(NQN, HOST, 0);
    let c = w.open();
    let data = ConnectData::new(HOSTID, id, NQN, HOST);
    w.connect_with(c, connect(1, 31, 0), &data).is(Status::COMMAND_SEQUENCE_ERROR);
    w.run(a, set_cc(CC_ENABLE), Payload::None).ok();
    let mut tried = |qid: u16, sqsize: u16, data: ConnectData| {
        let c = w.open();
        w.connect_with(c, connect(qid, sqsize, 0), &data)
    };
    let params = Status::CONNECT_INVALID_PARAMETERS;
    assert_eq!(tried(1, 31, ConnectData::new([8; 16], id, NQN, HOST)).is(params).dw0(), at_data(0));
    assert_eq!(tried(1, 31, ConnectData::new(HOSTID, id, NQN, OTHER)).is(params).dw0(), at_data(512));
    assert_eq!(tried(1, 0, data).is(params).dw0(), 44);
    assert_eq!(tried(1, 1024, data).is(params).dw0(), 44);
    tried(1, 1023, data).ok();
    tried(1, 31, data).is(Status::COMMAND_SEQUENCE_ERROR);
    tried(128, 1, data).ok();
    assert_eq!(tried(129, 31, data).is(params).dw0(), 42);
}

#[test]
fn granted_queues_bound_the_ids() {
    let mut w = World::new(4096);
    let (a, id) = w.admin(NQN, HOST, 0);
    let asked = w.run(a, features(true, 7, 3 | 4 << 16, 0), Payload::None).ok();
    assert_eq!(asked.dw0(), 3 | 3 << 16);
    w.run(a, features(true, 7, 0xffff, 0), Payload::None).is(Status::INVALID_FIELD);
    w.run(a, features(true, 7, 0xffff_0000, 0), Payload::None).is(Status::INVALID_FIELD);
    let c = w.open();
    let data = ConnectData::new(HOSTID, id, NQN, HOST);
    assert_eq!(w.connect_with(c, connect(5, 31, 0), &data).dw0(), 42);
    w.connect_with(c, connect(4, 31, 0), &data).ok();
    w.run(a, features(true, 7, 0, 0), Payload::None).is(Status::COMMAND_SEQUENCE_ERROR);
    let c = w.run(a, features(false, 7, 0, 0), Payload::None).ok();
    assert_eq!(c.dw0(), 3 | 3 << 16);
}

#[test]
fn ports_decide_what_can_be_reached() {
    let mut w = World::new(4096);
    w.target.set_exports(PORT, Exports::Only(vec![]), false).unwrap();
    let c = w.open();
    assert_eq!(w.connect_with(c, connect(0, 31, 0), &good()).dw0(), at_data(256));
    let discovery = ConnectData::new(HOSTID, 0xffff, DISCOVERY_NQN, HOST);
    assert_eq!(w.connect_with(c, connect(0, 31, 0), &discovery).dw0(), at_data(256));
    w.target.set_exports(PORT, Exports::Only(vec![NQN.into()]), true).unwrap();
    w.connect_with(c, connect(0, 31, 0), &good()).ok();
    let d = w.open();
    w.connect_with(d, connect(0, 31, 0), &discovery).ok();
    w.target.remove_port(PORT).unwrap();
    w.pump();
    assert_eq!(w.conns[c].closed, Some(CloseReason::PortRemoved));
    assert_eq!(w.conns[d].closed, Some(CloseReason::PortRemoved));
}

#[test]
fn nothing_is_taken_before_enable_but_fabrics() {
    let mut w = World::new(4096);
    let (a, _) = w.admin_disabled(NQN, HOST, 0);
    for sqe in [identify(1, 0), aer(), features(false, 7, 0, 0), log(2, 0, 512, false)] {
        w.run(a, sqe, room(4096)).is(Status::COMMAND_SEQUENCE_ERROR);
    }
    let cap = w.run(a, get_property(0, true), Payload::None).ok();
    assert_eq!(cap.cqe.result() & 0xffff, 1023);
    w.run(a, get_property(0, false), Payload::None).is(Status::INVALID_FIELD);
    w.run(a, get_property(0x14, true), Payload::None).is(Status::INVALID_FIELD);
    w.run(a, get_property(0x20, false), Payload::None).is(Status::INVALID_FIELD);
    assert_eq!(w.run(a, get_property(8, false), Payload::None).ok().dw0(), 0x2_0100);
    w.run(a, Sqe { cdw11: u32le(0x1c), ..set_cc(0) }, Payload::None).is(Status::INVALID_FIELD);
    w.run(a, Sqe { cdw10: u32le(1), ..set_cc(1) }, Payload::None).is(Status::INVALID_FIELD);
    w.run(a, fabrics(0x05), Payload::None).is(Status::INVALID_OPCODE);
    w.run(a, Sqe { opcode: adm::CREATE_SQ, ..Sqe::default() }, Payload::None)
        .is(Status::COMMAND_SEQUENCE_ERROR);
}

#[test]
fn a_reset_ends_io_queues_and_keeps_the_admin_queue() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    let parked = w.send(a, aer(), Payload::None);
    w.run(a, features(true, 0x0b, 1 << 8, 0), Payload::None).ok();
    w.run(a, set_cc(CC_ENABLE & !1), Payload::None).ok();
    assert_eq!(w.csts(a), 0);
    assert_eq!(w.conns[q].closed, Some(CloseReason::ControllerReset));
    w.reply(a, parked).unwrap().is(Status::ABORT_SQ_DELETION);
    w.hang_up(q);
    w.run(a, set_cc(CC_ENABLE), Payload::None).ok();
    assert_eq!(w.csts(a), 1);
    assert_eq!(w.run(a, features(false, 0x0b, 0, 0), Payload::None).ok().dw0(), 0, "as at the start");
    let id = w.target.snapshot().subsystems[0].controllers[0].cntlid;
    w.io(id, 1);
}

#[test]
fn a_shutdown_writes_out_and_then_says_so() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    w.disk.with(|d| d.hold = true);
    w.run(a, set_cc(CC_ENABLE | 1 << 14), Payload::None).ok();
    assert_eq!(w.csts(a), 0b0101, "under way");
    assert_eq!(w.disk.seen(), ["flush"]);
    assert_eq!(w.in_flight(a), 1);
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).is(Status::COMMAND_SEQUENCE_ERROR);
    w.release();
    assert_eq!(w.csts(a), 0b1001, "complete");
    w.run(a, identify(1, 0), room(4096)).is(Status::COMMAND_SEQUENCE_ERROR);
    w.disk.with(|d| d.hold = false);
    w.run(a, set_cc(CC_ENABLE & !1), Payload::None).ok();
    assert_eq!(w.csts(a), 0);
    w.run(a, set_cc(CC_ENABLE), Payload::None).ok();
    assert_eq!(w.csts(a), 1);
}

#[test]
fn losing_the_admin_queue_closes_the_others() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    w.hang_up(a);
    assert_eq!(w.conns[q].closed, Some(CloseReason::AdminQueueGone));
    w.hang_up(q);
    let s = w.target.snapshot();
    assert!(s.subsystems[0].controllers.is_empty());
    assert_eq!(s.counters.queues, 0);
}

#[test]
fn disconnect_deletes_an_io_queue_only() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    assert_eq!(w.run(a, fabrics(8), Payload::None).status().sc(), 0x85);
    w.run(q, Sqe { cdw10: u32le(1), ..fabrics(8) }, Payload::None).is(Status::CONNECT_INCOMPATIBLE_FORMAT);
    w.run(q, get_property(0, true), Payload::None).is(Status::INVALID_OPCODE);
    w.run(q, fabrics(8), Payload::None).ok();
    assert_eq!(w.conns[q].closed, Some(CloseReason::Disconnected));
    w.hang_up(q);
    assert_eq!(w.conns[a].closed, None);
    let id = w.target.snapshot().subsystems[0].controllers[0].cntlid;
    w.io(id, 1);
}

#[test]
fn sqhd_goes_round_or_is_switched_off() {
    let mut w = World::new(4096);
    let (_, id) = w.admin(NQN, HOST, 0);
    let c = w.open();
    let data = ConnectData::new(HOSTID, id, NQN, HOST);
    let reply = w.connect_with(c, connect(1, 3, 0), &data).ok();
    assert_eq!(reply.cqe.sqhd.get(), 1);
    let heads: Vec<u16> =
        (0..5).map(|_| w.run(c, io(opc::FLUSH, 1, 0, 1), Payload::None).ok().cqe.sqhd.get()).collect();
    assert_eq!(heads, [2, 3, 0, 1, 2]);
    let c = w.open();
    let sqe = Sqe { cdw11: u32le(3 | 4 << 16), ..connect(2, 3, 0) };
    assert_eq!(w.connect_with(c, sqe, &data).ok().cqe.sqhd.get(), 0xffff);
    assert_eq!(w.run(c, io(opc::FLUSH, 1, 0, 1), Payload::None).ok().cqe.sqhd.get(), 0xffff);
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let mut w = World::new(4096);
    let c = w.open();
    w.pass(CONNECT_WITHIN_MS - 1);
    assert_eq!(w.conns[c].closed, None);
    w.pass(1);
    assert_eq!(w.conns[c].closed, Some(CloseReason::NoConnect));
    assert_eq!(w.conns[c].queue.deadline(), None);
}
