//! Opening a pool: the newest superblock, its root, and the replay of the log behind it.
//!
//! Recovery reads what the root names and the segments that it reserved, and nothing else. It applies batches in order
//! and ends at the first that is not there whole. A batch that is missing although a later one says that it was durable is
//! damage and not an end: then the pool is not opened.

use crate::devices::Devices;
use crate::error::OpenError;
use crate::maps;
use crate::state::Inner;
use caisson_block::{BLOCK, BufList, IoKind};
use caisson_device::{Buffers, FileStore};
use caisson_log::{
    Anchor, BatchKind, BatchRef, BlobKind, Blobs, Choice, Header, HeaderError, Keyring,
    OpenError as Unopened, Opening, PREFIX, RecordKind, RootHead, SUPERBLOCK, SUPERBLOCK_AT, Spot,
    Superblock, VerifyError, choose, decode_header, decode_openings, decode_prefix, decode_reserved, verify,
};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{ApplyError, BlockId, Change, Place, Root, SegmentState, Stored, Use};
use caisson_task::{Io, Port};
use std::collections::HashMap;
use std::sync::Arc;

/// What the newest root says.
pub(crate) struct Found {
    pub(crate) choice: Choice,
    pub(crate) head: RootHead,
    pub(crate) root: Root,
    pub(crate) openings: Vec<Opening>,
    pub(crate) reserved: Vec<u32>,
    /// What it says of the pool's domains; nothing in pools of before.
    pub(crate) domains: Option<Vec<u8>>,
    /// Segments that the root and its blobs stand in.
    pub(crate) segments: Vec<u32>,
}

/// Reads both superblock copies of a device.
pub(crate) async fn superblocks(
    port: &Port,
    buffers: &Buffers,
    store: &Arc<FileStore>,
) -> Result<[Vec<u8>; 2], OpenError> {
    let mut copies = [Vec::new(), Vec::new()];
    for (copy, at) in copies.iter_mut().zip(SUPERBLOCK_AT) {
        let [bufs, ..] = port.buffers(buffers, [SUPERBLOCK, 0, 0]).await;
        let io = Io { store: Arc::clone(store), kind: IoKind::Read, offset: at, bufs };
        let list = port.io(io).await.map_err(|error| OpenError::device(store, error))?;
        *copy = list.to_vec();
    }
    Ok(copies)
}

/// The plain part of a device's newest superblock that can be read, without any key.
pub(crate) fn label(copies: &[Vec<u8>; 2]) -> Result<Superblock, OpenError> {
    let plain = [Superblock::decode_plain(&copies[0]), Superblock::decode_plain(&copies[1])];
    match plain {
        [Ok(a), Ok(b)] => Ok(if b.counter > a.counter { b } else { a }),
        [Ok(one), Err(_)] | [Err(_), Ok(one)] => Ok(one),
        [Err(first), Err(second)] => Err(OpenError::NoSuperblock { first, second }),
    }
}

/// What recovery reads with before there is a pool.
pub(crate) struct Reader<'a> {
    pub(crate) port: &'a Port,
    pub(crate) buffers: &'a Buffers,
    pub(crate) keyring: &'a Keyring,
    pub(crate) devices: &'a Devices,
}

impl Reader<'_> {
    /// Bytes of a segment.
    async fn bytes(&self, place: Place, len: usize) -> Result<Vec<u8>, OpenError> {
        let outside = OpenError::Outside { segment: place.segment };
        let window = self.devices.window(place, len).ok_or(outside)?;
        let [mut bufs, ..] =
            self.port.buffers(self.buffers, [window.len.next_multiple_of(BLOCK), 0, 0]).await;
        let own: BufList = bufs.split_to(window.len);
        let io = self.devices.io(window, IoKind::Read, own);
        let io = io.ok_or(OpenError::Outside { segment: place.segment })?;
        let unread =
            |error| OpenError::Read { path: self.devices.path(window), segment: place.segment, error };
        let list = self.port.io(io).await.map_err(unread)?;
        let mut bytes = vec![0; len];
        list.copy_out(window.skip, &mut bytes);
        Ok(bytes)
    }

    /// A batch that something durable points at: it must be there.
    async fn named(&self, batch: &BatchRef) -> Result<(Header, Vec<u8>), OpenError> {
        let place = Place { segment: batch.segment, offset: batch.at.offset };
        let bytes = self.bytes(place, batch.length as usize).await?;
        let spot = Spot { segment: batch.segment, offset: batch.at.offset };
        let damaged =
            |what: String| OpenError::Root { segment: batch.segment, offset: batch.at.offset, what };
        let header = decode_header(self.keyring, spot, &bytes).map_err(|e| damaged(e.to_string()))?;
        let prefix = &header.prefix;
        if prefix.at != batch.at || prefix.batch != batch.batch || prefix.kind != BatchKind::Checkpoint {
            return Err(damaged("another batch stands there".into()));
        }
        Ok((header, bytes))
    }

    /// The root that the superblocks name.
    pub(crate) async fn root(&self, copies: &[[Vec<u8>; 2]]) -> Result<Found, OpenError> {
        let mut newest: Option<Choice> = None;
        for (device, [first, second]) in copies.iter().enumerate() {
            match choose(self.keyring, first, second) {
                Ok(choice) => {
                    if let Err(error) = &choice.other {
                        tracing::warn!("device {device}: one of its two superblocks cannot be used: {error}");
                    }
                    if newest.as_ref().is_none_or(|n| n.superblock.counter < choice.superblock.counter) {
                        newest = Some(choice);
                    }
                }
                Err(error) if copies.len() == 1 => return Err(OpenError::Superblocks(error)),
                Err(error) => tracing::warn!("device {device}: {error}"),
            }
        }
        let choice = newest.ok_or(OpenError::Nothing)?;
        let Anchor { root, salt, ref vault, .. } = choice.anchor;
        let keyring = |e: caisson_log::KeyringError| OpenError::Keys(e.to_string());
        self.keyring.add_opening(root.at.opening, salt).map_err(keyring)?;
        let (header, bytes) = self.named(&root).await?;
        let damaged = |what: String| OpenError::Root { segment: root.segment, offset: root.at.offset, what };
        let head = RootHead::decode(&header.changes).map_err(|e| damaged(e.to_string()))?;
        let mut blobs = Blobs::new(&head);
        let mut segments = vec![root.segment];
        blobs.add(self.keyring, &header, &bytes).map_err(|e| damaged(e.to_string()))?;
        for batch in &head.batches {
            let (header, bytes) = self.named(batch).await?;
            blobs.add(self.keyring, &header, &bytes).map_err(|e| damaged(e.to_string()))?;
            segments.push(batch.segment);
            self.port.pause().await;
        }
        segments.sort_unstable();
        segments.dedup();
        let blobs = blobs.finish().map_err(|e| damaged(e.to_string()))?;
        let blob = |kind: BlobKind| {
            let found = blobs.iter().find(|b| b.0 == kind).map(|b| &b.1[..]);
            found.ok_or_else(|| damaged(format!("it has no {kind:?}")))
        };
        let tables = Root::decode(&[blob(BlobKind::Tables)?]).map_err(|e| damaged(e.to_string()))?;
        let openings = decode_openings(blob(BlobKind::Openings)?).map_err(|e| damaged(e.to_string()))?;
        let reserved = decode_reserved(blob(BlobKind::Reserved)?).map_err(|e| damaged(e.to_string()))?;
        for opening in &openings {
            self.keyring.add_opening(opening.number, opening.salt).map_err(keyring)?;
        }
        let sealed = blobs.iter().find(|b| b.0 == BlobKind::MapKeys).map(|b| &b.1[..]);
        maps::unsealed(self.keyring, vault.as_deref(), sealed).map_err(damaged)?;
        let domains = blobs.into_iter().find(|b| b.0 == BlobKind::Settings).map(|b| b.1);
        Ok(Found { choice, head, root: tables, openings, reserved, domains, segments })
    }
}

/// How far replay came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    /// The last batch that was applied.
    pub(crate) last: u64,
}

/// The state of a replay.
struct Replay<'a> {
    inner: &'a Arc<Inner>,
    port: &'a Port,
    /// The opening that the log behind the root was written in.
    opening: u32,
    next: u64,
    open: Option<u32>,
    /// Where the last batch of each segment that belongs to this log ends.
    ends: HashMap<u32, u32>,
    done: Replayed,
}

/// What stands at a place of the log.
enum Next {
    Batch(Box<(Header, Vec<u8>)>),
    /// Nothing that follows.
    End,
}

/// Applies the log behind the root to the tables.
pub(crate) async fn replay(
    inner: &Arc<Inner>,
    port: &Port,
    reserved: &[u32],
    opening: u32,
    log_batch: u64,
) -> Result<Replayed, OpenError> {
    let done = Replayed { last: log_batch, ..Replayed::default() };
    let mut replay =
        Replay { inner, port, opening, next: log_batch + 1, open: None, ends: HashMap::new(), done };
    for &segment in reserved {
        if !replay.segment(segment, log_batch).await? {
            break;
        }
    }
    let end = replay.done.last;
    replay.look_behind(reserved, end).await?;
    if let Some(open) = replay.open {
        inner.lock().tables.close_segment(open, Use::Log);
    }
    Ok(replay.done)
}

impl Replay<'_> {
    fn reader<'b>(&'b self, devices: &'b Devices) -> Reader<'b> {
        Reader { port: self.port, buffers: &self.inner.page_buffers, keyring: &self.inner.keyring, devices }
    }

    /// Applies what stands in a segment. False when the log ended before it: it holds nothing that follows.
    async fn segment(&mut self, segment: u32, log_batch: u64) -> Result<bool, OpenError> {
        let devices = self.inner.devices();
        let mut offset = 0;
        let mut any = false;
        while let Next::Batch(batch) = self.batch(&devices, segment, offset).await? {
            let (header, bytes) = *batch;
            let number = header.prefix.batch;
            offset = header.prefix.end();
            if number <= log_batch {
                let now = *self.inner.lock().tables.segment(segment);
                let stale = now.state != SegmentState::Open || now.sequence != header.prefix.at.sequence;
                if stale && !on(Bug::StaleBatch) {
                    // Of an earlier use of the segment, in the same opening: the log has not come here.
                    break;
                }
                // Of before the checkpoint, in the segment that the log was filling.
                self.open = Some(segment);
                self.ends.insert(segment, offset);
                any = true;
                continue;
            }
            if number != self.next && !(on(Bug::PastGap) && number > self.next) {
                return Ok(number < self.next);
            }
            any = true;
            match verify(&self.inner.keyring, &header, &bytes) {
                Ok(()) => {}
                Err(_) if on(Bug::TornBatch) => {}
                Err(VerifyError::Record { error: Unopened::NotAuthentic { .. }, .. }) => return Ok(false),
                Err(e) => return Err(OpenError::Replay { batch: number, what: e.to_string() }),
            }
            self.enter(segment, &header);
            self.apply(&header).await?;
            self.next = number + 1;
            self.ends.insert(segment, offset);
            self.done.last = number;
            self.done.batches += 1;
            self.done.bytes += u64::from(header.prefix.total);
            self.port.pause().await;
        }
        Ok(any)
    }

    /// The log goes on in this segment.
    fn enter(&mut self, segment: u32, header: &Header) {
        if self.open == Some(segment) {
            return;
        }
        let mut state = self.inner.lock();
        if let Some(old) = self.open.replace(segment) {
            state.tables.close_segment(old, Use::Log);
        }
        state.tables.open_segment(segment, header.prefix.at.sequence, header.prefix.at.opening, Use::Log);
    }

    /// The batch at a place, if one of this log stands there whole as far as its header says.
    async fn batch(&self, devices: &Devices, segment: u32, offset: u32) -> Result<Next, OpenError> {
        let size = self.inner.segment_size;
        if offset >= size {
            return Ok(Next::End);
        }
        let reader = self.reader(devices);
        let place = Place { segment, offset };
        let front = reader.bytes(place, BLOCK).await?;
        let Ok(prefix) = decode_prefix(&front[..PREFIX]) else { return Ok(Next::End) };
        let fits = u64::from(offset) + u64::from(prefix.total) <= u64::from(size);
        if !fits || prefix.kind != BatchKind::Log || prefix.at.opening != self.opening {
            return Ok(Next::End);
        }
        let bytes = reader.bytes(place, prefix.total as usize).await?;
        match decode_header(&self.inner.keyring, Spot { segment, offset }, &bytes) {
            Ok(header) => Ok(Next::Batch(Box::new((header, bytes)))),
            // Of an earlier use of the segment: an epoch's key is erased when the log is past all that it seals.
            Err(HeaderError::Open(Unopened::NoKey { domain, epoch }))
                if self.inner.lock().domains.epoch(domain).is_some_and(|now| epoch < now) =>
            {
                Ok(Next::End)
            }
            Err(HeaderError::Open(Unopened::NoKey { domain, epoch })) => {
                // Slots of an epoch are durable in every superblock before a header names it, so this number is rot in the one
                // field of a header that is read before it is authentic; unless the batch behind it agrees: then keys are missing.
                let behind = Place { segment, offset: prefix.end() };
                if u64::from(behind.offset) + BLOCK as u64 <= u64::from(size) {
                    let front = reader.bytes(behind, BLOCK).await?;
                    if decode_prefix(&front[..PREFIX])
                        .is_ok_and(|p| p.epoch == epoch && p.at.opening == self.opening)
                    {
                        return Err(OpenError::Keys(format!("no key for domain {domain}, epoch {epoch}")));
                    }
                }
                Ok(Next::End)
            }
            Err(_) => Ok(Next::End),
        }
    }

    /// Looks in the rest of the reserved segments for a batch that says that more was durable than was found.
    async fn look_behind(&self, reserved: &[u32], end: u64) -> Result<(), OpenError> {
        let devices = self.inner.devices();
        let size = self.inner.segment_size;
        for &segment in reserved {
            let mut offset = self.ends.get(&segment).copied().unwrap_or(0);
            let mut empty = 0;
            while offset < size && empty < LOOK_BEHIND {
                match self.batch(&devices, segment, offset).await? {
                    Next::Batch(batch) => {
                        let header = &batch.0;
                        offset = header.prefix.end();
                        empty = 0;
                        let durable = durable_before(header);
                        if header.prefix.batch > end && durable > end && !on(Bug::DamageIsEnd) {
                            return Err(OpenError::Damaged {
                                missing: end + 1,
                                witness: header.prefix.batch,
                            });
                        }
                    }
                    Next::End => {
                        (offset, empty) =
                            self.skip(&devices, segment, offset + BLOCK as u32, empty + 1).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The next place from `offset` on where a batch may begin, having passed by some that are empty.
    async fn skip(
        &self,
        devices: &Devices,
        segment: u32,
        mut offset: u32,
        mut empty: u32,
    ) -> Result<(u32, u32), OpenError> {
        let size = self.inner.segment_size;
        while offset < size && empty < LOOK_BEHIND {
            let len = SCAN.min(size - offset).min((LOOK_BEHIND - empty) * BLOCK as u32);
            let place = Place { segment, offset };
            let bytes = self.reader(devices).bytes(place, len as usize).await?;
            for block in bytes.chunks(BLOCK) {
                if block.get(..PREFIX).is_some_and(|prefix| decode_prefix(prefix).is_ok()) {
                    return Ok((offset, empty));
                }
                offset += BLOCK as u32;
                empty += 1;
            }
        }
        Ok((offset, empty))
    }

    async fn apply(&mut self, header: &Header) -> Result<(), OpenError> {
        let number = header.prefix.batch;
        let corrupt = |what: String| OpenError::Replay { batch: number, what };
        let changes = header.changes.get(8..).ok_or_else(|| corrupt("its changes are too short".into()))?;
        let changes = Change::decode(changes).map_err(|e| corrupt(e.to_string()))?;
        let segment = header.prefix.segment;
        let mut new = Vec::new();
        for (i, placed) in header.records.iter().enumerate() {
            let record = &placed.record;
            let id = BlockId::new(record.id).filter(|_| record.kind == RecordKind::Block);
            let id = id.ok_or_else(|| corrupt(format!("record {i} is none of a log")))?;
            if record.from.is_none() {
                let stored = Stored { length: record.length, codec: record.codec, epoch: record.epoch };
                let place = Place { segment, offset: header.offset(i) };
                self.each(number, |state| state.tables.apply_new(id, stored, place)).await?;
                new.push(id);
            }
        }
        for change in &changes {
            self.each(number, |state| state.tables.apply(change)).await?;
        }
        for (i, placed) in header.records.iter().enumerate() {
            let record = &placed.record;
            let (Some(from), Some(id)) = (record.from, BlockId::new(record.id)) else { continue };
            let from = Place { segment: from.segment, offset: from.offset };
            let to = Place { segment, offset: header.offset(i) };
            let stored = Stored { length: record.length, codec: record.codec, epoch: record.epoch };
            let moved =
                |state: &mut crate::state::State| Ok(state.tables.moved(id, from, to, stored).map(drop)?);
            self.each(number, moved).await?;
        }
        self.each(number, |state| Ok(state.tables.settle(&new)?)).await
    }

    /// One step, with the pages that it needs.
    async fn each(
        &self,
        batch: u64,
        mut f: impl FnMut(&mut crate::state::State) -> Result<(), ApplyError>,
    ) -> Result<(), OpenError> {
        let result = self.inner.with(self.port, |state| match f(state) {
            Err(ApplyError::Needs(needs)) => Err(needs),
            other => Ok(other),
        });
        match result.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(OpenError::Replay { batch, what: e.to_string() }),
            Err(lost) => Err(OpenError::Page { key: lost.key, place: lost.place }),
        }
    }
}

/// Blocks of 4 KiB without a batch after which a segment is taken to hold no more of the log.
const LOOK_BEHIND: u32 = 256;

/// Bytes that are read at once to find out where it goes on.
const SCAN: u32 = 256 << 10;

/// How far the log was durable when a batch was closed.
fn durable_before(header: &Header) -> u64 {
    header.changes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
