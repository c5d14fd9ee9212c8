//! The tail of the log: the open batch, the batches that are being written, and what is durable.
//!
//! Owns everything between the publication of a change and its durability. It decides when a batch is closed and where
//! it goes; it never touches a device: [`crate::append`] writes what is closed here. All of it stands under the pool's
//! one lock.
//!
//! Sequence numbers of batches grow by one. `written` and `durable` are prefixes: every batch up to and including them
//! is on the devices, or survives a power failure. A batch is acknowledged as durable only as part of such a prefix,
//! for recovery stops at the first that is missing.

use crate::bounds::{BATCH_TARGET, BATCHES_IN_FLIGHT, SPARE_PARTS};
use crate::packed::Packed;
use caisson_block::{BufMut, fetch};
use caisson_index::{Entry as Printed, Index, SummaryAt};
use caisson_log::{At, BatchKind, BatchPlan, Record, Stamp};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{BlockId, Change, IntMap, Place, Tables, Use};
use caisson_task::Waiter;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use zeroize::Zeroize;

/// A record's payload.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// In which of the parts, or in the arena.
    part: u32,
    from: u32,
    len: u32,
}

/// The number of the arena as a part.
const ARENA: u32 = u32::MAX;

/// What a batch carries before it is sealed.
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) records: Vec<Record>,
    spans: Vec<Span>,
    arena: Vec<u8>,
    /// Memory that came with what is in it.
    parts: Vec<Packed>,
    /// Bytes of payloads in those.
    parts_bytes: usize,
    pub(crate) changes: Vec<u8>,
}

impl Load {
    /// The payload of record `i`.
    pub(crate) fn payload(&self, i: usize) -> &[u8] {
        let Span { part, from, len } = self.spans[i];
        match self.parts.get(part as usize) {
            Some(part) => part.get(from as usize, len as usize),
            None => &self.arena[from as usize..(from + len) as usize],
        }
    }

    /// The payload of record `i`, to change it.
    pub(crate) fn payload_mut(&mut self, i: usize) -> &mut [u8] {
        let Span { part, from, len } = self.spans[i];
        match self.parts.get_mut(part as usize) {
            Some(part) => part.get_mut(from as usize, len as usize),
            None => &mut self.arena[from as usize..(from + len) as usize],
        }
    }

    pub(crate) fn push(&mut self, record: Record, payload: &[u8]) {
        self.spans.push(Span { part: ARENA, from: self.arena.len() as u32, len: payload.len() as u32 });
        self.arena.extend_from_slice(payload);
        self.records.push(record);
    }

    /// As [`Load::push`], of what came with the last part.
    fn push_moved(&mut self, record: Record, from: usize, len: usize) {
        self.spans.push(Span { part: self.parts.len() as u32 - 1, from: from as u32, len: len as u32 });
        self.parts_bytes += len;
        self.records.push(record);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.changes.is_empty()
    }

    /// Keeps the records that `keep` says, by their number.
    pub(crate) fn retain(&mut self, keep: &[bool]) {
        let (mut i, mut j) = (keep.iter(), keep.iter());
        self.records.retain(|_| i.next() == Some(&true));
        self.spans.retain(|_| j.next() == Some(&true));
    }

    /// Overwrites what was carried, down to the memory that is kept for the next one.
    pub(crate) fn erase(&mut self) {
        self.clear();
        let all = self.arena.capacity();
        self.arena.resize(all, 0);
        self.arena.zeroize();
        self.arena.clear();
    }

    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.spans.clear();
        self.arena.clear();
        self.parts.clear();
        self.parts_bytes = 0;
        self.changes.clear();
    }

    /// About how many bytes it takes on the device.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.len() + self.parts_bytes + self.records.len() * RECORD_COST + self.changes.len()
    }
}

/// Bytes that a record costs beside its payload: its descriptor and its tag.
const RECORD_COST: usize = 64;

/// Bytes that a batch costs beside its records and changes, with what rounds it up.
const BATCH_COST: usize = caisson_log::BATCH_ALIGN + 128;

/// A batch that has its place and is to be written.
pub(crate) struct Closed {
    pub(crate) load: Arc<Load>,
    pub(crate) plan: BatchPlan,
    pub(crate) stamp: Stamp,
    /// Where it is sealed into.
    pub(crate) out: BufMut,
}

/// A batch that is being written.
struct Flying {
    sequence: u64,
    segment: u32,
    load: Arc<Load>,
    written: bool,
}

/// Where the log stands in the segment it fills.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) segment: u32,
    pub(crate) sequence: u64,
    pub(crate) offset: u32,
}

/// The tail of the log.
pub(crate) struct Log {
    open: Load,
    flying: VecDeque<Flying>,
    /// Batches that were written, for their memory.
    spare: Vec<Load>,
    /// Parts of such batches, the last one used on top.
    parts: Vec<Packed>,
    /// Stored things whose place on the device cannot be read yet: batch and record.
    pending: IntMap<BlockId, (u64, u32)>,
    /// The number that the open batch will have.
    pub(crate) next: u64,
    pub(crate) written: u64,
    pub(crate) durable: u64,
    pub(crate) syncing: bool,
    /// The last batch that says how far the log was durable and carries nothing else.
    pub(crate) witnessed: u64,
    /// Somebody looks whether the log rests.
    pub(crate) watched: bool,
    pub(crate) tail: Option<Tail>,
    /// Segments to be filled next, in order, as the newest durable root lists them.
    pub(crate) reserved: VecDeque<u32>,
    /// The batch that somebody was last told of that it is due.
    told: u64,
    /// The open batch is to be closed, since what comes next would not fit into its segment with it.
    fills: bool,
    pub(crate) next_segment_sequence: u64,
    pub(crate) opening: u32,
    /// The epoch of the pool's own domain that seals headers.
    pub(crate) epoch: u16,
    pub(crate) segment_size: u32,
    /// Bytes written since the last checkpoint's freeze.
    pub(crate) since_checkpoint: u64,
    /// Who waits until a batch is durable.
    waiters: Vec<(u64, Waiter)>,
    /// Buffers that batches are sealed into.
    out: caisson_block::Pool,
    /// Total bytes of batches closed, padding included, for the status.
    pub(crate) bytes: u64,
}

/// The state that a log goes on from.
pub(crate) struct From {
    pub(crate) next_segment_sequence: u64,
    pub(crate) opening: u32,
    pub(crate) epoch: u16,
    pub(crate) segment_size: u32,
}

impl Log {
    pub(crate) fn new(from: From, out: caisson_block::Pool) -> Log {
        Log {
            open: Load::default(),
            flying: VecDeque::new(),
            spare: Vec::new(),
            parts: Vec::new(),
            pending: IntMap::default(),
            next: 1,
            written: 0,
            durable: 0,
            syncing: false,
            witnessed: 0,
            watched: false,
            tail: None,
            reserved: VecDeque::new(),
            told: 0,
            fills: false,
            next_segment_sequence: from.next_segment_sequence,
            opening: from.opening,
            epoch: from.epoch,
            segment_size: from.segment_size,
            since_checkpoint: 0,
            waiters: Vec::new(),
            out,
            bytes: 0,
        }
    }

    /// Adds a stored thing to the open batch.
    pub(crate) fn push(&mut self, id: BlockId, record: Record, payload: &[u8]) {
        self.pending.insert(id, (self.next, self.open.records.len() as u32));
        self.open.push(record, payload);
    }

    /// Takes what is in `packed` into the open batch, for [`Log::push_moved`], and gives other memory for it.
    pub(crate) fn take(&mut self, packed: &mut Packed) {
        let other = self.parts.pop().unwrap_or_default();
        self.open.parts.push(std::mem::replace(packed, other));
    }

    /// As [`Log::push`], of the `len` bytes from `from` on of what was last taken.
    pub(crate) fn push_moved(&mut self, id: BlockId, record: Record, (from, len): (usize, usize)) {
        self.pending.insert(id, (self.next, self.open.records.len() as u32));
        self.open.push_moved(record, from, len);
    }

    /// Goes on behind batch `last`, in a new opening.
    pub(crate) fn begin(&mut self, opening: u32, last: u64) {
        assert!(self.open.is_empty() && self.flying.is_empty() && self.tail.is_none(), "a log begins once");
        self.opening = opening;
        (self.next, self.written, self.durable) = (last + 1, last, last);
    }

    /// Adds changes to the open batch.
    pub(crate) fn journal(&mut self, changes: &[Change]) {
        let lost = usize::from(changes.len() > 1 && on(Bug::LostChange));
        let changes = &changes[..changes.len() - lost];
        changes.iter().for_each(|change| change.encode(&mut self.open.changes));
    }

    /// The payload of what cannot be read from the device yet: codec and bytes.
    pub(crate) fn pending(&self, id: BlockId) -> Option<(&Record, &[u8])> {
        let &(batch, at) = self.pending.get(&id)?;
        let load = if batch == self.next {
            &self.open
        } else {
            &self.flying.iter().find(|f| f.sequence == batch)?.load
        };
        Some((&load.records[at as usize], load.payload(at as usize)))
    }

    /// Whether a publication of about `more` bytes may be added to the open batch: it is not so large that it has to be written
    /// first, and would not outgrow what is left of the segment, which it still fits into now.
    pub(crate) fn has_room(&mut self, batch_target: usize, more: usize) -> bool {
        let open = self.open.bytes();
        let left = self.tail.map_or(0, |t| self.segment_size - t.offset) as usize;
        self.fills = open > 0 && open + BATCH_COST <= left && open + more + BATCH_COST > left;
        open < batch_target && !self.fills
    }

    /// The number of the open batch.
    pub(crate) fn open(&self) -> u64 {
        self.next
    }

    pub(crate) fn open_is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The batch that everything published so far is durable with.
    pub(crate) fn last(&self) -> u64 {
        if self.open.is_empty() { self.next - 1 } else { self.next }
    }

    /// Whether a batch should be closed now: at once when none is under way (nobody waits longer than a write takes),
    /// otherwise when there is enough for one, or when it fills its segment.
    pub(crate) fn due(&self, batch_target: usize) -> bool {
        !self.open.is_empty()
            && (self.flying.is_empty()
                || self.flying.len() < BATCHES_IN_FLIGHT
                    && (self.fills || self.open.bytes() >= batch_target.min(BATCH_TARGET)))
    }

    /// Whether whoever has published is to have the log looked at: the open batch is due, and nobody was told so yet. Once is enough:
    /// what keeps it from being closed then (a batch under way, a segment to come) has the log looked at when it ends, as does
    /// everybody who waits for it.
    pub(crate) fn tell(&mut self, batch_target: usize) -> bool {
        self.due(batch_target) && std::mem::replace(&mut self.told, self.next) != self.next
    }

    /// Bytes of the open batch, which have no place yet.
    pub(crate) fn unplaced(&self) -> u64 {
        self.open.bytes() as u64
    }

    /// Bytes that the log can still write before the next checkpoint.
    pub(crate) fn space(&self) -> u64 {
        let tail = self.tail.map_or(0, |t| u64::from(self.segment_size - t.offset));
        tail + self.reserved.len() as u64 * u64::from(self.segment_size)
    }

    /// Closes the open batch: it gets its place, and the tables learn where its records are. `None` when it is empty,
    /// when no buffer is free to seal it into, or when there is no segment left for it.
    pub(crate) fn close(&mut self, tables: &mut Tables, index: &mut Index) -> Option<Closed> {
        if self.open.is_empty() { None } else { self.seal_open(tables, index) }
    }

    /// Closes a batch that carries nothing, for a log where everything is durable.
    pub(crate) fn close_witness(&mut self, tables: &mut Tables, index: &mut Index) -> Option<Closed> {
        let closed = self.seal_open(tables, index)?;
        self.witnessed = closed.stamp.batch;
        Some(closed)
    }

    /// Whether nothing is open or being written, and everything that was is durable.
    pub(crate) fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.flying.is_empty() && self.durable + 1 == self.next
    }

    fn seal_open(&mut self, tables: &mut Tables, index: &mut Index) -> Option<Closed> {
        let mut out = self.out.alloc()?;
        let plan = BatchPlan::new(&self.open.records, &self.journal_bytes());
        let plan = plan.expect("what is published is checked to fit a batch");
        assert!(plan.total_len() <= out.len(), "a batch is closed before it outgrows its buffer");
        let tail = self.place(plan.total_len() as u32, tables)?;
        out.truncate(plan.total_len());
        let fresh = self.spare.pop().unwrap_or_default();
        let load = Arc::new(std::mem::replace(&mut self.open, fresh));
        let batch = self.next;
        self.next += 1;
        self.fills = false;
        self.since_checkpoint += plan.total_len() as u64;
        self.bytes += plan.total_len() as u64;
        let place = Place { segment: tail.segment, offset: tail.offset };
        settle(&load.records, |i| plan.offset(i, tail.offset), tail.segment, tables);
        let at = SummaryAt { segment: place.segment, sequence: tail.sequence, offset: place.offset };
        let prints = printed(&load, &plan, place);
        if !prints.is_empty() {
            let of = || prints.iter().map(|p| &p.print);
            index.warm(of(), fetch);
            index.warm_next(of(), fetch);
            index.warm_last(of(), fetch);
            index.insert(at, &prints);
        }
        self.flying.push_back(Flying {
            sequence: batch,
            segment: tail.segment,
            load: Arc::clone(&load),
            written: false,
        });
        let at = At { opening: self.opening, sequence: tail.sequence, offset: tail.offset };
        let stamp = Stamp { kind: BatchKind::Log, batch, epoch: self.epoch, segment: tail.segment, at };
        Some(Closed { load, plan, stamp, out })
    }

    /// What the batch carries beside its records: how far the log was durable, and the changes.
    fn journal_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.open.changes.len());
        bytes.extend_from_slice(&self.durable.to_le_bytes());
        bytes.extend_from_slice(&self.open.changes);
        bytes
    }

    /// Takes `len` bytes at the tail, in the next reserved segment when this one is too short.
    fn place(&mut self, len: u32, tables: &mut Tables) -> Option<Tail> {
        let fits = self.tail.is_some_and(|t| self.segment_size - t.offset >= len);
        if !fits {
            let segment = self.reserved.pop_front()?;
            if let Some(old) = self.tail {
                tables.close_segment(old.segment, Use::Log);
            }
            let sequence = self.next_segment_sequence;
            self.next_segment_sequence += 1;
            tables.open_segment(segment, sequence, self.opening, Use::Log);
            self.tail = Some(Tail { segment, sequence, offset: 0 });
        }
        let tail = self.tail.as_mut()?;
        let placed = *tail;
        tail.offset += len;
        Some(placed)
    }

    /// The batch `sequence` is on the device.
    pub(crate) fn wrote(&mut self, sequence: u64) {
        if let Some(flying) = self.flying.iter_mut().find(|f| f.sequence == sequence) {
            flying.written = true;
        }
        while self.flying.front().is_some_and(|f| f.written) {
            let Some(flying) = self.flying.pop_front() else { break };
            self.written = flying.sequence;
            for record in &flying.load.records {
                let Some(id) = BlockId::new(record.id) else { continue };
                if let Entry::Occupied(pending) = self.pending.entry(id)
                    && pending.get().0 == flying.sequence
                {
                    pending.remove();
                }
            }
            if let Ok(mut load) = Arc::try_unwrap(flying.load)
                && self.spare.len() < BATCHES_IN_FLIGHT
            {
                for mut part in load.parts.drain(..) {
                    part.clear();
                    if self.parts.len() < SPARE_PARTS {
                        self.parts.push(part);
                    }
                }
                load.clear();
                self.spare.push(load);
            }
        }
    }

    /// Writes no more to the segment that it fills, if its use began before `sequence` and there is another to go on in.
    pub(crate) fn leave_before(&mut self, sequence: u64, tables: &mut Tables) {
        if let Some(old) = self.tail.filter(|t| t.sequence < sequence)
            && self.reserved.len() > 1
        {
            tables.close_segment(old.segment, Use::Log);
            self.tail = None;
        }
    }

    /// Overwrites the payloads that are left in memory that waits to be used again.
    pub(crate) fn erase_spare(&mut self) {
        self.spare.iter_mut().for_each(Load::erase);
        self.parts.iter_mut().for_each(Packed::erase);
    }

    /// Whether a batch is being written to a segment, or may be.
    pub(crate) fn writes_to(&self, segment: u32) -> bool {
        self.flying.iter().any(|f| f.segment == segment)
    }

    /// Adds somebody who waits until batch `sequence` is durable.
    pub(crate) fn wait(&mut self, sequence: u64, waiter: Waiter) {
        self.waiters.push((sequence, waiter));
    }

    /// Whether somebody waits for what is written and not durable.
    pub(crate) fn sync_due(&self) -> bool {
        !self.syncing
            && self.durable < self.written
            && self.waiters.iter().any(|&(sequence, _)| sequence <= self.written)
    }

    /// Everything up to `sequence` is durable: who may go on.
    pub(crate) fn synced(&mut self, sequence: u64) -> Vec<Waiter> {
        self.durable = self.durable.max(sequence);
        let durable = self.durable;
        self.waiters.extract_if(.., |w| w.0 <= durable).map(|w| w.1).collect()
    }

    /// The pool has failed: everybody goes on, and finds that out.
    pub(crate) fn release(&mut self) -> Vec<Waiter> {
        self.waiters.drain(..).map(|w| w.1).collect()
    }
}

/// Tells the tables where the records of a batch are.
fn settle(records: &[Record], offset: impl Fn(usize) -> u32, segment: u32, tables: &mut Tables) {
    for (i, record) in records.iter().enumerate() {
        let to = Place { segment, offset: offset(i) };
        if let Some(id) = BlockId::new(record.id) {
            tables.locate(id, to);
        }
    }
}

/// The summary of a batch: the prints of its blocks.
fn printed(load: &Load, plan: &BatchPlan, place: Place) -> Vec<Printed> {
    let prints = load.records.iter().enumerate().filter(|(_, r)| r.print != [0; 16]);
    let mut all = Vec::with_capacity(load.records.len());
    all.extend(prints.map(|(i, r)| Printed {
        print: r.print,
        id: r.id,
        offset: plan.offset(i, place.offset),
    }));
    all
}
