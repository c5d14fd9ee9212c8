//! Features (Base 2.1, 5.1.25 and 5.1.11) and asynchronous events (5.1.2): identifiers, bits and data structures.
//!
//! Owns names and bytes only; what is saveable, changeable and current is judged above.

use crate::layout;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Feature identifiers, CDW10 bits 7:0 (Base 2.1, figure "Set Features – Feature Identifiers"; NVM 1.1, 4.1.3).
pub mod fid {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER: u8 = 0x02;
    /// LBA Range Type.
    pub const LBA_RANGE: u8 = 0x03;
    /// Temperature Threshold.
    pub const TEMPERATURE: u8 = 0x04;
    /// Error Recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache.
    pub const VWC: u8 = 0x06;
    /// Number of Queues.
    pub const QUEUES: u8 = 0x07;
    /// Interrupt Coalescing; not for fabrics.
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration; not for fabrics.
    pub const INTERRUPT_VECTOR: u8 = 0x09;
    /// Write Atomicity Normal.
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENT: u8 = 0x0b;
    /// Autonomous Power State Transition.
    pub const APST: u8 = 0x0c;
    /// Host Memory Buffer; not for fabrics.
    pub const HMB: u8 = 0x0d;
    /// Timestamp.
    pub const TIMESTAMP: u8 = 0x0e;
    /// Keep Alive Timer.
    pub const KATO: u8 = 0x0f;
    /// Host Controlled Thermal Management.
    pub const HCTM: u8 = 0x10;
    /// Non-Operational Power State Config.
    pub const NOPSC: u8 = 0x11;
    /// Read Recovery Level Config.
    pub const RRL: u8 = 0x12;
    /// LBA Status Information Attributes.
    pub const LBA_STATUS: u8 = 0x15;
    /// Host Behavior Support.
    pub const HOST_BEHAVIOR: u8 = 0x16;
    /// Sanitize Config.
    pub const SANITIZE: u8 = 0x17;
    /// I/O Command Set Profile.
    pub const IO_COMMAND_SET_PROFILE: u8 = 0x19;
    /// Software Progress Marker.
    pub const PROGRESS: u8 = 0x80;
    /// Host Identifier.
    pub const HOST_ID: u8 = 0x81;
    /// Reservation Notification Mask.
    pub const RESERVATION_MASK: u8 = 0x82;
    /// Reservation Persistence.
    pub const RESERVATION_PERSISTENCE: u8 = 0x83;
    /// Namespace Write Protection Config.
    pub const WRITE_PROTECT: u8 = 0x84;
}

/// SEL, CDW10 bits 10:8 of Get Features.
pub mod sel {
    /// Current value.
    pub const CURRENT: u8 = 0;
    /// Default value.
    pub const DEFAULT: u8 = 1;
    /// Saved value.
    pub const SAVED: u8 = 2;
    /// Supported capabilities, answered in DW0, see [`super::capability`].
    pub const CAPABILITIES: u8 = 3;
}

/// SV, CDW10 bit 31 of Set Features: save the value.
pub const SV: u32 = 1 << 31;

/// DW0 of Get Features with SEL 3h (Base 2.1, figure "Completion Queue Entry Dword 0 when Select is set to 3h").
pub mod capability {
    /// The feature is saveable.
    pub const SAVEABLE: u32 = 1 << 0;
    /// It is specific to a namespace.
    pub const NS_SPECIFIC: u32 = 1 << 1;
    /// It is changeable.
    pub const CHANGEABLE: u32 = 1 << 2;
}

/// Feature 0Bh, CDW11: which asynchronous events are asked for
/// (Base 2.1, figure "Asynchronous Event Configuration – Command Dword 11"). Bits 8 and up are as in OAES.
pub mod aec {
    /// SMART / Health: bits 7:0, as the log's Critical Warning (see [`crate::log::critical`]).
    pub const SMART_MASK: u32 = 0xff;
    /// Namespace Attribute Notices.
    pub const NS_ATTR: u32 = 1 << 8;
    /// Firmware Activation Notices.
    pub const FW_ACTIVATION: u32 = 1 << 9;
    /// Telemetry Log Notices.
    pub const TELEMETRY: u32 = 1 << 10;
    /// Asymmetric Namespace Access Change Notices.
    pub const ANA_CHANGE: u32 = 1 << 11;
    /// Predictable Latency Event Aggregate Log Change Notices.
    pub const PREDICTABLE_LATENCY: u32 = 1 << 12;
    /// LBA Status Information Alert Notices.
    pub const LBA_STATUS: u32 = 1 << 13;
    /// Endurance Group Event Aggregate Log Change Notices.
    pub const ENDURANCE_GROUP: u32 = 1 << 14;
    /// Normal NVM Subsystem Shutdown.
    pub const SUBSYSTEM_SHUTDOWN: u32 = 1 << 15;
    /// Discovery Log Page Change Notification.
    pub const DISCOVERY_CHANGE: u32 = 1 << 31;
}

/// An asynchronous event: what DW0 of an Asynchronous Event Request's completion says
/// (Base 2.1, figure "Asynchronous Event Request – Completion Queue Entry Dword 0").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AsyncEvent {
    /// AET, bits 2:0, see [`aet`].
    pub aet: u8,
    /// AEI, bits 15:8, see [`aei`].
    pub aei: u8,
    /// LID, bits 23:16: the log page to read, which clears the event.
    pub lid: u8,
}

/// Asynchronous Event Type.
pub mod aet {
    /// Error status.
    pub const ERROR: u8 = 0;
    /// SMART / Health status.
    pub const SMART: u8 = 1;
    /// Notice.
    pub const NOTICE: u8 = 2;
    /// Immediate.
    pub const IMMEDIATE: u8 = 3;
    /// One-Shot.
    pub const ONE_SHOT: u8 = 4;
    /// I/O command specific status.
    pub const IO: u8 = 6;
    /// Vendor specific.
    pub const VENDOR: u8 = 7;
}

/// Asynchronous Event Information; the meaning depends on the type.
pub mod aei {
    /// Error: persistent internal error.
    pub const ERROR_PERSISTENT: u8 = 0x03;
    /// Error: transient internal error.
    pub const ERROR_TRANSIENT: u8 = 0x04;
    /// SMART: NVM subsystem reliability.
    pub const SMART_RELIABILITY: u8 = 0x00;
    /// SMART: temperature threshold.
    pub const SMART_TEMPERATURE: u8 = 0x01;
    /// SMART: spare below threshold.
    pub const SMART_SPARE: u8 = 0x02;
    /// Notice: attached namespace attribute changed.
    pub const NS_ATTR: u8 = 0x00;
    /// Notice: firmware activation starting.
    pub const FW_ACTIVATION: u8 = 0x01;
    /// Notice: telemetry log changed.
    pub const TELEMETRY: u8 = 0x02;
    /// Notice: asymmetric namespace access change.
    pub const ANA_CHANGE: u8 = 0x03;
    /// Notice: discovery log page change.
    pub const DISCOVERY_CHANGE: u8 = 0xf0;
    /// I/O: reservation log page available.
    pub const RESERVATION: u8 = 0x00;
    /// I/O: sanitize operation completed.
    pub const SANITIZE: u8 = 0x01;
    /// I/O: sanitize operation completed with unexpected deallocation.
    pub const SANITIZE_DEALLOCATED: u8 = 0x02;
    /// Immediate: normal NVM subsystem shutdown.
    pub const SUBSYSTEM_SHUTDOWN: u8 = 0x00;
}

impl AsyncEvent {
    /// An attached namespace was added, removed or changed: read LID 04h.
    pub const NS_ATTR: AsyncEvent =
        AsyncEvent { aet: aet::NOTICE, aei: aei::NS_ATTR, lid: crate::log::lid::CHANGED_NS };
    /// The discovery log page changed: read LID 70h.
    pub const DISCOVERY_CHANGE: AsyncEvent =
        AsyncEvent { aet: aet::NOTICE, aei: aei::DISCOVERY_CHANGE, lid: crate::log::lid::DISCOVERY };
    /// Reliability is degraded: read LID 02h.
    pub const RELIABILITY: AsyncEvent =
        AsyncEvent { aet: aet::SMART, aei: aei::SMART_RELIABILITY, lid: crate::log::lid::SMART };
    /// The spare has fallen below its threshold: read LID 02h.
    pub const SPARE: AsyncEvent =
        AsyncEvent { aet: aet::SMART, aei: aei::SMART_SPARE, lid: crate::log::lid::SMART };
    /// A sanitize operation has ended: read LID 81h.
    pub const SANITIZE: AsyncEvent =
        AsyncEvent { aet: aet::IO, aei: aei::SANITIZE, lid: crate::log::lid::SANITIZE };
    /// The same, with a deallocation that it was asked not to do.
    pub const SANITIZE_DEALLOCATED: AsyncEvent =
        AsyncEvent { aet: aet::IO, aei: aei::SANITIZE_DEALLOCATED, lid: crate::log::lid::SANITIZE };
    /// An internal error that lasts: read LID 01h.
    pub const PERSISTENT_ERROR: AsyncEvent =
        AsyncEvent { aet: aet::ERROR, aei: aei::ERROR_PERSISTENT, lid: crate::log::lid::ERROR };

    /// As DW0.
    pub const fn dw0(self) -> u32 {
        (self.aet & 0b111) as u32 | (self.aei as u32) << 8 | (self.lid as u32) << 16
    }

    /// From DW0; reserved bits are ignored.
    pub const fn from_dw0(dw0: u32) -> AsyncEvent {
        AsyncEvent { aet: (dw0 & 0b111) as u8, aei: (dw0 >> 8) as u8, lid: (dw0 >> 16) as u8 }
    }
}

/// Feature 07h, CDW11 and DW0: NSQ in bits 15:0 and NCQ in bits 31:16, both zero-based. FFFFh is not allowed in a
/// request (Base 2.1, 5.1.25.2.1): `None` then.
pub const fn queues_requested(cdw11: u32) -> Option<(u32, u32)> {
    let (nsq, ncq) = (cdw11 & 0xffff, cdw11 >> 16);
    if nsq == 0xffff || ncq == 0xffff { None } else { Some((nsq + 1, ncq + 1)) }
}

/// Feature 07h: DW0 for this many submission and completion queues, each 1..=65,535.
pub const fn queues_allocated(submission: u32, completion: u32) -> u32 {
    (submission.saturating_sub(1) & 0xffff) | (completion.saturating_sub(1) & 0xffff) << 16
}

/// Feature 06h, CDW11 bit 0: WCE, the volatile write cache is enabled.
pub const WCE: u32 = 1 << 0;

/// Feature 05h, CDW11 bit 16: DULBE, reads of deallocated or unwritten blocks fail. Bits 15:0 are TLER.
pub const DULBE: u32 = 1 << 16;

/// Feature 04h, CDW11: bits 15:0 TMPTH in kelvin, 19:16 TMPSEL, 21:20 THSEL.
pub mod temperature {
    /// TMPTH after a reset for the over temperature threshold of sensors that are not implemented: no threshold.
    pub const NONE_OVER: u32 = 0xffff;
    /// THSEL: over temperature threshold.
    pub const OVER: u32 = 0;
    /// THSEL: under temperature threshold.
    pub const UNDER: u32 = 1;
}

/// Feature 84h, CDW11 bits 2:0: WPS, the namespace's write protection state.
pub mod wps {
    /// No Write Protect.
    pub const NONE: u32 = 0;
    /// Write Protect.
    pub const PROTECT: u32 = 1;
    /// Write Protect Until Power Cycle.
    pub const UNTIL_POWER_CYCLE: u32 = 2;
    /// Permanent Write Protect.
    pub const PERMANENT: u32 = 3;
}

/// Feature 81h, CDW11 bit 0: EXHID, the identifier has 128 bits. Over fabrics it must be set.
pub const EXHID: u32 = 1 << 0;

/// The largest Keep Alive Timeout that KATO can say, in milliseconds (Feature 0Fh, CDW11).
pub const KATO_MAX_MS: u32 = u32::MAX;

/// KATO rounded up to the granularity `kas` (units of 100 ms; 0 leaves it), as Base 2.1, 3.9 "Keep Alive" asks.
/// Saturates instead of overflowing.
pub const fn round_kato(kato_ms: u32, kas: u16) -> u32 {
    let unit = kas as u32 * 100;
    if unit == 0 || kato_ms == 0 {
        return kato_ms;
    }
    match kato_ms.checked_next_multiple_of(unit) {
        Some(ms) => ms,
        None => u32::MAX - u32::MAX % unit,
    }
}

/// Feature 0Eh: 8 bytes (Base 2.1, figure "Timestamp – Data Structure").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Timestamp {
    /// TIMESTAMP: milliseconds, 48 bits little-endian, since 1970-01-01 00:00 UTC where the host has set it.
    pub timestamp: [u8; 6],
    /// TSO in bits 3:1 (0: cleared at reset, 1: set by a host), SYNCH in bit 0 (1: may have stopped counting).
    pub attributes: u8,
    /// Reserved.
    pub rsvd7: u8,
}

layout!(Timestamp, 8, timestamp @ 0, attributes @ 6, rsvd7 @ 7);

impl Timestamp {
    /// TSO of a timestamp that no host has set.
    pub const ORIGIN_RESET: u8 = 0;
    /// TSO of a timestamp that a host has set.
    pub const ORIGIN_HOST: u8 = 1;

    /// A timestamp of `ms` (its lowest 48 bits) with the origin `tso`.
    pub fn new(ms: u64, tso: u8) -> Timestamp {
        let b = ms.to_le_bytes();
        Timestamp {
            timestamp: [b[0], b[1], b[2], b[3], b[4], b[5]],
            attributes: (tso & 0b111) << 1,
            rsvd7: 0,
        }
    }

    /// The milliseconds.
    pub fn millis(&self) -> u64 {
        let t = self.timestamp;
        u64::from_le_bytes([t[0], t[1], t[2], t[3], t[4], t[5], 0, 0])
    }

    /// TSO.
    pub fn origin(&self) -> u8 {
        self.attributes >> 1 & 0b111
    }
}

/// Feature 16h: 512 bytes (Base 2.1, figure "Host Behavior Support – Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct HostBehavior {
    /// ACRE: 1 where the host takes the Command Interrupted status and command retry delays.
    pub acre: u8,
    /// ETDAS: 1 where the host takes extended telemetry.
    pub etdas: u8,
    /// LBAFEE: 1 where the host takes extended LBA formats.
    pub lbafee: u8,
    /// HDISNS: 1 where the host takes dispersed namespaces.
    pub hdisns: u8,
    /// CDFE: bit n, copy descriptor format n is enabled (formats 2h, 3h and 4h need it).
    pub cdfe: U16,
    /// Reserved.
    pub rsvd6: [u8; 506],
}

layout!(HostBehavior, 512, acre @ 0, etdas @ 1, lbafee @ 2, hdisns @ 3, cdfe @ 4, rsvd6 @ 6);
crate::zeroed!(HostBehavior);

/// One range of a Dataset Management (NVM 1.1, figure "Dataset Management – Range Definition").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DsmRange {
    /// CATTR: context attributes, hints only.
    pub cattr: U32,
    /// LLB: length in logical blocks, not zero-based.
    pub llb: U32,
    /// SLBA.
    pub slba: U64,
}

layout!(DsmRange, 16, cattr @ 0, llb @ 4, slba @ 8);

/// CDW11 of Dataset Management. CDW10 bits 7:0 are NR, zero-based.
pub mod dsm {
    /// IDR: integral dataset for read.
    pub const IDR: u32 = 1 << 0;
    /// IDW: integral dataset for write.
    pub const IDW: u32 = 1 << 1;
    /// AD: deallocate.
    pub const AD: u32 = 1 << 2;
}

/// A source range entry of a Copy, descriptor format 0h
/// (NVM 1.1, figure "Copy – Source Range Entries Copy Descriptor Format 0h").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CopyRange {
    /// Reserved (SNSID in formats 2h and 3h).
    pub rsvd0: [u8; 8],
    /// SLBA.
    pub slba: U64,
    /// NLB, zero-based.
    pub nlb: U16,
    /// Reserved and CETYPE (bits 3:0 of byte 18).
    pub rsvd18: [u8; 2],
    /// CEV: command extension value.
    pub cev: U16,
    /// SOPT in formats 2h and 3h.
    pub sopt: U16,
    /// ELBTR: expected initial logical block reference tag.
    pub elbrt: U32,
    /// ELBAT: expected logical block application tag.
    pub elbat: U16,
    /// ELBATM: its mask.
    pub elbatm: U16,
}

layout!(CopyRange, 32, slba @ 8, nlb @ 16, cev @ 20, sopt @ 22, elbrt @ 24, elbat @ 28, elbatm @ 30);

/// CDW12 of the I/O commands with data (NVM 1.1, 3.3): bits 15:0 are NLB.
pub mod cdw12 {
    /// STC: storage tag check (bit 24).
    pub const STC: u32 = 1 << 24;
    /// DEAC: Write Zeroes deallocates (bit 25).
    pub const DEAC: u32 = 1 << 25;
    /// NSZ: Write Zeroes clears the whole namespace (bit 23).
    pub const NSZ: u32 = 1 << 23;
    /// PRINFO, bits 29:26: PRACT (bit 29) and PRCHK.
    pub const PRINFO_MASK: u32 = 0xf << 26;
    /// FUA (bit 30).
    pub const FUA: u32 = 1 << 30;
    /// LR: limited retry (bit 31).
    pub const LR: u32 = 1 << 31;
}
