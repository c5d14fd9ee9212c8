//! Both roles joined by two byte streams that deliver in pieces of any size, against a model of what was sent.
//!
//! The input decides the configuration of both sides, the commands, how much moves when, and how the target answers.
//! Whatever it decides, no side may find fault with the other, and every command ends as the model says, with its data.

use crate::Input;
use caisson_block::{Buf, BufList, Completions, Mono};
use caisson_tcp::controller::{self, Payload};
use caisson_tcp::host::{self, Transfer};
use caisson_tcp::{Digests, Tx};
use caisson_wire::opcode::{self, fctype, io};
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Cqe, Sqe, Status};
use std::collections::VecDeque;

/// Commands out at once.
const DEPTH: usize = 16;
/// The most data of one command, in dwords.
const LARGEST: usize = 20_000;

/// What the model knows of a command.
#[derive(Clone, Default)]
struct Command {
    out: bool,
    opcode: u8,
    len: usize,
    seed: u8,
    /// What has come of a read.
    got: Vec<u8>,
    /// How the target decided to answer.
    answer: Option<(Status, u64)>,
}

/// A command in the target's hands.
struct Held {
    slot: u32,
    cid: u16,
    pull: Option<u32>,
    pulling: bool,
}

struct World {
    host: host::Session,
    target: controller::Session,
    spare: Completions,
    /// Bytes on their way to the target, and to the host.
    there: VecDeque<u8>,
    back: VecDeque<u8>,
    commands: Vec<Command>,
    held: Vec<Held>,
    completed: usize,
    ready: bool,
}

/// Byte `i` of the data of a command with this seed.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}

const NOW: Mono = Mono(7);

/// See the module.
pub fn loopback(data: &[u8]) {
    loopback_completed(data);
}

/// The same, telling how many commands were completed.
pub fn loopback_completed(data: &[u8]) -> usize {
    let mut input = Input(data);
    let mut w = World::new(&mut input);
    for _ in 0..2000 {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 => w.command(&mut input),
            1 => w.send(true, &mut input),
            2 => w.send(false, &mut input),
            3 | 4 => w.deliver(true, Some(&mut input)),
            5 => w.deliver(false, Some(&mut input)),
            _ => w.act(&mut input),
        }
    }
    w.finish()
}

impl World {
    fn new(input: &mut Input) -> World {
        let asked = Digests::from_field(input.byte());
        let given = Digests::from_field(input.byte());
        let host = host::Config {
            header_digest: asked.header,
            data_digest: asked.data,
            maxr2t: u32::from(input.byte() % 5),
            hpda: input.byte() % 32,
            in_capsule: [0, 512, 8192, 16384][usize::from(input.byte() % 4)],
            ..host::Config::default()
        };
        let target = controller::Config {
            header_digest: given.header,
            data_digest: given.data,
            in_capsule: 16384,
            max_h2c: 4096 + 4 * u32::from(input.short()),
            max_c2h: 512 + 4 * u32::from(input.short()),
            cpda: input.byte() % 32,
            max_slots: DEPTH as u32 + u32::from(input.byte() % 8),
            max_r2t: 512 + 4 * u32::from(input.short()),
            r2t_window: 4 * u32::from(input.short()),
            ..controller::Config::default()
        };
        let mut w = World {
            host: host::Session::new(host, NOW),
            target: controller::Session::new(target, NOW),
            spare: Completions::default(),
            there: VecDeque::new(),
            back: VecDeque::new(),
            commands: vec![Command::default(); DEPTH],
            held: Vec::new(),
            completed: 0,
            ready: false,
        };
        if input.byte() & 1 == 0 {
            w.connect(input.byte() & 1 == 0);
        }
        w
    }

    /// The handshake and a Connect to an I/O queue, with SQ flow control or without.
    fn connect(&mut self, flow_control: bool) {
        self.flush();
        let sqe = Sqe {
            opcode: opcode::FABRICS,
            nsid: U32::new(u32::from(fctype::CONNECT)),
            cdw10: U32::new(1 << 16),
            ..Sqe::default()
        };
        self.host.command(sqe, Transfer::None).expect("ready after the handshake");
        self.send_all(true);
        self.target.receive(Buf::from(self.there.drain(..).collect::<Vec<u8>>()));
        let Some(controller::Event::Command { slot, .. }) = self.target.next(NOW, &mut self.spare) else {
            panic!("Connect arrives");
        };
        let sqhd = U16::new(if flow_control { 1 } else { 0xffff });
        self.target.reply(
            slot,
            Cqe { sqhd, ..Cqe::new(0, Status::SUCCESS) },
            BufList::new(),
            &mut self.spare,
        );
        self.send_all(false);
        self.host.receive(Buf::from(self.back.drain(..).collect::<Vec<u8>>()));
        assert!(matches!(self.host.next(NOW), Some(host::Event::Completed { cid: 0, .. })));
    }

    fn command(&mut self, input: &mut Input) {
        let cid = input.below(DEPTH);
        if !self.ready || self.commands[cid].out {
            return;
        }
        let opcode = [io::READ, io::WRITE, io::FLUSH][usize::from(input.byte() % 3)];
        let most = [64, 2100, LARGEST][usize::from(input.byte() % 3)];
        let len = 4 * (1 + input.below(most));
        let seed = input.byte();
        let data = match opcode {
            io::READ => Transfer::In(len as u32),
            io::WRITE => {
                let bytes = Buf::from(pattern(seed, len));
                let cut = input.below(len);
                let mut list = self.host.list();
                list.push(bytes.slice(0, cut).expect("inside"));
                list.push(bytes.slice(cut, len).expect("inside"));
                Transfer::Out(list)
            }
            _ => Transfer::None,
        };
        let sqe = Sqe { opcode, cid: U16::new(cid as u16), ..Sqe::default() };
        self.host.command(sqe, data).expect("the CID is free");
        self.commands[cid] = Command { out: true, opcode, len, seed, ..Command::default() };
    }

    /// Sends some of what a side has queued, as a socket that takes any part of it would.
    fn send(&mut self, host: bool, input: &mut Input) {
        let mut iov = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 8];
        let (entries, most, take) = (1 + input.below(8), 1 + input.below(70_000), input.byte());
        let (tx, wire) = self.side(host);
        let (count, bytes) = tx.gather(&mut iov[..entries], most);
        let n = if take < 128 { bytes } else { bytes * usize::from(take) / 256 };
        let mut left = n;
        for v in &iov[..count] {
            // SAFETY: gather describes memory of the Tx, which is alive and not advanced yet.
            let part = unsafe { std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len) };
            wire.extend(&part[..left.min(part.len())]);
            left -= left.min(part.len());
        }
        tx.advance(n);
    }

    fn send_all(&mut self, host: bool) {
        let (tx, wire) = self.side(host);
        wire.extend(tx.drain());
    }

    fn side(&mut self, host: bool) -> (&mut Tx, &mut VecDeque<u8>) {
        if host { (self.host.tx(), &mut self.there) } else { (self.target.tx(), &mut self.back) }
    }

    /// Has a side receive some of what is on its way to it: all of it without an input.
    fn deliver(&mut self, to_target: bool, input: Option<&mut Input>) {
        let wire = if to_target { &mut self.there } else { &mut self.back };
        let most = input.map_or(usize::MAX, |input| {
            let most = [3, 200, 9000][usize::from(input.byte() % 3)];
            1 + input.below(most)
        });
        let bytes: Vec<u8> = wire.drain(..most.min(wire.len())).collect();
        if to_target {
            self.target.receive(Buf::from(bytes));
            self.target_events();
        } else {
            self.host.receive(Buf::from(bytes));
            self.host_events();
        }
    }

    fn target_events(&mut self) {
        while let Some(event) = self.target.next(NOW, &mut self.spare) {
            match event {
                controller::Event::Command { slot, sqe, payload } => {
                    let cid = sqe.cid.get();
                    let c = &self.commands[usize::from(cid)];
                    assert!(c.out && c.opcode == sqe.opcode);
                    let pull = match payload {
                        Payload::None => {
                            assert!(c.opcode == io::FLUSH);
                            None
                        }
                        Payload::InCapsule(data) => {
                            assert!(c.opcode == io::WRITE && data.to_vec() == pattern(c.seed, c.len));
                            self.spare.recycle(data);
                            None
                        }
                        Payload::Transport { len } => {
                            assert_eq!(len as usize, c.len);
                            (c.opcode == io::WRITE).then_some(len)
                        }
                        Payload::Bad(status) => panic!("{status}"),
                    };
                    self.held.push(Held { slot, cid, pull, pulling: false });
                }
                controller::Event::Data { slot, data } => {
                    let held = self.held.iter_mut().find(|h| h.slot == slot).expect("in hand");
                    assert!(held.pulling);
                    held.pulling = false;
                    let c = &self.commands[usize::from(held.cid)];
                    assert!(data.to_vec() == pattern(c.seed, c.len), "the data of a write arrives as it was");
                    self.spare.recycle(data);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(self.target.closing().is_none(), "{:?}", self.target.closing());
    }

    /// The target does something about a command in hand: pulls its data, or answers it (also while it is pulled).
    fn act(&mut self, input: &mut Input) {
        if self.held.is_empty() {
            return;
        }
        let n = input.below(self.held.len());
        let choice = input.byte();
        if let Some(len) = self.held[n].pull.take() {
            self.held[n].pulling = self.target.pull(self.held[n].slot, len, NOW);
            assert!(self.held[n].pulling);
        } else if !self.held[n].pulling || choice < 32 {
            self.answer(n, choice);
        }
        self.target_events();
    }

    fn answer(&mut self, n: usize, choice: u8) {
        let held = self.held.swap_remove(n);
        let c = &mut self.commands[usize::from(held.cid)];
        let status = if held.pulling || choice & 7 == 7 { Status::INTERNAL_ERROR } else { Status::SUCCESS };
        let result = if choice & 8 == 0 { 0 } else { u64::from(choice) << 33 };
        c.answer = Some((status, result));
        let mut data = self.spare.list();
        if c.opcode == io::READ && status.is_success() {
            let bytes = Buf::from(pattern(c.seed, c.len));
            let cut = usize::from(choice) * 37 % c.len;
            data.push(bytes.slice(0, cut).expect("inside"));
            data.push(bytes.slice(cut, c.len).expect("inside"));
        }
        let cqe = Cqe::new(held.cid, status).with_result(result);
        self.target.reply(held.slot, cqe, data, &mut self.spare);
    }

    fn host_events(&mut self) {
        while let Some(event) = self.host.next(NOW) {
            match event {
                host::Event::Ready { .. } => self.ready = true,
                host::Event::Data { cid, offset, bytes } => {
                    let c = &mut self.commands[usize::from(cid)];
                    assert_eq!(offset as usize, c.got.len());
                    c.got.extend_from_slice(&bytes);
                }
                host::Event::Completed { cid, cqe, received } => {
                    let c = std::mem::take(&mut self.commands[usize::from(cid)]);
                    assert_eq!(Some((cqe.status(), cqe.result())), c.answer);
                    assert_eq!(received as usize, c.got.len());
                    if c.opcode == io::READ && cqe.status().is_success() {
                        assert!(c.got == pattern(c.seed, c.len), "the data of a read arrives as it was");
                    } else {
                        assert!(c.got.is_empty());
                    }
                    self.completed += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(self.host.closing().is_none(), "{:?}", self.host.closing());
    }

    /// Moves everything that is queued, both ways, until nothing moves.
    fn flush(&mut self) {
        loop {
            self.send_all(true);
            self.send_all(false);
            if self.there.is_empty() && self.back.is_empty() {
                return;
            }
            self.deliver(true, None);
            self.deliver(false, None);
        }
    }

    /// Everything that is out ends, and nothing is left.
    fn finish(mut self) -> usize {
        self.flush();
        while !self.held.is_empty() {
            let n = self.held.len().saturating_sub(1);
            if let Some(len) = self.held[n].pull.take() {
                self.held[n].pulling = self.target.pull(self.held[n].slot, len, NOW);
            } else {
                // Whatever was being pulled has come by now, for everything was moved.
                assert!(!self.held[n].pulling);
                self.answer(n, 0);
            }
            self.target_events();
            self.flush();
        }
        assert!(!self.target.stalled());
        assert!(self.commands.iter().all(|c| !c.out), "every command is completed");
        assert_eq!((self.target.in_hand(), self.host.in_flight()), (0, 0));
        assert!(self.target.deadline().is_none() || !self.ready);
        assert!(self.target.tx().is_empty() && self.host.tx().is_empty());
        assert!(self.ready);
        self.completed
    }
}
