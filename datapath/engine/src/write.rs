//! Writing blocks: zero test, fingerprint, duplicate, compression, publication.
//!
//! What is heavy is done first, a few blocks at a turn, without the lock; then the whole chunk is published under it in
//! one step (`publish`). Publication looks again at everything that was found before without the lock: a duplicate may be gone, and
//! another writer may have published the same content first. What a crash leaves of a chunk is all of it or nothing.

mod publish;

use self::publish::live_now;
use crate::bounds::*;
use crate::domains::Tenant;
use crate::gather::{self, Company, Few};
use crate::packed::Packed;
use crate::state::Inner;
use crate::work::{Block, Blocks};
use caisson_block::{BLOCK, BlockError, BufList, fetch};
use caisson_codec::{Level, Marks, is_zero};
use caisson_fingerprint::{Fingerprint, FingerprintKey};
use caisson_index::{Answer, Candidate, print_of};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{BlockId, Change, Slot, VolumeId};
use caisson_task::{Pace, Port};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// The first 16 bytes of a fingerprint: what is stored and compared.
pub(crate) type Print = [u8; 16];

/// How a volume wants its blocks kept.
#[derive(Clone, Copy)]
pub(crate) struct Ways<'a> {
    /// Whose they are.
    pub(crate) tenant: &'a Tenant,
    pub(crate) level: Option<Level>,
    pub(crate) dedup: bool,
    pub(crate) verify: bool,
}

/// Where a write goes.
#[derive(Clone, Copy)]
pub(crate) struct To<'a> {
    pub(crate) volume: VolumeId,
    /// The first block.
    pub(crate) first: u64,
    /// Of small writes to the volume.
    pub(crate) company: &'a Company,
    /// The blocks that have marked sectors, whose bytes do not count.
    pub(crate) marked: &'a [(usize, Marks)],
}

/// What is to become of one block.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Zero,
    /// Found in the index; to be looked at again.
    Known(Known),
    /// The same as an earlier block of this chunk.
    Twin(usize),
    /// Stored: codec, and where its bytes are in [`Chunk::bytes`].
    New {
        codec: u8,
        from: usize,
        len: usize,
    },
}

/// A stored block that the index named.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known {
    /// In a batch that was still open: the id, and the batch. Without it, another block that was given the same id meanwhile
    /// would be taken for this one.
    Pending(u64, u64),
    /// At its place.
    At(Candidate),
}

/// A chunk on its way.
#[derive(Default)]
struct Chunk {
    plans: Vec<Plan>,
    prints: Vec<Print>,
    /// Which blocks are zero: as bits, a number for each [`PRINT_BLOCKS`].
    zero: Vec<u64>,
    bytes: Packed,
    /// What the index says of each.
    known: Vec<Option<Known>>,
    /// How many prints' places in the index were fetched, those of the second look.
    warm: usize,
    /// What the index had learnt before the first of them was looked up.
    seen: Option<u64>,
    /// Ids that were allocated for it and not used yet.
    ids: Vec<BlockId>,
    /// How many of its blocks were stored, when it is published, and the bytes of them.
    stored: u64,
    stored_bytes: u64,
    /// For the attempt to publish: what the map is to have, which blocks are stored, and the changes.
    slots: Vec<Slot>,
    new: Vec<usize>,
    journal: Vec<Change>,
}

thread_local! {
    /// Getting their memory and giving it back each time would cost as much as sealing what is in it.
    static SPARE: RefCell<Vec<Chunk>> = const { RefCell::new(Vec::new()) };
}

impl Chunk {
    /// An empty one.
    fn take() -> Chunk {
        SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    /// Its memory is there for another one.
    fn give_back(mut self) {
        self.plans.clear();
        self.prints.clear();
        self.zero.clear();
        self.bytes.clear();
        self.known.clear();
        self.warm = 0;
        self.seen = None;
        self.ids.clear();
        self.slots.clear();
        self.new.clear();
        self.journal.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_CHUNKS {
                spare.push(self);
            }
        });
    }
}

/// What came of an attempt to publish.
enum Published {
    /// With this batch it is durable.
    In(u64),
    /// Block `i` is no duplicate any more, or for its bytes never was.
    Stale(usize),
    /// The log or the pool has no room now.
    Wait,
    Full,
    /// The domain's key is being destroyed.
    Gone,
}

/// Writes whole blocks, which the caller has claimed alone. Gives the batch that they are durable with.
///
/// # Errors
/// [`BlockError::CapacityExceeded`], [`BlockError::Failed`], [`BlockError::Unreadable`] when a page of the map is lost.
pub(crate) async fn write(
    inner: &Arc<Inner>,
    port: &Port,
    to: To<'_>,
    data: &BufList,
    ways: Ways<'_>,
) -> Result<u64, BlockError> {
    let To { volume, first, .. } = to;
    let count = data.len() / caisson_block::BLOCK;
    let mut batch = 0;
    for from in (0..count).step_by(inner.chunk) {
        let blocks = inner.chunk.min(count - from);
        let mut chunk = Chunk::prepare(inner, port, (data, from, blocks), to, ways).await?;
        batch = chunk.publish(inner, port, volume, first + from as u64, (data, from), ways).await?;
        chunk.give_back();
    }
    Ok(batch)
}

impl Chunk {
    /// The heavy part.
    async fn prepare(
        inner: &Arc<Inner>,
        port: &Port,
        (data, from, count): (&BufList, usize, usize),
        To { company, marked, .. }: To<'_>,
        ways: Ways<'_>,
    ) -> Result<Chunk, BlockError> {
        let keys = ways.tenant.prints().ok_or(BlockError::KeyDestroyed)?;
        let mut fetches = FETCHES_PER_CHUNK;
        let mut pace = Pace::new(port, count > TURN_BLOCKS, SLICE_WORK);
        let work = work(ways.level);
        let mut reader = Blocks::new(data);
        pace.spend(PRINT_BLOCKS.min(count) as u32 * PRINT_WORK).await;
        // Not before its turn: then it is the memory of who ended last, and still in the processor's caches.
        let mut chunk = Chunk::take();
        chunk.prints.resize(count, [0; 16]);
        chunk.known.resize(count, None);
        let mut met = [0; 4];
        reader.fetch_fronts(from..from + PRINT_BLOCKS.min(count));
        for group in (0..count).step_by(PRINT_BLOCKS) {
            let blocks = PRINT_BLOCKS.min(count - group);
            if group > 0 {
                pace.spend(blocks as u32 * PRINT_WORK).await;
            }
            // Those of the next ones, while these are hashed.
            reader.fetch_fronts(from + group + blocks..from + count.min(group + 2 * PRINT_BLOCKS));
            let zero = if count <= TURN_BLOCKS && ways.dedup && company.expected() {
                chunk.print_in_company((inner, port, &keys), &mut reader, (from, count), company).await
            } else {
                chunk.print(&keys, &mut reader, from, group..group + blocks, ways)
            };
            chunk.zero.push(zero);
            if on(Bug::AlikePrints) {
                chunk.prints[group..group + blocks].iter_mut().for_each(alike);
            }
            if count > 1 && ways.dedup {
                chunk.warm(inner, group..group + blocks);
            }
        }
        if ways.dedup {
            for group in (0..count).step_by(PRINT_BLOCKS) {
                let blocks = PRINT_BLOCKS.min(count - group);
                chunk.look(inner, port, group..group + blocks, (&mut fetches, &mut pace)).await;
            }
        }
        if count > TURN_BLOCKS {
            chunk.bytes.reserve(count);
        }
        // All that is to be compressed in one go: what that takes of the caches, it takes once.
        for index in 0..count {
            let plan = if let Some((_, marks)) = marked.iter().find(|m| m.0 == from + index) {
                chunk.store_marked(index, reader.get(from + index), *marks)
            } else if chunk.is_zero(index) {
                Plan::Zero
            } else if let Some(known) = chunk.known[index] {
                Plan::Known(known)
            } else if let Some(twin) = chunk.twin(index, &mut met, ways) {
                Plan::Twin(twin)
            } else {
                pace.spend(work).await;
                chunk.store(reader.get(from + index), ways.level)
            };
            chunk.plans.push(plan);
        }
        pace.rest();
        if ways.verify {
            chunk.verify(inner, port, data, from, ways).await?;
        }
        Ok(chunk)
    }

    /// Fingerprints of blocks that are looked up together. Gives those that are zero, as bits.
    fn print(
        &mut self,
        keys: &FingerprintKey,
        reader: &mut Blocks<'_>,
        from: usize,
        group: Range<usize>,
        ways: Ways<'_>,
    ) -> u64 {
        let mut zero = 0;
        let mut together = [&[0; BLOCK]; PRINT_BLOCKS];
        let mut which = [0; PRINT_BLOCKS];
        let mut n = 0;
        for index in group.clone() {
            let single = reader.single(from + index);
            let block = single.unwrap_or_else(|| reader.get(from + index));
            if is_zero(block) {
                zero |= 1 << (index - group.start);
            } else if !ways.dedup {
            } else if let Some(block) = single {
                (together[n], which[n]) = (block, index);
                n += 1;
            } else {
                self.prints[index] = print_of(&Fingerprint::of(keys, block));
            }
        }
        keys.of_many(&together[..n], |i, f| self.prints[which[i]] = print_of(&f));
        zero
    }

    /// As [`Chunk::print`], of all blocks of a small write, together with those of others.
    async fn print_in_company(
        &mut self,
        (inner, port, keys): (&Arc<Inner>, &Port, &Arc<FingerprintKey>),
        reader: &mut Blocks<'_>,
        (from, count): (usize, usize),
        company: &Company,
    ) -> u64 {
        let mut zero = 0;
        let mut few = Few::default();
        for (index, own) in few.iter_mut().enumerate().take(count) {
            let single = reader.single_buf(from + index);
            let block = reader.get(from + index);
            if is_zero(block) {
                zero |= 1 << index;
            } else if single.is_some() {
                *own = single;
            } else {
                self.prints[index] = print_of(&Fingerprint::of(keys, block));
            }
        }
        let which: [bool; TURN_BLOCKS] = std::array::from_fn(|i| few[i].is_some());
        if which.contains(&true) {
            let prints = gather::prints((inner, port, keys), company, few).await;
            (0..count).filter(|&i| which[i]).for_each(|i| self.prints[i] = prints[i]);
        }
        zero
    }

    /// An earlier block of the chunk with the same content. `met`: bits of the fingerprints that were looked for so far.
    fn twin(&self, index: usize, met: &mut [u64; 4], ways: Ways<'_>) -> Option<usize> {
        if !ways.dedup || ways.verify {
            return None;
        }
        let print = self.prints[index];
        let (word, bit) = (usize::from(print[0] & 3), 1u64 << (print[1] & 63));
        // Where none so far had these bits, there is none to look for.
        let seen = met[word] & bit != 0;
        met[word] |= bit;
        if seen { self.prints[..index].iter().position(|earlier| *earlier == print) } else { None }
    }

    /// Whether a block that was hashed, or was not since it is, is zero.
    fn is_zero(&self, index: usize) -> bool {
        self.zero[index / PRINT_BLOCKS] & (1 << (index % PRINT_BLOCKS)) != 0
    }

    /// Has fetched what the index will be looked at first for the blocks of `group`, which have been hashed; and what it will be looked at next
    /// for those before, for which the first has come meanwhile.
    fn warm(&mut self, inner: &Inner, group: Range<usize>) {
        let before = std::mem::replace(&mut self.warm, group.start)..group.start;
        let state = inner.lock();
        state.index.warm(&self.prints[group], fetch);
        state.index.warm_next(&self.prints[before], fetch);
    }

    /// Looks for duplicates of the blocks of `group`, and reads a bounded number of summaries for that.
    async fn look(
        &mut self,
        inner: &Arc<Inner>,
        port: &Port,
        group: Range<usize>,
        (fetches, pace): (&mut usize, &mut Pace<'_>),
    ) {
        loop {
            let mut wanted = None;
            {
                let mut state = inner.lock();
                self.seen = self.seen.or_else(|| Some(state.index.changes()));
                let next = self.warm.min(group.end)..group.end;
                self.warm = self.warm.max(group.end);
                state.index.warm_next(&self.prints[next], fetch);
                state.index.warm_last(&self.prints[group.clone()], fetch);
                for index in group.clone() {
                    let zero = self.is_zero(index);
                    let (slot, print) = (&mut self.known[index], &self.prints[index]);
                    if slot.is_some() || zero {
                        continue;
                    }
                    match state.index.lookup(print) {
                        Answer::Hit(candidate) => *slot = Some(Known::At(candidate)),
                        Answer::Pending(id) => *slot = Some(Known::Pending(id, state.log.open())),
                        Answer::Fetch(at) => wanted = wanted.or(Some(at)),
                        Answer::Miss => {}
                    }
                    if on(Bug::CheckedEarly) && slot.is_some_and(|k| !live_now(&mut state, k, print)) {
                        *slot = None;
                    }
                }
            }
            match wanted {
                Some(at) if *fetches > 0 => {
                    *fetches -= 1;
                    pace.rest();
                    crate::summary::fetch(inner, port, at).await;
                }
                _ => return,
            }
        }
    }

    /// Keeps a block's bytes.
    fn store(&mut self, block: &Block, level: Option<Level>) -> Plan {
        let (codec, from, len) = self.bytes.push(block, level);
        Plan::New { codec: codec.number(), from, len }
    }

    /// Keeps a block that has marked sectors. Nobody finds it as a duplicate: only here do its bytes stand for less than themselves.
    fn store_marked(&mut self, index: usize, block: &Block, marks: Marks) -> Plan {
        if !on(Bug::MarkedIsShared) {
            self.prints[index] = [0; 16];
        }
        let (codec, from, len) = self.bytes.push_marked(block, marks);
        Plan::New { codec: codec.number(), from, len }
    }

    /// Reads what the duplicates are duplicates of, and compares. Where the bytes differ, the block is stored.
    async fn verify(
        &mut self,
        inner: &Arc<Inner>,
        port: &Port,
        data: &BufList,
        from: usize,
        ways: Ways<'_>,
    ) -> Result<(), BlockError> {
        for index in 0..self.plans.len() {
            let Plan::Known(known) = self.plans[index] else { continue };
            let stored = crate::summary::read_known(inner, port, known, ways.tenant.domain).await?;
            let mut reader = Blocks::new(data);
            let block = reader.get(from + index);
            if stored.is_none_or(|stored| stored[..] != block[..]) {
                self.plans[index] = self.store(block, ways.level);
                // A differing block under the same print is never to be found by that print.
                self.prints[index] = [0; 16];
            }
        }
        Ok(())
    }
}

/// The work of keeping a block, in the units of [`SLICE_WORK`].
fn work(level: Option<Level>) -> u32 {
    match level {
        None => STORE_WORK,
        Some(level) if level.number() <= EASY_LEVEL => PACK_WORK,
        Some(_) => HARD_PACK_WORK,
    }
}

impl Known {
    /// The number of its id.
    fn number(self) -> u64 {
        match self {
            Known::Pending(id, _) => id,
            Known::At(candidate) => candidate.id,
        }
    }
}

/// What is left of a fingerprint under [`Bug::AlikePrints`]. All zero would mean that there is none.
fn alike(print: &mut Print) {
    if *print != [0; 16] {
        *print = [1 + print[0] % 16; 16];
    }
}
