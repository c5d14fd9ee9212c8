//! What is being erased of single volumes: the key epochs that it needs, and the record of its beginning and its end.
//!
//! Owns the thread that looks, and not asking a key provider again too soon that refused. A pool's erases are durable in the pool: what a
//! stop interrupts goes on at the next start.

use super::Daemon;
use crate::pools::{Erase, PoolHandle, domains};
use crate::refusal::Refusal;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often it looks.
const LOOKS: Duration = Duration::from_millis(500);

/// How long it leaves a key provider alone that refused: at first, and at most.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// What the thread remembers.
#[derive(Default)]
struct Watch {
    /// Erases that are under way, by pool and number.
    known: BTreeMap<(String, u32), Erase>,
    /// Domains whose provider refused, by pool: when it is asked again, and how long after that.
    refused: BTreeMap<(String, u32), (Instant, Duration)>,
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
            self.note(daemon, &pool, handle.as_ref());
            for domain in handle.erases_due() {
                self.serve(daemon, &pool, handle.as_ref(), domain);
            }
        }
    }

    /// Records which have begun and which are done.
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

    /// Begins a domain's next epoch, unless its provider refused a short while ago.
    fn serve(&mut self, daemon: &Daemon, name: &str, handle: &dyn PoolHandle, domain: u32) {
        let key = (name.to_owned(), domain);
        if self.refused.get(&key).is_some_and(|(until, _)| Instant::now() < *until) {
            return;
        }
        let _alone = daemon.keys_alone();
        let Some(pool) = crate::model::Lookup::pool(&daemon.objects(), name).cloned() else { return };
        let what = format!("domain {domain}: what is erased of its volumes needs another epoch");
        let begun: Result<u16, Refusal> = daemon.audit().begins("rotate-epoch", name, &what).and_then(|()| {
            let rotated = domains::rotate(&pool, handle, domain);
            daemon.audit().ended("rotate-epoch", name, &what, &rotated);
            rotated
        });
        match begun {
            Ok(epoch) => {
                tracing::info!(pool = name, domain, epoch, "an erase began another key epoch");
                handle.erase_refused(domain, None);
                self.refused.remove(&key);
            }
            Err(error) => {
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
    let run = move || {
        let mut watch = Watch::default();
        loop {
            std::thread::sleep(LOOKS);
            let Some(daemon) = daemon.upgrade() else { return };
            watch.look(&daemon);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("caisson-erase".into()).spawn(run) {
        tracing::error!(%error, "what is to be erased will not be");
    }
}
