//! The pages of a huge device that are kept, densely, in the order of their first writing.
//!
//! A sparse file would do the same, but headers that lie 260 KiB apart make it millions of extents, and a disk file system slow. Here
//! they stand behind each other in one file; a second one says for each page of the device where its copy is. Both are
//! files, so that none of it counts as the engine's memory.

use caisson_block::{IoKind, IoOp};
use caisson_device::execute;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const PAGE: usize = 4096;
const EIO: i32 = 5;
const EINVAL: i32 = 22;

pub struct Kept {
    /// The copies. The first page is a hole: what was never written reads from there.
    pages: Arc<OwnedFd>,
    /// For each page of the device the number of its copy, as 32 bits, 0 for none.
    index: File,
    /// The number of the next copy.
    next: u32,
}

fn beside(path: &Path, what: &str) -> PathBuf {
    path.with_extension(what)
}

/// Removes the files of the device at `path`.
pub fn remove(path: &Path) {
    for file in [path.to_path_buf(), beside(path, "pages"), beside(path, "index")] {
        let _ = std::fs::remove_file(file);
    }
}

impl Kept {
    /// Those of the device at `path`, as they were left.
    pub fn open(path: &Path) -> Kept {
        let open = |what| {
            let path = beside(path, what);
            File::options().read(true).write(true).create(true).truncate(false).open(path).expect("a file")
        };
        let pages = open("pages");
        let len = pages.metadata().expect("its length").len();
        if len == 0 {
            pages.set_len(PAGE as u64).expect("room for a page");
        }
        Kept {
            pages: Arc::new(pages.into()),
            index: open("index"),
            next: (len as usize / PAGE).max(1) as u32,
        }
    }

    /// Where the copies of `count` pages from `first` on are.
    fn places(&self, first: u64, count: usize) -> io::Result<Vec<u32>> {
        let mut bytes = vec![0; count * 4];
        let mut got = 0;
        // Nothing stands behind the index's end.
        while got < bytes.len() {
            match self.index.read_at(&mut bytes[got..], first * 4 + got as u64)? {
                0 => break,
                n => got += n,
            }
        }
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn put_places(&self, first: u64, places: &[u32]) -> io::Result<()> {
        let bytes: Vec<u8> = places.iter().flat_map(|p| p.to_le_bytes()).collect();
        self.index.write_all_at(&bytes, first * 4)
    }

    /// Keeps the first `len` bytes of what `op` writes, at a page's start.
    pub fn write(&mut self, op: &IoOp, len: usize) -> Result<(), i32> {
        let (first, count) = (op.offset / PAGE as u64, len.div_ceil(PAGE));
        let mut places = self.places(first, count).map_err(errno)?;
        for place in places.iter_mut().filter(|p| **p == 0) {
            *place = self.next;
            self.next += 1;
        }
        self.put_places(first, &places).map_err(errno)?;
        self.each_run(op, len, &places, IoKind::Write { dsync: false })
    }

    /// Fills the buffers of `op`; zeroes where nothing is kept.
    pub fn read(&self, op: &IoOp) -> Result<u32, i32> {
        let len = op.bufs.len();
        let (first, last) = (op.offset / PAGE as u64, (op.offset + len as u64).div_ceil(PAGE as u64));
        let places = self.places(first, (last - first) as usize).map_err(errno)?;
        self.each_run(op, len, &places, IoKind::Read)?;
        Ok(len as u32)
    }

    /// Forgets `len` bytes at `offset`.
    pub fn forget(&self, offset: u64, len: u64) -> Result<u32, i32> {
        let none = vec![0; (len / PAGE as u64) as usize];
        let done = self.put_places(offset / PAGE as u64, &none);
        done.map(|()| 0).map_err(errno)
    }

    /// Runs the first `len` bytes of `op` on the copies of its pages, neighbours together.
    fn each_run(&self, op: &IoOp, len: usize, places: &[u32], kind: IoKind) -> Result<(), i32> {
        let skip = (op.offset % PAGE as u64) as usize;
        let mut from = 0;
        while from < places.len() {
            let follows = |i: usize| places[i - 1] != 0 && places[i] == places[i - 1] + 1;
            let to = (from + 1..places.len()).find(|&i| !follows(i)).unwrap_or(places.len());
            // In bytes of `op`, whose first page may begin before it.
            let (begin, end) = ((from * PAGE).saturating_sub(skip), (to * PAGE - skip).min(len));
            let bufs = op.bufs.slice(begin, end).ok_or(EINVAL)?;
            let offset = u64::from(places[from]) * PAGE as u64 + (begin + skip - from * PAGE) as u64;
            let (file, owner) = (Arc::clone(&self.pages), Arc::clone(&op.owner));
            let mut part = IoOp { kind, file, offset, bufs, in_memory: false, token: 0, owner };
            if execute(&mut part)? as usize != end - begin {
                return Err(EIO);
            }
            from = to;
        }
        Ok(())
    }
}

fn errno(e: io::Error) -> i32 {
    e.raw_os_error().unwrap_or(EIO)
}
