//! The cleaner: what is live in a segment with much garbage is copied elsewhere, and the segment becomes free.
//!
//! A segment is read batch by batch. A record is live when the tables still have its id at this very place; a live block
//! is opened, authenticated, and copied by the [`Mover`]; a live page of the tables is marked changed, so that the next
//! checkpoint writes it elsewhere. The segment is free after the checkpoint that follows.
//!
//! Copies go to segments of their own and not into the log. So what has lived for a while does not get between what is
//! new, which most often dies first; the log is not filled by the cleaner, which therefore never waits for room in it; and a
//! move needs no journal: the tables learn a new place when the copy stands there, and until a checkpoint with that place is
//! durable, the old copy is what a recovery finds, for its segment is not free before.

use crate::append::store;
use crate::bounds::{BULK, MOVES_AT_ONCE};
use crate::devices::Cause;
use crate::log::{Load, Tail};
use crate::state::{Damage, Inner, State};
use crate::summary::bytes_at;
use caisson_block::{BLOCK, BufList};
use caisson_index::{Entry as Printed, SummaryAt};
use caisson_log::{
    At, BatchKind, BatchPlan, BatchSize, Header, PREFIX, Prefix, Record, RecordKind, SealBatchError,
    SealError, Spot, Stamp, decode_header, decode_prefix,
};
use caisson_tables::{BlockId, PageKey, Place, Stored, Use};
use caisson_task::Port;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How the cleaning of a segment goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is more in this segment, behind so many bytes.
    More(u32),
    /// Nothing in it is live any more, or only what cannot be had.
    Done,
    /// There is no segment to copy to, or too much changed in the tables: a checkpoint is needed first.
    NoRoom,
    /// The pool has failed.
    Failed,
}

/// A segment that is being cleaned.
#[derive(Clone, Debug)]
pub(crate) struct Cleaning {
    pub(crate) segment: u32,
    pub(crate) sequence: u64,
    /// Bytes that were not live when it was chosen.
    pub(crate) gain: u32,
    /// The batch that it is at, and the next record in it.
    offset: u32,
    record: usize,
    /// What is moved.
    which: Which,
}

/// What is moved out of a segment.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    /// All that is live.
    All,
    /// What is sealed under an earlier epoch than the one named of these domains.
    Sealed(Arc<[(u32, u16)]>),
}

impl Which {
    fn takes(&self, record: &Record) -> bool {
        match self {
            Which::All => true,
            Which::Sealed(before) => {
                before.iter().any(|&(domain, epoch)| record.domain == domain && record.epoch < epoch)
            }
        }
    }
}

impl Cleaning {
    pub(crate) fn new(inner: &Inner, segment: u32, which: Which) -> Cleaning {
        let now = *inner.lock().tables.segment(segment);
        let gain = inner.segment_size.saturating_sub(now.live);
        Cleaning { segment, sequence: now.sequence, gain, offset: 0, record: 0, which }
    }

    /// Cleans one batch.
    pub(crate) async fn step(&mut self, inner: &Arc<Inner>, port: &Port, mover: &mut Mover) -> Step {
        let (left, live) = {
            let state = inner.lock();
            let now = state.tables.segment(self.segment);
            let current = now.sequence == self.sequence;
            (inner.segment_size - self.offset, if current { now.live } else { 0 })
        };
        if (left as usize) < BLOCK || live <= mover.from(self.segment) {
            return Step::Done;
        }
        let place = Place { segment: self.segment, offset: self.offset };
        let Some(front) = bytes_at(inner, port, place, BLOCK).await else { return self.unreadable(inner) };
        let prefix = match decode_prefix(&front[..PREFIX]) {
            Ok(prefix) if prefix.at.sequence == self.sequence && prefix.total <= left => prefix,
            // The end of what was written, or damage: what is live behind it is found by nobody from here.
            _ => return self.unreadable(inner),
        };
        if let Which::Sealed(_) = self.which {
            // Most batches hold nothing of it: their header says so.
            match self.header(inner, port, place, &front, &prefix).await {
                Some(true) => {}
                Some(false) => {
                    (self.offset, self.record) = (prefix.at.offset + prefix.total, 0);
                    return Step::More(prefix.header);
                }
                None => return self.unreadable(inner),
            }
        }
        let Some(bytes) = bytes_at(inner, port, place, prefix.total as usize).await else {
            return self.unreadable(inner);
        };
        let spot = Spot { segment: self.segment, offset: self.offset };
        let Ok(header) = decode_header(&inner.keyring, spot, &bytes) else { return self.unreadable(inner) };
        self.batch(inner, port, mover, &header, &bytes).await.unwrap_or(Step::Failed)
    }

    /// Whether the header of the batch here lists something that is to be moved; `None` where it cannot be read.
    async fn header(
        &self,
        inner: &Arc<Inner>,
        port: &Port,
        place: Place,
        front: &[u8],
        prefix: &Prefix,
    ) -> Option<bool> {
        let len = prefix.header as usize;
        let longer = if len > front.len() { Some(bytes_at(inner, port, place, len).await?) } else { None };
        let spot = Spot { segment: place.segment, offset: place.offset };
        let header = decode_header(&inner.keyring, spot, longer.as_deref().unwrap_or(front)).ok()?;
        Some(header.records.iter().any(|placed| self.which.takes(&placed.record)))
    }

    /// Goes through the records of a batch.
    async fn batch(
        &mut self,
        inner: &Arc<Inner>,
        port: &Port,
        mover: &mut Mover,
        header: &Header,
        bytes: &[u8],
    ) -> Result<Step, ()> {
        while self.record < header.records.len() {
            let some = self.record..header.records.len().min(self.record + MOVES_AT_ONCE);
            let live = live(inner, port, header, some.clone()).await?;
            for index in some {
                // What follows is looked at again when there is room.
                self.record = index;
                let record = &header.records[index].record;
                let done = if !self.which.takes(record) {
                    true
                } else if live.contains(&index) {
                    mover.take(inner, port, header, bytes, index).await?
                } else if let Some(key) = page_of(record) {
                    page(inner, port, key, place(header, index)).await?
                } else {
                    true
                };
                if !done {
                    return Ok(Step::NoRoom);
                }
            }
            self.record += 1;
            port.pause().await;
        }
        (self.offset, self.record) = (header.prefix.end(), 0);
        Ok(Step::More(header.prefix.total))
    }

    /// Live bytes of a segment that ended, or that cannot be read from here on, are left where they are.
    fn unreadable(&self, inner: &Inner) -> Step {
        let live = inner.lock().tables.segment(self.segment).live;
        if live > 0 && inner.fault().is_none() {
            tracing::debug!("segment {}: {live} live bytes are left behind by the cleaner", self.segment);
        }
        Step::Done
    }
}

fn place(header: &Header, index: usize) -> Place {
    Place { segment: header.prefix.segment, offset: header.offset(index) }
}

/// The page that a record of a page is.
fn page_of(record: &Record) -> Option<PageKey> {
    match record.kind {
        RecordKind::MapPage => BlockId::new(record.id).map(PageKey::Map),
        RecordKind::BlocksPage => {
            Some(PageKey::Blocks { level: (record.id >> 40) as u8, index: record.id & ((1 << 40) - 1) })
        }
        RecordKind::Block | RecordKind::Blob => None,
    }
}

/// Those of some records that are blocks and live. What cannot be told of is let be.
async fn live(
    inner: &Arc<Inner>,
    port: &Port,
    header: &Header,
    some: Range<usize>,
) -> Result<Vec<usize>, ()> {
    let looked = inner.with(port, |state| {
        let mut found = Vec::with_capacity(some.len());
        for index in some.clone() {
            let record = &header.records[index].record;
            let id = BlockId::new(record.id).filter(|_| record.kind == RecordKind::Block);
            let Some(id) = id else { continue };
            let entry = state.tables.entry(id)?;
            if entry.is_some_and(|e| e.place == place(header, index) && !e.map) {
                found.push(index);
            }
        }
        Ok(found)
    });
    match looked.await {
        Ok(found) => Ok(found),
        Err(_) if inner.fault().is_some() => Err(()),
        // A page is lost: those that it does not tell of can still be moved.
        Err(_) if some.len() > 1 => {
            let mut found = Vec::new();
            for index in some {
                found.append(&mut Box::pin(live(inner, port, header, index..index + 1)).await?);
            }
            Ok(found)
        }
        Err(_) => Ok(Vec::new()),
    }
}

/// Has a page of the tables written elsewhere by the next checkpoint. False when that has to come first.
async fn page(inner: &Arc<Inner>, port: &Port, key: PageKey, place: Place) -> Result<bool, ()> {
    if inner.lock().tables.dirty().wait() {
        return Ok(false);
    }
    let done = inner.with(port, |state| state.tables.clean_page(key, place)).await;
    match done {
        Ok(_) => Ok(true),
        // It was remembered as damaged; it stays where it is.
        Err(_) if inner.fault().is_none() => Ok(true),
        Err(_) => Err(()),
    }
}

/// Where a block that is to be moved was found.
#[derive(Clone, Copy, Debug)]
struct Origin {
    place: Place,
    /// Of that use of its segment.
    sequence: u64,
}

/// Copies live blocks to segments of their own.
#[derive(Default)]
pub(crate) struct Mover {
    load: Load,
    size: BatchSize,
    origins: Vec<Origin>,
    tail: Option<Tail>,
    /// Bytes of segments that it has used up, with what it left empty.
    pub(crate) used: u64,
    /// Free segments that it leaves to others beyond what every mover leaves to checkpoints.
    leaves: u32,
}

impl Mover {
    /// One that leaves so many free segments more to others.
    pub(crate) fn leaving(leaves: u32) -> Mover {
        Mover { leaves, ..Mover::default() }
    }

    /// Bytes of what was taken from a segment and is not there yet where it goes.
    fn from(&self, segment: u32) -> u32 {
        let taken = self.load.records.iter().zip(&self.origins).filter(|(_, o)| o.place.segment == segment);
        taken.map(|(r, _)| r.sealed_len() as u32).sum()
    }

    /// Takes a block along. False when there is no room for what was taken before.
    async fn take(
        &mut self,
        inner: &Arc<Inner>,
        port: &Port,
        header: &Header,
        bytes: &[u8],
        index: usize,
    ) -> Result<bool, ()> {
        let record = Record { from: None, ..header.records[index].record };
        let mut with = self.size;
        with.add(&record);
        if with.total(0) > self.room(inner) {
            if !self.flush(inner, port).await? {
                return Ok(false);
            }
            with = BatchSize::default();
            with.add(&record);
        }
        let mut plain = vec![0; record.length.into()];
        let place = place(header, index);
        if !inner.lock().domains.in_use(record.domain) {
            // Nobody can open it any more. It goes when its volume does.
            return Ok(true);
        }
        if header.open_record(&inner.keyring, index, bytes, &mut plain).is_err() {
            // It may have been dropped and its place written over since; if it is still there, it is damaged.
            inner.damaged(Damage {
                block: None,
                at: (place.segment, place.offset),
                what: "a block that the cleaner met".into(),
                cause: Cause::Content,
            });
            return Ok(true);
        }
        self.size = with;
        self.load.push(record, &plain);
        self.origins.push(Origin { place, sequence: header.prefix.at.sequence });
        Ok(true)
    }

    /// Bytes that the next batch may have: what is left of the segment is filled.
    fn room(&self, inner: &Inner) -> usize {
        let most = BULK.min(inner.segment_size as usize);
        match self.tail.map_or(0, |t| (inner.segment_size - t.offset) as usize) {
            // A block and its header may not fit into less.
            left if left < 2 * BLOCK => most,
            left => left.min(most),
        }
    }

    /// Writes what was taken, and tells the tables where it is now. False when there is no segment for it, or too much
    /// changed since the last checkpoint: then it is kept.
    ///
    /// # Errors
    /// When the pool has failed.
    pub(crate) async fn flush(&mut self, inner: &Arc<Inner>, port: &Port) -> Result<bool, ()> {
        if self.load.is_empty() {
            return Ok(true);
        }
        if inner.lock().tables.dirty().wait() {
            return Ok(false);
        }
        let (plan, tail) = loop {
            let switches = self.renew(inner);
            if self.load.records.is_empty() {
                self.load.clear();
                self.size = BatchSize::default();
                return Ok(true);
            }
            let plan = BatchPlan::new(&self.load.records, &[]).map_err(|e| {
                inner.fail(format!("what the cleaner moves makes no batch: {e}"));
            })?;
            match self.place(inner, &plan, switches) {
                Placing::At(tail, epoch) => {
                    if self.write(inner, port, &plan, tail, epoch).await? {
                        break (plan, tail);
                    }
                    // Nothing stands there now: what follows in this segment would not be found.
                    self.leave_before(inner, u64::MAX);
                }
                Placing::NoRoom => return Ok(false),
                Placing::Switched => {}
            }
        };
        for from in (0..self.load.records.len()).step_by(MOVES_AT_ONCE) {
            let some = from..self.load.records.len().min(from + MOVES_AT_ONCE);
            self.publish(inner, port, &plan, tail, some).await?;
            port.pause().await;
        }
        self.index(inner, &plan, tail);
        self.load.clear();
        self.origins.clear();
        self.size = BatchSize::default();
        Ok(true)
    }

    /// What was taken is to be sealed under the present epoch of each domain; what belongs to a destroyed one is let go. Gives
    /// how often any has begun another epoch.
    fn renew(&mut self, inner: &Inner) -> u64 {
        let state = inner.lock();
        let mut keep = Vec::with_capacity(self.load.records.len());
        for record in &mut self.load.records {
            let epoch = state.domains.epoch(record.domain);
            record.epoch = epoch.unwrap_or(record.epoch);
            keep.push(epoch.is_some());
        }
        if keep.contains(&false) {
            self.load.retain(&keep);
            let mut keep = keep.iter();
            self.origins.retain(|_| keep.next() == Some(&true));
        }
        state.domains.switches
    }

    /// Writes no more to its segment, if the use of that began before `sequence`.
    pub(crate) fn leave_before(&mut self, inner: &Inner, sequence: u64) {
        if let Some(old) = self.tail.take_if(|t| t.sequence < sequence) {
            self.used += u64::from(inner.segment_size - old.offset);
            inner.lock().tables.close_segment(old.segment, Use::Log);
        }
    }

    /// Room for the batch in the mover's segment, or in another; and the epoch of its header. Epochs are still those of the
    /// `switches` that the records were given theirs after.
    fn place(&mut self, inner: &Inner, plan: &BatchPlan, switches: u64) -> Placing {
        let len = plan.total_len() as u32;
        let mut guard = inner.lock();
        let State { tables, log, space, domains, .. } = &mut *guard;
        if domains.switches != switches {
            return Placing::Switched;
        }
        if self.tail.is_none_or(|t| inner.segment_size - t.offset < len) {
            if tables.free_segments() <= space.kept_from_cleaner() + self.leaves {
                return Placing::NoRoom;
            }
            let Some(&segment) = tables.reserve(1).first() else { return Placing::NoRoom };
            if let Some(old) = self.tail.take() {
                self.used += u64::from(inner.segment_size - old.offset);
                tables.close_segment(old.segment, Use::Log);
            }
            let sequence = log.next_segment_sequence;
            log.next_segment_sequence += 1;
            tables.open_segment(segment, sequence, log.opening, Use::Log);
            self.tail = Some(Tail { segment, sequence, offset: 0 });
        }
        let Some(tail) = self.tail.as_mut() else { return Placing::NoRoom };
        let placed = *tail;
        // Also if it is not written: no two batches have the same place.
        tail.offset += len;
        self.used += u64::from(len);
        domains.count(plan.header_len(), &self.load.records);
        Placing::At(placed, log.epoch)
    }

    /// Seals and writes a batch. False when a key that it takes was erased meanwhile.
    async fn write(
        &self,
        inner: &Arc<Inner>,
        port: &Port,
        plan: &BatchPlan,
        tail: Tail,
        epoch: u16,
    ) -> Result<bool, ()> {
        let mut out = loop {
            match inner.bulk.alloc() {
                Some(mut out) => {
                    out.truncate(plan.total_len());
                    break out;
                }
                None => port.pause().await,
            }
        };
        let at = At { opening: inner.lock().log.opening, sequence: tail.sequence, offset: tail.offset };
        // Recovery takes no batch of this kind for one of the log; those of checkpoints are numbered from 1.
        let kind = BatchKind::Checkpoint;
        let stamp = Stamp { kind, batch: MOVED_BATCH, epoch, segment: tail.segment, at };
        let payloads: Vec<&[u8]> = (0..self.load.records.len()).map(|i| self.load.payload(i)).collect();
        match plan.seal(&inner.keyring, &stamp, &payloads, &mut out) {
            Ok(()) => {}
            // Its domain was destroyed since it was placed.
            Err(SealBatchError::Seal(SealError::NoKey { .. })) => return Ok(false),
            Err(e) => {
                inner.fail(format!("what the cleaner moves could not be sealed: {e}"));
                return Err(());
            }
        }
        inner.counters.moved_bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
        let place = Place { segment: tail.segment, offset: tail.offset };
        store(inner, port, place, BufList::from(out.freeze())).await.map_err(|reason| inner.fail(reason))?;
        Ok(true)
    }

    /// Tells the tables of some, where they are still what was copied.
    async fn publish(
        &self,
        inner: &Arc<Inner>,
        port: &Port,
        plan: &BatchPlan,
        tail: Tail,
        some: Range<usize>,
    ) -> Result<(), ()> {
        let mut moved = 0;
        let done = inner.with(port, |state| {
            for index in some.clone() {
                let (record, origin) = (&self.load.records[index], &self.origins[index]);
                let current = state.tables.segment(origin.place.segment).sequence == origin.sequence;
                let Some(id) = BlockId::new(record.id).filter(|_| current) else { continue };
                let to = Place { segment: tail.segment, offset: plan.offset(index, tail.offset) };
                let stored = Stored { length: record.length, codec: record.codec, epoch: record.epoch };
                moved += u64::from(state.tables.moved(id, origin.place, to, stored)?);
            }
            Ok(())
        });
        let done = done.await;
        inner.counters.moved.fetch_add(moved, Ordering::Relaxed);
        match done {
            Ok(()) => Ok(()),
            Err(_) if inner.fault().is_some() => Err(()),
            // A page is lost: those that it does not tell of are moved.
            Err(_) if some.len() > 1 => {
                for index in some {
                    Box::pin(self.publish(inner, port, plan, tail, index..index + 1)).await?;
                }
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// What was moved is found as a duplicate at its new place.
    fn index(&self, inner: &Inner, plan: &BatchPlan, tail: Tail) {
        let printed = |(i, r): (usize, &Record)| Printed {
            print: r.print,
            id: r.id,
            offset: plan.offset(i, tail.offset),
        };
        let records = self.load.records.iter().enumerate().filter(|(_, r)| r.print != [0; 16]);
        let prints: Vec<Printed> = records.map(printed).collect();
        if !prints.is_empty() {
            let at = SummaryAt { segment: tail.segment, sequence: tail.sequence, offset: tail.offset };
            inner.lock().index.learn(at, &prints);
        }
    }
}

/// What came of asking for room.
enum Placing {
    /// There, and with that epoch of the pool's own domain.
    At(Tail, u16),
    NoRoom,
    /// A domain seals under another epoch since.
    Switched,
}

/// The number of every batch that the cleaner writes.
const MOVED_BATCH: u64 = 0;
