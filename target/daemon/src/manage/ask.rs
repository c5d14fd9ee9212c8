//! What requests carry: the JSON bodies of the management API.

use crate::model::{Compression, Services};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a new volume is made of, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackingKind {
    /// A file in a pool, or at `path` where that is given.
    #[default]
    File,
    /// Memory.
    Ram,
    /// Nothing.
    Null,
}

/// A size in bytes, as a number or as text with a unit (`"10G"`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// With a unit.
    Text(String),
}

impl Size {
    /// In bytes.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn bytes(&self) -> Result<u64, String> {
        match self {
            Size::Bytes(n) => Ok(*n),
            Size::Text(t) => crate::model::text::parse_size(t),
        }
    }
}

/// `POST /v1/volumes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
    /// Its size; may be missing for an existing file or device at `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Logical block size; 4096 where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// What it is made of.
    #[serde(default)]
    pub backing: BackingKind,
    /// A file or block device of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Which pool; the default one where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Take over a volume of that name that the pool holds already.
    #[serde(default)]
    pub adopt: bool,
    /// What its pool does with its blocks; what is missing is as it is by itself.
    #[serde(default)]
    pub services: ServicesAsk,
    /// The domain of its pool whose keys seal it; the one that every pool has where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// What a pool is to do with a volume's blocks, as far as it is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicesAsk {
    /// `off` or `zstd:LEVEL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Whether blocks that are stored already are shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<bool>,
    /// Whether plain writes complete before they are durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_cache: Option<bool>,
    /// Whether the bytes of duplicates are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
}

impl ServicesAsk {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == ServicesAsk::default()
    }

    /// `base` with what is said.
    pub fn over(&self, base: Services) -> Services {
        Services {
            compression: self.compression.unwrap_or(base.compression),
            dedup: self.dedup.unwrap_or(base.dedup),
            write_cache: self.write_cache.unwrap_or(base.write_cache),
            verify: self.verify.unwrap_or(base.verify),
        }
    }
}

/// `POST /v1/volumes/{name}/snapshots` and `POST /v1/volumes/{name}/clones`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// The new volume's name.
    pub name: String,
}

/// A file or block device of a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceAsk {
    /// Where it is, from / on.
    pub path: PathBuf,
    /// What a file is made, or grown, to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

/// `POST /v1/pools`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreatePool {
    /// Its name.
    pub name: String,
    /// Its devices.
    pub devices: Vec<DeviceAsk>,
    /// Its sealed key file, from / on; made where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Other key providers, as URIs (kms/README.md); a root key is made where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// A file with the passphrase, which the target reads now and at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Take over a pool that the devices hold already.
    #[serde(default)]
    pub adopt: bool,
}

/// `POST /v1/pools/{name}/grow`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grow {
    /// A file of the pool that is to become larger; the pool's only one where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// How large; without it, what devices have grown by is taken into use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

/// `POST` and `DELETE /v1/pools/{name}/keys`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyAsk {
    /// The key provider, as a URI with whole paths (kms/README.md).
    pub key: String,
}

/// `POST /v1/pools/{name}/keys/rotate`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// The provider that is to have a new root key; all of them where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// `POST /v1/pools/{name}/domains` and `POST /v1/pools/{name}/domains/rotate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainAsk {
    /// The domain's name; `pool` is what belongs to none (headers, tables, checkpoints).
    pub domain: String,
}

/// `POST /v1/pools/{name}/domains/destroy`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// The domain's name.
    pub domain: String,
    /// Its name again: what is destroyed is gone for good.
    pub confirm: String,
}

/// `POST /v1/pools/{name}/keys/revoke` and `POST /v1/pools/{name}/keys/destroy`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootAsk {
    /// The root key, as `GET /v1/pools/{name}/keys` names it.
    pub root: String,
    /// The provider that holds it, where it is none of the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why it is revoked; nothing where it is destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Why>,
    /// Its name again: what is revoked or destroyed does not come back.
    pub confirm: String,
}

/// Why a root key is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It is not needed any more.
    #[default]
    Cessation,
    /// Another took its place.
    Superseded,
    /// Somebody else may have it.
    Compromise,
}

/// `POST /v1/pools/{name}/keys/recovery`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// How many shares: 2 to 16.
    pub shares: u8,
    /// How many of them open the pool: 2 or more.
    pub needed: u8,
}

/// `POST /v1/pools/{name}/scrub`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubAsk {
    /// About how many bytes a second; 0 stops one that is under way.
    pub rate: Size,
}

/// `POST /v1/volumes/{name}/erase`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseAsk {
    /// Its name again: what is erased is gone for good.
    pub confirm: String,
    /// Whether it is deleted, too.
    #[serde(default)]
    pub delete: bool,
}

/// `POST /v1/volumes/{name}/resize`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The new size.
    pub size: Size,
    /// Whether it may become smaller, which loses what lies beyond.
    #[serde(default)]
    pub shrink: bool,
}

/// `POST /v1/subsystems`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSubsystem {
    /// Its NQN.
    pub nqn: String,
    /// Serial number; follows from the NQN where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether any host may connect.
    #[serde(default)]
    pub allow_any_host: bool,
    /// Whether hosts may erase what its namespaces hold.
    #[serde(default)]
    pub allow_erase: bool,
    /// Hosts that may.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// `POST /v1/subsystems/{nqn}/namespaces`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddNamespace {
    /// Which volume.
    pub volume: String,
    /// Its number; the lowest free one where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<u32>,
    /// Its UUID; a new one where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<uuid::Uuid>,
    /// Its NGUID; the UUID's bytes where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nguid: Option<String>,
}

/// `PUT /v1/subsystems/{nqn}/allow-any` and `PUT /v1/subsystems/{nqn}/namespaces/{nsid}/write-protect`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// On or off.
    pub on: bool,
}

/// `POST /v1/listeners`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddListener {
    /// `tcp://ADDRESS:PORT`.
    pub address: String,
    /// `io`, `discovery` or `both`; by the port where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<crate::model::Serves>,
}

/// `POST /v1/referrals`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddReferral {
    /// `tcp://ADDRESS:PORT`.
    pub address: String,
}
