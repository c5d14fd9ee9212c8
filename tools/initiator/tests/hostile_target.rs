//! A target that sends anything at all: the client and the load generator end with an error, never with a panic, and
//! never wait longer than they were told.

use caisson_initiator::perf::workload::Random;
use caisson_initiator::perf::{self, Link, Namespace, Until, Way, Workload};
use caisson_initiator::queue::{Command, Data, Queue};
use caisson_initiator::transport::{Framing, Greeting};
use caisson_initiator::{Address, net};
use caisson_wire::opcode::io;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that look like what a target sends, damaged more or less.
fn stream(rng: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + rng.below(6) {
        let kind = [5u8, 7, 9, 3, 7, 5, rng.draw() as u8][rng.below(7) as usize];
        let data = if kind == 7 { [0usize, 512, 4096, 8192][rng.below(4) as usize] } else { 0 };
        let mut pdu = vec![0u8; 24 + data];
        let plen = pdu.len() as u32;
        pdu[0] = kind;
        pdu[1] = if kind == 7 { [0x0c, 0x04, 0][rng.below(3) as usize] } else { 0 };
        pdu[2] = 24;
        pdu[3] = if kind == 7 { 24 } else { 0 };
        pdu[4..8].copy_from_slice(&plen.to_le_bytes());
        pdu[16..20].copy_from_slice(&(data as u32).to_le_bytes());
        for _ in 0..rng.below(3) {
            let at = rng.below(24) as usize;
            pdu[at] = [rng.draw() as u8, 0, 0xff][rng.below(3) as usize];
        }
        out.extend_from_slice(&pdu);
    }
    let keep = rng.below(out.len() as u64 + 1) as usize;
    if rng.below(3) == 0 {
        out.truncate(keep);
    }
    out
}

/// ICResp without digests, MAXH2CDATA 128 KiB.
fn icresp() -> [u8; 128] {
    let mut r = [0u8; 128];
    (r[0], r[2], r[4]) = (1, 128, 128);
    r[12..16].copy_from_slice(&(128u32 << 10).to_le_bytes());
    r
}

/// Answers each of `count` connections: ICResp after 128 bytes where `greet`, then a stream of its own.
fn target(count: u64, greet: bool) -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        for seed in 0..count {
            let (mut stream_to, _) = listener.accept().unwrap();
            let mut rng = Random::new(seed);
            if greet {
                let _ = stream_to.read_exact(&mut [0; 128]);
                let _ = stream_to.write_all(&icresp());
            }
            let _ = stream_to.read(&mut [0; 72]);
            let _ = stream_to.write_all(&stream(&mut rng));
            if rng.below(2) == 0 {
                // Some stay open and silent for a while.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    (port, thread)
}

#[test]
fn the_client_survives_it() {
    const COUNT: u64 = 400;
    let (port, thread) = target(COUNT, true);
    let to = Address::new("127.0.0.1", port);
    let wait = Duration::from_millis(200);
    let mut ended = 0;
    for _ in 0..COUNT {
        // The greeting is answered, but only once the one before is done with.
        let mut q = Queue::open(&to, Greeting::default(), Duration::from_secs(20)).unwrap();
        q.set_timeout(wait);
        let start = Instant::now();
        let command = match ended % 2 {
            0 => Command::new(io::READ, 1).with(Data::In(4096)),
            _ => Command::new(io::WRITE, 1).with(Data::OutAsked(vec![0; 8192])),
        };
        ended += u32::from(q.run(command).is_err());
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    thread.join().unwrap();
    assert!(ended > 100, "{ended} of {COUNT} ended with an error");
}

#[test]
fn the_load_generator_survives_it() {
    const COUNT: u64 = 200;
    let (port, thread) = target(COUNT, false);
    let w = Workload {
        depth: 4,
        until: Until::Bytes(64 << 10),
        timeout: Duration::from_millis(300),
        ..Workload::default()
    };
    let ns = Namespace { nsid: 1, lba_bytes: 4096, blocks: 1024 };
    let framing = Framing { header_digest: false, data_digest: false, align: 4, max_h2c: 4096 };
    for seed in 0..COUNT {
        let stream = net::connect(&Address::new("127.0.0.1", port), Duration::from_secs(5)).unwrap();
        let link = Link { way: Way::Tcp { stream, framing }, in_capsule: 0, depth: 8 };
        let pattern = if seed % 2 == 0 { perf::Pattern::RandRead } else { perf::Pattern::Write };
        let w = Workload { pattern, verify: seed % 3 == 0, seed, ..w.clone() };
        let result = perf::run(vec![link], &ns, &w, &Arc::default(), &mut |_| Ok(()));
        assert!(result.is_err(), "nobody can have answered 16 commands");
    }
    thread.join().unwrap();
}
