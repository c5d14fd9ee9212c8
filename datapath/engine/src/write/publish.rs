//! Publication: the part of a write that is done under the pool's lock, all or nothing.
//!
//! Owns what is looked at again there (is there room, is each duplicate still one, has nobody published the same meanwhile) and the
//! order in which map, counts, index and open batch change. It must never wait, hash, compress or read while it holds the lock.

use super::{Chunk, Known, Plan, Print, Published, Ways};
use crate::append::{kick, kick_later};
use crate::bounds::*;
use crate::space::Admit;
use crate::state::{Inner, State};
use crate::work::Blocks;
use caisson_block::{BlockError, BufList};
use caisson_index::Answer;
use caisson_log::{Record, RecordKind};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{BlockId, Entry, Found, Needs, Place, Slot, Stored, VolumeId};
use caisson_task::Port;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Chunk {
    /// Publishes the chunk, when there is room.
    pub(super) async fn publish(
        &mut self,
        inner: &Arc<Inner>,
        port: &Port,
        volume: VolumeId,
        first: u64,
        (data, from): (&BufList, usize),
        ways: Ways<'_>,
    ) -> Result<u64, BlockError> {
        let large = self.plans.len() > TURN_BLOCKS;
        let (mut tell, mut ahead) = (false, false);
        let outcome = loop {
            if large {
                port.next_slice().await;
            }
            if inner.fault().is_some() {
                break Err(BlockError::Failed);
            }
            let ticket = port.ticket();
            let tried = inner.with(port, |state| {
                let published = self.try_publish(inner, state, volume, first, ways)?;
                if matches!(published, Published::Wait) {
                    state.room.push(port.waiter(ticket));
                }
                if matches!(published, Published::In(_)) {
                    tell = state.log.tell(inner.batch_target);
                    ahead = ways.dedup && state.index.wants();
                }
                Ok(published)
            });
            match tried.await {
                Err(lost) => break Err(inner.lost(lost, first)),
                Ok(Published::In(batch)) => break Ok(batch),
                Ok(Published::Full) => {
                    // The next one may find room: what made it full was true when the steward looked last.
                    inner.call_steward();
                    break Err(BlockError::CapacityExceeded);
                }
                Ok(Published::Gone) => break Err(BlockError::KeyDestroyed),
                Ok(Published::Stale(index)) => {
                    // Once, however many blocks of the chunk have this content.
                    self.plans[index] = match self.twin(index, &mut [u64::MAX; 4], ways) {
                        Some(twin) => Plan::Twin(twin),
                        None => self.store(Blocks::new(data).get(from + index), ways.level),
                    };
                }
                Ok(Published::Wait) => {
                    kick(inner, port.remote());
                    inner.call_steward();
                    port.parked(ticket).await;
                }
            }
        };
        if !self.ids.is_empty() {
            inner.lock().tables.release(&self.ids);
        }
        if outcome.is_ok() {
            self.count(inner);
            match tell {
                // What is much is sealed while it is in the caches.
                true if large && self.stored_bytes < MOVED_BYTES as u64 => kick_later(inner, port.remote()),
                true => kick(inner, port.remote()),
                false => {}
            }
            if ahead {
                crate::summary::read_ahead(inner, port).await;
            }
        }
        outcome
    }

    fn count(&self, inner: &Inner) {
        let c = &inner.counters;
        let all = self.plans.len() as u64;
        let zero = self.plans.iter().filter(|p| matches!(p, Plan::Zero)).count() as u64;
        c.written.fetch_add(all, Ordering::Relaxed);
        c.zero.fetch_add(zero, Ordering::Relaxed);
        c.stored_bytes.fetch_add(self.stored_bytes, Ordering::Relaxed);
        // Also those that were found only when they were published.
        c.duplicate.fetch_add(all - zero - self.stored, Ordering::Relaxed);
    }

    /// One attempt, under the lock.
    fn try_publish(
        &mut self,
        inner: &Inner,
        state: &mut State,
        volume: VolumeId,
        first: u64,
        ways: Ways<'_>,
    ) -> Result<Published, Needs> {
        if ways.tenant.is_gone() && !on(Bug::DestroyedUncovered) {
            return Ok(Published::Gone);
        }
        let Some(epoch) = state.domains.epoch(ways.tenant.domain) else { return Ok(Published::Gone) };
        if !state.log.has_room(inner.batch_target, self.bytes.len()) {
            return Ok(Published::Wait);
        }
        match self.admit(state, volume, first)? {
            Admit::Go => {}
            Admit::Wait => return Ok(Published::Wait),
            Admit::Full => return Ok(Published::Full),
        }
        let Chunk { plans, prints, bytes, seen, ids, stored, stored_bytes, slots, new, journal, .. } = self;
        slots.clear();
        new.clear();
        journal.clear();
        let most = plans.iter().filter(|p| matches!(p, Plan::New { .. })).count();
        if ids.len() < most {
            state.tables.allocate(most - ids.len(), ids)?;
        }
        if plans.len() > 1 {
            let known = |plan: &Plan| if let Plan::Known(known) = plan { Some(known.number()) } else { None };
            state.tables.warm(plans.iter().filter_map(known));
            state.tables.warm_old(volume, first, plans.len());
        }
        // Nobody has published or read anything since: what was not found then is not there now.
        let calm = *seen == Some(state.index.changes());
        // Which blocks are found and which are stored is settled before anything is changed.
        for (index, plan) in plans.iter().enumerate() {
            slots.push(match *plan {
                Plan::Zero => Slot::Zero,
                Plan::Twin(of) => match slots[of] {
                    Slot::New(id) => Slot::Share(id),
                    same => same,
                },
                Plan::Known(known) => match still(state, known, &prints[index], plans.len())? {
                    Some(id) => Slot::Share(id),
                    None => return Ok(Published::Stale(index)),
                },
                // Another writer of the same content may have been first.
                Plan::New { .. } => match if calm { None } else { racing(state, &prints[index], ways)? } {
                    Some(id) => Slot::Share(id),
                    None => {
                        new.push(index);
                        Slot::New(ids[new.len() - 1])
                    }
                },
            });
        }
        if new.is_empty() && state.tables.has(volume, first, slots) {
            // Written over with what it is: nothing changes, and what made it so is durable with the last batch.
            (*stored, *stored_bytes) = (0, 0);
            return Ok(Published::In(state.log.last()));
        }
        let ready = state.tables.ready(volume, first, slots)?;
        state.tables.put_all(&ids[..new.len()], |n| how(&plans[new[n]], epoch))?;
        state.tables.write_ready(ready, volume, first, slots, journal);
        let moved = bytes.is_large() && !new.is_empty();
        if moved {
            state.log.take(bytes);
        }
        for (&index, &id) in new.iter().zip(&*ids) {
            let Plan::New { from, len, .. } = plans[index] else { continue };
            let (print, how) = (prints[index], how(&plans[index], epoch));
            let record = Record {
                kind: RecordKind::Block,
                id: id.get(),
                length: how.length,
                codec: how.codec,
                domain: ways.tenant.domain,
                epoch: how.epoch,
                print,
                from: None,
            };
            match moved {
                true => state.log.push_moved(id, record, (from, len)),
                false => state.log.push(id, record, bytes.get(from, len)),
            }
            if print != [0; 16] {
                state.index.pending_insert(print, id.get());
            }
        }
        ids.drain(..new.len());
        *stored = new.len() as u64;
        *stored_bytes = new.iter().map(|&index| u64::from(how(&plans[index], epoch).length)).sum();
        state.log.journal(journal);
        Ok(Published::In(state.log.last()))
    }

    /// Whether the pool takes the chunk.
    fn admit(&self, state: &mut State, volume: VolumeId, first: u64) -> Result<Admit, Needs> {
        let stored = |p: &Plan| match p {
            Plan::New { len, .. } => *len as u64 + caisson_log::TAG as u64,
            _ => 0,
        };
        let bytes: u64 = self.plans.iter().map(stored).sum();
        let State { tables, log, space, .. } = state;
        match space.admit(tables, log, bytes) {
            Admit::Full => {
                // What replaces blocks that nobody else holds needs no more room than it gives back.
                let mut found = Vec::with_capacity(self.plans.len());
                tables.find(volume, first, self.plans.len() as u64, &mut found)?;
                let back: u64 = found.iter().map(freed).sum();
                Ok(space.admit_overwrite(tables, log, bytes, back))
            }
            other => Ok(other),
        }
    }
}

/// The duplicate that was found for one of a chunk's `blocks`, if it still is one.
fn still(state: &mut State, known: Known, print: &Print, blocks: usize) -> Result<Option<BlockId>, Needs> {
    if on(Bug::CheckedEarly) && blocks <= TURN_BLOCKS {
        return Ok(BlockId::new(known.number()));
    }
    check(state, known, print)
}

/// How a new block is stored.
fn how(plan: &Plan, epoch: u16) -> Stored {
    match *plan {
        Plan::New { codec, len, .. } => Stored { length: len as u16, codec, epoch },
        _ => unreachable!("only new blocks are stored"),
    }
}

/// Bytes that overwriting a block gives back.
fn freed(found: &Found) -> u64 {
    match found {
        Found::At { entry, .. } if entry.refs == 1 => {
            u64::from(entry.stored.length) + caisson_log::TAG as u64
        }
        _ => 0,
    }
}

/// Whether it may be shared at this moment.
pub(super) fn live_now(state: &mut State, known: Known, print: &Print) -> bool {
    matches!(check(state, known, print), Ok(Some(_)))
}

/// The block that the index named, if it is still that block and may be shared.
fn check(state: &mut State, known: Known, print: &Print) -> Result<Option<BlockId>, Needs> {
    let number = known.number();
    let Some(id) = BlockId::new(number) else { return Ok(None) };
    let shareable = match known {
        Known::At(_) if on(Bug::UncheckedCandidate) => state.tables.entry(id)?.is_some(),
        Known::At(at) => {
            let place = Place { segment: at.segment, offset: at.offset };
            state.tables.candidate(id, place, at.sequence)?.is_some()
        }
        // Of a batch that is still open: its id cannot have been used again.
        Known::Pending(_, batch) => {
            // As `candidate` has it: what is far from the maximum cannot reach it by snapshots either.
            let most = state.tables.geometry().max_refs / 2;
            let fits = |e: &Entry| e.place.is_pending() && e.refs > 0 && e.refs < most;
            batch == state.log.open() && state.tables.entry(id)?.is_some_and(|e| fits(&e))
        }
    };
    if !shareable {
        match known {
            Known::Pending(..) => state.index.pending_remove(print, number),
            Known::At(_) => state.index.forget(print, number),
        }
    }
    Ok(shareable.then_some(id))
}

/// A block of the same content that was published since this one was looked up.
fn racing(state: &mut State, print: &Print, ways: Ways<'_>) -> Result<Option<BlockId>, Needs> {
    if !ways.dedup || ways.verify || *print == [0; 16] {
        return Ok(None);
    }
    match state.index.look_again(print) {
        Answer::Pending(id) => check(state, Known::Pending(id, state.log.open()), print),
        Answer::Hit(candidate) => check(state, Known::At(candidate), print),
        Answer::Fetch(_) | Answer::Miss => Ok(None),
    }
}
