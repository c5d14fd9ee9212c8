//! The load generator against the target: every pattern verified, digests, several connections, epoll and polling.

use caisson_conformance::subject::{BIG, NQN, SMALL, Subject};
use caisson_initiator::cli::{PerfArgs, perf};
use caisson_initiator::perf::{self, Pattern, Report, Until, Workload};
use caisson_initiator::{Client, Error};
use clap::Parser;
use std::sync::Arc;

fn go(s: &Subject, nsid: u32, digests: u8, w: &Workload) -> Result<Report, Error> {
    let mut o = s.options(NQN);
    // RDMA has none.
    let digests = if s.address.is_rdma() { 0 } else { digests };
    o.greeting.header_digest = digests & 1 != 0;
    o.greeting.data_digest = digests & 2 != 0;
    let mut client = Client::connect(o)?;
    let ns = client.namespace(nsid)?;
    let links = (1..=w.connections as u16)
        .map(|qid| client.io_queue(qid, w.depth + 1)?.into_link())
        .collect::<Result<_, _>>()?;
    perf::run(links, &ns, w, &Arc::default(), &mut |_| client.tick())
}

#[test]
fn every_pattern_is_verified_on_the_target() {
    use Pattern::*;
    let s = Subject::start();
    let cases = [
        (RandRw, 4096, 1, 0, true),
        (RandWrite, 4096, 4, 3, true),
        (Rw, 65536, 2, 1, false),
        (Write, 131_072, 1, 2, true),
        (RandWrite, 1 << 20, 2, 3, true),
        (RandRw, 12288, 3, 0, false),
    ];
    for (pattern, block, connections, digests, poll) in cases {
        for disk in [BIG, SMALL] {
            let w = Workload {
                pattern,
                block,
                connections,
                poll,
                depth: 8,
                until: Until::Bytes(24 << 20),
                verify: true,
                ..Workload::default()
            };
            let r = go(&s, disk.nsid, digests, &w).unwrap_or_else(|e| panic!("{pattern:?} {block}: {e}"));
            let v = r.verified.unwrap();
            println!("  {pattern:?} of {block} on {}-byte blocks: {} blocks verified", disk.block, v.checked);
            assert!(v.checked > 100 && r.total.bytes >= 24 << 20);
        }
    }
}

#[test]
fn a_changed_block_is_found() {
    let s = Subject::start();
    let w = Workload {
        pattern: Pattern::Write,
        until: Until::Bytes(1 << 20),
        size: 1 << 20,
        verify: true,
        ..Workload::default()
    };
    go(&s, 1, 0, &w).unwrap();
    let read = Workload { pattern: Pattern::Read, ..w };
    go(&s, 1, 0, &read).unwrap();
    let (_client, mut q) = s.queue();
    let zap = caisson_conformance::subject::io(8, 1, 17, 1);
    assert!(q.run(zap).unwrap().status().is_success());
    // A block of zeroes counts as never written, so a spoilt one is made of ones.
    let ones =
        caisson_conformance::subject::io(1, 1, 18, 1).with(caisson_initiator::Data::Out(vec![1; 4096]));
    assert!(q.run(ones).unwrap().status().is_success());
    match go(&s, 1, 0, &read) {
        Err(Error::Miscompare { bad: 1, lba: 18, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: PerfArgs,
}

#[test]
fn the_command_finds_its_subsystem_and_draws() {
    let s = Subject::start();
    let picture = std::env::temp_dir().join(format!("caisson-perf-{}.svg", std::process::id()));
    let run = |more: &[&str]| {
        let address = s.address.to_string();
        let line = ["perf", &address, "--hostnqn", "nqn.2026-01.io.example:host", "--quiet"];
        let cli = Cli::try_parse_from(line.iter().copied().chain(more.iter().copied())).unwrap();
        perf(&cli.args)
    };
    run(&["--time", "200ms", "--svg", picture.to_str().unwrap()]).unwrap();
    let drawn = std::fs::read_to_string(&picture).unwrap();
    let _ = std::fs::remove_file(&picture);
    assert!(drawn.starts_with("<svg") && drawn.contains("p99.9"));
    let mut mixed = vec!["-p", "randrw", "-b", "16k", "-c", "2", "--bytes", "4M", "--verify", "--no-poll"];
    if !s.address.is_rdma() {
        mixed.push("--data-digest");
    }
    run(&mixed).unwrap();
    let said = |more: &[&str]| run(more).unwrap_err().to_string();
    assert!(said(&["-b", "2M"]).contains("--block-size 1048576"));
    assert!(said(&["--nsid", "77"]).contains("--nsid"));
    assert!(said(&["-d", "5000"]).contains("--depth 1023"));
    assert!(said(&["--nqn", "nqn.2026-01.io.example:nowhere"]).contains("Connect"));
}

/// The most that a controller has: 128 I/O queues at once, and 1,023 commands outstanding on a queue of 1,024 entries.
#[test]
fn as_many_queues_and_as_deep_as_there_are() {
    let s = Subject::start();
    for (connections, depth) in [(128u32, 8u32), (1, 1023), (4, 1023)] {
        let mut client = Client::connect(s.options(NQN)).unwrap();
        assert!(client.ask_queues(connections).unwrap() >= connections);
        let ns = client.namespace(BIG.nsid).unwrap();
        let entries = if depth > 1000 { 1024 } else { 32 };
        let links = (1..=connections as u16)
            .map(|qid| client.io_queue(qid, entries)?.into_link())
            .collect::<Result<_, _>>()
            .unwrap();
        let w = Workload {
            pattern: Pattern::RandRead,
            block: 4096,
            depth,
            connections,
            until: Until::Bytes(64 << 20),
            ..Workload::default()
        };
        let report = perf::run(links, &ns, &w, &Arc::default(), &mut |_| client.tick()).unwrap();
        assert!(report.total.ops >= 16_384, "{connections} x {depth}: {} commands", report.total.ops);
    }
}
