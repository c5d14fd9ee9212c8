//! What a person types to name a store: `PATH`, `ram:SIZE` or `null:SIZE`, and sizes.
//!
//! Every error says what was wrong, where, and what to type instead.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A store as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSpec {
    /// A regular file (made, sparse, where there is none and a size is given) or a block device.
    Path(PathBuf),
    /// Memory, gone when the program ends.
    Ram(Size),
    /// Takes writes and forgets them; reads as zeroes. For measuring transports.
    Null(Size),
}

/// A size in bytes, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Why a store's name or a size cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing was given.
    #[error("the store is missing: give PATH, ram:SIZE or null:SIZE, for example ./disk.img or ram:1GiB")]
    Empty,
    /// `ram:` or `null:` without a size.
    #[error("'{kind}:' needs a size, for example {kind}:1GiB")]
    SizeMissing {
        /// `ram` or `null`.
        kind: &'static str,
    },
    /// `word:` before the path is no kind of store.
    #[error(
        "'{kind}' in '{text}' is no kind of store: give PATH, ram:SIZE or null:SIZE (a file whose name has a colon: \
         ./{text})"
    )]
    UnknownKind {
        /// The word before the colon.
        kind: String,
        /// All that was given.
        text: String,
    },
    /// The size does not begin with a number.
    #[error("'{text}' is not a size: begin with a number, for example 64MiB, 10G or 1TiB")]
    NotANumber {
        /// What was given.
        text: String,
    },
    /// The unit is not known.
    #[error(
        "'{unit}' in '{text}' is no unit of size: K, M, G, T, P or KiB, MiB, GiB, TiB, PiB are powers of 1024; KB, \
         MB, GB, TB, PB are powers of 1000; B or nothing is bytes"
    )]
    UnknownUnit {
        /// What stands after the number.
        unit: String,
        /// All that was given.
        text: String,
    },
    /// A fraction that is not a whole number of bytes.
    #[error("'{text}' is not a whole number of bytes")]
    NotWhole {
        /// What was given.
        text: String,
    },
    /// Zero.
    #[error("a size of zero is of no use")]
    Zero,
    /// More than 64 bits hold.
    #[error("'{text}' is more than 16 EiB, the most that can be addressed")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

impl Size {
    /// A size of `bytes`; `None` for zero.
    pub const fn new(bytes: u64) -> Option<Size> {
        if bytes == 0 { None } else { Some(Size(bytes)) }
    }

    /// In bytes, at least 1.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// The units by their lower-case names.
const UNITS: [(&str, u64); 17] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("p", 1 << 50),
    ("pib", 1 << 50),
    ("pb", 1_000_000_000_000_000),
];

/// Digits after the point that are looked at.
const MAX_FRACTION: usize = 15;

impl FromStr for Size {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Size, SpecError> {
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let unit = unit.trim();
        let not_a_number = || SpecError::NotANumber { text: text.to_owned() };
        let too_large = || SpecError::TooLarge { text: text.to_owned() };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
            return Err(not_a_number());
        }
        let factor = UNITS
            .iter()
            .find(|(name, _)| unit.eq_ignore_ascii_case(name))
            .map(|&(_, factor)| u128::from(factor))
            .ok_or_else(|| SpecError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() })?;
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > MAX_FRACTION {
            return Err(SpecError::NotWhole { text: text.to_owned() });
        }
        // Up to 20 digits fit in 64 bits, so more are too large whatever the unit; 15 more leave room in 128 bits.
        let whole = u128::from(whole.trim_start_matches('0').parse::<u64>().or_else(|e| match e.kind() {
            std::num::IntErrorKind::Empty => Ok(0),
            _ => Err(too_large()),
        })?);
        let bytes = whole.checked_mul(factor).ok_or_else(too_large)?;
        let tenth_power = 10u128.pow(fraction.len() as u32);
        let part = fraction.parse::<u128>().unwrap_or(0) * factor;
        if part % tenth_power != 0 {
            return Err(SpecError::NotWhole { text: text.to_owned() });
        }
        let bytes = u64::try_from(bytes + part / tenth_power).map_err(|_| too_large())?;
        Size::new(bytes).ok_or(SpecError::Zero)
    }
}

impl fmt::Display for Size {
    /// The shortest exact form, such as `10GiB` or `1000B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let step = (self.0.trailing_zeros() as usize / 10).min(NAMES.len() - 1);
        write!(f, "{}{}", self.0 >> (10 * step), NAMES[step])
    }
}

impl FromStr for StoreSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<StoreSpec, SpecError> {
        let sized = |kind, size: &str| {
            if size.trim().is_empty() { Err(SpecError::SizeMissing { kind }) } else { size.parse::<Size>() }
        };
        match text.split_once(':') {
            _ if text.trim().is_empty() => Err(SpecError::Empty),
            Some(("ram", size)) => sized("ram", size).map(StoreSpec::Ram),
            Some(("null", size)) => sized("null", size).map(StoreSpec::Null),
            Some((kind, _)) if is_scheme(kind) => {
                Err(SpecError::UnknownKind { kind: kind.to_owned(), text: text.to_owned() })
            }
            _ => Ok(StoreSpec::Path(PathBuf::from(text))),
        }
    }
}

/// Whether `word` before a colon looks like a kind of store rather than the start of a file's name.
fn is_scheme(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreSpec::Path(path) => path.display().fmt(f),
            StoreSpec::Ram(size) => write!(f, "ram:{size}"),
            StoreSpec::Null(size) => write!(f, "null:{size}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Result<u64, SpecError> {
        text.parse::<Size>().map(Size::bytes)
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("512B", 512),
            ("64MiB", 64 << 20),
            ("10G", 10 << 30),
            ("1TiB", 1 << 40),
            ("1tib", 1 << 40),
            ("10GB", 10_000_000_000),
            ("1.5GiB", 3 << 29),
            ("0.5K", 512),
            (" 2 MiB ", 2 << 20),
            ("007k", 7 << 10),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(matches!(size(""), Err(SpecError::NotANumber { .. })));
        assert!(matches!(size("-1G"), Err(SpecError::NotANumber { .. })));
        assert!(matches!(size("1."), Err(SpecError::NotANumber { .. })));
        assert!(matches!(size(".5G"), Err(SpecError::NotANumber { .. })));
        assert!(matches!(size("1.2.3G"), Err(SpecError::NotANumber { .. })));
        assert!(matches!(size("10Q"), Err(SpecError::UnknownUnit { .. })));
        assert!(matches!(size("10 GiB x"), Err(SpecError::UnknownUnit { .. })));
        assert!(matches!(size("0.3K"), Err(SpecError::NotWhole { .. })));
        assert!(matches!(size("1.0000000000000001P"), Err(SpecError::NotWhole { .. })));
        assert!(matches!(size("16384P"), Err(SpecError::TooLarge { .. })));
        assert!(matches!(size("18446744073709551616"), Err(SpecError::TooLarge { .. })));
        assert!(matches!(size("99999999999999999999999999999999999999999"), Err(SpecError::TooLarge { .. })));
        assert_eq!(size("0G"), Err(SpecError::Zero));
    }

    #[test]
    fn stores() {
        let parse = |t: &str| t.parse::<StoreSpec>();
        assert_eq!(parse("ram:1GiB"), Ok(StoreSpec::Ram(Size(1 << 30))));
        assert_eq!(parse("null:2T"), Ok(StoreSpec::Null(Size(2 << 40))));
        for path in ["disk.img", "/dev/sdb", "./ram:1G", "/dev/disk/by-id/usb-a:0", "ram", "a b:c"] {
            assert_eq!(parse(path), Ok(StoreSpec::Path(path.into())), "{path}");
        }
        assert_eq!(parse(""), Err(SpecError::Empty));
        assert_eq!(parse("ram:"), Err(SpecError::SizeMissing { kind: "ram" }));
        assert!(matches!(parse("ram:lots"), Err(SpecError::NotANumber { .. })));
        assert!(matches!(parse("rma:1G"), Err(SpecError::UnknownKind { .. })));
        let said = parse("rma:1G").unwrap_err().to_string();
        assert!(said.contains("'rma'") && said.contains("ram:SIZE") && said.contains("./rma:1G"), "{said}");
    }

    #[test]
    fn shown_as_typed() {
        for text in ["ram:1GiB", "null:3TiB", "ram:1000B", "./x.img", "ram:1025KiB"] {
            assert_eq!(text.parse::<StoreSpec>().unwrap().to_string(), text);
        }
    }
}
