//! Where things are: the repository, the scripts, the `caisson` program, a suite's folder.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The repository's root.
pub fn repository() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.ancestors().nth(2).expect("tests/interop is two folders below the root").to_owned()
    })
}

/// A script of `tools/testbed`.
pub fn script(name: &str) -> PathBuf {
    repository().join("tools/testbed").join(name)
}

/// A fresh, empty folder for a suite's run, kept afterwards for reading.
pub fn suite_folder(suite: &str) -> io::Result<PathBuf> {
    let folder = repository().join("build/interop").join(suite);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The `caisson` program: `CAISSON_BIN`, else the release build, built when it is not there.
///
/// # Errors
/// A sentence saying what is missing.
pub fn caisson() -> Result<PathBuf, String> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY.get_or_init(find_caisson).clone()
}

fn find_caisson() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("CAISSON_BIN") {
        let path = PathBuf::from(path);
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("CAISSON_BIN is {}, which is no file", path.display())),
        };
    }
    let built = repository().join("build/release/caisson");
    if !built.is_file() {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--release", "-p", "caisson"])
            .current_dir(repository())
            .status()
            .map_err(|error| format!("cargo does not start: {error}"))?;
        if !status.success() || !built.is_file() {
            return Err("cargo build --release -p caisson made no build/release/caisson".into());
        }
    }
    Ok(built)
}
