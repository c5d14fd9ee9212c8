//! Requests and answers, and which server gives them.
//!
//! Owns the framing of messages, the choice of the protocol's version, and going on to the next server where one does not
//! answer. Everything said on one connection has one deadline.

use crate::error::{Fault, away, called, garbled, of_io};
use crate::ops::{operation, tag};
use crate::tls::{Identity, Stream, connect};
use crate::ttlv::{self, HEADER, Item, MAX_MESSAGE, enumeration, integer, structure};
use caisson_keys::KeyError;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use zeroize::Zeroizing;

/// The lowest version that has what we need, and the highest that we speak.
const VERSIONS: [(i32, i32); 3] = [(1, 2), (1, 3), (1, 4)];

/// Servers that hold the same keys.
pub struct Client {
    servers: Vec<String>,
    identity: Identity,
    time: Duration,
    /// The one that answered last is asked first.
    good: AtomicUsize,
}

/// A connection to one of them.
pub struct Session {
    server: String,
    stream: Stream,
    /// What both sides speak.
    pub version: (i32, i32),
}

impl Client {
    pub fn new(servers: Vec<String>, identity: Identity, time: Duration) -> Client {
        Client { servers, identity, time, good: AtomicUsize::new(0) }
    }

    /// How errors call it.
    pub fn called(&self) -> String {
        called(&self.servers.join(", "))
    }

    /// Has `f` done over a connection to the first server that answers. What a server refuses, it refuses for all.
    ///
    /// # Errors
    /// [`Fault::No`] of the server that answered, or why none did.
    pub fn with<T>(&self, mut f: impl FnMut(&mut Session) -> Result<T, Fault>) -> Result<T, Fault> {
        let first = self.good.load(Ordering::Relaxed);
        let mut worst: Option<KeyError> = None;
        for step in 0..self.servers.len() {
            let at = (first + step) % self.servers.len();
            let done =
                Session::open(&self.servers[at], &self.identity, self.time).and_then(|mut s| f(&mut s));
            match done {
                Err(Fault::Way(e)) => {
                    if worst.as_ref().is_none_or(|w| e.rank() > w.rank()) {
                        worst = Some(e);
                    }
                }
                answer => {
                    self.good.store(at, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(worst.map_or_else(|| away("", "none is configured"), Fault::Way))
    }
}

impl Session {
    fn open(server: &str, identity: &Identity, time: Duration) -> Result<Session, Fault> {
        let stream = connect(server, identity, time)?;
        let mut session = Session { server: server.into(), stream, version: VERSIONS[0] };
        // The server's answer has the versions that it speaks; one that knows no such question is of 1.0.
        let answer = session.ask(operation::DISCOVER_VERSIONS, Vec::new())?;
        let of = |v: &Item| {
            let number = |tag| match v.get(tag).map(|i| &i.value) {
                Some(ttlv::Value::Integer(n)) => Some(*n),
                _ => None,
            };
            Some((number(tag::PROTOCOL_VERSION_MAJOR)?, number(tag::PROTOCOL_VERSION_MINOR)?))
        };
        let theirs: Vec<_> =
            answer.items().iter().filter(|i| i.tag == tag::PROTOCOL_VERSION).filter_map(of).collect();
        let common = VERSIONS.into_iter().filter(|v| theirs.contains(v)).max();
        session.version = common.ok_or_else(|| {
            Fault::Way(KeyError::Unsupported {
                provider: called(server),
                what: "speak KMIP 1.2, 1.3 or 1.4".into(),
                remedy: "use a server of KMIP 1.2 or later".into(),
            })
        })?;
        Ok(session)
    }

    /// Has one operation done, and gives its answer's payload.
    pub fn ask(&mut self, operation: u32, payload: Vec<Item>) -> Result<Item, Fault> {
        let version = structure(
            tag::PROTOCOL_VERSION,
            [
                integer(tag::PROTOCOL_VERSION_MAJOR, self.version.0),
                integer(tag::PROTOCOL_VERSION_MINOR, self.version.1),
            ],
        );
        let header = structure(
            tag::REQUEST_HEADER,
            [version, integer(tag::MAXIMUM_RESPONSE_SIZE, MAX_MESSAGE as i32), integer(tag::BATCH_COUNT, 1)],
        );
        let payload = structure(tag::REQUEST_PAYLOAD, payload);
        let item = structure(tag::BATCH_ITEM, [enumeration(tag::OPERATION, operation), payload]);
        let request = structure(tag::REQUEST_MESSAGE, [header, item]).encode();
        let sent = self.stream.write_all(&request).and_then(|()| self.stream.flush());
        sent.map_err(|e| self.stream.fault(&self.server, &e))?;
        self.answer(operation)
    }

    fn answer(&mut self, operation: u32) -> Result<Item, Fault> {
        let mut head = [0; HEADER];
        self.stream.read_exact(&mut head).map_err(|e| self.stream.fault(&self.server, &e))?;
        let len = ttlv::message_len(&head, tag::RESPONSE_MESSAGE)
            .ok_or_else(|| away(&self.server, "its answer is no KMIP message"))?;
        let mut bytes = Zeroizing::new(vec![0; len]);
        bytes[..HEADER].copy_from_slice(&head);
        self.stream.read_exact(&mut bytes[HEADER..]).map_err(|e| of_io(&self.server, &e))?;
        let message = Item::decode(&bytes).map_err(|e| garbled(&self.server, e))?;
        let item = message.get(tag::BATCH_ITEM).ok_or_else(|| away(&self.server, "its answer is empty"))?;
        let said = |tag| item.get(tag).and_then(Item::enumeration);
        match said(tag::RESULT_STATUS) {
            Some(0) if said(tag::OPERATION) == Some(operation) => Ok(match item.get(tag::RESPONSE_PAYLOAD) {
                Some(payload) => payload.clone(),
                None => structure(tag::RESPONSE_PAYLOAD, []),
            }),
            Some(1) => Err(Fault::No {
                reason: said(tag::RESULT_REASON).unwrap_or(0),
                // It goes into logs: a line of plain text, and not a long one.
                message: item
                    .get(tag::RESULT_MESSAGE)
                    .and_then(Item::text)
                    .unwrap_or("without a word")
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect(),
            }),
            _ => Err(away(&self.server, "its answer is not to what was asked")),
        }
    }

    /// An answer that lacks what it must have.
    pub fn lacks(&self, what: &str) -> Fault {
        away(&self.server, format!("its answer lacks {what}"))
    }
}
