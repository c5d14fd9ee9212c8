//! The controller model against a host that sends any commands, on several queues of several controllers, while
//! namespaces change, the volume fails or is slow, connections are lost and time passes.
//!
//! The hosts and the volume are those of core's own tests, which check on their side that no request leaves the volume's
//! bounds and that written data has the length of its blocks.

#[path = "../../../target/core/tests/support/mod.rs"]
mod support;

use crate::Input;
use caisson_block::BlockError;
use caisson_core::{NamespaceSpec, Payload, Queue};
use caisson_wire::fabrics::ConnectData;
use caisson_wire::opcode::{FABRICS, admin, io};
use caisson_wire::sqe::Fuse;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::{Sqe, Status};
use std::collections::HashMap;
use support::{Disk, HOST, HOSTID, NQN, OTHER, World, connect};

/// The most connections of one run.
const CONNECTIONS: usize = 6;

const ADMIN: &[u8] = &[
    admin::GET_LOG_PAGE,
    admin::IDENTIFY,
    admin::ABORT,
    admin::SET_FEATURES,
    admin::GET_FEATURES,
    admin::ASYNC_EVENT,
    admin::KEEP_ALIVE,
    admin::NS_MANAGEMENT,
    FABRICS,
];

const IO: &[u8] = &[
    io::FLUSH,
    io::WRITE,
    io::READ,
    io::WRITE_UNCORRECTABLE,
    io::COMPARE,
    io::WRITE_ZEROES,
    io::DATASET_MANAGEMENT,
    io::VERIFY,
    io::CANCEL,
    io::COPY,
    FABRICS,
];

struct Run {
    world: World,
    /// Commands sent and not answered: how many bytes the host has room for, and whether it may wait for ever.
    open: HashMap<(usize, u32), (u32, bool)>,
    /// Connections that were hung up: nothing is answered there.
    gone: Vec<usize>,
}

impl Run {
    /// Takes the replies that have come.
    fn settle(&mut self) {
        for c in 0..self.world.conns.len() {
            for reply in std::mem::take(&mut self.world.conns[c].replies) {
                let (room, _) = self.open.remove(&(c, reply.slot)).expect("each command is answered once");
                assert!(reply.data.len() <= room as usize, "{} bytes for {room}", reply.data.len());
            }
        }
    }

    fn send(&mut self, c: usize, sqe: Sqe, payload: Payload) {
        if self.world.conns[c].closed.is_some() || self.gone.contains(&c) {
            return;
        }
        let room = if let Payload::Transport { len } = payload { len } else { 0 };
        // Event requests wait for an event, and the first of a fused pair for the second.
        let waits = sqe.opcode == admin::ASYNC_EVENT || sqe.fuse() == Fuse::First;
        // The slot is known only afterwards; the replies of this turn are taken then.
        let slot = self.world.send(c, sqe, payload);
        self.open.insert((c, slot), (room, waits));
        self.settle();
    }
}

/// A command that is near enough to sound to get far.
fn command(input: &mut Input<'_>) -> Sqe {
    let mut sqe = Sqe::default();
    let set = if input.byte() & 1 == 0 { ADMIN } else { IO };
    sqe.opcode = match input.byte() {
        0xff => input.byte(),
        n => set[usize::from(n) % set.len()],
    };
    sqe.flags = input.byte() & 0b11;
    if input.byte() == 0xff {
        sqe.flags = input.byte();
    }
    sqe.cid.set(u16::from(input.byte()));
    sqe.nsid.set(match input.byte() % 8 {
        0 => 0,
        1..=4 => 1,
        5 => 2,
        6 => u32::MAX,
        _ => input.word(),
    });
    for field in [
        &mut sqe.cdw10,
        &mut sqe.cdw11,
        &mut sqe.cdw12,
        &mut sqe.cdw13,
        &mut sqe.cdw14,
        &mut sqe.cdw15,
        &mut sqe.cdw2,
        &mut sqe.cdw3,
    ] {
        field.set(match input.byte() % 4 {
            0 => 0,
            1 => u32::from(input.byte()),
            2 => u32::from(input.byte()) << 24 | u32::from(input.byte()),
            _ => input.word(),
        });
    }
    sqe
}

fn payload(input: &mut Input<'_>, sqe: &Sqe) -> Payload {
    // What most commands need: their blocks, or their dwords.
    let fits = match sqe.opcode {
        io::WRITE | io::READ | io::COMPARE => sqe.nlb().saturating_mul(4096),
        _ => 4096,
    };
    match input.byte() % 6 {
        0 => Payload::None,
        1 => Payload::Transport { len: fits },
        2 => Payload::Transport { len: input.word() % (2 << 20) + 1 },
        3 => Payload::InCapsule(bytes(input, fits.min(16_384) as usize).into()),
        4 => {
            let len = input.below(16_384) + 1;
            Payload::InCapsule(bytes(input, len).into())
        }
        _ => Payload::Bad(Status::INVALID_SGL_TYPE.dnr()),
    }
}

/// `len` bytes of a pattern that the input chooses.
fn bytes(input: &mut Input<'_>, len: usize) -> Vec<u8> {
    let seed = input.take(16);
    (0..len).map(|i| seed.get(i % 16).copied().unwrap_or(0)).collect()
}

fn connection(run: &mut Run, input: &mut Input<'_>) {
    if run.world.conns.len() >= CONNECTIONS {
        return;
    }
    let c = run.world.open();
    let subsystem = [NQN, caisson_wire::fabrics::DISCOVERY_NQN, "nqn.2024-01.io.caisson:none", ""];
    let host = [HOST, OTHER, "not an nqn", ""];
    let (choice, cntlid) = (input.byte(), input.short());
    let cntlid = if choice & 0x10 == 0 { 0xffff } else { cntlid % 4 };
    let mut data = ConnectData::new(
        HOSTID,
        cntlid,
        subsystem[usize::from(choice & 3)],
        host[usize::from(choice >> 2 & 3)],
    );
    if choice & 0x80 != 0 {
        let at = input.below(1024);
        data.as_mut_bytes()[at] ^= input.byte();
    }
    let mut sqe = connect(u16::from(input.byte() % 4), u16::from(input.byte()), u32::from(input.short()));
    if choice & 0x40 != 0 {
        sqe.cdw11.set(input.word());
    }
    let body = data.as_bytes().to_vec();
    let payload = match choice & 0x20 {
        0 => Payload::InCapsule(body.into()),
        _ => Payload::Transport { len: 1024 },
    };
    run.send(c, sqe, payload);
    if let Some((slot, len)) = run.world.conns[c].pulls.first().copied().filter(|_| choice & 0x20 != 0) {
        let mut body = data.as_bytes().to_vec();
        body.resize(len as usize, 0);
        run.world.give(c, slot, body);
        run.settle();
    }
}

/// What the management side does meanwhile.
fn manage(run: &mut Run, input: &mut Input<'_>) {
    let target = run.world.target.clone();
    let nsid = u32::from(input.byte() % 3) + 1;
    // Refusals are as good as changes here.
    let _ = match input.byte() % 8 {
        0 => target.remove_namespace(NQN, nsid),
        1 => {
            let spec = NamespaceSpec::new(Disk::new(512, 64), uuid::Uuid::from_u128(u128::from(nsid)));
            target.add_namespace(NQN, NamespaceSpec { nsid: Some(nsid), ..spec }).map(drop)
        }
        2 => {
            run.world.disk.with(|d| d.geometry.blocks = 1 + u64::from(input.short() % 1024));
            target.namespace_resized(NQN, 1)
        }
        3 => target.set_write_protected(NQN, nsid, input.byte() & 1 == 0),
        4 => target.set_allow_any(NQN, input.byte() & 1 == 0),
        5 => target.allow_host(NQN, HOST),
        6 => target.remove_host(NQN, HOST),
        _ => {
            let _ = target.snapshot();
            Ok(())
        }
    };
    run.world.pump();
}

/// A controller with one I/O queue, and whatever the input does to it.
pub fn queue(data: &[u8]) {
    let mut input = Input(data);
    let block_size = if input.byte() & 1 == 0 { 4096 } else { 512 };
    let mut run = Run { world: World::new(block_size), open: HashMap::new(), gone: Vec::new() };
    run.world.pair();
    run.settle();
    while !input.is_empty() {
        let c = input.below(run.world.conns.len());
        match input.byte() % 16 {
            0..=8 => {
                let sqe = command(&mut input);
                let payload = payload(&mut input, &sqe);
                run.send(c, sqe, payload);
            }
            9 | 10 => {
                let n = run.world.conns[c].pulls.len().max(1);
                if let Some((slot, len)) = run.world.conns[c].pulls.get(input.below(n)).copied() {
                    let data = bytes(&mut input, len as usize);
                    run.world.give(c, slot, data);
                }
            }
            11 => run.world.pass(u64::from(input.short())),
            12 => {
                let (what, some) = (input.byte() % 3, input.byte() & 1 == 0);
                run.world.disk.with(|d| match what {
                    0 => d.hold = some,
                    1 => d.fail = Some(BlockError::Interrupted),
                    _ => d.fault = some.then(|| "the disk is gone".into()),
                });
                run.world.release();
            }
            13 => manage(&mut run, &mut input),
            14 => connection(&mut run, &mut input),
            _ if !run.gone.contains(&c) && input.byte() == 0 => {
                run.world.hang_up(c);
                run.gone.push(c);
            }
            _ => {}
        }
        run.settle();
    }
    // The volume answers all it holds, hosts give all that was asked for; then only what may wait for ever still does.
    run.world.disk.with(|d| d.hold = false);
    for _ in 0..2 {
        run.world.release();
        for c in 0..run.world.conns.len() {
            while let Some((slot, len)) = run.world.conns[c].pulls.first().copied() {
                run.world.give(c, slot, vec![0; len as usize]);
            }
        }
        run.settle();
    }
    for ((c, slot), (_, waits)) in &run.open {
        let over = run.world.conns[*c].closed.is_some() || run.gone.contains(c);
        assert!(over || *waits, "the command in slot {slot} of connection {c} was forgotten");
    }
    for c in 0..run.world.conns.len() {
        assert_eq!(Queue::in_flight(&run.world.conns[c].queue), 0, "requests of connection {c} came back");
    }
}
