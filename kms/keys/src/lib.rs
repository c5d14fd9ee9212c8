//! Secrets, and the seam behind which key managers stand.
//!
//! Owns [`Secret`], what a wrapped key is bound to ([`Context`]), and the [`KeyProvider`] trait that the sealed file, PKCS#11,
//! TPM 2.0 and KMIP providers implement. Root keys stay inside their provider; what passes here are the domain keys
//! that it wraps and unwraps.
//!
//! It must never write a secret anywhere, print one, or know which key manager is behind the trait. It does no I/O.

mod context;
pub mod contract;
mod provider;
mod secret;

pub use context::{Context, Purpose};
pub use provider::{KeyError, KeyProvider, ProviderStatus, Wrapped};
pub use secret::Secret;
