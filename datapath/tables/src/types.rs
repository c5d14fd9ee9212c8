//! The words of the tables: ids, places, entries, pages and what a call may need.
//!
//! Owns the 16-byte layout of an entry of the block table. Holds no state.

use std::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The size of a page of the tables, in bytes.
pub const PAGE: usize = 4096;

/// Bytes that the record of a map page may be longer than a page: the number of the family whose map key it is under.
pub const FAMILY: usize = 4;

/// Bytes of the longest record, without its tag.
pub(crate) const fn longest(map: bool) -> usize {
    if map { PAGE + FAMILY } else { PAGE }
}

/// One page of a volume map or of the block table.
pub type Page = [u8; PAGE];

/// Bytes that every record occupies beyond its length: its authentication tag.
pub const TAG: u32 = 16;

/// The highest codec number that an entry can carry.
pub const MAX_CODEC: u8 = 7;

/// The stable number of one stored thing (a user's block or a map page). 48 bits; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BlockId(u64);

impl BlockId {
    /// The highest id. The number after it is the mark "unreadable" in maps.
    pub const MAX: BlockId = BlockId((1 << 48) - 2);

    /// The id with the number `n`; `None` where no id has it.
    pub fn new(n: u64) -> Option<BlockId> {
        (n != 0 && n <= BlockId::MAX.0).then_some(BlockId(n))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The number of a volume. Numbers are never used twice in the life of a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeId(pub u32);

/// Where a record begins: a byte offset in a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The segment's number.
    pub segment: u32,
    /// Bytes from the segment's start, under 2^28.
    pub offset: u32,
}

impl Place {
    /// Of what is not on a device yet: a block in the open batch, or a map page that no checkpoint has written.
    pub const PENDING: Place = Place { segment: u32::MAX, offset: u32::MAX };

    /// Whether this is [`Place::PENDING`].
    pub fn is_pending(self) -> bool {
        self == Place::PENDING
    }
}

/// How a record is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stored {
    /// Bytes of it without the tag: 1 to 4096, of a map page 4100.
    pub length: u16,
    /// How it is coded, at most [`MAX_CODEC`]; opaque to the tables.
    pub codec: u8,
    /// The key epoch it is sealed under.
    pub epoch: u16,
}

/// What the block table says of an id that is in use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Where its record is.
    pub place: Place,
    /// How it is stored.
    pub stored: Stored,
    /// How many pages and roots point at it. At the pool's maximum it stays there: such a block is never freed.
    pub refs: u32,
    /// Whether it is a map page; otherwise it is a user's block.
    pub map: bool,
}

/// An entry as it stands in a page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawEntry {
    pub segment: U32,
    /// Offset in the low 28 bits; above it 3 bits of codec, and 1 bit that marks a map page.
    pub offset: U32,
    pub refs: U32,
    /// 0 where the id is free.
    pub length: U16,
    pub epoch: U16,
}

const _: () = assert!(size_of::<RawEntry>() == 16 && align_of::<RawEntry>() == 1);

const OFFSET: u32 = (1 << 28) - 1;
const CODEC_SHIFT: u32 = 28;
const MAP: u32 = 1 << 31;

impl RawEntry {
    pub const FREE: RawEntry = RawEntry {
        segment: U32::ZERO,
        offset: U32::ZERO,
        refs: U32::ZERO,
        length: U16::ZERO,
        epoch: U16::ZERO,
    };

    pub fn from_entry(e: &Entry) -> RawEntry {
        let codec = u32::from(e.stored.codec & MAX_CODEC) << CODEC_SHIFT;
        RawEntry {
            segment: U32::new(e.place.segment),
            offset: U32::new(e.place.offset & OFFSET | codec | if e.map { MAP } else { 0 }),
            refs: U32::new(e.refs),
            length: U16::new(e.stored.length),
            epoch: U16::new(e.stored.epoch),
        }
    }

    pub fn live(&self) -> bool {
        self.length.get() != 0
    }

    pub fn place(&self) -> Place {
        let (segment, offset) = (self.segment.get(), self.offset.get() & OFFSET);
        if segment == u32::MAX { Place::PENDING } else { Place { segment, offset } }
    }

    pub fn stored(&self) -> Stored {
        let codec = (self.offset.get() >> CODEC_SHIFT) as u8 & MAX_CODEC;
        Stored { length: self.length.get(), codec, epoch: self.epoch.get() }
    }

    pub fn map(&self) -> bool {
        self.offset.get() & MAP != 0
    }

    /// `None` where the id is free.
    pub fn entry(&self) -> Option<Entry> {
        let entry =
            || Entry { place: self.place(), stored: self.stored(), refs: self.refs.get(), map: self.map() };
        self.live().then(entry)
    }
}

/// Which page of the tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageKey {
    /// A page of a volume's map, under its id.
    Map(BlockId),
    /// A page of the block table. Level 0 holds entries, the levels above it directories.
    Blocks {
        /// 0 for entries.
        level: u8,
        /// Which of its level.
        index: u64,
    },
}

/// Where a page is stored, and what reading it takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Where {
    /// Where its record is. Never pending.
    pub place: Place,
    /// The sequence of the segment there.
    pub sequence: u64,
    /// The opening in which that segment was opened.
    pub opening: u32,
    /// How it is stored.
    pub stored: Stored,
}

/// Pages that must be loaded before a call can do anything. None of them twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs(pub Vec<(PageKey, Where)>);

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages of the tables are not in memory", self.0.len())
    }
}

impl std::error::Error for Needs {}

/// What a volume has at a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing: it reads as zeroes.
    Hole,
    /// It was marked unreadable.
    Unreadable,
    /// A stored block.
    At {
        /// Its id.
        id: BlockId,
        /// What the block table says of it.
        entry: Entry,
    },
}

/// What a write puts at a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Nothing.
    Zero,
    /// The mark that reading it is an error.
    Unreadable,
    /// A block that is stored already, checked with `candidate` under the same lock.
    Share(BlockId),
    /// A block that was `put`.
    New(BlockId),
}

impl Slot {
    /// The id that it names.
    pub fn id(self) -> Option<BlockId> {
        match self {
            Slot::Share(id) | Slot::New(id) => Some(id),
            Slot::Zero | Slot::Unreadable => None,
        }
    }
}

/// The shape of a pool, and the bounds on the memory of its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes of a segment: a power of two, at most 2^28.
    pub segment_size: u32,
    /// How many segments there are.
    pub segments: u32,
    /// How many pages are kept in memory. Pages that must be kept may exceed it.
    pub cache_pages: usize,
    /// How many changed pages there should be at most; see `Tables::dirty`.
    pub dirty_limit: usize,
    /// The maximum of a reference count; `u32::MAX` but in tests.
    pub max_refs: u32,
}

/// How many pages have changed since they were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dirty {
    /// Since the last freeze.
    pub changed: usize,
    /// Held by the checkpoint under way.
    pub frozen: usize,
    /// A checkpoint should start when `changed` comes to this: half of the limit unless it was set apart.
    pub due: usize,
    /// The pool's limit: writers wait when both together come to it.
    pub limit: usize,
}

impl Dirty {
    /// Whether a checkpoint should start, if none is under way.
    pub fn checkpoint_due(&self) -> bool {
        self.changed >= self.due
    }

    /// Whether whoever changes tables should wait for a checkpoint to end.
    pub fn wait(&self) -> bool {
        self.changed + self.frozen >= self.limit
    }
}

/// Totals of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Users' blocks that are stored, each once.
    pub blocks: u64,
    /// Their stored bytes, without tags.
    pub stored_bytes: u64,
    /// References to them, from distinct map pages.
    pub references: u64,
    /// Map pages.
    pub map_pages: u64,
}
