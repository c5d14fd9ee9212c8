//! Which volumes and blocks are hurt by what a walk of the segments found.
//!
//! Goes through the volumes' maps leaf by leaf, with bounded memory, and keeps nothing but the result. A block is hurt if
//! its record is among the damaged ones, if it stands in a gap and does not open, or if a page that leads to it is lost.
//! Blocks may be many volumes', through deduplication and snapshots: each of them is told.

use crate::devices::Cause;
use crate::read::bind_block;
use crate::settings::Settings;
use crate::state::{Damage, Inner, State};
use crate::summary::bytes_at;
use crate::walk::{Findings, sealed, with_lost};
use caisson_block::BLOCK;
use caisson_log::At;
use caisson_tables::{BlockId, Entry, Met, PageKey, VolumeId, VolumeRecord};
use caisson_task::Port;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Hurt runs of blocks that are kept; more are counted.
const KEPT: usize = 4096;

/// Blocks of a volume that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hurt {
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// The first logical block.
    pub lba: u64,
    /// How many logical blocks.
    pub blocks: u64,
    /// Where the stored block is: segment and byte; `None` where a page is lost that leads there.
    pub at: Option<(u32, u32)>,
}

impl fmt::Display for Hurt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "volume {:?}: LBA {}", self.name, self.lba)?;
        if self.blocks > 1 {
            write!(f, " to {}", self.lba + self.blocks - 1)?;
        }
        match self.at {
            Some((segment, byte)) => write!(f, ": stored at segment {segment}, byte {byte}"),
            None => write!(f, ": a page of the tables is lost"),
        }
    }
}

/// What is hurt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hurts {
    pub(crate) list: Vec<Hurt>,
    /// Blocks of 4 KiB that are hurt, those that are not in the list included.
    pub(crate) blocks: u64,
}

/// A pass through all volumes.
#[derive(Default)]
pub(crate) struct Hunt {
    /// The volume, and the block to go on from.
    volume: Option<VolumeId>,
    next: u64,
    met: Vec<Met>,
    over: bool,
    pub(crate) hurts: Hurts,
}

impl Hunt {
    /// One that has nothing to look for.
    pub(crate) fn over() -> Hunt {
        Hunt { over: true, ..Hunt::default() }
    }

    /// Looks at one leaf. True when all volumes are done.
    pub(crate) async fn step(&mut self, inner: &Arc<Inner>, port: &Port, found: &mut Findings) -> bool {
        if self.over {
            return true;
        }
        let Some(volume) = self.volume.or_else(|| following(inner, None)) else { return true };
        self.volume = Some(volume);
        let (next, mut met) = (self.next, std::mem::take(&mut self.met));
        met.clear();
        let ask = |state: &mut State, lost: &HashSet<PageKey>| {
            state.tables.survey(volume, next, |key| lost.contains(&key), &mut met)
        };
        // Too many pages are lost: the rest of this volume is not told.
        let surveyed = with_lost(inner, port, &mut found.lost, ask).await.unwrap_or(None);
        for one in &met {
            match *one {
                Met::Lost { block, count } => self.hurt(inner, volume, block, count, None),
                Met::At { block, id, entry } => {
                    if is_hurt(inner, port, found, volume, id, &entry).await
                        && still(inner, port, volume, block, id, &entry).await
                    {
                        let at = (entry.place.segment, entry.place.offset);
                        self.hurt(inner, volume, block, 1, Some(at));
                    }
                }
            }
        }
        self.met = met;
        match surveyed {
            Some(next) => self.next = next,
            None => {
                (self.volume, self.next) = (following(inner, Some(volume)), 0);
                return self.volume.is_none();
            }
        }
        false
    }

    fn hurt(&mut self, inner: &Inner, volume: VolumeId, block: u64, count: u64, at: Option<(u32, u32)>) {
        self.hurts.blocks += count;
        let record = inner.lock().tables.volume(volume).cloned();
        let Some(record) = record else { return };
        let per = Settings::decode(&record.settings).map_or(1, |s| BLOCK as u64 / u64::from(s.block_size));
        let (lba, blocks) = (block * per, count * per);
        if let Some(at) = at {
            let cause = cause(inner, at);
            inner.damaged(Damage { block: Some((volume, block)), at, what: "a block".into(), cause });
        }
        let joins =
            |h: &&mut Hurt| h.volume == volume && h.at.is_none() && at.is_none() && h.lba + h.blocks == lba;
        if let Some(last) = self.hurts.list.last_mut().filter(joins) {
            last.blocks += blocks;
        } else if self.hurts.list.len() < KEPT {
            self.hurts.list.push(Hurt { volume, name: record.name, lba, blocks, at });
        }
    }
}

/// Why what stands there was not had: remembered, where the device was at fault.
fn cause(inner: &Inner, at: (u32, u32)) -> Cause {
    let state = inner.lock();
    let known = state.faults.iter().find(|d| d.at == at && d.cause != Cause::Content);
    known.map_or(Cause::Content, |d| d.cause.clone())
}

/// The volume after another one.
fn following(inner: &Inner, after: Option<VolumeId>) -> Option<VolumeId> {
    let state = inner.lock();
    // What a destroyed domain holds is not damaged, and nobody misses it.
    let gone = |v: &VolumeRecord| domain_of(v).is_some_and(|d| !state.domains.in_use(d));
    state.tables.volumes().find(|v| !v.dying && Some(v.id) > after && !gone(v)).map(|v| v.id)
}

/// The domain that a volume's blocks are sealed for.
fn domain_of(v: &VolumeRecord) -> Option<u32> {
    Settings::decode(&v.settings).map(|s| s.domain)
}

async fn is_hurt(
    inner: &Arc<Inner>,
    port: &Port,
    found: &Findings,
    volume: VolumeId,
    id: BlockId,
    entry: &Entry,
) -> bool {
    let place = entry.place;
    if place.is_pending() {
        return false;
    }
    let at = (place.segment, place.offset);
    if found.bad.binary_search_by_key(&at, |bad| (bad.segment, bad.offset)).is_ok() {
        return true;
    }
    let after = found.gaps.partition_point(|gap| (gap.segment, gap.from) <= at);
    let in_gap = after > 0 && {
        let gap = &found.gaps[after - 1];
        gap.segment == place.segment && place.offset < gap.to
    };
    if !in_gap {
        return false;
    }
    let domain = inner.lock().tables.volume(volume).and_then(domain_of);
    let Some(domain) = domain else { return false };
    !opens(inner, port, domain, id, entry).await
}

/// Whether a stored block opens where its entry says that it is.
async fn opens(inner: &Arc<Inner>, port: &Port, domain: u32, id: BlockId, entry: &Entry) -> bool {
    let nonce = {
        let state = inner.lock();
        let segment = state.tables.segment(entry.place.segment);
        At { opening: segment.opening, sequence: segment.sequence, offset: entry.place.offset }
    };
    let bytes = bytes_at(inner, port, entry.place, sealed(entry.stored.length)).await;
    let Some(mut bytes) = bytes else { return false };
    inner.keyring.open(nonce, &bind_block(domain, id, entry), &mut bytes).is_ok()
}

/// Whether the volume still has this there: it may have been overwritten or moved since the map was looked at.
async fn still(
    inner: &Arc<Inner>,
    port: &Port,
    volume: VolumeId,
    block: u64,
    id: BlockId,
    entry: &Entry,
) -> bool {
    let mut now = Vec::new();
    let looked = inner.with(port, |state| {
        now.clear();
        if state.tables.volume(volume).is_none() {
            return Ok(());
        }
        state.tables.find(volume, block, 1, &mut now)
    });
    if looked.await.is_err() {
        return true;
    }
    now.iter().any(
        |f| matches!(f, caisson_tables::Found::At { id: i, entry: e } if *i == id && e.place == entry.place),
    )
}
