//! Fused Compare and Write, and the atomicity that is advertised (Base 2.1, 3.4.2; NVM 1.1, 2.1.4).

use caisson_conformance::subject::{BIG, Subject, bytes, io};
use caisson_initiator::{Command, Data, Queue};
use caisson_wire::Status;
use caisson_wire::opcode::io as op;

const FIRST: u8 = 0x41;
const SECOND: u8 = 0x42;

fn compare(lba: u64, data: Vec<u8>) -> Command {
    io(op::COMPARE, BIG.nsid, lba, data.len() as u32 / 4096).with(Data::Out(data)).flags(FIRST)
}

fn write(lba: u64, data: Vec<u8>) -> Command {
    io(op::WRITE, BIG.nsid, lba, data.len() as u32 / 4096).with(Data::Out(data)).flags(SECOND)
}

fn on_request(mut c: Command) -> Command {
    if let Data::Out(data) = c.data {
        c.data = Data::OutAsked(data);
    }
    c
}

/// Sends the commands at once; their statuses in order.
fn all(q: &mut Queue, commands: Vec<Command>) -> Vec<Status> {
    let cids = q.submit_all(commands).unwrap();
    cids.into_iter().map(|cid| q.wait(cid).unwrap().status()).collect()
}

fn block(q: &mut Queue, lba: u64) -> Vec<u8> {
    q.run(io(op::READ, BIG.nsid, lba, 1).with(Data::In(4096))).unwrap().data
}

#[test]
fn pairs_do_both_or_nothing() {
    let s = Subject::start();
    let (client, mut q) = s.queue();
    assert_eq!(client.identity.as_ref().unwrap().fuses.get() & 1, 1, "Compare and Write is advertised");
    let (zero, a, b) = (vec![0; 4096], bytes(1, 4096), bytes(2, 4096));
    let failed = Status::ABORT_FAILED_FUSED;
    let missing = Status::ABORT_MISSING_FUSED;
    let plain = || io(op::READ, BIG.nsid, 0, 1).with(Data::In(4096));
    let ok = Status::SUCCESS;
    type Scene = (&'static str, Vec<Command>, Vec<Status>, u64, Vec<u8>);
    let scenes: Vec<Scene> = vec![
        ("equal: written", vec![compare(0, zero.clone()), write(0, a.clone())], vec![ok, ok], 0, a.clone()),
        (
            "different: not written",
            vec![compare(0, zero.clone()), write(0, b.clone())],
            vec![Status::COMPARE_FAILURE, failed],
            0,
            a.clone(),
        ),
        (
            "data on request",
            vec![on_request(compare(0, a.clone())), on_request(write(0, b.clone()))],
            vec![ok, ok],
            0,
            b.clone(),
        ),
        (
            "the first on request, the second in the capsule",
            vec![on_request(compare(0, b.clone())), write(0, a.clone())],
            vec![ok, ok],
            0,
            a.clone(),
        ),
        (
            "a first without its second",
            vec![compare(1, zero.clone()), plain()],
            vec![missing, ok],
            1,
            zero.clone(),
        ),
        ("a second without its first", vec![write(1, a.clone())], vec![missing], 1, zero.clone()),
        (
            "two firsts, then a second",
            vec![compare(1, zero.clone()), compare(1, zero.clone()), write(1, a.clone())],
            vec![missing, ok, ok],
            1,
            a.clone(),
        ),
        (
            "different ranges",
            vec![compare(2, zero.clone()), write(3, a.clone())],
            vec![Status::INVALID_FIELD, Status::INVALID_FIELD],
            3,
            zero.clone(),
        ),
        (
            "different lengths",
            vec![compare(2, vec![0; 8192]), write(2, a.clone())],
            vec![Status::INVALID_FIELD, Status::INVALID_FIELD],
            2,
            zero.clone(),
        ),
        (
            "the first is beyond the end",
            vec![compare(BIG.blocks, zero.clone()), write(BIG.blocks, a.clone())],
            vec![Status::LBA_OUT_OF_RANGE, failed],
            2,
            zero.clone(),
        ),
        (
            "a write as the first",
            vec![write(2, a.clone()).flags(FIRST), write(2, a.clone())],
            vec![Status::INVALID_FIELD, failed],
            2,
            zero.clone(),
        ),
        (
            "a compare as the second",
            vec![compare(2, zero.clone()), compare(2, zero.clone()).flags(SECOND)],
            vec![failed, Status::INVALID_FIELD],
            2,
            zero.clone(),
        ),
        ("ordinary commands go on", vec![plain(), plain()], vec![ok, ok], 2, zero.clone()),
    ];
    for (name, commands, want, lba, after) in scenes {
        let got = all(&mut q, commands);
        let same = got.len() == want.len() && got.iter().zip(&want).all(|(g, w)| g.is(*w));
        println!("  {} {name}: {got:?}", if same { "ok   " } else { "WRONG" });
        assert!(same, "{name}: {got:?}, not {want:?}");
        assert!(block(&mut q, lba) == after, "{name}: block {lba} afterwards");
    }
}

#[test]
fn counters_that_several_hosts_raise_lose_nothing() {
    const HOSTS: u64 = 4;
    const TIMES: u64 = 60;
    let s = Subject::start();
    std::thread::scope(|scope| {
        for _ in 0..HOSTS {
            scope.spawn(|| {
                let (_client, mut q) = s.queue();
                let mut done = 0;
                while done < TIMES {
                    let old = block(&mut q, 77);
                    let n = u64::from_le_bytes(old[..8].try_into().unwrap());
                    let mut new = old.clone();
                    new[..8].copy_from_slice(&(n + 1).to_le_bytes());
                    new[4088..].copy_from_slice(&(n + 1).to_le_bytes());
                    let got = all(&mut q, vec![compare(77, old), write(77, new)]);
                    match (got[0].is_success(), got[1].is_success()) {
                        (true, true) => done += 1,
                        (false, false) => assert!(got[0].is(Status::COMPARE_FAILURE), "{got:?}"),
                        _ => panic!("half a pair: {got:?}"),
                    }
                }
            });
        }
    });
    let (_client, mut q) = s.queue();
    let end = block(&mut q, 77);
    assert_eq!(u64::from_le_bytes(end[..8].try_into().unwrap()), HOSTS * TIMES);
    assert_eq!(end[..8], end[4088..]);
}

#[test]
fn a_block_is_never_seen_half_written() {
    let s = Subject::start();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2u8 {
            let (s, stop) = (&s, &stop);
            scope.spawn(move || {
                let (_client, mut q) = s.queue();
                let mut fill = seed;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    fill = fill.wrapping_add(2);
                    let w = io(op::WRITE, BIG.nsid, 9, 1).with(Data::Out(vec![fill; 4096]));
                    assert!(q.run(w).unwrap().status().is_success());
                }
            });
        }
        let (_client, mut q) = s.queue();
        for _ in 0..2000 {
            let b = block(&mut q, 9);
            assert!(b.iter().all(|&x| x == b[0]), "a block is part {} and part another", b[0]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
