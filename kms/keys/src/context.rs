//! What a wrapped key is bound to.
//!
//! Owns the one encoding of that binding. A blob that is put elsewhere (another pool, domain, epoch or use) must not
//! unwrap there, so every provider authenticates these bytes with the key. They are no secret.

/// What the wrapped bytes are for. The numbers are stored; none is ever reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// A domain's first secret, from which its first epoch's secret and its fingerprint key are derived.
    Domain = 1,
    /// A domain's fingerprint key, which outlives epochs.
    Fingerprint = 2,
    /// A volume's map key. Nothing is wrapped or derived for it: map keys are the pool's own (`datapath/log/FORMAT.md`).
    Map = 3,
    /// The pool's own secret, which seals what belongs to no tenant: domain 0.
    Pool = 4,
    /// The secret of one epoch of a domain: the first is derived, later ones are random, and wrapped with the fingerprint key.
    Epoch = 5,
}

impl Purpose {
    /// The purpose with a stored number; `None` where this version knows none such.
    pub fn from_stored(number: u8) -> Option<Purpose> {
        Some(match number {
            1 => Purpose::Domain,
            2 => Purpose::Fingerprint,
            3 => Purpose::Map,
            4 => Purpose::Pool,
            5 => Purpose::Epoch,
            _ => return None,
        })
    }
}

/// The binding of a wrapped key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// What the key is for.
    pub purpose: Purpose,
    /// The pool's UUID.
    pub pool: [u8; 16],
    /// The domain (tenant) in the pool.
    pub domain: u64,
    /// The key epoch; 0 for keys that have none.
    pub epoch: u64,
}

/// Length of [`Context::encode`] in bytes.
pub const CONTEXT_LEN: usize = 40;

impl Context {
    /// The bytes that a provider authenticates: `CAIS`, version 1, purpose, two zeroes, the pool, domain and epoch
    /// as little-endian numbers. Fixed in length, so no two contexts encode alike.
    pub fn encode(&self) -> [u8; CONTEXT_LEN] {
        let mut out = [0; CONTEXT_LEN];
        out[..4].copy_from_slice(b"CAIS");
        out[4] = 1;
        out[5] = self.purpose as u8;
        out[8..24].copy_from_slice(&self.pool);
        out[24..32].copy_from_slice(&self.domain.to_le_bytes());
        out[32..].copy_from_slice(&self.epoch.to_le_bytes());
        out
    }

    /// The context that encodes so; `None` where none does.
    pub fn decode(bytes: &[u8; CONTEXT_LEN]) -> Option<Context> {
        let number = |at: usize| bytes[at..].first_chunk().map(|b| u64::from_le_bytes(*b));
        let purpose = Purpose::from_stored(bytes[5])?;
        let pool = *bytes[8..].first_chunk()?;
        let context = Context { purpose, pool, domain: number(24)?, epoch: number(32)? };
        (context.encode() == *bytes).then_some(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_what_it_was() {
        let context = Context {
            purpose: Purpose::Fingerprint,
            pool: std::array::from_fn(|i| 0xa0 + i as u8),
            domain: 0x0102_0304_0506_0708,
            epoch: 9,
        };
        let mut want = b"CAIS\x01\x02\0\0".to_vec();
        want.extend(0xa0..=0xaf);
        want.extend([8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(context.encode()[..], want[..]);
        assert_eq!(Context::decode(&context.encode()), Some(context));
        for at in [0, 4, 5, 6, 7] {
            let mut other = context.encode();
            other[at] ^= 0x80;
            assert_eq!(Context::decode(&other), None, "byte {at}");
        }
    }

    #[test]
    fn stored_purposes_keep_their_numbers() {
        let known: Vec<_> = (0..=255).filter_map(Purpose::from_stored).collect();
        let want = [Purpose::Domain, Purpose::Fingerprint, Purpose::Map, Purpose::Pool, Purpose::Epoch];
        assert_eq!(known, want);
        assert!(known.iter().map(|p| *p as u8).eq(1..=5));
    }

    #[test]
    fn every_field_changes_the_encoding() {
        let base = Context { purpose: Purpose::Domain, pool: [0; 16], domain: 0, epoch: 0 };
        let mut pool = [0; 16];
        pool[15] = 1;
        for other in [
            Context { purpose: Purpose::Map, ..base },
            Context { pool, ..base },
            Context { domain: 1 << 63, ..base },
            Context { epoch: 1, ..base },
        ] {
            assert_ne!(base.encode(), other.encode(), "{other:?}");
        }
    }
}
