//! The superblock: where a pool begins, in two copies on each device.
//!
//! Owns its layout, in plain (what is needed before there is a key) and sealed (the anchor: where the root is), and the choice
//! between copies. All of a copy is authenticated: the plain part is associated data of the anchor. A checksum tells
//! damage from a wrong key before any key manager is asked. It must never be believed before [`Superblock::open`] has said so,
//! but for the key slots, which bind themselves to their pool.

use crate::at::{At, PoolId};
use crate::extents::{Extent, ExtentError, Extents, MAX_DEVICES, MAX_EXTENTS, RawExtent};
use crate::keyring::Keyring;
use crate::maps::{MAP_KEY, vault_of};
use crate::root::{BatchRef, RawRef};
use crate::slots::{self, KeySlot, SLOT_BYTES, SlotError};
use crate::{Cipher, FORMAT_VERSION, TAG, XNONCE};
use aws_lc_rs::digest;
use caisson_keys::Secret;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroizing;

/// Length of a superblock copy in bytes.
pub const SUPERBLOCK: usize = 16 << 10;

/// Where the two copies begin on each device, in bytes.
pub const SUPERBLOCK_AT: [u64; 2] = [0, 512 << 10];

const MAGIC: [u8; 8] = *b"CAISSON1";

/// Length of the plain part, which is the anchor's associated data.
const PLAIN: usize = SUPERBLOCK - XNONCE - ANCHOR - TAG;

/// Length of an anchor before it is sealed.
const ANCHOR: usize = 472;

/// The layout of a copy.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 8],
    version: U16,
    cipher: u8,
    zero: u8,
    epoch: U16,
    extent_count: U16,
    slot_count: U16,
    zero2: U16,
    slot_bytes: U32,
    pool: [u8; 16],
    counter: U64,
    device: U32,
    devices: U32,
    segment_size: U32,
    segments: U32,
    zero3: [u8; 160],
    sum: [u8; 32],
    extents: [RawExtent; MAX_EXTENTS],
    slots: [u8; SLOT_BYTES],
    nonce: [u8; XNONCE],
    anchor: [u8; ANCHOR],
    tag: [u8; TAG],
}

layout!(
    RawSuperblock, SUPERBLOCK, magic @ 0, version @ 8, cipher @ 10, zero @ 11, epoch @ 12, extent_count @ 14,
    slot_count @ 16, zero2 @ 18, slot_bytes @ 20, pool @ 24, counter @ 40, device @ 48, devices @ 52, segment_size @ 56,
    segments @ 60, zero3 @ 64, sum @ 224, extents @ 256, slots @ 1792, nonce @ 15872, anchor @ 15896, tag @ 16368,
);

const _: () = assert!(PLAIN == 15872 && SUPERBLOCK_AT[1] + SUPERBLOCK as u64 <= crate::SEGMENTS_START);

/// Where the checksum is.
const SUM: std::ops::Range<usize> = 224..256;

/// The layout of an anchor.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAnchor {
    root: RawRef,
    salt: [u8; 32],
    next_sequence: U64,
    next_opening: U32,
    clean: u8,
    zero: [u8; 3],
    vault: [u8; MAP_KEY],
    zero2: [u8; 360],
}

layout!(RawAnchor, ANCHOR, root @ 0, salt @ 32, next_sequence @ 64, next_opening @ 72, clean @ 76, zero @ 77, vault @ 80,
    zero2 @ 112);

/// The plain part of a superblock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Superblock {
    /// The pool.
    pub pool: PoolId,
    /// How often the pool's superblocks were written: the higher counter is the newer copy.
    pub counter: u64,
    /// The device on which this copy stands.
    pub device: u32,
    /// How many devices the pool has.
    pub devices: u32,
    /// The cipher of the pool's segments.
    pub cipher: Cipher,
    /// The key epoch of the pool's own domain that seals the anchor.
    pub epoch: u16,
    /// Which segments stand where.
    pub extents: Extents,
    /// The wrapped secrets.
    pub slots: Vec<KeySlot>,
}

/// The sealed part of a superblock: from here every byte of the pool is found and authenticated.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Anchor {
    /// The root batch.
    pub root: BatchRef,
    /// The salt of the root's opening (`root.at.opening`); the others' are in the root.
    #[serde(skip)]
    pub salt: [u8; 32],
    /// A sequence above every one that was used when this was written.
    pub next_sequence: u64,
    /// A number above every opening's when this was written.
    pub next_opening: u32,
    /// Whether the pool was closed: nothing was written behind the root's log batch.
    pub clean: bool,
    /// The key of the root's map keys, 32 bytes, drawn for this root; none in pools of before there were map keys.
    #[serde(skip)]
    pub vault: Option<Arc<Secret>>,
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchor")
            .field("root", &self.root)
            .field("next_sequence", &self.next_sequence)
            .field("next_opening", &self.next_opening)
            .field("clean", &self.clean)
            .finish_non_exhaustive()
    }
}

/// Why a superblock was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealSuperblockError {
    /// The buffer is not [`SUPERBLOCK`] bytes long.
    #[error("a buffer of {len} bytes for a superblock")]
    Buffer {
        /// How long it is.
        len: usize,
    },
    /// The slots cannot be stored.
    #[error(transparent)]
    Slots(#[from] SlotError),
    /// The device is none of the pool's, an extent's is not, or the keyring is of another pool or cipher.
    #[error("the superblock's {0} does not agree with the rest of it")]
    Disagrees(&'static str),
    /// The key of the pool's own domain is not there.
    #[error("no key for the pool's own domain, epoch {epoch}")]
    NoKey {
        /// The epoch.
        epoch: u16,
    },
}

/// Why bytes have no readable plain part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlainError {
    /// There are fewer than [`SUPERBLOCK`].
    #[error("{len} bytes are too few for a superblock")]
    Short {
        /// How many there are.
        len: usize,
    },
    /// They do not begin with the mark: no pool is here.
    #[error("no superblock is here")]
    NotASuperblock,
    /// Of another version of the format.
    #[error("a superblock of format version {version}")]
    Version {
        /// Which.
        version: u16,
    },
    /// The checksum does not agree: a torn write, or damage.
    #[error("the superblock is damaged")]
    Damaged,
    /// A field has no possible value, though the checksum agrees.
    #[error("the superblock's {0} has an impossible value")]
    Field(&'static str),
    /// The extents are no table.
    #[error(transparent)]
    Extents(#[from] ExtentError),
    /// The slots cannot be read.
    #[error(transparent)]
    Slots(#[from] SlotError),
}

/// Why an authentic anchor makes no sense: nothing that this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the superblock's anchor has an impossible value")]
pub struct AnchorError;

/// Why a superblock copy does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// The plain part cannot be read.
    #[error(transparent)]
    Plain(#[from] PlainError),
    /// It is another pool's.
    #[error("a superblock of pool {pool}")]
    OtherPool {
        /// Whose.
        pool: PoolId,
    },
    /// The key of the pool's own domain is not there.
    #[error("no key for the pool's own domain, epoch {epoch}")]
    NoKey {
        /// The epoch.
        epoch: u16,
    },
    /// It is whole and does not authenticate: a wrong key, or changed by someone who repaired the checksum.
    #[error("the superblock does not authenticate: a wrong key, or tampering")]
    NotAuthentic,
    /// The anchor makes no sense.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
}

/// SHA-256 of a superblock copy without the field that holds it: against accidents, not attackers.
pub fn superblock_sum(copy: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&copy[..SUM.start.min(copy.len())]);
    context.update(&copy[SUM.end.min(copy.len())..]);
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

/// Which of a device's two copies is written with this counter: they take turns.
pub const fn copy_for(counter: u64) -> usize {
    (counter & 1) as usize
}

impl Superblock {
    /// Seals a copy into `out`, of [`SUPERBLOCK`] bytes. `nonce` is random, drawn anew for each copy written.
    pub fn seal(
        &self,
        keyring: &Keyring,
        anchor: &Anchor,
        nonce: [u8; XNONCE],
        out: &mut [u8],
    ) -> Result<(), SealSuperblockError> {
        let len = out.len();
        let raw = RawSuperblock::mut_from_bytes(out).map_err(|_| SealSuperblockError::Buffer { len })?;
        if keyring.pool() != self.pool || keyring.cipher() != self.cipher {
            return Err(SealSuperblockError::Disagrees("keyring"));
        }
        self.check_devices().map_err(SealSuperblockError::Disagrees)?;
        let slots = slots::encode(&self.slots)?;
        raw.zero();
        self.fill(raw, &slots);
        raw.nonce = nonce;
        anchor.encode(&mut raw.anchor);
        // The checksum covers the sealed part too and so comes last; the anchor's seal sees zeroes in its place.
        let (plain, mut body) = (plain_of(raw.as_bytes()), Zeroizing::new(raw.anchor));
        let tag = keyring.seal_anchor(self.epoch, &nonce, &plain, &mut body[..]);
        raw.anchor = if tag.is_some() { *body } else { [0; ANCHOR] };
        raw.tag = tag.ok_or(SealSuperblockError::NoKey { epoch: self.epoch })?;
        raw.sum = superblock_sum(raw.as_bytes());
        Ok(())
    }

    fn fill(&self, raw: &mut RawSuperblock, slots: &[u8]) {
        raw.magic = MAGIC;
        raw.version = FORMAT_VERSION.into();
        raw.cipher = self.cipher.code();
        raw.epoch = self.epoch.into();
        raw.pool = self.pool.0;
        raw.counter = self.counter.into();
        raw.device = self.device.into();
        raw.devices = self.devices.into();
        raw.segment_size = self.extents.segment_size().into();
        raw.segments = self.extents.segments().into();
        // At most MAX_EXTENTS, MAX_SLOTS and SLOT_BYTES.
        raw.extent_count = (self.extents.list().len() as u16).into();
        raw.slot_count = (self.slots.len() as u16).into();
        raw.slot_bytes = (slots.len() as u32).into();
        for (raw, extent) in raw.extents.iter_mut().zip(self.extents.list()) {
            *raw = RawExtent::of(extent);
        }
        raw.slots[..slots.len()].copy_from_slice(slots);
    }

    fn check_devices(&self) -> Result<(), &'static str> {
        if self.devices == 0 || self.devices > MAX_DEVICES {
            return Err("number of devices");
        }
        if self.device >= self.devices {
            return Err("device");
        }
        if self.extents.list().iter().any(|extent| extent.device >= self.devices) {
            return Err("extent");
        }
        Ok(())
    }

    /// Decodes the plain part of a copy, which stands at the front of `bytes`. Nothing in it is authenticated: use it to
    /// find the key, to show it, and for nothing else.
    pub fn decode_plain(bytes: &[u8]) -> Result<Superblock, PlainError> {
        let short = PlainError::Short { len: bytes.len() };
        let (raw, _) = RawSuperblock::ref_from_prefix(bytes).map_err(|_| short)?;
        if raw.magic != MAGIC {
            return Err(PlainError::NotASuperblock);
        }
        if raw.version != FORMAT_VERSION {
            return Err(PlainError::Version { version: raw.version.get() });
        }
        if raw.sum != superblock_sum(raw.as_bytes()) {
            return Err(PlainError::Damaged);
        }
        let (slots, padding) =
            raw.slots.split_at_checked(raw.slot_bytes.get() as usize).ok_or(PlainError::Field("slots"))?;
        let reserved_is_zero =
            raw.zero == 0 && raw.zero2 == 0 && raw.zero3 == [0; 160] && padding.iter().all(|byte| *byte == 0);
        if !reserved_is_zero {
            return Err(PlainError::Field("reserved part"));
        }
        let superblock = Superblock {
            pool: PoolId(raw.pool),
            counter: raw.counter.get(),
            device: raw.device.get(),
            devices: raw.devices.get(),
            cipher: Cipher::from_code(raw.cipher).ok_or(PlainError::Field("cipher"))?,
            epoch: raw.epoch.get(),
            extents: decode_extents(raw)?,
            slots: slots::decode(slots, raw.slot_count.get().into())?,
        };
        superblock.check_devices().map_err(PlainError::Field)?;
        Ok(superblock)
    }

    /// Decodes and authenticates a copy, which stands at the front of `bytes`.
    pub fn open(keyring: &Keyring, bytes: &[u8]) -> Result<(Superblock, Anchor), SuperblockError> {
        let superblock = Superblock::decode_plain(bytes)?;
        if superblock.pool != keyring.pool() {
            return Err(SuperblockError::OtherPool { pool: superblock.pool });
        }
        let short = PlainError::Short { len: bytes.len() };
        let (raw, _) = RawSuperblock::ref_from_prefix(bytes).map_err(|_| short)?;
        let (plain, mut body) = (plain_of(raw.as_bytes()), Zeroizing::new(raw.anchor));
        let epoch = superblock.epoch;
        keyring
            .open_anchor(epoch, &raw.nonce, &plain, &mut body[..], &raw.tag)
            .ok_or(SuperblockError::NoKey { epoch })?
            .map_err(|_| SuperblockError::NotAuthentic)?;
        // The cipher is authentic now: a keyring made for another one belongs to an earlier reading.
        if superblock.cipher != keyring.cipher() {
            return Err(SuperblockError::Plain(PlainError::Field("cipher")));
        }
        let anchor = Anchor::decode(&body[..])?;
        Ok((superblock, anchor))
    }
}

fn decode_extents(raw: &RawSuperblock) -> Result<Extents, PlainError> {
    let fault = PlainError::Field("extents");
    let (used, unused) = raw.extents.split_at_checked(raw.extent_count.get().into()).ok_or(fault)?;
    if unused.as_bytes().iter().any(|byte| *byte != 0) {
        return Err(fault);
    }
    let list: Option<Vec<Extent>> = used.iter().map(RawExtent::extent).collect();
    let extents = Extents::new(raw.segment_size.get(), list.ok_or(fault)?)?;
    if extents.segments() != raw.segments.get() {
        return Err(PlainError::Field("number of segments"));
    }
    Ok(extents)
}

/// The plain part as it is authenticated: with zeroes for the checksum.
fn plain_of(copy: &[u8]) -> [u8; PLAIN] {
    let mut plain = [0; PLAIN];
    plain.copy_from_slice(&copy[..PLAIN]);
    plain[SUM].fill(0);
    plain
}

impl Anchor {
    /// Into bytes that are sealed in place: there is no other copy of the vault key.
    fn encode(&self, out: &mut [u8; ANCHOR]) {
        let raw: &mut RawAnchor = zerocopy::transmute_mut!(out);
        raw.zero();
        raw.root = RawRef::of(&self.root);
        raw.salt = self.salt;
        raw.next_sequence = self.next_sequence.into();
        raw.next_opening = self.next_opening.into();
        raw.clean = self.clean.into();
        if let Some(vault) = self.vault.as_ref().and_then(|v| v.expose_array::<MAP_KEY>()) {
            raw.vault = *vault;
        }
    }

    /// Decodes an opened anchor. Public for fuzzing; what it gives is worth as much as where `bytes` come from.
    pub fn decode(bytes: &[u8]) -> Result<Anchor, AnchorError> {
        let raw = RawAnchor::ref_from_bytes(bytes).map_err(|_| AnchorError)?;
        let rest_is_zero = raw.zero == [0; 3] && raw.zero2 == [0; 360];
        let root = raw.root.batch().filter(|_| raw.clean <= 1 && rest_is_zero).ok_or(AnchorError)?;
        let At { opening, sequence, .. } = root.at;
        let (next_sequence, next_opening) = (raw.next_sequence.get(), raw.next_opening.get());
        if next_sequence <= sequence || next_opening <= opening {
            return Err(AnchorError);
        }
        let mut vault = raw.vault;
        let vault = vault_of(&mut vault);
        Ok(Anchor { root, salt: raw.salt, next_sequence, next_opening, clean: raw.clean == 1, vault })
    }
}

/// What [`choose`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which copy counts: 0 or 1.
    pub copy: usize,
    /// Its plain part.
    pub superblock: Superblock,
    /// Its anchor.
    pub anchor: Anchor,
    /// The other copy's counter, or what is wrong with it.
    pub other: Result<u64, SuperblockError>,
}

/// Why neither copy of a device counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither superblock can be used: the first: {first}; the second: {second}")]
pub struct ChooseError {
    /// What is wrong with the first.
    pub first: SuperblockError,
    /// What is wrong with the second.
    pub second: SuperblockError,
}

/// Takes the newer of a device's two copies that authenticates. Between devices of a pool, the highest counter counts.
pub fn choose(keyring: &Keyring, first: &[u8], second: &[u8]) -> Result<Choice, ChooseError> {
    let opened = [Superblock::open(keyring, first), Superblock::open(keyring, second)];
    let counter = |copy: &Result<(Superblock, Anchor), SuperblockError>| {
        copy.as_ref().map(|(superblock, _)| superblock.counter).map_err(|error| *error)
    };
    let counters = [counter(&opened[0]), counter(&opened[1])];
    let copy = match counters {
        [Err(first), Err(second)] => return Err(ChooseError { first, second }),
        [Ok(_), Err(_)] => 0,
        [Err(_), Ok(_)] => 1,
        [Ok(first), Ok(second)] => usize::from(second > first),
    };
    let [first, second] = opened;
    let (superblock, anchor) =
        if copy == 0 { first } else { second }.expect("a copy without an error was chosen");
    Ok(Choice { copy, superblock, anchor, other: counters[1 - copy] })
}
