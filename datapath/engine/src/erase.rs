//! Erasing for good what only one volume holds.
//!
//! Owns the order of steps. That a volume is to be erased is made durable first (a record in the root's list of domains), and from
//! then on it is done whatever stops in between: nothing is taken for the volume until all of it is unmapped, by the reaper that also
//! unmaps what is deleted; then its domain has to begin another key epoch, which whoever holds the key provider does
//! ([`Pool::erases_due`]); and when what the domain still holds is sealed anew, the record goes in the same write of the superblocks as
//! the keys of the epochs before it ([`crate::epochs`]). What other volumes hold too, snapshots and clones among them, stays theirs.

use crate::checkpoint::{alone, checkpoint_held};
use crate::error::ChangeError;
use crate::pool::{Pool, change_failure};
use crate::settings::Settings;
use crate::state::{Inner, State};
use crate::volume::Shared;
use caisson_block::{BlockError, EraseBy, Erasure};
use caisson_tables::VolumeId;
use caisson_tables::planted::{Bug, on};
use caisson_task::{Port, Task};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Erases of a pool that may be under way at once.
const MOST: usize = 256;

/// Bytes of one in the list of domains.
const EACH: usize = 16;

/// Erases that are remembered when they are done.
const KEPT: usize = 64;

/// What of the progress is unmapping, in 65,536ths; the rest is sealing anew what stays.
const EMPTYING: u64 = 4096;

/// Where an erase stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EraseStage {
    /// What the volume holds is being unmapped.
    Emptying,
    /// The domain has to begin another epoch.
    NeedsEpoch,
    /// What the domain still holds is being sealed anew; then the keys are erased.
    Sealing,
}

/// How an erase stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EraseStatus {
    /// Its number: a pool gives each once while it is open, and goes on behind those that are under way.
    pub number: u32,
    /// The volume's number.
    pub volume: VolumeId,
    /// Its name, where it is not deleted.
    pub name: Option<String>,
    /// Its domain.
    pub domain: u32,
    /// Who asked for it.
    pub by: EraseBy,
    /// What is being done.
    pub stage: EraseStage,
    /// How far it is, in 65,536ths.
    pub progress: u16,
    /// What it waits for that does not come by itself, in words.
    pub waits: Option<String>,
}

/// An erase that is done since the pool was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// Its number.
    pub number: u32,
    /// The domain.
    pub domain: u32,
    /// There is no key of this epoch of the domain any more, nor of an earlier one.
    pub epoch: u16,
}

/// An erase that is not done.
#[derive(Clone)]
struct Erase {
    number: u32,
    volume: VolumeId,
    domain: u32,
    by: EraseBy,
    /// The epoch that sealed when nothing of the volume was mapped any more; 0 until then. It goes, and those before it.
    under: u16,
    /// It is not durable yet.
    coming: bool,
    /// It is not durable yet that all is unmapped: until then nothing new may be mapped, which the next opening would unmap.
    held: bool,
    /// Blocks that are unmapped, and how many there are.
    at: (u64, u64),
    waits: Option<String>,
}

/// All that are not done.
#[derive(Clone, Default)]
pub(crate) struct Erases {
    list: Vec<Erase>,
    /// What the write of the superblocks under way ends: told as if it were in the list, and stored no more.
    ending: Vec<Erase>,
    last: u32,
    done: VecDeque<Erased>,
    /// Why a domain's next epoch does not begin.
    refused: BTreeMap<u32, String>,
}

impl Erases {
    pub(crate) fn count(&self) -> u32 {
        self.list.len() as u32
    }

    /// Appends the stored form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for e in &self.list {
            out.extend_from_slice(&e.number.to_le_bytes());
            out.extend_from_slice(&e.volume.0.to_le_bytes());
            out.extend_from_slice(&e.domain.to_le_bytes());
            out.extend_from_slice(&e.under.to_le_bytes());
            out.extend_from_slice(&[e.by as u8, 0]);
        }
    }

    /// `None` for bytes that are not so many of them.
    pub(crate) fn decode(count: u32, bytes: &[u8]) -> Option<Erases> {
        let mut erases = Erases::default();
        let (each, rest) = bytes.as_chunks::<EACH>();
        if !rest.is_empty() || each.len() != count as usize || each.len() > MOST {
            return None;
        }
        for e in each {
            let word = |at: usize| Some(u32::from_le_bytes(*e.get(at..)?.first_chunk()?));
            let by = match e[14..] {
                [0, 0] => EraseBy::Operator,
                [1, 0] => EraseBy::Format,
                [2, 0] => EraseBy::Sanitize,
                _ => return None,
            };
            let (number, under) = (word(0)?, u16::from_le_bytes([e[12], e[13]]));
            if number <= erases.last {
                return None;
            }
            erases.last = number;
            let volume = VolumeId(word(4)?);
            let (domain, at) = (word(8)?, (0, 0));
            let (coming, held, waits) = (false, false, None);
            erases.list.push(Erase { number, volume, domain, by, under, coming, held, at, waits });
        }
        Some(erases)
    }

    /// Whether a volume is being unmapped, or about to be.
    pub(crate) fn empties(&self, volume: VolumeId) -> bool {
        self.list.iter().any(|e| e.volume == volume && (e.under == 0 || e.held))
    }

    /// A volume that is to be unmapped.
    pub(crate) fn to_empty(&self) -> Option<VolumeId> {
        let due = |e: &&Erase| e.under == 0 && !e.coming && e.waits.is_none();
        self.list.iter().find(due).map(|e| e.volume)
    }

    /// A volume is unmapped up to a block of so many, or cannot be for now.
    pub(crate) fn emptied_to(&mut self, volume: VolumeId, at: (u64, u64), error: Option<BlockError>) {
        for e in self.list.iter_mut().filter(|e| e.volume == volume && e.under == 0) {
            e.at = at;
            e.waits = match error {
                Some(error @ BlockError::Unreadable { .. }) => Some(format!("a page of its map: {error}")),
                _ => None,
            };
        }
    }

    fn add(&mut self, volume: VolumeId, domain: u32, by: EraseBy) -> Result<u32, ChangeError> {
        if self.list.len() >= MOST {
            return Err(ChangeError::Domain("the pool has as many erases under way as there can be: 256"));
        }
        let number = self.last.checked_add(1).ok_or(ChangeError::Domain("too many erases"))?;
        self.last = number;
        let (coming, held, at, waits) = (true, false, (0, 0), None);
        self.list.push(Erase { number, volume, domain, by, under: 0, coming, held, at, waits });
        Ok(number)
    }

    /// A domain seals under `epoch` and the keys of all epochs before it but `left` are about to be erased: what that ends is stored
    /// no more, until [`Erases::ended`] says what came of it.
    pub(crate) fn end(&mut self, domain: u32, epoch: u16, left: &[u16]) {
        let over = |e: &mut Erase| {
            e.domain == domain
                && (epoch == u16::MAX || e.under != 0 && e.under < epoch && left.iter().all(|l| *l > e.under))
        };
        self.ending.extend(self.list.extract_if(.., over));
    }

    /// The superblocks are written, or not: what that was to end is done, or is as it was.
    pub(crate) fn ended(&mut self, written: bool) {
        let ending = std::mem::take(&mut self.ending);
        if written {
            let done = |e: &Erase| Erased { number: e.number, domain: e.domain, epoch: e.under };
            self.done.extend(ending.iter().map(done));
            while self.done.len() > KEPT {
                self.done.pop_front();
            }
        } else {
            self.list.extend(ending);
            self.list.sort_by_key(|e| e.number);
        }
    }
}

impl State {
    /// Volumes that are not there any more hold nothing.
    pub(crate) fn erase_deleted(&mut self) {
        let State { domains, tables, .. } = self;
        let gone: Vec<(u32, u32)> = {
            let erases = domains.erases.list.iter().filter(|e| e.under == 0 && !e.coming);
            erases.filter(|e| tables.volume(e.volume).is_none()).map(|e| (e.number, e.domain)).collect()
        };
        for (number, domain) in gone {
            let epoch = domains.epoch(domain).unwrap_or(0);
            if let Some(e) = domains.erases.list.iter_mut().find(|e| e.number == number) {
                e.under = epoch;
            }
        }
    }

    /// How each erase stands.
    pub(crate) fn erase_status(&self) -> Vec<EraseStatus> {
        let erases = &self.domains.erases;
        let list = erases.list.iter().chain(&erases.ending).filter(|e| !e.coming);
        let mut list: Vec<EraseStatus> = list.map(|e| self.erase_of(e)).collect();
        list.sort_by_key(|e| e.number);
        list
    }

    fn erase_of(&self, e: &Erase) -> EraseStatus {
        let epoch = self.domains.epoch(e.domain).unwrap_or(0);
        let resealed = self.chores.resealed.as_ref();
        let (stage, done) = match e.under {
            0 => (EraseStage::Emptying, EMPTYING * e.at.0 / e.at.1.max(1)),
            under if under >= epoch => (EraseStage::NeedsEpoch, EMPTYING),
            _ => {
                let (at, all) = resealed.map_or((0, 1), |r| r.segments);
                let rest = (u64::from(u16::MAX) - EMPTYING) * u64::from(at) / u64::from(all.max(1));
                (EraseStage::Sealing, EMPTYING + rest)
            }
        };
        let stuck = || resealed.filter(|r| r.left.is_some_and(|left| left > 0)).and_then(|r| r.waits.clone());
        let waits = match stage {
            EraseStage::Emptying => e.waits.clone(),
            EraseStage::NeedsEpoch => self.domains.erases.refused.get(&e.domain).cloned().or_else(stuck),
            EraseStage::Sealing => stuck(),
        };
        EraseStatus {
            number: e.number,
            volume: e.volume,
            name: self.tables.volume(e.volume).filter(|v| !v.dying).map(|v| v.name.clone()),
            domain: e.domain,
            by: e.by,
            stage,
            progress: done.min(u64::from(u16::MAX) - 1) as u16,
            waits,
        }
    }
}

/// A volume holds nothing any more; whether that was to erase it. It takes requests again when that is durable.
///
/// # Errors
/// [`ChangeError::Full`], [`ChangeError::Failed`]: it is still to be done.
pub(crate) async fn emptied(inner: &Arc<Inner>, port: &Port, id: VolumeId) -> Result<bool, ChangeError> {
    let _alone = alone(inner, port).await;
    let own = |e: &&mut Erase| e.volume == id && e.under == 0 && !e.coming;
    let numbers = {
        let State { domains, tables, .. } = &mut *inner.lock();
        let epochs: BTreeMap<u32, u16> =
            domains.all().filter_map(|(domain, d)| Some((domain, d.epoch()?))).collect();
        let mut numbers = Vec::new();
        for e in domains.erases.list.iter_mut().filter(own) {
            (e.under, e.held) = (epochs.get(&e.domain).copied().unwrap_or(0), true);
            numbers.push(e.number);
        }
        if !numbers.is_empty() {
            // The key that its pages were under goes with this checkpoint, where no copy of the volume has it, too.
            tables.renew_family(id);
        }
        numbers
    };
    if numbers.is_empty() {
        return Ok(false);
    }
    let durable = checkpoint_held(inner, port, false).await;
    let volumes = inner.volumes();
    let mut state = inner.lock();
    for e in state.domains.erases.list.iter_mut().filter(|e| numbers.contains(&e.number)) {
        e.held = false;
        if durable.is_err() {
            e.under = 0;
        }
    }
    if let Some(open) = volumes.get(&id).and_then(Weak::upgrade) {
        open.erasing.store(state.domains.erases.empties(id), Ordering::Release);
    }
    durable.map(|()| true).map_err(change_failure)
}

/// A host wants a volume erased.
pub(crate) struct Order {
    volume: Weak<Shared>,
    id: VolumeId,
    by: EraseBy,
    begun: bool,
}

/// Takes it up: the background does it.
pub(crate) fn order(volume: &Arc<Shared>, by: EraseBy) -> Result<(), BlockError> {
    if volume.read_only {
        return Err(BlockError::Unsupported);
    }
    if let Some(error) = volume.refuses().filter(|e| *e != BlockError::Erasing) {
        return Err(error);
    }
    volume.erase_failed.store(false, Ordering::Release);
    volume.begins.fetch_add(1, Ordering::AcqRel);
    let waiter = {
        let mut state = volume.pool.lock();
        let (id, volume) = (volume.id, Arc::downgrade(volume));
        state.chores.erase.push(Order { volume, id, by, begun: false });
        state.chores.call()
    };
    if let Some(waiter) = waiter {
        waiter.wake();
    }
    Ok(())
}

/// Begins what hosts have asked for, each in a task of its own: it waits for requests that are under way.
pub(crate) async fn orders(inner: &Arc<Inner>, port: &Port) {
    let orders: Vec<(Arc<Shared>, EraseBy)> = {
        let mut state = inner.lock();
        state.chores.erase.retain(|o| o.volume.strong_count() > 0);
        let new = state.chores.erase.iter_mut().filter(|o| !o.begun);
        new.filter_map(|o| {
            o.begun = true;
            Some((o.volume.upgrade()?, o.by))
        })
        .collect()
    };
    for (volume, by) in orders {
        let inner = Arc::clone(inner);
        let begin = move |port: Port| async move {
            let begun = begin(&inner, &port, &volume, by).await;
            volume.erase_failed.store(begun.is_err(), Ordering::Release);
            inner.lock().chores.erase.retain(|o| o.id != volume.id);
            volume.begins.fetch_sub(1, Ordering::AcqRel);
            match begun {
                Ok(_) => inner.call_steward(),
                Err(error) => tracing::error!("volume {} cannot be erased: {error}", volume.id.0),
            }
        };
        port.run(|cx| Task::spawn(cx, begin)).await;
    }
}

/// How far the erasing of a volume is.
pub(crate) fn erasure(volume: &Shared) -> Erasure {
    let state = volume.pool.lock();
    if let Some(order) = state.chores.erase.iter().find(|o| o.id == volume.id) {
        return Erasure::Running { by: order.by, recorded: false, progress: 0, stalled: false };
    }
    let erases = &state.domains.erases;
    match erases.list.iter().chain(&erases.ending).rfind(|e| e.volume == volume.id && !e.coming) {
        Some(e) => {
            let status = state.erase_of(e);
            let (progress, stalled) = (status.progress, status.waits.is_some());
            Erasure::Running { by: e.by, recorded: true, progress, stalled }
        }
        None if volume.erase_failed.load(Ordering::Acquire) => Erasure::Failed,
        None => Erasure::None,
    }
}

/// Makes it durable that a volume is to be erased, when nothing is under way on it. Gives the erase's number.
async fn begin(inner: &Arc<Inner>, port: &Port, volume: &Shared, by: EraseBy) -> Result<u32, ChangeError> {
    volume.begins.fetch_add(1, Ordering::AcqRel);
    while volume.in_flight() > 0 {
        port.pause().await;
    }
    let recorded = record(inner, port, volume.id, by).await;
    let state = inner.lock();
    // Under the lock, as it is taken back: not where it is emptied already.
    if state.domains.erases.empties(volume.id) {
        volume.erasing.store(true, Ordering::Release);
    }
    volume.begins.fetch_sub(1, Ordering::AcqRel);
    recorded
}

async fn record(inner: &Arc<Inner>, port: &Port, id: VolumeId, by: EraseBy) -> Result<u32, ChangeError> {
    let _alone = alone(inner, port).await;
    if let Some(fault) = inner.fault() {
        return Err(ChangeError::Failed(fault.to_owned()));
    }
    if inner.closing.load(Ordering::Acquire) {
        return Err(ChangeError::Failed("it is being closed".into()));
    }
    let number = {
        let State { domains, tables, .. } = &mut *inner.lock();
        if let Some(e) = domains.erases.list.iter_mut().find(|e| e.volume == id && e.under == 0) {
            e.by = by;
            return Ok(e.number);
        }
        let record = tables.volume(id).ok_or_else(|| ChangeError::NoVolume(id.0.to_string()))?;
        let settings = Settings::decode(&record.settings)
            .ok_or(ChangeError::Settings("the volume has settings that this version does not know"))?;
        if !domains.in_use(settings.domain) {
            return Err(ChangeError::Domain("the keys of the volume's domain are destroyed already"));
        }
        domains.erases.add(id, settings.domain, by)?
    };
    let durable = match on(Bug::EraseUnrecorded) {
        true => Ok(()),
        false => checkpoint_held(inner, port, false).await,
    };
    let mut state = inner.lock();
    let erases = &mut state.domains.erases;
    match durable {
        Ok(()) => {
            let new = erases.list.iter_mut().find(|e| e.number == number);
            new.into_iter().for_each(|e| e.coming = false);
            Ok(number)
        }
        Err(failure) => {
            erases.list.retain(|e| e.number != number);
            Err(change_failure(failure))
        }
    }
}

impl Pool {
    /// Erases for good what only this volume holds. The volume stays, and takes requests again when it is empty; `last` says that the
    /// caller deletes it then, or at once: only so a snapshot may be erased, which never changes. When this returns, it is durable that
    /// this is to be done; it is done when the erase of this number is not among [`Pool::erases`] any more.
    ///
    /// # Errors
    /// [`ChangeError::NoVolume`]; [`ChangeError::Domain`] for a snapshot, and where the keys are gone already; [`ChangeError::Full`];
    /// [`ChangeError::Failed`].
    pub async fn erase_volume(
        &self,
        port: &Port,
        name: &str,
        by: EraseBy,
        last: bool,
    ) -> Result<u32, ChangeError> {
        let volume = self.volume(name)?;
        if volume.0.read_only && !last {
            return Err(ChangeError::Domain("a snapshot's content never changes: delete it and erase that"));
        }
        let number = begin(&self.0, port, &volume.0, by).await?;
        self.0.call_steward();
        Ok(number)
    }

    /// What is being erased of single volumes, in the order in which it was asked for.
    pub fn erases(&self) -> Vec<EraseStatus> {
        self.0.lock().erase_status()
    }

    /// The last erases that are done since the pool was opened.
    pub fn erased(&self) -> Vec<Erased> {
        self.0.lock().domains.erases.done.iter().copied().collect()
    }

    /// Domains that have to begin another epoch for what is being erased: once for all that is unmapped, so not while more of it is about
    /// to be, nor while an earlier epoch is still being ended.
    pub fn erases_due(&self) -> Vec<u32> {
        let state = self.0.lock();
        let erases = &state.domains.erases.list;
        let due = |domain: u32, epoch: u16| {
            let mut own = erases.iter().filter(|e| e.domain == domain);
            let coming = own.clone().any(|e| e.under == 0 && e.waits.is_none());
            !coming && own.any(|e| e.under == epoch)
        };
        let domains = state.domains.all().filter(|(_, d)| d.old.is_empty());
        domains
            .filter(|(domain, d)| d.epoch().is_some_and(|epoch| due(*domain, epoch)))
            .map(|(domain, _)| domain)
            .collect()
    }

    /// Why the next epoch of a domain, which erases wait for, does not begin; nothing when it did.
    pub fn erase_refused(&self, domain: u32, why: Option<String>) {
        let refused = &mut self.0.lock().domains.erases.refused;
        match why {
            Some(why) => drop(refused.insert(domain, why)),
            None => drop(refused.remove(&domain)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes written down once: what pools hold.
    #[test]
    fn the_stored_form_is_what_it_was() {
        let mut erases = Erases::default();
        assert_eq!(erases.add(VolumeId(7), 1, EraseBy::Operator).unwrap(), 1);
        assert_eq!(erases.add(VolumeId(0x0102), 5, EraseBy::Sanitize).unwrap(), 2);
        erases.list[1].under = 0x0304;
        let mut bytes = Vec::new();
        erases.encode(&mut bytes);
        assert_eq!(
            bytes,
            b"\x01\0\0\0\x07\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x02\x01\0\0\x05\0\0\0\x04\x03\x02\0"
        );
        let again = Erases::decode(2, &bytes).unwrap();
        assert!(again.empties(VolumeId(7)) && !again.empties(VolumeId(0x0102)));
        assert_eq!((again.count(), again.last, again.to_empty()), (2, 2, Some(VolumeId(7))));
        let mut out = Vec::new();
        again.encode(&mut out);
        assert_eq!(out, bytes);
        for (count, len) in [(1, 32), (2, 31), (3, 32), (2, 16), (0, 16)] {
            assert!(Erases::decode(count, &bytes[..len]).is_none(), "{count} {len}");
        }
        for (at, byte) in [(14, 3), (15, 1), (16, 1)] {
            let mut bad = bytes.clone();
            bad[at] = byte;
            assert!(Erases::decode(2, &bad).is_none(), "{at}");
        }
        assert_eq!(Erases::decode(0, &[]).map(|e| e.count()), Some(0));
    }

    #[test]
    fn an_erase_ends_with_all_epochs_up_to_its_own() {
        let mut erases = Erases::default();
        for (volume, domain) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            erases.add(VolumeId(volume), domain, EraseBy::Operator).unwrap();
        }
        for (at, under) in [(0, 5), (1, 6), (2, 5)] {
            erases.list[at].under = under;
        }
        let ends = |left: &[u16], epoch| {
            let mut e = erases.clone();
            e.end(1, epoch, left);
            assert!(e.done.is_empty(), "not before it is durable");
            let mut back = e.clone();
            back.ended(false);
            assert!(back.list.iter().map(|e| e.number).eq(1..5) && back.done.is_empty());
            e.ended(true);
            e.done.iter().map(|d| d.number).collect::<Vec<_>>()
        };
        assert_eq!(ends(&[], 6), [1]);
        assert_eq!(ends(&[], 7), [1, 2]);
        assert_eq!(ends(&[4], 7), [], "an earlier epoch is left, which may have sealed what is to go");
        assert_eq!(ends(&[6], 7), [1]);
        assert_eq!(ends(&[], 5), []);
        assert_eq!(ends(&[], u16::MAX), [1, 2, 4], "with the domain everything goes");
    }
}
