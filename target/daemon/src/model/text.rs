//! The words that people write: sizes, NQNs, addresses, lists of cores; and guesses at what they meant.
//!
//! Used alike by the configuration file, the management API and the command line, so that one spelling fits all.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The longest NQN in bytes (NVMe Base 2.1, section 4.7).
pub const NQN_MAX: usize = 223;
/// The well-known discovery subsystem's NQN (NVMe Base 2.1, section 4.7.1).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// The port of NVMe/TCP I/O, and of discovery (NVMe TCP Transport 1.1, section 3.1; IANA).
pub const IO_PORT: u16 = 4420;
/// The port of NVMe/TCP discovery services (IANA).
pub const DISCOVERY_PORT: u16 = 8009;

/// Reads a size in bytes, in the units of [`caisson_device::Size`]; `_` may stand between digits.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.replace('_', "")
        .parse::<caisson_device::Size>()
        .map(caisson_device::Size::bytes)
        .map_err(|e| e.to_string())
}

/// A size for people: exact when it is a whole number of a unit, else with two digits after the point.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >= 1024u64.pow(unit as u32 + 1) {
        unit += 1;
    }
    let one = 1024u64.pow(unit as u32);
    if bytes.is_multiple_of(one) {
        format!("{} {}", bytes / one, UNITS[unit])
    } else {
        format!("{:.2} {}", bytes as f64 / one as f64, UNITS[unit])
    }
}

/// Whether `nqn` is an NVMe Qualified Name (NVMe Base 2.1, section 4.7): `nqn.yyyy-mm.reverse.domain[:name]`, or the form
/// with a UUID; at most 223 bytes.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_nqn(nqn: &str) -> Result<(), String> {
    if nqn.len() > NQN_MAX {
        return Err(format!("an NQN has at most {NQN_MAX} bytes, this one {}", nqn.len()));
    }
    if nqn.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("an NQN has no spaces or control characters".into());
    }
    let Some(rest) = nqn.strip_prefix("nqn.") else {
        return Err(format!("`{nqn}` does not begin with `nqn.`"));
    };
    if let Some(uuid) = rest.strip_prefix("2014-08.org.nvmexpress:uuid:") {
        return match uuid::Uuid::try_parse(uuid) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("`{uuid}` is not a UUID")),
        };
    }
    let date = rest.as_bytes();
    let digit = |i: usize| date.get(i).is_some_and(u8::is_ascii_digit);
    let dated =
        (0..4).all(digit) && date.get(4) == Some(&b'-') && digit(5) && digit(6) && date.get(7) == Some(&b'.');
    if !dated {
        return Err(format!("`{nqn}` lacks the date: `nqn.yyyy-mm.` comes first"));
    }
    let month = (date[5] - b'0') * 10 + (date[6] - b'0');
    if !(1..=12).contains(&month) {
        return Err(format!("`{nqn}` has month {month:02} in its date"));
    }
    let domain = rest[8..].split(':').next().unwrap_or("");
    let labelled = !domain.is_empty()
        && domain.split('.').all(|l| !l.is_empty() && l.chars().all(|c| c.is_alphanumeric() || c == '-'));
    if labelled { Ok(()) } else { Err(format!("`{nqn}` lacks the reversed domain name after the date")) }
}

/// The NQN that a name gives where nobody chose one: of the UUID form, the same each time for the same name.
pub fn derived_nqn(name: &str) -> String {
    let space = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_DNS, b"caisson.subsystem");
    format!("nqn.2014-08.org.nvmexpress:uuid:{}", uuid::Uuid::new_v5(&space, name.as_bytes()))
}

/// What hosts speak to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// NVMe/TCP.
    Tcp,
    /// NVMe/RDMA.
    Rdma,
}

impl Scheme {
    /// How it is written, which is also its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Tcp => "tcp",
            Scheme::Rdma => "rdma",
        }
    }
}

/// Where a listener listens, or a referral points: `tcp://ADDRESS:PORT` or `rdma://ADDRESS:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The transport.
    pub scheme: Scheme,
    /// The address and port.
    pub socket: SocketAddr,
}

impl Address {
    /// Reads it with `port` where none is written. The scheme may be left out.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, port: u16) -> Result<Address, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Scheme::Tcp, rest),
            Some(("rdma", rest)) => (Scheme::Rdma, rest),
            Some((other, _)) => {
                return Err(format!("transport `{other}` is not served: tcp:// and rdma:// are"));
            }
            None => (Scheme::Tcp, text),
        };
        if let Ok(socket) = rest.parse::<SocketAddr>() {
            return Ok(Address { scheme, socket });
        }
        let bare = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']')).unwrap_or(rest);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Address { scheme, socket: SocketAddr::new(ip, port) });
        }
        if let Some(p) = rest.strip_prefix('*').and_then(|r| r.strip_prefix(':')) {
            let port = p.parse().map_err(|_| format!("`{p}` is not a port"))?;
            return Ok(Address { scheme, socket: SocketAddr::from(([0, 0, 0, 0], port)) });
        }
        Err(format!("`{text}` is not an address and port"))
    }
}

impl FromStr for Address {
    type Err = String;
    fn from_str(s: &str) -> Result<Address, String> {
        Address::parse(s, IO_PORT)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.socket)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Address, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads a list of cores: `0,2-3`. The result is sorted and has no repetition.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let number =
        |s: &str| s.trim().parse::<usize>().map_err(|_| format!("`{}` is not a core number", s.trim()));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (from, to) = match part.split_once('-') {
            Some((a, b)) => (number(a)?, number(b)?),
            None => (number(part)?, number(part)?),
        };
        if from > to {
            return Err(format!("`{part}` counts down"));
        }
        if to > 4095 {
            return Err(format!("core {to} is more than 4095"));
        }
        cores.extend(from..=to);
    }
    cores.sort_unstable();
    cores.dedup();
    Ok(cores)
}

/// The candidate that `word` was probably meant to be: the nearest one within a third of its length.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (distance(word, c), c))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// How many letters to insert, drop, change or swap with their neighbour to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().replace('-', "_").chars().collect();
    let b: Vec<char> = b.to_lowercase().replace('-', "_").chars().collect();
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("10G"), Ok(10 << 30));
        assert_eq!(parse_size("10 GiB"), Ok(10 << 30));
        assert_eq!(parse_size("1.5T"), Ok(3 << 39));
        assert_eq!(parse_size("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_size("1_000k"), Ok(1_024_000));
        assert!(parse_size("10X").is_err() && parse_size("").is_err() && parse_size("G").is_err());
        assert!(parse_size("20000P").is_err() && parse_size("-1").is_err() && parse_size("1.5").is_err());
        assert_eq!(format_size(10 << 30), "10 GiB");
        assert_eq!(format_size(1536), "1.50 KiB");
    }

    #[test]
    fn nqns() {
        for good in [
            "nqn.2024-01.com.example:disk1",
            "nqn.2024-01.com.example",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            DISCOVERY_NQN,
            &derived_nqn("ram"),
        ] {
            assert_eq!(check_nqn(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "nqn.",
            "iqn.2024-01.com.example",
            "nqn.2024-13.com.example",
            "nqn.24-01.com",
            "nqn.2024-01.",
            "nqn.2024-01.com..x",
            "nqn.2024-01.com x",
            "nqn.2014-08.org.nvmexpress:uuid:nope",
        ] {
            assert!(check_nqn(bad).is_err(), "{bad}");
        }
        assert!(check_nqn(&format!("nqn.2024-01.com.example:{}", "x".repeat(200))).is_err());
    }

    #[test]
    fn addresses() {
        let a = |s: &str| Address::parse(s, 4420).map(|a| a.to_string());
        assert_eq!(a("tcp://10.0.0.1:4421"), Ok("tcp://10.0.0.1:4421".into()));
        assert_eq!(a("10.0.0.1"), Ok("tcp://10.0.0.1:4420".into()));
        assert_eq!(a("tcp://[::1]"), Ok("tcp://[::1]:4420".into()));
        assert_eq!(a("::1"), Ok("tcp://[::1]:4420".into()));
        assert_eq!(a("*:8009"), Ok("tcp://0.0.0.0:8009".into()));
        assert_eq!(a("rdma://[::1]"), Ok("rdma://[::1]:4420".into()));
        assert!(a("fc://1.2.3.4:4420").is_err() && a("tcp://host:99999").is_err() && a("").is_err());
    }

    #[test]
    fn cores_and_guesses() {
        assert_eq!(parse_cores("3,0-1,1"), Ok(vec![0, 1, 3]));
        assert!(parse_cores("1-0").is_err() && parse_cores("").is_err() && parse_cores("a").is_err());
        assert_eq!(nearest("blocksize", ["size", "block_size", "name"]), Some("block_size"));
        assert_eq!(nearest("nmae", ["size", "name"]), Some("name"));
        assert_eq!(nearest("zebra", ["size", "name"]), None);
    }
}
