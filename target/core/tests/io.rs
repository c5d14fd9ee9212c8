//! I/O commands: what reaches the volume, and the status of every field that is wrong.

mod support;

use caisson_block::{BlockError, Extent};
use caisson_core::*;
use caisson_wire::feature::{CopyRange, DsmRange, cdw12};
use caisson_wire::opcode::io as opc;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32, U64};
use caisson_wire::{Sqe, Status};
use support::*;

fn block(byte: u8, blocks: usize) -> Vec<u8> {
    vec![byte; 4096 * blocks]
}

fn with12(sqe: Sqe, bits: u32) -> Sqe {
    Sqe { cdw12: u32le(sqe.cdw12.get() | bits), ..sqe }
}

fn dsm(ranges: &[(u64, u32)], attributes: u32) -> (Sqe, Vec<u8>) {
    let data = ranges
        .iter()
        .flat_map(|&(slba, llb)| {
            DsmRange { cattr: U32::new(0), llb: U32::new(llb), slba: U64::new(slba) }.as_bytes().to_vec()
        })
        .collect();
    let sqe = Sqe {
        opcode: opc::DATASET_MANAGEMENT,
        nsid: u32le(1),
        cdw10: u32le(ranges.len() as u32 - 1),
        cdw11: u32le(attributes),
        ..Sqe::default()
    };
    (sqe, data)
}

fn copy(to: u64, ranges: &[(u64, u16)]) -> (Sqe, Vec<u8>) {
    let data = ranges
        .iter()
        .flat_map(|&(slba, nlb)| {
            CopyRange { slba: U64::new(slba), nlb: U16::new(nlb - 1), ..CopyRange::default() }
                .as_bytes()
                .to_vec()
        })
        .collect();
    (io(opc::COPY, 1, to, ranges.len() as u32), data)
}

#[test]
fn written_in_capsule_or_pulled_reads_back() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    w.run(q, io(opc::WRITE, 1, 5, 2), capsule(block(0xab, 2))).ok();
    w.run_pull(q, with12(io(opc::WRITE, 1, 7, 1), cdw12::FUA), block(0xcd, 1)).ok();
    assert_eq!(w.disk.seen(), ["write 5+2", "write 7+1 fua"]);
    let mut want = block(0xab, 2);
    want.extend(block(0xcd, 1));
    assert_eq!(w.run(q, io(opc::READ, 1, 5, 3), room(3 * 4096)).ok().data, want);
    w.run(q, io(opc::VERIFY, 1, 0, 1024), Payload::None).ok();
    w.run(q, io(opc::WRITE_UNCORRECTABLE, 1, 3, 1), Payload::None).ok();
    w.run(q, with12(io(opc::WRITE_ZEROES, 1, 5, 3), cdw12::DEAC), Payload::None).ok();
    w.run(q, io(opc::FLUSH, 1, 0, 1), Payload::None).ok();
    assert_eq!(w.disk.seen(), ["read 5+3", "verify 0+1024", "uncorrectable 3+1", "zero 5+3 deac", "flush"]);
    w.run(q, io(opc::COMPARE, 1, 5, 1), capsule(block(0, 1))).ok();
    let differs = w.run(q, io(opc::COMPARE, 1, 5, 1), capsule(block(1, 1)));
    differs.is(Status::COMPARE_FAILURE);
    assert_eq!(w.in_flight(q), 0);
}

#[test]
fn each_wrong_field_has_its_status() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    let read = |lba, n| io(opc::READ, 1, lba, n);
    let write = |lba, n| io(opc::WRITE, 1, lba, n);
    let (range, ns) = (Status::LBA_OUT_OF_RANGE, Status::INVALID_NAMESPACE);
    let (field, length) = (Status::INVALID_FIELD, Status::INVALID_SGL_LENGTH);
    let table: Vec<(&str, Sqe, Payload, Status)> = vec![
        ("last block", read(1023, 1), room(4096), Status::SUCCESS),
        ("one past", read(1024, 1), room(4096), range),
        ("over the end", read(1023, 2), room(8192), range),
        ("overflow", read(u64::MAX, 1), room(4096), range),
        ("overflow by length", read(u64::MAX - 3, 65536), room(4096), range),
        ("write over the end", write(1020, 5), room(5 * 4096), range),
        ("verify over the end", io(opc::VERIFY, 1, 1, 1024), Payload::None, range),
        ("zeroes over the end", io(opc::WRITE_ZEROES, 1, 1, 1024), Payload::None, range),
        ("uncorrectable over the end", io(opc::WRITE_UNCORRECTABLE, 1, 1024, 1), Payload::None, range),
        ("nsid 0", io(opc::READ, 0, 0, 1), room(4096), ns),
        ("nsid 2", io(opc::READ, 2, 0, 1), room(4096), ns),
        ("nsid 1025", io(opc::WRITE, 1025, 0, 1), room(4096), ns),
        ("nsid all", io(opc::READ, u32::MAX, 0, 1), room(4096), ns),
        ("nsid fffffffe", io(opc::FLUSH, u32::MAX - 1, 0, 1), Payload::None, ns),
        ("nsid of dsm", Sqe { nsid: u32le(9), ..dsm(&[(0, 1)], 4).0 }, room(16), ns),
        ("room short", read(0, 2), room(4096), length),
        ("room long", read(0, 1), room(8192), length),
        ("no room", read(0, 1), Payload::None, length),
        ("data short", write(0, 2), room(4096), length),
        ("data long", write(0, 1), capsule(block(0, 2)), length),
        ("no data", write(0, 1), Payload::None, length),
        ("compare without data", io(opc::COMPARE, 1, 0, 1), Payload::None, length),
        ("read in capsule", read(0, 1), capsule(block(0, 1)), Status::INVALID_SGL_TYPE),
        ("bad sgl", read(0, 1), Payload::Bad(Status::INVALID_SGL_OFFSET.dnr()), Status::INVALID_SGL_OFFSET),
        ("1 MiB", read(0, 256), room(1 << 20), Status::SUCCESS),
        ("over MDTS", read(0, 257), room((1 << 20) + 4096), field),
        ("write over MDTS", write(0, 257), room((1 << 20) + 4096), field),
        ("prinfo of read", with12(read(0, 1), 1 << 29), room(4096), field),
        ("prchk of read", with12(read(0, 1), 1 << 26), room(4096), field),
        ("prinfo of write", with12(write(0, 1), 8 << 26), room(4096), field),
        ("stc", with12(read(0, 1), cdw12::STC), room(4096), field),
        ("dtype", with12(write(0, 1), 1 << 20), room(4096), field),
        ("lr", with12(read(0, 1), cdw12::LR), room(4096), Status::SUCCESS),
        ("nsz", with12(io(opc::WRITE_ZEROES, 1, 0, 1), cdw12::NSZ), Payload::None, field),
        ("psdt 3", Sqe { flags: 0xc0, ..read(0, 1) }, room(4096), field),
        ("psdt 2 with mptr", Sqe { flags: 0x80, mptr: U64::new(1), ..read(0, 1) }, room(4096), field),
        ("psdt 2", Sqe { flags: 0x80, ..read(0, 1) }, room(4096), Status::SUCCESS),
        ("fuse 3", Sqe { flags: 0x43, ..read(0, 1) }, room(4096), field),
        ("opcode", io(0x7e, 1, 0, 1), Payload::None, Status::INVALID_OPCODE),
        ("reservation", io(opc::RESERVATION_REPORT, 1, 0, 1), room(64), Status::INVALID_OPCODE),
        ("ranges short", dsm(&[(0, 1), (1, 1)], 4).0, room(16), length),
        ("ranges none", dsm(&[(0, 1)], 4).0, Payload::None, length),
    ];
    for (name, sqe, payload, status) in table {
        let reply = w.run(q, sqe, payload);
        assert!(reply.status().is(status), "{name}: {}", reply.status());
        assert_eq!(reply.status().is_dnr(), !reply.status().is_success(), "{name}: retrying would not help");
    }
    // PRPs are never used over fabrics.
    let mut out = Vec::new();
    let prp = Sqe { flags: 0, cid: U16::new(9), ..read(0, 1) };
    w.cx(|cx, conns| conns[q].queue.command(cx, 900, &prp, room(4096), &mut out));
    let Some(Action::Reply { cqe, .. }) = out.pop() else { panic!("no reply") };
    assert!(cqe.status().is(field));
    assert_eq!(w.in_flight(q), 0);
}

#[test]
fn blocks_of_512_bytes() {
    let mut w = World::new(512);
    let (_, q) = w.pair();
    w.run_pull(q, io(opc::WRITE, 1, 1, 3), vec![9; 1536]).ok();
    assert_eq!(w.run(q, io(opc::READ, 1, 3, 1), room(512)).ok().data, [9; 512]);
    w.run(q, io(opc::READ, 1, 0, 65536), room(512)).is(Status::LBA_OUT_OF_RANGE);
}

#[test]
fn volume_errors_have_one_mapping() {
    let table = [
        (BlockError::OutOfRange { lba: 4 }, Status::LBA_OUT_OF_RANGE, true),
        (BlockError::Unreadable { lba: 4 }, Status::UNRECOVERED_READ_ERROR, true),
        (BlockError::WriteFault { lba: 4 }, Status::WRITE_FAULT, true),
        (BlockError::CapacityExceeded, Status::CAPACITY_EXCEEDED, true),
        (BlockError::Miscompare { lba: 4 }, Status::COMPARE_FAILURE, true),
        (BlockError::Unsupported, Status::INVALID_OPCODE, true),
        (BlockError::Interrupted, Status::COMMAND_INTERRUPTED, false),
        (BlockError::Gone, Status::INVALID_NAMESPACE, true),
        (BlockError::Failed, Status::INTERNAL_ERROR, true),
    ];
    for (error, status, dnr) in table {
        let mut w = World::new(4096);
        let (_, q) = w.pair();
        w.disk.with(|d| d.fail = Some(error));
        let reply = w.run(q, io(opc::READ, 1, 0, 1), room(4096));
        assert!(reply.status().is(status), "{error}: {}", reply.status());
        assert_eq!(reply.status().is_dnr(), dnr, "{error}");
    }
}

#[test]
fn flush_of_all_waits_for_each() {
    let mut w = World::new(4096);
    let second = Disk::new(512, 10);
    w.add_namespace(7, second.clone());
    let (_, q) = w.pair();
    w.disk.with(|d| d.hold = true);
    let slot = w.send(q, io(opc::FLUSH, u32::MAX, 0, 1), Payload::None);
    assert_eq!((w.disk.seen(), second.seen()), (vec!["flush".into()], vec!["flush".into()]));
    assert_eq!(w.in_flight(q), 1);
    assert!(w.reply(q, slot).is_none());
    w.release();
    w.reply(q, slot).unwrap().ok();
    second.with(|d| d.fail = Some(BlockError::WriteFault { lba: 0 }));
    w.disk.with(|d| d.hold = false);
    w.run(q, io(opc::FLUSH, u32::MAX, 0, 1), Payload::None).is(Status::WRITE_FAULT);
    w.target.remove_namespace(NQN, 1).unwrap();
    w.target.remove_namespace(NQN, 7).unwrap();
    w.run(q, io(opc::FLUSH, u32::MAX, 0, 1), Payload::None).ok();
}

#[test]
fn deallocate_takes_up_to_256_ranges() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    let (sqe, data) = dsm(&[(0, 4), (9, 0), (1000, 24)], 4);
    w.run_pull(q, sqe, data).ok();
    // As Linux does: 4 KiB of data whatever the number of ranges.
    let (sqe, mut data) = dsm(&[(3, 1)], 4);
    data.resize(4096, 0xff);
    w.run(q, sqe, capsule(data)).ok();
    let ranges: Vec<(u64, u32)> = (0..256).map(|i| (i * 4, 4)).collect();
    let (sqe, data) = dsm(&ranges, 4);
    w.run(q, sqe, capsule(data)).ok();
    let seen = w.disk.seen();
    assert_eq!(&seen[..2], ["deallocate 0+4,1000+24", "deallocate 3+1"]);
    assert_eq!(seen[2].matches('+').count(), 256);
    // Only hints, or nothing: no request.
    let (sqe, data) = dsm(&[(0, 1024)], 3);
    w.run(q, sqe, capsule(data)).ok();
    let (sqe, data) = dsm(&[(5, 0)], 4);
    w.run(q, sqe, capsule(data)).ok();
    for bad in [(1024, 1), (1000, 25), (u64::MAX, 2), (0, u32::MAX)] {
        let (sqe, data) = dsm(&[(0, 1), bad], 4);
        w.run(q, sqe, capsule(data)).is(Status::LBA_OUT_OF_RANGE);
    }
    assert!(w.disk.seen().is_empty());
}

#[test]
fn copy_is_bounded_as_advertised() {
    let mut w = World::new(4096);
    let big = Disk::new(512, 1 << 20);
    w.add_namespace(2, big.clone());
    let (_, q) = w.pair();
    w.run(q, io(opc::WRITE, 1, 3, 1), capsule(block(3, 1))).ok();
    w.disk.seen();
    let (sqe, data) = copy(100, &[(3, 1), (10, 2)]);
    w.run_pull(q, sqe, data).ok();
    assert_eq!(w.disk.seen(), ["copy 3+1,10+2 to 100"]);
    assert_eq!(w.run(q, io(opc::READ, 1, 100, 1), room(4096)).ok().data, block(3, 1));
    let on2 = |(sqe, data): (Sqe, Vec<u8>)| (Sqe { nsid: u32le(2), ..sqe }, data);
    type Row = (&'static str, (Sqe, Vec<u8>), Status);
    let table: Vec<Row> = vec![
        ("128 ranges", copy(0, &[(0, 1); 128]), Status::SUCCESS),
        ("129 ranges", copy(0, &[(0, 1); 129]), Status::COMMAND_SIZE_LIMIT_EXCEEDED),
        ("MSSRL", on2(copy(9000, &[(0, 2048)])), Status::SUCCESS),
        ("over MSSRL", on2(copy(9000, &[(0, 2049)])), Status::COMMAND_SIZE_LIMIT_EXCEEDED),
        ("MCL", on2(copy(90000, &[(0, 2048); 8])), Status::SUCCESS),
        ("over MCL", on2(copy(90000, &[(0, 2048); 9])), Status::COMMAND_SIZE_LIMIT_EXCEEDED),
        ("source out", copy(0, &[(0, 1), (1023, 2)]), Status::LBA_OUT_OF_RANGE),
        ("destination out", copy(1023, &[(0, 2)]), Status::LBA_OUT_OF_RANGE),
        ("destination overflows", copy(u64::MAX, &[(0, 1)]), Status::LBA_OUT_OF_RANGE),
    ];
    for (name, (sqe, data), status) in table {
        let reply = w.run(q, sqe, capsule(data));
        assert!(reply.status().is(status), "{name}: {}", reply.status());
    }
    for bits in [1 << 8, 1 << 12, 1 << 20, 1 << 24, 1 << 26] {
        let (sqe, data) = copy(0, &[(0, 1)]);
        w.run(q, with12(sqe, bits), capsule(data)).is(Status::INVALID_FIELD);
    }
}

#[test]
fn write_protection_refuses_what_writes() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    w.target.set_write_protected(NQN, 1, true).unwrap();
    let protected = Status::NS_WRITE_PROTECTED;
    w.run(q, io(opc::WRITE, 1, 0, 1), room(4096)).is(protected);
    w.run(q, io(opc::WRITE_ZEROES, 1, 0, 1), Payload::None).is(protected);
    w.run(q, io(opc::WRITE_UNCORRECTABLE, 1, 0, 1), Payload::None).is(protected);
    let (sqe, data) = copy(0, &[(3, 1)]);
    w.run(q, sqe, capsule(data)).is(protected);
    let (sqe, data) = dsm(&[(0, 1)], 4);
    w.run(q, sqe, capsule(data)).is(protected);
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).ok();
    w.run(q, io(opc::FLUSH, 1, 0, 1), Payload::None).ok();
    w.target.set_write_protected(NQN, 1, false).unwrap();
    w.run(q, io(opc::WRITE, 1, 0, 1), capsule(block(1, 1))).ok();
}

#[test]
fn namespaces_come_and_go_under_a_queue() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    w.run(q, io(opc::READ, 2, 0, 1), room(4096)).is(Status::INVALID_NAMESPACE);
    let second = Disk::new(4096, 8);
    w.add_namespace(2, second.clone());
    w.run(q, io(opc::READ, 2, 7, 1), room(4096)).ok();
    w.run(q, io(opc::READ, 2, 8, 1), room(4096)).is(Status::LBA_OUT_OF_RANGE);
    second.with(|d| d.geometry.blocks = 16);
    w.run(q, io(opc::READ, 2, 8, 1), room(4096)).is(Status::LBA_OUT_OF_RANGE);
    w.target.namespace_resized(NQN, 2).unwrap();
    w.run(q, io(opc::READ, 2, 8, 1), room(4096)).ok();
    // Removed with a write that still waits for its data, and a read at the volume.
    second.with(|d| d.hold = true);
    let write = w.send(q, io(opc::WRITE, 2, 0, 1), room(4096));
    let read = w.send(q, io(opc::READ, 2, 0, 1), room(4096));
    w.target.remove_namespace(NQN, 2).unwrap();
    w.pump();
    w.run(q, io(opc::READ, 2, 0, 1), room(4096)).is(Status::INVALID_NAMESPACE);
    w.give(q, write, block(1, 1));
    w.cx(|cx, _| second.release(cx));
    w.pump();
    w.reply(q, write).unwrap().ok();
    w.reply(q, read).unwrap().ok();
    w.pump();
    assert_eq!(std::sync::Arc::strong_count(&second), 1, "nobody holds the volume");
    let again = Disk::new(512, 8);
    w.add_namespace(2, again);
    w.run(q, io(opc::READ, 2, 0, 1), room(512)).ok();
}

#[test]
fn an_idle_queue_lets_go_of_a_removed_volume() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    let second = Disk::new(4096, 8);
    w.add_namespace(2, second.clone());
    w.run(q, io(opc::READ, 2, 7, 1), room(4096)).ok();
    w.target.remove_namespace(NQN, 2).unwrap();
    w.pump();
    assert_eq!(std::sync::Arc::strong_count(&second), 1);
    assert!(w.conns[a].closed.is_none());
}

#[test]
fn a_lost_connection_leaves_requests_to_come_home() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    w.disk.with(|d| d.hold = true);
    for lba in 0..5 {
        w.send(q, io(opc::READ, 1, lba, 1), room(4096));
    }
    w.send(q, io(opc::WRITE, 1, 0, 1), room(4096));
    assert_eq!(w.in_flight(q), 5);
    w.hang_up(q);
    assert_eq!(w.in_flight(q), 5);
    w.release();
    assert_eq!(w.in_flight(q), 0);
    assert!(w.conns[q].replies.is_empty());
}

#[test]
fn counts_are_by_namespace_and_host() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    w.disk.with(|d| d.hold = true);
    let slot = w.send(q, io(opc::READ, 1, 0, 2), room(8192));
    w.now = caisson_block::Mono(w.now.0 + 5_000);
    w.release();
    w.reply(q, slot).unwrap().ok();
    w.disk.with(|d| d.hold = false);
    w.run(q, io(opc::WRITE, 1, 0, 1), capsule(block(1, 1))).ok();
    w.disk.with(|d| d.fail = Some(BlockError::WriteFault { lba: 0 }));
    w.run(q, io(opc::WRITE, 1, 0, 1), capsule(block(1, 1))).is(Status::WRITE_FAULT);
    let check = |w: &World| {
        let s = w.target.snapshot();
        let host = &s.subsystems[0].namespaces[0].hosts[0];
        assert_eq!(host.host, HOST);
        assert_eq!((host.io.count(OpClass::Read), host.io.bytes_read), (1, 8192));
        assert_eq!((host.io.count(OpClass::Write), host.io.bytes_written, host.io.errors), (1, 4096, 1));
        assert_eq!(host.io.latency_sum[0], 5_000);
        assert_eq!(host.io.latency[0][bucket_of(5_000)], 1);
    };
    check(&w);
    w.hang_up(q);
    check(&w);
}

#[test]
fn a_read_with_fua_is_of_the_medium() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    let sqe = with12(io(opc::READ, 1, 9, 1), cdw12::FUA);
    w.disk.with(|d| d.hold = true);
    let slot = w.send(q, sqe, room(4096));
    assert_eq!(w.disk.seen(), ["flush"]);
    w.release();
    assert_eq!(w.disk.seen(), ["read 9+1"]);
    w.release();
    assert_eq!(w.reply(q, slot).unwrap().ok().data, block(0, 1));
    w.disk.with(|d| (d.hold, d.fail) = (false, Some(BlockError::WriteFault { lba: 0 })));
    w.run(q, sqe, room(4096)).is(Status::WRITE_FAULT);
    w.disk.seen();
    w.disk.with(|d| d.geometry.volatile_cache = false);
    w.run(q, sqe, room(4096)).ok();
    assert_eq!(w.disk.seen(), ["read 9+1"], "nothing to write out");
    assert_eq!(w.in_flight(q), 0);
}

#[test]
fn data_that_came_damaged_ends_its_command() {
    let mut w = World::new(4096);
    let second = Disk::new(4096, 8);
    w.add_namespace(2, second.clone());
    let (a, q) = w.pair();
    let bad = Status::from_parts(0, 0x22);
    let write = w.send(q, io(opc::WRITE, 2, 0, 1), room(4096));
    w.damage(q, write, bad);
    w.reply(q, write).unwrap().is(bad);
    let ranges = w.send(q, dsm(&[(0, 1)], 4).0, room(16));
    w.damage(q, ranges, bad);
    w.reply(q, ranges).unwrap().is(bad);
    let first = w.send(q, Sqe { flags: 0x41, ..io(opc::COMPARE, 2, 0, 1) }, room(4096));
    let last = w.send(q, Sqe { flags: 0x42, ..io(opc::WRITE, 2, 0, 1) }, room(4096));
    w.damage(q, last, bad);
    w.reply(q, last).unwrap().is(bad);
    w.reply(q, first).unwrap().is(Status::ABORT_FAILED_FUSED);
    let stamp = w.send(a, features(true, 0x0e, 0, 0), room(8));
    w.damage(a, stamp, bad);
    w.reply(a, stamp).unwrap().is(bad);
    w.target.remove_namespace(NQN, 2).unwrap();
    w.pump();
    assert_eq!(std::sync::Arc::strong_count(&second), 1, "nothing holds the namespace");
}

#[test]
fn data_that_comes_after_a_shutdown_is_not_written() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    let write = w.send(q, io(opc::WRITE, 1, 0, 1), room(4096));
    w.run(a, set_cc(CC_ENABLE | 1 << 14), Payload::None).ok();
    w.give(q, write, block(1, 1));
    w.reply(q, write).unwrap().is(Status::ABORT_SQ_DELETION);
    assert_eq!(w.disk.seen(), ["flush"]);
}

#[test]
fn an_extent_is_judged_before_data_is_pulled() {
    let mut w = World::new(4096);
    let (_, q) = w.pair();
    let at = Extent { lba: 1020, blocks: 5 };
    assert!(!at.within(1024));
    w.run(q, io(opc::WRITE, 1, at.lba, 5), room(5 * 4096)).is(Status::LBA_OUT_OF_RANGE);
    assert!(w.conns[q].pulls.is_empty());
}
