//! Management in a world: which is asked for, when it begins, and what its end means to the model.

use super::{Running, World};
use crate::plan::{VolumePlan, Weather};
use crate::subject::{Action, Reply, Settings, Slot, Subject};

/// Most volumes at a time.
const VOLUMES: usize = 8;

/// The volume on which nothing else may be under way.
pub(super) fn alone_on(action: &Action) -> Option<u32> {
    match *action {
        Action::Delete { name }
        | Action::Resize { name, .. }
        | Action::Set { name, .. }
        | Action::Erase { name } => Some(name),
        _ => None,
    }
}

impl<S: Subject> World<S> {
    /// Some management.
    pub(crate) fn some_action(&mut self) -> Option<Action> {
        let open = self.open_volumes();
        let name = *open.get(self.rng.below(open.len() as u64) as usize)?;
        let full = self.model.volumes().len() >= VOLUMES;
        let new = self.next_name;
        let size = self.model.volume(name)?.size();
        let read_only = self.model.volume(name)?.read_only;
        if self.nature.keys && self.rng.below(4) == 0 {
            return match self.rng.below(4) {
                0 if !read_only && !self.model.snapshots_under_way(name) => Some(Action::Erase { name }),
                1 => Some(Action::Serve),
                _ => self.some_key_action(),
            };
        }
        let action = match self.rng.below(100) {
            0..12 if !full => {
                let mut v = VolumePlan::some(&mut self.rng);
                let domains = self.usable_domains();
                v.settings.domain = *domains.get(self.rng.below(domains.len() as u64) as usize)?;
                Action::Make {
                    name: new,
                    block_size: v.block_size,
                    size: v.size,
                    settings: self.plan.settings(v.settings),
                }
            }
            12..40 if !full => Action::Snapshot { of: name, name: new, read_only: self.rng.below(2) == 0 },
            40..55 if open.len() > 1 && !self.model.snapshots_under_way(name) => Action::Delete { name },
            55..62 if !read_only && !self.model.snapshots_under_way(name) => {
                // A whole number of 4 KiB.
                let per = 4096 / u64::from(self.model.volume(name)?.block_size);
                let size = (1 + self.rng.below(size * 2)).next_multiple_of(per);
                Action::Resize { name, size: size.min(2048) }
            }
            // One that failed on a broken device stays under way, and who has to be alone would wait for it for ever.
            62..68 if !read_only && !self.model.snapshots_under_way(name) => {
                let chosen = Settings::some(&mut self.rng);
                Action::Set { name, settings: self.plan.settings(chosen) }
            }
            68..80 => Action::Checkpoint,
            80..92 => Action::Clean,
            92..96 => Action::Scrub,
            96..98 => Action::DropIndex,
            _ => Action::Grow,
        };
        if matches!(action, Action::Make { .. } | Action::Snapshot { .. }) {
            self.next_name += 1;
        }
        Some(action)
    }

    /// Something with keys. One domain at least is left, so that something can be done.
    fn some_key_action(&mut self) -> Option<Action> {
        let domains = self.usable_domains();
        let some = *domains.get(self.rng.below(domains.len() as u64) as usize)?;
        // Not too many: a superblock has room for so many keys.
        let few = domains.len() < 6 && self.next_name < 200;
        Some(match self.rng.below(8) {
            0..3 => Action::Rotate { domain: some },
            3 => Action::Rotate { domain: 0 },
            4..7 if few => Action::Domain,
            _ if domains.len() > 1 => Action::Destroy { domain: some },
            _ => Action::Rotate { domain: some },
        })
    }

    /// Domains that nobody is about to destroy.
    fn usable_domains(&self) -> Vec<u32> {
        let mut domains = self.subject.domains();
        let going = |d: &u32| {
            self.running.iter().any(|r| matches!(r.action, Action::Destroy { domain } if domain == *d))
        };
        domains.retain(|d| !going(d));
        domains
    }

    /// The volumes of a domain that the model knows.
    pub(crate) fn volumes_in(&self, domain: u32) -> Vec<u32> {
        let of = |name: &u32| self.domains.get(name).copied().unwrap_or(1) == domain;
        self.model.volumes().keys().copied().filter(of).collect()
    }

    /// Whether another action has to end first: one with keys while there is another, and the end of a domain while something is made
    /// or changed in it.
    fn waits_for_others(&self, at: usize) -> bool {
        let key = |a: &Action| {
            matches!(a, Action::Rotate { .. } | Action::Serve | Action::Domain | Action::Destroy { .. })
        };
        let action = &self.running[at].action;
        if !key(action) {
            return false;
        }
        if self.running.iter().any(|r| r.begun.is_some() && key(&r.action)) {
            return true;
        }
        let Action::Destroy { domain } = *action else { return false };
        let own = self.volumes_in(domain);
        self.running.iter().enumerate().any(|(i, r)| {
            i != at
                && match r.action {
                    Action::Make { settings, .. } => settings.domain == domain,
                    Action::Snapshot { of, name, .. } => own.contains(&of) || own.contains(&name),
                    Action::Delete { name }
                    | Action::Resize { name, .. }
                    | Action::Set { name, .. }
                    | Action::Erase { name } => own.contains(&name),
                    _ => false,
                }
        })
    }

    /// Asks for an action, which begins as soon as it can.
    pub(crate) fn ask(&mut self, action: Action) -> Result<(), String> {
        self.counts.actions += 1;
        self.running.push(Running { action, begun: None });
        self.begin_actions()
    }

    /// Begins what has waited for others to end.
    fn begin_actions(&mut self) -> Result<(), String> {
        for at in 0..self.running.len() {
            if self.running[at].begun.is_some() {
                continue;
            }
            let action = self.running[at].action.clone();
            let on = alone_on(&action);
            let waits = on.is_some_and(|n| {
                self.pending.values().any(|p| p.volume == n) || self.model.snapshots_under_way(n)
            });
            if waits || self.waits_for_others(at) {
                continue;
            }
            self.note(|| format!("begin {action:?}"));
            self.action_begins(&action);
            let slot = Slot::default();
            self.running[at].begun = Some((self.model.tick(), slot.clone()));
            let thread = self.rng.below(self.threads.len() as u64) as usize;
            let World { threads, subject, .. } = self;
            threads[thread].run(|cx| subject.act(cx, action, slot));
            self.collect(thread)?;
        }
        Ok(())
    }

    fn action_begins(&mut self, action: &Action) {
        match *action {
            Action::Make { name, block_size, size, settings } => {
                self.domains.insert(name, settings.domain);
                self.model.make(name, block_size, size, !settings.write_cache);
            }
            Action::Snapshot { of, name, read_only } => {
                self.domains.insert(name, self.domains.get(&of).copied().unwrap_or(1));
                self.model.copy(of, name, read_only);
            }
            Action::Destroy { domain } => {
                self.volumes_in(domain).into_iter().for_each(|name| self.model.deleting(name));
            }
            Action::Delete { name } => self.model.deleting(name),
            Action::Erase { name } => self.model.erasing(name),
            Action::Resize { name, size } => self.model.resizing(name, size),
            // Off means something only once it is done; on, at once.
            Action::Set { name, settings } if settings.write_cache => self.model.write_through(name, false),
            Action::Grow => {
                let disks = self.subject.disks();
                let at = self.rng.below(disks.len() as u64) as usize;
                let size = disks[at].size();
                if size < self.plan.disk_size * 2 {
                    disks[at].grow(size + (1 << 20));
                }
            }
            _ => {}
        }
    }

    /// Takes the replies that are there.
    pub(super) fn replies(&mut self) -> Result<(), String> {
        let mut at = 0;
        while at < self.running.len() {
            let Some((start, reply)) =
                self.running[at].begun.as_ref().and_then(|(start, slot)| Some((*start, slot.take()?)))
            else {
                at += 1;
                continue;
            };
            let action = self.running.remove(at).action;
            self.waited = 0;
            self.note(|| format!("  over {action:?}: {reply:?}"));
            self.action_ends(&action, start, reply)?;
        }
        self.begin_actions()
    }

    fn action_ends(&mut self, action: &Action, start: u64, reply: Reply) -> Result<(), String> {
        let broken = self.model.lenient || self.plan.weather == Weather::Dying;
        let done = match &reply {
            Reply::Done => true,
            Reply::Full | Reply::Unsupported => false,
            Reply::Failed(_) if broken => {
                self.dead |= self.subject.fault().is_some() || self.died();
                return self.action_failed(action);
            }
            Reply::Failed(why) => return Err(format!("{action:?} failed: {why}")),
        };
        match *action {
            Action::Make { name, .. } | Action::Snapshot { name, .. } if done => self.model.made(name),
            Action::Make { name, .. } | Action::Snapshot { name, .. } => self.model.gone(name),
            Action::Destroy { domain } => {
                for name in self.volumes_in(domain) {
                    if done { self.model.gone(name) } else { self.model.undelete(name) }
                }
            }
            Action::Delete { name } if done => self.model.gone(name),
            Action::Delete { name } => self.model.undelete(name),
            Action::Erase { name } => self.model.erased(name, start, done),
            Action::Resize { name, .. } => self.model.resized(name, start, done),
            Action::Set { name, settings } if done => {
                self.model.write_through(name, !settings.write_cache);
            }
            _ => {}
        }
        // Not an erase: one that joins another of the same volume writes nothing.
        let durable = matches!(
            action,
            Action::Make { .. }
                | Action::Snapshot { .. }
                | Action::Delete { .. }
                | Action::Resize { .. }
                | Action::Checkpoint
                | Action::Rotate { .. }
                | Action::Domain
                | Action::Destroy { .. }
                | Action::Close
        );
        if done && durable && self.nature.ordered {
            self.model.all_flushed(start);
        }
        Ok(())
    }

    /// What failed on a broken device may be done or not. Until it is opened again, nobody asks.
    fn action_failed(&mut self, action: &Action) -> Result<(), String> {
        if let Action::Resize { name, .. } = *action {
            // Both sizes stay possible until it is looked at.
            self.note(|| format!("the size of volume {name} is unknown"));
        }
        Ok(())
    }
}
