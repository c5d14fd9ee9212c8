//! What can be seen of a pool from outside, from the bytes that it writes: batches, their places, repeated nonces.
//!
//! Owns no key and opens nothing. A batch says in plain where it stands and under which opening and sequence its nonces
//! are made; two different batches that say the same were sealed with the same key stream if their sealed bytes agree
//! much more often than chance has it, for the heads of batches resemble each other.

use caisson_device::sim::{Event, Keep, SimDisk, Watch};
use caisson_log::{BatchKind, PREFIX, decode_prefix};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a sealed header that are compared.
const COMPARED: usize = 192;

/// Fewer say nothing.
const LEAST: usize = 32;

/// What a nonce is made of: opening, sequence of the segment's use, and offset in it.
type Nonce = (u32, u64, u32);

#[derive(Default)]
struct Seen {
    batches: HashMap<Nonce, Vec<Box<[u8]>>>,
    repeated: Option<String>,
}

/// Watches disks for batches that are sealed with a nonce that was used before.
#[derive(Clone, Default)]
pub struct Nonces(Arc<Mutex<Seen>>);

impl Nonces {
    /// Watches `disk` too.
    pub fn watch(&self, disk: &SimDisk) {
        let own = self.clone();
        let watch: Watch = Box::new(move |event| {
            if std::env::var_os("CAISSON_TRACE").is_some() {
                match event {
                    Event::Write(at, bytes) => {
                        eprintln!(
                            "         write {at:#x}+{:#x} {:?}",
                            bytes.len(),
                            bytes
                                .get(..PREFIX)
                                .map(decode_prefix)
                                .and_then(Result::ok)
                                .map(|p| (p.kind, p.batch, p.segment, p.at))
                        );
                    }
                    Event::Zero(at, len) => eprintln!("         zero {at:#x}+{len:#x}"),
                    other => eprintln!("         {other:?}"),
                }
            }
            if let Event::Write(_, bytes) = event {
                own.wrote(bytes);
            }
        });
        disk.set_watch(watch);
    }

    /// What was repeated, if anything.
    pub fn repeated(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).repeated.clone()
    }

    fn wrote(&self, bytes: &[u8]) {
        let Some(Ok(prefix)) = bytes.get(..PREFIX).map(decode_prefix) else { return };
        // Only what is sealed: records that are short are padded with zeroes.
        let sealed = bytes.get(PREFIX..(prefix.header as usize).min(PREFIX + COMPARED));
        let Some(head) = sealed.filter(|s| s.len() >= LEAST) else { return };
        let nonce = (prefix.at.opening, prefix.at.sequence, prefix.at.offset);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = seen.batches.entry(nonce).or_default();
        if others.iter().any(|o| **o == *head) {
            return;
        }
        // Chance makes one byte in 256 agree; structure makes many.
        let agree = |a: &[u8]| a.iter().zip(head).filter(|(a, b)| a == b).count();
        let most = others.iter().map(|o| agree(o)).max().unwrap_or(0);
        others.push(head.into());
        if most > 4 + head.len() / 16 {
            seen.repeated = Some(format!(
                "batch {} in segment {} was sealed with the nonces of another one: opening {}, sequence {}, offset {}",
                prefix.batch, prefix.segment, nonce.0, nonce.1, nonce.2
            ));
        }
    }
}

/// Keeps of each batch of the log its head, and everything else whole: payload is forgotten, tables are not. For pools that
/// are larger than memory. `front` bytes at the beginning of the disk are always kept.
pub fn without_payload(front: u64) -> Keep {
    Box::new(move |at, bytes| {
        let prefix = bytes.get(..PREFIX).map(decode_prefix);
        match prefix {
            // The cleaner's batches hold payload as well, and have no number.
            Some(Ok(prefix)) if at >= front && (prefix.kind == BatchKind::Log || prefix.batch == 0) => {
                std::iter::once(0..(prefix.header as usize).min(bytes.len())).collect()
            }
            _ => std::iter::once(0..bytes.len()).collect(),
        }
    })
}
