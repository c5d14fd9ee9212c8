//! Where a passphrase or PIN comes from.
//!
//! Owns the choice of the source and reading it. It must never show one, and never ask a person who is not there: without
//! a terminal the answer is an error that names the other ways.

use crate::tty;
use caisson_keys::Secret;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroize;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The passphrase of a sealed key file.
    Passphrase,
    /// The user PIN of a PKCS#11 token.
    Pin,
}

impl Wanted {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Wanted::Passphrase => "passphrase",
            Wanted::Pin => "PIN",
        }
    }

    /// The environment variable that may hold it.
    pub const fn variable(self) -> &'static str {
        match self {
            Wanted::Passphrase => "CAISSON_PASSPHRASE",
            Wanted::Pin => "CAISSON_PIN",
        }
    }

    /// The name of the systemd credential that may hold it.
    pub const fn credential(self) -> &'static str {
        match self {
            Wanted::Passphrase => "caisson-passphrase",
            Wanted::Pin => "caisson-pin",
        }
    }

    /// How a file is named that holds it.
    const fn option(self) -> &'static str {
        match self {
            Wanted::Passphrase => "--passphrase-file FILE",
            Wanted::Pin => "pin-source=file:FILE in the key's name",
        }
    }
}

/// Longest passphrase in bytes.
pub const MAX_PASSPHRASE: usize = 1024;

/// Where a passphrase comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassphraseSource {
    /// A person at the terminal.
    Prompt,
    /// The environment variable of what is wanted.
    Environment(Wanted),
    /// A file; one newline at its end is not part of it.
    File(PathBuf),
    /// A credential of the systemd unit, in this file.
    Credential(PathBuf),
}

/// What it is for, which the prompt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// To open this file.
    Open(&'a Path),
    /// To create it: a person is asked twice.
    Create(&'a Path),
    /// To log in to this token.
    Pin(&'a str),
}

/// Why there is no passphrase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// Nobody to ask and nothing set.
    #[error("no {} is given, and there is nobody to ask", .0.word())]
    NoSource(Wanted),
    /// A file could not be read.
    #[error("passphrase file {path}: {cause}", path = .path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        cause: String,
    },
    /// The terminal failed.
    #[error("cannot ask at the terminal: {cause}")]
    Terminal {
        /// The system's reason.
        cause: String,
    },
    /// The person gave up.
    #[error("no passphrase was entered")]
    Cancelled,
    /// The two that were entered differ.
    #[error("the two passphrases differ; nothing was created")]
    Differ,
    /// It has no bytes.
    #[error("the passphrase from {from} is empty")]
    Empty {
        /// Where it came from.
        from: String,
    },
    /// It has too many.
    #[error("the passphrase from {from} is longer than {MAX_PASSPHRASE} bytes")]
    TooLong {
        /// Where it came from.
        from: String,
    },
}

impl PassphraseError {
    /// What a person can do about it, as one sentence.
    pub fn remedy(&self) -> String {
        match self {
            PassphraseError::NoSource(wanted) => format!(
                "give {}, set {}, or add a systemd credential called {}",
                wanted.option(),
                wanted.variable(),
                wanted.credential()
            ),
            PassphraseError::File { .. } => "check the path, the owner and the permissions".into(),
            PassphraseError::Terminal { .. } => {
                "give the passphrase with --passphrase-file FILE, or a PIN with pin-source=file:FILE, instead"
                    .into()
            }
            PassphraseError::Cancelled | PassphraseError::Differ => "try again".into(),
            PassphraseError::Empty { .. } => "choose a passphrase of several words".into(),
            PassphraseError::TooLong { .. } => format!("use at most {MAX_PASSPHRASE} bytes"),
        }
    }
}

impl PassphraseSource {
    /// The source to use: the file that was named, else the systemd credential, else the environment variable, else a person, if
    /// there is a terminal and `ask` allows it: nobody sits there any more when a target has been running for a week.
    pub fn choose(
        wanted: Wanted,
        file: Option<&Path>,
        ask: bool,
    ) -> Result<PassphraseSource, PassphraseError> {
        Self::choose_from(
            wanted,
            file,
            std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            std::env::var_os(wanted.variable()).is_some(),
            ask && tty::there_is_one(),
        )
    }

    fn choose_from(
        wanted: Wanted,
        file: Option<&Path>,
        credentials: Option<PathBuf>,
        variable: bool,
        terminal: bool,
    ) -> Result<PassphraseSource, PassphraseError> {
        if let Some(path) = file {
            return Ok(PassphraseSource::File(path.into()));
        }
        let credential = credentials.map(|dir| dir.join(wanted.credential())).filter(|path| path.exists());
        match credential {
            Some(path) => Ok(PassphraseSource::Credential(path)),
            None if variable => Ok(PassphraseSource::Environment(wanted)),
            None if terminal => Ok(PassphraseSource::Prompt),
            None => Err(PassphraseError::NoSource(wanted)),
        }
    }

    /// The passphrase: 1 to [`MAX_PASSPHRASE`] bytes.
    pub fn get(&self, ask: Ask<'_>) -> Result<Secret, PassphraseError> {
        let (mut bytes, from) = match self {
            PassphraseSource::Prompt => return tty::prompt(ask),
            PassphraseSource::Environment(wanted) => {
                let name = wanted.variable();
                let value = std::env::var_os(name).ok_or(PassphraseError::NoSource(*wanted))?;
                (value.into_vec(), name.to_owned())
            }
            PassphraseSource::File(path) => (read(path)?, path.display().to_string()),
            PassphraseSource::Credential(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                (read(path)?, format!("the credential {name}"))
            }
        };
        if !matches!(self, PassphraseSource::Environment(_)) {
            strip_newline(&mut bytes);
        }
        accept(bytes, from)
    }
}

/// Takes over `bytes` where their number is within bounds; erases them in any case.
pub(crate) fn accept(mut bytes: Vec<u8>, from: String) -> Result<Secret, PassphraseError> {
    match bytes.len() {
        0 => Err(PassphraseError::Empty { from }),
        1..=MAX_PASSPHRASE => Ok(Secret::take(&mut bytes)),
        _ => {
            bytes.zeroize();
            Err(PassphraseError::TooLong { from })
        }
    }
}

/// One newline, as editors and `echo` leave it.
fn strip_newline(bytes: &mut Vec<u8>) {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PassphraseError> {
    let failed = |e: std::io::Error| PassphraseError::File { path: path.into(), cause: e.to_string() };
    // Enough for one that is too long to be seen as such, and allocated once, so that no part is left behind.
    let mut bytes = Vec::with_capacity(MAX_PASSPHRASE + 8);
    let file = std::fs::File::open(path).map_err(failed)?;
    let read = file.take(MAX_PASSPHRASE as u64 + 3).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_there_is_chosen() {
        let dir = std::env::temp_dir().join(format!("caisson-credentials-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let choose = |file: Option<&Path>, dir, variable, terminal| {
            PassphraseSource::choose_from(Wanted::Passphrase, file, dir, variable, terminal)
        };
        let none = choose(None, Some(dir.clone()), false, false).unwrap_err();
        assert!(none.remedy().contains("--passphrase-file") && none.remedy().contains("CAISSON_PASSPHRASE"));
        assert_eq!(choose(None, None, false, true), Ok(PassphraseSource::Prompt));
        assert_eq!(
            choose(None, Some(dir.clone()), true, true),
            Ok(PassphraseSource::Environment(Wanted::Passphrase))
        );
        let credential = dir.join(Wanted::Passphrase.credential());
        std::fs::write(&credential, "from systemd").unwrap();
        let chosen = choose(None, Some(dir.clone()), true, true).unwrap();
        assert_eq!(chosen, PassphraseSource::Credential(credential));
        assert_eq!(chosen.get(Ask::Open(Path::new("k"))).unwrap().expose(), b"from systemd");
        let file = choose(Some(Path::new("f")), Some(dir.clone()), true, true);
        assert_eq!(file, Ok(PassphraseSource::File("f".into())));
        // A PIN has sources of its own names.
        let pin = PassphraseSource::choose_from(Wanted::Pin, None, Some(dir.clone()), false, false);
        assert_eq!(pin, Err(PassphraseError::NoSource(Wanted::Pin)));
        let pin = PassphraseSource::choose_from(Wanted::Pin, None, None, true, false);
        assert_eq!(pin, Ok(PassphraseSource::Environment(Wanted::Pin)));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn files_lose_one_newline_and_have_bounds() {
        let path = std::env::temp_dir().join(format!("caisson-passphrase-{}", std::process::id()));
        let source = PassphraseSource::File(path.clone());
        let get = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            source.get(Ask::Open(Path::new("k"))).map(|s| s.expose().to_vec())
        };
        assert_eq!(get(b"two words\n").unwrap(), b"two words");
        assert_eq!(get(b"two words\r\n").unwrap(), b"two words");
        assert_eq!(get(b"\xff\n\n").unwrap(), b"\xff\n");
        assert!(matches!(get(b"\n"), Err(PassphraseError::Empty { .. })));
        assert_eq!(get(&[b'x'; MAX_PASSPHRASE]).unwrap().len(), MAX_PASSPHRASE);
        assert_eq!(get(&[&[b'x'; MAX_PASSPHRASE][..], b"\r\n"].concat()).unwrap().len(), MAX_PASSPHRASE);
        assert!(matches!(get(&[b'x'; MAX_PASSPHRASE + 1]), Err(PassphraseError::TooLong { .. })));
        assert!(matches!(get(&[b'x'; 9000]), Err(PassphraseError::TooLong { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(source.get(Ask::Open(Path::new("k"))), Err(PassphraseError::File { .. })));
    }
}
