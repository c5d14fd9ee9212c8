//! CRC32C, the polynomial of both digests (TCP 1.1, 3.3.1.1), whole or continued over the parts of a list.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC32C of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Continues `crc` (0 to begin with) over `bytes`.
#[inline]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    // The register holds the complement of the value that is shown.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, B.4, as the wire shows them.
    #[test]
    fn vectors_of_the_rfc() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        for (bytes, want) in [
            (vec![0u8; 32], [0xaa, 0x36, 0x91, 0x8a]),
            (vec![0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (up, [0x4e, 0x79, 0xdd, 0x46]),
            (down, [0x5c, 0xdb, 0x3f, 0x11]),
        ] {
            assert_eq!(crc32c(&bytes).to_le_bytes(), want);
            for cut in 0..=32 {
                assert_eq!(append(append(0, &bytes[..cut]), &bytes[cut..]).to_le_bytes(), want);
            }
        }
    }
}
