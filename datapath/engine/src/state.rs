//! What all users of a pool share, and the one lock.
//!
//! Owns the pool's state. Everything that must change together (tables, the open batch, the index) stands in [`State`],
//! behind one lock that is held for short, synchronous pieces of work and never across a device operation.

use crate::bounds::{BATCH_SLACK, BATCH_TARGET, CHECKPOINT_DISTANCE, CHUNK_BLOCKS, FAULTS_KEPT};
use crate::checkpoint::Checkpoints;
use crate::chores::Chores;
use crate::devices::{Cause, Devices};
use crate::domains::Domains;
use crate::log::Log;
use crate::pages::Lost;
use crate::space::Space;
use crate::steward::Stewardship;
use crate::volume::Shared;
use crate::weight::Weight;
use arc_swap::ArcSwap;
use caisson_device::Buffers;
use caisson_index::Index;
use caisson_keys::Secret;
use caisson_log::Keyring;
use caisson_tables::{PageKey, Tables, VolumeId, Where};
use caisson_task::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use caisson_task::sync::{Mutex, MutexGuard, PoisonError};
use caisson_task::{Claims, Waiter};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};

/// A pool that is open.
pub(crate) struct Inner {
    pub(crate) keyring: Keyring,
    pub(crate) devices: ArcSwap<Devices>,
    /// Claimed by the checkpoint under way, and by who changes what checkpoints write.
    pub(crate) checkpointing: Arc<Claims>,
    /// For reading user data.
    pub(crate) buffers: Buffers,
    /// For reading table pages: apart, so that those who hold buffers never wait for each other.
    pub(crate) page_buffers: Buffers,
    /// For the background: segments read for cleaning, checking and recovery.
    pub(crate) bulk: caisson_block::Pool,
    /// Payload bytes at which a batch is closed although others are under way.
    pub(crate) batch_target: usize,
    /// Blocks of one publication.
    pub(crate) chunk: usize,
    pub(crate) segment_size: u32,
    /// Bytes of log between two checkpoints.
    pub(crate) distance: u64,
    random: Mutex<Random>,
    /// The volumes that are in use.
    open: Mutex<HashMap<VolumeId, Weak<Shared>>>,
    state: Mutex<State>,
    fault: OnceLock<String>,
    pub(crate) closing: AtomicBool,
    /// When the chores want to be called again, in nanoseconds of [`caisson_block::Mono`].
    pub(crate) alarm: AtomicU64,
    pub(crate) counters: Counters,
}

/// Counts since the pool was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Blocks that were written by hosts.
    pub(crate) written: AtomicU64,
    /// Of these: all zero.
    pub(crate) zero: AtomicU64,
    /// Of these: found again.
    pub(crate) duplicate: AtomicU64,
    /// Bytes of the blocks that were stored, as they are stored.
    pub(crate) stored_bytes: AtomicU64,
    /// Blocks that the cleaner moved, and the bytes that it wrote for that.
    pub(crate) moved: AtomicU64,
    pub(crate) moved_bytes: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint_bytes: AtomicU64,
    /// Summaries that are being read ahead.
    pub(crate) reading_ahead: AtomicU64,
    /// Blocks and pages that could not be had.
    pub(crate) damaged: AtomicU64,
    /// Reads that a device refused.
    pub(crate) device_errors: AtomicU64,
}

/// What stands under the lock.
pub(crate) struct State {
    pub(crate) tables: Tables,
    pub(crate) domains: Domains,
    pub(crate) index: Index,
    pub(crate) log: Log,
    pub(crate) space: Space,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) weight: Weight,
    /// Who waits for space to be made.
    pub(crate) room: Vec<Waiter>,
    pub(crate) steward: Stewardship,
    pub(crate) chores: Chores,
    /// Who waits for a checkpoint, and for which.
    pub(crate) checkpoint_waiters: Vec<Waiter>,
    pub(crate) faults: VecDeque<Damage>,
    /// How many map keys were erased since the pool was opened, and those of which nobody was told yet.
    pub(crate) map_keys_erased: u64,
    pub(crate) map_keys_told: Vec<u32>,
}

/// Something that was found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The volume and its 4 KiB block; `None` for a page of the tables.
    pub block: Option<(VolumeId, u64)>,
    /// Where it stands: segment and byte.
    pub at: (u32, u32),
    /// What it is, in words.
    pub what: String,
    /// Why it cannot be had.
    pub cause: Cause,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.what, self.cause)
    }
}

/// A source of random bytes: the system's, or a simulation's.
pub type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// What a pool is made of when it is taken into use.
pub(crate) struct Parts {
    pub(crate) keyring: Keyring,
    pub(crate) devices: Devices,
    pub(crate) buffers: Buffers,
    pub(crate) page_buffers: Buffers,
    pub(crate) bulk: caisson_block::Pool,
    pub(crate) sizes: Sizes,
    pub(crate) random: Random,
    pub(crate) state: State,
}

/// Sizes that follow from the segment's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) segment: u32,
    pub(crate) batch_target: usize,
    pub(crate) chunk: usize,
    /// The longest batch.
    pub(crate) batch: usize,
    pub(crate) distance: u64,
}

impl Sizes {
    pub(crate) fn of(segment: u32, segments: u32) -> Sizes {
        let quarter = segment as usize / 4;
        let batch_target = BATCH_TARGET.min(quarter);
        // What does not fit into the rest of a segment leaves that empty.
        let chunk = (quarter / 2 / caisson_block::BLOCK).clamp(1, CHUNK_BLOCKS);
        let batch = batch_target + chunk * caisson_block::BLOCK + quarter.min(BATCH_SLACK);
        let pool = u64::from(segment) * u64::from(segments);
        let distance = CHECKPOINT_DISTANCE.min(pool / 8).max(u64::from(segment));
        Sizes { segment, batch_target, chunk, batch, distance }
    }
}

impl Inner {
    /// Takes a pool into use.
    pub(crate) fn new(parts: Parts) -> Inner {
        let Parts { keyring, devices, buffers, page_buffers, bulk, sizes, random, state } = parts;
        Inner {
            keyring,
            devices: ArcSwap::from_pointee(devices),
            checkpointing: Claims::new(),
            buffers,
            page_buffers,
            bulk,
            batch_target: sizes.batch_target,
            chunk: sizes.chunk,
            segment_size: sizes.segment,
            distance: sizes.distance,
            random: Mutex::new(random),
            open: Mutex::default(),
            state: Mutex::new(state),
            fault: OnceLock::new(),
            closing: AtomicBool::new(false),
            alarm: AtomicU64::new(u64::MAX),
            counters: Counters::default(),
        }
    }

    /// The volumes that are in use.
    pub(crate) fn volumes(&self) -> MutexGuard<'_, HashMap<VolumeId, Weak<Shared>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A random secret of 32 bytes.
    pub(crate) fn random_secret(&self) -> Secret {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = Secret::filled(32, |bytes| {
            random(bytes);
            Ok::<(), std::convert::Infallible>(())
        });
        match filled {
            Ok(secret) => secret,
            Err(never) => match never {},
        }
    }

    /// Random bytes.
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random(&mut bytes);
        bytes
    }

    /// Segments that the log may use between two checkpoints.
    pub(crate) fn reserve_segments(&self, segments: u32) -> usize {
        let distance = self.distance.div_ceil(u64::from(self.segment_size)) + 3;
        (distance as usize).clamp(8, (segments as usize / 4).max(8))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn devices(&self) -> Arc<Devices> {
        self.devices.load_full()
    }

    /// The first failure, in words.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Everybody who waits for something of the pool.
    fn waiters(&self) -> Vec<Waiter> {
        let mut state = self.lock();
        let mut waiters = state.log.release();
        waiters.append(&mut state.room);
        waiters.append(&mut state.checkpoint_waiters);
        waiters.extend(state.steward.call());
        waiters.extend(state.chores.call());
        waiters
    }

    /// Lets go of everybody who waits, without waking them: their threads have ended. What waits holds the pool, so
    /// without this neither would ever be freed.
    pub(crate) fn abandon(&self) {
        drop(self.waiters());
    }

    /// Latches a failure. From now on nothing succeeds that might hide what was lost.
    pub(crate) fn fail(&self, reason: String) {
        if self.fault.set(reason).is_ok() {
            tracing::error!(
                "the pool has failed and is not used any more: {}",
                self.fault().unwrap_or_default()
            );
        }
        let waiters = self.waiters();
        waiters.into_iter().for_each(Waiter::wake);
    }

    /// Remembers something damaged.
    pub(crate) fn damaged(&self, damage: Damage) {
        self.counters.damaged.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if state.faults.iter().any(|known| known.at == damage.at && known.block == damage.block) {
            return;
        }
        if state.faults.len() == FAULTS_KEPT {
            state.faults.pop_front();
        }
        state.faults.push_back(damage);
    }

    /// Remembers a page that cannot be had.
    pub(crate) fn page_lost(&self, key: PageKey, at: &Where, cause: Cause) {
        let what = match key {
            PageKey::Map(_) => "a page of a volume's map",
            PageKey::Blocks { .. } => "a page of the block table",
        };
        tracing::error!(
            "{what} {cause}: segment {}, byte {}; what it maps is unreadable",
            at.place.segment,
            at.place.offset
        );
        let at = (at.place.segment, at.place.offset);
        self.damaged(Damage { block: None, at, what: what.into(), cause });
    }

    /// The error of a request that met a lost page, by the first block it asked for.
    pub(crate) fn lost(&self, _lost: Lost, lba: u64) -> caisson_block::BlockError {
        if self.fault().is_some() {
            caisson_block::BlockError::Failed
        } else {
            caisson_block::BlockError::Unreadable { lba }
        }
    }

    /// Has the steward look around.
    pub(crate) fn call_steward(&self) {
        let steward = self.lock().steward.call();
        if let Some(waiter) = steward {
            waiter.wake();
        }
    }
}
