//! Looking for what must not be seen, in bytes and in text.
//!
//! Owns the forms in which a secret may come out: as it is, in hexadecimal, in Base64, as the list of numbers that a debug print gives,
//! and any half of it.

use std::collections::HashMap;
use std::path::Path;

/// Bytes that are looked for together.
const PIECE: usize = 16;

/// What is looked for.
#[derive(Default)]
pub struct Search {
    /// By their first eight bytes.
    forms: HashMap<u64, Vec<(Vec<u8>, String)>>,
    /// Whether any begins with these two bytes: nearly no place does.
    begins: Vec<bool>,
}

impl Search {
    /// Looks for `secret`, which is called so, in every form. Of a longer one each piece of 16 bytes is looked for: a half is too much.
    pub fn add(&mut self, called: &str, secret: &[u8]) {
        assert!(secret.len() >= 12, "{called} is too short to be told from chance");
        let pieces = if secret.len() < PIECE { 1 } else { secret.len() / PIECE };
        for n in 0..pieces {
            let piece = if pieces == 1 { secret } else { &secret[n * PIECE..(n + 1) * PIECE] };
            let hex: String = piece.iter().map(|b| format!("{b:02x}")).collect();
            let list: Vec<String> = piece.iter().map(u8::to_string).collect();
            // Whatever stands before it moves the six-bit groups, so three bytes at each end may look different.
            let base64 = |skip: usize| {
                let whole = &piece[skip..skip + (piece.len() - skip) / 3 * 3];
                whole.chunks(3).flat_map(six_bits).collect::<Vec<u8>>()
            };
            let forms = [
                ("as it is", piece.to_vec()),
                ("in hexadecimal", hex.clone().into_bytes()),
                ("in hexadecimal", hex.to_uppercase().into_bytes()),
                ("as numbers", list.join(", ").into_bytes()),
                ("as numbers", list.join(",").into_bytes()),
                ("in Base64", base64(0)),
                ("in Base64", base64(1)),
                ("in Base64", base64(2)),
            ];
            for (how, form) in forms {
                let first = u64::from_le_bytes(form[..8].try_into().unwrap());
                if self.begins.is_empty() {
                    self.begins = vec![false; 1 << 16];
                }
                self.begins[first as u16 as usize] = true;
                self.forms.entry(first).or_default().push((form, format!("{called}, {how}")));
            }
        }
    }

    /// Whether something is looked for whose name begins so.
    pub fn looks_for(&self, called: &str) -> bool {
        self.forms.values().flatten().any(|(_, name)| name.starts_with(called))
    }

    /// What is found in `bytes`, and where first.
    pub fn find(&self, bytes: &[u8]) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for (page, part) in bytes.chunks(4096).enumerate() {
            // Most of a device was never written.
            if part.iter().all(|b| *b == 0) && bytes.get(page * 4096 + part.len()).is_none_or(|b| *b == 0) {
                continue;
            }
            for at in page * 4096..(page * 4096 + part.len()).min(bytes.len().saturating_sub(7)) {
                if !self.begins[u16::from_le_bytes([bytes[at], bytes[at + 1]]) as usize] {
                    continue;
                }
                let first = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                for (form, called) in self.forms.get(&first).into_iter().flatten() {
                    if bytes[at..].starts_with(form) && !found.iter().any(|f| f.starts_with(called.as_str()))
                    {
                        found.push(format!("{called}, at byte {at}"));
                    }
                }
            }
        }
        found
    }

    /// What is found in a file, or in all files below a folder but those of these names.
    pub fn find_in(&self, path: &Path, except: &[&str]) -> Vec<String> {
        if except.iter().any(|e| path.ends_with(e)) {
            return Vec::new();
        }
        if path.is_dir() {
            let inside = std::fs::read_dir(path).unwrap();
            return inside.flat_map(|f| self.find_in(&f.unwrap().path(), except)).collect();
        }
        if !path.is_file() {
            return Vec::new();
        }
        let found = self.find(&std::fs::read(path).unwrap());
        found.into_iter().map(|f| format!("{}: {f}", path.display())).collect()
    }
}

/// Three bytes in Base64.
fn six_bits(three: &[u8]) -> [u8; 4] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
    [18, 12, 6, 0].map(|shift| DIGITS[(n >> shift & 63) as usize])
}

/// Every form is found wherever it stands, and nothing else is.
#[test]
fn a_planted_secret_is_found_in_each_form() {
    let secret: Vec<u8> = (0..32u8).map(|i| i.wrapping_mul(37) ^ 0xa5).collect();
    let mut search = Search::default();
    search.add("the key", &secret);
    search.add("a pattern", b"a planted pattern");
    assert_eq!(search.find(&vec![0; 1 << 16]), [] as [String; 0]);
    let other: Vec<u8> = (0..1u32 << 16).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert_eq!(search.find(&other), [] as [String; 0]);
    let hex: String = secret.iter().map(|b| format!("{b:02X}")).collect();
    let base64: Vec<u8> = [&b"x"[..], &secret, b"y"].concat().chunks(3).flat_map(six_bits).collect();
    for (how, form) in [
        ("as it is", secret.clone()),
        ("as it is", secret[16..].to_vec()),
        ("in hexadecimal", hex.to_lowercase().into_bytes()),
        ("in hexadecimal", hex.into_bytes()),
        ("as numbers", format!("{secret:?}").into_bytes()),
        ("in Base64", base64),
    ] {
        for at in [0, 4090, 4096 * 3 - 1, (1 << 16) - form.len()] {
            let mut bytes = vec![0; 1 << 16];
            bytes[at..at + form.len()].copy_from_slice(&form);
            let found = search.find(&bytes);
            assert!(
                found.iter().any(|f| f.starts_with(&format!("the key, {how}"))),
                "{how} at {at}: {found:?}"
            );
        }
    }
    assert_eq!(search.find(b"it says: a planted pattern."), ["a pattern, as it is, at byte 9"]);
}
