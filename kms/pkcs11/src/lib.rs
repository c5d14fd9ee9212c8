//! Root keys in a PKCS#11 token: an HSM, a smart card, or softhsm2 for tests.
//!
//! Owns finding the token and its keys by label ([`Token`]), and wrapping with a key that never leaves the token (OASIS PKCS#11
//! 2.40, AES-GCM through C_Encrypt and C_Decrypt). The module, a shared library of the token's maker, is loaded when it is
//! first used, so that a program without a token needs none.
//!
//! It must never ask for a PIN twice: a token counts wrong ones, and locks. It must never make a key that can be taken out.

mod error;
mod token;

pub use token::{NAME, Token};
