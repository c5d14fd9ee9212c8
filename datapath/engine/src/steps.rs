//! What a volume does for each operation, step by step.
//!
//! Every operation claims its blocks, widened to 4 KiB, before it looks at anything: operations that overlap are in one
//! order. Reads claim together, all else alone. Parts of blocks are read, merged and written under the claim; what Write
//! Uncorrectable marked of the rest stays marked.

use crate::append::{durable, flush};
use crate::bounds::MAX_TRANSFER;
use crate::read::Marked;
use crate::space::Who;
use crate::volume::{InFlight, Shared};
use crate::{map, read, whole, write};
use caisson_block::{BLOCK, BlockError, BufList, Extent, Op, Outcome};
use caisson_codec::Marks;
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

/// A run, as the part of a block that it begins with, whole blocks, and the part of one that it ends with: the parts as first byte
/// and length, the blocks as the first and how many. Inside of one block it is all beginning.
struct Cut {
    head: (u64, u64),
    whole: (u64, u64),
    tail: (u64, u64),
}

impl Cut {
    fn of(run: Run) -> Cut {
        let (from, to) = (run.from, run.from + run.len);
        let (first, last) = (from.div_ceil(UNIT), to / UNIT);
        if first > last {
            return Cut { head: (from, run.len), whole: (first, 0), tail: (to, 0) };
        }
        let tail = last * UNIT;
        Cut { head: (from, first * UNIT - from), whole: (first, last - first), tail: (tail, to - tail) }
    }
}

/// Notes that sectors of a block stay marked when others of it are written.
fn keep(marked: &mut Marked, index: usize, marks: Marks) {
    if marks.is_none() || on(Bug::MarkForgotten) {
        return;
    }
    match marked.last_mut().filter(|last| last.0 == index) {
        Some(same) => same.1 = same.1 | marks,
        None => marked.push((index, marks)),
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

    /// An error that names a 4 KiB block names an LBA of it instead, none before the one of the byte `from`.
    fn by_lba(&self, from: u64) -> impl Fn(BlockError) -> BlockError {
        let shift = self.v.shape().shift;
        move |e| match e {
            BlockError::Unreadable { lba } => BlockError::Unreadable { lba: (lba * UNIT).max(from) >> shift },
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

    /// Reads whole blocks, which are claimed, and says which sectors of them are marked. Errors name LBAs, none before that of
    /// `from`.
    async fn blocks(&self, frame: Frame, from: u64) -> Result<(BufList, Marked), BlockError> {
        let whose = (self.v.id, &*self.v.tenant);
        let read = read::read(&self.v.pool, self.port, whose, frame.first, frame.count);
        read.await.map_err(self.by_lba(from))
    }

    /// Reads `len` bytes from `from` on, which are claimed.
    async fn read(&self, from: u64, len: u64) -> Result<BufList, BlockError> {
        if len == 0 {
            return Ok(BufList::new());
        }
        let frame = Frame::of(from, len);
        let (mut list, marked) = self.blocks(frame, from).await?;
        for (index, marks) in marked {
            let base = frame.from() + index as u64 * UNIT;
            let inside = |byte: u64| byte.clamp(base, base + UNIT) - base;
            let asked = Marks::of(inside(from) as usize..inside(from + len) as usize);
            if let Some(first) = marks.within(asked).first() {
                return Err(BlockError::Unreadable { lba: (base + first as u64) >> self.v.shape().shift });
            }
        }
        list.split_to((from - frame.from()) as usize);
        Ok(list.split_to(len as usize))
    }

    async fn read_blocks(&self, at: Extent) -> Outcome {
        let run = self.transfer(at)?;
        let _claim = self.claim(run, false).await?;
        self.read(run.from, run.len).await
    }

    /// A block that a part of is to be replaced from byte `from` on.
    async fn edge(&self, block: u64, from: u64) -> Result<(BufList, Marks), BlockError> {
        let (list, marked) = self.blocks(Frame { first: block, count: 1 }, from).await?;
        Ok((list, marked.first().map_or(Marks::NONE, |(_, marks)| *marks)))
    }

    /// Writes `data` at byte `from`, which is claimed alone; parts of blocks are merged. Gives the batch that it is
    /// durable with.
    async fn put(&self, from: u64, data: BufList) -> Result<u64, BlockError> {
        let len = data.len() as u64;
        if len == 0 {
            return Ok(0);
        }
        let frame = Frame::of(from, len);
        let (head, tail) = ((from - frame.from()) as usize, (frame.to() - (from + len)) as usize);
        let mut whole = BufList::new();
        let mut marked = Marked::new();
        let mut before = None;
        if head > 0 {
            let (mut list, marks) = self.edge(frame.first, from).await?;
            before = (frame.count == 1).then(|| (list.clone(), marks));
            whole.append(&mut list.split_to(head));
            keep(&mut marked, 0, marks.within(Marks::of(0..head)));
        }
        let mut data = data;
        whole.append(&mut data);
        if tail > 0 {
            let last = frame.count - 1;
            let (mut list, marks) = match before {
                Some(same) => same,
                None => self.edge(frame.first + last as u64, from).await?,
            };
            list.split_to(BLOCK - tail);
            whole.append(&mut list);
            keep(&mut marked, last, marks.within(Marks::of(BLOCK - tail..BLOCK)));
        }
        self.store(frame.first, whole, &marked).await.map_err(self.by_lba(from))
    }

    /// Writes whole blocks, some of which have sectors that are marked.
    async fn store(&self, first: u64, whole: BufList, marked: &[(usize, Marks)]) -> Result<u64, BlockError> {
        let ways = self.v.settings.load().ways(&self.v.tenant);
        let to = write::To { volume: self.v.id, first, company: &self.v.company, marked };
        write::write(&self.v.pool, self.port, to, &whole::blocks(whole), ways).await
    }

    async fn write(&self, at: Extent, data: BufList, fua: bool) -> Result<(), BlockError> {
        let run = self.with_data(at, &data)?;
        let batch = {
            let _claim = self.claim(run, true).await?;
            self.put(run.from, data).await?
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
            batch = self.zero_run(run).await?.max(batch);
        }
        self.end(batch, fua).await
    }

    async fn zero_run(&self, run: Run) -> Result<u64, BlockError> {
        let Cut { head, whole, tail } = Cut::of(run);
        let head = self.put(head.0, BufList::zeroes(head.1 as usize)).await?;
        let tail = self.put(tail.0, BufList::zeroes(tail.1 as usize)).await?;
        let (first, count) = whole;
        let whole = map::unmap(&self.v.pool, self.port, self.v.id, first, count, Who::Anybody).await;
        Ok(head.max(tail).max(whole.map_err(self.by_lba(run.from))?))
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
        match self.difference(run, data).await? {
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
            self.put(run.from, data).await?
        };
        self.end(batch, fua).await
    }

    async fn verify(&self, at: Extent) -> Result<(), BlockError> {
        let run = self.v.shape().run(at)?;
        let _claim = self.claim(run, false).await?;
        for from in (0..run.len).step_by(PIECE as usize) {
            let len = PIECE.min(run.len - from);
            self.read(run.from + from, len).await?;
        }
        Ok(())
    }

    async fn uncorrectable(&self, at: Extent) -> Result<(), BlockError> {
        let run = self.v.shape().run(at)?;
        let batch = {
            let _claim = self.claim(run, true).await?;
            let Cut { head, whole, tail } = Cut::of(run);
            let head = self.mark_part(head).await?;
            let tail = self.mark_part(tail).await?;
            head.max(tail).max(self.mark(whole, run.from).await?)
        };
        // The mark is a promise that nobody reads what stood there.
        durable(&self.v.pool, self.port, batch).await
    }

    /// Marks whole blocks, for a command that begins at byte `from`: that stands in the map.
    async fn mark(&self, (first, count): (u64, u64), from: u64) -> Result<u64, BlockError> {
        let marked = map::mark(&self.v.pool, self.port, self.v.id, first, count);
        marked.await.map_err(self.by_lba(from))
    }

    /// Marks some sectors of one block, which the map has no unit for: that stands with what is left of the block.
    async fn mark_part(&self, (from, len): (u64, u64)) -> Result<u64, BlockError> {
        if len == 0 {
            return Ok(0);
        }
        let (block, at) = (from / UNIT, (from % UNIT) as usize);
        let (list, marks) = self.edge(block, from).await?;
        let marks = marks | Marks::of(at..at + len as usize);
        if marks.is_all() {
            return self.mark((block, 1), from).await;
        }
        self.store(block, list, &[(0, marks)]).await.map_err(self.by_lba(from))
    }

    async fn copy(&self, to: u64, from: &[Extent], fua: bool) -> Result<(), BlockError> {
        let shape = self.v.shape();
        let mut target = shape.copy(to, from)?.from;
        let mut batch = 0;
        for source in from {
            let run = shape.run(*source)?;
            batch = self.copy_range(run, target).await?.max(batch);
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
