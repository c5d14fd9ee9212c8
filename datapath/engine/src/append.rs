//! Writes closed batches to the devices and makes them durable.
//!
//! Whoever publishes gives a [kick](kick): at its thread's next turn the open batch is closed, if it is due, sealed there
//! and written; or, behind a large write that stores little, [when those in line](kick_later) have had their turn. So all that one turn of
//! a thread publishes goes into one batch, and what comes while a batch is under way goes into the next: nobody waits longer than
//! a write takes, and load makes batches large by itself.

use crate::bounds::{SEAL_FIRST_BLOCKS, SEAL_TURN_BLOCKS, WRITE_PIECE};
use crate::devices::Devices;
use crate::log::Closed;
use crate::state::{Inner, State};
use crate::steward::{checkpoint_due, low};
use crate::weight::look_due;
use caisson_block::{BlockError, BufList, Cx, Heavy, IoKind, Parked, Remote};
use caisson_tables::Place;
use caisson_tables::planted::{Bug, on};
use caisson_task::{Io, Port, Task};
use std::sync::Arc;

/// Tokens that the pool is woken with.
const CLOSE: u64 = 0;
const SYNC: u64 = 1;

/// Has the log looked at on this thread, at its next turn.
pub(crate) fn kick(inner: &Arc<Inner>, remote: &Arc<dyn Remote>) {
    remote.wake(Arc::clone(inner) as _, CLOSE);
}

/// As [`kick`], behind the heavy work that waits for this thread now: what that publishes goes into the same batch, of which each costs
/// a header, a write and some pages' padding. For those who wait for no batch; whoever waits for one kicks.
pub(crate) fn kick_later(inner: &Arc<Inner>, remote: &Arc<dyn Remote>) {
    remote.wake_later(Arc::clone(inner) as _, CLOSE, Heavy::New);
}

impl Parked for Inner {
    fn woken(self: Arc<Self>, cx: &mut Cx<'_>, token: u64) {
        if token == SYNC {
            let inner = Arc::clone(&self);
            Task::spawn(cx, |port| async move { sync_round(&inner, &port).await });
            return;
        }
        while let Some(closed) = self.close_due() {
            let inner = Arc::clone(&self);
            Task::spawn(cx, |port| async move { write(&inner, &port, closed).await });
        }
    }
}

impl Inner {
    fn close_due(&self) -> Option<Closed> {
        if self.fault().is_some() {
            return None;
        }
        let (closed, steward) = {
            let mut guard = self.lock();
            let State { tables, index, log, space, domains, .. } = &mut *guard;
            let segment = log.tail.map(|t| t.segment);
            let closed = if log.due(self.batch_target) { log.close(tables, index) } else { None };
            if let Some(closed) = &closed {
                domains.count(closed.plan.header_len(), &closed.load.records);
            }
            space.spend(log, closed.as_ref().map_or(0, |closed| closed.plan.total_len()));
            let entered = log.tail.map(|t| t.segment) != segment;
            // Before anybody has to wait for it.
            let call = closed.is_some()
                && (checkpoint_due(self, &guard) || look_due(self, &guard) || entered && low(&guard));
            (closed, if call { guard.steward.call() } else { None })
        };
        steward.into_iter().for_each(caisson_task::Waiter::wake);
        closed
    }
}

/// Seals a batch and writes it; then whatever waited for that goes on.
pub(crate) async fn write(inner: &Arc<Inner>, port: &Port, closed: Closed) {
    let sequence = closed.stamp.batch;
    let result = put(inner, port, closed).await;
    if let Err(reason) = result {
        inner.fail(reason);
        return;
    }
    let (waiters, more) = {
        let mut state = inner.lock();
        state.log.wrote(sequence);
        (std::mem::take(&mut state.room), state.log.due(inner.batch_target))
    };
    waiters.into_iter().for_each(caisson_task::Waiter::wake);
    if more {
        kick(inner, port.remote());
    }
    sync_round(inner, port).await;
}

async fn put(inner: &Arc<Inner>, port: &Port, closed: Closed) -> Result<(), String> {
    let Closed { load, plan, stamp, mut out } = closed;
    let failed = |e| format!("a batch could not be sealed: {e}");
    let mut end = plan.header_len();
    plan.seal_header(&inner.keyring, &stamp, &mut out[..end]).map_err(failed)?;
    for index in 0..load.records.len() {
        let over = index % SEAL_TURN_BLOCKS == 0 || index >= SEAL_FIRST_BLOCKS && port.slice_is_over();
        if index > 0 && over {
            port.next_slice().await;
        }
        let range = plan.range(index);
        end = range.end;
        let sealed = plan.seal_record(&inner.keyring, &stamp, index, load.payload(index), &mut out[range]);
        sealed.map_err(failed)?;
    }
    out[end..].fill(0);
    let place = Place { segment: stamp.segment, offset: stamp.at.offset };
    store(inner, port, place, BufList::from(out.freeze())).await
}

/// Writes whole pages at `place`.
pub(crate) async fn store(inner: &Inner, port: &Port, place: Place, bytes: BufList) -> Result<(), String> {
    let devices = inner.devices();
    let ios = pieces(&devices, place, bytes);
    let ios = ios.ok_or_else(|| format!("something was placed outside of the pool, at {place:?}"))?;
    let ends = port.ios(ios).await;
    ends.into_iter().find_map(Result::err).map_or(Ok(()), |e| Err(format!("writing failed: {e}")))
}

/// The operations that write `bytes` at `place`: several, so that a thread that copies what it writes (to a file in memory,
/// or in the page cache) may do other things in between. `None` outside of the pool.
fn pieces(devices: &Devices, place: Place, mut bytes: BufList) -> Option<Vec<Io>> {
    let mut ios = Vec::with_capacity(bytes.len().div_ceil(WRITE_PIECE));
    let mut offset = place.offset;
    while !bytes.is_empty() {
        let piece = bytes.split_to(WRITE_PIECE);
        let len = piece.len();
        let place = Place { offset, ..place };
        let window = devices.window(place, len).filter(|w| w.skip == 0 && w.len == len)?;
        ios.push(devices.io(window, IoKind::Write { dsync: false }, piece)?);
        offset = offset.checked_add(len as u32)?;
    }
    Some(ios)
}

/// Makes what is written durable, as long as somebody waits for that. One round at a time; who comes meanwhile shares
/// the next.
pub(crate) async fn sync_round(inner: &Arc<Inner>, port: &Port) {
    loop {
        let target = {
            let mut state = inner.lock();
            if inner.fault().is_some() || !state.log.sync_due() {
                return;
            }
            state.log.syncing = true;
            state.log.written
        };
        let result = sync_devices(inner, port).await;
        let waiters = {
            let mut state = inner.lock();
            state.log.syncing = false;
            let mut waiters = if result.is_ok() { state.log.synced(target) } else { Vec::new() };
            waiters.extend(crate::witness::watch(&mut state));
            waiters
        };
        waiters.into_iter().for_each(caisson_task::Waiter::wake);
        if let Err(reason) = result {
            return inner.fail(reason);
        }
    }
}

/// Syncs all devices.
pub(crate) async fn sync_devices(inner: &Inner, port: &Port) -> Result<(), String> {
    if on(Bug::SkippedSync) {
        return Ok(());
    }
    let ends = port.ios(inner.devices().syncs()).await;
    match ends.into_iter().find_map(Result::err) {
        None => Ok(()),
        Some(e) => Err(format!("syncing failed: {e}")),
    }
}

/// Waits until batch `sequence` and all before it are durable.
///
/// # Errors
/// [`BlockError::Failed`] when the pool has failed.
pub(crate) async fn durable(inner: &Arc<Inner>, port: &Port, sequence: u64) -> Result<(), BlockError> {
    loop {
        let ticket = port.ticket();
        {
            let mut state = inner.lock();
            if state.log.durable >= sequence || on(Bug::AckBeforeDurable) {
                return Ok(());
            }
            if inner.fault().is_some() {
                return Err(BlockError::Failed);
            }
            state.log.wait(sequence, port.waiter(ticket));
            if state.log.written >= sequence && !state.log.syncing {
                port.remote().wake(Arc::clone(inner) as _, SYNC);
            }
        }
        kick(inner, port.remote());
        port.parked(ticket).await;
    }
}

/// Makes everything that was published before durable.
///
/// # Errors
/// [`BlockError::Failed`] when the pool has failed.
pub(crate) async fn flush(inner: &Arc<Inner>, port: &Port) -> Result<(), BlockError> {
    let last = inner.lock().log.last();
    durable(inner, port, last).await
}
