//! The record of operations on keys.
//!
//! Owns where it is (in the data directory, or in a folder that is named for it), and that it begins with the first operation. It must
//! never be in the way of serving: what cannot be recorded is refused before it is done where that is possible, and said loudly
//! where it is not.

use crate::refusal::{Cause, Refusal};
use caisson_audit::{AuditError, Log};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The log's name in the data directory.
pub const AUDIT_FILE: &str = "audit.log";

/// The name of the key that signs it.
pub const AUDIT_KEY: &str = "audit.key";

/// The log of a target.
pub struct Audit {
    dir: Option<PathBuf>,
    log: Mutex<Option<Log>>,
}

fn refused(e: &AuditError) -> Refusal {
    Refusal::new(Cause::System, format!("the operation cannot be recorded: {e}"), e.remedy())
}

impl Audit {
    /// One that is kept in this folder, or nowhere. Nothing is made before something is recorded.
    pub fn new(dir: Option<&Path>) -> Audit {
        Audit { dir: dir.map(Path::to_path_buf), log: Mutex::new(None) }
    }

    fn write(&self, op: &str, pool: &str, what: &str, done: bool) -> Result<(), AuditError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let log = match &mut *log {
            Some(log) => log,
            none => none.insert(Log::open(&dir.join(AUDIT_FILE), &dir.join(AUDIT_KEY))?),
        };
        log.write(op, pool, what, done)
    }

    /// Records that something is about to be done.
    ///
    /// # Errors
    /// It cannot be recorded, and so must not be done.
    pub fn begins(&self, op: &str, pool: &str, what: &str) -> Result<(), Refusal> {
        self.write(op, pool, &format!("begins: {what}"), false).map_err(|e| refused(&e))
    }

    /// Records what came of something.
    pub fn ended<T>(&self, op: &str, pool: &str, what: &str, result: &Result<T, Refusal>) {
        let written = match result {
            Ok(_) => self.write(op, pool, what, true),
            Err(e) => self.write(op, pool, &format!("failed: {what}: {}", e.error), false),
        };
        if let Err(error) = written {
            tracing::error!(%error, op, pool, "an operation on keys is not recorded");
        }
    }
}
