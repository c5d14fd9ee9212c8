//! Records of volumes, and the changes of them.
//!
//! Records are in memory as a whole. Owns the rules of names, numbers and sizes.

use crate::change::{Change, VolumeChange};
use crate::tables::Tables;
use crate::types::{BlockId, Needs, PAGE, VolumeId};
use crate::want::Want;

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
    /// The volume that its family began with: itself, or what it is a copy of over whatever number of steps; or the number of no volume, where
    /// it was emptied for good since ([`Tables::renew_family`]). A family's volumes share
    /// map pages, and so the key of them. That volume may be gone.
    pub family: u32,
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

/// Bytes of a volume's name at most.
pub(crate) const MAX_NAME: usize = 255;

/// Bytes of a volume's settings at most.
pub(crate) const MAX_SETTINGS: usize = 4096;

impl VolumeRecord {
    /// A volume of nothing.
    fn empty(id: VolumeId, name: String, blocks: u64, settings: Vec<u8>) -> VolumeRecord {
        VolumeRecord {
            id,
            name,
            blocks,
            tail: 0,
            settings,
            family: id.0,
            parent: None,
            read_only: false,
            dying: false,
            root: None,
            height: 0,
            mapped: 0,
        }
    }
}

/// A size in blocks.
fn blocks(bytes: u64) -> Result<u64, VolumeError> {
    if bytes.is_multiple_of(PAGE as u64) { Ok(bytes / PAGE as u64) } else { Err(VolumeError::Invalid) }
}

fn check_settings(settings: &[u8]) -> Result<(), VolumeError> {
    if settings.len() <= MAX_SETTINGS { Ok(()) } else { Err(VolumeError::Invalid) }
}

impl Tables {
    /// A volume's record.
    pub fn volume(&self, id: VolumeId) -> Option<&VolumeRecord> {
        self.volumes.get(&id)
    }

    /// The volume with a name, if it is not dying.
    pub fn volume_named(&self, name: &str) -> Option<&VolumeRecord> {
        self.names.get(name).and_then(|id| self.volumes.get(id))
    }

    /// All records, dying ones too, by rising number.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values()
    }

    /// The lowest volume number that was never used.
    pub fn next_volume(&self) -> VolumeId {
        VolumeId(self.next_volume)
    }

    /// A volume that holds nothing begins a family of its own, with a number that no volume and no family ever had: whatever it was a
    /// copy of, it shares no page with that any more. What was copied from it stays in the family that was. Nothing happens to a volume that
    /// holds something, nor where numbers have run out. Not a change of the log: it counts from the next root on, and before that no page is
    /// stored under it.
    pub fn renew_family(&mut self, id: VolumeId) {
        let family = self.next_volume;
        if family == u32::MAX {
            return;
        }
        if self.volume(id).is_some_and(|r| r.root.is_none()) {
            self.record_mut(id).family = family;
            self.next_volume = family + 1;
        }
    }

    /// Changes a volume's record, or makes or removes one.
    pub fn change_volume(
        &mut self,
        change: VolumeChange,
        journal: &mut Vec<Change>,
    ) -> Result<(), VolumeError> {
        self.make_volume_change(change.clone())?;
        journal.push(Change::Volume(change));
        Ok(())
    }

    /// The same for live changes and for replay.
    pub(crate) fn make_volume_change(&mut self, change: VolumeChange) -> Result<(), VolumeError> {
        match change {
            VolumeChange::Create { id, name, bytes, settings } => {
                let blocks = blocks(bytes)?;
                check_settings(&settings)?;
                self.check_new(id, &name)?;
                self.add_volume(VolumeRecord::empty(id, name, blocks, settings));
            }
            VolumeChange::Snapshot { of, id, name, settings, read_only } => {
                check_settings(&settings)?;
                self.check_new(id, &name)?;
                self.snapshot(of, id, name, settings, read_only)?;
            }
            VolumeChange::Resize { id, bytes } => {
                let blocks = blocks(bytes)?;
                let r = self.living(id)?;
                let (now, tail) = (r.blocks, r.tail);
                if blocks > now && tail > 0 {
                    return Err(VolumeError::Tail(id));
                }
                let r = self.record_mut(id);
                r.blocks = blocks;
                if blocks < now {
                    r.tail = tail.max(now);
                }
            }
            VolumeChange::Trimmed { id } => {
                self.living(id)?;
                self.record_mut(id).tail = 0;
            }
            VolumeChange::SetSettings { id, settings } => {
                check_settings(&settings)?;
                self.living(id)?;
                self.record_mut(id).settings = settings;
            }
            VolumeChange::Rename { id, name } => {
                let old = self.living(id)?.name.clone();
                if old != name {
                    self.check_name(&name)?;
                    self.names.remove(&old);
                    self.names.insert(name.clone(), id);
                    self.record_mut(id).name = name;
                }
            }
            VolumeChange::Delete { id } => {
                let name = self.living(id)?.name.clone();
                self.names.remove(&name);
                self.record_mut(id).dying = true;
            }
            VolumeChange::Forget { id } => {
                let r = self.volumes.get(&id).ok_or(VolumeError::Unknown(id))?;
                if !r.dying || r.root.is_some() {
                    return Err(VolumeError::NotEmpty(id));
                }
                self.record_mut(id);
                self.volumes.remove(&id);
            }
        }
        self.cache.tick();
        Ok(())
    }

    fn living(&self, id: VolumeId) -> Result<&VolumeRecord, VolumeError> {
        match self.volumes.get(&id) {
            None => Err(VolumeError::Unknown(id)),
            Some(r) if r.dying => Err(VolumeError::Dying(id)),
            Some(r) => Ok(r),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), VolumeError> {
        if name.is_empty() || name.len() > MAX_NAME {
            Err(VolumeError::Invalid)
        } else if self.names.contains_key(name) {
            Err(VolumeError::NameTaken(name.to_owned()))
        } else {
            Ok(())
        }
    }

    fn check_new(&self, id: VolumeId, name: &str) -> Result<(), VolumeError> {
        // The highest number has no successor.
        if id.0 < self.next_volume || id.0 == u32::MAX {
            return Err(VolumeError::Used(id));
        }
        self.check_name(name)
    }

    fn add_volume(&mut self, record: VolumeRecord) {
        let id = record.id;
        if let Some(image) = &mut self.image {
            image.volumes.entry(id.0).or_insert(None);
        }
        self.next_volume = id.0 + 1;
        self.names.insert(record.name.clone(), id);
        self.volumes.insert(id, record);
    }

    /// A volume with the same root, which gets a reference more.
    fn snapshot(
        &mut self,
        of: VolumeId,
        id: VolumeId,
        name: String,
        settings: Vec<u8>,
        read_only: bool,
    ) -> Result<(), VolumeError> {
        let from = self.living(of)?.clone();
        if from.tail > 0 {
            return Err(VolumeError::Tail(of));
        }
        if let Some(root) = from.root {
            let mut want = Want::default();
            self.need_entry(root, &mut want);
            Result::<(), Needs>::from(want)?;
            self.add_ref(root.get());
        }
        self.add_volume(VolumeRecord { id, name, settings, parent: Some(of), read_only, ..from });
        Ok(())
    }
}
