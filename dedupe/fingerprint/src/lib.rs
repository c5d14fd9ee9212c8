//! Fingerprints of blocks: keyed BLAKE3, 32 bytes (BLAKE3 specification, 2.3 "Modes": `keyed_hash`).
//!
//! Owns the fingerprint, its key, and the prefixes that an index may use as a hint. A keyed hash, because
//! a plain one would tell whoever reads the pool which known contents it holds.
//!
//! It must never do I/O, decide that two blocks are the same from a prefix, or let key bytes out.

mod key;
mod many;

pub use key::FingerprintKey;
pub use many::{BLOCK, LANES};

use std::fmt;

/// Size of a fingerprint in bytes.
pub const FINGERPRINT_LEN: usize = 32;

/// Size of a fingerprint key in bytes.
pub const KEY_LEN: usize = 32;

/// The keyed BLAKE3 of one block, whole.
///
/// Two blocks of one domain count as duplicates only when all 32 bytes agree. Comparing takes no secret: a
/// fingerprint is neither a key nor an authenticator, so `==` is the ordinary one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; FINGERPRINT_LEN]);

impl Fingerprint {
    /// The fingerprint of `block` under `key`.
    #[inline]
    pub fn of(key: &FingerprintKey, block: &[u8]) -> Fingerprint {
        Fingerprint(*blake3::keyed_hash(key.bytes(), block).as_bytes())
    }

    /// A fingerprint read back from where it was stored.
    pub const fn from_bytes(bytes: [u8; FINGERPRINT_LEN]) -> Fingerprint {
        Fingerprint(bytes)
    }

    /// The 32 bytes, as they are stored.
    pub const fn as_bytes(&self) -> &[u8; FINGERPRINT_LEN] {
        &self.0
    }

    /// The first eight bytes as a little-endian number: spreads evenly, for choosing a bucket, for sampling, or as a
    /// hint that the whole fingerprint must confirm.
    #[inline]
    pub const fn prefix(&self) -> u64 {
        let f = &self.0;
        u64::from_le_bytes([f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]])
    }

    /// The first `bits` bits (0..=64) of [`Fingerprint::prefix`], counted from its lowest; more than 64 is 64.
    #[inline]
    pub const fn prefix_bits(&self, bits: u32) -> u64 {
        match bits {
            0 => 0,
            1..=63 => self.prefix() & (u64::MAX >> (64 - bits)),
            _ => self.prefix(),
        }
    }

    /// Bytes 8..16 as a little-endian number: independent of the prefix, so an entry in a bucket chosen by
    /// [`Fingerprint::prefix`] can carry bits of this as its tag.
    #[inline]
    pub const fn tag(&self) -> u64 {
        let f = &self.0;
        u64::from_le_bytes([f[8], f[9], f[10], f[11], f[12], f[13], f[14], f[15]])
    }
}

/// The first eight bytes in hex: enough to tell two apart in a log.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(")?;
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of BLAKE3's published test vectors.
    const KEY: &[u8; KEY_LEN] = b"whats the Elvish word for friend";

    fn hex(f: &Fingerprint) -> String {
        f.as_bytes().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The inputs of the published vectors: 0, 1, ... 250, over and over.
    fn input(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn agrees_with_the_published_keyed_vectors() {
        let key = FingerprintKey::new(*KEY);
        for (len, want) in [
            (0, "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"),
            (1, "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"),
            (1025, "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69"),
            (4096, "befc660aea2f1718884cd8deb9902811d332f4fc4a38cf7c7300d597a081bfc0"),
            (4097, "00df940cd36bb9fa7cbbc3556744e0dbc8191401afe70520ba292ee3ca80abbc"),
        ] {
            assert_eq!(hex(&Fingerprint::of(&key, &input(len))), want, "{len} bytes");
        }
    }

    #[test]
    fn depends_on_every_byte_of_key_and_block() {
        let key = FingerprintKey::new(*KEY);
        let block = input(4096);
        let whole = Fingerprint::of(&key, &block);
        assert_eq!(whole, Fingerprint::of(&FingerprintKey::new(*KEY), &block));
        for at in [0, 1, 1023, 1024, 4095] {
            let mut other = block.clone();
            other[at] ^= 1;
            assert_ne!(whole, Fingerprint::of(&key, &other));
        }
        for at in 0..KEY_LEN {
            let mut other = *KEY;
            other[at] ^= 0x80;
            assert_ne!(whole, Fingerprint::of(&FingerprintKey::new(other), &block));
        }
        assert_ne!(whole, Fingerprint::of(&key, &block[..4095]));
    }

    #[test]
    fn prefixes_are_the_leading_bytes() {
        let f = Fingerprint::from_bytes(std::array::from_fn(|i| i as u8 + 1));
        assert_eq!(f.prefix(), 0x0807_0605_0403_0201);
        assert_eq!(f.tag(), 0x100f_0e0d_0c0b_0a09);
        assert_eq!((f.prefix_bits(0), f.prefix_bits(12), f.prefix_bits(64)), (0, 0x201, f.prefix()));
        assert_eq!((f.prefix_bits(63), f.prefix_bits(200)), (f.prefix() & (u64::MAX >> 1), f.prefix()));
        assert_eq!(format!("{f:?}"), "Fingerprint(0102030405060708..)");
    }
}
