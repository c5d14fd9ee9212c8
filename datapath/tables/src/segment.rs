//! The segment table: what each segment is used for, and how many live bytes it holds.
//!
//! Owns the states of segments and their accounting, live and as of a freeze. It does not know what the bytes are.

/// What a segment is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SegmentState {
    /// Nothing: it can be reserved.
    #[default]
    Free,
    /// Set aside for the log or a checkpoint.
    Reserved,
    /// Being written.
    Open,
    /// Written; free again when it is empty and a checkpoint has completed.
    Closed,
}

/// One segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The number of its present or last use: strictly growing over the pool. 0 for one that was never used.
    pub sequence: u64,
    /// The opening of the pool in which that use began.
    pub opening: u32,
    /// Bytes of live records, each with its tag.
    pub live: u32,
    /// What it is used for.
    pub state: SegmentState,
}

/// Who writes to a segment that is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// The log: a checkpoint under way does not see the opening.
    Log,
    /// The checkpoint under way, whose root must list it.
    Checkpoint,
}

/// A segment that could be cleaned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Victim {
    /// Which.
    pub segment: u32,
    /// Its live bytes.
    pub live: u32,
    /// Its sequence; the lower, the older.
    pub sequence: u64,
}
