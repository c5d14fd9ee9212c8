//! The data plane: one thread a core, each with its own way to the kernel, joining transports, core and volumes.
//!
//! [`Reactors::start`] starts the threads; connections are spread over them as they come. A thread uses io_uring, or
//! epoll where the kernel refuses that (the log says so). Nothing here knows what a command means.

mod bufring;
mod conn;
mod copies;
mod device;
mod driver;
mod epoll;
mod heavy;
mod mailbox;
mod rdma;
mod shared;
mod spin;
mod thread;
mod uring;

pub use shared::{Limits, RdmaStats, ThreadStats, clock};

use caisson_core::Target;
use driver::Driver;
use mailbox::{Mailbox, Message};
use rdma::control::Control;
use shared::Shared;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use thread::Reactor;

/// Which driver to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring, or epoll where that is refused.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// How to run the data plane.
#[derive(Clone, Debug, Default)]
pub struct ReactorConfig {
    /// The cores to run on, a thread each; empty: one thread for each core that the process may use, not pinned.
    pub cores: Vec<usize>,
    /// Which driver.
    pub driver: DriverChoice,
    /// Bounds.
    pub limits: Limits,
}

/// The running data plane.
pub struct Reactors {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listeners: Mutex<Listeners>,
    driver: &'static str,
}

#[derive(Default)]
struct Listeners {
    next: u32,
    by_addr: HashMap<SocketAddr, (u32, usize)>,
}

impl Reactors {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system's, where a thread or its driver cannot be made; a core that does not exist.
    pub fn start(config: ReactorConfig, target: Arc<Target>) -> io::Result<Reactors> {
        let pinned = !config.cores.is_empty();
        let cores = if pinned {
            config.cores.clone()
        } else {
            (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
        };
        raise_open_files(config.limits.connections);
        let mailboxes = cores.iter().map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared::new(config.limits.clone(), mailboxes));
        let (tell, told) = mpsc::channel();
        let mut threads = Vec::new();
        for (index, &core) in cores.iter().enumerate() {
            let (shared, target, tell) = (Arc::clone(&shared), Arc::clone(&target), tell.clone());
            let choice = config.driver;
            let thread =
                std::thread::Builder::new().name(format!("caisson-io-{index}")).spawn(move || {
                    if let Err(e) = start_thread(index, pinned.then_some(core), choice, shared, target, &tell)
                    {
                        let _ = tell.send(Err(e));
                    }
                })?;
            threads.push(thread);
        }
        drop(tell);
        let mut driver = "";
        for _ in 0..cores.len() {
            driver = told.recv().map_err(|_| io::Error::other("a data-plane thread ended at once"))??;
        }
        tracing::info!(threads = cores.len(), driver, "data plane started");
        Ok(Reactors { shared, threads: Mutex::new(threads), listeners: Mutex::default(), driver })
    }

    /// Listens on `addr` for connections of `port`; returns the address with the port number that the system chose.
    ///
    /// # Errors
    /// The system's: the address is in use, or not this machine's.
    pub fn listen(&self, addr: SocketAddr, port: u16) -> io::Result<SocketAddr> {
        let socket = bind(addr)?;
        let addr = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = listeners.next;
        let thread = listener as usize % self.shared.mailboxes.len();
        listeners.next += 1;
        listeners.by_addr.insert(addr, (listener, thread));
        self.shared.mailboxes[thread].post(Message::Listen { listener, port, socket: OwnedFd::from(socket) });
        Ok(addr)
    }

    /// Stops listening on an address that [`Reactors::listen`] returned. Connections that came by it stay.
    pub fn unlisten(&self, addr: SocketAddr) -> bool {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        match listeners.by_addr.remove(&addr) {
            Some((listener, thread)) => {
                self.shared.mailboxes[thread].post(Message::Unlisten { listener });
                true
            }
            None => false,
        }
    }

    /// Listens on `addr` for RDMA connections of `port`; returns the address with the port number that was chosen.
    ///
    /// # Errors
    /// There is no RDMA here, or no device has the address, with what to do about it; or it is in use.
    pub fn listen_rdma(&self, addr: SocketAddr, port: u16) -> io::Result<SocketAddr> {
        self.rdma()?.listen(addr, port)
    }

    /// Listens on `addr` for RDMA connections of `port` as soon as there is RDMA and a device has it; why that cannot be now is `why`.
    pub fn expect_rdma(&self, addr: SocketAddr, port: u16, why: String) {
        match self.rdma() {
            Ok(control) => control.expect(addr, port, why),
            Err(error) => tracing::error!(%addr, %error, "it is not waited for RDMA: listen again"),
        }
    }

    /// Why the RDMA listener on `addr` waits for a device, where it does.
    pub fn waits_rdma(&self, addr: SocketAddr) -> Option<String> {
        self.shared.rdma.get()?.waits(addr)
    }

    /// Stops listening on an address of [`Reactors::listen_rdma`] or [`Reactors::expect_rdma`]. Connections that came by it stay.
    pub fn unlisten_rdma(&self, addr: SocketAddr) {
        if let Some(control) = self.shared.rdma.get() {
            control.unlisten(addr);
        }
    }

    /// The thread that speaks to RDMA devices, started when it is first needed.
    fn rdma(&self) -> io::Result<&Control> {
        // The lock sees to it that it is started once.
        let _listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        match self.shared.rdma.get() {
            Some(control) => Ok(control),
            None => {
                let control = Control::start(&self.shared)?;
                Ok(self.shared.rdma.get_or_init(|| control))
            }
        }
    }

    /// Each thread's counters.
    pub fn stats(&self) -> &[Arc<ThreadStats>] {
        &self.shared.threads
    }

    /// What RDMA has met.
    pub fn rdma_stats(&self) -> &RdmaStats {
        &self.shared.rdma_stats
    }

    /// The driver in use: `io_uring` or `epoll`.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Ends every connection and every thread, within the limit's time.
    pub fn shutdown(&self) {
        for m in &self.shared.mailboxes {
            m.post(Message::Shutdown);
        }
        for t in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A thread that panicked has said so already.
            let _ = t.join();
        }
        // After the threads, which have given it their connections to be destroyed.
        if let Some(control) = self.shared.rdma.get() {
            control.shutdown();
        }
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// A connection is a descriptor, and the usual soft limit of 1,024 is kept low only for the sake of select(2), which nothing
/// here uses: takes what the hard limit gives, and says so where that is less than the connections allowed.
fn raise_open_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let had = getrlimit(Resource::Nofile);
    if had.current == had.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: had.maximum, maximum: had.maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    if had.maximum.is_some_and(|most| most < connections as u64) {
        tracing::info!(
            most = had.maximum,
            connections,
            "fewer files may be open than connections are allowed: raise the hard limit (ulimit -Hn)"
        );
    }
}

fn bind(addr: SocketAddr) -> io::Result<socket2::Socket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections inherit it. A host without NVMe's own keep-alive (KATO 0) that loses power says no more, and would
    // hold its controller for ever: it is given up after 60 s of silence and six probes without an answer.
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(6);
    socket.set_tcp_keepalive(&probes)?;
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    Ok(socket)
}

/// Runs one thread: pins it, makes its driver, tells that it is up, and turns until shut down.
fn start_thread(
    index: usize,
    core: Option<usize>,
    choice: DriverChoice,
    shared: Arc<Shared>,
    target: Arc<Target>,
    tell: &mpsc::Sender<io::Result<&'static str>>,
) -> io::Result<()> {
    if let Some(core) = core {
        let mut set = rustix::thread::CpuSet::new();
        if core >= rustix::thread::CpuSet::MAX_CPU {
            return Err(io::Error::other(format!("core {core} does not exist")));
        }
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set).map_err(|e| {
            io::Error::other(format!("cannot run on core {core}: {e}; see `nproc` and --cores"))
        })?;
    }
    let mailbox = Arc::clone(&shared.mailboxes[index]);
    if choice != DriverChoice::Epoll {
        match uring::Uring::new(Arc::clone(&mailbox), shared.limits.spin_ns > 0) {
            Ok(driver) => {
                run(Reactor::new(index, driver, mailbox, target, shared), "io_uring", tell);
                return Ok(());
            }
            Err(e) if choice == DriverChoice::Uring => return Err(e),
            // Once, not once a thread.
            Err(_) if index > 0 => {}
            Err(error) => tracing::warn!(
                %error,
                "the kernel refuses io_uring (too old, or forbidden by seccomp or kernel.io_uring_disabled): using epoll, which is slower"
            ),
        }
    }
    let driver = epoll::Epoll::new(Arc::clone(&mailbox))?;
    run(Reactor::new(index, driver, mailbox, target, shared), "epoll", tell);
    Ok(())
}

fn run<D: Driver>(
    mut reactor: Reactor<D>,
    name: &'static str,
    tell: &mpsc::Sender<io::Result<&'static str>>,
) {
    let _ = tell.send(Ok(name));
    if let Err(error) = reactor.run() {
        tracing::error!(%error, "a data-plane thread cannot go on");
    }
    reactor.mailbox().close();
    if reactor.busy() {
        // The kernel may still write to its buffers: they stay where they are until the process ends.
        tracing::warn!("a data-plane thread ended with operations in flight");
        let _stays = std::mem::ManuallyDrop::new(reactor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_are_probed() {
        let listener = std::net::TcpListener::from(bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let _host = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = loop {
            match listener.accept() {
                Ok((socket, _)) => break socket2::Socket::from(socket),
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 6);
    }
}
