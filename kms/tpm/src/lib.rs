//! Secrets that a TPM 2.0 gives out only to a machine in the state that it was in.
//!
//! Owns the handful of commands that this takes (TCG, Trusted Platform Module Library, Family 2.0, revision 1.59): their bytes,
//! the session that hides and authenticates what crosses the bus ([`mod@session`]), the ways to a TPM ([`Transport`]), sealing and
//! unsealing ([`Tpm`]), the file that a seal is kept in ([`Seal`]), and what a TPM's refusals mean.
//!
//! It must never send a secret in the clear, never try an authorisation value that could lock the TPM, and never leave an object
//! or session loaded behind.

mod codes;
mod pcr;
mod seal;
pub mod session;
mod tpm;
mod transport;
mod wire;

pub use pcr::Pcrs;
pub use seal::{MAX_SEAL, Seal};
pub use tpm::{Lockout, Tpm};
pub use transport::{Transport, connect};
pub use wire::{Params, Reader, response};

/// The provider's name, as pools remember it.
pub const NAME: &str = caisson_keys::Scheme::Tpm2.name();
