//! Numbers of 7 bits a byte, and reading them without panics.
//!
//! Each number has one encoding: longer ones than needed are refused, so that equal changes are equal bytes.

use crate::change::ChangeError;
use crate::types::{BlockId, VolumeId};

/// Appends a number.
pub(crate) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends bytes, after their number.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A cursor over bytes that may be anything.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn is_empty(&self) -> bool {
        self.left() == 0
    }

    pub fn byte(&mut self) -> Result<u8, ChangeError> {
        let byte = *self.bytes.get(self.at).ok_or(ChangeError::Short { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    pub fn number(&mut self) -> Result<u64, ChangeError> {
        let at = self.at;
        let mut n = 0;
        for i in 0..10 {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let fits = i < 9 || bits <= 1;
            let canonical = i == 0 || byte != 0;
            if !fits || !canonical {
                break;
            }
            n |= bits << (7 * i);
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(ChangeError::Invalid { at })
    }

    pub fn count(&mut self) -> Result<u32, ChangeError> {
        let at = self.at;
        u32::try_from(self.number()?).map_err(|_| ChangeError::Invalid { at })
    }

    pub fn volume(&mut self) -> Result<VolumeId, ChangeError> {
        self.count().map(VolumeId)
    }

    /// A block's number: no volume has more than 2^52.
    pub fn block(&mut self) -> Result<u64, ChangeError> {
        let at = self.at;
        let n = self.number()?;
        if n < 1 << 52 { Ok(n) } else { Err(ChangeError::Invalid { at }) }
    }

    pub fn id(&mut self) -> Result<BlockId, ChangeError> {
        let at = self.at;
        BlockId::new(self.number()?).ok_or(ChangeError::Invalid { at })
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], ChangeError> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(ChangeError::Short { at: self.at })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], ChangeError> {
        let at = self.at;
        let n = usize::try_from(self.number()?).map_err(|_| ChangeError::Invalid { at })?;
        self.take(n)
    }

    pub fn text(&mut self) -> Result<String, ChangeError> {
        let at = self.at;
        let text = std::str::from_utf8(self.bytes()?);
        text.map(str::to_owned).map_err(|_| ChangeError::Invalid { at })
    }
}
