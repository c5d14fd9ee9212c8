//! Addresses and nonblocking sockets.

use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The port of NVMe/TCP I/O controllers registered with IANA.
pub const IO_PORT: u16 = 4420;
/// The port of discovery controllers registered with IANA.
pub const DISCOVERY_PORT: u16 = 8009;

/// Which way to a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// NVMe/TCP.
    #[default]
    Tcp,
    /// NVMe/RDMA.
    Rdma,
}

impl Transport {
    /// As addresses have it.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Rdma => "rdma",
        }
    }
}

/// Where a target listens: `tcp://HOST:PORT`, `rdma://HOST:PORT` or `HOST:PORT` (which is TCP), the port 4420 when it is left
/// out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Which way.
    pub transport: Transport,
    /// A name, an IPv4 or an IPv6 address (without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// From a host and a TCP port.
    pub fn new(host: impl Into<String>, port: u16) -> Address {
        Address { transport: Transport::Tcp, host: host.into(), port }
    }

    /// The same over another transport.
    #[must_use]
    pub fn over(mut self, transport: Transport) -> Address {
        self.transport = transport;
        self
    }

    /// Whether it is reached by RDMA.
    pub fn is_rdma(&self) -> bool {
        self.transport == Transport::Rdma
    }

    /// The first socket address that it resolves to.
    ///
    /// # Errors
    /// [`Error::Name`] when the name resolves to nothing.
    pub fn resolve(&self) -> Result<SocketAddr> {
        let unknown = |why: String| Error::Name { host: self.host.clone(), why };
        let mut all =
            (self.host.as_str(), self.port).to_socket_addrs().map_err(|e| unknown(e.to_string()))?;
        all.next().ok_or_else(|| unknown("it has no address".into()))
    }
}

impl FromStr for Address {
    type Err = Error;
    fn from_str(text: &str) -> Result<Address> {
        let bad = |why: &str| Error::Address { text: text.into(), why: why.into() };
        let (transport, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Transport::Tcp, rest),
            Some(("rdma", rest)) => (Transport::Rdma, rest),
            Some((scheme, _)) => return Err(bad(&format!("`{scheme}` is not a transport of this program"))),
            None => (Transport::Tcp, text),
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(|| bad("the bracket is not closed"))?;
                (host, after.strip_prefix(':'))
            }
            None => match rest.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                _ => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        let port = match port {
            Some(p) => p.parse().map_err(|_| bad("the port is no number below 65536"))?,
            None => IO_PORT,
        };
        Ok(Address::new(host, port).over(transport))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.transport.name();
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Connects to `address` within `timeout`: nonblocking, TCP_NODELAY.
///
/// # Errors
/// [`Error::Address`] or [`Error::Connect`]; an address that is no TCP one.
pub fn connect(address: &Address, timeout: Duration) -> Result<TcpStream> {
    if address.is_rdma() {
        return Err(Error::unsuitable(format!("{address} is no TCP address"), "name one with tcp://"));
    }
    let to = address.resolve()?;
    let fail = |source| Error::Connect { addr: address.to_string(), source };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).map_err(fail)?;
    socket.connect_timeout(&SockAddr::from(to), timeout).map_err(fail)?;
    socket.set_tcp_nodelay(true).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    Ok(socket.into())
}

/// Waits until one of these descriptors can be read, or written where its flag is set, or `timeout` is over; says how many
/// are ready.
///
/// # Errors
/// The system's, but for an interruption, which counts as nothing ready.
pub fn wait<'a>(
    of: impl Iterator<Item = (BorrowedFd<'a>, bool)>,
    timeout: Duration,
    fds: &mut Vec<PollFd<'a>>,
) -> io::Result<usize> {
    fds.clear();
    fds.extend(of.map(|(fd, write)| {
        let out = if write { PollFlags::OUT } else { PollFlags::empty() };
        PollFd::from_borrowed_fd(fd, PollFlags::IN | out)
    }));
    let ts = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
    match poll(fds, Some(&ts)) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

/// Waits for one socket; `false` when `deadline` passed first.
///
/// # Errors
/// The system's.
pub fn wait_one(socket: &TcpStream, write: bool, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if wait(std::iter::once((socket.as_fd(), write)), left, &mut Vec::with_capacity(1))? > 0 {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// The result of a nonblocking operation: `None` when it would block.
pub(crate) fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let a: Address = "tcp://127.0.0.1:4421".parse().unwrap();
        assert_eq!((a.host.as_str(), a.port), ("127.0.0.1", 4421));
        assert_eq!("[::1]:5".parse::<Address>().unwrap().to_string(), "tcp://[::1]:5");
        assert_eq!("fe80::1".parse::<Address>().unwrap().host, "fe80::1");
        assert_eq!("host".parse::<Address>().unwrap().port, IO_PORT);
        let r: Address = "rdma://[fd00::1]".parse().unwrap();
        assert!(r.is_rdma() && r.to_string() == "rdma://[fd00::1]:4420");
        assert!(connect(&r, Duration::from_secs(1)).unwrap_err().to_string().contains("no TCP address"));
        for bad in ["fc://a:1", "", ":4420", "a:99999", "[::1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_listening_is_said() {
        let e = connect(&Address::new("127.0.0.1", 1), Duration::from_secs(1)).unwrap_err();
        assert!(e.to_string().contains("is a target listening there?"), "{e}");
    }
}
