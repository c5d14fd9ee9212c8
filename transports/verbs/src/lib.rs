//! RDMA devices and the connection manager, through rdma-core, which is loaded when it is first needed ([`load`]).
//!
//! A thin module: it owns the handles, sees to it that each is given back once and after all that hangs on it, and turns
//! [`caisson_rdma`]'s work requests into the device's. All `unsafe` of the RDMA transport is in here. What it cannot check is
//! that memory which work requests name stays there until they are over: whoever posts promises that.

pub mod cm;
pub mod device;
pub mod ffi;
pub mod host;
mod load;
mod queue;

pub use cm::{Channel, CmEvent, CmKind, Connection, Farewell, Incoming, Listener, Outgoing, QueuePair};
pub use device::{Attributes, Device, DeviceEvent, Reach, Region};
pub use host::HostQueue;
pub use load::Unavailable;
pub use queue::{Completion, CompletionQueue, ReceiveQueue, Refused, Scratch};

use std::io;
use std::os::fd::RawFd;

/// The errno of the last call.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// What a call that returns 0 or -1 came to.
fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has reads of a descriptor return instead of waiting.
fn make_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl on a descriptor that its owner keeps open touches no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
