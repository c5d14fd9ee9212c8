//! What was changed at run time, kept in one file so that it survives a restart.
//!
//! The rule by which file and state combine, item by item: an item is as the configuration file declares it, unless it
//! was changed at run time; then it is as it was changed. Each change remembers what the file said when it was made
//! ([`Entry::file`]). When the file says something else since, somebody edited an item that was also changed at run time,
//! and which of the two is meant cannot be known: the start is refused with both, and the remedy. When the file says by
//! now what the change says, the change has been adopted and is forgotten. `export` has no file: all is state, kept nowhere.

pub mod files;

use crate::model::{Change, Item, Objects};
use crate::refusal::Refusal;
use files::Files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version of the file's format that this program writes, and the highest that it reads.
pub const VERSION: u32 = 1;

/// A change made at run time to one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What the item is now; none when it was removed.
    pub now: Option<Item>,
    /// What the configuration file declared when it was changed; none when it declared no such item.
    pub file: Option<Item>,
}

/// The file's contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    version: u32,
    /// Starts of the target, and what SMART says of them.
    #[serde(default)]
    history: History,
    changes: BTreeMap<String, Entry>,
}

/// What earlier runs left for SMART's power counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Starts, this one included.
    pub starts: u64,
    /// Seconds that earlier runs lasted (of those that ended by a stop, or wrote since).
    pub seconds: u64,
    /// Starts that found that the run before had not stopped cleanly.
    pub unclean: u64,
    /// Whether a run is under way, or ended without a stop.
    pub running: bool,
}

/// The state: changes at run time, and where they are kept.
pub struct State {
    /// The file, and how to reach it; none keeps nothing.
    kept: Option<(PathBuf, Arc<dyn Files>)>,
    /// What the configuration file declares.
    base: Objects,
    changes: BTreeMap<String, Entry>,
    history: History,
    /// Seconds of this run, told by the daemon.
    run_seconds: u64,
}

/// An item that was changed at run time and in the file since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// Its key.
    pub key: String,
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    pub remedy: String,
}

/// Why the state cannot be used.
#[derive(Debug)]
pub enum StateError {
    /// The state file itself is the trouble.
    Unusable(Refusal),
    /// File and state contradict each other.
    Clash(Vec<Clash>),
}

fn shown(item: Option<&Item>) -> String {
    match item {
        None => "nothing".into(),
        Some(i) => serde_json::to_string(i).unwrap_or_else(|_| format!("{i:?}")),
    }
}

impl State {
    /// A state that is kept nowhere.
    pub fn transient(base: Objects) -> State {
        State { kept: None, base, changes: BTreeMap::new(), history: History::default(), run_seconds: 0 }
    }

    /// Reads the state at `path` (none there is an empty state) over what the configuration file declares.
    ///
    /// # Errors
    /// The file cannot be read or understood, or contradicts the configuration file.
    pub fn open(path: &Path, files: Arc<dyn Files>, base: Objects) -> Result<State, StateError> {
        let unusable = StateError::Unusable;
        let bytes = files.read(path).map_err(|e| {
            unusable(Refusal::system(format!("the state file {} cannot be read", path.display()), &e))
        })?;
        let mut state = State::transient(base);
        state.kept = Some((path.to_path_buf(), files));
        let Some(bytes) = bytes else { return Ok(state) };
        let image = read_image(path, &bytes).map_err(unusable)?;
        state.history = image.history;
        let mut clashes = Vec::new();
        for (key, entry) in image.changes {
            let declared = state.base.get(&key);
            if declared == entry.now.as_ref() {
                tracing::debug!(key, "the configuration file says by now what was changed at run time");
                continue;
            }
            // Declared no more, and was removed or changed at run time: removing wins over changing, as the file is the
            // base that the change was made to.
            if declared.is_none() && entry.file.is_some() && entry.now.is_none() {
                continue;
            }
            if declared != entry.file.as_ref() {
                clashes.push(Clash {
                    error: format!(
                        "{key} was changed at run time and in this file since: the file said {}, then it became {} at run \
                         time, and now the file says {}",
                        shown(entry.file.as_ref()),
                        shown(entry.now.as_ref()),
                        shown(declared)
                    ),
                    remedy: format!(
                        "make the file say what the run-time change says, to keep that; or delete the entry of this key from \
                         {} while the target is stopped, to go by the file",
                        path.display()
                    ),
                    key,
                });
                continue;
            }
            state.changes.insert(key, entry);
        }
        if clashes.is_empty() { Ok(state) } else { Err(StateError::Clash(clashes)) }
    }

    /// What is in force: the file's items with the changes made at run time.
    pub fn objects(&self) -> Objects {
        let mut all = self.base.clone();
        for (key, entry) in &self.changes {
            match &entry.now {
                Some(item) => all.insert(key.clone(), item.clone()),
                None => all.remove(key),
            };
        }
        all
    }

    /// The keys at which run time differs from the file, with what was changed.
    pub fn changes(&self) -> &BTreeMap<String, Entry> {
        &self.changes
    }

    /// Whether nothing was ever kept: no state file, or an empty one.
    pub fn is_new(&self) -> bool {
        self.changes.is_empty() && self.history.starts == 0
    }

    /// Makes `changes` part of the state and keeps it: all of them or, on an error, none.
    ///
    /// # Errors
    /// The state file cannot be written. The state is as before.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), Refusal> {
        let before = self.changes.clone();
        self.put(changes);
        if self.changes == before {
            return Ok(());
        }
        self.save().inspect_err(|_| self.changes = before)
    }

    fn put(&mut self, changes: &[Change]) {
        for (key, now) in changes {
            let file = self.base.get(key).cloned();
            if file == *now {
                self.changes.remove(key);
            } else {
                self.changes.insert(key.clone(), Entry { now: now.clone(), file });
            }
        }
    }

    /// Counts a start, and whether the run before ended without a stop; what SMART counts from. Kept by [`State::started`].
    pub fn begin(&mut self) -> History {
        self.history.starts += 1;
        if self.history.running {
            self.history.unclean += 1;
        }
        self.history.running = true;
        self.history
    }

    /// Keeps the start, with the changes that it made of its own: all of it or, on an error, none.
    ///
    /// # Errors
    /// The state file cannot be written.
    pub fn started(&mut self, changes: &[Change]) -> Result<(), Refusal> {
        let before = self.changes.clone();
        self.put(changes);
        self.save().inspect_err(|_| self.changes = before)
    }

    /// Tells how long this run has lasted; kept with the next change or the end.
    pub fn ran(&mut self, seconds: u64) {
        self.history.seconds += seconds.saturating_sub(self.run_seconds);
        self.run_seconds = self.run_seconds.max(seconds);
    }

    /// Counts a clean stop.
    ///
    /// # Errors
    /// The state file cannot be written.
    pub fn end(&mut self) -> Result<(), Refusal> {
        self.history.running = false;
        self.save()
    }

    fn save(&self) -> Result<(), Refusal> {
        let Some((path, files)) = &self.kept else { return Ok(()) };
        let image = Image { version: VERSION, history: self.history, changes: self.changes.clone() };
        let fail = |e: &std::io::Error| {
            Refusal::system(format!("the state file {} cannot be written", path.display()), e)
        };
        let mut bytes = serde_json::to_vec_pretty(&image).map_err(|e| fail(&e.into()))?;
        bytes.push(b'\n');
        files::replace(files.as_ref(), path, &bytes).map_err(|e| fail(&e))
    }
}

fn read_image(path: &Path, bytes: &[u8]) -> Result<Image, Refusal> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let broken = |e: serde_json::Error| {
        Refusal::invalid(
            format!("the state file {} cannot be understood: {e}", path.display()),
            "it is written as a whole, so something else changed it: restore it from a backup, or move it away to start from \
             the configuration file alone (volumes stay where they are)",
        )
    };
    let version: Version = serde_json::from_slice(bytes).map_err(broken)?;
    if version.version != VERSION {
        return Err(Refusal::invalid(
            format!(
                "the state file {} is of version {}, this program reads {VERSION}",
                path.display(),
                version.version
            ),
            "use the newer program that wrote it",
        ));
    }
    let image: Image = serde_json::from_slice(bytes).map_err(broken)?;
    for (key, entry) in &image.changes {
        if let Some(item) = entry.now.as_ref().or(entry.file.as_ref())
            && item.key() != *key
        {
            return Err(Refusal::invalid(
                format!("the state file {} has {} under the key {key}", path.display(), item.key()),
                "it was edited by hand: make key and contents agree, or remove the entry",
            ));
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests;
