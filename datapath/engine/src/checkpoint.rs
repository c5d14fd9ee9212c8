//! Checkpoints: a picture of the tables as of one batch, from which recovery begins.
//!
//! The open batch is closed and the tables are frozen in one step; while the picture is written, the log goes on. What is
//! frozen goes into segments of its own, then everything is synced, then the superblocks name the new root, then they
//! are synced. Only then may anything that the old root needs be written over.

use crate::append::{self, kick, store, sync_devices};
use crate::bounds::{CHECKPOINT_BATCH, PAGES_A_TURN};
use crate::log::{Load, Tail};
use crate::maps::{self, Families};
use crate::pages::{POOL_DOMAIN, record_of};
use crate::state::{Inner, State};
use crate::weight::Weight;
use crate::work;
use caisson_block::{BLOCK, BufList, IoKind};
use caisson_codec::Level;
use caisson_device::{FileStore, StoreError};
use caisson_keys::Secret;
use caisson_log::{
    Anchor, At, BatchKind, BatchPlan, BatchRef, BatchSize, Blob, BlobKind, Opening, Record, RootHead,
    SUPERBLOCK, SUPERBLOCK_AT, Stamp, Superblock, XNONCE, copy_for, encode_openings, encode_reserved, pieces,
};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{Frozen, PageKey, Place, Stored, Use};
use caisson_task::{Claim, Io, Port, Range, Task, Waiter};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What checkpoints keep from one to the next.
pub(crate) struct Checkpoints {
    /// The number of the last.
    pub(crate) number: u64,
    /// Where the next one's batches go on.
    pub(crate) tail: Option<Tail>,
    /// Segments that hold the durable root and its blobs.
    pub(crate) pinned: Vec<u32>,
    /// How often the superblocks were written.
    pub(crate) counter: u64,
    pub(crate) openings: Vec<Opening>,
    /// The first batch that the durable root does not cover.
    pub(crate) covers: u64,
    /// The superblocks as they are written, but for device, counter and anchor.
    pub(crate) superblock: Superblock,
    /// How many devices the durable superblocks list.
    pub(crate) listed: usize,
}

/// Why there is no checkpoint.
pub(crate) enum Failure {
    /// No free segment to write it to. It may be tried again.
    NoSpace,
    /// The pool has failed.
    Failed(String),
}

/// Writes a checkpoint. `clean` when nothing will be written behind it.
///
/// # Errors
/// [`Failure`]; the pool's latch is set where it has failed.
pub(crate) async fn checkpoint(inner: &Arc<Inner>, port: &Port, clean: bool) -> Result<(), Failure> {
    let _alone = alone(inner, port).await;
    checkpoint_held(inner, port, clean).await
}

/// Keeps checkpoints from beginning, when none is under way.
pub(crate) async fn alone(inner: &Inner, port: &Port) -> Claim {
    port.claim(&inner.checkpointing, [Range { from: 0, to: 1, alone: true }, Range::default()]).await
}

/// As [`checkpoint`], for who has kept others from beginning.
pub(crate) async fn checkpoint_held(inner: &Arc<Inner>, port: &Port, clean: bool) -> Result<(), Failure> {
    let result = attempt(inner, port, clean).await;
    match &result {
        Ok(()) => {
            inner.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        }
        Err(failure) => {
            let mut state = inner.lock();
            if state.tables.frozen() {
                state.tables.abandon();
                Weight::thawed(&mut state);
            }
            let waiters = std::mem::take(&mut state.checkpoint_waiters);
            drop(state);
            waiters.into_iter().for_each(Waiter::wake);
            if let Failure::Failed(reason) = failure {
                inner.fail(reason.clone());
            }
        }
    }
    result
}

async fn attempt(inner: &Arc<Inner>, port: &Port, clean: bool) -> Result<(), Failure> {
    let (log_batch, reserve, families) = freeze(inner, port).await?;
    let mut writer = Writer::new(inner, port, families);
    let written = writer.all(log_batch, &reserve.all).await;
    let root = match written {
        Ok(root) => root,
        Err(failure) => {
            let mut state = inner.lock();
            reserve.more.iter().for_each(|&segment| state.tables.unreserve(segment));
            writer.segments.iter().for_each(|&segment| state.tables.unpin(segment));
            return Err(failure);
        }
    };
    let Writer { segments, tail, families, vault, .. } = writer;
    durable_batches(inner, port, log_batch).await?;
    if !on(Bug::SuperblockFirst) {
        sync_devices(inner, port).await.map_err(Failure::Failed)?;
    }
    write_superblocks(inner, port, root, clean, vault).await?;
    let erased = maps::erase(inner, &families);
    let mut state = inner.lock();
    state.map_keys_erased += erased.len() as u64;
    state.map_keys_told.extend(erased);
    finish(&mut state, segments, tail, reserve, log_batch);
    Weight::thawed(&mut state);
    let mut waiters = std::mem::take(&mut state.room);
    waiters.append(&mut state.checkpoint_waiters);
    waiters.extend(state.chores.call());
    drop(state);
    waiters.into_iter().for_each(Waiter::wake);
    kick(inner, port.remote());
    Ok(())
}

/// Segments that the log may use until the next checkpoint.
struct Reserve {
    /// All of them in order, the one it is filling first.
    all: Vec<u32>,
    /// Those that this checkpoint adds.
    more: Vec<u32>,
    /// Those behind them that it frees, and which the log may have when it is durable.
    freed: Vec<u32>,
}

/// Closes the open batch and freezes the tables in one step.
async fn freeze(inner: &Arc<Inner>, port: &Port) -> Result<(u64, Reserve, Families), Failure> {
    close_and(inner, port, |state| {
        state.tables.freeze();
        Weight::froze(state);
        state.log.since_checkpoint = 0;
        let log_batch = state.log.next - u64::from(!on(Bug::OneMoreBatch));
        (log_batch, reserve(state, inner), Families::of(&state.tables))
    })
    .await
}

/// Closes the open batch, and in the same step calls `f`, when no checkpoint is under way and nothing is open any more.
pub(crate) async fn close_and<T>(
    inner: &Arc<Inner>,
    port: &Port,
    f: impl FnOnce(&mut State) -> T,
) -> Result<T, Failure> {
    let mut f = Some(f);
    loop {
        let ticket = port.ticket();
        let done = {
            let mut guard = inner.lock();
            let state = &mut *guard;
            if let Some(fault) = inner.fault() {
                return Err(Failure::Failed(fault.to_owned()));
            }
            // One at a time: who comes meanwhile waits for the end of it.
            let busy = state.tables.frozen();
            let closed = if busy { None } else { state.log.close(&mut state.tables, &mut state.index) };
            if let Some(closed) = &closed {
                state.domains.count(closed.plan.header_len(), &closed.load.records);
            }
            if busy {
                state.checkpoint_waiters.push(port.waiter(ticket));
                None
            } else if state.log.open_is_empty() {
                f.take().map(|f| (f(state), closed))
            } else {
                // No buffer is free: a batch under way will give one back.
                state.room.push(port.waiter(ticket));
                None
            }
        };
        let Some((value, closed)) = done else {
            port.parked(ticket).await;
            continue;
        };
        if let Some(closed) = closed {
            let inner = Arc::clone(inner);
            let write = move |port| async move { append::write(&inner, &port, closed).await };
            port.run(|cx| Task::spawn(cx, write)).await;
        }
        return Ok(value);
    }
}

/// Sets segments aside for the time until the next checkpoint.
fn reserve(state: &mut State, inner: &Inner) -> Reserve {
    let State { tables, log, space, .. } = state;
    let mut all: Vec<u32> = log.tail.iter().map(|t| t.segment).collect();
    all.extend(&log.reserved);
    let want = inner.reserve_segments(tables.geometry().segments).saturating_sub(log.reserved.len());
    let (free, kept) = (tables.free_segments(), space.kept_from_log(log));
    let want = want.min((free + tables.emptied_segments()).saturating_sub(kept) as usize);
    let more = tables.reserve(want.min(free.saturating_sub(kept) as usize));
    let freed = tables.emptied(want - more.len());
    if !on(Bug::ReserveUnlisted) {
        all.extend(more.iter().chain(&freed));
    }
    Reserve { all, more, freed }
}

/// Waits until every batch up to `log_batch` is on the devices.
async fn durable_batches(inner: &Arc<Inner>, port: &Port, log_batch: u64) -> Result<(), Failure> {
    append::durable(inner, port, log_batch)
        .await
        .map_err(|_| Failure::Failed(inner.fault().unwrap_or("the pool has failed").to_owned()))
}

fn finish(state: &mut State, segments: Vec<u32>, tail: Option<Tail>, reserve: Reserve, log_batch: u64) {
    let State { tables, log, checkpoints, index, space, chores, .. } = state;
    for freed in tables.checkpointed() {
        index.forget_segment(freed, tables.segment(freed).sequence);
        chores.freed.insert(freed);
    }
    for old in std::mem::replace(&mut checkpoints.pinned, segments) {
        tables.unpin(old);
    }
    checkpoints.tail = tail;
    checkpoints.number += 1;
    checkpoints.covers = log_batch;
    log.reserved.extend(reserve.more);
    // In the order of the root, and none behind one that is not to be had.
    log.reserved.extend(reserve.freed.into_iter().take_while(|&segment| tables.reserve_one(segment)));
    space.exhausted = false;
}

/// Writes the batches of a checkpoint.
struct Writer<'a> {
    inner: &'a Arc<Inner>,
    port: &'a Port,
    load: Load,
    size: BatchSize,
    /// The epoch of the pool's own domain: it does not change while a checkpoint is under way.
    epoch: u16,
    /// The opening that all of it is sealed in.
    opening: u32,
    /// The pages in `load`, in its order, each with the family whose map key it is to be under.
    pages: Vec<(PageKey, Stored, u32)>,
    /// The families that there were at the freeze: the root keeps their map keys and no others.
    families: Families,
    /// The key that those are sealed under: this root's alone.
    vault: Arc<Secret>,
    map_keys: Vec<u8>,
    tail: Option<Tail>,
    /// Segments that were pinned for the root and its blobs.
    segments: Vec<u32>,
    batch: u64,
}

impl<'a> Writer<'a> {
    fn new(inner: &'a Arc<Inner>, port: &'a Port, families: Families) -> Writer<'a> {
        let (tail, epoch, opening) = {
            let state = inner.lock();
            (state.checkpoints.tail, state.log.epoch, state.log.opening)
        };
        Writer {
            epoch,
            opening,
            inner,
            port,
            load: Load::default(),
            size: BatchSize::default(),
            pages: Vec::new(),
            families,
            vault: maps::vault(inner),
            map_keys: Vec::new(),
            tail,
            segments: Vec::new(),
            batch: 0,
        }
    }

    /// Bytes of one batch.
    fn batch_bytes(&self) -> usize {
        CHECKPOINT_BATCH.min(self.inner.segment_size as usize / 2)
    }

    async fn all(&mut self, log_batch: u64, reserved: &[u32]) -> Result<BatchRef, Failure> {
        for n in 1u64.. {
            let next = self.inner.lock().tables.frozen_next();
            match next {
                Frozen::Page(key, page, family) => self.page(key, &page, family).await?,
                Frozen::Wait => self.write_pages().await?,
                Frozen::Again => self.port.pause().await,
                Frozen::Done => break,
            }
            // A batch holds hundreds of pages where they compress well.
            if n.is_multiple_of(PAGES_A_TURN) {
                self.port.pause().await;
            }
        }
        self.write_pages().await?;
        self.root(log_batch, reserved).await
    }

    async fn page(&mut self, key: PageKey, page: &[u8; BLOCK], family: u32) -> Result<(), Failure> {
        let (kind, id) = record_of(key);
        maps::draw(self.inner, family).map_err(Failure::Failed)?;
        let (record, payload) = work::pack(page, Some(Level::default()), |codec, bytes| {
            let (codec, bytes) = maps::fronted(family, codec.number(), bytes);
            let record = Record {
                kind,
                id,
                length: bytes.len() as u16,
                codec,
                domain: POOL_DOMAIN,
                epoch: self.epoch,
                print: [0; 16],
                from: None,
            };
            (record, bytes)
        });
        let mut with = self.size;
        with.add(&record);
        if with.total(0) > self.batch_bytes() {
            self.write_pages().await?;
            self.port.pause().await;
            with = BatchSize::default();
            with.add(&record);
        }
        self.size = with;
        self.load.push(record, &payload);
        let stored = Stored { length: record.length, codec: record.codec, epoch: record.epoch };
        self.pages.push((key, stored, family));
        Ok(())
    }

    /// Writes the pages that were collected, and tells the tables where they are.
    async fn write_pages(&mut self) -> Result<(), Failure> {
        if self.load.is_empty() {
            return Ok(());
        }
        let mut load = std::mem::take(&mut self.load);
        let pages = std::mem::take(&mut self.pages);
        self.size = BatchSize::default();
        let (plan, place) = self.plan(&load, &[])?;
        for (i, &(_, _, family)) in pages.iter().enumerate().filter(|(_, page)| page.2 != 0) {
            let at =
                At { opening: self.opening, sequence: place.sequence, offset: plan.offset(i, place.offset) };
            let enciphered = maps::encipher(&self.inner.keyring, at, family, load.payload_mut(i));
            enciphered.map_err(Failure::Failed)?;
        }
        {
            let mut state = self.inner.lock();
            for (i, (key, stored, _)) in pages.into_iter().enumerate() {
                let at = Place { segment: place.segment, offset: plan.offset(i, place.offset) };
                state.tables.frozen_placed(key, at, stored);
            }
        }
        self.write(&load, &plan, place).await.map(drop)
    }

    /// Sizes of a batch, and its place.
    fn plan(&mut self, load: &Load, changes: &[u8]) -> Result<(BatchPlan, Tail), Failure> {
        let plan = BatchPlan::new(&load.records, changes)
            .map_err(|e| Failure::Failed(format!("a checkpoint's batch cannot be made: {e}")))?;
        let place = self.take(plan.total_len() as u32)?;
        Ok((plan, place))
    }

    /// `len` bytes in the checkpoint's segments.
    fn take(&mut self, len: u32) -> Result<Tail, Failure> {
        let size = self.inner.segment_size;
        if self.tail.is_none_or(|t| size - t.offset < len) {
            let mut state = self.inner.lock();
            let State { tables, log, checkpoints, .. } = &mut *state;
            let Some(&segment) = tables.reserve(1).first() else { return Err(Failure::NoSpace) };
            if let Some(old) = self.tail.take() {
                tables.close_segment(old.segment, Use::Checkpoint);
            }
            let sequence = log.next_segment_sequence;
            log.next_segment_sequence += 1;
            tables.open_segment(segment, sequence, log.opening, Use::Checkpoint);
            self.tail = Some(Tail { segment, sequence, offset: 0 });
            // Also if this checkpoint fails: what it wrote must not be written over under the same sequence.
            checkpoints.tail = self.tail;
        }
        let Some(tail) = self.tail.as_mut() else { return Err(Failure::NoSpace) };
        let placed = *tail;
        tail.offset += len;
        let mut state = self.inner.lock();
        state.checkpoints.tail = self.tail;
        Ok(placed)
    }

    async fn write(&mut self, load: &Load, plan: &BatchPlan, tail: Tail) -> Result<BatchRef, Failure> {
        self.inner.lock().domains.count(plan.header_len(), &load.records);
        let at = At { opening: self.opening, sequence: tail.sequence, offset: tail.offset };
        self.batch += 1;
        let stamp = Stamp {
            kind: BatchKind::Checkpoint,
            batch: self.batch,
            epoch: self.epoch,
            segment: tail.segment,
            at,
        };
        let mut out = self.buffer(plan.total_len()).await;
        let payloads: Vec<&[u8]> = (0..load.records.len()).map(|i| load.payload(i)).collect();
        let sealed = plan.seal(&self.inner.keyring, &stamp, &payloads, &mut out);
        sealed.map_err(|e| Failure::Failed(format!("a checkpoint could not be sealed: {e}")))?;
        let length = out.len() as u32;
        self.inner.counters.checkpoint_bytes.fetch_add(u64::from(length), Ordering::Relaxed);
        let place = Place { segment: tail.segment, offset: tail.offset };
        let bytes = BufList::from(out.freeze());
        store(self.inner, self.port, place, bytes).await.map_err(Failure::Failed)?;
        Ok(BatchRef { segment: tail.segment, at, length, batch: self.batch })
    }

    async fn buffer(&self, len: usize) -> caisson_block::BufMut {
        loop {
            if let Some(mut buf) = self.inner.bulk.alloc() {
                buf.truncate(len);
                return buf;
            }
            self.port.pause().await;
        }
    }

    /// Writes the blobs and the root.
    async fn root(&mut self, log_batch: u64, reserved: &[u32]) -> Result<BatchRef, Failure> {
        // Segments that the root stands in must be in its own segment table: they are taken before that is, by the sizes
        // that a first picture has.
        let per = self.batch_bytes();
        self.forget_openings();
        self.map_keys = maps::sealed(self.inner, &self.vault, &self.families);
        let first = self.sizes(reserved);
        let lengths: Vec<usize> = first.iter().map(|(_, bytes)| bytes.len()).collect();
        let groups = pieces(&borrowed(&first), per);
        let mut places = Vec::with_capacity(groups.len() + 1);
        for group in &groups {
            let mut size = BatchSize::default();
            group.iter().for_each(|piece| size.add(&piece.record(self.epoch)));
            places.push(self.pinned(size.total(0))?);
        }
        let head = RootHead::encoded_len(first.len(), groups.len());
        places.push(self.pinned(BatchSize::default().total(head))?);
        let blobs = self.blobs(reserved);
        if lengths.iter().zip(&blobs).any(|(&length, (_, bytes))| length != bytes.len()) {
            return Err(Failure::Failed("a root changed its size while it was written".into()));
        }
        let mut places = places.into_iter();
        let mut batches = Vec::new();
        for group in groups {
            let mut load = Load::default();
            for piece in group {
                let blob = blobs.iter().find(|b| b.0 == piece.kind);
                let Some((_, bytes)) = blob else { continue };
                load.push(piece.record(self.epoch), &bytes[piece.range.clone()]);
            }
            let batch = self.write_at(&load, &[], places.next()).await?;
            batches.push(batch);
            self.port.pause().await;
        }
        let sizes = blobs.iter().map(|(kind, bytes)| Blob { kind: *kind, length: bytes.len() as u64 });
        let checkpoint = self.inner.lock().checkpoints.number + 1;
        let head = RootHead { checkpoint, log_batch, blobs: sizes.collect(), batches };
        self.write_at(&Load::default(), &head.encode(), places.next()).await
    }

    /// `len` bytes in a segment that stays until the next checkpoint is durable.
    fn pinned(&mut self, len: usize) -> Result<Tail, Failure> {
        let place = self.take(len as u32)?;
        if !self.segments.contains(&place.segment) {
            self.inner.lock().tables.pin(place.segment);
            self.segments.push(place.segment);
        }
        Ok(place)
    }

    async fn write_at(
        &mut self,
        load: &Load,
        changes: &[u8],
        place: Option<Tail>,
    ) -> Result<BatchRef, Failure> {
        let place = place.ok_or_else(|| Failure::Failed("a root is larger than was planned".into()))?;
        let plan = BatchPlan::new(&load.records, changes)
            .map_err(|e| Failure::Failed(format!("a checkpoint's batch cannot be made: {e}")))?;
        self.write(load, &plan, place).await
    }

    /// The root's parts as long as [`blobs`](Self::blobs) will give them, and empty.
    fn sizes(&self, reserved: &[u32]) -> Vec<(BlobKind, Vec<u8>)> {
        let state = self.inner.lock();
        let tables = state.tables.frozen_root_len();
        let openings = encode_openings(&state.checkpoints.openings);
        let domains = state.domains.encode();
        drop(state);
        vec![
            (BlobKind::Tables, vec![0; tables]),
            (BlobKind::Openings, openings),
            (BlobKind::Reserved, encode_reserved(reserved)),
            (BlobKind::Settings, domains),
            (BlobKind::MapKeys, self.map_keys.clone()),
        ]
    }

    /// Forgets openings that no segment was written in. Once a root: taking segments for it may make more of them
    /// idle, and the root's size must stay what it was.
    fn forget_openings(&self) {
        let mut state = self.inner.lock();
        if state.checkpoints.openings.len() == 1 {
            return;
        }
        let root = state.tables.frozen_root();
        let current = state.log.opening;
        let mut numbers: Vec<u32> = root.segments.iter().map(|s| s.opening).collect();
        numbers.sort_unstable();
        numbers.dedup();
        state
            .checkpoints
            .openings
            .retain(|o| o.number == current || numbers.binary_search(&o.number).is_ok());
    }

    /// The root's parts, by rising kind.
    fn blobs(&self, reserved: &[u32]) -> Vec<(BlobKind, Vec<u8>)> {
        let state = self.inner.lock();
        let root = state.tables.frozen_root();
        let openings = encode_openings(&state.checkpoints.openings);
        let domains = state.domains.encode();
        drop(state);
        vec![
            (BlobKind::Tables, root.encode_whole()),
            (BlobKind::Openings, openings),
            (BlobKind::Reserved, encode_reserved(reserved)),
            (BlobKind::Settings, domains),
            (BlobKind::MapKeys, self.map_keys.clone()),
        ]
    }
}

fn borrowed(blobs: &[(BlobKind, Vec<u8>)]) -> Vec<(BlobKind, &[u8])> {
    blobs.iter().map(|(kind, bytes)| (*kind, &bytes[..])).collect()
}

/// Writes the superblocks: each device's older copy, and when those are durable the other, so that the loss of either
/// leaves one that names this root and no older one, of which parts may be written over from now on. A device that no
/// durable superblock lists comes last: on its own it must not stand for the pool.
pub(crate) async fn write_superblocks(
    inner: &Arc<Inner>,
    port: &Port,
    root: BatchRef,
    clean: bool,
    vault: Arc<Secret>,
) -> Result<(), Failure> {
    let (mut superblock, anchor, listed) = {
        let mut state = inner.lock();
        let State { checkpoints, log, .. } = &mut *state;
        checkpoints.counter += 1;
        checkpoints.superblock.counter = checkpoints.counter;
        let salt = checkpoints.openings.iter().find(|o| o.number == root.at.opening).map(|o| o.salt);
        let salt = salt.ok_or_else(|| Failure::Failed("the root's opening is unknown".into()))?;
        let anchor = Anchor {
            root,
            salt,
            next_sequence: log.next_segment_sequence + u64::from(inner.devices().segments()),
            next_opening: log.opening + 1,
            clean,
            vault: Some(vault),
        };
        (checkpoints.superblock.clone(), anchor, checkpoints.listed)
    };
    let older = copy_for(superblock.counter);
    let stores = inner.devices().stores().to_vec();
    let rounds = if on(Bug::OneSuperblock) { 1 } else { 2 };
    for (round, copy) in [older, 1 - older].into_iter().enumerate().take(rounds) {
        for (device, store) in stores.iter().enumerate() {
            if round == 0 && device == listed {
                sync_devices(inner, port).await.map_err(Failure::Failed)?;
            }
            superblock.device = device as u32;
            let nonce: [u8; XNONCE] = inner.random();
            let mut bytes = vec![0; SUPERBLOCK];
            let sealed = superblock.seal(&inner.keyring, &anchor, nonce, &mut bytes);
            sealed.map_err(|e| Failure::Failed(format!("a superblock could not be sealed: {e}")))?;
            let written = write_copy(inner, port, store, SUPERBLOCK_AT[copy], &bytes).await;
            let failed = |e| format!("writing the superblock of device {device} failed: {e}");
            written.map_err(|e| Failure::Failed(failed(e)))?;
        }
        sync_devices(inner, port).await.map_err(Failure::Failed)?;
    }
    inner.lock().checkpoints.listed = stores.len();
    Ok(())
}

/// Writes one copy of a superblock.
pub(crate) async fn write_copy(
    inner: &Inner,
    port: &Port,
    store: &Arc<FileStore>,
    at: u64,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let [mut bufs, ..] = port.buffers(&inner.page_buffers, [bytes.len(), 0, 0]).await;
    fill(&mut bufs, bytes);
    let io = Io { store: Arc::clone(store), kind: IoKind::Write { dsync: false }, offset: at, bufs };
    port.io(io).await.map(drop)
}

/// Copies `bytes` into unshared buffers.
pub(crate) fn fill(bufs: &mut BufList, bytes: &[u8]) {
    let mut at = 0;
    let mut filled = BufList::new();
    for part in bufs.drain() {
        let Ok(mut part) = part.try_into_mut() else { continue };
        let len = part.len();
        part.copy_from_slice(&bytes[at..at + len]);
        at += len;
        filled.push(part.freeze());
    }
    *bufs = filled;
}
