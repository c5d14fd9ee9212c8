//! Filling the index of duplicates from what stands in the log.
//!
//! The index is in memory only. After a pool is opened, and when it was dropped, the headers of all batches that were
//! written before are read, segment by segment, and the index learns from them what the blocks there look like. Until that
//! is done duplicates of what was not learned yet are stored once more: a loss of room, never of data.

use crate::chores::Pace;
use crate::pool::Pool;
use crate::state::Inner;
use crate::summary::bytes_at;
use caisson_block::Mono;
use caisson_index::{Entry as Printed, SummaryAt};
use caisson_log::{Header, PREFIX, Spot, decode_header, decode_prefix};
use caisson_tables::{Place, SegmentState};
use caisson_task::Port;
use std::sync::Arc;

/// Bytes a second that are read, and bytes that are read at once at the beginning.
const RATE: u64 = 64 << 20;

/// Bytes that one read brings: most headers are shorter, and where batches are short it holds several of them.
const WINDOW: usize = 32 << 10;

/// Segments that one step passes by.
const SEGMENTS_AT_ONCE: u32 = 4096;

/// How far a rebuilding of the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RebuildStatus {
    /// Whether it is under way.
    pub running: bool,
    /// Segments that were looked at, and how many there are.
    pub segments: (u32, u32),
    /// Blocks that were learned.
    pub blocks: u64,
}

impl Pool {
    /// Empties the index of duplicates, and has it filled again in the background.
    pub fn index_drop(&self) {
        let waiter = {
            let mut state = self.0.lock();
            state.index.clear();
            state.chores.rebuild = true;
            state.chores.call()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// A rebuilding under way.
pub(crate) struct Rebuild {
    pace: Pace,
    /// What is written from now on gets into the index by itself.
    before: u64,
    segment: u32,
    /// Where the next header stands in it, and the sequence of its use.
    at: Option<(u64, u32)>,
    blocks: u64,
}

impl Rebuild {
    pub(crate) fn begin(inner: &Inner, now: Mono) -> Rebuild {
        let mut state = inner.lock();
        let segments = state.tables.geometry().segments;
        state.chores.rebuilt = Some(RebuildStatus { running: true, segments: (0, segments), blocks: 0 });
        let before = state.log.next_segment_sequence;
        Rebuild { pace: Pace::new(RATE, now, RATE), before, segment: 0, at: None, blocks: 0 }
    }

    pub(crate) fn due(&self) -> Mono {
        self.pace.due()
    }

    /// Reads some headers. True when all are read.
    pub(crate) async fn step(&mut self, inner: &Arc<Inner>, port: &Port) -> bool {
        let Some((sequence, offset)) = self.at.or_else(|| self.find(inner)) else {
            return self.tell(inner);
        };
        let next = self.read(inner, port, SummaryAt { segment: self.segment, sequence, offset }).await;
        self.at = next.filter(|&next| next < inner.segment_size).map(|next| (sequence, next));
        if self.at.is_none() {
            self.segment += 1;
        }
        self.tell(inner)
    }

    /// The next segment that may hold something, if it is among the next few.
    fn find(&mut self, inner: &Inner) -> Option<(u64, u32)> {
        let state = inner.lock();
        let end = state.tables.geometry().segments.min(self.segment.saturating_add(SEGMENTS_AT_ONCE));
        let holds = |n: &u32| {
            let s = state.tables.segment(*n);
            s.state == SegmentState::Closed && s.live > 0 && s.sequence < self.before
        };
        let found = (self.segment..end).find(holds);
        self.segment = found.unwrap_or(end);
        found.map(|n| (state.tables.segment(n).sequence, 0))
    }

    /// Says how far it is. Whether that is the end.
    fn tell(&self, inner: &Inner) -> bool {
        let mut state = inner.lock();
        let segments = state.tables.geometry().segments;
        let running = self.segment < segments;
        let status = RebuildStatus { running, segments: (self.segment, segments), blocks: self.blocks };
        state.chores.rebuilt = Some(status);
        !running
    }

    /// Learns the headers that one read brings. Gives where to go on in the segment.
    async fn read(&mut self, inner: &Arc<Inner>, port: &Port, at: SummaryAt) -> Option<u32> {
        let place = Place { segment: at.segment, offset: at.offset };
        let left = (inner.segment_size - at.offset) as usize;
        let mut bytes = bytes_at(inner, port, place, WINDOW.min(left)).await?;
        let first = decode_prefix(bytes.get(..PREFIX)?).ok()?;
        if first.header as usize > bytes.len() {
            bytes = bytes_at(inner, port, place, (first.header as usize).min(left)).await?;
        }
        self.pace.did(bytes.len() as u64);
        let mut next = None;
        let mut from = 0;
        while let Some(here) = bytes.get(from..) {
            let at = SummaryAt { offset: at.offset + from as u32, ..at };
            let spot = Spot { segment: at.segment, offset: at.offset };
            let header = decode_header(&inner.keyring, spot, here).ok();
            let Some(header) = header.filter(|h| h.prefix.at.sequence == at.sequence) else { break };
            self.blocks += learn(inner, at, &header);
            from += header.prefix.total as usize;
            next = Some(header.prefix.end());
        }
        next
    }
}

/// Has the index learn a batch, unless its segment is in another use. Gives the number of blocks.
fn learn(inner: &Inner, at: SummaryAt, header: &Header) -> u64 {
    let prints = header.records.iter().filter(|r| r.record.print != [0; 16]);
    let printed = |r: &caisson_log::Placed| Printed {
        print: r.record.print,
        id: r.record.id,
        offset: at.offset + r.offset,
    };
    let entries: Vec<Printed> = prints.map(printed).collect();
    let mut state = inner.lock();
    let current = state.tables.segment(at.segment).sequence == at.sequence;
    if current && !entries.is_empty() && state.index.learn(at, &entries) { entries.len() as u64 } else { 0 }
}
