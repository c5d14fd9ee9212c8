//! What deduplication reads from the device: the headers of batches, and blocks to be compared.

use crate::read::bind_block;
use crate::state::Inner;
use crate::work::{Block, unpack};
use caisson_block::{BLOCK, BlockError, BufList, IoKind};
use caisson_index::{Candidate, Entry as Printed, SummaryAt};
use caisson_log::{At, PREFIX, TAG, decode_header, decode_prefix};
use caisson_tables::{BlockId, Place};
use caisson_task::Port;
use std::sync::Arc;

/// Bytes that are read of a batch at first; most headers are shorter.
const FIRST: usize = 8 << 10;

/// Reads the summary at `at` into the index, or tells the index that there is none any more.
pub(crate) async fn fetch(inner: &Arc<Inner>, port: &Port, at: SummaryAt) {
    let entries = read(inner, port, at).await;
    let mut state = inner.lock();
    match entries {
        Some(entries) => state.index.loaded(at, &entries),
        None => state.index.failed(at),
    }
}

async fn read(inner: &Arc<Inner>, port: &Port, at: SummaryAt) -> Option<Vec<Printed>> {
    let opening = {
        let state = inner.lock();
        if at.segment >= state.tables.geometry().segments {
            return None;
        }
        let segment = state.tables.segment(at.segment);
        if segment.sequence != at.sequence {
            return None;
        }
        segment.opening
    };
    let place = Place { segment: at.segment, offset: at.offset };
    let left = (inner.segment_size - at.offset.min(inner.segment_size)) as usize;
    let mut bytes = bytes_at(inner, port, place, FIRST.min(left)).await?;
    let prefix = decode_prefix(bytes.get(..PREFIX)?).ok()?;
    if prefix.header_len() > bytes.len() {
        bytes = bytes_at(inner, port, place, prefix.header_len().min(left)).await?;
    }
    let nonce = At { opening, sequence: at.sequence, offset: at.offset };
    let header = decode_header(&inner.keyring, nonce, &mut bytes).ok()?;
    let prints = header.records.iter().filter(|r| r.record.print != [0; 16]);
    Some(prints.map(|r| Printed { print: r.record.print, id: r.record.id, offset: at.offset + r.offset }).collect())
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

/// The block that a candidate names; `None` when it is not there any more, or cannot be read.
///
/// # Errors
/// [`BlockError::Failed`].
pub(crate) async fn read_candidate(
    inner: &Arc<Inner>,
    port: &Port,
    candidate: Candidate,
) -> Result<Option<Box<Block>>, BlockError> {
    let Some(id) = BlockId::new(candidate.id) else { return Ok(None) };
    let mut block = Box::new([0; BLOCK]);
    let mut from_memory = None;
    let looked = inner.with(port, |state| {
        from_memory = None;
        if let Some((record, payload)) = state.log.pending(id) {
            from_memory = Some(unpack(record.codec, payload, &mut block));
            return Ok(None);
        }
        let Some(at) = candidate.place else { return Ok(None) };
        let place = Place { segment: at.segment, offset: at.offset };
        let entry = state.tables.candidate(id, place, at.sequence)?;
        let opening = state.tables.segment(at.segment).opening;
        Ok(entry.map(|entry| (entry, At { opening, sequence: at.sequence, offset: at.offset })))
    });
    let found = looked.await.map_err(|lost| inner.lost(lost, 0));
    if from_memory == Some(true) {
        return Ok(Some(block));
    }
    let Ok(Some((entry, nonce))) = found else { return Ok(None) };
    let len = usize::from(entry.stored.length) + TAG;
    let Some(mut sealed) = bytes_at(inner, port, entry.place, len).await else { return Ok(None) };
    let opened = inner.keyring.open(nonce, &bind_block(id, &entry), &mut sealed);
    Ok(opened.ok().is_some_and(|plain| unpack(entry.stored.codec, plain, &mut block)).then_some(block))
}
