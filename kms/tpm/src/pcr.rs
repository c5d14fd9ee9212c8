//! Which platform configuration registers a seal is bound to, and the policy that binds it.
//!
//! Owns the text of a selection (`sha256+0,7`), its bytes, and the digest of the policy (part 3, 23.7 and 23.17).

use crate::wire::{Params, Reader};
use sha2::{Digest, Sha256};
use std::fmt;

/// TPM_ALG_SHA256.
pub(crate) const SHA256: u16 = 0x000b;

const CC_POLICY_PCR: u32 = 0x17f;
const CC_POLICY_AUTH_VALUE: u32 = 0x16b;

/// Registers that exist on every PC (PC Client Platform TPM Profile, 4.6).
const REGISTERS: u32 = 24;

/// Registers that any program may set back, so that they attest nothing: 16 (debug) and 23 (application).
const RESETTABLE: u32 = 1 << 16 | 1 << 23;

/// A selection of registers of the SHA-256 bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcrs(u32);

impl Pcrs {
    /// Register 7: the state of Secure Boot and who may sign what boots.
    pub const DEFAULT: Pcrs = Pcrs(1 << 7);

    /// Reads `sha256+N,N...`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Pcrs, String> {
        let list = text
            .strip_prefix("sha256+")
            .ok_or("the bank of registers must be sha256, as in pcrs=sha256+7".to_string())?;
        let mut mask = 0;
        for n in list.split(',') {
            let at: u32 = n.parse().map_err(|_| format!("`{n}` is no number of a register"))?;
            if at >= REGISTERS {
                return Err(format!("there is no register {at}: they are 0 to {}", REGISTERS - 1));
            }
            if RESETTABLE >> at & 1 == 1 {
                return Err(format!("any program may set register {at} back, so that it proves nothing"));
            }
            mask |= 1 << at;
        }
        Ok(Pcrs(mask))
    }

    /// As it was stored; `None` where there is none, or one that is not taken.
    pub(crate) fn from_mask(mask: u32) -> Option<Pcrs> {
        (mask != 0 && mask >> REGISTERS == 0 && mask & RESETTABLE == 0).then_some(Pcrs(mask))
    }

    pub(crate) fn mask(self) -> u32 {
        self.0
    }

    /// The registers' numbers, rising.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (0..REGISTERS).filter(move |n| self.0 >> n & 1 == 1)
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// TPML_PCR_SELECTION (part 2, 10.9.7): one bank, three bytes of bits.
    pub(crate) fn selection(self) -> Vec<u8> {
        let bits = self.0.to_le_bytes();
        Params::default().u32(1).u16(SHA256).u8(3).raw(&bits[..3]).0
    }

    /// Takes the selection of the SHA-256 bank out of a TPML_PCR_SELECTION; registers of other banks are left out.
    pub(crate) fn read_selection(r: &mut Reader<'_>) -> Option<u32> {
        let mut mask = 0;
        for _ in 0..r.u32().filter(|n| *n <= 16)? {
            let (bank, size) = (r.u16()?, r.u8()?);
            let bits = r.raw(size.into())?;
            if bank == SHA256 {
                mask = bits.iter().take(3).rev().fold(0, |m, b| m << 8 | u32::from(*b));
            }
        }
        Some(mask)
    }

    /// The policy that holds while the registers have these values, and, with `pin`, only for who knows the value of
    /// authorisation.
    pub(crate) fn policy(self, values: &[[u8; 32]], pin: bool) -> [u8; 32] {
        let all = Sha256::digest(values.concat());
        let extend = |old: &[u8], code: u32, rest: &[u8]| -> [u8; 32] {
            let mut hash = Sha256::new();
            hash.update(old);
            hash.update(code.to_be_bytes());
            hash.update(rest);
            hash.finalize().into()
        };
        let digest = extend(&[0; 32], CC_POLICY_PCR, &[&self.selection()[..], &all].concat());
        if pin { extend(&digest, CC_POLICY_AUTH_VALUE, &[]) } else { digest }
    }
}

impl fmt::Display for Pcrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.numbers().map(|n| n.to_string()).collect();
        write!(f, "sha256+{}", list.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_are_read_and_written_alike() {
        for text in ["sha256+7", "sha256+0,2,7", "sha256+0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"] {
            let pcrs = Pcrs::parse(text).unwrap();
            assert_eq!(pcrs.to_string(), text);
            assert_eq!(Pcrs::read_selection(&mut Reader(&pcrs.selection())), Some(pcrs.mask()));
        }
        assert_eq!(Pcrs::parse("sha256+7"), Ok(Pcrs::DEFAULT));
        assert_eq!(Pcrs::DEFAULT.selection(), b"\0\0\0\x01\0\x0b\x03\x80\0\0");
        for wrong in ["", "sha1+7", "sha256", "sha256+", "sha256+24", "sha256+16", "sha256+7,23", "sha256+-1"]
        {
            assert!(Pcrs::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Pcrs::from_mask(0).is_none() && Pcrs::from_mask(1 << 24).is_none());
    }
}
