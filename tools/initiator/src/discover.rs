//! Reading the discovery log page as a host does: header, entries in pieces, header again (Base 2.1, 3.1.3.3).

use crate::client::{Client, Options};
use crate::error::{Error, Result};
use caisson_wire::discovery::{DiscoveryEntry, DiscoveryHeader, Tsas, adrfam, subtype, trtype};
use caisson_wire::fabrics::nqn_of;
use caisson_wire::identify::ascii_of;
use caisson_wire::log::{GetLogPage, lid};
use serde::Serialize;

/// How often the page may change while it is read before that is an error.
const TRIES: u32 = 10;
/// Entries read by one command.
const PIECE: u64 = 16;
/// Entries accepted at most.
const MOST: u64 = 65_536;

/// The whole page, as of one generation.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// GENCTR.
    pub generation: u64,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// One entry in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `tcp`, `rdma`, `fc`, `loop`, or the number.
    pub trtype: String,
    /// `ipv4`, `ipv6`, `ib`, `fc`, `loop`, or the number.
    pub adrfam: String,
    /// `nvme subsystem`, `discovery subsystem referral`, `current discovery subsystem`, or the number.
    pub subtype: String,
    /// TREQ as it stands.
    pub treq: u8,
    /// Port.
    pub portid: u16,
    /// CNTLID; FFFFh for dynamic controllers.
    pub cntlid: u16,
    /// Largest admin queue.
    pub asqsz: u16,
    /// EFLAGS as it stands.
    pub eflags: u16,
    /// Service identifier: the TCP port.
    pub trsvcid: String,
    /// The subsystem.
    pub subnqn: String,
    /// The address.
    pub traddr: String,
    /// `none`, `tls1.2`, `tls1.3`, or nothing where the transport has no such thing.
    pub sectype: Option<String>,
}

fn named(value: u8, names: &[(u8, &str)]) -> String {
    names.iter().find(|(v, _)| *v == value).map_or_else(|| value.to_string(), |(_, name)| (*name).into())
}

impl From<&DiscoveryEntry> for Entry {
    fn from(e: &DiscoveryEntry) -> Entry {
        let transports =
            [(trtype::TCP, "tcp"), (trtype::RDMA, "rdma"), (trtype::FC, "fc"), (trtype::LOOP, "loop")];
        let families = [
            (adrfam::IPV4, "ipv4"),
            (adrfam::IPV6, "ipv6"),
            (adrfam::IB, "ib"),
            (adrfam::FC, "fc"),
            (adrfam::LOOP, "loop"),
        ];
        let kinds = [
            (subtype::REFERRAL, "discovery subsystem referral"),
            (subtype::NVM, "nvme subsystem"),
            (subtype::CURRENT, "current discovery subsystem"),
        ];
        Entry {
            trtype: named(e.trtype, &transports),
            adrfam: named(e.adrfam, &families),
            subtype: named(e.subtype, &kinds),
            treq: e.treq,
            portid: e.portid.get(),
            cntlid: e.cntlid.get(),
            asqsz: e.asqsz.get(),
            eflags: e.eflags.get(),
            trsvcid: ascii_of(&e.trsvcid),
            subnqn: nqn_of(&e.subnqn).unwrap_or("").to_string(),
            traddr: ascii_of(&e.traddr),
            sectype: match e.tsas() {
                Some(Tsas::Tcp { sectype }) => {
                    Some(named(sectype, &[(0, "none"), (1, "tls1.2"), (2, "tls1.3")]))
                }
                _ => None,
            },
        }
    }
}

/// Connects to a discovery controller, reads the whole page, and disconnects.
///
/// # Errors
/// When any step fails.
pub fn discover(options: Options) -> Result<Page> {
    read(&mut Client::connect(options)?)
}

/// Reads the whole page from a connected discovery controller.
///
/// # Errors
/// When it keeps changing, or a command fails.
pub fn read(client: &mut Client) -> Result<Page> {
    let page = GetLogPage { lid: lid::DISCOVERY, ..GetLogPage::default() };
    let header = |client: &mut Client| {
        let data = client.log_page(0, page, 1024)?;
        DiscoveryHeader::decode(&data).ok_or_else(|| Error::protocol("the discovery header is short"))
    };
    for _ in 0..TRIES {
        let before = header(client)?;
        let count = before.numrec.get();
        if count > MOST {
            return Err(Error::protocol(format!("the discovery log has {count} entries")));
        }
        let mut entries = Vec::new();
        while (entries.len() as u64) < count {
            let at = entries.len() as u64;
            let n = (count - at).min(PIECE);
            let data = client.log_page(0, GetLogPage { offset: 1024 * (1 + at), ..page }, 1024 * n as u32)?;
            entries
                .extend(data.chunks_exact(1024).filter_map(DiscoveryEntry::decode).map(|e| Entry::from(&e)));
        }
        if header(client)?.genctr == before.genctr {
            return Ok(Page { generation: before.genctr.get(), entries });
        }
    }
    Err(Error::unsuitable(format!("the discovery log changed {TRIES} times while it was read"), "try again"))
}

impl std::fmt::Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "Discovery log: {} records, generation counter {}", self.entries.len(), self.generation)?;
        for (i, e) in self.entries.iter().enumerate() {
            writeln!(f, "===== entry {i} =====")?;
            writeln!(f, "trtype:  {}\nadrfam:  {}\nsubtype: {}", e.trtype, e.adrfam, e.subtype)?;
            writeln!(f, "traddr:  {}\ntrsvcid: {}\nsubnqn:  {}", e.traddr, e.trsvcid, e.subnqn)?;
            writeln!(f, "portid:  {}\ncntlid:  {:#06x}", e.portid, e.cntlid)?;
            if let Some(s) = &e.sectype {
                writeln!(f, "sectype: {s}")?;
            }
        }
        Ok(())
    }
}
