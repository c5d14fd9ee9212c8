//! Hosts that keep no rule of NVMe/RDMA, over a real device: each ends its own connection at most, is counted by its cause, and
//! every buffer comes home. Needs an RDMA device (`CAISSON_TRANSPORT=rdma`, `CAISSON_ADDRESS`).

use caisson_conformance::bystander::beside_verified_io;
use caisson_conformance::subject::{BIG, Subject, io};
use caisson_daemon::reactor::Limits;
use caisson_initiator::transport::Rdma;
use caisson_initiator::transport::rdma::request;
use caisson_initiator::{Client, Command, Data, Error, Queue};
use caisson_rdma::Cause;
use caisson_verbs::host::{Memory, Shape};
use caisson_wire::opcode::io as op;
use caisson_wire::rdma::CmRequest;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::U16;
use caisson_wire::{Cqe, Sgl, Sqe, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);
const ENTRIES: u16 = 32;
const MIB: usize = 1 << 20;

fn subject() -> Subject {
    let mut limits = Limits::default();
    limits.send_ms = 2_000;
    Subject::with(limits)
}

fn shape() -> Shape {
    Shape { sends: 160, receives: 64, repeats: 7 }
}

fn count(s: &Subject, cause: Cause) -> u64 {
    s.reactors.rdma_stats().faults[cause.index()].load(Ordering::Relaxed)
}

/// Buffers that the target's commands and transfers hold.
fn held(s: &Subject) -> [u64; 3] {
    let sum = |n: usize| s.reactors.stats().iter().map(|t| t.rdma_buffers[n].load(Ordering::Relaxed)).sum();
    [sum(0), sum(1), sum(2)]
}

/// Waits for what must come true.
fn await_true(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < end, "it never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until every buffer is home and no more than `most` connections are left.
fn all_home(s: &Subject, most: u64) {
    s.settle(most);
    await_true("every buffer is home", || held(s) == [0; 3]);
}

/// A bare I/O queue that has its Connect behind it, and 2 MiB of memory that the target may reach.
struct Peer {
    rdma: Rdma,
    memory: Arc<Memory>,
}

impl Peer {
    fn new(s: &Subject, client: &Client, qid: u16, shape: Shape) -> Peer {
        let private = request(qid, ENTRIES);
        let mut rdma = Rdma::open_with(&s.address, private.as_bytes(), shape, WAIT).unwrap();
        let memory = rdma.memory(2 * MIB).unwrap();
        let data = client.options.connect_data(client.cntlid);
        memory.write(0, data.as_bytes());
        let mut sqe = Queue::connect_command(qid, u32::from(ENTRIES), 0, &data).sqe;
        sqe.sgl = keyed(&memory, 1024);
        assert!(rdma.command(&sqe, None));
        let mut peer = Peer { rdma, memory };
        peer.rdma.flush().unwrap();
        let done = peer.response().unwrap();
        assert!(done.status().is_success(), "{}", done.status());
        peer
    }

    fn response(&mut self) -> Result<Cqe, Error> {
        let end = Instant::now() + WAIT;
        loop {
            if let Some(message) = self.rdma.came.pop() {
                return Rdma::response(&message);
            }
            if !self.rdma.wait(end)? {
                return Err(Error::Timeout { what: "a response".into(), after: WAIT });
            }
            self.rdma.receive()?;
        }
    }

    /// Makes a command capsule of `command` with this descriptor.
    fn put(&mut self, cid: u16, command: Command, sgl: Sgl) {
        let mut sqe = command.sqe;
        (sqe.cid, sqe.sgl) = (U16::new(cid), sgl);
        assert!(self.rdma.command(&sqe, None), "room for command {cid}");
    }

    /// Waits for the end of the connection.
    fn ends(mut self, what: &str) {
        loop {
            match self.response() {
                Ok(cqe) => println!("  {what}: a response, {}", cqe.status()),
                Err(Error::Closed { .. } | Error::Transfer { .. }) => return,
                Err(e) => panic!("{what}: {e}"),
            }
        }
    }
}

fn keyed(memory: &Memory, len: u32) -> Sgl {
    Sgl::keyed(memory.address(), len, memory.key(), false)
}

fn read(blocks: u32) -> Command {
    io(op::READ, BIG.nsid, 0, blocks)
}

fn write(blocks: u32) -> Command {
    io(op::WRITE, BIG.nsid, 0, blocks)
}

#[test]
fn private_data_is_judged_field_by_field() {
    let s = subject();
    let good = request(1, ENTRIES);
    let with = |change: &dyn Fn(&mut CmRequest)| {
        let mut r = good;
        change(&mut r);
        r.as_bytes().to_vec()
    };
    let rows: Vec<(&str, Vec<u8>, u16)> = vec![
        ("record format 1", with(&|r| r.recfmt = U16::new(1)), 2),
        ("queue id 129", with(&|r| r.qid = U16::new(129)), 3),
        ("queue id FFFFh", with(&|r| r.qid = U16::new(0xffff)), 3),
        ("HSQSIZE 0", with(&|r| r.hsqsize = U16::new(0)), 4),
        ("HSQSIZE 1024", with(&|r| r.hsqsize = U16::new(1024)), 4),
        ("HSQSIZE FFFFh", with(&|r| r.hsqsize = U16::new(0xffff)), 4),
        (
            "an admin queue with HSQSIZE 1023",
            with(&|r| (r.qid, r.hsqsize) = (U16::new(0), U16::new(1023))),
            4,
        ),
        ("HRQSIZE 0", with(&|r| r.hrqsize = U16::new(0)), 5),
        // The connection manager fills what is missing with zeroes.
        ("none at all", Vec::new(), 4),
        ("6 bytes", good.as_bytes()[..6].to_vec(), 4),
        ("noise", vec![0xa5; 56], 2),
    ];
    let before = count(&s, Cause::PrivateData);
    let judged = rows.len() as u64;
    beside_verified_io(&s, || {
        for (name, private, want) in rows {
            match Rdma::open_with(&s.address, &private, shape(), WAIT) {
                Err(Error::Refused { status, text, .. }) => {
                    println!("  {name}: {text}");
                    assert_eq!(status, want, "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    });
    // A request that is repeated because the answer took its time is judged twice.
    assert!(count(&s, Cause::PrivateData) - before >= judged);
    // What is longer than the figure is taken.
    let long = [good.as_bytes(), &[7; 24]].concat();
    drop(Rdma::open_with(&s.address, &long, shape(), WAIT).unwrap());
    all_home(&s, 0);
}

/// What a hostile host does on a queue of its own, and what that is counted as.
struct Scene {
    name: &'static str,
    cause: &'static [Cause],
    act: fn(Peer),
}

const SCENES: &[Scene] = &[
    Scene {
        name: "a message of 63 bytes",
        cause: &[Cause::ShortMessage],
        act: |mut p| {
            p.rdma.message(&[0x40; 63]);
            p.rdma.flush().unwrap();
            p.ends("63 bytes");
        },
    },
    Scene {
        name: "an empty message",
        cause: &[Cause::ShortMessage],
        act: |mut p| {
            p.rdma.message(&[]);
            p.rdma.flush().unwrap();
            p.ends("nothing");
        },
    },
    Scene {
        name: "more data in the capsule than is taken",
        cause: &[Cause::Length],
        act: |mut p| {
            let mut sqe = write(5).sqe;
            sqe.sgl = Sgl::in_capsule(0, 20480);
            let memory = Arc::clone(&p.memory);
            p.rdma.command(&sqe, Some((&memory, 0, 20480)));
            p.rdma.flush().unwrap();
            p.ends("20 KiB in the capsule");
        },
    },
    Scene {
        name: "a read to a key that is nobody's",
        cause: &[Cause::BadKey],
        act: |mut p| {
            let sgl = Sgl::keyed(p.memory.address(), 4096, p.memory.key() ^ 0x5a5a_5a00, false);
            p.put(1, read(1), sgl);
            p.rdma.flush().unwrap();
            p.ends("a wrong key");
        },
    },
    Scene {
        name: "a write from a key that is nobody's",
        cause: &[Cause::BadKey],
        act: |mut p| {
            let sgl = Sgl::keyed(p.memory.address(), 65536, 0, false);
            p.put(1, write(16), sgl);
            p.rdma.flush().unwrap();
            p.ends("key 0");
        },
    },
    Scene {
        name: "a read beyond the end of the memory",
        cause: &[Cause::BadKey],
        act: |mut p| {
            let sgl = Sgl::keyed(p.memory.address() + (2 * MIB - 4096) as u64, 65536, p.memory.key(), false);
            p.put(1, read(16), sgl);
            p.rdma.flush().unwrap();
            p.ends("past the end");
        },
    },
    Scene {
        name: "a write from before the memory",
        cause: &[Cause::BadKey],
        act: |mut p| {
            let sgl = Sgl::keyed(p.memory.address() - 4096, 65536, p.memory.key(), false);
            p.put(1, write(16), sgl);
            p.rdma.flush().unwrap();
            p.ends("before the memory");
        },
    },
    Scene {
        name: "more commands than the queue has entries",
        cause: &[Cause::TooManyCommands],
        act: |mut p| {
            for cid in 0..128 {
                let sgl = keyed(&p.memory, 262_144);
                p.put(cid, write(64), sgl);
            }
            p.rdma.flush().unwrap();
            p.ends("128 commands");
        },
    },
    Scene {
        name: "gone in the middle of transfers",
        cause: &[Cause::DisconnectInTransfer, Cause::RetriesExceeded, Cause::BadKey],
        act: |mut p| {
            for cid in 0..30 {
                let sgl = keyed(&p.memory, MIB as u32);
                p.put(cid, if cid % 2 == 0 { write(256) } else { read(256) }, sgl);
            }
            p.rdma.flush().unwrap();
            // With the first answer here, others are on their way: a host that goes at once has sent nothing.
            let first = p.response().unwrap();
            assert!(first.status().is_success(), "{}", first.status());
            drop(p);
        },
    },
    Scene {
        name: "memory taken away in the middle of transfers",
        cause: &[Cause::BadKey, Cause::RemoteOperation, Cause::DisconnectInTransfer],
        act: |mut p| {
            let memory = Arc::new(p.rdma.memory(MIB).unwrap());
            for cid in 0..16 {
                let sgl = keyed(&memory, MIB as u32);
                p.put(cid, write(256), sgl);
            }
            p.rdma.flush().unwrap();
            drop(memory);
            p.ends("memory taken away");
        },
    },
];

#[test]
fn each_fault_ends_its_own_connection_and_is_counted() {
    let s = subject();
    let client = s.client();
    all_home(&s, 1);
    for (n, scene) in SCENES.iter().enumerate() {
        let before: Vec<u64> = scene.cause.iter().map(|&c| count(&s, c)).collect();
        beside_verified_io(&s, || (scene.act)(Peer::new(&s, &client, n as u16 + 1, shape())));
        let counted = || scene.cause.iter().zip(&before).any(|(&c, b)| count(&s, c) > *b);
        await_true(scene.name, counted);
        println!("ok: {}", scene.name);
        all_home(&s, 1);
    }
    drop(client);
    all_home(&s, 0);
}

/// A host that posts no receives: its device gives up, or, told to repeat for ever, the target does.
#[test]
fn a_host_without_receives_is_given_up() {
    let s = subject();
    let client = s.client();
    for (n, repeats) in [1, 7].into_iter().enumerate() {
        let before = count(&s, Cause::ReceiverNotReady);
        beside_verified_io(&s, || {
            let mut p = Peer::new(&s, &client, n as u16 + 1, Shape { sends: 64, receives: 1, repeats });
            for cid in 0..8 {
                let sgl = keyed(&p.memory, 65536);
                p.put(cid, read(16), sgl);
            }
            p.rdma.flush().unwrap();
            // Nobody looks for responses, so that no receive is posted again.
            await_true("the host is given up", || count(&s, Cause::ReceiverNotReady) > before);
        });
        all_home(&s, 1);
    }
}

/// Halves of fused pairs may wait for ever, and hold no buffers that others need.
#[test]
fn halves_of_pairs_hold_no_shared_buffers() {
    let s = subject();
    let client = s.client();
    let mut peers = Vec::new();
    for qid in 1..=6 {
        let mut p = Peer::new(&s, &client, qid, shape());
        let mut sqe: Sqe = io(op::COMPARE, BIG.nsid, 0, 256).flags(0x41).sqe;
        (sqe.cid, sqe.sgl) = (U16::new(9), keyed(&p.memory, MIB as u32));
        assert!(p.rdma.command(&sqe, None));
        p.rdma.flush().unwrap();
        peers.push(p);
    }
    // Once all of them were fetched; the queues are idle but for the halves then.
    std::thread::sleep(Duration::from_millis(500));
    await_true("the halves are fetched and hold nothing", || held(&s) == [0; 3]);
    for mut p in peers {
        // The second half, which differs in its range: both are told so.
        p.put(10, io(op::WRITE, BIG.nsid, 1, 256).flags(0x42), keyed(&p.memory, MIB as u32));
        p.rdma.flush().unwrap();
        let mut both = [p.response().unwrap(), p.response().unwrap()];
        both.sort_by_key(|c| c.cid.get());
        assert!(both.iter().all(|c| c.status().is(Status::INVALID_FIELD)), "{both:?}");
    }
    all_home(&s, 1);
}

/// Pairs of the largest size on many queues at once come through: no half waits for buffers that another half holds.
#[test]
fn many_large_pairs_come_through() {
    let s = subject();
    let mut client = s.client();
    let mut queues: Vec<Queue> = (1..=8).map(|qid| client.io_queue(qid, 32).unwrap()).collect();
    let whole = || Data::OutAsked(vec![0; MIB]);
    let sent: Vec<Vec<u16>> = queues
        .iter_mut()
        .map(|q| {
            let pairs = (0..4).flat_map(|_| {
                [
                    io(op::COMPARE, BIG.nsid, 0, 256).with(whole()).flags(0x41),
                    io(op::WRITE, BIG.nsid, 0, 256).with(whole()).flags(0x42),
                ]
            });
            q.submit_all(pairs).unwrap()
        })
        .collect();
    for (q, cids) in queues.iter_mut().zip(sent) {
        for cid in cids {
            let done = q.wait(cid).unwrap();
            assert!(done.status().is_success(), "{}", done.status());
        }
    }
    drop((queues, client));
    all_home(&s, 0);
}
