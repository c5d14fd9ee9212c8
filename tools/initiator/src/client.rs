//! A host of one controller, over TCP or RDMA: connect, enable, ask, make I/O queues.
//!
//! Blocking, without threads of its own. Whoever holds a client for longer than its keep-alive time-out calls
//! [`Client::tick`] now and then.

use crate::error::{Error, Result};
use crate::net::Address;
use crate::perf::Namespace;
use crate::queue::{Command, Completion, Data, Queue};
use crate::transport::Greeting;
use caisson_wire::fabrics::{CNTLID_DYNAMIC, ConnectData, DISCOVERY_NQN, property};
use caisson_wire::feature::fid;
use caisson_wire::identify::{IdentifyController, IdentifyNamespace, NamespaceList, cns};
use caisson_wire::log::GetLogPage;
use caisson_wire::opcode::{admin, fctype};
use caisson_wire::property::{Cap, Cc, Csts, shn, shst};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The largest queue id that is said to the connection manager; a larger one is left to Connect to refuse.
const MAX_QID: u16 = 128;

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the target listens.
    pub address: Address,
    /// The subsystem.
    pub subnqn: String,
    /// This host's NQN.
    pub hostnqn: String,
    /// This host's identifier.
    pub hostid: [u8; 16],
    /// The controller asked for; FFFFh for any.
    pub cntlid: u16,
    /// Digests, MAXR2T, alignment.
    pub greeting: Greeting,
    /// Entries of the admin queue.
    pub admin_entries: u32,
    /// Keep-alive time-out in milliseconds; 0 turns it off.
    pub kato_ms: u32,
    /// How long each wait may take.
    pub timeout: Duration,
}

impl Options {
    /// To `subnqn` at `address` as this machine's own host, see [`host_identity`].
    pub fn new(address: Address, subnqn: &str) -> Options {
        let (hostnqn, hostid) = host_identity();
        Options {
            address,
            subnqn: subnqn.into(),
            hostnqn,
            hostid,
            cntlid: CNTLID_DYNAMIC,
            greeting: Greeting::default(),
            admin_entries: 32,
            kato_ms: 15_000,
            timeout: Duration::from_secs(10),
        }
    }

    /// The same as another host.
    #[must_use]
    pub fn host(mut self, hostnqn: &str) -> Options {
        self.hostnqn = hostnqn.into();
        self.hostid = *Uuid::new_v5(&Uuid::NAMESPACE_OID, hostnqn.as_bytes()).as_bytes();
        self
    }

    /// The data of a Connect command that asks for `cntlid`.
    pub fn connect_data(&self, cntlid: u16) -> ConnectData {
        ConnectData::new(self.hostid, cntlid, &self.subnqn, &self.hostnqn)
    }
}

/// The NQN and the identifier of this host: those of /etc/nvme, where nvme-cli puts them, or else made from the
/// machine's id, so that they stay the same.
pub fn host_identity() -> (String, [u8; 16]) {
    let line =
        |path| std::fs::read_to_string(path).ok().map(|s| s.trim().to_string()).filter(|s| !s.is_empty());
    let machine = line("/etc/machine-id").unwrap_or_default();
    let made = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("caisson {machine}").as_bytes());
    let nqn = line("/etc/nvme/hostnqn").unwrap_or_else(|| format!("nqn.2014-08.org.nvmexpress:uuid:{made}"));
    let id = line("/etc/nvme/hostid").and_then(|s| Uuid::parse_str(&s).ok()).unwrap_or(made);
    (nqn, *id.as_bytes())
}

/// A connected controller.
#[derive(Debug)]
pub struct Client {
    /// What it was connected with.
    pub options: Options,
    /// The admin queue.
    pub admin: Queue,
    /// The controller's id.
    pub cntlid: u16,
    /// Controller capabilities.
    pub cap: Cap,
    /// What Identify says of the controller; known once it is enabled.
    pub identity: Option<Box<IdentifyController>>,
    next_alive: Instant,
}

/// What was asked of a Get Features.
#[derive(Clone, Debug)]
pub struct Feature {
    /// DW0 of the completion.
    pub value: u32,
    /// The data structure, for the features that have one.
    pub data: Vec<u8>,
}

impl Client {
    /// Connects to a controller, enables it, and identifies it.
    ///
    /// # Errors
    /// When any step fails; the error says which.
    pub fn connect(options: Options) -> Result<Client> {
        let mut client = Client::attach(options)?;
        client.enable()?;
        client.identity = Some(Box::new(client.identify_controller()?));
        Ok(client)
    }

    /// Connects the admin queue and nothing more.
    ///
    /// # Errors
    /// When the target is not there or refuses; a refused Connect says why in words.
    pub fn attach(options: Options) -> Result<Client> {
        let (o, entries) = (&options, options.admin_entries);
        let mut admin = Queue::open_for(&o.address, o.greeting, o.timeout, 0, entries)?;
        let data = options.connect_data(options.cntlid);
        let done = admin.connect(0, options.admin_entries, options.kato_ms, &data)?;
        if !done.status().is_success() {
            let what = format!("Connect to {} as {}", options.subnqn, options.hostnqn);
            return Err(Error::NotAdmitted { what, status: done.status() });
        }
        let cntlid = done.cqe.dw0.get() as u16;
        let next_alive = Instant::now() + alive_every(options.kato_ms);
        let mut client = Client { options, admin, cntlid, cap: Cap(0), identity: None, next_alive };
        client.cap = Cap(client.property(property::CAP, 8)?);
        Ok(client)
    }

    /// Reads the property at `offset`, of 4 or 8 bytes.
    ///
    /// # Errors
    /// The status, or the connection's end.
    pub fn property(&mut self, offset: u32, bytes: u8) -> Result<u64> {
        let command = property_get(offset, bytes);
        Ok(self.admin.run(command)?.ok(&format!("Property Get {offset:#x}"))?.cqe.result())
    }

    /// Writes the 4-byte property at `offset`.
    ///
    /// # Errors
    /// The status, or the connection's end.
    pub fn set_property(&mut self, offset: u32, value: u32) -> Result<()> {
        let command = property_set(offset, value);
        self.admin.run(command)?.ok(&format!("Property Set {offset:#x} to {value:#x}")).map(drop)
    }

    /// Sets CC.EN and waits for CSTS.RDY (Base 2.1, 3.5.1).
    ///
    /// # Errors
    /// When the controller does not become ready within CAP.TO.
    pub fn enable(&mut self) -> Result<()> {
        let cc = Cc(0).with_en(1).with_iosqes(6).with_iocqes(4);
        self.set_property(property::CC, cc.0)?;
        self.await_csts("CSTS.RDY", |csts| csts.rdy() == 1)
    }

    /// Clears CC.EN, a controller reset, and waits until CSTS.RDY is clear.
    ///
    /// # Errors
    /// When that does not happen within CAP.TO.
    pub fn disable(&mut self) -> Result<()> {
        self.set_property(property::CC, 0)?;
        self.await_csts("the end of CSTS.RDY", |csts| csts.rdy() == 0)
    }

    /// Shuts the controller down in the orderly way, and waits for the end of it.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn shutdown(&mut self) -> Result<()> {
        let cc = Cc(self.property(property::CC, 4)? as u32);
        self.set_property(property::CC, cc.with_shn(shn::NORMAL).0)?;
        self.await_csts("the end of the shutdown", |csts| csts.shst() == shst::COMPLETE)
    }

    /// Reads CSTS until it is as `wanted`.
    fn await_csts(&mut self, what: &str, wanted: impl Fn(Csts) -> bool) -> Result<()> {
        let limit = Duration::from_millis(500 * self.cap.to().max(1)).max(self.options.timeout);
        let deadline = Instant::now() + limit;
        loop {
            let csts = Csts(self.property(property::CSTS, 4)? as u32);
            if wanted(csts) {
                return Ok(());
            }
            if csts.cfs() == 1 {
                return Err(Error::unsuitable(
                    "the controller has a fatal error (CSTS.CFS)",
                    "reset the target",
                ));
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout { what: what.into(), after: limit });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a Keep Alive when it is time for one, and takes what else has come.
    ///
    /// # Errors
    /// When it is not answered.
    pub fn tick(&mut self) -> Result<()> {
        self.admin.poll(Duration::ZERO)?;
        if self.options.kato_ms > 0 && Instant::now() >= self.next_alive {
            self.next_alive = Instant::now() + alive_every(self.options.kato_ms);
            self.admin.run(Command::new(admin::KEEP_ALIVE, 0))?.ok("Keep Alive")?;
        }
        Ok(())
    }

    /// Sends an admin command, and waits for its completion, whatever its status.
    ///
    /// # Errors
    /// When none comes.
    pub fn run(&mut self, command: Command) -> Result<Completion> {
        self.admin.run(command)
    }

    /// Identify with CNS `cns`: 4,096 bytes.
    ///
    /// # Errors
    /// The status, or fewer bytes.
    pub fn identify(&mut self, cns: u8, nsid: u32, csi: u8) -> Result<Vec<u8>> {
        let what = format!("Identify CNS {cns:02x}h of namespace {nsid:#x}");
        let done = self.run(identify(cns, nsid, 0, csi))?.ok(&what)?;
        match done.data.len() {
            4096 => Ok(done.data),
            n => Err(Error::protocol(format!("{what} brought {n} bytes"))),
        }
    }

    /// Identify Controller.
    ///
    /// # Errors
    /// As [`Client::identify`].
    pub fn identify_controller(&mut self) -> Result<IdentifyController> {
        let data = self.identify(cns::CONTROLLER, 0, 0)?;
        IdentifyController::decode(&data).ok_or_else(|| Error::protocol("Identify Controller is short"))
    }

    /// Identify Namespace.
    ///
    /// # Errors
    /// As [`Client::identify`].
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<IdentifyNamespace> {
        let data = self.identify(cns::NAMESPACE, nsid, 0)?;
        IdentifyNamespace::decode(&data).ok_or_else(|| Error::protocol("Identify Namespace is short"))
    }

    /// The active namespaces, all of them.
    ///
    /// # Errors
    /// As [`Client::identify`].
    pub fn namespaces(&mut self) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        loop {
            let after = all.last().copied().unwrap_or(0);
            let data = self.identify(cns::ACTIVE_NS_LIST, after, 0)?;
            let Some(list) = NamespaceList::decode(&data) else { return Ok(all) };
            let before = all.len();
            all.extend(list.iter().skip_while(|&id| id <= after));
            if all.len() - before < 1024 {
                return Ok(all);
            }
        }
    }

    /// The shape of a namespace, as the load generator wants it.
    ///
    /// # Errors
    /// When it does not exist, or has a format that is not for us.
    pub fn namespace(&mut self, nsid: u32) -> Result<Namespace> {
        let id = self.identify_namespace(nsid)?;
        let bad =
            |what: &str| Error::unsuitable(format!("namespace {nsid} {what}"), "choose another with --nsid");
        if id.nsze.get() == 0 {
            return Err(bad("does not exist or is empty"));
        }
        if id.format().ms.get() != 0 && id.flbas & 1 << 4 != 0 {
            return Err(bad("has metadata interleaved with its blocks"));
        }
        let lba_bytes = id.block_size().ok_or_else(|| bad("has no block size that is known"))?;
        Ok(Namespace { nsid, lba_bytes, blocks: id.nsze.get() })
    }

    /// `len` bytes (a multiple of four) of the log page that `page` names, from its offset on; `page.len` is ignored.
    ///
    /// # Errors
    /// The status, or fewer bytes.
    pub fn log_page(&mut self, nsid: u32, page: GetLogPage, len: u32) -> Result<Vec<u8>> {
        let done = self.run(get_log_page(nsid, page, len))?.ok(&format!("Get Log Page {:02x}h", page.lid))?;
        match done.data.len() == len as usize {
            true => Ok(done.data),
            false => Err(Error::protocol(format!("log page {:02x}h: {} bytes", page.lid, done.data.len()))),
        }
    }

    /// Get Features `fid` with select `sel`, with room for `len` bytes of data.
    ///
    /// # Errors
    /// The status.
    pub fn feature(&mut self, fid: u8, sel: u8, nsid: u32, len: u32) -> Result<Feature> {
        let mut command =
            Command::new(admin::GET_FEATURES, nsid).dword(10, u32::from(fid) | u32::from(sel) << 8);
        if len > 0 {
            command = command.with(Data::In(len));
        }
        let done = self.run(command)?.ok(&format!("Get Features {fid:02x}h"))?;
        Ok(Feature { value: done.cqe.dw0.get(), data: done.data })
    }

    /// Set Features `fid` to `value` (command dword 11), with `data` where the feature has some; DW0 comes back.
    ///
    /// # Errors
    /// The status.
    pub fn set_feature(&mut self, fid: u8, nsid: u32, value: u32, data: Vec<u8>) -> Result<u32> {
        let done = self.run(set_features(fid, nsid, value, data))?;
        Ok(done.ok(&format!("Set Features {fid:02x}h"))?.cqe.dw0.get())
    }

    /// Asks for `n` I/O queues, and says how many there may be.
    ///
    /// # Errors
    /// The status.
    pub fn ask_queues(&mut self, n: u32) -> Result<u32> {
        let want = n.clamp(1, 65535) - 1;
        let got = self.set_feature(fid::QUEUES, 0, want | want << 16, Vec::new())?;
        Ok((got & 0xffff).min(got >> 16) + 1)
    }

    /// Connects I/O queue `qid` (1 or more) with `entries` entries, at most what CAP.MQES allows.
    ///
    /// # Errors
    /// When the target refuses.
    pub fn io_queue(&mut self, qid: u16, entries: u32) -> Result<Queue> {
        let (mut queue, done) = self.try_io_queue(qid, entries)?;
        done.ok(&format!("Connect of I/O queue {qid}"))?;
        if let Some(id) = &self.identity {
            queue.set_in_capsule(id.ioccsz.get().saturating_mul(16).saturating_sub(64));
        }
        Ok(queue)
    }

    /// As [`Client::io_queue`], whatever the status.
    ///
    /// # Errors
    /// When no completion comes.
    pub fn try_io_queue(&mut self, qid: u16, entries: u32) -> Result<(Queue, Completion)> {
        let o = &self.options;
        // What is beyond the controller's limits is for Connect to refuse.
        let said = entries.min(self.max_entries());
        let mut queue = Queue::open_for(&o.address, o.greeting, o.timeout, qid.min(MAX_QID), said)?;
        let done = queue.connect(qid, entries, 0, &self.options.connect_data(self.cntlid))?;
        Ok((queue, done))
    }

    /// The most bytes of one command (MDTS in units of the smallest memory page); `u32::MAX` for no limit.
    pub fn max_transfer(&self) -> u32 {
        match self.identity.as_ref().map(|id| id.mdts) {
            None | Some(0) => u32::MAX,
            Some(mdts) => {
                1u32.checked_shl(12 + self.cap.mpsmin() as u32 + u32::from(mdts)).unwrap_or(u32::MAX)
            }
        }
    }

    /// Most entries of an I/O queue.
    pub fn max_entries(&self) -> u32 {
        self.cap.mqes() as u32 + 1
    }
}

/// Whether `nqn` names the well-known discovery subsystem.
pub fn is_discovery(nqn: &str) -> bool {
    nqn == DISCOVERY_NQN
}

/// Half of the keep-alive time-out.
fn alive_every(kato_ms: u32) -> Duration {
    Duration::from_millis(u64::from(kato_ms) / 2)
}

/// A Property Get command of 4 or 8 bytes.
pub fn property_get(offset: u32, bytes: u8) -> Command {
    Command::fabrics(fctype::PROPERTY_GET).dword(10, u32::from(bytes == 8)).dword(11, offset)
}

/// A Property Set command of 4 bytes.
pub fn property_set(offset: u32, value: u32) -> Command {
    Command::fabrics(fctype::PROPERTY_SET).dword(11, offset).dword(12, value)
}

/// An Identify command with room for 4,096 bytes.
pub fn identify(cns: u8, nsid: u32, cntid: u16, csi: u8) -> Command {
    Command::new(admin::IDENTIFY, nsid)
        .dword(10, u32::from(cns) | u32::from(cntid) << 16)
        .dword(11, u32::from(csi) << 24)
        .with(Data::In(4096))
}

/// A Get Log Page command for `len` bytes; `page.len` is ignored.
pub fn get_log_page(nsid: u32, page: GetLogPage, len: u32) -> Command {
    let mut command = Command::new(admin::GET_LOG_PAGE, nsid);
    GetLogPage { len: u64::from(len), ..page }.put(&mut command.sqe);
    command.with(Data::In(len))
}

/// A Set Features command.
pub fn set_features(fid: u8, nsid: u32, value: u32, data: Vec<u8>) -> Command {
    let command = Command::new(admin::SET_FEATURES, nsid).dword(10, u32::from(fid)).dword(11, value);
    if data.is_empty() { command } else { command.with(Data::Out(data)) }
}
