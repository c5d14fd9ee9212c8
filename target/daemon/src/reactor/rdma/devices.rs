//! The devices that connections came by: what is registered with each, and what each thread has of it.

use super::port::{Port, Table};
use caisson_block::{Buf, Pages, Pin, Pool, offered};
use caisson_rdma::{Memory, Receives, Regions};
use caisson_verbs::{CompletionQueue, Device, Reach, ReceiveQueue, Region, Scratch};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

/// Receives of one thread, over all of a device's connections. More capsules at once wait at their hosts.
const RECEIVES: u32 = 1024;
/// The same with iWARP, where a message that finds no receive is not repeated but ends its connection: hosts are let have no more on
/// their way, but for some that are about to be posted again.
const IWARP_RECEIVES: u32 = 4096;
const ABOUT_TO_BE_POSTED: u32 = 256;
/// Entries of one thread's completion queue for sends: what the send queues of its connections may complete at once.
const COMPLETIONS: u32 = 32 * 1024;
/// The part of what is left of it that one connection may have, and what it has at least: with less, its requests wait for one another,
/// and many deep queues do not keep others out.
const SHARE: u32 = 32;
const LEAST_SENDS: u32 = 32;
/// Transfer buffers of one thread: 4, 8 and 20 MiB.
const TRANSFERS: [u32; 3] = [1024, 512, 160];
/// Buffers for responses of one thread, where the device does not send them inline.
const RESPONSES: u32 = 4096;
/// The most bytes of the process's pools that are registered with a device, and so locked in memory. Data of pools beyond it
/// is copied.
pub(super) const REGISTERED: usize = 2 << 30;

/// One thread's part, as the control thread keeps it.
pub(super) struct ThreadPart {
    pub(super) sends: Arc<CompletionQueue>,
    pub(super) receives: Arc<CompletionQueue>,
    pub(super) srq: Arc<ReceiveQueue>,
    /// Completions that may still be promised.
    pub(super) room: u32,
    /// Commands that hosts may still be let have on their way.
    pub(super) receives_left: u32,
    /// Its buffers' registrations.
    regions: Vec<Region>,
    /// Kept while they are registered.
    pools: Vec<Pool>,
}

impl ThreadPart {
    /// How many work requests the send queue of a connection may have that wants `want`; none where there is no room for it.
    pub(super) fn sends_for(&self, want: u32) -> Option<u32> {
        let most = (self.room / SHARE).max(LEAST_SENDS);
        Some(want.min(most)).filter(|&n| n <= self.room)
    }
}

/// A device in use.
pub(super) struct InUse {
    pub(super) device: Arc<Device>,
    /// In the order of the threads.
    pub(super) parts: Vec<Option<ThreadPart>>,
    table: Arc<Table>,
    /// What blocks without data are read from.
    zeroes: Option<Region>,
    /// Registered pools of the process. The registration goes before the pin.
    offered: Vec<(Region, Pin)>,
    registered: usize,
    /// It was said that not all is registered.
    told: bool,
    /// It has gone: how many threads still have a part of it.
    pub(super) leaving: Option<usize>,
}

fn register(device: &Arc<Device>, pool: &Pool) -> io::Result<Region> {
    let (at, len) = pool.memory();
    // SAFETY: a pool's memory stays mapped while the pool is there, and whoever calls this keeps it for longer than the
    // region. Its pages stay in place: the thread's own pools are never trimmed, the process's are pinned.
    unsafe { device.register(at, len, Reach::Write) }
}

impl InUse {
    pub(super) fn new(device: Arc<Device>, threads: usize) -> InUse {
        let a = device.attributes();
        tracing::info!(
            device = a.name,
            reads = a.reads,
            entries = a.sges,
            receives = a.receives,
            invalidate = a.invalidate,
            "RDMA device in use"
        );
        let zeroes = Buf::zeroes(usize::MAX);
        // SAFETY: memory of the program, which is never unmapped nor written.
        let zeroes = unsafe { device.register(zeroes.as_ptr(), zeroes.len(), Reach::Read) };
        if let Err(error) = &zeroes {
            tracing::debug!(%error, "blocks of zeroes are copied");
        }
        InUse {
            zeroes: zeroes.ok(),
            device,
            parts: (0..threads).map(|_| None).collect(),
            table: Arc::default(),
            offered: Vec::new(),
            registered: 0,
            told: false,
            leaving: None,
        }
    }

    /// Registers what pools of the process there are now, and gives up those that nobody uses any more.
    pub(super) fn sync(&mut self) {
        let before = self.offered.len();
        self.offered.retain(|(_, pin)| !pin.forgotten() || pin.pool().in_use() > 0);
        let mut changed = before != self.offered.len();
        self.registered = self.offered.iter().map(|(region, _)| region.place().1).sum();
        let known: HashSet<*const u8> = self.offered.iter().map(|(_, pin)| pin.pool().memory().0).collect();
        for pool in offered::pools().1 {
            let (at, len) = pool.memory();
            if known.contains(&at) {
                continue;
            }
            let registered = if self.registered + len > REGISTERED {
                Err(io::Error::other("the bound of registered memory is reached"))
            } else {
                let pin = pool.pin();
                register(&self.device, &pool).map(|region| (region, pin))
            };
            match registered {
                Ok(both) => {
                    self.registered += len;
                    self.offered.push(both);
                    changed = true;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        tracing::warn!(
                            %error,
                            bytes = len,
                            "memory cannot be registered with the RDMA device, so its data is copied: see the limit of locked \
                             memory (ulimit -l)"
                        );
                    }
                }
            }
        }
        if changed {
            self.publish();
        }
    }

    /// Bytes of the threads' buffers, in the order of [`Pages::ALL`].
    pub(super) fn pages(&self) -> [u64; Pages::ALL.len()] {
        let pools = || self.parts.iter().flatten().flat_map(|p| &p.pools);
        Pages::ALL.map(|of| pools().filter(|p| p.pages() == of).map(|p| p.memory().1 as u64).sum())
    }

    fn publish(&self) {
        let own = self.parts.iter().flatten().flat_map(|p| &p.regions);
        let all = own.chain(self.offered.iter().map(|(region, _)| region)).chain(&self.zeroes);
        self.table.publish(Regions::new(all.map(Region::place)));
    }

    /// Makes the part of thread `at`.
    ///
    /// # Errors
    /// The system's: memory, its lock limit, or the device's limits.
    pub(super) fn part(&mut self, at: usize, in_capsule: usize) -> io::Result<Box<Port>> {
        let a = self.device.attributes();
        let receives = if a.iwarp { IWARP_RECEIVES } else { RECEIVES };
        let receives = Receives::new(receives.min(a.receives).max(1), in_capsule)?;
        let receives_left =
            if a.iwarp { receives.len().saturating_sub(ABOUT_TO_BE_POSTED) } else { u32::MAX };
        let memory = Memory::new(TRANSFERS, RESPONSES)?;
        let pools: Vec<Pool> = memory.pools().chain(receives.pools()).cloned().collect();
        let regions = pools.iter().map(|p| register(&self.device, p)).collect::<io::Result<Vec<_>>>()?;
        let entries = COMPLETIONS.min(a.completions);
        let sends = CompletionQueue::new(&self.device, entries)?;
        let received = CompletionQueue::new(&self.device, receives.len())?;
        let srq = ReceiveQueue::new(&self.device, receives.len())?;
        let mut port = Port::new(
            self.device.key(),
            [Arc::clone(&sends), Arc::clone(&received)],
            Arc::clone(&srq),
            receives,
            memory,
            Arc::clone(&self.table),
        );
        self.parts[at] =
            Some(ThreadPart { sends, receives: received, srq, room: entries, receives_left, regions, pools });
        self.publish();
        // Before anybody is accepted, whose first message may come before the thread has woken up.
        port.renew();
        port.fill(&mut Scratch::default());
        let [huge, transparent, usual] = self.pages();
        tracing::info!(
            device = self.device.attributes().name,
            thread = at,
            huge,
            transparent,
            usual,
            "RDMA buffers, in bytes by their pages"
        );
        Ok(Box::new(port))
    }
}
