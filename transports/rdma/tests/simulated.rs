//! Sessions over a simulated device that is as unkind as a real one may be: it completes when it likes and each queue pair at
//! its own pace, writes to memory that it was lent at any moment until then, refuses work, fails, flushes and disconnects in
//! the middle of transfers.
//!
//! What is held: data arrives as it was sent, in both directions; nothing that the device has is touched (it scribbles over
//! what it may write and checks that what it may read does not change); every command is answered once on a connection that
//! lives; and when all is closed and flushed, every buffer is home.

mod device;

use caisson_block::{Buf, BufList, Completions, Pool};
use caisson_rdma::session::Fatal;
use caisson_rdma::session::{Config, Env};
use caisson_rdma::{Cause, Event, Memory, Op, Payload, Receives, Regions, Session, WcStatus};
use caisson_wire::opcode::io;
use caisson_wire::rdma::CmStatus;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Cqe, Sgl, Sqe, Status};
use device::{Device, Rng, Wc};
use std::collections::{HashMap, HashSet};

const IN_CAPSULE: usize = 8192;
/// Bytes of the volume that hosts read and write.
const DISK: usize = 1 << 20;
/// The unit of addresses.
const UNIT: usize = 512;

/// One queue pair with its host's view.
struct Pair {
    session: Session,
    config: Config,
    /// What the host awaits: by cid, the bytes that a read must bring, and where.
    awaited: HashMap<u16, Awaited>,
    next_cid: u16,
    depth: u16,
    responses: usize,
    /// Commands that the target works on: slot, command, reply data for reads.
    work: Vec<(u32, Sqe)>,
    over: bool,
}

struct Awaited {
    rkey: u32,
    want: Option<Vec<u8>>,
}

struct World {
    rng: Rng,
    device: Device,
    memory: Memory,
    store: Pool,
    receives: Receives,
    regions: Regions,
    spare: Completions,
    disk: Vec<u8>,
    /// Ranges of the disk that a command is using, so that what a read must bring is known.
    busy: Vec<(usize, usize, u32, u16)>,
    pairs: Vec<Pair>,
    answered: u32,
    lost: u32,
    /// The host of pair 0 keeps no rule.
    hostile: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng(seed);
        let memory = Memory::new([8, 4, 4], 16).unwrap();
        let store = Pool::new(64, 16384).unwrap();
        let receives = Receives::new(12, IN_CAPSULE).unwrap();
        let pools = memory.pools().chain(receives.pools()).chain([&store]);
        let regions = Regions::new(pools.enumerate().map(|(n, p)| {
            let (at, len) = p.memory();
            (at.addr(), len, 100 + n as u32)
        }));
        let iwarp = rng.chance(2);
        let pairs: Vec<Pair> = (0..3).map(|n| Pair::new(&mut rng, n, iwarp)).collect();
        let mut device = Device::new(3, rng.next());
        device.overtaking = iwarp;
        device.room = pairs.iter().map(|p| p.responses).collect();
        World {
            device,
            rng,
            memory,
            store,
            receives,
            regions,
            spare: Completions::default(),
            disk: vec![0; DISK],
            busy: Vec::new(),
            pairs,
            answered: 0,
            lost: 0,
            hostile: false,
        }
    }

    /// The host of pair `n` sends a command, if it may and the device has a receive for it.
    fn host(&mut self, n: usize) {
        let pair = &mut self.pairs[n];
        if pair.over || pair.awaited.len() >= usize::from(pair.depth) || self.device.dead(n) {
            return;
        }
        let most = if self.rng.chance(4) { 400 } else { 24 };
        let len = UNIT * (1 + self.rng.below(most));
        let at = UNIT * self.rng.below((DISK - len) / UNIT);
        if self.busy.iter().any(|&(from, to, ..)| from < at + len && at < to) {
            return;
        }
        let cid = pair.next_cid;
        pair.next_cid = pair.next_cid.wrapping_add(1);
        let invalidate = self.rng.chance(2);
        let mut sqe = Sqe { cid: U16::new(cid), flags: 0x40, ..Sqe::default() };
        sqe.cdw10 = U32::new(at as u32);
        sqe.cdw12 = U32::new(len as u32);
        let mut message = Vec::new();
        let mut awaited = Awaited { rkey: 0, want: None };
        let kind = self.rng.below(5);
        if kind == 0 {
            (sqe.opcode, sqe.sgl) = (io::FLUSH, Sgl::keyed(0, 0, 0, false));
            message.extend_from_slice(sqe.as_bytes());
        } else if kind < 3 {
            // A read: the host's memory, with a mark at both ends that must stay.
            let rkey = self.device.register(n, vec![0xee; len + 32]);
            (sqe.opcode, sqe.sgl) =
                (io::READ, Sgl::keyed(self.device.base(rkey) + 16, len as u32, rkey, invalidate));
            awaited = Awaited { rkey, want: Some(self.disk[at..at + len].to_vec()) };
            message.extend_from_slice(sqe.as_bytes());
        } else {
            let data: Vec<u8> = (0..len).map(|_| self.rng.next() as u8).collect();
            self.disk[at..at + len].copy_from_slice(&data);
            sqe.opcode = io::WRITE;
            if len <= IN_CAPSULE && kind == 3 {
                sqe.sgl = Sgl::in_capsule(0, len as u32);
                message.extend_from_slice(sqe.as_bytes());
                message.extend_from_slice(&data);
            } else {
                let rkey = self.device.register(n, data);
                sqe.sgl = Sgl::keyed(self.device.base(rkey), len as u32, rkey, invalidate);
                awaited.rkey = rkey;
                message.extend_from_slice(sqe.as_bytes());
            }
        }
        if kind != 0 {
            self.busy.push((at, at + len, n as u32, cid));
        }
        self.pairs[n].awaited.insert(cid, awaited);
        self.device.send(n, message);
    }

    /// The host of pair 0 does one of the things that none may.
    fn attack(&mut self) {
        if self.pairs[0].over || self.device.dead(0) {
            return;
        }
        let len = UNIT * (1 + self.rng.below(100));
        let mut sqe = Sqe { flags: 0x40, opcode: io::READ, ..Sqe::default() };
        sqe.cdw12 = U32::new(len as u32);
        let invalidate = self.rng.chance(2);
        let mut times = 1;
        match self.rng.below(6) {
            0 => {
                let short = self.rng.below(64);
                return self.device.send(0, vec![0x40; short]);
            }
            // A key that is nobody's, one of another host, and one of fewer bytes than the descriptor says.
            1 => sqe.sgl = Sgl::keyed(self.rng.next(), len as u32, 1, invalidate),
            2 => {
                let theirs = self.device.register(1, vec![0; len]);
                sqe.sgl = Sgl::keyed(self.device.base(theirs), len as u32, theirs, false);
            }
            3 => {
                let own = self.device.register(0, vec![0; len / 2]);
                sqe.sgl = Sgl::keyed(self.device.base(own), len as u32, own, invalidate);
                sqe.opcode = if self.rng.chance(2) { io::READ } else { io::WRITE };
            }
            4 => times = 3 * usize::from(self.pairs[0].depth),
            // Data that the capsule does not have.
            _ => (sqe.opcode, sqe.sgl) = (io::WRITE, Sgl::in_capsule(self.rng.next(), len as u32)),
        }
        if times > 1 {
            sqe.opcode = io::FLUSH;
        }
        for _ in 0..times {
            let pair = &mut self.pairs[0];
            sqe.cid = U16::new(pair.next_cid);
            pair.awaited.insert(pair.next_cid, Awaited { rkey: 0, want: None });
            pair.next_cid = pair.next_cid.wrapping_add(1);
            self.device.send(0, sqe.as_bytes().to_vec());
        }
    }

    /// The target posts receives and what sessions have made.
    fn post(&mut self) {
        let mut wrs = Vec::new();
        let most = 1 + self.rng.below(6);
        self.receives.fill(&self.regions, most, &mut wrs);
        wrs.into_iter().for_each(|w| self.device.post_recv(w));
        for n in 0..self.pairs.len() {
            let Pair { session, config, .. } = &mut self.pairs[n];
            let batch = session.batch();
            if batch.is_empty() {
                continue;
            }
            for wr in &batch.wrs {
                let write = matches!(wr.op, Op::Write { .. });
                assert!(
                    wr.signaled || !write || !config.iwarp,
                    "an RDMA WRITE that nobody tells us the end of"
                );
                if let Op::Send { invalidate, .. } = wr.op {
                    let may = config.inline && !(config.iwarp && invalidate.is_some());
                    assert_eq!(
                        batch.list(wr).is_empty(),
                        may,
                        "inline where the device takes it, and only there"
                    );
                }
            }
            let refused = self.device.post_send(n, batch);
            let mut env = Env { keys: &self.regions, memory: &self.memory, spare: &mut self.spare };
            session.posted(refused, if refused > 0 { 12 } else { 0 }, &mut env);
        }
    }

    /// The target takes what the device completed.
    fn poll(&mut self) {
        for Wc { pair: n, what, status } in self.device.poll() {
            let mut events = Vec::new();
            match what {
                device::What::Recv { id, .. } if status != WcStatus::Success => self.receives.give_back(id),
                device::What::Recv { id, len } => {
                    let capsule = self.receives.take(id, len);
                    let session = &mut self.pairs[n].session;
                    match capsule {
                        Some(capsule) => {
                            events.extend(session.command(capsule, &mut self.spare).ok().flatten())
                        }
                        None => {
                            assert!(self.hostile && n == 0, "the other hosts send whole commands");
                            session.fail(Fatal::Short { len });
                        }
                    }
                }
                device::What::Send { id } => {
                    let mut env = Env { keys: &self.regions, memory: &self.memory, spare: &mut self.spare };
                    self.pairs[n].session.completed(id, status, &mut env, &mut events);
                }
            }
            for event in events {
                self.event(n, event);
            }
        }
    }

    fn event(&mut self, n: usize, event: Event) {
        let mut env = Env { keys: &self.regions, memory: &self.memory, spare: &mut self.spare };
        let pair = &mut self.pairs[n];
        match event {
            Event::Command { slot, sqe, payload } => match payload {
                Payload::None => pair.work.push((slot, sqe)),
                Payload::InCapsule(data) => {
                    check_write(&self.disk, &sqe, &data);
                    pair.work.push((slot, sqe));
                }
                Payload::Transport { len } if sqe.opcode == io::WRITE => {
                    assert!(pair.session.pull(slot, len, &mut env));
                    assert!(!pair.session.pull(slot, len, &mut env), "once");
                    if self.rng.chance(20) {
                        // An abort: answered while its data is on its way.
                        let cqe = Cqe::new(sqe.cid.get(), Status::ABORT_REQUESTED);
                        pair.session.reply(slot, cqe, BufList::new(), &mut env);
                    } else {
                        pair.work.push((slot, Sqe { nsid: U32::new(1), ..sqe }));
                    }
                }
                Payload::Transport { .. } => pair.work.push((slot, sqe)),
                Payload::Bad(status) => {
                    assert!(self.hostile && n == 0, "{status}");
                    pair.session.reply(slot, Cqe::new(sqe.cid.get(), status), BufList::new(), &mut env);
                }
            },
            Event::Data { slot, data } => {
                let (_, sqe) =
                    pair.work.iter_mut().find(|(s, _)| *s == slot).expect("data of a command in hand");
                check_write(&self.disk, sqe, &data);
                sqe.nsid = U32::new(0);
            }
        }
    }

    /// The target finishes some command.
    fn work(&mut self, n: usize) {
        let pair = &mut self.pairs[n];
        // NSID 1 marks a write whose data has not come.
        let ready: Vec<usize> = (0..pair.work.len()).filter(|&i| pair.work[i].1.nsid.get() == 0).collect();
        if ready.is_empty() {
            return;
        }
        let (slot, sqe) = pair.work.swap_remove(ready[self.rng.below(ready.len())]);
        let mut data = BufList::new();
        if sqe.opcode == io::READ {
            let (at, len) = (sqe.cdw10.get() as usize, sqe.cdw12.get() as usize);
            for piece in self.disk[at..at + len].chunks(5000) {
                // Some of it from the heap, which is not registered.
                match self.store.alloc() {
                    Some(mut buf) if self.rng.chance(2) => {
                        buf.truncate(piece.len());
                        buf.copy_from_slice(piece);
                        data.push(buf.freeze());
                    }
                    _ => data.push(Buf::from(piece.to_vec())),
                }
            }
        }
        let mut env = Env { keys: &self.regions, memory: &self.memory, spare: &mut self.spare };
        pair.session.reply(slot, Cqe::new(sqe.cid.get(), Status::SUCCESS), data, &mut env);
    }

    /// The hosts look at the responses that came.
    fn responses(&mut self) {
        for (n, cqe, invalidated) in self.device.responses() {
            if self.pairs[n].over {
                // Its host has given up; the response came before that.
                continue;
            }
            let cqe = Cqe::decode(&cqe).unwrap();
            let awaited = self.pairs[n].awaited.remove(&cqe.cid.get()).expect("one answer a command");
            self.busy.retain(|&(_, _, p, cid)| (p, cid) != (n as u32, cqe.cid.get()));
            assert!(
                invalidated.is_none_or(|key| key == awaited.rkey || self.hostile && n == 0),
                "another's key was invalidated"
            );
            if awaited.rkey != 0 {
                let memory = self.device.deregister(awaited.rkey);
                if let (Some(want), true) = (awaited.want, cqe.status().is_success()) {
                    assert!(memory[16..16 + want.len()] == want[..], "a read brought other data");
                    assert!(memory[..16].iter().chain(&memory[16 + want.len()..]).all(|&b| b == 0xee));
                }
            }
            self.answered += 1;
        }
    }

    /// Closes what has failed, and forgets what is flushed.
    fn ends(&mut self) {
        for n in 0..self.pairs.len() {
            let pair = &mut self.pairs[n];
            if pair.over {
                continue;
            }
            if pair.session.fatal().is_some() || self.device.dead(n) {
                self.device.fail(n);
                pair.session.close(&mut self.spare);
                pair.work.clear();
                if pair.session.drained() {
                    pair.over = true;
                    pair.awaited.clear();
                    self.busy.retain(|&(_, _, p, _)| p != n as u32);
                    self.device.destroy(n);
                    self.lost += 1;
                }
            } else {
                let mut env = Env { keys: &self.regions, memory: &self.memory, spare: &mut self.spare };
                pair.session.advance(&mut env);
            }
        }
    }

    fn step(&mut self) {
        let n = self.rng.below(self.pairs.len());
        match self.rng.below(8) {
            0 if self.hostile && self.rng.chance(50) => self.attack(),
            0 | 1 => self.host(n),
            2 => self.post(),
            3 => self.poll(),
            4 | 5 => self.work(n),
            6 => self.device.step(),
            _ => self.responses(),
        }
        self.device.scribble();
        self.ends();
    }

    /// Ends everything and looks for what has not come home.
    fn close(mut self) -> (u32, u32) {
        for n in 0..self.pairs.len() {
            self.device.fail(n);
        }
        for _ in 0..10_000 {
            self.device.step();
            self.poll();
            self.ends();
        }
        assert!(self.pairs.iter().all(|p| p.over && p.session.drained()), "a session was not flushed");
        self.device.destroy_receives();
        self.receives.reclaim();
        let tally = (self.answered, self.lost);
        let (memory, store) = (self.memory.clone(), self.store.clone());
        let data = self.receives.pools()[1].clone();
        drop(self);
        assert!(memory.pools().all(|p| p.in_use() == 0), "a transfer buffer leaked");
        assert_eq!((store.in_use(), data.in_use()), (0, 0), "a buffer leaked");
        tally
    }
}

impl Pair {
    fn new(rng: &mut Rng, n: usize, iwarp: bool) -> Pair {
        let depth = 2 + rng.below(14) as u16;
        let config = Config {
            depth,
            responses: 1 + rng.below(16) as u16,
            send_wrs: 6 + rng.below(40) as u32,
            // Enough that the largest transfer fits the smallest queue.
            send_sges: 16 + rng.below(3) as u32,
            read_sges: 1 + rng.below(4) as u32,
            inline: rng.chance(2),
            iwarp,
            invalidate: n != 2,
        };
        let session = Session::new(config);
        let responses = usize::from(config.responses);
        Pair {
            session,
            config,
            responses,
            awaited: HashMap::new(),
            next_cid: 0,
            depth,
            work: Vec::new(),
            over: false,
        }
    }
}

fn check_write(disk: &[u8], sqe: &Sqe, data: &BufList) {
    let (at, len) = (sqe.cdw10.get() as usize, sqe.cdw12.get() as usize);
    assert_eq!(data.len(), len);
    assert!(data.to_vec() == disk[at..at + len], "a write brought other data");
}

fn seeds() -> u64 {
    std::env::var("CAISSON_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(150)
}

/// Without faults, every command is answered.
#[test]
fn all_is_answered_where_nothing_fails() {
    for seed in 0..seeds() {
        let mut w = World::new(seed);
        for _ in 0..3000 {
            w.step();
        }
        // No more commands: what is on its way ends.
        for _ in 0..60_000 {
            if w.pairs.iter().all(|p| p.awaited.is_empty()) {
                break;
            }
            w.post();
            w.device.step();
            w.poll();
            (0..3).for_each(|n| w.work(n));
            w.responses();
            w.device.scribble();
            w.ends();
        }
        let open: usize = w.pairs.iter().map(|p| p.awaited.len()).sum();
        assert_eq!((open, w.lost), (0, 0), "seed {seed}: commands without an answer, or a connection lost");
        assert!(w.pairs.iter().all(|p| p.session.in_hand() == 0));
        let (answered, _) = w.close();
        assert!(answered > 50, "seed {seed}: only {answered} commands");
    }
}

/// With faults, each ends its own connection at most, and everything comes home.
#[test]
fn whatever_fails_every_buffer_comes_home() {
    let (mut answered, mut lost) = (0, 0);
    for seed in 0..seeds() {
        let mut w = World::new(seed + 1_000_000);
        w.device.faulty = true;
        for _ in 0..2500 {
            w.step();
        }
        // Closing counts all of them.
        let (a, l) = w.close();
        (answered, lost) = (answered + a, lost + l);
    }
    assert!(answered > 0 && lost > 0);
}

/// A host that keeps no rule ends its own connection at most, for the cause that it was, and holds nothing.
#[test]
fn hostile_hosts_end_only_themselves() {
    let mut causes = HashSet::new();
    for seed in 0..seeds() {
        let mut w = World::new(seed + 2_000_000);
        (w.hostile, w.device.hostile) = (true, true);
        for _ in 0..3000 {
            w.step();
        }
        assert!(
            w.pairs[1..].iter().all(|p| !p.over && p.session.fatal().is_none()),
            "seed {seed}: a bystander"
        );
        causes.extend(w.pairs[0].session.fatal().map(Fatal::cause));
        w.close();
    }
    for cause in [Cause::ShortMessage, Cause::BadKey, Cause::TooManyCommands] {
        assert!(causes.contains(&cause), "never met: {cause:?}");
    }
}

/// A host that has more on its way than its queue has entries is ended, and a reject says which field was wrong.
const SHALLOW: Config = Config {
    depth: 2,
    responses: 2,
    send_wrs: 8,
    send_sges: 4,
    read_sges: 4,
    inline: true,
    iwarp: false,
    invalidate: true,
};

#[test]
fn a_host_keeps_to_its_queue() {
    let mut s = Session::new(SHALLOW);
    let capsule = || caisson_rdma::receive::Capsule { sqe: Sqe::default(), inside: None };
    let mut spare = Completions::default();
    let mut command = || s.command(capsule(), &mut spare);
    assert!(command().unwrap().is_some() && command().unwrap().is_some());
    assert!(command().is_err());
    assert!(command().unwrap().is_none(), "nothing is taken any more");
    assert!(s.fatal().is_some());
    assert_eq!(caisson_rdma::cm::reject(CmStatus::NoResources), [0, 0, 6, 0]);
}

#[test]
fn a_flush_is_never_the_cause_where_there_is_another() {
    let failed = |what, status| Fatal::Failed { what, status };
    let (flushed, long) = (failed("SEND", WcStatus::Flushed), failed("receive", WcStatus::Length));
    let mut s = Session::new(SHALLOW);
    // The sends' queue is looked at before the receives'.
    assert_eq!(s.fail(flushed), flushed);
    assert_eq!(s.fail(long), long);
    // Otherwise the first counts.
    assert_eq!(s.fail(Fatal::Short { len: 3 }), long);
    assert_eq!(s.fail(flushed), long);
    assert_eq!(s.fatal().map(|f| f.cause()), Some(Cause::Length));
}
