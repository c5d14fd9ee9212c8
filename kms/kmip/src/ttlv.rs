//! The encoding of KMIP: tag, type, length, value (KMIP Specification 1.4, section 9.1).
//!
//! Owns items and their bytes. An item is 3 bytes of tag, 1 of type, 4 of length, and the value, padded with zeroes to a
//! multiple of 8; all numbers are big-endian. It must never panic on what a peer sends, nor build more from it than its length
//! allows. Byte strings may be keys: they are erased when dropped, and `Debug` shows their length only.

use std::fmt;
use zeroize::Zeroizing;

/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 64 << 10;

/// How deep structures may stand in each other. KMIP's own messages need 8.
const MAX_DEPTH: usize = 16;

/// Bytes before a value.
pub const HEADER: usize = 8;

/// An item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which, of `ops::tag`: 3 bytes.
    pub tag: u32,
    /// Its value.
    pub value: Value,
}

/// A value.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// 01: items.
    Structure(Vec<Item>),
    /// 02.
    Integer(i32),
    /// 03.
    Long(i64),
    /// 04: two's complement, a multiple of 8 bytes.
    Big(Vec<u8>),
    /// 05.
    Enumeration(u32),
    /// 06.
    Boolean(bool),
    /// 07.
    Text(String),
    /// 08.
    Bytes(Zeroizing<Vec<u8>>),
    /// 09: seconds since 1970.
    Time(i64),
    /// 0A: seconds.
    Interval(u32),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Structure(items) => f.debug_list().entries(items).finish(),
            Value::Integer(n) => write!(f, "{n}"),
            Value::Long(n) | Value::Time(n) => write!(f, "{n}"),
            Value::Big(b) => write!(f, "Big({} bytes)", b.len()),
            Value::Enumeration(n) => write!(f, "{n:#x}"),
            Value::Boolean(b) => write!(f, "{b}"),
            Value::Text(t) => write!(f, "{t:?}"),
            Value::Bytes(b) => write!(f, "Bytes({} bytes)", b.len()),
            Value::Interval(n) => write!(f, "{n} s"),
        }
    }
}

/// Why bytes are no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TtlvError {
    /// They end within an item.
    #[error("a message that ends too early")]
    Short,
    /// They go on behind the item.
    #[error("a message with something behind its end")]
    Long,
    /// A length that the type cannot have, or that goes past what holds the item.
    #[error("an item of tag {tag:#08x} with an impossible length")]
    Length {
        /// Which item.
        tag: u32,
    },
    /// A type that there is not.
    #[error("an item of tag {tag:#08x} of unknown type {kind:#04x}")]
    Type {
        /// Which item.
        tag: u32,
        /// Its type.
        kind: u8,
    },
    /// A value that the type cannot have, or padding that is not zero.
    #[error("an item of tag {tag:#08x} with an impossible value")]
    Value {
        /// Which item.
        tag: u32,
    },
    /// Structures deeper than any message has.
    #[error("structures that stand too deep in each other")]
    Deep,
}

/// A structure.
pub fn structure(tag: u32, items: impl Into<Vec<Item>>) -> Item {
    Item { tag, value: Value::Structure(items.into()) }
}

/// A number.
pub fn integer(tag: u32, n: i32) -> Item {
    Item { tag, value: Value::Integer(n) }
}

/// One of an enumeration.
pub fn enumeration(tag: u32, n: u32) -> Item {
    Item { tag, value: Value::Enumeration(n) }
}

/// Text.
pub fn text(tag: u32, t: &str) -> Item {
    Item { tag, value: Value::Text(t.into()) }
}

/// Bytes.
pub fn bytes(tag: u32, b: &[u8]) -> Item {
    Item { tag, value: Value::Bytes(Zeroizing::new(b.to_vec())) }
}

impl Item {
    /// The items of a structure; none of anything else.
    pub fn items(&self) -> &[Item] {
        match &self.value {
            Value::Structure(items) => items,
            _ => &[],
        }
    }

    /// The first item of that tag in a structure.
    pub fn get(&self, tag: u32) -> Option<&Item> {
        self.items().iter().find(|i| i.tag == tag)
    }

    /// The item at the end of a path of tags.
    pub fn at(&self, path: &[u32]) -> Option<&Item> {
        path.iter().try_fold(self, |item, tag| item.get(*tag))
    }

    /// The number of an enumeration.
    pub fn enumeration(&self) -> Option<u32> {
        if let Value::Enumeration(n) = self.value { Some(n) } else { None }
    }

    /// A text.
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(t) = &self.value { Some(t) } else { None }
    }

    /// Bytes.
    pub fn bytes(&self) -> Option<&[u8]> {
        if let Value::Bytes(b) = &self.value { Some(b) } else { None }
    }

    fn value_len(&self) -> usize {
        match &self.value {
            Value::Structure(items) => items.iter().map(Item::len).sum(),
            Value::Integer(_) | Value::Enumeration(_) | Value::Interval(_) => 4,
            Value::Long(_) | Value::Boolean(_) | Value::Time(_) => 8,
            Value::Big(b) => b.len(),
            Value::Text(t) => t.len(),
            Value::Bytes(b) => b.len(),
        }
    }

    /// Bytes that it takes: a multiple of 8.
    fn len(&self) -> usize {
        HEADER + self.value_len().next_multiple_of(8)
    }

    /// Its bytes. Erased when dropped, for they may hold a key.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // At once as long as needed, so that no copy is left behind where it grew.
        let mut out = Zeroizing::new(Vec::with_capacity(self.len()));
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (kind, len) = (self.kind(), self.value_len());
        out.extend(&self.tag.to_be_bytes()[1..]);
        out.push(kind);
        out.extend((len as u32).to_be_bytes());
        match &self.value {
            Value::Structure(items) => items.iter().for_each(|i| i.write(out)),
            Value::Integer(n) => out.extend(n.to_be_bytes()),
            Value::Long(n) | Value::Time(n) => out.extend(n.to_be_bytes()),
            Value::Big(b) => out.extend(b),
            Value::Enumeration(n) | Value::Interval(n) => out.extend(n.to_be_bytes()),
            Value::Boolean(b) => out.extend(u64::from(*b).to_be_bytes()),
            Value::Text(t) => out.extend(t.as_bytes()),
            Value::Bytes(b) => out.extend(b.iter()),
        }
        out.resize(out.len() + (len.next_multiple_of(8) - len), 0);
    }

    fn kind(&self) -> u8 {
        match &self.value {
            Value::Structure(_) => 1,
            Value::Integer(_) => 2,
            Value::Long(_) => 3,
            Value::Big(_) => 4,
            Value::Enumeration(_) => 5,
            Value::Boolean(_) => 6,
            Value::Text(_) => 7,
            Value::Bytes(_) => 8,
            Value::Time(_) => 9,
            Value::Interval(_) => 10,
        }
    }

    /// Decodes one item, which `bytes` hold exactly.
    ///
    /// # Errors
    /// Each [`TtlvError`].
    pub fn decode(bytes: &[u8]) -> Result<Item, TtlvError> {
        let (item, rest) = read(bytes, 0)?;
        if rest.is_empty() { Ok(item) } else { Err(TtlvError::Long) }
    }
}

/// The length of a message from its first 8 bytes, these included; `None` where it is no message of a sensible length.
pub fn message_len(head: &[u8; HEADER], tag: u32) -> Option<usize> {
    let value = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let is = u32::from_be_bytes([0, head[0], head[1], head[2]]) == tag && head[3] == 1;
    (is && value.is_multiple_of(8) && value <= MAX_MESSAGE - HEADER).then_some(HEADER + value)
}

/// One item from the front, and what is behind it.
fn read(bytes: &[u8], depth: usize) -> Result<(Item, &[u8]), TtlvError> {
    if depth > MAX_DEPTH {
        return Err(TtlvError::Deep);
    }
    let (head, rest) = bytes.split_first_chunk::<HEADER>().ok_or(TtlvError::Short)?;
    let tag = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let kind = head[3];
    let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let padded = len.checked_next_multiple_of(8).ok_or(TtlvError::Length { tag })?;
    let (body, behind) = rest.split_at_checked(padded).ok_or(TtlvError::Length { tag })?;
    let (body, padding) = body.split_at(len);
    if padding.iter().any(|b| *b != 0) {
        return Err(TtlvError::Value { tag });
    }
    let four = || body.try_into().map(u32::from_be_bytes).map_err(|_| TtlvError::Length { tag });
    let eight = || body.try_into().map(i64::from_be_bytes).map_err(|_| TtlvError::Length { tag });
    let value = match kind {
        1 => Value::Structure(read_all(body, depth + 1)?),
        2 => Value::Integer(four()? as i32),
        3 => Value::Long(eight()?),
        4 if len.is_multiple_of(8) => Value::Big(body.to_vec()),
        4 => return Err(TtlvError::Length { tag }),
        5 => Value::Enumeration(four()?),
        6 => match eight()? {
            0 => Value::Boolean(false),
            1 => Value::Boolean(true),
            _ => return Err(TtlvError::Value { tag }),
        },
        7 => Value::Text(String::from_utf8(body.to_vec()).map_err(|_| TtlvError::Value { tag })?),
        8 => Value::Bytes(Zeroizing::new(body.to_vec())),
        9 => Value::Time(eight()?),
        10 => Value::Interval(four()?),
        kind => return Err(TtlvError::Type { tag, kind }),
    };
    Ok((Item { tag, value }, behind))
}

fn read_all(mut bytes: &[u8], depth: usize) -> Result<Vec<Item>, TtlvError> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let (item, rest) = read(bytes, depth)?;
        items.push(item);
        bytes = rest;
    }
    Ok(items)
}

#[cfg(test)]
mod tests;
