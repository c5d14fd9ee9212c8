//! `caisson kms serve`: the key service, in the foreground, until a signal ends it.

use crate::args::{KmsCommand, NamedKey};
use crate::failure::Failure;
use crate::output::line;
use crate::{guard, local};
use caisson_audit::Log as AuditLog;
use caisson_daemon::Refusal;
use caisson_daemon::config::settings::Log;
use caisson_daemon::daemon::{AUDIT_FILE, AUDIT_KEY};
use caisson_keys::KeyError;
use caisson_providers::{How, open};
use caisson_service::{Asked, Open, Record, Server, Users};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

fn of(e: &KeyError) -> Failure {
    Failure::Here(Refusal::invalid(e.to_string(), e.remedy()))
}

/// Where operations are recorded: in the folder, or only in the log.
fn record(dir: Option<&Path>) -> Result<Box<Record>, Failure> {
    let log = match dir {
        None => None,
        Some(dir) => Some(Mutex::new(
            AuditLog::open(&dir.join(AUDIT_FILE), &dir.join(AUDIT_KEY))
                .map_err(|e| Failure::Here(Refusal::invalid(e.to_string(), e.remedy())))?,
        )),
    };
    Ok(Box::new(move |asked: &Asked<'_>| {
        let pool = asked.pool.map(|id| uuid::Uuid::from_bytes(id).to_string()).unwrap_or_default();
        tracing::info!(op = asked.op, pool, done = asked.done, "{}", asked.what);
        let Some(log) = &log else { return Ok(()) };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.write(asked.op, &pool, asked.what, asked.done).map_err(|e| e.to_string())
    }))
}

/// Runs `kms ...`.
pub fn run(command: KmsCommand, dumps: bool) -> Result<(), Failure> {
    let KmsCommand::Serve { at, key, allow_uid, allow_end, audit, log } = command;
    local::log(&log, &Log::default())?;
    guard::report(dumps);
    let ask = match allow_uid.is_empty() {
        true => vec![rustix::process::geteuid().as_raw()],
        false => allow_uid,
    };
    if let Some(uid) = allow_end.iter().find(|uid| !ask.contains(uid)) {
        return Err(Failure::Here(Refusal::invalid(
            format!("user {uid} is to end root keys, and may not even ask"),
            format!("add --allow-uid {uid}, or leave --allow-end {uid} out"),
        )));
    }
    if !allow_end.is_empty() {
        tracing::warn!(users = ?allow_end, "root keys can be ended by way of this service");
    }
    let users = Users { ask, end: allow_end };
    let names: Vec<String> = key.iter().map(|NamedKey(name, _)| name.clone()).collect();
    if let Some(twice) = names.iter().enumerate().find(|(n, name)| names[..*n].contains(name)) {
        return Err(Failure::Here(Refusal::invalid(
            format!("there are two keys called {}", twice.1),
            "give each a name of its own",
        )));
    }
    // A person is asked at the start, and never after that.
    let starting = Arc::new(AtomicBool::new(true));
    let asking = Arc::clone(&starting);
    let opener: Box<Open> = Box::new(move |uri| {
        let ask = asking.load(Ordering::Relaxed);
        open(uri, How { ask, make: false }).map(|o| o.provider)
    });
    let keys = key.into_iter().map(|NamedKey(name, uri)| (name, uri)).collect();
    let server = Server::start(&at, users, keys, opener, record(audit.as_deref())?).map_err(|e| of(&e))?;
    starting.store(false, Ordering::Relaxed);
    line(format!("serving keys {} at {}", names.join(", "), at.display()));
    let ended = server.run();
    ended.map_err(|e| Failure::Here(Refusal::system("the key service cannot be asked any more", &e)))
}
