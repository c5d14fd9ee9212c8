//! What deduplication reads from the device: the headers of batches, and blocks to be compared.

use crate::bounds::READ_AHEAD;
use crate::read::bind_block;
use crate::state::Inner;
use crate::work::{Block, unpack};
use crate::write::Known;
use caisson_block::{BLOCK, BlockError, BufList, IoKind};
use caisson_index::{Entry as Printed, SummaryAt};
use caisson_log::{At, PREFIX, Spot, TAG, decode_header, decode_prefix};
use caisson_tables::{BlockId, Place};
use caisson_task::{Port, Task};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes that are read of a batch at first; most headers are shorter.
const FIRST: usize = 8 << 10;

/// Reads the summary at `at` into the index, or tells the index that there is none any more.
pub(crate) async fn fetch(inner: &Arc<Inner>, port: &Port, at: SummaryAt) {
    let read = read(inner, port, at).await;
    let mut state = inner.lock();
    match read {
        Some((entries, next)) => state.index.loaded(at, &entries, next),
        None => state.index.failed(at),
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

/// A summary's entries, and where the next batch of the same segment begins.
type Summary = (Vec<Printed>, Option<SummaryAt>);

async fn read(inner: &Arc<Inner>, port: &Port, at: SummaryAt) -> Option<Summary> {
    {
        let state = inner.lock();
        if at.segment >= state.tables.geometry().segments {
            return None;
        }
        let segment = state.tables.segment(at.segment);
        if segment.sequence != at.sequence {
            return None;
        }
    }
    let place = Place { segment: at.segment, offset: at.offset };
    let left = (inner.segment_size - at.offset.min(inner.segment_size)) as usize;
    let mut bytes = bytes_at(inner, port, place, FIRST.min(left)).await?;
    let prefix = decode_prefix(bytes.get(..PREFIX)?).ok()?;
    let header_len = prefix.header as usize;
    if header_len > bytes.len() {
        bytes = bytes_at(inner, port, place, header_len.min(left)).await?;
    }
    let spot = Spot { segment: at.segment, offset: at.offset };
    let header = decode_header(&inner.keyring, spot, &bytes).ok()?;
    if header.prefix.at.sequence != at.sequence {
        return None;
    }
    let records = header.records.iter().filter(|r| r.record.print != [0; 16]);
    let printed =
        records.map(|r| Printed { print: r.record.print, id: r.record.id, offset: at.offset + r.offset });
    let next =
        Some(SummaryAt { offset: header.prefix.end(), ..at }).filter(|n| n.offset < inner.segment_size);
    Some((printed.collect(), next))
}

/// `len` bytes from `place` on.
pub(crate) async fn bytes_at(inner: &Arc<Inner>, port: &Port, place: Place, len: usize) -> Option<Vec<u8>> {
    let devices = inner.devices();
    let window = devices.window(place, len)?;
    let rounded = window.len.next_multiple_of(BLOCK);
    let [mut bufs, ..] = port.buffers(&inner.page_buffers, [rounded, 0, 0]).await;
    let own: BufList = bufs.split_to(window.len);
    let list = port.io(devices.io(window, IoKind::Read, own)?).await.ok()?;
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
) -> Result<Option<Box<Block>>, BlockError> {
    let number = match known {
        Known::Pending(id) => id,
        Known::At(candidate) => candidate.id,
    };
    let Some(id) = BlockId::new(number) else { return Ok(None) };
    let mut block = Box::new([0; BLOCK]);
    let mut from_memory = false;
    let looked = inner.with(port, |state| {
        if let Some((record, payload)) = state.log.pending(id) {
            from_memory = unpack(record.codec, payload, &mut block);
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
    let opened = inner.keyring.open(nonce, &bind_block(id, &entry), &mut sealed);
    Ok(opened.ok().is_some_and(|plain| unpack(entry.stored.codec, plain, &mut block)).then_some(block))
}
