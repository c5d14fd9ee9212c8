//! The pools of this process whose buffers carry hosts' data: what a network device that moves data by itself is given.
//!
//! Whoever makes such a pool lists it; whoever drives a device looks through the list when its generation has moved, and
//! registers what is new. Nobody has to: data in a pool that no device knows is copied on its way.

use crate::pool::{Inner, Pool};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, Weak};

static LIST: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Lists a pool.
pub(crate) fn add(pool: Weak<Inner>) {
    let mut list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|w| w.strong_count() > 0);
    list.push(pool);
    GENERATION.fetch_add(1, Ordering::Release);
}

/// How often the list has grown.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// The generation, and the pools that are listed and still there, in the order in which they were.
pub fn pools() -> (u64, Vec<Pool>) {
    let list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
    (GENERATION.load(Ordering::Acquire), list.iter().filter_map(Weak::upgrade).map(Pool::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_listed_while_they_are_there() {
        let (pool, before) = (Pool::new(4, 4096).unwrap(), generation());
        pool.offer();
        let at = pool.memory().0;
        let listed = || pools().1.iter().any(|p| p.memory().0 == at);
        assert!(generation() > before && listed());
        let pin = pool.pin();
        assert!(!pin.forgotten());
        drop(pool.alloc());
        assert_eq!(pool.trim(0), 0, "pinned");
        drop(pool);
        assert!(pin.forgotten() && listed());
        assert_eq!(pin.pool().trim(0), 0);
        drop(pin);
        assert!(!listed());
    }
}
