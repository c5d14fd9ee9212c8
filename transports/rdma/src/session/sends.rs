//! The send queue: what was posted in which order, and what each request lets the device reach.
//!
//! An entry holds the buffers of its request. They leave it only when the request is over ([`SendQueue::over`]) or was
//! never given to the device ([`SendQueue::take_back`]).

use super::{Config, Env};
use crate::memory::Keys;
use crate::place::Remote;
use crate::work::{Batch, Op, Sge, Wr};
use caisson_block::{Buf, BufList, Completions};
use caisson_wire::Cqe;
use caisson_wire::zerocopy::IntoBytes;
use std::collections::VecDeque;

/// What a request holds for the device.
pub enum Held {
    /// RDMA READ: the part of a command's data that the device writes to. Nobody looks at it before it is over.
    Read { slot: u32, part: BufList },
    /// RDMA WRITE: what it reads is held by the SEND behind it.
    Write,
    /// SEND: the data of the RDMA WRITEs before it, and behind it the response where that is not inline;
    /// and how many bytes of data that is.
    Send { data: BufList, bytes: usize },
    /// Nothing any more: it is over, and an older RDMA READ is not.
    Over,
}

impl Held {
    /// Its name.
    pub fn what(&self) -> &'static str {
        match self {
            Held::Read { .. } => "RDMA READ",
            Held::Write => "RDMA WRITE",
            Held::Send { .. } => "SEND",
            Held::Over => "a request that is over",
        }
    }
}

/// The posted and the about-to-be-posted requests of one queue pair, oldest first.
#[derive(Default)]
pub struct SendQueue {
    entries: VecDeque<Held>,
    /// The id of the oldest.
    head: u64,
    /// SENDs among them, and RDMA READs.
    sends: u32,
    reads: u32,
}

impl SendQueue {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether `id` is, or was, a request of this queue.
    pub fn knows(&self, id: u64) -> bool {
        id < self.head + self.entries.len() as u64
    }

    /// The next request that the completion of `id` says is over, oldest first, and whether it is `id` itself, which comes last;
    /// `None` once there are no more. Where the device does not keep them `in_order`, RDMA READs and the others say nothing of one
    /// another.
    pub fn over(&mut self, id: u64, in_order: bool) -> Option<(Held, bool)> {
        let at = usize::try_from(id.checked_sub(self.head)?).ok()?;
        if in_order {
            let held = self.entries.pop_front()?;
            self.head += 1;
            return Some((self.forget(held), at == 0));
        }
        let next = match self.entries.get(at)? {
            Held::Over => return None,
            Held::Read { .. } => at,
            _ => self.entries.iter().position(|held| !matches!(held, Held::Read { .. } | Held::Over))?,
        };
        let held = std::mem::replace(&mut self.entries[next], Held::Over);
        while matches!(self.entries.front(), Some(Held::Over)) {
            self.entries.pop_front();
            self.head += 1;
        }
        Some((self.forget(held), next == at))
    }

    /// Counts it no more.
    #[inline]
    fn forget(&mut self, held: Held) -> Held {
        self.sends -= u32::from(matches!(held, Held::Send { .. }));
        self.reads -= u32::from(matches!(held, Held::Read { .. }));
        held
    }

    /// The newest `n` requests were never given to the device.
    pub fn take_back(&mut self, n: usize, spare: &mut Completions) {
        for _ in 0..n {
            match self.entries.pop_back() {
                Some(Held::Read { part, .. }) => {
                    self.reads -= 1;
                    spare.recycle(part);
                }
                Some(Held::Send { data, .. }) => {
                    self.sends -= 1;
                    spare.recycle(data);
                }
                Some(Held::Write | Held::Over) | None => {}
            }
        }
    }

    /// RDMA READs among them.
    pub fn reads(&self) -> u32 {
        self.reads
    }

    fn room(&self, config: &Config) -> usize {
        (config.send_wrs as usize).saturating_sub(self.entries.len())
    }

    fn push(&mut self, held: Held, op: Op, first: usize, signaled: bool, batch: &mut Batch) {
        let id = self.head + self.entries.len() as u64;
        self.sends += u32::from(matches!(held, Held::Send { .. }));
        self.reads += u32::from(matches!(held, Held::Read { .. }));
        self.entries.push_back(held);
        let sges = (batch.sges.len() - first) as u32;
        batch.wrs.push(Wr { id, op, first: first as u32, sges, signaled });
    }

    /// Makes the RDMA READs for `want` bytes of `remote`, and says how many; `None` without buffers or room, nothing made.
    pub fn fetch(
        &mut self,
        config: &Config,
        slot: u32,
        want: u32,
        remote: &Remote,
        env: &mut Env<'_>,
        batch: &mut Batch,
    ) -> Option<u32> {
        let per = (config.read_sges as usize).max(1);
        // What it takes at worst, when the buffers are not known yet.
        if self.room(config) == 0 {
            return None;
        }
        let mut all = env.spare.list();
        if !env.memory.take(want as usize, &mut all) {
            env.spare.recycle(all);
            return None;
        }
        if all.parts().len().div_ceil(per) > self.room(config) {
            env.spare.recycle(all);
            return None;
        }
        let (mut reads, mut address) = (0, remote.address);
        while !all.is_empty() {
            let len: usize = all.parts().iter().take(per).map(|p| p.len()).sum();
            // The usual case is one request for all of it, whose list is handed on as it is.
            let part = if len == all.len() { std::mem::take(&mut all) } else { all.split_to(len) };
            let first = batch.sges.len();
            batch.sges.extend(part.parts().iter().map(|p| sge(p, env.keys)));
            let op = Op::Read { address, key: remote.key };
            self.push(Held::Read { slot, part }, op, first, true, batch);
            address += len as u64;
            reads += 1;
        }
        Some(reads)
    }

    /// Makes the RDMA WRITEs of `data` and the SEND of `cqe`; `false` without buffers, room, or credit, nothing made and
    /// `data` as it was but for parts that now lie in registered memory.
    pub fn respond(
        &mut self,
        config: &Config,
        cqe: Cqe,
        data: &mut BufList,
        remote: &Remote,
        env: &mut Env<'_>,
        batch: &mut Batch,
    ) -> bool {
        if self.sends >= u32::from(config.responses) || !registered(data, env) {
            return false;
        }
        let per = (config.send_sges as usize).max(1);
        if data.parts().len().div_ceil(per) + 1 > self.room(config) {
            return false;
        }
        let mut inline = [0; 16];
        inline.copy_from_slice(cqe.as_bytes());
        let invalidate = (remote.invalidate && config.invalidate).then_some(remote.key);
        let response = if config.inline && !(config.iwarp && invalidate.is_some()) {
            None
        } else {
            let Some(mut buf) = env.memory.small.alloc() else { return false };
            buf.truncate(inline.len());
            buf.copy_from_slice(&inline);
            Some(buf.freeze())
        };
        let mut address = remote.address;
        for parts in data.parts().chunks(per) {
            let first = batch.sges.len();
            batch.sges.extend(parts.iter().map(|p| sge(p, env.keys)));
            let op = Op::Write { address, key: remote.key };
            self.push(Held::Write, op, first, config.iwarp, batch);
            address += parts.iter().map(|p| p.len() as u64).sum::<u64>();
        }
        let first = batch.sges.len();
        batch.sges.extend(response.iter().map(|p| sge(p, env.keys)));
        let op = Op::Send { inline, invalidate };
        let bytes = data.len();
        response.into_iter().for_each(|r| data.push(r));
        self.push(Held::Send { data: std::mem::take(data), bytes }, op, first, false, batch);
        true
    }
}

/// The list entry for a buffer of registered memory.
#[inline]
fn sge(part: &Buf, keys: &dyn Keys) -> Sge {
    let key = keys.key(part.as_ptr(), part.len());
    debug_assert!(key.is_some(), "a buffer that is not registered");
    // Key 0 is nobody's: the device refuses it, and the connection ends.
    Sge { at: part.as_ptr().addr() as u64, len: part.len() as u32, key: key.unwrap_or(0) }
}

/// Sees to it that all of `data` is registered, copying it where some is not; `false` when there are no buffers for that.
fn registered(data: &mut BufList, env: &Env<'_>) -> bool {
    data.parts().iter().all(|p| env.keys.key(p.as_ptr(), p.len()).is_some()) || env.memory.copy(data)
}
