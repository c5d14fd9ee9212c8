//! Key epochs and domains while a pool is in use: another epoch, another domain, the end of either.
//!
//! Owns the order of steps. A key counts as stored when the superblocks that hold it are durable, and only then anything is sealed with
//! it; it is erased in the same write of the superblocks as a root that needs it no more. So whatever stops in between, the pool has
//! the old state or the new one. What an ended epoch sealed is sealed anew by [`crate::reseal`].

use crate::checkpoint::{alone, checkpoint_held, close_and};
use crate::domains::{Life, MAX_DOMAIN_NAME, MAX_DOMAINS, Sealed};
use crate::error::ChangeError;
use crate::pool::{Pool, change_failure};
use crate::state::{Inner, State};
use caisson_fingerprint::FingerprintKey;
use caisson_keys::{FIRST_EPOCH, POOL_DOMAIN, Secret};
use caisson_log::{KeySlot, check_slots};
use caisson_tables::Use;
use caisson_tables::planted::{Bug, on};
use caisson_task::Port;
use std::sync::Arc;

/// The keys of a new epoch.
pub struct NewEpoch {
    /// Of which domain.
    pub domain: u32,
    /// Its number: [`Pool::next_epoch`].
    pub epoch: u16,
    /// Its secret, 32 bytes.
    pub secret: Secret,
    /// The domain's fingerprint key, where the domain is new.
    pub prints: Option<FingerprintKey>,
}

/// A domain's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainStatus {
    /// Its number; 0 is the pool's own.
    pub domain: u32,
    /// Its name.
    pub name: String,
    /// The epoch that it seals under; 0 where its keys are destroyed.
    pub epoch: u16,
    /// Earlier epochs that something may still be sealed under.
    pub old: Vec<u16>,
    /// What the present epoch sealed.
    pub sealed: Sealed,
    /// How many volumes it has.
    pub volumes: usize,
}

/// Whether a slot holds what opens one of `epochs` of `domain`. What the first epoch comes from is wrapped as epoch 0.
fn is_of(slot: &KeySlot, domain: u32, epochs: &[u16]) -> bool {
    let epoch = if slot.epoch == 0 { FIRST_EPOCH } else { slot.epoch };
    slot.domain == domain && epochs.contains(&epoch)
}

impl State {
    /// Those of some slots whose epochs the pool has, and those of one that is `new`: what was given may be older than what the
    /// background erased meanwhile.
    ///
    /// # Errors
    /// [`ChangeError::Domain`] where an epoch that has a slot would have none.
    pub(crate) fn held(
        &self,
        mut slots: Vec<KeySlot>,
        new: Option<(u32, u16)>,
    ) -> Result<Vec<KeySlot>, ChangeError> {
        let has = |slot: &KeySlot| {
            let d = self.domains.get(slot.domain).and_then(|d| Some((d.epoch()?, &d.old)));
            d.is_some_and(|(epoch, old)| is_of(slot, slot.domain, &[epoch]) || is_of(slot, slot.domain, old))
        };
        slots.retain(|slot| has(slot) || new.is_some_and(|(domain, epoch)| is_of(slot, domain, &[epoch])));
        let there = |old: &KeySlot| slots.iter().any(|s| (s.domain, s.epoch) == (old.domain, old.epoch));
        if self.checkpoints.superblock.slots.iter().all(there) {
            Ok(slots)
        } else {
            Err(ChangeError::Domain("a key that the pool needs would be lost"))
        }
    }
}

/// Puts slots in the place of those that there are, in one write with a checkpoint. Where that fails, they are as they were.
async fn with_slots(inner: &Arc<Inner>, port: &Port, slots: Vec<KeySlot>) -> Result<(), ChangeError> {
    let old = std::mem::replace(&mut inner.lock().checkpoints.superblock.slots, slots);
    checkpoint_held(inner, port, false).await.map_err(|failure| {
        // Not written, or the pool has failed and writes no more.
        inner.lock().checkpoints.superblock.slots = old;
        change_failure(failure)
    })
}

fn sound(inner: &Inner) -> Result<(), ChangeError> {
    inner.fault().map_or(Ok(()), |fault| Err(ChangeError::Failed(fault.to_owned())))
}

impl Pool {
    /// The number that the next epoch of any domain has.
    ///
    /// # Errors
    /// [`ChangeError::Domain`] when there are no more.
    pub fn next_epoch(&self) -> Result<u16, ChangeError> {
        let next = self.0.lock().domains.next_epoch;
        u16::try_from(next).map_err(|_| ChangeError::Domain("the pool has used up all 65,535 key epochs"))
    }

    /// The number that the next domain has.
    pub fn next_domain(&self) -> u32 {
        self.0.lock().domains.next_domain
    }

    /// The domains, by number; those that were destroyed are among them.
    pub fn domains(&self) -> Vec<DomainStatus> {
        let state = self.0.lock();
        let mut volumes = std::collections::BTreeMap::<u32, usize>::new();
        for v in state.tables.volumes().filter(|v| !v.dying) {
            let settings = crate::settings::Settings::decode(&v.settings);
            *volumes.entry(settings.map_or(0, |s| s.domain)).or_default() += 1;
        }
        let status = |(domain, d): (u32, &crate::domains::Domain)| DomainStatus {
            domain,
            name: d.name.clone(),
            epoch: d.epoch().unwrap_or(0),
            old: d.old.clone(),
            sealed: d.sealed,
            volumes: volumes.get(&domain).copied().unwrap_or(0),
        };
        state.domains.all().filter(|(_, d)| !d.coming).map(status).collect()
    }

    /// A domain that is in use, by its name.
    pub fn domain_named(&self, name: &str) -> Option<u32> {
        self.0.lock().domains.named(name)
    }

    /// Begins another epoch of a domain. When this returns, its keys are durable, and everything that is written is sealed under
    /// it; what earlier epochs sealed is sealed anew in the background. `slots` are all slots of the pool, those of the new epoch
    /// among them.
    ///
    /// # Errors
    /// [`ChangeError::NoDomain`], [`ChangeError::Domain`], [`ChangeError::Slots`], [`ChangeError::Full`], with nothing changed;
    /// [`ChangeError::Failed`].
    pub async fn open_epoch(
        &self,
        port: &Port,
        new: NewEpoch,
        slots: Vec<KeySlot>,
    ) -> Result<(), ChangeError> {
        check_slots(&slots).map_err(ChangeError::Slots)?;
        let NewEpoch { domain, epoch, secret, .. } = new;
        let inner = &self.0;
        let _alone = alone(inner, port).await;
        sound(inner)?;
        {
            let state = inner.lock();
            let known =
                state.domains.get(domain).filter(|d| d.in_use() && !d.tenant.is_gone() || domain == 0);
            known.ok_or_else(|| ChangeError::NoDomain(domain.to_string()))?;
            if u32::from(epoch) < state.domains.next_epoch {
                return Err(ChangeError::Domain("the number of the epoch was used before"));
            }
        }
        let slots = inner.lock().held(slots, Some((domain, epoch)))?;
        let bad = |_| ChangeError::Domain("the epoch's secret is none");
        inner.keyring.add_secret(domain, epoch, secret).map_err(bad)?;
        if let Err(error) = with_slots(inner, port, slots).await {
            inner.keyring.forget_secret(domain, epoch);
            return Err(error);
        }
        switch(inner, port, domain, epoch).await?;
        if on(Bug::EraseToldEarly) {
            let erases = &mut inner.lock().domains.erases;
            erases.end(domain, epoch, &[]);
            erases.ended(true);
        }
        inner.call_steward();
        inner.call_chores();
        Ok(())
    }

    /// Makes a domain, whose volumes share nothing with those of other domains.
    ///
    /// # Errors
    /// As [`Pool::open_epoch`].
    pub async fn create_domain(
        &self,
        port: &Port,
        name: &str,
        new: NewEpoch,
        slots: Vec<KeySlot>,
    ) -> Result<(), ChangeError> {
        check_slots(&slots).map_err(ChangeError::Slots)?;
        let NewEpoch { domain, epoch, secret, prints } = new;
        let prints = prints.ok_or(ChangeError::Domain("a new domain takes a fingerprint key"))?;
        if name.is_empty() || name.len() > MAX_DOMAIN_NAME {
            return Err(ChangeError::Domain("a domain's name has 1 to 64 bytes"));
        }
        let inner = &self.0;
        let _alone = alone(inner, port).await;
        sound(inner)?;
        {
            let state = inner.lock();
            let d = &state.domains;
            if d.all().any(|(_, d)| d.name == name && d.in_use()) {
                return Err(ChangeError::Domain("there is a domain of that name"));
            }
            if domain < d.next_domain || u32::from(epoch) < d.next_epoch {
                return Err(ChangeError::Domain("the number of the domain or of its epoch was used before"));
            }
            if d.all().count() >= MAX_DOMAINS {
                return Err(ChangeError::Domain(
                    "a pool has at most 64 domains, those included that were destroyed",
                ));
            }
        }
        let slots = inner.lock().held(slots, Some((domain, epoch)))?;
        let bad = |_| ChangeError::Domain("the epoch's secret is none");
        inner.keyring.add_secret(domain, epoch, secret).map_err(bad)?;
        {
            let State { domains, log, .. } = &mut *inner.lock();
            domains.add(domain, name, epoch, prints, log.next_segment_sequence);
        }
        if let Err(error) = with_slots(inner, port, slots).await {
            inner.lock().domains.take_back(domain);
            inner.keyring.forget_secret(domain, epoch);
            return Err(error);
        }
        if let Some(d) = inner.lock().domains.get_mut(domain) {
            d.coming = false;
        }
        Ok(())
    }

    /// Destroys the keys of a domain: when this returns, nothing that its volumes, their snapshots and clones hold can be had any
    /// more, by anybody. They are still there, and fail; what they held is given back in the background.
    ///
    /// # Errors
    /// [`ChangeError::NoDomain`], [`ChangeError::Domain`] and [`ChangeError::Full`], with nothing changed; where it is
    /// [`ChangeError::Failed`], the next opening of the pool shows whether it was done.
    pub async fn destroy_domain(&self, port: &Port, domain: u32) -> Result<(), ChangeError> {
        if domain == POOL_DOMAIN {
            return Err(ChangeError::Domain("the pool's own domain is destroyed with the pool"));
        }
        let inner = &self.0;
        let _alone = alone(inner, port).await;
        sound(inner)?;
        let (tenant, slots, epochs) = {
            let mut state = inner.lock();
            let slots = &state.checkpoints.superblock.slots;
            let slots: Vec<KeySlot> = slots.iter().filter(|s| s.domain != domain).cloned().collect();
            let d = state.domains.get_mut(domain).filter(|d| !d.coming);
            let d = d.ok_or_else(|| ChangeError::NoDomain(domain.to_string()))?;
            if !d.in_use() {
                return Ok(());
            }
            // From here on nothing of it is published: the root of this checkpoint covers its last batch.
            d.tenant.set_gone(true);
            let epochs = d.begin_destruction();
            let tenant = Arc::clone(&d.tenant);
            // Whatever was to be erased of it is, in the same write.
            state.domains.erases.end(domain, u16::MAX, &[]);
            (tenant, slots, epochs)
        };
        let done = with_slots(inner, port, slots).await;
        if let Err(error) = done {
            let mut state = inner.lock();
            state.domains.erases.ended(false);
            if let Some(d) = state.domains.get_mut(domain) {
                d.call_off_destruction(epochs);
            }
            drop(state);
            tenant.set_gone(false);
            return Err(error);
        }
        epochs.iter().for_each(|&epoch| inner.keyring.forget_secret(domain, epoch));
        tenant.forget();
        {
            let mut state = inner.lock();
            state.log.erase_spare();
            state.domains.erases.ended(true);
            if let Some(d) = state.domains.get_mut(domain) {
                d.life = Life::Destroyed;
            }
        }
        inner.call_steward();
        Ok(())
    }
}

/// Has a domain seal under an epoch whose keys are durable. No checkpoint is under way, and none can begin.
async fn switch(inner: &Arc<Inner>, port: &Port, domain: u32, epoch: u16) -> Result<(), ChangeError> {
    let switched = close_and(inner, port, |state| {
        let State { domains, log, checkpoints, tables, .. } = state;
        domains.switch(domain, epoch, log.next_segment_sequence);
        if domain != POOL_DOMAIN {
            return;
        }
        log.epoch = epoch;
        checkpoints.superblock.epoch = epoch;
        // The next root stands in a segment whose headers are all of this epoch.
        if let Some(tail) = checkpoints.tail.take() {
            tables.close_segment(tail.segment, Use::Checkpoint);
        }
    });
    switched.await.map_err(change_failure)
}

/// Erases the keys of earlier epochs of a domain. The caller has seen that nothing live is sealed under them; the root that this
/// writes is the first that may say so.
pub(crate) async fn retire(
    inner: &Arc<Inner>,
    port: &Port,
    domain: u32,
    epochs: &[u16],
) -> Result<(), ChangeError> {
    let _alone = alone(inner, port).await;
    sound(inner)?;
    let (old, slots) = {
        let mut state = inner.lock();
        let Some(d) = state.domains.get(domain) else { return Ok(()) };
        let mut old = d.old.clone();
        old.retain(|epoch| epochs.contains(epoch));
        let epoch = d.epoch();
        let (gone, mut kept): (Vec<KeySlot>, Vec<KeySlot>) =
            state.checkpoints.superblock.slots.iter().cloned().partition(|s| is_of(s, domain, &old));
        if !gone.is_empty() && !kept.iter().any(|s| is_of(s, domain, epoch.as_slice())) {
            // Never the last: without one the domain would be destroyed.
            kept.extend(gone);
        }
        let left: Vec<u16> = d.old.iter().copied().filter(|e| !old.contains(e)).collect();
        if let Some(epoch) = epoch
            && !old.is_empty()
            && !kept.iter().any(|s| is_of(s, domain, &old))
        {
            // What was to be erased of single volumes is, in the same write.
            state.domains.erases.end(domain, epoch, &left);
        }
        (old, kept)
    };
    if old.is_empty() {
        return Ok(());
    }
    if let Err(error) = with_slots(inner, port, slots).await {
        inner.lock().domains.erases.ended(false);
        return Err(error);
    }
    old.iter().for_each(|&epoch| inner.keyring.forget_secret(domain, epoch));
    let mut state = inner.lock();
    if let Some(d) = state.domains.get_mut(domain) {
        d.old.retain(|epoch| !old.contains(epoch));
    }
    // Told last: whoever hears of it finds the keys gone from here, too.
    state.domains.erases.ended(true);
    Ok(())
}
