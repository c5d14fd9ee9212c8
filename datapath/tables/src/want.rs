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

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl<T: Default> From<Want> for Result<T, Needs> {
    fn from(want: Want) -> Result<T, Needs> {
        if want.is_empty() { Ok(T::default()) } else { Err(Needs(want.list)) }
    }
}
