//! What is chosen for a volume, and how it is stored.

use crate::domains::Tenant;
use crate::write::Ways;
use caisson_codec::Level;
use caisson_keys::DEFAULT_DOMAIN;

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
    /// The domain whose keys seal it, and in which duplicates are found. Never changes.
    pub domain: u32,
}

impl Default for Settings {
    /// All services on: 4096-byte blocks, zstd level 1, deduplication, a volatile write cache, no comparing, the default domain.
    fn default() -> Settings {
        Settings {
            block_size: 4096,
            compression: Some(Level::default()),
            dedup: true,
            write_cache: true,
            verify: false,
            domain: DEFAULT_DOMAIN,
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
/// The domain follows, since it is not the default one.
const DOMAIN: u8 = 32;

impl Settings {
    /// The stored form: version, flags, level, and the domain where it is not the default one.
    pub(crate) fn encode(self) -> Vec<u8> {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let flags = flag(self.dedup, DEDUP)
            | flag(self.write_cache, WRITE_CACHE)
            | flag(self.verify, VERIFY)
            | flag(self.compression.is_some(), COMPRESSED)
            | flag(self.block_size == 512, SMALL_BLOCKS)
            | flag(self.domain != DEFAULT_DOMAIN, DOMAIN);
        let mut out = vec![VERSION, flags, self.compression.unwrap_or_default().number() as u8];
        if self.domain != DEFAULT_DOMAIN {
            out.extend_from_slice(&self.domain.to_le_bytes());
        }
        out
    }

    /// `None` for bytes that are no settings of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Settings> {
        let (&[VERSION, flags, level], behind) = bytes.split_first_chunk()? else { return None };
        let on = |bit: u8| flags & bit != 0;
        let domain = match (on(DOMAIN), <[u8; 4]>::try_from(behind)) {
            (true, Ok(bytes)) => u32::from_le_bytes(bytes),
            (false, Err(_)) if behind.is_empty() => DEFAULT_DOMAIN,
            _ => return None,
        };
        let level = Level::new(i32::from(level as i8))?;
        Some(Settings {
            block_size: if on(SMALL_BLOCKS) { 512 } else { 4096 },
            compression: on(COMPRESSED).then_some(level),
            dedup: on(DEDUP),
            write_cache: on(WRITE_CACHE),
            verify: on(VERIFY),
            domain,
        })
    }

    pub(crate) fn ways(self, tenant: &Tenant) -> Ways<'_> {
        Ways { tenant, level: self.compression, dedup: self.dedup, verify: self.verify }
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
                let domain = [1, 2, 0x0102_0304][i % 3];
                let (dedup, write_cache, verify) = (on(2), on(4), on(8));
                let settings = Settings { block_size, compression, dedup, write_cache, verify, domain };
                assert_eq!(Settings::decode(&settings.encode()), Some(settings), "{i} {bits}");
            }
        }
        assert_eq!(Settings::decode(&[2, 0, 0]), None);
        assert_eq!(Settings::decode(&[]), None);
        // As pools have them: a domain makes it longer, and is there or not as the flag says.
        assert_eq!(Settings { domain: 7, ..Settings::default() }.encode(), [1, 43, 1, 7, 0, 0, 0]);
        assert_eq!(Settings::default().encode(), [1, 11, 1]);
        for bytes in [&[1, 43, 1][..], &[1, 11, 1, 7, 0, 0, 0], &[1, 43, 1, 7, 0, 0]] {
            assert_eq!(Settings::decode(bytes), None, "{bytes:?}");
        }
    }
}
