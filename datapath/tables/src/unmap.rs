//! Unmapping, a bounded piece at a time: one leaf, one shared subtree dropped whole, or a hole passed by.

use crate::change::Change;
use crate::map::{IDS, MARK, get, index, span};
use crate::tables::Tables;
use crate::types::*;
use crate::want::Want;

/// A piece of unmapping.
enum Piece {
    /// Nothing is there, for so many blocks.
    Hole(u64),
    /// The page at a level goes as a whole.
    Drop(u8),
    /// So many blocks of one leaf.
    Clear(u32),
}

impl Tables {
    /// Unmaps blocks from `block` on: a bounded piece of them, at least one (0 only if `count` is 0). How many were handled;
    /// never more than `count`. Panics if there is no such volume.
    pub fn unmap(
        &mut self,
        v: VolumeId,
        block: u64,
        count: u64,
        journal: &mut Vec<Change>,
    ) -> Result<u64, Needs> {
        let mut want = Want::default();
        let Some(piece) = self.piece(v, block, count, &mut want) else { return want.into() };
        if !want.is_empty() {
            return want.into();
        }
        let handled = match piece {
            Piece::Hole(blocks) => blocks,
            Piece::Clear(blocks) => {
                self.own(v, block, 0, journal);
                let change = Change::Clear { volume: v, block, count: blocks };
                self.step(&change);
                journal.push(change);
                u64::from(blocks)
            }
            Piece::Drop(level) => {
                if level + 1 < self.record(v).height {
                    self.own(v, block, level + 1, journal);
                }
                let change = Change::Drop { volume: v, level, block };
                self.step(&change);
                journal.push(change);
                span(level)
            }
        };
        self.cache.tick();
        Ok(handled.min(count))
    }

    /// What to do first, with all pages for it made sure of.
    fn piece(&mut self, v: VolumeId, block: u64, count: u64, want: &mut Want) -> Option<Piece> {
        let r = self.record(v);
        let (height, dying) = (r.height, r.dying);
        // Beyond the end of the volume nothing is mapped, so whoever unmaps to the end unmaps whole pages.
        let end = block.saturating_add(count);
        let end = if end >= r.blocks.max(r.tail) { u64::MAX } else { end };
        if count == 0 || !self.within(v, block) {
            return Some(Piece::Hole(count));
        }
        let mut copies = 0;
        let mut piece = None;
        for level in (0..height).rev() {
            let path = self.path(v, block, level, want)?;
            let node = *path.node(level);
            let base = block - block % span(level);
            let covered = block == base && end >= base + span(level);
            // How many blocks go must be known without looking at every leaf.
            let known = level <= 1 || level + 1 == height || dying;
            let empty = covered && !node.many && !self.has_any(node.slot, 0..IDS as usize);
            if covered && (node.shared && known || empty) {
                piece = Some(Piece::Drop(level));
                break;
            }
            if node.shared {
                copies += 1;
                self.need_children(node.slot, 0..IDS as usize, want);
            }
            let i = index(block, level);
            if level == 0 {
                let stop = (base + IDS).min(end);
                let blocks = (stop - block) as u32;
                let range = i..i + blocks as usize;
                if !self.has_any(node.slot, range.clone()) {
                    return Some(Piece::Hole(u64::from(blocks)));
                }
                self.need_children(node.slot, range, want);
                piece = Some(Piece::Clear(blocks));
                break;
            }
            if get(self.cache.page(node.slot), i) & MARK == 0 {
                let next = (i..IDS as usize).find(|&j| get(self.cache.page(node.slot), j) & MARK != 0);
                let stop = base + next.unwrap_or(IDS as usize) as u64 * span(level - 1);
                return Some(Piece::Hole(stop - block));
            }
        }
        if copies > 0 && want.is_empty() {
            self.need_stash(copies, want);
        }
        piece
    }
}
