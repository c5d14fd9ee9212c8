//! Queues of one controller on threads of their own, with aborts and management in between: what crosses threads.

mod support;

use caisson_block::*;
use caisson_core::*;
use caisson_wire::fabrics::ConnectData;
use caisson_wire::opcode::{admin as adm, io as opc};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::U16;
use caisson_wire::{Sqe, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use support::*;

/// A queue with what a thread of its own would have.
struct Lane {
    queue: Queue,
    bell: Arc<Bell>,
    done: Completions,
    out: Vec<Action>,
    /// Answers: slot and status and DW0.
    answers: Vec<(u32, Status, u32)>,
    pulls: Vec<u32>,
    closed: Option<CloseReason>,
    ring: NoRing,
    remote: Arc<dyn Remote>,
}

const NOW: Mono = Mono(1_000_000_000);

impl Lane {
    fn new(target: &Arc<Target>, key: u32) -> Lane {
        let bell = Arc::new(Bell::default());
        let at = Arrival { port: PORT, peer: "192.0.2.9:1".into(), local: None, key, in_capsule: 16384 };
        Lane {
            queue: Queue::new(target.clone(), at, bell.clone(), NOW),
            bell,
            done: Completions::default(),
            out: Vec::new(),
            answers: Vec::new(),
            pulls: Vec::new(),
            closed: None,
            ring: NoRing,
            remote: Arc::new(NoRemote),
        }
    }

    fn turn(&mut self, f: impl FnOnce(&mut Queue, &mut Cx<'_>, &mut Vec<Action>)) {
        let mut cx = Cx { now: NOW, done: &mut self.done, ring: &mut self.ring, remote: &self.remote };
        f(&mut self.queue, &mut cx, &mut self.out);
        if self.bell.0.swap(false, SeqCst) {
            self.queue.poll(&mut cx, &mut self.out);
        }
        let mut batch = Vec::new();
        cx.done.take(&mut batch);
        for (tag, outcome) in batch {
            self.queue.completed(&mut cx, tag.slot, outcome, &mut self.out);
        }
        for action in self.out.drain(..) {
            match action {
                Action::Reply { slot, cqe, .. } => {
                    self.pulls.retain(|&p| p != slot);
                    self.answers.push((slot, cqe.status(), cqe.dw0.get()));
                }
                Action::Pull { slot, .. } => self.pulls.push(slot),
                Action::Close { reason } => self.closed = Some(reason),
            }
        }
    }

    fn send(&mut self, slot: u32, sqe: Sqe, payload: Payload) {
        let sqe = Sqe { cid: U16::new(slot as u16), flags: 0x40, ..sqe };
        self.turn(|q, cx, out| q.command(cx, slot, &sqe, payload, out));
    }

    fn connect(&mut self, qid: u16, cntlid: u16) -> u32 {
        let data = ConnectData::new(HOSTID, cntlid, NQN, HOST);
        self.send(0, connect(qid, 1023, 0), capsule(data.as_bytes().to_vec()));
        let (_, status, dw0) = self.answers.pop().unwrap();
        assert!(status.is_success(), "{status}");
        dw0
    }
}

#[test]
fn queues_on_threads_of_their_own() {
    const LANES: u32 = 4;
    const ROUNDS: u32 = 1000;
    let w = World::new(4096);
    let target = w.target.clone();
    let mut admin = Lane::new(&target, 0);
    let id = admin.connect(0, 0xffff) as u16;
    admin.send(0, set_cc(CC_ENABLE), Payload::None);
    admin.answers.clear();
    let stop = AtomicBool::new(false);
    let (aborted, told) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|s| {
        let lanes: Vec<_> = (1..=LANES)
            .map(|n| {
                let (target, aborted) = (&target, &aborted);
                s.spawn(move || {
                    let mut lane = Lane::new(target, n);
                    lane.connect(n as u16, id);
                    for round in 0..ROUNDS {
                        // Even slots write with data to be pulled, odd ones read.
                        for slot in 0..16 {
                            let opcode = if slot % 2 == 0 { opc::WRITE } else { opc::READ };
                            lane.send(slot, io(opcode, 1 + round % 2, u64::from(slot), 1), room(4096));
                        }
                        for slot in std::mem::take(&mut lane.pulls) {
                            lane.turn(|q, cx, out| q.data(cx, slot, BufList::zeroes(4096), out));
                        }
                        let mut slots: Vec<u32> = lane.answers.iter().map(|a| a.0).collect();
                        slots.sort_unstable();
                        assert_eq!(slots, (0..16).collect::<Vec<_>>(), "each once");
                        for (_, status, _) in lane.answers.drain(..) {
                            match status {
                                s if s.is(Status::ABORT_REQUESTED) => {
                                    aborted.fetch_add(1, SeqCst);
                                }
                                s => assert!(s.is_success() || s.is(Status::INVALID_NAMESPACE), "{s}"),
                            }
                        }
                    }
                    lane
                })
            })
            .collect();
        let manager = s.spawn(|| {
            while !stop.load(SeqCst) {
                let uuid = uuid::Uuid::from_u128(77);
                let spec = NamespaceSpec { nsid: Some(2), ..NamespaceSpec::new(Disk::new(4096, 64), uuid) };
                target.add_namespace(NQN, spec).unwrap();
                std::thread::yield_now();
                drop(target.snapshot());
                target.remove_namespace(NQN, 2).unwrap();
            }
        });
        let mut sent = 0u32;
        let mut answered = 0;
        let take = |admin: &mut Lane, answered: &mut u32| {
            for (_, status, dw0) in admin.answers.drain(..) {
                *answered += 1;
                if status.is_success() && dw0 == 0 {
                    told.fetch_add(1, SeqCst);
                } else {
                    assert!(status.is_success() || status.is(Status::ABORT_LIMIT_EXCEEDED), "{status}");
                }
            }
        };
        while lanes.iter().any(|l| !l.is_finished()) {
            let slot = sent - answered;
            if slot < 8 {
                // Slots must not be in use: all Aborts are answered before the numbers start again.
                for n in slot..8 {
                    let cdw10 = u32le((1 + sent % LANES) | ((sent * 2) % 16) << 16);
                    admin.send(100 + n, Sqe { opcode: adm::ABORT, cdw10, ..Sqe::default() }, Payload::None);
                    sent += 1;
                }
            }
            while sent != answered {
                admin.turn(|_, _, _| ());
                take(&mut admin, &mut answered);
                std::thread::yield_now();
                if lanes.iter().all(|l| l.is_finished()) {
                    break;
                }
            }
        }
        let mut lanes: Vec<Lane> = lanes.into_iter().map(|l| l.join().unwrap()).collect();
        stop.store(true, SeqCst);
        manager.join().unwrap();
        for lane in &mut lanes {
            lane.turn(|_, _, _| ());
            assert_eq!((lane.queue.in_flight(), lane.closed), (0, None));
        }
        admin.turn(|_, _, _| ());
        take(&mut admin, &mut answered);
        assert_eq!(sent, answered, "each Abort is answered");
        assert_eq!(aborted.load(SeqCst), told.load(SeqCst), "and truthfully");
        println!("{sent} Aborts, {} of them aborted a command", aborted.load(SeqCst));
        target.remove_subsystem(NQN).unwrap();
        for lane in lanes.iter_mut().chain([&mut admin]) {
            lane.turn(|_, _, _| ());
            assert_eq!(lane.closed, Some(CloseReason::SubsystemRemoved));
        }
    });
    drop(admin);
    assert_eq!(target.snapshot().counters.queues, 0);
}
