//! Records of volumes, and what may be done to them.

use crate::types::{BlockId, Needs, VolumeId};

/// What is known of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    /// Its number.
    pub id: VolumeId,
    /// Its name; of a dying volume, the name it had.
    pub name: String,
    /// Its size in blocks.
    pub blocks: u64,
    /// Blocks from `blocks` up to here may still be mapped, since it was made smaller; 0 where there are none. They must be
    /// unmapped (`Tables::unmap`, then `VolumeChange::Trimmed`) before it grows again.
    pub tail: u64,
    /// Opaque to the tables.
    pub settings: Vec<u8>,
    /// What it is a snapshot or clone of. That volume may be gone.
    pub parent: Option<VolumeId>,
    /// It is a snapshot.
    pub read_only: bool,
    /// It is being deleted.
    pub dying: bool,
    /// The root of its map.
    pub root: Option<BlockId>,
    /// Levels of its map; 0 where there is no root.
    pub height: u8,
    /// Blocks that are mapped to stored blocks. An upper bound while the volume is dying.
    pub mapped: u64,
}

/// Why a volume was not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VolumeError {
    /// Pages must be loaded first.
    #[error(transparent)]
    Needs(#[from] Needs),
    /// There is no such volume.
    #[error("there is no volume {}", .0.0)]
    Unknown(VolumeId),
    /// The number was used before.
    #[error("volume number {} was used before", .0.0)]
    Used(VolumeId),
    /// Another volume has the name.
    #[error("there is a volume named {0:?}")]
    NameTaken(String),
    /// The name is empty or longer than 255 bytes, the settings are longer than 4096, or the size is not a multiple of 4096.
    #[error("name, settings or size out of bounds")]
    Invalid,
    /// It is being deleted.
    #[error("volume {} is being deleted", .0.0)]
    Dying(VolumeId),
    /// It is not being deleted, or it is not empty yet.
    #[error("volume {} is not empty", .0.0)]
    NotEmpty(VolumeId),
    /// It was made smaller, and what stood beyond is not unmapped yet.
    #[error("the tail of volume {} is not unmapped yet", .0.0)]
    Tail(VolumeId),
}
