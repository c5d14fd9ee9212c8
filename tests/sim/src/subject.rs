//! What is simulated, as the world sees it: volumes to submit to, and management that takes its time.

use caisson_block::{Cx, Mono, Volume};
use caisson_device::sim::{Rng, SimDisk};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Management of a subject. Volumes are named by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make what stands on the disks, which are empty.
    Create,
    /// Open what stands on the disks.
    Open,
    /// Make a volume.
    Make {
        /// Its name.
        name: u32,
        /// 512 or 4096.
        block_size: u32,
        /// Size in blocks.
        size: u64,
        /// Its settings.
        settings: Settings,
    },
    /// Make a snapshot, or a writable clone.
    Snapshot {
        /// The source.
        of: u32,
        /// The new volume.
        name: u32,
        /// It takes no writes.
        read_only: bool,
    },
    /// Delete a volume.
    Delete {
        /// Which.
        name: u32,
    },
    /// Change its size.
    Resize {
        /// Which.
        name: u32,
        /// Size in blocks.
        size: u64,
    },
    /// Change its settings.
    Set {
        /// Which.
        name: u32,
        /// The new ones.
        settings: Settings,
    },
    /// Write a checkpoint.
    Checkpoint,
    /// Clean some segments, whether there is need or not.
    Clean,
    /// Walk over everything and look for damage.
    Scrub,
    /// Count and read everything again, while nothing else is under way; done means that nothing is wrong.
    Check,
    /// Forget the index of duplicates.
    DropIndex,
    /// Use the disks as large as they now are.
    Grow,
    /// Use this disk too.
    Attach {
        /// Which of the world's disks.
        disk: usize,
    },
    /// Seal under another key from now on, and what is there by and by; of the subject's own data for domain 0.
    Rotate {
        /// Of which domain.
        domain: u32,
    },
    /// Make a domain: volumes with keys of their own.
    Domain,
    /// Destroy the keys of a domain, and so all of its volumes at once.
    Destroy {
        /// Which.
        domain: u32,
    },
    /// Erase for good what only this volume holds, which is empty then.
    Erase {
        /// Which.
        name: u32,
    },
    /// Begin the epochs that erases wait for.
    Serve,
    /// Close in the orderly way.
    Close,
}

/// Settings of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The level; none for off.
    pub compression: Option<i32>,
    /// Whether duplicates are looked for.
    pub dedup: bool,
    /// Whether a write may complete before it is durable.
    pub write_cache: bool,
    /// Whether duplicates are compared byte by byte.
    pub verify: bool,
    /// The domain that it is made in.
    pub domain: u32,
}

/// How management ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done, durably.
    Done,
    /// There is no space for it. Nothing has changed.
    Full,
    /// It is not for this subject. Nothing has changed.
    Unsupported,
    /// It was refused or failed, for a reason in words.
    Failed(String),
}

/// Where the reply is put.
#[derive(Clone, Debug, Default)]
pub struct Slot(Arc<Mutex<Option<Reply>>>);

impl Slot {
    /// Puts the reply there.
    pub fn put(&self, reply: Reply) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
    }

    /// Takes it, when it is there.
    pub fn take(&self) -> Option<Reply> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What may be expected of a subject.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    /// A crash leaves what was done up to some moment.
    pub ordered: bool,
    /// It detects what a lying device did.
    pub detects: bool,
    /// It has snapshots, and volumes come and go.
    pub manages: bool,
    /// Deallocated blocks read as zeroes.
    pub deallocates: bool,
    /// It does Write Uncorrectable, and remembers it.
    pub marks: bool,
    /// It has domains, and keys that come and go.
    pub keys: bool,
}

/// A subject. It holds its disks; a world drives it.
pub trait Subject {
    /// What may be expected of it.
    fn nature(&self) -> Nature;

    /// Starts an action on the thread of `cx`. The reply is put into `slot`, at once or later.
    fn act(&mut self, cx: &mut Cx<'_>, action: Action, slot: Slot);

    /// The volumes that are there: block size and size in blocks of each.
    fn volumes(&self) -> BTreeMap<u32, (u32, u64)>;

    /// One of them, to submit to.
    fn volume(&self, name: u32) -> Option<Arc<dyn Volume>>;

    /// The domains that volumes may be made in.
    fn domains(&self) -> Vec<u32> {
        vec![1]
    }

    /// Why it gave up, if it did.
    fn fault(&self) -> Option<String>;

    /// The process is gone: everything is dropped, nothing is done for it. Threads are gone already.
    ///
    /// # Errors
    /// What is still held that should not be.
    fn kill(&mut self) -> Result<(), String>;

    /// Judges what can only be seen from within, when nothing is under way.
    ///
    /// # Errors
    /// What is wrong.
    fn inspect(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// What it says of itself, for whoever looks at a failed run.
    fn explain(&self) -> String {
        String::new()
    }

    /// Spoils one of the copies of what every opening begins with, while it is closed, if it has such. Nothing may be
    /// lost by that.
    fn lose_copy(&mut self, _rng: &mut Rng) -> Option<String> {
        None
    }

    /// Spoils a part of the end of what was written, after a rest, while it is closed. Nothing may be lost without a word by that:
    /// it is all there, or the subject refuses to be opened.
    fn rot_end(&mut self, _rng: &mut Rng) -> Option<String> {
        None
    }

    /// The time is now this.
    fn tick(&mut self, _now: Mono) {}

    /// Its disks.
    fn disks(&self) -> Vec<Arc<SimDisk>>;
}
