//! How much one key epoch may seal before the next one begins.
//!
//! Owns the figures and where they come from; counting is the pool's business. They are for all that is sealed under one epoch of one domain,
//! though each opening of the pool derives a key of its own from it, so that no single key comes to as much.
//!
//! - NIST SP 800-38D, 8.3, bounds the calls under one key by 2^32 where nonces are random. Those of the log are deterministic and never
//!   repeat (`datapath/log/FORMAT.md`), for which it sets no such bound.
//! - draft-irtf-cfrg-aead-limits, 5.1: with s blocks of 16 bytes under one key, an attacker tells AES-256-GCM from random with an advantage
//!   of s^2 / 2^129 at most. 2^48 bytes are 2^44 blocks: 2^-41. Forgeries are bounded by each record's length (2^-119 a try), not by
//!   how much was sealed. For ChaCha20-Poly1305 (5.2) only forgeries count: 2^-94 a try.

/// What one epoch may seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records and headers: calls of the cipher.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// The limits in use: 2^36 records, 2^48 bytes (256 TiB).
pub const LIMITS: Limits = Limits { records: 1 << 36, bytes: 1 << 48 };

/// Whether an epoch that sealed so much has to end.
pub fn reached(limits: Limits, records: u64, bytes: u64) -> bool {
    records >= limits.records || bytes >= limits.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_bound_ends_an_epoch() {
        let limits = Limits { records: 10, bytes: 1000 };
        for (records, bytes, want) in [(9, 999, false), (10, 0, true), (0, 1000, true), (11, 2000, true)] {
            assert_eq!(reached(limits, records, bytes), want, "{records} {bytes}");
        }
        // What the text above says: (bytes / 16)^2 / 2^129.
        let blocks = LIMITS.bytes.ilog2() - 4;
        assert_eq!(129 - 2 * blocks, 41);
    }
}
