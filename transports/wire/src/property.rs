//! The controller properties that fabrics have, as bit fields (Base 2.1, 3.1.4): CAP, VS, CC, CSTS, CRTO.
//!
//! Owns the positions of the bits; the state machine between CC and CSTS is judged above.

/// Defines getters and builders for fields of a property: `name high:low`.
macro_rules! fields {
    ($t:ident($raw:ty) { $($(#[$m:meta])* $get:ident $with:ident $hi:literal : $lo:literal;)* }) => {
        impl $t {
            $(
                $(#[$m])*
                pub const fn $get(self) -> $raw {
                    const { assert!($hi >= $lo && $hi < <$raw>::BITS) };
                    (self.0 >> $lo) & (<$raw>::MAX >> (<$raw>::BITS - 1 - ($hi - $lo)))
                }

                #[doc = concat!("The same with `", stringify!($get), "` replaced; bits that do not fit are cut.")]
                #[must_use]
                pub const fn $with(self, value: $raw) -> $t {
                    let mask = <$raw>::MAX >> (<$raw>::BITS - 1 - ($hi - $lo));
                    $t(self.0 & !(mask << $lo) | (value & mask) << $lo)
                }
            )*
        }
    };
}

/// CAP, Controller Capabilities (Base 2.1, figure "Offset 0h: CAP").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cap(pub u64);

fields! { Cap(u64) {
    /// MQES: most entries of an I/O queue, zero-based.
    mqes with_mqes 15:0;
    /// CQR: queues are contiguous; 1 over fabrics.
    cqr with_cqr 16:16;
    /// AMS: arbitration mechanisms besides round robin.
    ams with_ams 18:17;
    /// TO: longest wait for CSTS.RDY, units of 500 ms.
    to with_to 31:24;
    /// DSTRD: doorbell stride; 0 over fabrics.
    dstrd with_dstrd 35:32;
    /// NSSRS: NVM subsystem reset supported.
    nssrs with_nssrs 36:36;
    /// CSS: command sets: bit 0 NVM, bit 6 by CC.CSS = 110b, bit 7 admin only.
    css with_css 44:37;
    /// BPS: boot partitions.
    bps with_bps 45:45;
    /// CPS: controller power scope.
    cps with_cps 47:46;
    /// MPSMIN: smallest memory page, 2^(12+n) bytes; the unit of MDTS.
    mpsmin with_mpsmin 51:48;
    /// MPSMAX: largest memory page, 2^(12+n) bytes.
    mpsmax with_mpsmax 55:52;
    /// PMRS: persistent memory region.
    pmrs with_pmrs 56:56;
    /// CMBS: controller memory buffer.
    cmbs with_cmbs 57:57;
    /// NSSS: NVM subsystem shutdown supported.
    nsss with_nsss 58:58;
    /// CRMS: ready modes: bit 0 ready with media, bit 1 ready independent of media.
    crms with_crms 60:59;
    /// NSSES: NVM subsystem shutdown enhancements.
    nsses with_nsses 61:61;
} }

/// VS, Version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vs(pub u32);

impl Vs {
    /// 2.1.0.
    pub const V2_1: Vs = Vs::new(2, 1, 0);
    /// 2.0.0.
    pub const V2_0: Vs = Vs::new(2, 0, 0);
    /// 1.4.0.
    pub const V1_4: Vs = Vs::new(1, 4, 0);

    /// MJR in bits 31:16, MNR in 15:8, TER in 7:0.
    pub const fn new(mjr: u16, mnr: u8, ter: u8) -> Vs {
        Vs((mjr as u32) << 16 | (mnr as u32) << 8 | ter as u32)
    }
}

/// CC, Controller Configuration (Base 2.1, figure "Offset 14h: CC").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cc(pub u32);

fields! { Cc(u32) {
    /// EN: enable; 1 to 0 resets the controller.
    en with_en 0:0;
    /// CSS: I/O command set: 000b NVM, 110b all that are supported, 111b admin only.
    css with_css 6:4;
    /// MPS: memory page size, 2^(12+n) bytes.
    mps with_mps 10:7;
    /// AMS: arbitration mechanism.
    ams with_ams 13:11;
    /// SHN: shutdown notification, see [`shn`].
    shn with_shn 15:14;
    /// IOSQES: submission entry size, 2^n bytes; 6.
    iosqes with_iosqes 19:16;
    /// IOCQES: completion entry size, 2^n bytes; 4.
    iocqes with_iocqes 23:20;
    /// CRIME: ready independent of media.
    crime with_crime 24:24;
} }

/// CC.SHN.
pub mod shn {
    /// No notification.
    pub const NONE: u32 = 0;
    /// Normal shutdown.
    pub const NORMAL: u32 = 1;
    /// Abrupt shutdown.
    pub const ABRUPT: u32 = 2;
}

/// CC.CSS.
pub mod css {
    /// NVM command set.
    pub const NVM: u32 = 0b000;
    /// All supported I/O command sets.
    pub const ALL: u32 = 0b110;
    /// Admin command set only.
    pub const ADMIN: u32 = 0b111;
}

/// CSTS, Controller Status (Base 2.1, figure "Offset 1Ch: CSTS").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Csts(pub u32);

fields! { Csts(u32) {
    /// RDY: ready.
    rdy with_rdy 0:0;
    /// CFS: controller fatal status.
    cfs with_cfs 1:1;
    /// SHST: shutdown status, see [`shst`].
    shst with_shst 3:2;
    /// NSSRO: an NVM subsystem reset occurred.
    nssro with_nssro 4:4;
    /// PP: processing paused.
    pp with_pp 5:5;
    /// ST: the shutdown is of the NVM subsystem.
    st with_st 6:6;
} }

/// CSTS.SHST.
pub mod shst {
    /// Normal operation.
    pub const NORMAL: u32 = 0;
    /// A shutdown is under way.
    pub const OCCURRING: u32 = 1;
    /// The shutdown is complete.
    pub const COMPLETE: u32 = 2;
}

/// CRTO, Controller Ready Timeouts (Base 2.1, figure "Offset 68h: CRTO").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crto(pub u32);

fields! { Crto(u32) {
    /// CRWMT: longest wait with media, units of 500 ms.
    crwmt with_crwmt 15:0;
    /// CRIMT: longest wait independent of media, units of 500 ms.
    crimt with_crimt 31:16;
} }

/// What a write to NSSR must be for an NVM subsystem reset: "NVMe" in ASCII.
pub const NSSR_RESET: u32 = 0x4e56_4d65;
