//! The vocabulary of changes that the log carries, and its encoding.
//!
//! Live calls append changes to a journal; recovery applies them in the same order. Owns their byte format. Decoding
//! is bounded by the bytes given and never panics.

use crate::bytes::{Reader, put, put_bytes};
use crate::map::{MARK, MAX_HEIGHT};
use crate::replay::MAX_MAP;
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

impl Run {
    /// The runs that numbers of a leaf make up.
    pub(crate) fn of(values: &[u64]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for &n in values {
            match (runs.last_mut(), n) {
                (Some(Run::Zero(count)), 0) => *count += 1,
                (Some(Run::Unreadable(count)), MARK) => *count += 1,
                (Some(Run::Ids(first, count)), n) if first.get() + u64::from(*count) == n && n != MARK => {
                    *count += 1
                }
                (_, n) => runs.push(match BlockId::new(n) {
                    None if n == 0 => Run::Zero(1),
                    None => Run::Unreadable(1),
                    Some(id) => Run::Ids(id, 1),
                }),
            }
        }
        runs
    }

    /// Appends the numbers that a run stands for, up to the most that a change may have and one more.
    pub(crate) fn expand(&self, out: &mut Vec<u64>) {
        let room = (MAX_MAP + 1).saturating_sub(out.len());
        match *self {
            Run::Zero(count) => out.resize(out.len() + room.min(count as usize), 0),
            Run::Unreadable(count) => out.resize(out.len() + room.min(count as usize), MARK),
            Run::Ids(first, count) => {
                let ids = first.get()..first.get() + u64::from(count);
                out.extend(ids.take(room));
            }
        }
    }
}

// Kinds of changes, and of runs. They are in the log: none ever changes its meaning.
const PAGE: u8 = 1;
const GROW: u8 = 2;
const SHADOW: u8 = 3;
const MAP: u8 = 4;
const CLEAR: u8 = 5;
const DROP: u8 = 6;
const CREATE: u8 = 16;
const RESIZE: u8 = 17;
const TRIMMED: u8 = 18;
const SETTINGS: u8 = 19;
const RENAME: u8 = 20;
const SNAPSHOT: u8 = 21;
const DELETE: u8 = 22;
const FORGET: u8 = 23;

impl Change {
    /// Appends the change to `out`: a byte of kind, then numbers of 7 bits a byte, lowest first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Change::Page { volume, level, block, id } => {
                at_level(out, PAGE, *volume, *level, *block, Some(*id))
            }
            Change::Shadow { volume, level, block, id } => {
                at_level(out, SHADOW, *volume, *level, *block, Some(*id));
            }
            Change::Drop { volume, level, block } => at_level(out, DROP, *volume, *level, *block, None),
            Change::Grow { volume, id } => {
                out.push(GROW);
                put(out, u64::from(volume.0));
                put(out, id.get());
            }
            Change::Clear { volume, block, count } => {
                out.push(CLEAR);
                put(out, u64::from(volume.0));
                put(out, *block);
                put(out, u64::from(*count));
            }
            Change::Map { volume, block, runs } => {
                out.push(MAP);
                put(out, u64::from(volume.0));
                put(out, *block);
                put(out, runs.len() as u64);
                for run in runs {
                    // The kind of a run shares a number with its length.
                    match *run {
                        Run::Zero(count) => put(out, u64::from(count) << 2),
                        Run::Unreadable(count) => put(out, u64::from(count) << 2 | 1),
                        Run::Ids(first, count) => {
                            put(out, u64::from(count) << 2 | 2);
                            put(out, first.get());
                        }
                    }
                }
            }
            Change::Volume(change) => change.encode(out),
        }
    }

    /// The changes that `bytes` are, all of them.
    pub fn decode(bytes: &[u8]) -> Result<Vec<Change>, ChangeError> {
        let mut r = Reader::new(bytes);
        let mut changes = Vec::new();
        while !r.is_empty() {
            changes.push(Change::read(&mut r)?);
        }
        Ok(changes)
    }

    fn read(r: &mut Reader<'_>) -> Result<Change, ChangeError> {
        let at = r.at();
        let kind = r.byte()?;
        Ok(match kind {
            PAGE | SHADOW | DROP => {
                let (volume, level, block) = (r.volume()?, r.byte()?, r.block()?);
                if level >= MAX_HEIGHT {
                    return Err(ChangeError::Invalid { at });
                }
                match kind {
                    PAGE => Change::Page { volume, level, block, id: r.id()? },
                    SHADOW => Change::Shadow { volume, level, block, id: r.id()? },
                    _ => Change::Drop { volume, level, block },
                }
            }
            GROW => Change::Grow { volume: r.volume()?, id: r.id()? },
            CLEAR => {
                let (volume, block) = (r.volume()?, r.block()?);
                Change::Clear { volume, block, count: r.count()? }
            }
            MAP => Change::Map { volume: r.volume()?, block: r.block()?, runs: Change::read_runs(r)? },
            _ => Change::Volume(VolumeChange::read(kind, at, r)?),
        })
    }

    fn read_runs(r: &mut Reader<'_>) -> Result<Vec<Run>, ChangeError> {
        let at = r.at();
        let n = r.number()?;
        // Each takes a byte at least, so that what is held is bounded by what was given.
        if n > r.left() as u64 {
            return Err(ChangeError::Short { at });
        }
        let mut runs = Vec::with_capacity(n as usize);
        let mut total = 0;
        for _ in 0..n {
            let at = r.at();
            let number = r.number()?;
            let count = number >> 2;
            total += count;
            if count == 0 || count > MAX_MAP as u64 || total > MAX_MAP as u64 {
                return Err(ChangeError::Invalid { at });
            }
            let count = count as u32;
            runs.push(match number & 3 {
                0 => Run::Zero(count),
                1 => Run::Unreadable(count),
                2 => {
                    let first = r.id()?;
                    let last = BlockId::new(first.get() + u64::from(count) - 1);
                    if last.is_none() {
                        return Err(ChangeError::Invalid { at });
                    }
                    Run::Ids(first, count)
                }
                _ => return Err(ChangeError::Invalid { at }),
            });
        }
        Ok(runs)
    }
}

fn at_level(out: &mut Vec<u8>, kind: u8, volume: VolumeId, level: u8, block: u64, id: Option<BlockId>) {
    out.push(kind);
    put(out, u64::from(volume.0));
    out.push(level);
    put(out, block);
    if let Some(id) = id {
        put(out, id.get());
    }
}

impl VolumeChange {
    fn encode(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, kind: u8, id: &VolumeId| {
            out.push(kind);
            put(out, u64::from(id.0));
        };
        match self {
            VolumeChange::Create { id, name, bytes, settings } => {
                head(out, CREATE, id);
                put_bytes(out, name.as_bytes());
                put(out, *bytes);
                put_bytes(out, settings);
            }
            VolumeChange::Resize { id, bytes } => {
                head(out, RESIZE, id);
                put(out, *bytes);
            }
            VolumeChange::Trimmed { id } => head(out, TRIMMED, id),
            VolumeChange::SetSettings { id, settings } => {
                head(out, SETTINGS, id);
                put_bytes(out, settings);
            }
            VolumeChange::Rename { id, name } => {
                head(out, RENAME, id);
                put_bytes(out, name.as_bytes());
            }
            VolumeChange::Snapshot { of, id, name, settings, read_only } => {
                head(out, SNAPSHOT, id);
                put(out, u64::from(of.0));
                put_bytes(out, name.as_bytes());
                put_bytes(out, settings);
                out.push(u8::from(*read_only));
            }
            VolumeChange::Delete { id } => head(out, DELETE, id),
            VolumeChange::Forget { id } => head(out, FORGET, id),
        }
    }

    fn read(kind: u8, at: usize, r: &mut Reader<'_>) -> Result<VolumeChange, ChangeError> {
        if !(CREATE..=FORGET).contains(&kind) {
            return Err(ChangeError::Invalid { at });
        }
        let id = r.volume()?;
        Ok(match kind {
            CREATE => VolumeChange::Create {
                id,
                name: r.text()?,
                bytes: r.number()?,
                settings: r.bytes()?.to_vec(),
            },
            RESIZE => VolumeChange::Resize { id, bytes: r.number()? },
            TRIMMED => VolumeChange::Trimmed { id },
            SETTINGS => VolumeChange::SetSettings { id, settings: r.bytes()?.to_vec() },
            RENAME => VolumeChange::Rename { id, name: r.text()? },
            SNAPSHOT => {
                let (of, name, settings) = (r.volume()?, r.text()?, r.bytes()?.to_vec());
                let at = r.at();
                let read_only = match r.byte()? {
                    0 => false,
                    1 => true,
                    _ => return Err(ChangeError::Invalid { at }),
                };
                VolumeChange::Snapshot { of, id, name, settings, read_only }
            }
            DELETE => VolumeChange::Delete { id },
            _ => VolumeChange::Forget { id },
        })
    }
}
