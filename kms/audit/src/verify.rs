//! Judging a log.
//!
//! Owns the rules: numbers rise by one, each record names the hash of the line before it, and each is signed with the key that the
//! first names, or that somebody noted elsewhere. It needs no secret.

use crate::{BEGIN, MAX_LINE, Record, hash, hex, signed, split, unhex};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// What is wrong with a log, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Problem {
    /// The line, from 1 on.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// A log that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its records.
    pub records: Vec<Record>,
    /// The public key that signed all of them, in hexadecimal.
    pub public: String,
    /// The hash of the last line: who notes it sees later whether anything was cut off.
    pub head: String,
    /// Whether half a record is at the end, which a crash leaves.
    pub torn: bool,
}

/// Judges the text of a log. `public` is the key as it was noted elsewhere; without it, the one that the log itself names counts.
///
/// # Errors
/// The first [`Problem`].
pub fn verify(text: &str, public: Option<&str>) -> Result<Verified, Problem> {
    let torn = !text.is_empty() && !text.ends_with('\n');
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let (mut records, mut last): (Vec<Record>, String) = (Vec::new(), "0".repeat(64));
    let mut key = public.map(|p| p.trim().to_ascii_lowercase());
    for (at, line) in whole.lines().enumerate() {
        let problem = |what| Problem { line: at + 1, what };
        if line.len() > MAX_LINE {
            return Err(problem("is too long"));
        }
        let (body, sig) = split(line).ok_or_else(|| problem("is no record"))?;
        let record: Record = serde_json::from_str(&body).map_err(|_| problem("is no record"))?;
        if at == 0 {
            if record.op != BEGIN {
                return Err(problem("the beginning is missing"));
            }
            let named = record.what.clone();
            if key.get_or_insert_with(|| named.clone()) != &named {
                return Err(problem("was signed with another key than the one that was given"));
            }
        } else if record.op == BEGIN {
            return Err(problem("a second beginning"));
        }
        if record.n != at as u64 + 1 {
            return Err(problem("has a number that does not follow: records were taken out or put in"));
        }
        if record.prev != last {
            return Err(problem("does not follow the line before it: one of them was changed"));
        }
        let bytes = key.as_deref().and_then(unhex).filter(|k| k.len() == 32);
        let bytes = bytes.ok_or_else(|| problem("there is no key to judge it with"))?;
        let sig = unhex(sig).ok_or_else(|| problem("has no signature"))?;
        UnparsedPublicKey::new(&ED25519, &bytes)
            .verify(&signed(&body), &sig)
            .map_err(|_| problem("its signature is not right: it was changed, or signed with another key"))?;
        // What was signed is what is read: another spelling of the same record is none of ours.
        if serde_json::to_string(&record).ok().as_deref() != Some(&body) {
            return Err(problem("is not written as records are"));
        }
        last = hash(line);
        records.push(record);
    }
    if records.is_empty() {
        return Err(Problem { line: 1, what: "it holds no record" });
    }
    Ok(Verified { records, public: key.unwrap_or_else(|| hex(&[])), head: last, torn })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::Ed25519KeyPair;

    /// FIPS 180-2, B.1.
    #[test]
    fn sha256_gives_what_its_document_says() {
        assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    /// RFC 8032, 7.1, tests 1 and 2.
    #[test]
    fn ed25519_gives_what_its_rfc_says() {
        for (seed, public, message, sig) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe\
                 24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302a\
                 eeb00d291612bb0c00",
            ),
        ] {
            let [seed, public, message, sig] = [seed, public, message, sig].map(|t| unhex(t).unwrap());
            let key = Ed25519KeyPair::from_seed_and_public_key(&seed, &public).unwrap();
            assert_eq!(key.sign(&message).as_ref(), sig);
            UnparsedPublicKey::new(&ED25519, &public).verify(&message, &sig).unwrap();
        }
    }
}
