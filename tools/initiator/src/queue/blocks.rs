//! A queue's commands over RDMA: each has a block of registered memory that its descriptor names.
//!
//! Blocks are made as they are needed and used again; a command that is gone has the target reach nothing of it once its block
//! is given up. For commands one at a time, not for speed: the load generator has memory of its own.

use super::{Data, Pending, State};
use crate::error::{Error, Result};
use crate::net::Address;
use crate::transport::Rdma;
use caisson_verbs::host::Memory;
use caisson_wire::{Sgl, SglKind, Sqe};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Blocks kept for later.
const SPARE: usize = 64;
/// The smallest block.
const LEAST: usize = 4096;

/// A queue pair and its blocks.
pub(super) struct Blocks {
    rdma: Rdma,
    spare: Vec<Arc<Memory>>,
}

impl Blocks {
    pub(super) fn open(address: &Address, qid: u16, entries: u32, timeout: Duration) -> Result<Blocks> {
        let rdma = Rdma::open(address, qid, entries.clamp(2, 0xffff) as u16, timeout)?;
        Ok(Blocks { rdma, spare: Vec::new() })
    }

    pub(super) fn into_rdma(self) -> Box<Rdma> {
        Box::new(self.rdma)
    }

    /// A block of `len` bytes or more.
    fn block(&mut self, len: usize) -> Result<Arc<Memory>> {
        let fits = |m: &Arc<Memory>| m.len() >= len && m.len() <= len.max(LEAST) * 4;
        match self.spare.iter().position(fits) {
            Some(at) => Ok(self.spare.swap_remove(at)),
            None => self.rdma.memory(len.next_power_of_two().max(LEAST)),
        }
    }

    fn give_back(&mut self, block: Arc<Memory>) {
        // One that a SEND still holds is not used again.
        if self.spare.len() < SPARE && Arc::strong_count(&block) == 1 {
            self.spare.push(block);
        }
    }

    /// A block that holds `bytes`.
    fn holding(&mut self, bytes: &[u8]) -> Result<Arc<Memory>> {
        let block = self.block(bytes.len())?;
        block.write(0, bytes);
        Ok(block)
    }

    /// Makes the capsule of a command, and says what is outstanding then.
    pub(super) fn command(
        &mut self,
        mut sqe: Sqe,
        data: Data,
        in_capsule: u32,
        timeout: Duration,
        state: &mut State,
    ) -> Result<Pending> {
        let mut pending = Pending::default();
        let mut inside = None;
        let keyed = |m: &Memory, len: usize| Sgl::keyed(m.address(), len as u32, m.key(), false);
        match data {
            Data::None => sqe.sgl = Sgl::keyed(0, 0, 0, false),
            Data::In(len) => {
                let block = self.holding(&vec![0; len as usize])?;
                sqe.sgl = keyed(&block, len as usize);
                (pending.limit, pending.block) = (len, Some(block));
            }
            Data::Out(bytes) if !bytes.is_empty() && bytes.len() <= in_capsule as usize => {
                sqe.sgl = Sgl::in_capsule(0, bytes.len() as u32);
                inside = Some((self.holding(&bytes)?, bytes.len()));
            }
            Data::Out(bytes) | Data::OutAsked(bytes) => {
                let block = self.holding(&bytes)?;
                sqe.sgl = keyed(&block, bytes.len());
                pending.block = Some(block);
            }
            Data::Raw { capsule, asked, incoming } => {
                if !capsule.is_empty() {
                    inside = Some((self.holding(&capsule)?, capsule.len()));
                }
                // What over TCP is left to the transport, over RDMA names the host's memory; of other descriptors it is left
                // to the caller what they name. A length beyond the block is a lie that the target must not believe.
                if sqe.sgl.kind() == SglKind::TransportDataBlock {
                    let mut bytes = asked;
                    bytes.resize(bytes.len().max(incoming as usize), 0);
                    let block = self.holding(&bytes)?;
                    let len = sqe.sgl.length.get().min(0xff_ffff);
                    sqe.sgl = keyed(&block, len as usize);
                    (pending.limit, pending.block) = (incoming, Some(block));
                }
            }
        }
        let deadline = Instant::now() + timeout;
        let part = inside.as_ref().map(|(block, len)| (block, 0, *len));
        while !self.rdma.command(&sqe, part) {
            self.rdma.flush()?;
            if !self.poll_until(deadline, state)? {
                return Err(Error::Timeout { what: "room to send".into(), after: timeout });
            }
        }
        if let Some((block, _)) = inside {
            pending.block = pending.block.or(Some(block));
        }
        Ok(pending)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.rdma.flush().map(drop)
    }

    /// Waits until `deadline` for responses, and takes those that came; `false` when the time is over.
    pub(super) fn poll_until(&mut self, deadline: Instant, state: &mut State) -> Result<bool> {
        if !self.rdma.wait(deadline)? {
            return Ok(false);
        }
        self.rdma.receive()?;
        for message in std::mem::take(&mut self.rdma.came) {
            let cqe = Rdma::response(&message)?;
            let pending = state.pending(cqe.cid.get())?;
            if let Some(block) = pending.block.take() {
                if pending.limit > 0 && cqe.status().is_success() {
                    // How much of it the target wrote nobody says: it has to be all.
                    pending.data = vec![0; (pending.limit as usize).min(block.len())];
                    block.read(0, &mut pending.data);
                }
                self.give_back(block);
            }
            crate::transport::Sink::done(state, &cqe, false)?;
        }
        Ok(true)
    }
}
