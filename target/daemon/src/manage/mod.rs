//! The management API: JSON over HTTP on a Unix socket that its owner alone may use.
//!
//! Paths begin with `/v1/`; what they answer is in [`view`], what they take in [`ask`], and a refusal is
//! `{"cause", "error", "remedy"}` with a status that follows from the cause. [`verbs`] says what each request changes,
//! [`http`] joins both to axum, and [`client`] is the other end, for the command line. docs/management.md lists the paths.

pub mod ask;
pub mod client;
pub mod http;
pub mod keys;
pub mod pools;
pub mod verbs;
pub mod view;
