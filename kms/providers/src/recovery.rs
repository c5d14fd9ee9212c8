//! A root key that exists only in shares, for the day on which every other provider is lost.
//!
//! Owns making one, splitting it (Shamir's secret sharing over GF(2^8), of crate `vsss-rs`), the text of a share, and putting
//! shares together again. Fewer shares than are needed say nothing of the key. It must never keep the key once it is split: what is
//! sealed to the shares later is sealed to its [open half](crate::RecoveryPublic), which stands in the pool.

use crate::recovery_public::{self, RecoveryPublic, SEALED_TO};
use caisson_keys::{
    CONTEXT_LEN, Context, KeyError, KeyProvider, ProviderStatus, Random, Secret, Wrapped, seal,
};
use rand_core::{TryCryptoRng, TryRng};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use vsss_rs::Gf256;
use zeroize::Zeroizing;

/// The provider's name, as pools remember it.
pub const RECOVERY: &str = "recovery";

/// The first byte of what earlier versions wrapped, with the key itself. It is opened, and not made any more.
const BY_KEY: u8 = 1;
/// What a share's text begins with.
const MARK: &str = "caisson-share-1";
/// Bytes of the key.
const KEY_LEN: usize = 32;
/// Shares of a key at most: what a person may still look after.
const MAX_SHARES: u8 = 16;

/// A recovery key, in memory for as long as pools' keys are wrapped or unwrapped with it.
pub struct Recovery {
    id: [u8; 8],
    key: Secret,
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recovery({})", self.root())
    }
}

/// One share of a recovery key. `Debug` does not show its value; its text, which is to be kept by one person, does.
#[derive(PartialEq, Eq)]
pub struct Share {
    /// The pool that the key opens.
    pub pool: [u8; 16],
    /// Which recovery key.
    pub id: [u8; 8],
    /// How many shares are needed.
    pub needed: u8,
    /// Its number, from 1 on.
    pub number: u8,
    value: Secret,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({}, number {}, {} needed)", hex(&self.id), self.number, self.needed)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bad(cause: &str, remedy: &str) -> KeyError {
    KeyError::Local { provider: RECOVERY.into(), cause: cause.into(), remedy: remedy.into() }
}

impl Recovery {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`].
    pub fn new(random: Random<'_>) -> Result<Recovery, KeyError> {
        let mut id = [0; 8];
        random(&mut id)?;
        Ok(Recovery { id, key: Secret::filled(KEY_LEN, random)? })
    }

    /// The name of the key.
    pub fn root(&self) -> String {
        hex(&self.id)
    }

    /// Splits it into `shares`, any `needed` of which give it back.
    ///
    /// # Errors
    /// Numbers that make no sense; [`KeyError::NoRandom`].
    pub fn split(
        &self,
        pool: [u8; 16],
        shares: u8,
        needed: u8,
        random: Random<'_>,
    ) -> Result<Vec<Share>, KeyError> {
        if !(2..=shares).contains(&needed) || shares > MAX_SHARES {
            return Err(bad(
                &format!("{shares} shares of which {needed} are needed cannot be"),
                &format!("choose 2 to {MAX_SHARES} shares, and a threshold of 2 up to their number"),
            ));
        }
        // The crate takes 4 bytes for each coefficient.
        let mut pad = Zeroizing::new(vec![0; usize::from(needed) * KEY_LEN * 4]);
        random(&mut pad)?;
        let drawn = Drawn { pad, at: 0 };
        let split = Gf256::split_bytes(needed.into(), shares.into(), self.key.expose(), drawn);
        let split = split.map_err(|e| bad(&format!("the key cannot be split: {e:?}"), "report this"))?;
        let share = |bytes: Vec<u8>| {
            let mut bytes = Zeroizing::new(bytes);
            let number = bytes[0];
            Share { pool, id: self.id, needed, number, value: Secret::take(&mut bytes[1..]) }
        };
        Ok(split.into_iter().map(share).collect())
    }

    /// Puts shares together.
    ///
    /// # Errors
    /// Too few, or not of one key. Shares that were changed give a key that opens nothing.
    pub fn join(shares: &[Share]) -> Result<Recovery, KeyError> {
        let first = shares.first().ok_or_else(|| bad("no share is given", "name files with shares"))?;
        let alike = |s: &Share| (s.pool, s.id, s.needed) == (first.pool, first.id, first.needed);
        if !shares.iter().all(alike) {
            return Err(bad("these shares are not of one key", "take shares of the same pool and set"));
        }
        let mut numbers: Vec<u8> = shares.iter().map(|s| s.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() < usize::from(first.needed) {
            return Err(bad(
                &format!("{} of the {} shares that are needed are here", numbers.len(), first.needed),
                "find more of the shares; each counts once",
            ));
        }
        let one_each = numbers.iter().filter_map(|n| shares.iter().find(|s| s.number == *n));
        let bytes = one_each.map(|s| [&[s.number][..], s.value.expose()].concat()).collect();
        let bytes: Zeroizing<Vec<Vec<u8>>> = Zeroizing::new(bytes);
        let joined = Gf256::combine_bytes(&*bytes);
        let mut key = Zeroizing::new(
            joined.map_err(|e| bad(&format!("these shares do not fit together: {e:?}"), "check them"))?,
        );
        Ok(Recovery { id: first.id, key: Secret::take(&mut key) })
    }
}

/// Random bytes that were drawn before, so that the lack of any is an error and not a panic.
struct Drawn {
    pad: Zeroizing<Vec<u8>>,
    at: usize,
}

impl TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let end = self.at + out.len();
        assert!(end <= self.pad.len(), "more is drawn than a polynomial has coefficients");
        out.copy_from_slice(&self.pad[self.at..end]);
        self.at = end;
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}

/// What is authenticated with a wrapped secret: its place, and which recovery key wrapped it.
pub(crate) fn associated(context: &Context, id: &[u8; 8]) -> [u8; CONTEXT_LEN + 8] {
    let mut out = [0; CONTEXT_LEN + 8];
    out[..CONTEXT_LEN].copy_from_slice(&context.encode());
    out[CONTEXT_LEN..].copy_from_slice(id);
    out
}

impl KeyProvider for Recovery {
    fn name(&self) -> &str {
        RECOVERY
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        RecoveryPublic::of_private(self.id, &self.key)?.wrap(secret, context)
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        if wrapped.root != self.root() {
            return Err(KeyError::NoSuchKey { provider: RECOVERY.into(), root: wrapped.root.clone() });
        }
        let aad = associated(context, &self.id);
        match wrapped.blob.first() {
            Some(&BY_KEY) => seal::unwrap(BY_KEY, &self.key, &aad, &wrapped.blob),
            Some(&SEALED_TO) => recovery_public::open(&self.key, &wrapped.blob, &aad),
            _ => Err(KeyError::NotAuthentic),
        }
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        Ok(vec![self.root()])
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        Err(no_other())
    }

    fn status(&self) -> ProviderStatus {
        ProviderStatus::Ready
    }
}

pub(crate) fn no_other() -> KeyError {
    KeyError::Unsupported {
        provider: RECOVERY.into(),
        what: "have another root key: its shares are with people".into(),
        remedy: "make new shares (caisson key export-recovery)".into(),
    }
}

/// The first 4 bytes of the SHA-256 of what is before them: against typing errors.
fn check(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..4])
}

impl Share {
    /// The one line that one person keeps.
    pub fn text(&self) -> Zeroizing<String> {
        let (pool, id) = (hex(&self.pool), hex(&self.id));
        let body = format!("{MARK}:{pool}:{id}:{}:{}:{}", self.needed, self.number, hex(self.value.expose()));
        let body = Zeroizing::new(body);
        Zeroizing::new(format!("{}:{}", *body, check(&body)))
    }
}

impl FromStr for Share {
    type Err = KeyError;

    /// Reads a share out of a text that may have other lines, each of which begins with `#`.
    fn from_str(text: &str) -> Result<Share, KeyError> {
        let typo = || bad("this is no share, or has a typing error", "compare it with what was printed");
        let line =
            text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#')).ok_or_else(typo)?;
        let (body, sum) = line.rsplit_once(':').ok_or_else(typo)?;
        if check(body) != sum.to_ascii_lowercase() {
            return Err(typo());
        }
        let parts: Vec<&str> = body.split(':').collect();
        let [MARK, pool, id, needed, number, value] = parts[..] else { return Err(typo()) };
        let number = number.parse().ok().filter(|n| *n != 0).ok_or_else(typo)?;
        let needed = needed.parse().ok().filter(|n| (2..=MAX_SHARES).contains(n)).ok_or_else(typo)?;
        let mut bytes = unhex::<KEY_LEN>(value).ok_or_else(typo)?;
        Ok(Share {
            pool: unhex(pool).ok_or_else(typo)?,
            id: unhex(id).ok_or_else(typo)?,
            needed,
            number,
            value: Secret::take(&mut bytes),
        })
    }
}

pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in out.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os_random;
    use caisson_keys::{Purpose, contract, create_pool_keys, unlock};

    const POOL: [u8; 16] = [3; 16];

    const OF_BEFORE: &str = "01000102030405060708090a0b0c0d0e0f1011121314151617d6a6debd9dfb9d9aa83cfe1c5862a4e48b8351e0d9f510f7f21ac8dfc88132a4f98fdb6afc9ea7f7c9f0f78c117da358";

    fn texts(shares: &[Share]) -> Vec<Zeroizing<String>> {
        shares.iter().map(Share::text).collect()
    }

    fn joined(texts: &[&Zeroizing<String>]) -> Result<Recovery, KeyError> {
        let shares: Result<Vec<Share>, _> = texts.iter().map(|t| t.parse()).collect();
        Recovery::join(&shares?)
    }

    #[test]
    fn any_that_are_enough_open_the_pool_and_fewer_do_not() {
        let key = Recovery::new(&mut os_random).unwrap();
        contract::check(&key).unwrap();
        let (made, slots) = create_pool_keys(&key, POOL, &mut os_random).unwrap();
        let shares = texts(&key.split(POOL, 5, 3, &mut os_random).unwrap());
        drop(key);
        for a in 0..5 {
            for b in 0..5 {
                for c in 0..5 {
                    let some = [&shares[a], &shares[b], &shares[c]];
                    if a != b && b != c && a != c {
                        let key = joined(&some).unwrap();
                        assert!(unlock(&[&key], POOL, &slots).unwrap().epochs().eq(made.epochs()));
                    } else {
                        assert!(joined(&some).unwrap_err().to_string().contains("of the 3 shares"));
                    }
                }
            }
        }
        let all: Vec<_> = shares.iter().collect();
        assert!(unlock(&[&joined(&all).unwrap()], POOL, &slots).is_ok());
    }

    /// What an earlier version wrapped with the key itself; bytes computed with Python (XChaCha20-Poly1305 under 32 times 0x42).
    #[test]
    fn what_shares_of_before_wrapped_still_opens() {
        let key = Recovery { id: [9; 8], key: Secret::take(&mut [0x42; 32]) };
        let context = Context { purpose: Purpose::Domain, pool: POOL, domain: 1, epoch: 0 };
        let blob: [u8; 73] = unhex(OF_BEFORE).unwrap();
        let wrapped = Wrapped { root: key.root(), blob: blob.to_vec() };
        assert_eq!(key.unwrap(&wrapped, &context), Ok(Secret::take(&mut [0x5a; 32])));
        for at in 0..blob.len() {
            let mut changed = wrapped.clone();
            changed.blob[at] ^= 1;
            assert_eq!(key.unwrap(&changed, &context), Err(KeyError::NotAuthentic), "byte {at}");
        }
    }

    #[test]
    fn two_of_three_say_nothing_of_the_key() {
        // With any two shares, every third value is possible, and each gives another key: what is known of it is nothing.
        let key = Recovery { id: [1; 8], key: Secret::take(&mut [0x42; 32]) };
        let mut shares = key.split(POOL, 3, 3, &mut os_random).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for guess in 0..=255u8 {
            shares[2].value = Secret::take(&mut [guess; 32]);
            seen.insert(Recovery::join(&shares).unwrap().key.expose()[0]);
        }
        assert_eq!(seen.len(), 256);
    }

    #[test]
    fn shares_of_other_keys_and_typing_errors_are_seen() {
        let (one, two) = (Recovery::new(&mut os_random).unwrap(), Recovery::new(&mut os_random).unwrap());
        let (a, b) = (
            texts(&one.split(POOL, 2, 2, &mut os_random).unwrap()),
            texts(&two.split(POOL, 2, 2, &mut os_random).unwrap()),
        );
        assert!(joined(&[&a[0], &b[1]]).unwrap_err().to_string().contains("not of one key"));
        assert!(joined(&[]).is_err() && joined(&[&a[0]]).is_err());
        let good = a[0].to_string();
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert!(String::from_utf8(bytes).unwrap().parse::<Share>().is_err(), "byte {at}");
        }
        let commented = format!("# Keep this\n\n  {good}  \n");
        assert_eq!(commented.parse::<Share>().unwrap(), good.parse().unwrap());
        assert!(!format!("{:?}", good.parse::<Share>().unwrap()).contains(&good[60..80]));
        for (shares, needed) in [(1, 1), (3, 1), (3, 4), (17, 2), (0, 0)] {
            assert!(one.split(POOL, shares, needed, &mut os_random).is_err(), "{needed} of {shares}");
        }
    }

    /// Shares computed with an implementation of its own in Python (field 0x11b, f(x) = secret + 3x + 5x^2, byte by byte the
    /// secret plus its index): a change would make shares that people hold worthless.
    #[test]
    fn shares_are_what_they_were() {
        let value = |x: u8, y: [u8; 4]| {
            let mut bytes = y.to_vec();
            bytes.resize(KEY_LEN, y[3]);
            Share { pool: POOL, id: [9; 8], needed: 3, number: x, value: Secret::take(&mut bytes) }
        };
        let shares = [
            value(1, [0x86, 0x87, 0x84, 0x85]),
            value(2, [0x92, 0x93, 0x90, 0x91]),
            value(7, [0xc8, 0xc9, 0xca, 0xcb]),
        ];
        assert_eq!(Recovery::join(&shares).unwrap().key.expose()[..4], [0x80, 0x81, 0x82, 0x83]);
        let text = "caisson-share-1:03030303030303030303030303030303:0909090909090909:3:1:8687848585858585858585858585858585858585858585858585858585858585:a1b19958";
        assert_eq!(*shares[0].text(), text);
        assert_eq!(text.parse::<Share>().unwrap(), shares[0]);
    }
}
