//! Opening a file or block device for one store alone: O_DIRECT, the lock, size and alignment.
//!
//! A file is locked with flock(2), which belongs to the open file: a second opener in the same process is refused too,
//! and the lock goes with the process however it ends. A block device is opened with O_EXCL, which also excludes
//! mounts, swap and RAID, and locked in the same way so that the holder can be named.

use crate::spec::Size;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a file wants of addresses and lengths. Powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of buffers in memory.
    pub memory: u32,
    /// Of offsets and lengths.
    pub offset: u32,
}

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Its size can be changed.
    Regular,
    /// Its size is the device's.
    Block,
}

/// An open file, and all there is to know of it.
pub(crate) struct OpenFile {
    pub(crate) fd: OwnedFd,
    pub(crate) kind: FileKind,
    pub(crate) size: u64,
    pub(crate) align: Alignment,
    /// On a file system in memory.
    pub(crate) in_memory: bool,
}

/// Why a file cannot be a store.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is none, and no size to make it with.
    #[error(
        "{path} does not exist: give a size to make it (--size 10GiB), or the path of an existing file or disk"
    )]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// It is there, empty, and there is no size for it.
    #[error("{path} is empty: give it a size (--size 10GiB)")]
    Empty {
        /// As given.
        path: PathBuf,
    },
    /// Neither a regular file nor a block device.
    #[error("{path} is {what}; a store is a regular file or a block device")]
    NotAStore {
        /// As given.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Somebody else has it.
    #[error("{path} is in use by {holder}: two targets on one store would destroy it. {remedy}")]
    InUse {
        /// As given.
        path: PathBuf,
        /// Who, as far as it can be found out.
        holder: String,
        /// What to do.
        remedy: String,
    },
    /// The system refused.
    #[error("cannot {doing} {path}: {source}{hint}")]
    System {
        /// As given.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
        /// What to do, beginning with a separator; may be empty.
        hint: &'static str,
    },
}

fn system(path: &Path, doing: &'static str, errno: Errno) -> FileError {
    let hint = match errno {
        Errno::ACCESS | Errno::PERM => {
            "; run as a user that may read and write it (a disk: root or group disk)"
        }
        Errno::ROFS => "; its file system is mounted read-only",
        Errno::NOSPC => "; free some space or choose a smaller size",
        Errno::NOENT => "; make its folder first",
        _ => "",
    };
    FileError::System { path: path.to_owned(), doing, source: errno.into(), hint }
}

/// How long a file may stay locked by a process that is gone: the kernel lets go of it when the last operation that was under
/// way has ended, a moment after the process was killed and waited for.
const LETTING_GO: Duration = Duration::from_secs(10);
/// When that is told.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// Opens `path`, makes it with `size` bytes where there is none, and locks it. Blocks: for a bounded time where whoever has it is
/// gone, or cannot be seen; somebody who lives is refused for at once.
pub(crate) fn open(path: &Path, size: Option<Size>) -> Result<OpenFile, FileError> {
    let (began, mut told) = (Instant::now(), false);
    loop {
        let end = open_once(path, size);
        let waits = matches!(end, Err(FileError::InUse { .. }))
            && began.elapsed() < LETTING_GO
            && !crate::holder::stays(path);
        if !waits {
            return end;
        }
        if !told && began.elapsed() > TOLD_AFTER {
            told = true;
            tracing::warn!(path = %path.display(), "still in use by a process that is gone; waiting for the kernel to let go of it");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn open_once(path: &Path, size: Option<Size>) -> Result<OpenFile, FileError> {
    let kind = match rustix::fs::stat(path) {
        Ok(stat) => kind_of(path, FileType::from_raw_mode(stat.st_mode))?,
        Err(Errno::NOENT) if size.is_none() => return Err(FileError::Missing { path: path.to_owned() }),
        Err(Errno::NOENT) => FileKind::Regular,
        Err(e) => return Err(system(path, "look at", e)),
    };
    let (fd, direct) = open_direct(path, kind)?;
    if let Err(e) = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        return Err(if e == Errno::WOULDBLOCK { in_use(path) } else { system(path, "lock", e) });
    }
    // Only now that it is ours alone.
    if kind == FileKind::Regular {
        let stat = rustix::fs::fstat(&fd).map_err(|e| system(path, "look at", e))?;
        match size {
            None if stat.st_size == 0 => return Err(FileError::Empty { path: path.to_owned() }),
            Some(size) if stat.st_size == 0 => make(path, &fd, size)?,
            _ => {}
        }
    }
    let bytes = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(|e| system(path, "size", e))?;
    let in_memory = kind == FileKind::Regular && in_memory(&fd);
    // Where bytes are copied anyway, from wherever they lie to wherever they belong, there is nothing to be aligned.
    let direct = direct && !in_memory;
    let align = if direct { alignment(&fd, kind) } else { Alignment { memory: 1, offset: 1 } };
    tracing::info!(path = %path.display(), bytes, ?kind, direct, ?align, in_memory, "store opened");
    Ok(OpenFile { fd, kind, size: bytes, align, in_memory })
}

fn kind_of(path: &Path, kind: FileType) -> Result<FileKind, FileError> {
    let what = match kind {
        FileType::RegularFile => return Ok(FileKind::Regular),
        FileType::BlockDevice => return Ok(FileKind::Block),
        FileType::Directory => "a directory",
        FileType::CharacterDevice => "a character device",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "no file",
    };
    Err(FileError::NotAStore { path: path.to_owned(), what })
}

fn open_direct(path: &Path, kind: FileKind) -> Result<(OwnedFd, bool), FileError> {
    let flags = OFlags::RDWR
        | OFlags::CLOEXEC
        | if kind == FileKind::Block { OFlags::EXCL } else { OFlags::CREATE | OFlags::NOCTTY };
    // A new file is its owner's alone.
    let mode = Mode::RUSR | Mode::WUSR;
    let refused = |e| match e {
        Errno::BUSY => in_use(path),
        e => system(path, "open", e),
    };
    match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
        Ok(fd) => Ok((fd, true)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {
            let fd = rustix::fs::open(path, flags, mode).map_err(refused)?;
            tracing::warn!(
                path = %path.display(),
                "the file system does not support O_DIRECT: I/O goes through the page cache"
            );
            Ok((fd, false))
        }
        Err(e) => Err(refused(e)),
    }
}

/// Gives a new file its size, sparse, and makes its name durable.
fn make(path: &Path, fd: &OwnedFd, size: Size) -> Result<(), FileError> {
    rustix::fs::ftruncate(fd, size.bytes()).map_err(|e| system(path, "size", e))?;
    rustix::fs::fsync(fd).map_err(|e| system(path, "sync", e))?;
    sync_folder(path).map_err(|e| system(path, "sync the folder of", e))
}

/// Makes the names in the folder of `path` durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Errno> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder =
        rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fsync(folder)
}

/// Whether the file is in the page cache alone: on tmpfs or ramfs (statfs(2)).
fn in_memory(fd: &OwnedFd) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58F6;
    rustix::fs::fstatfs(fd).is_ok_and(|fs| matches!(fs.f_type as u64 & 0xFFFF_FFFF, TMPFS | RAMFS))
}

/// What statx says O_DIRECT needs (Linux 6.1), or the device's logical block, or a page.
fn alignment(fd: &OwnedFd, kind: FileKind) -> Alignment {
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    let said = rustix::fs::statx(fd.as_fd(), c"", flags, StatxFlags::DIOALIGN).ok().and_then(|x| {
        let known = x.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && x.stx_dio_offset_align != 0;
        known.then_some(Alignment { memory: x.stx_dio_mem_align, offset: x.stx_dio_offset_align })
    });
    let sane = |a: &Alignment| {
        let sane = |n: u32| n.is_power_of_two() && n <= 4096;
        sane(a.memory) && sane(a.offset)
    };
    let page = Alignment { memory: 4096, offset: 4096 };
    let block = || match kind {
        FileKind::Block => {
            rustix::fs::ioctl_blksszget(fd).ok().map(|n| Alignment { memory: n.max(512), offset: n })
        }
        FileKind::Regular => None,
    };
    said.filter(sane).or_else(|| block().filter(sane)).unwrap_or(page)
}

/// Whether space can be given back such that it then reads as zeroes. Trying that changes a file's time of modification, so it is
/// not done for whoever only looks.
pub(crate) fn can_punch(fd: &OwnedFd, kind: FileKind, size: u64) -> bool {
    use rustix::fs::FallocateFlags;
    match kind {
        // Beyond the end there is nothing to lose: the call tells only whether the file system knows it.
        FileKind::Regular => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(fd, flags, size.next_multiple_of(4096), 4096).is_ok()
        }
        FileKind::Block => rustix::fs::fstat(fd).is_ok_and(|stat| {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            // A partition has its queue one folder up.
            ["queue", "../queue"].iter().any(|queue| {
                let path = format!("/sys/dev/block/{major}:{minor}/{queue}/write_zeroes_max_bytes");
                std::fs::read_to_string(path).is_ok_and(|bytes| bytes.trim() != "0")
            })
        }),
    }
}

fn in_use(path: &Path) -> FileError {
    let (holder, remedy) = crate::holder::find(path);
    FileError::InUse { path: path.to_owned(), holder, remedy }
}
