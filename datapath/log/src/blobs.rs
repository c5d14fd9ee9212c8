//! Blobs: the byte strings of a root, cut into records and put together again.
//!
//! Owns the numbering of pieces, and the encoding of the two blobs that the log itself needs: openings and reserved
//! segments. What the others mean is their makers' business. It must never hold more than [`MAX_BLOBS_BYTES`] for a root.

use crate::TAG;
use crate::batch::BatchSize;
use crate::header::Header;
use crate::keyring::{Keyring, OpenError};
use crate::record::{Record, RecordKind};
use crate::root::RootHead;
use serde::Serialize;
use std::fmt;
use std::ops::Range;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of each piece of a blob but its last.
pub const BLOB_PIECE: usize = 16 << 10;

/// Most bytes of all blobs of a root together. The segment table of a 256 TiB pool takes about 50 MiB.
pub const MAX_BLOBS_BYTES: u64 = 1 << 30;

/// What a blob is. The numbers are stored; none is ever reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[repr(u8)]
pub enum BlobKind {
    /// The tables' fixed part: id limit, top of the block table, counts.
    Tables = 1,
    /// The segment table.
    Segments = 2,
    /// The volumes.
    Volumes = 3,
    /// The openings: [`encode_openings`].
    Openings = 4,
    /// The reserved segments: [`encode_reserved`].
    Reserved = 5,
    /// The domains.
    Settings = 6,
    /// The map keys, sealed under the anchor's vault key: [`crate::open_map_keys`].
    MapKeys = 7,
}

impl BlobKind {
    /// Every kind, by rising number.
    pub const ALL: [BlobKind; 7] = [
        BlobKind::Tables,
        BlobKind::Segments,
        BlobKind::Volumes,
        BlobKind::Openings,
        BlobKind::Reserved,
        BlobKind::Settings,
        BlobKind::MapKeys,
    ];

    /// The kind of a stored number.
    pub fn from_code(code: u8) -> Option<BlobKind> {
        BlobKind::ALL.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// A blob's size, as a root's head has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Blob {
    /// What it is.
    pub kind: BlobKind,
    /// Its length in bytes.
    pub length: u64,
}

/// A piece of a blob, which becomes one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The blob.
    pub kind: BlobKind,
    /// Which piece: they begin at multiples of [`BLOB_PIECE`].
    pub index: u64,
    /// Its bytes in the blob.
    pub range: Range<usize>,
}

impl Piece {
    /// The record of this piece, sealed under the pool's own domain. Its id: kind in the top 8 of 48 bits, piece below.
    pub fn record(&self, epoch: u16) -> Record {
        Record {
            kind: RecordKind::Blob,
            id: (self.kind as u64) << 40 | self.index,
            // At most BLOB_PIECE.
            length: self.range.len() as u16,
            codec: 0,
            domain: 0,
            epoch,
            print: [0; 16],
            from: None,
        }
    }
}

/// Cuts blobs into pieces and these into groups, each of which makes a batch of at most `room` bytes without changes. Empty
/// blobs have no pieces.
///
/// # Panics
/// When `room` is too small for one piece: 24 KiB is enough for any.
pub fn pieces(blobs: &[(BlobKind, &[u8])], room: usize) -> Vec<Vec<Piece>> {
    let mut groups = Vec::new();
    let (mut group, mut size) = (Vec::new(), BatchSize::default());
    for (kind, bytes) in blobs {
        for (index, start) in (0..bytes.len()).step_by(BLOB_PIECE).enumerate() {
            let range = start..bytes.len().min(start + BLOB_PIECE);
            let piece = Piece { kind: *kind, index: index as u64, range };
            let record = piece.record(0);
            let mut with = size;
            with.add(&record);
            if with.total(0) > room {
                assert!(!group.is_empty(), "a batch of {room} bytes has no room for a piece");
                groups.push(std::mem::take(&mut group));
                with = BatchSize::default();
                with.add(&record);
            }
            size = with;
            group.push(piece);
        }
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

/// Why a root's blobs could not be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// A record does not open.
    #[error("record {index}: {error}")]
    Open {
        /// Which of its batch.
        index: usize,
        /// Why.
        error: OpenError,
    },
    /// A piece of no blob of this root, of a length that its place does not have, or there twice.
    #[error("record {index} is no piece of this root")]
    Stray {
        /// Which of its batch.
        index: usize,
    },
    /// Pieces are missing.
    #[error("blob {kind:?} lacks {missing} of its pieces")]
    Missing {
        /// Whose.
        kind: BlobKind,
        /// How many.
        missing: u64,
    },
}

struct Part {
    kind: BlobKind,
    bytes: Vec<u8>,
    /// Which pieces are there.
    seen: Vec<bool>,
}

/// A root's blobs while they are put together, from batches in any order.
pub struct Blobs {
    parts: Vec<Part>,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parts.iter().map(|part| (part.kind, part.bytes.len()))).finish()
    }
}

impl Blobs {
    /// Space for the blobs that `head` lists.
    pub fn new(head: &RootHead) -> Blobs {
        let part = |blob: &Blob| {
            // RootHead::decode holds the sum of them to MAX_BLOBS_BYTES.
            let bytes = vec![0; blob.length as usize];
            let seen = vec![false; bytes.len().div_ceil(BLOB_PIECE)];
            Part { kind: blob.kind, bytes, seen }
        };
        Blobs { parts: head.blobs.iter().map(part).collect() }
    }

    /// Takes the pieces out of the batch `bytes`. Records that are no pieces are passed over.
    pub fn add(&mut self, keyring: &Keyring, header: &Header, bytes: &[u8]) -> Result<(), BlobError> {
        for (index, placed) in header.records.iter().enumerate() {
            let record = &placed.record;
            if record.kind != RecordKind::Blob {
                continue;
            }
            let stray = BlobError::Stray { index };
            let kind = BlobKind::from_code((record.id >> 40) as u8).ok_or(stray)?;
            let part = self.parts.iter_mut().find(|part| part.kind == kind).ok_or(stray)?;
            let piece = (record.id & ((1 << 40) - 1)) as usize;
            let seen = part.seen.get_mut(piece).filter(|seen| !**seen).ok_or(stray)?;
            let start = piece * BLOB_PIECE;
            let end = part.bytes.len().min(start + BLOB_PIECE);
            if usize::from(record.length) != end - start || record.domain != 0 || record.codec != 0 {
                return Err(stray);
            }
            let out = &mut part.bytes[start..end];
            header
                .open_record(keyring, index, bytes, out)
                .map_err(|error| BlobError::Open { index, error })?;
            *seen = true;
        }
        Ok(())
    }

    /// The blobs, when every piece is there.
    pub fn finish(self) -> Result<Vec<(BlobKind, Vec<u8>)>, BlobError> {
        for part in &self.parts {
            let missing = part.seen.iter().filter(|seen| !**seen).count() as u64;
            if missing > 0 {
                return Err(BlobError::Missing { kind: part.kind, missing });
            }
        }
        Ok(self.parts.into_iter().map(|part| (part.kind, part.bytes)).collect())
    }
}

/// An opening under which something in the pool is sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Its number.
    pub number: u32,
    /// Its salt: random, drawn when the pool was opened for writing.
    pub salt: [u8; 32],
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opening({})", self.number)
    }
}

/// The layout of an opening.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawOpening {
    number: U32,
    salt: [u8; 32],
}

layout!(RawOpening, 36, number @ 0, salt @ 4);

/// Why bytes are no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// They are no whole number of entries.
    #[error("{len} bytes are no whole entries")]
    Length {
        /// How many there are.
        len: usize,
    },
    /// An entry is there twice, or out of its order.
    #[error("entry {index} repeats another")]
    Repeated {
        /// Which.
        index: usize,
    },
}

/// The blob of [`BlobKind::Openings`].
pub fn encode_openings(openings: &[Opening]) -> Vec<u8> {
    let mut out = Vec::with_capacity(openings.len() * size_of::<RawOpening>());
    for opening in openings {
        out.extend(RawOpening { number: opening.number.into(), salt: opening.salt }.as_bytes());
    }
    out
}

/// Decodes [`BlobKind::Openings`]: by rising number, none twice.
pub fn decode_openings(bytes: &[u8]) -> Result<Vec<Opening>, ListError> {
    let raw = <[RawOpening]>::ref_from_bytes(bytes).map_err(|_| ListError::Length { len: bytes.len() })?;
    if let Some(at) = raw.windows(2).position(|pair| pair[0].number.get() >= pair[1].number.get()) {
        return Err(ListError::Repeated { index: at + 1 });
    }
    Ok(raw.iter().map(|raw| Opening { number: raw.number.get(), salt: raw.salt }).collect())
}

/// The blob of [`BlobKind::Reserved`]: segment numbers in the order in which the log will use them.
pub fn encode_reserved(segments: &[u32]) -> Vec<u8> {
    segments.iter().flat_map(|segment| segment.to_le_bytes()).collect()
}

/// Decodes [`BlobKind::Reserved`]: none twice.
pub fn decode_reserved(bytes: &[u8]) -> Result<Vec<u32>, ListError> {
    let raw = <[U32]>::ref_from_bytes(bytes).map_err(|_| ListError::Length { len: bytes.len() })?;
    let segments: Vec<u32> = raw.iter().map(|n| n.get()).collect();
    let mut seen = std::collections::HashSet::new();
    match segments.iter().position(|segment| !seen.insert(*segment)) {
        Some(index) => Err(ListError::Repeated { index }),
        None => Ok(segments),
    }
}

const _: () = assert!(BLOB_PIECE + TAG + 256 <= 24 << 10 && BLOB_PIECE <= u16::MAX as usize);
