//! What a volume does for each operation, step by step.
//!
//! Every operation claims its blocks, widened to 4 KiB, before it looks at anything: operations that overlap are in one
//! order. Reads claim together, all else alone. Parts of blocks are read, merged and written under the claim.

use crate::append::{durable, flush};
use crate::bounds::MAX_TRANSFER;
use crate::space::Who;
use crate::volume::{InFlight, Shared};
use crate::{map, read, whole, write};
use caisson_block::{BLOCK, BlockError, BufList, Extent, Op, Outcome};
use caisson_tables::planted::{Bug, on};
use caisson_task::{Claim, Port, Range};
use caisson_volume::Run;
use std::sync::Arc;

/// Bytes that verifying, comparing and copying do at once.
const PIECE: u64 = 256 << 10;

/// The operation's steps, from the first claim to its outcome.
pub(crate) async fn run(volume: Arc<Shared>, port: Port, op: Op, _in_flight: InFlight) -> Outcome {
    let steps = Steps { v: &volume, port: &port };
    let done = match op {
        Op::Read { at } => return steps.read_blocks(at).await,
        Op::Write { at, data, fua } => steps.write(at, data, fua).await,
        Op::Flush => flush(&volume.pool, &port).await,
        Op::WriteZeroes { at, deallocate: _, fua } => steps.zero(&[at], fua).await,
        Op::Deallocate { ranges } => steps.zero(&ranges, false).await,
        Op::Compare { at, data } => steps.compare(at, &data).await,
        Op::CompareAndWrite { at, expect, data, fua } => {
            steps.compare_and_write(at, &expect, data, fua).await
        }
        Op::Verify { at } => steps.verify(at).await,
        Op::WriteUncorrectable { at } => steps.uncorrectable(at).await,
        Op::Copy { to, from, fua } => steps.copy(to, &from, fua).await,
    };
    done.map(|()| BufList::new())
}

/// The whole 4 KiB blocks that a run touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    first: u64,
    count: usize,
}

const UNIT: u64 = BLOCK as u64;

impl Frame {
    fn of(from: u64, len: u64) -> Frame {
        let first = from / UNIT;
        Frame { first, count: ((from + len).div_ceil(UNIT) - first) as usize }
    }

    fn from(self) -> u64 {
        self.first * UNIT
    }

    fn to(self) -> u64 {
        (self.first + self.count as u64) * UNIT
    }
}

struct Steps<'a> {
    v: &'a Arc<Shared>,
    port: &'a Port,
}

impl Steps<'_> {
    fn transfer(&self, at: Extent) -> Result<Run, BlockError> {
        let run = self.v.shape().run(at)?;
        if run.len > MAX_TRANSFER { Err(BlockError::Unsupported) } else { Ok(run) }
    }

    fn with_data(&self, at: Extent, data: &BufList) -> Result<Run, BlockError> {
        let run = self.transfer(at)?;
        if data.len() as u64 == run.len { Ok(run) } else { Err(BlockError::Unsupported) }
    }

    /// Claims the blocks of `run`, and judges it again: the volume may have been made smaller while this waited.
    async fn claim(&self, run: Run, alone: bool) -> Result<Claim, BlockError> {
        let frame = Frame::of(run.from, run.len);
        let alone = alone && !on(Bug::SharedClaim);
        let range = Range { from: frame.from(), to: frame.to(), alone };
        let claim = self.port.claim(&self.v.claims, [range, Range::default()]).await;
        self.v.shape().run(run.at)?;
        match self.v.refuses() {
            Some(error) => Err(error),
            None => Ok(claim),
        }
    }

    /// An error that names a 4 KiB block names an LBA of `run` instead.
    fn by_lba(&self, run: Run) -> impl Fn(BlockError) -> BlockError {
        let shift = self.v.shape().shift;
        move |e| match e {
            BlockError::Unreadable { lba } => {
                BlockError::Unreadable { lba: ((lba * UNIT) >> shift).max(run.at.lba) }
            }
            other => other,
        }
    }

    /// Waits for durability where it is asked for.
    async fn end(&self, batch: u64, fua: bool) -> Result<(), BlockError> {
        if fua && !on(Bug::FuaIgnored) || !self.v.settings.load().write_cache {
            durable(&self.v.pool, self.port, batch).await
        } else {
            Ok(())
        }
    }

    /// Reads `len` bytes from `from` on, which are claimed.
    async fn read(&self, from: u64, len: u64) -> Result<BufList, BlockError> {
        if len == 0 {
            return Ok(BufList::new());
        }
        let frame = Frame::of(from, len);
        let mut list =
            read::read(&self.v.pool, self.port, (self.v.id, &self.v.tenant), frame.first, frame.count)
                .await?;
        list.split_to((from - frame.from()) as usize);
        Ok(list.split_to(len as usize))
    }

    async fn read_blocks(&self, at: Extent) -> Outcome {
        let run = self.transfer(at)?;
        let _claim = self.claim(run, false).await?;
        self.read(run.from, run.len).await.map_err(self.by_lba(run))
    }

    /// Writes `data` at byte `from`, which is claimed alone; parts of blocks are merged. Gives the batch that it is
    /// durable with.
    async fn put(&self, from: u64, data: BufList) -> Result<u64, BlockError> {
        let len = data.len() as u64;
        if len == 0 {
            return Ok(0);
        }
        let frame = Frame::of(from, len);
        let (head, tail) = (from - frame.from(), frame.to() - (from + len));
        let mut whole = BufList::new();
        if head > 0 {
            whole.append(&mut self.read(frame.from(), head).await?);
        }
        let mut data = data;
        whole.append(&mut data);
        if tail > 0 {
            whole.append(&mut self.read(from + len, tail).await?);
        }
        let ways = self.v.settings.load().ways(&self.v.tenant);
        let to = write::To { volume: self.v.id, first: frame.first, company: &self.v.company };
        write::write(&self.v.pool, self.port, to, &whole::blocks(whole), ways).await
    }

    async fn write(&self, at: Extent, data: BufList, fua: bool) -> Result<(), BlockError> {
        let run = self.with_data(at, &data)?;
        let batch = {
            let _claim = self.claim(run, true).await?;
            self.put(run.from, data).await.map_err(self.by_lba(run))?
        };
        self.end(batch, fua).await
    }

    /// Makes the ranges read as zeroes, and gives back what they held.
    async fn zero(&self, ranges: &[Extent], fua: bool) -> Result<(), BlockError> {
        let mut batch = 0;
        // All are judged before any is touched.
        let runs: Result<Vec<Run>, BlockError> = ranges.iter().map(|at| self.v.shape().run(*at)).collect();
        for run in runs? {
            let _claim = self.claim(run, true).await?;
            batch = self.zero_run(run).await.map_err(self.by_lba(run))?.max(batch);
        }
        self.end(batch, fua).await
    }

    async fn zero_run(&self, run: Run) -> Result<u64, BlockError> {
        let (from, to) = (run.from, run.from + run.len);
        let (first, last) = (from.div_ceil(UNIT), to / UNIT);
        if first > last {
            // Inside of one block.
            return self.put(from, BufList::zeroes((to - from) as usize)).await;
        }
        let head = self.put(from, BufList::zeroes((first * UNIT - from) as usize)).await?;
        let tail = self.put(last * UNIT, BufList::zeroes((to - last * UNIT) as usize)).await?;
        let whole = map::unmap(&self.v.pool, self.port, self.v.id, first, last - first, Who::Anybody).await?;
        Ok(head.max(tail).max(whole))
    }

    /// The first byte of the run, whose claim is held, that differs from `data`.
    async fn difference(&self, run: Run, data: &BufList) -> Result<Option<u64>, BlockError> {
        let mut expected = data.reader();
        for from in (0..run.len).step_by(PIECE as usize) {
            let len = PIECE.min(run.len - from);
            let list = self.read(run.from + from, len).await?;
            let mut at = from;
            for part in list.parts() {
                let mut left: &[u8] = part;
                while !left.is_empty() {
                    let other = expected.take(left.len());
                    if other.is_empty() {
                        return Err(BlockError::Unsupported);
                    }
                    if let Some(i) = left.iter().zip(other).position(|(a, b)| a != b) {
                        return Ok(Some(at + i as u64));
                    }
                    at += other.len() as u64;
                    left = &left[other.len()..];
                }
            }
        }
        Ok(None)
    }

    async fn matches(&self, run: Run, data: &BufList) -> Result<(), BlockError> {
        match self.difference(run, data).await.map_err(self.by_lba(run))? {
            Some(at) => Err(BlockError::Miscompare { lba: run.at.lba + (at >> self.v.shape().shift) }),
            None => Ok(()),
        }
    }

    async fn compare(&self, at: Extent, data: &BufList) -> Result<(), BlockError> {
        let run = self.with_data(at, data)?;
        let _claim = self.claim(run, false).await?;
        self.matches(run, data).await
    }

    async fn compare_and_write(
        &self,
        at: Extent,
        expect: &BufList,
        data: BufList,
        fua: bool,
    ) -> Result<(), BlockError> {
        let run = self.with_data(at, &data)?;
        if expect.len() != data.len() {
            return Err(BlockError::Unsupported);
        }
        let batch = {
            let _claim = self.claim(run, true).await?;
            self.matches(run, expect).await?;
            self.put(run.from, data).await.map_err(self.by_lba(run))?
        };
        self.end(batch, fua).await
    }

    async fn verify(&self, at: Extent) -> Result<(), BlockError> {
        let run = self.v.shape().run(at)?;
        let _claim = self.claim(run, false).await?;
        for from in (0..run.len).step_by(PIECE as usize) {
            let len = PIECE.min(run.len - from);
            self.read(run.from + from, len).await.map_err(self.by_lba(run))?;
        }
        Ok(())
    }

    /// The mark stands in the map, whose unit is 4 KiB: parts of that cannot be marked.
    async fn uncorrectable(&self, at: Extent) -> Result<(), BlockError> {
        let run = self.v.shape().run(at)?;
        if !run.from.is_multiple_of(UNIT) || !run.len.is_multiple_of(UNIT) {
            return Err(BlockError::Unsupported);
        }
        let batch = {
            let _claim = self.claim(run, true).await?;
            map::mark(&self.v.pool, self.port, self.v.id, run.from / UNIT, run.len / UNIT).await?
        };
        // The mark is a promise that nobody reads what stood there.
        durable(&self.v.pool, self.port, batch).await
    }

    async fn copy(&self, to: u64, from: &[Extent], fua: bool) -> Result<(), BlockError> {
        let shape = self.v.shape();
        let mut target = shape.copy(to, from)?.from;
        let mut batch = 0;
        for source in from {
            let run = shape.run(*source)?;
            batch = self.copy_range(run, target).await.map_err(self.by_lba(run))?.max(batch);
            target += run.len;
        }
        self.end(batch, fua).await
    }

    /// Copies one range, in the order that keeps one that overlaps its own destination whole.
    async fn copy_range(&self, run: Run, target: u64) -> Result<u64, BlockError> {
        let mut batch = 0;
        let pieces = run.len.div_ceil(PIECE);
        for i in 0..pieces {
            let i = if target > run.from { pieces - 1 - i } else { i };
            let (at, len) = (i * PIECE, PIECE.min(run.len - i * PIECE));
            let (from, into) = (Frame::of(run.from + at, len), Frame::of(target + at, len));
            let ranges = [
                Range { from: from.from(), to: from.to(), alone: false },
                Range { from: into.from(), to: into.to(), alone: true },
            ];
            let _claim = self.port.claim(&self.v.claims, ranges).await;
            if (target + at + len) > self.v.bytes.load(std::sync::atomic::Ordering::Acquire) {
                return Err(BlockError::OutOfRange { lba: run.at.lba });
            }
            let data = self.read(run.from + at, len).await?;
            batch = self.put(target + at, data).await?.max(batch);
        }
        Ok(batch)
    }
}
