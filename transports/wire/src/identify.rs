//! Identify: the CNS values and the controller's data structures (Base 2.1, 5.1.13; NVM 1.1, 4.1.5).
//!
//! Owns the layouts that describe a controller and the lists; the bits of a controller's fields are in bits.rs, a namespace's layouts in
//! namespace.rs. A structure starts
//! out as zeroes (`Default`) and its owner fills in what it supports: zero means "not supported" or "not
//! reported" nearly everywhere. It must never decide what a controller supports.

mod bits;
mod namespace;

pub use bits::*;
pub use namespace::*;

use crate::layout;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size in bytes of the data of every Identify command.
pub const IDENTIFY_LEN: usize = 4096;

/// The CNS field, CDW10 bits 7:0 (Base 2.1, figure "Identify – CNS Values").
pub mod cns {
    /// Identify Namespace of the NVM command set, for an active NSID (or FFFFFFFFh: what is common to all).
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list: those greater than CDW1.NSID.
    pub const ACTIVE_NS_LIST: u8 = 0x02;
    /// Namespace Identification Descriptor list.
    pub const NS_DESCRIPTORS: u8 = 0x03;
    /// NVM Set list.
    pub const NVM_SET_LIST: u8 = 0x04;
    /// Identify Namespace, specific to the I/O command set in CDW11.CSI.
    pub const CSI_NAMESPACE: u8 = 0x05;
    /// Identify Controller, specific to the I/O command set in CDW11.CSI.
    pub const CSI_CONTROLLER: u8 = 0x06;
    /// Active Namespace ID list of one I/O command set.
    pub const CSI_ACTIVE_NS_LIST: u8 = 0x07;
    /// Identify Namespace, independent of the I/O command set.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Identify Namespace of the NVM command set by User Data Format (CDW11.CNSSID).
    pub const FORMAT_NAMESPACE: u8 = 0x09;
    /// Identify Namespace specific to an I/O command set by User Data Format.
    pub const CSI_FORMAT_NAMESPACE: u8 = 0x0a;
    /// Allocated Namespace ID list.
    pub const ALLOCATED_NS_LIST: u8 = 0x10;
    /// Identify Namespace for an allocated NSID.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers attached to CDW1.NSID, from CDW10.CNTID on.
    pub const NS_CONTROLLER_LIST: u8 = 0x12;
    /// Controllers of the subsystem, from CDW10.CNTID on.
    pub const CONTROLLER_LIST: u8 = 0x13;
    /// Primary Controller Capabilities.
    pub const PRIMARY_CAPABILITIES: u8 = 0x14;
    /// Secondary Controller list.
    pub const SECONDARY_LIST: u8 = 0x15;
    /// Namespace Granularity list.
    pub const GRANULARITY_LIST: u8 = 0x16;
    /// UUID list.
    pub const UUID_LIST: u8 = 0x17;
    /// Domain list.
    pub const DOMAIN_LIST: u8 = 0x18;
    /// Endurance Group list.
    pub const ENDURANCE_GROUP_LIST: u8 = 0x19;
    /// Allocated Namespace ID list of one I/O command set.
    pub const CSI_ALLOCATED_NS_LIST: u8 = 0x1a;
    /// Identify Namespace specific to an I/O command set, for an allocated NSID.
    pub const CSI_ALLOCATED_NAMESPACE: u8 = 0x1b;
    /// Identify I/O Command Set.
    pub const IO_COMMAND_SET: u8 = 0x1c;
}

/// Command Set Identifiers, CDW11 bits 31:24 (Base 2.1, figure "Command Set Identifiers").
pub mod csi {
    /// NVM Command Set.
    pub const NVM: u8 = 0x00;
    /// Key Value Command Set.
    pub const KEY_VALUE: u8 = 0x01;
    /// Zoned Namespace Command Set.
    pub const ZONED: u8 = 0x02;
}

/// One of the 32 power state descriptors (Base 2.1, figure "Power State Descriptor Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PowerState {
    /// MP: maximum power in centiwatts, or 0.1 mW where MXPS is set; 0 is not reported.
    pub mp: U16,
    /// Reserved.
    pub rsvd2: u8,
    /// MXPS (bit 0) and NOPS (bit 1).
    pub flags: u8,
    /// ENLAT: entry latency in microseconds.
    pub enlat: U32,
    /// EXLAT: exit latency in microseconds.
    pub exlat: U32,
    /// RRT: relative read throughput, 0 the best; smaller than the number of states.
    pub rrt: u8,
    /// RRL: relative read latency.
    pub rrl: u8,
    /// RWT: relative write throughput.
    pub rwt: u8,
    /// RWL: relative write latency.
    pub rwl: u8,
    /// IDLP: idle power.
    pub idlp: U16,
    /// IPS, bits 7:6: idle power scale.
    pub ips: u8,
    /// Reserved.
    pub rsvd19: u8,
    /// ACTP: active power.
    pub actp: U16,
    /// APW (bits 2:0) and APS (bits 7:6).
    pub apw_aps: u8,
    /// Reserved here (emergency power fail times in later revisions).
    pub rsvd23: [u8; 9],
}

layout!(PowerState, 32, mp @ 0, flags @ 3, enlat @ 4, exlat @ 8, rrt @ 12, rrl @ 13, rwt @ 14, rwl @ 15,
    idlp @ 16, ips @ 18, actp @ 20, apw_aps @ 22);

/// CNS 01h: Identify Controller, for I/O and discovery controllers alike
/// (Base 2.1, figure "Identify – Identify Controller Data Structure, I/O Command Set Independent").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// VID: PCI vendor id; 0 where there is none.
    pub vid: U16,
    /// SSVID: PCI subsystem vendor id.
    pub ssvid: U16,
    /// SN: serial number, ASCII, space-padded.
    pub sn: [u8; 20],
    /// MN: model number, ASCII, space-padded.
    pub mn: [u8; 40],
    /// FR: firmware revision, ASCII, space-padded; as in the firmware slot log.
    pub fr: [u8; 8],
    /// RAB: recommended arbitration burst, 2^n commands.
    pub rab: u8,
    /// IEEE: OUI, little-endian.
    pub ieee: [u8; 3],
    /// CMIC, see [`cmic`].
    pub cmic: u8,
    /// MDTS: largest transfer, 2^n units of CAP.MPSMIN; 0 is no limit.
    pub mdts: u8,
    /// CNTLID: the controller's id, unique in the subsystem.
    pub cntlid: U16,
    /// VER: as the VS property.
    pub ver: U32,
    /// RTD3R: RTD3 resume latency in microseconds.
    pub rtd3r: U32,
    /// RTD3E: RTD3 entry latency in microseconds; hosts wait as long for a shutdown.
    pub rtd3e: U32,
    /// OAES, see [`oaes`].
    pub oaes: U32,
    /// CTRATT, see [`ctratt`].
    pub ctratt: U32,
    /// RRLS: read recovery levels.
    pub rrls: U16,
    /// BPCAP: boot partition capabilities.
    pub bpcap: u8,
    /// Reserved.
    pub rsvd103: u8,
    /// NSSL: NVM subsystem shutdown latency in microseconds.
    pub nssl: U32,
    /// Reserved.
    pub rsvd108: [u8; 2],
    /// PLSI: power loss signalling information.
    pub plsi: u8,
    /// CNTRLTYPE, see [`cntrltype`].
    pub cntrltype: u8,
    /// FGUID: FRU globally unique id.
    pub fguid: [u8; 16],
    /// CRDT1: command retry delay in units of 100 ms.
    pub crdt1: U16,
    /// CRDT2.
    pub crdt2: U16,
    /// CRDT3.
    pub crdt3: U16,
    /// CRCAP: controller reachability capabilities.
    pub crcap: u8,
    /// Reserved.
    pub rsvd135: [u8; 105],
    /// Reserved for NVMe-MI.
    pub rsvd240: [u8; 13],
    /// NVMSR: NVM subsystem report.
    pub nvmsr: u8,
    /// VWCI: VPD write cycle information.
    pub vwci: u8,
    /// MEC: management endpoint capabilities.
    pub mec: u8,
    /// OACS, see [`oacs`].
    pub oacs: U16,
    /// ACL: concurrent Abort commands, zero-based.
    pub acl: u8,
    /// AERL: outstanding Asynchronous Event Requests, zero-based.
    pub aerl: u8,
    /// FRMW: bit 0 slot 1 read-only, bits 3:1 number of slots, bit 4 activation without reset.
    pub frmw: u8,
    /// LPA, see [`lpa`].
    pub lpa: u8,
    /// ELPE: error log entries, zero-based.
    pub elpe: u8,
    /// NPSS: power states, zero-based.
    pub npss: u8,
    /// AVSCC: bit 0, admin vendor specific commands use the common format.
    pub avscc: u8,
    /// APSTA: bit 0, autonomous power state transitions.
    pub apsta: u8,
    /// WCTEMP: warning composite temperature, kelvin; 0 is not reported.
    pub wctemp: U16,
    /// CCTEMP: critical composite temperature, kelvin.
    pub cctemp: U16,
    /// MTFA: longest firmware activation, units of 100 ms.
    pub mtfa: U16,
    /// HMPRE: host memory buffer preferred size.
    pub hmpre: U32,
    /// HMMIN: host memory buffer minimum size.
    pub hmmin: U32,
    /// TNVMCAP: total NVM capacity in bytes.
    pub tnvmcap: U128,
    /// UNVMCAP: unallocated NVM capacity in bytes.
    pub unvmcap: U128,
    /// RPMBS.
    pub rpmbs: U32,
    /// EDSTT: extended device self-test time in minutes.
    pub edstt: U16,
    /// DSTO: device self-test options.
    pub dsto: u8,
    /// FWUG: firmware update granularity, units of 4 KiB; 0 is not reported.
    pub fwug: u8,
    /// KAS: granularity of the keep alive timer, units of 100 ms; 0 is no keep alive.
    pub kas: U16,
    /// HCTMA: host controlled thermal management.
    pub hctma: U16,
    /// MNTMT.
    pub mntmt: U16,
    /// MXTMT.
    pub mxtmt: U16,
    /// SANICAP: sanitize capabilities.
    pub sanicap: U32,
    /// HMMINDS.
    pub hmminds: U32,
    /// HMMAXD.
    pub hmmaxd: U16,
    /// NSETIDMAX.
    pub nsetidmax: U16,
    /// ENDGIDMAX.
    pub endgidmax: U16,
    /// ANATT: ANA transition time in seconds.
    pub anatt: u8,
    /// ANACAP: bits 0..4 the states that may be reported, 6 ANAGRPID constant, 7 ANAGRPID supported.
    pub anacap: u8,
    /// ANAGRPMAX.
    pub anagrpmax: U32,
    /// NANAGRPID: number of ANA groups.
    pub nanagrpid: U32,
    /// PELS: persistent event log size, units of 64 KiB.
    pub pels: U32,
    /// DID: domain identifier.
    pub did: U16,
    /// KPIOC: key per I/O capabilities.
    pub kpioc: u8,
    /// Reserved.
    pub rsvd359: u8,
    /// MPTFAWR: longest processing time for firmware activation without reset, units of 100 ms.
    pub mptfawr: U16,
    /// Reserved.
    pub rsvd362: [u8; 6],
    /// MEGCAP: largest endurance group capacity in bytes.
    pub megcap: U128,
    /// TMPTHHA: temperature threshold hysteresis.
    pub tmpthha: u8,
    /// Reserved.
    pub rsvd385: u8,
    /// CQT: command quiesce time in milliseconds after a keep alive timeout.
    pub cqt: U16,
    /// Reserved.
    pub rsvd388: [u8; 124],
    /// SQES: bits 3:0 required, 7:4 largest entry size, 2^n bytes; 66h.
    pub sqes: u8,
    /// CQES: bits 3:0 required, 7:4 largest entry size, 2^n bytes; 44h.
    pub cqes: u8,
    /// MAXCMD: commands a queue may have outstanding; mandatory over fabrics.
    pub maxcmd: U16,
    /// NN: the largest NSID, or the number of namespaces where MNAN is 0.
    pub nn: U32,
    /// ONCS, see [`oncs`].
    pub oncs: U16,
    /// FUSES, see [`FUSES_COMPARE_AND_WRITE`].
    pub fuses: U16,
    /// FNA, see [`fna`].
    pub fna: u8,
    /// VWC, see [`vwc`].
    pub vwc: u8,
    /// AWUN: atomic write unit normal, logical blocks, zero-based.
    pub awun: U16,
    /// AWUPF: atomic write unit power fail, logical blocks, zero-based.
    pub awupf: U16,
    /// ICSVSCC: bit 0, I/O vendor specific commands use the common format.
    pub icsvscc: u8,
    /// NWPC, see [`nwpc`].
    pub nwpc: u8,
    /// ACWU: atomic compare and write unit, logical blocks, zero-based.
    pub acwu: U16,
    /// CDFS: bit n, copy descriptor format n is supported.
    pub cdfs: U16,
    /// SGLS, see [`sgls`].
    pub sgls: U32,
    /// MNAN: the most namespaces allowed; 0 is NN.
    pub mnan: U32,
    /// MAXDNA.
    pub maxdna: U128,
    /// MAXCNA: most namespaces attached to a controller.
    pub maxcna: U32,
    /// OAQD: optimal aggregated queue depth.
    pub oaqd: U32,
    /// RHIRI: recommended host-initiated refresh interval, days.
    pub rhiri: u8,
    /// HIRT: host-initiated refresh time, minutes.
    pub hirt: u8,
    /// CMMRTD.
    pub cmmrtd: U16,
    /// NMMRTD.
    pub nmmrtd: U16,
    /// MINMRTG.
    pub minmrtg: u8,
    /// MAXMRTG.
    pub maxmrtg: u8,
    /// TRATTR: tracking attributes.
    pub trattr: u8,
    /// Reserved.
    pub rsvd577: u8,
    /// MCUDMQ.
    pub mcudmq: U16,
    /// MNSUDMQ.
    pub mnsudmq: U16,
    /// MCMR.
    pub mcmr: U16,
    /// NMCMR.
    pub nmcmr: U16,
    /// MCDQPC.
    pub mcdqpc: U16,
    /// Reserved.
    pub rsvd588: [u8; 180],
    /// SUBNQN: NVM subsystem NQN, UTF-8, NUL-terminated.
    pub subnqn: [u8; 256],
    /// Reserved.
    pub rsvd1024: [u8; 768],
    /// IOCCSZ: largest I/O command capsule, units of 16 bytes; at least 4.
    pub ioccsz: U32,
    /// IORCSZ: largest I/O response capsule, units of 16 bytes; at least 1.
    pub iorcsz: U32,
    /// ICDOFF: where in-capsule data starts, units of 16 bytes from the end of the command.
    pub icdoff: U16,
    /// FCATT: bit 0, 0 is the dynamic controller model, 1 the static.
    pub fcatt: u8,
    /// MSDBD: most SGL data block descriptors; 0 is no limit.
    pub msdbd: u8,
    /// OFCS, see [`ofcs`].
    pub ofcs: U16,
    /// DCTYPE, see [`dctype`].
    pub dctype: u8,
    /// Reserved.
    pub rsvd1807: [u8; 241],
    /// PSD0..PSD31.
    pub psd: [PowerState; 32],
    /// Vendor specific.
    pub vs: [u8; 1024],
}

layout!(IdentifyController, 4096, vid @ 0, ssvid @ 2, sn @ 4, mn @ 24, fr @ 64, rab @ 72, ieee @ 73, cmic @ 76,
    mdts @ 77, cntlid @ 78, ver @ 80, rtd3r @ 84, rtd3e @ 88, oaes @ 92, ctratt @ 96, rrls @ 100, bpcap @ 102,
    nssl @ 104, plsi @ 110, cntrltype @ 111, fguid @ 112, crdt1 @ 128, crdt2 @ 130, crdt3 @ 132, crcap @ 134,
    nvmsr @ 253, vwci @ 254, mec @ 255, oacs @ 256, acl @ 258, aerl @ 259, frmw @ 260, lpa @ 261, elpe @ 262,
    npss @ 263, avscc @ 264, apsta @ 265, wctemp @ 266, cctemp @ 268, mtfa @ 270, hmpre @ 272, hmmin @ 276,
    tnvmcap @ 280, unvmcap @ 296, rpmbs @ 312, edstt @ 316, dsto @ 318, fwug @ 319, kas @ 320, hctma @ 322,
    mntmt @ 324, mxtmt @ 326, sanicap @ 328, hmminds @ 332, hmmaxd @ 336, nsetidmax @ 338, endgidmax @ 340,
    anatt @ 342, anacap @ 343, anagrpmax @ 344, nanagrpid @ 348, pels @ 352, did @ 356, kpioc @ 358,
    mptfawr @ 360, megcap @ 368, tmpthha @ 384, cqt @ 386, sqes @ 512, cqes @ 513, maxcmd @ 514, nn @ 516,
    oncs @ 520, fuses @ 522, fna @ 524, vwc @ 525, awun @ 526, awupf @ 528, icsvscc @ 530, nwpc @ 531,
    acwu @ 532, cdfs @ 534, sgls @ 536, mnan @ 540, maxdna @ 544, maxcna @ 560, oaqd @ 564, rhiri @ 568,
    hirt @ 569, cmmrtd @ 570, nmmrtd @ 572, minmrtg @ 574, maxmrtg @ 575, trattr @ 576, mcudmq @ 578,
    mnsudmq @ 580, mcmr @ 582, nmcmr @ 584, mcdqpc @ 586, subnqn @ 768, ioccsz @ 1792, iorcsz @ 1796,
    icdoff @ 1800, fcatt @ 1802, msdbd @ 1803, ofcs @ 1804, dctype @ 1806, psd @ 2048, vs @ 3072);
crate::zeroed!(IdentifyController);

/// CNS 06h, CSI 00h: what the NVM command set adds about a controller
/// (NVM 1.1, figure "Identify – I/O Command Set Specific Identify Controller Data Structure for the NVM Command Set").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NvmIdentifyController {
    /// VSL: Verify size limit, 2^n units of CAP.MPSMIN; 0 is no limit.
    pub vsl: u8,
    /// WZSL: Write Zeroes size limit, the same unit.
    pub wzsl: u8,
    /// WUSL: Write Uncorrectable size limit, the same unit.
    pub wusl: u8,
    /// DMRL: most ranges of a Dataset Management; 0 is no limit.
    pub dmrl: u8,
    /// DMRSL: most logical blocks in one of its ranges; 0 is no limit.
    pub dmrsl: U32,
    /// DMSL: most logical blocks in all of its ranges; 0 is no limit.
    pub dmsl: U64,
    /// KPIOCAP: key per I/O capabilities.
    pub kpiocap: u8,
    /// WZDSL: Write Zeroes with Deallocate size limit, used where ONCS.MAX_WZD is set.
    pub wzdsl: u8,
    /// AOCS: admin optional command support.
    pub aocs: U16,
    /// VER: version of the NVM command set specification.
    pub ver: U32,
    /// LBAMQF: LBA migration queue format.
    pub lbamqf: u8,
    /// Reserved.
    pub rsvd25: [u8; 4071],
}

layout!(NvmIdentifyController, 4096, vsl @ 0, wzsl @ 1, wusl @ 2, dmrl @ 3, dmrsl @ 4, dmsl @ 8, kpiocap @ 16,
    wzdsl @ 17, aocs @ 18, ver @ 20, lbamqf @ 24, rsvd25 @ 25);
crate::zeroed!(NvmIdentifyController);

/// CNS 12h, 13h: a Controller List, in increasing order (Base 2.1, 4.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ControllerList {
    /// NUMIDS: how many identifiers follow, 0..=2,047.
    pub numids: U16,
    /// The identifiers; those past NUMIDS are zero.
    pub ids: [U16; 2047],
}

layout!(ControllerList, 4096, numids @ 0, ids @ 2);
crate::zeroed!(ControllerList);

impl ControllerList {
    /// The first 2,047 of `ids`, which come in increasing order.
    pub fn collect(ids: impl IntoIterator<Item = u16>) -> ControllerList {
        let mut list = ControllerList::default();
        let mut n = 0;
        for (slot, id) in list.ids.iter_mut().zip(ids) {
            slot.set(id);
            n += 1;
        }
        list.numids.set(n);
        list
    }

    /// The identifiers that the list holds; a NUMIDS beyond the structure counts as 2,047.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ids.iter().take(usize::from(self.numids.get())).map(|id| id.get())
    }
}

/// CNS 1Ch: the supported combinations of I/O command sets (Base 2.1, figure "Identify I/O Command Set data structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IoCommandSets {
    /// IOCSC0..511: bit n of a vector, the command set with CSI n. An all-zero vector ends the list.
    pub iocsc: [U64; 512],
}

layout!(IoCommandSets, 4096, iocsc @ 0);
crate::zeroed!(IoCommandSets);

/// Fills a fixed ASCII field (SN, MN, FR): characters outside 20h..7Eh become `?`, the rest is spaces
/// (Base 2.1, 1.4.2 "ASCII string": left-justified, space-padded).
pub fn ascii(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (to, c) in field.iter_mut().zip(text.chars()) {
        *to = if (' '..='~').contains(&c) { c as u8 } else { b'?' };
    }
}

/// The text in a fixed ASCII field, without its padding of spaces or NULs; bytes that are no ASCII become `?`.
pub fn ascii_of(field: &[u8]) -> String {
    let text: String =
        field.iter().map(|&b| if matches!(b, 0 | b' '..=b'~') { b as char } else { '?' }).collect();
    text.trim_matches([' ', '\0']).to_owned()
}
