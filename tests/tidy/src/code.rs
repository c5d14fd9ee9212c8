//! Telling Rust code from its comments and strings.
//!
//! Owns a scanner that knows just enough of the language: comments (nested), strings, raw strings, byte strings,
//! characters and lifetimes. It must never fail on source that compiles.

/// Rust source taken apart, line by line: what is code, and what is comment.
pub struct Code {
    /// The code of each line, with comments and what stands in quotes blanked out.
    pub code: Vec<String>,
    /// Each line as it is written.
    pub raw: Vec<String>,
}

impl Code {
    /// Whether line `n` (from 0) has nothing but a comment or an attribute, so that what stands above it still belongs
    /// to what is below.
    pub fn is_annotation(&self, n: usize) -> bool {
        let raw = self.raw[n].trim_start();
        raw.starts_with("//") || raw.starts_with("#[") || raw.starts_with("/*") || raw.starts_with('*')
    }

    /// The comment and attribute lines right above line `n`, nearest first.
    pub fn above(&self, n: usize) -> impl Iterator<Item = &str> {
        (0..n).rev().take_while(|&i| self.is_annotation(i)).map(|i| &self.raw[i][..])
    }

    /// The line where the unit tests at the end of the file begin, or its length. `#[cfg(test)]` with a `mod` in braces
    /// below it: by the house's custom the last thing in a file.
    pub fn tests_start(&self) -> usize {
        (0..self.code.len())
            .find(|&n| {
                self.code[n].trim() == "#[cfg(test)]"
                    && self.code[n + 1..].iter().take(3).any(|l| l.contains("mod ") && l.contains('{'))
            })
            .unwrap_or(self.code.len())
    }
}

/// Blanks comments and the insides of strings and characters out of `source`; newlines stay where they are.
pub fn strip(source: &str) -> Code {
    let s: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < s.len() {
        let end = match (s[at], s.get(at + 1)) {
            ('/', Some('/')) => position(&s, at, |i| s[i] == '\n').unwrap_or(s.len()),
            ('/', Some('*')) => block_comment(&s, at),
            ('"', _) => string(&s, at),
            ('r' | 'b' | 'c', _) if starts_raw(&s, at).is_some() => raw_string(&s, at),
            ('\'', _) => character(&s, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(s[at]);
            at += 1;
        } else {
            out.extend(s[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    Code {
        code: out.split('\n').map(str::to_owned).collect(),
        raw: source.split('\n').map(str::to_owned).collect(),
    }
}

fn position(s: &[char], from: usize, found: impl Fn(usize) -> bool) -> Option<usize> {
    (from..s.len()).find(|&i| found(i))
}

fn block_comment(s: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < s.len() {
        match (s[at], s.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    s.len()
}

fn string(s: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < s.len() {
        match s[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    s.len()
}

/// Where a raw string starts at `at` (`r"`, `r#"`, `br##"` ...): its number of `#` and the index after its quote.
fn starts_raw(s: &[char], at: usize) -> Option<(usize, usize)> {
    if at > 0 && (s[at - 1].is_alphanumeric() || s[at - 1] == '_') {
        return None;
    }
    let mut i = at + usize::from(s[at] != 'r');
    if s.get(i) != Some(&'r') {
        return None;
    }
    i += 1;
    let hashes = s[i..].iter().take_while(|&&c| c == '#').count();
    (s.get(i + hashes) == Some(&'"')).then_some((hashes, i + hashes + 1))
}

fn raw_string(s: &[char], from: usize) -> usize {
    let (hashes, mut at) = starts_raw(s, from).expect("the caller saw that it starts here");
    while at < s.len() {
        let closes = s[at] == '"' && s[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
        if closes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    s.len()
}

/// The end of a character literal, or `None` for a lifetime.
fn character(s: &[char], from: usize) -> Option<usize> {
    if s.get(from + 1) == Some(&'\\') {
        return position(s, from + 3, |i| s[i] == '\'').map(|i| i + 1);
    }
    (s.get(from + 2) == Some(&'\'')).then_some(from + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        strip(source).code.join("\n").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_strings_go_and_code_stays() {
        assert_eq!(code("a // unsafe\nb"), "a b");
        assert_eq!(code("a /* x /* unsafe */ y */ b"), "a b");
        assert_eq!(code(r#"f("unsafe \" unsafe", 'u', '\'', '"', b"x") "#), "f( , , , , b )");
        assert_eq!(code("f(r#\"a \" unsafe\"#, br\"\\\", c)"), "f( , , c)");
        assert_eq!(code("fn f<'a>(x: &'a str) -> &'static str { unsafe { x } }"), {
            "fn f<'a>(x: &'a str) -> &'static str { unsafe { x } }"
        });
        assert_eq!(code("let var\" = 1"), "let var", "an open string runs to the end");
        assert_eq!(strip("a\n\"x\ny\"\nb").code.len(), 4);
    }

    #[test]
    fn unit_tests_are_found_at_the_end() {
        let of = |s: &str| strip(s).tests_start();
        assert_eq!(of("a\n#[cfg(test)]\nmod tests {\n}\n"), 1);
        assert_eq!(of("a\n#[cfg(test)]\nmod tests;\nb"), 4);
        assert_eq!(of("a\n#[cfg(test)]\nfn helper() {}\nb"), 4);
    }

    #[test]
    fn annotations_right_above_a_line_are_found() {
        let c = strip("x\n// SAFETY: a\n// b\n#[inline]\nunsafe {}\n");
        assert_eq!(c.above(4).collect::<Vec<_>>(), ["#[inline]", "// b", "// SAFETY: a"]);
    }
}
