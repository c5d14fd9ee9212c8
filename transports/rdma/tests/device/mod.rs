//! A simulated device with a shared receive queue, queue pairs, and the memory of the hosts behind them.
//!
//! It reaches our memory by address, as a real one does, and only what was posted to it, from posting until completion.

use caisson_rdma::receive::RecvWr;
use caisson_rdma::{Batch, Op, Sge, WcStatus, Wr};
use std::collections::{HashMap, VecDeque};

/// A small generator: all there is of chance in a run.
pub struct Rng(pub u64);

impl Rng {
    /// The next number (SplitMix64).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Once in `n`.
    pub fn chance(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A completion.
pub struct Wc {
    pub pair: usize,
    pub what: What,
    pub status: WcStatus,
}

/// Of what.
pub enum What {
    Recv { id: u32, len: u32 },
    Send { id: u64 },
}

/// A request that the device has.
struct Posted {
    wr: Wr,
    list: Vec<Sge>,
    /// What it reads, as it was when it was posted.
    before: Vec<u8>,
}

#[derive(Default)]
struct Qp {
    posted: VecDeque<Posted>,
    /// Messages that wait for a receive.
    incoming: VecDeque<Vec<u8>>,
    failed: bool,
    destroyed: bool,
}

/// Memory of a host.
struct Region {
    pair: usize,
    bytes: Vec<u8>,
    valid: bool,
}

pub struct Device {
    rng: Rng,
    pub faulty: bool,
    /// RDMA READs may complete behind what was posted after them, as with iWARP.
    pub overtaking: bool,
    /// Hosts may name memory that is not theirs.
    pub hostile: bool,
    /// Receives of each host: responses that may be on their way to it.
    pub room: Vec<usize>,
    qps: Vec<Qp>,
    receives: Vec<RecvWr>,
    done: Vec<Wc>,
    regions: HashMap<u32, Region>,
    next_key: u32,
    responses: Vec<(usize, [u8; 16], Option<u32>)>,
}

fn write(at: u64, bytes: &[u8]) {
    // SAFETY: the run lies in what was posted and not completed, which nobody else touches: that is what is under test.
    unsafe {
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            std::ptr::with_exposed_provenance_mut(at as usize),
            bytes.len(),
        )
    }
}

fn read(list: &[Sge]) -> Vec<u8> {
    let mut out = Vec::new();
    for s in list {
        // SAFETY: as above; what is being read is not written by anybody.
        let part = unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(s.at as usize), s.len as usize)
        };
        out.extend_from_slice(part);
    }
    out
}

impl Device {
    pub fn new(pairs: usize, seed: u64) -> Device {
        Device {
            rng: Rng(seed),
            faulty: false,
            overtaking: false,
            hostile: false,
            room: vec![usize::MAX; pairs],
            qps: (0..pairs).map(|_| Qp::default()).collect(),
            receives: Vec::new(),
            done: Vec::new(),
            regions: HashMap::new(),
            next_key: 1,
            responses: Vec::new(),
        }
    }

    pub fn register(&mut self, pair: usize, bytes: Vec<u8>) -> u32 {
        self.next_key += 1;
        self.regions.insert(self.next_key, Region { pair, bytes, valid: true });
        self.next_key
    }

    /// Where a region starts in its host's addresses.
    pub fn base(&self, key: u32) -> u64 {
        u64::from(key) << 32
    }

    pub fn deregister(&mut self, key: u32) -> Vec<u8> {
        self.regions.remove(&key).expect("a region that is registered").bytes
    }

    pub fn send(&mut self, pair: usize, message: Vec<u8>) {
        self.qps[pair].incoming.push_back(message);
    }

    pub fn post_recv(&mut self, wr: RecvWr) {
        assert!(wr.sges.iter().all(|s| s.key != 0), "a receive without a key");
        self.receives.push(wr);
    }

    /// Takes a batch; how many of its last requests it refuses.
    pub fn post_send(&mut self, pair: usize, batch: &Batch) -> usize {
        assert!(batch.wrs.last().is_some_and(|w| w.signaled), "a batch ends with a completion");
        let refused =
            if self.faulty && self.rng.chance(40) { 1 + self.rng.below(batch.wrs.len()) } else { 0 };
        for wr in &batch.wrs[..batch.wrs.len() - refused] {
            let list = batch.list(wr).to_vec();
            assert!(list.iter().all(|s| s.key != 0 && s.len > 0), "a list entry without a key");
            let before = if matches!(wr.op, Op::Read { .. }) { Vec::new() } else { read(&list) };
            self.qps[pair].posted.push_back(Posted { wr: *wr, list, before });
        }
        let sends = self.qps[pair].posted.iter().filter(|p| matches!(p.wr.op, Op::Send { .. })).count();
        assert!(sends <= self.room[pair], "more responses than the host has receives for");
        refused
    }

    pub fn dead(&self, pair: usize) -> bool {
        self.qps[pair].failed
    }

    /// Moves the queue pair to its error state.
    pub fn fail(&mut self, pair: usize) {
        self.qps[pair].failed = true;
        self.qps[pair].incoming.clear();
    }

    pub fn destroy(&mut self, pair: usize) {
        assert!(self.qps[pair].posted.is_empty());
        self.qps[pair].destroyed = true;
    }

    pub fn destroy_receives(&mut self) {
        self.receives.clear();
    }

    /// Does a piece of work on some queue pair.
    pub fn step(&mut self) {
        let pair = self.rng.below(self.qps.len());
        if self.faulty && !self.qps[pair].failed && self.rng.chance(600) {
            self.fail(pair);
        }
        if self.rng.chance(2) {
            self.receive(pair);
        } else {
            self.execute(pair);
        }
    }

    fn receive(&mut self, pair: usize) {
        if self.qps[pair].failed || self.receives.is_empty() {
            return;
        }
        let Some(message) = self.qps[pair].incoming.pop_front() else { return };
        // Receives are taken in any order: their entries are all alike.
        let at = self.rng.below(self.receives.len());
        let wr = self.receives.swap_remove(at);
        if self.faulty && self.rng.chance(80) {
            self.fail(pair);
            let what = What::Recv { id: wr.id, len: 0 };
            self.done.push(Wc { pair, what, status: WcStatus::Flushed });
            return;
        }
        let mut left = &message[..];
        for s in wr.sges {
            let n = left.len().min(s.len as usize);
            write(s.at, &left[..n]);
            left = &left[n..];
        }
        assert!(left.is_empty(), "a message that fits");
        let what = What::Recv { id: wr.id, len: message.len() as u32 };
        self.done.push(Wc { pair, what, status: WcStatus::Success });
    }

    fn execute(&mut self, pair: usize) {
        let posted = &mut self.qps[pair].posted;
        // RDMA READs stay in order among themselves.
        let other = posted.iter().position(|p| !matches!(p.wr.op, Op::Read { .. }));
        let overtakes = self.overtaking && self.rng.chance(2);
        let Some(p) = posted.remove(other.filter(|_| overtakes).unwrap_or(0)) else { return };
        let id = p.wr.id;
        if self.qps[pair].failed {
            self.done.push(Wc { pair, what: What::Send { id }, status: WcStatus::Flushed });
            return;
        }
        let mut status = WcStatus::Success;
        if self.faulty && self.rng.chance(60) {
            status =
                [WcStatus::RemoteAccess, WcStatus::Retries, WcStatus::ReceiverNotReady][self.rng.below(3)];
        } else if !self.allows(pair, &p) {
            status = WcStatus::RemoteAccess;
        } else {
            match p.wr.op {
                Op::Read { address, key } => self.fetch(pair, address, key, &p.list),
                Op::Write { address, key } => {
                    let bytes = read(&p.list);
                    assert!(bytes == p.before, "what the device reads was changed");
                    let region = self.regions.get_mut(&key).expect("a key of a host");
                    assert!(region.valid && region.pair == pair);
                    let at = (address - (u64::from(key) << 32)) as usize;
                    region.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Op::Send { inline, invalidate } => {
                    let mut cqe = inline;
                    if !p.list.is_empty() {
                        let bytes = read(&p.list);
                        assert!(bytes == p.before, "what the device reads was changed");
                        cqe.copy_from_slice(&bytes);
                    }
                    if let Some(key) = invalidate {
                        self.regions.get_mut(&key).expect("a key of a host").valid = false;
                    }
                    self.responses.push((pair, cqe, invalidate));
                }
            }
        }
        if status != WcStatus::Success {
            self.fail(pair);
        }
        if p.wr.signaled || status != WcStatus::Success {
            self.done.push(Wc { pair, what: What::Send { id }, status });
        }
    }

    /// Whether the memory that a request names is that host's, all of it.
    fn allows(&self, pair: usize, p: &Posted) -> bool {
        let (Op::Read { address, key } | Op::Write { address, key }) = p.wr.op else { return true };
        let len: usize = p.list.iter().map(|s| s.len as usize).sum();
        let inside = |r: &Region| {
            let at = address.checked_sub(u64::from(key) << 32).map(|at| at as usize);
            r.valid && r.pair == pair && at.is_some_and(|at| at + len <= r.bytes.len())
        };
        let allowed = self.regions.get(&key).is_some_and(inside);
        assert!(allowed || self.hostile, "a request names what its host did not");
        allowed
    }

    fn fetch(&mut self, pair: usize, address: u64, key: u32, list: &[Sge]) {
        let region = self.regions.get(&key).expect("a key of a host");
        assert!(region.valid && region.pair == pair);
        let mut at = (address - (u64::from(key) << 32)) as usize;
        for s in list {
            let n = s.len as usize;
            write(s.at, &region.bytes[at..at + n]);
            at += n;
        }
    }

    /// Writes nonsense to what it may write to.
    pub fn scribble(&mut self) {
        let noise: Vec<u8> = (0..64).map(|_| self.rng.next() as u8).collect();
        let mut over = |s: &Sge| write(s.at, &noise[..noise.len().min(s.len as usize)]);
        for r in &self.receives {
            r.sges.iter().for_each(&mut over);
        }
        for p in self.qps.iter().flat_map(|q| &q.posted).filter(|p| matches!(p.wr.op, Op::Read { .. })) {
            p.list.iter().for_each(&mut over);
        }
    }

    /// Some of the completions, those of one queue pair in their order.
    pub fn poll(&mut self) -> Vec<Wc> {
        let some = self.rng.below(self.done.len() + 1);
        self.done.drain(..some).collect()
    }

    pub fn responses(&mut self) -> Vec<(usize, [u8; 16], Option<u32>)> {
        std::mem::take(&mut self.responses)
    }
}
