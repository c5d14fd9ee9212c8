//! Why a command failed: what is printed, and the exit status, which `caisson --help` lists.

use caisson_daemon::Refusal;
use caisson_daemon::config::problem::Rejected;
use caisson_daemon::manage::client::ClientError;

/// A command's failure.
#[derive(Debug)]
pub enum Failure {
    /// Something here: a file, a lock, an address.
    Here(Refusal),
    /// No target answers on the socket.
    NoTarget(Refusal),
    /// The target refused.
    Refused(Refusal),
    /// The configuration file is wrong.
    Config(Box<Rejected>),
    /// The user-space initiator failed.
    Initiator(caisson_initiator::Error),
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Here(_) => 1,
            Failure::Initiator(caisson_initiator::Error::Connect { .. }) => 3,
            Failure::Initiator(_) => 1,
            Failure::NoTarget(_) => 3,
            Failure::Refused(_) => 4,
            Failure::Config(_) => 5,
        }
    }

    /// The failure as JSON, for those who asked for that.
    pub fn json(&self) -> serde_json::Value {
        let plain = |r: &Refusal| serde_json::json!({ "error": r.error, "remedy": r.remedy });
        match self {
            Failure::Here(r) | Failure::NoTarget(r) | Failure::Refused(r) => plain(r),
            Failure::Config(r) => {
                let problems = r.problems.iter().map(|p| {
                    let (line, column) = caisson_daemon::config::problem::line_column(&r.text, p.span.start);
                    serde_json::json!({
                        "file": r.file.display().to_string(), "line": line, "column": column,
                        "error": p.error, "remedy": p.remedy,
                    })
                });
                serde_json::json!({ "problems": problems.collect::<Vec<_>>() })
            }
            Failure::Initiator(e) => serde_json::json!({ "error": e.to_string() }),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Here(r) | Failure::NoTarget(r) | Failure::Refused(r) => write!(f, "error: {r}"),
            Failure::Config(r) => r.fmt(f),
            Failure::Initiator(e) => write!(f, "error: {e}"),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(r: Refusal) -> Failure {
        Failure::Here(r)
    }
}

impl From<Rejected> for Failure {
    fn from(r: Rejected) -> Failure {
        Failure::Config(Box::new(r))
    }
}

impl From<caisson_initiator::Error> for Failure {
    fn from(e: caisson_initiator::Error) -> Failure {
        Failure::Initiator(e)
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Failure {
        match e {
            ClientError::Refused(r) => Failure::Refused(r),
            ClientError::Unreachable(r) => Failure::NoTarget(r),
        }
    }
}
