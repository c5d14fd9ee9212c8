//! Identify: what describes a namespace, and the NSID lists (Base 2.1, 5.1.13.2; NVM 1.1, 4.1.5).
//!
//! Owns those layouts only; which namespace a host may see is judged above.

use crate::layout;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// NSID FFFFFFFFh: all namespaces.
pub const NSID_ALL: u32 = 0xffff_ffff;

/// One LBA format (NVM 1.1, figure "LBA Format Data Structure").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct LbaFormat {
    /// MS: metadata bytes a logical block.
    pub ms: U16,
    /// LBADS: logical block size, 2^n bytes; at least 9, or 0 for a format that is not available.
    pub lbads: u8,
    /// RP, bits 1:0: relative performance, 0 the best.
    pub rp: u8,
}

layout!(LbaFormat, 4, ms @ 0, lbads @ 2, rp @ 3);

/// Bits of NSFEAT, byte 24 of Identify Namespace.
pub mod nsfeat {
    /// THINP: thin provisioning; NUSE is reported and Capacity Exceeded may be returned.
    pub const THINP: u8 = 1 << 0;
    /// NSABP: NAWUN, NAWUPF and NACWU are this namespace's own.
    pub const NSABP: u8 = 1 << 1;
    /// DAE: reads of deallocated blocks may be told to fail (Feature 05h, DULBE).
    pub const DAE: u8 = 1 << 2;
    /// UIDREUSE: NGUID and EUI64 are never reused.
    pub const UIDREUSE: u8 = 1 << 3;
    /// OPTPERF, bits 5:4 = 01b: NPWG, NPWA, NPDG, NPDA and NOWS are defined.
    pub const OPTPERF: u8 = 1 << 4;
}

/// Bits of DLFEAT, byte 33.
pub mod dlfeat {
    /// DRB, bits 2:0 = 001b: deallocated blocks read as zeroes.
    pub const READ_ZEROES: u8 = 0b001;
    /// DRB, bits 2:0 = 010b: deallocated blocks read as FFh.
    pub const READ_ONES: u8 = 0b010;
    /// WZDS: Write Zeroes honours its Deallocate bit.
    pub const WRITE_ZEROES_DEALLOCATES: u8 = 1 << 3;
    /// GDS: the guard of deallocated blocks is the CRC of what is read.
    pub const GUARD_CRC: u8 = 1 << 4;
}

/// Bit 0 of NMIC: the namespace may be attached to two or more controllers.
pub const NMIC_SHARED: u8 = 1 << 0;

/// Bit 0 of NSATTR: the namespace is write protected at present.
pub const NSATTR_WRITE_PROTECTED: u8 = 1 << 0;

/// Bit 0 of NSTAT, byte 14 of the independent structure: the namespace is ready.
pub const NSTAT_READY: u8 = 1 << 0;

/// CNS 00h, 11h: Identify Namespace of the NVM command set
/// (NVM 1.1, figure "Identify – Identify Namespace Data Structure, NVM Command Set").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE: size in logical blocks; LBAs are 0..NSZE.
    pub nsze: U64,
    /// NCAP: the most logical blocks that may be allocated at once.
    pub ncap: U64,
    /// NUSE: logical blocks allocated now.
    pub nuse: U64,
    /// NSFEAT, see [`nsfeat`].
    pub nsfeat: u8,
    /// NLBAF: LBA formats, zero-based.
    pub nlbaf: u8,
    /// FLBAS: bits 3:0 and 6:5 the format in use, bit 4 metadata at the end of the block.
    pub flbas: u8,
    /// MC: metadata capabilities.
    pub mc: u8,
    /// DPC: end-to-end protection capabilities.
    pub dpc: u8,
    /// DPS: end-to-end protection in use.
    pub dps: u8,
    /// NMIC, see [`NMIC_SHARED`].
    pub nmic: u8,
    /// RESCAP: reservation capabilities; 0 is none.
    pub rescap: u8,
    /// FPI: format progress, bit 7 supported, bits 6:0 percent left.
    pub fpi: u8,
    /// DLFEAT, see [`dlfeat`].
    pub dlfeat: u8,
    /// NAWUN: atomic write unit normal, zero-based.
    pub nawun: U16,
    /// NAWUPF: atomic write unit power fail, zero-based.
    pub nawupf: U16,
    /// NACWU: atomic compare and write unit, zero-based.
    pub nacwu: U16,
    /// NABSN: atomic boundary size normal, zero-based; 0 is no boundary.
    pub nabsn: U16,
    /// NABO: atomic boundary offset.
    pub nabo: U16,
    /// NABSPF: atomic boundary size power fail.
    pub nabspf: U16,
    /// NOIOB: optimal I/O boundary in logical blocks; 0 is not reported.
    pub noiob: U16,
    /// NVMCAP: size of the NVM allocated to the namespace, bytes.
    pub nvmcap: U128,
    /// NPWG: preferred write granularity, logical blocks, zero-based.
    pub npwg: U16,
    /// NPWA: preferred write alignment, logical blocks, zero-based.
    pub npwa: U16,
    /// NPDG: preferred deallocate granularity, logical blocks, zero-based.
    pub npdg: U16,
    /// NPDA: preferred deallocate alignment, logical blocks, zero-based.
    pub npda: U16,
    /// NOWS: optimal write size, logical blocks, zero-based.
    pub nows: U16,
    /// MSSRL: most logical blocks in one source range of a Copy.
    pub mssrl: U16,
    /// MCL: most logical blocks in a Copy.
    pub mcl: U32,
    /// MSRC: most source ranges of a Copy, zero-based.
    pub msrc: u8,
    /// KPIOS: key per I/O status.
    pub kpios: u8,
    /// NULBAF: formats with unique attributes.
    pub nulbaf: u8,
    /// Reserved.
    pub rsvd83: u8,
    /// KPIODAAG: key per I/O data access alignment and granularity.
    pub kpiodaag: U32,
    /// Reserved.
    pub rsvd88: [u8; 4],
    /// ANAGRPID: ANA group; 0 is none.
    pub anagrpid: U32,
    /// Reserved.
    pub rsvd96: [u8; 3],
    /// NSATTR, see [`NSATTR_WRITE_PROTECTED`].
    pub nsattr: u8,
    /// NVMSETID.
    pub nvmsetid: U16,
    /// ENDGID.
    pub endgid: U16,
    /// NGUID, big-endian as a whole; zero is none.
    pub nguid: [u8; 16],
    /// EUI64, big-endian as a whole; zero is none.
    pub eui64: [u8; 8],
    /// LBAF0..LBAF63.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vs: [u8; 3712],
}

layout!(IdentifyNamespace, 4096, nsze @ 0, ncap @ 8, nuse @ 16, nsfeat @ 24, nlbaf @ 25, flbas @ 26, mc @ 27,
    dpc @ 28, dps @ 29, nmic @ 30, rescap @ 31, fpi @ 32, dlfeat @ 33, nawun @ 34, nawupf @ 36, nacwu @ 38,
    nabsn @ 40, nabo @ 42, nabspf @ 44, noiob @ 46, nvmcap @ 48, npwg @ 64, npwa @ 66, npdg @ 68, npda @ 70,
    nows @ 72, mssrl @ 74, mcl @ 76, msrc @ 80, kpios @ 81, nulbaf @ 82, kpiodaag @ 84, anagrpid @ 92,
    nsattr @ 99, nvmsetid @ 100, endgid @ 102, nguid @ 104, eui64 @ 120, lbaf @ 128, vs @ 384);
crate::zeroed!(IdentifyNamespace);

impl IdentifyNamespace {
    /// The index of the format in use: FLBAS bits 6:5 above bits 3:0.
    pub fn format_index(&self) -> usize {
        usize::from(self.flbas & 0x0f) | usize::from(self.flbas >> 5 & 0b11) << 4
    }

    /// The format in use; the index cannot leave the table.
    pub fn format(&self) -> LbaFormat {
        self.lbaf[self.format_index()]
    }

    /// The logical block size in bytes, or `None` where LBADS is not 9..=31 (a peer may send anything).
    pub fn block_size(&self) -> Option<u32> {
        match self.format().lbads {
            n @ 9..=31 => Some(1 << n),
            _ => None,
        }
    }
}

/// CNS 05h, CSI 00h: what the NVM command set adds about a namespace
/// (NVM 1.1, figure "NVM Command Set I/O Command Set Specific Identify Namespace Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NvmIdentifyNamespace {
    /// LBSTM: logical block storage tag mask.
    pub lbstm: U64,
    /// PIC: protection information capabilities.
    pub pic: u8,
    /// PIFA: protection information format attributes.
    pub pifa: u8,
    /// Reserved.
    pub rsvd10: [u8; 2],
    /// ELBAF0..63: bits 6:0 STS, 8:7 PIF, 12:9 QPIF.
    pub elbaf: [U32; 64],
    /// NPDGL: preferred deallocate granularity, large.
    pub npdgl: U32,
    /// NPRG: preferred read granularity.
    pub nprg: U32,
    /// NPRA: preferred read alignment.
    pub npra: U32,
    /// NORS: optimal read size.
    pub nors: U32,
    /// NPDAL: preferred deallocate alignment, large.
    pub npdal: U32,
    /// LBAPSS: LBA format placement shard size.
    pub lbapss: U32,
    /// TLBAAG: tracked LBA allocation granularity.
    pub tlbaag: U32,
    /// Reserved.
    pub rsvd296: [u8; 3800],
}

layout!(NvmIdentifyNamespace, 4096, lbstm @ 0, pic @ 8, pifa @ 9, elbaf @ 12, npdgl @ 268, nprg @ 272, npra @ 276,
    nors @ 280, npdal @ 284, lbapss @ 288, tlbaag @ 292);
crate::zeroed!(NvmIdentifyNamespace);

/// CNS 08h: Identify Namespace, independent of the I/O command set
/// (Base 2.1, figure "Identify – I/O Command Set Independent Identify Namespace Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IndependentNamespace {
    /// NSFEAT: bit 3 UIDREUSE, bit 4 RMEDIA, bit 5 VWCNP (1: no volatile write cache).
    pub nsfeat: u8,
    /// NMIC, see [`NMIC_SHARED`].
    pub nmic: u8,
    /// RESCAP.
    pub rescap: u8,
    /// FPI.
    pub fpi: u8,
    /// ANAGRPID.
    pub anagrpid: U32,
    /// NSATTR, see [`NSATTR_WRITE_PROTECTED`].
    pub nsattr: u8,
    /// Reserved.
    pub rsvd9: u8,
    /// NVMSETID.
    pub nvmsetid: U16,
    /// ENDGID.
    pub endgid: U16,
    /// NSTAT, see [`NSTAT_READY`].
    pub nstat: u8,
    /// KPIOS.
    pub kpios: u8,
    /// MAXKT: largest key tag.
    pub maxkt: U16,
    /// Reserved.
    pub rsvd18: [u8; 2],
    /// RGRPID: reachability group.
    pub rgrpid: U32,
    /// Reserved.
    pub rsvd24: [u8; 4072],
}

layout!(IndependentNamespace, 4096, nsfeat @ 0, nmic @ 1, rescap @ 2, fpi @ 3, anagrpid @ 4, nsattr @ 8,
    nvmsetid @ 10, endgid @ 12, nstat @ 14, kpios @ 15, maxkt @ 16, rgrpid @ 20, rsvd24 @ 24);
crate::zeroed!(IndependentNamespace);

/// CNS 02h, 07h, 10h, 1Ah: a Namespace List: increasing NSIDs, then zeroes (Base 2.1, 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NamespaceList {
    /// The identifiers; the first zero ends the list.
    pub ids: [U32; 1024],
}

layout!(NamespaceList, 4096, ids @ 0);
crate::zeroed!(NamespaceList);

impl NamespaceList {
    /// The first 1,024 of `ids`, which come in increasing order and hold no zero.
    pub fn collect(ids: impl IntoIterator<Item = u32>) -> NamespaceList {
        let mut list = NamespaceList::default();
        for (slot, id) in list.ids.iter_mut().zip(ids) {
            slot.set(id);
        }
        list
    }

    /// The identifiers up to the first zero.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().map(|id| id.get()).take_while(|&id| id != 0)
    }
}

/// One Namespace Identification Descriptor's value (Base 2.1, figure "Namespace Identification Descriptor").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NsDescriptor {
    /// NIDT 1h, 8 bytes.
    Eui64([u8; 8]),
    /// NIDT 2h, 16 bytes.
    Nguid([u8; 16]),
    /// NIDT 3h, 16 bytes, in the byte order of RFC 9562.
    Uuid([u8; 16]),
    /// NIDT 4h, 1 byte: the I/O command set.
    Csi(u8),
}

impl NsDescriptor {
    /// NIDT and the bytes of NID.
    fn parts(&self) -> (u8, &[u8]) {
        match self {
            NsDescriptor::Eui64(id) => (1, id),
            NsDescriptor::Nguid(id) => (2, id),
            NsDescriptor::Uuid(id) => (3, id),
            NsDescriptor::Csi(id) => (4, core::slice::from_ref(id)),
        }
    }
}

/// Lays out CNS 03h: each descriptor is NIDT, NIDL, two reserved bytes and NID; zeroes end the list.
/// What would not fit 4,096 bytes is left out whole (there are four types, so nothing valid is).
pub fn write_ns_descriptors(list: &[NsDescriptor]) -> [u8; 4096] {
    let mut out = [0u8; 4096];
    let mut at = 0;
    for descriptor in list {
        let (nidt, nid) = descriptor.parts();
        let end = at + 4 + nid.len();
        if end > out.len() {
            break;
        }
        out[at] = nidt;
        out[at + 1] = nid.len() as u8;
        out[at + 4..end].copy_from_slice(nid);
        at = end;
    }
    out
}

/// Reads CNS 03h up to the terminator, the end, or a descriptor that does not fit; unknown types and wrong lengths
/// are passed over.
pub fn read_ns_descriptors(mut data: &[u8]) -> Vec<NsDescriptor> {
    let mut out = Vec::new();
    while let [nidt, nidl @ 1..=255, _, _, rest @ ..] = data {
        let Some((nid, next)) = rest.split_at_checked(usize::from(*nidl)) else { break };
        data = next;
        out.extend(match (nidt, nid) {
            (1, id) => id.try_into().ok().map(NsDescriptor::Eui64),
            (2, id) => id.try_into().ok().map(NsDescriptor::Nguid),
            (3, id) => id.try_into().ok().map(NsDescriptor::Uuid),
            (4, [csi]) => Some(NsDescriptor::Csi(*csi)),
            _ => None,
        });
    }
    out
}
