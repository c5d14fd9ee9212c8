//! One record: what its batch's header says of it, and what its seal binds.
//!
//! Owns the associated data of a record and its compact form in a header. It must never know what a codec, an id or a print means.

use crate::at::{PoolId, Spot};
use crate::{FORMAT_VERSION, TAG};
use serde::{Serialize, Serializer};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The largest id of a record: ids are 48 bits.
pub const MAX_ID: u64 = (1 << 48) - 1;

/// What a record holds. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[repr(u8)]
pub enum RecordKind {
    /// A user block; the id is its block id.
    Block = 1,
    /// A page of a volume map; the id is its block id.
    MapPage = 2,
    /// A page of the block table; the id is [`Record::blocks_page`]'s.
    BlocksPage = 3,
    /// A piece of a root's blob; the id is [`crate::Piece`]'s.
    Blob = 4,
}

impl RecordKind {
    /// The kind of a stored number.
    pub const fn from_code(code: u8) -> Option<RecordKind> {
        match code {
            1 => Some(RecordKind::Block),
            2 => Some(RecordKind::MapPage),
            3 => Some(RecordKind::BlocksPage),
            4 => Some(RecordKind::Blob),
            _ => None,
        }
    }
}

/// What the seal of a record binds, beside its place, the pool and the format version. Whoever opens a record must know
/// all of it from elsewhere: the block table, the map, or the batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bind {
    /// The domain whose key seals it; 0 is the pool's own.
    pub domain: u32,
    /// The domain's key epoch.
    pub epoch: u16,
    /// Block id or page key, at most [`MAX_ID`] where it stands in a header.
    pub id: u64,
    /// What it holds.
    pub kind: RecordKind,
    /// Stored bytes, without the tag.
    pub length: u16,
    /// How the stored bytes are coded; below 16 where it stands in a header.
    pub codec: u8,
}

/// [`Bind`] as associated data.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBind {
    pool: [u8; 16],
    version: U16,
    kind: u8,
    codec: u8,
    domain: U32,
    epoch: U16,
    length: U16,
    id: U64,
    opening: U32,
}

layout!(RawBind, 40, pool @ 0, version @ 16, kind @ 18, codec @ 19, domain @ 20, epoch @ 24, length @ 26, id @ 28, opening @ 36);

/// Length of a record's associated data in bytes.
pub(crate) const BIND: usize = size_of::<RawBind>();

impl Bind {
    #[inline]
    pub(crate) fn aad(&self, pool: PoolId, opening: u32) -> [u8; BIND] {
        let raw = RawBind {
            pool: pool.0,
            version: FORMAT_VERSION.into(),
            kind: self.kind as u8,
            codec: self.codec,
            domain: self.domain.into(),
            epoch: self.epoch.into(),
            length: self.length.into(),
            id: self.id.into(),
            opening: opening.into(),
        };
        zerocopy::transmute!(raw)
    }
}

/// A record as its batch's header has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// What it holds.
    pub kind: RecordKind,
    /// Block id or page key, at most [`MAX_ID`].
    pub id: u64,
    /// Stored bytes, without the tag: 1..=65,535.
    pub length: u16,
    /// How the stored bytes are coded, below 16.
    pub codec: u8,
    /// The domain whose key seals it.
    pub domain: u32,
    /// The domain's key epoch.
    pub epoch: u16,
    /// The first 16 bytes of the fingerprint; all zero where there is none, and then not stored.
    #[serde(serialize_with = "hex")]
    pub print: [u8; 16],
    /// Where the cleaner took it from; `None` for what is new.
    pub from: Option<Spot>,
}

fn hex<S: Serializer>(print: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(*print)))
}

impl Record {
    /// What its seal binds.
    pub const fn bind(&self) -> Bind {
        Bind {
            domain: self.domain,
            epoch: self.epoch,
            id: self.id,
            kind: self.kind,
            length: self.length,
            codec: self.codec,
        }
    }

    /// Bytes that it takes in the batch: the stored bytes and the tag.
    pub const fn sealed_len(&self) -> usize {
        self.length as usize + TAG
    }

    /// The id of a page of the block table: level in the top 8 of 48 bits, index below. `None` when the index has more than 40.
    pub const fn blocks_page(level: u8, index: u64) -> Option<u64> {
        if index >> 40 == 0 { Some((level as u64) << 40 | index) } else { None }
    }

    pub(crate) fn has_print(&self) -> bool {
        self.print != [0; 16]
    }

    /// Whether it fits its form in a header.
    pub(crate) fn is_sound(&self) -> bool {
        let from_is_sound = self.from.is_none_or(|from| from.offset < 1 << 28);
        self.id <= MAX_ID && self.codec < 16 && self.length > 0 && from_is_sound
    }
}

/// Flag of [`RawRecord`]: the header has a print of it.
pub(crate) const HAS_PRINT: u8 = 1;
/// Flag of [`RawRecord`]: the header says where it was moved from.
pub(crate) const IS_MOVED: u8 = 2;

/// The part of a record that every header has.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawRecord {
    pub(crate) id: [u8; 6],
    pub(crate) length: U16,
    pub(crate) domain: U32,
    pub(crate) epoch: U16,
    /// Kind in the low four bits, codec in the high.
    pub(crate) form: u8,
    pub(crate) flags: u8,
}

layout!(RawRecord, 16, id @ 0, length @ 6, domain @ 8, epoch @ 12, form @ 14, flags @ 15);

/// Where a moved record stood.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawSpot {
    pub(crate) segment: U32,
    pub(crate) offset: U32,
}

layout!(RawSpot, 8, segment @ 0, offset @ 4);

impl RawRecord {
    pub(crate) fn of(record: &Record) -> RawRecord {
        let mut id = [0; 6];
        id.copy_from_slice(&record.id.to_le_bytes()[..6]);
        let print = if record.has_print() { HAS_PRINT } else { 0 };
        let moved = if record.from.is_some() { IS_MOVED } else { 0 };
        RawRecord {
            id,
            length: record.length.into(),
            domain: record.domain.into(),
            epoch: record.epoch.into(),
            form: record.kind as u8 | record.codec << 4,
            flags: print | moved,
        }
    }

    /// The record without print and origin; `None` for an unknown kind or flag, or no bytes.
    pub(crate) fn record(&self) -> Option<Record> {
        let i = self.id;
        let known = self.flags & !(HAS_PRINT | IS_MOVED) == 0 && self.length.get() > 0;
        known.then_some(Record {
            kind: RecordKind::from_code(self.form & 15)?,
            id: u64::from_le_bytes([i[0], i[1], i[2], i[3], i[4], i[5], 0, 0]),
            length: self.length.get(),
            codec: self.form >> 4,
            domain: self.domain.get(),
            epoch: self.epoch.get(),
            print: [0; 16],
            from: None,
        })
    }
}
