//! The connection manager: listening, requests, queue pairs, and the end of connections.

use crate::device::{Device, let_go, node_is_there};
use crate::ffi::{self, Functions, rdma_cm_id, rdma_event_channel};
use crate::load::{Unavailable, functions};
use crate::queue::{CompletionQueue, ReceiveQueue, Refused, Scratch, post_sends};
use crate::{checked, errno, make_nonblocking};
use caisson_rdma::Batch;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::time::Duration;

/// Where the connection manager tells what happens.
pub struct Channel {
    functions: &'static Functions,
    channel: NonNull<rdma_event_channel>,
}

// SAFETY: the connection manager may be called from any thread; the pointer is only changed by `drop`.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    /// A channel; loads rdma-core where that was not done.
    ///
    /// # Errors
    /// rdma-core or the kernel's part is not there.
    pub fn new() -> Result<Arc<Channel>, Unavailable> {
        let functions = functions()?;
        // SAFETY: takes nothing.
        let channel = unsafe { (functions.rdma_create_event_channel)() };
        let channel = NonNull::new(channel).ok_or_else(|| Unavailable::NoKernel { errno: errno() })?;
        let this = Channel { functions, channel };
        make_nonblocking(this.fd())
            .map_err(|e| Unavailable::NoKernel { errno: e.raw_os_error().unwrap_or(libc::EIO) })?;
        Ok(Arc::new(this))
    }

    /// What becomes readable when something happened.
    pub fn fd(&self) -> RawFd {
        // SAFETY: a channel that is there.
        unsafe { self.channel.as_ref() }.fd
    }

    /// What happened next, if anything did.
    pub fn event(self: &Arc<Channel>) -> Option<CmEvent> {
        let mut event = null_mut();
        // SAFETY: a channel that is there and does not block, and room for the pointer.
        if unsafe { (self.functions.rdma_get_cm_event)(self.channel.as_ptr(), &mut event) } != 0 {
            return None;
        }
        // SAFETY: filled by the call, and there until it is acknowledged below.
        let told = unsafe { self.read(&*event) };
        // SAFETY: taken above, acknowledged once; what was of use is copied.
        unsafe { (self.functions.rdma_ack_cm_event)(event) };
        Some(told)
    }

    /// # Safety
    /// An event that was not acknowledged.
    unsafe fn read(self: &Arc<Channel>, event: &ffi::rdma_cm_event) -> CmEvent {
        let id = event.id.addr();
        let private = || {
            let conn = &event.conn;
            if conn.private_data.is_null() {
                return Vec::new();
            }
            // SAFETY: as long as the event says, and there until it is acknowledged.
            unsafe {
                std::slice::from_raw_parts(conn.private_data.cast::<u8>(), usize::from(conn.private_data_len))
            }
            .to_vec()
        };
        let kind = match event.event {
            0 => CmKind::Resolved,
            2 => CmKind::Routed,
            4 => match NonNull::new(event.id) {
                Some(id) => CmKind::Request(Incoming {
                    id: Id { channel: Arc::clone(self), id },
                    listener: event.listen_id.addr(),
                    private: private(),
                    reads: event.conn.initiator_depth,
                }),
                None => CmKind::Other(event.event),
            },
            1 | 3 | 5..=7 => CmKind::Failed,
            8 => CmKind::Refused { private: private() },
            9 => CmKind::Established { private: private() },
            10 => CmKind::Disconnected,
            11 => CmKind::DeviceRemoved,
            14 => CmKind::AddressChanged,
            other => CmKind::Other(other),
        };
        CmEvent { id, kind, status: event.status }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: identifiers hold the channel, so none is left; once.
        unsafe { (self.functions.rdma_destroy_event_channel)(self.channel.as_ptr()) };
    }
}

/// Something that happened.
pub struct CmEvent {
    /// [`Listener::key`] or [`Connection::key`] of whom it happened to; of a request, that of the connection to be.
    pub id: usize,
    /// What.
    pub kind: CmKind,
    /// An errno or a reason, where something failed.
    pub status: i32,
}

/// What happened (`enum rdma_cm_event_type`).
pub enum CmKind {
    /// The address of a connection to be made is known, and with it the device.
    Resolved,
    /// The way to it is known.
    Routed,
    /// A host wants a connection.
    Request(Incoming),
    /// A connection did not come about: no address, no route, connect error, unreachable.
    Failed,
    /// The other side refused a connection.
    Refused {
        /// What it says to that.
        private: Vec<u8>,
    },
    /// A connection stands.
    Established {
        /// What the other side said as it accepted.
        private: Vec<u8>,
    },
    /// A connection was ended by the other side, or its end was confirmed.
    Disconnected,
    /// The device goes; what hangs on it is to be destroyed.
    DeviceRemoved,
    /// The address went to another device.
    AddressChanged,
    /// Something that needs nothing done.
    Other(i32),
}

/// An identifier, destroyed when dropped.
struct Id {
    channel: Arc<Channel>,
    id: NonNull<rdma_cm_id>,
}

// SAFETY: as for `Channel`.
unsafe impl Send for Id {}
// SAFETY: as above.
unsafe impl Sync for Id {}

impl Id {
    fn create(channel: &Arc<Channel>) -> io::Result<Id> {
        let f = channel.functions;
        let mut id = null_mut();
        // SAFETY: a channel that is there, and room for the pointer.
        checked(unsafe {
            (f.rdma_create_id)(channel.channel.as_ptr(), &mut id, null_mut(), ffi::RDMA_PS_TCP)
        })?;
        let id = NonNull::new(id).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Id { channel: Arc::clone(channel), id })
    }

    /// What it is bound to; 0 where that is no device.
    fn context(&self) -> usize {
        // SAFETY: an identifier that is there.
        unsafe { self.id.as_ref() }.verbs.addr()
    }

    /// The device that it is bound to; one and the same for all of a device's.
    fn device(&self, known: impl Fn(usize) -> Option<Arc<Device>>) -> io::Result<Arc<Device>> {
        if let Some(device) = known(self.context()) {
            return Ok(device);
        }
        // The connection manager closes a device that was removed with the last identifier of it: one is kept for as long as
        // there is anything else of ours on it.
        let anchor = Id::create(&self.channel)?;
        let mut at = self.addresses().0.ok_or(io::ErrorKind::NotFound)?;
        at.set_port(0);
        anchor.bind(at)?;
        // SAFETY: an identifier that is there.
        let (context, own) = unsafe { (self.id.as_ref().verbs, anchor.id.as_ref().verbs) };
        if context.is_null() || context != own {
            return Err(io::ErrorKind::NotFound.into());
        }
        Device::open(self.f(), context, Anchor(anchor))
    }

    fn bind(&self, at: SocketAddr) -> io::Result<()> {
        let mut raw = raw_address(at);
        // SAFETY: an identifier that is there, and an address that says its family.
        checked(unsafe { (self.f().rdma_bind_addr)(self.id.as_ptr(), (&raw mut raw).cast()) })
    }

    /// Makes a queue pair for it. `want` says what it came to afterwards.
    fn with_queue_pair(
        self,
        sends: &Arc<CompletionQueue>,
        receives: &Arc<CompletionQueue>,
        srq: &Arc<ReceiveQueue>,
        want: &mut QueuePair,
    ) -> Result<Connection, (Id, io::Error)> {
        let device = Arc::clone(&sends.device);
        let mut attr = ffi::ibv_qp_init_attr {
            qp_context: null_mut(),
            send_cq: sends.cq.as_ptr(),
            recv_cq: receives.cq.as_ptr(),
            srq: srq.srq.as_ptr(),
            cap: ffi::ibv_qp_cap {
                max_send_wr: want.send_wrs,
                max_recv_wr: 0,
                max_send_sge: want.send_sges,
                max_recv_sge: 0,
                max_inline_data: want.inline,
            },
            qp_type: ffi::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: an identifier that is bound to the device that all of the others belong to.
        let made = checked(unsafe { (self.f().rdma_create_qp)(self.id.as_ptr(), device.pd, &mut attr) });
        if let Err(e) = made {
            return Err((self, e));
        }
        want.inline = attr.cap.max_inline_data;
        // SAFETY: made by the call above.
        let number = unsafe { (*self.id.as_ref().qp).qp_num };
        let _cqs = [Arc::clone(sends), Arc::clone(receives)];
        Ok(Connection { id: Arc::new(self), number, _cqs, _srq: Arc::clone(srq), device })
    }

    fn f(&self) -> &'static Functions {
        self.channel.functions
    }

    fn key(&self) -> usize {
        self.id.as_ptr().addr()
    }

    /// Our address, and the other side's.
    fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        // SAFETY: an identifier that is there; its addresses do not change once a connection is on its way.
        unsafe {
            let id = self.id.as_ref();
            (address(&id.src_addr), address(&id.dst_addr))
        }
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: made by or handed over from the connection manager, destroyed once; its events are acknowledged as they are
        // taken, so this does not wait for anybody.
        unsafe { (self.f().rdma_destroy_id)(self.id.as_ptr()) };
    }
}

/// Keeps a device open, see [`Id::device`].
pub(crate) struct Anchor(Id);

impl Anchor {
    pub(crate) fn key(&self) -> usize {
        self.0.key()
    }
}

/// A listener.
pub struct Listener(Id);

impl Listener {
    /// Listens on `at`.
    ///
    /// # Errors
    /// The system's: no RDMA device has the address (ENODEV), or it is in use.
    pub fn new(channel: &Arc<Channel>, at: SocketAddr, backlog: i32) -> io::Result<Listener> {
        let f = channel.functions;
        let this = Listener(Id::create(channel)?);
        let id = this.0.id;
        let mut yes: libc::c_int = 1;
        // A target that is started again must not wait for connections of the one before. Best effort.
        // SAFETY: an identifier that is there, and an option of the length that is said.
        unsafe {
            (f.rdma_set_option)(
                id.as_ptr(),
                ffi::RDMA_OPTION_ID,
                ffi::RDMA_OPTION_ID_REUSEADDR,
                (&raw mut yes).cast(),
                size_of::<libc::c_int>(),
            )
        };
        this.0.bind(at)?;
        // SAFETY: an identifier that is bound.
        checked(unsafe { (f.rdma_listen)(id.as_ptr(), backlog) })?;
        Ok(this)
    }

    /// What events say of it.
    pub fn key(&self) -> usize {
        self.0.key()
    }

    /// [`Device::key`] of its device; 0 where it listens on all.
    pub fn device(&self) -> usize {
        self.0.context()
    }

    /// As [`Device::is_there`]; where it listens on all devices, always.
    pub fn is_there(&self) -> bool {
        // SAFETY: an identifier that is there.
        let context = unsafe { self.0.id.as_ref() }.verbs;
        // SAFETY: the identifier keeps the context.
        context.is_null() || unsafe { node_is_there(context) }
    }

    /// Gives it up with its device, which the kernel removes, and on which nothing else of ours is but other listeners.
    pub fn lost(self) {
        // SAFETY: an identifier that is there.
        let context = unsafe { self.0.id.as_ref() }.verbs;
        if !context.is_null() {
            // SAFETY: this identifier keeps the context, and is dropped after the call; listeners have nothing in it.
            unsafe { let_go(context) };
        }
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.addresses().0
    }
}

/// A host that wants a connection. Dropped, it is not answered.
pub struct Incoming {
    id: Id,
    /// [`Listener::key`] of where it came in.
    pub listener: usize,
    /// Its private data.
    pub private: Vec<u8>,
    /// RDMA READs that it takes at once.
    pub reads: u8,
}

/// What a queue pair is to have.
#[derive(Clone, Copy, Debug)]
pub struct QueuePair {
    /// Work requests of its send queue.
    pub send_wrs: u32,
    /// List entries of its sends.
    pub send_sges: u32,
    /// Bytes that it sends inline.
    pub inline: u32,
}

impl Incoming {
    /// The device that it came by; one and the same for all of a device's.
    ///
    /// # Errors
    /// The system's.
    pub fn device(&self, known: impl Fn(usize) -> Option<Arc<Device>>) -> io::Result<Arc<Device>> {
        self.id.device(known)
    }

    /// Our address, and the host's.
    pub fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        self.id.addresses()
    }

    /// Refuses it.
    pub fn reject(self, private: &[u8]) {
        // SAFETY: an identifier that is there, and data that is copied. Where it fails, the host is gone.
        unsafe {
            (self.id.f().rdma_reject)(
                self.id.id.as_ptr(),
                private.as_ptr().cast(),
                private.len().min(148) as u8,
            )
        };
    }

    /// Makes its queue pair, with the queues that its SENDs and its receives complete to. `want` says what it came to afterwards.
    /// The connection is not accepted yet.
    ///
    /// # Errors
    /// The system's, with the request given back to be rejected.
    pub fn prepare(
        self,
        sends: &Arc<CompletionQueue>,
        receives: &Arc<CompletionQueue>,
        srq: &Arc<ReceiveQueue>,
        want: &mut QueuePair,
    ) -> Result<Connection, (Incoming, io::Error)> {
        let Incoming { id, listener, private, reads } = self;
        id.with_queue_pair(sends, receives, srq, want)
            .map_err(|(id, e)| (Incoming { id, listener, private, reads }, e))
    }
}

/// A connection that is to be asked for. Each step brings an event: [`CmKind::Resolved`], then [`CmKind::Routed`].
pub struct Outgoing(Id);

impl Outgoing {
    /// Begins with looking for a device that leads to `to`.
    ///
    /// # Errors
    /// The system's: no device leads there.
    pub fn resolve(channel: &Arc<Channel>, to: SocketAddr, within: Duration) -> io::Result<Outgoing> {
        let id = Id::create(channel)?;
        let mut raw = raw_address(to);
        // SAFETY: an identifier that is there, and an address that says its family, which is copied.
        checked(unsafe {
            (id.f().rdma_resolve_addr)(id.id.as_ptr(), null_mut(), (&raw mut raw).cast(), millis(within))
        })?;
        Ok(Outgoing(id))
    }

    /// Looks for the way.
    ///
    /// # Errors
    /// The system's.
    pub fn route(&self, within: Duration) -> io::Result<()> {
        // SAFETY: an identifier that is bound to a device.
        checked(unsafe { (self.0.f().rdma_resolve_route)(self.0.id.as_ptr(), millis(within)) })
    }

    /// The device that leads there.
    ///
    /// # Errors
    /// The system's.
    pub fn device(&self) -> io::Result<Arc<Device>> {
        self.0.device(|_| None)
    }

    /// Makes its queue pair. `want` says what it came to afterwards.
    ///
    /// # Errors
    /// The system's.
    pub fn prepare(
        self,
        cq: &Arc<CompletionQueue>,
        srq: &Arc<ReceiveQueue>,
        want: &mut QueuePair,
    ) -> io::Result<Connection> {
        self.0.with_queue_pair(cq, cq, srq, want).map_err(|(_, e)| e)
    }
}

fn millis(d: Duration) -> libc::c_int {
    d.as_millis().clamp(1, 60_000) as libc::c_int
}

/// A connection with its queue pair. Dropped, the queue pair is destroyed: the device then reaches nothing through it any more.
/// The other side is told of the end, too, unless a [`Farewell`] is kept.
pub struct Connection {
    id: Arc<Id>,
    number: u32,
    // What the queue pair hangs on, given back after it.
    _cqs: [Arc<CompletionQueue>; 2],
    _srq: Arc<ReceiveQueue>,
    device: Arc<Device>,
}

/// What is left of a connection whose queue pair is gone: the connection manager's part. Dropped, the other side is told, where it was not
/// told already: a message goes out.
pub struct Farewell {
    _id: Arc<Id>,
}

impl Connection {
    /// What events say of it.
    pub fn key(&self) -> usize {
        self.id.key()
    }

    /// The port of the device that it goes by, counted from 1.
    pub fn port(&self) -> u8 {
        // SAFETY: an identifier that is there; its port does not change once a connection is on its way.
        unsafe { self.id.id.as_ref() }.port_num
    }

    /// The number of its queue pair.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Accepts it, having RDMA READs of ours on their way, as many as `reads`. Nobody reads from us.
    ///
    /// # Errors
    /// The system's: the host is gone.
    pub fn accept(&self, private: &[u8], reads: u8) -> io::Result<()> {
        let mut param = ffi::rdma_conn_param {
            private_data: private.as_ptr().cast(),
            private_data_len: private.len().min(196) as u8,
            responder_resources: 0,
            initiator_depth: reads,
            flow_control: 1,
            retry_count: 7,
            // For ever: a host that keeps to its queue's size always posts a receive.
            rnr_retry_count: 7,
            srq: 1,
            qp_num: self.number,
        };
        // SAFETY: an identifier with a queue pair, and data that is copied.
        checked(unsafe { (self.id.f().rdma_accept)(self.id.id.as_ptr(), &mut param) })
    }

    /// Asks for it, having the other side's RDMA READs answered, as many as `reads` at once, and it repeat `repeats` times (7: for
    /// ever) what finds no receive of ours. We read nothing. What comes of it is an event.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(&self, private: &[u8], reads: u8, repeats: u8) -> io::Result<()> {
        let mut param = ffi::rdma_conn_param {
            private_data: private.as_ptr().cast(),
            private_data_len: private.len().min(56) as u8,
            responder_resources: reads,
            initiator_depth: 0,
            flow_control: 1,
            retry_count: 7,
            rnr_retry_count: repeats,
            srq: 1,
            qp_num: self.number,
        };
        // SAFETY: an identifier with a queue pair, and data that is copied.
        checked(unsafe { (self.id.f().rdma_connect)(self.id.id.as_ptr(), &mut param) })
    }

    /// What tells the other side of the end, once the queue pair is gone.
    pub fn farewell(&self) -> Farewell {
        Farewell { _id: Arc::clone(&self.id) }
    }

    /// Ends it on this side: what is posted is flushed. The other side is told when the connection is dropped, or its farewell. (For iWARP,
    /// whose connection is the queue pair's own, it is told here.)
    pub fn flush(&self) {
        if self.device.attributes().iwarp {
            return self.disconnect();
        }
        let mut attr = ffi::ibv_qp_attr { qp_state: ffi::IBV_QPS_ERR, rest: [0; 35] };
        // SAFETY: an identifier with a queue pair, and attributes of which only the state is looked at. Where it fails, the device is going.
        unsafe { (self.id.f().ibv_modify_qp)(self.id.id.as_ref().qp, &mut attr, ffi::IBV_QP_STATE) };
    }

    /// Ends it: what is posted is flushed, and the other side is told.
    pub fn disconnect(&self) {
        // SAFETY: an identifier with a queue pair. Where it fails, the connection has ended already.
        unsafe { (self.id.f().rdma_disconnect)(self.id.id.as_ptr()) };
    }

    /// Posts a batch.
    ///
    /// # Errors
    /// The device's, and which requests it did not take.
    ///
    /// # Safety
    /// What the lists name is registered and stays there and as the requests need it (not written while it is read, not
    /// touched while it is written) until the completion that covers the request, or until this connection is dropped.
    #[inline]
    pub unsafe fn post(&self, batch: &Batch, scratch: &mut Scratch) -> Result<(), Refused> {
        // SAFETY: the queue pair is there for as long as this is; the rest is the caller's promise.
        unsafe { post_sends(self.id.id.as_ref().qp, batch, scratch) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: made by `prepare`, destroyed once, before its identifier.
        unsafe { (self.id.f().rdma_destroy_qp)(self.id.id.as_ptr()) };
    }
}

/// The address in a socket address of the system's.
fn address(raw: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at = std::ptr::from_ref(raw);
    match libc::c_int::from(raw.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is, and the storage holds and aligns each.
            let a = unsafe { &*at.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(a.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let a = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(ip), u16::from_be(a.sin6_port)))
        }
        _ => None,
    }
}

/// The other way round.
fn raw_address(at: SocketAddr) -> libc::sockaddr_storage {
    // SAFETY: plain data for which all zeroes is a value.
    let mut raw: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let to = &raw mut raw;
    match at {
        SocketAddr::V4(a) => {
            // SAFETY: the storage holds and aligns each kind of address.
            let out = unsafe { &mut *to.cast::<libc::sockaddr_in>() };
            out.sin_family = libc::AF_INET as libc::sa_family_t;
            out.sin_port = a.port().to_be();
            out.sin_addr.s_addr = u32::from(*a.ip()).to_be();
        }
        SocketAddr::V6(a) => {
            // SAFETY: as above.
            let out = unsafe { &mut *to.cast::<libc::sockaddr_in6>() };
            out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            out.sin6_port = a.port().to_be();
            out.sin6_scope_id = a.scope_id();
            out.sin6_addr.s6_addr = a.ip().octets();
        }
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_there_and_back() {
        for text in ["192.0.2.7:4420", "[2001:db8::7]:8009", "0.0.0.0:1"] {
            let at: SocketAddr = text.parse().unwrap();
            assert_eq!(address(&raw_address(at)), Some(at));
        }
        assert_eq!(address(&raw_address("0.0.0.0:0".parse().unwrap())).unwrap().port(), 0);
    }
}
