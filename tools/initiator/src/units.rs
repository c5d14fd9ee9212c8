//! Sizes, counts and times as people write and read them.

use std::time::Duration;

/// A size in bytes from `4096`, `4k`, `128KiB`, `1M`, `2GiB`: powers of 1,024.
///
/// # Errors
/// A sentence for the user when it is not a size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let t = text.trim();
    let digits = t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
    let n: u64 = t[..digits].parse().map_err(|_| format!("`{text}` is no size; write 4096, 4k or 1MiB"))?;
    let shift = match t[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        unit => return Err(format!("`{unit}` in `{text}` is no unit; use k, M, G or T")),
    };
    n.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// A time from `10`, `10s`, `500ms`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// A sentence for the user when it is not a time.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let t = text.trim();
    let digits = t.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(t.len());
    let n: f64 = t[..digits].parse().map_err(|_| format!("`{text}` is no time; write 10, 500ms or 2m"))?;
    let unit = match t[digits..].trim() {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("`{unit}` in `{text}` is no unit; use ms, s, m or h")),
    };
    Duration::try_from_secs_f64(n * unit).map_err(|_| format!("`{text}` is too long"))
}

/// A list of CPU numbers from `0,2-3`.
///
/// # Errors
/// A sentence for the user when it is not such a list.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let bad = || format!("`{text}` is no list of cores; write 0 or 0,2-3");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (a, b) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (a, b): (usize, usize) = (a.parse().map_err(|_| bad())?, b.parse().map_err(|_| bad())?);
        if a > b || b >= 1024 {
            return Err(bad());
        }
        cores.extend(a..=b);
    }
    Ok(cores)
}

/// Bytes for people: `4 KiB`, `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A count for people: `350 k`, `1.25 M`.
pub fn count(n: f64) -> String {
    scaled(n, 1000.0, &["", "k", "M", "G"]).trim_end().to_string()
}

/// Nanoseconds for people: `850 ns`, `17.3 us`, `2.05 ms`.
pub fn nanos(n: u64) -> String {
    if n >= 10_000_000_000 {
        return format!("{:.1} s", n as f64 / 1e9);
    }
    scaled(n as f64, 1000.0, &["ns", "us", "ms", "s"])
}

fn scaled(mut n: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while n >= step && unit + 1 < units.len() {
        n /= step;
        unit += 1;
    }
    let places = if unit == 0 || n.fract() == 0.0 || n >= 100.0 { 0 } else { usize::from(n < 10.0) + 1 };
    format!("{n:.places$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("128 KiB"), Ok(131_072));
        assert_eq!(parse_size("512"), Ok(512));
        assert!(
            parse_size("k").is_err() && parse_size("4x").is_err() && parse_size("99999999999999T").is_err()
        );
        assert_eq!(parse_time("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_time("-1").is_err() && parse_time("1y").is_err());
        assert_eq!(parse_cores("0,2-3"), Ok(vec![0, 2, 3]));
        assert!(parse_cores("3-1").is_err() && parse_cores("").is_err() && parse_cores("0-99999").is_err());
    }

    #[test]
    fn people_can_read_it() {
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(nanos(17_340), "17.3 us");
        assert_eq!(nanos(850), "850 ns");
        assert_eq!(count(1_254_000.0), "1.25 M");
    }
}
