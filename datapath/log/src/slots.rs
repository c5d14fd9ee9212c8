//! Key slots: wrapped secrets beside the data that they unlock.
//!
//! Owns their encoding in a superblock. What a blob means is its provider's business; none is a secret. It must never hold a
//! key in the clear.

use caisson_keys::Wrapped;
use serde::{Serialize, Serializer};
use std::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most slots of a pool's superblock.
pub const MAX_SLOTS: usize = 64;

/// Bytes that all slots of a superblock take together at most.
pub const SLOT_BYTES: usize = 14_080;

/// Longest provider name in bytes.
const MAX_PROVIDER: usize = 64;

/// Longest root label in bytes.
const MAX_ROOT: usize = 512;

/// Longest blob in bytes.
const MAX_BLOB: usize = 8192;

/// One wrapped secret.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct KeySlot {
    /// What it is for: `caisson_keys::Purpose` as a number, which this crate does not interpret.
    pub purpose: u8,
    /// The domain.
    pub domain: u32,
    /// The key epoch; 0 where there is none.
    pub epoch: u16,
    /// The name of the provider that wrapped it: 1..=64 bytes.
    pub provider: String,
    /// Which root key of the provider wrapped it: at most 512 bytes.
    pub root: String,
    /// The provider's bytes: at most 8 KiB.
    #[serde(serialize_with = "length")]
    pub blob: Vec<u8>,
}

fn length<S: Serializer>(blob: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{} bytes", blob.len()))
}

impl KeySlot {
    /// What the provider is given to unwrap.
    pub fn wrapped(&self) -> Wrapped {
        Wrapped { root: self.root.clone(), blob: self.blob.clone() }
    }
}

impl fmt::Debug for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeySlot { purpose, domain, epoch, provider, root, blob } = self;
        let len = blob.len();
        write!(
            f,
            "KeySlot(purpose {purpose}, domain {domain}, epoch {epoch}, {provider:?} {root:?}, {len} bytes)"
        )
    }
}

/// The layout of a slot before its three strings.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSlot {
    domain: U32,
    epoch: U16,
    blob: U16,
    root: U16,
    purpose: u8,
    provider: u8,
}

layout!(RawSlot, 12, domain @ 0, epoch @ 4, blob @ 6, root @ 8, purpose @ 10, provider @ 11);

/// Why slots cannot be stored, or bytes are no slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// There are more than [`MAX_SLOTS`].
    #[error("{count} key slots are too many")]
    Count {
        /// How many.
        count: usize,
    },
    /// Together they take more than [`SLOT_BYTES`].
    #[error("key slots of {len} bytes do not fit")]
    TooLong {
        /// How long they are.
        len: usize,
    },
    /// A name, label or blob is too long, the name is empty, or a string is not UTF-8.
    #[error("key slot {index} has an impossible value")]
    Value {
        /// Which.
        index: usize,
    },
    /// The bytes end within a slot, or go on behind the last.
    #[error("the key slots do not add up to their {len} bytes")]
    Length {
        /// How many bytes there are.
        len: usize,
    },
}

/// Whether a superblock can hold these slots.
///
/// # Errors
/// What does not fit.
pub fn check_slots(slots: &[KeySlot]) -> Result<(), SlotError> {
    encode(slots).map(drop)
}

/// The slots, one behind the other.
pub(crate) fn encode(slots: &[KeySlot]) -> Result<Vec<u8>, SlotError> {
    if slots.len() > MAX_SLOTS {
        return Err(SlotError::Count { count: slots.len() });
    }
    let mut out = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        let (provider, root, blob) = (slot.provider.as_bytes(), slot.root.as_bytes(), &slot.blob[..]);
        check(index, provider.len(), root.len(), blob.len())?;
        let raw = RawSlot {
            domain: slot.domain.into(),
            epoch: slot.epoch.into(),
            blob: (blob.len() as u16).into(),
            root: (root.len() as u16).into(),
            purpose: slot.purpose,
            provider: provider.len() as u8,
        };
        for part in [raw.as_bytes(), provider, root, blob] {
            out.extend(part);
        }
    }
    if out.len() > SLOT_BYTES { Err(SlotError::TooLong { len: out.len() }) } else { Ok(out) }
}

fn check(index: usize, provider: usize, root: usize, blob: usize) -> Result<(), SlotError> {
    let sound = (1..=MAX_PROVIDER).contains(&provider) && root <= MAX_ROOT && blob <= MAX_BLOB;
    if sound { Ok(()) } else { Err(SlotError::Value { index }) }
}

/// Decodes `count` slots, which `bytes` hold exactly.
pub(crate) fn decode(bytes: &[u8], count: usize) -> Result<Vec<KeySlot>, SlotError> {
    if count > MAX_SLOTS {
        return Err(SlotError::Count { count });
    }
    let fault = SlotError::Length { len: bytes.len() };
    let mut rest = bytes;
    let mut slots = Vec::with_capacity(count);
    for index in 0..count {
        let (raw, tail) = RawSlot::ref_from_prefix(rest).map_err(|_| fault)?;
        let (provider, root, blob) = (raw.provider.into(), raw.root.get().into(), raw.blob.get().into());
        check(index, provider, root, blob)?;
        let (provider, tail) = tail.split_at_checked(provider).ok_or(fault)?;
        let (root, tail) = tail.split_at_checked(root).ok_or(fault)?;
        let (blob, tail) = tail.split_at_checked(blob).ok_or(fault)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| SlotError::Value { index });
        slots.push(KeySlot {
            purpose: raw.purpose,
            domain: raw.domain.get(),
            epoch: raw.epoch.get(),
            provider: text(provider)?,
            root: text(root)?,
            blob: blob.to_vec(),
        });
        rest = tail;
    }
    if rest.is_empty() { Ok(slots) } else { Err(fault) }
}

const _: () = assert!(
    MAX_PROVIDER <= u8::MAX as usize && MAX_ROOT <= u16::MAX as usize && MAX_BLOB <= u16::MAX as usize
);
