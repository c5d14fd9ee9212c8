//! Bits and values of the fields of Identify Controller (Base 2.1, figure "Identify – Identify Controller Data Structure, I/O Command Set
//! Independent"), in the order of the figure but for CNTRLTYPE. Owns no layout: those are in identify.rs.

/// CNTRLTYPE, byte 111 of Identify Controller.
pub mod cntrltype {
    /// I/O controller.
    pub const IO: u8 = 1;
    /// Discovery controller.
    pub const DISCOVERY: u8 = 2;
    /// Administrative controller.
    pub const ADMINISTRATIVE: u8 = 3;
}

/// Bits of CMIC, byte 76.
pub mod cmic {
    /// The subsystem may have more than one port.
    pub const MULTI_PORT: u8 = 1 << 0;
    /// The subsystem may have more than one controller.
    pub const MULTI_CTRL: u8 = 1 << 1;
    /// Asymmetric Namespace Access Reporting.
    pub const ANA: u8 = 1 << 3;
}

/// Bits of CTRATT, bytes 99:96.
pub mod ctratt {
    /// Host Identifier Support: 128-bit host identifiers. Mandatory over fabrics.
    pub const HIDS: u32 = 1 << 0;
    /// Non-Operational Power State Permissive Mode.
    pub const NOPSPM: u32 = 1 << 1;
    /// NVM Sets.
    pub const NSETS: u32 = 1 << 2;
    /// Read Recovery Levels.
    pub const RRLVLS: u32 = 1 << 3;
    /// Endurance Groups.
    pub const EGS: u32 = 1 << 4;
    /// Traffic Based Keep Alive.
    pub const TBKAS: u32 = 1 << 6;
    /// Namespace Granularity.
    pub const NG: u32 = 1 << 7;
    /// UUID list.
    pub const ULIST: u32 = 1 << 9;
    /// Multi-Domain Subsystem.
    pub const MDS: u32 = 1 << 10;
    /// Extended LBA Formats: more than 16 LBA formats, and the storage tag.
    pub const ELBAS: u32 = 1 << 15;
}

/// Bits of OACS, bytes 257:256.
pub mod oacs {
    /// Security Send and Receive.
    pub const SECURITY: u16 = 1 << 0;
    /// Format NVM.
    pub const FORMAT: u16 = 1 << 1;
    /// Firmware Commit and Image Download.
    pub const FIRMWARE: u16 = 1 << 2;
    /// Namespace Management and Attachment.
    pub const NS_MANAGEMENT: u16 = 1 << 3;
    /// Device Self-test.
    pub const SELF_TEST: u16 = 1 << 4;
    /// Directives.
    pub const DIRECTIVES: u16 = 1 << 5;
    /// Get LBA Status.
    pub const LBA_STATUS: u16 = 1 << 9;
    /// Command and Feature Lockdown.
    pub const LOCKDOWN: u16 = 1 << 10;
}

/// Bits of LPA, byte 261.
pub mod lpa {
    /// SMART / Health Information per namespace.
    pub const SMART_PER_NS: u8 = 1 << 0;
    /// Commands Supported and Effects log page.
    pub const EFFECTS: u8 = 1 << 1;
    /// Extended data: Get Log Page takes NUMDU and a log page offset.
    pub const EXTENDED: u8 = 1 << 2;
    /// Telemetry log pages.
    pub const TELEMETRY: u8 = 1 << 3;
    /// Persistent Event log page.
    pub const PERSISTENT_EVENT: u8 = 1 << 4;
    /// The log pages with identifiers 00h, 05h in full, 12h and 13h (MLPS).
    pub const SUPPORTED_PAGES: u8 = 1 << 5;
}

/// Bits of OAES, bytes 95:92; the same bits enable the notices in Feature 0Bh (see [`crate::feature::aec`]).
pub mod oaes {
    /// Namespace Attribute Changed notices.
    pub const NS_ATTR: u32 = 1 << 8;
    /// Firmware Activation notices.
    pub const FW_ACTIVATION: u32 = 1 << 9;
    /// Asymmetric Namespace Access Change notices.
    pub const ANA_CHANGE: u32 = 1 << 11;
    /// Discovery Log Page Change notices.
    pub const DISCOVERY_CHANGE: u32 = 1 << 31;
}

/// Bits of ONCS, bytes 521:520.
pub mod oncs {
    /// Compare.
    pub const COMPARE: u16 = 1 << 0;
    /// Write Uncorrectable.
    pub const WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// Dataset Management.
    pub const DSM: u16 = 1 << 2;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u16 = 1 << 3;
    /// Save and Select fields of Set and Get Features.
    pub const SAVE_SELECT: u16 = 1 << 4;
    /// Reservations.
    pub const RESERVATIONS: u16 = 1 << 5;
    /// Timestamp feature.
    pub const TIMESTAMP: u16 = 1 << 6;
    /// Verify.
    pub const VERIFY: u16 = 1 << 7;
    /// Copy.
    pub const COPY: u16 = 1 << 8;
    /// A Copy's source ranges and destination are each written as one atomic command (NVM Copy Single Atomicity).
    pub const COPY_ATOMIC: u16 = 1 << 9;
    /// Every copy format and namespace pair is a fast copy (NVM All Fast Copy).
    pub const ALL_FAST_COPY: u16 = 1 << 10;
    /// Maximum Write Zeroes with Deallocate: WZDSL is used.
    pub const MAX_WZD: u16 = 1 << 11;
    /// Write Zeroes may zero the whole namespace in one command (Namespace Zeroes Support).
    pub const NS_ZEROES: u16 = 1 << 12;
}

/// Bit 0 of FUSES, bytes 523:522: Compare and Write as a fused pair.
pub const FUSES_COMPARE_AND_WRITE: u16 = 1 << 0;

/// Bits of VWC, byte 525.
pub mod vwc {
    /// A volatile write cache is present.
    pub const PRESENT: u8 = 1 << 0;
    /// Bits 2:1 = 10b: Flush with NSID FFFFFFFFh is not supported.
    pub const FLUSH_ALL_NO: u8 = 0b10 << 1;
    /// Bits 2:1 = 11b: Flush with NSID FFFFFFFFh is supported.
    pub const FLUSH_ALL_YES: u8 = 0b11 << 1;
}

/// Fields of SGLS, bytes 539:536.
pub mod sgls {
    /// Bits 1:0 = 01b: SGLs are supported, with no alignment requirement.
    pub const SUPPORTED: u32 = 0b01;
    /// Bits 1:0 = 10b: SGLs are supported, with dword alignment and granularity.
    pub const SUPPORTED_DWORD: u32 = 0b10;
    /// Keyed SGL Data Block descriptor.
    pub const KEYED: u32 = 1 << 2;
    /// SGL Bit Bucket descriptor.
    pub const BIT_BUCKET: u32 = 1 << 16;
    /// SGL lengths larger than the data are accepted.
    pub const LARGER: u32 = 1 << 18;
    /// The address field of a Data Block may be an offset (in-capsule data).
    pub const OFFSET: u32 = 1 << 20;
    /// Transport SGL Data Block descriptor.
    pub const TRANSPORT: u32 = 1 << 21;
}

/// Bits of FNA, byte 524.
pub mod fna {
    /// Format applies to all namespaces.
    pub const FORMAT_ALL: u8 = 1 << 0;
    /// Cryptographic erase is supported.
    pub const CRYPTO: u8 = 1 << 2;
    /// NSID FFFFFFFFh is not accepted by Format NVM.
    pub const NO_BROADCAST: u8 = 1 << 3;
}

/// Bits of NWPC, byte 531.
pub mod nwpc {
    /// Namespace Write Protection: No Write Protect and Write Protect states.
    pub const WRITE_PROTECT: u8 = 1 << 0;
    /// Write Protect Until Power Cycle.
    pub const UNTIL_POWER_CYCLE: u8 = 1 << 1;
    /// Permanent Write Protect.
    pub const PERMANENT: u8 = 1 << 2;
}

/// Bits of OFCS, bytes 1805:1804.
pub mod ofcs {
    /// The Disconnect command is supported.
    pub const DISCONNECT: u16 = 1 << 0;
}

/// DCTYPE, byte 1806, of a discovery controller.
pub mod dctype {
    /// Not reported.
    pub const NOT_REPORTED: u8 = 0;
    /// Direct Discovery controller.
    pub const DDC: u8 = 1;
    /// Central Discovery controller.
    pub const CDC: u8 = 2;
}
