//! Giving the room of freed segments back to the file system.
//!
//! A segment is free when the checkpoint is durable that no longer needs it. Before its bytes are given back it is set
//! aside, so that nothing is written to it meanwhile; a segment that is in use again by then is left alone. It never waits
//! for anything, and it takes no segment that the pool may soon have to write to.

use crate::state::{Inner, State};
use caisson_block::{BufList, IoKind};
use caisson_tables::Place;
use caisson_task::Port;
use std::sync::Arc;

/// Free segments beyond those kept for checkpoints and the cleaner that are always left to be written to.
const LEFT: u32 = 4;

/// Gives back one segment, if there is one to be given back.
pub(crate) async fn step(inner: &Arc<Inner>, port: &Port) -> bool {
    let Some(segment) = take(inner) else { return false };
    let devices = inner.devices();
    let len = u64::from(inner.segment_size);
    let window = devices.window(Place { segment, offset: 0 }, len as usize);
    let io = window.and_then(|w| devices.io(w, IoKind::PunchHole { len }, BufList::new()));
    let punched = match io.filter(|io| io.store.punches()) {
        Some(io) => port.io(io).await.is_ok(),
        None => false,
    };
    let mut state = inner.lock();
    state.tables.unreserve(segment);
    state.chores.punched += if punched { len } else { 0 };
    true
}

/// Sets a freed segment aside.
fn take(inner: &Inner) -> Option<u32> {
    let mut guard = inner.lock();
    let State { tables, chores, space, .. } = &mut *guard;
    if tables.free_segments() <= space.checkpoint_segments + space.cleaner_segments + LEFT {
        return None;
    }
    // The highest: those are written to last.
    while let Some(segment) = chores.freed.pop_last() {
        if tables.reserve_one(segment) {
            return Some(segment);
        }
    }
    None
}
