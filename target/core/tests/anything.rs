//! Whatever a host sends, in whatever order: nothing panics, and each command is answered exactly once.

mod support;

use caisson_block::BlockError;
use caisson_core::*;
use caisson_wire::opcode::io as opc;
use caisson_wire::zerocopy::little_endian::{U16, U32, U64};
use caisson_wire::{Sqe, Status};
use proptest::prelude::*;
use std::collections::BTreeMap;
use support::*;

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// A command on one of the two queues, with a kind of payload.
    Command { admin: bool, sqe: Sqe, payload: u8, len: u32 },
    /// The oldest pull of a queue is answered, or fails.
    Data { admin: bool, damaged: bool },
    /// The disk holds requests, or lets go.
    Hold(bool),
    /// The next request fails.
    Fail(u8),
    /// A namespace comes or goes, is resized, is protected.
    Manage(u8),
    /// Time passes.
    Pass(u32),
}

fn sqe() -> impl Strategy<Value = Sqe> {
    let opcode = prop_oneof![
        4 => prop::sample::select(vec![opc::READ, opc::WRITE, opc::COMPARE, opc::FLUSH, opc::WRITE_ZEROES,
            opc::DATASET_MANAGEMENT, opc::VERIFY, opc::COPY, opc::WRITE_UNCORRECTABLE]),
        2 => prop::sample::select(vec![2u8, 6, 8, 9, 0x0a, 0x0c, 0x18, 0x7f]),
        1 => any::<u8>(),
    ];
    let flags = prop_oneof![6 => Just(0x40u8), 2 => Just(0x41), 2 => Just(0x42), 1 => any::<u8>()];
    let nsid = prop_oneof![6 => Just(1u32), 2 => Just(2), 1 => Just(u32::MAX), 1 => any::<u32>()];
    let small = || prop_oneof![4 => 0u32..8, 1 => any::<u32>(), 1 => Just(0x0101_0014)];
    let words =
        (small(), prop_oneof![6 => Just(0u32), 1 => any::<u32>()], small(), small(), small(), small());
    (opcode, flags, 1u16..20, nsid, words).prop_map(|(opcode, flags, cid, nsid, words)| Sqe {
        opcode,
        flags,
        cid: U16::new(cid),
        nsid: U32::new(nsid),
        mptr: U64::new(0),
        cdw10: U32::new(words.0),
        cdw11: U32::new(words.1),
        cdw12: U32::new(words.2),
        cdw13: U32::new(words.3),
        cdw14: U32::new(words.4),
        cdw15: U32::new(words.5),
        ..Sqe::default()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let lens = prop_oneof![
        3 => (1u32..5).prop_map(|n| n * 4096),
        1 => (1u32..20).prop_map(|n| n * 32),
        1 => 0u32..70_000,
    ];
    prop_oneof![
        12 => (prop::bool::weighted(0.25), sqe(), 0u8..4, lens)
            .prop_map(|(admin, sqe, payload, len)| Step::Command { admin, sqe, payload, len }),
        4 => (any::<bool>(), prop::bool::weighted(0.1)).prop_map(|(admin, damaged)| Step::Data { admin, damaged }),
        2 => any::<bool>().prop_map(Step::Hold),
        1 => any::<u8>().prop_map(Step::Fail),
        1 => any::<u8>().prop_map(Step::Manage),
        1 => (0u32..3000).prop_map(Step::Pass),
    ]
}

struct Run {
    w: World,
    /// Commands that have no answer yet, by queue and slot.
    open: BTreeMap<(usize, u32), Sqe>,
    sent: usize,
    answered: usize,
}

impl Run {
    fn collect(&mut self) {
        for c in 0..2 {
            for reply in std::mem::take(&mut self.w.conns[c].replies) {
                let sqe = self.open.remove(&(c, reply.slot)).expect("an answer to no command");
                assert_eq!(reply.cqe.cid.get(), sqe.cid.get());
                assert!(reply.status().is_success() || reply.data.is_empty());
                self.answered += 1;
            }
        }
    }

    /// Sends past the harness's slots, so that answers that come at once are seen too.
    fn command(&mut self, c: usize, sqe: Sqe, payload: Payload) {
        if self.w.conns[c].closed.is_some() {
            return;
        }
        let slot = (0..).find(|&s| !self.open.contains_key(&(c, s))).unwrap_or(0);
        self.open.insert((c, slot), sqe);
        self.sent += 1;
        let mut out = Vec::new();
        self.w.cx(|cx, conns| conns[c].queue.command(cx, slot, &sqe, payload, &mut out));
        World::carry_out(&mut self.w.conns[c], out);
        self.w.pump();
        self.collect();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Command { admin, sqe, payload, len } => {
                let payload = match payload {
                    0 => Payload::None,
                    1 => capsule(vec![0; (len % 16384) as usize]),
                    2 => room(len),
                    _ => Payload::Bad(Status::INVALID_SGL_TYPE),
                };
                self.command(usize::from(!admin), sqe, payload);
            }
            Step::Data { admin, damaged } => {
                let c = usize::from(!admin);
                let pull = self.w.conns[c].pulls.first().copied();
                if let (Some((slot, len)), true) = (pull, self.w.conns[c].closed.is_none()) {
                    if damaged {
                        self.w.damage(c, slot, Status::DATA_TRANSFER_ERROR);
                    } else {
                        self.w.give(c, slot, vec![0; len as usize]);
                    }
                }
            }
            Step::Hold(hold) => {
                self.w.disk.with(|d| d.hold = hold);
                if !hold {
                    self.w.release();
                }
            }
            Step::Fail(n) => {
                let errors = [
                    BlockError::Unreadable { lba: 1 },
                    BlockError::WriteFault { lba: 1 },
                    BlockError::CapacityExceeded,
                    BlockError::Miscompare { lba: 0 },
                    BlockError::Interrupted,
                    BlockError::Failed,
                ];
                self.w.disk.with(|d| d.fail = Some(errors[usize::from(n) % errors.len()]));
            }
            Step::Manage(n) => {
                let _ = match n % 4 {
                    0 => self.w.target.remove_namespace(NQN, 2),
                    1 => {
                        let spec = NamespaceSpec {
                            nsid: Some(2),
                            ..NamespaceSpec::new(self.w.disk.clone(), uuid::Uuid::from_u128(2))
                        };
                        self.w.target.add_namespace(NQN, spec).map(drop)
                    }
                    2 => self.w.target.set_write_protected(NQN, 1, n & 4 != 0),
                    _ => self.w.target.namespace_resized(NQN, 1),
                };
                self.w.pump();
            }
            Step::Pass(ms) => self.w.pass(u64::from(ms)),
        }
        self.collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn each_command_is_answered_once(steps in prop::collection::vec(step(), 1..120)) {
        let mut w = World::new(4096);
        let (a, q) = w.pair();
        assert_eq!((a, q), (0, 1));
        let mut run = Run { w, open: BTreeMap::new(), sent: 0, answered: 0 };
        for step in steps {
            run.step(step);
        }
        // What is left comes home: the disk lets go, data is given, and a reset ends what waits for events.
        run.step(Step::Hold(false));
        for c in 0..2 {
            while run.w.conns[c].closed.is_none() && !run.w.conns[c].pulls.is_empty() {
                run.step(Step::Data { admin: c == 0, damaged: false });
            }
        }
        // A first without its second is ended by the next command.
        run.command(1, Sqe { cid: U16::new(99), flags: 0x40, ..io(opc::FLUSH, 1, 0, 1) }, Payload::None);
        if run.w.conns[0].closed.is_none() {
            let end = |cc: u32| Sqe { cid: U16::new(98), flags: 0x40, ..set_cc(cc) };
            run.command(0, end(CC_ENABLE), Payload::None);
            run.command(0, end(0), Payload::None);
        }
        for c in 0..2 {
            prop_assert_eq!(run.w.in_flight(c), 0);
            if run.w.conns[c].closed.is_none() || run.w.conns[c].closed == Some(CloseReason::ControllerReset) {
                let left: Vec<_> = run.open.keys().filter(|k| k.0 == c).collect();
                prop_assert!(left.is_empty(), "without an answer: {:?}", left);
            }
        }
        prop_assert!(run.answered <= run.sent);
        run.w.hang_up(1);
        run.w.hang_up(0);
        let left = run.w.target.snapshot();
        prop_assert_eq!(left.counters.queues, 0);
        prop_assert!(left.subsystems[0].controllers.is_empty());
    }
}
