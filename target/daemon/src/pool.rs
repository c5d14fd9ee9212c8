//! A pool that is a folder: it holds plain volumes as sparse files, and is locked so that one target at a time uses it.
//!
//! `NAME.vol` is a volume; what the store keeps beside it begins with that name. `NAME.unsure` marks a volume whose creation
//! or deletion is not finished: whether it is to be there is what the state says, and [`Pool::settle`] goes by that at start.
//! The marker is durable before the file is made or the state forgets it, and goes last. No block of a volume is read or
//! written here.

use crate::refusal::{Cause, Refusal};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The lock's name in a locked folder.
const LOCK: &str = "caisson.lock";

/// A folder that this process alone uses for as long as it holds this.
#[derive(Debug)]
pub struct Locked {
    /// The folder.
    pub dir: PathBuf,
    _lock: File,
}

impl Locked {
    /// Makes the folder where there is none, and takes its lock.
    ///
    /// # Errors
    /// [`Cause::Busy`] with the holder's pid when another process has it; the system's on making or opening.
    pub fn take(dir: &Path) -> Result<Locked, Refusal> {
        // What hosts write is for nobody else on this machine to read.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Refusal::system(format!("the folder {} cannot be made", dir.display()), &e))?;
        let path = dir.join(LOCK);
        let fail =
            |e: &std::io::Error| Refusal::system(format!("the lock {} cannot be taken", path.display()), e);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| fail(&e))?;
        #[cfg(test)]
        let _locks = crate::pools::faulty_for_tests::locks();
        if let Err(e) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(fail(&e.into()));
            }
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            let pid = pid.trim();
            let holder = if pid.is_empty() { "another process".into() } else { format!("process {pid}") };
            return Err(Refusal::new(
                Cause::Busy,
                format!("{} is in use by {holder}", dir.display()),
                match pid {
                    "" => "stop the other target, or use another folder".to_string(),
                    pid => format!(
                        "stop it (kill {pid}), manage it with `caisson status`, or use another folder"
                    ),
                },
            ));
        }
        let write = |lock: &mut File| -> std::io::Result<()> {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write(&mut lock).map_err(|e| fail(&e))?;
        Ok(Locked { dir: dir.to_path_buf(), _lock: lock })
    }
}

/// An open pool.
#[derive(Debug)]
pub struct Pool {
    locked: Locked,
    name: String,
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Pool {
    /// Opens the pool in `dir`, which is made where there is none.
    ///
    /// # Errors
    /// Another process has it, or the system's.
    pub fn open(name: &str, dir: &Path) -> Result<Pool, Refusal> {
        Ok(Pool { locked: Locked::take(dir)?, name: name.to_string() })
    }

    /// Where the pool is.
    pub fn dir(&self) -> &Path {
        &self.locked.dir
    }

    /// Where the volume's blocks are.
    pub fn path(&self, volume: &str) -> PathBuf {
        self.locked.dir.join(format!("{volume}.vol"))
    }

    fn marker(&self, volume: &str) -> PathBuf {
        self.locked.dir.join(format!("{volume}.unsure"))
    }

    /// Ends what a crash interrupted: volumes that `wanted` names stay, others that were being made or deleted go. A volume
    /// that nobody names and that is not in doubt is left alone, and its name returned.
    ///
    /// # Errors
    /// The system's.
    pub fn settle(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, Refusal> {
        let fail = |e: &std::io::Error| {
            Refusal::system(format!("the pool {} cannot be read", self.dir().display()), e)
        };
        let names = || -> std::io::Result<Vec<String>> {
            let all = std::fs::read_dir(self.dir())?;
            all.filter_map(|e| e.map(|e| e.file_name().into_string().ok()).transpose()).collect()
        };
        for name in names().map_err(|e| fail(&e))? {
            let Some(volume) = name.strip_suffix(".unsure") else { continue };
            let stays = wanted(volume);
            if !stays {
                self.erase(volume).map_err(|e| fail(&e))?;
            }
            std::fs::remove_file(self.marker(volume)).map_err(|e| fail(&e))?;
            let how = if stays { "is kept" } else { "is gone" };
            tracing::info!(pool = self.name, "ended what an earlier stop interrupted: volume {volume} {how}");
        }
        sync_dir(self.dir()).map_err(|e| fail(&e))?;
        let mut strangers = names().map_err(|e| fail(&e))?;
        strangers.retain_mut(|name| match name.strip_suffix(".vol") {
            Some(volume) if !wanted(volume) => {
                *name = volume.to_string();
                true
            }
            _ => false,
        });
        strangers.sort();
        Ok(strangers)
    }

    /// Removes the volume's file and what the store keeps beside it.
    fn erase(&self, volume: &str) -> std::io::Result<()> {
        let file = format!("{volume}.vol");
        let beside = format!("{file}.");
        for entry in std::fs::read_dir(self.dir())? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name == file || name.starts_with(&beside) {
                std::fs::remove_file(entry.path())?;
            }
        }
        sync_dir(self.dir())
    }

    fn mark(&self, volume: &str) -> std::io::Result<()> {
        File::create(self.marker(volume))?;
        sync_dir(self.dir())
    }

    fn unmark(&self, volume: &str) -> std::io::Result<()> {
        match std::fs::remove_file(self.marker(volume)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => sync_dir(self.dir()),
        }
    }

    /// Whether there is a file for the volume.
    pub fn has(&self, volume: &str) -> bool {
        self.path(volume).exists()
    }

    /// Makes a sparse file of `size` bytes for a volume that is new; in doubt until [`Pool::keep`].
    ///
    /// # Errors
    /// [`Cause::Conflict`] when the pool has a volume of that name; the system's.
    pub fn make(&self, volume: &str, size: u64) -> Result<PathBuf, Refusal> {
        let path = self.path(volume);
        if self.has(volume) {
            return Err(Refusal::conflict(
                format!("the pool {} holds a volume {volume} that is not configured", self.name),
                format!(
                    "declare it (adopt it) with `caisson volume create {volume} --adopt --size SIZE`, move {} away, or choose \
                     another name",
                    path.display()
                ),
            ));
        }
        let make = || -> std::io::Result<()> {
            self.mark(volume)?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.set_len(size)?;
            file.sync_all()?;
            sync_dir(self.dir())
        };
        make().map_err(|e| {
            self.unmake(volume);
            Refusal::system(format!("the volume's file {} cannot be made", path.display()), &e)
        })?;
        Ok(path)
    }

    /// What [`Pool::make`] made, or what [`Pool::begin_delete`] was to delete, stays: the state names it.
    pub fn keep(&self, volume: &str) {
        if let Err(error) = self.unmark(volume) {
            tracing::warn!(%error, volume, "the volume's marker stays until the next start");
        }
    }

    /// Takes back what [`Pool::make`] made.
    pub fn unmake(&self, volume: &str) {
        self.end_delete(volume);
    }

    /// Begins the deletion of a volume, before the state forgets it. [`Pool::keep`] takes that back.
    ///
    /// # Errors
    /// The system's.
    pub fn begin_delete(&self, volume: &str) -> Result<(), Refusal> {
        self.mark(volume).map_err(|e| Refusal::system(format!("the volume {volume} cannot be deleted"), &e))
    }

    /// Ends a deletion, after the state has forgotten the volume.
    pub fn end_delete(&self, volume: &str) {
        if let Err(error) = self.erase(volume).and_then(|()| self.unmark(volume)) {
            tracing::warn!(%error, volume, "a deleted volume's file stays until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for a test, gone at the end.
    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("caisson-pool-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Dir(path)
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_second_target_is_refused_by_name() {
        let dir = Dir::new("lock");
        let first = Pool::open("default", &dir.0).unwrap();
        let refused = Pool::open("default", &dir.0).unwrap_err();
        assert_eq!(refused.cause, Cause::Busy);
        assert!(refused.error.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        Pool::open("default", &dir.0).unwrap();
    }

    #[test]
    fn interrupted_steps_are_ended() {
        let dir = Dir::new("settle");
        let pool = Pool::open("default", &dir.0).unwrap();
        for v in ["made", "unmade", "kept", "deleted", "stranger", "restored"] {
            pool.make(v, 8192).unwrap();
            std::fs::write(dir.0.join(format!("{v}.vol.unreadable")), "x").unwrap();
        }
        for v in ["kept", "deleted", "stranger", "restored"] {
            pool.keep(v);
        }
        pool.begin_delete("deleted").unwrap();
        pool.begin_delete("restored").unwrap();
        let wanted = ["made", "kept", "restored"];
        assert_eq!(pool.settle(|v| wanted.contains(&v)).unwrap(), ["stranger"]);
        for v in wanted {
            assert_eq!(std::fs::metadata(pool.path(v)).unwrap().len(), 8192, "{v}");
        }
        assert!(!pool.has("unmade") && !pool.has("deleted") && pool.has("stranger"));
        // Four volumes with what is beside them, and the lock.
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 9);
        assert_eq!(pool.make("stranger", 1).unwrap_err().cause, Cause::Conflict);
        pool.begin_delete("kept").unwrap();
        pool.end_delete("kept");
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 7);
    }
}
