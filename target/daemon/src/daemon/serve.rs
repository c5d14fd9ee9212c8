//! Serves management and metrics until a signal comes, then stops the target cleanly.
//!
//! One tokio runtime on the calling thread; what may wait for a disk runs on its blocking threads.

use super::Daemon;
use crate::manage::http;
use crate::refusal::{Cause, Refusal};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Serves `daemon` until SIGINT or SIGTERM, or until `end` is done; calls `ready` once all sockets are there. The target is
/// stopped when this returns, whatever it returns.
///
/// # Errors
/// A socket cannot be had.
pub fn run(daemon: &Arc<Daemon>, ready: impl FnOnce(), end: impl Future<Output = ()>) -> Result<(), Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Refusal::system("the control plane cannot start", &e));
    let result = runtime.and_then(|r| r.block_on(serve(daemon, ready, end)));
    tell_manager("STOPPING=1");
    if let Some(socket) = daemon.socket() {
        let _ = std::fs::remove_file(socket);
    }
    daemon.stop();
    result
}

async fn serve(
    daemon: &Arc<Daemon>,
    ready: impl FnOnce(),
    end: impl Future<Output = ()>,
) -> Result<(), Refusal> {
    let fail = |e: &std::io::Error| Refusal::system("signals cannot be received", e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| fail(&e))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| fail(&e))?;
    let settings = daemon.settings();
    if let Some(path) = &settings.socket {
        match http::bind(path) {
            Ok(listener) => {
                let _ = daemon.socket.set(path.clone());
                let app = http::router(Arc::clone(daemon));
                tokio::spawn(async move {
                    if let Err(error) = axum::serve(listener, app).await {
                        tracing::error!(%error, "the management socket is not served any more");
                    }
                });
            }
            Err(refusal) if settings.socket_optional => {
                tracing::info!("no management socket: {}", refusal.error);
            }
            Err(refusal) => return Err(refusal),
        }
    }
    if let Some(address) = settings.metrics {
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| {
            let mut r = Refusal::system(format!("metrics cannot be served on {address}"), &e);
            if r.cause == Cause::Busy {
                r.remedy = "another program uses this address, perhaps another target: choose another with --metrics ADDR:PORT \
                            or [metrics] address, or none with \"\""
                    .into();
            }
            r
        })?;
        if let Ok(bound) = listener.local_addr() {
            let _ = daemon.metrics.set(bound);
        }
        let app = http::metrics_router(Arc::clone(daemon));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "metrics are not served any more");
            }
        });
    }
    ask_again(daemon);
    let target = Arc::clone(&daemon.target);
    tokio::spawn(async move {
        let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            target.look_around();
        }
    });
    ready();
    tell_manager("READY=1");
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("interrupted: stopping"),
        _ = terminate.recv() => tracing::info!("asked to end: stopping"),
        () = end => {}
    }
    Ok(())
}

/// Asks for the keys of pools that wait for them, on a thread of its own: a key manager that does not answer holds up neither
/// management nor the end of the target.
fn ask_again(daemon: &Arc<Daemon>) {
    if daemon.waiting().is_empty() {
        return;
    }
    let weak = Arc::downgrade(daemon);
    let asking = move || {
        while let Some(daemon) = weak.upgrade().filter(|d| !d.waiting().is_empty()) {
            daemon.retry_due();
            drop(daemon);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("caisson-keys".into()).spawn(asking) {
        tracing::error!(%error, "keys are not asked for again by themselves");
    }
}

/// Tells the service manager how the target is (sd_notify(3)), when there is one.
fn tell_manager(word: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let tell = || -> std::io::Result<()> {
        let bytes = name.as_encoded_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(rest) => SocketAddr::from_abstract_name(rest)?,
            None => SocketAddr::from_pathname(std::path::Path::new(&name))?,
        };
        UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address).map(drop)
    };
    if let Err(error) = tell() {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
