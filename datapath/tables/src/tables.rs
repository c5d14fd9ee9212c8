//! The tables of a pool: state and public calls.

use crate::change::{Change, VolumeChange};
use crate::root::{Root, RootError};
use crate::segment::{Segment, Use, Victim};
use crate::types::*;
use crate::volume::{VolumeError, VolumeRecord};
use std::ops::Range;

/// Why a change of the log could not be applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// Pages must be loaded first.
    #[error(transparent)]
    Needs(#[from] Needs),
    /// It does not fit the tables: the log and the checkpoint do not belong together.
    #[error("a change of the log does not fit the tables: {0}")]
    Corrupt(&'static str),
}

/// Why a page was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("page {key:?} holds what no page of the pool can hold")]
pub struct BadPage {
    /// Which.
    pub key: PageKey,
}

/// What a checkpoint has to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frozen {
    /// Write this page and say with `frozen_placed` where it went.
    Page(PageKey, Box<Page>),
    /// Nothing until the pages handed out are placed.
    Wait,
    /// All pages are placed: `frozen_root` can be taken.
    Done,
}

/// The tables of a pool.
pub struct Tables {
    geometry: Geometry,
}

#[allow(unused_variables)]
impl Tables {
    /// The tables of an empty pool.
    pub fn create(geometry: Geometry) -> Tables {
        unreachable!()
    }

    /// The tables as a checkpoint left them. The geometry may have more segments than the root.
    pub fn open(geometry: Geometry, root: &Root) -> Result<Tables, RootError> {
        unreachable!()
    }

    /// Right after `open`, before any replay: frees the segments that are closed, empty and not pinned, as
    /// `checkpointed` did when the root became durable.
    pub fn reclaim(&mut self) -> Vec<u32> {
        unreachable!()
    }

    /// A page that was needed. Ignored when it is not (or no longer) wanted; `Err` when its contents are impossible.
    pub fn load(&mut self, key: PageKey, at: &Where, page: Box<Page>) -> Result<(), BadPage> {
        unreachable!()
    }

    /// The shape and bounds.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    // volumes

    /// A volume's record.
    pub fn volume(&self, id: VolumeId) -> Option<&VolumeRecord> {
        unreachable!()
    }

    /// The volume with a name, if it is not dying.
    pub fn volume_named(&self, name: &str) -> Option<&VolumeRecord> {
        unreachable!()
    }

    /// All records, dying ones too, by rising number.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        std::iter::empty()
    }

    /// The lowest volume number that was never used.
    pub fn next_volume(&self) -> VolumeId {
        unreachable!()
    }

    /// Changes a volume's record, or makes or removes one.
    pub fn change_volume(
        &mut self,
        change: VolumeChange,
        journal: &mut Vec<Change>,
    ) -> Result<(), VolumeError> {
        unreachable!()
    }

    // reading

    /// Appends what volume `v` has at each of `count` blocks. Panics if there is no such volume.
    pub fn find(&mut self, v: VolumeId, block: u64, count: u64, out: &mut Vec<Found>) -> Result<(), Needs> {
        unreachable!()
    }

    /// What the block table says of an id; `None` where it is free.
    pub fn entry(&mut self, id: BlockId) -> Result<Option<Entry>, Needs> {
        unreachable!()
    }

    /// The entry of a duplicate's candidate, if it is what the index says it is and may get another reference.
    pub fn candidate(&mut self, id: BlockId, place: Place, sequence: u64) -> Result<Option<Entry>, Needs> {
        unreachable!()
    }

    // writing

    /// Appends `n` free ids, which are set aside until they are `put` or `release`d.
    pub fn allocate(&mut self, n: usize, out: &mut Vec<BlockId>) -> Result<(), Needs> {
        unreachable!()
    }

    /// Gives back ids that were allocated and not put.
    pub fn release(&mut self, ids: &[BlockId]) {
        unreachable!()
    }

    /// Whether `write` with the same arguments, and `put` of its new ids, can be done now: if so, neither asks for pages
    /// until something else is called. The new ids need not be put yet.
    pub fn ready(&mut self, v: VolumeId, block: u64, slots: &[Slot]) -> Result<(), Needs> {
        unreachable!()
    }

    /// The entry of an allocated id: no references, [`Place::PENDING`].
    pub fn put(&mut self, id: BlockId, stored: Stored) -> Result<(), Needs> {
        unreachable!()
    }

    /// Writes blocks, all or nothing.
    pub fn write(
        &mut self,
        v: VolumeId,
        block: u64,
        slots: &[Slot],
        journal: &mut Vec<Change>,
    ) -> Result<(), Needs> {
        unreachable!()
    }

    /// Unmaps blocks from `block` on: a bounded piece of them, at least one. How many were handled.
    pub fn unmap(
        &mut self,
        v: VolumeId,
        block: u64,
        count: u64,
        journal: &mut Vec<Change>,
    ) -> Result<u64, Needs> {
        unreachable!()
    }

    /// Where a block that was put is. Nothing if it is free again.
    pub fn locate(&mut self, id: BlockId, place: Place) {
        unreachable!()
    }

    /// Makes sure that `moved` can be done until the next freeze: whether `id` is in use and at `from`.
    pub fn hold(&mut self, id: BlockId, from: Place) -> Result<bool, Needs> {
        unreachable!()
    }

    /// A block was copied by the cleaner: if it is still at `from`, it is at `to` now, stored so. Whether it was.
    pub fn moved(&mut self, id: BlockId, from: Place, to: Place, stored: Stored) -> Result<bool, Needs> {
        unreachable!()
    }

    /// Frees those of a batch's new blocks that nothing refers to.
    pub fn settle(&mut self, new: &[BlockId]) -> Result<(), Needs> {
        unreachable!()
    }

    // replay

    /// Of a batch being replayed: a new block (before its changes are applied; `settle` comes after them).
    pub fn apply_new(&mut self, id: BlockId, stored: Stored, place: Place) -> Result<(), ApplyError> {
        unreachable!()
    }

    /// Of a batch being replayed: one of its changes, in order.
    pub fn apply(&mut self, change: &Change) -> Result<(), ApplyError> {
        unreachable!()
    }

    // segments

    /// A segment. Panics if there is none with that number.
    pub fn segment(&self, n: u32) -> &Segment {
        unreachable!()
    }

    /// A free or reserved segment is written from now on.
    pub fn open_segment(&mut self, n: u32, sequence: u64, opening: u32, by: Use) {
        unreachable!()
    }

    /// An open segment is written no more. `by` as it was opened.
    pub fn close_segment(&mut self, n: u32, by: Use) {
        unreachable!()
    }

    /// Sets up to `k` free segments aside; a checkpoint under way sees that too.
    pub fn reserve(&mut self, k: usize) -> Vec<u32> {
        unreachable!()
    }

    /// A reserved segment is free again.
    pub fn unreserve(&mut self, n: u32) {
        unreachable!()
    }

    /// Keeps a segment from becoming free until `unpin` was called as often.
    pub fn pin(&mut self, n: u32) {
        unreachable!()
    }

    /// Undoes one `pin`.
    pub fn unpin(&mut self, n: u32) {
        unreachable!()
    }

    /// How many segments are free.
    pub fn free_segments(&self) -> u32 {
        unreachable!()
    }

    /// Bytes of live records in all segments, tags included.
    pub fn live_bytes(&self) -> u64 {
        unreachable!()
    }

    /// The closed segments among `range` that have garbage, at most `k`, the most profitable to clean first (the
    /// benefit-to-cost ratio of the log-structured file system: free share by age over what must be read and written).
    pub fn victims(&self, range: Range<u32>, k: usize) -> Vec<Victim> {
        unreachable!()
    }

    /// `n` more segments at the end.
    pub fn add_segments(&mut self, n: u32) {
        unreachable!()
    }

    /// For the cleaner: if the page is at `place`, the next checkpoint writes it anew. Whether it is there.
    pub fn clean_page(&mut self, key: PageKey, place: Place) -> Result<bool, Needs> {
        unreachable!()
    }

    // checkpoint

    /// Takes the state as it is as that of a checkpoint. Panics if one is under way, or if a block that was put has no
    /// place yet.
    pub fn freeze(&mut self) {
        unreachable!()
    }

    /// Whether a checkpoint is under way.
    pub fn frozen(&self) -> bool {
        unreachable!()
    }

    /// What the checkpoint under way has to do next. Several pages may be taken before they are placed.
    pub fn frozen_next(&mut self) -> Frozen {
        unreachable!()
    }

    /// Where a page of the checkpoint went. Its segment must have been opened.
    pub fn frozen_placed(&mut self, key: PageKey, place: Place, stored: Stored) {
        unreachable!()
    }

    /// The root of the checkpoint under way, when [`Frozen::Done`] was told.
    pub fn frozen_root(&self) -> Root {
        unreachable!()
    }

    /// The checkpoint is durable. The segments that became free, in rising order.
    pub fn checkpointed(&mut self) -> Vec<u32> {
        unreachable!()
    }

    /// The checkpoint failed: its pages are to be written by the next one.
    pub fn abandon(&mut self) {
        unreachable!()
    }

    // figures

    /// How many pages have changed.
    pub fn dirty(&self) -> Dirty {
        unreachable!()
    }

    /// Pages in memory.
    pub fn resident_pages(&self) -> usize {
        unreachable!()
    }

    /// Bytes of memory that the tables hold, about.
    pub fn memory_bytes(&self) -> usize {
        unreachable!()
    }

    /// Totals.
    pub fn stats(&self) -> Stats {
        unreachable!()
    }

    /// The lowest id above all that were ever used.
    pub fn limit(&self) -> u64 {
        unreachable!()
    }
}
