//! Key epochs that have sealed as much as one may: each is followed by another, by itself. And map keys that came to their end, for
//! the record.
//!
//! Owns looking, and not asking a key provider again too soon that refused. A pool whose provider is away is served on: the limit leaves
//! room for that by far (`caisson_keys::limits`).

use super::Daemon;
use crate::pools::domains;
use crate::refusal::Refusal;
use caisson_keys::limits::Limits;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often it looks, and how long it leaves alone a pool whose key provider refused.
const LOOKS: Duration = Duration::from_secs(10);
const REFUSED: Duration = Duration::from_secs(3600);

impl Daemon {
    /// Begins another epoch of every domain whose present one has sealed as much as `limits` allow. Gives what was begun, and what
    /// was refused.
    pub fn rotate_used_up(&self, limits: Limits) -> Vec<Result<(String, String, u16), Refusal>> {
        let mut done = Vec::new();
        for (name, handle) in self.pools() {
            for (domain, called) in domains::used_up(handle.as_ref(), limits) {
                let _alone = self.keys_alone();
                let Some(pool) = crate::model::Lookup::pool(&self.objects(), &name).cloned() else {
                    continue;
                };
                let what = format!("domain {called}: its epoch has sealed as much as one may");
                let begun = self.audit().begins("rotate-epoch", &name, &what).and_then(|()| {
                    let rotated = domains::rotate(&pool, handle.as_ref(), domain);
                    self.audit().ended("rotate-epoch", &name, &what, &rotated);
                    rotated
                });
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

    /// Records which map keys were erased: that their volumes were deleted stands there already.
    pub fn record_erased(&self) {
        for (name, handle) in self.pools() {
            for key in handle.take_erased_map_keys() {
                let what = format!("map key {key}: nothing is stored under it any more");
                self.audit().ended("erase-map-key", &name, &what, &Ok(()));
            }
        }
    }
}

/// Starts the thread that looks, which ends with the daemon.
pub(super) fn watch(daemon: &Arc<Daemon>) {
    let daemon: Weak<Daemon> = Arc::downgrade(daemon);
    let run = move || {
        let mut quiet_until = Instant::now() + LOOKS;
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let Some(daemon) = daemon.upgrade() else { return };
            daemon.record_erased();
            if Instant::now() < quiet_until {
                continue;
            }
            let refused = daemon.rotate_used_up(daemon.settings().epochs).iter().any(Result::is_err);
            quiet_until = Instant::now() + if refused { REFUSED } else { LOOKS };
        }
    };
    if let Err(error) = std::thread::Builder::new().name("caisson-epochs".into()).spawn(run) {
        tracing::error!(%error, "key epochs will not be followed by others by themselves");
    }
}
