//! The offline check: everything that a pool holds is read, opened, and counted again.
//!
//! For a pool that was opened only to look at it. Superblocks and root are read as an opening reads them, every live record
//! is opened, the volumes that damage hurts are told, and references, live bytes and totals are counted from the pages
//! themselves. Memory is bounded: by a window of counts, and by how many problems are kept.

use crate::hunt::{Hunt, Hurt};
use crate::pool::Pool;
use crate::scrub::{front, held, unread};
use crate::walk::{BadRecord, Findings, Gap, Walk};
use caisson_tables::{Audit, Finding, PageKey};
use caisson_task::Port;
use std::fmt;

/// Problems of each kind that are kept; more are counted.
const KEPT: usize = 4096;

/// Ids whose references are counted in one pass, at 4 bytes each.
const WINDOW: usize = 4 << 20;

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checking {
    /// What it is at, in words.
    pub stage: &'static str,
    /// How far it is with that.
    pub percent: u8,
}

/// Something that a check found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A superblock or the root, in words. One superblock of two may be lost: the next checkpoint writes it anew.
    Front(String),
    /// A device failed to read something, in words.
    Device(String),
    /// A live record that does not authenticate.
    Record(BadRecord),
    /// No batch can be read there, and something live may be.
    Gap(Gap),
    /// A page of the tables cannot be had.
    Page(PageKey),
    /// Blocks of a volume are lost.
    Hurt(Hurt),
    /// A count of the tables is wrong.
    Count(Finding),
    /// The tables could not be counted, for pages of them are lost.
    Uncounted,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Front(what) | Problem::Device(what) => f.write_str(what),
            Problem::Record(bad) => bad.fmt(f),
            Problem::Gap(gap) => gap.fmt(f),
            Problem::Page(PageKey::Map(id)) => write!(f, "page {} of a volume's map is lost", id.get()),
            Problem::Page(PageKey::Blocks { level, index }) => {
                write!(f, "page {index} of level {level} of the block table is lost")
            }
            Problem::Hurt(hurt) => hurt.fmt(f),
            Problem::Count(finding) => count(f, finding),
            Problem::Uncounted => f.write_str("the tables were not counted again: pages of them are lost"),
        }
    }
}

fn count(f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
    match finding {
        Finding::Refs { id, recorded: Some(recorded), counted } => {
            write!(f, "block {}: {recorded} references are recorded, {counted} were counted", id.get())
        }
        Finding::Refs { id, recorded: None, counted } => {
            write!(f, "block {} is recorded as free and has {counted} references", id.get())
        }
        Finding::Live { segment, recorded, counted } => {
            write!(f, "segment {segment}: {recorded} live bytes are recorded, {counted} were counted")
        }
        Finding::Used { page, recorded, counted } => {
            write!(f, "below {page:?}: {recorded} in use are recorded, {counted} were counted")
        }
        Finding::Total { what, recorded, counted } => {
            write!(f, "{what} of the pool: {recorded} are recorded, {counted} were counted")
        }
    }
}

/// What a check came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, by kind.
    pub problems: Vec<Problem>,
    /// Problems that are not in the list.
    pub more: u64,
    /// Blocks of 4 KiB that are lost to volumes, those not in the list included.
    pub hurt_blocks: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Segments that were gone through.
    pub segments: u32,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.more == 0
    }

    fn add<T>(&mut self, problems: impl IntoIterator<Item = T>, make: impl Fn(T) -> Problem) {
        for (i, problem) in problems.into_iter().enumerate() {
            if i < KEPT {
                self.problems.push(make(problem));
            } else {
                self.more += 1;
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.more > 0 {
            writeln!(f, "... and {} more", self.more)?;
        }
        let (segments, bytes) = (self.segments, self.bytes);
        if self.is_sound() {
            return write!(f, "nothing is wrong: {segments} segments, {bytes} bytes read");
        }
        let count = self.problems.len() as u64 + self.more;
        let lost = self.hurt_blocks;
        write!(f, "{count} problems, {lost} blocks of 4 KiB lost: {segments} segments, {bytes} bytes read")
    }
}

impl Pool {
    /// Checks a pool that was opened by [`Pool::open_to_read`]; `progress` is told now and then. In a pool that is in use,
    /// what changes meanwhile is told as problems that are none.
    pub async fn check(&self, port: &Port, mut progress: impl FnMut(Checking) + Send) -> Report {
        let mut report = Report::default();
        progress(Checking { stage: "superblocks and root", percent: 0 });
        let front = front(&self.0, port).await;
        report.add(front, Problem::Front);
        let mut found = Findings::default();
        self.check_segments(port, &mut report, &mut found, &mut progress).await;
        found.bad.sort_unstable();
        found.gaps.sort_unstable();
        report.add(found.bad.iter().copied(), Problem::Record);
        report.add(found.gaps.iter().copied(), Problem::Gap);
        report.more += found.more;
        let counts = self.check_counts(port, &mut found, &mut report, &mut progress).await;
        if found.any() {
            progress(Checking { stage: "volumes", percent: 0 });
            let mut hunt = Hunt::default();
            while !hunt.step(&self.0, port, &mut found).await {
                port.pause().await;
            }
            report.hurt_blocks = hunt.hurts.blocks;
            let mut lost: Vec<PageKey> = found.lost.iter().copied().collect();
            lost.sort_unstable();
            report.add(lost, Problem::Page);
            report.add(hunt.hurts.list, Problem::Hurt);
        }
        report.add(unread(&self.0), Problem::Device);
        report.add(self.fault(), Problem::Device);
        report.add(counts, Problem::Count);
        report
    }

    async fn check_segments(
        &self,
        port: &Port,
        report: &mut Report,
        found: &mut Findings,
        progress: &mut (impl FnMut(Checking) + Send),
    ) {
        let inner = &self.0;
        let segments = inner.lock().tables.geometry().segments;
        let all = held(inner).max(1);
        for segment in 0..segments {
            let Some(mut walk) = Walk::begin(inner, segment, u64::MAX, false) else { continue };
            let percent = (u64::from(report.segments) * 100 / u64::from(all)).min(99) as u8;
            progress(Checking { stage: "records", percent });
            loop {
                let walked = walk.step(inner, port, found).await;
                report.bytes += walked.bytes;
                if walked.done {
                    break;
                }
                port.pause().await;
            }
            report.segments += 1;
        }
    }

    /// Counts the tables again.
    async fn check_counts(
        &self,
        port: &Port,
        found: &mut Findings,
        report: &mut Report,
        progress: &mut (impl FnMut(Checking) + Send),
    ) -> Vec<Finding> {
        let inner = &self.0;
        let mut audit = Audit::new(&inner.lock().tables, WINDOW);
        let mut counts = Vec::new();
        let mut last = None;
        loop {
            let step = inner.with(port, |state| audit.step(&mut state.tables, &mut counts)).await;
            match step {
                Ok(true) => {}
                Ok(false) => return counts,
                Err(lost) => {
                    found.lost.insert(lost.key);
                    report.problems.push(Problem::Uncounted);
                    return Vec::new();
                }
            }
            if counts.len() > KEPT {
                report.more += (counts.len() - KEPT) as u64;
                counts.truncate(KEPT);
            }
            let percent = audit.percent();
            if last != Some(percent) {
                last = Some(percent);
                progress(Checking { stage: "counts", percent });
            }
            port.pause().await;
        }
    }
}
