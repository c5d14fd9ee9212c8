//! What a crash may leave.
//!
//! Of each block, some write since its last durable one, whole. Where the subject is ordered, more: if anything of an
//! operation is there, so is everything that was over before that operation began, on all volumes.

use super::block::{Block, Value};
use super::{Model, Verdict};
use crate::content::UNREADABLE;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// How the subject was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It was closed in the orderly way: everything that was completed is there.
    Closed,
    /// The process was killed, or the power failed.
    Crashed,
}

/// A volume as it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Size in blocks.
    pub size: u64,
    /// The content of each block; `None` for what is no content of this place at all.
    pub blocks: Vec<Option<u64>>,
}

impl Model {
    /// Judges which volumes are there after reopening, before their blocks are read: those that must be, and no others.
    ///
    /// # Errors
    /// What is missing, or should not be there.
    pub fn judge_names(&mut self, found: &BTreeMap<u32, (u32, u64)>) -> Verdict {
        let former = std::mem::take(&mut self.former);
        if self.lenient {
            // What a device forgot was deleted.
            self.volumes.extend(former.into_iter().filter(|(name, _)| found.contains_key(name)));
        }
        if let Some(name) = found.keys().find(|n| !self.volumes.contains_key(n)) {
            return Err(format!("volume {name} was deleted or never made, and is there"));
        }
        for (name, v) in &self.volumes {
            match found.get(name) {
                None if self.lenient || v.deleting.is_some() || v.made.1.is_none() => {}
                None => return Err(format!("volume {name} is lost")),
                Some((block_size, size)) => {
                    if *block_size != v.block_size || !(self.lenient || v.sizes.contains(size)) {
                        return Err(format!(
                            "volume {name} has {size} blocks of {block_size}, not one of {:?} of {}",
                            v.sizes, v.block_size
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Judges what was found after reopening, and begins anew from it.
    ///
    /// # Errors
    /// The block that is wrong, and why.
    pub fn reopened(&mut self, found: &BTreeMap<u32, Found>, left: Leave) -> Verdict {
        if left == Leave::Closed {
            self.all_flushed(u64::MAX);
        }
        let names: Vec<u32> = self.volumes.keys().copied().collect();
        // What was being made and is there: its contents are its source's of then.
        let mut kept = 0;
        let mut cause = String::new();
        for (&name, volume) in found {
            for (lba, value) in volume.blocks.iter().enumerate() {
                let began = self.judge_block(name, lba as u64, *value, 0)?;
                if began > kept {
                    kept = began;
                    cause = format!("block {lba} of volume {name}");
                }
            }
            if self.volumes[&name].made.0 > kept {
                kept = self.volumes[&name].made.0;
                cause = format!("volume {name}");
            }
        }
        if self.ordered && left == Leave::Crashed {
            for (&name, volume) in found {
                for (lba, value) in volume.blocks.iter().enumerate() {
                    self.judge_block(name, lba as u64, *value, kept).map_err(|e| {
                        format!("{e}; yet {cause} is newer, and what came before it is there")
                    })?;
                }
            }
        }
        self.begin_anew(&names, found);
        Ok(())
    }

    /// Judges one block, when everything that ended before `kept` must be there. Gives the earliest beginning of a write
    /// that explains it.
    fn judge_block(&self, name: u32, lba: u64, value: Option<u64>, kept: u64) -> Result<u64, String> {
        let Some(value) = value else {
            return Err(format!("block {lba} of volume {name} is torn or not its own after reopening"));
        };
        let v = self.volumes.get(&name).ok_or_else(|| format!("volume {name} is unknown"))?;
        let Some(block) = v.blocks.get(lba as usize) else {
            // What a resize under way added.
            return if value == 0 { Ok(0) } else { Err(format!("new block {lba} of {name} is not zero")) };
        };
        if value == UNREADABLE && self.lenient {
            return Ok(0);
        }
        // A device that lied may have lost what was durable, but not the order in which things were done.
        let lost = if self.lenient { block.replaced_before(kept) } else { block.lost_before(kept) };
        let mut first = None;
        let mut others = Vec::new();
        for w in &block.writes {
            if w.end.is_some_and(|end| end < lost) {
                continue;
            }
            let values = self.values(w, name, lba, 0, &mut HashSet::new());
            if values.contains(&value) {
                first = Some(first.unwrap_or(u64::MAX).min(w.start));
            }
            others.extend(values);
        }
        first.ok_or_else(|| {
            others.sort_unstable();
            others.dedup();
            let what = if value == UNREADABLE { "unreadable".to_owned() } else { format!("{value:x}") };
            format!("block {lba} of volume {name} is {what} after reopening, and not one of {others:x?}")
        })
    }

    /// What was found is where everything begins.
    fn begin_anew(&mut self, names: &[u32], found: &BTreeMap<u32, Found>) {
        self.time += 1;
        let now = self.time;
        // Unreadable blocks of a lying device may be readable later, with what they had.
        let mut may: BTreeMap<(u32, u64), BTreeSet<u64>> = BTreeMap::new();
        if self.lenient {
            for (&name, volume) in found {
                for (lba, _) in volume.blocks.iter().enumerate().filter(|(_, v)| **v == Some(UNREADABLE)) {
                    let mut values = BTreeSet::from([UNREADABLE]);
                    if let Some(b) = self.block(name, lba as u64) {
                        for w in &b.writes {
                            values.extend(self.values(w, name, lba as u64, 0, &mut HashSet::new()));
                        }
                    }
                    may.insert((name, lba as u64), values);
                }
            }
        }
        for name in names {
            let Some(volume) = found.get(name) else {
                self.volumes.remove(name);
                continue;
            };
            let Some(v) = self.volumes.get_mut(name) else { continue };
            v.sizes = vec![volume.size];
            v.deleting = None;
            v.made.1 = Some(v.made.1.unwrap_or(now));
            v.blocks = (0..)
                .zip(&volume.blocks)
                .map(|(lba, value)| match may.remove(&(*name, lba)) {
                    Some(values) => Block::new(Value::Among(values), now),
                    None => Block::new(Value::Of(value.unwrap_or(0)), now),
                })
                .collect();
        }
        self.time += 1;
    }
}
