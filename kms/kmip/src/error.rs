//! What can go wrong between here and a server.
//!
//! Owns the mapping from TLS and KMIP to [`KeyError`]. A server that says no is told from one that cannot be reached: only the
//! latter is a reason to try the next, or again later.

use crate::ttlv::TtlvError;
use caisson_keys::KeyError;
use rustls::{AlertDescription, CertificateError};
use std::io;

/// Result reasons (KMIP Specification 1.4, 9.1.3.2.28) that mean something to us.
pub mod reason {
    pub const ITEM_NOT_FOUND: u32 = 0x01;
    pub const AUTHENTICATION_NOT_SUCCESSFUL: u32 = 0x03;
    pub const OPERATION_NOT_SUPPORTED: u32 = 0x05;
    pub const PERMISSION_DENIED: u32 = 0x0c;
    pub const OBJECT_ARCHIVED: u32 = 0x0d;
}

/// Why an operation gave nothing.
#[derive(Debug)]
pub enum Fault {
    /// No answer: the connection, TLS, or something that is no KMIP.
    Way(KeyError),
    /// The server answered that it will not.
    No {
        /// The result reason.
        reason: u32,
        /// What it says.
        message: String,
    },
}

/// A fault of the way to `server`.
pub fn away(server: &str, cause: impl ToString) -> Fault {
    Fault::Way(KeyError::Unavailable { provider: called(server), cause: cause.to_string() })
}

/// An answer that is not KMIP.
pub fn garbled(server: &str, e: TtlvError) -> Fault {
    away(server, format!("its answer cannot be read: {e}"))
}

/// How errors call a server.
pub fn called(server: &str) -> String {
    format!("{} server {server}", crate::NAME)
}

/// An error of the connection, which may be one of TLS inside.
pub fn of_io(server: &str, e: &io::Error) -> Fault {
    match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => of_tls(server, tls),
        None if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            away(server, "no answer in time")
        }
        None => away(server, e),
    }
}

/// An error of TLS.
pub fn of_tls(server: &str, e: &rustls::Error) -> Fault {
    use CertificateError as C;
    let provider = called(server);
    let refused = |cause: String, remedy: &str| {
        Fault::Way(KeyError::Refused { provider: provider.clone(), cause, remedy: remedy.into() })
    };
    match e {
        rustls::Error::InvalidCertificate(
            C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
        ) => Fault::Way(KeyError::Expired { provider, what: "the server's certificate".into() }),
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            Fault::Way(KeyError::Expired { provider, what: "the certificate of this client (cert=)".into() })
        }
        rustls::Error::InvalidCertificate(e) => refused(
            format!("its certificate is not accepted: {e:?}"),
            "name the authority that signed the server's certificate (ca=), and the server as its certificate does (server=)",
        ),
        rustls::Error::AlertReceived(
            a @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure
            | AlertDescription::DecryptError),
        ) => refused(
            format!("it does not accept this client's certificate ({a:?})"),
            "give a certificate (cert=, key=) that the server's administrator has let in and that is not revoked",
        ),
        e => away(server, format!("TLS: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(e: rustls::Error) -> KeyError {
        let inside = io::Error::new(io::ErrorKind::InvalidData, e);
        match of_io("kms:5696", &inside) {
            Fault::Way(e) => e,
            no => panic!("{no:?}"),
        }
    }

    #[test]
    fn certificates_are_told_from_servers_that_are_away() {
        let expired = of(rustls::Error::InvalidCertificate(CertificateError::Expired));
        assert!(matches!(&expired, KeyError::Expired { what, .. } if what.contains("server's")), "{expired}");
        let ours = of(rustls::Error::AlertReceived(AlertDescription::CertificateExpired));
        assert!(matches!(&ours, KeyError::Expired { what, .. } if what.contains("client")), "{ours}");
        for e in [
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
            rustls::Error::AlertReceived(AlertDescription::UnknownCA),
            rustls::Error::AlertReceived(AlertDescription::CertificateRevoked),
        ] {
            let e = of(e);
            assert!(matches!(e, KeyError::Refused { .. }) && !e.may_pass(), "{e}");
        }
        assert!(of(rustls::Error::HandshakeNotComplete).may_pass());
        let Fault::Way(slow) = of_io("a", &io::Error::from(io::ErrorKind::WouldBlock)) else { panic!() };
        assert_eq!(slow.to_string(), "key provider kmip server a does not answer: no answer in time");
    }
}
