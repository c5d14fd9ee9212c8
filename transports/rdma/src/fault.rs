//! What ends a connection before its time, by cause: the names under which it is counted and logged.

use crate::session::Fatal;
use crate::work::WcStatus;

/// Why a connection was refused or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The private data of a connection request cannot be served.
    PrivateData,
    /// A message longer than its buffer: more data in a capsule than was advertised.
    Length,
    /// A message shorter than a command.
    ShortMessage,
    /// More commands on their way than the host asked for.
    TooManyCommands,
    /// The host's memory refuses access: a bad key, or a length that does not agree with it.
    BadKey,
    /// Our memory refuses access: the host reached for it, or a fault of ours or of the device.
    Protection,
    /// The host's device refuses a request.
    RemoteOperation,
    /// The host had no receive buffer for a response.
    ReceiverNotReady,
    /// The host did not acknowledge in time.
    RetriesExceeded,
    /// The connection went while commands or data were on their way.
    DisconnectInTransfer,
    /// The device refused work, reported what cannot be, or was removed.
    Device,
}

impl Cause {
    /// All of them, in order.
    pub const ALL: [Cause; 11] = [
        Cause::PrivateData,
        Cause::Length,
        Cause::ShortMessage,
        Cause::TooManyCommands,
        Cause::BadKey,
        Cause::Protection,
        Cause::RemoteOperation,
        Cause::ReceiverNotReady,
        Cause::RetriesExceeded,
        Cause::DisconnectInTransfer,
        Cause::Device,
    ];

    /// Its name in metrics and logs, which does not change once released.
    pub fn name(self) -> &'static str {
        match self {
            Cause::PrivateData => "private_data",
            Cause::Length => "length",
            Cause::ShortMessage => "short_message",
            Cause::TooManyCommands => "too_many_commands",
            Cause::BadKey => "bad_key",
            Cause::Protection => "protection",
            Cause::RemoteOperation => "remote_operation",
            Cause::ReceiverNotReady => "receiver_not_ready",
            Cause::RetriesExceeded => "retries_exceeded",
            Cause::DisconnectInTransfer => "disconnect_in_transfer",
            Cause::Device => "device",
        }
    }

    /// Whether that may be for the link of our own device, which fails what is on its way before it says that it is down: nothing that the
    /// other side did or said explains it.
    pub fn may_be_the_link(self) -> bool {
        matches!(self, Cause::RetriesExceeded | Cause::DisconnectInTransfer | Cause::Device)
    }

    /// Its place in [`Cause::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl Fatal {
    /// What it is counted as.
    pub fn cause(&self) -> Cause {
        match self {
            Fatal::Short { .. } => Cause::ShortMessage,
            Fatal::TooMany { .. } => Cause::TooManyCommands,
            Fatal::Refused { .. } | Fatal::Stray => Cause::Device,
            Fatal::Failed { what, status } => match status {
                WcStatus::Length => Cause::Length,
                // A receive fails where it was too small. Not all devices have the word for it: soft-RoCE says "local operation
                // error" (2).
                WcStatus::RemoteOperation | WcStatus::Other(2) if *what == RECEIVE => Cause::Length,
                WcStatus::LocalProtection => Cause::Protection,
                WcStatus::RemoteAccess => Cause::BadKey,
                WcStatus::RemoteOperation => Cause::RemoteOperation,
                WcStatus::Retries => Cause::RetriesExceeded,
                WcStatus::ReceiverNotReady => Cause::ReceiverNotReady,
                WcStatus::Flushed => Cause::DisconnectInTransfer,
                WcStatus::Success | WcStatus::Other(_) => Cause::Device,
            },
        }
    }
}

/// What a failed receive is called in [`Fatal::Failed`].
pub const RECEIVE: &str = "receive";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_their_places_and_names() {
        for (n, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause.index(), n);
            assert!(Cause::ALL.iter().filter(|c| c.name() == cause.name()).count() == 1);
        }
        let failed = |what, status| Fatal::Failed { what, status }.cause();
        assert_eq!(failed(RECEIVE, WcStatus::RemoteOperation), Cause::Length);
        assert_eq!(failed(RECEIVE, WcStatus::Other(2)), Cause::Length);
        assert_eq!(failed("SEND", WcStatus::RemoteOperation), Cause::RemoteOperation);
        assert_eq!(failed("RDMA READ", WcStatus::RemoteAccess), Cause::BadKey);
        // What soft-RoCE makes of a link that fails, and devices of other minds.
        for status in [WcStatus::Flushed, WcStatus::Retries, WcStatus::Other(2)] {
            assert!(failed("SEND", status).may_be_the_link(), "{status:?}");
        }
        assert!(!Cause::BadKey.may_be_the_link() && !Cause::Length.may_be_the_link());
    }
}
