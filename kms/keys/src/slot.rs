//! Key slots: the wrapped keys that a pool keeps in its superblock.
//!
//! Owns their byte form. They are no secret, and they are read before anything is authenticated: what they hold is
//! bounded here, and proves itself only when a provider unwraps it.

use crate::{Context, KeyError, Purpose, Wrapped};
use std::fmt;

/// How many slots a pool may hold.
pub const MAX_SLOTS: usize = 64;

/// Longest provider name and longest root name, in bytes.
const MAX_NAME: usize = 64;

/// Longest blob in bytes: what a KMIP server or a TPM returns for 64 bytes fits well.
const MAX_BLOB: usize = 1024;

/// Bytes of a slot before its names and blob.
const FIXED: usize = 14;

/// One wrapped key in a pool.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// What the key is for.
    pub purpose: Purpose,
    /// The domain; 0 for the pool's own.
    pub domain: u32,
    /// The epoch that the wrap is bound to; 0 where the key has none, as the secrets of pools and domains.
    pub epoch: u16,
    /// The name of the provider that wrapped it.
    pub provider: String,
    /// What that provider gave.
    pub wrapped: Wrapped,
}

impl fmt::Debug for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeySlot { purpose, domain, epoch, provider, wrapped } = self;
        write!(f, "KeySlot({purpose:?}, domain {domain}, epoch {epoch}, {provider}, {wrapped:?})")
    }
}

impl KeySlot {
    /// The binding under which the key was wrapped, in `pool`.
    pub fn context(&self, pool: [u8; 16]) -> Context {
        Context { purpose: self.purpose, pool, domain: self.domain.into(), epoch: self.epoch.into() }
    }

    /// Appends the stored form: version 1, purpose, epoch u16, domain u32, length of the provider's name u16, of the
    /// root's name u16, of the blob u16, then the three. Little-endian.
    ///
    /// [`KeyError::BadSlots`] where a part is longer than a stored slot may be.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), KeyError> {
        let Wrapped { root, blob } = &self.wrapped;
        for (what, len, most) in [
            ("provider name", self.provider.len(), MAX_NAME),
            ("root key name", root.len(), MAX_NAME),
            ("wrapped key", blob.len(), MAX_BLOB),
        ] {
            if len > most {
                return Err(bad(format!("a {what} of {len} bytes; {most} at most")));
            }
        }
        out.extend([1, self.purpose as u8]);
        out.extend(self.epoch.to_le_bytes());
        out.extend(self.domain.to_le_bytes());
        // Each fits: the bounds above are below 2^16.
        for len in [self.provider.len(), root.len(), blob.len()] {
            out.extend((len as u16).to_le_bytes());
        }
        out.extend(self.provider.bytes());
        out.extend(root.bytes());
        out.extend(blob);
        Ok(())
    }

    /// The stored form of `slots`, one after the other.
    pub fn encode_all(slots: &[KeySlot]) -> Result<Vec<u8>, KeyError> {
        if slots.len() > MAX_SLOTS {
            return Err(bad(format!("{} slots; {MAX_SLOTS} at most", slots.len())));
        }
        let mut out = Vec::new();
        slots.iter().try_for_each(|slot| slot.encode(&mut out))?;
        Ok(out)
    }

    /// Reads what [`KeySlot::encode_all`] wrote; `bytes` end with the last slot. Never panics, whatever the bytes.
    pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<KeySlot>, KeyError> {
        let mut slots = Vec::new();
        while !bytes.is_empty() {
            if slots.len() == MAX_SLOTS {
                return Err(bad(format!("more than {MAX_SLOTS} slots")));
            }
            let (slot, rest) = KeySlot::decode(bytes)?;
            slots.push(slot);
            bytes = rest;
        }
        Ok(slots)
    }

    /// The slot at the front of `bytes`, and what follows it.
    pub fn decode(bytes: &[u8]) -> Result<(KeySlot, &[u8]), KeyError> {
        let (fixed, rest) =
            bytes.split_first_chunk::<FIXED>().ok_or_else(|| bad("a slot is cut short".into()))?;
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        if fixed[0] != 1 {
            return Err(bad(format!("a slot of version {}", fixed[0])));
        }
        let purpose = Purpose::from_stored(fixed[1]).ok_or_else(|| bad(format!("purpose {}", fixed[1])))?;
        let domain = u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let (provider, rest) = part(rest, u16_at(8), MAX_NAME)?;
        let (root, rest) = part(rest, u16_at(10), MAX_NAME)?;
        let (blob, rest) = part(rest, u16_at(12), MAX_BLOB)?;
        let wrapped = Wrapped { root: text(root)?, blob: blob.to_vec() };
        Ok((KeySlot { purpose, domain, epoch: u16_at(2), provider: text(provider)?, wrapped }, rest))
    }
}

fn part(bytes: &[u8], len: u16, most: usize) -> Result<(&[u8], &[u8]), KeyError> {
    let len = usize::from(len);
    if len > most {
        return Err(bad(format!("a part of {len} bytes where {most} is the most")));
    }
    bytes.split_at_checked(len).ok_or_else(|| bad("a slot is cut short".into()))
}

fn text(bytes: &[u8]) -> Result<String, KeyError> {
    let text = std::str::from_utf8(bytes).ok().filter(|t| !t.chars().any(char::is_control));
    text.map(str::to_owned).ok_or_else(|| bad("a name that is not printable".into()))
}

fn bad(cause: String) -> KeyError {
    KeyError::BadSlots { cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> KeySlot {
        KeySlot {
            purpose: Purpose::Domain,
            domain: 0x0102_0304,
            epoch: 0x0506,
            provider: "file".into(),
            wrapped: Wrapped { root: "r1".into(), blob: vec![9; 3] },
        }
    }

    #[test]
    fn the_stored_form_is_what_it_was() {
        let bytes = KeySlot::encode_all(&[slot()]).unwrap();
        assert_eq!(bytes, b"\x01\x01\x06\x05\x04\x03\x02\x01\x04\0\x02\0\x03\0filer1\x09\x09\x09");
    }

    #[test]
    fn slots_come_back_and_nothing_shorter_does() {
        let slots = vec![slot(), KeySlot { purpose: Purpose::Pool, domain: 0, ..slot() }];
        let bytes = KeySlot::encode_all(&slots).unwrap();
        assert_eq!(KeySlot::decode_all(&bytes).unwrap(), slots);
        let one = bytes.len() / 2;
        for len in (1..bytes.len()).filter(|len| *len != one) {
            assert!(matches!(KeySlot::decode_all(&bytes[..len]), Err(KeyError::BadSlots { .. })), "{len}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_both_ways() {
        let long = KeySlot { provider: "p".repeat(MAX_NAME + 1), ..slot() };
        assert!(KeySlot::encode_all(&[long]).is_err());
        assert!(KeySlot::encode_all(&vec![slot(); MAX_SLOTS + 1]).is_err());
        let good = KeySlot::encode_all(&[slot()]).unwrap();
        for (at, value) in [(0, 2), (1, 0), (1, 200), (9, 1), (13, 255), (14, 7), (14, 0xff)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(KeySlot::decode_all(&bytes).is_err(), "byte {at} = {value}");
        }
        assert!(KeySlot::decode_all(&good.repeat(MAX_SLOTS + 1)).is_err());
        assert_eq!(KeySlot::decode_all(&[]).unwrap(), []);
    }

    #[test]
    fn debug_shows_no_blob() {
        let shown = format!("{:?}", slot());
        assert_eq!(shown, "KeySlot(Domain, domain 16909060, epoch 1286, file, Wrapped(\"r1\", 3 bytes))");
    }
}
