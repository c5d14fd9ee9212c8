//! Reading a batch: its header, and whether every record of it is there.
//!
//! Owns the decoding of what [`crate::BatchPlan`] seals. It must never panic on any bytes, nor give out anything of a header
//! that did not authenticate.

use crate::at::{At, Spot};
use crate::keyring::{Keyring, OpenError};
use crate::prefix::{BODY_HEAD, PREFIX, Prefix, PrefixError, decode_prefix};
use crate::record::{HAS_PRINT, IS_MOVED, RawRecord, RawSpot, Record};
use serde::Serialize;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// A record and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// What the header says of it.
    pub record: Record,
    /// Its offset in the batch.
    pub offset: u32,
}

/// An authenticated header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    /// The prefix, authenticated with it.
    pub prefix: Prefix,
    /// The records, in order.
    pub records: Vec<Placed>,
    /// The table changes of a log batch, a root's head of a root batch; opaque here.
    #[serde(skip)]
    pub changes: Vec<u8>,
}

/// Why bytes give no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is no prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// There are fewer bytes than prefix and header take.
    #[error("{len} bytes of a header of {want}")]
    Short {
        /// How many there are.
        len: usize,
        /// How many it takes.
        want: usize,
    },
    /// The batch says that it stands elsewhere: a misdirected write, or a stale one.
    #[error("a batch of segment {}, offset {} at segment {}, offset {}", says.segment, says.offset, is.segment, is.offset)]
    Elsewhere {
        /// Where it says it stands.
        says: Spot,
        /// Where it was read.
        is: Spot,
    },
    /// The header does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is authentic, and nothing that this version writes.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// Why an authentic header makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Its parts do not add up to its length.
    #[error("the header's parts do not add up to its {len} bytes")]
    Length {
        /// How long it is.
        len: usize,
    },
    /// A record has a value that none can have.
    #[error("record {index} of the header has an impossible value")]
    Record {
        /// Which.
        index: usize,
    },
    /// The records do not end within the batch.
    #[error("the batch's records end at {end}, beyond its {total} bytes")]
    Beyond {
        /// Where they end.
        end: u64,
        /// How long the batch is.
        total: u32,
    },
}

/// Why a batch is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// There are not as many bytes as the batch has.
    #[error("{len} bytes of a batch of {total}")]
    Length {
        /// How many there are.
        len: usize,
        /// How many it has.
        total: usize,
    },
    /// A record does not open: a torn write or damage where it is [`OpenError::NotAuthentic`]. Where a key is missing,
    /// nothing is known, and the batch must not be taken for the log's end.
    #[error("record {index}: {error}")]
    Record {
        /// Which.
        index: usize,
        /// Why.
        error: OpenError,
    },
}

/// Opens the header of the batch that was read at `spot`. `bytes` begin with the batch's first and hold at least
/// [`Prefix::header`] of it; more may follow.
///
/// What is checked: everything in prefix and header is what was sealed, for this pool, for this segment and offset. What the
/// caller must check still: that the batch's number, sequence and opening are those it expects here.
pub fn decode_header(keyring: &Keyring, spot: Spot, bytes: &[u8]) -> Result<Header, HeaderError> {
    let prefix = decode_prefix(bytes)?;
    let says = Spot { segment: prefix.segment, offset: prefix.at.offset };
    if says != spot {
        return Err(HeaderError::Elsewhere { says, is: spot });
    }
    let want = prefix.header as usize;
    let short = HeaderError::Short { len: bytes.len(), want };
    let (front, _) = bytes.split_at_checked(want).ok_or(short)?;
    let (front, sealed) = front.split_first_chunk::<PREFIX>().ok_or(short)?;
    let mut sealed = sealed.to_vec();
    let body = keyring.open_header(prefix.header_at(), prefix.epoch, front, &mut sealed)?;
    let (records, changes) = decode_body(body, prefix.header, prefix.total)?;
    Ok(Header { prefix, records, changes })
}

/// Decodes an opened header: the records with their offsets, the first of them at `header`, in a batch of `total` bytes; and
/// the changes. Public for fuzzing; what it gives is worth as much as where `body` comes from.
pub fn decode_body(body: &[u8], header: u32, total: u32) -> Result<(Vec<Placed>, Vec<u8>), BodyError> {
    let fault = BodyError::Length { len: body.len() };
    let (head, rest) = <[U32; BODY_HEAD / 4]>::read_from_prefix(body).map_err(|_| fault)?;
    let [count, changes, zero, zero2] = head.map(|n| n.get() as usize);
    if zero != 0 || zero2 != 0 {
        return Err(fault);
    }
    let (raw, rest) = <[RawRecord]>::ref_from_prefix_with_elems(rest, count).map_err(|_| fault)?;
    let flagged = |flag: u8| raw.iter().filter(|raw| raw.flags & flag != 0).count();
    let (prints, rest) =
        <[[u8; 16]]>::ref_from_prefix_with_elems(rest, flagged(HAS_PRINT)).map_err(|_| fault)?;
    let (spots, rest) =
        <[RawSpot]>::ref_from_prefix_with_elems(rest, flagged(IS_MOVED)).map_err(|_| fault)?;
    if rest.len() != changes {
        return Err(fault);
    }
    Ok((place(raw, prints, spots, header, total)?, rest.to_vec()))
}

fn place(
    raw: &[RawRecord],
    prints: &[[u8; 16]],
    spots: &[RawSpot],
    header: u32,
    total: u32,
) -> Result<Vec<Placed>, BodyError> {
    let (mut prints, mut spots) = (prints.iter(), spots.iter());
    let mut placed = Vec::with_capacity(raw.len());
    // 64 bits: no number of records that fits in memory overflows them.
    let mut next = u64::from(header);
    for (index, raw) in raw.iter().enumerate() {
        let fault = BodyError::Record { index };
        let mut record = raw.record().ok_or(fault)?;
        if raw.flags & HAS_PRINT != 0 {
            record.print = *prints.next().filter(|print| **print != [0; 16]).ok_or(fault)?;
        }
        if raw.flags & IS_MOVED != 0 {
            let spot = spots.next().ok_or(fault)?;
            record.from = Some(Spot { segment: spot.segment.get(), offset: spot.offset.get() });
        }
        if !record.is_sound() {
            return Err(fault);
        }
        let end = next + record.sealed_len() as u64;
        if end > total.into() {
            return Err(BodyError::Beyond { end, total });
        }
        // At most `total`, and so within 32 bits.
        placed.push(Placed { record, offset: next as u32 });
        next = end;
    }
    Ok(placed)
}

impl Header {
    /// Where record `index` was sealed.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn at(&self, index: usize) -> At {
        At { offset: self.offset(index), ..self.prefix.at }
    }

    /// The offset of record `index` in the segment.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn offset(&self, index: usize) -> u32 {
        self.prefix.at.offset + self.records[index].offset
    }

    /// Opens record `index` of the batch `bytes` into `out`, which takes its stored bytes exactly.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn open_record(
        &self,
        keyring: &Keyring,
        index: usize,
        bytes: &[u8],
        out: &mut [u8],
    ) -> Result<(), OpenError> {
        let Placed { record, offset } = self.records[index];
        let start = offset as usize;
        let missing =
            OpenError::Length { sealed: bytes.len().saturating_sub(start), length: record.length.into() };
        let sealed = bytes.get(start..start + record.sealed_len()).ok_or(missing)?;
        keyring.open_into(self.at(index), &record.bind(), sealed, out)
    }
}

/// Whether the batch `bytes`, all of it, has every record that `header` lists. Padding is not looked at: it says nothing.
pub fn verify(keyring: &Keyring, header: &Header, bytes: &[u8]) -> Result<(), VerifyError> {
    let total = header.prefix.total as usize;
    if bytes.len() != total {
        return Err(VerifyError::Length { len: bytes.len(), total });
    }
    let longest = header.records.iter().map(|placed| usize::from(placed.record.length)).max();
    let mut scratch = vec![0; longest.unwrap_or(0)];
    for (index, placed) in header.records.iter().enumerate() {
        let out = &mut scratch[..placed.record.length.into()];
        header
            .open_record(keyring, index, bytes, out)
            .map_err(|error| VerifyError::Record { index, error })?;
    }
    Ok(())
}
