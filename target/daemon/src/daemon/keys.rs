//! What is done of keys without anybody's asking: epochs that have sealed as much as one may, and epochs that erases need, are followed by
//! others; map keys and erases that came to their end are recorded.
//!
//! Owns the one thread that looks, and not asking a key provider again too soon that refused. A pool whose provider is away is served on: the
//! limit of an epoch leaves room for that by far (`caisson_keys::limits`), and erases are durable in the pool, so that what a stop
//! interrupts goes on at the next start.

use super::Daemon;
use crate::pools::{Erase, PoolHandle, domains};
use crate::refusal::Refusal;
use caisson_keys::limits::Limits;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often it looks.
const LOOKS: Duration = Duration::from_millis(500);

#[cfg(test)]
thread_local! {
    /// How often it looks at a daemon that is started on this thread: a test may wait for what it does.
    pub(super) static LOOKS_HERE: std::cell::Cell<Duration> = const { std::cell::Cell::new(LOOKS) };
}

/// How often it looks for epochs that are used up, and how long it leaves that alone when a key provider refused.
const USED_UP: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));

/// How long it leaves a key provider alone that refused what an erase needs: at first, and at most.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

impl Daemon {
    /// Begins a domain's next epoch, which `what` says the reason of; none where the pool is no more.
    fn begin_epoch(
        &self,
        name: &str,
        handle: &dyn PoolHandle,
        domain: u32,
        what: &str,
    ) -> Option<Result<u16, Refusal>> {
        let _alone = self.keys_alone();
        let pool = crate::model::Lookup::pool(&self.objects(), name).cloned()?;
        Some(self.audit().begins("rotate-epoch", name, what).and_then(|()| {
            let rotated = domains::rotate(&pool, handle, domain);
            caisson_keys::cleanse_stack();
            self.audit().ended("rotate-epoch", name, what, &rotated);
            rotated
        }))
    }

    /// Begins another epoch of every domain whose present one has sealed as much as `limits` allow. Gives what was begun, and what
    /// was refused.
    pub fn rotate_used_up(&self, limits: Limits) -> Vec<Result<(String, String, u16), Refusal>> {
        let mut done = Vec::new();
        for (name, handle) in self.pools() {
            for (domain, called) in domains::used_up(handle.as_ref(), limits) {
                let what = format!("domain {called}: its epoch has sealed as much as one may");
                let Some(begun) = self.begin_epoch(&name, handle.as_ref(), domain, &what) else { continue };
                match &begun {
                    Ok(epoch) => tracing::info!(
                        pool = name,
                        domain = called,
                        epoch,
                        "a key epoch was used up; the next one seals"
                    ),
                    Err(error) => {
                        tracing::error!(%error, pool = name, domain = called, "a key epoch is used up, and the next one cannot begin")
                    }
                }
                done.push(begun.map(|epoch| (name.clone(), called, epoch)));
            }
        }
        done
    }
}

/// What the thread remembers.
struct Watch {
    /// Erases that are under way, by pool and number.
    known: BTreeMap<(String, u32), Erase>,
    /// Domains whose provider refused what an erase needs, by pool: when it is asked again, and how long after that.
    refused: BTreeMap<(String, u32), (Instant, Duration)>,
    /// When it looks for epochs that are used up.
    used_up: Instant,
}

/// An erase, in words.
fn called(e: &Erase) -> String {
    match &e.volume {
        Some(name) => format!("volume {name} ({}), erase {}, for the {}", e.id, e.number, e.by),
        None => format!("volume {}, deleted, erase {}, for the {}", e.id, e.number, e.by),
    }
}

impl Watch {
    fn look(&mut self, daemon: &Daemon) {
        for (pool, handle) in daemon.pools() {
            for key in handle.take_erased_map_keys() {
                // That its volumes were deleted stands there already.
                let what = format!("map key {key}: nothing is stored under it any more");
                daemon.audit().ended("erase-map-key", &pool, &what, &Ok(()));
            }
            self.note(daemon, &pool, handle.as_ref());
            for domain in handle.erases_due() {
                self.serve(daemon, &pool, handle.as_ref(), domain);
                // What began while the provider was asked ends with the same epoch, which may be soon.
                self.note(daemon, &pool, handle.as_ref());
            }
        }
        if Instant::now() >= self.used_up {
            let refused = daemon.rotate_used_up(daemon.settings().epochs).iter().any(Result::is_err);
            self.used_up = Instant::now() + if refused { USED_UP.1 } else { USED_UP.0 };
        }
    }

    /// Records which erases have begun and which are done.
    fn note(&mut self, daemon: &Daemon, pool: &str, handle: &dyn PoolHandle) {
        let now = handle.erases();
        let over = |(of, number): &(String, u32)| of == pool && !now.iter().any(|e| e.number == *number);
        let ended: Vec<_> = self.known.keys().filter(|key| over(key)).cloned().collect();
        for key in ended {
            let Some(e) = self.known.remove(&key) else { continue };
            let what = called(&e);
            tracing::warn!(pool, "the keys of what {what} held are erased");
            daemon.audit().ended("erase", pool, &what, &Ok(()));
        }
        for e in now {
            let (key, what) = ((pool.to_owned(), e.number), called(&e));
            if self.known.insert(key, e).is_none()
                && let Err(error) = daemon.audit().begins("erase", pool, &what)
            {
                // It is durable in the pool already.
                tracing::error!(%error, pool, "an erase is not recorded: {what}");
            }
        }
    }

    /// Begins the epoch that a domain's erases need, unless its provider refused a short while ago.
    fn serve(&mut self, daemon: &Daemon, name: &str, handle: &dyn PoolHandle, domain: u32) {
        let key = (name.to_owned(), domain);
        if self.refused.get(&key).is_some_and(|(until, _)| Instant::now() < *until) {
            return;
        }
        let what = format!("domain {domain}: what is erased of its volumes needs another epoch");
        match daemon.begin_epoch(name, handle, domain, &what) {
            None => {}
            Some(Ok(epoch)) => {
                tracing::info!(pool = name, domain, epoch, "an erase began another key epoch");
                handle.erase_refused(domain, None);
                self.refused.remove(&key);
            }
            Some(Err(error)) => {
                let wait = self.refused.get(&key).map_or(REFUSED.0, |(_, wait)| (*wait * 2).min(REFUSED.1));
                let wait = wait.max(Duration::from_secs(error.after_s.unwrap_or(0).into()));
                tracing::error!(%error, pool = name, domain, "an erase waits: its domain's next key epoch cannot begin");
                handle.erase_refused(domain, Some(error.to_string()));
                self.refused.insert(key, (Instant::now() + wait, wait));
            }
        }
    }
}

/// Starts the thread, which ends with the daemon.
pub(super) fn watch(daemon: &Arc<Daemon>) {
    let daemon: Weak<Daemon> = Arc::downgrade(daemon);
    let looks = LOOKS;
    #[cfg(test)]
    let looks = LOOKS_HERE.get().min(looks);
    let run = move || {
        let (known, refused) = (BTreeMap::new(), BTreeMap::new());
        let mut watch = Watch { known, refused, used_up: Instant::now() + USED_UP.0 };
        loop {
            std::thread::sleep(looks);
            let Some(daemon) = daemon.upgrade() else { return };
            watch.look(&daemon);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("caisson-keys".into()).spawn(run) {
        tracing::error!(%error, "key epochs will not be followed by others by themselves, and what is to be erased will not be");
    }
}
