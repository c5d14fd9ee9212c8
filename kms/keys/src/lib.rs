//! Secrets, and the seam behind which key managers stand.
//!
//! Owns [`Secret`], what a wrapped key is bound to ([`Context`]), the [`KeyProvider`] trait that the sealed file, PKCS#11,
//! TPM 2.0 and KMIP providers implement, and the hierarchy of a pool's keys ([`PoolSecrets`]). Root keys stay inside their
//! provider; what passes here are the pool's and the domains' secrets, which it wraps and unwraps.
//!
//! It must never write a secret anywhere, print one, or know which key manager is behind the trait. It does no I/O: random
//! bytes are handed in. What it asks of the system is memory for secrets that is not swapped out.

mod context;
pub mod contract;
mod derive;
mod error;
mod hierarchy;
pub mod limits;
mod locked;
mod provider;
pub mod seal;
mod secret;
mod slot;
mod stack;
mod uri;

pub use context::{CONTEXT_LEN, Context, Purpose};
pub use derive::derive;
pub use error::KeyError;
pub use hierarchy::{
    DEFAULT_DOMAIN, FIRST_EPOCH, POOL_DOMAIN, PoolSecrets, Random, create_pool_keys, unlock, wrap_epoch,
    wrap_pool_keys,
};
pub use locked::{Bytes as LockedBytes, LockedMemory, locked_memory};
pub use provider::{KeyProvider, ProviderStatus, Reason, Wrapped};
pub use secret::Secret;
pub use slot::KeySlot;
pub use stack::{DEPTH as STACK_DEPTH, cleanse_stack, computes as stack_computes, rest as stack_rests};
pub use uri::{KeyUri, Scheme};
