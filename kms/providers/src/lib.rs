//! Key providers: what holds root keys, and wraps and unwraps pools' secrets with them.
//!
//! Owns the sealed key file ([`SealedFile`]), its form on disk ([`mod@format`]), and where its passphrase comes from
//! ([`PassphraseSource`]). PKCS#11, TPM 2.0 and KMIP stand beside it when they come.
//!
//! It must never write a root key or a passphrase anywhere in the clear, and never ask a provider in a loop: a wrong passphrase
//! is an answer, not a reason to try again.

pub mod format;
mod passphrase;
mod random;
mod seal;
mod sealed;
mod store;
mod tty;

pub use format::{Argon2Cost, FormatError};
pub use passphrase::{Ask, PassphraseError, PassphraseSource};
pub use random::os_random;
pub use sealed::{NAME, SealedFile};
pub use store::KeyFileError;
