//! The discovery log page (Base 2.1, 5.1.12.3.1 and 3.1.3.3): header, entries and their address fields.
//!
//! Owns the bytes only; which host sees which entry is judged above.

use crate::layout;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Transport types (Base 2.1, figure "Discovery Log Page Entry Data Structure", TRTYPE).
pub mod trtype {
    /// RDMA.
    pub const RDMA: u8 = 1;
    /// Fibre Channel.
    pub const FC: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 3;
    /// Intra-host (loopback).
    pub const LOOP: u8 = 254;
}

/// Address families (ADRFAM).
pub mod adrfam {
    /// IPv4.
    pub const IPV4: u8 = 1;
    /// IPv6.
    pub const IPV6: u8 = 2;
    /// InfiniBand.
    pub const IB: u8 = 3;
    /// Fibre Channel.
    pub const FC: u8 = 4;
    /// Intra-host.
    pub const LOOP: u8 = 254;
}

/// Subsystem types (SUBTYPE).
pub mod subtype {
    /// A referral to another discovery service.
    pub const REFERRAL: u8 = 1;
    /// An NVM subsystem with I/O controllers.
    pub const NVM: u8 = 2;
    /// This discovery subsystem itself.
    pub const CURRENT: u8 = 3;
}

/// Bits of TREQ.
pub mod treq {
    /// TSC, bits 1:0 = 00b: secure channel not specified.
    pub const NOT_SPECIFIED: u8 = 0;
    /// TSC, bits 1:0 = 01b: a secure channel is required.
    pub const REQUIRED: u8 = 1;
    /// TSC, bits 1:0 = 10b: a secure channel is not required.
    pub const NOT_REQUIRED: u8 = 2;
    /// DISSQFC: the controller can disable SQ flow control.
    pub const DISABLE_SQFLOW: u8 = 1 << 2;
}

/// Bits of EFLAGS.
pub mod eflags {
    /// DUPRETINFO: the entry duplicates what other entries of the same subsystem lead to.
    pub const DUPRETINFO: u16 = 1 << 0;
    /// EPCSD: an explicit persistent connection is supported for discovery.
    pub const EPCSD: u16 = 1 << 1;
    /// NCC: no connectivity to the entry's CDC-registered subsystem.
    pub const NCC: u16 = 1 << 2;
}

/// SECTYPE, byte 0 of a TCP entry's TSAS (TCP 1.1, figure "Transport Specific Address Subtype Definition for NVMe/TCP").
pub mod sectype {
    /// No security.
    pub const NONE: u8 = 0;
    /// TLS 1.2 (withdrawn) or PSK.
    pub const TLS12: u8 = 1;
    /// TLS 1.3 or later.
    pub const TLS13: u8 = 2;
}

/// CNTLID of an entry whose controllers are dynamic.
pub const ENTRY_CNTLID_DYNAMIC: u16 = 0xffff;
/// CNTLID of an entry where any static controller will do.
pub const ENTRY_CNTLID_STATIC: u16 = 0xfffe;

/// The TCP port that IANA gave to NVMe/TCP discovery.
pub const DISCOVERY_PORT: u16 = 8009;
/// The TCP port that IANA gave to NVMe over fabrics.
pub const NVME_PORT: u16 = 4420;

/// The first 1,024 bytes of LID 70h (Base 2.1, figure "Discovery Log Page").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// GENCTR: changes with each change of the page; a host reads it again after the entries and starts over if it moved.
    pub genctr: U64,
    /// NUMREC: entries that follow.
    pub numrec: U64,
    /// RECFMT: 0 for this format.
    pub recfmt: U16,
    /// Reserved.
    pub rsvd18: [u8; 1006],
}

layout!(DiscoveryHeader, 1024, genctr @ 0, numrec @ 8, recfmt @ 16, rsvd18 @ 18);
crate::zeroed!(DiscoveryHeader);

/// One entry of LID 70h (Base 2.1, figure "Discovery Log Page Entry Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// TRTYPE, see [`trtype`].
    pub trtype: u8,
    /// ADRFAM, see [`adrfam`].
    pub adrfam: u8,
    /// SUBTYPE, see [`subtype`].
    pub subtype: u8,
    /// TREQ, see [`treq`].
    pub treq: u8,
    /// PORTID: the NVM subsystem port.
    pub portid: U16,
    /// CNTLID, see [`ENTRY_CNTLID_DYNAMIC`].
    pub cntlid: U16,
    /// ASQSZ: largest admin queue, at least 32.
    pub asqsz: U16,
    /// EFLAGS, see [`eflags`].
    pub eflags: U16,
    /// Reserved.
    pub rsvd12: [u8; 20],
    /// TRSVCID: for TCP the port in decimal, ASCII, space-padded.
    pub trsvcid: [u8; 32],
    /// Reserved.
    pub rsvd64: [u8; 192],
    /// SUBNQN, NUL-terminated.
    pub subnqn: [u8; 256],
    /// TRADDR: for TCP the IP address, ASCII, space-padded.
    pub traddr: [u8; 256],
    /// TSAS, by transport; see [`Tsas::Tcp`].
    pub tsas: [u8; 256],
}

layout!(DiscoveryEntry, 1024, trtype @ 0, adrfam @ 1, subtype @ 2, treq @ 3, portid @ 4, cntlid @ 6, asqsz @ 8,
    eflags @ 10, trsvcid @ 32, subnqn @ 256, traddr @ 512, tsas @ 768);
crate::zeroed!(DiscoveryEntry);

/// TSAS taken apart by the entry's TRTYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tsas {
    /// TCP 1.1: byte 0.
    Tcp {
        /// SECTYPE, see [`sectype`].
        sectype: u8,
    },
    /// RDMA Transport 1.1: bytes 0, 1, 2 and 9:8.
    Rdma {
        /// RDMA_QPTYPE: 1 connected, 2 datagram.
        qptype: u8,
        /// RDMA_PRTYPE: 1 none, 2 InfiniBand, 3 RoCE, 4 RoCE v2, 5 iWARP.
        prtype: u8,
        /// RDMA_CMS: 1 RDMA_CM.
        cms: u8,
        /// RDMA_PKEY.
        pkey: u16,
    },
}

impl Tsas {
    /// As the 256 bytes of the field.
    pub fn encode(self) -> [u8; 256] {
        let mut out = [0; 256];
        match self {
            Tsas::Tcp { sectype } => out[0] = sectype,
            Tsas::Rdma { qptype, prtype, cms, pkey } => {
                out[..3].copy_from_slice(&[qptype, prtype, cms]);
                out[8..10].copy_from_slice(&pkey.to_le_bytes());
            }
        }
        out
    }
}

impl DiscoveryEntry {
    /// TSAS taken apart; `None` for a transport that has none here.
    pub fn tsas(&self) -> Option<Tsas> {
        let t = &self.tsas;
        match self.trtype {
            trtype::TCP => Some(Tsas::Tcp { sectype: t[0] }),
            trtype::RDMA => Some(Tsas::Rdma {
                qptype: t[0],
                prtype: t[1],
                cms: t[2],
                pkey: u16::from_le_bytes([t[8], t[9]]),
            }),
            _ => None,
        }
    }
}

/// How many bytes the whole log page has with `entries` entries.
pub const fn page_len(entries: u64) -> u64 {
    1024 + entries * 1024
}

/// Bits of LSP in a Get Log Page of LID 70h (Base 2.1, figure "Log Specific Parameter Field").
pub mod lsp {
    /// EXTDLPE: extended entries are asked for.
    pub const EXTENDED: u8 = 1 << 0;
    /// PLEO: only entries of the port that the command came by.
    pub const PORT_LOCAL: u8 = 1 << 1;
    /// ALLSUBE: all subsystems.
    pub const ALL: u8 = 1 << 2;
}
