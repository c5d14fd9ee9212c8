//! Fused Compare and Write: together or not at all, and every way to lose a half. Aborts.

mod support;

use caisson_block::BlockError;
use caisson_core::*;
use caisson_wire::feature::cdw12;
use caisson_wire::opcode::{admin as adm, io as opc};
use caisson_wire::zerocopy::little_endian::U16;
use caisson_wire::{Sqe, Status};
use support::*;

fn first(lba: u64, blocks: u32) -> Sqe {
    Sqe { flags: 0x41, ..io(opc::COMPARE, 1, lba, blocks) }
}

fn second(lba: u64, blocks: u32) -> Sqe {
    Sqe { flags: 0x42, ..io(opc::WRITE, 1, lba, blocks) }
}

fn block(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

/// Statuses of both halves, each sent with its payload.
fn pair(w: &mut World, q: usize, a: (Sqe, Payload), b: (Sqe, Payload)) -> (Status, Status) {
    let x = w.send(q, a.0, a.1);
    let y = w.send(q, b.0, b.1);
    (w.reply(q, x).expect("first").status(), w.reply(q, y).expect("second").status())
}

#[test]
fn equal_writes_different_does_not() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    let (a, b) = pair(&mut w, q, (first(4, 1), capsule(block(0))), (second(4, 1), capsule(block(1))));
    assert!(a.is_success() && b.is_success());
    assert_eq!(w.disk.seen(), ["caw 4+1"]);
    let (a, b) = pair(&mut w, q, (first(4, 1), capsule(block(0))), (second(4, 1), capsule(block(2))));
    assert!(a.is(Status::COMPARE_FAILURE) && b.is(Status::ABORT_FAILED_FUSED));
    assert_eq!(w.run(q, io(opc::READ, 1, 4, 1), room(4096)).ok().data, block(1));
}

#[test]
fn completions_come_in_order_and_data_in_any() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    let x = w.send(q, first(4, 1), room(4096));
    let y = w.send(q, Sqe { cdw12: u32le(cdw12::FUA), ..second(4, 1) }, room(4096));
    // A second pair and a read while the first waits.
    let (c, d) = pair(&mut w, q, (first(9, 1), capsule(block(0))), (second(9, 1), capsule(block(5))));
    assert!(c.is_success() && d.is_success());
    w.run(q, io(opc::READ, 1, 4, 1), room(4096)).ok();
    w.give(q, y, block(7));
    assert!(w.conns[q].replies.is_empty());
    w.give(q, x, block(0));
    let slots: Vec<u32> = w.conns[q].replies.iter().map(|r| r.slot).collect();
    assert_eq!(slots, [x, y]);
    assert_eq!(w.disk.seen(), ["caw 9+1", "read 4+1", "caw 4+1 fua"]);
    assert_eq!(w.in_flight(q), 0);
}

#[test]
fn a_missing_half_is_told() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    let missing = Status::ABORT_MISSING_FUSED;
    w.run(q, second(0, 1), room(4096)).is(missing);
    // A first, then something else.
    for payload in [true, false] {
        let x = w.send(q, first(0, 1), if payload { capsule(block(0)) } else { room(4096) });
        w.run(q, io(opc::READ, 1, 0, 1), room(4096)).ok();
        w.reply(q, x).unwrap().is(missing);
    }
    // Two firsts: the second of them has its partner.
    let x = w.send(q, first(0, 1), capsule(block(0)));
    let y = w.send(q, first(1, 1), capsule(block(0)));
    w.reply(q, x).unwrap().is(missing);
    w.run(q, second(1, 1), capsule(block(1))).ok();
    w.reply(q, y).unwrap().ok();
    w.run(q, second(0, 1), room(4096)).is(missing);
    let x = w.send(q, first(0, 1), capsule(block(0)));
    w.run(q, Sqe { flags: 0x43, ..io(opc::READ, 1, 0, 1) }, room(4096)).is(Status::INVALID_FIELD);
    w.reply(q, x).unwrap().is(missing);
}

#[test]
fn when_one_fails_so_does_the_other() {
    let table: Vec<(&str, Sqe, Sqe, Status, Status)> = vec![
        (
            "first out of range",
            first(1024, 1),
            second(1024, 1),
            Status::LBA_OUT_OF_RANGE,
            Status::ABORT_FAILED_FUSED,
        ),
        (
            "first a read",
            Sqe { opcode: opc::READ, ..first(0, 1) },
            second(0, 1),
            Status::INVALID_FIELD,
            Status::ABORT_FAILED_FUSED,
        ),
        (
            "second a compare",
            first(0, 1),
            Sqe { opcode: opc::COMPARE, ..second(0, 1) },
            Status::ABORT_FAILED_FUSED,
            Status::INVALID_FIELD,
        ),
        ("ranges differ", first(0, 1), second(1, 1), Status::INVALID_FIELD, Status::INVALID_FIELD),
        (
            "namespaces differ",
            first(0, 1),
            Sqe { nsid: u32le(2), ..second(0, 1) },
            Status::INVALID_FIELD,
            Status::INVALID_FIELD,
        ),
        (
            "second out of range",
            first(0, 1),
            second(1024, 1),
            Status::ABORT_FAILED_FUSED,
            Status::LBA_OUT_OF_RANGE,
        ),
        (
            "second prinfo",
            first(0, 1),
            Sqe { cdw12: u32le(1 << 29), ..second(0, 1) },
            Status::ABORT_FAILED_FUSED,
            Status::INVALID_FIELD,
        ),
    ];
    for (name, one, two, a, b) in table {
        let mut w = World::new(4096);
        w.add_namespace(2, Disk::new(4096, 100));
        let (_, q) = w.pair();
        let got = pair(&mut w, q, (one, capsule(block(0))), (two, capsule(block(1))));
        assert!(got.0.is(a) && got.1.is(b), "{name}: {} and {}", got.0, got.1);
        w.run(q, io(opc::READ, 1, 0, 1), room(4096)).ok();
        w.run(q, second(0, 1), room(4096)).is(Status::ABORT_MISSING_FUSED);
    }
}

#[test]
fn what_the_volume_says_goes_to_the_right_half() {
    let table = [
        (BlockError::Unreadable { lba: 0 }, Status::UNRECOVERED_READ_ERROR, Status::ABORT_FAILED_FUSED),
        (BlockError::WriteFault { lba: 0 }, Status::SUCCESS, Status::WRITE_FAULT),
        (BlockError::CapacityExceeded, Status::SUCCESS, Status::CAPACITY_EXCEEDED),
        (BlockError::Interrupted, Status::COMMAND_INTERRUPTED, Status::ABORT_FAILED_FUSED),
    ];
    for (error, a, b) in table {
        let mut w = World::new(4096);
        let (_, q) = w.pair();
        w.disk.with(|d| d.fail = Some(error));
        let got = pair(&mut w, q, (first(0, 1), capsule(block(0))), (second(0, 1), capsule(block(1))));
        assert!(got.0.is(a) && got.1.is(b), "{error}: {} and {}", got.0, got.1);
    }
}

#[test]
fn no_larger_than_acwu() {
    let mut w = World::new(512);
    let (_, q) = w.pair();
    let data = vec![0; 257 * 512];
    let x = w.send(q, first(0, 257), room(data.len() as u32));
    assert_eq!(w.reply(q, x).unwrap().status().code(), 0x14);
    w.run(q, second(0, 257), room(data.len() as u32)).is(Status::ABORT_FAILED_FUSED);
}

fn abort(sqid: u16, cid: u16) -> Sqe {
    Sqe { opcode: adm::ABORT, cdw10: u32le(u32::from(sqid) | u32::from(cid) << 16), ..Sqe::default() }
}

fn cid(sqe: Sqe, cid: u16) -> Sqe {
    Sqe { cid: U16::new(cid), ..sqe }
}

#[test]
fn abort_ends_what_waits_here() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    // An event request of the admin queue.
    let event = w.send(a, cid(aer(), 500), Payload::None);
    assert_eq!(w.run(a, abort(0, 500), Payload::None).ok().dw0(), 0);
    w.reply(a, event).unwrap().is(Status::ABORT_REQUESTED);
    assert_eq!(w.run(a, abort(0, 500), Payload::None).ok().dw0(), 1, "it is gone");
    // A write that waits for its data.
    let write = w.send(q, cid(io(opc::WRITE, 1, 0, 1), 600), room(4096));
    assert_eq!(w.run(a, abort(1, 600), Payload::None).ok().dw0(), 0);
    w.reply(q, write).unwrap().is(Status::ABORT_REQUESTED);
    // A read at the volume is past that.
    w.disk.with(|d| d.hold = true);
    let read = w.send(q, cid(io(opc::READ, 1, 0, 1), 700), room(4096));
    assert_eq!(w.run(a, abort(1, 700), Payload::None).ok().dw0(), 1);
    w.release();
    w.reply(q, read).unwrap().ok();
    // No such command, no such queue.
    assert_eq!(w.run(a, abort(1, 1), Payload::None).ok().dw0(), 1);
    assert_eq!(w.run(a, abort(9, 1), Payload::None).ok().dw0(), 1);
    assert_eq!(w.target.snapshot().counters.aborted, 2);
}

#[test]
fn abort_of_a_fused_half() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    // The first, before its partner came.
    let x = w.send(q, cid(first(0, 1), 50), capsule(block(0)));
    assert_eq!(w.run(a, abort(1, 50), Payload::None).ok().dw0(), 0);
    w.reply(q, x).unwrap().is(Status::ABORT_REQUESTED);
    w.run(q, second(0, 1), capsule(block(1))).is(Status::ABORT_FAILED_FUSED);
    // Either half, while data is pulled.
    for victim in [60, 61] {
        let x = w.send(q, cid(first(0, 1), 60), room(4096));
        let y = w.send(q, cid(second(0, 1), 61), room(4096));
        assert_eq!(w.run(a, abort(1, victim), Payload::None).ok().dw0(), 0);
        let (x, y) = (w.reply(q, x).unwrap(), w.reply(q, y).unwrap());
        let (hit, other) = if victim == 60 { (x, y) } else { (y, x) };
        hit.is(Status::ABORT_REQUESTED);
        other.is(Status::ABORT_FAILED_FUSED);
    }
    // At the volume neither.
    w.disk.with(|d| d.hold = true);
    let x = w.send(q, cid(first(0, 1), 70), capsule(block(0)));
    let y = w.send(q, cid(second(0, 1), 71), capsule(block(1)));
    for victim in [70, 71] {
        assert_eq!(w.run(a, abort(1, victim), Payload::None).ok().dw0(), 1);
    }
    w.release();
    w.reply(q, x).unwrap().ok();
    w.reply(q, y).unwrap().ok();
    assert_eq!(w.disk.seen(), ["caw 0+1"]);
}

#[test]
fn abort_is_answered_though_the_queue_goes() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    w.send(q, cid(io(opc::WRITE, 1, 0, 1), 600), room(4096));
    // The bell of the I/O queue is not answered before the connection is lost.
    let mut out = Vec::new();
    let sqe = Sqe { cid: U16::new(1), flags: 0x40, ..abort(1, 600) };
    w.cx(|cx, conns| {
        conns[a].queue.command(cx, 40, &sqe, Payload::None, &mut out);
        assert!(out.is_empty(), "it waits");
        conns[q].queue.close(cx);
    });
    w.pump();
    let reply = w.reply(a, 40).unwrap();
    assert_eq!(reply.ok().dw0(), 1);
}

#[test]
fn aborts_at_once_are_bounded() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    w.cx(|cx, conns| {
        for n in 0..9u32 {
            let mut out = Vec::new();
            let sqe = Sqe { cid: U16::new(1), flags: 0x40, ..abort(1, 600) };
            conns[a].queue.command(cx, 40 + n, &sqe, Payload::None, &mut out);
            assert_eq!(out.len(), usize::from(n == 8));
            for action in out {
                let Action::Reply { cqe, .. } = action else { panic!("no reply") };
                assert!(cqe.status().is(Status::ABORT_LIMIT_EXCEEDED));
            }
        }
    });
    w.pump();
    assert_eq!(w.conns[a].replies.len(), 8);
    assert!(w.conns[q].closed.is_none());
}
