//! Rules of the house, run as tests: this library reads the tree, the tests beside it hold the rules.
//!
//! Owns walking the working copy, telling code from comments and strings, and collecting what breaks a rule. It must
//! never change a file, and never need anything but the tree.

mod code;

pub use code::{Code, strip};

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the working copy.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("tests/tidy is two folders down").to_path_buf()
}

/// Folders that hold no source: what Cargo, a run, or the test-bed leaves behind. At any depth `build` and `corpus` of the
/// fuzzer count too.
const PASSED_OVER: &[&str] = &["build", "caisson-data", "node_modules", "corpus", "artifacts", "coverage"];

/// A file of the tree.
pub struct File {
    /// Its path from the root, with `/`.
    pub path: String,
    /// Its content.
    pub text: String,
}

impl File {
    /// Whether its name ends so.
    pub fn ends(&self, with: &str) -> bool {
        self.path.ends_with(with)
    }

    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.ends(".rs")
    }

    /// Whether a test of the tree rather than a part of the product: under `tests/`, in a crate's own `tests`,
    /// `benches` or `examples`, or a test module in a file of its own.
    pub fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.contains("/benches/")
            || self.path.contains("/examples/")
            || self.ends("/tests.rs")
            || self.ends("_tests.rs")
    }
}

/// Every text file of the tree, sorted by path. Hidden folders and what is built are passed over; hidden files are not.
pub fn files() -> Vec<File> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "the tree at {} is nearly empty", root.display());
    found
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<File>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries.map(|e| e.expect("a folder can be read to its end")) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().expect("an entry has a type");
        if kind.is_dir() {
            let kept = !name.starts_with('.') || matches!(&name[..], ".cargo" | ".ci");
            if kept && !PASSED_OVER.contains(&&name[..]) {
                walk(root, &path, found);
            }
        } else if kind.is_file()
            && name != ".git"
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            found.push(File { path, text });
        }
    }
}

/// The folders right below the root that hold source.
pub fn top_folders() -> Vec<String> {
    let mut names: Vec<String> = files()
        .iter()
        .filter_map(|f| f.path.split_once('/').map(|(top, _)| top.to_owned()))
        .filter(|top| !top.starts_with('.'))
        .collect();
    names.dedup();
    names
}

/// A `Cargo.toml`, parsed.
pub struct Manifest {
    /// Its folder from the root; empty for the workspace.
    pub folder: String,
    /// Its content.
    pub toml: toml::Table,
}

impl Manifest {
    /// The package's name; `None` for the workspace.
    pub fn package(&self) -> Option<&str> {
        self.toml.get("package")?.get("name")?.as_str()
    }

    /// The names in one of its dependency tables, of all targets.
    pub fn dependencies(&self, table: &str) -> Vec<(&str, &toml::Value)> {
        let own = self.toml.get(table).into_iter();
        let targets = self.toml.get("target").and_then(|t| t.as_table()).into_iter();
        let of_targets = targets.flat_map(|t| t.values()).filter_map(|t| t.get(table));
        own.chain(of_targets)
            .filter_map(|t| t.as_table())
            .flat_map(|t| t.iter().map(|(name, value)| (&name[..], value)))
            .collect()
    }
}

/// Every `Cargo.toml` of the tree.
pub fn manifests() -> Vec<Manifest> {
    files()
        .into_iter()
        .filter(|f| f.path == "Cargo.toml" || f.ends("/Cargo.toml"))
        .map(|f| Manifest {
            folder: f.path.trim_end_matches("Cargo.toml").trim_end_matches('/').to_owned(),
            toml: f.text.parse().unwrap_or_else(|e| panic!("{}: {e}", f.path)),
        })
        .collect()
}

/// What broke a rule, to be reported all at once.
#[derive(Default)]
pub struct Faults(Vec<String>);

impl Faults {
    /// Notes one.
    pub fn add(&mut self, what: impl Into<String>) {
        self.0.push(what.into());
    }

    /// Fails the test with the rule and all that broke it.
    pub fn report(self, rule: &str) {
        assert!(self.0.is_empty(), "\n{rule}\n  {}\n", self.0.join("\n  "));
    }
}
