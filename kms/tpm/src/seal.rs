//! The file that a seal is kept in.
//!
//! Owns its layout (kms/README.md has it as a table) and its bounds. It holds no secret: what a TPM seals, only that TPM opens.
//! It does no I/O.

use crate::pcr::Pcrs;
use sha2::{Digest, Sha256};

/// The first bytes.
const MAGIC: [u8; 8] = *b"CAISTPM2";
const VERSION: u16 = 1;
/// Bytes in front of the registers' values.
const HEADER: usize = 70;
const DIGEST: usize = 32;
/// Longest public or private part of an object in bytes.
const MAX_PART: usize = 512;

/// Bytes of the largest file.
pub const MAX_SEAL: usize = HEADER + 24 * 32 + 2 * (2 + MAX_PART) + DIGEST;

/// A secret as a TPM sealed it, and what must be known to have it unsealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// What was sealed belongs to this: the number of a key file.
    pub of: [u8; 16],
    /// Which registers it is bound to.
    pub pcrs: Pcrs,
    /// The values that they had, in the order of their numbers. The TPM judges by its own copy; these say which one changed.
    pub values: Vec<[u8; 32]>,
    /// Whether it takes a PIN.
    pub pin: bool,
    /// The name of the TPM's own key that it is sealed under: hash algorithm and digest of its public part.
    pub parent: [u8; 34],
    /// The object's public part, TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Its private part, which the TPM encrypted.
    pub private: Vec<u8>,
}

impl Seal {
    /// As it is stored, little-endian: magic (8), version (2), 1 with a PIN (2), length of the file (4), what it is of (16), registers as
    /// bits (4), name (34), values (32 each), and the two parts with their lengths (2) in front; then the SHA-256 of all that.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_SEAL);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(u16::from(self.pin).to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.of);
        out.extend(self.pcrs.mask().to_le_bytes());
        out.extend(self.parent);
        out.extend(self.values.iter().flatten());
        for part in [&self.public, &self.private] {
            out.extend((part.len() as u16).to_le_bytes());
            out.extend(part);
        }
        let len = (out.len() + DIGEST) as u32;
        out[12..16].copy_from_slice(&len.to_le_bytes());
        let digest = Sha256::digest(&out);
        out.extend(digest);
        out
    }

    /// Reads what was stored; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Seal, &'static str> {
        if !bytes.starts_with(&MAGIC) {
            return Err("it is no seal of Caisson");
        }
        let (body, digest) = bytes.split_last_chunk::<DIGEST>().ok_or("it is cut short")?;
        let mut r = Cursor(body.get(MAGIC.len()..).ok_or("it is cut short")?);
        let (version, flags, len) = (r.u16()?, r.u16()?, r.u32()?);
        if version != VERSION {
            return Err("it is of a version that this program does not know");
        }
        if len as usize != bytes.len() || Sha256::digest(body)[..] != digest[..] {
            return Err("it is damaged: its checksum does not fit");
        }
        let of = r.array()?;
        let pcrs = Pcrs::from_mask(r.u32()?).ok_or("its registers are out of bounds")?;
        let parent = r.array()?;
        if flags > 1 {
            return Err("it is damaged: a reserved field is in use");
        }
        let values = (0..pcrs.count()).map(|_| r.array()).collect::<Result<_, _>>()?;
        let (public, private) = (r.part()?, r.part()?);
        if !r.0.is_empty() {
            return Err("it is damaged: its length does not fit");
        }
        Ok(Seal { of, pcrs, values, pin: flags == 1, parent, public, private })
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn raw(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or("it is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.raw(N)?.try_into().map_err(|_| "it is cut short")
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    fn part(&mut self) -> Result<Vec<u8>, &'static str> {
        let n = usize::from(self.u16()?);
        if n > MAX_PART {
            return Err("it is damaged: a part is too long");
        }
        self.raw(n).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        let pcrs = Pcrs::parse("sha256+0,7").expect("these are registers");
        let (public, private) = (vec![3; 78], vec![4; 160]);
        Seal {
            of: [1; 16],
            pcrs,
            values: vec![[7; 32], [8; 32]],
            pin: true,
            parent: [2; 34],
            public,
            private,
        }
    }

    #[test]
    fn what_is_stored_is_read_again_and_nothing_else() {
        let bytes = seal().encode();
        assert_eq!(Seal::decode(&bytes), Ok(seal()));
        assert_eq!(bytes.len(), HEADER + 2 * 32 + 2 + 78 + 2 + 160 + DIGEST);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Seal::decode(&changed).is_err(), "byte {at}");
            assert!(Seal::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(Seal::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    /// With a checksum that fits, so that the bounds behind it are reached.
    #[test]
    fn bounds_are_judged_when_the_checksum_fits() {
        let fixed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut body = seal().encode();
            body.truncate(body.len() - DIGEST);
            change(&mut body);
            let len = (body.len() + DIGEST) as u32;
            body[12..16].copy_from_slice(&len.to_le_bytes());
            let digest = Sha256::digest(&body);
            Seal::decode(&[&body[..], &digest].concat())
        };
        assert_eq!(fixed(&|_| {}), Ok(seal()));
        assert!(fixed(&|b| b[8] = 2).unwrap_err().contains("version"));
        assert!(fixed(&|b| b[10] = 2).unwrap_err().contains("reserved"));
        assert!(fixed(&|b| b[32..36].fill(0)).unwrap_err().contains("registers"));
        assert!(fixed(&|b| b[32] |= 6).is_err());
        assert!(fixed(&|b| b.push(0)).unwrap_err().contains("length"));
        assert!(fixed(&|b| b[HEADER + 64 + 1] = 0xff).unwrap_err().contains("too long"));
    }
}
