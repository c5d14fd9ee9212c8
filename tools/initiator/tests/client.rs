//! The client against the ideal peer: what can be tested without a target.

use caisson_initiator::ideal::Ideal;
use caisson_initiator::{Address, Client, Command, Data, Error, Options};
use caisson_wire::Status;
use caisson_wire::opcode::io;
use std::net::TcpListener;
use std::time::Duration;

fn options(peer: &Ideal) -> Options {
    Options::new(Address::new("127.0.0.1", peer.port()), "nqn.2026-01.test:ideal")
}

fn lba(opcode: u8, lba: u64, blocks: u32) -> Command {
    Command::new(opcode, 1).dword(10, lba as u32).dword(11, (lba >> 32) as u32).dword(12, blocks - 1)
}

#[test]
fn comes_to_io_and_back() {
    let peer = Ideal::start(1 << 20, None).unwrap();
    for (header_digest, data_digest) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut o = options(&peer);
        o.greeting.header_digest = header_digest;
        o.greeting.data_digest = data_digest;
        let mut c = Client::connect(o).unwrap();
        assert_eq!(c.namespaces().unwrap(), [1]);
        let ns = c.namespace(1).unwrap();
        assert_eq!((ns.lba_bytes, ns.blocks), (4096, 256));
        assert_eq!(c.max_transfer(), 1 << 20);
        let mut q = c.io_queue(1, 64).unwrap();
        // In the capsule, and, larger than that, on request in several pieces.
        for blocks in [1u32, 2, 3, 64] {
            let data: Vec<u8> = (0..blocks * 4096).map(|i| (i * 7 / 3 + blocks) as u8).collect();
            let wrote = q.run(lba(io::WRITE, 5, blocks).with(Data::Out(data.clone()))).unwrap();
            assert_eq!((wrote.status(), wrote.r2ts), (Status::SUCCESS, u32::from(blocks > 2)));
            let read = q.run(lba(io::READ, 5, blocks).with(Data::In(blocks * 4096))).unwrap();
            assert!(read.status().is_success() && read.implied && read.data == data);
        }
        let beyond = q.run(lba(io::READ, 256, 1).with(Data::In(4096))).unwrap();
        assert!(beyond.status().is(Status::LBA_OUT_OF_RANGE) && beyond.status().is_dnr());
        // Many at once, taken in any order.
        let cids = q.submit_all((0..50).map(|i| lba(io::READ, i, 1).with(Data::In(4096)))).unwrap();
        for cid in cids.into_iter().rev() {
            assert!(q.wait(cid).unwrap().status().is_success());
        }
        assert_eq!(q.outstanding(), 0);
        c.tick().unwrap();
    }
}

#[test]
fn a_silent_or_strange_peer_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut o = Options::new(Address::new("127.0.0.1", listener.local_addr().unwrap().port()), "x");
    o.timeout = Duration::from_millis(100);
    let e = Client::connect(o.clone()).unwrap_err();
    assert!(matches!(e, Error::Timeout { .. }), "{e}");
    let answer = std::thread::spawn(move || {
        use std::io::Write;
        // The silent connection from above waits first.
        drop(listener.accept().unwrap());
        listener.accept().unwrap().0.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").unwrap();
    });
    o.timeout = Duration::from_secs(2);
    let e = Client::connect(o).unwrap_err();
    assert!(matches!(e, Error::Protocol { .. } | Error::Closed { .. } | Error::Timeout { .. }), "{e}");
    answer.join().unwrap();
}
