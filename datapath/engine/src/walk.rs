//! Walking a closed segment batch by batch, and opening every live record of it.
//!
//! A record is live when the tables have its id at this very place. What is not live may be damaged: nobody will ask for
//! it. Where no batch can be read, the walk goes on at the next one that can, and what lies between is a gap: what is live
//! in it is found by way of the volumes' maps ([`crate::hunt`]). The walk of a segment ends as soon as all that was live in
//! it has been met, so that the unwritten end of a segment is not looked through.

use crate::devices::Cause;
use crate::maps;
use crate::pages::Lost;
use crate::pages::POOL_DOMAIN;
use crate::state::{Inner, State};
use crate::summary::bytes_at;
use crate::work::unpack;
use caisson_block::BLOCK;
use caisson_log::{Header, PREFIX, Record, RecordKind, Spot, TAG, decode_header, decode_prefix};
use caisson_tables::{BlockId, Needs, PageKey, Place, SegmentState, Tables};
use caisson_task::Port;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Damaged records, and gaps, that are kept; more are counted.
pub(crate) const KEPT: usize = 64 << 10;

/// Lost pages that are passed by; with more, what they hide is not looked for.
const LOST_KEPT: usize = 16 << 10;

/// Records of which it is asked at once whether they are live.
const AT_ONCE: usize = 32;

/// Bytes that are looked through at once for the next batch.
const STRIDE: u32 = 128 << 10;

/// A live record that does not authenticate, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BadRecord {
    /// Its segment.
    pub segment: u32,
    /// Its first byte in the segment.
    pub offset: u32,
    /// The stored block's number, or that of the page.
    pub id: u64,
    /// What it is.
    pub what: Part,
    /// The number of its codec.
    pub codec: u8,
}

impl BadRecord {
    /// Why it cannot be had, if the device gave its bytes.
    pub fn cause(&self) -> Cause {
        if self.what == Part::Block { Cause::of_stored(self.codec) } else { Cause::Content }
    }
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A block of user data.
    Block,
    /// A page of volumes' maps.
    MapPage,
    /// A page of the block table.
    BlocksPage,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Block => "a block of data",
            Part::MapPage => "a page of a volume's map",
            Part::BlocksPage => "a page of the block table",
        })
    }
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BadRecord { segment, offset, id, what, .. } = self;
        write!(f, "segment {segment}, byte {offset}: {what} (number {id}) {}", self.cause())
    }
}

/// A run of a segment in which no batch can be read although something in the segment is live that was not met elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The segment.
    pub segment: u32,
    /// Its first byte.
    pub from: u32,
    /// The byte behind it.
    pub to: u32,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}, bytes {} to {}: no batch can be read", self.segment, self.from, self.to)
    }
}

/// What walks found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) bad: Vec<BadRecord>,
    pub(crate) gaps: Vec<Gap>,
    /// Damaged records and gaps that are not in the lists.
    pub(crate) more: u64,
    /// Pages that could not be had.
    pub(crate) lost: HashSet<PageKey>,
}

impl Findings {
    pub(crate) fn any(&self) -> bool {
        !self.bad.is_empty() || !self.gaps.is_empty() || !self.lost.is_empty()
    }

    fn bad(&mut self, bad: BadRecord) {
        if self.bad.len() < KEPT { self.bad.push(bad) } else { self.more += 1 }
    }

    fn gap(&mut self, gap: Gap) {
        if self.gaps.len() < KEPT { self.gaps.push(gap) } else { self.more += 1 }
    }
}

/// As [`Inner::with`], for a function that passes by pages which are not to be had, of which it is told.
///
/// # Errors
/// [`Lost`] when there are too many of those, or the function did not pass one by.
pub(crate) async fn with_lost<T>(
    inner: &Arc<Inner>,
    port: &Port,
    lost: &mut HashSet<PageKey>,
    mut f: impl FnMut(&mut State, &HashSet<PageKey>) -> Result<T, Needs>,
) -> Result<T, Lost> {
    loop {
        match inner.with(port, |state| f(state, lost)).await {
            Ok(value) => return Ok(value),
            Err(page) if lost.len() < LOST_KEPT && lost.insert(page.key) => {}
            Err(page) => return Err(page),
        }
    }
}

/// The page that a record of a page is.
fn page_of(record: &Record) -> Option<PageKey> {
    match record.kind {
        RecordKind::MapPage => BlockId::new(record.id).map(PageKey::Map),
        RecordKind::BlocksPage => {
            Some(PageKey::Blocks { level: (record.id >> 40) as u8, index: record.id & ((1 << 40) - 1) })
        }
        RecordKind::Block | RecordKind::Blob => None,
    }
}

/// Whether a record is live at `place`; `None` when the page that tells is lost.
fn live(
    tables: &mut Tables,
    record: &Record,
    place: Place,
    lost: &HashSet<PageKey>,
) -> Result<Option<bool>, Needs> {
    let looked = match (record.kind, page_of(record)) {
        (RecordKind::Block, _) => match BlockId::new(record.id) {
            Some(id) => tables.entry(id).map(|e| e.is_some_and(|e| e.place == place && !e.map)),
            None => Ok(false),
        },
        (_, Some(page)) => tables.page_at(page).map(|at| at == Some(place)),
        (_, None) => Ok(false),
    };
    match looked {
        Ok(live) => Ok(Some(live)),
        Err(Needs(mut pages)) => {
            pages.retain(|(key, _)| !lost.contains(key));
            if pages.is_empty() { Ok(None) } else { Err(Needs(pages)) }
        }
    }
}

/// What a step of a walk did.
pub(crate) struct Walked {
    /// Bytes that were read.
    pub(crate) bytes: u64,
    pub(crate) done: bool,
}

/// The walk of one segment.
pub(crate) struct Walk {
    segment: u32,
    sequence: u64,
    offset: u32,
    /// Bytes that were live when it began, and those of them that were met.
    live: u64,
    met: u64,
    /// Where the present gap begins, and those before it.
    gap: Option<u32>,
    gaps: Vec<(u32, u32)>,
    /// The page that tells of some records is lost: what is live cannot be counted.
    vague: bool,
    /// Whether to have pages rewritten that are damaged on the device and whole in memory.
    mend: bool,
    pub(crate) mended: u64,
}

impl Walk {
    /// A walk of `segment`, if it is closed, holds something, and its use began before the sequence `before`.
    pub(crate) fn begin(inner: &Inner, segment: u32, before: u64, mend: bool) -> Option<Walk> {
        let state = inner.lock();
        let s = state.tables.segment(segment);
        let due = s.state == SegmentState::Closed && s.live > 0 && s.sequence < before;
        due.then(|| Walk {
            segment,
            sequence: s.sequence,
            offset: 0,
            live: s.live.into(),
            met: 0,
            gap: None,
            gaps: Vec::new(),
            vague: false,
            mend,
            mended: 0,
        })
    }

    /// Goes through one batch, or looks for the next.
    pub(crate) async fn step(&mut self, inner: &Arc<Inner>, port: &Port, found: &mut Findings) -> Walked {
        if !self.is_current(inner) {
            return Walked { bytes: 0, done: true };
        }
        let left = inner.segment_size - self.offset.min(inner.segment_size);
        if (left as usize) < BLOCK || self.met >= self.live && !self.vague {
            self.end(inner, found);
            return Walked { bytes: 0, done: true };
        }
        let place = Place { segment: self.segment, offset: self.offset };
        let stride = if self.gap.is_some() { STRIDE.min(left) } else { BLOCK as u32 };
        let Some(front) = bytes_at(inner, port, place, stride as usize).await else {
            self.skip(BLOCK as u32);
            return Walked { bytes: BLOCK as u64, done: false };
        };
        let Some(at) = (0..stride).step_by(BLOCK).find(|at| self.begins(inner, &front, *at)) else {
            self.skip(stride);
            return Walked { bytes: stride.into(), done: false };
        };
        self.skip(at);
        let bytes = u64::from(at) + self.batch(inner, port, found, &front[at as usize..]).await;
        Walked { bytes, done: false }
    }

    fn is_current(&self, inner: &Inner) -> bool {
        let state = inner.lock();
        let s = state.tables.segment(self.segment);
        s.sequence == self.sequence
            && s.state == SegmentState::Closed
            && s.live > 0
            && inner.fault().is_none()
    }

    /// Whether a batch of this use of the segment seems to begin `at` bytes from here.
    fn begins(&self, inner: &Inner, front: &[u8], at: u32) -> bool {
        let prefix = front.get(at as usize..at as usize + PREFIX).and_then(|bytes| decode_prefix(bytes).ok());
        prefix.is_some_and(|prefix| {
            let offset = self.offset + at;
            prefix.segment == self.segment
                && prefix.at.sequence == self.sequence
                && prefix.at.offset == offset
                && u64::from(offset) + u64::from(prefix.total) <= u64::from(inner.segment_size)
        })
    }

    /// Nothing can be read in the next `len` bytes.
    fn skip(&mut self, len: u32) {
        if len > 0 {
            self.gap.get_or_insert(self.offset);
            self.offset += len;
        }
    }

    fn close_gap(&mut self) {
        if let Some(from) = self.gap.take()
            && self.gaps.len() < KEPT
        {
            self.gaps.push((from, self.offset));
        }
    }

    /// Goes through the batch here, whose prefix is in `front`. Gives the bytes read.
    async fn batch(&mut self, inner: &Arc<Inner>, port: &Port, found: &mut Findings, front: &[u8]) -> u64 {
        let total = decode_prefix(&front[..PREFIX]).map_or(0, |prefix| prefix.total);
        let place = Place { segment: self.segment, offset: self.offset };
        let bytes = bytes_at(inner, port, place, total as usize).await;
        let spot = Spot { segment: self.segment, offset: self.offset };
        let header = bytes.as_deref().and_then(|bytes| decode_header(&inner.keyring, spot, bytes).ok());
        let (Some(bytes), Some(header)) = (bytes, header) else {
            // Its length is not authentic: the next batch may be anywhere behind.
            self.skip(BLOCK as u32);
            return total.max(BLOCK as u32).into();
        };
        self.close_gap();
        for from in (0..header.records.len()).step_by(AT_ONCE) {
            self.records(inner, port, found, &header, &bytes, from).await;
            port.pause().await;
        }
        self.offset = header.prefix.end();
        total.into()
    }

    /// Opens the live ones of some records.
    async fn records(
        &mut self,
        inner: &Arc<Inner>,
        port: &Port,
        found: &mut Findings,
        header: &Header,
        bytes: &[u8],
        from: usize,
    ) {
        let to = (from + AT_ONCE).min(header.records.len());
        let place = |i: usize| Place { segment: self.segment, offset: header.offset(i) };
        let ask = |state: &mut State, lost: &HashSet<PageKey>| {
            let each = |i: usize| live(&mut state.tables, &header.records[i].record, place(i), lost);
            (from..to).map(each).collect::<Result<Vec<_>, Needs>>()
        };
        let Ok(lives) = with_lost(inner, port, &mut found.lost, ask).await else {
            self.vague = true;
            return;
        };
        for (i, is_live) in (from..to).zip(lives) {
            let record = &header.records[i].record;
            match is_live {
                Some(false) => continue,
                Some(true) => self.met += record.sealed_len() as u64,
                None => self.vague = true,
            }
            let gone = record.domain != POOL_DOMAIN && !inner.lock().domains.in_use(record.domain);
            if !gone && !whole(inner, header, bytes, i) {
                self.damaged(inner, port, found, record, header.offset(i)).await;
            }
        }
    }

    /// A record does not open. It counts if it is still live: then it was not freed since.
    async fn damaged(
        &mut self,
        inner: &Arc<Inner>,
        port: &Port,
        found: &mut Findings,
        record: &Record,
        offset: u32,
    ) {
        let place = Place { segment: self.segment, offset };
        let ask = |state: &mut State, lost: &HashSet<PageKey>| live(&mut state.tables, record, place, lost);
        let still = with_lost(inner, port, &mut found.lost, ask).await;
        if !self.is_current(inner) || matches!(still, Ok(Some(false))) {
            return;
        }
        let page = page_of(record);
        if let Some(page) = page.filter(|_| self.mend) {
            // Where it is in memory, the next checkpoint can write it anew; otherwise this finds that it is lost.
            if let Ok(there) = inner.with(port, |state| state.tables.clean_page(page, place)).await {
                self.mended += u64::from(there);
                return;
            }
        }
        let what = match page {
            None => Part::Block,
            Some(PageKey::Map(_)) => Part::MapPage,
            Some(PageKey::Blocks { .. }) => Part::BlocksPage,
        };
        found.bad(BadRecord { segment: self.segment, offset, id: record.id, what, codec: record.codec });
    }

    /// What lies in gaps is missing if not all that was live was met.
    fn end(&mut self, inner: &Inner, found: &mut Findings) {
        self.offset = inner.segment_size;
        self.close_gap();
        if self.met < self.live || self.vague {
            let segment = self.segment;
            self.gaps.drain(..).for_each(|(from, to)| found.gap(Gap { segment, from, to }));
        }
    }
}

/// Whether a record authenticates and unpacks; a page of a map, with its key.
fn whole(inner: &Inner, header: &Header, bytes: &[u8], index: usize) -> bool {
    let record = &header.records[index].record;
    let mut plain = vec![0; usize::from(record.length)];
    if header.open_record(&inner.keyring, index, bytes, &mut plain).is_err() {
        return false;
    }
    let packed = match page_of(record) {
        Some(key) => maps::deciphered(&inner.keyring, header.at(index), key, record.codec, &mut plain),
        None => Some((record.codec, 0, &plain[..])),
    };
    packed.is_some_and(|(codec, _, packed)| unpack(codec, packed, &mut [0; BLOCK]).is_some())
}

/// Bytes of a record of that stored length.
pub(crate) fn sealed(length: u16) -> usize {
    usize::from(length) + TAG
}
