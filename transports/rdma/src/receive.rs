//! The buffers of a shared receive queue: command capsules of all the connections of a thread come into them.
//!
//! Each entry is a small buffer for the command and a page-aligned one for the data behind it, so that in-capsule data lies as
//! stores like it. A pair is the device's from [`Receives::fill`] until its completion; nobody can reach it meanwhile. Data
//! that was received leaves as a [`Buf`], and a fresh buffer takes its place; where there is none, the entry waits, which
//! hosts see as "receiver not ready" and repeat.

use crate::memory::Keys;
use crate::work::Sge;
use caisson_block::{Buf, BufMut, Pool};
use caisson_wire::Sqe;
use caisson_wire::sqe::SQE_LEN;

/// A receive to be posted: its list is the command's buffer and then the data's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvWr {
    /// Comes back in its completion.
    pub id: u32,
    /// Its list.
    pub sges: [Sge; 2],
}

/// A capsule that came.
#[derive(Debug)]
pub struct Capsule {
    /// The command.
    pub sqe: Sqe,
    /// What came behind it, if anything did.
    pub inside: Option<Buf>,
}

struct Entry {
    head: BufMut,
    data: Option<BufMut>,
    lent: bool,
}

/// The receive buffers of one thread and device.
pub struct Receives {
    heads: Pool,
    data: Pool,
    entries: Vec<Entry>,
    /// Entries that are not posted.
    idle: Vec<u32>,
    /// Entries that have a data buffer.
    stocked: u32,
    /// The keys of the two pools, once they were asked for: a pool is registered as a whole, and stays so.
    keys: Option<[u32; 2]>,
}

impl Receives {
    /// `entries` receives of capsules with up to `in_capsule` bytes of data. Half as many data buffers again may be in the
    /// hands of commands before entries have to wait.
    ///
    /// # Errors
    /// The system's, when the address space cannot be mapped.
    pub fn new(entries: u32, in_capsule: usize) -> std::io::Result<Receives> {
        let heads = Pool::new(entries, SQE_LEN)?;
        let data = Pool::huge(entries + entries.div_ceil(2), in_capsule.max(64))?;
        let entries: Vec<Entry> = std::iter::from_fn(|| heads.alloc())
            .map(|head| Entry { head, data: None, lent: false })
            .collect();
        // The first go out first.
        let idle = (0..entries.len() as u32).rev().collect();
        Ok(Receives { heads, data, entries, idle, stocked: 0, keys: None })
    }

    /// The pools, to be registered.
    pub fn pools(&self) -> [&Pool; 2] {
        [&self.heads, &self.data]
    }

    /// Entries that the device has.
    pub fn posted(&self) -> u32 {
        (self.entries.len() - self.idle.len()) as u32
    }

    /// Data buffers in the hands of commands.
    pub fn held(&self) -> u32 {
        self.data.in_use().saturating_sub(self.stocked)
    }

    /// Entries in all.
    pub fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes receives of the entries that have buffers, at most `most`; they are lent from now on.
    pub fn fill(&mut self, keys: &dyn Keys, most: usize, out: &mut Vec<RecvWr>) {
        let known = self.keys.or_else(|| {
            let key = |pool: &Pool| {
                let (at, len) = pool.memory();
                keys.key(at, len)
            };
            Some([key(&self.heads)?, key(&self.data)?])
        });
        let Some([heads, datas]) = known else {
            debug_assert!(false, "the receive pools are registered before they are used");
            return;
        };
        self.keys = known;
        for _ in 0..most {
            let Some(&id) = self.idle.last() else { return };
            let entry = &mut self.entries[id as usize];
            if entry.data.is_none() {
                entry.data = self.data.alloc();
                self.stocked += u32::from(entry.data.is_some());
            }
            let Some(data) = &mut entry.data else { return };
            let sge = |buf: &mut BufMut, key| Sge {
                at: buf.as_mut_ptr().addr() as u64,
                len: buf.len() as u32,
                key,
            };
            let sges = [sge(&mut entry.head, heads), sge(data, datas)];
            entry.lent = true;
            self.idle.pop();
            out.push(RecvWr { id, sges });
        }
    }

    /// The device refused to take entry `id`, or has given it back without a message.
    pub fn give_back(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(id as usize)
            && std::mem::take(&mut entry.lent)
        {
            self.idle.push(id);
        }
    }

    /// A message of `len` bytes came into entry `id`. `None` where there is no such entry out, or the message is shorter than
    /// a command: the connection it came by is at fault then.
    pub fn take(&mut self, id: u32, len: u32) -> Option<Capsule> {
        let entry = self.entries.get_mut(id as usize).filter(|e| e.lent)?;
        entry.lent = false;
        self.idle.push(id);
        let inside = (len as usize).checked_sub(SQE_LEN)?;
        let sqe = Sqe::decode(&entry.head)?;
        if inside == 0 {
            // The data's buffer is as it was: it serves the next.
            return Some(Capsule { sqe, inside: None });
        }
        let mut data = entry.data.take()?;
        self.stocked -= 1;
        data.truncate(inside);
        Some(Capsule { sqe, inside: Some(data.freeze()) })
    }

    /// The receive queue is destroyed: whatever the device had is ours again.
    pub fn reclaim(&mut self) {
        for id in 0..self.entries.len() as u32 {
            self.give_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Regions;

    fn all(r: &Receives) -> Regions {
        Regions::new(r.pools().map(|p| {
            let (at, len) = p.memory();
            (at.addr(), len, 9)
        }))
    }

    #[test]
    fn entries_are_lent_and_come_back() {
        let mut r = Receives::new(4, 4096).unwrap();
        let keys = all(&r);
        let mut out = Vec::new();
        r.fill(&keys, 10, &mut out);
        assert_eq!((out.len(), r.posted()), (4, 4));
        assert!(out.iter().all(|w| w.sges[0].len == 64 && w.sges[1].len == 4096 && w.sges[1].at % 4096 == 0));
        // Too short for a command: no capsule, but the entry is back.
        assert!(r.take(out[0].id, 63).is_none() && r.posted() == 3);
        assert!(r.take(out[0].id, 64).is_none(), "not lent");
        assert!(r.take(99, 64).is_none());
        assert!(r.take(out[1].id, 64).unwrap().inside.is_none());
        // Data that is kept takes buffers away, until none is left and entries wait.
        let mut kept = Vec::new();
        let mut ids: Vec<u32> = out[2..].iter().map(|w| w.id).collect();
        loop {
            for id in ids.drain(..) {
                kept.push(r.take(id, 64 + 512).unwrap().inside.unwrap());
            }
            out.clear();
            r.fill(&keys, 10, &mut out);
            if out.is_empty() {
                break;
            }
            ids = out.iter().map(|w| w.id).collect();
        }
        assert_eq!(r.held(), 6);
        assert!(kept.len() == 6 && kept.iter().all(|b| b.len() == 512) && r.posted() == 0);
        drop(kept);
        r.fill(&keys, 10, &mut out);
        assert_eq!((r.posted(), r.held()), (4, 0));
        r.reclaim();
        assert_eq!(r.posted(), 0);
    }
}
