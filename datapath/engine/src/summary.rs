//! What deduplication reads from the device: the headers of batches, and blocks to be compared.

use crate::bounds::READ_AHEAD;
use crate::read::bind_block;
use crate::state::{Damage, Inner};
use crate::work::{Block, unpack};
use crate::write::Known;
use caisson_block::{BLOCK, BlockError, BufList, IoKind};
use caisson_codec::Marks;
use caisson_index::{Entry as Printed, SummaryAt};
use caisson_log::{At, PREFIX, Spot, TAG, decode_header, decode_prefix};
use caisson_tables::{BlockId, Place};
use caisson_task::{Port, Task};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes that are read at once: most headers are shorter, and where batches are short this holds several of them.
const WINDOW: usize = 32 << 10;

/// Reads the summary at `at`, and those of batches that come with it, into the index; or tells the index that there is
/// none any more.
pub(crate) async fn fetch(inner: &Arc<Inner>, port: &Port, at: SummaryAt) {
    let summaries = read(inner, port, at).await;
    let mut state = inner.lock();
    if summaries.is_empty() {
        state.index.failed(at);
    }
    for Summary { at, entries, next } in summaries {
        state.index.loaded(at, &entries, next);
    }
}

/// Reads a summary that the index expects to need, beside whatever goes on, if not enough are being read already.
pub(crate) async fn read_ahead(inner: &Arc<Inner>, port: &Port) {
    if inner.counters.reading_ahead.load(Ordering::Relaxed) >= READ_AHEAD {
        return;
    }
    let Some(at) = inner.lock().index.prefetch() else { return };
    inner.counters.reading_ahead.fetch_add(1, Ordering::Relaxed);
    let inner = Arc::clone(inner);
    let read = move |port: Port| async move {
        fetch(&inner, &port, at).await;
        inner.counters.reading_ahead.fetch_sub(1, Ordering::Relaxed);
    };
    port.run(|cx| Task::spawn(cx, read)).await;
}

/// What the header of a batch says of its blocks.
struct Summary {
    at: SummaryAt,
    entries: Vec<Printed>,
    /// Where the next batch of the same segment begins.
    next: Option<SummaryAt>,
}

/// The summary at `at`, and those behind it that one read brings; empty when the first is not there.
async fn read(inner: &Arc<Inner>, port: &Port, at: SummaryAt) -> Vec<Summary> {
    let mut found = Vec::new();
    {
        let state = inner.lock();
        let known = at.segment < state.tables.geometry().segments;
        if !known || state.tables.segment(at.segment).sequence != at.sequence {
            return found;
        }
    }
    let place = Place { segment: at.segment, offset: at.offset };
    let left = inner.segment_size.saturating_sub(at.offset) as usize;
    let Some(mut bytes) = bytes_at(inner, port, place, WINDOW.min(left)).await else { return found };
    let first = bytes.get(..PREFIX).and_then(|prefix| decode_prefix(prefix).ok());
    let Some(first) = first else { return found };
    if first.header as usize > bytes.len() {
        let whole = bytes_at(inner, port, place, (first.header as usize).min(left)).await;
        let Some(whole) = whole else { return found };
        bytes = whole;
    }
    let mut next = Some(at);
    while let Some(at) = next.take() {
        let from = (at.offset - place.offset) as usize;
        let Some(summary) = bytes.get(from..).and_then(|bytes| decode(inner, at, bytes)) else { break };
        next = summary.next;
        found.push(summary);
    }
    found
}

/// The summary of the batch at `at`, which `bytes` begin with, if that is all of its header.
fn decode(inner: &Inner, at: SummaryAt, bytes: &[u8]) -> Option<Summary> {
    let spot = Spot { segment: at.segment, offset: at.offset };
    let header = decode_header(&inner.keyring, spot, bytes).ok()?;
    if header.prefix.at.sequence != at.sequence {
        return None;
    }
    let records = header.records.iter().filter(|r| r.record.print != [0; 16]);
    let entries =
        records.map(|r| Printed { print: r.record.print, id: r.record.id, offset: at.offset + r.offset });
    let next = SummaryAt { offset: header.prefix.end(), ..at };
    let next = (next.offset < inner.segment_size).then_some(next);
    Some(Summary { at, entries: entries.collect(), next })
}

/// `len` bytes from `place` on.
pub(crate) async fn bytes_at(inner: &Arc<Inner>, port: &Port, place: Place, len: usize) -> Option<Vec<u8>> {
    let devices = inner.devices();
    let window = devices.window(place, len)?;
    let rounded = window.len.next_multiple_of(BLOCK);
    let [mut bufs, ..] = port.buffers(&inner.page_buffers, [rounded, 0, 0]).await;
    let own: BufList = bufs.split_to(window.len);
    let list = match port.io(devices.io(window, IoKind::Read, own)?).await {
        Ok(list) => list,
        Err(error) => {
            let cause = inner.unread(&devices, window, error);
            tracing::error!("segment {}, byte {}: {len} bytes {cause}", place.segment, place.offset);
            let (at, what) = ((place.segment, place.offset), "a part of a segment".into());
            inner.damaged(Damage { block: None, at, what, cause });
            return None;
        }
    };
    let mut bytes = vec![0; len];
    list.copy_out(window.skip, &mut bytes);
    Some(bytes)
}

/// The block that the index named; `None` when it is not there any more, or cannot be read.
///
/// # Errors
/// [`BlockError::Failed`].
pub(crate) async fn read_known(
    inner: &Arc<Inner>,
    port: &Port,
    known: Known,
    domain: u32,
) -> Result<Option<Box<Block>>, BlockError> {
    let number = match known {
        Known::Pending(id, _) => id,
        Known::At(candidate) => candidate.id,
    };
    let Some(id) = BlockId::new(number) else { return Ok(None) };
    let mut block = Box::new([0; BLOCK]);
    let mut from_memory = false;
    let looked = inner.with(port, |state| {
        if let Some((record, payload)) = state.log.pending(id) {
            from_memory = unpack(record.codec, payload, &mut block).is_some_and(Marks::is_none);
            return Ok(None);
        }
        let Known::At(at) = known else { return Ok(None) };
        let place = Place { segment: at.segment, offset: at.offset };
        let entry = state.tables.candidate(id, place, at.sequence)?;
        let opening = state.tables.segment(at.segment).opening;
        Ok(entry.map(|entry| (entry, At { opening, sequence: at.sequence, offset: at.offset })))
    });
    let found = looked.await;
    if inner.fault().is_some() {
        return Err(BlockError::Failed);
    }
    if from_memory {
        return Ok(Some(block));
    }
    let Ok(Some((entry, nonce))) = found else { return Ok(None) };
    let len = usize::from(entry.stored.length) + TAG;
    let Some(mut sealed) = bytes_at(inner, port, entry.place, len).await else { return Ok(None) };
    let opened = inner.keyring.open(nonce, &bind_block(domain, id, &entry), &mut sealed);
    // What has marked sectors is no duplicate of anything.
    let marks = opened.ok().and_then(|plain| unpack(entry.stored.codec, plain, &mut block));
    Ok(marks.is_some_and(Marks::is_none).then_some(block))
}
