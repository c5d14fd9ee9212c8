//! A subject on simulated threads, what is under way on it, and the judging of each answer.
//!
//! Owns the order of things: which thread has its turn, when something is submitted, when it crashes. What is submitted is
//! made in [`crate::workload`]; how lives begin and end stands in [`life`].

mod life;
mod manage;

use crate::content::{self, Chooser, UNREADABLE};
use crate::linear::Act;
use crate::model::Model;
use crate::plan::{Plan, Weather};
use crate::subject::{Action, Nature, Slot, Subject};
use crate::trace::Trace;
use caisson_block::{BlockError, BufList, Extent, Op, Outcome, Request, Tag};
use caisson_device::sim::{Clock, Rng, SimThread};
use std::collections::{BTreeMap, BTreeSet};

/// Turns without an answer after which a run counts as stuck.
const PATIENCE: u64 = 400_000;

/// What a request was, as far as it is judged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// See [`Op`], as for all.
    Read,
    /// Writes and copies.
    Write,
    /// Promises nothing of what it does where the volume does not deallocate.
    Deallocate,
    /// Makes durable.
    Flush,
    /// Looks.
    Compare,
    /// Looks and writes.
    Swap,
    /// Reads without data.
    Verify,
    /// Write Uncorrectable.
    Mark,
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The model's number of it.
    pub id: u64,
    /// What it was.
    pub kind: Kind,
    /// Of which volume.
    pub volume: u32,
    /// What it compares with, block by block from the first of `at` on.
    pub expect: Vec<u64>,
    /// What it puts there, likewise.
    pub values: Vec<u64>,
    /// What it reads or compares.
    pub at: Extent,
    /// What it writes.
    pub writes: Vec<Extent>,
    /// When it was submitted.
    pub start: u64,
    /// Durable when it completes.
    pub fua: bool,
    /// The volume had a fault when it was submitted.
    pub after_fault: bool,
}

/// Management that is asked for or under way.
struct Running {
    action: Action,
    /// None while it waits for requests on its volume to end.
    begun: Option<(u64, Slot)>,
}

/// The bytes of a reply in one piece.
fn flat(data: &BufList) -> Vec<u8> {
    let mut bytes = vec![0; data.len()];
    data.copy_out(0, &mut bytes);
    bytes
}

/// What happened in a run, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests submitted.
    pub requests: u64,
    /// Management begun.
    pub actions: u64,
    /// Crashes, deaths and orderly closes.
    pub crashes: u64,
    /// Answers that were errors.
    pub errors: u64,
    /// Lies that the devices told, and damage done.
    pub lies: u64,
    /// Operations that the checker of linearisability judged.
    pub judged: u64,
    /// Histories of a block that were too tangled for it.
    pub tangled: u64,
    /// Stands for everything that happened, in its order.
    pub digest: u64,
}

/// A subject on simulated threads.
pub struct World<S: Subject> {
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) nature: Nature,
    pub(crate) subject: S,
    pub(crate) model: Model,
    pub(crate) chooser: Chooser,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    threads: Vec<SimThread>,
    clock: Clock,
    pending: BTreeMap<(u32, u32), Pending>,
    running: Vec<Running>,
    next_slot: u32,
    next_name: u32,
    /// The domains that volumes were made in, those that are gone included.
    domains: BTreeMap<u32, u32>,
    /// Replies that a slow host has not taken yet: they hold buffers.
    held: Vec<BufList>,
    /// Turns since the last answer.
    waited: u64,
    dead: bool,
    saved: Option<life::Saved>,
    /// The end of a log at rest has rotted.
    rotten: bool,
}

impl<S: Subject> World<S> {
    /// A world in which nothing has happened.
    pub fn new(plan: Plan, subject: S, aloud: bool) -> World<S> {
        let mut rng = Rng::new(plan.seed);
        let nature = subject.nature();
        let next_name = plan.volumes.keys().max().map_or(1, |n| n + 1);
        World {
            chooser: Chooser::new(&mut rng),
            rng,
            nature,
            model: Model::new(nature.ordered, plan.weather == Weather::Lying),
            trace: Trace::new(aloud),
            counts: Counts::default(),
            threads: Vec::new(),
            clock: Clock::default(),
            pending: BTreeMap::new(),
            running: Vec::new(),
            next_slot: 0,
            next_name,
            domains: BTreeMap::new(),
            held: Vec::new(),
            waited: 0,
            dead: false,
            saved: None,
            rotten: false,
            plan,
            subject,
        }
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.model.tick();
        self.trace.note(now, what);
    }

    /// Volumes that may be submitted to: there, and waiting for nothing.
    fn open_volumes(&self) -> Vec<u32> {
        let mut wanted: BTreeSet<u32> =
            self.running.iter().filter_map(|r| manage::alone_on(&r.action)).collect();
        for r in &self.running {
            if let Action::Destroy { domain } = r.action {
                wanted.extend(self.volumes_in(domain));
            }
        }
        let ready = |name: &u32| {
            let v = self.model.volume(*name);
            v.is_some_and(|v| v.made.1.is_some() && v.deleting.is_none() && v.sizes.len() == 1)
        };
        self.model.volumes().keys().copied().filter(|n| ready(n) && !wanted.contains(n)).collect()
    }

    /// When the oldest of what is under way began.
    fn oldest(&self) -> u64 {
        let requests = self.pending.values().map(|p| p.start);
        let actions = self.running.iter().filter_map(|r| r.begun.as_ref().map(|b| b.0));
        requests.chain(actions).min().unwrap_or(u64::MAX)
    }

    /// Submits something to some volume, on some thread.
    pub(crate) fn submit_some(&mut self) -> Result<(), String> {
        let volumes = self.open_volumes();
        let Some(&name) = volumes.get(self.rng.below(volumes.len() as u64) as usize) else { return Ok(()) };
        let Some(target) = self.subject.volume(name) else {
            return Err(format!("volume {name} cannot be reached"));
        };
        let Some((op, mut pending)) = self.some_request(name) else { return Ok(()) };
        pending.after_fault = target.fault().is_some();
        let thread = self.rng.below(self.threads.len() as u64) as u32;
        let tag = Tag { queue: thread, slot: self.next_slot };
        self.next_slot += 1;
        self.counts.requests += 1;
        self.pending.insert((thread, tag.slot), pending);
        self.threads[thread as usize].run(|cx| target.submit(cx, Request { tag, op }));
        self.collect(thread as usize)
    }

    /// Whether a device of the plan has died.
    fn died(&self) -> bool {
        let dies = self.plan.faults.dies_at.filter(|_| self.plan.weather == Weather::Dying);
        dies.is_some_and(|n| self.subject.disks().iter().any(|d| d.operations() >= n))
    }

    fn collect(&mut self, thread: usize) -> Result<(), String> {
        let done: Vec<(Tag, Outcome)> = self.threads[thread].completions().collect();
        for (tag, outcome) in done {
            if tag.queue as usize != thread {
                return Err(format!("{tag:?} was completed on thread {thread}"));
            }
            let pending = self.pending.remove(&(tag.queue, tag.slot));
            let pending = pending.ok_or_else(|| format!("{tag:?} was completed twice"))?;
            self.waited = 0;
            if self.model.volume(pending.volume).is_none() && self.nature.keys {
                // Its domain was destroyed while it was under way.
                continue;
            }
            self.judge(&pending, outcome).map_err(|e| format!("{e} ({pending:x?})"))?;
            let oldest = self.oldest();
            self.model.prune(pending.volume, &pending.writes, oldest);
        }
        Ok(())
    }

    fn judge(&mut self, p: &Pending, outcome: Outcome) -> Result<(), String> {
        let end = self.model.tick();
        let (volume, at) = (p.volume, p.at);
        self.trace.note(end, || match &outcome {
            Ok(_) => format!("  done {} {:?} v{volume} {}+{}", p.id, p.kind, at.lba, at.blocks),
            Err(e) => format!("  fail {} {:?} v{volume} {}+{}: {e}", p.id, p.kind, at.lba, at.blocks),
        });
        match outcome {
            Ok(data) => self.judge_success(p, data, end),
            Err(error) => self.judge_error(p, error, end),
        }
    }

    fn judge_error(&mut self, p: &Pending, error: BlockError, end: u64) -> Result<(), String> {
        self.counts.errors += 1;
        let lenient = self.model.lenient;
        let dying = self.plan.weather == Weather::Dying;
        let unsure = |w: &mut Self| w.model.end(p.volume, &p.writes, p.id, p.start, false, false);
        match error {
            BlockError::Failed | BlockError::WriteFault { .. } | BlockError::Unreadable { .. }
                if dying || lenient =>
            {
                unsure(self);
                self.dead |= self.subject.fault().is_some() || self.died();
            }
            BlockError::Unreadable { lba } => {
                let allowed = self.model.allowed(p.volume, lba, p.start, end, p.id);
                if !allowed.contains(&UNREADABLE) {
                    return Err(format!("block {lba} was never made unreadable"));
                }
                unsure(self);
            }
            BlockError::CapacityExceeded if self.plan.faults.no_space > 0 || self.nature.manages => {
                unsure(self);
            }
            BlockError::Interrupted if self.nature.manages => unsure(self),
            // Nothing is done of what comes before it is empty.
            BlockError::Erasing if self.nature.keys => self.model.never(p.volume, &p.writes, p.id),
            // Its domain is being destroyed.
            BlockError::KeyDestroyed if self.model.volume(p.volume).is_some_and(|v| v.deleting.is_some()) => {
                unsure(self);
            }
            BlockError::Miscompare { lba } => self.judge_miscompare(p, lba, end)?,
            e => return Err(format!("an error that cannot be: {e}")),
        }
        Ok(())
    }

    fn judge_miscompare(&mut self, p: &Pending, lba: u64, end: u64) -> Result<(), String> {
        self.model.never(p.volume, &p.writes, p.id);
        let index = lba.checked_sub(p.at.lba).filter(|i| *i < p.expect.len() as u64);
        let index = index.ok_or_else(|| format!("block {lba} differs, which was not compared"))? as usize;
        for (i, &expect) in p.expect[..=index].iter().enumerate() {
            let block = p.at.lba + i as u64;
            let allowed = self.model.allowed(p.volume, block, p.start, end, p.id);
            if i < index && !allowed.contains(&expect) {
                return Err(format!("block {block} differs too, before {lba}"));
            }
            if i == index && allowed.iter().all(|v| *v == expect) {
                return Err(format!("block {lba} does not differ: it is {expect:x}"));
            }
            let act = if i < index { Act::Read(expect) } else { Act::Differs(expect) };
            self.model.saw(p.volume, block, p.start, act);
        }
        Ok(())
    }

    fn judge_success(&mut self, p: &Pending, data: BufList, end: u64) -> Result<(), String> {
        if p.after_fault && !matches!(p.kind, Kind::Read | Kind::Verify | Kind::Compare) {
            return Err("succeeded after a fault had latched".into());
        }
        match p.kind {
            Kind::Read => {
                self.judge_data(p, &data, end)?;
                if self.rng.below(2) == 0 {
                    self.held.push(data);
                }
            }
            Kind::Compare => {
                for (lba, &expect) in (p.at.lba..).zip(&p.expect) {
                    self.judge_value(p, lba, expect, end)?;
                }
            }
            Kind::Swap => {
                for (lba, &expect) in (p.at.lba..).zip(&p.expect) {
                    let allowed = self.model.allowed(p.volume, lba, p.start, end, p.id);
                    if !allowed.contains(&expect) {
                        return Err(format!("block {lba} cannot have been {expect:x}: {allowed:x?}"));
                    }
                }
            }
            Kind::Flush => self.model.flushed(p.volume, p.start),
            Kind::Verify => {
                for lba in p.at.lba..p.at.lba + p.at.blocks {
                    let allowed = self.model.allowed(p.volume, lba, p.start, end, 0);
                    if allowed.iter().all(|v| *v == UNREADABLE) {
                        return Err(format!("block {lba} is unreadable and was verified"));
                    }
                }
            }
            Kind::Write | Kind::Deallocate | Kind::Mark => {}
        }
        let fua = p.fua && p.kind != Kind::Deallocate || p.kind == Kind::Mark;
        self.model.end(p.volume, &p.writes, p.id, p.start, true, fua);
        if p.kind == Kind::Swap {
            for ((lba, &expect), &new) in (p.at.lba..).zip(&p.expect).zip(&p.values) {
                self.model.swapped(p.volume, lba, expect, new);
            }
        }
        Ok(())
    }

    fn judge_data(&mut self, p: &Pending, data: &BufList, end: u64) -> Result<(), String> {
        let Some(v) = self.model.volume(p.volume) else { return Err("its volume is gone".into()) };
        let size = v.block_size as usize;
        if data.len() as u64 != p.at.blocks * size as u64 {
            return Err(format!("{} bytes came", data.len()));
        }
        let slots = 4096 / size as u64;
        for (lba, bytes) in (p.at.lba..).zip(flat(data).chunks(size)) {
            let value = content::recognise(bytes, lba % slots)
                .ok_or_else(|| format!("block {lba} is torn, or not its own: {:x?}", &bytes[..16]))?;
            self.judge_value(p, lba, value, end)?;
        }
        Ok(())
    }

    /// The block was seen to be `value`.
    fn judge_value(&mut self, p: &Pending, lba: u64, value: u64, end: u64) -> Result<(), String> {
        let allowed = self.model.allowed(p.volume, lba, p.start, end, p.id);
        if !allowed.contains(&value) {
            return Err(format!("block {lba} is {value:x}, not one of {allowed:x?}"));
        }
        self.model.saw(p.volume, lba, p.start, Act::Read(value));
        Ok(())
    }

    /// One turn of one thread; a slow host takes a reply now and then. False when there is nothing to do.
    pub(crate) fn turn(&mut self) -> Result<bool, String> {
        self.waited += 1;
        if self.waited > PATIENCE {
            return Err(format!("no progress in {PATIENCE} turns: {}", self.under_way()));
        }
        self.clock.advance(self.rng.below(20_000));
        self.subject.tick(self.clock.now());
        if self.rng.below(300) == 0 && !self.held.is_empty() {
            let at = self.rng.below(self.held.len() as u64) as usize;
            self.held.swap_remove(at);
        }
        let first = self.rng.below(self.threads.len() as u64) as usize;
        for i in 0..self.threads.len() {
            let thread = (first + i) % self.threads.len();
            if self.threads[thread].turn(&mut self.rng) {
                self.collect(thread)?;
                self.replies()?;
                return Ok(true);
            }
        }
        self.replies()?;
        // Whoever waits for buffers goes on when the slow hosts have taken theirs.
        let stuck = !self.pending.is_empty() && !self.held.is_empty();
        self.held.clear();
        Ok(stuck)
    }

    fn under_way(&self) -> String {
        let actions: Vec<_> = self.running.iter().map(|r| &r.action).collect();
        format!("{:?} and {actions:?} are under way", self.pending.values().take(4).collect::<Vec<_>>())
    }

    /// Lets everything that is under way end.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        while !self.pending.is_empty() || !self.running.is_empty() {
            if !self.turn()? && (!self.pending.is_empty() || !self.running.is_empty()) {
                // An action may have waited for what has just ended.
                if !self.turn()? && (!self.pending.is_empty() || !self.running.is_empty()) {
                    return Err(format!("nothing goes on: {}", self.under_way()));
                }
            }
        }
        Ok(())
    }

    /// Runs one request to its end, beside whatever else is under way. It is not judged.
    pub(crate) fn alone(&mut self, name: u32, op: Op) -> Result<Outcome, String> {
        let Some(target) = self.subject.volume(name) else {
            return Err(format!("volume {name} cannot be reached"));
        };
        let tag = Tag { queue: 0, slot: u32::MAX };
        self.threads[0].run(|cx| target.submit(cx, Request { tag, op }));
        let mut turns = 0;
        loop {
            let mut found = None;
            for (t, outcome) in self.threads[0].completions() {
                if t != tag {
                    return Err(format!("{t:?} was completed and is not under way"));
                }
                found = Some(outcome);
            }
            if let Some(outcome) = found {
                self.waited = 0;
                return Ok(outcome);
            }
            turns += 1;
            let mut moved = false;
            for thread in &mut self.threads {
                moved |= thread.turn(&mut self.rng);
            }
            if !moved && !self.held.is_empty() {
                self.held.clear();
            } else if !moved || turns > PATIENCE {
                return Err(format!("a request on volume {name} does not end"));
            }
        }
    }
}
