//! Time spent on single blocks.
//!
//! Owns the rule by which an interrupted measurement does not count.

use std::time::{Duration, Instant};

/// No block takes this long: the thread was interrupted, and the time is not the block's.
const INTERRUPTED: Duration = Duration::from_millis(1);

/// Time spent on blocks, without those that were interrupted.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    time: Duration,
    blocks: u64,
}

impl Spent {
    /// Adds one block's time.
    pub fn add(&mut self, taken: Duration) {
        if taken < INTERRUPTED {
            self.time += taken;
            self.blocks += 1;
        }
    }

    /// Nanoseconds for a block.
    pub fn each(&self) -> f64 {
        self.time.as_nanos() as f64 / self.blocks.max(1) as f64
    }
}

/// Runs `what` on one block, and adds its time to `total`.
pub fn timed<T>(total: &mut Spent, what: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = what();
    total.add(start.elapsed());
    result
}
