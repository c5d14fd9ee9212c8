//! What is asked of a volume, and what it answers.

use crate::cx::Cx;
use crate::list::BufList;

/// Names a request to whoever submitted it: a queue of the submitting thread, and a slot in that queue.
///
/// The submitter keeps both from being used for anything else until the request is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The submitting thread's key of the queue.
    pub queue: u32,
    /// The command's slot in the queue.
    pub slot: u32,
}

/// A run of logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first logical block.
    pub lba: u64,
    /// How many; zero is an empty run.
    pub blocks: u64,
}

impl Extent {
    /// One past the last block, or `None` when that overflows.
    pub fn end(self) -> Option<u64> {
        self.lba.checked_add(self.blocks)
    }

    /// Whether it lies inside a volume of `size` blocks.
    pub fn within(self, size: u64) -> bool {
        self.end().is_some_and(|end| end <= size)
    }

    /// Whether the two share a block. Extents whose ends overflow share nothing.
    pub fn overlaps(self, other: Extent) -> bool {
        match (self.end(), other.end()) {
            (Some(a), Some(b)) => self.lba < b && other.lba < a,
            _ => false,
        }
    }
}

/// The shape of a volume, as it is now: a resize changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Logical block size in bytes, 512 or 4096.
    pub block_size: u32,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Whether a plain write may complete before it is durable (VWC): Flush and FUA then matter.
    pub volatile_cache: bool,
    /// Whether deallocated blocks give their space back, and then read as zeroes.
    pub deallocates: bool,
    /// Logical blocks in the unit that the store likes writes to be aligned to and a multiple of.
    pub preferred_blocks: u32,
}

/// What to do.
#[derive(Debug)]
pub enum Op {
    /// Read the blocks; the reply carries exactly their bytes.
    Read {
        /// Which blocks.
        at: Extent,
    },
    /// Write the blocks. Each logical block is written whole or not at all, whatever fails.
    Write {
        /// Which blocks.
        at: Extent,
        /// Exactly their bytes.
        data: BufList,
        /// Durable before it completes.
        fua: bool,
    },
    /// All that was completed before this was submitted is durable when this completes.
    Flush,
    /// The blocks read as zeroes from now on.
    WriteZeroes {
        /// Which blocks.
        at: Extent,
        /// Give their space back where the store can.
        deallocate: bool,
        /// Durable before it completes.
        fua: bool,
    },
    /// Give the space of the blocks back; they read as zeroes where [`Geometry::deallocates`].
    Deallocate {
        /// Which blocks.
        ranges: Vec<Extent>,
    },
    /// Compare the blocks with `data`.
    Compare {
        /// Which blocks.
        at: Extent,
        /// Exactly as many bytes.
        data: BufList,
    },
    /// Write the blocks if they equal `expect`, atomically against every other operation on the volume.
    CompareAndWrite {
        /// Which blocks.
        at: Extent,
        /// What they must be.
        expect: BufList,
        /// What they become.
        data: BufList,
        /// Durable before it completes.
        fua: bool,
    },
    /// Read and check the blocks, and return no data.
    Verify {
        /// Which blocks.
        at: Extent,
    },
    /// Make the blocks unreadable until they are written again.
    WriteUncorrectable {
        /// Which blocks.
        at: Extent,
    },
    /// Copy the ranges, in order, to the blocks from `to` on.
    Copy {
        /// The first block of the destination.
        to: u64,
        /// The sources.
        from: Vec<Extent>,
        /// Durable before it completes.
        fua: bool,
    },
}

/// One operation, and the name to complete it under.
#[derive(Debug)]
pub struct Request {
    /// Whom to complete it to.
    pub tag: Tag,
    /// What to do.
    pub op: Op,
}

/// Why a request failed. The controller maps each to one NVMe status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A block beyond the end of the volume.
    #[error("blocks from {lba} on are beyond the end of the volume")]
    OutOfRange {
        /// The first block asked for.
        lba: u64,
    },
    /// The device or the integrity check failed on reading this block, or it was made uncorrectable.
    #[error("block {lba} cannot be read")]
    Unreadable {
        /// The first block that is hurt.
        lba: u64,
    },
    /// The device failed on writing.
    #[error("block {lba} cannot be written")]
    WriteFault {
        /// The first block of the write.
        lba: u64,
    },
    /// No space for new data.
    #[error("no space is left for new data")]
    CapacityExceeded,
    /// The compare found a difference.
    #[error("the data differs, first at block {lba}")]
    Miscompare {
        /// The first block that differs.
        lba: u64,
    },
    /// The volume cannot do this operation.
    #[error("the operation is not supported by this volume")]
    Unsupported,
    /// A resource was short for now; the host may retry at once.
    #[error("interrupted for lack of a resource, may be retried")]
    Interrupted,
    /// The volume is being taken away.
    #[error("the volume is gone")]
    Gone,
    /// The key that the volume's data is sealed under was destroyed: none of it is ever had again.
    #[error("the key of the volume's data is destroyed")]
    KeyDestroyed,
    /// What the volume holds is being erased; it takes requests again when that is done.
    #[error("the volume's content is being erased")]
    Erasing,
    /// An earlier failure of the device has latched.
    #[error("the device failed earlier and is not used any more")]
    Failed,
}

/// The answer: data for [`Op::Read`], an empty list for all else.
pub type Outcome = Result<BufList, BlockError>;

/// Who asked for a volume's content to be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EraseBy {
    /// The operator.
    Operator = 0,
    /// A host, with Format NVM.
    Format = 1,
    /// A host, with Sanitize.
    Sanitize = 2,
}

/// How far the erasing of a volume's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// None is under way.
    None,
    /// It is under way.
    Running {
        /// Who asked for it.
        by: EraseBy,
        /// Whether it is durable that it was asked for: from then on it is done, whatever stops in between.
        recorded: bool,
        /// How far it is, in 65,536ths.
        progress: u16,
        /// It waits for something that does not come by itself: a key provider that is away, a block that cannot be read.
        stalled: bool,
    },
    /// The last that was asked for could not begin; nothing was erased.
    Failed,
}

/// A logical disk. Shared by every thread that exports it.
pub trait Volume: Send + Sync {
    /// Its shape now.
    fn geometry(&self) -> Geometry;

    /// Starts `request`, which is completed exactly once, at once or later, through [`Cx::complete`] on this thread.
    ///
    /// The caller has checked nothing but the lengths of `data`: addresses are judged here.
    fn submit(&self, cx: &mut Cx<'_>, request: Request);

    /// Bytes of the store behind it that hold data now; `None` when it cannot tell.
    fn allocated_bytes(&self) -> Option<u64> {
        None
    }

    /// How much of the room that it may share with others is left for new data, in percent.
    fn spare(&self) -> u8 {
        100
    }

    /// The first failure of the device behind it, in words for a person, once one has latched.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Whether what it alone holds can be made unreadable for good by erasing keys.
    fn erasable(&self) -> bool {
        false
    }

    /// Asks for that. From now on requests are refused with [`BlockError::Erasing`], until nothing is mapped any more; how far it
    /// is, [`Volume::erasure`] tells.
    ///
    /// # Errors
    /// [`BlockError::Unsupported`] where it is not [`Volume::erasable`]; what requests are refused with.
    fn erase(&self, _by: EraseBy) -> Result<(), BlockError> {
        Err(BlockError::Unsupported)
    }

    /// How far its erasing is.
    fn erasure(&self) -> Erasure {
        Erasure::None
    }
}
