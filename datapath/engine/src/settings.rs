//! What is chosen for a volume, and how it is stored.

use crate::write::Ways;
use caisson_codec::Level;

/// How a volume keeps its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Logical block size in bytes: 512 or 4096. Never changes.
    pub block_size: u32,
    /// The zstd level, or none.
    pub compression: Option<Level>,
    /// Whether blocks that are stored already are shared.
    pub dedup: bool,
    /// Whether a plain write completes before it is durable.
    pub write_cache: bool,
    /// Whether the bytes of a block that is found again are compared before it is shared.
    pub verify: bool,
}

impl Default for Settings {
    /// All services on: 4096-byte blocks, zstd level 1, deduplication, a volatile write cache, no comparing.
    fn default() -> Settings {
        Settings {
            block_size: 4096,
            compression: Some(Level::default()),
            dedup: true,
            write_cache: true,
            verify: false,
        }
    }
}

/// The version of the stored form.
const VERSION: u8 = 1;
const DEDUP: u8 = 1;
const WRITE_CACHE: u8 = 2;
const VERIFY: u8 = 4;
const COMPRESSED: u8 = 8;
const SMALL_BLOCKS: u8 = 16;

impl Settings {
    /// The stored form: version, flags, level.
    pub(crate) fn encode(self) -> Vec<u8> {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let flags = flag(self.dedup, DEDUP)
            | flag(self.write_cache, WRITE_CACHE)
            | flag(self.verify, VERIFY)
            | flag(self.compression.is_some(), COMPRESSED)
            | flag(self.block_size == 512, SMALL_BLOCKS);
        vec![VERSION, flags, self.compression.unwrap_or_default().number() as u8]
    }

    /// `None` for bytes that are no settings of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Settings> {
        let &[VERSION, flags, level] = bytes else { return None };
        let on = |bit: u8| flags & bit != 0;
        let level = Level::new(i32::from(level as i8))?;
        Some(Settings {
            block_size: if on(SMALL_BLOCKS) { 512 } else { 4096 },
            compression: on(COMPRESSED).then_some(level),
            dedup: on(DEDUP),
            write_cache: on(WRITE_CACHE),
            verify: on(VERIFY),
        })
    }

    pub(crate) fn ways(self) -> Ways {
        Ways { level: self.compression, dedup: self.dedup, verify: self.verify }
    }

    /// log2 of the logical block size.
    pub(crate) fn shift(self) -> u32 {
        self.block_size.trailing_zeros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_and_read_back() {
        let levels = [None, Level::new(-7), Level::new(1), Level::new(19)];
        for (i, compression) in levels.into_iter().enumerate() {
            for bits in 0..16u32 {
                let on = |bit: u32| bits & bit != 0;
                let block_size = if on(1) { 512 } else { 4096 };
                let settings =
                    Settings { block_size, compression, dedup: on(2), write_cache: on(4), verify: on(8) };
                assert_eq!(Settings::decode(&settings.encode()), Some(settings), "{i} {bits}");
            }
        }
        assert_eq!(Settings::decode(&[2, 0, 0]), None);
        assert_eq!(Settings::decode(&[]), None);
    }
}
