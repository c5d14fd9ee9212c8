//! The bytes of commands and responses (part 1, 18; part 3, 4).
//!
//! Owns putting numbers and sized buffers together and taking them apart, all big-endian. Whatever a TPM, or who stands between it
//! and us, sends is judged here before it is believed: lengths are checked, and nothing panics.

/// Longest command or response in bytes. Ours are far shorter.
pub const MAX_MESSAGE: usize = 4096;

/// Bytes of a response's header: tag, length, response code.
pub const HEADER: usize = 10;

/// TPM_ST_NO_SESSIONS and TPM_ST_SESSIONS (part 2, 6.9).
pub const NO_SESSIONS: u16 = 0x8001;
/// See [`NO_SESSIONS`].
pub const SESSIONS: u16 = 0x8002;

/// What is put together for a command.
#[derive(Default)]
pub struct Params(pub Vec<u8>);

impl Params {
    /// An 8-bit number.
    pub fn u8(mut self, n: u8) -> Params {
        self.0.push(n);
        self
    }

    /// A 16-bit number.
    pub fn u16(mut self, n: u16) -> Params {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// A 32-bit number.
    pub fn u32(mut self, n: u32) -> Params {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Params {
        self.0.extend(bytes);
        self
    }

    /// A TPM2B: bytes with their number in front, which is below 64 KiB for all that we send.
    pub fn sized(self, bytes: &[u8]) -> Params {
        self.u16(bytes.len() as u16).raw(bytes)
    }
}

/// What is taken out of a response.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `n` bytes.
    pub fn raw(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    /// An 8-bit number.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    /// A 16-bit number.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A TPM2B.
    pub fn sized(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.raw(n.into())
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The length that a response's header gives, where it is one that we take.
pub fn response_len(header: &[u8; HEADER]) -> Option<usize> {
    let mut r = Reader(header);
    r.u16()?;
    let len = r.u32()? as usize;
    (HEADER..=MAX_MESSAGE).contains(&len).then_some(len)
}

/// A response in parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The response code.
    pub code: u32,
    /// The handle that it gives, where one was asked for.
    pub handle: Option<u32>,
    /// Its parameters.
    pub params: &'a [u8],
    /// Of the one session: nonce, attributes and HMAC; none without sessions.
    pub auth: Option<(&'a [u8], u8, &'a [u8])>,
}

/// Takes a response apart; `handle` says whether a successful one gives a handle. `None` where it is not in the form that the
/// specification gives.
pub fn response(bytes: &[u8], handle: bool) -> Option<Response<'_>> {
    let mut r = Reader(bytes);
    let (tag, len, code) = (r.u16()?, r.u32()?, r.u32()?);
    if len as usize != bytes.len() {
        return None;
    }
    if code != 0 {
        return Some(Response { code, handle: None, params: &[], auth: None });
    }
    let handle = if handle { Some(r.u32()?) } else { None };
    match tag {
        NO_SESSIONS => Some(Response { code, handle, params: r.0, auth: None }),
        SESSIONS => {
            let n = r.u32()? as usize;
            let params = r.raw(n)?;
            let auth = (r.sized()?, r.u8()?, r.sized()?);
            r.is_empty().then_some(Response { code, handle, params, auth: Some(auth) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_comes_apart() {
        let bytes = Params::default().u8(1).u16(2).u32(3).sized(b"abc").raw(b"z").0;
        assert_eq!(bytes, b"\x01\0\x02\0\0\0\x03\0\x03abcz");
        let mut r = Reader(&bytes);
        assert_eq!(
            (r.u8(), r.u16(), r.u32(), r.sized(), r.raw(1)),
            (Some(1), Some(2), Some(3), Some(&b"abc"[..]), Some(&b"z"[..]))
        );
        assert!(r.is_empty() && r.u8().is_none() && r.sized().is_none());
    }

    #[test]
    fn responses_are_judged_by_their_lengths() {
        let whole = Params::default().u16(SESSIONS).u32(29).u32(0).u32(0x8000_0001).u32(4).raw(b"abcd");
        let whole = whole.u16(1).raw(b"n").u8(1).u16(1).raw(b"h").0;
        let mut bytes = whole;
        let len = bytes.len() as u32;
        bytes[2..6].copy_from_slice(&len.to_be_bytes());
        let got = response(&bytes, true).unwrap();
        assert_eq!((got.handle, got.params), (Some(0x8000_0001), &b"abcd"[..]));
        assert_eq!(got.auth, Some((&b"n"[..], 1, &b"h"[..])));
        for cut in 0..bytes.len() {
            let mut short = bytes[..cut].to_vec();
            if cut >= 6 {
                short[2..6].copy_from_slice(&(cut as u32).to_be_bytes());
            }
            assert_eq!(response(&short, true), None, "{cut}");
        }
        let refusal = Params::default().u16(NO_SESSIONS).u32(10).u32(0x921).0;
        assert_eq!(response(&refusal, true).unwrap().code, 0x921);
        let mut header = [0; HEADER];
        header[2..6].copy_from_slice(&9u32.to_be_bytes());
        assert_eq!(response_len(&header), None);
        header[2..6].copy_from_slice(&(MAX_MESSAGE as u32 + 1).to_be_bytes());
        assert_eq!(response_len(&header), None);
    }
}
