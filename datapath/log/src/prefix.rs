//! The first 64 bytes of a batch, in plain: what a reader needs before it has a key.
//!
//! Owns their layout and the checks that hold without a key. They are the associated data of the header behind them, so what
//! [`decode_prefix`] gives is a hint until [`crate::decode_header`] has opened that. It must never trust a length it has not checked.

use crate::at::{At, MAX_SEGMENT};
use crate::{FORMAT_VERSION, TAG};
use serde::Serialize;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a prefix in bytes.
pub const PREFIX: usize = 64;

/// Batches begin at multiples of this in their segment, and are as long as a multiple of it.
pub const BATCH_ALIGN: usize = 4096;

/// Most bytes of one batch: the largest segment.
pub const MAX_BATCH: usize = MAX_SEGMENT as usize;

const MAGIC: [u8; 8] = *b"CAISBATC";

/// Length of the head of a sealed header, before its records.
pub(crate) const BODY_HEAD: usize = 16;

/// What a batch is part of. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[repr(u8)]
pub enum BatchKind {
    /// The log: blocks and the table changes that they imply.
    Log = 1,
    /// A checkpoint (table pages, a root's blobs, or the root itself), or what the cleaner moved, which recovery does not read.
    Checkpoint = 2,
}

/// The layout of a prefix.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPrefix {
    magic: [u8; 8],
    version: U16,
    kind: u8,
    zero: u8,
    epoch: U16,
    zero2: U16,
    header: U32,
    total: U32,
    batch: U64,
    sequence: U64,
    opening: U32,
    segment: U32,
    offset: U32,
    zero3: [u8; 12],
}

layout!(
    RawPrefix, PREFIX, magic @ 0, version @ 8, kind @ 10, zero @ 11, epoch @ 12, zero2 @ 14, header @ 16, total @ 20,
    batch @ 24, sequence @ 32, opening @ 40, segment @ 44, offset @ 48, zero3 @ 52,
);

/// A decoded prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Prefix {
    /// Log, or checkpoint and cleaner.
    pub kind: BatchKind,
    /// The key epoch of the pool's own domain that sealed the header.
    pub epoch: u16,
    /// Bytes of prefix and sealed header together: what to read before the header can be opened.
    pub header: u32,
    /// Bytes of the batch with padding: a multiple of [`BATCH_ALIGN`].
    pub total: u32,
    /// The batch's number: in the log, each is one more than the last, in a checkpoint too, from 1; 0 of the cleaner.
    pub batch: u64,
    /// The segment it stands in.
    pub segment: u32,
    /// Opening, sequence of the segment's use, and offset of the batch's first byte.
    pub at: At,
}

/// Why bytes are no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// There are fewer than [`PREFIX`].
    #[error("{len} bytes are too few for a batch")]
    Short {
        /// How many there are.
        len: usize,
    },
    /// They do not begin with the mark: nothing was written here, or something else.
    #[error("no batch begins here")]
    NotABatch,
    /// Of another version of the format.
    #[error("a batch of format version {version}")]
    Version {
        /// Which.
        version: u16,
    },
    /// A field has no possible value.
    #[error("a batch whose {field} cannot be {value}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
    },
}

/// Decodes the first [`PREFIX`] bytes of a batch; more may follow. Nothing in it is authenticated yet.
pub fn decode_prefix(bytes: &[u8]) -> Result<Prefix, PrefixError> {
    let (raw, _) = RawPrefix::ref_from_prefix(bytes).map_err(|_| PrefixError::Short { len: bytes.len() })?;
    if raw.magic != MAGIC {
        return Err(PrefixError::NotABatch);
    }
    if raw.version != FORMAT_VERSION {
        return Err(PrefixError::Version { version: raw.version.get() });
    }
    let fault = |field, value| Err(PrefixError::Field { field, value });
    let kind = match raw.kind {
        1 => BatchKind::Log,
        2 => BatchKind::Checkpoint,
        other => return fault("kind", other.into()),
    };
    if raw.zero != 0 || raw.zero2 != 0 || raw.zero3 != [0; 12] {
        return fault("reserved part", 1);
    }
    let (total, header, offset) = (raw.total.get(), raw.header.get(), raw.offset.get());
    let aligned = |n: u32| (n as usize).is_multiple_of(BATCH_ALIGN);
    if total == 0 || !aligned(total) || total as usize > MAX_BATCH {
        return fault("length", total.into());
    }
    if (header as usize) < PREFIX + BODY_HEAD + TAG || header > total {
        return fault("header length", header.into());
    }
    if !aligned(offset) || offset > MAX_SEGMENT - total {
        return fault("offset", offset.into());
    }
    let at = At { opening: raw.opening.get(), sequence: raw.sequence.get(), offset };
    let (batch, segment, epoch) = (raw.batch.get(), raw.segment.get(), raw.epoch.get());
    Ok(Prefix { kind, epoch, header, total, batch, segment, at })
}

impl Prefix {
    /// The bytes of this prefix.
    pub(crate) fn encode(&self) -> [u8; PREFIX] {
        let raw = RawPrefix {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            kind: self.kind as u8,
            zero: 0,
            epoch: self.epoch.into(),
            zero2: 0.into(),
            header: self.header.into(),
            total: self.total.into(),
            batch: self.batch.into(),
            sequence: self.at.sequence.into(),
            opening: self.at.opening.into(),
            segment: self.segment.into(),
            offset: self.at.offset.into(),
            zero3: [0; 12],
        };
        zerocopy::transmute!(raw)
    }

    /// Where the sealed header stands: behind the prefix.
    pub(crate) fn header_at(&self) -> At {
        At { offset: self.at.offset + PREFIX as u32, ..self.at }
    }

    /// Where the next batch of the same use of the segment begins.
    pub const fn end(&self) -> u32 {
        self.at.offset + self.total
    }
}
