//! Making a batch: sizes first, then sealing into one buffer that goes to the device as it is.
//!
//! Owns where each thing stands in a batch. It must never allocate for a record while sealing, or leave a byte of the
//! batch's buffer as it was.

use crate::TAG;
use crate::at::{At, MAX_SEGMENT};
use crate::keyring::{Keyring, SealError};
use crate::prefix::{BATCH_ALIGN, BODY_HEAD, BatchKind, MAX_BATCH, PREFIX, Prefix};
use crate::record::{RawRecord, RawSpot, Record};
use std::ops::Range;
use zerocopy::IntoBytes;

/// How large a batch of some records is, kept while records come in. Copy it to try one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSize {
    headers: usize,
    payload: usize,
}

impl BatchSize {
    /// With one more record.
    pub fn add(&mut self, record: &Record) {
        let print = if record.has_print() { 16 } else { 0 };
        let moved = if record.from.is_some() { size_of::<RawSpot>() } else { 0 };
        self.headers += size_of::<RawRecord>() + print + moved;
        self.payload += record.sealed_len();
    }

    /// Bytes of prefix and sealed header, with so many bytes of changes.
    pub fn header(&self, changes: usize) -> usize {
        PREFIX + BODY_HEAD + self.headers + changes + TAG
    }

    /// Bytes of the whole batch, padded.
    pub fn total(&self, changes: usize) -> usize {
        (self.header(changes) + self.payload).next_multiple_of(BATCH_ALIGN)
    }
}

/// Where and as what a batch is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Log or checkpoint.
    pub kind: BatchKind,
    /// The batch's number.
    pub batch: u64,
    /// The current key epoch of the pool's own domain, which seals the header.
    pub epoch: u16,
    /// The segment.
    pub segment: u32,
    /// Opening, sequence of the segment's use, and offset of the batch's first byte: a multiple of [`BATCH_ALIGN`].
    pub at: At,
}

/// Why records and changes make no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The batch would be longer than [`MAX_BATCH`].
    #[error("a batch of {total} bytes is too long")]
    TooLong {
        /// How long.
        total: usize,
    },
    /// A record that no header can hold: id, codec or origin out of range, or no bytes.
    #[error("record {index} does not fit a header")]
    Record {
        /// Which.
        index: usize,
    },
}

/// Why a batch was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealBatchError {
    /// There are not as many payloads as records.
    #[error("{payloads} payloads for {records} records")]
    Payloads {
        /// How many payloads.
        payloads: usize,
        /// How many records.
        records: usize,
    },
    /// The buffer is not as long as what goes into it.
    #[error("a buffer of {len} bytes for {want}")]
    Buffer {
        /// How long it is.
        len: usize,
        /// How long it must be.
        want: usize,
    },
    /// The batch does not begin at a multiple of [`BATCH_ALIGN`], or does not end within the largest segment.
    #[error("a batch cannot stand at offset {offset}")]
    Offset {
        /// Where it would begin.
        offset: u32,
    },
    /// Something could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// A batch whose sizes and inner places are settled: what is left is to choose its place and seal it.
#[derive(Clone, Debug)]
pub struct BatchPlan {
    records: Vec<Record>,
    /// Offset of each record in the batch.
    offsets: Vec<u32>,
    /// The header as it will be sealed.
    body: Vec<u8>,
    header: u32,
    total: u32,
}

impl BatchPlan {
    /// Plans a batch of `records`, in this order, with `changes`, which stay opaque here.
    pub fn new(records: &[Record], changes: &[u8]) -> Result<BatchPlan, PlanError> {
        let mut size = BatchSize::default();
        for (index, record) in records.iter().enumerate() {
            if !record.is_sound() {
                return Err(PlanError::Record { index });
            }
            size.add(record);
        }
        let total = size.total(changes.len());
        if total > MAX_BATCH {
            return Err(PlanError::TooLong { total });
        }
        // Below MAX_BATCH, and so far below 2^32.
        let (header, total) = (size.header(changes.len()) as u32, total as u32);
        let mut next = header;
        let offset_of = |record: &Record| {
            let offset = next;
            next += record.sealed_len() as u32;
            offset
        };
        let offsets = records.iter().map(offset_of).collect();
        let body = encode_body(records, changes, header as usize - PREFIX - TAG);
        Ok(BatchPlan { records: records.to_vec(), offsets, body, header, total })
    }

    /// Bytes of prefix and sealed header.
    pub fn header_len(&self) -> usize {
        self.header as usize
    }

    /// Bytes of the whole batch, a multiple of [`BATCH_ALIGN`].
    pub fn total_len(&self) -> usize {
        self.total as usize
    }

    /// The records, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Where record `index` is in the batch: its stored bytes and their tag.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = self.offsets[index] as usize;
        start..start + self.records[index].sealed_len()
    }

    /// The offset of record `index` in the segment, for a batch that begins at `offset`.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn offset(&self, index: usize, offset: u32) -> u32 {
        offset + self.offsets[index]
    }

    /// Seals the whole batch into `out`, of [`BatchPlan::total_len`] bytes: prefix, header, each record's payload, zeroes.
    pub fn seal(
        &self,
        keyring: &Keyring,
        stamp: &Stamp,
        payloads: &[&[u8]],
        out: &mut [u8],
    ) -> Result<(), SealBatchError> {
        if payloads.len() != self.records.len() {
            return Err(SealBatchError::Payloads { payloads: payloads.len(), records: self.records.len() });
        }
        if out.len() != self.total_len() {
            return Err(SealBatchError::Buffer { len: out.len(), want: self.total_len() });
        }
        self.seal_header(keyring, stamp, &mut out[..self.header as usize])?;
        for (index, payload) in payloads.iter().enumerate() {
            self.seal_record(keyring, stamp, index, payload, &mut out[self.range(index)])?;
        }
        let end = self.records.len().checked_sub(1).map_or(self.header as usize, |last| self.range(last).end);
        out[end..].fill(0);
        Ok(())
    }

    /// Seals prefix and header into `out`, of [`BatchPlan::header_len`] bytes. With [`BatchPlan::seal_record`], for whoever
    /// spreads the work; the padding is then theirs to fill with zeroes.
    pub fn seal_header(
        &self,
        keyring: &Keyring,
        stamp: &Stamp,
        out: &mut [u8],
    ) -> Result<(), SealBatchError> {
        if out.len() != self.header_len() {
            return Err(SealBatchError::Buffer { len: out.len(), want: self.header_len() });
        }
        self.check(stamp)?;
        let Stamp { kind, batch, epoch, segment, at } = *stamp;
        let prefix = Prefix { kind, epoch, header: self.header, total: self.total, batch, segment, at };
        let bytes = prefix.encode();
        let (front, sealed) = out.split_at_mut(PREFIX);
        front.copy_from_slice(&bytes);
        Ok(keyring.seal_header(prefix.header_at(), epoch, &bytes, &self.body, sealed)?)
    }

    /// Seals record `index` into `out`, of [`BatchPlan::range`]'s length.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn seal_record(
        &self,
        keyring: &Keyring,
        stamp: &Stamp,
        index: usize,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<(), SealBatchError> {
        self.check(stamp)?;
        let at = At { offset: self.offset(index, stamp.at.offset), ..stamp.at };
        Ok(keyring.seal(at, &self.records[index].bind(), payload, out)?)
    }

    fn check(&self, stamp: &Stamp) -> Result<(), SealBatchError> {
        let offset = stamp.at.offset;
        if !(offset as usize).is_multiple_of(BATCH_ALIGN) || offset > MAX_SEGMENT - self.total {
            return Err(SealBatchError::Offset { offset });
        }
        Ok(())
    }
}

/// The plaintext of a header: head, records, prints, origins, changes.
fn encode_body(records: &[Record], changes: &[u8], len: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(len);
    body.extend((records.len() as u32).to_le_bytes());
    body.extend((changes.len() as u32).to_le_bytes());
    body.extend([0; BODY_HEAD - 8]);
    for record in records {
        body.extend(RawRecord::of(record).as_bytes());
    }
    for record in records.iter().filter(|record| record.has_print()) {
        body.extend(record.print);
    }
    for from in records.iter().filter_map(|record| record.from) {
        let raw = RawSpot { segment: from.segment.into(), offset: from.offset.into() };
        body.extend(raw.as_bytes());
    }
    body.extend(changes);
    assert!(body.len() == len, "a header is as long as it was planned");
    body
}
