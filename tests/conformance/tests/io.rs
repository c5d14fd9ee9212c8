//! I/O commands: each command, each field's extremes, each error (NVM 1.1, chapter 3.3; Base 2.1, 4.2.3 and 7.2).

use caisson_conformance::pool::Pooled;
use caisson_conformance::subject::{BIG, Disk, POOLED, SMALL, Subject, TINY, bytes, io};
use caisson_conformance::table::holds;
use caisson_conformance::{Row, judge};
use caisson_initiator::{Command, Data};
use caisson_wire::opcode::io as op;
use caisson_wire::{Sgl, Status};

const FUA: u32 = 1 << 30;
const LR: u32 = 1 << 31;
const DEAC: u32 = 1 << 25;
const INVALID_FIELD: Status = Status::INVALID_FIELD.dnr();

fn read(d: Disk, lba: u64, blocks: u32) -> Command {
    io(op::READ, d.nsid, lba, blocks).with(Data::In(d.block * blocks))
}

fn write(d: Disk, lba: u64, data: Vec<u8>) -> Command {
    let blocks = data.len() as u32 / d.block;
    io(op::WRITE, d.nsid, lba, blocks).with(Data::Out(data))
}

fn or12(mut command: Command, bits: u32) -> Command {
    let old = command.sqe.cdw12.get();
    command.sqe.cdw12.set(old | bits);
    command
}

fn reads_back(name: &str, d: Disk, lba: u64, want: Vec<u8>) -> Row {
    let blocks = want.len() as u32 / d.block;
    Row::that(name, read(d, lba, blocks), move |done| {
        holds(done.data == want, "the data is not what was written")
    })
}

fn zeroes(name: &str, d: Disk, lba: u64, blocks: u32) -> Row {
    reads_back(name, d, lba, vec![0; (d.block * blocks) as usize])
}

/// A Dataset Management of these ranges (length, first block), its data as long as they need.
fn dsm(d: Disk, ad: bool, ranges: &[(u32, u64)]) -> Command {
    let mut data = Vec::new();
    for (len, lba) in ranges {
        data.extend_from_slice(&[0; 4]);
        data.extend_from_slice(&len.to_le_bytes());
        data.extend_from_slice(&lba.to_le_bytes());
    }
    Command::new(op::DATASET_MANAGEMENT, d.nsid)
        .dword(10, ranges.len() as u32 - 1)
        .dword(11, u32::from(ad) << 2)
        .with(Data::Out(data))
}

/// A Copy to `to` of these ranges (first block, blocks), format 0h.
fn copy(d: Disk, to: u64, ranges: &[(u64, u32)]) -> Command {
    let mut data = Vec::new();
    for (lba, blocks) in ranges {
        let mut range = [0u8; 32];
        range[8..16].copy_from_slice(&lba.to_le_bytes());
        range[16..18].copy_from_slice(&((blocks - 1) as u16).to_le_bytes());
        data.extend_from_slice(&range);
    }
    Command::new(op::COPY, d.nsid)
        .dword(10, to as u32)
        .dword(11, (to >> 32) as u32)
        .dword(12, ranges.len() as u32 - 1)
        .with(Data::Out(data))
}

#[test]
fn data_of_every_length_and_place_comes_back() {
    let s = Subject::start();
    let (client, mut q) = s.queue();
    let most = client.max_transfer();
    assert!(most >= 1 << 20, "transfers go to 1 MiB at least, not {most}");
    for d in [BIG, SMALL] {
        let mut rows = Vec::new();
        let largest = most / d.block;
        for (i, blocks) in
            [1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64, 100, largest - 1, largest].into_iter().enumerate()
        {
            for (lba, fua) in [(0, 0), (17, FUA), (d.blocks - u64::from(blocks), LR)] {
                let data = bytes(i as u64 * 3 + lba, (blocks * d.block) as usize);
                let at = format!("{blocks} blocks of {} at {lba}", d.block);
                rows.push(Row::ok(format!("write {at}"), or12(write(d, lba, data.clone()), fua)));
                rows.push(reads_back(&format!("read {at}"), d, lba, data));
            }
        }
        judge("Writes and reads", &mut q, rows);
    }
}

#[test]
fn data_moves_by_capsule_or_on_request_alike() {
    let s = Subject::start();
    let (mut client, mut q) = s.queue();
    let inside = client.identity.as_ref().unwrap().ioccsz.get() * 16 - 64;
    assert!(inside >= 16384, "in-capsule data of 16 KiB at least, not {inside}");
    let d = BIG;
    let data = bytes(1, 16384);
    let asked = io(op::WRITE, d.nsid, 8, 4).with(Data::OutAsked(data.clone()));
    let done = q.run(asked).unwrap();
    assert!(done.status().is_success() && (done.r2ts >= 1 || s.address.is_rdma()), "{done:?}");
    let inside = q.run(write(d, 16, data.clone())).unwrap();
    assert!(inside.status().is_success() && inside.r2ts == 0, "{inside:?}");
    let mut rows = vec![];
    for lba in [8, 16] {
        rows.push(reads_back("either way it is the same", d, lba, data.clone()));
    }
    judge("Ways of the data", &mut q, rows);
    // Many writes on request at once, their data interleaved as the target asks for it.
    let chunk = |i: u64| bytes(100 + i, 65536);
    let writes = (0..32).map(|i| io(op::WRITE, d.nsid, 16 * i, 16).with(Data::OutAsked(chunk(i))));
    let cids = q.submit_all(writes).unwrap();
    for cid in cids {
        assert!(q.wait(cid).unwrap().status().is_success());
    }
    for i in 0..32 {
        assert!(q.run(read(d, 16 * i, 16)).unwrap().data == chunk(i), "chunk {i}");
    }
    client.tick().unwrap();
}

#[test]
fn ranges_and_namespaces_are_judged() {
    let s = Subject::start();
    let (_client, mut q) = s.queue();
    let out = Status::LBA_OUT_OF_RANGE.dnr();
    let bad_ns = Status::INVALID_NAMESPACE.dnr();
    for d in [BIG, SMALL] {
        let mut rows = Vec::new();
        for (name, opcode) in [
            ("Read", op::READ),
            ("Write", op::WRITE),
            ("Compare", op::COMPARE),
            ("Write Zeroes", op::WRITE_ZEROES),
            ("Verify", op::VERIFY),
            ("Write Uncorrectable", op::WRITE_UNCORRECTABLE),
        ] {
            let with = |lba, blocks: u32| {
                let c = io(opcode, d.nsid, lba, blocks);
                match opcode {
                    op::READ => c.with(Data::In(blocks * d.block)),
                    op::WRITE | op::COMPARE => c.with(Data::Out(vec![0; (blocks * d.block) as usize])),
                    _ => c,
                }
            };
            let to = |nsid| {
                let mut c = with(0, 1);
                c.sqe.nsid.set(nsid);
                c
            };
            rows.extend([
                Row::ok(format!("{name}: the last block"), with(d.blocks - 1, 1)),
                Row::is(format!("{name}: one past the end"), with(d.blocks, 1), out),
                Row::is(format!("{name}: over the end"), with(d.blocks - 1, 2), out),
                Row::is(format!("{name}: the highest LBA"), with(u64::MAX, 1), out),
                Row::is(format!("{name}: LBA and length overflow"), with(u64::MAX - 1, 8), out),
                Row::is(format!("{name}: high half of SLBA"), with(1 << 32, 1), out),
                Row::is(format!("{name}: namespace 0"), to(0), bad_ns),
                Row::is(format!("{name}: an inactive namespace"), to(3), bad_ns),
                Row::is(format!("{name}: a namespace over NN"), to(0x1_0000), bad_ns),
                Row::is(format!("{name}: namespace FFFFFFFEh"), to(0xffff_fffe), bad_ns),
                Row::is(format!("{name}: all namespaces"), to(0xffff_ffff), bad_ns),
            ]);
        }
        // What the rows above left uncorrectable or zero is made whole again.
        rows.push(Row::ok(
            "the last block is written again",
            write(d, d.blocks - 1, vec![7; d.block as usize]),
        ));
        rows.push(reads_back("and reads", d, d.blocks - 1, vec![7; d.block as usize]));
        judge("Ranges and namespaces", &mut q, rows);
    }
    const SIZE: &[Status] = &[Status::LBA_OUT_OF_RANGE, Status::INVALID_FIELD];
    let huge = |d: Disk, len| io(op::READ, d.nsid, 0, 65536).with(Data::In(len));
    let rows = vec![
        Row::one_of("NLB FFFFh on a tiny namespace", huge(TINY, 65536), SIZE),
        Row::is("NLB FFFFh is over MDTS (4 KiB blocks: 256 MiB)", huge(BIG, 1 << 28), out),
        Row::is("NLB FFFFh is over the end (512-byte blocks: 32 MiB)", huge(SMALL, 1 << 25), out),
        Row::is("one block over MDTS", read(BIG, 0, 257), INVALID_FIELD),
        Row::is("one block over MDTS, 512", read(SMALL, 0, 2049), INVALID_FIELD),
        Row::is(
            "a write over MDTS",
            io(op::WRITE, BIG.nsid, 0, 257).with(Data::OutAsked(vec![0; 257 * 4096])),
            INVALID_FIELD,
        ),
        Row::ok("Write Zeroes is not bound by MDTS", io(op::WRITE_ZEROES, BIG.nsid, 0, 8192)),
        Row::ok("Verify is not bound by MDTS", io(op::VERIFY, BIG.nsid, 0, 16384)),
    ];
    judge("Sizes", &mut q, rows);
}

/// A command with everything about its data as given.
fn raw(mut c: Command, sgl: Sgl, capsule: Vec<u8>) -> Command {
    c.sqe.sgl = sgl;
    c.with(Data::Raw { capsule, asked: vec![0; 1 << 20], incoming: 1 << 20 })
}

fn typed(id: u8, len: u32) -> Sgl {
    Sgl { id, ..Sgl::transport(len) }
}

#[test]
fn descriptors_are_judged() {
    let s = Subject::start();
    let (_client, mut q) = s.queue();
    let d = BIG;
    let length = Status::INVALID_SGL_LENGTH.dnr();
    let kind = Status::INVALID_SGL_TYPE.dnr();
    let r = |sgl| raw(io(op::READ, d.nsid, 0, 2), sgl, Vec::new());
    let w = |sgl, inside: usize| raw(io(op::WRITE, d.nsid, 0, 2), sgl, vec![0; inside]);
    let mut rows = vec![
        Row::ok("read of 2 blocks, described as such", r(Sgl::transport(8192))),
        Row::is("read described too short", r(Sgl::transport(4096)), length),
        Row::is("read described too long", r(Sgl::transport(12288)), length),
        Row::is("read described by an odd length", r(Sgl::transport(8191)), length),
        Row::is("read described as nothing", r(Sgl::transport(0)), length),
        Row::is("read described as 4 GiB less one", r(Sgl::transport(u32::MAX)), length),
        Row::is("write described too short", w(Sgl::transport(4096), 0), length),
        Row::is("write described too long", w(Sgl::transport(12288), 0), length),
        Row::is("write described as nothing", w(Sgl::transport(0), 0), length),
        Row::is("write described as 4 GiB less one", w(Sgl::transport(u32::MAX), 0), length),
        Row::ok("write in the capsule", w(Sgl::in_capsule(0, 8192), 8192)),
        Row::is("write in the capsule, too short", w(Sgl::in_capsule(0, 4096), 4096), length),
        Row::is("write in the capsule, too long", w(Sgl::in_capsule(0, 12288), 12288), length),
        Row::one_of(
            "write in the capsule, from an offset that it does not have",
            w(Sgl::in_capsule(4096, 8192), 8192),
            &[Status::INVALID_SGL_OFFSET, Status::INVALID_SGL_LENGTH, Status::INVALID_SGL_TYPE],
        ),
        Row::one_of(
            "write in the capsule, from the highest offset",
            w(Sgl::in_capsule(u64::MAX, 8192), 8192),
            &[Status::INVALID_SGL_OFFSET, Status::INVALID_SGL_LENGTH],
        ),
        Row::one_of(
            "write described as in the capsule, which has nothing",
            w(Sgl::in_capsule(0, 8192), 0),
            &[Status::INVALID_SGL_OFFSET, Status::INVALID_SGL_LENGTH, Status::INVALID_FIELD],
        ),
        Row::one_of(
            "write described as longer than the capsule",
            w(Sgl::in_capsule(0, 8192), 4096),
            &[Status::INVALID_SGL_OFFSET, Status::INVALID_SGL_LENGTH, Status::INVALID_FIELD],
        ),
        Row::one_of(
            "a read cannot be answered into the capsule",
            raw(io(op::READ, d.nsid, 0, 2), Sgl::in_capsule(0, 8192), Vec::new()),
            &[
                Status::INVALID_SGL_TYPE,
                Status::INVALID_FIELD,
                Status::INVALID_SGL_OFFSET,
                Status::INVALID_SGL_LENGTH,
            ],
        ),
    ];
    // What is kept for the transport, over RDMA is a keyed descriptor (`Data::Raw`), so that keyed ones are right there.
    let keyed = [0x40, 0x4f];
    // Bit Bucket, Segment, Last Segment, Keyed, Transport of other sub types, reserved, vendor specific.
    for id in
        [0x10, 0x20, 0x21, 0x30, 0x31, 0x40, 0x4f, 0x50, 0x51, 0x5b, 0x5f, 0x60, 0x70, 0xe0, 0xf0, 0xff, 0x0f]
    {
        if s.address.is_rdma() && keyed.contains(&id) {
            continue;
        }
        rows.push(Row::is(format!("read by a descriptor of type {id:02x}h"), r(typed(id, 8192)), kind));
        rows.push(Row::is(format!("write by a descriptor of type {id:02x}h"), w(typed(id, 8192), 0), kind));
    }
    rows.push(Row::is("read by an address", r(typed(0x00, 8192)), kind));
    rows.push(Row::is("PSDT 00b: PRPs", read(d, 0, 1).flags(0b00 << 6), INVALID_FIELD));
    rows.push(Row::ok("PSDT 01b: an SGL", read(d, 0, 1).flags(0b01 << 6)));
    rows.push(Row::is("PSDT 11b", read(d, 0, 1).flags(0b11 << 6), INVALID_FIELD));
    // 10b says that the metadata pointer leads to an SGL; a controller without metadata may take or refuse it.
    let either = &[Status::SUCCESS, Status::INVALID_FIELD];
    rows.push(Row::one_of("PSDT 10b", read(d, 0, 1).flags(0b10 << 6), either));
    rows.push(Row::is("FUSE 11b", read(d, 0, 1).flags(0x43), INVALID_FIELD));
    judge("Descriptors", &mut q, rows);
}

#[test]
fn fields_of_reads_and_writes_are_judged() {
    let s = Subject::start();
    let (_client, mut q) = s.queue();
    let d = BIG;
    let one = || vec![1; 4096];
    let mut rows = vec![
        Row::ok("read with FUA", or12(read(d, 0, 1), FUA)),
        Row::ok("read with Limited Retry", or12(read(d, 0, 1), LR)),
        Row::ok("write with FUA and Limited Retry", or12(write(d, 0, one()), FUA | LR)),
        Row::ok("write zeroes with FUA", or12(io(op::WRITE_ZEROES, d.nsid, 0, 1), FUA)),
        Row::ok("DSM hints are hints: access frequency, latency, sequential", read(d, 0, 1).dword(13, 0x7f)),
    ];
    let protection = &[Status::INVALID_FIELD, Status::INVALID_PROTECTION_INFO];
    for bit in 26..30 {
        for (name, c) in [("read", read(d, 0, 1)), ("write", write(d, 0, one()))] {
            let name = format!("{name} with PRINFO bit {bit}, on a format without protection information");
            rows.push(Row::one_of(name, or12(c, 1 << bit), protection));
        }
    }
    for dtype in [1u32, 2, 0xf] {
        let name = format!("write with directive type {dtype}, which is not enabled");
        rows.push(Row::is(name, or12(write(d, 0, one()), dtype << 20), INVALID_FIELD));
    }
    judge("Fields", &mut q, rows);
}

#[test]
fn flush_takes_one_namespace_or_all() {
    let s = Subject::start();
    let (_client, mut q) = s.queue();
    let flush = |nsid| Command::new(op::FLUSH, nsid);
    let bad = Status::INVALID_NAMESPACE.dnr();
    let rows = vec![
        Row::ok("one", flush(BIG.nsid)),
        Row::ok("another", flush(SMALL.nsid)),
        Row::ok("all", flush(0xffff_ffff)),
        Row::is("none", flush(0), bad),
        Row::is("an inactive one", flush(4), bad),
    ];
    judge("Flush", &mut q, rows);
}

#[test]
fn compare_tells_apart() {
    let s = Subject::start();
    let (_client, mut q) = s.queue();
    let mut rows = Vec::new();
    for d in [BIG, SMALL] {
        let data = bytes(9, d.block as usize * 64);
        let compare = |data: Vec<u8>| {
            let blocks = data.len() as u32 / d.block;
            io(op::COMPARE, d.nsid, 100, blocks).with(Data::Out(data))
        };
        rows.push(Row::ok("written", write(d, 100, data.clone())));
        rows.push(Row::ok("equal", compare(data.clone())));
        rows.push(Row::ok("equal, one block", compare(data[..d.block as usize].to_vec())));
        for at in [0, 1, d.block as usize - 1, d.block as usize * 63, data.len() - 1] {
            let mut other = data.clone();
            other[at] ^= 1;
            rows.push(Row::is(format!("byte {at} differs"), compare(other), Status::COMPARE_FAILURE.dnr()));
        }
        rows.push(Row::ok("blocks never written equal zeroes", {
            io(op::COMPARE, d.nsid, 5000, 2).with(Data::Out(vec![0; 2 * d.block as usize]))
        }));
    }
    judge("Compare", &mut q, rows);
}

#[test]
fn write_zeroes_deallocate_and_dataset_management() {
    let s = Subject::start();
    let (mut client, mut q) = s.queue();
    for d in [BIG, SMALL] {
        let data = bytes(3, d.block as usize * 32);
        let used = |c: &mut caisson_initiator::Client| c.identify_namespace(d.nsid).unwrap().nuse.get();
        let full: Vec<u8> = bytes(4, 1 << 20);
        let mega = full.len() as u64 / u64::from(d.block);
        for i in 0..4 {
            assert!(q.run(write(d, i * mega, full.clone())).unwrap().status().is_success());
        }
        let before = used(&mut client);
        assert!(before >= 4 * mega, "NUSE {before} after writing {} blocks", 4 * mega);
        let b = d.block as usize;
        judge(
            "Zeroes and deallocation",
            &mut q,
            vec![
                Row::ok("write", write(d, 64, data.clone())),
                Row::ok("zero 8 of them", io(op::WRITE_ZEROES, d.nsid, 72, 8)),
                reads_back("before them", d, 64, data[..8 * b].to_vec()),
                zeroes("they read as zeroes", d, 72, 8),
                reads_back("after them", d, 80, data[16 * b..].to_vec()),
                Row::ok("zero with DEAC", or12(io(op::WRITE_ZEROES, d.nsid, 80, 8), DEAC)),
                zeroes("they read as zeroes too", d, 80, 8),
                Row::ok("deallocate two ranges", dsm(d, true, &[(4, 64), (2, 94)])),
                zeroes("the first", d, 64, 4),
                reads_back("between", d, 88, data[24 * b..30 * b].to_vec()),
                zeroes("the second", d, 94, 2),
                Row::ok("a Dataset Management without AD changes nothing", dsm(d, false, &[(8, 88)])),
                reads_back("nothing", d, 88, data[24 * b..30 * b].to_vec()),
                Row::ok("a range of no blocks", dsm(d, true, &[(0, 88)])),
                reads_back("is nothing", d, 88, data[24 * b..30 * b].to_vec()),
                Row::ok("256 ranges", dsm(d, true, &(0..256).map(|i| (1, 200 + 2 * i)).collect::<Vec<_>>())),
                Row::is(
                    "a range over the end",
                    dsm(d, true, &[(2, d.blocks - 1)]),
                    Status::LBA_OUT_OF_RANGE.dnr(),
                ),
                Row::is(
                    "a range that overflows",
                    dsm(d, true, &[(2, u64::MAX)]),
                    Status::LBA_OUT_OF_RANGE.dnr(),
                ),
                Row::is(
                    "fewer ranges than NR says",
                    dsm(d, true, &[(1, 0)]).dword(10, 3),
                    Status::INVALID_SGL_LENGTH.dnr(),
                ),
                Row::is(
                    "an inactive namespace",
                    dsm(Disk { nsid: 9, ..d }, true, &[(1, 0)]),
                    Status::INVALID_NAMESPACE.dnr(),
                ),
                Row::ok("everything", dsm(d, true, &[(d.blocks as u32, 0)])),
                zeroes("is gone", d, 0, 32),
            ],
        );
        let after = used(&mut client);
        assert!(after == 0, "deallocating everything frees everything, not NUSE {before} -> {after}");
    }
}

#[test]
fn uncorrectable_until_written_again() {
    // A pool keeps 4 KiB blocks, of which a logical block of 512 bytes is a part.
    let pooled = Pooled::start(POOLED);
    let s = Subject::start();
    pooled.export(&s);
    let (mut client, mut q) = s.queue();
    for d in [BIG, SMALL, POOLED] {
        let b = d.block as usize;
        let unread = Status::UNRECOVERED_READ_ERROR.dnr();
        let data = bytes(5, 8 * b);
        judge(
            "Write Uncorrectable",
            &mut q,
            vec![
                Row::ok("write 8", write(d, 40, data.clone())),
                Row::ok("verify them", io(op::VERIFY, d.nsid, 40, 8)),
                Row::ok("spoil the third and fourth", io(op::WRITE_UNCORRECTABLE, d.nsid, 42, 2)),
                Row::is("reading all 8", read(d, 40, 8), unread),
                Row::is("verifying all 8", io(op::VERIFY, d.nsid, 40, 8), unread),
                Row::one_of(
                    "comparing all 8",
                    io(op::COMPARE, d.nsid, 40, 8).with(Data::Out(data.clone())),
                    &[Status::UNRECOVERED_READ_ERROR, Status::COMPARE_FAILURE],
                ),
                reads_back("their neighbours before", d, 40, data[..2 * b].to_vec()),
                reads_back("their neighbours after", d, 44, data[4 * b..].to_vec()),
                Row::ok("write one of them", write(d, 42, data[..b].to_vec())),
                reads_back("it reads", d, 42, data[..b].to_vec()),
                Row::is("the other does not", read(d, 43, 1), unread),
                Row::ok("zero it", io(op::WRITE_ZEROES, d.nsid, 43, 1)),
                zeroes("it reads as zeroes", d, 43, 1),
            ],
        );
    }
    let page = caisson_wire::log::GetLogPage { lid: caisson_wire::log::lid::ERROR, ..Default::default() };
    let log = client.log_page(0xffff_ffff, page, 64).unwrap();
    let entry = caisson_wire::log::ErrorEntry::decode(&log).unwrap();
    assert!(entry.ecnt.get() > 0, "the error log knows of them: {entry:?}");
    assert_eq!((entry.nsid.get(), entry.sqid.get()), (POOLED.nsid, 1), "{entry:?}");
    assert_eq!(entry.lba.get(), 43, "{entry:?}");
}

#[test]
fn copies() {
    let s = Subject::start();
    let (mut client, mut q) = s.queue();
    for d in [BIG, SMALL] {
        let b = d.block as usize;
        let id = client.identify_namespace(d.nsid).unwrap();
        let (mssrl, mcl, msrc) = (u32::from(id.mssrl.get()), id.mcl.get(), u32::from(id.msrc));
        assert!(mssrl > 0 && mcl >= mssrl, "Copy is advertised, with limits: {mssrl} {mcl} {msrc}");
        let data = bytes(6, 16 * b);
        let joined = [&data[4 * b..6 * b], &data[..b], &data[15 * b..]].concat();
        let limit = Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr();
        let out = Status::LBA_OUT_OF_RANGE.dnr();
        let mut rows = vec![
            Row::ok("write", write(d, 0, data.clone())),
            Row::ok("copy three ranges", copy(d, 1000, &[(4, 2), (0, 1), (15, 1)])),
            reads_back("they follow each other", d, 1000, joined),
            Row::ok("copy with FUA", or12(copy(d, 2000, &[(0, 16)]), FUA)),
            reads_back("all", d, 2000, data.clone()),
            Row::is("from beyond the end", copy(d, 0, &[(d.blocks, 1)]), out),
            Row::is("to beyond the end", copy(d, d.blocks - 1, &[(0, 2)]), out),
            Row::is("from an LBA that overflows", copy(d, 0, &[(u64::MAX, 1)]), out),
            Row::is("to an LBA that overflows", copy(d, u64::MAX, &[(0, 1)]), out),
            Row::ok("a range of MSSRL", copy(d, 4096, &[(0, mssrl)])),
            Row::is(
                "fewer ranges than NR says",
                or12(copy(d, 0, &[(0, 1)]), 3),
                Status::INVALID_SGL_LENGTH.dnr(),
            ),
            Row::is(
                "an inactive namespace",
                copy(Disk { nsid: 9, ..d }, 0, &[(0, 1)]),
                Status::INVALID_NAMESPACE.dnr(),
            ),
        ];
        if mssrl < 65536 {
            rows.push(Row::is("a range of more than MSSRL", copy(d, 0, &[(0, mssrl + 1)]), limit));
        }
        if msrc < 255 {
            let many: Vec<_> = (0..msrc + 2).map(|i| (u64::from(i), 1)).collect();
            rows.push(Row::is("more ranges than MSRC", copy(d, 0, &many), limit));
        }
        let most: Vec<_> = (0..=msrc).map(|i| (u64::from(i % 16), 1)).collect();
        rows.push(Row::ok("as many ranges as MSRC", copy(d, 8192, &most)));
        const FORMATS: &[Status] =
            &[Status::INVALID_FIELD, Status::INVALID_FORMAT, Status::from_parts(1, 0x85)];
        for format in [1u32, 2, 3, 4, 0xf] {
            let name = format!("descriptor format {format}, which is not supported");
            rows.push(Row::one_of(name, or12(copy(d, 0, &[(0, 1)]), format << 8), FORMATS));
        }
        judge("Copy", &mut q, rows);
    }
}

#[test]
fn opcodes_that_are_not_advertised_are_refused() {
    let s = Subject::start();
    let (mut client, mut q) = s.queue();
    let page = caisson_wire::log::GetLogPage { lid: caisson_wire::log::lid::EFFECTS, ..Default::default() };
    let log = client.log_page(0, page, 4096).unwrap();
    let effects = caisson_wire::log::EffectsLog::decode(&log).unwrap();
    let mut rows = Vec::new();
    for opcode in 0..=255u8 {
        let known = effects.iocs[usize::from(opcode)].get() & 1 != 0;
        // Fabrics commands have rules of their own.
        if !known && opcode != 0x7f {
            let c = Command::new(opcode, BIG.nsid);
            rows.push(Row::is(format!("opcode {opcode:02x}h"), c, Status::INVALID_OPCODE.dnr()));
        }
    }
    assert!(rows.len() < 250, "the effects log names what is supported");
    judge("Opcodes", &mut q, rows);
}
