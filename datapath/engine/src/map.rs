//! Changes of a volume's map that store nothing: unmapping, and the mark "unreadable".

use crate::append::kick;
use crate::bounds::CHUNK_BLOCKS;
use crate::space::{Admit, Who};
use crate::state::{Inner, State};
use caisson_block::BlockError;
use caisson_tables::{Needs, Slot, VolumeId};
use caisson_task::Port;
use std::sync::Arc;

/// What came of an attempt.
enum Tried {
    /// Blocks are done, durable with that batch.
    Did(Did, u64),
    Wait,
    Full,
}

/// Unmaps `count` blocks from `first` on, which are claimed alone or belong to a volume that nobody uses. Gives the
/// batch that it is durable with.
///
/// # Errors
/// [`BlockError::Failed`], [`BlockError::Unreadable`] when a page of the map is lost, [`BlockError::CapacityExceeded`]
/// when there is no room even for that.
pub(crate) async fn unmap(
    inner: &Arc<Inner>,
    port: &Port,
    volume: VolumeId,
    first: u64,
    count: u64,
    who: Who,
) -> Result<u64, BlockError> {
    let done = each(inner, port, (first, count), who, |state, at, left| unmap_some(state, volume, at, left));
    done.await.map(|(_, batch)| batch)
}

/// As [`unmap`], for the steward, which is to do something else when a checkpoint is due: what changes more of the tables has hosts
/// wait for it. Gives the block that it came to.
///
/// # Errors
/// As [`unmap`].
pub(crate) async fn unmap_for_now(
    inner: &Arc<Inner>,
    port: &Port,
    volume: VolumeId,
    first: u64,
    count: u64,
) -> Result<u64, BlockError> {
    let done = each(inner, port, (first, count), Who::Steward, |state, at, left| {
        let did = unmap_some(state, volume, at, left)?;
        // What is left is for the next call.
        Ok(if state.tables.dirty().checkpoint_due() { Did::Last(did.blocks()) } else { did })
    });
    done.await.map(|(at, _)| at)
}

fn unmap_some(state: &mut State, volume: VolumeId, at: u64, left: u64) -> Result<Did, Needs> {
    let mut journal = Vec::new();
    let did = state.tables.unmap(volume, at, left, &mut journal)?;
    state.log.journal(&journal);
    Ok(Did::More(did))
}

/// How many blocks a step did, and whether others are to follow.
enum Did {
    More(u64),
    Last(u64),
}

impl Did {
    fn blocks(&self) -> u64 {
        let (Did::More(blocks) | Did::Last(blocks)) = *self;
        blocks
    }
}

/// Marks blocks unreadable. As [`unmap`].
///
/// # Errors
/// As [`unmap`].
pub(crate) async fn mark(
    inner: &Arc<Inner>,
    port: &Port,
    volume: VolumeId,
    first: u64,
    count: u64,
) -> Result<u64, BlockError> {
    let done = each(inner, port, (first, count), Who::Anybody, |state, at, left| {
        let slots = vec![Slot::Unreadable; left.min(CHUNK_BLOCKS as u64) as usize];
        let mut journal = Vec::new();
        state.tables.write(volume, at, &slots, &mut journal)?;
        state.log.journal(&journal);
        Ok(Did::More(slots.len() as u64))
    });
    done.await.map(|(_, batch)| batch)
}

/// Calls `step` for pieces of the range until it is done, each under the lock and with room in the log. Gives the block that it
/// came to, and the batch that it is durable with.
async fn each(
    inner: &Arc<Inner>,
    port: &Port,
    (first, count): (u64, u64),
    who: Who,
    mut step: impl FnMut(&mut State, u64, u64) -> Result<Did, Needs>,
) -> Result<(u64, u64), BlockError> {
    let (mut at, mut end, mut batch) = (first, first + count, 0);
    // A piece is up to a leaf's 512 blocks, and hosts send many such commands at once.
    if count > CHUNK_BLOCKS as u64 {
        port.slice().await;
    }
    while at < end {
        if inner.fault().is_some() {
            return Err(BlockError::Failed);
        }
        let ticket = port.ticket();
        let tried = inner.with(port, |state| {
            let has_room = state.log.has_room(inner.batch_target, 0);
            let room = if has_room { state.space.admit_deletion(&state.log, who) } else { Admit::Wait };
            match room {
                Admit::Go => {
                    let did = step(state, at, end - at)?;
                    Ok(Tried::Did(did, state.log.last()))
                }
                Admit::Full => Ok(Tried::Full),
                Admit::Wait if who == Who::Steward && has_room => Ok(Tried::Full),
                Admit::Wait => {
                    state.room.push(port.waiter(ticket));
                    Ok(Tried::Wait)
                }
            }
        });
        match tried.await.map_err(|lost| inner.lost(lost, at))? {
            Tried::Did(did, last) => {
                at += did.blocks().max(1);
                batch = last;
                if matches!(did, Did::Last(_)) {
                    end = at;
                }
                kick(inner, port.remote());
                if at < end {
                    port.next_slice().await;
                }
            }
            Tried::Full => return Err(BlockError::CapacityExceeded),
            Tried::Wait => {
                kick(inner, port.remote());
                inner.call_steward();
                port.parked(ticket).await;
            }
        }
    }
    Ok((at, batch))
}
