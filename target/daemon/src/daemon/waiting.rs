//! Pools whose key manager does not answer.
//!
//! Owns what is held back with such a pool (its volumes, and their namespaces), when it is tried again, and saying so. Nothing of
//! it is exported until all of it is: a host sees no disk rather than half of one. Only what may pass by itself is tried again by
//! itself; what takes a person waits for one, for a token counts every wrong try. It must never ask a key manager while it holds the
//! configuration: the pool's own keys are had before, and the keys of domains while the pool is held apart.

use super::change::{self, Turn};
use super::world::{Apart, World};
use super::{Audit, Daemon, Did};
use crate::model::{self, Item, Objects};
use crate::pools::{LogPool, domains, open};
use crate::refusal::{Cause, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first pause before another try, and the longest; a key manager that names a longer one has that.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A pool that waits for its keys.
pub(super) struct Waiting {
    pool: model::Pool,
    /// What was held back: the pool itself, and what rests on it, in the order of making.
    turns: Vec<Turn>,
    why: Refusal,
    tries: u32,
    /// When it is tried next; never by itself where it takes a person.
    next: Option<Instant>,
    /// It has its keys, and is held apart while its domains are made.
    apart: bool,
}

/// A pool that waits, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Waits {
    /// Why.
    pub why: Refusal,
    /// How often its keys were asked for.
    pub tries: u32,
    /// Seconds until they are asked for again; none where that takes a person (`caisson key retry`).
    pub next_s: Option<u64>,
}

impl Waiting {
    fn new(pool: model::Pool, turn: Turn, why: Refusal) -> Waiting {
        let mut waiting = Waiting { pool, turns: vec![turn], why, tries: 1, next: None, apart: false };
        waiting.put_off();
        waiting
    }

    /// When to try again, after a failure that is told.
    fn put_off(&mut self) {
        let name = &self.pool.name;
        if self.why.cause != Cause::Away {
            self.next = None;
            tracing::error!("pool {name} waits for its keys, and for a person: {}", self.why);
            return;
        }
        let pause = pause_after(self.tries, Duration::from_secs(self.why.after_s.unwrap_or(0).into()));
        self.next = Some(Instant::now() + pause);
        let after = pause.as_secs();
        tracing::warn!("pool {name} waits for its keys, tried again in {after} s: {}", self.why);
    }

    fn shown(&self) -> Waits {
        let left = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs();
        Waits { why: self.why.clone(), tries: self.tries, next_s: self.next.map(left) }
    }
}

/// How long after so many tries the next one is made: twice as long as before, within [`PAUSE`], and never sooner than the provider asks
/// (a TPM says how long its lockout goes on).
fn pause_after(tries: u32, least: Duration) -> Duration {
    PAUSE.0.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(PAUSE.1).max(least)
}

/// Turns all of `turns` that do not rest on a pool whose key manager is away, and gives those. On another error, what was turned
/// is turned back.
pub(super) fn turn_what_can_be(world: &mut World, turns: Vec<Turn>) -> Result<Vec<Turn>, (String, Refusal)> {
    let mut done: Vec<Turn> = Vec::new();
    for turn in turns {
        if let Some(waiting) = world.held_back(&turn) {
            waiting.turns.push(turn);
            continue;
        }
        match (world.turn(turn.from.as_ref(), turn.to.as_ref()), &turn.to) {
            (Ok(()), _) => done.push(turn),
            (Err(e), Some(Item::Pool(pool))) if e.cause == Cause::Away => {
                let waiting = Waiting::new(pool.clone(), turn.clone(), e);
                world.waiting.insert(pool.name.clone(), waiting);
            }
            (Err(e), _) => {
                change::turn_back(world, &done);
                return Err((turn.key, e));
            }
        }
    }
    Ok(done)
}

impl World {
    /// The waiting pool that what a turn makes rests on.
    fn held_back(&mut self, turn: &Turn) -> Option<&mut Waiting> {
        let key = match turn.to.as_ref()? {
            Item::Volume(v) => model::key::pool(v.pool()?),
            Item::Namespace(n) => model::key::volume(&n.volume),
            _ => return None,
        };
        self.waiting.values_mut().find(|w| w.turns.iter().any(|t| t.key == key))
    }

    /// Refuses a change of what waits, and of what would rest on it.
    pub(super) fn none_waits(&mut self, turns: &[Turn]) -> Result<(), Refusal> {
        for turn in turns {
            let held = |w: &Waiting| w.turns.iter().any(|t| t.key == turn.key);
            let own = self.waiting.values().find(|w| held(w)).map(|w| w.pool.name.clone());
            let below = self.held_back(turn).map(|w| w.pool.name.clone());
            if let Some(pool) = own.or(below) {
                return Err(still(&pool));
            }
        }
        Ok(())
    }
}

/// What is asked of a pool that waits.
pub fn still(pool: &str) -> Refusal {
    Refusal::busy(
        format!(
            "pool {pool:?} waits for its keys, and nothing of it can be used or changed until it has them"
        ),
        format!(
            "see `caisson key status {pool}` for what it waits for; `caisson key retry {pool}` asks again at once"
        ),
    )
}

impl Daemon {
    /// The pools that wait for their keys.
    pub fn waiting(&self) -> BTreeMap<String, Waits> {
        self.lock().world.waiting.iter().map(|(name, w)| (name.clone(), w.shown())).collect()
    }

    /// Tries the pools again for which it is time. Takes as long as their key managers do.
    pub fn retry_due(&self) {
        let now = Instant::now();
        let due = |w: &Waiting| !w.apart && w.next.is_some_and(|at| at <= now);
        let names: Vec<String> = {
            let inner = self.lock();
            inner.world.waiting.iter().filter(|(_, w)| due(w)).map(|(name, _)| name.clone()).collect()
        };
        for name in names {
            // It says in the log what came of it.
            let _ = self.retry(&name);
        }
    }

    /// Asks for a waiting pool's keys now, and exports what waits with it where it has them.
    ///
    /// # Errors
    /// Why it still waits.
    pub fn retry(&self, name: &str) -> Result<Did, Refusal> {
        let found = {
            let inner = self.lock();
            let there = inner.world.made_before.contains(&model::key::pool(name));
            let waiting = inner.world.waiting.get(name).filter(|w| !w.apart);
            waiting.map(|w| (w.pool.clone(), Arc::clone(&inner.world.engine), there))
        };
        let Some((pool, engine, there)) = found else { return Ok(Did::Nothing) };
        // Without the lock: management goes on while a key manager is slow.
        let had = open::awaited(engine.as_ref(), &pool, there);
        let had = had.and_then(|had| self.lock().world.begin_waiting(name, had));
        let opened = match had {
            Ok(None) => return Ok(Did::Nothing),
            Ok(Some(apart)) => {
                // Without the lock, as above. Nobody else has the pool meanwhile.
                let made = apart.domains.iter().try_for_each(|(domain, volume)| {
                    have_domain(&self.audit, &apart.pool, &apart.log, domain, volume)
                });
                self.lock().world.end_waiting(name, apart, made)
            }
            Err(e) => self.lock().world.put_off(name, e),
        };
        opened.map(|()| Did::Changed)
    }
}

/// Makes the domain that a configured volume is to be in, where its pool has none of that name. Asks the pool's key providers.
///
/// # Errors
/// Theirs, with nothing made; it cannot be recorded.
pub(super) fn have_domain(
    audit: &Audit,
    pool: &model::Pool,
    log: &LogPool,
    domain: &str,
    volume: &str,
) -> Result<(), Refusal> {
    let (name, handle) = (&pool.name, log.handle.as_ref());
    if domains::named(name, handle, domain).is_ok() {
        return Ok(());
    }
    let what = format!("domain {domain}, for volume {volume}");
    audit.begins("create-domain", name, &what)?;
    let made = domains::create(pool, handle, domain);
    audit.ended("create-domain", name, &what, &made);
    made?;
    tracing::info!("domain {domain} of pool {name} was made, for volume {volume}");
    Ok(())
}

impl World {
    /// Opens a waiting pool with its keys, and holds it apart: nothing that rests on it is there yet. None where there is nothing to do, or
    /// another try has come as far.
    ///
    /// # Errors
    /// It cannot be opened.
    fn begin_waiting(&mut self, name: &str, had: Option<open::Keys>) -> Result<Option<Apart>, Refusal> {
        let Some(waiting) = self.waiting.get_mut(name).filter(|w| !w.apart) else { return Ok(None) };
        if self.ended {
            return Ok(None);
        }
        let (pool, turns) = (waiting.pool.clone(), waiting.turns.clone());
        let volumes = volumes(&turns);
        self.had = had;
        let opened = self.while_starting(&volumes, |world| change::turn_all(world, &turns[..1]));
        self.had = None;
        if let Err(e) = opened {
            self.abandon();
            return Err(e);
        }
        let apart = self.hold_apart(&pool, &volumes);
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.apart = apart.is_some();
        }
        Ok(apart)
    }

    /// Takes a pool that was held apart in, and all that rests on it, where its domains could be made.
    fn end_waiting(&mut self, name: &str, apart: Apart, made: Result<(), Refusal>) -> Result<(), Refusal> {
        let Some(waiting) = self.waiting.get_mut(name).filter(|_| !self.ended) else {
            apart.close();
            return Ok(());
        };
        waiting.apart = false;
        let (turns, tries) = (waiting.turns.clone(), waiting.tries + 1);
        if let Err(e) = made {
            apart.close();
            return self.put_off(name, e);
        }
        self.take_in(apart);
        let turned = self.while_starting(&volumes(&turns), |world| change::turn_all(world, &turns[1..]));
        if let Err(e) = turned {
            change::turn_back(self, &turns[..1]);
            self.abandon();
            return self.put_off(name, e);
        }
        self.settle();
        self.waiting.remove(name);
        tracing::info!("pool {name} has its keys, after {tries} tries");
        Ok(())
    }

    /// A try has failed: when to make the next.
    ///
    /// # Errors
    /// Why it failed.
    fn put_off(&mut self, name: &str, why: Refusal) -> Result<(), Refusal> {
        if let Some(waiting) = self.waiting.get_mut(name).filter(|w| !w.apart) {
            waiting.tries = waiting.tries.saturating_add(1);
            waiting.why = why.clone();
            waiting.put_off();
        }
        Err(why)
    }

    /// Turns something as at the start, when these volumes are what is configured.
    fn while_starting(
        &mut self,
        volumes: &[model::Volume],
        turn: impl FnOnce(&mut World) -> Result<(), (String, Refusal)>,
    ) -> Result<(), Refusal> {
        self.wanted = volumes.iter().filter_map(|v| Some((v.pool()?.to_string(), v.name.clone()))).collect();
        self.starting = true;
        let turned = turn(self);
        self.starting = false;
        self.wanted.clear();
        turned.map_err(|(_, e)| e)
    }
}

/// The volumes that are made or opened in `turns`.
fn volumes(turns: &[Turn]) -> Vec<model::Volume> {
    let objects: Objects = turns.iter().filter_map(|t| Some((t.key.clone(), t.to.clone()?))).collect();
    model::Lookup::volumes(&objects).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_is_twice_the_last_within_bounds_and_no_shorter_than_asked() {
        let s = Duration::from_secs;
        let none = Duration::ZERO;
        let first: Vec<_> = (1..=8).map(|tries| pause_after(tries, none).as_secs()).collect();
        assert_eq!(first, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!((pause_after(0, none), pause_after(u32::MAX, none)), (s(1), s(60)));
        assert_eq!(
            (pause_after(1, s(600)), pause_after(20, s(600)), pause_after(7, s(5))),
            (s(600), s(600), s(60))
        );
    }
}
