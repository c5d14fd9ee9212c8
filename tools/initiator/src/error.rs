//! What can go wrong with a target, in words that name the next step.

use caisson_wire::Status;
use std::io;
use std::time::Duration;

/// Why an operation of the initiator failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one.
    #[error("`{text}` is no address: {why}; write it as tcp://HOST:PORT, rdma://HOST:PORT or HOST:PORT")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The host's name leads nowhere.
    #[error("the host {host} is not found: {why}; check its name, or give its address")]
    Name {
        /// The name.
        host: String,
        /// What the system says.
        why: String,
    },
    /// No connection came about.
    #[error("cannot connect to {addr}: {source}; is a target listening there?")]
    Connect {
        /// Where to.
        addr: String,
        /// The system's reason.
        source: io::Error,
    },
    /// No RDMA connection came about.
    #[error("cannot connect to {addr}: {source}")]
    Rdma {
        /// Where to.
        addr: String,
        /// Which step failed, and why.
        source: caisson_verbs::host::Failure,
    },
    /// The target refused an RDMA connection.
    #[error("{addr} refuses the RDMA connection: {text} (status {status:#x})")]
    Refused {
        /// Where to.
        addr: String,
        /// STS of the private data; 0 when it said nothing.
        status: u16,
        /// What that means.
        text: &'static str,
    },
    /// An RDMA connection failed later.
    #[error("the RDMA connection failed: {source}")]
    Transfer {
        /// How.
        source: caisson_verbs::host::Over,
    },
    /// The socket failed later.
    #[error("the connection failed while {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("{what} did not come within {after:?}; is the target alive, and does NVMe listen there?")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// The peer closed the connection.
    #[error("the target closed the connection while {doing}")]
    Closed {
        /// What was being done.
        doing: String,
    },
    /// The peer sent a termination request.
    #[error("the target terminated the connection: fatal error status {fes:#04x}, information {fei:#x}")]
    Terminated {
        /// FES of the C2HTermReq.
        fes: u16,
        /// FEI of the C2HTermReq.
        fei: u32,
    },
    /// The peer broke the transport's rules.
    #[error("the target broke the transport's rules: {what}")]
    Protocol {
        /// How.
        what: String,
    },
    /// A command ended with a status that is not success.
    #[error("{what}: {status}")]
    Status {
        /// Which command.
        what: String,
        /// How it ended.
        status: Status,
    },
    /// The target refused a Connect to a subsystem.
    #[error("{what}: {}", connect(status))]
    NotAdmitted {
        /// Which subsystem, and which host.
        what: String,
        /// How the Connect ended.
        status: Status,
    },
    /// The target cannot do what was asked of it.
    #[error("{what}; {remedy}")]
    Unsuitable {
        /// What does not fit.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// Data that was read is not what was written.
    #[error("{bad} of {checked} blocks read back wrong, the first at LBA {lba}: {why}")]
    Miscompare {
        /// How many blocks were wrong.
        bad: u64,
        /// Of how many.
        checked: u64,
        /// The first one.
        lba: u64,
        /// What was wrong with it.
        why: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// What a refused Connect's status says, and what to do about it (NVMe over Fabrics in NVMe Base 2.1, section 6.3, gives some codes
/// of other commands meanings of their own).
fn connect(status: &Status) -> String {
    if status.is(Status::CONNECT_INVALID_PARAMETERS) {
        "Connect Invalid Parameters (1h/82h); is there a subsystem of that name? `caisson discover ADDRESS` lists them".into()
    } else if status.is(Status::CONNECT_INVALID_HOST) {
        "Connect Invalid Host (1h/84h); let this host in on the target: `caisson host allow NQN HOSTNQN`"
            .into()
    } else {
        status.to_string()
    }
}

impl Error {
    /// A socket error, or [`Error::Closed`] when it says that the peer is gone.
    pub(crate) fn io(doing: &'static str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Error::Closed { doing: doing.into() }
            }
            _ => Error::Io { doing, source },
        }
    }

    /// A breach of the transport's rules.
    pub(crate) fn protocol(what: impl Into<String>) -> Error {
        Error::Protocol { what: what.into() }
    }

    /// An option or a target that does not fit, and what to do.
    pub(crate) fn unsuitable(what: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Unsuitable { what: what.into(), remedy: remedy.into() }
    }
}

/// What the initiator's operations return.
pub type Result<T> = std::result::Result<T, Error>;
