//! What bounds a host must not stop it, nor anybody else: deep queues of large writes, hosts that stop reading in the middle
//! of a PDU, and a target out of file descriptors; and when all is done, it sleeps.

use caisson_conformance::bystander::beside_verified_io;
use caisson_conformance::pdu::{capsule, icreq};
use caisson_conformance::stage::{Stage, Way};
use caisson_conformance::subject::{BIG, NQN, Subject, io};
use caisson_initiator::perf::{self, Pattern, Until, Workload};
use caisson_initiator::transport::RawConn;
use caisson_initiator::{Client, Data};
use caisson_wire::Sgl;
use caisson_wire::opcode::io as op;
use caisson_wire::pdu::kind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[test]
fn more_writes_than_one_host_may_pin_go_through() {
    let s = Subject::start();
    let mut client = Client::connect(s.options(NQN)).unwrap();
    let ns = client.namespace(BIG.nsid).unwrap();
    // 64 MiB of writes at once, four times what one connection may have the target hold.
    let depth = 64;
    let links = vec![client.io_queue(1, depth + 1).unwrap().into_link().unwrap()];
    let w = Workload {
        pattern: Pattern::Write,
        block: 1 << 20,
        depth,
        connections: 1,
        until: Until::Bytes(256 << 20),
        ..Workload::default()
    };
    perf::run(links, &ns, &w, &Arc::default(), &mut |_| client.tick()).unwrap();
}

#[test]
fn a_host_that_stops_reading_within_a_pdu_over_tcp_stops_nobody() {
    let s = Subject::start();
    beside_verified_io(&s, || {
        let way = Way::new(&s);
        let mut deaf = way.reach(Stage::Io(0)).0;
        // Little fits into the sockets: the rest waits in the target.
        rustix::net::sockopt::set_socket_recv_buffer_size(deaf.stream(), 65536).unwrap();
        let mut sqe = io(op::READ, BIG.nsid, 0, 256).sqe;
        sqe.sgl = Sgl::transport(1 << 20);
        let mut all = Vec::new();
        for cid in 0..15 {
            sqe.cid.set(cid);
            all.extend(capsule(&sqe, &[]).0);
        }
        all.extend(&capsule(&sqe, &[]).0[..7]);
        deaf.send(&all).unwrap();
        // Longer than a PDU may take in this test's target.
        std::thread::sleep(Duration::from_secs(3));
        // On every thread of the target.
        for _ in 0..8 {
            s.client().identify_controller().unwrap();
        }
    });
}

/// Turns of the target's threads so far.
fn turns(s: &Subject) -> u64 {
    s.reactors.stats().iter().map(|t| t.turns.load(Ordering::Relaxed)).sum()
}

/// Where more comes while the kernel handles what came before, it may leave its flag for deferred work behind: after one
/// burst in twenty or so. Turns are counted, not CPU time, for the machine may be slow.
#[test]
fn after_each_burst_the_target_sleeps() {
    const DEPTH: u32 = 128;
    let s = Subject::start();
    let mut client = s.client();
    let mut queues: Vec<_> = (1..=4).map(|qid| client.io_queue(qid, DEPTH + 1).unwrap()).collect();
    for burst in 0..300 {
        let write = |n| io(op::WRITE, BIG.nsid, n, 1).with(Data::Out(vec![7; 4096]));
        let sent: Vec<_> =
            queues.iter_mut().map(|q| q.submit_all((0..u64::from(DEPTH)).map(write)).unwrap()).collect();
        for (q, cids) in queues.iter_mut().zip(sent) {
            for cid in cids {
                assert!(q.wait(cid).unwrap().status().is_success());
            }
        }
        // Spinning is over by then, were it not for the flag, which keeps a thread turning until it hears of something.
        std::thread::sleep(Duration::from_millis(2));
        let before = turns(&s);
        std::thread::sleep(Duration::from_millis(10));
        let turned = turns(&s) - before;
        assert!(turned < 100, "{turned} turns of a target without work, after burst {burst}");
    }
}

/// CPU time of this process, in seconds.
fn cpu() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to `t`. No file is opened for it: none could be.
    let asked = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    assert_eq!(asked, 0);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

#[test]
fn out_of_descriptors_over_tcp_costs_no_cpu_and_is_got_over() {
    // In a process of its own, for the limit is the process's.
    if std::env::var_os("CAISSON_LIMITED").is_none() {
        let me = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(me);
        child.args(["--exact", "out_of_descriptors_over_tcp_costs_no_cpu_and_is_got_over", "--nocapture"]);
        assert!(child.env("CAISSON_LIMITED", "1").status().unwrap().success());
        return;
    }
    use rustix::net::{AddressFamily, SocketType, connect, socket};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let s = Subject::start();
    let late = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let had = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..had }).unwrap();
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], s.address.port));
    connect(&late, &at).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let (before, turned) = (cpu(), turns(&s));
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu() - before;
    setrlimit(Resource::Nofile, had).unwrap();
    let turned = turns(&s) - turned;
    println!("a second without descriptors: {used:.3} s of CPU, {turned} turns");
    assert!(used < 0.2 && turned < 100, "{used} s, {turned} turns");
    let mut c = RawConn::connect(&s.address, Duration::from_secs(20)).unwrap();
    c.send(&icreq(0).0).unwrap();
    assert_eq!(c.receive().unwrap().kind(), kind::IC_RESP);
}
