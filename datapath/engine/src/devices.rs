//! Where segments stand: on which device, at which byte.
//!
//! Owns the layout of the pool's devices and turns a place into device operations. Segments are numbered across all
//! devices; a device may have several runs of them, for it may have grown after another was added.

use crate::bounds::FRONT;
use crate::state::Inner;
use caisson_block::{BufList, IoKind};
use caisson_codec::Codec;
use caisson_device::{FileStore, StoreError};
use caisson_log::Extent;
use caisson_tables::Place;
use caisson_task::Io;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The devices of a pool, as they are now. Replaced as a whole when the pool grows.
pub(crate) struct Devices {
    stores: Vec<Arc<FileStore>>,
    /// In rising order of their first segments.
    extents: Vec<Extent>,
    segment_size: u32,
    unit: u64,
}

/// A run of bytes of a segment, widened to what the device moves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The device and the byte on it.
    device: u32,
    at: u64,
    /// Bytes to move.
    pub(crate) len: usize,
    /// Where the bytes asked for begin in it.
    pub(crate) skip: usize,
}

/// Why something that was stored cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The device gave bytes, and they are not those that were written there.
    Content,
    /// It is stored in a way that this version does not know: a later one wrote it. The number of the codec.
    Codec(u8),
    /// The device gave none.
    Device {
        /// The device.
        path: String,
        /// The byte of it that was asked for.
        offset: u64,
        /// What it answered.
        error: StoreError,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Content => f.write_str("does not authenticate"),
            Cause::Codec(codec) => {
                write!(f, "is stored with codec {codec}, which this version does not know: a later one does")
            }
            Cause::Device { path, offset, error } => {
                write!(f, "cannot be read from {path} at byte {offset}: {error}")
            }
        }
    }
}

impl Cause {
    /// Why a block that is stored with `codec`, and whose bytes are there, cannot be had.
    pub(crate) fn of_stored(codec: u8) -> Cause {
        if Codec::from_number(codec).is_none() { Cause::Codec(codec) } else { Cause::Content }
    }
}

impl Inner {
    /// A device failed to read. One that is not used any more fails the pool: nothing will be had from it.
    pub(crate) fn unread(&self, devices: &Devices, window: Window, error: StoreError) -> Cause {
        self.counters.device_errors.fetch_add(1, Ordering::Relaxed);
        let store = devices.stores.get(window.device as usize);
        if let StoreError::Device | StoreError::Latched = error {
            self.fail(store.and_then(|s| s.fault()).unwrap_or_else(|| format!("reading failed: {error}")));
        }
        let path = store.map(|s| s.path().display().to_string()).unwrap_or_default();
        Cause::Device { path, offset: window.at, error }
    }
}

impl Devices {
    pub(crate) fn new(stores: Vec<Arc<FileStore>>, mut extents: Vec<Extent>, segment_size: u32) -> Devices {
        extents.sort_by_key(|e| e.first);
        let unit = stores.iter().map(|s| u64::from(s.alignment().offset)).max().unwrap_or(512).max(512);
        Devices { stores, extents, segment_size, unit }
    }

    pub(crate) fn stores(&self) -> &[Arc<FileStore>] {
        &self.stores
    }

    /// Segments of all devices.
    pub(crate) fn segments(&self) -> u32 {
        self.extents.last().map_or(0, |e| e.first + e.count)
    }

    /// The window that holds `len` bytes from `place` on; `None` when they are not inside one segment of the pool.
    pub(crate) fn window(&self, place: Place, len: usize) -> Option<Window> {
        let end = u64::from(place.offset).checked_add(len as u64)?;
        if end > u64::from(self.segment_size) {
            return None;
        }
        let at = self.extents.partition_point(|e| e.first <= place.segment).checked_sub(1)?;
        let extent = &self.extents[at];
        let index = place.segment - extent.first;
        if index >= extent.count {
            return None;
        }
        let base = extent.start + u64::from(index) * u64::from(self.segment_size);
        let from = u64::from(place.offset) / self.unit * self.unit;
        let to = end.next_multiple_of(self.unit);
        Some(Window {
            device: extent.device,
            at: base + from,
            len: (to - from) as usize,
            skip: (u64::from(place.offset) - from) as usize,
        })
    }

    /// The operation that moves a window; `None` for a window of a device that there is not.
    pub(crate) fn io(&self, window: Window, kind: IoKind, bufs: BufList) -> Option<Io> {
        let store = self.stores.get(window.device as usize)?;
        Some(Io { store: Arc::clone(store), kind, offset: window.at, bufs })
    }

    /// The path of the device that a window is on.
    pub(crate) fn path(&self, window: Window) -> String {
        self.stores.get(window.device as usize).map(|s| s.path().display().to_string()).unwrap_or_default()
    }

    /// One sync for each device.
    pub(crate) fn syncs(&self) -> Vec<Io> {
        let sync = |store: &Arc<FileStore>| Io {
            store: Arc::clone(store),
            kind: IoKind::Sync,
            offset: 0,
            bufs: BufList::new(),
        };
        self.stores.iter().map(sync).collect()
    }

    /// The run of segments that fits behind `used` bytes of a device of `size` bytes.
    pub(crate) fn room(size: u64, used: u64, segment_size: u32) -> u32 {
        let free = size.saturating_sub(used.max(FRONT));
        u32::try_from(free / u64::from(segment_size)).unwrap_or(u32::MAX)
    }
}
