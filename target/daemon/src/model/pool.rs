//! Pools and what they do with a volume's blocks, as plain data.
//!
//! Owns the words for it (`zstd:3`, `off`), which the configuration file, the state, the management API and the command
//! line share.

use caisson_keys::KeyUri;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::PathBuf;
use std::str::FromStr;

/// A log-structured pool on files or block devices. (A pool that is a folder of sparse files is a setting, not an item.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its name, one of a kind in the target.
    pub name: String,
    /// Where it is, in the order in which the devices came to it; never empty.
    pub devices: Vec<Device>,
    /// A sealed key file that its keys are wrapped with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// A file with the key file's passphrase; without it, the other sources are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// Other key providers, each of which opens the pool by itself. They are tried in this order, behind the key file.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "uris")]
    pub keys: Vec<KeyUri>,
    /// Bytes of memory for tables and the index of duplicates; 0 is the default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory: u64,
}

/// A file or block device of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where it is.
    pub path: PathBuf,
    /// In bytes: what a file is made or grown to; 0 is the size that it has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
}

impl Pool {
    /// All of its key providers, in the order in which they are tried.
    pub fn providers(&self) -> Vec<KeyUri> {
        let text = |p: &PathBuf| p.display().to_string();
        let passphrase = self.passphrase_file.as_ref().map(text);
        let file = self.key_file.as_ref().map(|p| KeyUri::file(&text(p), passphrase.as_deref()));
        file.into_iter().chain(self.keys.iter().cloned()).collect()
    }
}

/// Key URIs as the text that they are.
mod uris {
    use super::*;

    pub fn serialize<S: Serializer>(all: &[KeyUri], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(all.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<KeyUri>, D::Error> {
        let all = Vec::<String>::deserialize(d)?;
        all.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a pool does with a volume's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// How blocks are compressed.
    pub compression: Compression,
    /// Whether a block that is stored already is stored again.
    pub dedup: bool,
    /// Whether a plain write completes before it is durable.
    pub write_cache: bool,
    /// Whether the bytes of a duplicate are compared before it is taken for one.
    pub verify: bool,
}

impl Default for Services {
    /// All services on.
    fn default() -> Services {
        Services { compression: Compression::default(), dedup: true, write_cache: true, verify: false }
    }
}

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Off,
    /// By zstd, at a level of -7 to 19 and not 0.
    Zstd(i8),
}

impl Default for Compression {
    fn default() -> Compression {
        Compression::Zstd(1)
    }
}

/// The levels of zstd that are served.
const LEVELS: std::ops::RangeInclusive<i8> = -7..=19;

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Compression, String> {
        let level = match text.split_once(':') {
            None if text == "off" => return Ok(Compression::Off),
            None if text == "zstd" => return Ok(Compression::default()),
            Some(("zstd", level)) => level.parse().ok().filter(|l| LEVELS.contains(l) && *l != 0),
            _ => None,
        };
        level.map(Compression::Zstd).ok_or_else(|| {
            format!("`{text}` is no compression: write off, zstd, or zstd:LEVEL with a level of -7 to -1 or 1 to 19")
        })
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Compression::Off => f.write_str("off"),
            Compression::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl Serialize for Compression {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Compression {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Compression, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a volume was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The volume's name then.
    pub volume: String,
    /// Whether it stays as it was: a snapshot; else it is a clone, which may be written to.
    pub read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_compression() {
        for (text, means) in [
            ("off", Compression::Off),
            ("zstd", Compression::Zstd(1)),
            ("zstd:1", Compression::Zstd(1)),
            ("zstd:-7", Compression::Zstd(-7)),
            ("zstd:19", Compression::Zstd(19)),
        ] {
            assert_eq!(text.parse(), Ok(means));
            assert_eq!(means.to_string().parse(), Ok(means));
        }
        for text in ["", "on", "zstd:", "zstd:0", "zstd:20", "zstd:-8", "zstd:1.5", "lz4", "zstd:999"] {
            assert!(text.parse::<Compression>().unwrap_err().contains("zstd:LEVEL"), "{text}");
        }
    }

    #[test]
    fn pools_of_one_key_file_are_stored_as_ever_and_others_beside_it() {
        let old = r#"{"name":"p","devices":[{"path":"/d"}],"key_file":"/k","passphrase_file":"/p"}"#;
        let mut pool: Pool = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_string(&pool).unwrap(), old);
        assert_eq!(pool.providers()[0].to_string(), "file:/k?passphrase-file=/p");
        pool.keys = vec!["pkcs11:token=t?module-path=/m".parse().unwrap()];
        let text = serde_json::to_string(&pool).unwrap();
        assert!(text.contains(r#""keys":["pkcs11:token=t?module-path=/m"]"#), "{text}");
        assert_eq!(serde_json::from_str::<Pool>(&text).unwrap(), pool);
        assert_eq!(pool.providers().len(), 2);
        assert!(serde_json::from_str::<Pool>(&text.replace("pkcs11:", "vault:")).is_err());
    }

    #[test]
    fn stored_as_words() {
        let services = Services { compression: Compression::Zstd(-3), verify: true, ..Services::default() };
        let json = serde_json::to_string(&services).unwrap();
        assert_eq!(json, r#"{"compression":"zstd:-3","dedup":true,"write_cache":true,"verify":true}"#);
        assert_eq!(serde_json::from_str::<Services>(&json).unwrap(), services);
        assert!(serde_json::from_str::<Services>(&json.replace("zstd:-3", "zstd:40")).is_err());
    }
}
