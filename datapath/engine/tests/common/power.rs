//! Power that is cut after some operations: what was written and not synced since may be there, or not, sector by sector.

use caisson_block::{IoKind, IoOp};
use caisson_device::sim::Rng;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const SECTOR: usize = 4096;

/// What a sector of a file was before it was written.
struct Before {
    file: Arc<OwnedFd>,
    at: u64,
    bytes: Vec<u8>,
}

/// Power for so many writes and syncs.
pub struct Power {
    left: Option<u64>,
    rng: Rng,
    unsynced: Vec<Before>,
}

fn opened(file: &OwnedFd) -> File {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

impl Power {
    /// On until [`Power::cut_after`].
    pub fn new(seed: u64) -> Power {
        Power { left: None, rng: Rng::new(seed), unsynced: Vec::new() }
    }

    /// Cut after so many more writes and syncs.
    pub fn cut_after(&mut self, operations: u64) {
        self.left = Some(operations);
    }

    pub fn is_off(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether an operation is still done.
    pub fn begins(&mut self, op: &IoOp) -> bool {
        if self.is_off() {
            return false;
        }
        let len = match op.kind {
            IoKind::Read => return true,
            IoKind::Sync => {
                self.unsynced.retain(|b| !Arc::ptr_eq(&b.file, &op.file));
                0
            }
            IoKind::PunchHole { len } | IoKind::ZeroRange { len } => len as usize,
            IoKind::Write { .. } => op.bufs.len(),
        };
        let file = opened(&op.file);
        for at in (op.offset..op.offset + len as u64).step_by(SECTOR) {
            let mut bytes = vec![0; SECTOR];
            file.read_exact_at(&mut bytes, at).unwrap();
            self.unsynced.push(Before { file: Arc::clone(&op.file), at, bytes });
        }
        self.left = self.left.map(|n| n - 1);
        true
    }

    /// The power comes back: some of what was not synced is undone.
    pub fn crash(&mut self) {
        let mut kept = HashSet::new();
        while let Some(Before { file, at, bytes }) = self.unsynced.pop() {
            // A version that is kept hides the older ones of its sector.
            let name = (file.as_raw_fd(), at);
            if kept.contains(&name) || self.rng.below(2) == 0 {
                kept.insert(name);
            } else {
                opened(&file).write_all_at(&bytes, at).unwrap();
            }
        }
    }
}
