//! Printing: aligned tables for people, JSON for programs, and no panic when a reader such as `head` has had enough.

use serde::Serialize;

/// Prints text on standard output.
pub fn print(text: &str) {
    caisson_initiator::cli::print(format_args!("{text}"));
}

/// Prints a line on standard output.
pub fn line(text: impl std::fmt::Display) {
    print(&format!("{text}\n"));
}

/// Prints JSON on standard output.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(e) => eprintln!("error: {e}"),
    }
}

/// So many of something: `1 volume`, `2 volumes`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A table with a head, columns as wide as their widest cell.
pub struct Table {
    /// Heads; those that begin with `>` are of numbers, and stand to the right.
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads.
    pub fn new(heads: &[&str]) -> Table {
        Table { heads: heads.iter().map(|h| (*h).to_string()).collect(), rows: Vec::new() }
    }

    /// Adds a row, of as many cells as there are heads.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head: Vec<String> = self.heads.iter().map(|h| h.trim_start_matches('>').to_string()).collect();
        let width = |i: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(i));
            cells.chain(head.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut text = String::new();
            for (i, cell) in row.iter().enumerate() {
                let w = widths.get(i).copied().unwrap_or(0);
                if i > 0 {
                    text.push_str("  ");
                }
                match self.heads.get(i) {
                    Some(h) if h.starts_with('>') => text.push_str(&format!("{cell:>w$}")),
                    _ => text.push_str(&format!("{cell:<w$}")),
                }
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        let said = [0, 1, 2].map(|n| count(n, "volume is left", "volumes are left"));
        assert_eq!(said, ["0 volumes are left", "1 volume is left", "2 volumes are left"]);
    }

    #[test]
    fn columns_line_up() {
        let mut t = Table::new(&["NAME", ">SIZE", "NOTE"]);
        t.row(["a".into(), "1 GiB".into(), String::new()]);
        t.row(["longer".into(), "10 GiB".into(), "x".into()]);
        assert_eq!(t.to_string(), "NAME      SIZE  NOTE\na        1 GiB\nlonger  10 GiB  x\n");
    }
}
