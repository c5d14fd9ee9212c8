//! What is wrong in a configuration file: where, what, and the remedy; printed with the line it is about.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the text, in bytes.
    pub span: Range<usize>,
    /// What is wrong, in one sentence without a full stop.
    pub error: String,
    /// What to do about it.
    pub remedy: String,
}

/// A file that cannot be used, with all that is wrong in it in the order of the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The file.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// Line and column, each from 1, of a byte in a text; the column counts characters.
pub fn line_column(text: &str, at: usize) -> (usize, usize) {
    let at = at.min(text.len());
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

impl Rejected {
    /// A rejection of `text`, problems sorted by place.
    pub fn new(file: &Path, text: &str, mut problems: Vec<Problem>) -> Rejected {
        problems.sort_by_key(|p| p.span.start);
        Rejected { file: file.to_path_buf(), text: text.to_string(), problems }
    }
}

impl std::fmt::Display for Rejected {
    /// Each problem as `file:line:column: error`, the line with a mark under the place, and the remedy.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, p) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let (line, column) = line_column(&self.text, p.span.start);
            writeln!(f, "{}:{line}:{column}: {}", self.file.display(), p.error)?;
            if let Some(source) = self.text.lines().nth(line - 1) {
                let gutter = line.to_string();
                let width = self
                    .text
                    .get(p.span.clone())
                    .map_or(1, |s| s.lines().next().map_or(1, |l| l.chars().count()).max(1));
                writeln!(f, "  {gutter} | {source}")?;
                writeln!(
                    f,
                    "  {:w$} | {:c$}{}",
                    "",
                    "",
                    "^".repeat(width),
                    w = gutter.len(),
                    c = column - 1
                )?;
            }
            write!(f, "  remedy: {}", p.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}
