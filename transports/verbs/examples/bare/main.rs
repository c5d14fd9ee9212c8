//! The least that a user-space NVMe/RDMA target can do: a yardstick for Caisson's (docs/performance.md, "RDMA beside the kernel's
//! target").
//!
//! Answers each capsule with a SEND, or with an RDMA WRITE and a SEND in one posting, and does nothing else: no reactor, no
//! queues, no volume, one thread that blocks in the completion channel. What it reads is whatever its one buffer holds, what is
//! written goes nowhere; an unmodified host can connect, partition nothing, and measure. It must never grow what a target needs.
//!
//!     cargo run --release -p caisson-verbs --example bare -- ADDRESS:PORT NQN [SPIN_US]
//!
//! With SPIN_US, it asks its completion queue for so long before it sleeps.

mod admin;

use admin::{Admin, Answer};
use caisson_block::Pool;
use caisson_rdma::cm::{self, Limits};
use caisson_rdma::{Batch, Op, Receives, Regions, Sge, WcStatus, Wr};
use caisson_verbs::{
    Channel, CmKind, Completion, CompletionQueue, Connection, Device, QueuePair, Reach, ReceiveQueue, Region,
    Scratch,
};
use caisson_wire::opcode::{FABRICS, io};
use caisson_wire::rdma::Keyed;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::{Cqe, SglKind, Sqe, Status};
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Receives of all connections, and bytes of data in a capsule.
const RECEIVES: u32 = 256;
const IN_CAPSULE: usize = 8192;
/// The buffer that all data comes from and goes to: the largest transfer of a Linux host behind what admin commands read.
const BUFFER: usize = 2 << 20;
/// Work requests of a send queue; one response in so many is signaled, so that it is known to have room.
const SENDS: u32 = 512;
const SIGNALED: u32 = 32;
/// In the id of an RDMA READ, beside the command's identifier and the host's key: it is one, and the key is to be invalidated.
const READ: u64 = 1 << 62;
const INVALIDATE: u64 = 1 << 61;

struct Conn {
    connection: Arc<Connection>,
    qid: u16,
    batch: Batch,
    unsignaled: u32,
}

/// What the answering thread has.
struct Bare {
    cq: Arc<CompletionQueue>,
    srq: Arc<ReceiveQueue>,
    receives: Receives,
    keys: Regions,
    /// The buffer's place.
    data: Sge,
    conns: HashMap<u32, Conn>,
    coming: Receiver<Conn>,
    admin: Admin,
    scratch: Scratch,
    spin: Duration,
    // Registered and kept for as long as the thread runs.
    _regions: Vec<Region>,
    pool: Pool,
}

/// One device's queues and buffers, and the thread that answers by them.
struct Side {
    device: Arc<Device>,
    cq: Arc<CompletionQueue>,
    srq: Arc<ReceiveQueue>,
    conns: Sender<Conn>,
}

fn side(device: Arc<Device>, nqn: &str, spin: Duration) -> Result<Side, Box<dyn Error>> {
    let cq = CompletionQueue::new(&device, 4096)?;
    let srq = ReceiveQueue::new(&device, RECEIVES)?;
    let receives = Receives::new(RECEIVES, IN_CAPSULE)?;
    let pool = Pool::huge(1, BUFFER)?;
    let mut regions = Vec::new();
    for p in receives.pools().into_iter().chain([&pool]) {
        let (at, len) = p.memory();
        // SAFETY: pools that live as long as the thread, which never ends before the process.
        regions.push(unsafe { device.register(at, len, Reach::Write) }?);
    }
    let keys = Regions::new(regions.iter().map(Region::place));
    let (at, _, key) = regions.last().map(Region::place).ok_or("no buffer")?;
    let data = Sge { at: at as u64, len: BUFFER as u32, key };
    let (conns, coming) = channel();
    let bare = Bare {
        cq: Arc::clone(&cq),
        srq: Arc::clone(&srq),
        receives,
        keys,
        data,
        conns: HashMap::new(),
        coming,
        admin: Admin::new(nqn, IN_CAPSULE),
        scratch: Scratch::default(),
        spin,
        _regions: regions,
        pool,
    };
    std::thread::Builder::new().name("bare-io".into()).spawn(move || bare.run())?;
    Ok(Side { device, cq, srq, conns })
}

impl Bare {
    fn run(mut self) {
        // The pages that admin commands read lie at the buffer's start.
        let mut buffer = self.pool.alloc().expect("the one buffer there is");
        buffer[..admin::BYTES].copy_from_slice(&self.admin.pages());
        let mut taken = vec![Completion::default(); 64];
        let mut dirty = Vec::new();
        self.refill();
        loop {
            let n = self.wait(&mut taken);
            for c in &taken[..n] {
                self.completion(c, &mut dirty);
            }
            for number in dirty.drain(..) {
                let Some(conn) = self.conns.get_mut(&number) else { continue };
                // SAFETY: all lists name the one buffer, which stays; nobody minds what is in it.
                if let Err(refused) = unsafe { conn.connection.post(&conn.batch, &mut self.scratch) } {
                    eprintln!("refused: {refused:?}");
                }
                conn.batch.clear();
            }
            self.refill();
        }
    }

    /// Takes what has completed; blocks in the channel where nothing has.
    fn wait(&mut self, taken: &mut [Completion]) -> usize {
        let begun = Instant::now();
        loop {
            let n = self.cq.poll(taken).expect("the completion queue");
            if n > 0 {
                return n;
            }
            if self.spin.is_zero() || begun.elapsed() >= self.spin {
                break;
            }
            std::hint::spin_loop();
        }
        self.cq.arm().expect("the completion queue");
        match self.cq.poll(taken).expect("the completion queue") {
            0 => {
                self.cq.silence();
                self.cq.poll(taken).expect("the completion queue")
            }
            n => {
                // Armed, and it will tell of the next, or has told of these: taken with the sleep after.
                n
            }
        }
    }

    fn refill(&mut self) {
        let mut wrs = Vec::new();
        self.receives.fill(&self.keys, RECEIVES as usize, &mut wrs);
        // SAFETY: buffers that `receives` keeps to itself, in pools that stay registered.
        if let Err(refused) = unsafe { self.srq.post(&wrs, &mut self.scratch) } {
            eprintln!("refused: {refused:?}");
        }
    }

    fn completion(&mut self, c: &Completion, dirty: &mut Vec<u32>) {
        let number = c.queue_pair();
        self.conns.extend(self.coming.try_iter().map(|conn| (conn.connection.number(), conn)));
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let success = c.status() == WcStatus::Success;
        let Some(id) = c.receive() else {
            let id = c.send();
            if success && id & READ != 0 {
                let key = (id & INVALIDATE != 0).then_some((id >> 16) as u32);
                conn.respond(Cqe::new(id as u16, Status::SUCCESS), key);
                dirty.push(number);
            }
            return;
        };
        if !success {
            self.receives.give_back(id);
            return;
        }
        let Some(capsule) = self.receives.take(id, c.len()) else { return };
        if conn.batch.is_empty() {
            dirty.push(number);
        }
        conn.answer(&capsule.sqe, &mut self.admin, self.data);
    }
}

impl Conn {
    fn answer(&mut self, sqe: &Sqe, admin: &mut Admin, data: Sge) {
        let cid = sqe.cid.get();
        let keyed = matches!(sqe.sgl.kind(), SglKind::KeyedAddress | SglKind::KeyedInvalidate);
        let Keyed { address, length, key } = sqe.sgl.as_keyed();
        let invalidate = (sqe.sgl.kind() == SglKind::KeyedInvalidate && key != 0).then_some(key);
        let has = keyed && length > 0;
        let sge = |from: usize| Sge { at: data.at + from as u64, len: length.min(data.len), key: data.key };
        match sqe.opcode {
            io::READ if self.qid > 0 && has => {
                self.push(0, Op::Write { address, key }, Some(sge(admin::BYTES)), false);
                self.respond(Cqe::new(cid, Status::SUCCESS), invalidate);
            }
            io::WRITE if self.qid > 0 && has => {
                let again = invalidate.map_or(0, |_| INVALIDATE);
                let id = READ | again | u64::from(key) << 16 | u64::from(cid);
                self.push(id, Op::Read { address, key }, Some(sge(admin::BYTES)), true);
            }
            opcode if self.qid > 0 && opcode != FABRICS => {
                self.respond(Cqe::new(cid, Status::SUCCESS), invalidate);
            }
            _ => match admin.answer(sqe) {
                Answer::Later => {}
                Answer::Now { cqe, page } => {
                    if let Some(page) = page.filter(|_| has) {
                        self.push(0, Op::Write { address, key }, Some(sge(page)), false);
                    }
                    self.respond(cqe, invalidate);
                }
            },
        }
    }

    fn respond(&mut self, cqe: Cqe, invalidate: Option<u32>) {
        let mut inline = [0; 16];
        inline.copy_from_slice(cqe.as_bytes());
        self.unsignaled = (self.unsignaled + 1) % SIGNALED;
        self.push(0, Op::Send { inline, invalidate }, None, self.unsignaled == 0);
    }

    fn push(&mut self, id: u64, op: Op, sge: Option<Sge>, signaled: bool) {
        let first = self.batch.sges.len() as u32;
        self.batch.sges.extend(sge);
        self.batch.wrs.push(Wr { id, op, first, sges: u32::from(sge.is_some()), signaled });
    }
}

/// Has a descriptor's reads wait again.
fn make_blocking(fd: std::os::fd::RawFd) {
    // SAFETY: fcntl on a descriptor that stays open touches no memory.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) & !libc::O_NONBLOCK) };
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "bare ADDRESS:PORT NQN [SPIN_US]";
    let address = args.next().ok_or(usage)?.parse()?;
    let nqn = args.next().ok_or(usage)?;
    let spin = Duration::from_micros(args.next().map_or(Ok(0), |us| us.parse())?);
    let events = Channel::new()?;
    make_blocking(events.fd());
    let _listener = caisson_verbs::Listener::new(&events, address, 16)?;
    println!("  listening on {address}");
    let limits = Limits { depth: 1024, queues: 128, reads: 16 };
    let mut side: Option<Side> = None;
    let mut open: Vec<Arc<Connection>> = Vec::new();
    loop {
        let Some(event) = events.event() else { continue };
        let incoming = match event.kind {
            CmKind::Request(incoming) => incoming,
            CmKind::Disconnected => {
                // Its queue pair goes with the process.
                open.iter().filter(|c| c.key() == event.id).for_each(|c| c.disconnect());
                continue;
            }
            _ => continue,
        };
        let known = side.as_ref().map(|s: &Side| Arc::clone(&s.device));
        let device = incoming.device(|key| known.clone().filter(|d| d.key() == key))?;
        if side.is_none() {
            side = Some(self::side(device, &nqn, spin)?);
            if let Some(side) = &side {
                make_blocking(side.cq.fd());
            }
        }
        let Some(side) = &side else { continue };
        let Ok(accepted) = cm::judge(&incoming.private, incoming.reads, &limits) else { continue };
        let mut want = QueuePair { send_wrs: SENDS, send_sges: 1, inline: 16 };
        let made = incoming.prepare(&side.cq, &side.cq, &side.srq, &mut want).map_err(|(_, error)| error)?;
        let connection = Arc::new(made);
        open.push(Arc::clone(&connection));
        let conn = Conn {
            connection: Arc::clone(&connection),
            qid: accepted.qid,
            batch: Batch::default(),
            unsignaled: 0,
        };
        side.conns.send(conn)?;
        connection.accept(&cm::accept(&accepted), accepted.reads)?;
    }
}
