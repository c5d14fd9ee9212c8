//! What a pool and its volumes hold: the figures for people, scripts and metrics.

use crate::epochs::DomainStatus;
use crate::erase::EraseStatus;
use crate::maps::MapKeys;
use crate::pool::Pool;
use crate::rebuild::RebuildStatus;
use crate::reseal::ResealStatus;
use crate::scrub::ScrubStatus;
use crate::settings::Settings;
use crate::state::Damage;
use caisson_block::BLOCK;
use caisson_log::TAG;
use caisson_tables::VolumeId;
use std::sync::atomic::Ordering;

/// A pool's figures. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Status {
    /// All segments.
    pub size: u64,
    /// One of them.
    pub segment_size: u64,
    /// What is live in them: blocks and tables, sealed.
    pub live: u64,
    /// Segments that hold nothing.
    pub free: u64,
    /// What user data may come to.
    pub limit: u64,
    /// Sum of the volumes' sizes.
    pub logical: u64,
    /// What the volumes map, each volume counted by itself.
    pub mapped: u64,
    /// Distinct blocks, before compression.
    pub unique: u64,
    /// Distinct blocks as they are stored.
    pub stored: u64,
    /// Pages of the volumes' maps.
    pub map_pages: u64,
    /// Memory of tables and index.
    pub memory: u64,
    /// Of these: pages of the tables, in memory because they changed or were used, and the segment table.
    pub tables_memory: u64,
    /// Of these: the index of deduplication and its summaries.
    pub index_memory: u64,
    /// The index knows one fingerprint in so many by itself.
    pub sample: u64,
    /// Blocks written by hosts since the pool was opened, and how many of them were zero or found again.
    pub written_blocks: u64,
    /// All zero.
    pub zero_blocks: u64,
    /// Found again.
    pub duplicate_blocks: u64,
    /// Bytes appended to the log since the pool was opened, headers and padding included.
    pub log_bytes: u64,
    /// Bytes of the blocks stored since the pool was opened, as they are stored: compressed, and each once.
    pub stored_bytes: u64,
    /// Bytes that the cleaner wrote for what it moved.
    pub moved_bytes: u64,
    /// Checkpoints, and the bytes of them.
    pub checkpoints: u64,
    /// Bytes of checkpoints.
    pub checkpoint_bytes: u64,
    /// Volumes that are being deleted.
    pub dying: usize,
    /// Things found damaged, newest last.
    pub damage: Vec<Damage>,
    /// How many were found in all.
    pub damaged: u64,
    /// Reads that a device refused.
    pub device_errors: u64,
    /// The scrub that runs, or the last that did since the pool was opened.
    pub scrub: Option<ScrubStatus>,
    /// The rebuilding of the index of duplicates, likewise.
    pub rebuild: Option<RebuildStatus>,
    /// The domains, by number.
    pub domains: Vec<DomainStatus>,
    /// How far what earlier key epochs sealed is sealed anew; nothing where none ended since the pool was opened.
    pub reseal: Option<ResealStatus>,
    /// What is being erased of single volumes, in the order in which it was asked for.
    pub erases: Vec<EraseStatus>,
    /// Bytes of freed segments that were given back to the file system.
    pub punched: u64,
    /// The keys of the volumes' maps.
    pub map_keys: MapKeys,
    /// Why the pool is not used any more.
    pub fault: Option<String>,
    /// The volumes, by number.
    pub volumes: Vec<VolumeStatus>,
}

/// A volume's figures.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    /// Its number.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are mapped.
    pub mapped: u64,
    /// How it keeps its blocks; `None` for settings that this version does not know.
    pub settings: Option<Settings>,
    /// The volume that its family began with: its copies and what it is a copy of have one map key.
    pub family: u32,
    /// What it is a snapshot or clone of.
    pub parent: Option<VolumeId>,
    /// It is a snapshot.
    pub read_only: bool,
}

impl Status {
    /// How many bytes were written to the devices, superblocks aside, for each that was stored: by the log, the cleaner and
    /// checkpoints. `None` before anything was stored.
    pub fn write_amplification(&self) -> Option<f64> {
        let written = self.log_bytes + self.moved_bytes + self.checkpoint_bytes;
        (self.stored_bytes > 0).then(|| written as f64 / self.stored_bytes as f64)
    }
}

impl Pool {
    /// The figures now.
    pub fn status(&self) -> Status {
        let inner = &self.0;
        let domains = self.domains();
        let state = inner.lock();
        let tables = &state.tables;
        let (stats, geometry) = (tables.stats(), *tables.geometry());
        let segment = u64::from(geometry.segment_size);
        let block = BLOCK as u64;
        let volumes: Vec<VolumeStatus> = tables
            .volumes()
            .filter(|v| !v.dying)
            .map(|v| VolumeStatus {
                id: v.id,
                name: v.name.clone(),
                size: v.blocks * block,
                mapped: v.mapped * block,
                settings: Settings::decode(&v.settings),
                family: v.family,
                parent: v.parent,
                read_only: v.read_only,
            })
            .collect();
        let c = &inner.counters;
        let get = |n: &caisson_task::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        Status {
            size: u64::from(geometry.segments) * segment,
            segment_size: segment,
            live: tables.live_bytes(),
            free: u64::from(tables.free_segments()) * segment,
            limit: state.space.limit,
            logical: volumes.iter().map(|v| v.size).sum(),
            mapped: volumes.iter().map(|v| v.mapped).sum(),
            unique: stats.blocks * block,
            stored: stats.stored_bytes + stats.blocks * TAG as u64,
            map_pages: stats.map_pages,
            memory: (tables.memory_bytes() + state.index.memory_bytes()) as u64,
            tables_memory: tables.memory_bytes() as u64,
            index_memory: state.index.memory_bytes() as u64,
            sample: 1 << state.index.stats().sample_shift,
            written_blocks: get(&c.written),
            zero_blocks: get(&c.zero),
            duplicate_blocks: get(&c.duplicate),
            log_bytes: state.log.bytes,
            stored_bytes: get(&c.stored_bytes),
            moved_bytes: get(&c.moved_bytes),
            checkpoints: get(&c.checkpoints),
            checkpoint_bytes: get(&c.checkpoint_bytes),
            dying: tables.volumes().filter(|v| v.dying).count(),
            damage: state.faults.iter().cloned().collect(),
            damaged: get(&c.damaged),
            device_errors: get(&c.device_errors),
            scrub: state.chores.scrub.clone(),
            rebuild: state.chores.rebuilt,
            domains,
            reseal: state.chores.resealed.clone(),
            erases: state.erase_status(),
            punched: state.chores.punched,
            map_keys: MapKeys::of(inner, &state),
            fault: inner.fault().map(str::to_owned),
            volumes,
        }
    }
}
