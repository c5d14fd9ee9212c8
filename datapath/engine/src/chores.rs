//! Background work that nobody waits for: scrubbing, rebuilding the index, giving freed room back to the file system.
//!
//! Owns its order and its pace. It is one task beside the steward's, does one bounded piece at a turn of its thread, and
//! rests when there is nothing to do or its pace has no more for now; then whoever keeps the time of its thread calls it.

use crate::pool::Pool;
use crate::punch;
use crate::rebuild::{Rebuild, RebuildStatus};
use crate::reseal::{Reseal, ResealStatus};
use crate::scrub::{Scrub, ScrubStatus};
use crate::state::Inner;
use crate::witness::{Due, Witness};
use caisson_block::Mono;
use caisson_task::{Port, Task, Waiter};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What is to be done, and what was.
#[derive(Default)]
pub(crate) struct Chores {
    /// The task, when it rests.
    waiter: Option<Waiter>,
    /// How often it was called.
    calls: u64,
    runs: bool,
    /// A scrub is to be begun, at so many bytes a second.
    pub(crate) begin: Option<u64>,
    /// The scrub is to be ended.
    pub(crate) stop: bool,
    pub(crate) scrub: Option<ScrubStatus>,
    /// The index is to be rebuilt.
    pub(crate) rebuild: bool,
    pub(crate) rebuilt: Option<RebuildStatus>,
    /// How far what was sealed under earlier epochs is sealed anew; of the last time where nothing is.
    pub(crate) resealed: Option<ResealStatus>,
    /// Segments that became free and still take room in a file.
    pub(crate) freed: BTreeSet<u32>,
    pub(crate) punched: u64,
    /// Volumes that hosts want erased.
    pub(crate) erase: Vec<crate::erase::Order>,
}

impl Chores {
    /// Has the task look around.
    #[must_use]
    pub(crate) fn call(&mut self) -> Option<Waiter> {
        self.calls += 1;
        self.waiter.take()
    }
}

/// So many bytes a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// 0 for no bound.
    rate: u64,
    since: Mono,
    /// Bytes that may be done ahead of time.
    ahead: u64,
    done: u64,
}

impl Pace {
    pub(crate) fn new(rate: u64, since: Mono, ahead: u64) -> Pace {
        Pace { rate, since, ahead, done: 0 }
    }

    pub(crate) fn did(&mut self, bytes: u64) {
        self.done += bytes;
    }

    /// When more may be done.
    pub(crate) fn due(&self) -> Mono {
        let owed = u128::from(self.done.saturating_sub(self.ahead)) * 1_000_000_000;
        let nanos = owed.checked_div(self.rate.into()).unwrap_or(0);
        Mono(self.since.0.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

impl Inner {
    /// Has the chores looked at.
    pub(crate) fn call_chores(&self) {
        let waiter = self.lock().chores.call();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Whether any of the pool's background still runs.
    pub(crate) fn tended(&self) -> bool {
        let state = self.lock();
        state.steward.runs || state.chores.runs
    }

    /// Calls the chores if it is time for them; otherwise gives the time until then, if there is one.
    pub(crate) fn ring(&self, now: Mono) -> Option<Duration> {
        let alarm = self.alarm.load(Ordering::Acquire);
        if alarm == u64::MAX {
            return None;
        }
        if alarm <= now.0 {
            self.alarm.store(u64::MAX, Ordering::Release);
            self.call_chores();
            return Some(Duration::ZERO);
        }
        Some(Duration::from_nanos(alarm - now.0))
    }
}

impl Pool {
    /// Calls the background work whose time has come; otherwise gives the time until then. For whoever keeps the time of the
    /// thread that [`Pool::tend`] was given; [`crate::Host`] does so by itself.
    pub fn ring(&self, now: Mono) -> Option<Duration> {
        self.0.ring(now)
    }
}

/// Starts the task on the steward's thread.
pub(crate) async fn start(inner: &Arc<Inner>, port: &Port) {
    inner.lock().chores.runs = true;
    let inner = Arc::clone(inner);
    port.run(|cx| Task::spawn(cx, move |port| async move { run(&inner, &port).await })).await;
}

/// What is under way.
#[derive(Default)]
struct Work {
    scrub: Option<Scrub>,
    rebuild: Option<Rebuild>,
    reseal: Reseal,
    witness: Witness,
}

async fn run(inner: &Arc<Inner>, port: &Port) {
    let mut work = Work::default();
    loop {
        // Before the look at what it may be called for: who calls after that is heard when it rests.
        let calls = inner.lock().chores.calls;
        if inner.fault().is_some() || inner.closing.load(Ordering::Acquire) {
            break;
        }
        work.orders(inner, port).await;
        match work.turn(inner, port).await {
            Turn::Did => port.pause().await,
            Turn::Nothing(until) => rest(inner, port, calls, until).await,
        }
    }
    let mut state = inner.lock();
    if let Some(scrub) = &mut state.chores.scrub {
        scrub.running = false;
    }
    state.chores.runs = false;
}

enum Turn {
    Did,
    /// Nothing until then.
    Nothing(Option<Mono>),
}

impl Work {
    /// Takes up what was asked for.
    async fn orders(&mut self, inner: &Arc<Inner>, port: &Port) {
        let (stop, begin, rebuild) = {
            let chores = &mut inner.lock().chores;
            (std::mem::take(&mut chores.stop), chores.begin.take(), std::mem::take(&mut chores.rebuild))
        };
        crate::erase::orders(inner, port).await;
        if stop && let Some(scrub) = self.scrub.take() {
            scrub.end(inner, false);
        }
        if let Some(rate) = begin {
            self.scrub = Scrub::begin(inner, port, rate).await;
        }
        if rebuild {
            self.rebuild = Some(Rebuild::begin(inner, port.now()));
        }
    }

    async fn turn(&mut self, inner: &Arc<Inner>, port: &Port) -> Turn {
        let (now, mut did, mut until) = (port.now(), false, None::<Mono>);
        let mut later = |due: Mono| until = Some(until.map_or(due, |u| u.min(due)));
        if let Some(rebuild) = &mut self.rebuild {
            if rebuild.due() > now {
                later(rebuild.due());
            } else {
                did = true;
                if rebuild.step(inner, port).await {
                    self.rebuild = None;
                }
            }
        }
        if let Some(scrub) = &mut self.scrub {
            if scrub.due() > now {
                later(scrub.due());
            } else {
                did = true;
                if scrub.step(inner, port).await
                    && let Some(scrub) = self.scrub.take()
                {
                    scrub.end(inner, true);
                }
            }
        }
        match self.reseal.step(inner, port).await {
            Due::Did => did = true,
            Due::At(due) => later(due),
            Due::Nothing => {}
        }
        did |= punch::step(inner, port).await;
        match self.witness.step(inner, port).await {
            Due::Did => did = true,
            Due::At(due) => later(due),
            Due::Nothing => {}
        }
        if did { Turn::Did } else { Turn::Nothing(until) }
    }
}

async fn rest(inner: &Arc<Inner>, port: &Port, calls: u64, until: Option<Mono>) {
    let ticket = port.ticket();
    {
        let mut state = inner.lock();
        if state.chores.calls != calls {
            return;
        }
        state.chores.waiter = Some(port.waiter(ticket));
    }
    inner.alarm.store(until.map_or(u64::MAX, |until| until.0), Ordering::Release);
    port.parked(ticket).await;
    inner.alarm.store(u64::MAX, Ordering::Release);
}
