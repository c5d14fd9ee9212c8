//! What the tests share: a pool, its keyring, records and a generator of numbers.

#![allow(dead_code)] // Each test file is a program of its own and uses its part of this.

use caisson_keys::Secret;
use caisson_log::*;

pub const POOL: PoolId = PoolId(*b"a pool for tests");
pub const OPENING: u32 = 7;
pub const CIPHERS: [Cipher; 2] = [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm];

pub fn secret(domain: u32, epoch: u16) -> Secret {
    let mut bytes: [u8; 32] = std::array::from_fn(|i| (i as u8) ^ (domain as u8) << 5 ^ (epoch as u8) << 2);
    Secret::take(&mut bytes)
}

/// The salt of an opening.
pub fn salt(number: u32) -> [u8; 32] {
    std::array::from_fn(|i| 0xa0 ^ (i as u8) ^ (number as u8).wrapping_mul(31))
}

pub fn keyring_of(pool: PoolId, cipher: Cipher) -> Keyring {
    let secrets = [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)];
    let keyring = Keyring::new(pool, cipher, secrets.map(|(d, e)| ((d, e), secret(d, e)))).unwrap();
    for number in [OPENING, OPENING + 1] {
        keyring.add_opening(number, salt(number)).unwrap();
    }
    keyring
}

pub fn keyring(cipher: Cipher) -> Keyring {
    keyring_of(POOL, cipher)
}

pub fn stamp(segment: u32, sequence: u64, offset: u32) -> Stamp {
    let at = At { opening: OPENING, sequence, offset };
    Stamp { kind: BatchKind::Log, batch: 100, epoch: 1, segment, at }
}

pub fn block(id: u64, length: u16) -> Record {
    let (domain, epoch, from) = (1, 1, None);
    let print = (u128::from(id) << 64 | 0x77).to_le_bytes();
    Record { kind: RecordKind::Block, id, length, codec: 1, domain, epoch, print, from }
}

/// xorshift64*: the same numbers for the same seed.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A record that a header can hold.
    pub fn record(&mut self, longest: u64) -> Record {
        let kinds = [RecordKind::Block, RecordKind::MapPage, RecordKind::BlocksPage, RecordKind::Blob];
        let spot = Spot { segment: self.next() as u32, offset: self.below(1 << 28) as u32 };
        let domain = self.below(3) as u32;
        Record {
            kind: kinds[self.below(4) as usize],
            id: self.below(MAX_ID + 1),
            length: (1 + self.below(longest)) as u16,
            codec: self.below(16) as u8,
            domain,
            epoch: if domain == 2 { 1 } else { 1 + self.below(2) as u16 },
            print: if self.below(2) == 0 { [0; 16] } else { u128::from(self.next()).to_be_bytes() },
            from: (self.below(3) == 0).then_some(spot),
        }
    }
}

/// Plans and seals; what is wrong with the call is the test's own fault.
pub fn sealed(
    keyring: &Keyring,
    stamp: &Stamp,
    records: &[Record],
    payloads: &[Vec<u8>],
    changes: &[u8],
) -> Vec<u8> {
    let plan = BatchPlan::new(records, changes).unwrap();
    let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
    let mut out = vec![0xee; plan.total_len()];
    plan.seal(keyring, stamp, &payloads, &mut out).unwrap();
    out
}

/// Payloads of the lengths that the records say.
pub fn payloads(numbers: &mut Numbers, records: &[Record]) -> Vec<Vec<u8>> {
    records.iter().map(|record| numbers.bytes(record.length.into())).collect()
}
