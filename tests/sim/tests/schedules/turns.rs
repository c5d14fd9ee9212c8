//! A thread of the data plane under the model checker: a simulated thread whose turns the checker gives.

use caisson_block::{Op, Outcome, Request, Tag, Volume};
use caisson_device::sim::{Clock, Rng, SimDisk, SimThread};
use caisson_engine::Pool;
use caisson_sim::race::Plane;
use caisson_task::{Port, Task};
use std::sync::{Arc, Mutex};

/// A simulated thread. Which of its own affairs comes first is its generator's choice, when it has a turn the checker's.
pub struct Turns {
    thread: SimThread,
    rng: Rng,
}

impl Turns {
    /// One that reaches `disk`.
    pub fn new(disk: &Arc<SimDisk>, seed: u64) -> Turns {
        Turns { thread: SimThread::over(std::slice::from_ref(disk), &Clock::default()), rng: Rng::new(seed) }
    }

    /// What the function that `make` makes gives, when it has run to its end here.
    pub fn run<T, F>(&mut self, make: impl FnOnce(Port) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        let spawn = |port| {
            let work = make(port);
            async move {
                let value = work.await;
                *filled.lock().unwrap() = Some(value);
            }
        };
        self.thread.run(|cx| Task::spawn(cx, spawn));
        for turn in 1_u64.. {
            if let Some(value) = slot.lock().unwrap().take() {
                return value;
            }
            // What waits by looking again at each turn must not be all that is run.
            if turn.is_multiple_of(64) {
                shuttle::thread::yield_now();
            }
            self.turn();
        }
        unreachable!("turns do not end")
    }

    /// Starts the background of a pool here.
    pub fn tend(&mut self, pool: &Pool) {
        pool.tend(|make| self.thread.run(|cx| Task::spawn(cx, make)));
    }
}

impl Plane for Turns {
    fn submit(&mut self, volume: &dyn Volume, slot: u32, op: Op) {
        self.thread.run(|cx| volume.submit(cx, Request { tag: Tag { queue: 0, slot }, op }));
    }

    fn completions(&mut self) -> Vec<(Tag, Outcome)> {
        loop {
            let over: Vec<_> = self.thread.completions().collect();
            if !over.is_empty() {
                return over;
            }
            self.turn();
        }
    }

    /// One that has nothing to do lets others go first.
    fn turn(&mut self) {
        if !self.thread.turn(&mut self.rng) {
            shuttle::thread::yield_now();
        }
    }
}
