//! The plain volume over a store in memory: every request that is not large is complete when `submit` returns.
//!
//! The store keeps each call atomic over its whole range, so there are no claims: reads, writes, compares and
//! compare-and-writes of any length are in one order. Nothing here waits, and reads and writes do not allocate. What would
//! keep the thread from others for long is [`crate::large`]'s.

use crate::check::{Run, Shape};
use crate::large;
use crate::manage::{Manage, ManageError, UnderWay};
use crate::marks::Marks;
use caisson_block::{BlockError, BufList, Cx, Extent, Geometry, Op, Outcome, Request, Volume};
use caisson_device::Memory;
use caisson_task::Task;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a copy that are moved atomically.
pub(crate) const COPY_PIECE: u64 = 2 << 20;

/// A plain volume over a store that answers at once.
pub struct Direct<S>(Arc<Inner<S>>);

/// What all requests of a volume share.
pub(crate) struct Inner<S> {
    pub(crate) store: S,
    /// log2 of the logical block size.
    pub(crate) shift: u32,
    pub(crate) marks: Marks,
    closed: AtomicBool,
    /// Large requests.
    under_way: UnderWay,
}

impl<S: Memory> Direct<S> {
    /// A volume over all of `store`. `shift` is log2 of the logical block size; the store's size is a multiple of it.
    pub(crate) fn new(store: S, shift: u32) -> Direct<S> {
        let (marks, closed, under_way) = Default::default();
        Direct(Arc::new(Inner { store, shift, marks, closed, under_way }))
    }
}

impl<S: Memory> Inner<S> {
    /// Whether it takes so long that others on the thread should have their turns meanwhile.
    #[inline]
    fn is_large(&self, op: &Op) -> bool {
        let bytes = match op {
            Op::Write { data, .. } | Op::Compare { data, .. } | Op::CompareAndWrite { data, .. } => {
                return data.len() as u64 > S::AT_ONCE;
            }
            Op::Read { .. } | Op::Flush | Op::Verify { .. } | Op::WriteUncorrectable { .. } => return false,
            Op::WriteZeroes { at, .. } => at.blocks,
            Op::Deallocate { ranges: runs } | Op::Copy { from: runs, .. } => {
                runs.iter().fold(0, |sum: u64, run| sum.saturating_add(run.blocks))
            }
        };
        bytes > S::AT_ONCE >> self.shift
    }

    #[inline]
    pub(crate) fn shape(&self) -> Shape {
        Shape { shift: self.shift, blocks: self.store.size() >> self.shift }
    }

    #[inline]
    fn read(&self, cx: &mut Cx<'_>, at: Extent) -> Outcome {
        let run = self.shape().transfer(at)?;
        self.marks.check(at)?;
        let mut list = cx.list();
        self.store.read(run.from, run.len as usize, &mut list);
        Ok(list)
    }

    #[inline]
    fn write(&self, cx: &mut Cx<'_>, at: Extent, data: &BufList) -> Result<(), BlockError> {
        let run = self.shape().with_data(at, data)?;
        let mut scratch = cx.list();
        let written = self.store.write(run.from, data, &mut scratch);
        cx.recycle(scratch);
        written?;
        // After the data, so that nobody reads what stood there before the block was made unreadable.
        self.marks.clear(at);
        Ok(())
    }

    fn zero(&self, run: Run) -> Result<(), BlockError> {
        self.store.zero(run.from, run.len)?;
        self.marks.clear(run.at);
        Ok(())
    }

    fn compare(&self, at: Extent, data: &BufList) -> Result<(), BlockError> {
        let shape = self.shape();
        let run = shape.with_data(at, data)?;
        self.marks.check(at)?;
        match self.store.compare(run.from, data) {
            Some(byte) => Err(BlockError::Miscompare { lba: shape.lba_of(run, byte) }),
            None => Ok(()),
        }
    }

    fn compare_and_write(
        &self,
        cx: &mut Cx<'_>,
        at: Extent,
        expect: &BufList,
        data: &BufList,
    ) -> Result<(), BlockError> {
        let shape = self.shape();
        let run = shape.with_data(at, expect)?;
        shape.with_data(at, data)?;
        self.marks.check(at)?;
        let mut scratch = cx.list();
        let compared = self.store.compare_and_write(run.from, expect, data, &mut scratch);
        cx.recycle(scratch);
        // There were no marks, so none is to be cleared: one set meanwhile comes after this.
        match compared? {
            Some(byte) => Err(BlockError::Miscompare { lba: shape.lba_of(run, byte) }),
            None => Ok(()),
        }
    }

    fn copy(&self, cx: &mut Cx<'_>, to: u64, from: &[Extent]) -> Result<(), BlockError> {
        let shape = self.shape();
        shape.copy(to, from)?;
        let mut to = to;
        for source in from {
            for (source, to) in pieces(*source, to, COPY_PIECE >> self.shift) {
                let data = self.read(cx, source)?;
                let written = self.write(cx, Extent { lba: to, blocks: source.blocks }, &data);
                cx.recycle(data);
                written?;
            }
            to += source.blocks;
        }
        Ok(())
    }

    fn run(&self, cx: &mut Cx<'_>, op: Op) -> Outcome {
        let done = match op {
            Op::Read { at } => return self.read(cx, at),
            Op::Write { at, data, fua: _ } => {
                let done = self.write(cx, at, &data);
                cx.recycle(data);
                done
            }
            Op::Flush => Ok(()),
            Op::WriteZeroes { at, .. } => self.shape().run(at).and_then(|run| self.zero(run)),
            Op::Deallocate { ranges } => {
                let shape = self.shape();
                let runs = ranges.iter().try_for_each(|at| shape.run(*at).map(drop));
                runs.and_then(|()| ranges.iter().try_for_each(|at| self.zero(shape.run(*at)?)))
            }
            Op::Compare { at, data } => self.compare(at, &data),
            Op::CompareAndWrite { at, expect, data, fua: _ } => {
                self.compare_and_write(cx, at, &expect, &data)
            }
            Op::Verify { at } => self.shape().run(at).and_then(|_| self.marks.check(at)),
            Op::WriteUncorrectable { at } => self.shape().run(at).and_then(|_| self.marks.set(at)),
            Op::Copy { to, from, fua: _ } => self.copy(cx, to, &from),
        };
        done.map(|()| BufList::new())
    }
}

/// Cuts a copy of `source` to the blocks from `to` on into pieces of at most `max` blocks, in the order in which no
/// piece overwrites a source block that a later one reads.
pub(crate) fn pieces(source: Extent, to: u64, max: u64) -> impl Iterator<Item = (Extent, u64)> {
    let count = source.blocks.div_ceil(max);
    let backward = to > source.lba && to - source.lba < source.blocks;
    (0..count).map(move |i| {
        let skip = max * if backward { count - 1 - i } else { i };
        (Extent { lba: source.lba + skip, blocks: max.min(source.blocks - skip) }, to + skip)
    })
}

impl<S: Memory> Volume for Direct<S> {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: 1 << self.0.shift,
            blocks: self.0.shape().blocks,
            volatile_cache: false,
            deallocates: self.0.store.deallocates(),
            preferred_blocks: (caisson_block::BLOCK as u32) >> self.0.shift,
        }
    }

    #[inline]
    fn submit(&self, cx: &mut Cx<'_>, Request { tag, op }: Request) {
        let large = self.0.is_large(&op).then(|| self.0.under_way.begin());
        // After it was counted: whoever closes waits for those that came before.
        if self.0.closed.load(Ordering::Acquire) {
            return cx.complete(tag, Err(BlockError::Gone));
        }
        if let Some(in_flight) = large {
            let inner = Arc::clone(&self.0);
            return Task::request(cx, tag, move |port| large::run(inner, port, op, in_flight));
        }
        let outcome = self.0.run(cx, op);
        cx.complete(tag, outcome);
    }

    fn allocated_bytes(&self) -> Option<u64> {
        Some(self.0.store.allocated())
    }
}

impl<S: Memory> Manage for Direct<S> {
    fn resize(&self, blocks: u64) -> Result<(), ManageError> {
        let bytes = blocks.checked_mul(1 << self.0.shift).filter(|&b| b > 0);
        let bytes = bytes.ok_or(ManageError::Size { blocks })?;
        self.0.store.resize(bytes).map_err(ManageError::Store)
    }

    fn sync(&self) -> Result<(), ManageError> {
        Ok(())
    }

    fn close(&self) -> Result<(), ManageError> {
        self.0.closed.store(true, Ordering::Release);
        self.0.under_way.wait()
    }

    fn in_flight(&self) -> u64 {
        self.0.under_way.count()
    }
}
