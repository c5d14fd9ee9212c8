//! The background of a pool: checkpoints, cleaning, deletion, one after the other, in one task.
//!
//! It is called when there may be something to do, does it in bounded pieces, and rests otherwise. The order is by
//! what others wait for: a checkpoint when the log or the memory of the tables asks for one, then room for those who
//! wait, then deletions.

use crate::bounds::SEGMENTS_AT_ONCE;
use crate::checkpoint::{Failure, checkpoint};
use crate::clean::{Cleaning, Mover, Step, Which};
use crate::maps;
use crate::reap::{self, Reaper};
use crate::state::{Inner, State};
use crate::weight::{self, look_due};
use caisson_block::BLOCK;
use caisson_tables::{Victim, VolumeId};
use caisson_task::{Port, Waiter};
use std::collections::BTreeSet;
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
    /// Bytes that the last checkpoint wrote.
    cost: u64,
    /// Segments that were cleaned and still hold something live: it cannot be had. They are left alone.
    hurt: Vec<(u32, u64)>,
    /// Volumes of destroyed domains that were unmapped.
    pub(crate) cleared: BTreeSet<VolumeId>,
    /// A volume was unmapped to its end since it was last looked whether its family's map key is to go.
    pub(crate) unmapped: bool,
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
        mover: Mover::default(),
        reaper: Reaper::default(),
        rounds: Rounds::default(),
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
    mover: Mover,
    reaper: Reaper,
    rounds: Rounds,
}

/// Rounds of cleaning, from checkpoint to checkpoint, since hosts did anything.
#[derive(Default)]
struct Rounds {
    /// What they had done.
    hosts: (u64, u64),
    number: u32,
    /// Bytes that became free, less those written for it.
    gain: i64,
    /// What the mover had used when the present round began.
    used: u64,
}

impl Steward<'_> {
    async fn turn(&mut self) -> Turn {
        if self.inner.fault().is_some() || self.inner.closing.load(Ordering::Acquire) {
            return Turn::End;
        }
        let look = look_due(self.inner, &self.inner.lock());
        if look {
            weight::look(self.inner, self.port).await;
        }
        let (due, low, boundary) = {
            let state = self.inner.lock();
            (checkpoint_due(self.inner, &state), low(&state), state.domains.boundary())
        };
        self.mover.leave_before(self.inner, boundary);
        if due {
            return self.checkpoint().await;
        }
        if low && let Some(turn) = self.clean().await {
            return turn;
        }
        // Enough is free, or no more can be gained.
        self.owe_nothing();
        if let Some(volume) = reap::dying(self.inner) {
            match self.reaper.step(self.inner, self.port, volume).await {
                Ok(_) => return Turn::Did,
                Err(_) if self.inner.fault().is_some() => return Turn::End,
                // What the last checkpoint freed, the next one gives to the log.
                Err(_) if self.log_may_grow() => return self.checkpoint().await,
                Err(error) => tracing::warn!("the deletion of volume {} is put off: {error}", volume.0),
            }
        }
        if maps::due(self.inner) {
            return self.checkpoint().await;
        }
        let gains = {
            let state = self.inner.lock();
            pressed(&state) && (available(&state) > 0 || !state.steward.cleaned.is_empty())
        };
        if gains { self.checkpoint().await } else { Turn::Nothing }
    }

    /// Hosts need not wait for the cleaner: it gains nothing now.
    fn owe_nothing(&self) {
        let waiters = {
            let mut state = self.inner.lock();
            match state.space.credit.take() {
                Some(credit) if credit <= 0 => std::mem::take(&mut state.room),
                _ => Vec::new(),
            }
        };
        waiters.into_iter().for_each(Waiter::wake);
    }

    /// Lets hosts go on while a checkpoint is written.
    fn lend(&self) {
        let waiters = {
            let mut guard = self.inner.lock();
            let State { space, log, room, .. } = &mut *guard;
            space.lend(log);
            std::mem::take(room)
        };
        waiters.into_iter().for_each(Waiter::wake);
    }

    async fn checkpoint(&mut self) -> Turn {
        self.lend();
        // What is on its way is left behind by segments that this frees.
        if self.mover.flush(self.inner, self.port).await.is_err() {
            return Turn::End;
        }
        let written = || self.inner.counters.checkpoint_bytes.load(Ordering::Relaxed);
        let before = written();
        let outcome = checkpoint(self.inner, self.port, false).await;
        self.inner.lock().space.settle(written() - before);
        match outcome {
            Ok(()) => {
                self.judge(written() - before);
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

    /// After a checkpoint that wrote so many bytes: what the cleaning before it was worth.
    fn judge(&mut self, cost: u64) {
        let hosts = self.done_by_hosts();
        let mut guard = self.inner.lock();
        let State { tables, steward, .. } = &mut *guard;
        steward.wanted = false;
        steward.cost = cost;
        steward.hurt.retain(|&(n, sequence)| tables.segment(n).sequence == sequence);
        let cleaned = std::mem::take(&mut steward.cleaned);
        if self.rounds.hosts != hosts {
            self.rounds = Rounds { hosts, used: self.rounds.used, ..Rounds::default() };
        }
        if !cleaned.is_empty() {
            let moved = self.mover.used - self.rounds.used;
            self.rounds.number += 1;
            self.rounds.gain += (cleaned.len() as u64 * u64::from(self.inner.segment_size)) as i64;
            self.rounds.gain -= (moved + cost) as i64;
        }
        self.rounds.used = self.mover.used;
        let left = cleaned
            .into_iter()
            .filter(|&(n, sequence)| tables.segment(n).sequence == sequence && tables.segment(n).live > 0);
        steward.hurt.extend(left);
    }

    /// Whether a checkpoint would give more segments to a log that is nearly at its end.
    fn log_may_grow(&self) -> bool {
        let state = self.inner.lock();
        state.log.space() <= state.space.log_reserve && available(&state) > 0
    }

    /// A figure that changes with whatever hosts write or give back.
    fn done_by_hosts(&self) -> (u64, u64) {
        let written = self.inner.counters.written.load(Ordering::Relaxed);
        (written, self.inner.lock().tables.stats().references)
    }

    /// Whether cleaning gains nothing any more, and will not until hosts do something.
    fn barren(&self) -> bool {
        let Rounds { hosts, number, gain, .. } = self.rounds;
        // Who waits is not refused as long as there is any gain; one of less than a segment a round shows after some.
        let (rounds, least) = match pressed(&self.inner.lock()) {
            true => (8, 1),
            false => (3, self.inner.segment_size / 4),
        };
        number >= rounds && gain < i64::from(number) * i64::from(least) && hosts == self.done_by_hosts()
    }

    /// Cleans a little. `None` when there is nothing to be gained.
    async fn clean(&mut self) -> Option<Turn> {
        if self.cleaning.is_none() {
            if self.barren() {
                return None;
            }
            let victim = self.best().await?;
            self.cleaning = Some(Cleaning::new(self.inner, victim.segment, Which::All));
        }
        let current = self.cleaning.as_mut()?;
        match current.step(self.inner, self.port, &mut self.mover).await {
            Step::More(bytes) => {
                // Its share of what the segment will have given.
                let gained = u64::from(current.gain) * u64::from(bytes) / u64::from(self.inner.segment_size);
                self.earned(gained);
                Some(Turn::Did)
            }
            Step::Done => {
                let mut state = self.inner.lock();
                state.steward.cleaned.push((current.segment, current.sequence));
                self.cleaning = None;
                Some(Turn::Did)
            }
            Step::NoRoom => {
                let gives = {
                    let state = self.inner.lock();
                    let cleaned = !state.steward.cleaned.is_empty();
                    cleaned || state.tables.emptied_segments() > 0 || state.tables.dirty().wait()
                };
                if !gives {
                    return None;
                }
                let turn = self.checkpoint().await;
                let room = {
                    let state = self.inner.lock();
                    state.tables.free_segments() > state.space.kept_from_cleaner()
                };
                if room || matches!(turn, Turn::End) { Some(turn) } else { None }
            }
            Step::Failed => Some(Turn::End),
        }
    }

    /// Lets hosts write so many bytes more.
    fn earned(&self, bytes: u64) {
        let waiters = {
            let mut state = self.inner.lock();
            state.space.earn(bytes);
            std::mem::take(&mut state.room)
        };
        waiters.into_iter().for_each(Waiter::wake);
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
                let victims = state.tables.victims(some, VICTIMS);
                // A segment that is nearly full of what is live costs more than it gives; an empty one needs no cleaning.
                let least = (geometry.segment_size / 32).max(2 * BLOCK as u32);
                let gains = |v: &Victim| v.live > 0 && v.live + least < geometry.segment_size && !known(v);
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
    let size = u64::from(inner.segment_size);
    // Segments that the log may use after a checkpoint, and not before.
    let gives = || {
        let available = u64::from(available(state));
        let want = inner.reserve_segments(state.tables.geometry().segments);
        let cost = state.steward.cost;
        let enough =
            available * size >= if pressed(state) { cost } else { state.space.worth.max(GAIN * cost) };
        available > 0 && state.log.reserved.len() < want && enough
    };
    state.steward.wanted
        || !state.checkpoint_waiters.is_empty()
        || state.log.since_checkpoint >= inner.distance
        || state.tables.dirty().checkpoint_due()
        || state.steward.cleaned.len() >= CLEANED_AT_ONCE
        || state.log.space() <= state.space.easy && gives()
}

/// Whether somebody waits for room in the log itself, and not only in the open batch.
fn pressed(state: &State) -> bool {
    !state.room.is_empty() && state.log.space() <= state.space.log_reserve
}

/// Segments that a checkpoint could give to the log.
fn available(state: &State) -> u32 {
    let free = state.tables.free_segments() + state.tables.emptied_segments();
    free.saturating_sub(state.space.kept_from_log(&state.log))
}

/// Whether there is so little free that the cleaner should work. What the next checkpoint frees counts.
pub(crate) fn low(state: &State) -> bool {
    let free = state.tables.free_segments() + state.tables.emptied_segments();
    pressed(state) || free + (state.log.reserved.len() as u32) < state.space.low
}

/// Segments that are cleaned between two checkpoints at most.
const CLEANED_AT_ONCE: usize = 64;

/// Of some thousand segments, so many of the best are looked at: all but one may be cleaned already.
const VICTIMS: usize = CLEANED_AT_ONCE * 2;

/// How often the bytes that a checkpoint writes are to be gained by it; once is enough while somebody has to wait.
const GAIN: u64 = 4;
