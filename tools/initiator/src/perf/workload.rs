//! What a load is made of: which blocks, in which order, reads or writes, how many at once, for how long.

use super::content::Content;
use serde::Serialize;
use std::str::FromStr;
use std::time::Duration;

/// Order and direction, in fio's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Random reads.
    RandRead,
    /// Random writes.
    RandWrite,
    /// Sequential, reads and writes mixed.
    Rw,
    /// Random, reads and writes mixed.
    RandRw,
}

impl Pattern {
    /// Whether the blocks come in random order.
    pub fn is_random(self) -> bool {
        matches!(self, Pattern::RandRead | Pattern::RandWrite | Pattern::RandRw)
    }

    /// Percent of reads, `mix` for the mixed patterns.
    pub fn read_percent(self, mix: u32) -> u32 {
        match self {
            Pattern::Read | Pattern::RandRead => 100,
            Pattern::Write | Pattern::RandWrite => 0,
            Pattern::Rw | Pattern::RandRw => mix.min(100),
        }
    }
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Pattern, String> {
        Ok(match text {
            "read" => Pattern::Read,
            "write" => Pattern::Write,
            "randread" => Pattern::RandRead,
            "randwrite" => Pattern::RandWrite,
            "rw" | "readwrite" => Pattern::Rw,
            "randrw" => Pattern::RandRw,
            _ => {
                return Err(format!(
                    "`{text}` is no pattern; use read, write, randread, randwrite, rw or randrw"
                ));
            }
        })
    }
}

/// When a run ends.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After this many bytes, over all connections.
    Bytes(u64),
}

/// A load.
#[derive(Clone, Debug, Serialize)]
pub struct Workload {
    /// Order and direction.
    pub pattern: Pattern,
    /// Percent of reads in the mixed patterns.
    pub read_percent: u32,
    /// Bytes of each command, a multiple of the namespace's block size.
    pub block: u32,
    /// Commands outstanding on each connection.
    pub depth: u32,
    /// Connections, each one I/O queue.
    pub connections: u32,
    /// Threads that drive them.
    pub threads: u32,
    /// Cores that the threads are kept on, in order; empty: wherever they run.
    pub cores: Vec<usize>,
    /// When it ends.
    pub until: Until,
    /// Not measured at the start.
    pub ramp: Duration,
    /// Commands a second at most, over all connections; 0: as fast as it goes.
    pub rate: u64,
    /// First byte of the namespace that is used.
    pub offset: u64,
    /// Bytes of the namespace that are used; 0: to its end.
    pub size: u64,
    /// Write blocks that say what they are, and check every block that is read.
    pub verify: bool,
    /// What to write where that is not verified; without it, noise that comes again after a while.
    pub content: Option<Content>,
    /// Of the random order and of the data.
    pub seed: u64,
    /// Poll instead of sleeping.
    pub poll: bool,
    /// How long a command may take.
    pub timeout: Duration,
    /// Bytes handed to the kernel in one system call at most; 0: as many as it takes. A thread that shares its core with a
    /// more urgent one gives that a chance in between.
    pub send: usize,
}

impl Default for Workload {
    fn default() -> Self {
        Workload {
            pattern: Pattern::RandRead,
            read_percent: 70,
            block: 4096,
            depth: 32,
            connections: 1,
            threads: 1,
            cores: Vec::new(),
            until: Until::Time(Duration::from_secs(10)),
            ramp: Duration::ZERO,
            rate: 0,
            offset: 0,
            size: 0,
            verify: false,
            content: None,
            seed: 1,
            poll: true,
            timeout: Duration::from_secs(30),
            send: 0,
        }
    }
}

/// A small fast generator of random numbers (splitmix64): the order of blocks needs no more.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `n`, which is not 0.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(n)) >> 64) as u64
    }
}

/// The commands of one connection, in order.
#[derive(Clone, Debug)]
pub struct Generator {
    random: bool,
    read_percent: u32,
    /// Commands' blocks in its region: it deals in numbers below this.
    blocks: u64,
    cursor: u64,
    rng: Random,
    left: u64,
}

impl Generator {
    /// For a region of `blocks` blocks (not 0), and at most `limit` commands.
    pub fn new(w: &Workload, blocks: u64, limit: u64, lane: u64) -> Generator {
        Generator {
            random: w.pattern.is_random(),
            read_percent: w.pattern.read_percent(w.read_percent),
            blocks,
            cursor: 0,
            rng: Random::new(w.seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(lane)),
            left: limit,
        }
    }

    /// Whether it has dealt all it may.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The next command: whether it writes, and its block; `None` at the end.
    #[inline]
    pub fn deal(&mut self) -> Option<(bool, u64)> {
        self.left = self.left.checked_sub(1)?;
        let write = match self.read_percent {
            100 => false,
            0 => true,
            percent => self.rng.below(100) >= u64::from(percent),
        };
        let block = if self.random {
            self.rng.below(self.blocks)
        } else {
            let at = self.cursor;
            self.cursor = if at + 1 == self.blocks { 0 } else { at + 1 };
            at
        };
        Some((write, block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_wraps_and_ends() {
        let w = Workload { pattern: Pattern::Write, ..Workload::default() };
        let mut g = Generator::new(&w, 3, 4, 0);
        let all: Vec<_> = std::iter::from_fn(|| g.deal()).collect();
        assert_eq!(all, [(true, 0), (true, 1), (true, 2), (true, 0)]);
        assert!(g.is_done());
    }

    #[test]
    fn random_covers_its_region_in_the_asked_mix() {
        let w = Workload { pattern: Pattern::RandRw, read_percent: 70, ..Workload::default() };
        let mut g = Generator::new(&w, 10, 100_000, 3);
        let (mut seen, mut reads) = ([0u32; 10], 0);
        while let Some((write, block)) = g.deal() {
            seen[block as usize] += 1;
            reads += u32::from(!write);
        }
        assert!(seen.iter().all(|&n| (9_000..11_000).contains(&n)), "{seen:?}");
        assert!((69_000..71_000).contains(&reads), "{reads}");
        assert!("randrw".parse::<Pattern>().is_ok() && "x".parse::<Pattern>().is_err());
    }
}
