//! The log of operations on keys: chained by hashes, and signed.
//!
//! Owns the form of a record, writing one durably ([`Log`]), and judging a log ([`verify`]). Each record is one line of JSON. It
//! has the SHA-256 of the line before it, so that none can be changed, taken out or put in between without all behind it being
//! made anew; and an Ed25519 signature (RFC 8032), so that only who holds the log's key could do that. What was cut off at the
//! end is seen by who remembers the last line's hash.
//!
//! It must never hold a secret: records name keys, and say what was done with them. It knows nothing of key providers.

mod log;
mod verify;

pub use log::{AuditError, Log};
pub use verify::{Problem, Verified, verify};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

/// Longest line in bytes.
pub const MAX_LINE: usize = 4096;

/// Set before what is signed, so that a signature means nothing anywhere else.
const LABEL: &[u8] = b"caisson audit v1\n";

/// One record, in the order of its fields in a line. A line has the signature behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number, from 1 on.
    pub n: u64,
    /// Seconds since 1970.
    pub time: u64,
    /// What was done: `begin` is the log's own first record, whose `what` is the public key in hexadecimal.
    pub op: String,
    /// With which pool, or none.
    pub pool: String,
    /// With which key, and how it went.
    pub what: String,
    /// Whether it was done. False for what failed, and for what is about to be done.
    pub done: bool,
    /// The SHA-256 of the line before it, without its newline; zeroes in the first.
    pub prev: String,
}

/// The operation of the first record.
const BEGIN: &str = "begin";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let sound = text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).ok();
    if sound { (0..text.len()).step_by(2).map(byte).collect() } else { None }
}

/// The hash by which the next record names a line.
fn hash(line: &str) -> String {
    hex(digest::digest(&digest::SHA256, line.as_bytes()).as_ref())
}

/// What is signed of a record.
fn signed(body: &str) -> Vec<u8> {
    [LABEL, body.as_bytes()].concat()
}

/// What stands between a record's JSON, without its last brace, and the signature.
const SIG: &str = ",\"sig\":\"";

/// A line's record as JSON, and its signature in hexadecimal.
fn split(line: &str) -> Option<(String, &str)> {
    let (body, rest) = line.rsplit_once(SIG)?;
    let sig = rest.strip_suffix("\"}")?;
    Some((format!("{body}}}"), sig))
}
