//! The file operations that the state needs, one system call each, so that a test can stop between any two of them.

use std::io;
use std::path::Path;

/// A file system as the state sees it.
pub trait Files: Send + Sync {
    /// The whole file; `None` when there is none.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Makes or empties the file and writes `bytes`; not durable yet.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file's contents durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Renames, replacing what is at `to` in one step; not durable yet.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in the folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The machine's own.
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        std::fs::write(path, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        std::fs::OpenOptions::new().write(true).open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }
}

/// Puts `bytes` in the place of the file at `path`, so that a crash at any point leaves the whole old or the whole new
/// file, and so that the new one stays once this returns.
///
/// # Errors
/// The system's. After an error of the last step the new file is there, but may yet be lost to a power failure.
pub fn replace(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
    name.push(".new");
    let new = path.with_file_name(name);
    files.write(&new, bytes)?;
    // The contents must be down before the name points at them: a rename may reach the disk before data does.
    files.sync(&new)?;
    files.rename(&new, path)?;
    files.sync_dir(path.parent().unwrap_or(Path::new(".")))
}
