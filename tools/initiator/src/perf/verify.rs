//! Blocks that say what they are, so that a wrong, torn, stale or misplaced one shows.
//!
//! Each logical block carries a header (magic, CRC-32C of the whole block, LBA, seed, sequence number) and a body that
//! follows from them. Which sequence number a block must have is remembered for every block written in this run.

use super::workload::Random;
use crc_fast::CrcAlgorithm::Crc32Iscsi;

const MAGIC: u32 = 0x4361_6973;
/// Length of the header.
const HEADER: usize = 32;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The block it should be.
    Right,
    /// All zeroes, of a block that this run has not written.
    Unwritten,
    /// Something else.
    Wrong(&'static str),
}

/// Fills one logical block for `lba`, written as number `sequence` by the run with `seed`.
pub fn fill(block: &mut [u8], lba: u64, seed: u64, sequence: u32) {
    let mut rng = Random::new(seed ^ lba.rotate_left(24) ^ u64::from(sequence));
    let (header, body) = block.split_at_mut(HEADER);
    // One random number for 64 bytes: cheap, and still different in every place.
    for chunk in body.chunks_mut(64) {
        let mut n = rng.draw();
        for word in chunk.chunks_mut(8) {
            word.copy_from_slice(&n.to_le_bytes()[..word.len()]);
            n = n.wrapping_add(0x0101_0101_0101_0101);
        }
    }
    header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].fill(0);
    header[8..16].copy_from_slice(&lba.to_le_bytes());
    header[16..24].copy_from_slice(&seed.to_le_bytes());
    header[24..28].copy_from_slice(&sequence.to_le_bytes());
    header[28..32].fill(0);
    let crc = crc_fast::checksum(Crc32Iscsi, block) as u32;
    block[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Judges one logical block read from `lba`. `expected` is the sequence number of its last write in this run with
/// `seed`; `None` when it was not written: then any block that is whole and belongs there is right. `block` is spoilt.
pub fn check(block: &mut [u8], lba: u64, seed: u64, expected: Option<u32>) -> Found {
    let u32_at = |b: &[u8], at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let u64_at = |b: &[u8], at: usize| u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32;
    if expected.is_none() && block.iter().all(|&b| b == 0) {
        return Found::Unwritten;
    }
    if u32_at(block, 0) != MAGIC {
        return Found::Wrong("it holds no block of this program");
    }
    let crc = u32_at(block, 4);
    block[4..8].fill(0);
    if crc_fast::checksum(Crc32Iscsi, block) as u32 != crc {
        return Found::Wrong("its checksum does not agree: it is torn or corrupt");
    }
    if u64_at(block, 8) != lba {
        return Found::Wrong("it belongs to another LBA");
    }
    match expected {
        Some(_) if u64_at(block, 16) != seed => Found::Wrong("it is of another run"),
        Some(sequence) if u32_at(block, 24) != sequence => Found::Wrong("it is not what was written last"),
        _ => Found::Right,
    }
}

/// Which blocks of a region were written, which are being written or read, and what was found.
#[derive(Debug)]
pub struct Ledger {
    /// The run's seed.
    pub seed: u64,
    /// Of each of the region's blocks: the number of its last completed write, 0 for none; the top bit while in use.
    state: Vec<u32>,
    next: u32,
    /// Logical blocks checked.
    pub checked: u64,
    /// Of these, all zeroes and never written by this run.
    pub unwritten: u64,
    /// Of these, wrong.
    pub wrong: u64,
    /// Whether blocks that this run has not written are judged too.
    pub judge_unwritten: bool,
    /// The first wrong one: its LBA, and why.
    pub first: Option<(u64, &'static str)>,
}

const IN_USE: u32 = 1 << 31;

impl Ledger {
    /// For a region of `blocks` blocks.
    pub fn new(seed: u64, blocks: usize) -> Ledger {
        Ledger {
            seed,
            state: vec![0; blocks],
            next: 1,
            checked: 0,
            unwritten: 0,
            wrong: 0,
            judge_unwritten: false,
            first: None,
        }
    }

    /// How many blocks its region has.
    pub fn blocks(&self) -> usize {
        self.state.len()
    }

    /// Reserves `wanted`, or the next block after it that is not in use; `None` when all are.
    pub fn reserve(&mut self, wanted: u64) -> Option<u64> {
        let n = self.state.len() as u64;
        // More than a queue's depth can never be in use, so that the search is short unless the region is tiny.
        let block = (0..n).map(|i| (wanted + i) % n).find(|&b| self.state[b as usize] & IN_USE == 0)?;
        self.state[block as usize] |= IN_USE;
        Some(block)
    }

    /// Gives a block back; `written` is the number of the write that is done.
    pub fn release(&mut self, block: u64, written: Option<u32>) {
        let s = &mut self.state[block as usize];
        *s = written.unwrap_or(*s) & !IN_USE;
    }

    /// A number for the next write.
    pub fn number(&mut self) -> u32 {
        let n = self.next;
        self.next = if n == IN_USE - 1 { 1 } else { n + 1 };
        n
    }

    /// The number of the last write of a block; `None` when it was not written in this run.
    pub fn written(&self, block: u64) -> Option<u32> {
        Some(self.state[block as usize] & !IN_USE).filter(|&n| n != 0)
    }

    /// The first block from `from` on that was written.
    pub fn next_written(&self, from: u64) -> Option<u64> {
        (from..self.state.len() as u64).find(|&b| self.written(b).is_some())
    }

    /// Judges the data of a command on `block`: `data` is whole logical blocks of `unit` bytes from `lba` on.
    pub fn judge(&mut self, data: &mut [u8], unit: usize, lba: u64, block: u64) {
        let expected = self.written(block);
        if expected.is_none() && !self.judge_unwritten {
            return;
        }
        for (i, one) in data.chunks_mut(unit).enumerate() {
            self.checked += 1;
            match check(one, lba + i as u64, self.seed, expected) {
                Found::Right => {}
                Found::Unwritten => self.unwritten += 1,
                Found::Wrong(why) => {
                    self.wrong += 1;
                    self.first.get_or_insert((lba + i as u64, why));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_shows() {
        let block = |lba, seed, seq| {
            let mut b = vec![0u8; 512];
            fill(&mut b, lba, seed, seq);
            b
        };
        assert_eq!(check(&mut block(7, 1, 5), 7, 1, Some(5)), Found::Right);
        assert_eq!(check(&mut block(7, 2, 9), 7, 1, None), Found::Right);
        assert_eq!(check(&mut vec![0; 512], 7, 1, None), Found::Unwritten);
        let wrong = |mut b: Vec<u8>, seq| matches!(check(&mut b, 7, 1, Some(seq)), Found::Wrong(_));
        assert!(wrong(vec![0; 512], 5));
        assert!(wrong(block(8, 1, 5), 5));
        assert!(wrong(block(7, 1, 4), 5));
        assert!(wrong(block(7, 2, 5), 5));
        for byte in [5, 9, 33, 511] {
            let mut b = block(7, 1, 5);
            b[byte] ^= 0x10;
            assert!(wrong(b, 5), "{byte}");
        }
        let mut torn = block(7, 1, 5);
        torn[256..].copy_from_slice(&block(7, 1, 4)[256..]);
        assert!(wrong(torn, 5));
    }

    #[test]
    fn ledger_keeps_commands_apart() {
        let mut l = Ledger::new(1, 3);
        assert_eq!(
            [l.reserve(1), l.reserve(1), l.reserve(1), l.reserve(1)],
            [Some(1), Some(2), Some(0), None]
        );
        let n = l.number();
        l.release(2, Some(n));
        l.release(1, None);
        assert_eq!((l.written(2), l.written(1)), (Some(n), None));
        assert_eq!((l.next_written(0), l.next_written(3)), (Some(2), None));
        assert_eq!(l.reserve(1), Some(1));
        assert_eq!(l.written(2), Some(n));
    }
}
