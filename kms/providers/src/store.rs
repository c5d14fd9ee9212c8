//! Key files on disk: read with care, written whole or not at all.
//!
//! Owns the permissions, and the order of writing: a new file is complete, synced and private before it has its name. It must
//! never overwrite a file that it did not read, and never follow what a file says about its own size.

use crate::format::{self, FormatError};
use caisson_keys::KeyError;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why a key file could not be created, opened or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// There is none.
    #[error("key file {path}: there is no such file", path = .path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// There is one already, or something else of that name.
    #[error("key file {path}: exists already, and is never overwritten", path = .path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// Others than its owner could read or change it.
    #[error("key file {path}: its mode {mode:04o} lets others read or change it", path = .path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// It is a folder, a device or a pipe.
    #[error("key file {path}: is not a regular file", path = .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The system refused something.
    #[error("key file {path}: cannot {doing}: {cause}", path = .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done: "read", "create".
        doing: &'static str,
        /// The system's reason.
        cause: String,
    },
    /// Its contents are not to be opened.
    #[error("key file {path}: {cause}", path = .path.display())]
    Contents {
        /// The path.
        path: PathBuf,
        /// What is wrong with them.
        cause: FormatError,
    },
    /// Somebody else changed it since it was opened.
    #[error("key file {path}: changed since it was opened", path = .path.display())]
    Changed {
        /// The path.
        path: PathBuf,
    },
    /// It holds as many root keys as it may.
    #[error("key file {path}: holds {} root keys already, which is the most", format::MAX_ROOTS, path = .path.display())]
    Full {
        /// The path.
        path: PathBuf,
    },
    /// What a root key should be called cannot be.
    #[error("{label:?} cannot name a root key")]
    Label {
        /// What was asked for.
        label: String,
    },
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// Argon2 parameters out of their bounds were asked for.
    #[error("these costs of Argon2id are out of bounds")]
    Cost,
    /// No random bytes.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl KeyFileError {
    /// What a person can do about it, as one sentence.
    pub fn remedy(&self) -> String {
        match self {
            KeyFileError::Missing { .. } => "name the key file that the pool was created with".into(),
            KeyFileError::Exists { .. } => "choose another name, or move the file away".into(),
            KeyFileError::Open { path, .. } => format!("chmod 600 {}", path.display()),
            KeyFileError::NotAFile { .. } => "name a regular file".into(),
            KeyFileError::Io { .. } => "check the path, its folder, the owner and the permissions".into(),
            KeyFileError::Contents { cause, .. } => cause.remedy(),
            KeyFileError::Changed { .. } => "open it again, and repeat what was to be done".into(),
            KeyFileError::Full { .. } => "make another key file, and wrap the pools' keys with that".into(),
            KeyFileError::Label { .. } => {
                format!("use 1 to {} letters, digits, dashes, underscores and dots", format::MAX_LABEL)
            }
            KeyFileError::EmptyPassphrase => "choose a passphrase of several words".into(),
            KeyFileError::Cost => "use 8 KiB a lane to 1 GiB, 1 to 16 passes, and 1 to 16 lanes".into(),
            KeyFileError::Key(cause) => cause.remedy(),
        }
    }

    /// The same, as a provider's error.
    pub fn into_key(self) -> KeyError {
        let (provider, remedy) = (crate::NAME.to_string(), self.remedy());
        match self {
            KeyFileError::Key(e) => e,
            e if e.is_wrong_passphrase() => {
                let path = match &e {
                    KeyFileError::Contents { path, .. } => path.display().to_string(),
                    _ => String::new(),
                };
                KeyError::WrongSecret { provider: format!("{provider} {path}"), what: "passphrase", remedy }
            }
            e => KeyError::Local { provider, cause: e.to_string(), remedy },
        }
    }

    /// Whether it is the passphrase, and only that, so that asking again makes sense.
    pub fn is_wrong_passphrase(&self) -> bool {
        matches!(self, KeyFileError::Contents { cause: FormatError::WrongPassphrase, .. })
    }
}

/// Permissions that a key file may not give: anything to others, and writing to the group.
const TOO_OPEN: u32 = 0o027;

/// Bytes that are read at most: of a key file, or of a TPM's seal of one.
const MAX_READ: usize =
    if format::MAX_FILE > caisson_tpm::MAX_SEAL { format::MAX_FILE } else { caisson_tpm::MAX_SEAL };

/// All of a key file. Neither its permissions nor its length nor its kind may be out of bounds.
pub fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    // Without O_NONBLOCK a pipe of that name would hold the program up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Err(KeyFileError::Missing { path: path.into() }),
        Err(e) => return Err(io(path, "open it", e)),
    };
    let meta = file.metadata().map_err(|e| io(path, "look at it", e))?;
    if !meta.is_file() {
        return Err(KeyFileError::NotAFile { path: path.into() });
    }
    if meta.mode() & TOO_OPEN != 0 {
        return Err(KeyFileError::Open { path: path.into(), mode: meta.mode() & 0o7777 });
    }
    let mut bytes = Vec::new();
    file.take(MAX_READ as u64 + 1).read_to_end(&mut bytes).map_err(|e| io(path, "read it", e))?;
    Ok(bytes)
}

/// Makes a file with `bytes`, readable by its owner only. Where it returns an error there is no file; where it returns, the
/// file is durable.
pub fn create(path: &Path, bytes: &[u8], unique: &str) -> Result<(), KeyFileError> {
    let exists = || KeyFileError::Exists { path: path.into() };
    if path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let temporary = Temporary::write(path, bytes, unique, None)?;
    // The name may have been taken in the meantime, so it is given in a way that refuses that.
    match rustix::fs::renameat_with(CWD, &temporary.path, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err(exists()),
        Err(Errno::INVAL | Errno::NOSYS) => {
            // A file system without that call; a second link refuses just as well.
            match rustix::fs::linkat(CWD, &temporary.path, CWD, path, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(exists()),
                Err(e) => return Err(io(path, "name it", e)),
            }
        }
        Err(e) => return Err(io(path, "name it", e)),
    }
    sync_folder(path)
}

/// Puts `bytes` in the place of a file that reads as `old`, keeping its owner and permissions. Before or after: never between.
pub fn replace(path: &Path, old: &[u8], bytes: &[u8], unique: &str) -> Result<(), KeyFileError> {
    if read(path)? != old {
        return Err(KeyFileError::Changed { path: path.into() });
    }
    // A link is kept, and what it leads to replaced.
    let real = path.canonicalize().map_err(|e| io(path, "follow it", e))?;
    let meta = real.metadata().map_err(|e| io(path, "look at it", e))?;
    let temporary = Temporary::write(&real, bytes, unique, Some(&meta))?;
    rustix::fs::rename(&temporary.path, &real).map_err(|e| io(path, "replace it", e))?;
    sync_folder(&real)
}

/// A file as it is now, whatever stands under its name later.
pub fn hold(path: &Path) -> Result<File, KeyFileError> {
    std::fs::OpenOptions::new().write(true).open(path).map_err(|e| io(path, "hold it", e))
}

/// Overwrites what a file held that another took the place of. One that has another name still is somebody's copy, and left alone. What a
/// flash device or a file system that writes elsewhere keeps of it is out of reach.
pub fn overwrite(path: &Path, old: &File) -> Result<(), KeyFileError> {
    let fail = |e| io(path, "overwrite what it was before", e);
    let meta = old.metadata().map_err(fail)?;
    if meta.nlink() > 0 {
        return Ok(());
    }
    let zeroes = vec![0; usize::try_from(meta.len()).unwrap_or(MAX_READ).min(MAX_READ)];
    old.write_all_at(&zeroes, 0).and_then(|()| old.sync_all()).map_err(fail)
}

/// A file beside the one that it will become; removed where it does not.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn write(
        beside: &Path,
        bytes: &[u8],
        unique: &str,
        like: Option<&std::fs::Metadata>,
    ) -> Result<Temporary, KeyFileError> {
        let name = beside.file_name().ok_or_else(|| KeyFileError::NotAFile { path: beside.into() })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{unique}.new"));
        let path = beside.with_file_name(hidden);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| io(beside, "create it", e))?;
        let temporary = Temporary { path };
        let mut file = File::from(fd);
        file.write_all(bytes).map_err(|e| io(beside, "write it", e))?;
        if let Some(like) = like {
            // Not ours to give away where we are not root; then the new file is ours, and as private.
            let _ =
                rustix::fs::fchown(&file, Some(Uid::from_raw(like.uid())), Some(Gid::from_raw(like.gid())));
            rustix::fs::fchmod(&file, Mode::from_raw_mode(like.mode() & 0o640))
                .map_err(|e| io(beside, "set its mode", e))?;
        }
        file.sync_all().map_err(|e| io(beside, "sync it", e))?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing of that name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn sync_folder(path: &Path) -> Result<(), KeyFileError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| io(path, "sync its folder", e))
}

fn io(path: &Path, doing: &'static str, cause: impl ToString) -> KeyFileError {
    KeyFileError::Io { path: path.into(), doing, cause: cause.to_string() }
}
