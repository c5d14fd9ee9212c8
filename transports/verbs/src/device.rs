//! A device: its limits, its protection domain, the memory that is registered with it, and what it reports by itself.

use crate::cm::Anchor;
use crate::ffi::{self, Functions, ibv_context, ibv_mr, ibv_pd};
use crate::make_nonblocking;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a device can do, as far as it is asked.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// Its name, as `rdma link` has it.
    pub name: String,
    /// Work requests of a queue.
    pub queue_wrs: u32,
    /// List entries of a SEND or RDMA WRITE.
    pub sges: u32,
    /// List entries of an RDMA READ.
    pub read_sges: u32,
    /// Entries of a completion queue.
    pub completions: u32,
    /// Work requests of a shared receive queue.
    pub receives: u32,
    /// RDMA READs of ours on their way on one queue pair.
    pub reads: u8,
    /// RDMA READs of the other side that one queue pair answers at once.
    pub answers: u8,
    /// Whether it sends with invalidate.
    pub invalidate: bool,
    /// Whether it is iWARP, whose RDMA READs want their sink open to remote writes.
    pub iwarp: bool,
}

/// A device with a protection domain of ours.
pub struct Device {
    pub(crate) functions: &'static Functions,
    pub(crate) context: *mut ibv_context,
    pub(crate) pd: *mut ibv_pd,
    attributes: Attributes,
    /// It was removed, see [`Device::removed`].
    removed: AtomicBool,
    // Dropped after the domain is freed: the context may be closed with it.
    anchor: Anchor,
}

// SAFETY: verbs may be called from any thread on any object; the pointers are only changed by `drop`.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// The device behind `context`, which the connection manager has opened and keeps open while `anchor` is there.
    pub(crate) fn open(
        functions: &'static Functions,
        context: *mut ibv_context,
        anchor: Anchor,
    ) -> io::Result<Arc<Device>> {
        let mut attr = MaybeUninit::<ffi::ibv_device_attr>::zeroed();
        // SAFETY: an open context, and room for the attributes.
        let result = unsafe { (functions.ibv_query_device)(context, attr.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        // SAFETY: all zeroes is a value of it, and the call has filled it.
        let attr = unsafe { attr.assume_init() };
        // SAFETY: an open context has a device, whose name ends in NUL.
        let (name, transport) = unsafe {
            let device = (*context).device;
            let name = CStr::from_ptr((functions.ibv_get_device_name)(device));
            (name.to_string_lossy().into_owned(), (*device).transport_type)
        };
        let count = |n: i32| u32::try_from(n).unwrap_or(0);
        let attributes = Attributes {
            name,
            queue_wrs: count(attr.max_qp_wr),
            sges: count(attr.max_sge),
            read_sges: count(attr.max_sge_rd),
            completions: count(attr.max_cqe),
            receives: count(attr.max_srq_wr),
            reads: u8::try_from(attr.max_qp_init_rd_atom).unwrap_or(u8::MAX),
            answers: u8::try_from(attr.max_qp_rd_atom).unwrap_or(u8::MAX),
            invalidate: attr.device_cap_flags & ffi::IBV_DEVICE_MEM_MGT_EXTENSIONS != 0,
            iwarp: transport == ffi::IBV_TRANSPORT_IWARP,
        };
        // SAFETY: an open context.
        make_nonblocking(unsafe { (*context).async_fd })?;
        // SAFETY: as above.
        let pd = unsafe { (functions.ibv_alloc_pd)(context) };
        if pd.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(Arc::new(Device { functions, context, pd, attributes, removed: AtomicBool::new(false), anchor }))
    }

    /// What events say of the identifier that keeps it open.
    pub fn anchor(&self) -> usize {
        self.anchor.key()
    }

    /// Whether its node is still there: it goes with the device, before anybody is told. Where nodes do not come and go, always.
    pub fn is_there(&self) -> bool {
        // SAFETY: the anchor keeps the context.
        unsafe { node_is_there(self.context) }
    }

    /// Notes that the kernel removes it: once the last of ours on it is given back, its descriptors are closed ([`let_go`]).
    pub fn removed(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }

    /// What it can do.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Which device this is among those that the connection manager opened.
    pub fn key(&self) -> usize {
        self.context.addr()
    }

    /// What becomes readable when it has something to report.
    pub fn event_fd(&self) -> RawFd {
        // SAFETY: the context is open for the life of the process.
        unsafe { (*self.context).async_fd }
    }

    /// The next report, if there is one.
    pub fn event(&self) -> Option<DeviceEvent> {
        let mut event = ffi::ibv_async_event { element: std::ptr::null_mut(), event_type: 0 };
        // SAFETY: an open context, and room for the event; the descriptor does not block.
        if unsafe { (self.functions.ibv_get_async_event)(self.context, &mut event) } != 0 {
            return None;
        }
        // SAFETY: for these events the element is a queue pair, which cannot be destroyed before they are acknowledged.
        let number = || unsafe { (*event.element).qp_num };
        // SAFETY: for these events the element begins with the number, and all of it is there, from one to the other.
        let port =
            || u8::try_from(unsafe { (&raw const event.element).cast::<libc::c_int>().read() }).unwrap_or(0);
        let told = match event.event_type {
            ffi::IBV_EVENT_QP_LAST_WQE_REACHED => DeviceEvent::LastReceive { queue_pair: number() },
            ffi::IBV_EVENT_QP_FATAL | ffi::IBV_EVENT_QP_ACCESS_ERR => {
                DeviceEvent::QueuePairFailed { queue_pair: number() }
            }
            ffi::IBV_EVENT_DEVICE_FATAL => DeviceEvent::Fatal,
            ffi::IBV_EVENT_PORT_ACTIVE => DeviceEvent::PortUp { port: port() },
            ffi::IBV_EVENT_PORT_ERR => DeviceEvent::PortDown { port: port() },
            other => DeviceEvent::Other(other),
        };
        // SAFETY: the event that was just taken, once.
        unsafe { (self.functions.ibv_ack_async_event)(&mut event) };
        Some(told)
    }

    /// Registers `len` bytes from `at` on, for the device to reach as `reach` says.
    ///
    /// # Errors
    /// The system's: ENOMEM where the limit of locked memory is reached.
    ///
    /// # Safety
    /// The memory stays mapped, and its pages in place, until the region is dropped.
    pub unsafe fn register(
        self: &Arc<Device>,
        at: *const u8,
        len: usize,
        reach: Reach,
    ) -> io::Result<Region> {
        let access = match reach {
            Reach::Read => 0,
            Reach::Write if self.attributes.iwarp => {
                ffi::IBV_ACCESS_LOCAL_WRITE | ffi::IBV_ACCESS_REMOTE_WRITE
            }
            Reach::Write => ffi::IBV_ACCESS_LOCAL_WRITE,
            Reach::Peer => {
                ffi::IBV_ACCESS_LOCAL_WRITE | ffi::IBV_ACCESS_REMOTE_WRITE | ffi::IBV_ACCESS_REMOTE_READ
            }
        };
        // SAFETY: a protection domain that is there, and memory as the caller promises.
        let mr = unsafe { (self.functions.ibv_reg_mr)(self.pd, at.cast_mut().cast(), len, access) };
        if mr.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(Region { device: Arc::clone(self), mr })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: all that was made in the domain holds the device, so it is empty; freed once.
        unsafe { (self.functions.ibv_dealloc_pd)(self.pd) };
        if self.removed.load(Ordering::Relaxed) {
            // SAFETY: the anchor, which is dropped after this, keeps the context; nothing of ours is left in it.
            unsafe { let_go(self.context) };
        }
    }
}

/// See [`Device::is_there`].
///
/// # Safety
/// A context that is there.
pub(crate) unsafe fn node_is_there(context: *mut ibv_context) -> bool {
    let mut about = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: a context that is there, as the caller promises, and room for what is asked.
    let asked = unsafe { libc::fstat((*context).cmd_fd, about.as_mut_ptr()) };
    // SAFETY: all zeroes is a value of it, and the call has filled it.
    asked != 0 || unsafe { about.assume_init() }.st_nlink > 0
}

/// Closes the files behind the context of a device that was removed, and leaves the numbers of its descriptors to librdmacm, which owns
/// the context: it closes them when it next looks for devices and finds others, but with none left in the machine it never does. A driver
/// that cannot take a device from those who have it open (soft-RoCE) waits with the removal until then.
///
/// # Safety
/// A context that librdmacm keeps for as long as this call takes; nothing but what librdmacm has itself is left in it.
pub(crate) unsafe fn let_go(context: *mut ibv_context) {
    // SAFETY: a name that ends in NUL.
    let nowhere = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if nowhere < 0 {
        return;
    }
    // SAFETY: a context that is there, as the caller promises.
    let (commands, events) = unsafe { ((*context).cmd_fd, (*context).async_fd) };
    for fd in [commands, events] {
        // SAFETY: a descriptor that is the context's, so nobody else's; what was behind it is closed, and what reads and writes it from
        // now on finds nothing.
        unsafe { libc::dup3(nowhere, fd, libc::O_CLOEXEC) };
    }
    // SAFETY: opened above, closed once.
    unsafe { libc::close(nowhere) };
}

/// What a device may do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Read it.
    Read,
    /// Write it, too.
    Write,
    /// Let the other side of a connection read and write it, by its key.
    Peer,
}

/// What a device reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A queue pair that failed or was closed takes no receive from the shared queue any more, and has completed those that
    /// it took.
    LastReceive {
        /// Its number.
        queue_pair: u32,
    },
    /// A queue pair failed.
    QueuePairFailed {
        /// Its number.
        queue_pair: u32,
    },
    /// The device failed.
    Fatal,
    /// A port has come up.
    PortUp {
        /// Its number, see [`Connection::port`](crate::Connection::port).
        port: u8,
    },
    /// A port has gone down.
    PortDown {
        /// Its number.
        port: u8,
    },
    /// Something else.
    Other(i32),
}

/// Registered memory.
pub struct Region {
    device: Arc<Device>,
    mr: *mut ibv_mr,
}

// SAFETY: as for `Device`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// First address, bytes, local key.
    pub fn place(&self) -> (usize, usize, u32) {
        // SAFETY: a region that is registered.
        let mr = unsafe { &*self.mr };
        (mr.addr.addr(), mr.length, mr.lkey)
    }

    /// The key by which the other side of a connection reaches it.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: a region that is registered.
        unsafe { &*self.mr }.rkey
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: registered by `register`, given back once. It fails only for regions with memory windows.
        unsafe { (self.device.functions.ibv_dereg_mr)(self.mr) };
    }
}
