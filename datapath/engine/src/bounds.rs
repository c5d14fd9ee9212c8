//! Every bound of a pool, in one place. None of them is in the disk format.

/// User blocks that one publication may carry: what a crash keeps or loses together. Longer writes are several.
pub(crate) const CHUNK_BLOCKS: usize = 64;

/// Payload bytes at which the open batch is written although others are under way.
pub(crate) const BATCH_TARGET: usize = 256 << 10;

/// Bytes of a batch beside its payload: descriptors and changes of one publication.
pub(crate) const BATCH_SLACK: usize = 64 << 10;

/// Batches that are being written at once.
pub(crate) const BATCHES_IN_FLIGHT: usize = 4;

/// Blocks that a write may hash and compress, and a read open and unpack, without being divided.
pub(crate) const TURN_BLOCKS: usize = 4;
pub(crate) const READ_TURN_BLOCKS: usize = 16;

/// Records of a batch that are sealed before others have a turn. A batch of no more is sealed in one go.
pub(crate) const SEAL_TURN_BLOCKS: usize = 32;
/// Records that are sealed without a look at the clock.
pub(crate) const SEAL_FIRST_BLOCKS: usize = 4;

/// Bytes of a batch that one device operation writes: a multiple of a batch's alignment.
pub(crate) const WRITE_PIECE: usize = 128 << 10;
/// Work that a larger command may do before others have a turn on its thread, in units of about a microsecond: what
/// hashing a block costs, keeping it as it is, opening and unpacking it, and compressing it at a low or a high level.
pub(crate) const SLICE_WORK: u32 = 36;
pub(crate) const PRINT_WORK: u32 = 1;
pub(crate) const STORE_WORK: u32 = 1;
pub(crate) const READ_WORK: u32 = 2;
pub(crate) const PACK_WORK: u32 = 8;
pub(crate) const HARD_PACK_WORK: u32 = 32;

/// The highest level whose work is [`PACK_WORK`].
pub(crate) const EASY_LEVEL: i32 = 4;

/// Buffers of a write whose blocks are put together where they lie in two: some microseconds. A large command has no more.
pub(crate) const JOINED_PARTS: usize = 40;

/// Chunks whose memory a thread keeps for the next ones: at most 256 KiB each, and as a rule half.
pub(crate) const SPARE_CHUNKS: usize = 32;

/// Stored bytes of a chunk from which a batch takes their memory; fewer are copied into its own.
pub(crate) const MOVED_BYTES: usize = 24 << 10;

/// Pieces of such memory that are kept for the chunks to come.
pub(crate) const SPARE_PARTS: usize = 16;

/// Blocks of a chunk that are hashed and looked up together.
pub(crate) const PRINT_BLOCKS: usize = 16;

/// Small writes that hash by themselves after one that found no company.
pub(crate) const ALONE: u32 = 255;

/// Summaries that the deduplication of one chunk may read from the device.
pub(crate) const FETCHES_PER_CHUNK: usize = 4;

/// Summaries that are read ahead at once.
pub(crate) const READ_AHEAD: u64 = 4;

/// Table pages that are read from the device at once for one task.
pub(crate) const PAGES_AT_ONCE: usize = 32;

/// Times that a read is tried again because what it looked for was moved meanwhile.
pub(crate) const MOVED_RETRIES: usize = 8;

/// Blocks that the cleaner asks the tables about, or tells them of, while it holds the lock.
pub(crate) const MOVES_AT_ONCE: usize = 32;

/// Bytes of a checkpoint's batch.
pub(crate) const CHECKPOINT_BATCH: usize = 128 << 10;

/// Changed pages that are looked at for how large they all would be in a checkpoint.
pub(crate) const WEIGHED_PAGES: usize = 64;

/// Pages of a checkpoint that are compressed at a turn.
pub(crate) const PAGES_A_TURN: u64 = 16;

/// Segments that are looked at for cleaning, or copied for a root, while the lock is held.
pub(crate) const SEGMENTS_AT_ONCE: u32 = 1 << 14;

/// Bytes that the log may write between two checkpoints: what recovery reads at most.
pub(crate) const CHECKPOINT_DISTANCE: u64 = 1 << 30;

/// How long the log rests before a witness of its end is written.
pub(crate) const REST: std::time::Duration = std::time::Duration::from_millis(50);

/// Superblock region at the front of each device; segments begin behind it.
pub(crate) const FRONT: u64 = 1 << 20;

/// The smallest and the largest segment that a pool chooses by itself.
pub(crate) const SEGMENT_SIZES: (u32, u32) = (512 << 10, 128 << 20);

/// Segments that a pool has at least.
pub(crate) const MIN_SEGMENTS: u32 = 24;

/// Damaged blocks that are remembered for the status.
pub(crate) const FAULTS_KEPT: usize = 256;

/// The most bytes that one read or write moves.
pub(crate) const MAX_TRANSFER: u64 = 4 << 20;

/// Bytes of the buffers that the background reads and writes with, and of a batch of what the cleaner moves.
pub(crate) const BULK: usize = 256 << 10;
