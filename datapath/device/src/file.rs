//! The store on a regular file or block device: every operation goes through the ring of the thread that asks for it.
//!
//! Owns the open file, its lock and its latch. Continues what the device did only in part, sorts errors into those that
//! end the store and those that do not, and knows nothing of logical blocks: offsets, lengths and buffers come aligned
//! as [`FileStore::alignment`] says. Never blocks on the data path; what blocks is named so.

use crate::blocking;
use crate::fault::{Asked, Latch, StoreError, Verdict, verdict, words};
use crate::open::{self, Alignment, FileError, FileKind};
use crate::spec::Size;
use caisson_block::{BufList, Cx, IoKind, IoOp, IoOwner, Parked};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A store on a file or block device.
pub struct FileStore {
    file: Arc<OwnedFd>,
    path: PathBuf,
    kind: FileKind,
    align: Alignment,
    in_memory: bool,
    size: AtomicU64,
    /// Found out when it is first asked for.
    punches: OnceLock<bool>,
    /// Whether zeroing without deallocating works; found out at the first try.
    zeroes: AtomicBool,
    latch: Latch,
    /// Reads that the device refused, and the last of them in words.
    unread: Mutex<(u64, Option<String>)>,
    resizing: Mutex<()>,
}

/// Who is told of the end of a store's operation.
pub trait Client: Send + Sync {
    /// The operation `token` is over, wholly or not at all as far as `result` says; its buffers are back. Called on the
    /// thread that started it, never from within [`FileStore::start`].
    fn finished(self: Arc<Self>, cx: &mut Cx<'_>, token: u64, bufs: BufList, result: Result<(), StoreError>);
}

/// How often an operation that the system asks to repeat is repeated before it counts as a failure.
const MAX_AGAIN: u32 = 10_000;

impl FileStore {
    /// Opens `path` for this store alone; makes it, sparse and `size` bytes long, where there is none. An existing file
    /// keeps its size.
    ///
    /// # Errors
    /// Each [`FileError`].
    pub fn open(path: &Path, size: Option<Size>) -> Result<Arc<FileStore>, FileError> {
        let open = open::open(path, size)?;
        Ok(Arc::new(FileStore {
            file: Arc::new(open.fd),
            path: path.to_owned(),
            kind: open.kind,
            align: open.align,
            in_memory: open.in_memory,
            size: AtomicU64::new(open.size),
            punches: OnceLock::new(),
            zeroes: AtomicBool::new(true),
            latch: Latch::default(),
            unread: Mutex::default(),
            resizing: Mutex::new(()),
        }))
    }

    /// A store over a file that is described by hand: for simulated rings, which only look at which file it is.
    pub fn over(file: Arc<OwnedFd>, size: u64, align: Alignment, punches: bool) -> Arc<FileStore> {
        Arc::new(FileStore {
            file,
            path: PathBuf::from("(simulated)"),
            kind: FileKind::Block,
            align,
            in_memory: false,
            size: AtomicU64::new(size),
            punches: OnceLock::from(punches),
            zeroes: AtomicBool::new(true),
            latch: Latch::default(),
            unread: Mutex::default(),
            resizing: Mutex::new(()),
        })
    }

    /// Size in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// What offsets, lengths and buffers must be multiples of.
    #[inline]
    pub fn alignment(&self) -> Alignment {
        self.align
    }

    /// Whether punched holes give space back and read as zeroes.
    pub fn punches(&self) -> bool {
        *self.punches.get_or_init(|| open::can_punch(&self.file, self.kind, self.size()))
    }

    /// Whether [`IoKind::ZeroRange`] is worth trying.
    pub fn zeroes(&self) -> bool {
        self.zeroes.load(Ordering::Relaxed)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Regular file or block device.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Whether it may still be used.
    ///
    /// # Errors
    /// [`StoreError::Latched`] after a failure.
    #[inline]
    pub fn check(&self) -> Result<(), StoreError> {
        self.latch.check()
    }

    /// The first failure, in words.
    pub fn fault(&self) -> Option<String> {
        self.latch.get().map(str::to_owned)
    }

    /// How many reads the device refused ([`StoreError::Unread`]), and the last of them in words.
    pub fn unread(&self) -> (u64, Option<String>) {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes that the file takes on its file system; `None` for a block device.
    pub fn allocated(&self) -> Option<u64> {
        let stat = rustix::fs::fstat(&*self.file).ok()?;
        (self.kind == FileKind::Regular).then(|| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    /// Starts an operation; `client` is told of its end, unless it is refused.
    ///
    /// # Errors
    /// [`StoreError::Latched`] after a failure; nothing was started, and the buffers are dropped.
    pub fn start(
        self: &Arc<Self>,
        cx: &mut Cx<'_>,
        kind: IoKind,
        offset: u64,
        bufs: BufList,
        client: Arc<dyn Client>,
        token: u64,
    ) -> Result<(), StoreError> {
        self.latch.check()?;
        let transfer = Arc::new(Transfer {
            store: Arc::clone(self),
            client,
            token,
            kind,
            state: Mutex::new(State { done: BufList::new(), parked: None, again: 0 }),
        });
        let op = self.op(kind, offset, bufs, transfer.clone());
        transfer.submit(cx, op);
        Ok(())
    }

    fn op(&self, kind: IoKind, offset: u64, bufs: BufList, owner: Arc<Transfer>) -> IoOp {
        let (file, in_memory) = (Arc::clone(&self.file), self.in_memory);
        IoOp { kind, file, offset, bufs, in_memory, token: 0, owner }
    }

    /// Changes the size of a regular file, sparsely. Blocks. The caller sees to it that nothing beyond the new end is
    /// under way.
    ///
    /// # Errors
    /// `Unsupported` for a block device, whose size is not ours to set; the system's.
    pub fn resize_blocking(&self, size: Size) -> io::Result<()> {
        let _one = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.kind == FileKind::Block {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let old = self.size();
        if size.bytes() < old {
            self.size.store(size.bytes(), Ordering::Release);
        }
        if let Err(e) = rustix::fs::ftruncate(&*self.file, size.bytes()) {
            self.size.store(old, Ordering::Release);
            return Err(e.into());
        }
        rustix::fs::fsync(&*self.file)?;
        self.size.store(size.bytes(), Ordering::Release);
        Ok(())
    }

    /// Looks at a block device's size again, which may have been changed from outside, and says it. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub fn reread_size_blocking(&self) -> io::Result<u64> {
        let size = rustix::fs::seek(&*self.file, rustix::fs::SeekFrom::End(0))?;
        self.size.store(size, Ordering::Release);
        Ok(size)
    }

    /// Makes everything written before durable. Blocks.
    ///
    /// # Errors
    /// The system's, which latches; or that an earlier failure has latched.
    pub fn sync_blocking(&self) -> io::Result<()> {
        self.latch.check().map_err(|_| io::Error::other(self.fault().unwrap_or_default()))?;
        rustix::fs::fdatasync(&*self.file).map_err(|e| {
            self.latch.set(format!("syncing {} failed: {e}", self.path.display()));
            e.into()
        })
    }

    /// As [`FileStore::start`], at once and blocking: for what is done before or after the data path runs.
    ///
    /// # Errors
    /// Each [`StoreError`].
    pub fn run_blocking(&self, kind: IoKind, offset: u64, bufs: BufList) -> Result<BufList, StoreError> {
        struct Nobody;
        impl IoOwner for Nobody {
            fn done(self: Arc<Self>, _: &mut Cx<'_>, _: IoOp, _: Result<u32, i32>) {}
        }
        self.latch.check()?;
        let file = Arc::clone(&self.file);
        let owner = Arc::new(Nobody);
        let mut op = IoOp { kind, file, offset, bufs, in_memory: self.in_memory, token: 0, owner };
        let mut done = BufList::new();
        loop {
            let result = blocking::execute(&mut op);
            match self.judge(op.kind, op.offset, op.bufs.len(), result) {
                Next::Done => {
                    done.append(&mut op.bufs);
                    return Ok(done);
                }
                Next::More(n) => {
                    done.append(&mut op.bufs.split_to(n));
                    op.offset += n as u64;
                }
                Next::Again => {}
                Next::Failed(e) => return Err(e),
            }
        }
    }

    /// What follows from the end of an operation on the `asked` bytes from `offset` on.
    fn judge(&self, kind: IoKind, offset: u64, asked: usize, result: Result<u32, i32>) -> Next {
        let what = match kind {
            IoKind::Read => Asked::Read,
            IoKind::Write { .. } => Asked::Write,
            IoKind::Sync => Asked::Sync,
            IoKind::PunchHole { .. } | IoKind::ZeroRange { .. } => Asked::Allocate,
        };
        let moves = matches!(what, Asked::Read | Asked::Write);
        let fail = |why: &str| {
            let path = self.path.display();
            self.latch.set(match what {
                Asked::Read => format!("reading {asked} bytes at {offset} of {path} failed: {why}"),
                Asked::Write => format!("writing {asked} bytes at {offset} of {path} failed: {why}"),
                Asked::Sync => format!("syncing {path} failed: {why}"),
                Asked::Allocate => format!("deallocating or zeroing at {offset} of {path} failed: {why}"),
            });
            Next::Failed(StoreError::Device)
        };
        match result {
            Ok(_) if !moves => Next::Done,
            Ok(n) if n as usize >= asked => Next::Done,
            Ok(n) => {
                // What was done of a last, partial unit is done once more with the rest.
                let whole = n as usize / self.align.offset as usize * self.align.offset as usize;
                if whole > 0 {
                    Next::More(whole)
                } else if n > 0 {
                    Next::Again
                } else if offset.saturating_add(asked as u64) > self.size() {
                    Next::Failed(StoreError::OutOfRange)
                } else if what == Asked::Read {
                    fail("the file is shorter than it was: something else has cut it off")
                } else {
                    fail("the device took nothing")
                }
            }
            Err(errno) => match verdict(what, errno) {
                Verdict::Again => Next::Again,
                Verdict::Report(e) => {
                    if e == StoreError::Unsupported && matches!(kind, IoKind::ZeroRange { .. }) {
                        self.zeroes.store(false, Ordering::Relaxed);
                    }
                    Next::Failed(e)
                }
                Verdict::Unread => {
                    let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
                    let path = self.path.display();
                    unread.0 += 1;
                    unread.1 =
                        Some(format!("reading {asked} bytes at {offset} of {path} failed: {}", words(errno)));
                    Next::Failed(StoreError::Unread { offset, errno })
                }
                Verdict::Latch => fail(&words(errno)),
            },
        }
    }

    /// Latches a failure that a client of the store found, such as data that did not authenticate.
    pub fn fail(&self, reason: String) {
        self.latch.set(reason);
    }
}

/// What follows.
enum Next {
    Done,
    /// So many bytes are done; go on behind them.
    More(usize),
    Again,
    Failed(StoreError),
}

/// One operation of a client, which may take the device several.
struct Transfer {
    store: Arc<FileStore>,
    client: Arc<dyn Client>,
    token: u64,
    kind: IoKind,
    state: Mutex<State>,
}

struct State {
    /// Buffers of the part that is done.
    done: BufList,
    /// What the ring had no room for, or asked to be tried again: offset and buffers. Not the operation itself, whose
    /// owner is this transfer: neither would ever be freed if the thread ended meanwhile.
    parked: Option<(u64, BufList)>,
    again: u32,
}

impl Transfer {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands `op` to the ring; when that is full, comes back at the thread's next turn.
    fn submit(self: Arc<Self>, cx: &mut Cx<'_>, op: IoOp) {
        if let Err(op) = cx.ring.submit(op) {
            self.park(cx, op);
        }
    }

    fn park(self: Arc<Self>, cx: &mut Cx<'_>, op: IoOp) {
        self.state().parked = Some((op.offset, op.bufs));
        cx.remote.wake(self, 0);
    }
}

impl IoOwner for Transfer {
    fn done(self: Arc<Self>, cx: &mut Cx<'_>, mut op: IoOp, result: Result<u32, i32>) {
        let result = match self.store.judge(self.kind, op.offset, op.bufs.len(), result) {
            Next::Done => Ok(()),
            Next::More(n) => {
                let mut head = op.bufs.split_to(n);
                self.state().done.append(&mut head);
                op.offset += n as u64;
                return self.submit(cx, op);
            }
            Next::Again => {
                let again = {
                    let mut state = self.state();
                    state.again += 1;
                    state.again
                };
                if again < MAX_AGAIN {
                    return self.park(cx, op);
                }
                self.store.latch.set(format!("{} does not get anywhere", self.store.path.display()));
                Err(StoreError::Device)
            }
            Next::Failed(e) => Err(e),
        };
        let mut bufs = std::mem::take(&mut self.state().done);
        bufs.append(&mut op.bufs);
        let client = Arc::clone(&self.client);
        client.finished(cx, self.token, bufs, result);
    }
}

impl Parked for Transfer {
    fn woken(self: Arc<Self>, cx: &mut Cx<'_>, _token: u64) {
        let parked = self.state().parked.take();
        if let Some((offset, bufs)) = parked {
            let op = self.store.op(self.kind, offset, bufs, Arc::clone(&self));
            self.submit(cx, op);
        }
    }
}
