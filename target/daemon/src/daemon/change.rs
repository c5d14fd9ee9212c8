//! Changes as plans: what to turn, in which order, and how to turn it all back.

use super::world::World;
use crate::model::{self, Change, Item, Objects};
use crate::refusal::Refusal;

/// One item that becomes another.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) key: String,
    pub(super) from: Option<Item>,
    pub(super) to: Option<Item>,
}

/// Where an item stands in the order of making: what others rest on comes first.
fn rank(item: &Item) -> u8 {
    match item {
        Item::Pool(_) => 0,
        Item::Volume(_) => 1,
        Item::Subsystem(_) => 2,
        Item::Host(_) => 3,
        Item::Namespace(_) => 4,
        Item::Referral(_) => 5,
        // Last, so that the first host finds all there is.
        Item::Listener(_) => 6,
    }
}

/// What `changes` makes of `objects`, and the turns to get there: away with what goes (what rests on others first), then
/// what comes or changes.
pub(super) fn plan(objects: &Objects, changes: &[Change]) -> (Objects, Vec<Turn>) {
    let mut after = objects.clone();
    for (key, item) in changes {
        match item {
            Some(i) => after.insert(key.clone(), i.clone()),
            None => after.remove(key),
        };
    }
    let mut turns: Vec<Turn> = Vec::new();
    for (key, from) in objects {
        if !after.contains_key(key) {
            turns.push(Turn { key: key.clone(), from: Some(from.clone()), to: None });
        }
    }
    turns.sort_by_key(|t| std::cmp::Reverse(t.from.as_ref().map_or(0, rank)));
    let going = turns.len();
    for (key, to) in &after {
        let from = objects.get(key);
        if from != Some(to) {
            turns.push(Turn { key: key.clone(), from: from.cloned(), to: Some(to.clone()) });
        }
    }
    turns[going..].sort_by_key(|t| t.to.as_ref().map_or(0, rank));
    (after, turns)
}

/// The first rule of the model that `after` breaks and that the change is to blame for.
pub(super) fn judge(after: &Objects) -> Result<(), Refusal> {
    match model::check(after).into_iter().next() {
        Some(v) => Err(Refusal::new(v.cause, v.error, v.remedy)),
        None => Ok(()),
    }
}

/// Turns all of `turns`, or none: on an error those that were done are turned back, in reverse.
pub(super) fn turn_all(world: &mut World, turns: &[Turn]) -> Result<(), (String, Refusal)> {
    for (i, t) in turns.iter().enumerate() {
        if let Err(e) = world.turn(t.from.as_ref(), t.to.as_ref()) {
            turn_back(world, &turns[..i]);
            return Err((t.key.clone(), e));
        }
    }
    Ok(())
}

/// Turns `turns`, all of which were done, back.
pub(super) fn turn_back(world: &mut World, turns: &[Turn]) {
    for t in turns.iter().rev() {
        if let Err(error) = world.turn(t.to.as_ref(), t.from.as_ref()) {
            tracing::error!(key = t.key, %error, "a change that failed could not be taken back whole: restart the target");
        }
    }
}

/// Whether this makes a volume or a pool larger and does nothing else: such a change is kept first and done then, so that a
/// crash in between leaves what is too short, which the next start lengthens, and never what is too long.
pub(super) fn grows(turns: &[Turn]) -> bool {
    match turns {
        [Turn { from: Some(Item::Volume(a)), to: Some(Item::Volume(b)), .. }] => b.size > a.size,
        [Turn { from: Some(Item::Pool(_)), to: Some(Item::Pool(_)), .. }] => true,
        _ => false,
    }
}
