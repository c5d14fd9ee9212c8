//! Keeps what hosts change: a thread that waits for the data plane's word, so that no reactor ever waits for a disk.

use super::Daemon;
use caisson_core::{Observer, SanitizeRecord};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};

/// Changes that may wait to be kept; more are dropped with a word in the log.
const WAITING: usize = 1024;

/// What a host changed.
enum Told {
    Protected(String, u32, bool),
    Sanitized(String, SanitizeRecord),
}

struct Teller(SyncSender<Told>);

impl Observer for Teller {
    fn write_protection(&self, nqn: &str, nsid: u32, on: bool) {
        if self.0.try_send(Told::Protected(nqn.to_string(), nsid, on)).is_err() {
            tracing::error!(nqn, nsid, "a namespace's write protection will be lost at the next start");
        }
    }

    fn sanitized(&self, nqn: &str, record: &SanitizeRecord) {
        if self.0.try_send(Told::Sanitized(nqn.to_string(), record.clone())).is_err() {
            tracing::error!(nqn, "the status of a sanitize operation will be lost at the next start");
        }
    }
}

/// Starts the thread, which ends with the daemon's registry.
pub(super) fn hosts(daemon: &Arc<Daemon>) {
    let (tell, told) = sync_channel(WAITING);
    daemon.target.set_observer(Arc::new(Teller(tell)));
    let daemon: Weak<Daemon> = Arc::downgrade(daemon);
    let run = move || {
        while let Ok(told) = told.recv() {
            let Some(daemon) = daemon.upgrade() else { return };
            match told {
                Told::Protected(nqn, nsid, on) => daemon.keep_write_protection(&nqn, nsid, on),
                Told::Sanitized(nqn, record) => daemon.keep_sanitize(&nqn, &record),
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("caisson-watch".into()).spawn(run) {
        tracing::error!(%error, "what hosts change will not be kept");
    }
}
