//! Fuzz bodies: functions from bytes to nothing that panic when something is wrong.
//!
//! `cargo test -p caisson-fuzz` runs each over the corpus in `corpus/` and over random bytes, on stable Rust.
//! `tools/test --only fuzz` runs each under libFuzzer for some seconds, on stable Rust. `fuzz/` is laid out for cargo-fuzz, too;
//! from this folder:
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=../../build/fuzz cargo fuzz run controller_stream -- -max_total_time=60
//! ```
//!
//! What they check beside the absence of panics: nothing is sent or told after a fatal error but one termination request;
//! everything sent is whole PDUs; no more commands are in hand than slots; what the loopback carries comes out as it
//! went in; of the controller model (`queue`) that each command is answered once and none is forgotten; and of the pool's
//! format (`log`) that nothing authenticates that was not sealed.

mod codec;
mod controller;
mod host;
mod input;
mod keys;
mod log;
mod loopback;
mod queue;
mod tables;
mod wire;

pub use codec::codec;
pub use controller::{controller_sequence, controller_stream};
pub use host::host_stream;
pub use keys::{key_file, key_frames, keys_text};
pub use log::log;
pub use loopback::{loopback, loopback_completed};
pub use queue::queue;
pub use tables::{table_changes, table_root};
pub use wire::wire;

use input::Input;

/// A fuzz body.
pub type Body = fn(&[u8]);

/// Every body, by the name of its target and of its corpus folder.
pub const BODIES: [(&str, Body); 13] = [
    ("codec", codec),
    ("controller_stream", controller_stream),
    ("controller_sequence", controller_sequence),
    ("host_stream", host_stream),
    ("key_file", key_file),
    ("key_frames", key_frames),
    ("keys_text", keys_text),
    ("log", log),
    ("loopback", loopback),
    ("queue", queue),
    ("wire", wire),
    ("table_changes", table_changes),
    ("table_root", table_root),
];

/// Checks that `bytes` are whole PDUs whose lengths agree, all of types in `kinds`; with one of type `term` only last.
fn check_pdus(mut bytes: &[u8], kinds: &[u8], term: u8) {
    while !bytes.is_empty() {
        let plen = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        assert!(plen >= usize::from(bytes[2]) && plen <= bytes.len(), "PLEN {plen} of {}", bytes.len());
        if bytes[0] == term {
            assert!(plen == bytes.len() && plen <= 152, "the termination request is the last PDU");
        } else {
            assert!(kinds.contains(&bytes[0]), "type {:#x} is not ours to send", bytes[0]);
        }
        bytes = &bytes[plen..];
    }
}
