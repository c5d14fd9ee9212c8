//! Sealing anew what earlier key epochs sealed, and the proof that nothing of it is left.
//!
//! Owns the order: every segment whose use began before the present epoch did is gone through, batch by batch, and what is live
//! in it of an earlier epoch is moved (of the pool's own domain: everything, for each header is sealed under it). Then the whole block table is
//! counted by epoch. Only an epoch that nothing was found of loses its key ([`crate::epochs`]). It goes on after a restart where the superblock
//! still has keys of earlier epochs. It works at a set pace, slower while hosts write, and takes no room that others may need.

use crate::checkpoint::{alone, checkpoint};
use crate::chores::Pace;
use crate::clean::{Cleaning, Mover, Step, Which};
use crate::epochs::retire;
use crate::state::{Inner, State};
use crate::witness::Due;
use caisson_block::Mono;
use caisson_keys::{FIRST_EPOCH, POOL_DOMAIN};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{Census, SegmentState, Use};
use caisson_task::Port;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes a second that are read and moved.
const RATE: u64 = 64 << 20;

/// What a byte counts as while hosts write.
const BESIDE_HOSTS: u64 = 4;

/// Segments that one step passes by.
const SEGMENTS_AT_ONCE: u32 = 4096;

/// How long it waits for room, and after a round that left something: at first, and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// How far the sealing anew is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResealStatus {
    /// Whether something is sealed under an earlier epoch, or may be.
    pub running: bool,
    /// Segments that this round has looked at, and how many there are.
    pub segments: (u32, u32),
    /// Bytes that were read or moved for it since the pool was opened.
    pub bytes: u64,
    /// Rounds that were begun since the pool was opened.
    pub rounds: u64,
    /// Blocks and pages that the last count found under earlier epochs; nothing before the first.
    pub left: Option<u64>,
    /// What it waits for, in words.
    pub waits: Option<String>,
}

/// The task's part.
#[derive(Default)]
pub(crate) struct Reseal {
    round: Option<Round>,
    /// When the next round may begin, and how long the one after that waits.
    next: Mono,
    wait: Duration,
    /// After how many beginnings of epochs that was decided.
    switches: u64,
}

enum Phase {
    Segments,
    Flush,
    /// What is found, and how often any epoch had begun when this did: of one that ended since, not everything was counted.
    Count(Box<Census>, u64),
}

/// One round over all segments.
struct Round {
    pace: Pace,
    /// Uses of segments that began earlier are gone through: for the pool's own domain, and for the others.
    before: (u64, u64),
    /// The epochs of the others that seal now.
    now: Arc<[(u32, u16)]>,
    segment: u32,
    cleaning: Option<Cleaning>,
    mover: Mover,
    phase: Phase,
    /// What hosts had written at the last step.
    written: u64,
    /// Room was short: not before then.
    until: Mono,
}

fn later(now: Mono, by: Duration) -> Mono {
    Mono(now.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
}

/// Changes what is told.
fn tell(inner: &Inner, f: impl FnOnce(&mut ResealStatus)) {
    f(inner.lock().chores.resealed.get_or_insert_default());
}

impl Reseal {
    /// A piece of the work, if there is any.
    pub(crate) async fn step(&mut self, inner: &Arc<Inner>, port: &Port) -> Due {
        let now = port.now();
        let Some(round) = &mut self.round else { return self.begin(inner, port, now).await };
        let due = round.pace.due().max(round.until);
        if due > now {
            return Due::At(due);
        }
        if !round.step(inner, port).await {
            return Due::Did;
        }
        let round = self.round.take();
        let left = match round.map(|r| r.phase) {
            Some(Phase::Count(census, switches)) => end(inner, port, &census, switches).await,
            _ => true,
        };
        if left {
            self.next = later(port.now(), self.wait);
            self.wait = (self.wait * 2).min(PATIENCE.1);
        }
        Due::Did
    }

    async fn begin(&mut self, inner: &Arc<Inner>, port: &Port, now: Mono) -> Due {
        let (boundary, switches) = {
            let state = inner.lock();
            (state.domains.boundary(), state.domains.switches)
        };
        if boundary == 0 {
            return Due::Nothing;
        }
        if self.switches != switches || self.wait.is_zero() {
            (self.switches, self.next, self.wait) = (switches, now, PATIENCE.0);
        }
        if self.next > now {
            return Due::At(self.next);
        }
        leave_tails(inner, port, boundary).await;
        self.round = Some(Round::new(inner, now));
        tell(inner, |s| {
            (s.running, s.segments.0) = (true, 0);
            s.rounds += 1;
        });
        Due::Did
    }
}

/// Ends the segments that are being filled since before the epochs began, so that they can be gone through.
async fn leave_tails(inner: &Arc<Inner>, port: &Port, boundary: u64) {
    {
        let _alone = alone(inner, port).await;
        let State { tables, log, checkpoints, .. } = &mut *inner.lock();
        log.leave_before(boundary, tables);
        if let Some(tail) = checkpoints.tail.take_if(|t| t.sequence < boundary) {
            tables.close_segment(tail.segment, Use::Checkpoint);
        }
    }
    // Its mover leaves its segment at its next turn.
    inner.call_steward();
}

/// After a count: what nothing is left of loses its key. Whether anything is left.
async fn end(inner: &Arc<Inner>, port: &Port, census: &Census, switches: u64) -> bool {
    let (mut total, mut clear) = (0, Vec::new());
    {
        let state = inner.lock();
        let whole = state.domains.switches == switches;
        total += u64::from(!whole);
        for (domain, d) in state.domains.all().filter(|(_, d)| !d.old.is_empty()) {
            let counts = if domain == POOL_DOMAIN { &census.pages } else { &census.blocks };
            let left: u64 = d.old.iter().filter_map(|epoch| counts.get(epoch)).sum();
            // The first epoch of two domains has one number; a count of blocks cannot be of the pool's own.
            debug_assert!(
                d.old.iter().all(|e| *e != FIRST_EPOCH || domain < 2),
                "other epochs name their domain"
            );
            let headers = if domain == POOL_DOMAIN { headers_before(&state, d.since) } else { 0 };
            total += left + headers;
            if left + headers == 0 && whole {
                clear.push((domain, d.old.clone()));
            }
        }
    }
    for (domain, epochs) in clear {
        match retire(inner, port, domain, &epochs).await {
            Ok(()) => tracing::info!(
                "domain {domain}: nothing is sealed under its earlier epochs, whose keys are erased"
            ),
            Err(error) => {
                tracing::warn!("domain {domain}: the keys of its earlier epochs are not erased yet: {error}");
                total += 1;
            }
        }
    }
    let running = inner.lock().domains.boundary() > 0;
    let waits = "another round: something is still sealed under an earlier epoch (damaged, or moved later)";
    tell(inner, |s| {
        (s.running, s.left) = (running, Some(total));
        s.waits = running.then(|| waits.into());
    });
    running
}

/// Segments that are needed and whose headers may be of an earlier epoch of the pool's own domain.
fn headers_before(state: &State, since: u64) -> u64 {
    let segments = state.tables.geometry().segments;
    let holds = |n: &u32| {
        let s = state.tables.segment(*n);
        s.sequence < since && (s.live > 0 && s.state != SegmentState::Free || s.state == SegmentState::Open)
    };
    (0..segments).filter(holds).count() as u64
}

impl Round {
    fn new(inner: &Inner, now: Mono) -> Round {
        let state = inner.lock();
        let mut before = (0, 0);
        let mut epochs = Vec::new();
        for (domain, d) in state.domains.all() {
            let Some(epoch) = d.epoch().filter(|_| !d.old.is_empty()) else { continue };
            if domain == POOL_DOMAIN {
                before.0 = d.since;
            } else {
                before.1 = before.1.max(d.since);
                epochs.push((domain, epoch));
            }
        }
        let switches = state.domains.switches;
        let early = on(Bug::EpochDroppedEarly);
        let phase = if early { Phase::Count(Box::default(), switches) } else { Phase::Segments };
        Round {
            pace: Pace::new(RATE, now, RATE / 8),
            before,
            now: epochs.into(),
            segment: 0,
            cleaning: None,
            mover: Mover::leaving(state.space.checkpoint_segments.div_ceil(2)),
            phase,
            written: 0,
            until: Mono(0),
        }
    }

    /// Whether this round has come to its end.
    async fn step(&mut self, inner: &Arc<Inner>, port: &Port) -> bool {
        match &mut self.phase {
            Phase::Segments => self.segments(inner, port).await,
            Phase::Flush => self.flush(inner, port).await,
            Phase::Count(..) if on(Bug::EpochDroppedEarly) => true,
            Phase::Count(census, _) => {
                let counted = inner.with(port, |state| census.step(&mut state.tables)).await;
                match counted {
                    Ok(more) => !more,
                    Err(_) => {
                        tell(inner, |s| s.waits = Some("a page of the tables that is lost".into()));
                        self.phase = Phase::Flush;
                        true
                    }
                }
            }
        }
    }

    /// What is moved out of the next segment that may hold something; `None` where it is not among the next few.
    fn find(&mut self, inner: &Inner) -> Option<Cleaning> {
        let found = {
            let state = inner.lock();
            let end = state.tables.geometry().segments.min(self.segment.saturating_add(SEGMENTS_AT_ONCE));
            let due = |n: &u32| {
                let s = state.tables.segment(*n);
                let due = s.sequence < self.before.0.max(self.before.1);
                due && s.state == SegmentState::Closed && s.live > 0
            };
            let found = (self.segment..end).find(due);
            self.segment = found.unwrap_or(end);
            found.map(|n| (n, state.tables.segment(n).sequence))
        };
        found.map(|(segment, sequence)| {
            let which =
                if sequence < self.before.0 { Which::All } else { Which::Sealed(Arc::clone(&self.now)) };
            Cleaning::new(inner, segment, which)
        })
    }

    async fn segments(&mut self, inner: &Arc<Inner>, port: &Port) -> bool {
        let Some(mut cleaning) = self.cleaning.take().or_else(|| self.find(inner)) else {
            let all = inner.lock().tables.geometry().segments;
            let at = self.segment;
            tell(inner, |s| s.segments = (at, all));
            if at >= all {
                self.phase = Phase::Flush;
            }
            return false;
        };
        match cleaning.step(inner, port, &mut self.mover).await {
            Step::More(bytes) => {
                self.cleaning = Some(cleaning);
                self.did(inner, bytes.into());
            }
            Step::Done => {
                self.segment += 1;
                let (at, all) = (self.segment, inner.lock().tables.geometry().segments);
                tell(inner, |s| s.segments = (at, all));
            }
            Step::NoRoom => {
                self.cleaning = Some(cleaning);
                self.no_room(inner, port);
            }
            Step::Failed => return true,
        }
        false
    }

    fn did(&mut self, inner: &Inner, bytes: u64) {
        let written = inner.counters.written.load(Ordering::Relaxed);
        let beside = std::mem::replace(&mut self.written, written) != written;
        self.pace.did(bytes * if beside { BESIDE_HOSTS } else { 1 });
        tell(inner, |s| {
            s.bytes += bytes;
            s.waits = None;
        });
    }

    /// A checkpoint may give room.
    fn no_room(&mut self, inner: &Inner, port: &Port) {
        self.until = later(port.now(), PATIENCE.0);
        let waiter = {
            let mut state = inner.lock();
            let gives = state.tables.emptied_segments() > 0 || state.tables.dirty().wait();
            state.steward.wanted |= gives;
            state.chores.resealed.get_or_insert_default().waits = Some("room for what is to be moved".into());
            state.steward.call()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Writes what is still to be moved; then pages of the tables that were found are written elsewhere by a checkpoint.
    async fn flush(&mut self, inner: &Arc<Inner>, port: &Port) -> bool {
        match self.mover.flush(inner, port).await {
            Ok(true) => {}
            Ok(false) => {
                self.no_room(inner, port);
                return false;
            }
            Err(()) => return true,
        }
        self.mover.leave_before(inner, u64::MAX);
        if self.before.0 > 0 && checkpoint(inner, port, false).await.is_err() {
            self.no_room(inner, port);
            return inner.fault().is_some();
        }
        self.phase = Phase::Count(Box::default(), inner.lock().domains.switches);
        false
    }
}
