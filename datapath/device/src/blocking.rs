//! One device operation as one system call that blocks: for threads that may wait.

use caisson_block::{IoKind, IoOp};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use std::io::IoSlice;

/// The most buffers that the kernel takes in one call (IOV_MAX); what is beyond is a short transfer.
const MAX_VECTORS: usize = 1024;

/// Does what `op` says. The number of bytes moved, which may be fewer than asked for, or the errno.
///
/// # Errors
/// The errno of the call.
pub fn execute(op: &mut IoOp) -> Result<u32, i32> {
    execute_part(op, usize::MAX)
}

/// As [`execute`], of a read or write no more than the first `most` bytes: a short transfer, like those of devices.
///
/// # Errors
/// The errno of the call.
pub fn execute_part(op: &mut IoOp, most: usize) -> Result<u32, i32> {
    let moved = match op.kind {
        IoKind::Read => return read(op, most),
        IoKind::Write { dsync } => {
            let vectors: Vec<IoSlice<'_>> = first(op, most).map(IoSlice::new).collect();
            let flags = if dsync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            rustix::io::pwritev2(&*op.file, &vectors, op.offset, flags)
        }
        IoKind::Sync => rustix::fs::fdatasync(&*op.file).map(|()| 0),
        IoKind::PunchHole { len } => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&*op.file, flags, op.offset, len).map(|()| 0)
        }
        IoKind::ZeroRange { len } => {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&*op.file, flags, op.offset, len).map(|()| 0)
        }
    };
    moved.map(|n| n as u32).map_err(Errno::raw_os_error)
}

/// The buffers of the first `most` bytes, as far as one call takes them.
fn first(op: &IoOp, most: usize) -> impl Iterator<Item = &[u8]> {
    let mut left = most;
    op.bufs.parts().iter().take(MAX_VECTORS).map_while(move |part| {
        let n = part.len().min(left);
        left -= n;
        (n > 0).then(|| &part[..n])
    })
}

fn read(op: &mut IoOp, most: usize) -> Result<u32, i32> {
    use std::os::fd::AsRawFd;
    let vectors: Vec<libc::iovec> = first(op, most)
        .map(|p| libc::iovec { iov_base: p.as_ptr().cast_mut().cast(), iov_len: p.len() })
        .collect();
    let offset = libc::off_t::try_from(op.offset).map_err(|_| libc::EINVAL)?;
    // SAFETY: each vector is the memory of a buffer that the operation owns; that its owner made it from a BufMut and
    // that nobody looks at it until the operation is over is the contract of IoOp.
    let n = unsafe { libc::preadv(op.file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, offset) };
    u32::try_from(n).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
