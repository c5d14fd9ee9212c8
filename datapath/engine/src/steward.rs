//! The background of a pool: checkpoints, cleaning, deletion, one after the other, in one task.
//!
//! It is called when there may be something to do, does it in bounded pieces, and rests otherwise. The order is by
//! what others wait for: a checkpoint when the log or the memory of the tables asks for one, then room for those who
//! wait, then deletions.

use crate::bounds::SEGMENTS_AT_ONCE;
use crate::checkpoint::{Failure, checkpoint};
use crate::clean::{Cleaning, Step};
use crate::reap::{self, Reaper};
use crate::state::{Inner, State};
use caisson_tables::{SegmentState, Victim};
use caisson_task::{Port, Waiter};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the steward remembers.
#[derive(Default)]
pub(crate) struct Stewardship {
    /// The steward, when it rests.
    waiter: Option<Waiter>,
    /// How often it was called.
    calls: u64,
    /// Whether it runs.
    pub(crate) runs: bool,
    /// Segments that were cleaned since the last checkpoint, with their sequences.
    cleaned: Vec<(u32, u64)>,
    /// Segments that were cleaned and still hold something live: it cannot be had. They are left alone.
    hurt: Vec<(u32, u64)>,
    /// Somebody wants a checkpoint.
    pub(crate) wanted: bool,
}

impl Stewardship {
    /// Has it look around.
    #[must_use]
    pub(crate) fn call(&mut self) -> Option<Waiter> {
        self.calls += 1;
        self.waiter.take()
    }
}

/// Runs until the pool is closed or has failed.
pub(crate) async fn run(inner: Arc<Inner>, port: Port) {
    inner.lock().steward.runs = true;
    crate::chores::start(&inner, &port).await;
    let mut steward = Steward {
        inner: &inner,
        port: &port,
        cleaning: None,
        reaper: Reaper::default(),
        round: None,
        barren: None,
    };
    loop {
        let (calls, knew) = {
            let state = inner.lock();
            (state.steward.calls, pressed(&state))
        };
        match steward.turn().await {
            Turn::Did => port.pause().await,
            Turn::End => break,
            Turn::Nothing => steward.rest(calls, knew).await,
        }
    }
    let waiters = {
        let mut state = inner.lock();
        state.steward.runs = false;
        let mut waiters = std::mem::take(&mut state.room);
        waiters.append(&mut state.checkpoint_waiters);
        waiters
    };
    waiters.into_iter().for_each(Waiter::wake);
}

/// What a turn came to.
enum Turn {
    Did,
    Nothing,
    End,
}

struct Steward<'a> {
    inner: &'a Arc<Inner>,
    port: &'a Port,
    cleaning: Option<Cleaning>,
    reaper: Reaper,
    /// How many segments were in use when the cleaning since the last checkpoint began.
    round: Option<usize>,
    /// What hosts had done when a round of cleaning gained nothing: until they do more, another would not either.
    barren: Option<(u64, u64)>,
}

impl Steward<'_> {
    async fn turn(&mut self) -> Turn {
        if self.inner.fault().is_some() || self.inner.closing.load(Ordering::Acquire) {
            return Turn::End;
        }
        let (due, low) = {
            let state = self.inner.lock();
            (checkpoint_due(self.inner, &state), low(&state))
        };
        if due {
            return self.checkpoint().await;
        }
        if low && let Some(turn) = self.clean().await {
            return turn;
        }
        if let Some(volume) = reap::dying(self.inner) {
            match self.reaper.step(self.inner, self.port, volume).await {
                Ok(_) => return Turn::Did,
                Err(_) if self.inner.fault().is_some() => return Turn::End,
                // What the last checkpoint freed, the next one gives to the log.
                Err(_) if self.log_may_grow() => return self.checkpoint().await,
                Err(error) => tracing::warn!("the deletion of volume {} is put off: {error}", volume.0),
            }
        }
        let cleaned = {
            let state = self.inner.lock();
            !state.room.is_empty() && !state.steward.cleaned.is_empty()
        };
        if cleaned { self.checkpoint().await } else { Turn::Nothing }
    }

    async fn checkpoint(&mut self) -> Turn {
        match checkpoint(self.inner, self.port, false).await {
            Ok(()) => {
                self.judge_round().await;
                let mut guard = self.inner.lock();
                let State { tables, steward, .. } = &mut *guard;
                steward.wanted = false;
                steward.hurt.retain(|&(n, sequence)| tables.segment(n).sequence == sequence);
                let cleaned = std::mem::take(&mut steward.cleaned);
                let left = cleaned.into_iter().filter(|&(n, sequence)| {
                    tables.segment(n).sequence == sequence && tables.segment(n).live > 0
                });
                steward.hurt.extend(left);
                Turn::Did
            }
            Err(Failure::NoSpace) => {
                tracing::warn!("no free segment is left for a checkpoint");
                self.inner.lock().steward.wanted = false;
                Turn::Nothing
            }
            Err(Failure::Failed(_)) => Turn::End,
        }
    }

    /// Whether a checkpoint would give more segments to a log that is nearly at its end.
    fn log_may_grow(&self) -> bool {
        let state = self.inner.lock();
        state.log.space() <= state.space.log_reserve
            && state.tables.free_segments() > state.space.kept_for_checkpoints(&state.log)
    }

    /// A figure that changes with whatever hosts write or give back.
    fn done_by_hosts(&self) -> (u64, u64) {
        let written = self.inner.counters.written.load(Ordering::Relaxed);
        (written, self.inner.lock().tables.stats().references)
    }

    /// Segments that hold something, or may.
    async fn segments_in_use(&self) -> usize {
        let (mut from, mut used) = (0, 0);
        loop {
            {
                let state = self.inner.lock();
                let segments = state.tables.geometry().segments;
                let to = segments.min(from + SEGMENTS_AT_ONCE);
                used += (from..to).filter(|&n| state.tables.segment(n).state == SegmentState::Closed).count();
                if to == segments {
                    return used;
                }
                from = to;
            }
            self.port.pause().await;
        }
    }

    /// After a checkpoint: whether the cleaning before it was worth anything.
    async fn judge_round(&mut self) {
        if let Some(before) = self.round.take() {
            let now = self.segments_in_use().await;
            self.barren = (now >= before).then(|| self.done_by_hosts());
        }
    }

    /// Cleans a little. `None` when there is nothing to be gained.
    async fn clean(&mut self) -> Option<Turn> {
        if self.cleaning.is_none() {
            if self.barren == Some(self.done_by_hosts()) {
                return None;
            }
            if self.round.is_none() {
                self.round = Some(self.segments_in_use().await);
            }
            let victim = self.best().await?;
            self.cleaning = Some(Cleaning::new(self.inner, victim.segment));
        }
        let current = self.cleaning.as_mut()?;
        match current.step(self.inner, self.port).await {
            Step::More => Some(Turn::Did),
            Step::Done => {
                let segment = current.segment;
                self.cleaning = None;
                let mut state = self.inner.lock();
                let sequence = state.tables.segment(segment).sequence;
                state.steward.cleaned.push((segment, sequence));
                Some(Turn::Did)
            }
            Step::NoRoom => {
                let mut turn = self.checkpoint().await;
                if matches!(turn, Turn::Did) && self.log_may_grow() {
                    turn = self.checkpoint().await;
                }
                let room = {
                    let state = self.inner.lock();
                    state.log.space() > state.space.cleaner_reserve
                };
                if room || matches!(turn, Turn::End) { Some(turn) } else { None }
            }
            Step::Failed => Some(Turn::End),
        }
    }

    /// The segment whose cleaning gains most, if any gains enough.
    async fn best(&self) -> Option<Victim> {
        let mut best: Option<Victim> = None;
        let mut from = 0;
        loop {
            {
                let state = self.inner.lock();
                let geometry = *state.tables.geometry();
                if from >= geometry.segments {
                    return best.filter(|v| state.tables.segment(v.segment).sequence == v.sequence);
                }
                let known = |v: &Victim| {
                    let name = (v.segment, v.sequence);
                    state.steward.hurt.contains(&name)
                        || state.steward.cleaned.contains(&name)
                        || state.log.writes_to(v.segment)
                };
                let some = from..geometry.segments.min(from + SEGMENTS_AT_ONCE);
                let victims = state.tables.victims(some, CLEANED_AT_ONCE * 4);
                // A segment that is nearly full of what is live costs more than it gives; an empty one needs no cleaning.
                let gains = |v: &Victim| v.live > 0 && v.live < geometry.segment_size / 32 * 31 && !known(v);
                let here = victims.into_iter().find(gains);
                best = [best, here].into_iter().flatten().max_by(|a, b| {
                    let score = |v: &Victim| state.tables.profit(v);
                    score(a).total_cmp(&score(b)).then(b.segment.cmp(&a.segment))
                });
            }
            from += SEGMENTS_AT_ONCE;
            self.port.pause().await;
        }
    }

    /// Rests until it is called. Who waits for room is told that none can be made; `knew` says whether the last turn, which
    /// came to nothing, knew that somebody waits.
    async fn rest(&mut self, calls: u64, knew: bool) {
        let ticket = self.port.ticket();
        let waiters = {
            let mut state = self.inner.lock();
            // Who began to wait during the last turn, and is about to call, was not looked at by it.
            if state.steward.calls != calls || pressed(&state) && !knew {
                return;
            }
            // True for those who wait now for room in the log: whoever comes later has it looked at again.
            state.space.exhausted = pressed(&state);
            state.steward.waiter = Some(self.port.waiter(ticket));
            std::mem::take(&mut state.room)
        };
        waiters.into_iter().for_each(Waiter::wake);
        self.port.parked(ticket).await;
        self.inner.lock().space.exhausted = false;
    }
}

/// Whether it is time for a checkpoint.
pub(crate) fn checkpoint_due(inner: &Inner, state: &State) -> bool {
    let changed = state.log.last() > state.checkpoints.covers;
    // Free segments that the log may use after a checkpoint, and not before.
    let short = state.log.space() <= 2 * state.space.log_reserve
        && state.tables.free_segments() > state.space.kept_for_checkpoints(&state.log)
        && (!state.room.is_empty() || state.log.since_checkpoint >= u64::from(inner.segment_size));
    state.steward.wanted
        || !state.checkpoint_waiters.is_empty()
        || state.log.since_checkpoint >= inner.distance
        || state.tables.dirty().checkpoint_due()
        || state.steward.cleaned.len() >= CLEANED_AT_ONCE
        || short && changed
        // Segments that the last checkpoint freed came too late to be reserved by it; those who wait change nothing.
        || pressed(state)
            && state.tables.free_segments() > state.space.checkpoint_segments
            && state.log.reserved.len() < inner.reserve_segments(state.tables.geometry().segments)
}

/// Whether somebody waits for room in the log itself, and not only in the open batch.
fn pressed(state: &State) -> bool {
    !state.room.is_empty() && state.log.space() <= state.space.log_reserve
}

/// Segments that are cleaned before a checkpoint makes them free.
const CLEANED_AT_ONCE: usize = 8;

/// Whether there is so little free that the cleaner should work.
pub(crate) fn low(state: &State) -> bool {
    let segments = state.tables.geometry().segments;
    let free = state.tables.free_segments() + state.log.reserved.len() as u32;
    pressed(state) || free < (segments / 8).max(state.space.checkpoint_segments + 6)
}
