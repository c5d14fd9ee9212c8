//! The configuration file: TOML text to [`Settings`] and [`Objects`], or everything that is wrong in it.
//!
//! Sans-IO but for [`Config::load`], which reads the one file. docs/configuration.md describes the format for people, and
//! docs/caisson.example.toml is read by a test here. Every problem names file, line, column and remedy.

mod pools;
pub mod problem;
mod read;
pub(crate) use read::{SOCKET_PATH_MAX, default_serves};
pub mod settings;
mod walk;

use crate::model::Objects;
use problem::{Problem, Rejected};
use settings::Settings;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration file that was read and found sound.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it was.
    pub file: PathBuf,
    /// Its text, to show lines of.
    pub text: String,
    /// What is not an exported object.
    pub settings: Settings,
    /// What is exported, as the file declares it.
    pub objects: Objects,
    /// Where each item is declared, in bytes of the text.
    pub places: BTreeMap<String, Range<usize>>,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// The system's error on reading it (as a problem of line 1), or what is wrong in it.
    pub fn load(file: &Path) -> Result<Config, Rejected> {
        match std::fs::read_to_string(file) {
            Ok(text) => Config::parse(file, &text),
            Err(e) => {
                let refusal = crate::Refusal::system("the configuration file cannot be read", &e);
                let problem = Problem { span: 0..0, error: refusal.error, remedy: refusal.remedy };
                Err(Rejected::new(file, "", vec![problem]))
            }
        }
    }

    /// Reads `text`, which is what `file` holds; relative paths in it are relative to the file's folder.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(file: &Path, text: &str) -> Result<Config, Rejected> {
        read::config(file, text).map_err(|problems| Rejected::new(file, text, problems))
    }

    /// Says in the manner of this file's own problems that the item under `key` cannot be used.
    pub fn reject(&self, key: &str, error: String, remedy: String) -> Rejected {
        let span = self.places.get(key).cloned().unwrap_or(0..0);
        Rejected::new(&self.file, &self.text, vec![Problem { span, error, remedy }])
    }
}

#[cfg(test)]
mod tests;
