//! The pool's on-disk format, version 1, and its sealing: superblocks, batches, roots. `FORMAT.md` has it to the byte.
//!
//! Owns every layout that stands on a device and the one place where data is encrypted: [`Keyring`]. Layouts are
//! little-endian, without padding, with compile-time assertions on sizes and offsets. Decoders take any bytes and answer
//! with a typed error; what they give back has been authenticated unless its documentation says otherwise.
//!
//! A segment has no header: each batch says which segment and use it belongs to, and its header lists its records.
//!
//! It must never do I/O, draw random numbers (salts and nonces are handed in), know what table changes or blobs mean, or
//! show a key.

#[macro_use]
mod layout;

mod aead;
#[cfg(test)]
mod aead_tests;
mod at;
mod batch;
mod blobs;
mod expanded;
mod extents;
mod header;
mod keyring;
mod maps;
mod prefix;
mod record;
mod root;
mod slots;
mod superblock;

pub use aead::{Cipher, NONCE, TAG, XNONCE, hkdf_sha256};
pub use at::{At, MAX_SEGMENT, MIN_SEGMENT, PoolId, Spot, segment_size_is_sound};
pub use batch::{BatchPlan, BatchSize, PlanError, SealBatchError, Stamp};
pub use blobs::{
    BLOB_PIECE, Blob, BlobError, BlobKind, Blobs, ListError, MAX_BLOBS_BYTES, Opening, Piece,
    decode_openings, decode_reserved, encode_openings, encode_reserved, pieces,
};
pub use extents::{Extent, ExtentError, Extents, MAX_DEVICES, MAX_EXTENTS};
pub use header::{BodyError, Header, HeaderError, Placed, VerifyError, decode_body, decode_header, verify};
pub use keyring::{CACHED_CONTEXTS, Keyring, KeyringError, MAX_OPENINGS, MAX_SECRETS, OpenError, SealError};
pub use maps::{
    FAMILY, MAP_KEY, MAX_MAP_KEYS, MapKeyError, UNDER_MAP_KEY, VaultError, map_keys_len, open_map_keys,
    split_family,
};
pub use prefix::{BATCH_ALIGN, BatchKind, MAX_BATCH, PREFIX, Prefix, PrefixError, decode_prefix};
pub use record::{Bind, MAX_ID, Record, RecordKind};
pub use root::{BatchRef, MAX_ROOT_BATCHES, RootError, RootHead};
pub use slots::{KeySlot, MAX_SLOTS, SLOT_BYTES, SlotError, check_slots};
pub use superblock::{
    Anchor, AnchorError, Choice, ChooseError, PlainError, SUPERBLOCK, SUPERBLOCK_AT, SealSuperblockError,
    Superblock, SuperblockError, choose, copy_for, superblock_sum,
};

/// The version of the format that this crate writes, and the only one it reads.
pub const FORMAT_VERSION: u16 = 1;

/// Where a device's first segment may begin: the superblock copies lie below.
pub const SEGMENTS_START: u64 = 1 << 20;
