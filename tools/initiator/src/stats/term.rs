//! The same picture in a terminal: a heat strip of latency over time, and sparklines.

use super::series::{Series, bucket_floor};
use crate::units;
use std::fmt::Write;

const SPARKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// One character a value, scaled to the largest.
pub fn sparkline(values: impl Iterator<Item = f64> + Clone) -> String {
    let most = values.clone().fold(0.0, f64::max);
    values
        .map(|v| {
            let level = if most > 0.0 { (v / most * 8.0).ceil() } else { 0.0 };
            SPARKS[(level as usize).min(8)]
        })
        .collect()
}

/// Latency over time, `columns` wide: one line an octave of latency, darker where more commands fell; below it the
/// rate. Empty when nothing was counted.
pub fn heat_strip(series: &Series, columns: usize) -> String {
    let s = series.fitted(columns);
    let Some((low, high)) = s.span() else { return String::new() };
    let mut out = String::new();
    for octave in (low / 8..=high / 8).rev() {
        let _ = write!(out, "{:>8} |", units::nanos(bucket_floor(octave * 8)));
        for row in &s.rows {
            let n: u64 = row.buckets[octave * 8..octave * 8 + 8].iter().map(|&n| u64::from(n)).sum();
            // Any command shows; the shade is the share of the column on a logarithmic scale.
            let level = match n {
                0 => 0,
                n => 1 + (3.99 * ((1 + n) as f64).ln() / ((1 + row.ops) as f64).ln()) as usize,
            };
            out.push(SHADES[level.min(4)]);
        }
        out.push_str("|\n");
    }
    let rates = s.rows.iter().map(|r| r.ops as f64 / s.interval.as_secs_f64());
    let most = rates.clone().fold(0.0, f64::max);
    let _ = writeln!(out, "{:>8} |{}| to {}/s", "IOPS", sparkline(rates), units::count(most));
    let seconds = s.interval.as_secs_f64() * s.rows.len() as f64;
    let _ = writeln!(out, "{:>8}  0 s{:>width$.1} s", "", seconds, width = s.rows.len().saturating_sub(4));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn strip_has_a_line_an_octave() {
        let mut s = Series::new(Duration::from_millis(10));
        for i in 0..40 {
            s.row_at(Duration::from_millis(10 * i)).record(if i == 20 { 200_000 } else { 20_000 });
        }
        let strip = heat_strip(&s, 60);
        let lines: Vec<_> = strip.lines().collect();
        // From 16.4 us to 131 us is four octaves; then the rate and the axis.
        assert_eq!(lines.len(), 6, "{strip}");
        assert!(heat_strip(&Series::new(Duration::from_secs(1)), 10).is_empty());
        assert_eq!(sparkline([0.0, 1.0, 2.0].into_iter()), " ▄█");
    }
}
