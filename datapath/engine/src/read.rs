//! Reading blocks: map, block id, place, device, open, unpack.

use crate::bounds::{MOVED_RETRIES, READ_TURN_BLOCKS, READ_WORK, SLICE_WORK};
use crate::devices::{Cause, Window};
use crate::domains::Tenant;
use crate::state::{Damage, Inner, State};
use crate::work::{self, Block, unpack};
use caisson_block::{BLOCK, BlockError, BufList, BufMut, IoKind};
use caisson_codec::Marks;
use caisson_log::{At, Bind, RecordKind, TAG};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{BlockId, Entry, Found, VolumeId};
use caisson_task::{Io, Pace, Port};
use std::sync::Arc;

/// A block that has to be read from a device.
#[derive(Clone, Copy)]
struct Fetch {
    /// Which block of the request.
    index: usize,
    id: BlockId,
    entry: Entry,
    nonce: At,
    /// Which of the device reads brings it, and where in it.
    read: usize,
    skip: usize,
}

/// A device read: one run of a segment that holds one or more records.
struct Run {
    from: u32,
    to: u32,
    segment: u32,
}

/// What a run may skip over to bring two records at once, and how long it may become, in bytes.
const GAP: u32 = 8 << 10;
const LONGEST: u32 = 256 << 10;

/// Where the blocks of a request come from.
#[derive(Default)]
struct Sources {
    fetches: Vec<Fetch>,
    runs: Vec<Run>,
    /// Blocks whose payload was still in memory: which, codec, and where their bytes are in `bytes`.
    pending: Vec<(usize, u8, usize, usize)>,
    bytes: Vec<u8>,
    /// Blocks that are marked as a whole.
    marked: Marked,
}

/// Blocks of a request that have marked sectors, which read as zeroes here: which, and its marks. Nearly always none.
pub(crate) type Marked = Vec<(usize, Marks)>;

impl Sources {
    /// Finds the blocks. The lock is held: nothing may move until the reads are on their way, and what moves after
    /// that is found out by the seal.
    fn find(&mut self, state: &mut State, found: &[Found]) {
        self.clear();
        for (index, found) in found.iter().enumerate() {
            match *found {
                Found::Hole => {}
                Found::Unreadable => self.marked.push((index, Marks::ALL)),
                Found::At { id, entry } => self.stored(state, index, id, entry),
            }
        }
    }

    fn clear(&mut self) {
        self.fetches.clear();
        self.runs.clear();
        self.pending.clear();
        self.bytes.clear();
        self.marked.clear();
    }

    fn stored(&mut self, state: &mut State, index: usize, id: BlockId, entry: Entry) {
        if let Some((record, payload)) = state.log.pending(id) {
            self.pending.push((index, record.codec, self.bytes.len(), payload.len()));
            self.bytes.extend_from_slice(payload);
            return;
        }
        let segment = state.tables.segment(entry.place.segment);
        let (sequence, opening) = (segment.sequence, segment.opening);
        let (from, to) =
            (entry.place.offset, entry.place.offset + u32::from(entry.stored.length) + TAG as u32);
        let last = self.runs.last_mut().filter(|run| {
            run.segment == entry.place.segment
                && from >= run.from
                && from <= run.to.saturating_add(GAP)
                && to.max(run.to) - run.from <= LONGEST
        });
        match last {
            Some(run) => run.to = run.to.max(to),
            None => self.runs.push(Run { from, to, segment: entry.place.segment }),
        }
        let read = self.runs.len() - 1;
        let skip = (from - self.runs[read].from) as usize;
        let nonce = At { opening, sequence, offset: from };
        self.fetches.push(Fetch { index, id, entry, nonce, read, skip });
    }
}

/// The outcome of one attempt.
enum Attempt {
    Done(BufList, Marked),
    /// Blocks that were not to be had at the places where they were looked for.
    Suspect(Vec<Suspect>),
}

/// A block of a request that was not to be had where it was looked for.
struct Suspect {
    index: usize,
    id: BlockId,
    entry: Entry,
    cause: Cause,
}

impl Suspect {
    /// The same block at the same place, whatever the reason.
    fn is_again(&self, before: &[Suspect]) -> bool {
        before.iter().any(|b| (b.index, b.id, &b.entry) == (self.index, self.id, &self.entry))
    }
}

/// Reads `count` blocks from `first` on, which the caller has claimed; with those of them that have marked sectors, in their order,
/// for the caller to judge: what nobody may read may still be written beside.
///
/// # Errors
/// [`BlockError::Unreadable`] with the first 4 KiB block that is lost, as its number in `lba`: the caller turns it into
/// an LBA. [`BlockError::Failed`].
pub(crate) async fn read(
    inner: &Arc<Inner>,
    port: &Port,
    (volume, tenant): (VolumeId, &Tenant),
    first: u64,
    count: usize,
) -> Result<(BufList, Marked), BlockError> {
    let mut sources = Sources::default();
    let mut found = Vec::with_capacity(count);
    let mut before: Vec<Suspect> = Vec::new();
    for _ in 0..MOVED_RETRIES {
        if inner.fault().is_some() {
            return Err(BlockError::Failed);
        }
        let looked = inner.with(port, |state| {
            found.clear();
            state.tables.find(volume, first, count as u64, &mut found)?;
            sources.find(state, &found);
            Ok(())
        });
        looked.await.map_err(|lost| inner.lost(lost, first))?;
        match attempt(inner, port, tenant.domain, &sources, count).await? {
            Attempt::Done(list, marked) => return Ok((list, marked)),
            Attempt::Suspect(_) if tenant.is_gone() => return Err(BlockError::KeyDestroyed),
            Attempt::Suspect(now) => {
                // The same block at the same place twice: it was not moved, it is damaged.
                let hurt = now.iter().find(|s| s.is_again(&before));
                if let Some(suspect) = hurt {
                    return Err(hurt_block(inner, volume, first + suspect.index as u64, suspect));
                }
                before = now;
            }
        }
    }
    Err(BlockError::Interrupted)
}

fn hurt_block(inner: &Inner, volume: VolumeId, block: u64, suspect: &Suspect) -> BlockError {
    if inner.fault().is_some() {
        return BlockError::Failed;
    }
    let Suspect { entry, cause, .. } = suspect;
    tracing::error!(
        "volume {}: block {block}, at segment {}, byte {}, {cause}",
        volume.0,
        entry.place.segment,
        entry.place.offset
    );
    inner.damaged(Damage {
        block: Some((volume, block)),
        at: (entry.place.segment, entry.place.offset),
        what: "a block".into(),
        cause: cause.clone(),
    });
    BlockError::Unreadable { lba: block }
}

async fn attempt(
    inner: &Arc<Inner>,
    port: &Port,
    domain: u32,
    sources: &Sources,
    count: usize,
) -> Result<Attempt, BlockError> {
    let devices = inner.devices();
    let windows: Option<Vec<Window>> = sources
        .runs
        .iter()
        .map(|run| {
            let place = caisson_tables::Place { segment: run.segment, offset: run.from };
            devices.window(place, (run.to - run.from) as usize)
        })
        .collect();
    let Some(windows) = windows else { return Err(BlockError::Interrupted) };
    let total = windows.iter().map(|w| w.len.next_multiple_of(BLOCK)).sum();
    let [mut bufs, out, _] = port.buffers(&inner.buffers, [total, count * BLOCK, 0]).await;
    let mut reads = Vec::with_capacity(windows.len());
    if !windows.is_empty() {
        let ios: Option<Vec<Io>> = windows
            .iter()
            .map(|window| {
                let mut own = bufs.split_to(window.len.next_multiple_of(BLOCK));
                devices.io(*window, IoKind::Read, own.split_to(window.len))
            })
            .collect();
        reads = port.ios(ios.ok_or(BlockError::Failed)?).await;
    }
    let mut output = Output::new(out);
    let mut marked = sources.marked.clone();
    for &(index, codec, from, len) in &sources.pending {
        let unpacked = unpack(codec, &sources.bytes[from..from + len], output.block(index)?);
        debug_assert!(unpacked.is_some(), "what was packed here can be unpacked");
        marked.extend(unpacked.filter(|marks| !marks.is_none()).map(|marks| (index, marks)));
    }
    let mut suspects = Vec::new();
    let mut pace = Pace::new(port, sources.fetches.len() > READ_TURN_BLOCKS, SLICE_WORK);
    for fetch in &sources.fetches {
        pace.spend(READ_WORK).await;
        let Fetch { index, id, entry, .. } = *fetch;
        let list = match &reads[fetch.read] {
            Ok(list) => list,
            Err(error) => {
                let cause = inner.unread(&devices, windows[fetch.read], *error);
                suspects.push(Suspect { index, id, entry, cause });
                continue;
            }
        };
        let from = windows[fetch.read].skip + fetch.skip;
        let bind = bind_block(domain, id, &entry);
        match work::open(&inner.keyring, fetch.nonce, &bind, (list, from), output.block(index)?) {
            Some(marks) if marks.is_none() => {}
            Some(marks) => marked.push((index, marks)),
            None if on(Bug::UnreadableIsZero) => {}
            None => suspects.push(Suspect { index, id, entry, cause: Cause::of_stored(entry.stored.codec) }),
        }
    }
    if !suspects.is_empty() {
        return Ok(Attempt::Suspect(suspects));
    }
    marked.sort_unstable_by_key(|(index, _)| *index);
    Ok(Attempt::Done(output.finish(), marked))
}

/// What a user block of a domain is bound to.
pub(crate) fn bind_block(domain: u32, id: BlockId, entry: &Entry) -> Bind {
    Bind {
        domain,
        epoch: entry.stored.epoch,
        id: id.get(),
        kind: RecordKind::Block,
        length: entry.stored.length,
        codec: entry.stored.codec,
    }
}

/// Buffers that the reply is put together in, block by block. What is not written to is zero at the end.
struct Output {
    parts: Vec<BufMut>,
    written: Vec<bool>,
}

impl Output {
    fn new(list: BufList) -> Output {
        let blocks = list.len() / BLOCK;
        let mut list = list;
        let parts = list.drain().filter_map(|part| part.try_into_mut().ok()).collect();
        Output { parts, written: vec![false; blocks] }
    }

    /// Block `index`, to be filled.
    fn block(&mut self, index: usize) -> Result<&mut Block, BlockError> {
        let mut from = index * BLOCK;
        let written = self.written.get_mut(index).ok_or(BlockError::Interrupted)?;
        *written = true;
        for part in &mut self.parts {
            if from < part.len() {
                let bytes = part.get_mut(from..from + BLOCK).and_then(|b| <&mut Block>::try_from(b).ok());
                return bytes.ok_or(BlockError::Interrupted);
            }
            from -= part.len();
        }
        Err(BlockError::Interrupted)
    }

    fn finish(mut self) -> BufList {
        for index in 0..self.written.len() {
            if !self.written[index]
                && let Ok(block) = self.block(index)
            {
                block.fill(0);
            }
        }
        let mut list = BufList::new();
        self.parts.into_iter().for_each(|part| list.push(part.freeze()));
        list
    }
}
