//! The plain volume over a file or block device: what all requests on it share, and the way in.
//!
//! A request becomes a [task](caisson_task) whose [steps](crate::steps) claim their blocks and use the ring of the thread
//! that submitted it. A plain write completes when the device has taken it: it may be in the device's cache, so the
//! volume says that it has a volatile write cache, and Flush and FUA make durable.

use crate::check::Shape;
use crate::manage::{Manage, ManageError, PATIENCE, UnderWay};
use crate::marks::Marks;
use crate::sidecar::Keeper;
use crate::steps;
use caisson_block::{BlockError, Cx, Extent, Geometry, Op, Parked, Remote, Request, Volume};
use caisson_device::{Buffers, FileKind, FileStore, Size};
use caisson_task::{Claim, Claims, Range, Standing, Task, Waiter};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A plain volume over a file or block device.
pub struct FileVolume(Arc<Inner>);

/// What all requests of a volume share.
pub(crate) struct Inner {
    pub(crate) store: Arc<FileStore>,
    pub(crate) buffers: Buffers,
    pub(crate) claims: Arc<Claims>,
    pub(crate) marks: Marks,
    pub(crate) keeper: Option<Arc<dyn Keeper>>,
    /// Version of the set of marks that is durable; held while one is being made so.
    keeping: Mutex<()>,
    kept: AtomicU64,
    /// log2 of the logical block size.
    pub(crate) shift: u32,
    write_cache: bool,
    under_way: UnderWay,
    closed: AtomicBool,
}

impl Inner {
    pub(crate) fn shape(&self) -> Shape {
        Shape { shift: self.shift, blocks: self.store.size() >> self.shift }
    }

    /// Whether a write is made durable before it completes.
    pub(crate) fn durable(&self, fua: bool) -> bool {
        fua || !self.write_cache
    }

    /// A compare-and-write holds twice its length of buffers, and a little for its edges.
    pub(crate) fn max_transfer(&self) -> u64 {
        self.buffers.largest() as u64 / 4
    }

    /// Version of the set of unreadable blocks that is durable.
    pub(crate) fn kept(&self) -> u64 {
        match self.keeper {
            Some(_) => self.kept.load(Ordering::Acquire),
            None => u64::MAX,
        }
    }

    /// Makes a set of unreadable blocks durable, unless a newer one is.
    pub(crate) fn keep_blocking(&self, runs: &[Extent], version: u64) -> io::Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let _one = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.kept.load(Ordering::Acquire) >= version {
            return Ok(());
        }
        let bytes = |run: &Extent| Extent { lba: run.lba << self.shift, blocks: run.blocks << self.shift };
        keeper.keep(&runs.iter().map(bytes).collect::<Vec<_>>())?;
        self.kept.store(version, Ordering::Release);
        Ok(())
    }
}

impl FileVolume {
    /// A volume over all of `store`, whose size is a multiple of its alignment and of the block. `keeper` holds the
    /// unreadable blocks across a restart; without one they are forgotten then.
    ///
    /// # Errors
    /// The keeper's, when the kept set cannot be read.
    pub fn new(
        store: Arc<FileStore>,
        buffers: Buffers,
        shift: u32,
        write_cache: bool,
        keeper: Option<Arc<dyn Keeper>>,
    ) -> io::Result<FileVolume> {
        let runs = keeper.as_ref().map_or(Ok(Vec::new()), |k| k.load())?;
        let block = 1u64 << shift;
        let blocks = |run: &Extent| {
            let (from, to) = (run.lba >> shift, run.lba.saturating_add(run.blocks).div_ceil(block));
            Extent { lba: from, blocks: to - from }
        };
        let marks = Marks::from_runs(&runs.iter().map(blocks).collect::<Vec<_>>());
        let kept = AtomicU64::new(marks.version());
        Ok(FileVolume(Arc::new(Inner {
            store,
            buffers,
            claims: Claims::new(),
            marks,
            keeper,
            keeping: Mutex::new(()),
            kept,
            shift,
            write_cache,
            under_way: UnderWay::default(),
            closed: AtomicBool::new(false),
        })))
    }

    /// Claims everything from `from` on for a thread that may block.
    fn claim_blocking(&self, from: u64) -> Result<Claim, ManageError> {
        let gate = Arc::new(Gate::default());
        let ranges = [Range { from, to: u64::MAX, alone: true }, Range::default()];
        let waiter = || Waiter { remote: gate.clone(), who: gate.clone(), token: 0 };
        match self.0.claims.claim(ranges, waiter) {
            Standing::Granted(claim) => Ok(claim),
            Standing::Waiting(claim) if gate.wait(PATIENCE) => Ok(claim),
            Standing::Waiting(_) => Err(self.0.under_way.busy()),
        }
    }
}

/// Lets a thread that may block wait for a claim.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn wait(&self, limit: Duration) -> bool {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.1.wait_timeout_while(open, limit, |open| !*open);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Remote for Gate {
    fn wake(&self, _: Arc<dyn Parked>, _: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.1.notify_all();
    }
}

impl Parked for Gate {
    fn woken(self: Arc<Self>, _: &mut Cx<'_>, _: u64) {}
}

impl Volume for FileVolume {
    fn geometry(&self) -> Geometry {
        let v = &self.0;
        Geometry {
            block_size: 1 << v.shift,
            blocks: v.shape().blocks,
            volatile_cache: v.write_cache,
            deallocates: v.store.punches(),
            preferred_blocks: (caisson_block::BLOCK as u32).max(v.store.alignment().offset) >> v.shift,
        }
    }

    fn submit(&self, cx: &mut Cx<'_>, Request { tag, op }: Request) {
        let in_flight = self.0.under_way.begin();
        // After it was counted: whoever closes waits for those that came before.
        if self.0.closed.load(Ordering::Acquire) && !matches!(op, Op::Flush) {
            return cx.complete(tag, Err(BlockError::Gone));
        }
        if self.0.store.check().is_err() {
            return cx.complete(tag, Err(BlockError::Failed));
        }
        let inner = Arc::clone(&self.0);
        Task::request(cx, tag, move |port| steps::run(inner, port, op, in_flight));
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.0.store.allocated()
    }

    fn fault(&self) -> Option<String> {
        self.0.store.fault()
    }
}

impl Manage for FileVolume {
    fn resize(&self, blocks: u64) -> Result<(), ManageError> {
        let v = &self.0;
        let unit = u64::from(v.store.alignment().offset);
        let bytes = blocks.checked_mul(1 << v.shift).filter(|b| b.is_multiple_of(unit));
        let size = bytes.and_then(Size::new).ok_or(ManageError::Size { blocks })?;
        if v.store.kind() == FileKind::Block {
            let now = v.store.reread_size_blocking().map_err(ManageError::Store)?;
            return if now == size.bytes() {
                Ok(())
            } else {
                let now = Size::new(now).map_or_else(String::new, |now| now.to_string());
                let reason = format!("the block device {} has {now}", v.store.path().display());
                Err(ManageError::Fixed { reason })
            };
        }
        // Nothing is under way beyond the new end while the file is cut, and what waits is judged by the new size.
        let _claim = self.claim_blocking(size.bytes())?;
        v.store.resize_blocking(size).map_err(ManageError::Store)?;
        let end = v.shape().blocks;
        v.marks.clear(Extent { lba: end, blocks: u64::MAX - end });
        Ok(())
    }

    fn sync(&self) -> Result<(), ManageError> {
        let (runs, version) = self.0.marks.snapshot();
        self.0.store.sync_blocking().map_err(ManageError::Store)?;
        self.0.keep_blocking(&runs, version).map_err(ManageError::Store)
    }

    fn close(&self) -> Result<(), ManageError> {
        self.0.closed.store(true, Ordering::Release);
        self.0.under_way.wait()?;
        self.sync()
    }

    fn in_flight(&self) -> u64 {
        self.0.under_way.count()
    }
}
