//! Completion queues, shared receive queues, and the posting of work requests.

use crate::device::Device;
use crate::ffi::{self, ibv_recv_wr, ibv_send_wr, ibv_sge, ibv_wc};
use crate::make_nonblocking;
use caisson_rdma::receive::RecvWr;
use caisson_rdma::{Batch, Op, WcStatus};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// Marks the id of a receive among those of completions.
const RECEIVE: u64 = 1 << 63;

/// A completion queue with a channel of its own.
pub struct CompletionQueue {
    pub(crate) device: Arc<Device>,
    channel: NonNull<ffi::ibv_comp_channel>,
    pub(crate) cq: NonNull<ffi::ibv_cq>,
}

// SAFETY: verbs may be called from any thread on any object; the pointers are only changed by `drop`.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

/// A completion.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct Completion(ibv_wc);

impl Completion {
    /// The number of the queue pair.
    #[inline]
    pub fn queue_pair(&self) -> u32 {
        self.0.qp_num
    }

    /// Its receive, where it is one.
    #[inline]
    pub fn receive(&self) -> Option<u32> {
        (self.0.wr_id & RECEIVE != 0).then_some(self.0.wr_id as u32)
    }

    /// Its request of the send queue, where it is none of a receive.
    #[inline]
    pub fn send(&self) -> u64 {
        self.0.wr_id
    }

    /// Bytes received.
    #[inline]
    pub fn len(&self) -> u32 {
        self.0.byte_len
    }

    /// Whether no bytes were received.
    pub fn is_empty(&self) -> bool {
        self.0.byte_len == 0
    }

    /// What became of it (`enum ibv_wc_status`).
    #[inline]
    pub fn status(&self) -> WcStatus {
        match self.0.status {
            0 => WcStatus::Success,
            1 => WcStatus::Length,
            4 | 8 => WcStatus::LocalProtection,
            5 => WcStatus::Flushed,
            10 => WcStatus::RemoteAccess,
            9 | 11 => WcStatus::RemoteOperation,
            12 => WcStatus::Retries,
            13 => WcStatus::ReceiverNotReady,
            other => WcStatus::Other(other.unsigned_abs()),
        }
    }
}

impl CompletionQueue {
    /// A queue of at least `entries`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(device: &Arc<Device>, entries: u32) -> io::Result<Arc<CompletionQueue>> {
        let f = device.functions;
        // SAFETY: an open context.
        let channel = unsafe { (f.ibv_create_comp_channel)(device.context) };
        let channel = NonNull::new(channel).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: just made.
        let made = make_nonblocking(unsafe { channel.as_ref() }.fd).and_then(|()| {
            // SAFETY: an open context, and a channel of it; vector 0 is always there.
            let cq = unsafe {
                (f.ibv_create_cq)(device.context, entries as libc::c_int, null_mut(), channel.as_ptr(), 0)
            };
            NonNull::new(cq).ok_or_else(io::Error::last_os_error)
        });
        match made {
            Ok(cq) => Ok(Arc::new(CompletionQueue { device: Arc::clone(device), channel, cq })),
            Err(e) => {
                // SAFETY: just made, and nothing hangs on it.
                unsafe { (f.ibv_destroy_comp_channel)(channel.as_ptr()) };
                Err(e)
            }
        }
    }

    /// Takes completions, and says how many.
    ///
    /// # Errors
    /// The device's; the queue is then of no use any more.
    #[inline]
    pub fn poll(&self, into: &mut [Completion]) -> io::Result<usize> {
        let most = into.len().min(i32::MAX as usize) as libc::c_int;
        // SAFETY: a queue that is there, and room for `most`: a Completion is an ibv_wc.
        let n = unsafe {
            let context = self.cq.as_ref().context;
            ((*context).ops.poll_cq)(self.cq.as_ptr(), most, into.as_mut_ptr().cast())
        };
        usize::try_from(n).map_err(|_| io::Error::other("the completion queue has failed"))
    }

    /// Has the channel become readable with the next completion. What came before may not be told: poll once more.
    ///
    /// # Errors
    /// The device's.
    pub fn arm(&self) -> io::Result<()> {
        // SAFETY: a queue that is there.
        let result = unsafe {
            let context = self.cq.as_ref().context;
            ((*context).ops.req_notify_cq)(self.cq.as_ptr(), 0)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result.abs())) }
    }

    /// Takes what the channel has told, so that it is no longer readable; whether it had told anything.
    pub fn silence(&self) -> bool {
        let f = self.device.functions;
        let (mut cq, mut context) = (null_mut(), null_mut());
        // Once: what is armed once tells once.
        // SAFETY: a channel that is there and does not block, and room for what it says.
        let told = unsafe { (f.ibv_get_cq_event)(self.channel.as_ptr(), &mut cq, &mut context) } == 0;
        if told {
            // SAFETY: the one that was taken, of the one queue of the channel.
            unsafe { (f.ibv_ack_cq_events)(self.cq.as_ptr(), 1) };
        }
        told
    }

    /// The channel's descriptor.
    pub fn fd(&self) -> RawFd {
        // SAFETY: a channel that is there.
        unsafe { self.channel.as_ref() }.fd
    }

    /// The same, borrowed.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open for as long as the channel is there.
        unsafe { BorrowedFd::borrow_raw(self.fd()) }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        let f = self.device.functions;
        // SAFETY: queue pairs hold the queue, so none is left; events are acknowledged as they are taken; each once.
        unsafe {
            (f.ibv_destroy_cq)(self.cq.as_ptr());
            (f.ibv_destroy_comp_channel)(self.channel.as_ptr());
        }
    }
}

/// Memory for lists of requests, kept for its capacity.
#[derive(Default)]
pub struct Scratch {
    sends: Vec<ibv_send_wr>,
    receives: Vec<ibv_recv_wr>,
    sges: Vec<ibv_sge>,
}

// SAFETY: the pointers in it are made and used within one call each.
unsafe impl Send for Scratch {}

/// The device did not take the last `requests` of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How many.
    pub requests: usize,
    /// Why.
    pub errno: i32,
}

/// A shared receive queue.
pub struct ReceiveQueue {
    device: Arc<Device>,
    pub(crate) srq: NonNull<ffi::ibv_srq>,
}

// SAFETY: as for `CompletionQueue`.
unsafe impl Send for ReceiveQueue {}
// SAFETY: as above.
unsafe impl Sync for ReceiveQueue {}

impl ReceiveQueue {
    /// A queue of `entries`, each with a list of two.
    ///
    /// # Errors
    /// The system's.
    pub fn new(device: &Arc<Device>, entries: u32) -> io::Result<Arc<ReceiveQueue>> {
        let mut attr =
            ffi::ibv_srq_init_attr { srq_context: null_mut(), max_wr: entries, max_sge: 2, srq_limit: 0 };
        // SAFETY: a protection domain that is there.
        let srq = unsafe { (device.functions.ibv_create_srq)(device.pd, &mut attr) };
        let srq = NonNull::new(srq).ok_or_else(io::Error::last_os_error)?;
        Ok(Arc::new(ReceiveQueue { device: Arc::clone(device), srq }))
    }

    /// Posts receives, in order.
    ///
    /// # Errors
    /// The device's, and which it did not take.
    ///
    /// # Safety
    /// What the lists name is registered, nobody touches it before the receive has completed or the queue is destroyed, and
    /// it stays there until then.
    pub unsafe fn post(&self, wrs: &[RecvWr], scratch: &mut Scratch) -> Result<(), Refused> {
        if wrs.is_empty() {
            return Ok(());
        }
        scratch.receives.clear();
        scratch.sges.clear();
        let of = |s: &caisson_rdma::Sge| ibv_sge { addr: s.at, length: s.len, lkey: s.key };
        scratch.sges.extend(wrs.iter().flat_map(|w| w.sges.iter().map(of)));
        scratch.receives.extend(wrs.iter().map(|w| ibv_recv_wr {
            wr_id: RECEIVE | u64::from(w.id),
            next: null_mut(),
            sg_list: null_mut(),
            num_sge: 2,
        }));
        let (list, sges) = (scratch.receives.as_mut_ptr(), scratch.sges.as_mut_ptr());
        for n in 0..wrs.len() {
            // SAFETY: n is inside the list, and two entries for each inside the other.
            unsafe {
                (*list.add(n)).sg_list = sges.add(n * 2);
                if n + 1 < wrs.len() {
                    (*list.add(n)).next = list.add(n + 1);
                }
            }
        }
        let mut bad = null_mut();
        // SAFETY: a queue that is there; the lists live through the call, and what they name as the caller promises.
        let result = unsafe {
            let context = self.srq.as_ref().context;
            ((*context).ops.post_srq_recv)(self.srq.as_ptr(), list, &mut bad)
        };
        if result == 0 {
            return Ok(());
        }
        // SAFETY: `bad` is the first that was not taken: one of the list.
        let taken = if bad.is_null() { 0 } else { unsafe { bad.offset_from(list) }.max(0) as usize };
        Err(Refused { requests: wrs.len() - taken.min(wrs.len()), errno: result.abs() })
    }
}

impl Drop for ReceiveQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold the queue, so none is left; once.
        unsafe { (self.device.functions.ibv_destroy_srq)(self.srq.as_ptr()) };
    }
}

/// Posts a batch to `qp`.
///
/// # Errors
/// The device's, and which requests it did not take.
///
/// # Safety
/// The queue pair is there. What the lists name is registered and stays there and as the requests need it (not written while
/// it is read, not touched while it is written) until the completion that covers the request.
pub(crate) unsafe fn post_sends(
    qp: *mut ffi::ibv_qp,
    batch: &Batch,
    scratch: &mut Scratch,
) -> Result<(), Refused> {
    let n = batch.wrs.len();
    if n == 0 {
        return Ok(());
    }
    scratch.sends.clear();
    scratch.sges.clear();
    scratch.sges.extend(batch.sges.iter().map(|s| ibv_sge { addr: s.at, length: s.len, lkey: s.key }));
    // Room for the entries of inline responses behind the others, so that nothing moves any more.
    scratch.sges.reserve(n);
    for wr in &batch.wrs {
        let mut out = ibv_send_wr {
            wr_id: wr.id,
            next: null_mut(),
            sg_list: null_mut(),
            num_sge: wr.sges as libc::c_int,
            opcode: ffi::IBV_WR_SEND,
            send_flags: if wr.signaled { ffi::IBV_SEND_SIGNALED } else { 0 },
            invalidate_rkey: 0,
            remote_addr: 0,
            rkey: 0,
            rest: [0; 9],
        };
        let mut first = wr.first as usize;
        match &wr.op {
            Op::Read { address, key } => {
                (out.opcode, out.remote_addr, out.rkey) = (ffi::IBV_WR_RDMA_READ, *address, *key);
            }
            Op::Write { address, key } => {
                (out.opcode, out.remote_addr, out.rkey) = (ffi::IBV_WR_RDMA_WRITE, *address, *key);
            }
            Op::Send { inline, invalidate } => {
                if let Some(key) = invalidate {
                    (out.opcode, out.invalidate_rkey) = (ffi::IBV_WR_SEND_WITH_INV, *key);
                    // Where rdma-core's library for soft-iWARP looks for it; a SEND has no other use for it.
                    out.rkey = *key;
                }
                if wr.sges == 0 {
                    // Copied by the call that posts, so the batch may go after it.
                    first = scratch.sges.len();
                    let at = inline.as_ptr().expose_provenance() as u64;
                    scratch.sges.push(ibv_sge { addr: at, length: inline.len() as u32, lkey: 0 });
                    out.num_sge = 1;
                    out.send_flags |= ffi::IBV_SEND_INLINE;
                }
            }
        }
        // SAFETY: inside the vector, which has room for all that is still to come and so does not move.
        out.sg_list = unsafe { scratch.sges.as_mut_ptr().add(first) };
        scratch.sends.push(out);
    }
    let list = scratch.sends.as_mut_ptr();
    for at in 1..n {
        // SAFETY: both inside the list.
        unsafe { (*list.add(at - 1)).next = list.add(at) };
    }
    let mut bad = null_mut();
    // SAFETY: a queue pair that is there; the lists live through the call, and what they name as the caller promises.
    let result = unsafe { ((*(*qp).context).ops.post_send)(qp, list, &mut bad) };
    if result == 0 {
        return Ok(());
    }
    // SAFETY: `bad` is the first that was not taken: one of the list.
    let taken = if bad.is_null() { 0 } else { unsafe { bad.offset_from(list) }.max(0) as usize };
    Err(Refused { requests: n - taken.min(n), errno: result.abs() })
}
