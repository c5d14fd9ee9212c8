//! How many pages of the tables may change between two checkpoints in a pool where the segments kept for a checkpoint are few.
//!
//! A checkpoint must fit what is kept for it, whatever its pages hold. Most compress to an eighth, so a bound that takes them for
//! incompressible asks for checkpoints far too often. Before that bound is reached the steward therefore looks at some of the
//! changed pages, and lets more change if those would fit: as many as fit even if none of the further ones compressed at all. Then
//! it looks again. Owns that bound; the one for the sake of memory stays above it.

use crate::bounds::{PAGES_A_TURN, WEIGHED_PAGES};
use crate::state::{Inner, State};
use crate::work;
use caisson_codec::Level;
use caisson_log::TAG;
use caisson_tables::PAGE;
use caisson_task::Port;
use std::sync::atomic::Ordering;

/// Bytes that a written or moved block adds at most to the compressed pages: a number in a map, its entry in the block table, and
/// that of the block which it replaces.
const A_BLOCK: u64 = 48;

/// No page is taken to come to less, in bytes: what a sample says of pages that compress very well is not to be relied on.
const LEAST: u64 = 1024;

/// The bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    /// Pages that fit even if none compresses.
    pub(crate) sure: usize,
    /// Pages that may change for the memory's sake.
    most: usize,
    /// What the last look since the last freeze found.
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Bytes that a page comes to, with a margin.
    page: u64,
    /// What had been done by then.
    done: u64,
}

/// Blocks that were written and moved.
fn done(inner: &Inner) -> u64 {
    inner.counters.written.load(Ordering::Relaxed) + inner.counters.moved.load(Ordering::Relaxed)
}

impl Weight {
    pub(crate) fn new(sure: usize, most: usize) -> Weight {
        Weight { sure, most, seen: None }
    }

    /// Bytes that are kept for a checkpoint.
    fn kept(&self) -> u64 {
        (self.sure * PAGE) as u64
    }

    /// The tables are frozen: what is frozen counts as what it comes to, so that as much may change meanwhile as ever.
    pub(crate) fn froze(state: &mut State) {
        let State { tables, weight, .. } = state;
        let frozen = tables.dirty().frozen;
        let page = weight.seen.take().map_or(PAGE as u64, |seen| seen.page.min(PAGE as u64));
        let light = frozen - (frozen as u64 * page / PAGE as u64) as usize;
        tables.set_dirty(weight.sure.div_ceil(2), (weight.sure + light).min(weight.most));
    }

    /// The checkpoint is over.
    pub(crate) fn thawed(state: &mut State) {
        state.weight.seen = None;
        state.tables.set_dirty(state.weight.sure.div_ceil(2), state.weight.sure);
    }

    /// After a look at a sample of `changed` pages, which come to `mean` bytes each: what a page is taken to come to, and at how
    /// many changed ones a checkpoint begins, and writers wait.
    fn after(&self, changed: usize, mean: u64) -> (u64, usize, usize) {
        let page = (mean * 3 / 2).max(LEAST);
        // A checkpoint begins at half of what is kept, and of both a quarter is left for what is changed again until the next look.
        let pages = |bytes: u64| bytes.saturating_sub(page * changed as u64) as usize / PAGE;
        // For a few it is not worth another look.
        let more = Some(pages(self.kept() / 8 * 3)).filter(|more| *more > self.sure / 32).unwrap_or(0);
        let limit = (changed + pages(self.kept() / 4 * 3)).max(self.sure).min(self.most);
        (page, (changed + more).min(self.most / 2), limit)
    }
}

/// Whether it is time for a look: a checkpoint is due for the number of changed pages alone, or much was changed in pages that had
/// changed before.
pub(crate) fn look_due(inner: &Inner, state: &State) -> bool {
    let Weight { sure, most, seen } = state.weight;
    if most <= sure || state.tables.frozen() {
        return false;
    }
    let dirty = state.tables.dirty();
    match seen {
        None => dirty.checkpoint_due(),
        Some(seen) => {
            let stale = (done(inner) - seen.done) * A_BLOCK > state.weight.kept() / 8;
            // The look before came to this very bound where it left no room for more.
            (dirty.checkpoint_due() || stale) && dirty.changed < most / 2
        }
    }
}

/// Looks at some of the changed pages.
pub(crate) async fn look(inner: &Inner, port: &Port) {
    let (pages, done) = {
        let state = inner.lock();
        (state.tables.changed_sample(WEIGHED_PAGES), done(inner))
    };
    let mut bytes = 0;
    for (n, page) in (0u64..).zip(&pages) {
        bytes += work::pack(page, Some(Level::default()), |_, packed| packed.len() + TAG) as u64;
        if n % PAGES_A_TURN == PAGES_A_TURN - 1 {
            port.pause().await;
        }
    }
    let mut guard = inner.lock();
    let State { tables, weight, .. } = &mut *guard;
    // A checkpoint of somebody else's may have begun meanwhile.
    if !tables.frozen() && !pages.is_empty() {
        let (page, due, limit) = weight.after(tables.dirty().changed, bytes / pages.len() as u64);
        weight.seen = Some(Seen { page, done });
        tables.set_dirty(due, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_at_worst_may_change() {
        // 1,536 pages are kept: half of that is where a checkpoint begins.
        let weight = Weight::new(1536, 16 << 10);
        let kept = weight.kept();
        let mut changed = 768;
        let mut looks = 0;
        loop {
            let (page, due, limit) = weight.after(changed, 400);
            // What was seen, and as many more as there are, none of which compresses.
            let worst = |to: usize| page * changed as u64 + ((to - changed) * PAGE) as u64;
            assert!(worst(due) <= kept / 8 * 3, "{changed} pages, then {due}");
            assert!(worst(limit) <= kept, "{changed} pages, then {limit}");
            if due == changed {
                break;
            }
            (changed, looks) = (due, looks + 1);
        }
        assert!((2000..=2304).contains(&changed) && looks < 12, "{changed} after {looks} looks");
        // Pages that do not compress: at once.
        let (_, due, limit) = weight.after(768, 4096);
        assert_eq!((due, limit), (768, 1536));
        // Memory has the last word.
        let (_, due, limit) = Weight::new(1536, 1800).after(800, 100);
        assert_eq!((due, limit), (900, 1752));
    }
}
