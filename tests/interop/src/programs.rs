//! The conformance programs: one list, and the transports that each runs over. Those over RDMA run in the guest.
//!
//! [`LIST`] has every test program of `tests/conformance`. What runs over TCP is run by `cargo test` on this machine, without being
//! named; what runs over RDMA needs a device, and runs in the guest, without the tests that have `tcp` in their names.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::paths;

/// The transports that a program runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It says nothing of a transport's own bytes.
    Both,
    /// It is about TCP's own bytes, or counts what a processor of this machine does.
    Tcp,
    /// It is about RDMA's own messages.
    Rdma,
}

/// Every test program of `tests/conformance`.
pub const LIST: [(&str, Over); 14] = [
    ("admin", Over::Both),
    ("connect", Over::Both),
    ("discovery", Over::Both),
    ("erase", Over::Both),
    ("fused", Over::Both),
    ("hostile", Over::Tcp),
    ("io", Over::Both),
    ("limits", Over::Both),
    ("load", Over::Tcp),
    ("perf", Over::Both),
    ("rdma", Over::Rdma),
    ("steady", Over::Tcp),
    ("streams", Over::Tcp),
    ("transport", Over::Tcp),
];

/// Those that run over RDMA.
pub fn over_rdma() -> impl Iterator<Item = &'static str> {
    LIST.iter().filter(|(_, over)| *over != Over::Tcp).map(|(name, _)| *name)
}

/// Builds them, as `cargo test --workspace` does, and says where they are: of this package alone they would be built once more, with
/// other features of what they depend on.
///
/// # Errors
/// A sentence with what went wrong.
pub fn build() -> Result<BTreeMap<String, PathBuf>, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--workspace", "--no-run", "--message-format", "json"]);
    for name in over_rdma() {
        command.args(["--test", name]);
    }
    let output = command
        .current_dir(paths::repository())
        .output()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "the conformance programs cannot be built: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let built = executables(&text);
    match over_rdma().find(|name| !built.contains_key(*name)) {
        Some(name) => Err(format!("cargo did not say where the conformance program {name} is")),
        None => Ok(built),
    }
}

/// The conformance programs in cargo's messages: one JSON object a line, of which three fields are of use here.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let field = |line: &str, name: &str| -> Option<String> {
        let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let one = |line: &str| -> Option<(String, PathBuf)> {
        // Other packages have programs of the same names.
        if !field(line, "manifest_path")?.ends_with("/tests/conformance/Cargo.toml") {
            return None;
        }
        let path = PathBuf::from(field(line, "executable")?);
        let name = path.file_name()?.to_str()?.rsplit_once('-')?.0.to_owned();
        Some((name, path))
    };
    messages.lines().filter_map(one).collect()
}

/// Copies a program without what a debugger wants of it, for it goes through the guest's memory.
///
/// # Errors
/// It cannot be written.
pub fn strip(from: &Path, to: &Path) -> io::Result<()> {
    match Command::new("strip").arg("-o").arg(to).arg(from).status() {
        Ok(status) if status.success() => Ok(()),
        // Without binutils, all of it.
        _ => fs::copy(from, to).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_program() {
        let folder = paths::repository().join("tests/conformance/tests");
        let mut there: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
            .collect();
        there.sort();
        assert_eq!(there, LIST.map(|(name, _)| name));
    }

    #[test]
    fn cargo_says_where_programs_are() {
        let messages = "{\"manifest_path\":\"/c/tests/conformance/Cargo.toml\",\"executable\":null}\n\
            {\"manifest_path\":\"/c/target/core/Cargo.toml\",\"executable\":\"/b/debug/deps/admin-4567abcd\",\"fresh\":true}\n\
            {\"manifest_path\":\"/c/tests/conformance/Cargo.toml\",\"executable\":\"/b/debug/deps/admin-0123abcd\",\"fresh\":true}\n";
        let found = executables(messages);
        assert_eq!(
            found.get("admin").map(|p| p.display().to_string()).as_deref(),
            Some("/b/debug/deps/admin-0123abcd")
        );
        assert_eq!(found.len(), 1);
    }
}
