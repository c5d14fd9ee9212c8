//! What a file volume does for each operation, step by step.
//!
//! Every operation claims the blocks it touches, widened to the device's alignment, before it looks at anything, and
//! gives the claim up when it is over: operations that overlap are in one order, however many device operations each
//! takes. What is not aligned is read, merged and written under the claim. Reads claim together, all else alone.

use crate::check::Run;
use crate::direct::pieces;
use crate::file::Inner;
use crate::manage::InFlight;
use crate::slices::{AT_ONCE, first_difference, merge, pace};
use caisson_block::{BlockError, BufList, Extent, IoKind, Op, Outcome};
use caisson_device::StoreError;
use caisson_task::{Claim, Io, Port, Range};
use std::sync::Arc;

/// Bytes that verifying, copying and writing zeroes do at once.
const PIECE: u64 = 1 << 20;

/// The most buffers of a write that are handed to the device as they are; more are copied together.
const MAX_PARTS: usize = 512;

/// The operation's steps, from the first claim to its outcome.
pub(crate) async fn run(inner: Arc<Inner>, port: Port, op: Op, _in_flight: InFlight) -> Outcome {
    let steps = Steps { v: &inner, port: &port };
    let done = match op {
        Op::Read { at } => return steps.read_blocks(at).await,
        Op::Write { at, data, fua } => steps.write(at, data, inner.durable(fua)).await,
        Op::Flush => steps.flush().await,
        Op::WriteZeroes { at, deallocate, fua } => {
            steps.write_zeroes(at, deallocate, inner.durable(fua)).await
        }
        Op::Deallocate { ranges } => steps.deallocate(&ranges).await,
        Op::Compare { at, data } => steps.compare(at, &data).await,
        Op::CompareAndWrite { at, expect, data, fua } => {
            steps.compare_and_write(at, &expect, &data, inner.durable(fua)).await
        }
        Op::Verify { at } => steps.verify(at).await,
        Op::WriteUncorrectable { at } => steps.write_uncorrectable(at).await,
        Op::Copy { to, from, fua } => steps.copy(to, &from, inner.durable(fua)).await,
    };
    done.map(|()| BufList::new())
}

/// The run that the device is asked for: widened to its alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    from: u64,
    to: u64,
}

impl Frame {
    fn len(self) -> usize {
        (self.to - self.from) as usize
    }

    fn claim(self, alone: bool) -> Range {
        Range { from: self.from, to: self.to, alone }
    }
}

/// What goes wrong reading and writing, as it is told to hosts.
fn reading(at: u64) -> impl Fn(StoreError) -> BlockError {
    move |e| match e {
        StoreError::Device => BlockError::Unreadable { lba: at },
        e => other(e, at),
    }
}

fn writing(at: u64) -> impl Fn(StoreError) -> BlockError {
    move |e| match e {
        StoreError::Device => BlockError::WriteFault { lba: at },
        e => other(e, at),
    }
}

fn other(e: StoreError, lba: u64) -> BlockError {
    match e {
        StoreError::Device | StoreError::Unread { .. } | StoreError::Latched => BlockError::Failed,
        StoreError::Full => BlockError::CapacityExceeded,
        StoreError::Unsupported => BlockError::Unsupported,
        StoreError::OutOfRange => BlockError::OutOfRange { lba },
    }
}

struct Steps<'a> {
    v: &'a Arc<Inner>,
    port: &'a Port,
}

impl Steps<'_> {
    /// One operation on the store, and its buffers back. A plain volume cannot tell right bytes from wrong ones, so it does not
    /// go on with a device that failed to read some.
    async fn io(&self, kind: IoKind, offset: u64, bufs: BufList) -> Result<BufList, StoreError> {
        let store = &self.v.store;
        let end = self.port.io(Io { store: Arc::clone(store), kind, offset, bufs }).await;
        if let Err(StoreError::Unread { .. }) = end {
            store.fail(store.unread().1.unwrap_or_default());
            return Err(StoreError::Device);
        }
        end
    }

    fn frame(&self, run: Run) -> Frame {
        let unit = u64::from(self.v.store.alignment().offset);
        // A run lies inside the store, whose size is a multiple of the unit: this cannot overflow.
        Frame { from: run.from / unit * unit, to: (run.from + run.len).next_multiple_of(unit) }
    }

    /// `at`, if it may be moved by one command.
    fn transfer(&self, at: Extent) -> Result<Run, BlockError> {
        let run = self.v.shape().run(at)?;
        if run.len > self.v.max_transfer() { Err(BlockError::Unsupported) } else { Ok(run) }
    }

    fn with_data(&self, at: Extent, data: &BufList) -> Result<Run, BlockError> {
        let run = self.transfer(at)?;
        if data.len() as u64 == run.len { Ok(run) } else { Err(BlockError::Unsupported) }
    }

    /// Claims the frame of `at`, and judges `at` again: the volume may have been made smaller while this waited.
    async fn claim(&self, run: Run, alone: bool) -> Result<Claim, BlockError> {
        let claim = self.port.claim(&self.v.claims, [self.frame(run).claim(alone), Range::default()]).await;
        self.v.shape().run(run.at)?;
        Ok(claim)
    }

    /// Reads the frame of `run` into `bufs` and cuts out the run.
    async fn read_into(&self, run: Run, bufs: BufList) -> Result<BufList, BlockError> {
        let frame = self.frame(run);
        let read = self.io(IoKind::Read, frame.from, bufs).await;
        let mut list = read.map_err(reading(run.at.lba))?;
        list.split_to((run.from - frame.from) as usize);
        Ok(list.split_to(run.len as usize))
    }

    /// Reads the run, which is claimed.
    async fn read(&self, run: Run) -> Result<BufList, BlockError> {
        if run.len == 0 {
            return Ok(BufList::new());
        }
        let [bufs, ..] = self.port.buffers(&self.v.buffers, [self.frame(run).len(), 0, 0]).await;
        self.read_into(run, bufs).await
    }

    async fn read_blocks(&self, at: Extent) -> Outcome {
        let run = self.transfer(at)?;
        let _claim = self.claim(run, false).await?;
        self.v.marks.check(at)?;
        self.read(run).await
    }

    /// Whether the device takes `data` for `run` as it is.
    fn fits(&self, run: Run, data: &BufList) -> bool {
        let align = self.v.store.alignment();
        let (memory, unit) = (align.memory as usize, align.offset as usize);
        let frame = self.frame(run);
        frame.from == run.from
            && frame.len() as u64 == run.len
            && data.parts().len() <= MAX_PARTS
            && data
                .parts()
                .iter()
                .all(|p| p.as_ptr().addr().is_multiple_of(memory) && p.len().is_multiple_of(unit))
    }

    /// Bytes of buffers that [`Steps::put`] needs when the data does not fit: for all of it, and for the edges.
    fn spare_for(&self, run: Run) -> [usize; 2] {
        let frame = self.frame(run);
        let edges =
            if frame.len() as u64 == run.len { 0 } else { 2 * self.v.store.alignment().offset as usize };
        [frame.len(), edges]
    }

    /// Writes `data` to the run, which is claimed alone.
    async fn put(&self, run: Run, data: BufList, dsync: bool) -> Result<(), BlockError> {
        if run.len == 0 {
            return Ok(());
        }
        if self.fits(run, &data) {
            let wrote = self.io(IoKind::Write { dsync }, run.from, data).await;
            return wrote.map(drop).map_err(writing(run.at.lba));
        }
        let [all, edges] = self.spare_for(run);
        let [all, edges, _] = self.port.buffers(&self.v.buffers, [all, edges, 0]).await;
        self.put_copied(run, &data, dsync, all, edges).await
    }

    /// Writes `data` through the buffers `all`; the edges of the frame are read into `edges` first.
    async fn put_copied(
        &self,
        run: Run,
        data: &BufList,
        dsync: bool,
        all: BufList,
        edges: BufList,
    ) -> Result<(), BlockError> {
        let frame = self.frame(run);
        let unit = self.v.store.alignment().offset as usize;
        let head = (run.from - frame.from) as usize;
        let tail = frame.len() - head - run.len as usize;
        let mut edges = edges;
        let mut last = edges.split_to(if edges.is_empty() { 0 } else { unit });
        let mut first = edges;
        if head > 0 {
            first = self.io(IoKind::Read, frame.from, first).await.map_err(reading(run.at.lba))?;
        }
        if tail > 0 && head > 0 && frame.len() == unit {
            last = first.clone();
        } else if tail > 0 {
            let at = frame.to - unit as u64;
            let lba = run.at.lba + run.at.blocks - 1;
            last = self.io(IoKind::Read, at, last).await.map_err(reading(lba))?;
        }
        last.split_to(unit - tail.min(unit));
        let mut pace = pace(self.port, data.len() > AT_ONCE);
        let merged = merge(&mut pace, all, (&first, head), data, &last).await;
        let wrote = self.io(IoKind::Write { dsync }, frame.from, merged).await;
        wrote.map(drop).map_err(writing(run.at.lba))
    }

    /// After a write: its blocks are readable again, and stay so after a crash if the write does. That holds too when
    /// an earlier write, which was not durable, has made them readable.
    async fn wrote(&self, at: Extent, durable: bool) -> Result<(), BlockError> {
        self.v.marks.clear(at);
        if durable && self.v.kept() < self.v.marks.version() { self.keep_marks().await } else { Ok(()) }
    }

    async fn write(&self, at: Extent, data: BufList, durable: bool) -> Result<(), BlockError> {
        let run = self.with_data(at, &data)?;
        let _claim = self.claim(run, true).await?;
        self.put(run, data, durable).await?;
        self.wrote(at, durable).await
    }

    /// Makes what was completed before durable, and the set of unreadable blocks as it was at that time.
    ///
    /// The set is taken before the sync and kept after it, so that no block is readable after a crash whose new
    /// contents were lost in it.
    async fn keep_marks(&self) -> Result<(), BlockError> {
        let (runs, version) = self.v.marks.snapshot();
        self.io(IoKind::Sync, 0, BufList::new()).await.map_err(writing(0))?;
        if self.v.kept() >= version { Ok(()) } else { self.keep(runs, version).await }
    }

    /// Makes a set of unreadable blocks durable, if none newer is. That may wait for a disk, and is rare.
    async fn keep(&self, runs: Vec<Extent>, version: u64) -> Result<(), BlockError> {
        let lba = runs.first().map_or(0, |r| r.lba);
        let inner = Arc::clone(self.v);
        let kept = if self.v.keeper.as_ref().is_some_and(|k| k.blocks()) {
            self.port.blocking(move || inner.keep_blocking(&runs, version)).await.and_then(|kept| kept)
        } else {
            inner.keep_blocking(&runs, version)
        };
        kept.map_err(|e| {
            tracing::error!("cannot keep the unreadable blocks of {}: {e}", self.v.store.path().display());
            BlockError::WriteFault { lba }
        })
    }

    async fn flush(&self) -> Result<(), BlockError> {
        if self.v.kept() < self.v.marks.version() {
            return self.keep_marks().await;
        }
        self.io(IoKind::Sync, 0, BufList::new()).await.map(drop).map_err(writing(0))
    }

    /// Makes the run, which is claimed alone, read as zeroes.
    async fn zero(&self, run: Run, deallocate: bool) -> Result<(), BlockError> {
        let unit = u64::from(self.v.store.alignment().offset);
        let end = run.from + run.len;
        let (inner, inner_end) = (run.from.next_multiple_of(unit), end / unit * unit);
        if inner >= inner_end {
            return self.put(run, BufList::zeroes(run.len as usize), false).await;
        }
        let lba = run.at.lba;
        let part = |from, to| Run { at: run.at, from, len: to - from };
        if run.from < inner {
            self.put(part(run.from, inner), BufList::zeroes((inner - run.from) as usize), false).await?;
        }
        self.zero_inner(lba, inner, inner_end, deallocate).await?;
        if inner_end < end {
            self.put(part(inner_end, end), BufList::zeroes((end - inner_end) as usize), false).await?;
        }
        Ok(())
    }

    /// Aligned: by the device's own means if it has them, by writing zeroes if not.
    async fn zero_inner(&self, lba: u64, from: u64, to: u64, deallocate: bool) -> Result<(), BlockError> {
        let store = &self.v.store;
        let kind = match (deallocate && store.punches(), store.zeroes()) {
            (true, _) => Some(IoKind::PunchHole { len: to - from }),
            (false, true) => Some(IoKind::ZeroRange { len: to - from }),
            (false, false) => None,
        };
        if let Some(kind) = kind {
            match self.io(kind, from, BufList::new()).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Unsupported) => {}
                Err(e) => return Err(writing(lba)(e)),
            }
        }
        let mut at = from;
        while at < to {
            let n = PIECE.min(to - at);
            let zeroes = BufList::zeroes(n as usize);
            self.io(IoKind::Write { dsync: false }, at, zeroes).await.map_err(writing(lba))?;
            at += n;
        }
        Ok(())
    }

    async fn write_zeroes(&self, at: Extent, deallocate: bool, durable: bool) -> Result<(), BlockError> {
        let run = self.v.shape().run(at)?;
        let _claim = self.claim(run, true).await?;
        if run.len > 0 {
            self.zero(run, deallocate).await?;
        }
        self.v.marks.clear(at);
        if durable { self.flush().await } else { Ok(()) }
    }

    async fn deallocate(&self, ranges: &[Extent]) -> Result<(), BlockError> {
        ranges.iter().try_for_each(|at| self.v.shape().run(*at).map(drop))?;
        if !self.v.store.punches() {
            return Ok(());
        }
        for &at in ranges.iter().filter(|at| at.blocks > 0) {
            self.write_zeroes(at, true, false).await?;
        }
        if self.v.durable(false) { self.flush().await } else { Ok(()) }
    }

    /// The first block in which the run, as read, differs from `with`.
    async fn judge(&self, run: Run, now: &BufList, with: &BufList) -> Result<(), BlockError> {
        let mut pace = pace(self.port, with.len() > AT_ONCE);
        match first_difference(&mut pace, now, with).await {
            Some(byte) => Err(BlockError::Miscompare { lba: self.v.shape().lba_of(run, byte) }),
            None => Ok(()),
        }
    }

    async fn compare(&self, at: Extent, data: &BufList) -> Result<(), BlockError> {
        let run = self.with_data(at, data)?;
        let _claim = self.claim(run, false).await?;
        self.v.marks.check(at)?;
        let now = self.read(run).await?;
        self.judge(run, &now, data).await
    }

    async fn compare_and_write(
        &self,
        at: Extent,
        expect: &BufList,
        data: &BufList,
        durable: bool,
    ) -> Result<(), BlockError> {
        let run = self.with_data(at, expect)?;
        self.with_data(at, data)?;
        let _claim = self.claim(run, true).await?;
        self.v.marks.check(at)?;
        if run.len == 0 {
            return Ok(());
        }
        let [all, edges] = self.spare_for(run);
        let [bufs, all, edges] =
            self.port.buffers(&self.v.buffers, [self.frame(run).len(), all, edges]).await;
        let now = self.read_into(run, bufs).await?;
        self.judge(run, &now, expect).await?;
        if self.fits(run, data) {
            let data = data.clone();
            let wrote = self.io(IoKind::Write { dsync: durable }, run.from, data).await;
            wrote.map_err(writing(at.lba))?;
        } else {
            self.put_copied(run, data, durable, all, edges).await?;
        }
        self.wrote(at, durable).await
    }

    async fn verify(&self, at: Extent) -> Result<(), BlockError> {
        self.v.shape().run(at)?;
        for (piece, _) in pieces(at, at.lba, PIECE >> self.v.shift) {
            let run = self.v.shape().run(piece)?;
            let _claim = self.claim(run, false).await?;
            self.v.marks.check(piece)?;
            self.read(run).await?;
        }
        Ok(())
    }

    async fn write_uncorrectable(&self, at: Extent) -> Result<(), BlockError> {
        let run = self.v.shape().run(at)?;
        let _claim = self.claim(run, true).await?;
        self.v.marks.set(at)?;
        self.keep_marks().await
    }

    async fn copy(&self, to: u64, from: &[Extent], durable: bool) -> Result<(), BlockError> {
        self.v.shape().copy(to, from)?;
        let mut to = to;
        for &source in from {
            for (piece, to) in pieces(source, to, PIECE >> self.v.shift) {
                self.copy_piece(piece, to, durable).await?;
            }
            to += source.blocks;
        }
        Ok(())
    }

    async fn copy_piece(&self, source: Extent, to: u64, durable: bool) -> Result<(), BlockError> {
        let target = Extent { lba: to, blocks: source.blocks };
        let (source, target) = (self.v.shape().run(source)?, self.v.shape().run(target)?);
        let (reads, writes) = (self.frame(source), self.frame(target));
        let _claim = self.port.claim(&self.v.claims, [reads.claim(false), writes.claim(true)]).await;
        self.v.shape().run(source.at)?;
        self.v.shape().run(target.at)?;
        self.v.marks.check(source.at)?;
        // Both sides' buffers at once. When both runs are aligned, what is read is what is written.
        let aligned = reads.len() as u64 == source.len && writes.len() as u64 == target.len;
        let [all, edges] = if aligned { [0, 0] } else { self.spare_for(target) };
        let [bufs, all, edges] = self.port.buffers(&self.v.buffers, [reads.len(), all, edges]).await;
        let data = self.read_into(source, bufs).await?;
        if aligned {
            let wrote = self.io(IoKind::Write { dsync: durable }, target.from, data).await;
            wrote.map_err(writing(target.at.lba))?;
        } else {
            self.put_copied(target, &data, durable, all, edges).await?;
        }
        self.wrote(target.at, durable).await
    }
}
