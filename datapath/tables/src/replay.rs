//! Replay: the changes of the log, made again in the same order from the same checkpoint.
//!
//! What a change takes is judged before it is made, since the log and the checkpoint come from a device. What they do not
//! agree on is [`ApplyError::Corrupt`], and nothing was changed then.

use crate::change::{Change, Run, VolumeChange};
use crate::map::{IDS, MARK, MAX_HEIGHT, Path, get, index, is_id, span};
use crate::tables::Tables;
use crate::types::*;
use crate::volume::VolumeError;
use crate::want::Want;

/// Why a change of the log could not be applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// Pages must be loaded first.
    #[error(transparent)]
    Needs(#[from] Needs),
    /// It does not fit the tables: the log and the checkpoint do not belong together.
    #[error("a change of the log does not fit the tables: {0}")]
    Corrupt(&'static str),
}

use ApplyError::Corrupt;

/// Blocks that one [`Change::Map`] writes at most.
pub(crate) const MAX_MAP: usize = 1 << 16;

impl Tables {
    /// Of a batch being replayed: a new block, before the batch's changes (`moved` and `settle` come after them).
    pub fn apply_new(&mut self, id: BlockId, stored: Stored, place: Place) -> Result<(), ApplyError> {
        let length = usize::from(stored.length);
        let end = u64::from(place.offset) + u64::from(stored.length) + u64::from(TAG);
        if !(1..=PAGE).contains(&length) || stored.codec > MAX_CODEC {
            return Err(Corrupt("a record of impossible length or codec"));
        }
        if place.segment >= self.segments.len() || end > u64::from(self.geometry.segment_size) {
            return Err(Corrupt("a record outside of the pool"));
        }
        self.sure_free(id)?;
        self.create_entry(id, &Entry { place, stored, refs: 0, map: false });
        self.cache.tick();
        Ok(())
    }

    /// Makes sure that an id can be put.
    fn sure_free(&mut self, id: BlockId) -> Result<(), ApplyError> {
        let mut want = Want::default();
        self.need_entry(id, &mut want);
        Result::<(), Needs>::from(want)?;
        if self.live_raw(id.get()).live() { Err(Corrupt("a new id is in use")) } else { Ok(()) }
    }

    /// Of a batch being replayed: one of its changes, in order.
    pub fn apply(&mut self, change: &Change) -> Result<(), ApplyError> {
        match change {
            Change::Volume(change) => return self.apply_volume(change),
            Change::Map { volume, block, runs } => self.apply_map(*volume, *block, runs)?,
            Change::Page { volume, level, block, id } => {
                self.check_page(*volume, *level, *block)?;
                self.sure_free(*id)?;
                self.step(change);
            }
            Change::Grow { volume, id } => {
                let r = self.known(*volume)?;
                if r.root.is_none() || r.height >= MAX_HEIGHT {
                    return Err(Corrupt("a map grows that cannot"));
                }
                self.sure_free(*id)?;
                self.step(change);
            }
            Change::Shadow { volume, level, block, id } => {
                self.check_shadow(*volume, *level, *block)?;
                self.sure_free(*id)?;
                self.step(change);
            }
            Change::Clear { volume, block, count } => {
                let fits = *block % IDS + u64::from(*count) <= IDS;
                let path = self.own_path(*volume, *block, 0)?;
                if !fits || path.height == 0 || path.lowest > 0 {
                    return Err(Corrupt("a leaf is cleared that there is not"));
                }
                let first = index(*block, 0);
                self.sure_children(path.node(0).slot, first..first + *count as usize)?;
                self.step(change);
            }
            Change::Drop { volume, level, block } => {
                self.check_drop(*volume, *level, *block)?;
                self.step(change);
            }
        }
        self.cache.tick();
        Ok(())
    }

    fn known(&self, v: VolumeId) -> Result<&crate::volume::VolumeRecord, ApplyError> {
        self.volumes.get(&v).ok_or(Corrupt("a change of a volume that there is not"))
    }

    /// The way to a block down to a level, all of it in memory.
    fn way(&mut self, v: VolumeId, block: u64, level: u8) -> Result<Path, ApplyError> {
        self.known(v)?;
        let mut want = Want::default();
        match self.path(v, block, level.min(MAX_HEIGHT), &mut want) {
            Some(path) => Ok(path),
            None => Err(ApplyError::Needs(Result::<(), Needs>::from(want).err().unwrap_or_default())),
        }
    }

    /// [`Tables::way`], shared with no other volume.
    fn own_path(&mut self, v: VolumeId, block: u64, level: u8) -> Result<Path, ApplyError> {
        let path = self.way(v, block, level)?;
        if (path.lowest..path.height).any(|l| path.node(l).shared) {
            return Err(Corrupt("a shared map page is changed"));
        }
        Ok(path)
    }

    fn sure_children(&mut self, slot: u32, range: std::ops::Range<usize>) -> Result<(), ApplyError> {
        let mut want = Want::default();
        self.need_children(slot, range, &mut want);
        Ok(Result::<(), Needs>::from(want)?)
    }

    fn check_page(&mut self, v: VolumeId, level: u8, block: u64) -> Result<(), ApplyError> {
        let r = self.known(v)?;
        if r.root.is_none() {
            // The page becomes the root.
            let fits = level < MAX_HEIGHT && block < span(level);
            return if fits { Ok(()) } else { Err(Corrupt("a map page of impossible level")) };
        }
        if level + 1 >= r.height || !self.within(v, block) {
            return Err(Corrupt("a map page outside of its map"));
        }
        let path = self.own_path(v, block, level + 1)?;
        let there = path.lowest == level + 1
            && get(self.cache.page(path.node(level + 1).slot), index(block, level + 1)) & MARK == 0;
        if there { Ok(()) } else { Err(Corrupt("a map page where there is one, or no way to it")) }
    }

    fn check_shadow(&mut self, v: VolumeId, level: u8, block: u64) -> Result<(), ApplyError> {
        if level >= self.known(v)?.height || !self.within(v, block) {
            return Err(Corrupt("a copy of a map page that there is not"));
        }
        let path = self.way(v, block, level)?;
        if path.lowest != level {
            return Err(Corrupt("a copy of a map page that there is not"));
        }
        let above = (level + 1..path.height).any(|l| path.node(l).shared);
        if above || !path.node(level).many {
            return Err(Corrupt("a copy of a map page that is not shared, or below one that is"));
        }
        self.sure_children(path.node(level).slot, 0..IDS as usize)
    }

    fn check_drop(&mut self, v: VolumeId, level: u8, block: u64) -> Result<(), ApplyError> {
        if level >= self.known(v)?.height || !self.within(v, block) {
            return Err(Corrupt("a map page is dropped that there is not"));
        }
        let path = self.way(v, block, level)?;
        if path.lowest != level || (level + 1..path.height).any(|l| path.node(l).shared) {
            return Err(Corrupt("a map page is dropped that there is not, or from a shared one"));
        }
        let node = path.node(level);
        if !node.many && self.has_any(node.slot, 0..IDS as usize) {
            return Err(Corrupt("a map page is dropped with all that only it points at"));
        }
        Ok(())
    }

    fn apply_map(&mut self, v: VolumeId, block: u64, runs: &[Run]) -> Result<(), ApplyError> {
        let mut values = Vec::new();
        for run in runs {
            run.expand(&mut values);
            if values.len() > MAX_MAP {
                return Err(Corrupt("a write of impossible length"));
            }
        }
        let mut want = Want::default();
        for &n in values.iter().filter(|n| is_id(**n)) {
            self.need_chain(0, n / 256, &mut want);
        }
        Result::<(), Needs>::from(want)?;
        let data = |raw: RawEntry| raw.live() && !raw.map();
        if values.iter().any(|&n| is_id(n) && !data(self.live_raw(n))) {
            return Err(Corrupt("a write of a block that there is not"));
        }
        if block.checked_add(values.len() as u64).is_none() {
            return Err(Corrupt("a write beyond all volumes"));
        }
        let mut done = 0;
        while done < values.len() {
            let at = block + done as u64;
            let part = ((IDS - at % IDS) as usize).min(values.len() - done);
            let path = self.own_path(v, at, 0)?;
            if path.height > 0 && path.lowest == 0 {
                let first = index(at, 0);
                self.sure_children(path.node(0).slot, first..first + part)?;
            } else if values[done..done + part].iter().any(|n| *n != 0) {
                return Err(Corrupt("a write where there is no map page"));
            }
            done += part;
        }
        self.map_values(v, block, &values, None);
        Ok(())
    }

    fn apply_volume(&mut self, change: &VolumeChange) -> Result<(), ApplyError> {
        self.make_volume_change(change.clone()).map_err(|e| match e {
            VolumeError::Needs(needs) => ApplyError::Needs(needs),
            _ => Corrupt("a change of a volume that does not fit it"),
        })
    }
}
