//! Root keys in a KMIP server, over mutual TLS.
//!
//! Owns a client of the Key Management Interoperability Protocol (OASIS KMIP Specification 1.4; servers of 1.2 and on): its
//! encoding ([`ttlv`]), the dozen operations that are needed, several servers of which one must answer, and the provider
//! ([`Kmip`]). Where the server encrypts, the root key never leaves it; where it does not, the key is fetched for each wrap and
//! erased after it.
//!
//! It must never believe a length that a server sends, wait for one without an end, or keep a connection or a key between calls:
//! certificates are read anew for each, so that renewing them takes no restart.

mod client;
mod error;
mod kmip;
mod ops;
mod tls;
pub mod ttlv;

pub use kmip::{Kmip, NAME};
pub use tls::Identity;
