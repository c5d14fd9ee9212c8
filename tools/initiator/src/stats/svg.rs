//! A picture of a run as an SVG file: a heat map of latency over time with its percentiles, and IOPS below it.
//!
//! Self-contained: no script, no font, no style sheet from elsewhere; readable on white and on black.

use super::series::{BUCKETS, Series, bucket_floor};
use crate::units;
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 48.0;
const HEAT: f64 = 320.0;
const GAP: f64 = 44.0;
const RATE: f64 = 110.0;
const BOTTOM: f64 = 40.0;
const PLOT: f64 = WIDTH - LEFT - RIGHT;
/// Rows drawn at most: one for every two pixels.
const COLUMNS: usize = 360;

/// The percentile lines: share, name, colour.
const LINES: [(f64, &str, &str); 3] =
    [(0.5, "p50", "#1b7f4d"), (0.99, "p99", "#b8860b"), (0.999, "p99.9", "#c0392b")];

/// Draws `series` under the heading `title`, `note` small below it.
pub fn draw(series: &Series, title: &str, note: &str) -> String {
    let s = series.fitted(COLUMNS);
    let mut out = String::with_capacity(64 * 1024);
    let height = TOP + HEAT + GAP + RATE + BOTTOM;
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui,sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"16\" font-weight=\"600\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"38\" fill=\"#666\">{}</text>\n",
        escape(title),
        escape(note)
    );
    match s.span() {
        Some(span) => {
            heat(&mut out, &s, span);
            lines(&mut out, &s, span);
            rate(&mut out, &s);
            time_axis(&mut out, &s);
        }
        None => out.push_str("<text x=\"80\" y=\"90\">nothing was measured</text>\n"),
    }
    out.push_str("</svg>\n");
    out
}

/// The buckets shown: whole octaves around those in use.
fn shown((low, high): (usize, usize)) -> (usize, usize) {
    (low / 8 * 8, (high / 8 * 8 + 8).min(BUCKETS))
}

fn x(row: f64, s: &Series) -> f64 {
    LEFT + PLOT * row / s.rows.len() as f64
}

/// The height of a latency, on the logarithmic axis of the shown buckets.
fn y(ns: f64, (low, high): (usize, usize)) -> f64 {
    let (a, b) = ((bucket_floor(low) as f64).ln(), (bucket_floor(high) as f64).ln());
    TOP + HEAT * (1.0 - ((ns.max(1.0).ln() - a) / (b - a)).clamp(0.0, 1.0))
}

fn heat(out: &mut String, s: &Series, span: (usize, usize)) {
    let span = shown(span);
    let most = s.rows.iter().flat_map(|r| r.buckets).max().unwrap_or(1).max(1);
    let cell = PLOT / s.rows.len() as f64;
    out.push_str("<g shape-rendering=\"crispEdges\">\n");
    for (i, row) in s.rows.iter().enumerate() {
        for b in span.0..span.1 {
            let n = row.buckets[b];
            if n == 0 {
                continue;
            }
            // Logarithmic, so that a single slow command is still seen beside millions of fast ones.
            let depth = 0.08 + 0.92 * (1.0 + f64::from(n)).ln() / (1.0 + f64::from(most)).ln();
            let top = y(bucket_floor(b + 1) as f64, span);
            let bottom = y(bucket_floor(b) as f64, span);
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#2457a6\" fill-opacity=\"{depth:.2}\"/>",
                x(i as f64, s),
                cell.max(0.5),
                bottom - top
            );
        }
    }
    out.push_str("</g>\n");
    for b in (span.0..=span.1).step_by(8) {
        let at = y(bucket_floor(b) as f64, span);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#888\" stroke-opacity=\".25\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444\">{}</text>",
            LEFT + PLOT,
            LEFT - 8.0,
            at + 4.0,
            units::nanos(bucket_floor(b))
        );
    }
}

fn lines(out: &mut String, s: &Series, span: (usize, usize)) {
    let span = shown(span);
    for (share, name, colour) in LINES {
        let mut points = String::new();
        let mut last = 0.0;
        for (i, row) in s.rows.iter().enumerate().filter(|(_, r)| r.ops > 0) {
            last = y(row.quantile(share) as f64, span);
            let _ = write!(points, "{:.1},{last:.1} ", x(i as f64 + 0.5, s));
        }
        let _ = writeln!(
            out,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>\
             <text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            LEFT + PLOT + 6.0,
            last + 4.0
        );
    }
}

fn rate(out: &mut String, s: &Series) {
    let per_second = |ops: u64| ops as f64 / s.interval.as_secs_f64();
    let most = s.rows.iter().map(|r| per_second(r.ops)).fold(1.0, f64::max);
    let base = TOP + HEAT + GAP + RATE;
    let mut points = format!("{LEFT},{base} ");
    for (i, row) in s.rows.iter().enumerate() {
        let at = base - RATE * per_second(row.ops) / most;
        let _ = write!(points, "{:.1},{at:.1} {:.1},{at:.1} ", x(i as f64, s), x(i as f64 + 1.0, s));
    }
    let _ = writeln!(
        out,
        "<polygon points=\"{points}{:.1},{base}\" fill=\"#2457a6\" fill-opacity=\".3\" stroke=\"#2457a6\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#444\">{}/s</text>\
         <text x=\"{}\" y=\"{base}\" text-anchor=\"end\" fill=\"#444\">0</text>",
        LEFT + PLOT,
        LEFT - 8.0,
        base - RATE + 8.0,
        units::count(most),
        LEFT - 8.0
    );
}

fn time_axis(out: &mut String, s: &Series) {
    let seconds = s.interval.as_secs_f64() * s.rows.len() as f64;
    let base = TOP + HEAT + GAP + RATE;
    for tick in 0..=5 {
        let share = f64::from(tick) / 5.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#444\">{:.1} s</text>",
            LEFT + PLOT * share,
            base + 20.0,
            seconds * share
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn draws_what_it_is_given() {
        let mut s = Series::new(Duration::from_millis(100));
        for i in 0..50u64 {
            s.row_at(Duration::from_millis(100 * i)).record(20_000 + 100 * i);
        }
        let svg = draw(&s, "a < b", "& so");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("a &lt; b") && svg.contains("p99.9") && !svg.contains("NaN"));
        assert!(draw(&Series::new(Duration::from_secs(1)), "", "").contains("nothing was measured"));
    }
}
