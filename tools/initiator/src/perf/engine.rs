//! The loop of one driving thread: read, look, start, send, over all its lanes, polling or sleeping between turns.
//!
//! In the steady state it allocates nothing and makes, for a batch of commands, one read and one write.

use super::lane::{Lane, Tally};
use crate::error::{Error, Result};
use crate::net::wait;
use crate::stats::{Latency, Row, Series};
use crate::sys::CpuTime;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long one row of the time series lasts, until rows are joined.
const ROW: Duration = Duration::from_millis(20);
/// Idle turns between two looks at the clock while polling.
const LOOK: u32 = 64;

/// What the threads of a run share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Commands done, for the live line.
    pub ops: AtomicU64,
    /// Latencies since the live line was last printed.
    pub recent: Mutex<Row>,
    /// Stop starting commands: one thread failed, or somebody asked for the end.
    pub stop: AtomicBool,
}

/// How one thread is to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// No new commands after this time from the start; `None`: until the generators end.
    pub time: Option<Duration>,
    /// Not measured at the start.
    pub ramp: Duration,
    /// Commands a second of this thread; 0: no limit.
    pub rate: u64,
    /// Poll instead of sleeping.
    pub poll: bool,
    /// How long a command may take.
    pub timeout: Duration,
}

/// What one thread measured.
#[derive(Debug)]
pub struct Measured {
    /// Of reads.
    pub read: Latency,
    /// Of writes.
    pub write: Latency,
    /// Over time.
    pub series: Series,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// CPU time of the thread meanwhile.
    pub cpu: CpuTime,
    /// System calls meanwhile: reads, reads that found something, writes, waits.
    pub calls: [u64; 4],
}

struct Engine<'a> {
    lanes: &'a mut [Lane],
    plan: Plan,
    shared: &'a Shared,
    start: Instant,
    tally: Tally,
    series: Series,
    /// When measuring began, and when the current row ends, in nanoseconds after the start.
    measured_from: u64,
    row_end: u64,
    cpu: CpuTime,
    calls: [u64; 4],
    waits: u64,
    issued: u64,
    /// Ops already told to `shared`.
    told: u64,
}

/// Drives `lanes` by `plan` until its time is over or their generators end, and every command is done.
///
/// # Errors
/// The first command that fails or is overdue, or a connection's end.
pub fn drive(lanes: &mut [Lane], plan: Plan, shared: &Shared) -> Result<Measured> {
    let result = Engine {
        lanes,
        plan,
        shared,
        start: Instant::now(),
        tally: Tally::default(),
        series: Series::new(ROW),
        measured_from: 0,
        row_end: ROW.as_nanos() as u64,
        cpu: CpuTime::of_thread(),
        calls: [0; 4],
        waits: 0,
        issued: 0,
        told: 0,
    }
    .run();
    if result.is_err() {
        shared.stop.store(true, Ordering::Relaxed);
    }
    result
}

impl Engine<'_> {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn run(mut self) -> Result<Measured> {
        self.calls = self.calls_now();
        let mut ramping = !self.plan.ramp.is_zero();
        let end = self.plan.time.map_or(u64::MAX, |t| (t + self.plan.ramp).as_nanos() as u64);
        let mut now = 0;
        let mut stopping = false;
        let mut idle = 0u32;
        let mut next_check = 500_000_000;
        loop {
            let busy = self.turn(&mut now, stopping)?;
            idle = if busy { 0 } else { idle + 1 };
            if !busy && !self.plan.poll {
                self.sleep(now)?;
            }
            if !busy && (idle.is_multiple_of(LOOK) || !self.plan.poll || self.plan.rate > 0) {
                now = self.now();
            }
            if ramping && now >= self.plan.ramp.as_nanos() as u64 {
                ramping = false;
                self.begin_measuring(now);
            }
            if now >= self.row_end {
                self.end_row(now);
                stopping |= self.shared.stop.load(Ordering::Relaxed);
            }
            stopping |= now >= end;
            if now >= next_check {
                next_check = now + 500_000_000;
                let before = now.saturating_sub(self.plan.timeout.as_nanos() as u64);
                self.lanes.iter().try_for_each(|l| l.check_overdue(before, self.plan.timeout))?;
            }
            let done = |l: &Lane| l.outstanding() == 0 && (stopping || l.is_exhausted());
            if self.lanes.iter().all(done) {
                break;
            }
        }
        Ok(self.finish())
    }

    /// One turn over the lanes; says whether anything happened. `now` is moved on when something came.
    #[inline]
    fn turn(&mut self, now: &mut u64, stopping: bool) -> Result<bool> {
        let mut busy = false;
        for i in 0..self.lanes.len() {
            let came = self.lanes[i].read()?;
            if came {
                *now = self.start.elapsed().as_nanos() as u64;
                self.lanes[i].take(*now, &mut self.tally)?;
                busy = true;
            }
            if !stopping {
                let budget = self.budget(*now);
                self.issued += self.lanes[i].start(*now, budget);
            }
            busy |= self.lanes[i].flush()?;
        }
        Ok(busy)
    }

    /// How many commands may start now by the rate limit.
    #[inline]
    fn budget(&self, now: u64) -> u64 {
        match self.plan.rate {
            0 => u64::MAX,
            rate => {
                ((u128::from(now) * u128::from(rate) / 1_000_000_000) as u64 + 1).saturating_sub(self.issued)
            }
        }
    }

    /// Sleeps until a connection is ready, the next command may start, or the clock wants to be looked at.
    fn sleep(&mut self, now: u64) -> Result<()> {
        let mut longest = Duration::from_millis(20);
        if let Some(gap) = 1_000_000_000u64.checked_div(self.plan.rate)
            && self.lanes.iter().any(|l| !l.is_exhausted())
        {
            let next = ((u128::from(self.issued) * u128::from(gap)) as u64).saturating_sub(now);
            longest = longest.min(Duration::from_nanos(next.max(1000)));
        }
        self.waits += 1;
        for lane in self.lanes.iter_mut() {
            if !lane.arm()? {
                return Ok(());
            }
        }
        let fds = self.lanes.iter().flat_map(Lane::descriptors);
        wait(fds, longest, &mut Vec::new()).map_err(|e| Error::io("waiting", e)).map(drop)
    }

    fn begin_measuring(&mut self, now: u64) {
        self.tally.clear();
        self.told = 0;
        self.series = Series::new(ROW);
        self.measured_from = now;
        self.row_end = now + ROW.as_nanos() as u64;
        self.cpu = CpuTime::of_thread();
        self.calls = self.calls_now();
    }

    /// Moves the row's counts to the series and to the live line.
    fn end_row(&mut self, now: u64) {
        let ops = self.tally.read.count() + self.tally.write.count();
        self.shared.ops.fetch_add(ops.saturating_sub(self.told), Ordering::Relaxed);
        self.told = ops;
        let at = self.row_end - ROW.as_nanos() as u64 - self.measured_from;
        self.series.row_at(Duration::from_nanos(at)).add(&self.tally.row);
        if let Ok(mut recent) = self.shared.recent.lock() {
            recent.add(&self.tally.row);
        }
        self.tally.row = Row::default();
        let whole = (now - self.measured_from) / ROW.as_nanos() as u64;
        self.row_end = self.measured_from + (whole + 1) * ROW.as_nanos() as u64;
    }

    fn calls_now(&self) -> [u64; 4] {
        let mut all = [0, 0, 0, self.waits];
        for (reads, full, writes) in self.lanes.iter().map(Lane::calls) {
            all[0] += reads;
            all[1] += full;
            all[2] += writes;
        }
        all
    }

    fn finish(mut self) -> Measured {
        let now = self.now();
        self.end_row(now);
        let after = self.calls_now();
        Measured {
            seconds: (now - self.measured_from) as f64 / 1e9,
            cpu: CpuTime::of_thread().since(self.cpu),
            calls: std::array::from_fn(|i| after[i] - self.calls[i]),
            read: self.tally.read,
            write: self.tally.write,
            series: self.series,
        }
    }
}
