//! One driven connection: its commands, their data, and what became of them.

use super::content::{Content, Maker};
use super::placed::Placed;
use super::verify::{self, Ledger};
use super::workload::{Generator, Random};
use crate::error::{Error, Result};
use crate::stats::{Latency, Row};
use crate::transport::{Framing, Rdma, Rx, Sink, Tx, io_command};
use caisson_wire::opcode::io;
use caisson_wire::pdu::R2t;
use caisson_wire::{Cqe, Sgl};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

/// An established I/O queue, ready to be driven.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub way: Way,
    /// The most data in a command capsule.
    pub in_capsule: u32,
    /// Commands that the queue takes at once.
    pub depth: u32,
}

/// The connection of a queue.
#[derive(Debug)]
pub enum Way {
    /// TCP.
    Tcp {
        /// The socket, nonblocking, with nothing received that was not consumed.
        stream: TcpStream,
        /// What was agreed on framing.
        framing: Framing,
    },
    /// RDMA.
    Rdma(Box<Rdma>),
}

/// What of a namespace a lane works on.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// The namespace.
    pub nsid: u32,
    /// Its block size in bytes.
    pub lba_bytes: u32,
    /// The first LBA.
    pub first: u64,
    /// Bytes of a command.
    pub block: u32,
}

impl Region {
    fn lba(&self, block: u64) -> u64 {
        self.first + block * u64::from(self.block / self.lba_bytes)
    }
}

/// What a thread counts, over all its lanes.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of reads.
    pub read: Latency,
    /// Of writes.
    pub write: Latency,
    /// The current interval.
    pub row: Row,
}

impl Tally {
    /// Forgets everything, at the end of the ramp.
    pub fn clear(&mut self) {
        self.read.clear();
        self.write.clear();
        self.row = Row::default();
    }
}

/// A command's place. Its number is the command's CID.
#[derive(Clone, Copy, Default)]
struct Slot {
    busy: bool,
    write: bool,
    started: u64,
    block: u64,
    /// Bytes of its data that have come, or were asked for.
    got: u32,
    /// Number of the write in the ledger.
    sequence: u32,
    /// Where its data is in the payload memory.
    at: u64,
}

/// Where the data of commands comes from and what becomes of it.
pub enum Data {
    /// Noise that all writes share; what is read is not looked at.
    Noise,
    /// Blocks that say what they are, so that what is read is checked.
    Checked(Ledger),
    /// Blocks with stated duplicates and compressibility.
    Made(Content),
}

/// The payload that writes of [`Data::Noise`] share: this many bytes beyond one block, so that not all are alike.
const SHARED_SPARE: usize = 64 << 10;

/// Where commands go.
enum Out {
    Tcp(Tx),
    Rdma(Box<Placed>),
}

/// Everything of a lane but its socket and receive buffer, which calls back into it.
struct Work {
    out: Out,
    region: Region,
    in_capsule: u32,
    slots: Vec<Slot>,
    free: Vec<u16>,
    memory: Vec<u8>,
    ledger: Option<Ledger>,
    maker: Option<Maker>,
    rotate: u64,
    /// Reading back what was written: the next block to look at.
    replay: Option<u64>,
}

/// One driven connection.
pub struct Lane {
    /// None over RDMA.
    socket: Option<(TcpStream, Rx)>,
    work: Work,
    generator: Generator,
}

impl Lane {
    /// Drives `link` with what `generator` deals.
    ///
    /// # Errors
    /// Its memory cannot be registered.
    pub fn new(
        link: Link,
        region: Region,
        depth: u32,
        generator: Generator,
        data: Data,
        seed: u64,
    ) -> Result<Lane> {
        let block = region.block as usize;
        let shared = matches!(data, Data::Noise);
        let mut memory = vec![0; if shared { block + SHARED_SPARE } else { depth as usize * block }];
        let mut rng = Random::new(seed);
        let (mut ledger, mut maker) = (None, None);
        match data {
            Data::Made(content) => maker = Some(Maker::new(content, &mut memory, seed)),
            Data::Checked(own) => ledger = Some(own),
            Data::Noise => {
                memory.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&rng.draw().to_le_bytes()));
            }
        }
        let (socket, out) = match link.way {
            Way::Tcp { stream, framing } => {
                let rx = Rx::new(framing.header_digest, framing.data_digest);
                (Some((stream, rx)), Out::Tcp(Tx::new(framing, depth as usize)))
            }
            Way::Rdma(rdma) => {
                (None, Out::Rdma(Box::new(Placed::new(*rdma, &memory, shared, depth, region.block)?)))
            }
        };
        Ok(Lane {
            socket,
            work: Work {
                out,
                region,
                in_capsule: link.in_capsule,
                slots: vec![Slot::default(); depth as usize],
                free: (0..depth as u16).rev().collect(),
                memory,
                ledger,
                maker,
                rotate: 0,
                replay: None,
            },
            generator,
        })
    }

    /// Has its descriptors tell what comes; `false` when something has come already.
    pub fn arm(&mut self) -> Result<bool> {
        match &mut self.work.out {
            Out::Tcp(_) => Ok(true),
            Out::Rdma(placed) => placed.rdma.arm(),
        }
    }

    /// What tells that something comes, and whether it waits to send.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let mut all = [None, None];
        match (&self.socket, &self.work.out) {
            (Some((stream, _)), Out::Tcp(tx)) => all[0] = Some((stream.as_fd(), !tx.is_empty())),
            (_, Out::Rdma(placed)) => all = placed.rdma.fds().map(|fd| Some((fd, false))),
            (None, Out::Tcp(_)) => {}
        }
        all.into_iter().flatten()
    }

    /// Commands outstanding.
    pub fn outstanding(&self) -> usize {
        self.work.slots.len() - self.work.free.len()
    }

    /// Whether the generator has nothing more.
    pub fn is_exhausted(&self) -> bool {
        match self.work.replay {
            Some(at) => self.work.ledger.as_ref().is_none_or(|l| l.next_written(at).is_none()),
            None => self.generator.is_done(),
        }
    }

    /// System calls so far: reads, reads that found something, writes.
    pub fn calls(&self) -> (u64, u64, u64) {
        match (&self.socket, &self.work.out) {
            (Some((_, rx)), Out::Tcp(tx)) => (rx.reads, rx.full_reads, tx.writes),
            // Looks at the completion queue and posts, which are none to speak of: they do not enter the kernel, or need not.
            (_, Out::Rdma(placed)) => placed.rdma.calls,
            (None, Out::Tcp(_)) => (0, 0, 0),
        }
    }

    /// From now on reads back every block that the ledger knows as written, in order.
    pub fn read_back(&mut self) {
        self.work.replay = Some(0);
    }

    /// What verification found.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.work.ledger.as_ref()
    }

    /// Looks once at the connection; says whether anything came, which [`Lane::take`] then has to look at.
    #[inline]
    pub fn read(&mut self) -> Result<bool> {
        match (&mut self.socket, &mut self.work.out) {
            (Some((stream, rx)), _) => rx.read(stream),
            (None, Out::Rdma(placed)) => placed.rdma.receive(),
            (None, Out::Tcp(_)) => Ok(false),
        }
    }

    /// Looks at what was read, at time `now`.
    #[inline]
    pub fn take(&mut self, now: u64, tally: &mut Tally) -> Result<()> {
        let mut view = View { work: &mut self.work, tally, now };
        if let Some((_, rx)) = &mut self.socket {
            return rx.parse(&mut view);
        }
        let Out::Rdma(placed) = &mut view.work.out else { return Ok(()) };
        let mut came = std::mem::take(&mut placed.rdma.came);
        came.iter().try_for_each(|message| view.done(&Rdma::response(message)?, false))?;
        came.clear();
        if let Out::Rdma(placed) = &mut view.work.out {
            placed.rdma.came = came;
        }
        Ok(())
    }

    /// Starts commands, at most `budget`; says how many.
    #[inline]
    pub fn start(&mut self, now: u64, budget: u64) -> u64 {
        let mut started = 0;
        // With a ledger no two commands share a block, so that a small region holds fewer of them.
        let most = self.work.ledger.as_ref().map_or(usize::MAX, Ledger::blocks);
        while started < budget && !self.work.free.is_empty() && self.outstanding() < most && self.work.room()
        {
            let dealt = match self.work.replay {
                None => self.generator.deal(),
                Some(at) => self.work.next_replay(at).map(|block| (false, block)),
            };
            let Some((write, block)) = dealt else { break };
            if !self.work.start(now, write, block) {
                break;
            }
            started += 1;
        }
        started
    }

    /// Over TCP, hands at most so many bytes to the kernel in one call; 0: as many as it takes.
    pub fn send_at_most(&mut self, bytes: usize) {
        if let Out::Tcp(tx) = &mut self.work.out {
            tx.most = if bytes == 0 { usize::MAX } else { bytes };
        }
    }

    /// Sends what there is; says whether anything went.
    #[inline]
    pub fn flush(&mut self) -> Result<bool> {
        match (&self.socket, &mut self.work.out) {
            (Some((stream, _)), Out::Tcp(tx)) if !tx.is_empty() => tx.flush(stream, &self.work.memory),
            (_, Out::Rdma(placed)) => placed.rdma.flush(),
            _ => Ok(false),
        }
    }

    /// An error when a command was started before `before` and is still not done.
    pub fn check_overdue(&self, before: u64, limit: std::time::Duration) -> Result<()> {
        let late = self.work.slots.iter().enumerate().find(|(_, s)| s.busy && s.started < before);
        match late {
            None => Ok(()),
            Some((cid, s)) => Err(Error::Timeout {
                what: format!(
                    "the completion of {} {cid} at LBA {}",
                    if s.write { "write" } else { "read" },
                    self.work.region.lba(s.block)
                ),
                after: limit,
            }),
        }
    }
}

impl Work {
    fn next_replay(&mut self, at: u64) -> Option<u64> {
        let block = self.ledger.as_ref()?.next_written(at)?;
        self.replay = Some(block + 1);
        Some(block)
    }

    /// Whether the connection takes another command.
    #[inline]
    fn room(&self) -> bool {
        match &self.out {
            Out::Tcp(_) => true,
            Out::Rdma(placed) => placed.rdma.room(),
        }
    }

    /// Starts one command; `false` when every block is in use.
    #[inline]
    fn start(&mut self, now: u64, write: bool, wanted: u64) -> bool {
        let Some(cid) = self.free.pop() else { return false };
        let (block_len, lba_len) = (self.region.block, self.region.lba_bytes);
        let mut slot = Slot { busy: true, write, started: now, block: wanted, ..Slot::default() };
        match &mut self.ledger {
            None if write => match &mut self.maker {
                Some(maker) => {
                    // What was sent from here is sent: the command before it in this slot is done.
                    slot.at = u64::from(cid) * u64::from(block_len);
                    maker.stamp(&mut self.memory[slot.at as usize..][..block_len as usize], slot.at);
                }
                None => {
                    slot.at = self.rotate;
                    self.rotate = (self.rotate + 64) % SHARED_SPARE as u64;
                }
            },
            None => {}
            Some(ledger) => {
                let Some(block) = ledger.reserve(wanted) else {
                    self.free.push(cid);
                    return false;
                };
                slot.block = block;
                slot.at = u64::from(cid) * u64::from(block_len);
                if write {
                    slot.sequence = ledger.number();
                    let (seed, lba) = (ledger.seed, self.region.lba(block));
                    let data = &mut self.memory[slot.at as usize..slot.at as usize + block_len as usize];
                    for (i, one) in data.chunks_mut(lba_len as usize).enumerate() {
                        verify::fill(one, lba + i as u64, seed, slot.sequence);
                    }
                }
            }
        }
        let in_capsule = write && block_len <= self.in_capsule;
        let sgl = if in_capsule { Sgl::in_capsule(0, block_len) } else { Sgl::transport(block_len) };
        let opcode = if write { io::WRITE } else { io::READ };
        let lba = self.region.lba(slot.block);
        let sqe = io_command(opcode, cid, self.region.nsid, lba, block_len / lba_len, sgl);
        match &mut self.out {
            Out::Tcp(tx) => {
                tx.command(&sqe, in_capsule.then_some((slot.at, block_len)), &self.memory);
                slot.got = if in_capsule { block_len } else { 0 };
            }
            Out::Rdma(placed) => {
                if write && (self.ledger.is_some() || self.maker.is_some()) {
                    placed.put(slot.at, &self.memory[slot.at as usize..][..block_len as usize]);
                }
                placed.command(sqe, write, slot.at, block_len, in_capsule);
                // The device moves it, and nobody says how much it was.
                slot.got = block_len;
            }
        }
        self.slots[usize::from(cid)] = slot;
        true
    }
}

/// A lane while its received bytes are looked at.
struct View<'a> {
    work: &'a mut Work,
    tally: &'a mut Tally,
    now: u64,
}

impl View<'_> {
    #[inline]
    fn slot(&mut self, cid: u16) -> Result<&mut Slot> {
        match self.work.slots.get_mut(usize::from(cid)) {
            Some(s) if s.busy => Ok(s),
            _ => Err(Error::protocol(format!("a PDU names command {cid}, which is not outstanding"))),
        }
    }
}

impl Sink for View<'_> {
    #[inline]
    fn data(&mut self, cid: u16, offset: u32, bytes: &[u8]) -> Result<()> {
        let block = self.work.region.block;
        let s = self.slot(cid)?;
        let end = u64::from(offset) + bytes.len() as u64;
        // Data comes in order (TCP 1.1, 3.3.2.2), so that bytes received are also the next offset.
        if s.write || offset != s.got || end > u64::from(block) {
            return Err(Error::protocol(format!(
                "data at {offset} of {} bytes for command {cid}, which has {} of {block}",
                bytes.len(),
                s.got
            )));
        }
        s.got += bytes.len() as u32;
        if self.work.ledger.is_some() {
            let at = (self.work.slots[usize::from(cid)].at + u64::from(offset)) as usize;
            self.work.memory[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn asked(&mut self, r2t: &R2t) -> Result<()> {
        let block = self.work.region.block;
        let (offset, len) = (r2t.r2to.get(), r2t.r2tl.get());
        let s = self.slot(r2t.cccid.get())?;
        if !s.write || offset != s.got || len == 0 || u64::from(offset) + u64::from(len) > u64::from(block) {
            return Err(Error::protocol(format!(
                "an R2T asks for {len} bytes at {offset} of a command of {block}"
            )));
        }
        s.got += len;
        let at = s.at + u64::from(offset);
        if let Out::Tcp(tx) = &mut self.work.out {
            tx.data(r2t, at, &self.work.memory);
        }
        Ok(())
    }

    #[inline]
    fn done(&mut self, cqe: &Cqe, _implied: bool) -> Result<()> {
        let (cid, status) = (cqe.cid.get(), cqe.status());
        let region = self.work.region;
        let s = self.slot(cid)?;
        s.busy = false;
        let s = *s;
        let lba = region.lba(s.block);
        let verb = if s.write { "write" } else { "read" };
        if !status.is_success() {
            return Err(Error::Status {
                what: format!("{verb} of {} bytes at LBA {lba}", region.block),
                status,
            });
        }
        if s.got != region.block {
            return Err(Error::protocol(format!(
                "a {verb} at LBA {lba} succeeded after {} of {} bytes",
                s.got, region.block
            )));
        }
        self.work.free.push(cid);
        let took = self.now.saturating_sub(s.started);
        if s.write {
            self.tally.write.record(took)
        } else {
            self.tally.read.record(took)
        }
        self.tally.row.record(took);
        if let Some(ledger) = &mut self.work.ledger {
            if !s.write {
                let data = &mut self.work.memory[s.at as usize..][..region.block as usize];
                if let Out::Rdma(placed) = &self.work.out {
                    placed.get(s.at, data);
                }
                ledger.judge(data, region.lba_bytes as usize, lba, s.block);
            }
            ledger.release(s.block, s.write.then_some(s.sequence));
        }
        Ok(())
    }
}
