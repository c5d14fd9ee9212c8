//! Reads a parsed TOML table key by key, and collects every problem with its place instead of stopping at the first.
//!
//! A [`Table`] remembers which keys were asked for; what was never asked for is an unknown key, reported by
//! [`Table::finish`] with the nearest known one.

use super::problem::Problem;
use crate::model::text::{nearest, parse_size};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value with its place in the file.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it is written.
    pub span: Range<usize>,
}

/// One table of the file, being read.
pub struct Table<'a, 'i> {
    /// What it is called in messages: `[limits]`, `[[volume]]`.
    name: String,
    /// Where it starts, for what it lacks.
    pub span: Range<usize>,
    table: &'a DeTable<'i>,
    known: Vec<&'static str>,
}

/// Where problems are collected.
pub type Problems = Vec<Problem>;

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl<'a, 'i> Table<'a, 'i> {
    /// Starts reading `table`.
    pub fn new(name: impl Into<String>, span: Range<usize>, table: &'a DeTable<'i>) -> Table<'a, 'i> {
        Table { name: name.into(), span, table, known: Vec::new() }
    }

    /// Some keys are asked for twice: whether they are there, and what they say.
    fn know(&mut self, key: &'static str) {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.know(key);
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v)
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, want: &str, example: &str) -> Problem {
        Problem {
            span: value.span(),
            error: format!("`{key}` in {} is {}, not {want}", self.name, kind(value.get_ref())),
            remedy: format!("write {key} = {example}"),
        }
    }

    /// A string.
    pub fn string(&mut self, key: &'static str, example: &str, out: &mut Problems) -> Option<At<String>> {
        let v = self.get(key)?;
        if let DeValue::String(s) = v.get_ref() {
            return Some(At { value: s.to_string(), span: v.span() });
        }
        out.push(self.wrong(key, v, "a string", &format!("{example:?}")));
        None
    }

    /// A string that must be there.
    pub fn required(&mut self, key: &'static str, example: &str, out: &mut Problems) -> Option<At<String>> {
        let there = self.table.iter().any(|(k, _)| k.get_ref() == key);
        if !there {
            self.know(key);
            // When an unknown key is a misspelling of this one, the unknown key's own message says it all.
            let keys: Vec<&str> = self.table.iter().map(|(k, _)| k.get_ref().as_ref()).collect();
            if nearest(key, keys).is_none() {
                out.push(Problem {
                    span: self.span.clone(),
                    error: format!("{} lacks `{key}`", self.name),
                    remedy: format!("add {key} = {example:?}"),
                });
            }
            return None;
        }
        self.string(key, example, out)
    }

    /// A string that `read` understands.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        example: &str,
        out: &mut Problems,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let s = self.string(key, example, out)?;
        match read(&s.value) {
            Ok(value) => Some(At { value, span: s.span }),
            Err(error) => {
                out.push(Problem { span: s.span, error, remedy: format!("write {key} = {example:?}") });
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
        out: &mut Problems,
    ) -> Option<At<T>> {
        let s = self.string(key, choices.first().map_or("", |c| c.0), out)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == s.value) {
            return Some(At { value: *value, span: s.span });
        }
        let names: Vec<&str> = choices.iter().map(|c| c.0).collect();
        let list = names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
        let remedy = match nearest(&s.value, names.iter().copied()) {
            Some(near) => format!("did you mean {near:?}? It is one of {list}"),
            None => format!("use one of {list}"),
        };
        out.push(Problem { span: s.span, error: format!("`{key}` cannot be {:?}", s.value), remedy });
        None
    }

    /// True or false.
    pub fn boolean(&mut self, key: &'static str, out: &mut Problems) -> Option<At<bool>> {
        let v = self.get(key)?;
        if let DeValue::Boolean(b) = v.get_ref() {
            return Some(At { value: *b, span: v.span() });
        }
        out.push(self.wrong(key, v, "true or false", "true"));
        None
    }

    /// A whole number within bounds.
    pub fn integer(&mut self, key: &'static str, from: u64, to: u64, out: &mut Problems) -> Option<At<u64>> {
        let v = self.get(key)?;
        let DeValue::Integer(i) = v.get_ref() else {
            let mut wrong = self.wrong(key, v, "a whole number", "");
            wrong.remedy = format!("write {key} = NUMBER, without quotes: {from} to {to}");
            out.push(wrong);
            return None;
        };
        match u64::from_str_radix(i.as_str(), i.radix()) {
            Ok(value) if (from..=to).contains(&value) => Some(At { value, span: v.span() }),
            _ => {
                out.push(Problem {
                    span: v.span(),
                    error: format!("`{key}` in {} is {i}, out of range", self.name),
                    remedy: format!("use {from} to {to}"),
                });
                None
            }
        }
    }

    /// A size: a string with a unit, or a whole number of bytes; within bounds.
    pub fn size(&mut self, key: &'static str, from: u64, to: u64, out: &mut Problems) -> Option<At<u64>> {
        let v = self.get(key)?;
        let read = match v.get_ref() {
            DeValue::Integer(i) => {
                u64::from_str_radix(i.as_str(), i.radix()).map_err(|_| format!("{i} is not a size"))
            }
            DeValue::String(s) => parse_size(s),
            _ => {
                out.push(self.wrong(key, v, "a size", "\"10G\""));
                return None;
            }
        };
        let (error, remedy) = match read {
            Ok(value) if (from..=to).contains(&value) => return Some(At { value, span: v.span() }),
            Ok(value) => (
                format!("`{key}` in {} is {value} bytes, out of range", self.name),
                format!("use {from} to {to} bytes"),
            ),
            Err(e) => (
                e,
                format!("write {key} = \"10G\"; units are K, M, G, T (of 1024) and KB, MB, GB, TB (of 1000)"),
            ),
        };
        out.push(Problem { span: v.span(), error, remedy });
        None
    }

    /// A list of strings.
    pub fn strings(
        &mut self,
        key: &'static str,
        example: &str,
        out: &mut Problems,
    ) -> Option<Vec<At<String>>> {
        let v = self.get(key)?;
        let DeValue::Array(list) = v.get_ref() else {
            out.push(self.wrong(key, v, "a list of strings", &format!("[{example:?}]")));
            return None;
        };
        let mut found = Vec::new();
        for item in list.iter() {
            match item.get_ref() {
                DeValue::String(s) => found.push(At { value: s.to_string(), span: item.span() }),
                _ => out.push(self.wrong(key, item, "a string", &format!("[{example:?}]"))),
            }
        }
        Some(found)
    }

    /// A table within.
    pub fn table(&mut self, key: &'static str, out: &mut Problems) -> Option<Table<'a, 'i>> {
        let v = self.get(key)?;
        if let DeValue::Table(t) = v.get_ref() {
            return Some(Table::new(format!("[{key}]"), v.span(), t));
        }
        out.push(Problem {
            span: v.span(),
            error: format!("`{key}` is {}, not a table", kind(v.get_ref())),
            remedy: format!("write [{key}] on a line of its own, and its keys below it"),
        });
        None
    }

    /// Tables within, written as `[[key]]`.
    pub fn tables(&mut self, key: &'static str, shown: &str, out: &mut Problems) -> Vec<Table<'a, 'i>> {
        let Some(v) = self.get(key) else { return Vec::new() };
        let mut found = Vec::new();
        let mut wrong = |value: &Spanned<DeValue<'_>>, is: &str| {
            out.push(Problem {
                span: value.span(),
                error: format!("`{key}` is {is}, not a list of tables"),
                remedy: format!("write [[{shown}]], with two brackets, once for each"),
            });
        };
        match v.get_ref() {
            DeValue::Array(list) => {
                for item in list.iter() {
                    match item.get_ref() {
                        DeValue::Table(t) => found.push(Table::new(format!("[[{shown}]]"), item.span(), t)),
                        other => wrong(item, kind(other)),
                    }
                }
            }
            DeValue::Table(_) => wrong(v, "one table"),
            other => wrong(v, kind(other)),
        }
        found
    }

    /// Ends the reading: every key that nobody asked for is unknown.
    pub fn finish(self, out: &mut Problems) {
        for (k, _) in self.table.iter() {
            let word = k.get_ref().as_ref();
            if self.known.contains(&word) {
                continue;
            }
            let remedy = match nearest(word, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("remove it; the keys here are {}", self.known.join(", ")),
            };
            out.push(Problem { span: k.span(), error: format!("{} has no key `{word}`", self.name), remedy });
        }
    }
}
