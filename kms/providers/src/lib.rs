//! Key providers: what holds root keys, and wraps and unwraps pools' secrets with them.
//!
//! Owns the sealed key file ([`SealedFile`]), its form on disk ([`mod@format`]), where passphrases and PINs come from
//! ([`PassphraseSource`]), and opening whatever provider a [`KeyUri`](caisson_keys::KeyUri) names ([`open()`]). PKCS#11 is a crate
//! of its own (`kms/pkcs11`), and so are KMIP (`kms/kmip`) and a TPM's commands (`kms/tpm`); [`TpmFile`] is a key file that a TPM opens, and
//! [`Recovery`] a key that exists only in shares.
//!
//! It must never write a root key or a passphrase anywhere in the clear, and never ask a provider in a loop: a wrong passphrase
//! is an answer, not a reason to try again.

pub mod format;
mod open;
mod passphrase;
mod random;
mod recovery;
mod recovery_public;
mod seal;
mod sealed;
mod store;
mod tpm;
mod tty;

pub use format::{Argon2Cost, FormatError};
pub use open::{How, Opened, examine, open};
pub use passphrase::{Ask, PassphraseError, PassphraseSource, Wanted};
pub use random::os_random;
pub use recovery::{RECOVERY, Recovery, Share};
pub use recovery_public::RecoveryPublic;
pub use sealed::{NAME, ROOT_LABEL, SealedFile};
pub use store::KeyFileError;
pub use tpm::{TpmFile, reseal};
