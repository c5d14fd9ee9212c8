//! Whether a history of one block is linearisable: whether there is an order of its operations, each between its beginning
//! and its end, in which a register gives the same answers.
//!
//! Owns the search: the set of everything that may be the case (what the block holds, and which operations under way have
//! already taken effect) is carried from one operation's end to the next (Lowe, "Testing for linearizability", 2017:
//! just-in-time linearisation). It knows nothing of crashes, volumes or contents.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// What an operation did to the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// It put one of these there.
    Write(Vec<u64>),
    /// It saw this.
    Read(u64),
    /// It saw anything but this.
    Differs(u64),
    /// It saw the first and put the second there, at once.
    Swap(u64, u64),
}

/// One operation on the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// When it was submitted.
    pub start: u64,
    /// When it was completed; `u64::MAX` when it never was.
    pub end: u64,
    /// What it did.
    pub act: Act,
    /// Whether it certainly did that; one that failed may have done nothing.
    pub sure: bool,
}

/// Why a history is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No order explains the answer of this operation.
    Wrong {
        /// The operation.
        op: Op,
        /// What the block may have held before its end.
        held: Vec<u64>,
    },
    /// The search became too large to finish.
    Large,
}

/// How much may be the case at once.
const MOST: usize = 4_000;

/// A value and the operations under way, by slot, that have taken effect.
type State = (u64, u64);

/// Judges the operations of one block that held one of `initial` at first. Gives what it may hold in the end.
///
/// # Errors
/// [`Fault`].
pub fn check(initial: &[u64], ops: &[Op]) -> Result<Vec<u64>, Fault> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(ops.len() * 2);
    for (i, op) in ops.iter().enumerate() {
        events.push((op.start, false, i));
        events.push((op.end, true, i));
    }
    // At one time, beginnings come first: operations that touch count as concurrent.
    events.sort_unstable();
    let mut states: Vec<State> = initial.iter().map(|&v| (v, 0)).collect();
    let mut live = Live { ops, slots: Vec::new() };
    for (_, over, i) in events {
        let slots = &mut live.slots;
        if !over {
            match slots.iter().position(Option::is_none) {
                Some(free) => slots[free] = Some(i),
                None if slots.len() == 64 => return Err(Fault::Large),
                None => slots.push(Some(i)),
            }
            continue;
        }
        let slot = slots.iter().position(|s| *s == Some(i)).expect("it began before it ended");
        states = live.finish(&states, slot)?;
        live.slots[slot] = None;
    }
    let mut left: Vec<u64> = states.into_iter().map(|s| s.0).collect();
    left.sort_unstable();
    left.dedup();
    Ok(left)
}

/// A hash that is quick; nobody chooses the states to harm it.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(u64::from(b)));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// States without doubles. Mostly there are one or two.
#[derive(Default)]
struct States {
    list: Vec<State>,
    /// The same, once there are many.
    set: HashSet<State, BuildHasherDefault<Mix>>,
}

/// So many are looked through one by one.
const FEW: usize = 12;

impl States {
    fn insert(&mut self, state: State) -> bool {
        if self.list.len() < FEW {
            if self.list.contains(&state) {
                return false;
            }
        } else {
            if self.set.is_empty() {
                self.set.extend(&self.list);
            }
            if !self.set.insert(state) {
                return false;
            }
        }
        self.list.push(state);
        true
    }
}

/// The operations under way, by slot.
struct Live<'a> {
    ops: &'a [Op],
    slots: Vec<Option<usize>>,
}

impl Live<'_> {
    /// Those that have not taken effect in `state`.
    fn open(&self, state: State) -> impl Iterator<Item = (usize, &Op)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(move |(slot, i)| Some((slot, &self.ops[(*i)?])).filter(|_| state.1 >> slot & 1 == 0))
    }

    /// Has everything that only looks, and sees what it has to, look now: that changes nothing for others, and later it may
    /// be gone.
    fn look(&self, state: State) -> State {
        let sees = |op: &Op| match op.act {
            Act::Read(v) => v == state.0,
            Act::Differs(v) => v != state.0,
            Act::Write(_) | Act::Swap(..) => false,
        };
        let seen = self.open(state).filter(|(_, op)| sees(op)).fold(0, |bits, (slot, _)| bits | 1 << slot);
        (state.0, state.1 | seen)
    }

    /// What may be the case when the operation in `slot` is over.
    fn finish(&self, states: &[State], slot: usize) -> Result<Vec<State>, Fault> {
        let bit = 1 << slot;
        let op = &self.ops[self.slots[slot].expect("the slot is taken")];
        let (mut seen, mut after) = (States::default(), States::default());
        let mut todo: Vec<State> = states.to_vec();
        while let Some(state) = todo.pop() {
            let state = self.look(state);
            if state.1 & bit != 0 {
                after.insert((state.0, state.1 & !bit));
                continue;
            }
            if !seen.insert(state) {
                continue;
            }
            if seen.list.len() > MOST {
                return Err(Fault::Large);
            }
            if !op.sure {
                after.insert(state);
            }
            for (other, op) in self.open(state) {
                let bits = state.1 | 1 << other;
                match &op.act {
                    Act::Write(values) => todo.extend(values.iter().map(|&v| (v, bits))),
                    Act::Swap(seen, new) if *seen == state.0 => todo.push((*new, bits)),
                    Act::Swap(..) | Act::Read(_) | Act::Differs(_) => {}
                }
            }
        }
        if after.list.is_empty() {
            let mut held: Vec<u64> = states.iter().map(|s| s.0).collect();
            held.sort_unstable();
            held.dedup();
            return Err(Fault::Wrong { op: op.clone(), held });
        }
        Ok(after.list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(start: u64, end: u64, act: Act) -> Op {
        Op { start, end, act, sure: true }
    }
    fn write(start: u64, end: u64, v: u64) -> Op {
        op(start, end, Act::Write(vec![v]))
    }
    fn read(start: u64, end: u64, v: u64) -> Op {
        op(start, end, Act::Read(v))
    }

    #[test]
    fn good_histories_pass() {
        assert_eq!(check(&[0], &[]), Ok(vec![0]));
        assert_eq!(check(&[0], &[write(1, 2, 5), read(3, 4, 5)]), Ok(vec![5]));
        // A read during a write sees either.
        assert_eq!(check(&[0], &[write(1, 10, 5), read(2, 3, 0), read(4, 5, 5)]), Ok(vec![5]));
        // Two writes in either order.
        assert_eq!(check(&[0], &[write(1, 10, 5), write(2, 9, 6)]), Ok(vec![5, 6]));
        assert_eq!(check(&[0], &[write(1, 10, 5), write(2, 9, 6), read(11, 12, 5)]), Ok(vec![5]));
        // A swap that found what another wrote.
        let swap = op(2, 9, Act::Swap(5, 7));
        assert_eq!(check(&[0], &[write(1, 10, 5), swap, read(11, 12, 7)]), Ok(vec![7]));
        // A reader that ends after the value it saw is gone.
        let h = [read(1, 20, 0), write(2, 3, 5), read(4, 5, 5), write(6, 7, 6), read(8, 9, 6)];
        assert_eq!(check(&[0], &h), Ok(vec![6]));
        // A copy of one of two values.
        assert_eq!(check(&[0], &[op(1, 2, Act::Write(vec![3, 4])), read(3, 4, 4)]), Ok(vec![4]));
        // Snapshots: what was unknown is known once it was read.
        assert_eq!(check(&[1, 2], &[read(1, 2, 2), read(3, 4, 2)]), Ok(vec![2]));
    }

    #[test]
    fn bad_histories_are_refused() {
        let bad = |initial: &[u64], ops: &[Op]| {
            assert!(matches!(check(initial, ops), Err(Fault::Wrong { .. })), "{ops:?}");
        };
        // A lost write, and one from nowhere.
        bad(&[0], &[write(1, 2, 5), read(3, 4, 0)]);
        bad(&[0], &[read(1, 2, 9)]);
        // New, then old again: each alone is possible.
        bad(&[0], &[write(1, 10, 5), read(2, 3, 5), read(4, 5, 0)]);
        // Two readers that saw two writes in different orders.
        let h = [write(1, 4, 5), write(2, 3, 6), read(5, 6, 5), read(7, 8, 6)];
        bad(&[0], &h);
        // Two swaps that both found the same.
        let h = [op(1, 10, Act::Swap(0, 5)), op(2, 9, Act::Swap(0, 6))];
        bad(&[0], &h);
        // A swap torn in two: another write came between its look and its write.
        let h = [op(1, 10, Act::Swap(0, 5)), write(2, 9, 6), read(11, 12, 6), read(13, 14, 5)];
        bad(&[0], &h);
        // It differs from what it was all the time.
        bad(&[0], &[op(1, 2, Act::Differs(0))]);
        // A snapshot that changes.
        bad(&[1, 2], &[read(1, 2, 2), read(3, 4, 1)]);
        // A value that is back after it was replaced.
        bad(&[0], &[write(1, 2, 5), write(3, 4, 6), read(5, 6, 5)]);
    }

    #[test]
    fn what_failed_may_have_happened_but_not_later() {
        let maybe = |start, end, v| Op { sure: false, ..write(start, end, v) };
        assert_eq!(check(&[0], &[maybe(1, 2, 5)]), Ok(vec![0, 5]));
        assert_eq!(check(&[0], &[maybe(1, 2, 5), read(3, 4, 0)]), Ok(vec![0]));
        assert_eq!(check(&[0], &[maybe(1, 2, 5), read(3, 4, 5)]), Ok(vec![5]));
        let late = [maybe(1, 2, 5), read(3, 4, 0), read(5, 6, 5)];
        assert!(matches!(check(&[0], &late), Err(Fault::Wrong { .. })));
        // One that never ended may happen at any time.
        let never = [maybe(1, u64::MAX, 5), read(3, 4, 0), read(5, 6, 5)];
        assert_eq!(check(&[0], &never), Ok(vec![5]));
    }

    #[test]
    fn agrees_with_trying_all_orders() {
        let mut rng = caisson_device::sim::Rng::new(3);
        let mut verdicts = [0; 2];
        for _ in 0..4000 {
            let n = 1 + rng.below(5) as usize;
            let ops: Vec<Op> = (0..n)
                .map(|_| {
                    let start = 1 + rng.below(12);
                    let v = rng.below(3);
                    let act = match rng.below(4) {
                        0 => Act::Write(vec![v]),
                        1 | 2 => Act::Read(v),
                        _ => Act::Swap(v, rng.below(3)),
                    };
                    op(start, start + rng.below(6), act)
                })
                .collect();
            let good = check(&[0], &ops).is_ok();
            assert_eq!(good, any_order(&ops, 0, 0), "{ops:?}");
            verdicts[usize::from(good)] += 1;
        }
        assert!(verdicts.iter().all(|&n| n > 300), "{verdicts:?}");
    }

    /// Whether some order of the operations outside `taken` explains them.
    fn any_order(ops: &[Op], taken: u32, value: u64) -> bool {
        let left: Vec<usize> = (0..ops.len()).filter(|i| taken >> i & 1 == 0).collect();
        left.is_empty()
            || left.iter().any(|&i| {
                // Nothing that is left ended before this began.
                left.iter().all(|&j| ops[j].end >= ops[i].start)
                    && apply(&ops[i].act, value).iter().any(|&v| any_order(ops, taken | 1 << i, v))
            })
    }

    /// What happens to a value by an operation; nothing when the operation's answer says otherwise.
    fn apply(act: &Act, value: u64) -> Vec<u64> {
        match act {
            Act::Write(values) => values.clone(),
            Act::Read(seen) if *seen == value => vec![value],
            Act::Differs(seen) if *seen != value => vec![value],
            Act::Swap(seen, new) if *seen == value => vec![*new],
            Act::Read(_) | Act::Differs(_) | Act::Swap(..) => Vec::new(),
        }
    }
}
