//! Collecting what a call needs.

use crate::cache::IntMap;
use crate::types::{Needs, PageKey, Where};

/// The pages that a call found missing, each once.
#[derive(Default)]
pub(crate) struct Want {
    list: Vec<(PageKey, Where)>,
    seen: IntMap<u64, ()>,
}

impl Want {
    pub fn add(&mut self, key: PageKey, at: Where) {
        if self.seen.insert(key.packed(), ()).is_none() {
            self.list.push((key, at));
        }
    }

    /// Keeps those that `f` is true of.
    pub fn retain(&mut self, f: impl Fn(PageKey) -> bool) {
        self.list.retain(|(key, _)| f(*key));
    }

    /// Adds all of `other`.
    pub fn append(&mut self, other: Want) {
        other.list.into_iter().for_each(|(key, at)| self.add(key, at));
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl<T: Default> From<Want> for Result<T, Needs> {
    fn from(want: Want) -> Result<T, Needs> {
        if want.is_empty() { Ok(T::default()) } else { Err(Needs(want.list)) }
    }
}
