//! A target, fake volumes, and hosts that are stepped by hand: no thread, no socket, no clock.
#![allow(dead_code)]

mod idle;

pub use idle::{NoRemote, NoRing};

use caisson_block::*;
use caisson_core::*;
use caisson_wire::fabrics::{ConnectData, DISCOVERY_NQN};
use caisson_wire::opcode::{FABRICS, admin, fctype};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Cqe, Sqe, Status};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

pub const NQN: &str = "nqn.2024-01.io.caisson:one";
pub const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
pub const OTHER: &str = "nqn.2014-08.org.nvmexpress:uuid:99999999-2222-3333-4444-555555555555";
pub const HOSTID: [u8; 16] = [7; 16];
pub const PORT: PortId = PortId(1);
pub const MAX: Mono = Mono(u64::MAX);

/// A volume in memory that does as it is told.
pub struct Disk {
    pub inner: Mutex<Inner>,
}

pub struct Inner {
    pub geometry: Geometry,
    pub blocks: HashMap<u64, Vec<u8>>,
    /// Requests are kept until [`Disk::release`].
    pub hold: bool,
    pub held: Vec<Request>,
    /// The next requests fail so.
    pub fail: Option<BlockError>,
    pub fault: Option<String>,
    pub spare: u8,
    /// Keys can be erased of it, and how far that is.
    pub erasable: bool,
    pub erasure: Erasure,
    /// What was asked, in order.
    pub seen: Vec<String>,
}

impl Disk {
    pub fn new(block_size: u32, blocks: u64) -> Arc<Disk> {
        let geometry = Geometry {
            block_size,
            blocks,
            volatile_cache: true,
            deallocates: true,
            preferred_blocks: 4096 / block_size,
        };
        Arc::new(Disk {
            inner: Mutex::new(Inner {
                geometry,
                blocks: HashMap::new(),
                hold: false,
                held: Vec::new(),
                fail: None,
                fault: None,
                spare: 100,
                erasable: false,
                erasure: Erasure::None,
                seen: Vec::new(),
            }),
        })
    }

    pub fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock().unwrap())
    }

    pub fn seen(&self) -> Vec<String> {
        self.with(|d| std::mem::take(&mut d.seen))
    }

    /// Lets go of what is held; whether there was something.
    pub fn release(&self, cx: &mut Cx<'_>) -> bool {
        let held = self.with(|d| std::mem::take(&mut d.held));
        let some = !held.is_empty();
        for request in held {
            self.serve(cx, request);
        }
        some
    }

    fn serve(&self, cx: &mut Cx<'_>, request: Request) {
        let outcome = self.with(|d| d.serve(request.op));
        cx.complete(request.tag, outcome);
    }
}

impl Inner {
    fn read(&self, at: Extent) -> Vec<u8> {
        let size = self.geometry.block_size as usize;
        (at.lba..at.lba + at.blocks)
            .flat_map(|b| self.blocks.get(&b).cloned().unwrap_or_else(|| vec![0; size]))
            .collect()
    }

    fn write(&mut self, at: Extent, data: &[u8]) {
        let size = self.geometry.block_size as usize;
        assert_eq!(data.len(), size * at.blocks as usize);
        for (i, block) in data.chunks(size).enumerate() {
            self.blocks.insert(at.lba + i as u64, block.to_vec());
        }
    }

    fn serve(&mut self, op: Op) -> Outcome {
        if let Some(error) = self.fail.take() {
            return Err(error);
        }
        match op {
            Op::Read { at } => Ok(self.read(at).into()),
            Op::Write { at, data, .. } => {
                self.write(at, &data.to_vec());
                Ok(BufList::new())
            }
            Op::Compare { at, data } => {
                if self.read(at) == data.to_vec() {
                    Ok(BufList::new())
                } else {
                    Err(BlockError::Miscompare { lba: at.lba })
                }
            }
            Op::CompareAndWrite { at, expect, data, .. } => {
                if self.read(at) != expect.to_vec() {
                    return Err(BlockError::Miscompare { lba: at.lba });
                }
                self.write(at, &data.to_vec());
                Ok(BufList::new())
            }
            Op::WriteZeroes { at, .. } => {
                (at.lba..at.lba + at.blocks).for_each(|b| drop(self.blocks.remove(&b)));
                Ok(BufList::new())
            }
            Op::Deallocate { ranges } => {
                for at in ranges {
                    (at.lba..at.lba + at.blocks).for_each(|b| drop(self.blocks.remove(&b)));
                }
                Ok(BufList::new())
            }
            Op::Copy { to, from, .. } => {
                let data: Vec<u8> = from.iter().flat_map(|&at| self.read(at)).collect();
                let blocks = from.iter().map(|at| at.blocks).sum();
                self.write(Extent { lba: to, blocks }, &data);
                Ok(BufList::new())
            }
            Op::Flush | Op::Verify { .. } | Op::WriteUncorrectable { .. } => Ok(BufList::new()),
        }
    }
}

fn describe(op: &Op) -> String {
    match op {
        Op::Read { at } => format!("read {}+{}", at.lba, at.blocks),
        Op::Write { at, fua, .. } => {
            format!("write {}+{}{}", at.lba, at.blocks, if *fua { " fua" } else { "" })
        }
        Op::Flush => "flush".into(),
        Op::WriteZeroes { at, deallocate, fua } => format!(
            "zero {}+{}{}{}",
            at.lba,
            at.blocks,
            if *deallocate { " deac" } else { "" },
            if *fua { " fua" } else { "" }
        ),
        Op::Deallocate { ranges } => {
            let list: Vec<String> = ranges.iter().map(|r| format!("{}+{}", r.lba, r.blocks)).collect();
            format!("deallocate {}", list.join(","))
        }
        Op::Compare { at, .. } => format!("compare {}+{}", at.lba, at.blocks),
        Op::CompareAndWrite { at, fua, .. } => {
            format!("caw {}+{}{}", at.lba, at.blocks, if *fua { " fua" } else { "" })
        }
        Op::Verify { at } => format!("verify {}+{}", at.lba, at.blocks),
        Op::WriteUncorrectable { at } => format!("uncorrectable {}+{}", at.lba, at.blocks),
        Op::Copy { to, from, .. } => {
            let list: Vec<String> = from.iter().map(|r| format!("{}+{}", r.lba, r.blocks)).collect();
            format!("copy {} to {to}", list.join(","))
        }
    }
}

impl Volume for Disk {
    fn geometry(&self) -> Geometry {
        self.with(|d| d.geometry)
    }

    fn submit(&self, cx: &mut Cx<'_>, request: Request) {
        let hold = self.with(|d| {
            d.seen.push(describe(&request.op));
            d.hold
        });
        if hold {
            self.with(|d| d.held.push(request));
        } else {
            self.serve(cx, request);
        }
    }

    fn allocated_bytes(&self) -> Option<u64> {
        Some(self.with(|d| d.blocks.len() as u64 * u64::from(d.geometry.block_size)))
    }

    fn spare(&self) -> u8 {
        self.with(|d| d.spare)
    }

    fn fault(&self) -> Option<String> {
        self.with(|d| d.fault.clone())
    }

    fn erasable(&self) -> bool {
        self.with(|d| d.erasable)
    }

    fn erase(&self, by: EraseBy) -> Result<(), BlockError> {
        self.with(|d| {
            d.seen.push(format!("erase {by:?}"));
            if let Some(error) = d.fail.take() {
                return Err(error);
            }
            d.erasure = Erasure::Running { by, recorded: false, progress: 0, stalled: false };
            d.blocks.clear();
            Ok(())
        })
    }

    fn erasure(&self) -> Erasure {
        self.with(|d| d.erasure)
    }
}

#[derive(Default)]
pub struct Bell(pub AtomicBool);

impl Notify for Bell {
    fn notify(&self) {
        self.0.store(true, SeqCst);
    }
}

/// One connection.
pub struct Conn {
    pub queue: Queue,
    pub bell: Arc<Bell>,
    pub replies: Vec<Reply>,
    pub pulls: Vec<(u32, u32)>,
    pub closed: Option<CloseReason>,
    free: Vec<u32>,
    top: u32,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub slot: u32,
    pub cqe: Cqe,
    pub data: Vec<u8>,
}

impl Reply {
    pub fn status(&self) -> Status {
        self.cqe.status()
    }

    #[track_caller]
    pub fn is(&self, status: Status) -> &Reply {
        assert!(self.status().is(status), "{} is not {status}", self.status());
        self
    }

    #[track_caller]
    pub fn ok(self) -> Reply {
        self.is(Status::SUCCESS);
        self
    }

    pub fn dw0(&self) -> u32 {
        self.cqe.dw0.get()
    }
}

/// All of it.
pub struct World {
    pub target: Arc<Target>,
    pub now: Mono,
    pub conns: Vec<Conn>,
    pub disk: Arc<Disk>,
    done: Completions,
    ring: NoRing,
    remote: Arc<dyn Remote>,
    /// Addressed to connections that wait for host data.
    pub local: Option<std::net::IpAddr>,
}

impl World {
    /// A target with a port, a subsystem that anyone may use, and one namespace of 1,024 blocks of `block_size`.
    pub fn new(block_size: u32) -> World {
        let now = Mono(1_000_000_000);
        let target = Target::new(Settings::default(), now);
        target
            .add_port(PortSpec {
                id: PORT,
                transport: Transport::Tcp,
                address: "192.0.2.1".parse().unwrap(),
                service: 4420,
                exports: Exports::All,
                discovery: true,
            })
            .unwrap();
        let mut spec = SubsystemSpec::new(NQN, "CAISSON0001");
        spec.allow_any = true;
        target.add_subsystem(spec).unwrap();
        let disk = Disk::new(block_size, 1024);
        let mut w = World {
            target,
            now,
            conns: Vec::new(),
            disk: disk.clone(),
            done: Completions::default(),
            ring: NoRing,
            remote: Arc::new(NoRemote),
            local: None,
        };
        w.add_namespace(1, disk);
        w
    }

    pub fn add_namespace(&mut self, nsid: u32, disk: Arc<Disk>) {
        let uuid = uuid::Uuid::from_u128(0x1000 + u128::from(nsid));
        let spec = NamespaceSpec { nsid: Some(nsid), ..NamespaceSpec::new(disk, uuid) };
        self.target.add_namespace(NQN, spec).unwrap();
    }

    pub fn cx<R>(&mut self, f: impl FnOnce(&mut Cx<'_>, &mut Vec<Conn>) -> R) -> R {
        let World { now, done, ring, remote, conns, .. } = self;
        f(&mut Cx { now: *now, done, ring, remote }, conns)
    }

    /// A connection without a Connect yet.
    pub fn open(&mut self) -> usize {
        let key = self.conns.len() as u32;
        let at = Arrival {
            port: PORT,
            peer: format!("192.0.2.{}:5000", 10 + key),
            local: self.local,
            key,
            in_capsule: 16384,
        };
        let bell = Arc::new(Bell::default());
        let queue = Queue::new(self.target.clone(), at, bell.clone(), self.now);
        self.conns.push(Conn {
            queue,
            bell,
            replies: Vec::new(),
            pulls: Vec::new(),
            closed: None,
            free: Vec::new(),
            top: 0,
        });
        key as usize
    }

    pub fn carry_out(conn: &mut Conn, out: Vec<Action>) {
        for action in out {
            match action {
                Action::Pull { slot, len } => conn.pulls.push((slot, len)),
                Action::Reply { slot, cqe, data } => {
                    conn.pulls.retain(|p| p.0 != slot);
                    conn.free.push(slot);
                    conn.replies.push(Reply { slot, cqe, data: data.to_vec() });
                }
                Action::Close { reason } => {
                    assert!(conn.closed.is_none(), "closed twice");
                    conn.closed = Some(reason);
                }
            }
        }
    }

    /// Gives a capsule to a queue; its slot.
    pub fn send(&mut self, c: usize, mut sqe: Sqe, payload: Payload) -> u32 {
        let conn = &mut self.conns[c];
        let slot = conn.free.pop().unwrap_or_else(|| {
            conn.top += 1;
            conn.top - 1
        });
        if sqe.cid.get() == 0 {
            sqe.cid = U16::new(slot as u16 + 1);
        }
        if sqe.flags & 0xc0 == 0 {
            sqe.flags |= 0x40;
        }
        let mut out = Vec::new();
        self.cx(|cx, conns| conns[c].queue.command(cx, slot, &sqe, payload, &mut out));
        Self::carry_out(&mut self.conns[c], out);
        self.pump();
        slot
    }

    /// Gives a queue the data that it asked for.
    pub fn give(&mut self, c: usize, slot: u32, data: Vec<u8>) {
        let at = self.conns[c].pulls.iter().position(|p| p.0 == slot).expect("no data was asked for");
        let (_, len) = self.conns[c].pulls.remove(at);
        assert_eq!(len as usize, data.len());
        let mut out = Vec::new();
        self.cx(|cx, conns| conns[c].queue.data(cx, slot, data.into(), &mut out));
        Self::carry_out(&mut self.conns[c], out);
        self.pump();
    }

    /// The data that a queue asked for came damaged.
    pub fn damage(&mut self, c: usize, slot: u32, status: Status) {
        self.conns[c].pulls.retain(|p| p.0 != slot);
        let mut out = Vec::new();
        self.conns[c].queue.data_failed(slot, status, &mut out);
        Self::carry_out(&mut self.conns[c], out);
        self.pump();
    }

    /// Runs until nothing more happens at this time.
    pub fn pump(&mut self) {
        loop {
            let mut busy = false;
            let mut done = Vec::new();
            self.done.take(&mut done);
            for (tag, outcome) in done {
                busy = true;
                let c = tag.queue as usize;
                let mut out = Vec::new();
                self.cx(|cx, conns| conns[c].queue.completed(cx, tag.slot, outcome, &mut out));
                Self::carry_out(&mut self.conns[c], out);
            }
            for c in 0..self.conns.len() {
                let conn = &self.conns[c];
                let due = conn.queue.deadline().is_some_and(|d| d <= self.now);
                if !conn.bell.0.swap(false, SeqCst) && !due {
                    continue;
                }
                busy = true;
                let mut out = Vec::new();
                self.cx(|cx, conns| conns[c].queue.poll(cx, &mut out));
                Self::carry_out(&mut self.conns[c], out);
            }
            if !busy {
                return;
            }
        }
    }

    /// Time passes.
    pub fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.pump();
    }

    /// Lets the disk serve what it held.
    pub fn release(&mut self) {
        let disk = self.disk.clone();
        self.cx(|cx, _| disk.release(cx));
        self.pump();
    }

    /// The connection is lost.
    pub fn hang_up(&mut self, c: usize) {
        self.cx(|cx, conns| conns[c].queue.close(cx));
        self.pump();
    }

    /// The reply to the command in `slot`, if there is one.
    pub fn reply(&mut self, c: usize, slot: u32) -> Option<Reply> {
        let conn = &mut self.conns[c];
        let at = conn.replies.iter().position(|r| r.slot == slot)?;
        Some(conn.replies.remove(at))
    }

    /// A command that is to be answered at once.
    #[track_caller]
    pub fn run(&mut self, c: usize, sqe: Sqe, payload: Payload) -> Reply {
        let slot = self.send(c, sqe, payload);
        self.reply(c, slot).expect("no reply")
    }

    /// A command with data from the host that is pulled.
    #[track_caller]
    pub fn run_pull(&mut self, c: usize, sqe: Sqe, data: Vec<u8>) -> Reply {
        let slot = self.send(c, sqe, Payload::Transport { len: data.len() as u32 });
        if let Some(early) = self.reply(c, slot) {
            return early;
        }
        self.give(c, slot, data);
        self.reply(c, slot).expect("no reply")
    }

    /// Connect with these fields.
    pub fn connect_with(&mut self, c: usize, sqe: Sqe, data: &ConnectData) -> Reply {
        self.run(c, sqe, Payload::InCapsule(data.as_bytes().to_vec().into()))
    }

    /// An admin queue with a KATO in milliseconds, not enabled.
    pub fn admin_disabled(&mut self, subsystem: &str, host: &str, kato: u32) -> (usize, u16) {
        let c = self.open();
        let data = ConnectData::new(HOSTID, 0xffff, subsystem, host);
        let reply = self.connect_with(c, connect(0, 31, kato), &data).ok();
        (c, reply.dw0() as u16)
    }

    /// An admin queue of an enabled controller.
    pub fn admin(&mut self, subsystem: &str, host: &str, kato: u32) -> (usize, u16) {
        let (c, id) = self.admin_disabled(subsystem, host, kato);
        self.run(c, set_cc(CC_ENABLE), Payload::None).ok();
        assert_eq!(self.csts(c), 1);
        (c, id)
    }

    /// A discovery controller.
    pub fn discovery(&mut self, host: &str, kato: u32) -> usize {
        self.admin(DISCOVERY_NQN, host, kato).0
    }

    /// An I/O queue.
    pub fn io(&mut self, cntlid: u16, qid: u16) -> usize {
        let c = self.open();
        let data = ConnectData::new(HOSTID, cntlid, NQN, HOST);
        self.connect_with(c, connect(qid, 127, 0), &data).ok();
        c
    }

    /// A controller with one I/O queue: admin, I/O.
    pub fn pair(&mut self) -> (usize, usize) {
        let (a, id) = self.admin(NQN, HOST, 0);
        let io = self.io(id, 1);
        (a, io)
    }

    pub fn csts(&mut self, c: usize) -> u32 {
        self.run(c, get_property(0x1c, false), Payload::None).ok().dw0()
    }

    pub fn in_flight(&self, c: usize) -> u32 {
        self.conns[c].queue.in_flight()
    }
}

pub const CC_ENABLE: u32 = 1 | 6 << 16 | 4 << 20;

pub fn u32le(v: u32) -> U32 {
    U32::new(v)
}

pub fn fabrics(fctype: u8) -> Sqe {
    Sqe { opcode: FABRICS, nsid: u32le(u32::from(fctype)), ..Sqe::default() }
}

pub fn connect(qid: u16, sqsize: u16, kato: u32) -> Sqe {
    Sqe {
        cdw10: u32le(u32::from(qid) << 16),
        cdw11: u32le(u32::from(sqsize)),
        cdw12: u32le(kato),
        ..fabrics(fctype::CONNECT)
    }
}

pub fn get_property(offset: u32, wide: bool) -> Sqe {
    Sqe { cdw10: u32le(u32::from(wide)), cdw11: u32le(offset), ..fabrics(fctype::PROPERTY_GET) }
}

pub fn set_cc(cc: u32) -> Sqe {
    Sqe { cdw11: u32le(0x14), cdw12: u32le(cc), ..fabrics(fctype::PROPERTY_SET) }
}

pub fn identify(cns: u8, nsid: u32) -> Sqe {
    Sqe { opcode: admin::IDENTIFY, nsid: u32le(nsid), cdw10: u32le(u32::from(cns)), ..Sqe::default() }
}

pub fn features(set: bool, cdw10: u32, cdw11: u32, nsid: u32) -> Sqe {
    let opcode = if set { admin::SET_FEATURES } else { admin::GET_FEATURES };
    Sqe { opcode, nsid: u32le(nsid), cdw10: u32le(cdw10), cdw11: u32le(cdw11), ..Sqe::default() }
}

pub fn log(lid: u8, offset: u64, len: u64, rae: bool) -> Sqe {
    let mut sqe = Sqe { opcode: admin::GET_LOG_PAGE, ..Sqe::default() };
    caisson_wire::log::GetLogPage { lid, offset, len, rae, ..Default::default() }.put(&mut sqe);
    sqe
}

pub fn aer() -> Sqe {
    Sqe { opcode: admin::ASYNC_EVENT, ..Sqe::default() }
}

/// An I/O command on `blocks` blocks.
pub fn io(opcode: u8, nsid: u32, lba: u64, blocks: u32) -> Sqe {
    Sqe {
        opcode,
        nsid: u32le(nsid),
        cdw10: u32le(lba as u32),
        cdw11: u32le((lba >> 32) as u32),
        cdw12: u32le(blocks.wrapping_sub(1) & 0xffff),
        ..Sqe::default()
    }
}

pub fn room(len: u32) -> Payload {
    Payload::Transport { len }
}

pub fn capsule(data: Vec<u8>) -> Payload {
    Payload::InCapsule(data.into())
}
