//! The record of operations on keys.
//!
//! Owns where it is (in the data directory, or in a folder that is named for it; a target that has neither records beside its first pool),
//! and that it begins with the first operation. It must
//! never be in the way of serving: what cannot be recorded is refused before it is done where that is possible, and said loudly
//! where it is not.

use crate::model::Pool;
use crate::refusal::{Cause, Refusal};
use caisson_audit::{AuditError, Log};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The log's name in the data directory.
pub const AUDIT_FILE: &str = "audit.log";

/// The name of the key that signs it.
pub const AUDIT_KEY: &str = "audit.key";

/// The log of a target.
pub struct Audit {
    dir: Mutex<Option<PathBuf>>,
    log: Mutex<Option<Log>>,
}

/// The folder for what is recorded of a pool on `device`: a file's has its name with `.audit` behind it; beside a block device there is
/// none, and what the system has for that is taken.
fn beside(device: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let whole = std::path::absolute(device).ok()?;
    let special =
        whole.metadata().is_ok_and(|m| m.file_type().is_block_device() || m.file_type().is_char_device());
    if !special {
        let mut name = whole.into_os_string();
        name.push(".audit");
        return Some(name.into());
    }
    if rustix::process::geteuid().is_root() {
        return Some("/var/lib/caisson".into());
    }
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("caisson"))
}

fn refused(e: &AuditError) -> Refusal {
    Refusal::new(Cause::System, format!("the operation cannot be recorded: {e}"), e.remedy())
}

impl Audit {
    /// One that is kept in this folder, or nowhere. Nothing is made before something is recorded.
    pub fn new(dir: Option<&Path>) -> Audit {
        Audit { dir: Mutex::new(dir.map(Path::to_path_buf)), log: Mutex::new(None) }
    }

    fn dir(&self) -> Option<PathBuf> {
        self.dir.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The log's path; none where nothing was recorded and nobody said where to.
    pub fn file(&self) -> Option<PathBuf> {
        Some(self.dir()?.join(AUDIT_FILE))
    }

    /// Where nobody said where to record: beside `pool`, from the first one on.
    pub fn beside(&self, pool: &Pool) {
        let mut dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        if dir.is_none() {
            *dir = pool.devices.first().and_then(|d| beside(&d.path));
            match &*dir {
                Some(dir) => {
                    tracing::info!("operations on keys are recorded in {}", dir.join(AUDIT_FILE).display())
                }
                None => tracing::warn!(
                    "operations on keys are recorded nowhere: name a folder (data_dir, or CAISSON_AUDIT)"
                ),
            }
        }
    }

    fn write(&self, op: &str, pool: &str, what: &str, done: bool) -> Result<(), AuditError> {
        let Some(dir) = self.dir() else { return Ok(()) };
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let log = match &mut *log {
            Some(log) => log,
            none => {
                // Where that fails, so does the opening, and says it.
                let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
                none.insert(Log::open(&dir.join(AUDIT_FILE), &dir.join(AUDIT_KEY))?)
            }
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
