//! Work requests as a session makes them, and what completions say. Plain values: whoever runs the session turns them into
//! the device's own.

/// A run of memory that the device may reach. `at` is an address of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sge {
    /// Address.
    pub at: u64,
    /// Bytes.
    pub len: u32,
    /// The local key of the region that it lies in.
    pub key: u32,
}

/// What a work request of the send queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// RDMA READ: from the host's memory into the list.
    Read {
        /// The host's address.
        address: u64,
        /// The host's key.
        key: u32,
    },
    /// RDMA WRITE: from the list into the host's memory.
    Write {
        /// The host's address.
        address: u64,
        /// The host's key.
        key: u32,
    },
    /// SEND of a response capsule: of the list, or of `inline` where that is empty. With `invalidate`, the host's device
    /// invalidates that key on receipt (SEND with Invalidate).
    Send {
        /// The response capsule.
        inline: [u8; 16],
        /// The key to invalidate.
        invalidate: Option<u32>,
    },
}

/// One work request of a send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wr {
    /// Comes back in its completion.
    pub id: u64,
    /// What to do.
    pub op: Op,
    /// Where its list starts in [`Batch::sges`].
    pub first: u32,
    /// Entries of its list.
    pub sges: u32,
    /// Whether a completion is wanted where it succeeds. Failures always have one.
    pub signaled: bool,
}

/// Work requests to be posted together, in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// The requests.
    pub wrs: Vec<Wr>,
    /// Their lists.
    pub sges: Vec<Sge>,
}

impl Batch {
    /// Whether there is nothing to post.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.wrs.is_empty()
    }

    /// Empties it, keeping its capacity.
    #[inline]
    pub fn clear(&mut self) {
        self.wrs.clear();
        self.sges.clear();
    }

    /// The list of one of its requests.
    #[inline]
    pub fn list(&self, wr: &Wr) -> &[Sge] {
        &self.sges[wr.first as usize..(wr.first + wr.sges) as usize]
    }
}

/// What became of a work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WcStatus {
    /// It is done.
    #[error("success")]
    Success,
    /// It was not begun or not finished, because the queue pair had failed or was being closed.
    #[error("flushed")]
    Flushed,
    /// A message was longer than its buffer.
    #[error("a message longer than its buffer")]
    Length,
    /// Our own memory or key is not as it says: a fault of ours or of the device.
    #[error("a local protection fault")]
    LocalProtection,
    /// The host refuses access to its memory: a bad key, or a range outside of the region.
    #[error("the host's memory refuses access: a bad key or range")]
    RemoteAccess,
    /// The host's device finds the request wrong, or could not do it.
    #[error("the host's device refuses the request")]
    RemoteOperation,
    /// The host did not acknowledge in time.
    #[error("no answer from the host: retries exceeded")]
    Retries,
    /// The host had no receive buffer for a response.
    #[error("the host has no receive buffer: RNR retries exceeded")]
    ReceiverNotReady,
    /// Anything else.
    #[error("device error {0}")]
    Other(u32),
}
