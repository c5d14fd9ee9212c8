//! Which segments stand where: the extents table of a pool of several devices that may have grown.
//!
//! Owns the way from a segment number to a device and a byte. It must never hold a table in which two segments overlap, or
//! one has no place.

use crate::SEGMENTS_START;
use crate::at::segment_size_is_sound;
use serde::Serialize;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most devices of a pool.
pub const MAX_DEVICES: u32 = 32;

/// Most extents of a pool: how often it can be created, grown and given devices.
pub const MAX_EXTENTS: usize = 64;

/// A run of segments that lie one behind the other on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// The device.
    pub device: u32,
    /// Its first segment's number.
    pub first: u32,
    /// How many segments.
    pub count: u32,
    /// Where the first segment begins on the device, in bytes.
    pub start: u64,
}

/// The layout of an extent.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawExtent {
    device: U32,
    first: U32,
    count: U32,
    zero: U32,
    start: U64,
}

layout!(RawExtent, 24, device @ 0, first @ 4, count @ 8, zero @ 12, start @ 16);

impl RawExtent {
    pub(crate) fn of(extent: &Extent) -> RawExtent {
        RawExtent {
            device: extent.device.into(),
            first: extent.first.into(),
            count: extent.count.into(),
            zero: 0.into(),
            start: extent.start.into(),
        }
    }

    /// The extent; `None` when its reserved part is not zero.
    pub(crate) fn extent(&self) -> Option<Extent> {
        let (device, first, count) = (self.device.get(), self.first.get(), self.count.get());
        (self.zero.get() == 0).then_some(Extent { device, first, count, start: self.start.get() })
    }
}

/// Why extents are no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// Segments have an impossible size.
    #[error("segments cannot have {size} bytes")]
    SegmentSize {
        /// Which.
        size: u32,
    },
    /// There are none, or more than [`MAX_EXTENTS`].
    #[error("a pool cannot have {count} extents")]
    Count {
        /// How many.
        count: usize,
    },
    /// One is empty, does not begin with the number after the last one's, is misaligned, runs out of numbers or bytes, or is
    /// on a device that cannot be.
    #[error("extent {index} has an impossible value")]
    Value {
        /// Which.
        index: usize,
    },
    /// Two overlap on a device.
    #[error("extents {first} and {second} overlap")]
    Overlap {
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
}

/// A checked table: segments 0, 1, 2, ... without a gap, each at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extents {
    segment_size: u32,
    list: Vec<Extent>,
}

impl Extents {
    /// Checks a table of extents by rising first segment.
    pub fn new(segment_size: u32, list: Vec<Extent>) -> Result<Extents, ExtentError> {
        if !segment_size_is_sound(segment_size) {
            return Err(ExtentError::SegmentSize { size: segment_size });
        }
        if list.is_empty() || list.len() > MAX_EXTENTS {
            return Err(ExtentError::Count { count: list.len() });
        }
        let mut next = 0;
        for (index, extent) in list.iter().enumerate() {
            let fault = ExtentError::Value { index };
            let sound = extent.device < MAX_DEVICES
                && extent.first == next
                && extent.count > 0
                && extent.start >= SEGMENTS_START
                && extent.start % 4096 == 0;
            // Segment u32::MAX marks a place that is not settled yet.
            next = extent.first.checked_add(extent.count).filter(|_| sound).ok_or(fault)?;
            end_of(extent, segment_size).ok_or(fault)?;
        }
        for (second, b) in list.iter().enumerate() {
            let overlaps = |a: &Extent| {
                a.device == b.device
                    && end_of(a, segment_size) > Some(b.start)
                    && end_of(b, segment_size) > Some(a.start)
            };
            if let Some(first) = list[..second].iter().position(overlaps) {
                return Err(ExtentError::Overlap { first, second });
            }
        }
        Ok(Extents { segment_size, list })
    }

    /// Bytes of a segment.
    pub fn segment_size(&self) -> u32 {
        self.segment_size
    }

    /// How many segments there are.
    pub fn segments(&self) -> u32 {
        self.list.last().map_or(0, |last| last.first + last.count)
    }

    /// The extents, by rising first segment.
    pub fn list(&self) -> &[Extent] {
        &self.list
    }

    /// The device and byte at which a segment begins; `None` when there is no such segment.
    pub fn locate(&self, segment: u32) -> Option<(u32, u64)> {
        let after = self.list.partition_point(|extent| extent.first <= segment);
        let extent = &self.list[after.checked_sub(1)?];
        let within = segment - extent.first;
        let byte = extent.start + u64::from(within) * u64::from(self.segment_size);
        (within < extent.count).then_some((extent.device, byte))
    }

    /// The table with `count` more segments at `start` of `device`.
    pub fn grown(&self, device: u32, start: u64, count: u32) -> Result<Extents, ExtentError> {
        let mut list = self.list.clone();
        list.push(Extent { device, first: self.segments(), count, start });
        Extents::new(self.segment_size, list)
    }
}

/// The first byte behind an extent; `None` when that is beyond what a signed 64-bit file offset addresses.
fn end_of(extent: &Extent, segment_size: u32) -> Option<u64> {
    let bytes = u64::from(extent.count) * u64::from(segment_size);
    extent.start.checked_add(bytes).filter(|end| *end <= i64::MAX as u64)
}
