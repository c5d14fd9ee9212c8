//! Adaptive polling: a busy thread spins for a bounded time before it sleeps, an idle one does not spin at all.
//!
//! The same thought as the kernel's haltpoll: spinning pays when what comes next comes soon. The budget grows towards
//! its bound while sleeps turn out short, and shrinks to nothing while they turn out long, so a target without traffic
//! uses no CPU, and one at queue depth 1 answers without a wake-up.

/// Spin budget in nanoseconds, adapted by how long sleeps turn out to be.
#[derive(Debug)]
pub(crate) struct Spin {
    max: u64,
    budget: u64,
}

/// The first budget after an idle time that ended with a short sleep.
const START: u64 = 10_000;

impl Spin {
    /// Spins at most `max` nanoseconds; 0 never spins.
    pub(crate) fn new(max: u64) -> Spin {
        Spin { max, budget: max }
    }

    /// How long to spin before the next sleep.
    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    /// Work came while spinning: it paid.
    pub(crate) fn hit(&mut self) {
        self.budget = self.max;
    }

    /// The spin was in vain and the sleep after it took `slept` nanoseconds.
    pub(crate) fn slept(&mut self, slept: u64) {
        if slept <= self.max {
            // A somewhat longer spin would have caught it.
            self.budget = (self.budget * 2).clamp(START.min(self.max), self.max);
        } else {
            self.budget /= 2;
            if self.budget < 1_000 {
                self.budget = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sleeps_end_the_spinning_and_short_ones_bring_it_back() {
        let mut s = Spin::new(50_000);
        assert_eq!(s.budget(), 50_000);
        for _ in 0..7 {
            s.slept(1_000_000);
        }
        assert_eq!(s.budget(), 0);
        s.slept(20_000);
        assert_eq!(s.budget(), 10_000);
        for _ in 0..3 {
            s.slept(20_000);
        }
        assert_eq!(s.budget(), 50_000);
        let mut never = Spin::new(0);
        never.slept(10);
        assert_eq!(never.budget(), 0);
    }
}
