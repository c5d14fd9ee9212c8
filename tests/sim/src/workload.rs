//! The requests of a simulated host: of all kinds and sizes, over blocks that others write too.

use crate::content::{UNREADABLE, ZERO, fill};
use crate::model::Value;
use crate::subject::Subject;
use crate::world::{Kind, Pending, World};
use caisson_block::{Buf, BufList, Extent, Op};
use caisson_device::Buffers;

/// Bytes of the longest request.
const LONGEST: u64 = 256 << 10;

/// The bytes at an odd address: whether memory from the heap is aligned would differ from run to run.
fn odd(bytes: &[u8]) -> Buf {
    let mut all = Vec::with_capacity(bytes.len() + 1);
    all.push(0);
    all.extend_from_slice(bytes);
    let mut buf = Buf::from(all);
    buf.advance(1);
    buf
}

impl<S: Subject> World<S> {
    /// Some blocks of the volume; often the same ones.
    fn extent(&mut self, size: u64, block_size: u32) -> Extent {
        let per = 4096 / u64::from(block_size);
        let hot = if self.rng.below(3) > 0 { (8 * per).min(size) } else { size };
        let mut lba = self.rng.below(hot);
        let most = match self.rng.below(12) {
            0 => LONGEST / u64::from(block_size),
            1..4 => 16 * per,
            4..7 => 3 * per,
            7..9 => per,
            _ => 1,
        };
        let mut blocks = 1 + self.rng.below(most);
        // Whole 4 KiB blocks as often as not.
        if self.rng.below(2) == 0 {
            lba = lba / per * per;
            blocks = blocks.next_multiple_of(per);
        }
        Extent { lba, blocks: blocks.min(size - lba).min(LONGEST / u64::from(block_size)) }
    }

    /// New contents for the blocks: one for each 4 KiB.
    fn contents(&mut self, at: Extent, block_size: u32) -> Vec<u64> {
        let per = 4096 / u64::from(block_size);
        let mut out = Vec::with_capacity(at.blocks as usize);
        let mut now = ZERO;
        for lba in at.lba..at.lba + at.blocks {
            if out.is_empty() || lba % per == 0 {
                now = self.chooser.next(&mut self.rng);
            }
            out.push(now);
        }
        out
    }

    /// Data for the blocks from `lba` on, cut into buffers at odd places or even ones.
    fn data(&mut self, lba: u64, values: &[u64], block_size: u32) -> BufList {
        let size = block_size as usize;
        let per = 4096 / u64::from(block_size);
        let mut bytes = vec![0; values.len() * size];
        for ((block, value), lba) in bytes.chunks_mut(size).zip(values).zip(lba..) {
            fill(*value, lba % per, block);
        }
        let mut list = BufList::new();
        let aligned = Buffers::shared().ok().and_then(|b| b.take([bytes.len()]));
        match (self.rng.below(3), aligned) {
            // Aligned in memory, so that it is handed on as it is.
            (0, Some([mut taken])) => {
                for part in taken.drain() {
                    let Ok(mut part) = part.try_into_mut() else { continue };
                    let (from, n) = (list.len(), part.len());
                    part.copy_from_slice(&bytes[from..from + n]);
                    list.push(part.freeze());
                }
            }
            (1, _) => {
                let n = 1 + self.rng.below(3000) as usize;
                bytes.chunks(n).for_each(|c| list.push(odd(c)));
            }
            _ => list.push(odd(&bytes)),
        }
        list
    }

    /// What the blocks may be now, or something that they are not.
    fn guess(&mut self, name: u32, at: Extent) -> Vec<u64> {
        let now = self.model.tick();
        let guess = |lba| {
            let allowed = self.model.allowed(name, lba, now, now, 0);
            let pick = self.rng.below(allowed.len() as u64) as usize;
            let wrong = self.rng.below(30) == 0;
            let value = allowed.iter().copied().nth(pick).filter(|&v| v != UNREADABLE && !wrong);
            value.unwrap_or((1 << 60) | 0xABCDE)
        };
        (at.lba..at.lba + at.blocks).map(guess).collect()
    }

    fn begin_writes(&mut self, name: u32, id: u64, writes: &[Extent], values: &[u64]) {
        let blocks = writes.iter().flat_map(|e| e.lba..e.lba + e.blocks);
        for (i, lba) in blocks.enumerate() {
            let value = values.get(i).copied().unwrap_or(ZERO);
            self.model.begin(name, lba, id, Value::Of(value));
        }
    }

    /// Some request for a volume, begun in the model.
    pub(crate) fn some_request(&mut self, name: u32) -> Option<(Op, Pending)> {
        let v = self.model.volume(name)?;
        let (size, bs, read_only) = (v.size(), v.block_size, v.read_only);
        let start = self.model.tick();
        let id = self.model.next_id();
        let at = self.extent(size, bs);
        let fua = self.rng.below(4) == 0;
        let mut p = Pending {
            id,
            kind: Kind::Read,
            volume: name,
            expect: Vec::new(),
            values: Vec::new(),
            at,
            writes: Vec::new(),
            start,
            fua,
            after_fault: false,
        };
        let dice = if read_only { [0, 66, 77][self.rng.below(3) as usize] } else { self.rng.below(100) };
        let op = match dice {
            0..28 => Op::Read { at },
            28..60 => {
                (p.kind, p.writes, p.values) = (Kind::Write, vec![at], self.contents(at, bs));
                Op::Write { at, data: self.data(at.lba, &p.values, bs), fua }
            }
            60..66 => {
                p.kind = Kind::Flush;
                Op::Flush
            }
            66..68 => {
                p.kind = Kind::Verify;
                Op::Verify { at }
            }
            68..72 => {
                (p.kind, p.writes) = (Kind::Write, vec![at]);
                Op::WriteZeroes { at, deallocate: self.rng.below(2) == 0, fua }
            }
            72..77 => {
                let ranges = vec![at, self.extent(size, bs)];
                p.kind = Kind::Deallocate;
                if self.nature.deallocates {
                    p.writes.clone_from(&ranges);
                }
                Op::Deallocate { ranges }
            }
            77..81 => {
                (p.kind, p.expect) = (Kind::Compare, self.guess(name, at));
                Op::Compare { at, data: self.data(at.lba, &p.expect, bs) }
            }
            81..92 => {
                (p.kind, p.writes) = (Kind::Swap, vec![at]);
                (p.expect, p.values) = (self.guess(name, at), self.contents(at, bs));
                let expect = self.data(at.lba, &p.expect, bs);
                Op::CompareAndWrite { at, expect, data: self.data(at.lba, &p.values, bs), fua }
            }
            92..94 if self.nature.marks => {
                (p.kind, p.writes) = (Kind::Mark, vec![at]);
                p.values = vec![UNREADABLE; at.blocks as usize];
                Op::WriteUncorrectable { at }
            }
            _ => return self.copy(p, size, bs),
        };
        let (writes, values) = (p.writes.clone(), p.values.clone());
        self.begin_writes(name, id, &writes, &values);
        self.note(|| match p.values.len().min(8) {
            0 => format!("{id} {:?} v{name} {}+{} fua={fua}", p.kind, at.lba, at.blocks),
            n => {
                format!("{id} {:?} v{name} {}+{} fua={fua} {:x?}", p.kind, at.lba, at.blocks, &p.values[..n])
            }
        });
        Some((op, p))
    }

    fn copy(&mut self, mut p: Pending, size: u64, bs: u32) -> Option<(Op, Pending)> {
        // A content says where in its 4 KiB it stands, so it goes where it belongs.
        let per = 4096 / u64::from(bs);
        let mut from = vec![p.at, self.extent(size, bs)];
        from.truncate(1 + self.rng.below(2) as usize);
        if per > 1 {
            for e in &mut from {
                e.lba = e.lba / per * per;
                e.blocks = e.blocks.next_multiple_of(per).min((size - e.lba) / per * per);
            }
        }
        let total = from.iter().map(|e| e.blocks).sum::<u64>();
        if total == 0 || total > size || from.iter().any(|e| e.blocks == 0) {
            return None;
        }
        let to = self.rng.below((size - total) / per + 1) * per;
        let sources: Vec<u64> = from.iter().flat_map(|e| e.lba..e.lba + e.blocks).collect();
        for (source, lba) in sources.into_iter().zip(to..) {
            self.model.begin(p.volume, lba, p.id, Value::Copied(source));
        }
        p.kind = Kind::Write;
        p.at = Extent { lba: to, blocks: total };
        p.writes = vec![p.at];
        let (id, name, fua) = (p.id, p.volume, p.fua);
        self.note(|| format!("{id} Copy v{name} {from:?} to {to}"));
        Some((Op::Copy { to, from, fua }, p))
    }
}
