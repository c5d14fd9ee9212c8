//! Many connections: 10,000 idle ones in bounded memory and without CPU time, floods that are shed, churn that leaves
//! nothing behind.
//!
//! The target runs in a process of its own (this program again, as `serve LIMIT`), so that each side has its own limit on
//! open files and the target's memory and CPU time can be told. A program by itself, not under the test harness: its
//! parts must not run at once.

use caisson_conformance::pdu::{connect, icreq, question, with_digests};
use caisson_conformance::subject::{NQN, Subject, bytes, io};
use caisson_daemon::reactor::Limits;
use caisson_initiator::transport::RawConn;
use caisson_initiator::{Address, Client, Command, Data, Options, sys};
use caisson_wire::opcode::{FABRICS, fctype, io as op};
use caisson_wire::pdu::kind;
use caisson_wire::{Sqe, Status};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);
/// Idle connections to open, where the limit on open files allows.
const IDLE: usize = 10_000;
/// The most memory that an idle connection may cost the target, in bytes.
const MOST_BYTES: f64 = 16.0 * 1024.0;
/// The most CPU time that 10,000 idle connections may cost, as a share of one core.
const MOST_CPU: f64 = 0.05;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, serve, limit] = args.as_slice()
        && serve == "serve"
    {
        return run_target(limit.parse().expect("the limit is a number"));
    }
    // What `cargo test -- --list` asks of a test program.
    if args.iter().any(|a| a == "--list") {
        return;
    }
    // A part that fails panics, and the program with it. What is printed reads as that of the test harness.
    let parts: [(&str, fn()); 3] = [
        ("idle_connections_cost_little", idle_connections_cost_little),
        ("floods_are_shed", floods_are_shed),
        ("churn_leaves_nothing_behind", churn_leaves_nothing_behind),
    ];
    println!("running {} tests", parts.len());
    for (name, part) in parts {
        part();
        println!("test {name} ... ok");
    }
    println!("test result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", parts.len());
}

/// Serves until standard input ends.
fn run_target(connections: usize) {
    sys::raise_open_files().expect("the limit on open files can be raised");
    let s = Subject::with(Limits { connections, ..Limits::default() });
    println!("{}", s.address.port);
    std::io::stdout().flush().expect("the parent reads");
    let _ = std::io::stdin().read(&mut [0]);
}

/// The target in a process of its own; ended when dropped.
struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    address: Address,
}

impl Target {
    fn start(connections: usize) -> Target {
        let me = std::env::current_exe().expect("this program has a path");
        let mut child = Process::new(me)
            .args(["serve", &connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let stdin = child.stdin.take();
        let mut line = String::new();
        let out = child.stdout.take().expect("its output is a pipe");
        BufReader::new(out).read_line(&mut line).expect("it prints its port");
        let port = line.trim().parse().expect("a port");
        Target { child, stdin, address: Address::new("127.0.0.1", port) }
    }

    fn options(&self) -> Options {
        let mut o = Options::new(self.address.clone(), NQN).host("nqn.2026-01.io.example:load");
        o.kato_ms = 0;
        o.timeout = WAIT;
        o
    }

    /// Resident memory in bytes.
    fn resident(&self) -> f64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it is alive");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("the kernel tells VmRSS");
        let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kib * 1024.0
    }

    /// CPU time used, in seconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it is alive");
        let after = stat.rsplit(')').next().expect("the name ends");
        let ticks: f64 =
            after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
        ticks / 100.0
    }

    /// How many files the target has open: one for each connection, and some of its own.
    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it is alive").count()
    }

    /// Waits until the target has no more files open than `before`: until the connections since then are gone.
    fn settles(&self, before: usize) {
        let end = Instant::now() + WAIT;
        while self.open_files() > before {
            assert!(Instant::now() < end, "{} files are open, not {before}", self.open_files());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A write and a read that must come back, on a connection of their own.
    fn works(&self) {
        let start = Instant::now();
        let mut c = Client::connect(self.options()).unwrap_or_else(|e| panic!("{e}"));
        let mut q = c.io_queue(1, 32).unwrap_or_else(|e| panic!("{e}"));
        let data = bytes(7, 65536);
        let done =
            q.run(io(op::WRITE, 1, 0, 16).with(Data::Out(data.clone()))).unwrap_or_else(|e| panic!("{e}"));
        assert!(done.status().is_success());
        let done = q.run(io(op::READ, 1, 0, 16).with(Data::In(65536))).unwrap_or_else(|e| panic!("{e}"));
        assert!(done.data == data);
        println!("    another host connects, writes and reads in {:?}", start.elapsed());
        let done: Result<_, _> = q.run(Command::new(op::FLUSH, 1));
        assert!(done.is_ok_and(|d| d.status() == Status::SUCCESS));
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let end = Instant::now() + WAIT;
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that has been greeted.
fn greeted(t: &Target) -> RawConn {
    let mut c = RawConn::connect(&t.address, WAIT).unwrap_or_else(|e| panic!("{e}"));
    c.send(&icreq(0).0).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(c.receive().unwrap_or_else(|e| panic!("{e}")).kind(), kind::IC_RESP);
    c
}

/// A controller that is connected and enabled.
fn enabled(t: &Target, options: &Options) -> RawConn {
    let mut c = greeted(t);
    let mut enable = Sqe { opcode: FABRICS, flags: 0x40, ..Sqe::default() };
    enable.nsid.set(u32::from(fctype::PROPERTY_SET));
    enable.cdw11.set(0x14);
    enable.cdw12.set(1 | 6 << 16 | 4 << 20);
    let enable = caisson_conformance::pdu::capsule(&enable, &[]);
    for pdu in [connect(0, &options.connect_data(0xffff)), enable] {
        c.send(&with_digests(&pdu, 0).0).unwrap_or_else(|e| panic!("{e}"));
        let answer = c.receive().unwrap_or_else(|e| panic!("{e}"));
        let response: caisson_wire::pdu::CapsuleResp = answer.as_a().expect("a response capsule");
        assert!(response.cqe.status().is_success(), "{}", response.cqe.status());
    }
    c
}

fn idle_connections_cost_little() {
    let limit = sys::raise_open_files().expect("the limit on open files can be raised");
    let count = IDLE.min((limit as usize).saturating_sub(200));
    println!("{count} idle connections (limit on open files {limit})");
    type Make = fn(&Target, &Options) -> RawConn;
    let kinds: [(&str, Make); 2] =
        [("greeted, not connected", |t, _| greeted(t)), ("controllers, connected and enabled", enabled)];
    for (name, make) in kinds {
        // A target of its own each time: memory that an earlier crowd has left free would hide what this one costs.
        let t = Target::start(16_384);
        t.works();
        let options = t.options();
        let before = t.resident();
        let start = Instant::now();
        let mut all: Vec<RawConn> = (0..count).map(|_| make(&t, &options)).collect();
        let opened = start.elapsed();
        let each = (t.resident() - before).max(0.0) / count as f64;
        let cpu = t.cpu();
        let watched = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        let share = (t.cpu() - cpu) / watched.elapsed().as_secs_f64();
        println!(
            "  {name}: {each:.0} bytes each ({:.1} MiB before, {:.1} MiB with them), {:.1} us to open one, {:.2}% of a core idle",
            before / 1048576.0,
            t.resident() / 1048576.0,
            opened.as_secs_f64() * 1e6 / count as f64,
            100.0 * share
        );
        assert!(each < MOST_BYTES, "an idle connection costs {each:.0} bytes");
        assert!(share < MOST_CPU, "idle connections cost {:.1}% of a core", 100.0 * share);
        t.works();
        for at in [0, count / 2, count - 1] {
            let c = &mut all[at];
            c.send(&question(1).0).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(
                c.receive().unwrap_or_else(|e| panic!("{e}")).kind(),
                kind::CAPSULE_RESP,
                "it is still served"
            );
        }
        drop(all);
        t.works();
    }
}

fn floods_are_shed() {
    const LIMIT: usize = 64;
    println!("a flood on a target that takes {LIMIT} connections");
    let t = Target::start(LIMIT);
    let files = t.open_files();
    let mut kept: Vec<RawConn> = (0..LIMIT - 4).map(|_| greeted(&t)).collect();
    let mut shed = 0;
    let mut served = 0;
    for _ in 0..1000 {
        // What is shed is closed at once: it may be gone before anything can be sent.
        let answer = RawConn::connect(&t.address, WAIT).and_then(|mut c| {
            c.send(&icreq(0).0)?;
            c.receive()?;
            Ok(c)
        });
        match answer {
            Ok(c) => {
                served += 1;
                kept.push(c);
            }
            Err(_) => shed += 1,
        }
    }
    println!("  of 1,000 more {served} were served and {shed} shed");
    assert!(served <= 4 && shed >= 990, "{served} served, {shed} shed");
    for c in &mut kept {
        c.send(&question(1).0).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            c.receive().unwrap_or_else(|e| panic!("{e}")).kind(),
            kind::CAPSULE_RESP,
            "who was there is served"
        );
    }
    drop(kept);
    t.settles(files);
    t.works();
}

fn churn_leaves_nothing_behind() {
    const ROUNDS: usize = 3000;
    println!("{ROUNDS} connections that come and go");
    let t = Target::start(16_384);
    let options = t.options();
    let files = t.open_files();
    let churn = || {
        for i in 0..ROUNDS {
            match i % 3 {
                0 => drop(RawConn::connect(&t.address, WAIT).unwrap_or_else(|e| panic!("{e}"))),
                1 => drop(greeted(&t)),
                _ => drop(enabled(&t, &options)),
            }
        }
        t.settles(files);
        t.resident()
    };
    let (first, second) = (churn(), churn());
    println!(
        "  {:.1} MiB after the first time, {:.1} MiB after the second",
        first / 1048576.0,
        second / 1048576.0
    );
    assert!(second - first < 4.0 * 1048576.0, "memory grows with connections that are gone");
    t.works();
}
