//! Keeps what hosts change: a thread that waits for the data plane's word, so that no reactor ever waits for a disk.

use super::Daemon;
use caisson_core::Observer;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};

/// Changes that may wait to be kept; more are dropped with a word in the log.
const WAITING: usize = 1024;

struct Teller(SyncSender<(String, u32, bool)>);

impl Observer for Teller {
    fn write_protection(&self, nqn: &str, nsid: u32, on: bool) {
        if self.0.try_send((nqn.to_string(), nsid, on)).is_err() {
            tracing::error!(nqn, nsid, "a namespace's write protection will be lost at the next start");
        }
    }
}

/// Starts the thread, which ends with the daemon's registry.
pub(super) fn write_protection(daemon: &Arc<Daemon>) {
    let (tell, told) = sync_channel(WAITING);
    daemon.target.set_observer(Arc::new(Teller(tell)));
    let daemon: Weak<Daemon> = Arc::downgrade(daemon);
    let run = move || {
        while let Ok((nqn, nsid, on)) = told.recv() {
            let Some(daemon) = daemon.upgrade() else { return };
            daemon.keep_write_protection(&nqn, nsid, on);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("caisson-watch".into()).spawn(run) {
        tracing::error!(%error, "what hosts change will not be kept");
    }
}
