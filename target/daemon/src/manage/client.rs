//! The other end of the management socket, for the command line: one request a connection, no runtime.

use crate::refusal::{Cause, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest answer that is read, in bytes.
const ANSWER_MAX: u64 = 64 << 20;
/// How long an answer may take: a resize or delete may wait for I/O under way.
const PATIENCE: Duration = Duration::from_secs(60);

/// A target, by its management socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Where else it was looked for, for those who named no socket.
    elsewhere: Vec<PathBuf>,
}

/// Why a request failed.
#[derive(Debug)]
pub enum ClientError {
    /// The target refused it.
    Refused(Refusal),
    /// No target answers at the socket.
    Unreachable(Refusal),
}

impl ClientError {
    /// What to tell.
    pub fn refusal(&self) -> &Refusal {
        match self {
            ClientError::Refused(r) | ClientError::Unreachable(r) => r,
        }
    }
}

/// `text` as one segment of a path (RFC 3986, section 2.1).
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~:".contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

impl Client {
    /// A client of the target that serves `socket`.
    pub fn new(socket: &Path) -> Client {
        Client { socket: socket.to_path_buf(), elsewhere: Vec::new() }
    }

    /// A client for when there is a target at none of these: each request says so.
    pub fn at_none_of(sockets: &[PathBuf]) -> Client {
        let mut all = sockets.iter().cloned();
        Client { socket: all.next().unwrap_or_default(), elsewhere: all.collect() }
    }

    /// Where the target is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET path`.
    ///
    /// # Errors
    /// The target's refusal, or that there is none.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&self.ask("GET", path, None)?)
    }

    /// A request with a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.odd(&e))?;
        self.read(&self.ask(method, path, Some(&body))?)
    }

    /// `GET path`, as text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn text(&self, path: &str) -> Result<String, ClientError> {
        String::from_utf8(self.ask("GET", path, None)?).map_err(|e| self.odd(&e))
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(bytes).map_err(|e| self.odd(&e))
    }

    fn odd(&self, e: &dyn std::fmt::Display) -> ClientError {
        ClientError::Unreachable(Refusal::new(
            Cause::System,
            format!("the answer from {} cannot be understood: {e}", self.socket.display()),
            "use the same version of caisson as the target; check that the socket is a target's",
        ))
    }

    fn places(&self) -> String {
        let first = self.socket.display().to_string();
        self.elsewhere.iter().fold(first, |all, p| format!("{all}, nor at {}", p.display()))
    }

    fn unreachable(&self, e: &std::io::Error) -> ClientError {
        use std::io::ErrorKind as K;
        let remedy = match e.kind() {
            K::NotFound | K::ConnectionRefused => {
                "start a target (`caisson quickstart`, `caisson export`, `caisson serve`), or say where the socket of one is: \
                 --socket PATH"
            }
            K::PermissionDenied => "run as the user that runs the target: only its owner may use the socket",
            K::WouldBlock | K::TimedOut => "the target is busy or hangs: see its log",
            _ => "see the target's log",
        };
        ClientError::Unreachable(Refusal::new(
            Cause::System,
            format!("no target answers at {}: {e}", self.places()),
            remedy,
        ))
    }

    /// The body of the answer, when its status says success.
    fn ask(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Vec<u8>, ClientError> {
        let talk = || -> std::io::Result<Vec<u8>> {
            let mut s = UnixStream::connect(&self.socket)?;
            s.set_read_timeout(Some(PATIENCE))?;
            s.set_write_timeout(Some(PATIENCE))?;
            let mut request = format!("{method} {path} HTTP/1.0\r\nHost: caisson\r\nConnection: close\r\n");
            if let Some(b) = body {
                request
                    .push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", b.len()));
            }
            request.push_str("\r\n");
            let mut request = request.into_bytes();
            request.extend_from_slice(body.unwrap_or_default());
            // A target that refuses without reading the body closes early; its answer is there all the same.
            match s.write_all(&request) {
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(e),
                _ => {}
            }
            let mut answer = Vec::new();
            match s.take(ANSWER_MAX).read_to_end(&mut answer) {
                Err(e) if answer.is_empty() => Err(e),
                _ => Ok(answer),
            }
        };
        let answer = talk().map_err(|e| self.unreachable(&e))?;
        let end =
            answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| self.odd(&"it is cut short"))?;
        let head = String::from_utf8_lossy(&answer[..end]);
        let status: u16 = head
            .split_whitespace()
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| self.odd(&"it is not HTTP"))?;
        let body = answer[end + 4..].to_vec();
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(match serde_json::from_slice::<Refusal>(&body) {
            Ok(r) => ClientError::Refused(r),
            Err(_) => self.odd(&format!("status {status}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_that_were_looked_at_are_told() {
        let all = ["/nonexistent/a.sock", "/nonexistent/b.sock"].map(PathBuf::from);
        let said = Client::at_none_of(&all).text("/metrics").unwrap_err().refusal().to_string();
        for word in ["at /nonexistent/a.sock, nor at /nonexistent/b.sock", "caisson quickstart", "--socket"] {
            assert!(said.contains(word), "{word} is not in: {said}");
        }
    }
}
