//! Writing records.
//!
//! Owns the file, the key that signs, and where the chain goes on. A record is durable when [`Log::write`] returns. It must never
//! write over a record, nor go on behind one that it cannot read.

use crate::{BEGIN, MAX_LINE, Record, SIG, hash, hex, signed, split};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use zeroize::Zeroizing;

/// Why a record could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The system refused something.
    #[error("the audit log {path}: cannot {doing}: {cause}", path = .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        cause: String,
    },
    /// What is there is not what this program writes.
    #[error("the audit log {path}: {cause}", path = .path.display())]
    Odd {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: &'static str,
    },
}

impl AuditError {
    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            AuditError::Io { .. } => "check the folder, the owner, the permissions, and that there is room",
            AuditError::Odd { .. } => {
                "see `caisson key audit --verify`; keep the log and its key elsewhere, and move both away to begin a new one"
            }
        }
    }
}

/// A log that records are added to.
pub struct Log {
    path: PathBuf,
    file: File,
    key: Ed25519KeyPair,
    /// Number of the last record.
    n: u64,
    /// Bytes of whole records.
    len: u64,
    /// Its hash.
    last: String,
}

fn io(path: &Path, doing: &'static str, e: impl ToString) -> AuditError {
    AuditError::Io { path: path.into(), doing, cause: e.to_string() }
}

impl Log {
    /// Opens the log at `path`, signed with the key at `key`; both are made where there is none.
    ///
    /// # Errors
    /// Each [`AuditError`].
    pub fn open(path: &Path, key: &Path) -> Result<Log, AuditError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600));
        let file = File::from(fd.map_err(|e| io(path, "open it", e))?);
        // One that is made at the same time by another process has its first record, or is made here.
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| io(path, "lock it", e))?;
        let new = file.metadata().map_err(|e| io(path, "look at it", e))?.len() == 0;
        let key = signing_key(key)?;
        let mut log = Log { path: path.into(), file, key, n: 0, len: 0, last: "0".repeat(64) };
        if new {
            let public = hex(log.key.public_key().as_ref());
            log.write_alone(BEGIN, "", &public, true)?;
            sync_folder(path)?;
        } else {
            log.go_on()?;
        }
        rustix::fs::flock(&log.file, FlockOperation::Unlock).map_err(|e| io(path, "unlock it", e))?;
        Ok(log)
    }

    /// The public key that judges it, in hexadecimal.
    pub fn public(&self) -> String {
        hex(self.key.public_key().as_ref())
    }

    /// Finds the last record. Half a record, which a crash left, was never confirmed to anybody: it goes.
    fn go_on(&mut self) -> Result<(), AuditError> {
        let fail = |path: &Path, e: io::Error| io(path, "read it", e);
        let path = self.path.clone();
        let len = self.file.metadata().map_err(|e| fail(&path, e))?.len();
        let from = len.saturating_sub(2 * MAX_LINE as u64);
        self.file.seek(SeekFrom::Start(from)).map_err(|e| fail(&path, e))?;
        let mut tail = Vec::new();
        self.file.read_to_end(&mut tail).map_err(|e| fail(&path, e))?;
        let whole = tail.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        if whole < tail.len() {
            self.file.set_len(from + whole as u64).map_err(|e| io(&path, "cut off half a record", e))?;
        }
        let odd = |cause| AuditError::Odd { path: path.clone(), cause };
        let text = std::str::from_utf8(&tail[..whole]).map_err(|_| odd("its end is no text"))?;
        let Some(line) = text.lines().next_back() else {
            return Err(odd("it holds no record"));
        };
        let (body, _) = split(line).ok_or_else(|| odd("its last line is no record"))?;
        let record: Record = serde_json::from_str(&body).map_err(|_| odd("its last line is no record"))?;
        self.n = record.n;
        self.len = from + whole as u64;
        self.last = hash(line);
        Ok(())
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Each [`AuditError`]; nothing counts as recorded then.
    pub fn write(&mut self, op: &str, pool: &str, what: &str, done: bool) -> Result<(), AuditError> {
        // A command beside the target may write the same log: each goes on behind the other.
        let lock = |how| rustix::fs::flock(&self.file, how).map_err(|e| io(&self.path, "lock it", e));
        lock(FlockOperation::LockExclusive)?;
        let written = self.write_alone(op, pool, what, done);
        let unlocked = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        written.and(unlocked.map_err(|e| io(&self.path, "unlock it", e)))
    }

    fn write_alone(&mut self, op: &str, pool: &str, what: &str, done: bool) -> Result<(), AuditError> {
        let len = self.file.metadata().map_err(|e| io(&self.path, "look at it", e))?.len();
        if len != self.len {
            self.go_on()?;
        }
        // A clock before 1970 is no reason to record nothing.
        let time = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(400).collect::<String>();
        let record = Record {
            n: self.n + 1,
            time,
            op: short(op),
            pool: short(pool),
            what: short(what),
            done,
            prev: self.last.clone(),
        };
        let body = serde_json::to_string(&record).map_err(|e| io(&self.path, "write a record", e))?;
        let sig = hex(self.key.sign(&signed(&body)).as_ref());
        let open = body.strip_suffix('}').unwrap_or(&body);
        let line = format!("{open}{SIG}{sig}\"}}");
        // In one piece, so that two processes do not mix theirs.
        if let Err(e) = self.file.write_all(format!("{line}\n").as_bytes()) {
            // Half a line, as a full disk leaves it, must not stand before the next.
            let _ = self.file.set_len(self.len);
            return Err(io(&self.path, "write it", e));
        }
        self.len += line.len() as u64 + 1;
        self.file.sync_data().map_err(|e| io(&self.path, "sync it", e))?;
        self.n += 1;
        self.last = hash(&line);
        Ok(())
    }
}

/// The key at `path`, in PKCS#8; made where there is none.
fn signing_key(path: &Path) -> Result<Ed25519KeyPair, AuditError> {
    let odd = |cause| AuditError::Odd { path: path.into(), cause };
    let mut bytes = Zeroizing::new(Vec::with_capacity(512));
    match File::open(path) {
        Ok(file) => {
            let meta = file.metadata().map_err(|e| io(path, "look at it", e))?;
            if meta.mode() & 0o077 != 0 {
                return Err(odd("others can read the key that signs it (chmod 600)"));
            }
            file.take(512).read_to_end(&mut bytes).map_err(|e| io(path, "read it", e))?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
            let made = made.map_err(|_| odd("no key could be made to sign it"))?;
            bytes.extend(made.as_ref());
            // Complete and private before it has its name.
            let beside = path.with_extension("new");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(CWD, &beside, flags, Mode::from_raw_mode(0o600));
            let mut file = File::from(fd.map_err(|e| io(&beside, "create it", e))?);
            file.write_all(&bytes)
                .and_then(|()| file.sync_all())
                .and_then(|()| std::fs::rename(&beside, path))
                .map_err(|e| io(path, "write it", e))?;
            sync_folder(path)?;
        }
        Err(e) => return Err(io(path, "open it", e)),
    }
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| odd("this is no key of an audit log"))
}

fn sync_folder(path: &Path) -> Result<(), AuditError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| io(path, "sync its folder", e))
}
