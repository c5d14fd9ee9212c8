//! The conformance programs that run in the guest: which, and how they come there.
//!
//! [`OVER_BOTH`] is the list of what says nothing of one transport. On this machine `cargo test` runs all of them over TCP; in the guest,
//! which has RDMA, they run over RDMA, without the tests that have `tcp` in their names.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::paths;

/// Test programs of `tests/conformance` that say nothing of a transport's own bytes.
pub const OVER_BOTH: [&str; 7] = ["admin", "connect", "discovery", "fused", "io", "perf", "limits"];

/// Those that are about RDMA alone.
pub const OVER_RDMA: [&str; 1] = ["rdma"];

/// Builds them, as `cargo test` does, and says where they are.
///
/// # Errors
/// A sentence with what went wrong.
pub fn build() -> Result<BTreeMap<String, PathBuf>, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "-p", "caisson-conformance", "--no-run", "--message-format", "json"]);
    for name in OVER_BOTH.iter().chain(&OVER_RDMA) {
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
    match OVER_BOTH.iter().chain(&OVER_RDMA).find(|name| !built.contains_key(**name)) {
        Some(name) => Err(format!("cargo did not say where the conformance program {name} is")),
        None => Ok(built),
    }
}

/// The programs in cargo's messages: one JSON object a line, of which two fields are of use here.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let field = |line: &str, name: &str| -> Option<String> {
        let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let one = |line: &str| -> Option<(String, PathBuf)> {
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
    fn cargo_says_where_programs_are() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/b/debug/deps/admin-0123abcd\",\"fresh\":true}\n";
        let found = executables(messages);
        assert_eq!(
            found.get("admin").map(|p| p.display().to_string()).as_deref(),
            Some("/b/debug/deps/admin-0123abcd")
        );
        assert_eq!(found.len(), 1);
    }
}
