//! The RDMA listeners: those that listen, and those that wait for a device to have their address.

use caisson_verbs::{Channel, Listener};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Connections that wait to be looked at, a listener.
const BACKLOG: i32 = 128;

struct Entry {
    address: SocketAddr,
    port: u16,
    /// Or why there is none.
    listener: Result<Listener, String>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Listeners(Vec<Entry>);

/// Says what can be done about a refusal.
fn explained(address: SocketAddr, error: &io::Error) -> io::Error {
    let text = match error.raw_os_error() {
        Some(libc::ENODEV) => format!(
            "no RDMA device has the address {}: see `rdma link`, or make one (rdma link add rxe0 type rxe netdev eth0)",
            address.ip()
        ),
        Some(libc::EADDRNOTAVAIL) => {
            format!("this machine has no address {}: see `ip address`", address.ip())
        }
        _ => return io::Error::new(error.kind(), error.to_string()),
    };
    io::Error::new(io::ErrorKind::AddrNotAvailable, text)
}

impl Listeners {
    /// Listens on `address` for connections of `port`.
    ///
    /// # Errors
    /// No device has the address, or it is in use.
    pub(super) fn add(
        &mut self,
        channel: &Arc<Channel>,
        address: SocketAddr,
        port: u16,
    ) -> io::Result<SocketAddr> {
        let listener = Listener::new(channel, address, BACKLOG).map_err(|e| explained(address, &e))?;
        let address = listener.address().unwrap_or(address);
        self.0.push(Entry { address, port, listener: Ok(listener) });
        Ok(address)
    }

    /// Keeps an address to listen on when a device has it, which it cannot be now for the reason `why`.
    pub(super) fn expect(&mut self, address: SocketAddr, port: u16, why: String) {
        self.0.push(Entry { address, port, listener: Err(why) });
    }

    /// Stops listening.
    pub(super) fn remove(&mut self, address: SocketAddr) {
        self.0.retain(|e| e.address != address);
    }

    /// The port that connections of the listener of this key belong to.
    pub(super) fn port_of(&self, key: usize) -> Option<u16> {
        self.0.iter().find(|e| e.listener.as_ref().is_ok_and(|l| l.key() == key)).map(|e| e.port)
    }

    /// The listener of this key has lost its device, and waits from now on.
    pub(super) fn lost(&mut self, key: usize) -> Option<Listener> {
        self.take(|l| l.key() == key)
    }

    /// One whose device is not there any more, which waits from now on.
    pub(super) fn stranded(&mut self) -> Option<Listener> {
        self.take(|l| !l.is_there())
    }

    fn take(&mut self, which: impl Fn(&Listener) -> bool) -> Option<Listener> {
        let entry = self.0.iter_mut().find(|e| e.listener.as_ref().is_ok_and(&which))?;
        tracing::warn!(address = %entry.address, "an RDMA listener has lost its device and waits for it to come back");
        std::mem::replace(&mut entry.listener, Err("its device is gone".into())).ok()
    }

    /// Tries those that wait.
    pub(super) fn retry(&mut self, channel: &io::Result<Arc<Channel>>) {
        for entry in self.0.iter_mut().filter(|e| e.listener.is_err()) {
            let tried = match channel {
                Ok(channel) => Listener::new(channel, entry.address, BACKLOG),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            if tried.is_ok() {
                tracing::info!(address = %entry.address, "an RDMA listener has found its device");
            }
            entry.listener = tried.map_err(|error| explained(entry.address, &error).to_string());
        }
    }

    /// Those that wait, and why.
    pub(super) fn waiting(&self) -> Vec<(SocketAddr, String)> {
        self.0.iter().filter_map(|e| Some((e.address, e.listener.as_ref().err()?.clone()))).collect()
    }

    /// Stops all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
