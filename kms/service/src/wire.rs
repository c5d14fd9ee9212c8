//! What the target and the key service say to each other: frames with a length in front, little-endian.
//!
//! Owns the layout (kms/README.md has it) and its bounds. It does no I/O. Frames may hold secrets, so they are made and read in memory
//! for secrets.

use caisson_keys::{CONTEXT_LEN, Context, KeyError, ProviderStatus, Reason, Secret, Wrapped};

/// The version of the protocol.
pub const VERSION: u8 = 1;

/// Longest frame in bytes, without its length.
pub const MAX_FRAME: usize = 64 << 10;

/// Longest name or text.
const MAX_TEXT: usize = 1024;
/// Longest secret.
const MAX_SECRET: usize = 256;
/// Longest wrapped key.
const MAX_BLOB: usize = 4096;
/// Most root keys in an answer.
const MAX_ROOTS: usize = 256;

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// How the provider of this name is.
    Status(String),
    /// Its root keys.
    Roots(String),
    /// A new root key.
    AddRoot(String),
    /// To wrap a secret.
    Wrap(String, Context, Secret),
    /// To unwrap one.
    Unwrap(String, Context, Wrapped),
    /// To take this root key out of use for good.
    Revoke(String, String, Reason),
    /// To destroy this root key.
    Destroy(String, String),
}

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was not done.
    Error(KeyError),
    /// How the provider is.
    Status(ProviderStatus),
    /// Its root keys.
    Roots(Vec<String>),
    /// The new root key.
    Root(String),
    /// A wrapped key.
    Wrapped(Wrapped),
    /// An unwrapped one.
    Secret(Secret),
    /// The root key is ended.
    Ended,
}

/// Puts a frame together in memory that was measured for it, so that no copy of a secret is left where it grew.
struct Writer(Vec<Piece>);

enum Piece {
    Plain(Vec<u8>),
    Secret(Secret),
}

impl Writer {
    fn new(kind: u8) -> Writer {
        Writer(vec![Piece::Plain(vec![VERSION, kind])])
    }

    fn plain(&mut self, bytes: &[u8]) {
        match self.0.last_mut() {
            Some(Piece::Plain(last)) => last.extend(bytes),
            _ => self.0.push(Piece::Plain(bytes.to_vec())),
        }
    }

    fn u32(&mut self, n: u32) {
        self.plain(&n.to_le_bytes());
    }

    /// Bytes behind their number; cut where they are too many, which only texts for people are.
    fn sized(&mut self, bytes: &[u8], most: usize) {
        let bytes = &bytes[..bytes.len().min(most)];
        self.plain(&(bytes.len() as u16).to_le_bytes());
        self.plain(bytes);
    }

    fn text(&mut self, text: &str) {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.sized(&text.as_bytes()[..end], MAX_TEXT);
    }

    fn secret(&mut self, secret: Secret) {
        self.plain(&(secret.len() as u16).to_le_bytes());
        self.0.push(Piece::Secret(secret));
    }

    fn wrapped(&mut self, wrapped: &Wrapped) {
        self.text(&wrapped.root);
        self.sized(&wrapped.blob, MAX_BLOB);
    }

    /// The frame with its length in front.
    fn finish(self) -> Secret {
        let bytes = |p: &Piece| match p {
            Piece::Plain(b) => b.len(),
            Piece::Secret(s) => s.len(),
        };
        let len: usize = self.0.iter().map(bytes).sum();
        let filled = Secret::filled(4 + len, |out| {
            out[..4].copy_from_slice(&(len as u32).to_le_bytes());
            let mut at = 4;
            for piece in &self.0 {
                let from = match piece {
                    Piece::Plain(b) => &b[..],
                    Piece::Secret(s) => s.expose(),
                };
                out[at..at + from.len()].copy_from_slice(from);
                at += from.len();
            }
            Ok::<(), std::convert::Infallible>(())
        });
        match filled {
            Ok(frame) => frame,
            Err(never) => match never {},
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn raw(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.raw(1).map(|b| b[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.raw(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn sized(&mut self, most: usize) -> Option<&'a [u8]> {
        let n = usize::from(u16::from_le_bytes(self.raw(2)?.try_into().ok()?));
        if n <= most { self.raw(n) } else { None }
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.sized(MAX_TEXT)?.to_vec()).ok()
    }

    fn secret(&mut self) -> Option<Secret> {
        let bytes = self.sized(MAX_SECRET).filter(|b| !b.is_empty())?;
        let copy = |out: &mut [u8]| {
            out.copy_from_slice(bytes);
            Ok::<(), std::convert::Infallible>(())
        };
        Secret::filled(bytes.len(), copy).ok()
    }

    fn context(&mut self) -> Option<Context> {
        Context::decode(self.raw(CONTEXT_LEN)?.try_into().ok()?)
    }

    fn wrapped(&mut self) -> Option<Wrapped> {
        Some(Wrapped { root: self.text()?, blob: self.sized(MAX_BLOB)?.to_vec() })
    }
}

/// What a frame's length may be.
pub fn frame_len(head: [u8; 4]) -> Option<usize> {
    let len = u32::from_le_bytes(head) as usize;
    (2..=MAX_FRAME).contains(&len).then_some(len)
}

impl Request {
    /// The provider that is asked.
    pub fn key(&self) -> &str {
        match self {
            Request::Status(key) | Request::Roots(key) | Request::AddRoot(key) => key,
            Request::Wrap(key, ..) | Request::Unwrap(key, ..) => key,
            Request::Revoke(key, ..) | Request::Destroy(key, ..) => key,
        }
    }

    /// As a frame, with its length in front.
    pub fn encode(self) -> Secret {
        let kind = match &self {
            Request::Status(_) => 1,
            Request::Roots(_) => 2,
            Request::AddRoot(_) => 3,
            Request::Wrap(..) => 4,
            Request::Unwrap(..) => 5,
            Request::Revoke(..) => 6,
            Request::Destroy(..) => 7,
        };
        let mut w = Writer::new(kind);
        w.text(self.key());
        match self {
            Request::Status(_) | Request::Roots(_) | Request::AddRoot(_) => {}
            Request::Wrap(_, context, secret) => {
                w.plain(&context.encode());
                w.secret(secret);
            }
            Request::Unwrap(_, context, wrapped) => {
                w.plain(&context.encode());
                w.wrapped(&wrapped);
            }
            Request::Revoke(_, root, why) => {
                w.text(&root);
                w.plain(&[match why {
                    Reason::Cessation => 0,
                    Reason::Superseded => 1,
                    Reason::Compromise => 2,
                }]);
            }
            Request::Destroy(_, root) => w.text(&root),
        }
        w.finish()
    }

    /// From a frame without its length; `None` where it is none.
    pub fn decode(frame: &[u8]) -> Option<Request> {
        let mut r = Reader(frame);
        if r.u8()? != VERSION {
            return None;
        }
        let (kind, key) = (r.u8()?, r.text()?);
        let request = match kind {
            1 => Request::Status(key),
            2 => Request::Roots(key),
            3 => Request::AddRoot(key),
            4 => Request::Wrap(key, r.context()?, r.secret()?),
            5 => Request::Unwrap(key, r.context()?, r.wrapped()?),
            6 => {
                let root = r.text()?;
                let why = match r.u8()? {
                    0 => Reason::Cessation,
                    1 => Reason::Superseded,
                    2 => Reason::Compromise,
                    _ => return None,
                };
                Request::Revoke(key, root, why)
            }
            7 => Request::Destroy(key, r.text()?),
            _ => return None,
        };
        r.0.is_empty().then_some(request)
    }
}

impl Answer {
    /// As a frame, with its length in front.
    pub fn encode(self) -> Secret {
        let mut w;
        match self {
            Answer::Error(e) => {
                w = Writer::new(0);
                put_error(&mut w, &e);
            }
            Answer::Status(status) => {
                w = Writer::new(1);
                let (n, text) = match &status {
                    ProviderStatus::Ready => (0, ""),
                    ProviderStatus::Locked { remedy } => (1, &remedy[..]),
                    ProviderStatus::Unavailable { cause } => (2, &cause[..]),
                };
                w.plain(&[n]);
                w.text(text);
            }
            Answer::Roots(roots) => {
                w = Writer::new(2);
                // The newest wraps; of more than fit, the oldest are left out.
                let from = roots.len().saturating_sub(MAX_ROOTS);
                w.u32((roots.len() - from) as u32);
                roots[from..].iter().for_each(|r| w.text(r));
            }
            Answer::Root(root) => {
                w = Writer::new(3);
                w.text(&root);
            }
            Answer::Wrapped(wrapped) => {
                w = Writer::new(4);
                w.wrapped(&wrapped);
            }
            Answer::Secret(secret) => {
                w = Writer::new(5);
                w.secret(secret);
            }
            Answer::Ended => w = Writer::new(6),
        }
        w.finish()
    }

    /// From a frame without its length; `None` where it is none.
    pub fn decode(frame: &[u8]) -> Option<Answer> {
        let mut r = Reader(frame);
        if r.u8()? != VERSION {
            return None;
        }
        let answer = match r.u8()? {
            0 => Answer::Error(take_error(&mut r)?),
            1 => {
                let (n, text) = (r.u8()?, r.text()?);
                Answer::Status(match n {
                    0 => ProviderStatus::Ready,
                    1 => ProviderStatus::Locked { remedy: text },
                    2 => ProviderStatus::Unavailable { cause: text },
                    _ => return None,
                })
            }
            2 => {
                let n = r.u32().filter(|n| *n as usize <= MAX_ROOTS)?;
                Answer::Roots((0..n).map(|_| r.text()).collect::<Option<_>>()?)
            }
            3 => Answer::Root(r.text()?),
            4 => Answer::Wrapped(r.wrapped()?),
            5 => Answer::Secret(r.secret()?),
            6 => Answer::Ended,
            _ => return None,
        };
        r.0.is_empty().then_some(answer)
    }
}

/// An error in four texts, each empty where the kind has none, and a number.
fn put_error(w: &mut Writer, e: &KeyError) {
    use KeyError as E;
    let (kind, texts, n): (u8, [&str; 3], u32) = match e {
        E::Unavailable { provider, cause } => (1, [provider, cause, ""], 0),
        E::NotInstalled { provider, cause, remedy } => (2, [provider, cause, remedy], 0),
        E::WrongSecret { provider, what, remedy } => (3, [provider, remedy, ""], u32::from(*what == "PIN")),
        E::Locked { provider, cause, remedy } => (4, [provider, cause, remedy], 0),
        E::LockedOut { provider, cause, seconds } => (5, [provider, cause, ""], *seconds),
        E::Refused { provider, cause, remedy } => (6, [provider, cause, remedy], 0),
        E::Expired { provider, what } => (7, [provider, what, ""], 0),
        E::NoSuchToken { provider, token, found } => (8, [provider, token, found], 0),
        E::NoSuchKey { provider, root } => (9, [provider, root, ""], 0),
        E::Revoked { provider, root, state } => (10, [provider, root, state], 0),
        E::StateChanged { provider, cause } => (11, [provider, cause, ""], 0),
        E::NotAuthentic => (12, [""; 3], 0),
        E::BadLength { provider, len } => (13, [provider, "", ""], *len as u32),
        E::Unsupported { provider, what, remedy } => (14, [provider, what, remedy], 0),
        E::BadUri { uri, cause, remedy } => (15, [uri, cause, remedy], 0),
        E::NoProvider { what, provider, root } => (16, [what, provider, root], 0),
        E::NoSlot { what } => (17, [what, "", ""], 0),
        E::BadSlots { cause } => (18, [cause, "", ""], 0),
        E::NoRandom { cause } => (19, [cause, "", ""], 0),
        E::Local { provider, cause, remedy } => (20, [provider, cause, remedy], 0),
    };
    w.plain(&[kind]);
    texts.iter().for_each(|t| w.text(t));
    w.u32(n);
}

fn take_error(r: &mut Reader<'_>) -> Option<KeyError> {
    use KeyError as E;
    let kind = r.u8()?;
    let (a, b, c, n) = (r.text()?, r.text()?, r.text()?, r.u32()?);
    Some(match kind {
        1 => E::Unavailable { provider: a, cause: b },
        2 => E::NotInstalled { provider: a, cause: b, remedy: c },
        3 => E::WrongSecret { provider: a, remedy: b, what: if n == 1 { "PIN" } else { "passphrase" } },
        4 => E::Locked { provider: a, cause: b, remedy: c },
        5 => E::LockedOut { provider: a, cause: b, seconds: n },
        6 => E::Refused { provider: a, cause: b, remedy: c },
        7 => E::Expired { provider: a, what: b },
        8 => E::NoSuchToken { provider: a, token: b, found: c },
        9 => E::NoSuchKey { provider: a, root: b },
        10 => E::Revoked { provider: a, root: b, state: c },
        11 => E::StateChanged { provider: a, cause: b },
        12 => E::NotAuthentic,
        13 => E::BadLength { provider: a, len: n as usize },
        14 => E::Unsupported { provider: a, what: b, remedy: c },
        15 => E::BadUri { uri: a, cause: b, remedy: c },
        16 => E::NoProvider { what: a, provider: b, root: c },
        17 => E::NoSlot { what: a },
        18 => E::BadSlots { cause: a },
        19 => E::NoRandom { cause: a },
        20 => E::Local { provider: a, cause: b, remedy: c },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_keys::Purpose;

    fn requests() -> Vec<Request> {
        let context = Context { purpose: Purpose::Domain, pool: [7; 16], domain: 3, epoch: 0 };
        let wrapped = Wrapped { root: "root:1".into(), blob: vec![9; 73] };
        let key = || "main".to_string();
        vec![
            Request::Status(key()),
            Request::Roots(key()),
            Request::AddRoot(key()),
            Request::Wrap(key(), context, Secret::take(&mut [5; 32])),
            Request::Unwrap(key(), context, wrapped),
            Request::Revoke(key(), "root:1".into(), Reason::Cessation),
            Request::Revoke(key(), "root:1".into(), Reason::Superseded),
            Request::Revoke(key(), "root:1".into(), Reason::Compromise),
            Request::Destroy(key(), "root:1".into()),
        ]
    }

    fn errors() -> Vec<KeyError> {
        use KeyError as E;
        let s = |t: &str| t.to_string();
        vec![
            E::Unavailable { provider: s("p"), cause: s("c") },
            E::NotInstalled { provider: s("p"), cause: s("c"), remedy: s("r") },
            E::WrongSecret { provider: s("p"), what: "PIN", remedy: s("r") },
            E::WrongSecret { provider: s("p"), what: "passphrase", remedy: s("r") },
            E::Locked { provider: s("p"), cause: s("c"), remedy: s("r") },
            E::LockedOut { provider: s("p"), cause: s("c"), seconds: 7 },
            E::Refused { provider: s("p"), cause: s("c"), remedy: s("r") },
            E::Expired { provider: s("p"), what: s("w") },
            E::NoSuchToken { provider: s("p"), token: s("t"), found: s("f") },
            E::NoSuchKey { provider: s("p"), root: s("r") },
            E::Revoked { provider: s("p"), root: s("r"), state: s("destroyed") },
            E::StateChanged { provider: s("p"), cause: s("c") },
            E::NotAuthentic,
            E::BadLength { provider: s("p"), len: 9 },
            E::Unsupported { provider: s("p"), what: s("w"), remedy: s("r") },
            E::BadUri { uri: s("u"), cause: s("c"), remedy: s("r") },
            E::NoProvider { what: s("w"), provider: s("p"), root: s("r") },
            E::NoSlot { what: s("w") },
            E::BadSlots { cause: s("c") },
            E::NoRandom { cause: s("c") },
            E::Local { provider: s("p"), cause: s("c"), remedy: s("r") },
        ]
    }

    fn answers() -> Vec<Answer> {
        let mut all: Vec<Answer> = errors().into_iter().map(Answer::Error).collect();
        all.push(Answer::Status(ProviderStatus::Ready));
        all.push(Answer::Status(ProviderStatus::Locked { remedy: "r".into() }));
        all.push(Answer::Status(ProviderStatus::Unavailable { cause: "c".into() }));
        all.push(Answer::Roots(vec!["a".into(), "b".into()]));
        all.push(Answer::Root("a".into()));
        all.push(Answer::Wrapped(Wrapped { root: "a".into(), blob: vec![1; 80] }));
        all.push(Answer::Secret(Secret::take(&mut [6; 32])));
        all.push(Answer::Ended);
        all
    }

    #[test]
    fn every_request_and_answer_comes_through_and_nothing_cut_or_longer_does() {
        for (want, sent) in requests().into_iter().zip(requests()) {
            let frame = sent.encode();
            let bytes = &frame.expose()[4..];
            assert_eq!(frame_len(*frame.expose().first_chunk().unwrap()), Some(bytes.len()));
            assert_eq!(Request::decode(bytes), Some(want));
            (0..bytes.len()).for_each(|n| assert_eq!(Request::decode(&bytes[..n]), None));
            assert_eq!(Request::decode(&[bytes, &[0]].concat()), None);
        }
        for (want, sent) in answers().into_iter().zip(answers()) {
            let frame = sent.encode();
            let bytes = &frame.expose()[4..];
            assert_eq!(Answer::decode(bytes), Some(want));
            (0..bytes.len()).for_each(|n| assert_eq!(Answer::decode(&bytes[..n]), None));
        }
        assert_eq!(
            [0, 1, 2, MAX_FRAME, MAX_FRAME + 1].map(|n| frame_len((n as u32).to_le_bytes()).is_some()),
            [false, false, true, true, false]
        );
    }

    /// The frame of one request, as it was once.
    #[test]
    fn the_layout_is_what_it_was() {
        let frame = Request::Roots("main".into()).encode();
        assert_eq!(frame.expose(), b"\x08\0\0\0\x01\x02\x04\0main");
        let frame = Answer::Secret(Secret::take(&mut [6; 3])).encode();
        assert_eq!(frame.expose(), b"\x07\0\0\0\x01\x05\x03\0\x06\x06\x06");
        let frame = Request::Revoke("main".into(), "r:1".into(), Reason::Compromise).encode();
        assert_eq!(frame.expose(), b"\x0e\0\0\0\x01\x06\x04\0main\x03\0r:1\x02");
        let frame = Request::Destroy("main".into(), "r:1".into()).encode();
        assert_eq!(frame.expose(), b"\x0d\0\0\0\x01\x07\x04\0main\x03\0r:1");
        assert_eq!(Answer::Ended.encode().expose(), b"\x02\0\0\0\x01\x06");
    }
}
