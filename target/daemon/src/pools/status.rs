//! How a pool is, in numbers: what status, the management API and metrics show.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a pool is. All sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its UUID.
    pub id: String,
    /// Its devices.
    pub devices: Vec<DeviceStatus>,
    /// Room for data, of all devices.
    pub size: u64,
    /// Of this: in use, garbage that the cleaner has not come to included.
    pub used: u64,
    /// What new data may still take; the reserve that overwrites and the cleaner live from is not part of it.
    pub free: u64,
    /// Sizes of all volumes together.
    pub logical: u64,
    /// What hosts have written of that and not given back; what several volumes share counts for each.
    pub mapped: u64,
    /// Unique blocks of that.
    pub unique: u64,
    /// What these take, compressed and sealed.
    pub stored: u64,
    /// What tables take on the devices.
    pub metadata: u64,
    /// Memory of tables and the index of duplicates.
    pub memory: u64,
    /// Why the pool has failed, when it has.
    pub fault: Option<String>,
    /// What was found damaged, as far as it is remembered.
    pub damage: Vec<Damage>,
    /// What it did since it was opened.
    pub activity: Activity,
    /// The walk over all that is stored: the one under way, or the last.
    pub scrub: Option<Scrub>,
    /// Its domains, by number.
    #[serde(default)]
    pub domains: Vec<Domain>,
    /// The sealing anew of what earlier key epochs sealed: the one under way, or the last.
    #[serde(default)]
    pub reseal: Option<Reseal>,
    /// The keys of the volumes' maps.
    #[serde(default)]
    pub map_keys: MapKeys,
    /// Volumes whose content is being erased, in the order in which that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erases: Vec<Erase>,
    /// Space by volume.
    pub volumes: BTreeMap<String, VolumeSpace>,
}

/// The keys that the maps of volumes are stored under: one for a volume together with all its snapshots and clones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapKeys {
    /// How many there are, those that are being erased included.
    pub keys: usize,
    /// Those, by number, whose volumes are all deleted and which are not erased yet.
    pub erasing: Vec<u32>,
    /// How many were erased since the pool was opened.
    pub erased: u64,
}

/// A domain: volumes with keys of their own, of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its number; 0 is what belongs to no domain.
    pub domain: u32,
    /// Its name.
    pub name: String,
    /// The key epoch that seals; 0 where its keys are destroyed.
    pub epoch: u16,
    /// Earlier epochs that something may still be sealed under.
    pub old_epochs: Vec<u16>,
    /// Records that the present epoch sealed.
    pub sealed_records: u64,
    /// Bytes of them.
    pub sealed_bytes: u64,
    /// How many volumes it has.
    pub volumes: usize,
}

/// How far what earlier key epochs sealed is sealed anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reseal {
    /// Whether there is something, or may be.
    pub running: bool,
    /// Segments that this round has looked at.
    pub segments: u32,
    /// Of so many.
    pub all_segments: u32,
    /// Bytes that were read or moved for it since the pool was opened.
    pub bytes: u64,
    /// Rounds since the pool was opened.
    pub rounds: u64,
    /// What the last count found under earlier epochs; none before the first.
    pub left: Option<u64>,
    /// What it waits for.
    pub waits: Option<String>,
}

/// The erasing of what one volume alone holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erase {
    /// Its number.
    pub number: u32,
    /// The volume's name; none where it is deleted.
    pub volume: Option<String>,
    /// The volume's number in the pool.
    pub id: u32,
    /// The number of its domain.
    pub domain: u32,
    /// Who asked for it: `operator`, `format` or `sanitize`.
    pub by: String,
    /// `emptying`, `needs-epoch` or `sealing`.
    pub stage: String,
    /// How far it is, in percent.
    pub percent: u8,
    /// What it waits for that does not come by itself.
    pub waits: Option<String>,
}

/// A device of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Where it is.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// Something that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The volume that is hurt; none for tables.
    pub volume: Option<String>,
    /// Its first logical block that is.
    pub lba: Option<u64>,
    /// What it is, and where.
    pub what: String,
}

/// What a pool did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Blocks of 4 KiB that hosts wrote.
    pub written_blocks: u64,
    /// Of these: all zero.
    pub zero_blocks: u64,
    /// Of these: stored already.
    pub duplicate_blocks: u64,
    /// Bytes of the blocks that were stored, compressed, each once.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Bytes that were written to the devices for that: by the log, the cleaner and checkpoints.
    pub device_bytes: u64,
    /// Of these: by the cleaner.
    pub moved_bytes: u64,
    /// Of these: by checkpoints.
    #[serde(default)]
    pub checkpoint_bytes: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Blocks and pages that could not be read.
    pub damaged: u64,
    /// Reads that a device refused.
    #[serde(default)]
    pub device_errors: u64,
}

/// A walk over all that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// Whether it is under way.
    pub running: bool,
    /// Whether it came to its end.
    pub completed: bool,
    /// Bytes a second that it reads at most; 0 for no bound.
    pub rate: u64,
    /// Bytes that it read.
    pub bytes: u64,
    /// How far it is.
    pub percent: u8,
    /// Blocks of 4 KiB that are lost; known at its end.
    pub lost_blocks: u64,
    /// What it found: damaged records, and which blocks of which volumes they hurt, as far as is kept.
    pub problems: Vec<String>,
}

/// A volume's space in its pool, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpace {
    /// What hosts have written and not given back.
    pub mapped: u64,
    /// Which map key it has: its snapshots and clones, and what it is a copy of, have the same.
    #[serde(default)]
    pub map_key: u32,
    /// What deleting the volume would give back: blocks and pages that are its own, compressed and sealed. Counted only when one
    /// volume is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed_by_delete: Option<u64>,
}

impl Activity {
    /// How many bytes were written to the devices for one that was stored; none before anything was.
    pub fn write_amplification(&self) -> Option<f64> {
        (self.stored_bytes > 0).then(|| self.device_bytes as f64 / self.stored_bytes as f64)
    }
}

impl PoolStatus {
    /// How many bytes of hosts stand behind one that is stored; none without data.
    pub fn ratio(&self) -> Option<f64> {
        (self.stored > 0).then(|| self.mapped as f64 / self.stored as f64)
    }
}
