//! The vocabulary of changes that the log carries, and its encoding.
//!
//! Live calls append changes to a journal; recovery applies them in the same order. Owns their byte format. Decoding
//! is bounded by the bytes given and never panics.

use crate::types::{BlockId, VolumeId};

/// Consecutive blocks of one kind in a [`Change::Map`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// Nothing.
    Zero(u32),
    /// The mark.
    Unreadable(u32),
    /// Consecutive ids, of which this is the first, as many as said.
    Ids(BlockId, u32),
}

/// A change of the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// An empty map page was created at `level` on the way to `block`.
    Page {
        /// Of which volume.
        volume: VolumeId,
        /// 0 for a leaf.
        level: u8,
        /// A block below the page.
        block: u64,
        /// The page.
        id: BlockId,
    },
    /// The tree grew: a new root over the old one.
    Grow {
        /// Of which volume.
        volume: VolumeId,
        /// The new root.
        id: BlockId,
    },
    /// The shared map page at `level` on the way to `block` was replaced by a copy.
    Shadow {
        /// Of which volume.
        volume: VolumeId,
        /// 0 for a leaf.
        level: u8,
        /// A block below the page.
        block: u64,
        /// The copy.
        id: BlockId,
    },
    /// Blocks were written.
    Map {
        /// Of which volume.
        volume: VolumeId,
        /// The first.
        block: u64,
        /// What stands there now.
        runs: Vec<Run>,
    },
    /// Blocks of one leaf were unmapped.
    Clear {
        /// Of which volume.
        volume: VolumeId,
        /// The first.
        block: u64,
        /// How many, all below one leaf.
        count: u32,
    },
    /// The pointer to the page at `level` on the way to `block` was dropped.
    Drop {
        /// Of which volume.
        volume: VolumeId,
        /// 0 for a leaf.
        level: u8,
        /// A block below the page.
        block: u64,
    },
    /// A volume was created, changed or removed.
    Volume(VolumeChange),
}

/// A change of a volume's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VolumeChange {
    /// An empty volume.
    Create {
        /// A number never used before; see `Tables::next_volume`.
        id: VolumeId,
        /// A name that no other volume has.
        name: String,
        /// Its size in bytes: a multiple of 4096.
        bytes: u64,
        /// Opaque to the tables.
        settings: Vec<u8>,
    },
    /// A new size. A smaller one leaves a tail to be unmapped (`VolumeRecord::tail`).
    Resize {
        /// Which.
        id: VolumeId,
        /// The new size in bytes: a multiple of 4096.
        bytes: u64,
    },
    /// The tail that a smaller size left was unmapped.
    Trimmed {
        /// Which.
        id: VolumeId,
    },
    /// New settings.
    SetSettings {
        /// Which.
        id: VolumeId,
        /// Opaque to the tables.
        settings: Vec<u8>,
    },
    /// A new name.
    Rename {
        /// Which.
        id: VolumeId,
        /// A name that no other volume has.
        name: String,
    },
    /// A snapshot (read-only) or clone: a new volume with the same content.
    Snapshot {
        /// Of which.
        of: VolumeId,
        /// A number never used before.
        id: VolumeId,
        /// A name that no other volume has.
        name: String,
        /// Its settings, opaque to the tables.
        settings: Vec<u8>,
        /// Whether it is never written.
        read_only: bool,
    },
    /// It is being deleted: its blocks are unmapped from now on, and its name is free.
    Delete {
        /// Which.
        id: VolumeId,
    },
    /// A volume that was being deleted, and has nothing mapped any more, is gone.
    Forget {
        /// Which.
        id: VolumeId,
    },
}

/// Why bytes are no changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// They end inside a change.
    #[error("a change ends early at byte {at}")]
    Short {
        /// Where.
        at: usize,
    },
    /// A number, kind or text that no change has.
    #[error("no change has what stands at byte {at}")]
    Invalid {
        /// Where.
        at: usize,
    },
}
impl Change {
    /// Appends the change to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let _ = out;
        unreachable!()
    }

    /// The changes that `bytes` are, all of them.
    pub fn decode(bytes: &[u8]) -> Result<Vec<Change>, ChangeError> {
        let _ = bytes;
        unreachable!()
    }
}
