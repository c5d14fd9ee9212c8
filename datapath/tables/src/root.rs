//! The root of a checkpoint: all that is not in pages, as bytes.
//!
//! Owns their format, which is a fixed header, 24 bytes a segment, then the volumes. It is cut into pieces as the caller
//! stores them. Decoding never panics, and a root that decodes and fits the geometry can be opened.

use crate::bytes::{Reader, put, put_bytes};
use crate::change::ChangeError;
use crate::map::{MAX_HEIGHT, capacity};
use crate::segment::{Segment, SegmentState};
use crate::tables::LEVELS;
use crate::types::{
    BlockId, Entry, Geometry, MAX_CODEC, PAGE, Place, RawEntry, Stats, Stored, TAG, VolumeId,
};
use crate::volume::{MAX_NAME, MAX_SETTINGS, VolumeRecord};
use std::collections::BTreeSet;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The format's version.
const VERSION: u16 = 1;

/// The header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    version: U16,
    levels: u8,
    reserved: u8,
    segment_size: U32,
    segments: U32,
    volumes: U32,
    next_volume: U32,
    reserved2: U32,
    limit: U64,
    /// All zeroes where there is no top page.
    top: [u8; 16],
    blocks: U64,
    stored_bytes: U64,
    references: U64,
    map_pages: U64,
}

const _: () = assert!(size_of::<Header>() == 80 && align_of::<Header>() == 1);

/// A segment as it is stored.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSegment {
    sequence: U64,
    opening: U32,
    live: U32,
    state: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<RawSegment>() == 24 && align_of::<RawSegment>() == 1);

const READ_ONLY: u8 = 1;
const DYING: u8 = 2;
/// The number of its family follows; else it is its own. Copies of before there were map keys are families of their own: they
/// share only pages that no map key was used for.
const FAMILY: u8 = 4;

/// All of a checkpoint that is not in pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// Bytes of a segment.
    pub segment_size: u32,
    /// The segment table.
    pub segments: Vec<Segment>,
    /// The volumes, by rising number.
    pub volumes: Vec<VolumeRecord>,
    /// The lowest volume number that was never used.
    pub next_volume: u32,
    /// The lowest id above all that were ever used.
    pub limit: u64,
    /// Levels of the block table.
    pub levels: u8,
    /// Where its top page is; `None` where the table is empty.
    pub top: Option<(Place, Stored)>,
    /// Totals.
    pub stats: Stats,
}

/// Why bytes are no root, or a root does not fit the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RootError {
    /// They end early.
    #[error("the root ends early at byte {at}")]
    Short {
        /// Where.
        at: usize,
    },
    /// A value that none may have.
    #[error("the root has an impossible {what}")]
    Invalid {
        /// Which.
        what: &'static str,
    },
    /// A version that this program does not know.
    #[error("the root has version {found}")]
    Version {
        /// The one that stands there.
        found: u16,
    },
}

impl From<ChangeError> for RootError {
    fn from(e: ChangeError) -> RootError {
        match e {
            ChangeError::Short { at } => RootError::Short { at },
            ChangeError::Invalid { .. } => RootError::Invalid { what: "volume" },
        }
    }
}

fn require(holds: bool, what: &'static str) -> Result<(), RootError> {
    if holds { Ok(()) } else { Err(RootError::Invalid { what }) }
}

impl Root {
    /// The root as pieces of `piece` bytes, the last one shorter. Panics if `piece` is 0.
    pub fn encode(&self, piece: usize) -> Vec<Vec<u8>> {
        self.encode_whole().chunks(piece).map(<[u8]>::to_vec).collect()
    }

    /// The root as bytes.
    pub fn encode_whole(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(size_of::<Header>() + self.segments.len() * 24);
        let top: [u8; 16] = zerocopy::transmute!(self.top_record());
        let header = Header {
            version: VERSION.into(),
            levels: self.levels,
            reserved: 0,
            segment_size: self.segment_size.into(),
            segments: (self.segments.len() as u32).into(),
            volumes: (self.volumes.len() as u32).into(),
            next_volume: self.next_volume.into(),
            reserved2: U32::ZERO,
            limit: self.limit.into(),
            top,
            blocks: self.stats.blocks.into(),
            stored_bytes: self.stats.stored_bytes.into(),
            references: self.stats.references.into(),
            map_pages: self.stats.map_pages.into(),
        };
        out.extend_from_slice(header.as_bytes());
        for s in &self.segments {
            let raw = RawSegment {
                sequence: s.sequence.into(),
                opening: s.opening.into(),
                live: s.live.into(),
                state: s.state as u8,
                reserved: [0; 7],
            };
            out.extend_from_slice(raw.as_bytes());
        }
        for v in &self.volumes {
            write_volume(&mut out, v);
        }
        out
    }

    /// The root that the pieces are.
    pub fn decode<B: AsRef<[u8]>>(pieces: &[B]) -> Result<Root, RootError> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|p| p.as_ref().iter().copied()).collect();
        let mut r = Reader::new(&bytes);
        let header = r.take(size_of::<Header>())?;
        let h = Header::read_from_bytes(header).map_err(|_| RootError::Short { at: 0 })?;
        if h.version.get() != VERSION {
            return Err(RootError::Version { found: h.version.get() });
        }
        require(h.reserved == 0 && h.reserved2.get() == 0, "header")?;
        let need = h.segments.get() as usize * size_of::<RawSegment>();
        let table = r.take(need)?;
        let segments = table.chunks_exact(size_of::<RawSegment>()).map(read_segment);
        let segments: Vec<Segment> = segments.collect::<Result<_, _>>()?;
        let mut volumes = Vec::new();
        for _ in 0..h.volumes.get() {
            volumes.push(read_volume(&mut r)?);
        }
        require(r.is_empty(), "end")?;
        let top: RawEntry = zerocopy::transmute!(h.top);
        let root = Root {
            segment_size: h.segment_size.get(),
            segments,
            volumes,
            next_volume: h.next_volume.get(),
            limit: h.limit.get(),
            levels: h.levels,
            top: top.live().then(|| (top.place(), top.stored())),
            stats: Stats {
                blocks: h.blocks.get(),
                stored_bytes: h.stored_bytes.get(),
                references: h.references.get(),
                map_pages: h.map_pages.get(),
            },
        };
        let same: [u8; 16] = zerocopy::transmute!(root.top_record());
        require(same == h.top, "top page")?;
        root.check_self()?;
        Ok(root)
    }

    /// What must hold of every root.
    fn check_self(&self) -> Result<(), RootError> {
        require(self.segment_size.is_power_of_two() && self.segment_size <= 1 << 28, "segment size")?;
        require(LEVELS.contains(&self.levels), "height of the block table")?;
        require(self.limit >= 1 && self.limit <= BlockId::MAX.get() + 1, "number of ids")?;
        let reach = 8 * u32::from(self.levels);
        require(reach >= 48 || self.limit <= 1 << reach, "height of the block table")?;
        require(self.segments.iter().all(|s| s.live <= self.segment_size), "live bytes of a segment")?;
        let used = self.stats.blocks.checked_add(self.stats.map_pages);
        require(used.is_some_and(|n| n < self.limit), "totals")?;
        if let Some((place, stored)) = self.top {
            let length = u32::from(stored.length);
            let end = u64::from(place.offset) + u64::from(length + TAG);
            let fits = place.segment < self.segments.len() as u32 && end <= u64::from(self.segment_size);
            require(fits && length as usize <= PAGE && stored.codec <= MAX_CODEC, "top page")?;
        }
        let mut names = BTreeSet::new();
        let mut last = None;
        for v in &self.volumes {
            require(last < Some(v.id) && v.id.0 < self.next_volume, "number of a volume")?;
            require(0 < v.family && v.family < self.next_volume, "family of a volume")?;
            last = Some(v.id);
            require(v.dying || names.insert(&v.name), "name of a volume")?;
            require(
                !v.name.is_empty() && v.name.len() <= MAX_NAME && v.settings.len() <= MAX_SETTINGS,
                "volume",
            )?;
            require(v.height <= MAX_HEIGHT && (v.height == 0) == v.root.is_none(), "root of a volume")?;
            require(v.root.is_none_or(|id| id.get() < self.limit), "root of a volume")?;
            require(v.mapped <= capacity(v.height), "number of mapped blocks")?;
            require(v.blocks < 1 << 52 && v.tail < 1 << 52, "size of a volume")?;
        }
        Ok(())
    }

    /// Whether it fits a pool.
    pub(crate) fn check(&self, geometry: &Geometry) -> Result<(), RootError> {
        self.check_self()?;
        require(self.segment_size == geometry.segment_size, "segment size")?;
        require(self.segments.len() <= geometry.segments as usize, "number of segments")
    }

    /// The pointer to the top page as a directory would have it.
    pub(crate) fn top_record(&self) -> RawEntry {
        let entry = |(place, stored)| Entry { place, stored, refs: 0, map: false };
        self.top.map_or(RawEntry::FREE, |top| RawEntry::from_entry(&entry(top)))
    }
}

/// Bytes of the root of so many segments and these volumes.
pub(crate) fn encoded_len<'a>(segments: usize, volumes: impl Iterator<Item = &'a VolumeRecord>) -> usize {
    let mut bytes = Vec::new();
    volumes.for_each(|v| write_volume(&mut bytes, v));
    size_of::<Header>() + segments * size_of::<RawSegment>() + bytes.len()
}

fn read_segment(bytes: &[u8]) -> Result<Segment, RootError> {
    let raw = RawSegment::read_from_bytes(bytes).map_err(|_| RootError::Short { at: 0 })?;
    let states = [SegmentState::Free, SegmentState::Reserved, SegmentState::Open, SegmentState::Closed];
    let state = states.into_iter().find(|s| *s as u8 == raw.state && raw.reserved == [0; 7]);
    Ok(Segment {
        sequence: raw.sequence.get(),
        opening: raw.opening.get(),
        live: raw.live.get(),
        state: state.ok_or(RootError::Invalid { what: "state of a segment" })?,
    })
}

fn write_volume(out: &mut Vec<u8>, v: &VolumeRecord) {
    put(out, u64::from(v.id.0));
    put_bytes(out, v.name.as_bytes());
    put(out, v.blocks);
    put(out, v.tail);
    put_bytes(out, &v.settings);
    put(out, v.parent.map_or(0, |p| u64::from(p.0) + 1));
    let other = v.family != v.id.0;
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.push(flag(v.read_only, READ_ONLY) | flag(v.dying, DYING) | flag(other, FAMILY));
    put(out, v.root.map_or(0, BlockId::get));
    out.push(v.height);
    put(out, v.mapped);
    if other {
        put(out, u64::from(v.family));
    }
}

fn read_volume(r: &mut Reader<'_>) -> Result<VolumeRecord, RootError> {
    let (id, name) = (r.volume()?, r.text()?);
    let (blocks, tail) = (r.number()?, r.number()?);
    let settings = r.bytes()?.to_vec();
    let parent = match r.number()? {
        0 => None,
        n => Some(VolumeId(u32::try_from(n - 1).map_err(|_| RootError::Invalid { what: "volume" })?)),
    };
    let flags = r.byte()?;
    require(flags & !(READ_ONLY | DYING | FAMILY) == 0, "volume")?;
    let root = match r.number()? {
        0 => None,
        n => Some(BlockId::new(n).ok_or(RootError::Invalid { what: "root of a volume" })?),
    };
    let (height, mapped) = (r.byte()?, r.number()?);
    let family = match flags & FAMILY != 0 {
        // Its own goes without saying.
        true => u32::try_from(r.number()?).ok().filter(|family| *family != id.0),
        false => Some(id.0),
    };
    Ok(VolumeRecord {
        id,
        name,
        blocks,
        tail,
        settings,
        family: family.ok_or(RootError::Invalid { what: "family of a volume" })?,
        parent,
        read_only: flags & READ_ONLY != 0,
        dying: flags & DYING != 0,
        root,
        height,
        mapped,
    })
}
