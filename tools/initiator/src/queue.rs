//! One fabrics queue: a connection on which commands are submitted and completions awaited.
//!
//! Blocking, without threads: time passes only in calls. Any submission queue entry can be sent, also ones that no
//! sane host would send; data goes out as the controller asks for it and comes in wherever it says it belongs. Over RDMA each
//! command's data has registered memory of its own.

use crate::error::{Error, Result};
use crate::net::{Address, wait_one};
use crate::perf::{Link, Way};
use crate::transport::{Framing, Greeting, RawConn, Rx, Sink, Tx};
use blocks::Blocks;
use caisson_verbs::host::Memory;
use caisson_wire::fabrics::ConnectData;
use caisson_wire::opcode::{FABRICS, fctype};
use caisson_wire::pdu::{IcResp, R2t};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Cqe, Sgl, Sqe, Status};
use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod blocks;

/// Data of a command, and how its first SGL descriptor is made.
#[derive(Clone, Debug, Default)]
pub enum Data {
    /// None; the descriptor says so.
    #[default]
    None,
    /// To the controller, in the capsule where it fits, when asked for otherwise.
    Out(Vec<u8>),
    /// To the controller, only when asked for.
    OutAsked(Vec<u8>),
    /// To the host, this many bytes.
    In(u32),
    /// Everything as it stands: the descriptor of the entry is left as it is.
    Raw {
        /// Follows the header of the capsule.
        capsule: Vec<u8>,
        /// R2Ts are answered from this.
        asked: Vec<u8>,
        /// Bytes that data may bring.
        incoming: u32,
    },
}

/// A command and its data.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// The entry. CID and (unless the data is raw) SGL1 and the PSDT field are filled in.
    pub sqe: Sqe,
    /// Its data.
    pub data: Data,
}

impl Command {
    /// A command without data.
    pub fn new(opcode: u8, nsid: u32) -> Command {
        let sqe = Sqe { opcode, flags: 0x40, nsid: U32::new(nsid), ..Sqe::default() };
        Command { sqe, data: Data::None }
    }

    /// A fabrics command without data.
    pub fn fabrics(fctype: u8) -> Command {
        Command::new(FABRICS, u32::from(fctype))
    }

    /// The same with data.
    #[must_use]
    pub fn with(mut self, data: Data) -> Command {
        self.data = data;
        self
    }

    /// The same with command dword `n` (10..=15, or 2 and 3) set.
    ///
    /// # Panics
    /// For any other number, which is a mistake of the caller.
    #[must_use]
    pub fn dword(mut self, n: u8, value: u32) -> Command {
        let s = &mut self.sqe;
        let field = match n {
            2 => &mut s.cdw2,
            3 => &mut s.cdw3,
            10 => &mut s.cdw10,
            11 => &mut s.cdw11,
            12 => &mut s.cdw12,
            13 => &mut s.cdw13,
            14 => &mut s.cdw14,
            15 => &mut s.cdw15,
            _ => panic!("there is no command dword {n} to set"),
        };
        field.set(value);
        self
    }

    /// The same with the flags byte (FUSE, PSDT) set.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Command {
        self.sqe.flags = flags;
        self
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The entry; made up from the SUCCESS flag when `implied`.
    pub cqe: Cqe,
    /// Whether no response capsule came, but the SUCCESS flag.
    pub implied: bool,
    /// Data that came, from its start to the last byte that was sent.
    pub data: Vec<u8>,
    /// R2Ts that came.
    pub r2ts: u32,
}

impl Completion {
    /// Its status.
    pub fn status(&self) -> Status {
        self.cqe.status()
    }

    /// Itself when the status is success.
    ///
    /// # Errors
    /// [`Error::Status`] that says `what` failed.
    pub fn ok(self, what: &str) -> Result<Completion> {
        match self.status().is_success() {
            true => Ok(self),
            false => Err(Error::Status { what: what.into(), status: self.status() }),
        }
    }
}

/// An outstanding command.
#[derive(Default)]
struct Pending {
    /// What an R2T may ask for: where in the queue's memory, and how much.
    asked: (u64, u32),
    data: Vec<u8>,
    limit: u32,
    r2ts: u32,
    /// Where its data lies, over RDMA.
    block: Option<Arc<Memory>>,
}

/// One fabrics queue.
pub struct Queue {
    wire: Wire,
    in_capsule: u32,
    state: State,
    next_cid: u16,
    timeout: Duration,
    /// Entries of the submission queue, set by Connect.
    entries: u32,
}

/// The connection.
enum Wire {
    Tcp(Box<Socket>),
    Rdma(Box<Blocks>),
}

/// A socket and its framing.
struct Socket {
    stream: TcpStream,
    rx: Rx,
    tx: Tx,
    framing: Framing,
    icresp: IcResp,
}

/// What PDUs change.
#[derive(Default)]
struct State {
    pending: HashMap<u16, Pending>,
    done: HashMap<u16, Completion>,
    /// Data that is on its way out. Dropped when no command is outstanding.
    memory: Vec<u8>,
    /// R2Ts not yet answered.
    asked: Vec<R2t>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = match &self.wire {
            Wire::Tcp(s) => format!("{:?}", s.framing),
            Wire::Rdma(_) => "RDMA".into(),
        };
        write!(f, "Queue({way}, {} outstanding)", self.state.pending.len())
    }
}

/// In-capsule data that every controller takes before IOCCSZ is known: that of the Connect command.
const CONNECT_IN_CAPSULE: u32 = 8192;

impl Queue {
    /// Connects, and over TCP exchanges ICReq and ICResp. `timeout` bounds this and each later wait.
    ///
    /// # Errors
    /// When there is no target, or it does not answer as it must.
    pub fn open(address: &Address, greeting: Greeting, timeout: Duration) -> Result<Queue> {
        Queue::open_for(address, greeting, timeout, 0, 128)
    }

    /// The same for queue `qid` of `entries` entries, which over RDMA has to be said before Connect says it (RDMA, "Connection
    /// Management"); there, `entries` is brought to what that can say, 2 to 65,535.
    ///
    /// # Errors
    /// As [`Queue::open`]; digests asked of RDMA, which has none.
    pub fn open_for(
        address: &Address,
        greeting: Greeting,
        timeout: Duration,
        qid: u16,
        entries: u32,
    ) -> Result<Queue> {
        let (wire, in_capsule) = if address.is_rdma() {
            if greeting.header_digest || greeting.data_digest {
                return Err(Error::unsuitable("NVMe/RDMA has no digests", "leave the options for them out"));
            }
            // How much a controller takes in a capsule is not known yet, and there need be nothing.
            (Wire::Rdma(Box::new(Blocks::open(address, qid, entries, timeout)?)), 0)
        } else {
            let mut conn = RawConn::connect(address, timeout)?;
            let icresp = conn.greet(greeting)?;
            let framing = Framing::from(icresp);
            let socket = Socket {
                stream: conn.into_stream()?,
                rx: Rx::new(framing.header_digest, framing.data_digest),
                tx: Tx::new(framing, 64),
                framing,
                icresp,
            };
            (Wire::Tcp(Box::new(socket)), CONNECT_IN_CAPSULE)
        };
        Ok(Queue { wire, in_capsule, state: State::default(), next_cid: 0, timeout, entries: 0 })
    }

    /// The ICResp that opened it; none over RDMA.
    pub fn icresp(&self) -> Option<&IcResp> {
        match &self.wire {
            Wire::Tcp(s) => Some(&s.icresp),
            Wire::Rdma(_) => None,
        }
    }

    /// Sets how much data goes in a capsule, from IOCCSZ.
    pub fn set_in_capsule(&mut self, bytes: u32) {
        self.in_capsule = bytes;
    }

    /// Sets how long each wait may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Commands outstanding.
    pub fn outstanding(&self) -> usize {
        self.state.pending.len()
    }

    /// The Connect command for queue `qid` of `entries` entries (Base 2.1, 6.3).
    pub fn connect_command(qid: u16, entries: u32, kato_ms: u32, data: &ConnectData) -> Command {
        let sqsize = entries.saturating_sub(1).min(0xffff);
        Command::fabrics(fctype::CONNECT)
            .dword(10, u32::from(qid) << 16)
            .dword(11, sqsize)
            .dword(12, kato_ms)
            .with(Data::Out(data.as_bytes().to_vec()))
    }

    /// Sends Connect, and waits for its completion, whatever the status.
    ///
    /// # Errors
    /// When none comes.
    pub fn connect(
        &mut self,
        qid: u16,
        entries: u32,
        kato_ms: u32,
        data: &ConnectData,
    ) -> Result<Completion> {
        let done = self.run(Queue::connect_command(qid, entries, kato_ms, data))?;
        self.entries = entries;
        Ok(done)
    }

    /// Sends a command, with a CID of its own, and says which.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn submit(&mut self, command: Command) -> Result<u16> {
        let mut cid = self.next_cid;
        while self.state.pending.contains_key(&cid) || self.state.done.contains_key(&cid) {
            cid = cid.wrapping_add(1);
        }
        self.next_cid = cid.wrapping_add(1);
        self.submit_as(cid, command)?;
        Ok(cid)
    }

    /// Sends a command with the CID `cid`, be it in use or not.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn submit_as(&mut self, cid: u16, command: Command) -> Result<()> {
        self.enqueue(cid, command)?;
        self.flush()
    }

    /// Sends several commands at once, in one system call where they fit, and says their CIDs.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn submit_all(&mut self, commands: impl IntoIterator<Item = Command>) -> Result<Vec<u16>> {
        let mut cids = Vec::new();
        for command in commands {
            let mut cid = self.next_cid;
            while self.state.pending.contains_key(&cid) || self.state.done.contains_key(&cid) {
                cid = cid.wrapping_add(1);
            }
            self.next_cid = cid.wrapping_add(1);
            self.enqueue(cid, command)?;
            cids.push(cid);
        }
        self.flush()?;
        Ok(cids)
    }

    fn enqueue(&mut self, cid: u16, command: Command) -> Result<()> {
        let mut sqe = command.sqe;
        sqe.cid = U16::new(cid);
        let socket = match &mut self.wire {
            Wire::Tcp(socket) => socket,
            Wire::Rdma(blocks) => {
                let pending =
                    blocks.command(sqe, command.data, self.in_capsule, self.timeout, &mut self.state)?;
                self.state.pending.insert(cid, pending);
                return Ok(());
            }
        };
        if self.state.pending.is_empty() && socket.tx.is_empty() {
            self.state.memory.clear();
        }
        let at = self.state.memory.len() as u64;
        let mut pending = Pending { asked: (at, 0), ..Pending::default() };
        let mut capsule = None;
        match command.data {
            Data::None => sqe.sgl = Sgl::transport(0),
            Data::In(len) => {
                sqe.sgl = Sgl::transport(len);
                pending.limit = len;
            }
            Data::Out(data) if data.len() <= self.in_capsule as usize => {
                sqe.sgl = Sgl::in_capsule(0, data.len() as u32);
                capsule = Some((at, data.len() as u32));
                self.state.memory.extend_from_slice(&data);
            }
            Data::Out(data) | Data::OutAsked(data) => {
                sqe.sgl = Sgl::transport(data.len() as u32);
                pending.asked.1 = data.len() as u32;
                self.state.memory.extend_from_slice(&data);
            }
            Data::Raw { capsule: inside, asked, incoming } => {
                capsule = (!inside.is_empty()).then_some((at, inside.len() as u32));
                pending.asked = (at + inside.len() as u64, asked.len() as u32);
                pending.limit = incoming;
                self.state.memory.extend_from_slice(&inside);
                self.state.memory.extend_from_slice(&asked);
            }
        }
        self.state.pending.insert(cid, pending);
        socket.tx.command(&sqe, capsule, &self.state.memory);
        Ok(())
    }

    /// Sends what there is to send.
    fn flush(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let socket = match &mut self.wire {
                Wire::Tcp(socket) => socket,
                Wire::Rdma(blocks) => return blocks.flush(),
            };
            for r2t in std::mem::take(&mut self.state.asked) {
                // A command that has meanwhile completed needs no data any more.
                let Some(p) = self.state.pending.get(&r2t.cccid.get()) else { continue };
                socket.tx.data(&r2t, p.asked.0 + u64::from(r2t.r2to.get()), &self.state.memory);
            }
            socket.tx.flush(&socket.stream, &self.state.memory)?;
            if socket.tx.is_empty() && self.state.asked.is_empty() {
                return Ok(());
            }
            if !self.poll_until(deadline, true)? {
                return Err(Error::Timeout { what: "room to send".into(), after: self.timeout });
            }
        }
    }

    /// Waits until `deadline` for the connection, and takes what came; `false` when the time is over.
    fn poll_until(&mut self, deadline: Instant, write: bool) -> Result<bool> {
        let socket = match &mut self.wire {
            Wire::Tcp(socket) => socket,
            Wire::Rdma(blocks) => return blocks.poll_until(deadline, &mut self.state),
        };
        let ready = wait_one(&socket.stream, write, deadline).map_err(|e| Error::io("waiting", e))?;
        if ready && socket.rx.read(&socket.stream)? {
            socket.rx.parse(&mut self.state)?;
        }
        Ok(ready)
    }

    /// Takes what has come, waiting at most `longest` for something to come.
    ///
    /// # Errors
    /// When the connection is gone, or the target broke a rule.
    pub fn poll(&mut self, longest: Duration) -> Result<()> {
        self.poll_until(Instant::now() + longest, false)?;
        self.flush()
    }

    /// The completion of `cid`, when it has come.
    pub fn take(&mut self, cid: u16) -> Option<Completion> {
        self.state.done.remove(&cid)
    }

    /// Waits for the completion of `cid`, whatever its status.
    ///
    /// # Errors
    /// When none comes in time, or the connection ends.
    pub fn wait(&mut self, cid: u16) -> Result<Completion> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(done) = self.take(cid) {
                return Ok(done);
            }
            if !self.poll_until(deadline, false)? {
                return Err(Error::Timeout {
                    what: format!("the completion of command {cid}"),
                    after: self.timeout,
                });
            }
            self.flush()?;
        }
    }

    /// Sends a command, and waits for its completion, whatever its status.
    ///
    /// # Errors
    /// When none comes in time, or the connection ends.
    pub fn run(&mut self, command: Command) -> Result<Completion> {
        let cid = self.submit(command)?;
        self.wait(cid)
    }

    /// Hands the connection to the load generator.
    ///
    /// # Errors
    /// When commands are outstanding.
    pub fn into_link(self) -> Result<Link> {
        if self.outstanding() > 0 {
            return Err(Error::unsuitable("commands are outstanding", "wait for them first"));
        }
        let way = match self.wire {
            Wire::Tcp(s) => Way::Tcp { stream: s.stream, framing: s.framing },
            Wire::Rdma(blocks) => Way::Rdma(blocks.into_rdma()),
        };
        Ok(Link { way, in_capsule: self.in_capsule, depth: self.entries.saturating_sub(1) })
    }
}

impl State {
    fn pending(&mut self, cid: u16) -> Result<&mut Pending> {
        let unknown = || Error::protocol(format!("a PDU names command {cid}, which is not outstanding"));
        self.pending.get_mut(&cid).ok_or_else(unknown)
    }
}

impl Sink for State {
    fn data(&mut self, cid: u16, offset: u32, bytes: &[u8]) -> Result<()> {
        let p = self.pending(cid)?;
        let end = u64::from(offset) + bytes.len() as u64;
        if end > u64::from(p.limit) {
            return Err(Error::protocol(format!("data to {end} for command {cid}, which takes {}", p.limit)));
        }
        if p.data.len() < end as usize {
            p.data.resize(end as usize, 0);
        }
        p.data[offset as usize..end as usize].copy_from_slice(bytes);
        Ok(())
    }

    fn asked(&mut self, r2t: &R2t) -> Result<()> {
        let p = self.pending(r2t.cccid.get())?;
        let end = u64::from(r2t.r2to.get()) + u64::from(r2t.r2tl.get());
        if end > u64::from(p.asked.1) || r2t.r2tl.get() == 0 {
            return Err(Error::protocol(format!(
                "an R2T asks to {end} of a command with {} bytes",
                p.asked.1
            )));
        }
        p.r2ts += 1;
        self.asked.push(*r2t);
        Ok(())
    }

    fn done(&mut self, cqe: &Cqe, implied: bool) -> Result<()> {
        let cid = cqe.cid.get();
        self.pending(cid)?;
        if let Some(p) = self.pending.remove(&cid) {
            self.done.insert(cid, Completion { cqe: *cqe, implied, data: p.data, r2ts: p.r2ts });
        }
        Ok(())
    }
}
