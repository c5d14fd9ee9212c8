//! The cleaner: what is live in a segment with much garbage is written anew, and the segment becomes free.
//!
//! A segment is read batch by batch. A record is live when the tables still have its id at this very place; a live block
//! is opened, authenticated, and goes into the open batch with where it came from; a live page of the tables is marked
//! changed, so that the next checkpoint writes it elsewhere. The segment is free after the checkpoint that follows.

use crate::append::kick;
use crate::devices::Cause;
use crate::log::POOL_EPOCH;
use crate::read::TENANT;
use crate::state::{Damage, Inner, State};
use crate::summary::bytes_at;
use caisson_block::BLOCK;
use caisson_log::{Header, PREFIX, Record, RecordKind, Spot, TAG, decode_header, decode_prefix};
use caisson_tables::{BlockId, PageKey, Place};
use caisson_task::Port;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How the cleaning of a segment goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is more in this segment.
    More,
    /// Nothing in it is live any more, or only what cannot be had.
    Done,
    /// The log has no room: a checkpoint is needed first.
    NoRoom,
    Failed,
}

/// A segment that is being cleaned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cleaning {
    pub(crate) segment: u32,
    sequence: u64,
    offset: u32,
}

impl Cleaning {
    pub(crate) fn new(inner: &Inner, segment: u32) -> Cleaning {
        let sequence = inner.lock().tables.segment(segment).sequence;
        Cleaning { segment, sequence, offset: 0 }
    }

    /// Cleans one batch.
    pub(crate) async fn step(&mut self, inner: &Arc<Inner>, port: &Port) -> Step {
        let left = inner.segment_size - self.offset;
        if (left as usize) < BLOCK {
            return Step::Done;
        }
        let place = Place { segment: self.segment, offset: self.offset };
        let Some(front) = bytes_at(inner, port, place, BLOCK).await else { return self.unreadable(inner) };
        let prefix = match decode_prefix(&front[..PREFIX]) {
            Ok(prefix) if prefix.at.sequence == self.sequence && prefix.total <= left => prefix,
            // The end of what was written, or damage: what is live behind it is found by nobody from here.
            _ => return self.unreadable(inner),
        };
        let Some(bytes) = bytes_at(inner, port, place, prefix.total as usize).await else {
            return self.unreadable(inner);
        };
        let spot = Spot { segment: self.segment, offset: self.offset };
        let Ok(header) = decode_header(&inner.keyring, spot, &bytes) else { return self.unreadable(inner) };
        let step = match clean(inner, port, &header, &bytes).await {
            Ok(step) => step,
            Err(()) => Step::Failed,
        };
        if step == Step::More {
            self.offset = header.prefix.end();
        }
        step
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

async fn clean(inner: &Arc<Inner>, port: &Port, header: &Header, bytes: &[u8]) -> Result<Step, ()> {
    for (index, placed) in header.records.iter().enumerate() {
        let record = &placed.record;
        let place = Place { segment: header.prefix.segment, offset: header.offset(index) };
        let step = match record.kind {
            RecordKind::Block => move_block(inner, port, header, bytes, index, place).await?,
            RecordKind::MapPage => match BlockId::new(record.id) {
                Some(id) => page(inner, port, PageKey::Map(id), place).await?,
                None => Step::More,
            },
            RecordKind::BlocksPage => {
                let key =
                    PageKey::Blocks { level: (record.id >> 40) as u8, index: record.id & ((1 << 40) - 1) };
                page(inner, port, key, place).await?
            }
            RecordKind::Blob => Step::More,
        };
        if step != Step::More {
            return Ok(step);
        }
        if index % 16 == 15 {
            port.pause().await;
        }
    }
    Ok(Step::More)
}

/// Has a page of the tables written elsewhere by the next checkpoint.
async fn page(inner: &Arc<Inner>, port: &Port, key: PageKey, place: Place) -> Result<Step, ()> {
    if inner.lock().tables.dirty().wait() {
        return Ok(Step::NoRoom);
    }
    let done = inner.with(port, |state| state.tables.clean_page(key, place)).await;
    match done {
        Ok(_) => Ok(Step::More),
        // It was remembered as damaged; it stays where it is.
        Err(_) if inner.fault().is_none() => Ok(Step::More),
        Err(_) => Err(()),
    }
}

/// Moves a block, if it is live.
async fn move_block(
    inner: &Arc<Inner>,
    port: &Port,
    header: &Header,
    bytes: &[u8],
    index: usize,
    place: Place,
) -> Result<Step, ()> {
    let record = header.records[index].record;
    let Some(id) = BlockId::new(record.id) else { return Ok(Step::More) };
    let live = inner.with(port, |state| state.tables.hold(id, place)).await;
    match live {
        Ok(true) => {}
        Ok(false) => return Ok(Step::More),
        Err(_) if inner.fault().is_none() => return Ok(Step::More),
        Err(_) => return Err(()),
    }
    let mut plain = vec![0; record.length.into()];
    if header.open_record(&inner.keyring, index, bytes, &mut plain).is_err() {
        // It may have been dropped and its place written over since; if it is still there, it is damaged.
        inner.damaged(Damage {
            block: None,
            at: (place.segment, place.offset),
            what: "a block that the cleaner met".into(),
            cause: Cause::Content,
        });
        return Ok(Step::More);
    }
    loop {
        let ticket = port.ticket();
        let outcome = inner.with(port, |state| {
            if inner.fault().is_some() {
                return Ok(Moved::Failed);
            }
            if state.log.space() <= state.space.cleaner_reserve {
                return Ok(Moved::NoRoom);
            }
            if !state.log.has_room(inner.batch_target) {
                state.room.push(port.waiter(ticket));
                return Ok(Moved::Wait);
            }
            if !state.tables.hold(id, place)? {
                return Ok(Moved::Gone);
            }
            push(state, id, place, &record, &plain);
            Ok(Moved::Pushed)
        });
        match outcome.await {
            Ok(Moved::Pushed) => {
                let c = &inner.counters;
                c.moved.fetch_add(1, Ordering::Relaxed);
                c.moved_bytes.fetch_add(u64::from(record.length) + TAG as u64, Ordering::Relaxed);
                kick(inner, port.remote());
                return Ok(Step::More);
            }
            Ok(Moved::Gone) => return Ok(Step::More),
            Ok(Moved::NoRoom) => return Ok(Step::NoRoom),
            Ok(Moved::Failed) => return Err(()),
            Ok(Moved::Wait) => {
                kick(inner, port.remote());
                port.parked(ticket).await;
            }
            Err(_) if inner.fault().is_none() => return Ok(Step::More),
            Err(_) => return Err(()),
        }
    }
}

enum Moved {
    Pushed,
    Gone,
    NoRoom,
    Wait,
    Failed,
}

fn push(state: &mut State, id: BlockId, place: Place, record: &Record, plain: &[u8]) {
    debug_assert!(record.domain == TENANT && record.epoch <= POOL_EPOCH);
    let from = Some(Spot { segment: place.segment, offset: place.offset });
    state.log.push(id, Record { from, ..*record }, plain);
}
