//! The last things that happened, for whoever looks at a failed run.

use std::collections::VecDeque;
use std::fmt::Write;

/// How many are kept.
const KEPT: usize = 120;

/// Keeps the last events as lines, or prints all of them as they come.
#[derive(Debug, Default)]
pub struct Trace {
    lines: VecDeque<(u64, String)>,
    steps: u64,
    aloud: bool,
    digest: u64,
}

impl Trace {
    /// Prints everything where `aloud`.
    pub fn new(aloud: bool) -> Trace {
        Trace { aloud, ..Trace::default() }
    }

    /// Something happened at the model's time `time`.
    pub fn note(&mut self, time: u64, what: impl FnOnce() -> String) {
        self.steps += 1;
        let what = what();
        let mix = |d: u64, &b: &u8| (d.rotate_left(5) ^ u64::from(b)).wrapping_mul(0x517C_C1B7_2722_0A95);
        self.digest = what.as_bytes().iter().fold(self.digest ^ time, mix);
        if self.aloud {
            eprintln!("{time:>7}  {what}");
        }
        if self.lines.len() >= KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back((time, what));
    }

    /// How many things happened.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Stands for all of them, in their order.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The last `n` of them that are about `word`, or all of them where it is empty; one a line.
    pub fn last(&self, n: usize, word: &str) -> String {
        let mut out = String::new();
        let about: Vec<_> = self.lines.iter().filter(|(_, l)| l.contains(word)).collect();
        for (time, line) in about.iter().skip(about.len().saturating_sub(n)) {
            let _ = writeln!(out, "{time:>7}  {line}");
        }
        out
    }
}
