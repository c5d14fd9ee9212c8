//! Why something that an operator asked for was not done, and what to do next.
//!
//! Every refusal names the remedy: a refusal without one is a bug. Data-plane errors are not this; they are NVMe status.

use serde::{Deserialize, Serialize};

/// The kind of a refusal: the HTTP status and the exit code follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The request itself is wrong: a name, a size, an address.
    Invalid,
    /// It names something that does not exist.
    NotFound,
    /// It contradicts what exists: a name in use, a volume still exported.
    Conflict,
    /// The system refused: a file, a socket, the disk is full.
    System,
    /// Another process holds what is needed.
    Busy,
    /// A key manager does not answer; it is asked again by itself.
    Away,
}

/// What was refused, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}\n  remedy: {remedy}")]
pub struct Refusal {
    /// The kind.
    pub cause: Cause,
    /// What is wrong, in one sentence without a full stop.
    pub error: String,
    /// What to do about it.
    pub remedy: String,
    /// Seconds before which it is not tried again by itself, where asking sooner could only make it worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_s: Option<u32>,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(cause: Cause, error: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal { cause, error: error.into(), remedy: remedy.into(), after_s: None }
    }

    /// The request is wrong.
    pub fn invalid(error: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal::new(Cause::Invalid, error, remedy)
    }

    /// It names something that is not there.
    pub fn not_found(error: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal::new(Cause::NotFound, error, remedy)
    }

    /// It contradicts what is there.
    pub fn conflict(error: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal::new(Cause::Conflict, error, remedy)
    }

    /// The system refused `what`; the remedy follows from the system's error where it says enough.
    pub fn system(what: impl std::fmt::Display, error: &std::io::Error) -> Refusal {
        use std::io::ErrorKind as K;
        let remedy = match error.kind() {
            K::PermissionDenied => "check the owner and the permissions, or run as a user that may do this",
            K::NotFound => "check the path; create the missing folder or file",
            K::StorageFull | K::QuotaExceeded => "free space on that file system, then try again",
            K::AddrInUse => "another program uses this address: stop it, or choose another address or port",
            K::AddrNotAvailable => {
                "this machine has no such address: use one that `ip address` shows, or 0.0.0.0 for all of them"
            }
            K::ReadOnlyFilesystem => {
                "the file system is mounted read-only: remount it, or use another folder"
            }
            K::InvalidInput => {
                "the file system or device does not take this request: see the log for details"
            }
            _ => "see the target's log for what came before it; check the device and the file system",
        };
        let cause = if error.kind() == K::AddrInUse { Cause::Busy } else { Cause::System };
        Refusal::new(cause, format!("{what}: {error}"), remedy)
    }
}
