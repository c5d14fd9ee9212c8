//! Format NVM and Sanitize: what their commands say, and the Sanitize Status log page (Base 2.1, 5.1.10, 5.1.22, 5.1.12.1.33).

use crate::{Sqe, layout};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// SES of Format NVM (Base 2.1, figure "Format NVM – Command Dword 10").
pub mod ses {
    /// No secure erase operation.
    pub const NONE: u8 = 0;
    /// User data erase.
    pub const USER_DATA: u8 = 1;
    /// Cryptographic erase: the keys are deleted.
    pub const CRYPTO: u8 = 2;
}

/// CDW10 of a Format NVM command, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatNvm {
    /// LBAFU:LBAFL: the index of the LBA format.
    pub lbaf: u8,
    /// MSET: metadata is part of the logical block.
    pub mset: bool,
    /// PI: the type of protection information.
    pub pi: u8,
    /// PIL: protection information stands first.
    pub pil: bool,
    /// SES, see [`ses`].
    pub ses: u8,
}

impl FormatNvm {
    /// Takes the command apart; any bits are accepted.
    pub fn of(sqe: &Sqe) -> FormatNvm {
        let d = sqe.cdw10.get();
        FormatNvm {
            lbaf: (d & 0xf) as u8 | ((d >> 12 & 0b11) as u8) << 4,
            mset: d & 1 << 4 != 0,
            pi: (d >> 5 & 0b111) as u8,
            pil: d & 1 << 8 != 0,
            ses: (d >> 9 & 0b111) as u8,
        }
    }

    /// Writes CDW10.
    pub fn put(&self, sqe: &mut Sqe) {
        let lbaf = u32::from(self.lbaf);
        sqe.cdw10.set(
            (lbaf & 0xf)
                | u32::from(self.mset) << 4
                | u32::from(self.pi & 0b111) << 5
                | u32::from(self.pil) << 8
                | u32::from(self.ses & 0b111) << 9
                | (lbaf >> 4 & 0b11) << 12,
        );
    }
}

/// SANACT of Sanitize (Base 2.1, figure "Sanitize – Command Dword 10").
pub mod sanact {
    /// Exit Failure Mode.
    pub const EXIT_FAILURE: u8 = 1;
    /// Block Erase.
    pub const BLOCK_ERASE: u8 = 2;
    /// Overwrite.
    pub const OVERWRITE: u8 = 3;
    /// Crypto Erase.
    pub const CRYPTO_ERASE: u8 = 4;
    /// Exit Media Verification State.
    pub const EXIT_VERIFICATION: u8 = 5;
}

/// CDW10 of a Sanitize command, taken apart; what belongs to Overwrite is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sanitize {
    /// SANACT, see [`sanact`].
    pub action: u8,
    /// AUSE: a failure may be left with Exit Failure Mode.
    pub ause: bool,
    /// NDAS: nothing is to be deallocated afterwards.
    pub ndas: bool,
    /// EMVS: enter the media verification state.
    pub emvs: bool,
}

impl Sanitize {
    /// Takes the command apart; any bits are accepted.
    pub fn of(sqe: &Sqe) -> Sanitize {
        let d = sqe.cdw10.get();
        Sanitize {
            action: (d & 0b111) as u8,
            ause: d & 1 << 3 != 0,
            ndas: d & 1 << 9 != 0,
            emvs: d & 1 << 10 != 0,
        }
    }

    /// Writes CDW10.
    pub fn put(&self, sqe: &mut Sqe) {
        sqe.cdw10.set(
            u32::from(self.action & 0b111)
                | u32::from(self.ause) << 3
                | u32::from(self.ndas) << 9
                | u32::from(self.emvs) << 10,
        );
    }
}

/// Bits of SANICAP, bytes 331:328 of Identify Controller.
pub mod sanicap {
    /// Crypto Erase.
    pub const CRYPTO_ERASE: u32 = 1 << 0;
    /// Block Erase.
    pub const BLOCK_ERASE: u32 = 1 << 1;
    /// Overwrite.
    pub const OVERWRITE: u32 = 1 << 2;
    /// NDI: No-Deallocate After Sanitize is not honoured.
    pub const NO_DEALLOCATE_INHIBITED: u32 = 1 << 29;
    /// NODMMAS = 01b: media is not modified further when a sanitize operation has completed.
    pub const NOT_MODIFIED_AFTER: u32 = 0b01 << 30;
}

/// SOS, bits 2:0 of SSTAT.
pub mod sos {
    /// Never sanitized.
    pub const NEVER: u8 = 0;
    /// Completed.
    pub const COMPLETED: u8 = 1;
    /// In progress.
    pub const IN_PROGRESS: u8 = 2;
    /// Failed.
    pub const FAILED: u8 = 3;
    /// Completed, and deallocated though that was not asked for.
    pub const COMPLETED_DEALLOCATED: u8 = 4;
}

/// Feature 17h, CDW11 bit 0: NODRM, No-Deallocate Response Mode: a Sanitize that asks for what cannot be is done nevertheless.
pub const NODRM: u32 = 1 << 0;

/// SSTAT bit 8: GDE, nothing was written since the last Sanitize that completed.
pub const GLOBAL_DATA_ERASED: u16 = 1 << 8;

/// SPROG where no sanitize operation is in progress.
pub const SPROG_NONE: u16 = 0xffff;

/// An estimated time that is not reported.
pub const TIME_UNKNOWN: u32 = 0xffff_ffff;

/// LID 81h (Base 2.1, figure "Sanitize Status Log Page").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SanitizeStatus {
    /// SPROG: progress in 65,536ths, or [`SPROG_NONE`].
    pub sprog: U16,
    /// SSTAT: bits 2:0 SOS (see [`sos`]), 7:3 overwrite passes, 8 GDE.
    pub sstat: U16,
    /// SCDW10: CDW10 of the last Sanitize that began.
    pub scdw10: U32,
    /// ETO: estimated time for Overwrite, in seconds.
    pub eto: U32,
    /// ETBE: for Block Erase.
    pub etbe: U32,
    /// ETCE: for Crypto Erase.
    pub etce: U32,
    /// ETOND: for Overwrite with No-Deallocate.
    pub etond: U32,
    /// ETBEND: for Block Erase with No-Deallocate.
    pub etbend: U32,
    /// ETCEND: for Crypto Erase with No-Deallocate.
    pub etcend: U32,
    /// ETPVDS: for the deallocation after verification.
    pub etpvds: U32,
    /// SSI: the state of the sanitize operation.
    pub ssi: u8,
    /// Reserved.
    pub rsvd37: [u8; 475],
}

layout!(SanitizeStatus, 512, sprog @ 0, sstat @ 2, scdw10 @ 4, eto @ 8, etbe @ 12, etce @ 16, etond @ 20, etbend @ 24,
    etcend @ 28, etpvds @ 32, ssi @ 36, rsvd37 @ 37);
crate::zeroed!(SanitizeStatus);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_they_stand() {
        let mut sqe = Sqe::default();
        // nvme-cli: `nvme format -s 2`, `nvme sanitize -a 4`, and others' bits.
        for (cdw10, format) in [
            (2 << 9, FormatNvm { ses: ses::CRYPTO, ..FormatNvm::default() }),
            (1 << 12 | 3, FormatNvm { lbaf: 19, ..FormatNvm::default() }),
            (0x1f0, FormatNvm { mset: true, pi: 7, pil: true, ..FormatNvm::default() }),
        ] {
            sqe.cdw10.set(cdw10);
            assert_eq!(FormatNvm::of(&sqe), format);
            format.put(&mut sqe);
            assert_eq!(sqe.cdw10.get(), cdw10);
        }
        for (cdw10, sanitize) in [
            (4, Sanitize { action: sanact::CRYPTO_ERASE, ..Sanitize::default() }),
            (0b1100_0001, Sanitize { action: sanact::EXIT_FAILURE, ..Sanitize::default() }),
            (1 << 3 | 1 << 9 | 1 << 10, Sanitize { action: 0, ause: true, ndas: true, emvs: true }),
        ] {
            sqe.cdw10.set(cdw10);
            assert_eq!(Sanitize::of(&sqe), sanitize);
        }
    }
}
