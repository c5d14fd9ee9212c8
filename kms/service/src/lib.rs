//! Key providers in a process of their own, so that the one that parses hosts' packets holds no root key, passphrase or PIN.
//!
//! Owns what the two say to each other ([`mod@wire`]), the service's side ([`Server`]), which knows who asks by the peer's credentials,
//! and the target's side ([`Remote`]), a provider like any other.
//!
//! It must never answer a user that it was not told of, never hold memory or a thread for one without a bound, and never give out a
//! root key.

mod client;
mod server;
pub mod wire;

pub use client::{NAME, Remote};
pub use server::{Asked, Open, Record, Server, Users};
