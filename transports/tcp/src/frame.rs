//! Reassembly of PDUs from a stream of received buffers, shared by both roles.
//!
//! Owns the bytes that were received and not parsed yet, and the rules that hold for the common header of every PDU
//! (lengths, digest flags, data offset). A header that lies whole in a receive buffer is read in place; only one that
//! straddles two is put together in a small stash, so that no slow sender can pin a receive buffer with a few bytes.
//! It must never judge what a PDU means.

use crate::crc;
use crate::fatal::Fatal;
use caisson_block::{Buf, BufList, BufMut};
use caisson_wire::pdu::{CH_LEN, CommonHeader, DATA_HLEN, DIGEST_LEN, Fes, TERM_MAX_LEN, TermReq, flag};
use caisson_wire::zerocopy::FromBytes;
use std::collections::VecDeque;

/// The most bytes before a PDU's data: PDO is one byte.
const STASH: usize = 256;

/// The most of a header that a termination request shows.
const SHOWN: usize = TERM_MAX_LEN - DATA_HLEN;

/// Received bytes in order, with a cursor.
pub struct Reader {
    /// What is read from now; empty only when `more` is too.
    front: Buf,
    more: VecDeque<Buf>,
    /// The first bytes of a header that came in pieces. Never more than the header asked for.
    stash: [u8; STASH],
    stashed: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Reader { front: Buf::empty(), more: VecDeque::new(), stash: [0; STASH], stashed: 0 }
    }
}

impl Reader {
    /// Adds the next received bytes.
    #[inline]
    pub fn push(&mut self, bytes: Buf) {
        if bytes.is_empty() {
            return;
        }
        if self.front.is_empty() {
            self.front = bytes;
        } else {
            self.more.push_back(bytes);
        }
    }

    /// Whether every byte received has been consumed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.stashed == 0 && self.front.is_empty()
    }

    /// The next `n` bytes (at most 256) in one piece, still unconsumed; `None` until there are so many.
    #[inline]
    pub fn head(&mut self, n: usize) -> Option<&[u8]> {
        if self.stashed == 0 && self.front.len() >= n {
            return Some(&self.front[..n]);
        }
        self.gather(n)
    }

    #[cold]
    fn gather(&mut self, n: usize) -> Option<&[u8]> {
        assert!(n <= STASH, "a header is at most {STASH} bytes");
        while self.stashed < n && !self.front.is_empty() {
            let m = (n - self.stashed).min(self.front.len());
            self.stash[self.stashed..self.stashed + m].copy_from_slice(&self.front[..m]);
            self.stashed += m;
            self.drop_front(m);
        }
        (self.stashed >= n).then(|| &self.stash[..n])
    }

    /// Copies the next bytes, as many as there are and `into` holds, without consuming them.
    pub fn peek(&self, into: &mut [u8]) -> usize {
        let parts = std::iter::once(&self.stash[..self.stashed])
            .chain(std::iter::once(&self.front[..]))
            .chain(self.more.iter().map(|b| &b[..]));
        let mut done = 0;
        for part in parts {
            let n = part.len().min(into.len() - done);
            into[done..done + n].copy_from_slice(&part[..n]);
            done += n;
        }
        done
    }

    /// The header of a PDU that is laid out like that, its digest checked, still unconsumed; `None` until it is here.
    ///
    /// # Errors
    /// When the digest is another.
    #[inline]
    pub fn header<T: FromBytes>(&mut self, layout: &Layout, digests: Digests) -> Result<Option<T>, Fatal> {
        let Some(head) = self.head(layout.head) else { return Ok(None) };
        if digests.header {
            check_header(head, layout.hlen)?;
        }
        Ok(T::read_from_prefix(head).ok().map(|(header, _)| header))
    }

    /// FES and FEI of the termination request that this stands at; `None` until it is here.
    #[cold]
    pub fn termination(&mut self) -> Option<(u16, u32)> {
        let (request, _) = TermReq::read_from_prefix(self.head(size_of::<TermReq>())?).ok()?;
        Some((request.fes.get(), request.fei()))
    }

    /// The header that this stands at, as far as it has come and a termination request shows it, and how many bytes that is.
    #[cold]
    pub fn offending(&mut self) -> ([u8; SHOWN], usize) {
        let mut shown = [0; SHOWN];
        let hlen = self.head(CH_LEN).map_or(0, |h| usize::from(h[2]));
        let want = hlen.clamp(CH_LEN, SHOWN);
        let len = self.peek(&mut shown[..want]);
        (shown, len)
    }

    /// Consumes the `n` bytes that [`Reader::head`] has just shown.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        if self.stashed == 0 {
            self.drop_front(n);
        } else {
            assert!(self.stashed == n, "the stash holds the one header asked for");
            self.stashed = 0;
        }
    }

    /// The next bytes as they lie in a receive buffer, at most `max`; `None` when there are none. Only between headers.
    #[inline]
    pub fn take(&mut self, max: usize) -> Option<Buf> {
        debug_assert!(self.stashed == 0, "no header is half read");
        if self.front.is_empty() || max == 0 {
            return None;
        }
        if self.front.len() <= max {
            let next = self.more.pop_front().unwrap_or_else(Buf::empty);
            return Some(std::mem::replace(&mut self.front, next));
        }
        Some(self.front.split_to(max))
    }

    #[inline]
    fn drop_front(&mut self, n: usize) {
        debug_assert!(n <= self.front.len());
        self.front.advance(n);
        if self.front.is_empty() {
            self.front = self.more.pop_front().unwrap_or_else(Buf::empty);
        }
    }

    /// Lets go of everything received.
    pub fn clear(&mut self) {
        *self = Reader::default();
    }

    /// Gives back memory that an idle connection does not need.
    pub fn trim(&mut self) {
        if self.more.is_empty() {
            self.more.shrink_to_fit();
        }
    }
}

/// Which digests a connection has agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// HDGST after every header but those of the IC and termination PDUs.
    pub header: bool,
    /// DDGST after the data of every PDU that has some.
    pub data: bool,
}

impl Digests {
    /// From the DGST field of ICReq or ICResp.
    pub fn from_field(dgst: u8) -> Digests {
        Digests { header: dgst & 1 != 0, data: dgst & 2 != 0 }
    }

    /// The DGST field.
    pub fn field(self) -> u8 {
        u8::from(self.header) | u8::from(self.data) << 1
    }

    /// Bytes that a header digest takes.
    #[inline]
    pub fn header_len(self) -> usize {
        if self.header { DIGEST_LEN } else { 0 }
    }

    /// Bytes that a data digest takes.
    #[inline]
    pub fn data_len(self) -> usize {
        if self.data { DIGEST_LEN } else { 0 }
    }
}

/// What one PDU type looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The HLEN it must have.
    pub hlen: u8,
    /// Whether it may carry data.
    pub data: bool,
    /// The most data it may carry, in bytes.
    pub max_data: u32,
    /// What to say of more.
    pub excess: Fes,
}

/// Where the parts of one PDU are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of header, digest excluded.
    pub hlen: usize,
    /// Bytes before the data: header, digest and padding.
    pub head: usize,
    /// Bytes of data.
    pub data: u32,
    /// Whether a data digest follows the data.
    pub ddgst: bool,
}

/// Byte offset of FLAGS in the common header, for FEI.
pub const AT_FLAGS: u32 = 1;
/// Byte offset of HLEN.
pub const AT_HLEN: u32 = 2;
/// Byte offset of PDO.
pub const AT_PDO: u32 = 3;
/// Byte offset of PLEN.
pub const AT_PLEN: u32 = 4;

impl Layout {
    /// Checks `ch` against what its type must look like, with data aligned to `align` bytes (TCP 1.1, 3.6.1).
    ///
    /// A PDU that may carry data and has none has its PDO and DDGSTF ignored, as they say nothing then: hosts differ
    /// in what they put there.
    ///
    /// # Errors
    /// The field that is wrong.
    #[inline]
    pub fn of(ch: &CommonHeader, shape: Shape, digests: Digests, align: u32) -> Result<Layout, Fatal> {
        if ch.hlen != shape.hlen {
            return Err(Fatal::field(AT_HLEN, "HLEN is not that of the PDU type"));
        }
        if (ch.flags & flag::HDGST != 0) != digests.header {
            return Err(Fatal::field(AT_FLAGS, "HDGSTF is not as negotiated"));
        }
        let hlen = usize::from(ch.hlen);
        let bare = hlen + digests.header_len();
        let plen = ch.plen.get();
        if plen as usize == bare {
            return Ok(Layout { hlen, head: bare, data: 0, ddgst: false });
        }
        if !shape.data || (plen as usize) < bare {
            return Err(Fatal::field(AT_PLEN, "PLEN is not that of the PDU type"));
        }
        Layout::with_data(ch, shape, digests, align, bare)
    }

    #[inline]
    fn with_data(
        ch: &CommonHeader,
        shape: Shape,
        digests: Digests,
        align: u32,
        bare: usize,
    ) -> Result<Layout, Fatal> {
        let (pdo, plen) = (u32::from(ch.pdo), ch.plen.get());
        if (ch.flags & flag::DDGST != 0) != digests.data {
            return Err(Fatal::field(AT_FLAGS, "DDGSTF is not as negotiated"));
        }
        if (pdo as usize) < bare || !pdo.is_multiple_of(align) {
            return Err(Fatal::field(AT_PDO, "PDO is inside the header or not aligned as agreed"));
        }
        let Some(data) = plen.checked_sub(pdo + digests.data_len() as u32) else {
            return Err(Fatal::field(AT_PLEN, "PLEN ends before the data does"));
        };
        if data > shape.max_data {
            // FEI is reserved but for a field in error.
            let at = if shape.excess == Fes::InvalidHeaderField { AT_PLEN } else { 0 };
            return Err(Fatal::other(shape.excess, at, "more data in one PDU than allowed"));
        }
        Ok(Layout { hlen: usize::from(ch.hlen), head: pdo as usize, data, ddgst: digests.data })
    }
}

/// Checks the header digest in `head`, the bytes before the data (TCP 1.1, 3.3.1.1).
///
/// # Errors
/// Header Digest Error, with the digest received as its information.
#[inline]
pub fn check_header(head: &[u8], hlen: usize) -> Result<(), Fatal> {
    let Some(&[a, b, c, d]) = head.get(hlen..hlen + DIGEST_LEN) else {
        return Err(Fatal::field(AT_PLEN, "PLEN leaves no room for the header digest"));
    };
    let got = u32::from_le_bytes([a, b, c, d]);
    if crc::crc32c(&head[..hlen]) != got {
        return Err(Fatal::other(Fes::HeaderDigest, got, "header digest"));
    }
    Ok(())
}

/// Data of one command as it comes in, in receive buffers where that is cheap, in a buffer of its own where the sender
/// dribbles: each part pins a receive buffer, so a command of n bytes may hold no more than n / 1,024 + 4 of them.
#[derive(Default)]
pub struct Assembly {
    list: BufList,
    flat: Option<BufMut>,
    filled: usize,
}

impl Assembly {
    /// An assembly that uses the capacity of `list`, which is empty.
    pub fn new(list: BufList) -> Assembly {
        debug_assert!(list.is_empty());
        Assembly { list, flat: None, filled: 0 }
    }

    /// Adds a part; `whole` is how many bytes there will be in all.
    #[inline]
    pub fn push(&mut self, part: Buf, whole: usize) {
        if self.flat.is_none() && self.list.parts().len() < whole / 1024 + 4 {
            self.list.push(part);
            return;
        }
        self.flatten(&part, whole);
    }

    #[cold]
    fn flatten(&mut self, part: &[u8], whole: usize) {
        if self.flat.is_none() {
            let mut flat = BufMut::zeroed(whole);
            self.filled = self.list.copy_out(0, &mut flat);
            self.list.clear();
            self.flat = Some(flat);
        }
        let Some(flat) = &mut self.flat else { return };
        let to = flat.get_mut(self.filled..self.filled + part.len());
        to.expect("parts are cut to what is still to come").copy_from_slice(part);
        self.filled += part.len();
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        if self.flat.is_some() { self.filled } else { self.list.len() }
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data, all of it having come.
    #[inline]
    pub fn finish(&mut self) -> BufList {
        let mut list = std::mem::take(&mut self.list);
        if let Some(mut flat) = self.flat.take() {
            flat.truncate(self.filled);
            list.push(flat.freeze());
        }
        self.filled = 0;
        list
    }
}
