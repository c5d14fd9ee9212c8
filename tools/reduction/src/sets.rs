//! The sets of files that are measured, and where they come from.
//!
//! Owns what is fetched and made for them. Everything goes below the folder for data, outside the repository, and is used again by
//! the next run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A set by its name.
pub struct Set {
    /// Its name, as given to `--set`.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Whether its files are compressed already, so that nothing is to be gained.
    pub compressed: bool,
    /// Folders of its files.
    pub folders: Vec<PathBuf>,
}

/// Debian packages of which the archive has several versions at a time (stable, its updates, security).
const PACKAGES: &[&str] = &[
    "openssl",
    "libssl3",
    "libssl-dev",
    "libc6",
    "libc6-dev",
    "libc-bin",
    "locales",
    "python3.11",
    "python3.11-minimal",
    "libpython3.11-stdlib",
    "libpython3.11-minimal",
    "git",
    "curl",
    "perl-base",
    "perl-modules-5.36",
    "libperl5.36",
    "postgresql-15",
    "postgresql-client-15",
    "libgnutls30",
    "linux-libc-dev",
    "linux-headers-6.1.0-55-common",
    "linux-headers-6.1.0-56-common",
];

/// Rows of the database's largest table.
const ROWS: &str = "600000";

/// Why a set could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// A command could not be run, or failed.
    #[error("{command}: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// How it ended.
        reason: String,
    },
    /// A folder could not be made.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Nothing was found for it.
    #[error("there are no files for it in {0}")]
    Empty(PathBuf),
}

fn run(command: &mut Command) -> Result<String, SetError> {
    let shown = format!("{command:?}");
    let failed = |reason: String| SetError::Command { command: shown.clone(), reason };
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn make(path: PathBuf) -> Result<PathBuf, SetError> {
    fs::create_dir_all(&path).map_err(|source| SetError::Folder { path: path.clone(), source })?;
    Ok(path)
}

/// Names of the sets.
pub const NAMES: &[&str] = &["packages", "sources", "binaries", "database", "scripts", "compressed"];

/// Makes ready the set called `name`, below `data`.
pub fn set(name: &'static str, data: &Path) -> Result<Set, SetError> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let cargo = home.unwrap_or_default().join("registry");
    let (about, compressed, folders) = match name {
        "packages" => {
            ("unpacked Debian packages, all versions that the archive has", false, vec![packages(data)?])
        }
        "sources" => ("unpacked Rust crates (Cargo's registry)", false, vec![cargo.join("src")]),
        "binaries" => {
            ("programs: /usr/bin and /usr/sbin", false, vec!["/usr/bin".into(), "/usr/sbin".into()])
        }
        "database" => ("an SQLite database of a shop", false, vec![database(data)?]),
        "scripts" => ("interpreted code and C headers: perl, python, /usr/include", false, scripts()),
        _ => ("compressed files: .deb and .crate", true, vec![make(data.join("debs"))?, cargo.join("cache")]),
    };
    match folders.iter().any(|f| f.is_dir()) {
        true => Ok(Set { name, about, compressed, folders }),
        false => Err(SetError::Empty(folders[0].clone())),
    }
}

fn scripts() -> Vec<PathBuf> {
    ["/usr/share/perl", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/include"].map(PathBuf::from).to_vec()
}

/// Fetches the packages in all versions that apt knows of, and unpacks each to a folder of its own.
fn packages(data: &Path) -> Result<PathBuf, SetError> {
    let debs = make(data.join("debs"))?;
    let unpacked = make(data.join("packages"))?;
    for package in PACKAGES {
        let listed = run(Command::new("apt-cache").args(["madison", package]))?;
        let mut versions: Vec<&str> =
            listed.lines().filter_map(|l| l.split('|').nth(1)).map(str::trim).collect();
        versions.sort_unstable();
        versions.dedup();
        for version in versions {
            if let Err(e) = unpack(package, version, &debs, &unpacked) {
                eprintln!("left out: {e}");
            }
        }
    }
    Ok(unpacked)
}

fn unpack(package: &str, version: &str, debs: &Path, unpacked: &Path) -> Result<(), SetError> {
    let to = unpacked.join(format!("{package}_{}", version.replace(':', "%3a")));
    if to.is_dir() {
        return Ok(());
    }
    let before = names(debs);
    run(Command::new("apt-get").arg("download").arg(format!("{package}={version}")).current_dir(debs))?;
    let prefix = format!("{package}_");
    let escaped = version.replace(':', "%3a");
    let fits = |n: &&String| n.starts_with(&prefix) && n.contains(&escaped);
    let after = names(debs);
    let new = after.iter().find(|n| !before.contains(n)).or(after.iter().find(fits));
    let file = debs.join(new.ok_or_else(|| SetError::Empty(debs.to_path_buf()))?);
    run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&to)).map(drop)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn database(data: &Path) -> Result<PathBuf, SetError> {
    let folder = make(data.join("database"))?;
    let file = folder.join("shop.sqlite");
    if !file.is_file() {
        let new = data.join("shop.new");
        let _ = fs::remove_file(&new);
        run(Command::new("python3").args(["-c", include_str!("database.py")]).arg(&new).arg(ROWS))?;
        fs::rename(&new, &file).map_err(|source| SetError::Folder { path: file, source })?;
    }
    Ok(folder)
}
