//! The scrub: every live record of a pool in use is read and opened, at a set pace.
//!
//! It looks at the superblocks and the root as an opening would, then at all segments that were closed when it began, and if
//! it found damage, at the maps of all volumes to tell whom it hurts. What was written since it began is not looked at. A
//! page of the tables that is damaged on the device and whole in memory is written anew by the next checkpoint.

use crate::append::flush;
use crate::checkpoint::alone;
use crate::chores::Pace;
use crate::devices::Cause;
use crate::hunt::{Hunt, Hurt};
use crate::pool::Pool;
use crate::recover::{Reader, superblocks};
use crate::state::{Damage, Inner};
use crate::walk::{BadRecord, Findings, Gap, Walk};
use caisson_block::Mono;
use caisson_log::{SUPERBLOCK, Superblock};
use caisson_tables::SegmentState;
use caisson_task::Port;
use std::sync::Arc;

/// Segments that are passed by at a step.
const SEGMENTS_AT_ONCE: usize = 1024;

/// What a scrub has done and found.
#[derive(Clone, Debug, Default)]
pub struct ScrubStatus {
    /// Whether it is under way.
    pub running: bool,
    /// Whether it came to its end.
    pub completed: bool,
    /// Bytes a second that it reads at most; 0 for no bound.
    pub rate: u64,
    /// When it was started, and when this was told.
    pub started: Mono,
    /// When this was told.
    pub now: Mono,
    /// Bytes that were read.
    pub bytes: u64,
    /// How far it is.
    pub percent: u8,
    /// Damaged records, by place.
    pub bad: Vec<BadRecord>,
    /// Runs of segments that cannot be read by their batches, by place.
    pub gaps: Vec<Gap>,
    /// Damaged records and gaps that are not in the lists.
    pub more: u64,
    /// Damaged pages of the tables that were whole in memory: the next checkpoint writes them anew.
    pub mended: u64,
    /// The volumes and blocks that are lost; known when all segments were looked at.
    pub hurt: Vec<Hurt>,
    /// Blocks of 4 KiB that are lost, those that are not in the list included.
    pub hurt_blocks: u64,
    /// What is wrong with superblocks and root, and what devices failed to read, in words.
    pub warnings: Vec<String>,
}

impl Pool {
    /// Has the pool's background scrub it, at most so many bytes a second (0 for as fast as it can). One that is under way
    /// begins anew.
    pub fn scrub_start(&self, rate: u64) {
        self.0.lock().chores.begin = Some(rate);
        self.0.call_chores();
    }

    /// Ends a scrub that is under way. What it found is kept.
    pub fn scrub_stop(&self) {
        {
            let chores = &mut self.0.lock().chores;
            chores.begin = None;
            chores.stop = true;
        }
        self.0.call_chores();
    }
}

/// What it is at.
enum Stage {
    Front,
    Segments(u32, Option<Walk>),
    Volumes,
}

/// A scrub under way.
pub(crate) struct Scrub {
    pace: Pace,
    stage: Stage,
    /// Segments of later uses are left out.
    before: u64,
    found: Findings,
    hunt: Hunt,
    status: ScrubStatus,
}

impl Scrub {
    /// `None` when the pool has failed.
    pub(crate) async fn begin(inner: &Arc<Inner>, port: &Port, rate: u64) -> Option<Scrub> {
        let before = inner.lock().log.next_segment_sequence;
        // What stands in closed segments is on the devices then.
        flush(inner, port).await.ok()?;
        let now = port.now();
        let status = ScrubStatus { running: true, rate, started: now, now, ..ScrubStatus::default() };
        let pace = Pace::new(rate, now, rate / 4);
        let scrub = Scrub {
            pace,
            stage: Stage::Front,
            before,
            found: Findings::default(),
            hunt: Hunt::default(),
            status,
        };
        inner.lock().chores.scrub = Some(scrub.status.clone());
        Some(scrub)
    }

    pub(crate) fn due(&self) -> Mono {
        self.pace.due()
    }

    /// A bounded piece. True at the end.
    pub(crate) async fn step(&mut self, inner: &Arc<Inner>, port: &Port) -> bool {
        let mut done = false;
        match &mut self.stage {
            Stage::Front => {
                self.status.warnings = front(inner, port).await;
                self.did((2 * SUPERBLOCK * inner.devices().stores().len()) as u64);
                self.stage = Stage::Segments(0, None);
            }
            Stage::Segments(..) => self.segments(inner, port).await,
            Stage::Volumes => done = self.hunt.step(inner, port, &mut self.found).await,
        }
        self.tell(inner, port.now());
        done
    }

    fn did(&mut self, bytes: u64) {
        self.pace.did(bytes);
        self.status.bytes += bytes;
    }

    async fn segments(&mut self, inner: &Arc<Inner>, port: &Port) {
        let Stage::Segments(next, walk) = &mut self.stage else { return };
        if let Some(current) = walk {
            let known = self.found.bad.len();
            let walked = current.step(inner, port, &mut self.found).await;
            if walked.done {
                self.status.mended += current.mended;
                *walk = None;
                *next += 1;
            }
            self.found.bad[known..].iter().for_each(|bad| tell(inner, bad));
            self.did(walked.bytes);
            return;
        }
        let segments = inner.lock().tables.geometry().segments;
        for _ in 0..SEGMENTS_AT_ONCE {
            if *next >= segments {
                self.found.bad.sort_unstable();
                self.found.gaps.sort_unstable();
                self.stage = Stage::Volumes;
                if !self.found.any() {
                    // Nobody is hurt: a pass through no volumes.
                    self.hunt = Hunt::over();
                }
                return;
            }
            *walk = Walk::begin(inner, *next, self.before, true);
            if walk.is_some() {
                return;
            }
            *next += 1;
        }
    }

    /// Says how far it is.
    fn tell(&mut self, inner: &Inner, now: Mono) {
        let mut state = inner.lock();
        let segments = state.tables.geometry().segments.max(1);
        self.status.now = now;
        self.status.percent = match &self.stage {
            Stage::Front => 0,
            Stage::Segments(next, _) => (u64::from(*next) * 99 / u64::from(segments)) as u8,
            Stage::Volumes => 99,
        };
        let Some(told) = &mut state.chores.scrub else { return };
        let (found, hurts) = (&self.found, &self.hunt.hurts);
        // The lists are long at worst, and seldom change.
        if told.bad.len() != found.bad.len() || told.gaps.len() != found.gaps.len() {
            (self.status.bad, self.status.gaps) = (found.bad.clone(), found.gaps.clone());
        }
        if told.hurt_blocks != hurts.blocks {
            self.status.hurt = hurts.list.clone();
        }
        (self.status.more, self.status.hurt_blocks) = (found.more, hurts.blocks);
        *told = self.status.clone();
    }

    /// The end: all was looked at, or it was stopped.
    pub(crate) fn end(mut self, inner: &Inner, completed: bool) {
        (self.status.bad, self.status.gaps) = (self.found.bad, self.found.gaps);
        self.status.warnings.append(&mut unread(inner));
        self.status.hurt = self.hunt.hurts.list;
        self.status.running = false;
        self.status.completed = completed;
        self.status.percent = if completed { 100 } else { self.status.percent };
        tracing::info!(
            "the scrub {} after {} bytes: {} damaged records, {} lost blocks",
            if completed { "ended" } else { "was stopped" },
            self.status.bytes,
            self.status.bad.len() as u64 + self.status.more,
            self.status.hurt_blocks
        );
        inner.lock().chores.scrub = Some(self.status);
    }
}

/// Remembers a damaged record.
fn tell(inner: &Inner, bad: &BadRecord) {
    tracing::error!("{bad}");
    let (at, what) = ((bad.segment, bad.offset), bad.what.to_string());
    inner.damaged(Damage { block: None, at, what, cause: bad.cause() });
}

/// Looks at superblocks and root as an opening does. Gives what is wrong, in words. No checkpoint is written meanwhile.
pub(crate) async fn front(inner: &Arc<Inner>, port: &Port) -> Vec<String> {
    let _alone = alone(inner, port).await;
    let devices = inner.devices();
    let (mut wrong, mut copies) = (Vec::new(), Vec::new());
    for store in devices.stores() {
        let path = store.path().display();
        match superblocks(port, &inner.page_buffers, store).await {
            Ok(both) => {
                for (name, copy) in ["first", "second"].iter().zip(&both) {
                    if let Err(e) = Superblock::open(&inner.keyring, copy) {
                        wrong.push(format!("{path}: the {name} superblock: {e}"));
                    }
                }
                copies.push(both);
            }
            Err(e) => wrong.push(e.to_string()),
        }
    }
    let reader = Reader { port, buffers: &inner.page_buffers, keyring: &inner.keyring, devices: &devices };
    if let Err(e) = reader.root(&copies).await {
        wrong.push(e.to_string());
    }
    wrong
}

/// What devices failed to read since the pool was opened, as far as it is remembered, in words.
pub(crate) fn unread(inner: &Inner) -> Vec<String> {
    let state = inner.lock();
    let of_devices =
        state.faults.iter().filter(|d| d.block.is_none() && matches!(d.cause, Cause::Device { .. }));
    of_devices.map(|d| format!("segment {}, byte {}: {d}", d.at.0, d.at.1)).collect()
}

/// Segments that a walk would go through.
pub(crate) fn held(inner: &Inner) -> u32 {
    let state = inner.lock();
    let held = |n: &u32| {
        let s = state.tables.segment(*n);
        s.state == SegmentState::Closed && s.live > 0
    };
    (0..state.tables.geometry().segments).filter(held).count() as u32
}
