//! The head of a root: what a checkpoint's last batch says of the checkpoint.
//!
//! Owns the chain from the superblock to every blob: the superblock's anchor names the root batch, whose header's changes are
//! this head, which names the batches that hold the blobs' pieces (the root batch itself may hold some). It must never know
//! what is in a blob.

use crate::FORMAT_VERSION;
use crate::at::{At, MAX_SEGMENT};
use crate::blobs::{BLOB_PIECE, Blob, BlobKind, MAX_BLOBS_BYTES};
use crate::prefix::BATCH_ALIGN;
use serde::Serialize;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most batches that one root names.
pub const MAX_ROOT_BATCHES: usize = 1 << 16;

/// The place of one batch, named by what points at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BatchRef {
    /// Its segment.
    pub segment: u32,
    /// Opening, sequence of the segment's use, and offset of its first byte.
    pub at: At,
    /// Its length with padding, in bytes.
    pub length: u32,
    /// Its number.
    pub batch: u64,
}

/// The layout of a [`BatchRef`].
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawRef {
    segment: U32,
    offset: U32,
    sequence: U64,
    opening: U32,
    length: U32,
    batch: U64,
}

layout!(RawRef, 32, segment @ 0, offset @ 4, sequence @ 8, opening @ 16, length @ 20, batch @ 24);

impl RawRef {
    pub(crate) fn of(batch: &BatchRef) -> RawRef {
        RawRef {
            segment: batch.segment.into(),
            offset: batch.at.offset.into(),
            sequence: batch.at.sequence.into(),
            opening: batch.at.opening.into(),
            length: batch.length.into(),
            batch: batch.batch.into(),
        }
    }

    /// The place; `None` for one that no batch can have.
    pub(crate) fn batch(&self) -> Option<BatchRef> {
        let (offset, length) = (self.offset.get(), self.length.get());
        let aligned = [offset, length].iter().all(|n| (*n as usize).is_multiple_of(BATCH_ALIGN));
        let inside = length > 0 && length <= MAX_SEGMENT && offset <= MAX_SEGMENT - length;
        (aligned && inside).then_some(BatchRef {
            segment: self.segment.get(),
            at: At { opening: self.opening.get(), sequence: self.sequence.get(), offset },
            length,
            batch: self.batch.get(),
        })
    }
}

/// What a root says, beside the blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootHead {
    /// The checkpoint's number; each is one more than the last.
    pub checkpoint: u64,
    /// The last log batch whose changes are in it: recovery begins with the next one.
    pub log_batch: u64,
    /// The blobs, by rising kind, none twice.
    pub blobs: Vec<Blob>,
    /// The batches that hold the blobs' pieces, beside the root batch itself.
    pub batches: Vec<BatchRef>,
}

/// Why bytes are no root's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Its parts do not add up to its length.
    #[error("the root's parts do not add up to its {len} bytes")]
    Length {
        /// How long it is.
        len: usize,
    },
    /// Of another version of the format.
    #[error("a root of format version {version}")]
    Version {
        /// Which.
        version: u16,
    },
    /// A blob of unknown kind, out of order, or too long.
    #[error("blob {index} of the root has an impossible value")]
    Blob {
        /// Which.
        index: usize,
    },
    /// A batch at an impossible place.
    #[error("batch {index} of the root has an impossible place")]
    Batch {
        /// Which.
        index: usize,
    },
}

/// The layout of a head before its lists.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHead {
    version: U16,
    blobs: U16,
    batches: U32,
    checkpoint: U64,
    log_batch: U64,
    zero: [u8; 8],
}

layout!(RawHead, 32, version @ 0, blobs @ 2, batches @ 4, checkpoint @ 8, log_batch @ 16, zero @ 24);

/// The layout of a [`Blob`].
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBlob {
    kind: u8,
    zero: [u8; 7],
    length: U64,
}

layout!(RawBlob, 16, kind @ 0, zero @ 1, length @ 8);

impl RootHead {
    /// Bytes that [`RootHead::encode`] gives for so many blobs and batches.
    pub const fn encoded_len(blobs: usize, batches: usize) -> usize {
        size_of::<RawHead>() + blobs * size_of::<RawBlob>() + batches * size_of::<RawRef>()
    }

    /// The bytes: a root batch's changes.
    ///
    /// # Panics
    /// With more than 65,535 blobs, of which there are six kinds.
    pub fn encode(&self) -> Vec<u8> {
        let head = RawHead {
            version: FORMAT_VERSION.into(),
            blobs: u16::try_from(self.blobs.len()).expect("there are six kinds of blobs").into(),
            batches: (self.batches.len() as u32).into(),
            checkpoint: self.checkpoint.into(),
            log_batch: self.log_batch.into(),
            zero: [0; 8],
        };
        let mut out = Vec::with_capacity(RootHead::encoded_len(self.blobs.len(), self.batches.len()));
        out.extend(head.as_bytes());
        for blob in &self.blobs {
            let raw = RawBlob { kind: blob.kind as u8, zero: [0; 7], length: blob.length.into() };
            out.extend(raw.as_bytes());
        }
        for batch in &self.batches {
            out.extend(RawRef::of(batch).as_bytes());
        }
        out
    }

    /// Decodes the changes of a root batch.
    pub fn decode(bytes: &[u8]) -> Result<RootHead, RootError> {
        let fault = RootError::Length { len: bytes.len() };
        let (head, rest) = RawHead::ref_from_prefix(bytes).map_err(|_| fault)?;
        if head.version != FORMAT_VERSION {
            return Err(RootError::Version { version: head.version.get() });
        }
        let (blobs, batches) = (head.blobs.get() as usize, head.batches.get() as usize);
        if head.zero != [0; 8] || batches > MAX_ROOT_BATCHES {
            return Err(fault);
        }
        let (blobs, rest) = <[RawBlob]>::ref_from_prefix_with_elems(rest, blobs).map_err(|_| fault)?;
        let (batches, rest) = <[RawRef]>::ref_from_prefix_with_elems(rest, batches).map_err(|_| fault)?;
        if !rest.is_empty() {
            return Err(fault);
        }
        let place = |(index, raw): (usize, &RawRef)| raw.batch().ok_or(RootError::Batch { index });
        Ok(RootHead {
            checkpoint: head.checkpoint.get(),
            log_batch: head.log_batch.get(),
            blobs: decode_blobs(blobs)?,
            batches: batches.iter().enumerate().map(place).collect::<Result<_, _>>()?,
        })
    }
}

fn decode_blobs(raw: &[RawBlob]) -> Result<Vec<Blob>, RootError> {
    let mut blobs: Vec<Blob> = Vec::with_capacity(raw.len().min(BlobKind::ALL.len()));
    let mut left = MAX_BLOBS_BYTES;
    for (index, raw) in raw.iter().enumerate() {
        let fault = RootError::Blob { index };
        let kind = BlobKind::from_code(raw.kind).ok_or(fault)?;
        let length = raw.length.get();
        let rises = blobs.last().is_none_or(|last| last.kind < kind);
        left = left.checked_sub(length).filter(|_| rises && raw.zero == [0; 7]).ok_or(fault)?;
        blobs.push(Blob { kind, length });
    }
    Ok(blobs)
}

// A piece's number has 40 bits.
const _: () = assert!(MAX_BLOBS_BYTES / (BLOB_PIECE as u64) < 1 << 40);
