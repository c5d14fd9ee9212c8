//! Large requests on a store in memory: the same as [`crate::direct`] does at once, in slices of the thread's time.
//!
//! What others see of one is still one step: a write's bytes are copied to pages of their own slice by slice, and swapped in
//! together at the end. The thread serves what is small between two slices. It must never hold a page's lock over the end
//! of a slice.

use crate::check::Run;
use crate::direct::{COPY_PIECE, Inner, pieces};
use crate::manage::InFlight;
use crate::slices::{PAGES, first_difference, pace};
use caisson_block::{BlockError, BufList, Extent, Op, Outcome};
use caisson_device::Memory;
use caisson_task::{Pace, Port};
use std::sync::Arc;

/// How often a write for which there are no pages waits for others to be done with theirs.
const TRIES: usize = 64;

/// The operation, to its outcome.
pub(crate) async fn run<S: Memory>(v: Arc<Inner<S>>, port: Port, op: Op, _in_flight: InFlight) -> Outcome {
    let mut large = Large { v: &v, port: &port, pace: pace(&port, true) };
    let done = match op {
        Op::Write { at, data, fua: _ } => large.write(at, &data).await,
        Op::WriteZeroes { at, .. } => large.zero(at).await,
        Op::Deallocate { ranges } => large.deallocate(&ranges).await,
        Op::Compare { at, data } => large.compare(at, &data).await,
        Op::CompareAndWrite { at, expect, data, fua: _ } => large.compare_and_write(at, &expect, &data).await,
        Op::Copy { to, from, fua: _ } => large.copy(to, &from).await,
        // These move nothing: they are never large.
        Op::Read { .. } | Op::Flush | Op::Verify { .. } | Op::WriteUncorrectable { .. } => {
            Err(BlockError::Unsupported)
        }
    };
    done.map(|()| BufList::new())
}

struct Large<'a, S> {
    v: &'a Arc<Inner<S>>,
    port: &'a Port,
    pace: Pace<'a>,
}

impl<S: Memory> Large<'_, S> {
    /// The bytes of `data` in pages of their own.
    async fn prepare(&mut self, run: Run, data: &BufList) -> Result<BufList, BlockError> {
        for _ in 0..TRIES {
            match self.try_prepare(run, data).await {
                // Others on their way hold pages, too. Without ours they come to their ends; their slices are next.
                Err(BlockError::Interrupted) => {
                    self.pace.rest();
                    self.port.next_slice().await;
                }
                other => return other,
            }
        }
        Err(BlockError::Interrupted)
    }

    async fn try_prepare(&mut self, run: Run, data: &BufList) -> Result<BufList, BlockError> {
        let (mut pages, mut reader) = (BufList::new(), data.reader());
        loop {
            self.pace.spend(PAGES).await;
            if self.v.store.prepare(run.from, data.len(), &mut reader, &mut pages)? {
                return Ok(pages);
            }
        }
    }

    async fn write(&mut self, at: Extent, data: &BufList) -> Result<(), BlockError> {
        let run = self.v.shape().with_data(at, data)?;
        let mut pages = self.prepare(run, data).await?;
        // It may have been made smaller meanwhile.
        self.v.shape().run(at)?;
        self.v.store.publish(run.from, data.len(), &mut pages);
        // After the data, so that nobody reads what stood there before the block was made unreadable.
        self.v.marks.clear(at);
        Ok(())
    }

    async fn zero(&mut self, at: Extent) -> Result<(), BlockError> {
        let run = self.v.shape().run(at)?;
        let mut done = 0;
        while done < run.len {
            self.pace.spend(PAGES).await;
            self.v.shape().run(at)?;
            done += self.v.store.zero_some(run.from + done, run.len - done)?;
        }
        self.v.marks.clear(at);
        Ok(())
    }

    async fn deallocate(&mut self, ranges: &[Extent]) -> Result<(), BlockError> {
        let shape = self.v.shape();
        ranges.iter().try_for_each(|at| shape.run(*at).map(drop))?;
        for at in ranges {
            self.zero(*at).await?;
        }
        Ok(())
    }

    async fn compare(&mut self, at: Extent, data: &BufList) -> Result<(), BlockError> {
        let shape = self.v.shape();
        let run = shape.with_data(at, data)?;
        self.v.marks.check(at)?;
        let mut now = BufList::new();
        self.v.store.read(run.from, data.len(), &mut now);
        match first_difference(&mut self.pace, &now, data).await {
            Some(byte) => Err(BlockError::Miscompare { lba: shape.lba_of(run, byte) }),
            None => Ok(()),
        }
    }

    async fn compare_and_write(
        &mut self,
        at: Extent,
        expect: &BufList,
        data: &BufList,
    ) -> Result<(), BlockError> {
        let shape = self.v.shape();
        let run = shape.with_data(at, expect)?;
        shape.with_data(at, data)?;
        let mut pages = self.prepare(run, data).await?;
        // Comparing is under the pages' locks, and one slice.
        self.pace.rest();
        self.pace.spend(PAGES).await;
        self.v.shape().run(at)?;
        self.v.marks.check(at)?;
        match self.v.store.publish_if(run.from, expect, &mut pages) {
            Some(byte) => Err(BlockError::Miscompare { lba: shape.lba_of(run, byte) }),
            None => Ok(()),
        }
    }

    async fn copy(&mut self, to: u64, from: &[Extent]) -> Result<(), BlockError> {
        self.v.shape().copy(to, from)?;
        let mut to = to;
        for source in from {
            for (source, to) in pieces(*source, to, COPY_PIECE >> self.v.shift) {
                let run = self.v.shape().transfer(source)?;
                self.v.marks.check(source)?;
                let mut data = BufList::new();
                self.v.store.read(run.from, run.len as usize, &mut data);
                self.write(Extent { lba: to, blocks: source.blocks }, &data).await?;
            }
            to += source.blocks;
        }
        Ok(())
    }
}
