//! More room: devices that grew, and another device.
//!
//! Owns the order of steps that keeps a pool whole whenever it stops. New segments get into the tables and, at once, into
//! the superblock that the next checkpoint writes; no checkpoint is under way meanwhile. The log fills only segments that a
//! durable root reserved, so before that checkpoint is durable nothing but its own pages can stand in a new segment, and
//! the old root knows of none of them. A device that joins is given superblocks first, which count less than those of the
//! others: until the others list it, the pool is the old one and opens without it. It never takes room away.

use crate::bounds::FRONT;
use crate::checkpoint::{alone, checkpoint_held, write_copy};
use crate::devices::Devices;
use crate::error::{ChangeError, CreateError, OpenError};
use crate::pool::{Pool, change_failure, empty};
use crate::recover::{label, superblocks};
use crate::space::{Shape, Space};
use crate::state::{Inner, State};
use caisson_block::IoKind;
use caisson_device::FileStore;
use caisson_log::{
    Extent, ExtentError, Extents, MAX_DEVICES, SUPERBLOCK, SUPERBLOCK_AT, Superblock, XNONCE, choose,
};
use caisson_task::{Io, Port};
use std::sync::Arc;

impl Pool {
    /// Takes into use what its devices have grown by since it was made, opened or grown; the caller has had their sizes
    /// read again. Gives the bytes of all segments, which are as before where no device has room for another.
    ///
    /// # Errors
    /// [`ChangeError::Layout`], [`ChangeError::Full`], [`ChangeError::Failed`].
    pub async fn grow(&self, port: &Port) -> Result<u64, ChangeError> {
        let inner = &self.0;
        let _alone = alone(inner, port).await;
        let stores = inner.devices().stores().to_vec();
        let old = usable(inner)?;
        let new = with_room(&old, &stores).map_err(ChangeError::Layout)?;
        if new.segments() > old.segments() {
            take(inner, stores, new);
            checkpoint_held(inner, port, false).await.map_err(change_failure)?;
        }
        Ok(size(inner))
    }

    /// Gives the pool another device, which must be empty, or be left from an addition to this pool that was interrupted.
    /// Gives the bytes of all segments.
    ///
    /// # Errors
    /// [`ChangeError::Device`] and [`ChangeError::Layout`], with nothing changed; [`ChangeError::Full`],
    /// [`ChangeError::Failed`].
    pub async fn add_device(&self, port: &Port, store: Arc<FileStore>) -> Result<u64, ChangeError> {
        let inner = &self.0;
        let _alone = alone(inner, port).await;
        let mut stores = inner.devices().stores().to_vec();
        let old = usable(inner)?;
        let device = stores.len() as u32;
        let refused = |what: String| ChangeError::Device { path: store.path().display().to_string(), what };
        if device >= MAX_DEVICES {
            return Err(refused(format!("a pool has at most {MAX_DEVICES} devices")));
        }
        vacant(inner, port, &store, device).await?;
        stores.push(Arc::clone(&store));
        let new = with_room(&old, &stores).map_err(ChangeError::Layout)?;
        if !new.list().iter().any(|e| e.device == device) {
            let least = FRONT + u64::from(new.segment_size());
            return Err(refused(format!("{} bytes are too few: it takes {least}", store.size())));
        }
        announce(inner, port, &stores, &new).await.map_err(refused)?;
        take(inner, stores, new);
        checkpoint_held(inner, port, false).await.map_err(change_failure)?;
        Ok(size(inner))
    }
}

/// The extents of a pool that has not failed.
fn usable(inner: &Inner) -> Result<Extents, ChangeError> {
    match inner.fault() {
        Some(fault) => Err(ChangeError::Failed(fault.to_owned())),
        None => Ok(inner.lock().checkpoints.superblock.extents.clone()),
    }
}

fn size(inner: &Inner) -> u64 {
    u64::from(inner.devices().segments()) * u64::from(inner.segment_size)
}

/// The table with all the room behind the extents of each device.
fn with_room(extents: &Extents, stores: &[Arc<FileStore>]) -> Result<Extents, ExtentError> {
    let segment = extents.segment_size();
    let end = |e: &Extent| e.start + u64::from(e.count) * u64::from(segment);
    let mut list = extents.list().to_vec();
    for (device, store) in (0..).zip(stores) {
        let used = list.iter().filter(|e| e.device == device).map(end).max().unwrap_or(FRONT);
        let count = Devices::room(store.size(), used, segment);
        if count == 0 {
            continue;
        }
        let index = list.len();
        let Some(last) = list.last_mut() else { continue };
        let first = last.first.saturating_add(last.count);
        if last.device == device && end(last) == used {
            // The list of extents is short: what can be one is one.
            last.count = last.count.checked_add(count).ok_or(ExtentError::Value { index: index - 1 })?;
        } else {
            list.push(Extent { device, first, count, start: used });
        }
    }
    Extents::new(segment, list)
}

/// Puts new segments into use. No checkpoint is under way.
fn take(inner: &Inner, stores: Vec<Arc<FileStore>>, extents: Extents) {
    let (segment, segments, devices) = (extents.segment_size(), extents.segments(), stores.len() as u32);
    let mut guard = inner.lock();
    let State { tables, space, checkpoints, weight, .. } = &mut *guard;
    inner.devices.store(Arc::new(Devices::new(stores, extents.list().to_vec(), segment)));
    tables.add_segments(segments - tables.geometry().segments);
    let changed = weight.sure;
    *space = Space::of(Shape { segments, segment_size: segment, changed, distance: inner.distance });
    checkpoints.superblock.devices = devices;
    checkpoints.superblock.extents = extents;
}

/// Sees that nothing would be lost with what stands on a device.
async fn vacant(inner: &Inner, port: &Port, store: &Arc<FileStore>, device: u32) -> Result<(), ChangeError> {
    let refused = |what: String| ChangeError::Device { path: store.path().display().to_string(), what };
    let own = inner.devices().stores().iter().any(|s| s.path() == store.path() && Arc::ptr_eq(s, store));
    if own {
        return Err(refused("it is a device of the pool already".into()));
    }
    match empty(port, store).await {
        Ok(()) => Ok(()),
        Err(CreateError::InUse { .. }) => {
            let copies =
                superblocks(port, &inner.page_buffers, store).await.map_err(|e| refused(e.to_string()))?;
            // One that this pool announced itself to and never listed holds nothing.
            let left = |l: &Superblock| l.pool == inner.keyring.pool() && l.device == device;
            match label(&copies) {
                Ok(l) if left(&l) => Ok(()),
                _ => Err(refused("its first MiB holds data; erase it first if that is not needed".into())),
            }
        }
        Err(e) => Err(refused(e.to_string())),
    }
}

/// Writes the superblocks of a device that is to join, and makes them durable. They name the present root and have the
/// present counter: between equals, the device of the lower number counts.
async fn announce(
    inner: &Arc<Inner>,
    port: &Port,
    stores: &[Arc<FileStore>],
    extents: &Extents,
) -> Result<(), String> {
    let words = |e: OpenError| e.to_string();
    let (joining, present) = stores.split_last().ok_or("a pool has devices")?;
    let mut newest = None;
    for store in present {
        let [first, second] = superblocks(port, &inner.page_buffers, store).await.map_err(words)?;
        let Ok(choice) = choose(&inner.keyring, &first, &second) else { continue };
        let newer = |n: &caisson_log::Choice| n.superblock.counter < choice.superblock.counter;
        if newest.as_ref().is_none_or(newer) {
            newest = Some(choice);
        }
    }
    let choice = newest.ok_or("no superblock of the pool can be read")?;
    let superblock = Superblock {
        device: present.len() as u32,
        devices: stores.len() as u32,
        extents: extents.clone(),
        ..choice.superblock
    };
    for at in SUPERBLOCK_AT {
        let nonce: [u8; XNONCE] = inner.random();
        let mut bytes = vec![0; SUPERBLOCK];
        superblock.seal(&inner.keyring, &choice.anchor, nonce, &mut bytes).map_err(|e| e.to_string())?;
        write_copy(inner, port, joining, at, &bytes).await.map_err(|e| format!("writing it failed: {e}"))?;
    }
    let sync =
        Io { store: Arc::clone(joining), kind: IoKind::Sync, offset: 0, bufs: caisson_block::BufList::new() };
    port.io(sync).await.map(drop).map_err(|e| format!("syncing it failed: {e}"))
}
