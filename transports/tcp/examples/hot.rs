//! What the protocol core costs by itself: nanoseconds a command on each side, without sockets.
//!
//! `cargo run --release -p caisson-tcp --example hot`. Each side is timed alone, against bytes that the other side made
//! before: a host's requests, and the replies of a target, in large receive buffers as a busy connection gets them. The
//! median of the batches, so that a machine that is busy with other things says the same.

use caisson_block::{Buf, BufList, Completions, Mono};
use caisson_tcp::controller::{self, Payload};
use caisson_tcp::host::{self, Transfer};
use caisson_wire::opcode::io;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Cqe, Sqe, Status};
use std::time::{Duration, Instant};

const BATCH: u16 = 64;
const ROUNDS: u32 = 20_000;
const NOW: Mono = Mono(0);

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    opcode: u8,
    bytes: u32,
    digests: bool,
}

#[derive(Default)]
struct Times {
    host_send: Vec<Duration>,
    target_parse: Vec<Duration>,
    target_reply: Vec<Duration>,
    target_gather: Vec<Duration>,
    host_parse: Vec<Duration>,
}

fn main() {
    println!(
        "{:<26} {:>9} {:>12} {:>12} {:>13} {:>10}",
        "ns/command", "host send", "target parse", "target reply", "target gather", "host parse"
    );
    for case in [
        Case { name: "flush", opcode: io::FLUSH, bytes: 0, digests: false },
        Case { name: "read 4 KiB", opcode: io::READ, bytes: 4096, digests: false },
        Case { name: "write 4 KiB in capsule", opcode: io::WRITE, bytes: 4096, digests: false },
        Case { name: "read 4 KiB, digests", opcode: io::READ, bytes: 4096, digests: true },
        Case { name: "write 4 KiB, digests", opcode: io::WRITE, bytes: 4096, digests: true },
    ] {
        let t = run(case);
        let per = |mut d: Vec<Duration>| {
            d.sort_unstable();
            d[d.len() / 2].as_nanos() as f64 / f64::from(BATCH)
        };
        println!(
            "{:<26} {:>9.1} {:>12.1} {:>12.1} {:>13.1} {:>10.1}",
            case.name,
            per(t.host_send),
            per(t.target_parse),
            per(t.target_reply),
            per(t.target_gather),
            per(t.host_parse)
        );
    }
}

fn run(case: Case) -> Times {
    let mut spare = Completions::default();
    let config =
        host::Config { header_digest: case.digests, data_digest: case.digests, ..Default::default() };
    let mut host = host::Session::new(config, NOW);
    let mut target = controller::Session::new(controller::Config::default(), NOW);
    target.receive(Buf::from(host.tx().drain()));
    assert!(target.next(NOW, &mut spare).is_none());
    host.receive(Buf::from(target.tx().drain()));
    assert!(host.next(NOW).is_some());

    let page = Buf::from(vec![7u8; case.bytes as usize]);
    let mut iov = vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 1024];
    let mut times = Times::default();
    let mut in_hand = Vec::new();
    for _ in 0..ROUNDS {
        let t = Instant::now();
        for cid in 0..BATCH {
            let sqe = Sqe { opcode: case.opcode, cid: U16::new(cid), nsid: U32::new(1), ..Sqe::default() };
            let data = match case.opcode {
                io::READ => Transfer::In(case.bytes),
                io::WRITE => {
                    let mut list = host.list();
                    list.push(page.clone());
                    Transfer::Out(list)
                }
                _ => Transfer::None,
            };
            host.command(sqe, data).unwrap();
        }
        times.host_send.push(t.elapsed());
        let bytes = Buf::from(host.tx().drain());

        let t = Instant::now();
        target.receive(bytes);
        while let Some(event) = target.next(NOW, &mut spare) {
            let controller::Event::Command { slot, sqe, payload } = event else { panic!() };
            if let Payload::InCapsule(list) = payload {
                spare.recycle(list);
            }
            in_hand.push((slot, sqe.cid.get()));
        }
        times.target_parse.push(t.elapsed());

        let t = Instant::now();
        for (slot, cid) in in_hand.drain(..) {
            let data = if case.opcode == io::READ {
                let mut list = spare.list();
                list.push(page.clone());
                list
            } else {
                BufList::new()
            };
            target.reply(slot, Cqe::new(cid, Status::SUCCESS), data, &mut spare);
        }
        times.target_reply.push(t.elapsed());

        let t = Instant::now();
        std::hint::black_box(target.tx().gather(&mut iov, 1 << 20));
        times.target_gather.push(t.elapsed());
        let bytes = Buf::from(target.tx().drain());

        let t = Instant::now();
        host.receive(bytes);
        let mut done = 0;
        while let Some(event) = host.next(NOW) {
            done += u16::from(matches!(event, host::Event::Completed { .. }));
        }
        times.host_parse.push(t.elapsed());
        assert_eq!(done, BATCH);
    }
    times
}
