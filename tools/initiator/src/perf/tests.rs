//! The load generator and its lanes, against an ideal peer in this process.

use super::*;
use crate::ideal::Ideal;
use crate::net::{Address, connect};
use crate::transport::Framing;
use caisson_wire::pdu::{CommonHeader, IC_LEN, IcReq, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use std::io::{Read, Write};

/// A queue of an ideal peer, after the exchange of ICReq and ICResp alone.
fn link(port: u16, dgst: u8) -> Link {
    let mut stream = connect(&Address::new("127.0.0.1", port), Duration::from_secs(5)).unwrap();
    stream.set_nonblocking(false).unwrap();
    let ch = CommonHeader { kind: kind::IC_REQ, flags: 0, hlen: 128, pdo: 0, plen: U32::new(128) };
    let req = IcReq { ch, pfv: U16::new(0), hpda: 0, dgst, maxr2t: U32::new(0), rsvd: [0; 112] };
    stream.write_all(req.as_bytes()).unwrap();
    stream.read_exact(&mut [0; IC_LEN]).unwrap();
    stream.set_nonblocking(true).unwrap();
    let framing =
        Framing { header_digest: dgst & 1 != 0, data_digest: dgst & 2 != 0, align: 4, max_h2c: 65536 };
    Link { way: Way::Tcp { stream, framing }, in_capsule: 8192, depth: 1023 }
}

const NS: Namespace = Namespace { nsid: 1, lba_bytes: 4096, blocks: 4096 };

fn go(w: &Workload, dgst: u8) -> Result<Report> {
    let peer = Ideal::start(16 << 20, None).unwrap();
    let links = (0..w.connections).map(|_| link(peer.port(), dgst)).collect();
    run(links, &NS, w, &Arc::default(), &mut |_| Ok(()))
}

#[test]
fn every_pattern_runs_and_verifies() {
    use Pattern::*;
    for (pattern, block, dgst, connections) in
        [(RandRw, 4096, 0, 2), (RandWrite, 16384, 3, 1), (Rw, 131_072, 2, 2), (Write, 1 << 20, 1, 1)]
    {
        let w = Workload {
            pattern,
            block,
            connections,
            depth: 8,
            until: Until::Bytes(32 << 20),
            verify: true,
            threads: 2,
            ..Workload::default()
        };
        let r = go(&w, dgst).unwrap();
        assert_eq!(r.total.bytes, 32 << 20, "{pattern:?}");
        assert!(r.verified.unwrap().checked > 1000, "{pattern:?} {:?}", r.verified);
        assert!(r.write.is_some() && serde_json::to_string(&r).is_ok());
    }
}

#[test]
fn reads_go_by_time_and_rate_and_without_polling() {
    let w = Workload { until: Until::Time(Duration::from_millis(300)), depth: 4, ..Workload::default() };
    let free = go(&w, 0).unwrap();
    assert!(free.total.ops > 0 && free.write.is_none(), "{free}");
    let limited = go(&Workload { rate: 1000, poll: false, ..w.clone() }, 0).unwrap();
    assert!((1..=310).contains(&limited.total.ops), "{limited}");
    let ramped = go(&Workload { ramp: Duration::from_millis(200), ..w }, 0).unwrap();
    assert!((0.1..3.0).contains(&ramped.seconds), "{ramped}");
}

#[test]
fn what_does_not_fit_is_said() {
    let w = |f: fn(&mut Workload)| {
        let mut w = Workload { until: Until::Bytes(4096), ..Workload::default() };
        f(&mut w);
        go(&w, 0).unwrap_err().to_string()
    };
    assert!(w(|w| w.block = 1000).contains("--block-size 4096"));
    assert!(w(|w| w.offset = 1 << 40).contains("--offset"));
    assert!(w(|w| w.depth = 5000).contains("--depth 1023"));
}

#[test]
fn wrong_data_and_a_dead_peer_are_found() {
    // A disk of zeroes passes as unwritten; one that holds something else does not.
    let w = Workload { until: Until::Bytes(1 << 20), verify: true, ..Workload::default() };
    let v = go(&w, 0).unwrap().verified.unwrap();
    assert_eq!((v.checked, v.unwritten), (256, 256));
    let peer = Ideal::start(16 << 20, None).unwrap();
    let ways = |w: &Workload| run(vec![link(peer.port(), 0)], &NS, w, &Arc::default(), &mut |_| Ok(()));
    ways(&Workload { pattern: Pattern::Write, verify: false, ..w.clone() }).unwrap();
    assert!(matches!(ways(&Workload { pattern: Pattern::Read, ..w.clone() }), Err(Error::Miscompare { .. })));
    let queue = link(peer.port(), 0);
    drop(peer);
    let gone = run(vec![queue], &NS, &w, &Arc::default(), &mut |_| Ok(()));
    assert!(matches!(gone, Err(Error::Closed { .. })), "{gone:?}");
}
