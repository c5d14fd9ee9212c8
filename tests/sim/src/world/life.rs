//! The lives of a subject: made, opened, used, ended in one way or another, and judged when it is opened again.

use super::{PATIENCE, World};
use crate::content::{self, UNREADABLE};
use crate::model::{Found, Leave, Model};
use crate::plan::Weather;
use crate::subject::{Action, Reply, Slot, Subject};
use caisson_block::{BlockError, Extent, Op};
use caisson_device::sim::{Image, Lies, SimThread};
use std::collections::BTreeMap;

/// Nanoseconds for which nobody wants anything, when there is to be a rest.
const RESTS: u64 = 400_000_000;

/// Bytes of a read when everything is read.
const SWEEP: u64 = 128 << 10;

/// All disks as they were at the end of a life, and what was true then.
pub(super) struct Saved {
    images: Vec<Image>,
    model: Model,
    left: Leave,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The power fails, whatever is under way.
    Power,
    /// The process is killed, whatever is under way.
    Kill,
    /// The power fails when nothing is under way.
    QuietPower,
    /// It is closed.
    Close,
}

impl<S: Subject> World<S> {
    /// All lives.
    ///
    /// # Errors
    /// What the subject did wrong.
    pub fn run(&mut self) -> Result<(), String> {
        self.lives()?;
        self.end()
    }

    /// Lets go of everything.
    ///
    /// # Errors
    /// What the subject still holds.
    pub fn end(&mut self) -> Result<(), String> {
        self.pending.clear();
        self.running.clear();
        self.threads.clear();
        self.held.clear();
        self.subject.kill()
    }

    fn lives(&mut self) -> Result<(), String> {
        if !self.create()? {
            return Ok(());
        }
        for life in 0..self.plan.lives {
            self.live()?;
            let left = self.end_life()?;
            if !self.reopen(left)? {
                return Ok(());
            }
            if life + 1 == self.plan.lives {
                self.model.linearise()?;
                self.look_within()?;
            }
        }
        Ok(())
    }

    fn new_threads(&mut self) {
        let disks = self.subject.disks();
        self.threads = (0..self.plan.threads).map(|_| SimThread::over(&disks, &self.clock)).collect();
    }

    /// Runs an action to its end while nothing else is under way. Not noted in the model.
    fn act_alone(&mut self, action: Action) -> Result<Reply, String> {
        self.note(|| format!("{action:?}"));
        let slot = Slot::default();
        let World { threads, subject, .. } = self;
        threads[0].run(|cx| subject.act(cx, action.clone(), slot.clone()));
        loop {
            if let Some(reply) = slot.take() {
                self.waited = 0;
                self.note(|| format!("  {reply:?}"));
                return Ok(reply);
            }
            if !self.turn()? && !self.turn()? {
                return match slot.take() {
                    Some(reply) => Ok(reply),
                    None => Err(format!("{action:?} does not end")),
                };
            }
        }
    }

    /// Makes the subject and its first volumes. False where the device died over it.
    fn create(&mut self) -> Result<bool, String> {
        self.new_threads();
        match self.act_alone(Action::Create)? {
            Reply::Done => {}
            _ if self.plan.weather == Weather::Dying => return Ok(false),
            other => return Err(format!("it cannot be made: {other:?}")),
        }
        for (name, v) in self.plan.volumes.clone() {
            self.ask(Action::Make {
                name,
                block_size: v.block_size,
                size: v.size,
                settings: self.plan.settings(v.settings),
            })?;
        }
        self.settle()?;
        for disk in self.subject.disks() {
            if self.plan.weather == Weather::Lying {
                disk.remember(256);
            }
        }
        Ok(true)
    }

    /// Submits and lets go on until enough was done.
    fn live(&mut self) -> Result<(), String> {
        let lying = self.plan.lies != Lies::default() && self.rng.below(2) == 0;
        if lying {
            self.model.lenient = true;
            let lies = self.plan.lies;
            self.subject.disks().iter().for_each(|d| d.set_lies(lies));
        }
        let mut left = self.plan.steps;
        while left > 0 && !self.dead {
            let room = self.pending.len() < self.plan.depth;
            if room && self.rng.below(5) == 0 {
                left -= 1;
                if self.rng.per_mille(self.plan.manage) {
                    if let Some(action) = self.some_action() {
                        self.ask(action)?;
                    }
                } else {
                    self.submit_some()?;
                }
            } else if !self.turn()? && !room {
                return Err(format!("nothing goes on: {}", self.under_way()));
            }
        }
        if lying {
            for d in self.subject.disks() {
                self.counts.lies += d.lied();
                d.set_lies(Lies::default());
            }
        }
        Ok(())
    }

    /// Ends the life, and leaves nothing of it but the disks.
    fn end_life(&mut self) -> Result<Leave, String> {
        self.dead |= self.died();
        let ending = match self.rng.below(8) {
            0..3 => Ending::Power,
            3 => Ending::Kill,
            4 => Ending::QuietPower,
            _ if !self.nature.manages => Ending::QuietPower,
            _ => Ending::Close,
        };
        let quiet = matches!(ending, Ending::QuietPower | Ending::Close) && !self.dead;
        let mut left = Leave::Crashed;
        if quiet {
            self.settle()?;
            if !self.dead {
                self.sweep()?;
                self.model.linearise()?;
                self.look_within()?;
            }
        }
        self.dead |= self.died();
        if ending == Ending::Close && !self.dead {
            match self.act_alone(Action::Close)? {
                Reply::Done => left = Leave::Closed,
                _ if self.model.lenient || self.plan.weather == Weather::Dying => {}
                other => return Err(format!("it cannot be closed: {other:?}")),
            }
        }
        let rests = ending == Ending::QuietPower && !self.dead && self.plan.rot && self.rest()?;
        self.dead |= self.died();
        self.fall(ending)?;
        if self.dead {
            // A new device with the contents of the old.
            self.dead = false;
            self.plan.faults.dies_at = None;
            self.plan.weather = Weather::Honest;
            self.subject.disks().iter().for_each(|d| d.set_faults(self.plan.faults));
        }
        self.damage();
        if self.plan.copies
            && self.rng.below(3) == 0
            && let Some(what) = self.subject.lose_copy(&mut self.rng)
        {
            self.note(|| what);
        }
        if rests
            && !self.dead
            && let Some(what) = self.subject.rot_end(&mut self.rng)
        {
            self.note(|| what);
            self.counts.lies += 1;
            self.rotten = true;
            return Ok(left);
        }
        Ok(self.roll_back(left))
    }

    /// Lets so much time pass while nothing is under way that whatever waits for a rest is done. False where that means nothing,
    /// since the device lies or dies.
    fn rest(&mut self) -> Result<bool, String> {
        if self.plan.weather != Weather::Honest || self.model.lenient {
            return Ok(false);
        }
        for _ in 0..20 {
            self.clock.advance(RESTS / 20);
            while self.turn()? {}
        }
        Ok(true)
    }

    /// What can only be seen from within. Nothing is under way.
    fn look_within(&mut self) -> Result<(), String> {
        self.subject.inspect().map_err(|e| format!("seen from within: {e}"))?;
        // The background may have something to do yet, which a check would take for what is wrong.
        for _ in 0..PATIENCE {
            if !self.turn()? {
                break;
            }
        }
        match self.act_alone(Action::Check)? {
            Reply::Done | Reply::Unsupported => Ok(()),
            _ if self.model.lenient || self.plan.weather == Weather::Dying => Ok(()),
            Reply::Failed(why) => Err(format!("the check finds: {why}")),
            Reply::Full => Err("the check has no space".into()),
        }
    }

    /// Threads end, then the subject, then what was not durable.
    fn fall(&mut self, ending: Ending) -> Result<(), String> {
        self.note(|| format!("the end: {ending:?}"));
        self.counts.crashes += 1;
        self.pending.clear();
        self.running.clear();
        self.held.clear();
        self.threads.clear();
        self.subject.kill()?;
        let kill = ending == Ending::Kill || self.dead && self.rng.below(2) == 0;
        for disk in self.subject.disks() {
            if kill { disk.kill() } else { disk.crash() }
        }
        Ok(())
    }

    /// Keeps a copy of all disks, or puts one back, with what was true when it was made.
    fn roll_back(&mut self, left: Leave) -> Leave {
        if !self.plan.rollback || self.plan.weather != Weather::Honest || self.rng.below(2) == 0 {
            return left;
        }
        let disks = self.subject.disks();
        match self.saved.take() {
            None => {
                let images = disks.iter().map(|d| d.image()).collect();
                self.saved = Some(Saved { images, model: self.model.clone(), left });
                left
            }
            Some(saved) => {
                self.note(|| "all disks are as they were at an earlier end".to_owned());
                disks.iter().zip(&saved.images).for_each(|(d, image)| d.restore(image));
                self.model.back_to(saved.model);
                saved.left
            }
        }
    }

    /// Changes what is at rest, where the plan has a lying device.
    fn damage(&mut self) {
        if self.plan.weather != Weather::Lying || !self.nature.detects || self.rng.below(2) == 0 {
            return;
        }
        let disks = self.subject.disks();
        for _ in 0..1 + self.rng.below(4) {
            let disk = &disks[self.rng.below(disks.len() as u64) as usize];
            if let Some(damage) = disk.some_damage(&mut self.rng) {
                self.note(|| format!("damage: {damage:?}"));
                self.model.lenient = true;
                self.counts.lies += 1;
                disk.damage(damage);
            }
        }
    }

    /// Opens it again, perhaps after it crashed while it was opened, and judges everything. False where it refuses, or
    /// dies, as it may.
    fn reopen(&mut self, left: Leave) -> Result<bool, String> {
        while self.rng.below(4) == 0 {
            self.new_threads();
            self.note(|| "opening, to crash".to_owned());
            let slot = Slot::default();
            let World { threads, subject, .. } = self;
            threads[0].run(|cx| subject.act(cx, Action::Open, slot.clone()));
            for _ in 0..self.rng.below(300) {
                self.turn()?;
            }
            let ending = if self.rng.below(3) == 0 { Ending::Kill } else { Ending::Power };
            self.fall(ending)?;
        }
        self.new_threads();
        match self.act_alone(Action::Open)? {
            Reply::Done => {}
            _ if self.model.lenient || self.plan.weather == Weather::Dying => return Ok(false),
            // That is what it is to say, and to write nothing.
            Reply::Failed(why) if self.rotten && why.contains("of the log is damaged or missing") => {
                return Ok(false);
            }
            other => return Err(format!("it cannot be opened: {other:?}")),
        }
        let names = self.subject.volumes();
        self.model.judge_names(&names)?;
        let mut found = BTreeMap::new();
        for (&name, &(block_size, size)) in &names {
            match self.read_all(name, block_size, size)? {
                Some(blocks) => drop(found.insert(name, Found { size, blocks })),
                None => return Ok(false),
            }
        }
        if !self.nature.ordered {
            // What a killed process left in the device's cache was seen, and is to stay.
            for &name in names.keys() {
                if self.alone(name, Op::Flush)?.is_err() {
                    return if self.plan.weather == Weather::Dying {
                        Ok(false)
                    } else {
                        Err("no flush".into())
                    };
                }
            }
        }
        self.model.reopened(&found, left)?;
        self.note(|| "opened and judged".to_owned());
        // What rotted is found again by whoever looks at the log: one fault is enough.
        Ok(!self.rotten)
    }

    /// The content of every block. None where the device died.
    fn read_all(
        &mut self,
        name: u32,
        block_size: u32,
        size: u64,
    ) -> Result<Option<Vec<Option<u64>>>, String> {
        let slots = 4096 / u64::from(block_size);
        let mut all = Vec::with_capacity(size as usize);
        let mut most = SWEEP / u64::from(block_size);
        let (mut again_at, mut erasing) = (0, 0);
        while (all.len() as u64) < size {
            let lba = all.len() as u64;
            if lba >= again_at {
                most = SWEEP / u64::from(block_size);
            }
            let blocks = most.min(size - lba);
            match self.alone(name, Op::Read { at: Extent { lba, blocks } })? {
                Ok(data) => {
                    let bytes = super::flat(&data);
                    let contents = bytes.chunks(block_size as usize).zip(lba..);
                    all.extend(contents.map(|(b, lba)| content::recognise(b, lba % slots)));
                }
                // It is being erased, and empty soon.
                Err(BlockError::Erasing) if erasing < PATIENCE => {
                    erasing += 1;
                    if !self.turn()? {
                        erasing += 100;
                    }
                }
                Err(BlockError::Erasing) if self.plan.weather == Weather::Dying || self.model.lenient => {
                    return Ok(None);
                }
                Err(BlockError::Unreadable { .. }) if self.died() => return Ok(None),
                Err(BlockError::Unreadable { .. }) if blocks == 1 => all.push(Some(UNREADABLE)),
                Err(BlockError::Unreadable { .. }) => {
                    most = 1;
                    again_at = lba + blocks;
                }
                Err(BlockError::Failed) if self.plan.weather == Weather::Dying || self.model.lenient => {
                    return Ok(None);
                }
                Err(e) => return Err(format!("reading block {lba} of volume {name} after reopening: {e}")),
            }
        }
        Ok(Some(all))
    }

    /// Reads everything that can be read, as requests that are judged. Nothing else is under way.
    fn sweep(&mut self) -> Result<(), String> {
        for name in self.open_volumes() {
            let Some(v) = self.model.volume(name) else { continue };
            let (size, block_size) = (v.size(), v.block_size);
            let start = self.model.tick();
            let Some(blocks) = self.read_all(name, block_size, size)? else { continue };
            let end = self.model.tick();
            for (lba, value) in (0..).zip(blocks) {
                let value = value.ok_or_else(|| format!("block {lba} of volume {name} is torn"))?;
                let allowed = self.model.allowed(name, lba, start, end, 0);
                let lost = value == UNREADABLE && self.model.lenient;
                if !(allowed.contains(&value) || lost) {
                    return Err(format!(
                        "block {lba} of volume {name} is {value:x}, not one of {allowed:x?}"
                    ));
                }
                if value != UNREADABLE {
                    self.model.saw(name, lba, start, crate::linear::Act::Read(value));
                }
            }
        }
        Ok(())
    }
}
