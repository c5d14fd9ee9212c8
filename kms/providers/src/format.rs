//! The sealed key file, version 1: its bytes.
//!
//! Owns the layout (kms/README.md has it as a table), its bounds, and telling a damaged file from a wrong passphrase. It does no
//! I/O. It must never spend memory or time that a file asks for before the bounds here allow it.

use crate::seal::{self, NONCE_LEN, TAG_LEN};
use caisson_keys::{KeyError, Random, Secret};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// The first bytes of every sealed key file.
pub const MAGIC: [u8; 8] = *b"CAISKEYS";

/// The version that is written.
pub const VERSION: u16 = 1;

/// How many root keys a file holds at most.
pub const MAX_ROOTS: usize = 16;

/// Longest label of a root key in bytes.
pub const MAX_LABEL: usize = 31;

/// Bytes before the sealed part.
const HEADER: usize = 136;
/// Where the check begins; what is before it goes into the check.
const CHECK: usize = 80;
const NONCE: usize = 112;
/// Bytes of one root key: id, creation time, label with its length, key.
const ROOT: usize = 16 + 8 + 1 + MAX_LABEL + 32;
const DIGEST: usize = 32;

/// Bytes of the largest file.
pub const MAX_FILE: usize = HEADER + MAX_ROOTS * ROOT + TAG_LEN + DIGEST;

/// What stretching the passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes: how much of it an attacker can do side by side.
    pub lanes: u32,
}

impl Argon2Cost {
    /// The second recommended option of RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes.
    pub const DEFAULT: Argon2Cost = Argon2Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 };

    /// Most memory that a file may ask for, in KiB: 1 GiB.
    pub const MAX_MEMORY_KIB: u32 = 1 << 20;
    /// Most passes.
    pub const MAX_PASSES: u32 = 16;
    /// Most lanes.
    pub const MAX_LANES: u32 = 16;

    /// Whether it is within the bounds: memory of 8 KiB a lane (the algorithm's own least) to 1 GiB, 1 to 16 passes and lanes.
    pub fn is_allowed(&self) -> bool {
        (1..=Self::MAX_PASSES).contains(&self.passes)
            && (1..=Self::MAX_LANES).contains(&self.lanes)
            && (8 * self.lanes..=Self::MAX_MEMORY_KIB).contains(&self.memory_kib)
    }
}

/// Why bytes are no sealed key file that can be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It begins with something else.
    #[error("it is not a sealed key file of Caisson")]
    NotAKeyFile,
    /// A version that this program does not know.
    #[error("it is of version {0}, and this program knows version {VERSION}")]
    Version(u16),
    /// Bytes are missing, too many or changed.
    #[error("it is damaged ({what})")]
    Damaged {
        /// What was found.
        what: &'static str,
    },
    /// It asks for more than this program gives, or for what Argon2id cannot do.
    #[error(
        "it asks for Argon2id with {memory_kib} KiB, {passes} passes and {lanes} lanes, which is beyond what is allowed \
         (1 GiB, 16 passes, 16 lanes)"
    )]
    Cost {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// The file is as it was written, and the passphrase is another.
    #[error("the passphrase is wrong: it is not the one that the file was sealed with")]
    WrongPassphrase,
    /// The passphrase is right, and yet the contents do not authenticate: somebody changed them on purpose.
    #[error("it was tampered with: the passphrase is right and the contents do not authenticate")]
    Tampered,
    /// Stretching the passphrase failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl FormatError {
    /// What a person can do about it, as one sentence.
    pub fn remedy(&self) -> String {
        match self {
            FormatError::NotAKeyFile => "name a file that Caisson made with --key-file".into(),
            FormatError::Version(_) => "use a newer caisson".into(),
            FormatError::Damaged { .. } | FormatError::Cost { .. } | FormatError::Tampered => {
                "put back a copy of the key file".into()
            }
            FormatError::WrongPassphrase => {
                "give the passphrase that it was sealed with; letters, case and spaces count".into()
            }
            FormatError::Key(cause) => cause.remedy(),
        }
    }
}

/// One root key.
pub struct Root {
    /// Its number, random: which key it is, whatever it is called.
    pub id: [u8; 16],
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// What it is called: 1 to [`MAX_LABEL`] bytes without control characters.
    pub label: String,
    /// The key.
    pub key: Secret,
}

impl Root {
    /// The name under which wrapped keys remember it: label and first half of the number.
    pub fn name(&self) -> String {
        let hex: String = self.id[..8].iter().map(|b| format!("{b:02x}")).collect();
        format!("{}:{hex}", self.label)
    }
}

/// The plain part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many root keys there are.
    pub roots: usize,
    /// The cost of stretching.
    pub cost: Argon2Cost,
    /// The file's random number; kept when the passphrase changes.
    pub id: [u8; 16],
    /// The salt of the stretching.
    pub salt: [u8; 32],
}

/// The key that seals a file, with what it was made from, so that the file can be written again without the passphrase.
pub struct Opener {
    cost: Argon2Cost,
    salt: [u8; 32],
    stretched: Secret,
}

impl Opener {
    /// Stretches a passphrase for a new file, with a new salt.
    pub fn new(passphrase: &Secret, cost: Argon2Cost, random: Random<'_>) -> Result<Opener, KeyError> {
        let mut salt = [0; 32];
        random(&mut salt)?;
        Ok(Opener { cost, salt, stretched: seal::stretch(passphrase, &salt, cost)? })
    }

    /// The stretched passphrase, which opens the file as the passphrase does.
    pub(crate) fn stretched(&self) -> &Secret {
        &self.stretched
    }

    fn check(&self, header: &[u8]) -> Secret {
        seal::expand(&self.stretched, &[b"caisson key file v1 check", header])
    }

    fn key(&self) -> Secret {
        seal::expand(&self.stretched, &[b"caisson key file v1 seal"])
    }
}

/// Reads the plain part, and sees that the file is whole. Costs nothing that the file could choose.
pub fn decode_header(bytes: &[u8]) -> Result<Header, FormatError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(FormatError::NotAKeyFile);
    }
    let damaged = |what| FormatError::Damaged { what };
    let version = u16::from_le_bytes(take(bytes, 8).ok_or(damaged("it is cut short"))?);
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let Some((body, digest)) = bytes.split_last_chunk::<DIGEST>().filter(|(body, _)| body.len() >= HEADER)
    else {
        return Err(damaged("it is cut short"));
    };
    let u32_at = |at| take(body, at).map_or(0, u32::from_le_bytes);
    if Sha256::digest(body)[..] != digest[..] {
        return Err(damaged("its checksum does not fit"));
    }
    let roots = usize::from(take(body, 10).map_or(0, u16::from_le_bytes));
    if !(1..=MAX_ROOTS).contains(&roots) {
        return Err(damaged("its number of keys is out of bounds"));
    }
    if bytes.len() != file_len(roots) || u32_at(12) as usize != bytes.len() {
        return Err(damaged("its length does not fit"));
    }
    if u32_at(28) != 0 {
        return Err(damaged("a reserved field is in use"));
    }
    let cost = Argon2Cost { memory_kib: u32_at(16), passes: u32_at(20), lanes: u32_at(24) };
    if !cost.is_allowed() {
        let Argon2Cost { memory_kib, passes, lanes } = cost;
        return Err(FormatError::Cost { memory_kib, passes, lanes });
    }
    let (id, salt) = (take(body, 32).unwrap_or_default(), take(body, 48).unwrap_or_default());
    Ok(Header { roots, cost, id, salt })
}

/// Opens a file with its passphrase: its header, its root keys, oldest first, and what writes it again.
pub fn decode(bytes: &[u8], passphrase: &Secret) -> Result<(Header, Vec<Root>, Opener), FormatError> {
    let header = decode_header(bytes)?;
    let stretched = seal::stretch(passphrase, &header.salt, header.cost)?;
    decode_stretched(bytes, header, stretched)
}

/// The same with the stretched passphrase, as a TPM keeps it. Where it is another, the error is of a wrong passphrase.
pub(crate) fn decode_stretched(
    bytes: &[u8],
    header: Header,
    stretched: Secret,
) -> Result<(Header, Vec<Root>, Opener), FormatError> {
    let opener = Opener { cost: header.cost, salt: header.salt, stretched };
    let check: [u8; 32] = take(bytes, CHECK).unwrap_or_default();
    if !bool::from(opener.check(&bytes[..CHECK]).expose().ct_eq(&check)) {
        return Err(FormatError::WrongPassphrase);
    }
    let nonce = take(bytes, NONCE).unwrap_or_default();
    let sealed = HEADER..HEADER + header.roots * ROOT;
    let tag = take(bytes, sealed.end).unwrap_or_default();
    let opened = Secret::filled(sealed.len(), |text| {
        text.copy_from_slice(&bytes[sealed]);
        seal::open(&opener.key(), &nonce, &bytes[..HEADER], text, &tag).ok_or(FormatError::Tampered)
    })?;
    let roots: Option<Vec<Root>> = opened.expose().chunks_exact(ROOT).map(decode_root).collect();
    Ok((header, roots.ok_or(FormatError::Tampered)?, opener))
}

/// The bytes of a file with `roots`. Each call draws a new nonce.
///
/// # Panics
///
/// Where there are no roots, more than [`MAX_ROOTS`], or a label that [`is_label`] refuses.
pub fn encode(
    id: [u8; 16],
    roots: &[Root],
    opener: &Opener,
    random: Random<'_>,
) -> Result<Vec<u8>, KeyError> {
    assert!((1..=MAX_ROOTS).contains(&roots.len()) && roots.iter().all(|r| is_label(&r.label)));
    let len = file_len(roots.len());
    let Argon2Cost { memory_kib, passes, lanes } = opener.cost;
    let mut out = Vec::with_capacity(len);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((roots.len() as u16).to_le_bytes());
    for field in [len as u32, memory_kib, passes, lanes, 0] {
        out.extend(field.to_le_bytes());
    }
    out.extend(id);
    out.extend(opener.salt);
    out.extend(opener.check(&out).expose());
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    out.extend(nonce);
    // The capacity is enough for all, so the keys are never moved and left behind before they are sealed.
    for root in roots {
        encode_root(root, &mut out);
    }
    let (header, text) = out.split_at_mut(HEADER);
    let Some(tag) = seal::seal(&opener.key(), &nonce, header, text) else {
        out.zeroize();
        unreachable!("the key is of 32 bytes and the text is short");
    };
    out.extend(tag);
    out.extend(Sha256::digest(&out));
    debug_assert_eq!(out.len(), len);
    Ok(out)
}

/// Whether `label` can name a root key: 1 to [`MAX_LABEL`] bytes of letters, digits, `-`, `_` and `.`.
pub fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn file_len(roots: usize) -> usize {
    HEADER + roots * ROOT + TAG_LEN + DIGEST
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn encode_root(root: &Root, out: &mut Vec<u8>) {
    let mut label = [0; MAX_LABEL];
    label[..root.label.len()].copy_from_slice(root.label.as_bytes());
    out.extend(root.id);
    out.extend(root.created.to_le_bytes());
    out.push(root.label.len() as u8);
    out.extend(label);
    out.extend(root.key.expose());
}

/// `None` for what this version never wrote.
fn decode_root(bytes: &[u8]) -> Option<Root> {
    let len = usize::from(*bytes.get(24)?);
    let (label, rest) = bytes.get(25..25 + MAX_LABEL)?.split_at_checked(len)?;
    let label = std::str::from_utf8(label).ok().filter(|l| is_label(l))?;
    let key = bytes.get(25 + MAX_LABEL..).filter(|k| k.len() == 32 && rest.iter().all(|b| *b == 0))?;
    let key = Secret::filled(32, |out| {
        out.copy_from_slice(key);
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(key) = key;
    Some(Root {
        id: take(bytes, 0)?,
        created: take(bytes, 16).map(u64::from_le_bytes)?,
        label: label.into(),
        key,
    })
}
