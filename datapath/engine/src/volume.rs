//! A volume of a pool: what controllers submit to.
//!
//! Owns the claims on the volume's blocks and its shape. What each operation does is in [`crate::steps`].

use crate::domains::Tenant;
use crate::gather::Company;
use crate::settings::Settings;
use crate::state::Inner;
use crate::steps;
use arc_swap::ArcSwap;
use caisson_block::{BlockError, Cx, EraseBy, Erasure, Geometry, Op, Request, Volume};
use caisson_tables::VolumeId;
use caisson_task::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use caisson_task::{Claims, Task};
use caisson_volume::Shape;
use std::sync::Arc;

/// A volume of a pool.
pub struct PoolVolume(pub(crate) Arc<Shared>);

/// What all requests on a volume share.
pub(crate) struct Shared {
    pub(crate) pool: Arc<Inner>,
    pub(crate) id: VolumeId,
    pub(crate) claims: Arc<Claims>,
    pub(crate) settings: ArcSwap<Settings>,
    /// Whose data it holds.
    pub(crate) tenant: Arc<Tenant>,
    /// Size in bytes.
    pub(crate) bytes: AtomicU64,
    pub(crate) read_only: bool,
    pub(crate) gone: AtomicBool,
    pub(crate) company: Company,
    /// What it holds is being erased, and nothing is taken until it is unmapped.
    pub(crate) erasing: AtomicBool,
    /// Erases that begin: nothing is taken meanwhile, either.
    pub(crate) begins: AtomicU64,
    /// The last erase that a host asked for could not begin.
    pub(crate) erase_failed: AtomicBool,
    in_flight: AtomicU64,
}

/// Counts a request as under way until dropped.
pub(crate) struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    pub(crate) fn new(
        pool: Arc<Inner>,
        id: VolumeId,
        (settings, tenant): (Settings, Arc<Tenant>),
        bytes: u64,
        read_only: bool,
    ) -> Shared {
        Shared {
            pool,
            id,
            claims: Claims::new(),
            settings: ArcSwap::from_pointee(settings),
            tenant,
            bytes: AtomicU64::new(bytes),
            read_only,
            gone: AtomicBool::new(false),
            company: Company::default(),
            erasing: AtomicBool::new(false),
            begins: AtomicU64::new(0),
            erase_failed: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        let shift = self.settings.load().shift();
        Shape { shift, blocks: self.bytes.load(Ordering::Acquire) >> shift }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Why requests are refused, if they are.
    pub(crate) fn refuses(&self) -> Option<BlockError> {
        if self.gone.load(Ordering::Acquire) {
            Some(BlockError::Gone)
        } else if self.pool.fault().is_some() {
            Some(BlockError::Failed)
        } else if self.tenant.is_gone() {
            Some(BlockError::KeyDestroyed)
        } else if self.erasing.load(Ordering::Acquire) || self.begins.load(Ordering::Acquire) > 0 {
            Some(BlockError::Erasing)
        } else {
            None
        }
    }
}

impl Volume for PoolVolume {
    fn geometry(&self) -> Geometry {
        let settings = self.0.settings.load();
        let shape = self.0.shape();
        Geometry {
            block_size: settings.block_size,
            blocks: shape.blocks,
            volatile_cache: settings.write_cache,
            deallocates: true,
            preferred_blocks: 4096 / settings.block_size,
        }
    }

    fn submit(&self, cx: &mut Cx<'_>, request: Request) {
        let Request { tag, op } = request;
        // All that comes of it is done on this thread, or by the pool's own.
        caisson_keys::stack_computes();
        self.0.in_flight.fetch_add(1, Ordering::AcqRel);
        let in_flight = InFlight(Arc::clone(&self.0));
        if let Some(error) = self.0.refuses() {
            return cx.complete(tag, Err(error));
        }
        if self.0.read_only
            && !matches!(op, Op::Read { .. } | Op::Compare { .. } | Op::Verify { .. } | Op::Flush)
        {
            return cx.complete(tag, Err(BlockError::Unsupported));
        }
        let shared = Arc::clone(&self.0);
        Task::request(cx, tag, move |port| steps::run(shared, port, op, in_flight));
    }

    fn allocated_bytes(&self) -> Option<u64> {
        let mapped = self.0.pool.lock().tables.volume(self.0.id).map(|v| v.mapped)?;
        Some(mapped * caisson_block::BLOCK as u64)
    }

    fn spare(&self) -> u8 {
        let state = self.0.pool.lock();
        let left = state.space.limit.saturating_sub(state.tables.live_bytes());
        (left * 100 / state.space.limit.max(1)) as u8
    }

    fn fault(&self) -> Option<String> {
        self.0.pool.fault().map(str::to_owned)
    }

    fn erasable(&self) -> bool {
        !self.0.read_only && !self.0.tenant.is_gone()
    }

    fn erase(&self, by: EraseBy) -> Result<(), BlockError> {
        crate::erase::order(&self.0, by)
    }

    fn erasure(&self) -> Erasure {
        crate::erase::erasure(&self.0)
    }
}
