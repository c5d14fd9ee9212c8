//! The zero test: whether a block holds nothing but zeroes.
//!
//! Owns the one loop that every written block goes through first. It must stay safe code that the compiler turns into
//! vector instructions.

/// Whether all bytes are zero; true of an empty slice. Ends at the first 128-byte piece that is not, so a block with data
/// at its start costs a few nanoseconds.
#[inline]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (pieces, rest) = bytes.as_chunks::<128>();
    pieces.iter().all(piece_is_zero) && rest.iter().all(|b| *b == 0)
}

#[inline]
fn piece_is_zero(piece: &[u8; 128]) -> bool {
    let (words, _) = piece.as_chunks::<8>();
    words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_single_bit_anywhere() {
        for len in [0, 1, 7, 127, 128, 129, 512, 4096, 4097] {
            let mut bytes = vec![0u8; len];
            assert!(is_zero(&bytes), "{len}");
            for at in 0..len {
                bytes[at] = 1 << (at % 8);
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
