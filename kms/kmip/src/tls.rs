//! TLS with a certificate on both sides.
//!
//! Owns reading certificates and keys, each time a connection is made, so that renewed ones count from the next one on; and a
//! stream with a deadline for all of what is said over it. It must never accept a server whose name or authority is not the
//! configured one.

use crate::error::{Fault, away, called, of_io, of_tls};
use caisson_keys::KeyError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// The port that IANA has given to KMIP.
const PORT: u16 = 5696;

/// Longest file of certificates or keys in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Who this client is, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The authorities that may have signed the server's certificate, in PEM.
    pub ca: PathBuf,
    /// This client's certificate and those above it, in PEM.
    pub cert: PathBuf,
    /// Its key, in PEM; nobody else may read the file.
    pub key: PathBuf,
}

fn local(path: &Path, cause: impl std::fmt::Display, remedy: &str) -> KeyError {
    KeyError::Local {
        provider: crate::NAME.into(),
        cause: format!("{}: {cause}", path.display()),
        remedy: remedy.into(),
    }
}

fn read(path: &Path, private: bool) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let fail = |e: &io::Error| local(path, e, "check the path, the owner and the permissions");
    let file = std::fs::File::open(path).map_err(|e| fail(&e))?;
    let meta = file.metadata().map_err(|e| fail(&e))?;
    if private && meta.mode() & 0o027 != 0 {
        let remedy = format!("chmod 600 {}", path.display());
        return Err(local(path, "others can read this key", &remedy));
    }
    let len = meta.len().min(MAX_FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(len as usize + 1));
    file.take(len).read_to_end(&mut bytes).map_err(|e| fail(&e))?;
    Ok(bytes)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KeyError> {
    let bytes = read(path, false)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|e| local(path, format!("{e:?}"), "give a file of certificates in PEM"))?;
    if all.is_empty() {
        return Err(local(path, "holds no certificate", "give a file of certificates in PEM"));
    }
    Ok(all)
}

impl Identity {
    fn config(&self) -> Result<ClientConfig, KeyError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.ca)? {
            roots
                .add(authority)
                .map_err(|e| local(&self.ca, e, "give the certificates of authorities in PEM"))?;
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key, true)?).map_err(|e| {
            local(&self.key, format!("{e:?}"), "give the client's private key in PEM, without a passphrase")
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| local(&self.cert, e, "report this"))?;
        let config = builder
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&self.cert)?, key)
            .map_err(|e| local(&self.cert, e, "give the certificate that belongs to the key"))?;
        Ok(config)
    }
}

/// A connection on which everything must be said before one moment.
pub struct Stream(StreamOwned<ClientConnection, Timed>);

struct Timed {
    socket: TcpStream,
    end: Instant,
}

impl Timed {
    /// What is left of the time; an error when nothing is.
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buf)
    }
}

impl Write for Timed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Stream {
    /// What an error means. A server that ends a connection says why before it does: where writing failed, that is still to be
    /// read.
    pub fn fault(&mut self, server: &str, e: &io::Error) -> Fault {
        if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            let StreamOwned { conn, sock } = &mut self.0;
            while conn.read_tls(sock).is_ok_and(|n| n > 0) {
                if let Err(said) = conn.process_new_packets() {
                    return of_tls(server, &said);
                }
            }
        }
        of_io(server, e)
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The host of `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`, and the port.
fn parts(server: &str) -> Option<(&str, u16)> {
    if let Some(rest) = server.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None if port.is_empty() => Some((host, PORT)),
            None => None,
        };
    }
    match server.split_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((server, PORT)),
    }
}

/// Connects to `server` and shakes hands, all within `time`.
pub fn connect(server: &str, identity: &Identity, time: Duration) -> Result<Stream, Fault> {
    let end = Instant::now() + time;
    let config = identity.config().map_err(Fault::Way)?;
    let wrong = || {
        Fault::Way(KeyError::BadUri {
            uri: called(server),
            cause: "this is no server".into(),
            remedy: "write server=HOST:PORT".into(),
        })
    };
    let (host, port) = parts(server).ok_or_else(wrong)?;
    let name = ServerName::try_from(host.to_string()).map_err(|_| wrong())?;
    let addresses = (host, port).to_socket_addrs().map_err(|e| away(server, e))?;
    let mut last = away(server, "the name has no address");
    for address in addresses {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(away(server, "no answer in time"));
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => {
                let _ = socket.set_nodelay(true);
                let tls = ClientConnection::new(Arc::new(config), name).map_err(|e| of_tls(server, &e))?;
                let stream = StreamOwned::new(tls, Timed { socket, end });
                let mut stream = Stream(stream);
                while stream.0.conn.is_handshaking() {
                    let StreamOwned { conn, sock } = &mut stream.0;
                    if let Err(e) = conn.complete_io(sock) {
                        return Err(stream.fault(server, &e));
                    }
                }
                return Ok(stream);
            }
            Err(e) => last = of_io(server, &e),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_with_or_without_a_port() {
        assert_eq!(parts("kms.example"), Some(("kms.example", 5696)));
        assert_eq!(parts("kms.example:99"), Some(("kms.example", 99)));
        assert_eq!(parts("[::1]:99"), Some(("::1", 99)));
        assert_eq!(parts("[::1]"), Some(("::1", 5696)));
        for wrong in ["kms:x", "kms:70000", "[::1", "[::1]9"] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }
}
