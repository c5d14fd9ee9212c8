//! A folder of files as the stream of 4 KiB blocks that a disk image of it would be.
//!
//! Owns the order (by path) and the padding (each file begins on a block, as in a file system). Inodes and folders are not
//! modelled.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A block.
pub type Block = [u8; 4096];

/// The regular files below `folder`, by path, until they are `limit` bytes. What cannot be read is left out.
pub fn files(folder: &Path, limit: u64) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(folder, &mut found);
    found.sort();
    let mut left = limit;
    found.retain(|file| {
        let len = fs::metadata(file).map_or(0, |m| m.len());
        let fits = len > 0 && len <= left;
        left -= if fits { len } else { 0 };
        fits
    });
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// Gives each block of `bytes`, the last one padded with zeroes.
pub fn blocks(bytes: &[u8], mut each: impl FnMut(&Block)) {
    let (whole, rest) = bytes.as_chunks::<4096>();
    whole.iter().for_each(&mut each);
    if !rest.is_empty() {
        let mut last = [0; 4096];
        last[..rest.len()].copy_from_slice(rest);
        each(&last);
    }
}

/// A file's bytes; empty where it cannot be read.
pub fn read(file: &Path, into: &mut Vec<u8>) {
    into.clear();
    let read = fs::File::open(file).and_then(|mut f| f.read_to_end(into));
    if read.is_err() {
        into.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_padded_to_blocks() {
        let mut seen = Vec::new();
        blocks(&[1; 4097], |b| seen.push(*b));
        assert_eq!(seen.len(), 2);
        assert!(seen[0] == [1; 4096] && seen[1][0] == 1 && seen[1][1..].iter().all(|b| *b == 0));
        blocks(&[], |_| panic!("an empty file has no block"));
        blocks(&[2; 4096], |b| assert!(*b == [2; 4096]));
    }
}
