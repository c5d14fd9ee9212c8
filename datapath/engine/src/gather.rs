//! Fingerprints of small writes, taken together: sixteen blocks are hashed in the time of seven or so, which a command of one block
//! cannot have by itself.
//!
//! Where others are under way, a command leaves its blocks here and lets its thread go round once; whoever is called first then
//! hashes for those who have come meanwhile. Owns the line of each thread. It must never make anybody wait for more than that
//! turn, keep a block longer than its command lives, or hash with the key of another domain.

use crate::bounds::{ALONE, PRINT_BLOCKS, TURN_BLOCKS};
use crate::state::Inner;
use crate::write::Print;
use caisson_block::{BLOCK, Buf, fetch};
use caisson_fingerprint::FingerprintKey;
use caisson_index::print_of;
use caisson_task::Port;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// The blocks of a small command that are to be hashed, each in a buffer of its own length; the others are `None`.
pub(crate) type Few = [Option<Buf>; TURN_BLOCKS];

/// Their fingerprints.
pub(crate) type Prints = [Print; TURN_BLOCKS];

/// A command's place in the line.
struct Seat {
    /// What it is hashed with: each domain of each pool has a key of its own, in one place.
    keys: Arc<FingerprintKey>,
    blocks: Few,
    prints: OnceLock<Prints>,
}

thread_local! {
    /// Weak: what has ended meanwhile is not hashed, and its buffers are not held.
    static LINE: RefCell<Vec<Weak<Seat>>> = const { RefCell::new(Vec::new()) };
}

/// Whether small writes to a volume find company. Whoever finds none spares the next ones the turn.
#[derive(Default)]
pub(crate) struct Company {
    /// So many more hash by themselves.
    alone: AtomicU32,
}

impl Company {
    /// Whether to look for some.
    pub(crate) fn expected(&self) -> bool {
        let left = self.alone.load(Ordering::Relaxed);
        // One that is lost between threads makes no difference.
        self.alone.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }
}

/// The fingerprints of `blocks`, at the thread's next turn.
pub(crate) async fn prints(
    (inner, port, keys): (&Arc<Inner>, &Port, &Arc<FingerprintKey>),
    company: &Company,
    blocks: Few,
) -> Prints {
    let seat = Arc::new(Seat { keys: Arc::clone(keys), blocks, prints: OnceLock::new() });
    LINE.with_borrow_mut(|line| line.push(Arc::downgrade(&seat)));
    port.pause().await;
    if let Some(prints) = seat.prints.get() {
        return *prints;
    }
    if hash(inner, &seat) == 1 {
        company.alone.store(ALONE, Ordering::Relaxed);
    }
    seat.prints.get().copied().unwrap_or_default()
}

/// Hashes for `own` and for those at the front of the line, as many as are worth it. Gives how many they are.
fn hash(inner: &Inner, own: &Arc<Seat>) -> usize {
    let count = |seat: &Seat| seat.blocks.iter().flatten().count();
    let mut seats = vec![Arc::clone(own)];
    let mut blocks = count(own);
    LINE.with_borrow_mut(|line| {
        line.retain(|other| {
            let Some(other) = other.upgrade() else { return false };
            if Arc::ptr_eq(&other, own) || other.prints.get().is_some() {
                return false;
            }
            let takes = Arc::ptr_eq(&other.keys, &own.keys) && blocks + count(&other) <= PRINT_BLOCKS;
            if takes {
                blocks += count(&other);
                seats.push(other);
            }
            !takes
        });
    });
    let mut together = [&[0; BLOCK]; PRINT_BLOCKS];
    let mut whose = [(0, 0); PRINT_BLOCKS];
    let mut n = 0;
    for (s, seat) in seats.iter().enumerate() {
        for (b, block) in seat.blocks.iter().enumerate() {
            if let Some(block) = block.as_ref().and_then(|block| block.first_chunk::<BLOCK>()) {
                (together[n], whose[n]) = (block, (s, b));
                n += 1;
            }
        }
    }
    let mut prints = [[[0; 16]; TURN_BLOCKS]; PRINT_BLOCKS];
    let mut all = [[0; 16]; PRINT_BLOCKS];
    own.keys.of_many(&together[..n], |i, f| {
        let (s, b) = whose[i];
        all[i] = print_of(&f);
        prints[s][b] = all[i];
    });
    if n > 1 {
        let state = inner.lock();
        state.index.warm(&all[..n], fetch);
        state.index.warm_next(&all[..n], fetch);
    }
    for (seat, prints) in seats.iter().zip(prints) {
        // Nobody else has it: whoever hashes takes it out of the line.
        let _ = seat.prints.set(prints);
    }
    seats.len()
}
