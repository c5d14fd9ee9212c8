//! A pool, from outside: made, opened, closed. Its volumes are in [`crate::volumes`].
//!
//! Everything that may touch a device is an `async` function that takes the [`Port`] of the task it runs in, so that
//! the simulator runs the same code as the program. [`crate::Host`] runs such functions for callers that may block.

use crate::bounds::{FRONT, MIN_SEGMENTS, SEGMENT_SIZES};
use crate::checkpoint::{Checkpoints, Failure, checkpoint};
use crate::chores::Chores;
use crate::devices::Devices;
use crate::domains::Domains;
use crate::error::{ChangeError, CreateError, OpenError};
use crate::log::{From as LogFrom, Log};
use crate::recover::{Reader, label, replay, superblocks};
use crate::repair::Repair;
use crate::space::{Shape, Space, dirty_limit};
use crate::state::{Inner, Parts, Random, Sizes, State};
use crate::steward::Stewardship;
use crate::volume::Shared;
use crate::weight::Weight;
use caisson_device::{Buffers, FileStore};
use caisson_fingerprint::FingerprintKey;
use caisson_index::{Budget, Index};
use caisson_keys::{POOL_DOMAIN, Secret};
use caisson_log::{Anchor, Cipher, Extent, Extents, KeySlot, Keyring, Opening, PoolId, Superblock};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{Geometry, SegmentState, Tables, Use};
use caisson_task::Port;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// The secrets of a pool, unlocked.
pub struct Secrets {
    /// The secret of each key epoch: (domain, epoch). Domain 0 is the pool's own, 1 the default tenant. The highest epoch of a
    /// domain seals, and those before it open what is not sealed anew yet. A domain that is not here is destroyed.
    pub epochs: Vec<((u32, u16), Secret)>,
    /// The fingerprint key of each domain but the pool's own.
    pub prints: Vec<(u32, FingerprintKey)>,
}

/// How much memory a pool takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Pages of the tables.
    pub tables: usize,
    /// The sampled index of deduplication.
    pub index: usize,
    /// Summaries that deduplication keeps.
    pub summaries: usize,
}

impl Default for Memory {
    /// 128 MiB of tables, 96 MiB of index, 32 MiB of summaries: taken as they fill.
    fn default() -> Memory {
        Memory { tables: 128 << 20, index: 96 << 20, summaries: 32 << 20 }
    }
}

/// What is chosen when a pool is taken into use.
pub struct Options {
    /// Memory.
    pub memory: Memory,
    /// Where random bytes come from; the system when none is given.
    pub random: Option<Random>,
    /// Buffers for reading; those that the process shares when not given.
    pub buffers: Option<Buffers>,
    /// Bytes of log between two checkpoints; by the pool's size when not given.
    pub checkpoint_distance: Option<u64>,
    /// The highest reference count; only tests lower it.
    pub max_refs: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            memory: Memory::default(),
            random: None,
            buffers: None,
            checkpoint_distance: None,
            max_refs: u32::MAX,
        }
    }
}

/// What is chosen when a pool is made, for good.
pub struct Create {
    /// Its id: random.
    pub id: PoolId,
    /// The cipher of its data.
    pub cipher: Cipher,
    /// Bytes of a segment, a power of two; by the pool's size when not given.
    pub segment_size: Option<u32>,
    /// The wrapped secrets, to be stored.
    pub slots: Vec<KeySlot>,
}

/// A pool that is open.
#[derive(Clone)]
pub struct Pool(pub(crate) Arc<Inner>);

/// The background work of a pool.
pub type Background = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The segment size of a pool of so many bytes.
fn segment_size_for(bytes: u64) -> u32 {
    let size =
        (bytes / 1024).next_power_of_two().clamp(u64::from(SEGMENT_SIZES.0), u64::from(SEGMENT_SIZES.1));
    size as u32
}

/// How a pool on devices of these sizes, in bytes, can be made one device after the other, so that a stop in between leaves a pool which the
/// others join: the bytes of its segments, and how many of the devices, from the first on, are enough to begin with.
pub fn beginning(sizes: &[u64]) -> (u32, usize) {
    let segment = segment_size_for(sizes.iter().map(|s| s.saturating_sub(FRONT)).sum());
    let rooms = sizes.iter().map(|size| Devices::room(*size, FRONT, segment));
    let mut sum: u32 = 0;
    let enough = rooms.clone().position(|room| {
        sum = sum.saturating_add(room);
        sum >= MIN_SEGMENTS
    });
    // One that has no room cannot join, but is taken at once.
    let joins = |first: usize| rooms.clone().skip(first).all(|room| room > 0);
    (segment, enough.map(|last| last + 1).filter(|first| joins(*first)).unwrap_or(sizes.len()))
}

impl Pool {
    /// Reads what stands in the clear on a pool's device: which pool it is, and its wrapped keys.
    ///
    /// # Errors
    /// [`OpenError::NoSuperblock`], [`OpenError::Device`].
    pub async fn label(port: &Port, store: &Arc<FileStore>) -> Result<Superblock, OpenError> {
        let buffers = Buffers::shared()?;
        label(&superblocks(port, &buffers, store).await?)
    }

    /// Makes a pool on empty devices.
    ///
    /// # Errors
    /// Each [`CreateError`].
    pub async fn create(
        port: &Port,
        stores: Vec<Arc<FileStore>>,
        secrets: Secrets,
        create: Create,
        options: Options,
    ) -> Result<Pool, CreateError> {
        let total: u64 = stores.iter().map(|s| s.size().saturating_sub(FRONT)).sum();
        let segment = create.segment_size.unwrap_or_else(|| segment_size_for(total));
        let mut list: Vec<Extent> = Vec::new();
        let mut first = 0;
        for (device, store) in stores.iter().enumerate() {
            let count = Devices::room(store.size(), FRONT, segment);
            if count > 0 {
                list.push(Extent { device: device as u32, first, count, start: FRONT });
                first += count;
            }
        }
        if first < MIN_SEGMENTS {
            let least = u64::from(MIN_SEGMENTS) * u64::from(segment) + FRONT;
            return Err(CreateError::Small { least, have: stores.iter().map(|s| s.size()).sum() });
        }
        for store in &stores {
            empty(port, store).await?;
        }
        let extents = Extents::new(segment, list).map_err(|e| CreateError::Options(e.to_string()))?;
        let superblock = Superblock {
            pool: create.id,
            counter: 0,
            device: 0,
            devices: stores.len() as u32,
            cipher: create.cipher,
            epoch: epoch_of_pool(&secrets.epochs),
            extents,
            slots: create.slots,
        };
        let domains = {
            let names: Vec<(u32, u16)> = secrets.epochs.iter().map(|(name, _)| *name).collect();
            Domains::new(&names, secrets.prints, None, 1)?
        };
        let keyring = Keyring::new(create.id, create.cipher, secrets.epochs)
            .map_err(|e| CreateError::Options(e.to_string()))?;
        let geometry = geometry(segment, first, &options);
        let start = Start {
            tables: Tables::create(geometry),
            domains,
            superblock,
            openings: Vec::new(),
            next_opening: 1,
            next_sequence: 1,
            counter: 0,
            number: 0,
        };
        let inner = take(stores, keyring, start, options)?;
        begin(&inner, port, 1, 0).await?;
        // Both copies are good from the beginning.
        let second = checkpoint(&inner, port, false).await;
        second.map_err(failure)?;
        Ok(Pool(inner))
    }

    /// Opens a pool for use, having replayed its log.
    ///
    /// # Errors
    /// Each [`OpenError`].
    pub async fn open(
        port: &Port,
        stores: Vec<Arc<FileStore>>,
        secrets: Secrets,
        options: Options,
    ) -> Result<Pool, OpenError> {
        let opened = opened(port, stores, secrets, options).await?;
        let Opened { inner, next_opening, last, repair, newest: (superblock, anchor) } = opened;
        repair.run(&inner, port, superblock, anchor).await?;
        begin(&inner, port, next_opening, last).await?;
        // The index is in memory only.
        inner.lock().chores.rebuild = true;
        Ok(Pool(inner))
    }

    /// Opens a pool only to look at it: its log is replayed in memory, and nothing is ever written.
    ///
    /// # Errors
    /// Each [`OpenError`].
    pub async fn open_to_read(
        port: &Port,
        stores: Vec<Arc<FileStore>>,
        secrets: Secrets,
        options: Options,
    ) -> Result<Pool, OpenError> {
        Ok(Pool(opened(port, stores, secrets, options).await?.inner))
    }

    /// Makes everything durable and writes a last checkpoint. Requests that come from now on are refused.
    ///
    /// # Errors
    /// [`ChangeError::Failed`].
    pub async fn close(&self, port: &Port) -> Result<(), ChangeError> {
        self.0.closing.store(true, Ordering::Release);
        self.0.call_steward();
        self.0.call_chores();
        let open: Vec<Arc<Shared>> = self.0.volumes().values().filter_map(Weak::upgrade).collect();
        open.iter().for_each(|v| v.gone.store(true, Ordering::Release));
        while open.iter().any(|v| v.in_flight() > 0) {
            port.pause().await;
        }
        while self.0.tended() {
            port.pause().await;
        }
        checkpoint(&self.0, port, true).await.map_err(change_failure)
    }

    /// Makes everything durable that was completed before.
    ///
    /// # Errors
    /// [`ChangeError::Failed`].
    pub async fn flush(&self, port: &Port) -> Result<(), ChangeError> {
        Ok(crate::append::flush(&self.0, port).await?)
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// [`ChangeError::Full`], [`ChangeError::Failed`].
    pub async fn checkpoint(&self, port: &Port) -> Result<(), ChangeError> {
        checkpoint(&self.0, port, false).await.map_err(change_failure)
    }

    /// Starts the background of the pool with `spawn`, on whatever thread that stands for: checkpoints, cleaning, deletions.
    /// A pool needs one, and one only.
    pub fn tend(&self, spawn: impl FnOnce(Box<dyn FnOnce(Port) -> Background + Send>)) {
        let inner = Arc::clone(&self.0);
        spawn(Box::new(move |port| Box::pin(crate::steward::run(inner, port))));
    }

    /// The first failure, in words.
    pub fn fault(&self) -> Option<String> {
        self.0.fault().map(str::to_owned)
    }
}
pub(crate) fn change_failure(failure: Failure) -> ChangeError {
    match failure {
        Failure::NoSpace => ChangeError::Full,
        Failure::Failed(reason) => ChangeError::Failed(reason),
    }
}

fn failure(failure: Failure) -> OpenError {
    OpenError::Checkpoint(match failure {
        Failure::NoSpace => "there is no free segment left for it".into(),
        Failure::Failed(reason) => reason,
    })
}

fn geometry(segment_size: u32, segments: u32, options: &Options) -> Geometry {
    let pages = (options.memory.tables / 4096).max(256);
    Geometry {
        segment_size,
        segments,
        cache_pages: pages,
        dirty_limit: (pages / 2).min(dirty_limit(segments, segment_size)),
        max_refs: options.max_refs,
    }
}

/// The epoch that seals what is the pool's own.
fn epoch_of_pool(epochs: &[((u32, u16), Secret)]) -> u16 {
    epochs
        .iter()
        .filter(|((domain, _), _)| *domain == POOL_DOMAIN)
        .map(|((_, epoch), _)| *epoch)
        .max()
        .unwrap_or(0)
}

/// What a pool begins with.
struct Start {
    tables: Tables,
    domains: Domains,
    superblock: Superblock,
    openings: Vec<Opening>,
    next_opening: u32,
    next_sequence: u64,
    counter: u64,
    number: u64,
}

/// Puts a pool together, before it is opened for writing.
fn take(
    stores: Vec<Arc<FileStore>>,
    keyring: Keyring,
    start: Start,
    options: Options,
) -> Result<Arc<Inner>, OpenError> {
    let extents = &start.superblock.extents;
    let (segment, segments) = (extents.segment_size(), extents.segments());
    let mut sizes = Sizes::of(segment, segments);
    if let Some(distance) = options.checkpoint_distance {
        sizes.distance = distance;
    }
    let listed = stores.len();
    let devices = Devices::new(stores, extents.list().to_vec(), segment);
    let buffers = match options.buffers {
        Some(buffers) => buffers,
        None => Buffers::shared()?,
    };
    let batch = sizes.batch.next_multiple_of(4096);
    let from = LogFrom {
        next_segment_sequence: start.next_sequence,
        opening: start.next_opening,
        epoch: start.domains.pool_epoch(),
        segment_size: segment,
    };
    let log = Log::new(from, caisson_block::Pool::new(8, batch)?);
    let budget = Budget { index_bytes: options.memory.index, cache_bytes: options.memory.summaries };
    let sure = start.tables.dirty().limit;
    let state = State {
        weight: Weight::new(sure, start.tables.geometry().cache_pages / 2),
        space: Space::of(Shape { segments, segment_size: segment, changed: sure, distance: sizes.distance }),
        tables: start.tables,
        domains: start.domains,
        index: Index::advised(budget, caisson_block::prefer_huge),
        log,
        checkpoints: Checkpoints {
            number: start.number,
            tail: None,
            pinned: Vec::new(),
            counter: start.counter,
            openings: start.openings,
            covers: 0,
            superblock: start.superblock,
            listed,
        },
        room: Vec::new(),
        steward: Stewardship::default(),
        chores: Chores::default(),
        checkpoint_waiters: Vec::new(),
        faults: std::collections::VecDeque::new(),
        map_keys_erased: 0,
        map_keys_told: Vec::new(),
    };
    Ok(Arc::new(Inner::new(Parts {
        keyring,
        devices,
        page_buffers: Buffers::new([256, 64, 64])?,
        buffers,
        bulk: caisson_block::Pool::new(8, (crate::bounds::BULK).max(batch))?,
        sizes,
        random: options.random.unwrap_or_else(|| Box::new(system_random)),
        state,
    })))
}

fn system_random(bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let got = rustix::rand::getrandom(&mut bytes[at..], rustix::rand::GetRandomFlags::empty());
        at += got.expect("Linux has given random bytes since boot");
    }
}

/// A pool whose log was replayed, and which was not opened for writing.
struct Opened {
    inner: Arc<Inner>,
    next_opening: u32,
    last: u64,
    repair: Repair,
    /// The newest superblock.
    newest: (Superblock, Anchor),
}

async fn opened(
    port: &Port,
    stores: Vec<Arc<FileStore>>,
    secrets: Secrets,
    options: Options,
) -> Result<Opened, OpenError> {
    let buffers = Buffers::new([256, 64, 64])?;
    let (stores, copies, plain) = sorted(port, stores, &buffers).await?;
    let segment = plain.extents.segment_size();
    let devices = Devices::new(stores.clone(), plain.extents.list().to_vec(), segment);
    let epochs: Vec<(u32, u16)> = secrets.epochs.iter().map(|(name, _)| *name).collect();
    let keyring =
        Keyring::new(plain.pool, plain.cipher, secrets.epochs).map_err(|e| OpenError::Keys(e.to_string()))?;
    let found = {
        let reader = Reader { port, buffers: &buffers, keyring: &keyring, devices: &devices };
        reader.root(&copies).await?
    };
    let mut superblock = found.choice.superblock.clone();
    let anchor = found.choice.anchor.clone();
    let registry = found.domains.as_deref();
    let domains = Domains::new(&epochs, secrets.prints, registry, anchor.next_sequence)?;
    check_lengths(&stores, &superblock.extents)?;
    let repair = Repair::plan(&keyring, &copies, superblock.counter);
    let newest = (superblock.clone(), anchor.clone());
    // What is written from here on is sealed under the newest epoch that there is a key for.
    superblock.epoch = domains.pool_epoch();
    let geometry = geometry(segment, superblock.extents.segments(), &options);
    let mut tables = Tables::open(geometry, &found.root)?;
    found.segments.iter().for_each(|&n| tables.pin(n));
    tables.reclaim();
    let start = Start {
        tables,
        domains,
        // The copy that counts is written last: the other may be lost, and a crash may tear what is being written.
        counter: superblock.counter
            + u64::from(caisson_log::copy_for(superblock.counter + 1) == found.choice.copy),
        superblock,
        openings: found.openings,
        next_opening: anchor.next_opening,
        next_sequence: anchor.next_sequence,
        number: found.head.checkpoint,
    };
    let inner = take(stores, keyring, start, options)?;
    inner.lock().checkpoints.pinned = found.segments;
    let opening = anchor.root.at.opening;
    let replayed = replay(&inner, port, &found.reserved, opening, found.head.log_batch).await?;
    tracing::info!(
        "recovered from checkpoint {}: {} batches, {} bytes of log replayed",
        found.head.checkpoint,
        replayed.batches,
        replayed.bytes
    );
    let mut state = inner.lock();
    let tables = &mut state.tables;
    for n in 0..tables.geometry().segments {
        match tables.segment(n).state {
            SegmentState::Open => tables.close_segment(n, Use::Log),
            SegmentState::Reserved => tables.unreserve(n),
            SegmentState::Free | SegmentState::Closed => {}
        }
    }
    drop(state);
    Ok(Opened { inner, next_opening: anchor.next_opening, last: replayed.last, repair, newest })
}

/// How far the superblocks of devices are apart at most: one for a crash between two devices, one for a damaged copy.
const APART: u64 = 2;

/// The stores in the order of the pool's devices, with both superblock copies of each.
async fn sorted(
    port: &Port,
    stores: Vec<Arc<FileStore>>,
    buffers: &Buffers,
) -> Result<(Vec<Arc<FileStore>>, Vec<[Vec<u8>; 2]>, Superblock), OpenError> {
    let mut labelled = Vec::new();
    for store in stores {
        let copies = superblocks(port, buffers, &store).await?;
        let plain = label(&copies)?;
        labelled.push((plain.device, store, copies, plain));
    }
    labelled.sort_by_key(|l| l.0);
    // Between equals the lower device counts: one that was to join has the others' counter.
    let newest = labelled.iter().rev().max_by_key(|l| l.3.counter).map(|l| l.3.clone());
    let newest = newest.ok_or(OpenError::Nothing)?;
    if let Some((_, store, _, plain)) = labelled.iter().find(|l| l.3.pool != newest.pool) {
        let path = store.path().display().to_string();
        return Err(OpenError::OtherPool { path, pool: plain.pool });
    }
    if let Some(l) = labelled.iter().find(|l| l.0 >= newest.devices) {
        return Err(OpenError::NotListed { path: l.1.path().display().to_string() });
    }
    if let Some(l) = labelled.iter().find(|l| l.3.counter + APART < newest.counter) {
        let behind = newest.counter - l.3.counter;
        return Err(OpenError::Stale { path: l.1.path().display().to_string(), behind });
    }
    let in_order = labelled.iter().enumerate().all(|(i, l)| l.0 as usize == i);
    if labelled.len() != newest.devices as usize || !in_order {
        return Err(OpenError::Devices { want: newest.devices as usize, have: labelled.len() });
    }
    let (mut stores, mut copies) = (Vec::new(), Vec::new());
    for (_, store, both, _) in labelled {
        stores.push(store);
        copies.push(both);
    }
    Ok((stores, copies, newest))
}

fn check_lengths(stores: &[Arc<FileStore>], extents: &Extents) -> Result<(), OpenError> {
    for extent in extents.list() {
        let want = extent.start + u64::from(extent.count) * u64::from(extents.segment_size());
        let Some(store) = stores.get(extent.device as usize) else { return Err(OpenError::Nothing) };
        if store.size() < want {
            let path = store.path().display().to_string();
            return Err(OpenError::Short { path, size: store.size(), want });
        }
    }
    Ok(())
}

/// Opens a pool for writing: a new opening, and a checkpoint that says so.
async fn begin(inner: &Arc<Inner>, port: &Port, opening: u32, last: u64) -> Result<(), OpenError> {
    let salt: [u8; 32] = if on(Bug::ReusedSalt) { [0; 32] } else { inner.random() };
    inner.keyring.add_opening(opening, salt).map_err(|e| OpenError::Keys(e.to_string()))?;
    {
        let mut state = inner.lock();
        state.checkpoints.openings.push(Opening { number: opening, salt });
        state.log.begin(opening, last);
    }
    checkpoint(inner, port, false).await.map_err(failure)
}

/// Sees that a device is empty.
pub(crate) async fn empty(port: &Port, store: &Arc<FileStore>) -> Result<(), CreateError> {
    let buffers = Buffers::shared().map_err(OpenError::Memory)?;
    let [bufs, ..] = port.buffers(&buffers, [FRONT as usize, 0, 0]).await;
    let kind = caisson_block::IoKind::Read;
    let io = caisson_task::Io { store: Arc::clone(store), kind, offset: 0, bufs };
    let list = port.io(io).await.map_err(|error| OpenError::device(store, error))?;
    let used = list.parts().iter().any(|part| part.iter().any(|&b| b != 0));
    if !used {
        return Ok(());
    }
    let front = list.to_vec();
    let what = match Superblock::decode_plain(&front) {
        Ok(_) => ", of a pool of this kind",
        Err(_) => "",
    };
    Err(CreateError::InUse { path: store.path().display().to_string(), what })
}

impl Pool {
    /// The pool's id.
    pub fn id(&self) -> PoolId {
        self.0.keyring.pool()
    }

    /// Lets go of everything that waits for something of the pool: for after the threads that used it have ended, as in a
    /// simulated crash. Without it, what waits would keep the pool in memory.
    pub fn abandon(&self) {
        self.0.abandon();
    }

    /// Refuses requests with this error from now on, as a failure of the device does.
    pub fn fail(&self, reason: String) {
        self.0.fail(reason);
    }
}
