//! Log pages (Base 2.1, 5.1.12): their identifiers and layouts.
//!
//! Owns the bytes only; what is counted and when is judged above. The discovery log page is in [`crate::discovery`].

use crate::layout;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Log page identifiers, CDW10 bits 7:0 of Get Log Page (Base 2.1, figure "Get Log Page – Log Page Identifiers").
pub mod lid {
    /// Supported Log Pages.
    pub const SUPPORTED: u8 = 0x00;
    /// Error Information.
    pub const ERROR: u8 = 0x01;
    /// SMART / Health Information.
    pub const SMART: u8 = 0x02;
    /// Firmware Slot Information.
    pub const FIRMWARE_SLOT: u8 = 0x03;
    /// Changed Attached Namespace List.
    pub const CHANGED_NS: u8 = 0x04;
    /// Commands Supported and Effects.
    pub const EFFECTS: u8 = 0x05;
    /// Device Self-test.
    pub const SELF_TEST: u8 = 0x06;
    /// Telemetry Host-Initiated.
    pub const TELEMETRY_HOST: u8 = 0x07;
    /// Telemetry Controller-Initiated.
    pub const TELEMETRY_CONTROLLER: u8 = 0x08;
    /// Endurance Group Information.
    pub const ENDURANCE_GROUP: u8 = 0x09;
    /// Asymmetric Namespace Access.
    pub const ANA: u8 = 0x0c;
    /// Persistent Event.
    pub const PERSISTENT_EVENT: u8 = 0x0d;
    /// LBA Status Information.
    pub const LBA_STATUS: u8 = 0x0e;
    /// Feature Identifiers Supported and Effects.
    pub const FEATURE_EFFECTS: u8 = 0x12;
    /// NVMe-MI Commands Supported and Effects.
    pub const MI_EFFECTS: u8 = 0x13;
    /// Boot Partition.
    pub const BOOT_PARTITION: u8 = 0x15;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
    /// Reservation Notification.
    pub const RESERVATION: u8 = 0x80;
    /// Sanitize Status.
    pub const SANITIZE: u8 = 0x81;
}

/// One entry of LID 01h (Base 2.1, figure "Error Information Log Entry Data Structure"); the newest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ErrorEntry {
    /// ECNT: a number that grows with each error over the controller's life; 0 is an unused entry.
    pub ecnt: U64,
    /// SQID; FFFFh where none applies.
    pub sqid: U16,
    /// CID; FFFFh where none applies.
    pub cid: U16,
    /// STS: the completion's Status field, with the phase in bit 0 (see [`crate::Status::field`]).
    pub sts: U16,
    /// PEL: bits 7:0 the byte, 10:8 the bit of the command's parameter at fault; FFFFh where it is none.
    pub pel: U16,
    /// LBA: the first logical block at fault.
    pub lba: U64,
    /// NSID.
    pub nsid: U32,
    /// VSIA: the log page with more of the vendor's own; 0 is none.
    pub vsia: u8,
    /// TRTYPE of the transport, see [`crate::discovery::trtype`].
    pub trtype: u8,
    /// CSI of the command; valid where LPVER is 1h or more.
    pub csi: u8,
    /// OPC of the command; valid where LPVER is 1h or more.
    pub opc: u8,
    /// CSINFO: command specific information.
    pub csinfo: U64,
    /// TTSI: transport type specific information.
    pub ttsi: U16,
    /// Reserved.
    pub rsvd42: [u8; 21],
    /// LPVER: 1h for this layout.
    pub lpver: u8,
}

layout!(ErrorEntry, 64, ecnt @ 0, sqid @ 8, cid @ 10, sts @ 12, pel @ 14, lba @ 16, nsid @ 24, vsia @ 28,
    trtype @ 29, csi @ 30, opc @ 31, csinfo @ 32, ttsi @ 40, lpver @ 63);
crate::zeroed!(ErrorEntry);

/// PEL where no byte of the command is at fault.
pub const PEL_NONE: u16 = 0xffff;

/// PEL from the byte of the command and the bit in it (0..=7) where the field at fault starts.
pub const fn pel(byte: u8, bit: u8) -> u16 {
    byte as u16 | ((bit & 0x7) as u16) << 8
}

/// Bits of CW, byte 0 of the SMART log.
pub mod critical {
    /// Available spare has fallen below the threshold.
    pub const SPARE: u8 = 1 << 0;
    /// A temperature is past a threshold.
    pub const TEMPERATURE: u8 = 1 << 1;
    /// Reliability is degraded.
    pub const RELIABILITY: u8 = 1 << 2;
    /// All media is read-only.
    pub const READ_ONLY: u8 = 1 << 3;
    /// The volatile memory backup device has failed.
    pub const BACKUP: u8 = 1 << 4;
}

/// LID 02h (Base 2.1, figure "SMART / Health Information Log Page").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SmartLog {
    /// CW, see [`critical`].
    pub cw: u8,
    /// CTEMP: composite temperature in kelvin; 0 is not reported.
    pub ctemp: U16,
    /// AVSP: available spare, percent.
    pub avsp: u8,
    /// AVSPT: available spare threshold, percent.
    pub avspt: u8,
    /// PUSED: percentage used.
    pub pused: u8,
    /// EGCWS: endurance group critical warning summary.
    pub egcws: u8,
    /// Reserved.
    pub rsvd7: [u8; 25],
    /// DUR: data units read: thousands of 512 bytes, rounded up.
    pub dur: U128,
    /// DUW: data units written, the same unit.
    pub duw: U128,
    /// HRC: host read commands (Read, Compare, Verify count as the command set says).
    pub hrc: U128,
    /// HWC: host write commands.
    pub hwc: U128,
    /// CBT: controller busy time in minutes.
    pub cbt: U128,
    /// PWRC: power cycles.
    pub pwrc: U128,
    /// POH: power on hours.
    pub poh: U128,
    /// UPL: unexpected power losses.
    pub upl: U128,
    /// MDIE: media and data integrity errors.
    pub mdie: U128,
    /// NEILE: number of error information log entries over the controller's life.
    pub neile: U128,
    /// WCTT: warning composite temperature time, minutes.
    pub wctt: U32,
    /// CCTT: critical composite temperature time, minutes.
    pub cctt: U32,
    /// TSEN1..8: temperature sensors, kelvin.
    pub tsen: [U16; 8],
    /// TMT1TC: thermal management temperature 1 transitions.
    pub tmt1tc: U32,
    /// TMT2TC.
    pub tmt2tc: U32,
    /// TTTMT1: total time for thermal management temperature 1, seconds.
    pub tttmt1: U32,
    /// TTTMT2.
    pub tttmt2: U32,
    /// Reserved.
    pub rsvd232: [u8; 280],
}

layout!(SmartLog, 512, cw @ 0, ctemp @ 1, avsp @ 3, avspt @ 4, pused @ 5, egcws @ 6, dur @ 32, duw @ 48, hrc @ 64,
    hwc @ 80, cbt @ 96, pwrc @ 112, poh @ 128, upl @ 144, mdie @ 160, neile @ 176, wctt @ 192, cctt @ 196,
    tsen @ 200, tmt1tc @ 216, tmt2tc @ 220, tttmt1 @ 224, tttmt2 @ 228, rsvd232 @ 232);
crate::zeroed!(SmartLog);

/// LID 03h (Base 2.1, figure "Firmware Slot Information Log Page").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// AFI: bits 2:0 the slot in use, bits 6:4 the slot after the next reset (0: not told).
    pub afi: u8,
    /// Reserved.
    pub rsvd1: [u8; 7],
    /// FRS1..7: firmware revisions, ASCII; zeroes for an empty slot.
    pub frs: [[u8; 8]; 7],
    /// Reserved.
    pub rsvd64: [u8; 448],
}

layout!(FirmwareSlotLog, 512, afi @ 0, frs @ 8, rsvd64 @ 64);
crate::zeroed!(FirmwareSlotLog);

/// LID 04h: the attached namespaces changed since the log was last read: a Namespace List, or FFFFFFFFh first and zeroes
/// after it where there are more than 1,024 (Base 2.1, figure "Changed Attached Namespace List Log Page").
pub type ChangedNamespaces = crate::identify::NamespaceList;

/// Fields of one Commands Supported and Effects entry (Base 2.1, figure "Commands Supported and Effects Data Structure").
pub mod effect {
    /// CSUPP: the command is supported.
    pub const CSUPP: u32 = 1 << 0;
    /// LBCC: it may change the content of logical blocks.
    pub const LBCC: u32 = 1 << 1;
    /// NCC: it may change a namespace's capabilities.
    pub const NCC: u32 = 1 << 2;
    /// NIC: it may change the inventory of namespaces.
    pub const NIC: u32 = 1 << 3;
    /// CCC: it may change the controller's capabilities.
    pub const CCC: u32 = 1 << 4;
    /// CSE, bits 18:16 = 001b: submitted alone to its namespace.
    pub const CSE_NAMESPACE: u32 = 0b001 << 16;
    /// CSE, bits 18:16 = 010b: submitted alone to any namespace.
    pub const CSE_ALL: u32 = 0b010 << 16;
    /// USS: a UUID may be selected.
    pub const USS: u32 = 1 << 19;
    /// CSP bit 0: the scope is a namespace.
    pub const CSP_NAMESPACE: u32 = 1 << 20;
    /// CSP bit 1: the scope is the controller.
    pub const CSP_CONTROLLER: u32 = 1 << 21;
    /// CSP bit 5: the scope is the NVM subsystem.
    pub const CSP_SUBSYSTEM: u32 = 1 << 25;
}

/// LID 05h (Base 2.1, figure "Commands Supported and Effects Log Page").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EffectsLog {
    /// ACS0..255: by admin opcode, see [`effect`].
    pub acs: [U32; 256],
    /// IOCS0..255: by I/O opcode of the command set in CDW14.CSI.
    pub iocs: [U32; 256],
    /// Reserved.
    pub rsvd2048: [u8; 2048],
}

layout!(EffectsLog, 4096, acs @ 0, iocs @ 1024, rsvd2048 @ 2048);
crate::zeroed!(EffectsLog);

/// Fields of one entry of LID 00h (Base 2.1, figure "LID Supported and Effects Data Structure").
pub mod lid_effect {
    /// LSUPP: the log page is supported.
    pub const LSUPP: u32 = 1 << 0;
    /// IOS: an index offset is supported (Get Log Page's OT bit).
    pub const IOS: u32 = 1 << 1;
    /// LIDSP, bits 31:16, of LID 70h: EXTDLPES, extended discovery log page entries are supported.
    pub const EXTENDED_ENTRIES: u32 = 1 << 16;
    /// LIDSP of LID 70h: PLEOS, port local entries only can be asked for.
    pub const PORT_LOCAL: u32 = 1 << 17;
    /// LIDSP of LID 70h: ALLSUBES, all NVM subsystem entries can be asked for.
    pub const ALL_SUBSYSTEMS: u32 = 1 << 18;
}

/// LID 00h: by log page identifier, see [`lid_effect`] (Base 2.1, figure "Supported Log Pages Log Page").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SupportedPages {
    /// LIDS0..255.
    pub lids: [U32; 256],
}

layout!(SupportedPages, 1024, lids @ 0);
crate::zeroed!(SupportedPages);

/// Fields of one entry of LID 12h (Base 2.1, figure "FID Supported and Effects Data Structure").
pub mod fid_effect {
    /// FSUPP: the feature is supported.
    pub const FSUPP: u32 = 1 << 0;
    /// UDCC: setting it may change user data.
    pub const UDCC: u32 = 1 << 1;
    /// NCC: setting it may change a namespace's capabilities.
    pub const NCC: u32 = 1 << 2;
    /// NIC: setting it may change the inventory of namespaces.
    pub const NIC: u32 = 1 << 3;
    /// CCC: setting it may change the controller's capabilities.
    pub const CCC: u32 = 1 << 4;
    /// USS: a UUID may be selected.
    pub const USS: u32 = 1 << 19;
    /// FSP bit 0: the scope is a namespace.
    pub const FSP_NAMESPACE: u32 = 1 << 20;
    /// FSP bit 1: the scope is the controller.
    pub const FSP_CONTROLLER: u32 = 1 << 21;
    /// FSP bit 5: the scope is the NVM subsystem.
    pub const FSP_SUBSYSTEM: u32 = 1 << 25;
}

/// LID 12h: by feature identifier, see [`fid_effect`]
/// (Base 2.1, figure "Feature Identifiers Supported and Effects Log Page").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FeatureEffects {
    /// FIDS0..255.
    pub fids: [U32; 256],
}

layout!(FeatureEffects, 1024, fids @ 0);
crate::zeroed!(FeatureEffects);

/// The fields of a Get Log Page command, taken apart (Base 2.1, 5.1.12, figures for CDW10..CDW14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetLogPage {
    /// LID.
    pub lid: u8,
    /// LSP, bits 14:8 of CDW10.
    pub lsp: u8,
    /// RAE: leave the asynchronous event standing.
    pub rae: bool,
    /// Bytes asked for: (NUMDU:NUMDL + 1) * 4.
    pub len: u64,
    /// LSI, bits 31:16 of CDW11.
    pub lsi: u16,
    /// LPOU:LPOL, in bytes or, where `ot` is set, as an index.
    pub offset: u64,
    /// UUID Index, bits 6:0 of CDW14.
    pub uuid_index: u8,
    /// OT, bit 23 of CDW14: the offset is an index.
    pub ot: bool,
    /// CSI, bits 31:24 of CDW14.
    pub csi: u8,
}

impl GetLogPage {
    /// Takes the command apart; any bits are accepted.
    pub fn of(sqe: &crate::Sqe) -> GetLogPage {
        let (d10, d11, d14) = (sqe.cdw10.get(), sqe.cdw11.get(), sqe.cdw14.get());
        let numd = u64::from(d10 >> 16) | u64::from(d11 & 0xffff) << 16;
        GetLogPage {
            lid: d10 as u8,
            lsp: (d10 >> 8 & 0x7f) as u8,
            rae: d10 & 1 << 15 != 0,
            len: (numd + 1) * 4,
            lsi: (d11 >> 16) as u16,
            offset: u64::from(sqe.cdw12.get()) | u64::from(sqe.cdw13.get()) << 32,
            uuid_index: (d14 & 0x7f) as u8,
            ot: d14 & 1 << 23 != 0,
            csi: (d14 >> 24) as u8,
        }
    }

    /// Writes CDW10..CDW14; `len` must be a multiple of 4 from 4 to 16 GiB, and is rounded down to one.
    pub fn put(&self, sqe: &mut crate::Sqe) {
        let numd = (self.len / 4).saturating_sub(1) as u32;
        sqe.cdw10.set(
            u32::from(self.lid)
                | u32::from(self.lsp & 0x7f) << 8
                | u32::from(self.rae) << 15
                | (numd & 0xffff) << 16,
        );
        sqe.cdw11.set(numd >> 16 | u32::from(self.lsi) << 16);
        sqe.cdw12.set(self.offset as u32);
        sqe.cdw13.set((self.offset >> 32) as u32);
        sqe.cdw14
            .set(u32::from(self.uuid_index & 0x7f) | u32::from(self.ot) << 23 | u32::from(self.csi) << 24);
    }
}
